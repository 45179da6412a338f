//! Connections from a chosen source address.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

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
