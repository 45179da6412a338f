//! Writes the state on a thread of its own, so that a slow disk delays nothing but the answer that promises persistence.

use super::{FILE, Saved, save};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

/// Writes states behind the owner's back; of several wanted while one is written, only the last.
#[derive(Debug)]
pub(crate) struct Saver {
    wanted: watch::Sender<(u64, Arc<Saved>)>,
    done: watch::Receiver<Written>,
}

/// How far the writing is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    /// Number of the last state that was dealt with.
    pub(crate) number: u64,
    /// Why it could not be written.
    pub(crate) error: Option<String>,
}

impl Saver {
    /// Starts writing into `directory`.
    pub(crate) fn start(directory: PathBuf) -> Saver {
        let (wanted, mut wishes) = watch::channel((0, Arc::new(Saved::default())));
        let (tell, done) = watch::channel(Written::default());
        tokio::spawn(async move {
            while wishes.changed().await.is_ok() {
                let (number, saved) = wishes.borrow_and_update().clone();
                let place = directory.clone();
                let written = tokio::task::spawn_blocking(move || save(&place, &saved)).await;
                let error = match written {
                    Ok(Ok(())) => None,
                    Ok(Err(e)) => Some(format!("{}: {e}", directory.join(FILE).display())),
                    Err(e) => Some(e.to_string()),
                };
                tell.send_replace(Written { number, error });
            }
        });
        Saver { wanted, done }
    }

    /// Asks for `saved` to be written; returns its number.
    pub(crate) fn save(&self, saved: Saved) -> u64 {
        let mut number = 0;
        self.wanted.send_modify(|(last, old)| {
            *last += 1;
            number = *last;
            *old = Arc::new(saved);
        });
        number
    }

    /// How far the writing is.
    pub(crate) fn written(&self) -> watch::Receiver<Written> {
        self.done.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::super::load;
    use super::super::tests::sample;
    use super::Saver;
    use std::fs;

    #[tokio::test]
    async fn the_saver_tells_what_it_wrote_and_what_it_could_not() {
        let place = tempfile::tempdir().unwrap();
        let saver = Saver::start(place.path().to_owned());
        let number = saver.save(sample());
        let mut written = saver.written();
        let seen = written.wait_for(|w| w.number >= number).await.unwrap().clone();
        assert_eq!(seen.error, None);
        assert_eq!(load(place.path()).0, sample());

        let file = place.path().join("file");
        fs::write(&file, "").unwrap();
        let saver = Saver::start(file.join("below"));
        let number = saver.save(sample());
        let seen = saver.written().wait_for(|w| w.number >= number).await.unwrap().clone();
        assert!(seen.error.unwrap().contains("state.json"));
    }
}
