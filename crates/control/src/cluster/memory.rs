//! The store in memory: what etcd does with orders, without a network. For tests and the simulator.

#[cfg(feature = "simulation")]
use super::desire::Desire;
use super::document::{DecodeError, Document};
use super::keys::{self, Key, MachineValue, MemberValue};
use super::participant::StoreOrder;
use super::snapshot::{KeyChange, StoredValue};
use super::store_event::StoreEvent;
use super::tables::AgreedTables;
use statesync::Member;
use statesync::number::{Known, choose};
use std::collections::BTreeMap;

/// A lease: a number that is used once.
pub(crate) type Lease = u64;

/// Keys and values, and the changes that nobody was told of yet.
#[derive(Debug, Default)]
pub(crate) struct MemoryStore {
    entries: BTreeMap<Key, StoredValue>,
    revision: i64,
    leased: BTreeMap<Key, Lease>,
    changes: Vec<KeyChange>,
}

impl MemoryStore {
    pub(crate) fn entry(&self, key: Key) -> Option<&StoredValue> {
        self.entries.get(&key)
    }

    /// Revision of a key; 0: it is not there.
    pub(crate) fn revision_of(&self, key: Key) -> i64 {
        self.entry(key).map_or(0, |entry| entry.revision)
    }

    /// All that is there, for somebody who has just connected.
    pub(crate) fn all(&self) -> Vec<KeyChange> {
        self.entries.iter().map(|(key, entry)| (*key, Some(entry.clone()))).collect()
    }

    /// What has changed since the last call, in order.
    pub(crate) fn take_changes(&mut self) -> Vec<KeyChange> {
        std::mem::take(&mut self.changes)
    }

    /// Puts a value, under a lease or for ever; its revision is returned.
    pub(crate) fn put(&mut self, key: Key, value: Vec<u8>, lease: Option<Lease>) -> i64 {
        self.revision += 1;
        let entry = StoredValue { value, revision: self.revision };
        self.entries.insert(key, entry.clone());
        match lease {
            Some(lease) => drop(self.leased.insert(key, lease)),
            None => drop(self.leased.remove(&key)),
        }
        self.changes.push((key, Some(entry)));
        self.revision
    }

    /// A key goes; true if it was there.
    pub(crate) fn remove(&mut self, key: Key) -> bool {
        self.leased.remove(&key);
        let was_there = self.entries.remove(&key).is_some();
        if was_there {
            self.revision += 1;
            self.changes.push((key, None));
        }
        was_there
    }

    /// All that is under the lease goes.
    pub(crate) fn end_lease(&mut self, lease: Lease) {
        let gone: Vec<Key> =
            self.leased.iter().filter(|(_, of)| **of == lease).map(|(key, _)| *key).collect();
        for key in gone {
            self.remove(key);
        }
    }

    /// It loses its data, and counts from the beginning.
    pub(crate) fn wipe(&mut self) {
        *self = MemoryStore::default();
    }

    /// All is gone, and it goes on counting.
    #[cfg(test)]
    pub(crate) fn lose_all(&mut self) {
        *self = MemoryStore { revision: self.revision, ..MemoryStore::default() };
    }

    /// It counts on from here.
    #[cfg(test)]
    pub(crate) fn count_from(&mut self, revision: i64) {
        self.revision = revision;
    }

    /// The document, if there is one that can be read.
    pub(crate) fn document(&self, tables: &mut AgreedTables) -> Option<Result<Document, DecodeError>> {
        let slots = |digest| self.entry(Key::Slots(digest)).map(|entry| &entry.value[..]);
        let plan = self.entry(Key::Plan)?;
        Some(Document::decode(&plan.value, slots, tables))
    }

    /// As who the machine of this name starts; `None`: not while another one uses its number. `clock_s` is Unix time.
    pub(crate) fn choose(&mut self, name: &str, clock_s: u32, tables: &mut AgreedTables) -> Option<Member> {
        let (mut machines, mut members) = (Vec::new(), Vec::new());
        for (key, entry) in &self.entries {
            match key {
                Key::Machine(machine) => {
                    let of: MachineValue = keys::value(*key, &entry.value).ok()?;
                    machines.push((Member { machine: *machine, incarnation: of.incarnation }, of.name));
                }
                Key::Member(machine) => {
                    let of: MemberValue = keys::value(*key, &entry.value).ok()?;
                    members.push((Member { machine: *machine, incarnation: of.incarnation }, of.name));
                }
                _ => {}
            }
        }
        let document = self.document(tables).and_then(Result::ok);
        let planned = document.iter().flat_map(|of| {
            of.plan.members.iter().chain(of.plan.next_members.iter().flat_map(statesync::Members::iter))
        });
        let known = Known {
            registered: machines.iter().map(|(of, name)| (*of, Some(name.as_str()))).collect(),
            alive: members.iter().map(|(of, name)| (*of, name.as_str())).collect(),
            planned: planned.collect(),
            former: document.iter().flat_map(|of| of.former.iter()).collect(),
        };
        let member = choose(name, clock_s, &known).ok()?;
        let value = MachineValue { name: name.to_owned(), incarnation: member.incarnation };
        self.put(Key::Machine(member.machine), keys::bytes(&value), None);
        Some(member)
    }

    /// Other services, if those that there are are of the revision that was looked at; their own revision.
    #[cfg(feature = "simulation")]
    pub(crate) fn desire(&mut self, desire: Desire) -> Option<i64> {
        (desire.after == self.revision_of(Key::Desired)).then(|| self.put(Key::Desired, desire.value, None))
    }

    /// Carries out an order of the machine with this lease; the answer, where there is one.
    pub(crate) fn carry_out(&mut self, lease: Lease, order: StoreOrder) -> Option<StoreEvent> {
        match order {
            StoreOrder::Put { key, value, if_plan } => {
                if if_plan.is_some_and(|revision| revision != self.revision_of(Key::Plan)) {
                    return Some(StoreEvent::NotPut(key));
                }
                self.put(key, value, Some(lease));
                None
            }
            StoreOrder::Register { machine, value, after } => {
                let key = Key::Machine(machine);
                if after != self.revision_of(key) {
                    return Some(StoreEvent::NotPut(key));
                }
                self.put(key, value, None);
                None
            }
            StoreOrder::Lead { value, after } => {
                if after != self.revision_of(Key::Leader) {
                    return Some(StoreEvent::NotPut(Key::Leader));
                }
                self.put(Key::Leader, value, Some(lease));
                None
            }
            StoreOrder::Resign(value) => {
                if self.is_leader(&value) {
                    self.remove(Key::Leader);
                }
                None
            }
            StoreOrder::Sweep { digests, if_plan, leader } => {
                if self.is_leader(&leader) && if_plan == self.revision_of(Key::Plan) {
                    for digest in digests {
                        self.remove(Key::Slots(digest));
                    }
                }
                None
            }
            StoreOrder::Plan { document, after, leader } => {
                for (digest, slots) in document.slots {
                    self.put(Key::Slots(digest), slots, None);
                }
                let may = self.is_leader(&leader) && after == self.revision_of(Key::Plan);
                let done = may.then(|| self.put(Key::Plan, document.head, None));
                Some(StoreEvent::PlanWritten(done))
            }
            StoreOrder::Leave => {
                self.end_lease(lease);
                None
            }
        }
    }

    fn is_leader(&self, value: &[u8]) -> bool {
        self.entry(Key::Leader).is_some_and(|entry| entry.value == value)
    }
}
