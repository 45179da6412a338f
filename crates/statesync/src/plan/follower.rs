//! A machine's side: adopts plans, waits for its workers, acknowledges.

use crate::members::Member;
use crate::plan::contents::Plan;
use crate::plan::slots::SlotSets;
use std::sync::Arc;
use wire::CoreId;

/// What a worker tells its management core.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Report {
    /// It knows a flow of this slot that is not where the table says.
    Refused {
        /// The job.
        job: u64,
        /// The service's place in the plan.
        service: u16,
        /// The slot.
        slot: u32,
    },
    /// It uses the plan of this step, and its job is done.
    Done {
        /// The step.
        step: u64,
        /// A check is refused as a whole: the worker's tables were not complete.
        incomplete: bool,
    },
}

/// What a machine tells the leader.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acknowledgement {
    /// The machine that acknowledges.
    pub member: Member,
    /// The plan that all of its workers use, and whose job is done.
    pub step: u64,
    /// Slots whose taint must not end.
    pub refused: SlotSets,
    /// No taint may end before its time.
    pub incomplete: bool,
}

/// One machine's view of the plan.
#[derive(Debug)]
pub struct Follower {
    own: Member,
    plan: Option<Arc<Plan>>,
    /// By core, the last step it has done.
    done: Vec<u64>,
    refused: SlotSets,
    incomplete: bool,
    acknowledged: u64,
}

impl Follower {
    /// Of a machine with this many workers.
    pub fn new(own: Member, cores: usize) -> Follower {
        Follower {
            own,
            plan: None,
            done: vec![0; cores],
            refused: SlotSets::default(),
            incomplete: false,
            acknowledged: 0,
        }
    }

    /// Who it is.
    pub fn own(&self) -> Member {
        self.own
    }

    /// The plan in use.
    pub fn plan(&self) -> Option<&Arc<Plan>> {
        self.plan.as_ref()
    }

    /// The store shows this plan. True: it is newer, and is to be handed to the workers.
    pub fn offer(&mut self, plan: &Arc<Plan>) -> bool {
        if self.plan.as_ref().is_some_and(|known| known.step >= plan.step) {
            return false;
        }
        if self.plan.as_ref().is_none_or(|known| known.job.id != plan.job.id) {
            self.refused = SlotSets::default();
            self.incomplete = false;
        }
        self.plan = Some(Arc::clone(plan));
        true
    }

    /// A worker reports.
    pub fn report(&mut self, core: CoreId, report: Report) {
        match report {
            Report::Refused { job, service, slot } => {
                if self.plan.as_ref().is_some_and(|plan| plan.job.id == job) {
                    self.refused.service_mut(usize::from(service)).insert(slot);
                }
            }
            Report::Done { step, incomplete } => {
                if let Some(done) = self.done.get_mut(usize::from(core.0)) {
                    *done = (*done).max(step);
                }
                self.incomplete |= incomplete && self.plan.as_ref().is_some_and(|plan| plan.step == step);
            }
        }
    }

    /// The last step that all workers have done.
    pub fn done(&self) -> u64 {
        self.done.iter().min().copied().unwrap_or(0)
    }

    /// What there is to acknowledge, once.
    pub fn acknowledge(&mut self) -> Option<Acknowledgement> {
        let plan = self.plan.as_ref()?;
        if self.done() < plan.step || self.acknowledged >= plan.step {
            return None;
        }
        self.acknowledged = plan.step;
        Some(Acknowledgement {
            member: self.own,
            step: plan.step,
            refused: self.refused.clone(),
            incomplete: self.incomplete,
        })
    }

    /// The acknowledgement may have been lost: it is given again.
    pub fn repeat(&mut self) {
        self.acknowledged = 0;
    }
}
