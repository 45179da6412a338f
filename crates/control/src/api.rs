//! The HTTP/JSON API (docs/adr/0010).
//!
//! Rule of this module: a handler owns nothing. It sends the controller a closure and answers with what the
//! closure returned; every answer that is not a success has a body of [`ErrorBody`].

use crate::agents::shown;
use crate::apply::{self, Applied, Source};
use crate::cluster::show;
use crate::drain;
use crate::handle::Handle;
use crate::status;
use crate::{flows, openapi};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::handler::Handler;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{self, MethodRouter};
use axum::{Json, Router};
use body::read_toml;
use credentials::Credentials;
use model::api::{
    APPLY_TIMEOUT_DEFAULT_MS, APPLY_TIMEOUT_MAX_MS, EVENTS_DEFAULT, EVENTS_KEPT, EVENTS_WAIT_MAX_MS,
    FLOWS_DEFAULT, FLOWS_MAX,
};
use serde::Deserialize;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

pub(crate) mod answer;
mod body;
mod capture;
pub(crate) mod connections;
pub(crate) mod credentials;
mod exchange;
mod flow_commands;
pub(crate) mod listener;
mod masked;
pub(crate) mod page;

use answer::{Answer, Failure, ask, read_query};

/// Longest time an answer waits for the disk.
const SAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// One method of one path.
pub(crate) struct Route {
    /// `get` or `post`, as the OpenAPI document names it.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "the handler knows; for the comparison with the document")
    )]
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    /// Whether it reads its query; of all others a query is refused, because it would be ignored.
    pub(crate) reads_query: bool,
    handler: MethodRouter<Handle>,
}

impl Route {
    fn get<T: 'static>(path: &'static str, handler: impl Handler<T, Handle>) -> Route {
        Route { method: "get", path, reads_query: false, handler: routing::get(handler) }
    }

    fn post<T: 'static>(path: &'static str, handler: impl Handler<T, Handle>) -> Route {
        Route { method: "post", path, reads_query: false, handler: routing::post(handler) }
    }

    fn reads_query(self) -> Route {
        Route { reads_query: true, ..self }
    }
}

/// Every route; a test compares them with the OpenAPI document.
pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/ready", ready),
        Route::get("/v1/status", status),
        Route::get("/v1/services", services),
        Route::get("/v1/backends", backends).reads_query(),
        Route::get("/v1/workers", workers),
        Route::get("/v1/ports", ports),
        Route::get("/v1/drops", drops),
        Route::get("/v1/sources", sources),
        Route::get("/v1/flows", list_flows).reads_query(),
        Route::get("/v1/flows/describe", flow_commands::describe).reads_query(),
        Route::post("/v1/flows/forget", flow_commands::forget).reads_query(),
        Route::get("/v1/flows/dump", flow_commands::dump).reads_query(),
        Route::post("/v1/flows/restore", flow_commands::restore),
        Route::post("/v1/capture", capture::begin).reads_query(),
        Route::get("/v1/capture", capture::piece).reads_query(),
        Route::post("/v1/capture/end", capture::end).reads_query(),
        Route::get("/v1/events", events).reads_query(),
        Route::get("/v1/cluster", cluster),
        Route::get("/v1/owners", owners).reads_query(),
        Route::get("/v1/registrations", registrations).reads_query(),
        Route::get("/v1/agents", agents),
        Route::get("/v1/exceptions", exceptions),
        Route::post("/v1/leave", leave),
        Route::get("/v1/config", config),
        Route::post("/v1/check", check),
        Route::post("/v1/plan", plan),
        Route::post("/v1/apply", apply).reads_query(),
        Route::post("/v1/reload", reload).reads_query(),
        Route::post("/v1/services/{service}/backends/{backend}/drain", drain),
        Route::post("/v1/services/{service}/backends/{backend}/undrain", undrain),
        Route::get("/v1/openapi.json", async || Json(openapi::document())),
        metrics_route(),
    ]
}

/// Prometheus sends what its `params` say with every scrape; here they change nothing.
fn metrics_route() -> Route {
    Route::get("/metrics", prometheus).reads_query()
}

/// Every route, for the unix socket and `api.listen`.
pub(crate) fn router(handle: Handle) -> Router {
    serve(routes(), handle, async |request: Request| unknown(&request, "GET /v1/openapi.json lists them"))
}

/// `/metrics` alone, for `metrics.listen`.
pub(crate) fn metrics_router(handle: Handle) -> Router {
    let help = "this port has GET /metrics alone; the API is at api.socket and api.listen";
    serve(vec![metrics_route()], handle, async move |request: Request| unknown(&request, help))
}

fn serve<T: 'static>(routes: Vec<Route>, handle: Handle, fallback: impl Handler<T, Handle>) -> Router {
    let mut router = Router::new().fallback(fallback);
    for Route { path, reads_query, handler, .. } in routes {
        let handler = if reads_query { handler } else { handler.layer(middleware::from_fn(refuse_query)) };
        router = router.route(path, handler);
    }
    // A router adds `Allow` to its 405 after its own layers have run, so the body is made around it.
    Router::new().fallback_service(router.with_state(handle)).layer(middleware::map_response(explain_method))
}

/// Adds the demand for a bearer token.
pub(crate) fn with_token(router: Router, credentials: watch::Receiver<Credentials>) -> Router {
    router.layer(middleware::from_fn_with_state(credentials, require_token))
}

async fn require_token(
    State(credentials): State<watch::Receiver<Credentials>>,
    request: Request,
    next: Next,
) -> Response {
    let token = credentials.borrow().token.clone();
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, given)| given.trim());
    let pair = given.zip(token.as_deref());
    if pair.is_some_and(|(given, token)| equal_in_constant_time(given.as_bytes(), token.as_bytes())) {
        return next.run(request).await;
    }
    let failure = Failure::new(
        StatusCode::UNAUTHORIZED,
        if given.is_some() { "wrong token" } else { "no token" },
        "send `Authorization: Bearer <first line of api.token_file>`",
    );
    let mut response = failure.into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// Time depends on the lengths only.
fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

fn unknown(request: &Request, help: &str) -> Failure {
    Failure::new(StatusCode::NOT_FOUND, format!("no such route: {}", request.uri().path()), help)
}

async fn refuse_query(request: Request, next: Next) -> Response {
    match request.uri().query() {
        None | Some("") => next.run(request).await,
        Some(query) => {
            let path = request.uri().path();
            Failure::bad_request(format!("{path} has no parameters: `{query}`")).into_response()
        }
    }
}

/// Gives the router's bare 405 a body; its `Allow` header stays.
async fn explain_method(response: Response) -> Response {
    if response.status() != StatusCode::METHOD_NOT_ALLOWED {
        return response;
    }
    let allowed = response.headers().get(header::ALLOW).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let help = format!("allowed: {allowed}");
    let failure = Failure::new(StatusCode::METHOD_NOT_ALLOWED, "this route does not have this method", help);
    let allow = response.headers().get(header::ALLOW).cloned();
    let mut response = failure.into_response();
    if let Some(allow) = allow {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

async fn ready(State(handle): State<Handle>) -> Result<Response, Failure> {
    let ready = ask(&handle, |controller| status::ready(controller)).await?;
    let status = if ready.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, Json(ready)).into_response())
}

async fn status(State(handle): State<Handle>) -> Answer<model::api::Status> {
    ask(&handle, |controller| status::status(controller)).await.map(Json)
}

async fn services(State(handle): State<Handle>) -> Answer<Vec<model::api::ServiceStatus>> {
    ask(&handle, |controller| status::services(controller)).await.map(Json)
}

async fn backends(
    State(handle): State<Handle>,
    query: Result<Query<ServiceQuery>, QueryRejection>,
) -> Answer<Vec<model::api::BackendStatus>> {
    let service = read_query(query)?.service;
    Ok(Json(ask(&handle, move |controller| status::backends_of(controller, service.as_deref())).await??))
}

async fn workers(State(handle): State<Handle>) -> Answer<Vec<model::api::WorkerStatus>> {
    ask(&handle, |controller| status::workers(controller)).await.map(Json)
}

async fn ports(State(handle): State<Handle>) -> Answer<Vec<model::api::PortStatus>> {
    ask(&handle, |controller| status::ports(controller)).await.map(Json)
}

async fn drops(State(handle): State<Handle>) -> Answer<Vec<model::api::DropCount>> {
    ask(&handle, |controller| status::drops(controller)).await.map(Json)
}

async fn sources(State(handle): State<Handle>) -> Answer<Vec<model::api::SourceRate>> {
    ask(&handle, |controller| status::sources(controller)).await.map(Json)
}

async fn cluster(State(handle): State<Handle>) -> Answer<model::api::ClusterStatus> {
    Ok(Json(ask(&handle, |controller| show::cluster_status(controller)).await??))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceQuery {
    service: Option<String>,
}

async fn owners(
    State(handle): State<Handle>,
    query: Result<Query<ServiceQuery>, QueryRejection>,
) -> Answer<Vec<model::api::OwnerStatus>> {
    let service = read_query(query)?.service;
    Ok(Json(ask(&handle, move |controller| show::owners(controller, service.as_deref())).await??))
}

async fn exceptions(State(handle): State<Handle>) -> Answer<Vec<model::api::ExceptionStatus>> {
    Ok(Json(ask(&handle, |controller| show::exceptions(controller)).await??))
}

async fn registrations(
    State(handle): State<Handle>,
    query: Result<Query<ServiceQuery>, QueryRejection>,
) -> Answer<Vec<model::api::RegistrationStatus>> {
    let service = read_query(query)?.service;
    Ok(Json(ask(&handle, move |controller| status::registrations_of(controller, service.as_deref())).await??))
}

async fn agents(State(handle): State<Handle>) -> Answer<Vec<model::api::AgentStatus>> {
    ask(&handle, |controller| shown::agents(controller)).await.map(Json)
}

async fn leave(State(handle): State<Handle>) -> Answer<model::api::LeaveResult> {
    Ok(Json(ask(&handle, show::leave).await??))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FlowQuery {
    limit: Option<usize>,
    service: Option<String>,
    client: Option<String>,
}

async fn list_flows(
    State(handle): State<Handle>,
    query: Result<Query<FlowQuery>, QueryRejection>,
) -> Answer<model::api::Flows> {
    let query = read_query(query)?;
    let limit = query.limit.unwrap_or(FLOWS_DEFAULT);
    if !(1..=FLOWS_MAX).contains(&limit) {
        return Err(Failure::bad_request(format!("limit {limit} is not in 1 to {FLOWS_MAX}")));
    }
    let client = match query.client.as_deref().filter(|client| !client.is_empty()) {
        None => None,
        Some(text) => Some(
            text.parse::<model::config::Net>()
                .map_err(|error| Failure::bad_request(format!("client `{text}`: {error}")))?,
        ),
    };
    let service = query.service.filter(|service| !service.is_empty());
    let search = ask(&handle, move |controller| status::search_flows(controller, service.as_deref(), client))
        .await??;
    Ok(Json(flows::search(search, limit).await))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventQuery {
    after: Option<u64>,
    limit: Option<usize>,
    wait_ms: Option<u64>,
}

async fn events(
    State(handle): State<Handle>,
    query: Result<Query<EventQuery>, QueryRejection>,
) -> Answer<model::api::Events> {
    let query = read_query(query)?;
    let after = query.after.unwrap_or(0);
    let limit = query.limit.unwrap_or(EVENTS_DEFAULT);
    if !(1..=EVENTS_KEPT).contains(&limit) {
        return Err(Failure::bad_request(format!("limit {limit} is not in 1 to {EVENTS_KEPT}")));
    }
    let wait_ms = query.wait_ms.unwrap_or(0);
    if wait_ms > EVENTS_WAIT_MAX_MS {
        return Err(Failure::bad_request(format!("wait_ms {wait_ms} is above {EVENTS_WAIT_MAX_MS}")));
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

async fn config(State(handle): State<Handle>) -> Result<Response, Failure> {
    let (text, config) =
        ask(&handle, |controller| (controller.text.clone(), Arc::clone(&controller.config))).await?;
    let text = masked::masked(&text, &config).into_owned();
    Ok(([(header::CONTENT_TYPE, "application/toml; charset=utf-8")], text).into_response())
}

async fn check(State(handle): State<Handle>, request: Request) -> Answer<model::api::CheckedConfig> {
    let text = read_toml(request).await?;
    Ok(Json(apply::prepare(&handle, Source::Request(text)).await?.checked()))
}

async fn plan(State(handle): State<Handle>, request: Request) -> Answer<model::api::PlanResult> {
    let text = read_toml(request).await?;
    let prepared = apply::prepare(&handle, Source::Request(text)).await?;
    let (prepared, count) = ask(&handle, move |controller| {
        let count = apply::forecast_of(controller, &prepared);
        (prepared, count)
    })
    .await?;
    let mut result = model::api::PlanResult { plan: prepared.plan, warnings: prepared.loaded.warnings };
    if let Some(count) = count
        && let Some(plan) = result.plan.as_object_mut()
    {
        let forecast = serde_json::to_value(count.make().await).unwrap_or_default();
        plan.insert("cluster".to_owned(), forecast);
    }
    Ok(Json(result))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApplyQuery {
    wait: Option<bool>,
    timeout_ms: Option<u64>,
}

impl ApplyQuery {
    /// How long to wait for acknowledgements.
    fn wait(&self) -> Result<Duration, Failure> {
        let timeout_ms = self.timeout_ms.unwrap_or(APPLY_TIMEOUT_DEFAULT_MS);
        if timeout_ms > APPLY_TIMEOUT_MAX_MS {
            let error = format!("timeout_ms {timeout_ms} is above {APPLY_TIMEOUT_MAX_MS}");
            return Err(Failure::bad_request(error));
        }
        Ok(Duration::from_millis(if self.wait.unwrap_or(false) { timeout_ms } else { 0 }))
    }
}

async fn apply(
    State(handle): State<Handle>,
    query: Result<Query<ApplyQuery>, QueryRejection>,
    request: Request,
) -> Answer<model::api::ApplyResult> {
    let wait = read_query(query)?.wait()?;
    let text = read_toml(request).await?;
    install(&handle, wait, Source::Request(text)).await
}

async fn reload(
    State(handle): State<Handle>,
    query: Result<Query<ApplyQuery>, QueryRejection>,
) -> Answer<model::api::ApplyResult> {
    let wait = read_query(query)?.wait()?;
    install(&handle, wait, Source::File).await
}

/// One configuration at a time, from acceptance to acknowledgement.
async fn install(handle: &Handle, wait: Duration, source: Source) -> Answer<model::api::ApplyResult> {
    let begun = Instant::now();
    let _turn = handle.applying.acquire().await.map_err(|_| Failure::stopping())?;
    let Applied { mut result, desired } = apply::apply(handle, source).await?;
    if let Some(desired) = desired {
        // Until every machine has carried it out.
        result.acknowledged = desired.accepted().await?.settled(wait).await?;
        result.generation = ask(handle, |controller| controller.publication.generation).await?;
        result.duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        return Ok(Json(result));
    }
    let mut acknowledged = handle.acknowledged.clone();
    if !wait.is_zero() {
        let reached = acknowledged.wait_for(|generation| *generation >= result.generation);
        let _ = tokio::time::timeout(wait, reached).await;
    }
    result.acknowledged = *acknowledged.borrow() >= result.generation;
    result.duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Json(result))
}

async fn drain(
    State(handle): State<Handle>,
    names: Result<Path<(String, String)>, PathRejection>,
) -> Answer<model::api::DrainResult> {
    set_drain(&handle, names, true).await
}

async fn undrain(
    State(handle): State<Handle>,
    names: Result<Path<(String, String)>, PathRejection>,
) -> Answer<model::api::DrainResult> {
    set_drain(&handle, names, false).await
}

/// Answers after the drain is on disk, so that it outlives us.
async fn set_drain(
    handle: &Handle,
    names: Result<Path<(String, String)>, PathRejection>,
    drained: bool,
) -> Answer<model::api::DrainResult> {
    let Path((service, backend)) = names.map_err(|rejection| Failure::bad_request(rejection.body_text()))?;
    let (mut result, number, desire) =
        ask(handle, move |controller| drain::set_drain(controller, &service, &backend, drained)).await??;
    if let Some(desire) = desire {
        handle.desire(desire)?.accepted().await?.settled(SAVE_TIMEOUT).await?;
        let service = result.service.clone();
        (result.generation, result.backends_up) = ask(handle, move |controller| {
            (controller.publication.generation, status::backends_up(controller, &service))
        })
        .await?;
        return Ok(Json(result));
    }
    let mut written = handle.written.clone();
    // Should that fail, the change is in force all the same; only its survival is in doubt, which the answer tells.
    let tried = written.wait_for(|written| written.saved >= number || written.tried >= number);
    let _ = tokio::time::timeout(SAVE_TIMEOUT, tried).await;
    let written = written.borrow();
    result.saved = written.saved >= number;
    if !result.saved {
        let why = written.error.as_deref().unwrap_or("the disk has not answered yet");
        result.unsaved_because = Some(why.to_owned());
    }
    Ok(Json(result))
}

async fn prometheus(State(handle): State<Handle>) -> Result<Response, Failure> {
    handle
        .pages
        .answer(handle.ask(|controller| status::snapshot(controller)))
        .await
        .ok_or_else(Failure::stopping)
}
