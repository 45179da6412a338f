//! Links and the kernel's side of ports, as they were last seen.

use super::{OnLoopback, Renewals, WantedOfKernel};
use super::{RepairKind, Surroundings};
use crate::neighbour::next_hop;
use std::collections::BTreeMap;
use std::time::Duration;
use wire::PortId;

/// Links and the kernel's side of ports, as they were last seen.
#[derive(Debug, Default)]
pub(crate) struct Ways {
    pub(crate) seen: Surroundings,
    /// Links of data ports, as their drivers say.
    pub(crate) driver: BTreeMap<PortId, bool>,
    /// Links of data ports: what the driver says, and the kernel of the interface below it.
    pub(crate) links: BTreeMap<PortId, bool>,
    /// Exception interfaces that are, or were, not as wanted or without any link: since when, and until when.
    pub(crate) lost: BTreeMap<String, (Duration, Option<Duration>)>,
    pub(crate) repairs: BTreeMap<RepairKind, u64>,
    pub(crate) failures: BTreeMap<RepairKind, u64>,
}

/// The kernel's side of the machine: what it is to have, and what was seen of it.
#[derive(Debug, Default)]
pub(crate) struct KernelSide {
    pub(crate) wanted_neighbours: next_hop::WantedNextHops,
    pub(crate) wanted_of_kernel: WantedOfKernel,
    pub(crate) on_loopback: OnLoopback,
    /// Links, and the kernel's side of ports.
    pub(crate) ways: Ways,
    pub(crate) renewals: Renewals,
}

/// What is counted of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reconciled {
    pub(crate) kind: &'static str,
    /// Not as wanted, now.
    pub(crate) wrong: u64,
    /// Repairs since the start; `None`: the kernel does them.
    pub(crate) repairs: Option<u64>,
    /// Attempts that failed, since the start.
    pub(crate) failures: Option<u64>,
}

impl Ways {
    /// The link of a data port, as last seen.
    pub(crate) fn has_link(&self, port: PortId) -> bool {
        self.links.get(&port).copied().unwrap_or(true)
    }

    /// Why nothing, or not everything, can leave the machine, or come to its kernel.
    pub(crate) fn why_no_way(&self) -> Option<String> {
        if !self.can_send() {
            return Some("no data port has a link".to_owned());
        }
        let mut wrong = self.seen.wrong.iter().filter(|(port, _, _)| port.is_some());
        let (_, _, first) = wrong.next()?;
        let more = match wrong.count() {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        Some(format!("{first}{more}"))
    }

    /// What of a port's kernel side is not as wanted, in words.
    pub(crate) fn wrong_of(&self, port: PortId) -> Vec<String> {
        let of = self.seen.wrong.iter().filter(|(of, _, _)| *of == Some(port));
        let of = of.map(|(_, _, text)| text.clone());
        of.chain((!self.has_link(port)).then(|| "no link".to_owned())).collect()
    }

    /// Links, as drivers say.
    pub(crate) fn set_driver(&mut self, links: Vec<(PortId, bool)>) {
        self.driver = links.into_iter().collect();
    }

    /// Something may leave the machine: a data port has a link.
    pub(crate) fn can_send(&self) -> bool {
        self.links.is_empty() || self.links.values().any(|up| *up)
    }
}
