//! What the controller reads of workers and ports: counters and tables in shared memory, as plain values that it is given.

use flow::Reader;
use model::api::{ConnectionCounts, ManagementTurns};
use std::sync::Arc;
use wire::{CoreId, PortId};
use worker::Counters;

/// What a device counts; from its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DeviceStats {
    /// Frames received.
    pub rx: u64,
    /// Frames sent.
    pub tx: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames dropped by the device because nobody took them in time.
    pub missed: u64,
    /// Frames received with errors.
    pub rx_errors: u64,
    /// Frames that could not be sent.
    pub tx_errors: u64,
    /// Frames lost for want of buffers.
    pub nombuf: u64,
}

/// What nobody took in time and is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LostWords {
    /// Lines of the log.
    pub log_lines: u64,
    /// Messages to the service manager.
    pub notices: u64,
}

/// A worker's.
pub(crate) struct WorkerGauges {
    pub(crate) core: CoreId,
    /// The CPU it runs on.
    pub(crate) cpu: u16,
    pub(crate) counters: Arc<Counters>,
    pub(crate) flows: Reader,
}

/// A data port, and its statistics.
pub(crate) struct DataPort {
    /// Its number on the packet path.
    pub(crate) id: PortId,
    /// Its name in the configuration.
    pub(crate) name: String,
    pub(crate) device: String,
    pub(crate) mac: [u8; 6],
    /// Largest IP datagram, bytes.
    pub(crate) mtu: u16,
    pub(crate) driver: String,
    /// Its exception port: number on the packet path and kernel interface.
    pub(crate) exception: Option<(PortId, String)>,
    /// The kernel interface under the device.
    pub(crate) kernel: Option<String>,
    pub(crate) stats: Box<dyn Fn() -> DeviceStats>,
}

/// What the process counts of itself, for show.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) management: Vec<ManagementTurns>,
    pub(crate) lost: LostWords,
    pub(crate) connections: ConnectionCounts,
    pub(crate) agents: ListenerFigures,
}

/// What the agents' listener counts.
#[derive(Debug)]
pub(crate) struct ListenerFigures {
    pub(crate) open: u64,
    pub(crate) paused: u64,
    /// Connections that were closed or not taken, by reason.
    pub(crate) closed: Vec<(&'static str, u64)>,
}

/// Smallest generation that every worker uses.
pub(crate) fn acknowledged(workers: &[WorkerGauges]) -> u64 {
    workers.iter().map(|worker| worker.counters.totals.generation.get()).min().unwrap_or(0)
}

/// `a / b`, 0 when there is no `b`.
#[expect(clippy::cast_precision_loss, reason = "for show")]
pub(crate) fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}

/// Share of turns that found work, and whether every worker turns at all.
#[derive(Debug)]
pub(crate) struct Rates {
    last: Vec<(u64, u64)>,
    /// By worker.
    pub(crate) busy: Vec<f64>,
}

impl Rates {
    pub(crate) fn new(workers: usize) -> Rates {
        Rates { last: vec![(0, 0); workers], busy: vec![0.0; workers] }
    }

    /// Updates the ratios; tells whether every worker has taken a turn since the last time.
    pub(crate) fn measure(&mut self, workers: &[WorkerGauges]) -> bool {
        let mut alive = true;
        for ((worker, busy), last) in workers.iter().zip(&mut self.busy).zip(&mut self.last) {
            let totals = &worker.counters.totals;
            let now = (totals.turns.get(), totals.empty_turns.get());
            let (turns, empty) = (now.0.wrapping_sub(last.0), now.1.wrapping_sub(last.1));
            alive &= turns > 0;
            *busy = ratio(turns.saturating_sub(empty), turns);
            *last = now;
        }
        alive
    }
}
