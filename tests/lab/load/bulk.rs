//! One large transfer, with the longest pause in it.

use super::socket::connect;
use super::{Control, unix_ms};
use crate::command::{LabError, Result};
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

/// The byte at an offset of every transfer: it differs from its neighbours in other segments and other chunks.
pub(super) fn pattern(offset: u64) -> u8 {
    (offset ^ (offset >> 8) ^ (offset >> 16)) as u8
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
    transfer(&load, control).await.map_err(|reason| LabError::Wrong(format!("{:?}: {reason}", load.direction)))
}

async fn transfer(load: &BulkLoad, control: &Control) -> std::result::Result<BulkReport, String> {
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
                if let Some(bad) = (0..read).find(|&index| chunk[index] != pattern(at + index as u64)) {
                    return Err(format!("wrong byte at {}", at + bad as u64));
                }
                read
            }
            Direction::Up => {
                for (index, byte) in chunk[..most].iter_mut().enumerate() {
                    *byte = pattern(at + index as u64);
                }
                let written = timeout(STALL_LIMIT, stream.write(&chunk[..most])).await;
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
            [received, server_stall_ms] if received == load.bytes => stall_max_ms = stall_max_ms.max(server_stall_ms),
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
