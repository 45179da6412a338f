//! Drains: no new flows for a backend by an operator's word.

use super::endpoint::Endpoint;
use super::extract::InPath;
use super::{Answer, ask};
use crate::drain;
use crate::handle::Handle;
use crate::status;
use axum::Json;
use axum::extract::State;
use model::api::DrainResult;
use std::time::Duration;

/// Longest time an answer waits for the disk.
const SAVE_TIMEOUT: Duration = Duration::from_secs(5);

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
    State(handle): State<Handle>,
    InPath((service, backend)): InPath<(String, String)>,
) -> Answer<DrainResult> {
    set_drain(&handle, service, backend, true).await
}

async fn undrain(
    State(handle): State<Handle>,
    InPath((service, backend)): InPath<(String, String)>,
) -> Answer<DrainResult> {
    set_drain(&handle, service, backend, false).await
}

/// Answers after the drain is on disk, so that it outlives us.
async fn set_drain(handle: &Handle, service: String, backend: String, drained: bool) -> Answer<DrainResult> {
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
