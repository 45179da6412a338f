//! What a worker knows and does as a member of a cluster: records, questions, notes.
//!
//! In untainted slots nothing of this is used: the table's answer needs no agreement. In tainted slots the decision table is
//! in [`tainted`], word for word: who has no usable entry asks the flow's owner, by giving it the frame. The owner is
//! one core of one machine; it has the flow's record or decides, once. [`peers`] is what comes from and goes to other
//! machines, [`notes`] what is done with what is said, [`upkeep`] what is due by time: heartbeats, notes
//! not acknowledged, refreshing of records, and the jobs of a change.

mod notes;
mod peers;
mod tainted;
mod upkeep;

use crate::decide::flows::Flows;
use crate::decide::slots;
use crate::describe::general::{Packet, key_of};
use crate::io::PacketIo;
use crate::rings::Relay;
use crate::send::Egress;
use crate::token_bucket::TokenBucket;
use crate::view::cluster::Cluster;
use crate::view::{ServiceView, View};
use arrayvec::ArrayVec;
use statesync::asks::Asks;
use statesync::plan::Report;
use statesync::reassembly::Reassembly;
use statesync::records::Records;
use statesync::retransmit::Retransmitter;
use statesync::seen::Seen;
use statesync::spsc::Sender;
use statesync::suspicion::Suspicion;
use statesync::window::Windows;
use statesync::{MACHINES_MAX, MachineSet, Origin, Ports, Rule, Rules, Sequence};
use std::sync::Arc;
use upkeep::Task;
use wire::parse::TCP;
use wire::{Addr, CoreId, FlowKey, Tick, Tuple};

/// Flows that are being corrected, at most; of more the oldest is let go.
const CORRECTING_MAX: usize = 64;

/// Tags of whole datagrams that a worker computes in vain for a machine: a second, and at once. Each takes 2 us at most. What goes
/// beyond costs its datagram's number: see [`peers`].
const DOUBTS: (u64, u64) = (1_000, 100);

/// Sizes of a worker's part in a cluster, fixed at start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SyncSize {
    /// Records; about 120 bytes each.
    pub records: usize,
    /// Lasting notes that wait for their acknowledgements; about 130 bytes each.
    pub unacknowledged: usize,
    /// Flows that ask at the same time.
    pub asks: usize,
}

impl SyncSize {
    /// About how many bytes that is.
    pub const fn bytes(&self) -> u64 {
        120 * self.records as u64 + 130 * self.unacknowledged as u64 + 64 * self.asks as u64
    }
}

impl Default for SyncSize {
    fn default() -> SyncSize {
        SyncSize { records: 1 << 18, unacknowledged: 1 << 15, asks: 1 << 12 }
    }
}

/// What one worker knows as a member of a cluster.
#[derive(Debug)]
pub struct StateSync {
    core: CoreId,
    cores: u8,
    pub(crate) records: Records,
    pub(crate) unacknowledged: Retransmitter,
    asks: Asks,
    suspicion: Suspicion,
    /// Entries that the first pass of the job has told.
    seen: Seen,
    pieces: Reassembly,
    relay_tokens: Option<TokenBucket>,
    guess_tokens: Option<TokenBucket>,
    /// What was taken in already, by any worker of this machine.
    windows: Arc<Windows>,
    /// By the machine named: datagrams that had a right header and nothing right behind it.
    doubts: [TokenBucket; MACHINES_MAX],
    /// Whom not to ask, as of this turn.
    pub(crate) suspects: MachineSet,
    step: u64,
    task: Task,
    /// The next bucket of the pass that refreshes; `None` between two.
    refreshing: Option<usize>,
    refreshed: Tick,
    reader: flow::Reader,
    /// Flows whose masked backend was replaced, until all machines have acknowledged.
    correcting: ArrayVec<FlowKey, CORRECTING_MAX>,
    reports: Sender<Report>,
    rules: Rules,
}

impl StateSync {
    /// Allocates all that it will need. `seed` should be random; all workers of a machine share the `windows`; `reports` is how control hears
    /// of jobs done; `reader` reads the worker's own flow table.
    pub(crate) fn new(
        (core, cores): (CoreId, u8),
        size: SyncSize,
        seed: u64,
        windows: Arc<Windows>,
        reports: Sender<Report>,
        reader: flow::Reader,
    ) -> StateSync {
        StateSync {
            core,
            cores,
            records: Records::new(size.records, seed),
            unacknowledged: Retransmitter::new(size.unacknowledged),
            asks: Asks::new(size.asks, seed ^ 0x5bd1_e995),
            suspicion: Suspicion::default(),
            seen: Seen::new(seed ^ 0x27d4_eb2f),
            pieces: Reassembly::new(),
            relay_tokens: None,
            guess_tokens: None,
            windows,
            doubts: [TokenBucket::new(DOUBTS); MACHINES_MAX],
            suspects: MachineSet::default(),
            step: 0,
            task: Task::default(),
            refreshing: None,
            refreshed: Tick(0),
            reader,
            correcting: ArrayVec::new(),
            reports,
            rules: Rules::default(),
        }
    }

    /// The next moment at which it has something to do although nothing arrives.
    pub(crate) fn next_due(&self) -> Option<Tick> {
        if self.task.is_busy() || self.refreshing.is_some() {
            return Some(Tick(0));
        }
        let beat = (self.core == CoreId(0)).then(|| self.suspicion.next_beat());
        self.unacknowledged.next_due().into_iter().chain(beat).min()
    }

    /// The rule holds no more.
    #[cfg(feature = "negative-controls")]
    pub(crate) fn break_rule(&mut self, rule: Rule) {
        self.rules = self.rules.without(rule);
    }
}

/// What a member of a cluster works with, borrowed for one frame, one note or the turn's part: its own state, what the worker knows of flows,
/// and the ways to other workers and machines.
pub(crate) struct ClusterStage<'w, Io: PacketIo> {
    pub(crate) view: &'w View,
    /// The view's.
    pub(crate) cluster: &'w Cluster,
    pub(crate) now: Tick,
    pub(crate) sync: &'w mut StateSync,
    pub(crate) flows: &'w mut Flows,
    pub(crate) rings: &'w mut Ports<Relay<Io::Frame>>,
    pub(crate) egress: &'w mut Egress<Io>,
}

/// Where a flow stands: what decides who owns it.
#[derive(Clone, Copy, Debug)]
struct FlowPlace<'v> {
    service: &'v ServiceView,
    /// The service's index in the view.
    index: usize,
    key: FlowKey,
    is_tcp: bool,
    slot: u32,
    /// The core that owns it, on any machine that has as many.
    core: CoreId,
}

impl<'w, Io: PacketIo> ClusterStage<'w, Io> {
    fn place_of(&self, index: usize, service: &'w ServiceView, key: FlowKey, flow: &Tuple) -> FlowPlace<'w> {
        let hash = slots::hash(self.view, service, flow);
        let (slot, core) = (service.maglev.slot(hash), steer::core_of(hash, self.sync.cores));
        FlowPlace { service, index, key, is_tcp: flow.protocol == TCP, slot, core }
    }

    /// The place of a flow of which only the key is known.
    fn place_of_key(&self, key: FlowKey) -> Option<FlowPlace<'w>> {
        let index = self.view.service.iter().position(|service| service.id == key.service())?;
        let flow = flow_of(&key, self.cluster.services.get(index)?.vip);
        Some(self.place_of(index, self.view.service.get(index)?, key, &flow))
    }

    /// The place of the flow of a packet of a service.
    fn place_of_packet(&self, bytes: &[u8], packet: &Packet) -> Option<FlowPlace<'w>> {
        let (index, service) = (usize::from(packet.service?), packet.service_in(self.view)?);
        let flow = packet.flow(bytes);
        Some(self.place_of(index, service, key_of(service, &flow), &flow))
    }

    /// What names the next note of this worker.
    fn next_note(&mut self) -> (Origin, Sequence) {
        let origin = Origin { member: self.cluster.own, core: self.sync.core };
        (origin, self.sync.unacknowledged.number())
    }

    fn holds(&self, rule: Rule) -> bool {
        self.sync.rules.hold(rule)
    }
}

/// What came of a lasting note.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Delivery {
    /// All concerned have it.
    Done,
    /// The worker concerned is told.
    PassedOn,
    /// Some ring was full.
    Failed,
}

/// The flow that a key of a service (VIP, port, protocol) stands for.
#[expect(clippy::cast_possible_truncation, reason = "fields are taken out of words")]
pub fn flow_of(key: &FlowKey, (vip, port, protocol): (Addr, u16, u8)) -> Tuple {
    use Addr::{V4, V6};
    match *key {
        FlowKey::Narrow(key) => {
            Tuple { src: V4((key >> 32) as u32), dst: vip, sport: (key >> 16) as u16, dport: port, protocol }
        }
        FlowKey::Wide(key) => {
            let low = key.middle as u32;
            let (src, dst) = match vip {
                V4(_) => (V4(key.src[1] as u32), V4(low)),
                V6(vip) => (
                    V6(u128::from(key.src[0]) << 64 | u128::from(key.src[1])),
                    V6(vip >> 32 << 32 | u128::from(low)),
                ),
            };
            Tuple { src, dst, sport: (key.middle >> 48) as u16, dport: key.dport, protocol }
        }
    }
}
