//! The checked configuration. [`crate::load()`] is the only way to make one from text.

mod memory;
mod names;
mod payload;
mod restart;
mod sync_key;
mod template;
mod tunnel_ports;

pub use payload::Payload;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
pub use tunnel_ports::TunnelPorts;
pub use wire::encap::Mode;

/// Slots of all services of a cluster: as many services as there can be, with `maglev_size` as it is by default.
pub const CLUSTER_SLOTS_MAX: u64 = crate::check::SERVICES_MAX as u64 * 65_537;

/// A checked configuration: every value in range, every reference resolved, every default filled in.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Config {
    /// `[machine]`
    pub machine: Machine,
    /// `[api]`
    pub api: Api,
    /// `[metrics]`
    pub metrics: Metrics,
    /// `[timeouts]`
    pub timeouts: Timeouts,
    /// `[dpdk]`
    pub dpdk: Dpdk,
    /// `[workers]`
    pub workers: Workers,
    /// `[cluster]` with a `store`; `None`: the machine is alone
    pub cluster: Option<Cluster>,
    /// `[agents]`; `None`: nothing listens for agents
    pub agents: Option<Agents>,
    /// `[[port]]`, at least one
    pub ports: Vec<Port>,
    /// `[[service]]`, possibly none
    pub services: Vec<Service>,
}

/// `[machine]`
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Machine {
    /// Name: 1 to 63 of `a-z A-Z 0-9 . _ -`; part of the EAL file prefix `guideway-<name>`.
    pub name: String,
    /// Outer source IPv4 and the machine's data address.
    pub address: Option<Ipv4Addr>,
    /// Outer source IPv6.
    pub address6: Option<Ipv6Addr>,
    /// Static next hop of everything that is not given a MAC.
    pub next_hop_mac: Option<Mac>,
    /// 16 bytes; the sample key (00 01 … 0f) draws a warning.
    #[serde(skip)]
    pub cluster_key: [u8; 16],
    /// Default reset.
    pub on_closed_port: OnClosedPort,
    /// Whom the machine speaks BGP or BFD with; default the exception gateways.
    pub routing_peers: Vec<IpAddr>,
    /// Default `/var/lib/guideway`.
    pub state_dir: PathBuf,
}

/// A MAC address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Mac(pub [u8; 6]);

/// `[api]`
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Api {
    /// Unix socket; default `/run/guideway/<machine.name>.sock`. Mode 0660, group guideway where it exists.
    pub socket: PathBuf,
    /// Optional TCP listener; needs `token_file`, and `tls` unless the address is loopback.
    pub listen: Option<SocketAddr>,
    /// File whose first line is the bearer token.
    pub token_file: Option<PathBuf>,
    /// Certificate and key.
    pub tls: Option<Tls>,
}

/// `tls = { cert = "…", key = "…", client_ca = "…" }`
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Tls {
    /// PEM chain.
    pub cert: PathBuf,
    /// PEM key.
    pub key: PathBuf,
    /// When given, clients must present a certificate of this CA.
    pub client_ca: Option<PathBuf>,
}

/// `[metrics]`
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Metrics {
    /// Optional TCP listener for `/metrics`; the API serves `/metrics` in any case.
    pub listen: Option<SocketAddr>,
}

/// `[timeouts]`; seconds 1 to 86,400, milliseconds 10 to 60,000.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Timeouts {
    /// Default 1800.
    pub tcp_established_s: u32,
    /// Default 30.
    pub tcp_closing_s: u32,
    /// Default 30.
    pub syn_s: u32,
    /// Default 60.
    pub udp_s: u32,
    /// Default 1000.
    pub fragment_ms: u32,
}

/// `[dpdk]`
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Dpdk {
    /// Passed to EAL before our own.
    pub eal_args: Vec<String>,
}

/// `[workers]`
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Workers {
    /// One worker each; 1 to 64 distinct CPUs.
    pub cpus: Vec<u16>,
    /// CPUs of the management core; default: every CPU that is no worker's, or all when there is none.
    pub management_cpus: Vec<u16>,
    /// Idle policy.
    pub idle: Idle,
    /// IPv4 flows a worker; default 1,048,576.
    pub flows: u64,
    /// Wide flows (IPv6, any-port, prefix) a worker; default the same.
    pub wide_flows: u64,
}

/// What a worker does after empty turns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Idle {
    /// Spins.
    Busy,
    /// Backs off to short sleeps.
    Adaptive,
}

/// `[cluster]`, with `store = "etcd"`
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Cluster {
    /// 1 to 16 of `http://HOST:PORT` or `https://HOST:PORT`, all of one kind.
    pub endpoints: Vec<String>,
    /// Files; `Some` exactly for https endpoints.
    pub tls: Option<StoreTls>,
    /// Who logs in.
    pub user: Option<StoreUser>,
    /// UDP port of messages between the machines; default 7480.
    pub port: u16,
    /// What the tags of these messages are made with; default [`Machine::cluster_key`].
    pub sync_key: [u8; 16],
    /// What tags may be made with besides.
    pub sync_key_accepted: Option<[u8; 16]>,
    /// Nothing, but in a build for negative controls.
    #[serde(skip)]
    pub left_out: LeftOut,
}

#[cfg(all(feature = "negative-controls", not(debug_assertions)))]
compile_error!(
    "the feature negative-controls lets [cluster] lose flows and is for tests; build without it what is to be released: \
     cargo build --release, without --workspace"
);

/// What the machines of a cluster do not do for their flows. Only a build with the feature `negative-controls` has keys for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LeftOut {
    /// `sync = "off"`: every flow is left to the table in force.
    #[cfg(feature = "negative-controls")]
    pub sync: bool,
    /// `export = "off"`: nobody is told of the flows of slots that change.
    #[cfg(feature = "negative-controls")]
    pub export: bool,
}

#[cfg(feature = "negative-controls")]
impl LeftOut {
    /// Whether flows are left to the table in force.
    pub const fn sync(self) -> bool {
        self.sync
    }

    /// Whether nobody is told of the flows of slots that change.
    pub const fn export(self) -> bool {
        self.export
    }
}

#[cfg(not(feature = "negative-controls"))]
impl LeftOut {
    /// Whether flows are left to the table in force.
    pub const fn sync(self) -> bool {
        false
    }

    /// Whether nobody is told of the flows of slots that change.
    pub const fn export(self) -> bool {
        false
    }
}

/// `tls = { ca = "…", cert = "…", key = "…" }`
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct StoreTls {
    /// PEM certificates of those who sign the endpoints'.
    pub ca: PathBuf,
    /// PEM chain and key that show who we are.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// `user = { name = "…", password_file = "…" }`
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct StoreUser {
    /// Name.
    pub name: String,
    /// File whose first line is the password.
    pub password_file: PathBuf,
}

/// `[agents]`
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Agents {
    /// TCP listener.
    pub listen: SocketAddr,
    /// What agents are told to connect to: an address of this machine, never a wildcard; default `listen`.
    pub advertise: SocketAddr,
    /// Certificate and key; with `client_ca` agents must present a certificate.
    pub tls: Option<Tls>,
    /// Connections at once, 1 to 65,536; default 4096. Further ones are closed.
    pub connections: u32,
}

/// `[[port]]`
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Port {
    /// Unique name.
    pub name: String,
    /// A DPDK vdev (`net_…`) or PCI address with arguments.
    pub device: String,
    /// 1280 to 9000 (IPv4-only: from 576); default 1500.
    pub mtu: u16,
    /// MAC to use instead of the device's own.
    pub mac: Option<Mac>,
    /// Kernel interface to create; at most 15 bytes.
    pub exception: Option<String>,
    /// Set on it at every start.
    pub exception_addresses: Vec<Net>,
    /// Default routes through it (at most one of each family): `exception_gateway`, `exception_gateway6`.
    pub exception_gateway: Option<Ipv4Addr>,
    /// IPv6 gateway.
    pub exception_gateway6: Option<Ipv6Addr>,
}

/// An address with a prefix length; host bits allowed for interface addresses, refused for VIP prefixes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Net {
    /// Address.
    pub addr: IpAddr,
    /// Prefix length.
    pub len: u8,
}

/// `[[service]]`
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Service {
    /// Unique name.
    pub name: String,
    /// Address (then `len` is 32 or 128) or prefix (IPv6 /96 or longer).
    pub vip: Net,
    /// 0 = any.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Forwarding mode.
    #[serde(serialize_with = "names::mode")]
    pub mode: Mode,
    /// Prime, larger than the number of backends, 251 to 5,000,011; default 65,537.
    pub maglev_size: u32,
    /// `hash`
    pub hash: Hash,
    /// `gue_port` and the like.
    #[serde(flatten)]
    pub tunnel_ports: TunnelPorts,
    /// Default 100; 24 bits.
    pub vni: u32,
    /// Path MTU to the backends; default the port's.
    pub mtu: Option<u16>,
    /// Default keep for TCP, reselect for UDP; `reset` is refused by name.
    pub on_down: OnDown,
    /// Default reset.
    pub on_empty: OnEmpty,
    /// Share of backends down (0 to 100) above which health is disregarded; default 50; 0 = never disregard.
    pub panic_percent: u8,
    /// How long a removed backend's flows may live on; default 300,000.
    pub drain_timeout_ms: u64,
    /// Default all. See [`Service::is_stateless`].
    pub state: Tracking,
    /// Default none.
    pub announce: Announce,
    /// Default maglev.
    pub policy: Policy,
    /// `weight`; default static.
    pub weight_by: WeightBy,
    /// Default min; of policy least-load.
    pub select: Select,
    /// Default head.
    pub join: Join,
    /// 1000 to 3,600,000; default 30,000; of join slow-start.
    pub slow_start_ms: u32,
    /// Flows that a backend of weight 1 is meant to carry, 1 to 16,777,216; default 10,000.
    pub capacity: u32,
    /// Default spread; of policy least-load.
    pub overload: Overload,
    /// Most slots moved a minute, percent, 1 to 100; default 5; of weight load.
    pub churn_percent: u8,
    /// `[service.agents]`; `None`: no agent may speak for it.
    pub agents: Option<ServiceAgents>,
    /// `[service.health]`; default kind none.
    pub health: Health,
    /// `[[service.backend]]`, possibly none.
    pub backends: Vec<Backend>,
}

/// `[service.agents]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ServiceAgents {
    /// File whose first line is the token, 16 to 256 bytes.
    pub token_file: PathBuf,
    /// Silence after which an agent's backends are suspect, 500 to 60,000; default 3000.
    pub lease_ms: u32,
    /// `[service.agents.register]`; `None`: nothing may register.
    pub register: Option<Template>,
}

/// `[service.agents.register]`: what may register.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Template {
    /// One of these holds the address; at least one.
    pub addresses: Vec<Net>,
    /// What names look like, with at most one `*`; default `*`.
    pub names: String,
    /// Ports that may be asked for, first and last; default none but the service's.
    pub ports: Vec<(u16, u16)>,
    /// Most registered backends at once, 1 to 65,535; default 256.
    pub limit: u32,
    /// Largest weight, 1 to 65,535; default 100.
    pub weight_max: u32,
}

/// Who chooses the backend of a new flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The slot table
    Maglev,
    /// The flow's owner, by load
    LeastLoad,
}

/// Where weights come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WeightBy {
    /// As written or registered
    Static,
    /// They follow the load
    Load,
}

/// How the least loaded is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Select {
    /// The least of all
    Min,
    /// The better of two random ones
    P2c,
}

/// How a backend that comes up comes to its share.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Join {
    /// At once
    Head,
    /// It grows over `slow_start_ms`
    SlowStart,
}

/// Fate of new flows when every backend is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Overload {
    /// They are spread all the same
    Spread,
    /// As `on_empty` says
    Reject,
}

/// Transport protocol of a service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// 6
    Tcp,
    /// 17
    Udp,
}

/// What the slot is computed from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Hash {
    /// 5-tuple
    Tuple,
    /// Source address
    Source,
}

/// Which flows are tracked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tracking {
    /// Every flow
    All,
    /// TCP flows of slots whose backend changed lately, and all UDP flows
    Exceptions,
}

/// Fate of established flows of a down backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnDown {
    /// They stay
    Keep,
    /// Next packet steered anew
    Reselect,
}

/// Fate of packets when no backend is usable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnEmpty {
    /// RST or port unreachable
    Reset,
    /// Silence
    Drop,
}

/// Fate of packets to ports of a VIP that no service has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnClosedPort {
    /// RST or port unreachable
    Reset,
    /// Silence
    Drop,
}

/// Whether the VIP is put on the loopback while the service is ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Announce {
    /// No
    None,
    /// Yes: the kernel answers ARP and ND, a routing daemon can export it
    Kernel,
}

/// `[service.health]`; times 10 to 600,000 ms, timeout not above interval.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Health {
    /// What is probed, with its parameters.
    pub kind: HealthKind,
    /// Default 1000.
    pub interval_ms: u32,
    /// Default 500 (or the interval, if smaller).
    pub timeout_ms: u32,
    /// Default 3; 1 to 100.
    pub fall: u32,
    /// Default 2; 1 to 100.
    pub rise: u32,
    /// Probed port; default the service's (must be given for any-port services).
    pub port: Option<u16>,
    /// Interface the probe leaves by; default the exception interface of the (first) port.
    pub via: Option<String>,
    /// direct: to the backend's address; tunnel: to the VIP through the traffic's own encapsulation.
    pub route: Route,
    /// Who checks; default agent where `[service.agents]` is, else machine.
    pub checks: Checks,
}

/// Who checks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Checks {
    /// Every machine
    Machine,
    /// The agent of the backend's host; while there is none, every machine
    Agent,
}

/// What is probed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum HealthKind {
    /// Always up.
    None,
    /// Connect; optionally send and expect a prefix of the answer.
    Tcp {
        /// Bytes to send.
        send: Option<Payload>,
        /// Bytes the answer must contain.
        expect: Option<Payload>,
    },
    /// GET.
    Http(HttpCheck),
    /// GET over TLS; the certificate is verified only where `ca` says by what.
    Https(HttpCheck),
    /// Datagram; passes on an answer (that contains `expect`), fails on ICMP unreachable, and on silence unless that passes.
    Udp {
        /// Bytes to send; default empty.
        send: Option<Payload>,
        /// Bytes the answer must contain.
        expect: Option<Payload>,
        /// No answer until the timeout passes: the server never answers what it does not understand. Only ICMP unreachable fails.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        silence_passes: bool,
    },
    /// A command on the backend's host, run by its agent; a machine that has to check by itself connects over TCP.
    Exec {
        /// Its name in the agent's file: never a command line.
        command: String,
    },
}

/// HTTP parameters.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct HttpCheck {
    /// Default `/`.
    pub path: String,
    /// Host header, with a port where one is written; default the VIP.
    pub host: Option<String>,
    /// Accepted statuses; default 200 to 399.
    pub expect_status: Vec<(u16, u16)>,
    /// Bytes the body (first 64 KiB) must contain.
    pub expect: Option<Payload>,
    /// TLS server name; default `host`.
    pub sni: Option<String>,
    /// Of https; `None`: any certificate will do, and none is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Box<CheckFiles>>,
}

/// PEM files of an https check.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct CheckFiles {
    /// The certificate, and those above it, that is shown to a server that wants one; with `key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// Authorities: the server's certificate must be by one of them, and for the TLS server name (else the VIP). `None`: any will do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

/// Way of a probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Route {
    /// To the backend's own address
    Direct,
    /// Encapsulated like the traffic
    Tunnel,
}

/// `[[service.backend]]`
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Backend {
    /// Unique within the service; identity in the Maglev table.
    pub name: String,
    /// Address; of either family where the mode has an outer header, of the VIP's family in l2.
    pub address: IpAddr,
    /// 0 to 65,535; default 1; 0 = no new flows.
    pub weight: u32,
    /// Destination of the inner frame where the mode carries one; else the next hop.
    pub mac: Option<Mac>,
    /// Default up.
    pub state: AdminState,
    /// Flows that it is meant to carry at weight 1, 1 to 16,777,216; default the service's.
    pub capacity: u32,
    /// `Some`: it registered; `None`: it is the configuration's, a registration without an end.
    pub registration: Option<Registration>,
}

/// Who registered a backend.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Registration {
    /// Name of the agent.
    pub agent: String,
    /// The backend's start.
    pub incarnation: u64,
    /// Port that is checked; `None`: as the service says.
    pub port: Option<u16>,
}

/// What the operator wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AdminState {
    /// As health says.
    Up,
    /// Down whatever health says.
    Down,
    /// No new flows.
    Drain,
}

impl AdminState {
    /// As in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            AdminState::Up => "up",
            AdminState::Down => "down",
            AdminState::Drain => "drain",
        }
    }
}
