//! The slots of a service: their number is a prime, and fits the number and the weights of its backends.

use super::backend::Backend;
use super::read::{At, ReadValue, Reader, Scope, Span};

/// Slots of a service that names no number.
pub(super) const MAGLEV_SIZE_DEFAULT: u32 = 65_537;
/// Most slots of a service.
pub(super) const MAGLEV_SIZE_MAX: i64 = 5_000_011;

pub(super) fn is_a_prime(r: &mut Reader<'_, '_>, at: &At<'_>, size: &u32, span: &Span) -> bool {
    let good = is_prime(*size);
    if !good {
        let next = (*size..).find(|n| is_prime(*n)).unwrap_or(MAGLEV_SIZE_DEFAULT);
        r.wrong(at, span, format_args!("{size} is not a prime"), format!("the next prime is {next}"));
    }
    good
}

/// Slots of the table, checked against the number of backends.
pub(super) fn slots(r: &mut Reader<'_, '_>, scope: &Scope, found: &ReadValue<u32>, backends: usize) -> u32 {
    let size = found.or(MAGLEV_SIZE_DEFAULT);
    if matches!(found, ReadValue::Bad(_)) {
        return size;
    }
    let span = found.span().unwrap_or(scope.span.clone());
    let place = &scope.place;
    if backends >= size as usize || backends >= usize::from(u16::MAX) {
        let message = format!("{place}: {backends} backends do not fit in `maglev_size` {size}");
        let help = match (backends.saturating_mul(100)..)
            .find_map(|n| u32::try_from(n).ok().filter(|n| is_prime(*n)))
        {
            _ if backends >= usize::from(u16::MAX) => "a service has at most 65,534 backends".to_owned(),
            Some(prime) if i64::from(prime) <= MAGLEV_SIZE_MAX => {
                format!("a hundred slots a backend keep shares even: {prime}")
            }
            _ => format!("the largest size is {MAGLEV_SIZE_MAX}"),
        };
        r.error(&span, message, help);
    } else if backends.saturating_mul(20) > size as usize {
        let (each, percent) = (size as usize / backends, 100 * backends / size as usize);
        let message = format!("{place}: {each} slots a backend: shares differ by {percent} %");
        let help = "a hundred slots a backend keep shares within 1 %: raise maglev_size";
        r.warning(&span, message, help);
    }
    size
}

/// Slots are shared out by weight; who has less than one slot may have none, and takes no new flow then.
pub(super) fn every_weight_has_a_slot(
    r: &mut Reader<'_, '_>,
    scope: &Scope,
    size: u32,
    span: Option<Span>,
    backends: &[Backend],
) {
    let weighted = || backends.iter().filter(|backend| backend.weight > 0);
    let sum: u64 = weighted().map(|backend| u64::from(backend.weight)).sum();
    // More backends than slots is an error of its own.
    let Some(least) =
        weighted().min_by_key(|backend| backend.weight).filter(|_| backends.len() < size as usize)
    else {
        return;
    };
    let weight = u64::from(least.weight);
    if u64::from(size) * weight >= sum {
        return;
    }
    let prime = |slots: u64| {
        let slots = u32::try_from(slots).ok().filter(|&slots| i64::from(slots) <= MAGLEV_SIZE_MAX)?;
        (slots..).find(|n| is_prime(*n)).filter(|&n| i64::from(n) <= MAGLEV_SIZE_MAX)
    };
    let help = match (prime(sum.div_ceil(weight)), prime((sum * 100).div_ceil(weight))) {
        (Some(one), Some(even)) => {
            format!(
                "with maglev_size = {one} it has one slot, with {even} its share is met within 1 %; \
                or raise its weight"
            )
        }
        (Some(one), None) => format!("with maglev_size = {one} it has one slot; or raise its weight"),
        (None, _) => {
            format!("not even the largest maglev_size, {MAGLEV_SIZE_MAX}, gives it a slot: raise its weight")
        }
    };
    let message = format!(
        "{}: backend \"{}\" with weight {weight} of {sum} has less than one of {size} slots, \
        and may get no flow",
        scope.place, least.name
    );
    r.warning(&span.unwrap_or(scope.span.clone()), message, help);
}

fn is_prime(n: u32) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= u64::from(n)).all(|d| !u64::from(n).is_multiple_of(d))
}

#[cfg(test)]
mod tests {
    #[test]
    fn primes() {
        let sieve = |n: u32| n >= 2 && !(2..n).any(|d| n.is_multiple_of(d));
        for n in 0..2000 {
            assert_eq!(super::is_prime(n), sieve(n), "{n}");
        }
        assert!(super::is_prime(65_537) && super::is_prime(5_000_011) && super::is_prime(4_294_967_291));
    }
}
