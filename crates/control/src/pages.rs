//! `/metrics`: rendered off the management thread, once for all who ask at about the same time, and taken piece by piece.
//!
//! Rule of this module: memory is bounded by the pages, not by their readers. The newest few pages are kept; whoever still
//! reads an older one is cut off.

use crate::metrics;
use crate::status::Snapshot;
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// A page is shown to all who ask within this time …
const FRESH: Duration = Duration::from_millis(300);
/// … unless it is so small that it may as well be made anew, bytes.
const SMALL: usize = 64 * 1024;
/// Pages that may be read at once; some MB each on a machine with thousands of backends.
const PAGES_MAX: usize = 4;
/// What is handed to a connection at once, bytes.
const PIECE: usize = 64 * 1024;

/// A page, and when it was made.
type Kept = (Instant, Arc<String>);

/// The pages that are read now; the newest is at the end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pages {
    kept: Arc<Mutex<VecDeque<Kept>>>,
}

impl Pages {
    /// An answer with a page that is at most 300 ms old, a small one as it is now; `None` when the controller is gone.
    pub(crate) async fn answer(&self, snapshot: impl Future<Output = Option<Snapshot>>) -> Option<Response> {
        let page = {
            // Whoever asks meanwhile waits for the same page.
            let mut kept = self.kept.lock().await;
            match kept.back().filter(|(made, page)| page.len() > SMALL && made.elapsed() < FRESH) {
                Some((_, page)) => Arc::clone(page),
                None => {
                    let snapshot = snapshot.await?;
                    let page = tokio::task::spawn_blocking(move || metrics::render(&snapshot)).await.ok()?;
                    let page = Arc::new(page);
                    kept.push_back((Instant::now(), Arc::clone(&page)));
                    if kept.len() > PAGES_MAX {
                        kept.pop_front();
                    }
                    page
                }
            }
        };
        let length = page.len();
        let mut answer = Response::new(body(&page));
        let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        answer.headers_mut().insert(header::CONTENT_TYPE, kind);
        answer.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        Some(answer)
    }
}

/// The page, as long as it is kept.
fn body(page: &Arc<String>) -> Body {
    let start = (Arc::downgrade(page), 0);
    Body::from_stream(futures_util::stream::unfold(start, |(page, at): (Weak<String>, usize)| async move {
        let Some(text) = page.upgrade() else {
            let error = io::Error::new(io::ErrorKind::TimedOut, "read too slowly: the page is gone");
            return Some((Err(error), (Weak::new(), usize::MAX)));
        };
        // A copy, so that the connection's buffers do not keep the page.
        let rest = text.as_bytes().get(at..).filter(|rest| !rest.is_empty())?;
        let piece = Bytes::copy_from_slice(rest.get(..PIECE).unwrap_or(rest));
        let next = at + piece.len();
        Some((Ok(piece), (page, next)))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::to_bytes;
    use futures_util::StreamExt as _;

    #[tokio::test]
    async fn a_page_is_read_in_pieces_and_whole() {
        let page = Arc::new("x".repeat(3 * PIECE + 17));
        assert_eq!(to_bytes(body(&page), usize::MAX).await.unwrap().len(), page.len());
        assert!(to_bytes(body(&Arc::default()), usize::MAX).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn whoever_reads_a_page_that_is_gone_is_cut_off() {
        let page = Arc::new("x".repeat(3 * PIECE));
        let mut stream = body(&page).into_data_stream();
        assert_eq!(stream.next().await.unwrap().unwrap().len(), PIECE);
        drop(page);
        assert!(stream.next().await.unwrap().is_err());
    }
}
