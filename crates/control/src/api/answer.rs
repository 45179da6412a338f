//! What handlers answer with, and how they ask the controller.

use crate::controller::Controller;
use crate::handle::Handle;
use crate::refusal::Refusal;
use crate::revision::RevisionRefusal;
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use model::api::ErrorBody;

/// An answer that is not a success.
#[derive(Debug)]
pub(crate) struct ApiFailure {
    pub(super) status: StatusCode,
    pub(super) body: ErrorBody,
}

impl ApiFailure {
    pub(crate) fn new(status: StatusCode, error: impl Into<String>, help: impl Into<String>) -> ApiFailure {
        let body = ErrorBody { error: error.into(), help: help.into(), diagnostics: Vec::new() };
        ApiFailure { status, body }
    }

    pub(super) fn bad_request(error: impl Into<String>) -> ApiFailure {
        ApiFailure::new(StatusCode::BAD_REQUEST, error, "GET /v1/openapi.json describes every request")
    }

    pub(super) fn stopping() -> ApiFailure {
        ApiFailure::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "ask again after the restart")
    }
}

impl IntoResponse for ApiFailure {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

impl From<Refusal> for ApiFailure {
    fn from(refusal: Refusal) -> ApiFailure {
        let status = match &refusal {
            Refusal::Config(_)
            | Refusal::Compile(_)
            | Refusal::Unfit(_)
            | Refusal::Override(_)
            | Refusal::NamedFile { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::Revision(RevisionRefusal::Unknown { .. }) => StatusCode::NOT_FOUND,
            Refusal::Restart(_)
            | Refusal::Overtaken
            | Refusal::Revision(_)
            | Refusal::Registered(_)
            | Refusal::Clustered
            | Refusal::Alone
            | Refusal::Claimed(_) => StatusCode::CONFLICT,
            Refusal::TooMuch(_) => StatusCode::BAD_REQUEST,
            Refusal::UnknownService(_) | Refusal::UnknownBackend { .. } => StatusCode::NOT_FOUND,
            Refusal::File { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            Refusal::Stopping | Refusal::Store(_) | Refusal::Unsaved(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        let mut failure = ApiFailure::new(status, refusal.to_string(), refusal.help());
        if let Refusal::Config(report) = refusal {
            failure.body.diagnostics = report.diagnostics().to_vec();
        }
        failure
    }
}

pub(super) type ApiAnswer<T> = Result<Json<T>, ApiFailure>;

/// Asks the controller.
pub(super) async fn ask<T: Send + 'static>(
    handle: &Handle,
    question: impl FnOnce(&mut Controller) -> T + Send + 'static,
) -> Result<T, ApiFailure> {
    handle.ask(question).await.ok_or_else(ApiFailure::stopping)
}
