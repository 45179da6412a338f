//! The HTTP/JSON API (docs/adr/0010).
//!
//! Rule of this module: a handler owns nothing. It sends the controller a closure and answers with what the
//! closure returned; every answer that is not a success has a body of [`ErrorBody`](model::api::ErrorBody). An [`ApiEndpoint`] stands beside its
//! handler, and nowhere else.

use crate::handle::Handle;
use axum::Router;
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use credentials::Credentials;
use endpoint::ApiEndpoint;
use subtle::ConstantTimeEq as _;
use tokio::sync::watch;

pub(crate) mod answer;
mod body;
pub(crate) mod caller;
mod capture;
mod configuration;
pub(crate) mod connections;
pub(crate) mod credentials;
mod drain;
mod endpoint;
mod exchange;
mod extract;
mod flow_commands;
mod flows;
pub(crate) mod listener;
mod masked;
mod openapi;
mod page;
mod services;
mod show;

use answer::ApiFailure;

/// Every endpoint.
pub(crate) fn endpoints() -> Vec<ApiEndpoint> {
    let of_flows = flows::endpoints().into_iter().chain(flow_commands::endpoints());
    let all = show::endpoints().into_iter().chain(of_flows).chain(capture::endpoints());
    let all = all.chain(configuration::endpoints()).chain(services::endpoints()).chain(drain::endpoints());
    all.chain([openapi::endpoint(), page::endpoint()]).collect()
}

/// Every route, for the unix socket and `api.listen`.
pub(crate) fn router(handle: Handle) -> Router {
    serve(endpoints(), handle, async |request: Request| unknown(&request, "GET /v1/openapi.json lists them"))
}

/// `/metrics` alone, for `metrics.listen`.
pub(crate) fn metrics_router(handle: Handle) -> Router {
    let help = "this port has GET /metrics alone; the API is at api.socket and api.listen";
    let open = endpoints().into_iter().filter(|of| of.is_for_scrapers).collect();
    serve(open, handle, async move |request: Request| unknown(&request, help))
}

fn serve<T: 'static>(
    endpoints: Vec<ApiEndpoint>,
    handle: Handle,
    fallback: impl Handler<T, Handle>,
) -> Router {
    let mut router = Router::new().fallback(fallback);
    for ApiEndpoint { path, takes_query, handler, .. } in endpoints {
        let handler = if takes_query { handler } else { handler.layer(middleware::from_fn(refuse_query)) };
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
    // Takes as long wherever they differ.
    if pair.is_some_and(|(given, token)| given.as_bytes().ct_eq(token.as_bytes()).into()) {
        return next.run(request).await;
    }
    let failure = ApiFailure::new(
        StatusCode::UNAUTHORIZED,
        if given.is_some() { "wrong token" } else { "no token" },
        "send `Authorization: Bearer <first line of api.token_file>`",
    );
    let mut response = failure.into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn unknown(request: &Request, help: &str) -> ApiFailure {
    ApiFailure::new(StatusCode::NOT_FOUND, format!("no such route: {}", request.uri().path()), help)
}

async fn refuse_query(request: Request, next: Next) -> Response {
    match request.uri().query() {
        None | Some("") => next.run(request).await,
        Some(query) => {
            let path = request.uri().path();
            ApiFailure::bad_request(format!("{path} has no parameters: `{query}`")).into_response()
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
    let failure =
        ApiFailure::new(StatusCode::METHOD_NOT_ALLOWED, "this route does not have this method", help);
    let allow = response.headers().get(header::ALLOW).cloned();
    let mut response = failure.into_response();
    if let Some(allow) = allow {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}
