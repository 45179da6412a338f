//! Two daemons and an etcd, without huge pages, hardware or root: they join, agree, go on when the store is away, and leave.
#![allow(clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// A process; killed if the test fails on the way.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        until("ended", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "never {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn etcd(directory: &Path, [client, peer]: &[String; 2]) -> Running {
    let child = Command::new("etcd")
        .arg("--data-dir")
        .arg(directory.join("etcd"))
        .args(["--listen-client-urls", client, "--advertise-client-urls", client])
        .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
        .arg(format!("--initial-cluster=default={peer}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Running(
        child.expect("etcd (Debian's etcd-server; dpdk-setup/packages.sh --development installs it) starts"),
    )
}

/// A machine's file and socket.
struct Machine {
    socket: PathBuf,
    config: PathBuf,
    text: String,
}

impl Machine {
    fn new(directory: &Path, name: &str, address: &str, store: &str, key: &str) -> Machine {
        let directory = directory.join(name);
        std::fs::create_dir(&directory).unwrap();
        let text = format!(
            r#"
[machine]
name = "{name}{process}"
address = "{address}"
next_hop_mac = "02:00:00:00:00:01"
cluster_key = "{key}"
state_dir = "{place}/state"
[api]
socket = "{place}/api.sock"
[dpdk]
eal_args = ["--no-huge", "-m", "128", "--no-telemetry"]
[workers]
cpus = [0]
management_cpus = [0]
idle = "adaptive"
flows = 4096
[cluster]
store = "etcd"
endpoints = ["{store}"]
[[port]]
name = "data0"
device = "net_ring0"
[[service]]
name = "web"
vip = "203.0.113.10"
port = 80
maglev_size = 251
[[service.backend]]
name = "b1"
address = "10.0.2.21"
"#,
            process = std::process::id(),
            place = directory.display()
        );
        let config = directory.join("guideway.toml");
        std::fs::write(&config, &text).unwrap();
        Machine { socket: directory.join("api.sock"), config, text }
    }

    /// The text with another backend.
    fn with_backend(&self, number: u8) -> String {
        format!("{}[[service.backend]]\nname = \"b{number}\"\naddress = \"10.0.2.2{number}\"\n", self.text)
    }

    fn start(&self) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_guidewayd"));
        command.arg("--config").arg(&self.config).args(["--log-level", "error"]);
        Running(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Status and body.
    fn ask(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let mut stream = UnixStream::connect(&self.socket).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/toml\r\n"
        );
        write!(stream, "{head}Content-Length: {length}\r\n\r\n{body}").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        Some((status, answer))
    }

    fn says(&self, path: &str, words: &str) -> bool {
        self.ask("GET", path, "").is_some_and(|(_, answer)| answer.contains(words))
    }

    fn is_ready(&self) -> bool {
        self.ask("GET", "/v1/ready", "").is_some_and(|(status, _)| status == 200)
    }
}

#[test]
fn two_daemons_join_agree_and_leave() {
    let directory = tempfile::tempdir().unwrap();
    // Free now, and nobody else is likely to take them meanwhile.
    let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let urls = ports.each_ref().map(|port| format!("http://{}", port.local_addr().unwrap()));
    drop(ports);
    let key = "f00102030405060708090a0b0c0d0e0f";
    let machine = |name, address, key| Machine::new(directory.path(), name, address, &urls[0], key);
    let (one, two) = (machine("one", "10.0.2.11", key), machine("two", "10.0.2.12", key));

    // Without its store a machine serves nothing, and says why.
    let mut first = one.start();
    until("up", || one.says("/v1/cluster", "\"store_problem\""));
    let (status, answer) = one.ask("GET", "/v1/ready", "").unwrap();
    assert_eq!(status, 503, "{answer}");
    assert!(answer.contains("no member of the cluster"), "{answer}");
    let store = etcd(directory.path(), &urls);
    until("joined", || one.is_ready());
    let mut second = two.start();
    until("both joined", || two.is_ready());
    until("known", || one.says("/metrics", "guideway_cluster_members{state=\"member\"} 2"));

    // What one machine is asked for is in force on all when it answers.
    let (status, answer) =
        two.ask("POST", "/v1/apply?wait=true&timeout_ms=30000", &two.with_backend(2)).unwrap();
    assert!(status == 200 && answer.contains("\"acknowledged\":true"), "{answer}");
    assert!(one.says("/v1/backends", "10.0.2.22") && two.says("/v1/backends", "10.0.2.22"));
    let (status, answer) = one.ask("POST", "/v1/services/web/backends/b1/drain", "").unwrap();
    assert!(status == 200 && answer.contains("\"changed\":true"), "{answer}");
    assert!(two.says("/v1/backends", "\"state\":\"drain\""));
    assert!(two.says("/v1/exceptions", "\"slots\":251") && two.says("/v1/owners", "\"primary\":"));

    // The store goes, and comes back.
    drop(store);
    until("noticed", || {
        one.says("/v1/cluster", "\"store_reached\":false")
            && two.says("/v1/cluster", "\"store_reached\":false")
    });
    let (status, answer) = one.ask("POST", "/v1/apply?wait=true", &one.with_backend(3)).unwrap();
    assert!(status == 503 && answer.contains("store does not take it"), "{answer}");
    assert!(one.is_ready() && two.is_ready(), "they forward as before");
    let _store = etcd(directory.path(), &urls);
    until("back", || {
        one.says("/v1/cluster", "\"store_reached\":true") && two.says("/v1/cluster", "\"store_reached\":true")
    });
    // Perhaps the leader is not chosen yet; then it takes a little longer.
    let (status, answer) =
        one.ask("POST", "/v1/apply?wait=true&timeout_ms=30000", &one.with_backend(3)).unwrap();
    assert!(status == 200 && answer.contains("\"acknowledged\":true"), "{answer}");
    assert!(two.says("/v1/backends", "10.0.2.23"));

    // One that does not fit is told so, and harms nobody.
    let other = machine("other", "10.0.2.13", "e00102030405060708090a0b0c0d0e0f");
    let mut third = other.start();
    assert_eq!(third.wait().code(), Some(1));
    let mut problem = String::new();
    third.0.stderr.take().unwrap().read_to_string(&mut problem).unwrap();
    assert!(problem.contains("machine.cluster_key differs"), "{problem}");

    // One leaves; the other one stays, and then is stopped.
    let (status, answer) = one.ask("POST", "/v1/leave", "").unwrap();
    assert!(status == 200 && answer.contains("\"others\":1"), "{answer}");
    assert_eq!(first.wait().code(), Some(0));
    until("alone", || two.says("/metrics", "guideway_cluster_members{state=\"member\"} 1"));
    assert!(two.is_ready() && two.says("/metrics", "guideway_cluster_members{state=\"lost\"} 0"));
    let pid = rustix::process::Pid::from_child(&second.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(second.wait().code(), Some(0));
}
