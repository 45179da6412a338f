//! `guideway apply --confirm`: waits until the revision is confirmed, or is not in force any more.

use crate::daemon::Daemon;
use crate::failure::Failure;
use crate::{CommandResult, Done, output};
use hyper::Method;
use model::api::{ApplyResult, CONFIRM_MAX_MS, CONFIRM_MIN_MS, ConfirmResult, History};
use std::io::{BufRead as _, IsTerminal as _};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

/// Between two looks whether somebody else has confirmed.
const LOOK: Duration = Duration::from_millis(500);

/// A number with a unit: `1500ms`, `60s`, `5m`, `1h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("write a number and ms, s, m or h: 60s".to_owned()),
    };
    let ms = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms));
    match ms.filter(|ms| (CONFIRM_MIN_MS..=CONFIRM_MAX_MS).contains(ms)) {
        Some(ms) => Ok(Duration::from_millis(ms)),
        None => Err("it is not in 1s to 1h".to_owned()),
    }
}

/// Asks whoever sits at the terminal, and looks whether somebody else has answered. That nobody has is a failure.
pub(crate) fn await_confirmation(daemon: &Daemon, applied: &ApplyResult, json: bool) -> CommandResult {
    let revision = applied.revision;
    let Some(within_ms) = applied.confirm_within_ms else {
        output::note("it was in force already, so there is nothing to confirm");
        return Ok(Done::Well);
    };
    let seconds = within_ms.div_ceil(1000);
    let answers = std::io::stdin().is_terminal().then(answers);
    let how = if answers.is_some() { "type yes, or run" } else { "run" };
    output::tell(&format!(
        "revision {revision} goes back by itself in {seconds} s; to keep it, {how}: guideway confirm"
    ));
    loop {
        if answers.as_ref().map_or_else(pause, said_yes) {
            return confirm(daemon, Some(revision), json);
        }
        let history: History = daemon.get("/v1/history")?;
        let in_force = history.revisions.first().map(|of| of.number);
        match (in_force == Some(revision), history.confirm_within_ms) {
            (true, Some(_)) => {}
            (true, None) => {
                return confirmed(revision, json);
            }
            (false, _) => {
                return Err(Failure::failed(format!(
                    "revision {revision} was not confirmed, and is not in force any more"
                ))
                .help("see: guideway history"));
            }
        }
    }
}

/// Lines that are typed. The thread ends with the program.
fn answers() -> Receiver<String> {
    let (say, said) = mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if say.send(line).is_err() {
                return;
            }
        }
    });
    said
}

/// Waits a moment for a yes.
fn said_yes(answers: &Receiver<String>) -> bool {
    match answers.recv_timeout(LOOK) {
        Ok(line) => matches!(line.trim(), "y" | "yes"),
        Err(RecvTimeoutError::Timeout) => false,
        Err(RecvTimeoutError::Disconnected) => pause(),
    }
}

fn pause() -> bool {
    std::thread::sleep(LOOK);
    false
}

/// Confirms a revision, or the one that waits.
pub(crate) fn confirm(daemon: &Daemon, revision: Option<u64>, json: bool) -> CommandResult {
    let which = revision.map_or_else(String::new, |revision| format!("?revision={revision}"));
    let nothing = ("application/toml", Vec::new());
    let result: ConfirmResult =
        daemon.send(Method::POST, &format!("/v1/confirm{which}"), nothing, Duration::ZERO)?;
    if let Some(why) = &result.unsaved_because {
        output::warning(&format!("that is not on the disk yet, so a restart would go back: {why}"));
    }
    confirmed(result.revision, json)
}

/// What was asked for in JSON has its JSON already.
fn confirmed(revision: u64, json: bool) -> CommandResult {
    let text = format!("revision {revision} is confirmed");
    if json {
        output::tell(&text);
    } else {
        output::line(&text)?;
    }
    Ok(Done::Well)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit_and_a_range() {
        for (text, ms) in [("1500ms", 1_500), ("60s", 60_000), ("5m", 300_000), ("1h", 3_600_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "60", "s", "-1s", "999ms", "2h", "61m", "60 s", "99999999999999999999s", "1d", "ü"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
