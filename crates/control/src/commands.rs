//! Commands to workers, and their answers: what is asked goes out as far as the workers' queues have room, answers are collected, and who keeps
//! silent is named.
//!
//! Rule of this module: one exchange at a time ([`Handle::commanding`](crate::handle::Handle)), so that the answers that come are its own, but for
//! those that somebody before did not wait for. It never waits: whoever has one advances it again and again, with pauses.

use crate::plane::WorkerHandle;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use wire::{CoreId, Tick};
use worker::commands::{Command, CommandOutcome};

/// Within this time a worker answers: it takes a turn every few milliseconds.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// What an answer may take on its way home, beyond that: a command is carried out in time, or not at all.
const HOME_WITHIN: Duration = Duration::from_millis(50);

/// Why there are no answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoAnswer {
    /// The worker's queue is full of what others have asked.
    Full(CoreId),
    /// The worker has not answered in time.
    Silent(CoreId),
    /// The worker takes no commands.
    Deaf(CoreId),
}

/// A command that was sent.
#[derive(Clone, Copy, Debug)]
struct SentCommand {
    number: u64,
    /// Which of the exchange's commands.
    index: usize,
    at: Instant,
}

/// What one worker is asked.
#[derive(Debug, Default)]
struct Errand {
    /// To be sent: index and command.
    orders: VecDeque<(usize, Command)>,
    /// Not answered yet, in order.
    sent: VecDeque<SentCommand>,
}

/// Commands on their way, and what has come of them.
#[derive(Debug)]
pub(crate) struct CommandExchange {
    /// By worker.
    errands: Vec<Errand>,
    outcomes: Vec<Option<CommandOutcome>>,
}

impl CommandExchange {
    /// An exchange of these commands, each for the worker whose index is beside it.
    pub(crate) fn new(commands: impl IntoIterator<Item = (usize, Command)>) -> CommandExchange {
        let mut exchange = CommandExchange { errands: Vec::new(), outcomes: Vec::new() };
        for (index, (worker, command)) in commands.into_iter().enumerate() {
            if exchange.errands.len() <= worker {
                exchange.errands.resize_with(worker + 1, Errand::default);
            }
            if let Some(errand) = exchange.errands.get_mut(worker) {
                errand.orders.push_back((index, command));
            }
            exchange.outcomes.push(None);
        }
        exchange
    }

    /// Sends what there is room for and takes in what has come. True when everything is answered. O(queues' depth) for each worker.
    ///
    /// # Errors
    /// [`NoAnswer`]: nothing more will come of it. Commands that were sent may have been carried out, but for those to a worker that was silent.
    pub(crate) fn advance(&mut self, workers: &mut [WorkerHandle], now: Tick) -> Result<bool, NoAnswer> {
        let mut is_done = true;
        for (worker, errand) in workers.iter_mut().zip(&mut self.errands) {
            is_done &= errand.advance(worker, &mut self.outcomes, now)?;
        }
        Ok(is_done)
    }

    /// What came of the commands, in their order; those that were for no worker have none.
    pub(crate) fn outcomes(self) -> Vec<Option<CommandOutcome>> {
        self.outcomes
    }
}

impl Errand {
    fn advance(
        &mut self,
        worker: &mut WorkerHandle,
        outcomes: &mut [Option<CommandOutcome>],
        now: Tick,
    ) -> Result<bool, NoAnswer> {
        let core = worker.core;
        let Some(commander) = &mut worker.commands else {
            return if self.orders.is_empty() { Ok(true) } else { Err(NoAnswer::Deaf(core)) };
        };
        while let Some(answer) = commander.collect() {
            // Others are of an exchange that was given up. A tap that comes home is dropped with its answer.
            if let Some(sent) = self.sent.pop_front_if(|sent| sent.number == answer.number)
                && let Some(outcome) = outcomes.get_mut(sent.index)
            {
                *outcome = Some(answer.outcome);
            }
        }
        let until = Tick(now.0.saturating_add(micros(ANSWER_WITHIN)));
        // Looked at first: what is refused would be lost.
        while commander.room() > 0
            && let Some((index, command)) = self.orders.pop_front()
        {
            let Ok(number) = commander.send(command, until) else {
                debug_assert!(false, "there is room");
                break;
            };
            self.sent.push_back(SentCommand { number, index, at: Instant::now() });
        }
        match self.sent.front() {
            Some(oldest) if oldest.at.elapsed() > ANSWER_WITHIN + HOME_WITHIN => Err(NoAnswer::Silent(core)),
            None if !self.orders.is_empty() => Err(NoAnswer::Full(core)),
            oldest => Ok(oldest.is_none()),
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
