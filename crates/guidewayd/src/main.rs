//! The load balancer's daemon: configuration, EAL, ports and workers are started here, then the management core runs
//! on this thread until it is told to stop.
#![forbid(unsafe_code)]

mod arguments;
mod data_path;
mod eal_arguments;
mod exception;
mod log;
mod poll;
mod service_manager;
mod sizing;
mod stopwatch;
mod veth;

use arguments::{Action, Arguments};
use clap::Parser;
use control::Options;
use data_path::{DataPath, StartError};
use model::Loaded;
use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

/// Exit status for a configuration that was read and cannot be used, as `guideway check` has it. One that cannot be read is a plain failure.
const EXIT_CONFIG: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let loaded = match load(&arguments.config) {
        Ok(loaded) => loaded,
        Err((report, status)) => {
            eprintln!("{report:?}");
            return status;
        }
    };
    if let Some(reason) = control::refused_by_build(&loaded.config) {
        eprintln!("guidewayd: {reason}");
        return ExitCode::from(EXIT_CONFIG);
    }
    let words = match eal_arguments::build(&loaded.config, &arguments.eal) {
        Ok(words) => words,
        Err(error) => {
            eprintln!("guidewayd: {error}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    match arguments.action() {
        Action::Check => {
            if let Some(warnings) = loaded.warning_report() {
                eprintln!("{:?}", miette::Report::new(warnings));
            }
            println!("{}: ok", arguments.config.display());
        }
        Action::PrintEalArguments => println!("{}", dpdk::eal::quote(&words)),
        Action::Run => {
            log::start(arguments.log_format, &arguments.log_level);
            for warning in &loaded.warnings {
                tracing::warn!(
                    line = warning.line,
                    column = warning.column,
                    help = warning.help,
                    "{warning}"
                );
            }
            raise_descriptor_limit(&loaded.config);
            if let Err(error) = run(&arguments, loaded, &words) {
                tracing::error!("{error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// As many descriptors as this process may have; a warning if these are fewer than the configuration may need.
fn raise_descriptor_limit(config: &model::Config) {
    let needed = config.descriptors();
    match health::descriptors::raise_limit() {
        Ok(Some(limit)) if limit < needed => tracing::warn!(
            "the limit of {limit} open files is below the {needed} that the configuration may need: when they run out, \
             backends are not checked any more; set LimitNOFILE={needed} in the unit"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!("cannot raise the limit of open files: {error}"),
    }
}

fn load(path: &Path) -> Result<Loaded, (miette::Report, ExitCode)> {
    let name = path.display().to_string();
    let mut bytes = Vec::new();
    let limit = model::TEXT_MAX as u64 + 1;
    std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(|error| {
        let help = "give the file with --config";
        (miette::miette!(help = help, "cannot read {name}: {error}"), ExitCode::FAILURE)
    })?;
    // Cut by the limit in a character, it is too long before anything else.
    let text =
        if bytes.len() > model::TEXT_MAX { Err(model::too_long(&name)) } else { model::text(&name, bytes) };
    let loaded = text.and_then(|text| model::load(&name, &text));
    loaded.map_err(|report| (miette::Report::new(report), ExitCode::from(EXIT_CONFIG)))
}

/// From start to SIGTERM. Everything that was started is stopped when this returns, in the reverse order.
fn run(arguments: &Arguments, loaded: Loaded, words: &[String]) -> Result<(), StartError> {
    tracing::info!(version = env!("GUIDEWAY_VERSION"), config = %arguments.config.display(), "starting");
    let (data_path, plane) = DataPath::start(&loaded.config, words)?;
    let options = Options {
        notify: Some(Box::new(service_manager::tell)),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Options::new(&arguments.config)
    };
    let result = control::run(options, loaded, plane);
    data_path.stop();
    result.map_err(StartError::Control)?;
    tracing::info!("stopped");
    Ok(())
}
