//! Seats around a store in memory, under a seeded schedule: what they come to, however the store and the machines fail.

use super::document::{DecodeError, Document, Settings, VALUE_MAX, digests_of};
use super::keys::{self, DesiredValue, HealthValue, Key, MachineValue};
use super::memory::MemoryStore;
use super::participant::{News, Own, Participant, StoreOrder};
use super::snapshot::StoredValue;
use super::stock::{Lot, Missing};
use super::store_event::StoreEvent;
use super::tables::AgreedTables;
use super::text;
use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::test_runner::TestCaseError;
use statesync::plan::{Phase, Report};
use statesync::{MachineId, Member};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use wire::{BackendId, CoreId, ServiceId, Tick};

#[cfg(feature = "etcd")]
mod etcd;
mod registering;

const KEY: [u8; 16] = [7; 16];

fn timeouts() -> model::config::Timeouts {
    model::config::Timeouts { tcp_established_s: 2, tcp_closing_s: 1, syn_s: 1, udp_s: 1, fragment_ms: 1000 }
}

/// The machine's part of a configuration.
fn own_text(machine: usize) -> String {
    format!(
        "[machine]\nname = \"lb{machine}\"\naddress = \"10.0.2.{0}\"\nnext_hop_mac = \"02:00:00:00:00:01\"\n\
         cluster_key = \"07070707070707070707070707070707\"\n[timeouts]\ntcp_established_s = 2\ntcp_closing_s = 1\nsyn_s = 1\n\
         udp_s = 1\n[agents]\nlisten = \"10.0.2.{0}:7481\"\n[[port]]\nname = \"data0\"\ndevice = \"net_null0\"\n",
        11 + machine
    )
}

/// A service with these backends (number, weight); with health checks or without.
fn service(name: &str, vip: u8, backends: &[(u8, u8)], checked: bool) -> String {
    let health = if checked { "[service.health]\nkind = \"tcp\"\nvia = \"eth0\"\n" } else { "" };
    let mut text = format!(
        "[[service]]\nname = \"{name}\"\nvip = \"203.0.113.{vip}\"\nport = 80\nmaglev_size = 251\n\
         drain_timeout_ms = 1000\n{health}"
    );
    for (number, weight) in backends {
        text += &format!(
            "[[service.backend]]\nname = \"b{number}\"\naddress = \"10.0.2.{}\"\nweight = {weight}\n",
            100 + number
        );
    }
    text
}

fn own(machine: usize) -> Own {
    Own {
        name: format!("lb{machine}"),
        address: IpAddr::V4(Ipv4Addr::new(10, 0, 2, 11 + u8::try_from(machine).expect("few"))),
        version: "0".to_owned(),
        cores: 2,
        settings: Settings::new(&KEY, 7480, &timeouts()),
        key: KEY,
        agents: None,
    }
}

/// Of every other machine, another thread makes what takes long.
fn participant(at: usize) -> Participant {
    let mut participant = Participant::new(own(at), own_text(at));
    if at.is_multiple_of(2) {
        participant.make_elsewhere(0);
    }
    participant
}

struct Machine {
    participant: Participant,
    /// What is being made on its other thread.
    lacks: Option<Missing>,
    /// `None`: it has not started yet.
    member: Option<Member>,
    /// `None`: the store is not reached.
    inbox: Option<VecDeque<StoreEvent>>,
    /// The largest step that was in force here.
    step: u64,
    /// Its workers do not report: they hang.
    hangs: bool,
    warnings: Vec<String>,
    fatal: Option<String>,
}

impl Machine {
    fn hear(&mut self, event: StoreEvent) {
        match event {
            StoreEvent::Changed(changes) => self.participant.changed(changes),
            StoreEvent::PlanWritten(revision) => self.participant.plan_written(revision),
            StoreEvent::NotPut(key) => self.participant.not_put(key),
            other => panic!("{other:?} is no answer of this store"),
        }
    }

    /// True: something was missing, and is there.
    fn make_missing(&mut self) -> bool {
        let Some(Missing { tables, key, texts }) = self.lacks.take() else { return false };
        self.participant.made(Lot {
            tables: tables.into_iter().map(|recipe| recipe.make(&key).expect("a table")).collect(),
            readings: texts.into_iter().map(|of| of.read(|_| Ok(HashMap::new()))).collect(),
        });
        true
    }

    /// Its workers do what is in force, unless they hang. True: it was not done.
    fn work(&mut self) -> bool {
        let Some(document) = self.participant.document().filter(|_| !self.hangs) else { return false };
        let step = document.plan.step;
        assert!(step >= self.step, "an older plan came into force");
        self.step = step;
        if self.participant.done() >= step {
            return false;
        }
        for core in [0, 1] {
            self.participant.report(CoreId(core), Report::Done { step, incomplete: false });
        }
        true
    }
}

/// A store and its machines.
struct World {
    store: MemoryStore,
    machines: Vec<Machine>,
    now: Tick,
    /// The largest step ever written, since the store has lost its data.
    step: u64,
    /// Unix time of those who start, seconds.
    clock_s: u32,
}

impl World {
    fn new(machines: usize) -> World {
        let mut world = World {
            store: MemoryStore::default(),
            machines: Vec::new(),
            now: Tick(1_000_000),
            step: 0,
            clock_s: 1,
        };
        for at in 0..machines {
            world.machines.push(Machine {
                participant: participant(at),
                lacks: None,
                member: None,
                inbox: None,
                step: 0,
                hangs: false,
                warnings: Vec::new(),
                fatal: None,
            });
            world.connect(at);
        }
        world
    }

    /// As who a machine starts; `None`: not while another one uses its number.
    fn choose(&mut self, at: usize) -> Option<Member> {
        let member = self.store.choose(&own(at).name, self.clock_s, &mut AgreedTables::new(KEY));
        self.tell();
        member
    }

    fn connect(&mut self, at: usize) {
        let joins = self.has(Key::Plan);
        let Some(member) = self.machines[at].member.or_else(|| self.choose(at)) else { return };
        self.machines[at].member = Some(member);
        let all = self.store.all();
        let machine = &mut self.machines[at];
        machine.inbox = Some(VecDeque::new());
        machine.participant.identified(member, joins);
        machine.participant.connected(all);
    }

    fn disconnect(&mut self, at: usize) {
        self.machines[at].inbox = None;
        self.machines[at].participant.disconnected();
    }

    /// All that is under the machine's lease goes.
    fn end_lease(&mut self, at: usize) {
        self.store.end_lease(at as u64);
        self.tell();
    }

    /// The process dies, and starts again.
    fn restart(&mut self, at: usize) {
        self.stop(at);
        // It waits for a plan before it takes a number, long enough for those who have one.
        let runs = |of: &Machine| of.participant.document().is_some();
        if !self.has(Key::Plan) && self.machines.iter().any(runs) {
            for other in 0..self.machines.len() {
                if runs(&self.machines[other]) && self.machines[other].inbox.is_none() {
                    self.connect(other);
                }
            }
            self.settle();
        }
        self.connect(at);
    }

    /// The process dies.
    fn stop(&mut self, at: usize) {
        self.end_lease(at);
        let machine = &mut self.machines[at];
        machine.inbox = None;
        machine.member = None;
        machine.participant = participant(at);
        machine.lacks = None;
        machine.step = 0;
        machine.fatal = None;
    }

    /// The store dies, and comes back empty.
    fn wipe(&mut self) {
        for at in 0..self.machines.len() {
            if self.machines[at].inbox.is_some() {
                self.disconnect(at);
            }
        }
        self.store.wipe();
        self.step = 0;
        self.clock_s += 10;
    }

    /// What has changed is on its way to all who are connected.
    fn tell(&mut self) {
        for change in self.store.take_changes() {
            for inbox in self.machines.iter_mut().filter_map(|machine| machine.inbox.as_mut()) {
                inbox.push_back(StoreEvent::Changed(vec![change.clone()]));
            }
        }
    }

    fn put(&mut self, key: Key, value: Vec<u8>, of: Option<usize>) -> i64 {
        let revision = self.store.put(key, value, of.map(|at| at as u64));
        self.tell();
        revision
    }

    fn remove(&mut self, key: Key) {
        assert!(self.store.remove(key));
        self.tell();
    }

    fn has(&self, key: Key) -> bool {
        self.store.entry(key).is_some()
    }

    fn value(&self, key: Key) -> &[u8] {
        &self.store.entry(key).expect("it is there").value
    }

    fn revision_of(&self, key: Key) -> i64 {
        self.store.revision_of(key)
    }

    fn wish(&mut self, services: &str, drains: &[(&str, &str)]) -> i64 {
        let text = text::services_of(services).expect("TOML");
        let drains = drains.iter().map(|(s, b)| ((*s).to_owned(), (*b).to_owned())).collect();
        self.put(
            Key::Desired,
            keys::bytes(&DesiredValue { text, drains, by: "test".to_owned(), unix_ms: 0 }),
            None,
        )
    }

    fn document(&self) -> Document {
        let document = self.store.document(&mut AgreedTables::new(KEY)).expect("there is a plan");
        document.expect("what a leader wrote")
    }

    /// The store carries out what a machine asks for.
    fn carry_out(&mut self, at: usize, order: StoreOrder) {
        let answer = self.store.carry_out(at as u64, order);
        if matches!(answer, Some(StoreEvent::PlanWritten(Some(_)))) {
            let document = self.document();
            let step = document.plan.step;
            assert!(step >= self.step, "{} then {step}", self.step);
            self.step = step;
            assert_eq!(document.services.len(), document.plan.services.len());
            let known: Vec<BackendId> = document.backends.iter().map(|of| of.id).collect();
            assert_eq!(known, document.plan.backends.to_vec(), "identities of exactly the plan's backends");
        }
        if self.has(Key::Plan) {
            // Nothing that it names was swept.
            self.document();
        }
        self.tell();
        if let (Some(answer), Some(inbox)) = (answer, &mut self.machines[at].inbox) {
            inbox.push_back(answer);
        }
    }

    /// What a machine wants of the store now, but for what is held back.
    fn hold(
        &mut self,
        at: usize,
        held: &mut Vec<StoreOrder>,
        is_held: impl Fn(&StoreOrder) -> bool,
    ) -> Vec<StoreOrder> {
        let now = self.now;
        let machine = &mut self.machines[at];
        while let Some(event) = machine.inbox.as_mut().and_then(VecDeque::pop_front) {
            machine.hear(event);
        }
        machine.make_missing();
        let mut orders = machine.participant.poll(now);
        machine.lacks = machine.participant.take_missing();
        machine.work();
        orders.extend(machine.participant.poll(now));
        held.extend(orders.extract_if(.., |order| is_held(order)));
        orders
    }

    /// A machine takes in up to so many deliveries, its workers do what is in force, and it says what it wants. True: something happened.
    fn turn(&mut self, at: usize, deliveries: usize) -> bool {
        let now = self.now;
        let machine = &mut self.machines[at];
        let mut any = false;
        for _ in 0..deliveries {
            let Some(delivery) = machine.inbox.as_mut().and_then(VecDeque::pop_front) else { break };
            any = true;
            machine.hear(delivery);
        }
        any |= machine.make_missing();
        let mut orders = machine.participant.poll(now);
        machine.lacks = machine.participant.take_missing();
        any |= machine.lacks.is_some();
        for news in machine.participant.take_news() {
            match news {
                News::Adopted => any = true,
                News::Warning(text) => machine.warnings.push(text),
                News::Fatal(text) => machine.fatal = Some(text),
            }
        }
        if machine.work() {
            orders.extend(machine.participant.poll(now));
            any = true;
        }
        if self.machines[at].inbox.is_some() {
            any |= !orders.is_empty();
            for order in orders {
                self.carry_out(at, order);
            }
            if let Some(wish) = self.machines[at].participant.wish_to_put_back() {
                let is_there =
                    self.store.entry(Key::Desired).is_some_and(|of| of.value == keys::bytes(&wish));
                if !is_there {
                    self.put(Key::Desired, keys::bytes(&wish), None);
                    any = true;
                }
            }
        }
        any
    }

    /// Until nothing more comes of it, without time passing.
    fn settle(&mut self) {
        for _ in 0..2000 {
            let any = (0..self.machines.len()).fold(false, |any, at| self.turn(at, usize::MAX) | any);
            if !any {
                return self.check_numbers();
            }
        }
        panic!("never at rest: {:?}", self.document().plan.phase);
    }

    /// No two machines that have seen what the store says take traffic under one number.
    fn check_numbers(&self) {
        let ready = self.machines.iter().filter(|of| of.inbox.is_some() && of.participant.is_ready());
        let mut numbers: Vec<_> = ready.filter_map(|of| Some(of.member?.machine)).collect();
        numbers.sort_unstable();
        assert!(numbers.windows(2).all(|of| of[0] != of[1]), "{numbers:?}");
    }

    /// The same, while time passes.
    fn settle_for(&mut self, us: u64) {
        for _ in 0..us / 200_000 {
            self.now = Tick(self.now.0 + 200_000);
            self.settle();
        }
    }

    fn set_health(&mut self, at: usize, up: &[&str], down: &[&str]) {
        let of = |names: &[&str]| names.iter().map(|name| ("web".to_owned(), (*name).to_owned())).collect();
        self.machines[at].participant.set_health(&HealthValue { up: of(up), down: of(down) });
    }

    /// Name of the backend that serves each slot of a service.
    fn answers(&self, service: usize) -> Vec<Option<String>> {
        let document = self.document();
        let name = |id: &Option<BackendId>| {
            let id = (*id)?;
            Some(document.backends.iter().find(|of| of.id == id)?.name.clone())
        };
        document.plan.services[service].cur.iter().map(name).collect()
    }

    fn serving(&self, service: usize) -> BTreeSet<String> {
        self.answers(service).into_iter().flatten().collect()
    }
}

fn names(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_cluster_begins_with_whoever_is_there() {
    let mut world = World::new(3);
    world.settle();
    let document = world.document();
    assert_eq!((document.plan.phase, document.services.len()), (Phase::Idle, 0));
    assert_eq!(document.plan.members.len(), 3);
    assert!((0..3).all(|at| world.machines[at].participant.is_ready()));
    assert_eq!((0..3).filter(|&at| world.machines[at].participant.leads()).count(), 1);
    let wish = world.wish(&service("web", 10, &[(1, 1), (2, 1)], false), &[]);
    world.settle();
    let document = world.document();
    assert_eq!((document.wish, document.settled), (wish, wish));
    assert_eq!(world.serving(0), names(&["b1", "b2"]));
    assert_eq!(document.plan.tainted_slots(), 0, "a service that begins has no flows");
    assert_eq!((document.services[0].id, document.given.backends), (ServiceId(1), 2));
    for machine in &world.machines {
        assert_eq!(machine.participant.document().map(|of| of.plan.step), Some(document.plan.step));
        assert_eq!((&machine.warnings, &machine.fatal), (&Vec::new(), &None));
    }
}

/// Whoever may write to the store can write a leader that is none: under no lease, it would be there for ever.
#[test]
fn a_leader_that_is_none_is_replaced() {
    for value in
        [&b"nobody"[..], b"{\"machine\":9,\"incarnation\":9}", b"{\"machine\":1,\"incarnation\":0}", b""]
    {
        let mut world = World::new(2);
        world.wish(&service("web", 10, &[(1, 1), (2, 1)], false), &[]);
        world.settle();
        world.put(Key::Leader, value.to_vec(), None);
        world.settle();
        assert_eq!((0..2).filter(|&at| world.machines[at].participant.leads()).count(), 1);
        let wish = world.wish(&service("web", 10, &[(1, 1), (3, 1)], false), &[]);
        world.settle();
        assert_eq!((world.document().settled, world.serving(0)), (wish, names(&["b1", "b3"])));
    }
}

/// Where load decided, a flow may be anywhere: when slots decide again, each is tainted until nobody's flow is elsewhere.
#[test]
fn a_service_that_returns_to_maglev_begins_tainted() {
    let mut world = World::new(2);
    let maglev = service("web", 10, &[(1, 1), (2, 1)], false);
    let by_load = maglev.replace("maglev_size", "policy = \"least-load\"\nmaglev_size");
    world.wish(&by_load, &[]);
    world.settle();
    assert_eq!(world.document().plan.tainted_slots(), 0);
    world.wish(&maglev, &[]);
    world.settle();
    let plan = world.document().plan;
    assert_eq!((plan.services.len(), plan.tainted_slots()), (1, 251));
    assert_eq!(plan.services[0].base, plan.services[0].cur);
    world.settle_for(3_000_000);
    assert_eq!(world.document().plan.tainted_slots(), 0);
    // The other way every flow is told to its owners as it is used.
    world.wish(&by_load, &[]);
    world.settle();
    assert_eq!(world.document().plan.tainted_slots(), 0);
}

/// The leader makes tables of the weights that its machine tells.
#[test]
fn weights_in_force_are_the_leaders() {
    let mut world = World::new(2);
    world.wish(&service("web", 10, &[(1, 1), (2, 1)], false), &[]);
    world.settle();
    let share = |world: &World| {
        let plan = world.document().plan;
        plan.services[0].cur.iter().filter(|of| **of == Some(BackendId(1))).count()
    };
    assert!((125..=126).contains(&share(&world)));
    for (weights, slots) in
        [(vec![(0, 10), (1, 1)], 22..=23), (vec![(0, 2), (1, 1)], 83..=84), (vec![], 125..=126)]
    {
        let weights: HashMap<BackendId, u32> =
            weights.into_iter().map(|(id, weight)| (BackendId(id), weight)).collect();
        for machine in &mut world.machines {
            machine.participant.set_weights(weights.clone());
        }
        world.settle_for(200_000);
        assert!(slots.contains(&share(&world)), "{slots:?} {}", share(&world));
    }
}

#[test]
fn a_change_keeps_what_left_until_its_time_is_over() {
    let mut world = World::new(2);
    world.wish(&service("web", 10, &[(1, 1), (2, 1)], false), &[]);
    world.settle();
    let before = world.answers(0);
    let wish = world.wish(&service("web", 10, &[(1, 1), (3, 1)], false), &[]);
    world.settle();
    let document = world.document();
    assert_eq!((document.settled, world.serving(0)), (wish, names(&["b1", "b3"])));
    let known: Vec<&str> = document.backends.iter().map(|of| of.name.as_str()).collect();
    assert_eq!(known, ["b1", "b2", "b3"], "b2 has flows");
    let changed = before.iter().zip(world.answers(0)).filter(|(old, new)| **old != *new).count();
    assert!(document.plan.tainted_slots() >= changed && changed > 80, "{changed}");
    // drain_timeout_ms.
    world.settle_for(1_200_000);
    let document = world.document();
    assert_eq!(document.backends.iter().map(|of| of.name.as_str()).collect::<Vec<_>>(), ["b1", "b3"]);
    assert_eq!(document.given.resting.iter().collect::<Vec<_>>(), [1]);
    // The longest idle time.
    world.settle_for(3_000_000);
    assert_eq!(world.document().plan.tainted_slots(), 0);
    // It comes back as another one.
    world.wish(&service("web", 10, &[(1, 1), (2, 1), (3, 1)], false), &[]);
    world.settle();
    let ids: Vec<(u32, String)> =
        world.document().backends.iter().map(|of| (of.id.0, of.name.clone())).collect();
    assert_eq!(ids, [(0, "b1".to_owned()), (2, "b3".to_owned()), (3, "b2".to_owned())]);
}

#[test]
fn drains_and_weights_move_tables_and_keep_backends() {
    let mut world = World::new(2);
    let text = service("web", 10, &[(1, 1), (2, 1), (3, 1)], false);
    world.wish(&text, &[]);
    world.settle();
    world.wish(&text, &[("web", "b2")]);
    world.settle();
    assert_eq!(world.serving(0), names(&["b1", "b3"]));
    assert_eq!(world.document().backends.len(), 3);
    world.wish(&service("web", 10, &[(1, 3), (2, 1), (3, 0)], false), &[]);
    world.settle();
    let answers = world.answers(0);
    let of_b1 = answers.iter().flatten().filter(|name| *name == "b1").count();
    assert_eq!(world.serving(0), names(&["b1", "b2"]));
    assert!((180..=195).contains(&of_b1), "{of_b1} of 251");
}

/// Slots that were told to go are still shown when the next plan names them again, and go before that plan is written.
#[test]
fn slots_that_were_told_to_go_are_put_again_with_the_plan_that_names_them() {
    let mut world = World::new(1);
    world.wish(&service("web", 10, &[(1, 1), (2, 1)], false), &[]);
    world.settle();
    let first = digests_of(world.value(Key::Plan));
    world.machines[0].participant.set_weights(HashMap::from([(BackendId(0), 10)]));
    // Orders that sweep are on their way from now on, and so is the plan that has the first slots again.
    let (mut sweeps, mut plan) = (Vec::new(), Vec::new());
    for turn in 0..200 {
        if turn == 100 {
            world.machines[0].participant.set_weights(HashMap::new());
        }
        world.now = Tick(world.now.0 + 100_000);
        let mut orders = world.hold(0, &mut sweeps, |order| matches!(order, StoreOrder::Sweep { .. }));
        let has_first = |order: &mut StoreOrder| matches!(order, StoreOrder::Plan { document, .. } if turn > 100 && digests_of(&document.head) == first);
        plan.extend(orders.extract_if(.., has_first));
        orders.into_iter().for_each(|order| world.carry_out(0, order));
    }
    assert_eq!(plan.len(), 1);
    // They are carried out in order; what a plan names must be there.
    sweeps.into_iter().chain(plan).for_each(|order| world.carry_out(0, order));
    world.settle();
    assert_eq!(digests_of(world.value(Key::Plan)), first);
}

#[test]
fn services_come_and_go_by_their_identity() {
    let mut world = World::new(2);
    world.wish(&service("web", 10, &[(1, 1)], false), &[]);
    world.settle();
    let both = format!("{}{}", service("dns", 53, &[(5, 1)], false), service("web", 10, &[(1, 1)], false));
    world.wish(&both, &[]);
    world.settle();
    let of = |document: &Document| -> Vec<(String, u16)> {
        document.services.iter().map(|of| (of.name.clone(), of.id.0)).collect()
    };
    assert_eq!(
        of(&world.document()),
        [("web".to_owned(), 1), ("dns".to_owned(), 2)],
        "old ones stay in their places"
    );
    let other = service("web", 10, &[(1, 1)], false).replace("maglev_size = 251", "maglev_size = 509");
    world.wish(&other, &[]);
    world.settle();
    let document = world.document();
    assert_eq!(
        of(&document),
        [("web".to_owned(), 3)],
        "slots have another meaning, so it is another service"
    );
    assert_eq!(document.plan.services[0].cur.len(), 509);
    assert_eq!(document.given.resting_services.iter().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(document.backends.iter().map(|of| of.id.0).collect::<Vec<_>>(), [2]);
}

#[test]
fn the_majority_says_who_is_down() {
    let mut world = World::new(3);
    world.wish(&service("web", 10, &[(1, 1), (2, 1), (3, 1)], true), &[]);
    world.settle();
    assert_eq!(world.serving(0), names(&[]), "nothing is known yet");
    for at in 0..3 {
        world.set_health(at, &["b1", "b2", "b3"], &[]);
    }
    world.settle();
    assert_eq!(world.serving(0), names(&["b1", "b2", "b3"]));
    world.set_health(0, &["b1", "b3"], &["b2"]);
    world.settle();
    assert!(world.document().plan.masks.is_empty(), "one of three");
    world.set_health(1, &["b1", "b3"], &["b2"]);
    world.settle();
    let document = world.document();
    assert_eq!(world.serving(0), names(&["b1", "b3"]));
    assert!(document.plan.is_masked(document.backends[1].id), "its flows may hang on");
    for at in 0..3 {
        world.set_health(at, &["b1", "b2", "b3"], &[]);
    }
    world.settle();
    assert_eq!((world.document().plan.masks.len(), world.serving(0)), (0, names(&["b1", "b2", "b3"])));
    // Mass failure is likelier the checks'.
    for at in 0..3 {
        world.set_health(at, &["b1"], &["b2", "b3"]);
    }
    world.settle();
    assert_eq!((world.document().plan.masks.len(), world.serving(0)), (0, names(&["b1", "b2", "b3"])));
}

#[test]
fn news_of_health_may_be_missing_after_a_restart_and_nothing_moves() {
    let mut world = World::new(2);
    world.wish(&service("web", 10, &[(1, 1), (2, 1)], true), &[]);
    for at in 0..2 {
        world.set_health(at, &["b1", "b2"], &[]);
    }
    world.settle();
    let generation = world.document().plan.generation;
    for at in 0..2 {
        world.restart(at);
        world.settle();
    }
    assert_eq!(world.document().plan.generation, generation);
    assert_eq!(world.serving(0), names(&["b1", "b2"]));
}

#[test]
fn a_mask_does_not_wait_for_a_machine_that_hangs() {
    let mut world = World::new(3);
    world.wish(&service("web", 10, &[(1, 1), (2, 1), (3, 1)], true), &[]);
    for at in 0..3 {
        world.set_health(at, &["b1", "b2", "b3"], &[]);
    }
    world.settle();
    world.machines[2].hangs = true;
    for at in 0..2 {
        world.set_health(at, &["b1", "b3"], &["b2"]);
    }
    world.settle();
    let b2 = world.document().backends[1].id;
    assert!(!world.document().plan.is_masked(b2), "one has not announced it");
    world.settle_for(300_000);
    assert!(world.document().plan.is_masked(b2));
    assert_eq!(world.serving(0), names(&["b1", "b2", "b3"]), "tables wait for everybody");
    world.end_lease(2);
    world.machines[2].inbox = None;
    world.settle();
    assert_eq!(world.serving(0), names(&["b1", "b3"]), "whose lease has ended is waited for no more");
}

#[test]
fn whoever_was_given_up_is_told_and_comes_back_as_another_member() {
    let mut world = World::new(3);
    world.wish(&service("web", 10, &[(1, 1)], false), &[]);
    world.settle();
    world.disconnect(1);
    world.settle();
    assert!(world.machines[1].participant.is_ready(), "it forwards as before");
    world.end_lease(1);
    world.settle();
    assert_eq!(world.document().plan.members.len(), 2);
    world.connect(1);
    world.settle();
    assert!(!world.machines[1].participant.is_ready());
    let fatal = world.machines[1].fatal.clone().expect("it must not go on as the same one");
    assert!(fatal.contains("given this one up"), "{fatal}");
    assert_eq!(world.document().plan.members.len(), 2);
    world.restart(1);
    world.settle();
    assert!(world.machines[1].participant.is_ready());
    assert_eq!(world.document().plan.members.incarnation(MachineId(1)), Some(2));
}

#[test]
fn a_lease_that_ended_while_the_store_was_away_is_taken_anew() {
    let mut world = World::new(2);
    world.wish(&service("web", 10, &[(1, 1)], false), &[]);
    world.settle();
    let epoch = world.document().plan.epoch;
    for at in 0..2 {
        world.disconnect(at);
    }
    for at in 0..2 {
        world.end_lease(at);
    }
    // Both were away, so nobody has given anybody up; the first to come must not either.
    for at in 0..2 {
        world.connect(at);
    }
    for _ in 0..3 {
        for at in 0..2 {
            world.turn(at, 1);
        }
    }
    world.settle();
    assert_eq!((world.document().plan.epoch, world.document().plan.members.len()), (epoch, 2));
}

#[test]
fn a_store_that_lost_everything_is_given_the_newest_plan_again() {
    let mut world = World::new(2);
    let text = service("web", 10, &[(1, 1), (2, 1)], false);
    world.wish(&text, &[]);
    world.settle();
    let before = world.document().plan;
    for at in 0..2 {
        world.disconnect(at);
    }
    world.store.lose_all();
    for at in 0..2 {
        world.connect(at);
    }
    world.settle();
    let after = world.document().plan;
    assert!(after.step >= before.step && after.epoch >= before.epoch);
    assert_eq!(after.services[0].service, before.services[0].service);
    assert_eq!(world.serving(0), names(&["b1", "b2"]));
    assert!((0..2).all(|at| world.machines[at].participant.is_ready() && world.machines[at].fatal.is_none()));
}

/// Messages between machines go on while the store does not know who there is.
#[test]
fn peers_are_known_though_the_store_has_lost_them() {
    let mut world = World::new(3);
    world.wish(&service("web", 10, &[(1, 1), (2, 1)], false), &[]);
    world.settle();
    let peers = |world: &World| world.machines[0].participant.peers().collect::<Vec<_>>();
    let all = peers(&world);
    let addresses = [(MachineId(1), own(1).address), (MachineId(2), own(2).address)];
    assert_eq!(all, addresses);
    assert!(world.machines[0].participant.take_addresses_changed());
    world.wipe();
    world.connect(0);
    assert_eq!(peers(&world), all, "the plan counts on them");
    for at in [1, 2] {
        world.connect(at);
    }
    world.settle();
    assert_eq!(peers(&world), all);
    assert!(!world.machines[0].participant.take_addresses_changed());
    // Who has left for good is no peer.
    world.stop(2);
    world.settle_for(8_000_000);
    assert_eq!(peers(&world), addresses[..1]);
}

/// It has taken a number beside members, and the store loses its data before it has seen their plan.
#[test]
fn who_was_to_join_a_cluster_founds_none() {
    let mut world = World::new(2);
    world.wish(&service("web", 10, &[(1, 1), (2, 1)], false), &[]);
    world.settle();
    let before = world.document();
    world.stop(1);
    let member = world.choose(1).expect("its number is free");
    world.machines[1].participant.identified(member, true);
    world.machines[1].member = Some(member);
    world.wipe();
    world.connect(1);
    world.settle_for(2_000_000);
    assert!(!world.has(Key::Plan) && !world.machines[1].participant.leads());
    // Who knows the plan returns in time.
    world.connect(0);
    world.settle();
    let after = world.document();
    assert_eq!((after.founder, &after.text), (before.founder, &before.text));
    assert!((0..2).all(|at| world.machines[at].participant.is_ready() && world.machines[at].fatal.is_none()));
    // Nobody does.
    world.stop(1);
    let member = world.choose(1).expect("its number is free");
    world.machines[1].participant.identified(member, true);
    world.machines[1].member = Some(member);
    world.wipe();
    world.connect(1);
    world.settle_for(8_000_000);
    assert!(!world.has(Key::Plan));
    assert!(world.machines[1].fatal.as_ref().is_some_and(|text| text.contains("lost the plan")));
}

#[test]
fn a_store_that_lost_everything_gets_back_names_services_and_numbers() {
    let mut world = World::new(3);
    world.wish(&service("web", 10, &[(1, 1), (2, 1), (3, 1)], false), &[("web", "b3")]);
    world.settle();
    let before = world.document();
    world.wipe();
    for at in [2, 0, 1] {
        world.connect(at);
    }
    world.settle();
    let after = world.document();
    assert!(after.plan.step >= before.plan.step && after.plan.generation >= before.plan.generation);
    assert_eq!(after.plan.members, before.plan.members, "nobody was given up");
    assert_eq!((&after.text, &after.drains), (&before.text, &before.drains));
    assert_eq!(
        after.settled,
        world.revision_of(Key::Desired),
        "what was asked for is asked for again, and done"
    );
    assert_eq!(world.serving(0), names(&["b1", "b2"]));
    for at in 0..3 {
        let of: MachineValue =
            keys::value(Key::Machine(MachineId(at)), world.value(Key::Machine(MachineId(at)))).expect("ours");
        assert_eq!(of.name, format!("lb{at}"));
    }
    // One starts anew, and one that was never there comes.
    world.restart(1);
    world.settle();
    let member = world.machines[1].member.expect("it has started");
    assert_eq!(member.machine, MachineId(1), "it has the number that it had");
    assert!(before.plan.members.incarnation(MachineId(1)) < Some(member.incarnation));
    assert!((0..3).all(|at| world.machines[at].participant.is_ready() && world.machines[at].fatal.is_none()));
}

#[test]
fn a_wish_of_the_revision_of_another_store_is_not_taken_for_done() {
    let mut world = World::new(1);
    world.wish(&service("web", 10, &[(1, 1)], false), &[]);
    world.settle();
    let before = world.document().wish;
    world.wipe();
    world.store.count_from(before - 1);
    assert_eq!(world.wish(&service("web", 10, &[(2, 1)], false), &[]), before);
    world.connect(0);
    world.settle();
    // What the lost store had comes first; what is asked for from then on counts.
    world.wish(&service("web", 10, &[(2, 1)], false), &[]);
    world.settle();
    assert_eq!(
        (world.serving(0), world.document().settled),
        (names(&["b2"]), world.revision_of(Key::Desired))
    );
}

#[test]
fn who_returns_first_to_an_empty_store_waits_for_the_others_and_their_newer_plan() {
    let mut world = World::new(3);
    world.wish(&service("web", 10, &[(1, 1)], false), &[]);
    world.settle();
    // One does not see the last change.
    world.machines[1].inbox = None;
    world.machines[1].participant.disconnected();
    world.wish(&service("web", 10, &[(1, 1), (2, 1)], false), &[]);
    for _ in 0..3 {
        world.turn(0, usize::MAX);
        world.turn(2, usize::MAX);
    }
    let newest = world.document().plan;
    let step_of = |world: &World, at: usize| world.machines[at].participant.document().map(|of| of.plan.step);
    assert!(step_of(&world, 1) < Some(newest.step) && step_of(&world, 0) == Some(newest.step));
    world.wipe();
    world.connect(1);
    world.settle();
    assert!(world.document().plan.step < newest.step && world.document().plan.lost.is_empty());
    world.now = Tick(world.now.0 + 3_000_000);
    world.settle();
    assert!(world.document().plan.lost.is_empty(), "it goes on waiting");
    world.connect(2);
    world.connect(0);
    world.settle();
    let plan = world.document().plan;
    assert!(plan.step >= newest.step && plan.members.len() == 3 && plan.lost.is_empty(), "{plan:?}");
    assert!((0..3).all(|at| world.machines[at].participant.is_ready() && world.machines[at].fatal.is_none()));
    assert_eq!(world.serving(0), names(&["b1", "b2"]));
}

#[test]
fn who_does_not_return_is_given_up_by_a_plan_newer_than_its_own() {
    let mut world = World::new(2);
    world.wish(&service("web", 10, &[(1, 1)], false), &[]);
    world.settle();
    world.machines[1].inbox = None;
    world.machines[1].participant.disconnected();
    for backend in 2..6 {
        world.wish(&service("web", 10, &[(1, 1), (backend, 1)], false), &[]);
        world.turn(0, usize::MAX);
    }
    // The newest plan is known to one that stays away.
    let newest = world.machines[0].participant.document().map(|of| of.plan.step);
    world.wipe();
    world.connect(1);
    world.settle();
    world.now = Tick(world.now.0 + 7_000_000);
    world.settle();
    let plan = world.document().plan;
    assert!(Some(plan.step) > newest && plan.members.len() == 1, "{plan:?}");
    world.connect(0);
    world.settle();
    let fatal = world.machines[0].fatal.clone().expect("it knows what nobody else does");
    assert!(fatal.contains("given this one up"), "{fatal}");
    world.restart(0);
    world.settle();
    assert!((0..2).all(|at| world.machines[at].participant.is_ready()));
}

#[test]
fn a_running_machine_whose_number_is_anothers_forwards_and_is_not_ready() {
    let mut world = World::new(2);
    world.wish(&service("web", 10, &[(1, 1)], false), &[]);
    world.settle();
    let other = keys::bytes(&MachineValue { name: "other".to_owned(), incarnation: 99 });
    world.put(Key::Machine(MachineId(0)), other.clone(), None);
    world.settle();
    let participant = &world.machines[0].participant;
    assert!(participant.is_member() && !participant.is_ready());
    assert!(
        participant.misfit().is_some_and(|of| of.contains("registered for \"other\"")),
        "{:?}",
        participant.misfit()
    );
    assert_eq!(world.value(Key::Machine(MachineId(0))), other, "it is not overwritten");
    assert!(world.machines[0].fatal.is_none() && world.machines[1].participant.is_ready());
    // It goes on taking part: the others count on it.
    world.wish(&service("web", 10, &[(1, 1), (2, 1)], false), &[]);
    world.settle();
    assert_eq!(world.document().settled, world.revision_of(Key::Desired));
    world.remove(Key::Machine(MachineId(0)));
    world.settle();
    assert!(world.machines[0].participant.is_ready() && world.has(Key::Machine(MachineId(0))));
}

#[test]
fn two_clusters_in_one_store_are_never_mixed() {
    let mut world = World::new(2);
    world.wish(&service("web", 10, &[(1, 1)], false), &[]);
    world.settle();
    let before = world.machines[0].participant.document().cloned();
    world.wipe();
    // It starts before the other one is back, and does not wait.
    world.stop(1);
    world.connect(1);
    world.settle();
    for backend in 1..20 {
        world.wish(&service("web", 10, &[(backend, 1)], false), &[]);
        world.settle();
    }
    assert_eq!(world.machines[1].member.map(|of| of.machine), Some(MachineId(0)), "nobody has told it");
    assert!(Some(world.document().plan.step) > before.as_ref().map(|of| of.plan.step));
    world.connect(0);
    world.settle_for(8_000_000);
    let participant = &world.machines[0].participant;
    assert_eq!(participant.document(), before.as_ref(), "the plan that it forwards by");
    assert!(participant.is_member() && !participant.is_ready() && world.machines[0].fatal.is_none());
    assert!(
        participant.misfit().is_some_and(|of| of.contains("another cluster")),
        "{:?}",
        participant.misfit()
    );
    assert!(world.machines[1].participant.is_ready());
    world.restart(0);
    world.settle();
    assert!((0..2).all(|at| world.machines[at].participant.is_ready()));
    assert_eq!(world.machines[0].member.map(|of| of.machine), Some(MachineId(1)));
}

#[test]
fn a_number_that_is_used_again_starts_later_than_its_former_user() {
    let mut world = World::new(2);
    world.wish(&service("web", 10, &[(1, 1)], false), &[]);
    world.settle();
    for _ in 0..4 {
        world.restart(1);
        world.settle();
    }
    let former = world.machines[1].member.expect("it has started");
    world.end_lease(1);
    world.machines[1].inbox = None;
    world.settle();
    assert_eq!(world.document().former.incarnation(MachineId(1)), Some(former.incarnation));
    // As an operator does it with a machine that is no more.
    world.remove(Key::Machine(MachineId(1)));
    world.settle();
    // Its clock is behind.
    world.clock_s = 0;
    world.stop(1);
    world.connect(1);
    world.settle();
    let member = world.machines[1].member.expect("it has started");
    assert!(member.machine == former.machine && member.incarnation > former.incarnation, "{member:?}");
    assert!(world.machines[1].participant.is_ready() && world.document().former.is_empty());
}

#[test]
fn a_machine_leaves_when_the_others_know_what_it_knew() {
    for leaver in 0..2 {
        let mut world = World::new(2);
        world.wish(&service("web", 10, &[(1, 1)], false), &[]);
        world.settle();
        world.machines[leaver].participant.leave();
        assert!(!world.machines[leaver].participant.has_left());
        world.machines[1 - leaver].hangs = true;
        world.settle();
        assert!(!world.machines[leaver].participant.has_left(), "the other one has not done its part");
        world.machines[1 - leaver].hangs = false;
        world.settle();
        assert!(world.machines[leaver].participant.has_left());
        let plan = world.document().plan;
        assert_eq!((plan.members.len(), plan.lost.is_empty()), (1, true), "it left, and was not given up");
        assert!(!world.has(Key::Member(MachineId(u8::try_from(leaver).expect("few")))));
    }
}

#[test]
fn what_differs_between_machines_is_named() {
    let mut world = World::new(2);
    world.machines[1].participant =
        Participant::new(Own { settings: Settings::new(&[8; 16], 7480, &timeouts()), ..own(1) }, own_text(1));
    world.connect(1);
    world.settle();
    let fatal = world.machines[1].fatal.clone().expect("it cannot be a member");
    assert!(fatal.starts_with("machine.cluster_key differs"), "{fatal}");
    assert_eq!(world.document().plan.members.len(), 1, "it was never one");
    let other = Settings::new(&KEY, 7481, &timeouts());
    let own = Settings::new(&KEY, 7480, &timeouts());
    assert_eq!((own.difference(&other), own.difference(&own)), (Some("cluster.port"), None));
}

#[test]
fn services_that_do_not_fit_the_leader_leave_those_in_force() {
    let mut world = World::new(2);
    world.wish(&service("web", 10, &[(1, 1)], false), &[]);
    world.settle();
    let settled = world.document().settled;
    world.wish(&service("web", 10, &[(1, 1)], false).replace("10.0.2.101", "fd00::1"), &[]);
    world.settle();
    assert_eq!((world.document().settled, world.serving(0)), (settled, names(&["b1"])));
    let warnings: Vec<&String> = world.machines.iter().flat_map(|machine| &machine.warnings).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("address6"), "{warnings:?}");
    let refused = world.document().refused.expect("all machines know");
    assert!(refused.0 == world.revision_of(Key::Desired) && refused.1.contains("address6"), "{refused:?}");
    world.wish(&service("web", 10, &[(2, 1)], false), &[]);
    world.settle();
    assert_eq!((world.serving(0), world.document().refused), (names(&["b2"]), None));
}

#[test]
fn health_is_heeded_although_what_was_asked_for_cannot_be_done() {
    let mut world = World::new(2);
    world.wish(&service("web", 10, &[(1, 1), (2, 1), (3, 1)], true), &[]);
    for at in 0..2 {
        world.set_health(at, &["b1", "b2", "b3"], &[]);
    }
    world.settle();
    world.wish(&service("web", 10, &[(1, 1)], true).replace("10.0.2.101", "fd00::1"), &[]);
    world.settle();
    for at in 0..2 {
        world.set_health(at, &["b1", "b2"], &["b3"]);
    }
    world.settle();
    assert_eq!(world.serving(0), names(&["b1", "b2"]));
}

#[test]
fn documents_that_cannot_be_read_are_refused_and_never_break_anything() {
    let mut world = World::new(2);
    world.wish(&service("web", 10, &[(1, 1), (2, 1)], false), &[]);
    world.settle();
    world.wish(&service("web", 10, &[(1, 1), (3, 1)], false), &[]);
    let (mut documents, mut slots) = (Vec::new(), BTreeMap::new());
    for _ in 0..60 {
        world.turn(0, 1);
        world.turn(1, 1);
        documents.push(world.value(Key::Plan).to_vec());
        for (key, entry) in world.store.all() {
            if let Key::Slots(digest) = key {
                slots.insert(digest, entry.expect("it is there").value);
            }
        }
    }
    documents.dedup();
    assert!(documents.len() > 3, "{}", documents.len());
    let stored = |digest| slots.get(&digest).map(|value: &Vec<u8>| &value[..]);
    for head in documents {
        let mut tables = AgreedTables::new(KEY);
        let document = Document::decode(&head, stored, &mut tables).expect("our own");
        let again = document.encode(&tables, VALUE_MAX).expect("small");
        assert_eq!(again.head, head, "it comes back as it was");
        assert!(again.slots.iter().all(|(digest, value)| stored(*digest) == Some(&value[..])));
        let missing = Document::decode(&head, |_| None, &mut tables);
        assert_eq!(missing, Err(DecodeError::Missing(again.slots[0].0)));
        let text = String::from_utf8(head.to_vec()).expect("JSON");
        for (from, to) in [
            ("\"format\":1", "\"format\":3"),
            ("\"phase\":\"", "\"phase\":\"x"),
            ("\"size\":251", "\"size\":252"),
            ("\"size\":251", "\"size\":4294967295"),
            ("\"protocol\":\"tcp\"", "\"protocol\":\"sctp\""),
            ("\"vip\":\"2", "\"vip\":\"x"),
            ("{\"id\":1,", "{\"id\":0,"),
            ("\"step\":", "\"stop\":"),
            ("\"slots\":\"", "\"slots\":\"x"),
        ] {
            assert!(text.contains(from), "{from} in {text}");
            let broken = text.replacen(from, to, 1);
            Document::decode(broken.as_bytes(), stored, &mut AgreedTables::new(KEY)).expect_err(&broken);
        }
        let text = String::from_utf8(again.slots[0].1.clone()).expect("JSON");
        for (from, to) in [
            ("\"table\":[[0,1]", "\"table\":[[9,1]"),
            ("\"tainted\":[", "\"tainted\":[[null,\"250 1\"],"),
            ("{", ""),
        ] {
            assert!(text.contains(from), "{from} in {text}");
            let broken = text.replacen(from, to, 1).replace(",]", "]");
            let bytes = broken.as_bytes();
            Document::decode(&head, |_| Some(bytes), &mut AgreedTables::new(KEY)).expect_err(&broken);
        }
    }
}

#[test]
fn slots_are_kept_while_a_plan_names_them() {
    let mut world = World::new(2);
    world.wish(
        &format!("{}{}", service("web", 10, &[(1, 1)], false), service("dns", 53, &[(5, 1)], false)),
        &[],
    );
    world.settle();
    let digests = |world: &World| -> Vec<Key> {
        world.store.all().iter().map(|(key, _)| *key).filter(|key| matches!(key, Key::Slots(_))).collect()
    };
    let before = digests(&world);
    assert_eq!(before.len(), 2);
    world.wish(
        &format!("{}{}", service("web", 10, &[(1, 1), (2, 1)], false), service("dns", 53, &[(5, 1)], false)),
        &[],
    );
    world.settle();
    world.settle_for(100_000);
    let after = digests(&world);
    assert_eq!(
        (after.len(), after.iter().filter(|key| before.contains(key)).count()),
        (2, 1),
        "of dns nothing has changed"
    );
}

#[test]
fn a_plan_that_does_not_fit_into_the_store_is_told_and_not_tried_all_the_time() {
    let mut world = World::new(1);
    world.wish(&service("web", 10, &[(1, 1)], false), &[]);
    world.settle();
    world.machines[0].participant.set_value_max(1_400_000);
    // Every other slot of a very large table changes.
    let large = |backends: &[(u8, u8)]| {
        service("web", 10, backends, false).replace("maglev_size = 251", "maglev_size = 1000003")
    };
    world.wish(&large(&[(1, 1), (2, 1)]), &[]);
    world.settle();
    world.wish(&large(&[(1, 1), (3, 1)]), &[]);
    for _ in 0..20 {
        world.now = Tick(world.now.0 + 100_000);
        world.settle();
    }
    let warnings = &world.machines[0].warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("smaller maglev_size"), "{warnings:?}");
    assert_eq!(world.serving(0), names(&["b1", "b2"]));
    // With the room that there is, it does.
    world.machines[0].participant.set_value_max(VALUE_MAX);
    world.settle_for(12_000_000);
    assert_eq!(world.serving(0), names(&["b1", "b3"]));
}

/// Something that happens.
#[derive(Clone, Debug)]
enum Move {
    Turn(usize, usize),
    Wait(u64),
    Wish(Vec<(u8, u8)>, bool),
    Health(usize, u8),
    Hear(usize, u8, u8),
    Disconnect(usize),
    Connect(usize),
    EndLease(usize),
    Restart(usize),
    /// It starts anew and does not wait for a plan.
    Hurry(usize),
    Wipe,
    Hang(usize, bool),
}

const MACHINES: usize = 3;

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let at = || 0..MACHINES;
    let one = prop_oneof![
        12 => (at(), 1_usize..6).prop_map(|(at, n)| Move::Turn(at, n)),
        3 => (1_u64..800_000).prop_map(Move::Wait),
        2 => (prop::collection::btree_map(0_u8..6, 0_u8..3, 0..5), any::<bool>())
            .prop_map(|(of, second)| Move::Wish(of.into_iter().collect(), second)),
        2 => (at(), any::<u8>()).prop_map(|(at, bits)| Move::Health(at, bits)),
        2 => (at(), any::<u8>(), any::<u8>()).prop_map(|(at, good, over)| Move::Hear(at, good, over)),
        1 => at().prop_map(Move::Disconnect),
        2 => at().prop_map(Move::Connect),
        1 => at().prop_map(Move::EndLease),
        1 => at().prop_map(Move::Restart),
        1 => at().prop_map(Move::Hurry),
        1 => Just(Move::Wipe),
        1 => (at(), any::<bool>()).prop_map(|(at, hangs)| Move::Hang(at, hangs)),
        1 => Just(Move::Wait(3_000_000)),
    ];
    prop::collection::vec(one, 0..120)
}

fn run(moves: Vec<Move>) -> Result<(), TestCaseError> {
    let mut world = World::new(MACHINES);
    let mut last: Option<(Vec<(u8, u8)>, bool)> = None;
    let text = |backends: &[(u8, u8)], second: bool| {
        let dns = if second { service("dns", 53, &[(7, 1)], false) } else { String::new() };
        registering::open(backends) + &dns
    };
    for one in moves {
        match one {
            Move::Turn(at, deliveries) => drop(world.turn(at, deliveries)),
            Move::Wait(us) => world.now = Tick(world.now.0 + us),
            Move::Wish(backends, second) => {
                world.wish(&text(&backends, second), &[]);
                last = Some((backends, second));
            }
            Move::Health(at, bits) => {
                let all = ["b0", "b1", "b2", "b3", "b4", "b5"];
                let (up, down): (Vec<&str>, Vec<&str>) =
                    all.iter().partition(|name| bits >> (name.as_bytes()[1] - b'0') & 1 == 1);
                world.set_health(at, &up, &down);
            }
            Move::Hear(at, good, over) => world.hear(at, good, over),
            Move::Disconnect(at) => world.disconnect(at),
            Move::Connect(at) => {
                if world.machines[at].inbox.is_none() {
                    world.connect(at);
                }
            }
            Move::EndLease(at) => world.end_lease(at),
            Move::Restart(at) => world.restart(at),
            Move::Hurry(at) => {
                world.stop(at);
                world.connect(at);
            }
            Move::Wipe => world.wipe(),
            Move::Hang(at, hangs) => world.machines[at].hangs = hangs,
        }
    }
    // What fails ends; who cannot go on starts again; then all agree.
    for at in 0..MACHINES {
        world.machines[at].hangs = false;
        if world.machines[at].inbox.is_none() {
            world.connect(at);
        }
    }
    for _ in 0..4 {
        world.settle();
        for at in 0..MACHINES {
            if world.machines[at].fatal.is_some() || !world.machines[at].participant.is_ready() {
                world.restart(at);
                world.settle();
            }
            world.set_health(at, &["b0", "b1", "b2", "b3", "b4", "b5", "w0", "w1", "w2", "w3"], &[]);
            world.hear(at, 0xff, 0);
        }
    }
    // Nobody may have seen it before the store lost it.
    if let Some((backends, second)) = &last {
        world.wish(&text(backends, *second), &[]);
    }
    // A leader that returns to the store waits for members that have not; then taints have to end.
    world.settle_for(12_000_000);
    let document = world.document();
    for at in 0..MACHINES {
        let machine = &world.machines[at];
        prop_assert!(machine.fatal.is_none() && machine.participant.is_ready(), "{at}: {:?}", machine.fatal);
        prop_assert_eq!(machine.participant.document().map(|of| &of.plan.step), Some(&document.plan.step));
    }
    prop_assert_eq!(document.plan.members.len(), MACHINES);
    prop_assert_eq!(document.plan.phase, Phase::Idle);
    prop_assert_eq!((document.plan.tainted_slots(), document.plan.masks.len()), (0, 0));
    if let Some((backends, second)) = last {
        prop_assert_eq!(document.settled, world.revision_of(Key::Desired));
        prop_assert_eq!(document.services.len(), 1 + usize::from(second));
        let expected: BTreeSet<String> = backends
            .iter()
            .filter(|(_, weight)| *weight > 0)
            .map(|(number, _)| format!("b{number}"))
            .chain((0..4).map(|number| format!("w{number}")))
            .collect();
        let at = document.services.iter().position(|of| of.name == "web").expect("it was wished");
        prop_assert_eq!(world.serving(at), expected);
        let of_web = document.backends.iter().filter(|of| of.service == document.services[at].id);
        prop_assert_eq!(of_web.count(), backends.len() + 4, "removed ones are gone");
    }
    let mut ids: Vec<u32> = document.backends.iter().map(|of| of.id.0).collect();
    ids.dedup();
    prop_assert_eq!(ids.len(), document.backends.len());
    Ok(())
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 64, ..Default::default() })]
    #[test]
    fn machines_agree_when_failures_end(moves in moves()) {
        run(moves)?;
    }
}
