//! The management core as a whole, with workers that only take views, and real servers to check.

use super::*;
use crate::gauges::DeviceStats;
use crate::plane::{Notice, PortHandle, WorkerHandle};
use crate::test_network::in_own_network;
use flow::{Idle, Memory, Table};
use model::api;
use serde_json::Value;
use statesync::plan::Report;
use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use tokio::task::LocalSet;
use wire::{BackendId, CoreId, FlowKey, PortId, Tick};
use worker::view::mailbox::{Inbox, mailbox};
use worker::view::{BACKENDS_MAX, BackendState, SERVICES_MAX};
use worker::{Counters, View};

mod agents;
mod balance;
mod capture;
mod flow_commands;
mod large;
mod passive;
mod path_mtu;
mod revisions;
mod services;

const SETUP: &str = "ip address add 10.9.0.1/24 dev lo";

/// A configuration of two backends, checked over TCP at `port`.
fn config(place: &Path, port: u16) -> String {
    format!(
        r#"[machine]
name = "test"
address = "10.9.0.1"
next_hop_mac = "02:00:00:00:00:01"
cluster_key = "7d0c3a9be1d24776a8b9c0d1e2f30415"
state_dir = "{state}"
[api]
socket = "{socket}"
[workers]
cpus = [1]
flows = 4096
[[port]]
name = "data0"
device = "net_null0"
[[service]]
name = "web"
vip = "203.0.113.10"
port = 80
protocol = "tcp"
mode = "ipip"
maglev_size = 251
drain_timeout_ms = 60000
[service.health]
kind = "tcp"
port = {port}
via = "lo"
interval_ms = 200
timeout_ms = 200
fall = 3
rise = 2
[[service.backend]]
name = "b1"
address = "10.9.0.11"
[[service.backend]]
name = "b2"
address = "10.9.0.12"
"#,
        state = place.join("state").display(),
        socket = place.join("api.sock").display(),
    )
}

/// A worker that takes views and commands and does nothing else.
struct FakeWorker {
    inbox: Inbox<View>,
    commands: flow_commands::Answerer,
    reports: statesync::spsc::Sender<Report>,
    counters: Arc<Counters>,
    seen: Rc<RefCell<Option<Arc<View>>>>,
}

/// What a worker of a test is made of.
struct WorkerParts {
    core: u8,
    inbox: Inbox<View>,
    queue: worker::commands::CommandQueue,
    reports: statesync::spsc::Sender<Report>,
    counters: Arc<Counters>,
    seen: Rc<RefCell<Option<Arc<View>>>>,
    tables: Rc<RefCell<Vec<Table>>>,
    silent: Rc<RefCell<Vec<u8>>>,
    now: Box<dyn Fn() -> Tick>,
}

impl FakeWorker {
    fn of(parts: WorkerParts) -> FakeWorker {
        let WorkerParts { core, inbox, queue, reports, counters, seen, tables, silent, now } = parts;
        let commands = flow_commands::Answerer { core, queue, tap: None, tables, silent, now };
        FakeWorker { inbox, commands, reports, counters, seen }
    }

    fn turn(&mut self) {
        self.counters.totals.turns.add(1);
        self.commands.turn();
        if let Some(view) = self.inbox.newest() {
            self.counters.totals.generation.set(view.generation);
            // In a cluster it has no flow to tell of.
            if let Some(step) = view.cluster.as_ref().map(|cluster| cluster.step).filter(|step| *step > 0) {
                let _ = self.reports.push(Report::Done { step, incomplete: false });
            }
            if let Some(old) = self.seen.borrow_mut().replace(view) {
                self.inbox.give_back(old).unwrap();
            }
        }
    }
}

/// A running management core.
struct Machine {
    place: std::path::PathBuf,
    commands: mpsc::Sender<SignalCommand>,
    done: tokio::task::JoinHandle<Result<(), RunError>>,
    workers: Vec<tokio::task::JoinHandle<()>>,
    seen: Vec<Rc<RefCell<Option<Arc<View>>>>>,
    counters: Vec<Arc<Counters>>,
    tables: Rc<RefCell<Vec<Table>>>,
    /// Workers that answer no command.
    silent: Rc<RefCell<Vec<u8>>>,
    notices: Rc<RefCell<Vec<Notice>>>,
    telemetry: Rc<RefCell<Vec<(String, String)>>>,
    link: Rc<Cell<bool>>,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

async fn exchange_bytes<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    stream: &mut S,
    request: &str,
    body: &[u8],
) -> Vec<u8> {
    let mut bytes = request.as_bytes().to_vec();
    bytes.extend_from_slice(body);
    // A server that refuses early may close before it has read everything.
    let _ = stream.write_all(&bytes).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

async fn exchange<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    mut stream: S,
    request: &str,
    body: &[u8],
) -> Answer {
    let answer = exchange_bytes(&mut stream, request, body).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

impl Machine {
    /// Starts with two workers on what `place/config.toml` says.
    fn start(place: &Path, text: &str) -> Machine {
        let path = place.join("config.toml");
        std::fs::write(&path, text).unwrap();
        let loaded =
            model::load("config.toml", text).unwrap_or_else(|report| panic!("{}", report.to_plain()));
        Machine::start_loaded(place, loaded)
    }

    fn start_loaded(place: &Path, loaded: Loaded) -> Machine {
        Machine::start_with(place, loaded, |worker| {
            let mut worker = FakeWorker::of(worker);
            move || worker.turn()
        })
    }

    /// Starts with workers of which each is a closure that takes a turn.
    fn start_with<T: FnMut() + 'static>(
        place: &Path,
        loaded: Loaded,
        mut worker_of: impl FnMut(WorkerParts) -> T,
    ) -> Machine {
        let origin = std::time::Instant::now();
        let now = move || Tick(u64::try_from(origin.elapsed().as_micros()).unwrap());
        let (mut handles, mut tasks, mut seen, mut all) = (vec![], vec![], vec![], vec![]);
        let (tables, silent) = (Rc::<RefCell<Vec<Table>>>::default(), Rc::<RefCell<Vec<u8>>>::default());
        for core in 0..2 {
            let (publisher, inbox) = mailbox(2);
            let (commander, queue) = worker::commands::command_queue(flow_commands::DEPTH);
            let counters = Arc::new(Counters::new(SERVICES_MAX + 1, BACKENDS_MAX, 4));
            let idle = Idle {
                tcp_established_us: 1_800_000_000,
                tcp_closing_us: 30_000_000,
                syn_us: 30_000_000,
                udp_us: 60_000_000,
            };
            let table = Table::new(Memory::heap(1000), Memory::heap(1000), 1, idle, 50).unwrap();
            let (reports, reported) = statesync::spsc::channel(64);
            handles.push(WorkerHandle {
                reports: Some(reported),
                core: CoreId(core),
                cpu: u16::from(core) + 1,
                publisher,
                counters: counters.clone(),
                flows: table.reader(),
                commands: Some(commander),
            });
            tables.borrow_mut().push(table);
            let view = Rc::new(RefCell::new(None));
            let mut turn = worker_of(WorkerParts {
                core,
                inbox,
                queue,
                reports,
                counters: counters.clone(),
                seen: view.clone(),
                tables: tables.clone(),
                silent: silent.clone(),
                now: Box::new(now),
            });
            tasks.push(tokio::task::spawn_local(async move {
                loop {
                    turn();
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }));
            seen.push(view);
            all.push(counters);
        }
        let link = Rc::new(Cell::new(true));
        let has_link = link.clone();
        let port = PortHandle {
            id: PortId(0),
            name: "data0".to_owned(),
            device: "net_null0".to_owned(),
            mac: [2, 0, 0, 0, 0, 0x10],
            mtu: 1500,
            driver: "net_null".to_owned(),
            exception: None,
            stats: Box::new(|| DeviceStats { rx: 5, missed: 1, ..DeviceStats::default() }),
            kernel: None,
            link_up: Box::new(move || has_link.get()),
        };
        let telemetry = Rc::new(RefCell::new(Vec::new()));
        let heard = telemetry.clone();
        let plane = Plane {
            workers: handles,
            flow_secrets: vec![11, 12],
            ports: vec![port],
            now: Box::new(now),
            memory_bytes: vec![("flow tables".to_owned(), 4096)],
            renew: None,
            telemetry: Some(Box::new(move |command: &str, json: String| {
                heard.borrow_mut().push((command.to_owned(), json));
            })),
        };
        let notices = Rc::new(RefCell::new(Vec::new()));
        let told = notices.clone();
        let options = RunOptions {
            grace: Duration::from_millis(100),
            notify: Some(Box::new(move |notice| told.borrow_mut().push(notice))),
            ..RunOptions::new(place.join("config.toml"))
        };
        let (commands, orders) = mpsc::channel(4);
        let done =
            tokio::task::spawn_local(
                async move { start::start(options, &loaded, plane, orders)?.run().await },
            );
        Machine {
            place: place.to_owned(),
            commands,
            done,
            workers: tasks,
            seen,
            counters: all,
            tables,
            silent,
            notices,
            telemetry,
            link,
        }
    }

    async fn connect(&self) -> UnixStream {
        for _ in 0..500 {
            if let Ok(stream) = UnixStream::connect(self.place.join("api.sock")).await {
                return stream;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the API does not come up");
    }

    async fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
        );
        exchange(self.connect().await, &request, body).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "", b"").await
    }

    async fn post(&self, path: &str, body: &str) -> Answer {
        self.send("POST", path, "content-type: application/toml\r\n", body.as_bytes()).await
    }

    /// Asks again until `satisfied`, for up to 10 s.
    async fn until(&self, path: &str, satisfied: impl Fn(&Answer) -> bool) -> Answer {
        for _ in 0..1000 {
            let answer = self.get(path).await;
            if satisfied(&answer) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let answer = self.get(path).await;
        panic!("{path} stays {} {}", answer.status, answer.body);
    }

    async fn until_notice(&self, notice: Notice) {
        for _ in 0..1000 {
            if self.notices.borrow().contains(&notice) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{notice:?} does not come after {:?}", self.notices.borrow());
    }

    async fn until_state(&self, backend: &str, state: &str) -> Value {
        let answer =
            self.until("/v1/backends", |answer| find(&answer.json(), backend)["state"] == state).await;
        find(&answer.json(), backend).clone()
    }

    /// States in the view that worker 0 uses.
    fn view_states(&self) -> Vec<(BackendId, BackendState)> {
        let seen = self.seen[0].borrow();
        seen.as_ref().unwrap().backends.iter().flatten().map(|b| (b.id, b.state)).collect()
    }

    async fn events(&self, after: u64) -> api::Events {
        serde_json::from_str(&self.get(&format!("/v1/events?after={after}")).await.body).unwrap()
    }

    /// Stops it as SIGTERM does.
    async fn stop(self) {
        self.commands.send(SignalCommand::Stop).await.unwrap();
        tokio::time::timeout(Duration::from_secs(10), self.done).await.unwrap().unwrap().unwrap();
        for worker in self.workers {
            worker.abort();
        }
        assert_eq!(self.notices.borrow().last(), Some(&Notice::Stopping));
    }
}

/// The entry of this name.
fn find<'a>(list: &'a Value, name: &str) -> &'a Value {
    list.as_array().unwrap().iter().find(|entry| entry["name"] == name).unwrap_or(&Value::Null)
}

/// A server that accepts and closes.
async fn serve(address: &str) -> tokio::task::JoinHandle<()> {
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::task::spawn_local(async move { while listener.accept().await.is_ok() {} })
}

fn test(name: &str, body: impl AsyncFnOnce(&Path)) {
    in_own_network(&format!("run::tests::{name}"), SETUP, || {
        let place = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, body(place.path()));
    });
}

#[test]
fn health_decides_who_takes_flows() {
    test("health_decides_who_takes_flows", async |place| {
        let one = serve("10.9.0.11:8080").await;
        let machine = Machine::start(place, &config(place, 8080));
        // b2 does not listen: refused, but not more than half of the service.
        machine.until_state("b1", "up").await;
        let b2 =
            machine.until("/v1/backends", |a| find(&a.json(), "b2")["health"]["up"] == false).await.json();
        let b2 = find(&b2, "b2");
        assert_eq!((&b2["state"], &b2["word"]), (&"down".into(), &"health".into()));
        assert_eq!(b2["health"]["last"]["reason"], "refused");
        assert_eq!(b2["next_hop"], "02:00:00:00:00:01");
        let ready = machine.until("/v1/ready", |answer| answer.status == 200).await;
        assert_eq!(ready.json()["ready"], true);
        assert_eq!(
            machine.view_states(),
            [(BackendId(0), BackendState::Up), (BackendId(1), BackendState::Down)]
        );

        let two = serve("10.9.0.12:8080").await;
        machine.until_state("b2", "up").await;
        // Both gone: nobody is left to whom flows could go.
        one.abort();
        two.abort();
        let services =
            machine.until("/v1/services", |answer| answer.json()[0]["state"] == "empty").await.json();
        assert_eq!(services[0]["backends_up"], 0);
        let ready = machine.until("/v1/ready", |answer| answer.status == 503).await.json();
        assert_eq!(ready["reason"], "0 of 1 services have a usable backend");
        // One is back, which is more than it can bear: health is disregarded.
        let _one = serve("10.9.0.11:8080").await;
        let text = config(place, 8080).replace("maglev_size = 251", "maglev_size = 251\npanic_percent = 40");
        assert_eq!(machine.post("/v1/apply", &text).await.status, 200);
        let services =
            machine.until("/v1/services", |answer| answer.json()[0]["state"] == "panic").await.json();
        assert_eq!(services[0]["backends_up"], 2);
        assert_eq!(machine.until_state("b2", "up").await["word"], "panic");
        machine.until("/v1/ready", |answer| answer.status == 200).await;
        let kinds: Vec<_> = machine.events(0).await.events.into_iter().map(|e| e.kind).collect();
        for kind in [
            api::EventKind::BackendUp,
            api::EventKind::BackendDown,
            api::EventKind::ServiceEmpty,
            api::EventKind::PanicOn,
        ] {
            assert!(kinds.contains(&kind), "{kinds:?}");
        }
        machine.stop().await;
    });
}

#[test]
fn a_service_whose_backends_have_no_next_hop_is_not_ready() {
    test("a_service_whose_backends_have_no_next_hop_is_not_ready", async |place| {
        let _servers = (serve("10.9.0.11:8080").await, serve("10.9.0.12:8080").await);
        let text = config(place, 8080);
        // Neighbours are to be asked of an interface that is not there.
        let cut_off = text
            .replace("next_hop_mac = \"02:00:00:00:00:01\"\n", "")
            .replace("device = \"net_null0\"", "device = \"net_null0\"\nexception = \"gw0\"");
        let machine = Machine::start(place, &cut_off);
        machine.until("/v1/backends", |a| find(&a.json(), "b2")["health"]["up"] == true).await;
        machine.until("/v1/backends", |a| find(&a.json(), "b1")["health"]["up"] == true).await;
        let ready = machine.get("/v1/ready").await;
        assert_eq!(ready.status, 503, "{}", ready.body);
        let services = machine.get("/v1/services").await.json();
        assert_eq!(services[0]["state"], "empty", "{services}");
        machine.stop().await;
    });
}

#[test]
fn not_ready_until_a_first_check_has_passed() {
    test("not_ready_until_a_first_check_has_passed", async |place| {
        let text = config(place, 8080).replace("fall = 3", "fall = 100");
        let machine = Machine::start(place, &text);
        machine.until("/v1/status", |answer| answer.json()["generation_acknowledged"] == 1).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let ready = machine.get("/v1/ready").await;
        assert_eq!((ready.status, ready.json()["ready"].clone()), (503, Value::Bool(false)));
        assert_eq!(machine.get("/v1/services").await.json()[0]["state"], "empty", "unknown is no panic");
        let _server = serve("10.9.0.11:8080").await;
        machine.until("/v1/ready", |answer| answer.status == 200).await;
        machine.stop().await;
    });
}

#[test]
fn good_and_bad_configurations() {
    test("good_and_bad_configurations", async |place| {
        let _servers =
            (serve("10.9.0.11:8080").await, serve("10.9.0.12:8080").await, serve("10.9.0.13:8080").await);
        let text = config(place, 8080);
        let machine = Machine::start(place, &text);
        machine.until_state("b2", "up").await;
        assert_eq!(
            machine.get("/v1/config").await.body,
            text.replace("7d0c3a9be1d24776a8b9c0d1e2f30415", "********")
        );
        let before = machine.get("/v1/status").await.json();

        let bad =
            text.replace("name = \"b2\"\naddress = \"10.9.0.12\"", "name = \"b2\"\naddress = \"10.9.0.300\"");
        for path in ["/v1/apply?wait=true", "/v1/check", "/v1/plan"] {
            let refused = machine.post(path, &bad).await;
            assert_eq!(refused.status, 422, "{}", refused.body);
            let body: api::ErrorBody = serde_json::from_str(&refused.body).unwrap();
            let line = bad.lines().position(|line| line.contains("10.9.0.300")).unwrap() + 1;
            assert_eq!((body.diagnostics[0].line, body.diagnostics[0].column > 1), (line, true));
            assert!(!body.diagnostics[0].help.is_empty() && !body.help.is_empty());
        }
        let port = text.replace("device = \"net_null0\"", "device = \"net_null1\"");
        let conflict = machine.post("/v1/apply", &port).await;
        assert_eq!(conflict.status, 409, "{}", conflict.body);
        assert!(conflict.json()["error"].as_str().unwrap().contains("device"), "{}", conflict.body);
        let checked: api::CheckedConfig =
            serde_json::from_str(&machine.post("/v1/check", &port).await.body).unwrap();
        assert_eq!((checked.services, checked.backends, checked.restart_keys.len()), (1, 2, 1));
        let after = machine.get("/v1/status").await.json();
        assert_eq!(after["applied_unix_ms"], before["applied_unix_ms"], "nothing was applied");
        assert_eq!(
            machine.get("/v1/config").await.body,
            text.replace("7d0c3a9be1d24776a8b9c0d1e2f30415", "********")
        );

        let third =
            format!("{text}[[service.backend]]\nname = \"b3\"\naddress = \"10.9.0.13\"\nweight = 3\n");
        let planned = machine.post("/v1/plan", &third).await;
        assert_eq!(planned.status, 200, "{}", planned.body);
        assert!(planned.body.contains("b3"), "{}", planned.body);
        let applied = machine.post("/v1/apply?wait=true&timeout_ms=5000", &third).await;
        let applied: api::ApplyResult = serde_json::from_str(&applied.body).unwrap();
        assert!(applied.acknowledged && applied.generation > before["generation"].as_u64().unwrap());
        for seen in &machine.seen {
            assert!(seen.borrow().as_ref().unwrap().generation >= applied.generation);
        }
        machine.until_state("b3", "up").await;
        let status = machine.get("/v1/status").await.json();
        assert_eq!((&status["config_is_file"], &status["backends"]), (&false.into(), &3.into()));

        // The file again, as SIGHUP does; then by the API, then unreadable.
        machine.commands.send(SignalCommand::Reload).await.unwrap();
        machine.until("/v1/status", |answer| answer.json()["config_is_file"] == true).await;
        // It is applied before the service manager is told.
        machine.until_notice(Notice::Reloaded).await;
        assert!(machine.notices.borrow().contains(&Notice::Reloading));
        assert_eq!(machine.post("/v1/reload?wait=true", "").await.status, 200);
        std::fs::remove_file(place.join("config.toml")).unwrap();
        let unreadable = machine.post("/v1/reload", "").await;
        assert_eq!(unreadable.status, 500);
        assert!(unreadable.json()["error"].as_str().unwrap().contains("config.toml"));
        let events = machine.events(0).await;
        let count = |kind| events.events.iter().filter(|e| e.kind == kind).count();
        assert_eq!(count(api::EventKind::Apply), 3);
        assert_eq!(count(api::EventKind::Refused), 3, "422, 409 and the unreadable file");
        machine.stop().await;
    });
}

#[test]
fn bad_requests_are_answered_in_kind() {
    test("bad_requests_are_answered_in_kind", async |place| {
        let machine = Machine::start(place, &config(place, 8080));
        let before = machine.get("/v1/status").await.json();
        let mut cases = vec![
            (machine.get("/v1/nothing").await, 404),
            (machine.get("/").await, 404),
            (machine.get("/v1/apply").await, 405),
            (machine.post("/v1/status", "").await, 405),
            (machine.get("/v1/flows?limit=0").await, 400),
            (machine.get("/v1/flows?limit=many").await, 400),
            (machine.get("/v1/flows?colour=red").await, 400),
            (machine.get("/v1/flows?client=10.0.0.300").await, 400),
            (machine.get("/v1/flows?service=nothing").await, 404),
            (machine.get("/v1/flows/describe").await, 400),
            (machine.get("/v1/flows/describe?service=web&client=10.0.0.3").await, 400),
            (machine.get("/v1/flows/describe?service=nothing&client=10.0.0.3:1").await, 404),
            (machine.get("/v1/flows/forget?service=web&client=10.0.0.3:1").await, 405),
            (machine.post("/v1/flows/forget?service=web&client=10.0.0.3:1&colour=red", "").await, 400),
            (machine.get("/v1/flows/dump?cursor=x").await, 400),
            (machine.get("/v1/flows/dump?cursor=9.0").await, 400),
            (machine.get("/v1/flows/dump?service=nothing").await, 404),
            (machine.post("/v1/flows/restore", "").await, 415),
            (machine.get("/v1/backends?service=nothing").await, 404),
            (machine.get("/v1/registrations?service=nothing").await, 404),
            (machine.get("/v1/backends?colour=red").await, 400),
            (machine.get("/v1/services?service=web").await, 400),
            (machine.post("/v1/services/web/backends/b1/drain?wait=true", "").await, 400),
            (machine.get("/v1/events?wait_ms=99999999").await, 400),
            (machine.post("/v1/apply?wait=perhaps", "").await, 400),
            (machine.post("/v1/apply?timeout_ms=99999999", "").await, 400),
            (machine.post("/v1/apply", "").await, 422),
            (machine.post("/v1/apply", "[[[").await, 422),
            (machine.post("/v1/services/none/backends/b1/drain", "").await, 404),
            (machine.post("/v1/services/web/backends/none/drain", "").await, 404),
            (machine.post("/v1/services/web/backends/%ff/drain", "").await, 400),
            (machine.send("POST", "/v1/apply", "", b"\xff\xfe").await, 400),
            (machine.send("POST", "/v1/apply", "content-type: application/json\r\n", b"{}").await, 415),
        ];
        let large = vec![b'#'; api::BODY_MAX + 1];
        cases.push((machine.send("POST", "/v1/check", "", &large).await, 413));
        let chunked =
            "POST /v1/check HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
        let mut body = format!("{:x}\r\n", large.len()).into_bytes();
        body.extend_from_slice(&large);
        body.extend_from_slice(b"\r\n0\r\n\r\n");
        cases.push((exchange(machine.connect().await, chunked, &body).await, 413));
        for (at, (answer, status)) in cases.iter().enumerate() {
            assert_eq!(answer.status, *status, "case {at}: {}", answer.body);
            let body: api::ErrorBody = serde_json::from_str(&answer.body).unwrap();
            assert!(!body.error.is_empty() && !body.help.is_empty(), "case {at}: {}", answer.body);
        }
        for (answer, methods) in [(&cases[2].0, "POST"), (&cases[3].0, "GET,HEAD")] {
            assert!(answer.head.contains(&format!("llow: {methods}")), "{}", answer.head);
            assert_eq!(answer.json()["help"], format!("allowed: {methods}"));
        }
        assert_eq!(machine.get("/v1/backends?service=web").await.json().as_array().unwrap().len(), 2);
        assert_eq!(machine.get("/metrics?collect=all").await.status, 200);
        let status = machine.get("/v1/status").await.json();
        assert_eq!(status["applied_unix_ms"], before["applied_unix_ms"], "nothing was applied");
        assert_eq!(status["config_is_file"], true);

        let document = machine.get("/v1/openapi.json").await.json();
        for path in document["paths"].as_object().unwrap().keys() {
            let path = path.replace("{service}", "web").replace("{backend}", "b1");
            let answer = machine.get(&path).await;
            assert_ne!(answer.status, 404, "{path} is described and missing");
        }
        machine.stop().await;
    });
}

#[test]
fn drains_removals_and_restarts() {
    test("drains_removals_and_restarts", async |place| {
        let _servers = (serve("10.9.0.11:8080").await, serve("10.9.0.12:8080").await);
        let text = config(place, 8080);
        let machine = Machine::start(place, &text);
        machine.until_state("b2", "up").await;
        machine.until_state("b1", "up").await;
        let drained = machine.post("/v1/services/web/backends/b2/drain", "").await;
        let drained: api::DrainResult = serde_json::from_str(&drained.body).unwrap();
        assert!(drained.drained && drained.changed);
        assert_eq!(drained.backends_up, 1);
        let b2 = machine.until_state("b2", "drain").await;
        assert_eq!(b2["word"], "drain");
        let again = machine.post("/v1/services/web/backends/b2/drain", "").await.json();
        assert_eq!(again["changed"], false);
        machine
            .until("/v1/status", |a| a.json()["generation_acknowledged"].as_u64() >= Some(drained.generation))
            .await;
        assert_eq!(
            machine.view_states(),
            [(BackendId(0), BackendState::Up), (BackendId(1), BackendState::Draining)]
        );

        // b1 is removed while it has a flow: it stays until the flow ends.
        machine.counters[1].flows_of(BackendId(0)).unwrap().flows.set(1);
        let without = text.replace("[[service.backend]]\nname = \"b1\"\naddress = \"10.9.0.11\"\n", "");
        assert_eq!(machine.post("/v1/apply?wait=true", &without).await.status, 200);
        machine.until_state("b1", "removed").await;
        tokio::time::sleep(Duration::from_millis(1700)).await;
        assert_eq!(
            machine.view_states(),
            [(BackendId(0), BackendState::Draining), (BackendId(1), BackendState::Draining)]
        );
        // Half-closed, it may go on for a while.
        machine.counters[1].ending(BackendId(0)).unwrap().set(1);
        machine.counters[1].flows_of(BackendId(0)).unwrap().flows.set(0);
        tokio::time::sleep(Duration::from_millis(1700)).await;
        assert_eq!(machine.view_states().len(), 2);
        machine.counters[1].ending(BackendId(0)).unwrap().set(0);
        machine.until("/v1/backends", |answer| find(&answer.json(), "b1").is_null()).await;
        machine.until("/v1/events?after=0", |answer| answer.body.contains("backend_forgotten")).await;
        machine.until("/v1/status", |a| a.json()["generation"] == a.json()["generation_acknowledged"]).await;
        assert_eq!(machine.view_states(), [(BackendId(1), BackendState::Draining)]);
        machine.stop().await;
        assert!(!place.join("api.sock").exists(), "the socket is removed");

        // The file wins, the drain is in force again, the difference is told.
        let machine = Machine::start(place, &text);
        let b2 = machine.until_state("b2", "drain").await;
        assert_eq!(b2["word"], "drain");
        let events = machine.events(0).await.events;
        assert!(events.iter().any(|e| e.kind == api::EventKind::ConfigDiffers), "{events:?}");
        let undrained = machine.post("/v1/services/web/backends/b2/undrain", "").await.json();
        assert_eq!(undrained["changed"], true);
        machine.until_state("b2", "up").await;
        // What health said last is in force before the first check.
        machine.until_state("b1", "up").await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        machine.stop().await;
        let slow = text.replace("interval_ms = 200", "interval_ms = 600000");
        let machine = Machine::start(place, &slow);
        machine.until("/v1/status", |answer| answer.json()["generation_acknowledged"] == 1).await;
        assert_eq!(
            machine.view_states(),
            [(BackendId(0), BackendState::Up), (BackendId(1), BackendState::Up)]
        );
        machine.stop().await;
    });
}

#[test]
fn stopping_is_told_before_it_happens() {
    test("stopping_is_told_before_it_happens", async |place| {
        let _server = serve("10.9.0.11:8080").await;
        let machine = Machine::start(place, &config(place, 8080));
        machine.until("/v1/ready", |answer| answer.status == 200).await;
        let mut stream = machine.connect().await;
        machine.commands.send(SignalCommand::Stop).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        stream.write_all(b"GET /v1/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("stopping"), "{answer}");
        tokio::time::timeout(Duration::from_secs(5), machine.done).await.unwrap().unwrap().unwrap();
        assert!(UnixStream::connect(place.join("api.sock")).await.is_err());
        machine.workers.iter().for_each(tokio::task::JoinHandle::abort);
    });
}

#[test]
fn a_machine_without_a_link_is_not_ready() {
    test("a_machine_without_a_link_is_not_ready", async |place| {
        let _servers = (serve("10.9.0.11:8080").await, serve("10.9.0.12:8080").await);
        let machine = Machine::start(place, &config(place, 8080));
        machine.until("/v1/ready", |answer| answer.status == 200).await;
        assert_eq!(machine.get("/v1/ports").await.json()[0]["wrong"], serde_json::json!([]));

        machine.link.set(false);
        let answer = machine.until("/v1/ready", |answer| answer.status == 503).await;
        assert!(answer.body.contains("no data port has a link"), "{}", answer.body);
        let port = machine.get("/v1/ports").await.json()[0].clone();
        assert!(port["link_up"] == false && port["wrong"] == serde_json::json!(["no link"]), "{port}");
        let metrics = machine.get("/metrics").await.body;
        assert!(metrics.contains("guideway_reconcile_wrong{kind=\"link\"} 1"), "{metrics}");

        machine.link.set(true);
        machine.until("/v1/ready", |answer| answer.status == 200).await;
        let events = machine.get("/v1/events").await.json()["events"].clone();
        let of_link = events.as_array().unwrap().iter().filter_map(|event| event["kind"].as_str());
        let of_link: Vec<&str> = of_link.filter(|kind| kind.starts_with("link")).collect();
        assert_eq!(of_link, ["link_down", "link_up"]);
        machine.stop().await;
    });
}

#[test]
fn a_second_one_does_not_take_the_socket() {
    test("a_second_one_does_not_take_the_socket", async |place| {
        let text = config(place, 8080);
        // A socket left by a killed process is no obstacle.
        drop(std::os::unix::net::UnixListener::bind(place.join("api.sock")).unwrap());
        let machine = Machine::start(place, &text);
        machine.until("/v1/status", |answer| answer.status == 200).await;
        let meta = std::fs::metadata(place.join("api.sock")).unwrap();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777, 0o660);
        let second = Machine::start(place, &text);
        let error = second.done.await.unwrap().unwrap_err();
        assert!(matches!(error, RunError::SocketInUse { .. }), "{error}");
        second.workers.iter().for_each(tokio::task::JoinHandle::abort);
        assert_eq!(machine.get("/v1/status").await.status, 200);
        machine.stop().await;
    });
}

/// Nobody is there to be answered when a signal asks for it.
#[test]
fn a_reload_tells_each_mistake_with_place_and_help() {
    test("a_reload_tells_each_mistake_with_place_and_help", async |place| {
        let text = config(place, 8080);
        let machine = Machine::start(place, &text);
        machine.until("/v1/status", |answer| answer.status == 200).await;
        let file = place.join("config.toml");
        let told = async |what: &str, last: &str| {
            let after = machine.events(0).await.last_id;
            std::fs::write(&file, what).unwrap();
            machine.commands.send(SignalCommand::Reload).await.unwrap();
            machine.until(&format!("/v1/events?after={after}"), |answer| answer.body.contains(last)).await;
            machine.events(after).await.events
        };
        let line = |what: &str| text.lines().position(|line| line.starts_with(what)).unwrap() + 1;
        let bad =
            text.replace("mode = \"ipip\"", "mode = \"ipop\"").replace("rise = 2", "rise = 2\nrice = 3");
        let events = told(&bad, "`rice`").await;
        let refused: Vec<_> =
            events.iter().filter(|of| of.kind == api::EventKind::Refused).map(|of| &of.message).collect();
        assert_eq!(refused.len(), 3, "{refused:?}");
        assert!(refused[0].ends_with("config.toml: 2 errors"), "{refused:?}");
        let places = [(line("mode"), "did you mean \"ipip\"?"), (line("rise") + 1, "did you mean `rise`?")];
        for (message, (line, help)) in refused[1..].iter().zip(places) {
            assert!(message.contains(&format!("config.toml:{line}:")), "{message}");
            assert!(message.contains("error: ") && message.contains(&format!("; help: {help}")), "{message}");
        }
        // Not more than can be read; and what is no text at all.
        let many: String = (0..50).map(|n| format!("x{n} = 1\n")).collect();
        let events = told(&format!("{many}{text}"), "30 further errors").await;
        assert_eq!(events.iter().filter(|of| of.kind == api::EventKind::Refused).count(), 22);
        std::fs::write(&file, b"# \xff").unwrap();
        let answer = machine.post("/v1/reload", "").await;
        assert_eq!(answer.status, 422, "{}", answer.body);
        assert_eq!(answer.json()["diagnostics"][0]["column"], 3);
        // A good one with something to look at.
        let slow = text.replace("[workers]", "[timeouts]\nsyn_s = 2000\n[workers]");
        let events = told(&slow, "is longer than").await;
        assert!(events.iter().any(|of| of.kind == api::EventKind::Apply), "{events:?}");
        let warned = events.iter().find(|of| of.kind == api::EventKind::Warning).unwrap();
        assert!(warned.message.contains("warning: timeouts: `syn_s` (2000)"), "{warned:?}");
        machine.stop().await;
    });
}

/// Whatever `check` takes can be applied: the file of 65,536 backends, which is longer than 1 MiB.
#[test]
fn a_long_configuration_is_applied() {
    test("a_long_configuration_is_applied", async |place| {
        let mut text = config(place, 8080).replace("kind = \"tcp\"\nport = 8080", "kind = \"none\"");
        for key in ["via = \"lo\"", "interval_ms = 200", "timeout_ms = 200", "fall = 3", "rise = 2"] {
            text = text.replace(&format!("{key}\n"), "");
        }
        let machine = Machine::start(place, &text);
        machine.until("/v1/status", |answer| answer.status == 200).await;
        for number in 0..15_400_u32 {
            let [_, a, b, c] = (number + 256).to_be_bytes();
            text += &format!(
                "[[service.backend]]\nname = \"backend-of-a-rather-long-name-{number}\"\naddress = \"10.{a}.{b}.{c}\"\n"
            );
        }
        text = text.replace("maglev_size = 251", "maglev_size = 500009");
        assert!(text.len() > 1_300_000, "{} bytes", text.len());
        model::load("x", &text).expect("what is applied is good");
        for target in ["/v1/check", "/v1/plan", "/v1/apply?wait=true"] {
            let answer = machine.post(target, &text).await;
            assert_eq!(answer.status, 200, "{target}: {}", answer.body);
        }
        assert_eq!(
            machine.get("/v1/config").await.body,
            text.replace("7d0c3a9be1d24776a8b9c0d1e2f30415", "********")
        );
        machine.until("/v1/services", |answer| answer.body.contains("15402")).await;
        machine.stop().await;
        // It outlives a restart.
        let (saved, problem) = crate::state::load(&place.join("state"));
        assert_eq!((saved.config.as_deref(), problem), (Some(text.as_str()), None));
    });
}

#[test]
fn flows_counters_events_and_metrics_are_shown() {
    test("flows_counters_events_and_metrics_are_shown", async |place| {
        let _server = serve("10.9.0.11:8080").await;
        let machine = Machine::start(place, &config(place, 8080));
        machine.until_state("b1", "up").await;
        let service = wire::ServiceId(
            u16::try_from(machine.get("/v1/services").await.json()[0]["id"].as_u64().unwrap()).unwrap(),
        );
        for core in 0..2_u32 {
            let key = FlowKey::narrow(0xc633_6401 + core, 4000, service);
            let inserted = machine.tables.borrow_mut()[core as usize].insert(
                &key,
                BackendId(core),
                flow::State::TcpEstablished,
                Tick(1),
            );
            assert_eq!(inserted.outcome, flow::Insert::Done);
        }
        let flows: api::Flows = serde_json::from_str(&machine.get("/v1/flows").await.body).unwrap();
        assert!(!flows.truncated && flows.flows.len() == 2);
        let one = &flows.flows[0];
        assert_eq!((one.client.to_string(), one.client_port), ("198.51.100.1".to_owned(), 4000));
        assert_eq!((one.vip.to_string(), one.port), ("203.0.113.10".to_owned(), 80));
        assert_eq!((one.backend.as_str(), one.state.as_str(), one.core), ("b1", "tcp_established", 0));
        let limited: api::Flows = serde_json::from_str(&machine.get("/v1/flows?limit=1").await.body).unwrap();
        assert!(limited.truncated && limited.flows.len() == 1);
        for (client, count) in [("198.51.100.2", 1), ("198.51.100.0/24", 2), ("192.0.2.0/24", 0)] {
            let flows: api::Flows = serde_json::from_str(
                &machine.get(&format!("/v1/flows?service=web&client={client}")).await.body,
            )
            .unwrap();
            assert_eq!(flows.flows.len(), count, "{client}");
        }

        machine.counters[0].totals.rx.add(10);
        machine.counters[1].totals.rx.add(5);
        machine.counters[1].drops(worker::DropReason::NoService).add(4);
        machine.counters[0].service(service).unwrap().packets.add(7);
        machine.counters[1].service(service).unwrap().packets.add(8);
        machine.counters[0].backend(BackendId(0)).unwrap().packets.add(9);
        assert_eq!(machine.get("/v1/status").await.json()["rx"], 15);
        assert_eq!(machine.get("/v1/services").await.json()[0]["packets"], 15);
        assert_eq!(find(&machine.get("/v1/backends").await.json(), "b1")["packets"], 9);
        assert_eq!(machine.get("/v1/workers").await.json()[1]["rx"], 5);
        let ports: Vec<api::PortStatus> = serde_json::from_str(&machine.get("/v1/ports").await.body).unwrap();
        assert_eq!((ports[0].rx, ports[0].rx_missed, ports[0].mac.as_str()), (5, 1, "02:00:00:00:00:10"));
        let drops: Vec<api::DropCount> = serde_json::from_str(&machine.get("/v1/drops").await.body).unwrap();
        assert_eq!(drops.iter().map(|drop| drop.count).sum::<u64>(), 4);
        let metrics = machine.get("/metrics").await;
        assert!(metrics.head.contains("text/plain; version=0.0.4"), "{}", metrics.head);
        assert!(
            metrics.body.contains("guideway_drop_packets_total{reason=\"no_service\"} 4\n"),
            "{}",
            metrics.body
        );
        assert!(metrics.body.contains("guideway_worker_rx_packets_total{core=\"1\"} 5\n"));

        // Waiting for an event: answered when it happens, not when the time is over.
        let last = machine.events(0).await.last_id;
        let begun = std::time::Instant::now();
        let path = format!("/v1/events?after={last}&wait_ms=20000");
        let (waited, _) = tokio::join!(machine.get(&path), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            machine.post("/v1/services/web/backends/b1/drain", "").await
        });
        let mut events: api::Events = serde_json::from_str(&waited.body).unwrap();
        if events.events.iter().all(|e| e.backend.as_deref() == Some("b2")) {
            // A check of b2 failed just then: the drain is what comes next.
            let path = format!("/v1/events?after={}&wait_ms=20000", events.last_id);
            events = serde_json::from_str(&machine.get(&path).await.body).unwrap();
        }
        assert!(
            events.events.iter().any(|e| e.id > last && e.backend.as_deref() == Some("b1")),
            "{events:?}"
        );
        assert!(begun.elapsed() < Duration::from_secs(10));
        let empty: api::Events =
            serde_json::from_str(&machine.get("/v1/events?after=1000000&wait_ms=20000").await.body).unwrap();
        assert!(empty.events.is_empty() && empty.last_id < 1_000_000, "another run's id is answered at once");

        machine.until("/v1/status", |_| machine.notices.borrow().contains(&Notice::Alive)).await;
        let telemetry = machine.telemetry.borrow().clone();
        for command in [
            "/guideway/summary",
            "/guideway/vips",
            "/guideway/backends",
            "/guideway/workers",
            "/guideway/drops",
        ] {
            let (_, json) = telemetry.iter().find(|(name, _)| name == command).unwrap();
            assert!(serde_json::from_str::<Value>(json).unwrap().is_object(), "{command}: {json}");
        }
        assert_eq!(machine.notices.borrow().iter().filter(|n| **n == Notice::Started).count(), 1);
        machine.stop().await;
    });
}

#[test]
fn tcp_needs_the_token_and_speaks_tls() {
    test("tcp_needs_the_token_and_speaks_tls", async |place| {
        let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (cert, key, token) = (place.join("cert.pem"), place.join("key.pem"), place.join("token"));
        std::fs::write(&cert, certified.cert.pem()).unwrap();
        std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
        std::fs::write(&token, "s3cret\n").unwrap();
        let text = config(place, 8080).replace(
            "[workers]",
            &format!(
                "listen = \"127.0.0.1:9443\"\ntoken_file = \"{}\"\ntls = {{ cert = \"{}\", key = \"{}\" }}\n\
                 [metrics]\nlisten = \"127.0.0.1:9100\"\n[workers]",
                token.display(),
                cert.display(),
                key.display()
            ),
        );
        let machine = Machine::start(place, &text);
        machine.until("/v1/status", |answer| answer.status == 200).await;
        let connector = trusting(&certified);
        for (header, status) in [
            ("", 401),
            ("authorization: Bearer wrong\r\n", 401),
            ("authorization: Basic s3cret\r\n", 401),
            ("authorization: Bearer s3cret\r\n", 200),
        ] {
            let stream = tokio::net::TcpStream::connect("127.0.0.1:9443").await.unwrap();
            let stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
            let request = format!("GET /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}\r\n");
            assert_eq!(exchange(stream, &request, b"").await.status, status, "{header}");
        }
        for (path, status) in [("/metrics", 200), ("/v1/status", 404)] {
            let stream = tokio::net::TcpStream::connect("127.0.0.1:9100").await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            let answer = exchange(stream, &request, b"").await;
            assert_eq!(answer.status, status, "{path}");
            assert!(
                !answer.body.contains("openapi"),
                "what is not served here is no remedy: {}",
                answer.body
            );
        }

        // A new token and a new certificate are in force with the next reload, and a bad one is refused with it.
        let renewed = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(&token, "n3w\n").unwrap();
        std::fs::write(&cert, "no certificate\n").unwrap();
        let refused = machine.post("/v1/reload", "").await;
        assert_eq!(refused.status, 422, "{}", refused.body);
        assert!(refused.body.contains("cert.pem"), "{}", refused.body);
        std::fs::write(&cert, renewed.cert.pem()).unwrap();
        std::fs::write(&key, renewed.signing_key.serialize_pem()).unwrap();
        let ask = async |connector: &tokio_rustls::TlsConnector, token: &str| {
            let stream = tokio::net::TcpStream::connect("127.0.0.1:9443").await.unwrap();
            let stream = connector.connect("localhost".try_into().unwrap(), stream).await.ok()?;
            let request = format!(
                "GET /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n"
            );
            Some(exchange(stream, &request, b"").await.status)
        };
        assert_eq!(ask(&connector, "s3cret").await, Some(200), "nothing has changed");
        assert_eq!(machine.post("/v1/reload?wait=true", "").await.status, 200);
        let connector = trusting(&renewed);
        assert_eq!(ask(&connector, "s3cret").await, Some(401));
        assert_eq!(ask(&connector, "n3w").await, Some(200));
        assert_eq!(
            ask(&trusting(&certified), "n3w").await,
            None,
            "the former certificate is not shown any more"
        );
        machine.stop().await;
    });
}

/// A client that trusts this certificate alone.
fn trusting(of: &rcgen::CertifiedKey<rcgen::KeyPair>) -> tokio_rustls::TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(of.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tokio_rustls::TlsConnector::from(Arc::new(client))
}

#[test]
fn a_client_that_has_said_all_it_has_to_say_is_answered() {
    test("a_client_that_has_said_all_it_has_to_say_is_answered", async |place| {
        let text =
            config(place, 8080).replace("[workers]", "[metrics]\nlisten = \"127.0.0.1:9100\"\n[workers]");
        let machine = Machine::start(place, &text);
        machine.until("/v1/status", |answer| answer.status == 200).await;
        let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let finish = async |mut stream: Box<dyn Stream>| {
            stream.write_all(request).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&answer));
        };
        for _ in 0..30 {
            finish(Box::new(machine.connect().await)).await;
            finish(Box::new(tokio::net::TcpStream::connect("127.0.0.1:9100").await.unwrap())).await;
        }
        machine.stop().await;
    });
}

trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {}
impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Stream for S {}

#[cfg(feature = "etcd")]
#[test]
fn a_store_that_is_not_reached_is_told_once_with_its_endpoint_and_the_reason() {
    test("a_store_that_is_not_reached_is_told_once_with_its_endpoint_and_the_reason", async |place| {
        let cluster = "[cluster]\nstore = \"etcd\"\nendpoints = [\"http://127.0.0.1:1\"]\n[workers]";
        let machine = Machine::start(place, &config(place, 8080).replace("[workers]", cluster));
        let told = |events: &api::Events| -> Vec<String> {
            let lost = events.events.iter().filter(|event| event.kind == api::EventKind::StoreLost);
            lost.map(|event| event.message.clone()).collect()
        };
        let begun = std::time::Instant::now();
        while told(&machine.events(0).await).is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(20), "nothing is told");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let status = machine.get("/v1/cluster").await.json();
        assert_eq!(status["store_reached"], false);
        let problem = status["store_problem"].as_str().unwrap().to_owned();
        assert!(problem.starts_with("http://127.0.0.1:1: ") && problem.contains("refused"), "{problem}");
        assert!(machine.get("/v1/ready").await.body.contains("http://127.0.0.1:1"));
        // It is tried again meanwhile, several times.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let events = told(&machine.events(0).await);
        assert_eq!(events.len(), 1, "{events:?}");
        assert!(events[0].contains(&problem) && events[0].contains("cannot join"), "{events:?}");
        machine.stop().await;
    });
}

#[test]
fn probes_through_the_tunnel_are_named_to_the_workers() {
    test("probes_through_the_tunnel_are_named_to_the_workers", async |place| {
        let text = config(place, 8080)
            .replace("via = \"lo\"", "route = \"tunnel\"")
            .replace("device = \"net_null0\"", "device = \"net_null0\"\nexception = \"gw0\"");
        // The far end stands for both backends: nobody encapsulates here. It refuses, which proves the way.
        let _far = crate::test_network::Far::new(
            "gw0",
            "ip address add 10.9.1.1/24 dev far0; ip address add 203.0.113.10/32 dev lo; \
             ip route add 10.9.0.1 via 10.9.1.2",
        );
        crate::test_network::sh("ip address add 10.9.1.2/24 dev gw0; ip route add 203.0.113.10 via 10.9.1.1");
        let machine = Machine::start(place, &text);
        for backend in ["b1", "b2"] {
            let refused =
                |answer: &Answer| find(&answer.json(), backend)["health"]["last"]["reason"] == "refused";
            machine.until("/v1/backends", refused).await;
        }
        let seen = machine.seen[0].borrow().clone().unwrap();
        assert_eq!(seen.probes.len(), 8);
        for probe in &seen.probes {
            assert_eq!(std::net::IpAddr::from(probe.source).to_string(), "10.9.0.1");
            assert_eq!(std::net::IpAddr::from(probe.vip).to_string(), "203.0.113.10");
        }
        let ports: std::collections::BTreeSet<_> =
            seen.probes.iter().map(|probe| probe.source_port).collect();
        assert_eq!(ports.len(), 8);
        let backends: std::collections::BTreeSet<_> = seen.probes.iter().map(|probe| probe.backend).collect();
        assert_eq!(backends.len(), 2);
        drop(seen);
        machine.stop().await;
    });
}

/// `state = "exceptions"` from the configuration to the view, through taints and their end.
#[test]
fn slots_are_tainted_and_untainted() {
    test("slots_are_tainted_and_untainted", async |place| {
        let _servers = (serve("10.9.0.11:8080").await, serve("10.9.0.12:8080").await);
        let text = config(place, 8080)
            .replace("maglev_size = 251\n", "maglev_size = 251\nstate = \"exceptions\"\n")
            .replace("[api]\n", "[timeouts]\ntcp_established_s = 1\ntcp_closing_s = 1\nsyn_s = 1\n[api]\n");
        let machine = Machine::start(place, &text);
        machine.until_state("b1", "up").await;
        machine.until_state("b2", "up").await;
        // The first answers of a service that has not met a packet yet are no reason to track anything.
        let web =
            machine.until("/v1/services", |a| a.json()[0]["tainted_slots"] == 0).await.json()[0].clone();
        assert_eq!(web["tracking"], "exceptions");
        let service = wire::ServiceId(u16::try_from(web["id"].as_u64().unwrap()).unwrap());
        machine.counters[0].service(service).unwrap().packets.add(1);

        // A flow of a slot of b1, and one that agrees with the table, when b1 is drained.
        let memory = |machine: &Machine| {
            let seen = machine.seen[0].borrow();
            seen.as_ref().unwrap().service[0].memory.clone().unwrap()
        };
        let (flow, slot, b1_slots) = {
            let seen = machine.seen[0].borrow();
            let view = seen.as_ref().unwrap();
            let of = &view.service[0];
            let vip = (wire::Addr::V4(0xcb00_710a), 80, 6);
            let of_b1 = |slot: u32| of.members[usize::from(of.maglev.at(slot).unwrap())] == BackendId(0);
            let flows = (1000..2000).map(|sport| FlowKey::narrow(0xc633_6401, sport, service));
            let (flow, slot) = flows
                .map(|key| (key, crate::slots::slot_of(&view.cluster_key, of, vip, &key)))
                .find(|(_, slot)| of_b1(*slot))
                .unwrap();
            (flow, slot, (0..251).filter(|slot| of_b1(*slot)).count())
        };
        let long = Tick(1 << 40);
        machine.tables.borrow_mut()[1].insert(&flow, BackendId(0), flow::State::TcpEstablished, long);
        machine.post("/v1/services/web/backends/b1/drain", "").await;
        machine.until("/v1/status", |a| a.json()["generation"] == a.json()["generation_acknowledged"]).await;
        assert_eq!(memory(&machine).tainted_slots() as usize, b1_slots);
        assert_eq!(memory(&machine).base(slot), Some(BackendId(0)));
        assert!(
            machine
                .get("/metrics")
                .await
                .body
                .contains(&format!("guideway_service_tainted_slots{{service=\"web\"}} {b1_slots}"))
        );

        // Only the slot of the flow stays tainted, and that as long as the flow lives.
        machine.until("/v1/services", |a| a.json()[0]["tainted_slots"] == 1).await;
        machine.until("/v1/status", |a| a.json()["generation"] == a.json()["generation_acknowledged"]).await;
        assert_eq!(memory(&machine).tainted().collect::<Vec<_>>(), [(slot, Some(BackendId(0)))]);
        // Its backend is not forgotten either, although no worker counts a flow of it.
        let without = text.replace("[[service.backend]]\nname = \"b1\"\naddress = \"10.9.0.11\"\n", "");
        assert_eq!(machine.post("/v1/apply?wait=true", &without).await.status, 200);
        machine.until_state("b1", "removed").await;
        tokio::time::sleep(Duration::from_millis(1700)).await;
        assert!(!find(&machine.get("/v1/backends").await.json(), "b1").is_null());
        assert_eq!(memory(&machine).tainted_slots(), 1);
        machine.tables.borrow_mut()[1].remove(&flow).unwrap();
        machine.until("/v1/services", |a| a.json()[0]["tainted_slots"] == 0).await;
        machine.until("/v1/backends", |answer| find(&answer.json(), "b1").is_null()).await;

        // What names a slot is refused by name; the option itself is not: every slot is tainted, then none is left.
        let other = without.replace("maglev_size = 251", "maglev_size = 257");
        let refused = machine.post("/v1/apply", &other).await;
        assert!(
            refused.status >= 400 && refused.body.contains("service.web.maglev_size"),
            "{}",
            refused.body
        );
        let all = without.replace("state = \"exceptions\"", "state = \"all\"");
        assert_eq!(machine.post("/v1/apply?wait=true", &all).await.status, 200);
        assert_eq!(memory(&machine).tainted_slots(), 251);
        for _ in 0..500 {
            if machine.seen[0].borrow().as_ref().unwrap().service[0].memory.is_none() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(machine.seen[0].borrow().as_ref().unwrap().service[0].memory.is_none());
        assert_eq!(machine.post("/v1/apply?wait=true", &without).await.status, 200);
        assert_eq!(memory(&machine).tainted_slots(), 251, "what was tracked until now");
        machine.stop().await;
    });
}
