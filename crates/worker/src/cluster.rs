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

use crate::Worker;
use crate::io::PacketIo;
use crate::token_bucket::TokenBucket;
use crate::view::cluster::Cluster;
use crate::view::{HashOn, ServiceView, View};
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
use statesync::{
    Answer, Lasting, MACHINES_MAX, MachineId, MachineSet, Member, Note, Origin, Rule, Rules, Sequence,
};
use std::sync::Arc;
use upkeep::{Pass, Task};
use wire::{Addr, BackendId, CoreId, FlowKey, ServiceId, Tick, Tuple};

/// Notes that wait to be written into datagrams, at most.
const NOTES_MAX: usize = 256;

/// Notes of jobs and refreshes wait for others to the same machine: so many, or so many microseconds. Well below the first wait for an
/// acknowledgement.
const COMPANY: usize = NOTES_MAX / 2;
const COMPANY_US: u64 = 500;

/// Flows that are being corrected, at most; of more the oldest is let go.
const CORRECTING_MAX: usize = 64;

/// Tags of whole datagrams that a worker computes in vain for a machine: a second, and at once. Each takes 2 us at most. What goes
/// beyond costs its datagram's number: see [`peers`].
const DOUBTS: (u64, u64) = (1_000, 100);

/// Refused flows that are told to those who watch.
const REFUSED_MAX: usize = 16;

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

/// What one worker tells another, beside frames.
#[derive(Clone, Copy, Debug)]
pub enum CoreNote {
    /// A lasting note for the receiver; `Some` where it wants an acknowledgement from it.
    Lasting(Origin, Sequence, Lasting),
    /// A push that is acknowledged by the worker that received it.
    Push(FlowKey, BackendId),
    /// An acknowledgement of a note of the receiver's.
    Acknowledge(Member, Sequence),
    /// An answer to a question of the receiver's.
    Answer(Answer),
    /// Another machine lives.
    Heard(Member),
}

/// State of one worker.
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
    /// To be written into datagrams at the next flush.
    notes: ArrayVec<(MachineId, Note), NOTES_MAX>,
    /// Some of them must leave before the turn's frames; the others wait for company, until then.
    is_urgent: bool,
    company_until: Option<Tick>,
    /// What was taken in already, by any worker of this machine.
    windows: Arc<Windows>,
    /// By the machine named: datagrams that had a right header and nothing right behind it.
    doubts: [TokenBucket; MACHINES_MAX],
    /// The time of this turn, or of the last one while nothing was to be said in this.
    clock: Tick,
    /// Of the datagram and of the relayed frame last sent.
    number: u64,
    frame: u32,
    /// Whom not to ask, as of this turn.
    suspects: MachineSet,
    step: u64,
    task: Task,
    refreshing: Pass,
    refreshed: Tick,
    /// When a record or entry was last refused for want of room.
    refused: Option<Tick>,
    /// Flows that were refused last, the newest at the end.
    refused_flows: ArrayVec<FlowKey, REFUSED_MAX>,
    reader: flow::Reader,
    /// Flows whose masked backend was replaced, until all machines have acknowledged.
    correcting: ArrayVec<FlowKey, CORRECTING_MAX>,
    reports: Sender<Report>,
    rules: Rules,
    /// With [`Rule::RecordFirst`] broken: every other turn the notes may leave.
    #[cfg(feature = "negative-controls")]
    is_late: bool,
}

impl StateSync {
    /// Whether notes are to be written now.
    #[inline]
    pub(crate) fn has_notes(&self) -> bool {
        #[cfg(feature = "negative-controls")]
        if !self.rules.hold(Rule::RecordFirst) && !self.is_late {
            return false;
        }
        self.is_urgent
    }

    /// From now on the notes that wait are to be written.
    fn hurry(&mut self) {
        self.is_urgent = true;
    }

    /// Notes wait for company.
    fn linger(&mut self, now: Tick) {
        if self.notes.len() >= COMPANY {
            self.hurry();
        } else if self.company_until.is_none() {
            self.company_until = Some(Tick(now.0 + COMPANY_US));
        }
    }

    /// Notes that waited for company have waited for long enough.
    fn end_waiting(&mut self, now: Tick) {
        if self.company_until.is_some_and(|until| until <= now) {
            self.hurry();
        }
    }

    /// An entry or a record of the flow found no room: the tables of flows are not complete any more.
    pub(crate) fn refuse(&mut self, key: FlowKey, now: Tick) {
        self.refused = Some(now);
        if self.refused_flows.is_full() {
            self.refused_flows.pop_at(0);
        }
        let _ = self.refused_flows.try_push(key);
    }

    fn origin(&self, cluster: &Cluster) -> Origin {
        Origin { member: cluster.own, core: self.core }
    }
}

impl<Io: PacketIo> Worker<Io> {
    /// Makes the worker able to be a member of a cluster. Once, before its first turn; allocates all that it will need.
    /// `seed` should be random; all workers of a machine share the `windows`; `reports` is how control hears of jobs done.
    pub fn attach_sync(&mut self, size: SyncSize, seed: u64, windows: Arc<Windows>, reports: Sender<Report>) {
        self.sync = Some(Box::new(StateSync {
            core: self.core,
            cores: u8::try_from(self.peers.len()).unwrap_or(u8::MAX).max(1),
            records: Records::new(size.records, seed),
            unacknowledged: Retransmitter::new(size.unacknowledged),
            asks: Asks::new(size.asks, seed ^ 0x5bd1_e995),
            suspicion: Suspicion::default(),
            seen: Seen::new(seed ^ 0x27d4_eb2f),
            pieces: Reassembly::new(),
            relay_tokens: None,
            guess_tokens: None,
            notes: ArrayVec::new(),
            is_urgent: false,
            company_until: None,
            windows,
            doubts: [TokenBucket::new(DOUBTS.0, DOUBTS.1); MACHINES_MAX],
            clock: Tick(0),
            number: 0,
            frame: 0,
            suspects: MachineSet::default(),
            step: 0,
            task: Task::default(),
            refreshing: Pass::default(),
            refreshed: Tick(0),
            refused: None,
            refused_flows: ArrayVec::new(),
            reader: self.flows.reader(),
            correcting: ArrayVec::new(),
            reports,
            rules: Rules::default(),
            #[cfg(feature = "negative-controls")]
            is_late: false,
        }));
    }

    /// The rule holds no more.
    #[cfg(feature = "negative-controls")]
    pub fn break_rule(&mut self, rule: Rule) {
        if let Some(sync) = self.sync.as_mut() {
            sync.rules = sync.rules.without(rule);
        }
    }

    #[inline]
    fn rule(&self, rule: Rule) -> bool {
        self.sync.as_ref().is_none_or(|sync| sync.rules.hold(rule))
    }

    /// The next moment at which [`turn`](Worker::turn) has something to do although nothing arrives; for those who sleep.
    pub fn next_due(&self) -> Option<Tick> {
        let fragments = self.fragments.next_due();
        let Some(sync) = self.sync.as_ref() else { return fragments };
        if sync.task.is_busy() || sync.refreshing.is_busy() {
            return Some(Tick(0));
        }
        let beat = (sync.core == CoreId(0)).then(|| sync.suspicion.next_beat());
        let notes = sync.unacknowledged.next_due();
        fragments.into_iter().chain(notes).chain(beat).chain(sync.company_until).min()
    }

    /// Frames and notes that other workers have put into the rings to this one.
    pub fn waiting(&self) -> usize {
        self.rings.waiting()
    }

    /// Workers that have not taken yet all that this one has put into the rings to them.
    pub fn unread(&self) -> impl Iterator<Item = CoreId> {
        self.rings.unread()
    }

    /// The lasting notes that wait, with their receivers. For tests and for those who watch.
    pub fn unacknowledged(&self) -> impl Iterator<Item = (Member, &Lasting)> {
        self.sync.iter().flat_map(|sync| sync.unacknowledged.waiting())
    }

    /// Whom the worker does not ask, as of its last turn.
    pub fn suspects(&self) -> MachineSet {
        self.sync.as_ref().map_or(MachineSet::default(), |sync| sync.suspects)
    }

    /// The last flows that found no room. For tests and for those who watch.
    pub fn refused_flows(&self) -> impl Iterator<Item = &FlowKey> {
        self.sync.iter().flat_map(|sync| &sync.refused_flows)
    }

    /// The flow's entry and the flow's record here, with whether it is a guess. For tests and for those who watch.
    pub fn knowledge(&self, key: &FlowKey, now: Tick) -> (Option<BackendId>, Option<(BackendId, bool)>) {
        let record = self.sync.as_ref().and_then(|sync| sync.records.get(key, now));
        (self.flows.get(key, now).map(|hit| hit.backend), record.map(|record| (record.backend, record.guess)))
    }
}

/// Whether the service has the backend, masked or not.
fn is_usable(view: &View, service: ServiceId, backend: BackendId) -> bool {
    let known = view.backends.get(backend.index()).and_then(Option::as_ref);
    known.is_some_and(|of| of.service == service)
}

/// Where a flow stands: what decides who owns it.
#[derive(Clone, Copy, Debug)]
struct FlowPlace {
    /// The service's index in the view.
    service: usize,
    key: FlowKey,
    slot: u32,
    /// The core that owns it, on any machine that has as many.
    core: CoreId,
}

fn place_of(
    view: &View,
    index: usize,
    service: &ServiceView,
    key: FlowKey,
    flow: &Tuple,
    cores: u8,
) -> FlowPlace {
    let hash = match service.hash {
        HashOn::Tuple => steer::hash::tuple(&view.cluster_key, flow),
        HashOn::Source => steer::hash::source(&view.cluster_key, flow.src),
    };
    FlowPlace { service: index, key, slot: service.maglev.slot(hash), core: steer::core_of(hash, cores) }
}

/// The same, of a flow of which only the key is known.
fn place_of_key<'a>(
    view: &'a View,
    cluster: &Cluster,
    key: FlowKey,
    cores: u8,
) -> Option<(FlowPlace, &'a ServiceView)> {
    let id = key.service();
    let index = view.service.iter().position(|service| service.id == id)?;
    let service = view.service.get(index)?;
    let vip = cluster.services.get(index)?.vip;
    Some((place_of(view, index, service, key, &flow_of(&key, vip), cores), service))
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
