//! The config file as it is written: every key, no rule but the shape.
//!
//! Values stay TOML values with their places, so that a wrong type is reported like any other mistake, next to the
//! others, and not by the first serde error alone. The types for the schema stand beside them.

use crate::config::{
    AdminState, Announce, Checks, Hash, Idle, Join, Mode, OnClosedPort, OnDown, OnEmpty, Overload, Policy,
    Protocol, Route, Select, Tracking, WeightBy,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use toml::{Spanned, Value};

/// One value and its place, or nothing.
pub(crate) type Cell = Option<Spanned<Value>>;
/// A list, with the place of each item.
pub(crate) type List = Option<Spanned<Vec<Spanned<Value>>>>;

/// Configuration of guidewayd.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Guideway configuration")]
pub(crate) struct File {
    #[schemars(with = "Machine")]
    pub(crate) machine: Option<Spanned<Machine>>,
    #[serde(default)]
    #[schemars(with = "Api")]
    pub(crate) api: Option<Spanned<Api>>,
    #[serde(default)]
    #[schemars(with = "Metrics")]
    pub(crate) metrics: Option<Spanned<Metrics>>,
    #[serde(default)]
    #[schemars(with = "Timeouts")]
    pub(crate) timeouts: Option<Spanned<Timeouts>>,
    #[serde(default)]
    #[schemars(with = "Dpdk")]
    pub(crate) dpdk: Option<Spanned<Dpdk>>,
    #[serde(default)]
    #[schemars(with = "Workers")]
    pub(crate) workers: Option<Spanned<Workers>>,
    #[serde(default)]
    #[schemars(with = "Cluster")]
    pub(crate) cluster: Option<Spanned<Cluster>>,
    #[serde(default)]
    #[schemars(with = "Agents")]
    pub(crate) agents: Option<Spanned<Agents>>,
    #[schemars(with = "Vec<Port>", length(min = 1, max = 16))]
    pub(crate) port: Option<Vec<Spanned<Port>>>,
    #[serde(default)]
    #[schemars(with = "Vec<Service>", length(max = 4096))]
    pub(crate) service: Vec<Spanned<Service>>,
}

/// This machine.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Machine {
    /// Name: 1 to 63 of a-z A-Z 0-9 . _ -; part of the EAL file prefix.
    #[schemars(with = "String")]
    pub(crate) name: Cell,
    /// Outer source IPv4 and the machine's data address.
    #[serde(default)]
    #[schemars(with = "String")]
    pub(crate) address: Cell,
    /// Outer source IPv6.
    #[serde(default)]
    #[schemars(with = "String")]
    pub(crate) address6: Cell,
    /// Static next hop of everything that is not given a MAC; default: the kernel's routes and neighbours.
    #[serde(default)]
    #[schemars(with = "String")]
    pub(crate) next_hop_mac: Cell,
    /// Key of the cluster hash, 32 hexadecimal digits, the same on every machine.
    #[serde(default)]
    #[schemars(with = "String", length(equal = 32))]
    pub(crate) cluster_key: Cell,
    /// Answer at ports of a VIP that no service has; default reset.
    #[serde(default)]
    #[schemars(with = "OnClosedPort")]
    pub(crate) on_closed_port: Cell,
    /// Whom the machine speaks BGP or BFD with: their sessions reach the kernel within a budget of their own; default: the exception
    /// gateways.
    #[serde(default)]
    #[schemars(with = "Vec<String>", length(max = 64))]
    pub(crate) routing_peers: List,
    /// Where drains and the last applied config live; default /var/lib/guideway.
    #[serde(default)]
    #[schemars(with = "String")]
    pub(crate) state_dir: Cell,
}

/// HTTP/JSON API.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Api {
    /// Unix socket; default /run/guideway/NAME.sock.
    #[serde(default)]
    #[schemars(with = "String")]
    pub(crate) socket: Cell,
    /// TCP listener, address:port; needs token_file, and tls unless the address is loopback.
    #[serde(default)]
    #[schemars(with = "String")]
    pub(crate) listen: Cell,
    /// File whose first line is the bearer token.
    #[serde(default)]
    #[schemars(with = "String")]
    pub(crate) token_file: Cell,
    /// Certificate and key of the TCP listener.
    #[serde(default)]
    #[schemars(with = "Tls")]
    pub(crate) tls: Option<Spanned<Tls>>,
}

/// TLS files, PEM.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tls {
    /// Certificate chain.
    #[schemars(with = "String")]
    pub(crate) cert: Cell,
    /// Key.
    #[schemars(with = "String")]
    pub(crate) key: Cell,
    /// When given, clients must present a certificate of this CA.
    #[serde(default)]
    #[schemars(with = "String")]
    pub(crate) client_ca: Cell,
}

/// Prometheus metrics over TCP; the API serves /metrics in any case.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Metrics {
    /// Address:port.
    #[serde(default)]
    #[schemars(with = "String")]
    pub(crate) listen: Cell,
}

/// Idle times.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Timeouts {
    /// TCP flows of which more than one packet was seen, half-closed ones included, seconds; default 1800. For those it shrinks as the table fills.
    #[serde(default)]
    #[schemars(with = "u32", range(min = 1, max = 86_400))]
    pub(crate) tcp_established_s: Cell,
    /// TCP flows after RST, seconds; default 30.
    #[serde(default)]
    #[schemars(with = "u32", range(min = 1, max = 86_400))]
    pub(crate) tcp_closing_s: Cell,
    /// TCP flows of which one packet was seen, seconds; default 30.
    #[serde(default)]
    #[schemars(with = "u32", range(min = 1, max = 86_400))]
    pub(crate) syn_s: Cell,
    /// UDP flows, seconds; default 60.
    #[serde(default)]
    #[schemars(with = "u32", range(min = 1, max = 86_400))]
    pub(crate) udp_s: Cell,
    /// Fragments, milliseconds; default 1000.
    #[serde(default)]
    #[schemars(with = "u32", range(min = 10, max = 60_000))]
    pub(crate) fragment_ms: Cell,
}

/// DPDK.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Dpdk {
    /// EAL arguments put before our own.
    #[serde(default)]
    #[schemars(with = "Vec<String>", length(max = 64))]
    pub(crate) eal_args: List,
}

/// Poll-mode threads.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Workers {
    /// CPUs, one worker each; default `[0]`.
    #[serde(default)]
    #[schemars(with = "Vec<u16>", length(min = 1, max = 64))]
    pub(crate) cpus: List,
    /// CPUs of the management core; default every CPU that is no worker's.
    #[serde(default)]
    #[schemars(with = "Vec<u16>")]
    pub(crate) management_cpus: List,
    /// What a worker does when there is nothing to do; default busy.
    #[serde(default)]
    #[schemars(with = "Idle")]
    pub(crate) idle: Cell,
    /// IPv4 flows a worker; default 1048576.
    #[serde(default)]
    #[schemars(with = "u64", range(min = 1024, max = 67_108_864))]
    pub(crate) flows: Cell,
    /// IPv6, any-port and prefix flows a worker; default as flows.
    #[serde(default)]
    #[schemars(with = "u64", range(min = 1024, max = 67_108_864))]
    pub(crate) wide_flows: Cell,
}

/// The cluster this machine is in; without it the machine is alone.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cluster {
    /// What holds the cluster's state; without it the machine is alone.
    #[serde(default)]
    #[schemars(with = "Store")]
    pub(crate) store: Cell,
    /// Its members, http://HOST:PORT or https://HOST:PORT.
    #[serde(default)]
    #[schemars(with = "Vec<String>", length(min = 1, max = 16))]
    pub(crate) endpoints: List,
    /// Certificates for https endpoints; default: none, and those of the endpoints are not accepted.
    #[serde(default)]
    #[schemars(with = "StoreTls")]
    pub(crate) tls: Option<Spanned<StoreTls>>,
    /// Who logs in; default: nobody.
    #[serde(default)]
    #[schemars(with = "StoreUser")]
    pub(crate) user: Option<Spanned<StoreUser>>,
    /// UDP port of messages between the machines, at machine.address; default 7480.
    #[serde(default)]
    #[schemars(with = "u16", range(min = 1))]
    pub(crate) port: Cell,
    /// Secret that the tags of these messages are made with, 32 hexadecimal digits; default machine.cluster_key.
    #[serde(default)]
    #[schemars(with = "String", length(equal = 32))]
    pub(crate) sync_key: Cell,
    /// A second secret whose tags are taken, while sync_key changes; default none.
    #[serde(default)]
    #[schemars(with = "String", length(equal = 32))]
    pub(crate) sync_key_accepted: Cell,
    /// Off leaves every flow to the table in force; default on.
    #[cfg(feature = "negative-controls")]
    #[serde(default)]
    #[schemars(with = "Switch")]
    pub(crate) sync: Cell,
    /// Off tells nobody of the flows of slots that change; default on.
    #[cfg(feature = "negative-controls")]
    #[serde(default)]
    #[schemars(with = "Switch")]
    pub(crate) export: Cell,
}

/// What can hold a cluster's state, for the schema.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
#[allow(dead_code, reason = "only its schema is used")]
enum Store {
    Etcd,
}

/// On or off, for the schema.
#[cfg(feature = "negative-controls")]
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
#[allow(dead_code, reason = "only its schema is used")]
enum Switch {
    On,
    Off,
}

/// TLS files of the way to the store, PEM.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StoreTls {
    /// Certificates of those who sign the endpoints'.
    #[schemars(with = "String")]
    pub(crate) ca: Cell,
    /// Our certificate chain; goes with key.
    #[serde(default)]
    #[schemars(with = "String")]
    pub(crate) cert: Cell,
    /// Our key.
    #[serde(default)]
    #[schemars(with = "String")]
    pub(crate) key: Cell,
}

/// A user of the store.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StoreUser {
    /// Name.
    #[schemars(with = "String")]
    pub(crate) name: Cell,
    /// File whose first line is the password.
    #[schemars(with = "String")]
    pub(crate) password_file: Cell,
}

/// Where agents of backend hosts connect; without it there are none.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Agents {
    /// TCP listener, address:port.
    #[schemars(with = "String")]
    pub(crate) listen: Cell,
    /// Address:port that agents are told to connect to; default listen.
    #[serde(default)]
    #[schemars(with = "String")]
    pub(crate) advertise: Cell,
    /// Certificate and key of the listener; default: no TLS.
    #[serde(default)]
    #[schemars(with = "Tls")]
    pub(crate) tls: Option<Spanned<Tls>>,
    /// Connections at once; default 4096.
    #[serde(default)]
    #[schemars(with = "u32", range(min = 1, max = 65_536))]
    pub(crate) connections: Cell,
}

/// A DPDK port.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Port {
    /// Unique name.
    #[schemars(with = "String")]
    pub(crate) name: Cell,
    /// A DPDK vdev (net_…) or PCI address, with its arguments.
    #[schemars(with = "String")]
    pub(crate) device: Cell,
    /// 1280 to 9000 bytes, from 576 when nothing is IPv6; default 1500.
    #[serde(default)]
    #[schemars(with = "u16", range(min = 576, max = 9000))]
    pub(crate) mtu: Cell,
    /// MAC to use instead of the device's own.
    #[serde(default)]
    #[schemars(with = "String")]
    pub(crate) mac: Cell,
    /// Kernel interface to create for what is not ours; at most 15 bytes.
    #[serde(default)]
    #[schemars(with = "String", length(min = 1, max = 15))]
    pub(crate) exception: Cell,
    /// Its addresses with prefix lengths, set at every start.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub(crate) exception_addresses: List,
    /// IPv4 default route through it.
    #[serde(default)]
    #[schemars(with = "String")]
    pub(crate) exception_gateway: Cell,
    /// IPv6 default route through it.
    #[serde(default)]
    #[schemars(with = "String")]
    pub(crate) exception_gateway6: Cell,
}

/// A service: (VIP, port, protocol) and its policy.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Service {
    /// Unique name.
    #[schemars(with = "String")]
    pub(crate) name: Cell,
    /// Address or prefix (IPv6: /96 or longer).
    #[schemars(with = "String")]
    pub(crate) vip: Cell,
    /// 0 = any port.
    #[schemars(with = "u16")]
    pub(crate) port: Cell,
    /// Default tcp.
    #[serde(default)]
    #[schemars(with = "Protocol")]
    pub(crate) protocol: Cell,
    /// How packets reach the backends; default ipip.
    #[serde(default)]
    #[schemars(schema_with = "mode_schema")]
    pub(crate) mode: Cell,
    /// Slots: a prime; default 65537.
    #[serde(default)]
    #[schemars(with = "u32", range(min = 251, max = 5_000_011))]
    pub(crate) maglev_size: Cell,
    /// What the slot is computed from; default tuple.
    #[serde(default)]
    #[schemars(with = "Hash")]
    pub(crate) hash: Cell,
    /// Default 6080; mode gue only.
    #[serde(default)]
    #[schemars(with = "u16", range(min = 1))]
    pub(crate) gue_port: Cell,
    /// Default 4789; mode vxlan only.
    #[serde(default)]
    #[schemars(with = "u16", range(min = 1))]
    pub(crate) vxlan_port: Cell,
    /// Default 6081; mode geneve only.
    #[serde(default)]
    #[schemars(with = "u16", range(min = 1))]
    pub(crate) geneve_port: Cell,
    /// Default 100; modes vxlan and geneve only.
    #[serde(default)]
    #[schemars(with = "u32", range(max = 16_777_215))]
    pub(crate) vni: Cell,
    /// Path MTU to the backends; default the port's.
    #[serde(default)]
    #[schemars(with = "u16", range(min = 576, max = 9000))]
    pub(crate) mtu: Cell,
    /// Fate of established flows of a backend that is down; default keep for TCP, reselect for UDP.
    #[serde(default)]
    #[schemars(with = "OnDown")]
    pub(crate) on_down: Cell,
    /// Answer when no backend is usable; default reset.
    #[serde(default)]
    #[schemars(with = "OnEmpty")]
    pub(crate) on_empty: Cell,
    /// Share of backends down above which, until all are, health is disregarded; 0 = never; default 50.
    #[serde(default)]
    #[schemars(with = "u8", range(max = 100))]
    pub(crate) panic_percent: Cell,
    /// How long flows of a removed backend may live on; default 300000.
    #[serde(default)]
    #[schemars(with = "u64", range(max = 86_400_000))]
    pub(crate) drain_timeout_ms: Cell,
    /// Which flows are tracked; default all.
    #[serde(default)]
    #[schemars(with = "Tracking")]
    pub(crate) state: Cell,
    /// Whether the kernel holds the VIP while the service is ready; default none.
    #[serde(default)]
    #[schemars(with = "Announce")]
    pub(crate) announce: Cell,
    /// Who chooses the backend of a new flow; default maglev.
    #[serde(default)]
    #[schemars(with = "Policy")]
    pub(crate) policy: Cell,
    /// Policy maglev: load lets weights follow the backends' load; default static.
    #[serde(default)]
    #[schemars(with = "WeightBy")]
    pub(crate) weight: Cell,
    /// Policy least-load: the least loaded of all, or the better of two; default min.
    #[serde(default)]
    #[schemars(with = "Select")]
    pub(crate) select: Cell,
    /// How a backend that comes up comes to its share; default head: at once.
    #[serde(default)]
    #[schemars(with = "Join")]
    pub(crate) join: Cell,
    /// Time over which its share grows; join slow-start only; default 30000.
    #[serde(default)]
    #[schemars(with = "u32", range(min = 1000, max = 3_600_000))]
    pub(crate) slow_start_ms: Cell,
    /// Flows that a backend of weight 1 is meant to carry; default 10000.
    #[serde(default)]
    #[schemars(with = "u32", range(min = 1, max = 16_777_216))]
    pub(crate) capacity: Cell,
    /// Policy least-load: fate of new flows when every backend is full; default spread.
    #[serde(default)]
    #[schemars(with = "Overload")]
    pub(crate) overload: Cell,
    /// Weight load: most slots moved a minute, percent; default 5.
    #[serde(default)]
    #[schemars(with = "u8", range(min = 1, max = 100))]
    pub(crate) churn_percent: Cell,
    #[serde(default)]
    #[schemars(with = "ServiceAgents")]
    pub(crate) agents: Option<Spanned<ServiceAgents>>,
    #[serde(default)]
    #[schemars(with = "Health")]
    pub(crate) health: Option<Spanned<Health>>,
    #[serde(default)]
    #[schemars(with = "Vec<Backend>", length(max = 65_535))]
    pub(crate) backend: Vec<Spanned<Backend>>,
}

impl Service {
    /// Takes the cell of a mode's UDP port.
    pub(crate) fn take_port(&mut self, mode: Mode) -> Cell {
        match mode {
            Mode::Gue => self.gue_port.take(),
            Mode::Vxlan => self.vxlan_port.take(),
            Mode::Geneve => self.geneve_port.take(),
            Mode::Ipip | Mode::Gre | Mode::L2 => None,
        }
    }
}

/// Agents may speak for the service's backends.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServiceAgents {
    /// File whose first line, 16 to 256 bytes, agents must know.
    #[schemars(with = "String")]
    pub(crate) token_file: Cell,
    /// Silence after which an agent's backends are suspect; default 3000.
    #[serde(default)]
    #[schemars(with = "u32", range(min = 500, max = 60_000))]
    pub(crate) lease_ms: Cell,
    #[serde(default)]
    #[schemars(with = "Register")]
    pub(crate) register: Option<Spanned<Register>>,
}

/// What may register; without it nothing may.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Register {
    /// Prefixes that hold every address that may register.
    #[schemars(with = "Vec<String>", length(min = 1, max = 256))]
    pub(crate) addresses: List,
    /// What names look like, with at most one *; default *.
    #[serde(default)]
    #[schemars(with = "String", length(min = 1, max = 64))]
    pub(crate) names: Cell,
    /// Ports a registration may ask to be checked, like [80, "8000-8999"]; default none but the service's.
    #[serde(default)]
    #[schemars(schema_with = "ports_schema")]
    pub(crate) ports: List,
    /// Most registered backends at once; default 256.
    #[serde(default)]
    #[schemars(with = "u32", range(min = 1, max = 65_535))]
    pub(crate) limit: Cell,
    /// Largest weight; default 100.
    #[serde(default)]
    #[schemars(with = "u32", range(min = 1, max = 65_535))]
    pub(crate) weight_max: Cell,
}

fn ports_schema(_: &mut SchemaGenerator) -> Schema {
    let item = serde_json::json!({ "oneOf": [
        { "type": "integer", "minimum": 1, "maximum": 65_535 },
        { "type": "string", "pattern": "^[0-9]{1,5}(-[0-9]{1,5})?$" },
    ] });
    json_schema!({ "type": "array", "items": item, "maxItems": 64 })
}

/// Kinds of health check, for the schema.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
#[allow(dead_code, reason = "only its schema is used")]
enum Kind {
    None,
    Tcp,
    Http,
    Https,
    Udp,
    Exec,
}

/// What silence means.
#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(dead_code, reason = "for the schema")]
enum Silence {
    Fail,
    Pass,
}

/// Health check of a service's backends.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Health {
    /// Default none: backends count as up.
    #[serde(default)]
    #[schemars(with = "Kind")]
    pub(crate) kind: Cell,
    /// Default 1000.
    #[serde(default)]
    #[schemars(with = "u32", range(min = 10, max = 600_000))]
    pub(crate) interval_ms: Cell,
    /// Default 500, or the interval if that is smaller.
    #[serde(default)]
    #[schemars(with = "u32", range(min = 10, max = 600_000))]
    pub(crate) timeout_ms: Cell,
    /// Failures in a row that make a backend down; default 3.
    #[serde(default)]
    #[schemars(with = "u32", range(min = 1, max = 100))]
    pub(crate) fall: Cell,
    /// Successes in a row that make a backend up; default 2.
    #[serde(default)]
    #[schemars(with = "u32", range(min = 1, max = 100))]
    pub(crate) rise: Cell,
    /// Default the service's.
    #[serde(default)]
    #[schemars(with = "u16", range(min = 1))]
    pub(crate) port: Cell,
    /// http, https; default /.
    #[serde(default)]
    #[schemars(with = "String")]
    pub(crate) path: Cell,
    /// http, https: Host header, a name or an address (IPv6 in brackets), with a port or without; default the VIP.
    #[serde(default)]
    #[schemars(with = "String")]
    pub(crate) host: Cell,
    /// http, https: 200, or [200, 204, "300-399"]; default 200 to 399.
    #[serde(default)]
    #[schemars(schema_with = "expect_status_schema")]
    pub(crate) expect_status: Cell,
    /// tcp, udp: what is sent, ASCII.
    #[serde(default)]
    #[schemars(with = "String")]
    pub(crate) send: Cell,
    /// tcp, udp: the same as pairs of hexadecimal digits, for bytes that are no ASCII.
    #[serde(default)]
    #[schemars(with = "String", length(min = 2))]
    pub(crate) send_hex: Cell,
    /// What the answer (of http and https: the body) must contain, ASCII.
    #[serde(default)]
    #[schemars(with = "String")]
    pub(crate) expect: Cell,
    /// The same as pairs of hexadecimal digits.
    #[serde(default)]
    #[schemars(with = "String", length(min = 2))]
    pub(crate) expect_hex: Cell,
    /// https: TLS server name; default host.
    #[serde(default)]
    #[schemars(with = "String")]
    pub(crate) sni: Cell,
    /// https: PEM file of the certificate that is shown to a server that wants one; with key. Read by the machine, again every ten seconds.
    #[serde(default)]
    #[schemars(with = "String")]
    pub(crate) cert: Cell,
    /// https: PEM file of its key.
    #[serde(default)]
    #[schemars(with = "String")]
    pub(crate) key: Cell,
    /// https: PEM file of authorities, by one of which the server's certificate must be; default: any certificate will do.
    #[serde(default)]
    #[schemars(with = "String")]
    pub(crate) ca: Cell,
    /// udp: what no answer until the timeout means: fail, or pass, if only ICMP unreachable fails; default fail.
    #[serde(default)]
    #[schemars(with = "Silence")]
    pub(crate) silence: Cell,
    /// Interface the probes leave by; default the first exception interface.
    #[serde(default)]
    #[schemars(with = "String")]
    pub(crate) via: Cell,
    /// direct: to the backend's address; tunnel: to the VIP, encapsulated like the traffic. Default direct.
    #[serde(default)]
    #[schemars(with = "Route")]
    pub(crate) route: Cell,
    /// exec: name of a command that the agents' own files define.
    #[serde(default)]
    #[schemars(with = "String", length(min = 1, max = 63))]
    pub(crate) command: Cell,
    /// Who checks; default agent for services that agents may speak for, else machine.
    #[serde(default)]
    #[schemars(with = "Checks")]
    pub(crate) checks: Cell,
}

fn mode_schema(_: &mut SchemaGenerator) -> Schema {
    let one = |mode: Mode| serde_json::json!({ "type": "string", "const": mode.as_str(), "description": mode.title() });
    json_schema!({ "oneOf": Mode::ALL.map(one) })
}

fn expect_status_schema(_: &mut SchemaGenerator) -> Schema {
    let one = || {
        serde_json::json!({ "oneOf": [
            { "type": "integer", "minimum": 100, "maximum": 599 },
            { "type": "string", "pattern": "^[1-5][0-9][0-9](-[1-5][0-9][0-9])?$" },
        ] })
    };
    json_schema!({ "anyOf": [one(), { "type": "array", "items": one(), "minItems": 1, "maxItems": 16 }] })
}

/// A backend of a service.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Backend {
    /// Unique within the service; its identity in the Maglev table.
    #[schemars(with = "String")]
    pub(crate) name: Cell,
    /// IPv4 or IPv6; in mode l2 of the VIP's family.
    #[schemars(with = "String")]
    pub(crate) address: Cell,
    /// Share of new flows; 0 = none; default 1.
    #[serde(default)]
    #[schemars(with = "u32", range(max = 65_535))]
    pub(crate) weight: Cell,
    /// Next hop; in modes vxlan and geneve the inner destination.
    #[serde(default)]
    #[schemars(with = "String")]
    pub(crate) mac: Cell,
    /// What the operator wants; default up.
    #[serde(default)]
    #[schemars(with = "AdminState")]
    pub(crate) state: Cell,
    /// Flows that it is meant to carry at weight 1; default the service's.
    #[serde(default)]
    #[schemars(with = "u32", range(min = 1, max = 16_777_216))]
    pub(crate) capacity: Cell,
}
