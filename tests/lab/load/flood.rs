//! A flood of packets that belong to no connection, from client addresses and ports that no connection of ours uses.
//! It goes through the client's routing like everything else, and is bounded in rate and time.

use crate::command::{LabError, Result, Tried};
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng as _};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::time::{Duration, Instant};

/// Source ports; the client's kernel gives connections ports from 10,000 on.
pub const PORTS: Range<u16> = 1024..10_000;
/// Packets a second at most.
pub const RATE_MAX: u64 = 200_000;
/// Length at most, milliseconds.
pub const DURATION_MAX_MS: u64 = 60_000;
/// Packets sent between two looks at the clock.
const BATCH: u64 = 32;
/// IPv4 and TCP without options; UDP has as many bytes, with data.
const PACKET_BYTES: usize = 40;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// What it is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FloodOf {
    /// TCP ACKs with numbers of no connection.
    Acks,
    /// SYNs.
    Syns,
    /// A SYN and then an ACK that goes on where it ended, of one address and port, as a sender knows them that sees no answer.
    Pairs,
    /// UDP, one datagram of each address and port.
    Datagrams,
}

/// A flood.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FloodLoad {
    /// What it is made of.
    pub of: FloodOf,
    /// VIP and port.
    pub target: SocketAddrV4,
    /// Client addresses.
    pub sources: Vec<Ipv4Addr>,
    /// Packets a second.
    pub rate: u64,
    /// How long, milliseconds.
    pub duration_ms: u64,
    /// For the order of addresses and ports, and the sequence numbers.
    pub seed: u64,
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct FloodReport {
    /// Packets the kernel took.
    pub sent: u64,
    /// Packets it did not take.
    pub refused: u64,
    /// How long it took, milliseconds.
    pub elapsed_ms: u64,
}

pub(super) fn run(load: &FloodLoad, control: &super::control::Control) -> Result<FloodReport> {
    if load.sources.is_empty() || load.rate == 0 || load.rate > RATE_MAX || load.duration_ms > DURATION_MAX_MS
    {
        return Err(LabError::Wrong(format!(
            "a flood needs client addresses, 1 to {RATE_MAX} packets a second and at most {DURATION_MAX_MS} \
             ms"
        )));
    }
    // With this protocol the IPv4 header is ours; the kernel adds its checksum and identification.
    let socket = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW))
        .map_err(std::io::Error::from)
        .tried(|| "a raw socket; the flood needs root".into())?;
    let total = load.rate * load.duration_ms / 1000;
    let begun = Instant::now();
    let mut report = FloodReport::default();
    let mut random = SplitMix64::seed_from_u64(load.seed);
    let mut chosen = (0, 0);
    for number in 0..total {
        if number % BATCH == 0 {
            if control.is_stopped() {
                break;
            }
            let due = begun + Duration::from_micros(number * 1_000_000 / load.rate);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        let is_second = load.of == FloodOf::Pairs && number % 2 == 1;
        if !is_second {
            chosen = (random.next_u64(), random.next_u64());
        }
        let (word, numbers) = chosen;
        let source = load.sources[usize::try_from(word >> 32).unwrap_or(0) % load.sources.len()];
        let port = PORTS.start + u16::try_from(word & 0xffff).unwrap_or(0) % (PORTS.end - PORTS.start);
        let from = SocketAddrV4::new(source, port);
        let packet = match load.of {
            FloodOf::Datagrams => datagram(from, load.target, numbers),
            FloodOf::Acks => tcp(from, load.target, numbers, ACK),
            FloodOf::Pairs if is_second => tcp(from, load.target, numbers.wrapping_add(1 << 32), ACK),
            FloodOf::Syns | FloodOf::Pairs => tcp(from, load.target, numbers, SYN),
        };
        match sendto(&socket, &packet, SendFlags::empty(), &load.target) {
            Ok(_) => {
                report.sent += 1;
                control.add_done(1);
            }
            Err(_) => report.refused += 1,
        }
    }
    report.elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(report)
}

/// TCP without data: sequence number in the upper half of `numbers`, acknowledgment in the lower.
fn tcp(from: SocketAddrV4, to: SocketAddrV4, numbers: u64, flags: u8) -> [u8; PACKET_BYTES] {
    let mut packet = datagram_of(TCP, from, to);
    packet[24..32].copy_from_slice(&numbers.to_be_bytes());
    packet[32] = 5 << 4;
    packet[33] = flags;
    packet[34..36].copy_from_slice(&1024_u16.to_be_bytes());
    with_checksum(packet, 36)
}

/// UDP with twelve bytes of data.
fn datagram(from: SocketAddrV4, to: SocketAddrV4, data: u64) -> [u8; PACKET_BYTES] {
    let mut packet = datagram_of(UDP, from, to);
    packet[24..26].copy_from_slice(&(PACKET_BYTES as u16 - 20).to_be_bytes());
    packet[28..36].copy_from_slice(&data.to_be_bytes());
    with_checksum(packet, 26)
}

/// The header of IPv4, and the ports.
fn datagram_of(protocol: u8, from: SocketAddrV4, to: SocketAddrV4) -> [u8; PACKET_BYTES] {
    let mut packet = [0_u8; PACKET_BYTES];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(PACKET_BYTES as u16).to_be_bytes());
    packet[6] = 0x40; // don't fragment
    packet[8] = 64;
    packet[9] = protocol;
    packet[12..16].copy_from_slice(&from.ip().octets());
    packet[16..20].copy_from_slice(&to.ip().octets());
    packet[20..22].copy_from_slice(&from.port().to_be_bytes());
    packet[22..24].copy_from_slice(&to.port().to_be_bytes());
    packet
}

/// Over the pseudo header: addresses, protocol, length.
fn with_checksum(mut packet: [u8; PACKET_BYTES], at: usize) -> [u8; PACKET_BYTES] {
    let sum = !folded_sum(&packet);
    // UDP's 0 means that there is none (RFC 768).
    let sum = if sum == 0 { u16::MAX } else { sum };
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn folded_sum(packet: &[u8; PACKET_BYTES]) -> u16 {
    let mut sum = PACKET_BYTES as u32 - 20 + u32::from(packet[9]);
    for pair in packet[12..].chunks_exact(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_right() {
        let (from, to) = ("10.0.1.100:1024".parse().unwrap(), "203.0.113.10:7000".parse().unwrap());
        for packet in [tcp(from, to, 0x0123_4567_89ab_cdef, ACK), datagram(from, to, 0x0123_4567_89ab_cdef)] {
            assert_eq!(folded_sum(&packet), 0xffff);
        }
    }
}
