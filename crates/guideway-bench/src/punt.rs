//! `guideway bench punt`: what honest traffic keeps while strangers send what is for the kernel.

use crate::calibration::Calibrator;
use crate::engine::{self, Family, FlowsIn, Mode, Rig, Scene, WaitingPacket};
use crate::failure::{Failure, wrong};
use crate::options::Options;
use crate::random::{Picker, Random, Spread};
use crate::report::{self, Conditions, Maybe, rounded};
use crate::rounds::CellSet;
use crate::statistics::{Figure, Interval, median};
use crate::tsc::Tsc;
use clap::Args;
use serde::Serialize;
use std::cell::RefCell;
use std::collections::VecDeque;

/// Turns with full bursts from which a round takes the highest rate; as many before them bring the core to its pace.
const FULL_TURNS: usize = 1024;
/// Packets that wait at the most: descriptors of a device's receive ring.
const ROOM: usize = 1024;

/// Show how much of honest traffic leaves beside a flood of frames for the kernel
///
/// Honest packets of known flows and frames that are to be punted (to the machine's own address, broadcasts, neighbour discovery) arrive
/// at random (Poisson), the honest ones at a share of the rate that full bursts of them alone reach in the same round, into one queue of
/// 1024 as a device has it. Turns are real and timed; time passes in turns only, so that writing frames costs the queue nothing, and the
/// budgets of the punt path see the same time. An honest packet is lost where the queue is full; whatever a worker receives of them it
/// must send.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Flows in the table
    #[arg(
        long,
        value_name = "N",
        default_value_t = 100_000,
        value_parser = clap::value_parser!(u64).range(1..=crate::flows::FLOWS_MAX),
    )]
    flows: u64,
    /// Honest traffic: share of the highest rate, percent
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = 50,
        value_parser = clap::value_parser!(u8).range(1..=99),
    )]
    load: u8,
    /// Frames for the kernel a second
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u32).range(1..=100_000_000),
    )]
    strangers: u32,
    /// Honest packets of a round
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u64).range(1000..=100_000_000),
    )]
    packets: u64,
    #[command(flatten)]
    options: Options,
}

impl Arguments {
    /// Huge pages for the table and calibration.
    pub fn huge_bytes(&self) -> u64 {
        engine::table_bytes(Family::V4, self.flows) as u64 + (160 << 20)
    }
}

/// What is printed.
#[derive(Clone, Debug, Serialize)]
struct PuntReport {
    flows: u64,
    load_percent: u8,
    strangers_per_second: u32,
    /// An honest packet in full bursts of its like.
    full_ns: Maybe<Figure>,
    /// Share of honest packets that left, by round.
    sent_share: Maybe<Interval>,
    honest: u64,
    honest_lost: u64,
    strangers: u64,
    /// Of these, what found the queue full.
    strangers_lost: u64,
    /// Of those received, what the kernel was given.
    punted: u64,
    #[serde(flatten)]
    conditions: Conditions,
    pages: &'static str,
    verified: bool,
}

/// What became of a round's packets.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    honest: u64,
    honest_lost: u64,
    strangers: u64,
    strangers_lost: u64,
}

/// Arrivals in the order of time.
struct Arrivals {
    random: Random,
    between_ns: [f64; 2],
    next: [f64; 2],
}

impl Arrivals {
    /// The next one that has arrived by now.
    fn pop(&mut self, now: f64) -> Option<WaitingPacket> {
        let which = usize::from(self.next[1] < self.next[0]);
        if self.next[which] > now {
            return None;
        }
        self.next[which] -= self.between_ns[which] * self.random.positive_unit().ln();
        Some(if which == 0 { WaitingPacket::Honest } else { WaitingPacket::Stranger })
    }
}

impl Round {
    /// So many honest packets, from an empty queue.
    fn run(
        rig: &mut Rig,
        picker: &mut Picker,
        between_ns: [f64; 2],
        packets: u64,
        clock_ns: &mut f64,
    ) -> Result<Round, Failure> {
        let mut done = Round::default();
        let mut now = 0.0;
        let mut arrivals = Arrivals { random: Random::new(4), between_ns, next: [0.0, 0.0] };
        let mut waiting: VecDeque<WaitingPacket> = VecDeque::with_capacity(ROOM);
        while done.honest < packets || !waiting.is_empty() {
            while done.honest < packets
                && let Some(of) = arrivals.pop(now)
            {
                let (count, lost) = match of {
                    WaitingPacket::Honest => (&mut done.honest, &mut done.honest_lost),
                    WaitingPacket::Stranger => (&mut done.strangers, &mut done.strangers_lost),
                };
                *count += 1;
                if waiting.len() < ROOM {
                    waiting.push_back(of);
                } else {
                    *lost += 1;
                }
            }
            let taken = waiting.len().min(worker::BURST);
            now += rig.mixed_turn(waiting.drain(..taken), picker, *clock_ns + now)?;
        }
        *clock_ns += now;
        Ok(done)
    }
}

/// Measures and prints.
///
/// # Errors
/// [`Failure`]; an honest packet that is received and not sent is one.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let tsc = Tsc::measure();
    let scene = Scene::build(Mode::Ipip, Family::V4, 1000, FlowsIn::All)?.with_kernel()?;
    let rig = RefCell::new(Rig::new(&scene, arguments.flows, worker::BURST, tsc)?);
    let full_ns = std::cell::Cell::new(0.0);
    let rounds = RefCell::new(Vec::new());
    let mut clock_ns = tsc.tick().0 as f64 * 1e3;
    let mut calibrator = Calibrator::new(tsc)?;
    let measured = {
        let mut cells = CellSet::default();
        let mut alone = Picker::new(Spread::Uniform, arguments.flows, 1);
        let (rig, full_ns, rounds) = (&rig, &full_ns, &rounds);
        cells.add("full", move |costs| {
            let mut rig = rig.borrow_mut();
            for _ in 0..FULL_TURNS {
                rig.turn_of(worker::BURST, &mut alone)?;
            }
            for _ in 0..FULL_TURNS {
                costs.push(rig.turn_of(worker::BURST, &mut alone)? / worker::BURST as f64);
            }
            full_ns.set(median(costs));
            rig.drain()
        });
        let mut picker = Picker::new(Spread::Uniform, arguments.flows, 2);
        let clock_ns = &mut clock_ns;
        cells.add("share", move |costs| {
            let honest = full_ns.get() * 100.0 / f64::from(arguments.load);
            let between_ns = [honest, 1e9 / f64::from(arguments.strangers)];
            let packets = arguments.packets;
            let round = Round::run(&mut rig.borrow_mut(), &mut picker, between_ns, packets, clock_ns)?;
            costs.push((round.honest - round.honest_lost) as f64 / round.honest as f64);
            rounds.borrow_mut().push(round);
            Ok(())
        });
        arguments.options.measure(&mut calibrator, &mut cells)?
    };
    let (rig, rounds) = (rig.into_inner(), rounds.into_inner());
    // The first of all was for warming.
    let kept: Vec<Round> =
        measured.kept().iter().filter_map(|round| rounds.get(round + 1)).copied().collect();
    let sum = |of: fn(&Round) -> u64| kept.iter().map(of).sum::<u64>();
    let outcome = PuntReport {
        flows: arguments.flows,
        load_percent: arguments.load,
        strangers_per_second: arguments.strangers,
        full_ns: measured.cost("full"),
        sent_share: measured.combined(&["share"], |v| rounded(v[0], 5)),
        honest: sum(|of| of.honest),
        honest_lost: sum(|of| of.honest_lost),
        strangers: sum(|of| of.strangers),
        strangers_lost: sum(|of| of.strangers_lost),
        punted: rig.punted(),
        conditions: Conditions::from(&measured),
        pages: rig.pages().name(),
        verified: true,
    };
    if outcome.punted == 0 {
        return Err(wrong("nothing was punted"));
    }
    report::print(arguments.options.json, &outcome, for_people)
}

fn for_people(outcome: &PuntReport) -> String {
    format!(
        "{} flows at {} % load beside {} frames for the kernel a second: {} of the honest packets left\n\
         honest {}, of these lost {}; strangers {}, of these lost in the queue {}; {} punted in all\n\
         a packet in full bursts, alone: {}\n{}",
        outcome.flows,
        outcome.load_percent,
        outcome.strangers_per_second,
        outcome.sent_share.words(),
        outcome.honest,
        outcome.honest_lost,
        outcome.strangers,
        outcome.strangers_lost,
        outcome.punted,
        outcome.full_ns.words(),
        outcome.conditions.words(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_for_the_kernel_takes_little() {
        let tsc = Tsc::measure();
        let scene = Scene::build(Mode::Ipip, Family::V4, 3, FlowsIn::All).and_then(Scene::with_kernel);
        let mut rig = Rig::new(&scene.expect("a scene"), 1000, worker::BURST, tsc).expect("a rig");
        let mut picker = Picker::new(Spread::Uniform, 1000, 1);
        let mut clock_ns = tsc.tick().0 as f64 * 1e3;
        // So slow that nothing is lost even here.
        let round = Round::run(&mut rig, &mut picker, [100_000.0, 50_000.0], 2_000, &mut clock_ns);
        let round = round.expect("whatever is honest leaves");
        assert_eq!((round.honest, round.honest_lost, round.strangers_lost), (2_000, 0, 0));
        assert!((3_000..5_000).contains(&round.strangers), "{round:?}");
        assert!(rig.punted() > 0);
        // As fast as can be: the queue overflows, and both kinds lose.
        let round = Round::run(&mut rig, &mut picker, [1.0, 1.0], 20_000, &mut clock_ns).expect("the same");
        assert!(round.honest_lost > 0 && round.strangers_lost > 0, "{round:?}");
    }
}
