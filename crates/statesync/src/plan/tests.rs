use super::{
    Acknowledgement, Follower, Leader, Phase, Plan, Report, Request, ServicePlan, SlotSet, SlotSets, Tables,
};
use crate::members::{MachineId, Member, Members};
use std::sync::Arc;
use wire::{BackendId, CoreId, ServiceId, Tick};

const MAX_IDLE_US: u64 = 1_000_000;

fn member(machine: u8) -> Member {
    Member { machine: MachineId(machine), incarnation: 1 }
}

fn answers(of: &[u32]) -> Arc<[Option<BackendId>]> {
    of.iter().map(|&id| Some(BackendId(id))).collect()
}

fn backends(of: &[u32]) -> Arc<[BackendId]> {
    of.iter().map(|&id| BackendId(id)).collect()
}

fn first(machines: &[u8]) -> Plan {
    let cur = answers(&[1, 2, 1, 2]);
    let service =
        ServicePlan { service: ServiceId(1), base: Arc::clone(&cur), cur, tainted: SlotSet::default() };
    Leader::first(Members::new(machines.iter().map(|&m| member(m))), vec![service], backends(&[1, 2]))
}

fn tables(of: &[u32], valid: &[u32]) -> Request {
    Request::Tables(Tables { answers: vec![answers(of)], backends: backends(valid) })
}

/// A leader whose members all do what they are told, at once.
struct Cluster {
    leader: Leader,
    live: Members,
    now: Tick,
    refused: SlotSets,
    incomplete: bool,
    seen: Vec<Phase>,
}

impl Cluster {
    fn new() -> Cluster {
        let plan = first(&[0, 1]);
        Cluster {
            live: plan.members.clone(),
            leader: Leader::new(plan, MAX_IDLE_US, Tick(0)),
            now: Tick(0),
            refused: SlotSets::default(),
            incomplete: false,
            seen: Vec::new(),
        }
    }

    fn acknowledge(&mut self, machines: &[u8]) {
        let step = self.leader.plan().step;
        for &machine in machines {
            self.leader.acknowledge(Acknowledgement {
                member: member(machine),
                step,
                refused: self.refused.clone(),
                incomplete: self.incomplete,
            });
        }
    }

    fn poll(&mut self) -> bool {
        let made = self.leader.poll(&self.live, self.now).map(|plan| plan.phase);
        self.seen.extend(made);
        made.is_some()
    }

    /// Until nothing more comes of it.
    fn settle(&mut self) {
        let machines: Vec<u8> = self.live.iter().map(|m| m.machine.0).collect();
        for _ in 0..20 {
            self.acknowledge(&machines);
            if !self.poll() {
                return;
            }
        }
        panic!("never at rest: {:?}", self.seen);
    }

    fn tainted(&self) -> Vec<u32> {
        self.leader.plan().services[0].tainted.iter().collect()
    }
}

#[test]
fn a_change_waits_for_everybody_and_taints_what_it_changes() {
    let mut cluster = Cluster::new();
    cluster.leader.request(tables(&[1, 3, 1, 2], &[1, 2, 3])).expect("the same shape");
    assert!(!cluster.poll(), "the first plan is not acknowledged yet");
    cluster.acknowledge(&[0, 1]);
    assert!(cluster.poll());
    let plan = cluster.leader.plan();
    assert_eq!((plan.phase, plan.generation), (Phase::Prepare, 1));
    assert_eq!(plan.services[0].cur, answers(&[1, 2, 1, 2]));
    assert_eq!(plan.backends, backends(&[1, 2, 3]));
    assert_eq!(plan.job.export.iter().collect::<Vec<_>>(), [(0, 1)]);
    assert_eq!(cluster.tainted(), [1]);
    cluster.acknowledge(&[0]);
    cluster.now = Tick(10 * MAX_IDLE_US);
    assert!(!cluster.poll(), "machine 1 has not exported");
    assert_eq!(cluster.leader.lagging(&cluster.live).collect::<Vec<_>>(), [member(1)]);
    cluster.acknowledge(&[1]);
    assert!(cluster.poll());
    let plan = cluster.leader.plan();
    assert_eq!((plan.phase, plan.generation), (Phase::Commit, 2));
    assert_eq!(plan.services[0].cur, answers(&[1, 3, 1, 2]));
    assert_eq!(plan.services[0].base[1], Some(BackendId(2)));
}

/// The backends that the plan knows when it has come to each phase of a change that takes one away and brings one.
fn known_in_each_phase(prepare: impl FnOnce(&mut Leader)) -> Vec<(Phase, Arc<[BackendId]>)> {
    let mut cluster = Cluster::new();
    prepare(&mut cluster.leader);
    cluster.leader.request(tables(&[1, 3, 1, 3], &[1, 3])).expect("the same shape");
    let mut known = Vec::new();
    for _ in 0..3 {
        cluster.acknowledge(&[0, 1]);
        assert!(cluster.poll());
        let plan = cluster.leader.plan();
        known.push((plan.phase, Arc::clone(&plan.backends)));
    }
    known
}

#[test]
fn a_new_backend_is_known_before_all_have_committed_and_a_removed_one_until_then() {
    let (both, after) = (backends(&[1, 2, 3]), backends(&[1, 3]));
    let right = [(Phase::Prepare, Arc::clone(&both)), (Phase::Commit, both), (Phase::Idle, after)];
    assert_eq!(known_in_each_phase(|_| {}), right);
}

/// Who has committed knows a backend that others do not know yet, or not any more.
#[cfg(feature = "negative-controls")]
#[test]
fn without_the_rule_members_know_different_backends_during_a_commit() {
    let known = known_in_each_phase(|leader| leader.break_rule(crate::Rule::RemovedStays));
    assert_eq!(known[0], (Phase::Prepare, backends(&[1])));
    assert_eq!(known[1], (Phase::Commit, backends(&[1, 3])));
}

#[test]
fn a_member_whose_lease_ends_is_not_waited_for_and_leaves() {
    let mut cluster = Cluster::new();
    cluster.leader.request(tables(&[3, 2, 1, 2], &[1, 2, 3])).expect("the same shape");
    cluster.acknowledge(&[0, 1]);
    assert!(cluster.poll());
    cluster.live = Members::new([member(0)]);
    cluster.settle();
    let plan = cluster.leader.plan();
    assert_eq!(plan.generation, 2);
    assert_eq!(plan.members, Members::new([member(0)]));
    assert_eq!(
        cluster.seen,
        [Phase::Prepare, Phase::Commit, Phase::Idle, Phase::EpochPrepare, Phase::EpochCommit, Phase::Idle]
    );
}

#[test]
fn base_stays_while_the_slot_stays_tainted_and_removed_backends_until_all_have_committed() {
    let mut cluster = Cluster::new();
    cluster.leader.request(tables(&[3, 2, 1, 2], &[1, 2, 3])).expect("the same shape");
    cluster.leader.request(tables(&[4, 2, 1, 2], &[1, 2, 4])).expect("the same shape");
    // A flow in slot 0 speaks against the end of its taint.
    cluster.refused.service_mut(0).insert(0);
    let mut backends_seen = Vec::new();
    for _ in 0..6 {
        cluster.acknowledge(&[0, 1]);
        cluster.poll();
        let plan = cluster.leader.plan();
        assert_eq!(plan.services[0].base[0], Some(BackendId(1)));
        backends_seen.push((plan.phase, plan.backends.len()));
    }
    assert_eq!(
        backends_seen,
        [
            (Phase::Prepare, 3),
            (Phase::Commit, 3),
            (Phase::Idle, 3),
            (Phase::Prepare, 4),
            (Phase::Commit, 4),
            (Phase::Idle, 3)
        ]
    );
}

#[test]
fn a_taint_ends_early_only_where_tables_were_complete() {
    let mut cluster = Cluster::new();
    // The leader has just begun, so it knows of no time in which tables were complete.
    cluster.leader.request(tables(&[3, 2, 1, 2], &[1, 2, 3])).expect("the same shape");
    cluster.settle();
    assert_eq!(cluster.tainted(), [0]);
    cluster.now = Tick(MAX_IDLE_US + 1);
    cluster.refused.service_mut(0).insert(0);
    cluster.settle();
    assert_eq!(cluster.tainted(), [0], "refused");
    assert_eq!(cluster.leader.plan().services[0].base[0], Some(BackendId(3)), "nobody needs the old base");
    cluster.refused = SlotSets::default();
    cluster.settle();
    assert_eq!(cluster.tainted(), [0], "not again at once");
    cluster.now = Tick(2 * MAX_IDLE_US);
    cluster.settle();
    assert!(cluster.tainted().is_empty());
    cluster.now = Tick(4 * MAX_IDLE_US);
    cluster.incomplete = true;
    cluster.leader.request(tables(&[3, 1, 1, 2], &[1, 2, 3])).expect("the same shape");
    cluster.settle();
    assert_eq!(cluster.tainted(), [1], "a member has refused a flow");
    cluster.incomplete = false;
    cluster.leader.request(tables(&[3, 1, 2, 2], &[1, 2, 3])).expect("the same shape");
    cluster.settle();
    assert_eq!(cluster.tainted(), [1], "the second ended at once");
}

/// Who dies while a taint is about to end early may have been the last to know a flow: nothing is complete any more.
#[test]
fn a_death_keeps_taints_that_were_about_to_end() {
    let mut cluster = Cluster::new();
    cluster.settle();
    cluster.now = Tick(3 * MAX_IDLE_US);
    cluster.leader.request(tables(&[1, 3, 1, 2], &[1, 2, 3])).expect("the same shape");
    while cluster.leader.plan().phase != Phase::Retire {
        cluster.acknowledge(&[0, 1]);
        assert!(cluster.poll(), "tables are complete, so the taint ends early");
    }
    cluster.live = Members::new([member(0)]);
    cluster.acknowledge(&[0]);
    assert!(cluster.poll());
    assert_ne!(cluster.leader.plan().phase, Phase::Retire);
    cluster.settle();
    assert_eq!(cluster.tainted(), [1]);
    cluster.now = Tick(cluster.now.0 + MAX_IDLE_US + 1);
    cluster.settle();
    assert_eq!(cluster.tainted(), [0; 0]);
}

#[test]
fn a_mask_steers_when_all_have_acknowledged_or_after_its_wait() {
    for hangs in [false, true] {
        let mut cluster = Cluster::new();
        cluster.acknowledge(&[0, 1]);
        cluster.leader.request(Request::Mask(BackendId(2))).expect("room");
        assert!(cluster.poll());
        assert_eq!(cluster.tainted(), [1, 3]);
        assert_eq!(cluster.leader.plan().job.export.iter().collect::<Vec<_>>(), [(0, 1), (0, 3)]);
        assert!(!cluster.leader.plan().is_masked(BackendId(2)));
        cluster.acknowledge(if hangs { &[0] } else { &[0, 1] });
        assert_eq!(cluster.poll(), !hangs);
        cluster.now = Tick(super::leader::MASK_WAIT_US);
        assert_eq!(cluster.poll(), hangs);
        assert!(cluster.leader.plan().is_masked(BackendId(2)));
        let waits = cluster.leader.plan().job.export.iter().count();
        assert_eq!(
            waits,
            if hangs { 2 } else { 0 },
            "who hangs has flows to tell, although the mask is in force"
        );
        cluster.now = Tick(10 * MAX_IDLE_US);
        cluster.settle();
        assert_eq!(cluster.tainted(), [1, 3], "cur is masked");
        cluster.leader.request(Request::Unmask(BackendId(2))).expect("room");
        cluster.settle();
        assert_eq!(cluster.tainted(), [1, 3], "flows that began elsewhere may live");
        cluster.now = Tick(12 * MAX_IDLE_US);
        cluster.settle();
        assert!(cluster.tainted().is_empty());
    }
}

#[test]
fn a_leader_that_takes_over_goes_on() {
    let mut cluster = Cluster::new();
    cluster.leader.request(tables(&[3, 2, 1, 2], &[2, 3])).expect("the same shape");
    cluster.acknowledge(&[0, 1]);
    assert!(cluster.poll());
    cluster.leader = Leader::new(cluster.leader.plan().clone(), MAX_IDLE_US, cluster.now);
    cluster.settle();
    let plan = cluster.leader.plan();
    assert_eq!((plan.generation, plan.phase, &plan.backends), (2, Phase::Idle, &backends(&[2, 3])));
    assert_eq!(cluster.tainted(), [0]);
}

#[test]
fn services_begin_and_end_when_nothing_is_open() {
    let mut cluster = Cluster::new();
    let live = cluster.live.clone();
    let begin = || [(ServiceId(2), answers(&[7, 7, 8]))];
    let all = backends(&[1, 2, 7, 8]);
    let early = cluster.leader.replace_services(&[], begin(), Arc::clone(&all), &live, cluster.now);
    assert_eq!(early, None, "the first plan is not acknowledged yet");
    cluster.acknowledge(&[0, 1]);
    let plan = cluster.leader.replace_services(&[], begin(), Arc::clone(&all), &live, cluster.now);
    let plan = plan.expect("at rest");
    assert_eq!((plan.step, plan.generation, plan.tainted_slots()), (2, 1, 0));
    assert_eq!(plan.services[1].cur, answers(&[7, 7, 8]));
    // Both change; then the first ends, while the second's taint lasts.
    let both = Tables { answers: vec![answers(&[1, 1, 1, 1]), answers(&[7, 8, 8])], backends: all };
    cluster.leader.request(Request::Tables(both)).expect("the same shape");
    assert!(!cluster.leader.is_at_rest(&live));
    cluster.settle();
    assert_eq!(cluster.leader.plan().tainted_slots(), 3);
    let rest = backends(&[7, 8]);
    let plan =
        cluster.leader.replace_services(&[ServiceId(1)], [], rest, &live, cluster.now).expect("at rest");
    assert_eq!((plan.services.len(), plan.tainted_slots(), plan.backends.len()), (1, 1, 2));
    assert_eq!((plan.services[0].service, plan.services[0].base[1]), (ServiceId(2), Some(BackendId(7))));
    cluster.now = Tick(2 * MAX_IDLE_US);
    cluster.settle();
    assert_eq!(cluster.leader.plan().tainted_slots(), 0, "its taint ended by itself");
}

/// Its flows are anywhere, so every slot is tainted until no flow in it is elsewhere.
#[test]
fn a_service_that_goes_by_slots_from_now_on_begins_tainted() {
    let mut cluster = Cluster::new();
    let live = cluster.live.clone();
    cluster.acknowledge(&[0, 1]);
    let all = Arc::clone(&cluster.leader.plan().backends);
    let step = cluster.leader.plan().step;
    cluster.leader.replace_services(&[], [], all, &live, cluster.now).expect("at rest");
    cluster.leader.taint_services(&[ServiceId(9)], cluster.now);
    assert_eq!(cluster.leader.plan().tainted_slots(), 0, "another service's");
    let service = cluster.leader.plan().services[0].service;
    cluster.leader.taint_services(&[service], cluster.now);
    let plan = cluster.leader.plan();
    assert_eq!((plan.step, plan.tainted_slots()), (step + 1, plan.services[0].cur.len()));
    assert_eq!(plan.services[0].base, plan.services[0].cur);
    cluster.settle();
    assert!(cluster.leader.plan().tainted_slots() > 0, "for the longest idle time");
    cluster.now = Tick(cluster.now.0 + 2 * MAX_IDLE_US);
    cluster.settle();
    assert_eq!(cluster.leader.plan().tainted_slots(), 0);
}

#[test]
fn a_member_that_wants_to_go_is_waited_for_and_left_out() {
    let mut cluster = Cluster::new();
    cluster.acknowledge(&[0, 1]);
    cluster.leader.let_go(Members::new([member(1)]));
    assert!(cluster.poll());
    assert_eq!(cluster.leader.plan().next_members, Some(Members::new([member(0)])));
    cluster.acknowledge(&[0]);
    assert!(!cluster.poll(), "it hands its records over first");
    cluster.settle();
    let plan = cluster.leader.plan();
    assert_eq!((&plan.members, plan.lost.is_empty()), (&Members::new([member(0)]), true));
}

#[test]
fn a_request_of_another_shape_is_refused() {
    let mut leader = Leader::new(first(&[0]), MAX_IDLE_US, Tick(0));
    assert_eq!(leader.request(tables(&[1, 2], &[1, 2])), Err(super::leader::Refused::Shape));
    for _ in 0..super::leader::WAITING_MAX {
        assert_eq!(leader.request(tables(&[1, 2, 1, 2], &[1, 2])), Ok(()));
    }
    assert_eq!(leader.request(tables(&[1, 2, 1, 2], &[1, 2])), Err(super::leader::Refused::Busy));
}

#[test]
fn a_follower_acknowledges_when_all_its_workers_are_done() {
    let mut follower = Follower::new(member(0), 2);
    let plan = Arc::new(first(&[0]));
    assert!(follower.offer(&plan));
    assert!(!follower.offer(&plan));
    follower.report(CoreId(0), Report::Done { step: 1, incomplete: false });
    assert_eq!(follower.acknowledge(), None);
    follower.report(CoreId(1), Report::Done { step: 1, incomplete: true });
    let acknowledgement = follower.acknowledge().expect("both are done");
    assert_eq!((acknowledgement.step, acknowledgement.incomplete), (1, true));
    assert_eq!(follower.acknowledge(), None);
    follower.repeat();
    assert_eq!(follower.acknowledge().map(|a| a.step), Some(1));

    let mut next = (*plan).clone();
    next.step = 2;
    next.job.id = 1;
    follower.report(CoreId(0), Report::Refused { job: 1, service: 0, slot: 3 });
    assert!(follower.offer(&Arc::new(next)));
    follower.report(CoreId(0), Report::Refused { job: 1, service: 0, slot: 2 });
    for core in [0, 1] {
        follower.report(CoreId(core), Report::Done { step: 2, incomplete: false });
    }
    let acknowledgement = follower.acknowledge().expect("both are done");
    assert_eq!(acknowledgement.refused.iter().collect::<Vec<_>>(), [(0, 2)], "of this plan's job");
    assert!(!acknowledgement.incomplete);
}
