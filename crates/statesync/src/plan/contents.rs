//! What a plan says.

use super::slots::{SlotSet, SlotSets};
use crate::members::{Member, Members};
use crate::owners::{EpochPhase, Owners};
use std::sync::Arc;
use wire::{BackendId, ServiceId};

/// A table's answers by slot; `None`: no backend.
pub type Answers = Arc<[Option<BackendId>]>;

/// What is being done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Phase {
    /// Nothing.
    #[default]
    Idle,
    /// Slots of a change are tainted and exported.
    Prepare,
    /// The change is in force.
    Commit,
    /// Taints are about to end.
    Retire,
    /// Members are about to change.
    EpochPrepare,
    /// The new owners are asked.
    EpochCommit,
}

/// A service in the plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServicePlan {
    /// Its id.
    pub service: ServiceId,
    /// The table's answers in force, without regard to masks.
    pub cur: Answers,
    /// By slot, what `cur` was when it was tainted; meaningful for tainted slots.
    pub base: Answers,
    /// The tainted slots.
    pub tainted: SlotSet,
}

impl ServicePlan {
    /// Number of slots.
    pub fn size(&self) -> u32 {
        u32::try_from(self.cur.len()).unwrap_or(u32::MAX)
    }
}

/// Tables that are to be: answers of every service, in the order of the plan's services.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tables {
    /// Answers by service.
    pub answers: Vec<Answers>,
    /// All backends that may have flows; the others are removed when the change is over.
    pub backends: Arc<[BackendId]>,
}

/// A backend that takes no new flows, or will not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mask {
    /// The backend.
    pub backend: BackendId,
    /// Flows begin elsewhere. Before: its slots are being tainted.
    pub in_force: bool,
}

/// What the workers of each machine must do before the step is acknowledged. Doing it twice does no harm.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Job {
    /// Names the job; a plan with the same job as the one before asks for nothing new.
    pub id: u64,
    /// Entries of these slots go to the slots' owners.
    pub export: SlotSets,
    /// Entries and records of these slots that name another backend than `cur`, or one that is masked, are reported.
    pub check: SlotSets,
    /// Records and entries of tainted slots go to the machines that will own them.
    pub migrate: bool,
    /// `check` comes before the longest idle time has passed: it is refused as a whole by a machine that within this time, in
    /// microseconds, has refused an entry or record for want of room.
    pub complete_for_us: Option<u64>,
}

/// The whole picture.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// Counts plans.
    pub step: u64,
    /// Counts changes of members.
    pub epoch: u32,
    /// Counts changes of tables.
    pub generation: u64,
    /// What is being done.
    pub phase: Phase,
    /// Members of the epoch, or of the one that ends.
    pub members: Members,
    /// Members of the epoch that begins, during its change.
    pub next_members: Option<Members>,
    /// Members whose leases have ended. Nobody waits for them or listens to them, and they leave with the next change of members.
    pub lost: Members,
    /// The services.
    pub services: Vec<ServicePlan>,
    /// The tables that come into force with the commit.
    pub next_tables: Option<Tables>,
    /// Backends that may have flows.
    pub backends: Arc<[BackendId]>,
    /// Masked backends.
    pub masks: Vec<Mask>,
    /// What is to be done.
    pub job: Job,
}

impl Plan {
    /// How far a change of members has come.
    pub fn epoch_phase(&self) -> EpochPhase {
        match self.phase {
            Phase::EpochPrepare => EpochPhase::Preparing,
            Phase::EpochCommit => EpochPhase::Committed,
            _ => EpochPhase::Settled,
        }
    }

    /// Who owns the slots.
    pub fn owners(&self) -> Owners {
        let owners = match &self.next_members {
            Some(next) => Owners::changing(self.members.clone(), next.clone(), self.epoch_phase()),
            None => Owners::settled(self.members.clone()),
        };
        owners.without(self.lost.clone())
    }

    /// Whether it is a member, or about to be one.
    pub fn concerns(&self, member: Member) -> bool {
        !self.lost.contains(member) && self.is_listed(member)
    }

    fn is_listed(&self, member: Member) -> bool {
        self.members.contains(member) || self.next_members.as_ref().is_some_and(|next| next.contains(member))
    }

    /// Whether the backend takes no new flows.
    pub fn is_masked(&self, backend: BackendId) -> bool {
        self.masks.iter().any(|mask| mask.backend == backend && mask.in_force)
    }

    /// Number of tainted slots, all services together.
    pub fn tainted_slots(&self) -> usize {
        self.services.iter().map(|service| service.tainted.len()).sum()
    }
}
