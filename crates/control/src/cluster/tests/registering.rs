//! Backends that register: what machines hear of agents becomes what all of them have in force.

use super::{World, names, service};
use crate::agents::heard::EndReason;
use crate::cluster::document::Document;
use crate::cluster::keys::{EndedValue, Key, ReceivedValue};
use crate::cluster::participant::StoreOrder;
use crate::cluster::store_event::StoreEvent;
use model::registered::Registered;
use statesync::MachineId;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use wire::Tick;

/// A service that lets backends register, with these of its own.
pub(super) fn open(backends: &[(u8, u8)]) -> String {
    let text = service("web", 10, backends, true).replace("maglev_size = 251", "maglev_size = 2039");
    let agents = "[service.agents]\ntoken_file = \"/etc/guideway/token\"\n[service.agents.register]\naddresses = [\"10.1.0.0/16\"]\nlimit = 1500\n";
    text.replace("[service.health]\n", &format!("{agents}[service.health]\n"))
}

pub(super) fn registered(agent: &str, name: &str, at: u16, incarnation: u64) -> Registered {
    let [high, low] = at.to_be_bytes();
    Registered {
        service: "web".to_owned(),
        backend: name.to_owned(),
        address: IpAddr::V4(Ipv4Addr::new(10, 1, high, low)),
        incarnation,
        agent: agent.to_owned(),
        weight: 1,
        port: None,
        capacity: None,
    }
}

fn over(of: &Registered, why: EndReason) -> EndedValue {
    EndedValue {
        service: of.service.clone(),
        backend: of.backend.clone(),
        address: of.address,
        agent: of.agent.clone(),
        incarnation: of.incarnation,
        why,
    }
}

pub(super) fn received(registered: &[&Registered], over: &[EndedValue]) -> ReceivedValue {
    ReceivedValue { registered: registered.iter().copied().cloned().collect(), over: over.to_vec() }
}

impl World {
    fn set_received(&mut self, at: usize, heard: ReceivedValue) {
        self.machines[at].participant.set_received(heard);
    }

    /// A machine holds w0 to w3 to be good by the lower bits, by the upper ones in their later incarnation; and others to be over, by the
    /// lower bits deregistered, by the upper ones dead.
    pub(super) fn hear(&mut self, at: usize, good: u8, gone: u8) {
        let of = |number: u16, later: u8| {
            registered(&format!("h{number}"), &format!("w{number}"), number, 1 + u64::from(later))
        };
        let has = |bits: u8, number: u16| bits >> number & 1;
        let all = (0..4).filter(|number| has(good, *number) == 1);
        let all: Vec<Registered> = all.map(|number| of(number, has(good, number + 4))).collect();
        let over = (0..4).filter(|number| has(good, *number) == 0).flat_map(|number| {
            let deregistered =
                (has(gone, number) == 1).then(|| over(&of(number, 0), EndReason::Deregistered));
            let dead = (has(gone, number + 4) == 1).then(|| over(&of(number, 0), EndReason::Dead));
            deregistered.or(dead)
        });
        let over = over.collect();
        self.set_received(at, ReceivedValue { registered: all, over });
    }

    /// All machines hear this, and that it is up.
    fn all_hear(&mut self, all: &[&Registered]) {
        let names: Vec<&str> = all.iter().map(|of| of.backend.as_str()).collect();
        for at in 0..self.machines.len() {
            self.set_received(at, received(all, &[]));
            self.set_health(at, &names, &[]);
        }
    }

    /// Time passes in small steps.
    fn pass(&mut self, us: u64) {
        for _ in 0..us / 10_000 {
            self.now = Tick(self.now.0 + 10_000);
            self.settle();
        }
    }
}

fn ids(document: &Document) -> Vec<(&str, u32)> {
    document.backends.iter().map(|of| (of.name.as_str(), of.id.0)).collect()
}

#[test]
fn what_any_machine_hears_is_in_force_everywhere_under_one_id() {
    let mut world = World::new(2);
    world.wish(&open(&[]), &[]);
    world.settle();
    let generation = world.document().plan.generation;
    let (a, b) = (registered("h1", "w1", 1, 1), registered("h2", "w2", 2, 1));
    world.all_hear(&[&a]);
    world.settle();
    let document = world.document();
    assert_eq!(document.registered, std::slice::from_ref(&a));
    assert_eq!((ids(&document), document.plan.generation), (vec![("w1", 0)], generation + 1));
    assert_eq!(world.serving(0), names(&["w1"]));
    for machine in &world.machines {
        assert_eq!(machine.participant.document().map(|of| &**of), Some(&document), "on all machines");
        assert_eq!((&machine.warnings, &machine.fatal), (&Vec::new(), &None));
    }
    // Heard again: nothing new.
    let step = document.plan.step;
    world.all_hear(&[&a]);
    world.pass(1_000_000);
    assert_eq!(world.document().plan.generation, generation + 1);
    assert!(world.document().plan.step <= step + 2, "taints end, and nothing else");
    // One machine is enough.
    world.set_received(1, received(&[&a, &b], &[]));
    for at in 0..2 {
        world.set_health(at, &["w1", "w2"], &[]);
    }
    world.pass(300_000);
    assert_eq!(world.serving(0), names(&["w1", "w2"]));
    assert_eq!(ids(&world.document()), [("w1", 0), ("w2", 1)]);
}

/// The leader has let it in, and the plan that says so is on its way.
#[test]
fn one_that_is_taken_back_while_it_is_let_in_goes_again() {
    let mut world = World::new(1);
    world.wish(&open(&[]), &[]);
    world.settle();
    let a = registered("h1", "w1", 1, 1);
    world.set_received(0, received(&[&a], &[]));
    let mut plans = Vec::new();
    let wait = |world: &mut World, plans: &mut Vec<StoreOrder>| {
        world.now = Tick(world.now.0 + 150_000);
        let orders = world.hold(0, plans, |order| matches!(order, StoreOrder::Plan { .. }));
        orders.into_iter().for_each(|order| world.carry_out(0, order));
    };
    for _ in 0..20 {
        if plans.is_empty() {
            wait(&mut world, &mut plans);
        }
    }
    assert_eq!(plans.len(), 1);
    let taken_back = received(&[], &[over(&a, EndReason::Deregistered)]);
    world.set_received(0, taken_back.clone());
    wait(&mut world, &mut plans);
    wait(&mut world, &mut plans);
    plans.into_iter().for_each(|plan| world.carry_out(0, plan));
    world.settle();
    // What it holds of it is what it was.
    world.set_received(0, taken_back);
    world.pass(1_000_000);
    assert_eq!(world.document().registered, []);
}

#[test]
fn a_backend_takes_no_flows_before_machines_hold_it_to_be_up() {
    let mut world = World::new(2);
    world.wish(&open(&[]), &[]);
    world.settle();
    let a = registered("h1", "w1", 1, 1);
    for at in 0..2 {
        world.set_received(at, received(&[&a], &[]));
    }
    world.pass(300_000);
    assert_eq!((world.document().registered.len(), world.serving(0)), (1, names(&[])));
    world.set_health(0, &["w1"], &[]);
    world.pass(100_000);
    assert_eq!(world.serving(0), names(&["w1"]));
}

#[test]
fn a_thousand_registrations_within_a_second_make_few_generations() {
    let mut world = World::new(2);
    world.wish(&open(&[(1, 1)]), &[]);
    for at in 0..2 {
        world.set_health(at, &["b1"], &[]);
    }
    world.settle();
    let generation = world.document().plan.generation;
    let all: Vec<Registered> = (0..1000).map(|at| registered("h1", &format!("w{at}"), at, 1)).collect();
    let mut puts = 0;
    let mut revision = world.revision_of(Key::Received(MachineId(0)));
    for until in (10..=1000).step_by(10) {
        world.now = Tick(world.now.0 + 10_000);
        let some: Vec<&Registered> = all[..until].iter().collect();
        let mut up: Vec<&str> = some.iter().map(|of| of.backend.as_str()).collect();
        up.push("b1");
        for at in 0..2 {
            world.set_received(at, received(&some, &[]));
            world.set_health(at, &up, &[]);
        }
        world.settle();
        let now = world.revision_of(Key::Received(MachineId(0)));
        puts += usize::from(now != revision);
        revision = now;
    }
    world.pass(500_000);
    assert_eq!(world.serving(0).len(), 1001);
    let generations = world.document().plan.generation - generation;
    assert!((2..=12).contains(&generations), "{generations}");
    assert!(puts <= 12, "{puts}");
    assert!(!world.machines[0].participant.is_busy() && !world.machines[1].participant.is_busy());
}

#[test]
fn deregistered_is_out_at_once_and_its_flows_live_on() {
    let mut world = World::new(2);
    world.wish(&open(&[]), &[]);
    let (a, b) = (registered("h1", "w1", 1, 1), registered("h2", "w2", 2, 1));
    world.settle();
    world.all_hear(&[&a, &b]);
    world.pass(300_000);
    assert_eq!(world.serving(0), names(&["w1", "w2"]));
    // One has heard it, the other one has not yet.
    world.set_received(0, received(&[&b], &[over(&a, EndReason::Deregistered)]));
    world.pass(300_000);
    assert_eq!((world.serving(0), world.document().registered.len()), (names(&["w2"]), 1));
    assert_eq!(ids(&world.document()), [("w1", 0), ("w2", 1)], "it departs");
    // The registry forgets it; the other machine still holds it to be good: it does not come back.
    world.set_received(0, received(&[&b], &[]));
    world.pass(300_000);
    assert_eq!(world.serving(0), names(&["w2"]));
    // Now the other one knows as well, and nobody has to say it any more.
    world.set_received(1, received(&[&b], &[]));
    world.pass(300_000);
    let said = String::from_utf8(world.value(Key::Received(MachineId(0))).to_vec()).expect("JSON");
    assert!(!said.contains("over"), "{said}");
    // The same one comes back to its flows, under its id.
    world.all_hear(&[&a, &b]);
    world.pass(300_000);
    assert_eq!(world.serving(0), names(&["w1", "w2"]));
    assert_eq!(ids(&world.document()), [("w1", 0), ("w2", 1)]);
}

#[test]
fn an_address_that_comes_back_as_another_gets_an_id_of_its_own() {
    for next in [registered("h9", "w9", 1, 1), registered("h1", "w1", 1, 2)] {
        let mut world = World::new(2);
        world.wish(&open(&[]), &[]);
        let (a, b) = (registered("h1", "w1", 1, 1), registered("h2", "w2", 2, 1));
        world.settle();
        world.all_hear(&[&a, &b]);
        world.pass(300_000);
        for at in 0..2 {
            world.set_received(at, received(&[&b], &[over(&a, EndReason::Deregistered)]));
        }
        world.pass(300_000);
        assert_eq!(ids(&world.document()), [("w1", 0), ("w2", 1)], "its flows live on");
        world.all_hear(&[&b, &next]);
        world.pass(300_000);
        let document = world.document();
        assert_eq!(
            ids(&document),
            [("w2", 1), (next.backend.as_str(), 2)],
            "the former one is forgotten first"
        );
        assert!(!document.plan.backends.contains(&wire::BackendId(0)));
        assert_eq!(document.registered.len(), 2);
        assert_eq!(world.serving(0), names(&["w2", next.backend.as_str()]));
    }
}

#[test]
fn an_agent_that_renames_a_backend_does_not_hand_its_flows_on() {
    let mut world = World::new(2);
    world.wish(&open(&[]), &[]);
    let (a, b) = (registered("h1", "w1", 1, 1), registered("h1", "w2", 1, 2));
    world.settle();
    world.all_hear(&[&a]);
    world.pass(300_000);
    world.all_hear(&[&b]);
    world.pass(600_000);
    assert_eq!((ids(&world.document()), world.serving(0)), (vec![("w2", 1)], names(&["w2"])));
}

#[test]
fn a_restart_in_place_keeps_the_id() {
    let mut world = World::new(2);
    world.wish(&open(&[]), &[]);
    world.settle();
    world.all_hear(&[&registered("h1", "w1", 1, 1)]);
    world.pass(300_000);
    let generation = world.document().plan.generation;
    let heavier = Registered { weight: 5, ..registered("h1", "w1", 1, 2) };
    world.all_hear(&[&heavier]);
    world.pass(300_000);
    let document = world.document();
    assert_eq!((ids(&document), &document.registered[..]), (vec![("w1", 0)], &[heavier][..]));
    assert!(document.plan.generation <= generation + 1);
}

#[test]
fn dead_by_more_than_hold_it_good() {
    let mut world = World::new(3);
    world.wish(&open(&[]), &[]);
    world.settle();
    let (a, b) = (registered("h1", "w1", 1, 1), registered("h2", "w2", 2, 1));
    world.all_hear(&[&a, &b]);
    world.pass(300_000);
    world.set_received(0, received(&[&b], &[over(&a, EndReason::Dead)]));
    world.pass(300_000);
    assert_eq!(world.document().registered.len(), 2, "one of three");
    world.set_received(1, received(&[&b], &[over(&a, EndReason::Dead)]));
    world.pass(300_000);
    assert_eq!(world.document().registered, std::slice::from_ref(&b));
    world.pass(500_000);
    assert_eq!(world.document().registered, [b], "the third does not bring it back");
}

#[test]
fn machines_die_and_what_they_heard_stays_in_force() {
    let mut world = World::new(3);
    world.wish(&open(&[]), &[]);
    world.settle();
    let a = registered("h1", "w1", 1, 1);
    world.all_hear(&[&a]);
    world.pass(300_000);
    for at in 0..3 {
        world.end_lease(at);
        assert!(!world.has(Key::Received(MachineId(u8::try_from(at).expect("few")))));
        world.restart(at);
        world.pass(300_000);
        let document = world.document();
        assert_eq!((document.registered.len(), ids(&document)), (1, vec![("w1", 0)]));
        assert_eq!(world.serving(0), names(&["w1"]));
    }
    // Nobody has heard anything since: it stays, and is there for who comes later.
    assert!(!world.store.all().iter().any(|(key, _)| matches!(key, Key::Received(_))));
    for machine in &world.machines {
        assert_eq!(machine.participant.document().map(|of| of.registered.len()), Some(1));
    }
}

#[test]
fn the_leader_dies_in_the_middle_and_the_next_one_goes_on() {
    let mut world = World::new(3);
    world.wish(&open(&[]), &[]);
    world.settle();
    let leader = (0..3).find(|&at| world.machines[at].participant.leads()).expect("one leads");
    let all: Vec<Registered> = (0..20).map(|at| registered("h1", &format!("w{at}"), at, 1)).collect();
    for turns in 0..60 {
        let until = (turns / 3).min(20);
        world.all_hear(&all[..until].iter().collect::<Vec<_>>());
        world.now = Tick(world.now.0 + 20_000);
        for at in 0..3 {
            world.turn(at, 2);
        }
        if turns == 30 {
            world.end_lease(leader);
            world.machines[leader].inbox = None;
        }
    }
    world.pass(1_000_000);
    let expected: BTreeSet<String> = all.iter().map(|of| of.backend.clone()).collect();
    // The last ones were not heard by the dead one's peers before; now they are.
    world.all_hear(&all.iter().collect::<Vec<_>>());
    world.pass(1_000_000);
    assert_eq!(world.serving(0), expected);
    let document = world.document();
    let mut given: Vec<u32> = document.backends.iter().map(|of| of.id.0).collect();
    given.dedup();
    assert_eq!((given.len(), document.backends.len(), document.registered.len()), (20, 20, 20));
}

#[test]
fn operators_and_agents_do_not_get_into_each_others_way() {
    let mut world = World::new(2);
    world.wish(&open(&[]), &[]);
    world.settle();
    let a = registered("h1", "w1", 1, 1);
    world.all_hear(&[&a]);
    world.pass(300_000);
    // A wish keeps who has registered.
    for at in 0..2 {
        world.set_health(at, &["w1", "b1"], &[]);
    }
    let wish = world.wish(&open(&[(1, 1)]), &[]);
    world.pass(300_000);
    assert_eq!((world.document().settled, world.serving(0)), (wish, names(&["b1", "w1"])));
    // It can be drained.
    world.wish(&open(&[(1, 1)]), &[("web", "w1")]);
    world.pass(300_000);
    assert_eq!((world.serving(0), world.document().registered.len()), (names(&["b1"]), 1));
    // A wish that cannot be done changes nothing of it, and does not hold registrations up.
    world.wish(&open(&[(1, 1)]).replace("10.0.2.101", "fd00::1"), &[]);
    world.pass(300_000);
    let b = registered("h2", "w2", 2, 1);
    world.all_hear(&[&a, &b]);
    world.pass(300_000);
    let document = world.document();
    assert!(document.refused.is_some(), "it is still told");
    assert_eq!((document.registered.len(), world.serving(0).contains("w2")), (2, true));
    // The service lets nobody in any more: those who had registered depart, and do not come back.
    world.wish(&service("web", 10, &[(1, 1)], true).replace("maglev_size = 251", "maglev_size = 2039"), &[]);
    world.pass(300_000);
    assert_eq!((world.document().registered.len(), world.serving(0)), (0, names(&["b1"])));
    world.wish(&open(&[(1, 1)]), &[]);
    world.pass(300_000);
    assert_eq!(world.document().registered.len(), 2, "machines still hold them to be good");
}

#[test]
fn documents_of_the_time_before_registrations_are_read() {
    let mut world = World::new(1);
    world.wish(&open(&[(1, 1)]), &[]);
    world.settle();
    let text = |world: &World| String::from_utf8(world.value(Key::Plan).to_vec()).expect("JSON");
    let before = text(&world);
    assert!(before.contains("\"format\":1,") && !before.contains("registered"), "{before}");
    assert!(!before.contains("\"by\""), "{before}");
    world.all_hear(&[&registered("h1", "w1", 1, 1)]);
    world.pass(300_000);
    let after = text(&world);
    assert!(after.contains("\"format\":2,") && after.contains("\"registered\":[{"), "{after}");
    // Who does not know registrations cannot read it, rather than take them for none.
    let document = world.document();
    assert_eq!((document.registered.len(), document.backends[1].by.clone()), (1, Some(("h1".to_owned(), 1))));
}

#[test]
fn what_a_machine_says_is_put_again_after_the_store_was_away() {
    let mut world = World::new(2);
    world.wish(&open(&[]), &[]);
    world.settle();
    let a = registered("h1", "w1", 1, 1);
    world.all_hear(&[&a]);
    world.pass(300_000);
    let key = Key::Received(MachineId(0));
    let value = world.value(key).to_vec();
    for at in 0..2 {
        world.disconnect(at);
    }
    world.end_lease(0);
    assert!(!world.has(key));
    for at in 0..2 {
        world.connect(at);
    }
    world.pass(300_000);
    assert!(!world.has(key), "what it heard before may be over since");
    world.all_hear(&[&a]);
    world.pass(300_000);
    assert_eq!(world.value(key), value);
    assert_eq!(world.document().registered, [a]);
}

#[test]
fn a_value_that_cannot_be_read_is_told_and_counts_as_silence() {
    let mut world = World::new(2);
    world.wish(&open(&[]), &[]);
    world.settle();
    let a = registered("h1", "w1", 1, 1);
    world.all_hear(&[&a]);
    world.pass(300_000);
    world.machines[1].inbox.as_mut().expect("connected").push_back(StoreEvent::Changed(vec![(
        Key::Received(MachineId(0)),
        Some(super::StoredValue { value: b"{\"registered\":7}".to_vec(), revision: 1 }),
    )]));
    world.turn(1, usize::MAX);
    assert!(world.machines[1].warnings.iter().any(|text| text.contains("heard/0")));
    assert_eq!(world.document().registered, [a]);
}
