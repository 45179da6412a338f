//! DPDK's own hash table (`rte_hash`), for measurements beside ours: 8-byte keys, 8-byte values, one thread.

use crate::eal::Eal;
use crate::errno::Errno;
use core::ffi::{c_char, c_void};
use std::ffi::CString;
use std::ptr::NonNull;

/// Keys a bulk look-up takes at once (`RTE_HASH_LOOKUP_BULK_MAX`).
pub const BULK_MAX: usize = 64;

/// No table.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("DPDK makes no hash table of {entries} entries [{errno}]; there may be too few huge pages")]
pub struct HashError {
    /// Entries asked for.
    pub entries: u32,
    /// DPDK's reason.
    pub errno: Errno,
}

/// A table; dropping frees it.
#[derive(Debug)]
pub struct HashTable {
    table: NonNull<dpdk_sys::rte_hash>,
    _eal: Eal,
}

impl HashTable {
    /// An empty table for `entries` keys, with DPDK's default hash function (CRC32C on x86) and without locks.
    ///
    /// # Errors
    /// [`HashError`]; names that exist or contain NUL are refused as invalid.
    pub fn create(eal: &Eal, name: &str, entries: u32) -> Result<HashTable, HashError> {
        let refused = |errno| HashError { entries, errno };
        let name = CString::new(name).map_err(|_| refused(Errno::INVAL))?;
        let parameters = dpdk_sys::rte_hash_parameters {
            name: name.as_ptr().cast::<c_char>(),
            entries,
            key_len: 8,
            hash_func: None,
            socket_id: dpdk_sys::SOCKET_ID_ANY,
            ..Default::default()
        };
        // SAFETY: EAL is started; the parameters and the name live during the call and are copied.
        let table = unsafe { dpdk_sys::rte_hash_create(&raw const parameters) };
        match NonNull::new(table) {
            Some(table) => Ok(HashTable { table, _eal: eal.clone() }),
            None => Err(refused(Errno::last())),
        }
    }

    /// Inserts or overwrites; false when the table is full.
    #[inline]
    pub fn insert(&mut self, key: u64, value: u64) -> bool {
        let value = std::ptr::without_provenance_mut::<c_void>(value as usize);
        // SAFETY: the table is alive and ours alone; 8 bytes of key are read during the call; the value is only stored.
        unsafe { dpdk_sys::rte_hash_add_key_data(self.table.as_ptr(), (&raw const key).cast(), value) == 0 }
    }

    /// Removes; false when there is no such key.
    #[inline]
    pub fn remove(&mut self, key: u64) -> bool {
        // SAFETY: as above.
        unsafe { dpdk_sys::rte_hash_del_key(self.table.as_ptr(), (&raw const key).cast()) >= 0 }
    }

    /// Looks up at most [`BULK_MAX`] keys; bit `i` of the answer says that `values[i]` is the value of `keys[i]`.
    /// Places without a hit keep what they held. The shorter of the two slices decides.
    #[inline]
    pub fn lookup_bulk(&self, keys: &[u64], values: &mut [u64; BULK_MAX]) -> u64 {
        let mut places = [std::ptr::null::<c_void>(); BULK_MAX];
        let count = keys.len().min(BULK_MAX);
        for (place, key) in places.iter_mut().zip(keys) {
            *place = std::ptr::from_ref(key).cast();
        }
        let mut hits = 0_u64;
        let data = values.as_mut_ptr().cast::<*mut c_void>();
        // SAFETY: `count` pointers to 8 readable bytes each, room for `count` values of pointer size, and one mask.
        let found = unsafe {
            dpdk_sys::rte_hash_lookup_bulk_data(
                self.table.as_ptr(),
                places.as_mut_ptr(),
                count as u32,
                &raw mut hits,
                data,
            )
        };
        if found < 0 { 0 } else { hits }
    }

    /// Forgets all keys.
    pub fn clear(&mut self) {
        // SAFETY: the table is alive and ours alone.
        unsafe { dpdk_sys::rte_hash_reset(self.table.as_ptr()) };
    }

    /// Keys in it.
    pub fn len(&self) -> usize {
        // SAFETY: the table is alive.
        usize::try_from(unsafe { dpdk_sys::rte_hash_count(self.table.as_ptr()) }).unwrap_or(0)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for HashTable {
    fn drop(&mut self) {
        // SAFETY: made by rte_hash_create and freed once.
        unsafe { dpdk_sys::rte_hash_free(self.table.as_ptr()) };
    }
}
