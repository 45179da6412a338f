//! `guideway bench flood`: what established flows lose when 10, 50 and 90 % of the packets are SYNs of flows never seen before.

use crate::calibration::Calibrator;
use crate::engine::{self, Family, FlowsIn, Mode, Rig, Scene};
use crate::failure::{Failure, wrong};
use crate::options::Options;
use crate::random::{Picker, Spread};
use crate::report::{self, Conditions, Maybe};
use crate::rounds::CellSet;
use crate::statistics::{Figure, Interval};
use crate::tsc::Tsc;
use clap::Args;
use serde::Serialize;
use std::cell::RefCell;

/// Windows of a cell in a round.
const WINDOWS: usize = 32;
/// Shares of SYNs among all packets, percent.
const MIXES_PERCENT: [usize; 3] = [10, 50, 90];

/// Time established flows with and without a SYN flood, and count the entries they lose
///
/// The table has room for twice the established flows. In the flood 10, 50 or 90 % of the packets are SYNs of other clients; the
/// established flows' throughput is compared with that of the same share of the core without it. At the end every established
/// flow is asked for.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Established flows
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u64).range(1000..=16_000_000),
    )]
    flows: u64,
    #[command(flatten)]
    options: Options,
}

impl Arguments {
    /// Huge pages for the table and calibration.
    pub fn huge_bytes(&self) -> u64 {
        engine::table_bytes(Family::V4, 2 * self.flows) as u64 + (192 << 20)
    }
}

/// What is printed.
#[derive(Clone, Debug, Serialize)]
struct FloodReport {
    flows: u64,
    quiet_ns: Maybe<Figure>,
    mixes: Vec<Mix>,
    /// SYNs in all.
    syns: u64,
    /// Of these, flows for which there was no room or no quota left: steered by the slot table alone.
    refused: u64,
    entries_lost: u64,
    #[serde(flatten)]
    conditions: Conditions,
    pages: &'static str,
    verified: bool,
}

/// One share of SYNs.
#[derive(Clone, Copy, Debug, Serialize)]
struct Mix {
    syn_percent: usize,
    /// A packet of either kind.
    ns_per_packet: Maybe<Figure>,
    /// Share of throughput that established flows lose.
    established_loss: Maybe<Interval>,
}

/// Measures and prints.
///
/// # Errors
/// [`Failure`]; an established packet that misses is one.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let tsc = Tsc::measure();
    let flows = arguments.flows;
    let scene = Scene::build(Mode::Ipip, Family::V4, 1000, FlowsIn::All)?;
    let rig = RefCell::new(Rig::with_room(&scene, flows, 2 * flows, worker::BURST, tsc)?);
    let mut calibrator = Calibrator::new(tsc)?;
    let syns = std::cell::Cell::new(0);
    let name = |percent: usize| format!("flood/{percent}");
    let measured = {
        let mut quiet = Picker::new(Spread::Uniform, flows, 1);
        let mut cells = CellSet::default();
        cells.add("quiet", |costs| rig.borrow_mut().windows(WINDOWS, &mut quiet, costs));
        for percent in MIXES_PERCENT {
            let mut picker = Picker::new(Spread::Uniform, flows, 2);
            let (rig, syns) = (&rig, &syns);
            cells.add(name(percent), move |costs| {
                let mut sent = syns.get();
                for _ in 0..WINDOWS {
                    costs.push(rig.borrow_mut().flood_window(&mut picker, percent, flows, &mut sent)?);
                }
                syns.set(sent);
                Ok(())
            });
        }
        arguments.options.measure(&mut calibrator, &mut cells)?
    };
    let mut rig = rig.into_inner();
    // Each of them must be there still, or this fails.
    rig.ask_all(flows)?;
    if syns.get() == 0 {
        return Err(wrong("there was no flood"));
    }
    let mix = |syn_percent| Mix {
        syn_percent,
        ns_per_packet: measured.cost(&name(syn_percent)),
        established_loss: measured.combined(&["quiet", &name(syn_percent)], |v| 1.0 - v[0] / v[1]),
    };
    let outcome = FloodReport {
        flows,
        quiet_ns: measured.cost("quiet"),
        mixes: MIXES_PERCENT.map(mix).into(),
        syns: syns.get(),
        refused: rig.refused(),
        entries_lost: 0,
        conditions: Conditions::from(&measured),
        pages: rig.pages().name(),
        verified: true,
    };
    report::print(arguments.options.json, &outcome, for_people)
}

fn for_people(outcome: &FloodReport) -> String {
    let mut text = format!("{} established flows: {} a packet\n", outcome.flows, outcome.quiet_ns.words());
    for mix in &outcome.mixes {
        text += &format!(
            "{:>3} % SYNs: {} a packet; throughput lost {}\n",
            mix.syn_percent,
            mix.ns_per_packet.words(),
            mix.established_loss.words()
        );
    }
    text += &format!(
        "{} SYNs of new flows, {} of them not remembered, {} established entries lost\n{}",
        outcome.syns,
        outcome.refused,
        outcome.entries_lost,
        outcome.conditions.words()
    );
    text
}
