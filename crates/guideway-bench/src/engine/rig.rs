//! A worker on memory with a full flow table, and one timed window of it.

use super::check::Expected;
use super::frame::{self, FrameWriter};
use super::io::BenchIo;
use super::scene::{Family, FlowsIn, Scene};
use crate::failure::{Failure, wrong};
use crate::flows;
use crate::random::Picker;
use crate::tsc::Tsc;
use dpdk::clock::stamp;
use dpdk::pages::{self, PageKind};
use flow::bucket::Bucket;
use flow::{BURST, Hits, Idle, Insert, Keys, Memory, NarrowBucket, State, Table, WideBucket};
use std::sync::Arc;
use wire::Tick;
use worker::counters::Count;
use worker::view::mailbox::{Publisher, mailbox};
use worker::{Counters, PacketIo, Setup, View, Worker};

/// Packets of a window.
pub(super) const WINDOW: usize = 256;
/// Bytes of an IPv4 frame: 64 on the wire with the checksum that no software sees.
const FRAME_LEN: usize = 60;
/// Bytes of an IPv6 frame, which has no room in 60: its headers.
const FRAME_LEN6: usize = 74;
/// Buffers besides those of a window.
const SPARE: usize = 64;
/// Flows of the other family's table, which nothing uses here.
const OTHER_FLOWS: usize = 16;
/// Any number, as long as it is always the same.
const TABLE_SEED: u64 = 0x6775_6964;
/// The daemon's value.
const UNTRUSTED_PERCENT: u8 = 50;
/// Frames a ring holds; nothing is put there.
const RING_DEPTH: usize = 64;
/// Turns from which the cost of an empty one is taken.
const EMPTY_TURNS: u32 = 256;

/// Bytes of a table for so many flows at load 0.8.
pub fn table_bytes(family: Family, flows: u64) -> usize {
    match family {
        Family::V4 => buckets::<NarrowBucket>(flows) * size_of::<NarrowBucket>(),
        Family::V6 => buckets::<WideBucket>(flows) * size_of::<WideBucket>(),
    }
}

fn buckets<B: Bucket>(flows: u64) -> usize {
    Memory::<B>::buckets_for(usize::try_from(flows).unwrap_or(usize::MAX))
}

/// A worker, and what publishes its views.
pub type WithViews<Io> = (Worker<Io>, Publisher<View>);

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

    /// As [`new`](Self::new), with room for `room` flows at load 0.8.
    ///
    /// # Errors
    /// No memory, or a flow that does not fit.
    pub fn with_room(scene: &Scene, flows: u64, room: u64, tsc: Tsc) -> Result<Parts, Failure> {
        let (table, pages) = full_table(scene, flows, room, tsc)?;
        let view = Arc::clone(&scene.view);
        // Ids start at 1.
        let services = view.service.iter().map(|s| usize::from(s.id.0) + 1).max().unwrap_or(0);
        let counters = Arc::new(Counters::new(services, view.backends.len(), view.ports.len()));
        Ok(Parts { table, view, counters, pages, table_bytes: table_bytes(scene.family, room) })
    }

    /// The worker, which uses the view from its first turn on, and the publisher, without which it would not get one.
    ///
    /// # Errors
    /// A defect.
    pub fn worker<Io: PacketIo>(self, io: Io) -> Result<WithViews<Io>, Failure> {
        let mut workers = Parts::workers(vec![(self, io)])?;
        workers.pop().ok_or_else(|| wrong("no worker of one"))
    }

    /// Workers of one machine, as the daemon has them: each has rings to and from all others and reads their tables.
    ///
    /// # Errors
    /// A defect.
    pub fn workers<Io: PacketIo>(parts: Vec<(Parts, Io)>) -> Result<Vec<WithViews<Io>>, Failure> {
        let peers: Vec<flow::Reader> = parts.iter().map(|(of, _)| of.table.reader()).collect();
        let rings = statesync::mesh(parts.len(), RING_DEPTH);
        let join = |((of, io), rings): ((Parts, Io), statesync::Ports<_>)| {
            let (mut publisher, inbox) = mailbox(1);
            publisher.publish(of.view).map_err(|e| wrong(e.to_string()))?;
            let (table, counters, peers) = (of.table, of.counters, peers.clone());
            let (core, commands) = (rings.core(), None);
            let worker = Worker::new(Setup { core, io, table, peers, rings, inbox, counters, commands });
            Ok((worker, publisher))
        };
        parts.into_iter().zip(rings).map(join).collect()
    }
}

/// A packet before it is received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitingPacket {
    /// Of a known flow.
    Honest,
    /// For the kernel.
    Stranger,
}

/// A worker on memory.
pub struct Rig {
    worker: Worker<BenchIo>,
    counters: Arc<Counters>,
    _publisher: Publisher<View>,
    writer: FrameWriter,
    expected: Expected,
    pages: PageKind,
    table_bytes: usize,
    state: FlowsIn,
    tsc: Tsc,
    /// Frames for the kernel, and how many were sent.
    for_kernel: [Vec<u8>; 3],
    strangers: usize,
}

impl std::fmt::Debug for Rig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rig").field("pages", &self.pages).finish_non_exhaustive()
    }
}

impl Rig {
    /// Packets of a window.
    pub const WINDOW: usize = WINDOW;

    /// A worker that receives up to `burst` packets a turn and knows `flows` flows.
    ///
    /// # Errors
    /// No memory, or a flow that does not fit.
    pub fn new(scene: &Scene, flows: u64, burst: usize, tsc: Tsc) -> Result<Rig, Failure> {
        Rig::with_room(scene, flows, flows, burst, tsc)
    }

    /// As [`new`](Self::new), with room for `room` flows at load 0.8.
    ///
    /// # Errors
    /// No memory, or a flow that does not fit.
    pub fn with_room(scene: &Scene, flows: u64, room: u64, burst: usize, tsc: Tsc) -> Result<Rig, Failure> {
        let mut crew = Rig::crew(scene, &[(flows, room)], burst, tsc)?;
        crew.pop().ok_or_else(|| wrong("no worker of one"))
    }

    /// Workers of one machine: each with its own flows and room, all with rings between them and each other's tables to read.
    ///
    /// # Errors
    /// No memory, or a flow that does not fit.
    pub fn crew(scene: &Scene, sizes: &[(u64, u64)], burst: usize, tsc: Tsc) -> Result<Vec<Rig>, Failure> {
        let parts = sizes
            .iter()
            .map(|&(flows, room)| Parts::with_room(scene, flows, room, tsc))
            .collect::<Result<Vec<_>, _>>()?;
        let known: Vec<_> =
            parts.iter().map(|of| (Arc::clone(&of.counters), of.pages, of.table_bytes)).collect();
        let parts = parts.into_iter().map(|of| (of, BenchIo::new(WINDOW + SPARE, burst))).collect();
        let workers = Parts::workers(parts)?;
        let frame_len = match scene.family {
            Family::V4 => FRAME_LEN,
            Family::V6 => FRAME_LEN6,
        };
        let rig = |((worker, publisher), (counters, pages, table_bytes))| {
            let writer = FrameWriter::new(scene.family, frame_len);
            let expected = Expected::new(scene, writer.clone());
            let state = scene.state;
            Rig {
                worker,
                counters,
                _publisher: publisher,
                writer,
                expected,
                pages,
                table_bytes,
                state,
                tsc,
                for_kernel: frame::for_kernel(),
                strangers: 0,
            }
        };
        Ok(workers.into_iter().zip(known).map(rig).collect())
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

    /// So many windows, as a cell of a round.
    ///
    /// # Errors
    /// As of [`Rig::window`].
    pub fn windows(
        &mut self,
        count: usize,
        picker: &mut Picker,
        costs: &mut Vec<f64>,
    ) -> Result<(), Failure> {
        for _ in 0..count {
            costs.push(self.window(picker)?);
        }
        Ok(())
    }

    /// A window in which `syn_percent` of the packets are SYNs of flows from `flows` + `syns` on, which are not known. Only
    /// the others are checked. Nanoseconds a packet.
    ///
    /// # Errors
    /// As of [`Rig::window`].
    pub fn flood_window(
        &mut self,
        picker: &mut Picker,
        syn_percent: usize,
        flows: u64,
        syns: &mut u64,
    ) -> Result<f64, Failure> {
        let mut known = 0;
        for packet in 0..WINDOW {
            // Evenly spread, as near as whole packets allow.
            if (packet + 1) * syn_percent / 100 == packet * syn_percent / 100 {
                known += 1;
                self.offer(picker.next_flow())?;
                continue;
            }
            let number = flows + *syns % (flows::FLOWS_MAX - flows);
            *syns += 1;
            let (writer, io) = (&self.writer, self.worker.io());
            if !io.offer(writer.frame_len(), |frame| writer.write_syn(frame, number)) {
                return Err(wrong("a buffer was lost"));
            }
        }
        let ns = self.take(WINDOW, known)?;
        self.check(flows)?;
        Ok(ns / WINDOW as f64)
    }

    /// One turn that finds `packets` (at most a burst) packets waiting; its nanoseconds. Packets are written and checked
    /// many at a time, between turns, so that most turns follow one another as they do in production.
    ///
    /// # Errors
    /// As of [`Rig::window`].
    pub fn turn_of(&mut self, packets: usize, picker: &mut Picker) -> Result<f64, Failure> {
        if self.worker.io().waiting() < BURST {
            self.check(u64::MAX)?;
            for _ in self.worker.io().waiting()..WINDOW {
                self.offer(picker.next_flow())?;
            }
        }
        self.worker.io().set_left(packets);
        let hits = self.found().get();
        let now = self.tsc.tick();
        let begin = stamp();
        let received = self.worker.turn(now).received;
        let end = stamp();
        self.worker.io().set_left(usize::MAX);
        let hits = self.found().get() - hits;
        if received != packets || hits != packets as u64 {
            return Err(wrong(format!("{received} of {packets} packets received, {hits} found their flow")));
        }
        Ok(self.tsc.nanoseconds(begin, end))
    }

    /// One turn that finds these packets (at most a burst) waiting, at this time; its nanoseconds. The honest ones must be sent; the others are
    /// of three kinds in turn.
    ///
    /// # Errors
    /// As of [`Rig::window`].
    pub fn mixed_turn(
        &mut self,
        packets: impl Iterator<Item = WaitingPacket>,
        picker: &mut Picker,
        now_ns: f64,
    ) -> Result<f64, Failure> {
        let (mut count, mut honest) = (0, 0);
        for packet in packets {
            count += 1;
            if packet == WaitingPacket::Honest {
                honest += 1;
                self.offer(picker.next_flow())?;
                continue;
            }
            self.strangers += 1;
            let frame = &self.for_kernel[self.strangers % self.for_kernel.len()];
            if !self.worker.io().offer(frame.len(), |to| to.copy_from_slice(frame)) {
                return Err(wrong("a buffer was lost"));
            }
        }
        let hits = self.found().get();
        let now = Tick((now_ns / 1e3) as u64);
        let begin = stamp();
        let received = self.worker.turn(now).received;
        let end = stamp();
        let hits = self.found().get() - hits;
        let sent = self.worker.io().sent_count();
        if received != count || hits != honest as u64 || sent != honest {
            return Err(wrong(format!(
                "{received} of {count} packets received, {hits} of {honest} honest ones found their flow, \
                 {sent} were sent"
            )));
        }
        self.check(u64::MAX)?;
        Ok(self.tsc.nanoseconds(begin, end))
    }

    /// Takes in what waits.
    ///
    /// # Errors
    /// As of [`Rig::window`].
    pub fn drain(&mut self) -> Result<(), Failure> {
        self.check(u64::MAX)?;
        let waiting = self.worker.io().waiting();
        self.take(waiting, waiting as u64)?;
        self.check(u64::MAX)
    }

    /// Frames that the kernel was given.
    pub fn punted(&self) -> u64 {
        self.counters.totals.punted.get()
    }

    /// Sends a packet of every flow below `flows`; each must be known.
    ///
    /// # Errors
    /// As of [`Rig::window`].
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
        let hits = self.found().get();
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
        let hits = self.found().get() - hits;
        if hits != known {
            return Err(wrong(format!("{hits} of {known} packets found their flow")));
        }
        let io = self.worker.io();
        if io.sent_count() != packets || io.waiting() != 0 {
            return Err(wrong(format!("{} of {packets} packets were sent", io.sent_count())));
        }
        Ok(self.tsc.nanoseconds(begin, end))
    }

    /// What counts packets that found their flow.
    #[inline]
    fn found(&self) -> &Count {
        match self.state {
            FlowsIn::All => &self.counters.totals.flow_hits,
            FlowsIn::Exceptions => &self.counters.totals.flow_stateless,
        }
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
    let of_view = &scene.view.timeouts;
    let idle = Idle {
        tcp_established_us: of_view.tcp_established_us,
        tcp_closing_us: of_view.tcp_closing_us,
        syn_us: of_view.syn_us,
        udp_us: of_view.udp_us,
    };
    let (narrow, wide, pages) = match scene.family {
        Family::V4 => {
            let narrow = pages::map(buckets::<NarrowBucket>(room))?;
            (Memory::Static(narrow.values), Memory::heap(OTHER_FLOWS), narrow.pages)
        }
        Family::V6 => {
            let wide = pages::map(buckets::<WideBucket>(room))?;
            (Memory::heap(OTHER_FLOWS), Memory::Static(wide.values), wide.pages)
        }
    };
    let mut table = Table::new(narrow, wide, TABLE_SEED, idle, UNTRUSTED_PERCENT)?;
    // A service that remembers exceptions only has no entries for flows of untainted slots.
    if scene.state == FlowsIn::All {
        fill(&mut table, scene, flows, tsc)?;
    }
    Ok((table, pages))
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
            keys.push(Some(&scene.key(number)));
        }
        table.lookup(&keys, now, &mut hits);
        table.prefetch_inserts(&keys, &hits);
        for (position, number) in numbers.enumerate() {
            let Some(miss) = hits.miss(position) else { continue };
            let backend = scene.backends[flows::value(number, backends) as usize];
            let key = scene.key(number);
            let inserted = table.insert_at(&key, miss, backend, State::TcpEstablished, now);
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
        for mode in Mode::ALL {
            for (family, burst, state) in [
                (Family::V4, 32, FlowsIn::All),
                (Family::V4, 7, FlowsIn::All),
                (Family::V4, 32, FlowsIn::Exceptions),
                (Family::V6, 32, FlowsIn::All),
                (Family::V6, 32, FlowsIn::Exceptions),
            ] {
                let scene = Scene::build(mode, family, 37, state).expect("a scene");
                let mut rig = Rig::new(&scene, 5000, burst, tsc).expect("a rig");
                let mut picker = Picker::new(Spread::Uniform, 5000, 9);
                let mut costs = Vec::new();
                let what = format!("{mode:?} {family:?} {state:?}");
                rig.windows(8, &mut picker, &mut costs).unwrap_or_else(|e| panic!("{what}: {e}"));
                assert!(costs.len() == 8 && costs.iter().all(|&ns| ns > 0.0), "{what}");
                assert_eq!(rig.packets_checked(), 8 * WINDOW as u64, "{what}");
                assert!(rig.empty_turn() > 0.0);
            }
        }
    }

    #[test]
    fn turns_take_as_many_packets_as_they_are_told() {
        let scene = Scene::build(Mode::Ipip, Family::V4, 3, FlowsIn::All).expect("a scene");
        let mut rig = Rig::new(&scene, 100, 32, Tsc::measure()).expect("a rig");
        let mut picker = Picker::new(Spread::Uniform, 100, 9);
        let mut packets = 0;
        for turn in 0..500 {
            let count = turn % 33;
            rig.turn_of(count, &mut picker).expect("all packets hit");
            packets += count as u64;
        }
        let checked = rig.packets_checked();
        assert!(checked <= packets && checked + 2 * WINDOW as u64 > packets, "{checked} of {packets}");
    }

    #[test]
    fn workers_of_one_machine_serve_their_own_flows() {
        let scene = Scene::build(Mode::Ipip, Family::V4, 3, FlowsIn::All).expect("a scene");
        let crew = Rig::crew(&scene, &[(1000, 1000), (500, 900)], 32, Tsc::measure()).expect("a crew");
        assert_eq!(crew.len(), 2);
        for (mut rig, flows) in crew.into_iter().zip([1000, 500]) {
            rig.ask_all(flows).expect("all are known");
        }
    }

    #[test]
    fn a_flood_has_its_share_of_new_flows() {
        let scene = Scene::build(Mode::Ipip, Family::V4, 3, FlowsIn::All).expect("a scene");
        let mut rig = Rig::with_room(&scene, 1000, 4000, 32, Tsc::measure()).expect("a rig");
        let mut picker = Picker::new(Spread::Uniform, 1000, 9);
        let mut syns = 0;
        for (percent, want) in [(0, 0), (10, 25), (50, 128), (90, 230)] {
            let before = syns;
            rig.flood_window(&mut picker, percent, 1000, &mut syns).expect("established flows hit");
            assert_eq!(syns - before, want, "{percent} %");
        }
    }

    #[test]
    fn a_flow_that_is_not_there_is_noticed() {
        let tsc = Tsc::measure();
        let scene = Scene::build(Mode::Ipip, Family::V4, 3, FlowsIn::All).expect("a scene");
        let mut rig = Rig::new(&scene, 100, 32, tsc).expect("a rig");
        let mut picker = Picker::new(Spread::Uniform, 200, 9);
        let failure = rig.window(&mut picker).expect_err("half of the flows are unknown");
        assert!(failure.to_string().contains("found their flow"), "{failure}");
    }
}
