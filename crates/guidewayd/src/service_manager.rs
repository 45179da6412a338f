//! What systemd is told (`Type=notify`, sd_notify(3)). Without it, nothing happens.
//!
//! Rule of this module: nobody waits for the service manager. A message that finds its socket full is lost and counted; the
//! last word on the daemon's state is said again until it is taken.

use control::Notice;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The way to the service manager.
pub(crate) struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// It ends us unless it hears from us.
    has_watchdog: bool,
    /// What is still to be said of our state.
    unsaid: Option<String>,
    lost: Arc<AtomicU64>,
}

impl ServiceManager {
    /// As the environment says.
    pub(crate) fn from_environment() -> ServiceManager {
        let name = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        // Another process's watchdog is none of ours.
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let has_watchdog = is_ours && number("WATCHDOG_USEC").is_some_and(|period| period > 0);
        match name.as_ref().map(|name| open(name.as_bytes())).transpose() {
            Ok(socket) => ServiceManager::new(socket, has_watchdog),
            Err(error) => {
                tracing::warn!(socket = ?name.unwrap_or_default(), "cannot speak to the service manager: \
                                                            {error}");
                ServiceManager::new(None, false)
            }
        }
    }

    fn new(socket: Option<(UnixDatagram, SocketAddr)>, has_watchdog: bool) -> ServiceManager {
        ServiceManager { socket, has_watchdog, unsaid: None, lost: Arc::default() }
    }

    /// Messages that were not taken.
    pub(crate) fn lost(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.lost)
    }

    /// Passes a notice on. The watchdog is fed by the workers' turns: control tells `Alive` only when all of them moved.
    pub(crate) fn tell(&mut self, notice: Notice) {
        match notice {
            Notice::Started => {
                tracing::info!("serving");
                self.unsaid = Some("READY=1\nSTATUS=serving".to_owned());
            }
            Notice::Alive => {}
            Notice::Reloading => {
                tracing::info!("reading the configuration again");
                self.unsaid = Some(format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_us()));
            }
            Notice::Reloaded => self.unsaid = Some("READY=1".to_owned()),
            Notice::Stopping => {
                tracing::info!("stopping: no longer ready, announcements withdrawn");
                self.unsaid = Some("STOPPING=1\nSTATUS=draining".to_owned());
            }
        }
        if let Some(message) = self.unsaid.take()
            && !self.send(&message)
        {
            self.unsaid = Some(message);
        }
        if notice == Notice::Alive && self.has_watchdog {
            self.send("WATCHDOG=1");
        }
    }

    /// Whether it was taken, or nobody is there to take it.
    fn send(&self, message: &str) -> bool {
        let Some((socket, address)) = &self.socket else { return true };
        match socket.send_to_addr(message.as_bytes(), address) {
            Ok(_) => true,
            Err(error) => {
                self.lost.fetch_add(1, Relaxed);
                tracing::debug!("the service manager does not take {message:?}: {error}");
                false
            }
        }
    }
}

/// A path, or `@name` for a name without a file.
fn open(name: &[u8]) -> std::io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

fn monotonic_us() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn message(socket: &UnixDatagram) -> Option<String> {
        socket.set_nonblocking(true).unwrap();
        let mut bytes = [0; 256];
        let length = socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..length].to_vec()).unwrap())
    }

    #[test]
    fn nobody_waits_for_one_that_does_not_read_and_the_last_word_is_said_again() {
        let name = format!("guideway-test-{}", std::process::id());
        let reader = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let socket = open(format!("@{name}").as_bytes()).unwrap();
        let mut manager = ServiceManager::new(Some(socket), true);
        let begun = Instant::now();
        manager.tell(Notice::Started);
        for _ in 0..1000 {
            manager.tell(Notice::Alive);
        }
        manager.tell(Notice::Reloading);
        manager.tell(Notice::Reloaded);
        assert!(begun.elapsed() < Duration::from_secs(2));
        let lost = manager.lost().load(Relaxed);
        assert!((900..=1002).contains(&lost), "{lost}");
        assert_eq!(message(&reader).as_deref(), Some("READY=1\nSTATUS=serving"));
        while let Some(message) = message(&reader) {
            assert_eq!(message, "WATCHDOG=1");
        }
        // What came of the reload was not taken, and is what is said first.
        manager.tell(Notice::Alive);
        assert_eq!(message(&reader).as_deref(), Some("READY=1"));
        assert_eq!(message(&reader).as_deref(), Some("WATCHDOG=1"));
        assert_eq!(message(&reader), None);
    }

    #[test]
    fn without_a_watchdog_it_is_not_fed() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("notify");
        let reader = UnixDatagram::bind(&path).unwrap();
        let mut manager = ServiceManager::new(Some(open(path.as_os_str().as_bytes()).unwrap()), false);
        manager.tell(Notice::Alive);
        manager.tell(Notice::Stopping);
        assert_eq!(message(&reader).as_deref(), Some("STOPPING=1\nSTATUS=draining"));
        assert_eq!(message(&reader), None);
        // Nobody listens any more.
        drop(reader);
        manager.tell(Notice::Alive);
        manager.tell(Notice::Stopping);
        assert_eq!(manager.lost().load(Relaxed), 1);
    }
}
