//! What the store shows, as far as it is known here.

use super::document::Settings;
use super::keys::{
    self, AcknowledgementValue, DesiredValue, HealthValue, Key, LeaderValue, MachineValue, MemberValue,
    ReceivedValue,
};
use super::slot_text;
use statesync::plan::{Acknowledgement, ServicePlan, SlotSets};
use statesync::{MachineId, Member, Members};
use std::collections::BTreeMap;

/// A value and the revision at which it was put.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct StoredValue {
    pub(crate) value: Vec<u8>,
    pub(crate) revision: i64,
}

/// A key that changed; `None`: it is gone.
pub(crate) type KeyChange = (Key, Option<StoredValue>);

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoreSnapshot {
    entries: BTreeMap<Key, StoredValue>,
    /// The readable ones of what stands in `entries`.
    machines: BTreeMap<MachineId, MachineValue>,
    members: BTreeMap<MachineId, MemberValue>,
    acknowledgements: BTreeMap<MachineId, AcknowledgementValue>,
    health: BTreeMap<MachineId, HealthValue>,
    heard: BTreeMap<MachineId, ReceivedValue>,
    leader: Option<Member>,
    wish: Option<DesiredValue>,
    /// Counts changes.
    version: u64,
    /// Counts changes of who lives and what they have heard.
    received_version: u64,
}

impl StoreSnapshot {
    /// Counts changes.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Counts changes of what [`Self::heard`] gives.
    pub(crate) fn received_version(&self) -> u64 {
        self.received_version
    }

    /// Takes in a change. Where a value cannot be read, the last one that could be stays in force: a machine is not given up for
    /// what somebody else wrote under its key. A leader, a wish and an acknowledgement count as absent then, which is the safe side.
    ///
    /// # Errors
    /// Why a value cannot be read.
    pub(crate) fn change(&mut self, (key, entry): KeyChange) -> Result<(), String> {
        self.version += 1;
        if matches!(key, Key::Received(_) | Key::Member(_)) {
            self.received_version += 1;
        }
        let Some(entry) = entry else {
            self.entries.remove(&key);
            self.forget(key);
            return Ok(());
        };
        let bytes = &entry.value[..];
        let read = match key {
            Key::Machine(machine) => keys::value(key, bytes).map(|v| drop(self.machines.insert(machine, v))),
            Key::Member(machine) => keys::value(key, bytes).map(|v| drop(self.members.insert(machine, v))),
            Key::Acknowledgement(machine) => {
                keys::value(key, bytes).map(|v| drop(self.acknowledgements.insert(machine, v)))
            }
            Key::Health(machine) => keys::value(key, bytes).map(|v| drop(self.health.insert(machine, v))),
            Key::Received(machine) => keys::value(key, bytes).map(|v| drop(self.heard.insert(machine, v))),
            Key::Leader => keys::value::<LeaderValue>(key, bytes).map(|leader| {
                let machine = MachineId(leader.machine);
                self.leader = Some(Member { machine, incarnation: leader.incarnation });
            }),
            Key::Desired => keys::value(key, bytes).map(|wish| self.wish = Some(wish)),
            // Read by those who have tables.
            Key::Plan | Key::Slots(_) => Ok(()),
        };
        if read.is_err() && matches!(key, Key::Leader | Key::Acknowledgement(_) | Key::Desired) {
            self.forget(key);
        }
        self.entries.insert(key, entry);
        read
    }

    fn forget(&mut self, key: Key) {
        match key {
            Key::Machine(machine) => drop(self.machines.remove(&machine)),
            Key::Member(machine) => drop(self.members.remove(&machine)),
            Key::Acknowledgement(machine) => drop(self.acknowledgements.remove(&machine)),
            Key::Health(machine) => drop(self.health.remove(&machine)),
            Key::Received(machine) => drop(self.heard.remove(&machine)),
            Key::Leader => self.leader = None,
            Key::Desired => self.wish = None,
            Key::Plan | Key::Slots(_) => {}
        }
    }

    /// What stands under a key.
    pub(crate) fn entry(&self, key: Key) -> Option<&StoredValue> {
        self.entries.get(&key)
    }

    /// Slots by their digest.
    pub(crate) fn slots(&self, digest: u128) -> Option<&[u8]> {
        self.entry(Key::Slots(digest)).map(|entry| &entry.value[..])
    }

    /// Digests of all slots there are.
    pub(crate) fn digests(&self) -> impl Iterator<Item = u128> + '_ {
        let all = self.entries.range(Key::Slots(0)..=Key::Slots(u128::MAX));
        all.filter_map(|(key, _)| match key {
            Key::Slots(digest) => Some(*digest),
            _ => None,
        })
    }

    /// The revision at which a key was put; 0 if it is absent.
    pub(crate) fn revision(&self, key: Key) -> i64 {
        self.entry(key).map_or(0, |entry| entry.revision)
    }

    /// Who has which number.
    pub(crate) fn machines(&self) -> &BTreeMap<MachineId, MachineValue> {
        &self.machines
    }

    /// Who lives under a number.
    pub(crate) fn alive(&self, machine: MachineId) -> Option<&MemberValue> {
        self.members.get(&machine)
    }

    /// Whether this member, or a later incarnation of its machine, lives and has said what it has done.
    pub(crate) fn has_spoken(&self, member: Member) -> bool {
        let (alive, said) = (self.members.get(&member.machine), self.acknowledgements.get(&member.machine));
        let is_later = alive.is_some_and(|alive| alive.incarnation > member.incarnation);
        is_later
            || alive.zip(said).is_some_and(|(alive, said)| {
                (alive.incarnation, said.incarnation) == (member.incarnation, member.incarnation)
            })
    }

    /// Name of a machine, alive or not.
    pub(crate) fn name(&self, machine: MachineId) -> Option<&str> {
        let member = self.members.get(&machine).map(|member| &member.name);
        member.or(self.machines.get(&machine).map(|of| &of.name)).map(String::as_str)
    }

    /// Who is alive.
    pub(crate) fn members(&self) -> impl Iterator<Item = (Member, &MemberValue)> {
        self.members
            .iter()
            .map(|(&machine, value)| (Member { machine, incarnation: value.incarnation }, value))
    }

    /// The living with these settings; others would not understand.
    pub(crate) fn live(&self, settings: &Settings) -> Members {
        let members = self.members().filter(|(_, value)| value.settings == *settings);
        Members::new(members.map(|(member, _)| member))
    }

    /// Of these, those who want to go.
    pub(crate) fn leaving(&self) -> Members {
        Members::new(self.members().filter(|(_, value)| value.leaving).map(|(member, _)| member))
    }

    /// What the living have acknowledged, of these services.
    pub(crate) fn acknowledgements<'a>(
        &'a self,
        services: &'a [ServicePlan],
    ) -> impl Iterator<Item = Acknowledgement> + 'a {
        self.acknowledgements.iter().filter_map(|(&machine, value)| {
            let member = Member { machine, incarnation: value.incarnation };
            if self.members.get(&machine)?.incarnation != member.incarnation {
                return None;
            }
            let mut refused = SlotSets::default();
            let mut incomplete = value.incomplete;
            for (at, text) in value.refused.iter().enumerate().filter(|(_, text)| !text.is_empty()) {
                let slots = services.get(at).and_then(|of| slot_text::read(text, of.size()).ok());
                match slots {
                    Some(slots) => *refused.service_mut(at) = slots,
                    // Whatever it refuses: no taint ends.
                    None => incomplete = true,
                }
            }
            Some(Acknowledgement { member, step: value.step, refused, incomplete })
        })
    }

    /// The largest step that a living member has done, or has in force.
    pub(crate) fn last_step(&self) -> u64 {
        let is_alive = |(machine, value): &(&MachineId, &AcknowledgementValue)| {
            self.members.get(machine).is_some_and(|member| member.incarnation == value.incarnation)
        };
        self.acknowledgements
            .iter()
            .filter(is_alive)
            .map(|(_, of)| of.step.max(of.known.unwrap_or(0)))
            .max()
            .unwrap_or(0)
    }

    /// Members that hold a backend to be up, and down.
    pub(crate) fn votes(&self, service: &str, backend: &str) -> (usize, usize) {
        // The sets are of pairs of texts, and one is not looked up by two.
        let key = (service.to_owned(), backend.to_owned());
        let of = |machine: &MachineId| self.members.contains_key(machine);
        let voters = self.health.iter().filter(|(machine, _)| of(machine)).map(|(_, value)| value);
        voters.fold((0, 0), |(up, down), value| {
            (up + usize::from(value.up.contains(&key)), down + usize::from(value.down.contains(&key)))
        })
    }

    /// What the living have heard of agents.
    pub(crate) fn received(&self) -> impl Iterator<Item = (MachineId, &ReceivedValue)> {
        let is_alive = |machine: &MachineId| self.members.contains_key(machine);
        self.heard
            .iter()
            .filter(move |(machine, _)| is_alive(machine))
            .map(|(machine, value)| (*machine, value))
    }

    /// Machines that agents should connect to, by number.
    pub(crate) fn agent_machines(&self) -> Vec<model::agent::MachineContact> {
        let leader = self.leader();
        let machines = self.members().filter_map(|(member, value)| {
            let (name, address) = (value.name.clone(), value.agents?);
            Some(model::agent::MachineContact { name, address, leads: leader == Some(member) })
        });
        machines.collect()
    }

    /// Who leads.
    pub(crate) fn leader(&self) -> Option<Member> {
        self.leader
    }

    /// What operators want, and its revision.
    pub(crate) fn wish(&self) -> Option<(&DesiredValue, i64)> {
        Some((self.wish.as_ref()?, self.revision(Key::Desired)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZERO: MachineId = MachineId(0);

    fn put(snapshot: &mut StoreSnapshot, key: Key, value: &[u8]) -> Result<(), String> {
        snapshot.change((key, Some(StoredValue { value: value.to_vec(), revision: 1 })))
    }

    #[test]
    fn a_member_is_not_given_up_for_what_cannot_be_read() {
        let settings = Settings { key_check: "k".to_owned(), port: 7, timeouts_s: [1; 4] };
        let value = MemberValue {
            name: "lb0".to_owned(),
            incarnation: 3,
            address: [10, 0, 2, 11].into(),
            version: "0".to_owned(),
            settings: settings.clone(),
            leaving: false,
            agents: None,
            founder: None,
        };
        let mut snapshot = StoreSnapshot::default();
        put(&mut snapshot, Key::Member(ZERO), &keys::bytes(&value)).unwrap();
        put(&mut snapshot, Key::Machine(ZERO), br#"{"name":"lb0","incarnation":3}"#).unwrap();
        for garbage in [&b"{"[..], b"", b"{\"name\":7}", &[0xff; 40]] {
            // It is said which key it is.
            let said = put(&mut snapshot, Key::Member(ZERO), garbage).unwrap_err();
            assert!(said.contains("members/0"), "{said}");
            assert!(put(&mut snapshot, Key::Machine(ZERO), garbage).is_err());
            assert_eq!(snapshot.live(&settings), Members::new([Member { machine: ZERO, incarnation: 3 }]));
            assert_eq!(snapshot.name(ZERO), Some("lb0"));
        }
        snapshot.change((Key::Member(ZERO), None)).unwrap();
        assert_eq!(snapshot.live(&settings), Members::default(), "its lease has ended");
    }

    #[test]
    fn a_leader_that_cannot_be_read_is_none() {
        let mut snapshot = StoreSnapshot::default();
        put(&mut snapshot, Key::Leader, br#"{"machine":0,"incarnation":3}"#).unwrap();
        assert!(snapshot.leader().is_some());
        assert!(put(&mut snapshot, Key::Leader, b"nobody").is_err());
        assert_eq!(snapshot.leader(), None);
    }
}
