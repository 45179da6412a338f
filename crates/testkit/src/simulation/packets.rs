//! Bytes of the simulated world, written and read without the engine's parsers.

use super::random::mix;
use crate::frames::{PORT_MAC, ROUTER_MAC, flags, internet_checksum};
use wire::Addr;

/// What a client's packet carries, in fields that the balancer does not touch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ClientPacket {
    pub(super) source: Addr,
    pub(super) vip: Addr,
    pub(super) sport: u16,
    pub(super) dport: u16,
    pub(super) tcp: bool,
    /// TCP flags; 0 for UDP.
    pub(super) flags: u8,
    /// Which client, in the sequence number.
    pub(super) client: u32,
    /// Which life of it, in the acknowledgement number.
    pub(super) life: u32,
    /// Which packet of it, in the window; 0 for UDP.
    pub(super) number: u16,
    /// Bytes of data behind the headers.
    pub(super) size: usize,
}

impl ClientPacket {
    pub(super) const fn is_syn(&self) -> bool {
        self.flags & flags::SYN != 0
    }

    /// A byte of the data: another packet has other data.
    const fn data(&self, at: usize) -> u8 {
        let of = (self.client as u64) << 32 ^ (self.life as u64) << 16 ^ self.number as u64;
        (mix(of) >> (at % 8 * 8)) as u8
    }

    /// The frame as the router sends it.
    pub(super) fn frame(&self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(96 + self.size);
        frame.extend_from_slice(&PORT_MAC);
        frame.extend_from_slice(&ROUTER_MAC);
        let transport = u16::try_from(self.size).expect("short") + if self.tcp { 20 } else { 16 };
        let protocol = if self.tcp { 6 } else { 17 };
        match (self.source, self.vip) {
            (Addr::V4(source), Addr::V4(vip)) => {
                frame.extend_from_slice(&[8, 0]);
                frame.extend_from_slice(&ipv4_header(source, vip, protocol, transport));
            }
            (Addr::V6(source), Addr::V6(vip)) => {
                frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend_from_slice(&transport.to_be_bytes());
                frame.extend_from_slice(&[protocol, 63]);
                frame.extend_from_slice(&source.to_be_bytes());
                frame.extend_from_slice(&vip.to_be_bytes());
            }
            _ => unreachable!("a client has an address of its service's family"),
        }
        frame.extend_from_slice(&self.sport.to_be_bytes());
        frame.extend_from_slice(&self.dport.to_be_bytes());
        if self.tcp {
            frame.extend_from_slice(&self.client.to_be_bytes());
            frame.extend_from_slice(&self.life.to_be_bytes());
            let [high, low] = self.number.to_be_bytes();
            frame.extend_from_slice(&[0x50, self.flags, high, low, 0, 0, 0, 0]);
        } else {
            frame.extend_from_slice(&transport.to_be_bytes());
            frame.extend_from_slice(&[0, 0]);
            frame.extend_from_slice(&self.client.to_be_bytes());
            frame.extend_from_slice(&self.life.to_be_bytes());
        }
        frame.extend((0..self.size).map(|at| self.data(at)));
        frame
    }

    /// Of a datagram, from the IP header on. `None`: it is not as a client has sent it.
    pub(super) fn read(ip: &[u8]) -> Option<ClientPacket> {
        let word = |at: usize| ip.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
        let half = |at: usize| ip.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
        let wide = |at: usize| ip.get(at..at + 16)?.try_into().ok().map(u128::from_be_bytes);
        let is_v6 = ip.first()? >> 4 == 6;
        let (source, vip, protocol, l4) = if is_v6 {
            (Addr::V6(wide(8)?), Addr::V6(wide(24)?), *ip.get(6)?, 40)
        } else {
            (Addr::V4(word(12)?), Addr::V4(word(16)?), *ip.get(9)?, 20)
        };
        let tcp = protocol == 6;
        let at = l4 + if tcp { 4 } else { 8 };
        let data = ip.get(l4 + if tcp { 20 } else { 16 }..)?;
        let packet = ClientPacket {
            source,
            vip,
            sport: half(l4)?,
            dport: half(l4 + 2)?,
            tcp,
            flags: if tcp { *ip.get(l4 + 13)? } else { 0 },
            client: word(at)?,
            life: word(at + 4)?,
            number: if tcp { half(l4 + 14)? } else { 0 },
            size: data.len(),
        };
        data.iter().enumerate().all(|(at, &byte)| byte == packet.data(at)).then_some(packet)
    }
}

fn ipv4_header(source: u32, destination: u32, protocol: u8, payload: u16) -> [u8; 20] {
    let mut ip = [0_u8; 20];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&(20 + payload).to_be_bytes());
    ip[6] = 0x40;
    ip[8] = 63;
    ip[9] = protocol;
    ip[12..16].copy_from_slice(&source.to_be_bytes());
    ip[16..].copy_from_slice(&destination.to_be_bytes());
    let sum = internet_checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    ip
}

/// A frame with a datagram between machines.
pub(super) fn datagram_frame(from: u32, to: u32, port: u16, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len() + 8).expect("short");
    let mut frame = [PORT_MAC, ROUTER_MAC].concat();
    frame.extend_from_slice(&[8, 0]);
    frame.extend_from_slice(&ipv4_header(from, to, 17, len));
    frame.extend_from_slice(&port.to_be_bytes());
    frame.extend_from_slice(&port.to_be_bytes());
    frame.extend_from_slice(&len.to_be_bytes());
    frame.extend_from_slice(&[0, 0]);
    frame.extend_from_slice(payload);
    frame
}

/// A frame that a machine sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sent {
    /// Through a tunnel, to the backend with this address.
    ToBackend(u32, ClientPacket),
    /// Through a tunnel to a backend, and what is in it no client has sent.
    Damaged,
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
        (Some([8, 0]), Some(4 | 41)) => ip
            .get(20..)
            .and_then(ClientPacket::read)
            .map_or(Sent::Damaged, |inner| Sent::ToBackend(destination(ip), inner)),
        (Some([8, 0]), Some(17)) => Sent::ToMachine(destination(ip)),
        _ => Sent::Other,
    }
}

/// A relayed frame in a message between machines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Relayed {
    /// How many machines it has passed when it leaves this one.
    pub(super) hops: u8,
    /// It is not the second or a later piece.
    pub(super) is_first: bool,
    /// Whose it is.
    pub(super) client: Option<(u32, u32)>,
}

/// The relayed frame of a message, if it is one: by the offsets of the header's and the question's fields.
pub(super) fn relayed(frame: &[u8]) -> Option<Relayed> {
    const HEADER: usize = 14 + 20 + 8;
    const QUESTION: usize = HEADER + statesync::datagram::HEADER_LEN;
    const FRAME: usize = QUESTION + 20;
    if *frame.get(HEADER + 3)? != 2 {
        return None;
    }
    let is_first = frame.get(QUESTION + 16..QUESTION + 18)? == [0, 0];
    let at = FRAME + 14 + if frame.get(FRAME + 12..FRAME + 14) == Some(&[0x86, 0xdd]) { 40 } else { 20 };
    let is_tcp = [frame.get(FRAME + 14 + 9), frame.get(FRAME + 14 + 6)].contains(&Some(&6));
    let at = at + if is_tcp { 4 } else { 8 };
    let word = |at: usize| frame.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    Some(Relayed { hops: *frame.get(QUESTION + 10)?, is_first, client: word(at).zip(word(at + 4)) })
}

#[cfg(test)]
mod tests {
    use super::{ClientPacket, Sent, ipv4_header, read_sent};
    use wire::Addr;

    #[test]
    fn packets_come_back_as_they_were() {
        let families = [
            (Addr::V4(0x0a00_0105), Addr::V4(0xcb00_710a), 4),
            (Addr::V6(0x2001_0db8 << 96 | 5), Addr::V6(0x2001_0db8 << 96 | 80), 41),
        ];
        for (tcp, (source, vip, protocol), size) in
            [(true, families[0], 0), (true, families[1], 1400), (false, families[0], 7)]
        {
            let packet = ClientPacket {
                source,
                vip,
                sport: 40_000,
                dport: 80,
                tcp,
                flags: if tcp { 0x12 } else { 0 },
                client: 77,
                life: 3,
                number: if tcp { 9 } else { 0 },
                size,
            };
            let frame = packet.frame();
            assert_eq!(ClientPacket::read(&frame[14..]), Some(packet));
            let mut tunnelled = frame[..12].to_vec();
            tunnelled.extend([8, 0]);
            let length = u16::try_from(frame.len() - 14).expect("short");
            tunnelled.extend(ipv4_header(1, 0x0a00_0209, protocol, length));
            tunnelled.extend(&frame[14..]);
            assert_eq!(read_sent(&tunnelled), Sent::ToBackend(0x0a00_0209, packet));
            if let Some(last) = tunnelled.last_mut().filter(|_| size > 0) {
                *last ^= 1;
                assert_eq!(read_sent(&tunnelled), Sent::Damaged);
            }
        }
    }
}
