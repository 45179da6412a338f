//! Binding of every listener, before anything else is touched: what cannot be reached should not start.
#![expect(
    clippy::disallowed_methods,
    reason = "at the start, before anybody is served, and at the end of the program"
)]

use crate::claims;
use crate::run_error::RunError;
use model::Config;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Connections that wait in the kernel's queue of a TCP listener: all agents come back at once when a machine does, and a SYN that finds
/// the queue full is sent again a second later.
const BACKLOG: i32 = 4096;
/// Whose members may use the unix socket.
const GROUP: &str = "guideway";
/// End of the name that the unix socket is bound by, before it is renamed into its place.
const BESIDE: &str = ".new";

/// Bound listeners of a configuration; connections wait in the kernel until they are served.
#[derive(Debug)]
pub struct Listeners {
    pub(crate) unix: (UnixListener, Socket),
    /// `api.listen`
    pub(crate) api: Option<TcpListener>,
    /// `metrics.listen`
    pub(crate) metrics: Option<TcpListener>,
    /// `agents.listen`
    pub(crate) agents: Option<TcpListener>,
}

impl Listeners {
    /// Binds all of them.
    ///
    /// # Errors
    /// [`RunError::SocketInUse`], [`RunError::Socket`], [`RunError::Listen`].
    pub fn bind(config: &Config) -> Result<Listeners, RunError> {
        Ok(Listeners {
            api: config.api.listen.map(bind_tcp).transpose()?,
            metrics: config.metrics.listen.map(bind_tcp).transpose()?,
            agents: config.agents.as_ref().map(|agents| bind_tcp(agents.listen)).transpose()?,
            unix: bind_unix(&config.api.socket)?,
        })
    }
}

/// A bound unix socket; the file goes when this is dropped, if it is still ours.
#[derive(Debug)]
pub(crate) struct Socket {
    path: PathBuf,
    inode: u64,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds the unix socket: mode 0660, group `guideway` where it exists.
///
/// It is made beside its place and renamed into it, so that it never stands there with other rights, and replaces
/// one left by a killed process.
fn bind_unix(path: &Path) -> Result<(UnixListener, Socket), RunError> {
    let failed = |source: io::Error| RunError::Socket { path: path.to_owned(), source };
    let mut beside = path.as_os_str().to_owned();
    beside.push(BESIDE);
    let beside = PathBuf::from(beside);
    if is_in_use(path).map_err(failed)? {
        let names = [path, &beside].map(|path| path.display().to_string());
        let holder = claims::owner_of(&names.each_ref().map(String::as_str));
        let holder = holder.unwrap_or_else(|| "another guidewayd".to_owned());
        return Err(RunError::SocketInUse { path: path.to_owned(), holder });
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    match fs::remove_file(&beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let listener = UnixListener::bind(&beside).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    if let Some(group) = group_id(GROUP) {
        // Without the right to, the socket stays with our own group.
        let _ = std::os::unix::fs::chown(&beside, None, Some(group));
    }
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o660)).map_err(failed)?;
    fs::rename(&beside, path).map_err(failed)?;
    let inode = fs::symlink_metadata(path).map_err(failed)?.ino();
    Ok((listener, Socket { path: path.to_owned(), inode }))
}

/// Whether somebody takes connections there, or would if he were not busy. Does not wait for him.
fn is_in_use(path: &Path) -> io::Result<bool> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok(matches!(rustix::net::connect(&socket, &address), Ok(()) | Err(rustix::io::Errno::AGAIN)))
}

fn group_id(name: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    })
}

fn bind_tcp(address: SocketAddr) -> Result<TcpListener, RunError> {
    let bind = || {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    bind().map_err(|source| RunError::Listen { address, source })
}

#[cfg(test)]
mod tests;
