//! What a check found.

use serde::Serialize;

/// How a check ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Grade {
    Pass,
    Warn,
    Fail,
}

/// One check: what was looked at, how it ended and why, and what to do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    pub(super) grade: Grade,
    pub(super) reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

impl Finding {
    pub(super) fn pass(check: &'static str, reason: impl Into<String>) -> Finding {
        Finding { check, grade: Grade::Pass, reason: reason.into(), remedy: None }
    }

    pub(super) fn warn(check: &'static str, reason: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { check, grade: Grade::Warn, reason: reason.into(), remedy: Some(remedy.into()) }
    }

    pub(super) fn fail(check: &'static str, reason: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { check, grade: Grade::Fail, reason: reason.into(), remedy: Some(remedy.into()) }
    }
}
