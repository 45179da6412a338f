//! Which slots of a service with `state = "exceptions"` are tainted, what their base is, and when a taint may end.
//!
//! Rule of this module: pure. It is told tables, times and what the flow tables hold, and makes the
//! [`SlotMemory`] that workers steer by; it keeps the promise that a flow which is not silent for longer than the idle
//! time of its state stays with its backend, however often the table changes. Why it holds:
//!
//! * In an untainted slot every flow is with the table's answer, `cur`.
//! * A change of `cur` taints the slot and keeps the former answer as `base`. Flows that begin afterwards have an entry
//!   (or, where there is no room for one, go to `base`), so a flow without one is with `base`, however often `cur`
//!   changes meanwhile.
//! * A taint ends when neither kind is left: no entry names another backend than `cur`, and every flow without an entry
//!   has been silent for too long ([`Slots::retire`]). Where `base` is `cur` again the latter does not matter.

use std::collections::HashMap;
use std::sync::Arc;
use steer::Maglev;
use wire::{Addr, BackendId, FlowKey, ServiceId, Tick, Tuple};
use worker::view::slots::SlotMemory;
use worker::view::{BackendView, HashOn, ServiceView};

/// The table's answers.
#[derive(Clone, Debug)]
struct SlotAnswers {
    table: Arc<Maglev>,
    members: Arc<[BackendId]>,
}

impl SlotAnswers {
    fn new(table: &Arc<Maglev>, members: &[BackendId]) -> SlotAnswers {
        SlotAnswers { table: Arc::clone(table), members: members.into() }
    }

    fn at(&self, slot: u32) -> Option<BackendId> {
        self.members.get(usize::from(self.table.at(slot)?)).copied()
    }
}

/// Two scans of all flow tables, one after the other, that have ended. Two, because an entry that is moved from a part
/// of a table not yet scanned to one that was is missed by one of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scans {
    /// When the first of them began; every worker used the newest view by then.
    pub began: Tick,
}

/// What is remembered of one service's slots.
#[derive(Clone, Debug)]
pub struct Slots {
    cur: SlotAnswers,
    memory: Arc<SlotMemory>,
    /// By slot, the last moment at which something spoke against the end of its taint; empty without tainted slots.
    disturbed: Arc<Vec<Tick>>,
    /// The service tracks every flow again, since then; its bases are kept until nobody needs them.
    leaving: Option<Tick>,
}

impl Slots {
    /// A service that begins: nothing is known of flows from before, so nothing is tainted.
    pub fn new(table: &Arc<Maglev>, members: &[BackendId]) -> Slots {
        Slots {
            cur: SlotAnswers::new(table, members),
            memory: Arc::default(),
            disturbed: Arc::default(),
            leaving: None,
        }
    }

    /// A service that tracked every flow until now: its entries may name any backend, and flows without one follow
    /// the table, so every slot is tainted with its present answer as base.
    pub fn of_tracked(table: &Arc<Maglev>, members: &[BackendId], now: Tick) -> Slots {
        let mut slots = Slots::new(table, members);
        slots.taint_all(now);
        slots
    }

    /// The memory for workers.
    pub fn memory(&self) -> &Arc<SlotMemory> {
        &self.memory
    }

    /// Number of tainted slots.
    pub fn tainted_slots(&self) -> u32 {
        self.memory.tainted_slots()
    }

    /// The service's table is this from now on; each slot whose answer differs is tainted. A table of another size
    /// shares no slot with the former one: then everything begins anew. O(1) when nothing changed, else O(size).
    pub fn follow(&mut self, table: &Arc<Maglev>, members: &[BackendId], now: Tick) {
        if Arc::ptr_eq(&self.cur.table, table) && *self.cur.members == *members {
            return;
        }
        if self.cur.table.size() != table.size() {
            *self = match self.leaving {
                None => Slots::new(table, members),
                leaving => Slots { leaving, ..Slots::of_tracked(table, members, now) },
            };
            return;
        }
        let new = SlotAnswers::new(table, members);
        let changed: Vec<u32> = (0..table.size()).filter(|&slot| self.cur.at(slot) != new.at(slot)).collect();
        // Where there was no backend there is no flow, so the first answer taints nothing.
        let fresh: Vec<(u32, Option<BackendId>)> = changed
            .iter()
            .filter(|&&slot| !self.memory.is_tainted(slot))
            .filter_map(|&slot| Some((slot, Some(self.cur.at(slot)?))))
            .collect();
        self.cur = new;
        if !fresh.is_empty() {
            self.set_memory(SlotMemory::new(table.size(), self.memory.tainted().chain(fresh)));
        }
        self.disturb(changed, now);
    }

    /// Taints every slot, for a change of what is tracked: entries may name other backends even where the table has none.
    fn taint_all(&mut self, now: Tick) {
        let size = self.cur.table.size();
        let fresh = (0..size).filter(|&slot| !self.memory.is_tainted(slot));
        let fresh: Vec<_> = fresh.map(|slot| (slot, self.cur.at(slot))).collect();
        self.set_memory(SlotMemory::new(size, self.memory.tainted().chain(fresh)));
        self.disturb(0..size, now);
    }

    /// The service tracks every flow again. Flows without an entry are not known yet, so their bases stay in force
    /// until [`Slots::has_left`].
    pub fn leave(&mut self, now: Tick) {
        if self.leaving.is_none() {
            self.taint_all(now);
            self.leaving = Some(now);
        }
    }

    /// The service is stateless again after [`Slots::leave`].
    pub fn stay(&mut self, now: Tick) {
        if self.leaving.take().is_some() {
            self.taint_all(now);
        }
    }

    /// Whether every flow that was active lately has an entry by now: nothing needs to be remembered any more.
    /// `refused` is as in [`Slots::retire`].
    pub fn has_left(&self, refused: Option<Tick>, max_idle_us: u64, now: Tick) -> bool {
        self.leaving.is_some_and(|since| now.since_us(since.max(refused.unwrap_or(since))) > max_idle_us)
    }

    /// Whether the service tracks every flow again.
    pub fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// Backends that are not `present` any more are no bases: their flows go to the present answer, and stay there
    /// however the table changes. O(tainted slots).
    pub fn forget(&mut self, present: impl Fn(BackendId) -> bool) {
        let is_gone = |base: Option<BackendId>| base.is_none_or(|backend| !present(backend));
        if self.memory.tainted().any(|(slot, base)| is_gone(base) && self.cur.at(slot) != base) {
            let bases = self.memory.tainted();
            let bases =
                bases.map(|(slot, base)| (slot, if is_gone(base) { self.cur.at(slot) } else { base }));
            self.set_memory(SlotMemory::new(self.cur.table.size(), bases));
        }
    }

    /// Whether flows without an entry may live on this backend although the table does not name it.
    pub fn keeps(&self, backend: BackendId) -> bool {
        self.memory.tainted().any(|(_, base)| base == Some(backend))
    }

    /// The flow tables hold a flow of this slot with this backend, which is in the view.
    pub fn saw(&mut self, slot: u32, backend: BackendId, now: Tick) {
        if self.memory.is_tainted(slot) && self.cur.at(slot) != Some(backend) {
            self.disturb([slot], now);
        }
    }

    /// Ends the taints that no flow needs any more, and tells how many: the slots of which both scans saw nothing but
    /// `cur`, and whose flows without an entry, if `base` is not `cur`, have been silent for `max_idle_us`. `refused` is
    /// when an entry was last refused for want of room: such a flow lives on `base` although it was not silent.
    pub fn retire(&mut self, scans: Scans, refused: Option<Tick>, max_idle_us: u64) -> u32 {
        if self.leaving.is_some() {
            return 0;
        }
        let ends = |slot: u32, base: Option<BackendId>| {
            let disturbed = self.disturbed.get(slot as usize).copied().unwrap_or_default();
            if base == self.cur.at(slot) {
                return disturbed < scans.began;
            }
            let last = disturbed.max(refused.unwrap_or(disturbed));
            last < scans.began && scans.began.since_us(last) > max_idle_us
        };
        let before = self.tainted_slots();
        if !self.memory.tainted().any(|(slot, base)| ends(slot, base)) {
            return 0;
        }
        let kept = self.memory.tainted().filter(|&(slot, base)| !ends(slot, base));
        self.set_memory(SlotMemory::new(self.cur.table.size(), kept));
        before - self.tainted_slots()
    }

    /// Ends all taints, of a service that has not met a packet yet although every worker uses its newest table.
    pub fn retire_unused(&mut self) -> u32 {
        if self.leaving.is_some() {
            return 0;
        }
        let before = self.tainted_slots();
        self.set_memory(SlotMemory::default());
        before
    }

    fn set_memory(&mut self, memory: SlotMemory) {
        if !memory.is_any_tainted() {
            self.disturbed = Arc::default();
        }
        self.memory = Arc::new(memory);
    }

    fn disturb(&mut self, slots: impl IntoIterator<Item = u32>, now: Tick) {
        if !self.memory.is_any_tainted() {
            return;
        }
        let size = self.cur.table.size() as usize;
        let disturbed = Arc::make_mut(&mut self.disturbed);
        disturbed.resize(size, Tick(0));
        for slot in slots {
            if let Some(last) = disturbed.get_mut(slot as usize) {
                *last = now;
            }
        }
    }
}

/// What is remembered of services.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memories {
    /// `None`: tracks every flow, and needs no memory.
    services: HashMap<ServiceId, Option<Slots>>,
}

impl Memories {
    /// Follows a service's table, and gives it its memory. Call it once a compilation, when all backends are known.
    pub(crate) fn attend(
        &mut self,
        service: &mut ServiceView,
        is_stateless: bool,
        backends: &[Option<BackendView>],
        now: Tick,
    ) {
        let (table, members) = (&service.maglev, &service.members[..]);
        let entry = self.services.entry(service.id);
        let is_first = matches!(entry, std::collections::hash_map::Entry::Vacant(_));
        let kept = entry.or_default();
        match kept {
            Some(slots) => {
                slots.follow(table, members, now);
                if is_stateless { slots.stay(now) } else { slots.leave(now) }
            }
            None if is_stateless && is_first => *kept = Some(Slots::new(table, members)),
            None if is_stateless => *kept = Some(Slots::of_tracked(table, members, now)),
            None => {}
        }
        if let Some(slots) = kept {
            slots.forget(|id| {
                let backend = backends.get(id.index()).and_then(Option::as_ref);
                backend.is_some_and(|backend| backend.service == service.id)
            });
        }
        service.memory = kept.as_ref().map(|slots| Arc::clone(slots.memory()));
    }

    /// Forgets services whose ids may be given to others.
    pub(crate) fn retain(&mut self, is_known: impl Fn(ServiceId) -> bool) {
        self.services.retain(|id, _| is_known(*id));
    }

    #[cfg(feature = "daemon")]
    pub(crate) fn get(&self, id: ServiceId) -> Option<&Slots> {
        self.services.get(&id)?.as_ref()
    }

    #[cfg(feature = "daemon")]
    pub(crate) fn get_mut(&mut self, id: ServiceId) -> Option<&mut Slots> {
        self.services.get_mut(&id)?.as_mut()
    }

    #[cfg(feature = "daemon")]
    /// The service needs no memory any more.
    pub(crate) fn drop_slots(&mut self, id: ServiceId) {
        if let Some(kept) = self.services.get_mut(&id) {
            *kept = None;
        }
    }
}

/// The slot of a flow, as the worker computes it. `key` must be one of this service's; `vip` is its address, port and
/// protocol; where these are many (prefix, any port) the key says which.
pub fn slot_of(cluster_key: &[u8; 16], service: &ServiceView, vip: (Addr, u16, u8), key: &FlowKey) -> u32 {
    let flow = flow_of(key, vip);
    let hash = match service.hash {
        HashOn::Tuple => steer::hash::tuple(cluster_key, &flow),
        HashOn::Source => steer::hash::source(cluster_key, flow.src),
    };
    service.maglev.slot(hash)
}

/// The flow that a key of a service (VIP, port, protocol) stands for.
#[expect(clippy::cast_possible_truncation, reason = "fields are taken out of words")]
pub(crate) fn flow_of(key: &FlowKey, (vip, port, protocol): (Addr, u16, u8)) -> Tuple {
    use Addr::{V4, V6};
    match *key {
        FlowKey::Narrow(key) => {
            Tuple { src: V4((key >> 32) as u32), dst: vip, sport: (key >> 16) as u16, dport: port, protocol }
        }
        FlowKey::Wide(key) => {
            let low = key.middle as u32;
            let (src, dst) = match vip {
                V4(_) => (V4(key.src[1] as u32), V4(low)),
                V6(vip) => (
                    V6(u128::from(key.src[0]) << 64 | u128::from(key.src[1])),
                    V6(vip >> 32 << 32 | u128::from(low)),
                ),
            };
            Tuple { src, dst, sport: (key.middle >> 48) as u16, dport: key.dport, protocol }
        }
    }
}

#[cfg(test)]
mod tests;
