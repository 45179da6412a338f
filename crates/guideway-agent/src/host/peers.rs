//! Which machines are connected to, and when the next attempt is made.
//!
//! Seeds are always wanted; further machines are those that machines in session name. A machine that is reached at two
//! addresses is connected to once. While nobody is in session, nothing that was learned is forgotten.

use super::Link;
use crate::config::MACHINES_MAX;
use crate::random::Random;
use model::agent::MachineContact;
use std::collections::{BTreeMap, BTreeSet};

/// Longest wait before the first attempt after a failure, milliseconds. Each further failure doubles it.
const WAIT_FIRST_MS: u64 = 100;
/// Longest wait, milliseconds.
const WAIT_MAX_MS: u64 = 5000;
/// A session that lasted so long lets the waits begin anew, milliseconds.
const LASTING_MS: u64 = 5000;

/// One address of a machine.
#[derive(Debug, Default)]
pub(super) struct Peer {
    seed: bool,
    /// The connection, from the attempt on.
    pub(super) link: Option<Link>,
    /// The machine's name, as it last told.
    pub(super) machine: Option<String>,
    /// Since when it is in session.
    welcomed_ms: Option<u64>,
    /// Whom it named last in this session.
    listed: Vec<MachineContact>,
    failures: u32,
    retry_ms: u64,
    /// Why there is no session.
    pub(super) problem: Option<String>,
}

/// All of them, by `host:port`.
#[derive(Debug, Default)]
pub(super) struct Peers {
    all: BTreeMap<String, Peer>,
    /// Name of the machine that leads, as the last list said.
    leader: Option<String>,
}

impl Peers {
    /// Replaces the seeds. Gives back links that are not wanted any more.
    pub(super) fn set_seeds(&mut self, seeds: &[String]) -> Vec<Link> {
        for (address, peer) in &mut self.all {
            peer.seed = seeds.contains(address);
        }
        for seed in seeds {
            self.all.entry(seed.clone()).or_default().seed = true;
        }
        self.settle()
    }

    /// All, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Peer)> {
        self.all.iter()
    }

    /// Whether the machine `name` leads.
    pub(super) fn leads(&self, name: &str) -> bool {
        self.leader.as_deref() == Some(name)
    }

    /// Whether another address than `peer` is in session with the machine `name`.
    fn is_elsewhere(&self, peer: &str, name: &str) -> bool {
        self.all.iter().any(|(address, other)| {
            address != peer && other.welcomed_ms.is_some() && other.machine.as_deref() == Some(name)
        })
    }

    fn wants_dialing(&self, address: &str, peer: &Peer) -> bool {
        peer.link.is_none() && peer.machine.as_deref().is_none_or(|name| !self.is_elsewhere(address, name))
    }

    /// Addresses to connect to now.
    pub(super) fn due(&self, now_ms: u64) -> Vec<String> {
        self.all
            .iter()
            .filter(|(address, peer)| peer.retry_ms <= now_ms && self.wants_dialing(address, peer))
            .map(|(address, _)| address.clone())
            .collect()
    }

    /// When the next attempt is due.
    pub(super) fn deadline_ms(&self) -> Option<u64> {
        self.all
            .iter()
            .filter(|(address, peer)| self.wants_dialing(address, peer))
            .map(|(_, peer)| peer.retry_ms)
            .min()
    }

    /// A connection is being made.
    pub(super) fn dialed(&mut self, address: &str, link: Link) {
        if let Some(peer) = self.all.get_mut(address) {
            peer.link = Some(link);
        }
    }

    /// A machine told its name.
    ///
    /// # Errors
    /// There is a session with it already.
    pub(super) fn greeted(&mut self, address: &str, machine: &str) -> Result<(), String> {
        let elsewhere = self.is_elsewhere(address, machine);
        if let Some(peer) = self.all.get_mut(address) {
            peer.machine = Some(machine.to_owned());
        }
        if elsewhere { Err(format!("machine {machine} is connected by another address")) } else { Ok(()) }
    }

    /// It is in session.
    pub(super) fn welcomed(
        &mut self,
        address: &str,
        machines: Vec<MachineContact>,
        now_ms: u64,
    ) -> Vec<Link> {
        if let Some(peer) = self.all.get_mut(address) {
            peer.welcomed_ms = Some(now_ms);
            peer.problem = None;
        }
        self.listed(address, machines)
    }

    /// It names the machines. Gives back links that are not wanted any more.
    pub(super) fn listed(&mut self, address: &str, machines: Vec<MachineContact>) -> Vec<Link> {
        self.leader = machines.iter().find(|machine| machine.leads).map(|machine| machine.name.clone());
        if let Some(peer) = self.all.get_mut(address) {
            peer.listed = machines;
        }
        self.settle()
    }

    /// A connection ended, or none came about. Gives back links that are not wanted any more.
    pub(super) fn closed(
        &mut self,
        address: &str,
        problem: String,
        now_ms: u64,
        random: &mut Random,
    ) -> Vec<Link> {
        let Some(peer) = self.all.get_mut(address) else { return Vec::new() };
        peer.link = None;
        peer.listed.clear();
        if peer.welcomed_ms.take().is_some_and(|since| now_ms.saturating_sub(since) >= LASTING_MS) {
            peer.failures = 0;
        }
        let longest = WAIT_FIRST_MS.checked_shl(peer.failures).unwrap_or(WAIT_MAX_MS).min(WAIT_MAX_MS);
        peer.retry_ms = now_ms + random.up_to(longest);
        peer.failures = peer.failures.saturating_add(1).min(16);
        peer.problem = Some(problem);
        self.settle()
    }

    /// Connections that are closed for reasons of this side begin anew at once.
    pub(super) fn reset(&mut self, now_ms: u64) {
        for peer in self.all.values_mut() {
            peer.failures = 0;
            peer.retry_ms = now_ms;
        }
    }

    fn settle(&mut self) -> Vec<Link> {
        let listed: Vec<&MachineContact> =
            self.all.values().filter(|peer| peer.welcomed_ms.is_some()).flat_map(|p| &p.listed).collect();
        let in_session = self.all.values().any(|peer| peer.welcomed_ms.is_some());
        let mut wanted: BTreeSet<String> = listed
            .into_iter()
            .map(|machine| (machine.address.to_string(), machine))
            .filter(|(address, machine)| {
                let known = self.all.get(address).is_some_and(|peer| peer.welcomed_ms.is_some());
                known || !self.is_elsewhere(address, &machine.name)
            })
            .map(|(address, _)| address)
            .collect();
        wanted.extend(self.all.iter().filter(|(_, peer)| peer.seed).map(|(address, _)| address.clone()));
        let mut unwanted = Vec::new();
        if in_session {
            self.all.retain(|address, peer| {
                // A machine that names itself by another address is there all the same.
                let names_itself = peer.welcomed_ms.is_some()
                    && peer.listed.iter().any(|of| peer.machine.as_ref() == Some(&of.name));
                if names_itself || wanted.contains(address) {
                    return true;
                }
                unwanted.extend(peer.link);
                false
            });
        }
        for address in wanted {
            if self.all.len() < MACHINES_MAX || self.all.contains_key(&address) {
                self.all.entry(address).or_default();
            } else {
                tracing::warn!(address, "machine not connected to: {MACHINES_MAX} are the most");
            }
        }
        unwanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(name: &str, address: &str, leads: bool) -> MachineContact {
        MachineContact { name: name.to_owned(), address: address.parse().unwrap(), leads }
    }

    fn seeded(seeds: &[&str]) -> Peers {
        let mut peers = Peers::default();
        peers.set_seeds(&seeds.iter().map(|seed| (*seed).to_owned()).collect::<Vec<_>>());
        peers
    }

    const A: &str = "10.9.0.1:7481";
    const B: &str = "10.9.0.2:7481";

    #[test]
    fn machines_are_learned_from_one_and_forgotten_with_its_list() {
        let mut peers = seeded(&[A]);
        assert_eq!(peers.due(0), [A]);
        peers.dialed(A, Link(1));
        assert!(peers.due(0).is_empty());
        peers.greeted(A, "a").unwrap();
        let list = vec![machine("a", A, true), machine("b", B, false)];
        assert!(peers.welcomed(A, list, 0).is_empty());
        assert_eq!(peers.due(0), [B]);
        assert!(peers.leads("a") && !peers.leads("b"));
        peers.dialed(B, Link(2));
        assert_eq!(peers.listed(A, vec![machine("a", A, true)]), [Link(2)], "b has left");
        assert!(peers.due(0).is_empty());
    }

    #[test]
    fn nothing_is_forgotten_while_nobody_is_in_session() {
        let (mut peers, mut random) = (seeded(&[A]), Random::new(1));
        peers.dialed(A, Link(1));
        peers.greeted(A, "a").unwrap();
        peers.welcomed(A, vec![machine("a", A, true), machine("b", B, false)], 0);
        peers.closed(A, "cut".to_owned(), 10, &mut random);
        assert_eq!(peers.due(10_000), [A, B]);
        // The one that was learned comes first, and does not know the seed: the seed stays.
        peers.dialed(B, Link(2));
        peers.greeted(B, "b").unwrap();
        peers.welcomed(B, vec![machine("b", B, true)], 10_000);
        assert_eq!(peers.due(20_000), [A]);
    }

    #[test]
    fn one_machine_at_two_addresses_is_connected_to_once() {
        let (mut peers, mut random) = (seeded(&["lb:7481"]), Random::new(1));
        peers.dialed("lb:7481", Link(1));
        peers.greeted("lb:7481", "a").unwrap();
        peers.welcomed("lb:7481", vec![machine("a", A, true)], 0);
        assert!(peers.due(0).is_empty(), "it is the one that is connected");
        let mut peers = seeded(&["lb:7481", A]);
        peers.dialed("lb:7481", Link(1));
        peers.dialed(A, Link(2));
        peers.greeted("lb:7481", "a").unwrap();
        peers.welcomed("lb:7481", vec![], 0);
        assert!(peers.greeted(A, "a").is_err());
        peers.closed(A, "twice".to_owned(), 0, &mut random);
        assert!(peers.due(100_000).is_empty(), "not while the other lives");
        assert_eq!(peers.deadline_ms(), None);
        peers.closed("lb:7481", "cut".to_owned(), 100_000, &mut random);
        assert_eq!(peers.due(200_000).len(), 2);
    }

    #[test]
    fn waits_grow_with_failures_and_begin_anew_after_a_session_that_lasted() {
        let (mut peers, mut random) = (seeded(&[A]), Random::new(7));
        let mut longest = Vec::new();
        for round in 0..8_u32 {
            let mut most = 0;
            for _ in 0..200 {
                let mut now = seeded(&[A]);
                for _ in 0..=round {
                    now.closed(A, String::new(), 0, &mut random);
                }
                most = most.max(now.deadline_ms().unwrap());
            }
            longest.push(most);
        }
        for (got, limit) in longest.iter().zip([100, 200, 400, 800, 1600, 3200, 5000, 5000]) {
            assert!(*got <= limit && *got > limit * 8 / 10, "{longest:?}");
        }
        for _ in 0..10 {
            peers.closed(A, String::new(), 0, &mut random);
        }
        peers.welcomed(A, vec![], 0);
        peers.closed(A, String::new(), 4999, &mut random);
        let flapping = peers.all.get(A).unwrap().failures;
        assert!(flapping > 10, "a short session changes nothing: {flapping}");
        peers.welcomed(A, vec![], 5000);
        peers.closed(A, String::new(), 10_000, &mut random);
        assert!(peers.deadline_ms().unwrap() <= 10_100);
    }

    #[test]
    fn a_long_list_is_bounded() {
        let mut peers = seeded(&[A]);
        let list = (0..200).map(|i| machine(&format!("m{i}"), &format!("10.9.1.{i}:7481"), false)).collect();
        peers.dialed(A, Link(1));
        peers.welcomed(A, list, 0);
        assert_eq!(peers.all.len(), MACHINES_MAX);
    }
}
