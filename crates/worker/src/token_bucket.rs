//! A token bucket on ticks: bounds what the balancer originates, so that it cannot be made an amplifier.

use wire::Tick;

/// Holds up to `burst` tokens and gains `rate` a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    rate: u64,
    full: u64,
    /// Millionths of a token.
    level: u64,
    last: Tick,
}

const TOKEN: u64 = 1_000_000;

impl TokenBucket {
    /// A full bucket. `rate` is in tokens a second (a millionth of a token per microsecond each).
    pub(crate) const fn new((rate, burst): (u64, u64)) -> TokenBucket {
        TokenBucket { rate, full: burst * TOKEN, level: burst * TOKEN, last: Tick(0) }
    }

    /// Changes the rate from now on; what is in the bucket stays.
    pub(crate) const fn set_rate(&mut self, rate: u64) {
        self.rate = rate;
    }

    /// Takes a token, if there is one.
    #[inline]
    pub(crate) fn take(&mut self, now: Tick) -> bool {
        self.take_all(1, now)
    }

    /// Takes so many tokens, if there are as many.
    #[inline]
    pub(crate) fn take_all(&mut self, count: u64, now: Tick) -> bool {
        self.fill(now);
        let left = self.level.checked_sub(count.saturating_mul(TOKEN));
        self.level = left.unwrap_or(self.level);
        left.is_some()
    }

    /// The tokens that there are.
    #[inline]
    pub(crate) fn whole(&mut self, now: Tick) -> u64 {
        self.fill(now);
        self.level / TOKEN
    }

    #[inline]
    fn fill(&mut self, now: Tick) {
        let gained = now.since_us(self.last).saturating_mul(self.rate);
        self.level = self.level.saturating_add(gained).min(self.full);
        self.last = self.last.max(now);
    }
}

/// Slots of a [`Budget`] for destinations. Two that share one share its rate.
const DESTINATIONS: usize = 1024;

/// What the balancer may originate of one kind: in sum, and to each destination, so that one that provokes answers takes none
/// from others (as Linux limits ICMP, `icmp_ratelimit` and `icmp_msgs_per_sec`).
#[derive(Debug)]
pub(crate) struct Budget {
    sum: TokenBucket,
    by_destination: Box<[TokenBucket]>,
}

impl Budget {
    /// Full. Each pair is a rate a second and a burst: in sum, and of a destination.
    pub(crate) fn new(sum: (u64, u64), each: (u64, u64)) -> Budget {
        let by_destination = vec![TokenBucket::new(each); DESTINATIONS].into();
        Budget { sum: TokenBucket::new(sum), by_destination }
    }

    /// Takes a token for an answer to the destination with this hash, which should be keyed. One refused for its own sake takes
    /// nothing from the sum.
    pub(crate) fn take(&mut self, destination: u64, now: Tick) -> bool {
        let slot = usize::try_from(destination % DESTINATIONS as u64).unwrap_or(0);
        self.by_destination.get_mut(slot).is_some_and(|of| of.take(now)) && self.sum.take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, TokenBucket};
    use wire::Tick;

    #[test]
    fn one_destination_takes_nothing_from_another() {
        let mut budget = Budget::new((1000, 100), (50, 6));
        let now = Tick(1);
        assert_eq!((0..1000).filter(|_| budget.take(7, now)).count(), 6);
        // What was refused to the first was not taken from the sum: 94 are left for others, six for each.
        let answered: Vec<usize> =
            (8..30).map(|of| (0..10).filter(|_| budget.take(of, now)).count()).collect();
        assert_eq!(answered.iter().sum::<usize>(), 94);
        assert_eq!(answered[..15], [6; 15]);
        // After a second the first has its rate again, up to its burst.
        assert_eq!((0..1000).filter(|_| budget.take(7, Tick(1_000_001))).count(), 6);
    }

    #[test]
    fn several_are_taken_together_or_not_at_all() {
        let mut bucket = TokenBucket::new((10, 5));
        assert!(bucket.take_all(3, Tick(1)));
        assert!(!bucket.take_all(3, Tick(1)));
        assert_eq!(bucket.whole(Tick(1)), 2);
        assert!(!bucket.take_all(u64::MAX, Tick(u64::MAX)));
        assert!(bucket.take_all(5, Tick(u64::MAX)));
    }

    #[test]
    fn gives_burst_then_rate() {
        let mut bucket = TokenBucket::new((10, 5));
        let now = Tick(1);
        assert_eq!((0..20).filter(|_| bucket.take(now)).count(), 5);
        assert!(!bucket.take(Tick(99_999)));
        assert!(bucket.take(Tick(100_001)));
        assert!(!bucket.take(Tick(100_001)));
        assert_eq!((0..20).filter(|_| bucket.take(Tick(u64::MAX))).count(), 5);
    }

    #[test]
    fn time_backwards_gains_nothing() {
        let mut bucket = TokenBucket::new((1_000_000, 1));
        assert!(bucket.take(Tick(500)));
        assert!(!bucket.take(Tick(100)));
        assert!(!bucket.take(Tick(500)));
        assert!(bucket.take(Tick(501)));
    }
}
