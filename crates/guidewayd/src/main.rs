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

use arguments::{Arguments, Invocation};
use control::{Claims, Listeners, RunOptions};
use data_path::{DataPath, StartError};
use model::Loaded;
use service_manager::ServiceManager;
use startup::{Log, LogFormat, log_report, say};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Exit status for a configuration that was read and cannot be used, as `guideway check` has it. One that cannot be read is a plain failure.
const EXIT_CONFIG: u8 = 2;

fn main() -> ExitCode {
    let hangup = startup::hold_hangup();
    let arguments: Arguments = startup::parse();
    if arguments.action() != Invocation::Run {
        return match load_all(&arguments, &Complaints::People) {
            Ok((loaded, words)) => answer(&arguments, &loaded, &words),
            Err(code) => code,
        };
    }
    let log = match Log::start(arguments.log_format, &arguments.log_level) {
        Ok(log) => log,
        Err(error) => {
            say(format_args!("guidewayd: no log: {error}"));
            return ExitCode::FAILURE;
        }
    };
    // Every line of a log in JSON is JSON.
    let complaints = match arguments.log_format {
        LogFormat::Text => Complaints::People,
        LogFormat::Json => Complaints::Log,
    };
    let code = match load_all(&arguments, &complaints) {
        Ok((loaded, words)) => serve(&arguments, loaded, &words, &log, hangup),
        Err(code) => code,
    };
    log.flush();
    code
}

/// Where it is told what is wrong with a configuration.
enum Complaints {
    /// Standard error, with the lines concerned.
    People,
    /// The log, a line each.
    Log,
}

impl Complaints {
    fn report(&self, report: &miette::Report) {
        match self {
            Complaints::People => say(format_args!("{report:?}")),
            Complaints::Log => log_report(report),
        }
    }

    fn say(&self, reason: &str) {
        match self {
            Complaints::People => say(format_args!("guidewayd: {reason}")),
            Complaints::Log => tracing::error!("{reason}"),
        }
    }
}

/// The configuration and the words for EAL, or the exit status of one that cannot be used.
fn load_all(arguments: &Arguments, complaints: &Complaints) -> Result<(Loaded, Vec<String>), ExitCode> {
    let bad = ExitCode::from(EXIT_CONFIG);
    let loaded = load(&arguments.config).map_err(|(report, status)| {
        complaints.report(&report);
        status
    })?;
    if let Some(reason) = control::refused_by_build(&loaded.config) {
        complaints.say(reason);
        return Err(bad);
    }
    let words = eal_arguments::build(&loaded.config, &arguments.eal).map_err(|error| {
        complaints.say(&error.to_string());
        bad
    })?;
    Ok((loaded, words))
}

fn serve(
    arguments: &Arguments,
    loaded: Loaded,
    words: &[String],
    log: &Log,
    hangup: Arc<AtomicBool>,
) -> ExitCode {
    for warning in &loaded.warnings {
        tracing::warn!(line = warning.line, column = warning.column, help = warning.help, "{warning}");
    }
    raise_descriptor_limit(&loaded.config);
    match run(arguments, loaded, words, log, hangup) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// What is asked for without starting anything.
fn answer(arguments: &Arguments, loaded: &Loaded, words: &[String]) -> ExitCode {
    let text = if arguments.action() == Invocation::PrintEalArguments {
        dpdk::eal::quote(words)
    } else {
        if let Some(warnings) = loaded.warning_report() {
            say(format_args!("{:?}", miette::Report::new(warnings)));
        }
        format!("{}: ok", arguments.config.display())
    };
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("guidewayd: cannot write the answer: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// As many descriptors as this process may have; a warning if these are fewer than the configuration may need.
fn raise_descriptor_limit(config: &model::Config) {
    let needed = config.descriptors();
    match health::descriptors::raise_limit() {
        Ok(Some(limit)) if limit < needed => tracing::warn!(
            "the limit of {limit} open files is below the {needed} that the configuration may need: when \
             they run out, \
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
fn run(
    arguments: &Arguments,
    loaded: Loaded,
    words: &[String],
    log: &Log,
    hangup: Arc<AtomicBool>,
) -> Result<(), StartError> {
    tracing::info!(version = env!("GUIDEWAY_VERSION"), config = %arguments.config.display(), "starting");
    // Before EAL and every device: a second daemon is refused before it has touched anything of the first.
    let claims = Claims::take(&loaded.config)?;
    let listeners = Some(Listeners::bind(&loaded.config).map_err(StartError::Control)?);
    let (data_path, plane) = DataPath::start(&loaded.config, words)?;
    // Until now it ran wherever there was room; workers have their CPUs for themselves.
    log.pin(&loaded.config.workers.management_cpus);
    let mut manager = ServiceManager::from_environment();
    let (lines, messages) = (log.clone(), manager.lost());
    let options = RunOptions {
        claims,
        listeners,
        notify: Some(Box::new(move |notice| manager.tell(notice))),
        hangup: Some(hangup),
        lost_words: Box::new(move || control::LostWords {
            log_lines: lines.lost(),
            notices: messages.load(Relaxed),
        }),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..RunOptions::new(&arguments.config)
    };
    let result = control::run(options, loaded, plane);
    data_path.stop();
    result.map_err(StartError::Control)?;
    tracing::info!("stopped");
    Ok(())
}
