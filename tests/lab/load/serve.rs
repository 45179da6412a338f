//! The server behind all load but HTTP. A connection begins with one line from the client: `ECHO`, `LINES`, `DOWN <bytes>`
//! or `UP <bytes>`; the server says its name and does it. To `LINES` each line is answered with the name and the line.

use super::bulk::{CHUNK_BYTES, Pattern, Pauses};
use crate::command::{Result, Tried};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// The server.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Server {
    /// What it answers when asked who it is.
    pub name: String,
    /// Port.
    pub port: u16,
    /// Addresses for UDP.
    pub udp: Vec<IpAddr>,
    /// Addresses for TCP; none: all.
    #[serde(default)]
    pub tcp: Vec<IpAddr>,
    /// Connections to these addresses are reset as soon as they are there.
    #[serde(default)]
    pub resets: Vec<IpAddr>,
}

/// Longest line of a client; a longer one counts as several.
const LINE_BYTES_MAX: u64 = 1024;

pub(super) async fn run(server: Server) -> Result<()> {
    let name: Rc<str> = server.name.into();
    let local = tokio::task::LocalSet::new();
    for address in server.udp {
        let address = SocketAddr::new(address, server.port);
        let socket = UdpSocket::bind(address).await.tried(|| format!("UDP on {address}"))?;
        let name = Rc::clone(&name);
        local.spawn_local(async move { echo_datagrams(&name, &socket).await });
    }
    // Dual stack: IPv4 clients come as mapped addresses.
    let everywhere = vec![Ipv6Addr::UNSPECIFIED.into()];
    let pattern = Rc::new(Pattern::new());
    let resets: Rc<[IpAddr]> = server.resets.into();
    for address in if server.tcp.is_empty() { everywhere } else { server.tcp } {
        let address = SocketAddr::new(address, server.port);
        let listener = TcpListener::bind(address).await.tried(|| format!("TCP on {address}"))?;
        let (name, pattern, resets) = (Rc::clone(&name), Rc::clone(&pattern), Rc::clone(&resets));
        local.spawn_local(accept(listener, name, pattern, resets));
    }
    local.await;
    Ok(())
}

async fn accept(listener: TcpListener, name: Rc<str>, pattern: Rc<Pattern>, resets: Rc<[IpAddr]>) {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            let to = stream.local_addr().map(|to| to.ip().to_canonical());
            if to.is_ok_and(|to| resets.contains(&to)) {
                drop(stream.set_zero_linger());
                continue;
            }
            let (name, pattern) = (Rc::clone(&name), Rc::clone(&pattern));
            // A client that goes away is no matter of ours.
            tokio::task::spawn_local(async move { drop(connection(&name, &pattern, stream).await) });
        } else {
            // Out of descriptors: others must close first.
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}

/// Answers each datagram with the server's name, a space and the datagram.
async fn echo_datagrams(name: &str, socket: &UdpSocket) {
    let mut datagram = vec![0_u8; 65_536];
    loop {
        if let Ok((length, from)) = socket.recv_from(&mut datagram).await {
            let mut answer = format!("{name} ").into_bytes();
            answer.extend_from_slice(&datagram[..length]);
            drop(socket.send_to(&answer, from).await);
        }
    }
}

async fn connection(name: &str, pattern: &Pattern, stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::with_capacity(CHUNK_BYTES, stream);
    let mut order = String::new();
    (&mut stream).take(64).read_line(&mut order).await?;
    let (word, bytes) = order.trim_end().split_once(' ').unwrap_or((order.trim_end(), "0"));
    let bytes: u64 = bytes.parse().unwrap_or(0);
    stream.write_all(format!("{name}\n").as_bytes()).await?;
    match word {
        "ECHO" => {
            let mut chunk = vec![0_u8; CHUNK_BYTES];
            loop {
                let read = stream.read(&mut chunk).await?;
                if read == 0 {
                    return Ok(());
                }
                stream.write_all(&chunk[..read]).await?;
            }
        }
        "LINES" => {
            let mut line = Vec::new();
            loop {
                line.clear();
                line.extend_from_slice(name.as_bytes());
                line.push(b' ');
                if (&mut stream).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await? == 0 {
                    return Ok(());
                }
                stream.write_all(&line).await?;
            }
        }
        "DOWN" => {
            let mut at = 0_u64;
            while at < bytes {
                let most = usize::try_from(bytes - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
                stream.write_all(pattern.at(at, most)).await?;
                at += most as u64;
            }
            stream.shutdown().await
        }
        "UP" => {
            let mut chunk = vec![0_u8; CHUNK_BYTES];
            let mut at = 0_u64;
            let mut pauses = Pauses::start();
            while at < bytes {
                let read = stream.read(&mut chunk).await?;
                if read == 0 || chunk[..read] != *pattern.at(at, read) {
                    break;
                }
                at += read as u64;
                pauses.step();
            }
            stream.write_all(format!("{at} {}\n", pauses.longest_ms()).as_bytes()).await?;
            stream.shutdown().await
        }
        _ => Ok(()),
    }
}
