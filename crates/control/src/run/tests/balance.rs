//! What goes by load in a running management core: figures reach workers, and shares grow slowly.

use super::*;
use worker::decide::least_load::share;
use worker::view::loads::Load;
use worker::view::{LeastLoad, Overload, Policy, Select};

/// The usual configuration with these keys of the service, and without checks if need be.
fn with(place: &Path, keys: &str, checked: bool) -> String {
    let text = config(place, 8080).replace("[service.health]", &format!("{keys}\n[service.health]"));
    if checked {
        return text;
    }
    let (head, rest) = text.split_once("[service.health]").unwrap();
    let (_, backends) = rest.split_once("[[service.backend]]").unwrap();
    format!("{head}[[service.backend]]{backends}")
}

impl Machine {
    async fn until_load(&self, backend: u32, wanted: Load) {
        for _ in 0..500 {
            let seen = self.seen[0].borrow().clone();
            if seen.is_some_and(|view| view.loads.get(BackendId(backend)) == wanted) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the load stays another than {wanted:?}");
    }

    fn policy(&self) -> Policy {
        self.seen[0].borrow().as_ref().unwrap().service[0].policy.clone()
    }

    /// Slots of a backend in the table that worker 0 uses.
    fn slots_of(&self, backend: u32) -> usize {
        let seen = self.seen[0].borrow();
        let service = &seen.as_ref().unwrap().service[0];
        let at = service.members.iter().position(|id| *id == BackendId(backend));
        let at = at.and_then(|at| u16::try_from(at).ok());
        service.maglev.slots().iter().filter(|slot| Some(**slot) == at).count()
    }
}

#[test]
fn loads_reach_workers_without_a_new_view() {
    test("balance::loads_reach_workers_without_a_new_view", async |place| {
        let keys = "policy = \"least-load\"\ncapacity = 100\n";
        let text = with(place, keys, false)
            .replace("address = \"10.9.0.12\"", "address = \"10.9.0.12\"\nweight = 2");
        let machine = Machine::start(place, &text);
        machine.until_state("b1", "up").await;
        machine.until_load(0, Load::default()).await;
        let policy = |select, overload| {
            Policy::LeastLoad(Box::new(LeastLoad {
                select,
                overload,
                shares: vec![share(100, 1, 2), share(100, 2, 2)],
            }))
        };
        assert_eq!(machine.policy(), policy(Select::Min, Overload::Spread), "two workers decide");
        let generation = machine.get("/v1/status").await.json()["generation"].clone();
        // Flows of both workers count.
        for (core, flows) in [(0, 15), (1, 10)] {
            for backend in [0, 1] {
                machine.counters[core].flows_of(BackendId(backend)).unwrap().flows.set(flows);
            }
        }
        machine.until_load(0, Load { ppm: 250_000, joining: false }).await;
        machine.until_load(1, Load { ppm: 125_000, joining: false }).await;
        let backends = machine.get("/v1/backends").await.json();
        assert_eq!(find(&backends, "b2")["load_ppm"], 125_000);
        assert_eq!(machine.get("/v1/status").await.json()["generation"], generation);

        let other = text.replace(keys, &format!("{keys}select = \"p2c\"\noverload = \"reject\"\n"));
        assert_eq!(machine.post("/v1/apply?wait=true", &other).await.status, 200);
        assert_eq!(machine.policy(), policy(Select::TwoChoices, Overload::Reject));
        let maglev = text.replace(keys, "");
        assert_eq!(machine.post("/v1/apply?wait=true", &maglev).await.status, 200);
        assert_eq!(machine.policy(), Policy::Maglev);
        assert!(find(&machine.get("/v1/backends").await.json(), "b2")["load_ppm"].is_null());
        machine.stop().await;
    });
}

#[test]
fn a_backend_that_comes_up_later_takes_its_slots_little_by_little() {
    test("balance::a_backend_that_comes_up_later_takes_its_slots_little_by_little", async |place| {
        let _one = serve("10.9.0.11:8080").await;
        let text = with(place, "join = \"slow-start\"\nslow_start_ms = 3000", true);
        let machine = Machine::start(place, &text);
        machine.until_state("b1", "up").await;
        machine.until("/v1/backends", |a| find(&a.json(), "b2")["health"]["up"] == false).await;
        assert_eq!(find(&machine.get("/v1/backends").await.json(), "b1")["share_permille"], 1000);
        assert_eq!(machine.slots_of(0), 251);

        let _two = serve("10.9.0.12:8080").await;
        let b2 = machine.until_state("b2", "up").await;
        assert!(b2["share_permille"].as_u64() < Some(500), "{b2}");
        let mut last = 0;
        for _ in 0..1000 {
            let slots = machine.slots_of(1);
            assert!(slots >= last, "it grows: {last} {slots}");
            assert!(last > 0 || slots <= 70, "from a small share: {slots}");
            assert!(slots <= last + 60, "step by step: {last} {slots}");
            last = slots;
            if slots >= 125 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!((125..=126).contains(&last), "to its whole share: {last}");
        machine.until("/v1/backends", |a| find(&a.json(), "b2")["share_permille"] == 1000).await;
        machine.stop().await;
    });
}

#[test]
fn a_backend_of_least_load_that_comes_up_later_joins() {
    test("balance::a_backend_of_least_load_that_comes_up_later_joins", async |place| {
        let _one = serve("10.9.0.11:8080").await;
        let keys = "policy = \"least-load\"\ncapacity = 100\njoin = \"slow-start\"\nslow_start_ms = 2000";
        let machine = Machine::start(place, &with(place, keys, true));
        machine.until_state("b1", "up").await;
        machine.counters[0].flows_of(BackendId(0)).unwrap().flows.set(80);
        machine.until_load(0, Load { ppm: 800_000, joining: false }).await;
        machine.until("/v1/backends", |a| find(&a.json(), "b2")["health"]["up"] == false).await;
        let _two = serve("10.9.0.12:8080").await;
        machine.until_state("b2", "up").await;
        let b2 = machine.seen[0].borrow().as_ref().unwrap().loads.get(BackendId(1));
        assert!(b2.joining && b2.ppm > 400_000, "it seems nearly as busy as the other: {b2:?}");
        // Its time is over, but it would draw all new flows: it joins until it carries what the other does.
        machine.until_load(1, Load { ppm: 0, joining: true }).await;
        machine.counters[0].flows_of(BackendId(1)).unwrap().flows.set(80);
        machine.until_load(1, Load { ppm: 800_000, joining: false }).await;
        machine.stop().await;
    });
}
