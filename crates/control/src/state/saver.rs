//! Writes the state on a thread of its own, so that a slow disk delays nothing but the answer that promises persistence.
//!
//! Rule of this module: what is wanted on the disk gets there. A state that could not be written is tried again until it is, or
//! until a newer one is wanted.

use super::{FILE, REVISIONS, Saved, save, save_revisions};
use crate::revision::saved::SavedRevisions;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Pause before a failed write is tried again; twice as long after each further failure …
const RETRY_MIN: Duration = Duration::from_millis(250);
/// … up to this.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Longest time an answer waits for the disk.
pub(crate) const SAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Writes states behind the owner's back; of several wanted while one is written, only the last.
#[derive(Debug)]
pub(crate) struct Saver {
    shared: Arc<SaverShared>,
    done: watch::Receiver<Written>,
}

/// How far the writing is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Written {
    /// Number of the last state that was tried.
    pub(crate) tried: u64,
    /// Number of the last state that is on the disk.
    pub(crate) saved: u64,
    /// Why the last one could not be written; it is tried again.
    pub(crate) error: Option<String>,
}

/// Waits for a state to be on the disk, and says whether it is, or why not. Should that fail, what it holds is in force all the same;
/// only its survival is in doubt.
pub(crate) async fn saved(number: u64, written: &mut watch::Receiver<Written>) -> (bool, Option<String>) {
    let tried = written.wait_for(|written| written.saved >= number || written.tried >= number);
    let _ = tokio::time::timeout(SAVE_TIMEOUT, tried).await;
    let written = written.borrow();
    if written.saved >= number {
        return (true, None);
    }
    (false, Some(written.error.as_deref().unwrap_or("the disk has not answered yet").to_owned()))
}

/// What the owner and the thread share.
#[derive(Debug, Default)]
struct SaverShared {
    wanted: Mutex<Wanted>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Wanted {
    number: u64,
    /// `None`: nothing, or it is being written.
    state: Option<Arc<Saved>>,
    is_closed: bool,
}

impl SaverShared {
    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a state, or, with one that failed, for its next try or a newer one; `None` at the end.
    fn next(&self, failed: Option<(u64, Arc<Saved>, Duration)>) -> Option<(u64, Arc<Saved>)> {
        let nothing = |wanted: &mut Wanted| wanted.state.is_none() && !wanted.is_closed;
        let mut wanted = self.lock();
        match failed {
            None => {
                wanted = self.changed.wait_while(wanted, nothing).unwrap_or_else(PoisonError::into_inner);
            }
            Some((number, state, pause)) => {
                let waited = self.changed.wait_timeout_while(wanted, pause, nothing);
                wanted = waited.unwrap_or_else(PoisonError::into_inner).0;
                if wanted.state.is_none() && !wanted.is_closed {
                    return Some((number, state));
                }
            }
        }
        // At the end, too, what is wanted is written.
        let state = wanted.state.take()?;
        Some((wanted.number, state))
    }
}

impl Saver {
    /// Starts writing into `directory`.
    ///
    /// # Errors
    /// No thread.
    pub(crate) fn start(directory: PathBuf) -> io::Result<Saver> {
        let shared = Arc::<SaverShared>::default();
        let (tell, done) = watch::channel(Written::default());
        let of_thread = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("state".to_owned())
            .spawn(move || write_all(&of_thread, &directory, &tell))?;
        Ok(Saver { shared, done })
    }

    /// Asks for `saved` to be written; its number is above those before it.
    pub(crate) fn save(&self, number: u64, saved: Saved) {
        let mut wanted = self.shared.lock();
        wanted.number = number;
        wanted.state = Some(Arc::new(saved));
        self.shared.changed.notify_all();
    }

    /// How far the writing is.
    pub(crate) fn written(&self) -> watch::Receiver<Written> {
        self.done.clone()
    }
}

impl Drop for Saver {
    /// The thread is not waited for: a disk that hangs does not keep the program from ending.
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.changed.notify_all();
    }
}

fn write_all(shared: &SaverShared, directory: &std::path::Path, tell: &watch::Sender<Written>) {
    let mut failed = None;
    let mut pause = RETRY_MIN;
    let mut written: Option<Arc<SavedRevisions>> = None;
    while let Some((number, state)) = shared.next(failed.take()) {
        let is_new = |of: &&Arc<SavedRevisions>| written.as_ref().is_none_or(|last| !Arc::ptr_eq(last, of));
        let revisions = state.revisions.as_ref().filter(is_new);
        let kept = revisions.map_or(Ok(()), |of| save_revisions(directory, of)).map_err(|e| (REVISIONS, e));
        if kept.is_ok()
            && let Some(of) = revisions
        {
            written = Some(Arc::clone(of));
        }
        // The one is short, and is written also where there is no room for the other.
        let stated = save(directory, &state).map_err(|e| (FILE, e));
        let result = kept.and(stated);
        tell.send_modify(|written| {
            written.tried = number;
            match &result {
                Ok(()) => (written.saved, written.error) = (number, None),
                Err((name, error)) => {
                    written.error = Some(format!("{}: {error}", directory.join(name).display()));
                }
            }
        });
        if result.is_ok() {
            pause = RETRY_MIN;
        } else {
            failed = Some((number, state, pause));
            pause = (pause * 2).min(RETRY_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::load;
    use super::super::tests::sample;
    use super::{Saved, Saver};
    use std::fs;

    #[tokio::test]
    async fn what_could_not_be_written_is_written_when_it_can_be() {
        let place = tempfile::tempdir().unwrap();
        let saver = Saver::start(place.path().to_owned()).unwrap();
        let number = 1;
        saver.save(number, sample());
        let mut written = saver.written();
        let seen = written.wait_for(|w| w.tried >= number).await.unwrap().clone();
        assert_eq!((seen.error, seen.saved), (None, number));
        assert_eq!(load(place.path()).0, sample());

        // A file where the directory should be.
        let directory = place.path().join("file");
        fs::write(&directory, "").unwrap();
        let saver = Saver::start(directory.clone()).unwrap();
        let number = 1;
        saver.save(number, Saved::default());
        let mut written = saver.written();
        let seen = written.wait_for(|w| w.tried >= number).await.unwrap().clone();
        assert!(seen.error.unwrap().contains("state.json"));
        // A newer one takes its place, and is written when the way is free.
        let number = 2;
        saver.save(number, sample());
        written.wait_for(|w| w.tried >= number && w.error.is_some()).await.unwrap();
        fs::remove_file(&directory).unwrap();
        let seen = written.wait_for(|w| w.saved >= number).await.unwrap().clone();
        assert_eq!(seen.error, None);
        assert_eq!(load(&directory).0, sample());
    }

    #[tokio::test]
    async fn the_last_wish_is_written_at_the_end() {
        let place = tempfile::tempdir().unwrap();
        let saver = Saver::start(place.path().to_owned()).unwrap();
        let number = 1;
        saver.save(number, sample());
        let mut written = saver.written();
        drop(saver);
        written.wait_for(|w| w.saved >= number).await.unwrap();
        assert_eq!(load(place.path()).0, sample());
    }
}
