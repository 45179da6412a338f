//! What control publishes to workers: one immutable picture of services, backends, next hops and ports.
//!
//! Built by control (`control::compile`), handed over as `Arc<View>` through a mailbox, adopted between two
//! bursts; the old one goes back to control and is freed there.

pub mod cluster;
pub mod loads;
pub mod mailbox;
pub mod path_mtu;
pub mod slots;

use crate::view::cluster::Cluster;
use crate::view::loads::Loads;
use crate::view::path_mtu::{Learnt, Room, Tunnels};
use crate::view::slots::SlotMemory;
use std::sync::Arc;
use steer::{Maglev, Services};
use wire::encap::TunnelHeader;
use wire::{Addr, BackendId, PortId, ServiceId, Tick};

/// Largest number of services (ids 1 to this).
pub const SERVICES_MAX: usize = 4096;
/// Largest number of backend ids in use at once, removed ones that are not yet forgotten included.
pub const BACKENDS_MAX: usize = 65_536;
/// Largest number of workers.
pub const WORKERS_MAX: usize = 64;
/// Largest number of ports of a `PacketIo` (data and exception).
pub const PORTS_MAX: usize = 32;

/// The picture.
#[derive(Debug, Default)]
pub struct View {
    /// Counts publications; the worker reports the one it uses.
    pub generation: u64,
    /// Key of the cluster hash (slot choice), the same on every machine.
    pub cluster_key: [u8; 16],
    /// Which service a packet belongs to; gives an index into `service`.
    pub services: Services,
    /// The services, in the order of `Services`' indices.
    pub service: Vec<ServiceView>,
    /// Backends by id; `None` for ids not in use.
    pub backends: Vec<Option<BackendView>>,
    /// Ports by [`PortId`].
    pub ports: Vec<PortView>,
    /// Idle times.
    pub timeouts: Timeouts,
    /// Health probes that travel in the traffic's own encapsulation (`route = "tunnel"`): a frame from the kernel with
    /// this (source address, source port, destination VIP) goes to that backend. Few; searched linearly.
    pub probes: Vec<TunnelProbe>,
    /// The cluster this machine is in; `None` for a machine alone.
    pub cluster: Option<Arc<Cluster>>,
    /// What packets to ports of a VIP get that no service has.
    pub on_closed_port: OnClosedPort,
    /// Neighbours that the machine speaks BGP or BFD with, whose sessions have a budget of their own. Few; searched linearly.
    pub routing_peers: Vec<Addr>,
    /// Health checks that the machine makes a second: their answers are the kernel's.
    pub checks_per_second: u64,
    /// How busy backends are, for services with policy least-load; changes while the view is in use.
    pub loads: Arc<Loads>,
    /// Backends by the destination of their tunnels.
    pub tunnels: Tunnels,
}

impl View {
    /// The backend, if its id is in use.
    #[inline(always)]
    pub fn backend(&self, id: BackendId) -> Option<&BackendView> {
        self.backends.get(id.index())?.as_ref()
    }

    /// A backend by its id, if it is one of this service.
    #[inline(always)]
    pub fn backend_of(&self, service: ServiceId, id: BackendId) -> Option<&BackendView> {
        self.backend(id).filter(|backend| backend.service == service)
    }
}

/// What holds for a whole turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment<'v> {
    pub(crate) view: &'v View,
    pub(crate) now: Tick,
}

/// A service as the data path sees it. One cache line, which is a power of two for those who index them.
#[derive(Debug)]
#[repr(align(64))]
pub struct ServiceView {
    /// Its id, part of the flow key.
    pub id: ServiceId,
    /// Whether flows need the wide key (IPv6, any port, prefix).
    pub wide: bool,
    /// What the slot is computed from.
    pub hash: HashOn,
    /// The slot table; its values index `members`.
    pub maglev: Arc<Maglev>,
    /// Backends in the table's numbering.
    pub members: Vec<BackendId>,
    /// What happens when no backend is usable.
    pub on_empty: OnEmpty,
    /// What happens to established flows of a backend that is down.
    pub on_down: OnDown,
    /// What is remembered of slots instead of flows; TCP services only. `None`: every flow is tracked.
    pub memory: Option<Arc<SlotMemory>>,
    /// Who gets a new flow.
    pub policy: Policy,
}

impl ServiceView {
    /// Whether TCP packets of this slot go to the table's answer without a look into the flow table.
    #[inline]
    pub fn is_stateless(&self, slot: u32) -> bool {
        self.memory.as_ref().is_some_and(|memory| !memory.is_tainted(slot))
    }

    /// What is particular to policy least-load; `None` for other policies.
    #[inline]
    pub fn least_load(&self) -> Option<&LeastLoad> {
        match &self.policy {
            Policy::Maglev => None,
            Policy::LeastLoad(policy) => Some(policy),
        }
    }
}

/// Who gets a new flow.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Policy {
    /// The backend of its slot.
    #[default]
    Maglev,
    /// The least loaded backend. Whatever of a flow shows neither its beginning nor an entry goes by its slot all the same: two
    /// packets of it, wherever they come, must go to one backend.
    LeastLoad(Box<LeastLoad>),
}

const _: () = assert!(size_of::<ServiceView>() == 64);

/// Policy least-load.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeastLoad {
    /// How it is found.
    pub select: Select,
    /// What becomes of new flows when all backends are full.
    pub overload: Overload,
    /// By member, [what a flow adds](crate::decide::least_load::share) to its load.
    pub shares: Vec<u64>,
}

/// How the least loaded backend is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Select {
    /// The least loaded of all.
    #[default]
    Min,
    /// The less loaded of two at random (Mitzenmacher, "The power of two choices in randomized load balancing", 1996).
    TwoChoices,
}

/// What becomes of new flows when the load of every backend is 1 or more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Overload {
    /// They are placed nevertheless.
    #[default]
    Spread,
    /// They are answered as [`OnEmpty`] says.
    Reject,
}

/// What the slot is computed from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HashOn {
    /// Source, destination, both ports, protocol.
    #[default]
    Tuple,
    /// Source address only: all flows of a client meet one backend.
    Source,
}

/// What a service without a usable backend does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnEmpty {
    /// TCP reset, or ICMP port unreachable.
    #[default]
    Reset,
    /// Silence.
    Drop,
}

/// What packets to ports of a VIP get that no service has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnClosedPort {
    /// TCP reset, or ICMP port unreachable.
    #[default]
    Reset,
    /// Silence.
    Drop,
}

/// What happens to established flows of a backend that is down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnDown {
    /// They stay.
    #[default]
    Keep,
    /// Their next packet is steered anew.
    Reselect,
}

/// Whether a backend takes flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackendState {
    /// New and old flows.
    Up,
    /// Old flows only; also a removed backend whose flows live on.
    Draining,
    /// No new flows; old ones as the service's `on_down` says.
    Down,
}

/// A backend as the data path sees it. Two cache lines, of which a packet needs the first alone where the outer header is
/// ipip or gre over IPv4: whether there is a backend (the niche of an `Option` of it) is in the first line, too.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct BackendView {
    /// Its id.
    pub id: BackendId,
    /// Its service.
    pub service: ServiceId,
    /// Largest inner IP datagram, bytes: path MTU as configured minus overhead.
    pub inner_mtu: u16,
    /// Largest datagram of a known flow that goes to it without another question.
    pub room: Room,
    /// Port it is reached through.
    pub port: PortId,
    /// Whether it takes flows.
    pub state: BackendState,
    /// Link-layer next hop; `None` while unresolved.
    pub next_hop: Option<[u8; 6]>,
    /// Outer Ethernet (from the port to the next hop) and tunnel header, ready but for lengths, DSCP, ECN and entropy.
    pub header: TunnelHeader,
    /// What routers on the way have said.
    pub learnt: Learnt,
}

const _: () =
    assert!(size_of::<Option<BackendView>>() == 128 && core::mem::offset_of!(BackendView, header) <= 20);

/// A port as the data path sees it.
#[derive(Clone, Copy, Debug)]
pub struct PortView {
    /// Its MAC: source of every frame sent on it.
    pub mac: [u8; 6],
    /// Largest IP datagram sent on it, bytes.
    pub mtu: u16,
    /// What it is.
    pub role: PortRole,
}

impl PortView {
    /// The only address whose frames this port serves; `None` in a replay: a capture may have been taken anywhere.
    pub fn own_mac(&self) -> Option<[u8; 6]> {
        match self.role {
            PortRole::Data { punt_to_nowhere: true, .. } => None,
            _ => Some(self.mac),
        }
    }
}

/// What a port is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortRole {
    /// Carries traffic; frames for the kernel go to the exception port, if there is one.
    Data {
        /// Its exception port.
        exception: Option<PortId>,
        /// Punted frames are counted as punted and freed although there is no exception port (replay).
        punt_to_nowhere: bool,
    },
    /// The kernel's side of a data port.
    Exception {
        /// Its data port.
        data: PortId,
    },
    /// Nothing for now: an exception port whose device is being made anew.
    Absent,
}

/// Idle times, microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// TCP flows of which more than one packet was seen and no RST.
    pub tcp_established_us: u64,
    /// TCP flows after RST.
    pub tcp_closing_us: u64,
    /// TCP flows of which one packet was seen.
    pub syn_us: u64,
    /// UDP flows.
    pub udp_us: u64,
    /// Fragments.
    pub fragment_us: u64,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            tcp_established_us: 1_800_000_000,
            tcp_closing_us: 30_000_000,
            syn_us: 30_000_000,
            udp_us: 60_000_000,
            fragment_us: 1_000_000,
        }
    }
}

/// A probe flow through a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct TunnelProbe {
    /// Source address of the probing socket.
    pub source: Addr,
    /// Its port.
    pub source_port: u16,
    /// The VIP probed.
    pub vip: Addr,
    /// The backend the probe must reach.
    pub backend: BackendId,
}
