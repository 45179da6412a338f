#![cfg_attr(loom, allow(unused_imports))]
use super::channel;
use std::sync::Arc;

#[cfg(not(loom))]
mod sequential {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[derive(Clone, Debug)]
    enum Operation {
        Push(u16),
        Burst(Vec<u16>),
        Pop,
        Drain(usize),
    }

    proptest! {
        #[test]
        fn behaves_as_a_bounded_deque(
            depth in 0_usize..9,
            operations in prop::collection::vec(prop_oneof![
                any::<u16>().prop_map(Operation::Push),
                prop::collection::vec(any::<u16>(), 0..12).prop_map(Operation::Burst),
                Just(Operation::Pop),
                (0_usize..12).prop_map(Operation::Drain),
            ], 0..200),
        ) {
            let (mut sender, mut receiver) = channel(depth);
            let mut oracle = VecDeque::new();
            let depth = depth.max(1);
            for operation in operations {
                match operation {
                    Operation::Push(item) => {
                        let expected = if oracle.len() < depth { oracle.push_back(item); Ok(()) } else { Err(item) };
                        prop_assert_eq!(sender.push(item), expected);
                    }
                    Operation::Burst(items) => {
                        let fit = items.len().min(depth - oracle.len());
                        oracle.extend(&items[..fit]);
                        let mut rest = items.iter().copied();
                        prop_assert_eq!(sender.push_burst(&mut rest), fit);
                        prop_assert_eq!(rest.collect::<Vec<_>>(), &items[fit..]);
                    }
                    Operation::Pop => prop_assert_eq!(receiver.pop(), oracle.pop_front()),
                    Operation::Drain(max) => {
                        let mut got = Vec::new();
                        let count = receiver.drain(max, |item| got.push(item));
                        let expected: Vec<u16> = oracle.drain(..max.min(oracle.len())).collect();
                        prop_assert_eq!((count, &got), (expected.len(), &expected));
                    }
                }
                prop_assert_eq!((receiver.waiting(), sender.room()), (oracle.len(), depth - oracle.len()));
            }
        }
    }

    #[test]
    fn what_is_left_is_dropped() {
        let item = Arc::new(());
        for sender_first in [true, false] {
            let (mut sender, receiver) = channel(4);
            for _ in 0..3 {
                assert!(sender.push(Arc::clone(&item)).is_ok());
            }
            if sender_first {
                drop(sender);
                drop(receiver);
            } else {
                drop(receiver);
                drop(sender);
            }
            assert_eq!(Arc::strong_count(&item), 1);
        }
    }

    /// An iterator that promises more than it has.
    struct Short(u8);

    impl Iterator for Short {
        type Item = u8;

        fn next(&mut self) -> Option<u8> {
            self.0 = self.0.checked_sub(1)?;
            Some(self.0)
        }
    }

    impl ExactSizeIterator for Short {
        fn len(&self) -> usize {
            4
        }
    }

    #[test]
    fn a_burst_that_ends_early_is_no_more_than_it_was() {
        let (mut sender, mut receiver) = channel(8);
        assert_eq!(sender.push_burst(&mut Short(2)), 2);
        assert_eq!((receiver.waiting(), sender.room()), (2, 6));
        assert_eq!((receiver.pop(), receiver.pop(), receiver.pop()), (Some(1), Some(0), None));
    }

    #[test]
    fn two_threads_in_bursts() {
        let (mut sender, mut receiver) = channel(8);
        let writing = std::thread::spawn(move || {
            let mut next = 0..10_000_u32;
            while !next.is_empty() {
                let (burst, mut sent) = (next.start..next.end.min(next.start + 5), 0);
                let mut rest = burst.clone();
                while sent < burst.len() {
                    sent += sender.push_burst(&mut rest);
                    std::thread::yield_now();
                }
                next.start = burst.end;
            }
        });
        let mut expected = 0;
        while expected < 10_000 {
            let got = receiver.drain(7, |item| {
                assert_eq!(item, expected);
                expected += 1;
            });
            if got == 0 {
                std::thread::yield_now();
            }
        }
        assert!(writing.join().is_ok());
    }

    #[test]
    fn two_threads() {
        let (mut sender, mut receiver) = channel(8);
        let writing = std::thread::spawn(move || {
            for i in 0..10_000_u32 {
                while sender.push(i).is_err() {
                    std::thread::yield_now();
                }
            }
        });
        let mut expected = 0;
        while expected < 10_000 {
            let got = receiver.drain(5, |item| {
                assert_eq!(item, expected);
                expected += 1;
            });
            if got == 0 {
                std::thread::yield_now();
            }
        }
        assert!(writing.join().is_ok());
    }
}

/// The model under loom: items arrive whole, in order, once; slots are used again only when they are free.
#[cfg(loom)]
mod explored {
    use super::channel;
    use loom::thread;

    #[test]
    fn loom_items_arrive_whole_and_in_order() {
        loom::model(|| {
            // Fewer places than items, so that slots are used again.
            let (mut sender, mut receiver) = channel(1);
            let writing = thread::spawn(move || {
                let mut sent = 0_u32;
                for i in 0..2_u32 {
                    // A box: reading it before it was written is a race that loom reports.
                    if sender.push(Box::new(i)).is_ok() {
                        sent += 1;
                    } else {
                        break;
                    }
                }
                sent
            });
            let mut got = 0_u32;
            for _ in 0..2 {
                if let Some(item) = receiver.pop() {
                    assert_eq!(*item, got);
                    got += 1;
                }
            }
            let Ok(sent) = writing.join() else { unreachable!("the writer ends") };
            receiver.drain(9, |item| {
                assert_eq!(*item, got);
                got += 1;
            });
            assert_eq!(got, sent);
        });
    }

    #[test]
    fn loom_bursts_arrive_whole_and_in_order() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let (mut sender, mut receiver) = channel(2);
            let writing = thread::spawn(move || {
                let mut items = (0..3_u32).map(Box::new);
                (0..2).map(|_| sender.push_burst(&mut items)).sum::<usize>()
            });
            let mut got = Vec::new();
            let first = receiver.drain(2, |item| got.push(*item));
            assert!(first == 0 || first == 2, "the burst that fits is seen whole: {first}");
            let Ok(sent) = writing.join() else { unreachable!("the writer ends") };
            while receiver.drain(2, |item| got.push(*item)) > 0 {}
            let expected: Vec<u32> = (0..).take(sent).collect();
            assert_eq!(got, expected);
        });
    }
}
