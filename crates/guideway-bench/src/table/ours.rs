//! Our flow table behind the measurement's interface: the only file that knows its calls.

use super::keys::VALUES;
use super::look_up::{Found, LookUp};
use crate::failure::{Failure, wrong};
use crate::flows::{FLOWS_MAX, plain_key, value};
use dpdk::pages;
use flow::bucket::Bucket;
use flow::{BURST, Hits, Idle, Insert, Keys, LookupPipeline, Memory, NarrowBucket, NewFlows, State, Table};
use wire::{BackendId, FlowKey, Tick};

/// Flows of the wide table, which nothing uses here.
const WIDE_FLOWS: usize = 16;
/// What every table holds.
const LOAD_PROMISED: f64 = 0.8;
/// Any number, as long as it is always the same.
const SEED: u64 = 0x6775_6964;
const UNTRUSTED_PERCENT: u8 = 50;
/// Longer than any measurement.
const IDLE_US: u64 = 1_800_000_000;
/// The time of everything but churn.
const NOW: Tick = Tick(1_000_000);

/// Our table.
#[derive(Debug)]
pub(super) struct Ours {
    table: Table,
    keys: Keys,
    hits: Hits,
    /// The keys of the burst behind this one.
    ahead: Keys,
}

impl Ours {
    /// A table in which `flows` flows take `load` of the slots, and how many of them found room: all, up to load 0.8, which is
    /// what a table promises.
    pub(super) fn fill(flows: u64, load: f64) -> Result<(Ours, u64), Failure> {
        debug_assert!(flows < FLOWS_MAX);
        let slots = (flows as f64 / load).ceil() as usize;
        let buckets = slots.div_ceil(NarrowBucket::SLOTS).max(NarrowBucket::BUCKETS_MIN);
        let narrow = pages::map::<NarrowBucket>(buckets)?;
        let idle =
            Idle { tcp_established_us: IDLE_US, tcp_closing_us: IDLE_US, syn_us: IDLE_US, udp_us: IDLE_US };
        let wide = Memory::heap(WIDE_FLOWS);
        let table = Table::new(Memory::Static(narrow.values), wide, SEED, idle, UNTRUSTED_PERCENT)?;
        let mut ours = Ours { table, keys: Keys::new(), hits: Hits::new(), ahead: Keys::new() };
        ours.table.advance(NOW, |_, _| ());
        let mut pairs = Vec::with_capacity(BURST);
        for first in (0..flows).step_by(BURST) {
            pairs.clear();
            let numbers = first..flows.min(first + BURST as u64);
            pairs.extend(numbers.map(|number| (plain_key(number), value(number, VALUES))));
            if ours.insert(&pairs, NOW) == pairs.len() {
                continue;
            }
            if load <= LOAD_PROMISED || first == 0 {
                return Err(wrong(format!("not all of {flows} flows fit at load {load}: {first} did")));
            }
            return Ok((ours, first));
        }
        Ok((ours, flows))
    }

    /// Starts to fetch what the insertion of up to a burst will touch.
    #[inline]
    pub(super) fn prefetch(&mut self, pairs: &[(u64, u32)]) {
        self.ahead.clear();
        pairs.iter().for_each(|&(key, _)| self.ahead.push_narrow(key));
        self.table.prefetch(&self.ahead);
    }

    /// Inserts up to a burst of new flows as a worker does: looks all up, fetches what is missing, inserts. Gives the number of
    /// those that were new and had room.
    #[inline]
    pub(super) fn insert(&mut self, pairs: &[(u64, u32)], now: Tick) -> usize {
        self.keys.clear();
        pairs.iter().for_each(|&(key, _)| self.keys.push_narrow(key));
        self.table.lookup(&self.keys, now, &mut self.hits);
        self.table.prefetch_inserts(&self.keys, &self.hits);
        let mut backends = [BackendId(0); BURST];
        backends.iter_mut().zip(pairs).for_each(|(backend, &(_, value))| *backend = BackendId(value));
        let missed = !self.hits.found() & ((1_u64 << pairs.len().min(BURST)) - 1) as u32;
        let new = NewFlows { positions: missed, backends: &backends, state: State::TcpEstablished };
        let entered = self.table.insert_plainly(&self.keys, &self.hits, new, now);
        let left = missed & !entered.done;
        self.table.prefetch_moves(&self.hits, left);
        let mut done = entered.done.count_ones() as usize;
        for (position, &(key, value)) in pairs.iter().enumerate() {
            let Some(miss) = self.hits.miss(position).filter(|_| left >> position & 1 == 1) else { continue };
            let (key, backend) = (FlowKey::Narrow(key), BackendId(value));
            let inserted = self.table.insert_at(&key, miss, backend, State::TcpEstablished, now);
            done += usize::from(inserted.outcome == Insert::Done);
        }
        done
    }

    /// Flows now expire after `us`.
    pub(super) fn set_idle_us(&mut self, us: u64) {
        let idle = Idle { tcp_established_us: us, tcp_closing_us: us, syn_us: us, udp_us: us };
        self.table.set_idle(idle);
    }

    /// Lets time pass; gives the number of flows that expired.
    #[inline]
    pub(super) fn advance(&mut self, now: Tick) -> u64 {
        let mut ended = 0;
        self.table.advance(now, |_, _| ended += 1);
        ended
    }

    /// Flows in it, expired ones that were not swept included.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Forgets all flows.
    pub(super) fn clear(&mut self) {
        self.table.clear();
    }

    /// Size.
    pub(super) fn bytes(&self) -> usize {
        self.table.bytes()
    }
}

impl LookUp for Ours {
    #[inline(never)]
    fn look_up(&self, keys: &[u64]) -> Found {
        let mut found = Found::default();
        let mut pipeline = LookupPipeline::new();
        // The last, empty ones finish those before; the first give nothing.
        for burst in keys.chunks(BURST).chain([&[][..], &[]]) {
            pipeline.next_keys().copy_narrow(burst);
            let (_, hits) = self.table.lookup_pipelined(&mut pipeline, NOW);
            consume(hits, &mut found);
        }
        found
    }
}

/// The same table, asked burst by burst: each is finished before the next is begun.
pub(super) struct OneByOne<'o>(pub(super) &'o Ours);

impl LookUp for OneByOne<'_> {
    #[inline(never)]
    fn look_up(&self, keys: &[u64]) -> Found {
        let mut found = Found::default();
        let (mut wanted, mut hits) = (Keys::new(), Hits::new());
        for burst in keys.chunks(BURST) {
            wanted.copy_narrow(burst);
            self.0.table.lookup(&wanted, NOW, &mut hits);
            consume(&hits, &mut found);
        }
        found
    }
}

#[inline(always)]
fn consume(hits: &Hits, found: &mut Found) {
    found.hits += u64::from(hits.found().count_ones());
    found.sum += hits.backends().iter().map(|&backend| u64::from(backend)).sum::<u64>();
}
