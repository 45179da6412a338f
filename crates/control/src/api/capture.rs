//! Captures: begun, read piece by piece, ended.
//!
//! A task of each one ([`keep`]) sees to it that its taps come home, whoever lets it end, and that none is left to which nobody listens.

use super::answer::{ApiAnswer, ApiFailure};
use super::endpoint::{ApiEndpoint, in_text};
use super::exchange::exchange;
use super::extract::QueryParameters;
use crate::caller::Caller;
use crate::capture::{ActiveCapture, CapturePhase, CaptureRequest, Captures, IDLE_MAX, copies};
use crate::controller::Controller;
use crate::handle::Handle;
use crate::meter::{Meter, ThreadJob};
use crate::refusal::Refusal;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use model::api::{
    CAPTURE_BLOCKS, CAPTURE_COUNT_MAX, CAPTURE_FRAMES, CAPTURE_IDLE_S, CAPTURE_MISSED, CAPTURE_SNAP_DEFAULT,
    CAPTURE_SNAP_MAX, CAPTURE_SNAP_MIN, CAPTURE_STATE, CAPTURE_WAIT_MAX_MS, CaptureBegun, CaptureFigures,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use worker::DropReason;
use worker::capture::{CaptureFilter, Listener, tap};
use worker::commands::Command;

/// Of the file, what one answer has before it is sent, bytes.
const PIECE_BYTES: usize = 256 << 10;
/// Between two looks for copies while there are none.
const PAUSE: Duration = Duration::from_millis(5);
/// How long the answer to an end waits for the workers.
const HOME_WITHIN: Duration = Duration::from_secs(5);
/// After a worker has not answered it is asked again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

pub(super) fn endpoints() -> Vec<ApiEndpoint> {
    let of_begin = format!(
        "Begins to capture; it ends by itself when nobody asks for a piece for {CAPTURE_IDLE_S} s; 409 \
         while another one runs"
    );
    let of_piece = "The next piece of the capture's file (pcapng); one behind the other they are the file";
    let of_end = "Ends a capture; what was copied is given by further requests for pieces";
    vec![
        ApiEndpoint::post("/v1/capture", "begin_capture", of_begin, begin)
            .fails(&[404, 503])
            .fails_as(409, "Another capture runs")
            .fails_as(500, "The file cannot be begun"),
        ApiEndpoint::get("/v1/capture", "capture", of_piece, piece)
            .answers(described_piece())
            .fails(&[404, 503])
            .fails_as(409, "Somebody else is being given a piece of it"),
        ApiEndpoint::post("/v1/capture/end", "end_capture", of_end, end).fails(&[404, 503]),
    ]
}

/// The answer with a piece, for the document.
fn described_piece() -> Value {
    let header = |kind: &str, text: &str| json!({ "description": text, "schema": { "type": kind } });
    let mut piece = in_text("application/octet-stream", "Part of a pcapng file");
    piece["content"]["application/octet-stream"]["schema"]["format"] = json!("binary");
    piece["headers"] = json!({
        CAPTURE_STATE: header("string", "`running`, or `over` with the last piece: then the capture is gone"),
        CAPTURE_FRAMES: header("integer", "Frames captured so far, as they were received"),
        CAPTURE_BLOCKS: header("integer", "Blocks written so far"),
        CAPTURE_MISSED: header("integer", "Frames that were not copied, because no room was left"),
    });
    piece
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct BeginQuery {
    /// Only packets of this service
    service: Option<String>,
    /// Only frames dropped, or answered, for this reason
    reason: Option<String>,
    /// Only packets from or to this address, by their outermost header
    client: Option<String>,
    /// End after so many frames received; no limit without it
    #[schemars(range(min = 1, max = CAPTURE_COUNT_MAX))]
    count: Option<u64>,
    /// Bytes of each frame that are kept
    #[schemars(range(min = CAPTURE_SNAP_MIN, max = CAPTURE_SNAP_MAX))]
    #[schemars(extend("default" = CAPTURE_SNAP_DEFAULT))]
    snap: Option<u32>,
}

impl BeginQuery {
    fn wanted(self) -> Result<CaptureRequest, ApiFailure> {
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let snap = self.snap.unwrap_or(CAPTURE_SNAP_DEFAULT);
        if !(CAPTURE_SNAP_MIN..=CAPTURE_SNAP_MAX).contains(&snap) {
            let range = format!("{CAPTURE_SNAP_MIN} to {CAPTURE_SNAP_MAX}");
            return Err(ApiFailure::bad_request(format!("snap {snap} is not in {range}")));
        }
        if let Some(count) = self.count.filter(|count| !(1..=CAPTURE_COUNT_MAX).contains(count)) {
            return Err(ApiFailure::bad_request(format!("count {count} is not in 1 to {CAPTURE_COUNT_MAX}")));
        }
        Ok(CaptureRequest {
            service: given(self.service),
            reason: given(self.reason).map(|name| reason_named(&name)).transpose()?,
            client: given(self.client).map(|text| address(&text)).transpose()?,
            count: self.count,
            snap,
        })
    }
}

fn reason_named(name: &str) -> Result<DropReason, ApiFailure> {
    let found = DropReason::ALL.iter().find(|reason| reason.name() == name);
    found.copied().ok_or_else(|| {
        let help = "`guideway show drops` lists them";
        ApiFailure::new(StatusCode::BAD_REQUEST, format!("no drop reason `{name}`"), help)
    })
}

fn address(text: &str) -> Result<IpAddr, ApiFailure> {
    text.parse().map_err(|_| {
        let help = "write 198.51.100.7, or 2001:db8::7";
        ApiFailure::new(StatusCode::BAD_REQUEST, format!("client `{text}` is no address"), help)
    })
}

/// A capture cannot begin now.
fn occupied(why: String) -> ApiFailure {
    let help = format!(
        "let `guideway capture` end where it runs (Ctrl-C), or wait: one for which nobody asks ends \
         after {CAPTURE_IDLE_S} s"
    );
    ApiFailure::new(StatusCode::CONFLICT, why, help)
}

fn gone(id: u64) -> ApiFailure {
    let help =
        format!("it is over, or nobody asked for a piece of it for {CAPTURE_IDLE_S} s: begin another one");
    ApiFailure::new(StatusCode::NOT_FOUND, format!("no capture {id}"), help)
}

/// What a capture needs to know before its memory is taken.
struct CaptureSetup {
    filter: CaptureFilter,
    workers: usize,
}

async fn with_captures<T: Send + 'static>(
    handle: &Handle,
    question: impl FnOnce(&mut Captures, &mut Controller) -> T + Send + 'static,
) -> Result<T, ApiFailure> {
    handle.with_captures(question).await.ok_or_else(ApiFailure::stopping)
}

fn place(
    captures: &Captures,
    controller: &Controller,
    wanted: &CaptureRequest,
) -> Result<CaptureSetup, ApiFailure> {
    captures.next_id().map_err(occupied)?;
    let service = match &wanted.service {
        None => None,
        Some(name) => {
            let id = controller.backends.ids.service(name);
            Some(id.ok_or_else(|| Refusal::UnknownService(name.clone()))?)
        }
    };
    let filter = CaptureFilter { service, reason: wanted.reason, client: wanted.client.map(Into::into) };
    Ok(CaptureSetup { filter, workers: controller.workers.len() })
}

async fn begin(
    State(handle): State<Handle>,
    caller: Caller,
    QueryParameters(query): QueryParameters<BeginQuery>,
) -> ApiAnswer<CaptureBegun> {
    let wanted = query.wanted()?;
    let (place, wanted) =
        with_captures(&handle, move |captures, controller| (place(captures, controller, &wanted), wanted))
            .await?;
    let (CaptureSetup { filter, workers }, meter) = (place?, handle.meter.clone());
    let snap = usize::try_from(wanted.snap).unwrap_or(usize::MAX);
    let copies = copies(snap);
    let made = move || -> (Vec<Command>, Vec<Listener>) {
        let each = (0..workers).map(|_| tap(filter, copies, snap));
        each.map(|(tap, listener)| (Command::Capture(Some(tap)), listener)).unzip()
    };
    let (taps, listeners) = tokio::task::spawn_blocking(made).await.map_err(|_| ApiFailure::stopping())?;
    // A task, so that it goes on when the client has gone: what was begun has somebody who ends it.
    let begun = handed_out(handle, caller, wanted, (taps, listeners), meter.clone());
    let mut begun = tokio::spawn(meter.watch(ThreadJob::Conversation, begun))
        .await
        .map_err(|_| ApiFailure::stopping())??;
    begun.frames_kept = u64::try_from(copies.saturating_mul(workers)).unwrap_or(u64::MAX);
    Ok(Json(begun))
}

/// Gives the workers their taps.
async fn handed_out(
    handle: Handle,
    caller: Caller,
    wanted: CaptureRequest,
    (taps, listeners): (Vec<Command>, Vec<Listener>),
    meter: Meter,
) -> Result<CaptureBegun, ApiFailure> {
    let snap = wanted.snap;
    let entered = with_captures(&handle, move |captures, controller| {
        let id = captures.next_id().map_err(occupied)?;
        let cannot = |why| ApiFailure::new(StatusCode::INTERNAL_SERVER_ERROR, why, "nothing was begun");
        let capture = ActiveCapture::new(controller, id, wanted, listeners).map_err(cannot)?;
        let (interfaces, phase) = (capture.interfaces(), capture.phase());
        captures.begin(capture);
        Ok::<_, ApiFailure>((id, interfaces, phase))
    });
    let (id, interfaces, phase) = entered.await??;
    let workers = taps.len();
    tokio::spawn(meter.watch(ThreadJob::Conversation, keep(handle.clone(), id, workers, phase)));
    let commands = taps.into_iter().enumerate().collect();
    if let Err(failure) = exchange(&handle, commands).await {
        // Its keeper takes back what was handed out.
        with_captures(&handle, move |captures, _| drop(captures.remove(id))).await?;
        return Err(failure);
    }
    let begun =
        with_captures(&handle, move |captures, controller| captures.begun(controller, &caller, id)).await?;
    begun.ok_or_else(|| gone(id))?;
    Ok(CaptureBegun { id, snap, frames_kept: 0, interfaces })
}

/// Lets a capture end for which nobody asks, and takes back the taps of one that ends.
async fn keep(handle: Handle, id: u64, workers: usize, mut phase: watch::Receiver<CapturePhase>) {
    loop {
        let left = handle.with_captures(move |captures, _| {
            let capture = captures.get(id)?;
            let left = IDLE_MAX.saturating_sub(capture.idle());
            if left.is_zero() {
                capture.end("nobody asked for it any more");
            }
            (!left.is_zero()).then_some(left)
        });
        let Some(Some(left)) = left.await else { break };
        // It ends when it is gone, too.
        if tokio::time::timeout(left, phase.wait_for(|phase| *phase != CapturePhase::Running)).await.is_ok() {
            break;
        }
    }
    while exchange(&handle, (0..workers).map(|worker| (worker, Command::Capture(None))).collect())
        .await
        .is_err()
    {
        let told = handle.with_captures(move |captures, _| captures.get(id).map(ActiveCapture::give_up));
        if told.await.is_none() {
            return;
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
    if handle.with_captures(move |captures, _| captures.is_home(id)).await.is_none() {
        return;
    }
    // What is left of it waits for who takes it, but not for ever.
    loop {
        let left = handle.with_captures(move |captures, controller| {
            let left = IDLE_MAX.saturating_sub(captures.get(id)?.idle());
            if left.is_zero() {
                captures.over(controller, id);
                return None;
            }
            Some(left)
        });
        let Some(Some(left)) = left.await else { return };
        tokio::time::sleep(left).await;
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PieceQuery {
    /// The capture, as the answer to its begin says
    id: u64,
    /// Wait so long for frames if there is none, milliseconds
    #[schemars(range(max = CAPTURE_WAIT_MAX_MS), extend("default" = 0))]
    wait_ms: Option<u64>,
}

async fn piece(
    State(handle): State<Handle>,
    QueryParameters(query): QueryParameters<PieceQuery>,
) -> Result<Response, ApiFailure> {
    let PieceQuery { id, wait_ms } = query;
    let wait_ms = wait_ms.unwrap_or(0);
    if wait_ms > CAPTURE_WAIT_MAX_MS {
        return Err(ApiFailure::bad_request(format!("wait_ms {wait_ms} is above {CAPTURE_WAIT_MAX_MS}")));
    }
    let reading = with_captures(&handle, move |captures, _| captures.get(id).map(|of| of.reading())).await?;
    let Ok(_turn) = reading.ok_or_else(|| gone(id))?.try_acquire_owned() else {
        let error = format!("somebody else is being given a piece of capture {id}");
        let help = "ask for the next one when the last one has come: pieces are in order";
        return Err(ApiFailure::new(StatusCode::CONFLICT, error, help));
    };
    let until = Instant::now() + Duration::from_millis(wait_ms);
    let mut bytes = Vec::new();
    loop {
        let step = with_captures(&handle, move |captures, controller| captures.step(controller, id)).await?;
        let step = step.ok_or_else(|| gone(id))?;
        let is_quiet = step.bytes.is_empty();
        bytes.extend(step.bytes);
        let is_all = is_quiet && (!bytes.is_empty() || Instant::now() >= until);
        if step.is_over || is_all || bytes.len() >= PIECE_BYTES {
            return Ok(answer(bytes, step.figures, step.is_over));
        }
        if is_quiet {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn answer(bytes: Vec<u8>, figures: CaptureFigures, is_over: bool) -> Response {
    let CaptureFigures { frames, blocks, missed } = figures;
    let mut response = bytes.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CAPTURE_STATE, HeaderValue::from_static(if is_over { "over" } else { "running" }));
    for (name, count) in [(CAPTURE_FRAMES, frames), (CAPTURE_BLOCKS, blocks), (CAPTURE_MISSED, missed)] {
        headers.insert(name, HeaderValue::from(count));
    }
    response
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct EndQuery {
    /// The capture, as the answer to its begin says
    id: u64,
}

async fn end(
    State(handle): State<Handle>,
    QueryParameters(query): QueryParameters<EndQuery>,
) -> ApiAnswer<CaptureFigures> {
    let EndQuery { id } = query;
    let ending = with_captures(&handle, move |captures, _| {
        let capture = captures.get(id)?;
        capture.end("it was asked to");
        Some((capture.phase(), capture.figures()))
    });
    let (mut phase, figures) = ending.await?.ok_or_else(|| gone(id))?;
    // A worker that is silent is waited for by the keeper alone.
    let home = phase.wait_for(|phase| *phase == CapturePhase::Home);
    let _ = tokio::time::timeout(HOME_WITHIN, home).await;
    // One that is gone meanwhile has been read to its end by somebody else.
    let now = with_captures(&handle, move |captures, _| captures.get(id).map(|of| of.figures())).await?;
    Ok(Json(now.unwrap_or(figures)))
}
