//! The local socket: each connection says one line and is told one.

use crate::event::Event;
use crate::request::{LINE_MAX, Reply, Request, Unfit};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Connections at a time; further ones wait.
const CONNECTIONS_MAX: usize = 32;
/// Time for a line to come, and for the answer to be read.
const LIMIT: Duration = Duration::from_secs(5);
/// Who owns it and its group may use it.
const MODE: u32 = 0o660;

/// The socket; its file goes with it.
#[derive(Debug)]
pub(crate) struct LocalSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl LocalSocket {
    /// Listens at `path`. A socket that is left there and that nobody listens at is replaced.
    ///
    /// # Errors
    /// It cannot; in words.
    pub(crate) fn bind(path: &Path) -> Result<LocalSocket, String> {
        let problem = |e: io::Error| format!("socket {}: {e}", path.display());
        if let Ok(there) = std::fs::symlink_metadata(path) {
            if !there.file_type().is_socket() {
                return Err(format!("{} is there and is no socket: set agent.socket", path.display()));
            }
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(format!(
                    "another agent listens at {}: stop it, or set agent.socket",
                    path.display()
                ));
            }
            std::fs::remove_file(path).map_err(problem)?;
        }
        let listener = UnixListener::bind(path).map_err(problem)?;
        // Until here only its owner can write to it, whatever the umask.
        std::fs::set_permissions(path, PermissionsExt::from_mode(MODE)).map_err(problem)?;
        Ok(LocalSocket { listener, path: path.to_owned() })
    }

    /// Serves for ever.
    pub(crate) async fn serve(self, events: mpsc::Sender<Event>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let events = events.clone();
                    tokio::spawn(async move {
                        // Whoever went away needs no answer.
                        let _ = tokio::time::timeout(2 * LIMIT, serve_one(stream, &events)).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!("local socket: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        // Nothing is lost when it has gone already.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve_one(stream: UnixStream, events: &mpsc::Sender<Event>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    let mut limited = (&mut stream).take(LINE_MAX as u64 + 1);
    let read = tokio::time::timeout(LIMIT, limited.read_until(b'\n', &mut line)).await;
    let reply = match read {
        Err(_) => unfit("no line within 5 s", "send one JSON object and a line feed"),
        Ok(read) => {
            read?;
            answer(&line, events).await
        }
    };
    let mut text = serde_json::to_vec(&reply)?;
    text.push(b'\n');
    stream.get_mut().write_all(&text).await?;
    stream.get_mut().shutdown().await
}

async fn answer(line: &[u8], events: &mpsc::Sender<Event>) -> Reply {
    if line.len() > LINE_MAX {
        return unfit(
            &format!("a line of more than {LINE_MAX} bytes"),
            "send one JSON object and a line feed",
        );
    }
    let request: Request = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(error) => return unfit(&format!("not a request: {error}"), "docs/agents.md has the requests"),
    };
    let (sender, receiver) = oneshot::channel();
    if events.send(Event::Asked(Box::new(request), sender)).await.is_err() {
        return unfit("the agent stops", "ask again when it runs");
    }
    receiver.await.unwrap_or_else(|_| unfit("the agent stops", "ask again when it runs"))
}

fn unfit(error: &str, help: &str) -> Reply {
    Reply::from(Err(Unfit::new(error, help)))
}
