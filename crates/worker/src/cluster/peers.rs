//! From other machines: datagrams on a data port.

use super::ClusterStage;
use crate::DropReason;
use crate::describe::general::Packet;
use crate::io::{Frame, PacketIo};
use crate::rings::CoreNote;
use crate::send::datagrams::UDP_LEN;
use statesync::datagram::{Body, Header, Piece, SealedDatagram, Unreadable};
use statesync::note::HOPS_MAX;
use statesync::{Note, Question, Rule};

/// What comes of a message: the frame that it completes, if any, and the question that this is; or why it is dropped unread.
type TakenIn<F> = Result<Option<(F, Question)>, DropReason>;

impl<Io: PacketIo> ClusterStage<'_, Io> {
    /// A message of another machine: takes in what it says, and returns the frame that it completes, if it is the last piece of one, with the
    /// question that this is.
    ///
    /// # Errors
    /// Why the message is dropped unread.
    ///
    /// What a stranger can make us compute comes last, and he pays for each step with something he cannot make: the address of a
    /// member; a header with its tag, which he can only have captured; and of such a header, one that never arrived.
    pub(crate) fn take_in(&mut self, frame: &Io::Frame, packet: &Packet) -> TakenIn<Io::Frame> {
        let now = self.now;
        const REFUSED: DropReason = DropReason::PeerRefused;
        let cluster = self.cluster;
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
        let is_windowed = self.holds(Rule::Window);
        if is_windowed && self.sync.windows.is_over(from, header.number, header.sent) {
            return Err(DropReason::PeerReplayed);
        }
        let body = match proved.open() {
            Ok(body) => body,
            Err(Unreadable::Tag) => {
                let doubts = self.sync.doubts.get_mut(machine.index());
                if !doubts.is_some_and(|doubts| doubts.take(now)) {
                    // Too many to try each again: from now on a header serves once.
                    self.sync.windows.burn(from, header.number);
                }
                return Err(REFUSED);
            }
            Err(_) => return Err(REFUSED),
        };
        if is_windowed {
            let taken = self.sync.windows.take(from, header.number, header.sent);
            taken.map_err(|_| DropReason::PeerReplayed)?;
        }
        // A new incarnation says that the one before is dead, long before its heartbeats are missed. Whatever a member says, it lives.
        self.hear(from.member);
        if !cluster.owners.is_member(from.member) {
            return Err(REFUSED);
        }
        match body {
            Body::Notes(mut notes) => {
                for note in notes.by_ref() {
                    self.take_note(&header, note);
                }
                (!notes.is_malformed()).then_some(None).ok_or(REFUSED)
            }
            Body::Piece(piece) => self.take_piece(frame, &header, &piece),
        }
    }

    fn take_note(&mut self, header: &Header, note: Note) {
        let from = header.from;
        match note {
            Note::Heartbeat => {
                // Lost: the next heartbeat comes soon.
                self.tell_other_cores(CoreNote::Heard(from.member));
            }
            Note::Lasting(sequence, lasting) => {
                self.receive_lasting(from, sequence, lasting);
            }
            // Lost: it is said again, and acknowledged again.
            Note::Acknowledge { sequence, core } => {
                self.give_core(core, CoreNote::Acknowledge(from.member, sequence));
            }
            Note::Answer(answer) => self.give_core(answer.core, CoreNote::Answer(answer)),
        }
    }

    fn take_piece(&mut self, carrier: &Io::Frame, header: &Header, piece: &Piece<'_>) -> TakenIn<Io::Frame> {
        if piece.question.hops > HOPS_MAX && self.holds(Rule::HopLimit) {
            return Err(DropReason::PeerRefused);
        }
        let frame = if self.holds(Rule::PieceOf) { piece.frame } else { 0 };
        let whole = self.sync.pieces.add(header.from, &Piece { frame, ..*piece }, self.now);
        let Some((question, bytes)) = whole else { return Ok(None) };
        let Some(mut frame) = self.egress.take_buffer() else { return Ok(None) };
        self.flows.counters.totals.originated.add(1);
        if frame.set_len(bytes.len()).is_err() {
            self.flows.counters.drops(DropReason::NoBuffer).add(1);
            self.egress.give_back(frame);
            return Ok(None);
        }
        for (to, from) in frame.bytes_mut().iter_mut().zip(bytes) {
            *to = *from;
        }
        // From here on it is as if it had been sent to us.
        let port = self.view.ports.get(self.cluster.endpoint.port.index());
        if let (Some(to), Some(port)) = (frame.bytes_mut().get_mut(..6), port) {
            to.copy_from_slice(&port.mac);
        }
        frame.set_meta(carrier.meta());
        Ok(Some((frame, question)))
    }
}
