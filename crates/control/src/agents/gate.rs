//! Whom the agents' listener lets in.

use super::hello::Tokens;
use std::sync::Arc;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate {
    /// `agents.connections`.
    pub(crate) connections: u32,
    /// What hellos are to prove.
    pub(crate) tokens: Arc<Tokens>,
}
