//! What the API shows of agents and of what they have registered.

use crate::controller::Controller;
use crate::passive::compare;
use model::api::{AgentStatus, RegistrationStatus};

/// Backends that agents speak for, or spoke for.
pub(crate) fn registrations(controller: &Controller) -> Vec<RegistrationStatus> {
    let held = controller.agents.registry.held().iter();
    let mut all: Vec<RegistrationStatus> = held
        .map(|((service, backend), held)| {
            let of = held.registered.as_ref();
            let load = held.load.as_ref();
            RegistrationStatus {
                service: service.clone(),
                backend: backend.clone(),
                address: held.address,
                registered: of.is_some(),
                agent: held.agent.clone(),
                incarnation: of.map(|of| of.incarnation),
                weight: of.map(|of| of.weight),
                port: of.and_then(|of| of.port),
                capacity: of.and_then(|of| of.capacity),
                state: held.phase,
                since_unix_ms: controller.unix_of(held.since_ms),
                up: held.up,
                reason: held.reason.clone(),
                in_force: of.is_none() || held.in_force.is_some(),
                suspected: match &held.suspicion {
                    Some(suspicion) => Some(suspicion.why.clone()),
                    None => compare::doubt_of_clients(controller, service, backend, held.address),
                },
                own_failures: held.suspicion.as_ref().map_or(0, |suspicion| suspicion.failures),
                cpu_permille: load.and_then(|load| load.cpu_permille),
                connections: load.and_then(|load| load.connections),
                custom_permille: load.and_then(|load| load.custom_permille),
            }
        })
        .collect();
    for departed in &controller.backends.departed {
        let Some(backend) = departed.service.backends.first() else { continue };
        let Some(by) = &backend.registration else { continue };
        all.push(RegistrationStatus {
            service: departed.service.name.clone(),
            backend: backend.name.clone(),
            address: backend.address,
            registered: true,
            agent: by.agent.clone(),
            incarnation: Some(by.incarnation),
            weight: Some(backend.weight),
            port: by.port,
            capacity: Some(backend.capacity),
            state: model::agent::Phase::Draining,
            since_unix_ms: departed.since_unix_ms,
            up: None,
            reason: format!("{} flows live on", controller.live_flows(departed.id)),
            in_force: false,
            suspected: None,
            own_failures: 0,
            cpu_permille: None,
            connections: None,
            custom_permille: None,
        });
    }
    all
}

/// Agents that are connected.
pub(crate) fn agents(controller: &Controller) -> Vec<AgentStatus> {
    let now_ms = controller.uptime_ms();
    let sessions = controller.agents.registry.sessions().values();
    let mut all: Vec<AgentStatus> = sessions
        .map(|session| AgentStatus {
            name: session.agent.clone(),
            incarnation: session.incarnation,
            peer: session.peer.to_string(),
            addresses: session.addresses.iter().copied().collect(),
            services: session.services.iter().cloned().collect(),
            since_unix_ms: controller.unix_of(session.since_ms),
            silent_ms: now_ms.saturating_sub(session.heard_ms),
            lease_ms: session.lease_ms,
            registered: session.registered.len() as u64,
            checks: session.asked.values().map(|asked| asked.targets.len() as u64).sum(),
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}
