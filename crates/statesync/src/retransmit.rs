//! Lasting notes on their way: kept, and sent again, until acknowledged or until their receiver has left.

mod heap;

use crate::members::Member;
use crate::note::{Lasting, Sequence};
use heap::{Due, DueHeap};
use wire::Tick;

/// First wait for an acknowledgement, microseconds. Doubles with each attempt.
pub const WAIT_US: u64 = 3_000;
/// Longest wait.
pub const WAIT_MAX_US: u64 = 48_000;

/// No room: nothing was sent. Who sends a note that others depend on must not go on without it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("too many notes wait for their acknowledgements")]
pub struct Full;

#[derive(Clone, Copy, Debug)]
struct Waiting {
    to: Member,
    note: Lasting,
    sequence: Sequence,
    /// When the note was made: what it says is older by the time since.
    made: Tick,
    wait_us: u64,
    /// Part of a job (an export), which ends when all of its notes are acknowledged.
    of_job: bool,
}

/// The notes that wait, of one core. Memory is taken at the start.
#[derive(Debug)]
pub struct Retransmitter {
    places: Box<[Option<Waiting>]>,
    /// Free places, the first `free_len`.
    free: Box<[u32]>,
    free_len: usize,
    due: DueHeap,
    /// Counts notes; the low bits of a sequence number are the place.
    count: u64,
    of_job: usize,
}

/// Bits of a sequence number that name the place.
const PLACE_BITS: u32 = 20;
const PLACE_MASK: u64 = (1 << PLACE_BITS) - 1;

/// A note to be sent now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resend {
    /// To whom.
    pub to: Member,
    /// Its number.
    pub sequence: Sequence,
    /// The note; ages are as of now.
    pub note: Lasting,
}

impl Retransmitter {
    /// Room for `capacity` notes, at most 2^20.
    pub fn new(capacity: usize) -> Retransmitter {
        let capacity = u32::try_from(capacity).unwrap_or(u32::MAX).min(1 << PLACE_BITS);
        Retransmitter {
            places: vec![None; capacity as usize].into(),
            free: (0..capacity).rev().collect(),
            free_len: capacity as usize,
            due: DueHeap::new(capacity as usize),
            count: 0,
            of_job: 0,
        }
    }

    /// Notes that wait.
    pub fn len(&self) -> usize {
        self.places.len() - self.free_len
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Notes that fit.
    pub fn room(&self) -> usize {
        self.free_len
    }

    /// Notes of the job that wait.
    pub fn of_job(&self) -> usize {
        self.of_job
    }

    /// Keeps a note, which the caller sends now for the first time under the number given. O(log n).
    ///
    /// # Errors
    /// [`Full`]
    pub fn keep(&mut self, to: Member, note: Lasting, of_job: bool, now: Tick) -> Result<Sequence, Full> {
        let last = self.free_len.checked_sub(1).ok_or(Full)?;
        let place = *self.free.get(last).ok_or(Full)?;
        self.free_len = last;
        self.count += 1;
        let sequence = Sequence(self.count << PLACE_BITS | u64::from(place));
        if let Some(waiting) = self.places.get_mut(place as usize) {
            *waiting = Some(Waiting { to, note, sequence, made: now, wait_us: WAIT_US, of_job });
        }
        self.of_job += usize::from(of_job);
        self.due.push(Due { at: Tick(now.0 + WAIT_US), place });
        Ok(sequence)
    }

    /// A number for something said to oneself, above all former ones.
    pub fn number(&mut self) -> Sequence {
        self.count += 1;
        Sequence(self.count << PLACE_BITS | PLACE_MASK)
    }

    /// The receiver has it. One that does not wait any more, or was another member's, is ignored.
    pub fn acknowledge(&mut self, from: Member, sequence: Sequence) {
        let place = (sequence.0 & PLACE_MASK) as usize;
        if let Some(waiting) = self.places.get_mut(place)
            && waiting.is_some_and(|of| of.sequence == sequence && of.to == from)
        {
            self.of_job -= usize::from(waiting.is_some_and(|of| of.of_job));
            // The place is given back when its time comes: each place is in the heap once.
            *waiting = None;
        }
    }

    /// Forgets the notes to members of which `stays` says no.
    pub fn forget(&mut self, stays: impl Fn(Member) -> bool) {
        for waiting in &mut self.places {
            if let Some(of) = waiting
                && !stays(of.to)
            {
                self.of_job -= usize::from(of.of_job);
                *waiting = None;
            }
        }
    }

    /// The next note whose time has come. Asked until `None`, it gives each one once a wait. O(log n).
    pub fn due(&mut self, now: Tick) -> Option<Resend> {
        loop {
            let place = self.due.peek().filter(|due| due.at <= now)?.place;
            self.due.pop();
            let Some(Some(of)) = self.places.get_mut(place as usize) else {
                if let Some(free) = self.free.get_mut(self.free_len) {
                    *free = place;
                    self.free_len += 1;
                }
                continue;
            };
            of.wait_us = (of.wait_us * 2).min(WAIT_MAX_US);
            self.due.push(Due { at: Tick(now.0 + of.wait_us), place });
            return Some(Resend {
                to: of.to,
                sequence: of.sequence,
                note: aged(of.note, now.since_us(of.made)),
            });
        }
    }

    /// When [`due`](Retransmitter::due) has something next.
    pub fn next_due(&self) -> Option<Tick> {
        self.due.peek().map(|due| due.at)
    }

    /// The notes that wait: (receiver, note). For those who watch.
    pub fn waiting(&self) -> impl Iterator<Item = (Member, &Lasting)> {
        let places = if self.is_empty() { &[] } else { &*self.places };
        places.iter().flatten().map(|of| (of.to, &of.note))
    }
}

/// The note said `later_us` after it was made.
fn aged(note: Lasting, later_us: u64) -> Lasting {
    match note {
        Lasting::State(mut statement) => {
            statement.age_us = statement.age_us.saturating_add(later_us);
            Lasting::State(statement)
        }
        push @ Lasting::Push { .. } => push,
    }
}

#[cfg(test)]
mod tests {
    use super::{Full, Resend, Retransmitter, WAIT_MAX_US, WAIT_US};
    use crate::members::{MachineId, Member};
    use crate::note::{Lasting, Sequence, Statement, Why};
    use proptest::prelude::{prop, prop_assert, prop_assert_eq, proptest};
    use std::collections::BTreeMap;
    use wire::{BackendId, FlowKey, Tick};

    fn member(machine: u8) -> Member {
        Member { machine: MachineId(machine), incarnation: 1 }
    }

    fn state(key: u64) -> Lasting {
        let key = FlowKey::Narrow(key);
        Lasting::State(Statement { key, backend: BackendId(1), guess: false, age_us: 5, why: Why::Decide })
    }

    #[test]
    fn waits_double_and_ages_grow() {
        let mut notes = Retransmitter::new(1);
        let one = member(1);
        let sequence = notes.keep(one, state(1), true, Tick(0)).expect("room");
        assert_eq!(notes.keep(one, state(2), false, Tick(0)), Err(Full));
        assert_eq!(notes.due(Tick(WAIT_US - 1)), None);
        let (mut at, mut wait) = (WAIT_US, WAIT_US);
        for _ in 0..8 {
            let Some(Resend { to, sequence: again, note: Lasting::State(statement) }) = notes.due(Tick(at))
            else {
                panic!("nothing at {at}");
            };
            assert_eq!((to, again, statement.age_us), (one, sequence, 5 + at));
            assert_eq!(notes.due(Tick(at)), None);
            wait = (wait * 2).min(WAIT_MAX_US);
            at += wait;
            assert_eq!(notes.next_due(), Some(Tick(at)));
        }
        notes.acknowledge(member(2), sequence);
        notes.acknowledge(one, Sequence(sequence.0 + (1 << 20)));
        assert_eq!((notes.of_job(), notes.waiting().count()), (1, 1));
        notes.acknowledge(one, sequence);
        assert_eq!((notes.of_job(), notes.waiting().count()), (0, 0));
        assert_eq!(notes.due(Tick(at)), None);
        assert!(notes.is_empty() && notes.keep(one, state(2), false, Tick(at)).is_ok());
    }

    proptest! {
        /// Exactly those not acknowledged, and not to machines that left, come up again, in order of their time.
        #[test]
        fn it_keeps_what_a_map_keeps(steps in prop::collection::vec((0_u8..8, 0_u8..4, 0_u64..3_000), 1..200)) {
            let mut notes = Retransmitter::new(32);
            let mut oracle: BTreeMap<Sequence, (Member, u64, u64)> = BTreeMap::new();
            let mut now = 0;
            for (what, machine, pass) in steps {
                now += pass;
                let machine = member(machine);
                match what {
                    0..4 => {
                        if let Ok(sequence) = notes.keep(machine, state(now), false, Tick(now)) {
                            prop_assert!(oracle.keys().all(|old| *old < sequence));
                            oracle.insert(sequence, (machine, now + WAIT_US, WAIT_US));
                        }
                    }
                    4..6 => {
                        let first = oracle.iter().find(|(_, (to, ..))| *to == machine).map(|(s, _)| *s);
                        if let Some(sequence) = first {
                            notes.acknowledge(machine, sequence);
                            oracle.remove(&sequence);
                        }
                    }
                    6 => { notes.forget(|of| of != machine); oracle.retain(|_, (to, ..)| *to != machine); }
                    _ => {
                        let mut seen: Vec<_> = core::iter::from_fn(|| notes.due(Tick(now))).map(|r| r.sequence).collect();
                        seen.sort_unstable();
                        let expected: Vec<_> =
                            oracle.iter().filter(|(_, (_, at, _))| *at <= now).map(|(s, _)| *s).collect();
                        prop_assert_eq!(&seen, &expected);
                        for sequence in seen {
                            if let Some((_, at, wait)) = oracle.get_mut(&sequence) {
                                *wait = (*wait * 2).min(WAIT_MAX_US);
                                *at = now + *wait;
                            }
                        }
                    }
                }
                prop_assert_eq!(notes.waiting().count(), oracle.len());
            }
        }
    }
}
