//! Second stage: the burst's keys against this worker's flow table, in two passes so that cache misses overlap.

use crate::classify::{Fate, Packet};
use crate::io::PacketIo;
use crate::{BURST, Worker};
use wire::{FlowKey, Tick};

impl<Io: PacketIo> Worker<Io> {
    pub(crate) fn look_up(&self, batch: &mut [Packet], now: Tick) {
        let mut keys: [Option<FlowKey>; BURST] = [None; BURST];
        let mut hits: [Option<flow::Hit>; BURST] = [None; BURST];
        for (key, packet) in keys.iter_mut().zip(batch.iter()) {
            *key = matches!(packet.fate, Fate::Flow | Fate::Quoted).then_some(packet.key);
        }
        let count = batch.len().min(BURST);
        self.flows.lookup_burst(&keys[..count], now, &mut hits[..count]);
        for (packet, hit) in batch.iter_mut().zip(hits) {
            packet.hit = hit;
        }
    }
}
