//! Where the API listens: a unix socket, and TCP with or without TLS.

use super::caller;
use super::connections::{ApiConnections, ApiPlace, ConnectionCounters, HEAD_TIMEOUT};
use super::credentials::Credentials;
use crate::meter::{Meter, ThreadJob};
use axum::Router;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

/// Pause after a failed accept (no file descriptors left).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How often it is said that connections cannot be accepted.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// Serves a unix socket for ever.
pub(crate) async fn serve_unix(listener: UnixListener, router: Router, serving: Serving) {
    loop {
        serving.connections.room().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let caller = caller::of_stream(&stream);
                serving.serve(None, |place| place.converse(stream, caller, router.clone()));
            }
            Err(error) => serving.cannot_accept(&error).await,
        }
    }
}

/// Serves a TCP listener for ever, with the certificate in force when a client comes.
pub(crate) async fn serve_tcp(
    listener: TcpListener,
    credentials: Option<watch::Receiver<Credentials>>,
    router: Router,
    serving: Serving,
) {
    loop {
        serving.connections.room().await;
        match listener.accept().await {
            Ok((stream, source)) => {
                let tls = credentials.as_ref().and_then(|of| of.borrow().api.clone());
                let (caller, router) = (caller::of_address(source), router.clone());
                serving.serve(Some(source.ip()), |place| async move {
                    let _ = stream.set_nodelay(true);
                    match tls {
                        None => place.converse(stream, caller, router).await,
                        Some(tls) => {
                            let shaken = tokio::time::timeout(HEAD_TIMEOUT, tls.accept(stream)).await;
                            if let Ok(Ok(stream)) = shaken {
                                place.converse(stream, caller, router).await;
                            }
                        }
                    }
                });
            }
            Err(error) => serving.cannot_accept(&error).await,
        }
    }
}

/// What a listener serves with.
#[derive(Clone, Debug)]
pub(crate) struct Serving {
    connections: ApiConnections,
    meter: Meter,
    complaints: Arc<AcceptComplaints>,
}

/// When it was last said that connections cannot be accepted.
#[derive(Debug, Default)]
struct AcceptComplaints {
    last: Mutex<Option<Instant>>,
}

impl Serving {
    /// A listener's own connections; `counts` are all listeners'.
    pub(crate) fn new(counts: Arc<ConnectionCounters>, meter: Meter) -> Serving {
        let connections = ApiConnections::new(counts);
        tokio::spawn(connections.clone().watch());
        Serving { connections, meter, complaints: Arc::default() }
    }

    fn serve<F>(&self, source: Option<IpAddr>, talk: impl FnOnce(ApiPlace) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let place = self.connections.enter(source);
        let number = place.number();
        let task = tokio::spawn(self.meter.watch(ThreadJob::Conversation, talk(place)));
        self.connections.held_by(number, task.abort_handle());
    }

    /// No descriptors are left, as a rule: somebody who has not asked anything gives his.
    async fn cannot_accept(&self, error: &io::Error) {
        let has_room = self.connections.make_room();
        let now = Instant::now();
        {
            let mut last = self.complaints.last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.is_none_or(|last| now.duration_since(last) >= COMPLAIN_EVERY) {
                *last = Some(now);
                tracing::warn!("API cannot accept: {error}; this is said once in {COMPLAIN_EVERY:?}");
            }
        }
        if has_room {
            // The closed connection's task runs first.
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(ACCEPT_RETRY).await;
        }
    }
}
