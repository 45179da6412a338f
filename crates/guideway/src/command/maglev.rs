//! `guideway maglev`: what a table looks like, and what a removal moves.

use crate::failure::Failure;
use crate::outcome::EXIT_CODES;
use crate::table::{TextTable, grouped};
use crate::{CommandResult, Done, output};
use clap::Args;
use serde::Serialize;
use steer::{Maglev, Weighted};

/// Largest table, as in the configuration.
const SIZE_MAX: u32 = 5_000_011;
/// Most backends; the table's own limit (one 16-bit value is kept for "none").
const BACKENDS_MAX: usize = 65_535;
/// Largest weight, as in the configuration.
const WEIGHT_MAX: u32 = 65_535;
/// The sample configuration's `machine.cluster_key`.
const SAMPLE_KEY: &str = "000102030405060708090a0b0c0d0e0f";

/// Build a Maglev table of backends b0, b1, … and count its slots, and those that a removal moves
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Slots: a prime, as `maglev_size` of a service
    #[arg(long, value_name = "M", default_value_t = 65_537)]
    size: u32,
    /// Number of backends
    #[arg(long, value_name = "N")]
    backends: usize,
    /// Weight of each backend [default: all 1]
    #[arg(long, value_name = "A,B,…", value_delimiter = ',')]
    weights: Vec<u32>,
    /// Backends to remove, counted from 0
    #[arg(long, value_name = "I,J,…", value_delimiter = ',')]
    remove: Vec<usize>,
    /// The cluster key, 32 hexadecimal digits
    #[arg(long, value_name = "HEX", default_value = SAMPLE_KEY)]
    key: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is asked, checked.
#[derive(Debug)]
struct MaglevRequest {
    size: u32,
    weights: Vec<u32>,
    removed: Vec<bool>,
    key: [u8; 16],
}

/// The answer; the field names are fixed, other programs read them.
#[derive(Debug, Serialize, PartialEq, Eq)]
struct SlotCounts {
    size: u32,
    backends: usize,
    slots_per_backend: Vec<u32>,
    moved_surviving_slots: u32,
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    let json = arguments.json;
    let request = MaglevRequest::try_from(arguments)?;
    let slots = slots(&request)?;
    if json {
        output::json(&slots)?;
    } else {
        output::print(&for_people(&request, &slots))?;
    }
    Ok(Done::Well)
}

impl TryFrom<Arguments> for MaglevRequest {
    type Error = Failure;

    fn try_from(a: Arguments) -> Result<MaglevRequest, Failure> {
        if a.size > SIZE_MAX {
            return Err(Failure::usage(format!("--size {} is larger than {SIZE_MAX}", a.size)));
        }
        if !steer::is_prime(a.size) {
            let next = steer::next_prime(a.size);
            return Err(Failure::usage(format!("--size {} is not a prime", a.size))
                .help(format!("the next one is {next}")));
        }
        if !(1..=BACKENDS_MAX).contains(&a.backends) {
            return Err(Failure::usage(format!(
                "--backends {} is not between 1 and {BACKENDS_MAX}",
                a.backends
            )));
        }
        let weights = if a.weights.is_empty() { vec![1; a.backends] } else { a.weights };
        if weights.len() != a.backends {
            return Err(Failure::usage(format!("{} weights for {} backends", weights.len(), a.backends))
                .help("give one weight for each backend, separated by commas"));
        }
        if let Some(w) = weights.iter().find(|&&w| w > WEIGHT_MAX) {
            return Err(Failure::usage(format!("weight {w} is larger than {WEIGHT_MAX}")));
        }
        let mut removed = vec![false; a.backends];
        for i in a.remove {
            let Some(r) = removed.get_mut(i) else {
                return Err(Failure::usage(format!(
                    "cannot remove backend {i}: the last one is {}",
                    a.backends - 1
                )));
            };
            *r = true;
        }
        Ok(MaglevRequest { size: a.size, weights, removed, key: key(&a.key)? })
    }
}

fn key(text: &str) -> Result<[u8; 16], Failure> {
    let wrong = || {
        Failure::usage(format!("--key {text} is not 32 hexadecimal digits"))
            .help("give it as machine.cluster_key stands in the configuration")
    };
    if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let value = u128::from_str_radix(text, 16).map_err(|_| wrong())?;
    Ok(value.to_be_bytes())
}

/// Builds the table with and without the removed backends and compares.
fn slots(request: &MaglevRequest) -> Result<SlotCounts, Failure> {
    let names: Vec<String> = (0..request.weights.len()).map(|i| format!("b{i}")).collect();
    let all: Vec<usize> = (0..names.len()).collect();
    let kept: Vec<usize> = all.iter().copied().filter(|&i| !request.removed[i]).collect();
    let before = owners(request, &names, &all)?;
    let after = if kept.len() == all.len() { before.clone() } else { owners(request, &names, &kept)? };
    let mut slots_per_backend = vec![0; names.len()];
    for owner in after.iter().flatten() {
        slots_per_backend[*owner] += 1;
    }
    let moved =
        before.iter().zip(&after).filter(|(b, a)| b.is_some_and(|b| !request.removed[b]) && b != a).count();
    Ok(SlotCounts {
        size: request.size,
        backends: names.len(),
        slots_per_backend,
        moved_surviving_slots: u32::try_from(moved).unwrap_or(u32::MAX),
    })
}

/// The backend of each slot, as an index into `names`, when only `members` take part.
fn owners(
    request: &MaglevRequest,
    names: &[String],
    members: &[usize],
) -> Result<Vec<Option<usize>>, Failure> {
    let weighted: Vec<Weighted<'_>> =
        members.iter().map(|&i| Weighted { name: &names[i], weight: request.weights[i] }).collect();
    let table = Maglev::build(&weighted, request.size, &request.key)
        .map_err(|e| Failure::usage(format!("cannot build the table: {e}")))?;
    Ok(table.slots().iter().map(|&m| members.get(usize::from(m)).copied()).collect())
}

fn for_people(request: &MaglevRequest, slots: &SlotCounts) -> String {
    let mut table = TextTable::new(&["backend", ">weight", ">slots", ">share"]);
    for (i, (&weight, &count)) in request.weights.iter().zip(&slots.slots_per_backend).enumerate() {
        let weight = if request.removed[i] { "removed".to_owned() } else { weight.to_string() };
        let share = f64::from(count) * 100.0 / f64::from(slots.size);
        table.row([format!("b{i}"), weight, grouped(u64::from(count)), format!("{share:.3}%")]);
    }
    let moved = slots.moved_surviving_slots;
    format!(
        "{}{} slots; {} moved although their backend stays ({:.3}%)\n",
        table.render(),
        grouped(u64::from(slots.size)),
        grouped(u64::from(moved)),
        f64::from(moved) * 100.0 / f64::from(slots.size)
    )
}
