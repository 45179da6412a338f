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
    pub(crate) const fn new(rate: u64, burst: u64) -> TokenBucket {
        TokenBucket { rate, full: burst * TOKEN, level: burst * TOKEN, last: Tick(0) }
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&mut self, now: Tick) -> bool {
        let gained = now.since_us(self.last).saturating_mul(self.rate);
        self.level = self.level.saturating_add(gained).min(self.full);
        self.last = self.last.max(now);
        let taken = self.level >= TOKEN;
        if taken {
            self.level -= TOKEN;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::TokenBucket;
    use wire::Tick;

    #[test]
    fn gives_burst_then_rate() {
        let mut bucket = TokenBucket::new(10, 5);
        let now = Tick(1);
        assert_eq!((0..20).filter(|_| bucket.take(now)).count(), 5);
        assert!(!bucket.take(Tick(99_999)));
        assert!(bucket.take(Tick(100_001)));
        assert!(!bucket.take(Tick(100_001)));
        assert_eq!((0..20).filter(|_| bucket.take(Tick(u64::MAX))).count(), 5);
    }

    #[test]
    fn time_backwards_gains_nothing() {
        let mut bucket = TokenBucket::new(1_000_000, 1);
        assert!(bucket.take(Tick(500)));
        assert!(!bucket.take(Tick(100)));
        assert!(!bucket.take(Tick(500)));
        assert!(bucket.take(Tick(501)));
    }
}
