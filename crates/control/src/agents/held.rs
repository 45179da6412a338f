//! A backend that agents speak for, or spoke for.

use super::session::SessionId;
use model::agent::{Load, Phase};
use model::registered::Registered;
use std::net::IpAddr;

/// See the module. Registered ones and those of the configuration alike; only the former can be gone.
#[derive(Clone, Debug)]
pub(crate) struct HeldBackend {
    pub(crate) address: IpAddr,
    /// `None`: the configuration has it.
    pub(crate) registered: Option<Registered>,
    /// It as it is in force, perhaps with older figures.
    pub(crate) in_force: Option<Registered>,
    /// Who speaks or spoke for it.
    pub(crate) agent: String,
    /// The connection by which its agent holds it.
    pub(crate) session: Option<SessionId>,
    /// The agent has reported on it by this connection: its word counts.
    pub(crate) speaks: bool,
    /// It has had a good check since it registered.
    pub(crate) is_good: bool,
    /// It was asked to be checked.
    pub(crate) is_asked: bool,
    /// What checks say, after rise and fall; `None`: nothing yet.
    pub(crate) up: Option<bool>,
    /// Why, in words.
    pub(crate) reason: String,
    pub(crate) suspicion: Option<AgentSuspicion>,
    pub(crate) load: Option<Load>,
    pub(crate) load_ms: u64,
    pub(crate) phase: Phase,
    pub(crate) since_ms: u64,
}

/// Nothing is heard of the agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct AgentSuspicion {
    pub(crate) since_ms: u64,
    /// Why it is suspect.
    pub(crate) why: String,
    /// The machine checks by itself from then on.
    pub(crate) probed_from_ms: u64,
    /// Own checks in a row that failed.
    pub(crate) failures: u32,
    /// An own check has ended.
    pub(crate) is_probed: bool,
}

impl HeldBackend {
    pub(crate) fn new(
        address: IpAddr,
        agent: String,
        registered: Option<Registered>,
        now_ms: u64,
    ) -> HeldBackend {
        HeldBackend {
            address,
            is_good: registered.is_none(),
            phase: if registered.is_none() { Phase::Checking } else { Phase::Registered },
            registered,
            in_force: None,
            agent,
            session: None,
            speaks: false,
            is_asked: false,
            up: None,
            reason: "not checked yet".to_owned(),
            suspicion: None,
            load: None,
            load_ms: 0,
            since_ms: now_ms,
        }
    }

    /// What it is now.
    pub(crate) fn phase_now(&self) -> Phase {
        match self.up {
            _ if self.suspicion.is_some() => Phase::Suspect,
            Some(true) if self.is_good => Phase::Up,
            Some(false) if self.is_good => Phase::Down,
            _ if self.is_asked => Phase::Checking,
            _ => Phase::Registered,
        }
    }

    /// It as the configuration should have it: as it registered, or as it was until that is checked.
    pub(crate) fn wanted(&self) -> Option<&Registered> {
        if self.is_good { self.registered.as_ref() } else { self.in_force.as_ref() }
    }
}
