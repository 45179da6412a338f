//! Text from outside (names and reasons that agents tell, answers of health checks, a peer's words) as it may
//! be shown or logged: on one line, and moving no cursor (CWE-117, CWE-150).

use std::borrow::Cow;
use std::fmt::Write as _;

/// Characters of a text that are shown, at most.
pub const VISIBLE_MAX: usize = 1024;

/// The text with whatever is not to be seen written as `\u{…}`: control characters, line and paragraph
/// separators, and those that turn the direction of writing. What is longer than [`VISIBLE_MAX`] characters
/// ends in `…`. O(n); borrows where nothing is to be done.
pub fn visible(text: &str) -> Cow<'_, str> {
    if text.len() <= VISIBLE_MAX && text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len().min(4 * VISIBLE_MAX));
    for (index, c) in text.chars().enumerate() {
        if index == VISIBLE_MAX {
            shown.push('…');
            break;
        }
        if is_hidden(c) {
            // Writing to a String cannot fail.
            let _ = write!(shown, "\\u{{{:x}}}", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// Controls (C0, DEL, C1), and the format characters that reorder or break lines (Unicode Standard Annex 9,
/// section 2).
const fn is_hidden(c: char) -> bool {
    matches!(
        c,
        '\0'..='\x1f'
            | '\x7f'..='\u{9f}'
            | '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
            | '\u{feff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_that_moves_a_cursor_or_begins_a_line_comes_through() {
        for (text, shown) in [
            ("web/b1: refused", "web/b1: refused"),
            ("größer als €", "größer als €"),
            ("a\r\n2026-01-01 ERROR forged", "a\\u{d}\\u{a}2026-01-01 ERROR forged"),
            ("\x1b[2J\x1b]0;title\x07", "\\u{1b}[2J\\u{1b}]0;title\\u{7}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("a\u{202e}b\u{2028}c", "a\\u{202e}b\\u{2028}c"),
            ("", ""),
        ] {
            assert_eq!(visible(text), shown);
        }
        let long = "x".repeat(VISIBLE_MAX);
        assert_eq!(visible(&long), long);
        assert_eq!(visible(&(long.clone() + "y")), long + "…");
    }

    proptest! {
        #[test]
        fn any_text_is_one_line_of_bounded_length(text: String) {
            let shown = visible(&text);
            prop_assert!(!shown.chars().any(is_hidden));
            prop_assert!(shown.chars().count() <= 10 * VISIBLE_MAX);
            // Shown again a short one is the same, so that nobody has to know whether it was.
            prop_assert_eq!(visible(&shown).into_owned(), shown.into_owned());
        }
    }
}
