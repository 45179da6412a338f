//! One probe: a connection (or datagram) of its own, closed at once.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper_util::rt::TokioIo;
use model::config::{HealthKind, HttpCheck};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio_rustls::TlsConnector;

/// Most bytes of an answer that are looked at.
const ANSWER_MAX: usize = 64 * 1024;

/// What is checked, and how. Two equal checks need one task.
#[derive(Clone, PartialEq, Debug)]
pub struct Check {
    /// What is probed.
    pub kind: HealthKind,
    /// Where.
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
pub enum Failure {
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
    /// The probe could not leave this machine.
    #[error("cannot probe: {0}")]
    Local(String),
    /// Anything else the kernel says.
    #[error("{0}")]
    Other(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Failure::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Failure::Reset,
            io::ErrorKind::TimedOut => Failure::Timeout,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Failure::Unreachable,
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionAborted => Failure::Closed,
            _ => Failure::Other(error),
        }
    }
}

impl Check {
    /// Probes once. `turn` counts probes.
    ///
    /// # Errors
    /// Why it did not pass.
    pub async fn run(&self, turn: u32) -> Result<(), Failure> {
        let limit = Duration::from_millis(u64::from(self.timeout_ms));
        tokio::time::timeout(limit, self.probe(turn)).await.unwrap_or(Err(Failure::Timeout))
    }

    async fn probe(&self, turn: u32) -> Result<(), Failure> {
        if let Some(Err(reason)) = self.source {
            return Err(Failure::Local(reason.to_owned()));
        }
        match &self.kind {
            HealthKind::None => Ok(()),
            HealthKind::Tcp { send, expect } => {
                let stream = self.connect(turn).await?;
                exchange(stream, send.as_deref(), expect.as_deref()).await
            }
            HealthKind::Http(http) => get(self.connect(turn).await?, http, self.vip).await,
            HealthKind::Https(http) => {
                let name = server_name(http, self.vip)?;
                let stream = self.connect(turn).await?;
                let stream =
                    TlsConnector::from(client_config()?).connect(name, stream).await.map_err(tls_failure)?;
                get(stream, http, self.vip).await
            }
            HealthKind::Udp { send, expect } => {
                let socket = self.datagram(turn).await?;
                ask(&socket, send.as_deref(), expect.as_deref()).await
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

    async fn connect(&self, turn: u32) -> Result<TcpStream, Failure> {
        let socket = match self.target {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }
        .map_err(|e| Failure::Local(format!("no socket: {e}")))?;
        if let Some(via) = &self.via {
            socket
                .bind_device(Some(via.as_bytes()))
                .map_err(|e| Failure::Local(format!("interface {via}: {e}")))?;
        }
        if let Some(source) = self.source(turn) {
            socket.set_reuseaddr(true).map_err(|e| Failure::Local(e.to_string()))?;
            socket.bind(source).map_err(|e| Failure::Local(format!("source {source}: {e}")))?;
        }
        // Closing sends a reset: no TIME_WAIT here, and the port can be used again at once.
        socket.set_zero_linger().map_err(|e| Failure::Local(e.to_string()))?;
        let stream = socket.connect(self.target).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn datagram(&self, turn: u32) -> Result<UdpSocket, Failure> {
        let any = match self.target {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let source = self.source(turn).unwrap_or(any);
        let socket =
            UdpSocket::bind(source).await.map_err(|e| Failure::Local(format!("source {source}: {e}")))?;
        if let Some(via) = &self.via {
            socket
                .bind_device(Some(via.as_bytes()))
                .map_err(|e| Failure::Local(format!("interface {via}: {e}")))?;
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
) -> Result<(), Failure> {
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
            return Err(Failure::Answer);
        }
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(if answer.is_empty() { Failure::Closed } else { Failure::Answer });
        }
    }
}

/// UDP: any answer is enough, unless something is expected. Datagrams without it are passed over.
async fn ask(socket: &UdpSocket, send: Option<&[u8]>, expect: Option<&[u8]>) -> Result<(), Failure> {
    socket.send(send.unwrap_or_default()).await?;
    let mut answer = vec![0; ANSWER_MAX];
    let length = socket.recv(&mut answer).await?;
    match expect {
        Some(expect) if !contains(&answer[..length], expect) => Err(Failure::Answer),
        _ => Ok(()),
    }
}

/// HTTP GET over a fresh connection.
async fn get<S>(stream: S, http: &HttpCheck, vip: IpAddr) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
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
        .map_err(|e| Failure::Local(format!("bad request: {e}")))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(http_failure)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(http_failure)?;
        let status = response.status().as_u16();
        let accepted = if http.expect_status.is_empty() { &[(200, 399)][..] } else { &http.expect_status };
        if !accepted.iter().any(|(low, high)| (*low..=*high).contains(&status)) {
            return Err(Failure::Status(status));
        }
        let Some(expect) = &http.expect else { return Ok(()) };
        let mut body = response.into_body();
        let mut seen = Vec::new();
        while let Some(frame) = body.frame().await {
            if let Some(data) = frame.map_err(http_failure)?.data_ref() {
                let room = ANSWER_MAX - seen.len();
                seen.extend_from_slice(&data[..data.len().min(room)]);
            }
            if contains(&seen, expect) {
                return Ok(());
            }
            if seen.len() >= ANSWER_MAX {
                break;
            }
        }
        Err(Failure::Body)
    };
    // The connection makes progress only while it is polled; both end with this function.
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

/// A backend that answers a check of this kind with these bytes and closes. Encrypted checks and commands are not played.
///
/// # Errors
/// Why the check did not pass.
#[cfg(feature = "rehearsal")]
pub async fn rehearse(kind: &HealthKind, answer: &[u8]) -> Result<(), Failure> {
    // What hyper reads from must own its bytes.
    let stream = tokio::io::join(std::io::Cursor::new(answer.to_vec()), tokio::io::sink());
    match kind {
        HealthKind::Tcp { send, expect } => exchange(stream, send.as_deref(), expect.as_deref()).await,
        HealthKind::Http(http) => get(stream, http, IpAddr::V4(Ipv4Addr::LOCALHOST)).await,
        HealthKind::Udp { .. } | HealthKind::Https(_) | HealthKind::Exec { .. } | HealthKind::None => Ok(()),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn http_failure(error: hyper::Error) -> Failure {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return Failure::from(io::Error::from(io.kind()));
        }
        cause = inner.source();
    }
    if error.is_incomplete_message() { Failure::Closed } else { Failure::Http(error.to_string()) }
}

fn tls_failure(error: io::Error) -> Failure {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) => Failure::Tls(tls.to_string()),
        None => Failure::from(error),
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    needle.is_empty() || haystack.windows(needle.len()).any(|window| window == needle)
}

pub(crate) fn server_name(http: &HttpCheck, vip: IpAddr) -> Result<ServerName<'static>, Failure> {
    let Some(name) = http.tls_name() else {
        return Ok(ServerName::IpAddress(vip.into()));
    };
    ServerName::try_from(name.to_owned()).map_err(|e| Failure::Local(format!("TLS name `{name}`: {e}")))
}

/// One TLS configuration for all checks.
fn client_config() -> Result<Arc<ClientConfig>, Failure> {
    static CONFIG: OnceLock<Option<Arc<ClientConfig>>> = OnceLock::new();
    CONFIG
        .get_or_init(|| {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let schemes = provider.signature_verification_algorithms.supported_schemes();
            let config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .ok()?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate { schemes }))
                .with_no_client_auth();
            Some(Arc::new(config))
        })
        .clone()
        .ok_or_else(|| Failure::Local("no TLS provider".to_owned()))
}

/// Accepts every certificate: a check asks whether the backend serves, from a network that clients' secrets do not
/// pass; backends commonly have certificates for names, not for the addresses probed.
#[derive(Debug)]
struct AnyCertificate {
    schemes: Vec<SignatureScheme>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}
