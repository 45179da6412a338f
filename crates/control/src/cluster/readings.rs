//! Configurations of this machine's own text with the cluster's services, which are read on another thread: thousands of services take
//! long to parse and to check, and the tokens of their agents are files.

use super::text;
use model::Loaded;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Configurations that are remembered: of the services in force, of those of the leader's document, and of a wish.
const KNOWN_MAX: usize = 3;

/// What a configuration is read from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ReadingSources {
    own: String,
    services: String,
    /// Of what files that a configuration names held.
    version: u64,
}

/// A configuration that was read.
#[derive(Debug)]
pub(crate) struct Reading {
    sources: ReadingSources,
    /// The configuration, or why these services do not fit this machine.
    pub(crate) loaded: Result<Loaded, String>,
    /// The tokens of its agents by service, or which cannot be read.
    pub(crate) tokens: Result<HashMap<String, Vec<u8>>, String>,
}

impl ReadingSources {
    /// Reads the configuration. `tokens_of` reads the files that hold the tokens of its agents. O(length).
    pub(crate) fn read(
        self,
        tokens_of: impl FnOnce(&Loaded) -> Result<HashMap<String, Vec<u8>>, String>,
    ) -> Arc<Reading> {
        let loaded = text::with_services(&self.own, &self.services);
        let tokens = loaded.as_ref().map_or_else(|_| Ok(HashMap::new()), tokens_of);
        Arc::new(Reading { sources: self, loaded, tokens })
    }
}

/// The configurations that were read last.
#[derive(Debug, Default)]
pub(crate) struct Readings {
    known: VecDeque<Arc<Reading>>,
    /// Nothing is read here.
    is_elsewhere: bool,
    /// To be read elsewhere.
    missing: Vec<ReadingSources>,
    version: u64,
}

impl Readings {
    /// From now on another thread reads.
    pub(crate) fn read_elsewhere(&mut self) {
        self.is_elsewhere = true;
    }

    /// What is missing now is what is asked for from now on.
    pub(crate) fn next_round(&mut self) {
        self.missing.clear();
    }

    /// Files that configurations name may hold something else now.
    pub(crate) fn forget(&mut self) {
        self.version += 1;
        self.known.clear();
    }

    /// A machine's own text with these services; `None`: it is not there yet, and is [missing](Self::take_missing). O(length).
    pub(crate) fn get(&mut self, own: &str, services: &str) -> Option<Arc<Reading>> {
        let is_it = |of: &ReadingSources| of.services == services && of.own == own;
        if let Some(at) = self.known.iter().position(|of| is_it(&of.sources)) {
            let found = self.known.remove(at)?;
            self.known.push_front(Arc::clone(&found));
            return Some(found);
        }
        let asked = || {
            let (own, services) = (own.to_owned(), services.to_owned());
            ReadingSources { own, services, version: self.version }
        };
        if self.is_elsewhere {
            if !self.missing.iter().any(is_it) {
                self.missing.push(asked());
            }
            return None;
        }
        // Whoever reads here has no agents.
        let read = asked().read(|_| Ok(HashMap::new()));
        self.put(Arc::clone(&read));
        Some(read)
    }

    /// What was asked for in this round and is not there.
    pub(crate) fn take_missing(&mut self) -> Vec<ReadingSources> {
        std::mem::take(&mut self.missing)
    }

    /// Takes what was read elsewhere.
    pub(crate) fn put(&mut self, reading: Arc<Reading>) {
        if reading.sources.version == self.version {
            self.known.push_front(reading);
            self.known.truncate(KNOWN_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "[machine]\nname = \"lb1\"\naddress = \"10.0.2.11\"\nnext_hop_mac = \"02:00:00:00:00:01\"\n\
        cluster_key = \"7d0c3a9be1d24776a8b9c0d1e2f30415\"\n[[port]]\nname = \"data0\"\ndevice = \"net_null0\"\n";

    fn readings() -> Readings {
        let mut readings = Readings::default();
        readings.read_elsewhere();
        readings
    }

    fn read(readings: &mut Readings) {
        for sources in readings.take_missing() {
            readings.put(sources.read(|_| Ok(HashMap::new())));
        }
    }

    #[test]
    fn what_is_missing_is_named_once_and_taken_when_it_is_there() {
        let mut readings = readings();
        assert!(readings.get(OWN, "").is_none());
        assert!(readings.get(OWN, "").is_none());
        assert_eq!(readings.missing.len(), 1);
        read(&mut readings);
        let first = readings.get(OWN, "").expect("it was read");
        assert!(first.loaded.is_ok() && readings.missing.is_empty());
        assert!(readings.get("x = ", "").is_none());
        read(&mut readings);
        assert!(readings.get("x = ", "").expect("it was read").loaded.is_err());
        // Those that were used last stay.
        for services in ["a = 1", "b = 1", "c = 1", "d = 1"] {
            assert!(readings.get(OWN, services).is_none());
            read(&mut readings);
            assert!(Arc::ptr_eq(&readings.get(OWN, "").expect("it is in use"), &first));
        }
        assert!(readings.get(OWN, "a = 1").is_none());
        assert_eq!(readings.known.len(), KNOWN_MAX);
    }

    #[test]
    fn what_was_read_of_older_files_is_read_again() {
        let mut readings = readings();
        assert!(readings.get(OWN, "").is_none());
        readings.forget();
        read(&mut readings);
        readings.next_round();
        assert!(readings.get(OWN, "").is_none(), "it was under way");
        read(&mut readings);
        assert!(readings.get(OWN, "").is_some());
        readings.forget();
        assert!(readings.get(OWN, "").is_none());
    }
}
