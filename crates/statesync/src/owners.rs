//! Who answers for a slot: one ranking of the members for each slot, first the primary, second the backup.
//!
//! The ranking is by rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to increase hit rates",
//! IEEE/ACM Transactions on Networking 6, 1998), so when the primary leaves, the backup, who has the records, is the next primary, and
//! a member that joins takes the slots it ranks first in and no others. Each member counts as (machine, incarnation).
//!
//! A change of members has two phases (an *epoch change*): first everybody tells the owners of both epochs, then everybody
//! asks the owners of the new one, and only when all do so may these decide by themselves.

use crate::members::{MachineId, MachineSet, Member, Members};
use arrayvec::ArrayVec;
use wire::ServiceId;
use wire::hash::mix;

/// Owners of one slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OwnerPair {
    /// Answers. `None` without members.
    pub primary: Option<MachineId>,
    /// Has the same records. `None` with fewer than two members.
    pub backup: Option<MachineId>,
}

impl OwnerPair {
    /// Whether the machine is one of them.
    pub fn contains(self, machine: MachineId) -> bool {
        self.primary == Some(machine) || self.backup == Some(machine)
    }

    /// Primary, then backup.
    pub fn iter(self) -> impl Iterator<Item = MachineId> {
        self.primary.into_iter().chain(self.backup)
    }
}

/// The two members ranked highest for a slot. O(members), some ten instructions each.
pub fn rank(members: &Members, service: ServiceId, slot: u32) -> OwnerPair {
    let place = u64::from(service.0) << 32 | u64::from(slot);
    let (mut first, mut second) = (None::<(u64, Member)>, None::<(u64, Member)>);
    for member in members.iter() {
        let name = u64::from(member.machine.0) << 32 | u64::from(member.incarnation);
        // Ties are broken by the member, so that all machines break them alike.
        let scored = Some((score(score(place) ^ name), member));
        if scored > first {
            (first, second) = (scored, first);
        } else if scored > second {
            second = scored;
        }
    }
    OwnerPair { primary: first.map(|(_, m)| m.machine), backup: second.map(|(_, m)| m.machine) }
}

/// What a ranking must not be: the hash modulo the number of members.
#[cold]
#[cfg(feature = "negative-controls")]
fn go_round(members: &Members, service: ServiceId, slot: u32) -> OwnerPair {
    let at = usize::from(service.0).wrapping_add(slot as usize) % members.len().max(1);
    let nth = |at: usize| members.iter().nth(at % members.len().max(1)).map(|member| member.machine);
    OwnerPair { primary: nth(at), backup: nth(at + 1).filter(|_| members.len() > 1) }
}

/// Of a place, or of a place and a member. Clients choose neither members nor, without the cluster's key, slots; so it need not be
/// keyed. The addend keeps 0 from being its own hash.
const fn score(x: u64) -> u64 {
    mix(x.wrapping_add(0x9e37_79b9_7f4a_7c15))
}

/// How far a change of members has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EpochPhase {
    /// There is none.
    #[default]
    Settled,
    /// The owners of both epochs are told, the old ones are asked.
    Preparing,
    /// The owners of both are told, the new ones are asked; what they do not know the old ones decide.
    Committed,
}

/// Owners in an epoch, or between two.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Owners {
    /// Members of the epoch that ends, or of the one there is.
    members: Members,
    /// Members of the epoch that begins.
    next: Members,
    phase: EpochPhase,
    /// Members that are dead, although the epoch in which they are is not over.
    lost: Members,
    /// The ranking goes round, so that any change of members moves nearly all slots.
    #[cfg(feature = "negative-controls")]
    goes_round: bool,
}

/// Machines to be told of a record; at most two pairs.
pub type Told = ArrayVec<MachineId, 4>;

impl Owners {
    /// Owners of a settled epoch.
    pub fn settled(members: Members) -> Owners {
        Owners { next: members.clone(), members, ..Owners::default() }
    }

    /// Owners during a change from `members` to `next`.
    pub fn changing(members: Members, next: Members, phase: EpochPhase) -> Owners {
        match phase {
            EpochPhase::Settled => Owners::settled(next),
            _ => Owners { members, next, phase, ..Owners::default() },
        }
    }

    /// These owners while some members are dead: they are told nothing, asked nothing, and not listened to.
    #[must_use]
    pub fn without(mut self, lost: Members) -> Owners {
        self.lost = lost;
        self
    }

    /// The rule [`Ranking`](crate::Rule::Ranking) holds no more.
    #[must_use]
    #[cfg(feature = "negative-controls")]
    pub fn going_round(mut self) -> Owners {
        self.goes_round = true;
        self
    }

    fn rank(&self, members: &Members, service: ServiceId, slot: u32) -> OwnerPair {
        #[cfg(feature = "negative-controls")]
        if self.goes_round {
            return go_round(members, service, slot);
        }
        rank(members, service, slot)
    }

    fn is_lost(&self, members: &Members, machine: MachineId) -> bool {
        !self.lost.is_empty()
            && members
                .incarnation(machine)
                .is_some_and(|incarnation| self.lost.contains(Member { machine, incarnation }))
    }

    /// Machines that cannot be asked because they are dead.
    pub fn lost(&self) -> MachineSet {
        let asked = if self.phase == EpochPhase::Committed { &self.next } else { &self.members };
        let mut lost = MachineSet::default();
        for member in asked.iter().filter(|&member| self.lost.contains(member)) {
            lost.insert(member.machine);
        }
        lost
    }

    /// How far a change of members has come.
    pub fn phase(&self) -> EpochPhase {
        self.phase
    }

    /// Whom to ask.
    pub fn asked(&self, service: ServiceId, slot: u32) -> OwnerPair {
        match self.phase {
            EpochPhase::Settled | EpochPhase::Preparing => self.rank(&self.members, service, slot),
            EpochPhase::Committed => self.rank(&self.next, service, slot),
        }
    }

    /// Who keeps the slot's records: the owners of both epochs.
    pub fn told(&self, service: ServiceId, slot: u32) -> Told {
        let mut told = Told::new();
        let epochs = [Some(&self.members), (self.phase != EpochPhase::Settled).then_some(&self.next)];
        for members in epochs.into_iter().flatten() {
            for machine in self.rank(members, service, slot).iter() {
                if !told.contains(&machine) && !self.is_lost(members, machine) {
                    // Two pairs at most.
                    let _ = told.try_push(machine);
                }
            }
        }
        told
    }

    /// Who keeps the slot's records in the epoch that begins, and does not in the one that ends.
    pub fn gaining(&self, service: ServiceId, slot: u32) -> Told {
        if self.phase == EpochPhase::Settled {
            return Told::new();
        }
        let before = self.rank(&self.members, service, slot);
        let is_new = |machine: MachineId| {
            let is_same = self.members.incarnation(machine) == self.next.incarnation(machine);
            let had_it = before.contains(machine) && is_same;
            !had_it && !self.is_lost(&self.next, machine)
        };
        let mut gaining = Told::new();
        for machine in self.rank(&self.next, service, slot).iter().filter(|&machine| is_new(machine)) {
            let _ = gaining.try_push(machine);
        }
        gaining
    }

    /// The only machine that decides a flow which an owner does not know: the primary of the epoch that is not over, or if that is
    /// suspect its backup. `None`: both are, so whoever asks decides. `own` is never suspect.
    pub fn decider(
        &self,
        service: ServiceId,
        slot: u32,
        own: MachineId,
        suspects: MachineSet,
    ) -> Option<MachineId> {
        let members = if self.phase == EpochPhase::Settled { &self.next } else { &self.members };
        self.rank(members, service, slot)
            .iter()
            .find(|&machine| machine == own || !suspects.contains(machine) && !self.is_lost(members, machine))
    }

    /// Whether notes of this member count: it is of the epoch, or of the one that begins.
    pub fn is_member(&self, member: Member) -> bool {
        (self.members.contains(member) || self.next.contains(member)) && !self.lost.contains(member)
    }

    /// The machine's incarnation in the newest epoch it is in.
    pub fn incarnation(&self, machine: MachineId) -> Option<u32> {
        self.next.incarnation(machine).or_else(|| self.members.incarnation(machine))
    }

    /// Whether the member may take traffic and answer: its join has committed, and it has not left.
    pub fn is_ready(&self, member: Member) -> bool {
        let is_in = match self.phase {
            EpochPhase::Settled | EpochPhase::Preparing => self.members.contains(member),
            EpochPhase::Committed => self.members.contains(member) || self.next.contains(member),
        };
        is_in && !self.lost.contains(member)
    }

    /// All machines whose notes count.
    pub fn machines(&self) -> MachineSet {
        let mut machines = MachineSet::default();
        for member in self.members.iter().chain(self.next.iter()).filter(|&of| !self.lost.contains(of)) {
            machines.insert(member.machine);
        }
        machines
    }
}

#[cfg(test)]
mod tests {
    use super::{EpochPhase, Owners, rank};
    use crate::members::{MachineId, MachineSet, Member, Members};
    use proptest::prelude::{prop, prop_assert, prop_assert_eq, proptest};
    use wire::ServiceId;

    fn members(machines: &[(u8, u32)]) -> Members {
        Members::new(machines.iter().map(|&(m, incarnation)| Member { machine: MachineId(m), incarnation }))
    }

    proptest! {
        /// The next primary is the old backup, whoever leaves changes only its own slots, and whoever joins only those it gets.
        #[test]
        fn leaving_and_joining_move_as_little_as_can_be(
            machines in prop::collection::btree_set(0_u8..64, 2..12), slot in 0_u32..70_000, service in 1_u16..50,
        ) {
            let all: Vec<(u8, u32)> = machines.into_iter().map(|m| (m, u32::from(m) % 3)).collect();
            let before = rank(&members(&all), ServiceId(service), slot);
            prop_assert!(before.primary != before.backup && before.backup.is_some());
            for (at, gone) in all.iter().enumerate() {
                let mut rest = all.clone();
                rest.remove(at);
                let after = rank(&members(&rest), ServiceId(service), slot);
                if before.primary == Some(MachineId(gone.0)) {
                    prop_assert_eq!(after.primary, before.backup);
                } else {
                    prop_assert_eq!(after.primary, before.primary);
                    if before.backup != Some(MachineId(gone.0)) {
                        prop_assert_eq!(after.backup, before.backup);
                    }
                }
            }
        }
    }

    #[test]
    fn slots_are_shared_out_evenly() {
        let all = members(&[(0, 1), (1, 1), (2, 7), (9, 1)]);
        let mut counts = [0_u32; 64];
        for slot in 0..40_000 {
            let pair = rank(&all, ServiceId(3), slot);
            counts[pair.primary.expect("four members").index()] += 1;
        }
        for machine in [0, 1, 2, 9] {
            assert!((9_500..10_500).contains(&counts[machine]), "{machine}: {}", counts[machine]);
        }
        let restarted = members(&[(0, 1), (1, 1), (2, 8), (9, 1)]);
        let kept = (0..40_000)
            .filter(|&slot| {
                let two = Some(MachineId(2));
                rank(&all, ServiceId(3), slot).primary == two
                    && rank(&restarted, ServiceId(3), slot).primary == two
            })
            .count();
        assert!(kept < 4_000, "a restarted machine is another member: {kept}");
    }

    #[test]
    fn an_epoch_change_tells_both_and_lets_the_old_decide() {
        let (old, new) = (members(&[(0, 1), (1, 1), (2, 1)]), members(&[(1, 1), (2, 1), (3, 1)]));
        let service = ServiceId(1);
        for slot in 0..500 {
            let (before, after) = (rank(&old, service, slot), rank(&new, service, slot));
            let preparing = Owners::changing(old.clone(), new.clone(), EpochPhase::Preparing);
            let committed = Owners::changing(old.clone(), new.clone(), EpochPhase::Committed);
            let settled = Owners::settled(new.clone());
            assert_eq!(preparing.asked(service, slot), before);
            assert_eq!(committed.asked(service, slot), after);
            assert_eq!(settled.asked(service, slot), after);
            for owners in [&preparing, &committed] {
                let told = owners.told(service, slot);
                assert!(before.iter().chain(after.iter()).all(|machine| told.contains(&machine)));
                let mut suspects = MachineSet::default();
                assert_eq!(owners.decider(service, slot, MachineId(3), suspects), before.primary);
                suspects.insert(before.primary.expect("three members"));
                assert_eq!(owners.decider(service, slot, MachineId(3), suspects), before.backup);
                suspects.insert(before.backup.expect("three members"));
                assert_eq!(owners.decider(service, slot, MachineId(3), suspects), None);
                for machine in owners.gaining(service, slot) {
                    assert!(after.contains(machine) && !before.contains(machine));
                }
            }
            assert_eq!(settled.decider(service, slot, MachineId(0), MachineSet::default()), after.primary);
            assert!(settled.gaining(service, slot).is_empty());
        }
        let joining = Member { machine: MachineId(3), incarnation: 1 };
        assert!(!Owners::changing(old.clone(), new.clone(), EpochPhase::Preparing).is_ready(joining));
        assert!(Owners::changing(old, new.clone(), EpochPhase::Committed).is_ready(joining));
        assert!(!Owners::settled(new).is_ready(Member { machine: MachineId(0), incarnation: 1 }));
    }

    #[test]
    fn the_dead_are_left_out_and_their_successors_are_not() {
        let (old, new) = (members(&[(0, 1), (1, 1), (2, 1)]), members(&[(0, 1), (1, 2), (2, 1)]));
        let (dead, one) = (Member { machine: MachineId(1), incarnation: 1 }, MachineId(1));
        let lost = Members::new([dead]);
        let service = ServiceId(1);
        let committed =
            Owners::changing(old.clone(), new.clone(), EpochPhase::Committed).without(lost.clone());
        let settled = Owners::settled(old.clone()).without(lost);
        assert!(!committed.is_member(dead) && !settled.is_member(dead) && !settled.is_ready(dead));
        assert!(committed.is_member(Member { incarnation: 2, ..dead }));
        assert!(settled.lost().contains(one) && committed.lost().is_empty());
        assert!(!settled.machines().contains(one) && committed.machines().contains(one));
        for slot in 0..300 {
            let after = rank(&new, service, slot);
            assert!(!settled.told(service, slot).contains(&one));
            assert_eq!(committed.told(service, slot).contains(&one), after.contains(one));
            assert_eq!(
                committed.gaining(service, slot).contains(&one),
                after.contains(one),
                "it has lost all"
            );
            assert_ne!(settled.decider(service, slot, MachineId(9), MachineSet::default()), Some(one));
            assert_ne!(committed.decider(service, slot, MachineId(9), MachineSet::default()), Some(one));
        }
    }
}
