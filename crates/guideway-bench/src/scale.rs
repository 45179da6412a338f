//! `guideway bench scale`: one worker alone, and beside a second one on another CPU.

use crate::calibration::{Calibration, Calibrator};
use crate::engine::{self, Mode, Rig, Scene, State};
use crate::failure::{Failure, wrong};
use crate::machine::Cpus;
use crate::random::{Picker, Spread};
use crate::report::Maybe;
use crate::rounds::{self, Cells};
use crate::statistics::{Figure, Interval};
use crate::tsc::Tsc;
use clap::Args;
use serde::Serialize;
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Windows of a cell in a round.
const WINDOWS: usize = 64;
/// No round begins later than this.
const PATIENCE: Duration = Duration::from_secs(30);

/// Time one worker alone and two workers side by side, each with its own table
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Flows of each worker
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=16_000_000))]
    flows: u64,
    /// Rounds
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// Huge pages for two tables and calibration.
    pub fn huge_bytes(&self) -> u64 {
        2 * engine::table_bytes(self.flows) as u64 + (192 << 20)
    }
}

/// What is printed.
#[derive(Clone, Debug, Serialize)]
struct Outcome {
    flows: u64,
    one_ns: Maybe<Figure>,
    /// The first worker's packet while the second one works too.
    two_ns: Maybe<Figure>,
    /// Packets a second of two over twice that of one: the share of perfect scaling that is reached.
    efficiency: Maybe<Interval>,
    calibration: Calibration,
    rounds_kept: usize,
    rounds_total: usize,
    verified: bool,
}

/// Measures and prints.
///
/// # Errors
/// [`Failure`]; a packet that misses is one.
pub fn run(arguments: &Arguments, cpus: Cpus) -> Result<(), Failure> {
    let tsc = Tsc::measure();
    let second_core = cpus.other()?;
    let scene = Scene::build(Mode::Ipip, 1000, State::All)?;
    let first = RefCell::new(Rig::new(&scene, arguments.flows, worker::BURST, tsc)?);
    let mut second = Rig::new(&scene, arguments.flows, worker::BURST, tsc)?;
    let mut calibrator = Calibrator::new(tsc)?;
    let measured = {
        let mut alone = Picker::new(Spread::Uniform, arguments.flows, 1);
        let mut beside = Picker::new(Spread::Uniform, arguments.flows, 2);
        let mut other = Picker::new(Spread::Uniform, arguments.flows, 3);
        let mut cells = Cells::default();
        cells.add("one", |windows| {
            for _ in 0..WINDOWS {
                windows.push(first.borrow_mut().window(&mut alone)?);
            }
            Ok(())
        });
        cells.add("two", |windows| {
            let (ready, stop) = (AtomicBool::new(false), AtomicBool::new(false));
            std::thread::scope(|scope| {
                let running = scope.spawn(|| {
                    core_affinity::set_for_current(second_core);
                    while !stop.load(Ordering::Relaxed) {
                        let window = second.window(&mut other);
                        ready.store(true, Ordering::Release);
                        window?;
                    }
                    Ok::<(), Failure>(())
                });
                while !ready.load(Ordering::Acquire) {
                    std::hint::spin_loop();
                }
                let result = (0..WINDOWS).try_for_each(|_| {
                    windows.push(first.borrow_mut().window(&mut beside)?);
                    Ok(())
                });
                stop.store(true, Ordering::Relaxed);
                result.and(running.join().unwrap_or_else(|_| Err(wrong("the second worker ended"))))
            })
        });
        rounds::measure(&mut calibrator, &mut cells, arguments.rounds as usize, PATIENCE)?
    };
    let outcome = Outcome {
        flows: arguments.flows,
        one_ns: Maybe::from(measured.figure("one")).rounded(),
        two_ns: Maybe::from(measured.figure("two")).rounded(),
        efficiency: Maybe::from(measured.ratio("one", "two")).rounded(),
        calibration: measured.calibration.rounded(),
        rounds_kept: measured.rounds_kept(),
        rounds_total: measured.rounds_total,
        verified: true,
    };
    if arguments.json {
        println!("{}", serde_json::to_string(&outcome)?);
    } else {
        println!(
            "one worker {}; beside a second {}; efficiency {}; {} of {} rounds kept",
            outcome.one_ns.words(),
            outcome.two_ns.words(),
            outcome.efficiency.words(),
            outcome.rounds_kept,
            outcome.rounds_total
        );
    }
    Ok(())
}
