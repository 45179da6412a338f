//! Commands to workers and their answers, for requests that need them: one exchange after the other.

use super::answer::ApiFailure;
use crate::commands::{ANSWER_WITHIN, CommandExchange, NoAnswer};
use crate::handle::Handle;
use axum::http::StatusCode;
use std::time::Duration;
use worker::commands::{Command, CommandOutcome};

/// Longest time for which a request waits for those before it.
const TURN_WITHIN: Duration = Duration::from_secs(3);
/// Between two looks for answers: workers take a turn about as often.
const PAUSE: Duration = Duration::from_millis(1);

impl From<NoAnswer> for ApiFailure {
    fn from(why: NoAnswer) -> ApiFailure {
        let (error, help) = match why {
            NoAnswer::Full(core) => (
                format!("worker {} has not taken yet what was asked of it before", core.0),
                "try again in a moment",
            ),
            NoAnswer::Silent(core) => (
                format!("worker {} did not answer within {} s", core.0, ANSWER_WITHIN.as_secs()),
                "it did not do what was asked, nor will it; others may have: see guideway show workers",
            ),
            NoAnswer::Deaf(core) => (
                format!("worker {} takes no commands", core.0),
                "guideway show workers lists those there are",
            ),
        };
        ApiFailure::new(StatusCode::SERVICE_UNAVAILABLE, error, help)
    }
}

/// Sends the commands, each to the worker whose index is beside it, and waits for all answers.
pub(super) async fn exchange(
    handle: &Handle,
    commands: Vec<(usize, Command)>,
) -> Result<Vec<Option<CommandOutcome>>, ApiFailure> {
    let Ok(Ok(_turn)) = tokio::time::timeout(TURN_WITHIN, handle.commanding.acquire()).await else {
        let error = "others are asking workers at the same time";
        return Err(ApiFailure::new(StatusCode::SERVICE_UNAVAILABLE, error, "try again in a moment"));
    };
    let mut exchange = CommandExchange::new(commands);
    loop {
        let advanced = handle.with_workers(move |workers, now| {
            let is_done = exchange.advance(workers, now);
            (exchange, is_done)
        });
        let (advanced, is_done) = advanced.await.ok_or_else(ApiFailure::stopping)?;
        if is_done? {
            return Ok(advanced.outcomes());
        }
        exchange = advanced;
        tokio::time::sleep(PAUSE).await;
    }
}
