//! A web server for checks and requests: `/` says its name, as nginx does on every backend, and `/health…` what a file tells it to
//! say. Each request is a line of its access log: what probes it got is read there, whoever sent them.

use super::control::unix_ms;
use crate::command::{Result, Tried};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Longest head of a request, bytes.
const HEAD_MAX: u64 = 8192;

/// The server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SiteServer {
    /// What it answers.
    pub name: String,
    /// Port.
    pub port: u16,
    /// Where its access log is: a line `<Unix time, milliseconds> <client's address> <path> <status>` for each request, written
    /// when the request has come.
    pub access: PathBuf,
    /// The file that tells what `/health…` answers: a [`Health`], or nothing.
    pub health: PathBuf,
}

/// What the server says of its health: `<status> <delay in milliseconds>` in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Health {
    /// HTTP status.
    pub status: u16,
    /// How long it takes over the answer, milliseconds.
    pub delay_ms: u64,
}

impl Health {
    /// 200, at once.
    pub const GOOD: Health = Health { status: 200, delay_ms: 0 };

    /// As the file's text.
    pub fn to_text(self) -> String {
        format!("{} {}\n", self.status, self.delay_ms)
    }

    /// Of the file's text; what is none is good.
    fn from_text(text: &str) -> Health {
        let mut words = text.split_whitespace();
        let mut next = || words.next()?.parse::<u64>().ok();
        match (next().and_then(|status| u16::try_from(status).ok()), next()) {
            (Some(status), Some(delay_ms)) => Health { status, delay_ms },
            _ => Health::GOOD,
        }
    }
}

pub(super) async fn run(server: SiteServer) -> Result<()> {
    let access = File::options().create(true).append(true).open(&server.access);
    let access = Rc::new(access.tried(|| format!("opening {}", server.access.display()))?);
    // Dual stack: IPv4 clients come as mapped addresses.
    let address = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), server.port);
    let listener = TcpListener::bind(address).await.tried(|| format!("TCP on {address}"))?;
    let server = Rc::new(server);
    tokio::task::LocalSet::new()
        .run_until(async move {
            loop {
                if let Ok((stream, from)) = listener.accept().await {
                    let (server, access) = (Rc::clone(&server), Rc::clone(&access));
                    // A client that goes away is no matter of ours.
                    tokio::task::spawn_local(
                        async move { drop(answer(&server, &access, stream, from).await) },
                    );
                } else {
                    // Out of descriptors: others must close first.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        })
        .await
}

async fn answer(
    server: &SiteServer,
    mut access: &File,
    stream: TcpStream,
    from: SocketAddr,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut first = String::new();
    let mut head = (&mut stream).take(HEAD_MAX);
    if head.read_line(&mut first).await? == 0 {
        return Ok(());
    }
    let mut line = String::new();
    while head.read_line(&mut line).await? > 0 && !line.trim_end().is_empty() {
        line.clear();
    }
    let path = first.split_whitespace().nth(1).unwrap_or("/").to_owned();
    let told = if path.starts_with("/health") { told(&server.health) } else { Health::GOOD };
    // One write for a line: lines of several servers in one file would stay whole.
    access.write_all(
        format!("{} {} {path} {}\n", unix_ms(), from.ip().to_canonical(), told.status).as_bytes(),
    )?;
    tokio::time::sleep(Duration::from_millis(told.delay_ms)).await;
    let name = &server.name;
    let text = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nX-Backend: \
         {name}\r\nConnection: close\r\n\r\n{name}\n",
        told.status,
        if told.status < 400 { "OK" } else { "No" },
        name.len() + 1,
    );
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

fn told(file: &Path) -> Health {
    std::fs::read_to_string(file).map_or(Health::GOOD, |text| Health::from_text(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_told_by_a_text() {
        for health in [Health::GOOD, Health { status: 503, delay_ms: 400 }] {
            assert_eq!(Health::from_text(&health.to_text()), health);
        }
        assert_eq!(Health::from_text(""), Health::GOOD);
    }
}
