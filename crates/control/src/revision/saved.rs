//! Revisions as they stand on the disk: `revisions.json` in `machine.state_dir`.

use super::ledger::{Change, Content, Ledger, Revision};
use super::words::Words;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;

/// Layout of the file.
const VERSION: u32 = 1;

/// The file's content.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct SavedRevisions {
    version: u32,
    /// Texts of files that revisions share.
    bases: Vec<String>,
    /// The oldest first.
    revisions: Vec<SavedRevision>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct SavedRevision {
    number: u64,
    unix_ms: u64,
    caller: String,
    change: String,
    services: Option<Vec<String>>,
    /// Which of the texts.
    base: usize,
    #[serde(default)]
    words: Words,
}

impl SavedRevisions {
    pub(super) fn of(kept: &VecDeque<Revision>) -> SavedRevisions {
        let mut saved = SavedRevisions { version: VERSION, ..SavedRevisions::default() };
        let mut last: Option<&Arc<str>> = None;
        for Revision { number, change, content } in kept {
            if last.is_none_or(|last| !Arc::ptr_eq(last, &content.base)) {
                saved.bases.push(content.base.to_string());
                last = Some(&content.base);
            }
            let Change { unix_ms, caller, what, services } = change.clone();
            saved.revisions.push(SavedRevision {
                number: *number,
                unix_ms,
                caller,
                change: what,
                services,
                base: saved.bases.len() - 1,
                words: Words::clone(&content.words),
            });
        }
        saved
    }

    /// The file as bytes.
    ///
    /// # Errors
    /// None that is known; JSON can be made of it.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }
}

impl Ledger {
    /// The revisions of a file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Ledger, String> {
        let saved: SavedRevisions = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if saved.version != VERSION {
            return Err(format!("version {} instead of {VERSION}", saved.version));
        }
        let bases: Vec<Arc<str>> = saved.bases.into_iter().map(Arc::from).collect();
        let (mut kept, mut last) = (VecDeque::new(), 0);
        for of in saved.revisions {
            let SavedRevision { number, unix_ms, caller, change: what, services, base, words } = of;
            if number <= last || number == u64::MAX {
                return Err(format!("revision {number} behind {last}"));
            }
            let base = bases.get(base).ok_or_else(|| format!("revision {number} has no text"))?;
            let content = Content { base: Arc::clone(base), words: Arc::new(words) };
            let change = Change { unix_ms, caller, what, services };
            kept.push_back(Revision { number, change, content });
            last = number;
        }
        Ok(Ledger::of(kept))
    }
}
