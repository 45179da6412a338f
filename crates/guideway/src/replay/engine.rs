//! N workers with their tables, rings and mailboxes, stepped in one thread.

use super::queue::queue;
use super::{JUMP_US, ReplayError, Summary};
use crate::picture::Picture;
use flow::{Idle, Memory, Table};
use model::Config;
use std::sync::Arc;
use wire::{CoreId, PortId, Tick};
use worker::mailbox::{Publisher, mailbox};
use worker::memory_io::MemIo;
use worker::view::PortRole;
use worker::{Counters, DropReason, Outcome, RxMeta, Setup, View, Worker};

/// Frames a ring between two workers holds.
const RING_DEPTH: usize = 1024;
/// Fewest flows a table is made for.
const FLOWS_MIN: u64 = 1024;
/// Rounds of turns that one frame can cause, by far: pieces, rings, releases of held fragments.
const ROUNDS_MAX: usize = 10_000;
/// Share of a table that flows of which one packet was seen may fill; the daemon's value.
const UNTRUSTED_PERCENT: u8 = 50;
/// Any number, as long as it is always the same.
const TABLE_SEED: u64 = 0x6775_6964_6577_6179;

/// The workers and what came out of them.
pub(super) struct Engine {
    workers: Vec<Worker<MemIo>>,
    counters: Vec<Arc<Counters>>,
    /// Kept, because a mailbox ends with its publisher.
    _publishers: Vec<Publisher<View>>,
    /// Whether a port is a data port.
    data_ports: Vec<bool>,
    now: Tick,
    /// Sent on data ports: index of the input frame, bytes.
    pub(super) sent: Vec<(u32, Vec<u8>)>,
    pub(super) outcomes: Vec<(RxMeta, Outcome)>,
}

impl Engine {
    pub(super) fn new(
        config: &Config,
        picture: &Picture,
        workers: u8,
        frames: usize,
    ) -> Result<Engine, ReplayError> {
        let view = &picture.view;
        let cores = usize::from(workers);
        // Ids start at 1.
        let services = view.service.iter().map(|s| usize::from(s.id.0) + 1).max().unwrap_or(0);
        let tables: Vec<Table> = (0..cores).map(|_| table(config, view, frames)).collect::<Result<_, _>>()?;
        let peers: Vec<flow::Reader> = tables.iter().map(Table::reader).collect();
        let mut engine = Engine {
            workers: Vec::new(),
            counters: Vec::new(),
            _publishers: Vec::new(),
            data_ports: view.ports.iter().map(|p| matches!(p.role, PortRole::Data { .. })).collect(),
            now: Tick(0),
            sent: Vec::new(),
            outcomes: Vec::new(),
        };
        for ((core, table), rings) in (0..workers).zip(tables).zip(statesync::mesh(cores, RING_DEPTH)) {
            let (mut publisher, inbox) = mailbox(2);
            let counters = Arc::new(Counters::new(services, view.backends.len(), view.ports.len()));
            publisher
                .publish(Arc::clone(view))
                .map_err(|_| ReplayError::Defect("an empty mailbox is full".into()))?;
            engine.workers.push(Worker::new(Setup {
                core: CoreId(core),
                io: MemIo::new(view.ports.len()),
                table,
                peers: peers.clone(),
                rings,
                inbox,
                counters: Arc::clone(&counters),
            }));
            engine.counters.push(counters);
            engine._publishers.push(publisher);
        }
        Ok(engine)
    }

    /// One frame on the first data port, and everything that follows from it at once.
    pub(super) fn receive(&mut self, frame: &[u8], meta: RxMeta, now: Tick) -> Result<(), ReplayError> {
        self.advance(now)?;
        let at = queue(frame, self.workers.len());
        if let Some(worker) = self.workers.get_mut(at) {
            worker.io().push(PortId(0), frame, meta);
        }
        self.settle()
    }

    /// Time passes until `end`, then whatever is still held is given back.
    pub(super) fn finish(&mut self, end: Tick) -> Result<(), ReplayError> {
        self.advance(end)?;
        self.settle()?;
        for worker in &mut self.workers {
            worker.finish();
        }
        self.settle()
    }

    /// Lets time pass before the next frame: what became due in between happens first.
    fn advance(&mut self, now: Tick) -> Result<(), ReplayError> {
        if now <= self.now {
            return Ok(());
        }
        let jumped = now.since_us(self.now) > JUMP_US;
        self.now = now;
        if jumped {
            for worker in &mut self.workers {
                worker.age_all(now);
            }
        }
        self.settle()
    }

    /// Turns of all workers until none finds anything to do.
    fn settle(&mut self) -> Result<(), ReplayError> {
        for _ in 0..ROUNDS_MAX {
            let mut received = 0;
            for worker in &mut self.workers {
                received += worker.turn(self.now).received;
                let io = worker.io();
                self.outcomes.append(&mut io.outcomes);
                for (port, meta, bytes) in io.sent.drain(..) {
                    if self.data_ports.get(port.index()) == Some(&true) {
                        self.sent.push((meta.index, bytes));
                    }
                }
            }
            if received == 0 {
                return Ok(());
            }
        }
        Err(ReplayError::Defect(format!("the workers did not come to rest within {ROUNDS_MAX} rounds")))
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

/// A table of the configured size, or smaller where the capture cannot fill a quarter of it: every frame makes one
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
