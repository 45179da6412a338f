//! Makes the steps. One at a time, and never before every live member has carried out the last.
//!
//! Which members live is told by their leases in the store; one whose lease ends is not waited for any more, and leaves with
//! the next change of members. There may be several leaders by mistake: the store takes only the plan that follows the one it
//! has.

mod services;

use crate::members::{Member, Members};
use crate::plan::contents::{Answers, Job, Mask, Phase, Plan, ServicePlan, Tables};
use crate::plan::follower::Acknowledgement;
use crate::plan::slots::SlotSets;
use crate::rules::{Rule, Rules};
use std::collections::VecDeque;
use std::sync::Arc;
use wire::{BackendId, Tick};

/// A mask is in force after this time although a member has not acknowledged, microseconds: a dead backend must not wait for
/// a member that hangs.
pub const MASK_WAIT_US: u64 = 200_000;
/// Most changes of tables that wait; newer ones are refused.
pub const WAITING_MAX: usize = 64;

/// What is asked of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// These tables.
    Tables(Tables),
    /// No new flows to this backend.
    Mask(BackendId),
    /// New flows to this backend again.
    Unmask(BackendId),
}

/// Why a request was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// Services or sizes of tables differ from the plan's: such a service begins anew under another id.
    #[error("the tables are of other services or sizes than those in force")]
    Shape,
    /// Too many wait.
    #[error("{WAITING_MAX} changes wait already; try again when they are done")]
    Busy,
}

/// When something spoke against the end of a slot's taint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Taint {
    /// When the slot was tainted.
    since: Tick,
    /// When it was last changed, or masked.
    changed: Tick,
    /// It was masked meanwhile, so it lasts for its whole time.
    masked: bool,
    /// A check found a flow elsewhere: not again before.
    not_before: Tick,
}

/// The leader's state beside the plan: all of it can be made anew from a plan, at the cost of longer taints.
#[derive(Debug)]
pub struct Leader {
    plan: Plan,
    /// When the plan was made.
    since: Tick,
    acknowledged: Vec<Acknowledgement>,
    /// When each mask that not all have acknowledged yet was announced: time and step.
    announced: Vec<(BackendId, Tick, u64)>,
    taints: Vec<Vec<Taint>>,
    waiting: VecDeque<Tables>,
    masks: VecDeque<(BackendId, bool)>,
    /// Members that want to go: they are waited for, and the next change of members is without them.
    leaving: Members,
    /// When a member was last lost: tables of flows are incomplete from then on.
    lost: Option<Tick>,
    max_idle_us: u64,
    jobs: u64,
    rules: Rules,
}

impl Leader {
    /// Goes on from a plan, the first one or the last one of another leader. `max_idle_us` is the longest idle time of flows.
    pub fn new(plan: Plan, max_idle_us: u64, now: Tick) -> Leader {
        let taint = Taint { since: now, changed: now, masked: true, not_before: Tick(0) };
        Leader {
            taints: plan.services.iter().map(|service| vec![taint; service.cur.len()]).collect(),
            announced: plan
                .masks
                .iter()
                .filter(|m| !m.in_force)
                .map(|m| (m.backend, now, plan.step))
                .collect(),
            jobs: plan.job.id,
            plan,
            since: now,
            acknowledged: Vec::new(),
            waiting: VecDeque::new(),
            masks: VecDeque::new(),
            leaving: Members::default(),
            lost: Some(now),
            max_idle_us,
            rules: Rules::default(),
        }
    }

    /// The rule holds no more.
    #[cfg(feature = "negative-controls")]
    pub fn break_rule(&mut self, rule: Rule) {
        self.rules = self.rules.without(rule);
    }

    /// The newest plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Changes of tables and masks that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len() + self.masks.len()
    }

    /// A first plan: these members with these tables, nothing tainted. For a cluster that begins.
    pub fn first(members: Members, services: Vec<ServicePlan>, backends: Arc<[BackendId]>) -> Plan {
        Plan { step: 1, epoch: 1, generation: 1, members, services, backends, ..Plan::default() }
    }

    /// These live members want to go.
    pub fn let_go(&mut self, leaving: Members) {
        self.leaving = leaving;
    }

    /// Takes in a request.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn request(&mut self, request: Request) -> Result<(), Refused> {
        match request {
            Request::Tables(tables) => {
                let shape = |answers: &Answers, service: &ServicePlan| answers.len() == service.cur.len();
                let is_same = tables.answers.len() == self.plan.services.len()
                    && tables.answers.iter().zip(&self.plan.services).all(|(a, s)| shape(a, s));
                if !is_same {
                    return Err(Refused::Shape);
                }
                if self.waiting.len() >= WAITING_MAX {
                    return Err(Refused::Busy);
                }
                self.waiting.push_back(tables);
            }
            Request::Mask(backend) | Request::Unmask(backend) => {
                if self.masks.len() >= WAITING_MAX {
                    return Err(Refused::Busy);
                }
                self.masks.push_back((backend, matches!(request, Request::Mask(_))));
            }
        }
        Ok(())
    }

    /// A member has carried out a step.
    pub fn acknowledge(&mut self, acknowledgement: Acknowledgement) {
        match self.acknowledged.iter_mut().find(|known| known.member == acknowledgement.member) {
            Some(known) if known.step <= acknowledgement.step => *known = acknowledgement,
            Some(_) => {}
            None => self.acknowledged.push(acknowledgement),
        }
    }

    /// Whether every live member uses a plan of at least this step.
    fn all_have(&self, step: u64, live: &Members) -> bool {
        live.iter()
            .filter(|&member| self.plan.concerns(member))
            .all(|member| self.acknowledged.iter().any(|a| a.member == member && a.step >= step))
    }

    /// The next plan, if there is one to be made. `live`: whose leases have not ended, those who want to join included.
    pub fn poll(&mut self, live: &Members, now: Tick) -> Option<&Plan> {
        let step = self.plan.step;
        let before = self.plan.job.clone();
        self.acknowledged.retain(|known| live.contains(known.member));
        self.bury(live, now);
        self.masks(live, now);
        let hurries = !self.rules.hold(Rule::CommitWaits)
            && self.plan.phase == Phase::Prepare
            && now.since_us(self.since) > 50_000;
        let overlaps = !self.rules.hold(Rule::OneAtATime)
            && self.plan.phase == Phase::Commit
            && !self.waiting.is_empty();
        if overlaps {
            self.advance(now);
            self.begin(live, now);
        } else if (hurries || self.all_have(step, live)) && self.plan.phase != Phase::Idle {
            self.advance(now);
        } else if self.plan.phase == Phase::Idle && self.all_have(step, live) {
            self.begin(live, now);
        }
        self.describe_job(&before);
        (self.plan.step != step).then(|| {
            self.since = now;
            &self.plan
        })
    }

    /// Members whose leases have ended are lost for good: they come back as other members.
    fn bury(&mut self, live: &Members, now: Tick) {
        let plan = &self.plan;
        let listed = plan.members.iter().chain(plan.next_members.iter().flat_map(Members::iter));
        let lost: Vec<Member> =
            listed.filter(|&member| !live.contains(member) || plan.lost.contains(member)).collect();
        let lost = Members::new(lost);
        if lost.iter().any(|member| !self.plan.lost.contains(member)) {
            self.lost = Some(now);
            self.plan.lost = lost;
            self.plan.step += 1;
            // What has died knew flows of these slots that nobody else may know.
            self.keep_taints();
        }
    }

    fn masks(&mut self, live: &Members, now: Tick) {
        let mut changed = false;
        for at in (0..self.announced.len()).rev() {
            let (backend, since, step) = self.announced[at];
            let all_know = self.all_have(step, live) || !self.rules.hold(Rule::MaskAnnounced);
            if all_know || now.since_us(since) >= MASK_WAIT_US {
                for mask in self.plan.masks.iter_mut().filter(|mask| mask.backend == backend) {
                    changed |= !mask.in_force;
                    mask.in_force = true;
                }
            }
            // Who lags behind has flows of these slots still to tell, although the mask is in force.
            if all_know {
                self.announced.remove(at);
            }
        }
        while let Some((backend, masks)) = self.masks.pop_front() {
            let is_masked = self.plan.masks.iter().any(|mask| mask.backend == backend);
            if masks && !is_masked {
                self.plan.masks.push(Mask { backend, in_force: false });
                self.announced.push((backend, now, self.plan.step + 1));
                // No taint ends while a mask begins.
                self.keep_taints();
                changed = true;
            } else if !masks && is_masked {
                // What began elsewhere has records, and its slots stay tainted for the longest idle time.
                self.touch_slots(backend, now);
                self.plan.masks.retain(|mask| mask.backend != backend);
                self.announced.retain(|(of, ..)| *of != backend);
                changed = true;
            }
        }
        if changed {
            self.plan.step += 1;
        }
        let announced: Vec<BackendId> = self.plan.masks.iter().map(|mask| mask.backend).collect();
        for backend in announced {
            self.touch_slots(backend, now);
        }
    }

    /// No taint ends now.
    fn keep_taints(&mut self) {
        if self.plan.phase == Phase::Retire {
            self.plan.phase = Phase::Idle;
            self.plan.job.check = SlotSets::default();
        }
    }

    /// Taints the slots of a masked backend, in the tables in force and in those to come.
    fn touch_slots(&mut self, backend: BackendId, now: Tick) {
        for (at, service) in self.plan.services.iter_mut().enumerate() {
            let next = self.plan.next_tables.as_ref().and_then(|tables| tables.answers.get(at));
            for slot in 0..u32::try_from(service.cur.len()).unwrap_or(u32::MAX) {
                let is_its = |answers: &Answers| answers.get(slot as usize) == Some(&Some(backend));
                let is_concerned = is_its(&service.cur) || next.is_some_and(is_its);
                if is_concerned && self.rules.hold(Rule::MaskAnnounced) {
                    let fresh = !service.tainted.contains(slot);
                    if fresh {
                        taint(service, slot);
                    }
                    if let Some(of) = self.taints.get_mut(at).and_then(|of| of.get_mut(slot as usize)) {
                        if fresh {
                            of.since = now;
                        }
                        of.changed = now;
                        of.masked = true;
                    }
                }
            }
        }
    }

    /// All have carried out the open phase.
    fn advance(&mut self, now: Tick) {
        let plan = &mut self.plan;
        match plan.phase {
            Phase::Idle => return,
            Phase::Prepare => {
                if let Some(tables) = &plan.next_tables {
                    if !self.rules.hold(Rule::RemovedStays) {
                        plan.backends = Arc::clone(&tables.backends);
                    }
                    for (service, answers) in plan.services.iter_mut().zip(&tables.answers) {
                        service.cur = Arc::clone(answers);
                    }
                }
                plan.generation += 1;
                plan.phase = Phase::Commit;
            }
            Phase::Commit => {
                if let Some(tables) = plan.next_tables.take() {
                    plan.masks.retain(|mask| tables.backends.contains(&mask.backend));
                    plan.backends = tables.backends;
                }
                plan.phase = Phase::Idle;
            }
            Phase::Retire => {
                self.clear(now);
                self.plan.phase = Phase::Idle;
            }
            Phase::EpochPrepare => {
                plan.epoch += 1;
                plan.phase = Phase::EpochCommit;
            }
            Phase::EpochCommit => {
                if let Some(next) = plan.next_members.take() {
                    plan.lost = Members::new(plan.lost.iter().filter(|&member| next.contains(member)));
                    plan.members = next;
                }
                plan.phase = Phase::Idle;
            }
        }
        self.plan.step += 1;
    }

    /// Ends the taints that nobody has refused.
    fn clear(&mut self, now: Tick) {
        let incomplete = self.acknowledged.iter().any(|known| known.incomplete);
        let check = core::mem::take(&mut self.plan.job.check);
        for (at, slot) in check.iter() {
            let refused =
                incomplete || self.acknowledged.iter().any(|known| known.refused.contains(at, slot));
            let taint = self.taints.get_mut(at).and_then(|of| of.get_mut(slot as usize));
            if refused {
                if let Some(taint) = taint {
                    taint.not_before = Tick(now.0 + self.max_idle_us / 4);
                }
            } else if let Some(service) = self.plan.services.get_mut(at) {
                service.tainted.remove(slot);
            }
        }
    }

    /// Nothing is open: begins what is due.
    fn begin(&mut self, live: &Members, now: Tick) {
        let stays = |&member: &Member| !self.plan.lost.contains(member) && !self.leaving.contains(member);
        let live = Members::new(live.iter().filter(stays));
        if !live.is_empty() && self.plan.members != live {
            if self.rules.hold(Rule::TwoPhaseEpoch) {
                self.plan.next_members = Some(live);
                self.plan.phase = Phase::EpochPrepare;
            } else {
                self.plan.members = live;
                self.plan.lost = Members::default();
                self.plan.epoch += 1;
            }
            self.plan.step += 1;
        } else if let Some(tables) = self.waiting.pop_front() {
            self.prepare(tables, now);
        } else {
            self.retire(now);
        }
    }

    fn prepare(&mut self, tables: Tables, now: Tick) {
        let plan = &mut self.plan;
        for (at, (service, answers)) in plan.services.iter_mut().zip(&tables.answers).enumerate() {
            for (slot, (old, new)) in (0_u32..).zip(service.cur.clone().iter().zip(answers.iter())) {
                if old == new {
                    continue;
                }
                let fresh = !service.tainted.contains(slot);
                if fresh || !self.rules.hold(Rule::BaseStays) {
                    taint(service, slot);
                }
                if let Some(of) = self.taints.get_mut(at).and_then(|of| of.get_mut(slot as usize)) {
                    *of = Taint {
                        since: if fresh { now } else { of.since },
                        changed: now,
                        masked: of.masked && !fresh,
                        not_before: Tick(0),
                    };
                }
            }
        }
        // What is removed stays until all have committed.
        let mut backends: Vec<BackendId> =
            plan.backends.iter().chain(tables.backends.iter()).copied().collect();
        backends.sort_unstable();
        backends.dedup();
        if !self.rules.hold(Rule::RemovedStays) {
            backends.retain(|backend| plan.backends.contains(backend) && tables.backends.contains(backend));
        }
        plan.backends = backends.into();
        plan.next_tables = Some(tables);
        plan.phase = Phase::Prepare;
        plan.step += 1;
    }

    fn retire(&mut self, now: Tick) {
        let mut check = SlotSets::default();
        let mut longest = None::<u64>;
        for (at, service) in self.plan.services.iter().enumerate() {
            for slot in service.tainted.iter() {
                let Some(of) = self.taints.get(at).and_then(|of| of.get(slot as usize)) else { continue };
                let masked = service
                    .cur
                    .get(slot as usize)
                    .copied()
                    .flatten()
                    .is_some_and(|backend| self.plan.masks.iter().any(|mask| mask.backend == backend));
                if masked || of.not_before > now {
                    continue;
                }
                let early = now.since_us(of.changed) <= self.max_idle_us;
                if early {
                    let whole_since = Tick(of.since.0.saturating_sub(self.max_idle_us));
                    let complete = self.lost.is_none_or(|lost| lost < whole_since);
                    if of.masked || !complete {
                        continue;
                    }
                    longest = longest.max(Some(now.since_us(of.since).saturating_add(self.max_idle_us)));
                }
                check.service_mut(at).insert(slot);
            }
        }
        if check.is_empty() {
            return;
        }
        for (at, slot) in check.iter() {
            if let Some(service) = self.plan.services.get_mut(at) {
                let cur = service.cur.get(slot as usize).copied().flatten();
                if service.base.get(slot as usize) != Some(&cur)
                    && let Some(base) = Arc::make_mut(&mut service.base).get_mut(slot as usize)
                {
                    *base = cur;
                }
            }
        }
        if !self.rules.hold(Rule::RetireFirst) {
            for (at, slot) in check.iter() {
                if let Some(service) = self.plan.services.get_mut(at) {
                    service.tainted.remove(slot);
                }
            }
            self.plan.step += 1;
            return;
        }
        self.plan.job.check = check;
        self.plan.job.complete_for_us = longest;
        self.plan.phase = Phase::Retire;
        self.plan.step += 1;
    }

    /// The job that belongs to the plan; a new name if it is another than before.
    fn describe_job(&mut self, before: &Job) {
        let plan = &self.plan;
        let mut export = SlotSets::default();
        if plan.phase == Phase::Prepare
            && let Some(tables) = &plan.next_tables
        {
            for (at, (service, answers)) in plan.services.iter().zip(&tables.answers).enumerate() {
                for (slot, (old, new)) in (0_u32..).zip(service.cur.iter().zip(answers.iter())) {
                    if old != new {
                        export.service_mut(at).insert(slot);
                    }
                }
            }
        }
        for (at, service) in plan.services.iter().enumerate() {
            for slot in service.tainted.iter() {
                let cur = service.cur.get(slot as usize).copied().flatten();
                if self.announced.iter().any(|(backend, ..)| Some(*backend) == cur) {
                    export.service_mut(at).insert(slot);
                }
            }
        }
        let check = if plan.phase == Phase::Retire { plan.job.check.clone() } else { SlotSets::default() };
        let complete_for_us = plan.job.complete_for_us.filter(|_| plan.phase == Phase::Retire);
        let migrate = plan.phase == Phase::EpochPrepare;
        let job = Job { id: before.id, export, check, migrate, complete_for_us };
        let is_new = job != *before && job != Job { id: before.id, ..Job::default() };
        if is_new {
            self.jobs += 1;
        }
        self.plan.job = Job { id: if is_new { self.jobs } else { before.id }, ..job };
    }

    /// Who is waited for: live members that have not carried out the newest plan.
    pub fn lagging<'a>(&'a self, live: &'a Members) -> impl Iterator<Item = Member> + 'a {
        let step = self.plan.step;
        live.iter().filter(move |&member| {
            self.plan.concerns(member)
                && !self.acknowledged.iter().any(|known| known.member == member && known.step >= step)
        })
    }
}

/// Taints a slot: its base is what the table says now.
fn taint(service: &mut ServicePlan, slot: u32) {
    service.tainted.insert(slot);
    let cur = service.cur.get(slot as usize).copied().flatten();
    if let Some(base) = Arc::make_mut(&mut service.base).get_mut(slot as usize) {
        *base = cur;
    }
}
