//! Writes the named seeds of the fuzz targets below the directory given (`cargo xtask seeds`).

use std::path::Path;
use testkit::bench::{config_text, good_frames};
use testkit::check::health_seeds;
use testkit::malformed::corpus;
use testkit::peers::{pieces_seeds, statesync_seeds};

fn main() -> std::io::Result<()> {
    let Some(root) = std::env::args_os().nth(1) else {
        eprintln!("usage: seeds DIRECTORY");
        std::process::exit(2);
    };
    let root = Path::new(&root);
    frames(&root.join("frame"))?;
    configs(&root.join("config"))?;
    for (target, seeds) in [
        ("agent", control::agent_seeds()),
        ("statesync", statesync_seeds()),
        ("pieces", pieces_seeds()),
        ("store", control::store_seeds()),
        ("state", control::state_seeds()),
        ("netlink", control::netlink_seeds()),
        ("health", health_seeds()),
    ] {
        let directory = root.join(target);
        std::fs::create_dir_all(&directory)?;
        for (name, seed) in seeds {
            std::fs::write(directory.join(format!("{name}.bin")), seed)?;
        }
    }
    captures(&root.join("replay"))
}

/// A record of `testkit::check::check_steps`.
fn record(control: u8, frame: &[u8]) -> Vec<u8> {
    let len = u16::try_from(frame.len()).expect("a frame");
    [&[control][..], &len.to_le_bytes(), frame].concat()
}

fn frames(directory: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let good = good_frames();
    for (i, (name, frame)) in good.iter().enumerate() {
        let number = u8::try_from(i).expect("few frames");
        std::fs::write(directory.join(format!("good_{i:02}_{name}.bin")), record(0, frame))?;
        std::fs::write(
            directory.join(format!("patched_{i:02}_{name}.bin")),
            record(0xc0, &[number, 22, 0, 1]),
        )?;
    }
    let all: Vec<u8> = good.iter().flat_map(|(_, f)| record(0, f)).collect();
    std::fs::write(directory.join("good_all.bin"), all)?;
    let mixed: Vec<u8> = (0_u8..)
        .zip(&good)
        .flat_map(|(i, (_, f))| record(i & 1 | (i % 8) << 1 & 0x0e | i << 4 & 0x30, f))
        .collect();
    std::fs::write(directory.join("good_all_with_faults.bin"), mixed)?;
    // One in five: a fuzzer finds the neighbours by itself.
    for defect in corpus().iter().step_by(5) {
        std::fs::write(directory.join(format!("defect_{}.bin", defect.name)), record(0, &defect.bytes))?;
    }
    Ok(())
}

fn configs(directory: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let text = config_text();
    std::fs::write(directory.join("bench.toml"), &text)?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    for entry in std::fs::read_dir(root)?.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|e| e == "toml") {
            std::fs::copy(&path, directory.join(entry.file_name()))?;
        }
    }
    let first_service = text.find("[[service]]").expect("the bench has services");
    std::fs::write(directory.join("no_service.toml"), &text[..first_service])?;
    for (name, from, to) in [
        ("bad_vip", "203.0.113.10", "203.0.113.1000"),
        ("bad_port", "port = 80\n", "port = 80000\n"),
        ("bad_mode", "\"gre\"", "\"gretap\""),
        ("bad_key", "0d0e0f", "0d0e0"),
        ("unknown_key", "flows = 1024", "flow = 1024"),
        ("wrong_type", "mtu = 1500", "mtu = \"1500\""),
        ("not_toml", "[workers]", "[workers"),
    ] {
        std::fs::write(directory.join(format!("{name}.toml")), text.replacen(from, to, 1))?;
    }
    Ok(())
}

fn captures(directory: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/scenarios");
    for folder in testkit::scenario::folders(&root)? {
        let capture = std::fs::read(folder.join("in.pcap"))?;
        let name = folder.file_name().and_then(|n| n.to_str()).unwrap_or("scenario").to_owned();
        if capture.len() <= 12_000 {
            std::fs::write(directory.join(format!("{name}.bin")), [&[0][..], &capture].concat())?;
        }
    }
    let mut capture = header();
    for (i, (_, frame)) in (0_u32..).zip(good_frames()) {
        let len = u32::try_from(frame.len()).expect("a frame");
        for word in [1_700_000_000, i * 1000, len, len] {
            capture.extend(word.to_le_bytes());
        }
        capture.extend(frame);
    }
    std::fs::write(directory.join("good_all_two_workers.bin"), [&[1][..], &capture].concat())?;
    std::fs::write(directory.join("empty.bin"), [&[0][..], &header()].concat())
}

/// Header of a classic little-endian capture of Ethernet frames.
fn header() -> Vec<u8> {
    let mut out = 0xa1b2_c3d4_u32.to_le_bytes().to_vec();
    out.extend([2, 0, 4, 0]);
    for word in [0_u32, 0, 65_535, 1] {
        out.extend(word.to_le_bytes());
    }
    out
}
