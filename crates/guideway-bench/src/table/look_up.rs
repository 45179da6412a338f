//! What every table can do: look keys up.

/// Something that knows keys.
pub(crate) trait LookUp {
    /// Looks up every key and consumes the values.
    fn look_up(&self, keys: &[u64]) -> Found;
}

/// What a window of look-ups gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Found {
    /// Keys that were known.
    pub(crate) hits: u64,
    /// Sum of their values.
    pub(crate) sum: u64,
}
