//! Standard output. `println!` panics when the reader has gone; these do not.

use crate::failure::Failure;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Serialize;
use std::io::{ErrorKind, Write};

/// Prints `text` as it is.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    bytes(text.as_bytes())
}

/// Prints `text` and a line end.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    print(&format!("{text}\n"))
}

/// Prints JSON, indented, and a line end.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Failure::failed(format!("cannot write JSON: {e}")))?;
    line(&text)
}

/// Prints bytes.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|e| match e.kind() {
        ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => Failure::failed(format!("cannot write to standard output: {e}")),
    })
}

/// From now on the process ends, with success, as soon as nobody reads standard output any more, also while it has
/// nothing to write: a write is otherwise the first to notice.
pub(crate) fn end_with_reader() {
    std::thread::spawn(|| {
        let out = std::io::stdout();
        // No event is asked for, so that only the end of the other side ends the wait. A file has no other side.
        let mut watched = [PollFd::new(&out, PollFlags::empty())];
        while let Ok(0) | Err(Errno::INTR) = poll(&mut watched, None) {}
        if watched[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
            std::process::exit(0);
        }
    });
}

/// Whether somebody may still read standard output.
pub(crate) fn has_reader() -> bool {
    let out = std::io::stdout();
    let mut watched = [PollFd::new(&out, PollFlags::empty())];
    let looked = poll(&mut watched, Some(&Timespec::default()));
    looked.is_err() || !watched[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

/// Tells on standard error how it ended, where standard output is taken.
pub(crate) fn tell(message: &str) {
    let _ = writeln!(std::io::stderr(), "{message}");
}

/// Tells something beside the result on standard error, which may be closed: the result counts all the same.
pub(crate) fn note(message: &str) {
    let _ = writeln!(std::io::stderr(), "note: {message}");
}

/// Tells on standard error what is probably not as wanted.
pub(crate) fn warning(message: &str) {
    let _ = writeln!(std::io::stderr(), "warning: {message}");
}
