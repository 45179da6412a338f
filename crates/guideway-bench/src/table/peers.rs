//! The tables of others.

use super::keys::VALUES;
use super::look_up::{Found, LookUp};
use super::maps::{self, Dashmap, Hashbrown, Staged, Std};
use crate::eal;
use crate::failure::{Failure, wrong};
use crate::flows::{plain_key, value};
use clap::ValueEnum;
use dpdk::Eal;
use dpdk::hash::{BULK_MAX, HashTable};
use dpdk::pages::PageKind;

/// Keys looked up at once.
const BURST: usize = 32;

/// Whose table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum OtherTable {
    /// DPDK's.
    #[value(name = "rte_hash")]
    RteHash,
    /// hashbrown with ahash.
    Hashbrown,
    /// hashbrown with ahash, its look-ups staged with prefetches.
    #[value(name = "hashbrown_prefetch")]
    HashbrownPrefetch,
    /// The standard library's, with SipHash.
    Std,
    /// dashmap with ahash.
    Dashmap,
}

impl OtherTable {
    /// Every table that can be compared.
    pub(super) const ALL: [OtherTable; 5] = [
        OtherTable::RteHash,
        OtherTable::Hashbrown,
        OtherTable::HashbrownPrefetch,
        OtherTable::Std,
        OtherTable::Dashmap,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            OtherTable::RteHash => "rte_hash",
            OtherTable::Hashbrown => "hashbrown",
            OtherTable::HashbrownPrefetch => "hashbrown_prefetch",
            OtherTable::Std => "std",
            OtherTable::Dashmap => "dashmap",
        }
    }

    /// Memory it takes, roughly and rather more.
    pub(super) fn bytes(self, flows: u64, places: u64) -> u64 {
        match self {
            // Keys and values 16, free list 4 (rounded up to a power of two), buckets 8 a place (likewise).
            OtherTable::RteHash => 16 * places + 12 * places.next_power_of_two() + (64 << 20),
            // At most 7/8 full, a power of two, 16 bytes an entry and one of metadata.
            OtherTable::Hashbrown | OtherTable::HashbrownPrefetch | OtherTable::Std | OtherTable::Dashmap => {
                17 * (flows * 8 / 7).next_power_of_two() + (8 << 20)
            }
        }
    }
}

/// Those that are measured.
#[derive(Default)]
pub(super) struct Peers {
    tables: Vec<(OtherTable, FilledTable)>,
}

enum FilledTable {
    RteHash(RteHash),
    Hashbrown(Hashbrown),
    HashbrownPrefetch(Staged),
    Std(Std),
    Dashmap(Dashmap),
}

impl Peers {
    /// Makes a table and fills it.
    pub(super) fn fill(
        &mut self,
        peer: OtherTable,
        flows: u64,
        load: f64,
        cpu: usize,
    ) -> Result<(), Failure> {
        let pairs = (0..flows).map(|number| (plain_key(number), value(number, VALUES)));
        let capacity = usize::try_from(flows).unwrap_or(usize::MAX);
        let table = match peer {
            OtherTable::RteHash => {
                let mut table = RteHash::new(flows, load, cpu)?;
                for (key, value) in pairs {
                    if !table.insert(key, value) {
                        return Err(wrong("rte_hash is full before its time"));
                    }
                }
                FilledTable::RteHash(table)
            }
            OtherTable::Hashbrown => {
                let mut map = Hashbrown::with_capacity_and_hasher(capacity, maps::hasher());
                map.extend(pairs);
                FilledTable::Hashbrown(map)
            }
            OtherTable::HashbrownPrefetch => FilledTable::HashbrownPrefetch(Staged::fill(capacity, pairs)),
            OtherTable::Std => {
                let mut map = Std::with_capacity(capacity);
                map.extend(pairs);
                FilledTable::Std(map)
            }
            OtherTable::Dashmap => {
                let map = Dashmap::with_capacity_and_hasher(capacity, maps::hasher());
                for (key, value) in pairs {
                    map.insert(key, value);
                }
                FilledTable::Dashmap(map)
            }
        };
        self.tables.push((peer, table));
        Ok(())
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, &dyn LookUp)> {
        self.tables.iter().map(|(peer, table)| {
            let table: &dyn LookUp = match table {
                FilledTable::RteHash(table) => table,
                FilledTable::Hashbrown(map) => map,
                FilledTable::HashbrownPrefetch(staged) => staged,
                FilledTable::Std(map) => map,
                FilledTable::Dashmap(map) => map,
            };
            (peer.name(), table)
        })
    }

    /// Gives the memory of all others back.
    pub(super) fn keep_only(&mut self, kept: OtherTable) {
        self.tables.retain(|(peer, _)| *peer == kept);
    }

    /// DPDK's table.
    pub(super) fn rte_hash(&mut self) -> Option<&mut RteHash> {
        self.tables.iter_mut().find_map(|(_, table)| match table {
            FilledTable::RteHash(table) => Some(table),
            _ => None,
        })
    }
}

/// DPDK's table, with the EAL it needs.
#[derive(Debug)]
pub(super) struct RteHash {
    table: HashTable,
    pages: PageKind,
}

impl RteHash {
    fn new(flows: u64, load: f64, cpu: usize) -> Result<RteHash, Failure> {
        let places = (flows as f64 / load).ceil();
        let need = OtherTable::RteHash.bytes(flows, places as u64);
        let eal = Eal::start(&eal::words(cpu, need), need, |_, _| ())?;
        let table = HashTable::create(&eal, "peer", places as u32)?;
        // Without huge pages EAL takes ordinary memory and gives no advice.
        let pages = if eal.has_huge_pages() { PageKind::Huge } else { PageKind::Small };
        Ok(RteHash { table, pages })
    }

    #[inline]
    pub(super) fn insert(&mut self, key: u64, value: u32) -> bool {
        self.table.insert(key, u64::from(value))
    }

    #[inline]
    pub(super) fn remove(&mut self, key: u64) -> bool {
        self.table.remove(key)
    }

    pub(super) fn clear(&mut self) {
        self.table.clear();
    }

    /// Where it is.
    pub(super) fn pages(&self) -> PageKind {
        self.pages
    }
}

impl LookUp for RteHash {
    #[inline(never)]
    fn look_up(&self, keys: &[u64]) -> Found {
        let mut found = Found::default();
        let mut values = [0; BULK_MAX];
        for burst in keys.chunks(BURST) {
            let hits = self.table.lookup_bulk(burst, &mut values);
            found.hits += u64::from(hits.count_ones());
            for (index, value) in values[..burst.len()].iter().enumerate() {
                // Without a branch, as the values are consumed in the other tables.
                found.sum += value & ((hits >> index & 1).wrapping_neg());
            }
        }
        found
    }
}
