//! `guideway capture` against daemons of the tests.

use crate::daemon::Daemon;
use crate::{code, guideway, stderr, stdout};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const BEGUN: &str = r#"{"id":7,"snap":2048,"frames_kept":2048,"interfaces":["data0:rx","data0:tx"]}"#;
const FIGURES: &str = r#"{"frames":3,"blocks":6,"missed":0}"#;

/// The status of an answer with a piece.
fn piece(state: &str, missed: u64) -> String {
    format!(
        "200 OK\r\nguideway-capture: {state}\r\nguideway-capture-frames: 1234\r\nguideway-capture-blocks: 2468\r\n\
         guideway-capture-missed: {missed}"
    )
}

fn asked(daemon: &Daemon) -> Vec<String> {
    let lines = daemon.asked().into_iter();
    lines.map(|request| request.lines().next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn pieces_one_behind_the_other_are_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.pcapng");
    let file = file.to_str().unwrap();
    for (target, missed) in [("-", 0), (file, 5)] {
        let daemon = Daemon::answering(&[
            ("200 OK", BEGUN),
            (&piece("running", 0), "head "),
            (&piece("running", 0), ""),
            (&piece("over", missed), "and rest"),
        ]);
        let filter = ["--service", "a b", "--reason", "no_service", "--client", "2001:db8::7"];
        let output =
            daemon.run(&[&["capture", "-w", target, "--count", "9", "--snap", "64"], &filter[..]].concat());
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        if target == "-" {
            assert_eq!(stdout(&output), "head and rest");
        } else {
            assert_eq!(std::fs::read_to_string(file).unwrap(), "head and rest");
        }
        let told = stderr(&output);
        let figures = format!("1,234 frames captured, 2,468 blocks written, {missed} frames missed\n");
        assert!(told.starts_with(&figures), "{told}");
        assert_eq!(told.contains("--snap"), missed > 0, "{told}");
        let asked = asked(&daemon);
        assert_eq!(
            asked[0],
            "POST /v1/capture?snap=64&service=a%20b&reason=no_service&client=2001%3Adb8%3A%3A7&count=9 HTTP/1.1"
        );
        assert_eq!(asked[1..], vec!["GET /v1/capture?id=7&wait_ms=1000 HTTP/1.1"; 3]);
    }

    // One that cannot begin leaves the file from before as it is.
    let refusal = r#"{"error":"capture 1 is not over","help":"wait"}"#;
    let daemon = Daemon::answering(&[("409 Conflict", refusal)]);
    let output = daemon.run(&["capture", "-w", file]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("capture 1 is not over"), "{}", stderr(&output));
    assert_eq!(std::fs::read_to_string(file).unwrap(), "head and rest");

    // One that cannot be written is ended.
    let daemon = Daemon::answering(&[("200 OK", BEGUN), ("200 OK", FIGURES)]);
    let output = daemon.run(&["capture", "-w", "/nonexistent/c.pcapng"]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("cannot write /nonexistent/c.pcapng"), "{}", stderr(&output));
    assert_eq!(asked(&daemon)[1], "POST /v1/capture/end?id=7 HTTP/1.1");

    // What is gone in the middle is a failure that says why.
    let gone = r#"{"error":"no capture 7","help":"nobody asked"}"#;
    let daemon = Daemon::answering(&[
        ("200 OK", BEGUN),
        (&piece("running", 0), "head "),
        ("404 Not Found", gone),
        ("404 Not Found", gone),
    ]);
    let output = daemon.run(&["capture", "-w", "-"]);
    assert_eq!((code(&output), stdout(&output).as_str()), (1, "head "));
    assert!(stderr(&output).contains("no capture 7"), "{}", stderr(&output));
}

#[test]
fn what_makes_no_sense_is_refused_before_anybody_is_asked() {
    for (arguments, words) in [
        (&["capture"][..], "--write"),
        (&["capture", "-w", "-", "--reason", "no_servise"], "no_service"),
        (&["capture", "-w", "-", "--client", "198.51.100.0/24"], "--client"),
        (&["capture", "-w", "-", "--count", "0"], "1..=10000000"),
        (&["capture", "-w", "-", "--snap", "63"], "64..=9216"),
        (&["capture", "-w", "-", "--snap", "9217"], "64..=9216"),
    ] {
        let output = guideway(arguments);
        assert_eq!(code(&output), 2, "{arguments:?}");
        assert!(output.stdout.is_empty() && stderr(&output).contains(words), "{}", stderr(&output));
    }
    // `script` gives it a terminal.
    let program = env!("CARGO_BIN_EXE_guideway");
    let output = Command::new("script")
        .args(["-qec", &format!("{program} capture -w - --socket /nowhere.sock"), "/dev/null"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(code(&output), 2);
    let told = stdout(&output);
    assert!(told.contains("standard output is a terminal") && told.contains("tshark -r -"), "{told}");
}

/// A daemon whose capture goes on until it is ended; then one more piece comes, and it is over.
struct Capturing {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    pieces: Arc<AtomicU64>,
    ended: Arc<Mutex<u64>>,
}

impl Capturing {
    fn start() -> Capturing {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("lb1.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (pieces, ended) = (Arc::<AtomicU64>::default(), Arc::<Mutex<u64>>::default());
        let is_over = Arc::<AtomicBool>::default();
        let (given, heard) = (pieces.clone(), ended.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (given, heard, is_over) = (given.clone(), heard.clone(), is_over.clone());
                std::thread::spawn(move || serve(&mut stream.unwrap(), &given, &heard, &is_over));
            }
        });
        Capturing { _dir: dir, socket, pieces, ended }
    }

    fn spawn(&self) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_guideway"));
        command.args(["capture", "-w", "-", "--socket"]).arg(&self.socket);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn until_pieces(&self, count: u64) {
        let begun = Instant::now();
        while self.pieces.load(SeqCst) < count {
            assert!(begun.elapsed() < Duration::from_secs(10), "no piece is asked for");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn serve(stream: &mut UnixStream, pieces: &AtomicU64, ended: &Mutex<u64>, is_over: &AtomicBool) {
    let mut request = [0; 4096];
    let count = stream.read(&mut request).unwrap();
    let request = String::from_utf8_lossy(&request[..count]).into_owned();
    let (status, body) = if request.starts_with("POST /v1/capture?") {
        ("200 OK".to_owned(), BEGUN)
    } else if request.starts_with("POST /v1/capture/end?id=7 ") {
        *ended.lock().unwrap() += 1;
        is_over.store(true, SeqCst);
        ("200 OK".to_owned(), FIGURES)
    } else {
        let first = pieces.fetch_add(1, SeqCst) == 0;
        let begun = Instant::now();
        while !first && begun.elapsed() < Duration::from_secs(1) && !is_over.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        match (first, is_over.load(SeqCst)) {
            (true, _) => (piece("running", 0), "head "),
            (false, true) => (piece("over", 0), "and rest"),
            (false, false) => (piece("running", 0), ""),
        }
    };
    let length = body.len();
    // It may be gone by now.
    let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
}

fn ended(mut child: Child) -> Output {
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > Duration::from_secs(8) {
            child.kill().unwrap();
            panic!("it goes on: {}", stderr(&child.wait_with_output().unwrap()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

#[test]
fn a_signal_ends_it_in_order() {
    for name in ["INT", "TERM"] {
        let daemon = Capturing::start();
        let child = daemon.spawn();
        daemon.until_pieces(2);
        let killed = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
        assert!(killed.unwrap().success());
        let output = ended(child);
        assert_eq!(code(&output), 0, "{name}: {}", stderr(&output));
        assert_eq!(stdout(&output), "head and rest", "{name}");
        assert!(stderr(&output).starts_with("1,234 frames captured"), "{}", stderr(&output));
        assert_eq!(*daemon.ended.lock().unwrap(), 1);
    }
}

#[test]
fn a_reader_that_leaves_ends_it() {
    let daemon = Capturing::start();
    let mut child = daemon.spawn();
    let mut reader = child.stdout.take().unwrap();
    let mut begin = [0; 4];
    reader.read_exact(&mut begin).unwrap();
    drop(reader);
    let output = ended(child);
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
    assert_eq!(*daemon.ended.lock().unwrap(), 1, "the daemon was told");
}
