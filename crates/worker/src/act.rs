//! Fourth stage: carries out what was decided.

pub(crate) mod punt;
