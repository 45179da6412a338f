//! How the agent stands, in words.

use super::Host;
use crate::request::{BackendAtMachine, CheckStatus, HostStatus, MachineStatus, RegisteredStatus};

impl Host {
    /// For `guideway-agent status`.
    pub(crate) fn status(&self, now_ms: u64) -> HostStatus {
        HostStatus {
            agent: self.config.name.clone(),
            incarnation: self.incarnation,
            addresses: self.addresses.clone(),
            machines: self.machines(),
            backends: self.backends(),
            checks: self.checks(now_ms),
        }
    }

    fn machines(&self) -> Vec<MachineStatus> {
        self.peers
            .iter()
            .map(|(address, peer)| {
                let session = peer.link.and_then(|link| self.sessions.get(&link)).filter(|s| s.is_welcome());
                let refused = session.filter(|session| !session.refused.is_empty()).map(|session| {
                    let each =
                        session.refused.iter().map(|(service, why)| format!("service {service}: {why}"));
                    each.collect::<Vec<_>>().join(" | ")
                });
                MachineStatus {
                    address: address.clone(),
                    machine: peer.machine.clone(),
                    connected: session.is_some(),
                    leads: peer.machine.as_deref().is_some_and(|name| self.peers.leads(name)),
                    lease_ms: session.map(|session| session.lease_ms),
                    problem: refused.or_else(|| peer.problem.clone()),
                }
            })
            .collect()
    }

    fn backends(&self) -> Vec<RegisteredStatus> {
        self.held
            .iter()
            .map(|(id, held)| {
                let address = held.registration.backend.address;
                let machines = self.sessions.values().filter(|session| session.is_welcome()).map(|session| {
                    let said = session.said.get(id);
                    let reason = if !self.addresses.contains(&address) {
                        format!("{address} is not an address of this host")
                    } else if let Some(why) = session.refused.get(&id.0) {
                        format!("service refused: {why}")
                    } else {
                        said.map(|said| said.reason.clone()).unwrap_or_default()
                    };
                    BackendAtMachine {
                        machine: session.machine.clone(),
                        state: said.and_then(|said| said.state),
                        refused: said.and_then(|said| said.refused),
                        reason,
                    }
                });
                RegisteredStatus {
                    registration: held.registration.clone(),
                    origin: held.origin,
                    machines: machines.collect(),
                }
            })
            .collect()
    }

    fn checks(&self, now_ms: u64) -> Vec<CheckStatus> {
        self.detectors
            .iter()
            .map(|(subject, detector)| {
                let health = detector.verdict.status(now_ms);
                let asking =
                    self.sessions.values().filter(|s| s.asks(&subject.service, &subject.target).is_some());
                CheckStatus {
                    service: subject.service.clone(),
                    backend: subject.target.backend.clone(),
                    address: subject.target.address,
                    port: subject.target.port,
                    up: health.up,
                    reason: detector.verdict.reason().to_owned(),
                    passed: health.passed,
                    failed: health.failed,
                    held_down_ms: health.held_down_ms,
                    machines: asking.map(|session| session.machine.clone()).collect(),
                }
            })
            .collect()
    }
}
