//! One connection to a machine: frames in, frames out, over TCP or TLS.
//!
//! Rule of this module: what a frame means is not known here, but for [`ToAgent::Proved`]: from there on both sides seal, and nothing
//! else counts. Before it a machine may challenge, or refuse, and no more. Nothing of a machine's is held but one frame and the room of
//! the channel; what it does not read is bounded by [`QUEUED_MAX`].

use crate::host::{Link, Shares};
use crate::run::Event;
use crate::tls::Client;
use futures_util::StreamExt as _;
use model::agent::codec::{Messages, ROOM_BYTES};
use model::agent::seal::{Opener, Sealer, SessionKeys};
use model::agent::{ToAgent, ToMachine};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_util::codec::FramedRead;

#[cfg(test)]
mod tests;

/// Time that TCP may take to connect; the same for TLS.
const CONNECT: Duration = Duration::from_secs(3);
/// Time that the machine has to close its side after this side is closed.
pub(crate) const FINISH: Duration = Duration::from_secs(2);
/// Bytes that wait for the machine to read, at most; then the connection is given up.
const QUEUED_MAX: usize = 8 << 20;
/// The kernel gives a connection up when sent bytes are not acknowledged for so long, milliseconds.
const USER_TIMEOUT_MS: u32 = 10_000;

/// A connection, from the attempt on. Dropping it cuts it.
#[derive(Debug)]
pub(crate) struct Connection {
    frames: Option<mpsc::UnboundedSender<Vec<u8>>>,
    queued: Arc<AtomicUsize>,
    seal: Arc<Mutex<Seal>>,
    task: JoinHandle<()>,
}

/// What the connection and its reader share: keys come with what is read, and hold for what is said.
#[derive(Debug, Default)]
struct Seal {
    sealer: Sealer,
    /// Of the hello.
    shares: Shares,
}

impl Seal {
    /// The machine has these services' tokens, it says: the next message that it sends proves it, or ends the session.
    fn begin(&mut self, services: &[String], opener: &mut Opener) -> Result<(), String> {
        let shares = std::mem::take(&mut self.shares);
        let shares = services.iter().map(|service| {
            shares
                .get(service)
                .ok_or_else(|| format!("it calls service {service:?} proved, which was not in the hello"))
        });
        let shares = shares.collect::<Result<Vec<_>, _>>()?;
        let keys = SessionKeys::of(shares).ok_or("it calls no service proved")?;
        keys.begin_agent(&mut self.sealer, opener);
        Ok(())
    }
}

impl Connection {
    /// Connects to `peer`; what is heard, and the end, go to `events`.
    pub(crate) fn start(
        link: Link,
        peer: String,
        tls: Option<Client>,
        events: mpsc::Sender<Event>,
    ) -> Connection {
        let (frames, outgoing) = mpsc::unbounded_channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let outgoing = Outgoing { frames: outgoing, queued: queued.clone() };
        let seal = Arc::<Mutex<Seal>>::default();
        let of_reader = seal.clone();
        let task = tokio::spawn(async move {
            let problem = match talk(link, &peer, tls, outgoing, &of_reader, &events).await {
                Ok(()) => "closed by the machine".to_owned(),
                Err(problem) => problem,
            };
            // Nobody waits for it when the program ends.
            let _ = events.send(Event::Closed(link, problem)).await;
        });
        Connection { frames: Some(frames), queued, seal, task }
    }

    /// Says who this agent is.
    ///
    /// # Errors
    /// As [`Connection::send()`].
    pub(crate) fn greet(&self, hello: &ToMachine, shares: Shares) -> Result<(), String> {
        self.seal.lock().unwrap_or_else(PoisonError::into_inner).shares = shares;
        self.send(hello)
    }

    /// Says something.
    ///
    /// # Errors
    /// The machine does not read, or the message is too long, or is none for a machine that has proved nothing.
    pub(crate) fn send(&self, message: &ToMachine) -> Result<(), String> {
        let mut seal = self.seal.lock().unwrap_or_else(PoisonError::into_inner);
        if !seal.sealer.is_sealing() && !matches!(message, ToMachine::Hello { .. }) {
            return Err("nothing but a hello is said to a machine that has proved nothing".to_owned());
        }
        let frame = seal.sealer.encode(message).map_err(|e| e.to_string())?;
        let queued = self.queued.fetch_add(frame.len(), Ordering::Relaxed) + frame.len();
        if queued > QUEUED_MAX {
            return Err(format!("it does not read: {queued} bytes wait"));
        }
        // A task that has ended has said so, or is about to.
        let _ = self.frames.as_ref().map(|frames| frames.send(frame));
        Ok(())
    }

    /// Closes it when all has left: gives back the task, which ends soon.
    pub(crate) fn finish(mut self) -> Finishing {
        self.frames = None;
        Finishing(self)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A connection that is being closed. Dropping it cuts it.
#[derive(Debug)]
pub(crate) struct Finishing(Connection);

impl Finishing {
    /// Whether it is closed.
    pub(crate) fn is_done(&self) -> bool {
        self.0.task.is_finished()
    }

    /// Waits for it.
    pub(crate) async fn done(mut self) {
        // It is aborted by nobody while this waits, and it does not panic.
        let _ = (&mut self.0.task).await;
    }
}

#[derive(Debug)]
struct Outgoing {
    frames: mpsc::UnboundedReceiver<Vec<u8>>,
    queued: Arc<AtomicUsize>,
}

async fn talk(
    link: Link,
    peer: &str,
    tls: Option<Client>,
    outgoing: Outgoing,
    seal: &Mutex<Seal>,
    events: &mpsc::Sender<Event>,
) -> Result<(), String> {
    let stream = within(TcpStream::connect(peer)).await?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    rustix::net::sockopt::set_tcp_user_timeout(&stream, USER_TIMEOUT_MS).map_err(|e| e.to_string())?;
    rustix::net::sockopt::set_socket_keepalive(&stream, true).map_err(|e| e.to_string())?;
    match tls {
        None => pump(link, stream, outgoing, seal, events).await,
        Some(client) => {
            let name = client.server_name(peer)?;
            let stream = within(TlsConnector::from(client.config).connect(name, stream)).await?;
            pump(link, stream, outgoing, seal, events).await
        }
    }
}

async fn within<T>(what: impl Future<Output = std::io::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(CONNECT, what).await {
        Ok(done) => done.map_err(|e| e.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

async fn pump<S: AsyncRead + AsyncWrite>(
    link: Link,
    stream: S,
    outgoing: Outgoing,
    seal: &Mutex<Seal>,
    events: &mpsc::Sender<Event>,
) -> Result<(), String> {
    let (reader, writer) = tokio::io::split(stream);
    let reading = read(link, reader, seal, events);
    let writing = write(writer, outgoing);
    tokio::pin!(reading, writing);
    tokio::select! {
        end = &mut reading => end,
        end = &mut writing => {
            end.map_err(|e| e.to_string())?;
            // Closing while something is unread would reset the connection and could lose what was said last.
            tokio::time::timeout(FINISH, reading).await.unwrap_or(Ok(()))
        }
    }
}

async fn read<R: AsyncRead + Unpin>(
    link: Link,
    reader: R,
    seal: &Mutex<Seal>,
    events: &mpsc::Sender<Event>,
) -> Result<(), String> {
    let mut messages = FramedRead::with_capacity(reader, Messages::new(Opener::default()), ROOM_BYTES);
    while let Some(message) = messages.next().await {
        let message: ToAgent = message.map_err(|e| e.to_string())?;
        let opener = &mut messages.decoder_mut().opener;
        match &message {
            ToAgent::Proved { services } if !opener.is_opening() => {
                seal.lock().unwrap_or_else(PoisonError::into_inner).begin(services, opener)?;
            }
            ToAgent::Challenge { .. } | ToAgent::Refused { service: None, .. } => {}
            _ if opener.is_opening() => {}
            _ => return Err("it says more than a challenge before it has proved a token".to_owned()),
        }
        if events.send(Event::Heard(link, Box::new(message))).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Ends when the sender of `outgoing` is gone and all is written.
async fn write<W: AsyncWrite>(writer: W, mut outgoing: Outgoing) -> std::io::Result<()> {
    tokio::pin!(writer);
    while let Some(frame) = outgoing.frames.recv().await {
        writer.write_all(&frame).await?;
        outgoing.queued.fetch_sub(frame.len(), Ordering::Relaxed);
        if outgoing.frames.is_empty() {
            writer.flush().await?;
        }
    }
    writer.flush().await?;
    writer.shutdown().await
}
