//! IPv4 datagrams that do not fit their tunnel and may be fragmented (RFC 791 section 3.2).

use crate::act::encapsulate::tunnel;
use crate::describe::general::Packet;
use crate::io::{Frame, PacketIo};
use crate::send::Egress;
use crate::view::{BackendView, View};
use crate::{BURST, DropReason};
use wire::fragment::FragmentPlan;
use wire::parse::{ParsedFrame, parse};

/// Each piece goes out in a buffer of its own; the first stands for the frame received, the others are originated.
#[cold]
pub(crate) fn cut<Io: PacketIo>(
    view: &View,
    frame: Io::Frame,
    packet: &Packet,
    (backend, mtu): (&BackendView, u16),
    egress: &mut Egress<Io>,
) {
    let Ok(pieces) = FragmentPlan::plan(&packet.parsed, frame.bytes(), mtu) else {
        return egress.drop_frame(view, frame, packet, DropReason::TooBig);
    };
    let count = pieces.count();
    if count > BURST {
        // More pieces than a burst: no frame a port of at most 9,000 bytes receives comes to that.
        return egress.drop_frame(view, frame, packet, DropReason::TooBig);
    }
    let mut buffers = egress.take_buffers(count);
    let written = buffers.len() == count
        && buffers.iter_mut().enumerate().all(|(index, piece)| {
            piece.set_len(pieces.piece_len(index)).is_ok()
                && pieces.write(index, frame.bytes(), piece.bytes_mut()).is_some()
        });
    if written {
        for (index, mut piece) in buffers.drain(..).enumerate() {
            piece.set_meta(frame.meta());
            piece_to_backend(view, piece, packet, (backend, mtu), index == 0, egress);
        }
        egress.give_back(frame);
    } else {
        egress.drop_frame(view, frame, packet, DropReason::NoBuffer);
    }
    egress.keep_buffers(buffers);
}

fn piece_to_backend<Io: PacketIo>(
    view: &View,
    piece: Io::Frame,
    packet: &Packet,
    (backend, mtu): (&BackendView, u16),
    first: bool,
    egress: &mut Egress<Io>,
) {
    if !first {
        egress.counters.totals.originated.add(1);
    }
    let Ok(ParsedFrame::Ip(parsed)) = parse(piece.bytes()) else {
        let packet = Packet { made_here: !first, ..*packet };
        return egress.drop_frame(view, piece, &packet, DropReason::BadFragment);
    };
    let packet = Packet { parsed, made_here: !first, ..*packet };
    if parsed.end - parsed.l3 > mtu {
        return egress.drop_frame(view, piece, &packet, DropReason::TooBig);
    }
    tunnel(view, piece, &packet, backend, egress);
}
