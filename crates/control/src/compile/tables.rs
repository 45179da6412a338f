//! Slot tables that outlive a compilation.

use std::collections::HashMap;
use std::sync::Arc;
use steer::{Maglev, MaglevError, Weighted};

/// All that a table depends on.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Recipe {
    members: Vec<(String, u32)>,
    size: u32,
    key: [u8; 16],
}

/// The tables of the last view and of the one in the making. Services with the same members share one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tables {
    last: HashMap<Recipe, Arc<Maglev>>,
    used: HashMap<Recipe, Arc<Maglev>>,
}

impl Tables {
    pub(crate) fn next_round(mut self) -> Tables {
        // After a compilation that failed half-way, its tables are as good as the others.
        self.last.extend(self.used.drain());
        self
    }

    /// Drops the tables that the view does not use.
    pub(crate) fn keep_used(mut self) -> Tables {
        self.last.clear();
        self
    }

    /// The table of `members` (name, weight).
    pub(crate) fn get(
        &mut self,
        members: &[(&str, u32)],
        size: u32,
        key: &[u8; 16],
    ) -> Result<Arc<Maglev>, MaglevError> {
        let owned = members.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect();
        let recipe = Recipe { members: owned, size, key: *key };
        if let Some(table) = self.used.get(&recipe).or_else(|| self.last.get(&recipe)) {
            let table = Arc::clone(table);
            self.used.insert(recipe, Arc::clone(&table));
            return Ok(table);
        }
        let weighted: Vec<Weighted<'_>> =
            members.iter().map(|(name, weight)| Weighted { name, weight: *weight }).collect();
        let table = Arc::new(Maglev::build(&weighted, size, key)?);
        self.used.insert(recipe, Arc::clone(&table));
        Ok(table)
    }
}
