//! Drains: no new flows for a backend by an operator's word.

use super::answer::{ApiAnswer, ask};
use super::endpoint::ApiEndpoint;
use super::extract::InPath;
use crate::caller::Caller;
use crate::drain;
use crate::handle::Handle;
use crate::state::saver::{SAVE_TIMEOUT, saved};
use crate::status;
use axum::Json;
use axum::extract::State;
use model::api::DrainResult;

pub(super) fn endpoints() -> Vec<ApiEndpoint> {
    let of_drain = "No new flows for the backend; old ones live on. Survives restarts";
    vec![
        ApiEndpoint::post("/v1/services/{service}/backends/{backend}/drain", "drain", of_drain, drain)
            .fails(&[404, 409, 503]),
        ApiEndpoint::post(
            "/v1/services/{service}/backends/{backend}/undrain",
            "undrain",
            "Takes a drain back",
            undrain,
        )
        .fails(&[404, 409, 503]),
    ]
}

async fn drain(
    State(handle): State<Handle>,
    caller: Caller,
    InPath((service, backend)): InPath<(String, String)>,
) -> ApiAnswer<DrainResult> {
    set_drain(&handle, caller, (service, backend), true).await
}

async fn undrain(
    State(handle): State<Handle>,
    caller: Caller,
    InPath((service, backend)): InPath<(String, String)>,
) -> ApiAnswer<DrainResult> {
    set_drain(&handle, caller, (service, backend), false).await
}

/// Answers after the drain is on disk, so that it outlives us.
async fn set_drain(
    handle: &Handle,
    caller: Caller,
    (service, backend): (String, String),
    drained: bool,
) -> ApiAnswer<DrainResult> {
    let (mut result, number, desire) =
        ask(handle, move |controller| drain::set_drain(controller, &caller, &service, &backend, drained))
            .await??;
    if let Some(desire) = desire {
        handle.desire(desire)?.accepted().await?.settled(SAVE_TIMEOUT).await?;
        let service = result.service.clone();
        (result.generation, result.backends_up) = ask(handle, move |controller| {
            (controller.publication.generation, status::backends_up(controller, &service))
        })
        .await?;
        return Ok(Json(result));
    }
    (result.saved, result.unsaved_because) = saved(number, &mut handle.written.clone()).await;
    Ok(Json(result))
}
