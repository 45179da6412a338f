//! `guideway bench ndr`: the highest rate without loss between two ports, and the latency below it (RFC 2544, sections 26.1
//! and 26.2, by bisection); of several programs in one run, on the same path.

mod contest;
mod device;
mod frame;
mod generator;
mod search;
mod trial;

use crate::failure::Failure;
use crate::gaps::Gaps;
use crate::machine;
use crate::options::Options;
use crate::quantiles::Quantiles;
use crate::report::{self, Maybe, rounded};
use crate::statistics::{self, Interval};
use crate::tsc::Tsc;
use clap::Args;
use contest::Contest;
use device::{Dut, TestBed};
use frame::{Destination, Sizes};
use generator::{Generator, Order, PortPair};
use indicatif::{ProgressBar, ProgressStyle};
use search::RateSearch;
use serde::Serialize;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use trial::{Latencies, Trial};

/// Shares of the rate found at which latency is measured.
const LOADS_PERCENT: [u32; 3] = [10, 50, 90];
/// With all that the generator has, a trial that says nothing is repeated so often.
const ALL_OUT_REPEATS: u32 = 4;
/// A program that was stopped runs for so long before it counts.
const WARM: Duration = Duration::from_millis(10);

/// Find the highest loss-free rate between two ports, and the latency at 10, 50 and 90 % of it
///
/// Sends UDP packets of many flows into the first port and counts what comes out of the last; one port sends and receives. The device
/// between them may rewrite and encapsulate, as long as it keeps the payload.
///
/// With --dut programs are started here, each behind a vhost-user socket: the last CPU runs the one that is measured (the
/// others are stopped meanwhile), the first CPU the generator. They are searched in turns, --repeats times; then, with two or more,
/// their echo is timed in turns at the same absolute rates.
///
/// Time in which the machine ran something else is taken out, and both figures are given: the schedule stands still while
/// the generator does not run for more than 20 us, or while nothing comes back for as long although packets are under way; latencies of
/// windows of 100 us that such a gap overlaps, and of the time queues need to drain after it, are left out of the corrected figures.
///
/// It ends: a search is 16 trials of --trial-ms at the most, and nothing new begins --limit-s seconds after the start.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Virtual device of DPDK, one for an echo or two; e.g. net_af_xdp0,iface=eth1
    #[arg(long, value_name = "DEVICE", required_unless_present = "dut", conflicts_with = "dut")]
    vdev: Vec<String>,
    /// Start these and measure their echo; the first is compared with the second
    #[arg(long, value_enum, value_delimiter = ',')]
    dut: Vec<Dut>,
    /// Frame sizes on the wire, bytes with checksum: 64 to 1518, or imix (7 of 64, 4 of 594, 1 of 1518)
    #[arg(
        long,
        value_name = "SIZES",
        value_delimiter = ',',
        default_value = "64,128,256,512,1024,1280,1518,imix"
    )]
    sizes: Vec<Sizes>,
    /// Length of a trial, milliseconds; RFC 2544 wants 60000
    #[arg(
        long,
        value_name = "MS",
        default_value_t = 200,
        value_parser = clap::value_parser!(u64).range(10..=120_000),
    )]
    trial_ms: u64,
    /// Searches of each size and program, in turns; the median counts
    #[arg(
        long,
        value_name = "N",
        default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(1..=100),
    )]
    repeats: u32,
    /// Nothing new begins after so many seconds
    #[arg(
        long,
        value_name = "S",
        default_value_t = 600,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000),
    )]
    limit_s: u64,
    /// Ends the search when the rate is known this well, percent
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0, value_parser = percent)]
    precision: f64,
    /// Packets of a trial that may be lost, parts in a million; 0 for NDR
    #[arg(
        long,
        value_name = "PPM",
        default_value_t = 0,
        value_parser = clap::value_parser!(u64).range(0..=1_000_000),
    )]
    loss_ppm: u64,
    /// Flows that are sent
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1000,
        value_parser = clap::value_parser!(u64).range(1..=crate::flows::FLOWS_MAX),
    )]
    flows: u64,
    /// Destination address
    #[arg(long, value_name = "ADDRESS", default_value = "203.0.113.10")]
    vip: Ipv4Addr,
    /// Destination port
    #[arg(long, value_name = "PORT", default_value_t = 80)]
    port: u16,
    /// Destination MAC
    #[arg(long, value_name = "MAC", default_value = "02:00:00:00:00:11", value_parser = mac)]
    mac: [u8; 6],
    #[command(flatten)]
    options: Options,
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.01..=50.0).contains(&value) => Ok(value),
        _ => Err("a percentage from 0.01 to 50".into()),
    }
}

fn mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| "six bytes like 02:00:00:00:00:11".into())
}

impl Arguments {
    /// Huge pages for buffers of all programs, and calibration.
    pub fn huge_bytes(&self) -> u64 {
        (288 << 20) + device::MEMORY * self.dut.len() as u64
    }
}

/// What is printed.
#[derive(Clone, Debug, Serialize)]
struct NdrReport {
    devices: Vec<String>,
    names: Vec<String>,
    trial_ms: u64,
    repeats: u32,
    loss_ppm: u64,
    sizes: Vec<OfSize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    echo: Option<contest::ContestReport>,
    /// The limit of time cut something off.
    cut: bool,
}

/// One frame size.
#[derive(Clone, Debug, Serialize)]
struct OfSize {
    size: String,
    of: Vec<OfProgram>,
    /// The first program's rate over the second's, of searches one after the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    ndr_ratio: Option<Maybe<Interval>>,
}

/// One program at one frame size.
#[derive(Clone, Debug, Serialize)]
struct OfProgram {
    name: String,
    /// Sent as fast as the generator can …
    offered_mpps: Maybe<f64>,
    /// … so much came back, whatever was lost.
    mrr_mpps: Maybe<f64>,
    /// The highest rate without loss, of the time in which the machine ran both sides; 0 when every rate lost packets.
    ndr_mpps: Maybe<f64>,
    /// The highest rate without loss, of all time: less the share of gaps in the trials.
    ndr_raw_mpps: Maybe<f64>,
    /// The first as bits on the wire, preamble and gap included.
    ndr_gbps: Maybe<f64>,
    ndr_of_searches_mpps: Vec<Maybe<f64>>,
    trials: u32,
    /// Trials that said nothing, because the machine took too much of their time.
    wasted: u32,
    /// Of all trials: time in which the generator did not run.
    own_gaps: Gaps,
    /// Likewise: time in which nothing came back although packets were under way.
    silences: Gaps,
    latency: Vec<OfLoad>,
}

/// Latency at a share of the rate: from the moment a packet should be sent until it is back.
#[derive(Clone, Debug, Serialize)]
struct OfLoad {
    load_percent: u32,
    mpps: f64,
    lost: u64,
    lost_undisturbed: u64,
    raw_ns: Quantiles,
    corrected_ns: Maybe<Quantiles>,
    /// Share of the windows left out of the latter.
    removed: f64,
}

/// Everything a trial needs.
#[derive(Debug)]
struct TrialPath {
    generator: Generator,
    setup: TestBed,
    lanes: Vec<PortPair>,
    deadline: Instant,
    length: Duration,
}

impl Drop for TrialPath {
    fn drop(&mut self) {
        // Closing the generator's ports asks the programs, and a stopped one does not answer.
        self.setup.run_all();
    }
}

impl TrialPath {
    /// Whether it is too late to begin anything.
    fn is_late(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// A trial of one program, after some warming.
    fn trial(&mut self, program: usize, sizes: &Sizes, pps: f64, latencies: bool) -> Result<Trial, Failure> {
        let Some(&lane) = self.lanes.get(program) else {
            return Err(Failure::Usage("no such program".into()));
        };
        self.setup.run_only(Some(program));
        let order = Order { lane, sizes, pps, length: self.length, latencies };
        self.generator.trial(&Order { length: WARM, latencies: false, ..order.clone() })?;
        let trial = self.generator.trial(&order);
        self.setup.run_only(None);
        trial
    }
}

/// A search's result.
#[derive(Clone, Debug)]
struct BestRate {
    offered_pps: Option<f64>,
    mrr_pps: Option<f64>,
    /// None when the machine was not there often enough.
    ndr_pps: Option<f64>,
    /// Of the last trial that passed.
    working_share: f64,
    trials: u32,
    wasted: u32,
    own_gaps: Gaps,
    silences: Gaps,
}

/// Measures and prints.
///
/// # Errors
/// [`Failure`]; nothing comes back is one.
pub fn run(arguments: &Arguments, cpu: usize) -> Result<(), Failure> {
    let tsc = Tsc::measure();
    let target =
        Destination { mac: arguments.mac, vip: arguments.vip, port: arguments.port, flows: arguments.flows };
    let setup = match arguments.dut.as_slice() {
        [] => TestBed::of_devices(&arguments.vdev, cpu)?,
        _ if cpu == 0 => {
            return Err(Failure::Usage("--dut needs a CPU of its own, and there is only one".into()));
        }
        duts => {
            machine::move_to(0)?;
            TestBed::of_programs(duts, cpu, 0, &target)?
        }
    };
    let generator = Generator::open(&setup, &target, tsc)?;
    let lanes = generator.lanes().to_vec();
    let mut path = TrialPath {
        generator,
        setup,
        lanes,
        deadline: Instant::now() + Duration::from_secs(arguments.limit_s),
        length: Duration::from_millis(arguments.trial_ms),
    };
    for program in 0..path.lanes.len() {
        path.setup.run_only(Some(program));
        path.generator.wait_for_echo(path.lanes[program])?;
        path.setup.run_only(None);
    }
    let names = path.setup.names();
    let searches = arguments.sizes.len() * arguments.repeats as usize * names.len();
    let bar = ProgressBar::new(searches as u64 * u64::from(RateSearch::TRIALS_MAX));
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} trials, {elapsed} {msg}")
        .map_err(|e| Failure::Machine(e.to_string()))?;
    bar.set_style(style);
    let mut outcome = NdrReport {
        devices: path.setup.devices().to_vec(),
        names: names.clone(),
        trial_ms: arguments.trial_ms,
        repeats: arguments.repeats,
        loss_ppm: arguments.loss_ppm,
        sizes: Vec::new(),
        echo: None,
        cut: false,
    };
    for (number, sizes) in (1..).zip(&arguments.sizes) {
        if path.is_late() {
            break;
        }
        outcome.sizes.push(of_size(&mut path, &names, sizes, arguments, &bar)?);
        bar.set_position(
            (searches * number / arguments.sizes.len()) as u64 * u64::from(RateSearch::TRIALS_MAX),
        );
        // Beside the first size, before time runs out.
        let rates = outcome.sizes.first().map(|first| first.of.iter().map(|of| of.ndr_mpps));
        if number == 1
            && names.len() > 1
            && let Some(lowest) = rates.and_then(lowest_pps)
        {
            bar.set_message("echo at the same rates");
            let contest = Contest { path: &mut path, sizes, lowest_pps: lowest, cpu, tsc };
            outcome.echo = Some(contest.run(&arguments.options)?);
            path.length = Duration::from_millis(arguments.trial_ms);
        }
    }
    bar.finish_and_clear();
    outcome.cut = path.is_late();
    report::print(arguments.options.json, &outcome, for_people)
}

/// The rate that all programs reach, if all do.
fn lowest_pps(rates: impl Iterator<Item = Maybe<f64>>) -> Option<f64> {
    let mut lowest = f64::INFINITY;
    for rate in rates {
        let Maybe::Measured(mpps) = rate else { return None };
        lowest = lowest.min(mpps * 1e6);
    }
    Some(lowest).filter(|lowest| *lowest > 0.0)
}

fn of_size(
    path: &mut TrialPath,
    names: &[String],
    sizes: &Sizes,
    arguments: &Arguments,
    bar: &ProgressBar,
) -> Result<OfSize, Failure> {
    let mut found: Vec<Vec<BestRate>> = vec![Vec::new(); names.len()];
    for repeat in 0..arguments.repeats {
        for (program, of) in found.iter_mut().enumerate() {
            if repeat == 0 || !path.is_late() {
                of.push(search(path, program, sizes, arguments, bar)?);
            }
        }
    }
    // Searches of the same turn.
    let pairs = |first: &[BestRate], second: &[BestRate]| -> Vec<f64> {
        let ratios = first.iter().zip(second).filter_map(|(a, b)| Some(a.ndr_pps? / b.ndr_pps?));
        ratios.filter(|ratio| ratio.is_finite()).collect()
    };
    let ndr_ratio = match found.as_slice() {
        [first, second, ..] => Some(Maybe::from(statistics::interval(&pairs(first, second))).rounded()),
        _ => None,
    };
    let mut of = Vec::new();
    for (program, (name, found)) in names.iter().zip(&found).enumerate() {
        of.push(of_program(path, program, name, sizes, found)?);
    }
    Ok(OfSize { size: sizes.to_string(), of, ndr_ratio })
}

/// The highest rate that passes.
fn search(
    path: &mut TrialPath,
    program: usize,
    sizes: &Sizes,
    arguments: &Arguments,
    bar: &ProgressBar,
) -> Result<BestRate, Failure> {
    let mut all_out = path.trial(program, sizes, f64::INFINITY, false)?;
    for _ in 0..ALL_OUT_REPEATS {
        if !all_out.counts() {
            all_out = path.trial(program, sizes, f64::INFINITY, false)?;
        }
    }
    let mut search = RateSearch::new(all_out.received_pps(), arguments.precision / 100.0);
    let mut working_share = 1.0;
    let (mut own_gaps, mut silences) = (vec![all_out.own_gaps], vec![all_out.silences]);
    while let Some(rate) = search.next() {
        if path.is_late() {
            break;
        }
        let trial = path.trial(program, sizes, rate, false)?;
        bar.inc(1);
        bar.set_message(format!("{sizes} bytes, {:.3} Mpps: {} lost", rate / 1e6, trial.lost()));
        own_gaps.push(trial.own_gaps);
        silences.push(trial.silences);
        if !trial.counts() {
            search.tell_nothing();
            continue;
        }
        let passes = trial.passes(arguments.loss_ppm);
        if passes {
            working_share = trial.working_share();
        }
        search.tell(passes);
    }
    Ok(BestRate {
        offered_pps: all_out.counts().then(|| all_out.sent_pps()),
        mrr_pps: all_out.counts().then(|| all_out.received_pps()),
        ndr_pps: search.best().filter(|_| all_out.counts()),
        working_share,
        trials: search.trials(),
        wasted: search.wasted(),
        own_gaps: Gaps::sum(own_gaps.iter()),
        silences: Gaps::sum(silences.iter()),
    })
}

fn of_program(
    path: &mut TrialPath,
    program: usize,
    name: &str,
    sizes: &Sizes,
    found: &[BestRate],
) -> Result<OfProgram, Failure> {
    let median = |of: fn(&BestRate) -> Option<f64>| {
        let all: Vec<f64> = found.iter().filter_map(of).collect();
        (!all.is_empty()).then(|| statistics::median(&all))
    };
    let ndr = median(|found| found.ndr_pps);
    let mut latency = Vec::new();
    for load_percent in LOADS_PERCENT {
        if let Some(ndr) = ndr.filter(|ndr| *ndr > 0.0)
            && !path.is_late()
        {
            let rate = ndr * f64::from(load_percent) / 100.0;
            let trial = path.trial(program, sizes, rate, true)?;
            latency.push(OfLoad::new(load_percent, rate, &trial));
        }
    }
    let mpps = |pps: Option<f64>| Maybe::from(pps.map(|pps| rounded(pps / 1e6, 4)));
    Ok(OfProgram {
        name: name.to_owned(),
        offered_mpps: mpps(median(|found| found.offered_pps)),
        mrr_mpps: mpps(median(|found| found.mrr_pps)),
        ndr_mpps: mpps(ndr),
        ndr_raw_mpps: mpps(median(|found| Some(found.ndr_pps? * found.working_share))),
        ndr_gbps: Maybe::from(ndr.map(|ndr| rounded(ndr * sizes.wire_bits() / 1e9, 4))),
        ndr_of_searches_mpps: found.iter().map(|found| mpps(found.ndr_pps)).collect(),
        trials: found.iter().map(|found| found.trials).sum(),
        wasted: found.iter().map(|found| found.wasted).sum(),
        own_gaps: Gaps::sum(found.iter().map(|found| &found.own_gaps)),
        silences: Gaps::sum(found.iter().map(|found| &found.silences)),
        latency,
    })
}

impl OfLoad {
    fn new(load_percent: u32, rate: f64, trial: &Trial) -> OfLoad {
        let Latencies { raw, windows, removed, .. } = &trial.latencies;
        OfLoad {
            load_percent,
            mpps: rounded(rate / 1e6, 4),
            lost: trial.lost(),
            lost_undisturbed: trial.lost_undisturbed,
            raw_ns: Quantiles::of(raw),
            corrected_ns: Maybe::from(trial.latencies.corrected_quantiles()),
            removed: rounded(*removed as f64 / (*windows).max(1) as f64, 3),
        }
    }
}

fn for_people(outcome: &NdrReport) -> String {
    use std::fmt::Write;
    let mut text = format!(
        "{:<16} {:<6} MRR Mpps  NDR Mpps  with gaps  Gbit/s   latency p50/p99/p99.9 us at 10, 50, 90 %\n",
        "", "size"
    );
    // Writing to a string does not fail.
    for of_size in &outcome.sizes {
        for of in &of_size.of {
            let us = |ns: u64| rounded(ns as f64 / 1000.0, 1);
            let latency = |load: &OfLoad| match &load.corrected_ns {
                Maybe::Measured(q) => format!("{}/{}/{}", us(q.p50), us(q.p99), us(q.p99_9)),
                Maybe::Not(_) => "not measured".into(),
            };
            let number = |of: &Maybe<f64>| match of {
                Maybe::Measured(number) => number.to_string(),
                Maybe::Not(_) => "not".into(),
            };
            let latency: Vec<String> = of.latency.iter().map(latency).collect();
            let _ = writeln!(
                text,
                "{:<16} {:<6} {:<9} {:<9} {:<10} {:<8} {}",
                of.name,
                of_size.size,
                number(&of.mrr_mpps),
                number(&of.ndr_mpps),
                number(&of.ndr_raw_mpps),
                number(&of.ndr_gbps),
                latency.join("  ")
            );
        }
        for of in &of_size.of {
            let (own, silent) = (of.own_gaps.words(), of.silences.words());
            let _ = writeln!(
                text,
                "{:<16} {:<6} {} of {} trials wasted; generator: {own}; silences: {silent}",
                of.name, of_size.size, of.wasted, of.trials
            );
        }
        if let Some(ratio) = &of_size.ndr_ratio {
            let _ = writeln!(text, "{:<16} {:<6} {}", "first / second", of_size.size, ratio.words());
        }
    }
    if let Some(echo) = &outcome.echo {
        text.push_str(&echo.for_people());
    }
    if outcome.cut {
        text.push_str("The limit of time cut something off (--limit-s).\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read() {
        assert_eq!(mac("02:00:00:00:00:1f"), Ok([2, 0, 0, 0, 0, 0x1f]));
        assert!(mac("02:00").is_err() && mac("x").is_err());
        assert!(percent("0").is_err() && percent("2") == Ok(2.0));
    }
}
