//! Tables for people: aligned columns, no borders, numbers to the right.

use comfy_table::{CellAlignment, ContentArrangement, Table};
use jiff::Timestamp;

/// A table under construction.
pub(crate) struct TextTable {
    table: Table,
}

impl TextTable {
    /// Headings; one that starts with `>` is of a column aligned to the right.
    pub(crate) fn new(headings: &[&str]) -> TextTable {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(headings.iter().map(|h| h.trim_start_matches('>').to_uppercase()));
        for (i, heading) in headings.iter().enumerate() {
            if let Some(column) = table.column_mut(i) {
                column.set_padding((0, 2));
                if heading.starts_with('>') {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        TextTable { table }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.table.add_row(cells.into_iter().map(|cell| model::visible(&cell).into_owned()));
    }

    /// The text, without blanks at line ends.
    pub(crate) fn render(&self) -> String {
        self.table.to_string().lines().fold(String::new(), |text, line| text + line.trim_end() + "\n")
    }
}

/// 1234567 as `1,234,567`.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// 1234567 as `1.2M`: at most five characters, for screens.
pub(crate) fn short(n: f64) -> String {
    const UNITS: [&str; 6] = ["", "k", "M", "G", "T", "P"];
    let (mut n, mut unit) = (n.max(0.0), 0);
    while n >= 999.5 && unit + 1 < UNITS.len() {
        n /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && n < 99.95);
    format!("{n:.digits$}{}", UNITS[unit])
}

/// Milliseconds as `3d 4h`, `4h 5m`, `5m 6s` or `6s`.
pub(crate) fn duration(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m {}s", s / 60, s % 60),
        3600..86_400 => format!("{}h {}m", s / 3600, s / 60 % 60),
        _ => format!("{}d {}h", s / 86_400, s / 3600 % 24),
    }
}

/// A moment in Unix milliseconds as `2026-11-05 13:45:09.123` (UTC); one after the year 9999 as the number it is.
pub(crate) fn moment(unix_ms: u64) -> String {
    let timestamp = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    match timestamp {
        Some(timestamp) => timestamp.strftime("%Y-%m-%d %H:%M:%S%.3f").to_string(),
        None => format!("{unix_ms} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_read_well() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0.0, 999.4, 999.6, 12_345.0, 123_456.0, 2e9].map(short),
            ["0", "999", "1.0k", "12.3k", "123k", "2.0G"]
        );
        assert_eq!([5000, 65_000, 3_720_000, 100_000_000].map(duration), ["5s", "1m 5s", "1h 2m", "1d 3h"]);
        assert_eq!(moment(0), "1970-01-01 00:00:00.000");
        assert_eq!(moment(951_782_400_000), "2000-02-29 00:00:00.000");
        assert_eq!(moment(1_793_886_309_123), "2026-11-05 13:45:09.123");
        assert_eq!(moment(4_107_542_400_000), "2100-03-01 00:00:00.000");
        assert_eq!(moment(253_402_300_800_000), "253402300800000 ms", "the year 10000");
        assert_eq!(moment(u64::MAX), "18446744073709551615 ms");
    }

    #[test]
    fn columns_are_aligned() {
        let mut t = TextTable::new(&["name", ">count"]);
        t.row(["web".into(), "7".into()]);
        t.row(["longer-name".into(), "1,234".into()]);
        assert_eq!(t.render(), "NAME         COUNT\nweb              7\nlonger-name  1,234\n");
    }
}
