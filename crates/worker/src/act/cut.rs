//! IPv4 datagrams that do not fit their tunnel and may be fragmented (RFC 791 section 3.2).

use crate::describe::general::Packet;
use crate::io::{Frame, PacketIo};
use crate::send::Egress;
use crate::view::{BackendView, View};
use crate::{BURST, DropReason};
use wire::fragment::FragmentPlan;
use wire::parse::{ParsedFrame, parse};

impl<Io: PacketIo> Egress<Io> {
    /// Each piece goes out in a buffer of its own; the first stands for the frame received, the others are originated.
    #[cold]
    pub(crate) fn cut(&mut self, view: &View, frame: Io::Frame, packet: &Packet, to: (&BackendView, u16)) {
        let Ok(pieces) = FragmentPlan::plan(&packet.parsed, frame.bytes(), to.1) else {
            return self.drop_frame(view, frame, packet, DropReason::TooBig);
        };
        let count = pieces.count();
        if count > BURST {
            // More pieces than a burst: no frame a port of at most 9,000 bytes receives comes to that.
            return self.drop_frame(view, frame, packet, DropReason::TooBig);
        }
        let mut buffers = self.take_buffers(count);
        let written = buffers.len() == count
            && buffers.iter_mut().enumerate().all(|(index, piece)| {
                piece.set_len(pieces.piece_len(index)).is_ok()
                    && pieces.write(index, frame.bytes(), piece.bytes_mut()).is_some()
            });
        if written {
            for (index, mut piece) in buffers.drain(..).enumerate() {
                piece.set_meta(frame.meta());
                let made_here = index > 0;
                self.counters.totals.originated.add(u64::from(made_here));
                self.send_piece(view, piece, &Packet { made_here, ..*packet }, to);
            }
            self.give_back(frame);
        } else {
            self.drop_frame(view, frame, packet, DropReason::NoBuffer);
        }
        self.keep_buffers(buffers);
    }

    fn send_piece(&mut self, view: &View, piece: Io::Frame, packet: &Packet, to: (&BackendView, u16)) {
        let (backend, mtu) = to;
        let Ok(ParsedFrame::Ip(parsed)) = parse(piece.bytes()) else {
            return self.drop_frame(view, piece, packet, DropReason::BadFragment);
        };
        let packet = Packet { parsed, ..*packet };
        if packet.len() > mtu {
            return self.drop_frame(view, piece, &packet, DropReason::TooBig);
        }
        self.tunnel(view, piece, &packet, backend);
    }
}
