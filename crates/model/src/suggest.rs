//! "Did you mean": the nearest of the names that would have been right.

/// The candidate nearest to `word`, if one is near enough to be a slip of the keyboard.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.chars().take(65).flat_map(char::to_lowercase).collect();
    if word.len() > 64 {
        return None;
    }
    let near = |candidate: &&str| {
        let distance = distance(&word, &candidate.chars().collect::<Vec<_>>());
        // A third of the word may be wrong: `adress`, `ports`, `timeout`; a prefix of it is a guess, too.
        let prefix = word.len() >= 4 && candidate.starts_with(&word.iter().collect::<String>());
        if distance <= (word.len().max(candidate.len()) / 3).max(1) {
            Some(distance)
        } else {
            prefix.then_some(usize::MAX)
        }
    };
    candidates.into_iter().filter_map(|c| Some((near(&c)?, c))).min().map(|(_, c)| c)
}

/// Optimal string alignment: insertions, deletions, replacements and swaps of neighbours.
fn distance(a: &[char], b: &[char]) -> usize {
    let width = b.len() + 1;
    let mut cost = vec![0; (a.len() + 1) * width];
    for i in 0..=a.len() {
        for j in 0..width {
            cost[i * width + j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = cost[(i - 1) * width + j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = replaced.min(cost[(i - 1) * width + j] + 1).min(cost[i * width + j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(cost[(i - 2) * width + j - 2] + 1);
                }
                best
            };
        }
    }
    cost[a.len() * width + b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips() {
        let keys = ["name", "address", "address6", "next_hop_mac", "port", "timeout_ms"];
        for (word, expected) in [
            ("adress", Some("address")),
            ("ports", Some("port")),
            ("nmae", Some("name")),
            ("timeout", Some("timeout_ms")),
            ("Name", Some("name")),
            ("next-hop-mac", Some("next_hop_mac")),
            ("zebra", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, keys), expected, "{word}");
        }
        assert_eq!(nearest(&"x".repeat(10_000), keys), None);
    }

    #[test]
    fn distances() {
        let d = |a: &str, b: &str| distance(&a.chars().collect::<Vec<_>>(), &b.chars().collect::<Vec<_>>());
        assert_eq!((d("", ""), d("ab", "ba"), d("kitten", "sitting"), d("", "abc")), (0, 1, 3, 3));
    }
}
