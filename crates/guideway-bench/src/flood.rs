//! `guideway bench flood`: what established flows lose when every second packet is a SYN of a flow never seen before.

use crate::calibration::{Calibration, Calibrator};
use crate::engine::{self, Mode, Rig, Scene, State};
use crate::failure::{Failure, wrong};
use crate::random::{Picker, Spread};
use crate::report::Maybe;
use crate::rounds::{self, Cells};
use crate::statistics::{Figure, Interval};
use crate::tsc::Tsc;
use clap::Args;
use serde::Serialize;
use std::cell::RefCell;
use std::time::Duration;

/// Windows of a cell in a round.
const WINDOWS: usize = 64;
/// No round begins later than this.
const PATIENCE: Duration = Duration::from_secs(30);

/// Time established flows with and without a SYN flood, and count the entries they lose
///
/// The table has room for twice the established flows. In the flood every second packet is a SYN of another client; the
/// established flows' throughput is compared with that of the same share of the core without it. At the end every established
/// flow is asked for.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Established flows
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1000..=16_000_000))]
    flows: u64,
    /// Rounds
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// Huge pages for the table and calibration.
    pub fn huge_bytes(&self) -> u64 {
        engine::table_bytes(2 * self.flows) as u64 + (192 << 20)
    }
}

/// What is printed.
#[derive(Clone, Debug, Serialize)]
struct Outcome {
    flows: u64,
    quiet_ns: Maybe<Figure>,
    flood_ns: Maybe<Figure>,
    /// Share of throughput that established flows lose.
    established_loss: Maybe<Interval>,
    syns: u64,
    /// Of these, flows for which there was no room or no quota left: steered by the slot table alone.
    refused: u64,
    entries_lost: u64,
    calibration: Calibration,
    rounds_kept: usize,
    rounds_total: usize,
    pages: &'static str,
    verified: bool,
}

/// Measures and prints.
///
/// # Errors
/// [`Failure`]; an established packet that misses is one.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let tsc = Tsc::measure();
    let scene = Scene::build(Mode::Ipip, 1000, State::All)?;
    let rig = Rig::with_room(&scene, arguments.flows, 2 * arguments.flows, worker::BURST, tsc)?;
    let rig = RefCell::new(rig);
    let mut calibrator = Calibrator::new(tsc)?;
    let mut syns = 0;
    let measured = {
        let mut quiet = Picker::new(Spread::Uniform, arguments.flows, 1);
        let mut flood = Picker::new(Spread::Uniform, arguments.flows, 2);
        let mut cells = Cells::default();
        cells.add("quiet", |windows| {
            for _ in 0..WINDOWS {
                windows.push(rig.borrow_mut().window(&mut quiet)?);
            }
            Ok(())
        });
        cells.add("flood", |windows| {
            for _ in 0..WINDOWS {
                windows.push(rig.borrow_mut().flood_window(&mut flood, arguments.flows, &mut syns)?);
            }
            Ok(())
        });
        rounds::measure(&mut calibrator, &mut cells, arguments.rounds as usize, PATIENCE)?
    };
    let mut rig = rig.into_inner();
    // Each of them must be there still, or this fails.
    rig.ask_all(arguments.flows)?;
    let refused = rig.refused();
    if syns == 0 {
        return Err(wrong("there was no flood"));
    }
    let loss = measured.derived(&["quiet", "flood"], |v| 1.0 - v[0] / v[1]);
    let outcome = Outcome {
        flows: arguments.flows,
        quiet_ns: Maybe::from(measured.figure("quiet")).rounded(),
        flood_ns: Maybe::from(measured.figure("flood")).rounded(),
        established_loss: Maybe::from(loss).rounded(),
        syns,
        refused,
        entries_lost: 0,
        calibration: measured.calibration.rounded(),
        rounds_kept: measured.rounds_kept(),
        rounds_total: measured.rounds_total,
        pages: rig.pages().name(),
        verified: true,
    };
    if arguments.json {
        println!("{}", serde_json::to_string(&outcome)?);
    } else {
        println!(
            "{} established flows: {} a packet; in the flood {}; throughput lost {}\n\
             {} SYNs of new flows, {} of them not remembered, {} established entries lost; {} of {} rounds kept",
            outcome.flows,
            outcome.quiet_ns.words(),
            outcome.flood_ns.words(),
            outcome.established_loss.words(),
            outcome.syns,
            outcome.refused,
            outcome.entries_lost,
            outcome.rounds_kept,
            outcome.rounds_total
        );
    }
    Ok(())
}
