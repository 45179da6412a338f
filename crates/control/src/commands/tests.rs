use super::*;
use flow::{Idle, Memory, Table};
use std::sync::Arc;
use worker::Counters;
use worker::capture::{CaptureFilter, tap};
use worker::commands::{CommandQueue, CommandRequest, DumpedFlows, FlowCommand, command_queue};
use worker::view::mailbox::mailbox;

/// Commands that fit into a queue.
const DEPTH: usize = 4;

/// A worker as control sees it, and its end of the queue.
fn worker(core: u8) -> (WorkerHandle, CommandQueue) {
    let idle = Idle {
        tcp_established_us: 1_800_000_000,
        tcp_closing_us: 30_000_000,
        syn_us: 30_000_000,
        udp_us: 60_000_000,
    };
    let table = Table::new(Memory::heap(64), Memory::heap(64), 1, idle, 50).unwrap();
    let (commander, queue) = command_queue(DEPTH);
    let handle = WorkerHandle {
        core: CoreId(core),
        cpu: u16::from(core),
        publisher: mailbox(1).0,
        counters: Arc::new(Counters::new(1, 1, 1)),
        flows: table.reader(),
        reports: None,
        commands: Some(commander),
    };
    (handle, queue)
}

fn workers(count: u8) -> (Vec<WorkerHandle>, Vec<CommandQueue>) {
    (0..count).map(worker).unzip()
}

fn dump(from_bucket: usize) -> Command {
    FlowCommand::Dump { from_bucket }.into()
}

fn capture() -> Command {
    Command::Capture(Some(tap(CaptureFilter::default(), 1, 64).0))
}

/// Says which bucket was asked for.
fn echo(request: &CommandRequest) -> CommandOutcome {
    let Command::Flow(FlowCommand::Dump { from_bucket }) = request.command else { panic!("{request:?}") };
    CommandOutcome::Dumped(DumpedFlows { next_bucket: Some(from_bucket), ..DumpedFlows::default() })
}

fn serve(queue: &mut CommandQueue) -> usize {
    let mut count = 0;
    while let Some(request) = queue.take() {
        assert_eq!(request.until, Tick(7_000_000 + 1_000_000));
        queue.answer(request.number, echo(&request));
        count += 1;
    }
    count
}

const NOW: Tick = Tick(7_000_000);

#[test]
fn everyone_is_asked_and_answers_stand_in_the_order_of_the_commands() {
    let (mut handles, mut queues) = workers(3);
    // More than fit at once, for two of three.
    let commands = (0..11).map(|at| (if at % 3 == 0 { 2 } else { 0 }, dump(at)));
    let mut exchange = CommandExchange::new(commands);
    let mut rounds = 0;
    while exchange.advance(&mut handles, NOW) == Ok(false) {
        assert!(queues[1].take().is_none());
        assert!(serve(&mut queues[0]) <= DEPTH && serve(&mut queues[2]) <= DEPTH);
        rounds += 1;
        assert!(rounds < 9);
    }
    assert_eq!(rounds, 2, "seven by fours");
    let outcomes = exchange.outcomes();
    assert_eq!(outcomes.len(), 11);
    for (at, outcome) in outcomes.into_iter().enumerate() {
        let Some(CommandOutcome::Dumped(of)) = outcome else { panic!("{outcome:?}") };
        assert_eq!(of.next_bucket, Some(at));
    }
    assert_eq!(CommandExchange::new([]).advance(&mut handles, NOW), Ok(true), "nothing is done at once");
}

#[test]
fn what_others_did_not_wait_for_is_no_answer() {
    let (mut handles, mut queues) = workers(1);
    let mut given_up = CommandExchange::new([(0, dump(1)), (0, dump(2))]);
    assert_eq!(given_up.advance(&mut handles, NOW), Ok(false));
    drop(given_up);
    let mut exchange = CommandExchange::new([(0, dump(3))]);
    assert_eq!(exchange.advance(&mut handles, NOW), Ok(false));
    assert_eq!(serve(&mut queues[0]), 3);
    assert_eq!(exchange.advance(&mut handles, NOW), Ok(true));
    let Some(CommandOutcome::Dumped(of)) = &exchange.outcomes()[0] else { panic!("no answer") };
    assert_eq!(of.next_bucket, Some(3));
}

#[test]
fn who_does_not_answer_is_named() {
    let (mut handles, mut queues) = workers(2);
    let begun = Instant::now();
    let mut exchange = CommandExchange::new([(0, dump(1)), (1, dump(1))]);
    let why = loop {
        match exchange.advance(&mut handles, NOW) {
            Ok(is_done) => assert!(!is_done),
            Err(why) => break why,
        }
        serve(&mut queues[0]);
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(why, NoAnswer::Silent(CoreId(1)));
    assert!(begun.elapsed() > ANSWER_WITHIN && begun.elapsed() < 4 * ANSWER_WITHIN);

    // It holds the others up no more than until its queue is full.
    let mut full = (0..DEPTH).map(|_| CommandExchange::new([(1, dump(1))]).advance(&mut handles, NOW));
    assert!(full.any(|advanced| advanced == Err(NoAnswer::Full(CoreId(1)))));
    serve(&mut queues[1]);
    let mut exchange = CommandExchange::new([(1, dump(9))]);
    assert_eq!(exchange.advance(&mut handles, NOW), Ok(false), "there is room again");

    handles[0].commands = None;
    let mut exchange = CommandExchange::new([(0, dump(1))]);
    assert_eq!(exchange.advance(&mut handles, NOW), Err(NoAnswer::Deaf(CoreId(0))));
}

#[test]
fn a_tap_waits_for_room_and_its_former_is_freed() {
    let (mut handles, mut queues) = workers(1);
    let mut exchange = CommandExchange::new((0..=DEPTH).map(|at| (0, dump(at))).chain([(0, capture())]));
    assert_eq!(exchange.advance(&mut handles, NOW), Ok(false));
    assert_eq!(serve(&mut queues[0]), DEPTH);
    assert_eq!(exchange.advance(&mut handles, NOW), Ok(false));
    let dumped = queues[0].take().unwrap();
    queues[0].answer(dumped.number, echo(&dumped));
    let request = queues[0].take().unwrap();
    let Command::Capture(Some(tap)) = request.command else { panic!("{request:?}") };
    queues[0].answer_with(request.number, CommandOutcome::Tapped, Some(tap));
    assert_eq!(exchange.advance(&mut handles, NOW), Ok(true));
    assert_eq!(exchange.outcomes().pop(), Some(Some(CommandOutcome::Tapped)));
}
