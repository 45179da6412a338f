//! Connections from a chosen source address.

use super::hold::How;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};

/// Connects from `source` (any free port) to `target`. The error is in words.
pub(super) async fn connect(
    source: IpAddr,
    target: SocketAddr,
    limit: Duration,
) -> Result<TcpStream, String> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(|error| format!("socket: {error}"))?;
    socket.bind(SocketAddr::new(source, 0)).map_err(|error| format!("bind to {source}: {error}"))?;
    match timeout(limit, socket.connect(target)).await {
        Ok(Ok(stream)) => {
            stream.set_nodelay(true).map_err(|error| format!("nodelay: {error}"))?;
            Ok(stream)
        }
        Ok(Err(error)) => Err(format!("connect: {error}")),
        Err(_) => Err("connect: timeout".into()),
    }
}

/// Time after which a datagram without an answer is sent again.
const AGAIN: Duration = Duration::from_millis(200);

/// A socket from `source` that speaks with `target` only.
pub(super) async fn udp(source: SocketAddr, target: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind(source).await?;
    socket.connect(target).await?;
    Ok(socket)
}

/// Sends a line as a datagram, again until an answer ends with it, and returns the answer.
pub(super) async fn ask(socket: &UdpSocket, line: &str, limit: Duration) -> Result<String, (How, String)> {
    let end = Instant::now() + limit;
    let mut bytes = [0_u8; 512];
    while Instant::now() < end {
        socket.send(line.as_bytes()).await.map_err(|error| (How::Otherwise, format!("{line}: {error}")))?;
        let again = (Instant::now() + AGAIN).min(end);
        while let Ok(received) = timeout_at(again, socket.recv(&mut bytes)).await {
            let length = received.map_err(|error| (How::Otherwise, format!("{line}: {error}")))?;
            let back = String::from_utf8_lossy(&bytes[..length]);
            // Answers to what was sent twice may come late.
            if back.ends_with(line) {
                return Ok(back.into_owned());
            }
        }
    }
    Err((How::Timeout, format!("{line}: nothing in {} ms", limit.as_millis())))
}
