//! What agents and machines say to each other: messages, their frame on the wire, and the proof of a token.
//!
//! Rule of this module: both programs use these types and nothing else, so that they cannot come to differ.
//! Nothing here does I/O.
//!
//! A connection is TCP, opened by the agent, with or without TLS. Either side sends **frames**: a length of
//! four bytes, big-endian, 1 to [`FRAME_MAX`], then so many bytes of JSON, one message. The machine speaks
//! first ([`ToAgent::Challenge`]), the agent answers with [`ToMachine::Hello`] within [`HELLO_TIMEOUT_MS`],
//! and the machine with [`ToAgent::Proved`] or [`ToAgent::Refused`]. From `proved` on frames are sealed in
//! both directions ([`seal`]). The machine says [`ToAgent::Welcome`] or `refused`, then each says what it has
//! to say, in any order. docs/agents.md is the protocol in words.

use crate::config::{HealthKind, Protocol};
use crate::hex;
pub use crate::name::NAME_MAX;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

#[cfg(feature = "codec")]
pub mod codec;
pub mod seal;

/// The version of what is said here. A machine names those that it speaks, an agent chooses one.
pub const VERSION: u16 = 2;
/// Bytes of a frame's length.
pub const HEAD_BYTES: usize = 4;
/// Longest message, bytes of JSON.
pub const FRAME_MAX: usize = 262_144;
/// Longest hello, bytes of JSON: the most proofs and addresses there may be, with the longest names, are
/// 84,900. Nobody has proved anything before it is whole.
pub const HELLO_MAX: usize = 98_304;
/// Time from the challenge to a whole hello, milliseconds.
pub const HELLO_TIMEOUT_MS: u64 = 3000;
/// Backends of which one agent speaks, at most, over all services.
pub const BACKENDS_MAX: usize = 1024;
/// Services of which one agent speaks, at most.
pub const SERVICES_MAX: usize = 256;
/// Addresses of one host, at most.
pub const ADDRESSES_MAX: usize = 1024;
/// Longest reason that is told, bytes; a longer one is refused.
pub const REASON_MAX: usize = 256;
/// Largest figure of a load: a thousandth of what there is.
pub const PERMILLE_MAX: u16 = 1000;

/// What a machine says.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ToAgent {
    /// First: who it is, and what is to be proved.
    Challenge {
        /// Versions it speaks.
        versions: Vec<u16>,
        /// `machine.name`.
        machine: String,
        /// 32 random bytes, 64 hexadecimal digits; used for this connection alone.
        nonce: String,
    },
    /// Of these services the hello proves the tokens; never none. The machine has them too: what it says from
    /// here on is sealed with keys of all of them, and so is what the agent says.
    Proved {
        /// Ascending, each once.
        services: Vec<String>,
    },
    /// The hello is accepted.
    Welcome {
        /// Without a word for so long, the agent's backends are suspect; milliseconds.
        lease_ms: u32,
        /// How often a heartbeat is wanted, milliseconds; a third of the lease.
        heartbeat_ms: u32,
        /// All machines that agents should connect to, this one included.
        machines: Vec<MachineContact>,
    },
    /// Machines have come or gone: what replaces the welcome's list.
    Machines {
        /// All of them.
        machines: Vec<MachineContact>,
    },
    /// Something is not accepted. What was accepted before stays.
    Refused {
        /// Of this service; absent: the connection, which is closed.
        service: Option<String>,
        /// Of this backend.
        backend: Option<String>,
        /// In a word.
        code: RefusalCode,
        /// In words.
        reason: String,
        /// What to do.
        help: String,
    },
    /// What is to be checked on this host for a service: replaces what was asked for before. No backends:
    /// nothing.
    Checks {
        /// The service.
        service: String,
        /// Counts requests of this service; reports name it.
        revision: u64,
        /// How they are checked.
        check: CheckSpec,
        /// The backends to check, all on this host.
        backends: Vec<Target>,
    },
    /// What has become of a backend.
    State {
        /// Its service.
        service: String,
        /// Its name.
        backend: String,
        /// Its state on this machine.
        state: Phase,
        /// Why, in words.
        reason: String,
    },
    /// The digest of a heartbeat differs from what is known here: a full report is wanted.
    Resync {},
    /// Answers a heartbeat.
    Alive {
        /// Its number.
        sequence: u64,
    },
}

/// What an agent says.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ToMachine {
    /// Who it is, and that it may speak for these services.
    Hello {
        /// The version it chose.
        version: u16,
        /// Its name; one host, one name.
        agent: String,
        /// 64 hexadecimal digits, others in each connection: a session that was recorded is not said again to
        /// the agent.
        nonce: String,
        /// Larger at each start (Unix time at the start, milliseconds).
        incarnation: u64,
        /// Addresses of its host, ascending and each once: it speaks for no others.
        addresses: Vec<IpAddr>,
        /// A proof for each service.
        proofs: Vec<Proof>,
    },
    /// A backend wants traffic. Again: nothing new, or new figures.
    Register {
        /// The service.
        service: String,
        /// The backend's name, unique in the service.
        backend: String,
        /// One of the hello's addresses.
        address: IpAddr,
        /// Larger at each start of the backend.
        incarnation: u64,
        /// Share of new flows, 1 to 65,535.
        weight: u32,
        /// Port that is checked; absent: as the service says.
        port: Option<u16>,
        /// Flows that it is meant to carry; absent: as the service says.
        capacity: Option<u32>,
    },
    /// A backend wants no new flows any more. The old ones live on.
    Deregister {
        /// The service.
        service: String,
        /// The backend.
        backend: String,
        /// Its address.
        address: IpAddr,
    },
    /// What checks say, where that has changed.
    Report {
        /// Counts reports of this connection, from 1.
        sequence: u64,
        /// `results` are all there are; else only those that have changed.
        full: bool,
        /// Verdicts on backends.
        results: Vec<BackendReport>,
    },
    /// Some of what is to be checked is not on this host.
    NotLocal {
        /// The service.
        service: String,
        /// Of the request.
        revision: u64,
        /// Those that are not on this host.
        addresses: Vec<IpAddr>,
    },
    /// It lives.
    Heartbeat {
        /// Counts heartbeats of this connection, from 1.
        sequence: u64,
        /// [`digest()`] of all that the reports of this connection have said, 16 hexadecimal digits.
        digest: String,
        /// Load of backends.
        loads: Vec<Load>,
    },
}

/// A machine that agents should connect to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineContact {
    /// `machine.name`.
    pub name: String,
    /// Where it listens for agents.
    pub address: SocketAddr,
    /// It leads the cluster (or is alone).
    pub leads: bool,
}

/// Why something is not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// No version in common.
    Version,
    /// A message that is none, or not one for this moment.
    Malformed,
    /// No such service, or none that agents may speak for.
    Service,
    /// The proof is wrong.
    Proof,
    /// The service does not let it register: name, address, port, weight.
    Template,
    /// Another agent holds the backend's name or address, and it lives.
    Claimed,
    /// An incarnation older than the one that is known.
    Stale,
    /// More than may be.
    Limit,
    /// A message of a session that is not sealed by who began it, or not in its place: repeated, left out, made up.
    Seal,
}

/// Proof that an agent has a service's token.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// The service.
    pub service: String,
    /// [`Claim::prove()`], 64 hexadecimal digits.
    pub mac: String,
}

/// How to check: the service's `[service.health]`, without what only machines need.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckSpec {
    /// What is probed.
    pub kind: HealthKind,
    /// `Host` and TLS name where `kind` gives none.
    pub vip: IpAddr,
    /// The service's port; 0: any.
    pub port: u16,
    /// The service's protocol.
    pub protocol: Protocol,
    /// Time between two checks of a backend, milliseconds.
    pub interval_ms: u32,
    /// Time a check may take, milliseconds.
    pub timeout_ms: u32,
    /// Failures in a row that make it down.
    pub fall: u32,
    /// Passes in a row that make it up.
    pub rise: u32,
}

/// What to check.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Name of the backend.
    pub backend: String,
    /// Address that is probed.
    pub address: IpAddr,
    /// Port that is probed.
    pub port: u16,
}

/// What the checks of a backend say: after rise and fall.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendReport {
    /// Its service.
    pub service: String,
    /// Its name.
    pub backend: String,
    /// Its address.
    pub address: IpAddr,
    /// Up or down.
    pub up: bool,
    /// `ok`, or why it is down.
    pub reason: String,
}

/// Load of a backend, as its host sees it. Absent: not known.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// Its service.
    pub service: String,
    /// Its name.
    pub backend: String,
    /// Busy CPU time of the host, thousandths.
    pub cpu_permille: Option<u16>,
    /// Established connections to the service's address and port.
    pub connections: Option<u32>,
    /// What the backend says of itself, thousandths.
    pub custom_permille: Option<u16>,
}

/// What is to become of a backend that agents speak for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Known; nobody was asked to check it yet.
    Registered,
    /// Waits for the first good check.
    Checking,
    /// Takes flows while checks pass.
    Up,
    /// Checks fail.
    Down,
    /// Nothing is heard of its agent; the machine checks it by itself.
    Suspect,
    /// Takes no new flows; old ones live on.
    Draining,
    /// Known no more.
    Gone,
}

/// The digest of what reports have said: FNV-1a, 64 bits, over `service NUL backend NUL address NUL (1|0) LF`
/// of each, ascending by (service, backend, address). Not a secret: it finds what was lost, not who lies.
/// O(n log n).
pub fn digest<'a>(reports: impl IntoIterator<Item = &'a BackendReport>) -> u64 {
    let mut lines: Vec<String> = reports
        .into_iter()
        .map(|of| format!("{}\0{}\0{}\0{}\n", of.service, of.backend, of.address, u8::from(of.up)))
        .collect();
    lines.sort_unstable();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in lines.iter().flat_map(String::as_bytes) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}

/// What a proof is of: every field of a hello that must not be another's.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The challenge's.
    pub nonce: &'a str,
    /// The challenge's.
    pub machine: &'a str,
    /// The hello's.
    pub agent: &'a str,
    /// The hello's `nonce`.
    pub agent_nonce: &'a str,
    /// The hello's.
    pub incarnation: u64,
    /// Of the hello's addresses.
    pub addresses: &'a AddressDigest,
    /// The proof's.
    pub service: &'a str,
}

/// SHA-256 (FIPS 180-4) of a host's addresses as text, in their order, each ended by LF; 64 hexadecimal
/// digits. A hello has many proofs over the same addresses: with the digest in their place a proof costs the
/// same whatever their number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressDigest(String);

impl AddressDigest {
    /// Of these. O(n).
    pub fn of(addresses: &[IpAddr]) -> AddressDigest {
        use std::fmt::Write as _;
        let mut text = String::new();
        for address in addresses {
            let _ = writeln!(text, "{address}");
        }
        AddressDigest(hex::digits(ring::digest::digest(&ring::digest::SHA256, text.as_bytes()).as_ref()))
    }
}

impl Claim<'_> {
    /// The text that is authenticated: lines, in this order, each ended by LF; no field can hold one.
    fn text(&self, purpose: &str) -> String {
        let Claim { nonce, machine, agent, agent_nonce, incarnation, addresses, service } = self;
        let AddressDigest(addresses) = addresses;
        format!(
            "guideway-agent {VERSION} \
            {purpose}\n{nonce}\n{machine}\n{agent}\n{agent_nonce}\n{incarnation}\n{service}\n{addresses}\n"
        )
    }

    /// HMAC-SHA-256 (RFC 2104, FIPS 180-4) of the claim with a service's token, 64 hexadecimal digits.
    pub fn prove(&self, token: &[u8]) -> String {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, token);
        hex::digits(ring::hmac::sign(&key, self.text("proof").as_bytes()).as_ref())
    }

    /// What the token adds to the keys of the session: HMAC-SHA-256 of the claim, for another purpose than
    /// the proof.
    pub fn share(&self, token: &[u8]) -> seal::Share {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, token);
        let tag = ring::hmac::sign(&key, self.text("session").as_bytes());
        let mut bytes = [0; 32];
        bytes.iter_mut().zip(tag.as_ref()).for_each(|(byte, of)| *byte = *of);
        seal::Share(bytes)
    }

    /// Whether `mac` proves the claim. In constant time for a mac of the right length.
    pub fn is_proved(&self, token: &[u8], mac: &str) -> bool {
        if mac.len() != 64 {
            return false;
        }
        let Some(tag) = hex::bytes(mac) else { return false };
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, token);
        ring::hmac::verify(&key, self.text("proof").as_bytes(), &tag).is_ok()
    }
}

/// A message as a plain frame.
///
/// # Errors
/// Longer than [`FRAME_MAX`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let body = serde_json::to_vec(message).map_err(|error| FrameError::Malformed(error.to_string()))?;
    if body.len() > FRAME_MAX {
        return Err(FrameError::TooLong { length: body.len(), max: FRAME_MAX });
    }
    let length =
        u32::try_from(body.len()).map_err(|_| FrameError::TooLong { length: body.len(), max: FRAME_MAX })?;
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// Takes the first whole plain frame off `bytes`; `None`: there is none yet. Says how long a frame is as soon
/// as its length is there, so that nobody has to buffer what is too long.
///
/// # Errors
/// Empty or too long, or not a message.
pub fn decode<T: for<'a> Deserialize<'a>>(bytes: &mut Vec<u8>) -> Result<Option<T>, FrameError> {
    seal::Opener::default().decode(bytes)
}

/// What the first frame holds behind its length, where it is there as a whole.
fn body_of(bytes: &[u8], max: usize) -> Result<Option<&[u8]>, FrameError> {
    Ok(length_of(bytes, max)?.and_then(|length| bytes.get(HEAD_BYTES..HEAD_BYTES + length)))
}

/// Length of the first frame's message, bytes; `None`: not even that is there yet.
///
/// # Errors
/// 0, or above `max`.
pub fn length_of(bytes: &[u8], max: usize) -> Result<Option<usize>, FrameError> {
    let Some(length) = bytes.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if length == 0 || length > max { Err(FrameError::TooLong { length, max }) } else { Ok(Some(length)) }
}

/// Why bytes are not a frame.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// The length is 0 or above what is allowed.
    #[error("a message of {length} bytes; 1 to {max} are allowed")]
    TooLong {
        /// Bytes of the message.
        length: usize,
        /// Bytes allowed: [`FRAME_MAX`], or [`HELLO_MAX`] for the first.
        max: usize,
    },
    /// Not a message.
    #[error("not a message: {0}")]
    Malformed(String),
    /// Not sealed, or with another key.
    #[error("a message whose tag is wrong: it is not of this session")]
    Tag,
    /// Sealed, and not the one that is due.
    #[error("message {got} came where {due} is due")]
    Number {
        /// Its number.
        got: u64,
        /// The one expected.
        due: u64,
    },
}

impl FrameError {
    /// The word for it.
    pub const fn code(&self) -> RefusalCode {
        match self {
            FrameError::TooLong { .. } | FrameError::Malformed(_) => RefusalCode::Malformed,
            FrameError::Tag | FrameError::Number { .. } => RefusalCode::Seal,
        }
    }
}

#[cfg(test)]
mod tests;
