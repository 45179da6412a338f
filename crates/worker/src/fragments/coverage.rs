//! Which bytes of a datagram have passed. When all have, the datagram is over, and what comes after that under its
//! identification belongs to another one (RFC 4963 section 2: the 16 bits of IPv4 are used again within milliseconds).

use wire::parse::{Fragment, Parsed};

/// Ranges remembered that do not touch each other: so many pieces may be missing in between. With more, the end of the datagram
/// is not noticed, and its entry stays until it times out.
const RANGES_MAX: usize = 4;

/// What has passed, in units of eight bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Coverage {
    /// From and to; no two touch each other, and empty ones are free.
    ranges: [(u16, u16); RANGES_MAX],
    /// Where the last piece ends.
    end: Option<u16>,
}

impl Coverage {
    /// Adds a piece. Of a first piece with IPv6 extension headers behind the fragment header only what follows these is added.
    pub(crate) fn add(&mut self, parsed: &Parsed) {
        let Some(Fragment { offset, more, .. }) = parsed.fragment else { return };
        let mut from = offset / 8;
        let mut to = from + parsed.end.saturating_sub(parsed.l4).div_ceil(8);
        if !more {
            self.end = Some(to);
        }
        for range in self.ranges.iter_mut().filter(|range| range.0 < range.1) {
            if range.0 <= to && from <= range.1 {
                (from, to) = (from.min(range.0), to.max(range.1));
                *range = (0, 0);
            }
        }
        if let Some(free) = self.ranges.iter_mut().find(|range| range.0 == range.1) {
            *free = (from, to);
        }
    }

    /// Whether all of the datagram has passed.
    pub(crate) fn is_complete(&self) -> bool {
        self.end.is_some_and(|end| self.ranges.iter().any(|range| range.0 == 0 && range.1 >= end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::parse::Kind;

    fn piece(offset: u16, len: u16, more: bool) -> Parsed {
        Parsed {
            l3: 14,
            l4: 34,
            end: 34 + len,
            sport: 0,
            dport: 0,
            protocol: 17,
            v6: false,
            tos: 0,
            dont_fragment: false,
            fragment: Some(Fragment { id: 1, offset, more }),
            kind: Kind::LaterFragment,
        }
    }

    /// Adds pieces of one datagram; gives after how many it was complete.
    fn complete_after(pieces: &[Parsed]) -> Option<usize> {
        let mut coverage = Coverage::default();
        for (index, piece) in pieces.iter().enumerate() {
            coverage.add(piece);
            if coverage.is_complete() {
                return Some(index + 1);
            }
        }
        None
    }

    #[test]
    fn a_datagram_is_complete_with_its_last_missing_piece_in_any_order() {
        let pieces: Vec<Parsed> =
            (0..5).map(|n| piece(n * 800, if n < 4 { 800 } else { 13 }, n < 4)).collect();
        let mut order = [0, 1, 2, 3, 4];
        // All 120 orders, by Heap's algorithm.
        fn each(order: &mut [usize; 5], k: usize, check: &mut impl FnMut(&[usize; 5])) {
            if k <= 1 {
                return check(order);
            }
            for i in 0..k {
                each(order, k - 1, check);
                order.swap(if k.is_multiple_of(2) { i } else { 0 }, k - 1);
            }
        }
        let mut count = 0;
        each(&mut order, 5, &mut |order| {
            let shuffled: Vec<Parsed> = order.iter().map(|&n| pieces[n]).collect();
            assert_eq!(complete_after(&shuffled), Some(5), "{order:?}");
            count += 1;
        });
        assert_eq!(count, 120);
    }

    #[test]
    fn a_piece_that_comes_twice_completes_nothing() {
        let (first, second, last) = (piece(0, 800, true), piece(800, 800, true), piece(1600, 800, false));
        assert_eq!(complete_after(&[first, last, last, first]), None);
        assert_eq!(complete_after(&[first, first, second, second]), None);
        assert_eq!(complete_after(&[first, last, last, second]), Some(4));
    }

    #[test]
    fn more_gaps_than_are_remembered_leave_it_open() {
        let pieces: Vec<Parsed> = (0..16).map(|n| piece(n * 8, 8, n < 15)).collect();
        let even = pieces.iter().step_by(2);
        let odd = pieces.iter().skip(1).step_by(2);
        let shuffled: Vec<Parsed> = even.chain(odd).copied().collect();
        assert_eq!(complete_after(&shuffled), None);
        // The longest datagram.
        let longest =
            [piece(0, 8, true), piece(65_528, 7, false), piece(8, 65_488, true), piece(65_496, 32, true)];
        assert_eq!(complete_after(&longest), Some(4));
    }
}
