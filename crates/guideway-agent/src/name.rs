//! Names of agents, services, backends and commands.

use model::agent::NAME_MAX;

/// What a name may be, in words.
pub(crate) const RULE: &str = "a name is 1 to 63 of a-z A-Z 0-9 . _ -";

/// Whether `text` is a name.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=NAME_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "web-1", "A.b_c-9", &"x".repeat(63)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "a b", "a/b", "a\n", "ä", &"x".repeat(64)] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }
}
