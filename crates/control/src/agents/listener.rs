//! Where agents connect: TCP with or without TLS, and the limits of it.
//!
//! Rule of this module: it has a thread of its own. Every connection is a task on it, which reads, parses, verifies and writes,
//! and holds at most one frame. Its words reach the controller through one bounded channel; who says too much is not
//! read from for a while.
//!
//! Whoever has not proved a token is a stranger, and what strangers cost is bounded, by address and in sum: their
//! connections ([`UNKNOWN_OF_ADDRESS`], [`UNKNOWN_MAX`]) until the owner has taken their hello, their bytes ([`STRANGER_BYTES_OF_ADDRESS`],
//! [`STRANGER_BYTES_MAX`]), what of these is read and verified a second ([`HELLO_BYTES_OF_ADDRESS`], [`HELLO_BYTES`],
//! [`SMALL_HELLO_BYTES`]), and how often they may come ([`VISITS_PER_SECOND`]). An IPv6 address counts by its /64.

use super::counts::{Closed, ListenerCounts};
use super::event::AgentEvent;
use super::gate::Gate;
use super::hello::{Greeting, Hello, Unproved};
use super::outboxes::{Outbox, OutboxReceiver, outbox};
use super::session::SessionId;
use crate::api::credentials::Credentials;
use futures_util::StreamExt as _;
use model::agent::codec::{Messages, ROOM_BYTES, ReadError};
use model::agent::seal::{Opener, Sealer, SessionKeys};
use model::agent::{
    FrameError, HEAD_BYTES, HELLO_MAX, HELLO_TIMEOUT_MS, RefusalCode, ToAgent, ToMachine, VERSION, encode,
    length_of,
};
use model::registered::Misfit;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::codec::FramedRead;

/// Connections of strangers from one address.
pub(crate) const UNKNOWN_OF_ADDRESS: u32 = 64;
/// Connections of strangers in all.
pub(crate) const UNKNOWN_MAX: u32 = 1024;
/// A hello of at most so many bytes has room whatever long ones have: that of an agent with a dozen services.
const SMALL_HELLO: usize = 4096;
/// Bytes of longer hellos that strangers of one address may have on their way.
const STRANGER_BYTES_OF_ADDRESS: u32 = 1 << 20;
/// Bytes of longer hellos that all strangers may have on their way.
const STRANGER_BYTES_MAX: u32 = 8 << 20;
/// Bytes of longer hellos of one address that are read a second, on average; at once as many as may be on their way.
const HELLO_BYTES_OF_ADDRESS: u32 = 1 << 20;
/// Bytes of longer hellos that are read a second in all. These are some forty of the longest.
const HELLO_BYTES: u32 = 4 << 20;
/// Bytes of other hellos that are read a second in all: long ones leave room for them.
const SMALL_HELLO_BYTES: u32 = 4 << 20;
/// Connections of one address a second, on average …
const VISITS_PER_SECOND: u32 = 64;
/// … and at once: as many agents behind one address come back together after a restart.
const VISITS_AT_ONCE: u32 = 1024;
/// Addresses whose visits are remembered. Those that have come rarely lately are forgotten first.
const ADDRESSES_REMEMBERED: usize = 4096;
/// Frames of one connection a second, on average …
pub(crate) const FRAMES_PER_SECOND: u32 = 200;
/// … and at once.
pub(crate) const FRAMES_AT_ONCE: u32 = 2000;
/// A longer frame counts as so many of these, bytes.
const FRAME_BYTES: usize = 2048;
/// Words of agents that may wait for the owner.
pub(crate) const SAID_MAX: usize = 1024;
/// Longest time that an agent may take to read a piece of what it is told.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time that last words may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// Pause after a failed accept (no file descriptors left).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What comes of a connection.
#[derive(Debug)]
pub(crate) struct FromAgent {
    pub(crate) event: AgentEvent,
    /// With a hello: the way back, and its place among the strangers.
    pub(crate) opened: Option<(Outbox, Arc<Stranger>)>,
}

impl From<AgentEvent> for FromAgent {
    fn from(event: AgentEvent) -> FromAgent {
        FromAgent { event, opened: None }
    }
}

/// What all connections share.
#[derive(Clone)]
pub(crate) struct ListenerShared {
    /// `machine.name`.
    pub(crate) machine: String,
    pub(crate) said: mpsc::Sender<FromAgent>,
    pub(crate) gate: watch::Receiver<Gate>,
    pub(crate) listener_counts: ListenerCounts,
}

/// Connections, and those of strangers.
#[derive(Debug)]
struct Visitors {
    open: u32,
    strangers: u32,
    bytes: usize,
    hellos: Pace,
    small_hellos: Pace,
    by_address: HashMap<IpAddr, OfAddress>,
}

/// What an address has of these.
#[derive(Debug)]
struct OfAddress {
    strangers: u32,
    bytes: usize,
    hellos: Pace,
    visits: Pace,
}

/// A place among the open connections.
struct AgentPlace(Arc<Mutex<Visitors>>, ListenerCounts);

/// A place among the strangers: given back when the owner has taken the proof, else when the connection has ended.
#[derive(Debug)]
pub(crate) struct Stranger {
    all: Arc<Mutex<Visitors>>,
    address: IpAddr,
    is_over: AtomicBool,
    bytes: std::sync::atomic::AtomicUsize,
}

/// Who counts as one: a host has a whole /64 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Visitors {
    fn new(now: Instant) -> Visitors {
        Visitors {
            open: 0,
            strangers: 0,
            bytes: 0,
            hellos: Pace::new(now, HELLO_BYTES, STRANGER_BYTES_MAX),
            small_hellos: Pace::new(now, SMALL_HELLO_BYTES, SMALL_HELLO_BYTES),
            by_address: HashMap::new(),
        }
    }

    fn enter(
        all: &Arc<Mutex<Visitors>>,
        address: IpAddr,
        connections: u32,
        listener_counts: &ListenerCounts,
        now: Instant,
    ) -> Result<(AgentPlace, Arc<Stranger>), Closed> {
        let address = network(address);
        let mut visitors = all.lock().unwrap_or_else(PoisonError::into_inner);
        if visitors.open >= connections {
            return Err(Closed::Full);
        }
        if visitors.strangers >= UNKNOWN_MAX {
            return Err(Closed::Unknown);
        }
        visitors.forget(now);
        let of_address = visitors.by_address.entry(address).or_insert_with(|| OfAddress {
            strangers: 0,
            bytes: 0,
            hellos: Pace::new(now, HELLO_BYTES_OF_ADDRESS, STRANGER_BYTES_OF_ADDRESS),
            visits: Pace::new(now, VISITS_PER_SECOND, VISITS_AT_ONCE),
        });
        if of_address.strangers >= UNKNOWN_OF_ADDRESS || !of_address.visits.take(1, now) {
            return Err(Closed::Address);
        }
        of_address.strangers += 1;
        visitors.strangers += 1;
        visitors.open += 1;
        listener_counts.set_open(u64::from(visitors.open));
        let stranger = Stranger {
            all: all.clone(),
            address,
            is_over: AtomicBool::new(false),
            bytes: std::sync::atomic::AtomicUsize::new(0),
        };
        Ok((AgentPlace(all.clone(), listener_counts.clone()), Arc::new(stranger)))
    }

    /// Makes room for another address, where there is none: those go that have nobody here and have not come lately; where
    /// that is not enough, those too that have come lately.
    fn forget(&mut self, now: Instant) {
        for keeps_recent in [true, false] {
            if self.by_address.len() < ADDRESSES_REMEMBERED {
                return;
            }
            self.by_address.retain(|_, of| of.strangers > 0 || (keeps_recent && !of.visits.is_full(now)));
        }
    }
}

impl Drop for AgentPlace {
    fn drop(&mut self) {
        let mut visitors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        visitors.open = visitors.open.saturating_sub(1);
        self.1.set_open(u64::from(visitors.open));
    }
}

impl Stranger {
    /// Room and time for a hello of so many bytes; false if there is none, for this address or at all.
    fn reserve(&self, bytes: usize, now: Instant) -> bool {
        let mut visitors = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let Visitors { bytes: sum, hellos, small_hellos, by_address, .. } = &mut *visitors;
        if bytes <= SMALL_HELLO {
            return small_hellos.take(bytes, now);
        }
        let Some(of_address) = by_address.get_mut(&self.address) else { return false };
        let has_room = *sum + bytes <= STRANGER_BYTES_MAX as usize
            && of_address.bytes + bytes <= STRANGER_BYTES_OF_ADDRESS as usize;
        // Who has had his share takes nothing of the others'.
        if !has_room || !of_address.hellos.take(bytes, now) || !hellos.take(bytes, now) {
            return false;
        }
        of_address.bytes += bytes;
        *sum += bytes;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        true
    }

    /// It is none any more.
    pub(crate) fn leave(&self) {
        if self.is_over.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut visitors = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = self.bytes.load(Ordering::Relaxed);
        visitors.strangers = visitors.strangers.saturating_sub(1);
        visitors.bytes = visitors.bytes.saturating_sub(bytes);
        if let Some(of_address) = visitors.by_address.get_mut(&self.address) {
            of_address.strangers = of_address.strangers.saturating_sub(1);
            of_address.bytes = of_address.bytes.saturating_sub(bytes);
        }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The listener's thread.
pub(crate) struct Listening {
    stop: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Listening {
    /// Takes connections from now on.
    ///
    /// # Errors
    /// No thread, or no more descriptors.
    pub(crate) fn start(
        listener: std::net::TcpListener,
        credentials: watch::Receiver<Credentials>,
        shared: ListenerShared,
    ) -> io::Result<Listening> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("agents".to_owned()).spawn(move || {
            let ended = runtime.block_on(async {
                let listener = TcpListener::from_std(listener)?;
                tokio::select! {
                    () = serve(listener, credentials, shared) => {}
                    _ = stopped => {}
                }
                io::Result::Ok(())
            });
            if let Err(error) = ended {
                tracing::error!("agents are not heard: {error}");
            }
        })?;
        Ok(Listening { stop, thread })
    }

    /// Ends all connections at once.
    #[expect(clippy::disallowed_methods, reason = "at the end of the program")]
    pub(crate) fn stop(self) {
        // Who has ended already does not have to be told, and says by itself why.
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

/// Takes connections for ever.
async fn serve(listener: TcpListener, credentials: watch::Receiver<Credentials>, shared: ListenerShared) {
    let visitors = Arc::new(Mutex::new(Visitors::new(Instant::now())));
    let mut last = 0;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let connections = shared.gate.borrow().connections;
                match Visitors::enter(
                    &visitors,
                    peer.ip(),
                    connections,
                    &shared.listener_counts,
                    Instant::now(),
                ) {
                    Err(why) => shared.listener_counts.count(why),
                    Ok(places) => {
                        last += 1;
                        let visitor = Visitor { id: SessionId(last), peer, shared: shared.clone() };
                        let tls = credentials.borrow().agents.clone();
                        tokio::spawn(visitor.attend(stream, tls, places));
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
    shared: ListenerShared,
}

impl Visitor {
    async fn attend(
        self,
        stream: TcpStream,
        tls: Option<TlsAcceptor>,
        (place, stranger): (AgentPlace, Arc<Stranger>),
    ) {
        let until = Instant::now() + Duration::from_millis(HELLO_TIMEOUT_MS);
        let _ = stream.set_nodelay(true);
        match tls {
            None => self.introduce(stream, until, stranger).await,
            Some(tls) => match tokio::time::timeout_at(until, tls.accept(stream)).await {
                Ok(Ok(stream)) => self.introduce(stream, until, stranger).await,
                Ok(Err(_)) => self.shared.listener_counts.count(Closed::Tls),
                Err(_) => self.shared.listener_counts.count(Closed::Silent),
            },
        }
        drop(place);
    }

    /// The challenge and the hello, then everything else.
    async fn introduce<S>(self, stream: S, until: Instant, stranger: Arc<Stranger>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut read, mut write) = tokio::io::split(stream);
        let Some(nonce) = nonce() else { return };
        let machine = self.shared.machine.clone();
        let challenge = ToAgent::Challenge { versions: vec![VERSION], machine, nonce: nonce.clone() };
        let Ok(challenge) = encode(&challenge) else { return };
        let first = tokio::time::timeout_at(until, async {
            write.write_all(&challenge).await?;
            read_hello(&mut read, &stranger).await
        })
        .await;
        let problem = match first {
            Ok(Ok(hello @ ToMachine::Hello { .. })) => match self.verify(hello, nonce) {
                Ok((hello, keys)) => return self.converse(hello, &keys, stranger, read, write).await,
                Err(unproved) => {
                    let why = unproved.why.clone();
                    if self.shared.said.send(AgentEvent::Unproved(unproved).into()).await.is_err() {
                        return;
                    }
                    why
                }
            },
            Ok(Ok(_)) => self.malformed("the first message is to be a hello"),
            Ok(Err(Lost::Frame(error))) => self.malformed(&error.to_string()),
            Ok(Err(Lost::Io(_))) => return,
            Ok(Err(Lost::NoRoom)) => return self.shared.listener_counts.count(Closed::Unknown),
            Err(_) => return self.shared.listener_counts.count(Closed::Silent),
        };
        let Misfit { code, reason, help } = problem;
        let refused = ToAgent::Refused { service: None, backend: None, code, reason, help };
        if let Ok(refused) = encode(&refused) {
            let _ = tokio::time::timeout(FAREWELL, write.write_all(&refused)).await;
        }
    }

    fn malformed(&self, what: &str) -> Misfit {
        self.shared.listener_counts.count(Closed::Malformed);
        Misfit::new(RefusalCode::Malformed, what, "see docs/agents.md")
    }

    /// Holds a hello against the tokens that are in force.
    fn verify(&self, hello: ToMachine, challenge: String) -> Result<(Hello, SessionKeys), Unproved> {
        let ToMachine::Hello { version, agent, nonce, incarnation, addresses, proofs } = hello else {
            let why = self.malformed("the first message is to be a hello");
            return Err(Unproved { agent: String::new(), why });
        };
        let tokens = self.shared.gate.borrow().tokens.clone();
        let (machine, unix_ms) = (self.shared.machine.clone(), ::health::unix_ms());
        let (id, peer) = (self.id, self.peer);
        let greeting = Greeting {
            id,
            peer,
            machine,
            challenge,
            unix_ms,
            version,
            agent,
            nonce,
            incarnation,
            addresses,
            proofs,
        };
        greeting.verify(&tokens)
    }

    async fn converse<S>(
        self,
        hello: Hello,
        keys: &SessionKeys,
        stranger: Arc<Stranger>,
        read: tokio::io::ReadHalf<S>,
        mut write: tokio::io::WriteHalf<S>,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Ok(proved) = encode(&ToAgent::Proved { services: hello.proved.iter().cloned().collect() }) else {
            return;
        };
        let (mut sealer, mut opener) = <(Sealer, Opener)>::default();
        keys.begin_machine(&mut sealer, &mut opener);
        let mut messages = FramedRead::with_capacity(read, Messages::new(opener), ROOM_BYTES);
        let (outbox, mut pieces) = outbox();
        let opened = Some((outbox, stranger.clone()));
        let said = FromAgent { event: AgentEvent::Hello(hello), opened };
        if self.shared.said.send(said).await.is_err() {
            return;
        }
        {
            let telling = tell(proved, &mut pieces, &mut sealer, &mut write, &self.shared.listener_counts);
            tokio::pin!(telling);
            let is_broken = tokio::select! {
                () = &mut telling => false,
                is_broken = self.listen(&mut messages) => is_broken,
            };
            if is_broken {
                // What is said about it still goes out.
                let _ = tokio::time::timeout(FAREWELL, telling).await;
            }
        }
        let _ = self.shared.said.send(AgentEvent::Closed(self.id).into()).await;
        let _ = tokio::time::timeout(FAREWELL, write.shutdown()).await;
    }

    /// Passes messages on until there are no more, or one that is none, which is true.
    async fn listen<R>(&self, messages: &mut FramedRead<R, Messages<ToMachine>>) -> bool
    where
        R: AsyncRead + Unpin,
    {
        let mut pace = Pace::new(Instant::now(), FRAMES_PER_SECOND, FRAMES_AT_ONCE);
        loop {
            let said = match messages.next().await {
                Some(Ok(message)) => AgentEvent::Message(self.id, message),
                None | Some(Err(ReadError::Io(_))) => return false,
                Some(Err(ReadError::Frame(error))) => {
                    self.shared.listener_counts.count(Closed::Malformed);
                    let broken = AgentEvent::Broken(self.id, error.code(), error.to_string());
                    let _ = self.shared.said.send(broken.into()).await;
                    return true;
                }
            };
            if self.shared.said.send(said.into()).await.is_err() {
                return false;
            }
            let pause = pace.pause(messages.decoder().last_bytes.div_ceil(FRAME_BYTES), Instant::now());
            if !pause.is_zero() {
                self.shared.listener_counts.pause();
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// Writes `first` as it is, and what is to be told sealed, until there will be no more, or the agent does not read it.
async fn tell<W: AsyncWrite + Unpin>(
    first: Vec<u8>,
    pieces: &mut OutboxReceiver,
    sealer: &mut Sealer,
    write: &mut W,
    listener_counts: &ListenerCounts,
) {
    let mut piece = first;
    loop {
        match tokio::time::timeout(WRITE_TIMEOUT, async {
            write.write_all(&piece).await?;
            write.flush().await
        })
        .await
        {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => return listener_counts.count(Closed::Slow),
        }
        piece = match pieces.next().await {
            Some(plain) => sealer.seal(plain),
            None => return,
        };
    }
}

/// 32 random bytes, as they are written.
fn nonce() -> Option<String> {
    let mut bytes = [0; 32];
    rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Why no hello came.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("strangers have too much on its way")]
    NoRoom,
}

/// The first message, for which there is room before any of it is read.
async fn read_hello<R: AsyncRead + Unpin>(read: &mut R, stranger: &Stranger) -> Result<ToMachine, Lost> {
    let mut head = [0; HEAD_BYTES];
    read.read_exact(&mut head).await?;
    let length = length_of(&head, HELLO_MAX)?.unwrap_or_default();
    if !stranger.reserve(length, Instant::now()) {
        return Err(Lost::NoRoom);
    }
    let mut body = vec![0; length];
    read.read_exact(&mut body).await?;
    Ok(Opener::default().open(&body)?)
}

/// A bucket of frames, of visits, or of bytes.
#[derive(Debug)]
struct Pace {
    left: f64,
    at: Instant,
    rate: f64,
    most: f64,
}

impl Pace {
    /// A full one, that gains so many a second.
    fn new(now: Instant, rate: u32, most: u32) -> Pace {
        Pace { left: f64::from(most), at: now, rate: f64::from(rate), most: f64::from(most) }
    }

    fn gain(&mut self, now: Instant) {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * self.rate;
        self.at = now;
        self.left = (self.left + gained).min(self.most);
    }

    /// Whether nothing was taken out for long.
    fn is_full(&mut self, now: Instant) -> bool {
        self.gain(now);
        self.left >= self.most
    }

    /// Takes so many out, if they are there.
    fn take(&mut self, count: usize, now: Instant) -> bool {
        self.gain(now);
        let count = f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        let has = self.left >= count;
        if has {
            self.left -= count;
        }
        has
    }

    /// Takes so many out; how long to wait before the next.
    fn pause(&mut self, count: usize, now: Instant) -> Duration {
        self.gain(now);
        self.left -= f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        if self.left >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.left / self.rate) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_thousand_at_once_and_two_hundred_a_second() {
        let start = Instant::now();
        let mut pace = Pace::new(start, FRAMES_PER_SECOND, FRAMES_AT_ONCE);
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

    struct Hall(Arc<Mutex<Visitors>>, ListenerCounts, Instant);

    impl Hall {
        fn new() -> Hall {
            let now = Instant::now();
            Hall(Arc::new(Mutex::new(Visitors::new(now))), ListenerCounts::default(), now)
        }

        fn enter(
            &self,
            address: impl Into<IpAddr>,
            connections: u32,
        ) -> Result<(AgentPlace, Arc<Stranger>), Closed> {
            Visitors::enter(&self.0, address.into(), connections, &self.1, self.2)
        }
    }

    #[test]
    fn limits_are_exact_and_places_come_back() {
        let hall = Hall::new();
        let enter = |last: u8, connections| hall.enter([10, 0, 0, last], connections);
        let mut places: Vec<_> = (0..UNKNOWN_OF_ADDRESS).map(|_| enter(1, 9999).ok().unwrap()).collect();
        assert_eq!(enter(1, 9999).err(), Some(Closed::Address));
        for last in 2..=16 {
            places.extend((0..UNKNOWN_OF_ADDRESS).map(|_| enter(last, 9999).ok().unwrap()));
        }
        assert_eq!((places.len(), hall.1.open()), (UNKNOWN_MAX as usize, 1024));
        assert_eq!(enter(17, 9999).err(), Some(Closed::Unknown));
        assert_eq!(enter(17, 1024).err(), Some(Closed::Full));
        let (place, stranger) = places.pop().unwrap();
        // Refused by the owner: the connection still has its place.
        drop(stranger.clone());
        assert_eq!(enter(17, 9999).err(), Some(Closed::Unknown));
        stranger.leave();
        assert_eq!(enter(17, 1024).err(), Some(Closed::Full), "it has proved a token and is still there");
        let (other, _stranger) = enter(16, 9999).ok().unwrap();
        drop((place, stranger, other));
        places.clear();
        assert_eq!(hall.1.open(), 0);
        assert_eq!(hall.0.lock().unwrap().strangers, 1, "the last one");
    }

    #[test]
    fn who_comes_too_often_is_not_let_in_and_others_are() {
        let mut hall = Hall::new();
        let visits = |hall: &Hall, last: u8| {
            (0..2 * VISITS_AT_ONCE).filter(|_| hall.enter([10, 0, 0, last], 9).is_ok()).count()
        };
        assert_eq!(visits(&hall, 1), VISITS_AT_ONCE as usize);
        assert_eq!(visits(&hall, 2), VISITS_AT_ONCE as usize);
        hall.2 += Duration::from_secs(1);
        assert_eq!(visits(&hall, 1), VISITS_PER_SECOND as usize);
        // A /64 is one host, and an IPv4 address in IPv6 clothes is the IPv4 address.
        let v6 = |last: u16| Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, last);
        let let_in = (0..2 * VISITS_AT_ONCE).filter(|n| hall.enter(v6(*n as u16), 9).is_ok()).count();
        assert_eq!(let_in, VISITS_AT_ONCE as usize);
        assert_eq!(
            hall.enter(std::net::Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped(), 9).err(),
            Some(Closed::Address)
        );
        // However many addresses come, no more are remembered than there is room for.
        for n in 0..2 * ADDRESSES_REMEMBERED as u32 {
            assert!(hall.enter(std::net::Ipv4Addr::from_bits(0x0b00_0000 + n), 9).is_ok());
        }
        assert!(hall.0.lock().unwrap().by_address.len() <= ADDRESSES_REMEMBERED);
    }

    #[test]
    fn bytes_of_strangers_are_bounded_by_address_and_in_sum() {
        let hall = Hall::new();
        let mut held = Vec::new();
        let mut fill = |last: u8| {
            let before = held.len();
            for _ in 0..UNKNOWN_OF_ADDRESS {
                let (place, stranger) = hall.enter([10, 0, 0, last], 9999).unwrap();
                let has_room = stranger.reserve(HELLO_MAX, hall.2);
                assert!(stranger.reserve(SMALL_HELLO, hall.2), "a short hello has room beside long ones");
                if has_room {
                    held.push((place, stranger));
                }
            }
            held.len() - before
        };
        let of_address = STRANGER_BYTES_OF_ADDRESS as usize / HELLO_MAX;
        for last in 1..=8 {
            assert_eq!(fill(last), of_address);
        }
        assert_eq!(fill(9), STRANGER_BYTES_MAX as usize / HELLO_MAX - 8 * of_address, "the rest of the sum");
        held.clear();
        let visitors = hall.0.lock().unwrap();
        assert_eq!((visitors.bytes, visitors.strangers), (0, 0));
        assert!(visitors.by_address.values().all(|of| of.bytes == 0));
    }

    #[test]
    fn what_of_strangers_is_verified_a_second_is_bounded_by_address_and_in_sum() {
        let mut hall = Hall::new();
        // Each comes, says the longest hello, and goes.
        let verified = |hall: &Hall, last: u8, bytes: usize| {
            let says = |_: &u32| {
                hall.enter([10, 0, 0, last], 9999).is_ok_and(|(_, stranger)| stranger.reserve(bytes, hall.2))
            };
            (0..VISITS_AT_ONCE).filter(says).count() * bytes
        };
        let (of_address, in_all) = (HELLO_BYTES_OF_ADDRESS as usize, HELLO_BYTES as usize);
        let at_once: usize = (1..=20).map(|last| verified(&hall, last, HELLO_MAX)).sum();
        assert!(at_once <= STRANGER_BYTES_MAX as usize && at_once > STRANGER_BYTES_MAX as usize - HELLO_MAX);
        hall.2 += Duration::from_secs(1);
        let first = verified(&hall, 21, HELLO_MAX);
        assert!(first <= of_address && first > of_address - HELLO_MAX, "{first}");
        let rest: usize = (22..=40).map(|last| verified(&hall, last, HELLO_MAX)).sum();
        assert!((first + rest).abs_diff(in_all) < 2 * HELLO_MAX, "{rest}");
        // What agents with few services say is read all the same, and bounded, too.
        let small: usize = (41..=60).map(|last| verified(&hall, last, SMALL_HELLO)).sum();
        assert_eq!(small, SMALL_HELLO_BYTES as usize);
    }
}
