//! Configurations: shown, checked, planned, applied.

use super::body::Toml;
use super::endpoint::{Endpoint, in_text};
use super::extract::Parameters;
use super::masked::masked;
use super::{Answer, Failure, ask};
use crate::apply::{self, Applied, Source};
use crate::handle::Handle;
use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use model::api::{APPLY_TIMEOUT_DEFAULT_MS, APPLY_TIMEOUT_MAX_MS, ApplyResult, CheckedConfig, PlanResult};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) fn endpoints() -> Vec<Endpoint> {
    let of_apply = "Applies a configuration, or changes nothing; 409 names keys that need a restart";
    vec![
        Endpoint::get("/v1/config", "config", "The configuration in force, as it was applied", config)
            .answers(in_text("application/toml", "TOML")),
        Endpoint::post("/v1/check", "check", "Checks a configuration", check).fails(&[422]),
        Endpoint::post("/v1/plan", "plan", "Says what applying it would do", plan).fails(&[422]),
        Endpoint::post("/v1/apply", "apply", of_apply, apply).fails(&[409, 422, 503]),
        Endpoint::post("/v1/reload", "reload", "Reads the file again and applies it", reload)
            .fails(&[409, 422, 500, 503]),
    ]
}

async fn config(State(handle): State<Handle>) -> Result<Response, Failure> {
    let (text, config) =
        ask(&handle, |controller| (controller.text.clone(), Arc::clone(&controller.config))).await?;
    let text = masked(&text, &config).into_owned();
    Ok(([(header::CONTENT_TYPE, "application/toml; charset=utf-8")], text).into_response())
}

async fn check(State(handle): State<Handle>, Toml(text): Toml) -> Answer<CheckedConfig> {
    Ok(Json(apply::prepare(&handle, Source::Request(text)).await?.checked()))
}

async fn plan(State(handle): State<Handle>, Toml(text): Toml) -> Answer<PlanResult> {
    let prepared = apply::prepare(&handle, Source::Request(text)).await?;
    let (prepared, count) = ask(&handle, move |controller| {
        let count = apply::forecast_of(controller, &prepared);
        (prepared, count)
    })
    .await?;
    let mut result = PlanResult { plan: prepared.plan, warnings: prepared.loaded.warnings };
    if let Some(count) = count
        && let Some(plan) = result.plan.as_object_mut()
    {
        let forecast = serde_json::to_value(count.make().await).unwrap_or_default();
        plan.insert("cluster".to_owned(), forecast);
    }
    Ok(Json(result))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ApplyQuery {
    /// Answer when every worker uses it
    #[schemars(extend("default" = false))]
    wait: Option<bool>,
    /// Wait at most so long, milliseconds
    #[schemars(range(max = APPLY_TIMEOUT_MAX_MS), extend("default" = APPLY_TIMEOUT_DEFAULT_MS))]
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
    Parameters(query): Parameters<ApplyQuery>,
    Toml(text): Toml,
) -> Answer<ApplyResult> {
    let wait = query.wait()?;
    install(&handle, wait, Source::Request(text)).await
}

async fn reload(
    State(handle): State<Handle>,
    Parameters(query): Parameters<ApplyQuery>,
) -> Answer<ApplyResult> {
    let wait = query.wait()?;
    install(&handle, wait, Source::File).await
}

/// One configuration at a time, from acceptance to acknowledgement.
async fn install(handle: &Handle, wait: Duration, source: Source) -> Answer<ApplyResult> {
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
