//! What the balancer answers itself, within budgets.

use crate::DropReason;
use crate::action::Reply;
use crate::describe::general::Packet;
use crate::io::{Frame, PacketIo};
use crate::label::Label;
use crate::send::Egress;
use crate::token_bucket::Budget;
use crate::view::View;
use wire::parse::{Kind, TcpFlags};
use wire::{PortId, Tick, reply};

/// Answers to echo requests: per second, and at once; of the machine, shared out evenly among its workers.
const ECHO_RATE: (u64, u64) = (10_000, 1_000);
/// The same of "packet too big", port unreachable and resets.
const ERROR_RATE: (u64, u64) = (10_000, 1_000);
/// Answers to echo requests to one destination; of each worker, because the packets of a client may all come to one.
const ECHO_RATE_EACH: (u64, u64) = (100, 100);
/// The same of the others.
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

/// Answers an echo request to a VIP.
pub(crate) fn echo<Io: PacketIo>(
    view: &View,
    frame: Io::Frame,
    packet: &Packet,
    budgets: &mut ReplyBudgets,
    egress: &mut Egress<Io>,
    now: Tick,
) {
    let port = frame.meta().port;
    if view.ports.get(port.index()).is_some_and(|of| packet.parsed.end - packet.parsed.l3 > of.mtu) {
        return egress.drop_frame(view, frame, packet, DropReason::TooBig);
    }
    if !budgets.echo.take(destination(view, &frame, packet), now) {
        return egress.drop_frame(view, frame, packet, DropReason::RateLimited);
    }
    let mac = port_mac(view, port);
    let fragment = packet.parsed.fragment;
    let answered = answer(view, &frame, frame.bytes().len(), egress, |bytes, out| match fragment {
        None => reply::echo(bytes, &packet.parsed, mac, out),
        Some(_) => reply::echo_piece(bytes, &packet.parsed, mac, out),
    });
    let is_first = fragment.is_none_or(|fragment| fragment.offset == 0);
    egress.counters.totals.echo_sent.add(u64::from(answered.is_ok() && is_first));
    match answered {
        Ok(()) => egress.drop_answered(view, frame, packet, (DropReason::Answered, Reply::Echo)),
        Err(Unanswered::NoBuffer) => egress.drop_frame(view, frame, packet, DropReason::NoBuffer),
        Err(Unanswered::NotDue) => egress.drop_frame(view, frame, packet, DropReason::BadIcmp),
    }
}

/// A closed port, a service without a usable backend, or one with none that is not full, says so (RFC 9293 section 3.10.7.1, RFC
/// 1122 section 4.1.3.1), unless it is to be silent.
pub(crate) fn refuse<Io: PacketIo>(
    view: &View,
    frame: Io::Frame,
    packet: &Packet,
    (reason, answers): (DropReason, bool),
    budgets: &mut ReplyBudgets,
    egress: &mut Egress<Io>,
    now: Tick,
) {
    let is_due = match packet.parsed.kind {
        Kind::Tcp(flags) => flags.0 & TcpFlags::RST == 0,
        Kind::Udp => true,
        _ => false,
    };
    if answers && is_due && budgets.error.take(destination(view, &frame, packet), now) {
        let mac = port_mac(view, frame.meta().port);
        let answered =
            answer(view, &frame, reply::REPLY_MAX, egress, |bytes, out| match packet.parsed.kind {
                Kind::Tcp(_) => reply::tcp_reset(bytes, &packet.parsed, mac, out),
                Kind::Udp => reply::port_unreachable(bytes, &packet.parsed, mac, out),
                _ => None,
            });
        egress.counters.totals.reset_sent.add(u64::from(answered.is_ok()));
        if answered.is_ok() {
            return egress.drop_answered(view, frame, packet, (reason, Reply::Refusal(reason)));
        }
    }
    egress.drop_frame(view, frame, packet, reason);
}

/// Tells the sender that a packet does not fit (RFC 1191, RFC 8201).
pub(crate) fn too_big<Io: PacketIo>(
    view: &View,
    frame: Io::Frame,
    packet: &Packet,
    mtu: u16,
    budgets: &mut ReplyBudgets,
    egress: &mut Egress<Io>,
    now: Tick,
) {
    if budgets.error.take(destination(view, &frame, packet), now) {
        let mac = port_mac(view, frame.meta().port);
        let answered = answer(view, &frame, reply::REPLY_MAX, egress, |bytes, out| {
            reply::too_big(bytes, &packet.parsed, mac, mtu, out)
        });
        egress.counters.totals.too_big_sent.add(u64::from(answered.is_ok()));
        if answered.is_ok() {
            return egress.drop_answered(view, frame, packet, (DropReason::TooBig, Reply::TooBig));
        }
    }
    egress.drop_frame(view, frame, packet, DropReason::TooBig);
}

/// Sends an answer to `frame` back on the port it came from.
fn answer<Io: PacketIo>(
    view: &View,
    frame: &Io::Frame,
    room: usize,
    egress: &mut Egress<Io>,
    write: impl FnOnce(&[u8], &mut [u8]) -> Option<usize>,
) -> Result<(), Unanswered> {
    let mut answer = egress.take_buffer().ok_or(Unanswered::NoBuffer)?;
    let length = match answer.set_len(room) {
        Ok(()) => write(frame.bytes(), answer.bytes_mut()).ok_or(Unanswered::NotDue),
        Err(_) => Err(Unanswered::NoBuffer),
    };
    let set = length.and_then(|length| answer.set_len(length).map_err(|_| Unanswered::NoBuffer));
    if set.is_ok() {
        answer.set_meta(frame.meta());
        egress.counters.totals.originated.add(1);
        egress.send(view, frame.meta().port, answer, Label::ORIGINATED);
    } else {
        egress.give_back(answer);
    }
    set
}

/// Why there is no answer.
enum Unanswered {
    /// No buffer for it.
    NoBuffer,
    /// The rules forbid one.
    NotDue,
}

/// To whom an answer to this packet goes, as a keyed hash: who does not know the key finds nobody who shares its budget.
fn destination<F: Frame>(view: &View, frame: &F, packet: &Packet) -> u64 {
    steer::hash::source(&view.cluster_key, packet.parsed.src(frame.bytes()))
}

fn port_mac(view: &View, port: PortId) -> [u8; 6] {
    view.ports.get(port.index()).map_or([0; 6], |port| port.mac)
}
