//! What handlers take from a request, with a [`ApiFailure`] where it cannot be read.

use super::answer::ApiFailure;
use super::endpoint::{Operation, Reads, parameter};
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// QueryParameters in the query: the fields of `Q`. Unknown ones are refused where `Q` says so.
pub(super) struct QueryParameters<Q>(pub(super) Q);

impl<S: Send + Sync, Q: DeserializeOwned> FromRequestParts<S> for QueryParameters<Q> {
    type Rejection = ApiFailure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiFailure> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(query)) => Ok(QueryParameters(query)),
            Err(rejection) => Err(ApiFailure::bad_request(rejection.body_text())),
        }
    }
}

impl<Q: JsonSchema> Reads for QueryParameters<Q> {
    const QUERY: bool = true;
    const FAILS: &'static [u16] = &[400];

    fn describe(operation: &mut Operation, _schemas: &mut SchemaGenerator) {
        let settings = SchemaSettings::openapi3().with(|of| of.inline_subschemas = true);
        let schema = settings.into_generator().into_root_schema_for::<Q>().to_value();
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        let Some(fields) = schema["properties"].as_object() else { return };
        operation.parameters.extend(fields.iter().map(|(name, field)| {
            let is_required = required.iter().any(|of| of.as_str() == Some(name));
            let mut field = field.clone();
            let line = field.as_object_mut().and_then(|of| {
                // One that is left out is not null.
                of.remove("nullable");
                of.remove("description")
            });
            let mut described = parameter(
                "query",
                name,
                is_required,
                line.as_ref().and_then(Value::as_str).unwrap_or_default(),
            );
            described["schema"] = field;
            described
        }));
    }
}

/// The names in the path.
pub(super) struct InPath<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for InPath<T> {
    type Rejection = ApiFailure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiFailure> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(names)) => Ok(InPath(names)),
            Err(rejection) => Err(ApiFailure::bad_request(rejection.body_text())),
        }
    }
}

// The path itself says which.
impl<T> Reads for InPath<T> {}
