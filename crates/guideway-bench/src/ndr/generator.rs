//! Sends at a rate and receives, in one thread: time comes from one clock, and the schedule never waits for the device.

use super::device::{QUEUE_SIZE, TestBed};
use super::frame::{Destination, ProbeWriter, Sizes};
use super::trial::{SAMPLES, Trial, TrialWindows};
use crate::failure::Failure;
use crate::gaps::{GAP_NS, Gaps};
use crate::tsc::Tsc;
use dpdk::clock::cycles;
use dpdk::{Device, DpdkIo, Eal, Mbuf, Mempool, PortSetup, mempool};
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
pub(super) struct PortPair {
    send: PortId,
    receive: PortId,
}

/// What to send.
#[derive(Clone, Debug)]
pub(super) struct Order<'a> {
    pub(super) lane: PortPair,
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
    lanes: Vec<PortPair>,
    writer: ProbeWriter,
    tsc: Tsc,
    trial: u32,
    /// Memory for a trial's latencies.
    samples: Vec<(u32, u32)>,
    // Closed last.
    _ports: Vec<dpdk::Port>,
}

impl Generator {
    /// Opens the devices.
    pub(super) fn open(setup: &TestBed, target: &Destination, tsc: Tsc) -> Result<Generator, Failure> {
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
            true => numbers.map(|n| PortPair { send: PortId(n), receive: PortId(n) }).collect(),
            false => vec![PortPair { send: PortId(0), receive: PortId(numbers.end.saturating_sub(1)) }],
        };
        let io = DpdkIo::new(queues, pool);
        // Written once, so that no trial has to wait for the kernel to give a page.
        let samples = vec![(1, 1); SAMPLES];
        Ok(Generator { io, lanes, writer: ProbeWriter::new(target), tsc, trial: 0, samples, _ports: ports })
    }

    /// Where packets can be sent: a lane for each device under test.
    pub(super) fn lanes(&self) -> &[PortPair] {
        &self.lanes
    }

    /// Sends slowly until something comes back.
    pub(super) fn wait_for_echo(&mut self, lane: PortPair) -> Result<(), Failure> {
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
        let samples = if order.latencies { std::mem::take(&mut self.samples) } else { Vec::new() };
        let mut course = Course::new(order, cycles_per_ns, samples);
        let (quiet, drain) = (in_cycles(QUIET, cycles_per_ns), in_cycles(DRAIN, cycles_per_ns));
        let (mut waiting, mut burst) = (Frames::new(), Frames::new());
        let mut waiting_due = 0;
        let begin = cycles();
        loop {
            let now = cycles() - begin;
            course.see_own_gap(now);
            if now < course.end {
                if waiting.is_empty() {
                    waiting_due = self.fill(&mut waiting, &mut course, begin, now);
                }
                let offered = waiting.len();
                self.io.tx(order.lane.send, &mut waiting);
                course.note_sent(offered - waiting.len(), waiting_due, now);
            }
            self.io.rx(order.lane.receive, &mut burst);
            if !burst.is_empty() {
                let now = cycles() - begin;
                course.see_silence(now);
                for frame in &burst {
                    let Some(due) = ProbeWriter::due(frame.bytes(), self.trial) else { continue };
                    course.received += 1;
                    course.windows.received(due.saturating_sub(begin), now, course.received);
                }
                self.io.recycle(&mut burst);
            }
            let is_over = course.received >= course.sent
                || now.saturating_sub(course.heard.max(course.end)) > quiet
                || now >= course.end + drain;
            if now >= course.end && is_over {
                break;
            }
        }
        self.io.recycle(&mut waiting);
        let (trial, samples) = course.into_trial()?;
        if order.latencies {
            self.samples = samples;
        }
        Ok(trial)
    }

    /// Makes the packets that are due, at most a burst; gives when the first of them was.
    #[inline]
    fn fill(&mut self, waiting: &mut Frames<Mbuf>, course: &mut Course<'_>, begin: u64, now: u64) -> u64 {
        let count = course.due(now).saturating_sub(course.made.packets).min(BURST as u64) as usize;
        self.io.alloc(count, waiting);
        let mut waiting_due = now;
        for (position, frame) in waiting.iter_mut().enumerate() {
            let due = course.due_of_next(now);
            if position == 0 {
                waiting_due = due;
            }
            let sizes = course.order.sizes;
            if frame.set_len(sizes.len(course.made.turn)).is_ok() {
                self.writer.write(frame.bytes_mut(), course.made.flow, begin + due, self.trial);
            }
            course.made.advance(sizes.turns(), self.writer.flows());
        }
        waiting_due
    }
}

fn in_cycles(time: Duration, cycles_per_ns: f64) -> u64 {
    (time.as_nanos() as f64 * cycles_per_ns) as u64
}

/// A trial while it runs. Times are cycles from its begin.
struct Course<'o> {
    order: &'o Order<'o>,
    /// Packets are due at a rate, not as soon as possible.
    paced: bool,
    /// Packets a cycle.
    per_cycle: f64,
    cycles_each: f64,
    /// Silence is a gap of the machine's, too.
    listens: bool,
    /// When the last packet is due.
    end: u64,
    /// The shortest gap that counts.
    gap: u64,
    windows: TrialWindows,
    own_gaps: Gap,
    silences: Gap,
    made: Made,
    sent: u64,
    received: u64,
    /// Since then nothing has come although something should have.
    heard: u64,
    /// The loop's last round.
    last: u64,
    /// The schedule stood still for so long.
    stopped: u64,
}

impl<'o> Course<'o> {
    fn new(order: &'o Order<'o>, cycles_per_ns: f64, samples: Vec<(u32, u32)>) -> Course<'o> {
        let gap = (GAP_NS * cycles_per_ns) as u64;
        let paced = order.pps.is_finite();
        let per_cycle = order.pps / 1e9 / cycles_per_ns;
        let expected = if paced { order.pps * order.length.as_secs_f64() } else { 0.0 };
        let gaps = Gap { limit: gap, cycles_per_ns, ..Gap::default() };
        Course {
            order,
            paced,
            per_cycle,
            cycles_each: 1.0 / per_cycle,
            listens: !paced || order.pps >= SILENCE_PPS_MIN,
            end: in_cycles(order.length, cycles_per_ns),
            gap,
            windows: TrialWindows::new(order.length, expected, samples, cycles_per_ns),
            own_gaps: gaps,
            silences: gaps,
            made: Made::default(),
            sent: 0,
            received: 0,
            heard: 0,
            last: 0,
            stopped: 0,
        }
    }

    /// What a gap costs was sent before it: so long a time's packets are in the rings of both directions.
    fn under_way(&self) -> u64 {
        if !self.paced {
            return 0;
        }
        let packets = self.sent.saturating_sub(self.received).min(2 * u64::from(QUEUE_SIZE));
        (packets as f64 * self.cycles_each) as u64
    }

    /// Takes off the time in which this loop itself did not run.
    #[inline]
    fn see_own_gap(&mut self, now: u64) {
        if now - self.last > self.gap && self.last < self.end {
            let from = self.last;
            self.own_gaps.see(from, now);
            self.windows.disturb(from - self.under_way().min(from), now);
            // What did not come meanwhile is not the device's fault.
            self.heard = now;
            if !self.order.latencies {
                self.stopped += now - from;
            }
        }
        self.last = now;
    }

    /// Takes off the time in which nothing came; something has come now.
    #[inline]
    fn see_silence(&mut self, now: u64) {
        if self.listens && self.heard < self.end && now - self.heard > self.gap {
            self.silences.see(self.heard, now);
            self.windows.disturb(self.heard - self.under_way().min(self.heard), now);
            if !self.order.latencies {
                // No packet is due that could not have been taken.
                self.stopped += now - self.heard;
            }
        }
        self.heard = now;
    }

    #[inline]
    fn note_sent(&mut self, count: usize, due: u64, now: u64) {
        if count > 0 {
            if self.sent == self.received {
                self.heard = now;
            }
            self.sent += count as u64;
            self.windows.sent(due, count);
        }
    }

    /// How many packets are due by now, from the begin.
    #[inline]
    fn due(&self, now: u64) -> u64 {
        if self.paced { ((now - self.stopped) as f64 * self.per_cycle) as u64 } else { u64::MAX }
    }

    /// When the next packet is due.
    #[inline]
    fn due_of_next(&self, now: u64) -> u64 {
        if self.paced { (self.made.packets as f64 * self.cycles_each) as u64 + self.stopped } else { now }
    }

    /// What came of it, and the memory for latencies.
    fn into_trial(self) -> Result<(Trial, Vec<(u32, u32)>), Failure> {
        let working = self.end - self.stopped.min(self.end);
        let scheduled = if self.paced { (working as f64 * self.per_cycle) as u64 } else { self.sent };
        let seconds = self.order.length.as_secs_f64();
        let watched = |gaps: Gap| Gaps { watched_us: seconds * 1e6, ..gaps.seen };
        let trial = Trial {
            sent: self.sent,
            received: self.received,
            scheduled,
            lost_undisturbed: self.windows.lost(),
            seconds,
            own_gaps: watched(self.own_gaps),
            silences: watched(self.silences),
            latencies: self.windows.latencies()?,
        };
        Ok((trial, self.windows.into_samples()))
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
