//! How much memory is needed: a limit on everything, fixed at start.

use dpdk::mempool::{CACHE, data_room, pool_bytes};
use flow::{Memory, NarrowBucket, WideBucket};
use model::Config;
use statesync::window::Windows;
use worker::BURST;
use worker::cluster::SyncSize;

/// Frames a ring between two workers holds.
pub(crate) const RING_DEPTH: usize = 256;
/// Frames a worker may hold back besides: fragments waiting for their first.
const HELD: u32 = worker::fragments::HELD_MAX as u32;
/// Descriptors of an exception port's queue (net_tap's own default), both directions, with as many again in flight.
const EXCEPTION_RING: u32 = 2 * 2048;
/// AF_XDP keeps a fill ring and a completion ring of this size beside a queue's own.
const XDP_RINGS: u32 = 2 * 2048;

/// What a worker of a cluster knows of flows beside its flow table: fixed at start.
pub(crate) const SYNC: SyncSize = SyncSize { records: 1 << 18, unacknowledged: 1 << 15, asks: 1 << 12 };

/// Bytes of that, as the types' documents have it, and of what all workers of the machine share.
pub(crate) fn sync_bytes(workers: usize) -> u64 {
    SYNC.bytes() * workers as u64 + Windows::BYTES
}

/// What the devices of the pool need.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct QueueNeed {
    /// Descriptors of one queue, both directions.
    pub(crate) rings: u32,
    /// AF_XDP: more rings, and no buffer above a page.
    pub(crate) af_xdp: bool,
    /// Has an exception port.
    pub(crate) exception: bool,
    /// Largest IP datagram.
    pub(crate) mtu: u16,
}

/// Buffers and their data room for all ports of a pool.
pub(crate) fn pool(needs: &[QueueNeed], workers: usize) -> (u32, u16) {
    let workers = u32::try_from(workers).unwrap_or(u32::MAX);
    let per_worker: u32 = needs
        .iter()
        .map(|need| {
            let own = need.rings + if need.af_xdp { XDP_RINGS } else { 0 };
            own + if need.exception { EXCEPTION_RING } else { 0 }
        })
        .sum::<u32>()
        // A cache may hold half as much again as its size.
        + 2 * CACHE
        + HELD
        + RING_DEPTH as u32
        + 8 * BURST as u32;
    // A pool is best one less than a power of two.
    let count = per_worker.saturating_mul(workers).saturating_add(1).checked_next_power_of_two();
    let mtu = needs.iter().map(|need| need.mtu).max().unwrap_or(1500);
    (count.unwrap_or(u32::MAX) - 1, data_room(mtu, needs.iter().any(|need| need.af_xdp)))
}

/// Buckets of a worker's tables: narrow, wide.
pub(crate) fn buckets(config: &Config) -> (usize, usize) {
    let flows = |flows: u64| usize::try_from(flows).unwrap_or(usize::MAX);
    (
        Memory::<NarrowBucket>::buckets_for(flows(config.workers.flows)),
        Memory::<WideBucket>::buckets_for(flows(config.workers.wide_flows)),
    )
}

/// Bytes of a worker's tables.
pub(crate) fn table_bytes(config: &Config) -> u64 {
    let (narrow, wide) = buckets(config);
    (narrow * size_of::<NarrowBucket>() + wide * size_of::<WideBucket>()) as u64
}

/// Huge-page memory wanted before the devices are known, for the remedy when there is none.
pub(crate) fn estimate_bytes(config: &Config) -> u64 {
    let workers = config.workers.cpus.len();
    let needs: Vec<QueueNeed> = config
        .ports
        .iter()
        .map(|port| QueueNeed {
            rings: 2 * 2048,
            af_xdp: port.device.starts_with("net_af_xdp"),
            exception: port.exception.is_some(),
            mtu: port.mtu,
        })
        .collect();
    let (count, room) = pool(&needs, workers);
    // EAL and the drivers take some for themselves.
    const REST: u64 = 32 << 20;
    pool_bytes(count, room) + table_bytes(config) * workers as u64 + REST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_larger_than_what_can_be_held() {
        let need = QueueNeed { rings: 4096, af_xdp: true, exception: true, mtu: 1500 };
        assert_eq!(pool(&[need], 1), (16_383, 2176));
        let plain = QueueNeed { rings: 2048, af_xdp: false, exception: false, mtu: 9000 };
        assert_eq!(pool(&[plain, plain], 2), (16_383, 10_368));
        assert!(pool(&[need; 32], 64).0 >= 32 * 64 * (4096 + 4096 + 4096));
    }
}
