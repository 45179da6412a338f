//! Backends that registered, and how they become part of a configuration.
//!
//! Rule of this module: whether a registration fits depends on the configuration and the registration alone,
//! so that machines with the same services take the same ones; and what does not fit is said, never changed
//! until it does.

use crate::agent::RefusalCode;
use crate::config::{AdminState, Backend, Config, Mode, Net, Registration, Service, Template};
use crate::keys::backend::BACKENDS_MAX;
use crate::name::{NAME_MAX, is_name};
use crate::net::{NetMap, not_unicast};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// Largest number of flows that a backend can say it is meant to carry.
pub const CAPACITY_MAX: u32 = 16_777_216;

/// A backend that registered and had a good check. Ordered by service, name and address first, which is the
/// order in which they stand in a configuration.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registered {
    /// Its service.
    pub service: String,
    /// Its name, unique in the service.
    pub backend: String,
    /// Its address, unique in the service.
    pub address: IpAddr,
    /// Its start.
    pub incarnation: u64,
    /// The agent that registered it.
    pub agent: String,
    /// Share of new flows, 1 to 65,535.
    pub weight: u32,
    /// Port that is checked; `None`: as the service says.
    pub port: Option<u16>,
    /// Flows that it is meant to carry at weight 1; `None`: as the service says.
    pub capacity: Option<u32>,
}

impl Registered {
    /// Whether it is the same backend with other figures: the same place, held by the same agent since the
    /// same start.
    pub fn is_same(&self, other: &Registered) -> bool {
        self.is_place(other) && (self.incarnation, &self.agent) == (other.incarnation, &other.agent)
    }

    /// Whether it stands for the same service, name and address.
    pub fn is_place(&self, other: &Registered) -> bool {
        (&self.service, &self.backend, self.address) == (&other.service, &other.backend, other.address)
    }

    fn to_backend(&self, service: &Service) -> Backend {
        Backend {
            name: self.backend.clone(),
            address: self.address,
            weight: self.weight,
            mac: None,
            state: AdminState::Up,
            capacity: self.capacity.unwrap_or(service.capacity),
            registration: Some(Registration {
                agent: self.agent.clone(),
                incarnation: self.incarnation,
                port: self.port,
            }),
        }
    }
}

/// Why a registration does not fit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Misfit {
    /// In a word.
    pub code: RefusalCode,
    /// In words.
    pub reason: String,
    /// What to do.
    pub help: String,
}

impl Misfit {
    /// One with these words.
    pub fn new(code: RefusalCode, reason: impl Into<String>, help: impl Into<String>) -> Misfit {
        Misfit { code, reason: reason.into(), help: help.into() }
    }
}

/// A registration that was left out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Skipped {
    /// The registration.
    pub registered: Registered,
    /// Why it does not fit.
    pub why: Misfit,
}

/// What a configuration says of registrations, ready to be asked often.
#[derive(Clone, Debug, Default)]
pub struct RegistrationRules {
    services: HashMap<String, ServiceRules>,
    vips: NetMap<()>,
    local: HashSet<IpAddr>,
    /// Prefixes that outer sources are of.
    sources: Vec<Net>,
    /// There is a source of tunnels over IPv4, over IPv6.
    has_source: [bool; 2],
    /// Next hops are known without a MAC of each backend.
    has_next_hops: bool,
    /// Every port can carry IPv6.
    carries_v6: bool,
    /// Backends that are configured, all services.
    configured: usize,
}

#[derive(Clone, Debug)]
struct ServiceRules {
    template: Option<Template>,
    mode: Mode,
    vip: Net,
    /// Ports that are checked without being asked for.
    ports: [u16; 2],
    /// Bytes of the way to the backends.
    mtu: u16,
    /// Backends of the configuration.
    names: HashSet<String>,
    addresses: HashSet<IpAddr>,
    /// Most backends that its table can hold.
    room: usize,
}

impl RegistrationRules {
    /// Those of a configuration. Backends in it that registered do not count.
    pub fn of(config: &Config) -> RegistrationRules {
        let mtu_min = config.ports.iter().map(|port| port.mtu).min().unwrap_or(1500);
        let machine = &config.machine;
        let has_exception = config.ports.iter().any(|port| port.exception.is_some());
        let own = machine.address.map(IpAddr::V4).into_iter().chain(machine.address6.map(IpAddr::V6));
        let on_ports =
            config.ports.iter().flat_map(|port| port.exception_addresses.iter().map(|net| net.addr));
        let services: HashMap<String, ServiceRules> = config
            .services
            .iter()
            .map(|service| {
                let fixed = || service.backends.iter().filter(|backend| backend.registration.is_none());
                let rules = ServiceRules {
                    template: service.agents.as_ref().and_then(|agents| agents.register.clone()),
                    mode: service.mode,
                    vip: service.vip,
                    ports: [service.port, service.health.port.unwrap_or(service.port)],
                    mtu: service.mtu.unwrap_or(mtu_min),
                    names: fixed().map(|backend| backend.name.clone()).collect(),
                    addresses: fixed().map(|backend| backend.address).collect(),
                    room: (service.maglev_size as usize).min(usize::from(u16::MAX)).saturating_sub(1),
                };
                (service.name.clone(), rules)
            })
            .collect();
        let mut vips = NetMap::default();
        config.services.iter().for_each(|of| vips.insert(of.vip, ()));
        RegistrationRules {
            configured: services.values().map(|of| of.names.len()).sum(),
            vips,
            local: own.chain(on_ports).collect(),
            sources: machine.outer_source_prefix4.into_iter().chain(machine.outer_source_prefix6).collect(),
            has_source: [machine.address.is_some(), machine.address6.is_some()],
            has_next_hops: has_exception || machine.next_hop_mac.is_some(),
            carries_v6: mtu_min >= 1280,
            services,
        }
    }

    /// Why a registration cannot be part of the configuration, whatever else registered.
    pub fn misfit(&self, of: &Registered) -> Option<Misfit> {
        let Some((rules, template)) = self.service(&of.service) else {
            let reason = format!("no service \"{}\" that backends may register for", of.service);
            return Some(Misfit::new(
                RefusalCode::Service,
                reason,
                "see [service.agents.register] of the machine's file",
            ));
        };
        outside_template(rules, template, of)
            .or_else(|| taken(rules, of))
            .or_else(|| self.unreachable(rules, of))
    }

    /// Most backends that may register for a service at once, those of the configuration's table and of the
    /// template.
    pub fn limit(&self, service: &str) -> usize {
        let Some((rules, template)) = self.service(service) else { return 0 };
        (template.limit as usize).min(rules.room.saturating_sub(rules.names.len()))
    }

    /// Most backends that may register, all services.
    pub fn limit_of_all(&self) -> usize {
        BACKENDS_MAX.saturating_sub(self.configured)
    }

    fn service(&self, name: &str) -> Option<(&ServiceRules, &Template)> {
        let rules = self.services.get(name)?;
        Some((rules, rules.template.as_ref()?))
    }

    /// What no machine like this one could send to.
    fn unreachable(&self, rules: &ServiceRules, of: &Registered) -> Option<Misfit> {
        let (address, is_v6) = (of.address, of.address.is_ipv6());
        let problem = if let Some(what) = not_unicast(Net::host(address)) {
            format!("{address} is {what}")
        } else if self.local.contains(&address) {
            format!("{address} is an address of the balancer itself")
        } else if self.vips.find(address).is_some() {
            format!("{address} is an address of a service: packets would come back to the balancer")
        } else if self.sources.iter().any(|prefix| prefix.contains(address)) {
            format!(
                "{address} is of the machine's outer source prefix: other backends get packets from there"
            )
        } else if rules.mode == Mode::L2 && rules.vip.addr.is_ipv6() != is_v6 {
            format!("{address} is not of the family of {}, and mode l2 leaves packets as they are", rules.vip)
        } else if rules.mode != Mode::L2
            && !self.has_source.get(usize::from(is_v6)).copied().unwrap_or_default()
        {
            let key = if is_v6 { "address6" } else { "address" };
            format!("the machine has no machine.{key} as source of a tunnel to {address}")
        } else if is_v6 && !self.carries_v6 {
            format!("the machine's ports are too small for IPv6 to {address}")
        } else if rules.vip.addr.is_ipv6() && rules.mtu.saturating_sub(rules.mode.overhead(is_v6)) < 1280 {
            format!("the way to {address} leaves less than 1280 bytes inside the tunnel")
        } else if !self.has_next_hops {
            "the machine knows no next hop of backends without a mac".to_owned()
        } else {
            return None;
        };
        Some(Misfit::new(
            RefusalCode::Template,
            problem,
            "register another address, or change the machine's file",
        ))
    }
}

/// Whether it is of another form than what may register.
fn outside_template(rules: &ServiceRules, template: &Template, of: &Registered) -> Option<Misfit> {
    let (service, backend) = (&of.service, &of.backend);
    let refused = |reason: String, help: String| Some(Misfit::new(RefusalCode::Template, reason, help));
    if !is_name(backend) || !is_name(&of.agent) {
        let reason = "the name of the backend or of the agent is no name".to_owned();
        return refused(reason, format!("use 1 to {NAME_MAX} of the characters a-z A-Z 0-9 . _ -"));
    }
    if !template.allows_name(backend) {
        let reason = format!("service \"{service}\" takes no backend of the name \"{backend}\"");
        return refused(reason, format!("names must match {}", template.names));
    }
    if !template.allows_address(of.address) {
        let reason = format!("service \"{service}\" takes no backend with the address {}", of.address);
        return refused(reason, "it must lie in one of agents.register.addresses of the service".to_owned());
    }
    if let Some(port) = of.port
        && (port == 0 || !(template.allows_port(port) || rules.ports.contains(&port)))
    {
        let reason = format!("service \"{service}\" does not let port {port} be checked");
        return refused(
            reason,
            "leave the port out, or add it to agents.register.ports of the service".to_owned(),
        );
    }
    if !template.allows_weight(of.weight) {
        let reason = format!("weight {} is not in 1 to {}", of.weight, template.weight_max);
        return refused(
            reason,
            "ask for less, or raise agents.register.weight_max of the service".to_owned(),
        );
    }
    if of.capacity.is_some_and(|capacity| !(1..=CAPACITY_MAX).contains(&capacity)) {
        return refused(
            format!("a capacity is 1 to {CAPACITY_MAX} flows"),
            "leave it out for the service's".to_owned(),
        );
    }
    None
}

/// Whether a backend of the configuration has its name or address.
fn taken(rules: &ServiceRules, of: &Registered) -> Option<Misfit> {
    let what = if rules.names.contains(&of.backend) {
        format!("name \"{}\"", of.backend)
    } else if rules.addresses.contains(&of.address) {
        format!("address {}", of.address)
    } else {
        return None;
    };
    let reason = format!("service \"{}\" has a configured backend with the {what}", of.service);
    Some(Misfit::new(
        RefusalCode::Claimed,
        reason,
        "nothing has to register for it: the agent of its host may check it",
    ))
}

impl Config {
    /// The configuration with these backends behind its own of each service, in their order, in place of
    /// those that registered before; and those that do not fit. Of two that claim a name or an address the
    /// first stays. O(n log n).
    pub fn with_registered(&self, registered: &[Registered]) -> (Config, Vec<Skipped>) {
        let rules = RegistrationRules::of(self);
        let mut config = self.clone();
        for service in &mut config.services {
            service.backends.retain(|backend| backend.registration.is_none());
        }
        let places: HashMap<String, usize> =
            config.services.iter().enumerate().map(|(at, service)| (service.name.clone(), at)).collect();
        let mut sorted: Vec<&Registered> = registered.iter().collect();
        sorted.sort_unstable();
        let (mut taken, mut skipped) = (TakenByBackends::default(), Vec::new());
        for of in sorted {
            if let Some(why) = rules.misfit(of).or_else(|| taken.misfit(&rules, of)) {
                skipped.push(Skipped { registered: of.clone(), why });
                continue;
            }
            let service = places.get(&of.service).and_then(|at| config.services.get_mut(*at));
            if let Some(service) = service {
                let backend = of.to_backend(service);
                service.backends.push(backend);
                taken.take(of);
            }
        }
        (config, skipped)
    }

    /// The backends that registered, in their order.
    pub fn registered(&self) -> Vec<Registered> {
        let mut all: Vec<Registered> = self
            .services
            .iter()
            .flat_map(|service| {
                service.backends.iter().filter_map(|backend| {
                    let Registration { agent, incarnation, port } = backend.registration.clone()?;
                    Some(Registered {
                        service: service.name.clone(),
                        backend: backend.name.clone(),
                        address: backend.address,
                        incarnation,
                        agent,
                        weight: backend.weight,
                        port,
                        capacity: (backend.capacity != service.capacity).then_some(backend.capacity),
                    })
                })
            })
            .collect();
        all.sort_unstable();
        all
    }
}

/// Names and addresses that are taken by what registered.
#[derive(Default)]
struct TakenByBackends<'a> {
    names: HashSet<(&'a str, &'a str)>,
    addresses: HashSet<(&'a str, IpAddr)>,
    by_service: HashMap<&'a str, usize>,
}

impl<'a> TakenByBackends<'a> {
    fn misfit(&self, rules: &RegistrationRules, of: &Registered) -> Option<Misfit> {
        let service = of.service.as_str();
        if self.names.contains(&(service, of.backend.as_str()))
            || self.addresses.contains(&(service, of.address))
        {
            let reason = format!("another backend of service \"{service}\" has its name or address");
            return Some(Misfit::new(
                RefusalCode::Claimed,
                reason,
                "give it another name, or deregister the other",
            ));
        }
        let full = self.by_service.get(service).copied().unwrap_or(0) >= rules.limit(service)
            || self.addresses.len() >= rules.limit_of_all();
        full.then(|| {
            let reason = format!("service \"{service}\" takes no further backend");
            Misfit::new(
                RefusalCode::Limit,
                reason,
                "raise agents.register.limit or maglev_size of the service",
            )
        })
    }

    fn take(&mut self, of: &'a Registered) {
        self.names.insert((&of.service, &of.backend));
        self.addresses.insert((&of.service, of.address));
        *self.by_service.entry(&of.service).or_default() += 1;
    }
}

#[cfg(test)]
mod tests;
