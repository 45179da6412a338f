//! What the registry has to know of the configuration.

use super::hello::Tokens;
use model::agent::{CheckSpec, Machine, Target};
use model::config::{Config, Service};
use model::registered::Rules;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// Bytes of a token.
const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 16..=256;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// Machines that agents should connect to.
    pub(crate) machines: Vec<Machine>,
    /// What may register.
    pub(crate) rules: Rules,
    /// Services that agents may speak for …
    pub(crate) services: BTreeMap<String, OfService>,
    /// … and their tokens.
    pub(crate) tokens: Arc<Tokens>,
}

/// A service that agents may speak for.
#[derive(Clone, Debug)]
pub(crate) struct OfService {
    pub(crate) lease_ms: u64,
    pub(crate) check: CheckSpec,
    /// Whether agents check, or the machines.
    pub(crate) is_checked_by_agents: bool,
    /// Port that is checked of a backend that asks for none.
    pub(crate) port: u16,
    /// Backends of the configuration, by address.
    pub(crate) fixed: HashMap<IpAddr, Target>,
}

impl Facts {
    /// Those of a configuration without what registered; services without a token among `tokens` are no agent's.
    pub(crate) fn of(config: &Config, tokens: &HashMap<String, Vec<u8>>) -> Facts {
        let mut kept = Vec::new();
        let services = config.services.iter().filter_map(|service| {
            let agents = service.agents.as_ref()?;
            kept.push((service.name.clone(), tokens.get(&service.name)?.clone()));
            let of = OfService {
                lease_ms: u64::from(agents.lease_ms),
                check: check(service),
                is_checked_by_agents: service.is_checked_by_agents(),
                port: service.health.port.unwrap_or(service.port),
                fixed: fixed(service),
            };
            Some((service.name.clone(), of))
        });
        let services = services.collect();
        let own = config.agents.as_ref().map(|agents| Machine {
            name: config.machine.name.clone(),
            address: agents.advertise,
            leads: true,
        });
        Facts {
            machines: own.into_iter().collect(),
            rules: Rules::of(config),
            services,
            tokens: Arc::new(kept.into_iter().collect()),
        }
    }
}

fn fixed(service: &Service) -> HashMap<IpAddr, Target> {
    let of = service.backends.iter().filter(|backend| backend.registration.is_none());
    of.map(|backend| {
        let port = service.check_port(backend);
        (backend.address, Target { backend: backend.name.clone(), address: backend.address, port })
    })
    .collect()
}

fn check(service: &Service) -> CheckSpec {
    let health = &service.health;
    CheckSpec {
        kind: health.kind.clone(),
        vip: service.vip.first_host(),
        port: service.port,
        protocol: service.protocol,
        interval_ms: health.interval_ms,
        timeout_ms: health.timeout_ms,
        fall: health.fall,
        rise: health.rise,
    }
}

/// Reads the tokens of all services that agents may speak for.
///
/// # Errors
/// The first file that holds none, and what is wrong with it.
pub(crate) fn tokens(config: &Config) -> Result<HashMap<String, Vec<u8>>, (std::path::PathBuf, String)> {
    let mut tokens = HashMap::new();
    for service in &config.services {
        let Some(agents) = &service.agents else { continue };
        let token = token(&agents.token_file).map_err(|problem| (agents.token_file.clone(), problem))?;
        tokens.insert(service.name.clone(), token);
    }
    Ok(tokens)
}

#[expect(
    clippy::disallowed_methods,
    reason = "on a thread that prepares a configuration, or before there is anything to hold up"
)]
fn token(path: &std::path::Path) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = Vec::new();
    file.take(4096).read_to_end(&mut text).map_err(|error| error.to_string())?;
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let token = line.strip_suffix(b"\r").unwrap_or(line);
    if TOKEN_BYTES.contains(&token.len()) {
        return Ok(token.to_vec());
    }
    let (min, max) = (TOKEN_BYTES.start(), TOKEN_BYTES.end());
    Err(format!("its first line, the agents' token, has {} bytes; {min} to {max} are allowed", token.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_first_lines() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("token");
        let good = "0123456789abcdef";
        for (text, expected) in [
            (format!("{good}\nmore"), Ok(good.len())),
            (format!("{good}\r\n"), Ok(16)),
            (good.to_owned(), Ok(16)),
            ("x".repeat(256), Ok(256)),
            ("x".repeat(257), Err("257")),
            ("short\n".to_owned(), Err("5 bytes")),
            (String::new(), Err("0 bytes")),
        ] {
            std::fs::write(&path, text).unwrap();
            match (token(&path), expected) {
                (Ok(token), Ok(length)) => assert_eq!(token.len(), length),
                (Err(problem), Err(words)) => assert!(problem.contains(words), "{problem}"),
                (got, expected) => panic!("{got:?} instead of {expected:?}"),
            }
        }
        assert!(token(&place.path().join("none")).is_err());
    }
}
