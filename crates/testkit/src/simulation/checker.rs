//! The judge: which packets went where they must not, and which of these are exempt.

use super::packets::ClientPacket;
use super::scenario::{Faults, Scenario};
use std::collections::{BTreeMap, HashMap};
use wire::{FlowKey, Tick};

/// What must hold in a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Property {
    /// A flow keeps its backend while the backend lives.
    Stays,
    /// Without machine faults no flow is exempt, but for want of room.
    NoneExempt,
    /// Every frame has one end.
    Conserved,
    /// A relayed frame passes two machines at most.
    Hops,
    /// No ring is ever full.
    Rings,
    /// A flow asks a few times, and is known then.
    FewRelays,
    /// What comes out is what a client has sent.
    Intact,
    /// Every flow is served in the end.
    Served,
    /// After the last fault everything comes to rest.
    Rest,
    /// At rest machines tell each other nothing but that they live.
    Silence,
    /// What is told is in proportion to the flows whose answer changed.
    Bytes,
    /// A step begins when all live members have done the one before.
    Order,
    /// Who owns a slot next has its records already.
    Succession,
    /// No two machines that live have one number, and no number's incarnations go back.
    Numbers,
    /// What a client has sent once reaches backends once, whatever is repeated between machines.
    Once,
    /// A machine that is dead is suspect, whoever repeats what it has said.
    Dead,
    /// The engine's own assertions.
    Engine,
}

impl Property {
    /// For tables.
    pub const fn name(self) -> &'static str {
        match self {
            Property::Stays => "stays",
            Property::NoneExempt => "none exempt",
            Property::Conserved => "conserved",
            Property::Hops => "hops",
            Property::Rings => "rings",
            Property::FewRelays => "few relays",
            Property::Intact => "intact",
            Property::Served => "served",
            Property::Rest => "rest",
            Property::Silence => "silence",
            Property::Bytes => "bytes",
            Property::Order => "order",
            Property::Succession => "succession",
            Property::Numbers => "numbers",
            Property::Once => "once",
            Property::Dead => "dead",
            Property::Engine => "engine",
        }
    }
}

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
    /// A machine whose lease had ended went on without the others, who went on without it.
    Lease,
    /// Two machines could not reach each other (W7): owners may have split, and a death or a suspicion beside it is a second failure.
    Partition,
}

impl Exempt {
    /// All windows.
    pub const ALL: [Exempt; 8] = [
        Exempt::W1,
        Exempt::W2,
        Exempt::W3,
        Exempt::W4,
        Exempt::W5,
        Exempt::ForcedMask,
        Exempt::Lease,
        Exempt::Partition,
    ];

    /// Whether it counts towards the one flow in 100,000.
    pub const fn is_rare(self) -> bool {
        matches!(self, Exempt::W1 | Exempt::W3 | Exempt::W4)
    }
}

/// What a run came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RunSummary {
    /// Flows that had a backend, and began before everything came to rest.
    pub flows: u64,
    /// Flows that began at rest.
    pub steady_flows: u64,
    /// Packets that reached a backend.
    pub delivered: u64,
    /// Flows that moved, by what exempts them.
    pub exempt: BTreeMap<Exempt, u64>,
    /// Flows that stayed although the table named another backend by then.
    pub kept: u64,
    /// Flows that were idle for too long, or whose backend was removed, so that nothing is promised.
    pub released: u64,
    /// Machines that died.
    pub crashes: u64,
    /// Leaders that died.
    pub leaders: u64,
    /// Times that the store has lost its data.
    pub wipes: u64,
    /// Leases that ended while their machines lived.
    pub exiles: u64,
    /// Events at which two machines held themselves to be the leader.
    pub rivals: u64,
    /// Datagrams that strangers forged.
    pub forged: u64,
    /// Datagrams that strangers had captured and sent again.
    pub replayed: u64,
    /// Changes of tables that came into force.
    pub changes: u64,
    /// Slots whose entries were told for that.
    pub slots: u64,
    /// Frames relayed to other machines.
    pub relays: u64,
    /// Most relays of one flow that one machine has sent.
    pub relays_of_flow: u64,
    /// Frames relayed to other workers.
    pub core_relays: u64,
    /// Answers that filled an entry.
    pub answers_cached: u64,
    /// Decisions, exports, refreshes, migrations told.
    pub statements: [u64; 4],
    /// Corrections told.
    pub pushes: u64,
    /// Answers to questions, lasting notes said again, and acknowledgements.
    pub others: [u64; 3],
    /// Heartbeats.
    pub heartbeats: u64,
    /// Bytes of notes between machines.
    pub note_bytes: u64,
    /// Bytes of relayed frames between machines.
    pub relay_bytes: u64,
    /// Flows whose answer changed: see [`Checker::touched`].
    pub touched: u64,
    /// Entries or records that found no room.
    pub refused: u64,
    /// Flows decided by their slot's base.
    pub guesses: u64,
    /// Turns taken.
    pub turns: u64,
}

impl RunSummary {
    /// Adds another run's.
    pub fn add(&mut self, other: &RunSummary) {
        let RunSummary {
            flows,
            steady_flows,
            delivered,
            exempt,
            kept,
            released,
            crashes,
            leaders,
            wipes,
            exiles,
            rivals,
            forged,
            replayed,
            changes,
            slots,
            relays,
            relays_of_flow,
            core_relays,
            answers_cached,
            statements,
            pushes,
            others,
            heartbeats,
            note_bytes,
            relay_bytes,
            touched,
            refused,
            guesses,
            turns,
        } = other;
        for (&exempt, &count) in exempt {
            *self.exempt.entry(exempt).or_default() += count;
        }
        self.relays_of_flow = self.relays_of_flow.max(*relays_of_flow);
        let sums = self.statements.iter_mut().chain(&mut self.others).zip(statements.iter().chain(others));
        let singles = [
            (&mut self.flows, flows),
            (&mut self.steady_flows, steady_flows),
            (&mut self.delivered, delivered),
            (&mut self.kept, kept),
            (&mut self.released, released),
            (&mut self.crashes, crashes),
            (&mut self.leaders, leaders),
            (&mut self.wipes, wipes),
            (&mut self.exiles, exiles),
            (&mut self.rivals, rivals),
            (&mut self.forged, forged),
            (&mut self.replayed, replayed),
            (&mut self.changes, changes),
            (&mut self.slots, slots),
            (&mut self.relays, relays),
            (&mut self.core_relays, core_relays),
            (&mut self.answers_cached, answers_cached),
            (&mut self.pushes, pushes),
            (&mut self.heartbeats, heartbeats),
            (&mut self.note_bytes, note_bytes),
            (&mut self.relay_bytes, relay_bytes),
            (&mut self.touched, touched),
            (&mut self.refused, refused),
            (&mut self.guesses, guesses),
            (&mut self.turns, turns),
        ];
        for (sum, more) in sums.chain(singles) {
            *sum += more;
        }
    }

    /// The window that no flow of this run may be exempt by, but is: without machine faults all but want of room.
    pub fn forbidden(&self, faults: Faults) -> Option<(Exempt, u64)> {
        let exempt = self.exempt.iter().map(|(&exempt, &count)| (exempt, count));
        exempt.filter(|&(exempt, count)| faults == Faults::Network && exempt != Exempt::W5 && count > 0).max()
    }

    /// Flows exempt by the windows that must stay below one in 100,000.
    pub fn rare(&self) -> u64 {
        self.exempt.iter().filter(|(exempt, _)| exempt.is_rare()).map(|(_, count)| count).sum()
    }
}

/// What is exempt, by flow.
#[derive(Clone, Debug, Default)]
pub(super) struct Checker {
    exempt: HashMap<FlowKey, Exempt>,
    /// When a flow found no room.
    refused: HashMap<FlowKey, Tick>,
    /// By client, life and machine: frames that the machine has relayed first.
    relays: HashMap<(u32, u32, usize), u64>,
    /// By client, life, number and flags of a packet: how many of it have arrived at machines and have not left for a backend.
    held: HashMap<(u32, u32, u16, u8), u64>,
    /// Flows whose answer changed, and a flow as often as it is told again because it is used: by a change, a mask or a move of owners
    /// while it may be remembered, by beginning in a tainted slot, and by each quarter of the longest idle time in one.
    pub(super) touched: u64,
    pub(super) summary: RunSummary,
}

impl Checker {
    /// The flow's life of now is exempt.
    pub(super) fn excuse(&mut self, key: FlowKey, why: Exempt) {
        self.exempt.entry(key).or_insert(why);
    }

    /// The flow found no room: what is said of it is wrong for as long as somebody may remember it.
    pub(super) fn refuse(&mut self, key: FlowKey, now: Tick) {
        self.refused.insert(key, now);
    }

    /// A flow begins anew: what was, is over.
    pub(super) fn renew(&mut self, key: &FlowKey) {
        self.exempt.remove(key);
    }

    /// Whether the flow is exempt.
    pub(super) fn excused(&self, key: &FlowKey, scenario: &Scenario, now: Tick) -> Option<Exempt> {
        let life_us = statesync::records::life_us(scenario.habits.max_idle_us);
        let is_refused = self.refused.get(key).is_some_and(|at| now.since_us(*at) <= life_us);
        if is_refused { Some(Exempt::W5) } else { self.exempt.get(key).copied() }
    }

    /// A packet of a client has arrived at a machine.
    pub(super) fn has_arrived(&mut self, packet: &ClientPacket) {
        *self.held.entry((packet.client, packet.life, packet.number, packet.flags)).or_default() += 1;
    }

    /// A packet leaves for a backend: whether as many have arrived.
    pub(super) fn leaves(&mut self, packet: &ClientPacket) -> bool {
        let held = self.held.get_mut(&(packet.client, packet.life, packet.number, packet.flags));
        held.is_some_and(|held| {
            let more = held.checked_sub(1);
            *held = more.unwrap_or(0);
            more.is_some()
        })
    }

    /// A machine relays a frame of a client: how often it has done so in this life.
    pub(super) fn count_relay(&mut self, (client, life): (u32, u32), machine: usize) -> u64 {
        let count = self.relays.entry((client, life, machine)).or_default();
        *count += 1;
        self.summary.relays_of_flow = self.summary.relays_of_flow.max(*count);
        *count
    }
}
