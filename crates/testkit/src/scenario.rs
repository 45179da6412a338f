//! Runs a scenario folder: `guideway replay` over `in.pcap`, and its outcome against `expect.json` and `expect.pcap`.
//!
//! The expectation was written by scapy (gen.py in the folder). Bytes are compared one by one; a scenario names in
//! `masks` the few fields that no RFC fixes, and a masked field is still checked for validity.

use crate::frames::internet_checksum;
use crate::outer::{check_transport, outer};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folders below `root` that hold a scenario, sorted by name.
///
/// # Errors
/// `root` cannot be read.
pub fn folders(root: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(root)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.join("expect.json").is_file())
        .collect();
    all.sort();
    Ok(all)
}

/// Runs one scenario twice (the second run must give the same bytes) and returns what differs from the expectation;
/// an empty list is success. `scratch` is an existing directory for outputs.
///
/// # Errors
/// The folder's files cannot be read, or the program cannot be started.
pub fn run(guideway: &Path, folder: &Path, scratch: &Path) -> Result<Vec<String>, String> {
    let read = |name: &str| std::fs::read(folder.join(name)).map_err(|e| format!("{name}: {e}"));
    let expect: Value =
        serde_json::from_slice(&read("expect.json")?).map_err(|e| format!("expect.json: {e}"))?;
    let first = replay(guideway, folder, scratch, "first", &expect)?;
    let second = replay(guideway, folder, scratch, "second", &expect)?;
    let mut faults = Vec::new();
    if first.out != second.out || first.punt != second.punt || first.report != second.report {
        faults.push("two runs over one input differ".to_owned());
    }
    compare_report(&first.report, &expect, &mut faults);
    let masks: Vec<&str> =
        expect["masks"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if folder.join("expect.pcap").exists() {
        let wanted = frames_of(&read("expect.pcap")?)?;
        compare_frames("out", &frames_of(&first.out)?, &wanted, &masks, &mut faults);
    } else if frames_of(&first.out)?.len() as u64 != expect["tx"].as_u64().unwrap_or_default() {
        faults.push("number of frames in the output".to_owned());
    }
    compare_frames("punt", &frames_of(&first.punt)?, &frames_of(&read("punt.pcap")?)?, &[], &mut faults);
    Ok(faults)
}

struct ReplayOutput {
    out: Vec<u8>,
    punt: Vec<u8>,
    report: Value,
}

fn replay(
    guideway: &Path,
    folder: &Path,
    scratch: &Path,
    turn: &str,
    expect: &Value,
) -> Result<ReplayOutput, String> {
    let (out, punt) = (scratch.join(format!("{turn}-out.pcap")), scratch.join(format!("{turn}-punt.pcap")));
    let mut command = Command::new(guideway);
    command.arg("replay").arg("--config").arg(folder.join("guideway.toml"));
    command.arg("--in").arg(folder.join("in.pcap"));
    command.arg("--out").arg(&out).arg("--punt").arg(&punt).arg("--per-frame");
    command.args(expect["args"].as_array().into_iter().flatten().filter_map(Value::as_str));
    let done = command.output().map_err(|e| format!("{}: {e}", guideway.display()))?;
    if !done.status.success() {
        return Err(format!("replay: {}: {}", done.status, String::from_utf8_lossy(&done.stderr).trim()));
    }
    let report =
        serde_json::from_slice(&done.stdout).map_err(|e| format!("standard output is not JSON: {e}"))?;
    let read = |path: &Path| std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()));
    Ok(ReplayOutput { out: read(&out)?, punt: read(&punt)?, report })
}

fn frames_of(pcap: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut reader = pcap_file::pcap::PcapReader::new(pcap).map_err(|e| format!("pcap header: {e}"))?;
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet() {
        frames.push(packet.map_err(|e| format!("pcap record {}: {e}", frames.len()))?.data.into_owned());
    }
    Ok(frames)
}

fn compare_report(report: &Value, expect: &Value, faults: &mut Vec<String>) {
    for key in ["rx", "tx", "originated", "punted", "relayed", "held"] {
        if report[key] != expect[key] {
            faults.push(format!("{key}: {} instead of {}", report[key], expect[key]));
        }
    }
    let nonzero = |v: &Value| -> BTreeMap<String, u64> {
        v.as_object()
            .into_iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.as_u64().unwrap_or_default()))
            .filter(|(_, n)| *n > 0)
            .collect()
    };
    let (got, want) = (nonzero(&report["dropped"]), nonzero(&expect["dropped"]));
    if got != want {
        faults.push(format!("dropped: {got:?} instead of {want:?}"));
    }
    let frames = report["frames"].as_array().map(Vec::as_slice).unwrap_or_default();
    let wanted = expect["frames"].as_array().map(Vec::as_slice).unwrap_or_default();
    if frames.len() != wanted.len() {
        faults.push(format!("{} per-frame entries instead of {}", frames.len(), wanted.len()));
    }
    for (got, want) in frames.iter().zip(wanted) {
        for (key, value) in want.as_object().into_iter().flatten() {
            if got[key] != *value {
                faults.push(format!("frame {}: {key} {} instead of {value}", want["index"], got[key]));
            }
        }
    }
    let mut backends = Vec::new();
    for group in expect["groups"].as_array().into_iter().flatten() {
        let members: Vec<u64> = group.as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
        let of = |i: &u64| usize::try_from(*i).ok().and_then(|i| frames.get(i)).map(|f| &f["backend"]);
        let first = members.first().and_then(of);
        backends.push(first.cloned());
        if first.is_none_or(Value::is_null) || members.iter().any(|i| of(i) != first) {
            faults.push(format!("frames {members:?} do not share a backend"));
        }
    }
    if backends.len() > 4 && backends.iter().all(|b| *b == backends[0]) {
        faults.push("all groups met one backend: nothing was balanced".to_owned());
    }
}

fn compare_frames(what: &str, got: &[Vec<u8>], want: &[Vec<u8>], masks: &[&str], faults: &mut Vec<String>) {
    if got.len() != want.len() {
        faults.push(format!("{what}: {} frames instead of {}", got.len(), want.len()));
    }
    let masked = |frames: &[Vec<u8>], faults: &mut Vec<String>| -> Vec<Vec<u8>> {
        let mut all: Vec<Vec<u8>> = frames.to_vec();
        for (i, frame) in all.iter_mut().enumerate() {
            if what == "out"
                && let Err(e) = mask(frame, masks)
            {
                faults.push(format!("{what} frame {i}: {e}"));
            }
        }
        if masks.contains(&"order") {
            all.sort();
        }
        all
    };
    let (got, want) = (masked(got, faults), masked(want, faults));
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        if got != want {
            let at = got.iter().zip(want).position(|(a, b)| a != b).unwrap_or(got.len().min(want.len()));
            faults.push(format!(
                "{what} frame {i}: {} bytes instead of {}, first difference at byte {at}\n  got  {}\n  want \
                 {}",
                got.len(),
                want.len(),
                hex(got, at),
                hex(want, at)
            ));
        }
    }
}

/// Checks a frame and sets the fields that `masks` names to zero.
fn mask(frame: &mut Vec<u8>, masks: &[&str]) -> Result<(), String> {
    let o = outer(frame)?;
    let v4 = o.src.is_ipv4();
    let tunnel = matches!(o.protocol, 4 | 41 | 47 | 17);
    for name in masks {
        match *name {
            "order" => {}
            "flow_label" if !v4 => {
                frame[o.l3 + 1] &= 0xf0;
                frame[o.l3 + 2..o.l3 + 4].fill(0);
            }
            "udp_source_port" if o.protocol == 17 => {
                if frame[o.l4..o.l4 + 2] == [0, 0] && frame[o.l4 + 6..o.l4 + 8] != [0, 0] {
                    return Err("UDP source port is 0".to_owned());
                }
                check_transport(frame, &o)?;
                frame[o.l4..o.l4 + 2].fill(0);
            }
            "udp_checksum" if o.protocol == 17 => frame[o.l4 + 6..o.l4 + 8].fill(0),
            "ipv4_id" if v4 && !tunnel => frame[o.l3 + 4..o.l3 + 6].fill(0),
            "ipv4_dont_fragment" if v4 && !tunnel => frame[o.l3 + 6] &= !0x40,
            "originated_tos" if !tunnel => {
                if v4 {
                    frame[o.l3 + 1] = 0;
                } else {
                    frame[o.l3] &= 0xf0;
                    frame[o.l3 + 1] &= 0x0f;
                }
            }
            "quote_length" if is_icmp_error(frame, &o) => {
                check_transport(frame, &o)?;
                let quoted = if v4 { 28 } else { 48 };
                if o.end < o.l4 + 8 + quoted {
                    return Err(format!("quotes {} bytes, {quoted} are the least", o.end - o.l4 - 8));
                }
                if o.end - o.l3 > if v4 { 576 } else { 1280 } {
                    return Err(format!("ICMP error of {} bytes", o.end - o.l3));
                }
                frame.truncate(o.l4 + 8 + quoted);
                frame[o.l4 + 2..o.l4 + 4].fill(0);
                let length_at = if v4 { o.l3 + 2 } else { o.l3 + 4 };
                frame[length_at..length_at + 2].fill(0);
            }
            "flow_label" | "udp_source_port" | "udp_checksum" | "ipv4_id" | "ipv4_dont_fragment"
            | "originated_tos" | "quote_length" => {}
            other => return Err(format!("expect.json names an unknown mask {other}")),
        }
    }
    if v4 && !masks.is_empty() {
        // The checksum was right; after masking it is made right again, so that only real differences remain.
        frame[o.l3 + 10..o.l3 + 12].fill(0);
        let check = internet_checksum(&frame[o.l3..o.l4]);
        frame[o.l3 + 10..o.l3 + 12].copy_from_slice(&check.to_be_bytes());
    }
    Ok(())
}

fn is_icmp_error(frame: &[u8], o: &crate::outer::FrameLayout) -> bool {
    let kind = frame.get(o.l4).copied().unwrap_or_default();
    match o.protocol {
        1 => matches!(kind, 3 | 11 | 12),
        58 => kind < 128,
        _ => false,
    }
}

fn hex(bytes: &[u8], around: usize) -> String {
    let from = around.saturating_sub(8);
    let to = (around + 24).min(bytes.len());
    let body: Vec<String> =
        bytes.get(from..to).unwrap_or_default().iter().map(|b| format!("{b:02x}")).collect();
    format!("[{from}..] {}", body.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::{PacketBuilder, flags};

    #[test]
    fn a_difference_outside_the_masks_is_found() {
        let frame = PacketBuilder::tcp("198.51.100.7", "203.0.113.10", flags::SYN).build();
        let mut other = PacketBuilder::tcp("198.51.100.7", "203.0.113.10", flags::SYN);
        other.id = 99;
        let other = other.build();
        let mut faults = Vec::new();
        compare_frames(
            "out",
            std::slice::from_ref(&frame),
            std::slice::from_ref(&other),
            &["ipv4_id"],
            &mut faults,
        );
        assert_eq!(faults, Vec::<String>::new());
        compare_frames("out", &[frame], &[other], &["originated_tos"], &mut faults);
        assert_eq!(faults.len(), 1);
    }

    #[test]
    fn a_masked_field_is_still_checked() {
        let mut frame = PacketBuilder::udp("198.51.100.7", "203.0.113.10").build();
        frame[24] ^= 1;
        assert!(mask(&mut frame, &["ipv4_id"]).is_err());
    }
}
