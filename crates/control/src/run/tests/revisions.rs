//! Revisions: counted, put back, kept over a restart, refused.

use super::*;

/// The same services with another weight of `b1`.
fn weighing(text: &str, weight: u32) -> String {
    text.replace("address = \"10.9.0.11\"\n", &format!("address = \"10.9.0.11\"\nweight = {weight}\n"))
}

async fn revision(machine: &Machine) -> u64 {
    machine.get("/v1/status").await.json()["revision"].as_u64().unwrap()
}

#[test]
fn what_was_in_force_comes_back_by_its_number() {
    test("what_was_in_force_comes_back_by_its_number", async |place| {
        let text = config(place, 8080);
        let machine = Machine::start(place, &text);
        assert_eq!(revision(&machine).await, 1);
        let applied = machine.post("/v1/apply", &weighing(&text, 7)).await.json();
        assert_eq!((&applied["revision"], &applied["saved"]), (&2.into(), &false.into()));
        // What is in force already gets no number.
        assert_eq!(machine.post("/v1/apply", &weighing(&text, 7)).await.json()["revision"], 2);
        assert_eq!(machine.post("/v1/apply", "nonsense").await.status, 422);
        assert_eq!(revision(&machine).await, 2);
        let back = machine.post("/v1/rollback?revision=1&wait=true", "").await;
        let back: api::ApplyResult = serde_json::from_str(&back.body).unwrap();
        assert!(back.revision == 3 && back.acknowledged && back.saved, "{back:?}");
        assert_eq!(back.plan["services"][0]["backends_reweighted"][0], "b1");
        assert!(!machine.get("/v1/config").await.body.contains("weight = 7"));
        for (query, status) in [("revision=9", 404), ("revision=0", 404), ("", 400), ("revision=-1", 400)] {
            let answer = machine.post(&format!("/v1/rollback?{query}"), "").await;
            assert_eq!(answer.status, status, "{query}: {}", answer.body);
        }
        let events = machine.events(0).await.events;
        let applied = events.iter().filter(|of| of.kind == EventKind::Apply).collect::<Vec<_>>();
        assert_eq!(applied.len(), 3);
        let uid = rustix::process::getuid().as_raw();
        let caller = applied[2].caller.as_deref().unwrap();
        assert!(caller.starts_with(&format!("uid {uid}, pid ")), "{caller}");
        assert!(applied[2].message.starts_with("configuration from revision 1 "), "{}", applied[2].message);
        assert!(applied[2].message.ends_with(", revision 3"), "{}", applied[2].message);
        let refused = events.iter().find(|of| of.kind == EventKind::Refused).unwrap();
        assert!(refused.caller.is_some());
        machine.stop().await;

        // The file is in force again, as it was; numbers go on.
        let machine = Machine::start(place, &text);
        assert_eq!(revision(&machine).await, 3);
        assert_eq!(machine.post("/v1/rollback?revision=2", "").await.json()["revision"], 4);
        machine.stop().await;

        // The file as it is now has another restart key: what was before cannot come back without a restart.
        let other = text.replace("flows = 4096", "flows = 8192");
        let machine = Machine::start(place, &other);
        assert_eq!(revision(&machine).await, 5);
        let refused = machine.post("/v1/rollback?revision=4", "").await;
        assert_eq!(refused.status, 409, "{}", refused.body);
        assert!(refused.json()["error"].as_str().unwrap().contains("workers.flows"), "{}", refused.body);
        machine.stop().await;
    });
}

#[test]
fn revisions_that_cannot_be_read_are_set_aside() {
    test("revisions_that_cannot_be_read_are_set_aside", async |place| {
        let text = config(place, 8080);
        std::fs::create_dir_all(place.join("state")).unwrap();
        std::fs::write(place.join("state/revisions.json"), "{").unwrap();
        let machine = Machine::start(place, &text);
        assert_eq!(revision(&machine).await, 1);
        let events = machine.events(0).await.events;
        let told = events.iter().find(|of| of.message.contains("revisions.json")).unwrap();
        assert_eq!(told.kind, EventKind::Warning);
        assert!(place.join("state/revisions.json.unreadable").exists());
        machine.stop().await;
    });
}
