//! Slot tables that outlive a compilation.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use steer::{Maglev, MaglevError, Weighted};

/// All that a table depends on.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Recipe {
    members: Vec<(String, u32)>,
    size: u32,
    key: [u8; 16],
}

impl Recipe {
    /// Makes the table. Expected time is O(size · log size).
    ///
    /// # Errors
    /// See [`MaglevError`].
    pub(crate) fn make(&self) -> Result<Arc<Maglev>, MaglevError> {
        let weighted: Vec<Weighted<'_>> =
            self.members.iter().map(|(name, weight)| Weighted { name, weight: *weight }).collect();
        Ok(Arc::new(Maglev::build(&weighted, self.size, &self.key)?))
    }
}

/// What a compilation does about tables that are not there yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Making {
    /// Makes them all, however long that takes.
    #[default]
    All,
    /// Makes no more than so many slots, and names the tables that are missing.
    UpTo(u64),
    /// Makes none and does without: a trial, whose view nobody uses.
    Nothing,
}

/// The tables of the last view and of the one in the making. Services with the same members share one.
#[derive(Clone, Debug, Default)]
pub(crate) struct SlotTables {
    last: HashMap<Arc<Recipe>, Arc<Maglev>>,
    used: HashMap<Arc<Recipe>, Arc<Maglev>>,
    /// To be made elsewhere before there can be a view.
    missing: HashSet<Arc<Recipe>>,
    /// Slots made in this round.
    made: u64,
}

impl SlotTables {
    pub(crate) fn next_round(mut self) -> SlotTables {
        // After a compilation that failed half-way, its tables are as good as the others.
        self.last.extend(self.used.drain());
        self.missing.clear();
        self.made = 0;
        self
    }

    /// These and others, which were made elsewhere.
    #[cfg(feature = "daemon")]
    pub(crate) fn and(mut self, others: SlotTables) -> SlotTables {
        self.last.extend(others.last.into_iter().chain(others.used));
        self
    }

    /// Drops the tables that the view does not use.
    pub(crate) fn keep_used(mut self) -> SlotTables {
        self.last.clear();
        self
    }

    /// The recipes of the tables that were missing.
    pub(crate) fn missing(&self) -> impl Iterator<Item = &Arc<Recipe>> {
        self.missing.iter()
    }

    /// Takes a table that was made elsewhere.
    pub(crate) fn put(&mut self, recipe: Arc<Recipe>, table: Arc<Maglev>) {
        self.last.insert(recipe, table);
    }

    /// The table of `members` (name, weight); `None` where it is not there and is not made now.
    pub(crate) fn get(
        &mut self,
        members: &[(&str, u32)],
        size: u32,
        key: &[u8; 16],
        making: Making,
    ) -> Result<Option<Arc<Maglev>>, MaglevError> {
        let owned = members.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect();
        let recipe = Recipe { members: owned, size, key: *key };
        if let Some(table) = self.used.get(&recipe) {
            return Ok(Some(Arc::clone(table)));
        }
        if let Some((recipe, table)) = self.last.get_key_value(&recipe) {
            let (recipe, table) = (Arc::clone(recipe), Arc::clone(table));
            self.used.insert(recipe, Arc::clone(&table));
            return Ok(Some(table));
        }
        let now = match making {
            Making::All => true,
            Making::UpTo(most) => self.made + u64::from(size) <= most,
            Making::Nothing => false,
        };
        if !now {
            // It will not fail when it is made.
            let weights: Vec<u32> = members.iter().map(|(_, weight)| *weight).collect();
            Maglev::check(&weights, size)?;
            if making != Making::Nothing {
                self.missing.insert(Arc::new(recipe));
            }
            return Ok(None);
        }
        self.made += u64::from(size);
        let table = recipe.make()?;
        self.used.insert(Arc::new(recipe), Arc::clone(&table));
        Ok(Some(table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 16] = [7; 16];

    #[test]
    fn what_is_too_much_at_once_is_named_and_taken_when_it_is_there() {
        let mut tables = SlotTables::default().next_round();
        let (a, b) = ([("a", 1), ("b", 2)], [("a", 1), ("b", 3)]);
        let most = Making::UpTo(300);
        let first = tables.get(&a, 251, &KEY, most).unwrap().unwrap();
        assert_eq!(tables.get(&b, 251, &KEY, most), Ok(None));
        assert_eq!(tables.get(&b, 251, &KEY, most), Ok(None), "as often as it is asked for");
        let missing: Vec<Arc<Recipe>> = tables.missing().cloned().collect();
        assert_eq!(missing.len(), 1);
        let mut tables = tables.next_round();
        for recipe in missing {
            let table = recipe.make().unwrap();
            tables.put(recipe, table);
        }
        assert_eq!(tables.get(&a, 251, &KEY, Making::UpTo(0)), Ok(Some(first)));
        assert!(tables.get(&b, 251, &KEY, Making::UpTo(0)).unwrap().is_some());
        assert_eq!(tables.missing().count(), 0);
    }

    #[test]
    fn a_trial_makes_nothing_and_finds_what_cannot_be_made() {
        let mut tables = SlotTables::default().next_round();
        assert_eq!(tables.get(&[("a", 1)], 251, &KEY, Making::Nothing), Ok(None));
        assert_eq!(tables.missing().count(), 0);
        for making in [Making::Nothing, Making::UpTo(0), Making::All] {
            assert!(tables.get(&[("a", 1)], 250, &KEY, making).is_err(), "{making:?}");
        }
    }
}
