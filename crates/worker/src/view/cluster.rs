//! What a view says of the cluster: members, owners, how to reach them, tainted slots, and what is to be done for the
//! plan's step.
//!
//! Made by control from a [`Plan`](statesync::plan::Plan). Workers read it; what they know themselves is in their
//! [`cluster`](crate::cluster).

use crate::view::slots::SlotMemory;
use statesync::datagram::ClusterKeys;
use statesync::plan::Job;
use statesync::{MachineId, Member, Owners};
use std::sync::Arc;
use wire::{Addr, PortId};

/// The cluster as the data path sees it.
#[derive(Debug)]
pub struct Cluster {
    /// This machine, since its last start.
    pub own: Member,
    /// Its join has committed: it may take traffic and answer. Before, it drops.
    pub ready: bool,
    /// The plan's step.
    pub step: u64,
    /// The plan's epoch.
    pub epoch: u32,
    /// The plan's generation.
    pub generation: u64,
    /// Who answers for a slot.
    pub owners: Owners,
    /// Where this machine takes messages.
    pub endpoint: Endpoint,
    /// Where the others take theirs, by machine.
    pub links: Vec<Option<Link>>,
    /// Keys of the tags.
    pub keys: ClusterKeys,
    /// The longest idle time of flows, microseconds.
    pub max_idle_us: u64,
    /// Frames relayed to other machines, and records of flows that nobody saw begin: a second, and at once; shared out evenly among
    /// the workers.
    pub relays: (u64, u64),
    /// In the order of the view's services.
    pub services: Vec<SlotsView>,
    /// What is to be done before the step is acknowledged.
    pub job: Arc<Job>,
}

impl Cluster {
    /// How to reach a machine.
    pub fn link(&self, machine: MachineId) -> Option<&Link> {
        self.links.get(machine.index())?.as_ref()
    }

    /// Whether a flow of this slot of the service at `index` has an owner to ask.
    #[inline]
    pub fn is_tainted(&self, index: usize, slot: u32) -> bool {
        self.services.get(index).is_some_and(|of| of.is_tainted(slot))
    }
}

/// Where messages are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Address; no VIP.
    pub address: Addr,
    /// UDP port.
    pub udp_port: u16,
    /// The data port they leave by.
    pub port: PortId,
}

/// How another machine is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// Its address, of the family of the endpoint's.
    pub address: Addr,
    /// Link-layer next hop.
    pub mac: [u8; 6],
}

/// A service's slots.
#[derive(Clone, Debug)]
pub struct SlotsView {
    /// Address, port and protocol of the service; where these are many, the key says which.
    pub vip: (Addr, u16, u8),
    /// Tainted slots and their bases.
    pub taints: Arc<SlotMemory>,
    /// Every flow has a record, whatever its slot: the slot does not say where it is, because load decides. Such a service counts as
    /// tainted in every slot and for ever; `taints` still tells where flows are that found no room, and these alone are
    /// to end.
    pub always: bool,
}

impl SlotsView {
    /// Whether a flow of this slot has an owner to ask.
    #[inline]
    pub fn is_tainted(&self, slot: u32) -> bool {
        self.always || self.taints.is_tainted(slot)
    }

    /// Whether there is any such slot.
    #[inline]
    pub fn is_any_tainted(&self) -> bool {
        self.always || self.taints.is_any_tainted()
    }
}
