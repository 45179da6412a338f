//! What one daemon has for itself: its name, interfaces, devices, listeners, VIPs and state directory. A second daemon that wants one of them
//! is refused by name before it has touched anything.
//!
//! What belongs to a network namespace is claimed by binding an abstract unix socket of that name: such names live in the
//! namespace, whatever file systems the daemons see, and vanish with the process however it ends. The state directory is a
//! place in a file system and may be shared by several namespaces, so it is locked itself, which needs no file and no space.
#![expect(
    clippy::disallowed_methods,
    reason = "at the start, before anybody is served; later the kernel's memory (/proc) alone, where a \
        VIP is held elsewhere"
)]

mod error;

pub use error::ClaimError;

use model::config::{Announce, Config, Net};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::linux::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// First part of every name.
const PREFIX: &str = "guideway";
/// The longest name of an abstract socket, bytes.
const NAME_MAX: usize = 107;
/// The longest name of a kernel interface, bytes.
const INTERFACE_MAX: usize = 15;
/// What of a command line is quoted, characters.
const COMMAND_MAX: usize = 120;

/// One thing that only one daemon may have.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum ExclusiveName {
    /// `machine.name`: EAL's files are named after it.
    Machine(String),
    /// A kernel interface: an exception interface, or what a data port takes frames from.
    Interface(String),
    /// Hardware, as the device string names it.
    Device(String),
    /// A TCP listener.
    Listener(SocketAddr),
    /// An address that is put on the loopback.
    Vip(Net),
}

impl ExclusiveName {
    /// Its name in the network namespace; `None` where such a name cannot be, and so nobody has it.
    fn name(&self) -> Option<String> {
        let name = match self {
            ExclusiveName::Machine(name) => format!("{PREFIX}/machine/{name}"),
            ExclusiveName::Interface(name) if name.len() > INTERFACE_MAX || name.contains('/') => {
                return None;
            }
            ExclusiveName::Interface(name) => format!("{PREFIX}/interface/{name}"),
            ExclusiveName::Device(name) => format!("{PREFIX}/device/{name}"),
            ExclusiveName::Listener(address) => format!("{PREFIX}/listener/{address}"),
            ExclusiveName::Vip(net) => format!("{PREFIX}/vip/{}/{}", net.addr, net.len),
        };
        Some(name).filter(|name| name.len() <= NAME_MAX)
    }

    fn remedy(&self) -> &'static str {
        match self {
            ExclusiveName::Machine(_) => "stop that daemon, or set another machine.name",
            ExclusiveName::Interface(_) => "stop that daemon, or give the port another device and exception",
            ExclusiveName::Device(_) => "stop that daemon, or give the port another device",
            ExclusiveName::Listener(_) => "stop that daemon, or set another listen address",
            ExclusiveName::Vip(_) => {
                "only one daemon of a network namespace can announce an address; stop that daemon, or \
                 set announce = \"none\" here"
            }
        }
    }
}

impl std::fmt::Display for ExclusiveName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ExclusiveName::Machine(name) => write!(f, "machine.name {name:?}"),
            ExclusiveName::Interface(name) => write!(f, "interface {name}"),
            ExclusiveName::Device(name) => write!(f, "device {name}"),
            ExclusiveName::Listener(address) => write!(f, "listener {address}"),
            ExclusiveName::Vip(net) => write!(f, "VIP {}/{}", net.addr, net.len),
        }
    }
}

impl ClaimError {
    /// With the process that has it, if it can be found.
    fn with_holder(mut self, claim: &ExclusiveName) -> ClaimError {
        if let (ClaimError::Held { holder, .. }, Some(name)) = (&mut self, claim.name())
            && let Some(owner) = owner_of(&[&format!("@{name}")])
        {
            *holder = owner;
        }
        self
    }
}

/// What this process has claimed. Cloning shares it; the last one gives everything back.
#[derive(Clone, Debug, Default)]
pub struct Claims(Arc<Mutex<HeldClaims>>);

#[derive(Debug, Default)]
struct HeldClaims {
    sockets: BTreeMap<ExclusiveName, OwnedFd>,
    state_dir: Option<OwnedFd>,
}

impl Claims {
    /// Claims everything that a configuration names, and looks that interfaces it will make are not there yet. Touches
    /// nothing else.
    ///
    /// # Errors
    /// The first thing that cannot be had; what was claimed before it is given back.
    pub fn take(config: &Config) -> Result<Claims, ClaimError> {
        let claims = Claims::default();
        for claim in named_by(config).into_iter().chain(vips(config)) {
            claims.claim(&claim).map_err(|error| error.with_holder(&claim))?;
        }
        claims.lock_state_dir(&config.machine.state_dir)?;
        for port in &config.ports {
            let made = port.exception.as_deref().or_else(|| made_by_device(&port.device));
            if let Some(interface) = made
                && interface_exists(interface)?
            {
                return Err(ClaimError::Exists { port: port.name.clone(), interface: interface.to_owned() });
            }
        }
        Ok(claims)
    }

    /// Claims the addresses that a configuration puts on the loopback. Those that were claimed before stay.
    ///
    /// # Errors
    /// The first one that another process has; none is claimed anew then.
    pub(crate) fn claim_vips(&self, config: &Config) -> Result<(), ClaimError> {
        let mut new = Vec::new();
        for claim in vips(config) {
            match self.claim(&claim) {
                Ok(true) => new.push(claim),
                Ok(false) => {}
                Err(error) => {
                    let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                    new.iter().for_each(|claim| drop(held.sockets.remove(claim)));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Gives back addresses that are neither among `wanted` nor claimed by a configuration.
    pub(crate) fn keep_vips(&self, wanted: &BTreeSet<Net>) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.sockets.retain(|claim, _| !matches!(claim, ExclusiveName::Vip(net) if !wanted.contains(net)));
    }

    /// Claims one thing; false if it was claimed already. Does not wait.
    pub(crate) fn claim(&self, claim: &ExclusiveName) -> Result<bool, ClaimError> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.sockets.contains_key(claim) {
            return Ok(false);
        }
        let Some(name) = claim.name() else { return Ok(false) };
        let failed = |source: io::Error| ClaimError::Failed { what: claim.to_string(), source };
        let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).map_err(|e| failed(e.into()))?;
        let socket = socket().map_err(failed)?;
        rustix::net::bind(&socket, &address).map_err(|errno| match errno {
            rustix::io::Errno::ADDRINUSE => ClaimError::Held {
                what: claim.to_string(),
                holder: "another process".to_owned(),
                remedy: claim.remedy(),
            },
            errno => failed(errno.into()),
        })?;
        held.sockets.insert(claim.clone(), socket);
        Ok(true)
    }

    /// Locks the state directory. One that cannot be made or opened is no reason not to start: saving tells of it.
    fn lock_state_dir(&self, path: &Path) -> Result<(), ClaimError> {
        if let Err(error) = std::fs::create_dir_all(path) {
            tracing::warn!("cannot make {}: {error}; the state will not be saved", path.display());
            return Ok(());
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let directory = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(directory) => directory,
            Err(errno) => {
                tracing::warn!("cannot open {}: {errno}; the state will not be saved", path.display());
                return Ok(());
            }
        };
        let what = || format!("state_dir {}", path.display());
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let holder = locker_of(path).unwrap_or_else(|| "another process".to_owned());
                let remedy = "stop that daemon, or set another machine.state_dir";
                return Err(ClaimError::Held { what: what(), holder, remedy });
            }
            // Some network file systems.
            Err(errno) => tracing::warn!("cannot lock {}: {errno}", path.display()),
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).state_dir = Some(directory);
        Ok(())
    }
}

/// Everything but VIPs and the state directory.
fn named_by(config: &Config) -> Vec<ExclusiveName> {
    let mut claims = vec![ExclusiveName::Machine(config.machine.name.clone())];
    for port in &config.ports {
        claims.extend(port.exception.clone().map(ExclusiveName::Interface));
        match kernel_interface(&port.device) {
            Some(interface) => claims.push(ExclusiveName::Interface(interface.to_owned())),
            None => claims.extend(hardware(&port.device).map(ExclusiveName::Device)),
        }
    }
    let agents = config.agents.as_ref().map(|agents| agents.listen);
    let listeners = config.api.listen.into_iter().chain(config.metrics.listen).chain(agents);
    claims.extend(listeners.filter(|address| address.port() != 0).map(ExclusiveName::Listener));
    claims
}

fn vips(config: &Config) -> BTreeSet<ExclusiveName> {
    let announced = config.services.iter().filter(|service| service.announce == Announce::Kernel);
    announced.map(|service| ExclusiveName::Vip(service.vip)).collect()
}

/// The kernel interface that a device string names, of any driver that has one.
fn kernel_interface(device: &str) -> Option<&str> {
    device.split(',').skip(1).find_map(|part| part.trim().strip_prefix("iface="))
}

/// The kernel interface that a data port's driver makes.
fn made_by_device(device: &str) -> Option<&str> {
    kernel_interface(device).filter(|_| device.starts_with("net_tap"))
}

/// A PCI address in its long form: it has a colon, which virtual devices' names have not.
fn hardware(device: &str) -> Option<String> {
    let name = device.split(',').next().unwrap_or(device).trim();
    let name = name.strip_prefix("pci:").unwrap_or(name);
    match name.matches(':').count() {
        0 => None,
        1 => Some(format!("0000:{name}").to_ascii_lowercase()),
        _ => Some(name.to_ascii_lowercase()),
    }
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?)
}

/// Whether this network namespace has an interface of that name.
///
/// # Errors
/// The kernel does not say.
pub fn interface_exists(interface: &str) -> Result<bool, ClaimError> {
    let failed = |source: io::Error| ClaimError::Failed { what: format!("interface {interface}"), source };
    let socket = socket().map_err(failed)?;
    match rustix::net::netdevice::name_to_index(&socket, interface) {
        Ok(_) => Ok(true),
        Err(rustix::io::Errno::NODEV) => Ok(false),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// Whose the unix socket of one of these names is (`@` first where it is abstract): the process that has it open. Looks through all of
/// `/proc`, so only for one who starts.
pub(crate) fn owner_of(names: &[&str]) -> Option<String> {
    // "0000000000000000: 00000002 00000000 00010000 0001 01 23456 /run/x.sock"
    let sockets = std::fs::read_to_string("/proc/self/net/unix").ok()?;
    let inode_of = |line: &str| {
        let (path, inode) = (line.split_whitespace().nth(7)?, line.split_whitespace().nth(6)?);
        names.contains(&path).then(|| format!("socket:[{inode}]"))
    };
    let wanted: Vec<String> = sockets.lines().filter_map(inode_of).collect();
    if wanted.is_empty() {
        return None;
    }
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let has = |pid: &i32| {
        let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        let mut targets = files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok());
        targets.any(|target| wanted.iter().any(|wanted| target.as_os_str() == wanted.as_str()))
    };
    let mut pids = pids;
    pids.find(has).map(process)
}

/// A process in words.
fn process(pid: i32) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    let words: Vec<String> = words.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    let command: String = words.join(" ").chars().take(COMMAND_MAX).collect();
    if command.is_empty() {
        format!("process {pid}")
    } else {
        format!("process {pid} ({})", model::visible(&command))
    }
}

/// Who has locked a file, as `/proc/locks` tells.
fn locker_of(path: &Path) -> Option<String> {
    let meta = std::fs::metadata(path).ok()?;
    let (major, minor) = (rustix::fs::major(meta.st_dev()), rustix::fs::minor(meta.st_dev()));
    let file = format!("{major:02x}:{minor:02x}:{}", meta.st_ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    // "1: FLOCK  ADVISORY  WRITE 1234 fe:00:1835023 0 EOF"
    let mut lines = locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = lines.find(|words| words.get(1) == Some(&"FLOCK") && words.get(5) == Some(&file.as_str()))?;
    Some(process(line.get(4)?.parse().ok()?))
}

#[cfg(test)]
mod tests;
