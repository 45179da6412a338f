//! The event log: what happened, bounded, with ids by which a client can follow it.

use crate::api::caller::Caller;
use crate::health::unix_ms;
use model::api::{EVENTS_KEPT, Event, EventKind, Events};
use model::visible;
use std::collections::VecDeque;
use tokio::sync::watch;

/// The newest [`EVENTS_KEPT`] events.
#[derive(Debug)]
pub(crate) struct EventLog {
    kept: VecDeque<Event>,
    last: watch::Sender<u64>,
}

impl EventLog {
    /// Empty; the first event gets id 1.
    pub(crate) fn new() -> EventLog {
        EventLog { kept: VecDeque::new(), last: watch::Sender::new(0) }
    }

    /// Adds an event that nobody asked for, and logs it.
    pub(crate) fn push(
        &mut self,
        kind: EventKind,
        service: Option<&str>,
        backend: Option<&str>,
        message: impl Into<String>,
    ) {
        self.push_by(None, kind, (service, backend), message);
    }

    /// Adds an event that somebody asked for, and logs it. `subject` is the service and the backend concerned.
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
        let name = serde_json::to_value(kind).ok().and_then(|v| v.as_str().map(str::to_owned));
        let name = name.unwrap_or_default();
        match kind {
            EventKind::Refused
            | EventKind::Unconfirmed
            | EventKind::ConfigDiffers
            | EventKind::BackendDown
            | EventKind::HoldDown
            | EventKind::PanicOn
            | EventKind::ServiceEmpty
            | EventKind::StoreLost
            | EventKind::AgentLost
            | EventKind::BackendSuspect
            | EventKind::RegistrationRefused
            | EventKind::NotLocal
            | EventKind::StateUnsaved
            | EventKind::Warning => tracing::warn!(event = name, service, backend, caller, "{message}"),
            _ => tracing::info!(event = name, service, backend, caller, "{message}"),
        }
        if self.kept.len() == EVENTS_KEPT {
            self.kept.pop_front();
        }
        let id = *self.last.borrow() + 1;
        self.kept.push_back(Event { id, unix_ms: unix_ms(), kind, service, backend, caller, message });
        self.last.send_replace(id);
    }

    /// Up to `limit` events with an id above `after`, oldest first.
    pub(crate) fn after(&self, after: u64, limit: usize) -> Events {
        let last_id = *self.last.borrow();
        let first_kept = self.kept.front().map_or(1, |event| event.id);
        // Ids are consecutive, so the place is known.
        let skip = usize::try_from(after.saturating_add(1).saturating_sub(first_kept)).unwrap_or(usize::MAX);
        Events {
            events: self.kept.iter().skip(skip).take(limit).cloned().collect(),
            last_id,
            missed: after.saturating_add(1) < first_kept,
        }
    }

    /// Tells the id of the newest event whenever there is a new one.
    pub(crate) fn follow(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_consecutive_and_old_events_are_forgotten() {
        let mut log = EventLog::new();
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
