//! One service, or one backend, by itself: several owners need not send one whole file.

use super::answer::{ApiAnswer, ApiFailure, ask};
use super::body::{JsonBody, Toml};
use super::configuration::{ApplyQuery, install_and_save};
use super::endpoint::ApiEndpoint;
use super::extract::{InPath, QueryParameters};
use crate::apply::Source;
use crate::caller::Caller;
use crate::handle::Handle;
use crate::refusal::Refusal;
use crate::revision::overrides::{ServiceChange, part_of};
use axum::Json;
use axum::extract::State;
use model::api::{APPLY_TIMEOUT_DEFAULT_MS, APPLY_TIMEOUT_MAX_MS, ApplyResult, BackendPatch, ServiceConfig};
use schemars::JsonSchema;
use serde::Deserialize;

pub(super) fn endpoints() -> Vec<ApiEndpoint> {
    let of_get = "One service as it is in force, as part of a configuration, and whose word that is";
    let of_put = "Sets one service: the body is what stands in a configuration from [[service]] on. It \
                  holds over the file, \
                  also after a restart, a reload and an apply, until it is released";
    let of_delete = "Deletes one service, whatever the file says, until it is released. Again, it \
                     changes nothing where the \
                     file has the service, and is 404 where only a PUT had set it: nothing of that name \
                     is known then";
    let of_release = "Has one service be as the file says again. Again, it changes nothing";
    let unknown = "Neither the file nor what was said by the API knows a service of that name";
    let of_patch = "Sets weight and state of one backend, over what the file or a PUT says, until its \
                    service is released or set";
    let overtaken = "Somebody was faster: the service was changed after the revision. Or a cluster, a \
                     key that needs a restart";
    vec![
        ApiEndpoint::get("/v1/services/{service}", "service", of_get, show).fails(&[404]),
        ApiEndpoint::put("/v1/services/{service}", "set_service", of_put, set)
            .fails(&[422, 503])
            .fails_as(409, overtaken),
        ApiEndpoint::delete("/v1/services/{service}", "delete_service", of_delete, delete)
            .fails(&[422, 503])
            .fails_as(404, unknown)
            .fails_as(409, overtaken),
        ApiEndpoint::post("/v1/services/{service}/release", "release_service", of_release, release)
            .fails(&[422, 503])
            .fails_as(404, unknown)
            .fails_as(409, overtaken),
        ApiEndpoint::patch("/v1/services/{service}/backends/{backend}", "patch_backend", of_patch, patch)
            .fails(&[404, 422, 503])
            .fails_as(409, overtaken),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ChangeQuery {
    /// The revision in which the service was read: 409 if it was changed since. Without it the change is made in any case
    revision: Option<u64>,
    /// ApiAnswer when every worker uses it
    #[schemars(extend("default" = false))]
    wait: Option<bool>,
    /// Wait at most so long, milliseconds
    #[schemars(range(max = APPLY_TIMEOUT_MAX_MS), extend("default" = APPLY_TIMEOUT_DEFAULT_MS))]
    timeout_ms: Option<u64>,
}

async fn show(State(handle): State<Handle>, InPath(service): InPath<String>) -> ApiAnswer<ServiceConfig> {
    // Reading takes as long as the configuration is.
    let _place = handle.preparing.acquire().await.map_err(|_| ApiFailure::stopping())?;
    let asked = service.clone();
    let (content, text, mut shown) = ask(&handle, move |controller| {
        let held = controller.revisions.content().and_then(|of| {
            let (_, whole, backends) = of.overrides.held().find(|(name, ..)| *name == asked)?;
            Some((whole.map(str::to_owned), backends.into_iter().map(str::to_owned).collect()))
        });
        let (whole, backends) = held.unwrap_or_default();
        let shown = ServiceConfig {
            revision: controller.revisions.number(),
            changed_by: controller.revisions.changed_by(&asked),
            name: asked,
            whole,
            backends,
            config: String::new(),
        };
        let content = controller.revisions.content().cloned();
        let text = if content.is_none() { controller.text.clone() } else { String::new() };
        (content, text, shown)
    })
    .await?;
    let name = service.clone();
    let part = tokio::task::spawn_blocking(move || match content {
        None => part_of(&text, &name),
        Some(of) => part_of(&of.overrides.over(&of.base).ok()?, &name),
    })
    .await;
    shown.config = part.map_err(|_| ApiFailure::stopping())?.ok_or(Refusal::UnknownService(service))?;
    Ok(Json(shown))
}

async fn set(
    State(handle): State<Handle>,
    caller: Caller,
    InPath(service): InPath<String>,
    QueryParameters(query): QueryParameters<ChangeQuery>,
    Toml(text): Toml,
) -> ApiAnswer<ApplyResult> {
    change(&handle, caller, service, query, ServiceChange::Set(text)).await
}

async fn delete(
    State(handle): State<Handle>,
    caller: Caller,
    InPath(service): InPath<String>,
    QueryParameters(query): QueryParameters<ChangeQuery>,
) -> ApiAnswer<ApplyResult> {
    change(&handle, caller, service, query, ServiceChange::Delete).await
}

async fn release(
    State(handle): State<Handle>,
    caller: Caller,
    InPath(service): InPath<String>,
    QueryParameters(query): QueryParameters<ChangeQuery>,
) -> ApiAnswer<ApplyResult> {
    change(&handle, caller, service, query, ServiceChange::Release).await
}

async fn patch(
    State(handle): State<Handle>,
    caller: Caller,
    InPath((service, backend)): InPath<(String, String)>,
    QueryParameters(query): QueryParameters<ChangeQuery>,
    JsonBody(patch): JsonBody<BackendPatch>,
) -> ApiAnswer<ApplyResult> {
    if patch == BackendPatch::default() {
        return Err(ApiFailure::bad_request("the body names neither `weight` nor `state`"));
    }
    change(&handle, caller, service, query, ServiceChange::Patch { backend, patch }).await
}

async fn change(
    handle: &Handle,
    caller: Caller,
    service: String,
    query: ChangeQuery,
    change: ServiceChange,
) -> ApiAnswer<ApplyResult> {
    let ChangeQuery { revision: read_at, wait, timeout_ms } = query;
    let wait = ApplyQuery { wait, timeout_ms, confirm_ms: None }.wait()?;
    install_and_save(handle, caller, wait, Source::Service { service, change, read_at }).await
}
