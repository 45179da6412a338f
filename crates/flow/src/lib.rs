//! The flow table: which backend a flow belongs to. One writer, lock-free readers, exact, bounded, ageing.
//!
//! Rules of this crate:
//! * **A hit is exact.** Buckets hold whole keys, so a flow can never be sent to another flow's backend.
//! * **One worker writes a [`Table`]**, anyone may read it through a [`Reader`] without locks. A bucket is one cache
//!   line under a sequence lock; every word of it is an atomic (from [`sync`]).
//! * **Nothing grows**: memory is given at the start, and a full table refuses. Flows of which one packet was seen
//!   (*untrusted*) have a quota and never displace the others (*trusted*).
//! * **A look-up costs one cache line, and those of a burst overlap**: flows live in their primary bucket while it has room, a
//!   filter in each bucket answers for nearly all the keys that are not there, and the vector units compare a whole line
//!   at once ([`simd`], the only module with unsafe code).
//! * No clock: every call is told the time. No allocation after [`Table::new`].
//!
//! Read [`bucket`] for the layout, the filter and the lock, `cells` for the readers' look-up, [`cuckoo`] for placement, [`simd`] for burst look-ups,
//! [`hash`] for the hash, [`ageing`] for time. `LOOM.md` beside the
//! sources says which orderings were proven necessary, and how.
#![deny(unsafe_code)]

pub mod ageing;
mod bits;
pub mod bucket;
pub mod burst;
mod cells;
pub mod cuckoo;
pub mod dirty;
pub mod hash;
mod insert;
mod lookup_pipeline;
pub mod memory;
pub mod reader;
mod search;
pub mod simd;
pub mod stamp;
pub mod state;
pub mod sync;
pub mod table;

pub use ageing::Idle;
pub use bucket::{NarrowBucket, WideBucket};
pub use burst::{BURST, Entered, Hits, Keys, Miss, NewFlows};
pub use insert::{Insert, InsertRefusal, Inserted};
pub use lookup_pipeline::LookupPipeline;
pub use memory::Memory;
pub use reader::Reader;
pub use simd::{Isa, Lanes, Vectors, isa};
pub use stamp::Stamp;
pub use state::{Hit, State};
pub use table::{Table, TableError};

#[cfg(loom)]
#[cfg(test)]
mod loom_tests;
