//! The judge: which packets went where they must not, and which of these are exempt.

use std::collections::{BTreeMap, HashMap};
use wire::{FlowKey, Tick};

/// Why a flow may move. The windows are those of the protocol's description.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Exempt {
    /// A machine died with a record of the flow that was not acknowledged.
    W1,
    /// UDP: the last machine that knew the flow died while its slot was untainted.
    W2,
    /// Both owners were suspect when somebody had to decide.
    W3,
    /// A record was decided anew over a masked backend, and the correction is on its way.
    W4,
    /// A record or an entry was refused for want of room.
    W5,
    /// Placed under a mask that was in force before every member had acknowledged it.
    ForcedMask,
    /// Two machines could not reach each other: owners may have split.
    Partition,
}

/// What a run came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Flows that had a backend.
    pub flows: u64,
    /// Packets that reached a backend.
    pub delivered: u64,
    /// Flows that moved, by what exempts them.
    pub exempt: BTreeMap<Exempt, u64>,
    /// Flows that were idle for too long, or whose backend was removed, so that nothing is promised.
    pub released: u64,
    /// Machines that died.
    pub crashes: u64,
    /// Changes of tables that came into force.
    pub changes: u64,
    /// Frames relayed to other machines.
    pub relays: u64,
    /// Frames relayed to other workers.
    pub core_relays: u64,
    /// Answers that filled an entry.
    pub answers_cached: u64,
    /// Decisions, exports, refreshes, migrations told.
    pub statements: [u64; 4],
    /// Corrections told.
    pub pushes: u64,
    /// Bytes of notes between machines.
    pub note_bytes: u64,
    /// Flows decided by their slot's base.
    pub guesses: u64,
    /// Turns taken.
    pub turns: u64,
}

impl Summary {
    /// Adds another run's.
    pub fn add(&mut self, other: &Summary) {
        self.flows += other.flows;
        self.delivered += other.delivered;
        for (&exempt, &count) in &other.exempt {
            *self.exempt.entry(exempt).or_default() += count;
        }
        self.released += other.released;
        self.crashes += other.crashes;
        self.changes += other.changes;
        self.relays += other.relays;
        self.core_relays += other.core_relays;
        self.answers_cached += other.answers_cached;
        for (sum, more) in self.statements.iter_mut().zip(other.statements) {
            *sum += more;
        }
        self.pushes += other.pushes;
        self.note_bytes += other.note_bytes;
        self.guesses += other.guesses;
        self.turns += other.turns;
    }

    /// Flows exempt by the windows that must stay below one in 100,000.
    pub fn rare(&self) -> u64 {
        let of = |exempt| self.exempt.get(&exempt).copied().unwrap_or(0);
        of(Exempt::W1) + of(Exempt::W3) + of(Exempt::W4)
    }
}

/// What is exempt, by flow.
#[derive(Clone, Debug, Default)]
pub(super) struct Checker {
    exempt: HashMap<FlowKey, (Exempt, Tick)>,
    pub(super) summary: Summary,
}

impl Checker {
    /// The flow's life of now is exempt.
    pub(super) fn excuse(&mut self, key: FlowKey, why: Exempt, now: Tick) {
        self.exempt.entry(key).or_insert((why, now));
    }

    /// A flow begins anew: what was, is over.
    pub(super) fn renew(&mut self, key: &FlowKey) {
        self.exempt.remove(key);
    }

    /// Whether a flow that began then is exempt.
    pub(super) fn excused(&self, key: &FlowKey) -> Option<Exempt> {
        self.exempt.get(key).map(|(why, _)| *why)
    }
}
