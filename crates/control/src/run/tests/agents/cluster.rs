//! The same in a cluster: what agents say goes to a real etcd and comes back as what is in force.

use super::*;
use std::process::{Child, Stdio};

/// A running etcd; killed when dropped.
pub(in crate::run::tests) struct Etcd(Child);

impl Etcd {
    pub(in crate::run::tests) fn start(place: &Path) -> Etcd {
        let started = std::process::Command::new("etcd")
            .arg("--data-dir")
            .arg(place.join("etcd"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Etcd(
            started.expect(
                "etcd (Debian's etcd-server; dpdk-setup/packages.sh --development installs it) starts",
            ),
        )
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn cluster_config(place: &Path) -> String {
    let store = "[cluster]\nstore = \"etcd\"\nendpoints = [\"http://127.0.0.1:2379\"]\n[workers]";
    agents_config(place, "").replace("[workers]", store)
}

impl Machine {
    async fn plan_generation(&self) -> u64 {
        self.get("/v1/cluster").await.json()["generation"].as_u64().unwrap()
    }
}

#[test]
fn what_registers_is_in_force_by_way_of_the_store() {
    super::super::test("agents::cluster::what_registers_is_in_force_by_way_of_the_store", async |place| {
        let _etcd = Etcd::start(place);
        let machine = Machine::start(place, &cluster_config(place));
        let settled = |answer: &Answer| answer.json()["joined"] == true && answer.json()["settled"] == true;
        machine.until("/v1/cluster", settled).await;
        machine.until("/v1/services", |answer| answer.json().as_array().unwrap().len() == 1).await;
        let before = machine.plan_generation().await;

        let mut agent = Agent::welcome("host1", 1, &["10.9.0.21"]).await;
        agent.register("w1", "10.9.0.21", 5).await;
        agent.asked(1).await;
        assert_eq!(machine.until_phase("w1", "checking").await["in_force"], false);
        let told = std::time::Instant::now();
        agent.report("w1", "10.9.0.21", true).await;
        let w1 = machine.until_state("w1", "up").await;
        let took = told.elapsed();
        eprintln!("good check to traffic: {took:?}");
        assert!(took < Duration::from_millis(1000), "{took:?}");
        assert_eq!((&w1["word"], &w1["registered"]), (&"agent".into(), &true.into()));
        assert_eq!(machine.view_states(), [(BackendId(0), BackendState::Up)]);
        assert_eq!(machine.registration("w1").await["in_force"], true);
        assert_eq!(machine.plan_generation().await, before + 1);

        // Again: nothing new.
        agent.register("w1", "10.9.0.21", 5).await;
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(machine.plan_generation().await, before + 1);

        // A second one, and what the agent says of the first masks it.
        let mut other = Agent::welcome("host2", 1, &["10.9.0.22"]).await;
        other.register("w2", "10.9.0.22", 1).await;
        other.asked(1).await;
        other.report("w2", "10.9.0.22", true).await;
        machine.until_state("w2", "up").await;
        let mut fastest = Duration::MAX;
        for _ in 0..5 {
            let told = std::time::Instant::now();
            agent.report("w1", "10.9.0.21", false).await;
            machine.until_state("w1", "down").await;
            fastest = fastest.min(told.elapsed());
            agent.report("w1", "10.9.0.21", true).await;
            machine.until_state("w1", "up").await;
        }
        // Four values are written one after the other; a slow tick among them would show in each.
        eprintln!("report to mask: {fastest:?} at best");
        assert!(fastest < Duration::from_millis(500), "{fastest:?}");

        // An operator's apply keeps who has registered, and a plan shows nothing of them.
        let answer = machine.post("/v1/apply", &cluster_config(place)).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        machine.until("/v1/cluster", settled).await;
        assert_eq!(machine.get("/v1/backends").await.json().as_array().unwrap().len(), 2);

        // The agent goes silent and its server with it, if there ever was one: the machine's own checks fail, and it is out.
        drop(agent);
        machine
            .until("/v1/registrations", |answer| {
                !answer.body.contains("\"w1\"") || answer.body.contains("draining")
            })
            .await;
        machine.until_state("w1", "removed").await;
        // And deregistered is out, too.
        let address = "10.9.0.22".parse().unwrap();
        let (service, backend) = ("web".to_owned(), "w2".to_owned());
        other.say(&ToMachine::Deregister { service, backend, address }).await;
        machine.until_state("w2", "removed").await;
        machine.stop().await;
    });
}

#[test]
fn a_machine_that_starts_again_finds_in_the_store_what_is_in_force() {
    super::super::test(
        "agents::cluster::a_machine_that_starts_again_finds_in_the_store_what_is_in_force",
        async |place| {
            let _etcd = Etcd::start(place);
            let _server = serve("10.9.0.21:8080").await;
            let machine = Machine::start(place, &cluster_config(place));
            machine.until("/v1/cluster", |answer| answer.json()["joined"] == true).await;
            machine.until("/v1/services", |answer| answer.json().as_array().unwrap().len() == 1).await;
            let mut agent = Agent::welcome("host1", 1, &["10.9.0.21"]).await;
            agent.register("w1", "10.9.0.21", 5).await;
            agent.asked(1).await;
            agent.report("w1", "10.9.0.21", true).await;
            machine.until_state("w1", "up").await;
            machine.stop().await;
            drop(agent);
            // Its agent does not come back, but its server lives.
            let machine = Machine::start(place, &cluster_config(place).replace(LISTEN, "10.9.0.1:7482"));
            machine.until("/v1/cluster", |answer| answer.json()["joined"] == true).await;
            let w1 = machine.until_state("w1", "up").await;
            assert_eq!(w1["registered"], true);
            assert_eq!(machine.registration("w1").await["state"], "suspect");
            tokio::time::sleep(Duration::from_millis(1500)).await;
            machine.until_state("w1", "up").await;
            machine.stop().await;
        },
    );
}
