//! Hosts whose backends register, and go.

use super::{World, WorldEvent};
use crate::simulation::agent::{Agent, AgentConnection};
use crate::simulation::services::{Standing, name_of, service_name};

/// Agents say that they live this often.
const SAY_US: u64 = 300_000;
/// So many hosts at once, at most.
const HOSTS_MAX: usize = 3;

impl World<'_> {
    /// A host comes, or one goes: its backend is taken back, or its agent dies.
    pub(super) fn host(&mut self) {
        if !self.active() {
            return;
        }
        let live: Vec<usize> = (0..self.agents.len()).filter(|at| !self.agents[*at].has_left).collect();
        if live.len() < HOSTS_MAX && (live.is_empty() || self.random.chance(500)) {
            let service = self.random.below(self.services.services.len() as u64) as usize;
            let backend = self.services.add(service, true);
            self.say(|| format!("backend {backend} registers with {}", service_name(service)));
            self.agents.push(Agent {
                backend,
                address: self.services.address(backend),
                names: (service_name(service), name_of(backend)),
                sessions: vec![None; self.machines.len()],
                has_left: false,
            });
            if self.agents.len() == 1 {
                self.after(1, WorldEvent::Agents);
            }
        } else if let Some(at) = self.random.pick(&live) {
            let backend = self.agents[at].backend;
            self.say(|| format!("backend {backend} is taken back"));
            self.agents[at].has_left = true;
            self.services.stands(backend, Standing::Removed, self.now);
            for machine in 0..self.machines.len() {
                self.speak(at, machine);
            }
        }
        self.sometime(self.scenario.host_us, WorldEvent::Host);
    }

    /// Each agent connects to machines that it has no connection to, and says on others that it lives.
    pub(super) fn attend_agents(&mut self) {
        for at in 0..self.agents.len() {
            for machine in 0..self.machines.len() {
                self.speak(at, machine);
            }
        }
        let us = if self.active() { SAY_US } else { 2 * SAY_US };
        self.after(us, WorldEvent::Agents);
    }

    fn speak(&mut self, at: usize, machine: usize) {
        let (agent, of) = (&mut self.agents[at], &mut self.machines[machine]);
        if !of.alive {
            agent.sessions[machine] = None;
            return;
        }
        let now = of.moment(self.now);
        let known = agent.sessions[machine].filter(|session| session.run == of.run);
        let mut session = known.unwrap_or_else(|| {
            self.last_session += 1;
            AgentConnection::new(of.run, self.last_session)
        });
        if known.is_none() {
            agent.greet(session.id, &mut of.control, now);
        }
        of.control.agent_says(session.id, session.next(), now);
        of.control.agent_says(session.id, agent.word(), now);
        agent.sessions[machine] = Some(session);
        self.tend(machine);
    }
}
