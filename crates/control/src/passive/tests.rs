use super::{
    BACKENDS_MIN, BackendSample, ClientCounts, Pool, PoolMedian, QUIET_STEPS, Ratio, RecoveryTrial, STEP_MS,
    STEPS_MAX, Sign, SuspicionChange, Trials, median,
};
use crate::load::{BackendLoad, make_room};
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use std::collections::BTreeMap;
use wire::BackendId;

/// What became of the flows of a step: SYNs, handshakes, closes.
type Step = (u64, u64, u64);

/// A pool, and what was counted until now.
#[derive(Default)]
struct Scene {
    pool: Pool,
    total: Vec<ClientCounts>,
    now_ms: u64,
    by_source: bool,
}

impl Scene {
    /// Backends so many, at the begin of the first step.
    fn of(backends: usize) -> Scene {
        let mut scene = Scene { total: vec![ClientCounts::default(); backends], ..Scene::default() };
        assert_eq!(scene.counts(&vec![ClientCounts::default(); backends]), []);
        scene
    }

    fn counts(&mut self, of: &[ClientCounts]) -> Vec<SuspicionChange> {
        for (total, counts) in self.total.iter_mut().zip(of) {
            total.syns += counts.syns;
            total.handshakes += counts.handshakes;
            total.closes += counts.closes;
            total.soon += counts.soon;
        }
        self.now_ms += STEP_MS;
        assert!(self.pool.is_due(self.now_ms));
        let counts = self.total.iter();
        let seen = (0..).zip(counts).map(|(id, counts)| BackendSample {
            id: BackendId(id),
            counts: *counts,
            is_up: true,
        });
        let turns = self.pool.observe(&seen.collect::<Vec<_>>(), self.by_source, self.now_ms);
        assert!(!self.pool.is_due(self.now_ms + STEP_MS - 1));
        turns
    }

    /// A step in which backend n has so many flows, which end at once.
    fn step(&mut self, of: &[Step]) -> Vec<SuspicionChange> {
        let counts =
            |&(syns, handshakes, closes): &Step| ClientCounts { syns, handshakes, closes, soon: closes };
        self.counts(&of.iter().map(counts).collect::<Vec<_>>())
    }

    fn steps(&mut self, count: usize, of: &[Step]) -> Vec<SuspicionChange> {
        (0..count).flat_map(|_| self.step(of)).collect()
    }

    fn suspects(&self) -> Vec<u32> {
        self.pool.suspects().keys().map(|id| id.0).collect()
    }
}

const NOBODY: [u32; 0] = [];
/// A backend that serves a hundred clients.
const SERVES: Step = (100, 99, 99);

/// Who is suspect after some steps that are alike.
fn after(count: usize, of: &[Step]) -> Vec<u32> {
    let mut scene = Scene::of(of.len());
    let turns = scene.steps(count, of);
    assert_eq!(turns.len(), scene.suspects().len());
    scene.suspects()
}

#[test]
fn one_that_ignores_or_refuses_its_clients_is_suspect_after_two_steps() {
    assert_eq!(after(1, &[SERVES, SERVES, (100, 0, 0)]), NOBODY, "clients have had no time");
    assert_eq!(after(2, &[SERVES, SERVES, (100, 0, 0)]), [2]);
    // Of the newest flows nothing is asked, but what they show counts: one that serves a quarter of its clients shows half.
    assert_eq!(after(2, &[(100, 99, 99), (100, 24, 24), (100, 100, 100)]), [1]);
    assert_eq!(after(60, &[SERVES, (100, 51, 51), SERVES]), NOBODY, "half is enough");
    assert_eq!(after(2, &[(1000, 20, 20), (50, 49, 49), (50, 50, 50), (80, 80, 80)]), [0]);
    assert_eq!(
        after(2, &[(100, 900, 0), (100, 98, 0), (100, 20, 0)]),
        [2],
        "flows met in the middle make none better"
    );
}

#[test]
fn one_that_resets_its_clients_is_suspect_after_four_steps() {
    let resets = (100, 99, 0);
    assert_eq!(after(3, &[SERVES, SERVES, resets]), NOBODY, "clients have had no time");
    assert_eq!(after(4, &[SERVES, SERVES, resets]), [2]);
    // At fifty connections a second among eight, three of which reset them.
    let few = (6, 6, 6);
    let mut scene = Scene::of(8);
    assert_eq!(scene.steps(3, &[few; 8]), []);
    let turns = scene.steps(6, &[few, few, few, few, few, (6, 6, 0), (6, 6, 0), (6, 6, 0)]);
    assert_eq!((turns.len(), scene.suspects()), (3, vec![5, 6, 7]));
}

#[test]
fn connections_that_last_say_nothing() {
    // None ends soon; those of the newcomer cannot have ended yet.
    let mut scene = Scene::of(4);
    let lasts = ClientCounts { syns: 100, handshakes: 100, closes: 100, soon: 0 };
    let new = ClientCounts { closes: 0, ..lasts };
    for _ in 0..STEPS_MAX {
        assert_eq!(scene.counts(&[lasts, lasts, lasts, new]), []);
    }
    // A crowd, in which the clients of one wait a little longer than three seconds, those of others a little less.
    let mut scene = Scene::of(4);
    let waits = ClientCounts { soon: 100, ..lasts };
    for _ in 0..STEPS_MAX {
        assert_eq!(scene.counts(&[waits, waits, waits, lasts]), [], "it serves as many as they do");
    }
}

#[test]
fn a_flood_is_no_backends_fault() {
    assert_eq!(after(60, &[(10_000, 100, 99), (10_100, 99, 90), (9_900, 97, 91)]), NOBODY);
    assert_eq!(after(60, &[(10_000, 0, 0), (10_100, 0, 0), (9_900, 0, 0)]), NOBODY, "nor if nobody goes on");
    assert_eq!(
        after(2, &[(10_000, 100, 99), (10_100, 0, 0), (9_900, 97, 92)]),
        [1],
        "a dead one shows all the same"
    );
    assert_eq!(after(2, &[(100, 2, 2), (100, 0, 0), (100, 2, 2)]), NOBODY, "unless it may be chance");
    // It begins where backends had served all.
    let mut scene = Scene::of(4);
    assert_eq!(scene.steps(30, &[SERVES; 4]), []);
    assert_eq!(scene.steps(30, &[(2_000, 100, 90), (2_000, 100, 90), (2_000, 100, 90), (40, 2, 2)]), []);
}

#[test]
fn the_end_of_a_flood_is_no_backends_fault() {
    let mut scene = Scene::of(4);
    let flood = [(10_000, 1000, 1000), (10_000, 1000, 1000), (10_000, 1000, 1000), (40, 4, 4)];
    assert_eq!(scene.steps(10, &flood), []);
    let quiet = [SERVES, SERVES, SERVES, (20, 20, 20)];
    assert_eq!(scene.steps(STEPS_MAX, &quiet), [], "the one with few SYNs is compared over the same time");
}

#[test]
fn a_pool_of_two_has_no_median() {
    assert_eq!(after(60, &[SERVES, (100, 0, 0)]), NOBODY);
    assert_eq!(after(60, &[SERVES, (100, 0, 0), (0, 0, 0)]), NOBODY, "nor one of which two have clients");
    assert_eq!(after(60, &[]), NOBODY);
    assert_eq!(BACKENDS_MIN, 3);
}

#[test]
fn few_flows_say_something_if_the_others_hardly_ever_fail() {
    // By load: it has kept the connections that it does not answer, and is given no more.
    let serves = (10, 10, 10);
    let mut scene = Scene::of(6);
    let none = (0, 0, 0);
    assert_eq!(scene.steps(30, &[serves; 6]), []);
    assert_eq!(scene.step(&[serves, serves, serves, serves, serves, (2, 0, 0)]), []);
    assert_eq!(scene.steps(5, &[serves, serves, serves, serves, serves, none]), [], "two may be chance");
    assert_eq!(scene.step(&[serves, serves, serves, serves, serves, (2, 0, 0)]), []);
    let turns = scene.steps(2, &[serves, serves, serves, serves, serves, none]);
    let ratio = Ratio { sign: Sign::Handshakes, ppm: 0, pool_ppm: 1_000_000 };
    assert_eq!(turns, [SuspicionChange::Suspect(BackendId(5), ratio)]);

    // Where one of twenty fails anyway, as few are chance.
    let serves = (20, 19, 19);
    let mut scene = Scene::of(6);
    assert_eq!(scene.steps(30, &[serves; 6]), []);
    assert_eq!(scene.step(&[serves, serves, serves, serves, serves, (4, 0, 0)]), []);
    assert_eq!(scene.steps(9, &[serves, serves, serves, serves, serves, none]), []);

    // And where a client's flows all go to one backend, it is the client that fails.
    let mut scene = Scene { by_source: true, ..Scene::of(6) };
    let serves = (10, 10, 10);
    assert_eq!(scene.steps(30, &[serves, serves, serves, serves, serves, (2, 0, 0)]), [], "49");
    assert_eq!(scene.steps(30, &[serves, serves, serves, serves, serves, (10, 10, 0)]), []);
}

#[test]
fn who_is_in_doubt_or_may_be_well_again_is_tried() {
    let (serves, none) = ((10, 10, 10), (0, 0, 0));
    let with = |last: Step| [serves, serves, serves, serves, serves, last];
    for (fails, sign) in [((2, 0, 0), Sign::Handshakes), ((2, 2, 0), Sign::Closes)] {
        let mut scene = Scene::of(6);
        assert_eq!(scene.steps(20, &with(serves)), []);
        let tried = |scene: &Scene| scene.pool.trials();
        assert_eq!(tried(&scene), []);
        // The last that it served, and the first two that it did not.
        let (syns, handshakes, closes) = fails;
        assert_eq!(scene.step(&with((6 + syns, 6 + handshakes, 6 + closes))), []);
        assert_eq!(tried(&scene), [], "they have had no time");
        let mut trials = 0;
        let mut turns = Vec::new();
        while turns.is_empty() && trials < 10 {
            turns = scene.step(&with(if tried(&scene).is_empty() { none } else { fails }));
            trials += tried(&scene).len();
        }
        let [SuspicionChange::Suspect(BackendId(5), Ratio { sign: found, .. })] = turns[..] else {
            panic!("{turns:?}")
        };
        assert_eq!((found, trials > 1), (sign, true));
        // It goes on by and by, and with each step when it is well.
        let mut turns = Vec::new();
        for step in 0..30 {
            let is_tried = !tried(&scene).is_empty();
            turns.extend(scene.step(&with(if is_tried { (2, 2, 2) } else { none })));
            assert!(step < 4 || is_tried || !turns.is_empty(), "step {step}");
        }
        assert!(matches!(turns[..], [SuspicionChange::Recovered(BackendId(5), _)]), "{turns:?}");
        assert_eq!(tried(&scene), []);
    }
    // Nor is anybody tried of a service whose connections last.
    let lasts = ClientCounts { syns: 10, handshakes: 10, closes: 1, soon: 0 };
    let mut scene = Scene::of(4);
    for _ in 0..STEPS_MAX {
        assert_eq!(scene.counts(&[lasts, lasts, lasts, ClientCounts { closes: 0, ..lasts }]), []);
        assert_eq!(scene.pool.trials(), []);
    }
}

/// How clients fare.
#[derive(Clone, Copy, PartialEq)]
enum Fares {
    Well,
    /// Nobody goes on.
    Ignored,
    /// Nobody ends it.
    Reset,
}

/// Eight backends of which the least loaded one gets the next flow, as workers see it: figures come every 250 ms.
struct ByLoad {
    scene: Scene,
    trials: Trials,
    /// Flows that nobody ended.
    live: [u64; 8],
    step: [ClientCounts; 8],
    /// As of the last figures, and what was placed since.
    loads: [u64; 8],
    /// Flows that trials asked for.
    tried: u64,
    failed: u64,
}

impl ByLoad {
    fn new() -> ByLoad {
        ByLoad {
            scene: Scene::of(8),
            trials: Trials::default(),
            live: [0; 8],
            step: [ClientCounts::default(); 8],
            loads: [0; 8],
            tried: 0,
            failed: 0,
        }
    }

    fn had(&self, at: usize) -> u64 {
        self.scene.total[at].syns + self.step[at].syns
    }

    /// A millisecond of a step, with a new flow or without.
    fn ms(&mut self, ms: u64, flow: bool, fares: impl Fn(usize) -> Fares) -> Vec<SuspicionChange> {
        if ms % 250 == 100 {
            let had: Vec<u64> = (0..8).map(|at| self.had(at)).collect();
            self.trials.end(|id| had[id.0 as usize], self.scene.now_ms + ms);
            let left = |at: usize| self.trials.left(BackendId(at as u32), || had[at]);
            let known = self.live.map(|flows| BackendLoad {
                flows,
                capacity: 1000,
                weight: 1,
                ..BackendLoad::default()
            });
            let mut known = Vec::from(known);
            make_room(&mut known, &(0..8).map(left).collect::<Vec<_>>());
            self.loads = std::array::from_fn(|at| known[at].flows);
        }
        if flow {
            let at = (0..8).min_by_key(|at| self.loads[*at]).unwrap();
            self.loads[at] += 1;
            let (step, fares) = (&mut self.step[at], fares(at));
            step.syns += 1;
            step.handshakes += u64::from(fares != Fares::Ignored);
            step.closes += u64::from(fares == Fares::Well);
            step.soon += u64::from(fares == Fares::Well);
            self.live[at] += u64::from(fares != Fares::Well);
            self.failed += u64::from(fares != Fares::Well);
        }
        if ms + 1 < STEP_MS {
            return Vec::new();
        }
        let step = std::mem::take(&mut self.step);
        let turns = self.scene.counts(&step);
        for trial in self.scene.pool.trials() {
            self.tried += trial.flows;
            self.trials.begin(trial, self.had(trial.id.0 as usize), self.scene.now_ms);
        }
        turns
    }
}

/// Fifty connections a second, of which nobody failed for two seconds, or for a minute: three of eight fall ill, at any time of a step.
#[test]
fn who_falls_ill_by_load_is_found_in_six_seconds() {
    let (mut slowest, mut failed) = (BTreeMap::new(), 0);
    for (well, ill_ms) in
        [2, 60].into_iter().flat_map(|well| (0..STEP_MS).step_by(10).map(move |at| (well, at)))
    {
        let mut play = ByLoad::new();
        let begun_ms = well * STEP_MS + ill_ms;
        let mut found = BTreeMap::new();
        for at_ms in 0..(well + 20) * STEP_MS {
            let fares = |at| match at {
                1 if at_ms >= begun_ms => Fares::Reset,
                3 | 5 if at_ms >= begun_ms => Fares::Ignored,
                _ => Fares::Well,
            };
            for turn in play.ms(at_ms % STEP_MS, at_ms % 20 == 0, fares) {
                let SuspicionChange::Suspect(BackendId(id), _) = turn else { panic!("{turn:?}") };
                found.insert(id, at_ms + 1 - begun_ms);
            }
            if found.len() == 3 {
                break;
            }
        }
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), [1, 3, 5], "after {well} s and {ill_ms} ms");
        for (id, took_ms) in found {
            let slow = slowest.entry(id).or_insert(0);
            *slow = took_ms.max(*slow);
        }
        failed = play.failed.max(failed);
    }
    println!("{slowest:?}, {failed} failed");
    assert!(slowest[&1] <= 6_000, "{slowest:?}");
    assert!(slowest[&3].max(slowest[&5]) <= 4_000, "{slowest:?}");
    assert!(failed <= 40, "{failed} clients were sent to those that are ill");
}

/// Where one of ten clients fails, or of a hundred, whoever it is that serves it, many a backend is tried, and none is suspect.
#[test]
fn trials_of_who_is_well_make_none_suspect() {
    for (seed, one_in, gap_ms) in [(1, 10, 50), (2, 100, 50), (3, 10, 400), (4, 3, 100), (5, 100, 20)] {
        let mut random = random(seed);
        let mut play = ByLoad::new();
        let hour_ms = 3_600_000;
        for at_ms in 0..hour_ms {
            let flow = at_ms % gap_ms == 0;
            let fares = match flow.then(|| random(2 * one_in)) {
                Some(0) => Fares::Ignored,
                Some(1) => Fares::Reset,
                _ => Fares::Well,
            };
            if at_ms % 60_000 == 0 {
                play.live = [0; 8];
            }
            let turns = play.ms(at_ms % STEP_MS, flow, |_| fares);
            assert_eq!(turns, [], "one in {one_in} fails, after {at_ms} ms");
        }
        let flows = hour_ms / gap_ms;
        println!(
            "one in {one_in} fails, one comes each {gap_ms} ms: {} of {flows} flows for trials",
            play.tried
        );
    }
}

#[test]
fn a_trial_ends_with_its_flows_or_its_time() {
    let (one, two) = (BackendId(1), BackendId(2));
    let mut trials = Trials::default();
    trials.begin(RecoveryTrial { id: one, flows: 6 }, 100, 5_000);
    trials.begin(RecoveryTrial { id: two, flows: 1 }, 7, 5_000);
    trials.end(|id| if id == one { 105 } else { 7 }, 5_000 + STEP_MS - 1);
    assert_eq!([one, two].map(|id| trials.left(id, || 105)), [Some(1), Some(0)]);
    trials.end(|id| if id == one { 105 } else { 8 }, 5_000 + STEP_MS - 1);
    assert_eq!([one, two].map(|id| trials.left(id, || 9).is_some()), [true, false]);
    trials.end(|_| 0, 5_000 + STEP_MS);
    assert_eq!(trials.left(one, || 0), None);
}

#[test]
fn how_likely_failures_are() {
    let peers = |flows, failures| PoolMedian { ppm: 0, late_ppm: 0, flows, failures };
    // The rule of succession.
    assert!((peers(98, 0).chance(1, 1) - 0.01).abs() < 1e-12);
    assert!((peers(98, 0).chance(2, 1) - (1.0 - 0.99 * 100.0 / 101.0)).abs() < 1e-12);
    for (flows, failures, of) in [(0, 0, 20), (1000, 3, 49), (10, 10, 30)] {
        let peers = peers(flows, failures);
        assert!((peers.chance(of, 0) - 1.0).abs() < 1e-9, "none or more is certain");
        for fail in 0..of {
            assert!(peers.chance(of, fail) >= peers.chance(of, fail + 1));
        }
    }
    // Nothing is known of the others: any number is as likely.
    assert!((peers(0, 0).chance(9, 9) - 0.1).abs() < 1e-12);
}

#[test]
fn clients_end_it() {
    let mut scene = Scene::of(3);
    let serves = (100, 97, 97);
    let bad = [serves, serves, (100, 12, 12)];
    let [SuspicionChange::Suspect(BackendId(2), ratio)] = scene.steps(2, &bad)[..] else {
        panic!("not suspect")
    };
    assert_eq!(
        ratio.to_string(),
        "24 % where the pool has 100 %",
        "two steps' handshakes for one step's SYNs"
    );
    assert_eq!(scene.pool.suspects()[&BackendId(2)].since_ms, scene.now_ms);
    assert!(scene.pool.probed(BackendId(2)));
    assert!(!scene.pool.probed(BackendId(2)), "the first one only");
    assert!(!scene.pool.probed(BackendId(1)));
    assert_eq!(scene.steps(2 * QUIET_STEPS, &bad), [], "told once, and own checks that pass do not end it");
    let turns = scene.steps(3, &[serves; 3]);
    assert!(matches!(turns[..], [SuspicionChange::Recovered(BackendId(2), _)]), "{turns:?}");
    // What was before does not count again.
    assert_eq!(scene.steps(STEPS_MAX, &[serves, serves, (30, 20, 20)]), []);
    let turns = scene.steps(8, &bad);
    assert!(
        matches!(turns[..], [SuspicionChange::Suspect(BackendId(2), _)]),
        "but it may become so again: {turns:?}"
    );
}

#[test]
fn clients_whose_connections_end_again_end_it() {
    let mut scene = Scene::of(4);
    let few = (6, 6, 6);
    let [SuspicionChange::Suspect(BackendId(3), ratio)] = scene.steps(12, &[few, few, few, (6, 6, 0)])[..]
    else {
        panic!("not suspect")
    };
    assert_eq!(ratio.sign, Sign::Closes);
    let turns = scene.steps(8, &[few; 4]);
    assert!(
        matches!(turns[..], [SuspicionChange::Recovered(BackendId(3), Ratio { sign: Sign::Closes, .. })]),
        "{turns:?}"
    );
}

#[test]
fn silence_ends_it_while_own_checks_pass() {
    let mut scene = Scene::of(4);
    let bad = [SERVES, SERVES, SERVES, (100, 0, 0)];
    let none = [SERVES, SERVES, SERVES, (0, 0, 0)];
    assert!(matches!(scene.steps(2, &bad)[..], [SuspicionChange::Suspect(BackendId(3), _)]));
    assert_eq!(scene.steps(QUIET_STEPS + 2, &none), [], "no check has ended yet");
    assert!(scene.pool.probed(BackendId(3)));
    assert_eq!(scene.step(&none), [SuspicionChange::Quiet(BackendId(3))]);

    assert!(
        matches!(scene.steps(2, &bad)[..], [SuspicionChange::Suspect(BackendId(3), _)]),
        "by what is new"
    );
    assert!(scene.pool.probed(BackendId(3)));
    assert_eq!(scene.steps(QUIET_STEPS / 2, &none), []);
    assert_eq!(scene.step(&[SERVES, SERVES, SERVES, (1, 0, 0)]), [], "silence begins anew");
    assert_eq!(scene.steps(QUIET_STEPS, &none), []);
    assert_eq!(scene.step(&none), [SuspicionChange::Quiet(BackendId(3))]);
}

#[test]
fn a_suspect_that_is_down_stays_suspect() {
    let mut scene = Scene::of(3);
    assert_eq!(scene.steps(2, &[SERVES, SERVES, (100, 0, 0)]).len(), 1);
    assert!(scene.pool.probed(BackendId(2)));
    for round in 1..200 {
        let seen = |id, is_up| BackendSample { id: BackendId(id), counts: scene.total[id as usize], is_up };
        let seen = [seen(0, true), seen(1, true), seen(2, false)];
        assert_eq!(scene.pool.observe(&seen, false, scene.now_ms + round * STEP_MS), []);
    }
    // And one that is gone is none.
    assert_eq!(scene.pool.observe(&[], false, scene.now_ms + 200 * STEP_MS), []);
    assert!(scene.suspects().is_empty());
}

#[test]
fn newcomers_and_counters_that_go_back_begin_anew() {
    let mut scene = Scene::of(3);
    // As many as an id's former backend had.
    scene.total.push(ClientCounts { syns: 1000, handshakes: 0, closes: 0, soon: 0 });
    assert_eq!(scene.step(&[SERVES, SERVES, SERVES, (500, 0, 0)]), []);
    scene.total = vec![ClientCounts::default(); 4];
    assert_eq!(scene.step(&[SERVES, SERVES, SERVES, (100, 0, 0)]), []);
    let turns = scene.steps(2, &[SERVES, SERVES, SERVES, (100, 0, 0)]);
    assert!(matches!(turns[..], [SuspicionChange::Suspect(..)]), "{turns:?}");
}

/// A client's connection: when it begins, how long after that its handshake is done, and how long after that it ends.
struct Client {
    began_ms: u64,
    backend: usize,
    rtt_ms: u64,
    lasts_ms: u64,
    gives_up: bool,
}

/// Plays clients for a while: what is counted in each step is what they did until its end.
fn play(scene: &mut Scene, clients: &[Client], seconds: usize) -> Vec<SuspicionChange> {
    let mut steps = vec![vec![ClientCounts::default(); scene.total.len()]; seconds];
    let mut count = |at_ms: u64, backend: usize, add: fn(&mut ClientCounts)| {
        if let Some(step) = usize::try_from(at_ms / STEP_MS).ok().and_then(|step| steps.get_mut(step)) {
            add(&mut step[backend]);
        }
    };
    for client in clients {
        let handshake_ms = client.began_ms + client.rtt_ms;
        count(client.began_ms, client.backend, |of| of.syns += 1);
        if client.gives_up {
            continue;
        }
        count(handshake_ms, client.backend, |of| of.handshakes += 1);
        count(handshake_ms + client.lasts_ms, client.backend, |of| of.closes += 1);
        if client.lasts_ms <= 3000 {
            count(handshake_ms + client.lasts_ms, client.backend, |of| of.soon += 1);
        }
    }
    steps.iter().flat_map(|of| scene.counts(of)).collect()
}

/// Numbers below a bound, the same in each run.
fn random(seed: u8) -> impl FnMut(u64) -> u64 {
    let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    move |below| random.next_u64() % below
}

/// From 20 connections a second to 4,000 within a second, and back; clients wait the longer the more there are, and some give up. One
/// backend comes up in the middle of it.
#[test]
fn a_flash_crowd_makes_none_suspect() {
    for seed in 0..20 {
        let mut random = random(seed);
        let mut scene = Scene::of(8);
        let mut clients = Vec::new();
        for second in 0..40_u64 {
            let crowd: u64 = if (12..26).contains(&second) { 4_000 } else { 20 };
            // The queue grows for as long as the crowd lasts: to about four seconds, past where soon ends.
            let queue_ms = if crowd > 20 { (second - 11) * 300 } else { 50 };
            let up = if second < 13 { 7 } else { 8 };
            for _ in 0..crowd {
                let backend = random(up) as usize;
                clients.push(Client {
                    began_ms: second * 1000 + random(1000),
                    backend,
                    rtt_ms: 5 + random(300),
                    // Some backends are a tenth slower.
                    lasts_ms: random(queue_ms + 1) / 4 + queue_ms * (10 + backend as u64 % 2) / 10,
                    gives_up: random(100) < if crowd > 20 { 15 } else { 1 },
                });
            }
        }
        assert_eq!(play(&mut scene, &clients, 50), [], "seed {seed}");
    }
}

/// Ten connections a minute, of which one in ten fails: an hour says nothing of anybody.
#[test]
fn ten_connections_a_minute_make_none_suspect() {
    for (seed, backends) in (0..40).zip([2, 3, 4, 8].into_iter().cycle()) {
        let mut random = random(seed);
        let mut scene = Scene::of(backends);
        let clients: Vec<Client> = (0..600)
            .map(|nth| Client {
                began_ms: nth * 6_000 + random(6_000),
                backend: random(backends as u64) as usize,
                rtt_ms: 5 + random(300),
                lasts_ms: random(60_000),
                gives_up: random(10) == 0,
            })
            .collect();
        assert_eq!(play(&mut scene, &clients, 3_600), [], "seed {seed}, {backends} backends");
    }
}

#[test]
fn the_middle() {
    assert_eq!(median(vec![]), 0);
    assert_eq!(median(vec![7]), 7);
    assert_eq!(median(vec![9, 1]), 5);
    assert_eq!(median(vec![3, 1, 2]), 2);
}
