//! What a slot of a table holds: the index of a backend, or none.

/// A slot that has no backend.
pub(super) const NONE: u16 = u16::MAX;
