//! Bytes of the simulated world, written and read without the engine's parsers.

use crate::frames::{PORT_MAC, ROUTER_MAC, flags, internet_checksum};

/// What a client's packet carries, in fields that the balancer does not touch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ClientPacket {
    pub(super) source: u32,
    pub(super) vip: u32,
    pub(super) sport: u16,
    pub(super) dport: u16,
    pub(super) tcp: bool,
    /// TCP flags; 0 for UDP.
    pub(super) flags: u8,
    /// Which client, in the sequence number.
    pub(super) client: u32,
    /// Which life of it, in the acknowledgement number.
    pub(super) life: u32,
}

impl ClientPacket {
    pub(super) const fn is_syn(&self) -> bool {
        self.flags & flags::SYN != 0
    }

    /// The frame as the router sends it.
    pub(super) fn frame(&self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(64);
        frame.extend_from_slice(&PORT_MAC);
        frame.extend_from_slice(&ROUTER_MAC);
        frame.extend_from_slice(&[8, 0]);
        let transport: u16 = if self.tcp { 20 } else { 16 };
        let mut ip = [0_u8; 20];
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&(20 + transport).to_be_bytes());
        ip[6] = 0x40;
        ip[8] = 63;
        ip[9] = if self.tcp { 6 } else { 17 };
        ip[12..16].copy_from_slice(&self.source.to_be_bytes());
        ip[16..].copy_from_slice(&self.vip.to_be_bytes());
        let sum = internet_checksum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        frame.extend_from_slice(&ip);
        frame.extend_from_slice(&self.sport.to_be_bytes());
        frame.extend_from_slice(&self.dport.to_be_bytes());
        if self.tcp {
            frame.extend_from_slice(&self.client.to_be_bytes());
            frame.extend_from_slice(&self.life.to_be_bytes());
            frame.extend_from_slice(&[0x50, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        } else {
            frame.extend_from_slice(&transport.to_be_bytes());
            frame.extend_from_slice(&[0, 0]);
            frame.extend_from_slice(&self.client.to_be_bytes());
            frame.extend_from_slice(&self.life.to_be_bytes());
        }
        frame
    }

    /// Of a datagram, from the IP header on.
    fn read(ip: &[u8]) -> Option<ClientPacket> {
        let word = |at: usize| ip.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
        let half = |at: usize| ip.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
        let tcp = *ip.get(9)? == 6;
        let at = if tcp { 24 } else { 28 };
        Some(ClientPacket {
            source: word(12)?,
            vip: word(16)?,
            sport: half(20)?,
            dport: half(22)?,
            tcp,
            flags: if tcp { *ip.get(33)? } else { 0 },
            client: word(at)?,
            life: word(at + 4)?,
        })
    }
}

/// A frame that a machine sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sent {
    /// Through a tunnel, to the backend with this address.
    ToBackend(u32, ClientPacket),
    /// To the machine with this address.
    ToMachine(u32),
    /// A reset or the like, to a client.
    Other,
}

/// Reads a frame that a machine sent.
pub(super) fn read_sent(frame: &[u8]) -> Sent {
    let destination =
        |ip: &[u8]| ip.get(16..20).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]])).unwrap_or_default();
    let Some(ip) = frame.get(14..) else { return Sent::Other };
    match (frame.get(12..14), ip.get(9)) {
        (Some([8, 0]), Some(4)) => {
            let inner = ip.get(20..).and_then(ClientPacket::read).expect("an inner packet of a client");
            Sent::ToBackend(destination(ip), inner)
        }
        (Some([8, 0]), Some(17)) => Sent::ToMachine(destination(ip)),
        _ => Sent::Other,
    }
}

/// How many machines a relayed frame has passed when it leaves this one, if the message is one: the header's kind and the
/// question's hops, by their offsets.
pub(super) fn relayed_hops(frame: &[u8]) -> Option<u8> {
    const PAYLOAD: usize = 14 + 20 + 8;
    let kind = *frame.get(PAYLOAD + 3)?;
    (kind == 2).then(|| frame.get(PAYLOAD + 52 + 10).copied()).flatten()
}

#[cfg(test)]
mod tests {
    use super::{ClientPacket, Sent, read_sent};

    #[test]
    fn packets_come_back_as_they_were() {
        for tcp in [true, false] {
            let packet = ClientPacket {
                source: 0x0a00_0105,
                vip: 0xcb00_710a,
                sport: 40_000,
                dport: 80,
                tcp,
                flags: if tcp { 0x12 } else { 0 },
                client: 77,
                life: 3,
            };
            let frame = packet.frame();
            assert_eq!(ClientPacket::read(&frame[14..]), Some(packet));
            let mut tunnelled = frame[..14].to_vec();
            let mut outer = frame[14..34].to_vec();
            outer[9] = 4;
            outer[16..].copy_from_slice(&[10, 0, 2, 9]);
            tunnelled.extend(outer);
            tunnelled.extend(&frame[14..]);
            assert_eq!(read_sent(&tunnelled), Sent::ToBackend(0x0a00_0209, packet));
        }
    }
}
