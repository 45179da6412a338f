//! The daemon as a whole, without huge pages, hardware or root: start, answer, stop, and what it leaves behind.
#![allow(clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn config(directory: &Path, name: &str, device: &str, service: &str) -> std::path::PathBuf {
    let text = format!(
        r#"
[machine]
name = "{name}"
address = "10.0.2.11"
next_hop_mac = "02:00:00:00:00:01"
cluster_key = "f00102030405060708090a0b0c0d0e0f"
state_dir = "{directory}/state"
[api]
socket = "{directory}/api.sock"
[dpdk]
eal_args = ["--no-huge", "-m", "128", "--no-telemetry"]
[workers]
cpus = [0]
management_cpus = [0]
idle = "adaptive"
flows = 4096
[[port]]
name = "data0"
device = "{device}"
{service}
"#,
        directory = directory.display()
    );
    let path = directory.join("guideway.toml");
    std::fs::write(&path, text).unwrap();
    path
}

const SERVICE: &str = r#"
[[service]]
name = "web"
vip = "203.0.113.10"
port = 80
protocol = "tcp"
mode = "ipip"
[[service.backend]]
name = "b1"
address = "10.0.2.21"
"#;

fn daemon(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_guidewayd"));
    command.arg("--config").arg(config);
    command
}

fn text(output: &Output) -> (String, String) {
    (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

fn get(socket: &Path, path: &str) -> Option<String> {
    ask(socket, "GET", path, "")
}

fn ask(socket: &Path, method: &str, path: &str, body: &str) -> Option<String> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let length = body.len();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n").ok()?;
    write!(stream, "Content-Length: {length}\r\n\r\n{body}").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Killed if the test fails on the way.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn wait_for(&mut self, what: &str, mut done: impl FnMut() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < PATIENCE, "never {what}");
            assert!(self.0.try_wait().unwrap().is_none(), "ended before it was {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn terminate(&mut self) -> std::process::ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "does not stop");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn starts_answers_stops_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let name = format!("test{}", std::process::id());
    let config = config(directory.path(), &name, "net_ring0", SERVICE);
    let socket = directory.path().join("api.sock");
    // As the unit starts it: EAL would follow this directory, where DPDK's tools and a second daemon do not look.
    let unit_directory = directory.path().join("run");
    std::fs::create_dir(&unit_directory).unwrap();
    let child = daemon(&config)
        .args(["--log-level", "warn"])
        .env("RUNTIME_DIRECTORY", &unit_directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut running = Running(child);
    running.wait_for("ready", || {
        get(&socket, "/v1/ready").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
    });
    let workers = get(&socket, "/v1/workers").unwrap();
    assert!(workers.contains(r#""core":0,"cpu":0"#), "{workers}");
    let ports = get(&socket, "/v1/ports").unwrap();
    assert!(ports.contains(r#""driver":"net_ring""#), "{ports}");

    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(|| "/tmp".into(), std::path::PathBuf::from);
    let eal_directories =
        [Path::new("/var/run"), &runtime].map(|root| root.join("dpdk").join(format!("guideway-{name}")));
    assert!(eal_directories.iter().any(|of| of.exists()), "{eal_directories:?}");
    assert_eq!(std::fs::read_dir(&unit_directory).unwrap().count(), 0);

    // A second one with the same name, by hand, is refused, and does not take the first one's files away.
    let second = daemon(&config).output().unwrap();
    let (_, stderr) = text(&second);
    assert_eq!(second.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("machine.name"), "{stderr}");
    assert!(get(&socket, "/v1/ready").unwrap().starts_with("HTTP/1.1 200"));

    // Nor is one of another name that has its socket or its state in common: before EAL, and it says whose they are.
    let text_of_first = std::fs::read_to_string(&config).unwrap();
    let other = tempfile::tempdir().unwrap();
    let own = directory.path().display().to_string();
    for (what, key) in [("answers on", "socket"), ("state_dir", "state_dir")] {
        let moved = text_of_first.lines().map(|line| match line.starts_with(key) {
            true => line.to_owned(),
            false => line.replace(&own, &other.path().display().to_string()).replace(&name, "another"),
        });
        let path = other.path().join("second.toml");
        std::fs::write(&path, moved.collect::<Vec<_>>().join("\n")).unwrap();
        let second = daemon(&path).output().unwrap();
        let (_, stderr) = text(&second);
        assert_eq!(second.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(what) && stderr.contains(&format!("process {}", running.0.id())), "{stderr}");
        assert!(!stderr.contains("EAL started"), "{stderr}");
    }
    assert!(get(&socket, "/v1/ready").unwrap().starts_with("HTTP/1.1 200"));

    let status = running.terminate();
    let (mut stdout, mut stderr) = (String::new(), String::new());
    running.0.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    running.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert_eq!(stdout, "");
    assert!(!stderr.contains("ERROR"), "{stderr}");
    assert!(eal_directories.iter().all(|of| !of.exists()), "files are left in {eal_directories:?}");
    assert!(!socket.exists());
}

#[test]
fn flows_are_restored_described_dumped_and_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let name = format!("test{}c", std::process::id());
    let config = config(directory.path(), &name, "net_ring0", SERVICE);
    let socket = directory.path().join("api.sock");
    let child = daemon(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut running = Running(child);
    running.wait_for("ready", || {
        get(&socket, "/v1/ready").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
    });
    let post = |path: &str, body: &str| ask(&socket, "POST", path, body).unwrap();
    let one = "service=web&client=198.51.100.7:4000";
    let describe = || get(&socket, &format!("/v1/flows/describe?{one}")).unwrap();
    let known = describe();
    assert!(known.contains(r#""slot_backend":"b1""#) && known.contains(r#""entries":[]"#), "{known}");

    let line = |port: u16, backend: &str| {
        format!(
            r#"{{"core":0,"service":"web","client":"198.51.100.7:{port}","to":"203.0.113.10:80","backend":"{backend}","state":"tcp_established","idle_us":5000000}}"#
        )
    };
    let lines = [line(4000, "b1"), line(4001, "b9"), line(4002, "b1"), line(4000, "b1")].join("\n");
    let restored = post("/v1/flows/restore", &lines);
    assert!(restored.contains(r#""restored":2,"refused":2"#), "{restored}");
    assert!(restored.contains(r#""line":2"#) && restored.contains(r#""line":4"#), "{restored}");
    let known = describe();
    assert!(known.contains(r#""core":0,"backend":"b1""#) && known.contains("tcp_established"), "{known}");

    let (mut dumped, mut cursor) = (String::new(), String::new());
    loop {
        let piece = get(&socket, &format!("/v1/flows/dump?cursor={cursor}")).unwrap();
        dumped += &piece;
        match piece.rsplit_once(r#""next":""#) {
            Some((_, next)) => cursor = next.split('"').next().unwrap().to_owned(),
            None => break,
        }
    }
    assert_eq!(dumped.matches(r#""state":"tcp_established""#).count(), 2, "{dumped}");
    let workers = get(&socket, "/v1/workers").unwrap();
    assert!(workers.contains(r#""flow_inserts":0"#) && workers.contains(r#""flow_restored":2"#), "{workers}");

    let gone = post(&format!("/v1/flows/forget?{one}"), "");
    assert!(gone.contains(r#""forgotten":[{"core":0,"backend":"b1""#), "{gone}");
    assert!(describe().contains(r#""entries":[]"#));
    let backends = get(&socket, "/v1/backends").unwrap();
    assert!(backends.contains(r#""flows":1"#) && backends.contains(r#""flows_new":0"#), "{backends}");
    assert_eq!(running.terminate().code(), Some(0));
}

#[test]
fn a_capture_begins_and_ends() {
    let directory = tempfile::tempdir().unwrap();
    let name = format!("test{}p", std::process::id());
    let config = config(directory.path(), &name, "net_ring0", SERVICE);
    let socket = directory.path().join("api.sock");
    let child = daemon(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut running = Running(child);
    running.wait_for("ready", || {
        get(&socket, "/v1/ready").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
    });
    // The file is no text.
    let piece = || -> Vec<u8> {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        write!(stream, "GET /v1/capture?id=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    };
    let has = |answer: &[u8], text: &str| answer.windows(text.len()).any(|at| at == text.as_bytes());
    let begun = ask(&socket, "POST", "/v1/capture?service=web&snap=9216", "").unwrap();
    assert!(begun.contains(r#""id":1"#) && begun.contains(r#""data0:rx""#), "{begun}");
    let first = piece();
    assert!(has(&first, "guideway-capture: running") && has(&first, "data0:tx"));
    let ended = ask(&socket, "POST", "/v1/capture/end?id=1", "").unwrap();
    assert!(ended.contains(r#""frames":0"#), "{ended}");
    assert!(has(&piece(), "guideway-capture: over"));
    assert!(has(&piece(), "HTTP/1.1 404"));
    assert_eq!(running.terminate().code(), Some(0));
}

/// 1: the configuration cannot be read; 2: it was read, and is refused. Whatever was asked.
#[test]
fn a_configuration_that_cannot_be_read_is_not_a_wrong_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("bad.toml"), "[machine]\nname = 7\n").unwrap();
    std::fs::write(path("utf16.toml"), b"\xff\xfe[\0m\0").unwrap();
    for (file, expected, words) in [
        ("none.toml", 1, "cannot read"),
        ("", 1, "cannot read"),
        ("bad.toml", 2, "must be a string"),
        ("utf16.toml", 2, "save it as UTF-8"),
    ] {
        for more in [&[][..], &["--check"], &["--print-eal-args"]] {
            let output = daemon(&path(file)).args(more).output().unwrap();
            let (stdout, stderr) = text(&output);
            assert_eq!(
                (output.status.code(), stdout.as_str()),
                (Some(expected), ""),
                "{file} {more:?}: {stderr}"
            );
            assert!(stderr.contains(words), "{file} {more:?}: {stderr}");
        }
    }
}

#[test]
fn what_it_cannot_do_it_says() {
    let directory = tempfile::tempdir().unwrap();
    let name = format!("test{}x", std::process::id());
    let good = config(directory.path(), &name, "net_ring0", SERVICE);
    let (stdout, stderr) =
        text(&daemon(&good).args(["--print-eal-args", "--", "--log-level=7"]).output().unwrap());
    assert_eq!(
        stdout,
        format!(
            "guidewayd --no-huge -m 128 --no-telemetry --lcores '0@(0),1@0' --file-prefix guideway-{name} \
             --vdev net_ring0 --no-pci --log-level=7\n"
        ),
        "{stderr}"
    );
    assert!(daemon(&good).arg("--check").status().unwrap().success());

    let refused = daemon(&good).args(["--", "-l", "0-1"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused).1.contains("workers.cpus"), "{}", text(&refused).1);

    let bad = config(directory.path(), &name, "net_ring0", "[[service]]\nname = \"web\"\nvpi = 1\n");
    for option in [None, Some("--check")] {
        let refused = daemon(&bad).args(option).output().unwrap();
        assert_eq!(refused.status.code(), Some(2));
        assert!(text(&refused).1.contains("vpi"), "{}", text(&refused).1);
    }

    let missing = config(directory.path(), &name, "net_af_packet0,iface=doesnotexist0", "");
    let failed = daemon(&missing).output().unwrap();
    let (stdout, stderr) = text(&failed);
    assert_eq!((failed.status.code(), stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(stderr.contains("port \"data0\"") && stderr.contains("SIOCGIFINDEX"), "{stderr}");
}

#[test]
fn a_level_that_is_none_is_refused_and_an_empty_variable_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let good = config(directory.path(), "levels", "net_ring0", SERVICE);
    for level in ["warning", "verbose", "wrn", "info,dpdk"] {
        for action in [None, Some("--check"), Some("--print-eal-args")] {
            let mut by_flag = daemon(&good);
            by_flag.args(["--log-level", level]);
            let mut by_variable = daemon(&good);
            by_variable.env("GUIDEWAY_LOG", level);
            for mut command in [by_flag, by_variable] {
                let refused = command.args(action).output().unwrap();
                let (_, stderr) = text(&refused);
                assert_eq!(refused.status.code(), Some(2), "{level}: {stderr}");
                assert!(stderr.contains("is no level; levels are off, error, warn"), "{stderr}");
            }
        }
    }
    let mut checked = daemon(&good);
    checked.envs([("GUIDEWAY_LOG", ""), ("GUIDEWAY_LOG_FORMAT", "")]).arg("--check");
    assert_eq!(checked.status().unwrap().code(), Some(0));
}

#[test]
fn every_line_of_a_log_in_json_is_json() {
    let directory = tempfile::tempdir().unwrap();
    let name = format!("test{}j", std::process::id());
    let bad = config(directory.path(), &name, "net_ring0", "[[service]]\nname = \"web\"\nvpi = 1\n");
    let json = |config: &Path, arguments: &[&str]| {
        let output = daemon(config).args(["--log-format", "json"]).args(arguments).output().unwrap();
        let (stdout, stderr) = text(&output);
        assert_eq!(stdout, "");
        let lines: Vec<String> = stderr.lines().map(str::to_owned).collect();
        for line in &lines {
            assert!(line.starts_with('{') && line.ends_with('}') && line.contains("\"level\":"), "{line}");
        }
        (output.status.code(), lines)
    };
    let (code, lines) = json(&bad, &[]);
    assert_eq!(code, Some(2));
    let line = lines.iter().find(|line| line.contains("vpi")).unwrap();
    assert!(line.contains("\"line\":") && line.contains("\"help\":"), "{line}");
    // EAL's own words, which it also writes to standard error by itself.
    let good = config(directory.path(), &name, "net_ring0", SERVICE);
    let (code, lines) = json(&good, &["--", "--socket-mem", "99999999"]);
    assert_eq!(code, Some(1), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("EAL does not start")), "{lines:?}");
    let (code, lines) = json(Path::new("/nonexistent/guideway.toml"), &[]);
    assert!(code != Some(0) && lines.len() == 1, "{lines:?}");
}

#[test]
fn nobody_who_hears_it_ends_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let name = format!("test{}f", std::process::id());
    let good = config(directory.path(), &name, "net_ring0", SERVICE);
    let socket = directory.path().join("api.sock");
    let full = || Stdio::from(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let mut running = Running(daemon(&good).stdout(full()).stderr(full()).spawn().unwrap());
    running.wait_for("ready", || {
        get(&socket, "/v1/ready").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
    });
    let lost = get(&socket, "/metrics").unwrap();
    let lost = lost.lines().find_map(|line| line.strip_prefix("guideway_log_lines_lost_total ")).unwrap();
    assert!(lost.parse::<u64>().unwrap() > 0, "{lost}");
    assert_eq!(running.terminate().code(), Some(0));
    // What is refused is refused by status, too, where nobody reads why.
    let bad = config(directory.path(), &name, "net_ring0", "[[service]]\nname = \"web\"\nvpi = 1\n");
    assert_eq!(daemon(&bad).stdout(full()).stderr(full()).status().unwrap().code(), Some(2));
    let good = config(directory.path(), &name, "net_ring0", SERVICE);
    assert_eq!(daemon(&good).arg("--check").stdout(full()).stderr(full()).status().unwrap().code(), Some(1));
}

#[test]
fn a_reload_at_any_moment_of_a_start_is_not_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let name = format!("test{}h", std::process::id());
    let good = config(directory.path(), &name, "net_ring0", SERVICE);
    let socket = directory.path().join("api.sock");
    let child = daemon(&good).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    let mut running = Running(child);
    // It has taken the signal as soon as it is more than a loaded program; before its first instruction nobody can.
    std::thread::sleep(Duration::from_millis(20));
    running.wait_for("ready", || {
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
        get(&socket, "/v1/ready").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
    });
    running.wait_for("reloaded", || {
        get(&socket, "/v1/events").is_some_and(|events| events.contains("applied as generation"))
    });
    assert_eq!(running.terminate().code(), Some(0));
    let mut stderr = String::new();
    running.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert!(stderr.contains("reading the configuration again"), "{stderr}");
}
