//! New flows on the fast path: plain IPv4 packets that the burst look-up did not find are placed by their slots, eight
//! hashes at a time, and entered, without the general description of a packet.
//!
//! What it does is what [`steering`](crate::decide::known) would do with them, only sooner; what that would have to ask about (the
//! other workers' tables, a remembered slot, a flow twice in the burst, load) is left to it.

use crate::fast::bits;
use crate::io::PacketIo;
use crate::lookup::LookedUp;
use crate::view::View;
use crate::{BURST, Worker};
use core::hint::cold_path;
use flow::{Entered, Insert, NewFlows, State};
use wire::{FlowKey, Tick};

/// The new flows of a burst, by position.
#[derive(Debug)]
pub(crate) struct Fresh {
    /// The positions that have been placed, a bit each.
    placed: u32,
}

impl Fresh {
    pub(crate) fn new() -> Fresh {
        Fresh { placed: 0 }
    }

    #[inline(always)]
    pub(crate) fn placed(&self) -> u32 {
        self.placed
    }

    #[inline(always)]
    pub(crate) fn is_placed(&self, position: usize) -> bool {
        self.placed >> (position % BURST) & 1 == 1
    }
}

/// Which keys of a burst were seen, a bit for each of 2048 values of their hash: a bit seen twice is nearly always the same
/// key twice.
struct SeenHashes([u64; 32]);

impl SeenHashes {
    #[inline(always)]
    fn is_first(&mut self, hash: u64) -> bool {
        // Of the upper half, which also chooses the bucket: keys of one bucket need not be told apart here.
        let (word, bit) = ((hash >> 59) as usize, hash >> 53 & 63);
        let is_first = self.0[word] >> bit & 1 == 0;
        self.0[word] |= 1 << bit;
        is_first
    }
}

impl<Io: PacketIo> Worker<Io> {
    /// Places the packets of the burst that begin a flow as far as anybody knows.
    #[inline]
    pub(crate) fn place_fresh(&mut self, view: &View, looked_up: LookedUp<'_>, now: Tick) {
        self.fresh.placed = 0;
        let missed = self.batch.may_be_fresh() & !looked_up.hits.found();
        if missed != 0 {
            self.place_missed(view, looked_up, missed, now);
        }
    }

    #[inline(never)]
    fn place_missed(&mut self, view: &View, looked_up: LookedUp<'_>, missed: u32, now: Tick) {
        let vectors = self.flows.vectors();
        // Another worker may know the flow, unless its first packet is this one.
        let asking = if self.peers.len() < 2 { 0 } else { missed & !self.syns() };
        let unasked = self.not_to_be_asked(asking, now);
        let settled = missed & !asking | unasked;
        let unslotted = settled & !self.batch.slotted;
        if unslotted != 0 {
            vectors.run(
                #[inline(always)]
                |lanes| self.find_slots(view, unslotted, lanes),
            );
        }
        // While the slots' lines are on their way.
        self.flows.prefetch_inserts(looked_up.keys, looked_up.hits);
        // Behind another packet of its flow, whatever that one is, a packet waits its turn.
        let first = vectors.run(
            #[inline(always)]
            |_| first_of(looked_up, missed),
        );
        let mut chosen = settled & first;
        if !self.queues.is_empty() {
            // Where load decides, a flow must have its entry before the next one is placed.
            chosen = self.of_slots_alone(view, chosen);
        }
        // In a cluster a tainted slot has an owner to ask.
        let free = if view.cluster.is_some() { self.of_free_slots(view, chosen) } else { chosen };
        self.fresh.placed = vectors.run(
            #[inline(always)]
            |_| self.place_slots(view, free),
        );
        self.counters.totals.flow_unasked.add(u64::from((self.fresh.placed & unasked).count_ones()));
    }

    /// The positions of SYNs, and, where the course is not known, others.
    #[inline(always)]
    fn syns(&self) -> u32 {
        self.flows.vectors().run(
            #[inline(always)]
            |lanes| self.batch.columns.events(lanes).2,
        )
    }

    /// Of these positions, those whose service goes by slots.
    fn of_slots_alone(&self, view: &View, positions: u32) -> u32 {
        let mut kept = 0;
        for position in bits(positions) {
            let service = view.service.get(self.batch.service_index(position));
            kept |= u32::from(service.is_some_and(|of| of.least_load().is_none())) << position;
        }
        kept
    }

    /// Of these positions, those whose slot is not tainted.
    fn of_free_slots(&self, view: &View, positions: u32) -> u32 {
        let mut free = 0;
        for position in bits(positions) {
            let (index, slot) = (self.batch.service_index(position), self.batch.slots[position % BURST]);
            free |= u32::from(!is_tainted(view, index, slot)) << position;
        }
        free
    }

    /// Enters the flows that were placed. Where there is no room, the next packet is steered by the table again.
    #[inline]
    pub(crate) fn enter_fresh(&mut self, view: &View, looked_up: LookedUp<'_>, now: Tick) {
        if self.fresh.placed != 0 {
            self.enter_placed(view, looked_up, now);
        }
    }

    #[inline(never)]
    fn enter_placed(&mut self, view: &View, looked_up: LookedUp<'_>, now: Tick) {
        let placed = self.fresh.placed;
        self.tally.misses += u64::from(placed.count_ones());
        let udp = self.flows.vectors().run(
            #[inline(always)]
            |lanes| self.batch.columns.events(lanes).0,
        );
        let mut entered = 0;
        for (positions, state) in [(placed & !udp, State::TcpNew), (placed & udp, State::UdpNew)] {
            if positions != 0 {
                let new = NewFlows { positions, backends: &self.batch.decided, state };
                let plainly = self.flows.insert_plainly(looked_up.keys, looked_up.hits, new, now);
                if plainly.replaced != 0 {
                    self.count_replaced(&plainly);
                }
                entered |= plainly.done | self.enter_left(looked_up, positions & !plainly.done, state, now);
            }
        }
        self.flows.vectors().run(
            #[inline(always)]
            |_| self.count_entered(view, entered),
        );
        let met = entered & !self.syns();
        if met != 0 {
            self.count_met_of(met);
        }
    }

    /// Enters those for which there is no room in the nearest place, one by one.
    #[inline]
    fn enter_left(&mut self, looked_up: LookedUp<'_>, positions: u32, state: State, now: Tick) -> u32 {
        if positions == 0 {
            return 0;
        }
        self.flows.prefetch_moves(looked_up.hits, positions);
        let mut entered = 0;
        for position in bits(positions) {
            let key = FlowKey::Narrow(looked_up.keys.narrow(position));
            let backend = self.batch.decided[position % BURST];
            let Some(miss) = looked_up.hits.miss(position) else { continue };
            let inserted = self.flows.insert_at(&key, miss, backend, state, now);
            let is_plain = inserted.outcome == Insert::Done && inserted.evicted.is_none();
            if is_plain || self.settle_insert(&key, inserted, now) {
                entered |= 1 << position;
            }
        }
        entered
    }

    /// Counts the expired ones that made room.
    #[inline(never)]
    fn count_replaced(&self, entered: &Entered) {
        bits(entered.replaced).for_each(|position| {
            let (backend, state) = entered.victim(position);
            self.counters.flow_left(backend, state);
        });
        self.counters.totals.flow_expired.add(u64::from(entered.replaced.count_ones()));
    }

    /// Counts new flows: of the worker and of services once a burst, of backends one by one.
    #[inline(always)]
    fn count_entered(&self, view: &View, entered: u32) {
        self.counters.totals.flow_inserts.add(u64::from(entered.count_ones()));
        let (batch, backends) = (&*self.batch, self.counters.backend_flows());
        for position in bits(entered) {
            let Some(of) = backends.get(batch.decided[position % BURST].index()) else {
                cold_path();
                continue;
            };
            of.flows_new.add(1);
            of.flows.add(1);
        }
        let mut left = entered;
        while left != 0 {
            let its = self.batch.of_first(left);
            left &= !its;
            let service = self.service_at(view, its);
            if let Some(of) = service.and_then(|service| self.counters.service(service.id)) {
                of.flows_new.add(u64::from(its.count_ones()));
            }
        }
    }

    /// Counts those that no SYN began, which are few.
    #[inline(never)]
    fn count_met_of(&self, positions: u32) {
        for position in bits(positions) {
            self.count_met(self.batch.decided[position % BURST]);
        }
    }
}

/// Of these positions, those whose keys no packet before them has.
#[inline(always)]
fn first_of(looked_up: LookedUp<'_>, positions: u32) -> u32 {
    let mut seen = SeenHashes([0; 32]);
    let mut first = positions;
    for position in bits(positions) {
        let is_first = looked_up.hits.miss(position).is_some_and(|miss| seen.is_first(miss.hash()));
        if !is_first {
            cold_path();
            first &= !(1 << position);
        }
    }
    first
}

/// Whether a slot is tainted in the cluster.
#[inline]
fn is_tainted(view: &View, service: usize, slot: u32) -> bool {
    let of = view.cluster.as_ref().and_then(|cluster| cluster.services.get(service));
    of.is_some_and(|of| of.is_tainted(slot))
}
