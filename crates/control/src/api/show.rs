//! What is shown: the machine and what it knows, as it is now.

use super::answer::{ApiAnswer, ApiFailure, ask};
use super::endpoint::{ApiEndpoint, in_json};
use super::extract::QueryParameters;
use crate::agents::shown;
use crate::caller::Caller;
use crate::cluster::show;
use crate::handle::Handle;
use crate::status;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use model::api::{
    AgentStatus, BackendStatus, ClusterStatus, DropCount, EVENTS_DEFAULT, EVENTS_KEPT, EVENTS_WAIT_MAX_MS,
    Events, ExceptionStatus, LeaveResult, OwnerStatus, PortStatus, Ready, RegistrationStatus, ServiceStatus,
    SourceRate, Status, WorkerStatus,
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::time::Duration;

pub(super) fn endpoints() -> Vec<ApiEndpoint> {
    let of_cluster = "The machine's part in its cluster, and the others; 409 for a machine alone";
    let of_sources = "Who sends most of what is dropped, or begins flows for which there is no room";
    let of_leave = "Hands over what the machine knows, leaves the cluster, and stops guidewayd";
    let of_backends = "Backends, removed ones with live flows included";
    let of_registrations = "Backends that agents speak for, or spoke for";
    vec![
        ApiEndpoint::get("/v1/ready", "ready", "Whether this machine should get traffic", ready)
            .also(200, |schemas| in_json::<Ready>(schemas, "Ready"))
            .also(503, |schemas| in_json::<Ready>(schemas, "Not ready, or stopping")),
        ApiEndpoint::get("/v1/status", "status", "The machine in one screen", status),
        ApiEndpoint::get("/v1/services", "services", "Services", services),
        ApiEndpoint::get("/v1/backends", "backends", of_backends, backends).fails(&[404]),
        ApiEndpoint::get("/v1/workers", "workers", "Workers", workers),
        ApiEndpoint::get("/v1/ports", "ports", "Data ports", ports),
        ApiEndpoint::get("/v1/drops", "drops", "Frames dropped, by reason", drops),
        ApiEndpoint::get("/v1/sources", "sources", of_sources, sources),
        ApiEndpoint::get("/v1/events", "events", "What happened, oldest first", events),
        ApiEndpoint::get("/v1/cluster", "cluster", of_cluster, cluster).fails(&[409]),
        ApiEndpoint::get("/v1/owners", "owners", "Who owns how many slots", owners).fails(&[404, 409]),
        ApiEndpoint::get("/v1/registrations", "registrations", of_registrations, registrations).fails(&[404]),
        ApiEndpoint::get("/v1/agents", "agents", "Agents that are connected", agents),
        ApiEndpoint::get(
            "/v1/exceptions",
            "exceptions",
            "Tainted slots by service and former backend",
            exceptions,
        )
        .fails(&[409]),
        ApiEndpoint::post("/v1/leave", "leave", of_leave, leave).fails(&[409, 503]),
    ]
}

async fn ready(State(handle): State<Handle>) -> Result<Response, ApiFailure> {
    let ready = ask(&handle, |controller| status::ready(controller)).await?;
    let status = if ready.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, Json(ready)).into_response())
}

async fn status(State(handle): State<Handle>) -> ApiAnswer<Status> {
    ask(&handle, |controller| status::status(controller)).await.map(Json)
}

async fn services(State(handle): State<Handle>) -> ApiAnswer<Vec<ServiceStatus>> {
    ask(&handle, |controller| status::services(controller)).await.map(Json)
}

async fn backends(
    State(handle): State<Handle>,
    QueryParameters(query): QueryParameters<ServiceQuery>,
) -> ApiAnswer<Vec<BackendStatus>> {
    let service = query.service;
    Ok(Json(ask(&handle, move |controller| status::backends_of(controller, service.as_deref())).await??))
}

async fn workers(State(handle): State<Handle>) -> ApiAnswer<Vec<WorkerStatus>> {
    ask(&handle, |controller| status::workers(controller)).await.map(Json)
}

async fn ports(State(handle): State<Handle>) -> ApiAnswer<Vec<PortStatus>> {
    ask(&handle, |controller| status::ports(controller)).await.map(Json)
}

async fn drops(State(handle): State<Handle>) -> ApiAnswer<Vec<DropCount>> {
    ask(&handle, |controller| status::drops(controller)).await.map(Json)
}

async fn sources(State(handle): State<Handle>) -> ApiAnswer<Vec<SourceRate>> {
    ask(&handle, |controller| status::sources(controller)).await.map(Json)
}

async fn cluster(State(handle): State<Handle>) -> ApiAnswer<ClusterStatus> {
    Ok(Json(ask(&handle, |controller| show::cluster_status(controller)).await??))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ServiceQuery {
    /// Only of this service
    service: Option<String>,
}

async fn owners(
    State(handle): State<Handle>,
    QueryParameters(query): QueryParameters<ServiceQuery>,
) -> ApiAnswer<Vec<OwnerStatus>> {
    let service = query.service;
    Ok(Json(ask(&handle, move |controller| show::owners(controller, service.as_deref())).await??))
}

async fn exceptions(State(handle): State<Handle>) -> ApiAnswer<Vec<ExceptionStatus>> {
    Ok(Json(ask(&handle, |controller| show::exceptions(controller)).await??))
}

async fn registrations(
    State(handle): State<Handle>,
    QueryParameters(query): QueryParameters<ServiceQuery>,
) -> ApiAnswer<Vec<RegistrationStatus>> {
    let service = query.service;
    Ok(Json(ask(&handle, move |controller| status::registrations_of(controller, service.as_deref())).await??))
}

async fn agents(State(handle): State<Handle>) -> ApiAnswer<Vec<AgentStatus>> {
    ask(&handle, |controller| shown::agents(controller)).await.map(Json)
}

async fn leave(State(handle): State<Handle>, caller: Caller) -> ApiAnswer<LeaveResult> {
    Ok(Json(ask(&handle, move |controller| show::leave(controller, &caller)).await??))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct EventQuery {
    /// Only events with a larger id
    #[schemars(extend("default" = 0))]
    after: Option<u64>,
    /// Events at most
    #[schemars(range(min = 1, max = EVENTS_KEPT), extend("default" = EVENTS_DEFAULT))]
    limit: Option<usize>,
    /// Wait so long for an event if there is none, milliseconds
    #[schemars(range(max = EVENTS_WAIT_MAX_MS), extend("default" = 0))]
    wait_ms: Option<u64>,
}

async fn events(
    State(handle): State<Handle>,
    QueryParameters(query): QueryParameters<EventQuery>,
) -> ApiAnswer<Events> {
    let after = query.after.unwrap_or(0);
    let limit = query.limit.unwrap_or(EVENTS_DEFAULT);
    if !(1..=EVENTS_KEPT).contains(&limit) {
        return Err(ApiFailure::bad_request(format!("limit {limit} is not in 1 to {EVENTS_KEPT}")));
    }
    let wait_ms = query.wait_ms.unwrap_or(0);
    if wait_ms > EVENTS_WAIT_MAX_MS {
        return Err(ApiFailure::bad_request(format!("wait_ms {wait_ms} is above {EVENTS_WAIT_MAX_MS}")));
    }
    if wait_ms > 0 {
        let mut last = handle.last_event.clone();
        // An id from before a restart is above all of ours: answer at once, so that the client notices.
        let waits = *last.borrow() == after;
        if waits {
            let new = last.wait_for(|last| *last > after);
            let _ = tokio::time::timeout(Duration::from_millis(wait_ms), new).await;
        }
    }
    ask(&handle, move |controller| controller.log.after(after, limit)).await.map(Json)
}
