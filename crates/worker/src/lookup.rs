//! Second stage: the keys of the burst against this worker's flow table, all at once, so that cache misses overlap.

use crate::Worker;
use crate::classify::{Fate, Packet, key_of};
use crate::io::PacketIo;
use crate::view::View;
use wire::FlowKey;
use wire::parse::Kind;

impl<Io: PacketIo> Worker<Io> {
    /// The key to look up for a packet, if any. TCP of an untainted slot needs none: it is decided here, by the slot.
    #[inline]
    pub(crate) fn key(&mut self, view: &View, bytes: &[u8], packet: &mut Packet) -> Option<FlowKey> {
        if !matches!(packet.fate, Fate::Flow | Fate::Quoted) {
            return None;
        }
        let service = view.service.get(usize::from(packet.service?))?;
        if service.memory.is_some() && self.steer_by_slot(view, service, bytes, packet) {
            return None;
        }
        Some(match packet.parsed.kind {
            Kind::IcmpError => key_of(service, &packet.flow(bytes)),
            _ => key_of(service, &packet.parsed.tuple(bytes)),
        })
    }
}
