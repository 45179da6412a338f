//! The life of backends that agents speak for, in order: from an empty service to dead hosts.

use crate::stage::{
    HOSTS, LEASE_MS, backends, echo_target, hold, pause, pause_until, registers, requests, wait_held,
    wait_up, web_target,
};
use crate::watch::{Watch, spread};
use guideway_lab::agent::AgentConfig;
use guideway_lab::api::rows;
use guideway_lab::command::until;
use guideway_lab::load::http::{HttpLoad, HttpReport, STEP_MS};
use guideway_lab::load::unix_ms;
use guideway_lab::machines::Machines;
use guideway_lab::topology::balancer_address;
use guideway_lab::{Agent, Lab, Site};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::time::Duration;

/// The machines.
const BOTH: [u8; 2] = [1, 2];
/// Requests a second, beside what is done.
const RATE: u64 = 200;
/// Time in which a server that fails its checks must be out, and one that passes them again in.
const CHECKED_MS: u64 = 1800;
/// Machines must mask a backend within this time of each other.
const TOGETHER_MS: u64 = 50;

/// The agent of a host in these tests: it registers the site and checks our own server.
fn agent(lab: &Lab, index: u8) -> Agent {
    let config: AgentConfig = registers(lab, index, &["web"]);
    let token = lab.token("echo").unwrap();
    Agent::on(
        lab,
        index,
        &AgentConfig { services: [config.services, vec![("echo".into(), token)]].concat(), ..config },
    )
    .unwrap()
}

/// Point 4.
pub(crate) fn an_empty_service_fills_itself(lab: &Lab, machines: &Machines<'_>) -> Vec<Agent> {
    assert!(backends(machines, 1, "web").is_empty());
    let target = web_target();
    let report = lab.http(HttpLoad::new(target, lab.sources(target.ip()), 100)).unwrap();
    let report = report.finish(Duration::from_secs(10)).unwrap();
    assert_eq!((report.ok, report.failed), (0, 100));
    assert!(report.failures.iter().all(|of| of.reason.contains("refused")), "{:?}", report.failures.first());

    let run = lab.http(requests(lab, RATE)).unwrap();
    pause(300);
    let begun = unix_ms();
    let first = agent(lab, 1);
    until("a first answer", Duration::from_secs(5), || {
        let progress = run.progress();
        if progress.done > 0 { Ok(()) } else { Err(format!("{progress:?}")) }
    })
    .unwrap();
    pause(1000);
    let report = run.stop().unwrap();
    let registered = registered_at(machines, "b1");
    let served = *report.timeline.keys().next().unwrap() + STEP_MS;
    let refused = report.failures.iter().map(|of| of.started_unix_ms).max().unwrap();
    println!(
        "point 4: REGISTER came {} ms after the agent's start; the first flow was served {} ms after REGISTER at the latest, the \
         last was refused {} ms after it",
        registered - begun,
        served.saturating_sub(registered),
        refused.saturating_sub(registered)
    );
    assert!(served <= registered + 1000);
    assert!(report.failures.iter().all(|of| of.reason.contains("refused")), "{:?}", report.failures.last());

    let agents = [first].into_iter().chain((2..=HOSTS).map(|index| agent(lab, index))).collect();
    wait_up(machines, "web", &[1, 2, 3, 4]);
    wait_up(machines, "echo", &[1, 2, 3, 4]);
    agents
}

/// When the first machine took a backend's registration in, by its event.
fn registered_at(machines: &Machines<'_>, backend: &str) -> u64 {
    let events = machines.get(1).unwrap().api().get("/v1/events?after=0&limit=10000").unwrap();
    let is_it =
        |event: &&serde_json::Value| event["kind"] == "backend_registered" && event["backend"] == backend;
    let event =
        rows(&events).iter().find(is_it).unwrap_or_else(|| panic!("no registration of {backend}: {events}"));
    event["unix_ms"].as_u64().unwrap()
}

/// Times of failed requests after a time, milliseconds; none may have begun earlier than just before it.
fn failures_after(report: &HttpReport, from: u64) -> Vec<u64> {
    let started = |of: &guideway_lab::load::Failure| {
        // A request that was under way fails as well.
        assert!(of.started_unix_ms + 100 >= from, "{of:?} began before {from}");
        of.started_unix_ms.saturating_sub(from)
    };
    report.failures.iter().map(started).collect()
}

/// Point 2.
pub(crate) fn a_stopped_server_is_left_alone_until_it_goes_on(
    lab: &Lab,
    machines: &Machines<'_>,
    sites: &[Site],
) {
    let site = &sites[0];
    let run = lab.http(requests(lab, RATE)).unwrap();
    let watch = Watch::begin(machines);
    pause(1000);
    let stopped = unix_ms();
    site.signal(Signal::STOP);
    pause(3000);
    let resumed = unix_ms();
    site.signal(Signal::CONT);
    pause(CHECKED_MS + 500);
    let (changes, report) = (watch.end(), run.stop().unwrap());
    let (out, back) =
        (changes.first(&BOTH, "web", "b1", false, stopped), changes.first(&BOTH, "web", "b1", true, resumed));
    let late = report.of_between("b1", stopped + CHECKED_MS, resumed);
    let new = report.timeline.range(resumed..).find(|(_, step)| step.contains_key("b1"));
    let new = new.unwrap_or_else(|| panic!("b1 got no flow after it had gone on")).0 - resumed + STEP_MS;
    // What the stopped server had accepted is answered when it goes on; what began then and is not late is the client's to wait for.
    let waited = report
        .timeline
        .range(stopped..resumed)
        .filter(|(_, step)| step.contains_key("b1"))
        .map(|(at, _)| *at);
    let last = waited.chain(failures_after(&report, stopped).into_iter().map(|ms| stopped + ms)).max();
    println!(
        "point 2: after SIGSTOP masked at {out:?} ms, {} ms apart, last flow to it began at {} ms; after SIGCONT unmasked at {back:?} \
         ms, {} ms apart, first flow at {new} ms at the latest; {} of {} requests failed",
        spread(&out),
        last.unwrap_or(stopped) - stopped,
        spread(&back),
        report.failed,
        report.ok + report.failed
    );
    assert_eq!(late, 0, "flows to a server that is out");
    assert!(last.unwrap_or(stopped) <= stopped + CHECKED_MS);
    assert!(spread(&out) <= TOGETHER_MS && spread(&back) <= TOGETHER_MS);
    assert!(new <= CHECKED_MS);
}

/// Point 3: the agent of host 2 dies, and the management network of host 3 is cut.
pub(crate) fn a_server_outlives_its_agent_and_its_management_network(
    lab: &Lab,
    machines: &Machines<'_>,
    agents: &mut [Agent],
    sites: &[Site],
) {
    let run = lab.http(requests(lab, RATE)).unwrap();
    let watch = Watch::begin(machines);
    pause(500);
    let begun = unix_ms();
    agents[1].kill();
    lab.cut_management(3).unwrap();
    for index in BOTH {
        for backend in ["b2", "b3"] {
            wait_phase(machines, index, backend, "suspect");
        }
    }
    let suspect = unix_ms();
    pause_until(begun + LEASE_MS + 2000);
    let probed = unix_ms();
    let askers = |site: &Site| -> BTreeSet<String> {
        let accesses = site.accesses().unwrap();
        let late =
            accesses.iter().filter(|of| of.path == "/health" && (suspect..probed).contains(&of.unix_ms));
        late.map(|of| of.client.to_string()).collect()
    };
    let machines_addresses: BTreeSet<String> = BOTH.into_iter().map(balancer_address).collect();
    // Of host 2 nobody else; on host 3 the agent goes on.
    assert_eq!(askers(&sites[1]), machines_addresses);
    assert!(askers(&sites[2]).is_superset(&machines_addresses), "{:?}", askers(&sites[2]));
    lab.mend_management(3).unwrap();
    agents[1] = agent(lab, 2);
    for index in BOTH {
        for backend in ["b2", "b3"] {
            wait_phase(machines, index, backend, "up");
        }
    }
    let again = unix_ms();
    let (changes, report) = (watch.end(), run.stop().unwrap());
    println!(
        "point 3: all suspect {} ms after the death and the cut, machines probe, all by their agents' word again {} ms after these \
         are back; {} of {} requests failed",
        suspect - begun,
        again - probed,
        report.failed,
        report.ok + report.failed
    );
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    for backend in ["b2", "b3"] {
        assert!(changes.of("web", backend, begun).is_empty(), "{:?}", changes.of("web", backend, begun));
    }
    wait_up(machines, "web", &[1, 2, 3, 4]);
}

/// Waits until a machine says that the agents' backend of the service web is in a state.
fn wait_phase(machines: &Machines<'_>, index: u8, backend: &str, phase: &str) {
    let api = machines.get(index).unwrap().api();
    until(&format!("{backend} {phase} on machine {index}"), Duration::from_secs(10), || {
        let row = api
            .find("/v1/registrations", &[("service", "web"), ("backend", backend)])
            .map_err(|error| error.to_string())?;
        if row["state"] == phase { Ok(()) } else { Err(row.to_string()) }
    })
    .unwrap();
}

/// Point 8: at the same time the servers of host 4 die, those of host 3 with their agent, and host 2 loses its link.
pub(crate) fn dead_servers_and_hosts_are_out_in_time(
    lab: &Lab,
    machines: &Machines<'_>,
    agents: &mut [Agent],
    sites: &mut [Site],
) {
    const CONNECTIONS: usize = 200;
    let held = hold(lab, echo_target(), CONNECTIONS, 1000);
    wait_held(&held, CONNECTIONS as u64);
    let run = lab.http(requests(lab, RATE)).unwrap();
    let watch = Watch::begin(machines);
    pause(500);
    let begun = unix_ms();
    lab.backend(4).unwrap().kill();
    sites[3].kill();
    agents[2].kill();
    lab.backend(3).unwrap().kill();
    sites[2].kill();
    lab.cut(2).unwrap();
    let took = unix_ms() - begun;
    // Held connections to host 2 break when they have waited long enough.
    pause(6500);
    let (changes, report, held) = (watch.end(), run.stop().unwrap(), held.stop().unwrap());
    let limits = [("b4", CHECKED_MS), ("b3", 3500), ("b2", 5000)];
    for (backend, limit) in limits {
        for service in ["web", "echo"] {
            let out = changes.first(&BOTH, service, backend, false, begun);
            println!(
                "point 8: {service}/{backend} out after {out:?} ms, {took} ms of it the killing itself; at most {limit}"
            );
            assert!(out.iter().all(|ms| *ms <= limit + took), "{service}/{backend}: {out:?}");
        }
    }
    let last = failures_after(&report, begun).into_iter().max().unwrap_or(0);
    let broken: BTreeSet<&str> = held.broken().iter().filter_map(|of| of.backend.as_deref()).collect();
    println!(
        "point 8: {} of {} requests failed, the last began at {last} ms; of {CONNECTIONS} held connections {} broke, all of {broken:?}",
        report.failed,
        report.ok + report.failed,
        held.broken().len()
    );
    assert!(last <= 5000 + took);
    assert!(!broken.contains("b1"), "{:?}", held.broken());
    assert_eq!(held.connections.iter().filter(|of| of.backend.is_none()).count(), 0);
    assert!(held.per_backend()["b1"] > 0, "the test needs flows that may not break");
}
