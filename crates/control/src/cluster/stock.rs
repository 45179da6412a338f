//! What documents need and takes long to make: slot tables and configurations. What is there is taken from here; what is not is
//! named, made on another thread, and brought.

use super::readings::{Reading, ReadingSources, Readings};
use super::tables::{AgreedRecipe, AgreedTable, AgreedTables};
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub(crate) struct Stock {
    pub(crate) tables: AgreedTables,
    pub(crate) readings: Readings,
    /// A lot is being made.
    is_making: bool,
    /// Lots that came.
    lots: u64,
}

/// What is not there.
#[derive(Debug)]
pub(crate) struct Missing {
    pub(crate) tables: Vec<AgreedRecipe>,
    /// The key that they are made under.
    pub(crate) key: [u8; 16],
    pub(crate) texts: Vec<ReadingSources>,
}

/// A lot that was made elsewhere.
#[derive(Debug, Default)]
pub(crate) struct Lot {
    pub(crate) tables: Vec<Arc<AgreedTable>>,
    pub(crate) readings: Vec<Arc<Reading>>,
}

impl Stock {
    /// Empty. Whatever is asked for is made at once.
    pub(crate) fn new(key: [u8; 16]) -> Stock {
        Stock { tables: AgreedTables::new(key), readings: Readings::default(), is_making: false, lots: 0 }
    }

    /// From now on no more slots than these are made in a round, and nothing is read: the rest is [missing](Self::take_missing).
    pub(crate) fn make_elsewhere(&mut self, slots: u64) {
        self.tables.limit(slots);
        self.readings.read_elsewhere();
    }

    /// What is missing now is what is asked for from now on.
    pub(crate) fn next_round(&mut self) {
        self.tables.next_round();
        self.readings.next_round();
    }

    /// Whether a lot is being made: whoever lacks something need not look before it is there.
    pub(crate) fn is_making(&self) -> bool {
        self.is_making
    }

    /// Another number whenever there may be more than before.
    pub(crate) fn version(&self) -> u64 {
        self.lots
    }

    /// What is to be made now. One lot at a time: the next one is named when this one [is there](Self::put).
    pub(crate) fn take_missing(&mut self) -> Option<Missing> {
        if self.is_making {
            return None;
        }
        let (tables, texts) = (self.tables.take_missing(), self.readings.take_missing());
        self.is_making = !tables.is_empty() || !texts.is_empty();
        self.is_making.then(|| Missing { tables, key: *self.tables.key(), texts })
    }

    /// The lot that was named last is there. What of it could not be made is missing again.
    pub(crate) fn put(&mut self, lot: Lot) {
        self.is_making = false;
        self.lots += 1;
        if !lot.tables.is_empty() {
            self.tables.put(lot.tables);
        }
        for reading in lot.readings {
            self.readings.put(reading);
        }
    }
}
