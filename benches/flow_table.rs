//! The flow table: look-ups, insertions and churn, beside hashbrown and beside the bound, which is one random line of memory
//! a key.
//!
//! What is found is checked before anything is timed. Criterion times one after the other; on a machine whose speed drifts,
//! the ratios printed first, of rounds taken in turns, say more. The heap's pages are small unless the kernel gives huge
//! ones to everybody (`/sys/kernel/mm/transparent_hugepage/enabled`), and then large tables cost about twice as
//! much as the daemon's.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use flow::{BURST, Hits, Idle, Insert, Keys, LookupPipeline, Memory, State, Table};
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng as _};
use std::hint::black_box;
use std::time::{Duration, Instant};
use wire::{BackendId, FlowKey, Tick};

const SIZES: [usize; 3] = [10_000, 1_000_000, 4_000_000];
/// Rounds for a ratio, and keys in each.
const ROUNDS: usize = 31;
const WINDOW: usize = 16_384;
const NOW: Tick = Tick(1_000_000);
const SECOND_US: u64 = 1_000_000;
const IDLE: Idle = Idle {
    tcp_established_us: 1800 * SECOND_US,
    tcp_closing_us: 60 * SECOND_US,
    syn_us: 30 * SECOND_US,
    udp_us: 60 * SECOND_US,
};

/// The i-th flow's key: different for different i below 2^48, and scattered.
const fn key(i: u64) -> u64 {
    i.wrapping_mul(0x9e37_79b9_7f4b) << 16 | 7
}

type Map = hashbrown::HashMap<u64, u32, ahash::RandomState>;

/// Everything of one size.
struct Bench {
    flows: usize,
    table: Table,
    map: Map,
    /// As much memory as the table's, for the bound.
    lines: Vec<[u64; 8]>,
    random: SplitMix64,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Case {
    Bound,
    Hit,
    HitInARow,
    Miss,
    MissInARow,
    MapHit,
    MapMiss,
}

impl Case {
    const ALL: [Case; 7] =
        [Case::Bound, Case::Hit, Case::HitInARow, Case::Miss, Case::MissInARow, Case::MapHit, Case::MapMiss];
}

fn table(flows: usize) -> Table {
    let table = Table::new(Memory::heap(flows), Memory::heap(1), 0x5eed, IDLE, 100);
    let mut table = table.expect("a table of sensible size");
    table.advance(NOW, |_, _| {});
    table
}

/// Inserts these flows in bursts, as a worker does. Gives how many were new.
fn insert(table: &mut Table, from: u64, count: usize, state: State, now: Tick) -> usize {
    let (mut keys, mut hits) = (Keys::new(), Hits::new());
    let mut done = 0;
    for burst in (0..count as u64).step_by(BURST) {
        let len = BURST.min(count - burst as usize);
        keys.clear();
        for i in 0..len as u64 {
            keys.push(Some(&FlowKey::Narrow(key(from + burst + i))));
        }
        table.lookup(&keys, now, &mut hits);
        table.prefetch_inserts(&keys, &hits);
        for position in 0..len {
            let flow = FlowKey::Narrow(key(from + burst + position as u64));
            let miss = hits.miss(position).expect("every position has a key");
            let inserted = table.insert_at(&flow, miss, BackendId(1), state, now);
            done += usize::from(inserted.outcome == Insert::Done);
        }
    }
    done
}

impl Bench {
    fn new(flows: usize) -> Bench {
        let mut table = table(flows);
        assert_eq!(insert(&mut table, 0, flows, State::TcpEstablished, NOW), flows);
        let mut map = Map::with_hasher(ahash::RandomState::with_seeds(1, 2, 3, 4));
        map.extend((0..flows as u64).map(|i| (key(i), 1)));
        let lines = (0..Memory::<flow::NarrowBucket>::buckets_for(flows) as u64).map(|i| [i; 8]).collect();
        Bench { flows, table, map, lines, random: SplitMix64::seed_from_u64(1) }
    }

    /// Random keys for a case; indices of lines for the bound.
    fn keys(&mut self, case: Case) -> Vec<u64> {
        let mut pick = |limit: usize| self.random.next_u64() % limit as u64;
        let beyond = self.flows as u64;
        (0..WINDOW)
            .map(|_| match case {
                Case::Bound => pick(self.lines.len()),
                Case::Miss | Case::MissInARow | Case::MapMiss => key(beyond + pick(1 << 40)),
                _ => key(pick(self.flows)),
            })
            .collect()
    }

    /// Looks all of them up, and gives how many were found.
    fn run(&self, case: Case, keys: &[u64]) -> usize {
        match case {
            Case::Bound => {
                let sum = keys.iter().fold(0, |sum, &line| sum ^ self.lines[line as usize][0]);
                black_box(sum);
                keys.len()
            }
            Case::Hit | Case::Miss => {
                let (mut burst, mut hits) = (Keys::new(), Hits::new());
                let mut found = 0;
                for keys in keys.chunks_exact(BURST) {
                    burst.copy_narrow(keys);
                    self.table.lookup(&burst, NOW, &mut hits);
                    found += hits.found().count_ones() as usize;
                }
                found
            }
            Case::HitInARow | Case::MissInARow => {
                let mut pipeline = LookupPipeline::new();
                let mut found = 0;
                // The last, empty ones finish those before; the first give nothing.
                for keys in keys.chunks_exact(BURST).chain([&[][..], &[]]) {
                    pipeline.next_keys().copy_narrow(keys);
                    found += self.table.lookup_pipelined(&mut pipeline, NOW).1.found().count_ones() as usize;
                }
                found
            }
            Case::MapHit | Case::MapMiss => keys.iter().filter(|key| self.map.get(*key).is_some()).count(),
        }
    }

    fn check(&mut self) {
        for case in Case::ALL {
            let keys = self.keys(case);
            let expected =
                if matches!(case, Case::Miss | Case::MissInARow | Case::MapMiss) { 0 } else { WINDOW };
            assert_eq!(self.run(case, &keys), expected, "{case:?}");
        }
    }

    /// Medians of nanoseconds a key, and of the ratio to the bound of the same round.
    fn ratios(&mut self) {
        let mut times = vec![(Vec::new(), Vec::new()); Case::ALL.len()];
        for _ in 0..ROUNDS {
            let mut bound = 1.0;
            for (case, (ns, ratio)) in Case::ALL.into_iter().zip(&mut times) {
                let keys = self.keys(case);
                let start = Instant::now();
                black_box(self.run(case, &keys));
                let took = start.elapsed().as_secs_f64() * 1e9 / WINDOW as f64;
                if case == Case::Bound {
                    bound = took;
                }
                ns.push(took);
                ratio.push(took / bound);
            }
        }
        println!("{} flows, {}:", self.flows, self.table.isa().name());
        for (case, (ns, ratio)) in Case::ALL.into_iter().zip(times) {
            println!("  {:12} {:6.2} ns, {:5.2} x bound", format!("{case:?}"), median(ns), median(ratio));
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn look_up(c: &mut Criterion) {
    for flows in SIZES {
        let mut bench = Bench::new(flows);
        bench.check();
        bench.ratios();
        let mut group = c.benchmark_group(format!("lookup/{flows}"));
        group.throughput(Throughput::Elements(WINDOW as u64));
        for case in Case::ALL {
            let keys = bench.keys(case);
            group.bench_function(BenchmarkId::from_parameter(format!("{case:?}")), |b| {
                b.iter(|| bench.run(case, &keys));
            });
        }
    }
}

fn change(c: &mut Criterion) {
    const FLOWS: usize = 4_000_000;
    let mut group = c.benchmark_group(format!("change/{FLOWS}"));
    group.sample_size(10).throughput(Throughput::Elements(WINDOW as u64));
    // From empty to load 0.8, over and over; emptying is not timed.
    let mut table = table(FLOWS);
    let mut at = 0_u64;
    group.bench_function("insert", |b| {
        b.iter_custom(|times| {
            let mut took = Duration::ZERO;
            for _ in 0..times {
                if table.len() + WINDOW > FLOWS {
                    table.clear();
                }
                let start = Instant::now();
                assert_eq!(insert(&mut table, at, WINDOW, State::TcpEstablished, NOW), WINDOW);
                took += start.elapsed();
                at += WINDOW as u64;
            }
            took
        });
    });
    // As many flows come as end, half of what fits, each after its idle time.
    table.clear();
    let step_us = IDLE.syn_us * WINDOW as u64 / (FLOWS as u64 / 2);
    let mut now = NOW;
    let mut turn = |table: &mut Table| {
        now = Tick(now.0 + step_us);
        table.advance(now, |_, _| {});
        assert_eq!(insert(table, at, WINDOW, State::TcpNew, now), WINDOW);
        at += WINDOW as u64;
    };
    (0..2 * FLOWS / WINDOW).for_each(|_| turn(&mut table));
    group.bench_function("insert and expire", |b| b.iter(|| turn(&mut table)));
}

criterion_group!(benches, look_up, change);
criterion_main!(benches);
