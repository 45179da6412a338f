use super::{Counts, Pool, QUIET_MAX, Ratio, Seen, Turn, WINDOW_MS, WINDOWS_MAX, median};
use wire::BackendId;

/// A pool, and what was counted until now.
#[derive(Default)]
struct Scene {
    pool: Pool,
    total: Vec<Counts>,
    now_ms: u64,
}

impl Scene {
    /// Backends so many, at the begin of the first window.
    fn of(backends: usize) -> Scene {
        let mut scene = Scene { total: vec![Counts::default(); backends], ..Scene::default() };
        assert_eq!(scene.window(&vec![(0, 0); backends]), []);
        scene
    }

    /// A window in which backend n has so many SYNs and handshakes.
    fn window(&mut self, of: &[(u64, u64)]) -> Vec<Turn> {
        for (total, &(syns, handshakes)) in self.total.iter_mut().zip(of) {
            total.add(Counts { syns, handshakes });
        }
        self.now_ms += WINDOW_MS;
        assert!(self.pool.is_due(self.now_ms));
        let counts = self.total.iter();
        let seen =
            (0..).zip(counts).map(|(id, counts)| Seen { id: BackendId(id), counts: *counts, is_up: true });
        let turns = self.pool.observe(&seen.collect::<Vec<_>>(), self.now_ms);
        assert!(!self.pool.is_due(self.now_ms + WINDOW_MS - 1));
        turns
    }

    fn suspects(&self) -> Vec<u32> {
        self.pool.suspects().keys().map(|id| id.0).collect()
    }
}

const NOBODY: [u32; 0] = [];

/// Who is suspect after one window.
fn after_a_window(of: &[(u64, u64)]) -> Vec<u32> {
    let mut scene = Scene::of(of.len());
    let turns = scene.window(of);
    assert_eq!(turns.len(), scene.suspects().len());
    scene.suspects()
}

#[test]
fn one_that_is_silent_is_suspect_after_one_window() {
    assert_eq!(after_a_window(&[(100, 99), (100, 98), (100, 0)]), [2]);
    assert_eq!(after_a_window(&[(100, 99), (100, 49), (100, 100)]), [1]);
    assert_eq!(after_a_window(&[(100, 99), (100, 50), (100, 99)]), NOBODY, "half is enough");
    assert_eq!(after_a_window(&[(1000, 20), (50, 49), (50, 50), (80, 80)]), [0]);
    assert_eq!(
        after_a_window(&[(100, 900), (100, 98), (100, 40)]),
        [2],
        "flows met in the middle make none better"
    );
}

#[test]
fn a_flood_is_no_backends_fault() {
    assert_eq!(after_a_window(&[(10_000, 100), (10_100, 99), (9_900, 97)]), NOBODY);
    assert_eq!(after_a_window(&[(10_000, 0), (10_100, 0), (9_900, 0)]), NOBODY, "nor if nobody goes on");
    assert_eq!(
        after_a_window(&[(10_000, 100), (10_100, 0), (9_900, 97)]),
        [1],
        "a dead one shows all the same"
    );
    assert_eq!(after_a_window(&[(100, 2), (100, 0), (100, 2)]), NOBODY, "unless it may be chance");
}

#[test]
fn the_end_of_a_flood_is_no_backends_fault() {
    let mut scene = Scene::of(4);
    let flood = [(10_000, 1000), (10_000, 1000), (10_000, 1000), (40, 4)];
    assert_eq!(scene.window(&flood), []);
    let quiet = [(100, 99), (100, 99), (100, 99), (20, 20)];
    for _ in 0..WINDOWS_MAX {
        assert_eq!(scene.window(&quiet), [], "the one with few SYNs is compared over the same time");
    }
}

#[test]
fn too_few_say_nothing() {
    assert_eq!(after_a_window(&[(100, 99), (100, 0)]), NOBODY, "two have no median");
    assert_eq!(
        after_a_window(&[(100, 99), (49, 0), (100, 99)]),
        NOBODY,
        "nor has one with few SYNs a part in it"
    );
    assert_eq!(after_a_window(&[(100, 99), (49, 0), (100, 99), (100, 98)]), NOBODY);
    assert_eq!(after_a_window(&[]), NOBODY);
}

#[test]
fn one_with_few_syns_takes_longer() {
    let mut scene = Scene::of(4);
    let window = [(100, 99), (15, 0), (100, 99), (100, 98)];
    for _ in 0..3 {
        assert_eq!(scene.window(&window), []);
    }
    let ratio = Ratio { ppm: 0, pool_ppm: 985_000 };
    assert_eq!(scene.window(&window), [Turn::Suspect(BackendId(1), ratio)]);
    // And longer to be trusted again: until it can be compared, own checks that pass say too little.
    assert!(scene.pool.probed(BackendId(1)));
    for _ in 0..2 * WINDOWS_MAX {
        assert_eq!(scene.window(&window), []);
    }
    assert_eq!(scene.suspects(), [1]);
}

#[test]
fn clients_end_it_by_whole_windows() {
    let mut scene = Scene::of(3);
    let bad = [(100, 97), (100, 97), (100, 12)];
    let [Turn::Suspect(BackendId(2), ratio)] = scene.window(&bad)[..] else { panic!("not suspect") };
    assert_eq!(ratio.to_string(), "12 % where the pool has 97 %");
    assert_eq!(scene.pool.suspects()[&BackendId(2)].since_ms, scene.now_ms);
    assert!(scene.pool.probed(BackendId(2)));
    assert!(!scene.pool.probed(BackendId(2)), "the first one only");
    assert!(!scene.pool.probed(BackendId(1)));
    for _ in 0..5 {
        assert_eq!(scene.window(&bad), [], "told once, and own checks that pass do not end it");
    }
    let good = [(100, 97), (100, 97), (100, 60)];
    let ratio = Ratio { ppm: 600_000, pool_ppm: 970_000 };
    assert_eq!(scene.window(&good), [Turn::Recovered(BackendId(2), ratio)]);
    // What was before does not count again.
    let few = [(100, 97), (100, 97), (30, 20)];
    for _ in 0..WINDOWS_MAX {
        assert_eq!(scene.window(&few), []);
    }
    assert!(matches!(scene.window(&bad)[..], [Turn::Suspect(BackendId(2), _)]), "but it may become so again");
}

#[test]
fn silence_ends_it_while_own_checks_pass() {
    let mut scene = Scene::of(4);
    let bad = [(100, 97), (100, 97), (100, 97), (100, 0)];
    let none = [(100, 97), (100, 97), (100, 97), (0, 0)];
    assert!(matches!(scene.window(&bad)[..], [Turn::Suspect(BackendId(3), _)]));
    for _ in 0..QUIET_MAX + 2 {
        assert_eq!(scene.window(&none), [], "no check has ended yet");
    }
    assert!(scene.pool.probed(BackendId(3)));
    assert_eq!(scene.window(&none), [Turn::Quiet(BackendId(3))]);

    assert!(matches!(scene.window(&bad)[..], [Turn::Suspect(BackendId(3), _)]), "by what is new");
    assert!(scene.pool.probed(BackendId(3)));
    assert_eq!(scene.window(&none), []);
    assert_eq!(scene.window(&bad), [], "silence begins anew");
    assert_eq!(scene.window(&none), []);
    assert_eq!(scene.window(&none), []);
    assert_eq!(scene.window(&none), [Turn::Quiet(BackendId(3))]);
}

#[test]
fn a_suspect_that_is_down_stays_suspect() {
    let mut scene = Scene::of(3);
    assert_eq!(scene.window(&[(100, 97), (100, 97), (100, 0)]).len(), 1);
    assert!(scene.pool.probed(BackendId(2)));
    for round in 1..10 {
        let seen = |id, is_up| Seen { id: BackendId(id), counts: scene.total[id as usize], is_up };
        let seen = [seen(0, true), seen(1, true), seen(2, false)];
        assert_eq!(scene.pool.observe(&seen, scene.now_ms + round * WINDOW_MS), []);
    }
    // And one that is gone is none.
    assert_eq!(scene.pool.observe(&[], scene.now_ms + 10 * WINDOW_MS), []);
    assert!(scene.suspects().is_empty());
}

#[test]
fn newcomers_and_counters_that_go_back_begin_anew() {
    let mut scene = Scene::of(3);
    // As many as an id's former backend had.
    scene.total.push(Counts { syns: 1000, handshakes: 0 });
    assert_eq!(scene.window(&[(100, 99), (100, 99), (100, 99), (500, 0)]), []);
    scene.total = vec![Counts::default(); 4];
    assert_eq!(scene.window(&[(100, 99), (100, 99), (100, 99), (100, 0)]), []);
    assert!(matches!(scene.window(&[(100, 99), (100, 99), (100, 99), (100, 0)])[..], [Turn::Suspect(..)]));
}

#[test]
fn the_middle() {
    assert_eq!(median(vec![]), 0);
    assert_eq!(median(vec![7]), 7);
    assert_eq!(median(vec![9, 1]), 5);
    assert_eq!(median(vec![3, 1, 2]), 2);
}
