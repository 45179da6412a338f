//! Services and drains that the cluster was asked for: the store's answer, and what the machines make of it.

use super::desire::{Desire, Progress};
use super::store::StoreRequest;
use crate::refusal::Refusal;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Orders and other questions that may wait for the connection.
pub(crate) const ASKED_MAX: usize = 256;

/// The way to the store.
#[derive(Clone, Debug)]
pub(crate) struct StoreHandle {
    pub(crate) asked: mpsc::Sender<StoreRequest>,
    pub(crate) progress: watch::Receiver<Progress>,
}

impl StoreHandle {
    /// A place for a question, so that one that follows from a change here can be asked.
    ///
    /// # Errors
    /// Too much waits already.
    pub(crate) fn place(&self) -> Result<StorePlace, Refusal> {
        let reserved = self.asked.clone().try_reserve_owned();
        let permit = reserved.map_err(|_| Refusal::Store("too much waits for it".to_owned()))?;
        Ok(StorePlace { permit, progress: self.progress.clone() })
    }
}

/// See [`StoreHandle::place`].
#[derive(Debug)]
pub(crate) struct StorePlace {
    permit: mpsc::OwnedPermit<StoreRequest>,
    progress: watch::Receiver<Progress>,
}

impl StorePlace {
    /// Asks for other services.
    pub(crate) fn desire(self, desire: Desire) -> Desired {
        let (reply, answer) = oneshot::channel();
        self.permit.send(StoreRequest::Desire { desire, reply });
        Desired { answer, progress: self.progress }
    }
}

/// The answer of the store, still to come.
#[derive(Debug)]
pub(crate) struct Desired {
    answer: oneshot::Receiver<Result<Option<i64>, String>>,
    progress: watch::Receiver<Progress>,
}

/// Services that the store has taken.
#[derive(Debug)]
pub(crate) struct Accepted {
    revision: i64,
    progress: watch::Receiver<Progress>,
}

impl Accepted {
    /// Waits until all machines have them, which is true, or the time is over.
    ///
    /// # Errors
    /// Why they cannot be had.
    pub(crate) async fn settled(mut self, wait: Duration) -> Result<bool, Refusal> {
        let revision = self.revision;
        let is_over = |of: &Progress| {
            of.settled >= revision || of.refused.as_ref().is_some_and(|(refused, _)| *refused >= revision)
        };
        let _ = tokio::time::timeout(wait, self.progress.wait_for(is_over)).await;
        let progress = self.progress.borrow();
        match &progress.refused {
            Some((refused, problem)) if *refused == revision => Err(Refusal::Unfit(problem.clone())),
            _ => Ok(progress.settled >= revision),
        }
    }
}

impl Desired {
    /// Waits for the answer.
    ///
    /// # Errors
    /// Why it was not taken.
    pub(crate) async fn accepted(self) -> Result<Accepted, Refusal> {
        match self.answer.await {
            Ok(Ok(Some(revision))) => Ok(Accepted { revision, progress: self.progress }),
            Ok(Ok(None)) => Err(Refusal::Overtaken),
            Ok(Err(reason)) => Err(Refusal::Store(reason)),
            Err(_) => Err(Refusal::Stopping),
        }
    }
}
