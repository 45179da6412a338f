//! Maglev tables: ours beside the usual way to build one, which divides at every probe, as Envoy and Cilium do.
//!
//! Before anything is timed the two tables are compared. Criterion times one after the other; on a machine whose speed
//! drifts, the ratio printed first, of builds taken in turns, says more.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use siphasher::sip::SipHasher13;
use std::hint::black_box;
use std::time::{Duration, Instant};
use steer::{Maglev, Weighted};

const KEY: [u8; 16] = *b"0123456789abcdef";
/// Pairs of builds for a ratio.
const PAIRS: usize = 31;

/// The paper's algorithm for equal weights: `(offset + i * skip) % size` for every probe, one turn after the other.
fn naive(backends: &[Weighted<'_>], size: u32) -> Vec<u16> {
    let modulus = u64::from(size);
    let hash = |domain: u8, name: &str| {
        let input: Vec<u8> = [&[domain], name.as_bytes()].concat();
        SipHasher13::new_with_key(&KEY).hash(&input)
    };
    let members: Vec<(u16, u64, u64)> = (0..)
        .zip(backends)
        .filter(|(_, backend)| backend.weight > 0)
        .map(|(index, backend)| {
            let offset = hash(0x10, backend.name) % modulus;
            (index, offset, hash(0x11, backend.name) % (modulus - 1) + 1)
        })
        .collect();
    let mut next = vec![0_u64; members.len()];
    let mut table = vec![u16::MAX; size as usize];
    let mut filled = 0;
    loop {
        for (&(index, offset, skip), next) in members.iter().zip(&mut next) {
            let mut slot = (offset + skip * *next) % modulus;
            while table[slot as usize] != u16::MAX {
                *next += 1;
                slot = (offset + skip * *next) % modulus;
            }
            table[slot as usize] = index;
            *next += 1;
            filled += 1;
            if filled == size {
                return table;
            }
        }
    }
}

fn ours(backends: &[Weighted<'_>], size: u32) -> Maglev {
    Maglev::build(backends, size, &KEY).expect("a table")
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("backend-{i}")).collect()
}

fn time<T>(build: impl FnOnce() -> T) -> Duration {
    let begun = Instant::now();
    black_box(build());
    begun.elapsed()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Builds in turns, ours and the naive one; prints the fastest and the median of the pairs' ratios.
fn ratio(title: &str, backends: &[Weighted<'_>], size: u32) {
    assert_eq!(ours(backends, size).slots(), naive(backends, size), "the tables are the same");
    let pairs: Vec<(f64, f64)> = (0..PAIRS)
        .map(|_| (time(|| ours(backends, size)).as_secs_f64(), time(|| naive(backends, size)).as_secs_f64()))
        .collect();
    let least = |of: fn(&(f64, f64)) -> f64| pairs.iter().map(of).fold(f64::INFINITY, f64::min) * 1e3;
    println!(
        "{size} slots, {title}: {:.3} ms, naive {:.3} ms, {:.2} times as fast",
        least(|pair| pair.0),
        least(|pair| pair.1),
        median(pairs.iter().map(|(ours, naive)| naive / ours).collect())
    );
}

fn maglev(criterion: &mut Criterion) {
    for size in [65_537, 655_373] {
        for count in [100, 1000] {
            let names = names(count);
            let mut backends: Vec<Weighted<'_>> =
                names.iter().map(|name| Weighted { name, weight: 1 }).collect();
            ratio(&format!("{count} backends"), &backends, size);
            backends[count / 2].weight = 0;
            ratio(&format!("{count} backends, one removed"), &backends, size);
        }
    }
    let names = names(1000);
    let mut group = criterion.benchmark_group("maglev");
    group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for size in [65_537_u32, 655_373] {
        for (title, weight) in
            [("equal", (|_| 1) as fn(u32) -> u32), ("weights 1 to 10", |i| 1 + i % 10), ("naive", |_| 1)]
        {
            let backends: Vec<Weighted<'_>> =
                names.iter().zip(0..).map(|(name, i)| Weighted { name, weight: weight(i) }).collect();
            group.bench_with_input(BenchmarkId::new(title, size), &backends, |bencher, backends| {
                bencher.iter(|| match title {
                    "naive" => black_box(naive(backends, size)).len(),
                    _ => black_box(ours(backends, size)).slots().len(),
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, maglev);
criterion_main!(benches);
