//! Messages between machines as they are on the wire, read by the words of docs/state-sync.md and by nothing else.

use statesync::{MachineId, Member};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

/// UDP port of the messages.
pub(crate) const PORT: u16 = 7480;
const ETHERNET: usize = 14;
const UDP: usize = 8;
const HEADER: usize = 60;
const PIECE: usize = 20;

/// Of a heartbeat: header and note.
pub(crate) const HEARTBEAT_BYTES: u64 = 61;

/// A message from one machine to another.
#[derive(Debug)]
pub(crate) enum Message {
    /// Nothing but heartbeats.
    Heartbeat,
    /// Notes of other kinds as well: the kind of the first.
    Notes(u8),
    /// The beginning of a relayed frame of this client's.
    Frame(SocketAddr),
    /// A later piece of one.
    Piece,
}

/// The message in an Ethernet frame; `None` if it is not one.
pub(crate) fn read(frame: &[u8]) -> Option<Message> {
    let ip = frame.get(ETHERNET..)?;
    let header = usize::from(ip.first()? & 0xf) * 4;
    let datagram = ip.get(header..)?;
    if frame.get(12..14)? != [8, 0] || *ip.get(9)? != 17 || be16(datagram, 2)? != PORT {
        return None;
    }
    // Ethernet pads short frames.
    let payload = datagram.get(UDP..usize::from(be16(datagram, 4)?))?;
    assert_eq!(payload.get(..3)?, [0x47, 0x57, 2], "magic and version");
    let body = payload.get(HEADER..)?;
    match payload.get(3)? {
        1 => Some(match body.iter().find(|&&byte| byte != 1) {
            None => Message::Heartbeat,
            Some(_) => Message::Notes(*body.first()?),
        }),
        2 if be16(body, 16)? == 0 => Some(Message::Frame(client(body.get(PIECE..)?)?)),
        2 => Some(Message::Piece),
        kind => panic!("a message of kind {kind}"),
    }
}

/// Who sent the IPv4 packet in a frame.
fn client(frame: &[u8]) -> Option<SocketAddr> {
    let ip = frame.get(ETHERNET..)?;
    let header = usize::from(ip.first()? & 0xf) * 4;
    let source: [u8; 4] = ip.get(12..16)?.try_into().ok()?;
    Some(SocketAddrV4::new(Ipv4Addr::from(source), be16(ip.get(header..)?, 0)?).into())
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The members that sent messages, by the last byte of their addresses.
pub(crate) fn members(frames: &[Vec<u8>]) -> BTreeMap<u8, Member> {
    let mut members = BTreeMap::new();
    for frame in frames.iter().filter(|frame| read(frame).is_some()) {
        let from = frame[ETHERNET + 15];
        let header = &frame[ETHERNET + usize::from(frame[ETHERNET] & 0xf) * 4 + UDP..];
        let incarnation = u32::from_be_bytes(header[8..12].try_into().unwrap());
        members.insert(from, Member { machine: MachineId(header[4]), incarnation });
    }
    members
}

/// How many frames of each client were relayed.
pub(crate) fn relayed(frames: &[Vec<u8>]) -> BTreeMap<SocketAddr, u64> {
    let mut counts = BTreeMap::new();
    for frame in frames {
        if let Some(Message::Frame(client)) = read(frame) {
            *counts.entry(client).or_insert(0) += 1;
        }
    }
    counts
}

/// How many messages are heartbeats only, and what else there is.
pub(crate) fn heartbeats_and_others(frames: &[Vec<u8>]) -> (usize, BTreeMap<String, usize>) {
    let (mut heartbeats, mut others) = (0, BTreeMap::new());
    for message in frames.iter().filter_map(|frame| read(frame)) {
        let other = match message {
            Message::Heartbeat => {
                heartbeats += 1;
                continue;
            }
            Message::Notes(kind) => format!("notes, the first of kind {kind}"),
            Message::Frame(client) => format!("a frame of {client}"),
            Message::Piece => "a piece of a frame".into(),
        };
        *others.entry(other).or_insert(0) += 1;
    }
    (heartbeats, others)
}
