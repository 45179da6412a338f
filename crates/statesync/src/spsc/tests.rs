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
        Pop,
        Drain(usize),
    }

    proptest! {
        #[test]
        fn behaves_as_a_bounded_deque(
            depth in 0_usize..9,
            operations in prop::collection::vec(prop_oneof![
                any::<u16>().prop_map(Operation::Push),
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
}
