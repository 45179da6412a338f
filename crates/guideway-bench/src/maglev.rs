//! `guideway bench maglev`: building a slot table, beside the usual way, which divides at every probe.

use crate::calibration::Calibrator;
use crate::failure::{Failure, wrong};
use crate::report::{Conditions, Maybe, rounded};
use crate::rounds::{self, CellSet};
use crate::statistics::{Figure, Interval};
use crate::tsc::Tsc;
use clap::Args;
use dpdk::clock::stamp;
use serde::Serialize;
use siphasher::sip::SipHasher13;
use std::hint::black_box;
use std::time::Duration;
use steer::{Maglev, Weighted};

const KEY: [u8; 16] = *b"0123456789abcdef";
/// No round begins later than this.
const PATIENCE: Duration = Duration::from_secs(60);
/// Builds of ours in a round.
const BUILDS: usize = 4;
const EMPTY: u16 = u16::MAX;

/// Time the building of a Maglev table, and compare it slot by slot with the naive build
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Slots; a prime
    #[arg(long, value_name = "N", default_value_t = 65_537)]
    size: u32,
    /// Backends, of equal weight
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1000,
        value_parser = clap::value_parser!(u16).range(1..=65_000),
    )]
    backends: u16,
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
    /// Huge pages for calibration.
    pub fn huge_bytes(&self) -> u64 {
        160 << 20
    }
}

/// What is printed.
#[derive(Clone, Debug, Serialize)]
struct MaglevReport {
    size: u32,
    backends: u16,
    build_ms: Maybe<Figure>,
    naive_ms: Maybe<Figure>,
    /// The naive build's time over ours.
    naive_to_ours: Maybe<Interval>,
    identical: bool,
    #[serde(flatten)]
    conditions: Conditions,
}

/// Measures and prints.
///
/// # Errors
/// [`Failure`]; tables that differ are one.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let tsc = Tsc::measure();
    let names: Vec<String> = (0..arguments.backends).map(|number| format!("backend-{number}")).collect();
    let backends: Vec<Weighted<'_>> = names.iter().map(|name| Weighted { name, weight: 1 }).collect();
    let size = arguments.size;
    let build = || Maglev::build(&backends, size, &KEY).map_err(|e| Failure::Usage(e.to_string()));
    if build()?.slots() != naive(&names, size) {
        return Err(wrong("the table differs from the naive one"));
    }
    let mut calibrator = Calibrator::new(tsc)?;
    let measured = {
        let mut cells = CellSet::default();
        cells.add("ours", |windows| {
            for _ in 0..BUILDS {
                let begin = stamp();
                black_box(build()?);
                windows.push(tsc.nanoseconds(begin, stamp()));
            }
            Ok(())
        });
        cells.add("naive", |windows| {
            let begin = stamp();
            black_box(naive(&names, size));
            windows.push(tsc.nanoseconds(begin, stamp()));
            Ok(())
        });
        rounds::measure(&mut calibrator, &mut cells, arguments.rounds as usize, PATIENCE)?
    };
    let ms = |cell: &str| {
        let of = |ns: f64| rounded(ns / 1e6, 4);
        Maybe::from(measured.figure(cell).map(|f| Figure { p5: of(f.p5), median: of(f.median) }))
    };
    let outcome = MaglevReport {
        size,
        backends: arguments.backends,
        build_ms: ms("ours"),
        naive_ms: ms("naive"),
        naive_to_ours: Maybe::from(measured.ratio("naive", "ours")).rounded(),
        identical: true,
        conditions: Conditions::from(&measured),
    };
    if arguments.json {
        println!("{}", serde_json::to_string(&outcome)?);
    } else {
        let text = |figure: &Maybe<Figure>| match figure {
            Maybe::Measured(f) => format!("{} ms", f.median),
            Maybe::Not(_) => "not measured".into(),
        };
        println!(
            "{size} slots, {} backends: {}; naive {}; {} times as fast; {}",
            outcome.backends,
            text(&outcome.build_ms),
            text(&outcome.naive_ms),
            outcome.naive_to_ours.words(),
            outcome.conditions.words()
        );
    }
    Ok(())
}

/// The paper's algorithm for equal weights with `(offset + i * skip) % size` at every probe, as Envoy and Cilium have it.
fn naive(names: &[String], size: u32) -> Vec<u16> {
    let modulus = u64::from(size);
    let hash =
        |domain: u8, name: &str| SipHasher13::new_with_key(&KEY).hash(&[&[domain], name.as_bytes()].concat());
    let walks: Vec<(u64, u64)> =
        names.iter().map(|name| (hash(0x10, name) % modulus, hash(0x11, name) % (modulus - 1) + 1)).collect();
    let mut next = vec![0_u64; names.len()];
    let mut table = vec![EMPTY; size as usize];
    let mut left = size;
    loop {
        for (index, (&(offset, skip), next)) in walks.iter().zip(&mut next).enumerate() {
            let mut slot = (offset + skip * *next) % modulus;
            while table[slot as usize] != EMPTY {
                *next += 1;
                slot = (offset + skip * *next) % modulus;
            }
            table[slot as usize] = index as u16;
            *next += 1;
            left -= 1;
            if left == 0 {
                return table;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_naive_table_is_ours() {
        let names: Vec<String> = (0..37).map(|number| format!("backend-{number}")).collect();
        let backends: Vec<Weighted<'_>> = names.iter().map(|name| Weighted { name, weight: 1 }).collect();
        let table = Maglev::build(&backends, 4093, &KEY).expect("a table");
        assert_eq!(table.slots(), naive(&names, 4093));
    }
}
