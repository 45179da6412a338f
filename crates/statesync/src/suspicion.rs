//! Who seems to be dead: heartbeats, and what is concluded from their absence.
//!
//! Suspicion decides only whom to ask first. A member that is suspect and lives is told everything as before.

use crate::members::{MACHINES_MAX, MachineId, MachineSet, Member};
use wire::Tick;

/// Time between two heartbeats, microseconds.
pub const HEARTBEAT_US: u64 = 100_000;
/// Silence after which a member is suspect: three heartbeats, and half of one for those that are late.
pub const SILENCE_US: u64 = 350_000;

/// What was heard of whom.
#[derive(Debug)]
pub struct Suspicion {
    heard: [(Tick, u32); MACHINES_MAX],
    suspects: MachineSet,
    next_check: Tick,
    next_beat: Tick,
}

impl Default for Suspicion {
    fn default() -> Suspicion {
        Suspicion {
            heard: [(Tick(0), 0); MACHINES_MAX],
            suspects: MachineSet::default(),
            next_check: Tick(0),
            next_beat: Tick(0),
        }
    }
}

impl Suspicion {
    /// A member is known from now on; it has a silence's time to be heard.
    pub fn meet(&mut self, member: Member, now: Tick) {
        if let Some(heard) = self.heard.get_mut(member.machine.index())
            && heard.1 < member.incarnation
        {
            *heard = (now, member.incarnation);
            self.suspects.remove(member.machine);
        }
    }

    /// Nobody can have told us anything so far: all count as heard now.
    pub fn expect(&mut self, members: MachineSet, now: Tick) {
        for machine in members.iter() {
            if let Some(heard) = self.heard.get_mut(machine.index()) {
                heard.0 = now;
            }
            self.suspects.remove(machine);
        }
    }

    /// Something came from a machine. `known` is its incarnation in the membership: a later one says that the
    /// machine has lost what it knew, so it counts as dead until its new incarnation has joined.
    pub fn hear(&mut self, member: Member, known: Option<u32>, now: Tick) {
        let Some(heard) = self.heard.get_mut(member.machine.index()) else { return };
        if member.incarnation < heard.1 {
            return;
        }
        *heard = (now, member.incarnation);
        if known == Some(member.incarnation) {
            self.suspects.remove(member.machine);
        } else if known.is_some_and(|known| known < member.incarnation) {
            self.suspects.insert(member.machine);
        }
    }

    /// Whom not to ask, of these.
    pub fn suspects(&mut self, members: MachineSet, now: Tick) -> MachineSet {
        if now >= self.next_check {
            self.next_check = Tick(now.0 + HEARTBEAT_US / 20);
            for machine in members.iter() {
                let silent =
                    self.heard.get(machine.index()).is_none_or(|(at, _)| now.since_us(*at) > SILENCE_US);
                if silent {
                    self.suspects.insert(machine);
                }
            }
        }
        self.suspects
    }

    /// Whether one machine is suspect, as of the last [`suspects`](Suspicion::suspects).
    pub fn is_suspect(&self, machine: MachineId) -> bool {
        self.suspects.contains(machine)
    }

    /// Whether a heartbeat is due; if so, the next one is a period later.
    pub fn beat(&mut self, now: Tick) -> bool {
        let due = now >= self.next_beat;
        if due {
            self.next_beat = Tick(now.0 + HEARTBEAT_US);
        }
        due
    }

    /// When [`beat`](Suspicion::beat) is due next.
    pub fn next_beat(&self) -> Tick {
        self.next_beat
    }
}

#[cfg(test)]
mod tests {
    use super::{HEARTBEAT_US, SILENCE_US, Suspicion};
    use crate::members::{MachineId, MachineSet, Member};
    use wire::Tick;

    const ONE: MachineId = MachineId(1);

    fn of(incarnation: u32) -> Member {
        Member { machine: ONE, incarnation }
    }

    #[test]
    fn silence_makes_suspect_and_a_heartbeat_clears() {
        let (mut suspicion, mut members) = (Suspicion::default(), MachineSet::default());
        members.insert(ONE);
        suspicion.meet(of(1), Tick(1_000));
        assert!(suspicion.suspects(members, Tick(1_000 + SILENCE_US)).is_empty());
        assert!(suspicion.suspects(members, Tick(1_000 + SILENCE_US + HEARTBEAT_US)).contains(ONE));
        suspicion.hear(of(1), Some(1), Tick(2_000_000));
        assert!(suspicion.suspects(members, Tick(2_000_000)).is_empty());
    }

    #[test]
    fn a_new_incarnation_is_suspect_until_it_has_joined() {
        let (mut suspicion, mut members) = (Suspicion::default(), MachineSet::default());
        members.insert(ONE);
        suspicion.meet(of(1), Tick(0));
        suspicion.hear(of(2), Some(1), Tick(10));
        assert!(suspicion.suspects(members, Tick(10)).contains(ONE));
        // A late one of the former incarnation does not clear it.
        suspicion.hear(of(1), Some(1), Tick(20));
        assert!(suspicion.is_suspect(ONE));
        suspicion.hear(of(2), Some(2), Tick(30));
        assert!(!suspicion.is_suspect(ONE));
    }

    #[test]
    fn who_is_told_nothing_yet_suspects_nobody() {
        let (mut suspicion, mut members) = (Suspicion::default(), MachineSet::default());
        members.insert(ONE);
        suspicion.meet(of(1), Tick(0));
        let joined = Tick(10 * SILENCE_US);
        assert!(suspicion.suspects(members, joined).contains(ONE));
        suspicion.expect(members, joined);
        assert!(suspicion.suspects(members, Tick(joined.0 + SILENCE_US)).is_empty());
        assert!(suspicion.suspects(members, Tick(joined.0 + SILENCE_US + HEARTBEAT_US)).contains(ONE));
    }

    #[test]
    fn beats_come_once_a_period() {
        let mut suspicion = Suspicion::default();
        let beats = (0..1_000_000).step_by(1_000).filter(|&now| suspicion.beat(Tick(now))).count();
        assert_eq!(beats, 10);
    }
}
