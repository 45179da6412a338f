//! An owner's knowledge of flows in tainted slots: exact, bounded, ageing.
//!
//! A record lives [`LIFE`](life_us) from when it was received or used, longer than an entry of a flow table, so that an owner never
//! forgets a flow which somebody still remembers. Two records of one flow that differ are decided by [`Record::beats`].

use crate::note::{Origin, Sequence, Statement};
use core::hash::{Hash, Hasher};
use siphasher::sip::SipHasher13;
use wire::{BackendId, FlowKey, Tick};

/// How long a record lives after it was received or used: one and a half times the longest idle time of flows.
pub const fn life_us(max_idle_us: u64) -> u64 {
    max_idle_us.saturating_add(max_idle_us / 2)
}

/// What is known of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// Its backend.
    pub backend: BackendId,
    /// Nobody saw it begin.
    pub guess: bool,
    /// When it was last used.
    pub used: Tick,
    /// When another owner last told it, or was told.
    pub shared: Tick,
    /// When it ends unless it is used or stated again.
    expires: Tick,
    /// Who stated it last, and in which note: what the same sender said before that is old.
    origin: Origin,
    sequence: Sequence,
}

impl Record {
    /// Whether this one stands against `other`, which names another backend: one that saw the flow begin beats one that did
    /// not, then the one more recently used.
    pub fn beats(&self, other: &Record) -> bool {
        match (self.guess, other.guess) {
            (false, true) => true,
            (true, false) => false,
            _ => self.used > other.used,
        }
    }
}

/// What became of a statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stated {
    /// There was no record.
    New,
    /// There was one with the same backend; or the statement is an old one of its sender.
    Known,
    /// It won against a record with this backend, which caches may hold.
    Replaced(BackendId),
    /// It lost against the record with this backend; its sender holds another.
    Lost(BackendId),
    /// No room.
    Full,
}

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Node {
    key: FlowKey,
    record: Record,
    next: u32,
    used: bool,
}

/// Records by flow. Memory is taken at the start: about 100 bytes a record.
pub struct Records {
    nodes: Box<[Node]>,
    heads: Box<[u32]>,
    free: u32,
    len: usize,
    key: (u64, u64),
    /// The node that is swept next.
    cursor: usize,
}

impl core::fmt::Debug for Records {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Records").field("len", &self.len).field("capacity", &self.capacity()).finish()
    }
}

const EMPTY: Node = Node {
    key: FlowKey::Narrow(0),
    record: Record {
        backend: BackendId(0),
        guess: false,
        used: Tick(0),
        shared: Tick(0),
        expires: Tick(0),
        origin: Origin {
            member: crate::members::Member { machine: crate::members::MachineId(0), incarnation: 0 },
            core: wire::CoreId(0),
        },
        sequence: Sequence(0),
    },
    next: NONE,
    used: false,
};

impl Records {
    /// Room for `capacity` records (at most 2^31). `seed` should be random: clients choose keys.
    #[expect(clippy::cast_possible_truncation, reason = "the capacity is below 2^32")]
    pub fn new(capacity: usize, seed: u64) -> Records {
        let capacity = capacity.min(1 << 31);
        let mut nodes = vec![EMPTY; capacity].into_boxed_slice();
        for (at, node) in nodes.iter_mut().enumerate() {
            node.next = if at + 1 == capacity { NONE } else { at as u32 + 1 };
        }
        Records {
            free: if capacity == 0 { NONE } else { 0 },
            heads: vec![NONE; capacity.next_power_of_two().max(1)].into(),
            nodes,
            len: 0,
            key: (seed, seed.rotate_left(32) ^ 0x5ee5_1234_9876_abcd),
            cursor: 0,
        }
    }

    /// Most records.
    pub fn capacity(&self) -> usize {
        self.nodes.len()
    }

    /// Number of records, expired ones that were not swept included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[expect(clippy::cast_possible_truncation, reason = "reduced to the number of heads")]
    fn head(&self, key: &FlowKey) -> usize {
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1);
        key.hash(&mut hasher);
        hasher.finish() as usize & (self.heads.len() - 1)
    }

    fn find(&self, key: &FlowKey) -> Option<usize> {
        let mut at = *self.heads.get(self.head(key))?;
        while let Some(node) = self.nodes.get(at as usize) {
            if node.key == *key {
                return Some(at as usize);
            }
            at = node.next;
        }
        None
    }

    /// The flow's record, unless it is expired.
    pub fn get(&self, key: &FlowKey, now: Tick) -> Option<Record> {
        let node = self.nodes.get(self.find(key)?)?;
        (node.record.expires > now).then_some(node.record)
    }

    /// The flow was used now.
    pub fn touch(&mut self, key: &FlowKey, now: Tick, life_us: u64) {
        if let Some(node) = self.find(key).and_then(|at| self.nodes.get_mut(at)) {
            node.record.used = node.record.used.max(now);
            node.record.expires = Tick(now.0.saturating_add(life_us));
        }
    }

    /// The other owners are told now.
    pub fn share(&mut self, key: &FlowKey, now: Tick) {
        if let Some(node) = self.find(key).and_then(|at| self.nodes.get_mut(at)) {
            node.record.shared = now;
        }
    }

    /// Takes in what somebody (also this core itself) says of a flow.
    pub fn state(
        &mut self,
        statement: &Statement,
        origin: Origin,
        sequence: Sequence,
        now: Tick,
        life_us: u64,
    ) -> Stated {
        let record = Record {
            backend: statement.backend,
            guess: statement.guess,
            used: Tick(now.0.saturating_sub(statement.age_us)),
            shared: now,
            expires: Tick(now.0.saturating_add(life_us)),
            origin,
            sequence,
        };
        let Some(node) = self.find(&statement.key).and_then(|at| self.nodes.get_mut(at)) else {
            return self.insert(statement.key, record, now);
        };
        let known = &mut node.record;
        if known.expires <= now {
            *known = record;
            return Stated::New;
        }
        if known.origin == origin && sequence <= known.sequence {
            return Stated::Known;
        }
        if known.backend == record.backend {
            *known =
                Record { guess: known.guess && record.guess, used: known.used.max(record.used), ..record };
            return Stated::Known;
        }
        if record.beats(known) {
            let old = core::mem::replace(known, record);
            return Stated::Replaced(old.backend);
        }
        Stated::Lost(known.backend)
    }

    /// Overwrites the record, whatever it was: a decision anew. `None`: there is no room.
    pub fn decide(
        &mut self,
        statement: &Statement,
        origin: Origin,
        sequence: Sequence,
        now: Tick,
        life_us: u64,
    ) -> Option<()> {
        let record = Record {
            backend: statement.backend,
            guess: statement.guess,
            used: now,
            shared: now,
            expires: Tick(now.0.saturating_add(life_us)),
            origin,
            sequence,
        };
        match self.find(&statement.key).and_then(|at| self.nodes.get_mut(at)) {
            Some(node) => {
                node.record = record;
                Some(())
            }
            None => (self.insert(statement.key, record, now) != Stated::Full).then_some(()),
        }
    }

    fn insert(&mut self, key: FlowKey, record: Record, now: Tick) -> Stated {
        if self.free == NONE {
            self.sweep(SWEEP_FOR_ROOM, now);
        }
        let at = self.free;
        let head = self.head(&key);
        let (Some(node), Some(head)) = (self.nodes.get_mut(at as usize), self.heads.get_mut(head)) else {
            return Stated::Full;
        };
        self.free = node.next;
        *node = Node { key, record, next: *head, used: true };
        *head = at;
        self.len += 1;
        Stated::New
    }

    fn remove(&mut self, at: usize) {
        let Some(&Node { key, next, .. }) = self.nodes.get(at) else { return };
        let head = self.head(&key);
        let Some(head) = self.heads.get_mut(head) else { return };
        if *head as usize == at {
            *head = next;
        } else {
            let mut before = *head;
            while let Some(node) = self.nodes.get_mut(before as usize) {
                if node.next as usize == at {
                    node.next = next;
                    break;
                }
                before = node.next;
            }
        }
        if let Some(node) = self.nodes.get_mut(at) {
            *node = Node { next: self.free, ..EMPTY };
        }
        self.free = u32::try_from(at).unwrap_or(NONE);
        self.len -= 1;
    }

    /// Removes the expired ones among the next `count` places.
    pub fn sweep(&mut self, count: usize, now: Tick) {
        if self.len == 0 {
            return;
        }
        for _ in 0..count.min(self.nodes.len()) {
            let at = self.cursor;
            self.cursor = if at + 1 >= self.nodes.len() { 0 } else { at + 1 };
            if self.nodes.get(at).is_some_and(|node| node.used && node.record.expires <= now) {
                self.remove(at);
            }
        }
    }

    /// Forgets the flow.
    pub fn forget(&mut self, key: &FlowKey) {
        if let Some(at) = self.find(key) {
            self.remove(at);
        }
    }

    /// Shows the live records of `count` places from `from` on, and gives the place after; `None` at the end.
    pub fn scan(
        &self,
        from: usize,
        count: usize,
        now: Tick,
        mut each: impl FnMut(&FlowKey, &Record),
    ) -> Option<usize> {
        let end = from.saturating_add(count).min(self.nodes.len());
        for node in self.nodes.get(from..end).unwrap_or_default() {
            if node.used && node.record.expires > now {
                each(&node.key, &node.record);
            }
        }
        (end < self.nodes.len()).then_some(end)
    }
}

/// Places looked at for an expired record when there is no room.
const SWEEP_FOR_ROOM: usize = 64;

#[cfg(test)]
mod tests;
