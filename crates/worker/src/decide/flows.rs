//! What a worker knows of flows, and counts of them: its table and the others', and what decides about flows that it does not know.

use crate::Counters;
use crate::DropReason;
use crate::action::Action;
use crate::decide::least_load::{LoadQueues, Placement};
use crate::decide::probation::Probation;
use crate::describe::columns::PacketSummary;
use crate::describe::general::Packet;
use crate::lookup::LookupResult;
use crate::sources::{self, Sampler};
use crate::token_bucket::TokenBucket;
use crate::view::{ServiceView, View, WORKERS_MAX};
use arrayvec::ArrayVec;
use core::mem::take;
use flow::{Hit, Insert, Inserted, State};
use std::sync::Arc;
use wire::{BackendId, CoreId, FlowKey, ServiceId, Tick};

/// Refused flows that are told to those who watch.
const REFUSED_MAX: usize = 16;

/// Looks into other workers' tables, a second and at once, of each worker and each kind. One costs about half a microsecond, most of it
/// a miss of the cache: a hundredth of the worker's time.
const LOOKS: (u64, u64) = (20_000, 256);

const _: () = assert!(LOOKS.1 as usize >= WORKERS_MAX);

/// Budgets of looks: a flood of the one kind leaves the other alone.
#[derive(Debug)]
pub(crate) struct Looks {
    /// For whole packets without an entry.
    pub(crate) misses: TokenBucket,
    /// For ICMP errors and first fragments, whose flows are with other workers as a rule.
    pub(crate) strays: TokenBucket,
}

impl Looks {
    /// Full.
    pub(crate) const fn new() -> Looks {
        let full = TokenBucket::new(LOOKS);
        Looks { misses: full, strays: full }
    }
}

/// See the module.
pub(crate) struct Flows {
    pub(crate) core: CoreId,
    pub(crate) table: flow::Table,
    /// Readers of all workers' tables by core, its own included.
    pub(crate) peers: Vec<flow::Reader>,
    pub(crate) looks: Looks,
    pub(crate) queues: LoadQueues,
    pub(crate) probation: Probation,
    pub(crate) sampler: Sampler,
    /// When a new flow last found no room, or took that of another.
    pub(crate) crowded: Option<Tick>,
    /// A packet of this burst has given an entry another backend: what the burst look-up saw may be out of date.
    pub(crate) rewritten: bool,
    /// A packet of this burst has given an entry another state: the same of states.
    pub(crate) changed: bool,
    pub(crate) tally: Tally,
    /// Flows that found no room; kept by members of a cluster.
    pub(crate) refusals: Option<Box<Refusals>>,
    pub(crate) counters: Arc<Counters>,
}

/// Counted in registers during a turn, and added to the counters at its end.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) stateless: u64,
}

/// Entries and records that found no room: the tables of flows are not complete any more.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    /// The last one.
    pub(crate) last: Option<Tick>,
    /// Their flows, the newest at the end.
    pub(crate) flows: ArrayVec<FlowKey, REFUSED_MAX>,
}

/// A flow that was placed, as it is to be entered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlacedFlow {
    pub(crate) backend: BackendId,
    pub(crate) state: State,
    /// A SYN began it.
    pub(crate) begins: bool,
}

impl Flows {
    /// `peers` are readers of all workers' tables by core, its own included.
    pub(crate) fn new(
        core: CoreId,
        table: flow::Table,
        peers: Vec<flow::Reader>,
        counters: Arc<Counters>,
    ) -> Flows {
        Flows {
            core,
            table,
            peers,
            looks: Looks::new(),
            queues: LoadQueues::new(u64::from(core.0).wrapping_mul(0x9e37_79b9)),
            probation: Probation::new(),
            sampler: Sampler::default(),
            crowded: None,
            rewritten: false,
            changed: false,
            tally: Tally::default(),
            refusals: None,
            counters,
        }
    }

    /// Workers of the machine.
    pub(crate) fn cores(&self) -> u8 {
        u8::try_from(self.peers.len()).unwrap_or(u8::MAX).max(1)
    }

    /// Takes over what a view says of flows.
    pub(crate) fn adopt(&mut self, view: &View) {
        self.table.set_idle(flow::Idle {
            tcp_established_us: view.timeouts.tcp_established_us,
            tcp_closing_us: view.timeouts.tcp_closing_us,
            syn_us: view.timeouts.syn_us,
            udp_us: view.timeouts.udp_us,
        });
        self.queues.adopt(view);
    }

    /// At the start of each turn the table sweeps as many buckets as are due, so that entries end soon after their idle time, and long
    /// before their epoch could come round again.
    pub(crate) fn age(&mut self, now: Tick) {
        let counters = &self.counters;
        self.table.advance(now, |backend, state| {
            counters.totals.flow_expired.add(1);
            counters.flow_left(backend, state);
        });
        self.sampler.age(&counters.sources, now);
        counters.totals.flows.set(self.table.len() as u64);
        counters.totals.flows_untrusted.set(self.table.untrusted() as u64);
    }

    /// Adds what was counted in registers.
    pub(crate) fn account(&mut self) {
        let tally = take(&mut self.tally);
        let totals = &self.counters.totals;
        totals.flow_hits.add(tally.hits);
        totals.flow_misses.add(tally.misses);
        totals.flow_stateless.add(tally.stateless);
    }

    /// Counts packets of a service.
    #[inline(always)]
    pub(crate) fn count_packets(&self, service: ServiceId, packets: u64, bytes: u64) {
        if let Some(of) = self.counters.service(service) {
            of.packets.add(packets);
            of.bytes.add(bytes);
        }
    }

    /// Counts a packet of the plain shape.
    #[inline(always)]
    pub(crate) fn count_plain(&self, summary: PacketSummary) {
        self.count_packets(ServiceId(summary.service()), 1, u64::from(summary.len()));
    }

    #[inline]
    pub(crate) fn count_for(&self, service: &ServiceView, packet: &Packet) {
        self.count_packets(service.id, 1, u64::from(packet.len()));
    }

    /// A packet that no backend gets.
    #[inline]
    pub(crate) fn nobody(&self, service: &ServiceView, reason: DropReason) -> Action {
        let count = match reason {
            DropReason::Overload => self.counters.overload(service.id),
            _ => self.counters.service(service.id).map(|of| &of.no_backend),
        };
        if let Some(count) = count {
            count.add(1);
        }
        Action::Drop(reason)
    }

    /// To the backend that was decided, or to nobody.
    #[inline]
    pub(crate) fn action(&self, service: &ServiceView, decided: Placement) -> Action {
        decided.map_or_else(|reason| self.nobody(service, reason), Action::Encapsulate)
    }

    /// The entry as it is now: a packet earlier in this burst may have inserted or rewritten what the burst look-up saw.
    #[inline]
    pub(crate) fn entry(&self, key: &FlowKey, answer: LookupResult, now: Tick) -> Option<Hit> {
        match (answer.hit, answer.miss) {
            (Some(hit), _) if !self.rewritten => Some(hit),
            (_, Some(miss)) => self.table.get_at(key, miss, now),
            _ => self.table.get(key, now),
        }
    }

    /// Enters the decision into the flow table. False when there is no room, which is no failure: the next packet is
    /// steered by the table again.
    pub(crate) fn remember(
        &mut self,
        key: &FlowKey,
        found: LookupResult,
        new: PlacedFlow,
        now: Tick,
    ) -> bool {
        let PlacedFlow { backend, state, begins } = new;
        // As it is now: a correction may have changed or removed it since it was found.
        let old = found.hit.and_then(|_| self.table.get(key, now));
        let is_entered = if let Some(old) = old {
            self.counters.flow_left(old.backend, old.state);
            self.table.set_backend(key, &old, backend, state, now);
            self.rewritten = true;
            true
        } else {
            let inserted = match found.miss {
                Some(miss) => self.table.insert_at(key, miss, backend, state, now),
                None => self.table.insert(key, backend, state, now),
            };
            self.settle_insert(key, inserted, now)
        };
        if is_entered {
            self.count_new(key.service(), backend);
            if !begins {
                self.count_met(backend);
            }
        }
        is_entered
    }

    /// Counts what went for an insertion; false when there was no room for it.
    pub(crate) fn settle_insert(&mut self, key: &FlowKey, inserted: Inserted, now: Tick) -> bool {
        self.count_evicted(key, inserted, now);
        match inserted.outcome {
            Insert::Done => true,
            Insert::Replaced(old) => {
                self.counters.flow_left(old.backend, old.state);
                true
            }
            Insert::Refused(_) => {
                self.enter_nothing(key, now);
                false
            }
        }
    }

    /// Counts whose entry had to go for an insertion.
    #[inline]
    pub(crate) fn count_evicted(&mut self, key: &FlowKey, inserted: Inserted, now: Tick) {
        let Some((old, state)) = inserted.evicted else { return };
        self.counters.flow_left(old, state);
        let totals = &self.counters.totals;
        if !inserted.displaced {
            totals.flow_expired.add(1);
            return;
        }
        totals.flow_displaced.add(1);
        self.crowded = Some(now);
        // Its flow is one that finds no room, as far as others have to know.
        if self.refusals.is_some()
            && let Some(lost) = self.table.displaced_by(key)
        {
            self.refuse(lost, now);
        }
        self.sampler.note(&self.counters.sources, || sources::of_key(key));
    }

    /// A flow gets no entry.
    pub(crate) fn enter_nothing(&mut self, key: &FlowKey, now: Tick) {
        self.counters.totals.flow_refused.add(1);
        self.crowded = Some(now);
        self.sampler.note(&self.counters.sources, || sources::of_key(key));
        self.refuse(*key, now);
    }

    #[inline]
    fn count_new(&self, service: ServiceId, backend: BackendId) {
        self.counters.totals.flow_inserts.add(1);
        if let Some(of) = self.counters.service(service) {
            of.flows_new.add(1);
        }
        if let Some(of) = self.counters.flows_of(backend) {
            of.flows_new.add(1);
            of.flows.add(1);
        }
    }

    /// A flow has its entry that no SYN began.
    pub(crate) fn count_met(&self, backend: BackendId) {
        if let Some(of) = self.counters.flows_of(backend) {
            of.met.add(1);
        }
    }

    /// An entry or a record of the flow found no room.
    pub(crate) fn refuse(&mut self, key: FlowKey, now: Tick) {
        let Some(refusals) = &mut self.refusals else { return };
        refusals.last = Some(now);
        if refusals.flows.is_full() {
            refusals.flows.pop_at(0);
        }
        let _ = refusals.flows.try_push(key);
    }
}
