//! The revisions that are kept, and which of them is in force.

use super::overrides::Overrides;
use super::saved::SavedRevisions;
use std::collections::VecDeque;
use std::sync::Arc;

/// Revisions that are kept, …
pub(crate) const KEPT_MAX: usize = 100;
/// … and their bytes, texts that several share counted once; the last two are kept in any case.
pub(crate) const BYTES_MAX: usize = 32 << 20;
/// Longest description of a change, bytes.
const CHANGE_MAX: usize = 200;

/// What a configuration is made of.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Content {
    /// Text of a file.
    pub(crate) base: Arc<str>,
    /// What the API says of single services.
    pub(crate) overrides: Arc<Overrides>,
}

/// Who changed what, and when.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct ChangeOrigin {
    /// Unix time, milliseconds.
    pub(crate) unix_ms: u64,
    pub(crate) caller: String,
    /// In short.
    pub(crate) what: String,
    /// Services that differ from the revision before; `None`: nobody compared.
    pub(crate) services: Option<Vec<String>>,
}

/// A configuration that was in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Revision {
    pub(crate) number: u64,
    pub(crate) change: ChangeOrigin,
    pub(crate) content: Content,
}

/// Why a revision is not to be had, or a change not made. Nothing changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum RevisionRefusal {
    #[error("revision {number} is not kept: {oldest} to {newest} are")]
    Unknown { number: u64, oldest: u64, newest: u64 },
    #[error("service `{service}` was changed by revision {by}, after revision {read_at}")]
    Overtaken { service: String, by: u64, read_at: u64 },
    #[error("revision {read_at} is too old, or was never there: {oldest} to {newest} are known")]
    Unreadable { read_at: u64, oldest: u64, newest: u64 },
    #[error("revision {0} is in force on trial, and waits to be confirmed")]
    OnTrial(u64),
    #[error("no revision waits to be confirmed")]
    NoTrial,
    #[error("revision {number} does not wait to be confirmed; {on_trial} does")]
    OtherTrial { number: u64, on_trial: u64 },
}

/// The revision in force goes back to the one before it unless somebody confirms it in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ConfirmTrial {
    /// The revision before, which is in force for good.
    pub(crate) confirmed: u64,
    /// Until when, on the clock of whoever asks, milliseconds.
    pub(crate) until_ms: u64,
}

/// See the module. The newest revision is in force.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Ledger {
    kept: VecDeque<Revision>,
    trial: Option<ConfirmTrial>,
    /// Text of a file that nobody has confirmed: it is not what a start begins with.
    doubted: Option<Arc<str>>,
    /// Made of the rest when it is needed.
    saved: Option<Arc<SavedRevisions>>,
}

impl Ledger {
    /// As it was saved.
    pub(super) fn of(kept: VecDeque<Revision>, confirmed: Option<u64>, doubted: Option<Arc<str>>) -> Ledger {
        let trial = confirmed.map(|confirmed| ConfirmTrial { confirmed, until_ms: 0 });
        Ledger { kept, trial, doubted, saved: None }
    }

    /// What was in force for good last; `None` before anything was.
    fn confirmed(&self) -> Option<&Content> {
        let of_trial = self.trial.and_then(|trial| self.get(trial.confirmed).ok());
        of_trial.map(|of| &of.content).or_else(|| self.content())
    }

    /// What a start with this file begins with: the file, but where nobody has confirmed it, what was in force for good before; with
    /// what the API said then.
    pub(crate) fn at_start(&self, file: &str) -> Content {
        let confirmed = self.confirmed().cloned().unwrap_or_default();
        let is_doubted = self.doubted.as_deref() == Some(file) && self.number() > 0;
        if is_doubted { confirmed } else { Content { base: Arc::from(file), ..confirmed } }
    }

    /// The trial that is on.
    pub(crate) fn trial(&self) -> Option<ConfirmTrial> {
        self.trial
    }

    /// Whether something else may be put in force.
    ///
    /// # Errors
    /// A trial is on: what it goes back to would be unclear.
    pub(crate) fn may_change(&self) -> Result<(), RevisionRefusal> {
        if self.trial.is_some() { Err(RevisionRefusal::OnTrial(self.number())) } else { Ok(()) }
    }

    /// A text is about to be in force on trial: from now on no start begins with it. To be saved before it is in force. Returns what
    /// was doubted before, for [`trust`](Self::trust) when nothing comes of it.
    ///
    /// # Errors
    /// Another trial is on.
    pub(crate) fn doubt(&mut self, text: &str) -> Result<Option<Arc<str>>, RevisionRefusal> {
        self.may_change()?;
        let before = self.doubted.clone();
        if self.content().is_none_or(|content| *content.base != *text) {
            self.doubted = Some(Arc::from(text));
            self.saved = None;
        }
        Ok(before)
    }

    /// Nothing came of a trial.
    pub(crate) fn trust(&mut self, before: Option<Arc<str>>) {
        self.doubted = before;
        self.saved = None;
    }

    /// Something is in force on trial. Returns its number; what was in force already is on no trial.
    pub(crate) fn record_on_trial(&mut self, content: Content, change: ChangeOrigin, until_ms: u64) -> u64 {
        let (confirmed, base) = (self.number(), Arc::clone(&content.base));
        let number = self.record(content, change);
        if number != confirmed {
            self.trial = Some(ConfirmTrial { confirmed, until_ms });
            self.doubted = Some(base);
        }
        number
    }

    /// The revision in force is to stay; `number` is the one that is meant.
    ///
    /// # Errors
    /// It is on no trial.
    pub(crate) fn confirm(&mut self, number: Option<u64>) -> Result<u64, RevisionRefusal> {
        if self.trial.is_none() {
            return Err(RevisionRefusal::NoTrial);
        }
        let on_trial = self.number();
        if let Some(number) = number.filter(|number| *number != on_trial) {
            return Err(RevisionRefusal::OtherTrial { number, on_trial });
        }
        (self.trial, self.doubted, self.saved) = (None, None, None);
        Ok(on_trial)
    }

    /// The revision to go back to, when nobody has confirmed the one in force in time.
    pub(crate) fn overdue(&self, now_ms: u64) -> Option<u64> {
        self.trial.filter(|trial| now_ms >= trial.until_ms).map(|trial| trial.confirmed)
    }

    /// What is in force; `None` before anything is.
    pub(crate) fn content(&self) -> Option<&Content> {
        self.kept.back().map(|of| &of.content)
    }

    /// Number of the revision in force; 0 before there is one.
    pub(crate) fn number(&self) -> u64 {
        self.kept.back().map_or(0, |of| of.number)
    }

    /// The newest first.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = &Revision> {
        self.kept.iter().rev()
    }

    fn range(&self) -> (u64, u64) {
        (self.kept.front().map_or(0, |of| of.number), self.number())
    }

    /// A revision that is kept.
    ///
    /// # Errors
    /// It is not.
    pub(crate) fn get(&self, number: u64) -> Result<&Revision, RevisionRefusal> {
        let (oldest, newest) = self.range();
        let found = self.kept.iter().find(|of| of.number == number);
        found.ok_or(RevisionRefusal::Unknown { number, oldest, newest })
    }

    /// The revision that changed a service last, of those kept.
    pub(crate) fn changed_by(&self, service: &str) -> Option<u64> {
        let has_changed = |of: &&Revision| match &of.change.services {
            None => true,
            Some(services) => services.iter().any(|name| name == service),
        };
        self.newest_first().find(has_changed).map(|of| of.number)
    }

    /// Whether a service is as it was in the revision that somebody has read.
    ///
    /// # Errors
    /// It was changed since, or nobody can say any more.
    pub(crate) fn unchanged_since(&self, service: &str, read_at: u64) -> Result<(), RevisionRefusal> {
        let (oldest, newest) = self.range();
        if read_at > newest || read_at < oldest {
            return Err(RevisionRefusal::Unreadable { read_at, oldest, newest });
        }
        match self.newest_first().take_while(|of| of.number > read_at).find(|of| match &of.change.services {
            None => true,
            Some(services) => services.iter().any(|name| name == service),
        }) {
            None => Ok(()),
            Some(of) => {
                let service = service.to_owned();
                Err(RevisionRefusal::Overtaken { service, by: of.number, read_at })
            }
        }
    }

    /// What a start begins with is in force, on no trial.
    pub(crate) fn begin(&mut self, content: Content, change: ChangeOrigin) {
        self.record(content, change);
        self.trial = None;
        self.saved = None;
    }

    /// Something is in force. Returns its number: the one it has if it was in force before.
    pub(crate) fn record(&mut self, content: Content, mut change: ChangeOrigin) -> u64 {
        if self.content() == Some(&content) {
            return self.number();
        }
        shorten(&mut change.what);
        shorten(&mut change.caller);
        let number = self.number() + 1;
        // Texts that are the same are kept once.
        let same = self.kept.back().map(|of| &of.content.base).filter(|base| **base == content.base);
        let base = same.cloned().unwrap_or(content.base);
        self.trial = None;
        // Whoever puts it in force for good has no doubt.
        self.doubted.take_if(|doubted| **doubted == *base);
        self.kept.push_back(Revision { number, change, content: Content { base, ..content } });
        while self.kept.len() > 2 && (self.kept.len() > KEPT_MAX || self.bytes() > BYTES_MAX) {
            self.kept.pop_front();
        }
        self.saved = None;
        number
    }

    fn bytes(&self) -> usize {
        let mut base: Option<&Arc<str>> = None;
        let of = |revision: &Revision| {
            let ChangeOrigin { caller, what, services, .. } = &revision.change;
            let names = services.iter().flatten().map(String::len).sum::<usize>();
            revision.content.overrides.bytes() + caller.len() + what.len() + names
        };
        let texts = self.kept.iter().map(|revision| {
            let is_shared = base.is_some_and(|base| Arc::ptr_eq(base, &revision.content.base));
            base = Some(&revision.content.base);
            if is_shared { 0 } else { revision.content.base.len() }
        });
        texts.sum::<usize>() + self.kept.iter().map(of).sum::<usize>()
    }

    /// As it is written to the disk.
    pub(crate) fn saved(&mut self) -> Arc<SavedRevisions> {
        let (kept, doubted) = (&self.kept, self.doubted.as_ref());
        let confirmed = self.trial.map(|trial| trial.confirmed);
        Arc::clone(self.saved.get_or_insert_with(|| Arc::new(SavedRevisions::of(kept, confirmed, doubted))))
    }
}

/// Cuts a text that is too long for a line of the history.
fn shorten(text: &mut String) {
    if text.len() > CHANGE_MAX {
        let end = (0..=CHANGE_MAX - 3).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
}

#[cfg(test)]
mod tests;
