//! What the balancer answers itself, within budgets.

use crate::DropReason;
use crate::action::Reply;
use crate::describe::general::Packet;
use crate::io::{Frame, PacketIo};
use crate::label::Label;
use crate::send::Egress;
use crate::token_bucket::Budget;
use crate::view::{Moment, OnClosedPort, OnEmpty, View};
use wire::parse::{Kind, TcpFlags};
use wire::reply;

/// Answers to echo requests: per second, and at once; of the machine, shared out evenly among its workers.
const ECHO_RATE: (u64, u64) = (10_000, 1_000);
/// Answers of the kinds "packet too big", port unreachable and reset, a second and at once.
const ERROR_RATE: (u64, u64) = (10_000, 1_000);
/// Answers to echo requests to one destination; of each worker, because the packets of a client may all come to one.
const ECHO_RATE_EACH: (u64, u64) = (100, 100);
/// Those answers to one destination; of each worker, too.
const ERROR_RATE_EACH: (u64, u64) = (50, 50);

/// What may be answered.
#[derive(Debug)]
pub(crate) struct ReplyBudgets {
    echo: Budget,
    error: Budget,
}

impl ReplyBudgets {
    /// The share of one of so many workers.
    pub(crate) fn new(workers: u64) -> ReplyBudgets {
        let share = |(rate, burst): (u64, u64)| (rate / workers.max(1), burst / workers.max(1));
        ReplyBudgets {
            echo: Budget::new(share(ECHO_RATE), ECHO_RATE_EACH),
            error: Budget::new(share(ERROR_RATE), ERROR_RATE_EACH),
        }
    }
}

/// What answers, borrowed for one frame.
pub(crate) struct Replier<'r, Io: PacketIo> {
    pub(crate) at: Moment<'r>,
    pub(crate) budgets: &'r mut ReplyBudgets,
    pub(crate) egress: &'r mut Egress<Io>,
}

impl<Io: PacketIo> Replier<'_, Io> {
    /// Answers an echo request to a VIP.
    pub(crate) fn echo(&mut self, frame: Io::Frame, packet: &Packet) {
        let Moment { view, now } = self.at;
        if view.ports.get(frame.meta().port.index()).is_some_and(|of| packet.len() > of.mtu) {
            return self.egress.drop_frame(view, frame, packet, DropReason::TooBig);
        }
        if !self.budgets.echo.take(destination(view, &frame, packet), now) {
            return self.egress.drop_frame(view, frame, packet, DropReason::RateLimited);
        }
        let fragment = packet.parsed.fragment;
        let answered = self.answer(&frame, frame.bytes().len(), |bytes, mac, out| match fragment {
            None => reply::echo(bytes, &packet.parsed, mac, out),
            Some(_) => reply::echo_piece(bytes, &packet.parsed, mac, out),
        });
        let is_first = fragment.is_none_or(|fragment| fragment.offset == 0);
        self.egress.counters.totals.echo_sent.add(u64::from(answered.is_ok() && is_first));
        match answered {
            Ok(()) => self.egress.drop_answered(view, frame, packet, (DropReason::Answered, Reply::Echo)),
            Err(reason) => self.egress.drop_frame(view, frame, packet, reason),
        }
    }

    /// A closed port, a service without a usable backend, or one with none that is not full, says so (RFC 9293 section 3.10.7.1, RFC
    /// 1122 section 4.1.3.1), unless it or its VIP is to be silent.
    pub(crate) fn refuse(&mut self, frame: Io::Frame, packet: &Packet, reason: DropReason) {
        let view = self.at.view;
        let answers = match reason {
            DropReason::NoService => view.on_closed_port == OnClosedPort::Reset,
            _ => packet.service_in(view).is_some_and(|service| service.on_empty == OnEmpty::Reset),
        };
        let is_due = match packet.parsed.kind {
            Kind::Tcp(flags) => flags.0 & TcpFlags::RST == 0,
            Kind::Udp => true,
            _ => false,
        };
        if !answers || !is_due {
            return self.egress.drop_frame(view, frame, packet, reason);
        }
        let reply = Reply::Refusal(reason);
        self.tell(frame, packet, (reason, reply), |bytes, mac, out| match packet.parsed.kind {
            Kind::Tcp(_) => reply::tcp_reset(bytes, &packet.parsed, mac, out),
            _ => reply::port_unreachable(bytes, &packet.parsed, mac, out),
        });
    }

    /// Tells the sender that a packet does not fit (RFC 1191, RFC 8201).
    pub(crate) fn too_big(&mut self, frame: Io::Frame, packet: &Packet, mtu: u16) {
        self.tell(frame, packet, (DropReason::TooBig, Reply::TooBig), |bytes, mac, out| {
            reply::too_big(bytes, &packet.parsed, mac, mtu, out)
        });
    }

    /// Answers with an error, as far as the budget allows.
    fn tell(
        &mut self,
        frame: Io::Frame,
        packet: &Packet,
        (reason, reply): (DropReason, Reply),
        write: impl FnOnce(&[u8], [u8; 6], &mut [u8]) -> Option<usize>,
    ) {
        let Moment { view, now } = self.at;
        let is_due = self.budgets.error.take(destination(view, &frame, packet), now);
        if !is_due || self.answer(&frame, reply::REPLY_MAX, write).is_err() {
            return self.egress.drop_frame(view, frame, packet, reason);
        }
        let totals = &self.egress.counters.totals;
        if reply == Reply::TooBig {
            totals.too_big_sent.add(1);
        } else {
            totals.reset_sent.add(1);
        }
        self.egress.drop_answered(view, frame, packet, (reason, reply));
    }

    /// Sends an answer to `frame` back on the port it came from.
    ///
    /// # Errors
    /// There is no buffer for it, or the rules forbid one.
    fn answer(
        &mut self,
        frame: &Io::Frame,
        room: usize,
        write: impl FnOnce(&[u8], [u8; 6], &mut [u8]) -> Option<usize>,
    ) -> Result<(), DropReason> {
        let meta = frame.meta();
        let mac = self.at.view.ports.get(meta.port.index()).map_or([0; 6], |port| port.mac);
        let mut answer = self.egress.take_buffer().ok_or(DropReason::NoBuffer)?;
        let length = match answer.set_len(room) {
            Ok(()) => write(frame.bytes(), mac, answer.bytes_mut()).ok_or(DropReason::BadIcmp),
            Err(_) => Err(DropReason::NoBuffer),
        };
        let set = length.and_then(|length| answer.set_len(length).map_err(|_| DropReason::NoBuffer));
        if set.is_ok() {
            answer.set_meta(meta);
            self.egress.counters.totals.originated.add(1);
            self.egress.send(self.at.view, meta.port, answer, Label::ORIGINATED);
        } else {
            self.egress.give_back(answer);
        }
        set
    }
}

/// To whom an answer to this packet goes, as a keyed hash: who does not know the key finds nobody who shares its budget.
fn destination<F: Frame>(view: &View, frame: &F, packet: &Packet) -> u64 {
    steer::hash::source(&view.cluster_key, packet.parsed.src(frame.bytes()))
}
