//! What the registry has to know of the configuration.

use super::hello::Tokens;
use model::agent::{CheckSpec, MachineContact, Target};
use model::config::{Config, Service};
use model::registered::RegistrationRules;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// The tokens of agents, by their services.
pub(crate) type AgentTokens = HashMap<String, Vec<u8>>;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// Machines that agents should connect to.
    pub(crate) machines: Vec<MachineContact>,
    /// What may register.
    pub(crate) rules: RegistrationRules,
    /// Services that agents may speak for …
    pub(crate) services: BTreeMap<String, OfService>,
    /// … and their tokens.
    pub(crate) tokens: Arc<Tokens>,
}

/// A service that agents may speak for.
#[derive(Clone, Debug)]
pub(crate) struct OfService {
    pub(crate) lease_ms: u64,
    pub(crate) check: CheckSpec,
    /// Whether agents check, or the machines.
    pub(crate) is_checked_by_agents: bool,
    /// Port that is checked of a backend that asks for none.
    pub(crate) port: u16,
    /// Backends of the configuration, by address.
    pub(crate) fixed: HashMap<IpAddr, Target>,
}

impl Facts {
    /// Those of a configuration without what registered; services without a token among `tokens` are no agent's.
    pub(crate) fn of(config: &Config, tokens: &AgentTokens) -> Facts {
        let mut kept = Vec::new();
        let services = config.services.iter().filter_map(|service| {
            let agents = service.agents.as_ref()?;
            kept.push((service.name.clone(), tokens.get(&service.name)?.clone()));
            let of = OfService {
                lease_ms: u64::from(agents.lease_ms),
                check: check(service),
                is_checked_by_agents: service.is_checked_by_agents(),
                port: service.health.port.unwrap_or(service.port),
                fixed: fixed_backends(service),
            };
            Some((service.name.clone(), of))
        });
        let services = services.collect();
        let own = config.agents.as_ref().map(|agents| MachineContact {
            name: config.machine.name.clone(),
            address: agents.advertise,
            leads: true,
        });
        Facts {
            machines: own.into_iter().collect(),
            rules: RegistrationRules::of(config),
            services,
            tokens: Arc::new(kept.into_iter().collect()),
        }
    }

    /// The name of the configured backend with this address, of a service that agents check.
    pub(super) fn fixed(&self, service: &str, address: IpAddr) -> Option<&String> {
        let of = self.services.get(service).filter(|of| of.is_checked_by_agents)?;
        Some(&of.fixed.get(&address)?.backend)
    }
}

fn fixed_backends(service: &Service) -> HashMap<IpAddr, Target> {
    let of = service.backends.iter().filter(|backend| backend.registration.is_none());
    of.map(|backend| {
        let port = service.check_port(backend);
        (backend.address, Target { backend: backend.name.clone(), address: backend.address, port })
    })
    .collect()
}

fn check(service: &Service) -> CheckSpec {
    let health = &service.health;
    CheckSpec {
        kind: health.kind.clone(),
        vip: service.vip.first_host(),
        port: service.port,
        protocol: service.protocol,
        interval_ms: health.interval_ms,
        timeout_ms: health.timeout_ms,
        fall: health.fall,
        rise: health.rise,
    }
}
