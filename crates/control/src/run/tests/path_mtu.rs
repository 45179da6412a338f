//! What workers learn of the paths to backends is shown, and outlives the view in which they learnt it.

use super::*;

#[test]
fn a_learnt_path_mtu_is_shown_and_outlives_the_view() {
    test("path_mtu::a_learnt_path_mtu_is_shown_and_outlives_the_view", async |place| {
        let _servers = (serve("10.9.0.11:8080").await, serve("10.9.0.12:8080").await);
        let machine = Machine::start(place, &config(place, 8080));
        machine.until_state("b1", "up").await;
        machine.until_state("b2", "up").await;
        machine.until("/v1/status", |a| a.json()["generation_acknowledged"] == a.json()["generation"]).await;
        assert!(find(&machine.get("/v1/backends").await.json(), "b1")["path_mtu"].is_null());
        let view = || machine.seen[0].borrow().clone().unwrap();
        let learnt_in = view();
        learnt_in.backends[0].as_ref().unwrap().learn(1400, Tick(1));
        assert_eq!(find(&machine.get("/v1/backends").await.json(), "b1")["path_mtu"], 1400);
        assert_eq!(machine.post("/v1/services/web/backends/b2/drain", "").await.status, 200);
        machine.until_state("b2", "drain").await;
        let is_used = |generation: u64| generation > learnt_in.generation;
        machine
            .until("/v1/status", |a| a.json()["generation_acknowledged"].as_u64().is_some_and(is_used))
            .await;
        assert!(view().generation > learnt_in.generation);
        let backends = machine.get("/v1/backends").await.json();
        assert_eq!(find(&backends, "b1")["path_mtu"], 1400);
        assert!(find(&backends, "b2")["path_mtu"].is_null());
        machine.stop().await;
    });
}
