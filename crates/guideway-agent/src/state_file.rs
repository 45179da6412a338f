//! What survives a restart: backends that came over the socket, and the incarnations of those in the file, so that a restart of the
//! agent does not make servers that lived on look like new ones. After a reboot of the host they are new.

use crate::backend::RegisteredBackend;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;

/// Longest file that is read, bytes.
const TEXT_MAX: u64 = 4 << 20;
const VERSION: u32 = 1;

/// The file.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct State {
    version: u32,
    /// The kernel's, of the boot in which it was written.
    boot: String,
    /// The agent's last incarnation.
    pub(crate) incarnation: u64,
    /// Incarnations of the backends in the agent's file.
    pub(crate) file: Vec<Life>,
    /// Backends that came over the socket.
    pub(crate) socket: Vec<RegisteredBackend>,
}

/// Which life of a backend it was.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Life {
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    pub(crate) incarnation: u64,
}

impl State {
    /// What is kept of these registrations.
    pub(crate) fn new(incarnation: u64, file: Vec<Life>, socket: Vec<RegisteredBackend>) -> State {
        State { version: VERSION, boot: boot(), incarnation, file, socket }
    }

    /// The incarnation of a backend of the agent's file.
    pub(crate) fn life(&self, service: &str, name: &str, address: IpAddr) -> Option<u64> {
        self.file
            .iter()
            .find(|life| life.service == service && life.name == name && life.address == address)
            .map(|life| life.incarnation)
    }

    /// As it counts in the boot `now`: after a reboot every server is new.
    fn in_boot(mut self, now: &str, unix_ms: u64) -> State {
        if self.boot != now {
            self.file.clear();
            for registration in &mut self.socket {
                registration.incarnation = unix_ms.max(registration.incarnation.saturating_add(1));
            }
            now.clone_into(&mut self.boot);
        }
        self
    }

    /// Reads it; a file that is not there is an empty one.
    ///
    /// # Errors
    /// It cannot be read, or is not ours.
    pub(crate) fn read(path: &Path, unix_ms: u64) -> Result<State, String> {
        let problem = |problem: String| format!("{}: {problem}", path.display());
        let length = match std::fs::metadata(path) {
            Ok(file) => file.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(State::new(0, Vec::new(), Vec::new()));
            }
            Err(error) => return Err(problem(error.to_string())),
        };
        if length > TEXT_MAX {
            return Err(problem(format!("it has {length} bytes; at most {TEXT_MAX} are read")));
        }
        let text = std::fs::read(path).map_err(|e| problem(e.to_string()))?;
        let state: State = serde_json::from_slice(&text).map_err(|e| problem(e.to_string()))?;
        if state.version != VERSION {
            return Err(problem(format!("version {}; this agent reads {VERSION}", state.version)));
        }
        Ok(state.in_boot(&boot(), unix_ms))
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<(), String> {
        let problem = |e: std::io::Error| format!("{}: {e}", path.display());
        let text = serde_json::to_vec(self).map_err(|e| e.to_string())?;
        let draft = path.with_extension("new");
        let mut file = std::fs::File::create(&draft).map_err(problem)?;
        file.write_all(&text).map_err(problem)?;
        file.sync_all().map_err(problem)?;
        std::fs::rename(&draft, path).map_err(problem)
    }
}

fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;

    fn state() -> State {
        let address: IpAddr = "10.1.0.5".parse().unwrap();
        let backend = Backend {
            service: "web".to_owned(),
            name: "web-2".to_owned(),
            address,
            weight: 3,
            port: Some(8080),
            capacity: None,
            load_file: None,
        };
        let life = Life { service: "web".to_owned(), name: "web-1".to_owned(), address, incarnation: 7 };
        State::new(99, vec![life], vec![RegisteredBackend { backend, incarnation: 8 }])
    }

    #[test]
    fn what_is_written_is_read() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("registrations.json");
        let none = State::read(&path, 1000).unwrap();
        assert!(none.file.is_empty() && none.socket.is_empty());
        state().write(&path).unwrap();
        let read = State::read(&path, 1000).unwrap();
        assert_eq!(read, state());
        assert_eq!(read.life("web", "web-1", "10.1.0.5".parse().unwrap()), Some(7));
        assert_eq!(read.life("web", "web-1", "10.1.0.6".parse().unwrap()), None);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn after_a_reboot_every_server_is_new() {
        let later = state().in_boot("another", 1000);
        assert!(later.file.is_empty());
        assert_eq!(later.socket[0].incarnation, 1000);
        assert_eq!(state().in_boot("another", 3).socket[0].incarnation, 9, "the clock went back");
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("registrations.json");
        for text in
            ["", "{}", "[1]", "{\"version\":2,\"boot\":\"\",\"incarnation\":0,\"file\":[],\"socket\":[]}"]
        {
            std::fs::write(&path, text).unwrap();
            let error = State::read(&path, 1).unwrap_err();
            assert!(error.starts_with(&path.display().to_string()), "{error}");
        }
    }
}
