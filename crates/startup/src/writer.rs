//! The queue and the thread that empties it.

use crate::arguments::LogFormat;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait for the writer.
const LINES_MAX: usize = 4096;
/// Bytes that wait for the writer.
const BYTES_MAX: usize = 4 << 20;
/// Pause while a descriptor that does not block takes nothing.
const RETRY: Duration = Duration::from_millis(10);

/// Counts of the queue.
#[derive(Debug, Default)]
struct QueueCounts {
    /// Bytes that wait.
    waiting_bytes: AtomicUsize,
    /// Lines put into the queue.
    taken: AtomicU64,
    /// Lines that the thread has dealt with.
    done: AtomicU64,
    /// Lines lost.
    lost: AtomicU64,
    /// Thread id of the writer; 0 until it runs.
    thread: AtomicI32,
}

/// Takes lines and passes them on to the writing thread.
#[derive(Clone, Debug)]
pub(crate) struct LogWriter {
    queue: SyncSender<Vec<u8>>,
    counts: Arc<QueueCounts>,
}

/// Another descriptor of standard error: lines go out while EAL has the first one muted.
pub(crate) fn second_stderr() -> io::Result<File> {
    Ok(File::from(io::stderr().as_fd().try_clone_to_owned()?))
}

impl LogWriter {
    /// Starts the thread.
    pub(crate) fn start(to: impl Write + Send + 'static, format: LogFormat) -> io::Result<LogWriter> {
        let (queue, lines) = sync_channel(LINES_MAX);
        let counts = Arc::<QueueCounts>::default();
        let of = Arc::clone(&counts);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_all(to, &lines, &of, format))?;
        Ok(LogWriter { queue, counts })
    }

    /// A line that is being made.
    pub(crate) fn line(&self) -> Line<'_> {
        Line { writer: self, bytes: Vec::new() }
    }

    pub(crate) fn lost(&self) -> u64 {
        self.counts.lost.load(Relaxed)
    }

    pub(crate) fn pin(&self, cpus: &[u16]) {
        let thread = rustix::thread::Pid::from_raw(self.counts.thread.load(Relaxed));
        let mut set = rustix::thread::CpuSet::new();
        for cpu in cpus {
            set.set(usize::from(*cpu));
        }
        // Where it is refused, the thread runs wherever there is room, as others of the machine do.
        if thread.is_some() && !cpus.is_empty() {
            let _ = rustix::thread::sched_setaffinity(thread, &set);
        }
    }

    /// Waits until what was put into the queue is dealt with.
    pub(crate) fn flush(&self, longest: Duration) {
        let until = Instant::now() + longest;
        let taken = self.counts.taken.load(SeqCst);
        while self.counts.done.load(SeqCst) < taken && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn put(&self, line: Vec<u8>) {
        let counts = &self.counts;
        let length = line.len();
        let waiting = counts.waiting_bytes.fetch_add(length, Relaxed);
        counts.taken.fetch_add(1, SeqCst);
        if waiting + length > BYTES_MAX || self.queue.try_send(line).is_err() {
            counts.waiting_bytes.fetch_sub(length, Relaxed);
            counts.taken.fetch_sub(1, SeqCst);
            counts.lost.fetch_add(1, Relaxed);
        }
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        self.line()
    }
}

/// One line, from its first byte until it is put into the queue when this is dropped.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    writer: &'a LogWriter,
    bytes: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            self.writer.put(std::mem::take(&mut self.bytes));
        }
    }
}

/// The thread's work, until every [`LogWriter`] is gone.
fn write_all(mut to: impl Write, lines: &Receiver<Vec<u8>>, counts: &QueueCounts, format: LogFormat) {
    counts.thread.store(rustix::thread::gettid().as_raw_nonzero().get(), Relaxed);
    let mut told = 0;
    while let Ok(line) = lines.recv() {
        counts.waiting_bytes.fetch_sub(line.len(), Relaxed);
        if write(&mut to, &line).is_err() {
            counts.lost.fetch_add(1, Relaxed);
        } else {
            let lost = counts.lost.load(Relaxed);
            // Lost as well, it is told with the next one.
            if lost > told && write(&mut to, notice(lost - told, format).as_bytes()).is_ok() {
                told = lost;
            }
        }
        counts.done.fetch_add(1, SeqCst);
    }
}

/// Writes a whole line, waiting for a reader that is slow.
fn write(to: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A descriptor that does not block: whoever shares it made it so.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(RETRY),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The line that tells what was lost. It does not come from the program, and so has no time of its own.
fn notice(lost: u64, format: LogFormat) -> String {
    match format {
        LogFormat::Text => format!("  WARN log: {lost} lines were lost\n"),
        LogFormat::Json => {
            let message = format!("{lost} lines were lost");
            format!(r#"{{"level":"WARN","fields":{{"message":"{message}"}},"target":"log"}}"#) + "\n"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Condvar, Mutex};

    /// Takes nothing until it is opened, then everything; fails when told to.
    #[derive(Clone, Default)]
    struct Gate {
        state: Arc<Mutex<State>>,
        opened: Arc<Condvar>,
    }

    #[derive(Default)]
    struct State {
        is_open: bool,
        fails: bool,
        taken: Vec<u8>,
    }

    impl Gate {
        fn open(&self) {
            self.state.lock().unwrap().is_open = true;
            self.opened.notify_all();
        }

        fn fails(&self, fails: bool) {
            self.state.lock().unwrap().fails = fails;
        }

        fn text(&self) -> String {
            String::from_utf8(self.state.lock().unwrap().taken.clone()).unwrap()
        }
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let state = self.state.lock().unwrap();
            let mut state = self.opened.wait_while(state, |state| !state.is_open).unwrap();
            if state.fails {
                return Err(io::ErrorKind::StorageFull.into());
            }
            // Not all at once.
            let part = &bytes[..bytes.len().min(7)];
            state.taken.extend_from_slice(part);
            Ok(part.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log(writer: &LogWriter, text: &str) {
        writer.line().write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn nobody_waits_for_a_reader_that_does_not_read() {
        let gate = Gate::default();
        let writer = LogWriter::start(gate.clone(), LogFormat::Text).unwrap();
        let begun = Instant::now();
        for at in 0..LINES_MAX + 1000 {
            log(&writer, &format!("line {at}\n"));
        }
        writer.flush(Duration::from_millis(50));
        assert!(begun.elapsed() < Duration::from_secs(5));
        // One is in the thread's hands.
        let lost = writer.lost();
        assert!((999..=1000).contains(&lost), "{lost}");
        gate.open();
        writer.flush(Duration::from_secs(20));
        let text = gate.text();
        assert!(text.starts_with("line 0\n"), "{text}");
        assert!(text.contains(&format!("WARN log: {lost} lines were lost\n")));
        assert_eq!(text.matches("lines were lost").count(), 1);
        assert_eq!(text.matches("line ").count() as u64, (LINES_MAX + 1000) as u64 - lost);
    }

    #[test]
    fn what_waits_is_bounded_in_bytes() {
        let gate = Gate::default();
        let writer = LogWriter::start(gate.clone(), LogFormat::Json).unwrap();
        let long = "x".repeat(BYTES_MAX / 4);
        for _ in 0..10 {
            log(&writer, &long);
        }
        let lost = writer.lost();
        assert!((5..=6).contains(&lost), "{lost}");
        gate.open();
        writer.flush(Duration::from_secs(20));
        assert!(gate.text().contains(&format!("\"message\":\"{lost} lines were lost\"")));
    }

    #[test]
    fn a_full_disk_costs_lines_and_nothing_else() {
        let gate = Gate::default();
        gate.open();
        gate.fails(true);
        let writer = LogWriter::start(gate.clone(), LogFormat::Text).unwrap();
        for _ in 0..3 {
            log(&writer, "gone\n");
        }
        writer.flush(Duration::from_secs(5));
        assert_eq!(writer.lost(), 3);
        gate.fails(false);
        log(&writer, "there\n");
        writer.flush(Duration::from_secs(5));
        assert_eq!(gate.text(), "there\n  WARN log: 3 lines were lost\n");
    }
}
