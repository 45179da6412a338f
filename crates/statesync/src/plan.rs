//! What all machines agree on, in numbered steps.
//!
//! A [`Plan`] is the whole picture: members, tables, bases, taints, masks, and what is being done. The [`Leader`] makes the next one
//! when every live member has carried out the last; the store hands it on; each machine's [`Follower`] adopts the newest it is shown, has its
//! workers do the plan's [`Job`], and acknowledges the step. Because a plan is whole, who missed some (and was not waited for) or
//! comes later needs nothing else, and a leader that takes over needs only the last one.
//!
//! | phase | the members have acknowledged → the next plan |
//! |---|---|
//! | idle | what is due next: members, a change of tables, the end of taints |
//! | prepare: taint, export | commit: the new tables are in force, generation + 1 |
//! | commit | idle: backends that were removed are gone |
//! | retire: base = cur; look for what differs | idle: taints of the slots where nothing differs are cleared |
//! | epoch prepare: migrate | epoch commit: the new owners are asked, epoch + 1 |
//! | epoch commit | idle: the new owners decide |
//!
//! Beside all of them a backend may be masked: its slots are tainted and exported, and when all have acknowledged, or after
//! [`MASK_WAIT_US`](leader::MASK_WAIT_US), flows begin elsewhere. For management cores: these allocate.

mod contents;
pub mod follower;
pub mod leader;
pub mod slots;

pub use contents::{Answers, Job, Mask, Phase, Plan, ServicePlan, Tables};
pub use follower::{Acknowledgement, Follower, Report};
pub use leader::{Leader, Request};
pub use slots::{SlotSet, SlotSets};

#[cfg(test)]
mod tests;
