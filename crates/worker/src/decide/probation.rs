//! TCP flows whose client has not shown yet that it hears the server: the number of the last packet of each, so that the next
//! one can be held against it.
//!
//! With direct server return a client is seen alone. What a spoofed source cannot show without effort is a packet that goes on
//! where the one before ended; so a flow is trusted when at least three packets were seen and one after the second goes on so. The
//! numbers are kept in a table of fixed size that forgets at will: a flow whose number is lost, during a flood for example, waits for
//! one packet more, and its packets are steered all the same.
//!
//! There is no shortest time between two packets: a client's ACK and its first data often come in one burst.

use wire::Tick;

/// Lines of the table, a power of two: 256 KiB.
const LINES: usize = 4096;
/// Flows of a line: 16 bytes each.
const WAYS: usize = 4;

/// How far a packet may be ahead of the one before: the largest segment that reaches a receiver which merges segments (64 KiB), beyond
/// what a client sends before its first acknowledgement (RFC 6928: ten segments).
const AHEAD_MAX: u32 = 1 << 16;

/// The last packet of a flow.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    /// The flow's hash.
    flow: u64,
    /// Its sequence number (RFC 9293 3.4).
    number: u32,
    /// When, milliseconds, modulo 2³².
    at_ms: u32,
}

/// Those that share a cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct WatchLine([Last; WAYS]);

/// See the module. O(1).
#[derive(Debug)]
pub(crate) struct Probation {
    lines: Box<[WatchLine]>,
    /// Whose place a new flow takes: no order in which flows come back keeps one of them out for ever.
    turn: usize,
}

impl Probation {
    pub(crate) fn new() -> Probation {
        Probation { lines: vec![WatchLine::default(); LINES].into(), turn: 0 }
    }

    /// Whether a packet of this flow was noted, not longer than `within_us` ago.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "an index below a table's length; milliseconds modulo 2^32"
    )]
    pub(crate) fn was_noted(&self, flow: u64, now: Tick, within_us: u64) -> bool {
        let Some(WatchLine(line)) = self.lines.get((flow >> 7) as usize % LINES) else { return false };
        let passed_us = |last: &Last| u64::from(((now.0 / 1000) as u32).wrapping_sub(last.at_ms)) * 1000;
        line.iter().any(|last| last.flow == flow && passed_us(last) <= within_us)
    }

    /// Notes a packet of the flow with this (seeded) hash, and tells whether it goes on where the last one ended, not longer than
    /// `within_us` ago.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "an index below a table's length; milliseconds modulo 2^32"
    )]
    pub(crate) fn follows(&mut self, flow: u64, number: u32, now: Tick, within_us: u64) -> bool {
        let at_ms = (now.0 / 1000) as u32;
        let Some(WatchLine(line)) = self.lines.get_mut((flow >> 7) as usize % LINES) else { return false };
        let way = line.iter().position(|last| last.flow == flow).unwrap_or_else(|| {
            self.turn = self.turn.wrapping_add(1);
            self.turn.wrapping_mul(0x9e37_79b9) >> 20 & (WAYS - 1)
        });
        let Some(last) = line.get_mut(way) else { return false };
        let before = core::mem::replace(last, Last { flow, number, at_ms });
        before.flow == flow
            && number.wrapping_sub(before.number) < AHEAD_MAX
            && u64::from(at_ms.wrapping_sub(before.at_ms)) * 1000 <= within_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_follows_the_one_that_its_number_goes_on_from() {
        const SECOND: u64 = 1_000_000;
        let mut probation = Probation::new();
        let mut follows = |flow, number, at_us| probation.follows(flow, number, Tick(at_us), 30 * SECOND);
        assert!(!follows(1 << 40, 100, SECOND), "the first");
        assert!(follows(1 << 40, 100, SECOND), "an acknowledgement and its data, in one burst");
        assert!(follows(1 << 40, 100 + AHEAD_MAX - 1, 2 * SECOND));
        assert!(!follows(1 << 40, 99, 3 * SECOND), "a number from before");
        assert!(!follows(1 << 40, 99 + AHEAD_MAX, 4 * SECOND), "one from far ahead");
        assert!(!follows(1 << 40, 99 + AHEAD_MAX, 35 * SECOND), "too late");
        assert!(!follows(2 << 40, u32::MAX, 35 * SECOND));
        assert!(follows(2 << 40, 5, 36 * SECOND), "numbers wrap");
    }

    #[test]
    fn a_flow_was_noted_for_a_while() {
        let mut probation = Probation::new();
        assert!(!probation.was_noted(1 << 40, Tick(5_000_000), u64::MAX), "nothing was");
        probation.follows(1 << 40, 7, Tick(5_000_000), 1);
        assert!(probation.was_noted(1 << 40, Tick(7_000_000), 2_000_000));
        assert!(!probation.was_noted(1 << 40, Tick(7_001_000), 2_000_000), "too long ago");
        assert!(!probation.was_noted(2 << 40, Tick(5_000_000), 2_000_000), "another flow");
    }

    /// More flows of one line than it has room for, one packet of each after the other: each has its turn.
    #[test]
    fn no_flow_is_kept_out_for_ever() {
        let mut probation = Probation::new();
        let flows = (1..=6_u64).map(|flow| flow << 40);
        let mut left: Vec<u64> = flows.collect();
        for round in 0..200 {
            left.retain(|&flow| !probation.follows(flow, 5, Tick(1000 * round), 30_000_000));
        }
        assert_eq!(left, [], "of six");
    }
}
