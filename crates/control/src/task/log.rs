//! Events become lines of the log.

use model::api::{EventKind, LoggedEvent};

/// Logs an event.
pub(crate) fn tell(event: &LoggedEvent) {
    let LoggedEvent { kind, service, backend, caller, message, .. } = event;
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
}
