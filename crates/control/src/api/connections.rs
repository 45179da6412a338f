//! ApiConnections of one listener: how many there are, which of them makes room for a newcomer, and how long each may take.
//!
//! Rule of this module: whoever has not asked anything yet, or does not take his answer, holds no place that somebody else
//! needs. A newcomer is always let in while one such connection is there: the one that has been without progress for longest
//! is closed. What is being answered is never closed for another's sake.

use crate::caller::Caller;
use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::Request;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::AbortHandle;

/// ApiConnections at once, per listener.
pub(crate) const CONNECTIONS_MAX: usize = 256;
/// Of these, from one address (one /64 in IPv6).
const OF_ONE_SOURCE_MAX: usize = 128;
/// Longest time a request's head, or a TLS handshake, may take.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which no byte has moved for so long is closed, unless it waits for us.
const STILL_MAX: Duration = Duration::from_secs(10);
/// Longest time an answer may take to be taken.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Pause before it is looked for a place again, while all are being answered.
const ROOM_EVERY: Duration = Duration::from_millis(5);
/// How often these are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Whose turn it is on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum WhoseTurn {
    /// The client's: it has not asked (again) yet.
    Asking = 0,
    /// Ours.
    Serving = 1,
    /// The client's: it has to take the answer.
    Taking = 2,
}

/// What the listener and the connection's task both look at.
#[derive(Debug)]
struct TransferProgress {
    origin: Instant,
    turn: AtomicU8,
    /// When it became that turn, microseconds after `origin`.
    turned_us: AtomicU64,
    /// When the last byte moved.
    moved_us: AtomicU64,
}

impl TransferProgress {
    fn new() -> Arc<TransferProgress> {
        let zero = || AtomicU64::new(0);
        let origin = Instant::now();
        Arc::new(TransferProgress { origin, turn: AtomicU8::new(0), turned_us: zero(), moved_us: zero() })
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn turns(&self, turn: WhoseTurn) {
        let now = self.now_us();
        self.turn.store(turn as u8, Relaxed);
        self.turned_us.store(now, Relaxed);
        self.moved_us.store(now, Relaxed);
    }

    fn moved(&self) {
        self.moved_us.store(self.now_us(), Relaxed);
    }

    fn is(&self, turn: WhoseTurn) -> bool {
        self.turn.load(Relaxed) == turn as u8
    }

    /// How long no byte has moved.
    fn still(&self) -> Duration {
        Duration::from_micros(self.now_us().saturating_sub(self.moved_us.load(Relaxed)))
    }

    /// Whether the client has had all the time that it has.
    fn is_over(&self) -> bool {
        let since = Duration::from_micros(self.now_us().saturating_sub(self.turned_us.load(Relaxed)));
        !self.is(WhoseTurn::Serving)
            && (self.still() >= STILL_MAX || self.is(WhoseTurn::Taking) && since >= ANSWER_MAX)
    }
}

#[derive(Debug)]
struct ApiConnection {
    source: Option<IpAddr>,
    progress: Arc<TransferProgress>,
    task: Option<AbortHandle>,
}

/// Counts of all listeners.
#[derive(Debug, Default)]
pub(crate) struct ConnectionCounters {
    /// Open now.
    pub(crate) open: AtomicU64,
    /// Closed to make room for others.
    pub(crate) made_room: AtomicU64,
    /// Closed because no byte moved, or the answer was not taken.
    pub(crate) too_slow: AtomicU64,
}

impl ConnectionCounters {
    pub(crate) fn now(&self) -> model::api::ConnectionCounts {
        let get = |count: &AtomicU64| count.load(Relaxed);
        model::api::ConnectionCounts {
            open: get(&self.open),
            made_room: get(&self.made_room),
            too_slow: get(&self.too_slow),
        }
    }
}

/// The connections of one listener.
#[derive(Clone, Debug)]
pub(crate) struct ApiConnections {
    open: Arc<Mutex<(u64, BTreeMap<u64, ApiConnection>)>>,
    counts: Arc<ConnectionCounters>,
}

/// A place among the connections, held by the connection's task.
#[derive(Debug)]
pub(crate) struct ApiPlace {
    number: u64,
    progress: Arc<TransferProgress>,
    of: ApiConnections,
}

impl Drop for ApiPlace {
    fn drop(&mut self) {
        if self.of.lock().1.remove(&self.number).is_some() {
            self.of.counts.open.fetch_sub(1, Relaxed);
        }
    }
}

impl ApiConnections {
    /// None yet.
    pub(crate) fn new(counts: Arc<ConnectionCounters>) -> ApiConnections {
        ApiConnections { open: Arc::default(), counts }
    }

    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, ApiConnection>)> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while every place is being answered: newcomers stay in the kernel's queue, and nobody is turned away.
    pub(crate) async fn room(&self) {
        let is_full = || {
            let open = self.lock();
            open.1.len() >= CONNECTIONS_MAX && open.1.values().all(|of| of.progress.is(WhoseTurn::Serving))
        };
        while is_full() {
            tokio::time::sleep(ROOM_EVERY).await;
        }
    }

    /// A place for a newcomer, who may cost another one his: one of the same source, if that has its share, else anybody's. Called
    /// when there is [`room`](Self::room).
    pub(crate) fn enter(&self, source: Option<IpAddr>) -> ApiPlace {
        let source = source.map(neighbourhood);
        let mut open = self.lock();
        let from_there = open.1.values().filter(|of| source.is_some() && of.source == source).count();
        let has_made_room =
            from_there >= OF_ONE_SOURCE_MAX && self.close_one(&mut open.1, |of| of.source == source);
        if !has_made_room && open.1.len() >= CONNECTIONS_MAX {
            self.close_one(&mut open.1, |_| true);
        }
        open.0 += 1;
        let (number, progress) = (open.0, TransferProgress::new());
        open.1.insert(number, ApiConnection { source, progress: Arc::clone(&progress), task: None });
        self.counts.open.fetch_add(1, Relaxed);
        ApiPlace { number, progress, of: self.clone() }
    }

    /// Names the task that holds a place.
    pub(crate) fn held_by(&self, number: u64, task: AbortHandle) {
        if let Some(connection) = self.lock().1.get_mut(&number) {
            connection.task = Some(task);
        }
    }

    /// Closes the connection that has been without progress for longest, for want of descriptors. Whether there was one.
    pub(crate) fn make_room(&self) -> bool {
        let mut open = self.lock();
        self.close_one(&mut open.1, |_| true)
    }

    fn close_one(
        &self,
        open: &mut BTreeMap<u64, ApiConnection>,
        may: impl Fn(&ApiConnection) -> bool,
    ) -> bool {
        let idle = open.iter().filter(|(_, of)| may(of) && !of.progress.is(WhoseTurn::Serving));
        let Some(number) = idle.max_by_key(|(_, of)| of.progress.still()).map(|(number, _)| *number) else {
            return false;
        };
        self.close(open, number);
        self.counts.made_room.fetch_add(1, Relaxed);
        true
    }

    fn close(&self, open: &mut BTreeMap<u64, ApiConnection>, number: u64) {
        if let Some(connection) = open.remove(&number) {
            self.counts.open.fetch_sub(1, Relaxed);
            if let Some(task) = connection.task {
                task.abort();
            }
        }
    }

    /// Closes, for ever, what takes too long.
    pub(crate) async fn watch(self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let mut open = self.lock();
            let over: Vec<u64> =
                open.1.iter().filter(|(_, of)| of.progress.is_over()).map(|(number, _)| *number).collect();
            for number in over {
                self.close(&mut open.1, number);
                self.counts.too_slow.fetch_add(1, Relaxed);
            }
        }
    }
}

impl ApiPlace {
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Serves a connection until it ends.
    pub(crate) async fn converse<S>(self, stream: S, caller: Caller, router: Router)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let progress = Arc::clone(&self.progress);
        let router = TowerToHyperService::new(router);
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            let progress = Arc::clone(&progress);
            progress.turns(WhoseTurn::Serving);
            request.extensions_mut().insert(caller.clone());
            let answer = hyper::service::Service::call(&router, request);
            async move {
                let answer = answer.await?;
                progress.turns(WhoseTurn::Taking);
                Ok::<_, Infallible>(answer.map(|body| TimedBody { body, progress }))
            }
        });
        let stream = Moving { stream, progress: Arc::clone(&self.progress) };
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(64 * 1024)
            // One that has said all it has to say (`nc -N`) still wants its answer.
            .half_close(true)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            tracing::debug!("API connection: {error}");
        }
        drop(self);
    }
}

/// The address, or its /64.
fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        v4 => v4,
    }
}

/// A body that tells when it was taken.
struct TimedBody {
    body: Body,
    progress: Arc<TransferProgress>,
}

impl HttpBody for TimedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for TimedBody {
    fn drop(&mut self) {
        self.progress.turns(WhoseTurn::Asking);
    }
}

/// A stream that tells when bytes move.
struct Moving<S> {
    stream: S,
    progress: Arc<TransferProgress>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Moving<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.progress.moved();
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Moving<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        if matches!(result, Poll::Ready(Ok(count)) if count > 0) {
            self.progress.moved();
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        if matches!(result, Poll::Ready(Ok(count)) if count > 0) {
            self.progress.moved();
        }
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(of: &ApiConnections, source: &str) -> ApiPlace {
        of.enter(Some(source.parse().unwrap()))
    }

    #[tokio::test]
    async fn a_newcomer_takes_the_place_of_the_one_that_is_still_for_longest() {
        let counts = Arc::<ConnectionCounters>::default();
        let of = ApiConnections::new(Arc::clone(&counts));
        let mut places: Vec<_> =
            (0..CONNECTIONS_MAX).map(|at| enter(&of, &format!("10.0.{}.1", at % 200))).collect();
        for (at, place) in places.iter().enumerate() {
            // The first is being answered, the second moves; the third is the one.
            place.progress.moved_us.store(if at == 1 { u64::MAX } else { 0 }, Relaxed);
        }
        places[0].progress.turn.store(WhoseTurn::Serving as u8, Relaxed);
        std::thread::sleep(Duration::from_millis(2));
        places[3..].iter().for_each(|place| place.progress.moved());
        let newcomer = enter(&of, "10.1.0.1");
        let open: Vec<u64> = of.lock().1.keys().copied().collect();
        assert!(!open.contains(&places[2].number) && open.contains(&newcomer.number));
        assert_eq!((open.len(), counts.made_room.load(Relaxed)), (CONNECTIONS_MAX, 1));
        // All are being answered: whoever comes waits, and comes in when the first answer is to be taken.
        places.push(newcomer);
        places.iter().for_each(|place| place.progress.turns(WhoseTurn::Serving));
        let waits = tokio::time::timeout(Duration::from_millis(50), of.room());
        assert!(waits.await.is_err());
        places[0].progress.turns(WhoseTurn::Taking);
        tokio::time::timeout(Duration::from_secs(5), of.room()).await.unwrap();
        drop(places);
        assert_eq!((of.lock().1.len(), counts.open.load(Relaxed)), (0, 0));
    }

    #[test]
    fn one_source_takes_places_of_its_own_only() {
        let of = ApiConnections::new(Arc::default());
        let honest = enter(&of, "10.0.0.1");
        let first = enter(&of, "2001:db8::1");
        std::thread::sleep(Duration::from_millis(1));
        let others: Vec<_> =
            (0..OF_ONE_SOURCE_MAX).map(|at| enter(&of, &format!("2001:db8::{}", at + 2))).collect();
        let open = of.lock();
        assert!(open.1.contains_key(&honest.number) && !open.1.contains_key(&first.number));
        assert!(others.iter().all(|place| open.1.contains_key(&place.number)));
        drop(open);
        // Its own are all being answered: there is room for another one.
        others.iter().for_each(|place| place.progress.turns(WhoseTurn::Serving));
        let further = enter(&of, "2001:db8::1");
        assert!(of.lock().1.contains_key(&further.number) && of.lock().1.contains_key(&honest.number));
    }

    #[test]
    fn who_does_not_take_his_answer_is_too_slow_and_who_waits_for_us_is_not() {
        let progress = TransferProgress::new();
        let ago = |of: &Duration| Instant::now().checked_sub(*of).unwrap();
        let old = TransferProgress { origin: ago(&STILL_MAX), ..Arc::into_inner(progress).unwrap() };
        assert!(old.is_over());
        old.moved();
        assert!(!old.is_over());
        old.moved_us.store(0, Relaxed);
        old.turn.store(WhoseTurn::Serving as u8, Relaxed);
        assert!(!old.is_over());
        // A byte now and then does not help.
        let drop_by_drop = TransferProgress { origin: ago(&ANSWER_MAX), ..old };
        drop_by_drop.turn.store(WhoseTurn::Taking as u8, Relaxed);
        drop_by_drop.moved();
        assert!(drop_by_drop.is_over());
    }
}
