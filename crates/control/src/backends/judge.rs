//! What is shown of backends and services, and what is told of changes.

use crate::controller::Controller;
use crate::event_log::EventLog;
use model::api::{BackendState, EventKind, ServiceState, Word};
use model::config::{AdminState, Service};

/// Derives what the API shows of backends and services, and tells what changed.
pub(crate) fn judge(controller: &mut Controller) {
    let now = controller.now.unix_ms;
    for service in &controller.config.services {
        let (mut state, mut is_cut_off) = (ServiceState::Empty, false);
        // In a cluster the table alone says who takes new flows.
        let in_table =
            controller.cluster.as_ref().and(controller.backends.ids.service(&service.name)).and_then(|id| {
                controller
                    .publication
                    .view
                    .service
                    .iter()
                    .find(|view| view.id == id)
                    .map(|view| &view.members)
            });
        for backend in &service.backends {
            let Some(id) = controller.backends.ids.backend(&service.name, &backend.name, backend.address)
            else {
                continue;
            };
            let is_drained = controller.is_drained(service, backend);
            let Some(member) = controller.backends.members.get_mut(&id) else { continue };
            let healthy = member.verdict.as_ref().is_none_or(|v| v.up() == Some(true));
            let view = controller.publication.view.backends.get(id.index()).and_then(Option::as_ref);
            let is_reached = view.is_some_and(|view| view.next_hop.is_some());
            let takes_flows = view.is_some_and(|view| view.state == worker::view::BackendState::Up)
                && in_table.is_none_or(|members| members.contains(&id));
            let (is, source) = match backend.state {
                AdminState::Down => (BackendState::Down, Word::Admin),
                AdminState::Drain => (BackendState::Drain, Word::Admin),
                AdminState::Up if is_drained => (BackendState::Drain, Word::Drain),
                AdminState::Up if backend.weight == 0 => (BackendState::Drain, Word::Admin),
                AdminState::Up if !takes_flows => (
                    BackendState::Down,
                    controller.passive.health_source(&controller.agents.registry, &service.name, backend, id),
                ),
                AdminState::Up if !healthy => (BackendState::Up, Word::Panic),
                AdminState::Up if member.verdict.is_some() => (
                    BackendState::Up,
                    controller.passive.health_source(&controller.agents.registry, &service.name, backend, id),
                ),
                AdminState::Up => (BackendState::Up, Word::Admin),
            };
            // What has no next hop takes flows, and loses them.
            is_cut_off |= is == BackendState::Up && !is_reached;
            if is == BackendState::Up && is_reached && state != ServiceState::Panic {
                state = if source == Word::Panic { ServiceState::Panic } else { ServiceState::Ready };
            }
            if (member.state, member.health_source) != (is, source) {
                (member.state, member.health_source, member.since_unix_ms) = (is, source, now);
            }
        }
        let before = controller.backends.service_states.insert(service.name.clone(), state);
        if before != Some(state) {
            tell(&mut controller.log, service, (before, state), is_cut_off);
        }
    }
}

/// Tells of a service that is in another state than before.
fn tell(
    log: &mut EventLog,
    service: &Service,
    (before, state): (Option<ServiceState>, ServiceState),
    is_cut_off: bool,
) {
    let name = Some(service.name.as_str());
    if before == Some(ServiceState::Panic) {
        log.push(EventKind::PanicOff, name, None, "health is heeded again");
    }
    match state {
        ServiceState::Panic => {
            let percent = service.panic_percent;
            let message = format!("more than {percent} % of the backends are down: health is disregarded");
            log.push(EventKind::PanicOn, name, None, message);
        }
        // At start nothing is known yet, which is no news.
        ServiceState::Empty if before.is_some() => {
            let message =
                if is_cut_off { "no backend that is up has a next hop" } else { "no usable backend" };
            log.push(EventKind::ServiceEmpty, name, None, message);
        }
        ServiceState::Ready if before != Some(ServiceState::Panic) => {
            log.push(EventKind::ServiceReady, name, None, "has a usable backend");
        }
        ServiceState::Empty | ServiceState::Ready => {}
    }
}
