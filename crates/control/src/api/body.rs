//! Bodies of requests: text of a bounded length, in time.

use super::answer::ApiFailure;
use super::endpoint::{Operation, Reads, in_json, in_text};
use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use model::api::{BODY_MAX, RESTORE_BODY_MAX, RESTORE_LINE_MAX, RESTORE_LINES_MAX};
use schemars::{JsonSchema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Longest time a request's body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Bodies up to so many bytes are read as they come, …
const SMALL_BODY_MAX: u64 = 1 << 20;
/// … of longer ones these at once, so that clients do not decide how much memory is taken.
static LARGE_BODIES: Semaphore = Semaphore::const_new(4);

/// Statuses of a body that cannot be read: it is not what it should be, late, too large, of another type.
const UNREADABLE: [u16; 4] = [400, 408, 413, 415];

/// What a body has to be.
struct BodyRule {
    /// Bytes at most.
    max: usize,
    /// Its own type; text and curl's default are taken for it as well.
    media: &'static str,
    /// What that is called.
    name: &'static str,
    /// What to do about one that is too large.
    too_large: &'static str,
    /// What to send.
    send: &'static str,
}

const CONFIGURATION: BodyRule = BodyRule {
    max: BODY_MAX,
    media: "application/toml",
    name: "TOML",
    too_large: "no configuration may be longer; `guideway check FILE` says more",
    send: "send the configuration file as it is, with `content-type: application/toml`",
};

const JSON: BodyRule = BodyRule {
    max: 64 << 10,
    media: "application/json",
    name: "JSON",
    too_large: "GET /v1/openapi.json says what belongs in it",
    send: "send an object, with `content-type: application/json`",
};

const FLOWS: BodyRule = BodyRule {
    max: RESTORE_BODY_MAX,
    media: "application/x-ndjson",
    name: "line-delimited JSON",
    too_large: "send the lines in several requests, as `guideway flows restore` does",
    send: "send the lines of `guideway flows dump` as they are, with `content-type: application/x-ndjson`",
};

/// A configuration.
pub(super) struct Toml(pub(super) String);

impl<S: Send + Sync> FromRequest<S> for Toml {
    type Rejection = ApiFailure;

    async fn from_request(request: Request, _state: &S) -> Result<Toml, ApiFailure> {
        read(request, &CONFIGURATION).await.map(Toml)
    }
}

impl Reads for Toml {
    const FAILS: &'static [u16] = &UNREADABLE;

    fn describe(operation: &mut Operation, _schemas: &mut SchemaGenerator) {
        let mut body = in_text(CONFIGURATION.media, &format!("Configuration, at most {BODY_MAX} bytes"));
        body["required"] = json!(true);
        operation.body = Some(body);
    }
}

/// A small value in JSON.
pub(super) struct JsonBody<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiFailure;

    async fn from_request(request: Request, _state: &S) -> Result<JsonBody<T>, ApiFailure> {
        let text = read(request, &JSON).await?;
        let value = serde_json::from_str(&text);
        value.map(JsonBody).map_err(|error| ApiFailure::bad_request(format!("the body: {error}")))
    }
}

impl<T: JsonSchema> Reads for JsonBody<T> {
    const FAILS: &'static [u16] = &UNREADABLE;

    fn describe(operation: &mut Operation, schemas: &mut SchemaGenerator) {
        let mut body = in_json::<T>(schemas, "What is to be otherwise");
        body["required"] = json!(true);
        operation.body = Some(body);
    }
}

/// JsonLines of JSON.
pub(super) struct JsonLines(pub(super) String);

impl<S: Send + Sync> FromRequest<S> for JsonLines {
    type Rejection = ApiFailure;

    async fn from_request(request: Request, _state: &S) -> Result<JsonLines, ApiFailure> {
        read(request, &FLOWS).await.map(JsonLines)
    }
}

impl Reads for JsonLines {
    const FAILS: &'static [u16] = &UNREADABLE;

    fn describe(operation: &mut Operation, _schemas: &mut SchemaGenerator) {
        let description = format!(
            "A StoredFlow in each line, at most {RESTORE_LINES_MAX} lines of {RESTORE_LINE_MAX} bytes \
             and {RESTORE_BODY_MAX} bytes in all"
        );
        let mut body = in_text(FLOWS.media, &description);
        body["required"] = json!(true);
        operation.body = Some(body);
    }
}

/// The body as text: so many bytes of UTF-8, in time.
async fn read(request: Request, wanted: &BodyRule) -> Result<String, ApiFailure> {
    let (parts, body) = request.into_parts();
    check_content_type(&parts.headers, wanted)?;
    let length = parts.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > wanted.max as u64) {
        return Err(too_large(wanted));
    }
    let read = async {
        // A permit is there as long as the program is.
        let _turn = match length {
            Some(0..=SMALL_BODY_MAX) => None,
            _ => LARGE_BODIES.acquire().await.ok(),
        };
        to_bytes(Body::new(body), wanted.max).await
    };
    let bytes = tokio::time::timeout(BODY_TIMEOUT, read)
        .await
        .map_err(|_| {
            ApiFailure::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time", "send it faster")
        })?
        .map_err(|error| {
            let limit = std::error::Error::source(&error)
                .is_some_and(<dyn std::error::Error>::is::<http_body_util::LengthLimitError>);
            if limit { too_large(wanted) } else { ApiFailure::bad_request(format!("body: {error}")) }
        })?;
    String::from_utf8(bytes.into()).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        let help = format!("send {}, which is UTF-8 text", wanted.name);
        ApiFailure::new(StatusCode::BAD_REQUEST, format!("the body is not UTF-8 from byte {place} on"), help)
    })
}

fn too_large(wanted: &BodyRule) -> ApiFailure {
    let error = format!("the body is larger than {} bytes", wanted.max);
    ApiFailure::new(StatusCode::PAYLOAD_TOO_LARGE, error, wanted.too_large)
}

fn check_content_type(headers: &HeaderMap, wanted: &BodyRule) -> Result<(), ApiFailure> {
    let Some(given) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let given = given.to_str().unwrap_or_default();
    let kind = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "application/octet-stream" | "application/x-www-form-urlencoded" | "" => Ok(()),
        text if text == wanted.media || text.starts_with("text/") => Ok(()),
        _ => {
            let error = format!("content type `{given}` is not {}", wanted.name);
            Err(ApiFailure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error, wanted.send))
        }
    }
}
