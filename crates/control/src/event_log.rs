//! The event log: what happened, bounded, with ids by which a client can follow it.

use crate::caller::Caller;
use model::api::{EVENTS_KEPT, EventKind, Events, LoggedEvent};
use model::visible;
use std::collections::VecDeque;

/// The newest [`EVENTS_KEPT`] events.
#[derive(Debug, Default)]
pub(crate) struct EventLog {
    kept: VecDeque<LoggedEvent>,
    last_id: u64,
    unix_ms: u64,
    /// Those that nobody was told of yet.
    untold: Vec<LoggedEvent>,
}

impl EventLog {
    /// What happens from now on happens then, Unix time in milliseconds.
    pub(crate) fn set_time(&mut self, unix_ms: u64) {
        self.unix_ms = unix_ms;
    }

    /// Events since the last call, which are to be logged and told.
    pub(crate) fn take_untold(&mut self) -> Vec<LoggedEvent> {
        std::mem::take(&mut self.untold)
    }

    /// Adds an event that nobody asked for; the first one gets id 1.
    pub(crate) fn push(
        &mut self,
        kind: EventKind,
        service: Option<&str>,
        backend: Option<&str>,
        message: impl Into<String>,
    ) {
        self.push_by(None, kind, (service, backend), message);
    }

    /// Adds an event that somebody asked for, with the service and the backend concerned.
    pub(crate) fn push_by(
        &mut self,
        caller: Option<&Caller>,
        kind: EventKind,
        (service, backend): (Option<&str>, Option<&str>),
        message: impl Into<String>,
    ) {
        let caller = caller.map(|caller| visible(caller.as_str()).into_owned());
        // Names and reasons come from agents, peers and servers: here they become part of a log.
        let message = visible(&message.into()).into_owned();
        let service = service.map(|name| visible(name).into_owned());
        let backend = backend.map(|name| visible(name).into_owned());
        if self.kept.len() == EVENTS_KEPT {
            self.kept.pop_front();
        }
        self.last_id += 1;
        let event =
            LoggedEvent { id: self.last_id, unix_ms: self.unix_ms, kind, service, backend, caller, message };
        self.untold.push(event.clone());
        self.kept.push_back(event);
    }

    /// Up to `limit` events with an id above `after`, oldest first.
    pub(crate) fn after(&self, after: u64, limit: usize) -> Events {
        let last_id = self.last_id;
        let first_kept = self.kept.front().map_or(1, |event| event.id);
        // Ids are consecutive, so the place is known.
        let skip = usize::try_from(after.saturating_add(1).saturating_sub(first_kept)).unwrap_or(usize::MAX);
        Events {
            events: self.kept.iter().skip(skip).take(limit).cloned().collect(),
            last_id,
            missed: after.saturating_add(1) < first_kept,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_consecutive_and_old_events_are_forgotten() {
        let mut log = EventLog::default();
        assert_eq!(log.after(0, 10), Events { events: vec![], last_id: 0, missed: false });
        for i in 1..=EVENTS_KEPT + 5 {
            log.push(EventKind::Apply, None, None, format!("{i}"));
        }
        let last = EVENTS_KEPT as u64 + 5;
        let got = log.after(0, 3);
        assert!(got.missed);
        assert_eq!(got.last_id, last);
        assert_eq!(got.events.iter().map(|e| e.id).collect::<Vec<_>>(), [6, 7, 8]);
        assert_eq!(got.events[0].message, "6");
        let got = log.after(last - 1, 10);
        assert!(!got.missed);
        assert_eq!(got.events.len(), 1);
        assert_eq!(got.events[0].id, last);
        assert!(log.after(last, 10).events.is_empty());
        assert!(log.after(u64::MAX - 1, 10).events.is_empty());
    }
}
