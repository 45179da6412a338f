use super::*;
use crate::config::Token;
use model::agent::ToAgent;
use model::agent::seal::{Opener, Sealer, SessionKeys};
use model::agent::{AddressDigest, CheckSpec, Claim, MachineContact, Phase, Target, ToMachine, VERSION};
use model::config::{HealthKind, Protocol};
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

const LIMIT: Duration = Duration::from_secs(20);
const TOKEN: &[u8] = b"0123456789abcdef";
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A machine as an agent sees it.
struct FakeMachine {
    listener: TcpListener,
    address: std::net::SocketAddr,
}

struct Talk {
    stream: TcpStream,
    bytes: Vec<u8>,
    sealer: Sealer,
    opener: Opener,
}

impl Talk {
    async fn say(&mut self, message: &model::agent::ToAgent) {
        let frame = self.sealer.encode(message).unwrap();
        self.stream.write_all(&frame).await.unwrap();
    }

    async fn hear(&mut self) -> Option<ToMachine> {
        tokio::time::timeout(LIMIT, async {
            loop {
                if let Some(message) = self.opener.decode(&mut self.bytes).unwrap() {
                    return Some(message);
                }
                if self.stream.read_buf(&mut self.bytes).await.unwrap_or(0) == 0 {
                    return None;
                }
            }
        })
        .await
        .expect("in time")
    }

    /// Challenge, hello and what it proves.
    async fn greet(&mut self, machine: &str) {
        let nonce = "5a".repeat(32);
        let (versions, name) = (vec![VERSION], machine.to_owned());
        self.say(&ToAgent::Challenge { versions, machine: name, nonce: nonce.clone() }).await;
        let Some(ToMachine::Hello { agent, nonce: agent_nonce, incarnation, addresses, proofs, .. }) =
            self.hear().await
        else {
            panic!("no hello")
        };
        assert_eq!((proofs.len(), proofs[0].service.as_str()), (1, "web"));
        let claim = Claim {
            nonce: &nonce,
            machine,
            agent: &agent,
            agent_nonce: &agent_nonce,
            incarnation,
            addresses: &AddressDigest::of(&addresses),
            service: "web",
        };
        assert!(claim.is_proved(TOKEN, &proofs[0].mac));
        self.say(&ToAgent::Proved { services: vec!["web".to_owned()] }).await;
        let keys = SessionKeys::of([&claim.share(TOKEN)]).unwrap();
        keys.begin_machine(&mut self.sealer, &mut self.opener);
    }

    /// The next message that is no heartbeat; those are answered.
    async fn word(&mut self) -> Option<ToMachine> {
        loop {
            match self.hear().await {
                Some(ToMachine::Heartbeat { sequence, .. }) => self.say(&ToAgent::Alive { sequence }).await,
                other => return other,
            }
        }
    }

    async fn ask(&mut self, service: &str, kind: HealthKind, port: u16) {
        let check = CheckSpec {
            kind,
            vip: "203.0.113.10".parse().unwrap(),
            port,
            protocol: Protocol::Tcp,
            interval_ms: 50,
            timeout_ms: 50,
            fall: 2,
            rise: 2,
        };
        let backends = vec![Target { backend: "web-1".to_owned(), address: HERE, port }];
        self.say(&ToAgent::Checks { service: service.to_owned(), revision: 1, check, backends }).await;
    }

    /// Waits for a report of one verdict.
    async fn verdict(&mut self, up: bool) -> String {
        loop {
            match self.word().await.expect("open") {
                ToMachine::Report { results, .. } => {
                    if let Some(result) = results.iter().find(|result| result.up == up) {
                        return result.reason.clone();
                    }
                }
                ToMachine::Register { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

impl FakeMachine {
    async fn new() -> FakeMachine {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        FakeMachine { listener, address }
    }

    async fn accept(&self) -> Talk {
        let (stream, _) =
            tokio::time::timeout(LIMIT, self.listener.accept()).await.expect("in time").unwrap();
        Talk { stream, bytes: Vec::new(), sealer: Sealer::default(), opener: Opener::default() }
    }

    /// A session: checks the hello as a machine does.
    async fn session(&self, lease_ms: u32) -> Talk {
        let mut talk = self.accept().await;
        talk.greet("m1").await;
        let machines = vec![MachineContact { name: "m1".to_owned(), address: self.address, leads: true }];
        talk.say(&ToAgent::Welcome { lease_ms, heartbeat_ms: lease_ms / 3, machines }).await;
        talk
    }
}

fn config(place: &Path, machines: &[&FakeMachine]) -> AgentConfig {
    AgentConfig {
        name: "host5".to_owned(),
        socket: place.join("agent.sock"),
        machines: machines.iter().map(|machine| machine.address.to_string()).collect(),
        addresses: Some(vec![HERE]),
        tls: None,
        state_file: place.join("state/registrations.json"),
        cpu_load: true,
        services: [("web".to_owned(), Token::of(TOKEN))].into(),
        backends: Vec::new(),
        commands: BTreeMap::new(),
    }
}

fn backend(port: u16) -> Backend {
    Backend {
        service: "web".to_owned(),
        name: "web-1".to_owned(),
        address: HERE,
        weight: 1,
        port: Some(port),
        capacity: None,
        load_file: None,
    }
}

/// Lets the agent work while `script` runs.
async fn drive<T>(agent: &mut Agent, script: impl Future<Output = T>) -> T {
    tokio::pin!(script);
    loop {
        tokio::select! {
            done = &mut script => return done,
            () = agent.turn() => {}
        }
    }
}

async fn start(config: AgentConfig) -> Agent {
    Agent::start(Path::new("/no/file"), config).await.unwrap()
}

/// Says a line to the local socket.
async fn line(path: &Path, text: &str) -> Reply {
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("in time").unwrap();
    serde_json::from_slice(&answer).unwrap()
}

#[tokio::test]
async fn from_a_line_at_the_socket_to_a_good_check_and_again_after_a_reconnect_and_a_restart() {
    let place = tempfile::tempdir().unwrap();
    let machine = FakeMachine::new().await;
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    let config = config(place.path(), &[&machine]);
    let socket = config.socket.clone();
    let mut agent = start(config.clone()).await;
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    let register = format!(
        "{{\"do\":\"register\",\"service\":\"web\",\"name\":\"web-1\",\"address\":\"127.0.0.1\",\"port\":{port}}}\n"
    );
    let first = drive(&mut agent, async {
        let mut talk = machine.session(600).await;
        assert_eq!(line(&socket, &register).await.outcome, Some(crate::request::Outcome::Registered));
        let Some(ToMachine::Register { incarnation, .. }) = talk.word().await else {
            panic!("no registration")
        };
        let connect = HealthKind::Tcp { send: None, expect: None };
        talk.ask("web", connect.clone(), port).await;
        assert_eq!(talk.verdict(true).await, "ok");
        drop(server);
        assert_eq!(talk.verdict(false).await, "refused");
        let state = Phase::Down;
        let (service, backend, reason) = ("web".to_owned(), "web-1".to_owned(), "refused".to_owned());
        talk.say(&ToAgent::State { service, backend, state, reason }).await;
        loop {
            let status = line(&socket, "{\"do\":\"status\"}\n").await.status.unwrap();
            if status.backends[0].machines[0].state == Some(Phase::Down) {
                assert_eq!(status.checks[0].up, Some(false));
                break;
            }
        }
        // Silence: the agent comes back, and registers the same server.
        let mut again = machine.session(600).await;
        let Some(ToMachine::Register { incarnation: same, .. }) = again.word().await else { panic!("none") };
        assert_eq!(same, incarnation);
        // The silent connection is closed.
        while talk.hear().await.is_some() {}
        // The verdict is at hand.
        let begun = Instant::now();
        again.ask("web", connect, port).await;
        again.verdict(false).await;
        assert!(begun.elapsed() < Duration::from_secs(2));
        incarnation
    })
    .await;
    agent.stop(true).await;
    assert!(!socket.exists() || UnixStream::connect(&socket).await.is_err());
    // What came over the socket survives a restart, as the same server.
    let mut agent = start(config).await;
    drive(&mut agent, async {
        let mut talk = machine.session(600).await;
        let Some(ToMachine::Register { incarnation, .. }) = talk.word().await else { panic!("none") };
        assert_eq!(incarnation, first);
        assert_eq!(line(&socket, &register).await.outcome, Some(crate::request::Outcome::Unchanged));
        let out = "{\"do\":\"deregister\",\"service\":\"web\",\"name\":\"web-1\"}\n";
        assert_eq!(line(&socket, out).await.outcome, Some(crate::request::Outcome::Deregistered));
        assert!(matches!(talk.word().await, Some(ToMachine::Deregister { .. })));
    })
    .await;
    agent.stop(false).await;
}

#[tokio::test]
async fn at_the_end_the_files_backends_leave_and_a_restart_does_not_make_them_new() {
    let place = tempfile::tempdir().unwrap();
    let machine = FakeMachine::new().await;
    let mut config = config(place.path(), &[&machine]);
    config.backends = vec![backend(80)];
    let mut agent = start(config.clone()).await;
    let (mut talk, first) = drive(&mut agent, async {
        let mut talk = machine.session(600).await;
        let Some(ToMachine::Register { incarnation, .. }) = talk.word().await else { panic!("none") };
        (talk, incarnation)
    })
    .await;
    let begun = Instant::now();
    let machine_side = async {
        let last = talk.word().await;
        assert_eq!(talk.word().await, None, "then it closes");
        drop(talk);
        last
    };
    let (last, ()) = tokio::join!(machine_side, agent.stop(false));
    assert!(matches!(last, Some(ToMachine::Deregister { .. })), "{last:?}");
    assert!(begun.elapsed() < Duration::from_secs(3));
    tokio::time::sleep(Duration::from_millis(5)).await;
    let mut agent = start(config).await;
    drive(&mut agent, async {
        let mut talk = machine.session(600).await;
        let Some(ToMachine::Register { incarnation, .. }) = talk.word().await else { panic!("none") };
        assert_eq!(incarnation, first);
    })
    .await;
}

#[tokio::test]
async fn a_command_of_the_file_is_the_check() {
    let place = tempfile::tempdir().unwrap();
    let machine = FakeMachine::new().await;
    let mut config = config(place.path(), &[&machine]);
    let sign = place.path().join("healthy");
    let script = format!("test \"$GUIDEWAY_PORT\" = 5432 && test -e {} || exit 3", sign.display());
    config.commands.insert("check-db".to_owned(), ["/bin/sh", "-c", &script].map(str::to_owned).to_vec());
    let mut agent = start(config).await;
    drive(&mut agent, async {
        let mut talk = machine.session(3000).await;
        let exec = HealthKind::Exec { command: "check-db".to_owned() };
        let check = CheckSpec {
            kind: exec,
            vip: HERE,
            port: 5432,
            protocol: Protocol::Tcp,
            interval_ms: 100,
            timeout_ms: 5000,
            fall: 1,
            rise: 1,
        };
        let backends = vec![Target { backend: "web-1".to_owned(), address: HERE, port: 5432 }];
        talk.say(&ToAgent::Checks { service: "web".to_owned(), revision: 1, check, backends }).await;
        assert_eq!(talk.verdict(false).await, "exit status 3");
        std::fs::write(&sign, "").unwrap();
        assert_eq!(talk.verdict(true).await, "ok");
    })
    .await;
}

#[tokio::test]
async fn probes_are_as_many_as_the_interval_says_however_many_machines_ask() {
    let place = tempfile::tempdir().unwrap();
    let (one, two) = (FakeMachine::new().await, FakeMachine::new().await);
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    let mut agent = start(config(place.path(), &[&one])).await;
    let count = drive(&mut agent, async {
        let mut talk = one.session(60_000).await;
        // The other machine is learned of the first.
        let machines = vec![
            MachineContact { name: "m1".to_owned(), address: one.address, leads: true },
            MachineContact { name: "m2".to_owned(), address: two.address, leads: false },
        ];
        talk.say(&ToAgent::Machines { machines }).await;
        let mut other = two.accept().await;
        other.greet("m2").await;
        other.say(&ToAgent::Welcome { lease_ms: 60_000, heartbeat_ms: 20_000, machines: vec![] }).await;
        for talk in [&mut talk, &mut other] {
            talk.ask("web", HealthKind::Tcp { send: None, expect: None }, port).await;
        }
        let mut count = 0;
        let end = tokio::time::Instant::now() + Duration::from_secs(2);
        while let Ok(accepted) = tokio::time::timeout_at(end, server.accept()).await {
            accepted.unwrap();
            count += 1;
        }
        other.verdict(true).await;
        talk.verdict(true).await;
        count
    })
    .await;
    // 2 s at 50 ms; a busy machine may lose some, but nothing is made up for.
    assert!((20..=42).contains(&count), "{count}");
}

#[tokio::test]
async fn hostile_machines_hurt_no_other() {
    let place = tempfile::tempdir().unwrap();
    let (good, garbage, mute) =
        (FakeMachine::new().await, FakeMachine::new().await, FakeMachine::new().await);
    let mut agent = start(config(place.path(), &[&good, &garbage, &mute])).await;
    drive(&mut agent, async {
        let mut talk = good.session(3000).await;
        // The mute one accepts and says nothing; the other says what is no frame, again and again.
        let _silent = mute.accept().await;
        for _ in 0..3 {
            let mut wild = garbage.accept().await;
            let _ = wild.stream.write_all(&[0xff; 4096]).await;
            assert_eq!(wild.hear().await, None);
        }
        talk.ask("web", HealthKind::Tcp { send: None, expect: None }, 1).await;
        talk.verdict(false).await;
    })
    .await;
    assert_eq!(agent.host.status(0).machines.iter().filter(|machine| machine.connected).count(), 1);
}

#[tokio::test]
async fn lines_that_are_no_requests_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let config = config(place.path(), &[]);
    let socket = config.socket.clone();
    let mut agent = start(config.clone()).await;
    drive(&mut agent, async {
        for bad in ["\n", "{}\n", "hello\n", "{\"do\":\"register\"}\n", "{\"do\":\"status\",\"more\":1}\n"] {
            let reply = line(&socket, bad).await;
            assert!(!reply.ok && reply.error.is_some() && reply.help.is_some(), "{bad:?}: {reply:?}");
        }
        let long = format!("{}\n", " ".repeat(crate::request::LINE_MAX + 1));
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        let _ = stream.write_all(long.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(String::from_utf8_lossy(&answer).contains("more than"), "{answer:?}");
        // Silent ones keep nobody out.
        let silent: Vec<_> =
            futures_util::future::join_all((0..20).map(|_| UnixStream::connect(&socket))).await;
        assert!(line(&socket, "{\"do\":\"status\"}\n").await.ok);
        drop(silent);
    })
    .await;
    let error = Agent::start(Path::new("/no/file"), config).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("another agent listens"), "{error}");
}
