//! Revisions as they stand on the disk: `revisions.json` in `machine.state_dir`.

use super::ledger::{ChangeOrigin, Content, Ledger, Revision};
use super::overrides::Overrides;
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
    bases: Vec<Arc<str>>,
    /// The oldest first.
    revisions: Vec<SavedRevision>,
    /// The newest is on trial, and this one is what it goes back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    confirmed: Option<u64>,
    /// Text of a file that nobody has confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    doubted: Option<Arc<str>>,
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
    overrides: Arc<Overrides>,
}

impl SavedRevisions {
    pub(super) fn of(
        kept: &VecDeque<Revision>,
        confirmed: Option<u64>,
        doubted: Option<&Arc<str>>,
    ) -> SavedRevisions {
        let doubted = doubted.map(Arc::clone);
        let mut saved = SavedRevisions { version: VERSION, confirmed, doubted, ..SavedRevisions::default() };
        let mut last: Option<&Arc<str>> = None;
        for Revision { number, change, content } in kept {
            if last.is_none_or(|last| !Arc::ptr_eq(last, &content.base)) {
                saved.bases.push(Arc::clone(&content.base));
                last = Some(&content.base);
            }
            let ChangeOrigin { unix_ms, caller, what, services } = change.clone();
            saved.revisions.push(SavedRevision {
                number: *number,
                unix_ms,
                caller,
                change: what,
                services,
                base: saved.bases.len() - 1,
                overrides: Arc::clone(&content.overrides),
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
        let bases = saved.bases;
        let (mut kept, mut last) = (VecDeque::new(), 0);
        for of in saved.revisions {
            let SavedRevision { number, unix_ms, caller, change: what, services, base, overrides } = of;
            if number <= last || number == u64::MAX {
                return Err(format!("revision {number} behind {last}"));
            }
            let base = bases.get(base).ok_or_else(|| format!("revision {number} has no text"))?;
            let content = Content { base: Arc::clone(base), overrides };
            let change = ChangeOrigin { unix_ms, caller, what, services };
            kept.push_back(Revision { number, change, content });
            last = number;
        }
        if let Some(confirmed) = saved.confirmed
            && kept.iter().all(|of| of.number != confirmed)
        {
            return Err(format!("revision {confirmed} is to go back to, and is missing"));
        }
        Ok(Ledger::of(kept, saved.confirmed, saved.doubted))
    }
}
