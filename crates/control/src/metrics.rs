//! Metrics as Prometheus text 0.0.4. Written as text and not by a client library, which takes twice the time for a page of
//! many backends (docs/adr/0022). Counters stay plain cells in the workers; they are read at scrape time.

use crate::reconcile::Reconciled;
use crate::status::{AgentCounts, Snapshot};
use model::agent::Phase;
use model::api::{BackendState, ClusterStatus, ManagementTurns, ServiceState, Status};
use std::fmt::Write as _;

/// Writes families; a family's samples stand together, below its help and type.
#[derive(Default)]
struct Page {
    text: String,
}

type MetricLabel<'a> = (&'a str, &'a str);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# HELP guideway_{name} {help}\n# TYPE guideway_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[MetricLabel<'_>], value: impl std::fmt::Display) {
        let _ = write!(self.text, "guideway_{name}");
        for (at, (label, content)) in labels.iter().enumerate() {
            let separator = if at == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{separator}{label}=\"");
            for character in content.chars() {
                match character {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    other => self.text.push(other),
                }
            }
            self.text.push('"');
        }
        let _ = writeln!(self.text, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    /// A family without labels.
    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }
}

/// Everything Prometheus may know.
pub(crate) fn render(snapshot: &Snapshot) -> String {
    let mut page = Page::default();
    machine(&mut page, snapshot);
    services(&mut page, snapshot);
    backends(&mut page, snapshot);
    balance(&mut page, snapshot);
    health(&mut page, snapshot);
    suspects(&mut page, snapshot);
    workers(&mut page, snapshot);
    drops(&mut page, snapshot);
    ports(&mut page, snapshot);
    reconciled(&mut page, snapshot);
    if let Some(status) = &snapshot.cluster {
        cluster(&mut page, status);
    }
    if let Some(counts) = &snapshot.agents {
        agents(&mut page, counts);
    }
    page.text
}

fn agents(page: &mut Page, counts: &AgentCounts) {
    page.single("agents_connected", "gauge", "Agents that have proved who they are.", counts.connected);
    page.single("agent_connections", "gauge", "Connections of agents, proved or not.", counts.open);
    page.family("agent_connections_refused_total", "counter", "Connections closed or not taken, by reason.");
    for (reason, count) in &counts.closed {
        page.sample("agent_connections_refused_total", &[("reason", reason)], count);
    }
    let paused = "Times that a connection was not read from for a while, because it said too much.";
    page.single("agent_pauses_total", "counter", paused, counts.paused);
    page.family(
        "registrations",
        "gauge",
        "Backends that agents speak for, or spoke for, by service and state.",
    );
    for (service, phase, count) in &counts.phases {
        page.sample("registrations", &[("service", service), ("state", phase_name(*phase))], count);
    }
    let of = &counts.registry;
    page.family("registrations_refused_total", "counter", "What agents wanted and did not get, by reason.");
    for (code, count) in of.refusals() {
        page.sample("registrations_refused_total", &[("code", code)], count);
    }
    page.single("agent_hellos_total", "counter", "Hellos that were accepted.", of.hellos);
    page.single(
        "registrations_total",
        "counter",
        "Registrations that were taken, but for repeated ones.",
        of.registrations,
    );
    page.single("agent_results_total", "counter", "Results of agents' checks that were heeded.", of.results);
    let stale =
        "Words of agents that were too late: of connections that are over, out of order, or not asked for.";
    page.single("agent_stale_total", "counter", stale, of.stale);
    page.single(
        "agent_resyncs_total",
        "counter",
        "Full reports asked for, because a digest differed.",
        of.resyncs,
    );
    page.single("agent_lapses_total", "counter", "Leases that ended on open connections.", of.lapses);
}

fn phase_name(phase: Phase) -> &'static str {
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

fn machine(page: &mut Page, snapshot: &Snapshot) {
    let status = &snapshot.status;
    page.family("build_info", "gauge", "Version of guidewayd and name of the machine; always 1.");
    page.sample("build_info", &[("version", &status.version), ("machine", &status.machine)], 1);
    page.single("ready", "gauge", "GET /v1/ready answers 200.", u8::from(status.ready));
    page.single(
        "start_time_seconds",
        "gauge",
        "Start of the process, Unix time.",
        seconds(status.started_unix_ms, 1000.0),
    );
    page.single("config_generation", "gauge", "Generation last published to the workers.", status.generation);
    page.single(
        "config_acknowledged_generation",
        "gauge",
        "Smallest generation that every worker uses.",
        status.generation_acknowledged,
    );
    page.single(
        "config_last_apply_timestamp_seconds",
        "gauge",
        "When the configuration in force was applied, Unix time.",
        seconds(status.applied_unix_ms, 1000.0),
    );
    page.family("memory_bytes", "gauge", "Memory of tables and buffers, by use.");
    for memory in &status.memory {
        page.sample("memory_bytes", &[("use", &memory.name)], memory.bytes);
    }
    management(page, status);
}

fn management(page: &mut Page, status: &Status) {
    let mut each = |name: &str, kind: &str, help: &str, value: fn(&ManagementTurns) -> f64| {
        page.family(name, kind, help);
        for turns in &status.management {
            page.sample(name, &[("job", &turns.job)], value(turns));
        }
    };
    each("management_turns_total", "counter", "Turns of the management thread, by what it did.", |t| {
        number(t.turns)
    });
    each("management_long_turns_total", "counter", "Turns of the management thread of 20 ms or more.", |t| {
        number(t.long_turns)
    });
    each(
        "management_longest_turn_seconds",
        "gauge",
        "The longest turn of the management thread since the start, without the time it had no CPU.",
        |t| seconds(t.longest_us, 1e6),
    );
    each(
        "management_longest_turn_wall_seconds",
        "gauge",
        "The longest turn of the management thread since the start, by the clock.",
        |t| seconds(t.longest_wall_us, 1e6),
    );
    let lost = "Lines of the log that were lost, because nobody took them in time.";
    page.single("log_lines_lost_total", "counter", lost, status.log_lines_lost);
    let lost = "Messages to the service manager that were lost, because it did not take them.";
    page.single("notices_lost_total", "counter", lost, status.notices_lost);
    let of = &status.connections;
    page.single("api_connections", "gauge", "Connections of the API and of /metrics.", of.open);
    page.family(
        "api_connections_closed_total",
        "counter",
        "Connections of the API and of /metrics that were closed by us, by reason.",
    );
    for (reason, count) in [("room", of.made_room), ("slow", of.too_slow)] {
        page.sample("api_connections_closed_total", &[("reason", reason)], count);
    }
}

fn cluster(page: &mut Page, status: &ClusterStatus) {
    page.single("cluster_joined", "gauge", "The machine's join has committed.", u8::from(status.joined));
    page.single(
        "cluster_store_reached",
        "gauge",
        "The cluster's store is reached.",
        u8::from(status.store_reached),
    );
    page.single(
        "cluster_store_since_seconds",
        "gauge",
        "Since when it is, or is not; Unix time.",
        seconds(status.store_since_unix_ms, 1000.0),
    );
    let leads = status.leader.as_ref() == Some(&status.machine);
    page.single("cluster_leads", "gauge", "The machine leads the cluster.", u8::from(leads));
    page.single("cluster_step", "gauge", "Step of the plan in force.", status.step);
    page.single("cluster_step_done", "gauge", "Last step that all workers have done.", status.step_done);
    page.single("cluster_epoch", "gauge", "Counts changes of members.", status.epoch);
    page.single("cluster_generation", "gauge", "Counts changes of tables.", status.generation);
    page.single("cluster_busy", "gauge", "A step is being done.", u8::from(status.phase != "idle"));
    page.single("cluster_tainted_slots", "gauge", "Tainted slots, all services.", status.tainted_slots);
    page.single("cluster_masked_backends", "gauge", "Backends without new flows.", status.masked.len());
    page.family("cluster_members", "gauge", "Machines of the cluster, by state.");
    for state in ["member", "joining", "leaving", "lost"] {
        let count = status.members.iter().filter(|member| member.state == state).count();
        page.sample("cluster_members", &[("state", state)], count);
    }
    page.family("cluster_peer_suspect", "gauge", "The machine was silent, and is not asked.");
    for member in status.members.iter().filter(|member| member.name != status.machine) {
        page.sample("cluster_peer_suspect", &[("peer", &member.name)], u8::from(member.suspect));
    }
    page.family("cluster_peer_reachable", "gauge", "The link-layer next hop of the machine is known.");
    for member in status.members.iter().filter(|member| member.name != status.machine) {
        page.sample("cluster_peer_reachable", &[("peer", &member.name)], u8::from(member.next_hop.is_some()));
    }
    page.single(
        "sync_relays_a_second",
        "gauge",
        "Frames that may be relayed a second.",
        status.relays_a_second,
    );
    page.single("sync_relays_at_once", "gauge", "Frames that may be relayed at once.", status.relays_at_once);
    for count in &status.counters {
        // Those that go up and down say so.
        let (name, kind) = match count.help.ends_with("(gauge).") {
            true => (format!("sync_{}", count.name), "gauge"),
            false => (format!("sync_{}_total", count.name), "counter"),
        };
        page.single(&name, kind, &count.help, count.count);
    }
}

fn services(page: &mut Page, snapshot: &Snapshot) {
    let services = &snapshot.services;
    let labels = |s: &model::api::ServiceStatus| {
        [s.name.clone(), s.vip.clone(), s.port.to_string(), s.protocol.clone()]
    };
    let mut counter = |name: &str, help: &str, value: fn(&model::api::ServiceStatus) -> u64| {
        page.family(name, "counter", help);
        for service in services {
            let [name_label, vip, port, proto] = labels(service);
            let labels = [
                ("service", name_label.as_str()),
                ("vip", vip.as_str()),
                ("port", port.as_str()),
                ("proto", proto.as_str()),
            ];
            page.sample(name, &labels, value(service));
        }
    };
    counter("vip_packets_total", "Packets that matched the service.", |s| s.packets);
    counter("vip_bytes_total", "Bytes of these packets, from the IP header on.", |s| s.bytes);
    counter("vip_new_flows_total", "Flows begun.", |s| s.flows_new);
    counter("vip_no_backend_packets_total", "Packets dropped for want of a usable backend.", |s| {
        s.no_backend
    });
    counter(
        "vip_overload_packets_total",
        "Packets dropped because every backend was full (overload = \"reject\").",
        |s| s.overload,
    );
    page.family("vip_flows", "gauge", "Live flows of the service.");
    for service in services {
        page.sample("vip_flows", &[("service", &service.name)], service.flows);
    }
    page.family("vip_announced", "gauge", "The VIP is on the loopback.");
    for service in services {
        page.sample("vip_announced", &[("service", &service.name)], u8::from(service.announced));
    }
    page.family(
        "service_tainted_slots",
        "gauge",
        "Slots whose flows are tracked for now, of a service with state = \"exceptions\".",
    );
    for service in services.iter().filter(|service| service.tracking == "exceptions") {
        page.sample("service_tainted_slots", &[("service", &service.name)], service.tainted_slots);
    }
    page.family("service_state", "gauge", "1 for the state the service is in: ready, panic or empty.");
    for service in services {
        for (name, state) in
            [("ready", ServiceState::Ready), ("panic", ServiceState::Panic), ("empty", ServiceState::Empty)]
        {
            let labels = [("service", service.name.as_str()), ("state", name)];
            page.sample("service_state", &labels, u8::from(service.state == state));
        }
    }
    page.family("service_backends", "gauge", "Configured backends of the service.");
    for service in services {
        page.sample("service_backends", &[("service", &service.name)], service.backends_total);
    }
    page.family("service_backends_up", "gauge", "Backends of the service that take new flows.");
    for service in services {
        page.sample("service_backends_up", &[("service", &service.name)], service.backends_up);
    }
}

fn backends(page: &mut Page, snapshot: &Snapshot) {
    // A backend that was removed and added again with another address appears once per address.
    let mut each = |name: &str, kind: &str, help: &str, value: fn(&model::api::BackendStatus) -> u64| {
        page.family(name, kind, help);
        for backend in &snapshot.backends {
            let address = backend.address.to_string();
            let id = backend.id.to_string();
            let labels = [
                ("service", backend.service.as_str()),
                ("backend", backend.name.as_str()),
                ("address", address.as_str()),
                ("id", id.as_str()),
            ];
            page.sample(name, &labels, value(backend));
        }
    };
    each("backend_packets_total", "counter", "Packets sent to the backend.", |b| b.packets);
    each("backend_bytes_total", "counter", "Bytes of these packets, from the inner IP header on.", |b| {
        b.bytes
    });
    each("backend_new_flows_total", "counter", "Flows placed on the backend.", |b| b.flows_new);
    each("backend_flows", "gauge", "Live flows of the backend.", |b| b.flows);
    each("backend_syns_total", "counter", "TCP flows of the backend that a SYN began.", |b| b.syns);
    each(
        "backend_handshakes_total",
        "counter",
        "TCP flows of the backend whose client has answered its first packet, those met in the middle \
         included.",
        |b| b.handshakes,
    );
    each(
        "backend_closes_total",
        "counter",
        "TCP flows of the backend whose client sent FIN or RST after its handshake.",
        |b| b.closes,
    );
    each(
        "backend_closes_soon_total",
        "counter",
        "TCP flows of the backend whose client sent FIN or RST within three seconds of its handshake.",
        |b| b.closes_soon,
    );
    each("backend_up", "gauge", "The backend takes new flows.", |b| u64::from(b.state == BackendState::Up));
    each("backend_draining", "gauge", "The backend takes no new flows, old ones live on.", |b| {
        u64::from(matches!(b.state, BackendState::Drain | BackendState::Removed))
    });
    each("backend_weight", "gauge", "Configured weight.", |b| b.weight.into());
    each("backend_next_hop_resolved", "gauge", "The link-layer next hop is known.", |b| {
        u64::from(b.next_hop.is_some())
    });
}

/// What new flows go by beside weights.
fn balance(page: &mut Page, snapshot: &Snapshot) {
    let mut each = |name: &str, help: &str, value: fn(&model::api::BackendStatus) -> Option<f64>| {
        page.family(name, "gauge", help);
        for backend in &snapshot.backends {
            let (address, id) = (backend.address.to_string(), backend.id.to_string());
            let labels = [
                ("service", backend.service.as_str()),
                ("backend", backend.name.as_str()),
                ("address", address.as_str()),
                ("id", id.as_str()),
            ];
            if let Some(value) = value(backend) {
                page.sample(name, &labels, value);
            }
        }
    };
    each(
        "backend_load_ratio",
        "Load of the backend that new flows go by, of services with policy = \"least-load\"; 1: full.",
        |b| b.load_ppm.map(|ppm| f64::from(ppm) / 1_000_000.0),
    );
    each(
        "backend_share_ratio",
        "Part of the backend's weight that is in force: less than 1 while it starts slowly or is busy.",
        |b| Some(f64::from(b.share_permille) / 1000.0),
    );
}

fn health(page: &mut Page, snapshot: &Snapshot) {
    let checked = || snapshot.backends.iter().filter_map(|backend| Some((backend, backend.health.as_ref()?)));
    let labels =
        |b: &'_ model::api::BackendStatus| [("service", b.service.clone()), ("backend", b.name.clone())];
    fn borrow<'a>(owned: &'a [(&'a str, String); 2]) -> [MetricLabel<'a>; 2] {
        [(owned[0].0, owned[0].1.as_str()), (owned[1].0, owned[1].1.as_str())]
    }
    page.family("health_check_up", "gauge", "The checks say up.");
    for (backend, health) in checked() {
        page.sample("health_check_up", &borrow(&labels(backend)), u8::from(health.up == Some(true)));
    }
    page.family("health_check_duration_seconds", "gauge", "How long the last check took.");
    for (backend, health) in checked() {
        if let Some(last) = &health.last {
            let duration = seconds(last.duration_us, 1_000_000.0);
            page.sample("health_check_duration_seconds", &borrow(&labels(backend)), duration);
        }
    }
    page.family("health_checks_total", "counter", "Checks made, by result.");
    for (backend, health) in checked() {
        for (result, count) in [("pass", health.passed), ("fail", health.failed)] {
            let labels = [
                ("service", backend.service.as_str()),
                ("backend", backend.name.as_str()),
                ("result", result),
            ];
            page.sample("health_checks_total", &labels, count);
        }
    }
    page.family("health_transitions_total", "counter", "Changes between up and down.");
    for (backend, health) in checked() {
        page.sample("health_transitions_total", &borrow(&labels(backend)), health.transitions);
    }
}

fn suspects(page: &mut Page, snapshot: &Snapshot) {
    let help =
        "Backends that the machine checks by itself, their agents being silent or their clients not served.";
    page.family("backends_suspect", "gauge", help);
    for of in snapshot.suspects {
        page.sample("backends_suspect", &[("cause", of.cause)], of.now);
    }
    page.family("backend_suspicions_total", "counter", "Times that a backend became suspect.");
    for of in snapshot.suspects {
        page.sample("backend_suspicions_total", &[("cause", of.cause)], of.began);
    }
}

/// Name, kind, help and value of a worker's families.
type WorkerFamily = (&'static str, &'static str, &'static str, fn(&model::api::WorkerStatus) -> f64);
const WORKER_FAMILIES: &[WorkerFamily] = &[
    ("worker_turns_total", "counter", "Turns taken.", |w| number(w.turns)),
    ("worker_empty_turns_total", "counter", "Turns that found no work.", |w| number(w.empty_turns)),
    ("worker_long_turns_total", "counter", "Turns of more than two milliseconds of CPU time.", |w| {
        number(w.long_turns)
    }),
    ("worker_longest_turn_seconds", "gauge", "CPU time of the longest turn since the start.", |w| {
        number(w.longest_turn_us) / 1e6
    }),
    ("worker_busy_ratio", "gauge", "Share of turns that found work, lately.", |w| w.busy_ratio),
    ("worker_packets_per_burst", "gauge", "Frames per turn that found work, since the start.", |w| {
        w.packets_per_burst
    }),
    ("worker_rx_packets_total", "counter", "Frames received.", |w| number(w.rx)),
    ("worker_tx_packets_total", "counter", "Frames sent.", |w| number(w.tx)),
    ("worker_rx_bytes_total", "counter", "Bytes received.", |w| number(w.rx_bytes)),
    ("worker_tx_bytes_total", "counter", "Bytes sent.", |w| number(w.tx_bytes)),
    ("worker_originated_packets_total", "counter", "Frames made by the worker.", |w| number(w.originated)),
    ("worker_punted_packets_total", "counter", "Frames given to the kernel.", |w| number(w.punted)),
    ("worker_dropped_packets_total", "counter", "Frames dropped, all reasons.", |w| number(w.dropped)),
    ("worker_held_packets", "gauge", "Frames in the fragment store.", |w| number(w.held)),
    ("worker_config_generation", "gauge", "Generation of the view in use.", |w| number(w.generation)),
    ("flow_table_entries", "gauge", "Live flows.", |w| number(w.flows)),
    ("flow_table_untrusted_entries", "gauge", "Live flows that are not trusted yet.", |w| {
        number(w.flows_untrusted)
    }),
    ("flow_table_capacity", "gauge", "Flows that fit, IPv4 with one address and port.", |w| {
        number(w.capacity)
    }),
    ("flow_table_wide_capacity", "gauge", "Flows that fit, IPv6, any-port and prefix.", |w| {
        number(w.capacity_wide)
    }),
    ("flow_hits_total", "counter", "Packets that found their flow.", |w| number(w.flow_hits)),
    ("flow_misses_total", "counter", "Packets that did not find their flow.", |w| number(w.flow_misses)),
    (
        "flow_stateless_packets_total",
        "counter",
        "Packets that needed no flow table, of services with state = \"exceptions\".",
        |w| number(w.flow_stateless),
    ),
    (
        "flow_guessed_total",
        "counter",
        "TCP flows met in the middle in a tainted slot, taken to be from before the change.",
        |w| number(w.flow_guessed),
    ),
    (
        "flow_unasked_packets_total",
        "counter",
        "Packets without an entry about which the other workers were not asked: too many of them.",
        |w| number(w.flow_unasked),
    ),
    ("flow_inserts_total", "counter", "Flows inserted.", |w| number(w.flow_inserts)),
    ("flow_refused_total", "counter", "Flows not inserted: table or quota full.", |w| number(w.flow_refused)),
    ("flow_displaced_total", "counter", "Untrusted flows whose entries made room for others.", |w| {
        number(w.flow_displaced)
    }),
    ("flow_expired_total", "counter", "Flows that ended by idling.", |w| number(w.flow_expired)),
    ("flow_forgotten_total", "counter", "Flows whose entries an operator removed.", |w| {
        number(w.flow_forgotten)
    }),
    ("flow_restored_total", "counter", "Flows of a dump that an operator entered.", |w| {
        number(w.flow_restored)
    }),
    ("flow_resteered_packets_total", "counter", "Packets steered anew, their backend gone.", |w| {
        number(w.resteered)
    }),
];

fn workers(page: &mut Page, snapshot: &Snapshot) {
    for (name, kind, help, value) in WORKER_FAMILIES {
        page.family(name, kind, help);
        for worker in &snapshot.workers {
            page.sample(name, &[("core", &worker.core.to_string())], value(worker));
        }
    }
    page.family("flow_forwarded_packets_total", "counter", "Frames forwarded to another core or machine.");
    for worker in &snapshot.workers {
        let core = worker.core.to_string();
        for (to, count) in [("core", worker.ring_out), ("machine", worker.relayed)] {
            page.sample("flow_forwarded_packets_total", &[("core", core.as_str()), ("to", to)], count);
        }
    }
}

fn reconciled(page: &mut Page, snapshot: &Snapshot) {
    let mut each = |name: &str, kind: &str, help: &str, value: fn(&Reconciled) -> Option<u64>| {
        page.family(name, kind, help);
        for of in &snapshot.reconciled {
            if let Some(value) = value(of) {
                page.sample(name, &[("kind", of.kind)], value);
            }
        }
    };
    each(
        "reconcile_wrong",
        "gauge",
        "Interfaces, links, addresses, routes and VIPs in the kernel that are not as wanted, and next \
         hops that are not known, by kind.",
        |of| Some(of.wrong),
    );
    each("reconcile_repairs_total", "counter", "What of these was put right, by kind.", |of| of.repairs);
    each("reconcile_failures_total", "counter", "Attempts at it that failed, by kind.", |of| of.failures);
}

fn drops(page: &mut Page, snapshot: &Snapshot) {
    page.family("drop_packets_total", "counter", "Frames dropped, by reason.");
    for drop in &snapshot.drops {
        page.sample("drop_packets_total", &[("reason", &drop.reason)], drop.count);
    }
}

fn ports(page: &mut Page, snapshot: &Snapshot) {
    let mut each = |name: &str, kind: &str, help: &str, value: fn(&model::api::PortStatus) -> u64| {
        page.family(name, kind, help);
        for port in &snapshot.ports {
            page.sample(name, &[("port", &port.name)], value(port));
        }
    };
    each("port_rx_packets_total", "counter", "Frames received by the device.", |p| p.rx);
    each("port_tx_packets_total", "counter", "Frames sent by the device.", |p| p.tx);
    each("port_rx_bytes_total", "counter", "Bytes received by the device.", |p| p.rx_bytes);
    each("port_tx_bytes_total", "counter", "Bytes sent by the device.", |p| p.tx_bytes);
    each("port_rx_missed_packets_total", "counter", "Frames nobody took from the device in time.", |p| {
        p.rx_missed
    });
    each("port_rx_errors_total", "counter", "Frames received with errors.", |p| p.rx_errors);
    each("port_tx_errors_total", "counter", "Frames the device could not send.", |p| p.tx_errors);
    each("port_rx_nombuf_total", "counter", "Frames lost for want of buffers.", |p| p.rx_nombuf);
    each("port_tx_full_packets_total", "counter", "Frames the transmit queue did not take.", |p| p.tx_full);
    each("port_link_up", "gauge", "The link is up.", |p| u64::from(p.link_up));
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus knows only floats")]
fn number(count: u64) -> f64 {
    count as f64
}

fn seconds(count: u64, per_second: f64) -> f64 {
    number(count) / per_second
}

#[cfg(test)]
mod tests;
