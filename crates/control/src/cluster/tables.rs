//! Slot tables by what they are made of: plans name a table by its recipe, and each machine makes it by itself.

use statesync::plan::Answers;
use std::collections::HashMap;
use std::sync::Arc;
use steer::{Maglev, MaglevError, Weighted};
use wire::BackendId;

/// All that a table depends on, beside the cluster's key.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Recipe {
    /// Backends that begin flows, with name and weight; ordered by name.
    members: Vec<(String, u32, BackendId)>,
    size: u32,
}

impl Recipe {
    /// Of these backends, in any order.
    pub(crate) fn new(members: impl IntoIterator<Item = (String, u32, BackendId)>, size: u32) -> Recipe {
        let mut members: Vec<_> = members.into_iter().collect();
        members.sort_unstable();
        Recipe { members, size }
    }

    /// Backends and weights.
    pub(crate) fn shares(&self) -> impl Iterator<Item = (BackendId, u32)> + '_ {
        self.members.iter().map(|(_, weight, backend)| (*backend, *weight))
    }
}

/// A table that was made.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) recipe: Recipe,
    pub(crate) maglev: Arc<Maglev>,
    /// Backends in the table's numbering.
    pub(crate) members: Vec<BackendId>,
    pub(crate) answers: Answers,
}

/// Tables in use. The same recipe gives the same [`Answers`], pointer and all, so a plan's table is found by it.
#[derive(Debug)]
pub(crate) struct Tables {
    key: [u8; 16],
    known: HashMap<Recipe, Arc<Table>>,
}

impl Tables {
    /// None yet, under this key.
    pub(crate) fn new(key: [u8; 16]) -> Tables {
        Tables { key, known: HashMap::new() }
    }

    /// The table of a recipe.
    ///
    /// # Errors
    /// See [`MaglevError`].
    pub(crate) fn get(&mut self, recipe: Recipe) -> Result<Arc<Table>, MaglevError> {
        if let Some(table) = self.known.get(&recipe) {
            return Ok(Arc::clone(table));
        }
        let weighted: Vec<Weighted<'_>> =
            recipe.members.iter().map(|(name, weight, _)| Weighted { name, weight: *weight }).collect();
        let maglev = Arc::new(Maglev::build(&weighted, recipe.size, &self.key)?);
        let members: Vec<BackendId> = recipe.members.iter().map(|member| member.2).collect();
        let answer = |slot| maglev.at(slot).and_then(|member| members.get(usize::from(member)).copied());
        let answers = (0..maglev.size()).map(answer).collect();
        let table = Arc::new(Table { recipe: recipe.clone(), maglev: Arc::clone(&maglev), members, answers });
        self.known.insert(recipe, Arc::clone(&table));
        Ok(table)
    }

    /// The table with these very answers. O(tables).
    pub(crate) fn of(&self, answers: &Answers) -> Option<&Arc<Table>> {
        self.known.values().find(|table| Arc::ptr_eq(&table.answers, answers))
    }

    /// Forgets tables that no plan names any more.
    pub(crate) fn keep_used(&mut self) {
        self.known.retain(|_, table| Arc::strong_count(&table.answers) > 1 || Arc::strong_count(table) > 1);
    }
}
