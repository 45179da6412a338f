//! Tracked flows, as they are searched for.

use super::answer::{ApiAnswer, ApiFailure, ask};
use super::endpoint::ApiEndpoint;
use super::extract::QueryParameters;
use crate::flows;
use crate::handle::Handle;
use crate::status;
use axum::Json;
use axum::extract::State;
use model::api::{FLOWS_DEFAULT, FLOWS_MAX, Flows};
use model::config::Net;
use schemars::JsonSchema;
use serde::Deserialize;

pub(super) fn endpoints() -> Vec<ApiEndpoint> {
    vec![ApiEndpoint::get("/v1/flows", "flows", "Tracked flows", list_flows).fails(&[404])]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FlowQuery {
    /// Flows at most
    #[schemars(range(min = 1, max = FLOWS_MAX), extend("default" = FLOWS_DEFAULT))]
    limit: Option<usize>,
    /// Only flows of this service
    service: Option<String>,
    /// Only flows from this address or prefix
    client: Option<String>,
}

async fn list_flows(
    State(handle): State<Handle>,
    QueryParameters(query): QueryParameters<FlowQuery>,
) -> ApiAnswer<Flows> {
    let limit = query.limit.unwrap_or(FLOWS_DEFAULT);
    if !(1..=FLOWS_MAX).contains(&limit) {
        return Err(ApiFailure::bad_request(format!("limit {limit} is not in 1 to {FLOWS_MAX}")));
    }
    let client = match query.client.as_deref().filter(|client| !client.is_empty()) {
        None => None,
        Some(text) => Some(
            text.parse::<Net>()
                .map_err(|error| ApiFailure::bad_request(format!("client `{text}`: {error}")))?,
        ),
    };
    let service = query.service.filter(|service| !service.is_empty());
    let search = ask(&handle, move |controller| status::search_flows(controller, service.as_deref(), client))
        .await??;
    Ok(Json(flows::search(search, limit).await))
}
