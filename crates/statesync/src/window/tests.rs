use super::{LATE_US, Replayed, TIME_SHIFT, WINDOW, Windows};
use crate::members::{MachineId, Member};
use crate::note::Origin;
use wire::{CoreId, Tick};

fn origin(machine: u8, incarnation: u32, core: u8) -> Origin {
    Origin { member: Member { machine: MachineId(machine), incarnation }, core: CoreId(core) }
}

#[cfg(not(loom))]
mod of_one_worker {
    use super::*;
    use crate::members::MACHINES_MAX;
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};
    use std::collections::{BTreeMap, BTreeSet};

    const NOW: Tick = Tick(5_000_000);

    #[derive(Default)]
    struct Oracle {
        /// Of the incarnation in force.
        taken: BTreeMap<(Member, CoreId), BTreeSet<u64>>,
        newest: BTreeMap<MachineId, (u32, u64)>,
    }

    impl Oracle {
        /// Whether the datagram is taken: nothing else of it was, nor one of its place above it, and it is current.
        fn take(&mut self, from: Origin, number: u64, sent: u64) -> bool {
            let (incarnation, last) = self.newest.get(&from.member.machine).copied().unwrap_or_default();
            let own = from.member.incarnation;
            // To 65 ms.
            let is_late = own == incarnation
                && (sent >> TIME_SHIFT) + LATE_US.div_ceil(1 << TIME_SHIFT) < last >> TIME_SHIFT;
            if own < incarnation || is_late {
                return false;
            }
            let taken = self.taken.entry((from.member, from.core)).or_default();
            let overtaken = taken.range(number..).any(|of| (of - number).is_multiple_of(WINDOW));
            if overtaken {
                return false;
            }
            taken.insert(number);
            let clock = if own > incarnation { sent } else { sent.max(last) };
            self.newest.insert(from.member.machine, (own, clock));
            true
        }
    }

    proptest! {
        /// The window takes exactly what a set of the numbers seen lets through: whatever comes in, in any order, any number of times, of any
        /// incarnation.
        #[test]
        fn it_takes_what_a_set_of_numbers_seen_takes(
            steps in prop::collection::vec((0_u8..2, 1_u32..4, 0_u8..2, 1_u64..700, 0_u64..1_500_000), 1..400),
            again in any::<u64>(),
        ) {
            let (windows, mut oracle) = (Windows::of(2, 2), Oracle::default());
            let mut all = Vec::new();
            for (step, &(machine, incarnation, core, number, sent)) in steps.iter().enumerate() {
                // Incarnations grow by and by, so that many are of the one in force.
                let incarnation = (incarnation + u32::try_from(step / 100).unwrap_or(0)) / 2 + 1;
                all.push((origin(machine, incarnation, core), number, sent));
                // What was captured comes again.
                let old = usize::try_from(again.rotate_left(step as u32) % all.len() as u64).unwrap_or(0);
                for (from, number, sent) in [all[step], all[old]] {
                    let is_over = windows.is_over(from, number, Tick(sent));
                    let taken = windows.take(from, number, Tick(sent)).is_ok();
                    prop_assert_eq!(taken, oracle.take(from, number, sent), "{:?} {} {}", from, number, sent);
                    prop_assert_eq!(taken, !is_over);
                    prop_assert!(windows.is_over(from, number, Tick(sent)));
                }
            }
        }

        /// What the network puts out of order by less than the window is taken, each once.
        #[test]
        fn what_is_out_of_order_is_taken(order in prop::collection::vec(0_u64..WINDOW - 1, 300)) {
            let windows = Windows::of(1, 1);
            let mut numbers: Vec<(u64, u64)> = (1..).zip(&order).map(|(n, late)| (n + late, n)).collect();
            numbers.sort_unstable();
            for &(_, number) in &numbers {
                prop_assert_eq!(windows.take(origin(0, 1, 0), number, NOW), Ok(()));
            }
            for &(_, number) in &numbers {
                prop_assert_eq!(windows.take(origin(0, 1, 0), number, NOW), Err(Replayed));
            }
        }
    }

    #[test]
    fn what_falls_behind_the_window_is_refused() {
        let (windows, from) = (Windows::new(), origin(63, 1, 63));
        assert_eq!(windows.take(from, 10 + WINDOW, NOW), Ok(()));
        assert_eq!(windows.take(from, 10, NOW), Err(Replayed));
        assert_eq!(windows.take(from, 11, NOW), Ok(()));
        assert_eq!(windows.take(origin(63, 1, 62), 10, NOW), Ok(()), "cores count by themselves");
        assert_eq!(windows.take(origin(62, 1, 63), 10, NOW), Ok(()), "machines too");
        assert_eq!(windows.take(origin(64, 1, 0), 1, NOW), Err(Replayed));
        assert_eq!(windows.take(origin(0, 1, 64), 1, NOW), Err(Replayed));
        assert_eq!(windows.take(from, (1 << 40) - 1, NOW), Ok(()));
        assert_eq!(windows.take(from, 1 << 40, NOW), Err(Replayed), "there are no more");
        assert_eq!(
            Windows::BYTES,
            8 * (windows.places.len() + windows.newest.len()) as u64,
            "what the documents say"
        );
        assert_eq!(windows.newest.len(), MACHINES_MAX);
    }

    /// One that the network lost and a listener has: its core has been silent since, but the machine has not.
    #[test]
    fn what_comes_long_after_newer_words_of_its_machine_is_refused() {
        let windows = Windows::of(2, 2);
        // Incarnations are Unix time.
        let (beats, silent) = (origin(1, 1_796_000_000, 0), origin(1, 1_796_000_000, 1));
        assert_eq!(windows.take(silent, 1, Tick(1_000_000)), Ok(()));
        assert_eq!(windows.take(beats, 1, Tick(1_000_000 + LATE_US)), Ok(()));
        assert_eq!(windows.take(silent, 2, Tick(1_000_000)), Ok(()), "as late as may be");
        assert_eq!(windows.take(beats, 2, Tick(1_132_000 + LATE_US)), Ok(()));
        assert_eq!(windows.take(silent, 3, Tick(1_000_000)), Err(Replayed));
        assert_eq!(windows.take(silent, 4, Tick(1_100_000)), Ok(()));
        assert_eq!(windows.take(origin(0, 1, 0), 1, Tick(3)), Ok(()), "another machine has another clock");
    }

    #[test]
    fn a_new_incarnation_numbers_anew_and_ends_the_former() {
        let windows = Windows::of(2, 2);
        assert_eq!(windows.take(origin(1, 3, 0), 900, NOW), Ok(()));
        assert_eq!(windows.take(origin(1, 4, 0), 1, Tick(7)), Ok(()), "its clock may be another one");
        assert_eq!(windows.take(origin(1, 3, 0), 901, NOW), Err(Replayed));
        assert_eq!(windows.take(origin(1, 3, 1), 1, NOW), Err(Replayed));
        assert_eq!(windows.take(origin(1, 4, 0), 1, Tick(7)), Err(Replayed));
        assert_eq!(windows.take(origin(1, 4, 0), 2, Tick(7)), Ok(()));
    }

    #[test]
    fn a_burnt_number_is_good_for_nothing_and_moves_no_clock() {
        let (windows, from) = (Windows::of(1, 1), origin(0, 1, 0));
        windows.burn(from, 5);
        assert_eq!(windows.take(from, 5, Tick(1 << 47)), Err(Replayed));
        assert_eq!(windows.take(from, 4, Tick(1)), Ok(()));
        assert_eq!(windows.take(from, 6, Tick(1)), Ok(()));
    }
}

/// The same datagram reaches two workers at once, whoever they are and whatever else they take: one takes it.
#[cfg(loom)]
#[test]
fn of_two_workers_one_takes_it() {
    loom::model(|| {
        let windows = loom::sync::Arc::new(Windows::of(1, 1));
        let other = loom::sync::Arc::clone(&windows);
        let from = origin(0, 1, 0);
        let thread = loom::thread::spawn(move || other.take(from, 1, Tick(9)).is_ok());
        let here = windows.take(from, 1, Tick(9)).is_ok();
        let there = thread.join().unwrap();
        assert!(here != there);
        assert_eq!(windows.take(from, 1, Tick(9)), Err(Replayed));
    });
}
