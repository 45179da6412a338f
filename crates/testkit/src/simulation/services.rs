//! Services and backends of a simulated cluster: what operators want of them, and the configurations that say so.

use super::client::ServiceOf;
use super::machine::{KEY, UDP_PORT, machine_address};
use super::random::Random;
use super::scenario::Scenario;
use crate::frames::PORT_MAC;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use wire::{Addr, ServiceId, Tick};

/// Flows that a backend is meant to carry, where load decides.
const CAPACITY: u32 = 100;
/// Addresses of backends that operators write down, and of those that register.
const WRITTEN: u32 = 0x0b00_0000;
const REGISTERED: u32 = 0x0c00_0000;
const TOKEN: &[u8] = b"a token of the simulation";

/// Where a backend stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// Takes new flows, if it is up.
    Wanted,
    /// Only its flows live on.
    Drained,
    /// Not there any more.
    Removed,
}

/// A backend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backend {
    /// Place of its service.
    pub(super) service: usize,
    pub(super) standing: Standing,
    /// It has registered; else it is written down.
    pub(super) registers: bool,
    /// Until when flows may have been its own that ended with its removal.
    pub(super) removed: Tick,
}

/// All of them; backends by number.
#[derive(Debug)]
pub(super) struct ServicePool {
    pub(super) services: Vec<ServiceOf>,
    pub(super) backends: BTreeMap<u32, Backend>,
    /// How many were written down at first.
    first: u32,
}

/// Name of a backend.
pub(super) fn name_of(backend: u32) -> String {
    format!("b{backend}")
}

/// Name of the service at this place.
pub(super) fn service_name(place: usize) -> String {
    format!("s{place}")
}

/// What a machine says of itself.
pub(super) fn machine_text(machine: usize, scenario: &Scenario) -> String {
    let hex = |bytes: &[u8]| bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    let mac: Vec<String> = PORT_MAC.iter().map(|byte| format!("{byte:02x}")).collect();
    let seconds = |us: u64| us.div_ceil(1_000_000);
    let (idle, closing) = (seconds(scenario.habits.max_idle_us), seconds(scenario.closing_us()));
    let address = Ipv4Addr::from_bits(machine_address(machine));
    format!(
        "[machine]\nname = \"lb{machine}\"\naddress = \"{address}\"\nnext_hop_mac = \"{}\"\n\
         cluster_key = \"{}\"\n\
         on_closed_port = \"drop\"\n\
         [cluster]\nstore = \"etcd\"\nendpoints = [\"http://192.0.2.1:2379\"]\nport = {UDP_PORT}\n\
         [timeouts]\ntcp_established_s = {idle}\ntcp_closing_s = {closing}\nsyn_s = {idle}\nudp_s = {idle}\n\
         [agents]\nlisten = \"{address}:7481\"\n\
         [[port]]\nname = \"data0\"\ndevice = \"net_null0\"\n",
        mac.join(":"),
        hex(&KEY)
    )
}

impl ServicePool {
    /// The services, with their first backends.
    pub(super) fn new(scenario: &Scenario, random: &mut Random) -> ServicePool {
        let mut services = vec![
            ServiceOf { id: ServiceId(1), vip: Addr::V4(0xcb00_710a), port: 80, tcp: true },
            ServiceOf { id: ServiceId(2), vip: Addr::V4(0xcb00_710a), port: 53, tcp: false },
            ServiceOf { id: ServiceId(3), vip: Addr::V6(0x2001_0db8 << 96 | 80), port: 443, tcp: true },
        ];
        if scenario.backends > 0 {
            services.truncate(1);
        }
        let mut of = ServicePool { services, backends: BTreeMap::new(), first: 0 };
        for service in 0..of.services.len() {
            let count = if scenario.backends > 0 { scenario.backends as u64 } else { random.between(3, 5) };
            for _ in 0..count {
                of.add(service, false);
            }
        }
        of.first = of.next();
        of
    }

    fn next(&self) -> u32 {
        self.backends.last_key_value().map_or(1, |(last, _)| last + 1)
    }

    /// A new backend; its number.
    pub(super) fn add(&mut self, service: usize, registers: bool) -> u32 {
        let number = self.next();
        self.backends
            .insert(number, Backend { service, standing: Standing::Wanted, registers, removed: Tick(0) });
        number
    }

    /// Backends of a service that stand so.
    pub(super) fn that(&self, service: usize, is: impl Fn(&Backend) -> bool) -> Vec<u32> {
        let of = self.backends.iter().filter(|(_, of)| of.service == service && is(of));
        of.map(|(number, _)| *number).collect()
    }

    /// Those that an operator has written down, and wants.
    pub(super) fn wanted(&self, service: usize) -> Vec<u32> {
        self.that(service, |of| of.standing == Standing::Wanted && !of.registers)
    }

    /// Whether the backend is not there, or was not at a time since.
    pub(super) fn was_removed(&self, backend: u32, since: Tick) -> bool {
        let of = self.backends.get(&backend);
        of.is_none_or(|of| of.standing == Standing::Removed || of.removed >= since)
    }

    pub(super) fn stands(&mut self, backend: u32, standing: Standing, now: Tick) {
        if let Some(of) = self.backends.get_mut(&backend) {
            if of.standing == Standing::Removed {
                of.removed = Tick(now.0 + RETURNS_US);
            }
            of.standing = standing;
        }
    }

    /// Where a backend has its tunnel's end.
    pub(super) fn address(&self, backend: u32) -> IpAddr {
        let registers = self.backends.get(&backend).is_some_and(|of| of.registers);
        Ipv4Addr::from_bits(backend | if registers { REGISTERED } else { WRITTEN }).into()
    }

    /// By service, what agents must know.
    pub(super) fn tokens(&self) -> control::simulation::ServiceTokens {
        self.services.iter().enumerate().map(|(place, _)| (service_name(place), TOKEN.to_vec())).collect()
    }

    /// What operators have asked for: services, and backends that are drained.
    pub(super) fn asked(&self, scenario: &Scenario) -> (String, BTreeSet<(String, String)>) {
        let is_there = |of: &Backend| of.standing != Standing::Removed;
        let text = self.text(scenario, &is_there);
        (model::services_of(&text).expect("TOML"), self.drains())
    }

    /// Backends that operators drain, as (service, backend).
    pub(super) fn drains(&self) -> BTreeSet<(String, String)> {
        let drains = self.backends.iter().filter(|(_, of)| of.standing == Standing::Drained);
        drains.map(|(number, of)| (service_name(of.service), name_of(*number))).collect()
    }

    /// As it was at first, and as machines' own files say it.
    pub(super) fn first_text(&self, scenario: &Scenario) -> String {
        let first = ServicePool {
            services: self.services.clone(),
            backends: self
                .backends
                .range(..self.first)
                .map(|(number, of)| (*number, as_first(*of)))
                .collect(),
            first: self.first,
        };
        first.text(scenario, &|_| true)
    }

    fn text(&self, scenario: &Scenario, is_there: &dyn Fn(&Backend) -> bool) -> String {
        let mut text = String::new();
        for (place, of) in self.services.iter().enumerate() {
            let vip = match of.vip {
                Addr::V4(vip) => IpAddr::V4(Ipv4Addr::from_bits(vip)),
                Addr::V6(vip) => IpAddr::V6(vip.into()),
            };
            let (port, protocol) = (of.port, if of.tcp { "tcp" } else { "udp" });
            let (interval, size) =
                if scenario.backends > 0 { (2000, scenario.slots.max(251)) } else { (CHECK_MS, 2039) };
            let _ = write!(
                text,
                "[[service]]\nname = \"{}\"\nvip = \"{vip}\"\nport = {port}\nprotocol = \"{protocol}\"\n\
                 on_down = \"keep\"\n\
                 maglev_size = {size}\ndrain_timeout_ms = {DRAIN_MS}\n",
                service_name(place)
            );
            if scenario.by_load {
                let select = if of.tcp { "min" } else { "p2c" };
                let _ =
                    write!(text, "policy = \"least-load\"\nselect = \"{select}\"\ncapacity = {CAPACITY}\n");
            }
            let _ = write!(
                text,
                "health = {{ kind = \"tcp\", via = \"eth0\", interval_ms = {interval}, timeout_ms = 100, \
                 fall = 1, rise = 1, port = 80, checks = \"machine\" }}\n\
                 [service.agents]\ntoken_file = \"/token\"\nlease_ms = 1000\n\
                 register = {{ addresses = [\"12.0.0.0/8\"] }}\n"
            );
            for number in self.that(place, |of| is_there(of) && !of.registers) {
                let (name, address) = (name_of(number), self.address(number));
                let _ = write!(text, "[[service.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n");
            }
        }
        text
    }
}

fn as_first(of: Backend) -> Backend {
    Backend { standing: Standing::Wanted, ..of }
}

/// Time between two checks of a backend by a machine, milliseconds.
pub(super) const CHECK_MS: u64 = 200;
/// How long machines may take a backend that returns for the one that was removed, microseconds.
const RETURNS_US: u64 = 4_000_000;
/// How long the flows of a backend that was removed live on, milliseconds.
const DRAIN_MS: u64 = 1_000;
