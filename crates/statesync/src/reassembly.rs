//! Relayed frames that do not fit one datagram: cut into pieces by us, put together by us, so that no IP fragment is ever made.
//!
//! A bounded store: few frames at once, a short time each. What is not complete in time is forgotten; the client sends it again.

use crate::datagram::Piece;
use crate::note::{Origin, Question};
use wire::Tick;

/// Frames that are put together at the same time.
const FRAMES: usize = 16;
/// Longest frame, bytes.
pub const FRAME_LEN_MAX: usize = 9_216;
/// Time a frame may take to come together, microseconds.
const PATIENCE_US: u64 = 50_000;
/// Pieces are counted in units of so many bytes, a bit each.
const UNIT: usize = 64;
const UNITS: usize = FRAME_LEN_MAX / UNIT;

/// The parts of a frame's pieces but the last must be multiples of this many bytes.
pub const PART_UNIT: usize = UNIT;

struct Partial {
    from: Origin,
    frame: u32,
    total: u16,
    since: Tick,
    seen: [u64; UNITS.div_ceil(64)],
    missing: usize,
    bytes: Box<[u8]>,
}

/// The store.
pub struct Reassembly {
    partial: Vec<Partial>,
    next: usize,
}

impl core::fmt::Debug for Reassembly {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Pieces").finish_non_exhaustive()
    }
}

impl Default for Reassembly {
    fn default() -> Reassembly {
        Reassembly::new()
    }
}

impl Reassembly {
    /// An empty store: 147 kB.
    pub fn new() -> Reassembly {
        let none = || Partial {
            from: Origin::default(),
            frame: 0,
            total: 0,
            since: Tick(0),
            seen: [0; UNITS.div_ceil(64)],
            missing: 0,
            bytes: vec![0; FRAME_LEN_MAX].into(),
        };
        Reassembly { partial: (0..FRAMES).map(|_| none()).collect(), next: 0 }
    }

    /// Takes in a piece; gives the frame when it was the last one missing. A frame in one piece needs no room here.
    pub fn add<'a>(&'a mut self, from: Origin, piece: &Piece<'a>, now: Tick) -> Option<(Question, &'a [u8])> {
        let (offset, total) = (usize::from(piece.offset), usize::from(piece.total));
        if offset == 0 && piece.bytes.len() == total {
            return Some((piece.question, piece.bytes));
        }
        let end = offset + piece.bytes.len();
        let is_aligned = offset.is_multiple_of(UNIT) && (end == total || end.is_multiple_of(UNIT));
        if total > FRAME_LEN_MAX || end > total || !is_aligned {
            return None;
        }
        let at = self.place(from, piece, now)?;
        let of = self.partial.get_mut(at)?;
        for (to, from) in of.bytes.get_mut(offset..end)?.iter_mut().zip(piece.bytes) {
            *to = *from;
        }
        for unit in offset / UNIT..end.div_ceil(UNIT) {
            let word = of.seen.get_mut(unit / 64)?;
            if *word >> (unit % 64) & 1 == 0 {
                *word |= 1 << (unit % 64);
                of.missing -= 1;
            }
        }
        if of.missing > 0 {
            return None;
        }
        of.total = 0;
        Some((piece.question, of.bytes.get(..total)?))
    }

    /// The frame's place, or a free one, or the oldest one's if its time is over.
    fn place(&mut self, from: Origin, piece: &Piece<'_>, now: Tick) -> Option<usize> {
        let is_it = |of: &Partial| {
            of.total == piece.total
                && of.frame == piece.frame
                && of.from == from
                && now.since_us(of.since) <= PATIENCE_US
        };
        if let Some(at) = self.partial.iter().position(is_it) {
            return Some(at);
        }
        let is_free = |of: &Partial| of.total == 0 || now.since_us(of.since) > PATIENCE_US;
        let at = (0..self.partial.len())
            .map(|i| (self.next + i) % FRAMES)
            .find(|&at| self.partial.get(at).is_some_and(is_free))?;
        self.next = (at + 1) % FRAMES;
        let of = self.partial.get_mut(at)?;
        of.from = from;
        of.frame = piece.frame;
        of.total = piece.total;
        of.since = now;
        of.seen = [0; UNITS.div_ceil(64)];
        of.missing = usize::from(piece.total).div_ceil(UNIT);
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::{PATIENCE_US, Reassembly, UNIT};
    use crate::datagram::Piece;
    use crate::members::MachineId;
    use crate::note::{Origin, Question};
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};
    use wire::{CoreId, Tick};

    const QUESTION: Question = Question { machine: MachineId(1), core: CoreId(2), asked_us: 3, hops: 1 };

    fn cut(frame: &[u8], number: u32, part: usize) -> Vec<Piece<'_>> {
        frame
            .chunks(part)
            .enumerate()
            .map(|(i, bytes)| Piece {
                question: QUESTION,
                frame: number,
                offset: u16::try_from(i * part).expect("short"),
                total: u16::try_from(frame.len()).expect("short"),
                bytes,
            })
            .collect()
    }

    proptest! {
        /// In any order, and whatever comes twice, a frame comes out once, as it was.
        #[test]
        fn frames_come_together(
            frame in prop::collection::vec(any::<u8>(), 1..9_216), units in 1_usize..40, order in any::<u64>(), twice in any::<u8>(),
        ) {
            let mut pieces = cut(&frame, 5, units * UNIT);
            let extra = pieces[usize::from(twice) % pieces.len()];
            if pieces.len() > 1 {
                pieces.insert(0, extra);
            }
            let len = pieces.len();
            for i in (1..len).rev() {
                let other = usize::try_from((order ^ (i as u64).wrapping_mul(0x9e37_79b9)) % (i as u64 + 1)).expect("small");
                pieces.swap(i, other);
            }
            let (mut store, mut out) = (Reassembly::new(), Vec::new());
            for piece in &pieces {
                if let Some((question, whole)) = store.add(Origin::default(), piece, Tick(1)) {
                    prop_assert_eq!(question, QUESTION);
                    out.push(whole.to_vec());
                }
            }
            prop_assert_eq!(out, vec![frame]);
        }
    }

    #[test]
    fn a_full_store_has_room_again_in_time() {
        let frame = vec![7; 2 * UNIT];
        let mut store = Reassembly::new();
        for number in 0..40 {
            assert!(store.add(Origin::default(), &cut(&frame, number, UNIT)[0], Tick(1)).is_none());
        }
        let last = cut(&frame, 99, UNIT);
        let late = Tick(PATIENCE_US + 2);
        assert!(store.add(Origin::default(), &last[0], late).is_none());
        assert!(store.add(Origin::default(), &last[1], late).is_some());
        // Of a frame whose time was over nothing is left to be mixed with.
        assert!(store.add(Origin::default(), &cut(&frame, 0, UNIT)[1], late).is_none());
    }

    #[test]
    fn pieces_that_do_not_fit_are_ignored() {
        let mut store = Reassembly::new();
        let bytes = [1; UNIT];
        for (offset, total) in [(1, 1_000), (64, 9_300), (960, 1_000)] {
            let piece = Piece { question: QUESTION, frame: 1, offset, total, bytes: &bytes };
            assert!(store.add(Origin::default(), &piece, Tick(1)).is_none());
        }
        prop_free(&mut store);
    }

    fn prop_free(store: &mut Reassembly) {
        let frame = vec![9; 2 * UNIT];
        let all = cut(&frame, 1, UNIT);
        assert!(store.add(Origin::default(), &all[0], Tick(1)).is_none());
        assert_eq!(
            store.add(Origin::default(), &all[1], Tick(1)).map(|(_, b)| b.to_vec()),
            Some(frame.clone())
        );
    }
}
