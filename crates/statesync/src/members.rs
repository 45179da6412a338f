//! Who takes part: machines, each of them with the incarnation it has since its last start.

use arrayvec::ArrayVec;

/// Largest number of machines of a cluster.
pub const MACHINES_MAX: usize = 64;

/// A machine of the cluster, below [`MACHINES_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct MachineId(pub u8);

impl MachineId {
    /// As an index into per-machine arrays.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A machine since one start of it: a restart is another member, because it has lost what the former one knew.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Member {
    /// The machine.
    pub machine: MachineId,
    /// Larger ones are later. The first is Unix time in seconds: see [`crate::number`].
    pub incarnation: u32,
}

/// A set of machines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MachineSet(u64);

impl MachineSet {
    /// Puts a machine in; one at or above [`MACHINES_MAX`] is left out.
    pub const fn insert(&mut self, machine: MachineId) {
        if machine.index() < MACHINES_MAX {
            self.0 |= 1 << machine.0;
        }
    }

    /// Takes a machine out.
    pub const fn remove(&mut self, machine: MachineId) {
        if machine.index() < MACHINES_MAX {
            self.0 &= !(1 << machine.0);
        }
    }

    /// Whether it is in.
    pub const fn contains(self, machine: MachineId) -> bool {
        machine.index() < MACHINES_MAX && self.0 >> machine.0 & 1 == 1
    }

    /// The machines of both.
    #[must_use]
    pub const fn union(self, other: MachineSet) -> MachineSet {
        MachineSet(self.0 | other.0)
    }

    /// As bits, machine 0 lowest.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// From bits.
    pub const fn from_bits(bits: u64) -> MachineSet {
        MachineSet(bits)
    }

    /// Number of machines.
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The machines, ascending.
    pub fn iter(self) -> impl Iterator<Item = MachineId> {
        let mut rest = self.0;
        core::iter::from_fn(move || {
            let machine = (rest != 0).then(|| rest.trailing_zeros())?;
            rest &= rest - 1;
            u8::try_from(machine).ok().map(MachineId)
        })
    }
}

/// The members of an epoch: at most one incarnation of each machine, ascending.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Members(ArrayVec<Member, MACHINES_MAX>);

impl Members {
    /// Of these; of several incarnations of one machine the latest. Machines at or above [`MACHINES_MAX`] are left out.
    pub fn new(members: impl IntoIterator<Item = Member>) -> Members {
        let mut by_machine = [None::<u32>; MACHINES_MAX];
        for member in members {
            if let Some(of) = by_machine.get_mut(member.machine.index()) {
                *of = Some(of.map_or(member.incarnation, |known| known.max(member.incarnation)));
            }
        }
        let machines = (0..).map(MachineId).zip(by_machine);
        Members(
            machines
                .filter_map(|(machine, incarnation)| Some(Member { machine, incarnation: incarnation? }))
                .collect(),
        )
    }

    /// Whether this very incarnation is in.
    pub fn contains(&self, member: Member) -> bool {
        self.0.contains(&member)
    }

    /// The machine's incarnation, if it is in.
    pub fn incarnation(&self, machine: MachineId) -> Option<u32> {
        self.0.iter().find(|member| member.machine == machine).map(|member| member.incarnation)
    }

    /// The members, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Member> + '_ {
        self.0.iter().copied()
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::{MachineId, MachineSet, Member, Members};
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};
    use std::collections::{BTreeMap, BTreeSet};

    proptest! {
        #[test]
        fn a_set_is_a_set(moves in prop::collection::vec((0_u8..80, any::<bool>()), 0..200)) {
            let (mut set, mut oracle) = (MachineSet::default(), BTreeSet::new());
            for (machine, put) in moves {
                let machine = MachineId(machine);
                if put { set.insert(machine) } else { set.remove(machine) }
                if put && machine.0 < 64 { oracle.insert(machine); } else { oracle.remove(&machine); }
                prop_assert_eq!(set.contains(machine), oracle.contains(&machine));
            }
            prop_assert_eq!(set.iter().collect::<BTreeSet<_>>(), oracle.clone());
            prop_assert_eq!(set.len() as usize, oracle.len());
            prop_assert_eq!(set.is_empty(), oracle.is_empty());
        }

        #[test]
        fn members_are_the_latest_incarnations(given in prop::collection::vec((0_u8..70, 0_u32..5), 0..40)) {
            let given: Vec<Member> =
                given.into_iter().map(|(m, incarnation)| Member { machine: MachineId(m), incarnation }).collect();
            let mut oracle = BTreeMap::new();
            for member in given.iter().filter(|member| member.machine.0 < 64) {
                let known = oracle.entry(member.machine).or_insert(member.incarnation);
                *known = (*known).max(member.incarnation);
            }
            let members = Members::new(given);
            let found: BTreeMap<_, _> = members.iter().map(|m| (m.machine, m.incarnation)).collect();
            prop_assert_eq!(found, oracle);
        }
    }
}
