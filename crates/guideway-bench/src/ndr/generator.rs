//! Sends at a rate and receives, in one thread: time comes from one clock, and the schedule never waits for the device.

use super::device::Setup;
use super::frame::{Sizes, Target, Writer};
use crate::failure::Failure;
use crate::tsc::Tsc;
use dpdk::clock::cycles;
use dpdk::{Device, DpdkIo, Eal, Mempool, PortSetup, mempool};
use hdrhistogram::Histogram;
use std::time::Duration;
use wire::PortId;
use worker::{BURST, Burst, Frame, PacketIo};

/// Packet buffers: rings of two ports and what is under way.
const BUFFERS: u32 = 16_383;
/// Time for stragglers after the last packet of a trial.
const DRAIN: Duration = Duration::from_millis(500);
/// A device behind a socket takes so long to connect at the most.
const PATIENCE: Duration = Duration::from_secs(10);
/// Below this share of the schedule a trial did not offer what it should.
const OFFERED_MIN: f64 = 0.99;

/// What a trial gave.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Trial {
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Packets of the schedule.
    pub(super) scheduled: u64,
    pub(super) seconds: f64,
}

impl Trial {
    pub(super) fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }

    /// What came back, packets a second.
    pub(super) fn received_pps(&self) -> f64 {
        self.received as f64 / self.seconds
    }

    /// Whether the rate was offered, and no more lost than allowed.
    pub(super) fn passes(&self, loss_ppm: u64) -> bool {
        let offered = self.sent as f64 >= self.scheduled as f64 * OFFERED_MIN;
        offered && self.sent > 0 && self.lost() * 1_000_000 <= self.sent * loss_ppm
    }
}

/// Sender and receiver.
#[derive(Debug)]
pub(super) struct Generator {
    io: DpdkIo,
    receive_on: PortId,
    writer: Writer,
    tsc: Tsc,
    trial: u32,
    // Closed last.
    _ports: Vec<dpdk::Port>,
}

impl Generator {
    /// Opens the devices.
    pub(super) fn open(setup: &Setup, target: &Target, tsc: Tsc) -> Result<Generator, Failure> {
        let eal = Eal::start(&setup.eal_words(), 128 << 20, |_, _| ())?;
        let room = mempool::data_room(1500, false);
        let failed = |e: &dyn std::fmt::Display| Failure::Machine(e.to_string());
        let pool = Mempool::create(&eal, "generator", BUFFERS, room, None).map_err(|e| failed(&e))?;
        let port = PortSetup { queues: 1, mtu: 1500, mac: None, promiscuous: true, rss: false };
        let (mut ports, mut queues) = (Vec::new(), Vec::new());
        for device in setup.devices() {
            let found = Device::find(&eal, device).map_err(|e| failed(&e))?;
            let mut started = found.start(&port, &pool).map_err(|e| failed(&e))?;
            queues.extend(started.take_queues());
            ports.push(started);
        }
        let receive_on = PortId(ports.len().saturating_sub(1) as u16);
        let io = DpdkIo::new(queues, pool);
        Ok(Generator { io, receive_on, writer: Writer::new(target), tsc, trial: 0, _ports: ports })
    }

    /// Sends slowly until something comes back.
    pub(super) fn wait_for_echo(&mut self) -> Result<(), Failure> {
        let started = std::time::Instant::now();
        while started.elapsed() < PATIENCE {
            let trial = self.trial(&Sizes::One(64), 20_000.0, Duration::from_millis(20), None)?;
            if trial.received > 0 {
                return Ok(());
            }
        }
        Err(Failure::Machine("nothing that is sent comes back: is the device forwarding, and to us?".into()))
    }

    /// Sends `pps` packets a second for `length`; infinity for as fast as possible.
    pub(super) fn trial(
        &mut self,
        sizes: &Sizes,
        pps: f64,
        length: Duration,
        mut latency: Option<&mut Histogram<u64>>,
    ) -> Result<Trial, Failure> {
        self.trial = self.trial.wrapping_add(1);
        let per_cycle = pps / 1e9 * self.tsc.cycles_per_ns();
        let in_cycles = |time: Duration| (time.as_nanos() as f64 * self.tsc.cycles_per_ns()) as u64;
        let begin = cycles();
        let end = begin + in_cycles(length);
        let give_up = end + in_cycles(DRAIN);
        let (mut made, mut sent, mut received) = (0_u64, 0_u64, 0_u64);
        let mut waiting = Burst::new();
        let mut burst = Burst::new();
        loop {
            let now = cycles();
            if now < end {
                if waiting.is_empty() {
                    let due =
                        if pps.is_finite() { ((now - begin) as f64 * per_cycle) as u64 } else { u64::MAX };
                    let count = due.saturating_sub(made).min(BURST as u64) as usize;
                    self.io.alloc(count, &mut waiting);
                    for frame in &mut waiting {
                        let due =
                            if pps.is_finite() { begin + (made as f64 / per_cycle) as u64 } else { now };
                        if frame.set_len(sizes.len(made)).is_ok() {
                            self.writer.write(frame.bytes_mut(), made, due, self.trial);
                        }
                        made += 1;
                    }
                }
                let offered = waiting.len();
                self.io.tx(PortId(0), &mut waiting);
                sent += (offered - waiting.len()) as u64;
            }
            self.io.rx(self.receive_on, &mut burst);
            if !burst.is_empty() {
                let now = cycles();
                for frame in &burst {
                    let Some(due) = Writer::due(frame.bytes(), self.trial) else { continue };
                    received += 1;
                    if let Some(histogram) = latency.as_deref_mut() {
                        let ns = self.tsc.nanoseconds(due, now) as u64;
                        histogram.saturating_record(ns.max(1));
                    }
                }
                self.io.recycle(&mut burst);
            }
            if now >= end && (received >= sent || now >= give_up) {
                break;
            }
        }
        self.io.recycle(&mut waiting);
        let seconds = length.as_secs_f64();
        let scheduled = if pps.is_finite() { (pps * seconds) as u64 } else { sent };
        Ok(Trial { sent, received, scheduled, seconds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_passes_when_all_was_offered_and_came_back() {
        let trial = |sent, received| Trial { sent, received, scheduled: 1000, seconds: 0.5 };
        assert!(trial(1000, 1000).passes(0));
        assert!(!trial(1000, 999).passes(0));
        assert!(trial(1000, 999).passes(1000));
        assert!(!trial(900, 900).passes(0), "the generator was too slow");
        assert_eq!(trial(1000, 900).lost(), 100);
        assert_eq!(trial(1000, 900).received_pps(), 1800.0);
    }
}
