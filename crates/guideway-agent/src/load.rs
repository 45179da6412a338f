//! How loaded backends are, as their host sees it: busy CPU, connections, and what they say of themselves.
//!
//! Rule of this module: it reads files and decides nothing. All of it may block, so it runs beside the agent's thread.

use crate::host::Sample;
use model::agent::{Load, PERMILLE_MAX};
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// Time over which busy CPU is measured, at least.
const CPU_WINDOW: Duration = Duration::from_secs(1);
/// Looking at all sockets takes at most one part of so many of the time.
const SOCKETS_SHARE: u32 = 20;
/// State of an established connection in /proc/net/tcp (include/net/tcp_states.h).
const ESTABLISHED: &str = "01";
/// Longest load file that is read, bytes.
const LOAD_FILE_MAX: u64 = 64;

/// Remembers what is needed from one look to the next.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    cpu: VecDeque<(Instant, Cpu)>,
    /// Connections as they were last counted, and when they may be again.
    connections: HashMap<(String, String), u32>,
    sockets_from: Option<Instant>,
}

impl Sampler {
    /// Looks at everything. Sockets are counted at most once in `sockets_every`.
    pub(crate) fn sample(&mut self, samples: &[Sample], sockets_every: Duration) -> Vec<Load> {
        let now = Instant::now();
        let cpu_permille = self.cpu(now);
        if self.sockets_from.is_none_or(|from| from <= now) {
            self.connections = connections(samples);
            let took = now.elapsed();
            self.sockets_from = Some(now + sockets_every.max(took * SOCKETS_SHARE));
        }
        samples
            .iter()
            .map(|of| Load {
                service: of.service.clone(),
                backend: of.backend.clone(),
                cpu_permille: cpu_permille.filter(|_| of.cpu),
                connections: self.connections.get(&(of.service.clone(), of.backend.clone())).copied(),
                custom_permille: of.load_file.as_deref().and_then(custom),
            })
            .collect()
    }

    fn cpu(&mut self, now: Instant) -> Option<u16> {
        let cpu = std::fs::read_to_string("/proc/stat").ok().and_then(|text| Cpu::parse(&text))?;
        self.cpu.push_back((now, cpu));
        // The youngest that is old enough comes first.
        let is_old = |at: Instant| now.duration_since(at) >= CPU_WINDOW;
        while self.cpu.get(1).is_some_and(|(at, _)| is_old(*at)) {
            self.cpu.pop_front();
        }
        self.cpu.front().and_then(|(_, before)| cpu.busy_permille(*before))
    }
}

/// Times since the boot, in the kernel's unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Cpu {
    busy: u64,
    total: u64,
}

impl Cpu {
    /// Of /proc/stat: `cpu user nice system idle iowait irq softirq steal guest guest_nice` (proc(5)); guests are in `user`
    /// and `nice` already.
    fn parse(text: &str) -> Option<Cpu> {
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        let mut fields = [0_u64; 8];
        for (field, word) in fields.iter_mut().zip(line.split_ascii_whitespace()) {
            *field = word.parse().ok()?;
        }
        let [user, nice, system, idle, iowait, irq, softirq, steal] = fields;
        let busy = user + nice + system + irq + softirq + steal;
        Some(Cpu { busy, total: busy + idle + iowait })
    }

    /// Since `before`; `None` when no time has passed.
    fn busy_permille(self, before: Cpu) -> Option<u16> {
        let total = self.total.checked_sub(before.total).filter(|total| *total > 0)?;
        let busy = self.busy.saturating_sub(before.busy).min(total);
        u16::try_from(busy * u64::from(PERMILLE_MAX) / total).ok()
    }
}

/// What a backend says of itself: a number from 0 to 1000. Anything else is not known.
fn custom(path: &Path) -> Option<u16> {
    let mut text = String::new();
    File::open(path).ok()?.take(LOAD_FILE_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok().filter(|figure| *figure <= PERMILLE_MAX)
}

/// Established connections by their own end.
#[derive(Debug, Default)]
struct Counts {
    /// At an address and port.
    at_port: HashMap<(IpAddr, u16), u32>,
    /// At an address, any port.
    at_address: HashMap<IpAddr, u32>,
}

impl Counts {
    /// Nothing yet, of what `samples` ask for.
    fn wanted(samples: &[Sample]) -> Counts {
        let mut counts = Counts::default();
        for (vip, address, port) in samples.iter().filter_map(|sample| sample.sockets) {
            if port == 0 {
                counts.at_address.insert(vip, 0);
            } else {
                counts.at_port.insert((vip, port), 0);
                counts.at_port.insert((address, port), 0);
            }
        }
        counts
    }

    fn is_empty(&self) -> bool {
        self.at_port.is_empty() && self.at_address.is_empty()
    }

    /// Counts the sockets of one file.
    fn add(&mut self, mut file: impl BufRead) {
        let mut line = String::new();
        // A file that ends early counts as far as it goes.
        while matches!(file.read_line(&mut line), Ok(1..)) {
            if let Some((address, port)) = established(&line) {
                if let Some(count) = self.at_port.get_mut(&(address, port)) {
                    *count = count.saturating_add(1);
                }
                if let Some(count) = self.at_address.get_mut(&address) {
                    *count = count.saturating_add(1);
                }
            }
            line.clear();
        }
    }

    fn of(&self, (vip, address, port): (IpAddr, IpAddr, u16)) -> u32 {
        if port == 0 {
            return self.at_address.get(&vip).copied().unwrap_or(0);
        }
        let at = |end: IpAddr| self.at_port.get(&(end, port)).copied().unwrap_or(0);
        if vip == address { at(vip) } else { at(vip).saturating_add(at(address)) }
    }
}

/// Own end of an established connection; `None` for every other line of /proc/net/tcp and tcp6.
fn established(line: &str) -> Option<(IpAddr, u16)> {
    let mut words = line.split_ascii_whitespace();
    let local = words.nth(1)?;
    if words.nth(1)? != ESTABLISHED {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Words of four bytes in the machine's order.
    let word = |at: usize| -> Option<[u8; 4]> {
        Some(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes())
    };
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (four, at) in bytes.chunks_exact_mut(4).zip([0, 8, 16, 24]) {
                four.copy_from_slice(&word(at)?);
            }
            // A server that listens on both families has IPv4 clients at ::ffff:a.b.c.d.
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some((address, port))
}

fn connections(samples: &[Sample]) -> HashMap<(String, String), u32> {
    let mut counts = Counts::wanted(samples);
    if counts.is_empty() {
        return HashMap::new();
    }
    let mut read = 0;
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        if let Ok(file) = File::open(path) {
            counts.add(BufReader::with_capacity(65_536, file));
            read += 1;
        }
    }
    if read == 0 {
        return HashMap::new();
    }
    samples
        .iter()
        .filter_map(|of| Some(((of.service.clone(), of.backend.clone()), counts.of(of.sockets?))))
        .collect()
}
