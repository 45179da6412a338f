//! A device's queue before the engine, in the engine's own time.

use crate::engine::Rig;
use crate::failure::Failure;
use crate::gaps::GAP_NS;
use crate::quantiles::histogram;
use crate::random::{Picker, Random};
use hdrhistogram::Histogram;
use std::collections::VecDeque;

/// Packets that wait at the most: descriptors of a device's receive ring.
const ROOM: usize = 1024;

/// What became of the packets of a queue.
#[derive(Clone, Debug)]
pub(super) struct QueueTimes {
    /// From arrival to the end of the turn, nanoseconds.
    pub(super) residence: Histogram<u64>,
    pub(super) busy_turns: u64,
    /// Time of these.
    pub(super) busy_ns: f64,
    /// Time of all.
    pub(super) all_ns: f64,
    /// Turns longer than any turn takes.
    pub(super) gaps: u64,
    /// Packets that found the queue full.
    pub(super) overflowed: u64,
}

impl QueueTimes {
    /// `packets` packets through an empty queue, arriving every `between_ns` on average. An interrupted turn counts as `gap_ns`, or
    /// as it was measured.
    pub(super) fn run(
        rig: &mut Rig,
        picker: &mut Picker,
        between_ns: f64,
        gap_ns: Option<f64>,
        packets: u64,
    ) -> Result<QueueTimes, Failure> {
        let mut done = QueueTimes {
            residence: histogram()?,
            busy_turns: 0,
            busy_ns: 0.0,
            all_ns: 0.0,
            gaps: 0,
            overflowed: 0,
        };
        let mut random = Random::new(4);
        let (mut now, mut next_arrival) = (0.0_f64, 0.0_f64);
        let mut waiting = VecDeque::with_capacity(ROOM);
        while done.residence.len() < packets {
            while next_arrival <= now {
                if waiting.len() < ROOM {
                    waiting.push_back(next_arrival);
                } else {
                    done.overflowed += 1;
                }
                next_arrival -= between_ns * random.positive_unit().ln();
            }
            let taken = waiting.len().min(worker::BURST);
            let took = rig.turn_of(taken, picker)?;
            done.busy_turns += u64::from(taken > 0);
            done.gaps += u64::from(took > GAP_NS);
            let counted = gap_ns.filter(|_| took > GAP_NS).unwrap_or(took);
            done.busy_ns += if taken > 0 { counted } else { 0.0 };
            now += counted;
            for arrived in waiting.drain(..taken) {
                done.residence.saturating_record(((now - arrived) as u64).max(1));
            }
        }
        done.all_ns = now;
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Family, FlowsIn, Mode, Scene};
    use crate::quantiles::Quantiles;
    use crate::random::Spread;
    use crate::tsc::Tsc;

    fn rig() -> (Rig, Picker) {
        let scene = Scene::build(Mode::Ipip, Family::V4, 3, FlowsIn::All).expect("a scene");
        let rig = Rig::new(&scene, 1000, worker::BURST, Tsc::measure()).expect("a rig");
        (rig, Picker::new(Spread::Uniform, 1000, 1))
    }

    #[test]
    fn packets_stay_at_least_for_their_turn() {
        let (mut rig, mut picker) = rig();
        // So slow that each packet is alone, if the machine allows.
        let done = QueueTimes::run(&mut rig, &mut picker, 1e6, Some(1000.0), 50).expect("all packets hit");
        assert_eq!((done.residence.len(), done.overflowed), (50, 0));
        assert!(done.busy_turns <= 50);
        let quantiles = Quantiles::of(&done.residence);
        assert!(quantiles.p50 > 0 && quantiles.p50 <= quantiles.p99 && quantiles.p99 <= quantiles.max);
    }

    #[test]
    fn too_many_packets_do_not_wait_for_ever() {
        let (mut rig, mut picker) = rig();
        // A packet every nanosecond.
        let done = QueueTimes::run(&mut rig, &mut picker, 1.0, None, 5000).expect("all packets hit");
        assert!(done.overflowed > 1000, "{}", done.overflowed);
        assert!(done.busy_turns <= 5000 / 32 + 2, "bursts are full: {}", done.busy_turns);
    }
}
