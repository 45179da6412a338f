//! HTTP requests, each on a new connection, from many client addresses.

use super::control::{Control, FAILURES_MAX, Failure, PerBackend, unix_ms};
use super::socket::connect;
use crate::command::{LabError, Result};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// A run of requests.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HttpLoad {
    /// VIP and port.
    pub target: SocketAddr,
    /// Client addresses, used in turn.
    pub sources: Vec<IpAddr>,
    /// Number of requests; 0 = until stopped.
    pub requests: u64,
    /// Requests in flight at a time.
    pub concurrency: usize,
    /// Requests a second at most; 0 = as fast as they are answered.
    pub rate: u64,
    /// Limit on a whole request, milliseconds.
    pub timeout_ms: u64,
}

impl HttpLoad {
    /// Requests as fast as they are answered, 24 at a time.
    pub fn new(target: SocketAddr, sources: Vec<IpAddr>, requests: u64) -> HttpLoad {
        HttpLoad { target, sources, requests, concurrency: 24, rate: 0, timeout_ms: 5000 }
    }

    /// Requests at a fixed rate until stopped.
    pub fn steady(target: SocketAddr, sources: Vec<IpAddr>, rate: u64) -> HttpLoad {
        HttpLoad { concurrency: 64, rate, ..HttpLoad::new(target, sources, 0) }
    }
}

/// What became of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HttpReport {
    /// Requests answered correctly.
    pub ok: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Client addresses whose requests were answered.
    pub sources: u64,
    /// Length of the run, milliseconds.
    pub elapsed_ms: u64,
    /// Answers by backend.
    pub per_backend: PerBackend,
    /// Half of the answers came within this time, microseconds.
    pub latency_p50_us: u64,
    /// 99 of 100 did.
    pub latency_p99_us: u64,
    /// All did.
    pub latency_max_us: u64,
    /// Failures, the first 10,000.
    pub failures: Vec<Failure>,
    /// Answers by backend and by the 50 ms in which the request began (Unix time, milliseconds, a multiple of 50).
    pub timeline: BTreeMap<u64, PerBackend>,
}

/// Width of a step of the timeline, milliseconds.
pub const STEP_MS: u64 = 50;

impl HttpReport {
    /// Answers of a backend.
    pub fn of(&self, backend: &str) -> u64 {
        self.per_backend.get(backend).copied().unwrap_or(0)
    }

    /// Answers of a backend to requests that began in a step within `[from, to)`, Unix time, milliseconds.
    pub fn of_between(&self, backend: &str, from: u64, to: u64) -> u64 {
        self.timeline.range(from..to).filter_map(|(_, step)| step.get(backend)).sum()
    }

    /// Largest deviation of a backend's share from its weight, as a ratio (0.15 = 15 %); backends that answered
    /// although they have no weight count as 1.
    pub fn deviation(&self, weights: &[(&str, u32)]) -> f64 {
        let total: u32 = weights.iter().map(|(_, weight)| weight).sum();
        let mut worst: f64 = 0.0;
        for (name, weight) in weights.iter().filter(|(_, weight)| *weight > 0) {
            let expected = self.ok as f64 * f64::from(*weight) / f64::from(total);
            worst = worst.max((self.of(name) as f64 - expected).abs() / expected.max(1.0));
        }
        let strangers = self
            .per_backend
            .keys()
            .any(|name| !weights.iter().any(|(weighted, weight)| weighted == name && *weight > 0));
        if strangers { worst.max(1.0) } else { worst }
    }
}

struct State {
    next: u64,
    report: HttpReport,
    sources: BTreeSet<IpAddr>,
    latencies_us: Vec<u32>,
}

pub(super) async fn run(load: HttpLoad, control: &Control) -> Result<HttpReport> {
    if load.sources.is_empty() {
        return Err(LabError::Wrong("no client addresses".into()));
    }
    let state = Rc::new(RefCell::new(State {
        next: 0,
        report: HttpReport::default(),
        sources: BTreeSet::new(),
        latencies_us: Vec::new(),
    }));
    let begun = Instant::now();
    let load = Rc::new(load);
    let local = tokio::task::LocalSet::new();
    for _ in 0..load.concurrency.clamp(1, 1024) {
        let (load, state, control) = (Rc::clone(&load), Rc::clone(&state), control.clone());
        local.spawn_local(async move { client(&load, &state, &control, begun).await });
    }
    local.await;
    let mut state = state.borrow_mut();
    let mut latencies_us = std::mem::take(&mut state.latencies_us);
    latencies_us.sort_unstable();
    let at = |percent: usize| {
        latencies_us
            .get((latencies_us.len() * percent / 100).min(latencies_us.len().saturating_sub(1)))
            .copied()
    };
    let (half, most, all) = (at(50), at(99), at(100));
    let sources = state.sources.len() as u64;
    let report = &mut state.report;
    report.latency_p50_us = half.unwrap_or(0).into();
    report.latency_p99_us = most.unwrap_or(0).into();
    report.latency_max_us = all.unwrap_or(0).into();
    report.sources = sources;
    report.elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(std::mem::take(report))
}

async fn client(load: &HttpLoad, state: &RefCell<State>, control: &Control, begun: Instant) {
    let limit = Duration::from_millis(load.timeout_ms);
    loop {
        let index = {
            let mut state = state.borrow_mut();
            let index = state.next;
            if control.is_stopped() || (load.requests > 0 && index >= load.requests) {
                return;
            }
            state.next += 1;
            index
        };
        if let Some(offset_us) = index.saturating_mul(1_000_000).checked_div(load.rate) {
            tokio::time::sleep_until((begun + Duration::from_micros(offset_us)).into()).await;
            if control.is_stopped() {
                return;
            }
        }
        // Which address comes next does not depend on the concurrency.
        let source = load.sources[usize::try_from(index).unwrap_or(0) % load.sources.len()];
        let started_unix_ms = unix_ms();
        let started = Instant::now();
        let mut from = SocketAddr::new(source, 0);
        let result = match timeout(limit, request(source, load.target, limit, &mut from)).await {
            Ok(result) => result,
            Err(_) if from.port() == 0 => Err("connect: timeout".into()),
            Err(_) => Err("no complete answer in time".into()),
        };
        let mut state = state.borrow_mut();
        match result {
            Ok(backend) => {
                let latency = u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX);
                state.latencies_us.push(latency);
                state.sources.insert(source);
                state.report.ok += 1;
                let step = started_unix_ms / STEP_MS * STEP_MS;
                *state.report.timeline.entry(step).or_default().entry(backend.clone()).or_insert(0) += 1;
                *state.report.per_backend.entry(backend).or_insert(0) += 1;
                control.add_done(1);
            }
            Err(reason) => {
                state.report.failed += 1;
                control.add_failed();
                if state.report.failures.len() < FAILURES_MAX {
                    let source = from.to_string();
                    let ended_unix_ms = unix_ms();
                    state.report.failures.push(Failure {
                        started_unix_ms,
                        ended_unix_ms,
                        source,
                        backend: None,
                        reason,
                    });
                }
            }
        }
    }
}

/// One request on a new connection; returns the backend that answered.
async fn request(
    source: IpAddr,
    target: SocketAddr,
    limit: Duration,
    from: &mut SocketAddr,
) -> std::result::Result<String, String> {
    let mut stream = connect(source, target, limit).await?;
    if let Ok(address) = stream.local_addr() {
        *from = address;
    }
    let request = format!("GET / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| format!("sending: {error}"))?;
    let mut answer = Vec::with_capacity(512);
    loop {
        match stream.read_buf(&mut answer).await {
            Ok(0) => break,
            Ok(_) if answer.len() > 65_536 => return Err("an answer of more than 64 KiB".into()),
            Ok(_) => {}
            Err(error) => return Err(format!("receiving: {error} after {} bytes", answer.len())),
        }
    }
    judge(&answer)
}

/// The backend's name in a complete and correct answer.
fn judge(answer: &[u8]) -> std::result::Result<String, String> {
    let text = std::str::from_utf8(answer).map_err(|_| "an answer that is not text")?;
    let (head, body) =
        text.split_once("\r\n\r\n").ok_or_else(|| format!("cut short after {} bytes", text.len()))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 200 ") {
        return Err(format!("status line {status:?}"));
    }
    let field = |name: &str| {
        head.split("\r\n")
            .filter_map(|line| line.split_once(": "))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    };
    let length = field("content-length").and_then(|value| value.parse::<usize>().ok());
    if length != Some(body.len()) {
        return Err(format!("a body of {} bytes where the header says {length:?}", body.len()));
    }
    let backend = field("x-backend").ok_or("no X-Backend")?;
    if body.trim_end() != backend {
        return Err(format!("header of {backend}, body {body:?}"));
    }
    Ok(backend.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_answers_count() {
        let good = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-Backend: b1\r\n\r\nb1\n";
        assert_eq!(judge(good), Ok("b1".to_owned()));
        for length in 0..good.len() {
            assert!(judge(&good[..length]).is_err(), "cut at {length}");
        }
        assert!(judge(b"HTTP/1.1 502 Bad\r\nContent-Length: 3\r\nX-Backend: b1\r\n\r\nb1\n").is_err());
        assert!(judge(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-Backend: b2\r\n\r\nb1\n").is_err());
    }

    #[test]
    fn deviation_is_the_worst_share() {
        let mut report = HttpReport { ok: 400, ..HttpReport::default() };
        report.per_backend = [("b1".to_owned(), 110), ("b2".to_owned(), 290)].into();
        let deviation = report.deviation(&[("b1", 1), ("b2", 3)]);
        assert!((deviation - 0.1).abs() < 1e-9, "{deviation}");
        assert!(report.deviation(&[("b1", 1)]) >= 1.0, "b2 has no weight");
    }
}
