//! `guideway capture`.

use crate::connection::Connection;
use crate::daemon::{Daemon, DaemonAnswer};
use crate::failure::Failure;
use crate::input::is_stdin;
use crate::name::escaped;
use crate::outcome::EXIT_CODES;
use crate::table::grouped;
use crate::{CommandResult, Done, output};
use clap::Args;
use clap::builder::PossibleValuesParser;
use hyper::Method;
use model::api::{
    CAPTURE_BLOCKS, CAPTURE_COUNT_MAX, CAPTURE_FRAMES, CAPTURE_MISSED, CAPTURE_SNAP_DEFAULT,
    CAPTURE_SNAP_MAX, CAPTURE_SNAP_MIN, CAPTURE_STATE, CaptureBegun, CaptureFigures,
};
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use worker::DropReason;

/// How long one request waits for frames; after that it is looked whether anybody still reads them.
const WAIT: Duration = Duration::from_secs(1);
/// Bytes of each frame that may be kept.
const SNAP: RangeInclusive<i64> = CAPTURE_SNAP_MIN as i64..=CAPTURE_SNAP_MAX as i64;
/// Pieces asked for after an end, at most: the workers' copies, and some in which nothing was.
const LAST_PIECES_MAX: u32 = 10_000;

/// Write frames as they are received and as they are sent, and what became of each (pcapng)
///
/// Each frame is one block as received (interface PORT:rx) and, where it was changed, one as sent (PORT:tx). The comment of
/// each says what became of it: action, reason, service, backend. Ends with Ctrl-C, or after --count frames.
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Only packets of this service
    #[arg(long)]
    service: Option<String>,
    /// Only frames dropped, or answered, for this reason (see: guideway show drops)
    #[arg(long, hide_possible_values = true, value_parser = reasons())]
    reason: Option<String>,
    /// Only packets from or to this address
    #[arg(long, value_name = "ADDRESS")]
    client: Option<IpAddr>,
    /// End after so many frames received
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=CAPTURE_COUNT_MAX))]
    count: Option<u64>,
    /// Bytes of each frame that are kept
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = CAPTURE_SNAP_DEFAULT,
        value_parser = clap::value_parser!(u32).range(SNAP),
    )]
    snap: u32,
    /// Where to write them; - is standard output
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    #[command(flatten)]
    connection: Connection,
}

fn reasons() -> PossibleValuesParser {
    DropReason::ALL.iter().map(|reason| reason.name()).collect::<Vec<_>>().into()
}

impl Arguments {
    fn target(&self) -> String {
        let mut target = format!("/v1/capture?snap={}", self.snap);
        let client = self.client.map(|client| client.to_string());
        let count = self.count.map(|count| count.to_string());
        for (name, value) in
            [("service", &self.service), ("reason", &self.reason), ("client", &client), ("count", &count)]
        {
            if let Some(value) = value {
                target += &format!("&{name}={}", escaped(value));
            }
        }
        target
    }
}

pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    if is_stdin(&arguments.write) && std::io::stdout().is_terminal() {
        return Err(Failure::usage("standard output is a terminal, and a capture is no text")
            .help("name a file, or give it to a program: guideway capture -w - | tshark -r -"));
    }
    let daemon = Daemon::new(&arguments.connection)?;
    daemon.run(captured(&daemon, arguments))
}

/// Where the capture goes.
enum To<'a> {
    Output,
    File(File, &'a Path),
}

impl To<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            To::Output => output::bytes(bytes),
            To::File(file, path) => file.write_all(bytes).map_err(|e| cannot_write(path, &e)),
        }
    }

    fn has_reader(&self) -> bool {
        match self {
            To::Output => output::has_reader(),
            To::File(..) => true,
        }
    }
}

fn cannot_write(path: &Path, e: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot write {}: {e}", path.display()))
}

/// What ends a capture from outside.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn new() -> Result<Stop, Failure> {
        let heard = |kind| signal(kind).map_err(|e| Failure::failed(format!("cannot start: {e}")));
        Ok(Stop { interrupt: heard(SignalKind::interrupt())?, terminate: heard(SignalKind::terminate())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

async fn captured(daemon: &Daemon, arguments: &Arguments) -> CommandResult {
    // Before it begins: whoever is interrupted leaves no capture behind.
    let mut stop = Stop::new()?;
    let begun = daemon.asking(Method::POST, &arguments.target(), Duration::ZERO).await?;
    let begun: CaptureBegun = begun.accepted()?.json()?;
    let written = written(daemon, arguments, begun.id, &mut stop).await;
    let figures = match written {
        Ok(figures) => figures,
        Err(failure) => {
            // Nobody takes the rest. If the daemon does not hear it, it finds out by itself.
            let _ = end(daemon, begun.id).await;
            // A reader that has enough is no failure, but the figures of what it did not read would be none.
            return match failure {
                Failure::OutputClosed => Ok(Done::Well),
                failure => Err(failure),
            };
        }
    };
    let CaptureFigures { frames, blocks, missed } = figures;
    output::tell(&format!(
        "{} frames captured, {} blocks written, {} frames missed",
        grouped(frames),
        grouped(blocks),
        grouped(missed)
    ));
    if missed > 0 {
        output::warning(
            "frames were missed: they were forwarded as ever, but came faster than copies of them could be \
             written; \
             ask for fewer (--service, --reason, --client) or for less of each (--snap)",
        );
    }
    Ok(Done::Well)
}

async fn end(daemon: &Daemon, id: u64) -> Result<(), Failure> {
    let target = format!("/v1/capture/end?id={id}");
    daemon.asking(Method::POST, &target, Duration::ZERO).await?.accepted().map(drop)
}

/// Writes piece after piece until it is over.
async fn written(
    daemon: &Daemon,
    arguments: &Arguments,
    id: u64,
    stop: &mut Stop,
) -> Result<CaptureFigures, Failure> {
    let path = &arguments.write;
    let mut to = if is_stdin(path) {
        To::Output
    } else {
        // Not before there is an answer: an earlier capture is not lost because nobody answers.
        To::File(File::create(path).map_err(|e| cannot_write(path, &e))?, path)
    };
    let target = format!("/v1/capture?id={id}&wait_ms={}", WAIT.as_millis());
    let mut is_ending = false;
    let mut last_pieces = 0;
    while last_pieces < LAST_PIECES_MAX {
        if is_ending {
            last_pieces += 1;
        }
        let mut asked = pin!(daemon.asking(Method::GET, &target, WAIT));
        let piece = loop {
            // A request is never given up: what it brings would be lost to the file.
            tokio::select! {
                biased;
                answer = &mut asked => break answer?.accepted()?,
                () = stop.asked() => {
                    if is_ending {
                        return Err(Failure::failed("interrupted again, before the last frames were there"));
                    }
                    is_ending = true;
                    // Its count may have ended it just now: the pieces say how it stands.
                    let _ = end(daemon, id).await;
                }
            }
        };
        to.write(&piece.body)?;
        if header(&piece, CAPTURE_STATE)? == "over" {
            if let To::File(file, path) = &to {
                file.sync_all().map_err(|e| cannot_write(path, &e))?;
            }
            return figures(&piece);
        }
        if !to.has_reader() {
            return Err(Failure::OutputClosed);
        }
    }
    Err(Failure::failed("the daemon's capture does not end"))
}

fn figures(answer: &DaemonAnswer) -> Result<CaptureFigures, Failure> {
    let count =
        |name| -> Result<u64, Failure> { header(answer, name)?.parse().map_err(|_| not_understood(name)) };
    Ok(CaptureFigures {
        frames: count(CAPTURE_FRAMES)?,
        blocks: count(CAPTURE_BLOCKS)?,
        missed: count(CAPTURE_MISSED)?,
    })
}

fn header<'a>(answer: &'a DaemonAnswer, name: &str) -> Result<&'a str, Failure> {
    let value = answer.headers.get(name).and_then(|value| value.to_str().ok());
    value.ok_or_else(|| not_understood(name))
}

fn not_understood(name: &str) -> Failure {
    Failure::failed(format!("the daemon's answer is not understood: {name}"))
        .help("do guideway and guidewayd have the same version? see: guideway --version")
}
