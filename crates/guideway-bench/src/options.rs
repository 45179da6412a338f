//! The options that all measurements in rounds have in common.

use crate::calibration::Calibrator;
use crate::failure::Failure;
use crate::rounds::{self, CellSet, Measured};
use clap::Args;
use std::time::Duration;

/// How long to measure, and how to print.
#[derive(Args, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Rounds at the most
    #[arg(
        long,
        value_name = "N",
        default_value_t = 60,
        value_parser = clap::value_parser!(u32).range(1..=10_000),
    )]
    pub rounds: u32,
    /// No round begins later than so many seconds after the first (but three are run in any case)
    #[arg(
        long,
        value_name = "S",
        default_value_t = 20,
        value_parser = clap::value_parser!(u32).range(1..=3600),
    )]
    pub seconds: u32,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl Options {
    /// Runs rounds of `cells`.
    ///
    /// # Errors
    /// A cell's.
    pub fn measure(&self, calibrator: &mut Calibrator, cells: &mut CellSet<'_>) -> Result<Measured, Failure> {
        let patience = Duration::from_secs(u64::from(self.seconds));
        rounds::measure(calibrator, cells, self.rounds as usize, patience)
    }
}
