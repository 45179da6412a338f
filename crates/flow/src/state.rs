//! What is known of a flow, and how it is packed into 32 bits.

use wire::BackendId;

/// A flow's state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum State {
    /// TCP, one packet seen, or several SYNs. Untrusted.
    TcpNew = 0,
    /// TCP, at least three packets of which one followed the one before as its number says, and neither FIN nor RST.
    TcpEstablished = 1,
    /// TCP after RST.
    TcpClosing = 2,
    /// UDP, one packet seen. Untrusted.
    UdpNew = 3,
    /// UDP, at least two packets.
    Udp = 4,
    /// TCP, at least two packets, none of which has shown yet that their sender knows the connection. Untrusted.
    TcpHandshake = 5,
    /// TCP after FIN of the client. The server may go on for long (RFC 5382 REQ-5), but most often it is done.
    TcpHalfClosed = 6,
}

impl State {
    /// All states, by their number.
    pub const ALL: [State; 7] = [
        State::TcpNew,
        State::TcpEstablished,
        State::TcpClosing,
        State::UdpNew,
        State::Udp,
        State::TcpHandshake,
        State::TcpHalfClosed,
    ];

    /// Whether nothing shows yet that somebody answers at the flow's source: the flow counts against the untrusted quota,
    /// and may have to make room for another.
    pub const fn is_untrusted(self) -> bool {
        matches!(self, State::TcpNew | State::UdpNew | State::TcpHandshake)
    }

    /// Whether the flow is one of those that its backend carries now, as far as the client's packets tell.
    pub const fn is_open(self) -> bool {
        !matches!(self, State::TcpClosing | State::TcpHalfClosed)
    }

    /// Of a [`Word::kind`].
    #[expect(clippy::cast_possible_truncation, reason = "the low bits")]
    pub(crate) const fn of_kind(kind: usize) -> State {
        State::from_bits(kind as u32 & 7)
    }

    /// From the three bits of a [`Word`]; those never stored stand for `Udp`.
    const fn from_bits(bits: u32) -> State {
        match bits {
            0 => State::TcpNew,
            1 => State::TcpEstablished,
            2 => State::TcpClosing,
            3 => State::UdpNew,
            5 => State::TcpHandshake,
            6 => State::TcpHalfClosed,
            _ => State::Udp,
        }
    }
}

/// State bits that no flow has: they mark the word of a bucket that is no value.
pub(crate) const NO_STATE: u32 = 7;

/// An entry as look-up found it: 24 bytes, also as an `Option`. In which bucket it was found and what was there is kept inside,
/// so that [`Table::touch`](crate::Table::touch) need not search again, nor touch memory when nothing changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hit {
    /// Microseconds for which the flow has been idle at least; the true value is above it by less than 1/32 of
    /// the state's idle time.
    pub idle_us: u64,
    /// The flow's backend.
    pub backend: BackendId,
    pub(crate) word: Word,
    bucket: u32,
    /// Its state.
    pub state: State,
}

const _: () = assert!(size_of::<Option<Hit>>() == 24);

impl Hit {
    #[inline]
    pub(crate) const fn new(bucket: u32, word: Word, idle_us: u64) -> Hit {
        Hit { idle_us, backend: word.backend(), word, bucket, state: word.state() }
    }

    #[inline]
    pub(crate) const fn bucket(&self) -> u32 {
        self.bucket
    }
}

/// A slot of a bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) bucket: u32,
    pub(crate) slot: u8,
}

/// An entry's value: backend in bits 31..12, timing set in 11, state in 10..8, epoch in 7..0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Word(pub u32);

impl Word {
    /// Packs. Of the backend id the low 20 bits are kept, which are all of it up to [`BackendId::MAX`].
    #[inline]
    pub const fn new(backend: BackendId, state: State, timing: TimingSet, epoch: u8) -> Word {
        Word((backend.0 << 12) | (timing.0 as u32) << 11 | (state as u32) << 8 | epoch as u32)
    }

    /// This word with a backend, where it has 0.
    #[inline]
    pub(crate) const fn with_backend(self, backend: BackendId) -> Word {
        Word(self.0 | backend.0 << 12)
    }

    /// The backend.
    #[inline]
    pub const fn backend(self) -> BackendId {
        BackendId(self.0 >> 12)
    }

    /// The state.
    #[inline]
    pub const fn state(self) -> State {
        State::from_bits(self.0 >> 8 & 7)
    }

    /// Whether the state is [untrusted](State::is_untrusted).
    #[inline]
    pub const fn is_untrusted(self) -> bool {
        const UNTRUSTED: u32 =
            1 << State::TcpNew as u32 | 1 << State::UdpNew as u32 | 1 << State::TcpHandshake as u32;
        UNTRUSTED >> (self.0 >> 8 & 7) & 1 == 1
    }

    /// State and timing set together: which idle time the epoch counts in, as an index below [`Word::KINDS`].
    #[inline]
    pub const fn kind(self) -> usize {
        (self.0 >> 8) as usize % Word::KINDS
    }

    /// Number of different [`kind`](Word::kind)s.
    pub const KINDS: usize = 16;

    /// Which of the two sets of idle times the epoch counts in.
    #[inline]
    pub const fn timing(self) -> TimingSet {
        TimingSet(self.0 >> 11 & 1 == 1)
    }

    /// When it was last used, in quanta of its state, modulo 256.
    #[inline]
    pub const fn epoch(self) -> u8 {
        self.0.to_le_bytes()[0]
    }
}

/// Names one of two sets of idle times: the one in force, and the one before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TimingSet(pub bool);

impl TimingSet {
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }

    pub(crate) const fn other(self) -> TimingSet {
        TimingSet(!self.0)
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_keeps_every_field() {
        for backend in [0, 1, 12_345, BackendId::MAX] {
            for state in State::ALL {
                for timing in [TimingSet(false), TimingSet(true)] {
                    for epoch in [0, 1, 127, 255] {
                        let word = Word::new(BackendId(backend), state, timing, epoch);
                        assert_eq!(
                            (word.backend(), word.state(), word.timing(), word.epoch()),
                            (BackendId(backend), state, timing, epoch)
                        );
                        assert_eq!(word.is_untrusted(), state.is_untrusted());
                    }
                }
            }
        }
    }
}
