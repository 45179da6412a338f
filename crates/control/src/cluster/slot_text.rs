//! Sets of slots as short text: `5+3 30` is 5, 6, 7, 8, 38: each number is the distance from the slot before (the first from
//! 0), and `+n` takes the n slots behind it, too.

use statesync::plan::SlotSet;
use std::fmt::Write as _;

/// Slots, ascending, as text.
pub(crate) fn write(slots: impl IntoIterator<Item = u32>) -> String {
    let mut text = String::new();
    let mut run: Option<(u32, u32)> = None;
    let mut last = 0;
    let mut put = |(first, end): (u32, u32)| {
        let space = if text.is_empty() { "" } else { " " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{space}{}", first - last);
        if end > first {
            let _ = write!(text, "+{}", end - first);
        }
        last = end;
    };
    for slot in slots {
        run = match run {
            Some((first, end)) if slot == end + 1 => Some((first, slot)),
            Some(done) => {
                put(done);
                Some((slot, slot))
            }
            None => Some((slot, slot)),
        };
    }
    if let Some(done) = run {
        put(done);
    }
    text
}

/// The slots of a text, all below `size`.
///
/// # Errors
/// What is wrong.
pub(crate) fn read(text: &str, size: u32) -> Result<SlotSet, String> {
    let mut set = SlotSet::default();
    let mut last = 0_u32;
    for word in text.split_ascii_whitespace() {
        let (gap, more) = word.split_once('+').unwrap_or((word, "0"));
        let number =
            |text: &str| text.parse::<u32>().map_err(|_| format!("{word:?} is no distance of slots"));
        let first = last.checked_add(number(gap)?);
        let end = first.and_then(|first| Some((first, first.checked_add(number(more).ok()?)?)));
        let (first, end) =
            end.filter(|&(_, end)| end < size).ok_or_else(|| format!("{word:?} is beyond {size} slots"))?;
        for slot in first..=end {
            set.insert(slot);
        }
        last = end;
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::{read, write};
    use proptest::prelude::{prop, prop_assert_eq, proptest};

    #[test]
    fn as_documented() {
        assert_eq!(write([5, 6, 7, 8, 38]), "5+3 30");
        assert_eq!(write([]), "");
        assert_eq!(write([0]), "0");
        for (text, size) in
            [("5", 5), ("1+4294967295", 10), ("x", 10), ("1 -1", 10), ("4294967295 1", u32::MAX)]
        {
            assert!(read(text, size).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_set_comes_back(slots in prop::collection::btree_set(0_u32..500, 0..200)) {
            let set = read(&write(slots.iter().copied()), 500).expect("our own text");
            prop_assert_eq!(set.iter().collect::<std::collections::BTreeSet<_>>(), slots);
        }

        #[test]
        fn no_text_breaks_it(text in "[0-9+ x-]{0,40}") {
            let _ = read(&text, 1000);
        }
    }
}
