//! What a service with `state = "exceptions"` remembers of its slots instead of its flows.
//!
//! A slot is *untainted* while every TCP flow in it belongs to the slot's table answer: its packets need no flow table.
//! A change of the table *taints* the slots whose answer it changes. From then on each flow that begins there has an
//! entry, so a flow without one is from before, and belongs to the slot's *base*: the answer at the moment of the taint.
//! Control makes these (`control::slots`) and ends a taint when no flow needs it any more.

use crate::view::{BackendState, OnDown, ServiceView, View};
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
    /// backend at the moment of the taint. It may have left the view since: see [`base_in_force`].
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

impl ServiceView {
    /// Whether TCP packets of this slot go to the table's answer without a look into the flow table.
    #[inline]
    pub fn is_stateless(&self, slot: u32) -> bool {
        self.memory.as_ref().is_some_and(|memory| !memory.is_tainted(slot))
    }
}

/// The backend that a TCP packet without an entry in a tainted slot belongs to, unless it begins a flow: the slot's
/// base, if flows may still go there. `None`: the table decides.
///
/// Also where a SYN goes whose entry was refused for want of room: its next packet finds no entry, so it will come here.
#[inline]
pub fn base_in_force(view: &View, service: &ServiceView, slot: u32) -> Option<BackendId> {
    base_of(view, service, service.memory.as_ref()?, slot)
}

/// The same, of the slots that a cluster remembers.
#[inline]
pub fn base_of(view: &View, service: &ServiceView, memory: &SlotMemory, slot: u32) -> Option<BackendId> {
    let id = memory.base(slot)?;
    let backend = view.backends.get(id.index())?.as_ref()?;
    let stays = backend.state != BackendState::Down || service.on_down == OnDown::Keep;
    (backend.service == service.id && stays).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::{SlotMemory, base_in_force};
    use crate::view::path_mtu::{Learnt, Room};
    use crate::view::{BackendState, BackendView, HashOn, OnDown, OnEmpty, Policy, ServiceView, View};
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use steer::{Maglev, Weighted};
    use wire::encap::TunnelHeader;
    use wire::{BackendId, PortId, ServiceId};

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

    fn view(state: BackendState, of: ServiceId, on_down: OnDown) -> View {
        let one = [Weighted { name: "a", weight: 1 }];
        View {
            service: vec![ServiceView {
                id: ServiceId(1),
                wide: false,
                hash: HashOn::Tuple,
                maglev: Arc::new(Maglev::build(&one, 251, &[0; 16]).expect("a table")),
                members: vec![BackendId(0)],
                on_empty: OnEmpty::Reset,
                on_down,
                memory: Some(Arc::new(SlotMemory::new(251, [(7, Some(BackendId(1))), (8, None)]))),
                policy: Policy::Maglev,
            }],
            backends: vec![
                None,
                Some(BackendView {
                    id: BackendId(1),
                    service: of,
                    state,
                    header: TunnelHeader::default(),
                    inner_mtu: 1480,
                    room: Room::default(),
                    port: PortId(0),
                    next_hop: None,
                    learnt: Learnt::default(),
                }),
            ],
            ..View::default()
        }
    }

    #[test]
    fn a_base_counts_while_flows_may_go_there() {
        let (web, other) = (ServiceId(1), ServiceId(2));
        let one = Some(BackendId(1));
        for (state, of, on_down, expected) in [
            (BackendState::Up, web, OnDown::Keep, one),
            (BackendState::Draining, web, OnDown::Reselect, one),
            (BackendState::Down, web, OnDown::Keep, one),
            (BackendState::Down, web, OnDown::Reselect, None),
            (BackendState::Up, other, OnDown::Keep, None),
        ] {
            let view = view(state, of, on_down);
            assert_eq!(base_in_force(&view, &view.service[0], 7), expected, "{state:?} {on_down:?}");
            assert_eq!(base_in_force(&view, &view.service[0], 8), None);
            assert_eq!(base_in_force(&view, &view.service[0], 9), None);
        }
        let mut gone = view(BackendState::Up, web, OnDown::Keep);
        gone.backends.clear();
        assert_eq!(base_in_force(&gone, &gone.service[0], 7), None);
    }

    #[test]
    fn only_an_untainted_slot_of_a_service_with_memory_is_stateless() {
        let mut view = view(BackendState::Up, ServiceId(1), OnDown::Keep);
        assert!(view.service[0].is_stateless(0));
        assert!(!view.service[0].is_stateless(7));
        view.service[0].memory = None;
        assert!(!view.service[0].is_stateless(0));
    }
}
