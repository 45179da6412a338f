//! An agent on a backend's host.

use control::simulation::SimulatedMachine;
use model::agent::{ToMachine, digest};
use std::net::IpAddr;

/// An agent, and what it speaks for.
#[derive(Clone, Debug)]
pub(super) struct Agent {
    pub(super) backend: u32,
    /// The only one that its host has.
    pub(super) address: IpAddr,
    /// Names of its service and backend.
    pub(super) names: (String, String),
    /// By machine: the run of its process, the connection, and how often something was said on it.
    pub(super) sessions: Vec<Option<AgentConnection>>,
    /// It has taken back its backend, and says so until it ends.
    pub(super) has_left: bool,
}

/// A connection to a machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct AgentConnection {
    pub(super) run: u64,
    pub(super) id: u64,
    heartbeats: u64,
}

impl AgentConnection {
    pub(super) fn new(run: u64, id: u64) -> AgentConnection {
        AgentConnection { run, id, heartbeats: 0 }
    }

    /// What is said on it next: that the backend wants traffic, or none any more, and that the agent lives.
    pub(super) fn next(&mut self) -> ToMachine {
        self.heartbeats += 1;
        ToMachine::Heartbeat {
            sequence: self.heartbeats,
            digest: format!("{:016x}", digest([])),
            loads: Vec::new(),
        }
    }
}

impl Agent {
    /// What it says of its backend.
    pub(super) fn word(&self) -> ToMachine {
        let (service, backend) = self.names.clone();
        let address = self.address;
        if self.has_left {
            return ToMachine::Deregister { service, backend, address };
        }
        ToMachine::Register {
            service,
            backend,
            address,
            incarnation: 1,
            weight: 1,
            port: None,
            capacity: None,
        }
    }

    /// Its first words.
    pub(super) fn greet(
        &self,
        id: u64,
        machine: &mut SimulatedMachine,
        at: control::simulation::MachineTime,
    ) {
        machine.greet(id, &format!("h{}", self.backend), 1, self.address, &self.names.0, at);
    }
}
