//! An agent's first words, and whether they prove what they say.
//!
//! Rule of this module: whatever a stranger's hello costs is paid here, and the listener calls it on its own thread. The registry
//! hears of hellos that are proved.

use super::session::SessionId;
use model::agent::seal::{SessionKeys, Share};
use model::agent::{
    ADDRESSES_MAX, AddressDigest, Claim, NAME_MAX, Proof, RefusalCode, SERVICES_MAX, VERSION,
};
use model::name::is_name;
use model::registered::Misfit;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// How far an agent's clock, which its incarnation is read from, may be ahead of this machine's: a day. An incarnation from
/// the far future would shut its own successors out.
const CLOCK_AHEAD_MS: u64 = 86_400_000;

/// The tokens of services that agents may speak for.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Tokens(HashMap<String, Vec<u8>>);

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl FromIterator<(String, Vec<u8>)> for Tokens {
    fn from_iter<I: IntoIterator<Item = (String, Vec<u8>)>>(tokens: I) -> Tokens {
        Tokens(tokens.into_iter().collect())
    }
}

impl Tokens {
    /// A service's.
    pub(crate) fn of(&self, service: &str) -> Option<&[u8]> {
        self.0.get(service).map(Vec::as_slice)
    }
}

/// A hello as it came, and where it comes from.
#[derive(Clone, Debug)]
pub(crate) struct Greeting {
    pub(crate) id: SessionId,
    pub(crate) peer: SocketAddr,
    /// `machine.name`, and the nonce of the challenge.
    pub(crate) machine: String,
    pub(crate) challenge: String,
    /// When it came, Unix time.
    pub(crate) unix_ms: u64,
    pub(crate) version: u16,
    pub(crate) agent: String,
    pub(crate) nonce: String,
    pub(crate) incarnation: u64,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) proofs: Vec<Proof>,
}

/// A hello that proves the token of a service at least.
#[derive(Clone, Debug)]
pub(crate) struct Hello {
    pub(crate) id: SessionId,
    pub(crate) peer: SocketAddr,
    pub(crate) agent: String,
    pub(crate) incarnation: u64,
    pub(crate) addresses: Vec<IpAddr>,
    /// Services whose tokens it proves.
    pub(crate) proved: BTreeSet<String>,
    /// The others, and why not.
    pub(crate) refused: Vec<(String, Misfit)>,
    /// The tokens that it was held against: the configuration may be another one when the registry hears of it.
    pub(crate) tokens: Arc<Tokens>,
}

/// A hello that proves nothing.
#[derive(Clone, Debug)]
pub(crate) struct Unproved {
    /// The name it gives, as it may be shown.
    pub(crate) agent: String,
    pub(crate) why: Misfit,
}

impl Greeting {
    /// Verifies it: one digest of its addresses, and an HMAC over some 300 bytes for each of its at most 256 proofs, two for those that
    /// are right.
    ///
    /// # Errors
    /// It has not the form of a hello, or proves nothing.
    pub(crate) fn verify(self, tokens: &Arc<Tokens>) -> Result<(Hello, SessionKeys), Unproved> {
        let shown = shown(&self.agent);
        let unproved = |why| Unproved { agent: shown.clone(), why };
        self.check_form().map_err(unproved)?;
        let (mut proved, mut refused, mut shares) = (BTreeSet::new(), Vec::new(), Vec::new());
        let addresses = AddressDigest::of(&self.addresses);
        for Proof { service, mac } in &self.proofs {
            match self.prove(tokens, &addresses, service, mac) {
                Ok(share) => {
                    proved.insert(service.clone());
                    shares.push((service, share));
                }
                Err(why) => refused.push((self::shown(service), why)),
            }
        }
        // In the order in which `proved` names them.
        shares.sort_unstable_by_key(|(service, _)| *service);
        let Some(keys) = SessionKeys::of(shares.iter().map(|(_, share)| share)) else {
            let help = "put the services' tokens into the agent's token files";
            let why = refused.into_iter().next().map(|(_, why)| why);
            return Err(unproved(
                why.unwrap_or_else(|| Misfit::new(RefusalCode::Proof, "no proof of any token", help)),
            ));
        };
        let Greeting { id, peer, agent, incarnation, addresses, .. } = self;
        let tokens = tokens.clone();
        Ok((Hello { id, peer, agent, incarnation, addresses, proved, refused, tokens }, keys))
    }

    /// Whether it has the form of one.
    fn check_form(&self) -> Result<(), Misfit> {
        let malformed = |what: &str| Err(Misfit::new(RefusalCode::Malformed, what, "see docs/agents.md"));
        if self.version != VERSION {
            let reason = format!("version {} is not spoken here", self.version);
            return Err(Misfit::new(RefusalCode::Version, reason, format!("use version {VERSION}")));
        }
        if !is_name(&self.agent) {
            return malformed("the agent's name is no name");
        }
        if self.nonce.len() != 64 || !self.nonce.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return malformed("the agent's nonce is not 64 hexadecimal digits");
        }
        if self.addresses.is_empty() || self.addresses.len() > ADDRESSES_MAX {
            return malformed("a host has 1 to 1024 addresses");
        }
        if !self.addresses.is_sorted_by(|a, b| a < b) {
            return malformed("addresses are to be ascending and each once");
        }
        if self.proofs.is_empty() || self.proofs.len() > SERVICES_MAX {
            return malformed("a hello has 1 to 256 proofs");
        }
        let services: HashSet<&str> = self.proofs.iter().map(|proof| proof.service.as_str()).collect();
        if services.len() < self.proofs.len() {
            return malformed("a service is to be proved once");
        }
        if self.incarnation > self.unix_ms.saturating_add(CLOCK_AHEAD_MS) {
            let reason = "the incarnation is of a time that is more than a day ahead of this machine's clock";
            let help = "incarnations are the Unix time of the start, in milliseconds: set the clocks";
            return Err(Misfit::new(RefusalCode::Malformed, reason, help));
        }
        Ok(())
    }

    fn prove(
        &self,
        tokens: &Tokens,
        addresses: &AddressDigest,
        service: &str,
        mac: &str,
    ) -> Result<Share, Misfit> {
        let Some(token) = tokens.of(service) else {
            let reason = format!("no service \"{}\" that agents may speak for", shown(service));
            return Err(Misfit::new(
                RefusalCode::Service,
                reason,
                "see [service.agents] of the machine's file",
            ));
        };
        let claim = Claim {
            nonce: &self.challenge,
            machine: &self.machine,
            agent: &self.agent,
            agent_nonce: &self.nonce,
            incarnation: self.incarnation,
            addresses,
            service,
        };
        if claim.is_proved(token, mac) {
            return Ok(claim.share(token));
        }
        let reason = format!("wrong proof of the token of service \"{}\"", shown(service));
        let help = "put the service's token into the agent's token file";
        Err(Misfit::new(RefusalCode::Proof, reason, help))
    }
}

/// A name of a stranger as it may be told and shown.
pub(super) fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(NAME_MAX).collect()
}

#[cfg(test)]
pub(super) mod tests;
