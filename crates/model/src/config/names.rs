//! The config's words for its enums.

use super::{Backend, Checks, HealthKind, HttpCheck, Protocol, Service, Tracking};

impl HealthKind {
    /// As written in the config.
    pub const fn as_str(&self) -> &'static str {
        match self {
            HealthKind::None => "none",
            HealthKind::Tcp { .. } => "tcp",
            HealthKind::Http(_) => "http",
            HealthKind::Https(_) => "https",
            HealthKind::Udp { .. } => "udp",
            HealthKind::Exec { .. } => "exec",
        }
    }
}

impl HttpCheck {
    /// What TLS is told whom it talks to: `sni`, else the name or address in `host`; `None`: neither is
    /// written.
    pub fn tls_name(&self) -> Option<&str> {
        if let Some(sni) = &self.sni {
            return Some(sni);
        }
        let host = self.host.as_deref()?;
        match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, _)) => Some(address),
            None => Some(host.split_once(':').map_or(host, |(name, _)| name)),
        }
    }
}

impl Service {
    /// Port of a backend that is checked: what it registered, what the checks say, or the service's.
    pub fn check_port(&self, backend: &Backend) -> u16 {
        let registered = backend.registration.as_ref().and_then(|registration| registration.port);
        registered.or(self.health.port).unwrap_or(self.port)
    }

    /// Whether agents check their backends themselves: `checks = "agent"`, and something is checked at all.
    pub fn is_checked_by_agents(&self) -> bool {
        self.health.checks == Checks::Agent && self.agents.is_some() && self.health.kind != HealthKind::None
    }

    /// Whether packets of untainted slots are steered without the flow table: `state = "exceptions"` over
    /// TCP. UDP has no packet that begins a flow, so its flows are tracked in any case.
    pub fn is_stateless(&self) -> bool {
        self.state == Tracking::Exceptions && self.protocol == Protocol::Tcp
    }
}

impl Protocol {
    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        }
    }
}
