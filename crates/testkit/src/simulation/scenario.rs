//! What happens in a run, as chosen by its seed.

use super::random::Random;
use statesync::Rule;

/// Which faults a run may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Faults {
    /// None but those of the network between machines that the protocol must bear without any exemption: loss, duplication,
    /// delay.
    Network,
    /// All.
    All,
}

/// The numbers of a run. Times are in microseconds, chances in thousandths.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The seed.
    pub seed: u64,
    /// Which faults.
    pub faults: Faults,
    /// Machines.
    pub machines: usize,
    /// Workers of each.
    pub cores: usize,
    /// Slots of each service.
    pub slots: u32,
    /// Clients, each with one flow after the other.
    pub clients: usize,
    /// Of these, UDP.
    pub udp_share: u64,
    /// Faults happen before this time, and then everything must come to rest.
    pub active_us: u64,
    /// The longest idle time.
    pub max_idle_us: u64,
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
    /// Mean time between false masks; 0: none.
    pub mask_us: u64,
    /// Mean time between partitions of two machines; 0: none.
    pub partition_us: u64,
    /// Mean time between losses of the store; 0: none.
    pub store_loss_us: u64,
    /// Mean time between pauses of a link (what is sent arrives late, at once); 0: none.
    pub clog_us: u64,
    /// The router hashes resiliently.
    pub resilient: bool,
    /// Records of each worker.
    pub records: usize,
    /// Frames that a machine may relay: a second, and at once.
    pub relays: (u64, u64),
    /// A rule of the protocol that does not hold: the checker must notice.
    pub broken: Option<Rule>,
}

impl Scenario {
    /// The scenario of a seed.
    pub fn new(seed: u64, faults: Faults) -> Scenario {
        let mut random = Random::new(seed);
        let all = faults == Faults::All;
        let lossy = !seed.is_multiple_of(4);
        let mean = |random: &mut Random, on: bool, low: u64, high: u64| {
            if on { random.between(low, high) } else { 0 }
        };
        let slow = random.between(1_000, 15_000);
        Scenario {
            seed,
            faults,
            machines: random.between(2, 4) as usize,
            cores: random.between(1, 3) as usize,
            slots: [7, 13, 31][random.below(3) as usize],
            clients: random.between(30, 90) as usize,
            udp_share: random.between(200, 500),
            active_us: 8_000_000,
            max_idle_us: 3_000_000,
            loss: if lossy { random.below(301) } else { 0 },
            duplicates: if lossy { random.below(501) } else { 0 },
            delay_us: (slow / 3, slow),
            control_delay_us: (1_000, random.between(5_000, 250_000)),
            change_us: random.between(600_000, 2_500_000),
            reshuffle_us: random.between(300_000, 2_000_000),
            crash_us: {
                let on = all && random.chance(700);
                mean(&mut random, on, 1_500_000, 5_000_000)
            },
            mask_us: {
                let on = random.chance(500);
                mean(&mut random, on, 800_000, 3_000_000)
            },
            partition_us: {
                let on = all && random.chance(250);
                mean(&mut random, on, 2_000_000, 6_000_000)
            },
            store_loss_us: {
                let on = random.chance(300);
                mean(&mut random, on, 1_500_000, 5_000_000)
            },
            clog_us: {
                let on = random.chance(300);
                mean(&mut random, on, 500_000, 2_000_000)
            },
            resilient: random.chance(500),
            records: 4096,
            relays: if random.chance(200) { (5, 1) } else { (1_000_000, 100_000) },
            broken: None,
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
            clog_us: 0,
            ..Scenario::new(seed, Faults::Network)
        }
    }
}
