//! Machines that listen for agents, the services that agents speak for, and the agents of the backend hosts.

use guideway_lab::agent::{AgentConfig, listening};
use guideway_lab::api::rows;
use guideway_lab::command::until;
use guideway_lab::config::{Config, Member, Mode, Service};
use guideway_lab::load::hold::{HoldLoad, HoldReport};
use guideway_lab::load::http::HttpLoad;
use guideway_lab::load::unix_ms;
use guideway_lab::load_run::LoadRun;
use guideway_lab::machines::Machines;
use guideway_lab::scenario::check_conservation;
use guideway_lab::topology::{ECHO_PORT, VIP, VIP_OTHER};
use guideway_lab::{Agent, Lab, Shape, Site, Store, site};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;

/// Backend hosts.
pub(crate) const HOSTS: u8 = 4;
/// Time between two checks, in every service of these tests.
pub(crate) const INTERVAL_MS: u64 = 500;
/// Silence after which an agent's backends are suspect.
pub(crate) const LEASE_MS: u64 = 3000;
/// Answers may take this long before they are failures of the client's: longer than any detection.
const CLIENT_LIMIT_MS: u64 = 4000;

/// Whether tests are to be as long as they should be: `GUIDEWAY_LAB_FULL` is set (`cargo xtask soak` does).
fn is_full() -> bool {
    std::env::var_os("GUIDEWAY_LAB_FULL").is_some_and(|value| !value.is_empty())
}

/// A number: the full one, or one for every day.
pub(crate) fn full_or(full: u64, short: u64) -> u64 {
    if is_full() { full } else { short }
}

/// Slots of a table: fewer in every day's tests, because programs that are not optimized take seconds for what an optimized one does
/// in a hundredth.
pub(crate) fn slots() -> u64 {
    full_or(65_537, 4_099)
}

pub(crate) fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// A lab with so many machines.
pub(crate) fn lab(name: &str, machines: u8) -> Lab {
    let huge_pages = 256 * u64::from(machines);
    Lab::with(name, &Shape { balancers: machines, backends: HOSTS, huge_pages, management: true }).unwrap()
}

/// The check of every service here, with these further lines.
pub(crate) fn check(lines: &str) -> String {
    format!("interval_ms = {INTERVAL_MS}\ntimeout_ms = 250\nfall = 2\nrise = 2\n{lines}")
}

/// Lines of `[service.agents]`: agents may speak for the service, and may register in the servers' subnet.
pub(crate) fn may_register(lab: &Lab, service: &str, lines: &str) -> String {
    let token = lab.token(service).unwrap();
    format!(
        "token_file = \"{}\"\nlease_ms = {LEASE_MS}\n[service.agents.register]\naddresses = [\"10.0.2.0/24\"]\n{lines}",
        token.display()
    )
}

/// Lines of `[service.agents]`: agents may check.
pub(crate) fn may_check(lab: &Lab, service: &str) -> String {
    let token = lab.token(service).unwrap();
    format!("token_file = \"{}\"\nlease_ms = {LEASE_MS}\n", token.display())
}

/// Service `web`: the sites, checked by HTTP, empty.
pub(crate) fn web(lab: &Lab) -> Service {
    Service {
        port: site::PORT,
        // Health is heeded however many are down: several hosts die at once.
        extra: format!("maglev_size = {}\npanic_percent = 0\n", slots()),
        health: check("kind = \"http\"\npath = \"/health\"\n"),
        agents: may_register(lab, "web", ""),
        ..Service::web(Mode::Ipip, Vec::new())
    }
}

/// Service `echo`: our own servers, checked by TCP, on these backends. Its extra keys are given.
pub(crate) fn echo(lab: &Lab, members: Vec<Member>, extra: &str) -> Service {
    Service {
        extra: format!("maglev_size = {}\npanic_percent = 0\n{extra}", slots()),
        health: check("kind = \"tcp\"\n"),
        agents: may_register(lab, "echo", ""),
        ..Service::echo(Mode::Ipip, members)
    }
}

/// The same on the other VIP.
pub(crate) fn echo_other(lab: &Lab, name: &str, extra: &str) -> Service {
    Service {
        name: name.to_owned(),
        vip: VIP_OTHER.to_owned(),
        agents: may_register(lab, name, ""),
        ..echo(lab, Vec::new(), extra)
    }
}

/// Backends 1 to n of the lab.
pub(crate) fn members(count: u8) -> Vec<Member> {
    (1..=count).map(|index| Member::v4(index, Mode::Ipip)).collect()
}

/// A machine of a cluster that listens for agents, with these services.
pub(crate) fn machine(lab: &Lab, index: u8, services: Vec<Service>) -> Config {
    let mut config = lab.config(index);
    config.services = services;
    config.extra =
        format!("{}[cluster]\nstore = \"etcd\"\nendpoints = [\"{}\"]\n", listening(index), Store::endpoint());
    config
}

/// Starts machines 1 to n of a cluster, all with these services, and waits until they are ready.
pub(crate) fn cluster(lab: &Lab, count: u8, services: Vec<Service>) -> Machines<'_> {
    let recipe = Box::new(move |index, _: &[Member]| machine(lab, index, services.clone()));
    Machines::start(lab, count, Vec::new(), recipe).unwrap()
}

/// Starts the sites of all hosts.
pub(crate) fn sites(lab: &Lab) -> Vec<Site> {
    (1..=HOSTS).map(|index| Site::start(lab, index).unwrap()).collect()
}

/// What the agent of a host says in these tests: it registers the host for each service, by its name.
pub(crate) fn registers(lab: &Lab, index: u8, services: &[&str]) -> AgentConfig {
    let config = AgentConfig::of(lab, index, services).unwrap();
    services
        .iter()
        .fold(config, |config, service| config.registering(service, &format!("b{index}"), index, ""))
}

/// Starts the agents of these hosts.
pub(crate) fn agents(lab: &Lab, hosts: &[u8], services: &[&str]) -> Vec<Agent> {
    hosts.iter().map(|&index| Agent::on(lab, index, &registers(lab, index, services)).unwrap()).collect()
}

/// A service's rows of `/v1/backends`, of a machine.
pub(crate) fn backends(machines: &Machines<'_>, index: u8, service: &str) -> Vec<Value> {
    let answer = machines.get(index).unwrap().api().get("/v1/backends").unwrap();
    rows(&answer).iter().filter(|row| row["service"] == service).cloned().collect()
}

/// Waits until exactly these backends of a service take new flows, on every machine.
pub(crate) fn wait_up(machines: &Machines<'_>, service: &str, hosts: &[u8]) {
    let wanted: Vec<String> = hosts.iter().map(|index| format!("b{index}")).collect();
    for (index, _) in machines.all() {
        until(&format!("{wanted:?} of {service} up on machine {index}"), Duration::from_secs(15), || {
            let rows = backends(machines, index, service);
            let up = rows.iter().filter(|row| row["state"] == "up").filter_map(|row| row["name"].as_str());
            let mut up: Vec<&str> = up.collect();
            up.sort_unstable();
            if up == wanted { Ok(()) } else { Err(format!("{rows:?}")) }
        })
        .unwrap();
    }
}

/// Generations of all machines' views.
pub(crate) fn generations(machines: &Machines<'_>) -> Vec<u64> {
    let of =
        |index| machines.get(index).unwrap().api().get("/v1/status").unwrap()["generation"].as_u64().unwrap();
    machines.all().map(|(index, _)| of(index)).collect()
}

/// Generations of the cluster's tables, as each machine has it.
pub(crate) fn table_generations(machines: &Machines<'_>) -> Vec<u64> {
    let of = |index| machines.cluster(index).unwrap()["generation"].as_u64().unwrap();
    machines.all().map(|(index, _)| of(index)).collect()
}

/// VIP and port of the sites.
pub(crate) fn web_target() -> SocketAddr {
    SocketAddr::new(VIP.parse().unwrap(), site::PORT)
}

/// VIP and port of our own servers.
pub(crate) fn echo_target() -> SocketAddr {
    SocketAddr::new(VIP.parse().unwrap(), ECHO_PORT)
}

/// The same on the other VIP.
pub(crate) fn other_target() -> SocketAddr {
    SocketAddr::new(VIP_OTHER.parse().unwrap(), ECHO_PORT)
}

/// Requests to the sites at a steady rate. Enough of them can be under way that those who wait for a dead host hold up nobody.
pub(crate) fn requests(lab: &Lab, rate: u64) -> HttpLoad {
    let target = web_target();
    let load = HttpLoad::steady(target, lab.sources(target.ip()), rate);
    HttpLoad { concurrency: 1000, timeout_ms: CLIENT_LIMIT_MS, ..load }
}

/// Opens held connections to a target at a steady rate, each with an exchange a second.
pub(crate) fn hold(
    lab: &Lab,
    target: SocketAddr,
    connections: usize,
    opening_ms: u64,
) -> LoadRun<HoldReport> {
    let load = HoldLoad::new(target, lab.sources(target.ip()), connections, 0);
    lab.hold(HoldLoad { opening_ms, interval_ms: 1000, limit_ms: 3000, ..load }).unwrap()
}

/// Waits until so many connections have had their first exchange.
pub(crate) fn wait_held(run: &LoadRun<HoldReport>, connections: u64) {
    until("all connections", Duration::from_secs(15), || {
        let progress = run.progress();
        if progress.done >= connections { Ok(()) } else { Err(format!("{progress:?}")) }
    })
    .unwrap();
}

/// Ends the machines, and looks whether every frame is accounted for.
pub(crate) fn stop(machines: Machines<'_>) {
    for (_, balancer) in machines.all() {
        check_conservation(balancer).unwrap();
    }
    machines.stop().unwrap();
}

/// What a test must not touch: the balancers' processes, and their files.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Untouched(Vec<(u32, std::time::SystemTime, Vec<u8>)>);

impl Untouched {
    pub(crate) fn now(machines: &Machines<'_>) -> Untouched {
        let of = |balancer: &guideway_lab::Balancer| {
            let path = balancer.config_path();
            let modified = std::fs::metadata(path).unwrap().modified().unwrap();
            (balancer.id(), modified, std::fs::read(path).unwrap())
        };
        Untouched(machines.all().map(|(_, balancer)| of(balancer)).collect())
    }
}

/// Sleeps until a time, Unix time, milliseconds.
pub(crate) fn pause_until(time_ms: u64) {
    pause(time_ms.saturating_sub(unix_ms()));
}
