//! One burst of received frames: what is known of each position, and what is done with it.
//!
//! Almost every position is *plain* ([`wire::plain`], with a service): eight bytes describe it ([`PacketSummary`]), the flow table's answer stands
//! in [`flow::Hits`], and its action is a backend in [`Burst::backends`]. Every other position has a [`Packet`] with an
//! [`Action`](crate::Action) of its own. The masks have a bit a position, and each says one thing, for itself.

use crate::BURST;
use crate::describe::columns::{HeaderColumns, PacketSummary};
use crate::describe::general::Packet;
use crate::label::Label;
use arrayvec::ArrayVec;
use flow::Hits;
use wire::{BackendId, ServiceId};

/// Services whose packets of a burst are found together, by comparing all packets with one; those of any further service are
/// looked up one by one.
pub(crate) const SERVICES_TOGETHER: usize = 4;

/// A received burst, by position.
#[derive(Debug, Default)]
pub(crate) struct Burst {
    pub(crate) columns: HeaderColumns,
    /// Plain positions.
    pub(crate) plain: u32,
    /// Services with packets in this burst, and their positions: at most [`SERVICES_TOGETHER`].
    pub(crate) groups: ArrayVec<(u32, ServiceId), SERVICES_TOGETHER>,
    /// Plain positions that are placed as new flows if the look-up does not find them: IPv4, of a service that tracks every flow.
    pub(crate) may_begin: u32,
    /// Plain positions whose slot alone decides.
    pub(crate) by_slot: u32,
    /// Plain positions whose slot alone decides, and has no backend.
    pub(crate) by_empty_slot: u32,
    /// Plain positions that have been placed as new flows.
    pub(crate) placed: u32,
    /// Plain positions whose slot is known already.
    pub(crate) slotted: u32,
    /// Slots, where they are known.
    pub(crate) slots: [u32; BURST],
    /// Whom plain positions go to: first of those that were decided without an entry (`by_slot`, `placed`); once the burst is carried, of
    /// all others, too, as their entries have it.
    pub(crate) backends: [BackendId; BURST],
    /// The other positions, in order.
    pub(crate) others: ArrayVec<Packet, BURST>,
}

impl Burst {
    #[inline(always)]
    pub(crate) fn summary(&self, position: usize) -> PacketSummary {
        PacketSummary(self.columns.summary[position % BURST])
    }

    /// Of the given positions, those that have the first one's service, as far as they were found together.
    #[inline(always)]
    pub(crate) fn of_first(&self, positions: u32) -> u32 {
        let first = positions & positions.wrapping_neg();
        let group = self.groups.iter().find(|(of_it, _)| of_it & first != 0);
        group.map_or(first, |(of_it, _)| of_it & positions)
    }

    /// Index of its service in the view.
    #[inline(always)]
    pub(crate) fn service_index(&self, position: usize) -> usize {
        usize::from(self.summary(position).index())
    }

    /// The positions that were decided without an entry.
    #[inline(always)]
    pub(crate) fn decided(&self) -> u32 {
        self.by_slot | self.placed
    }

    /// Notes the backends of entries beside those that were decided without.
    #[inline(always)]
    pub(crate) fn join(&mut self, decided: u32, hits: &Hits) {
        for (position, backend) in self.backends.iter_mut().enumerate() {
            let by_entry = (decided >> position & 1).wrapping_sub(1);
            backend.0 = hits.backend(position).0 & by_entry | backend.0 & !by_entry;
        }
    }

    /// Whom a packet goes to that was decided without an entry, or whose entry decides; once the burst is carried.
    #[inline(always)]
    pub(crate) fn backend(&self, position: usize) -> BackendId {
        self.backends[position % BURST]
    }

    /// What is counted of a packet that was carried.
    #[inline(always)]
    pub(crate) fn label(&self, position: usize) -> Label {
        self.label_to(position, self.backend(position))
    }

    /// What is counted of a packet that goes to this backend.
    #[inline(always)]
    pub(crate) fn label_to(&self, position: usize, backend: BackendId) -> Label {
        let summary = self.summary(position);
        Label::plain(ServiceId(summary.service()), backend, summary.len())
    }
}

/// The positions whose bits are set, ascending.
#[inline(always)]
pub(crate) fn bits(mut mask: u32) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let position = (mask != 0).then(|| mask.trailing_zeros() as usize)?;
        mask &= mask - 1;
        Some(position)
    })
}

/// Whether the position's bit is set.
#[inline(always)]
pub(crate) const fn is_in(mask: u32, position: usize) -> bool {
    mask >> (position % BURST) & 1 == 1
}

/// The first so many positions.
#[inline(always)]
pub(crate) const fn everything(count: usize) -> u32 {
    if count < BURST { (1 << count) - 1 } else { u32::MAX }
}

/// Of the given positions, those that `holds` says.
#[inline(always)]
pub(crate) fn those(positions: u32, mut holds: impl FnMut(usize) -> bool) -> u32 {
    bits(positions).fold(0, |those, position| those | u32::from(holds(position)) << (position % BURST))
}
