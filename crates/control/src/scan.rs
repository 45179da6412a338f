//! Ending taints: the flow tables are looked through for flows that need theirs.
//!
//! Rule of this module: it takes its turns on the management core, so a turn is bounded in time by whoever asks for piece after
//! piece; it only reads. What a scan means is for [`crate::slots`] to say.

use crate::controller::Controller;
use crate::slots::{Scans, Slots, slot_of};
use flow::Hit;
use model::config::Timeouts;
use std::collections::HashMap;
use std::time::Duration;
use wire::{Addr, FlowKey, ServiceId, Tick};
use worker::View;

/// Longest time that pieces take which come one after the other, but for the last one.
pub(crate) const TURN: Duration = Duration::from_millis(2);
/// Buckets of a piece: some ten microseconds.
const BUCKETS: usize = 256;
/// Shortest pause between two scans.
const PAUSE_MIN_US: u64 = 1_000_000;

/// How far scanning is.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    /// When the scan under way began.
    began: Option<Tick>,
    /// Worker and bucket that come next.
    at: (usize, usize),
    /// When the last whole scan began.
    last: Option<Tick>,
    /// When the last one ended.
    ended: Option<Tick>,
    /// Services that are looked for in this turn.
    services: Option<HashMap<ServiceId, Tainted>>,
    /// Entries refused so far, and when that was last seen to grow.
    refused: (u64, Option<Tick>),
}

impl Scanner {
    /// Whether a scan is under way: it wants its next turn soon.
    pub(crate) fn is_busy(&self) -> bool {
        self.began.is_some()
    }
}

/// Longest idle time of TCP flows, microseconds.
fn max_idle_us(timeouts: &Timeouts) -> u64 {
    idle_times(timeouts).into_iter().max().unwrap_or(0)
}

/// Pause between two scans, microseconds: an entry that lives for the shortest idle time is seen by more than one.
fn pause_us(timeouts: &Timeouts) -> u64 {
    (idle_times(timeouts).into_iter().min().unwrap_or(0) / 3).max(PAUSE_MIN_US)
}

fn idle_times(timeouts: &Timeouts) -> [u64; 3] {
    [timeouts.tcp_established_s, timeouts.tcp_closing_s, timeouts.syn_s].map(|s| u64::from(s) * 1_000_000)
}

/// A service some of whose slots are tainted.
#[derive(Debug)]
struct Tainted {
    /// Its index in the view.
    index: usize,
    vip: (Addr, u16, u8),
}

impl Controller {
    /// Begins a scan, if one is due, and a turn of the one under way.
    pub(crate) fn begin_scan(&mut self) {
        let now = self.now.tick;
        self.heed_refusals(now);
        self.scanner.services = None;
        if self.scanner.began.is_none() {
            self.begins(now);
        }
    }

    /// A piece of the scan, if one is under way. True when taints ended: the next view says so.
    pub(crate) fn scan(&mut self) -> bool {
        let now = self.now.tick;
        if self.scanner.began.is_none() {
            return false;
        }
        let services = self.scanner.services.take().unwrap_or_else(|| self.tainted());
        while let Some(worker) = self.workers.get(self.scanner.at.0) {
            let from = self.scanner.at.1;
            if from >= worker.flows.buckets() {
                self.scanner.at = (self.scanner.at.0 + 1, 0);
                continue;
            }
            let (view, memories) = (&self.view, &mut self.ids.memories);
            worker.flows.dump(from, BUCKETS, now, |key, hit| {
                let Some(service) = services.get(&key.service()) else { return };
                let Some(slots) = memories.get_mut(key.service()) else { return };
                see(view, service, slots, &key, &hit, now);
            });
            self.scanner.at.1 = from + BUCKETS;
            self.scanner.services = Some(services);
            return false;
        }
        self.end(now)
    }

    /// An entry refused, or taken by another flow, is a flow that goes by its slot's base, as those do that are silent.
    fn heed_refusals(&mut self, now: Tick) {
        let totals = self.workers.iter().map(|worker| &worker.counters.totals);
        let refused = totals.map(|totals| totals.flow_refused.get() + totals.flow_displaced.get()).sum();
        if refused != self.scanner.refused.0 {
            self.scanner.refused = (refused, Some(now));
        }
    }

    /// Begins a scan, if it is time and there is a reason.
    fn begins(&mut self, now: Tick) {
        let pause = pause_us(&self.config.timeouts);
        let is_early = self.scanner.ended.is_some_and(|ended| now.since_us(ended) < pause);
        if is_early || !self.is_acknowledged() {
            return;
        }
        if self.tainted().is_empty() {
            self.scanner.last = None;
            return;
        }
        self.scanner.began = Some(now);
        self.scanner.at = (0, 0);
    }

    /// A scan has seen everything. With the one before it, it may end taints.
    fn end(&mut self, now: Tick) -> bool {
        let last = std::mem::replace(&mut self.scanner.last, self.scanner.began.take());
        self.scanner.ended = Some(now);
        let Some(began) = last else { return false };
        let refused = self.scanner.refused.1;
        let max_idle_us = max_idle_us(&self.config.timeouts);
        let mut ended = 0;
        for service in &self.config.services {
            let id = self.ids.service(&service.name);
            if let Some(slots) = id.and_then(|id| self.ids.memories.get_mut(id)) {
                ended += slots.retire(Scans { began }, refused, max_idle_us);
            }
        }
        ended > 0
    }

    /// Services with tainted slots that flows may still need; not those that track every flow again.
    fn tainted(&self) -> HashMap<ServiceId, Tainted> {
        let services = self.config.services.iter().filter(|service| service.is_stateless());
        let mut tainted: HashMap<ServiceId, Tainted> = services
            .filter_map(|service| {
                let id = self.ids.service(&service.name)?;
                self.ids.memories.get(id).filter(|slots| slots.tainted_slots() > 0)?;
                let vip = (service.vip.addr.into(), service.port, service.protocol.number());
                Some((id, Tainted { index: usize::MAX, vip }))
            })
            .collect();
        if !tainted.is_empty() {
            for (index, service) in self.view.service.iter().enumerate() {
                if let Some(of) = tainted.get_mut(&service.id) {
                    of.index = index;
                }
            }
        }
        tainted
    }

    /// Twice a second: memories that nobody needs, because the service has not met a packet yet or tracks every flow
    /// again. True when there were some.
    pub(crate) fn release_slots(&mut self) -> bool {
        if !self.is_acknowledged() {
            return false;
        }
        let now = self.now.tick;
        self.heed_refusals(now);
        let refused = self.scanner.refused.1;
        let max_idle_us = max_idle_us(&self.config.timeouts);
        let mut released = false;
        for service in &self.config.services {
            let Some(id) = self.ids.service(&service.name) else { continue };
            let Some(slots) = self.ids.memories.get_mut(id) else { continue };
            if slots.has_left(refused, max_idle_us, now) {
                self.ids.memories.drop_slots(id);
                released = true;
            } else if slots.tainted_slots() > 0 {
                let counters = self.workers.iter().filter_map(|worker| worker.counters.service(id));
                let packets: u64 = counters.map(|of| of.packets.get()).sum();
                released |= packets == 0 && slots.retire_unused() > 0;
            }
        }
        released
    }
}

/// Tells the slots of an entry that was found. An entry of a backend that left the view decides nothing.
fn see(view: &View, service: &Tainted, slots: &mut Slots, key: &FlowKey, hit: &Hit, now: Tick) {
    let Some(of) = view.service.get(service.index) else { return };
    let backend = view.backends.get(hit.backend.index()).and_then(Option::as_ref);
    if backend.is_some_and(|backend| backend.service == of.id) {
        slots.saw(slot_of(&view.cluster_key, of, service.vip, key), hit.backend, now);
    }
}
