//! Strangers at the agents' port who do all that a stranger can, from as many connections as they get.

use guideway_lab::agent::{AgentConfig, PORT, listen, listening};
use guideway_lab::api::{Api, rows};
use guideway_lab::command::until;
use guideway_lab::config::{HEALTH_TCP, Member, Mode, Service};
use guideway_lab::topology::VIP_OTHER;
use guideway_lab::{Agent, Lab, Namespace, Shape};
use model::agent::{ADDRESSES_MAX, FRAME_MAX, HELLO_MAX, Proof, SERVICES_MAX, ToMachine, VERSION, encode};
use std::net::{Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// Where they come from: the last byte, on the management network.
const STRANGERS: [u8; 4] = [101, 102, 103, 104];
/// Connections from each, as many as a machine lets strangers have from one address.
const CONNECTIONS: usize = 64;
/// How long each waits before it comes again.
const AGAIN: Duration = Duration::from_millis(100);
/// The honest agent's lease.
const LEASE_MS: u64 = 3000;
/// What must hold.
const API_MEDIAN: Duration = Duration::from_millis(5);
const WATCHDOG_GAP: Duration = Duration::from_secs(2);
const MEMORY_KIB: u64 = 32 * 1024;

/// Seconds under attack: a minute where tests are to be as long as they should be.
fn attack() -> Duration {
    let is_full = std::env::var_os("GUIDEWAY_LAB_FULL").is_some_and(|value| !value.is_empty());
    Duration::from_secs(if is_full { 60 } else { 8 })
}

#[test]
fn strangers_at_the_agents_port_cost_neither_api_nor_watchdog_nor_leases() {
    let shape = Shape { balancers: 1, backends: 1, huge_pages: 256, management: true };
    let lab = Lab::with("strangers at the agents' port", &shape).unwrap();
    let management = lab.management().unwrap();
    for last in STRANGERS {
        management.ip(&format!("address add 10.0.3.{last}/24 dev br1")).unwrap();
    }
    let watchdog = lab.dir().join("notify.sock");
    let told = UnixDatagram::bind(&watchdog).unwrap();
    let (attacked, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    // From the start: what nobody reads fills the socket.
    let watched = {
        let (attacked, stop) = (Arc::clone(&attacked), Arc::clone(&stop));
        std::thread::spawn(move || longest_gap(&told, &attacked, &stop))
    };
    let mut config = lab.config(1);
    config.notify = Some(watchdog);
    config.extra = listening(1);
    config.services = vec![Service {
        extra: "maglev_size = 251\n".into(),
        health: HEALTH_TCP.into(),
        agents: format!(
            "token_file = \"{}\"\nlease_ms = {LEASE_MS}\n[service.agents.register]\naddresses = [\"10.0.2.0/24\"]\n",
            lab.token("web").unwrap().display()
        ),
        ..Service::web(Mode::Ipip, Vec::new())
    }];
    // A machine is ready when some service is; the one above waits for its agent.
    config.services.push(Service {
        name: "filed".into(),
        vip: VIP_OTHER.into(),
        health: String::new(),
        ..Service::web(Mode::Ipip, vec![Member::v4(1, Mode::Ipip)])
    });
    let balancer = lab.start_balancer(1, &config).unwrap();
    let honest = AgentConfig::of(&lab, 1, &["web"]).unwrap().registering("web", "b1", 1, "");
    let _honest = Agent::on(&lab, 1, &honest).unwrap();
    until("the honest agent's backend", Duration::from_secs(15), || {
        match balancer.api().find("/v1/backends", &[("service", "web"), ("name", "b1"), ("state", "up")]) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    })
    .unwrap();
    let session = session(balancer.api());
    let memory_before = memory_kib(balancer.id());

    let counts = Arc::<Counts>::default();
    attacked.store(true, Ordering::Relaxed);
    let seen = std::thread::scope(|scope| {
        let attackers = scope.spawn(|| hostile(management, &stop, &counts));
        let seen = observe(balancer.api(), balancer.id(), Instant::now() + attack());
        stop.store(true, Ordering::Relaxed);
        attackers.join().unwrap();
        seen
    });
    let gap = watched.join().unwrap();
    let Seen { mut took, silent_ms, memory_kib } = seen;
    took.sort_unstable();
    let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
    let grown = memory_kib.saturating_sub(memory_before);
    println!(
        "{:?} of {} connections from {} addresses ({counts:?}): API median {median:?} of {}, worst {worst:?}; longest \
         watchdog gap {gap:?}; honest agent silent for at most {silent_ms} ms; {grown} KiB of memory more",
        attack(),
        STRANGERS.len() * CONNECTIONS,
        STRANGERS.len(),
        took.len()
    );
    assert_eq!(self::session(balancer.api()), session, "the honest agent's session is the same");
    let events = balancer.api().request("GET", "/v1/events", "").unwrap().body;
    assert!(!events.contains("agent_lost") && !events.contains("backend_suspect"), "{events}");
    assert!(counts.hellos.load(Ordering::Relaxed) > 0 && counts.closed.load(Ordering::Relaxed) > 0);
    assert!(silent_ms < LEASE_MS, "{silent_ms} ms");
    assert!(gap <= WATCHDOG_GAP, "{gap:?}");
    assert!(median <= API_MEDIAN, "{median:?}");
    assert!(grown <= MEMORY_KIB, "{grown} KiB");
    balancer.stop().unwrap();
}

/// The one agent that is connected, and since when.
fn session(api: &Api) -> (String, u64) {
    let agents = api.get("/v1/agents").unwrap();
    let [agent] = rows(&agents) else { panic!("not one agent: {agents}") };
    // Computed from two clocks: it may differ by what lies between reading them.
    (agent["name"].as_str().unwrap().to_owned(), agent["since_unix_ms"].as_u64().unwrap() / 1000)
}

/// What was seen of the machine.
struct Seen {
    took: Vec<Duration>,
    silent_ms: u64,
    memory_kib: u64,
}

fn observe(api: &Api, pid: u32, until: Instant) -> Seen {
    let mut seen = Seen { took: Vec::new(), silent_ms: 0, memory_kib: 0 };
    while Instant::now() < until {
        let begun = Instant::now();
        let agents = api.get("/v1/agents").unwrap();
        seen.took.push(begun.elapsed());
        let silent = rows(&agents).iter().filter_map(|agent| agent["silent_ms"].as_u64()).max();
        seen.silent_ms = seen.silent_ms.max(silent.unwrap_or(u64::MAX));
        seen.memory_kib = seen.memory_kib.max(memory_kib(pid));
        std::thread::sleep(Duration::from_millis(20));
    }
    seen
}

/// Longest time between two messages of the watchdog under attack, and to the end.
fn longest_gap(told: &UnixDatagram, attacked: &AtomicBool, stop: &AtomicBool) -> Duration {
    told.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let (mut last, mut longest, mut bytes) = (Instant::now(), Duration::ZERO, [0; 512]);
    while !stop.load(Ordering::Relaxed) {
        if !attacked.load(Ordering::Relaxed) {
            (last, longest) = (Instant::now(), Duration::ZERO);
        }
        if let Ok(length) = told.recv(&mut bytes)
            && bytes[..length].windows(10).any(|of| of == b"WATCHDOG=1")
        {
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
    }
    longest.max(last.elapsed())
}

/// Resident memory of a process.
fn memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// What came of the strangers' connections.
#[derive(Debug, Default)]
struct Counts {
    /// Challenges that were heard: the machine took the connection.
    challenges: AtomicU64,
    /// Hellos that were said whole.
    hellos: AtomicU64,
    /// Bytes of what is none.
    bytes: AtomicU64,
    /// Connections that the machine has closed.
    closed: AtomicU64,
}

/// All strangers at once, until they are told to stop.
fn hostile(namespace: &Namespace, stop: &AtomicBool, counts: &Arc<Counts>) {
    let hellos = Arc::new([hello(false), hello(true)]);
    namespace
        .inside(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                for last in STRANGERS {
                    for kind in 0..CONNECTIONS {
                        tokio::spawn(stranger(last, kind, hellos.clone(), counts.clone()));
                    }
                }
                while !stop.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
        })
        .unwrap();
}

/// As long as a hello may be: proofs of one service, or of as many, none of them right.
fn hello(of_one: bool) -> Vec<u8> {
    let service = |n: usize| if of_one || n == 0 { "web".to_owned() } else { format!("{n:0>63}") };
    let proofs = (0..SERVICES_MAX).map(|n| Proof { service: service(n), mac: "5a".repeat(32) });
    let addresses =
        (0..ADDRESSES_MAX as u128).map(|n| Ipv6Addr::from_bits(u128::MAX - ADDRESSES_MAX as u128 + n).into());
    let frame = encode(&ToMachine::Hello {
        version: VERSION,
        agent: "stranger".to_owned(),
        nonce: "5a".repeat(32),
        incarnation: 1,
        addresses: addresses.collect(),
        proofs: proofs.collect(),
    })
    .unwrap();
    assert!(frame.len() <= HELLO_MAX);
    frame
}

/// Comes again and again, each time to do the same.
async fn stranger(last: u8, kind: usize, hellos: Arc<[Vec<u8>; 2]>, counts: Arc<Counts>) {
    loop {
        // How it ends is the machine's choice.
        let _ = visit(last, kind, &hellos, &counts).await;
        counts.closed.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(AGAIN).await;
    }
}

async fn visit(last: u8, kind: usize, hellos: &[Vec<u8>; 2], counts: &Counts) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([10, 0, 3, last], 0)))?;
    let to: SocketAddr = listen(1).parse().unwrap();
    assert_eq!(to.port(), PORT);
    let mut stream = socket.connect(to).await?;
    if !kind.is_multiple_of(5) {
        stream.read_exact(&mut [0; 4]).await?;
        counts.challenges.fetch_add(1, Ordering::Relaxed);
    }
    match kind % 5 {
        // Says nothing, and does not even read.
        0 => tokio::time::sleep(Duration::from_secs(10)).await,
        // The longest hello there is.
        1 | 2 => {
            stream.write_all(&hellos[kind % 2]).await?;
            counts.hellos.fetch_add(1, Ordering::Relaxed);
        }
        // Half of it, a byte at a time.
        3 => {
            stream.write_all(&hellos[0][..HELLO_MAX / 2]).await?;
            for byte in &hellos[0][HELLO_MAX / 2..] {
                stream.write_all(&[*byte]).await?;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        // Frames as fast as they go: short and wrong, or as long as any may be.
        _ => {
            let length = if kind.is_multiple_of(2) { 2 } else { FRAME_MAX };
            let frame = [&u32::try_from(length).unwrap().to_be_bytes()[..], &vec![b'{'; length]].concat();
            loop {
                stream.write_all(&frame).await?;
                counts.bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
            }
        }
    }
    read_to_end(&mut stream).await
}

async fn read_to_end(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut bytes = [0; 4096];
    while stream.read(&mut bytes).await? > 0 {}
    Ok(())
}
