//! The agent's file: TOML to checked values, every problem with its place and remedy.

use crate::backend::Backend;
use crate::{name, tls};
use model::agent::{ADDRESSES_MAX, BACKENDS_MAX, SERVICES_MAX};
use model::config::Net;
use model::diagnostic::{Diagnostic, Problems, Report};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use toml::Spanned;

#[cfg(test)]
mod tests;

/// Longest file, bytes.
const TEXT_MAX: u64 = 1 << 20;
/// Machines that are named in the file, and that are connected to, at most.
pub(crate) const MACHINES_MAX: usize = 64;
/// Commands, at most.
const COMMANDS_MAX: usize = 256;
/// Words of a command, at most.
const ARGV_MAX: usize = 64;
/// Bytes of a token.
const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 16..=256;
const STATE_FILE: &str = "/var/lib/guideway-agent/registrations.json";
const SEE: &str = "the keys are in docs/agents.md; configs/agent.toml is an example";

/// A file that passed every check.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct AgentConfig {
    /// Name of this host.
    pub(crate) name: String,
    /// Where to listen for commands.
    pub(crate) socket: PathBuf,
    /// Machines to begin with: `host:port`.
    pub(crate) machines: Vec<String>,
    /// This host's addresses, ascending; absent: those of its interfaces.
    pub(crate) addresses: Option<Vec<IpAddr>>,
    /// TLS to machines.
    pub(crate) tls: Option<Tls>,
    /// What survives a restart.
    pub(crate) state_file: PathBuf,
    /// Whether the host's busy CPU time counts as load of its backends.
    pub(crate) cpu_load: bool,
    /// Services that it speaks for, and their tokens.
    pub(crate) services: BTreeMap<String, Token>,
    /// Backends that it registers.
    pub(crate) backends: Vec<Backend>,
    /// Commands that machines may name in exec checks.
    pub(crate) commands: BTreeMap<String, Vec<String>>,
}

/// TLS to machines.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Tls {
    /// Certificates (PEM) of which a machine's must be signed.
    pub(crate) ca: PathBuf,
    /// Own certificate chain and key (PEM).
    pub(crate) own: Option<(PathBuf, PathBuf)>,
    /// Name that a machine's certificate must have; absent: the address that is connected to.
    pub(crate) name: Option<String>,
}

/// A service's token. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token(Vec<u8>);

impl Token {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    #[cfg(test)]
    pub(crate) fn of(bytes: &[u8]) -> Token {
        Token(bytes.to_vec())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// A checked file, and what deserves a look all the same.
#[derive(Debug)]
pub(crate) struct LoadedAgentConfig {
    pub(crate) config: AgentConfig,
    pub(crate) warnings: Vec<Diagnostic>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    agent: Spanned<AgentTable>,
    #[serde(default)]
    service: Vec<Service>,
    #[serde(default)]
    backend: Vec<Spanned<RawBackend>>,
    #[serde(default)]
    command: BTreeMap<String, CommandTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AgentTable {
    name: Option<Spanned<String>>,
    socket: Option<Spanned<PathBuf>>,
    machines: Spanned<Vec<Spanned<String>>>,
    addresses: Option<Spanned<Vec<Spanned<String>>>>,
    tls: Option<Spanned<RawTls>>,
    state_file: Option<Spanned<PathBuf>>,
    #[serde(default = "yes")]
    cpu_load: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTls {
    ca: PathBuf,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Service {
    name: Spanned<String>,
    token_file: Spanned<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBackend {
    service: Spanned<String>,
    name: Spanned<String>,
    address: Spanned<IpAddr>,
    #[serde(default = "one")]
    weight: u32,
    port: Option<u16>,
    capacity: Option<u32>,
    load_file: Option<PathBuf>,
}

const fn one() -> u32 {
    1
}

const fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CommandTable {
    argv: Spanned<Vec<String>>,
}

/// Reads and checks the file at `path`, the token files that it names, and its certificates.
///
/// # Errors
/// A report of all problems. Only bad TOML, a wrong type, and an unknown or missing key hide others.
pub(crate) fn read(path: &Path) -> Result<LoadedAgentConfig, miette::Report> {
    let name = path.display().to_string();
    let text = text(path).map_err(|problem| {
        miette::miette!(help = "give the file with --config", "cannot read {name}: {problem}")
    })?;
    load(&text).map_err(|found| miette::Report::new(Report::new(&name, &text, found)))
}

/// As [`read`], for `check-config`: gives back the warnings as a report.
///
/// # Errors
/// As [`read`].
pub(crate) fn check(path: &Path) -> Result<Option<miette::Report>, miette::Report> {
    let loaded = read(path)?;
    if loaded.warnings.is_empty() {
        return Ok(None);
    }
    let text = text(path).unwrap_or_default();
    Ok(Some(miette::Report::new(Report::new(&path.display().to_string(), &text, loaded.warnings))))
}

fn text(path: &Path) -> Result<String, String> {
    let length = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
    if length > TEXT_MAX {
        return Err(format!("it has {length} bytes; at most {TEXT_MAX} are read"));
    }
    std::fs::read_to_string(path).map_err(|e| e.to_string())
}

fn load(text: &str) -> Result<LoadedAgentConfig, Vec<Diagnostic>> {
    let mut problems = Problems::new(text);
    let config = match toml::from_str::<File>(text) {
        Ok(file) => Some(checked(file, &mut problems)),
        Err(error) => {
            let message = error.message().lines().collect::<Vec<_>>().join("; ");
            problems.error(error.span().unwrap_or(0..0), message, SEE);
            None
        }
    };
    match config {
        Some(config) if !problems.has_errors() => {
            Ok(LoadedAgentConfig { config, warnings: problems.finish() })
        }
        _ => Err(problems.finish()),
    }
}

fn checked(file: File, problems: &mut Problems<'_>) -> AgentConfig {
    let agent_span = file.agent.span();
    let agent = file.agent.into_inner();
    let name = agent_name(agent.name, agent_span.clone(), problems);
    let socket = absolute(agent.socket, crate::arguments::SOCKET, problems);
    let state_file = absolute(agent.state_file, STATE_FILE, problems);
    let machines = machines(agent.machines, problems);
    let cpu_load = agent.cpu_load;
    let addresses = agent.addresses.map(|list| addresses(list, problems));
    let tls = agent.tls.and_then(|raw| checked_tls(raw, problems));
    if file.service.is_empty() {
        problems.error(
            agent_span.clone(),
            "there is no [[service]]",
            "add one, with the token_file of the balancer's service",
        );
    }
    let services = services(file.service, problems);
    let backends = backends(file.backend, &services, addresses.as_deref(), problems);
    let commands = commands(file.command, problems);
    AgentConfig { name, socket, machines, addresses, tls, state_file, cpu_load, services, backends, commands }
}

fn agent_name(
    given: Option<Spanned<String>>,
    agent: std::ops::Range<usize>,
    problems: &mut Problems<'_>,
) -> String {
    let (name, span, whose) = match given {
        Some(name) => (name.get_ref().clone(), name.span(), "agent.name"),
        None => {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            (host.trim().to_owned(), agent, "the host's name (agent.name is not given)")
        }
    };
    if !name::is_name(&name) {
        problems.error(span, format!("{whose} {name:?} is no name"), name::RULE);
    }
    name
}

fn absolute(given: Option<Spanned<PathBuf>>, default: &str, problems: &mut Problems<'_>) -> PathBuf {
    let Some(path) = given else { return default.into() };
    if !path.get_ref().is_absolute() {
        let what = format!("{:?} is not an absolute path", path.get_ref());
        problems.error(path.span(), what, format!("begin it with /, or leave it out for {default}"));
    }
    path.into_inner()
}

fn machines(given: Spanned<Vec<Spanned<String>>>, problems: &mut Problems<'_>) -> Vec<String> {
    let span = given.span();
    let given = given.into_inner();
    if given.is_empty() || given.len() > MACHINES_MAX {
        let what = format!("agent.machines names {} machines", given.len());
        problems.error(
            span,
            what,
            format!("name 1 to {MACHINES_MAX}: where `agents.listen` of a machine is"),
        );
    }
    let mut seen = BTreeSet::new();
    for machine in given {
        let text = machine.get_ref();
        if !is_host_and_port(text) {
            problems.error(
                machine.span(),
                format!("machine {text:?} is not an address or name with a port"),
                "write it like 10.9.0.1:7481, [2001:db8::1]:7481 or lb1.example:7481",
            );
        } else if !seen.insert(text.clone()) {
            problems.error(machine.span(), format!("machine {text} is named twice"), "keep one of the two");
        }
    }
    seen.into_iter().collect()
}

fn is_host_and_port(text: &str) -> bool {
    if let Ok(address) = text.parse::<std::net::SocketAddr>() {
        return address.port() != 0;
    }
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_host = (1..=253).contains(&host.len())
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    is_host && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// Single addresses and networks, as the addresses that they hold.
fn addresses(given: Spanned<Vec<Spanned<String>>>, problems: &mut Problems<'_>) -> Vec<IpAddr> {
    let span = given.span();
    let mut all = BTreeSet::new();
    for text in given.into_inner() {
        match text.get_ref().parse::<Net>() {
            Ok(net) if net.network() != net.addr => problems.error(
                text.span(),
                format!("{} has bits behind its prefix length", text.get_ref()),
                format!("write {}/{}, or the address alone", net.network(), net.len),
            ),
            Ok(net) => match hosts(net) {
                Some(hosts) => all.extend(hosts),
                None => problems.error(
                    text.span(),
                    format!("{} holds more than {ADDRESSES_MAX} addresses", text.get_ref()),
                    "give what is this host's alone",
                ),
            },
            Err(error) => problems.error(
                text.span(),
                format!("{:?}: {error}", text.get_ref()),
                "give addresses of this host, or networks of its containers",
            ),
        }
    }
    if all.len() > ADDRESSES_MAX {
        let what = format!("agent.addresses holds {} addresses", all.len());
        problems.error(
            span,
            what,
            format!("an agent speaks for at most {ADDRESSES_MAX}: give what is this host's alone"),
        );
    } else if all.is_empty() {
        problems.error(
            span,
            "agent.addresses is empty",
            "leave it out for the addresses of the host's interfaces",
        );
    }
    all.into_iter().collect()
}

fn hosts(net: Net) -> Option<Vec<IpAddr>> {
    let free = u32::from(Net::len_max(net.addr).saturating_sub(net.len));
    let count = 1_u32.checked_shl(free).filter(|count| *count as usize <= ADDRESSES_MAX)?;
    let address = |at: u32| match net.addr {
        IpAddr::V4(first) => IpAddr::V4(Ipv4Addr::from_bits(first.to_bits() | at)),
        IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from_bits(first.to_bits() | u128::from(at))),
    };
    Some((0..count).map(address).collect())
}

fn checked_tls(raw: Spanned<RawTls>, problems: &mut Problems<'_>) -> Option<Tls> {
    let span = raw.span();
    let raw = raw.into_inner();
    let own = match (raw.cert, raw.key) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        _ => {
            problems.error(
                span,
                "agent.tls has one of `cert` and `key`",
                "give both (machines with client_ca want them), or none",
            );
            return None;
        }
    };
    let tls = Tls { ca: raw.ca, own, name: raw.name };
    if let Err(error) = tls::client(&tls) {
        problems.error(span, format!("agent.tls: {error}"), "give PEM files that this user can read");
    }
    Some(tls)
}

fn services(given: Vec<Service>, problems: &mut Problems<'_>) -> BTreeMap<String, Token> {
    let mut services = BTreeMap::new();
    let count = given.len();
    for service in given {
        let (name, span) = (service.name.get_ref(), service.name.span());
        if !name::is_name(name) {
            problems.error(span.clone(), format!("service name {name:?} is no name"), name::RULE);
        }
        if services.contains_key(name) {
            problems.error(span, format!("service {name} is there twice"), "keep one of the two");
            continue;
        }
        if services.len() == SERVICES_MAX {
            problems.error(
                span,
                format!("{count} services"),
                format!("an agent speaks for at most {SERVICES_MAX}"),
            );
            break;
        }
        let path = service.token_file.get_ref();
        let token = match token(path) {
            Ok(token) => token,
            Err((problem, help)) => {
                problems.error(
                    service.token_file.span(),
                    format!("service {name}: token file {}: {problem}", path.display()),
                    help,
                );
                Token(Vec::new())
            }
        };
        if std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o004 != 0) {
            problems.warning(
                service.token_file.span(),
                format!("service {name}: everybody on this host can read {}", path.display()),
                "chmod o= it: who has the token can register backends",
            );
        }
        services.insert(name.clone(), token);
    }
    services
}

/// The first line of a file.
fn token(path: &Path) -> Result<Token, (String, &'static str)> {
    let length =
        std::fs::metadata(path).map_err(|e| (e.to_string(), "name a file that this user can read"))?.len();
    if length > TEXT_MAX {
        return Err((format!("it has {length} bytes"), "name a file whose first line is the token"));
    }
    let bytes = std::fs::read(path).map_err(|e| (e.to_string(), "name a file that this user can read"))?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if !TOKEN_BYTES.contains(&line.len()) {
        return Err((
            format!("its first line has {} bytes", line.len()),
            "a token has 16 to 256 bytes: openssl rand -hex 32 makes one",
        ));
    }
    Ok(Token(line.to_vec()))
}

fn backends(
    given: Vec<Spanned<RawBackend>>,
    services: &BTreeMap<String, Token>,
    addresses: Option<&[IpAddr]>,
    problems: &mut Problems<'_>,
) -> Vec<Backend> {
    let count = given.len();
    if count > BACKENDS_MAX
        && let Some(first) = given.get(BACKENDS_MAX)
    {
        problems.error(
            first.span(),
            format!("{count} backends"),
            format!("an agent speaks for at most {BACKENDS_MAX}"),
        );
        return Vec::new();
    }
    let (mut names, mut places) = (BTreeSet::new(), BTreeSet::new());
    let mut backends = Vec::with_capacity(count);
    for raw in given {
        let span = raw.span();
        let raw = raw.into_inner();
        let (service, name) = (raw.service.get_ref().clone(), raw.name.get_ref().clone());
        let address = raw.address.get_ref().to_canonical();
        if !services.contains_key(&service) {
            problems.error(
                raw.service.span(),
                format!("backend {name}: there is no service {service:?} in this file"),
                "add a [[service]] of that name with its token_file",
            );
        }
        if !names.insert((service.clone(), name.clone())) {
            problems.error(
                raw.name.span(),
                format!("backend {name} of service {service} is there twice"),
                "keep one of the two",
            );
        }
        if !places.insert((service.clone(), address)) {
            problems.error(
                raw.address.span(),
                format!("two backends of service {service} have the address {address}"),
                "a backend of a service has an address of its own",
            );
        }
        if addresses.is_some_and(|all| !all.contains(&address)) {
            problems.error(
                raw.address.span(),
                format!("backend {name}: {address} is not among agent.addresses"),
                "add it there: an agent speaks for no other addresses",
            );
        }
        let backend = Backend {
            service,
            name,
            address,
            weight: raw.weight,
            port: raw.port,
            capacity: raw.capacity,
            load_file: raw.load_file,
        };
        if let Some((problem, help)) = backend.problem() {
            problems.error(span, format!("backend {}: {problem}", backend.name), help);
        }
        backends.push(backend);
    }
    backends
}

fn commands(
    given: BTreeMap<String, CommandTable>,
    problems: &mut Problems<'_>,
) -> BTreeMap<String, Vec<String>> {
    let count = given.len();
    let mut commands = BTreeMap::new();
    for (name, command) in given {
        let (argv, span) = (command.argv.get_ref(), command.argv.span());
        if !name::is_name(&name) {
            problems.error(span.clone(), format!("command name {name:?} is no name"), name::RULE);
        }
        if commands.len() == COMMANDS_MAX {
            problems.error(span, format!("{count} commands"), format!("at most {COMMANDS_MAX} are taken"));
            break;
        }
        if !(1..=ARGV_MAX).contains(&argv.len()) || argv.iter().any(|word| word.contains('\0')) {
            problems.error(
                span,
                format!("command.{name}: argv has {} words or a NUL in one", argv.len()),
                format!("give the program and its arguments, 1 to {ARGV_MAX} words"),
            );
        } else if argv.first().is_some_and(|program| !program.starts_with('/')) {
            problems.error(
                span,
                format!("command.{name}: the program is not an absolute path"),
                "begin it with /: no shell and no search path is involved",
            );
        }
        commands.insert(name, command.argv.into_inner());
    }
    commands
}
