//! Where agents connect: TCP with or without TLS, and the limits of it.
//!
//! Rule of this module: every connection has a task of its own, which reads, parses and writes, and holds at most one frame.
//! Its words reach the owner of the truth through one bounded channel; who says too much is not read from for a while.

use super::counts::{Closed, Doors};
use super::desk::{Outbox, Pieces, outbox};
use super::registry::Hello;
use super::session::SessionId;
use model::agent::{FrameError, HELLO_TIMEOUT_MS, Refusal, ToAgent, ToMachine, VERSION, decode, encode};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

/// Connections of one address that have not said hello.
pub(crate) const UNKNOWN_OF_ADDRESS: u32 = 64;
/// Connections in all that have not said hello.
pub(crate) const UNKNOWN_MAX: u32 = 1024;
/// Frames of one connection a second, on average …
pub(crate) const FRAMES_PER_SECOND: u32 = 200;
/// … and at once.
pub(crate) const FRAMES_AT_ONCE: u32 = 2000;
/// A longer frame counts as so many of these, bytes.
const FRAME_BYTES: usize = 2048;
/// Words of agents that may wait for the owner.
pub(crate) const SAID_MAX: usize = 1024;
/// Bytes read at once.
const READ_BYTES: usize = 16 << 10;
/// Longest time that an agent may take to read a piece of what it is told.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time that last words may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// Pause after a failed accept (no file descriptors left).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What comes of a connection.
#[derive(Debug)]
pub(crate) enum Said {
    /// Its first words, and the way back.
    Hello(Hello, Outbox),
    /// Others.
    Message(SessionId, ToMachine),
    /// Something that is no message.
    Malformed(SessionId, String),
    /// It has ended.
    Closed(SessionId),
}

/// What all connections share.
#[derive(Clone)]
pub(crate) struct Shared {
    /// `machine.name`.
    pub(crate) machine: String,
    pub(crate) said: mpsc::Sender<Said>,
    /// `agents.connections`.
    pub(crate) connections: watch::Receiver<u32>,
    pub(crate) doors: Doors,
}

/// Connections, and those that have not said hello.
#[derive(Debug, Default)]
struct Visitors {
    open: u32,
    unknown: u32,
    by_address: HashMap<IpAddr, u32>,
}

/// A place among the open connections.
struct Place(Arc<Mutex<Visitors>>, Doors);

/// A place among those that have not said hello.
struct Waiting(Arc<Mutex<Visitors>>, IpAddr);

impl Visitors {
    fn enter(
        all: &Arc<Mutex<Visitors>>,
        address: IpAddr,
        connections: u32,
        doors: &Doors,
    ) -> Result<(Place, Waiting), Closed> {
        let mut visitors = all.lock().unwrap_or_else(PoisonError::into_inner);
        if visitors.open >= connections {
            return Err(Closed::Full);
        }
        if visitors.unknown >= UNKNOWN_MAX {
            return Err(Closed::Unknown);
        }
        let of_address = visitors.by_address.entry(address).or_default();
        if *of_address >= UNKNOWN_OF_ADDRESS {
            return Err(Closed::Address);
        }
        *of_address += 1;
        visitors.unknown += 1;
        visitors.open += 1;
        doors.set_open(u64::from(visitors.open));
        Ok((Place(all.clone(), doors.clone()), Waiting(all.clone(), address)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut visitors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        visitors.open = visitors.open.saturating_sub(1);
        self.1.set_open(u64::from(visitors.open));
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut visitors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        visitors.unknown = visitors.unknown.saturating_sub(1);
        if let Some(of_address) = visitors.by_address.get_mut(&self.1) {
            *of_address = of_address.saturating_sub(1);
            if *of_address == 0 {
                visitors.by_address.remove(&self.1);
            }
        }
    }
}

/// Takes connections for ever.
pub(crate) async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Shared) {
    let visitors = Arc::new(Mutex::new(Visitors::default()));
    let mut last = 0;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let connections = *shared.connections.borrow();
                match Visitors::enter(&visitors, peer.ip(), connections, &shared.doors) {
                    Err(why) => shared.doors.count(why),
                    Ok(places) => {
                        last += 1;
                        let visitor = Visitor { id: SessionId(last), peer, shared: shared.clone() };
                        tokio::spawn(visitor.attend(stream, tls.clone(), places));
                    }
                }
            }
            Err(error) => {
                tracing::warn!("cannot accept agents: {error}");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// One connection.
struct Visitor {
    id: SessionId,
    peer: SocketAddr,
    shared: Shared,
}

impl Visitor {
    async fn attend(self, stream: TcpStream, tls: Option<TlsAcceptor>, (place, waiting): (Place, Waiting)) {
        let until = Instant::now() + Duration::from_millis(HELLO_TIMEOUT_MS);
        let _ = stream.set_nodelay(true);
        match tls {
            None => self.introduce(stream, until, waiting).await,
            Some(tls) => match tokio::time::timeout_at(until, tls.accept(stream)).await {
                Ok(Ok(stream)) => self.introduce(stream, until, waiting).await,
                Ok(Err(_)) => self.shared.doors.count(Closed::Tls),
                Err(_) => self.shared.doors.count(Closed::Silent),
            },
        }
        drop(place);
    }

    /// The challenge and the hello, then everything else.
    async fn introduce<S>(self, stream: S, until: Instant, waiting: Waiting)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (read, mut write) = tokio::io::split(stream);
        let Some(nonce) = nonce() else { return };
        let machine = self.shared.machine.clone();
        let challenge = ToAgent::Challenge { versions: vec![VERSION], machine, nonce: nonce.clone() };
        let Ok(challenge) = encode(&challenge) else { return };
        let mut frames = Frames { read, bytes: Vec::new(), length: 0 };
        let first = tokio::time::timeout_at(until, async {
            write.write_all(&challenge).await.map_err(Lost::Io)?;
            frames.next().await
        })
        .await;
        let problem = match first {
            Ok(Ok(Some(ToMachine::Hello { version, agent, incarnation, addresses, proofs }))) => {
                drop(waiting);
                let (id, peer) = (self.id, self.peer);
                let hello = Hello { id, peer, nonce, version, agent, incarnation, addresses, proofs };
                return self.converse(hello, frames, write).await;
            }
            Ok(Ok(Some(_))) => "the first message is to be a hello".to_owned(),
            Ok(Err(Lost::Frame(error))) => error.to_string(),
            Ok(Ok(None) | Err(Lost::Io(_))) => return,
            Err(_) => return self.shared.doors.count(Closed::Silent),
        };
        self.shared.doors.count(Closed::Malformed);
        let refused = ToAgent::Refused {
            service: None,
            backend: None,
            code: Refusal::Malformed,
            reason: problem,
            help: "see docs/agents.md".to_owned(),
        };
        if let Ok(refused) = encode(&refused) {
            let _ = tokio::time::timeout(FAREWELL, write.write_all(&refused)).await;
        }
    }

    async fn converse<S>(
        self,
        hello: Hello,
        mut frames: Frames<tokio::io::ReadHalf<S>>,
        mut write: tokio::io::WriteHalf<S>,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (outbox, mut pieces) = outbox();
        if self.shared.said.send(Said::Hello(hello, outbox)).await.is_err() {
            return;
        }
        {
            let telling = tell(&mut pieces, &mut write, &self.shared.doors);
            tokio::pin!(telling);
            let is_malformed = tokio::select! {
                () = &mut telling => false,
                is_malformed = self.listen(&mut frames) => is_malformed,
            };
            if is_malformed {
                // What is said about it still goes out.
                let _ = tokio::time::timeout(FAREWELL, telling).await;
            }
        }
        let _ = self.shared.said.send(Said::Closed(self.id)).await;
        let _ = tokio::time::timeout(FAREWELL, write.shutdown()).await;
    }

    /// Passes messages on until there are no more, or one that is none, which is true.
    async fn listen<R: AsyncRead + Unpin>(&self, frames: &mut Frames<R>) -> bool {
        let mut pace = Pace::new(Instant::now());
        loop {
            let said = match frames.next().await {
                Ok(Some(message)) => Said::Message(self.id, message),
                Ok(None) | Err(Lost::Io(_)) => return false,
                Err(Lost::Frame(error)) => {
                    self.shared.doors.count(Closed::Malformed);
                    let _ = self.shared.said.send(Said::Malformed(self.id, error.to_string())).await;
                    return true;
                }
            };
            if self.shared.said.send(said).await.is_err() {
                return false;
            }
            let pause = pace.pause(frames.length.div_ceil(FRAME_BYTES), Instant::now());
            if !pause.is_zero() {
                self.shared.doors.pause();
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// Writes what is to be told until there will be no more, or the agent does not read it.
async fn tell<W: AsyncWrite + Unpin>(pieces: &mut Pieces, write: &mut W, doors: &Doors) {
    while let Some(piece) = pieces.next().await {
        match tokio::time::timeout(WRITE_TIMEOUT, async {
            write.write_all(&piece).await?;
            write.flush().await
        })
        .await
        {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => return doors.count(Closed::Slow),
        }
    }
}

/// 32 random bytes, as they are written.
fn nonce() -> Option<String> {
    let mut bytes = [0; 32];
    rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Why no message came.
#[derive(Debug)]
enum Lost {
    Io(#[expect(dead_code, reason = "shown by Debug")] io::Error),
    Frame(FrameError),
}

/// Bytes in, messages out; holds at most one frame and what was read with it.
struct Frames<R> {
    read: R,
    bytes: Vec<u8>,
    /// Bytes of the last message.
    length: usize,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    async fn next(&mut self) -> Result<Option<ToMachine>, Lost> {
        loop {
            let before = self.bytes.len();
            if let Some(message) = decode(&mut self.bytes).map_err(Lost::Frame)? {
                self.length = before - self.bytes.len();
                return Ok(Some(message));
            }
            let mut chunk = [0; READ_BYTES];
            let length = self.read.read(&mut chunk).await.map_err(Lost::Io)?;
            if length == 0 {
                return Ok(None);
            }
            self.bytes.extend_from_slice(chunk.get(..length).unwrap_or_default());
        }
    }
}

/// A bucket of frames.
#[derive(Debug)]
struct Pace {
    left: f64,
    at: Instant,
}

impl Pace {
    fn new(now: Instant) -> Pace {
        Pace { left: f64::from(FRAMES_AT_ONCE), at: now }
    }

    /// Takes so many out; how long to wait before the next.
    fn pause(&mut self, frames: usize, now: Instant) -> Duration {
        let frames = f64::from(u32::try_from(frames).unwrap_or(u32::MAX));
        let rate = f64::from(FRAMES_PER_SECOND);
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * rate;
        self.at = now;
        self.left = (self.left + gained).min(f64::from(FRAMES_AT_ONCE)) - frames;
        if self.left >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.left / rate) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_thousand_at_once_and_two_hundred_a_second() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert!((0..FRAMES_AT_ONCE).all(|_| pace.pause(1, start).is_zero()));
        assert_eq!(pace.pause(1, start), Duration::from_millis(5));
        let later = start + Duration::from_millis(1005);
        assert!((0..FRAMES_PER_SECOND).all(|_| pace.pause(1, later).is_zero()));
        assert!(!pace.pause(1, later).is_zero());
        let much_later = later + Duration::from_secs(3600);
        assert!(
            (0..FRAMES_AT_ONCE).all(|_| pace.pause(1, much_later).is_zero()),
            "no more than a full bucket"
        );
        assert!(!pace.pause(1, much_later).is_zero());
    }

    #[test]
    fn limits_are_exact_and_places_come_back() {
        let (all, doors) = (Arc::new(Mutex::new(Visitors::default())), Doors::default());
        let enter = |last: u8, connections| {
            Visitors::enter(&all, IpAddr::from([10, 0, 0, last]), connections, &doors)
        };
        let mut places: Vec<_> = (0..UNKNOWN_OF_ADDRESS).map(|_| enter(1, 9999).ok().unwrap()).collect();
        assert_eq!(enter(1, 9999).err(), Some(Closed::Address));
        for last in 2..=16 {
            places.extend((0..UNKNOWN_OF_ADDRESS).map(|_| enter(last, 9999).ok().unwrap()));
        }
        assert_eq!((places.len(), doors.open()), (UNKNOWN_MAX as usize, 1024));
        assert_eq!(enter(17, 9999).err(), Some(Closed::Unknown));
        assert_eq!(enter(17, 1024).err(), Some(Closed::Full));
        let (place, waiting) = places.pop().unwrap();
        drop(waiting);
        assert_eq!(enter(17, 1024).err(), Some(Closed::Full), "it said hello and is still there");
        let (other, _waiting) = enter(16, 9999).ok().unwrap();
        drop((place, other));
        places.clear();
        assert_eq!(doors.open(), 0);
        assert!(all.lock().unwrap().by_address.len() <= 1);
    }
}
