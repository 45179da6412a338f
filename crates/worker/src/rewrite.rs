//! Fourth stage: carries out a frame's fate. Encapsulates towards the backend, answers for the VIP, hands fragments to
//! their owner, punts, drops.

use crate::describe::general::{Fate, Packet};
use crate::io::{Frame, PacketIo};
use crate::send::Label;
use crate::view::{BackendView, OnClosedPort, OnEmpty, View};
use crate::{DropReason, Worker};
use wire::encap::{encapsulate, entropy};
use wire::fragment::FragmentPlan;
use wire::parse::{Kind, TcpFlags};
use wire::{Tick, Tuple, reply};

impl<Io: PacketIo> Worker<Io> {
    /// Ends the frame: afterwards it is in the outbox, on a ring, held, or dropped.
    pub(crate) fn rewrite(&mut self, view: &View, frame: Io::Frame, packet: &mut Packet, now: Tick) {
        match packet.fate {
            Fate::To(id) => match view.backends.get(id.index()).and_then(Option::as_ref) {
                Some(backend) => self.forward(view, frame, packet, backend, now),
                None => self.drop_frame(view, frame, packet, DropReason::NoBackend),
            },
            Fate::Punt => {
                if packet.parsed.kind == Kind::IcmpError {
                    self.hear_of_path(view, frame.bytes(), &packet.parsed, now);
                }
                self.punt(view, frame, packet, now);
            }
            Fate::Peer => self.receive_peer(view, frame, packet, now),
            Fate::Relay(route) => self.relay(view, frame, packet, route, now),
            Fate::Fragment => self.hand_over_fragment(view, frame, packet, now),
            Fate::Echo => self.answer_echo(view, frame, packet, now),
            Fate::Drop(reason @ (DropReason::NoBackend | DropReason::Overload)) => {
                let service = packet.service.and_then(|index| view.service.get(usize::from(index)));
                let answers = service.is_some_and(|service| service.on_empty == OnEmpty::Reset);
                self.refuse(view, frame, packet, (reason, answers), now);
            }
            Fate::Drop(reason @ DropReason::NoService) => {
                let answers = view.on_closed_port == OnClosedPort::Reset;
                self.refuse(view, frame, packet, (reason, answers), now);
            }
            Fate::Drop(reason) => self.drop_frame(view, frame, packet, reason),
            // Steering has turned these into `To` or `Drop`.
            Fate::Flow | Fate::Quoted => self.drop_frame(view, frame, packet, DropReason::NoService),
        }
    }

    fn forward(&mut self, view: &View, frame: Io::Frame, packet: &Packet, backend: &BackendView, now: Tick) {
        let parsed = &packet.parsed;
        if backend.next_hop.is_none() {
            return self.drop_frame(view, frame, packet, DropReason::NoNeighbour);
        }
        let len = parsed.end - parsed.l3;
        if len > backend.room.get() {
            let mtu = backend.inner_mtu_now(parsed.v6, now);
            if len > mtu {
                return self.too_big(view, frame, packet, (backend, mtu), now);
            }
        }
        self.tunnel(view, frame, packet, backend);
    }

    /// Puts the tunnel's header in front of a packet that fits, and sends it.
    fn tunnel(&mut self, view: &View, mut frame: Io::Frame, packet: &Packet, backend: &BackendView) {
        let parsed = &packet.parsed;
        let entropy =
            if backend.header.has_entropy() { entropy(&outer_flow(packet, frame.bytes())) } else { 0 };
        // Ethernet padding is no part of the datagram and must not travel inside the tunnel.
        if frame.set_len(usize::from(parsed.end)).is_err() {
            return self.drop_frame(view, frame, packet, DropReason::NoHeadroom);
        }
        let Ok(bytes) = frame.grow_front(backend.header.len()) else {
            return self.drop_frame(view, frame, packet, DropReason::NoHeadroom);
        };
        encapsulate(bytes, &backend.header, parsed, entropy);
        let label = Label::received(view, packet, Some(backend.id));
        self.send(view, backend.port, frame, label);
    }

    /// IPv4 without DF is cut into pieces that fit; everything else is told so (RFC 1191, RFC 8201).
    fn too_big(
        &mut self,
        view: &View,
        frame: Io::Frame,
        packet: &Packet,
        (backend, mtu): (&BackendView, u16),
        now: Tick,
    ) {
        if !packet.parsed.dont_fragment {
            return self.cut(view, frame, packet, (backend, mtu));
        }
        if self.error_tokens.take(destination(view, &frame, packet), now) {
            let mac = port_mac(view, frame.meta().port);
            let answered = self.answer(view, &frame, reply::REPLY_MAX, |bytes, out| {
                reply::too_big(bytes, &packet.parsed, mac, mtu, out)
            });
            self.counters.totals.too_big_sent.add(u64::from(answered.is_ok()));
        }
        self.drop_frame(view, frame, packet, DropReason::TooBig);
    }

    /// The cold path of IPv4 datagrams that may be fragmented: each piece goes out in a buffer of its own; the first
    /// stands for the frame received, the others are originated.
    fn cut(&mut self, view: &View, frame: Io::Frame, packet: &Packet, (backend, mtu): (&BackendView, u16)) {
        let Ok(pieces) = FragmentPlan::plan(&packet.parsed, frame.bytes(), mtu) else {
            return self.drop_frame(view, frame, packet, DropReason::TooBig);
        };
        let count = pieces.count();
        let mut buffers = core::mem::take(&mut self.spare);
        if count > buffers.capacity() {
            // More pieces than a burst: no frame a port of at most 9,000 bytes receives comes to that.
            self.spare = buffers;
            return self.drop_frame(view, frame, packet, DropReason::TooBig);
        }
        self.io.alloc(count, &mut buffers);
        let written = buffers.len() == count
            && buffers.iter_mut().enumerate().all(|(index, piece)| {
                piece.set_len(pieces.piece_len(index)).is_ok()
                    && pieces.write(index, frame.bytes(), piece.bytes_mut()).is_some()
            });
        if written {
            for (index, mut piece) in buffers.drain(..).enumerate() {
                piece.set_meta(frame.meta());
                self.piece_to_backend(view, piece, packet, (backend, mtu), index == 0);
            }
            self.give_back(frame);
        } else {
            self.drop_frame(view, frame, packet, DropReason::NoBuffer);
        }
        self.io.recycle(&mut buffers);
        self.spare = buffers;
    }

    fn piece_to_backend(
        &mut self,
        view: &View,
        piece: Io::Frame,
        packet: &Packet,
        (backend, mtu): (&BackendView, u16),
        first: bool,
    ) {
        if !first {
            self.counters.totals.originated.add(1);
        }
        let Ok(wire::parse::ParsedFrame::Ip(parsed)) = wire::parse::parse(piece.bytes()) else {
            let packet = Packet { made_here: !first, ..*packet };
            return self.drop_frame(view, piece, &packet, DropReason::BadFragment);
        };
        let packet = Packet { parsed, made_here: !first, ..*packet };
        if parsed.end - parsed.l3 > mtu {
            return self.drop_frame(view, piece, &packet, DropReason::TooBig);
        }
        self.tunnel(view, piece, &packet, backend);
    }

    fn answer_echo(&mut self, view: &View, frame: Io::Frame, packet: &Packet, now: Tick) {
        let port = frame.meta().port;
        if view.ports.get(port.index()).is_some_and(|of| packet.parsed.end - packet.parsed.l3 > of.mtu) {
            return self.drop_frame(view, frame, packet, DropReason::TooBig);
        }
        if !self.echo_tokens.take(destination(view, &frame, packet), now) {
            return self.drop_frame(view, frame, packet, DropReason::RateLimited);
        }
        let mac = port_mac(view, frame.meta().port);
        let fragment = packet.parsed.fragment;
        let answered = self.answer(view, &frame, frame.bytes().len(), |bytes, out| match fragment {
            None => reply::echo(bytes, &packet.parsed, mac, out),
            Some(_) => reply::echo_piece(bytes, &packet.parsed, mac, out),
        });
        let is_first = fragment.is_none_or(|fragment| fragment.offset == 0);
        self.counters.totals.echo_sent.add(u64::from(answered.is_ok() && is_first));
        let reason = match answered {
            Ok(()) => DropReason::Answered,
            Err(Unanswered::NoBuffer) => DropReason::NoBuffer,
            Err(Unanswered::NotDue) => DropReason::BadIcmp,
        };
        self.drop_frame(view, frame, packet, reason);
    }

    /// A closed port, a service without a usable backend, or one with none that is not full, says so (RFC 9293 section 3.10.7.1, RFC
    /// 1122 section 4.1.3.1), unless it is to be silent.
    fn refuse(
        &mut self,
        view: &View,
        frame: Io::Frame,
        packet: &Packet,
        (reason, answers): (DropReason, bool),
        now: Tick,
    ) {
        let is_due = match packet.parsed.kind {
            Kind::Tcp(flags) => flags.0 & TcpFlags::RST == 0,
            Kind::Udp => true,
            _ => false,
        };
        if answers && is_due && self.error_tokens.take(destination(view, &frame, packet), now) {
            let mac = port_mac(view, frame.meta().port);
            let answered =
                self.answer(view, &frame, reply::REPLY_MAX, |bytes, out| match packet.parsed.kind {
                    Kind::Tcp(_) => reply::tcp_reset(bytes, &packet.parsed, mac, out),
                    Kind::Udp => reply::port_unreachable(bytes, &packet.parsed, mac, out),
                    _ => None,
                });
            self.counters.totals.reset_sent.add(u64::from(answered.is_ok()));
        }
        self.drop_frame(view, frame, packet, reason);
    }

    /// Sends an answer to `frame` back on the port it came from.
    fn answer(
        &mut self,
        view: &View,
        frame: &Io::Frame,
        room: usize,
        write: impl FnOnce(&[u8], &mut [u8]) -> Option<usize>,
    ) -> Result<(), Unanswered> {
        let mut buffers = core::mem::take(&mut self.spare);
        self.io.alloc(1, &mut buffers);
        let result = match buffers.pop() {
            None => Err(Unanswered::NoBuffer),
            Some(mut answer) => {
                let length = match answer.set_len(room) {
                    Ok(()) => write(frame.bytes(), answer.bytes_mut()).ok_or(Unanswered::NotDue),
                    Err(_) => Err(Unanswered::NoBuffer),
                };
                let set = length.and_then(|length| answer.set_len(length).map_err(|_| Unanswered::NoBuffer));
                if set.is_ok() {
                    answer.set_meta(frame.meta());
                    self.counters.totals.originated.add(1);
                    self.send(view, frame.meta().port, answer, Label::ORIGINATED);
                } else {
                    self.give_back(answer);
                }
                set
            }
        };
        self.io.recycle(&mut buffers);
        self.spare = buffers;
        result
    }
}

/// Why there is no answer.
enum Unanswered {
    /// No buffer for it.
    NoBuffer,
    /// The rules forbid one.
    NotDue,
}

/// What the outer header's entropy is made of: the flow's tuple; without ports for fragments, so that all pieces of a
/// datagram take the same path.
fn outer_flow(packet: &Packet, bytes: &[u8]) -> Tuple {
    if packet.parsed.fragment.is_some() {
        Tuple { sport: 0, dport: 0, ..packet.parsed.tuple(bytes) }
    } else {
        packet.flow(bytes)
    }
}

/// To whom an answer to this packet goes, as a keyed hash: who does not know the key finds nobody who shares its budget.
fn destination<F: Frame>(view: &View, frame: &F, packet: &Packet) -> u64 {
    steer::hash::source(&view.cluster_key, packet.parsed.src(frame.bytes()))
}

fn port_mac(view: &View, port: wire::PortId) -> [u8; 6] {
    view.ports.get(port.index()).map_or([0; 6], |port| port.mac)
}
