//! Keys and values of the store. All values are JSON.

use super::document::Settings;
use crate::agents::heard::{self, EndReason, Received};
use model::registered::Registered;
use serde::{Deserialize, Serialize};
use statesync::{MachineId, Member};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

/// Before all keys; the number counts layouts that do not understand each other.
pub(crate) const PREFIX: &str = "/guideway/v1/";

/// A key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Key {
    /// Who has the number, and as which incarnation it has started last. Stays.
    Machine(MachineId),
    /// It is alive. Under its lease.
    Member(MachineId),
    /// The step that it has done. Under its lease.
    Acknowledgement(MachineId),
    /// What its health checks say. Under its lease.
    Health(MachineId),
    /// What agents have told it. Under its lease.
    Received(MachineId),
    /// Who leads. Under its lease.
    Leader,
    /// What operators want.
    Desired,
    /// What is agreed on, but for the slots of services.
    Plan,
    /// Slots of a service, by the digest of the value: it never changes, and plans name it.
    Slots(u128),
}

impl Key {
    /// As text, with the prefix.
    pub(crate) fn text(self) -> String {
        match self {
            Key::Machine(machine) => format!("{PREFIX}machines/{}", machine.0),
            Key::Member(machine) => format!("{PREFIX}members/{}", machine.0),
            Key::Acknowledgement(machine) => format!("{PREFIX}acknowledgements/{}", machine.0),
            Key::Health(machine) => format!("{PREFIX}health/{}", machine.0),
            Key::Received(machine) => format!("{PREFIX}heard/{}", machine.0),
            Key::Leader => format!("{PREFIX}leader"),
            Key::Desired => format!("{PREFIX}wish"),
            Key::Plan => format!("{PREFIX}plan"),
            Key::Slots(digest) => format!("{PREFIX}slots/{}", digest_text(digest)),
        }
    }

    /// From text; `None`: not one of ours.
    pub(crate) fn parse(text: &str) -> Option<Key> {
        let text = text.strip_prefix(PREFIX)?;
        let machine = |number: &str| {
            let machine = MachineId(number.parse().ok()?);
            (machine.index() < statesync::members::MACHINES_MAX).then_some(machine)
        };
        Some(match text.split_once('/') {
            Some(("machines", number)) => Key::Machine(machine(number)?),
            Some(("members", number)) => Key::Member(machine(number)?),
            Some(("acknowledgements", number)) => Key::Acknowledgement(machine(number)?),
            Some(("health", number)) => Key::Health(machine(number)?),
            Some(("heard", number)) => Key::Received(machine(number)?),
            Some(("slots", digest)) => Key::Slots(digest_of(digest)?),
            Some(_) => return None,
            None => match text {
                "leader" => Key::Leader,
                "wish" => Key::Desired,
                "plan" => Key::Plan,
                _ => return None,
            },
        })
    }
}

/// A digest as text.
pub(crate) fn digest_text(digest: u128) -> String {
    format!("{digest:032x}")
}

/// A digest from text.
pub(crate) fn digest_of(text: &str) -> Option<u128> {
    let is_ours = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    is_ours.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

/// Value of [`Key::Machine`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct MachineValue {
    /// `machine.name`.
    pub(crate) name: String,
    /// Its last start: see [`statesync::number`].
    pub(crate) incarnation: u32,
}

/// Value of [`Key::Member`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct MemberValue {
    /// `machine.name`.
    pub(crate) name: String,
    /// Its incarnation.
    pub(crate) incarnation: u32,
    /// Where it takes messages.
    pub(crate) address: IpAddr,
    /// Version of guidewayd.
    pub(crate) version: String,
    /// What must be the same everywhere.
    pub(crate) settings: Settings,
    /// It wants to go.
    #[serde(default)]
    pub(crate) leaving: bool,
    /// Where it listens for agents, as they are told; absent: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) agents: Option<SocketAddr>,
    /// Who founded the cluster whose plan is in force there (number, incarnation); absent: no plan is, or one that does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) founder: Option<(u8, u32)>,
}

/// Value of [`Key::Acknowledgement`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct AcknowledgementValue {
    /// Whose.
    pub(crate) incarnation: u32,
    /// The step that is done.
    pub(crate) step: u64,
    /// A later step that is in force and not done; said by a machine that has just returned to the store, which may have lost it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) known: Option<u64>,
    /// By place of the service, slots whose taint must not end.
    #[serde(default)]
    pub(crate) refused: Vec<String>,
    /// No taint may end before its time.
    #[serde(default)]
    pub(crate) incomplete: bool,
}

/// Value of [`Key::Health`]: backends as (service, backend). Those of which nothing is known are in neither.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct HealthValue {
    /// Checks hold them to be up.
    pub(crate) up: BTreeSet<(String, String)>,
    /// Checks hold them to be down.
    pub(crate) down: BTreeSet<(String, String)>,
}

/// Value of [`Key::Received`]: what a machine holds of registrations. Those that it has not heard of, or has no good report of yet, are in
/// neither list, which says nothing about them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ReceivedValue {
    /// Good ones, ascending by service, backend, address, agent.
    pub(crate) registered: Vec<Registered>,
    /// Those that are over, in the same order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) over: Vec<EndedValue>,
}

/// A registration that a machine holds to be over.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) struct EndedValue {
    /// Name of the service.
    pub(crate) service: String,
    /// Name of the backend.
    pub(crate) backend: String,
    /// Its address.
    pub(crate) address: IpAddr,
    /// The agent that spoke for it.
    pub(crate) agent: String,
    /// This incarnation of the backend, and those before it.
    pub(crate) incarnation: u64,
    /// EndReason it is over.
    pub(crate) why: EndReason,
}

impl From<Received> for ReceivedValue {
    fn from(heard: Received) -> ReceivedValue {
        let over =
            heard.over.into_iter().map(|heard::EndedRegistration { registered: of, why }| EndedValue {
                service: of.service,
                backend: of.backend,
                address: of.address,
                agent: of.agent,
                incarnation: of.incarnation,
                why,
            });
        ReceivedValue { registered: heard.alive, over: over.collect() }
    }
}

/// Value of [`Key::Leader`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct LeaderValue {
    /// Number of the machine.
    pub(crate) machine: u8,
    /// Its incarnation.
    pub(crate) incarnation: u32,
}

impl From<Member> for LeaderValue {
    fn from(member: Member) -> LeaderValue {
        LeaderValue { machine: member.machine.0, incarnation: member.incarnation }
    }
}

/// Value of [`Key::Desired`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct DesiredValue {
    /// The services, as in a configuration.
    pub(crate) text: String,
    /// Backends drained by an operator: service, backend.
    #[serde(default)]
    pub(crate) drains: BTreeSet<(String, String)>,
    /// The machine that was asked.
    pub(crate) by: String,
    /// When, Unix time, milliseconds; for people.
    pub(crate) unix_ms: u64,
}

/// A value as bytes.
pub(crate) fn bytes(value: &impl Serialize) -> Vec<u8> {
    // Maps with text keys and plain data only: there is nothing that JSON could not say.
    serde_json::to_vec(value).unwrap_or_default()
}

/// A value from bytes.
///
/// # Errors
/// What is wrong, with the key.
pub(crate) fn value<'a, T: Deserialize<'a>>(key: Key, bytes: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("{}: {error}", key.text()))
}

#[cfg(test)]
mod tests {
    use super::{Key, MachineId};

    #[test]
    fn keys_are_read_as_they_are_written() {
        let machine = MachineId(7);
        for key in [
            Key::Machine(machine),
            Key::Member(machine),
            Key::Acknowledgement(machine),
            Key::Health(machine),
            Key::Received(machine),
            Key::Leader,
            Key::Desired,
            Key::Plan,
            Key::Slots(7 << 100),
        ] {
            assert_eq!(Key::parse(&key.text()), Some(key));
        }
        for other in [
            "/guideway/v1/members/64",
            "/guideway/v1/members/x",
            "/guideway/v2/plan",
            "/guideway/v1/slots/7",
            "plan",
            "",
        ] {
            assert_eq!(Key::parse(other), None, "{other}");
        }
    }
}
