//! Clients against an agent's word.

use super::super::passive::Clients;
use super::*;

#[test]
fn a_suspects_own_check_decides_and_not_its_agent() {
    super::super::test("agents::passive::a_suspects_own_check_decides_and_not_its_agent", async |place| {
        let _one = serve("10.9.0.21:8080").await;
        let _two = serve("10.9.0.22:8080").await;
        let text = agents_config(place, "").replace("lease_ms = 5000", "lease_ms = 60000");
        let machine = Machine::start(place, &text);
        let backends = [("w1", "10.9.0.21"), ("w2", "10.9.0.22"), ("w3", "10.9.0.23")];
        let mut agent = Agent::welcome("host1", 1, &backends.map(|(_, address)| address)).await;
        for (name, address) in backends {
            agent.register(name, address, 1).await;
        }
        agent.asked(3).await;
        for (name, address) in backends {
            agent.report(name, address, true).await;
            // One after the other, so that their ids are known.
            machine.until_state(name, "up").await;
        }
        assert_eq!(find(&machine.get("/v1/backends").await.json(), "w3")["id"], 2);

        // Nothing listens at the third, whatever its agent says.
        let clients = Clients::come(&machine);
        let w3 = machine.until_suspect("w3").await;
        assert!(w3["reason"].as_str().unwrap().contains("its clients' handshakes fail: "), "{w3}");
        let w3 = machine.until_state("w3", "down").await;
        assert_eq!((&w3["word"], &w3["registered"]), (&"health".into(), &true.into()));
        let suspected = &machine.registration("w3").await["suspected"];
        assert!(suspected.as_str().unwrap().contains("handshakes"), "{suspected}");
        for up in [false, true] {
            agent.report("w3", "10.9.0.23", up).await;
        }
        agent.say(&ToMachine::Heartbeat { sequence: 1, digest: String::new(), loads: vec![] }).await;
        agent.until(|message| *message == ToAgent::Alive { sequence: 1 }).await;
        let w3 = machine.get("/v1/backends").await.json();
        assert_eq!((&find(&w3, "w3")["state"], &find(&w3, "w3")["word"]), (&"down".into(), &"health".into()));
        // A new start of the agent changes nothing either.
        drop(agent);
        let mut agent = Agent::welcome("host1", 2, &backends.map(|(_, address)| address)).await;
        for (name, address) in backends {
            agent.register(name, address, 1).await;
            agent.report(name, address, true).await;
        }
        agent.asked(3).await;
        for (name, address) in backends {
            agent.report(name, address, true).await;
        }
        machine.until_phase("w3", "up").await;
        let w3 = machine.until_suspect("w3").await;
        assert_eq!((&w3["state"], &w3["word"]), (&"down".into(), &"health".into()));

        // It is back by the machine's own check, and its clients end the suspicion: then its agent's word counts.
        let _three = serve("10.9.0.23:8080").await;
        assert_eq!(machine.until_state("w3", "up").await["word"], "health");
        clients.go_on();
        let w3 = machine.until_trusted("w3").await;
        assert_eq!((&w3["state"], &w3["word"]), (&"up".into(), &"agent".into()));
        agent.report("w3", "10.9.0.23", false).await;
        let w3 = machine.until_state("w3", "down").await;
        assert_eq!(w3["word"], "agent");
        machine.stop().await;
    });
}

#[test]
fn what_the_agent_said_meanwhile_counts_afterwards() {
    super::super::test("agents::passive::what_the_agent_said_meanwhile_counts_afterwards", async |place| {
        let _one = serve("10.9.0.21:8080").await;
        let _two = serve("10.9.0.22:8080").await;
        let _three = serve("10.9.0.23:8080").await;
        let text = agents_config(place, "").replace("lease_ms = 5000", "lease_ms = 60000");
        let machine = Machine::start(place, &text);
        let backends = [("w1", "10.9.0.21"), ("w2", "10.9.0.22"), ("w3", "10.9.0.23")];
        let mut agent = Agent::welcome("host1", 1, &backends.map(|(_, address)| address)).await;
        for (name, address) in backends {
            agent.register(name, address, 1).await;
        }
        agent.asked(3).await;
        for (name, address) in backends {
            agent.report(name, address, true).await;
            machine.until_state(name, "up").await;
        }
        let clients = Clients::come(&machine);
        machine.until_suspect("w3").await;
        agent.report("w3", "10.9.0.23", false).await;
        machine.until_phase("w3", "down").await;
        let w3 = machine.until("/v1/backends", |a| find(&a.json(), "w3")["word"] == "health").await.json();
        assert_eq!(find(&w3, "w3")["state"], "up", "own checks pass");
        clients.go_on();
        let w3 = machine.until_state("w3", "down").await;
        assert_eq!((&w3["word"], &w3["suspect_since_unix_ms"]), (&"agent".into(), &Value::Null));
        machine.stop().await;
    });
}
