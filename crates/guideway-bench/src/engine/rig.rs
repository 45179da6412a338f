//! A worker on memory with a full flow table, and one timed window of it.

use super::check::Expected;
use super::frame::Writer;
use super::io::BenchIo;
use super::scene::{Scene, State};
use crate::failure::{Failure, wrong};
use crate::flows;
use crate::random::Picker;
use crate::tsc::Tsc;
use dpdk::clock::stamp;
use dpdk::pages::{self, PageKind};
use flow::{BURST, Hits, Idle, Insert, Keys, Memory, NarrowBucket, State as TcpState, Table};
use std::sync::Arc;
use wire::CoreId;
use worker::mailbox::{Publisher, mailbox};
use worker::{Counters, PacketIo, Setup, View, Worker};

/// Packets of a window.
pub(super) const WINDOW: usize = 256;
/// Bytes of a frame: 64 on the wire with the checksum that no software sees.
const FRAME_LEN: usize = 60;
/// Buffers besides those of a window.
const SPARE: usize = 64;
/// Flows of the wide table, which nothing uses here.
const WIDE_FLOWS: usize = 16;
/// Any number, as long as it is always the same.
const TABLE_SEED: u64 = 0x6775_6964;
/// The daemon's value.
const UNTRUSTED_PERCENT: u8 = 50;
/// Frames a ring holds; nothing is put there.
const RING_DEPTH: usize = 64;
/// Turns from which the cost of an empty one is taken.
const EMPTY_TURNS: u32 = 256;

/// Bytes of a table for so many flows at load 0.8.
pub fn table_bytes(flows: u64) -> usize {
    buckets(flows) * size_of::<NarrowBucket>()
}

fn buckets(flows: u64) -> usize {
    Memory::<NarrowBucket>::buckets_for(usize::try_from(flows).unwrap_or(usize::MAX))
}

/// What a worker is made of, but for what moves its frames.
#[derive(Debug)]
pub struct Parts {
    table: Table,
    view: Arc<View>,
    /// What the worker will count.
    pub counters: Arc<Counters>,
    /// Where the table is.
    pub pages: PageKind,
    /// How large it is.
    pub table_bytes: usize,
}

impl Parts {
    /// A table with `flows` established flows, each with a backend that the slot table knows nothing of.
    ///
    /// # Errors
    /// No memory, or a flow that does not fit.
    pub fn new(scene: &Scene, flows: u64, tsc: Tsc) -> Result<Parts, Failure> {
        Parts::with_room(scene, flows, flows, tsc)
    }

    /// The same, with room for `room` flows at load 0.8.
    ///
    /// # Errors
    /// No memory, or a flow that does not fit.
    pub fn with_room(scene: &Scene, flows: u64, room: u64, tsc: Tsc) -> Result<Parts, Failure> {
        let (table, pages) = full_table(scene, flows, room, tsc)?;
        let view = Arc::clone(&scene.view);
        // Ids start at 1.
        let services = view.service.iter().map(|s| usize::from(s.id.0) + 1).max().unwrap_or(0);
        let counters = Arc::new(Counters::new(services, view.backends.len(), view.ports.len()));
        Ok(Parts { table, view, counters, pages, table_bytes: table_bytes(room) })
    }

    /// The worker, which uses the view from its first turn on, and the publisher, without which it would not get one.
    ///
    /// # Errors
    /// A defect.
    pub fn worker<Io: PacketIo>(self, io: Io) -> Result<(Worker<Io>, Publisher<View>), Failure> {
        let (mut publisher, inbox) = mailbox(1);
        publisher.publish(self.view).map_err(|e| wrong(e.to_string()))?;
        let peers = vec![self.table.reader()];
        let rings = statesync::mesh(1, RING_DEPTH).pop().ok_or_else(|| wrong("no rings for one worker"))?;
        let worker = Worker::new(Setup {
            core: CoreId(0),
            io,
            table: self.table,
            peers,
            rings,
            inbox,
            counters: self.counters,
        });
        Ok((worker, publisher))
    }
}

/// A worker on memory.
pub struct Rig {
    worker: Worker<BenchIo>,
    counters: Arc<Counters>,
    _publisher: Publisher<View>,
    writer: Writer,
    expected: Expected,
    pages: PageKind,
    table_bytes: usize,
    state: State,
    tsc: Tsc,
}

impl std::fmt::Debug for Rig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rig").field("pages", &self.pages).finish_non_exhaustive()
    }
}

impl Rig {
    /// A worker that receives up to `burst` packets a turn and knows `flows` flows.
    ///
    /// # Errors
    /// No memory, or a flow that does not fit.
    pub fn new(scene: &Scene, flows: u64, burst: usize, tsc: Tsc) -> Result<Rig, Failure> {
        Rig::with_room(scene, flows, flows, burst, tsc)
    }

    /// The same, with room for `room` flows at load 0.8.
    ///
    /// # Errors
    /// No memory, or a flow that does not fit.
    pub fn with_room(scene: &Scene, flows: u64, room: u64, burst: usize, tsc: Tsc) -> Result<Rig, Failure> {
        let parts = Parts::with_room(scene, flows, room, tsc)?;
        let (counters, pages, table_bytes) = (Arc::clone(&parts.counters), parts.pages, parts.table_bytes);
        let (worker, publisher) = parts.worker(BenchIo::new(WINDOW + SPARE, burst))?;
        let writer = Writer::new(FRAME_LEN);
        let expected = Expected::new(scene, writer.clone());
        let state = scene.state;
        Ok(Rig { worker, counters, _publisher: publisher, writer, expected, pages, table_bytes, state, tsc })
    }

    /// Where the table is.
    pub fn pages(&self) -> PageKind {
        self.pages
    }

    /// How large it is.
    pub fn table_bytes(&self) -> usize {
        self.table_bytes
    }

    /// Packets whose output was compared with what it must be.
    pub fn packets_checked(&self) -> u64 {
        self.expected.checked()
    }

    /// One window: frames are written, the turns that take them are timed, the outputs are checked. Nanoseconds a packet.
    ///
    /// # Errors
    /// A packet missed, was dropped, or left as something else than it should.
    pub fn window(&mut self, picker: &mut Picker) -> Result<f64, Failure> {
        for _ in 0..WINDOW {
            self.offer(picker.next_flow())?;
        }
        let ns = self.take(WINDOW, WINDOW as u64)?;
        self.check(u64::MAX)?;
        Ok(ns / WINDOW as f64)
    }

    /// The same, but every second packet is a SYN of a flow from `flows` + `syns` on, which is not known. Only the others
    /// are checked.
    ///
    /// # Errors
    /// As above.
    pub fn flood_window(&mut self, picker: &mut Picker, flows: u64, syns: &mut u64) -> Result<f64, Failure> {
        for _ in 0..WINDOW / 2 {
            self.offer(picker.next_flow())?;
            let number = flows + *syns;
            *syns += 1;
            let (writer, io) = (&self.writer, self.worker.io());
            if !io.offer(writer.frame_len(), |frame| writer.write_syn(frame, number)) {
                return Err(wrong("a buffer was lost"));
            }
        }
        let ns = self.take(WINDOW, WINDOW as u64 / 2)?;
        self.check(flows)?;
        Ok(ns / WINDOW as f64)
    }

    /// One turn that finds `packets` (at most a burst) packets; its nanoseconds.
    ///
    /// # Errors
    /// As above.
    pub fn turn_of(&mut self, packets: usize, picker: &mut Picker) -> Result<f64, Failure> {
        for _ in 0..packets {
            self.offer(picker.next_flow())?;
        }
        let ns = self.take(packets, packets as u64)?;
        self.check(u64::MAX)?;
        Ok(ns)
    }

    /// Sends a packet of every flow below `flows`; each must be known.
    ///
    /// # Errors
    /// As above.
    pub fn ask_all(&mut self, flows: u64) -> Result<(), Failure> {
        for first in (0..flows).step_by(WINDOW) {
            let numbers = first..flows.min(first + WINDOW as u64);
            let count = (numbers.end - numbers.start) as usize;
            for number in numbers {
                self.offer(number)?;
            }
            self.take(count, count as u64)?;
            self.check(u64::MAX)?;
        }
        Ok(())
    }

    /// Flows for which there was no room.
    pub fn refused(&self) -> u64 {
        self.counters.totals.flow_refused.get()
    }

    /// Writes a packet of a flow into the receive queue.
    #[inline]
    fn offer(&mut self, number: u64) -> Result<(), Failure> {
        let (writer, io) = (&self.writer, self.worker.io());
        if io.offer(writer.frame_len(), |frame| writer.write(frame, number)) {
            Ok(())
        } else {
            Err(wrong("a buffer was lost"))
        }
    }

    /// Takes turns until all `packets` that wait are received and sent; `known` of them must find their flow. Nanoseconds.
    fn take(&mut self, packets: usize, known: u64) -> Result<f64, Failure> {
        let totals = &self.counters.totals;
        let found = match self.state {
            State::All => &totals.flow_hits,
            State::Exceptions => &totals.flow_stateless,
        };
        let hits = found.get();
        let now = self.tsc.tick();
        let begin = stamp();
        let mut received = 0;
        loop {
            let turn = self.worker.turn(now).received;
            received += turn;
            if turn == 0 || received >= packets {
                break;
            }
        }
        let end = stamp();
        let hits = found.get() - hits;
        if hits != known {
            return Err(wrong(format!("{hits} of {known} packets found their flow")));
        }
        let io = self.worker.io();
        if io.sent().len() != packets || io.waiting() != 0 {
            return Err(wrong(format!("{} of {packets} packets were sent", io.sent().len())));
        }
        Ok(self.tsc.nanoseconds(begin, end))
    }

    /// Checks what was sent for flows below `flows`, and takes the buffers back.
    fn check(&mut self, flows: u64) -> Result<(), Failure> {
        let io = self.worker.io();
        for frame in io.sent() {
            if self.writer.flow_of(frame).is_none_or(|number| number < flows) {
                self.expected.check(frame)?;
            }
        }
        io.reclaim();
        Ok(())
    }

    /// Nanoseconds of a turn that finds nothing to do.
    pub fn empty_turn(&mut self) -> f64 {
        let now = self.tsc.tick();
        let begin = stamp();
        for _ in 0..EMPTY_TURNS {
            self.worker.turn(now);
        }
        self.tsc.nanoseconds(begin, stamp()) / f64::from(EMPTY_TURNS)
    }
}

/// A table with all flows in it.
fn full_table(scene: &Scene, flows: u64, room: u64, tsc: Tsc) -> Result<(Table, PageKind), Failure> {
    let narrow = pages::map::<NarrowBucket>(buckets(room))?;
    let of_view = &scene.view.timeouts;
    let idle = Idle {
        tcp_established_us: of_view.tcp_established_us,
        tcp_closing_us: of_view.tcp_closing_us,
        syn_us: of_view.syn_us,
        udp_us: of_view.udp_us,
    };
    let wide = Memory::heap(WIDE_FLOWS);
    let mut table = Table::new(Memory::Static(narrow.values), wide, TABLE_SEED, idle, UNTRUSTED_PERCENT)?;
    // A service that remembers exceptions only has no entries for flows of untainted slots.
    if scene.state == State::All {
        fill(&mut table, scene, flows, tsc)?;
    }
    Ok((table, narrow.pages))
}

fn fill(table: &mut Table, scene: &Scene, flows: u64, tsc: Tsc) -> Result<(), Failure> {
    let (mut keys, mut hits) = (Keys::new(), Hits::new());
    let backends = scene.backends.len() as u32;
    for first in (0..flows).step_by(BURST) {
        let now = tsc.tick();
        table.advance(now, |_, _| ());
        let numbers = first..flows.min(first + BURST as u64);
        keys.clear();
        for number in numbers.clone() {
            keys.push(Some(&flows::key(number, scene.service)));
        }
        table.lookup(&keys, now, &mut hits);
        table.prefetch_inserts(&keys, &hits);
        for (position, number) in numbers.enumerate() {
            let Some(miss) = hits.miss(position) else { continue };
            let backend = scene.backends[flows::value(number, backends) as usize];
            let key = flows::key(number, scene.service);
            let inserted = table.insert_at(&key, miss, backend, TcpState::TcpEstablished, now);
            if inserted.outcome != Insert::Done || inserted.evicted.is_some() {
                return Err(wrong(format!("flow {number} of {flows} does not fit: {inserted:?}")));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::scene::Mode;
    use super::*;
    use crate::random::Spread;

    #[test]
    fn every_packet_of_every_mode_arrives() {
        let tsc = Tsc::measure();
        for mode in [Mode::Ipip, Mode::Gre, Mode::Gue, Mode::Vxlan, Mode::L2] {
            for (burst, state) in [(32, State::All), (7, State::All), (32, State::Exceptions)] {
                let scene = Scene::build(mode, 37, state).expect("a scene");
                let mut rig = Rig::new(&scene, 5000, burst, tsc).expect("a rig");
                let mut picker = Picker::new(Spread::Uniform, 5000, 9);
                for _ in 0..8 {
                    let ns = rig.window(&mut picker).unwrap_or_else(|e| panic!("{mode:?}: {e}"));
                    assert!(ns > 0.0);
                }
                assert_eq!(rig.packets_checked(), 8 * WINDOW as u64, "{mode:?}");
                assert!(rig.empty_turn() > 0.0);
            }
        }
    }

    #[test]
    fn a_flow_that_is_not_there_is_noticed() {
        let tsc = Tsc::measure();
        let scene = Scene::build(Mode::Ipip, 3, State::All).expect("a scene");
        let mut rig = Rig::new(&scene, 100, 32, tsc).expect("a rig");
        let mut picker = Picker::new(Spread::Uniform, 200, 9);
        let failure = rig.window(&mut picker).expect_err("half of the flows are unknown");
        assert!(failure.to_string().contains("found their flow"), "{failure}");
    }
}
