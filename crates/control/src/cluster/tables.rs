//! Slot tables by what they are made of: plans name a table by its recipe, and each machine makes it by itself, the large ones on
//! another thread.

use statesync::plan::Answers;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use steer::{Maglev, MaglevError, Weighted};
use wire::BackendId;

/// All that a table depends on, beside the cluster's key.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct AgreedRecipe {
    /// Backends that begin flows, with name and weight; ordered by name.
    members: Vec<(String, u32, BackendId)>,
    size: u32,
}

impl AgreedRecipe {
    /// Of these backends, in any order.
    pub(crate) fn new(
        members: impl IntoIterator<Item = (String, u32, BackendId)>,
        size: u32,
    ) -> AgreedRecipe {
        let mut members: Vec<_> = members.into_iter().collect();
        members.sort_unstable();
        AgreedRecipe { members, size }
    }

    /// Backends and weights.
    pub(crate) fn shares(&self) -> impl Iterator<Item = (BackendId, u32)> + '_ {
        self.members.iter().map(|(_, weight, backend)| (*backend, *weight))
    }
}

/// A table that was made.
#[derive(Debug)]
pub(crate) struct AgreedTable {
    pub(crate) recipe: AgreedRecipe,
    pub(crate) maglev: Arc<Maglev>,
    /// Backends in the table's numbering.
    pub(crate) members: Vec<BackendId>,
    pub(crate) answers: Answers,
}

impl AgreedRecipe {
    /// Makes the table under a cluster's key. Expected time is O(size · log size).
    ///
    /// # Errors
    /// See [`MaglevError`].
    pub(crate) fn make(self, key: &[u8; 16]) -> Result<Arc<AgreedTable>, MaglevError> {
        let weighted: Vec<Weighted<'_>> =
            self.members.iter().map(|(name, weight, _)| Weighted { name, weight: *weight }).collect();
        let maglev = Arc::new(Maglev::build(&weighted, self.size, key)?);
        let members: Vec<BackendId> = self.members.iter().map(|member| member.2).collect();
        let answer = |slot| maglev.at(slot).and_then(|member| members.get(usize::from(member)).copied());
        let answers = (0..maglev.size()).map(answer).collect();
        Ok(Arc::new(AgreedTable { recipe: self, maglev, members, answers }))
    }
}

/// AgreedTables in use. The same recipe gives the same [`Answers`], pointer and all, so a plan's table is found by it.
#[derive(Debug)]
pub(crate) struct AgreedTables {
    key: [u8; 16],
    known: HashMap<AgreedRecipe, Arc<AgreedTable>>,
    /// Slots that are made in a round at most; the rest is made elsewhere. `None`: all are made at once.
    at_once: Option<u64>,
    made: u64,
    /// To be made elsewhere.
    missing: HashSet<AgreedRecipe>,
    /// Made elsewhere last, and perhaps not used yet.
    fresh: Vec<Arc<AgreedTable>>,
}

impl AgreedTables {
    /// None yet, under this key.
    pub(crate) fn new(key: [u8; 16]) -> AgreedTables {
        let (missing, fresh) = (HashSet::new(), Vec::new());
        AgreedTables { key, known: HashMap::new(), at_once: None, made: 0, missing, fresh }
    }

    /// From now on no more slots than these are made in a [round](Self::next_round).
    pub(crate) fn limit(&mut self, slots: u64) {
        self.at_once = Some(slots);
    }

    /// What is missing now is what is asked for from now on.
    pub(crate) fn next_round(&mut self) {
        self.made = 0;
        self.missing.clear();
    }

    /// The table of a recipe; `None`: it is not there yet, and is [missing](Self::take_missing).
    ///
    /// # Errors
    /// See [`MaglevError`].
    pub(crate) fn get(&mut self, recipe: AgreedRecipe) -> Result<Option<Arc<AgreedTable>>, MaglevError> {
        if let Some(table) = self.known.get(&recipe) {
            return Ok(Some(Arc::clone(table)));
        }
        if self.at_once.is_some_and(|most| self.made + u64::from(recipe.size) > most) {
            // It will not fail when it is made.
            let weights: Vec<u32> = recipe.members.iter().map(|(_, weight, _)| *weight).collect();
            Maglev::check(&weights, recipe.size)?;
            self.missing.insert(recipe);
            return Ok(None);
        }
        self.made += u64::from(recipe.size);
        let table = recipe.clone().make(&self.key)?;
        self.known.insert(recipe, Arc::clone(&table));
        Ok(Some(table))
    }

    /// The recipes of tables that were asked for in this round and are not there.
    pub(crate) fn take_missing(&mut self) -> Vec<AgreedRecipe> {
        self.missing.drain().collect()
    }

    /// The key that tables are made under.
    pub(crate) fn key(&self) -> &[u8; 16] {
        &self.key
    }

    /// Takes tables that were made elsewhere. Those of the last time that nobody uses are forgotten by and by.
    pub(crate) fn put(&mut self, tables: Vec<Arc<AgreedTable>>) {
        self.known.extend(tables.iter().map(|table| (table.recipe.clone(), Arc::clone(table))));
        self.fresh = tables;
    }

    /// The table with these very answers. O(tables).
    pub(crate) fn of(&self, answers: &Answers) -> Option<&Arc<AgreedTable>> {
        self.known.values().find(|table| Arc::ptr_eq(&table.answers, answers))
    }

    /// Forgets tables that no plan names any more.
    pub(crate) fn keep_used(&mut self) {
        self.known.retain(|_, table| Arc::strong_count(&table.answers) > 1 || Arc::strong_count(table) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 16] = [7; 16];

    fn recipe(weight: u32) -> AgreedRecipe {
        AgreedRecipe::new([("a".to_owned(), 1, BackendId(4)), ("b".to_owned(), weight, BackendId(2))], 251)
    }

    #[test]
    fn what_is_too_much_at_once_is_missing_and_taken_when_it_is_there() {
        let mut tables = AgreedTables::new(KEY);
        tables.limit(300);
        let first = tables.get(recipe(1)).unwrap().unwrap();
        assert!(tables.get(recipe(2)).unwrap().is_none());
        assert!(tables.get(recipe(2)).unwrap().is_none(), "as often as it is asked for");
        assert!(Arc::ptr_eq(&tables.get(recipe(1)).unwrap().unwrap(), &first));
        let missing = tables.take_missing();
        assert_eq!(missing, [recipe(2)]);
        tables.put(missing.into_iter().map(|recipe| recipe.make(&KEY).unwrap()).collect());
        tables.next_round();
        // Also when a plan came meanwhile that does not name it.
        drop(first);
        tables.keep_used();
        let there = tables.get(recipe(2)).unwrap().expect("it was made");
        assert_eq!(there.answers, recipe(2).make(&KEY).unwrap().answers);
        assert!(tables.of(&there.answers).is_some());
        assert_eq!(tables.known.len(), 1);
        drop(there);
        tables.put(Vec::new());
        tables.keep_used();
        assert!(tables.known.is_empty());
    }

    #[test]
    fn what_cannot_be_made_is_refused_and_not_asked_for() {
        let mut tables = AgreedTables::new(KEY);
        for at_once in [None, Some(0)] {
            tables.at_once = at_once;
            let bad = AgreedRecipe::new([("a".to_owned(), 1, BackendId(0))], 250);
            assert!(tables.get(bad).is_err(), "{at_once:?}");
            assert!(tables.take_missing().is_empty());
        }
    }
}
