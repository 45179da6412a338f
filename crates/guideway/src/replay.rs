//! A capture through the real worker engine, in memory, in one thread: what the balancer would do with these frames.
//!
//! Rule of this module: the result is a function of configuration and capture. Every hash has a fixed seed, the clock is
//! the capture's, and output stands in input order whatever the number of workers.

mod engine;
mod queue;

use crate::capture::{Capture, Captured};
use crate::compiled_view::CompiledView;
use engine::ReplayEngine;
use model::Config;
use queue::Queues;
use serde::Serialize;
use std::collections::BTreeMap;
use wire::Tick;
use worker::{DropReason, Outcome, RxMeta, Verdict};

/// Most workers a replay runs.
pub const WORKERS_MAX: u8 = 64;
/// The first frame's moment; not 0, so that "just now" and "never" differ.
const START_US: u64 = 1_000_000;
/// Longest frame whose offsets the engine can name; a NIC hands longer ones over in several segments.
const FRAME_LEN_MAX: usize = u16::MAX as usize;

/// How to replay.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Workers, 1 to [`WORKERS_MAX`]; frames are spread over them as a NIC does.
    pub workers: u8,
    /// Whether the summary names every frame's end.
    pub per_frame: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct ReplayResult {
    /// The totals.
    pub summary: Summary,
    /// Frames sent on data ports, in input order: the input frame each belongs to, and its bytes.
    pub sent: Vec<(u32, Vec<u8>)>,
    /// Input frames given to the kernel, ascending; their bytes are the capture's.
    pub punted: Vec<u32>,
}

/// The totals; the field names are fixed, other programs read them.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Frames received.
    pub rx: u64,
    /// Frames sent on data ports.
    pub tx: u64,
    /// Frames made here: echo replies, resets, ICMP errors, fragments.
    pub originated: u64,
    /// Frames given to the kernel.
    pub punted: u64,
    /// Frames relayed to another machine.
    pub relayed: u64,
    /// Frames still held; 0, or the replay failed.
    pub held: u64,
    /// Frames dropped by reason; reasons that did not occur are absent.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Every frame's end in input order, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frames: Option<Vec<FrameEnd>>,
}

/// How one frame ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FrameEnd {
    /// Position in the capture, from 0.
    pub index: u32,
    /// `sent`, `relayed`, `punted` or `dropped`.
    pub verdict: &'static str,
    /// What was done with it, in the end: the name of a [`worker::Action`].
    pub action: &'static str,
    /// Name of the service it matched.
    pub service: Option<String>,
    /// Name of the backend it was steered to.
    pub backend: Option<String>,
    /// Why it was dropped.
    pub reason: Option<&'static str>,
}

/// Why a replay has no result.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Compile(#[from] control::compile::CompileError),
    /// The flow tables cannot be made.
    #[error("cannot make the flow tables: {0}")]
    Table(#[from] flow::TableError),
    /// Options out of range.
    #[error("{0} workers: 1 to {WORKERS_MAX} can be replayed")]
    Workers(u8),
    /// More frames than an index can name.
    #[error("the capture has more than {} frames", u32::MAX)]
    TooManyFrames,
    /// The engine lost count of a frame: a defect of this program.
    #[error("{0}: this is a defect of guideway, please report it with the capture")]
    Defect(String),
}

/// Replays all frames of `capture`.
///
/// # Errors
/// See [`ReplayError`].
pub fn replay(config: &Config, capture: &Capture, options: Options) -> Result<ReplayResult, ReplayError> {
    if !(1..=WORKERS_MAX).contains(&options.workers) {
        return Err(ReplayError::Workers(options.workers));
    }
    let compiled = CompiledView::new(config)?;
    let queues = Queues::new(capture, options.workers);
    let mut engine = ReplayEngine::new(config, &compiled, &queues)?;
    let mut clock = CaptureClock::default();
    for (index, frame) in capture.iter().enumerate() {
        let queue = queues.of(index);
        let index = u32::try_from(index).map_err(|_| ReplayError::TooManyFrames)?;
        let now = clock.advance(&frame);
        let meta = RxMeta {
            index,
            truncated: frame.is_truncated(),
            multi_segment: frame.bytes.len() > FRAME_LEN_MAX,
            ..RxMeta::default()
        };
        engine.receive(queue, frame.bytes, meta, now)?;
    }
    let end = Tick(clock.now.0 + u64::from(config.timeouts.fragment_ms) * 1000 + 1);
    engine.finish(end)?;
    collect(engine, &compiled, capture.len(), options.per_frame)
}

/// The capture's time as ticks: never backward, from [`START_US`] on.
#[derive(Default)]
struct CaptureClock {
    origin_ns: Option<u64>,
    now: Tick,
}

impl CaptureClock {
    fn advance(&mut self, frame: &Captured<'_>) -> Tick {
        let origin_ns = *self.origin_ns.get_or_insert(frame.stamp_ns);
        let us = START_US + frame.stamp_ns.saturating_sub(origin_ns) / 1000;
        self.now = self.now.max(Tick(us));
        self.now
    }
}

/// Puts the engine's results in input order and checks that every frame has exactly one end.
fn collect(
    engine: ReplayEngine,
    compiled: &CompiledView,
    frames: usize,
    per_frame: bool,
) -> Result<ReplayResult, ReplayError> {
    let mut ends: Vec<Option<Outcome>> = vec![None; frames];
    for (meta, outcome) in &engine.outcomes {
        let index = meta.index;
        match ends.get_mut(index as usize) {
            Some(end @ None) => *end = Some(*outcome),
            Some(Some(_)) => return Err(ReplayError::Defect(format!("frame {index} has two ends"))),
            None => return Err(ReplayError::Defect(format!("there is no frame {index}"))),
        }
    }
    if let Some(index) = ends.iter().position(Option::is_none) {
        return Err(ReplayError::Defect(format!("frame {index} has no end")));
    }
    let ends: Vec<Outcome> = ends.into_iter().flatten().collect();
    let is_punted = |end: &Outcome| end.verdict == Verdict::Punted;
    let punted = (0_u32..).zip(&ends).filter(|(_, end)| is_punted(end)).map(|(index, _)| index).collect();
    let mut summary = engine.summary()?;
    if per_frame {
        summary.frames =
            Some((0_u32..).zip(&ends).map(|(index, end)| frame_end(compiled, index, end)).collect());
    }
    let mut sent = engine.sent;
    // Stable: what belongs to one input frame keeps the order in which it was sent.
    sent.sort_by_key(|(index, _)| *index);
    Ok(ReplayResult { summary, sent, punted })
}

fn reason(end: &Outcome) -> Option<&'static str> {
    match end.verdict {
        Verdict::Dropped(reason) => Some(DropReason::name(reason)),
        _ => None,
    }
}

fn frame_end(compiled: &CompiledView, index: u32, end: &Outcome) -> FrameEnd {
    let verdict = match end.verdict {
        Verdict::Sent => "sent",
        Verdict::Relayed => "relayed",
        Verdict::Punted => "punted",
        Verdict::Dropped(_) => "dropped",
    };
    FrameEnd {
        index,
        verdict,
        action: end.action.name(),
        service: end.service.and_then(|id| compiled.service_name(id)).map(str::to_owned),
        backend: end.backend.and_then(|id| compiled.backend_name(id)).map(str::to_owned),
        reason: reason(end),
    }
}

#[cfg(test)]
mod tests;
