//! What the writer asks of a whole bucket at once: with vector instructions where a kind of bucket has them.

use crate::ageing::Clock;
use crate::bucket::{Line, NarrowBucket, Probe, WideBucket};
use crate::simd::{self, Available};
use crate::state::TimingSet;

/// A bucket that the writer searches. By itself, slot by slot.
pub(crate) trait Search: Line {
    /// The lowest slot that holds the key and the lowest empty one, in one look. For the writer.
    #[inline]
    fn probe(&self, _isa: Available, key: Self::Key) -> Probe {
        Probe { slot: self.slot_of(key), empty: self.empty_slot() }
    }

    /// The slots whose value is expired, in use or not. For the writer.
    #[inline]
    fn expired(&self, _isa: Available, clock: &Clock) -> u32 {
        let mut mask = 0;
        for slot in 0..Self::SLOTS {
            mask |= u32::from(!clock.is_live(self.word(slot))) << slot;
        }
        mask
    }

    /// The slots whose value is expired, or counts by idle times that are not current, in use or not. For the writer.
    #[inline]
    fn due(&self, isa: Available, clock: &Clock, current: TimingSet) -> u32 {
        let mut mask = self.expired(isa, clock);
        for slot in 0..Self::SLOTS {
            mask |= u32::from(self.word(slot).timing() != current) << slot;
        }
        mask
    }
}

impl Search for WideBucket {}

impl Search for NarrowBucket {
    #[inline]
    fn probe(&self, isa: Available, key: u64) -> Probe {
        simd::probe(isa, self, key)
    }

    #[inline]
    fn expired(&self, isa: Available, clock: &Clock) -> u32 {
        simd::expired(isa, self, clock)
    }

    #[inline]
    fn due(&self, isa: Available, clock: &Clock, current: TimingSet) -> u32 {
        simd::due(isa, self, clock, current)
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::ageing::{Ageing, Idle};
    use crate::simd::Isa;
    use crate::state::Word;
    use crate::sync::Ordering;
    use proptest::prelude::*;
    use wire::Tick;

    proptest! {
        #[test]
        fn every_instruction_set_sees_the_same_slots(
            keys in any::<[bool; 5]>(), words in any::<[u32; 6]>(), now in any::<u64>(), idle_us in Idle::MIN_US..=Idle::MAX_US, current in any::<bool>(),
        ) {
            let line = NarrowBucket::default();
            for (slot, key) in keys.into_iter().enumerate() {
                line.store_key(slot, key.then_some(7));
            }
            for (word, value) in line.tail.iter().zip(words) {
                word.store(value, Ordering::Relaxed);
            }
            let idle = Idle { tcp_established_us: idle_us, tcp_closing_us: 2 * idle_us, syn_us: 3 * idle_us, udp_us: 9 * idle_us };
            let ageing = Ageing::new(&idle);
            let now = Tick(now >> 4);
            let current = TimingSet(current);
            let is_expired = |i: &usize| ageing.idle_us(Word(words[*i]), now).is_none();
            let is_due = |i: &usize| is_expired(i) || Word(words[*i]).timing() != current;
            let mask = |mask: u32, i: usize| mask | 1 << i;
            let expired = (0..5).filter(is_expired).fold(0, mask);
            let due = (0..5).filter(is_due).fold(0, mask);
            let first = |is_such: &dyn Fn(&bool) -> bool| keys.iter().position(is_such).unwrap_or(5) as u32;
            let probe = Probe { slot: first(&|&is_used| is_used), empty: first(&|&is_used| !is_used) };
            let clock = ageing.clock(now);
            prop_assert_eq!(line.slot_of(7), probe.slot);
            for isa in Isa::ALL.into_iter().filter_map(Available::new) {
                prop_assert_eq!(line.probe(isa, 7), probe);
                prop_assert_eq!(line.probe(isa, 8), Probe { slot: 5, ..probe });
                prop_assert_eq!(line.expired(isa, &clock), expired, "{:?}", isa);
                prop_assert_eq!(line.due(isa, &clock, current), due, "{:?}", isa);
                            }
        }
    }
}
