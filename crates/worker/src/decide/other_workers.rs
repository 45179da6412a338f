//! What other workers know of a flow. While a NIC's choice of queue stays, all packets of a flow come to one worker, so that nearly
//! every packet without an entry begins a flow, and nobody knows it. But the choice may change; a datagram in fragments comes to the
//! worker that owns the fragments, and an ICMP error to any. Which worker the flow is with cannot be computed: NICs and the kernel hash by
//! keys of their own. So the others are asked in turn, and a budget of looks into their tables keeps a flood of packets of no flow
//! from being the dearer the more workers there are. What is not asked about goes by its slot, which is wrong only for flows whose
//! slot's answer has changed since they began.

use crate::decide::flows::Flows;
use crate::decide::known::{begins_a_flow, usable};
use crate::describe::general::{Fate, FlowPacket};
use wire::{BackendId, FlowKey, Tick};

impl Flows {
    /// The backend of a flow that another worker knows, as far as the budget allows to ask.
    pub(crate) fn known_elsewhere(&mut self, of: &FlowPacket<'_>, key: &FlowKey) -> Option<BackendId> {
        let FlowPacket { now, service, packet, .. } = *of;
        // A SYN begins anew; with policy least-load it asks all the same, because it may be a copy of one that another worker has placed.
        if self.peers.len() < 2 || begins_a_flow(packet) && service.least_load().is_none() {
            return None;
        }
        let is_stray = packet.fate == Fate::Quoted || packet.parsed.fragment.is_some();
        let looks = if is_stray { &mut self.looks.strays } else { &mut self.looks.misses };
        if !looks.take_all(self.peers.len() as u64 - 1, now) {
            self.counters.totals.flow_unasked.add(1);
            return None;
        }
        let own = usize::from(self.core.0);
        let others = self.peers.iter().enumerate().filter(|(core, _)| *core != own);
        others
            .filter_map(|(_, reader)| reader.get(key, now))
            .find(|hit| usable(of, hit))
            .map(|hit| hit.backend)
    }

    /// Of these positions of whole packets that are no SYNs, those about which nobody can be asked any more: all but the first ones.
    pub(crate) fn not_to_be_asked(&mut self, positions: u32, now: Tick) -> u32 {
        if positions == 0 {
            return 0;
        }
        let others = (self.peers.len() as u64).max(2) - 1;
        let mut left = positions;
        for _ in 0..(self.looks.misses.whole(now) / others).min(u64::from(u32::BITS)) {
            left &= left.wrapping_sub(1);
        }
        left
    }
}
