//! Which flows were attended to in a pass, roughly: one bit a flow, so that a second pass tells only those that the first has missed.
//!
//! A flow table moves entries now and then, so one pass over it in pieces can miss some. The second pass skips what is marked; a moved
//! entry whose mark another flow has set is skipped wrongly, one in ten with a hundred thousand marked flows, of the few that move at all.

use core::hash::{Hash, Hasher};
use siphasher::sip::SipHasher13;
use wire::FlowKey;

/// Bits: 128 kB.
const BITS: usize = 1 << 20;

/// Marks.
pub struct Seen {
    bits: Box<[u64]>,
    key: (u64, u64),
    is_clear: bool,
}

impl core::fmt::Debug for Seen {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Seen").finish_non_exhaustive()
    }
}

impl Seen {
    /// No marks. `seed` should be random.
    pub fn new(seed: u64) -> Seen {
        Seen { bits: vec![0; BITS / 64].into(), key: (seed, !seed), is_clear: true }
    }

    /// Takes all marks away.
    pub fn clear(&mut self) {
        if !self.is_clear {
            self.bits.fill(0);
            self.is_clear = true;
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "reduced to the number of bits")]
    fn bit(&self, key: &FlowKey) -> usize {
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1);
        key.hash(&mut hasher);
        hasher.finish() as usize % BITS
    }

    /// Whether the flow (or one that shares its bit) is marked.
    pub fn contains(&self, key: &FlowKey) -> bool {
        let bit = self.bit(key);
        self.bits.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }

    /// Marks the flow.
    pub fn mark(&mut self, key: &FlowKey) {
        let bit = self.bit(key);
        if let Some(word) = self.bits.get_mut(bit / 64) {
            *word |= 1 << (bit % 64);
            self.is_clear = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Seen;
    use wire::FlowKey;

    #[test]
    fn marks_stay_until_they_are_cleared() {
        let mut seen = Seen::new(7);
        let marked: Vec<FlowKey> = (1..2_000).map(|i| FlowKey::Narrow(i << 16 | 1)).collect();
        marked.iter().for_each(|key| seen.mark(key));
        assert!(marked.iter().all(|key| seen.contains(key)));
        let wrong = (2_000..12_000).filter(|i| seen.contains(&FlowKey::Narrow(i << 16 | 1))).count();
        assert!(wrong < 60, "{wrong} of 10,000 share a bit; 19 are expected");
        seen.clear();
        assert!(!marked.iter().any(|key| seen.contains(key)));
    }
}
