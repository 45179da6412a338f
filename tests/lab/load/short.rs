//! New connections at a fixed rate, each with one exchange. Each begins at its time, however long others take.

use super::control::{Control, FAILURES_MAX, PerBackend, unix_ms};
use super::hold::{How, exchange, greet};
use super::socket::connect;
use crate::command::{LabError, Result};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Connections open at a time; more are failures.
const OPEN_MAX: usize = 4096;
/// A connection that takes longer than this is named in the report, milliseconds. A SYN sent again takes a second.
const SLOW_MS: u64 = 500;

/// New connections.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShortLoad {
    /// VIP and port of our server.
    pub target: SocketAddr,
    /// Client addresses, used in turn.
    pub sources: Vec<IpAddr>,
    /// Connections a second.
    pub rate: u64,
    /// Limit on each step of a connection, milliseconds.
    pub limit_ms: u64,
}

/// A connection worth naming.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Short {
    /// Client address and port.
    pub source: SocketAddr,
    /// When it was begun, Unix time, milliseconds.
    pub started_unix_ms: u64,
    /// When it ended.
    pub ended_unix_ms: u64,
    /// Its backend, where it was known already.
    pub backend: Option<String>,
    /// How it failed, if it did.
    pub how: Option<How>,
    /// In words.
    pub text: String,
}

/// What became of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ShortReport {
    /// Connections whose exchange succeeded.
    pub ok: u64,
    /// Connections that failed.
    pub failed: u64,
    /// Those that failed, the first 10,000.
    pub failures: Vec<Short>,
    /// Those that succeeded after more than 500 ms, the first 10,000.
    pub slow: Vec<Short>,
    /// Successes by backend.
    pub per_backend: PerBackend,
}

pub(super) async fn run(load: ShortLoad, control: &Control) -> Result<ShortReport> {
    if load.sources.is_empty() || load.rate == 0 {
        return Err(LabError::Wrong("no client addresses, or no rate".into()));
    }
    let report = Rc::new(RefCell::new(ShortReport::default()));
    let begun = Instant::now();
    let load = Rc::new(load);
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let mut open = tokio::task::JoinSet::new();
            for index in 0_u64.. {
                let offset = Duration::from_micros(index.saturating_mul(1_000_000) / load.rate);
                tokio::time::sleep_until((begun + offset).into()).await;
                while open.try_join_next().is_some() {}
                if control.is_stopped() {
                    break;
                }
                let (load, report, control) = (Rc::clone(&load), Rc::clone(&report), control.clone());
                let crowded = open.len() >= OPEN_MAX;
                open.spawn_local(async move { one(&load, index, crowded, &report, &control).await });
            }
            while open.join_next().await.is_some() {}
        })
        .await;
    Ok(report.take())
}

async fn one(load: &ShortLoad, index: u64, crowded: bool, report: &RefCell<ShortReport>, control: &Control) {
    let source = load.sources[usize::try_from(index).unwrap_or(0) % load.sources.len()];
    let mut short = Short {
        source: SocketAddr::new(source, 0),
        started_unix_ms: unix_ms(),
        ended_unix_ms: 0,
        backend: None,
        how: None,
        text: String::new(),
    };
    let result = if crowded {
        Err((How::Unmade, format!("{OPEN_MAX} connections are open already")))
    } else {
        life(load, index, &mut short).await
    };
    short.ended_unix_ms = unix_ms();
    let mut report = report.borrow_mut();
    match result {
        Ok(()) => {
            report.ok += 1;
            control.add_done(1);
            if let Some(backend) = &short.backend {
                *report.per_backend.entry(backend.clone()).or_insert(0) += 1;
            }
            let slow = short.ended_unix_ms.saturating_sub(short.started_unix_ms) > SLOW_MS;
            if slow && report.slow.len() < FAILURES_MAX {
                report.slow.push(short);
            }
        }
        Err((how, text)) => {
            report.failed += 1;
            control.add_failed();
            (short.how, short.text) = (Some(how), text);
            if report.failures.len() < FAILURES_MAX {
                report.failures.push(short);
            }
        }
    }
}

async fn life(load: &ShortLoad, index: u64, short: &mut Short) -> std::result::Result<(), (How, String)> {
    let limit = Duration::from_millis(load.limit_ms);
    let stream = connect(short.source.ip(), load.target, limit).await.map_err(|text| (How::Unmade, text))?;
    if let Ok(address) = stream.local_addr() {
        short.source = address;
    }
    let (mut stream, name) = greet(stream, limit).await?;
    short.backend = Some(name.clone());
    exchange(&mut stream, &name, &format!("short {index}"), limit).await?;
    let end = async {
        stream.shutdown().await?;
        stream.read_to_end(&mut Vec::new()).await
    };
    match tokio::time::timeout(limit, end).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err((How::Reset, format!("closing: {error}"))),
        Err(_) => Err((How::Timeout, format!("closing: nothing in {} ms", load.limit_ms))),
    }
}
