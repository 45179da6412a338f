//! `guideway replay`.

use crate::capture::CaptureWriter;
use crate::failure::Failure;
use crate::outcome::EXIT_CODES;
use crate::replay::{Options, ReplayError, WORKERS_MAX, replay};
use crate::{CommandResult, Done, configuration, input, output};
use clap::Args;
use std::ffi::OsString;
use std::fs::File;
use std::io::BufWriter;
use std::os::unix::fs::MetadataExt;
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
    /// Frames to receive: pcap or pcapng, also compressed with gzip; - is standard input
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

pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    let loaded = configuration::load(&arguments.config)?;
    configuration::warn_loaded(&loaded);
    refuse_same_file(arguments)?;
    let capture = input::capture(&arguments.input)?;
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

/// What is read must not be lost by being written over with what came of it.
fn refuse_same_file(arguments: &Arguments) -> Result<(), Failure> {
    let read = [("--config", Some(&arguments.config)), ("--in", Some(&arguments.input))];
    let written = [("--out", Some(&arguments.output)), ("--punt", arguments.punt.as_ref())];
    let mut known: Vec<(&str, FileId)> = Vec::new();
    for (flag, path) in read.into_iter().chain(written) {
        let Some(path) = path else { continue };
        let is_read_from_stdin = flag == "--in" && input::is_stdin(path);
        let found = if is_read_from_stdin { FileId::of_stdin() } else { FileId::of(path) };
        let Some(id) = found else { continue };
        let is_written = !matches!(flag, "--config" | "--in");
        if let Some((other, _)) = known.iter().find(|(_, of)| is_written && *of == id) {
            let path = path.display();
            return Err(Failure::usage(format!(
                "{flag} and {other} are the same file, {path}: name another for {flag}"
            )));
        }
        known.push((flag, id));
    }
    Ok(())
}

/// Which file a path leads to, by whatever name or link.
#[derive(PartialEq, Eq)]
enum FileId {
    /// Device and inode.
    There(u64, u64),
    /// Not there yet: device and inode of its directory, and its name.
    New(u64, u64, OsString),
}

impl FileId {
    /// `None` for what is no file to lose (a device, a pipe), or cannot be looked at: then it cannot be opened either.
    fn of(path: &Path) -> Option<FileId> {
        match path.metadata() {
            Ok(found) => found.is_file().then(|| FileId::There(found.dev(), found.ino())),
            Err(_) => {
                let name = path.file_name()?.to_owned();
                let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
                let dir = dir.metadata().ok()?;
                Some(FileId::New(dir.dev(), dir.ino(), name))
            }
        }
    }

    fn of_stdin() -> Option<FileId> {
        let found = rustix::fs::fstat(std::io::stdin()).ok()?;
        let is_file = rustix::fs::FileType::from_raw_mode(found.st_mode).is_file();
        is_file.then_some(FileId::There(found.st_dev, found.st_ino))
    }
}

fn write<'a>(
    path: &Path,
    nanoseconds: bool,
    frames: impl Iterator<Item = (u64, &'a [u8])>,
) -> Result<(), Failure> {
    let written = File::create(path).and_then(|file| {
        let mut writer = CaptureWriter::new(BufWriter::new(file), nanoseconds)?;
        for (stamp_ns, bytes) in frames {
            writer.write(stamp_ns, bytes)?;
        }
        writer.finish()
    });
    written.map(drop).map_err(|e| Failure::failed(format!("cannot write {}: {e}", path.display())))
}
