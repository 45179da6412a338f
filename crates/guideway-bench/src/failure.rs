//! Why there is no result.

/// A measurement failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No memory for a table.
    #[error(transparent)]
    Memory(#[from] dpdk::pages::MapError),
    /// EAL.
    #[error(transparent)]
    Eal(#[from] dpdk::EalError),
    /// DPDK's hash table.
    #[error(transparent)]
    Hash(#[from] dpdk::hash::HashError),
    /// Our flow table.
    #[error("no flow table: {0}")]
    Table(#[from] flow::TableError),
    /// The generated configuration is refused.
    #[error("the generated configuration is refused: {0}")]
    Configuration(String),
    /// What was measured does not do what it should.
    #[error("wrong result: {0}")]
    Wrong(String),
    /// What was asked for cannot be done.
    #[error("{0}")]
    Usage(String),
    /// A helper program or the operating system.
    #[error("{0}")]
    Machine(String),
    /// The result cannot be printed.
    #[error("cannot print the result: {0}")]
    Output(#[from] serde_json::Error),
}

/// For steps that only go wrong by a defect.
pub fn wrong(what: impl Into<String>) -> Failure {
    Failure::Wrong(what.into())
}
