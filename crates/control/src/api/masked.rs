//! The configuration as it is shown: without what is secret in it.

use model::Config;
use std::borrow::Cow;

/// What stands for a secret. No configuration with it is accepted, so that a text that was shown is not applied by mistake.
const MASK: &str = "********";

/// `text` without the keys that are written in `config`, which it is the text of, however they are written.
pub(crate) fn masked<'t>(text: &'t str, config: &Config) -> Cow<'t, str> {
    let mut keys = vec![config.machine.cluster_key];
    if let Some(cluster) = &config.cluster {
        keys.push(cluster.sync_key);
        keys.extend(cluster.sync_key_accepted);
    }
    let mut masked = Cow::Borrowed(text);
    for key in keys {
        let written = key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        masked = without(masked, &written);
    }
    masked
}

/// `text` with a mask where `secret` stood, in capital or small letters. `secret` is ASCII.
fn without<'t>(text: Cow<'t, str>, secret: &str) -> Cow<'t, str> {
    let lower = text.to_ascii_lowercase();
    let places: Vec<usize> = lower.match_indices(secret).map(|(at, _)| at).collect();
    if places.is_empty() {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for at in places {
        out.push_str(text.get(from..at).unwrap_or_default());
        out.push_str(MASK);
        from = at + secret.len();
    }
    out.push_str(text.get(from..).unwrap_or_default());
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_not_shown_however_they_are_written() {
        let text = "ü = 1\nkey = \"AB01\"\nother = 'ab01' # aB01\n";
        let shown = without(Cow::Borrowed(text), "ab01");
        assert_eq!(shown, "ü = 1\nkey = \"********\"\nother = '********' # ********\n");
        assert!(matches!(without(Cow::Borrowed(text), "cd02"), Cow::Borrowed(_)));
    }
}
