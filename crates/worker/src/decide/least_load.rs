//! Who gets the next flow of a service with policy least-load: one ordered set of backends a service, on each worker.
//!
//! Rule of this module: pure, and bounded. Which backends a service has is the view's; how busy they are is read from
//! [`Loads`] when control has published new figures; between two rounds a worker adds what it places itself, times the number of
//! those who decide, so that a newcomer is not buried by all of them at once. A pick and its charge are O(log n), a rebuild is O(n).
//!
//! A worker allocates nothing after its start, so the memory for all backends that there can be is reserved then: 24 bytes each,
//! zero pages that no service with another policy ever touches. A view's services take theirs one behind the other, which
//! is enough because a backend belongs to one service. Sets are built when their first flow is placed, so a view with
//! many services costs its adoption nothing, and of new figures one set is read a turn.

use crate::DropReason;
use crate::view::loads::{FULL_PPM, Loads};
use crate::view::{BACKENDS_MAX, BackendState, Overload, SERVICES_MAX, Select, ServiceView, View};
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng as _};
use wire::{BackendId, Tick};

/// Loads are kept in millionths of the figures' millionths, so that a single flow counts with the largest capacity, too.
const FINE: u64 = 1_000_000;
/// A load of one.
const FULL: u64 = FULL_PPM as u64 * FINE;
/// Beside a backend's id: it joins.
const JOINING: u32 = 1 << 31;
/// No backend. Above [`BackendId::MAX`].
const NOBODY: u32 = u32::MAX;

/// What one flow more adds to the load of a backend, in the unit of this module: of a backend that is meant to carry `capacity` flows for each
/// unit of its `weight`, when `deciders` workers of all machines decide at the same time. At least 1.
pub fn share(capacity: u32, weight: u32, deciders: u32) -> u64 {
    let carries = u64::from(capacity.max(1)) * u64::from(weight.max(1));
    (FULL / carries).saturating_mul(u64::from(deciders.max(1))).max(1)
}

/// Where a flow goes, or why nobody gets it.
pub(crate) type Placement = Result<BackendId, DropReason>;

/// The part of a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct ServiceQueue {
    /// Where its places begin.
    first: usize,
    /// Its id.
    service: u16,
    /// How many places it may use.
    room: usize,
    /// How many it uses, since it was built.
    count: usize,
    /// The round of figures it was built of; `None`: not built since the view came.
    round: Option<u64>,
}

/// The sets of all services of a view.
#[derive(Debug)]
pub(crate) struct LoadQueues {
    /// By service of the view, of which the first `services` count.
    queues: Box<[ServiceQueue]>,
    services: usize,
    /// Binary heaps of places, relative to the queue's first.
    order: Box<[u32]>,
    /// By place.
    loads: Box<[u64]>,
    shares: Box<[u64]>,
    backends: Box<[u32]>,
    /// By service id: the backend that got the last flow, if it joins.
    last: Box<[u32]>,
    random: SplitMix64,
    /// Whom the last pick chose, until it is charged: service of the view, and position in its order.
    chosen: Option<(usize, usize)>,
    /// When figures were read last.
    read: Tick,
}

impl LoadQueues {
    /// Room for all services and backends of any view. `seed` should differ between workers.
    pub(crate) fn new(seed: u64) -> LoadQueues {
        LoadQueues::with_room(SERVICES_MAX, BACKENDS_MAX, seed)
    }

    fn with_room(services: usize, backends: usize, seed: u64) -> LoadQueues {
        LoadQueues {
            queues: vec![ServiceQueue::default(); services].into(),
            services: 0,
            order: vec![0; backends].into(),
            loads: vec![0; backends].into(),
            shares: vec![0; backends].into(),
            backends: vec![0; backends].into(),
            last: vec![NOBODY; services + 1].into(),
            random: SplitMix64::seed_from_u64(seed),
            chosen: None,
            read: Tick(0),
        }
    }

    /// Whether no service of the view has the policy.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.services == 0
    }

    /// Makes room for a view's services. O(services).
    pub(crate) fn adopt(&mut self, view: &View) {
        self.services = 0;
        if view.service.iter().all(|service| service.least_load().is_none()) {
            return;
        }
        let mut first = 0;
        for (queue, service) in self.queues.iter_mut().zip(&view.service) {
            let wanted = if service.least_load().is_some() { service.members.len() } else { 0 };
            let room = if first + wanted <= self.order.len() { wanted } else { 0 };
            *queue = ServiceQueue { first, service: service.id.0, room, count: 0, round: None };
            first += room;
            self.services += 1;
        }
    }

    /// Who gets a new flow of the service at `index` of the view, which [`charge`](LoadQueues::charge) then charges to it; or why nobody does.
    /// `None`: the service has another policy, or there is no room for it.
    pub(crate) fn pick(&mut self, view: &View, index: usize, now: Tick) -> Option<Placement> {
        let service = view.service.get(index)?;
        let policy = service.least_load()?;
        let queue = self.queues.get_mut(..self.services)?.get_mut(index)?;
        if queue.room < service.members.len() {
            return None;
        }
        let range = queue.first..queue.first + queue.room;
        let order = self.order.get_mut(range.clone())?;
        let loads = self.loads.get_mut(range.clone())?;
        let shares = self.shares.get_mut(range.clone())?;
        let backends = self.backends.get_mut(range)?;
        self.chosen = None;
        let round = view.loads.sequence();
        if queue.round.is_none() {
            let turn = u64::from_le_bytes(self.random.state()) as usize;
            queue.count = fill(view, service, turn, shares, backends);
        }
        let count = queue.count;
        let mut heap = LoadHeap { order: order.get_mut(..count)?, loads: loads.get_mut(..count)? };
        let backends = backends.get_mut(..count)?;
        if queue.round.is_none() || queue.round != Some(round) && self.read != now {
            read(&view.loads, backends, heap.loads);
            heap.build();
            (queue.round, self.read) = (Some(round), now);
        }
        let Some((least, _)) = heap.key(0) else { return Some(Err(DropReason::NoBackend)) };
        if policy.overload == Overload::Reject && least >= FULL {
            return Some(Err(DropReason::Overload));
        }
        let last = self.last.get(usize::from(service.id.0))?;
        let is_last = |heap: &LoadHeap<'_>, at| {
            let known = heap.key(at).and_then(|(_, place)| backends.get(place as usize));
            known.is_some_and(|&backend| backend & JOINING != 0 && backend & !JOINING == *last)
        };
        let (best, other) = match policy.select {
            Select::Min => (0, heap.second()),
            Select::TwoChoices => heap.two(&mut self.random),
        };
        let at = if is_last(&heap, best) { other } else { best };
        let (_, place) = heap.key(at)?;
        let &chosen = backends.get(place as usize)?;
        self.chosen = Some((index, at));
        Some(Ok(BackendId(chosen & !JOINING)))
    }

    /// The flow for which a backend was picked last has its entry: the backend's load grows. Nothing else was picked in between. O(log n).
    pub(crate) fn charge(&mut self) {
        if self.charge_chosen().is_none() {
            debug_assert!(false, "nothing was picked");
        }
    }

    fn charge_chosen(&mut self) -> Option<()> {
        let (index, at) = self.chosen.take()?;
        let queue = self.queues.get(index)?;
        let range = queue.first..queue.first + queue.count;
        let shares = self.shares.get(range.clone())?;
        let backends = self.backends.get(range.clone())?;
        let (order, loads) = (self.order.get_mut(range.clone())?, self.loads.get_mut(range)?);
        let mut heap = LoadHeap { order, loads };
        let (_, place) = heap.key(at)?;
        let (&chosen, &share) = (backends.get(place as usize)?, shares.get(place as usize)?);
        *self.last.get_mut(usize::from(queue.service))? =
            if chosen & JOINING != 0 { chosen & !JOINING } else { NOBODY };
        heap.add(at, share);
        Some(())
    }
}

/// Notes the service's backends that take new flows, with what a flow adds to each, and gives their number. They begin at a member that differs
/// between workers: of equal ones the first is picked first.
fn fill(view: &View, service: &ServiceView, turn: usize, shares: &mut [u64], backends: &mut [u32]) -> usize {
    let Some(policy) = service.least_load() else { return 0 };
    let turn = turn % service.members.len().max(1);
    let members = service.members.iter().zip(&policy.shares);
    let (after, before) = (members.clone().skip(turn), members.take(turn));
    let up = after.chain(before).filter(|(id, _)| {
        view.backend_of(service.id, **id).is_some_and(|backend| backend.state == BackendState::Up)
    });
    let mut count = 0;
    for ((id, &share), (its_share, backend)) in up.zip(shares.iter_mut().zip(backends)) {
        (*its_share, *backend) = (share, id.0);
        count += 1;
    }
    count
}

/// Reads the figures of a service's backends.
fn read(figures: &Loads, backends: &mut [u32], loads: &mut [u64]) {
    for (backend, load) in backends.iter_mut().zip(loads) {
        let id = *backend & !JOINING;
        let figure = figures.get(BackendId(id));
        *load = u64::from(figure.ppm) * FINE;
        *backend = if figure.joining { id | JOINING } else { id };
    }
}

/// A binary heap of places, the least loaded one first; of equally loaded ones the first.
struct LoadHeap<'q> {
    order: &'q mut [u32],
    loads: &'q mut [u64],
}

impl LoadHeap<'_> {
    /// Load and place of a position.
    #[inline]
    fn key(&self, at: usize) -> Option<(u64, u32)> {
        let place = *self.order.get(at)?;
        Some((*self.loads.get(place as usize)?, place))
    }

    /// Orders anew. O(n).
    fn build(&mut self) {
        for (place, at) in (0..).zip(self.order.iter_mut()) {
            *at = place;
        }
        for at in (0..self.order.len() / 2).rev() {
            self.sink(at);
        }
    }

    /// The position of the second least loaded; the first, if it is alone.
    fn second(&self) -> usize {
        match (self.key(1), self.key(2)) {
            (Some(left), Some(right)) if right < left => 2,
            (Some(_), _) => 1,
            (None, _) => 0,
        }
    }

    /// Two different positions at random, the less loaded first; the same one twice, if it is alone.
    fn two(&self, random: &mut SplitMix64) -> (usize, usize) {
        let count = self.order.len();
        if count < 2 {
            return (0, 0);
        }
        let first = below(random, count);
        let second = below(random, count - 1);
        let second = second + usize::from(second >= first);
        if self.key(second) < self.key(first) { (second, first) } else { (first, second) }
    }

    /// Adds to the load of a position, which then moves.
    fn add(&mut self, at: usize, share: u64) {
        let Some(&place) = self.order.get(at) else { return };
        if let Some(load) = self.loads.get_mut(place as usize) {
            *load = load.saturating_add(share);
            self.sink(at);
        }
    }

    /// Moves what is at a position down until nothing below is less loaded.
    fn sink(&mut self, mut at: usize) {
        let Some(own) = self.key(at) else { return };
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let Some(of_left) = self.key(left) else { break };
            let (below, of_below) = match self.key(right) {
                Some(of_right) if of_right < of_left => (right, of_right),
                _ => (left, of_left),
            };
            if own <= of_below {
                break;
            }
            self.put(at, of_below.1);
            at = below;
        }
        self.put(at, own.1);
    }

    #[inline]
    fn put(&mut self, at: usize, place: u32) {
        if let Some(of) = self.order.get_mut(at) {
            *of = place;
        }
    }
}

/// A number below `count`, which is not 0.
#[expect(clippy::cast_possible_truncation, reason = "below a usize")]
fn below(random: &mut SplitMix64, count: usize) -> usize {
    ((u128::from(random.next_u64()) * count as u128) >> 64) as usize
}

#[cfg(test)]
mod tests;
