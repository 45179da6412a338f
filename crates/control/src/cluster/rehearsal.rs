//! A machine without a network or a clock, and a store in which anybody who has its password writes anything. Fuzz targets and their
//! seeds are made of it; no daemon is built with it.
//!
//! Rule of this module: an input is records of (control, length, body). The control byte says what (bits 0 to 2, [`StoreStep`]); a body that
//! names a key begins with its kind and its number.
#![cfg_attr(not(feature = "rehearsal"), allow(unreachable_pub))]
#![allow(clippy::panic, reason = "a rehearsal that goes wrong has no other way to say so")]

use super::document::{Document, SLOTS_MAX, Settings, VALUE_MAX, digest};
use super::keys::{self, DesiredValue, HealthValue, Key, MemberValue, ReceivedValue};
use super::participant::{News, Own, Participant, StoreOrder};
use super::snapshot::{KeyChange, StoredValue};
use super::tables::AgreedTables;
use super::text;
use model::registered::Registered;
use statesync::plan::Report;
use statesync::{MachineId, Member};
use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use wire::{CoreId, Tick};
use worker::view::{BACKENDS_MAX, SERVICES_MAX};

/// Most records taken from one input.
const RECORDS_MAX: usize = 64;
/// Rounds in which a machine and a store that nobody else writes come to rest.
const ROUNDS_MAX: usize = 64;
const KEY: [u8; 16] = [7; 16];
const OWN: MachineId = MachineId(0);
/// The first incarnation of the machine.
const INCARNATION: u32 = 1_800_000_000;
const OWN_TEXT: &str = r#"
[machine]
name = "lb1"
address = "10.0.2.11"
next_hop_mac = "02:00:00:00:00:01"
cluster_key = "07070707070707070707070707070707"
[timeouts]
tcp_established_s = 2
tcp_closing_s = 1
syn_s = 1
udp_s = 1
[agents]
listen = "10.0.2.11:7481"
[[port]]
name = "data0"
device = "net_null0"
"#;
const SERVICES: &str = r#"
[[service]]
name = "web"
vip = "203.0.113.10"
port = 80
maglev_size = 251
drain_timeout_ms = 1000
agents = { token_file = "/t", register = { addresses = ["10.1.0.0/16"], limit = 4, names = "*" } }
[service.health]
kind = "tcp"
via = "eth0"
[[service.backend]]
name = "b1"
address = "10.0.2.101"
[[service.backend]]
name = "b2"
address = "10.0.2.102"
"#;

/// What a record is.
#[derive(Clone, Copy)]
enum StoreStep {
    /// Somebody puts the rest of the body under the key.
    Put,
    /// Somebody changes what is under the key: from a place on (two bytes) so many bytes (one) are replaced by the rest of the body.
    Splice,
    /// Somebody deletes the key.
    Delete,
    /// So many times 200 ms pass.
    Wait,
    /// The connection ends, or the store is reached again; bit 0: it has lost its data meanwhile.
    Connect,
    /// The machine's own checks pass, or not (bit 0); it has heard of an agent (bit 1); it wants to leave (bit 2).
    Own,
    /// The store is slow: what the machine asks for now is done later.
    Stall,
    /// The process starts again.
    Restart,
}

const STEPS: [StoreStep; 8] = [
    StoreStep::Put,
    StoreStep::Splice,
    StoreStep::Delete,
    StoreStep::Wait,
    StoreStep::Connect,
    StoreStep::Own,
    StoreStep::Stall,
    StoreStep::Restart,
];

struct StoreStage {
    participant: Participant,
    entries: BTreeMap<Key, StoredValue>,
    revision: i64,
    is_connected: bool,
    incarnation: u32,
    now: Tick,
    /// The step in force.
    step: u64,
    /// What the store has yet to do.
    pending: Vec<StoreOrder>,
}

fn timeouts() -> model::config::Timeouts {
    model::config::Timeouts { tcp_established_s: 2, tcp_closing_s: 1, syn_s: 1, udp_s: 1, fragment_ms: 1000 }
}

fn own() -> Own {
    Own {
        name: "lb1".to_owned(),
        address: IpAddr::from([10, 0, 2, 11]),
        version: "0".to_owned(),
        cores: 1,
        settings: Settings::new(&KEY, 7480, &timeouts()),
        key: KEY,
        agents: Some(SocketAddr::from(([10, 0, 2, 11], 7481))),
    }
}

/// Plays the records of an input, on a cluster of one machine that is in force.
///
/// # Panics
/// What must hold of the machine does not.
pub fn rehearse_store(mut input: &[u8]) {
    let mut stage = StoreStage::new();
    for _ in 0..RECORDS_MAX {
        let [control, low, high, rest @ ..] = input else { break };
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (body, rest) = rest.split_at(length);
        input = rest;
        let step = STEPS[usize::from(control & 7)];
        stage.play(step, body);
        if !matches!(step, StoreStep::Stall) {
            stage.settle();
        }
    }
}

impl StoreStage {
    fn new() -> StoreStage {
        let mut stage = StoreStage {
            participant: Participant::new(own(), OWN_TEXT.to_owned()),
            entries: BTreeMap::new(),
            revision: 0,
            is_connected: false,
            incarnation: INCARNATION,
            now: Tick(1_000_000),
            step: 0,
            pending: Vec::new(),
        };
        stage.play(StoreStep::Own, &[0]);
        stage.put(Key::Desired, keys::bytes(&wish(SERVICES)));
        stage.connect();
        stage.settle();
        assert!(stage.participant.is_ready(), "a cluster of one");
        stage
    }

    fn play(&mut self, step: StoreStep, body: &[u8]) {
        let first = body.first().copied().unwrap_or(0);
        match step {
            StoreStep::Put => {
                let Some((key, value)) = self.key(body) else { return };
                if !is_slow(key, value) {
                    self.put(key, value.to_vec());
                }
            }
            StoreStep::Splice => {
                let Some((key, [low, high, gone, new @ ..])) = self.key(body) else { return };
                let Some(entry) = self.entries.get(&key) else { return };
                let mut value = entry.value.clone();
                let at = usize::from(u16::from_le_bytes([*low, *high])).min(value.len());
                let end = (at + usize::from(*gone)).min(value.len());
                value.splice(at..end, new.iter().copied());
                if !is_slow(key, &value) {
                    self.put(key, value);
                }
            }
            StoreStep::Delete => {
                let Some((key, _)) = self.key(body) else { return };
                self.entries.remove(&key);
                self.revision += 1;
                self.tell((key, None));
            }
            StoreStep::Wait => {
                for _ in 0..first.min(64) {
                    self.now = Tick(self.now.0 + 200_000);
                    self.settle();
                }
            }
            StoreStep::Connect => {
                if self.is_connected {
                    self.is_connected = false;
                    self.participant.disconnected();
                    self.pending.clear();
                    if first & 1 == 1 {
                        self.entries.clear();
                        self.revision = 0;
                    }
                } else {
                    self.connect();
                }
            }
            StoreStep::Own => {
                let mut health = HealthValue::default();
                let of = |backend: &str| ("web".to_owned(), backend.to_owned());
                health.up.insert(of("b1"));
                if first & 1 == 1 { &mut health.down } else { &mut health.up }.insert(of("b2"));
                self.participant.set_health(&health);
                let registered = (first & 2 == 2).then(|| registration("w1", 1));
                self.participant.set_received(ReceivedValue {
                    registered: registered.into_iter().collect(),
                    over: vec![],
                });
                if first & 4 == 4 {
                    self.participant.leave();
                }
            }
            StoreStep::Stall => self.pending.extend(self.participant.poll(self.now)),
            StoreStep::Restart => {
                self.participant = Participant::new(own(), OWN_TEXT.to_owned());
                self.incarnation += 1;
                self.step = 0;
                self.pending.clear();
                self.connect();
            }
        }
    }

    /// The key that a body begins with, and what follows.
    fn key<'a>(&self, body: &'a [u8]) -> Option<(Key, &'a [u8])> {
        let [kind, number, rest @ ..] = body else { return None };
        let machine = MachineId(number % 64);
        let key = match kind % 9 {
            0 => Key::Machine(machine),
            1 => Key::Member(machine),
            2 => Key::Acknowledgement(machine),
            3 => Key::Health(machine),
            4 => Key::Received(machine),
            5 => Key::Leader,
            6 => Key::Desired,
            7 => Key::Plan,
            _ => {
                let there = self.entries.keys().filter(|key| matches!(key, Key::Slots(_)));
                let there: Vec<&Key> = there.collect();
                match there.get(usize::from(*number)) {
                    Some(key) => **key,
                    None => Key::Slots(digest(rest)),
                }
            }
        };
        Some((key, rest))
    }

    fn put(&mut self, key: Key, value: Vec<u8>) -> i64 {
        self.revision += 1;
        let entry = StoredValue { value, revision: self.revision };
        self.entries.insert(key, entry.clone());
        self.tell((key, Some(entry)));
        self.revision
    }

    fn tell(&mut self, change: KeyChange) {
        if self.is_connected {
            self.participant.changed(vec![change]);
        }
    }

    fn revision_of(&self, key: Key) -> i64 {
        self.entries.get(&key).map_or(0, |entry| entry.revision)
    }

    fn connect(&mut self) {
        self.is_connected = true;
        self.participant.identified(Member { machine: OWN, incarnation: self.incarnation }, false);
        let all = self.entries.iter().map(|(key, entry)| (*key, Some(entry.clone())));
        let all = all.collect();
        self.participant.connected(all);
    }

    /// The store does what the machine asks for, and its workers what is in force, until nothing more comes of it. Both stop at the same
    /// time unless somebody writes what the machine has to write again and again: never without a record.
    fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let mut orders = std::mem::take(&mut self.pending);
            orders.extend(self.participant.poll(self.now));
            let news = self.participant.take_news();
            for of in &news {
                match of {
                    News::Adopted => self.look(),
                    News::Warning(text) | News::Fatal(text) => assert!(!text.is_empty()),
                }
            }
            let mut any = !news.is_empty();
            if self.participant.document().is_some() && self.participant.done() < self.step {
                self.participant.report(CoreId(0), Report::Done { step: self.step, incomplete: false });
                any = true;
            }
            if self.is_connected {
                any |= !orders.is_empty();
                for order in orders {
                    self.carry_out(order);
                }
            }
            if !any {
                return;
            }
        }
        panic!("never at rest");
    }

    /// What workers index by is within what they have room for.
    fn look(&mut self) {
        let Some(document) = self.participant.document() else { panic!("adopted nothing") };
        let plan = &document.plan;
        assert!(plan.step >= self.step, "an older plan came into force");
        self.step = plan.step;
        assert_eq!(document.services.len(), plan.services.len());
        let known: HashSet<_> = document.backends.iter().map(|of| of.id).collect();
        assert!(known.iter().all(|id| id.index() < BACKENDS_MAX));
        assert_eq!(known.len(), plan.backends.len());
        assert!(plan.masks.iter().all(|mask| mask.backend.index() < BACKENDS_MAX), "{:?}", plan.masks);
        let mut ids = HashSet::new();
        for (identity, of) in document.services.iter().zip(&plan.services) {
            assert_eq!(identity.id, of.service);
            assert!(usize::from(of.service.0) <= SERVICES_MAX && ids.insert(of.service));
            assert_eq!((of.cur.len(), of.base.len()), (identity.size as usize, identity.size as usize));
            assert!(of.cur.iter().flatten().all(|id| known.contains(id)));
            assert!(of.base.iter().flatten().all(|id| id.index() < BACKENDS_MAX));
            assert!(of.tainted.iter().all(|slot| slot < identity.size));
        }
        let slots: usize = plan.services.iter().map(|of| of.cur.len()).sum();
        assert!(slots as u64 <= SLOTS_MAX, "{slots} slots");
        if let Some(next) = &plan.next_tables {
            assert_eq!(next.answers.len(), plan.services.len());
            for (answers, of) in next.answers.iter().zip(&plan.services) {
                assert_eq!(answers.len(), of.cur.len());
                assert!(answers.iter().flatten().all(|id| known.contains(id)));
            }
        }
        let _ = plan.owners();
        // What makes it a configuration refuses, or not.
        if let Ok(loaded) = text::with_services(OWN_TEXT, &document.text) {
            let (config, _) = loaded.config.with_registered(&document.registered);
            let _ = config.registered();
        }
    }

    fn carry_out(&mut self, order: StoreOrder) {
        match order {
            StoreOrder::Put { key, value, if_plan } => {
                assert!(value.len() <= VALUE_MAX, "{key:?}: {} bytes", value.len());
                let is_other = if_plan.is_some_and(|revision| revision != self.revision_of(Key::Plan));
                self.put_if(!is_other, key, value);
            }
            StoreOrder::Register { machine, value, after } => {
                let key = Key::Machine(machine);
                self.put_if(after == self.revision_of(key), key, value);
            }
            StoreOrder::Lead { value, after } => {
                self.put_if(after == self.revision_of(Key::Leader), Key::Leader, value);
            }
            StoreOrder::Resign(value) => {
                if self.is_led_by(&value) {
                    self.delete(Key::Leader);
                }
            }
            StoreOrder::Sweep { digests, if_plan, leader } => {
                if self.is_led_by(&leader) && if_plan == self.revision_of(Key::Plan) {
                    digests.into_iter().for_each(|digest| self.delete(Key::Slots(digest)));
                }
            }
            StoreOrder::Plan { document, after, leader } => {
                if !self.is_led_by(&leader) || after != self.revision_of(Key::Plan) {
                    return self.participant.plan_written(None);
                }
                for (digest, slots) in document.slots {
                    assert!(slots.len() <= VALUE_MAX);
                    self.put(Key::Slots(digest), slots);
                }
                assert!(document.head.len() <= VALUE_MAX);
                let slots = |digest| self.entries.get(&Key::Slots(digest)).map(|of| &of.value[..]);
                let read = Document::decode(&document.head, slots, &mut AgreedTables::new(KEY));
                assert!(read.is_ok(), "what it writes it reads: {:?}", read.err());
                let revision = self.put(Key::Plan, document.head);
                self.participant.plan_written(Some(revision));
            }
            StoreOrder::Leave => {
                for key in [Key::Member, Key::Acknowledgement, Key::Health, Key::Received] {
                    self.delete(key(OWN));
                }
                self.delete(Key::Leader);
            }
        }
    }

    fn put_if(&mut self, may: bool, key: Key, value: Vec<u8>) {
        if may {
            self.put(key, value);
        } else {
            self.participant.not_put(key);
        }
    }

    fn delete(&mut self, key: Key) {
        self.entries.remove(&key);
        self.revision += 1;
        self.tell((key, None));
    }

    fn is_led_by(&self, leader: &[u8]) -> bool {
        self.entries.get(&Key::Leader).is_some_and(|of| of.value == leader)
    }
}

/// Whether it asks for tables that take seconds to make; what is checked here does not depend on their size.
fn is_slow(key: Key, value: &[u8]) -> bool {
    let digits =
        || value.split(|byte| !byte.is_ascii_digit()).filter(|number| (6..=8).contains(&number.len()));
    match key {
        Key::Plan => serde_json::from_slice(value).is_ok_and(|plan: serde_json::Value| {
            let services = plan["services"].as_array().map(Vec::as_slice).unwrap_or_default();
            services
                .iter()
                .filter_map(|of| of["size"].as_u64())
                .filter(|size| *size <= SLOTS_MAX)
                .sum::<u64>()
                > 200_000
        }),
        Key::Desired => {
            digits().next().is_some() || value.windows(13).filter(|of| of == b"[[service]]\\n").count() > 4
        }
        _ => false,
    }
}

fn wish(text: &str) -> DesiredValue {
    DesiredValue { text: text.to_owned(), drains: [].into(), by: "lb1".to_owned(), unix_ms: 1 }
}

fn registration(backend: &str, host: u8) -> Registered {
    Registered {
        service: "web".to_owned(),
        backend: backend.to_owned(),
        address: IpAddr::from([10, 1, 0, host]),
        incarnation: 5,
        agent: "h1".to_owned(),
        weight: 1,
        port: None,
        capacity: None,
    }
}

fn record(step: StoreStep, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    [&[step as u8][..], &length.to_le_bytes(), body].concat()
}

fn put(kind: u8, number: u8, value: &[u8]) -> Vec<u8> {
    record(StoreStep::Put, &[&[kind, number][..], value].concat())
}

/// A record that replaces a text in what the machine has put under a key.
fn replace(stage: &StoreStage, (kind, number): (u8, u8), from: &str, to: &str) -> Vec<u8> {
    let (key, _) = stage.key(&[kind, number]).unwrap_or((Key::Plan, &[]));
    let value = stage.entries.get(&key).map(|of| String::from_utf8_lossy(&of.value).into_owned());
    let value = value.unwrap_or_default();
    let at = value.find(from).unwrap_or_else(|| panic!("{from:?} is not in {key:?}: {value}"));
    let at = u16::try_from(at).unwrap_or(0).to_le_bytes();
    let gone = u8::try_from(from.len()).unwrap_or(0);
    record(StoreStep::Splice, &[&[kind, number, at[0], at[1], gone][..], to.as_bytes()].concat())
}

/// Inputs to begin with, named for what they are.
pub fn store_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let stage = StoreStage::new();
    let plan = (7, 0);
    let change = |key, from: &str, to: &str| replace(&stage, key, from, to);
    let wait = |n: u8| record(StoreStep::Wait, &[n]);
    let peer = MemberValue {
        name: "lb2".to_owned(),
        incarnation: 9,
        address: IpAddr::from([10, 0, 2, 12]),
        version: "0".to_owned(),
        settings: own().settings,
        leaving: false,
        agents: None,
        founder: None,
    };
    let heard =
        ReceivedValue { registered: vec![registration("w1", 1), registration("w2", 2)], over: vec![] };
    let more = SERVICES.replace("10.0.2.102", "10.0.2.103").replace("\"web\"", "\"web\"\nhash = \"source\"");
    let restart = record(StoreStep::Restart, &[]);
    vec![
        ("wish", [put(6, 0, &keys::bytes(&wish(&more))), wait(20)].concat()),
        ("wish_without_services", [put(6, 0, &keys::bytes(&wish(""))), wait(20)].concat()),
        ("wish_that_is_none", [put(6, 0, b"{\"text\": 7}"), wait(2)].concat()),
        (
            "peer",
            [put(1, 5, &keys::bytes(&peer)), put(2, 5, b"{\"incarnation\":9,\"step\":99}"), wait(9)].concat(),
        ),
        ("own_number_of_another", [put(1, 0, &keys::bytes(&peer)), wait(2)].concat()),
        ("peers_heard", [put(1, 5, &keys::bytes(&peer)), put(4, 5, &keys::bytes(&heard)), wait(9)].concat()),
        ("peer_leads", [put(5, 0, b"{\"machine\":5,\"incarnation\":9}"), wait(9)].concat()),
        (
            "refused_slots",
            put(2, 0, b"{\"incarnation\":1800000000,\"step\":1,\"refused\":[\"0+4294967295\"]}"),
        ),
        ("plan_step", [change(plan, "\"step\":", "\"step\":9999"), wait(9)].concat()),
        ("plan_member", [change(plan, "\"members\":[[0", "\"members\":[[200,1],[0"), wait(9)].concat()),
        ("plan_mask", [change(plan, "\"masks\":[", "\"masks\":[[4000000,true]"), wait(9)].concat()),
        ("plan_phase", [change(plan, "\"phase\":\"idle\"", "\"phase\":\"commit\""), wait(9)].concat()),
        ("plan_service_id", [change(plan, "{\"id\":1,", "{\"id\":65535,"), wait(9)].concat()),
        ("plan_size", [change(plan, "\"size\":251", "\"size\":4294967295"), wait(9)].concat()),
        ("plan_digest", [change(plan, "\"slots\":\"", "\"slots\":\"0"), wait(9)].concat()),
        ("plan_settings", [change(plan, "\"port\":7480", "\"port\":7481"), wait(9)].concat()),
        (
            "plan_founder",
            [change(plan, "\"founder\":[0", "\"founder\":[1"), wait(9), restart.clone()].concat(),
        ),
        ("plan_text", [change(plan, "\"text\":\"", "\"text\":\"[machine]\\n"), wait(9)].concat()),
        (
            "slots_tainted",
            [change((8, 0), "\"tainted\":[", "\"tainted\":[[77,\"0+250\"]"), restart.clone()].concat(),
        ),
        ("slots_table", [change((8, 0), "\"table\":[[0,1]", "\"table\":[[0,0]"), restart.clone()].concat()),
        (
            "slots_overwritten",
            [
                put(8, 0, b"{"),
                put(6, 0, &keys::bytes(&wish(&more))),
                wait(40),
                put(6, 0, &keys::bytes(&wish(SERVICES))),
                wait(40),
            ]
            .concat(),
        ),
        ("slots_empty", [put(8, 0, b""), restart.clone()].concat()),
        ("plan_deleted", [record(StoreStep::Delete, &[7, 0]), wait(9)].concat()),
        ("wiped", [record(StoreStep::Connect, &[1]), record(StoreStep::Connect, &[0]), wait(60)].concat()),
        ("own_checks", [record(StoreStep::Own, &[7]), wait(20)].concat()),
        ("stalled", [record(StoreStep::Stall, &[]), restart, wait(3)].concat()),
    ]
}

#[cfg(test)]
mod tests {
    use super::{RECORDS_MAX, rehearse_store, store_seeds};
    use proptest::prelude::{any, prop, proptest};

    #[test]
    fn seeds_play() {
        for (name, seed) in store_seeds() {
            println!("{name}");
            rehearse_store(&seed);
        }
    }

    proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { cases: 32, ..Default::default() })]

        /// A seed into which somebody writes at random.
        #[test]
        fn any_change_of_a_value_is_taken_or_refused(
            which in any::<prop::sample::Index>(),
            splices in prop::collection::vec((0_u8..9, 0_u8..3, any::<u16>(), 0_u8..9, "[0-9,\\[\\]{}\":a-z]{0,6}"), 1..8),
        ) {
            let seeds = store_seeds();
            let mut input = seeds[which.index(seeds.len())].1.clone();
            for (kind, number, at, gone, new) in splices.into_iter().take(RECORDS_MAX / 2) {
                let [low, high] = (at % 1500).to_le_bytes();
                let body = [&[kind, number, low, high, gone][..], new.as_bytes()].concat();
                input.extend(super::record(super::StoreStep::Splice, &body));
            }
            rehearse_store(&input);
        }
    }
}
