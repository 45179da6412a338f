//! One worker and its turn, which reads like a table of contents.

use crate::act::punt::Budgets;
use crate::cluster::{CoreNote, StateSync};
use crate::decide::known::LookupResult;
use crate::decide::least_load::Queues;
use crate::decide::new_flow::Fresh;
use crate::decide::other_workers::Looks;
use crate::decide::probation::Probation;
use crate::describe::general::{Fate, Packet, classify};
use crate::fast::Batch;
use crate::fragments::Store;
use crate::io::{BURSTS_MAX, Burst, Frame, PacketIo};
use crate::lookup::{LookedUp, ON_THEIR_WAY, Train};
use crate::send::{Label, Outbox};
use crate::sources::Sampler;
use crate::token_bucket::{Budget, TokenBucket};
use crate::view::mailbox::Inbox;
use crate::view::path_mtu;
use crate::view::{PortRole, View};
use crate::{BURST, Counters, DropReason};
use arrayvec::ArrayVec;
use core::mem::{ManuallyDrop, forget, replace, take};
use statesync::Question;
use std::sync::Arc;
use wire::{CoreId, PortId, Tick};

/// Frames taken from other workers' rings in one turn at the most, so that they cannot starve receive.
pub(crate) const RING_BUDGET: usize = 2 * BURST;
/// Answers to echo requests: per second, and at once; of the machine, shared out evenly among its workers.
const ECHO_RATE: (u64, u64) = (10_000, 1_000);
/// "Packet too big", port unreachable and resets: likewise.
const ERROR_RATE: (u64, u64) = (10_000, 1_000);
/// Of these, those to one destination; of each worker, because the packets of a client may all come to one.
const ECHO_RATE_EACH: (u64, u64) = (100, 100);
/// Likewise.
const ERROR_RATE_EACH: (u64, u64) = (50, 50);

/// What one worker gives to another: a frame for the worker that owns what it needs, or a note.
#[derive(Debug)]
pub enum Relay<F> {
    /// A fragment, as received.
    Fragment(F),
    /// A frame of a flow that the receiver owns, as received.
    Question(F, Question),
    /// What another machine or worker says.
    Note(CoreNote),
}

impl<F> Relay<F> {
    /// Number of frames in it: what conservation counts.
    pub(crate) const fn frames(&self) -> u64 {
        match self {
            Relay::Fragment(_) | Relay::Question(..) => 1,
            Relay::Note(_) => 0,
        }
    }
}

/// What a worker is made of.
pub struct Setup<Io: PacketIo> {
    /// Which worker this is.
    pub core: CoreId,
    /// Its queues.
    pub io: Io,
    /// Its flow table.
    pub table: flow::Table,
    /// Readers of all workers' tables by core, its own included.
    pub peers: Vec<flow::Reader>,
    /// Rings to and from the other workers.
    pub rings: statesync::Ports<Relay<Io::Frame>>,
    /// Where views arrive.
    pub inbox: Inbox<View>,
    /// What it counts.
    pub counters: Arc<Counters>,
}

/// What a turn found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Turn {
    /// Frames received from ports and rings.
    pub received: usize,
}

/// One worker: owns its queues and its flow table.
pub struct Worker<Io: PacketIo> {
    pub(crate) core: CoreId,
    pub(crate) io: Io,
    pub(crate) flows: flow::Table,
    pub(crate) peers: Vec<flow::Reader>,
    pub(crate) rings: statesync::Ports<Relay<Io::Frame>>,
    inbox: Inbox<View>,
    view: Option<Arc<View>>,
    /// The view before, while the way home has no room for it.
    leaving: Option<Arc<View>>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) batch: Box<Batch>,
    /// Taken out while it is at work, so that it and the worker may be borrowed at once.
    train: Option<Box<Train>>,
    pub(crate) outbox: Outbox<Io::Frame>,
    pub(crate) spare: Burst<Io::Frame>,
    pub(crate) garbage: Burst<Io::Frame>,
    pub(crate) fragments: Store<Io::Frame>,
    pub(crate) echo_tokens: Budget,
    pub(crate) error_tokens: Budget,
    pub(crate) punt_tokens: Budgets,
    pub(crate) looks: Looks,
    pub(crate) path_tokens: TokenBucket,
    /// A packet of this burst has given an entry another backend: what the burst look-up saw may be out of date.
    pub(crate) rewritten: bool,
    pub(crate) fresh: Fresh,
    pub(crate) queues: Queues,
    pub(crate) probation: Probation,
    pub(crate) sampler: Sampler,
    /// When a new flow last found no room, or took that of another.
    pub(crate) crowded: Option<Tick>,
    pub(crate) tally: Tally,
    /// What it knows as a member of a cluster.
    pub(crate) sync: Option<Box<StateSync>>,
}

/// Counted in registers during a turn, and added to the counters at its end.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) stateless: u64,
}

impl<Io: PacketIo> Worker<Io> {
    /// A worker that has no view yet: until the first one comes, everything is dropped as `not_ready`.
    pub fn new(setup: Setup<Io>) -> Worker<Io> {
        let workers = (setup.peers.len() as u64).max(1);
        let share = |(rate, burst): (u64, u64)| (rate / workers, burst / workers);
        Worker {
            core: setup.core,
            io: setup.io,
            flows: setup.table,
            peers: setup.peers,
            rings: setup.rings,
            inbox: setup.inbox,
            view: None,
            leaving: None,
            counters: setup.counters,
            batch: Box::default(),
            train: Some(Box::new(Train::new())),
            outbox: Outbox::new(),
            spare: Burst::new(),
            garbage: Burst::new(),
            fragments: Store::new(),
            echo_tokens: Budget::new(share(ECHO_RATE), ECHO_RATE_EACH),
            error_tokens: Budget::new(share(ERROR_RATE), ERROR_RATE_EACH),
            punt_tokens: Budgets::new(),
            looks: Looks::new(),
            path_tokens: TokenBucket::new(path_mtu::RATE.0, path_mtu::RATE.1),
            rewritten: false,
            fresh: Fresh::new(),
            queues: Queues::new(u64::from(setup.core.0).wrapping_mul(0x9e37_79b9)),
            probation: Probation::new(),
            sampler: Sampler::default(),
            crowded: None,
            tally: Tally::default(),
            sync: None,
        }
    }

    /// One poll of everything; never blocks. The unit of testing.
    pub fn turn(&mut self, now: Tick) -> Turn {
        self.adopt_view();
        // Taken out for the turn, so that the stages may borrow it and the worker at once.
        // Not dropped on any way out, not even a panic's: a worker frees no view.
        let Some(view) = self.view.take().map(ManuallyDrop::new) else { return self.not_ready() };
        self.age(now);
        let mut received = self.receive_rings(&view, now);
        for (port, of) in view.ports.iter().enumerate() {
            let port = PortId(u16::try_from(port).unwrap_or(u16::MAX));
            received += match of.role {
                PortRole::Data { .. } => self.receive(&view, port, now),
                PortRole::Exception { data } => self.receive_kernel(&view, port, data, now),
                PortRole::Absent => 0,
            };
        }
        self.expire_fragments(&view, now);
        if let Some(cluster) = &view.cluster {
            self.synchronise(&view, cluster, now);
        }
        self.flush_all(&view);
        self.io.recycle(&mut self.garbage);
        put(&mut self.view, ManuallyDrop::into_inner(view));
        self.account(received);
        Turn { received }
    }

    /// The back end, for tests and for the owner at shut-down.
    pub fn io(&mut self) -> &mut Io {
        &mut self.io
    }

    /// The flow table's live flows.
    pub fn flow_count(&self) -> usize {
        self.flows.len()
    }

    /// Gives back every frame the worker holds (fragments, rings), counted as dropped. Call after the last turn.
    pub fn finish(&mut self) {
        self.fragments.drain(|frame| {
            self.counters.totals.held.sub(1);
            self.counters.drops(DropReason::FragmentTimeout).add(1);
            drop(frame);
        });
        loop {
            let mut count = 0;
            let received = self.rings.receive(RING_BUDGET, |_, relay: Relay<Io::Frame>| {
                count += relay.frames();
                drop(relay);
            });
            if received == 0 {
                break;
            }
            self.counters.totals.ring_in.add(count);
            self.counters.drops(DropReason::NotReady).add(count);
        }
    }

    /// The newest view from the mailbox; the old one goes home to control and is freed there, never here.
    fn adopt_view(&mut self) {
        if let Some(old) = self.leaving.take()
            && let Err(old) = self.inbox.give_back(old)
        {
            // Control has not collected for a long time. The next view waits until this one has left.
            return put(&mut self.leaving, old);
        }
        let Some(new) = self.inbox.newest() else { return };
        if let Some(old) = self.view.replace(new)
            && let Err(old) = self.inbox.give_back(old)
        {
            put(&mut self.leaving, old);
        }
        let Some(view) = &self.view else { return };
        self.flows.set_idle(flow::Idle {
            tcp_established_us: view.timeouts.tcp_established_us,
            tcp_closing_us: view.timeouts.tcp_closing_us,
            syn_us: view.timeouts.syn_us,
            udp_us: view.timeouts.udp_us,
        });
        self.queues.adopt(view);
        self.punt_tokens.adopt(view);
        self.counters.totals.generation.set(view.generation);
    }

    /// All stages for what a port has received: for a burst that is not full at once, for full ones in a row.
    fn receive(&mut self, view: &View, port: PortId, now: Tick) -> usize {
        let mut burst = Burst::new();
        self.io.rx(port, &mut burst);
        if burst.is_empty() {
            return 0;
        }
        if view.cluster.as_ref().is_some_and(|cluster| !cluster.ready) {
            let received = burst.len();
            self.count_received(port, &burst);
            self.receive_before_joining(view, &mut burst, now);
            return received;
        }
        let Some(mut train) = self.train.take() else { return 0 };
        let received = self.receive_train(view, port, &mut train, burst, now);
        put(&mut self.train, train);
        received
    }

    fn receive_train(
        &mut self,
        view: &View,
        port: PortId,
        train: &mut Train,
        first: Burst<Io::Frame>,
        now: Tick,
    ) -> usize {
        // Those on their way, and the one that is received next, by turns.
        let mut bursts: [Burst<Io::Frame>; ON_THEIR_WAY + 1] = core::array::from_fn(|_| Burst::new());
        bursts[0] = first;
        let (mut number, mut received) = (0, 0);
        loop {
            let (this, next) = (number % bursts.len(), (number + 1) % bursts.len());
            let count = bursts[this].len();
            if count == 0 {
                break;
            }
            let keys = train.row.next_keys();
            let bytes = self.classify_burst(view, port, &bursts[this], keys);
            self.count_bytes(port, count, bytes);
            (number, received) = (number + 1, received + count);
            if count == BURST && number < BURSTS_MAX {
                self.io.rx(port, &mut bursts[next]);
            }
            let is_alone = train.waiting.is_empty() && bursts[next].is_empty();
            match if is_alone { None } else { train.spare.pop() } {
                Some(spare) => {
                    add(&mut train.waiting, replace(&mut self.batch, spare));
                    let is_due = train.waiting.is_full();
                    self.advance(view, train, &mut bursts[oldest(number)], is_due, now);
                }
                None => {
                    self.flows.lookup(keys, now, &mut train.hits);
                    let looked_up = LookedUp { keys, hits: &train.hits };
                    self.forward_burst(view, &mut bursts[this], looked_up, now);
                }
            }
        }
        // Empty ones push the last out.
        while !train.waiting.is_empty() {
            train.row.next_keys();
            number += 1;
            self.advance(view, train, &mut bursts[oldest(number)], true, now);
        }
        received
    }

    /// The next step of a row, which finishes the look-up of the oldest burst, if it is `due`.
    fn advance(
        &mut self,
        view: &View,
        train: &mut Train,
        burst: &mut Burst<Io::Frame>,
        is_due: bool,
        now: Tick,
    ) {
        let (keys, hits) = self.flows.lookup_pipelined(&mut train.row, now);
        if is_due && let Some(oldest) = train.waiting.pop_at(0) {
            let latest = replace(&mut self.batch, oldest);
            self.forward_burst(view, burst, LookedUp { keys, hits }, now);
            add(&mut train.spare, replace(&mut self.batch, latest));
        }
    }

    /// The general stages' part of the first stage.
    #[inline(never)]
    pub(crate) fn classify_other(
        &mut self,
        view: &View,
        position: usize,
        frame: &Io::Frame,
        keys: &mut flow::Keys,
    ) {
        let mut packet = classify(view, frame.bytes(), frame.meta());
        let key = self.key(view, frame.bytes(), &mut packet);
        keys.set(position, key.as_ref());
        if self.batch.others.try_push(packet).is_err() {
            debug_assert!(false, "no more frames than a burst has");
        }
    }

    /// The general stages for a packet of the plain shape.
    #[inline(never)]
    pub(crate) fn forward_known(
        &mut self,
        view: &View,
        frame: Io::Frame,
        position: usize,
        answer: LookupResult,
        now: Tick,
    ) {
        let mut packet = self.describe_plain(view, &frame, position);
        self.steer(view, frame.bytes(), &mut packet, answer, now);
        let left = match packet.fate {
            Fate::To(id) => self.carry(view, frame, position, id),
            _ => Some(frame),
        };
        if let Some(frame) = left {
            self.rewrite(view, frame, &mut packet, now);
        }
    }

    /// The general stages.
    pub(crate) fn forward_other(
        &mut self,
        view: &View,
        frame: Io::Frame,
        mut packet: Packet,
        answer: LookupResult,
        now: Tick,
    ) {
        self.steer(view, frame.bytes(), &mut packet, answer, now);
        self.rewrite(view, frame, &mut packet, now);
    }

    /// Frames of the kernel go out on the data port as they are, but for probes that travel like the traffic.
    fn receive_kernel(&mut self, view: &View, port: PortId, data: PortId, now: Tick) -> usize {
        let mut burst = Burst::new();
        self.io.rx(port, &mut burst);
        let received = burst.len();
        if received > 0 {
            self.count_received(port, &burst);
            for frame in burst.drain(..) {
                match crate::describe::general::probe(view, frame.bytes()) {
                    Some(mut packet) => self.rewrite(view, frame, &mut packet, now),
                    None => self.send(view, data, frame, Label::KERNEL),
                }
            }
        }
        received
    }

    /// What other workers have for this one: fragments, frames of flows that it owns, notes.
    fn receive_rings(&mut self, view: &View, now: Tick) -> usize {
        let mut received = 0;
        loop {
            let mut items = ArrayVec::<Relay<Io::Frame>, BURST>::new();
            let mut refused = 0;
            let count = self.rings.receive(BURST, |_, relay: Relay<Io::Frame>| {
                if let Err(full) = items.try_push(relay) {
                    refused += full.element().frames();
                }
            });
            debug_assert_eq!(refused, 0, "no more than asked for");
            if count == 0 {
                return received;
            }
            received += count;
            let frames: u64 = items.iter().map(Relay::frames).sum();
            self.counters.totals.ring_in.add(frames + refused);
            self.counters.drops(DropReason::RingFull).add(refused);
            // In order, and without moving all of them to do so.
            items.reverse();
            while let Some(item) = items.pop() {
                match item {
                    Relay::Fragment(frame) => self.receive_fragment(view, frame, now),
                    Relay::Question(frame, question) => self.receive_question(view, frame, question, now),
                    Relay::Note(note) => self.receive_note(view, note, now),
                }
            }
            if count < BURST || received >= RING_BUDGET {
                return received;
            }
        }
    }

    fn receive_fragment(&mut self, view: &View, frame: Io::Frame, now: Tick) {
        let mut packet = classify(view, frame.bytes(), frame.meta());
        if packet.fate == Fate::Fragment {
            self.fragment_here(view, frame, &mut packet, now);
        } else {
            // The view changed under way and the frame is no longer for a service.
            self.rewrite(view, frame, &mut packet, now);
        }
    }

    fn not_ready(&mut self) -> Turn {
        // Without a view nothing is known of the ports, so nothing is received; rings are emptied.
        let mut count = 0;
        self.rings.receive(RING_BUDGET, |_, relay: Relay<Io::Frame>| {
            count += relay.frames();
            drop(relay);
        });
        self.counters.totals.ring_in.add(count);
        self.counters.drops(DropReason::NotReady).add(count);
        self.account(0);
        Turn { received: 0 }
    }

    fn count_received(&self, port: PortId, burst: &Burst<Io::Frame>) {
        self.count_bytes(port, burst.len(), burst.iter().map(|frame| frame.bytes().len()).sum());
    }

    fn count_bytes(&self, port: PortId, frames: usize, bytes: usize) {
        self.counters.totals.rx.add(frames as u64);
        self.counters.totals.rx_bytes.add(bytes as u64);
        if let Some(of) = self.counters.port(port) {
            of.rx.add(frames as u64);
            of.rx_bytes.add(bytes as u64);
        }
    }

    fn account(&mut self, received: usize) {
        let totals = &self.counters.totals;
        let tally = take(&mut self.tally);
        totals.flow_hits.add(tally.hits);
        totals.flow_misses.add(tally.misses);
        totals.flow_stateless.add(tally.stateless);
        totals.turns.add(1);
        if received == 0 {
            totals.empty_turns.add(1);
        }
        debug_assert_eq!(self.counters.imbalance(), 0, "every frame has one end");
    }
}

/// Where the oldest burst on its way is after so many.
const fn oldest(number: usize) -> usize {
    (number + 1) % (ON_THEIR_WAY + 1)
}

/// Adds one of a fixed number of things, for all of which there is room.
fn add<T>(things: &mut ArrayVec<T, ON_THEIR_WAY>, thing: T) {
    let is_added = things.try_push(thing).is_ok();
    debug_assert!(is_added);
}

/// Puts a value into its place, which is empty; the compiler need not think of the end of another there.
pub(crate) fn put<T>(place: &mut Option<T>, value: T) {
    debug_assert!(place.is_none());
    forget(place.replace(value));
}
