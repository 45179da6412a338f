//! Who sends what is dropped, and the new flows for which there is no room: the busiest sources of late, by a sketch of fixed size.
//!
//! Of these packets one in sixteen is counted, by source (IPv6: by /64, which is what one host has), in sixteen places: one that has
//! none takes that of the smallest, and its count with it (Space-Saving: Metwally, Agrawal, El Abbadi, ICDT 2005). Whoever sends more than a
//! sixteenth of all is among them; nobody's count is too small, and none is too large by more than the smallest. Counts are halved every
//! ten seconds.
//!
//! A packet that is forwarded as a known flow's comes nowhere near. The worker writes, anybody reads.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use wire::{Addr, FlowKey, Tick};

/// Sources that are counted.
const PLACES: usize = 16;
/// Of so many packets one is counted.
const SAMPLE: u32 = 16;
/// Counts are halved so often, microseconds.
const HALVED_US: u64 = 10_000_000;
/// A source that sends steadily has on average one and a half times what it sends in that time.
const SECONDS: u64 = HALVED_US / 1_000_000 * 3 / 2;

/// Beside a count: the source is a prefix of IPv6.
const V6: u64 = 1;
/// One packet, in a count.
const ONE: u64 = 2;

/// The sketch of a worker.
#[derive(Debug, Default)]
pub struct Sources {
    /// IPv4 address, or the upper half of an IPv6 one; and the count, with the family in its lowest bit.
    places: [(AtomicU64, AtomicU64); PLACES],
}

/// The worker's side.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    turn: u32,
    halved: Tick,
}

impl Sampler {
    /// A packet from this source was dropped, or began a flow for which there was no room.
    #[inline]
    pub(crate) fn note(&mut self, sources: &Sources, source: impl FnOnce() -> Addr) {
        self.turn = self.turn.wrapping_add(1);
        if self.turn.is_multiple_of(SAMPLE) {
            sources.count(source());
        }
    }

    /// Lets time pass. Once a turn.
    #[inline]
    pub(crate) fn age(&mut self, sources: &Sources, now: Tick) {
        if now.since_us(self.halved) >= HALVED_US {
            self.halved = now;
            sources.halve();
        }
    }
}

/// The source of a flow, as far as its key has it.
#[expect(clippy::cast_possible_truncation, reason = "fields are taken out of words")]
pub(crate) fn of_key(key: &FlowKey) -> Addr {
    match *key {
        FlowKey::Narrow(key) => Addr::V4((key >> 32) as u32),
        FlowKey::Wide(key) if key.src[0] == 0 => Addr::V4(key.src[1] as u32),
        FlowKey::Wide(key) => Addr::V6(u128::from(key.src[0]) << 64 | u128::from(key.src[1])),
    }
}

impl Sources {
    fn count(&self, source: Addr) {
        let (word, family) = match source {
            Addr::V4(address) => (u64::from(address), 0),
            Addr::V6(address) => ((address >> 64) as u64, V6),
        };
        let mut least = (0, u64::MAX);
        for (at, (of, count)) in self.places.iter().enumerate() {
            let count_now = count.load(Relaxed);
            if count_now >= ONE && count_now & V6 == family && of.load(Relaxed) == word {
                count.store(count_now + ONE, Relaxed);
                return;
            }
            if count_now < least.1 {
                least = (at, count_now);
            }
        }
        if let Some((of, count)) = self.places.get(least.0) {
            // Not to be read as much of another's.
            count.store(0, Relaxed);
            of.store(word, Relaxed);
            count.store(((least.1 & !V6) + ONE) | family, Relaxed);
        }
    }

    fn halve(&self) {
        for (_, count) in &self.places {
            let now = count.load(Relaxed);
            count.store(((now / 2) & !V6) | (now & V6), Relaxed);
        }
    }

    /// The sources and about how many packets a second each, in no order. An IPv6 address is its prefix.
    pub fn busiest(&self) -> impl Iterator<Item = (Addr, u64)> + '_ {
        self.places.iter().filter_map(|(of, count)| {
            let (word, count) = (of.load(Relaxed), count.load(Relaxed));
            let source = if count & V6 != 0 {
                Addr::V6(u128::from(word) << 64)
            } else {
                Addr::V4(u32::try_from(word).ok()?)
            };
            (count >= ONE).then_some((source, count / ONE * u64::from(SAMPLE) / SECONDS))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busiest(sources: &Sources) -> Vec<(Addr, u64)> {
        let mut all: Vec<_> = sources.busiest().collect();
        all.sort_by_key(|(_, rate)| core::cmp::Reverse(*rate));
        all
    }

    /// Two who send most among a crowd of others, of whom none sends twice.
    #[test]
    fn who_sends_most_is_named() {
        let (sources, mut sampler) = (Sources::default(), Sampler::default());
        let of_a_prefix = |host: u32| Addr::V6(0x2001_0db8_0001_0002 << 64 | u128::from(host));
        for second in 0..60 {
            for n in 0..1000_u32 {
                let source = match n % 5 {
                    0 | 1 => Addr::V4(7),
                    2 => of_a_prefix(n),
                    _ => Addr::V4(0x0a00_0000 + second * 1000 + n),
                };
                sampler.note(&sources, || source);
            }
            sampler.age(&sources, Tick(u64::from(second) * 1_000_000));
        }
        let all = busiest(&sources);
        assert_eq!([all[0].0, all[1].0], [Addr::V4(7), of_a_prefix(0)]);
        assert!((250..=600).contains(&all[0].1) && (120..=300).contains(&all[1].1), "{all:?}");
        // Silence is forgotten.
        for second in 60..260 {
            sampler.age(&sources, Tick(second * 1_000_000));
        }
        assert_eq!(busiest(&sources), []);
    }

    #[test]
    fn families_are_told_apart() {
        let sources = Sources::default();
        for _ in 0..100 {
            sources.count(Addr::V4(5));
            sources.count(Addr::V6(5 << 64));
        }
        let all = busiest(&sources);
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].1, all[1].1);
    }
}
