//! What must hold for any input: called by property tests, by the corpus test and by the fuzz targets alike.

use crate::bench::{Bench, IoFaults, good_frames};
use crate::frames::internet_checksum;
use guideway::capture::Capture;
use guideway::replay::{Options, ReplayError, replay};
use model::config::{HealthKind, HttpCheck};
use std::sync::OnceLock;
use worker::Outcome;

/// Most frames taken from one fuzz input.
const FRAMES_MAX: usize = 64;

/// `parse` does not panic, and every offset it gives lies inside the frame and in order.
///
/// # Panics
/// It does not hold.
pub fn check_frame(frame: &[u8]) {
    let Ok(wire::parse::ParsedFrame::Ip(p)) = wire::parse::parse(frame) else { return };
    let (l3, l4, end) = (usize::from(p.l3), usize::from(p.l4), usize::from(p.end));
    assert!(matches!(l3, 14 | 18 | 22), "IP at {l3}");
    let least = if p.is_v6() { 40 } else { 20 };
    assert!(l3 + least <= l4 && l4 <= end && end <= frame.len(), "{l3} {l4} {end} of {}", frame.len());
    let seen = crate::outer::locate(frame).unwrap_or_else(|e| panic!("parse accepts what is broken: {e}"));
    assert_eq!((seen.l3, seen.end), (l3, end), "the datagram's place");
    assert_eq!((wire::Addr::from(seen.src), wire::Addr::from(seen.dst)), (p.src(frame), p.dst(frame)));
    assert_eq!(seen.tos, p.tos);
    let fragment = p.fragment.map(|f| (usize::from(f.offset), f.more));
    assert_eq!(seen.fragment, fragment, "fragment");
    assert_eq!(seen.l4, l4, "the transport header's place");
}

/// Frames through the engine one after another, on alternating workers; each ends once, nothing is lost, what is sent is
/// well formed. Returns how each ended.
///
/// # Panics
/// It does not hold.
pub fn check_worker<'a>(frames: impl IntoIterator<Item = &'a [u8]>) -> Vec<Outcome> {
    let mut bench = Bench::new();
    for (i, frame) in frames.into_iter().enumerate() {
        check_frame(frame);
        bench.receive(i, frame, IoFaults::default());
    }
    bench.finish()
}

/// As [`check_worker`], from a fuzzer's bytes: records of (control, length, frame). The control byte chooses the worker
/// (bit 0), lets time pass (bits 1 to 3), makes transmit queues full (bit 4) or buffers scarce (bit 5), has the IPv4 header
/// checksum made right (bit 6), and takes a good frame that the bytes are laid over (bit 7).
///
/// # Panics
/// It does not hold.
pub fn check_steps(mut input: &[u8]) {
    static GOOD: OnceLock<Vec<(&'static str, Vec<u8>)>> = OnceLock::new();
    let good = GOOD.get_or_init(good_frames);
    let mut bench = Bench::new();
    for _ in 0..FRAMES_MAX {
        let [control, low, high, rest @ ..] = input else { break };
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (body, rest) = rest.split_at(len);
        input = rest;
        let mut frame = body.to_vec();
        if control & 0x80 != 0
            && let Some((which, patches)) = body.split_first()
        {
            frame = good[usize::from(*which) % good.len()].1.clone();
            for patch in patches.chunks_exact(3) {
                let at = usize::from(u16::from_le_bytes([patch[0], patch[1]])) % frame.len();
                frame[at] = patch[2];
            }
        }
        if control & 0x40 != 0 {
            mend_ipv4_checksum(&mut frame);
        }
        let wait = u32::from(control >> 1 & 7);
        if wait > 0 {
            bench.wait(10_u64.pow(wait + 1));
        }
        check_frame(&frame);
        let faults = IoFaults { transmit_full: control & 0x10 != 0, no_buffers: control & 0x20 != 0 };
        bench.receive(usize::from(control & 1), &frame, faults);
    }
    bench.finish();
}

/// Writes the right checksum if there is a whole IPv4 header: a fuzzer would not find it by itself.
fn mend_ipv4_checksum(frame: &mut [u8]) {
    let mut at = 12;
    while let Some([0x81 | 0x88, 0x00 | 0xa8]) = frame.get(at..at + 2) {
        at += 4;
    }
    let l3 = at + 2;
    if frame.get(at..l3) != Some(&[8, 0]) {
        return;
    }
    let header_len = frame.get(l3).map_or(0, |b| usize::from(b & 15) * 4);
    if header_len < 20 || frame.len() < l3 + header_len {
        return;
    }
    frame[l3 + 10..l3 + 12].fill(0);
    let check = internet_checksum(&frame[l3..l3 + header_len]);
    frame[l3 + 10..l3 + 12].copy_from_slice(&check.to_be_bytes());
}

/// Whatever agents say, the registry stays in order: `control::rehearse_agents`.
///
/// # Panics
/// It does not hold.
pub fn check_agents(input: &[u8]) {
    control::rehearse_agents(input);
}

/// Whatever somebody writes into the store, the machine stays in order: `control::rehearse_store`.
///
/// # Panics
/// It does not hold.
pub fn check_store(input: &[u8]) {
    control::rehearse_store(input);
}

/// Whatever is in the state file, a machine starts: `control::rehearse_state`.
///
/// # Panics
/// It does not hold.
pub fn check_state(input: &[u8]) {
    control::rehearse_state(input);
}

/// Whatever the kernel says of routes and neighbours: `control::rehearse_netlink`.
///
/// # Panics
/// It does not hold.
pub fn check_netlink(input: &[u8]) {
    control::rehearse_netlink(input);
}

/// A backend that answers its check with anything: the check ends, passed if what it says is what was asked for. The first byte of `input`
/// chooses the check.
///
/// # Panics
/// It does not hold.
pub fn check_health(input: &[u8]) {
    let Some((choice, answer)) = input.split_first() else { return };
    let expect = (choice & 2 == 2).then_some("ready");
    let kind = if choice & 1 == 0 {
        HealthKind::Tcp { send: Some("are you?".into()), expect: expect.map(Into::into) }
    } else {
        let expect_status = if choice & 4 == 4 { vec![(200, 200), (404, 404)] } else { Vec::new() };
        HealthKind::Http(HttpCheck {
            path: "/".to_owned(),
            host: None,
            expect_status,
            expect: expect.map(Into::into),
            sni: None,
            files: None,
        })
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    match runtime.block_on(health::rehearse(&kind, answer)) {
        Ok(()) => {
            let has = |what: &[u8]| answer.windows(what.len()).any(|of| of == what);
            // Chunks may lie between the letters of an HTTP body.
            let is_there = |word: &str| choice & 1 == 1 || has(word.as_bytes());
            assert!(expect.is_none_or(is_there), "passed without what it was to find");
            assert!(choice & 1 == 0 || has(b"HTTP/1."), "passed without an answer");
        }
        Err(failure) => assert!(!failure.to_string().is_empty()),
    }
}

/// Inputs for [`check_health`] to begin with, named for what they are.
pub fn health_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let of = |choice: u8, answer: &str| [&[choice][..], answer.as_bytes()].concat();
    let long = "x".repeat(70_000);
    vec![
        ("tcp", of(0, "")),
        ("tcp_ready", of(2, "I am ready")),
        ("tcp_other", of(2, "I am not")),
        ("tcp_endless", of(2, &long)),
        ("http", of(1, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")),
        ("http_ready", of(3, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nready")),
        (
            "http_chunked",
            of(3, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nrea\r\n2\r\ndy\r\n0\r\n\r\n"),
        ),
        (
            "http_chunk_too_large",
            of(3, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\nrea"),
        ),
        ("http_until_closed", of(3, "HTTP/1.0 200 OK\r\n\r\nready")),
        ("http_404", of(5, "HTTP/1.1 404 no\r\ncontent-length: 0\r\n\r\n")),
        ("http_500", of(1, "HTTP/1.1 500 no\r\ncontent-length: 0\r\n\r\n")),
        (
            "http_100_first",
            of(1, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
        ),
        ("http_no_length", of(3, "HTTP/1.1 200 OK\r\n\r\n")),
        ("http_two_lengths", of(1, "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nok")),
        ("http_cut", of(1, "HTTP/1.1 20")),
        ("http_endless", of(3, &format!("HTTP/1.1 200 OK\r\n\r\n{long}"))),
        ("http_header_endless", of(1, &format!("HTTP/1.1 200 OK\r\nx: {long}"))),
        ("tls", of(1, "\u{16}\u{3}\u{1}\0\u{2}\u{1}\0")),
    ]
}

/// A configuration is either taken, and then compiles, or refused with at least one diagnostic, each with a place inside the
/// text, a message and a remedy.
///
/// # Panics
/// It does not hold.
pub fn check_config(text: &str) {
    match model::load("fuzz.toml", text) {
        Ok(loaded) => {
            let services = &loaded.config.services;
            let slots: u64 = services.iter().map(|s| u64::from(s.maglev_size)).sum();
            let backends: usize = services.iter().map(|s| s.backends.len()).sum();
            // A table of five million slots takes a second; what is checked here does not depend on the size.
            if slots < 200_000 && backends < 2000 {
                control::compile::offline(&loaded.config)
                    .unwrap_or_else(|e| panic!("a checked configuration does not compile: {e}"));
            }
            assert!(
                loaded.config.restart_keys(&loaded.config).is_empty(),
                "a configuration differs from itself"
            );
        }
        Err(report) => {
            assert!(!report.diagnostics().is_empty(), "refused without a reason");
            let lines = text.split('\n').count();
            for d in report.diagnostics() {
                assert!((1..=lines).contains(&d.line), "line {} of {lines}: {}", d.line, d.message);
                assert!(d.column >= 1 && !d.message.is_empty() && !d.help.is_empty(), "{d:?}");
                assert!(d.offset + d.length <= text.len(), "{d:?}");
            }
            assert!(!report.to_plain().is_empty());
            let drawn = format!("{:?}", miette::Report::new(report));
            assert!(!drawn.is_empty());
        }
    }
}

/// A capture is either refused or replayed, and then every frame has one end, the totals add up, and what is sent is well
/// formed. The first byte of `input` chooses the number of workers.
///
/// # Panics
/// It does not hold.
pub fn check_replay(input: &[u8], config: &model::Config) {
    let Some((choice, file)) = input.split_first() else { return };
    let Ok(capture) = Capture::parse(file.to_vec()) else { return };
    let options = Options { workers: 1 + choice % 3, per_frame: true };
    let replayed = match replay(config, &capture, options) {
        Ok(replayed) => replayed,
        Err(ReplayError::TooManyFrames) => return,
        Err(e) => panic!("{e}"),
    };
    let s = &replayed.summary;
    let dropped: u64 = s.dropped.values().sum();
    assert_eq!(s.rx, capture.len() as u64, "frames received");
    assert_eq!(s.rx + s.originated, s.tx + s.relayed + s.punted + dropped, "conservation");
    assert_eq!((s.relayed, s.held), (0, 0));
    assert_eq!(s.tx, replayed.sent.len() as u64);
    assert_eq!(s.punted, replayed.punted.len() as u64);
    assert_eq!(s.frames.as_ref().map(Vec::len), Some(capture.len()));
    for (index, frame) in &replayed.sent {
        crate::outer::outer(frame).unwrap_or_else(|e| panic!("broken frame sent for {index}: {e}"));
    }
}

/// The configuration that [`check_replay`] is used with: the bench's.
///
/// # Panics
/// It is refused.
pub fn replay_config() -> &'static model::Config {
    static CONFIG: OnceLock<model::Config> = OnceLock::new();
    CONFIG.get_or_init(|| {
        model::load("bench", &crate::bench::config_text())
            .unwrap_or_else(|r| panic!("{}", r.to_plain()))
            .config
    })
}

#[cfg(test)]
mod tests;
