//! One worker's queues: bursts in, bursts out.

use crate::mbuf::{self, Mbuf};
use crate::mempool::Mempool;
use crate::port;
use core::mem::ManuallyDrop;
use std::sync::Arc;
use wire::PortId;
use worker::{Frames, PacketIo};

/// A receive queue and the transmit queue of the same number on one port. Exists once, so its owner is the only thread
/// that polls it, as DPDK demands; keeps the port open.
#[derive(Debug)]
pub struct Queue {
    pub(crate) port: Arc<port::PortHandle>,
    pub(crate) index: u16,
}

/// A worker's [`PacketIo`]: its queue on every port.
#[derive(Debug)]
pub struct DpdkIo {
    queues: Vec<Queue>,
    pool: Mempool,
}

impl DpdkIo {
    /// `queues[i]` is port `i` of the engine; `pool` gives buffers for packets of our own.
    pub fn new(queues: Vec<Queue>, pool: Mempool) -> DpdkIo {
        DpdkIo { queues, pool }
    }

    /// Gives a port another queue, between two turns, and returns the one it had; `None` if there is no such port. The returned queue keeps
    /// its own port open, so whoever drops the last one of a port closes it.
    pub fn exchange(&mut self, port: PortId, queue: Queue) -> Option<Queue> {
        let place = self.queues.get_mut(port.index())?;
        Some(core::mem::replace(place, queue))
    }

    /// Ports.
    pub fn ports(&self) -> usize {
        self.queues.len()
    }
}

impl PacketIo for DpdkIo {
    type Frame = Mbuf;

    #[inline]
    fn rx(&mut self, port: PortId, burst: &mut Frames<Mbuf>) {
        let Some(queue) = self.queues.get_mut(port.index()) else { return };
        let len = burst.len();
        let room = burst.remaining_capacity() as u16; // at most BURST
        // SAFETY: the address is inside the array, or one past it when the room is 0.
        let first = unsafe { burst.as_mut_ptr().add(len) };
        // SAFETY: the port is started (kept open by the queue), this queue is polled by its only owner, and there is room for `room` pointers.
        let received =
            unsafe { dpdk_sys::shim_eth_rx_burst(queue.port.id, queue.index, mbuf::as_raw(first), room) };
        debug_assert!(received <= room, "driver {} overran the burst", queue.port.driver);
        // SAFETY: the driver wrote `received` <= `room` non-null pointers to buffers that are now ours.
        unsafe { burst.set_len(len + usize::from(received)) };
        for mbuf in &mut burst[len..] {
            mbuf.set_received(port);
        }
    }

    #[inline]
    fn tx(&mut self, port: PortId, burst: &mut Frames<Mbuf>) {
        let Some(queue) = self.queues.get_mut(port.index()) else { return };
        let len = burst.len();
        if len == 0 {
            return;
        }
        let first = burst.as_mut_ptr();
        // SAFETY: nothing is dropped by this; until the length is set again the buffers belong to nobody, which at worst leaks them.
        unsafe { burst.set_len(0) };
        // SAFETY: the port is started, this queue is used by its only owner, and `first` holds `len` owned buffers.
        let sent = unsafe {
            dpdk_sys::shim_eth_tx_burst(queue.port.id, queue.index, mbuf::as_raw(first), len as u16)
        };
        let sent = usize::from(sent).min(len);
        // SAFETY: inside the array, since sent <= len.
        let rest = unsafe { first.add(sent) };
        // SAFETY: both ranges lie inside the array; the first `sent` buffers belong to the driver and are only overwritten.
        unsafe { std::ptr::copy(rest, first, len - sent) };
        // SAFETY: the first len - sent places hold the buffers that the driver did not take.
        unsafe { burst.set_len(len - sent) };
    }

    fn alloc(&mut self, n: usize, burst: &mut Frames<Mbuf>) {
        let n = n.min(burst.remaining_capacity());
        let len = burst.len();
        // SAFETY: the address is inside the array, or one past it when n is 0.
        let first = unsafe { burst.as_mut_ptr().add(len) };
        // SAFETY: the pool is alive, and there is room for n <= BURST pointers.
        let result =
            unsafe { dpdk_sys::shim_pktmbuf_alloc_bulk(self.pool.as_ptr(), mbuf::as_raw(first), n as u32) };
        if result == 0 {
            // SAFETY: all n places were filled with owned buffers.
            unsafe { burst.set_len(len + n) };
            return;
        }
        // All or nothing, and it was nothing: take what is left one by one.
        for _ in 0..n {
            match Mbuf::alloc(&self.pool) {
                Some(mbuf) => burst.push(mbuf),
                None => return,
            }
        }
    }

    fn recycle(&mut self, burst: &mut Frames<Mbuf>) {
        let len = burst.len();
        if len == 0 {
            return;
        }
        let first = burst.as_mut_ptr().cast::<ManuallyDrop<Mbuf>>();
        // SAFETY: the buffers are handed over to free_bulk below, so they must not be dropped here.
        unsafe { burst.set_len(0) };
        // SAFETY: `first` holds `len` buffers; the array outlives the slice and nobody else refers to it.
        let mbufs = unsafe { std::slice::from_raw_parts_mut(first, len) };
        mbuf::free_bulk(mbufs);
    }
}
