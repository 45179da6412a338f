//! To and from other machines: datagrams on a data port.

use super::StateSync;
use crate::describe::general::{Fate, Packet, classify};
use crate::io::{Burst, Frame, PacketIo};
use crate::send::Label;
use crate::turn::{Relay, put};
use crate::view::View;
use crate::view::cluster::{Cluster, Link};
use crate::{DropReason, Worker};
use core::mem::ManuallyDrop;
use statesync::datagram::{
    self, Body, DatagramWriter, HEADER_LEN, Header, PIECE_LEN, Piece, SealedDatagram, Unreadable,
};
use statesync::reassembly::{FRAME_LEN_MAX, PART_UNIT};
use statesync::{MachineId, Member, Note, Question, Rule};
use wire::{Addr, PortId, Tick, checksum};

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

impl StateSync {
    fn header(&mut self, cluster: &Cluster, machine: MachineId) -> Option<Header> {
        self.number += 1;
        Some(Header {
            from: self.origin(cluster),
            to: Member { machine, incarnation: cluster.owners.incarnation(machine)? },
            epoch: cluster.epoch,
            sent: self.clock,
            number: self.number,
        })
    }
}

impl<Io: PacketIo> Worker<Io> {
    /// Writes all notes that wait into datagrams, and sends these at once.
    pub(crate) fn flush_notes(&mut self, view: &View) {
        let (Some(cluster), Some(mut sync)) = (&view.cluster, self.sync.take().map(ManuallyDrop::new)) else {
            return;
        };
        let mut burst = core::mem::take(&mut self.spare);
        let mut datagrams = Burst::new();
        while let Some(&(machine, _)) = sync.notes.first() {
            self.io.alloc(1, &mut burst);
            let Some(frame) = burst.pop() else {
                // No buffers: what lasts is said again.
                self.counters.drops(DropReason::NoBuffer).add(1);
                self.counters.totals.originated.add(1);
                sync.notes.clear();
                break;
            };
            match self.datagram_of_notes(view, cluster, &mut sync, machine, frame) {
                // There is room: a full burst is sent at once.
                Ok(frame) => drop(datagrams.try_push(frame)),
                Err(frame) => {
                    // Nobody is reached there any more.
                    sync.notes.retain(|(to, _)| *to != machine);
                    self.give_back(frame);
                }
            }
            if datagrams.is_full() {
                self.send_datagrams(cluster.endpoint.port, &mut datagrams);
            }
        }
        sync.is_urgent = false;
        sync.company_until = None;
        self.send_datagrams(cluster.endpoint.port, &mut datagrams);
        self.io.recycle(&mut burst);
        self.spare = burst;
        put(&mut self.sync, ManuallyDrop::into_inner(sync));
    }

    fn datagram_of_notes(
        &self,
        view: &View,
        cluster: &Cluster,
        sync: &mut StateSync,
        machine: MachineId,
        mut frame: Io::Frame,
    ) -> Result<Io::Frame, Io::Frame> {
        let (Some(link), Some(port)) = (cluster.link(machine), view.ports.get(cluster.endpoint.port.index()))
        else {
            return Err(frame);
        };
        let (head, room) = (headers_len(link.address), usize::from(port.mtu) + ETHERNET_LEN);
        let Some(header) = sync.header(cluster, machine) else { return Err(frame) };
        if frame.set_len(room).is_err() {
            return Err(frame);
        }
        let written = (|| {
            let mut writer = DatagramWriter::notes(frame.bytes_mut().get_mut(head..)?, &header)?;
            sync.notes.retain(|(to, note)| *to != machine || !writer.note(note));
            if writer.is_empty() {
                return None;
            }
            Some(writer.finish(&cluster.keys.own))
        })();
        let Some(len) = written else { return Err(frame) };
        let source_port = SOURCE_PORT | u16::from(sync.core.0);
        let sealed = frame.set_len(head + len).is_ok()
            && write_headers(frame.bytes_mut(), port.mac, cluster, link, source_port).is_some();
        if !sealed {
            return Err(frame);
        }
        self.counters.sync.note_bytes.add(len as u64);
        Ok(frame)
    }

    /// Sends frames of our own past the lanes, so that they leave before what waits there.
    fn send_datagrams(&mut self, port: PortId, datagrams: &mut Burst<Io::Frame>) {
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
    pub(super) fn send_pieces(
        &mut self,
        view: &View,
        bytes: &[u8],
        machine: MachineId,
        question: Question,
    ) -> bool {
        let (Some(cluster), Some(mut sync)) = (&view.cluster, self.sync.take().map(ManuallyDrop::new)) else {
            return false;
        };
        let sent = self.try_pieces(view, cluster, &mut sync, bytes, (machine, question));
        put(&mut self.sync, ManuallyDrop::into_inner(sync));
        sent.is_some()
    }

    fn try_pieces(
        &mut self,
        view: &View,
        cluster: &Cluster,
        sync: &mut StateSync,
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
        sync.frame = sync.frame.wrapping_add(1);
        if is_enough {
            let source_port = SOURCE_PORT | u16::from(sync.core.0);
            for (index, (mut frame, bytes)) in buffers.drain(..).zip(bytes.chunks(part)).enumerate() {
                let offset = u16::try_from(index * part).unwrap_or(u16::MAX);
                let piece = Piece { question, frame: sync.frame, offset, total, bytes };
                let header = sync.header(cluster, machine).unwrap_or_default();
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

    /// A message of another machine.
    pub(crate) fn receive_peer(&mut self, view: &View, frame: Io::Frame, packet: &Packet, now: Tick) {
        let reason = match self.take_in(view, &frame, packet, now) {
            Ok(()) => DropReason::PeerMessage,
            Err(reason) => reason,
        };
        self.drop_frame(view, frame, packet, reason);
    }

    /// What a stranger can make us compute comes last, and he pays for each step with something he cannot make: the address of a
    /// member; a header with its tag, which he can only have captured; and of such a header, one that never arrived.
    fn take_in(
        &mut self,
        view: &View,
        frame: &Io::Frame,
        packet: &Packet,
        now: Tick,
    ) -> Result<(), DropReason> {
        const REFUSED: DropReason = DropReason::PeerRefused;
        let (Some(cluster), Some(sync)) = (view.cluster.as_ref(), self.sync.as_mut()) else {
            return Err(REFUSED);
        };
        sync.clock = now;
        let at = usize::from(packet.parsed.l4) + UDP_LEN;
        let payload = frame.bytes().get(at..usize::from(packet.parsed.end)).ok_or(REFUSED)?;
        let sealed = SealedDatagram::read(payload).map_err(|_| REFUSED)?;
        let header = *sealed.header();
        let from = header.from;
        let machine = from.member.machine;
        let source = packet.parsed.src(frame.bytes());
        let is_from_there = cluster.link(machine).is_none_or(|link| link.address == source);
        if header.to != cluster.own || machine == cluster.own.machine || !is_from_there {
            return Err(REFUSED);
        }
        let proved = sealed.prove(&cluster.keys).ok_or(REFUSED)?;
        let is_windowed = sync.rules.hold(Rule::Window);
        if is_windowed && sync.windows.is_over(from, header.number, header.sent) {
            return Err(DropReason::PeerReplayed);
        }
        let body = match proved.open() {
            Ok(body) => body,
            Err(Unreadable::Tag) => {
                let doubts = sync.doubts.get_mut(machine.index());
                if !doubts.is_some_and(|doubts| doubts.take(now)) {
                    // Too many to try each again: from now on a header serves once.
                    sync.windows.burn(from, header.number);
                }
                return Err(REFUSED);
            }
            Err(_) => return Err(REFUSED),
        };
        if is_windowed {
            let taken = sync.windows.take(from, header.number, header.sent);
            taken.map_err(|_| DropReason::PeerReplayed)?;
        }
        // A new incarnation says that the one before is dead, long before its heartbeats are missed. Whatever a member says, it lives.
        self.hear(cluster, from.member, now);
        if !cluster.owners.is_member(from.member) {
            return Err(REFUSED);
        }
        match body {
            Body::Notes(mut notes) => {
                for note in notes.by_ref() {
                    self.take_note(view, cluster, &header, note, now);
                }
                (!notes.is_malformed()).then_some(()).ok_or(REFUSED)
            }
            Body::Piece(piece) => self.take_piece(view, cluster, frame, &header, &piece, now).ok_or(REFUSED),
        }
    }

    fn take_note(&mut self, view: &View, cluster: &Cluster, header: &Header, note: Note, now: Tick) {
        let from = header.from;
        match note {
            Note::Heartbeat => {
                self.tell_other_cores(super::CoreNote::Heard(from.member));
            }
            Note::Lasting(sequence, lasting) => {
                self.receive_lasting(view, cluster, from, sequence, lasting, now);
            }
            Note::Acknowledge { sequence, core } => {
                let note = super::CoreNote::Acknowledge(from.member, sequence);
                if core == self.core {
                    self.receive_note(view, note, now);
                } else {
                    // Lost: it is said again, and acknowledged again.
                    let _ = self.rings.send(core, Relay::Note(note));
                }
            }
            Note::Answer(answer) if answer.core == self.core => {
                self.receive_answer(view, cluster, &answer, now);
            }
            Note::Answer(answer) => {
                let _ = self.rings.send(answer.core, Relay::Note(super::CoreNote::Answer(answer)));
            }
        }
    }

    fn tell_other_cores(&mut self, note: super::CoreNote) {
        let cores = self.sync.as_ref().map_or(1, |sync| sync.cores);
        for core in (0..cores).map(wire::CoreId).filter(|&core| core != self.core) {
            // Lost: the next heartbeat comes soon.
            let _ = self.rings.send(core, Relay::Note(note));
        }
    }

    fn take_piece(
        &mut self,
        view: &View,
        cluster: &Cluster,
        carrier: &Io::Frame,
        header: &Header,
        piece: &Piece<'_>,
        now: Tick,
    ) -> Option<()> {
        if piece.question.hops > statesync::note::HOPS_MAX && self.rule(Rule::HopLimit) {
            return None;
        }
        let mut buffers = core::mem::take(&mut self.spare);
        let frame = if self.rule(Rule::PieceOf) { piece.frame } else { 0 };
        let sync = self.sync.as_mut()?;
        let whole = sync.pieces.add(header.from, &Piece { frame, ..*piece }, now);
        let mut made = None;
        if let Some((question, bytes)) = whole {
            self.io.alloc(1, &mut buffers);
            made = buffers.pop().map(|mut frame| {
                let fits = frame.set_len(bytes.len()).is_ok();
                if fits {
                    for (to, from) in frame.bytes_mut().iter_mut().zip(bytes) {
                        *to = *from;
                    }
                    // From here on it is as if it had been sent to us.
                    if let (Some(to), Some(port)) =
                        (frame.bytes_mut().get_mut(..6), view.ports.get(cluster.endpoint.port.index()))
                    {
                        to.copy_from_slice(&port.mac);
                    }
                    frame.set_meta(carrier.meta());
                }
                (frame, question, fits)
            });
        }
        self.io.recycle(&mut buffers);
        self.spare = buffers;
        match made {
            Some((frame, question, true)) => {
                self.counters.totals.originated.add(1);
                self.receive_question(view, frame, question, now);
            }
            Some((frame, _, false)) => {
                self.counters.totals.originated.add(1);
                self.counters.drops(DropReason::NoBuffer).add(1);
                self.give_back(frame);
            }
            None => {}
        }
        Some(())
    }

    /// Received before this machine's join has committed: messages are taken in, the kernel gets what is its, and packets of
    /// services are dropped, because nothing is known yet of their flows.
    pub(crate) fn receive_before_joining(&mut self, view: &View, burst: &mut Burst<Io::Frame>, now: Tick) {
        for frame in burst.drain(..) {
            let mut packet = classify(view, frame.bytes(), frame.meta());
            // Which ports are closed is not known either: others may have agreed on more services.
            if matches!(
                packet.fate,
                Fate::Flow | Fate::Quoted | Fate::Fragment | Fate::Drop(DropReason::NoService)
            ) {
                packet.fate = Fate::Drop(DropReason::NotReady);
            }
            self.rewrite(view, frame, &mut packet, now);
        }
    }
}
