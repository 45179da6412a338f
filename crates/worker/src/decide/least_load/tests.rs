//! Against an oracle that scans.

use super::{FINE, FULL, LoadQueues, share};
use crate::DropReason;
use crate::view::loads::{Load, Loads};
use crate::view::path_mtu::{Learnt, Room};
use crate::view::{
    BackendState, BackendView, HashOn, LeastLoad, OnDown, OnEmpty, Overload, Policy, Select, ServiceView,
    View,
};
use proptest::prelude::*;
use std::sync::Arc;
use steer::{Maglev, Weighted};
use wire::encap::TunnelHeader;
use wire::{BackendId, PortId, ServiceId, Tick};

/// A backend of a service: its state and what a flow adds, in millionths.
type Member = (BackendState, u64);

fn a_state() -> impl Strategy<Value = BackendState> {
    prop_oneof![4 => Just(BackendState::Up), 1 => Just(BackendState::Draining), 1 => Just(BackendState::Down)]
}

/// A view of such services, whose backends have ids in a row.
fn view(services: &[Vec<Member>], select: Select, overload: Overload, loads: &Arc<Loads>) -> View {
    let mut view = View { loads: Arc::clone(loads), ..View::default() };
    for (index, members) in (1..).zip(services) {
        let mut ids = Vec::new();
        for (state, _) in members {
            let id = BackendId(u32::try_from(view.backends.len()).expect("few"));
            ids.push(id);
            view.backends.push(Some(BackendView {
                id,
                service: ServiceId(index),
                state: *state,
                header: TunnelHeader::default(),
                inner_mtu: 1480,
                room: Room::default(),
                port: PortId(0),
                next_hop: None,
                learnt: Learnt::default(),
            }));
        }
        view.service.push(ServiceView {
            id: ServiceId(index),
            wide: false,
            hash: HashOn::Tuple,
            maglev: Arc::new(
                Maglev::build(&[Weighted { name: "a", weight: 1 }], 251, &[0; 16]).expect("a table"),
            ),
            members: ids,
            on_empty: OnEmpty::Reset,
            on_down: OnDown::Keep,
            memory: None,
            policy: Policy::LeastLoad(Box::new(LeastLoad {
                select,
                overload,
                shares: members.iter().map(|(_, ppm)| ppm * FINE).collect(),
            })),
        });
    }
    view
}

/// What the queues of a view should say, by scanning.
struct Oracle {
    /// By service: id, load, share, joins; in the order in which equal ones are picked.
    services: Vec<Vec<(BackendId, u64, u64, bool)>>,
    last: Vec<Option<BackendId>>,
}

impl Oracle {
    fn new(view: &View, turn: usize) -> Oracle {
        let services: Vec<Vec<_>> = view
            .service
            .iter()
            .map(|service| {
                let shares = &service.least_load().expect("the policy").shares;
                let mut all: Vec<_> = service.members.iter().zip(shares).collect();
                let turn = turn % all.len().max(1);
                all.rotate_left(turn);
                let up = |id: BackendId| {
                    view.backends[id.index()].as_ref().is_some_and(|of| of.state == BackendState::Up)
                };
                all.into_iter()
                    .filter(|(id, _)| up(**id))
                    .map(|(id, share)| (*id, 0, *share, false))
                    .collect()
            })
            .collect();
        Oracle { last: vec![None; services.len()], services }
    }

    fn read(&mut self, loads: &Loads, service: usize) {
        for (id, load, _, joins) in &mut self.services[service] {
            let figure = loads.get(*id);
            (*load, *joins) = (u64::from(figure.ppm) * FINE, figure.joining);
        }
    }

    /// Position and load of the one that should be next.
    fn next(&self, service: usize) -> Option<(usize, u64)> {
        let all = &self.services[service];
        let may = |at: usize| all.len() == 1 || !(all[at].3 && self.last[service] == Some(all[at].0));
        (0..all.len()).filter(|&at| may(at)).map(|at| (at, all[at].1)).min_by_key(|&(at, load)| (load, at))
    }

    fn take(&mut self, service: usize, backend: BackendId) {
        for (id, load, share, joins) in &mut self.services[service] {
            if *id == backend {
                *load += *share;
                self.last[service] = joins.then_some(backend);
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Pick(usize),
    /// New figures of all backends.
    Publish(Vec<(u32, bool)>),
    /// The same services again, and time goes on.
    Adopt,
}

fn a_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0_usize..3).prop_map(Step::Pick),
        1 => prop::collection::vec((0_u32..2_000_000, any::<bool>()), 30).prop_map(Step::Publish),
        1 => Just(Step::Adopt),
    ]
}

/// Picks, and enters the flow.
fn place(
    queues: &mut LoadQueues,
    view: &View,
    at: usize,
    now: Tick,
) -> Option<Result<BackendId, DropReason>> {
    let picked = queues.pick(view, at, now);
    if let Some(Ok(_)) = picked {
        queues.charge();
    }
    picked
}

fn a_service() -> impl Strategy<Value = Vec<Member>> {
    prop::collection::vec((a_state(), prop_oneof![Just(1_000_u64), 1_u64..500_000]), 0..10)
}

proptest! {
    #[test]
    fn the_least_loaded_is_picked_and_charged(
        services in prop::collection::vec(a_service(), 1..4),
        steps in prop::collection::vec(a_step(), 1..300),
        seed in 0_u64..20,
        rejects in any::<bool>(),
    ) {
        let loads = Arc::new(Loads::new(30));
        let overload = if rejects { Overload::Reject } else { Overload::Spread };
        let view = view(&services, Select::Min, overload, &loads);
        let mut queues = LoadQueues::with_room(4, 30, seed);
        queues.adopt(&view);
        let mut oracle = Oracle::new(&view, seed as usize);
        for service in 0..services.len() {
            oracle.read(&loads, service);
        }
        let mut now = Tick(1);
        for step in steps {
            match step {
                Step::Pick(at) => {
                    now.0 += 1;
                    if at >= view.service.len() {
                        continue;
                    }
                    // One that finds no room changes nothing.
                    let refused = queues.pick(&view, at, now);
                    let picked = place(&mut queues, &view, at, now).expect("room");
                    prop_assert_eq!(Some(picked), refused);
                    let least = oracle.services[at].iter().map(|of| of.1).min();
                    let expected = match oracle.next(at) {
                        None => Err(DropReason::NoBackend),
                        Some(_) if rejects && least.is_some_and(|least| least >= FULL) => Err(DropReason::Overload),
                        Some((next, _)) => Ok(oracle.services[at][next].0),
                    };
                    prop_assert_eq!(picked, expected);
                    if let Ok(backend) = picked {
                        oracle.take(at, backend);
                    }
                }
                Step::Publish(figures) => {
                    for (id, (ppm, joining)) in (0..).map(BackendId).zip(figures) {
                        loads.set(id, Load { ppm, joining });
                    }
                    loads.publish();
                    // Each is read at its next pick, which is in a turn of its own here.
                    for service in 0..services.len() {
                        oracle.read(&loads, service);
                    }
                }
                Step::Adopt => {
                    queues.adopt(&view);
                    let last = std::mem::take(&mut oracle.last);
                    oracle = Oracle { last, ..Oracle::new(&view, seed as usize) };
                    for service in 0..services.len() {
                        oracle.read(&loads, service);
                    }
                }
            }
        }
    }

    #[test]
    fn of_two_the_less_loaded_is_picked(
        members in prop::collection::vec((a_state(), 1_u64..1000), 1..10),
        figures in prop::collection::vec((0_u32..1_000_000, any::<bool>()), 30),
        seed in any::<u64>(),
    ) {
        let loads = Arc::new(Loads::new(30));
        for (id, (ppm, joining)) in (0..).map(BackendId).zip(&figures) {
            loads.set(id, Load { ppm: *ppm, joining: *joining });
        }
        let view = view(&[members], Select::TwoChoices, Overload::Reject, &loads);
        let mut queues = LoadQueues::with_room(1, 30, seed);
        queues.adopt(&view);
        let mut oracle = Oracle::new(&view, 0);
        oracle.read(&loads, 0);
        for _ in 0..200 {
            let picked = place(&mut queues, &view, 0, Tick(7)).expect("room");
            let all = &oracle.services[0];
            let Ok(backend) = picked else {
                let is_empty = all.is_empty() && picked == Err(DropReason::NoBackend);
                prop_assert!(is_empty || picked == Err(DropReason::Overload));
                break;
            };
            let of = all.iter().find(|of| of.0 == backend).expect("one that is up");
            if all.len() > 1 {
                prop_assert!(!(of.3 && oracle.last[0] == Some(backend)), "twice in a row");
                let worse = all.iter().filter(|other| other.0 != backend && other.1 >= of.1).count();
                let kept_back = oracle.last[0].is_some();
                prop_assert!(worse > 0 || kept_back, "the most loaded one of two");
            }
            oracle.take(0, backend);
        }
    }
}

#[test]
fn equal_backends_share_new_flows_and_two_workers_begin_at_different_ones() {
    let members = vec![(BackendState::Up, 100); 7];
    let loads = Arc::new(Loads::new(7));
    let view = view(&[members], Select::Min, Overload::Spread, &loads);
    let mut first = Vec::new();
    for seed in 0..7 {
        let mut queues = LoadQueues::with_room(1, 7, seed);
        queues.adopt(&view);
        let mut counts = [0; 7];
        for pick in 0..700 {
            let Some(Ok(backend)) = place(&mut queues, &view, 0, Tick(1)) else {
                panic!("nobody");
            };
            if pick == 0 {
                first.push(backend);
            }
            counts[backend.index()] += 1;
        }
        assert_eq!(counts, [100; 7]);
    }
    first.sort();
    first.dedup();
    assert_eq!(first.len(), 7);
}

#[test]
fn figures_of_one_service_are_read_a_turn() {
    let members = vec![(BackendState::Up, 1); 2];
    let loads = Arc::new(Loads::new(4));
    let view = view(&[members.clone(), members], Select::Min, Overload::Spread, &loads);
    let mut queues = LoadQueues::with_room(2, 4, 0);
    queues.adopt(&view);
    let mut pick = |at: usize, now| place(&mut queues, &view, at, Tick(now));
    let backend = |id| Some(Ok(BackendId(id)));
    assert_eq!([pick(0, 1), pick(1, 1)], [backend(0), backend(2)], "sets are built when they are needed");
    loads.set(BackendId(1), Load { ppm: 900, joining: false });
    loads.set(BackendId(3), Load { ppm: 900, joining: false });
    loads.publish();
    assert_eq!(pick(0, 2), backend(0), "the first is read now");
    assert_eq!(pick(1, 2), backend(3), "the other as before");
    assert_eq!(pick(1, 3), backend(2), "in the next turn it is read, too");
}

#[test]
fn a_service_without_room_goes_by_its_table() {
    let loads = Arc::new(Loads::new(4));
    let view = view(&[vec![(BackendState::Up, 1); 4]], Select::Min, Overload::Spread, &loads);
    let mut queues = LoadQueues::with_room(1, 3, 0);
    queues.adopt(&view);
    assert_eq!(queues.pick(&view, 0, Tick(1)), None);
    assert_eq!(queues.pick(&view, 1, Tick(1)), None);
}

#[test]
fn a_flow_adds_its_share_of_the_capacity_for_each_who_decides() {
    assert_eq!(share(1, 1, 1), FULL);
    assert_eq!(share(10_000, 1, 1), FULL / 10_000);
    assert_eq!(share(10_000, 5, 4), FULL / 50_000 * 4);
    assert!(share(16_777_216, 65_535, 1) >= 1);
    assert_eq!(share(0, 0, 0), FULL, "nothing divides by nothing");
}
