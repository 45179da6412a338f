//! Which keys a window looks up, and what must be found.

use super::look_up::Found;
use crate::flows::{FLOWS_MAX, plain_key, value};
use crate::random::{Picker, Random, Spread};

/// Values are below this: a backend's number fits.
pub(super) const VALUES: u32 = 1 << 20;
/// Of ten mixed look-ups so many find nothing.
const MISSES_OF_TEN: u64 = 1;

/// Whether keys are known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum KeyKind {
    /// All are.
    Positive,
    /// None is.
    Negative,
    /// Nine of ten are.
    Mixed,
}

impl KeyKind {
    pub(super) const ALL: [KeyKind; 3] = [KeyKind::Positive, KeyKind::Negative, KeyKind::Mixed];

    pub(super) fn name(self) -> &'static str {
        match self {
            KeyKind::Positive => "positive",
            KeyKind::Negative => "negative",
            KeyKind::Mixed => "mixed",
        }
    }
}

/// A window's keys, made before it is timed.
#[derive(Clone, Debug)]
pub(super) struct KeyWindow {
    kind: KeyKind,
    picker: Picker,
    random: Random,
    /// The keys.
    pub(super) keys: Vec<u64>,
    /// What they must give.
    pub(super) expected: Found,
}

impl KeyWindow {
    pub(super) fn new(kind: KeyKind, spread: Spread, flows: u64, len: usize) -> KeyWindow {
        KeyWindow {
            kind,
            picker: Picker::new(spread, flows, 11),
            random: Random::new(12),
            keys: vec![0; len],
            expected: Found::default(),
        }
    }

    /// Other keys.
    pub(super) fn next_keys(&mut self) {
        self.expected = Found::default();
        for key in &mut self.keys {
            let number = self.picker.next_flow();
            let known = match self.kind {
                KeyKind::Positive => true,
                KeyKind::Negative => false,
                KeyKind::Mixed => self.random.below(10) >= MISSES_OF_TEN,
            };
            if known {
                self.expected.hits += 1;
                self.expected.sum += u64::from(value(number, VALUES));
                *key = plain_key(number);
            } else {
                *key = plain_key(number + FLOWS_MAX / 2);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_nine_to_one() {
        let mut window = KeyWindow::new(KeyKind::Mixed, Spread::Uniform, 1000, 10_000);
        window.next_keys();
        assert!((8_800..9_200).contains(&window.expected.hits), "{:?}", window.expected);
        let known: std::collections::HashSet<u64> = (0..1000).map(plain_key).collect();
        let hits = window.keys.iter().filter(|key| known.contains(key)).count();
        assert_eq!(hits as u64, window.expected.hits);
    }
}
