//! What members of a cluster tell each other, as UDP datagrams on a data port: notes, which wait for company, and relayed frames in pieces.

use super::Egress;
use crate::DropReason;
use crate::io::{Frame, Frames, PacketIo};
use crate::label::Label;
use crate::view::View;
use crate::view::cluster::{Cluster, Link};
use arrayvec::ArrayVec;
use core::mem::{ManuallyDrop, forget};
use statesync::datagram::{self, DatagramWriter, HEADER_LEN, Header, PIECE_LEN, Piece};
use statesync::reassembly::{FRAME_LEN_MAX, PART_UNIT};
use statesync::{MachineId, Member, Note, Origin, Question};
#[cfg(feature = "negative-controls")]
use statesync::{Rule, Rules};
use wire::{Addr, CoreId, PortId, Tick, checksum};

/// Notes that wait to be written into datagrams, at most.
const NOTES_MAX: usize = 256;

/// Notes of jobs and refreshes wait for others to the same machine: so many, or so many microseconds. Well below the first wait for an
/// acknowledgement.
const COMPANY: usize = NOTES_MAX / 2;
const COMPANY_US: u64 = 500;

/// What is to be told to other machines.
#[derive(Debug)]
pub(crate) struct NoteQueue {
    core: CoreId,
    /// To be written into datagrams at the next flush.
    waiting: ArrayVec<(MachineId, Note), NOTES_MAX>,
    /// Some of them must leave before the turn's frames; the others wait for company, until then.
    is_urgent: bool,
    company_until: Option<Tick>,
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
        NoteQueue {
            core,
            waiting: ArrayVec::new(),
            is_urgent: false,
            company_until: None,
            clock: Tick(0),
            number: 0,
            frame: 0,
            #[cfg(feature = "negative-controls")]
            rules: Rules::default(),
            #[cfg(feature = "negative-controls")]
            is_late: false,
        }
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

    /// When notes that wait for company have waited for long enough.
    pub(crate) const fn company_until(&self) -> Option<Tick> {
        self.company_until
    }

    /// Notes that have waited for company for long enough are to be written.
    fn end_waiting(&mut self, now: Tick) {
        if self.company_until.is_some_and(|until| until <= now) {
            self.is_urgent = true;
        }
    }

    /// Notes wait for company.
    fn linger(&mut self, now: Tick) {
        if self.waiting.len() >= COMPANY {
            self.is_urgent = true;
        } else if self.company_until.is_none() {
            self.company_until = Some(Tick(now.0 + COMPANY_US));
        }
    }

    fn header(&mut self, cluster: &Cluster, machine: MachineId) -> Option<Header> {
        self.number += 1;
        Some(Header {
            from: Origin { member: cluster.own, core: self.core },
            to: Member { machine, incarnation: cluster.owners.incarnation(machine)? },
            epoch: cluster.epoch,
            sent: self.clock,
            number: self.number,
        })
    }
}

const ETHERNET_LEN: usize = 14;
const UDP_LEN: usize = 8;
const UDP: u8 = 17;
/// Source ports, by core: so that a machine's datagrams spread over the receiver's queues.
const SOURCE_PORT: u16 = 0xc000;

/// Bytes in front of the payload.
const fn headers_len(address: Addr) -> usize {
    ETHERNET_LEN + if address.is_v6() { 40 } else { 20 } + UDP_LEN
}

/// Writes the headers of a datagram of which the payload is in place; `frame` is as long as it will be.
fn write_headers(
    frame: &mut [u8],
    source_mac: [u8; 6],
    cluster: &Cluster,
    link: &Link,
    source_port: u16,
) -> Option<()> {
    let (ethernet, rest) = frame.split_first_chunk_mut::<ETHERNET_LEN>()?;
    let ether_type: u16 = if link.address.is_v6() { 0x86dd } else { 0x0800 };
    ethernet[..6].copy_from_slice(&link.mac);
    ethernet[6..12].copy_from_slice(&source_mac);
    ethernet[12..].copy_from_slice(&ether_type.to_be_bytes());
    let udp = match (cluster.endpoint.address, link.address) {
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
    head[..2].copy_from_slice(&source_port.to_be_bytes());
    head[2..4].copy_from_slice(&cluster.endpoint.udp_port.to_be_bytes());
    head[4..6].copy_from_slice(&len.to_be_bytes());
    head[6..].fill(0);
    // Over IPv4 the tag protects the payload; IPv6 wants a checksum (RFC 8200 section 8.1).
    if link.address.is_v6() {
        let pseudo = checksum::pseudo_header_sum(cluster.endpoint.address, link.address, UDP, u32::from(len));
        let sum = !checksum::fold(pseudo + checksum::sum(udp));
        let sum = if sum == 0 { 0xffff } else { sum };
        udp.get_mut(6..8)?.copy_from_slice(&sum.to_be_bytes());
    }
    Some(())
}

impl<Io: PacketIo> Egress<Io> {
    /// Puts a note into the next datagram to a machine, which leaves before the turn's frames.
    pub(crate) fn say(&mut self, view: &View, machine: MachineId, note: Note, now: Tick) {
        self.put_note(view, machine, note, now);
        if let Some(notes) = self.notes.as_mut() {
            notes.is_urgent = true;
        }
    }

    /// The same, of a note for which no frame waits: it may leave a little later, with others.
    pub(crate) fn say_at_leisure(&mut self, view: &View, machine: MachineId, note: Note, now: Tick) {
        self.put_note(view, machine, note, now);
        if let Some(notes) = self.notes.as_mut() {
            notes.linger(now);
        }
    }

    fn put_note(&mut self, view: &View, machine: MachineId, note: Note, now: Tick) {
        if self.notes.as_ref().is_some_and(|notes| notes.waiting.is_full()) {
            self.flush_notes(view);
        }
        if let Some(notes) = self.notes.as_mut() {
            notes.clock = now;
            // After a flush there is room; without it what lasts is said again.
            let _ = notes.waiting.try_push((machine, note));
        }
    }

    /// The end of the turn's part of the cluster: notes that have waited for company for long enough leave.
    pub(crate) fn end_waiting(&mut self, view: &View, now: Tick) {
        let Some(notes) = self.notes.as_mut() else { return };
        notes.end_waiting(now);
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
        let mut burst = core::mem::take(&mut self.spare);
        let mut datagrams = Frames::new();
        while let Some(&(machine, _)) = notes.waiting.first() {
            self.io.alloc(1, &mut burst);
            let Some(frame) = burst.pop() else {
                // No buffers: what lasts is said again.
                self.counters.drops(DropReason::NoBuffer).add(1);
                self.counters.totals.originated.add(1);
                notes.waiting.clear();
                break;
            };
            match self.datagram_of_notes(view, cluster, &mut notes, machine, frame) {
                // There is room: a full burst is sent at once.
                Ok(frame) => drop(datagrams.try_push(frame)),
                Err(frame) => {
                    // Nobody is reached there any more.
                    notes.waiting.retain(|(to, _)| *to != machine);
                    self.give_back(frame);
                }
            }
            if datagrams.is_full() {
                self.send_datagrams(cluster.endpoint.port, &mut datagrams);
            }
        }
        notes.is_urgent = false;
        notes.company_until = None;
        self.send_datagrams(cluster.endpoint.port, &mut datagrams);
        self.io.recycle(&mut burst);
        self.spare = burst;
        put(&mut self.notes, ManuallyDrop::into_inner(notes));
    }

    fn datagram_of_notes(
        &self,
        view: &View,
        cluster: &Cluster,
        notes: &mut NoteQueue,
        machine: MachineId,
        mut frame: Io::Frame,
    ) -> Result<Io::Frame, Io::Frame> {
        let (Some(link), Some(port)) = (cluster.link(machine), view.ports.get(cluster.endpoint.port.index()))
        else {
            return Err(frame);
        };
        let (head, room) = (headers_len(link.address), usize::from(port.mtu) + ETHERNET_LEN);
        let Some(header) = notes.header(cluster, machine) else { return Err(frame) };
        if frame.set_len(room).is_err() {
            return Err(frame);
        }
        let written = (|| {
            let mut writer = DatagramWriter::notes(frame.bytes_mut().get_mut(head..)?, &header)?;
            notes.waiting.retain(|(to, note)| *to != machine || !writer.note(note));
            if writer.is_empty() {
                return None;
            }
            Some(writer.finish(&cluster.keys.own))
        })();
        let Some(len) = written else { return Err(frame) };
        let source_port = SOURCE_PORT | u16::from(notes.core.0);
        let sealed = frame.set_len(head + len).is_ok()
            && write_headers(frame.bytes_mut(), port.mac, cluster, link, source_port).is_some();
        if !sealed {
            return Err(frame);
        }
        self.counters.sync.note_bytes.add(len as u64);
        Ok(frame)
    }

    /// Sends frames of our own past the lanes, so that they leave before what waits there.
    fn send_datagrams(&mut self, port: PortId, datagrams: &mut Frames<Io::Frame>) {
        if datagrams.is_empty() {
            return;
        }
        let (offered, totals) = (datagrams.len(), &self.counters.totals);
        let bytes: usize = datagrams.iter().map(|frame| frame.bytes().len()).sum();
        totals.originated.add(offered as u64);
        self.io.tx(port, datagrams);
        let left = datagrams.len();
        let left_bytes: usize = datagrams.iter().map(|frame| frame.bytes().len()).sum();
        let sent = (offered - left) as u64;
        totals.tx.add(sent);
        totals.tx_bytes.add((bytes - left_bytes) as u64);
        self.counters.drops(DropReason::TxFull).add(left as u64);
        if let Some(of) = self.counters.port(port) {
            of.tx.add(sent);
            of.tx_bytes.add((bytes - left_bytes) as u64);
            of.tx_full.add(left as u64);
        }
        self.io.recycle(datagrams);
    }

    /// Sends a frame to another machine, in as many datagrams as the MTU asks for. False: there were no buffers.
    pub(crate) fn send_pieces(
        &mut self,
        view: &View,
        bytes: &[u8],
        (machine, question): (MachineId, Question),
        now: Tick,
    ) -> bool {
        let (Some(cluster), Some(mut notes)) = (&view.cluster, self.notes.take().map(ManuallyDrop::new))
        else {
            return false;
        };
        notes.clock = now;
        let sent = self.try_pieces(view, cluster, &mut notes, bytes, (machine, question));
        put(&mut self.notes, ManuallyDrop::into_inner(notes));
        sent.is_some()
    }

    fn try_pieces(
        &mut self,
        view: &View,
        cluster: &Cluster,
        notes: &mut NoteQueue,
        bytes: &[u8],
        (machine, question): (MachineId, Question),
    ) -> Option<()> {
        let (link, port) = (cluster.link(machine)?, view.ports.get(cluster.endpoint.port.index())?);
        let head = headers_len(link.address);
        let room = (usize::from(port.mtu) + ETHERNET_LEN).checked_sub(head + HEADER_LEN + PIECE_LEN)?;
        let total = u16::try_from(bytes.len()).ok().filter(|&len| usize::from(len) <= FRAME_LEN_MAX)?;
        let part = if bytes.len() <= room { bytes.len() } else { room / PART_UNIT * PART_UNIT };
        if part == 0 || bytes.is_empty() {
            return None;
        }
        let count = bytes.len().div_ceil(part);
        let mut buffers = core::mem::take(&mut self.spare);
        self.io.alloc(count, &mut buffers);
        let is_enough = buffers.len() == count;
        notes.frame = notes.frame.wrapping_add(1);
        if is_enough {
            let source_port = SOURCE_PORT | u16::from(notes.core.0);
            for (index, (mut frame, bytes)) in buffers.drain(..).zip(bytes.chunks(part)).enumerate() {
                let offset = u16::try_from(index * part).unwrap_or(u16::MAX);
                let piece = Piece { question, frame: notes.frame, offset, total, bytes };
                let header = notes.header(cluster, machine).unwrap_or_default();
                let payload = HEADER_LEN + PIECE_LEN + bytes.len();
                let written = frame.set_len(head + payload).is_ok()
                    && (frame.bytes_mut().get_mut(head..))
                        .and_then(|room| datagram::write_piece(room, &header, &piece, &cluster.keys.own))
                        .is_some()
                    && write_headers(frame.bytes_mut(), port.mac, cluster, link, source_port).is_some();
                self.counters.totals.originated.add(1);
                if written {
                    self.counters.sync.relay_bytes.add(payload as u64);
                    self.send(view, cluster.endpoint.port, frame, Label::ORIGINATED);
                } else {
                    self.counters.drops(DropReason::NoBuffer).add(1);
                    self.give_back(frame);
                }
            }
        }
        self.io.recycle(&mut buffers);
        self.spare = buffers;
        is_enough.then_some(())
    }
}

/// Puts a value into its place, which is empty; the compiler need not think of the end of another there.
fn put<T>(place: &mut Option<T>, value: T) {
    debug_assert!(place.is_none());
    forget(place.replace(value));
}
