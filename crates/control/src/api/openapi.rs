//! The OpenAPI document, made of the endpoints. Schemas come from the types themselves, so they cannot disagree.

use super::endpoint::ApiEndpoint;
use super::{ApiFailure, endpoints};
use crate::handle::Handle;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use model::api;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

pub(super) fn endpoint() -> ApiEndpoint {
    let schema = json!({ "type": "object" });
    ApiEndpoint::get("/v1/openapi.json", "openapi", "This document", openapi).answers(
        json!({ "description": "OpenAPI 3.0", "content": { "application/json": { "schema": schema } } }),
    )
}

async fn openapi(_door: State<Handle>) -> Result<Response, ApiFailure> {
    Ok(Json(document()).into_response())
}

/// OpenAPI 3.0, all endpoints.
fn document() -> Value {
    let mut schemas = SchemaSettings::openapi3().into_generator();
    let mut paths = Map::new();
    for endpoint in endpoints() {
        let entry = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        entry[endpoint.method] = endpoint.operation(&mut schemas);
    }
    let _ = schemas.subschema_for::<api::ErrorBody>();
    let definitions = schemas.take_definitions(true);
    json!({
        "openapi": "3.0.3",
        "info": {
            "title": "guidewayd",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Management of one Guideway machine. Served on a unix socket (mode 0660, \
             group guideway), and on TCP with a bearer token where api.listen is set. Every answer \
             that is not a success has a body of ErrorBody.",
            "license": { "name": "Apache-2.0" },
        },
        "servers": [{ "url": "http://localhost", "description": "By way of the unix socket api.socket" }],
        "security": [{}, { "token": [] }],
        "paths": paths,
        "components": {
            "schemas": definitions,
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "First line of \
                 api.token_file; TCP only" },
            },
        },
    })
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
    fn no_endpoint_hides_another_and_what_is_read_can_fail() {
        let document = document();
        let endpoints = endpoints();
        let mut methods = 0;
        for (path, operations) in document["paths"].as_object().unwrap() {
            methods += operations.as_object().unwrap().len();
            assert!(path.starts_with("/v1/") || path == "/metrics", "{path}");
        }
        assert_eq!(methods, endpoints.len());
        for of in endpoints.iter().filter(|of| !of.is_for_scrapers) {
            let operation = &document["paths"][of.path][of.method];
            let parameters = operation["parameters"].as_array().unwrap();
            let in_query: Vec<_> = parameters.iter().filter(|of| of["in"] == "query").collect();
            assert_eq!(!in_query.is_empty(), of.takes_query, "{}", of.path);
            assert!(parameters.is_empty() || operation["responses"]["400"].is_object(), "{}", of.path);
            for parameter in parameters {
                let described = parameter["description"].as_str().unwrap();
                assert!(described.len() > 5 && parameter["schema"]["type"].is_string(), "{parameter}");
            }
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
