//! The headers of a received burst by column, and what is to be said of each packet alone: whether it has the plain shape
//! ([`wire::plain`]: IPv4 without options, TCP or UDP, nothing wrong), how long it is, and everything but the service of its key.
//!
//! Six words are read of each frame. All judgements are sums and masks over columns of words, without a branch, so that
//! the compiler makes vectors of them: a packet costs a quarter of what it costs by itself. Fields stay in the byte order of the
//! network until somebody needs their value. `wire::plain` is the oracle of the tests.

use crate::BURST;
use crate::burst::bits;
use crate::describe::general::LINK_LOCAL_V4;
use crate::io::Frame;
use crate::view::SERVICES_MAX;
use core::hint::cold_path;
use flow::{Isa, Lanes};
use steer::hash::lanes::{Columns, tuples_v4};
use wire::parse::{ETHERNET_LEN, IPV4_LEN, TCP, TcpFlags, UDP};

/// Positions judged at once.
pub(crate) const LANES: usize = 8;
/// A frame of the plain shape is at least this long: with a whole TCP header, so that all fields are read without another
/// look at the length. Ethernet's shortest frame is longer.
const SHORTEST: usize = ETHERNET_LEN + IPV4_LEN + 20;
/// Lengths have 16 bits.
const LONGEST: usize = u16::MAX as usize;

/// Which frames a port takes, by the first eight bytes: the destination address, and two bytes that are not looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MacFilter {
    pub(crate) mask: u64,
    pub(crate) value: u64,
}

impl MacFilter {
    #[inline(always)]
    pub(crate) fn admits(self, bytes: &[u8]) -> bool {
        bytes.first_chunk().is_some_and(|first| u64::from_le_bytes(*first) & self.mask == self.value)
    }
}

/// How a packet changes its flow's entry. The upper bit says that it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum FlowEvent {
    /// TCP without SYN, FIN or RST: an established flow stays as it is.
    Tcp = 0,
    /// UDP: an established flow stays as it is.
    Udp = 1,
    /// TCP with one of them.
    Turning = 2,
    /// Of these, a connection's first packet.
    Syn = 3,
}

/// Words of the headers by position, and what they say.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct HeaderColumns {
    /// Bytes 0 to 7: MAC addresses.
    macs: [u64; BURST],
    /// Bytes 12 to 19: type, version, type of service, length, identification.
    first: [u64; BURST],
    /// Bytes 20 to 27: fragment, time to live, protocol, checksum, half of the source.
    second: [u64; BURST],
    /// Bytes 26 to 33: source and destination.
    addresses: [u64; BURST],
    /// Bytes 34 to 41: ports, and UDP's length.
    ports: [u64; BURST],
    /// Bytes 46 to 49 (TCP's length and flags); above them the frame's length.
    rest: [u64; BURST],
    /// What names the service: destination, its port, protocol; 0 where the shape is not the plain one.
    pub(crate) service_key: [u64; BURST],
    /// The flow's narrow key without its service.
    pub(crate) key: [u64; BURST],
    /// See [`PacketSummary`].
    pub(crate) summary: [u64; BURST],
    /// The protocol, below 256.
    protocol: [u64; BURST],
    /// The cluster's hash of the tuple, where [`HeaderColumns::hash`] was asked for it.
    pub(crate) hash: [u64; BURST],
}

/// What later stages know of a packet, in one word: the datagram's length and type of service; above them the service's id and
/// its index in the view, once these are known; the event in the two highest bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PacketSummary(pub(crate) u64);

#[expect(clippy::cast_possible_truncation, reason = "fields are cut out of a word")]
impl PacketSummary {
    /// Where the service's id begins.
    pub(crate) const SERVICE: u32 = 32;
    /// Where its index begins.
    pub(crate) const INDEX: u32 = 48;
    /// The largest index.
    pub(crate) const INDEX_MAX: u16 = (1 << (PacketSummary::EVENT - PacketSummary::INDEX)) - 1;
    const EVENT: u32 = 62;

    pub(crate) const fn new(len: u16, tos: u8, event: FlowEvent, service: u16, index: u16) -> PacketSummary {
        PacketSummary(
            len as u64
                | (tos as u64) << 16
                | (event as u64) << PacketSummary::EVENT
                | (service as u64) << PacketSummary::SERVICE
                | (index as u64) << PacketSummary::INDEX,
        )
    }

    #[inline(always)]
    pub(crate) const fn len(self) -> u16 {
        self.0 as u16
    }
    #[inline(always)]
    pub(crate) const fn tos(self) -> u8 {
        (self.0 >> 16) as u8
    }
    #[inline(always)]
    pub(crate) const fn service(self) -> u16 {
        (self.0 >> PacketSummary::SERVICE) as u16
    }
    #[inline(always)]
    pub(crate) const fn index(self) -> u16 {
        (self.0 >> PacketSummary::INDEX) as u16 & PacketSummary::INDEX_MAX
    }
}

/// What names an IPv4 service, as [`HeaderColumns`] has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ServiceKey(pub(crate) u64);

#[expect(clippy::cast_possible_truncation, reason = "fields are cut out of a word")]
impl ServiceKey {
    pub(crate) const fn dst(self) -> u32 {
        (self.0 as u32).swap_bytes()
    }
    pub(crate) const fn dport(self) -> u16 {
        ((self.0 >> 32) as u16).swap_bytes()
    }
    pub(crate) const fn protocol(self) -> u8 {
        (self.0 >> 48) as u8
    }
}

impl HeaderColumns {
    /// Reads the headers of a burst and judges them. Gives the bytes of its frames, and false where none can be of the plain shape.
    #[expect(clippy::needless_range_loop, reason = "one index for all columns, bounded once")]
    #[inline(always)]
    pub(crate) fn read<F: Frame>(&mut self, mac_filter: MacFilter, burst: &[F]) -> (usize, bool) {
        let mut sum = 0;
        let count = burst.len().min(BURST);
        let burst = burst.get(..count).unwrap_or(burst);
        for position in 0..burst.len().min(BURST) {
            let frame = &burst[position];
            let bytes = frame.bytes();
            sum += bytes.len();
            let Some(head) = bytes.first_chunk::<SHORTEST>() else {
                cold_path();
                self.first[position] = 0;
                continue;
            };
            let meta = frame.meta();
            if bytes.len() > LONGEST || meta.truncated || meta.multi_segment {
                cold_path();
                self.first[position] = 0;
                continue;
            }
            self.macs[position] = word::<0>(head);
            self.first[position] = word::<12>(head);
            self.second[position] = word::<20>(head);
            self.addresses[position] = word::<26>(head);
            self.ports[position] = word::<34>(head);
            self.rest[position] = word::<46>(head) & 0xffff_ffff | (bytes.len() as u64) << 32;
        }
        // The last block's positions without a frame are not of the plain shape.
        for position in count..count.next_multiple_of(LANES).min(BURST) {
            self.first[position] = 0;
        }
        (sum, self.judge(mac_filter, count.div_ceil(LANES)))
    }

    #[inline(always)]
    fn judge(&mut self, mac_filter: MacFilter, blocks: usize) -> bool {
        let count = (blocks * LANES).min(BURST);
        let mut some = 0;
        for first in &self.first[..count] {
            some |= equal(first & 0xff_ffff, SHAPE);
        }
        if some == 0 {
            // Nothing of the plain shape, as in a burst of IPv6.
            self.service_key = [0; BURST];
            return false;
        }
        for position in 0..count {
            self.judge_at(mac_filter, position);
        }
        true
    }

    /// One packet. In `bad` any bit says that the shape is not the plain one.
    #[inline(always)]
    fn judge_at(&mut self, mac_filter: MacFilter, position: usize) {
        /// More-fragments and offset, as they lie.
        const FRAGMENT: u64 = 0xff3f;
        /// As it lies.
        const TIME_TO_LIVE: u64 = 0xff << 16;
        const LINK_LOCAL: u64 = (LINK_LOCAL_V4 << 16).swap_bytes() as u64;
        const CHANGES: u64 = (TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST) as u64;
        const BEGINS: u64 = CHANGES | TcpFlags::ACK as u64;
        let position = position % BURST;
        let (macs, first, second) = (self.macs[position], self.first[position], self.second[position]);
        let (addresses, ports, rest) = (self.addresses[position], self.ports[position], self.rest[position]);
        let mut bad = (first & 0xff_ffff) ^ SHAPE;
        bad |= (macs & mac_filter.mask) ^ mac_filter.value;
        bad |= second & FRAGMENT;
        // Words are summed as they lie in memory (RFC 1071 section 2 B), and with them the type before the header: what a right header
        // adds is 0, modulo 65535. Six halves have 35 bits, and the second fold is below 0x10002, so there is one way to say it.
        let sum = (first & LOW) + (first >> 32) + (second & LOW) + (second >> 32);
        let sum = sum + (addresses >> 16 & LOW) + (addresses >> 48);
        let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        bad |= sum ^ (SHAPE & 0xffff);
        let len = short(first, 32);
        bad |= below(rest >> 32, len + ETHERNET_LEN as u64);
        let protocol = second >> 24 & 0xff;
        let tcp = spread(equal(protocol, TCP as u64));
        bad |= (protocol ^ UDP as u64) & !tcp;
        // TCP's header, or UDP's datagram.
        let transport = (rest >> 2 & 0x3c) & tcp | short(ports, 32) & !tcp;
        bad |= below(transport, 8 + (12 & tcp)) | below(len, transport + IPV4_LEN as u64);
        // As `is_possible_source_v4`.
        let network = addresses & 0xff;
        bad |= below(network, 1) | below(223, network) | equal(network, 127);
        bad |= equal(addresses & 0xffff, LINK_LOCAL);
        bad |= equal(addresses & LOW, addresses >> 32);
        bad |= equal(second & TIME_TO_LIVE, 0);
        let good = !spread(bad | bad.wrapping_neg());
        let flags = rest >> 8 & tcp;
        let turns = (flags & CHANGES).wrapping_neg() >> 63;
        let begins = equal(flags & BEGINS, TcpFlags::SYN as u64) >> 63;
        let event = !tcp & FlowEvent::Udp as u64 | turns << 1 | begins;
        self.service_key[position] = (addresses >> 32 | (ports & 0xffff_0000) << 16 | protocol << 48) & good;
        self.key[position] = (addresses & LOW | (ports & 0xffff) << 32).swap_bytes() & good;
        self.summary[position] = len | (first >> 24 & 0xff) << 16 | event << PacketSummary::EVENT;
        self.protocol[position] = protocol;
    }

    /// The positions whose event is [`FlowEvent::Udp`], [`FlowEvent::Turning`], [`FlowEvent::Syn`], where an event is known; the others are
    /// [`FlowEvent::Tcp`].
    #[inline(always)]
    pub(crate) fn events(&self, lanes: Lanes) -> (u32, u32, u32) {
        let (upper, lower) = (lanes.bit::<0>(&self.summary), lanes.bit::<1>(&self.summary));
        (lower & !upper, upper & !lower, upper & lower)
    }

    /// Hashes the tuples at these positions of the plain shape. With AVX-512 eight at a time, and others with them: that costs little more
    /// than one. Without, there is no vector rotation: eight at a time would be 106 instructions each, one by one it is 90.
    #[inline(always)]
    pub(crate) fn hash(&mut self, lanes: Lanes, key: &[u8; 16], positions: u32) {
        if lanes.isa() != Isa::Avx512 {
            // A loop and no closure, which would not be compiled for the instruction set.
            for position in bits(positions) {
                self.hash_lanes::<1>(key, position);
            }
            return;
        }
        for block in 0..BURST / LANES {
            if positions >> (block * LANES) & 0xff != 0 {
                self.hash_lanes::<LANES>(key, block);
            }
        }
    }

    #[inline(always)]
    fn hash_lanes<const N: usize>(&mut self, key: &[u8; 16], block: usize) {
        let of = |column| <[u64]>::as_chunks::<N>(column).0.get(block);
        if let (Some(protocol), Some(ports), Some(addresses)) =
            (of(&self.protocol), of(&self.ports), of(&self.addresses))
            && let Some(hash) = self.hash.as_chunks_mut::<N>().0.get_mut(block)
        {
            *hash = tuples_v4(key, Columns { protocol, ports, addresses });
        }
    }

    /// The client's address at a position of the plain shape.
    #[expect(clippy::cast_possible_truncation, reason = "a field is cut out of a word")]
    #[inline(always)]
    pub(crate) fn src(&self, position: usize) -> u32 {
        (self.addresses[position % BURST] as u32).swap_bytes()
    }
}

/// Eight bytes of a header; the offset is checked when this is compiled.
#[inline(always)]
fn word<const AT: usize>(head: &[u8; SHORTEST]) -> u64 {
    const { assert!(AT + 8 <= SHORTEST) };
    head.get(AT..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Type IPv4, version 4, no options.
const SHAPE: u64 = 0x45_0008;
const LOW: u64 = 0xffff_ffff;
const SIGN: u64 = 1 << 63;

/// The sign bit if `a < b`, for numbers far below it.
#[inline(always)]
const fn below(a: u64, b: u64) -> u64 {
    a.wrapping_sub(b) & SIGN
}

/// The sign bit if they are equal, for numbers far below it.
#[inline(always)]
const fn equal(a: u64, b: u64) -> u64 {
    (a ^ b).wrapping_sub(1) & SIGN
}

/// All bits, if the sign bit is set.
#[inline(always)]
#[expect(clippy::cast_possible_wrap, clippy::cast_sign_loss, reason = "the sign is spread")]
const fn spread(signed: u64) -> u64 {
    (signed as i64 >> 63) as u64
}

/// Two bytes in the order of the network.
#[inline(always)]
const fn short(word: u64, at: u32) -> u64 {
    (word & 0xffff << at).swap_bytes() >> (48 - at)
}

const _: () = assert!(SERVICES_MAX <= PacketSummary::INDEX_MAX as usize + 1);
const _: () = assert!(FlowEvent::Turning as u8 == 1 << 1 && FlowEvent::Syn as u8 == 1 << 1 | 1);

#[cfg(test)]
mod tests;
