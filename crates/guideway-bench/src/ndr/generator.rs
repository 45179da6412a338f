//! Sends at a rate and receives, in one thread: time comes from one clock, and the schedule never waits for the device.

use super::device::{QUEUE_SIZE, Setup};
use super::frame::{Sizes, Target, Writer};
use super::trial::{SAMPLES, Trial, Windows};
use crate::failure::Failure;
use crate::gaps::{GAP_NS, Gaps};
use crate::tsc::Tsc;
use dpdk::clock::cycles;
use dpdk::{Device, DpdkIo, Eal, Mempool, PortSetup, mempool};
use std::time::Duration;
use wire::PortId;
use worker::{BURST, Frame, Frames, PacketIo};

/// Packet buffers: rings of all ports and what is under way.
const BUFFERS: u32 = 16_383;
/// Time for stragglers after the last packet of a trial.
const DRAIN: Duration = Duration::from_millis(500);
/// When nothing has come for so long after the end, nothing will.
const QUIET: Duration = Duration::from_millis(20);
/// A device behind a socket takes so long to connect at the most.
const PATIENCE: Duration = Duration::from_secs(10);
/// Packets come back with a tunnel's headers.
const MTU: u16 = 1600;
/// Below this rate, packets a second, silence says nothing.
const SILENCE_PPS_MIN: f64 = 200_000.0;

/// A port to send on and one to receive on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lane {
    send: PortId,
    receive: PortId,
}

/// What to send.
#[derive(Clone, Debug)]
pub(super) struct Order<'a> {
    pub(super) lane: Lane,
    pub(super) sizes: &'a Sizes,
    /// Packets a second; infinity for as fast as possible.
    pub(super) pps: f64,
    pub(super) length: Duration,
    /// Keep latencies. The schedule then runs on while the machine does something else; without latencies it stands still.
    pub(super) latencies: bool,
}

/// Sender and receiver.
#[derive(Debug)]
pub(super) struct Generator {
    io: DpdkIo,
    lanes: Vec<Lane>,
    writer: Writer,
    tsc: Tsc,
    trial: u32,
    /// Memory for a trial's latencies.
    samples: Vec<(u32, u32)>,
    // Closed last.
    _ports: Vec<dpdk::Port>,
}

impl Generator {
    /// Opens the devices.
    pub(super) fn open(setup: &Setup, target: &Target, tsc: Tsc) -> Result<Generator, Failure> {
        let eal = Eal::start(&setup.eal_words(), 128 << 20, |_, _| ())?;
        let room = mempool::data_room(MTU, false);
        let failed = |e: &dyn std::fmt::Display| Failure::Machine(e.to_string());
        let pool = Mempool::create(&eal, "generator", BUFFERS, room, None).map_err(|e| failed(&e))?;
        let (mut ports, mut queues) = (Vec::new(), Vec::new());
        for device in setup.devices() {
            let found = Device::find(&eal, device).map_err(|e| failed(&e))?;
            let mtu = MTU.min(found.info().mtu_max);
            let port = PortSetup { queues: 1, mtu, mac: None, promiscuous: true, rss: false };
            let mut started = found.start(&port, &pool).map_err(|e| failed(&e))?;
            queues.extend(started.take_queues());
            ports.push(started);
        }
        let numbers = 0..ports.len() as u16;
        let lanes = match setup.is_echo() {
            true => numbers.map(|n| Lane { send: PortId(n), receive: PortId(n) }).collect(),
            false => vec![Lane { send: PortId(0), receive: PortId(numbers.end.saturating_sub(1)) }],
        };
        let io = DpdkIo::new(queues, pool);
        // Written once, so that no trial has to wait for the kernel to give a page.
        let samples = vec![(1, 1); SAMPLES];
        Ok(Generator { io, lanes, writer: Writer::new(target), tsc, trial: 0, samples, _ports: ports })
    }

    /// Where packets can be sent: a lane for each device under test.
    pub(super) fn lanes(&self) -> &[Lane] {
        &self.lanes
    }

    /// Sends slowly until something comes back.
    pub(super) fn wait_for_echo(&mut self, lane: Lane) -> Result<(), Failure> {
        let started = std::time::Instant::now();
        let sizes = Sizes::One(64);
        let length = Duration::from_millis(20);
        let order = Order { lane, sizes: &sizes, pps: 20_000.0, length, latencies: false };
        while started.elapsed() < PATIENCE {
            if self.trial(&order)?.received > 0 {
                return Ok(());
            }
        }
        Err(Failure::Machine("nothing that is sent comes back: is the device forwarding, and to us?".into()))
    }

    /// One trial.
    pub(super) fn trial(&mut self, order: &Order<'_>) -> Result<Trial, Failure> {
        self.trial = self.trial.wrapping_add(1);
        let cycles_per_ns = self.tsc.cycles_per_ns();
        let in_cycles = |time: Duration| (time.as_nanos() as f64 * cycles_per_ns) as u64;
        let (end, quiet) = (in_cycles(order.length), in_cycles(QUIET));
        let give_up = end + in_cycles(DRAIN);
        let gap = (GAP_NS * cycles_per_ns) as u64;
        let paced = order.pps.is_finite();
        let per_cycle = order.pps / 1e9 / cycles_per_ns;
        let cycles_each = 1.0 / per_cycle;
        let expected = if paced { order.pps * order.length.as_secs_f64() } else { 0.0 };
        let samples = if order.latencies { std::mem::take(&mut self.samples) } else { Vec::new() };
        let mut windows = Windows::new(order.length, expected, samples, cycles_per_ns);
        let listens = !paced || order.pps >= SILENCE_PPS_MIN;
        let mut gaps = Gap { limit: gap, cycles_per_ns, ..Gap::default() };
        let mut silences = Gap { limit: gap, cycles_per_ns, ..Gap::default() };
        let mut made = Made::default();
        let (mut sent, mut received) = (0_u64, 0_u64);
        let (mut waiting, mut burst) = (Frames::new(), Frames::new());
        let mut waiting_due = 0;
        // Since then nothing has come although something should have.
        let mut heard = 0;
        let mut last = 0;
        // The schedule stood still for so long.
        let mut stopped = 0;
        // What a gap costs was sent before it: so long a time's packets are in the rings of both directions.
        let under_way = |sent: u64, received: u64| match paced {
            true => {
                (sent.saturating_sub(received).min(2 * u64::from(QUEUE_SIZE)) as f64 * cycles_each) as u64
            }
            false => 0,
        };
        let begin = cycles();
        loop {
            let now = cycles() - begin;
            if now - last > gap && last < end {
                let from = last;
                gaps.see(from, now);
                windows.disturb(from - under_way(sent, received).min(from), now);
                // What did not come meanwhile is not the device's fault.
                heard = now;
                if !order.latencies {
                    stopped += now - from;
                }
            }
            last = now;
            if now < end {
                if waiting.is_empty() {
                    let due = if paced { ((now - stopped) as f64 * per_cycle) as u64 } else { u64::MAX };
                    let count = due.saturating_sub(made.packets).min(BURST as u64) as usize;
                    self.io.alloc(count, &mut waiting);
                    waiting_due = now;
                    for (position, frame) in waiting.iter_mut().enumerate() {
                        let due =
                            if paced { (made.packets as f64 * cycles_each) as u64 + stopped } else { now };
                        if position == 0 {
                            waiting_due = due;
                        }
                        if frame.set_len(order.sizes.len(made.turn)).is_ok() {
                            self.writer.write(frame.bytes_mut(), made.flow, begin + due, self.trial);
                        }
                        made.advance(order.sizes.turns(), self.writer.flows());
                    }
                }
                let offered = waiting.len();
                self.io.tx(order.lane.send, &mut waiting);
                let count = offered - waiting.len();
                if count > 0 {
                    if sent == received {
                        heard = now;
                    }
                    sent += count as u64;
                    windows.sent(waiting_due, count);
                }
            }
            self.io.rx(order.lane.receive, &mut burst);
            if !burst.is_empty() {
                let now = cycles() - begin;
                if listens && heard < end && now - heard > gap {
                    silences.see(heard, now);
                    windows.disturb(heard - under_way(sent, received).min(heard), now);
                    if !order.latencies {
                        // No packet is due that could not have been taken.
                        stopped += now - heard;
                    }
                }
                heard = now;
                for frame in &burst {
                    let Some(due) = Writer::due(frame.bytes(), self.trial) else { continue };
                    received += 1;
                    windows.received(due.saturating_sub(begin), now, received);
                }
                self.io.recycle(&mut burst);
            }
            let silent = now.saturating_sub(heard.max(end)) > quiet;
            if now >= end && (received >= sent || silent || now >= give_up) {
                break;
            }
        }
        self.io.recycle(&mut waiting);
        let stood_still = stopped.min(end);
        let scheduled = if paced { ((end - stood_still) as f64 * per_cycle) as u64 } else { sent };
        let seconds = order.length.as_secs_f64();
        let watched = |gaps: Gap| Gaps { watched_us: seconds * 1e6, ..gaps.seen };
        let trial = Trial {
            sent,
            received,
            scheduled,
            lost_undisturbed: windows.lost(),
            seconds,
            own_gaps: watched(gaps),
            silences: watched(silences),
            latencies: windows.latencies()?,
        };
        if order.latencies {
            self.samples = windows.into_samples();
        }
        Ok(trial)
    }
}

/// What was made so far: counters that wrap without a division.
#[derive(Clone, Copy, Debug, Default)]
struct Made {
    packets: u64,
    /// Of the next packet.
    flow: u64,
    /// Of the next packet.
    turn: usize,
}

impl Made {
    #[inline]
    fn advance(&mut self, turns: usize, flows: u64) {
        self.packets += 1;
        self.flow = if self.flow + 1 < flows { self.flow + 1 } else { 0 };
        self.turn = if self.turn + 1 < turns { self.turn + 1 } else { 0 };
    }
}

/// Times longer than a limit.
#[derive(Clone, Copy, Debug, Default)]
struct Gap {
    limit: u64,
    cycles_per_ns: f64,
    seen: Gaps,
}

impl Gap {
    #[cold]
    fn see(&mut self, from: u64, to: u64) {
        debug_assert!(to - from > self.limit);
        self.seen.see((to - from) as f64 / self.cycles_per_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_and_sizes_go_round() {
        let mut made = Made::default();
        let mut seen = Vec::new();
        for _ in 0..6 {
            seen.push((made.flow, made.turn));
            made.advance(2, 3);
        }
        assert_eq!(seen, [(0, 0), (1, 1), (2, 0), (0, 1), (1, 0), (2, 1)]);
        assert_eq!(made.packets, 6);
    }
}
