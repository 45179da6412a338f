//! The lines around a problem, as a terminal can show them.

use super::Diagnostic;
use miette::{MietteError, MietteSpanContents, SourceCode, SourceSpan, SpanContents};

/// Longest line that is shown whole, bytes; of a longer one so much around the place.
const LINE_MAX: usize = 160;
/// What is shown before the place, of these.
const BEFORE: usize = 60;
/// Lines of a problem that are shown; one more before and behind it.
const LINES_MAX: usize = 8;

/// See the module. Offsets are bytes of `text`.
#[derive(Clone, Debug)]
pub(super) struct Excerpt {
    name: String,
    text: String,
    /// Number of its first line, counted from 0.
    first_line: usize,
    /// Characters before the place in its line, cut or not.
    column: usize,
    /// The place.
    pub(super) offset: usize,
    pub(super) length: usize,
}

impl Excerpt {
    /// What of `text` is shown with a problem of it.
    pub(super) fn new(name: &str, text: &str, of: &Diagnostic) -> Excerpt {
        let (start, end) = (of.offset, of.offset + of.length);
        let before = text.get(..start).unwrap_or("");
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line_before = before.get(..line_start.saturating_sub(1)).filter(|_| line_start > 0);
        let mut excerpt = Excerpt {
            name: name.to_owned(),
            text: String::new(),
            first_line: of.line.saturating_sub(1),
            column: of.column.saturating_sub(1),
            offset: 0,
            length: 0,
        };
        if let Some(before) = line_before {
            excerpt.first_line = excerpt.first_line.saturating_sub(1);
            let _ = excerpt.push(before.rsplit('\n').next().unwrap_or(""), 0);
            excerpt.text.push('\n');
        }
        let mut at = line_start;
        let mut is_behind = false;
        for (index, line) in
            text.get(line_start..).unwrap_or("").split_inclusive('\n').take(LINES_MAX + 1).enumerate()
        {
            let content = line.trim_end_matches('\n');
            let from = start.saturating_sub(at);
            let shown = excerpt.push(content, from);
            if index == 0 {
                excerpt.offset = shown(from);
                excerpt.length = 0;
            }
            if !is_behind && index < LINES_MAX {
                excerpt.length = shown(end.saturating_sub(at).min(line.len())).saturating_sub(excerpt.offset);
            }
            if line.len() > content.len() {
                excerpt.text.push('\n');
            }
            at += line.len();
            if is_behind {
                break;
            }
            is_behind = at >= end;
        }
        if excerpt.text.is_empty() || at == line_start {
            excerpt.offset = excerpt.text.len();
        }
        excerpt
    }

    /// Adds a line, of a long one what is around `place`, a byte of it. Returns where a byte of the line is
    /// in the excerpt; one that is cut off stands for the nearest that is not.
    fn push(&mut self, line: &str, place: usize) -> impl Fn(usize) -> usize + use<> {
        let (mut from, mut to) = (0, line.len());
        if line.len() > LINE_MAX {
            from = place.saturating_sub(BEFORE).min(line.len());
            to = (from + LINE_MAX).min(line.len());
            while !line.is_char_boundary(from) {
                from -= 1;
            }
            while !line.is_char_boundary(to) {
                to -= 1;
            }
        }
        self.text.push_str(if from > 0 { "…" } else { "" });
        let begin = self.text.len();
        self.text.push_str(line.get(from..to).unwrap_or(""));
        let (end, is_cut) = (self.text.len(), to < line.len());
        self.text.push_str(if is_cut { "…" } else { "" });
        // Behind the end of a line that is not cut stands its line feed.
        let last = if is_cut { end } else { end + 1 };
        move |at| (begin + at.saturating_sub(from)).min(last)
    }
}

impl SourceCode for Excerpt {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        context_lines_before: usize,
        context_lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let inner = self.text.as_str().read_span(span, context_lines_before, context_lines_after)?;
        let column = if context_lines_before == 0 { self.column } else { 0 };
        Ok(Box::new(MietteSpanContents::new_named(
            self.name.clone(),
            inner.data(),
            *inner.span(),
            self.first_line + inner.line(),
            column,
            inner.line_count(),
        )))
    }
}

#[cfg(test)]
mod tests {
    use crate::diagnostic::{Problems, Report};
    use proptest::prelude::*;
    use std::ops::Range;

    fn shown(text: &str, span: Range<usize>) -> String {
        let mut problems = Problems::new(text);
        problems.error(span, "wrong", "mend it");
        let report = Report::new("t.toml", text, problems.finish());
        let mut out = String::new();
        let theme = miette::GraphicalTheme::unicode_nocolor();
        let handler = miette::GraphicalReportHandler::new_themed(theme).with_width(100).with_links(false);
        handler.render_report(&mut out, &report).unwrap();
        out
    }

    #[test]
    fn short_lines_are_shown_whole_with_their_neighbours() {
        let out = shown("a = 1\nb = 2\nc = 3\nd = 4\n", 10..11);
        assert!(out.contains("[t.toml:2:5]"), "{out}");
        for line in ["1 │ a = 1", "2 │ b = 2", "3 │ c = 3"] {
            assert!(out.contains(line), "{out}");
        }
        assert!(!out.contains("d = 4"), "{out}");
    }

    #[test]
    fn of_long_lines_the_part_around_the_place_is_shown() {
        let long = "ä".repeat(2_500_000);
        let text = format!("# {long}\nname = \"{long}\", wrong, \"{long}\"\n# {long}\n");
        let place = text.find("wrong").unwrap();
        let out = shown(&text, place..place + 5);
        assert!(out.len() < 4000, "{} bytes", out.len());
        assert!(out.contains("wrong") && out.contains("[t.toml:2:2500012]"), "{out}");
        assert!(out.contains("╰── here") || out.contains("┬"), "{out}");
        // A place that is itself as long.
        let start = text.find('"').unwrap();
        let out = shown(&text, start..start + 5_000_000);
        assert!(out.len() < 4000, "{} bytes", out.len());
        // And one of many lines.
        let text = "[[x]]\n".repeat(100_000);
        let out = shown(&text, 0..text.len());
        assert!(out.len() < 4000, "{} bytes", out.len());
    }

    proptest! {
        /// Any place of any text can be shown, in bounded room.
        #[test]
        fn any_place(text in "([ab\u{e4}\r\n]|[a\u{1f600}]{300}){0,12}", from in 0..4000usize, len in 0..4000usize) {
            let out = shown(&text, from.min(text.len())..(from + len).min(text.len()));
            prop_assert!(out.len() < 20_000);
            prop_assert!(!out.contains("Failed to read"), "{}", out);
        }
    }
}
