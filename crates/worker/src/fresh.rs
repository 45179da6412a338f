//! New flows on the fast path: plain IPv4 packets that the burst look-up did not find are placed by their slots, eight
//! hashes at a time, and entered, without the general description of a packet.
//!
//! What it does is what [`steering`](crate::steering) would do with them, only sooner; what that would have to ask about (the
//! other workers' tables, a remembered slot, a flow twice in the burst, load) is left to it.

use crate::fast::bits;
use crate::io::PacketIo;
use crate::lookup::LookedUp;
use crate::view::View;
use crate::{BURST, Worker};
use flow::{Insert, State};
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
struct Seen([u64; 32]);

impl Seen {
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
    pub(crate) fn place_fresh(&mut self, view: &View, looked_up: LookedUp<'_>) {
        self.fresh.placed = 0;
        let missed = self.batch.may_be_fresh() & !looked_up.hits.found();
        if missed != 0 {
            self.flows.prefetch_inserts(looked_up.keys, looked_up.hits);
            self.place_missed(view, looked_up, missed);
        }
    }

    #[inline(never)]
    fn place_missed(&mut self, view: &View, looked_up: LookedUp<'_>, missed: u32) {
        let mut seen = Seen([0; 32]);
        let is_alone = self.peers.len() < 2;
        let mut chosen = 0;
        for position in bits(missed) {
            // Another worker may know the flow, unless its first packet is this one.
            let is_settled = is_alone || self.batch.is_syn(position);
            let is_first = looked_up.hits.miss(position).is_some_and(|miss| seen.is_first(miss.hash()));
            chosen |= u32::from(is_settled & is_first) << position;
        }
        if !self.queues.is_empty() {
            // Where load decides, a flow must have its entry before the next one is placed.
            chosen = self.of_slots_alone(view, chosen);
        }
        self.fresh.placed = self.flows.vectors().run(
            #[inline(always)]
            |lanes| {
                self.find_slots(view, chosen, lanes);
                // In a cluster a tainted slot has an owner to ask.
                let free = if view.cluster.is_some() { self.of_free_slots(view, chosen) } else { chosen };
                self.place_slots(view, free, lanes)
            },
        );
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
        let mut entered = 0;
        for position in bits(placed) {
            let key = FlowKey::Narrow(looked_up.keys.narrow(position));
            let state = if self.batch.is_tcp(position) { State::TcpNew } else { State::UdpNew };
            let backend = self.batch.decided[position % BURST];
            let Some(miss) = looked_up.hits.miss(position) else { continue };
            let inserted = self.flows.insert_at(&key, miss, backend, state, now);
            let is_plain = inserted.outcome == Insert::Done && inserted.evicted.is_none();
            if is_plain || self.settle_insert(&key, inserted, now) {
                entered |= 1 << position;
            }
        }
        self.count_entered(view, entered);
        let (_, _, syn) = self.flows.vectors().run(
            #[inline(always)]
            |lanes| self.batch.heads.courses(lanes),
        );
        let met = entered & !syn;
        if met != 0 {
            self.count_met_of(met);
        }
    }

    /// Counts new flows: of the worker once a burst, of services by runs, of backends one by one.
    #[inline(always)]
    fn count_entered(&self, view: &View, entered: u32) {
        self.counters.totals.flow_inserts.add(u64::from(entered.count_ones()));
        let (mut index, mut run) = (usize::MAX, 0);
        let count = |index: usize, run: u64| {
            if let Some(of) = view.service.get(index).and_then(|service| self.counters.service(service.id)) {
                of.flows_new.add(run);
            }
        };
        let backends = self.counters.backend_flows();
        for position in bits(entered) {
            if let Some(of) = backends.get(self.batch.decided[position % BURST].index()) {
                of.flows_new.add(1);
                of.flows.add(1);
            }
            let its = self.batch.service_index(position);
            if its != index {
                count(index, run);
                (index, run) = (its, 0);
            }
            run += 1;
        }
        count(index, run);
    }

    /// Counts those that no SYN began, which are few.
    #[inline(never)]
    fn count_met_of(&self, positions: u32) {
        for position in bits(positions) {
            self.count_met(self.batch.decided[position % BURST]);
        }
    }
}

/// Whether a slot is tainted in the cluster.
#[inline]
fn is_tainted(view: &View, service: usize, slot: u32) -> bool {
    let of = view.cluster.as_ref().and_then(|cluster| cluster.services.get(service));
    of.is_some_and(|of| of.is_tainted(slot))
}
