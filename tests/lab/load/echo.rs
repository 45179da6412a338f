//! Long connections: each sends 64 bytes now and then and wants them back.

use super::control::{Control, Failure, PerBackend, unix_ms};
use super::socket::connect;
use crate::command::{LabError, Result};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::timeout;

/// Bytes of an echo.
pub const ECHO_BYTES: usize = 64;
/// An echo that is not back after this time breaks its connection.
const ECHO_LIMIT: Duration = Duration::from_secs(10);

/// Long connections.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EchoLoad {
    /// VIP and port of our server.
    pub target: SocketAddr,
    /// Client addresses, used in turn.
    pub sources: Vec<IpAddr>,
    /// Connections.
    pub connections: usize,
    /// Time between two echoes of a connection, milliseconds.
    pub interval_ms: u64,
    /// How long, milliseconds; 0 = until stopped.
    pub duration_ms: u64,
}

/// What became of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EchoReport {
    /// Connections made.
    pub connected: u64,
    /// Connections that could not be made or broke.
    pub broken: Vec<Failure>,
    /// Echoes received.
    pub echoes: u64,
    /// Connections by backend.
    pub per_backend: PerBackend,
    /// Longest time for an echo, microseconds.
    pub round_trip_max_us: u64,
}

pub(super) async fn run(load: EchoLoad, control: &Control) -> Result<EchoReport> {
    if load.sources.is_empty() {
        return Err(LabError::Wrong("no client addresses".into()));
    }
    let report = Rc::new(RefCell::new(EchoReport::default()));
    let end = (load.duration_ms > 0).then(|| Instant::now() + Duration::from_millis(load.duration_ms));
    let load = Rc::new(load);
    let local = tokio::task::LocalSet::new();
    for index in 0..load.connections {
        let (load, report, control) = (Rc::clone(&load), Rc::clone(&report), control.clone());
        local.spawn_local(async move {
            // Spread over the interval, as clients are.
            let offset_ms = load.interval_ms * index as u64 / load.connections.max(1) as u64;
            tokio::time::sleep(Duration::from_millis(offset_ms)).await;
            let started_unix_ms = unix_ms();
            let mut known =
                Known { source: load.sources[index % load.sources.len()].to_string(), backend: None };
            if let Err(reason) = connection(&load, index, end, &report, &control, &mut known).await {
                control.add_failed();
                report.borrow_mut().broken.push(Failure {
                    started_unix_ms,
                    ended_unix_ms: unix_ms(),
                    source: known.source,
                    backend: known.backend,
                    reason,
                });
            }
        });
    }
    local.await;
    Ok(report.take())
}

struct Known {
    source: String,
    backend: Option<String>,
}

async fn connection(
    load: &EchoLoad,
    index: usize,
    end: Option<Instant>,
    report: &RefCell<EchoReport>,
    control: &Control,
    known: &mut Known,
) -> std::result::Result<(), String> {
    let source = load.sources[index % load.sources.len()];
    let stream = connect(source, load.target, Duration::from_secs(5)).await?;
    if let Ok(address) = stream.local_addr() {
        known.source = address.to_string();
    }
    let mut stream = BufReader::new(stream);
    let mut name = String::new();
    let hello = async {
        stream.write_all(b"ECHO\n").await?;
        stream.read_line(&mut name).await
    };
    timeout(ECHO_LIMIT, hello)
        .await
        .map_err(|_| "no greeting in time".to_owned())?
        .map_err(|error| format!("greeting: {error}"))?;
    let name = name.trim_end().to_owned();
    if name.is_empty() {
        return Err("closed instead of a greeting".into());
    }
    known.backend = Some(name.clone());
    {
        let mut report = report.borrow_mut();
        report.connected += 1;
        *report.per_backend.entry(name).or_insert(0) += 1;
    }
    let mut round = 0_u64;
    while !control.is_stopped() && end.is_none_or(|end| Instant::now() < end) {
        let mut sent = [0_u8; ECHO_BYTES];
        for (offset, byte) in sent.iter_mut().enumerate() {
            *byte = (index as u64 ^ round.wrapping_mul(31) ^ offset as u64) as u8;
        }
        let mut back = [0_u8; ECHO_BYTES];
        let begun = Instant::now();
        let exchange = async {
            stream.write_all(&sent).await?;
            stream.read_exact(&mut back).await
        };
        match timeout(ECHO_LIMIT, exchange).await {
            Ok(Ok(_)) if back == sent => {}
            Ok(Ok(_)) => return Err(format!("echo {round}: other bytes came back")),
            Ok(Err(error)) => return Err(format!("echo {round}: {error}")),
            Err(_) => return Err(format!("echo {round}: not back in {} s", ECHO_LIMIT.as_secs())),
        }
        let took = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        {
            let mut report = report.borrow_mut();
            report.echoes += 1;
            report.round_trip_max_us = report.round_trip_max_us.max(took);
        }
        control.add_done(1);
        round += 1;
        tokio::time::sleep(Duration::from_millis(load.interval_ms).saturating_sub(begun.elapsed())).await;
    }
    Ok(())
}
