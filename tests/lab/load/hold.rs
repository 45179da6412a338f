//! Connections that are held: each says a line now and then and wants it back with the name of the backend that it began
//! with. Some fall silent after a first exchange, until they are woken. Each connection has its own outcome.

use super::control::{Control, PerBackend, unix_ms};
use super::socket::{ask, connect, udp};
use crate::command::{LabError, Result};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// Held connections.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HoldLoad {
    /// VIP and port of our server.
    pub target: SocketAddr,
    /// Client addresses, used in turn.
    pub sources: Vec<IpAddr>,
    /// Connections.
    pub connections: usize,
    /// How many of them are silent between their first exchange and `wake`.
    pub silent: usize,
    /// Time over which they are opened, milliseconds.
    pub opening_ms: u64,
    /// Time between two exchanges of a connection, milliseconds.
    pub interval_ms: u64,
    /// An exchange that takes longer breaks its connection, milliseconds.
    pub limit_ms: u64,
    /// UDP: a "connection" is a socket, and an exchange is asked for again each 200 ms.
    pub udp: bool,
}

impl HoldLoad {
    /// One exchange each 500 ms, opened at 200 a second.
    pub fn new(target: SocketAddr, sources: Vec<IpAddr>, connections: usize, silent: usize) -> HoldLoad {
        let opening_ms = 5 * connections as u64;
        let (interval_ms, limit_ms) = (500, 10_000);
        HoldLoad { target, sources, connections, silent, opening_ms, interval_ms, limit_ms, udp: false }
    }
}

/// How a connection broke.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// It could not be made.
    Unmade,
    /// By a reset.
    Reset,
    /// No answer in time.
    Timeout,
    /// The other side closed it.
    Closed,
    /// A backend answered that it did not begin with.
    OtherBackend,
    /// Other bytes came back than were sent.
    OtherBytes,
    /// In another way; see the text.
    Otherwise,
}

/// The end of a broken connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Broken {
    /// When, Unix time, milliseconds.
    pub unix_ms: u64,
    /// How it broke.
    pub how: How,
    /// In words.
    pub text: String,
}

/// What became of one connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Held {
    /// Client address and port.
    pub source: SocketAddr,
    /// Whether it was to be silent.
    pub silent: bool,
    /// When it was begun, Unix time, milliseconds.
    pub started_unix_ms: u64,
    /// The backend it began with.
    pub backend: Option<String>,
    /// Exchanges that succeeded.
    pub exchanges: u64,
    /// The longest of them, microseconds.
    pub slowest_us: u64,
    /// When that one began, Unix time, milliseconds.
    pub slowest_unix_ms: u64,
    /// Its end, if it broke.
    pub broken: Option<Broken>,
}

/// What became of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HoldReport {
    /// All connections, in the order in which they were begun.
    pub connections: Vec<Held>,
}

impl HoldReport {
    /// Those that broke.
    pub fn broken(&self) -> Vec<&Held> {
        self.connections.iter().filter(|held| held.broken.is_some()).collect()
    }

    /// Connections by backend.
    pub fn per_backend(&self) -> PerBackend {
        let mut counts = PerBackend::new();
        for backend in self.connections.iter().filter_map(|held| held.backend.as_ref()) {
            *counts.entry(backend.clone()).or_insert(0) += 1;
        }
        counts
    }

    /// Exchanges that succeeded.
    pub fn exchanges(&self) -> u64 {
        self.connections.iter().map(|held| held.exchanges).sum()
    }

    /// The longest exchange, microseconds.
    pub fn slowest_us(&self) -> u64 {
        self.connections.iter().map(|held| held.slowest_us).max().unwrap_or(0)
    }
}

pub(super) async fn run(load: HoldLoad, control: &Control) -> Result<HoldReport> {
    if load.sources.is_empty() {
        return Err(LabError::Wrong("no client addresses".into()));
    }
    let load = Rc::new(load);
    let connections = Rc::new(RefCell::new(vec![None; load.connections]));
    let local = tokio::task::LocalSet::new();
    for index in 0..load.connections {
        let (load, connections, control) = (Rc::clone(&load), Rc::clone(&connections), control.clone());
        local.spawn_local(async move {
            let held = hold(&load, index, control.clone()).await;
            if held.broken.is_some() {
                control.add_failed();
            }
            connections.borrow_mut()[index] = Some(held);
        });
    }
    local.await;
    Ok(HoldReport { connections: connections.take().into_iter().flatten().collect() })
}

/// Whether connection `index` is one of the silent: these are spread evenly over all.
fn is_silent(load: &HoldLoad, index: usize) -> bool {
    let before = |index: usize| index * load.silent / load.connections.max(1);
    before(index + 1) > before(index)
}

async fn hold(load: &HoldLoad, index: usize, control: Control) -> Held {
    let step = |over_ms: u64| Duration::from_millis(over_ms * index as u64 / load.connections.max(1) as u64);
    tokio::time::sleep(step(load.opening_ms)).await;
    let source = load.sources[index % load.sources.len()];
    let mut held = Held {
        source: SocketAddr::new(source, 0),
        silent: is_silent(load, index),
        started_unix_ms: unix_ms(),
        backend: None,
        exchanges: 0,
        slowest_us: 0,
        slowest_unix_ms: 0,
        broken: None,
    };
    if let Err((how, text)) = life(load, index, step(load.interval_ms), control, &mut held).await {
        held.broken = Some(Broken { unix_ms: unix_ms(), how, text });
    }
    held
}

async fn life(
    load: &HoldLoad,
    index: usize,
    phase: Duration,
    mut control: Control,
    held: &mut Held,
) -> std::result::Result<(), (How, String)> {
    let limit = Duration::from_millis(load.limit_ms);
    let (mut line, name) = Transport::open(load, index, limit, &mut held.source).await?;
    held.backend = Some(name.clone());
    loop {
        let begun = Instant::now();
        let begun_unix_ms = unix_ms();
        line.exchange(&name, &format!("connection {index} exchange {}", held.exchanges), limit).await?;
        let took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        held.exchanges += 1;
        if took_us > held.slowest_us {
            (held.slowest_us, held.slowest_unix_ms) = (took_us, begun_unix_ms);
        }
        control.add_done(1);
        if held.silent && held.exchanges == 1 {
            control.woken().await;
            tokio::time::sleep(phase).await;
        } else {
            let interval = Duration::from_millis(load.interval_ms);
            tokio::time::sleep(interval.saturating_sub(begun.elapsed())).await;
        }
        if control.is_stopped() {
            return Ok(());
        }
    }
}

/// What a held connection speaks over.
enum Transport {
    Tcp(BufReader<TcpStream>),
    Udp(UdpSocket),
}

impl Transport {
    /// Opens it from the source's address, fills in the source's port, and returns the backend's name.
    async fn open(
        load: &HoldLoad,
        index: usize,
        limit: Duration,
        source: &mut SocketAddr,
    ) -> std::result::Result<(Transport, String), (How, String)> {
        let unmade = |text: String| (How::Unmade, text);
        if load.udp {
            let socket = udp(*source, load.target).await.map_err(|error| unmade(format!("UDP: {error}")))?;
            *source = socket.local_addr().unwrap_or(*source);
            let hello = format!("connection {index} begins");
            let back = ask(&socket, &hello, limit).await?;
            let name = back.split(' ').next().unwrap_or_default().to_owned();
            Ok((Transport::Udp(socket), name))
        } else {
            let stream = connect(source.ip(), load.target, limit).await.map_err(unmade)?;
            *source = stream.local_addr().unwrap_or(*source);
            let (stream, name) = greet(stream, limit).await?;
            Ok((Transport::Tcp(stream), name))
        }
    }

    async fn exchange(
        &mut self,
        name: &str,
        line: &str,
        limit: Duration,
    ) -> std::result::Result<(), (How, String)> {
        match self {
            Transport::Tcp(stream) => exchange(stream, name, line, limit).await,
            Transport::Udp(socket) => {
                let back = ask(socket, line, limit).await?;
                judge(&format!("{back}\n"), name, line).map_err(|how| (how, wrong(name, line, &back)))
            }
        }
    }
}

/// Asks the server to answer lines, and for its name.
pub(super) async fn greet(
    stream: TcpStream,
    limit: Duration,
) -> std::result::Result<(BufReader<TcpStream>, String), (How, String)> {
    let mut stream = BufReader::with_capacity(256, stream);
    let mut name = String::new();
    let hello = async {
        stream.write_all(b"LINES\n").await?;
        stream.read_line(&mut name).await
    };
    within(limit, hello, "greeting").await?;
    if !name.ends_with('\n') {
        return Err((How::Closed, "closed instead of a greeting".into()));
    }
    name.pop();
    Ok((stream, name))
}

/// Sends a line and wants it back with the backend's name.
pub(super) async fn exchange(
    stream: &mut BufReader<TcpStream>,
    name: &str,
    line: &str,
    limit: Duration,
) -> std::result::Result<(), (How, String)> {
    let mut back = String::new();
    let exchange = async {
        stream.write_all(format!("{line}\n").as_bytes()).await?;
        stream.read_line(&mut back).await
    };
    within(limit, exchange, line).await?;
    judge(&back, name, line).map_err(|how| (how, wrong(name, line, &back)))
}

fn wrong(name: &str, line: &str, back: &str) -> String {
    format!("{line}: {name} was to answer, but: {back:?}")
}

fn judge(back: &str, name: &str, line: &str) -> std::result::Result<(), How> {
    let Some(back) = back.strip_suffix('\n') else { return Err(How::Closed) };
    match back.split_once(' ') {
        Some((said, rest)) if said == name && rest == line => Ok(()),
        Some((said, rest)) if said != name && rest == line => Err(How::OtherBackend),
        _ => Err(How::OtherBytes),
    }
}

pub(super) async fn within(
    limit: Duration,
    action: impl Future<Output = std::io::Result<usize>>,
    what: &str,
) -> std::result::Result<usize, (How, String)> {
    use std::io::ErrorKind;
    match timeout(limit, action).await {
        Ok(Ok(length)) => Ok(length),
        Ok(Err(error)) => {
            let how = match error.kind() {
                // A write to a connection that was reset meanwhile.
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => How::Reset,
                ErrorKind::TimedOut => How::Timeout,
                _ => How::Otherwise,
            };
            Err((how, format!("{what}: {error}")))
        }
        Err(_) => Err((How::Timeout, format!("{what}: nothing in {} ms", limit.as_millis()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_silent_are_as_many_as_asked_for() {
        for (connections, silent) in [(600, 300), (600, 0), (7, 3), (5, 5)] {
            let target = "203.0.113.10:7000".parse().unwrap();
            let load = HoldLoad::new(target, Vec::new(), connections, silent);
            assert_eq!((0..connections).filter(|&index| is_silent(&load, index)).count(), silent);
        }
    }

    #[test]
    fn an_answer_is_judged() {
        assert_eq!(judge("b1 hello you\n", "b1", "hello you"), Ok(()));
        assert_eq!(judge("b2 hello you\n", "b1", "hello you"), Err(How::OtherBackend));
        assert_eq!(judge("b1 hello me\n", "b1", "hello you"), Err(How::OtherBytes));
        assert_eq!(judge("b1 hello y", "b1", "hello you"), Err(How::Closed));
        assert_eq!(judge("", "b1", "hello you"), Err(How::Closed));
    }
}
