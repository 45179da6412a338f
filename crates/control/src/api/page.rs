//! `GET /metrics`.

use super::answer::Failure;
use super::endpoint::{Endpoint, in_text};
use crate::handle::Handle;
use crate::status;
use axum::extract::State;
use axum::response::Response;

pub(super) fn endpoint() -> Endpoint {
    // Prometheus sends what its `params` say with every scrape.
    Endpoint::get("/metrics", "metrics", "Metrics for Prometheus", prometheus)
        .answers(in_text("text/plain", "Prometheus text 0.0.4"))
        .for_scrapers()
}

async fn prometheus(State(handle): State<Handle>) -> Result<Response, Failure> {
    handle
        .pages
        .answer(handle.ask(|controller| status::snapshot(controller)))
        .await
        .ok_or_else(Failure::stopping)
}
