//! One large transfer, with the longest pause in it.

use super::control::{Control, unix_ms};
use super::socket::connect;
use crate::command::{LabError, Result};
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::timeout;

/// A transfer that makes no progress for this long has failed.
const STALL_LIMIT: Duration = Duration::from_secs(15);
/// Bytes read or written at once.
pub(super) const CHUNK_BYTES: usize = 65_536;

/// Which way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the backend to the client.
    Down,
    /// From the client to the backend.
    Up,
}

/// A transfer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BulkLoad {
    /// VIP and port of our server.
    pub target: SocketAddr,
    /// Client address.
    pub source: IpAddr,
    /// Which way.
    pub direction: Direction,
    /// How much.
    pub bytes: u64,
}

/// How it went.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BulkReport {
    /// Bytes that arrived intact.
    pub bytes: u64,
    /// Length of the transfer, milliseconds.
    pub elapsed_ms: u64,
    /// Longest time without progress, at the sender or the receiver, milliseconds.
    pub stall_max_ms: u64,
    /// The backend.
    pub backend: String,
    /// When it ended, Unix time, milliseconds.
    pub ended_unix_ms: u64,
}

/// What every transfer consists of: random bytes that repeat only after more than any window or burst, so that a
/// segment in the wrong place is noticed.
pub(super) struct Pattern(Vec<u8>);

const PERIOD: usize = 8_388_593;

impl Pattern {
    pub(super) fn new() -> Pattern {
        let mut bytes = Vec::with_capacity(PERIOD + CHUNK_BYTES);
        bytes.resize(PERIOD, 0);
        SplitMix64::seed_from_u64(1).fill_bytes(&mut bytes);
        bytes.extend_from_within(..CHUNK_BYTES);
        Pattern(bytes)
    }

    /// The bytes from an offset on; at most [`CHUNK_BYTES`].
    pub(super) fn at(&self, offset: u64, length: usize) -> &[u8] {
        let start = usize::try_from(offset % PERIOD as u64).unwrap_or(0);
        &self.0[start..start + length.min(CHUNK_BYTES)]
    }
}

/// Notes the longest pause between steps.
pub(super) struct Pauses {
    last: Instant,
    longest: Duration,
}

impl Pauses {
    pub(super) fn start() -> Pauses {
        Pauses { last: Instant::now(), longest: Duration::ZERO }
    }

    pub(super) fn step(&mut self) {
        let now = Instant::now();
        self.longest = self.longest.max(now - self.last);
        self.last = now;
    }

    pub(super) fn longest_ms(&self) -> u64 {
        u64::try_from(self.longest.as_millis()).unwrap_or(u64::MAX)
    }
}

pub(super) async fn run(load: BulkLoad, control: &Control) -> Result<BulkReport> {
    transfer(&load, control)
        .await
        .map_err(|reason| LabError::Wrong(format!("{:?}: {reason}", load.direction)))
}

async fn transfer(load: &BulkLoad, control: &Control) -> std::result::Result<BulkReport, String> {
    let pattern = Pattern::new();
    let begun = Instant::now();
    let stream = connect(load.source, load.target, Duration::from_secs(5)).await?;
    let mut stream = BufReader::with_capacity(CHUNK_BYTES, stream);
    let word = if load.direction == Direction::Down { "DOWN" } else { "UP" };
    let order = format!("{word} {}\n", load.bytes);
    stream.write_all(order.as_bytes()).await.map_err(|error| format!("sending the order: {error}"))?;
    let backend = line(&mut stream).await?;
    let mut pauses = Pauses::start();
    let mut chunk = vec![0_u8; CHUNK_BYTES];
    let mut at = 0_u64;
    while at < load.bytes {
        if control.is_stopped() {
            return Err("stopped".into());
        }
        let most = usize::try_from(load.bytes - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        let moved = match load.direction {
            Direction::Down => {
                let read = timeout(STALL_LIMIT, stream.read(&mut chunk[..most])).await;
                let read = read.map_err(|_| format!("no byte for {STALL_LIMIT:?} at {at}"))?;
                let read = read.map_err(|error| format!("receiving at {at}: {error}"))?;
                if read == 0 {
                    return Err(format!("closed at {at}"));
                }
                if chunk[..read] != *pattern.at(at, read) {
                    return Err(format!("wrong bytes between {at} and {}", at + read as u64));
                }
                read
            }
            Direction::Up => {
                let written = timeout(STALL_LIMIT, stream.write(pattern.at(at, most))).await;
                let written = written.map_err(|_| format!("no byte taken for {STALL_LIMIT:?} at {at}"))?;
                written.map_err(|error| format!("sending at {at}: {error}"))?
            }
        };
        at += moved as u64;
        control.add_done(moved as u64);
        pauses.step();
    }
    let mut stall_max_ms = pauses.longest_ms();
    if load.direction == Direction::Up {
        let answer = line(&mut stream).await?;
        let numbers: Vec<u64> = answer.split(' ').filter_map(|word| word.parse().ok()).collect();
        match numbers[..] {
            [received, server_stall_ms] if received == load.bytes => {
                stall_max_ms = stall_max_ms.max(server_stall_ms);
            }
            _ => return Err(format!("the server says {answer:?}")),
        }
    }
    Ok(BulkReport {
        bytes: at,
        elapsed_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        stall_max_ms,
        backend,
        ended_unix_ms: unix_ms(),
    })
}

async fn line<S: AsyncBufReadExt + Unpin>(stream: &mut S) -> std::result::Result<String, String> {
    let mut text = String::new();
    timeout(STALL_LIMIT, stream.read_line(&mut text))
        .await
        .map_err(|_| "no line in time".to_owned())?
        .map_err(|error| format!("receiving a line: {error}"))?;
    if text.ends_with('\n') { Ok(text.trim_end().to_owned()) } else { Err("closed instead of a line".into()) }
}
