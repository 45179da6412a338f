//! Lines of a file in batches, as the daemon takes them: bounded in lines and bytes, and what cannot be a line of a dump left out.

use model::api::{RESTORE_BODY_MAX, RESTORE_LINE_MAX, RESTORE_LINES_MAX, RefusedLine};
use std::io::{self, BufRead, ErrorKind};

/// A line of more bytes than this ends the reading: what has one is no dump.
const ENDLESS: u64 = 1 << 20;

/// Lines that follow each other.
#[derive(Debug)]
pub(super) struct Batch {
    /// Number of the first of them in the file, from 1.
    pub(super) first: u64,
    /// The lines. Where one was refused here there is an empty one, so that numbers agree.
    pub(super) text: String,
    /// The lines that were refused here.
    pub(super) refused: Vec<RefusedLine>,
}

/// A file, line by line.
pub(super) struct Lines<R> {
    reader: R,
    /// Lines that were read.
    count: u64,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(reader: R) -> Lines<R> {
        Lines { reader, count: 0, line: Vec::new() }
    }

    /// The next lines; `None` at the end.
    ///
    /// # Errors
    /// The file cannot be read, or has a line that does not end.
    pub(super) fn next_batch(&mut self) -> io::Result<Option<Batch>> {
        let first = self.count + 1;
        let mut batch = Batch { first, text: String::new(), refused: Vec::new() };
        for _ in 0..RESTORE_LINES_MAX {
            if batch.text.len() + RESTORE_LINE_MAX + 1 > RESTORE_BODY_MAX {
                break;
            }
            let Some(is_whole) = self.read_line()? else { break };
            self.count += 1;
            let line = self.count;
            let refused = match std::str::from_utf8(&self.line) {
                _ if !is_whole => Some(format!("longer than {RESTORE_LINE_MAX} bytes")),
                Ok(text) => {
                    batch.text.push_str(text);
                    None
                }
                Err(_) => Some("not UTF-8".to_owned()),
            };
            batch.refused.extend(refused.map(|reason| RefusedLine { line, reason }));
            batch.text.push('\n');
        }
        Ok((self.count >= first).then_some(batch))
    }

    /// Reads a line without its end, as far as there is room; whether that is all of it. `None` at the end.
    fn read_line(&mut self) -> io::Result<Option<bool>> {
        self.line.clear();
        let mut length = 0;
        loop {
            let found = match self.reader.fill_buf() {
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                found => found?,
            };
            if found.is_empty() {
                return Ok((length > 0).then_some(length <= RESTORE_LINE_MAX as u64));
            }
            let end = found.iter().position(|&byte| byte == b'\n');
            let part = &found[..end.unwrap_or(found.len())];
            length += part.len() as u64;
            let room = RESTORE_LINE_MAX.saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            let taken = part.len() + usize::from(end.is_some());
            self.reader.consume(taken);
            if end.is_some() {
                return Ok(Some(length <= RESTORE_LINE_MAX as u64));
            }
            if length > ENDLESS {
                let why = format!("line {} has more than {ENDLESS} bytes: this is no dump", self.count + 1);
                return Err(io::Error::new(ErrorKind::InvalidData, why));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufReader, Read};

    fn batches(bytes: &[u8]) -> io::Result<Vec<Batch>> {
        // A buffer so small that lines cross its end.
        let mut lines = Lines::new(BufReader::with_capacity(7, bytes));
        std::iter::from_fn(|| lines.next_batch().transpose()).collect()
    }

    #[test]
    fn lines_are_numbered_whatever_is_left_out() {
        let long = "x".repeat(RESTORE_LINE_MAX + 1);
        let fits = "y".repeat(RESTORE_LINE_MAX);
        let text = [b"one\n\n", long.as_bytes(), b"\n\xff\n", fits.as_bytes(), b"\nlast"].concat();
        let [batch] = &batches(&text).unwrap()[..] else { panic!("one batch") };
        assert_eq!((batch.first, &batch.text), (1, &format!("one\n\n\n\n{fits}\nlast\n")));
        let refused: Vec<(u64, &str)> = batch.refused.iter().map(|of| (of.line, &of.reason[..])).collect();
        assert_eq!(refused, [(3, "longer than 1024 bytes"), (4, "not UTF-8")]);
        assert!(batches(b"").unwrap().is_empty());
        assert_eq!(batches(b"\n").unwrap()[0].text, "\n");
    }

    #[test]
    fn batches_are_what_the_daemon_takes() {
        for line in ["", "{}", &"z".repeat(RESTORE_LINE_MAX)] {
            let all = format!("{line}\n").repeat(3 * RESTORE_LINES_MAX / 2);
            let batches = batches(all.as_bytes()).unwrap();
            let mut next = 1;
            for batch in &batches {
                let count = batch.text.lines().count();
                assert!(count <= RESTORE_LINES_MAX && batch.text.len() <= RESTORE_BODY_MAX);
                assert_eq!(batch.first, next);
                next += count as u64;
            }
            assert_eq!(next - 1, 3 * RESTORE_LINES_MAX as u64 / 2);
            assert_eq!(batches.into_iter().map(|batch| batch.text).collect::<String>(), all);
        }
    }

    #[test]
    fn a_line_that_does_not_end_is_not_read_for_ever() {
        let mut lines = Lines::new(BufReader::new(std::io::repeat(b'x').take(1 << 40)));
        assert!(lines.next_batch().unwrap_err().to_string().contains("no dump"));
    }
}
