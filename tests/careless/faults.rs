//! Faults at random moments, several at a time as they come, under held connections. The seed is printed; `GUIDEWAY_FAULTS_SEED` chooses
//! it, `GUIDEWAY_FAULTS_SECONDS` how long it goes on (ten minutes in `cargo xtask soak`).

use super::disk::SmallDisk;
use super::management::longest_turn;
use super::{full_or, hold};
use guideway_lab::command::{Process, until};
use guideway_lab::config::{Config, Member, Mode, Service};
use guideway_lab::scenario::{check_conservation, wait_up};
use guideway_lab::{Balancer, Lab};
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng as _};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

const METRICS: &str = "127.0.0.1:9100";
/// Pauses between two faults, milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 50..600;

/// What may happen. None of these cuts the wire between clients and backends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Fault {
    /// The file with other weights, by SIGHUP.
    Reload,
    /// A file that cannot be used, by SIGHUP; and a good one again.
    BadFile,
    /// The file is away while SIGHUP asks for it.
    NoFile,
    /// A backend is drained, or no more.
    Drain,
    /// The exception interface is set down, its addresses or routes go, a neighbour goes, it is deleted.
    InterfaceDown,
    Flush,
    Routes,
    Neighbour,
    InterfaceDeleted,
    /// The state's disk is full, or has room again.
    Disk,
    /// Nobody reads the log for a while, or somebody does.
    Log,
    /// Requests that are never finished, or let go.
    HalfOpen,
    /// Answers that nobody takes.
    Untaken,
    /// The process is stopped for a moment.
    Sleep,
    /// A second daemon with the same exception interface.
    Second,
    /// A VIP is taken off the loopback.
    Vip,
}

const FAULTS: [Fault; 16] = [
    Fault::Reload,
    Fault::BadFile,
    Fault::NoFile,
    Fault::Drain,
    Fault::InterfaceDown,
    Fault::Flush,
    Fault::Routes,
    Fault::Neighbour,
    Fault::InterfaceDeleted,
    Fault::Disk,
    Fault::Log,
    Fault::HalfOpen,
    Fault::Untaken,
    Fault::Sleep,
    Fault::Second,
    Fault::Vip,
];

fn config(lab: &Lab, weight: u32) -> Config {
    let member = |index| Member::v4(index, Mode::Ipip).weighing(if index == 1 { weight } else { 1 });
    let echo = Service::echo(Mode::Ipip, (1..=3).map(member).collect());
    let echo = Service { extra: "announce = \"kernel\"\n".into(), ..echo };
    Config { extra: format!("[metrics]\nlisten = \"{METRICS}\"\n"), ..lab.config(1) }.with(echo)
}

/// The machine, and what was done to it.
struct Stage<'l> {
    lab: &'l Lab,
    balancer: &'l Balancer,
    disk: &'l SmallDisk,
    random: SplitMix64,
    is_full: bool,
    /// Held: the log's pipe is read; else it fills.
    log: &'l File,
    half_open: Vec<TcpStream>,
    seconds: Vec<Process>,
    done: BTreeMap<Fault, u32>,
}

impl Stage<'_> {
    fn below(&mut self, bound: u64) -> u64 {
        self.random.next_u64() % bound
    }

    fn connect(&self, count: usize, request: &str) -> Vec<TcpStream> {
        let connect = || {
            let mut stream = TcpStream::connect(METRICS)?;
            stream.write_all(request.as_bytes())?;
            std::io::Result::Ok(stream)
        };
        self.balancer.namespace().inside(|| (0..count).filter_map(|_| connect().ok()).collect()).unwrap()
    }

    /// Reads what of the log waits in its pipe.
    fn read_log(&self) {
        let mut bytes = [0; 65_536];
        while rustix::io::read(self.log, &mut bytes).is_ok_and(|count| count > 0) {}
    }

    fn commit(&mut self, fault: Fault) {
        *self.done.entry(fault).or_default() += 1;
        let own = self.balancer.namespace();
        let path = self.balancer.config_path();
        // What is not there cannot be taken away: the fault before did it.
        let ip = |command: &str| drop(own.ip(command));
        match fault {
            Fault::Reload => {
                let weight = 1 + u32::try_from(self.below(5)).unwrap();
                std::fs::write(path, config(self.lab, weight).render()).unwrap();
                self.balancer.signal(Signal::HUP);
            }
            Fault::BadFile => {
                std::fs::write(path, "[machine]\nname = 1\n").unwrap();
                self.balancer.signal(Signal::HUP);
                std::thread::sleep(Duration::from_millis(self.below(50)));
                std::fs::write(path, config(self.lab, 1).render()).unwrap();
            }
            Fault::NoFile => {
                let away = path.with_extension("away");
                std::fs::rename(path, &away).unwrap();
                self.balancer.signal(Signal::HUP);
                std::thread::sleep(Duration::from_millis(self.below(50)));
                std::fs::rename(&away, path).unwrap();
            }
            Fault::Drain => {
                let verb = if self.below(2) == 0 { "drain" } else { "undrain" };
                let name = 1 + self.below(2);
                let path = format!("/v1/services/echo/backends/b{name}/{verb}");
                // It may be asleep, or answer after 5 s that the disk does not take it.
                drop(self.balancer.api().request("POST", &path, ""));
            }
            Fault::InterfaceDown => ip("link set gw0 down"),
            Fault::Flush => ip("address flush dev gw0"),
            Fault::Routes => {
                ip("route del default dev gw0");
                ip("-6 route del default dev gw0");
            }
            Fault::Neighbour => ip("neighbour flush dev gw0"),
            Fault::InterfaceDeleted => ip("link delete gw0"),
            Fault::Disk => {
                if self.is_full {
                    self.disk.free();
                } else {
                    self.disk.fill();
                }
                self.is_full = !self.is_full;
            }
            Fault::Log => self.read_log(),
            Fault::HalfOpen => {
                self.half_open.truncate(200);
                let new = self.connect(200, "GET /metrics HTTP/1.1\r\nHo");
                self.half_open.splice(0..0, new);
            }
            Fault::Untaken => {
                let new = self.connect(50, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
                self.half_open.splice(0..0, new);
            }
            Fault::Sleep => {
                self.balancer.signal(Signal::STOP);
                std::thread::sleep(Duration::from_millis(self.below(400)));
                self.balancer.signal(Signal::CONT);
            }
            Fault::Second => {
                self.seconds.retain_mut(Process::is_running);
                if self.seconds.is_empty() {
                    self.seconds.push(self.second());
                }
            }
            Fault::Vip => ip("address del 203.0.113.10/32 dev lo"),
        }
    }

    /// A daemon that wants the same exception interface, and shares nothing else.
    fn second(&self) -> Process {
        let dir = self.lab.dir().join("second");
        std::fs::create_dir_all(&dir).unwrap();
        let text = format!(
            "[machine]\nname = \"second\"\naddress = \"10.0.9.1\"\nnext_hop_mac = \"02:00:00:00:00:99\"\n\
             cluster_key = \"{}\"\nstate_dir = \"{dir}/state\"\n[api]\nsocket = \"{dir}/api.sock\"\n\
             [dpdk]\neal_args = [\"--no-pci\", \"--no-huge\", \"-m\", \"128\", \"--no-telemetry\"]\n[workers]\ncpus = [1]\n\
             [[port]]\nname = \"data0\"\ndevice = \"net_null0\"\nexception = \"gw0\"\nexception_addresses = [\"10.0.9.1/24\"]\n",
            "7d0b1c2d3e4f5061728394a5b6c7d8e9",
            dir = dir.display()
        );
        let path = dir.join("guideway.toml");
        std::fs::write(&path, text).unwrap();
        let program = self.lab.binaries().guidewayd.to_str().unwrap();
        let argv = [program, "--config", path.to_str().unwrap()];
        self.balancer.namespace().start("second", &argv, &dir.join("log")).unwrap()
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn faults_at_random_moments_break_no_connection() {
    let seconds = number("GUIDEWAY_FAULTS_SECONDS").unwrap_or(full_or(600, 12));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = number("GUIDEWAY_FAULTS_SEED").unwrap_or(now.as_secs()).max(1);
    println!("{seconds} s, GUIDEWAY_FAULTS_SEED={seed}");
    let lab = Lab::new("random faults").unwrap();
    let config = config(&lab, 1);
    let disk = SmallDisk::mount(&config.dir.join("state"));
    let pipe = lab.dir().join("log.pipe");
    guideway_lab::command::run(&["mkfifo", &pipe.to_string_lossy()]).unwrap();
    let log = OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    rustix::io::ioctl_fionbio(&log, true).unwrap();
    let config = Config { stderr: Some(pipe.display().to_string()), ..config };
    let mut balancer = lab.start_balancer(1, &config).unwrap();
    wait_up(&balancer, "echo", &["b1", "b2", "b3"]).unwrap();
    let count = full_or(600, 150);
    let held = hold(&lab, false, count);

    let mut stage = Stage {
        lab: &lab,
        balancer: &balancer,
        disk: &disk,
        random: SplitMix64::seed_from_u64(seed),
        is_full: false,
        log: &log,
        half_open: Vec::new(),
        seconds: Vec::new(),
        done: BTreeMap::new(),
    };
    let until_then = Instant::now() + Duration::from_secs(seconds);
    let mut history = Vec::new();
    while Instant::now() < until_then {
        let fault = FAULTS[usize::try_from(stage.below(FAULTS.len() as u64)).unwrap()];
        history.push((Instant::now(), fault));
        stage.commit(fault);
        let pause = PAUSE_MS.start + stage.below(PAUSE_MS.end - PAUSE_MS.start);
        std::thread::sleep(Duration::from_millis(pause));
    }
    if stage.is_full {
        disk.free();
    }
    for mut second in std::mem::take(&mut stage.seconds) {
        assert_eq!(second.wait(Duration::from_secs(20)).unwrap().code(), Some(1), "{}", second.log_tail(20));
    }
    let done = std::mem::take(&mut stage.done);
    drop(stage);

    assert!(balancer.is_running());
    until("it to be ready, and all as wanted", Duration::from_secs(10), || {
        let ready = balancer.api().request("GET", "/v1/ready", "").map_err(|error| error.to_string())?;
        let port =
            balancer.api().find("/v1/ports", &[("name", "data0")]).map_err(|error| error.to_string())?;
        let is_well = ready.status == 200 && port["wrong"] == serde_json::json!([]);
        if is_well { Ok(()) } else { Err(format!("{} {port}", ready.body)) }
    })
    .unwrap();
    let report = held.stop().unwrap();
    let broken = report.broken();
    let status = balancer.api().get("/v1/status").unwrap();
    println!(
        "{done:?}; {} of {count} broke, slowest exchange {} ms; longest turn {:?}; {} log lines lost",
        broken.len(),
        report.slowest_us() / 1000,
        longest_turn(&status),
        status["log_lines_lost"]
    );
    let begun = history.first().map(|(at, _)| *at).unwrap();
    let history: Vec<_> =
        history.iter().map(|(at, fault)| (at.duration_since(begun).as_millis(), fault)).collect();
    assert_eq!((report.connections.len(), broken.len()), (count, 0), "{broken:#?}\n{history:?}");
    check_conservation(&balancer).unwrap();
    // The state is whole: a restart reads it.
    balancer.stop().unwrap();
    let state = std::fs::read(disk.path.join("state.json")).unwrap();
    serde_json::from_slice::<serde_json::Value>(&state).unwrap();
    let again = Config { stderr: None, ..config };
    let balancer = lab.start_balancer(1, &again).unwrap();
    let events = balancer.api().request("GET", "/v1/events", "").unwrap().body;
    assert!(!events.contains("cannot be used"), "{events}");
    balancer.stop().unwrap();
}
