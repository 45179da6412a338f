//! The server behind all load but HTTP. A connection begins with one line from the client: `ECHO`, `LINES`, `DOWN <bytes>`
//! or `UP <bytes>`; the server says its name and does it. To `LINES` each line is answered with the name and the line.

use super::bulk::{CHUNK_BYTES, Pattern, Pauses};
use crate::command::{Result, Tried};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// Longest line of a client; a longer one counts as several.
const LINE_BYTES_MAX: u64 = 1024;

pub(super) async fn run(name: String, port: u16, udp: Vec<IpAddr>) -> Result<()> {
    let name: Rc<str> = name.into();
    let pattern = Rc::new(Pattern::new());
    let local = tokio::task::LocalSet::new();
    for address in udp {
        let address = SocketAddr::new(address, port);
        let socket = UdpSocket::bind(address).await.tried(|| format!("UDP on {address}"))?;
        let name = Rc::clone(&name);
        local.spawn_local(async move { echo_datagrams(&name, &socket).await });
    }
    // Dual stack: IPv4 clients come as mapped addresses.
    let address = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    let listener = TcpListener::bind(address).await.tried(|| format!("TCP on {address}"))?;
    local
        .run_until(async move {
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    let (name, pattern) = (Rc::clone(&name), Rc::clone(&pattern));
                    // A client that goes away is no matter of ours.
                    tokio::task::spawn_local(async move { drop(connection(&name, &pattern, stream).await) });
                } else {
                    // Out of descriptors: others must close first.
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
            }
        })
        .await
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
