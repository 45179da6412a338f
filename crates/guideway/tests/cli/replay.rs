//! `guideway replay` end to end: captures in, captures and JSON out.

use crate::frames::{self, LOCAL_VIP, VIP};
use crate::{CONFIG, code, guideway, stderr, stdout};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

struct Run {
    dir: tempfile::TempDir,
    answer: Value,
}

impl Run {
    fn of(input: &[Vec<u8>], more: &[&str]) -> Run {
        Run::with(CONFIG, input, more)
    }

    fn with(config: &str, input: &[Vec<u8>], more: &[&str]) -> Run {
        let dir = tempfile::tempdir().unwrap();
        frames::write(&dir.path().join("in.pcap"), input);
        Run::in_dir(dir, config, more)
    }

    /// Replays `in.pcap` of `dir`.
    fn in_dir(dir: tempfile::TempDir, config: &str, more: &[&str]) -> Run {
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("lb1.toml"), config).unwrap();
        let (config, input, out, punt) =
            (path("lb1.toml"), path("in.pcap"), path("out.pcap"), path("punt.pcap"));
        let fixed =
            ["replay", "--config", &config, "--in", &input, "--out", &out, "--punt", &punt, "--per-frame"];
        let output = guideway(&[&fixed, more].concat());
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let answer = serde_json::from_str(&stdout(&output)).unwrap();
        Run { dir, answer }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn sent(&self) -> Vec<Vec<u8>> {
        frames::read(&self.path("out.pcap")).into_iter().map(|(_, bytes)| bytes).collect()
    }

    fn frame(&self, index: usize) -> &Value {
        &self.answer["frames"][index]
    }
}

/// The address of a backend of the configuration.
fn address_of(name: &Value) -> [u8; 4] {
    match name.as_str().unwrap() {
        "b1" => [10, 0, 2, 21],
        "b2" => [10, 0, 2, 22],
        "d1" => [10, 0, 2, 41],
        "d2" => [10, 0, 2, 42],
        other => panic!("{other}"),
    }
}

#[test]
fn ipip_puts_one_header_in_front_and_touches_nothing_else() {
    // A short frame, padded as Ethernet pads it.
    let mut padded = frames::tcp(VIP, 4000, 80, 0);
    padded.resize(60, 0);
    let long = frames::tcp(VIP, 4001, 80, 1000);
    let run = Run::of(&[padded.clone(), long.clone()], &[]);
    assert_eq!(
        json!([
            run.answer["rx"],
            run.answer["tx"],
            run.answer["originated"],
            run.answer["punted"],
            run.answer["relayed"]
        ]),
        json!([2, 2, 0, 0, 0])
    );
    assert_eq!(json!([run.answer["held"], run.answer["dropped"]]), json!([0, {}]));
    for ((index, sent), original) in run.sent().iter().enumerate().zip([&padded[..54], &long[..]]) {
        let end = run.frame(index);
        assert_eq!(
            end,
            &json!({"index": index, "verdict": "sent", "action": "encapsulate", "service": "web", "backend": end["backend"], "reason": null})
        );
        assert_eq!(sent[..6], [2, 0, 0, 0, 0, 1], "the next hop");
        let (outer, inner) = etherparse::Ipv4Header::from_slice(&sent[14..]).unwrap();
        assert_eq!((outer.source, outer.destination), ([10, 0, 2, 11], address_of(&end["backend"])));
        assert_eq!((outer.protocol.0, usize::from(outer.total_len)), (4, sent.len() - 14));
        assert_eq!(outer.header_checksum, outer.calc_header_checksum());
        assert_eq!(inner, &original[14..], "the inner packet, without padding");
    }
    let stamps: Vec<Duration> =
        frames::read(&run.path("out.pcap")).into_iter().map(|(stamp, _)| stamp).collect();
    let input: Vec<Duration> =
        frames::read(&run.path("in.pcap")).into_iter().map(|(stamp, _)| stamp).collect();
    assert_eq!(stamps, input);
    assert!(frames::read(&run.path("punt.pcap")).is_empty());
}

#[test]
fn l2_changes_the_addresses_of_the_frame_only() {
    let frame = frames::tcp(LOCAL_VIP, 4000, 80, 10);
    let run = Run::of(std::slice::from_ref(&frame), &[]);
    let sent = &run.sent()[0];
    assert_eq!(sent[..6], [2, 0, 0, 0, 0, 0x31]);
    assert_eq!(sent[12..], frame[12..]);
    assert_eq!((&run.frame(0)["service"], &run.frame(0)["backend"]), (&json!("local"), &json!("near")));
}

#[test]
fn tags_are_kept() {
    let frame = frames::tagged(VIP, 4000);
    let run = Run::of(std::slice::from_ref(&frame), &[]);
    let sent = &run.sent()[0];
    assert_eq!(sent[12..18], frame[12..18], "the tag, and IPv4 behind it");
    assert_eq!(sent[18 + 20..], frame[18..]);
}

#[test]
fn ipv6_goes_through_ipv6() {
    let frame = frames::tcp_v6(4000);
    let run = Run::of(std::slice::from_ref(&frame), &[]);
    let sent = &run.sent()[0];
    let (outer, inner) = etherparse::Ipv6Header::from_slice(&sent[14..]).unwrap();
    assert_eq!(outer.destination_addr(), "fd00:2::21".parse::<std::net::Ipv6Addr>().unwrap());
    assert_eq!((outer.next_header.0, inner), (41, &frame[14..]));
    assert_eq!(run.frame(0)["backend"], "six");
}

#[test]
fn what_is_not_ours_goes_to_the_kernel_as_it_came() {
    let input = [frames::arp(), frames::tcp([192, 0, 2, 99], 4000, 80, 3), frames::tcp(VIP, 4000, 80, 0)];
    for config in [CONFIG.to_owned(), CONFIG.replace("mtu = 1500", "mtu = 1500\nexception = \"gw0\"")] {
        let run = Run::with(&config, &input, &[]);
        assert_eq!((&run.answer["punted"], &run.answer["tx"]), (&json!(2), &json!(1)));
        let punted: Vec<Vec<u8>> = frames::read(&run.path("punt.pcap")).into_iter().map(|(_, b)| b).collect();
        assert_eq!(punted, input[..2]);
        assert_eq!(
            run.frame(0),
            &json!({"index": 0, "verdict": "punted", "action": "punt", "service": null, "backend": null, "reason": null})
        );
    }
}

#[test]
fn drops_have_their_reason() {
    let mut checksum = frames::tcp(VIP, 4000, 80, 0);
    checksum[24] ^= 1;
    let input =
        [checksum, frames::tcp(VIP, 4000, 81, 0), vec![0; 13], frames::tcp([203, 0, 113, 30], 4000, 80, 0)];
    let run = Run::of(&input, &[]);
    assert_eq!(
        run.answer["dropped"],
        json!({"bad_ipv4_checksum": 1, "no_service": 1, "bad_ethernet": 1, "no_backend": 1})
    );
    assert_eq!(run.frame(1)["reason"], "no_service");
    assert_eq!((&run.frame(3)["verdict"], &run.frame(3)["service"]), (&json!("dropped"), &json!("gone")));
    // A service without a usable backend answers with a reset, and so does a port without a service.
    assert_eq!((&run.answer["originated"], &run.answer["tx"]), (&json!(2), &json!(2)));
    assert!(run.sent().iter().all(|sent| sent[47] & 0x04 == 0x04), "RST");
}

#[test]
fn a_frame_cut_by_the_capture_is_dropped_as_truncated() {
    let dir = tempfile::tempdir().unwrap();
    let frame = frames::tcp(VIP, 4000, 80, 100);
    let whole = frame.len();
    frames::write_stamped(
        &dir.path().join("in.pcap"),
        &[(Duration::from_secs(1), frame[..64].to_vec(), whole)],
    );
    let run = Run::in_dir(dir, CONFIG, &[]);
    assert_eq!(run.answer["dropped"], json!({"truncated": 1}));
}

#[test]
fn echo_to_a_vip_is_answered() {
    let run = Run::of(&[frames::echo(VIP)], &[]);
    assert_eq!(
        json!([run.answer["tx"], run.answer["originated"], run.answer["dropped"]]),
        json!([1, 1, {"answered": 1}])
    );
    let sent = &run.sent()[0];
    let packet = etherparse::SlicedPacket::from_ethernet(sent).unwrap();
    let Some(etherparse::TransportSlice::Icmpv4(icmp)) = packet.transport else { panic!("not ICMP") };
    assert!(matches!(icmp.icmp_type(), etherparse::Icmpv4Type::EchoReply(e) if (e.id, e.seq) == (7, 9)));
    assert_eq!(icmp.payload(), b"are you there?");
    assert_eq!((&sent[26..30], &sent[30..34]), (&VIP[..], &frames::CLIENT[..]));
}

#[test]
fn what_does_not_fit_is_answered_with_the_size_that_does() {
    let fits = frames::tcp(VIP, 4000, 80, 1480 - 40);
    let too_big = frames::tcp(VIP, 4000, 80, 1481 - 40);
    let run = Run::of(&[fits, too_big], &[]);
    assert_eq!(
        json!([run.answer["tx"], run.answer["originated"], run.answer["dropped"]]),
        json!([2, 1, {"too_big": 1}])
    );
    let answer = &run.sent()[1];
    assert_eq!((answer[34], answer[35], &answer[40..42]), (3, 4, &1480_u16.to_be_bytes()[..]));
    assert_eq!(answer[26..30], VIP, "from the VIP");
}

#[test]
fn fragments_follow_their_first_in_any_order() {
    let pieces = frames::udp_pieces(5000, 77);
    let orders = [[0, 1, 2], [2, 1, 0], [1, 2, 0]];
    for order in orders {
        let input: Vec<Vec<u8>> = order.iter().map(|&i| pieces[i].clone()).collect();
        for workers in ["1", "2", "3"] {
            let run = Run::of(&input, &["--workers", workers]);
            assert_eq!(json!([run.answer["tx"], run.answer["held"]]), json!([3, 0]), "{order:?}");
            for (index, (sent, original)) in run.sent().iter().zip(&input).enumerate() {
                assert_eq!(&sent[14 + 20 + 8 + 4..], &original[14..], "in input order");
                assert_eq!(run.frame(index)["backend"], run.frame(0)["backend"]);
                assert_eq!(sent[30..34], address_of(&run.frame(index)["backend"]));
            }
        }
    }
}

#[test]
fn a_fragment_without_its_first_is_dropped_in_time() {
    let pieces = frames::udp_pieces(5000, 78);
    let run = Run::of(&pieces[1..], &["--workers", "2"]);
    assert_eq!(json!([run.answer["held"], run.answer["dropped"]]), json!([0, {"fragment_timeout": 2}]));
    let dir = tempfile::tempdir().unwrap();
    let at = |ms, i: usize| (Duration::from_millis(ms), pieces[i].clone(), pieces[i].len());
    frames::write_stamped(&dir.path().join("in.pcap"), &[at(0, 1), at(1001, 0), at(1002, 2)]);
    let run = Run::in_dir(dir, CONFIG, &[]);
    assert_eq!(run.answer["dropped"], json!({"fragment_timeout": 1}), "too late by a millisecond");
    assert_eq!(run.answer["tx"], 2);
}

#[test]
fn the_number_of_workers_changes_no_byte() {
    let mut input = Vec::new();
    for i in 0..150_u16 {
        input.push(frames::tcp(VIP, 4000 + i, 80, usize::from(i)));
        input.push(frames::tcp(LOCAL_VIP, 4000 + i, 80, 1));
        if i % 10 == 0 {
            let mut pieces = frames::udp_pieces(6000 + i, i);
            pieces.rotate_left(1);
            input.extend(pieces);
            input.extend([
                frames::arp(),
                frames::echo(VIP),
                frames::tcp(VIP, 4000 + i, 80, 1460),
                vec![1; 20],
            ]);
        }
    }
    let one = Run::of(&input, &[]);
    let again = Run::of(&input, &["--workers", "1"]);
    for other in [again, Run::of(&input, &["--workers", "2"]), Run::of(&input, &["--workers", "7"])] {
        assert_eq!(one.answer, other.answer);
        for name in ["out.pcap", "punt.pcap"] {
            assert_eq!(std::fs::read(one.path(name)).unwrap(), std::fs::read(other.path(name)).unwrap());
        }
    }
    let ends = one.answer["frames"].as_array().unwrap();
    assert_eq!(ends.len(), input.len());
    assert!(ends.iter().enumerate().all(|(i, end)| end["index"] == i));
    let backends = ["b1", "b2"].map(|b| ends.iter().filter(|e| e["backend"] == b).count());
    assert!(backends.iter().all(|&n| n > 40), "{backends:?}");
}

#[test]
fn a_flow_keeps_its_backend_and_stamps_may_go_backward() {
    let dir = tempfile::tempdir().unwrap();
    let frame = frames::tcp(VIP, 4000, 80, 0);
    let at = |s| (Duration::from_secs(s), frame.clone(), frame.len());
    frames::write_stamped(&dir.path().join("in.pcap"), &[at(100), at(50), at(101), at(90_000), at(10)]);
    let run = Run::in_dir(dir, CONFIG, &[]);
    assert_eq!(run.answer["tx"], 5);
    let stamps: Vec<u64> = frames::read(&run.path("out.pcap")).iter().map(|(s, _)| s.as_secs()).collect();
    assert_eq!(stamps.len(), 5);
    assert!((0..5).all(|i| run.frame(i)["backend"] == run.frame(0)["backend"]));
}

#[test]
fn without_per_frame_there_is_no_list_and_warnings_go_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let config = CONFIG.replace("[timeouts]", "[timeouts]\nsyn_s = 2000");
    std::fs::write(path("lb1.toml"), config).unwrap();
    frames::write(&dir.path().join("in.pcap"), &[]);
    let output = guideway(&[
        "replay",
        "--config",
        &path("lb1.toml"),
        "--in",
        &path("in.pcap"),
        "--out",
        &path("out.pcap"),
    ]);
    assert_eq!(code(&output), 0);
    assert!(!output.stderr.is_empty());
    let answer: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let all = json!({"rx": 0, "tx": 0, "originated": 0, "punted": 0, "relayed": 0, "held": 0, "dropped": {}});
    assert_eq!(answer, all);
}

#[test]
fn a_bad_input_ends_with_one_and_a_bad_configuration_with_two() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("good.toml"), CONFIG).unwrap();
    std::fs::write(path("bad.toml"), CONFIG.replace("mode = \"l2\"", "mode = \"l3\"")).unwrap();
    frames::write(&dir.path().join("good.pcap"), &[frames::arp()]);
    let good = std::fs::read(path("good.pcap")).unwrap();
    std::fs::write(path("cut.pcap"), &good[..20]).unwrap();
    std::fs::write(path("packed.pcap.zst"), [0x28, 0xb5, 0x2f, 0xfd, 4, 0]).unwrap();
    std::fs::write(path("broken.pcap.gz"), [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xff, 0xff, 0xff]).unwrap();
    std::fs::write(path("text.pcap"), "not a capture").unwrap();
    std::fs::write(path("empty.pcap"), "").unwrap();
    let mut loopback = good.clone();
    loopback[20..24].copy_from_slice(&[0; 4]);
    std::fs::write(path("link.pcap"), &loopback).unwrap();
    for (config, input, expected, part) in [
        ("good.toml", "none.pcap", 1, "cannot read"),
        ("good.toml", "cut.pcap", 1, "truncated"),
        ("good.toml", "text.pcap", 1, "not a pcap"),
        ("good.toml", "empty.pcap", 1, "not a pcap"),
        ("good.toml", "link.pcap", 1, "not Ethernet"),
        ("good.toml", "packed.pcap.zst", 1, "zstd -dc"),
        ("good.toml", "broken.pcap.gz", 1, "damaged"),
        ("bad.toml", "good.pcap", 2, "l3"),
        ("none.toml", "good.pcap", 1, "cannot read"),
    ] {
        let out = path("out.pcap");
        let output = guideway(&["replay", "--config", &path(config), "--in", &path(input), "--out", &out]);
        assert_eq!(code(&output), expected, "{config} {input}");
        assert!(stderr(&output).contains(part), "{config} {input}: {}", stderr(&output));
        assert!(output.stdout.is_empty());
        assert!(!std::path::Path::new(&out).exists(), "nothing is written");
    }
    let out = path("no/such/dir/out.pcap");
    let output =
        guideway(&["replay", "--config", &path("good.toml"), "--in", &path("good.pcap"), "--out", &out]);
    assert_eq!(code(&output), 1);
    for workers in ["0", "65", "x"] {
        let output = guideway(&["replay", "--config", "a", "--in", "b", "--out", "c", "--workers", workers]);
        assert_eq!(code(&output), 2);
    }
}

#[test]
fn what_is_read_is_not_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("lb1.toml"), CONFIG).unwrap();
    frames::write(&dir.path().join("in.pcap"), &[vec![0; 60]]);
    let before = std::fs::read(path("in.pcap")).unwrap();
    let config = path("lb1.toml");
    let replay = |input: &str, out: &str, punt: &str| {
        guideway(&["replay", "--config", &config, "--in", input, "--out", out, "--punt", punt])
    };
    std::os::unix::fs::symlink(path("in.pcap"), path("link.pcap")).unwrap();
    std::fs::hard_link(path("in.pcap"), path("hard.pcap")).unwrap();
    std::fs::hard_link(path("lb1.toml"), path("hard.toml")).unwrap();
    std::os::unix::fs::symlink(dir.path(), dir.path().join("dir")).unwrap();
    for (out, punt) in [
        ("in.pcap", "p.pcap"),
        ("link.pcap", "p.pcap"),
        ("hard.pcap", "p.pcap"),
        ("o.pcap", "in.pcap"),
        ("o.pcap", "hard.pcap"),
        ("lb1.toml", "p.pcap"),
        ("hard.toml", "p.pcap"),
        ("o.pcap", "lb1.toml"),
        ("o.pcap", "o.pcap"),
        ("o.pcap", "dir/o.pcap"),
    ] {
        let output = replay(&path("in.pcap"), &path(out), &path(punt));
        assert_eq!(code(&output), 2, "{out} {punt}");
        assert!(stderr(&output).contains("the same file"), "{}", stderr(&output));
    }
    assert_eq!(std::fs::read(path("in.pcap")).unwrap(), before);
    assert_eq!(std::fs::read_to_string(path("lb1.toml")).unwrap(), CONFIG);
    assert!(!dir.path().join("o.pcap").exists());
    assert_eq!(code(&replay(&path("in.pcap"), "/dev/null", "/dev/null")), 0, "a device is no file to lose");
}

/// What `replay` makes of `bytes` on its standard input, or of a file `input`.
fn replayed(dir: &std::path::Path, input: &str, stdin: Option<&std::path::Path>) -> std::process::Output {
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    std::fs::write(path("lb1.toml"), CONFIG).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_guideway"));
    command.args(["replay", "--config", &path("lb1.toml"), "--in", input, "--out", &path("out.pcap")]);
    if let Some(stdin) = stdin {
        command.stdin(std::fs::File::open(stdin).unwrap());
    }
    command.output().unwrap()
}

#[test]
fn standard_input_and_gzip_are_read_and_a_cut_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let input: Vec<Vec<u8>> = (0..50).map(|i| frames::tcp(VIP, 4000 + i, 80, 100)).collect();
    frames::write(&file("in.pcap"), &input);
    let whole = std::fs::read(file("in.pcap")).unwrap();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    std::io::Write::write_all(&mut packed, &whole).unwrap();
    let packed = packed.finish().unwrap();
    std::fs::write(file("in.pcap.gz"), &packed).unwrap();
    std::fs::write(file("cut.pcap.gz"), &packed[..packed.len() - 30]).unwrap();
    // Only what says that the data is whole is missing.
    std::fs::write(file("end.pcap.gz"), &packed[..packed.len() - 3]).unwrap();
    std::fs::write(file("cut.pcap"), &whole[..whole.len() - 1]).unwrap();
    for (name, frames, warns) in [
        ("in.pcap", 50, false),
        ("in.pcap.gz", 50, false),
        ("cut.pcap", 49, true),
        ("cut.pcap.gz", 49, true),
        ("end.pcap.gz", 50, true),
    ] {
        let named = replayed(dir.path(), file(name).to_str().unwrap(), None);
        let piped = replayed(dir.path(), "-", Some(&file(name)));
        for (output, called) in [(named, name), (piped, "standard input")] {
            assert_eq!(code(&output), 0, "{name}: {}", stderr(&output));
            let answer: Value = serde_json::from_str(&stdout(&output)).unwrap();
            assert_eq!(answer["rx"], frames, "{name}");
            let told = stderr(&output);
            assert_eq!(told.contains("truncated") && told.contains(called), warns, "{name}: {told}");
            assert!(!warns || told.contains(&format!("the {frames} frames before")), "{told}");
        }
    }
    let onto_itself = {
        let path = |name: &str| file(name).to_str().unwrap().to_owned();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_guideway"));
        command.args(["replay", "--config", &path("lb1.toml"), "--in", "-", "--out", &path("in.pcap")]);
        command.stdin(std::fs::File::open(file("in.pcap")).unwrap()).output().unwrap()
    };
    assert_eq!(code(&onto_itself), 2, "{}", stderr(&onto_itself));
    assert_eq!(std::fs::read(file("in.pcap")).unwrap(), whole);
}

#[test]
fn a_capture_without_a_link_header_is_forwarded() {
    let dir = tempfile::tempdir().unwrap();
    let frame = frames::tcp(VIP, 4000, 80, 100);
    frames::write(&dir.path().join("in.pcap"), &[frame[14..].to_vec()]);
    let mut raw = std::fs::read(dir.path().join("in.pcap")).unwrap();
    // The library writes big endian.
    raw[20..24].copy_from_slice(&101_u32.to_be_bytes());
    std::fs::write(dir.path().join("in.pcap"), raw).unwrap();
    let run = Run::in_dir(dir, CONFIG, &[]);
    assert_eq!((&run.answer["tx"], &run.frame(0)["service"]), (&json!(1), &json!("web")));
    assert_eq!(run.sent()[0][34..], frame[14..]);
}

/// 64 workers take no more turns than one, but for what goes over rings: with turns of all for each frame it would be 4,000 looks into rings a frame, and minutes here.
#[test]
fn many_workers_replay_about_as_fast_as_one() {
    let mut input = Vec::new();
    for i in 0..4000_u16 {
        input.push(frames::tcp(VIP, 1000 + i, 80, 10));
        if i % 20 == 0 {
            input.extend(frames::udp_pieces(1000 + i, i));
        }
    }
    let took = |workers: &str| {
        let begun = std::time::Instant::now();
        let run = Run::of(&input, &["--workers", workers]);
        assert_eq!(run.answer["held"], 0);
        (begun.elapsed(), run)
    };
    let ((one, alone), (many, together)) = (took("1"), took("64"));
    assert_eq!(alone.answer, together.answer);
    assert_eq!(alone.sent(), together.sent());
    // Of a build for tests, which may share its CPU; each worker's table and rings have to be made.
    assert!(many < one * 4 + Duration::from_secs(4), "{many:?}, with one {one:?}");
}
