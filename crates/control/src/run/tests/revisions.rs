//! Revisions: counted, put back, kept over a restart, refused.

use super::*;
use model::api::EventKind;

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

async fn applied_on_trial(machine: &Machine, text: &str, ms: u64) -> api::ApplyResult {
    let answer = machine.post(&format!("/v1/apply?wait=true&confirm_ms={ms}"), text).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    serde_json::from_str(&answer.body).unwrap()
}

async fn shows_weight(machine: &Machine, weight: u32) -> bool {
    machine.get("/v1/config").await.body.contains(&format!("weight = {weight}\n"))
}

#[test]
fn what_nobody_confirms_goes_back() {
    test("what_nobody_confirms_goes_back", async |place| {
        let text = config(place, 8080);
        let machine = Machine::start(place, &text);
        for bad in [0, 999, 3_600_001] {
            assert_eq!(machine.post(&format!("/v1/apply?confirm_ms={bad}"), &text).await.status, 400);
        }
        assert_eq!(machine.post("/v1/confirm", "").await.status, 409);
        // What is in force already is on no trial.
        assert_eq!(applied_on_trial(&machine, &text, 60_000).await.confirm_within_ms, None);

        let trial = applied_on_trial(&machine, &weighing(&text, 7), 1_000).await;
        assert!(trial.revision == 2 && trial.saved, "{trial:?}");
        assert!(trial.confirm_within_ms.is_some_and(|left| left <= 1_000));
        // Meanwhile nothing else is changed.
        for refused in [
            machine.post("/v1/apply", &weighing(&text, 8)).await,
            machine.post("/v1/apply?confirm_ms=60000", &weighing(&text, 8)).await,
            machine.post("/v1/reload", "").await,
            machine.send("DELETE", "/v1/services/web", "", b"").await,
        ] {
            assert_eq!(refused.status, 409, "{}", refused.body);
            assert!(refused.json()["error"].as_str().unwrap().contains("on trial"), "{}", refused.body);
        }
        assert_eq!(machine.post("/v1/plan", &text).await.status, 200);
        machine.until("/v1/history", |answer| answer.json()["revisions"][0]["number"] == 3).await;
        assert!(!shows_weight(&machine, 7).await);
        let history = machine.get("/v1/history").await.json();
        assert_eq!(
            (&history["revisions"][0]["caller"], history.get("confirm_within_ms")),
            (&"nobody".into(), None)
        );
        let events = machine.events(0).await.events;
        let told = events.iter().find(|of| of.kind == EventKind::Unconfirmed).unwrap();
        assert!(told.message.contains("nobody confirmed revision 2"), "{}", told.message);

        // Confirmed, it stays; only the revision that is meant.
        let trial = applied_on_trial(&machine, &weighing(&text, 9), 1_500).await;
        assert_eq!(machine.post("/v1/confirm?revision=3", "").await.status, 409);
        let kept = machine.post(&format!("/v1/confirm?revision={}", trial.revision), "").await;
        let kept: api::ConfirmResult = serde_json::from_str(&kept.body).unwrap();
        assert!(kept.revision == 4 && kept.saved);
        tokio::time::sleep(Duration::from_millis(2_000)).await;
        assert!(shows_weight(&machine, 9).await && revision(&machine).await == 4);

        // A rollback ends a trial at once.
        applied_on_trial(&machine, &weighing(&text, 5), 60_000).await;
        assert_eq!(machine.post("/v1/rollback?revision=4", "").await.json()["revision"], 6);
        assert_eq!(machine.post("/v1/confirm", "").await.status, 409);
        assert!(shows_weight(&machine, 9).await);
        machine.stop().await;
    });
}

#[test]
fn a_restart_does_not_begin_with_what_nobody_confirmed() {
    test("a_restart_does_not_begin_with_what_nobody_confirmed", async |place| {
        let text = config(place, 8080);
        let machine = Machine::start(place, &text);
        let trial = applied_on_trial(&machine, &weighing(&text, 7), 60_000).await;
        assert_eq!(trial.revision, 2);
        machine.stop().await;
        // The file is what was on trial: what was before is in force, and stays so.
        for start in 0..2 {
            let machine = Machine::start(place, &weighing(&text, 7));
            assert!(!shows_weight(&machine, 7).await, "start {start}");
            let status = machine.get("/v1/status").await.json();
            assert_eq!((&status["revision"], &status["config_is_file"]), (&3.into(), &false.into()));
            let told = machine.events(0).await.events;
            assert!(told.iter().any(|of| of.message.contains("as nobody has confirmed it")), "{told:?}");
            let plan = machine.post("/v1/plan", &weighing(&text, 7)).await.json();
            assert_eq!(plan["plan"]["services"][0]["backends_reweighted"][0], "b1");
            machine.stop().await;
        }
        // Who reloads it means it.
        let machine = Machine::start(place, &weighing(&text, 7));
        assert_eq!(machine.post("/v1/reload", "").await.json()["revision"], 4);
        machine.stop().await;
        let machine = Machine::start(place, &weighing(&text, 7));
        assert!(shows_weight(&machine, 7).await && revision(&machine).await == 4);

        // Another file than the one on trial is in force as any is.
        applied_on_trial(&machine, &weighing(&text, 8), 60_000).await;
        machine.stop().await;
        let machine = Machine::start(place, &weighing(&text, 6));
        assert!(shows_weight(&machine, 6).await);
        assert_eq!(machine.post("/v1/confirm", "").await.status, 409);
        machine.stop().await;
    });
}
