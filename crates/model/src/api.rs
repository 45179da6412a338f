//! The API's types: what `guidewayd` answers and what `guideway` and other clients send, as JSON.
//!
//! Rule of this module: every type reads what it writes. Fields are added, never renamed or removed, and clients
//! ignore fields they do not know. Units stand at the end of a name; counters count from the start of the process.

use crate::config::AdminState;
pub use crate::diagnostic::{Diagnostic, Severity};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// Largest request body, bytes.
pub const BODY_MAX: usize = crate::TEXT_MAX;
/// Largest number of flows in one answer of `GET /v1/flows`.
pub const FLOWS_MAX: usize = 10_000;
/// Number of flows in an answer when no `limit` is given.
pub const FLOWS_DEFAULT: usize = 100;
/// Largest body of `POST /v1/flows/restore`, bytes.
pub const RESTORE_BODY_MAX: usize = 1 << 20;
/// Largest number of lines in it.
pub const RESTORE_LINES_MAX: usize = 4096;
/// Longest line of it, bytes.
pub const RESTORE_LINE_MAX: usize = 1024;
/// Largest number of refused lines that an answer names; more are counted.
pub const REFUSED_LINES_MAX: usize = 100;
/// Number of events that are kept; older ones are forgotten.
pub const EVENTS_KEPT: usize = 10_000;
/// Number of events in an answer when no `limit` is given.
pub const EVENTS_DEFAULT: usize = 1000;
/// Longest `wait_ms` of `GET /v1/events`.
pub const EVENTS_WAIT_MAX_MS: u64 = 60_000;
/// Bytes of each frame that a capture keeps: at least so many.
pub const CAPTURE_SNAP_MIN: u32 = 64;
/// At most so many, as many as the longest frame has.
pub const CAPTURE_SNAP_MAX: u32 = 9216;
/// When no `snap` is given: whole frames of links of 1500 bytes, with any tunnel's headers.
pub const CAPTURE_SNAP_DEFAULT: u32 = 2048;
/// Largest `count` of `POST /v1/capture`.
pub const CAPTURE_COUNT_MAX: u64 = 10_000_000;
/// Longest `wait_ms` of `GET /v1/capture`.
pub const CAPTURE_WAIT_MAX_MS: u64 = 60_000;
/// A capture of which nobody has asked for a piece for so long ends, seconds.
pub const CAPTURE_IDLE_S: u64 = 10;
/// Header of answers of `GET /v1/capture`: `running`, or `over` with the last piece.
pub const CAPTURE_STATE: &str = "guideway-capture";
/// Header: frames captured, as they were received.
pub const CAPTURE_FRAMES: &str = "guideway-capture-frames";
/// Header: blocks written, one for each frame as received, and one for each as sent where that differs.
pub const CAPTURE_BLOCKS: &str = "guideway-capture-blocks";
/// Header: frames that were not copied, because no room was left for their copies.
pub const CAPTURE_MISSED: &str = "guideway-capture-missed";
/// Longest `timeout_ms` of `POST /v1/apply`.
pub const APPLY_TIMEOUT_MAX_MS: u64 = 60_000;
/// `timeout_ms` of `POST /v1/apply` when none is given.
pub const APPLY_TIMEOUT_DEFAULT_MS: u64 = 10_000;

/// Shortest `confirm_ms` of `POST /v1/apply`.
pub const CONFIRM_MIN_MS: u64 = 1_000;
/// Longest `confirm_ms` of `POST /v1/apply`.
pub const CONFIRM_MAX_MS: u64 = 3_600_000;

/// `GET /v1/ready`: 200 when `ready`, else 503.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Ready {
    /// Every worker uses a view, and at least one service is usable or none is configured.
    pub ready: bool,
    /// Why, or why not, in words.
    pub reason: String,
}

/// `GET /v1/status`: the machine in one screen.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// `machine.name`.
    pub machine: String,
    /// Version of `guidewayd`.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Start of the process, Unix time, milliseconds.
    pub started_unix_ms: u64,
    /// Time since then, milliseconds.
    pub uptime_ms: u64,
    /// As `GET /v1/ready` says.
    pub ready: bool,
    /// As `GET /v1/ready` says.
    pub reason: String,
    /// File the configuration comes from.
    pub config_path: String,
    /// When the configuration in use was applied, Unix time, milliseconds.
    pub applied_unix_ms: u64,
    /// The configuration in use is the file's (as the file was when it was last read).
    pub config_is_file: bool,
    /// Number of the configuration in use; 0 in a cluster, whose store keeps what is wanted.
    #[serde(default)]
    pub revision: u64,
    /// Generation last published to the workers.
    pub generation: u64,
    /// Smallest generation that every worker uses.
    pub generation_acknowledged: u64,
    /// Configured services.
    pub services: u64,
    /// Of these, services with a usable backend.
    pub services_ready: u64,
    /// Configured backends.
    pub backends: u64,
    /// Of these, backends that take new flows.
    pub backends_up: u64,
    /// Workers.
    pub workers: u64,
    /// Data ports.
    pub ports: u64,
    /// Frames received.
    pub rx: u64,
    /// Frames sent.
    pub tx: u64,
    /// Frames made by the balancer itself.
    pub originated: u64,
    /// Frames given to the kernel.
    pub punted: u64,
    /// Frames relayed to another machine.
    pub relayed: u64,
    /// Frames dropped, all reasons.
    pub dropped: u64,
    /// Frames held in fragment stores now.
    pub held: u64,
    /// Live flows.
    pub flows: u64,
    /// Flows that fit, narrow and wide, all workers.
    pub flows_capacity: u64,
    /// Memory of tables and buffers, bytes.
    pub memory: Vec<MemoryUse>,
    /// Turns of the management thread, by what it did.
    #[serde(default)]
    pub management: Vec<ManagementTurns>,
    /// Lines of the log that were lost, because nobody took them in time.
    #[serde(default)]
    pub log_lines_lost: u64,
    /// Messages to the service manager that were lost, for the same reason.
    #[serde(default)]
    pub notices_lost: u64,
    /// Connections of the API and of `/metrics`.
    #[serde(default)]
    pub connections: ConnectionCounts,
}

/// Connections of the API and of `/metrics`, all listeners.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct ConnectionCounts {
    /// Open now.
    pub open: u64,
    /// Closed to make room for others: those that had been without progress for longest.
    pub made_room: u64,
    /// Closed because the client was too slow to ask, or to take its answer.
    pub too_slow: u64,
}

/// How long the management thread was busy with one kind of thing, without a break.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct ManagementTurns {
    /// What it did.
    pub job: String,
    /// Turns.
    pub turns: u64,
    /// Of these, such as took 20 ms or more.
    pub long_turns: u64,
    /// The longest one since the start, microseconds; time in which the thread had no CPU left out.
    pub longest_us: u64,
    /// The longest one by the clock, microseconds.
    pub longest_wall_us: u64,
}

/// A use of memory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct MemoryUse {
    /// What it is for.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
}

/// `GET /v1/cluster`: the machine's part in its cluster, and the others.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ClusterStatus {
    /// `machine.name`.
    pub machine: String,
    /// Its join has committed: it forwards.
    pub joined: bool,
    /// Why what the store says does not fit this machine: it forwards by its last plan, and is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub misfit: Option<String>,
    /// The store is reached.
    pub store_reached: bool,
    /// Since when it is, or is not; Unix time, milliseconds.
    pub store_since_unix_ms: u64,
    /// Why it is not reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_problem: Option<String>,
    /// Name of the machine that leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Step of the plan in force here.
    pub step: u64,
    /// Last step that all workers here have done.
    pub step_done: u64,
    /// Counts changes of members.
    pub epoch: u32,
    /// Counts changes of tables.
    pub generation: u64,
    /// What is being done: `idle`, `prepare`, `commit`, `retire`, `epoch prepare`, `epoch commit`.
    pub phase: String,
    /// The last services asked for are in force on all machines.
    pub settled: bool,
    /// Why these cannot be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Machines that have not done the step yet; known to the leader only.
    pub waiting_for: Vec<String>,
    /// Tainted slots of all services.
    pub tainted_slots: u64,
    /// Backends without new flows, `service/backend`.
    pub masked: Vec<String>,
    /// Frames that may be relayed to other machines a second.
    pub relays_a_second: u64,
    /// Of these, at once.
    pub relays_at_once: u64,
    /// The machines.
    pub members: Vec<ClusterMember>,
    /// What this machine's workers said, relayed, guessed, keep.
    pub counters: Vec<SyncCount>,
}

/// A machine of a cluster.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ClusterMember {
    /// `machine.name`.
    pub name: String,
    /// Number of the machine.
    pub machine: u8,
    /// Counts its starts.
    pub incarnation: u32,
    /// Where it takes messages; unknown of those that are gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// `member`, `joining`, `leaving`, or `lost`: its lease has ended.
    pub state: String,
    /// The last step it has done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_done: Option<u64>,
    /// Some worker here has not heard it for a while, and asks others.
    pub suspect: bool,
    /// Link-layer next hop, when messages to it can be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<String>,
}

/// A counter or gauge of state synchronisation, all workers together.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SyncCount {
    /// Name.
    pub name: String,
    /// What is counted.
    pub help: String,
    /// The count.
    pub count: u64,
}

/// `GET /v1/owners`: how many slots of a service a machine owns.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct OwnerStatus {
    /// Name of the service.
    pub service: String,
    /// Name of the machine.
    pub machine: String,
    /// Slots that it answers for.
    pub primary: u64,
    /// Slots for which it has the same records.
    pub backup: u64,
    /// Of the slots that it answers for, the tainted ones: only of these it is asked.
    pub primary_tainted: u64,
}

/// `GET /v1/exceptions`: what speaks against steering by the table alone, of a service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ExceptionStatus {
    /// Name of the service.
    pub service: String,
    /// Slots of its table.
    pub slots: u64,
    /// Of these, tainted ones: their flows may be with another backend than the table's.
    pub tainted: u64,
    /// Former backend of tainted slots; `None`: there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Slots with this base.
    pub of_base: u64,
    /// Flows that this machine tracks with this backend, in slots of any kind.
    pub flows: u64,
}

/// `POST /v1/leave`: the machine leaves its cluster and stops.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LeaveResult {
    /// `machine.name`.
    pub machine: String,
    /// Machines that stay.
    pub others: u64,
}

/// Whether a service has what it takes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServiceState {
    /// At least one backend takes new flows, and health is heeded.
    Ready,
    /// Too many backends are down: health is disregarded.
    Panic,
    /// No backend takes new flows.
    Empty,
}

/// `GET /v1/services`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ServiceStatus {
    /// Name.
    pub name: String,
    /// Its id on the packet path.
    pub id: u16,
    /// Address or prefix.
    pub vip: String,
    /// 0 = any.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The service's `mode`, as in the configuration.
    pub mode: String,
    /// Whether it has what it takes.
    pub state: ServiceState,
    /// Health kind: `none`, `tcp`, `http`, `https` or `udp`.
    pub health: String,
    /// The VIP is on the loopback now (`announce = "kernel"`).
    pub announced: bool,
    /// Backends that take new flows.
    pub backends_up: u64,
    /// Configured backends.
    pub backends_total: u64,
    /// Slots of the Maglev table.
    pub maglev_size: u32,
    /// Which flows are tracked (`state` in the configuration): `all` or `exceptions`.
    #[serde(default)]
    pub tracking: String,
    /// With `exceptions`: slots whose flows are tracked for now; the packets of the others need no flow table.
    #[serde(default)]
    pub tainted_slots: u32,
    /// Packets that matched.
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
    /// New flows.
    pub flows_new: u64,
    /// Live flows, those of removed backends included.
    pub flows: u64,
    /// Packets dropped for want of a usable backend.
    pub no_backend: u64,
    /// Packets dropped because every backend was full (`overload = "reject"`).
    #[serde(default)]
    pub overload: u64,
}

/// Whether a backend takes flows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackendState {
    /// New and old flows.
    Up,
    /// No new flows; old ones as `on_down` says.
    Down,
    /// Old flows only.
    Drain,
    /// No longer configured; its flows live on until they end or `drain_timeout_ms` has passed.
    Removed,
}

/// By whose word a backend is in its state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// The configuration's (`state`, `weight = 0`, removal), or no check is configured.
    Admin,
    /// The health check's.
    Health,
    /// Its agent's, whose checks are heeded.
    Agent,
    /// Its agent's, of which nothing is heard any more: what it said last holds until the machine's own check has ended.
    Lease,
    /// A drain by API or CLI.
    Drain,
    /// The panic threshold's: health says down, and is disregarded.
    Panic,
}

/// `GET /v1/backends`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BackendStatus {
    /// Its service.
    pub service: String,
    /// Name, unique within the service.
    pub name: String,
    /// Its id on the packet path.
    pub id: u32,
    /// Address.
    pub address: IpAddr,
    /// Weight.
    pub weight: u32,
    /// Whether it takes flows.
    pub state: BackendState,
    /// By whose word.
    pub word: Word,
    /// Since when, Unix time, milliseconds.
    pub since_unix_ms: u64,
    /// Its health checks; absent when the kind is none or the backend was removed.
    pub health: Option<HealthStatus>,
    /// The agent that speaks or spoke for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// It registered; else it is the configuration's.
    #[serde(default)]
    pub registered: bool,
    /// Since when it is suspect, because nothing is heard of its agent or its clients are not served, Unix time, milliseconds; absent: it
    /// is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspect_since_unix_ms: Option<u64>,
    /// Why it is in its state, in words, where an agent, its silence or its clients are the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Link-layer next hop; absent while unresolved.
    pub next_hop: Option<String>,
    /// Name of the port it is reached through; absent while unresolved.
    pub port: Option<String>,
    /// Path MTU to it, bytes of the tunnel's packets, while a router on the way has said that it is less than the configured one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_mtu: Option<u16>,
    /// Packets sent to it.
    pub packets: u64,
    /// Their bytes, from the inner IP header on.
    pub bytes: u64,
    /// New flows placed on it.
    pub flows_new: u64,
    /// Live flows.
    pub flows: u64,
    /// Load that new flows go by, millionths of what it is meant to carry; absent where load does not decide, and while it takes no new flows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_ppm: Option<u32>,
    /// Part of its weight that is in force, thousandths; another than 1000 while it starts slowly, or because of its load.
    #[serde(default = "whole")]
    pub share_permille: u32,
    /// TCP flows that a SYN began, and that found room in the flow table.
    #[serde(default)]
    pub syns: u64,
    /// TCP flows whose second packet was no SYN, FIN or RST: the client has got an answer. Of flows that were met in the middle, too.
    #[serde(default)]
    pub handshakes: u64,
    /// TCP flows whose client sent FIN or RST after its handshake. One whose connection was reset sends neither.
    #[serde(default)]
    pub closes: u64,
    /// Of these, those whose client did so within three seconds of its handshake.
    #[serde(default)]
    pub closes_soon: u64,
}

const fn whole() -> u32 {
    1000
}

/// `GET /v1/registrations`: a backend that agents speak for, or spoke for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RegistrationStatus {
    /// Its service.
    pub service: String,
    /// Its name.
    pub backend: String,
    /// Its address.
    pub address: IpAddr,
    /// It registered; else it is the configuration's and an agent checks it.
    pub registered: bool,
    /// The agent that speaks or spoke for it.
    pub agent: String,
    /// Its start, as it registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<u64>,
    /// Share of new flows, as it registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Port that is checked, where it asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Flows that it is meant to carry, where it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u32>,
    /// What has become of it on this machine.
    pub state: crate::agent::Phase,
    /// Since when, Unix time, milliseconds.
    pub since_unix_ms: u64,
    /// What checks say, after rise and fall; absent: nothing yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<bool>,
    /// Why, in words.
    pub reason: String,
    /// It is part of the configuration in force.
    pub in_force: bool,
    /// Why it is suspect: why nothing is heard of its agent, or what its clients show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspected: Option<String>,
    /// Own checks in a row that failed since then.
    pub own_failures: u32,
    /// Busy CPU time of its host, thousandths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_permille: Option<u16>,
    /// Established connections, as its host sees them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// What it says of its load itself, thousandths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_permille: Option<u16>,
}

/// `GET /v1/agents`: an agent that is connected.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AgentStatus {
    /// Its name.
    pub name: String,
    /// Its start, as it said.
    pub incarnation: u64,
    /// Where it connects from.
    pub peer: String,
    /// Addresses of its host.
    pub addresses: Vec<IpAddr>,
    /// Services that it speaks for.
    pub services: Vec<String>,
    /// Since when, Unix time, milliseconds.
    pub since_unix_ms: u64,
    /// Time since its last word, milliseconds.
    pub silent_ms: u64,
    /// Silence after which its backends are suspect, milliseconds.
    pub lease_ms: u64,
    /// Backends that it registered.
    pub registered: u64,
    /// Backends that it was asked to check.
    pub checks: u64,
}

/// What the health checks of one backend say.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HealthStatus {
    /// What they say: absent before the first verdict.
    pub up: Option<bool>,
    /// The last check.
    pub last: Option<CheckResult>,
    /// Checks that passed.
    pub passed: u64,
    /// Checks that failed.
    pub failed: u64,
    /// Checks in a row that gave the last result.
    pub consecutive: u32,
    /// Changes between up and down.
    pub transitions: u64,
    /// A backend that flaps stays down at least this much longer, milliseconds; 0 = no hold-down.
    pub held_down_ms: u64,
}

/// One health check.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CheckResult {
    /// It passed.
    pub passed: bool,
    /// It did not pass because it could not leave the machine: no descriptor, port or buffer. That says nothing of the backend.
    #[serde(default)]
    pub unsent: bool,
    /// `ok`, or in words what went wrong: `refused`, `timeout`, `reset`, `status 503`, `body mismatch`, …
    pub reason: String,
    /// How long it took, microseconds.
    pub duration_us: u64,
    /// When it ended, Unix time, milliseconds.
    pub unix_ms: u64,
}

/// `GET /v1/workers`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WorkerStatus {
    /// Core, counted from 0.
    pub core: u8,
    /// CPU.
    pub cpu: u16,
    /// Turns taken.
    pub turns: u64,
    /// Turns that found no work.
    pub empty_turns: u64,
    /// Turns of more than two milliseconds of CPU time.
    #[serde(default)]
    pub long_turns: u64,
    /// CPU time of the longest turn since the start, microseconds.
    #[serde(default)]
    pub longest_turn_us: u64,
    /// Share of the last second's turns that found work, 0 to 1.
    pub busy_ratio: f64,
    /// Frames received.
    pub rx: u64,
    /// Frames sent.
    pub tx: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames made here.
    pub originated: u64,
    /// Frames given to the kernel.
    pub punted: u64,
    /// Frames relayed to another machine.
    pub relayed: u64,
    /// Frames taken from rings of other workers.
    pub ring_in: u64,
    /// Frames put on rings to other workers.
    pub ring_out: u64,
    /// Frames in the fragment store now.
    pub held: u64,
    /// Frames dropped, all reasons.
    pub dropped: u64,
    /// Live flows.
    pub flows: u64,
    /// Of these, flows that are not trusted yet.
    pub flows_untrusted: u64,
    /// Narrow flows (IPv4) that fit; 0 when unknown.
    pub capacity: u64,
    /// Wide flows (IPv6, any-port, prefix) that fit; 0 when unknown.
    pub capacity_wide: u64,
    /// Packets that found their flow.
    pub flow_hits: u64,
    /// Packets that did not.
    pub flow_misses: u64,
    /// TCP packets that needed no flow table, of services with `state = "exceptions"`.
    #[serde(default)]
    pub flow_stateless: u64,
    /// TCP flows met in the middle in a tainted slot, taken to be from before the change.
    #[serde(default)]
    pub flow_guessed: u64,
    /// Packets without an entry about which the other workers were not asked, because there were too many of them.
    #[serde(default)]
    pub flow_unasked: u64,
    /// Flows inserted.
    pub flow_inserts: u64,
    /// Flows that could not be inserted.
    pub flow_refused: u64,
    /// Flows whose entry, untrusted yet, made room for another flow.
    #[serde(default)]
    pub flow_displaced: u64,
    /// Flows that ended by idling.
    pub flow_expired: u64,
    /// Flows whose entries were removed by an operator's word.
    #[serde(default)]
    pub flow_forgotten: u64,
    /// Flows of a dump that were entered by an operator's word; not among those inserted.
    #[serde(default)]
    pub flow_restored: u64,
    /// Packets steered anew because their backend was gone.
    pub resteered: u64,
    /// Frames per turn that found work, since start.
    pub packets_per_burst: f64,
    /// Generation of the view it uses.
    pub generation: u64,
}

/// `GET /v1/ports`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PortStatus {
    /// Name.
    pub name: String,
    /// DPDK device.
    pub device: String,
    /// Its number in the packet path.
    pub id: u16,
    /// Driver.
    pub driver: String,
    /// MAC.
    pub mac: String,
    /// MTU, bytes.
    pub mtu: u16,
    /// The link is up.
    pub link_up: bool,
    /// Kernel interface of the exception port.
    pub exception: Option<String>,
    /// What of the kernel's side of the port is not as wanted, in words.
    #[serde(default)]
    pub wrong: Vec<String>,
    /// Frames received (device).
    pub rx: u64,
    /// Frames sent (device).
    pub tx: u64,
    /// Bytes received (device).
    pub rx_bytes: u64,
    /// Bytes sent (device).
    pub tx_bytes: u64,
    /// Frames the device dropped because nobody took them in time.
    pub rx_missed: u64,
    /// Frames received with errors.
    pub rx_errors: u64,
    /// Frames that could not be sent.
    pub tx_errors: u64,
    /// Frames lost for want of buffers.
    pub rx_nombuf: u64,
    /// Frames the transmit queue did not accept from the workers.
    pub tx_full: u64,
}

/// `GET /v1/flows`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Flows {
    /// The flows found.
    pub flows: Vec<FlowEntry>,
    /// There are more than `limit`.
    pub truncated: bool,
}

/// A tracked flow.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FlowEntry {
    /// Worker that owns it.
    pub core: u8,
    /// Service.
    pub service: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Source address.
    pub client: IpAddr,
    /// Source port.
    pub client_port: u16,
    /// Destination: the VIP.
    pub vip: IpAddr,
    /// Destination port.
    pub port: u16,
    /// Backend's name, or `#<id>` when it was forgotten.
    pub backend: String,
    /// Backend's address, while it is known.
    pub backend_address: Option<IpAddr>,
    /// `tcp_new`, `tcp_handshake`, `tcp_established`, `tcp_half_closed`, `tcp_closing`, `udp_new` or `udp`.
    pub state: String,
    /// Time since its last packet, milliseconds, to the table's accuracy (1/64 of the idle time).
    pub idle_ms: u64,
}

/// `GET /v1/flows/describe`: what the workers know of one flow.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DescribedFlow {
    /// Service.
    pub service: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Source address and port.
    pub client: SocketAddr,
    /// Destination address (the VIP) and port.
    pub to: SocketAddr,
    /// Slot of the service's table.
    pub slot: u32,
    /// Backend that new flows of the slot go to; `null` when nobody takes them.
    pub slot_backend: Option<String>,
    /// Its packets are looked up in the flow table; else the slot decides alone (`state = "exceptions"`).
    pub tracked: bool,
    /// The slot is tainted: its flows may be with another backend than the table's.
    pub tainted: bool,
    /// Backend of the slot's flows without an entry, where that is another question.
    pub base: Option<String>,
    /// The workers that have an entry; as a rule one, or none.
    pub entries: Vec<HeldFlow>,
    /// In a cluster, the workers of this machine that have the owner's record.
    pub records: Vec<HeldRecord>,
}

/// A flow's entry with one worker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HeldFlow {
    /// Worker.
    pub core: u8,
    /// Backend's name, or `#<id>` when it was forgotten.
    pub backend: String,
    /// Backend's address, while it is known.
    pub backend_address: Option<IpAddr>,
    /// As in `GET /v1/flows`.
    pub state: String,
    /// Time since its last packet, milliseconds, to the table's accuracy (1/64 of the idle time).
    pub idle_ms: u64,
}

/// An owner's record of a flow with one worker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HeldRecord {
    /// Worker.
    pub core: u8,
    /// Backend's name, or `#<id>` when it was forgotten.
    pub backend: String,
    /// Nobody saw the flow begin.
    pub guess: bool,
    /// Time since it was last used, milliseconds.
    pub idle_ms: u64,
}

/// `POST /v1/flows/forget`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ForgottenFlow {
    /// Service.
    pub service: String,
    /// Source address and port.
    pub client: SocketAddr,
    /// Destination address (the VIP) and port.
    pub to: SocketAddr,
    /// The entries that are gone; none where no worker had one.
    pub forgotten: Vec<HeldFlow>,
}

/// `GET /v1/flows/dump`: a piece of the flow tables.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FlowDump {
    /// Its flows. One that is moved within its table meanwhile can come twice, or not at all.
    pub flows: Vec<StoredFlow>,
    /// `cursor` of the next piece; `null` at the end.
    pub next: Option<String>,
}

/// `POST /v1/capture`: a capture that has begun.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CaptureBegun {
    /// `id` of the requests that follow.
    pub id: u64,
    /// Bytes of each frame that are kept.
    pub snap: u32,
    /// Copies for which there is room, in all; what comes while all are taken is counted as missed.
    pub frames_kept: u64,
    /// Interfaces of the file: two for each port, and its side.
    pub interfaces: Vec<String>,
}

/// `POST /v1/capture/end`: what a capture has brought so far; its last pieces can still be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct CaptureFigures {
    /// Frames captured, as they were received.
    pub frames: u64,
    /// Blocks written: one for each frame as received, and one for each as sent where that differs.
    pub blocks: u64,
    /// Frames that were not copied, because no room was left for their copies.
    pub missed: u64,
}

/// A flow as it is stored: one line of JSON in the body of `POST /v1/flows/restore`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StoredFlow {
    /// Worker that has its entry.
    pub core: u8,
    /// Service.
    pub service: String,
    /// Source address and port.
    pub client: SocketAddr,
    /// Destination address (the VIP) and port.
    pub to: SocketAddr,
    /// Backend's name, or `#<id>` when it was forgotten.
    pub backend: String,
    /// As in `GET /v1/flows`.
    pub state: String,
    /// Time since its last packet when it was dumped, microseconds, to the table's accuracy (1/64 of the idle time).
    pub idle_us: u64,
}

/// `POST /v1/flows/restore`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct RestoredFlows {
    /// Flows that have their entries again.
    pub restored: u64,
    /// Lines that were refused.
    pub refused: u64,
    /// The first of these, in their order.
    pub refusals: Vec<RefusedLine>,
}

/// A line of which no entry was made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RefusedLine {
    /// Its number in the body, from 1.
    pub line: u64,
    /// Why it was refused.
    pub reason: String,
}

/// `GET /v1/drops`: one entry for each reason, in a fixed order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DropCount {
    /// Name of the reason; also the label in metrics.
    pub reason: String,
    /// What it means.
    pub help: String,
    /// Frames dropped, all workers.
    pub count: u64,
}

/// `GET /v1/sources`: who sends most of what is dropped, or begins flows for which there is no room, of late. The busiest first.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SourceRate {
    /// An IPv4 address, or an IPv6 prefix of 64 bits.
    pub source: String,
    /// About how many packets a second, of a sample of one in sixteen in the last ten to twenty seconds.
    pub per_second: u64,
}

/// Kind of an event.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The process started.
    Start,
    /// The process was told to stop.
    Stop,
    /// A configuration was applied.
    Apply,
    /// A configuration was refused.
    Refused,
    /// A configuration that was in force on trial stays.
    Confirmed,
    /// Nobody confirmed a configuration in time: what was before is to be in force again.
    Unconfirmed,
    /// The file at start differs from the configuration that was last applied.
    ConfigDiffers,
    /// A backend takes new flows again.
    BackendUp,
    /// A backend takes no new flows: its checks failed.
    BackendDown,
    /// A backend was added.
    BackendAdded,
    /// A backend was removed; its flows live on for a while.
    BackendRemoved,
    /// The last flow of a removed backend ended, or its time was over.
    BackendForgotten,
    /// A backend is held down because it flaps.
    HoldDown,
    /// A backend takes no new flows by an operator's word.
    Drain,
    /// That word was taken back.
    Undrain,
    /// A flow's entry was removed by an operator's word.
    FlowForgotten,
    /// Flows of a dump were entered by an operator's word.
    FlowsRestored,
    /// Copies of frames are made for somebody who asked for them.
    CaptureBegun,
    /// That is over.
    CaptureEnded,
    /// Too many backends of a service are down: health is disregarded.
    PanicOn,
    /// Health is heeded again.
    PanicOff,
    /// A service has no usable backend.
    ServiceEmpty,
    /// A service has a usable backend.
    ServiceReady,
    /// A VIP was put on the loopback.
    Announced,
    /// A VIP was taken off it.
    Withdrawn,
    /// A next hop was found, lost or changed.
    Neighbour,
    /// The cluster's store is reached.
    StoreReached,
    /// The cluster's store is not reached: packets are forwarded as before, changes are refused.
    StoreLost,
    /// This machine began to lead the cluster, or ceased to.
    ClusterLeader,
    /// This machine leaves the cluster by an operator's word.
    ClusterLeft,
    /// This machine became a member of the cluster, or ceased to be one.
    ClusterJoined,
    /// An agent proved who it is.
    AgentConnected,
    /// An agent's connection has ended, or its lease.
    AgentLost,
    /// An agent registered a backend: it takes traffic after its first good check.
    BackendRegistered,
    /// A registration is over.
    BackendDeregistered,
    /// Nothing is heard of a backend's agent, or its clients are not served: the machine checks by itself.
    BackendSuspect,
    /// A suspect's agent is back, or its clients are served again.
    BackendTrusted,
    /// What an agent wanted was refused.
    RegistrationRefused,
    /// An address that an agent was to check is not on its host.
    NotLocal,
    /// The state could not be written to the disk; it is tried again until it is there.
    StateUnsaved,
    /// The state is on the disk again.
    StateSaved,
    /// A data port has a link again.
    LinkUp,
    /// A data port has no link.
    LinkDown,
    /// An exception interface is gone: its device is made anew.
    InterfaceLost,
    /// Something in the kernel that was not as wanted was put right.
    Repaired,
    /// Something in the machine's surroundings needs an operator.
    Warning,
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Event")]
pub struct LoggedEvent {
    /// Counts from 1 within a run of the process.
    pub id: u64,
    /// Unix time, milliseconds.
    pub unix_ms: u64,
    /// Kind.
    pub kind: EventKind,
    /// Service concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Backend concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Who asked for it: `uid 0, pid 4711` on the unix socket, `token, 192.0.2.7:40112` over TCP, `SIGHUP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// What happened, in words.
    pub message: String,
}

/// `GET /v1/events`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Events {
    /// Events with an id above `after`, oldest first.
    pub events: Vec<LoggedEvent>,
    /// Id of the newest event there is; smaller than `after` when the process has restarted.
    pub last_id: u64,
    /// Events between `after` and the first one here were forgotten.
    pub missed: bool,
}

/// `POST /v1/apply` and `POST /v1/reload`, when accepted.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ApplyResult {
    /// Generation of the view that carries it.
    pub generation: u64,
    /// Number of the configuration in force now, as before where nothing differs; 0 in a cluster.
    #[serde(default)]
    pub revision: u64,
    /// Every worker uses it (or a later one). Always false with `wait=false` unless they were that fast.
    pub acknowledged: bool,
    /// How long it took, milliseconds.
    pub duration_ms: u64,
    /// Warnings about the configuration.
    pub warnings: Vec<Diagnostic>,
    /// What changed, as `POST /v1/plan` would have said.
    pub plan: serde_json::Value,
    /// The revision is on this machine's disk. Of `apply` and `reload` false, which do not wait for it.
    #[serde(default)]
    pub saved: bool,
    /// Why it is not there (yet), where that was waited for. It is tried until it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsaved_because: Option<String>,
    /// It is in force on trial: unless somebody confirms it within so many milliseconds, what was before is in force again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_within_ms: Option<u64>,
}

/// `POST /v1/confirm`, when accepted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ConfirmResult {
    /// The revision that stays.
    pub revision: u64,
    /// That is on this machine's disk, and so outlives a restart.
    pub saved: bool,
    /// Why it is not there (yet). It is tried until it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsaved_because: Option<String>,
}

/// `GET /v1/history`: configurations that were in force, the newest first; the first one is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct History {
    /// Those that are kept: up to 100, and 32 MiB.
    pub revisions: Vec<RevisionStatus>,
    /// The first one is on trial: unless somebody confirms it within so many milliseconds, the one before is in force again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_within_ms: Option<u64>,
}

/// A configuration that was in force, or is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RevisionStatus {
    /// Its number; no number is given twice.
    pub number: u64,
    /// Since when it was in force, Unix time, milliseconds.
    pub unix_ms: u64,
    /// Who asked for it, as events say.
    pub caller: String,
    /// What differed from the one before, in short.
    pub change: String,
}

/// `GET /v1/services/{service}`: one service as it is in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ServiceConfig {
    /// Its name.
    pub name: String,
    /// The revision in force: with it a change can say at which it was read.
    pub revision: u64,
    /// The revision that changed it last, of those kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_by: Option<u64>,
    /// `set`: it is as the API has set it, whatever the file says; absent: as the file says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<String>,
    /// Backends whose weight or state is as the API says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<String>,
    /// What stands in a configuration from `[[service]]` on.
    pub config: String,
}

/// `PATCH /v1/services/{service}/backends/{backend}`: what is to be otherwise; what is left out stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackendPatch {
    /// Its weight, as in the configuration; 0: no new flows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// `up`, `drain` or `down`, as in the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<AdminState>,
}

/// `POST /v1/check`, when the configuration is good.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CheckedConfig {
    /// Number of services.
    pub services: u64,
    /// Number of backends.
    pub backends: u64,
    /// Warnings.
    pub warnings: Vec<Diagnostic>,
    /// Keys that differ from the running configuration and need a restart: `apply` would refuse them.
    pub restart_keys: Vec<String>,
}

/// `POST /v1/plan`: what `apply` would do.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PlanResult {
    /// The plan: per service slots moved, backends added, removed and changed; memory; keys that need a restart.
    pub plan: serde_json::Value,
    /// Warnings about the configuration.
    pub warnings: Vec<Diagnostic>,
}

/// `POST …/drain` and `…/undrain`, when accepted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DrainResult {
    /// Service.
    pub service: String,
    /// Backend.
    pub backend: String,
    /// It is drained now.
    pub drained: bool,
    /// It was otherwise before.
    pub changed: bool,
    /// Generation of the view that carries the change.
    pub generation: u64,
    /// Live flows it still has.
    pub flows: u64,
    /// It is on the disk of this machine, or in the cluster's store, and so outlives a restart.
    #[serde(default)]
    pub saved: bool,
    /// Why it is not there (yet). It is tried until it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsaved_because: Option<String>,
    /// Backends of the service that are up and not drained; with 0 nobody takes its new flows as it should.
    pub backends_up: u64,
}

/// Body of every answer that is not a success.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ErrorBody {
    /// What is wrong.
    pub error: String,
    /// What to do.
    pub help: String,
    /// Mistakes of the configuration that was sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub diagnostics: Vec<Diagnostic>,
}
