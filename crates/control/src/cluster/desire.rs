//! Services and drains that the cluster is asked for, and what becomes of them.

/// What the store is to be asked for: services, if those that there are are of this revision (0: there are none).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Desire {
    pub(crate) value: Vec<u8>,
    pub(crate) after: i64,
}

/// What became of services that were asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Progress {
    /// Revision of the last ones that all machines have.
    pub(crate) settled: i64,
    /// Revision of ones that cannot be had, and why.
    pub(crate) refused: Option<(i64, String)>,
}
