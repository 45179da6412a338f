//! `guideway bench ndr`: the highest rate without loss between two ports, and the latency below it (RFC 2544, sections 26.1
//! and 26.2, by bisection).

mod device;
mod frame;
mod generator;

use crate::failure::Failure;
use crate::report::rounded;
use crate::tsc::Tsc;
use clap::Args;
use device::Dut;
use frame::{Sizes, Target};
use generator::{Generator, Trial};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Shares of the rate found at which latency is measured.
const LOADS_PERCENT: [u32; 3] = [10, 50, 90];
/// Bisections of one frame size at the most.
const TRIALS_MAX: u32 = 24;
/// Latencies are kept from 1 ns to 10 s with three digits.
const LATENCY_MAX_NS: u64 = 10_000_000_000;

/// Find the highest loss-free rate between two ports, and the latency at 10, 50 and 90 % of it
///
/// Sends UDP packets of many flows into the first port and counts what comes out of the last; one port sends and receives. The device
/// between them may rewrite and encapsulate, as long as it keeps the payload. With --dut it is started here, behind a
/// vhost-user socket.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Virtual device of DPDK, one for an echo or two; e.g. net_af_xdp0,iface=eth1
    #[arg(long, value_name = "DEVICE", required_unless_present = "dut", conflicts_with = "dut")]
    vdev: Vec<String>,
    /// Start this behind a vhost-user socket, on the last CPU, and measure its echo
    #[arg(long, value_enum)]
    dut: Option<Dut>,
    /// Frame sizes on the wire, bytes with checksum: 64 to 1518, or imix (7 of 64, 4 of 594, 1 of 1518)
    #[arg(
        long,
        value_name = "SIZES",
        value_delimiter = ',',
        default_value = "64,128,256,512,1024,1280,1518,imix"
    )]
    sizes: Vec<Sizes>,
    /// Length of a trial, milliseconds; RFC 2544 wants 60000
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(10..=120_000))]
    trial_ms: u64,
    /// Ends the search when the rate is known this well, percent
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0, value_parser = percent)]
    precision: f64,
    /// Packets of a trial that may be lost, parts in a million; 0 for NDR
    #[arg(long, value_name = "PPM", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    loss_ppm: u64,
    /// Flows that are sent
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=crate::flows::FLOWS_MAX))]
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
    /// Print JSON
    #[arg(long)]
    json: bool,
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
    /// Huge pages for buffers of both programs.
    pub fn huge_bytes(&self) -> u64 {
        256 << 20
    }
}

/// What is printed.
#[derive(Clone, Debug, Serialize)]
struct Outcome {
    devices: Vec<String>,
    dut: Option<&'static str>,
    trial_ms: u64,
    loss_ppm: u64,
    sizes: Vec<OfSize>,
}

/// One frame size.
#[derive(Clone, Debug, Serialize)]
struct OfSize {
    size: String,
    /// Offered as fast as the generator can: what came back, whatever was lost.
    mrr_mpps: f64,
    /// The highest rate without loss; 0 when every rate lost packets.
    ndr_mpps: f64,
    /// The same as bits on the wire, preamble and gap included.
    ndr_gbps: f64,
    trials: u32,
    latency: Vec<OfLoad>,
}

/// Latency at a share of the rate: from the moment a packet should be sent until it is back.
#[derive(Clone, Debug, Serialize)]
struct OfLoad {
    load_percent: u32,
    mpps: f64,
    lost: u64,
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    p99_9_us: f64,
    max_us: f64,
}

/// Measures and prints.
///
/// # Errors
/// [`Failure`]; nothing comes back is one.
pub fn run(arguments: &Arguments, cpu: usize) -> Result<(), Failure> {
    let tsc = Tsc::measure();
    let target =
        Target { mac: arguments.mac, vip: arguments.vip, port: arguments.port, flows: arguments.flows };
    let setup = device::Setup::new(arguments.dut, &arguments.vdev, cpu, &target)?;
    let mut generator = Generator::open(&setup, &target, tsc)?;
    generator.wait_for_echo()?;
    let bar = ProgressBar::new(arguments.sizes.len() as u64 * u64::from(TRIALS_MAX));
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} trials, {elapsed} {msg}")
        .map_err(|e| Failure::Machine(e.to_string()))?;
    bar.set_style(style);
    let mut outcome = Outcome {
        devices: setup.devices().to_vec(),
        dut: arguments.dut.map(Dut::name),
        trial_ms: arguments.trial_ms,
        loss_ppm: arguments.loss_ppm,
        sizes: Vec::new(),
    };
    for (number, sizes) in (1_u64..).zip(&arguments.sizes) {
        outcome.sizes.push(of_size(&mut generator, sizes, arguments, &bar)?);
        bar.set_position(number * u64::from(TRIALS_MAX));
    }
    bar.finish_and_clear();
    if arguments.json {
        println!("{}", serde_json::to_string(&outcome)?);
    } else {
        print!("{}", for_people(&outcome));
    }
    Ok(())
}

fn of_size(
    generator: &mut Generator,
    sizes: &Sizes,
    arguments: &Arguments,
    bar: &ProgressBar,
) -> Result<OfSize, Failure> {
    let length = Duration::from_millis(arguments.trial_ms);
    let all_out = generator.trial(sizes, f64::INFINITY, length, None)?;
    bar.inc(1);
    let passes = |trial: &Trial| trial.passes(arguments.loss_ppm);
    let mut search = Search::new(all_out.received_pps(), arguments.precision / 100.0);
    let mut trials = 1;
    while let Some(rate) = search.next() {
        let trial = generator.trial(sizes, rate, length, None)?;
        trials += 1;
        bar.inc(1);
        bar.set_message(format!("{sizes} bytes, {:.3} Mpps: {} lost", rate / 1e6, trial.lost()));
        search.tell(passes(&trial));
        if trials >= TRIALS_MAX {
            break;
        }
    }
    let ndr = search.best();
    let mut latency = Vec::new();
    if ndr > 0.0 {
        for load_percent in LOADS_PERCENT {
            let rate = ndr * f64::from(load_percent) / 100.0;
            let mut histogram = Histogram::<u64>::new_with_bounds(1, LATENCY_MAX_NS, 3)
                .map_err(|e| Failure::Machine(e.to_string()))?;
            let trial = generator.trial(sizes, rate, length, Some(&mut histogram))?;
            let us = |quantile: f64| rounded(histogram.value_at_quantile(quantile) as f64 / 1000.0, 2);
            latency.push(OfLoad {
                load_percent,
                mpps: rounded(rate / 1e6, 4),
                lost: trial.lost(),
                p50_us: us(0.5),
                p90_us: us(0.9),
                p99_us: us(0.99),
                p99_9_us: us(0.999),
                max_us: rounded(histogram.max() as f64 / 1000.0, 2),
            });
        }
    }
    Ok(OfSize {
        size: sizes.to_string(),
        mrr_mpps: rounded(all_out.received_pps() / 1e6, 4),
        ndr_mpps: rounded(ndr / 1e6, 4),
        ndr_gbps: rounded(ndr * sizes.wire_bits() / 1e9, 4),
        trials,
        latency,
    })
}

/// Bisection: the rate below which nothing was lost, and the one above which something was.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Search {
    passed: f64,
    failed: f64,
    asked: f64,
    precision: f64,
}

impl Search {
    /// From what came back when as much as possible was sent: more is not to be expected.
    fn new(most: f64, precision: f64) -> Search {
        Search { passed: 0.0, failed: most * (1.0 + 2.0 * precision), asked: 0.0, precision }
    }

    /// The next rate to try; `None` when the answer is known well enough.
    fn next(&mut self) -> Option<f64> {
        if self.failed < 1.0 || self.failed - self.passed <= self.precision * self.failed {
            return None;
        }
        // The first guess is high: most devices lose little before they lose much.
        self.asked =
            if self.asked == 0.0 { self.failed * 0.95 } else { f64::midpoint(self.passed, self.failed) };
        Some(self.asked)
    }

    fn tell(&mut self, passes: bool) {
        if passes {
            self.passed = self.asked;
        } else {
            self.failed = self.asked;
        }
    }

    /// The highest rate that passed.
    fn best(&self) -> f64 {
        self.passed
    }
}

fn for_people(outcome: &Outcome) -> String {
    use std::fmt::Write;
    let mut text =
        String::from("size      MRR Mpps  NDR Mpps  NDR Gbit/s  latency p50/p99/p99.9 us at 10, 50, 90 %\n");
    for of in &outcome.sizes {
        let latency = |l: &OfLoad| format!("{}/{}/{}", l.p50_us, l.p99_us, l.p99_9_us);
        let latency: Vec<String> = of.latency.iter().map(latency).collect();
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:<9} {:<9} {:<9} {:<11} {}",
            of.size,
            of.mrr_mpps,
            of.ndr_mpps,
            of.ndr_gbps,
            latency.join("  ")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bisection_finds_the_edge() {
        for edge in [0.0, 13.0, 5e6, 7.77e6, 9.9e6] {
            let mut search = Search::new(9.8e6, 0.01);
            let mut trials = 0;
            while let Some(rate) = search.next() {
                search.tell(rate <= edge);
                trials += 1;
                if trials >= TRIALS_MAX {
                    break;
                }
            }
            let best = search.best();
            assert!(best <= edge, "{best} passed although {edge} is the edge");
            if edge > 1e6 && edge < 9.8e6 {
                assert!(best >= edge * 0.98 && trials < 12, "{best} of {edge} after {trials}");
            }
        }
        assert_eq!(Search::new(0.0, 0.01).next(), None);
    }

    #[test]
    fn words_are_read() {
        assert_eq!(mac("02:00:00:00:00:1f"), Ok([2, 0, 0, 0, 0, 0x1f]));
        assert!(mac("02:00").is_err() && mac("x").is_err());
        assert!(percent("0").is_err() && percent("2") == Ok(2.0));
    }
}
