//! Drains: no new flows for a backend by an operator's word.

use super::caller::Caller;
use super::endpoint::Endpoint;
use super::extract::InPath;
use super::{Answer, SAVE_TIMEOUT, ask, saved};
use crate::truth::Door;
use axum::Json;
use axum::extract::State;
use model::api::DrainResult;

pub(super) fn endpoints() -> Vec<Endpoint> {
    let of_drain = "No new flows for the backend; old ones live on. Survives restarts";
    vec![
        Endpoint::post("/v1/services/{service}/backends/{backend}/drain", "drain", of_drain, drain)
            .fails(&[404, 409, 503]),
        Endpoint::post(
            "/v1/services/{service}/backends/{backend}/undrain",
            "undrain",
            "Takes a drain back",
            undrain,
        )
        .fails(&[404, 409, 503]),
    ]
}

async fn drain(
    State(door): State<Door>,
    caller: Caller,
    InPath((service, backend)): InPath<(String, String)>,
) -> Answer<DrainResult> {
    set_drain(&door, caller, (service, backend), true).await
}

async fn undrain(
    State(door): State<Door>,
    caller: Caller,
    InPath((service, backend)): InPath<(String, String)>,
) -> Answer<DrainResult> {
    set_drain(&door, caller, (service, backend), false).await
}

/// Answers after the drain is on disk, so that it outlives us.
async fn set_drain(
    door: &Door,
    caller: Caller,
    (service, backend): (String, String),
    drained: bool,
) -> Answer<DrainResult> {
    let (mut result, number, mut written, wished) =
        ask(door, move |truth| truth.set_drain(&caller, &service, &backend, drained)).await??;
    if let Some(wished) = wished {
        wished.accepted().await?.settled(SAVE_TIMEOUT).await?;
        let service = result.service.clone();
        (result.generation, result.backends_up) =
            ask(door, move |truth| (truth.generation, truth.backends_up(&service))).await?;
        return Ok(Json(result));
    }
    (result.saved, result.unsaved_because) = saved(number, &mut written).await;
    Ok(Json(result))
}
