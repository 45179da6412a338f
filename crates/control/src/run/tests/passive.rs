//! Clients make backends suspect in a running management core.

use super::*;
use std::cell::Cell;

/// Clients of the first three backends, which go on after their SYNs, but for those of the third while it is silent.
pub(super) struct Clients {
    is_silent: Rc<Cell<bool>>,
    task: tokio::task::JoinHandle<()>,
}

impl Clients {
    pub(super) fn come(machine: &Machine) -> Clients {
        let is_silent = Rc::new(Cell::new(true));
        let (counters, silent) = (machine.counters.clone(), is_silent.clone());
        let task = tokio::task::spawn_local(async move {
            loop {
                for (id, core) in [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)] {
                    let flows = counters[core].flows_of(BackendId(id)).unwrap();
                    flows.flows_new.add(10);
                    flows.handshakes.add(if id == 2 && silent.get() { 1 } else { 10 });
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        Clients { is_silent, task }
    }

    pub(super) fn go_on(&self) {
        self.is_silent.set(false);
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Machine {
    pub(super) async fn until_suspect(&self, backend: &str) -> Value {
        let is = |answer: &Answer| find(&answer.json(), backend)["suspect_since_unix_ms"].is_u64();
        find(&self.until("/v1/backends", is).await.json(), backend).clone()
    }

    pub(super) async fn until_trusted(&self, backend: &str) -> Value {
        let is = |answer: &Answer| find(&answer.json(), backend)["suspect_since_unix_ms"].is_null();
        find(&self.until("/v1/backends", is).await.json(), backend).clone()
    }
}

#[test]
fn a_suspect_whose_checks_pass_stays() {
    test("passive::a_suspect_whose_checks_pass_stays", async |place| {
        let _one = serve("10.9.0.11:8080").await;
        let _two = serve("10.9.0.12:8080").await;
        let _three = serve("10.9.0.13:8080").await;
        let text =
            format!("{}[[service.backend]]\nname = \"b3\"\naddress = \"10.9.0.13\"\n", config(place, 8080));
        let machine = Machine::start(place, &text);
        for backend in ["b1", "b2", "b3"] {
            machine.until_state(backend, "up").await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let generation = machine.get("/v1/status").await.json()["generation"].clone();
        let clients = Clients::come(&machine);
        machine.until_suspect("b3").await;
        let checked = |answer: &Answer| {
            let reason = find(&answer.json(), "b3")["reason"].as_str().unwrap().to_owned();
            reason.starts_with("suspect, its clients' handshakes fail: ")
                && reason.ends_with(" % where the pool has 100 %; own check: ok")
        };
        let b3 = machine.until("/v1/backends", checked).await.json();
        let b3 = find(&b3, "b3");
        assert_eq!((&b3["state"], &b3["word"]), (&"up".into(), &"health".into()));
        let metrics = machine.get("/metrics").await.body;
        for line in
            ["backends_suspect{cause=\"clients\"} 1\n", "backend_suspicions_total{cause=\"clients\"} 1\n"]
        {
            assert!(metrics.contains(line), "{line} is not in {metrics}");
        }

        clients.go_on();
        assert_eq!(machine.until_trusted("b3").await["reason"], Value::Null);
        let events = machine.events(0).await.events;
        let about = |kind| {
            let of = events.iter().filter(move |event| event.kind == kind);
            of.map(|event| (event.backend.clone().unwrap(), event.message.clone())).collect::<Vec<_>>()
        };
        let suspected = about(api::EventKind::BackendSuspect);
        assert!(
            suspected.len() == 1
                && suspected[0].0 == "b3"
                && suspected[0].1.starts_with("its clients' handshakes fail: ")
                && suspected[0].1.ends_with("; own check decides"),
            "{suspected:?}"
        );
        let trusted = about(api::EventKind::BackendTrusted);
        assert!(
            trusted.len() == 1 && trusted[0].1.starts_with("its clients' handshakes succeed"),
            "{trusted:?}"
        );
        assert_eq!(machine.get("/v1/status").await.json()["generation"], generation, "no packet knows of it");
        machine.stop().await;
    });
}
