//! What is asked of workers about single flows, from the API to the workers' queues and back.

use super::*;
use api::{DescribedFlow, FlowDump, ForgottenFlow, RestoredFlows, StoredFlow};
use flow::{Insert, State};
use std::collections::BTreeMap;
use wire::{Addr, Tuple};
use worker::capture::Tap;
use worker::commands::{
    Command, CommandOutcome, CommandQueue, DUMP_BUCKETS, DumpedFlow, DumpedFlows, FlowCommand,
    FlowDescription, ServiceFlow, TrackedFlow,
};

/// Commands that fit into a worker's queue.
pub(super) const DEPTH: usize = 8;

/// The part of a fake worker that answers, by its flow table alone.
pub(super) struct Answerer {
    pub(super) core: u8,
    pub(super) queue: CommandQueue,
    pub(super) tap: Option<Box<Tap>>,
    pub(super) tables: Rc<RefCell<Vec<Table>>>,
    pub(super) silent: Rc<RefCell<Vec<u8>>>,
    pub(super) now: Box<dyn Fn() -> Tick>,
}

/// Of a service with one address and port of IPv4, or of any other.
fn key_of(of: &ServiceFlow) -> FlowKey {
    match of.flow.src {
        Addr::V4(src) if of.flow.dport == 80 => FlowKey::narrow(src, of.flow.sport, of.service),
        _ => FlowKey::wide(&of.flow, of.service),
    }
}

impl Answerer {
    pub(super) fn turn(&mut self) {
        if self.silent.borrow().contains(&self.core) {
            return;
        }
        while let Some(request) = self.queue.take() {
            match request.command {
                Command::Flow(command) => {
                    let outcome = self.outcome(command);
                    self.queue.answer(request.number, outcome);
                }
                Command::Capture(tap) => {
                    let former = std::mem::replace(&mut self.tap, tap);
                    self.queue.answer_with(request.number, CommandOutcome::Tapped, former);
                }
            }
        }
    }

    fn outcome(&self, command: FlowCommand) -> CommandOutcome {
        let now = (self.now)();
        let mut tables = self.tables.borrow_mut();
        let table = &mut tables[usize::from(self.core)];
        let entry =
            |hit: flow::Hit| TrackedFlow { backend: hit.backend, state: hit.state, idle_us: hit.idle_us };
        match command {
            FlowCommand::Describe(of) => CommandOutcome::Described(FlowDescription {
                entry: table.get(&key_of(&of), now).map(entry),
                slot: 7,
                slot_backend: Some(BackendId(1)),
                is_tracked: true,
                is_tainted: true,
                base: Some(BackendId(0)),
                record: None,
            }),
            FlowCommand::Forget(of) => CommandOutcome::Forgotten(table.remove(&key_of(&of)).map(entry)),
            FlowCommand::Dump { from_bucket } => {
                let mut dumped = DumpedFlows::default();
                table.reader().dump(from_bucket, DUMP_BUCKETS, now, |key, hit| {
                    dumped.flows.push(DumpedFlow { key, entry: entry(hit) });
                });
                CommandOutcome::Dumped(dumped)
            }
            FlowCommand::Restore(of, entry) => {
                let key = key_of(&of);
                if table.get(&key, now).is_some() {
                    return CommandOutcome::Refused(worker::commands::CommandRefusal::Present);
                }
                let inserted = table.insert_idle(&key, entry.backend, entry.state, entry.idle_us, now);
                assert_eq!(inserted.unwrap().outcome, Insert::Done);
                CommandOutcome::Restored
            }
        }
    }
}

/// A service of any port beside the one there is.
fn with_any_port(place: &Path) -> String {
    config(place, 8080)
        + r#"
[[service]]
name = "games"
vip = "203.0.113.64/28"
port = 0
protocol = "udp"
mode = "ipip"
maglev_size = 251
[service.health]
kind = "none"
[[service.backend]]
name = "g1"
address = "10.9.0.13"
"#
}

impl Machine {
    async fn restore(&self, body: &str) -> Answer {
        let kind = "content-type: application/x-ndjson\r\n";
        self.send("POST", "/v1/flows/restore", kind, body.as_bytes()).await
    }

    /// All pieces of a dump, and how many there were.
    async fn dump(&self, query: &str) -> (Vec<StoredFlow>, usize) {
        let (mut flows, mut count, mut cursor) = (Vec::new(), 0, String::new());
        loop {
            let answer = self.get(&format!("/v1/flows/dump?cursor={cursor}{query}")).await;
            let piece: FlowDump = serde_json::from_str(&answer.body).unwrap();
            flows.extend(piece.flows);
            count += 1;
            match piece.next {
                Some(next) => cursor = next,
                None => return (flows, count),
            }
        }
    }

    async fn service_id(&self, name: &str) -> wire::ServiceId {
        let services = self.get("/v1/services").await.json();
        wire::ServiceId(u16::try_from(find(&services, name)["id"].as_u64().unwrap()).unwrap())
    }
}

fn lines(flows: &[StoredFlow]) -> String {
    flows.iter().map(|flow| serde_json::to_string(flow).unwrap() + "\n").collect()
}

fn by_client(flows: Vec<StoredFlow>) -> BTreeMap<String, StoredFlow> {
    flows.into_iter().map(|flow| (format!("{} {}", flow.client, flow.to), flow)).collect()
}

#[test]
fn flows_are_described_and_forgotten() {
    test("flow_commands::flows_are_described_and_forgotten", async |place| {
        let machine = Machine::start(place, &with_any_port(place));
        machine.until("/v1/status", |answer| answer.json()["generation_acknowledged"] != 0).await;
        let web = machine.service_id("web").await;
        let games = machine.service_id("games").await;
        let tuple = Tuple {
            src: Addr::V4(0xc633_6401),
            dst: Addr::V4(0xcb00_7145),
            sport: 4000,
            dport: 9,
            protocol: 17,
        };
        for (core, key, state) in [
            (1, FlowKey::narrow(0xc633_6401, 4000, web), State::TcpEstablished),
            (0, FlowKey::wide(&tuple, games), State::Udp),
        ] {
            let table = &mut machine.tables.borrow_mut()[core];
            assert_eq!(table.insert(&key, BackendId(1), state, Tick(1)).outcome, Insert::Done);
        }

        let answer = machine.get("/v1/flows/describe?service=web&client=198.51.100.1:4000").await;
        let described: DescribedFlow = serde_json::from_str(&answer.body).unwrap();
        assert_eq!((described.slot, described.tracked, described.tainted), (7, true, true));
        assert_eq!(described.to.to_string(), "203.0.113.10:80");
        assert_eq!((described.slot_backend.as_deref(), described.base.as_deref()), (Some("b2"), Some("b1")));
        let [entry] = &described.entries[..] else { panic!("{}", answer.body) };
        assert_eq!((entry.core, entry.backend.as_str(), entry.state.as_str()), (1, "b2", "tcp_established"));
        assert_eq!(entry.backend_address.unwrap().to_string(), "10.9.0.12");

        let games = "/v1/flows/describe?service=games&client=198.51.100.1:4000";
        let needed = machine.get(games).await;
        assert_eq!(needed.status, 400);
        assert!(needed.body.contains("to=ADDRESS:PORT"), "{}", needed.body);
        for (to, count) in [("203.0.113.69:9", 1), ("203.0.113.69:10", 0), ("203.0.113.70:9", 0)] {
            let answer = machine.get(&format!("{games}&to={to}")).await.json();
            assert_eq!(answer["entries"].as_array().map(Vec::len), Some(count), "{answer}");
        }
        for wrong in [
            format!("{games}&to=203.0.113.10:9"),
            format!("{games}&to=[2001:db8::1]:9"),
            "/v1/flows/describe?service=web&client=198.51.100.1:4000&to=203.0.113.10:81".to_owned(),
            "/v1/flows/describe?service=web&client=[2001:db8::1]:4000".to_owned(),
        ] {
            let answer = machine.get(&wrong).await;
            assert_eq!(answer.status, 400, "{wrong}: {}", answer.body);
            assert!(!answer.json()["help"].as_str().unwrap().is_empty());
        }

        let forget = "/v1/flows/forget?service=web&client=198.51.100.1:4000";
        for expected in [vec![1], vec![]] {
            let gone: ForgottenFlow = serde_json::from_str(&machine.post(forget, "").await.body).unwrap();
            assert_eq!(gone.forgotten.iter().map(|entry| entry.core).collect::<Vec<_>>(), expected);
        }
        assert!(machine.tables.borrow()[1].is_empty());
        let events = machine.events(0).await.events;
        let told: Vec<_> = events.iter().filter(|e| e.kind == api::EventKind::FlowForgotten).collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].message.contains("198.51.100.1:4000"), "{}", told[0].message);
        machine.stop().await;
    });
}

#[test]
fn a_dump_is_restored_and_bad_lines_are_named() {
    test("flow_commands::a_dump_is_restored_and_bad_lines_are_named", async |place| {
        let machine = Machine::start(place, &with_any_port(place));
        machine.until("/v1/status", |answer| answer.json()["generation_acknowledged"] != 0).await;
        let web = machine.service_id("web").await;
        for at in 0..300_u32 {
            let key = FlowKey::narrow(0xc633_6400 + at, 4000, web);
            let table = &mut machine.tables.borrow_mut()[usize::from(at % 3 == 0)];
            let inserted = table.insert(&key, BackendId(at % 2), State::TcpEstablished, Tick(1));
            assert_eq!(inserted.outcome, Insert::Done);
        }
        let (dumped, pieces) = machine.dump("").await;
        assert_eq!((dumped.len(), pieces), (300, 2), "one piece a worker");
        assert_eq!(machine.dump("&service=web").await.0.len(), 300);
        assert_eq!(machine.dump("&service=games").await.0.len(), 0);
        let before = by_client(dumped.clone());
        assert_eq!(before.len(), 300);
        for table in machine.tables.borrow_mut().iter_mut() {
            table.clear();
        }

        // In between, some lines that are none.
        let mut text = lines(&dumped[..100]) + "\nnonsense\n" + &lines(&dumped[100..]);
        text += &lines(&dumped[..1]);
        text += &lines(&[StoredFlow { service: "nothing".to_owned(), ..dumped[0].clone() }]);
        text += &lines(&[StoredFlow { backend: "#9".to_owned(), ..dumped[0].clone() }]);
        text += &lines(&[StoredFlow { state: "asleep".to_owned(), ..dumped[0].clone() }]);
        text += &lines(&[StoredFlow { to: "203.0.113.10:81".parse().unwrap(), ..dumped[0].clone() }]);
        let answer = machine.restore(&text).await;
        let restored: RestoredFlows = serde_json::from_str(&answer.body).unwrap();
        assert_eq!((restored.restored, restored.refused), (300, 6), "{}", answer.body);
        let reasons = ["column 2", "already", "`nothing`", "`#9`", "`asleep`", "203.0.113.10:81"];
        let numbers = [102, 303, 304, 305, 306, 307];
        for ((refused, line), reason) in restored.refusals.iter().zip(numbers).zip(reasons) {
            assert!(refused.line == line && refused.reason.contains(reason), "{refused:?} {line} {reason}");
        }
        let (again, _) = machine.dump("").await;
        let again = by_client(again);
        assert_eq!(again.len(), 300);
        for (client, flow) in &again {
            let was = &before[client];
            assert_eq!((flow.core, &flow.backend, &flow.state), (was.core, &was.backend, &was.state));
        }
        let events = machine.events(0).await.events;
        assert!(events.iter().any(|e| e.kind == api::EventKind::FlowsRestored), "{events:?}");

        assert_eq!(machine.restore("").await.json()["restored"], 0);
        assert_eq!(machine.restore(&"\n".repeat(api::RESTORE_LINES_MAX + 1)).await.status, 413);
        assert_eq!(machine.restore(&" ".repeat(api::RESTORE_BODY_MAX + 1)).await.status, 413);
        machine.stop().await;
    });
}

#[test]
fn a_worker_that_does_not_answer_is_named() {
    test("flow_commands::a_worker_that_does_not_answer_is_named", async |place| {
        let machine = Machine::start(place, &config(place, 8080));
        machine.until("/v1/status", |answer| answer.json()["generation_acknowledged"] != 0).await;
        machine.silent.borrow_mut().push(1);
        let describe = "/v1/flows/describe?service=web&client=198.51.100.1:4000";
        let begun = std::time::Instant::now();
        let silent = machine.get(describe).await;
        assert_eq!(silent.status, 503);
        assert!(silent.body.contains("worker 1 did not answer within 1 s"), "{}", silent.body);
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());

        // More than its queue takes: the next one hears so at once.
        let flow = StoredFlow {
            core: 1,
            service: "web".to_owned(),
            client: "198.51.100.1:4000".parse().unwrap(),
            to: "203.0.113.10:80".parse().unwrap(),
            backend: "b1".to_owned(),
            state: "tcp_established".to_owned(),
            idle_us: 0,
        };
        assert_eq!(machine.restore(&lines(&vec![flow; DEPTH])).await.status, 503);
        let begun = std::time::Instant::now();
        let full = machine.get(describe).await;
        assert_eq!(full.status, 503);
        assert!(full.body.contains("worker 1") && full.body.contains("try again"), "{}", full.body);
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());

        machine.silent.borrow_mut().clear();
        machine.until(describe, |answer| answer.status == 200).await;
        machine.stop().await;
    });
}
