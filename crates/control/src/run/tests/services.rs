//! One service, one backend by itself: set, deleted, patched, released, kept over a restart, refused when somebody was faster.

use super::*;
use model::api::EventKind;

const API: &str = r#"[[service]]
name = "api"
vip = "203.0.113.11"
port = 443
protocol = "tcp"
mode = "ipip"
maglev_size = 251
[[service.backend]]
name = "a1"
address = "10.9.0.21"
[[service.backend]]
name = "a2"
address = "10.9.0.22"
"#;

impl Machine {
    async fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        let media = if body.starts_with('{') { "application/json" } else { "application/toml" };
        self.send(method, path, &format!("content-type: {media}\r\n"), body.as_bytes()).await
    }

    async fn revision_of(&self, service: &str) -> u64 {
        let shown = self.get(&format!("/v1/services/{service}")).await;
        assert_eq!(shown.status, 200, "{}", shown.body);
        shown.json()["revision"].as_u64().unwrap()
    }

    async fn weight_of(&self, backend: &str) -> u64 {
        find(&self.get("/v1/backends").await.json(), backend)["weight"].as_u64().unwrap()
    }
}

fn done(answer: &Answer) -> api::ApplyResult {
    assert_eq!(answer.status, 200, "{}", answer.body);
    let result: api::ApplyResult = serde_json::from_str(&answer.body).unwrap();
    assert!(result.saved, "{result:?}");
    result
}

#[test]
fn a_service_is_set_and_deleted_by_itself_and_that_is_kept() {
    test("a_service_is_set_and_deleted_by_itself_and_that_is_kept", async |place| {
        let text = config(place, 8080);
        let machine = Machine::start(place, &text);
        let set = done(&machine.ask("PUT", "/v1/services/api?wait=true", API).await);
        assert!(set.revision == 2 && set.acknowledged);
        // Asked for again, it is as it is.
        assert_eq!(done(&machine.ask("PUT", "/v1/services/api", API).await).revision, 2);
        let shown = machine.get("/v1/services/api").await.json();
        assert_eq!((&shown["whole"], &shown["changed_by"]), (&"set".into(), &2.into()));
        assert!(shown["config"].as_str().unwrap().contains("203.0.113.11"));
        assert!(machine.get("/v1/services/web").await.json()["whole"].is_null());
        let shown = machine.get("/v1/config").await.body;
        assert!(shown.starts_with("# service api: as the API has set it"), "{shown}");
        let plan = machine.post("/v1/plan", &text).await.json();
        assert_eq!(plan["plan"]["held"][0]["name"], "api");
        assert_eq!(plan["plan"]["services"].as_array().unwrap().len(), 2, "the API's service stays: {plan}");

        // A file that is applied changes what it may.
        let applied =
            machine.post("/v1/apply", &text.replace("maglev_size = 251", "maglev_size = 509")).await;
        assert_eq!(applied.json()["revision"], 3);
        assert_eq!(machine.get("/v1/services").await.json().as_array().unwrap().len(), 2);

        // The file's own service is deleted, whatever the file says.
        assert_eq!(done(&machine.ask("DELETE", "/v1/services/web", "").await).revision, 4);
        assert_eq!(done(&machine.ask("DELETE", "/v1/services/web", "").await).revision, 4);
        assert_eq!(machine.get("/v1/services/web").await.status, 404);
        for (method, path) in [("DELETE", "/v1/services/wb"), ("POST", "/v1/services/wb/release")] {
            let unknown = machine.ask(method, path, "").await;
            assert_eq!(unknown.status, 404, "{method}: {}", unknown.body);
            assert!(
                unknown.json()["error"].as_str().unwrap().contains("no service `wb`"),
                "{}",
                unknown.body
            );
        }
        machine.stop().await;
        let machine = Machine::start(place, &text);
        let names: Vec<_> = machine.get("/v1/services").await.json().as_array().unwrap().to_vec();
        assert_eq!((names.len(), &names[0]["name"]), (1, &"api".into()));
        // With the ids that they had behind those of the one that is gone.
        machine.until("/v1/ready", |answer| answer.status == 200).await;
        assert_eq!(
            machine.view_states(),
            [(BackendId(2), BackendState::Up), (BackendId(3), BackendState::Up)]
        );
        let told = machine.events(0).await.events;
        assert!(told.iter().any(|of| of.message.contains("holds over the file (api, web)")), "{told:?}");

        // Both are given back to the file, which knows one of them.
        done(&machine.ask("POST", "/v1/services/web/release", "").await);
        done(&machine.ask("POST", "/v1/services/api/release", "").await);
        let status = machine.get("/v1/status").await.json();
        assert_eq!((&status["services"], &status["config_is_file"]), (&1.into(), &true.into()));
        // Nothing is left of the one that only the API had set; what the file says can be released again.
        for (method, path, status) in [
            ("POST", "/v1/services/web/release", 200),
            ("POST", "/v1/services/api/release", 404),
            ("DELETE", "/v1/services/api", 404),
        ] {
            assert_eq!(machine.ask(method, path, "").await.status, status, "{method} {path}");
        }
        machine.stop().await;
    });
}

#[test]
fn a_backend_is_patched_and_who_is_late_is_told() {
    test("a_backend_is_patched_and_who_is_late_is_told", async |place| {
        let text = config(place, 8080);
        let machine = Machine::start(place, &text);
        let read_at = machine.revision_of("web").await;
        let b1 = "/v1/services/web/backends/b1";
        let patched = machine.ask("PATCH", &format!("{b1}?revision={read_at}"), r#"{"weight":5}"#).await;
        assert_eq!(done(&patched).revision, read_at + 1);
        assert_eq!(machine.weight_of("b1").await, 5);
        // Somebody else who has read the service before is late, with any change; who reads again is not.
        for (method, path, body) in [
            ("PATCH", "/v1/services/web/backends/b2", r#"{"state":"drain"}"#),
            ("DELETE", "/v1/services/web", ""),
            ("POST", "/v1/services/web/release", ""),
        ] {
            let late = machine.ask(method, &format!("{path}?revision={read_at}"), body).await;
            assert_eq!(late.status, 409, "{method}: {}", late.body);
            assert!(late.json()["error"].as_str().unwrap().contains("changed by revision"), "{}", late.body);
        }
        // Another service's owner is not in the way, whenever he has read.
        done(&machine.ask("PUT", &format!("/v1/services/api?revision={read_at}"), API).await);
        let b2 = format!("/v1/services/web/backends/b2?revision={}", machine.revision_of("web").await);
        done(&machine.ask("PATCH", &b2, r#"{"state":"drain"}"#).await);
        machine.until_state("b2", "drain").await;
        let now = machine.revision_of("web").await;
        for (path, body, status) in [
            (format!("{b1}?revision={}", now + 1), r#"{"weight":1}"#, 409),
            (b1.replace("b1", "b9"), r#"{"weight":1}"#, 404),
            (b1.replace("web", "wb"), r#"{"weight":1}"#, 404),
            (b1.to_owned(), "{}", 400),
            (b1.to_owned(), r#"{"weight":-1}"#, 400),
            (b1.to_owned(), r#"{"wight":1}"#, 400),
            (b1.to_owned(), r#"{"state":"gone"}"#, 400),
            (b1.to_owned(), r#"{"weight":4294967295}"#, 422),
        ] {
            let answer = machine.ask("PATCH", &path, body).await;
            assert_eq!(answer.status, status, "{path} {body}: {}", answer.body);
        }
        for body in ["x = ", "", &API.replace("api", "other"), "[machine]\nname = \"a\"\n", &API.repeat(2)] {
            let answer = machine.ask("PUT", "/v1/services/api", body).await;
            assert_eq!(answer.status, 422, "{body}: {}", answer.body);
        }
        assert_eq!(machine.revision_of("web").await, now, "nothing was changed");

        // A new file leaves the weight and the state alone, and so does a restart.
        let applied =
            machine.post("/v1/apply", &text.replace("maglev_size = 251", "maglev_size = 509")).await;
        assert_eq!(applied.json()["plan"]["held"][1]["backends"], serde_json::json!(["b1", "b2"]));
        assert_eq!(machine.weight_of("b1").await, 5);
        machine.stop().await;
        let machine = Machine::start(place, &text);
        assert_eq!(machine.weight_of("b1").await, 5);
        done(&machine.ask("POST", "/v1/services/web/release", "").await);
        assert_eq!(machine.weight_of("b1").await, 1);
        let events = machine.events(0).await.events;
        let changed = events.iter().find(|of| of.kind == EventKind::Apply).unwrap();
        assert_eq!(changed.service.as_deref(), Some("web"));
        assert!(changed.caller.as_deref().is_some_and(|by| by.starts_with("uid ")));
        machine.stop().await;

        // What does not fit the file any more is given up, and told.
        let machine = Machine::start(place, &text);
        done(&machine.ask("PUT", "/v1/services/api", API).await);
        machine.stop().await;
        let taken = text.replace("203.0.113.10", "203.0.113.11").replace("port = 80\n", "port = 443\n");
        let machine = Machine::start(place, &taken);
        let told = machine.events(0).await.events;
        assert!(told.iter().any(|of| of.message.contains("does not fit the file any more")), "{told:?}");
        assert_eq!(machine.get("/v1/services").await.json().as_array().unwrap().len(), 1);
        machine.stop().await;
    });
}

#[test]
fn a_service_whose_token_file_is_missing_is_refused_by_name() {
    test("services::a_service_whose_token_file_is_missing_is_refused_by_name", async |place| {
        let agents = "[agents]\nlisten = \"10.9.0.1:7480\"\n[workers]";
        let text = config(place, 8080).replace("[workers]", agents);
        let machine = Machine::start(place, &text);
        let token = place.join("none.token").display().to_string();
        let of_agents = format!(
            "[service.agents]\ntoken_file = \"{token}\"\n[service.health]\nkind = \"tcp\"\nvia = \"lo\"\n"
        );
        let body = format!("{API}{of_agents}");
        let refused = machine.ask("PUT", "/v1/services/api", &body).await;
        assert_eq!(refused.status, 422, "{}", refused.body);
        let (error, help) = (refused.json()["error"].clone(), refused.json()["help"].clone());
        assert!(
            error.as_str().unwrap().starts_with("service `api`, agents.token_file: cannot read "),
            "{error}"
        );
        assert!(error.as_str().unwrap().contains(&token), "{error}");
        assert!(help.as_str().unwrap().contains("nothing was changed"), "{help}");
        assert_eq!(machine.get("/v1/services/api").await.status, 404);
        // As it should be, it is taken.
        std::fs::write(&token, "0123456789abcdef\n").unwrap();
        done(&machine.ask("PUT", "/v1/services/api", &body).await);
        machine.stop().await;
    });
}

/// No store is there: what is the store's to keep is refused without asking it.
#[test]
fn what_a_cluster_does_not_do_is_refused_with_the_reason() {
    test("services::what_a_cluster_does_not_do_is_refused_with_the_reason", async |place| {
        let store = "[cluster]\nstore = \"etcd\"\nendpoints = [\"http://127.0.0.1:2379\"]\n[workers]";
        let text = config(place, 8080).replace("[workers]", store);
        let machine = Machine::start(place, &text);
        let patch = r#"{"weight":2}"#;
        for (method, path, body) in [
            ("GET", "/v1/history", ""),
            ("POST", "/v1/rollback?revision=1", ""),
            ("POST", "/v1/confirm", ""),
            ("POST", "/v1/apply?confirm_ms=60000", text.as_str()),
            ("PUT", "/v1/services/api", API),
            ("DELETE", "/v1/services/web", ""),
            ("DELETE", "/v1/services/unknown", ""),
            ("POST", "/v1/services/web/release", ""),
            ("PATCH", "/v1/services/web/backends/b1", patch),
        ] {
            let refused = machine.ask(method, path, body).await;
            assert_eq!(refused.status, 409, "{method} {path}: {}", refused.body);
            let (error, help) = (refused.json()["error"].clone(), refused.json()["help"].clone());
            assert_eq!(
                error,
                "this machine is in a cluster, whose store keeps what is wanted of all machines"
            );
            assert!(help.as_str().unwrap().contains("guideway apply FILE"), "{method} {path}: {help}");
        }
        // It is the store that is missing, and the machine says so.
        let apply = machine.ask("POST", "/v1/apply", &text).await;
        assert_eq!(apply.status, 503, "{}", apply.body);
        machine.stop().await;
        // Its plan has the ids; what its flow tables are keyed with is its own.
        let state = std::fs::read_to_string(place.join("state/state.json")).unwrap();
        let state: Value = serde_json::from_str(&state).unwrap();
        assert_eq!(state["flow_secrets"], serde_json::json!([11, 12]));
        assert_eq!(state["ids"], serde_json::json!({ "services": [], "backends": [] }));
    });
}
