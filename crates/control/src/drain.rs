//! Drains that operators ask for.

use crate::caller::Caller;
use crate::cluster::desire::Desire;
use crate::cluster::desires;
use crate::controller::Controller;
use crate::refusal::Refusal;
use crate::status;
use model::api::EventKind;

/// What came of a drain: the number of the state to be saved, and in a cluster what it is to be asked for.
pub(crate) type Drained = (model::api::DrainResult, u64, Option<Desire>);

/// Drains a backend, or ends that.
pub(crate) fn set_drain(
    controller: &mut Controller,
    caller: &Caller,
    service: &str,
    backend: &str,
    drained: bool,
) -> Result<Drained, Refusal> {
    let Some(found) = controller.config.services.iter().find(|s| s.name == service) else {
        return Err(Refusal::UnknownService(service.to_owned()));
    };
    let Some(known) = found.backends.iter().find(|b| b.name == backend) else {
        let (service, backend) = (service.to_owned(), backend.to_owned());
        return Err(Refusal::UnknownBackend { service, backend });
    };
    let address = known.address;
    let key = (service.to_owned(), backend.to_owned());
    let changed = controller.backends.drains.contains(&key) != drained;
    let mut desire = None;
    if controller.cluster.is_some() {
        desire = Some(desires::desire_drain(controller, service, backend, drained)?);
    } else if drained {
        controller.backends.drains.insert(key);
    } else {
        controller.backends.drains.remove(&key);
    }
    if changed {
        let (kind, text) = if drained {
            (EventKind::Drain, "drained: no new flows")
        } else {
            (EventKind::Undrain, "no longer drained")
        };
        controller.log.push_by(Some(caller), kind, (Some(service), Some(backend)), text);
        controller.publication.dirty = true;
        controller.settle();
    }
    let number = controller.save();
    let flows =
        controller.backends.ids.backend(service, backend, address).map_or(0, |id| controller.live_flows(id));
    let result = model::api::DrainResult {
        service: service.to_owned(),
        backend: backend.to_owned(),
        drained,
        changed,
        generation: controller.publication.next_generation(),
        flows,
        saved: controller.cluster.is_some(),
        unsaved_because: None,
        backends_up: status::backends_up(controller, service),
    };
    Ok((result, number, desire))
}
