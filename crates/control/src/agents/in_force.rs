//! What has registered comes into force, and leaves it.

use crate::configure;
use crate::controller::Controller;
use model::api::EventKind;
use model::config::Config;
use model::registered::Registered;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// What has registered becomes part of the configuration in force, and what is over leaves it. Whether that changes it.
pub(crate) fn renew_registered(controller: &mut Controller) -> bool {
    let (config, skipped) = controller.base.with_registered(&controller.agents.registry.received().alive);
    controller.agents.registry.skipped(&skipped);
    if config == *controller.config {
        let now_ms = controller.uptime_ms();
        controller.agents.registry.agreed(&config.registered(), now_ms);
        return false;
    }
    part_with_strangers(controller, &config);
    match configure::tried(controller, &config) {
        Ok(ids) => {
            configure::put_in_force(controller, config, ids);
            let config = Arc::clone(&controller.config);
            part_with_strangers(controller, &config);
            true
        }
        Err(error) => {
            let message = format!("what has registered cannot be put in force: {error}");
            controller.log.push(EventKind::Warning, None, None, message);
            false
        }
    }
}

/// An address that another one registers now is the former one's no more: flows that were its are steered anew, lest they
/// meet a stranger. Only the same start of the same backend comes back to its flows.
pub(crate) fn part_with_strangers(controller: &mut Controller, config: &Config) {
    let coming = config.registered();
    let before: HashMap<(String, String, IpAddr), String> = controller
        .config
        .registered()
        .into_iter()
        .map(|of| ((of.service, of.backend, of.address), of.agent))
        .collect();
    for of in &coming {
        // In force by another agent, under the same name and address.
        let place = (of.service.clone(), of.backend.clone(), of.address);
        let is_other = before.get(&place).is_some_and(|agent| *agent != of.agent);
        if let (true, Some(id)) =
            (is_other, controller.backends.ids.backend(&of.service, &of.backend, of.address))
        {
            controller.backends.ids.disown(id);
            if let Some(mut member) = controller.backends.members.remove(&id) {
                controller.stop_check(id, &mut member);
            }
            controller.backends.probe_ports.release(id);
            let message = format!("{} is another agent's now", of.address);
            let (service, backend) = (Some(of.service.as_str()), Some(of.backend.as_str()));
            controller.log.push(EventKind::BackendForgotten, service, backend, message);
        }
    }
    if controller.backends.departed.is_empty() {
        return;
    }
    let coming: HashMap<(&str, IpAddr), &Registered> =
        coming.iter().map(|of| ((of.service.as_str(), of.address), of)).collect();
    let (ids, log) = (&mut controller.backends.ids, &mut controller.log);
    controller.backends.departed.retain(|departed| {
        let Some(old) = departed.service.backends.first() else { return true };
        let Some(of) = coming.get(&(departed.service.name.as_str(), old.address)) else { return true };
        let by = old.registration.as_ref();
        if old.name == of.backend
            && by.is_some_and(|by| by.incarnation == of.incarnation && by.agent == of.agent)
        {
            return true;
        }
        ids.disown(departed.id);
        let message = format!("{} was registered anew: flows that it had are steered anew", old.address);
        log.push(EventKind::BackendForgotten, Some(&of.service), Some(&old.name), message);
        false
    });
}
