//! The daemon's API over its unix socket.

use crate::configuration;
use crate::connection::Connection;
use crate::failure::Failure;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use model::api::ErrorBody;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where daemons put their sockets.
const SOCKET_DIR: &str = "/run/guideway";
/// Largest answer taken, bytes: more than 10,000 flows make.
const ANSWER_MAX: usize = 64 << 20;
/// How long an answer may take, beyond what the request itself asks for.
const PATIENCE: Duration = Duration::from_secs(10);

/// A daemon to talk to; one connection for each request.
pub(crate) struct Daemon {
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
}

/// What the daemon said.
pub(crate) struct DaemonAnswer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Daemon {
    /// The daemon that `connection` names.
    pub(crate) fn new(connection: &Connection) -> Result<Daemon, Failure> {
        Daemon::at(socket(connection)?)
    }

    /// The daemon behind `socket`.
    pub(crate) fn at(socket: PathBuf) -> Result<Daemon, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Failure::failed(format!("cannot start: {e}")))?;
        Ok(Daemon { socket, runtime })
    }

    /// The socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks; an answer of any status is a success here.
    pub(crate) fn ask(
        &self,
        method: Method,
        target: &str,
        body: Vec<u8>,
        wait: Duration,
    ) -> Result<DaemonAnswer, Failure> {
        self.ask_with(method, target, ("application/toml", body), wait)
    }

    /// Asks, with a body of this media type.
    fn ask_with(
        &self,
        method: Method,
        target: &str,
        body: (&str, Vec<u8>),
        wait: Duration,
    ) -> Result<DaemonAnswer, Failure> {
        self.run(self.answer(method, target, body, wait))
    }

    /// Lets a future come to its end that asks, or waits for signals.
    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Asks, without a body, while others are waited for.
    pub(crate) async fn asking(
        &self,
        method: Method,
        target: &str,
        wait: Duration,
    ) -> Result<DaemonAnswer, Failure> {
        self.answer(method, target, ("application/toml", Vec::new()), wait).await
    }

    async fn answer(
        &self,
        method: Method,
        target: &str,
        (kind, body): (&str, Vec<u8>),
        wait: Duration,
    ) -> Result<DaemonAnswer, Failure> {
        // A second more for each MiB: a long configuration takes long to check and to compile.
        let limit = PATIENCE + wait + Duration::from_secs(body.len() as u64 >> 20);
        let asked = exchange(&self.socket, method, target, (kind, body));
        match tokio::time::timeout(limit, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::failed(format!(
                "the daemon at {} did not answer {target} within {} s",
                self.socket.display(),
                limit.as_secs()
            ))
            .help("see its log: journalctl -u guideway")),
        }
    }

    /// `GET`; anything but 200 is a failure with the daemon's reason.
    pub(crate) fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, Failure> {
        self.get_within(target, Duration::ZERO)
    }

    /// `GET` as [`get`](Daemon::get), for a request that itself may take as long as `wait`.
    pub(crate) fn get_within<T: DeserializeOwned>(&self, target: &str, wait: Duration) -> Result<T, Failure> {
        self.ask(Method::GET, target, Vec::new(), wait)?.accepted()?.json()
    }

    /// `POST`; anything but 2xx is a failure with the daemon's reason.
    pub(crate) fn post<T: DeserializeOwned>(
        &self,
        target: &str,
        body: Vec<u8>,
        wait: Duration,
    ) -> Result<T, Failure> {
        self.ask(Method::POST, target, body, wait)?.accepted()?.json()
    }

    /// Any method, with a body of this type.
    pub(crate) fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: (&str, Vec<u8>),
        wait: Duration,
    ) -> Result<T, Failure> {
        self.ask_with(method, target, body, wait)?.accepted()?.json()
    }

    /// Posts a body of lines of JSON, and reads the answer.
    pub(crate) fn post_lines<T: DeserializeOwned>(
        &self,
        target: &str,
        lines: Vec<u8>,
        wait: Duration,
    ) -> Result<T, Failure> {
        self.ask_with(Method::POST, target, ("application/x-ndjson", lines), wait)?.accepted()?.json()
    }
}

impl DaemonAnswer {
    /// The answer if it is a success, else its reason as a failure: exit code 2 where the configuration is wrong.
    pub(crate) fn accepted(self) -> Result<DaemonAnswer, Failure> {
        if self.status.is_success() {
            return Ok(self);
        }
        let Ok(reason) = serde_json::from_slice::<ErrorBody>(&self.body) else {
            return Err(Failure::failed(format!("the daemon answered {}", self.status)));
        };
        let mut message = reason.error;
        for d in &reason.diagnostics {
            message.push_str("\n  ");
            message.push_str(&d.one_line());
        }
        let wrong_config = self.status == StatusCode::UNPROCESSABLE_ENTITY;
        let failure = if wrong_config { Failure::usage(message) } else { Failure::failed(message) };
        Err(if reason.help.is_empty() { failure } else { failure.help(reason.help) })
    }

    /// The body, which must be what was expected.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|e| {
            Failure::failed(format!("the daemon's answer is not understood: {e}"))
                .help("do guideway and guidewayd have the same version? see: guideway --version")
        })
    }
}

async fn exchange(
    socket: &Path,
    method: Method,
    target: &str,
    (kind, body): (&str, Vec<u8>),
) -> Result<DaemonAnswer, Failure> {
    let stream = tokio::net::UnixStream::connect(socket).await.map_err(|e| unreachable_daemon(socket, &e))?;
    let broken = |e: &dyn std::fmt::Display| {
        Failure::failed(format!("the daemon at {} broke off: {e}", socket.display()))
            .help("see its log: journalctl -u guideway")
    };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header("host", "guideway")
        .header("content-type", kind)
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| Failure::failed(format!("cannot ask for {target}: {e}")))?;
    let talk = async {
        let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
        let status = response.status();
        let headers = response.headers().clone();
        let body = Limited::new(response.into_body(), ANSWER_MAX)
            .collect()
            .await
            .map_err(|e| broken(&e))?
            .to_bytes();
        Ok(DaemonAnswer { status, headers, body })
    };
    let mut talk = std::pin::pin!(talk);
    let mut connection = std::pin::pin!(connection);
    // The connection has to be driven while the answer is awaited; its end alone decides nothing.
    let mut driving = true;
    loop {
        tokio::select! {
            biased;
            answer = &mut talk => return answer,
            _ = &mut connection, if driving => driving = false,
        }
    }
}

fn unreachable_daemon(socket: &Path, e: &std::io::Error) -> Failure {
    use std::io::ErrorKind;
    let failure = Failure::failed(format!("cannot reach the daemon at {}: {e}", socket.display()));
    match e.kind() {
        ErrorKind::PermissionDenied => failure.help("become a member of group guideway, or root"),
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            failure.help("start it (systemctl start guideway), or name its socket with --socket or --config")
        }
        _ => failure,
    }
}

/// The socket that the arguments name, or the only one there is.
pub(crate) fn socket(connection: &Connection) -> Result<PathBuf, Failure> {
    if let Some(socket) = &connection.socket {
        return Ok(socket.clone());
    }
    if let Some(config) = &connection.config {
        return Ok(configuration::load(config)?.config.api.socket);
    }
    only_socket(Path::new(SOCKET_DIR))
}

fn only_socket(dir: &Path) -> Result<PathBuf, Failure> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .map(|entries| {
            entries
                .flatten()
                .map(|e| e.path())
                .filter(|p| p.extension().is_some_and(|e| e == "sock"))
                .collect()
        })
        .unwrap_or_default();
    found.sort();
    match &found[..] {
        [one] => Ok(one.clone()),
        [] => Err(Failure::failed(format!("no daemon's socket in {}", dir.display()))
            .help("start guidewayd, or name its socket with --socket or --config")),
        several => {
            let names: Vec<String> = several.iter().map(|p| p.display().to_string()).collect();
            Err(Failure::usage(format!("several daemons run here: {}", names.join(", ")))
                .help("choose one with --socket or GUIDEWAY_SOCKET"))
        }
    }
}

#[cfg(test)]
mod tests;
