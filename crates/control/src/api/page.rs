//! `GET /metrics`.

use super::answer::ApiFailure;
use super::endpoint::{ApiEndpoint, in_text};
use crate::handle::Handle;
use crate::status;
use axum::extract::State;
use axum::response::Response;

pub(super) fn endpoint() -> ApiEndpoint {
    // Prometheus sends what its `params` say with every scrape.
    ApiEndpoint::get("/metrics", "metrics", "Metrics for Prometheus", prometheus)
        .answers(in_text("text/plain", "Prometheus text 0.0.4"))
        .for_scrapers()
}

async fn prometheus(State(handle): State<Handle>) -> Result<Response, ApiFailure> {
    handle
        .pages
        .answer(handle.ask(|controller| status::snapshot(controller)))
        .await
        .ok_or_else(ApiFailure::stopping)
}
