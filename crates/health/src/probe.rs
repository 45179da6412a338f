//! One probe: a connection (or datagram) of its own, closed at once.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use model::config::{HealthKind, HttpCheck};
use rustix::io::Errno;
use rustls::AlertDescription;
use rustls::pki_types::ServerName;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

/// Most bytes of an answer that are looked at.
const ANSWER_MAX: usize = 64 * 1024;
/// Most bytes of an answer that are read; of a longer one the server sees a reset.
const READ_MAX: usize = 4 * 1024 * 1024;
/// Most header fields of an answer.
const HEADERS_MAX: usize = 1_000;
/// How long the server may take to close after its answer.
const CLOSE_WAIT: Duration = Duration::from_millis(500);

/// What is checked, and how. Two equal checks need one task.
#[derive(Clone, PartialEq, Debug)]
pub struct Check {
    /// What is probed.
    pub kind: HealthKind,
    /// The address and port it is sent to.
    pub target: SocketAddr,
    /// `Host` and TLS name when the configuration gives none: the VIP.
    pub vip: IpAddr,
    /// Interface the probe leaves by.
    pub via: Option<String>,
    /// Source address and ports of a probe through the tunnel, or why there cannot be one.
    pub source: Option<Result<SourcePorts, &'static str>>,
    /// Time between two checks, milliseconds.
    pub interval_ms: u32,
    /// Time a check may take, milliseconds.
    pub timeout_ms: u32,
}

/// Source of a probe through the tunnel: its ports name the backend to the workers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SourcePorts {
    /// Source address.
    pub address: IpAddr,
    /// First of [`SourcePorts::COUNT`] ports, used in turn.
    pub first: u16,
}

impl SourcePorts {
    /// Several, so that a probe whose reset was lost does not stand in the way of the next one.
    pub const COUNT: u16 = 4;
}

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
pub enum CheckFailure {
    /// TCP RST or ICMP port unreachable.
    #[error("refused")]
    Refused,
    /// No answer in time.
    #[error("timeout")]
    Timeout,
    /// The connection was reset.
    #[error("reset")]
    Reset,
    /// ICMP unreachable, or no route.
    #[error("unreachable")]
    Unreachable,
    /// The connection ended before the answer.
    #[error("closed before the answer")]
    Closed,
    /// HTTP status outside `expect_status`.
    #[error("status {0}")]
    Status(u16),
    /// The HTTP body does not contain `expect`.
    #[error("body mismatch")]
    Body,
    /// The answer does not contain `expect`.
    #[error("answer mismatch")]
    Answer,
    /// TLS.
    #[error("tls: {0}")]
    Tls(String),
    /// Not HTTP.
    #[error("http: {0}")]
    Http(String),
    /// The command ended with another status than 0.
    #[error("exit status {0}")]
    Exit(i32),
    /// The command was ended by a signal.
    #[error("ended by signal {0}")]
    Signal(i32),
    /// It cannot be probed as it is configured.
    #[error("cannot probe: {0}")]
    Local(String),
    /// The probe could not leave this machine, for want of descriptors, ports or buffers: nothing is known of the backend.
    #[error("could not leave: {0}")]
    Unsent(String),
    /// Anything else the kernel says.
    #[error("{0}")]
    Other(io::Error),
}

/// Whether this says that this machine has run out of something, whatever it was going to do.
fn is_want(error: &io::Error) -> bool {
    let want = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::ADDRNOTAVAIL,
        Errno::ADDRINUSE,
        Errno::AGAIN,
    ];
    error.raw_os_error().is_some_and(|number| want.contains(&Errno::from_raw_os_error(number)))
}

/// What went wrong before anything was sent.
pub(crate) fn unprepared(what: &str, error: &io::Error) -> CheckFailure {
    let text = format!("{what}: {error}");
    if is_want(error) { CheckFailure::Unsent(text) } else { CheckFailure::Local(text) }
}

impl From<io::Error> for CheckFailure {
    fn from(error: io::Error) -> CheckFailure {
        if is_want(&error) {
            return CheckFailure::Unsent(error.to_string());
        }
        match error.kind() {
            io::ErrorKind::ConnectionRefused => CheckFailure::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => CheckFailure::Reset,
            io::ErrorKind::TimedOut => CheckFailure::Timeout,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => CheckFailure::Unreachable,
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionAborted => CheckFailure::Closed,
            _ => CheckFailure::Other(error),
        }
    }
}

impl Check {
    /// Probes once. `turn` counts probes.
    ///
    /// # Errors
    /// Why it did not pass.
    pub async fn run(&self, turn: u32) -> Result<(), CheckFailure> {
        let until = Instant::now() + Duration::from_millis(u64::from(self.timeout_ms));
        tokio::time::timeout_at(until, self.probe(turn, until)).await.unwrap_or(Err(CheckFailure::Timeout))
    }

    async fn probe(&self, turn: u32, until: Instant) -> Result<(), CheckFailure> {
        if let Some(Err(reason)) = self.source {
            return Err(CheckFailure::Local(reason.to_owned()));
        }
        match &self.kind {
            HealthKind::None => Ok(()),
            HealthKind::Tcp { send, expect } => {
                let stream = self.connect(turn).await?;
                exchange(stream, send.as_deref(), expect.as_deref()).await
            }
            HealthKind::Http(http) => {
                let mut stream = self.connect(turn).await?;
                let outcome = get(&mut stream, http, self.vip, until).await?;
                finish(&mut stream, until).await;
                outcome
            }
            HealthKind::Https(http) => {
                let name = server_name(http, self.vip)?;
                let stream = self.connect(turn).await?;
                let mut stream = TlsConnector::from(crate::tls::client_config(http).await?)
                    .connect(name, stream)
                    .await
                    .map_err(tls_failure)?;
                let outcome = get(&mut stream, http, self.vip, until).await?;
                // TLS says that it ends before TCP does.
                stream.get_mut().1.send_close_notify();
                if stream.flush().await.is_ok() {
                    finish(stream.get_mut().0, until).await;
                }
                outcome
            }
            HealthKind::Udp { send, expect, silence_passes } => {
                let socket = self.datagram(turn).await?;
                match ask(&socket, send.as_deref(), expect.as_deref(), until).await {
                    Err(CheckFailure::Timeout) if *silence_passes => Ok(()),
                    outcome => outcome,
                }
            }
            // Commands are run by agents; that its port is open is what can be seen from here.
            HealthKind::Exec { .. } => self.connect(turn).await.map(drop),
        }
    }

    /// Address to bind to; port 0 when any will do.
    fn source(&self, turn: u32) -> Option<SocketAddr> {
        let source = self.source?.ok()?;
        let step = u16::try_from(turn % u32::from(SourcePorts::COUNT)).unwrap_or(0);
        Some(SocketAddr::new(source.address, source.first.saturating_add(step)))
    }

    async fn connect(&self, turn: u32) -> Result<TcpStream, CheckFailure> {
        let socket = match self.target {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }
        .map_err(|e| unprepared("no socket", &e))?;
        if let Some(via) = &self.via {
            socket
                .bind_device(Some(via.as_bytes()))
                .map_err(|e| unprepared(&format!("interface {via}"), &e))?;
        }
        if let Some(source) = self.source(turn) {
            socket.set_reuseaddr(true).map_err(|e| unprepared("SO_REUSEADDR", &e))?;
            socket.bind(source).map_err(|e| unprepared(&format!("source {source}"), &e))?;
        }
        // Closing sends a reset, unless the server has closed: no TIME_WAIT here, and the port can be used again at once.
        socket.set_zero_linger().map_err(|e| unprepared("SO_LINGER", &e))?;
        let stream = socket.connect(self.target).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn datagram(&self, turn: u32) -> Result<UdpSocket, CheckFailure> {
        let any = match self.target {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let source = self.source(turn).unwrap_or(any);
        let socket =
            UdpSocket::bind(source).await.map_err(|e| unprepared(&format!("source {source}"), &e))?;
        if let Some(via) = &self.via {
            socket
                .bind_device(Some(via.as_bytes()))
                .map_err(|e| unprepared(&format!("interface {via}"), &e))?;
        }
        socket.connect(self.target).await?;
        Ok(socket)
    }
}

/// TCP: connected is enough, unless something is expected.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    send: Option<&[u8]>,
    expect: Option<&[u8]>,
) -> Result<(), CheckFailure> {
    if let Some(send) = send {
        stream.write_all(send).await?;
    }
    let Some(expect) = expect else { return Ok(()) };
    let mut answer = Vec::with_capacity(1024);
    loop {
        if contains(&answer, expect) {
            return Ok(());
        }
        if answer.len() >= ANSWER_MAX {
            return Err(CheckFailure::Answer);
        }
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(if answer.is_empty() { CheckFailure::Closed } else { CheckFailure::Answer });
        }
    }
}

/// UDP: any answer is enough, unless something is expected. Datagrams without it are passed over: late answers to earlier questions, and
/// whatever else comes.
async fn ask(
    socket: &UdpSocket,
    send: Option<&[u8]>,
    expect: Option<&[u8]>,
    until: Instant,
) -> Result<(), CheckFailure> {
    socket.send(send.unwrap_or_default()).await?;
    let mut answer = vec![0; ANSWER_MAX];
    let mut failure = CheckFailure::Timeout;
    while let Ok(received) = timeout_at(until, socket.recv(&mut answer)).await {
        let length = received?;
        if expect.is_none_or(|expect| contains(&answer[..length], expect)) {
            return Ok(());
        }
        failure = CheckFailure::Answer;
    }
    Err(failure)
}

/// What came of an exchange over a connection that has to be closed; `Err`: there is nothing to close.
type Exchanged = Result<Result<(), CheckFailure>, CheckFailure>;

/// HTTP GET over a fresh connection. The answer is read to its end, unless that is further than [`READ_MAX`] or comes later than `until`:
/// the server is not to see a connection that breaks.
async fn get<S>(stream: &mut S, http: &HttpCheck, vip: IpAddr, until: Instant) -> Exchanged
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let host = http.host.clone().unwrap_or_else(|| match vip {
        IpAddr::V4(vip) => vip.to_string(),
        IpAddr::V6(vip) => format!("[{vip}]"),
    });
    let request = Request::get(&http.path)
        .header("host", host)
        .header("user-agent", concat!("guideway/", env!("CARGO_PKG_VERSION")))
        .header("accept", "*/*")
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| CheckFailure::Local(format!("bad request: {e}")))?;
    // As lenient as user agents are (RFC 9112 5.1, 5.2): a check asks whether clients are served.
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_spaces_after_header_name_in_responses(true)
        .ignore_invalid_headers_in_responses(true)
        .max_headers(HEADERS_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(http_failure)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(http_failure)?;
        let outcome = judge(http, response, until).await;
        // Then the connection has nothing more to do.
        drop(sender);
        Ok(outcome)
    };
    // The connection makes progress only while it is polled; both end with this function.
    let connection = connection.without_shutdown();
    tokio::pin!(exchange);
    tokio::pin!(connection);
    let mut open = true;
    loop {
        tokio::select! {
            biased;
            done = &mut exchange => return done,
            ended = &mut connection, if open => {
                open = false;
                if let Err(error) = ended {
                    // The exchange usually knows better; give it the first word.
                    let now = std::future::poll_fn(|context| Poll::Ready(exchange.as_mut().poll(context)));
                    return match now.await {
                        Poll::Ready(done) => done,
                        Poll::Pending => Err(http_failure(error)),
                    };
                }
            }
        }
    }
}

/// What an answer says. What is left of it is read and thrown away.
async fn judge(http: &HttpCheck, response: Response<Incoming>, until: Instant) -> Result<(), CheckFailure> {
    let status = response.status().as_u16();
    let accepted = if http.expect_status.is_empty() { &[(200, 399)][..] } else { &http.expect_status };
    let mut body = response.into_body();
    let mut outcome = if !accepted.iter().any(|(low, high)| (*low..=*high).contains(&status)) {
        Some(Err(CheckFailure::Status(status)))
    } else if http.expect.is_none() {
        Some(Ok(()))
    } else {
        None
    };
    let expect = http.expect.as_deref().unwrap_or_default();
    let (mut seen, mut read) = (Vec::new(), 0);
    while read < READ_MAX {
        let frame = match timeout_at(until, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return outcome.unwrap_or_else(|| Err(http_failure(error))),
            Ok(None) => break,
            Err(_) => return outcome.unwrap_or(Err(CheckFailure::Timeout)),
        };
        let Some(data) = frame.data_ref() else { continue };
        read += data.len();
        if outcome.is_none() {
            let room = ANSWER_MAX - seen.len();
            seen.extend_from_slice(&data[..data.len().min(room)]);
            if contains(&seen, expect) {
                outcome = Some(Ok(()));
            } else if seen.len() >= ANSWER_MAX {
                outcome = Some(Err(CheckFailure::Body));
            }
        }
    }
    outcome.unwrap_or(Err(CheckFailure::Body))
}

/// Waits until the server has closed, as it was asked to, and closes then: that takes no TIME_WAIT. One that does not close is reset.
async fn finish(stream: &mut TcpStream, until: Instant) {
    let until = until.min(Instant::now() + CLOSE_WAIT);
    // A little may be left, the end of TLS for example.
    let (mut rest, mut left) = ([0; 4096], ANSWER_MAX);
    while let Ok(Ok(read)) = timeout_at(until, stream.read(&mut rest)).await {
        if read == 0 {
            let _ = stream.shutdown().await;
        }
        left = left.saturating_sub(read);
        if read == 0 || left == 0 {
            return;
        }
    }
}

/// A backend that answers a check of this kind with these bytes and closes. Encrypted checks and commands are not played.
///
/// # Errors
/// Why the check did not pass.
#[cfg(feature = "rehearsal")]
pub async fn rehearse(kind: &HealthKind, answer: &[u8]) -> Result<(), CheckFailure> {
    // What hyper reads from must own its bytes.
    let mut stream = tokio::io::join(std::io::Cursor::new(answer.to_vec()), tokio::io::sink());
    let until = Instant::now() + Duration::from_secs(1);
    match kind {
        HealthKind::Tcp { send, expect } => exchange(stream, send.as_deref(), expect.as_deref()).await,
        HealthKind::Http(http) => get(&mut stream, http, IpAddr::V4(Ipv4Addr::LOCALHOST), until).await?,
        HealthKind::Udp { .. } | HealthKind::Https(_) | HealthKind::Exec { .. } | HealthKind::None => Ok(()),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn http_failure(error: hyper::Error) -> CheckFailure {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            // With TLS 1.3 a server looks at a client's certificate when the client thinks that all is done.
            return match of_tls(io) {
                Some(tls) => named(tls),
                None => CheckFailure::from(
                    io.raw_os_error().map_or_else(|| io.kind().into(), io::Error::from_raw_os_error),
                ),
            };
        }
        cause = inner.source();
    }
    if error.is_incomplete_message() { CheckFailure::Closed } else { CheckFailure::Http(error.to_string()) }
}

fn tls_failure(error: io::Error) -> CheckFailure {
    match of_tls(&error) {
        Some(tls) => named(tls),
        None => CheckFailure::from(error),
    }
}

fn of_tls(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// A failure of TLS by its name. An alert's is that of RFC 8446 6, in words.
fn named(error: &rustls::Error) -> CheckFailure {
    let rustls::Error::AlertReceived(alert) = error else { return CheckFailure::Tls(error.to_string()) };
    let mut words = String::new();
    for letter in format!("{alert:?}").chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    if *alert == AlertDescription::HandshakeFailure {
        // The server does not say what it misses.
        words.push_str(
            " (a check offers TLS 1.2 and 1.3, key exchange by X25519, P-256 and P-384, AES-GCM \
                        and ChaCha20)",
        );
    }
    CheckFailure::Tls(words)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    needle.is_empty() || haystack.windows(needle.len()).any(|window| window == needle)
}

pub(crate) fn server_name(http: &HttpCheck, vip: IpAddr) -> Result<ServerName<'static>, CheckFailure> {
    let Some(name) = http.tls_name() else {
        return Ok(ServerName::IpAddress(vip.into()));
    };
    ServerName::try_from(name.to_owned()).map_err(|e| CheckFailure::Local(format!("TLS name `{name}`: {e}")))
}
