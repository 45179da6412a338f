//! Publishing views to all workers.

use crate::plane::WorkerHandle;
use std::sync::Arc;
use worker::View;

/// The newest view per worker that its mailbox had no room for.
///
/// A worker that does not take its turns costs one waiting view, never more: newer ones replace it.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    waiting: Vec<Option<Arc<View>>>,
}

impl Backlog {
    /// For so many workers.
    pub(crate) fn new(workers: usize) -> Backlog {
        Backlog { waiting: vec![None; workers] }
    }

    /// Publishes to every worker, now or as soon as its mailbox has room.
    pub(crate) fn publish(&mut self, workers: &mut [WorkerHandle], view: &Arc<View>) {
        for waiting in &mut self.waiting {
            *waiting = Some(view.clone());
        }
        self.push(workers);
    }

    /// Frees what came home, and publishes what waits.
    pub(crate) fn push(&mut self, workers: &mut [WorkerHandle]) {
        for (worker, waiting) in workers.iter_mut().zip(&mut self.waiting) {
            while worker.publisher.collect().is_some() {}
            if let Some(view) = waiting
                && worker.publisher.publish(view.clone()).is_ok()
            {
                *waiting = None;
            }
        }
    }
}
