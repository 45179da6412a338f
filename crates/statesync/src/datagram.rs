//! Notes and pieces of relayed frames as UDP payloads between machines.
//!
//! All numbers are big-endian.
//!
//! | offset | bytes | header |
//! |---|---|---|
//! | 0 | 2 | magic `0x4757` |
//! | 2 | 1 | version, 2 |
//! | 3 | 1 | kind: 1 notes, 2 piece of a frame |
//! | 4 | 1 | sender's machine |
//! | 5 | 1 | sender's core |
//! | 6 | 1 | receiver's machine |
//! | 7 | 1 | 0 |
//! | 8 | 4 | sender's incarnation |
//! | 12 | 4 | receiver's incarnation, as the sender knows it |
//! | 16 | 4 | sender's epoch |
//! | 20 | 8 | sender's clock when it wrote this, microseconds |
//! | 28 | 8 | number of the datagram at its sender's core, from 1 |
//! | 36 | 8 | header's tag: SipHash-2-4 under the key of the tags over the 36 bytes before |
//! | 44 | 16 | tag: SipHash-2-4 with 128 bits under the same key over everything else |
//!
//! The header has a tag of its own because its cost is that of a few bytes: who cannot make one cannot make anybody compute the tag of
//! the whole. Both are as Aumasson and Bernstein define them ("SipHash: a fast short-input PRF", 2012); the two variants
//! begin from other states, so that a tag of the one is none of the other. The key is derived by `control` (see
//! `cluster::tags`).
//!
//! | kind of note | bytes behind the number of the kind |
//! |---|---|
//! | 1 heartbeat | – |
//! | 2 state | sequence 8, key, backend 4, why 1 (bit 7: guess), age in microseconds 8 |
//! | 3 push | sequence 8, key, backend 4 |
//! | 4 acknowledge | sequence 8, core 1 |
//! | 5 answer | key, backend 4, guess 1, asked 8, core 1 |
//!
//! A key is `0` and the narrow key's 8 bytes, or `1`, the source's 16, the middle's 8 and the port's 2. A piece is: asker's machine 1, core 1, tick 8,
//! hops 1, 0, number of the frame 4, offset 2, length of the frame 2, and its bytes.

use crate::members::{MachineId, Member};
use crate::note::{Answer, Lasting, Note, Origin, Question, Sequence, Statement, Why};
use core::hash::Hasher;
use siphasher::sip128::{Hasher128, SipHasher24};
use wire::key::WideKey;
use wire::{BackendId, CoreId, FlowKey, Tick};

const MAGIC: [u8; 2] = 0x4757_u16.to_be_bytes();
const VERSION: u8 = 2;
/// Bytes that the header says something in.
const SAID: usize = 36;
/// Bytes before the tag.
const UNTAGGED: usize = SAID + 8;
/// Bytes of the header.
pub const HEADER_LEN: usize = UNTAGGED + 16;
/// Bytes in front of a piece's part of the frame.
pub const PIECE_LEN: usize = 20;
/// Longest encoding of a note.
pub const NOTE_LEN_MAX: usize = 1 + 8 + 27 + 4 + 1 + 8;

/// What a datagram says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Header {
    /// Who sent it.
    pub from: Origin,
    /// To whom.
    pub to: Member,
    /// The sender's epoch.
    pub epoch: u32,
    /// The sender's clock when it wrote this.
    pub sent: Tick,
    /// Counts the datagrams of the sender's core, from 1.
    pub number: u64,
}

/// Keys of the tags.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct ClusterKeys {
    /// Of our own datagrams, and of what is taken.
    pub own: [u8; 16],
    /// What is taken as well, while the cluster changes from one key to another.
    pub accepted: Option<[u8; 16]>,
}

impl core::fmt::Debug for ClusterKeys {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

/// A part of a relayed frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece<'a> {
    /// Who asks.
    pub question: Question,
    /// Names the frame at the sender's core.
    pub frame: u32,
    /// Where the part begins.
    pub offset: u16,
    /// Length of the whole frame.
    pub total: u16,
    /// The part.
    pub bytes: &'a [u8],
}

/// What is in a datagram.
#[derive(Clone, Debug)]
pub enum Body<'a> {
    /// Notes; see [`Notes`].
    Notes(Notes<'a>),
    /// A part of a frame.
    Piece(Piece<'a>),
}

/// Why a datagram was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unreadable {
    /// Not ours, or of another version.
    #[error("no datagram of state synchronisation, or another version of it")]
    Unknown,
    /// Too short for what it says.
    #[error("a datagram of state synchronisation that is cut off or malformed")]
    Malformed,
    /// The header's tag is wrong.
    #[error(
        "a datagram of state synchronisation with a wrong tag: another cluster_key or sync_key, or forged"
    )]
    Header,
    /// The header is right, and what is behind it is not.
    #[error("a datagram of state synchronisation that was changed on its way")]
    Tag,
}

fn header_tag(key: &[u8; 16], said: &[u8]) -> [u8; 8] {
    let mut hasher = siphasher::sip::SipHasher24::new_with_key(key);
    hasher.write(said);
    hasher.finish().to_be_bytes()
}

fn tag(key: &[u8; 16], header: &[u8], body: &[u8]) -> [u8; 16] {
    let mut hasher = SipHasher24::new_with_key(key);
    hasher.write(header);
    hasher.write(body);
    hasher.finish128().as_bytes()
}

/// Writes a datagram into a buffer: a header, then notes while they fit, or one piece, then the tag.
#[derive(Debug)]
pub struct DatagramWriter<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl<'a> DatagramWriter<'a> {
    /// A datagram of notes. `None`: the buffer is smaller than a header.
    pub fn notes(bytes: &'a mut [u8], header: &Header) -> Option<DatagramWriter<'a>> {
        DatagramWriter::begin(bytes, header, 1)
    }

    fn begin(bytes: &'a mut [u8], header: &Header, kind: u8) -> Option<DatagramWriter<'a>> {
        let mut writer = DatagramWriter { bytes, at: 0 };
        writer.put(&MAGIC)?;
        let from = header.from;
        writer.put(&[VERSION, kind, from.member.machine.0, from.core.0, header.to.machine.0, 0])?;
        writer.put(&from.member.incarnation.to_be_bytes())?;
        writer.put(&header.to.incarnation.to_be_bytes())?;
        writer.put(&header.epoch.to_be_bytes())?;
        writer.put(&header.sent.0.to_be_bytes())?;
        writer.put(&header.number.to_be_bytes())?;
        writer.put(&[0; HEADER_LEN - SAID])?;
        Some(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.at.checked_add(bytes.len())?;
        let room = self.bytes.get_mut(self.at..end)?;
        for (to, from) in room.iter_mut().zip(bytes) {
            *to = *from;
        }
        self.at = end;
        Some(())
    }

    /// Adds a note. False: it does not fit, and nothing was added.
    pub fn note(&mut self, note: &Note) -> bool {
        let at = self.at;
        let written = self.try_note(note).is_some();
        if !written {
            self.at = at;
        }
        written
    }

    fn try_note(&mut self, note: &Note) -> Option<()> {
        match note {
            Note::Heartbeat => self.put(&[1]),
            Note::Lasting(sequence, Lasting::State(statement)) => {
                self.put(&[2])?;
                self.put(&sequence.0.to_be_bytes())?;
                self.key(&statement.key)?;
                self.put(&statement.backend.0.to_be_bytes())?;
                self.put(&[statement.why as u8 | u8::from(statement.guess) << 7])?;
                self.put(&statement.age_us.to_be_bytes())
            }
            Note::Lasting(sequence, Lasting::Push { key, backend }) => {
                self.put(&[3])?;
                self.put(&sequence.0.to_be_bytes())?;
                self.key(key)?;
                self.put(&backend.0.to_be_bytes())
            }
            Note::Acknowledge { sequence, core } => {
                self.put(&[4])?;
                self.put(&sequence.0.to_be_bytes())?;
                self.put(&[core.0])
            }
            Note::Answer(answer) => {
                self.put(&[5])?;
                self.key(&answer.key)?;
                self.put(&answer.backend.0.to_be_bytes())?;
                self.put(&[u8::from(answer.guess)])?;
                self.put(&answer.asked_us.to_be_bytes())?;
                self.put(&[answer.core.0])
            }
        }
    }

    fn key(&mut self, key: &FlowKey) -> Option<()> {
        match key {
            FlowKey::Narrow(key) => {
                self.put(&[0])?;
                self.put(&key.to_be_bytes())
            }
            FlowKey::Wide(key) => {
                self.put(&[1])?;
                self.put(&key.src[0].to_be_bytes())?;
                self.put(&key.src[1].to_be_bytes())?;
                self.put(&key.middle.to_be_bytes())?;
                self.put(&key.dport.to_be_bytes())
            }
        }
    }

    /// Whether there is anything but the header.
    pub fn is_empty(&self) -> bool {
        self.at <= HEADER_LEN
    }

    /// Writes the tags and gives the length of the datagram, bytes.
    pub fn finish(self, key: &[u8; 16]) -> usize {
        if let Some((said, rest)) = self.bytes.split_at_mut_checked(SAID)
            && let Some(place) = rest.first_chunk_mut::<8>()
        {
            *place = header_tag(key, said);
        }
        if let Some((header, rest)) =
            self.bytes.get_mut(..self.at).and_then(|all| all.split_at_mut_checked(UNTAGGED))
            && let Some((place, body)) = rest.split_first_chunk_mut::<16>()
        {
            *place = tag(key, header, body);
        }
        self.at
    }
}

/// Writes a piece and gives the length of the datagram. `None`: it does not fit.
pub fn write_piece(bytes: &mut [u8], header: &Header, piece: &Piece<'_>, key: &[u8; 16]) -> Option<usize> {
    let mut writer = DatagramWriter::begin(bytes, header, 2)?;
    let question = piece.question;
    writer.put(&[question.machine.0, question.core.0])?;
    writer.put(&question.asked_us.to_be_bytes())?;
    writer.put(&[question.hops, 0])?;
    writer.put(&piece.frame.to_be_bytes())?;
    writer.put(&piece.offset.to_be_bytes())?;
    writer.put(&piece.total.to_be_bytes())?;
    writer.put(piece.bytes)?;
    Some(writer.finish(key))
}

/// Reads a datagram: tags, header, and what of the body must be right at once.
///
/// # Errors
/// See [`Unreadable`]. Never panics, whatever the bytes are.
pub fn read<'a>(bytes: &'a [u8], key: &[u8; 16]) -> Result<(Header, Body<'a>), Unreadable> {
    let keys = ClusterKeys { own: *key, accepted: None };
    let sealed = SealedDatagram::read(bytes)?;
    let proved = sealed.prove(&keys).ok_or(Unreadable::Header)?;
    Ok((sealed.header, proved.open()?))
}

/// A datagram of which nothing is proved yet. Who reads one looks at the claims first, which costs nothing, then proves the
/// header, and only then opens the whole: the tag costs some nanoseconds a byte, and a stranger must not make us compute it by
/// sending whatever comes to his mind.
#[derive(Clone, Debug)]
pub struct SealedDatagram<'a> {
    header: Header,
    kind: u8,
    bytes: &'a [u8],
}

impl<'a> SealedDatagram<'a> {
    /// Reads what a datagram says of itself.
    ///
    /// # Errors
    /// [`Unreadable::Unknown`], [`Unreadable::Malformed`]
    pub fn read(bytes: &'a [u8]) -> Result<SealedDatagram<'a>, Unreadable> {
        if bytes.len() < HEADER_LEN {
            return Err(Unreadable::Malformed);
        }
        let mut reader = FieldReader { bytes };
        if reader.take::<2>().ok_or(Unreadable::Malformed)? != MAGIC {
            return Err(Unreadable::Unknown);
        }
        let [version, kind, machine, core, to, reserved] = reader.take().ok_or(Unreadable::Malformed)?;
        if version != VERSION || reserved != 0 {
            return Err(Unreadable::Unknown);
        }
        let parsed = (|| {
            let incarnation = reader.u32()?;
            let to_incarnation = reader.u32()?;
            Some(Header {
                from: Origin {
                    member: Member { machine: MachineId(machine), incarnation },
                    core: CoreId(core),
                },
                to: Member { machine: MachineId(to), incarnation: to_incarnation },
                epoch: reader.u32()?,
                sent: Tick(reader.u64()?),
                number: reader.u64()?,
            })
        })();
        Ok(SealedDatagram { header: parsed.ok_or(Unreadable::Malformed)?, kind, bytes })
    }

    /// What it claims.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Whether the header was written by who has one of the keys.
    pub fn prove<'k>(&self, keys: &'k ClusterKeys) -> Option<Proved<'a, 'k>> {
        let (said, rest) = self.bytes.split_at_checked(SAID)?;
        let found = rest.first_chunk::<8>()?;
        let has_made = |key: &&[u8; 16]| header_tag(key, said) == *found;
        let key = [Some(&keys.own), keys.accepted.as_ref()].into_iter().flatten().find(has_made)?;
        Some(Proved { kind: self.kind, bytes: self.bytes, key })
    }
}

/// A datagram of which the header is proved.
#[derive(Clone, Debug)]
pub struct Proved<'a, 'k> {
    kind: u8,
    bytes: &'a [u8],
    key: &'k [u8; 16],
}

impl<'a> Proved<'a, '_> {
    /// What is in it, if that is proved as well.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn open(&self) -> Result<Body<'a>, Unreadable> {
        let (header_bytes, rest) = self.bytes.split_at_checked(UNTAGGED).ok_or(Unreadable::Malformed)?;
        let (found, body) = rest.split_first_chunk::<16>().ok_or(Unreadable::Malformed)?;
        if tag(self.key, header_bytes, body) != *found {
            return Err(Unreadable::Tag);
        }
        match self.kind {
            1 => Ok(Body::Notes(Notes { reader: FieldReader { bytes: body } })),
            2 => Ok(Body::Piece(piece(body).ok_or(Unreadable::Malformed)?)),
            _ => Err(Unreadable::Unknown),
        }
    }
}

fn piece(body: &[u8]) -> Option<Piece<'_>> {
    let mut reader = FieldReader { bytes: body };
    let [machine, core] = reader.take()?;
    let asked_us = reader.u64()?;
    let [hops, _] = reader.take()?;
    let frame = reader.u32()?;
    let [offset, total] = [reader.u16()?, reader.u16()?];
    let bytes = reader.bytes;
    if bytes.is_empty() || usize::from(offset) + bytes.len() > usize::from(total) {
        return None;
    }
    let question = Question { machine: MachineId(machine), core: CoreId(core), asked_us, hops };
    Some(Piece { question, frame, offset, total, bytes })
}

/// The notes of a datagram, one after the other; ends early, with [`Notes::is_malformed`], where one is not understood.
#[derive(Clone, Debug)]
pub struct Notes<'a> {
    reader: FieldReader<'a>,
}

impl Notes<'_> {
    /// Whether bytes are left that are no note. Ask it at the end.
    pub fn is_malformed(&self) -> bool {
        !self.reader.bytes.is_empty()
    }
}

impl Iterator for Notes<'_> {
    type Item = Note;

    fn next(&mut self) -> Option<Note> {
        let mut reader = self.reader.clone();
        let note = reader.note()?;
        self.reader = reader;
        Some(note)
    }
}

#[derive(Clone, Debug)]
struct FieldReader<'a> {
    bytes: &'a [u8],
}

impl FieldReader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.bytes.split_first_chunk::<N>()?;
        self.bytes = rest;
        Some(*taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn backend(&mut self) -> Option<BackendId> {
        self.u32().map(BackendId).filter(|id| id.0 <= BackendId::MAX)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.take()? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    /// A key that some flow can have: its service is not 0.
    fn key(&mut self) -> Option<FlowKey> {
        let key = if self.flag()? {
            let src = [self.u64()?, self.u64()?];
            FlowKey::Wide(WideKey { src, middle: self.u64()?, dport: self.u16()? })
        } else {
            FlowKey::Narrow(self.u64()?)
        };
        (key.service().0 != 0).then_some(key)
    }

    fn note(&mut self) -> Option<Note> {
        let [kind] = self.take()?;
        Some(match kind {
            1 => Note::Heartbeat,
            2 => {
                let sequence = Sequence(self.u64()?);
                let (key, backend) = (self.key()?, self.backend()?);
                let [why] = self.take()?;
                let (guess, why) = (why & 0x80 != 0, Why::from_number(why & 0x7f)?);
                let statement = Statement { key, backend, guess, age_us: self.u64()?, why };
                Note::Lasting(sequence, Lasting::State(statement))
            }
            3 => {
                let sequence = Sequence(self.u64()?);
                Note::Lasting(sequence, Lasting::Push { key: self.key()?, backend: self.backend()? })
            }
            4 => {
                let sequence = Sequence(self.u64()?);
                let [core] = self.take()?;
                Note::Acknowledge { sequence, core: CoreId(core) }
            }
            5 => {
                let (key, backend) = (self.key()?, self.backend()?);
                let (guess, asked_us) = (self.flag()?, self.u64()?);
                let [core] = self.take()?;
                Note::Answer(Answer { key, backend, guess, asked_us, core: CoreId(core) })
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests;
