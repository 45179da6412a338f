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
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
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
