use super::{Records, Stated, life_us};
use crate::members::{MachineId, Member};
use crate::note::{Origin, Sequence, Statement, Why};
use proptest::prelude::{any, prop, prop_assert_eq, proptest};
use std::collections::HashMap;
use wire::{BackendId, CoreId, FlowKey, Tick};

const LIFE: u64 = life_us(1_000);

fn origin(machine: u8) -> Origin {
    Origin { member: Member { machine: MachineId(machine), incarnation: 1 }, core: CoreId(0) }
}

fn statement(key: u64, backend: u32, guess: bool, age_us: u64) -> Statement {
    Statement { key: FlowKey::Narrow(key), backend: BackendId(backend), guess, age_us, why: Why::Decide }
}

#[test]
fn life_is_one_and_a_half_idle_times() {
    assert_eq!((LIFE, life_us(u64::MAX)), (1_500, u64::MAX));
}

#[test]
fn who_saw_the_flow_begin_wins_and_then_who_used_it_last() {
    let now = Tick(10_000);
    let cases = [
        // (known, stated, outcome)
        ((1, true, 0), (2, false, 900), Stated::Replaced(BackendId(1))),
        ((1, false, 900), (2, true, 0), Stated::Lost(BackendId(1))),
        ((1, false, 500), (2, false, 400), Stated::Replaced(BackendId(1))),
        ((1, false, 400), (2, false, 500), Stated::Lost(BackendId(1))),
        ((1, true, 400), (2, true, 400), Stated::Lost(BackendId(1))),
        ((1, true, 400), (1, false, 500), Stated::Known),
    ];
    for (known, stated, expected) in cases {
        let mut records = Records::new(4, 1);
        let of = |(backend, guess, age)| statement(7, backend, guess, age);
        assert_eq!(records.state(&of(known), origin(0), Sequence(1), now, LIFE), Stated::New);
        assert_eq!(
            records.state(&of(stated), origin(1), Sequence(1), now, LIFE),
            expected,
            "{known:?} {stated:?}"
        );
        let record = records.get(&FlowKey::Narrow(7), now).expect("a record");
        let winner = if matches!(expected, Stated::Replaced(_)) { stated.0 } else { known.0 };
        assert_eq!(record.backend, BackendId(winner));
    }
}

#[test]
fn an_old_note_of_the_same_sender_changes_nothing() {
    let mut records = Records::new(4, 1);
    let key = FlowKey::Narrow(7);
    records.state(&statement(7, 2, false, 0), origin(1), Sequence(9), Tick(100), LIFE);
    assert_eq!(
        records.state(&statement(7, 1, false, 0), origin(1), Sequence(8), Tick(200), LIFE),
        Stated::Known
    );
    assert_eq!(records.get(&key, Tick(200)).map(|r| r.backend), Some(BackendId(2)));
    assert_eq!(
        records.state(&statement(7, 1, false, 0), origin(2), Sequence(8), Tick(200), LIFE),
        Stated::Replaced(BackendId(2))
    );
}

#[test]
fn a_full_table_refuses_until_something_expires() {
    let mut records = Records::new(2, 3);
    for key in 1..3 {
        assert_eq!(
            records.state(&statement(key, 1, false, 0), origin(0), Sequence(1), Tick(0), LIFE),
            Stated::New
        );
    }
    assert_eq!(
        records.state(&statement(3, 1, false, 0), origin(0), Sequence(1), Tick(1), LIFE),
        Stated::Full
    );
    assert_eq!(records.decide(&statement(3, 1, false, 0), origin(0), Sequence(1), Tick(1), LIFE), None);
    let later = Tick(LIFE);
    assert_eq!(records.decide(&statement(3, 1, false, 0), origin(0), Sequence(1), later, LIFE), Some(()));
    assert_eq!(records.len(), 1);
}

#[derive(Clone, Copy, Debug)]
struct Known {
    backend: u32,
    guess: bool,
    used: u64,
    expires: u64,
}

proptest! {
    /// Against a map that keeps everything.
    #[test]
    fn it_does_what_a_map_does(
        steps in prop::collection::vec((0_u8..5, 1_u64..12, 0_u32..3, any::<bool>(), 0_u64..2_000, 0_u64..700), 1..200),
    ) {
        let mut records = Records::new(64, 5);
        let mut oracle: HashMap<u64, Known> = HashMap::new();
        let mut now = 5_000;
        for (sequence, (what, key, backend, guess, age, pass)) in (1..).zip(steps) {
            now += pass;
            oracle.retain(|_, known| known.expires > now);
            let key_of = FlowKey::Narrow(key);
            let new = Known { backend, guess, used: now - age, expires: now + LIFE };
            match what {
                0 | 1 => {
                    let stated =
                        records.state(&statement(key, backend, guess, age), origin(0), Sequence(sequence), Tick(now), LIFE);
                    let expected = match oracle.get(&key).copied() {
                        None => { oracle.insert(key, new); Stated::New }
                        Some(old) if old.backend == backend => {
                            let merged = Known { guess: old.guess && guess, used: old.used.max(new.used), ..new };
                            oracle.insert(key, merged);
                            Stated::Known
                        }
                        Some(old) => {
                            let wins = if old.guess == guess { new.used > old.used } else { old.guess };
                            if wins {
                                oracle.insert(key, new);
                                Stated::Replaced(BackendId(old.backend))
                            } else {
                                Stated::Lost(BackendId(old.backend))
                            }
                        }
                    };
                    prop_assert_eq!(stated, expected);
                }
                2 => {
                    if oracle.contains_key(&key) {
                        records.touch(&key_of, Tick(now), LIFE);
                        if let Some(known) = oracle.get_mut(&key) {
                            known.used = now;
                            known.expires = now + LIFE;
                        }
                    }
                }
                3 => { records.forget(&key_of); oracle.remove(&key); }
                _ => records.sweep(16, Tick(now)),
            }
            for key in 1..12 {
                let found = records.get(&FlowKey::Narrow(key), Tick(now)).map(|r| (r.backend.0, r.guess, r.used.0));
                prop_assert_eq!(found, oracle.get(&key).map(|k| (k.backend, k.guess, k.used)));
            }
        }
        let (mut seen, mut from) = (0, Some(0));
        while let Some(at) = from {
            from = records.scan(at, 10, Tick(now), |_, _| seen += 1);
        }
        prop_assert_eq!(seen, oracle.values().filter(|known| known.expires > now).count());
    }
}
