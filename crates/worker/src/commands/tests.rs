#![cfg_attr(loom, allow(unused_imports))]
use super::*;

/// The n-th command of a test, whose answer names n, too.
fn dump_from(n: u64) -> FlowCommand {
    FlowCommand::Dump { from_bucket: usize::try_from(n).unwrap_or(usize::MAX) }
}

fn answer_to(n: u64) -> CommandOutcome {
    let next_bucket = usize::try_from(n).ok();
    CommandOutcome::Dumped(DumpedFlows { next_bucket, ..DumpedFlows::default() })
}

#[cfg(not(loom))]
mod sequential {
    use super::*;

    #[test]
    fn a_full_queue_refuses_and_answers_come_in_order() {
        let (mut commander, mut queue) = command_queue(3);
        assert!(queue.is_empty() && queue.take().is_none() && commander.collect().is_none());
        for n in 1..=3 {
            assert_eq!(commander.send(dump_from(n), Tick(9)), Ok(n));
        }
        assert_eq!(commander.send(dump_from(4), Tick(9)), Err(CommandsFull));
        for n in 1..=3 {
            let request = queue.take().unwrap();
            assert_eq!((request.number, request.until), (n, Tick(9)));
            assert!(matches!(request.command, Command::Flow(command) if command == dump_from(n)));
            queue.answer(n, answer_to(n));
        }
        // A refused one has used no number.
        assert_eq!(commander.send(dump_from(4), Tick(9)), Ok(4));
        for n in 1..=3 {
            let answer = commander.collect().unwrap();
            assert_eq!((answer.number, answer.outcome), (n, answer_to(n)));
        }
        assert!(commander.collect().is_none());
    }

    #[test]
    fn nothing_is_taken_whose_answer_has_no_room() {
        let (mut commander, mut queue) = command_queue(1);
        assert_eq!(commander.send(dump_from(1), Tick(9)), Ok(1));
        let first = queue.take().unwrap();
        queue.answer(first.number, answer_to(1));
        assert_eq!(commander.send(dump_from(2), Tick(9)), Ok(2));
        assert!(!queue.is_empty() && queue.take().is_none(), "the answer before was not collected");
        assert!(commander.collect().is_some());
        assert_eq!(queue.take().unwrap().number, 2);
    }

    #[test]
    fn buckets_have_no_more_entries_than_an_answer_has_room_for() {
        let table = flow::Table::new(
            flow::Memory::Shared((0..2).map(|_| flow::NarrowBucket::default()).collect()),
            flow::Memory::Shared((0..2).map(|_| flow::WideBucket::default()).collect()),
            1,
            flow::Idle {
                tcp_established_us: 9_000_000,
                tcp_closing_us: 9_000_000,
                syn_us: 9_000_000,
                udp_us: 9_000_000,
            },
            100,
        );
        let mut table = table.unwrap();
        for source in 0..1000 {
            let key = FlowKey::narrow(source, 4000, ServiceId(1));
            table.insert(&key, BackendId(1), State::Udp, Tick(1));
        }
        let mut most = 0;
        table.reader().dump(0, 2, Tick(1), |_, _| most += 1);
        assert!(most > 5 && most / 2 * DUMP_BUCKETS <= DUMPED_MAX, "{most} in two buckets");
    }
}

/// On the model of the queue: whatever was taken is answered once and in order, and nothing is taken twice or lost.
#[cfg(loom)]
mod explored {
    use super::*;
    use loom::thread;

    fn serve(queue: &mut CommandQueue, taken: &mut u64) {
        if queue.is_empty() {
            return;
        }
        if let Some(request) = queue.take() {
            *taken += 1;
            assert_eq!(request.number, *taken);
            assert!(matches!(request.command, Command::Flow(command) if command == dump_from(*taken)));
            queue.answer(request.number, answer_to(*taken));
        }
    }

    fn hear(commander: &mut Commander, heard: &mut u64) {
        if let Some(answer) = commander.collect() {
            *heard += 1;
            assert_eq!((answer.number, answer.outcome), (*heard, answer_to(*heard)));
        }
    }

    #[test]
    fn loom_a_command_that_is_taken_is_answered_once_and_in_order() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            // Fewer places than commands, so that slots are used again, and answers may find no room.
            let (mut commander, mut queue) = command_queue(1);
            let worker = thread::spawn(move || {
                let mut taken = 0;
                for _ in 0..2 {
                    serve(&mut queue, &mut taken);
                }
                (queue, taken)
            });
            let (mut sent, mut heard) = (0, 0);
            for _ in 0..2 {
                if commander.send(dump_from(sent + 1), Tick(9)).is_ok() {
                    sent += 1;
                }
                hear(&mut commander, &mut heard);
            }
            let Ok((mut queue, mut taken)) = worker.join() else { unreachable!("the worker ends") };
            for _ in 0..2 {
                hear(&mut commander, &mut heard);
                assert_eq!(heard, taken, "what was taken is answered");
                serve(&mut queue, &mut taken);
            }
            assert_eq!(taken, sent, "what was sent is taken");
        });
    }
}
