//! The OpenAPI document. Schemas come from the types themselves, so they cannot disagree.

use model::api;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

/// OpenAPI 3.0, all routes.
pub(crate) fn document() -> Value {
    let mut schemas = SchemaSettings::openapi3().into_generator();
    let mut paths = Map::new();
    let mut add = |path: &str, method: &str, operation: Value| {
        let entry = paths.entry(path.to_owned()).or_insert_with(|| json!({}));
        entry[method] = operation;
    };
    let s = &mut schemas;

    let ready = json!({
        "summary": "Whether this machine should get traffic",
        "operationId": "ready",
        "responses": {
            "200": json_body::<api::Ready>(s, "Ready"),
            "503": json_body::<api::Ready>(s, "Not ready, or stopping"),
        },
    });
    add("/v1/ready", "get", ready);
    add("/v1/status", "get", get::<api::Status>(s, "status", "The machine in one screen", &[], &[]));
    add("/v1/services", "get", get::<Vec<api::ServiceStatus>>(s, "services", "Services", &[], &[]));
    let of_service = [query("service", "string", "Only of this service")];
    let backends = "Backends, removed ones with live flows included";
    let backends = get::<Vec<api::BackendStatus>>(s, "backends", backends, &of_service, &[400, 404]);
    add("/v1/backends", "get", backends);
    add("/v1/workers", "get", get::<Vec<api::WorkerStatus>>(s, "workers", "Workers", &[], &[]));
    add("/v1/ports", "get", get::<Vec<api::PortStatus>>(s, "ports", "Data ports", &[], &[]));
    add("/v1/drops", "get", get::<Vec<api::DropCount>>(s, "drops", "Frames dropped, by reason", &[], &[]));
    let help = "Who sends most of what is dropped, or begins flows for which there is no room";
    add("/v1/sources", "get", get::<Vec<api::SourceRate>>(s, "sources", help, &[], &[]));
    let flows = [
        query("limit", "integer", &format!("1 to {}; default {}", api::FLOWS_MAX, api::FLOWS_DEFAULT)),
        query("service", "string", "Only flows of this service"),
        query("client", "string", "Only flows from this address or prefix"),
    ];
    add("/v1/flows", "get", get::<api::Flows>(s, "flows", "Tracked flows", &flows, &[400, 404]));
    flow_commands(s, &mut add);
    capture(s, &mut add);
    let events = [
        query("after", "integer", "Only events with a larger id; default 0"),
        query("limit", "integer", &format!("1 to {}; default {}", api::EVENTS_KEPT, api::EVENTS_DEFAULT)),
        query(
            "wait_ms",
            "integer",
            &format!("Wait so long for an event if there is none; at most {}", api::EVENTS_WAIT_MAX_MS),
        ),
    ];
    add("/v1/events", "get", get::<api::Events>(s, "events", "What happened, oldest first", &events, &[400]));
    let in_cluster = "The machine's part in its cluster, and the others; 409 for a machine alone";
    add("/v1/cluster", "get", get::<api::ClusterStatus>(s, "cluster", in_cluster, &[], &[409]));
    add(
        "/v1/owners",
        "get",
        get::<Vec<api::OwnerStatus>>(s, "owners", "Who owns how many slots", &of_service, &[400, 404, 409]),
    );
    let registrations = "Backends that agents speak for, or spoke for";
    let registrations =
        get::<Vec<api::RegistrationStatus>>(s, "registrations", registrations, &of_service, &[400, 404]);
    add("/v1/registrations", "get", registrations);
    add(
        "/v1/agents",
        "get",
        get::<Vec<api::AgentStatus>>(s, "agents", "Agents that are connected", &[], &[]),
    );
    let exceptions = "Tainted slots by service and former backend";
    add("/v1/exceptions", "get", get::<Vec<api::ExceptionStatus>>(s, "exceptions", exceptions, &[], &[409]));
    let leaves = "Hands over what the machine knows, leaves the cluster, and stops guidewayd";
    add("/v1/leave", "post", post::<api::LeaveResult>(s, "leave", leaves, &[], &[409, 503]));
    let config = json!({
        "summary": "The configuration in force, as it was applied",
        "operationId": "config",
        "responses": {
            "200": { "description": "TOML", "content": { "application/toml": { "schema": { "type": "string" } } } },
        },
    });
    add("/v1/config", "get", config);

    let mut check =
        post::<api::CheckedConfig>(s, "check", "Checks a configuration", &[], &[400, 408, 413, 415, 422]);
    check["requestBody"] = toml_body();
    add("/v1/check", "post", check);
    let mut plan =
        post::<api::PlanResult>(s, "plan", "Says what applying it would do", &[], &[400, 408, 413, 415, 422]);
    plan["requestBody"] = toml_body();
    add("/v1/plan", "post", plan);
    let wait = [
        query("wait", "boolean", "Answer when every worker uses it; default false"),
        query(
            "timeout_ms",
            "integer",
            &format!(
                "Wait at most so long; default {}, at most {}",
                api::APPLY_TIMEOUT_DEFAULT_MS,
                api::APPLY_TIMEOUT_MAX_MS
            ),
        ),
    ];
    let mut apply = post::<api::ApplyResult>(
        s,
        "apply",
        "Applies a configuration, or changes nothing; 409 names keys that need a restart",
        &wait,
        &[400, 408, 409, 413, 415, 422, 503],
    );
    apply["requestBody"] = toml_body();
    add("/v1/apply", "post", apply);
    let reload = post::<api::ApplyResult>(
        s,
        "reload",
        "Reads the file again and applies it",
        &wait,
        &[400, 409, 422, 500, 503],
    );
    add("/v1/reload", "post", reload);
    let names = [path("service", "Name of the service"), path("backend", "Name of the backend")];
    for (word, summary) in [
        ("drain", "No new flows for the backend; old ones live on. Survives restarts"),
        ("undrain", "Takes a drain back"),
    ] {
        let operation = post::<api::DrainResult>(s, word, summary, &names, &[400, 404, 409, 503]);
        add(&format!("/v1/services/{{service}}/backends/{{backend}}/{word}"), "post", operation);
    }
    let metrics = json!({
        "summary": "Metrics for Prometheus",
        "operationId": "metrics",
        "responses": {
            "200": {
                "description": "Prometheus text 0.0.4",
                "content": { "text/plain": { "schema": { "type": "string" } } },
            },
        },
    });
    add("/metrics", "get", metrics);
    let openapi = json!({
        "summary": "This document",
        "operationId": "openapi",
        "responses": {
            "200": {
                "description": "OpenAPI 3.0",
                "content": { "application/json": { "schema": { "type": "object" } } },
            },
        },
    });
    add("/v1/openapi.json", "get", openapi);

    let _ = s.subschema_for::<api::ErrorBody>();
    let definitions = schemas.take_definitions(true);
    json!({
        "openapi": "3.0.3",
        "info": {
            "title": "guidewayd",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Management of one Guideway machine. Served on a unix socket (mode 0660, group guideway), and on TCP with a bearer token where api.listen is set. Every answer that is not a success has a body of ErrorBody.",
            "license": { "name": "Apache-2.0" },
        },
        "servers": [{ "url": "http://localhost", "description": "By way of the unix socket api.socket" }],
        "security": [{}, { "token": [] }],
        "paths": paths,
        "components": {
            "schemas": definitions,
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "First line of api.token_file; TCP only" },
            },
        },
    })
}

/// What is asked of workers about single flows.
fn flow_commands(s: &mut SchemaGenerator, add: &mut impl FnMut(&str, &str, Value)) {
    let one = [
        required("service", "Name of the service"),
        required("client", "Source address and port: `198.51.100.7:4000` or `[2001:db8::7]:4000`"),
        query("to", "string", "Destination address and port; needed where the service has more than one"),
    ];
    let summary = "What the workers know of one flow; 503 names a worker that does not answer";
    let describe = get::<api::DescribedFlow>(s, "describe_flow", summary, &one, &[400, 404, 503]);
    add("/v1/flows/describe", "get", describe);
    let summary =
        "Removes the flow's entries; its next packet is steered as one of a flow that nobody tracks";
    let forget = post::<api::ForgottenFlow>(s, "forget_flow", summary, &one, &[400, 404, 503]);
    add("/v1/flows/forget", "post", forget);
    let pieces = [
        query("service", "string", "Only flows of this service"),
        query("cursor", "string", "`next` of the answer before; without it the first piece"),
    ];
    let summary = "Tracked flows, piece by piece, as they can be restored";
    let dump = get::<api::FlowDump>(s, "dump_flows", summary, &pieces, &[400, 404, 503]);
    add("/v1/flows/dump", "get", dump);
    let summary = "Gives flows of a dump their entries, as old as they were; lines that do not fit are named";
    let mut restore =
        post::<api::RestoredFlows>(s, "restore_flows", summary, &[], &[400, 408, 413, 415, 503]);
    restore["requestBody"] = json!({
        "required": true,
        "description": format!(
            "A StoredFlow in each line, at most {} lines of {} bytes and {} bytes in all",
            api::RESTORE_LINES_MAX,
            api::RESTORE_LINE_MAX,
            api::RESTORE_BODY_MAX
        ),
        "content": { "application/x-ndjson": { "schema": { "type": "string" } } },
    });
    add("/v1/flows/restore", "post", restore);
}

/// Frames as they are received and sent.
fn capture(s: &mut SchemaGenerator, add: &mut impl FnMut(&str, &str, Value)) {
    let wanted = [
        query("service", "string", "Only packets of this service"),
        query("reason", "string", "Only frames dropped, or answered, for this reason"),
        query("client", "string", "Only packets from or to this address, by their outermost header"),
        query(
            "count",
            "integer",
            &format!("End after so many frames received; 1 to {}; default no limit", api::CAPTURE_COUNT_MAX),
        ),
        query(
            "snap",
            "integer",
            &format!(
                "Bytes of each frame that are kept; {} to {}; default {}",
                api::CAPTURE_SNAP_MIN,
                api::CAPTURE_SNAP_MAX,
                api::CAPTURE_SNAP_DEFAULT
            ),
        ),
    ];
    let summary = format!(
        "Begins to capture; it ends by itself when nobody asks for a piece for {} s; 409 while another one runs",
        api::CAPTURE_IDLE_S
    );
    let mut begin =
        post::<api::CaptureBegun>(s, "begin_capture", &summary, &wanted, &[400, 404, 409, 500, 503]);
    begin["responses"]["409"]["description"] = json!("Another capture runs");
    begin["responses"]["500"]["description"] = json!("The file cannot be begun");
    add("/v1/capture", "post", begin);
    let mut id = query("id", "integer", "The capture, as the answer to its begin says");
    id["required"] = json!(true);
    let wait = format!("Wait so long for frames if there is none; at most {}", api::CAPTURE_WAIT_MAX_MS);
    let wait = query("wait_ms", "integer", &wait);
    let summary = "The next piece of the capture's file (pcapng); one behind the other they are the file";
    let mut piece = get::<()>(s, "capture", summary, &[id.clone(), wait], &[400, 404, 409, 503]);
    let header = |kind: &str, text: &str| json!({ "description": text, "schema": { "type": kind } });
    piece["responses"]["200"] = json!({
        "description": "Part of a pcapng file",
        "content": { "application/octet-stream": { "schema": { "type": "string", "format": "binary" } } },
        "headers": {
            api::CAPTURE_STATE: header("string", "`running`, or `over` with the last piece: then the capture is gone"),
            api::CAPTURE_FRAMES: header("integer", "Frames captured so far, as they were received"),
            api::CAPTURE_BLOCKS: header("integer", "Blocks written so far"),
            api::CAPTURE_MISSED: header("integer", "Frames that were not copied, because no room was left"),
        },
    });
    piece["responses"]["409"]["description"] = json!("Somebody else is being given a piece of it");
    add("/v1/capture", "get", piece);
    let summary = "Ends a capture; what was copied is given by further requests for pieces";
    let end = post::<api::CaptureFigures>(s, "end_capture", summary, &[id], &[400, 404, 503]);
    add("/v1/capture/end", "post", end);
}

fn json_body<T: JsonSchema>(schemas: &mut SchemaGenerator, description: &str) -> Value {
    let schema = schemas.subschema_for::<T>();
    json!({ "description": description, "content": { "application/json": { "schema": schema } } })
}

fn toml_body() -> Value {
    json!({
        "required": true,
        "description": format!("Configuration, at most {} bytes", api::BODY_MAX),
        "content": { "application/toml": { "schema": { "type": "string" } } },
    })
}

fn get<T: JsonSchema>(
    schemas: &mut SchemaGenerator,
    id: &str,
    summary: &str,
    parameters: &[Value],
    failures: &[u16],
) -> Value {
    let mut responses = Map::new();
    responses.insert("200".to_owned(), json_body::<T>(schemas, "Success"));
    for status in failures {
        responses.insert(status.to_string(), json_body::<api::ErrorBody>(schemas, meaning(*status)));
    }
    json!({ "summary": summary, "operationId": id, "parameters": parameters, "responses": responses })
}

fn post<T: JsonSchema>(
    schemas: &mut SchemaGenerator,
    id: &str,
    summary: &str,
    parameters: &[Value],
    failures: &[u16],
) -> Value {
    get::<T>(schemas, id, summary, parameters, failures)
}

fn meaning(status: u16) -> &'static str {
    match status {
        400 => "Bad request",
        404 => "No such service, backend or capture",
        408 => "The body did not arrive in time",
        409 => "Keys that need a restart differ; they are named, nothing was changed",
        413 => "Body too large",
        415 => "Not what the route takes",
        422 => "Bad configuration; diagnostics give line, column and help, nothing was changed",
        500 => "The file cannot be read",
        _ => "Stopping, or not now: the error says why",
    }
}

fn query(name: &str, kind: &str, description: &str) -> Value {
    json!({ "name": name, "in": "query", "required": false, "description": description, "schema": { "type": kind } })
}

fn required(name: &str, description: &str) -> Value {
    json!({ "name": name, "in": "query", "required": true, "description": description, "schema": { "type": "string" } })
}

fn path(name: &str, description: &str) -> Value {
    json!({ "name": name, "in": "path", "required": true, "description": description, "schema": { "type": "string" } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// All references of a document.
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(object) => {
                for (key, value) in object {
                    if let (true, Some(target)) = (key == "$ref", value.as_str()) {
                        found.push(target);
                    }
                    references(value, found);
                }
            }
            Value::Array(array) => array.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn it_describes_the_routes_that_are_served_and_no_others() {
        let document = document();
        let described: BTreeSet<(&str, &str)> = (document["paths"].as_object().unwrap().iter())
            .flat_map(|(path, of)| {
                of.as_object().unwrap().keys().map(|method| (path.as_str(), method.as_str()))
            })
            .collect();
        let routes = crate::api::routes();
        let served: BTreeSet<(&str, &str)> = routes.iter().map(|route| (route.path, route.method)).collect();
        assert_eq!(served, described);
        assert_eq!(served.len(), routes.len());
        for route in routes.iter().filter(|route| route.path != "/metrics") {
            let operation = &document["paths"][route.path][route.method];
            let of_query = |parameter: &&Value| parameter["in"] == "query";
            let parameters = operation["parameters"].as_array();
            let has_query = parameters.is_some_and(|all| all.iter().any(|one| of_query(&one)));
            assert_eq!(has_query, route.reads_query, "{}", route.path);
            assert!(!has_query || operation["responses"]["400"].is_object(), "{}", route.path);
        }
    }

    #[test]
    fn every_reference_is_defined_and_every_operation_has_an_id_of_its_own() {
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 20, "{found:?}");
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        let mut ids = BTreeSet::new();
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                let id = operation["operationId"].as_str().unwrap();
                assert!(ids.insert(id.to_owned()), "{method} {path}: {id} twice");
                assert!(operation["responses"].as_object().is_some_and(|r| r.contains_key("200")), "{path}");
            }
        }
    }
}
