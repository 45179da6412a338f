//! What control asks of a worker about single flows, and what the worker answers: plain data, by a queue each way.
//!
//! Rule of this module: a turn does at most [`WORK_A_TURN`], and takes a command only when there is room for its answer. So nothing waits,
//! no answer is lost, nothing is allocated. A command that is met after the moment until which control waits for it is refused: who was told
//! that a worker did not answer may rely on that nothing is changed afterwards.
//!
//! ```text
//! control                                              worker
//! Commander::send ────── requests ──────▶ CommandQueue::take      (at the start of a turn)
//! Commander::collect ◀── answers ──────── CommandQueue::answer    (in the order of the requests)
//! ```
//!
//! **Counters.** A flow that is forgotten has left its backend ([`Totals::flow_forgotten`](crate::counters::Totals)). A flow that is restored
//! has come to it, in the gauges of live flows; it was counted as a new one (`flow_inserts`, `flows_new`, `met`) when it began, so it is not
//! again, but in [`Totals::flow_restored`](crate::counters::Totals).

use crate::capture::Tap;
use crate::cluster::StateSync;
use crate::decide::flows::Flows;
use crate::decide::slots::{base_in_force, base_of, place_in, slot};
use crate::describe::general::key_of;
use crate::view::{ServiceView, View};
use arrayvec::ArrayVec;
use core::mem::{self, replace};
use flow::{Hit, Insert, State};
use statesync::spsc::{Receiver, Sender, channel};
use steer::Match;
use wire::parse::TCP;
use wire::{Addr, BackendId, FlowKey, ServiceId, Tick, Tuple};

/// Commands that a turn takes at most; fewer of those that look at several lines of memory ([`FlowCommand::work`]).
pub const WORK_A_TURN: usize = 64;
/// Buckets that one command dumps; each is a line of memory.
pub const DUMP_BUCKETS: usize = 4;
/// Entries of these, at most.
pub const DUMPED_MAX: usize = 20;

/// A flow of a service, as its packets name it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ServiceFlow {
    /// The service that its packets are taken to be of.
    pub service: ServiceId,
    /// From the client to the VIP.
    pub flow: Tuple,
}

/// What an entry of the flow table says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TrackedFlow {
    /// The flow's backend.
    pub backend: BackendId,
    /// Its state.
    pub state: State,
    /// Time since its last packet at least, microseconds, to the table's accuracy.
    pub idle_us: u64,
}

impl TrackedFlow {
    const fn of(hit: &Hit) -> TrackedFlow {
        TrackedFlow { backend: hit.backend, state: hit.state, idle_us: hit.idle_us }
    }
}

/// An entry of the flow table, with its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DumpedFlow {
    /// The key.
    pub key: FlowKey,
    /// The rest.
    pub entry: TrackedFlow,
}

/// What control asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowCommand {
    /// What is known of the flow.
    Describe(ServiceFlow),
    /// Its entry is to go. What a cluster's owner remembers of it stays.
    Forget(ServiceFlow),
    /// The live entries of [`DUMP_BUCKETS`] buckets. One that moves between two commands can be shown twice, or not at all.
    Dump {
        /// The first bucket; they count from 0, narrow ones first.
        from_bucket: usize,
    },
    /// It is to have this entry, as if its last packet had come so long ago.
    Restore(ServiceFlow, TrackedFlow),
}

impl FlowCommand {
    /// What it costs of [`WORK_A_TURN`], of so many workers.
    const fn work(&self, workers: usize) -> usize {
        match self {
            FlowCommand::Describe(_) | FlowCommand::Forget(_) => 1,
            FlowCommand::Dump { .. } => DUMP_BUCKETS,
            // Each is asked.
            FlowCommand::Restore(..) => workers,
        }
    }
}

/// What a worker knows of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowDescription {
    /// Its entry, unless it has none or is expired.
    pub entry: Option<TrackedFlow>,
    /// Its slot.
    pub slot: u32,
    /// To whom the slot gives new flows.
    pub slot_backend: Option<BackendId>,
    /// Whether its packets are looked up in the flow table; else its slot decides alone.
    pub is_tracked: bool,
    /// Whether its slot is tainted; in a cluster with services that go by load, every slot is.
    pub is_tainted: bool,
    /// Where flows of its slot without an entry belong, if that is in force.
    pub base: Option<BackendId>,
    /// What the worker knows as an owner in its cluster.
    pub record: Option<OwnedFlow>,
}

/// An owner's record of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnedFlow {
    /// The flow's backend.
    pub backend: BackendId,
    /// Nobody saw the flow begin.
    pub is_guess: bool,
    /// Time since it was last used, microseconds.
    pub idle_us: u64,
}

/// Why a command was not carried out. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommandRefusal {
    /// It was met later than anybody waits for it.
    TooLate,
    /// Packets like the flow's are not of this service.
    NotOfService,
    /// The service has no such backend.
    NoBackend,
    /// The state is one of another protocol.
    StateOfOtherProtocol,
    /// Packets of the flow's slot are not looked up: the slot decides.
    NotTracked,
    /// The flow's slot says where it belongs, and that is not this backend.
    SlotDecides,
    /// The flow's owner in the cluster says where it belongs.
    OwnerDecides,
    /// It was idle for longer than its state may be.
    Expired,
    /// The flow has an entry, here or with another worker, which is newer.
    Present,
    /// No room for it.
    NoRoom,
}

impl CommandRefusal {
    /// In words, without a full stop.
    pub const fn text(self) -> &'static str {
        match self {
            CommandRefusal::TooLate => "it came too late",
            CommandRefusal::NotOfService => "packets to this address and port are not of this service",
            CommandRefusal::NoBackend => "the service has no such backend",
            CommandRefusal::StateOfOtherProtocol => "a flow of this protocol has no such state",
            CommandRefusal::NotTracked => {
                "its slot is not tainted and decides alone: the flow needs no entry"
            }
            CommandRefusal::SlotDecides => "its slot belongs to another backend",
            CommandRefusal::OwnerDecides => "its slot is tainted: the flow's owner in the cluster decides",
            CommandRefusal::Expired => "it was idle for longer than its state may be",
            CommandRefusal::Present => "the flow has an entry already, which is newer",
            CommandRefusal::NoRoom => "the flow table has no room for it",
        }
    }
}

/// The live entries of some buckets.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DumpedFlows {
    /// The entries.
    pub flows: ArrayVec<DumpedFlow, DUMPED_MAX>,
    /// The bucket after these; `None` at the table's end.
    pub next_bucket: Option<usize>,
}

/// What came of a command.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(clippy::large_enum_variant, reason = "it lies in a queue whose memory is taken at the start")]
pub enum CommandOutcome {
    /// To [`FlowCommand::Describe`].
    Described(FlowDescription),
    /// To [`FlowCommand::Forget`]: the entry that is gone; `None` where there was none.
    Forgotten(Option<TrackedFlow>),
    /// To [`FlowCommand::Dump`].
    Dumped(DumpedFlows),
    /// To [`FlowCommand::Restore`]: the flow has the entry.
    Restored,
    /// To [`Command::Capture`].
    Tapped,
    /// It was not carried out.
    Refused(CommandRefusal),
}

/// What control wants of a worker.
#[derive(Debug)]
pub enum Command {
    /// To be told, or to change, something about flows.
    Flow(FlowCommand),
    /// To copy frames for this tap from now on; `None`: no more. Always carried out.
    Capture(Option<Box<Tap>>),
}

impl From<FlowCommand> for Command {
    fn from(command: FlowCommand) -> Command {
        Command::Flow(command)
    }
}

/// A command on its way.
#[derive(Debug)]
pub struct CommandRequest {
    /// Counts the commands to this worker.
    pub number: u64,
    /// Later it is not carried out.
    pub until: Tick,
    /// What is asked.
    pub command: Command,
}

/// An answer on its way.
#[derive(Debug)]
pub struct CommandAnswer {
    /// Of its command.
    pub number: u64,
    /// What came of it.
    pub outcome: CommandOutcome,
    /// The tap that was there before; control frees it.
    pub former: Option<Box<Tap>>,
}

/// The worker has not taken enough yet of what was sent before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommandsFull;

/// Control's end.
#[derive(Debug)]
pub struct Commander {
    requests: Sender<CommandRequest>,
    answers: Receiver<CommandAnswer>,
    last: u64,
}

/// The worker's end.
#[derive(Debug)]
pub struct CommandQueue {
    requests: Receiver<CommandRequest>,
    answers: Sender<CommandAnswer>,
}

/// Queues on which `depth` commands (at least one), and as many answers, may wait: about 1.2 KiB for each.
pub fn command_queue(depth: usize) -> (Commander, CommandQueue) {
    let (to_worker, requests) = channel(depth);
    let (to_control, answers) = channel(depth);
    (Commander { requests: to_worker, answers, last: 0 }, CommandQueue { requests, answers: to_control })
}

impl Commander {
    /// Sends a command that is to be carried out by `until`, and gives its number.
    ///
    /// # Errors
    /// [`CommandsFull`]: nothing was sent.
    pub fn send(&mut self, command: impl Into<Command>, until: Tick) -> Result<u64, CommandsFull> {
        let number = self.last.wrapping_add(1);
        let request = CommandRequest { number, until, command: command.into() };
        self.requests.push(request).map_err(|_| CommandsFull)?;
        self.last = number;
        Ok(number)
    }

    /// Commands for which there is room now; never fewer a moment later.
    pub fn room(&self) -> usize {
        self.requests.room()
    }

    /// The next answer, in the order in which commands were sent.
    pub fn collect(&mut self) -> Option<CommandAnswer> {
        self.answers.pop()
    }
}

impl CommandQueue {
    /// Whether no command waits. One load.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.requests.waiting() == 0
    }

    /// The next command, if there is room for its answer, which has to be given before the next one is taken.
    pub fn take(&mut self) -> Option<CommandRequest> {
        if self.answers.room() == 0 {
            return None;
        }
        self.requests.pop()
    }

    /// Answers the command that was taken last.
    pub fn answer(&mut self, number: u64, outcome: CommandOutcome) {
        self.answer_with(number, outcome, None);
    }

    /// Answers a command, and sends a tap home with the answer.
    pub fn answer_with(&mut self, number: u64, outcome: CommandOutcome, former: Option<Box<Tap>>) {
        if let Err(answer) = self.answers.push(CommandAnswer { number, outcome, former }) {
            debug_assert!(false, "there was room when the command was taken");
            // Freeing a tap is control's.
            mem::forget(answer);
        }
    }
}

/// The stage of a turn: carries out what waits, as far as a turn may.
#[inline]
pub(crate) fn heed(
    queue: &mut CommandQueue,
    view: &View,
    flows: &mut Flows,
    sync: Option<&StateSync>,
    tap: &mut Option<Box<Tap>>,
    now: Tick,
) {
    if !queue.is_empty() {
        heed_waiting(queue, view, flows, sync, tap, now);
    }
}

#[cold]
#[inline(never)]
fn heed_waiting(
    queue: &mut CommandQueue,
    view: &View,
    flows: &mut Flows,
    sync: Option<&StateSync>,
    tap: &mut Option<Box<Tap>>,
    now: Tick,
) {
    let mut work = 0;
    while work < WORK_A_TURN {
        let Some(CommandRequest { number, until, command }) = queue.take() else { return };
        let command = match command {
            Command::Flow(command) => command,
            Command::Capture(new) => {
                work += 1;
                queue.answer_with(number, CommandOutcome::Tapped, replace(tap, new));
                continue;
            }
        };
        work += command.work(flows.peers.len()).max(1);
        let outcome = if now > until {
            CommandOutcome::Refused(CommandRefusal::TooLate)
        } else {
            let done = match command {
                FlowCommand::Describe(of) => describe(view, flows, sync, &of, now),
                FlowCommand::Forget(of) => forget(view, flows, &of, now),
                FlowCommand::Dump { from_bucket } => Ok(dump(flows, from_bucket, now)),
                FlowCommand::Restore(of, entry) => restore(view, flows, &of, entry, now),
            };
            done.unwrap_or_else(CommandOutcome::Refused)
        };
        queue.answer(number, outcome);
    }
}

/// The flow's service, and its index: found as for a packet of the flow. O(1).
fn service_of<'v>(view: &'v View, of: &ServiceFlow) -> Result<(usize, &'v ServiceView), CommandRefusal> {
    let flow = &of.flow;
    let one_family = matches!((flow.src, flow.dst), (Addr::V4(_), Addr::V4(_)) | (Addr::V6(_), Addr::V6(_)));
    let found = match view.services.find(flow.dst, flow.dport, flow.protocol) {
        Match::Service(index) if one_family => usize::from(index),
        _ => return Err(CommandRefusal::NotOfService),
    };
    let service = view.service.get(found).filter(|service| service.id == of.service);
    service.map(|service| (found, service)).ok_or(CommandRefusal::NotOfService)
}

fn describe(
    view: &View,
    flows: &Flows,
    sync: Option<&StateSync>,
    of: &ServiceFlow,
    now: Tick,
) -> Result<CommandOutcome, CommandRefusal> {
    let (index, service) = service_of(view, of)?;
    let key = key_of(service, &of.flow);
    let slot = slot(view, service, &of.flow);
    let is_tracked = of.flow.protocol != TCP || !service.is_stateless(slot);
    let of_cluster = view.cluster.as_ref().and_then(|cluster| cluster.services.get(index));
    let (is_tainted, base) = match of_cluster {
        Some(slots) => (slots.is_tainted(slot), base_of(view, service, &slots.taints, slot)),
        None if of.flow.protocol == TCP => {
            let is_tainted = service.memory.as_ref().is_some_and(|memory| memory.is_tainted(slot));
            (is_tainted, base_in_force(view, service, slot))
        }
        None => (false, None),
    };
    let record = sync.and_then(|sync| sync.records.get(&key, now));
    Ok(CommandOutcome::Described(FlowDescription {
        entry: flows.table.get(&key, now).as_ref().map(TrackedFlow::of),
        slot,
        slot_backend: place_in(view, service, slot),
        is_tracked,
        is_tainted,
        base,
        record: record.map(|record| OwnedFlow {
            backend: record.backend,
            is_guess: record.guess,
            idle_us: now.since_us(record.used),
        }),
    }))
}

fn forget(
    view: &View,
    flows: &mut Flows,
    of: &ServiceFlow,
    now: Tick,
) -> Result<CommandOutcome, CommandRefusal> {
    let (_, service) = service_of(view, of)?;
    let key = key_of(service, &of.flow);
    let live = flows.table.get(&key, now);
    if let Some(gone) = flows.table.remove(&key) {
        flows.counters.flow_left(gone.backend, gone.state);
        let totals = &flows.counters.totals;
        // One that was expired has ended by itself; the sweep had not come there yet.
        if live.is_some() { totals.flow_forgotten.add(1) } else { totals.flow_expired.add(1) }
    }
    Ok(CommandOutcome::Forgotten(live.as_ref().map(TrackedFlow::of)))
}

fn dump(flows: &Flows, from_bucket: usize, now: Tick) -> CommandOutcome {
    let mut dumped = DumpedFlows::default();
    let Some(own) = flows.peers.get(usize::from(flows.core.0)) else {
        debug_assert!(false, "its own reader is among them");
        return CommandOutcome::Dumped(dumped);
    };
    own.dump(from_bucket, DUMP_BUCKETS, now, |key, hit| {
        let is_shown = dumped.flows.try_push(DumpedFlow { key, entry: TrackedFlow::of(&hit) }).is_ok();
        debug_assert!(is_shown, "buckets have five entries at most");
    });
    let next = from_bucket.saturating_add(DUMP_BUCKETS);
    dumped.next_bucket = (next < own.buckets()).then_some(next);
    CommandOutcome::Dumped(dumped)
}

fn restore(
    view: &View,
    flows: &mut Flows,
    of: &ServiceFlow,
    entry: TrackedFlow,
    now: Tick,
) -> Result<CommandOutcome, CommandRefusal> {
    let (index, service) = service_of(view, of)?;
    judge(view, (index, service), of, &entry)?;
    let key = key_of(service, &of.flow);
    // Its own reader is among them.
    if flows.peers.iter().any(|table| table.get(&key, now).is_some()) {
        return Err(CommandRefusal::Present);
    }
    // What is not trusted yet takes nobody's place.
    if entry.state.is_untrusted() && !flows.table.has_room(&key) {
        return Err(CommandRefusal::NoRoom);
    }
    let inserted = flows.table.insert_idle(&key, entry.backend, entry.state, entry.idle_us, now);
    let inserted = inserted.ok_or(CommandRefusal::Expired)?;
    flows.count_evicted(&key, inserted, now);
    match inserted.outcome {
        Insert::Refused(_) => return Err(CommandRefusal::NoRoom),
        Insert::Replaced(old) => flows.counters.flow_left(old.backend, old.state),
        Insert::Done => {}
    }
    flows.counters.flow_came(entry.backend, entry.state);
    flows.counters.totals.flow_restored.add(1);
    Ok(CommandOutcome::Restored)
}

/// Whether such an entry may be: one by which no packet goes where others (workers, machines, or this worker once the slot's taint ends)
/// would not send it.
fn judge(
    view: &View,
    (index, service): (usize, &ServiceView),
    of: &ServiceFlow,
    entry: &TrackedFlow,
) -> Result<(), CommandRefusal> {
    let is_tcp = !matches!(entry.state, State::UdpNew | State::Udp);
    if is_tcp != (of.flow.protocol == TCP) {
        return Err(CommandRefusal::StateOfOtherProtocol);
    }
    let backend = view.backends.get(entry.backend.index()).and_then(Option::as_ref);
    if backend.is_none_or(|backend| backend.service != service.id) {
        return Err(CommandRefusal::NoBackend);
    }
    let slot = slot(view, service, &of.flow);
    let mut base = None;
    if let Some(cluster) = &view.cluster {
        if cluster.services.get(index).is_none_or(|slots| slots.is_tainted(slot)) {
            return Err(CommandRefusal::OwnerDecides);
        }
    } else if is_tcp && service.memory.is_some() {
        if service.is_stateless(slot) {
            return Err(CommandRefusal::NotTracked);
        }
        base = base_in_force(view, service, slot);
    } else {
        return Ok(());
    }
    let is_at_home = [place_in(view, service, slot), base].contains(&Some(entry.backend));
    if is_at_home { Ok(()) } else { Err(CommandRefusal::SlotDecides) }
}

#[cfg(test)]
mod tests;
