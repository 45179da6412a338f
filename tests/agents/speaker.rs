//! An agent made of nothing but messages: it says what it is told to, also what no agent would say.

use guideway_lab::Namespace;
use model::agent::seal::{Opener, Sealer, SessionKeys, Share};
use model::agent::{AddressDigest, BackendReport, Claim, Proof, ToAgent, ToMachine, digest};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Who a speaker claims to be.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    pub(crate) agent: String,
    pub(crate) incarnation: u64,
    pub(crate) addresses: Vec<IpAddr>,
    /// Services, and what it takes for their tokens.
    pub(crate) services: Vec<(String, String)>,
}

/// A connection to a machine.
pub(crate) struct Speaker {
    pub(crate) stream: TcpStream,
    heard: Vec<u8>,
    machine: String,
    nonce: String,
    /// What the hello's tokens give for the session's keys.
    shares: BTreeMap<String, Share>,
    pub(crate) sealer: Sealer,
    opener: Opener,
    heartbeats: u64,
    reports: u64,
    said: Vec<BackendReport>,
}

/// The nonce of every hello here.
const NONCE: &str = "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a";

/// What came of listening.
#[derive(Clone, PartialEq, Debug)]
#[allow(clippy::large_enum_variant, reason = "one at a time")]
pub(crate) enum Heard {
    Message(ToAgent),
    /// The machine closed the connection, or reset it.
    Closed,
    Nothing,
}

impl Speaker {
    /// Connects from a namespace, and waits for the challenge.
    pub(crate) fn connect(namespace: &Namespace, to: &str) -> Speaker {
        let mut speaker = Speaker::mute(namespace, to);
        match speaker.hear(Duration::from_secs(3)) {
            Heard::Message(ToAgent::Challenge { machine, nonce, versions }) => {
                assert!(versions.contains(&model::agent::VERSION), "{versions:?}");
                assert!(nonce.len() == 64, "{nonce}");
                (speaker.machine, speaker.nonce) = (machine, nonce);
            }
            other => panic!("instead of a challenge: {other:?}"),
        }
        speaker
    }

    /// Connects and waits for nothing.
    pub(crate) fn mute(namespace: &Namespace, to: &str) -> Speaker {
        let to: SocketAddr = to.parse().unwrap();
        let stream =
            namespace.inside(|| TcpStream::connect_timeout(&to, Duration::from_secs(3))).unwrap().unwrap();
        stream.set_nodelay(true).unwrap();
        Speaker {
            stream,
            heard: Vec::new(),
            machine: String::new(),
            nonce: String::new(),
            shares: BTreeMap::new(),
            sealer: Sealer::default(),
            opener: Opener::default(),
            heartbeats: 0,
            reports: 0,
            said: Vec::new(),
        }
    }

    /// Says who it is, and returns the first answer.
    pub(crate) fn hello(&mut self, who: &Who) -> Heard {
        let addresses = AddressDigest::of(&who.addresses);
        let mut proofs = Vec::new();
        for (service, token) in &who.services {
            let claim = Claim {
                nonce: &self.nonce,
                machine: &self.machine,
                agent: &who.agent,
                agent_nonce: NONCE,
                incarnation: who.incarnation,
                addresses: &addresses,
                service,
            };
            proofs.push(Proof { service: service.clone(), mac: claim.prove(token.as_bytes()) });
            self.shares.insert(service.clone(), claim.share(token.as_bytes()));
        }
        let hello = ToMachine::Hello {
            version: model::agent::VERSION,
            agent: who.agent.clone(),
            nonce: NONCE.to_owned(),
            incarnation: who.incarnation,
            addresses: who.addresses.clone(),
            proofs,
        };
        self.say(&hello);
        self.hear(Duration::from_secs(3))
    }

    /// Says a message.
    pub(crate) fn say(&mut self, message: &ToMachine) {
        // Whether it arrives is seen in what is heard.
        let frame = self.sealer.encode(message).unwrap();
        drop(self.stream.write_all(&frame));
    }

    /// Registers a backend.
    pub(crate) fn register(&mut self, service: &str, backend: &str, address: IpAddr, incarnation: u64) {
        let (service, backend) = (service.to_owned(), backend.to_owned());
        let (weight, port, capacity) = (1, None, None);
        self.say(&ToMachine::Register { service, backend, address, incarnation, weight, port, capacity });
    }

    /// Reports what has changed.
    pub(crate) fn report(&mut self, results: Vec<BackendReport>) {
        self.reports += 1;
        for of in &results {
            let same = |old: &BackendReport| {
                (&old.service, &old.backend, old.address) == (&of.service, &of.backend, of.address)
            };
            self.said.retain(|old| !same(old));
            self.said.push(of.clone());
        }
        self.say(&ToMachine::Report { sequence: self.reports, full: false, results });
    }

    /// Says that it lives.
    pub(crate) fn heartbeat(&mut self) {
        self.heartbeats += 1;
        let digest = format!("{:016x}", digest(&self.said));
        self.say(&ToMachine::Heartbeat { sequence: self.heartbeats, digest, loads: Vec::new() });
    }

    /// The next message.
    pub(crate) fn hear(&mut self, limit: Duration) -> Heard {
        let end = Instant::now() + limit;
        loop {
            match self.opener.decode(&mut self.heard).unwrap() {
                // From here on both sides seal.
                Some(ToAgent::Proved { services }) => {
                    let shares = services.iter().filter_map(|service| self.shares.get(service));
                    let keys = SessionKeys::of(shares).expect("services of the hello");
                    keys.begin_agent(&mut self.sealer, &mut self.opener);
                    continue;
                }
                Some(message) => return Heard::Message(message),
                None => {}
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Heard::Nothing;
            }
            self.stream.set_read_timeout(Some(left)).unwrap();
            let mut bytes = [0_u8; 65_536];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Heard::Closed,
                Ok(length) => self.heard.extend_from_slice(&bytes[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Heard::Nothing,
                Err(_) => return Heard::Closed,
            }
        }
    }

    /// The first message of some kind.
    pub(crate) fn hear_of<T>(
        &mut self,
        limit: Duration,
        wanted: impl Fn(&ToAgent) -> Option<T>,
    ) -> Option<T> {
        let end = Instant::now() + limit;
        loop {
            match self.hear(end.saturating_duration_since(Instant::now())) {
                Heard::Message(message) => {
                    if let Some(found) = wanted(&message) {
                        return Some(found);
                    }
                }
                Heard::Closed | Heard::Nothing => return None,
            }
        }
    }

    /// Waits until it is asked to check a backend, and says that it is up.
    pub(crate) fn report_up(&mut self, service: &str, backend: &str) {
        let asked = self.hear_of(Duration::from_secs(3), |message| match message {
            ToAgent::Checks { service: of, backends, .. } if of == service => {
                backends.iter().find(|target| target.backend == backend).map(|target| target.address)
            }
            _ => None,
        });
        let address = asked.unwrap_or_else(|| panic!("nobody asks for {service}/{backend}"));
        self.report(vec![up(service, backend, address)]);
    }

    /// Whether the machine closes the connection in time, whatever it says before.
    pub(crate) fn is_closed_within(&mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        loop {
            match self.hear(end.saturating_duration_since(Instant::now())) {
                Heard::Message(_) => {}
                Heard::Closed => return true,
                Heard::Nothing => return false,
            }
        }
    }
}

/// A good result.
pub(crate) fn up(service: &str, backend: &str, address: IpAddr) -> BackendReport {
    BackendReport {
        service: service.to_owned(),
        backend: backend.to_owned(),
        address,
        up: true,
        reason: "ok".to_owned(),
    }
}
