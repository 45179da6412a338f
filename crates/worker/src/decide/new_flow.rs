//! New flows on the fast path: plain IPv4 packets that the burst look-up did not find are placed by their slots, eight
//! hashes at a time, and entered, without the general description of a packet.
//!
//! What it does is what [`known`](crate::decide::known) would do with them, only sooner; what that would have to ask about (the
//! other workers' tables, a remembered slot, a flow twice in the burst, load) is left to it.

use crate::BURST;
use crate::burst::{Burst, bits, those};
use crate::decide::flows::Flows;
use crate::decide::slots;
use crate::lookup::LookedUp;
use crate::view::{Moment, View};
use core::hint::cold_path;
use flow::{Entered, Insert, NewFlows, State, Vectors};
use wire::{FlowKey, Tick};

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

/// Places the packets of the burst that were missed and begin a flow as far as anybody knows.
#[inline(never)]
pub(crate) fn place(
    at: Moment<'_>,
    burst: &mut Burst,
    flows: &mut Flows,
    looked_up: LookedUp<'_>,
    missed: u32,
) {
    let Moment { view, now } = at;
    let vectors = flows.table.vectors();
    // Another worker may know the flow, unless its first packet is this one.
    let asking = if flows.peers.len() < 2 { 0 } else { missed & !events(burst, vectors).2 };
    let unasked = flows.not_to_be_asked(asking, now);
    let settled = missed & !asking | unasked;
    let unslotted = settled & !burst.slotted;
    if unslotted != 0 {
        vectors.run(
            #[inline(always)]
            |lanes| slots::find(view, burst, unslotted, lanes),
        );
    }
    // While the slots' lines are on their way.
    flows.table.prefetch_inserts(looked_up.keys, looked_up.hits);
    // Behind another packet of its flow, whatever that one is, a packet waits its turn.
    let first = vectors.run(
        #[inline(always)]
        |_| first_of(looked_up, missed),
    );
    let mut chosen = settled & first;
    if !flows.queues.is_empty() {
        // Where load decides, a flow must have its entry before the next one is placed.
        chosen = those(chosen, |position| {
            let service = view.service.get(burst.service_index(position));
            service.is_some_and(|of| of.least_load().is_none())
        });
    }
    // In a cluster a tainted slot has an owner to ask.
    let free = view.cluster.as_ref().map_or(chosen, |cluster| {
        let slot = |position: usize| burst.slots[position % BURST];
        those(chosen, |position| !cluster.is_tainted(burst.service_index(position), slot(position)))
    });
    burst.placed = vectors.run(
        #[inline(always)]
        |_| slots::place_all(view, burst, free),
    );
    flows.counters.totals.flow_unasked.add(u64::from((burst.placed & unasked).count_ones()));
}

/// See [`HeaderColumns::events`](crate::describe::columns::HeaderColumns::events).
#[inline(always)]
fn events(burst: &Burst, vectors: Vectors) -> (u32, u32, u32) {
    vectors.run(
        #[inline(always)]
        |lanes| burst.columns.events(lanes),
    )
}

/// Enters the flows that were placed. Where there is no room, the next packet is steered by the table again.
#[inline(never)]
pub(crate) fn enter(view: &View, burst: &Burst, flows: &mut Flows, looked_up: LookedUp<'_>, now: Tick) {
    let placed = burst.placed;
    flows.tally.misses += u64::from(placed.count_ones());
    let vectors = flows.table.vectors();
    let (udp, _, syn) = events(burst, vectors);
    let mut entered = 0;
    for (positions, state) in [(placed & !udp, State::TcpNew), (placed & udp, State::UdpNew)] {
        if positions != 0 {
            let new = NewFlows { positions, backends: &burst.backends, state };
            let plainly = flows.table.insert_plainly(looked_up.keys, looked_up.hits, new, now);
            if plainly.replaced != 0 {
                count_replaced(flows, &plainly);
            }
            let left = NewFlows { positions: positions & !plainly.done, ..new };
            entered |= plainly.done | enter_left(flows, looked_up, left, now);
        }
    }
    vectors.run(
        #[inline(always)]
        |_| count_entered(view, burst, flows, entered),
    );
    // Those that no SYN began, which are few.
    for position in bits(entered & !syn) {
        flows.count_met(burst.backends[position % BURST]);
    }
}

/// Enters those for which there is no room in the nearest place, one by one.
#[inline]
fn enter_left(flows: &mut Flows, looked_up: LookedUp<'_>, left: NewFlows<'_>, now: Tick) -> u32 {
    let NewFlows { positions, backends, state } = left;
    if positions == 0 {
        return 0;
    }
    flows.table.prefetch_moves(looked_up.hits, positions);
    let mut entered = 0;
    for position in bits(positions) {
        let key = FlowKey::Narrow(looked_up.keys.narrow(position));
        let backend = backends[position % BURST];
        let Some(miss) = looked_up.hits.miss(position) else { continue };
        let inserted = flows.table.insert_at(&key, miss, backend, state, now);
        let is_plain = inserted.outcome == Insert::Done && inserted.evicted.is_none();
        if is_plain || flows.settle_insert(&key, inserted, now) {
            entered |= 1 << position;
        }
    }
    entered
}

/// Counts the expired ones that made room.
#[inline(never)]
fn count_replaced(flows: &Flows, entered: &Entered) {
    bits(entered.replaced).for_each(|position| {
        let (backend, state) = entered.victim(position);
        flows.counters.flow_left(backend, state);
    });
    flows.counters.totals.flow_expired.add(u64::from(entered.replaced.count_ones()));
}

/// Counts new flows: of the worker and of services once a burst, of backends one by one.
#[inline(always)]
fn count_entered(view: &View, burst: &Burst, flows: &Flows, entered: u32) {
    flows.counters.totals.flow_inserts.add(u64::from(entered.count_ones()));
    let backends = flows.counters.backend_flows();
    for position in bits(entered) {
        let Some(of) = backends.get(burst.backends[position % BURST].index()) else {
            cold_path();
            continue;
        };
        of.flows_new.add(1);
        of.flows.add(1);
    }
    let mut left = entered;
    while left != 0 {
        let its = burst.of_first(left);
        left &= !its;
        let service = slots::service_at(view, burst, its);
        if let Some(of) = service.and_then(|service| flows.counters.service(service.id)) {
            of.flows_new.add(u64::from(its.count_ones()));
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
