//! Agents and the registry without a network or a clock: any bytes as what up to four agents say and what happens meanwhile.
//! Fuzz targets and their seeds are made of it; no daemon is built with it.
//!
//! Rule of this module: an input is records of (control, length, body). The control byte says who (bits 0 and 1) and what (bits
//! 2 to 4, [`AgentStep`]).
#![cfg_attr(not(feature = "rehearsal"), allow(unreachable_pub))]
#![allow(clippy::panic, reason = "a rehearsal that goes wrong has no other way to say so")]

use super::facts::Facts;
use super::hello::Greeting;
use super::registry::{Act, AgentRegistry};
use super::session::SessionId;
use model::agent::seal::{Opener, Sealer, SessionKeys};
use model::agent::{
    AddressDigest, BackendReport, Claim, Load, Proof, ToAgent, ToMachine, VERSION, decode, encode,
};
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

/// Most records taken from one input.
const RECORDS_MAX: usize = 256;
pub(crate) const TOKEN: &[u8] = b"a token of the rehearsal";
const OTHER_TOKEN: &[u8] = b"another token of the rehearsal";
const NONCE: &str = "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a";
const SERVICES: [&str; 2] = ["web", "db"];
/// The machine's clock, Unix time.
const UNIX_MS: u64 = 1_800_000_000_000;
pub(crate) const CONFIG: &str = r#"
[machine]
name = "lb1"
address = "10.0.2.11"
next_hop_mac = "02:00:00:00:00:01"
cluster_key = "5f0c3a9be1d24776a8b9c0d1e2f30415"
[agents]
listen = "10.0.2.11:7481"
[[port]]
name = "data0"
device = "net_null0"
[[service]]
name = "web"
vip = "203.0.113.10"
port = 80
agents = { token_file = "/t", register = { addresses = ["10.1.0.0/16"], limit = 4, names = "NAMES" } }
health = { kind = "tcp", via = "eth0", fall = 2 }
backend = [{ name = "fix", address = "10.1.9.9" }]
[[service]]
name = "db"
vip = "203.0.113.11"
port = 80
agents = { token_file = "/t", lease_ms = 5000, register = { addresses = ["10.1.0.0/16"] } }
health = { kind = "tcp", via = "eth0", checks = "machine" }
"#;

/// What a record is.
#[derive(Clone, Copy)]
enum AgentStep {
    /// The body is JSON that the agent seals.
    Sealed,
    /// The body comes as it is.
    Raw,
    /// A good hello; the body's first byte is the incarnation, the second which services (bits 0 and 1).
    Greet,
    /// The body is JSON of a hello.
    Hello,
    /// So many times 20 ms pass.
    Wait,
    /// What was heard is put in force; own checks pass, or not (bit 0).
    Agree,
    /// Other names may register (bit 0), the token is another one (bit 1).
    Configure,
    /// The connection ends.
    Close,
}

const STEPS: [AgentStep; 8] = [
    AgentStep::Sealed,
    AgentStep::Raw,
    AgentStep::Greet,
    AgentStep::Hello,
    AgentStep::Wait,
    AgentStep::Agree,
    AgentStep::Configure,
    AgentStep::Close,
];

struct AgentLine {
    id: SessionId,
    sealer: Sealer,
    opener: Opener,
    bytes: Vec<u8>,
}

struct AgentStage {
    registry: AgentRegistry,
    lines: [Option<AgentLine>; 4],
    config: model::Config,
    now_ms: u64,
    last: u64,
}

/// Plays the records of an input.
///
/// # Panics
/// What must hold of the registry does not.
pub fn rehearse_agents(mut input: &[u8]) {
    let mut stage = AgentStage {
        registry: AgentRegistry::default(),
        lines: [const { None }; 4],
        config: config(false),
        now_ms: 0,
        last: 0,
    };
    stage.configure(false, false);
    for _ in 0..RECORDS_MAX {
        let [control, low, high, rest @ ..] = input else { break };
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (body, rest) = rest.split_at(length);
        input = rest;
        stage.play(usize::from(control & 3), STEPS[usize::from(control >> 2 & 7)], body);
        stage.settle();
    }
}

/// The configuration of a rehearsal: services `web`, with which four may register, and `db`.
pub(crate) fn config(is_narrow: bool) -> model::Config {
    let text = CONFIG.replace("NAMES", if is_narrow { "n*" } else { "*" });
    match model::load("rehearsal", &text) {
        Ok(loaded) => loaded.config,
        Err(report) => panic!("{}", report.to_plain()),
    }
}

/// What the registry has to know of it, with this token for both services.
pub(crate) fn facts(config: &model::Config, token: &[u8]) -> Facts {
    let tokens = SERVICES.map(|service| (service.to_owned(), token.to_vec()));
    Facts::of(config, &tokens.into_iter().collect())
}

fn claim<'a>(agent: &'a str, incarnation: u64, addresses: &'a AddressDigest, service: &'a str) -> Claim<'a> {
    Claim { nonce: NONCE, machine: "lb1", agent, agent_nonce: NONCE, incarnation, addresses, service }
}

/// An agent's address, and those of its host.
fn address(agent: usize, host: u8) -> IpAddr {
    IpAddr::from([10, 1, u8::try_from(agent).unwrap_or(0), host])
}

/// A hello that is good: with the token of the services of `which`.
fn good_hello(agent: usize, incarnation: u64, which: u8) -> ToMachine {
    let name = format!("h{agent}");
    // They overlap: agents may claim each other's.
    let addresses: Vec<IpAddr> = (0..4).map(|host| address(agent / 2, host)).collect();
    let digest = AddressDigest::of(&addresses);
    let services = (0..).zip(SERVICES).filter(|(bit, _)| which >> bit & 1 == 1);
    let proofs = services.map(|(_, service)| Proof {
        service: service.to_owned(),
        mac: claim(&name, incarnation, &digest, service).prove(TOKEN),
    });
    let proofs = proofs.collect();
    ToMachine::Hello {
        version: VERSION,
        agent: name,
        nonce: NONCE.to_owned(),
        incarnation,
        addresses,
        proofs,
    }
}

impl AgentStage {
    fn play(&mut self, agent: usize, step: AgentStep, body: &[u8]) {
        let (first, second) = (body.first().copied().unwrap_or(0), body.get(1).copied().unwrap_or(0));
        match step {
            AgentStep::Sealed => {
                let Some(line) = &mut self.lines[agent] else { return };
                let frame = [&u32::try_from(body.len()).unwrap_or(0).to_be_bytes()[..], body].concat();
                let sealed = line.sealer.seal(frame);
                line.bytes.extend_from_slice(&sealed);
                self.hear(agent);
            }
            AgentStep::Raw => {
                let Some(line) = &mut self.lines[agent] else { return };
                line.bytes.extend_from_slice(body);
                self.hear(agent);
            }
            AgentStep::Greet => self.greet(agent, good_hello(agent, u64::from(first), second)),
            AgentStep::Hello => {
                let mut frame = [&u32::try_from(body.len()).unwrap_or(0).to_be_bytes()[..], body].concat();
                if let Ok(Some(hello)) = decode(&mut frame) {
                    self.greet(agent, hello);
                }
            }
            AgentStep::Wait => {
                self.now_ms += 20 * u64::from(first);
                self.registry.poll(self.now_ms);
            }
            AgentStep::Agree => self.agree(first & 1 == 1),
            AgentStep::Configure => self.configure(first & 1 == 1, first & 2 == 2),
            AgentStep::Close => {
                if let Some(line) = self.lines[agent].take() {
                    self.registry.closed(line.id, self.now_ms);
                }
            }
        }
    }

    fn configure(&mut self, is_narrow: bool, is_other: bool) {
        self.config = config(is_narrow);
        let token = if is_other { OTHER_TOKEN } else { TOKEN };
        self.registry.configure(facts(&self.config, token), self.now_ms);
    }

    /// What the listener does with a hello, on a new connection.
    fn greet(&mut self, agent: usize, hello: ToMachine) {
        let ToMachine::Hello { version, agent: name, nonce, incarnation, addresses, proofs } = hello else {
            return;
        };
        self.last += 1;
        let greeting = Greeting {
            id: SessionId(self.last),
            peer: SocketAddr::from(([10, 1, 0, 1], 999)),
            machine: "lb1".to_owned(),
            challenge: NONCE.to_owned(),
            unix_ms: UNIX_MS,
            version,
            agent: name,
            nonce,
            incarnation,
            addresses,
            proofs,
        };
        match greeting.verify(self.registry.tokens()) {
            Err(unproved) => {
                assert!(
                    unproved.agent.len() <= 4 * model::agent::NAME_MAX && !unproved.why.reason.is_empty()
                );
                self.registry.unproved(&unproved, self.now_ms);
            }
            Ok((hello, keys)) => {
                assert!(!hello.proved.is_empty());
                if let Some(old) = self.lines[agent].take() {
                    self.registry.closed(old.id, self.now_ms);
                }
                self.lines[agent] = Some(self.line(hello.id, &hello, &keys));
                self.registry.hello(hello, self.now_ms);
            }
        }
    }

    /// The connection of a proved hello: what the agent seals, the machine opens.
    fn line(&self, id: SessionId, hello: &super::hello::Hello, keys: &SessionKeys) -> AgentLine {
        let digest = AddressDigest::of(&hello.addresses);
        let shares: Vec<_> = hello
            .proved
            .iter()
            .map(|service| {
                let token = self.registry.tokens().of(service).unwrap_or_default();
                claim(&hello.agent, hello.incarnation, &digest, service).share(token)
            })
            .collect();
        let (mut of_agent, mut of_machine) = <((Sealer, Opener), (Sealer, Opener))>::default();
        if let Some(keys) = SessionKeys::of(&shares) {
            keys.begin_agent(&mut of_agent.0, &mut of_agent.1);
        }
        keys.begin_machine(&mut of_machine.0, &mut of_machine.1);
        AgentLine { id, sealer: of_agent.0, opener: of_machine.1, bytes: Vec::new() }
    }

    /// Messages that are whole reach the registry; the first that is none ends the connection.
    fn hear(&mut self, agent: usize) {
        while let Some(line) = &mut self.lines[agent] {
            let id = line.id;
            match line.opener.decode(&mut line.bytes) {
                Ok(Some(message)) => self.registry.message(id, message, self.now_ms),
                Ok(None) => return,
                Err(error) => {
                    self.registry.broken(id, error.code(), &error.to_string(), self.now_ms);
                    assert!(!self.registry.sessions().contains_key(&id));
                    self.lines[agent] = None;
                }
            }
        }
    }

    fn agree(&mut self, passes: bool) {
        let (config, skipped) = self.config.with_registered(&self.registry.received().alive);
        self.registry.skipped(&skipped);
        self.registry.agreed(&config.registered(), self.now_ms);
        let all: Vec<_> =
            self.registry.held().iter().map(|(key, held)| (key.clone(), held.address)).collect();
        for (key, address) in all {
            self.registry.observed(&key, address, passes, "own check");
            self.registry.judged(&key, address, passes, self.now_ms);
        }
        let candidates: Vec<_> =
            self.registry.candidates().map(|(key, of)| (key.clone(), of.incarnation)).collect();
        for (key, incarnation) in candidates {
            self.registry.tried(&key, incarnation, passes, "own check", self.now_ms);
        }
    }

    /// Does what the registry wants done, and looks at what must hold.
    fn settle(&mut self) {
        for act in self.registry.take_acts() {
            match act {
                Act::Tell(_, message) => {
                    let mut frame = encode(&message).unwrap_or_else(|error| panic!("{error}: {message:?}"));
                    assert_eq!(decode::<ToAgent>(&mut frame), Ok(Some(message)), "it is understood");
                }
                Act::Close(id) => {
                    assert!(!self.registry.sessions().contains_key(&id), "closed and still heard");
                    let closed =
                        self.lines.iter_mut().find(|line| line.as_ref().is_some_and(|of| of.id == id));
                    if let Some(line) = closed {
                        *line = None;
                    }
                }
                Act::Event(_, _, _, message) => assert!(!message.is_empty()),
                Act::Verdict { .. } | Act::HealthSource(_) | Act::Received => {}
            }
        }
        let agents: HashSet<&String> = self.registry.sessions().values().map(|of| &of.agent).collect();
        assert_eq!(agents.len(), self.registry.sessions().len(), "one agent, one session");
        check_heard(&self.registry);
        for (key, held) in self.registry.held() {
            match held.session {
                Some(id) => {
                    let session = self.registry.sessions().get(&id);
                    assert!(session.is_some_and(|of| of.agent == held.agent), "{key:?} is another's");
                }
                None => assert!(held.suspicion.is_some(), "nobody holds {key:?} and nobody checks it"),
            }
        }
    }
}

/// Nobody has a name or an address of another, or more backends than may register.
pub(crate) fn check_heard(registry: &AgentRegistry) {
    let heard = registry.received();
    let (mut names, mut addresses) = (HashSet::new(), HashSet::new());
    for of in &heard.alive {
        assert!(names.insert((&of.service, &of.backend)), "two of one name: {heard:?}");
        assert!(addresses.insert((&of.service, of.address)), "two of one address: {heard:?}");
    }
    let limited = heard.alive.iter().filter(|of| of.service == "web").count();
    assert!(limited <= 4, "more than may register: {heard:?}");
}

fn record(agent: u8, step: AgentStep, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    [&[agent | (step as u8) << 2][..], &length.to_le_bytes(), body].concat()
}

fn json(agent: u8, message: &ToMachine) -> Vec<u8> {
    let frame = encode(message).unwrap_or_default();
    record(agent, AgentStep::Sealed, frame.get(4..).unwrap_or_default())
}

fn register(service: &str, backend: &str, host: u8) -> ToMachine {
    ToMachine::Register {
        service: service.to_owned(),
        backend: backend.to_owned(),
        address: address(0, host),
        incarnation: 5,
        weight: 1,
        port: None,
        capacity: None,
    }
}

fn report(sequence: u64, full: bool, up: bool) -> ToMachine {
    let reason = if up { "ok" } else { "refused" }.to_owned();
    let (service, backend) = ("web".to_owned(), "w1".to_owned());
    let results = vec![BackendReport { service, backend, address: address(0, 1), up, reason }];
    ToMachine::Report { sequence, full, results }
}

fn load(cpu_permille: Option<u16>) -> Load {
    let (service, backend) = ("web".to_owned(), "w1".to_owned());
    Load { service, backend, cpu_permille, connections: Some(7), custom_permille: None }
}

/// Inputs to begin with, named for what they are.
pub fn agent_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let web = |backend: &str, host: u8| json(0, &register("web", backend, host));
    let beat = |loads| json(0, &ToMachine::Heartbeat { sequence: 1, digest: "0".repeat(16), loads });
    let greet = |agent, incarnation, services| record(agent, AgentStep::Greet, &[incarnation, services]);
    let configure = |to| record(0, AgentStep::Configure, &[to]);
    let (wait, agree) = (|n| record(0, AgentStep::Wait, &[n]), record(0, AgentStep::Agree, &[1]));
    let first = [greet(0, 1, 1), web("w1", 1), wait(3), json(0, &report(1, false, true)), agree.clone()];
    let up = first.concat();
    let with = |more: &[Vec<u8>]| [up.clone(), more.concat()].concat();
    let not_local =
        ToMachine::NotLocal { service: "web".to_owned(), revision: 1, addresses: vec![address(0, 1)] };
    let gone =
        ToMachine::Deregister { service: "web".to_owned(), backend: "w1".to_owned(), address: address(0, 1) };
    let hello = encode(&good_hello(1, 9, 3)).unwrap_or_default();
    let hello = hello.get(4..).unwrap_or_default();
    let too_many =
        [web("w2", 2), web("w3", 3), web("w4", 0), greet(1, 1, 1), json(1, &register("web", "w5", 3))];
    let claims = [greet(1, 1, 3), json(1, &register("web", "w1", 2)), json(1, &register("web", "w2", 1))];
    let back = [wait(200), record(0, AgentStep::Agree, &[0]), greet(0, 2, 1), web("w1", 1), agree.clone()];
    let checked_here = [greet(2, 1, 2), json(2, &register("db", "d1", 1)), agree.clone(), agree.clone()];
    vec![
        ("a_backend_comes_up", up.clone()),
        ("a_backend_goes", with(&[json(0, &gone), agree.clone()])),
        (
            "a_backend_goes_down_and_is_not_local",
            with(&[json(0, &report(2, true, false)), json(0, &not_local)]),
        ),
        ("a_heartbeat_with_another_digest", with(&[beat(vec![load(Some(500))]), beat(vec![])])),
        ("a_load_out_of_range", with(&[beat(vec![load(Some(1001))])])),
        ("a_lease_ends_and_the_agent_is_back", with(&back)),
        ("two_agents_claim_one_backend", with(&claims)),
        ("more_than_may_register", with(&too_many)),
        ("a_machine_checks", checked_here.concat()),
        ("a_token_changes", with(&[configure(2), greet(0, 3, 1), configure(0)])),
        ("a_template_changes", with(&[configure(1), agree.clone()])),
        ("a_name_with_another_token", with(&[greet(0, 9, 2), greet(0, 9, 0)])),
        ("a_hello_as_json", record(1, AgentStep::Hello, hello)),
        ("a_second_hello", with(&[record(0, AgentStep::Sealed, hello)])),
        ("bytes_that_are_no_frame", with(&[record(0, AgentStep::Raw, &[0, 0, 0, 41, 0])])),
        ("a_plain_frame", with(&[record(0, AgentStep::Raw, b"\0\0\0\x02{}")])),
        ("a_connection_ends", with(&[record(0, AgentStep::Close, &[]), agree, json(0, &gone)])),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_seeds_play_and_the_first_brings_a_backend_up() {
        for (name, seed) in agent_seeds() {
            println!("{name}");
            rehearse_agents(&seed);
        }
    }

    proptest! {
        #[test]
        fn any_mixture_of_seeds_plays(parts in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..40, 1_usize..80), 0..12)) {
            let seeds = agent_seeds();
            let mut input = Vec::new();
            for (which, from, length) in parts {
                let seed = &which.get(&seeds).1;
                input.extend(seed.iter().skip(from).take(length));
            }
            rehearse_agents(&input);
        }

        #[test]
        fn records_of_seeds_in_any_order_play(order in prop::collection::vec(any::<prop::sample::Index>(), 0..60)) {
            let records: Vec<Vec<u8>> = agent_seeds().iter().flat_map(|(_, seed)| records(seed)).collect();
            let input: Vec<u8> = order.iter().flat_map(|which| which.get(&records).clone()).collect();
            rehearse_agents(&input);
        }
    }

    fn records(mut seed: &[u8]) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        while let [_, low, high, ..] = seed {
            let (record, rest) = seed.split_at(3 + usize::from(u16::from_le_bytes([*low, *high])));
            records.push(record.to_vec());
            seed = rest;
        }
        records
    }
}
