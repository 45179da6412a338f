//! Configurations: shown, checked, planned, applied.

use super::answer::{ApiAnswer, ApiFailure, ask};
use super::body::Toml;
use super::endpoint::{ApiEndpoint, in_text};
use super::extract::QueryParameters;
use super::masked::masked;
use crate::apply::{self, Applied, ApplyRequest, Source};
use crate::caller::Caller;
use crate::handle::Handle;
use crate::meter::ThreadJob;
use crate::refusal::Refusal;
use crate::revision::ledger::{ChangeOrigin, Revision};
use crate::state::saver::saved;
use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use model::api::{
    APPLY_TIMEOUT_DEFAULT_MS, APPLY_TIMEOUT_MAX_MS, ApplyResult, CONFIRM_MAX_MS, CONFIRM_MIN_MS,
    CheckedConfig, ConfirmResult, History, PlanResult, RevisionStatus,
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Shortest and longest trial.
const CONFIRM_MIN: Duration = Duration::from_millis(CONFIRM_MIN_MS);
const CONFIRM_MAX: Duration = Duration::from_millis(CONFIRM_MAX_MS);

pub(super) fn endpoints() -> Vec<ApiEndpoint> {
    let of_apply = "Applies a configuration, or changes nothing; 409 names keys that need a restart";
    let of_rollback = "Puts in force again what was before, checked as by apply; 409 names keys that \
                       need a restart, or a cluster";
    vec![
        ApiEndpoint::get("/v1/config", "config", "The configuration in force, as it was applied", config)
            .answers(in_text("application/toml", "TOML")),
        ApiEndpoint::post("/v1/check", "check", "Checks a configuration", check).fails(&[422]),
        ApiEndpoint::post("/v1/plan", "plan", "Says what applying it would do", plan).fails(&[422]),
        ApiEndpoint::post("/v1/apply", "apply", of_apply, apply).fails(&[409, 422, 503]),
        ApiEndpoint::post("/v1/reload", "reload", "Reads the file again and applies it", reload)
            .fails(&[409, 422, 500, 503]),
        ApiEndpoint::post("/v1/confirm", "confirm", "Has a revision stay that is in force on trial", confirm)
            .fails_as(409, "No revision waits, or another one, or a cluster"),
        ApiEndpoint::get(
            "/v1/history",
            "history",
            "Configurations that were in force, the newest first",
            history,
        )
        .fails_as(409, "A machine in a cluster has no revisions"),
        ApiEndpoint::post("/v1/rollback", "rollback", of_rollback, rollback)
            .fails(&[409, 422, 503])
            .fails_as(404, "No such revision is kept"),
    ]
}

async fn config(State(handle): State<Handle>) -> Result<Response, ApiFailure> {
    let (text, config) =
        ask(&handle, |controller| (controller.text.clone(), Arc::clone(&controller.config))).await?;
    let text = masked(&text, &config).into_owned();
    Ok(([(header::CONTENT_TYPE, "application/toml; charset=utf-8")], text).into_response())
}

async fn check(State(handle): State<Handle>, Toml(text): Toml) -> ApiAnswer<CheckedConfig> {
    Ok(Json(apply::prepare(&handle, Source::Request(text), false).await?.checked()))
}

async fn plan(State(handle): State<Handle>, Toml(text): Toml) -> ApiAnswer<PlanResult> {
    let prepared = apply::prepare(&handle, Source::Request(text), false).await?;
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
pub(super) struct ApplyQuery {
    /// ApiAnswer when every worker uses it
    #[schemars(extend("default" = false))]
    pub(super) wait: Option<bool>,
    /// Wait at most so long, milliseconds
    #[schemars(range(max = APPLY_TIMEOUT_MAX_MS), extend("default" = APPLY_TIMEOUT_DEFAULT_MS))]
    pub(super) timeout_ms: Option<u64>,
    /// Go back by itself unless somebody confirms within so long, milliseconds; of `apply` only
    #[schemars(range(min = CONFIRM_MIN_MS, max = CONFIRM_MAX_MS))]
    pub(super) confirm_ms: Option<u64>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ConfirmQuery {
    /// The revision that is meant; without it the one that waits
    revision: Option<u64>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RollbackQuery {
    /// Number of what is to be in force again, see `GET /v1/history`
    revision: u64,
    /// ApiAnswer when every worker uses it
    #[schemars(extend("default" = false))]
    wait: Option<bool>,
    /// Wait at most so long, milliseconds
    #[schemars(range(max = APPLY_TIMEOUT_MAX_MS), extend("default" = APPLY_TIMEOUT_DEFAULT_MS))]
    timeout_ms: Option<u64>,
}

impl ApplyQuery {
    /// How long to wait for acknowledgements.
    pub(super) fn wait(&self) -> Result<Duration, ApiFailure> {
        let timeout_ms = self.timeout_ms.unwrap_or(APPLY_TIMEOUT_DEFAULT_MS);
        if timeout_ms > APPLY_TIMEOUT_MAX_MS {
            let error = format!("timeout_ms {timeout_ms} is above {APPLY_TIMEOUT_MAX_MS}");
            return Err(ApiFailure::bad_request(error));
        }
        Ok(Duration::from_millis(if self.wait.unwrap_or(false) { timeout_ms } else { 0 }))
    }
}

async fn apply(
    State(handle): State<Handle>,
    caller: Caller,
    QueryParameters(query): QueryParameters<ApplyQuery>,
    Toml(text): Toml,
) -> ApiAnswer<ApplyResult> {
    let wait = query.wait()?;
    let confirm = query.confirm_ms.map(Duration::from_millis);
    if confirm.is_some_and(|within| !(CONFIRM_MIN..=CONFIRM_MAX).contains(&within)) {
        let range = format!("{CONFIRM_MIN_MS} to {CONFIRM_MAX_MS}");
        return Err(ApiFailure::bad_request(format!("confirm_ms is not in {range}")));
    }
    let order = ApplyRequest { confirm, ..ApplyRequest::of(caller, Source::Request(text)) };
    let (mut result, number) = installed(&handle, wait, order).await?;
    if result.confirm_within_ms.is_some() {
        (result.saved, result.unsaved_because) = saved(number, &mut handle.written.clone()).await;
        let left_ms = ask(&handle, |controller| apply::trial_left_ms(controller)).await?;
        result.confirm_within_ms = Some(left_ms.unwrap_or(0));
    }
    Ok(Json(result))
}

async fn reload(
    State(handle): State<Handle>,
    caller: Caller,
    QueryParameters(query): QueryParameters<ApplyQuery>,
) -> ApiAnswer<ApplyResult> {
    let wait = query.wait()?;
    if query.confirm_ms.is_some() {
        return Err(ApiFailure::bad_request("confirm_ms is a parameter of /v1/apply"));
    }
    let order = ApplyRequest::of(caller, Source::File);
    installed(&handle, wait, order).await.map(|(result, _)| Json(result))
}

/// Installs, and answers after it is on the disk, so that it outlives us.
pub(super) async fn install_and_save(
    handle: &Handle,
    caller: Caller,
    wait: Duration,
    source: Source,
) -> ApiAnswer<ApplyResult> {
    let order = ApplyRequest::of(caller, source);
    let (mut result, number) = installed(handle, wait, order).await?;
    (result.saved, result.unsaved_because) = saved(number, &mut handle.written.clone()).await;
    Ok(Json(result))
}

/// One configuration at a time, from acceptance to acknowledgement. The number is that of the state to be saved.
async fn installed(
    handle: &Handle,
    wait: Duration,
    order: ApplyRequest,
) -> Result<(ApplyResult, u64), ApiFailure> {
    let begun = Instant::now();
    let turn = handle.applying.acquire().await.map_err(|_| ApiFailure::stopping())?;
    let confirm = order.confirm;
    // A task, so that a trial has somebody who ends it also when the client has gone.
    let (own, meter) = (handle.clone(), handle.meter.clone());
    let of_trial = meter.clone();
    let applying = async move {
        let applied = apply::apply(&own, order).await?;
        if let Some(within) = confirm.filter(|_| applied.result.confirm_within_ms.is_some()) {
            let watched = apply::watch_trial(own.clone(), applied.result.revision, within);
            tokio::spawn(of_trial.watch(ThreadJob::Configure, watched));
        }
        Ok::<_, Refusal>(applied)
    };
    let applied = tokio::spawn(meter.watch(ThreadJob::Conversation, applying)).await;
    let Applied { mut result, desired, saving } = applied.map_err(|_| ApiFailure::stopping())??;
    // A trial goes back in time whoever waits for what.
    let _turn = confirm.is_none().then_some(turn);
    if let Some(desired) = desired {
        // Until every machine has carried it out.
        result.acknowledged = desired.accepted().await?.settled(wait).await?;
        result.generation = ask(handle, |controller| controller.publication.generation).await?;
    } else {
        let mut acknowledged = handle.acknowledged.clone();
        if !wait.is_zero() {
            let reached = acknowledged.wait_for(|generation| *generation >= result.generation);
            let _ = tokio::time::timeout(wait, reached).await;
        }
        result.acknowledged = *acknowledged.borrow() >= result.generation;
    }
    result.duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok((result, saving))
}

async fn confirm(
    State(handle): State<Handle>,
    caller: Caller,
    QueryParameters(query): QueryParameters<ConfirmQuery>,
) -> ApiAnswer<ConfirmResult> {
    let confirmed = ask(&handle, move |controller| apply::confirm(controller, &caller, query.revision));
    let (revision, number) = confirmed.await??;
    let (saved, unsaved_because) = saved(number, &mut handle.written.clone()).await;
    Ok(Json(ConfirmResult { revision, saved, unsaved_because }))
}

async fn history(State(handle): State<Handle>) -> ApiAnswer<History> {
    let history = ask(&handle, |controller| match &controller.cluster {
        Some(_) => Err(Refusal::Clustered),
        None => Ok(History {
            revisions: controller.revisions.newest_first().map(shown).collect(),
            confirm_within_ms: apply::trial_left_ms(controller),
        }),
    });
    Ok(Json(history.await??))
}

fn shown(revision: &Revision) -> RevisionStatus {
    let ChangeOrigin { unix_ms, caller, what, .. } = revision.change.clone();
    RevisionStatus { number: revision.number, unix_ms, caller, change: what }
}

async fn rollback(
    State(handle): State<Handle>,
    caller: Caller,
    QueryParameters(query): QueryParameters<RollbackQuery>,
) -> ApiAnswer<ApplyResult> {
    let wait = ApplyQuery { wait: query.wait, timeout_ms: query.timeout_ms, confirm_ms: None }.wait()?;
    install_and_save(&handle, caller, wait, Source::Revision(query.revision)).await
}
