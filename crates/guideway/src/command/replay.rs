//! `guideway replay`.

use crate::arguments::EXIT_CODES;
use crate::capture::{Capture, Writer};
use crate::failure::Failure;
use crate::replay::{Options, ReplayError, WORKERS_MAX, replay};
use crate::{Done, Outcome, configuration, output};
use clap::Args;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

/// Run a capture through the packet engine: no root, hugepages or daemon needed
///
/// Every frame arrives on the first port at the time of its stamp; backends are up unless their `state` says
/// otherwise. Prints one JSON object: rx, tx, originated, punted, relayed, held, dropped and, with --per-frame, frames.
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Frames to receive: pcap or pcapng, Ethernet
    #[arg(long = "in", value_name = "PCAP")]
    input: PathBuf,
    /// Where to write the frames sent, in input order (pcap)
    #[arg(long = "out", value_name = "PCAP")]
    output: PathBuf,
    /// Where to write the frames given to the kernel (pcap)
    #[arg(long, value_name = "PCAP")]
    punt: Option<PathBuf>,
    /// Name every frame's end
    #[arg(long)]
    per_frame: bool,
    /// Number of workers
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u8).range(1..=i64::from(WORKERS_MAX)))]
    workers: u8,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let loaded = configuration::load(&arguments.config)?;
    configuration::warn_loaded(&loaded);
    let input = &arguments.input;
    refuse_same_file(arguments)?;
    let capture =
        Capture::read(input).map_err(|e| Failure::failed(format!("bad input {}: {e}", input.display())))?;
    let options = Options { workers: arguments.workers, per_frame: arguments.per_frame };
    let replayed = replay(&loaded.config, &capture, options).map_err(|e| match e {
        ReplayError::Compile(_) => {
            Failure::usage(format!("bad configuration {}: {e}", arguments.config.display()))
        }
        other => Failure::failed(other.to_string()),
    })?;
    let stamp = |index: u32| capture.get(index as usize).map_or(0, |f| f.stamp_ns);
    let nanoseconds = capture.is_nanoseconds();
    let sent = replayed.sent.iter().map(|(index, bytes)| (stamp(*index), &bytes[..]));
    write(&arguments.output, nanoseconds, sent)?;
    if let Some(path) = &arguments.punt {
        let punted = replayed.punted.iter().filter_map(|&index| capture.get(index as usize));
        write(path, nanoseconds, punted.map(|f| (f.stamp_ns, f.bytes)))?;
    }
    output::json(&replayed.summary)?;
    Ok(Done::Well)
}

/// A capture must not be lost by being written over with what came of it.
fn refuse_same_file(arguments: &Arguments) -> Result<(), Failure> {
    let place = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let files = [
        ("--in", Some(&arguments.input)),
        ("--out", Some(&arguments.output)),
        ("--punt", arguments.punt.as_ref()),
    ];
    let files: Vec<_> = files.into_iter().filter_map(|(flag, path)| Some((flag, path?))).collect();
    for (n, (flag, path)) in files.iter().enumerate() {
        let regular = path.metadata().map_or(true, |found| found.is_file());
        if let Some((other, _)) = files[..n].iter().find(|(_, p)| regular && place(p) == place(path)) {
            let path = path.display();
            return Err(Failure::usage(format!(
                "{flag} and {other} are the same file, {path}: name another for {flag}"
            )));
        }
    }
    Ok(())
}

fn write<'a>(
    path: &Path,
    nanoseconds: bool,
    frames: impl Iterator<Item = (u64, &'a [u8])>,
) -> Result<(), Failure> {
    let written = File::create(path).and_then(|file| {
        let mut writer = Writer::new(BufWriter::new(file), nanoseconds)?;
        for (stamp_ns, bytes) in frames {
            writer.write(stamp_ns, bytes)?;
        }
        writer.finish()
    });
    written.map(drop).map_err(|e| Failure::failed(format!("cannot write {}: {e}", path.display())))
}
