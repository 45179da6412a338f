//! Sets of slots.

/// Slots of one service, a bit each.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SlotSet(Vec<u64>);

impl SlotSet {
    /// Puts a slot in.
    pub fn insert(&mut self, slot: u32) {
        let word = slot as usize / 64;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        if let Some(word) = self.0.get_mut(word) {
            *word |= 1 << (slot % 64);
        }
    }

    /// Takes a slot out.
    pub fn remove(&mut self, slot: u32) {
        if let Some(word) = self.0.get_mut(slot as usize / 64) {
            *word &= !(1 << (slot % 64));
        }
    }

    /// Whether it is in.
    pub fn contains(&self, slot: u32) -> bool {
        self.0.get(slot as usize / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    /// Puts all of another set in.
    pub fn union(&mut self, other: &SlotSet) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (word, other) in self.0.iter_mut().zip(&other.0) {
            *word |= other;
        }
    }

    /// The slots, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0_u32..).zip(&self.0).flat_map(|(index, &word)| {
            let mut rest = word;
            core::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                Some(index * 64 + bit)
            })
        })
    }

    /// Number of slots.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }
}

impl FromIterator<u32> for SlotSet {
    fn from_iter<I: IntoIterator<Item = u32>>(slots: I) -> SlotSet {
        let mut set = SlotSet::default();
        for slot in slots {
            set.insert(slot);
        }
        set
    }
}

/// Slots of several services, by the service's place in the plan.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SlotSets(Vec<SlotSet>);

impl SlotSets {
    /// The slots of a service.
    pub fn service(&self, service: usize) -> Option<&SlotSet> {
        self.0.get(service)
    }

    /// The slots of a service by its place, for changing; made where there were none.
    pub fn service_mut(&mut self, service: usize) -> &mut SlotSet {
        if service >= self.0.len() {
            self.0.resize_with(service + 1, SlotSet::default);
        }
        &mut self.0[service]
    }

    /// Whether a slot is in.
    pub fn contains(&self, service: usize, slot: u32) -> bool {
        self.service(service).is_some_and(|set| set.contains(slot))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(SlotSet::is_empty)
    }

    /// Puts all of another set in.
    pub fn union(&mut self, other: &SlotSets) {
        for (service, set) in other.0.iter().enumerate() {
            self.service_mut(service).union(set);
        }
    }

    /// All slots: (service, slot).
    pub fn iter(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        self.0.iter().enumerate().flat_map(|(service, set)| set.iter().map(move |slot| (service, slot)))
    }
}

#[cfg(test)]
mod tests {
    use super::SlotSet;
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_set_is_a_set(
            moves in prop::collection::vec((0_u32..400, any::<bool>()), 0..200),
            other in prop::collection::btree_set(0_u32..500, 0..20),
        ) {
            let (mut set, mut oracle) = (SlotSet::default(), BTreeSet::new());
            for (slot, put) in moves {
                if put { set.insert(slot); oracle.insert(slot); } else { set.remove(slot); oracle.remove(&slot); }
                prop_assert_eq!(set.contains(slot), put);
            }
            set.union(&other.iter().copied().collect());
            oracle.extend(other);
            prop_assert_eq!((set.len(), set.is_empty()), (oracle.len(), oracle.is_empty()));
            prop_assert_eq!(set.iter().collect::<BTreeSet<_>>(), oracle);
        }
    }
}
