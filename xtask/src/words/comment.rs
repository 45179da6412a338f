//! A documentation comment says something by itself: not "Which.", and not "The same of the other".

use super::finding::{Finding, Rule};
use super::source::Source;

/// What no comment may consist of.
const EMPTY: &[&str] = &[
    "all",
    "as above",
    "how",
    "likewise",
    "none",
    "of these",
    "see above",
    "that",
    "these",
    "this",
    "those",
    "what",
    "when",
    "where",
    "which",
    "who",
    "why",
];

/// What may not follow "the same" at a comment's begin: it leads to the comment before.
const POINTERS: &[&str] =
    &["behind", "but", "for", "from", "if", "in", "of", "on", "to", "where", "while", "with", "without"];

/// Finds comments that say nothing without the one before them.
pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut comment = (0, String::new());
    for (number, line) in (1..).zip(source.text.lines().chain([""])) {
        match line.trim_start().strip_prefix("///").filter(|_| !source.is_of_tests(number)) {
            Some(text) => {
                if comment.1.is_empty() {
                    comment.0 = number;
                }
                comment.1.push_str(text);
            }
            None => {
                let (begin, text) = std::mem::take(&mut comment);
                if is_empty(&text) {
                    found.push(Finding {
                        rule: Rule::Comment,
                        subject: format!("{}:{begin}", source.path),
                        message: format!(
                            "{}:{begin}: say it in a sentence: \"{}\"",
                            source.path,
                            text.trim()
                        ),
                    });
                }
            }
        }
    }
    found
}

fn is_empty(comment: &str) -> bool {
    let text = comment.trim().trim_end_matches(['.', ':']).to_lowercase();
    let behind = text.strip_prefix("the same").map(str::trim_start);
    let points_back = behind.is_some_and(|behind| {
        let word = behind.split_whitespace().next().unwrap_or_default();
        behind.is_empty() || behind.starts_with(',') || POINTERS.contains(&word)
    });
    points_back || EMPTY.contains(&text.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let source = Source::parse("wire", "a.rs", text).unwrap();
        check(&source).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn comments_that_say_nothing_are_found() {
        assert_eq!(
            found("/// A type.\nstruct A {\n    /// Which.\n    a: u8,\n}"),
            ["a.rs:3: say it in a sentence: \"Which.\""]
        );
        for text in
            ["Likewise.", "The same.", "The same, for\n/// a reader.", "The same of the other:", "Who"]
        {
            assert_eq!(found(&format!("/// {text}\nfn f() {{}}")).len(), 1, "{text}");
        }
    }

    #[test]
    fn comments_that_say_something_are_not() {
        for text in
            ["Which machine.", "The same seed gives the same numbers.", "None of these\n/// are open.", ""]
        {
            assert!(found(&format!("/// {text}\nfn f() {{}}")).is_empty(), "{text}");
        }
        assert!(found("// Likewise.\nfn f() {}").is_empty(), "no documentation");
        assert!(found("#[cfg(test)]\nmod tests {\n    /// Likewise.\n    fn f() {}\n}").is_empty());
    }
}
