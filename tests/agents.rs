//! Agents of backend hosts: what they register and what they report, and what becomes of traffic when they, the servers or the
//! networks between them fail.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

#[path = "agents/hostile.rs"]
mod hostile;
#[path = "agents/life.rs"]
mod life;
#[path = "agents/placement.rs"]
mod placement;
#[path = "agents/speaker.rs"]
mod speaker;
#[path = "agents/stage.rs"]
mod stage;
#[path = "agents/storm.rs"]
mod storm;
#[path = "agents/walk_through.rs"]
mod walk_through;
#[path = "agents/watch.rs"]
mod watch;

use guideway_lab::agent::AgentConfig;
use guideway_lab::command::until;
use guideway_lab::config::Service;
use guideway_lab::load::unix_ms;
use guideway_lab::machines::Machines;
use guideway_lab::topology::VIP_OTHER;
use guideway_lab::{Agent, Site};
use stage::{
    HOSTS, INTERVAL_MS, Untouched, check, cluster, echo, full_or, lab, machine, may_check, members, pause,
    sites, web,
};
use std::time::Duration;

/// Where agents check, a server gets as many probes from three machines as from one: all from its own host. Where machines check, it
/// gets as many more as there are machines.
#[test]
fn a_server_gets_as_many_probes_however_many_machines_there_are() {
    const BY_MACHINES: &str = "/health-by-machines";
    let lab = lab("probes", 3);
    let _store = lab.start_store().unwrap();
    let sites = sites(&lab);
    let by_agents = Service { agents: may_check(&lab, "web"), backends: members(HOSTS), ..web(&lab) };
    let by_machines = Service {
        name: "plain".into(),
        vip: VIP_OTHER.into(),
        health: check(&format!("kind = \"http\"\npath = \"{BY_MACHINES}\"\nchecks = \"machine\"\n")),
        agents: String::new(),
        ..by_agents.clone()
    };
    let services = vec![by_agents, by_machines];
    let recipe = Box::new(|index, _: &[_]| machine(&lab, index, services.clone()));
    let mut machines = Machines::start(&lab, 1, Vec::new(), recipe).unwrap();
    let agent = |index| Agent::on(&lab, index, &AgentConfig::of(&lab, index, &["web"]).unwrap()).unwrap();
    let _agents: Vec<Agent> = (1..=HOSTS).map(agent).collect();
    let window_ms = full_or(20_000, 6_000);
    for count in 1..=3 {
        if count > 1 {
            machines.spawn(count).unwrap();
            machines.wait_ready(count).unwrap();
        }
        until("probes by agents alone", Duration::from_secs(15), || by_agents_alone(&sites)).unwrap();
        pause(500);
        let from = unix_ms();
        pause(window_ms);
        let to = unix_ms();
        let expected = (to - from).div_ceil(INTERVAL_MS);
        for (host, site) in (1..).zip(&sites) {
            let counted = |path| site.count(path, from, to).unwrap() as u64;
            let (ours, theirs) = (counted("/health"), counted(BY_MACHINES));
            println!(
                "{count} machine(s), host {host}, {} ms: {ours} probes where agents check, {theirs} where machines check",
                to - from
            );
            // A tenth; of few probes, what the window's ends make.
            let near = |got: u64, wanted: u64| got.abs_diff(wanted) <= (wanted / 10).max(2);
            assert!(near(ours, expected), "{ours} probes, not {expected}");
            assert!(
                near(theirs, expected * u64::from(count)),
                "{theirs} probes, not {count} times {expected}"
            );
        }
        by_agents_alone(&sites).unwrap();
    }
    stage::stop(machines);
}

/// Whether for some time nobody but the hosts themselves has asked for `/health`, and they have.
fn by_agents_alone(sites: &[Site]) -> Result<(), String> {
    let from = unix_ms() - 3 * INTERVAL_MS;
    for (host, site) in (1_u8..).zip(sites) {
        let own = format!("10.0.2.{}", 20 + host);
        let accesses = site.accesses().map_err(|error| error.to_string())?;
        let mut late = accesses.iter().filter(|of| of.path == "/health" && of.unix_ms >= from).peekable();
        if late.peek().is_none() {
            return Err(format!("nobody asks host {host}"));
        }
        if let Some(stranger) = late.find(|of| of.client.to_string() != own) {
            return Err(format!("{} asks host {host}", stranger.client));
        }
    }
    Ok(())
}

/// The life of backends that no file names, while requests arrive: they register, stop, go on, lose their agents, their networks and
/// their servers. No balancer is restarted meanwhile, and no file is edited.
#[test]
fn backends_come_and_go_by_the_word_of_their_agents() {
    let lab = lab("agents", 2);
    let _store = lab.start_store().unwrap();
    let mut sites = sites(&lab);
    let machines = cluster(&lab, 2, vec![web(&lab), echo(&lab, members(HOSTS), "")]);
    let untouched = Untouched::now(&machines);
    let mut agents = life::an_empty_service_fills_itself(&lab, &machines);
    life::a_stopped_server_is_left_alone_until_it_goes_on(&lab, &machines, &sites);
    life::a_server_outlives_its_agent_and_its_management_network(&lab, &machines, &mut agents, &sites);
    life::dead_servers_and_hosts_are_out_in_time(&lab, &machines, &mut agents, &mut sites);
    assert_eq!(Untouched::now(&machines), untouched);
    drop(agents);
    stage::stop(machines);
}

/// What agents may say that are none, or not who they say they are; and a thousand backends at once.
#[test]
fn no_agent_harms_others() {
    let lab = lab("hostile agents", 2);
    let _store = lab.start_store().unwrap();
    let _sites = sites(&lab);
    let machines = cluster(&lab, 2, vec![web(&lab), storm::service(&lab)]);
    let agents = stage::agents(&lab, &[1, 2, 3], &["web"]);
    stage::wait_up(&machines, "web", &[1, 2, 3]);
    hostile::hostile_agents_are_refused(&lab, &machines);
    storm::a_thousand_registrations_are_few_changes(&lab, &machines);
    drop(agents);
    stage::stop(machines);
}
