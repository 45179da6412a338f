//! Where flows go by their slots: the Maglev table's answer, and, where a service remembers slots instead of flows
//! ([`SlotMemory`]), the slot's base. One by one ([`place`]), and for many positions of a burst at once.

use crate::BURST;
use crate::burst::{Burst, bits, those};
use crate::view::slots::SlotMemory;
use crate::view::{BackendState, HashOn, OnDown, ServiceView, View};
use core::hint::cold_path;
use flow::{Keys, Lanes};
use steer::Maglev;
use wire::parse::TCP;
use wire::{Addr, BackendId, Tuple};

/// Where a flow without an entry belongs: if it began before its slot's answer changed, to the slot's base; else to the
/// table's answer. Only TCP shows whether it `begins`.
pub fn place(view: &View, service: &ServiceView, flow: &Tuple, begins: bool) -> Option<BackendId> {
    let slot = slot(view, service, flow);
    if flow.protocol == TCP
        && !begins
        && let Some(base) = base_in_force(view, service, slot)
    {
        return Some(base);
    }
    place_in(view, service, slot)
}

/// The slot of a flow.
#[inline]
pub fn slot(view: &View, service: &ServiceView, flow: &Tuple) -> u32 {
    service.maglev.slot(hash(view, service, flow))
}

/// What the slot of a flow is computed from.
#[inline]
pub(crate) fn hash(view: &View, service: &ServiceView, flow: &Tuple) -> u64 {
    match service.hash {
        HashOn::Tuple => steer::hash::tuple(&view.cluster_key, flow),
        HashOn::Source => steer::hash::source(&view.cluster_key, flow.src),
    }
}

/// The Maglev table's answer for a slot, past backends that take no new flows.
#[inline]
pub(crate) fn place_in(view: &View, service: &ServiceView, slot: u32) -> Option<BackendId> {
    let id = |member: u16| service.members.get(usize::from(member)).copied();
    let takes_new = |member| {
        id(member).and_then(|id| view.backend(id)).is_some_and(|backend| backend.state == BackendState::Up)
    };
    id(service.maglev.pick(slot, takes_new)?)
}

/// The backend that a TCP packet without an entry in a tainted slot belongs to, unless it begins a flow: the slot's
/// base, if flows may still go there. `None`: the table decides.
///
/// Also where a SYN goes whose entry was refused for want of room: its next packet finds no entry, so it will come here.
#[inline]
pub fn base_in_force(view: &View, service: &ServiceView, slot: u32) -> Option<BackendId> {
    base_of(view, service, service.memory.as_ref()?, slot)
}

/// The base of a slot in a given memory, if it is in force.
#[inline]
pub fn base_of(view: &View, service: &ServiceView, memory: &SlotMemory, slot: u32) -> Option<BackendId> {
    let id = memory.base(slot)?;
    let backend = view.backend_of(service.id, id)?;
    (backend.state != BackendState::Down || service.on_down == OnDown::Keep).then_some(id)
}

/// The service of the first of the positions.
#[inline(always)]
pub(crate) fn service_at<'v>(view: &'v View, burst: &Burst, positions: u32) -> Option<&'v ServiceView> {
    view.service.get(burst.service_index(positions.trailing_zeros() as usize))
}

/// Of positions of services that remember slots, those whose slot is untainted, so that it decides alone; their keys are taken back.
#[inline(always)]
pub(crate) fn alone(view: &View, burst: &mut Burst, positions: u32, keys: &mut Keys, lanes: Lanes) -> u32 {
    find(view, burst, positions, lanes);
    let (mut left, mut alone) = (positions, 0);
    while left != 0 {
        let its = burst.of_first(left);
        left &= !its;
        let memory = service_at(view, burst, its).and_then(|service| service.memory.as_ref());
        let Some(memory) = memory else { continue };
        alone |= its;
        if memory.is_any_tainted() {
            for position in bits(its) {
                let is_tainted = memory.is_tainted(burst.slots[position % BURST]);
                alone &= !(u32::from(is_tainted) << (position % BURST));
            }
        }
    }
    for (position, key) in keys.narrow_mut(0).iter_mut().enumerate() {
        *key &= (u64::from(alone) >> position & 1).wrapping_sub(1);
    }
    alone
}

/// Finds the slots at positions of IPv4, and fetches their lines of the tables.
#[inline(always)]
pub(crate) fn find(view: &View, burst: &mut Burst, positions: u32, lanes: Lanes) {
    burst.columns.hash(lanes, &view.cluster_key, positions);
    let mut left = positions;
    while left != 0 {
        let its = burst.of_first(left);
        left &= !its;
        let Some(service) = service_at(view, burst, its) else { continue };
        if service.hash == HashOn::Source {
            for position in bits(its) {
                let source = Addr::V4(burst.columns.src(position));
                burst.columns.hash[position % BURST] = steer::hash::source(&view.cluster_key, source);
            }
        }
        let (members, size) = (service.maglev.slots(), service.maglev.size());
        for position in bits(its) {
            let slot = Maglev::slot_of(burst.columns.hash[position % BURST], size);
            burst.slots[position % BURST] = slot;
            match members.get(slot as usize) {
                Some(member) => lanes.prefetch(member),
                None => cold_path(),
            }
        }
    }
}

/// Asks the tables at positions whose slots were found. Returns those with a backend, which is noted. No branch hangs on what is
/// read, so that the many misses of tables larger than the caches overlap.
#[inline(always)]
pub(crate) fn place_all(view: &View, burst: &mut Burst, positions: u32) -> u32 {
    let (mut left, mut placed) = (positions, 0);
    while left != 0 {
        let its = burst.of_first(left);
        left &= !its;
        let Some(service) = service_at(view, burst, its) else { continue };
        let (slots, members, backends) = (service.maglev.slots(), &*service.members, &*view.backends);
        for position in bits(its) {
            let member = slots.get(burst.slots[position % BURST] as usize);
            let Some(&id) = member.and_then(|&member| members.get(usize::from(member))) else {
                cold_path();
                continue;
            };
            burst.backends[position % BURST] = id;
            let Some(backend) = backends.get(id.index()) else {
                cold_path();
                continue;
            };
            let is_up = backend.as_ref().is_some_and(|backend| backend.state == BackendState::Up);
            placed |= u32::from(is_up) << position;
        }
    }
    if placed != positions {
        placed |= place_past(view, burst, positions & !placed);
    }
    placed
}

/// Places flows whose slot's own backend takes no new flows, or that has none.
#[inline(never)]
fn place_past(view: &View, burst: &mut Burst, positions: u32) -> u32 {
    those(positions, |position| {
        let service = view.service.get(burst.service_index(position));
        let backend = service.and_then(|service| place_in(view, service, burst.slots[position % BURST]));
        if let Some(backend) = backend {
            burst.backends[position % BURST] = backend;
        }
        backend.is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::base_in_force;
    use crate::view::path_mtu::{Learnt, Room};
    use crate::view::slots::SlotMemory;
    use crate::view::{BackendState, BackendView, HashOn, OnDown, OnEmpty, Policy, ServiceView, View};
    use std::sync::Arc;
    use steer::{Maglev, Weighted};
    use wire::encap::TunnelHeader;
    use wire::{BackendId, PortId, ServiceId};

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
