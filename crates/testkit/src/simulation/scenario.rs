//! What happens in a run, as chosen by its seed.

use super::client::Habits;
use super::random::Random;
use statesync::Rule;

/// Which faults a run may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Faults {
    /// None but those of the network between machines that the protocol must bear without any exemption: loss, duplication,
    /// delay.
    Network,
    /// Those, and machines that die, links that part and stores that are away.
    All,
}

/// What a run is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScenarioShape {
    /// Everything at times.
    Usual,
    /// A machine dies while most flows are silent, and right afterwards the table swings twice: to another backend and back, or on to
    /// a third. Twice in a run, with rest in between, so that the second time too finds untainted slots.
    Upheaval,
    /// Little room for records and flows, and flows that live for long.
    Narrow,
    /// Many backends and flows: see [`Scenario::experiment`].
    Experiment,
}

/// The numbers of a run. Times are in microseconds, chances in thousandths.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The seed.
    pub seed: u64,
    /// Which faults.
    pub faults: Faults,
    /// What it is about.
    pub shape: ScenarioShape,
    /// Machines.
    pub machines: usize,
    /// Workers of each.
    pub cores: usize,
    /// Backends at first; 0: a few for each of three services.
    pub backends: usize,
    /// Slots of each service.
    pub slots: u32,
    /// Clients, each with one flow after the other.
    pub clients: usize,
    /// Of these, UDP.
    pub udp_share: u64,
    /// TCP over IPv6.
    pub v6_share: u64,
    /// Of those with TCP, with packets too large for one message between machines.
    pub large_share: u64,
    /// What clients have in common.
    pub habits: Habits,
    /// Faults happen before this time, and then everything must come to rest.
    pub active_us: u64,
    /// Loss on every link.
    pub loss: u64,
    /// Duplication.
    pub duplicates: u64,
    /// One-way delay.
    pub delay_us: (u64, u64),
    /// Delay between store and machines.
    pub control_delay_us: (u64, u64),
    /// Mean time between changes of tables; 0: none.
    pub change_us: u64,
    /// Mean time between reshuffles of the router.
    pub reshuffle_us: u64,
    /// Mean time between crashes; 0: none.
    pub crash_us: u64,
    /// Mean time between times at which the leader is none any more; 0: none.
    pub leader_us: u64,
    /// Mean time between forged datagrams; 0: none.
    pub forge_us: u64,
    /// Mean time between datagrams that somebody has captured and sends again, to the very end; 0: none.
    pub replay_us: u64,
    /// Mean time between times at which a backend's checks fail although it serves; 0: none.
    pub mask_us: u64,
    /// Mean time between partitions of two machines; 0: none.
    pub partition_us: u64,
    /// Mean time between losses of the store; 0: none.
    pub store_loss_us: u64,
    /// Mean time between times at which the store loses its data; 0: none.
    pub wipe_us: u64,
    /// Mean time between times in which one machine does not reach the store, for less than a lease or for longer; 0: none.
    pub isolation_us: u64,
    /// Mean time between hosts that come, whose backends register, and that go; 0: none.
    pub host_us: u64,
    /// Mean time between pauses of a link (what is sent arrives late, at once); 0: none.
    pub clog_us: u64,
    /// The router hashes resiliently.
    pub resilient: bool,
    /// Records of each worker.
    pub records: usize,
    /// Buckets of each worker's flow table, five flows each; 0: room for all flows.
    pub buckets: usize,
    /// Lasting notes of each worker that may wait.
    pub unacknowledged: usize,
    /// Frames that a machine may relay: a second, and at once.
    pub relays: (u64, u64),
    /// All services have policy least-load.
    pub by_load: bool,
    /// A rule of the protocol that does not hold: the checker must notice.
    pub broken: Option<Rule>,
}

impl Scenario {
    /// The scenario of a seed.
    pub fn new(seed: u64, faults: Faults) -> Scenario {
        let mut random = Random::new(seed);
        let all = faults == Faults::All;
        let shape = match seed % 16 {
            4 if all => ScenarioShape::Upheaval,
            6 if all => ScenarioShape::Narrow,
            11 => ScenarioShape::Narrow,
            _ => ScenarioShape::Usual,
        };
        let usual = Scenario::usual(seed, faults, shape, &mut random);
        match shape {
            ScenarioShape::Usual | ScenarioShape::Experiment => usual,
            ScenarioShape::Upheaval => Scenario {
                slots: 7,
                udp_share: 100,
                habits: Habits { silent: 1000, pauses: 600, ..usual.habits },
                active_us: 10_000_000,
                control_delay_us: (1_000, 15_000),
                change_us: 0,
                crash_us: 0,
                mask_us: 0,
                partition_us: 0,
                store_loss_us: 0,
                wipe_us: 0,
                clog_us: 0,
                isolation_us: 0,
                leader_us: 0,
                host_us: 0,
                relays: (1_000_000, 100_000),
                ..usual
            },
            ScenarioShape::Narrow => Scenario {
                habits: Habits { max_idle_us: 1_000_000, packets: 80, ..usual.habits },
                records: random.between(2, 16) as usize,
                buckets: if random.chance(500) { random.between(2, 5) as usize } else { 0 },
                crash_us: if usual.crash_us > 0 { 4_000_000 } else { 0 },
                partition_us: 0,
                ..usual
            },
        }
    }

    /// Drawn in order: what is new is drawn last, so that a seed's other numbers stay what they were.
    fn usual(seed: u64, faults: Faults, shape: ScenarioShape, random: &mut Random) -> Scenario {
        let all = faults == Faults::All;
        let lossy = !seed.is_multiple_of(4);
        let slow = random.between(1_000, 15_000);
        Scenario {
            seed,
            faults,
            shape,
            machines: random.between(2, 4) as usize,
            cores: random.between(1, 3) as usize,
            backends: 0,
            slots: [11, 13, 31][random.below(3) as usize],
            clients: random.between(30, 90) as usize,
            udp_share: random.between(200, 450),
            v6_share: random.between(0, 300),
            large_share: random.between(0, 200),
            habits: Habits {
                max_idle_us: 3_000_000,
                packets: 25,
                tail: false,
                pause_us: (10_000, 300_000),
                silent: 400,
                pauses: 300,
            },
            active_us: 8_000_000,
            loss: if lossy { random.below(301) } else { 0 },
            duplicates: if lossy { random.below(501) } else { 0 },
            delay_us: (slow / 3, slow),
            control_delay_us: (1_000, random.between(5_000, 120_000)),
            change_us: random.between(600_000, 2_500_000),
            reshuffle_us: random.between(300_000, 2_000_000),
            crash_us: mean(random, all, 700, (1_500_000, 5_000_000)),
            mask_us: mean(random, true, 500, (800_000, 3_000_000)),
            partition_us: mean(random, all && lossy, 250, (2_000_000, 6_000_000)),
            store_loss_us: mean(random, true, 300, (1_500_000, 5_000_000)),
            clog_us: mean(random, lossy, 300, (500_000, 2_000_000)),
            isolation_us: mean(random, all, 250, (1_000_000, 4_000_000)),
            leader_us: mean(random, true, 250, (1_500_000, 5_000_000)),
            forge_us: mean(random, true, 250, (100_000, 400_000)),
            // Chosen apart, so that the rest of a seed's scenario is as it was without.
            replay_us: mean(&mut Random::new(!seed), true, 500, (5_000, 100_000)),
            resilient: random.chance(500),
            records: 4096,
            buckets: 0,
            unacknowledged: 4096,
            relays: if random.chance(200) { (5, 1) } else { (1_000_000, 100_000) },
            by_load: false,
            broken: None,
            // Drawn last, so that a seed's other numbers stay what they were before there was this one.
            wipe_us: mean(random, true, 200, (2_000_000, 6_000_000)),
            host_us: mean(random, true, 400, (700_000, 2_500_000)),
        }
    }

    /// How long a closing flow is remembered.
    pub(super) fn closing_us(&self) -> u64 {
        (self.habits.max_idle_us / 3).min(5_000_000)
    }

    /// Whether every message between machines arrives, and not much later than others: then a record that was told is never lost with
    /// its teller.
    pub fn is_lossless(&self) -> bool {
        self.loss == 0 && self.clog_us == 0 && self.partition_us == 0
    }

    /// Whether every question is answered: nothing is lost, no machine dies, and the bucket has tokens.
    pub(super) fn asks_are_answered(&self) -> bool {
        self.is_lossless()
            && self.faults == Faults::Network
            && self.relays.1 > 1000
            && self.shape != ScenarioShape::Narrow
    }

    /// 468 backends, TCP flows of which a few live for very long, and so many updates of the table a minute; four machines of two workers, of which one
    /// dies and returns about every 90 s. One update in four takes a backend away for good; the others drain one, bring one back, or a new one.
    pub fn experiment(seed: u64, flows: usize, updates_a_minute: u64, seconds: u64) -> Scenario {
        Scenario {
            shape: ScenarioShape::Experiment,
            machines: 4,
            cores: 2,
            backends: 468,
            slots: 65_537,
            clients: flows,
            udp_share: 0,
            v6_share: 0,
            large_share: 0,
            habits: Habits {
                max_idle_us: 60_000_000,
                packets: 2_000,
                tail: true,
                pause_us: (500_000, 8_000_000),
                silent: 0,
                pauses: 0,
            },
            active_us: seconds * 1_000_000,
            loss: 1,
            duplicates: 1,
            delay_us: (50, 300),
            control_delay_us: (1_000, 10_000),
            change_us: 60_000_000 / updates_a_minute.max(1),
            reshuffle_us: 60_000_000,
            crash_us: 90_000_000,
            mask_us: 0,
            partition_us: 0,
            store_loss_us: 0,
            wipe_us: 0,
            clog_us: 0,
            isolation_us: 0,
            leader_us: 0,
            host_us: 0,
            forge_us: 0,
            replay_us: 0,
            resilient: false,
            records: (flows / 2).max(1024),
            buckets: 0,
            unacknowledged: 1 << 14,
            relays: (1_000_000, 100_000),
            ..Scenario::new(seed, Faults::All)
        }
    }

    /// Two machines of one worker, nothing lost: the shortest way through everything.
    pub fn plain(seed: u64) -> Scenario {
        Scenario {
            machines: 2,
            cores: 1,
            loss: 0,
            duplicates: 0,
            crash_us: 0,
            mask_us: 0,
            partition_us: 0,
            store_loss_us: 0,
            wipe_us: 0,
            clog_us: 0,
            isolation_us: 0,
            leader_us: 0,
            host_us: 0,
            forge_us: 0,
            replay_us: 0,
            ..Scenario::new(if seed % 16 == 11 { seed + 1 } else { seed }, Faults::Network)
        }
    }
}

/// In so many of a thousand scenarios, if it is possible at all, a mean time between two events, from `low` to `high`; else 0: never.
fn mean(random: &mut Random, is_possible: bool, per_mille: u64, (low, high): (u64, u64)) -> u64 {
    if is_possible && random.chance(per_mille) { random.between(low, high) } else { 0 }
}
