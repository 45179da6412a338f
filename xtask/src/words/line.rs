//! No line of code is wider than the formatter makes it, also where the formatter gives up: strings,
//! attributes, macros.

use super::finding::{Finding, Rule};
use super::source::Source;
use proc_macro2::{LineColumn, Span, TokenStream, TokenTree};
use std::collections::BTreeSet;

/// `max_width` of rustfmt.toml.
const COLUMNS_MAX: usize = 110;

/// Finds wide lines that are not comments alone.
pub(super) fn check(source: &Source) -> Vec<Finding> {
    let lines: Vec<&str> = source.text.lines().collect();
    let columns = |number: usize| lines.get(number - 1).map_or(0, |line| line.chars().count());
    let wide: BTreeSet<usize> = (1..=lines.len())
        .filter(|number| columns(*number) > COLUMNS_MAX && !source.is_of_tests(*number))
        .collect();
    let mut search = WidthSearch { lines, wide, code: BTreeSet::new() };
    if !search.wide.is_empty() {
        search.tokens(source.tokens.clone());
    }
    let finding = |number: &usize| Finding {
        rule: Rule::Line,
        subject: source.path.clone(),
        message: format!(
            "{}:{number}: {} columns, {COLUMNS_MAX} are the most",
            source.path,
            search.lines.get(number - 1).map_or(0, |line| line.chars().count())
        ),
    };
    search.code.iter().map(finding).collect()
}

struct WidthSearch<'s> {
    lines: Vec<&'s str>,
    wide: BTreeSet<usize>,
    /// Those of them with code.
    code: BTreeSet<usize>,
}

impl WidthSearch<'_> {
    fn tokens(&mut self, tokens: TokenStream) {
        for tree in tokens {
            let span = tree.span();
            if !self.is_wide(span) || self.is_comment(span.start()) {
                continue;
            }
            if let TokenTree::Group(group) = tree {
                self.token(group.span_open());
                self.token(group.span_close());
                self.tokens(group.stream());
            } else {
                self.token(span);
            }
        }
    }

    /// Whether a wide line is among those from the first to the last of this.
    fn is_wide(&self, span: Span) -> bool {
        self.wide.range(span.start().line..=span.end().line).next().is_some()
    }

    fn token(&mut self, span: Span) {
        self.code.extend(self.wide.range(span.start().line..=span.end().line));
    }

    /// Whether a doc comment begins there: it is tokens, too, each of which lies where the whole comment
    /// does.
    fn is_comment(&self, at: LineColumn) -> bool {
        let line = self.lines.get(at.line.saturating_sub(1)).copied().unwrap_or_default();
        let mut rest = line.chars().skip(at.column);
        rest.next() == Some('/') && matches!(rest.next(), Some('/' | '*'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        let source = Source::parse("wire", "a.rs", text).unwrap();
        check(&source).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn wide_code_is_found_and_wide_comments_are_not() {
        let wide = "ä".repeat(COLUMNS_MAX);
        assert_eq!(
            lines(&format!("\nconst A: &str = \"{wide}\";")),
            ["a.rs:2: 129 columns, 110 are the most"]
        );
        let fits = "ä".repeat(COLUMNS_MAX - 19);
        assert!(lines(&format!("const A: &str = \"{fits}\";")).is_empty(), "characters count, not bytes");
        let comments =
            format!("//! {wide}\n/// {wide}\n/** {wide} */\nstruct A; /*\n{wide}\n*/\n    // {wide}\n");
        assert!(lines(&comments).is_empty());
        assert_eq!(lines(&format!("/** {wide} */ struct A;")).len(), 1, "code behind a comment");
        assert_eq!(lines(&format!("struct A; // {wide}")).len(), 1, "a comment behind code");
    }

    #[test]
    fn strings_of_several_lines_and_attributes_are_code() {
        let wide = "x".repeat(COLUMNS_MAX);
        assert_eq!(lines(&format!("const A: &str = \"\n// {wide}\n/// {wide}\";")).len(), 2);
        assert_eq!(lines(&format!("#[error(\n    \"{wide}\"\n)]\nstruct A;")).len(), 1);
        assert_eq!(lines(&format!("#[doc = \"{wide}\"]\nstruct A;")).len(), 1);
        assert_eq!(lines(&format!("m! {{\n    a b \"{wide}\"\n}}")).len(), 1);
    }

    #[test]
    fn tests_may_be_wide() {
        let wide = "x".repeat(COLUMNS_MAX);
        assert!(
            lines(&format!("#[cfg(test)]\nmod tests {{\n    const A: &str = \"{wide}\";\n}}")).is_empty()
        );
    }
}
