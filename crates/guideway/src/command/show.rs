//! `guideway show`.

use crate::connection::Connection;
use crate::daemon::Daemon;
use crate::failure::Failure;
use crate::name::escaped;
use crate::outcome::EXIT_CODES;
use crate::table::{TextTable, duration, grouped};
use crate::{CommandResult, Done, output};
use clap::{Args, Subcommand};
use model::agent::Phase;
use model::api::{
    AgentStatus, BackendState, BackendStatus, ClusterStatus, DropCount, ExceptionStatus, FLOWS_DEFAULT,
    FLOWS_MAX, Flows, OwnerStatus, PortStatus, RegistrationStatus, ServiceState, ServiceStatus, SourceRate,
    Word, WorkerStatus,
};
use serde::de::DeserializeOwned;
use std::io::IsTerminal;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What the daemon knows: services, backends, workers, ports, flows, drops, and its cluster
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: Shown,
    #[command(flatten)]
    format: ShowFormat,
}

#[derive(Args, Debug)]
struct ShowFormat {
    /// Print JSON, as the API gives it
    #[arg(long, global = true)]
    json: bool,
    /// Again every so many seconds
    #[arg(long, global = true, value_name = "SECONDS", num_args = 0..=1,
        default_missing_value = "2", require_equals = true,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
    /// The daemon's socket [default: the one of --config, else the only one in /run/guideway]
    #[arg(long, global = true, env = "GUIDEWAY_SOCKET", value_name = "PATH")]
    socket: Option<std::path::PathBuf>,
    /// Configuration to take the socket from
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<std::path::PathBuf>,
}

#[derive(Subcommand, Debug)]
enum Shown {
    /// Services with their state, backends and traffic
    Services,
    /// Backends with their state and by whose word
    Backends {
        /// Only those of this service
        service: Option<String>,
    },
    /// Workers with their load
    Workers,
    /// Ports with their counters
    Ports,
    /// Tracked flows
    Flows {
        /// Only those of this service
        #[arg(long)]
        service: Option<String>,
        /// Only those of this client
        #[arg(long, value_name = "ADDRESS")]
        client: Option<IpAddr>,
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = FLOWS_DEFAULT as u64,
            value_parser = clap::value_parser!(u64).range(1..=FLOWS_MAX as u64))]
        limit: u64,
    },
    /// Backends that agents speak for or spoke for, with their state and why
    Registrations {
        /// Only those of this service
        service: Option<String>,
    },
    /// Agents that are connected
    Agents,
    /// The machine's part in its cluster, and the others
    Cluster,
    /// Who owns how many slots
    Owners {
        /// Only those of this service
        service: Option<String>,
    },
    /// Tainted slots: whose flows may be with another backend than the table's
    Exceptions,
    /// Dropped frames by reason
    Drops {
        /// Also reasons that never occurred
        #[arg(long)]
        all: bool,
    },
}

pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    let format = &arguments.format;
    let connection = Connection { socket: format.socket.clone(), config: format.config.clone() };
    let daemon = Daemon::new(&connection)?;
    if format.watch.is_some() {
        output::end_with_reader();
    }
    loop {
        let text = render(&daemon, &arguments.what, format.json)?;
        match format.watch {
            None => {
                output::print(&text)?;
                return Ok(Done::Well);
            }
            Some(seconds) => {
                if std::io::stdout().is_terminal() {
                    // Home, then clear to the end: no flicker.
                    output::print("\x1b[H\x1b[2J")?;
                }
                output::print(&text)?;
                std::thread::sleep(Duration::from_secs(seconds));
            }
        }
    }
}

fn render(daemon: &Daemon, what: &Shown, json: bool) -> Result<String, Failure> {
    match what {
        Shown::Services => answer(daemon, "/v1/services", json, services),
        Shown::Backends { service: None } => answer(daemon, "/v1/backends", json, backends),
        Shown::Backends { service: Some(name) } => {
            answer(daemon, &format!("/v1/backends?service={}", escaped(name)), json, backends)
        }
        Shown::Workers => answer(daemon, "/v1/workers", json, workers),
        Shown::Ports => answer(daemon, "/v1/ports", json, ports),
        Shown::Flows { service, client, limit } => {
            let mut target = format!("/v1/flows?limit={limit}");
            if let Some(service) = service {
                target += &format!("&service={}", escaped(service));
            }
            if let Some(client) = client {
                target += &format!("&client={}", escaped(&client.to_string()));
            }
            answer(daemon, &target, json, flows)
        }
        Shown::Registrations { service: None } => answer(daemon, "/v1/registrations", json, registrations),
        Shown::Registrations { service: Some(name) } => {
            answer(daemon, &format!("/v1/registrations?service={}", escaped(name)), json, registrations)
        }
        Shown::Agents => answer(daemon, "/v1/agents", json, agents),
        Shown::Cluster => answer(daemon, "/v1/cluster", json, cluster),
        Shown::Owners { service: None } => answer(daemon, "/v1/owners", json, owners),
        Shown::Owners { service: Some(name) } => {
            answer(daemon, &format!("/v1/owners?service={}", escaped(name)), json, owners)
        }
        Shown::Exceptions => answer(daemon, "/v1/exceptions", json, exceptions),
        Shown::Drops { all } => {
            let shown = answer(daemon, "/v1/drops", json, |d: &Vec<DropCount>| drops(d, *all))?;
            if json {
                return Ok(shown);
            }
            // An older daemon does not know who.
            let busiest: Vec<SourceRate> = daemon.get("/v1/sources").unwrap_or_default();
            Ok(shown + &sources(&busiest))
        }
    }
}

/// JSON goes through as the daemon wrote it, so that fields newer than this program are not lost.
fn answer<T: DeserializeOwned>(
    daemon: &Daemon,
    target: &str,
    json: bool,
    table: impl FnOnce(&T) -> String,
) -> Result<String, Failure> {
    if json { pretty(&daemon.get(target)?) } else { Ok(table(&daemon.get(target)?)) }
}

fn pretty(value: &serde_json::Value) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Failure::failed(format!("cannot write JSON: {e}")))?;
    Ok(text + "\n")
}

pub(crate) fn service_state(state: ServiceState) -> &'static str {
    match state {
        ServiceState::Ready => "ready",
        ServiceState::Panic => "panic",
        ServiceState::Empty => "empty",
    }
}

pub(crate) fn backend_state(state: BackendState) -> &'static str {
    match state {
        BackendState::Up => "up",
        BackendState::Down => "down",
        BackendState::Drain => "drain",
        BackendState::Removed => "removed",
    }
}

fn word(word: Word) -> &'static str {
    match word {
        Word::Admin => "config",
        Word::Health => "health",
        Word::Agent => "agent",
        Word::Lease => "lease",
        Word::Drain => "drain",
        Word::Panic => "panic",
    }
}

fn any_port(port: u16) -> String {
    if port == 0 { "any".into() } else { port.to_string() }
}

fn services(list: &Vec<ServiceStatus>) -> String {
    let mut t = TextTable::new(&[
        "service",
        "vip",
        ">port",
        "protocol",
        "mode",
        "state",
        ">up",
        ">of",
        ">flows",
        ">new flows",
        ">packets",
        ">no backend",
        ">tainted",
    ]);
    for s in list {
        t.row([
            s.name.clone(),
            s.vip.clone(),
            any_port(s.port),
            s.protocol.clone(),
            s.mode.clone(),
            service_state(s.state).into(),
            s.backends_up.to_string(),
            s.backends_total.to_string(),
            grouped(s.flows),
            grouped(s.flows_new),
            grouped(s.packets),
            grouped(s.no_backend),
            if s.tracking == "exceptions" { grouped(u64::from(s.tainted_slots)) } else { "-".into() },
        ]);
    }
    t.render()
}

#[expect(clippy::ptr_arg, reason = "the type the answer is read into")]
fn backends(list: &Vec<BackendStatus>) -> String {
    backends_at(list, now_unix_ms())
}

fn backends_at(list: &[BackendStatus], now_ms: u64) -> String {
    let mut t = TextTable::new(&[
        "service",
        "backend",
        "address",
        ">weight",
        "state",
        "by",
        ">for",
        "last check",
        "next hop",
        ">path mtu",
        ">flows",
        ">new flows",
        ">packets",
    ]);
    for b in list {
        let last = match (&b.reason, b.suspect_since_unix_ms) {
            (Some(reason), Some(since)) => {
                format!("{reason}; suspect for {}", duration(now_ms.saturating_sub(since)))
            }
            _ => b.health.as_ref().and_then(|h| h.last.as_ref()).map_or("-".to_owned(), |c| c.reason.clone()),
        };
        t.row([
            b.service.clone(),
            b.name.clone(),
            b.address.to_string(),
            b.weight.to_string(),
            backend_state(b.state).into(),
            match (b.word, &b.agent) {
                (Word::Agent | Word::Lease, Some(agent)) => format!("{} {agent}", word(b.word)),
                _ => word(b.word).to_owned(),
            },
            duration(now_ms.saturating_sub(b.since_unix_ms)),
            last,
            b.next_hop.clone().unwrap_or_else(|| "unresolved".into()),
            b.path_mtu.map_or_else(|| "-".to_owned(), |mtu| mtu.to_string()),
            grouped(b.flows),
            grouped(b.flows_new),
            grouped(b.packets),
        ]);
    }
    t.render()
}

fn workers(list: &Vec<WorkerStatus>) -> String {
    let mut t = TextTable::new(&[
        ">worker",
        ">cpu",
        ">busy",
        ">rx",
        ">tx",
        ">punted",
        ">dropped",
        ">flows",
        ">capacity",
        ">refused",
        ">per burst",
        ">generation",
    ]);
    for w in list {
        t.row([
            w.core.to_string(),
            w.cpu.to_string(),
            format!("{:.0}%", w.busy_ratio * 100.0),
            grouped(w.rx),
            grouped(w.tx),
            grouped(w.punted),
            grouped(w.dropped),
            grouped(w.flows),
            grouped(w.capacity + w.capacity_wide),
            grouped(w.flow_refused),
            format!("{:.1}", w.packets_per_burst),
            w.generation.to_string(),
        ]);
    }
    t.render()
}

fn ports(list: &Vec<PortStatus>) -> String {
    let mut t = TextTable::new(&[
        "port",
        "driver",
        "mac",
        ">mtu",
        "link",
        "exception",
        ">rx",
        ">tx",
        ">missed",
        ">errors",
        ">no buffer",
        ">tx full",
        "not as wanted",
    ]);
    for p in list {
        t.row([
            p.name.clone(),
            p.driver.clone(),
            p.mac.clone(),
            p.mtu.to_string(),
            if p.link_up { "up" } else { "down" }.into(),
            p.exception.clone().unwrap_or_else(|| "-".into()),
            grouped(p.rx),
            grouped(p.tx),
            grouped(p.rx_missed),
            grouped(p.rx_errors + p.tx_errors),
            grouped(p.rx_nombuf),
            grouped(p.tx_full),
            if p.wrong.is_empty() { "-".into() } else { p.wrong.join("; ") },
        ]);
    }
    t.render()
}

fn cluster(status: &ClusterStatus) -> String {
    let now_ms =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(0));
    cluster_at(status, now_ms)
}

fn cluster_at(status: &ClusterStatus, now_ms: u64) -> String {
    let since = duration(now_ms.saturating_sub(status.store_since_unix_ms));
    let mut text = match &status.store_problem {
        None => format!("store: reached for {since}\n"),
        Some(problem) => {
            format!(
                "store: not reached for {since}: {problem}; packets are forwarded as before, changes are \
                 refused\n"
            )
        }
    };
    let leader = status.leader.as_deref().unwrap_or("nobody");
    let joined = if status.joined { "has joined" } else { "has not joined: it drops packets of services" };
    text += &format!("machine: {} {joined}\n", status.machine);
    if let Some(misfit) = &status.misfit {
        text += &format!("not ready: {misfit}; until then packets are forwarded as before\n");
    }
    text += &format!("leader: {leader}\n");
    text += &format!(
        "plan: step {} ({}), epoch {}, generation {}{}\n",
        status.step,
        status.phase,
        status.epoch,
        status.generation,
        if status.settled { "" } else { "; what was asked for is not in force everywhere yet" },
    );
    if let Some(problem) = &status.refused {
        text += &format!("what was asked for cannot be done: {problem}\n");
    }
    if !status.waiting_for.is_empty() {
        text += &format!("waits for: {}\n", status.waiting_for.join(", "));
    }
    text += &format!("tainted slots: {}\n", grouped(status.tainted_slots));
    if !status.masked.is_empty() {
        text += &format!("no new flows to: {}\n", status.masked.join(", "));
    }
    let mut t =
        TextTable::new(&["machine", ">number", ">start", "address", "state", ">step", "heard", "next hop"]);
    for member in &status.members {
        let own = member.name == status.machine;
        t.row([
            member.name.clone(),
            member.machine.to_string(),
            member.incarnation.to_string(),
            member.address.map_or("-".into(), |address| address.to_string()),
            member.state.clone(),
            member.step_done.map_or("-".into(), |step| step.to_string()),
            if own {
                "-"
            } else if member.suspect {
                "silent"
            } else {
                "yes"
            }
            .into(),
            match &member.next_hop {
                _ if own => "-".into(),
                Some(hop) => hop.clone(),
                None => "unresolved".into(),
            },
        ]);
    }
    text + "\n" + &t.render()
}

fn now_unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(0))
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Registered => "registered",
        Phase::Checking => "checking",
        Phase::Up => "up",
        Phase::Down => "down",
        Phase::Suspect => "suspect",
        Phase::Draining => "draining",
        Phase::Gone => "gone",
    }
}

#[expect(clippy::ptr_arg, reason = "the type the answer is read into")]
fn registrations(list: &Vec<RegistrationStatus>) -> String {
    registrations_at(list, now_unix_ms())
}

fn registrations_at(list: &[RegistrationStatus], now_ms: u64) -> String {
    let mut t = TextTable::new(&[
        "service", "backend", "address", "agent", ">weight", "state", ">for", "in force", "why",
    ]);
    for of in list {
        let why = match (&of.suspected, of.own_failures) {
            (None, _) => of.reason.clone(),
            (Some(why), 0) => format!("{why}; {}", of.reason),
            (Some(why), failures) => format!("{why}; {failures} own checks failed: {}", of.reason),
        };
        t.row([
            of.service.clone(),
            of.backend.clone(),
            of.address.to_string(),
            of.agent.clone(),
            of.weight.map_or_else(|| "config".to_owned(), |weight| weight.to_string()),
            phase(of.state).to_owned(),
            duration(now_ms.saturating_sub(of.since_unix_ms)),
            if of.in_force { "yes" } else { "no" }.to_owned(),
            why,
        ]);
    }
    t.render()
}

#[expect(clippy::ptr_arg, reason = "the type the answer is read into")]
fn agents(list: &Vec<AgentStatus>) -> String {
    agents_at(list, now_unix_ms())
}

fn agents_at(list: &[AgentStatus], now_ms: u64) -> String {
    let mut t = TextTable::new(&[
        "agent",
        "from",
        "services",
        ">registered",
        ">checks",
        ">connected for",
        ">silent for",
    ]);
    for of in list {
        t.row([
            of.name.clone(),
            of.peer.clone(),
            of.services.join(","),
            grouped(of.registered),
            grouped(of.checks),
            duration(now_ms.saturating_sub(of.since_unix_ms)),
            duration(of.silent_ms),
        ]);
    }
    t.render()
}

fn owners(list: &Vec<OwnerStatus>) -> String {
    let mut t = TextTable::new(&["service", "machine", ">slots", ">as backup", ">tainted"]);
    for of in list {
        t.row([
            of.service.clone(),
            of.machine.clone(),
            grouped(of.primary),
            grouped(of.backup),
            grouped(of.primary_tainted),
        ]);
    }
    t.render()
}

fn exceptions(list: &Vec<ExceptionStatus>) -> String {
    let mut t = TextTable::new(&["service", ">slots", ">tainted", "formerly", ">of these", ">flows there"]);
    for of in list {
        t.row([
            of.service.clone(),
            grouped(of.slots),
            grouped(of.tainted),
            of.base.clone().unwrap_or_else(|| "-".into()),
            grouped(of.of_base),
            grouped(of.flows),
        ]);
    }
    t.render()
}

fn flows(answer: &Flows) -> String {
    let mut t = TextTable::new(&[
        ">worker", "service", "protocol", "client", "vip", "backend", "address", "state", ">idle",
    ]);
    for f in &answer.flows {
        t.row([
            f.core.to_string(),
            f.service.clone(),
            f.protocol.clone(),
            std::net::SocketAddr::new(f.client, f.client_port).to_string(),
            std::net::SocketAddr::new(f.vip, f.port).to_string(),
            f.backend.clone(),
            f.backend_address.map_or("-".into(), |a| a.to_string()),
            f.state.clone(),
            duration(f.idle_ms),
        ]);
    }
    let more = if answer.truncated { "there are more; see --limit, --service and --client\n" } else { "" };
    t.render() + more
}

fn drops(list: &[DropCount], all: bool) -> String {
    let mut t = TextTable::new(&["reason", ">frames", "meaning"]);
    for d in list.iter().filter(|d| all || d.count > 0) {
        t.row([d.reason.clone(), grouped(d.count), d.help.clone()]);
    }
    t.render()
}

/// Who sends most of it.
fn sources(list: &[SourceRate]) -> String {
    if list.is_empty() {
        return String::new();
    }
    let mut t = TextTable::new(&["from", ">about per s"]);
    for of in list {
        t.row([of.source.clone(), grouped(of.per_second)]);
    }
    format!("\nmost of what is dropped, or finds no room, comes from\n{}", t.render())
}

#[cfg(test)]
mod tests;
