//! Who asks, in words.

use std::sync::Arc;

/// A caller, as events name him.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Caller(Arc<str>);

impl Caller {
    pub(crate) fn named(name: &str) -> Caller {
        Caller(Arc::from(name))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}
