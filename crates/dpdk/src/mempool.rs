//! A pool of packet buffers.

use crate::eal::{self, Eal};
use crate::errno::Errno;
use crate::huge_pages;
use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;

/// Buffers an lcore keeps to itself. A pool should have several times this many per lcore more than its queues hold.
pub const CACHE: u32 = 256;
/// Bytes in front of a received frame; room for the outer header.
pub const HEADROOM: u16 = dpdk_sys::RTE_PKTMBUF_HEADROOM as u16;
/// Ethernet header and two VLAN tags.
const LINK_HEADER: u32 = 14 + 4 + 4;
/// AF_XDP puts 256 bytes of its own in front of a frame.
const XDP_HEADROOM: u32 = 256;
/// Bytes of a buffer besides its data: pool header, `rte_mbuf`.
const OVERHEAD: u32 = 64 + 128;
/// AF_XDP accepts buffers of at most one page, all included; the pool pads them to an odd number of cache lines.
const XDP_BUFFER_MAX: u32 = 4096 - 64;
/// Largest MTU on an AF_XDP port.
pub const XDP_MTU_MAX: u16 =
    (XDP_BUFFER_MAX - OVERHEAD - HEADROOM as u32 - XDP_HEADROOM - LINK_HEADER) as u16;

/// Why there is no pool.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PoolError {
    /// The name contains a NUL byte.
    #[error("pool name {0:?} contains a NUL byte")]
    Name(String),
    /// Huge pages are short.
    #[error("no memory for {count} packet buffers of {room} bytes on NUMA socket {socket} [{errno}]; {help}")]
    NoMemory {
        /// Buffers asked for.
        count: u32,
        /// Data room of each.
        room: u16,
        /// Socket asked for; -1 is any.
        socket: i32,
        /// DPDK's reason.
        errno: Errno,
        /// What to do.
        help: String,
    },
    /// Something else.
    #[error(
        "cannot create the pool of {count} packet buffers [{errno}]; is librte_mempool_ring installed with \
         the other drivers?"
    )]
    Refused {
        /// Buffers asked for.
        count: u32,
        /// DPDK's reason.
        errno: Errno,
    },
}

/// Data room of a buffer that holds a frame of this MTU in one segment, bytes; headroom included. `within_page`: for
/// AF_XDP, where a buffer may not exceed a page.
pub fn data_room(mtu: u16, within_page: bool) -> u16 {
    let frame = XDP_HEADROOM + u32::from(mtu) + LINK_HEADER;
    // Several NICs use buffers in units of 1 KiB.
    let room = u32::from(HEADROOM) + frame.next_multiple_of(1024).max(2048);
    let room = if within_page { room.min(XDP_BUFFER_MAX - OVERHEAD) } else { room };
    u16::try_from(room).unwrap_or(u16::MAX)
}

/// Memory of a pool, bytes.
pub fn pool_bytes(count: u32, room: u16) -> u64 {
    u64::from(count) * u64::from(u32::from(room) + OVERHEAD)
}

/// A pool; cloning shares it.
#[derive(Clone, Debug)]
pub struct Mempool {
    inner: Arc<PoolHandle>,
}

#[derive(Debug)]
struct PoolHandle {
    pool: NonNull<dpdk_sys::rte_mempool>,
    count: u32,
    room: u16,
    _eal: Eal,
}

// SAFETY: the pool is a multi-producer, multi-consumer ring with caches per lcore; all operations may be called from any thread.
unsafe impl Send for PoolHandle {}
// SAFETY: as above.
unsafe impl Sync for PoolHandle {}

impl Mempool {
    /// A pool of `count` buffers (best a power of two less one) with `room` bytes each (see [`data_room`]).
    ///
    /// # Errors
    /// [`PoolError`].
    pub fn create(
        eal: &Eal,
        name: &str,
        count: u32,
        room: u16,
        socket: Option<u16>,
    ) -> Result<Mempool, PoolError> {
        let c_name = CString::new(name).map_err(|_| PoolError::Name(name.to_owned()))?;
        // DPDK refuses a cache above 2/3 of the pool.
        let cache = CACHE.min(count / 2);
        let wanted = socket.map_or(dpdk_sys::SOCKET_ID_ANY, i32::from);
        for socket in [wanted, dpdk_sys::SOCKET_ID_ANY] {
            // SAFETY: EAL is started; the name is a C string and is copied.
            let pool =
                unsafe { dpdk_sys::rte_pktmbuf_pool_create(c_name.as_ptr(), count, cache, 0, room, socket) };
            if let Some(pool) = NonNull::new(pool) {
                return Ok(Mempool { inner: Arc::new(PoolHandle { pool, count, room, _eal: eal.clone() }) });
            }
        }
        let errno = Errno::last();
        Err(if errno == Errno::NOMEM {
            let help = huge_pages::remedy(pool_bytes(count, room));
            PoolError::NoMemory { count, room, socket: wanted, errno, help }
        } else {
            PoolError::Refused { count, errno }
        })
    }

    /// Buffers in all.
    pub fn count(&self) -> u32 {
        self.inner.count
    }

    /// Buffers not in use, those in the lcores' caches included. Exact only while nobody allocates or frees.
    pub fn available(&self) -> u32 {
        self.inner.available()
    }

    /// Memory, bytes.
    pub fn bytes(&self) -> u64 {
        pool_bytes(self.inner.count, self.inner.room)
    }

    pub(crate) fn as_ptr(&self) -> *mut dpdk_sys::rte_mempool {
        self.inner.pool.as_ptr()
    }
}

impl PoolHandle {
    fn available(&self) -> u32 {
        // SAFETY: the pool is alive.
        unsafe { dpdk_sys::rte_mempool_avail_count(self.pool.as_ptr()) }
    }
}

impl Drop for PoolHandle {
    fn drop(&mut self) {
        if self.available() < self.count {
            // A driver kept buffers, or an Mbuf is still alive somewhere: the pool must stay, and its memory too.
            eal::pin_memory();
            return;
        }
        // SAFETY: every buffer is back, so nobody refers to the pool.
        unsafe { dpdk_sys::rte_mempool_free(self.pool.as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_hold_their_frames() {
        assert_eq!(data_room(1500, false), 2176, "DPDK's default at the usual MTU");
        assert_eq!(data_room(1500, true), 2176);
        for mtu in [576_u16, 1280, 1500, 2000, 4000, 9000] {
            let room = u32::from(data_room(mtu, false));
            assert!(room >= 128 + 256 + 22 + u32::from(mtu), "{mtu}: {room}");
            assert_eq!((room - 128) % 1024, 0);
        }
        assert_eq!(XDP_MTU_MAX, 3434);
        assert!(u32::from(data_room(XDP_MTU_MAX, true)) + OVERHEAD <= XDP_BUFFER_MAX);
        assert!(u32::from(data_room(XDP_MTU_MAX, true)) >= 128 + 256 + 22 + u32::from(XDP_MTU_MAX));
    }
}
