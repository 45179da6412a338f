//! What a service with `state = "exceptions"` remembers of its slots instead of its flows.
//!
//! A slot is *untainted* while every TCP flow in it belongs to the slot's table answer: its packets need no flow table.
//! A change of the table *taints* the slots whose answer it changes. From then on each flow that begins there has an
//! entry, so a flow without one is from before, and belongs to the slot's *base*: the answer at the moment of the taint.
//! Control makes these (`control::slots`) and ends a taint when no flow needs it any more.

use wire::BackendId;

/// In `base`: no backend. Above [`BackendId::MAX`].
const NO_BASE: u32 = u32::MAX;

/// The tainted slots of a service and their bases. Immutable; part of the view.
///
/// Memory: nothing while no slot is tainted, else 4 bytes and a bit a slot.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct SlotMemory {
    /// A bit a slot; empty when no slot is tainted, so that the common case reads one length.
    tainted: Box<[u64]>,
    /// A backend id a slot, meaningful for tainted ones; empty when no slot is tainted.
    base: Box<[u32]>,
    /// Number of tainted slots.
    count: u32,
}

impl core::fmt::Debug for SlotMemory {
    /// Without the slots: there may be millions.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("SlotMemory").field("tainted_slots", &self.count).finish_non_exhaustive()
    }
}

impl SlotMemory {
    /// Memory of `size` slots of which `tainted` are tainted, each with its base (`None`: there was no backend). Slots
    /// outside `size` are left out; of a slot given twice the last base counts. O(size), or O(1) without tainted slots.
    pub fn new(size: u32, tainted: impl IntoIterator<Item = (u32, Option<BackendId>)>) -> SlotMemory {
        let mut memory = SlotMemory::default();
        for (slot, base) in tainted.into_iter().filter(|&(slot, _)| slot < size) {
            if memory.base.is_empty() {
                memory.tainted = vec![0; (size as usize).div_ceil(64)].into();
                memory.base = vec![NO_BASE; size as usize].into();
            }
            if let Some(word) = memory.tainted.get_mut(slot as usize / 64) {
                let bit = 1 << (slot % 64);
                memory.count += u32::from(*word & bit == 0);
                *word |= bit;
            }
            if let Some(of) = memory.base.get_mut(slot as usize) {
                *of = base.map_or(NO_BASE, |backend| backend.0);
            }
        }
        memory
    }

    /// Whether flows of this slot are looked up. A slot outside the table is untainted.
    #[inline]
    pub fn is_tainted(&self, slot: u32) -> bool {
        self.tainted.get(slot as usize / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    /// Whether any slot is tainted.
    #[inline]
    pub fn is_any_tainted(&self) -> bool {
        self.count > 0
    }

    /// The backend of flows without an entry in a tainted slot; `None` for an untainted slot, and where there was no
    /// backend at the moment of the taint. It may have left the view since: see [`base_in_force`](crate::decide::slots::base_in_force).
    #[inline]
    pub fn base(&self, slot: u32) -> Option<BackendId> {
        if !self.is_tainted(slot) {
            return None;
        }
        self.base.get(slot as usize).filter(|&&id| id != NO_BASE).map(|&id| BackendId(id))
    }

    /// Number of tainted slots.
    #[inline]
    pub fn tainted_slots(&self) -> u32 {
        self.count
    }

    /// The tainted slots and their bases, ascending. O(size / 64 + tainted).
    pub fn tainted(&self) -> impl Iterator<Item = (u32, Option<BackendId>)> + '_ {
        (0_u32..)
            .zip(&self.tainted)
            .flat_map(|(index, &word)| {
                let mut rest = word;
                core::iter::from_fn(move || {
                    let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                    rest &= rest - 1;
                    Some(index * 64 + bit)
                })
            })
            .map(|slot| (slot, self.base(slot)))
    }
}

#[cfg(test)]
mod tests {
    use super::SlotMemory;
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};
    use std::collections::BTreeMap;
    use wire::BackendId;

    #[test]
    fn an_empty_memory_says_no_to_every_slot() {
        let memory = SlotMemory::new(251, []);
        assert_eq!(memory, SlotMemory::default());
        assert!(!memory.is_any_tainted());
        for slot in [0, 63, 64, 250, 251, u32::MAX] {
            assert!(!memory.is_tainted(slot));
            assert_eq!(memory.base(slot), None);
        }
        assert_eq!(memory.tainted().count(), 0);
    }

    proptest! {
        #[test]
        fn it_remembers_what_a_map_would(
            size in 1_u32..400,
            tainted in prop::collection::vec((0_u32..420, any::<Option<u8>>()), 0..200),
        ) {
            let tainted: Vec<_> =
                tainted.into_iter().map(|(slot, base)| (slot, base.map(|b| BackendId(b.into())))).collect();
            let memory = SlotMemory::new(size, tainted.iter().copied());
            let expected: BTreeMap<u32, Option<BackendId>> =
                tainted.into_iter().filter(|(slot, _)| *slot < size).collect();
            prop_assert_eq!(memory.tainted_slots() as usize, expected.len());
            prop_assert_eq!(memory.is_any_tainted(), !expected.is_empty());
            for slot in 0..450 {
                prop_assert_eq!(memory.is_tainted(slot), expected.contains_key(&slot));
                prop_assert_eq!(memory.base(slot), expected.get(&slot).copied().flatten());
            }
            prop_assert_eq!(memory.tainted().collect::<BTreeMap<_, _>>(), expected);
        }
    }
}
