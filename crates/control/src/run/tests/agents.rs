//! Agents and a running management core: real TCP, a minimal agent, and real servers for the machine's own checks.

use super::*;
use model::agent::seal::{Opener, Sealer, SessionKeys};
use model::agent::{
    AddressDigest, BackendReport, Claim, Proof, RefusalCode, Target, ToAgent, ToMachine, VERSION, digest,
    encode,
};
use std::net::IpAddr;
use tokio::net::TcpStream;

#[cfg(feature = "etcd")]
pub(super) mod cluster;
mod passive;

const TOKEN: &str = "a token of the tests";
const LISTEN: &str = "10.9.0.1:7481";

/// One service for which backends register, with checks by agents.
fn agents_config(place: &Path, health: &str) -> String {
    std::fs::write(place.join("token"), TOKEN).unwrap();
    let text = config(place, 8080);
    let (head, _) = text.split_once("[[service.backend]]").unwrap();
    let agents = format!(
        "[service.agents]\ntoken_file = \"{}\"\nlease_ms = 5000\n[service.agents.register]\naddresses = [\"10.9.0.0/16\"]\nports = [\"8000-8999\"]\nlimit = 1100\n[service.health]\n{health}\n",
        place.join("token").display()
    );
    head.replace("[workers]", &format!("[agents]\nlisten = \"{LISTEN}\"\n[workers]"))
        .replace("[service.health]\n", &agents)
        .replace("maglev_size = 251", "maglev_size = 16381\npanic_percent = 0")
}

/// As little of an agent as the protocol allows.
struct Agent {
    stream: TcpStream,
    bytes: Vec<u8>,
    said: u64,
    nonce: String,
    hello: Option<ToMachine>,
    sealer: Sealer,
    opener: Opener,
}

/// The agent's nonce: one connection is like another to it.
const NONCE: &str = "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a";

fn claim<'a>(
    nonce: &'a str,
    agent: &'a str,
    incarnation: u64,
    addresses: &'a AddressDigest,
    service: &'a str,
) -> Claim<'a> {
    Claim { nonce, machine: "test", agent, agent_nonce: NONCE, incarnation, addresses, service }
}

impl Agent {
    async fn connect() -> Agent {
        for _ in 0..500 {
            if let Ok(stream) = TcpStream::connect(LISTEN).await {
                let mut agent = Agent {
                    stream,
                    bytes: Vec::new(),
                    said: 0,
                    nonce: String::new(),
                    hello: None,
                    sealer: Sealer::default(),
                    opener: Opener::default(),
                };
                let ToAgent::Challenge { nonce, .. } = agent.hear().await.unwrap() else {
                    panic!("no challenge")
                };
                agent.nonce = nonce;
                return agent;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("nothing listens for agents");
    }

    fn hello_of(&self, name: &str, incarnation: u64, addresses: &[&str], token: &str) -> ToMachine {
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let digest = AddressDigest::of(&addresses);
        let mac = claim(&self.nonce, name, incarnation, &digest, "web").prove(token.as_bytes());
        let proofs = vec![Proof { service: "web".to_owned(), mac }];
        let (agent, nonce) = (name.to_owned(), NONCE.to_owned());
        ToMachine::Hello { version: VERSION, agent, nonce, incarnation, addresses, proofs }
    }

    /// From the machine's `proved` on, all is sealed.
    fn begin(&mut self, services: &[String]) {
        let Some(ToMachine::Hello { agent, incarnation, addresses, .. }) = &self.hello else {
            panic!("no hello was said")
        };
        let digest = AddressDigest::of(addresses);
        let share =
            |service| claim(&self.nonce, agent, *incarnation, &digest, service).share(TOKEN.as_bytes());
        let shares: Vec<_> = services.iter().map(|service| share(service)).collect();
        let keys = SessionKeys::of(&shares).expect("it proves something");
        keys.begin_agent(&mut self.sealer, &mut self.opener);
    }

    /// An agent that is welcome.
    async fn welcome(name: &str, incarnation: u64, addresses: &[&str]) -> Agent {
        let mut agent = Agent::connect().await;
        let hello = agent.hello_of(name, incarnation, addresses, TOKEN);
        agent.say(&hello).await;
        let ToAgent::Welcome { lease_ms, heartbeat_ms, machines } = agent.hear().await.unwrap() else {
            panic!("not welcome")
        };
        assert_eq!((heartbeat_ms, machines.len()), (lease_ms / 3, 1));
        assert_eq!((machines[0].name.as_str(), machines[0].address), ("test", LISTEN.parse().unwrap()));
        agent
    }

    async fn say(&mut self, message: &ToMachine) {
        if matches!(message, ToMachine::Hello { .. }) {
            self.hello = Some(message.clone());
        }
        let frame = self.sealer.encode(message).unwrap();
        self.stream.write_all(&frame).await.unwrap();
    }

    /// The next message; `None`: the machine has closed.
    async fn hear(&mut self) -> Option<ToAgent> {
        tokio::time::timeout(Duration::from_secs(10), async {
            loop {
                match self.opener.decode(&mut self.bytes).unwrap() {
                    Some(ToAgent::Proved { services }) => {
                        self.begin(&services);
                        continue;
                    }
                    Some(message) => return Some(message),
                    None => {}
                }
                let mut chunk = [0; 4096];
                match self.stream.read(&mut chunk).await {
                    Ok(0) | Err(_) => return None,
                    Ok(length) => self.bytes.extend_from_slice(&chunk[..length]),
                }
            }
        })
        .await
        .expect("the machine says nothing")
    }

    async fn until(&mut self, wanted: impl Fn(&ToAgent) -> bool) -> ToAgent {
        loop {
            let message = self.hear().await.expect("the machine has closed");
            if wanted(&message) {
                return message;
            }
        }
    }

    async fn refused(&mut self) -> (RefusalCode, String) {
        let refused = self.until(|message| matches!(message, ToAgent::Refused { .. })).await;
        let ToAgent::Refused { code, reason, help, .. } = refused else { unreachable!() };
        assert!(!reason.is_empty() && !help.is_empty());
        (code, reason)
    }

    async fn register(&mut self, name: &str, address: &str, incarnation: u64) {
        self.say(&ToMachine::Register {
            service: "web".to_owned(),
            backend: name.to_owned(),
            address: address.parse().unwrap(),
            incarnation,
            weight: 1,
            port: None,
            capacity: None,
        })
        .await;
    }

    async fn report(&mut self, name: &str, address: &str, up: bool) {
        self.said += 1;
        let results = vec![result(name, address, up)];
        self.say(&ToMachine::Report { sequence: self.said, full: false, results }).await;
    }

    /// Waits until it is asked to check so many.
    async fn asked(&mut self, count: usize) -> Vec<Target> {
        let asked = self
            .until(|message| matches!(message, ToAgent::Checks { backends, .. } if backends.len() == count))
            .await;
        let ToAgent::Checks { backends, .. } = asked else { unreachable!() };
        backends
    }
}

fn result(name: &str, address: &str, up: bool) -> BackendReport {
    BackendReport {
        service: "web".to_owned(),
        backend: name.to_owned(),
        address: address.parse().unwrap(),
        up,
        reason: if up { "ok" } else { "refused" }.to_owned(),
    }
}

impl Machine {
    async fn generation(&self) -> u64 {
        self.get("/v1/status").await.json()["generation"].as_u64().unwrap()
    }

    async fn registration(&self, name: &str) -> Value {
        let all = self.get("/v1/registrations").await.json();
        all.as_array().unwrap().iter().find(|of| of["backend"] == name).cloned().unwrap_or(Value::Null)
    }

    async fn until_phase(&self, name: &str, phase: &str) -> Value {
        let is = |answer: &Answer| {
            answer.json().as_array().unwrap().iter().any(|of| of["backend"] == name && of["state"] == phase)
        };
        self.until("/v1/registrations", is).await;
        self.registration(name).await
    }

    async fn metric(&self, line: &str) -> u64 {
        let text = self.get("/metrics").await.body;
        let found = text.lines().find_map(|of| of.strip_prefix(line)?.trim().parse().ok());
        found.unwrap_or_else(|| panic!("{line} is not in {text}"))
    }
}

#[test]
fn a_backend_registers_and_takes_flows_after_a_good_check() {
    super::test("agents::a_backend_registers_and_takes_flows_after_a_good_check", async |place| {
        let machine = Machine::start(place, &agents_config(place, ""));
        machine.until("/v1/status", |answer| answer.json()["generation_acknowledged"] == 1).await;
        let mut agent = Agent::welcome("host1", 1, &["10.9.0.21"]).await;
        agent.register("w1", "10.9.0.21", 5).await;
        let targets = agent.asked(1).await;
        let address: IpAddr = "10.9.0.21".parse().unwrap();
        assert_eq!(targets, [Target { backend: "w1".to_owned(), address, port: 8080 }]);
        let before = machine.generation().await;
        assert_eq!(machine.until_phase("w1", "checking").await["in_force"], false);
        assert_eq!(machine.get("/v1/backends").await.json(), Value::Array(vec![]));
        assert_eq!(before, 1, "the data path knows nothing of it");

        agent.report("w1", "10.9.0.21", true).await;
        let w1 = machine.until_state("w1", "up").await;
        assert_eq!(
            (&w1["word"], &w1["agent"], &w1["registered"]),
            (&"agent".into(), &"host1".into(), &true.into())
        );
        assert!(w1["reason"].as_str().unwrap().contains("agent host1: ok"), "{w1}");
        assert_eq!(machine.generation().await, 2);
        machine.until("/v1/status", |a| a.json()["generation_acknowledged"] == 2).await;
        assert_eq!(machine.view_states(), [(BackendId(0), BackendState::Up)]);

        // Again: nothing new. With another weight: an update.
        agent.register("w1", "10.9.0.21", 5).await;
        agent.until(|message| matches!(message, ToAgent::State { state: model::agent::Phase::Up, .. })).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert_eq!(machine.generation().await, 2);
        agent
            .say(&ToMachine::Register {
                service: "web".to_owned(),
                backend: "w1".to_owned(),
                address,
                incarnation: 5,
                weight: 7,
                port: None,
                capacity: Some(70),
            })
            .await;
        machine.until("/v1/backends", |a| find(&a.json(), "w1")["weight"] == 7).await;
        assert_eq!(machine.generation().await, 3);

        // A digest that is right, and one that is not.
        let known = format!("{:016x}", digest(&[result("w1", "10.9.0.21", true)]));
        for (sequence, digest) in [(1, known), (2, "0".repeat(16))] {
            agent.say(&ToMachine::Heartbeat { sequence, digest, loads: vec![] }).await;
            let alive = |message: &ToAgent| matches!(message, ToAgent::Alive { .. } | ToAgent::Resync {});
            let expected = if sequence == 1 { ToAgent::Alive { sequence } } else { ToAgent::Resync {} };
            assert_eq!(agent.until(alive).await, expected);
        }
        assert_eq!(machine.metric("guideway_agent_resyncs_total").await, 1);
        // Late words are not heeded.
        agent
            .say(&ToMachine::Report {
                sequence: 1,
                full: false,
                results: vec![result("w1", "10.9.0.21", false)],
            })
            .await;
        agent.say(&ToMachine::Heartbeat { sequence: 3, digest: String::new(), loads: vec![] }).await;
        agent.until(|message| *message == ToAgent::Alive { sequence: 3 }).await;
        assert_eq!(machine.registration("w1").await["up"], true);
        assert_eq!(machine.metric("guideway_agent_stale_total").await, 1);

        agent.report("w1", "10.9.0.21", false).await;
        let w1 = machine.until_state("w1", "down").await;
        assert_eq!((&w1["word"], &w1["health"]["last"]["reason"]), (&"agent".into(), &"refused".into()));
        agent.report("w1", "10.9.0.21", true).await;
        machine.until_state("w1", "up").await;

        machine.counters[0].flows_of(BackendId(0)).unwrap().flows.set(1);
        agent
            .say(&ToMachine::Deregister { service: "web".to_owned(), backend: "w1".to_owned(), address })
            .await;
        machine.until_state("w1", "removed").await;
        machine.until_phase("w1", "draining").await;
        machine.counters[0].flows_of(BackendId(0)).unwrap().flows.set(0);
        agent
            .until(|message| matches!(message, ToAgent::State { state: model::agent::Phase::Gone, .. }))
            .await;
        machine.until("/v1/registrations", |answer| answer.json() == Value::Array(vec![])).await;
        let kinds: Vec<_> = machine.events(0).await.events.into_iter().map(|event| event.kind).collect();
        for kind in [
            api::EventKind::AgentConnected,
            api::EventKind::BackendRegistered,
            api::EventKind::BackendAdded,
            api::EventKind::BackendDown,
            api::EventKind::BackendUp,
            api::EventKind::BackendDeregistered,
            api::EventKind::BackendRemoved,
        ] {
            assert!(kinds.contains(&kind), "{kind:?} is not in {kinds:?}");
        }
        machine.stop().await;
    });
}

#[test]
fn who_does_not_prove_it_or_claims_what_is_anothers_is_refused() {
    super::test("agents::who_does_not_prove_it_or_claims_what_is_anothers_is_refused", async |place| {
        let machine = Machine::start(place, &agents_config(place, ""));
        // A wrong token, and the right one over another's nonce: a replay.
        let mut agent = Agent::connect().await;
        let hello = agent.hello_of("host1", 1, &["10.9.0.21"], "another token of tests");
        agent.say(&hello).await;
        assert_eq!(agent.refused().await.0, RefusalCode::Proof);
        assert_eq!(agent.hear().await, None);
        let mut agent = Agent::connect().await;
        let heard = agent.hello_of("host1", 1, &["10.9.0.21"], TOKEN);
        let mut replay = Agent::connect().await;
        replay.say(&heard).await;
        assert_eq!(replay.refused().await.0, RefusalCode::Proof);
        assert_eq!(replay.hear().await, None);
        // What is no message, too long, or not a hello.
        for bytes in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), [0, 0, 0, 2, b'{', b'}'].to_vec(), vec![0; 4]] {
            let mut agent = Agent::connect().await;
            agent.stream.write_all(&bytes).await.unwrap();
            assert_eq!(agent.refused().await.0, RefusalCode::Malformed);
            assert_eq!(agent.hear().await, None);
        }
        agent.say(&heard).await;
        agent.until(|message| matches!(message, ToAgent::Welcome { .. })).await;
        agent.register("w1", "10.9.0.21", 1).await;
        agent.asked(1).await;
        agent.report("w1", "10.9.0.21", true).await;
        machine.until_state("w1", "up").await;

        // The same start while it lives, an impostor, an address of another host, a name outside of the template.
        let mut same = Agent::connect().await;
        let hello = same.hello_of("host1", 1, &["10.9.0.21"], TOKEN);
        same.say(&hello).await;
        assert_eq!(same.refused().await.0, RefusalCode::Stale);
        let mut other = Agent::welcome("host2", 1, &["10.9.0.21", "10.9.0.22"]).await;
        other.register("w1", "10.9.0.22", 9).await;
        assert_eq!(other.refused().await.0, RefusalCode::Claimed);
        other.register("w2", "10.9.0.21", 9).await;
        assert_eq!(other.refused().await.0, RefusalCode::Claimed);
        other.register("w2", "10.9.0.23", 9).await;
        assert_eq!(other.refused().await.0, RefusalCode::Template);
        other.register("w 2", "10.9.0.22", 9).await;
        assert_eq!(other.refused().await.0, RefusalCode::Template);
        assert_eq!(machine.metric("guideway_registrations_refused_total{code=\"claimed\"}").await, 2);
        assert!(machine.metric("guideway_registrations_refused_total{code=\"proof\"}").await >= 2);
        assert_eq!(machine.metric("guideway_agent_connections_refused_total{reason=\"malformed\"}").await, 3);
        assert_eq!(machine.registration("w1").await["agent"], "host1");

        // A newer start fences the old one: it is closed, and what it says has no effect.
        let mut newer = Agent::welcome("host1", 2, &["10.9.0.21"]).await;
        assert_eq!(machine.until_phase("w1", "suspect").await["in_force"], true);
        newer.register("w1", "10.9.0.21", 1).await;
        newer.asked(1).await;
        newer.report("w1", "10.9.0.21", true).await;
        machine.until_phase("w1", "up").await;
        let gone = ToMachine::Deregister {
            service: "web".to_owned(),
            backend: "w1".to_owned(),
            address: "10.9.0.21".parse().unwrap(),
        };
        let frame = agent.sealer.encode(&gone).unwrap();
        let _ = agent.stream.write_all(&frame).await;
        while agent.hear().await.is_some() {}
        newer.say(&ToMachine::Heartbeat { sequence: 1, digest: String::new(), loads: vec![] }).await;
        newer.until(|message| matches!(message, ToAgent::Alive { .. })).await;
        assert_eq!(machine.registration("w1").await["state"], "up");
        // Nor does the older start come back.
        let mut old = Agent::connect().await;
        let hello = old.hello_of("host1", 1, &["10.9.0.21"], TOKEN);
        old.say(&hello).await;
        assert_eq!(old.refused().await.0, RefusalCode::Stale);
        let agents = machine.get("/v1/agents").await.json();
        assert_eq!(agents.as_array().unwrap().len(), 2, "{agents}");
        assert_eq!((&agents[0]["name"], &agents[0]["incarnation"]), (&"host1".into(), &2.into()));
        machine.stop().await;
    });
}

#[test]
fn a_message_that_is_repeated_or_made_up_ends_the_session_and_is_named() {
    super::test(
        "agents::a_message_that_is_repeated_or_made_up_ends_the_session_and_is_named",
        async |place| {
            let machine = Machine::start(place, &agents_config(place, ""));
            let beat = |sequence| ToMachine::Heartbeat { sequence, digest: String::new(), loads: vec![] };
            let mut refusals = 0;
            for (name, wanted) in [
                ("again", "message 1 came where 2 is due"),
                ("left out", "message 3 came where 2 is due"),
                ("changed", "tag is wrong"),
                ("plain", "tag is wrong"),
            ] {
                let mut agent = Agent::welcome("host1", 1 + refusals, &["10.9.0.21"]).await;
                let mut frames: Vec<Vec<u8>> =
                    (1..=3).map(|n| agent.sealer.encode(&beat(n)).unwrap()).collect();
                agent.stream.write_all(&frames[0]).await.unwrap();
                agent.until(|message| matches!(message, ToAgent::Alive { sequence: 1 })).await;
                if let Some(last) = frames[1].last_mut() {
                    *last = b' ';
                }
                let bytes = match name {
                    "again" => &frames[0],
                    "left out" => &frames[2],
                    "changed" => &frames[1],
                    _ => &encode(&beat(2)).unwrap(),
                };
                agent.stream.write_all(bytes).await.unwrap();
                let (code, reason) = agent.refused().await;
                assert!(code == RefusalCode::Seal && reason.contains(wanted), "{name}: {code:?} {reason}");
                assert_eq!(agent.hear().await, None);
                refusals += 1;
            }
            assert_eq!(machine.metric("guideway_registrations_refused_total{code=\"seal\"}").await, refusals);
            machine.stop().await;
        },
    );
}

#[test]
fn a_silent_agents_backend_is_checked_by_the_machine() {
    super::test("agents::a_silent_agents_backend_is_checked_by_the_machine", async |place| {
        let server = serve("10.9.0.21:8080").await;
        let text = agents_config(place, "").replace("lease_ms = 5000", "lease_ms = 1000");
        let machine = Machine::start(place, &text);
        let mut agent = Agent::welcome("host1", 1, &["10.9.0.21", "10.9.0.22"]).await;
        agent.register("w1", "10.9.0.21", 1).await;
        agent.register("w2", "10.9.0.22", 1).await;
        agent.asked(2).await;
        agent.report("w1", "10.9.0.21", true).await;
        machine.until_state("w1", "up").await;
        // Nothing is said any more, and the connection stays open: the lease ends. What never was good is gone.
        machine.until_phase("w1", "suspect").await;
        assert_eq!(machine.registration("w2").await, Value::Null);
        let w1 = machine.until("/v1/backends", |a| find(&a.json(), "w1")["word"] == "health").await.json();
        let w1 = find(&w1, "w1");
        assert_eq!((&w1["state"], &w1["health"]["last"]["reason"]), (&"up".into(), &"ok".into()));
        assert!(
            w1["reason"].as_str().unwrap().contains("nothing was heard of the agent for 1000 ms"),
            "{w1}"
        );
        assert!(w1["suspect_since_unix_ms"].as_u64().is_some(), "{w1}");
        assert_eq!(machine.metric("guideway_agent_lapses_total").await, 1);
        assert_eq!(machine.metric("guideway_backends_suspect{cause=\"agent\"}").await, 1);

        // Back, by the same start: its word counts again, and the machine checks no more.
        let mut agent = Agent::welcome("host1", 1, &["10.9.0.21", "10.9.0.22"]).await;
        agent.register("w1", "10.9.0.21", 1).await;
        agent.asked(1).await;
        agent.report("w1", "10.9.0.21", true).await;
        machine.until("/v1/backends", |a| find(&a.json(), "w1")["word"] == "agent").await;
        let passed = machine.get("/v1/backends").await.json();
        for sequence in 1..4 {
            tokio::time::sleep(Duration::from_millis(250)).await;
            agent.say(&ToMachine::Heartbeat { sequence, digest: String::new(), loads: vec![] }).await;
        }
        let later = machine.get("/v1/backends").await.json();
        assert_eq!(find(&passed, "w1")["health"]["passed"], find(&later, "w1")["health"]["passed"]);

        // Agent and server go: own checks fail, and it is gone.
        server.abort();
        drop(agent);
        machine.until("/v1/registrations", |answer| !answer.body.contains("suspect")).await;
        machine.until("/v1/backends", |a| find(&a.json(), "w1")["state"] != "up").await;
        let events = machine.events(0).await.events;
        assert!(events.iter().any(|event| event.message.contains("own checks fail")), "{events:?}");
        machine.until("/v1/events", |answer| answer.body.contains("backend_forgotten")).await;
        machine.stop().await;
    });
}

#[test]
fn registrations_survive_a_restart_as_suspects() {
    super::test("agents::registrations_survive_a_restart_as_suspects", async |place| {
        let _server = serve("10.9.0.21:8080").await;
        let text = agents_config(place, "");
        let machine = Machine::start(place, &text);
        let mut agent = Agent::welcome("host1", 1, &["10.9.0.21"]).await;
        agent.register("w1", "10.9.0.21", 1).await;
        agent.asked(1).await;
        agent.report("w1", "10.9.0.21", true).await;
        machine.until_state("w1", "up").await;
        machine.stop().await;
        drop(agent);

        let machine = Machine::start(place, &text);
        machine.until("/v1/status", |answer| answer.json()["generation_acknowledged"] == 1).await;
        assert_eq!(
            machine.view_states(),
            [(BackendId(0), BackendState::Up)],
            "in force from the first view on"
        );
        let w1 = machine.get("/v1/backends").await.json();
        assert_eq!((&find(&w1, "w1")["word"], &find(&w1, "w1")["state"]), (&"lease".into(), &"up".into()));
        machine.until("/v1/backends", |a| find(&a.json(), "w1")["word"] == "health").await;
        let mut agent = Agent::welcome("host1", 2, &["10.9.0.21"]).await;
        agent.register("w1", "10.9.0.21", 1).await;
        agent.asked(1).await;
        agent.report("w1", "10.9.0.21", true).await;
        machine.until_phase("w1", "up").await;

        // A file that does not let it register any more.
        let narrow = text.replace("10.9.0.0/16", "10.9.1.0/24");
        let plan = machine.post("/v1/plan", &narrow).await;
        assert!(plan.body.contains("\"backends_removed\":[\"w1\"]"), "{}", plan.body);
        let same = machine.post("/v1/plan", &text).await;
        assert!(same.body.contains("\"backends_removed\":[]"), "{}", same.body);
        assert_eq!(
            machine.post("/v1/apply?wait=true", &text.replace("fall = 3", "fall = 4")).await.status,
            200
        );
        assert_eq!(machine.until_state("w1", "up").await["registered"], true);
        assert_eq!(machine.post("/v1/apply?wait=true", &narrow).await.status, 200);
        assert_eq!(agent.refused().await.0, RefusalCode::Template);
        assert_eq!(machine.registration("w1").await["state"].as_str().unwrap_or("draining"), "draining");
        machine.stop().await;
    });
}

#[test]
fn a_configured_backend_is_checked_by_the_agent_of_its_host() {
    super::test("agents::a_configured_backend_is_checked_by_the_agent_of_its_host", async |place| {
        let text = agents_config(place, "");
        let text = format!("{text}[[service.backend]]\nname = \"b1\"\naddress = \"10.9.0.21\"\n");
        let _server = serve("10.9.0.21:8080").await;
        let machine = Machine::start(place, &text);
        assert_eq!(machine.until_state("b1", "up").await["word"], "health");
        let mut agent = Agent::welcome("host1", 1, &["10.9.0.21"]).await;
        // Whoever waits for the refusal first may miss what was asked before.
        agent.asked(1).await;
        agent.register("b1", "10.9.0.21", 1).await;
        assert_eq!(agent.refused().await.0, RefusalCode::Claimed, "it needs no registration");
        agent.report("b1", "10.9.0.21", false).await;
        let b1 = machine.until_state("b1", "down").await;
        assert_eq!((&b1["word"], &b1["registered"]), (&"agent".into(), &false.into()));
        // Not on this host: the machine checks by itself again, and finds it well.
        let revision = 1;
        let addresses = vec!["10.9.0.21".parse().unwrap()];
        agent.say(&ToMachine::NotLocal { service: "web".to_owned(), revision, addresses }).await;
        let b1 = machine.until_state("b1", "up").await;
        assert_eq!(b1["word"], "health");
        machine.until("/v1/events", |answer| answer.body.contains("not_local")).await;
        drop(agent);
        assert_eq!(machine.until_state("b1", "up").await["word"], "health");
        machine.stop().await;
    });
}

#[test]
fn machines_check_what_registers_where_they_are_told_to() {
    super::test("agents::machines_check_what_registers_where_they_are_told_to", async |place| {
        let machine = Machine::start(place, &agents_config(place, "checks = \"machine\""));
        let mut agent = Agent::welcome("host1", 1, &["10.9.0.21"]).await;
        agent.register("w1", "10.9.0.21", 1).await;
        tokio::time::sleep(Duration::from_millis(800)).await;
        assert_eq!(
            machine.get("/v1/backends").await.json(),
            Value::Array(vec![]),
            "nothing listens there yet"
        );
        agent.say(&ToMachine::Heartbeat { sequence: 1, digest: String::new(), loads: vec![] }).await;
        let server = serve("10.9.0.21:8080").await;
        let w1 = machine.until_state("w1", "up").await;
        assert_eq!((&w1["word"], &w1["registered"]), (&"health".into(), &true.into()));
        server.abort();
        for sequence in 2..12 {
            agent.say(&ToMachine::Heartbeat { sequence, digest: String::new(), loads: vec![] }).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        machine.until_state("w1", "down").await;
        assert_eq!(machine.registration("w1").await["state"], "down", "its agent is there");
        drop(agent);
        machine
            .until("/v1/registrations", |answer| {
                !answer.body.contains("suspect") && !answer.body.contains("\"down\"")
            })
            .await;
        machine.stop().await;
    });
}

#[test]
fn a_thousand_registrations_in_a_second_cost_few_views() {
    super::test("agents::a_thousand_registrations_in_a_second_cost_few_views", async |place| {
        let machine = Machine::start(place, &agents_config(place, ""));
        machine.until("/v1/status", |answer| answer.json()["generation_acknowledged"] == 1).await;
        let addresses: Vec<String> =
            (0..1000).map(|at| format!("10.9.{}.{}", 1 + at / 250, 1 + at % 250)).collect();
        let all: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let mut agent = Agent::welcome("host1", 1, &all).await;
        let begun = std::time::Instant::now();
        for (at, address) in addresses.iter().enumerate() {
            agent.register(&format!("w{at}"), address, 1).await;
        }
        agent.asked(1000).await;
        // Each report by itself, as checks end one after the other.
        for (at, address) in addresses.iter().enumerate() {
            agent.report(&format!("w{at}"), address, true).await;
            if at % 100 == 99 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        let up = machine.until("/v1/services", |answer| answer.json()[0]["backends_up"] == 1000).await;
        assert_eq!(up.json()[0]["backends_total"], 1000);
        let (took, generation) = (begun.elapsed(), machine.generation().await);
        let allowed = 4 + u64::try_from(took.as_millis()).unwrap() / 250;
        assert!(generation - 1 <= allowed.max(12), "{generation} generations in {took:?}");
        machine.stop().await;
    });
}

#[test]
fn who_says_nothing_is_let_go_and_many_of_them_hurt_nobody() {
    super::test("agents::who_says_nothing_is_let_go_and_many_of_them_hurt_nobody", async |place| {
        let machine = Machine::start(place, &agents_config(place, ""));
        let _first = Agent::connect().await;
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(TcpStream::connect(LISTEN).await.unwrap());
        }
        machine
            .until("/metrics", |a| {
                a.body.contains("guideway_agent_connections_refused_total{reason=\"address\"} 37")
            })
            .await;
        assert_eq!(machine.metric("guideway_agent_connections").await, 64);
        machine
            .until("/metrics", |a| {
                a.body.contains("guideway_agent_connections_refused_total{reason=\"silent\"} 64")
            })
            .await;
        assert_eq!(machine.metric("guideway_agent_connections").await, 0);
        let agent = Agent::welcome("host1", 1, &["10.9.0.21"]).await;
        assert_eq!(machine.metric("guideway_agents_connected").await, 1);
        drop(agent);
        machine.stop().await;
    });
}

/// What an agent says of a load decides about new flows, and its silence is no news.
#[test]
fn loads_that_agents_tell_reach_workers() {
    test("agents::loads_that_agents_tell_reach_workers", async |place| {
        let text = agents_config(place, "")
            .replace("[service.agents]\n", "policy = \"least-load\"\ncapacity = 1000\n[service.agents]\n");
        let machine = Machine::start(place, &text);
        let mut agent = Agent::welcome("host", 1, &["10.9.0.21"]).await;
        agent.register("w1", "10.9.0.21", 1).await;
        agent.asked(1).await;
        agent.report("w1", "10.9.0.21", true).await;
        machine.until_state("w1", "up").await;
        let loads = vec![model::agent::Load {
            service: "web".to_owned(),
            backend: "w1".to_owned(),
            cpu_permille: Some(900),
            connections: Some(100),
            custom_permille: None,
        }];
        let digest = format!("{:016x}", digest(&[result("w1", "10.9.0.21", true)]));
        agent.say(&ToMachine::Heartbeat { sequence: 1, digest, loads }).await;
        machine.until("/v1/backends", |a| find(&a.json(), "w1")["load_ppm"] == 900_000).await;
        let id = find(&machine.get("/v1/backends").await.json(), "w1")["id"].as_u64().unwrap();
        let id = BackendId(u32::try_from(id).unwrap());
        assert_eq!(machine.seen[0].borrow().as_ref().unwrap().loads.get(id).ppm, 900_000);
        // What the balancer sees itself is not talked away.
        machine.counters[0].flows_of(id).unwrap().flows.set(950);
        machine.until("/v1/backends", |a| find(&a.json(), "w1")["load_ppm"] == 950_000).await;
        machine.stop().await;
    });
}
