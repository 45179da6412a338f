//! A scan, piece by piece.

use super::{BUCKETS, PAUSE_MIN_US, Tainted};
use crate::controller::Controller;
use crate::slots::{Scans, Slots, slot_of};
use flow::Hit;
use model::config::Timeouts;
use std::collections::HashMap;
use wire::{FlowKey, ServiceId, Tick};
use worker::View;

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

/// Begins a scan, if one is due, and a turn of the one under way.
pub(crate) fn begin_scan(controller: &mut Controller) {
    let now = controller.now.tick;
    heed_refusals(controller, now);
    controller.scanner.services = None;
    if controller.scanner.began.is_none() {
        begins(controller, now);
    }
}

/// A piece of the scan, if one is under way. True when taints ended: the next view says so.
pub(crate) fn scan(controller: &mut Controller) -> bool {
    let now = controller.now.tick;
    if controller.scanner.began.is_none() {
        return false;
    }
    let services = controller.scanner.services.take().unwrap_or_else(|| tainted(controller));
    while let Some(worker) = controller.workers.get(controller.scanner.at.0) {
        let from = controller.scanner.at.1;
        if from >= worker.flows.buckets() {
            controller.scanner.at = (controller.scanner.at.0 + 1, 0);
            continue;
        }
        let (view, memories) = (&controller.publication.view, &mut controller.backends.ids.memories);
        worker.flows.dump(from, BUCKETS, now, |key, hit| {
            let Some(service) = services.get(&key.service()) else { return };
            let Some(slots) = memories.get_mut(key.service()) else { return };
            see(view, service, slots, &key, &hit, now);
        });
        controller.scanner.at.1 = from + BUCKETS;
        controller.scanner.services = Some(services);
        return false;
    }
    end(controller, now)
}

/// An entry refused, or taken by another flow, is a flow that goes by its slot's base, as those do that are silent.
pub(crate) fn heed_refusals(controller: &mut Controller, now: Tick) {
    let totals = controller.workers.iter().map(|worker| &worker.counters.totals);
    let refused = totals.map(|totals| totals.flow_refused.get() + totals.flow_displaced.get()).sum();
    if refused != controller.scanner.refused.0 {
        controller.scanner.refused = (refused, Some(now));
    }
}

/// Begins a scan, if it is time and there is a reason.
pub(crate) fn begins(controller: &mut Controller, now: Tick) {
    let pause = pause_us(&controller.config.timeouts);
    let is_early = controller.scanner.ended.is_some_and(|ended| now.since_us(ended) < pause);
    if is_early || !controller.is_acknowledged() {
        return;
    }
    if tainted(controller).is_empty() {
        controller.scanner.last = None;
        return;
    }
    controller.scanner.began = Some(now);
    controller.scanner.at = (0, 0);
}

/// A scan has seen everything. With the one before it, it may end taints.
pub(crate) fn end(controller: &mut Controller, now: Tick) -> bool {
    let last = std::mem::replace(&mut controller.scanner.last, controller.scanner.began.take());
    controller.scanner.ended = Some(now);
    let Some(began) = last else { return false };
    let refused = controller.scanner.refused.1;
    let max_idle_us = max_idle_us(&controller.config.timeouts);
    let mut ended = 0;
    for service in &controller.config.services {
        let id = controller.backends.ids.service(&service.name);
        if let Some(slots) = id.and_then(|id| controller.backends.ids.memories.get_mut(id)) {
            ended += slots.retire(Scans { began }, refused, max_idle_us);
        }
    }
    ended > 0
}

/// Services with tainted slots that flows may still need; not those that track every flow again.
fn tainted(controller: &Controller) -> HashMap<ServiceId, Tainted> {
    let services = controller.config.services.iter().filter(|service| service.is_stateless());
    let mut tainted: HashMap<ServiceId, Tainted> = services
        .filter_map(|service| {
            let id = controller.backends.ids.service(&service.name)?;
            controller.backends.ids.memories.get(id).filter(|slots| slots.tainted_slots() > 0)?;
            let vip = (service.vip.addr.into(), service.port, service.protocol.number());
            Some((id, Tainted { index: usize::MAX, vip }))
        })
        .collect();
    if !tainted.is_empty() {
        for (index, service) in controller.publication.view.service.iter().enumerate() {
            if let Some(of) = tainted.get_mut(&service.id) {
                of.index = index;
            }
        }
    }
    tainted
}

/// Twice a second: memories that nobody needs, because the service has not met a packet yet or tracks every flow
/// again. True when there were some.
pub(crate) fn release_slots(controller: &mut Controller) -> bool {
    if !controller.is_acknowledged() {
        return false;
    }
    let now = controller.now.tick;
    heed_refusals(controller, now);
    let refused = controller.scanner.refused.1;
    let max_idle_us = max_idle_us(&controller.config.timeouts);
    let mut released = false;
    for service in &controller.config.services {
        let Some(id) = controller.backends.ids.service(&service.name) else { continue };
        let Some(slots) = controller.backends.ids.memories.get_mut(id) else { continue };
        if slots.has_left(refused, max_idle_us, now) {
            controller.backends.ids.memories.drop_slots(id);
            released = true;
        } else if slots.tainted_slots() > 0 {
            let counters = controller.workers.iter().filter_map(|worker| worker.counters.service(id));
            let packets: u64 = counters.map(|of| of.packets.get()).sum();
            released |= packets == 0 && slots.retire_unused() > 0;
        }
    }
    released
}

/// Tells the slots of an entry that was found. An entry of a backend that left the view decides nothing.
fn see(view: &View, service: &Tainted, slots: &mut Slots, key: &FlowKey, hit: &Hit, now: Tick) {
    let Some(of) = view.service.get(service.index) else { return };
    let backend = view.backends.get(hit.backend.index()).and_then(Option::as_ref);
    if backend.is_some_and(|backend| backend.service == of.id) {
        slots.saw(slot_of(&view.cluster_key, of, service.vip, key), hit.backend, now);
    }
}
