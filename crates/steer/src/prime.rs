//! Primes, for sizes of Maglev tables.

/// Whether `n` is prime. Trial division: at most some 11,000 steps for 32 bits.
pub const fn is_prime(n: u32) -> bool {
    if n < 4 {
        return n >= 2;
    }
    if n.is_multiple_of(2) || n.is_multiple_of(3) {
        return false;
    }
    let mut divisor: u32 = 5;
    while divisor as u64 * divisor as u64 <= n as u64 {
        if n.is_multiple_of(divisor) || n.is_multiple_of(divisor + 2) {
            return false;
        }
        divisor += 6;
    }
    true
}

/// The largest prime of 32 bits.
const PRIME_MAX: u32 = 4_294_967_291;

/// The smallest prime that is at least `n`; the largest prime of 32 bits when there is none.
pub const fn next_prime(n: u32) -> u32 {
    let mut candidate = n;
    while candidate < PRIME_MAX {
        if is_prime(candidate) {
            return candidate;
        }
        candidate += 1;
    }
    PRIME_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn agrees_with_a_sieve() {
        let n = 70_000usize;
        let mut composite = vec![false; n];
        for i in 2..n {
            for j in (i * i..n).step_by(i) {
                composite[j] = true;
            }
        }
        for (i, &composite) in composite.iter().enumerate() {
            assert_eq!(is_prime(u32::try_from(i).unwrap()), i >= 2 && !composite, "{i}");
        }
    }

    #[test]
    fn next_prime_at_the_edges() {
        assert_eq!(next_prime(0), 2);
        assert_eq!(next_prime(2), 2);
        assert_eq!(next_prime(65_536), 65_537);
        assert_eq!(next_prime(65_538), 65_539);
        assert_eq!(next_prime(PRIME_MAX - 1), PRIME_MAX);
        assert_eq!(next_prime(u32::MAX), PRIME_MAX);
        assert!(is_prime(PRIME_MAX) && !is_prime(u32::MAX));
    }
}
