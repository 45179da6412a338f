//! The kernel's side of the machine kept as it is wanted: exception interfaces with their addresses and routes, VIPs on the loopback, links
//! under data ports. What is wanted is compared with what is seen, on every change that the kernel tells of and every second.
//!
//! Rule of this module: [`decide()`] says what to do, of plain data; [`keep`] looks and acts, at the edge. An action that does not help is tried
//! again later each time ([`backoff`]), what another made is never taken away, and every repair is told.

mod backoff;
pub(crate) mod decide;
pub(crate) mod keep;
pub(crate) mod kernel;
mod renewal;
pub(crate) mod seen;
pub(crate) mod ways;

pub(crate) use decide::{
    KernelAction, KernelLink, KernelState, PlacedAddress, RepairKind, WantedOfKernel, decide,
};
pub(crate) use renewal::Renewals;
pub(crate) use ways::Reconciled;

use crate::announce::Vip;
use std::collections::{BTreeMap, BTreeSet};
use wire::PortId;

/// VIPs on the loopback.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct OnLoopback {
    /// All that are announced there.
    pub(crate) there: BTreeSet<Vip>,
    /// Those that this process, or one before it, has put there: only these are ever taken away.
    pub(crate) ours: BTreeSet<Vip>,
}

/// What was last seen to differ from what is wanted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Surroundings {
    /// Data ports whose kernel interface has no link.
    pub(crate) down: BTreeSet<PortId>,
    /// Data ports whose exception interface is gone, with how often its device was made: it must be made anew.
    pub(crate) absent: BTreeMap<PortId, u64>,
    /// What is not as wanted, in words, with the data port that it belongs to; but for links of data ports.
    pub(crate) wrong: Vec<(Option<PortId>, RepairKind, String)>,
}

#[cfg(test)]
mod tests;
