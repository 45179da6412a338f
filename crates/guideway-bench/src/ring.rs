//! `guideway bench ring`: handing packets from one worker to another, beside DPDK's ring.

use crate::calibration::Calibrator;
use crate::eal;
use crate::failure::{Failure, wrong};
use crate::machine::Cpus;
use crate::report::{Conditions, Maybe};
use crate::rounds::{self, CellSet};
use crate::statistics::{Figure, Interval};
use crate::tsc::Tsc;
use clap::Args;
use dpdk::clock::stamp;
use dpdk::{Eal, ring};
use serde::Serialize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use wire::CoreId;

/// Packets handed over at once.
const BURST: usize = 32;
/// Places of a ring, as the daemon has them.
const DEPTH: u32 = 256;
/// Packets of a window.
const ITEMS: u64 = 1 << 16;
/// Windows of a cell in a round.
const WINDOWS: usize = 4;
/// No round begins later than this.
const PATIENCE: Duration = Duration::from_secs(60);
/// Huge pages for EAL.
const MEMORY: u64 = 32 << 20;

/// Time the hand-off of packets between two cores, and within one, beside rte_ring (single producer, single consumer)
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Rounds
    #[arg(
        long,
        value_name = "N",
        default_value_t = 40,
        value_parser = clap::value_parser!(u32).range(1..=10_000),
    )]
    rounds: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// Huge pages for calibration and EAL.
    pub fn huge_bytes(&self) -> u64 {
        (160 << 20) + MEMORY
    }
}

/// What is printed.
#[derive(Clone, Debug, Serialize)]
struct RingReport {
    burst: usize,
    /// From one core to another, a packet.
    ours_ns: Maybe<Figure>,
    rte_ring_ns: Maybe<Figure>,
    ours_to_rte_ring: Maybe<Interval>,
    /// In and out on one core, a packet.
    ours_one_core_ns: Maybe<Figure>,
    rte_ring_one_core_ns: Maybe<Figure>,
    ours_to_rte_ring_one_core: Maybe<Interval>,
    #[serde(flatten)]
    conditions: Conditions,
    verified: bool,
}

/// Two ends of a ring.
trait RingEnds: Send {
    type In: Send;
    type Out: Send;
    fn push(end: &mut Self::In, items: &[u64]) -> usize;
    /// Takes up to a burst out; gives number and sum.
    fn pop(end: &mut Self::Out) -> (usize, u64);
}

struct OurRing;

impl RingEnds for OurRing {
    type In = statesync::Ports<u64>;
    type Out = statesync::Ports<u64>;

    #[inline]
    fn push(end: &mut Self::In, items: &[u64]) -> usize {
        end.send_burst(CoreId(1), &mut items.iter().copied())
    }

    #[inline]
    fn pop(end: &mut Self::Out) -> (usize, u64) {
        let mut sum = 0_u64;
        let count = end.receive(BURST, |_, item| sum = sum.wrapping_add(item));
        (count, sum)
    }
}

struct RteRing;

impl RingEnds for RteRing {
    type In = ring::RingSender;
    type Out = ring::RingReceiver;

    #[inline]
    fn push(end: &mut Self::In, items: &[u64]) -> usize {
        end.push(items)
    }

    #[inline]
    fn pop(end: &mut Self::Out) -> (usize, u64) {
        let mut items = [0; ring::BURST_MAX];
        let count = end.pop(&mut items, BURST);
        (count, items[..count].iter().fold(0, |sum: u64, item| sum.wrapping_add(*item)))
    }
}

/// Measures and prints.
///
/// # Errors
/// [`Failure`]; a packet lost is one.
pub fn run(arguments: &Arguments, cpus: Cpus) -> Result<(), Failure> {
    let tsc = Tsc::measure();
    let consumer = cpus.other()?;
    let eal = Eal::start(&eal::words(cpus.own, MEMORY), MEMORY, |_, _| ())?;
    let mut mesh = statesync::mesh::<u64>(2, DEPTH as usize);
    let (Some(mut to), Some(mut from)) = (mesh.pop(), mesh.pop()) else {
        return Err(wrong("no mesh of two"));
    };
    // Core 0 sends to core 1.
    std::mem::swap(&mut to, &mut from);
    let (mut sender, mut receiver) =
        ring::channel(&eal, "peer", DEPTH).map_err(|e| Failure::Machine(e.to_string()))?;
    let ours = std::cell::RefCell::new((&mut to, &mut from));
    let peer = std::cell::RefCell::new((&mut sender, &mut receiver));
    let mut calibrator = Calibrator::new(tsc)?;
    let measured = {
        let mut cells = CellSet::default();
        cells.add("ours", |windows| {
            let (to, from) = &mut *ours.borrow_mut();
            between::<OurRing>(to, from, consumer, tsc, windows)
        });
        cells.add("rte_ring", |windows| {
            let (to, from) = &mut *peer.borrow_mut();
            between::<RteRing>(to, from, consumer, tsc, windows)
        });
        cells.add("ours/one", |windows| {
            let (to, from) = &mut *ours.borrow_mut();
            within::<OurRing>(to, from, tsc, windows)
        });
        cells.add("rte_ring/one", |windows| {
            let (to, from) = &mut *peer.borrow_mut();
            within::<RteRing>(to, from, tsc, windows)
        });
        rounds::measure(&mut calibrator, &mut cells, arguments.rounds as usize, PATIENCE)?
    };
    let figure = |cell: &str| Maybe::from(measured.figure(cell)).rounded();
    let outcome = RingReport {
        burst: BURST,
        ours_ns: figure("ours"),
        rte_ring_ns: figure("rte_ring"),
        ours_to_rte_ring: Maybe::from(measured.ratio("ours", "rte_ring")).rounded(),
        ours_one_core_ns: figure("ours/one"),
        rte_ring_one_core_ns: figure("rte_ring/one"),
        ours_to_rte_ring_one_core: Maybe::from(measured.ratio("ours/one", "rte_ring/one")).rounded(),
        conditions: Conditions::from(&measured),
        verified: true,
    };
    if arguments.json {
        println!("{}", serde_json::to_string(&outcome)?);
    } else {
        println!(
            "between cores  {}; rte_ring {}; ratio {}\non one core    {}; rte_ring {}; ratio {}\n{}",
            outcome.ours_ns.words(),
            outcome.rte_ring_ns.words(),
            outcome.ours_to_rte_ring.words(),
            outcome.ours_one_core_ns.words(),
            outcome.rte_ring_one_core_ns.words(),
            outcome.ours_to_rte_ring_one_core.words(),
            outcome.conditions.words()
        );
    }
    Ok(())
}

/// From this core to another: the time until the last packet has arrived.
fn between<R: RingEnds>(
    to: &mut R::In,
    from: &mut R::Out,
    consumer: core_affinity::CoreId,
    tsc: Tsc,
    windows: &mut Vec<f64>,
) -> Result<(), Failure> {
    let items: Vec<u64> = (1..=BURST as u64).collect();
    let want = items.iter().sum::<u64>() * (ITEMS / BURST as u64);
    for _ in 0..WINDOWS {
        let (ready, done) = (AtomicBool::new(false), AtomicBool::new(false));
        let (ns, sum) = std::thread::scope(|scope| {
            let taker = scope.spawn(|| {
                core_affinity::set_for_current(consumer);
                ready.store(true, Ordering::Release);
                let (mut count, mut sum) = (0, 0_u64);
                while count < ITEMS {
                    let (some, of) = R::pop(from);
                    count += some as u64;
                    sum = sum.wrapping_add(of);
                    if some == 0 {
                        std::hint::spin_loop();
                    }
                }
                done.store(true, Ordering::Release);
                sum
            });
            while !ready.load(Ordering::Acquire) {
                std::hint::spin_loop();
            }
            let begin = stamp();
            for _ in 0..ITEMS / BURST as u64 {
                let mut rest = &items[..];
                while !rest.is_empty() {
                    rest = &rest[R::push(to, rest)..];
                }
            }
            while !done.load(Ordering::Acquire) {
                std::hint::spin_loop();
            }
            (tsc.nanoseconds(begin, stamp()), taker.join().unwrap_or(0))
        });
        if sum != want {
            return Err(wrong("packets were lost between two cores"));
        }
        windows.push(ns / ITEMS as f64);
    }
    Ok(())
}

/// A burst in, a burst out, on this core.
fn within<R: RingEnds>(
    to: &mut R::In,
    from: &mut R::Out,
    tsc: Tsc,
    windows: &mut Vec<f64>,
) -> Result<(), Failure> {
    let items: Vec<u64> = (1..=BURST as u64).collect();
    for _ in 0..WINDOWS {
        let mut count = 0;
        let begin = stamp();
        for _ in 0..ITEMS / BURST as u64 {
            R::push(to, &items);
            count += R::pop(from).0 as u64;
        }
        let ns = tsc.nanoseconds(begin, stamp());
        if count != ITEMS {
            return Err(wrong("packets were lost on one core"));
        }
        windows.push(ns / ITEMS as f64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_ring_keeps_everything() {
        let mut mesh = statesync::mesh::<u64>(2, DEPTH as usize);
        let mut from = mesh.pop().expect("core 1");
        let mut to = mesh.pop().expect("core 0");
        let mut windows = Vec::new();
        let tsc = Tsc::measure();
        within::<OurRing>(&mut to, &mut from, tsc, &mut windows).expect("nothing is lost");
        let core = core_affinity::get_core_ids().expect("cores")[0];
        between::<OurRing>(&mut to, &mut from, core, tsc, &mut windows).expect("nothing is lost");
        assert_eq!(windows.len(), 2 * WINDOWS);
    }
}
