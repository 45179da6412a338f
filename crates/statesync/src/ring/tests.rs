#![cfg_attr(loom, allow(unused_imports))]
use super::*;

#[cfg(not(loom))]
mod sequential {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[test]
    fn sends_to_others_and_not_to_oneself_or_nobody() {
        let mut ports = mesh(3, 2);
        assert_eq!(ports.iter().map(Ports::core).collect::<Vec<_>>(), [CoreId(0), CoreId(1), CoreId(2)]);
        assert_eq!(ports[0].cores(), 3);
        assert_eq!(ports[0].send(CoreId(0), "self"), Err("self"));
        assert_eq!(ports[0].send(CoreId(3), "nobody"), Err("nobody"));
        assert_eq!(ports[0].send(CoreId(2), "a"), Ok(()));
        assert_eq!(ports[1].send(CoreId(2), "b"), Ok(()));
        assert_eq!(ports[2].waiting(), 2);
        assert_eq!(ports[0].unread().collect::<Vec<_>>(), [CoreId(2)]);
        assert_eq!(ports[2].unread().count(), 0);
        let mut got = Vec::new();
        assert_eq!(ports[2].receive(9, |from, item| got.push((from, item))), 2);
        assert_eq!(got, [(CoreId(0), "a"), (CoreId(1), "b")]);
        assert_eq!((ports[0].waiting(), ports[1].waiting(), ports[2].waiting()), (0, 0, 0));
        assert_eq!(ports[0].unread().count(), 0);
    }

    #[test]
    fn sizes_at_the_edges() {
        assert!(mesh::<()>(0, 1).is_empty());
        let mut alone = mesh(1, 1);
        assert_eq!(alone[0].send(CoreId(0), 1), Err(1));
        assert_eq!(alone[0].receive(9, |_, _| panic!("nobody sends")), 0);
        let mut nobody = Ports::alone(CoreId(3));
        assert_eq!((nobody.core(), nobody.cores(), nobody.send(CoreId(0), 1)), (CoreId(3), 0, Err(1)));
        assert_eq!(nobody.receive(9, |_, _| panic!("nobody sends")), 0);
        let mut many = mesh(300, 1);
        assert_eq!(many.len(), 256, "core ids are 8 bits");
        assert_eq!(many[255].send(CoreId(0), 7), Ok(()));
        assert_eq!(many[0].receive(1, |from, item| assert_eq!((from, item), (CoreId(255), 7))), 1);
    }

    #[test]
    fn of_a_burst_the_front_goes_and_the_rest_stays() {
        let mut ports = mesh(2, 3);
        let mut burst: Vec<Box<u32>> = (0..5).map(Box::new).collect();
        let mut front = burst.drain(..);
        assert_eq!(ports[0].send_burst(CoreId(0), &mut front), 0);
        assert_eq!(ports[0].send_burst(CoreId(2), &mut front), 0);
        assert_eq!(ports[0].send_burst(CoreId(1), &mut front), 3);
        assert_eq!(front.map(|item| *item).collect::<Vec<_>>(), [3, 4]);
        let mut got = Vec::new();
        assert_eq!(ports[1].receive(9, |from, item| got.push((from, *item))), 3);
        assert_eq!(got, [(CoreId(0), 0), (CoreId(0), 1), (CoreId(0), 2)]);
    }

    #[test]
    fn what_cores_write_to_lies_apart() {
        let ports = mesh::<u64>(3, 4);
        let padding = align_of::<CachePadded<Peer<u64>>>();
        assert!(padding >= 64, "{padding}");
        let lines = ports.iter().flat_map(|of| of.peers.iter().flatten().map(|peer| (of.core, peer)));
        let lines: Vec<_> =
            lines.map(|(core, peer)| (core, std::ptr::from_ref(peer).addr() / padding)).collect();
        let shared = |a: &(CoreId, usize)| lines.iter().any(|b| b.0 != a.0 && b.1 == a.1);
        assert!(!lines.iter().any(shared), "{lines:?}");
    }

    #[test]
    fn a_busy_sender_does_not_starve_the_others() {
        let mut ports = mesh(3, 64);
        for i in 0..64 {
            assert!(ports[1].send(CoreId(0), i).is_ok());
        }
        assert!(ports[2].send(CoreId(0), 1000).is_ok());
        let mut got = Vec::new();
        for _ in 0..2 {
            ports[0].receive(8, |from, _| got.push(from));
        }
        assert!(got.contains(&CoreId(2)), "{got:?}");
    }

    proptest! {
        #[test]
        fn order_budget_and_depth_hold(
            cores in 1_usize..5, depth in 1_usize..6,
            operations in prop::collection::vec((0_usize..5, 0_usize..5, 0_usize..8, any::<bool>()), 0..200),
        ) {
            let mut ports = mesh(cores, depth);
            let mut oracle = vec![vec![VecDeque::new(); cores]; cores];
            for (number, (from, to, budget, send)) in operations.into_iter().enumerate() {
                let (from, to) = (from % cores, to % cores);
                if send {
                    let queue = &mut oracle[from][to];
                    let fits = from != to && queue.len() < depth;
                    if fits {
                        queue.push_back(number);
                    }
                    let sent = ports[from].send(CoreId(u8::try_from(to).unwrap()), number);
                    prop_assert_eq!(sent, if fits { Ok(()) } else { Err(number) });
                } else {
                    let waiting: usize = oracle.iter().map(|row| row[to].len()).sum();
                    prop_assert_eq!(ports[to].waiting(), waiting);
                    let mut got = Vec::new();
                    let count = ports[to].receive(budget, |from, item| got.push((from, item)));
                    prop_assert_eq!((count, got.len()), (budget.min(waiting), count));
                    for (from, item) in got {
                        prop_assert_eq!(oracle[usize::from(from.0)][to].pop_front(), Some(item));
                    }
                }
            }
        }
    }
}

/// The mesh's protocol on the model of the queue.
#[cfg(loom)]
mod explored {
    use super::*;
    use loom::thread;

    #[test]
    fn loom_two_senders_lose_and_double_nothing() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let mut ports = mesh::<Box<u32>>(3, 1);
            let mut two = ports.pop().unwrap();
            let mut one = ports.pop().unwrap();
            let mut zero = ports.pop().unwrap();
            let first = thread::spawn(move || one.send(CoreId(0), Box::new(1)).is_ok() as usize);
            let second = thread::spawn(move || {
                (two.send(CoreId(0), Box::new(2)).is_ok() as usize)
                    + (two.send(CoreId(0), Box::new(3)).is_ok() as usize)
            });
            let mut got = Vec::new();
            let mut take = |from: CoreId, item: Box<u32>| got.push((from, *item));
            zero.receive(1, &mut take);
            let sent = first.join().unwrap() + second.join().unwrap();
            zero.receive(9, &mut take);
            assert_eq!(got.len(), sent, "{got:?}");
            assert!(got.iter().all(|&(from, item)| from == CoreId(if item == 1 { 1 } else { 2 })));
            let from_two: Vec<u32> =
                got.iter().filter(|(from, _)| *from == CoreId(2)).map(|&(_, i)| i).collect();
            assert!(from_two == [2] || from_two == [2, 3], "in order: {from_two:?}");
        });
    }
}
