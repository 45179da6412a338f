//! What members of a cluster tell each other, as UDP datagrams on a data port: notes, which wait for company, and relayed frames in pieces.

use super::Egress;
use crate::DropReason;
use crate::io::{Frame, Frames, PacketIo};
use crate::label::Label;
use crate::view::cluster::{Cluster, Link};
use crate::view::{Moment, PortView, View};
use arrayvec::ArrayVec;
use core::mem::{ManuallyDrop, forget};
use statesync::datagram::{self, DatagramWriter, HEADER_LEN, Header, PIECE_LEN, Piece};
use statesync::reassembly::{FRAME_LEN_MAX, PART_UNIT};
use statesync::{MachineId, Member, Note, Origin, Question};
#[cfg(feature = "negative-controls")]
use statesync::{Rule, Rules};
use wire::parse::{ETHERNET_LEN, UDP};
use wire::{Addr, CoreId, PortId, Tick, checksum};

/// Notes that wait to be written into datagrams, at most.
const NOTES_MAX: usize = 256;

/// Notes of jobs and refreshes wait for others to the same machine: so many, or so many microseconds. Well below the first wait for an
/// acknowledgement.
const COMPANY: usize = NOTES_MAX / 2;
const COMPANY_US: u64 = 500;

/// What is to be told to other machines.
#[derive(Debug, Default)]
pub(crate) struct NoteQueue {
    core: CoreId,
    /// To be written into datagrams at the next flush.
    waiting: ArrayVec<(MachineId, Note), NOTES_MAX>,
    /// Some of them must leave before the turn's frames; the others wait for company, until then.
    is_urgent: bool,
    pub(crate) company_until: Option<Tick>,
    /// When something was said last.
    clock: Tick,
    /// Of the datagram and of the relayed frame last sent.
    number: u64,
    frame: u32,
    #[cfg(feature = "negative-controls")]
    pub(crate) rules: Rules,
    /// With [`Rule::RecordFirst`] broken: every other turn the notes may leave.
    #[cfg(feature = "negative-controls")]
    pub(crate) is_late: bool,
}

impl NoteQueue {
    pub(crate) fn new(core: CoreId) -> NoteQueue {
        NoteQueue { core, ..NoteQueue::default() }
    }

    /// Whether notes are to be written now.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        #[cfg(feature = "negative-controls")]
        if !self.rules.hold(Rule::RecordFirst) && !self.is_late {
            return false;
        }
        self.is_urgent
    }

    fn header(&mut self, to: &Way<'_>) -> Option<Header> {
        let cluster = to.cluster;
        self.number += 1;
        Some(Header {
            from: Origin { member: cluster.own, core: self.core },
            to: Member { machine: to.machine, incarnation: cluster.owners.incarnation(to.machine)? },
            epoch: cluster.epoch,
            sent: self.clock,
            number: self.number,
        })
    }
}

pub(crate) const UDP_LEN: usize = 8;
/// Source ports, by core: so that a machine's datagrams spread over the receiver's queues.
const SOURCE_PORT: u16 = 0xc000;

/// How another machine is reached.
struct Way<'v> {
    view: &'v View,
    cluster: &'v Cluster,
    machine: MachineId,
    link: &'v Link,
    port: &'v PortView,
}

impl<'v> Way<'v> {
    /// `None`: nobody is reached there.
    fn to(machine: MachineId, view: &'v View, cluster: &'v Cluster) -> Option<Way<'v>> {
        let (link, port) = (cluster.link(machine)?, view.ports.get(cluster.endpoint.port.index())?);
        Some(Way { view, cluster, machine, link, port })
    }

    /// Bytes in front of the payload.
    const fn headers_len(&self) -> usize {
        ETHERNET_LEN + if self.link.address.is_v6() { 40 } else { 20 } + UDP_LEN
    }

    /// Bytes of the longest frame.
    fn room(&self) -> usize {
        usize::from(self.port.mtu) + ETHERNET_LEN
    }

    /// Writes a datagram with a piece of a frame. Gives the bytes of its payload.
    fn write_piece(&self, notes: &mut NoteQueue, piece: &Piece<'_>, frame: &mut impl Frame) -> Option<usize> {
        let (head, payload) = (self.headers_len(), HEADER_LEN + PIECE_LEN + piece.bytes.len());
        let header = notes.header(self).unwrap_or_default();
        frame.set_len(head + payload).ok()?;
        datagram::write_piece(frame.bytes_mut().get_mut(head..)?, &header, piece, &self.cluster.keys.own)?;
        self.write_headers(frame.bytes_mut(), notes.core)?;
        Some(payload)
    }

    /// Writes the headers of a datagram of which the payload is in place; `frame` is as long as it will be.
    fn write_headers(&self, frame: &mut [u8], core: CoreId) -> Option<()> {
        let (ethernet, rest) = frame.split_first_chunk_mut::<ETHERNET_LEN>()?;
        let (own, link) = (&self.cluster.endpoint, self.link);
        let ether_type: u16 = if link.address.is_v6() { 0x86dd } else { 0x0800 };
        ethernet[..6].copy_from_slice(&link.mac);
        ethernet[6..12].copy_from_slice(&self.port.mac);
        ethernet[12..].copy_from_slice(&ether_type.to_be_bytes());
        let udp = match (own.address, link.address) {
            (Addr::V4(source), Addr::V4(destination)) => {
                let total = u16::try_from(rest.len()).ok()?;
                let (ip, udp) = rest.split_first_chunk_mut::<20>()?;
                *ip = [0; 20];
                ip[0] = 0x45;
                ip[2..4].copy_from_slice(&total.to_be_bytes());
                ip[6] = 0x40;
                ip[8] = 64;
                ip[9] = UDP;
                ip[12..16].copy_from_slice(&source.to_be_bytes());
                ip[16..].copy_from_slice(&destination.to_be_bytes());
                let sum = checksum::checksum(ip);
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
                udp
            }
            (Addr::V6(source), Addr::V6(destination)) => {
                let (ip, udp) = rest.split_first_chunk_mut::<40>()?;
                *ip = [0; 40];
                ip[0] = 0x60;
                ip[4..6].copy_from_slice(&u16::try_from(udp.len()).ok()?.to_be_bytes());
                ip[6] = UDP;
                ip[7] = 64;
                ip[8..24].copy_from_slice(&source.to_be_bytes());
                ip[24..].copy_from_slice(&destination.to_be_bytes());
                udp
            }
            _ => return None,
        };
        let len = u16::try_from(udp.len()).ok()?;
        let head = udp.first_chunk_mut::<UDP_LEN>()?;
        head[..2].copy_from_slice(&(SOURCE_PORT | u16::from(core.0)).to_be_bytes());
        head[2..4].copy_from_slice(&own.udp_port.to_be_bytes());
        head[4..6].copy_from_slice(&len.to_be_bytes());
        head[6..].fill(0);
        // Over IPv4 the tag protects the payload; IPv6 wants a checksum (RFC 8200 section 8.1).
        if link.address.is_v6() {
            let pseudo = checksum::pseudo_header_sum(own.address, link.address, UDP, u32::from(len));
            let sum = !checksum::fold(pseudo + checksum::sum(udp));
            let sum = if sum == 0 { 0xffff } else { sum };
            udp.get_mut(6..8)?.copy_from_slice(&sum.to_be_bytes());
        }
        Some(())
    }
}

impl<Io: PacketIo> Egress<Io> {
    /// Puts a note into the next datagram to a machine, which leaves before the turn's frames.
    pub(crate) fn say(&mut self, view: &View, machine: MachineId, note: Note, now: Tick) {
        if let Some(notes) = self.put_note(view, machine, note, now) {
            notes.is_urgent = true;
        }
    }

    /// Puts a note for which no frame waits into a datagram to a machine: it may leave a little later, with others.
    pub(crate) fn say_at_leisure(&mut self, view: &View, machine: MachineId, note: Note, now: Tick) {
        let Some(notes) = self.put_note(view, machine, note, now) else { return };
        if notes.waiting.len() >= COMPANY {
            notes.is_urgent = true;
        } else {
            notes.company_until.get_or_insert(Tick(now.0 + COMPANY_US));
        }
    }

    fn put_note(&mut self, view: &View, machine: MachineId, note: Note, now: Tick) -> Option<&mut NoteQueue> {
        if self.notes.as_ref()?.waiting.is_full() {
            self.flush_notes(view);
        }
        let notes = self.notes.as_mut()?;
        notes.clock = now;
        // After a flush there is room; without it what lasts is said again.
        let _ = notes.waiting.try_push((machine, note));
        Some(notes)
    }

    /// The end of the turn's part of the cluster: notes that have waited for company for long enough leave.
    pub(crate) fn end_waiting(&mut self, view: &View, now: Tick) {
        let Some(notes) = self.notes.as_mut() else { return };
        notes.is_urgent |= notes.company_until.is_some_and(|until| until <= now);
        if notes.is_due() {
            self.flush_notes(view);
        }
    }

    /// Writes all notes that wait into datagrams, and sends these at once.
    pub(crate) fn flush_notes(&mut self, view: &View) {
        let (Some(cluster), Some(mut notes)) = (&view.cluster, self.notes.take().map(ManuallyDrop::new))
        else {
            return;
        };
        let mut datagrams = Frames::new();
        while let Some(&(machine, _)) = notes.waiting.first() {
            let Some(mut frame) = self.take_buffer() else {
                // No buffers: what lasts is said again.
                self.counters.drops(DropReason::NoBuffer).add(1);
                self.counters.totals.originated.add(1);
                notes.waiting.clear();
                break;
            };
            let way = Way::to(machine, view, cluster);
            if way.and_then(|way| self.write_notes(&way, &mut notes, &mut frame)).is_some() {
                // There is room: a full burst is sent at once.
                drop(datagrams.try_push(frame));
            } else {
                // Nobody is reached there any more.
                notes.waiting.retain(|(to, _)| *to != machine);
                self.give_back(frame);
            }
            if datagrams.is_full() {
                self.send_datagrams(view, cluster.endpoint.port, &mut datagrams);
            }
        }
        notes.is_urgent = false;
        notes.company_until = None;
        self.send_datagrams(view, cluster.endpoint.port, &mut datagrams);
        put(&mut self.notes, ManuallyDrop::into_inner(notes));
    }

    /// Writes notes to a machine into a datagram, as many as fit. `None`: none was written.
    fn write_notes(&self, way: &Way<'_>, notes: &mut NoteQueue, frame: &mut Io::Frame) -> Option<()> {
        let (machine, head) = (way.machine, way.headers_len());
        let header = notes.header(way)?;
        frame.set_len(way.room()).ok()?;
        let mut writer = DatagramWriter::notes(frame.bytes_mut().get_mut(head..)?, &header)?;
        notes.waiting.retain(|(to, note)| *to != machine || !writer.note(note));
        if writer.is_empty() {
            return None;
        }
        let len = writer.finish(&way.cluster.keys.own);
        frame.set_len(head + len).ok()?;
        way.write_headers(frame.bytes_mut(), notes.core)?;
        self.counters.sync.note_bytes.add(len as u64);
        Some(())
    }

    /// Sends frames of our own past the lanes, so that they leave before what waits there.
    fn send_datagrams(&mut self, view: &View, port: PortId, datagrams: &mut Frames<Io::Frame>) {
        if datagrams.is_empty() {
            return;
        }
        let bytes: usize = datagrams.iter().map(|frame| frame.bytes().len()).sum();
        self.counters.totals.originated.add(datagrams.len() as u64);
        self.transmit(view, port, datagrams, bytes as u64);
        self.io.recycle(datagrams);
    }

    /// Sends a frame to another machine, in as many datagrams as the MTU asks for. False: there were no buffers.
    pub(crate) fn send_pieces(&mut self, at: Moment<'_>, bytes: &[u8], to: (MachineId, Question)) -> bool {
        let Moment { view, now } = at;
        let (Some(cluster), Some(mut notes)) = (&view.cluster, self.notes.take().map(ManuallyDrop::new))
        else {
            return false;
        };
        notes.clock = now;
        let way = Way::to(to.0, view, cluster);
        let sent = way.and_then(|way| self.try_pieces(&way, &mut notes, bytes, to.1));
        put(&mut self.notes, ManuallyDrop::into_inner(notes));
        sent.is_some()
    }

    fn try_pieces(
        &mut self,
        way: &Way<'_>,
        notes: &mut NoteQueue,
        bytes: &[u8],
        question: Question,
    ) -> Option<()> {
        let room = way.room().checked_sub(way.headers_len() + HEADER_LEN + PIECE_LEN)?;
        let total = u16::try_from(bytes.len()).ok().filter(|&len| usize::from(len) <= FRAME_LEN_MAX)?;
        let part = if bytes.len() <= room { bytes.len() } else { room / PART_UNIT * PART_UNIT };
        if part == 0 || bytes.is_empty() {
            return None;
        }
        let count = bytes.len().div_ceil(part);
        let mut buffers = self.take_buffers(count);
        let is_enough = buffers.len() == count;
        notes.frame = notes.frame.wrapping_add(1);
        if is_enough {
            for (index, (mut frame, bytes)) in buffers.drain(..).zip(bytes.chunks(part)).enumerate() {
                let offset = u16::try_from(index * part).unwrap_or(u16::MAX);
                let piece = Piece { question, frame: notes.frame, offset, total, bytes };
                let written = way.write_piece(notes, &piece, &mut frame);
                self.counters.totals.originated.add(1);
                if let Some(payload) = written {
                    self.counters.sync.relay_bytes.add(payload as u64);
                    self.send(way.view, way.cluster.endpoint.port, frame, Label::ORIGINATED);
                } else {
                    self.counters.drops(DropReason::NoBuffer).add(1);
                    self.give_back(frame);
                }
            }
        }
        self.keep_buffers(buffers);
        is_enough.then_some(())
    }
}

/// Puts a value into its place, which is empty; the compiler need not think of the end of another there.
pub(crate) fn put<T>(place: &mut Option<T>, value: T) {
    debug_assert!(place.is_none());
    forget(place.replace(value));
}
