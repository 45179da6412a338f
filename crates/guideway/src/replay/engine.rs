//! N workers with their tables, rings and mailboxes, stepped in one thread.

use super::queue::Queues;
use super::{ReplayError, Summary};
use crate::compiled_view::CompiledView;
use flow::{Idle, Memory, Table};
use model::Config;
use std::sync::Arc;
use wire::{CoreId, PortId, Tick};
use worker::io::memory::MemIo;
use worker::view::PortRole;
use worker::view::mailbox::{Publisher, mailbox};
use worker::{Counters, DropReason, Outcome, RxMeta, Setup, View, Worker};

/// Frames a ring between two workers holds.
const RING_DEPTH: usize = 1024;
/// Fewest flows a table is made for.
const FLOWS_MIN: u64 = 1024;
/// Turns that one frame can cause, by far: pieces, rings, releases of held fragments.
const TURNS_MAX: usize = 10_000;
/// Share of a table that flows of which one packet was seen may fill; the daemon's value.
const UNTRUSTED_PERCENT: u8 = 50;
/// A moment that no capture reaches.
const NEVER: Tick = Tick(u64::MAX);
/// Any number, as long as it is always the same.
const TABLE_SEED: u64 = 0x6775_6964_6577_6179;

/// The workers and what came out of them.
pub(super) struct ReplayEngine {
    workers: Vec<Worker<MemIo>>,
    counters: Vec<Arc<Counters>>,
    /// Kept, because a mailbox ends with its publisher.
    _publishers: Vec<Publisher<View>>,
    /// Whether a port is a data port.
    data_ports: Vec<bool>,
    now: Tick,
    /// By worker: when it has something to do although nothing arrives.
    due: Vec<Tick>,
    /// The earliest of them, or an earlier moment.
    next_due: Tick,
    /// By worker: frames that it has put on rings, as was seen last.
    on_rings: Vec<u64>,
    /// Workers that are to take a turn.
    waiting: Vec<usize>,
    /// Sent on data ports: index of the input frame, bytes.
    pub(super) sent: Vec<(u32, Vec<u8>)>,
    pub(super) outcomes: Vec<(RxMeta, Outcome)>,
}

impl ReplayEngine {
    pub(super) fn new(
        config: &Config,
        compiled: &CompiledView,
        queues: &Queues,
    ) -> Result<ReplayEngine, ReplayError> {
        let view = &compiled.view;
        let cores = queues.frames.len();
        // Ids start at 1.
        let services = view.service.iter().map(|s| usize::from(s.id.0) + 1).max().unwrap_or(0);
        let tables: Vec<Table> =
            queues.frames.iter().map(|&frames| table(config, view, frames)).collect::<Result<_, _>>()?;
        let peers: Vec<flow::Reader> = tables.iter().map(Table::reader).collect();
        let mut engine = ReplayEngine {
            workers: Vec::new(),
            counters: Vec::new(),
            _publishers: Vec::new(),
            data_ports: view.ports.iter().map(|p| matches!(p.role, PortRole::Data { .. })).collect(),
            now: Tick(0),
            due: vec![NEVER; cores],
            next_due: NEVER,
            on_rings: vec![0; cores],
            waiting: Vec::new(),
            sent: Vec::new(),
            outcomes: Vec::new(),
        };
        // Workers hand over fragments alone, and look into every ring in every turn.
        let rings = if queues.has_fragments {
            statesync::mesh(cores, RING_DEPTH)
        } else {
            (0..=u8::MAX).map(CoreId).take(cores).map(statesync::Ports::alone).collect()
        };
        for (table, rings) in tables.into_iter().zip(rings) {
            let (mut publisher, inbox) = mailbox(2);
            let counters = Arc::new(Counters::new(services, view.backends.len(), view.ports.len()));
            publisher
                .publish(Arc::clone(view))
                .map_err(|_| ReplayError::Defect("an empty mailbox is full".into()))?;
            engine.workers.push(Worker::new(Setup {
                core: rings.core(),
                io: MemIo::new(view.ports.len()),
                table,
                peers: peers.clone(),
                rings,
                inbox,
                counters: Arc::clone(&counters),
                commands: None,
            }));
            engine.counters.push(counters);
            engine._publishers.push(publisher);
        }
        Ok(engine)
    }

    /// One frame on the first data port of the worker `at`, and everything that follows from it at once.
    pub(super) fn receive(
        &mut self,
        at: usize,
        frame: &[u8],
        meta: RxMeta,
        now: Tick,
    ) -> Result<(), ReplayError> {
        self.advance(now)?;
        if let Some(worker) = self.workers.get_mut(at) {
            worker.io().push(PortId(0), frame, meta);
        }
        self.waiting.push(at);
        self.settle()
    }

    /// Time passes until `end`, then whatever is still held is given back.
    pub(super) fn finish(&mut self, end: Tick) -> Result<(), ReplayError> {
        self.advance(end)?;
        for worker in &mut self.workers {
            worker.finish();
        }
        self.waiting.extend(0..self.workers.len());
        self.settle()
    }

    /// Lets time pass before the next frame: what became due in between happens first.
    ///
    /// Only where something is due: a turn of a worker with nothing to do would change no packet's end. Its flow table makes
    /// up for the time when it is used next.
    fn advance(&mut self, now: Tick) -> Result<(), ReplayError> {
        self.now = self.now.max(now);
        if self.next_due > self.now {
            return Ok(());
        }
        let is_due = |at: &usize| self.due.get(*at).is_some_and(|due| *due <= self.now);
        self.waiting.extend((0..self.workers.len()).filter(is_due));
        self.next_due = NEVER;
        self.settle()?;
        self.next_due = self.due.iter().copied().min().unwrap_or(NEVER);
        Ok(())
    }

    /// Turns of the workers that wait for one, and of those to whom they put something on rings.
    fn settle(&mut self) -> Result<(), ReplayError> {
        for _ in 0..TURNS_MAX {
            let Some(at) = self.waiting.pop() else { return Ok(()) };
            self.turn(at);
        }
        Err(ReplayError::Defect(format!("the workers did not come to rest within {TURNS_MAX} turns")))
    }

    fn turn(&mut self, at: usize) {
        let (Some(worker), Some(counters)) = (self.workers.get_mut(at), self.counters.get(at)) else {
            return;
        };
        // Whatever it has received is a frame, or what that has put on rings: one turn takes all of it.
        worker.turn(self.now);
        let io = worker.io();
        self.outcomes.append(&mut io.outcomes);
        for (port, meta, bytes) in io.sent.drain(..) {
            if self.data_ports.get(port.index()) == Some(&true) {
                self.sent.push((meta.index, bytes));
            }
        }
        let on_rings = counters.totals.ring_out.get();
        if let Some(seen) = self.on_rings.get_mut(at)
            && std::mem::replace(seen, on_rings) != on_rings
        {
            self.waiting.extend(worker.unread().map(|core| usize::from(core.0)));
        }
        let due = worker.next_due().unwrap_or(NEVER);
        if let Some(known) = self.due.get_mut(at) {
            *known = due;
        }
        self.next_due = self.next_due.min(due);
    }

    /// The sums over all workers, which must account for every frame.
    pub(super) fn summary(&self) -> Result<Summary, ReplayError> {
        let sum = |of: fn(&Counters) -> u64| self.counters.iter().map(|c| of(c)).sum::<u64>();
        for (core, counters) in self.counters.iter().enumerate() {
            let imbalance = counters.imbalance();
            if imbalance != 0 {
                return Err(ReplayError::Defect(format!("worker {core} lost count of {imbalance} frames")));
            }
        }
        let (ring_in, ring_out) = (sum(|c| c.totals.ring_in.get()), sum(|c| c.totals.ring_out.get()));
        let held = sum(|c| c.totals.held.get());
        if ring_in != ring_out || held != 0 {
            return Err(ReplayError::Defect(format!(
                "{held} frames are still held, {ring_out} went into rings and {ring_in} came out"
            )));
        }
        let of_reason = |&reason: &DropReason| {
            let count: u64 = self.counters.iter().map(|c| c.drops(reason).get()).sum();
            (count > 0).then_some((reason.name(), count))
        };
        Ok(Summary {
            rx: sum(|c| c.totals.rx.get()),
            tx: sum(|c| c.totals.tx.get()),
            originated: sum(|c| c.totals.originated.get()),
            punted: sum(|c| c.totals.punted.get()),
            relayed: sum(|c| c.totals.relayed.get()),
            held,
            dropped: DropReason::ALL.iter().filter_map(of_reason).collect(),
            frames: None,
        })
    }
}

/// A table of the configured size, or smaller where the worker's frames cannot fill a quarter of it: every frame makes one
/// flow at the most, so neither quota nor capacity decides differently.
fn table(config: &Config, view: &View, frames: usize) -> Result<Table, flow::TableError> {
    let enough = (frames as u64).saturating_mul(4).max(FLOWS_MIN);
    let flows = |configured: u64| usize::try_from(configured.min(enough)).unwrap_or(usize::MAX);
    let idle = Idle {
        tcp_established_us: view.timeouts.tcp_established_us,
        tcp_closing_us: view.timeouts.tcp_closing_us,
        syn_us: view.timeouts.syn_us,
        udp_us: view.timeouts.udp_us,
    };
    let (narrow, wide) =
        (Memory::heap(flows(config.workers.flows)), Memory::heap(flows(config.workers.wide_flows)));
    Table::new(narrow, wide, TABLE_SEED, idle, UNTRUSTED_PERCENT)
}
