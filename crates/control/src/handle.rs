//! The way to the controller, for API handlers.

use crate::api::credentials::Credentials;
use crate::capture::Captures;
use crate::claims::Claims;
use crate::cluster::desire::Desire;
use crate::cluster::desired::{Desired, StoreHandle};
use crate::controller::Controller;
use crate::meter::Meter;
use crate::pages::Pages;
use crate::plane::WorkerHandle;
use crate::refusal::Refusal;
use crate::shell::Shell;
use crate::state::saver::Written;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use wire::Tick;

/// A closure to be run on the controller's thread.
pub(crate) type ShellCall = Box<dyn FnOnce(&mut Shell) + Send>;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pub(crate) questions: mpsc::Sender<ShellCall>,
    /// Smallest generation that every worker uses.
    pub(crate) acknowledged: watch::Receiver<u64>,
    /// Number of the newest event.
    pub(crate) last_event: watch::Receiver<u64>,
    /// How far the writing of the state is.
    pub(crate) written: watch::Receiver<Written>,
    /// What TCP listeners prove themselves with.
    pub(crate) credentials: watch::Sender<Credentials>,
    /// What only this process of the network namespace may have.
    pub(crate) claims: Claims,
    /// `None`: the machine is alone.
    pub(crate) store: Option<StoreHandle>,
    pub(crate) meter: Meter,
    /// Held while a configuration is being applied.
    pub(crate) applying: Arc<Semaphore>,
    /// Held while a configuration is being read, checked and compared.
    pub(crate) preparing: Arc<Semaphore>,
    /// Held while workers are asked something.
    pub(crate) commanding: Arc<Semaphore>,
    /// Pages of `/metrics`.
    pub(crate) pages: Pages,
}

impl Handle {
    /// Runs `question` on the controller's thread; `None` when the controller is gone.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Controller) -> T + Send + 'static,
    ) -> Option<T> {
        self.run(|shell| shell.ask(question)).await
    }

    /// As [`ask`](Self::ask), for what captures are asked.
    pub(crate) async fn with_captures<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Captures, &mut Controller) -> T + Send + 'static,
    ) -> Option<T> {
        self.run(|shell| shell.with_captures(question)).await
    }

    /// As [`ask`](Self::ask), for what workers are asked.
    pub(crate) async fn with_workers<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut [WorkerHandle], Tick) -> T + Send + 'static,
    ) -> Option<T> {
        self.run(|shell| shell.with_workers(question)).await
    }

    /// Asks the cluster's store for other services.
    pub(crate) fn desire(&self, desire: Desire) -> Result<Desired, Refusal> {
        Ok(self.store.as_ref().ok_or(Refusal::Stopping)?.place()?.desire(desire))
    }

    async fn run<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Shell) -> T + Send + 'static,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        let question: ShellCall = Box::new(move |shell| {
            let _ = reply.send(question(shell));
        });
        self.questions.send(question).await.ok()?;
        answer.await.ok()
    }
}
