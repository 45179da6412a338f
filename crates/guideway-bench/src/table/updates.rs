//! New flows and churn: ours beside rte_hash.

use super::keys::VALUES;
use super::ours::Ours;
use super::peers::RteHash;
use crate::calibration::Calibrator;
use crate::failure::{Failure, wrong};
use crate::flows::{plain_key, value};
use crate::options::Options;
use crate::report::{Conditions, Maybe, rounded};
use crate::rounds::CellSet;
use crate::statistics::{Figure, Interval};
use crate::tsc::Tsc;
use dpdk::clock::stamp;
use serde::Serialize;
use std::cell::RefCell;
use wire::Tick;

/// Insertions of a window.
const WINDOW: usize = 4096;
/// Insertions at once, and between two looks at the clock, as in a turn.
const BURST: usize = 32;
/// Windows of churn in a round.
const CHURN_WINDOWS: usize = 64;

/// What insertions cost.
#[derive(Clone, Debug, Serialize)]
pub(super) struct UpdatesReport {
    /// From an empty table to a full one.
    insert_ns: Maybe<Figure>,
    /// Millions a second.
    inserts_m_per_s: Maybe<f64>,
    /// A new flow in a table whose oldest flows expire as fast.
    churn_ns: Maybe<Figure>,
    churn_m_per_s: Maybe<f64>,
    /// rte_hash, from empty to full.
    rte_hash_insert_ns: Maybe<Figure>,
    /// rte_hash, one added and one deleted.
    rte_hash_churn_ns: Maybe<Figure>,
    /// rte_hash over ours.
    insert_ratio: Maybe<Interval>,
    churn_ratio: Maybe<Interval>,
    /// Of the insertions; churn has rounds of its own.
    #[serde(flatten)]
    conditions: Conditions,
    churn: Conditions,
}

impl UpdatesReport {
    pub(super) fn for_people(&self) -> String {
        format!(
            "new flows    {}; rte_hash {}, {} times ours\nchurn        {}; rte_hash {}, {} times ours\n",
            self.insert_ns.words(),
            self.rte_hash_insert_ns.words(),
            self.insert_ratio.words(),
            self.churn_ns.words(),
            self.rte_hash_churn_ns.words(),
            self.churn_ratio.words(),
        )
    }
}

/// Keys with their values.
type Pairs<'b> = &'b [(u64, u32)];

/// The keys of flows `first` and following, with their values.
#[derive(Default)]
struct Batch {
    pairs: Vec<(u64, u32)>,
}

impl Batch {
    fn fill(&mut self, first: u64, count: usize) {
        self.pairs.clear();
        let numbers = first..first + count as u64;
        self.pairs.extend(numbers.map(|number| (plain_key(number), value(number, VALUES))));
    }

    /// Bursts, each with the one behind it.
    fn bursts(&self) -> impl Iterator<Item = (Pairs<'_>, Pairs<'_>)> {
        let behind = self.pairs.chunks(BURST).skip(1).chain([&[][..]]);
        self.pairs.chunks(BURST).zip(behind)
    }
}

/// Time of the measurement: each new flow is a step, and a flow lives for as many steps as there are flows.
#[derive(Debug)]
struct Churn {
    next: u64,
    now: Tick,
    step_us: f64,
    left_us: f64,
}

/// Life of a flow in churn, in the table's time.
const LIFE_US: u64 = 60_000_000;

pub(super) fn run(
    calibrator: &mut Calibrator,
    ours: &mut Ours,
    rte_hash: Option<&mut RteHash>,
    flows: u64,
    options: &Options,
    tsc: Tsc,
) -> Result<UpdatesReport, Failure> {
    let ours = RefCell::new(ours);
    let rte_hash = rte_hash.map(RefCell::new);
    let measured = {
        let mut cells = CellSet::default();
        cells.add("insert/ours", |windows| {
            let mut ours = ours.borrow_mut();
            ours.clear();
            inserts(flows, tsc, windows, |pairs, next| {
                ours.prefetch(next);
                ours.insert(pairs, Tick(1_000_000))
            })
        });
        if let Some(table) = &rte_hash {
            cells.add("insert/rte_hash", |windows| {
                let mut table = table.borrow_mut();
                table.clear();
                inserts(flows, tsc, windows, |pairs, _| {
                    pairs.iter().filter(|&&(key, value)| table.insert(key, value)).count()
                })
            });
        }
        options.measure(calibrator, &mut cells)?
    };
    let churned = {
        let mut state = start_churn(&mut ours.borrow_mut(), flows)?;
        let mut oldest = 0;
        let mut cells = CellSet::default();
        cells.add("churn/ours", |windows| churn_ours(&mut ours.borrow_mut(), &mut state, tsc, windows));
        if let Some(table) = &rte_hash {
            cells.add("churn/rte_hash", |windows| {
                let mut table = table.borrow_mut();
                churn_rte_hash(&mut table, &mut oldest, flows, tsc, windows)
            });
        }
        options.measure(calibrator, &mut cells)?
    };
    let rate = |figure: Option<Figure>| Maybe::from(figure.map(|figure| rounded(1000.0 / figure.median, 2)));
    Ok(UpdatesReport {
        insert_ns: measured.cost("insert/ours"),
        inserts_m_per_s: rate(measured.figure("insert/ours")),
        churn_ns: churned.cost("churn/ours"),
        churn_m_per_s: rate(churned.figure("churn/ours")),
        rte_hash_insert_ns: measured.cost("insert/rte_hash"),
        rte_hash_churn_ns: churned.cost("churn/rte_hash"),
        insert_ratio: measured.compared("insert/rte_hash", "insert/ours"),
        churn_ratio: churned.compared("churn/rte_hash", "churn/ours"),
        conditions: Conditions::from(&measured),
        churn: Conditions::from(&churned),
    })
}

/// Fills an empty table with all flows.
fn inserts(
    flows: u64,
    tsc: Tsc,
    windows: &mut Vec<f64>,
    mut insert: impl FnMut(Pairs<'_>, Pairs<'_>) -> usize,
) -> Result<(), Failure> {
    let mut batch = Batch::default();
    for first in (0..flows).step_by(WINDOW) {
        let count = WINDOW.min((flows - first) as usize);
        batch.fill(first, count);
        let begin = stamp();
        let done: usize = batch.bursts().map(|(burst, next)| insert(burst, next)).sum();
        let end = stamp();
        if done != count {
            return Err(wrong(format!("{} of {count} new flows were refused", count - done)));
        }
        windows.push(tsc.nanoseconds(begin, end) / count as f64);
    }
    Ok(())
}

/// Brings the table to the state in which as many flows expire as come.
fn start_churn(ours: &mut Ours, flows: u64) -> Result<Churn, Failure> {
    ours.clear();
    ours.set_idle_us(LIFE_US);
    let step_us = LIFE_US as f64 / flows as f64;
    let mut churn = Churn { next: 0, now: Tick(2_000_000), step_us, left_us: 0.0 };
    ours.advance(churn.now);
    // Three lives: by then expiry keeps pace.
    while churn.next < flows * 3 {
        churn_window(ours, &mut churn, &mut Batch::default(), None)?;
    }
    Ok(churn)
}

fn churn_ours(ours: &mut Ours, churn: &mut Churn, tsc: Tsc, windows: &mut Vec<f64>) -> Result<(), Failure> {
    let mut batch = Batch::default();
    for _ in 0..CHURN_WINDOWS {
        windows.push(churn_window(ours, churn, &mut batch, Some(tsc))?);
    }
    Ok(())
}

/// One window of churn; expired flows go by the sweep and by making room.
fn churn_window(
    ours: &mut Ours,
    churn: &mut Churn,
    batch: &mut Batch,
    tsc: Option<Tsc>,
) -> Result<f64, Failure> {
    batch.fill(churn.next % (1 << 27), WINDOW);
    churn.next += WINDOW as u64;
    let begin = stamp();
    let mut done = 0;
    for (burst, next) in batch.bursts() {
        churn.left_us += churn.step_us * burst.len() as f64;
        let whole = churn.left_us.floor();
        churn.left_us -= whole;
        churn.now = Tick(churn.now.0 + whole as u64);
        ours.advance(churn.now);
        ours.prefetch(next);
        done += ours.insert(burst, churn.now);
    }
    let end = stamp();
    if done != WINDOW {
        return Err(wrong(format!(
            "{} of {WINDOW} new flows were refused at {} flows",
            WINDOW - done,
            ours.len()
        )));
    }
    Ok(tsc.map_or(0.0, |tsc| tsc.nanoseconds(begin, end) / WINDOW as f64))
}

/// Deletes the oldest and adds a new one, key by key.
fn churn_rte_hash(
    table: &mut RteHash,
    oldest: &mut u64,
    flows: u64,
    tsc: Tsc,
    windows: &mut Vec<f64>,
) -> Result<(), Failure> {
    let (mut new, mut old) = (Batch::default(), Batch::default());
    for _ in 0..CHURN_WINDOWS {
        old.fill(*oldest, WINDOW.min(flows as usize));
        new.fill(*oldest + flows, WINDOW.min(flows as usize));
        *oldest += new.pairs.len() as u64;
        let begin = stamp();
        let mut done = 0;
        for (&(old, _), &(key, value)) in old.pairs.iter().zip(&new.pairs) {
            done += usize::from(table.remove(old) && table.insert(key, value));
        }
        let end = stamp();
        if done != new.pairs.len() {
            return Err(wrong("rte_hash lost a key"));
        }
        windows.push(tsc.nanoseconds(begin, end) / new.pairs.len() as f64);
    }
    Ok(())
}
