//! Second stage: the keys of the burst against this worker's flow table, all at once, so that cache misses overlap; and those of
//! several bursts, where more than one waits, so that they overlap with everything else.

use crate::Worker;
use crate::decide::known::LookupResult;
use crate::describe::general::{Fate, Packet, key_of};
use crate::fast::Batch;
use crate::io::PacketIo;
use crate::view::View;
use arrayvec::ArrayVec;
use flow::{Hits, Keys};
use wire::FlowKey;
use wire::parse::Kind;

/// A burst's keys and what was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LookedUp<'l> {
    pub(crate) keys: &'l Keys,
    pub(crate) hits: &'l Hits,
}

impl LookedUp<'_> {
    #[inline]
    pub(crate) fn answer(self, position: usize) -> LookupResult {
        LookupResult { hit: self.hits.get(position), miss: self.hits.miss(position) }
    }
}

/// Bursts in a row: received one after the other while the lines of those before are on their way, so that memory and processor do not
/// wait for each other. Boxes change places; nothing is copied.
#[derive(Debug)]
pub(crate) struct Train {
    pub(crate) row: flow::LookupPipeline,
    /// Of a burst that is alone.
    pub(crate) hits: Hits,
    /// Descriptions of the bursts on their way, the first one first.
    pub(crate) waiting: ArrayVec<Box<Batch>, ON_THEIR_WAY>,
    /// Others.
    pub(crate) spare: ArrayVec<Box<Batch>, ON_THEIR_WAY>,
}

/// Bursts of a row that are begun before the first of them is finished.
pub(crate) const ON_THEIR_WAY: usize = 3;

impl Train {
    pub(crate) fn new() -> Train {
        Train {
            row: flow::LookupPipeline::new(),
            hits: Hits::new(),
            waiting: ArrayVec::new(),
            spare: core::array::from_fn(|_| Box::default()).into(),
        }
    }
}

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
