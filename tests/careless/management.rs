//! The management thread waits for nobody: not for a large configuration, slow or silent clients, or a disk that hangs.

use super::full_or;
use guideway_lab::api::{Api, rows};
use guideway_lab::command::until;
use guideway_lab::config::{Config, Member, Mode, Service};
use guideway_lab::load::flood::{FloodLoad, FloodOf};
use guideway_lab::scenario::wait_up;
use guideway_lab::topology::{ECHO_PORT, VIP};
use guideway_lab::{Balancer, Lab, Namespace};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddrV4, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const METRICS: &str = "127.0.0.1:9100";
/// Traffic meanwhile, packets a second.
const RATE: u64 = 5_000;
/// What must hold.
const API_MEDIAN: Duration = Duration::from_millis(5);
const LONGEST_TURN_US: u64 = 100_000;

/// What was seen while something was going on.
#[derive(Debug)]
struct Seen {
    median: Duration,
    worst: Duration,
    answers: usize,
}

/// Asks the API until `done`, and says how long its answers took.
fn observe(api: &Api, done: &AtomicBool) -> Seen {
    let mut took = Vec::new();
    while !done.load(Ordering::Relaxed) || took.is_empty() {
        let begun = Instant::now();
        let answer = api.request("GET", "/v1/ready", "").unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        took.push(begun.elapsed());
        std::thread::sleep(Duration::from_millis(5));
    }
    took.sort_unstable();
    Seen { median: took[took.len() / 2], worst: took[took.len() - 1], answers: took.len() }
}

/// The longest turn of the management thread since the start: job, microseconds without waiting for a CPU, by the clock.
pub(crate) fn longest_turn(status: &Value) -> (String, u64, u64) {
    let us = |of: &Value, key: &str| of[key].as_u64().unwrap();
    let turns = status["management"].as_array().unwrap();
    let longest = turns.iter().max_by_key(|of| us(of, "longest_us")).unwrap();
    (longest["job"].as_str().unwrap().to_owned(), us(longest, "longest_us"), us(longest, "longest_wall_us"))
}

fn sum(api: &Api, path: &str, key: &str) -> u64 {
    rows(&api.get(path).unwrap()).iter().filter_map(|row| row[key].as_u64()).sum()
}

/// Packets that were forwarded for [`counted`].
fn forwarded(api: &Api) -> u64 {
    let all = api.get("/v1/backends").unwrap();
    rows(&all).iter().filter(|row| row["service"] == "udp").filter_map(|row| row["packets"].as_u64()).sum()
}

/// A service that counts what of this traffic is forwarded, without checks.
pub(crate) fn counted() -> Service {
    let members = vec![Member::v4(1, Mode::Ipip), Member::v4(2, Mode::Ipip)];
    let echo = Service::echo(Mode::Ipip, members);
    Service { name: "udp".into(), protocol: "udp", health: String::new(), ..echo }
}

/// Does something under traffic of [`RATE`] to [`counted`], with the API asked meanwhile, and checks what must hold.
pub(crate) fn under<T: Send>(
    what: &str,
    lab: &Lab,
    balancer: &Balancer,
    action: impl FnOnce() -> T + Send,
) -> T {
    let api = balancer.api();
    let before = (forwarded(api), sum(api, "/v1/ports", "rx_missed"), api.drops().unwrap());
    let v4 = |address| if let IpAddr::V4(v4) = address { Some(v4) } else { None };
    let flood = FloodLoad {
        of: FloodOf::Datagrams,
        target: SocketAddrV4::new(VIP.parse().unwrap(), ECHO_PORT),
        sources: lab.sources(VIP.parse().unwrap()).into_iter().filter_map(v4).collect(),
        rate: RATE,
        duration_ms: full_or(40_000, 4_000),
        seed: 5,
    };
    let duration = Duration::from_millis(flood.duration_ms);
    let flood = lab.flood(flood).unwrap();
    let done = AtomicBool::new(false);
    let (result, seen) = std::thread::scope(|scope| {
        let seen = scope.spawn(|| observe(api, &done));
        // Should it fail, nobody waits for what observes.
        let result = catch_unwind(AssertUnwindSafe(action));
        done.store(true, Ordering::Relaxed);
        (result, seen.join().unwrap())
    });
    let result = result.unwrap_or_else(|panic| resume_unwind(panic));
    let sent = flood.finish(2 * duration + Duration::from_secs(10)).unwrap();
    let lost = until("every packet", Duration::from_secs(3), || {
        let forwarded = forwarded(api) - before.0;
        if forwarded >= sent.sent { Ok(0) } else { Err((sent.sent - forwarded).to_string()) }
    });
    let missed = sum(api, "/v1/ports", "rx_missed") - before.1;
    let status = api.get("/v1/status").unwrap();
    let (job, us, wall_us) = longest_turn(&status);
    println!(
        "{what}: {} packets, lost {lost:?}, {missed} missed by the port; {} answers, median {:?}, worst {:?}; longest turn so far \
         {:.1} ms ({job}), by the clock {:.1} ms; log lines lost {}, notices lost {}, connections {}",
        sent.sent,
        seen.answers,
        seen.median,
        seen.worst,
        us as f64 / 1000.0,
        wall_us as f64 / 1000.0,
        status["log_lines_lost"],
        status["notices_lost"],
        status["connections"],
    );
    assert_eq!(
        (lost.unwrap(), missed),
        (0, 0),
        "packets were lost: {:?}, before {:?}",
        api.drops().unwrap(),
        before.2
    );
    assert!(seen.median <= API_MEDIAN, "{what}: {seen:?}");
    assert!(us <= LONGEST_TURN_US, "{what}: {job} took {us} us: {}", status["management"]);
    result
}

/// UDP to two backends, and so many services more, whose first backend has this weight.
fn config(lab: &Lab, more: usize, weight: u32) -> Config {
    let mut config = lab.config(1).with(counted());
    for at in 0..more {
        let member = |index: u8, weight| Member {
            name: format!("s{at}b{index}"),
            ..Member::v4(index, Mode::Ipip).weighing(weight)
        };
        config.services.push(Service {
            name: format!("s{at}"),
            vip: format!("203.0.{}.{}", at / 250 + 114, at % 250 + 1),
            port: 80,
            protocol: "tcp",
            health: String::new(),
            backends: vec![member(1, weight), member(2, 1)],
            ..Service::echo(Mode::Ipip, Vec::new())
        });
    }
    config.extra = format!("[metrics]\nlisten = \"{METRICS}\"\n");
    config
}

/// Connects to a listener of the balancer from inside its namespace, and asks.
fn connect(namespace: &Namespace, count: usize, address: &str, request: &str) -> Vec<TcpStream> {
    let made = namespace.inside(|| {
        let connect = |_| {
            let mut stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.write_all(request.as_bytes())?;
            std::io::Result::Ok(stream)
        };
        // One that is closed at once is as good an attacker as another.
        (0..count).filter_map(|at| connect(at).ok()).collect::<Vec<_>>()
    });
    made.unwrap()
}

/// How long an honest client takes to get the whole page.
fn scrape(namespace: &Namespace) -> (Duration, usize) {
    let begun = Instant::now();
    let mut stream =
        connect(namespace, 1, METRICS, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .remove(0);
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut page = Vec::new();
    stream.read_to_end(&mut page).unwrap();
    assert!(page.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&page[..page.len().min(200)]));
    (begun.elapsed(), page.len())
}

fn memory_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn large_configurations_slow_clients_and_a_disk_that_hangs_hold_nobody_up() {
    let lab = Lab::new("management").unwrap();
    let services = full_or(4_000, 300);
    let balancer = lab.start_balancer(1, &config(&lab, services, 1)).unwrap();
    wait_up(&balancer, "udp", &["b1", "b2"]).unwrap();
    let (api, namespace) = (balancer.api(), balancer.namespace());

    under("a reload in which every service changes", &lab, &balancer, || {
        std::fs::write(balancer.config_path(), config(&lab, services, 3).render()).unwrap();
        let begun = Instant::now();
        // A slow machine makes 12,000 tables for it.
        let (limit, path) = (Duration::from_secs(75), "/v1/reload?wait=true&timeout_ms=60000");
        let answer = api.request_within(limit, "POST", path, "").unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        let answer = answer.json().unwrap();
        assert_eq!(answer["acknowledged"], true);
        let changed = answer["plan"]["services"].as_array().unwrap();
        assert_eq!(changed.iter().filter(|of| of["slots_moved"].as_u64() > Some(0)).count(), services);
        println!("reloaded in {:?}", begun.elapsed());
    });

    let memory = memory_kib(balancer.id());
    under("300 readers that take a byte now and then", &lab, &balancer, || {
        let mut readers =
            connect(namespace, 300, METRICS, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let until = Instant::now() + Duration::from_secs(full_or(30, 3));
        let mut scrapes = Vec::new();
        while Instant::now() < until {
            for reader in &mut readers {
                reader.set_nonblocking(true).unwrap();
                let _ = reader.read(&mut [0; 16]);
            }
            scrapes.push(scrape(namespace));
            std::thread::sleep(Duration::from_millis(200));
        }
        let (slowest, bytes) = scrapes.iter().max().unwrap();
        let grown = memory_kib(balancer.id()).saturating_sub(memory);
        println!(
            "{} scrapes of {bytes} bytes meanwhile, the slowest in {slowest:?}; {grown} KiB of memory more",
            scrapes.len()
        );
        assert!(*slowest < Duration::from_secs(5));
        assert!(grown < full_or(400, 128) * 1024, "{grown} KiB");
    });

    under("2,800 requests that are never finished", &lab, &balancer, || {
        let half = connect(namespace, 2_800, METRICS, "GET /metrics HTTP/1.1\r\nHo");
        let until = Instant::now() + Duration::from_secs(full_or(30, 3));
        while Instant::now() < until {
            let (took, _) = scrape(namespace);
            assert!(took < Duration::from_secs(2), "an honest client waited for {took:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
        drop(half);
    });

    disk(&lab, &balancer);
    balancer.stop().unwrap();
}

/// A disk that hangs: the file beside the state is a pipe, which nobody opens to read from.
fn disk(lab: &Lab, balancer: &Balancer) {
    let api = balancer.api();
    let state = lab.config(1).dir.join("state");
    let pipe = state.join(".state.json.new");
    run_mkfifo(&pipe);
    under("a disk that hangs", lab, balancer, || {
        let begun = Instant::now();
        let answer = api.json("POST", "/v1/services/udp/backends/b2/drain", "").unwrap();
        println!("drained in {:?}: {answer}", begun.elapsed());
        assert_eq!((&answer["drained"], &answer["saved"]), (&true.into(), &false.into()));
        assert!(answer["unsaved_because"].as_str().unwrap().contains("disk"), "{answer}");
        std::thread::sleep(Duration::from_secs(full_or(30, 0)));
    });
    // The disk is back: whoever waits in its open goes on, fails on what is no file, and tries again.
    let mut rest = Vec::new();
    let mut reader = std::fs::File::open(&pipe).unwrap();
    std::fs::remove_file(&pipe).unwrap();
    reader.read_to_end(&mut rest).unwrap();
    until("the drain is on the disk", Duration::from_secs(10), || {
        let text = std::fs::read_to_string(state.join("state.json")).map_err(|error| error.to_string())?;
        if text.contains("\"backend\": \"b2\"") && text.contains("\"drains\": [\n    {") {
            Ok(())
        } else {
            Err(text)
        }
    })
    .unwrap();
    until("an event that tells it", Duration::from_secs(5), || {
        let events = api.request("GET", "/v1/events?limit=10000", "").unwrap().body;
        if events.contains("\"state_saved\"") { Ok(()) } else { Err(events) }
    })
    .unwrap();
    api.json("POST", "/v1/services/udp/backends/b2/undrain", "").unwrap();
}

fn run_mkfifo(path: &Path) {
    guideway_lab::command::run(&["mkfifo", &path.to_string_lossy()]).unwrap();
}
