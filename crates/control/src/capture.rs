//! A capture: copies of frames that workers make, written as a file that others read piece by piece.
//!
//! Rule of this module: what is held is bounded, however fast frames come and however slowly the file is read. Copies have the room that
//! is taken at the start ([`COPIES_BYTES`]); what finds none is counted. The file is written only as it is asked for.
//!
//! A capture runs, then ends (its taps are taken from the workers), then has them home; it is over when everything is written and taken.
//! Nobody else may begin one before the taps of the last one are home: what is asked of a worker for one would end the other.

mod file;

use crate::caller::Caller;
use crate::controller::Controller;
use file::{Comments, File};
use model::api::{CAPTURE_IDLE_S, CaptureFigures, EventKind};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{Semaphore, watch};
use wire::Tick;
use worker::DropReason;
use worker::capture::{CapturedFrame, Listener, Side};

/// Room for copies, bytes for each worker: it carries a burst of some thousand frames over the time in which control does other things,
/// and no machine misses it.
const COPIES_BYTES: usize = 4 << 20;
/// Copies for each worker at most: small ones would be too many to be made, and freed, in a moment.
const COPIES_MAX: usize = 4096;
/// Of the file, what is written before others get their turn on the management thread, bytes: a fraction of a millisecond.
const STEP_BYTES: usize = 64 << 10;
/// Received frames in a step, also where they are not written: a worker makes new ones all the time.
const STEP_FRAMES: usize = 1024;
/// A worker gives the copies of one frame in a row; when so much later no other has come, there is none.
const GIVEN_WITHIN: Duration = Duration::from_millis(1);
/// A capture of which nobody asks for a piece for so long ends.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(CAPTURE_IDLE_S);

/// Copies for each worker where so many bytes of a frame are kept.
pub(crate) fn copies(snap: usize) -> usize {
    (COPIES_BYTES / snap.max(1)).clamp(1, COPIES_MAX)
}

/// What is captured, by the names that were asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct CaptureRequest {
    pub(crate) service: Option<String>,
    pub(crate) reason: Option<DropReason>,
    pub(crate) client: Option<IpAddr>,
    pub(crate) count: Option<u64>,
    pub(crate) snap: u32,
}

impl fmt::Display for CaptureRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            Some(count) => write!(f, "{count} frames")?,
            None if self.service.is_none() && self.reason.is_none() && self.client.is_none() => {
                write!(f, "all frames")?;
            }
            None => write!(f, "frames")?,
        }
        if let Some(service) = &self.service {
            write!(f, " of service {service}")?;
        }
        if let Some(client) = self.client {
            write!(f, " from and to {client}")?;
        }
        match self.reason {
            Some(reason) => write!(f, " that end with {}", reason.name()),
            None => Ok(()),
        }
    }
}

/// How far a capture is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CapturePhase {
    /// Workers copy frames.
    Running,
    /// They are to leave off.
    Ending,
    /// They have.
    Home,
}

/// A copy, which goes home to its worker.
type Copied = Box<CapturedFrame>;

/// What one worker copies.
#[derive(Debug)]
struct Stream {
    listener: Listener,
    /// Copies of the last frame that was met, as received and then as sent, until they are sure to be all.
    group: Vec<Copied>,
    /// When the last of them was taken.
    taken: Instant,
}

impl Stream {
    fn new(listener: Listener) -> Stream {
        Stream { listener, group: Vec::new(), taken: Instant::now() }
    }

    /// All copies of one received frame; none if there is nothing, or nothing whole. `is_last`: the worker makes no more.
    fn next_group(&mut self, is_last: bool) -> Vec<Copied> {
        while let Some(copy) = self.listener.take() {
            self.taken = Instant::now();
            let before = match copy.side {
                Side::Received => std::mem::take(&mut self.group),
                Side::Sent => Vec::new(),
            };
            self.group.push(copy);
            if !before.is_empty() {
                return before;
            }
        }
        if is_last || self.taken.elapsed() > GIVEN_WITHIN {
            std::mem::take(&mut self.group)
        } else {
            Vec::new()
        }
    }
}

/// See the module.
pub(crate) struct ActiveCapture {
    pub(crate) id: u64,
    wanted: CaptureRequest,
    /// By worker.
    streams: Vec<Stream>,
    /// Whose turn it is.
    turn: usize,
    file: File,
    /// Received frames still to be written.
    left: Option<u64>,
    frames: u64,
    phase: watch::Sender<CapturePhase>,
    /// Why it ends.
    cause: &'static str,
    /// A worker that does not answer may have its tap still; nobody waits for that one.
    is_given_up: bool,
    asked: Instant,
    /// Held by whom a piece is made for.
    reading: Arc<Semaphore>,
}

/// What is written of a capture in one go.
#[derive(Debug, Default)]
pub(crate) struct CaptureStep {
    pub(crate) bytes: Vec<u8>,
    pub(crate) figures: CaptureFigures,
    /// There is no more, nor will there be.
    pub(crate) is_over: bool,
}

impl ActiveCapture {
    /// One that is about to begin.
    ///
    /// # Errors
    /// The file's head cannot be written, in words.
    pub(crate) fn new(
        controller: &Controller,
        id: u64,
        wanted: CaptureRequest,
        listeners: Vec<Listener>,
    ) -> Result<ActiveCapture, String> {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // What a clock that is set meanwhile does to a capture's stamps would only confuse.
        let tick_zero = since_1970.saturating_sub(Duration::from_micros(controller.now.tick.0));
        Ok(ActiveCapture {
            id,
            streams: listeners.into_iter().map(Stream::new).collect(),
            turn: 0,
            file: File::new(controller, &wanted, tick_zero)?,
            left: wanted.count,
            wanted,
            frames: 0,
            phase: watch::Sender::new(CapturePhase::Running),
            cause: "",
            is_given_up: false,
            asked: Instant::now(),
            reading: Arc::new(Semaphore::new(1)),
        })
    }

    pub(crate) fn interfaces(&self) -> Vec<String> {
        self.file.interfaces()
    }

    pub(crate) fn phase(&self) -> watch::Receiver<CapturePhase> {
        self.phase.subscribe()
    }

    pub(crate) fn reading(&self) -> Arc<Semaphore> {
        Arc::clone(&self.reading)
    }

    /// How long nobody has asked for a piece.
    pub(crate) fn idle(&self) -> Duration {
        self.asked.elapsed()
    }

    /// Somebody has.
    pub(crate) fn is_asked_for(&mut self) {
        self.asked = Instant::now();
    }

    /// Lets it end, if it does not yet.
    pub(crate) fn end(&mut self, cause: &'static str) {
        let begins = self.phase.send_if_modified(|phase| {
            let runs = *phase == CapturePhase::Running;
            if runs {
                *phase = CapturePhase::Ending;
            }
            runs
        });
        if begins {
            self.cause = cause;
        }
    }

    /// A worker has not given its tap back yet.
    pub(crate) fn give_up(&mut self) {
        self.is_given_up = true;
    }

    /// All workers have.
    pub(crate) fn is_home(&mut self) {
        self.phase.send_replace(CapturePhase::Home);
    }

    pub(crate) fn figures(&self) -> CaptureFigures {
        let missed = self.streams.iter().map(|stream| stream.listener.missed()).sum();
        CaptureFigures { frames: self.frames, blocks: self.file.blocks(), missed }
    }

    /// Writes a bounded part of what workers have copied. Everything of a frame stands together.
    fn step(&mut self, controller: &Controller) -> CaptureStep {
        let is_last = self.is_given_up || *self.phase.borrow() == CapturePhase::Home;
        let mut comments = Comments::of(controller);
        // Workers in a row that have nothing.
        let mut quiet = 0;
        for _ in 0..STEP_FRAMES {
            if quiet >= self.streams.len() || self.file.len() >= STEP_BYTES {
                break;
            }
            let turn = self.turn % self.streams.len();
            self.turn = turn + 1;
            let group = self.streams.get_mut(turn).map(|stream| stream.next_group(is_last));
            let group = group.unwrap_or_default();
            quiet = if group.is_empty() { quiet + 1 } else { 0 };
            self.write(turn, group, &mut comments);
        }
        let is_over = is_last && quiet >= self.streams.len();
        let figures = self.figures();
        if is_over {
            self.file.finish(&figures);
        }
        CaptureStep { bytes: self.file.take(), figures, is_over }
    }

    fn write(&mut self, worker: usize, group: Vec<Copied>, comments: &mut Comments<'_>) {
        let is_wanted = !group.is_empty() && self.left != Some(0);
        if is_wanted {
            self.frames += 1;
            self.left = self.left.map(|left| left - 1);
        }
        for copy in group {
            if is_wanted {
                self.file.write(&copy, comments.of_end(&copy.end));
            }
            if let Some(stream) = self.streams.get_mut(worker) {
                stream.listener.give_back(copy);
            }
        }
        if is_wanted && self.left == Some(0) {
            self.end("that is as many as were asked for");
        }
    }

    /// In words, for the log and events.
    fn told(&self) -> String {
        format!("capture {} of {}, {} bytes of each", self.id, self.wanted, self.wanted.snap)
    }
}

/// The capture of this machine, if there is one.
#[derive(Default)]
pub(crate) struct Captures {
    last_id: u64,
    pub(crate) current: Option<ActiveCapture>,
    /// The one whose taps workers may have.
    out: Option<u64>,
}

impl Captures {
    /// The number of the next one; why there can be none now.
    pub(crate) fn next_id(&self) -> Result<u64, String> {
        if let Some(capture) = &self.current {
            return Err(format!("{} is not over", capture.told()));
        }
        match self.out {
            Some(id) => Err(format!("workers have not left off from capture {id} yet")),
            None => Ok(self.last_id + 1),
        }
    }

    /// From now on workers may have its taps.
    pub(crate) fn begin(&mut self, capture: ActiveCapture) {
        (self.last_id, self.out) = (capture.id, Some(capture.id));
        self.current = Some(capture);
    }

    pub(crate) fn get(&mut self, id: u64) -> Option<&mut ActiveCapture> {
        self.current.as_mut().filter(|capture| capture.id == id)
    }

    /// No worker has a tap of it any more.
    pub(crate) fn is_home(&mut self, id: u64) {
        if self.out == Some(id) {
            self.out = None;
        }
        if let Some(capture) = self.get(id) {
            capture.is_home();
        }
    }

    /// Takes it out: it has not come about, or is over.
    pub(crate) fn remove(&mut self, id: u64) -> Option<ActiveCapture> {
        self.current.take_if(|capture| capture.id == id)
    }
}

impl Captures {
    /// The next part of the file; `None`: there is no such capture. One that is over is gone.
    pub(crate) fn step(&mut self, controller: &mut Controller, id: u64) -> Option<CaptureStep> {
        let capture = self.get(id)?;
        capture.is_asked_for();
        let step = capture.step(controller);
        if step.is_over {
            self.over(controller, id);
        }
        Some(step)
    }

    /// Tells what came of a capture, and forgets it.
    pub(crate) fn over(&mut self, controller: &mut Controller, id: u64) {
        let Some(capture) = self.remove(id) else { return };
        let CaptureFigures { frames, blocks, missed } = capture.figures();
        let (told, cause) = (capture.told(), capture.cause);
        let message =
            format!("{told}: ended ({cause}); {frames} frames in {blocks} blocks, {missed} frames missed");
        controller.log.push(EventKind::CaptureEnded, capture.wanted.service.as_deref(), None, message);
        // Its copies are megabytes, one by one.
        tokio::task::spawn_blocking(move || drop(capture));
    }

    /// Tells that a capture has begun; `None`: it is gone.
    pub(crate) fn begun(&mut self, controller: &mut Controller, caller: &Caller, id: u64) -> Option<()> {
        let capture = self.get(id)?;
        capture.is_asked_for();
        let (told, service) = (capture.told(), capture.wanted.service.clone());
        let subject = (service.as_deref(), None);
        controller.log.push_by(Some(caller), EventKind::CaptureBegun, subject, format!("{told}: begun"));
        Some(())
    }
}

/// A moment of the workers' clock.
fn at(tick_zero: Duration, tick: Tick) -> Duration {
    tick_zero.saturating_add(Duration::from_micros(tick.0))
}

#[cfg(test)]
mod tests;
