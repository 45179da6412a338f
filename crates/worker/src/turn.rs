//! One worker and its turn, which reads like a table of contents.

use crate::act::path_mtu::PathErrors;
use crate::act::punt::PuntBudgets;
use crate::act::reply::ReplyBudgets;
use crate::action::Action;
use crate::commands::{self, CommandQueue};
use crate::decide::flows::Flows;
use crate::describe::general::Fate;
use crate::fragments::Store;
use crate::io::{BURSTS_MAX, Frames, PacketIo};
use crate::lookup::{BURSTS, LookedUp, Lookups, ON_THEIR_WAY};
use crate::pipeline::Stages;
use crate::rings::{RING_BUDGET, Relay};
use crate::send::Egress;
use crate::send::datagrams::put;
use crate::view::mailbox::Inbox;
use crate::view::{PortRole, View};
use crate::{BURST, Counters, DropReason};
use arrayvec::ArrayVec;
use std::sync::Arc;
use wire::{CoreId, PortId, Tick};

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
    /// Where control's commands arrive; `None`: control has none.
    pub commands: Option<CommandQueue>,
}

/// What a turn found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Turn {
    /// Frames received from ports and rings.
    pub received: usize,
}

/// One worker: owns its queues and its flow table.
pub struct Worker<Io: PacketIo> {
    inbox: Inbox<View>,
    view: Option<Arc<View>>,
    /// The view before, while the way home has no room for it.
    leaving: Option<Arc<View>>,
    lookups: Box<Lookups>,
    pub(crate) stages: Stages<Io>,
}

impl<Io: PacketIo> Worker<Io> {
    /// A worker that has no view yet: until the first one comes, everything is dropped as `not_ready`.
    pub fn new(setup: Setup<Io>) -> Worker<Io> {
        let workers = setup.peers.len() as u64;
        let counters = setup.counters;
        Worker {
            inbox: setup.inbox,
            view: None,
            leaving: None,
            lookups: Box::new(Lookups::new()),
            stages: Stages {
                flows: Flows::new(setup.core, setup.table, setup.peers, Arc::clone(&counters)),
                fragments: Store::new(),
                replies: ReplyBudgets::new(workers),
                punts: PuntBudgets::new(),
                path_errors: PathErrors::new(),
                sync: None,
                commands: setup.commands,
                rings: setup.rings,
                egress: Egress::new(setup.io, counters),
            },
        }
    }

    /// One poll of everything; never blocks. The unit of testing.
    pub fn turn(&mut self, now: Tick) -> Turn {
        self.adopt_view();
        let Some(view) = self.view.as_deref() else { return self.not_ready() };
        let stages = &mut self.stages;
        stages.flows.age(now);
        if let Some(queue) = &mut stages.commands {
            let (flows, sync, tap) = (&mut stages.flows, stages.sync.as_deref(), &mut stages.egress.tap);
            commands::heed(queue, view, flows, sync, tap, now);
        }
        let mut received = receive_rings(view, stages, now);
        for (port, of) in view.ports.iter().enumerate() {
            let port = PortId(u16::try_from(port).unwrap_or(u16::MAX));
            received += match of.role {
                PortRole::Data { .. } => receive(view, port, stages, &mut self.lookups, now),
                PortRole::Exception { data } => receive_kernel(view, port, data, stages, now),
                PortRole::Absent => 0,
            };
        }
        stages.expire_fragments(view, now);
        stages.synchronise(view, now);
        stages.egress.flush_all(view);
        stages.egress.recycle();
        self.account(received);
        Turn { received }
    }

    /// Gives back every frame the worker holds (fragments, rings), counted as dropped. Call after the last turn.
    pub fn finish(&mut self) {
        let stages = &mut self.stages;
        let counters = &stages.flows.counters;
        stages.fragments.drain(|frame| {
            counters.totals.held.sub(1);
            counters.drops(DropReason::FragmentTimeout).add(1);
            drop(frame);
        });
        while self.empty_rings() > 0 {}
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
        let Some(view) = self.view.as_deref() else { return };
        self.stages.flows.adopt(view);
        self.stages.punts.adopt(view);
        self.stages.flows.counters.totals.generation.set(view.generation);
    }

    fn not_ready(&mut self) -> Turn {
        // Without a view nothing is known of the ports, so nothing is received; rings are emptied.
        self.empty_rings();
        self.account(0);
        Turn { received: 0 }
    }

    /// Drops what is in the rings, as far as a turn takes it. Returns the number of items.
    fn empty_rings(&mut self) -> usize {
        let mut count = 0;
        let received = self.stages.rings.receive(RING_BUDGET, |_, relay: Relay<Io::Frame>| {
            count += relay.frames();
            drop(relay);
        });
        let counters = &self.stages.flows.counters;
        counters.totals.ring_in.add(count);
        counters.drops(DropReason::NotReady).add(count);
        received
    }

    fn account(&mut self, received: usize) {
        self.stages.flows.account();
        let counters = &self.stages.flows.counters;
        counters.totals.turns.add(1);
        if received == 0 {
            counters.totals.empty_turns.add(1);
        }
        debug_assert_eq!(counters.imbalance(), 0, "every frame has one end");
    }
}

/// All stages for what a port has received: for a burst that is not full at once, for full ones one behind the other, with the look-ups of
/// those behind on their way.
fn receive<Io: PacketIo>(
    view: &View,
    port: PortId,
    stages: &mut Stages<Io>,
    lookups: &mut Lookups,
    now: Tick,
) -> usize {
    let mut first = Frames::new();
    stages.egress.io.rx(port, &mut first);
    if first.is_empty() {
        return 0;
    }
    if view.cluster.as_ref().is_some_and(|cluster| !cluster.ready) {
        let received = first.len();
        stages.count_received(port, &first);
        stages.run_before_joining(view, &mut first, now);
        return received;
    }
    if stages.egress.tap.is_some() {
        return receive_tapped(view, port, stages, lookups, first, now);
    }
    receive_bursts::<Io, BURSTS_MAX>(view, port, stages, lookups, first, now)
}

/// One burst: frame by frame, so that the tap sees what becomes of each; as ever, where it wants none of them or has no room.
#[cold]
#[inline(never)]
fn receive_tapped<Io: PacketIo>(
    view: &View,
    port: PortId,
    stages: &mut Stages<Io>,
    lookups: &mut Lookups,
    mut frames: Frames<Io::Frame>,
    now: Tick,
) -> usize {
    if !stages.egress.tap.as_mut().is_some_and(|tap| tap.takes(view, &frames)) {
        return receive_bursts::<Io, 1>(view, port, stages, lookups, frames, now);
    }
    stages.count_received(port, &frames);
    let count = frames.len();
    for frame in frames.drain(..) {
        stages.egress.begin_capture(view, &frame, now);
        let fate = stages.run_alone(view, frame, now);
        stages.egress.end_capture(view, fate);
    }
    count
}

/// At most `MAX` bursts, of which the first is there.
fn receive_bursts<Io: PacketIo, const MAX: usize>(
    view: &View,
    port: PortId,
    stages: &mut Stages<Io>,
    lookups: &mut Lookups,
    first: Frames<Io::Frame>,
    now: Tick,
) -> usize {
    // Those on their way, and the one that is received next, by turns.
    let mut bursts: [Frames<Io::Frame>; BURSTS] = core::array::from_fn(|_| Frames::new());
    bursts[0] = first;
    let (mut number, mut waiting, mut received) = (0, 0, 0);
    loop {
        let (this, next) = (number % BURSTS, (number + 1) % BURSTS);
        let count = bursts[this].len();
        if count == 0 {
            break;
        }
        let keys = lookups.pipeline.next_keys();
        let bytes = stages.describe(view, port, &bursts[this], &mut lookups.bursts[this], keys);
        stages.egress.count_received(port, count, bytes);
        (number, received) = (number + 1, received + count);
        if count == BURST && number < MAX {
            stages.egress.io.rx(port, &mut bursts[next]);
        }
        if waiting == 0 && bursts[next].is_empty() {
            stages.flows.table.lookup(keys, now, &mut lookups.hits);
            let looked_up = LookedUp { keys, hits: &lookups.hits };
            stages.finish(view, &mut bursts[this], &mut lookups.bursts[this], looked_up, now);
        } else {
            waiting += 1;
            let is_due = waiting == ON_THEIR_WAY;
            advance(view, stages, lookups, &mut bursts[oldest(number)], (oldest(number), is_due), now);
            waiting -= usize::from(is_due);
        }
    }
    // Empty ones push the last out.
    while waiting > 0 {
        lookups.pipeline.next_keys();
        number += 1;
        advance(view, stages, lookups, &mut bursts[oldest(number)], (oldest(number), true), now);
        waiting -= 1;
    }
    received
}

/// The next step of the look-ups, which finishes that of the oldest burst; this then goes through the other stages, if it is `due`.
fn advance<Io: PacketIo>(
    view: &View,
    stages: &mut Stages<Io>,
    lookups: &mut Lookups,
    frames: &mut Frames<Io::Frame>,
    (oldest, is_due): (usize, bool),
    now: Tick,
) {
    let (keys, hits) = stages.flows.table.lookup_pipelined(&mut lookups.pipeline, now);
    if is_due {
        stages.finish(view, frames, &mut lookups.bursts[oldest % BURSTS], LookedUp { keys, hits }, now);
    }
}

/// Where the oldest burst on its way is after so many.
const fn oldest(number: usize) -> usize {
    (number + 1) % BURSTS
}

fn receive_kernel<Io: PacketIo>(
    view: &View,
    port: PortId,
    data: PortId,
    stages: &mut Stages<Io>,
    now: Tick,
) -> usize {
    let mut frames = Frames::new();
    stages.egress.io.rx(port, &mut frames);
    let received = frames.len();
    if received == 0 {
        return 0;
    }
    stages.count_received(port, &frames);
    if stages.egress.tap.is_none() {
        stages.run_kernel(view, data, &mut frames, now);
        return received;
    }
    for frame in frames.drain(..) {
        stages.egress.begin_capture(view, &frame, now);
        let mut alone = Frames::from_iter([frame]);
        stages.run_kernel(view, data, &mut alone, now);
        stages.egress.end_capture(view, Fate::Decided(Action::Pass(data)));
    }
    received
}

/// What other workers have for this one: fragments, frames of flows that it owns, notes.
fn receive_rings<Io: PacketIo>(view: &View, stages: &mut Stages<Io>, now: Tick) -> usize {
    let mut received = 0;
    loop {
        let mut items = ArrayVec::<Relay<Io::Frame>, BURST>::new();
        let mut refused = 0;
        let count = stages.rings.receive(BURST, |_, relay: Relay<Io::Frame>| {
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
        let counters = &stages.flows.counters;
        counters.totals.ring_in.add(frames + refused);
        counters.drops(DropReason::RingFull).add(refused);
        // In order, and without moving all of them to do so.
        items.reverse();
        let is_tapped = stages.egress.tap.is_some();
        while let Some(item) = items.pop() {
            if is_tapped && let Some(frame) = item.frame() {
                stages.egress.begin_capture(view, frame, now);
                stages.run_relayed(view, item, now);
                stages.egress.end_capture(view, Fate::Flow);
            } else {
                stages.run_relayed(view, item, now);
            }
        }
        if count < BURST || received >= RING_BUDGET {
            return received;
        }
    }
}
