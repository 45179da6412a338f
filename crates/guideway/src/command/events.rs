//! `guideway events`.

use crate::connection::Connection;
use crate::daemon::Daemon;
use crate::failure::Failure;
use crate::outcome::EXIT_CODES;
use crate::table::moment;
use crate::{CommandResult, Done, output};
use clap::Args;
use model::api::{EVENTS_DEFAULT, EVENTS_KEPT, Events, LoggedEvent};
use std::time::Duration;

/// How long one request of `--follow` waits for news.
const WAIT_MS: u64 = 20_000;

/// What happened: backends up and down with the reason, applies, drains, panics
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Go on and print events as they happen
    #[arg(long, short)]
    follow: bool,
    /// Only events after this id
    #[arg(long, value_name = "ID", default_value_t = 0)]
    after: u64,
    /// At most this many of the events there are (with --follow: at a time)
    #[arg(long, value_name = "N", default_value_t = EVENTS_DEFAULT as u64,
        value_parser = clap::value_parser!(u64).range(1..=EVENTS_KEPT as u64))]
    limit: u64,
    #[command(flatten)]
    connection: Connection,
    /// Print JSON: one array, with --follow one object a line
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    let daemon = Daemon::new(&arguments.connection)?;
    let limit = arguments.limit;
    let mut after = arguments.after;
    let target =
        |after: u64, wait_ms: u64| format!("/v1/events?after={after}&limit={limit}&wait_ms={wait_ms}");
    if !arguments.follow {
        let answer: Events = daemon.get(&target(after, 0))?;
        if arguments.json {
            output::json(&answer.events)?;
        } else {
            answer.events.iter().try_for_each(|e| output::line(&text(e)))?;
        }
        return Ok(Done::Well);
    }
    output::end_with_reader();
    loop {
        let answer: Events = daemon.get_within(&target(after, WAIT_MS), Duration::from_millis(WAIT_MS))?;
        if answer.last_id < after {
            output::note("the daemon was restarted");
            after = 0;
            continue;
        }
        if answer.missed && after > 0 {
            output::note("some events were forgotten before they were read");
        }
        for e in &answer.events {
            after = after.max(e.id);
            if arguments.json { output::line(&compact(e)?)? } else { output::line(&text(e))? }
        }
    }
}

fn compact(event: &LoggedEvent) -> Result<String, Failure> {
    serde_json::to_string(event).map_err(|e| Failure::failed(format!("cannot write JSON: {e}")))
}

/// One line; the kind in the words of the API.
fn text(e: &LoggedEvent) -> String {
    let kind =
        serde_json::to_value(e.kind).ok().and_then(|k| k.as_str().map(str::to_owned)).unwrap_or_default();
    let subject = match (&e.service, &e.backend) {
        (Some(s), Some(b)) => format!("{s}/{b}: "),
        (Some(s), None) => format!("{s}: "),
        _ => String::new(),
    };
    let by = e.caller.as_ref().map_or_else(String::new, |caller| format!(" (by {caller})"));
    let words = format!("{subject}{}{by}", e.message);
    format!("{}  {:>5}  {kind:<16}  {}", moment(e.unix_ms), e.id, model::visible(&words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::api::EventKind;

    #[test]
    fn an_event_is_one_line() {
        let e = LoggedEvent {
            id: 7,
            unix_ms: 0,
            kind: EventKind::BackendDown,
            service: Some("web".into()),
            backend: Some("b1".into()),
            caller: None,
            message: "refused".into(),
        };
        assert_eq!(text(&e), "1970-01-01 00:00:00.000      7  backend_down      web/b1: refused");
        let asked = LoggedEvent { caller: Some("uid 0, pid 7".into()), ..e };
        assert!(text(&asked).ends_with("web/b1: refused (by uid 0, pid 7)"));
    }
}
