//! A cluster on the lab's network: three machines, four backends, a store, and the load that every test uses.

use crate::messages;
use crate::oracle::{self, Owners, Table};
use guideway_lab::command::until;
use guideway_lab::config::{Config, Device, Member, Mode, Service};
use guideway_lab::load::hold::{Held, HoldLoad, HoldReport};
use guideway_lab::load::short::{ShortLoad, ShortReport};
use guideway_lab::load_run::LoadRun;
use guideway_lab::machines::Machines;
use guideway_lab::scenario::{check_conservation, wait_up};
use guideway_lab::topology::{ECHO_PORT, VIP, balancer_address};
use guideway_lab::{Balancer, Capture, Lab, Shape, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Machines.
pub(crate) const MACHINES: u8 = 3;
/// Held connections.
pub(crate) const CONNECTIONS: usize = 600;
/// New connections a second, beside them.
pub(crate) const NEW_RATE: u64 = 50;
/// IP protocol numbers.
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
/// Client addresses.
const SOURCES: usize = 59;

/// Whether tests are to be as long and as large as they should be: `GUIDEWAY_LAB_FULL` is set (`cargo xtask soak` does).
pub(crate) fn is_full() -> bool {
    std::env::var_os("GUIDEWAY_LAB_FULL").is_some_and(|value| !value.is_empty())
}

/// A time: the full one, or one for every day.
pub(crate) fn length(full_s: u64, short_s: u64) -> Duration {
    Duration::from_secs(if is_full() { full_s } else { short_s })
}

pub(crate) fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

pub(crate) fn target() -> SocketAddr {
    SocketAddr::new(VIP.parse().unwrap(), ECHO_PORT)
}

pub(crate) fn sources(lab: &Lab) -> Vec<IpAddr> {
    lab.sources(target().ip()).into_iter().take(SOURCES).collect()
}

/// These backends, all taking new flows.
pub(crate) fn up(indices: &[u8]) -> Vec<Member> {
    indices.iter().map(|&index| Member::v4(index, Mode::Ipip)).collect()
}

/// A first list of backends that are drained, and a second that take new flows.
pub(crate) fn drained(drained: &[u8], taking: &[u8]) -> Vec<Member> {
    let drained =
        drained.iter().map(|&index| Member { state: Some("drain"), ..Member::v4(index, Mode::Ipip) });
    drained.chain(up(taking)).collect()
}

pub(crate) fn lab(name: &str, management: bool) -> Lab {
    Lab::with(name, &Shape { balancers: MACHINES, backends: 4, huge_pages: 768, management }).unwrap()
}

/// What is particular about a test's machines.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    /// Lines of `[cluster]` beside those of the store; `None` for machines on their own.
    pub(crate) cluster: Option<&'static str>,
    /// All idle times, seconds.
    pub(crate) idle_s: u32,
    /// Workers of each machine.
    pub(crate) workers: u8,
    /// Whether backends are checked.
    pub(crate) checks: bool,
}

impl Kind {
    /// A cluster as it should be.
    pub(crate) const CLUSTER: Kind = Kind { cluster: Some(""), idle_s: 120, workers: 1, checks: true };
    /// Machines that know nothing of one another.
    pub(crate) const ALONE: Kind = Kind { cluster: None, ..Kind::CLUSTER };

    /// A machine's configuration: the echo service over TCP and over UDP on these backends.
    pub(crate) fn config(self, lab: &Lab, index: u8, members: &[Member]) -> Config {
        let extra = format!("maglev_size = {}\n", oracle::slots());
        let checked = Service { extra, ..Service::echo(Mode::Ipip, members.to_vec()) };
        let unchecked = Service { health: String::new(), ..checked.clone() };
        let udp = Service { name: "echo-udp".into(), protocol: "udp", ..unchecked.clone() };
        let tcp = if self.checks { checked } else { unchecked };
        let mut config = lab.config(index).with(tcp).with(udp);
        if self.workers > 1 {
            config.device = Device::AfPacket(self.workers);
            config.cpus = (0..u16::from(self.workers)).collect();
        }
        let idle_s = self.idle_s;
        config.extra = format!(
            "[timeouts]\ntcp_established_s = {idle_s}\ntcp_closing_s = {0}\nsyn_s = {0}\nudp_s = {idle_s}\n",
            idle_s.min(10)
        );
        if let Some(lines) = self.cluster {
            config.extra.push_str(&format!(
                "[cluster]\nstore = \"etcd\"\nendpoints = [\"{}\"]\n{lines}",
                Store::endpoint()
            ));
        }
        oracle::check(&config);
        config
    }
}

/// A running cluster, or machines on their own.
pub(crate) struct Stage<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) machines: Machines<'a>,
    /// The backends now.
    pub(crate) members: Vec<Member>,
    kind: Kind,
}

impl<'a> Stage<'a> {
    /// Starts the machines with these backends, and waits until they serve. A cluster's store must run.
    pub(crate) fn start(lab: &'a Lab, kind: Kind, members: Vec<Member>) -> Stage<'a> {
        let recipe = Box::new(move |index, members: &[Member]| kind.config(lab, index, members));
        let machines = Machines::start(lab, MACHINES, members.clone(), recipe).unwrap();
        let stage = Stage { lab, machines, members, kind };
        stage.wait_up();
        stage
    }

    /// Waits until each machine says that each backend that is not drained takes new flows.
    pub(crate) fn wait_up(&self) {
        let taking = self.members.iter().filter(|member| member.state.is_none());
        let names: Vec<&str> = taking.map(|member| member.name.as_str()).collect();
        for (_, balancer) in self.machines.all() {
            for service in ["echo", "echo-udp"] {
                wait_up(balancer, service, &names).unwrap();
            }
        }
    }

    /// Other backends: on each machine if they are on their own, else in the cluster.
    pub(crate) fn change(&mut self, members: Vec<Member>) {
        if self.kind.cluster.is_some() {
            let answer = self.machines.apply_to_cluster(1, members.clone()).unwrap();
            let planned = &answer["plan"]["services"][0]["slots_moved"];
            println!("a change took {} ms; {planned} slots of each service move", answer["duration_ms"]);
            let moved = Table::of(&self.members).changed(&Table::of(&members));
            assert_eq!(planned.as_u64(), Some(moved as u64), "the plan's prediction");
        } else {
            self.machines.apply_to_each(members.clone()).unwrap();
        }
        self.members = members;
        self.wait_up();
    }

    /// What each machine says a change would cost it.
    pub(crate) fn forecasts(&self, members: &[Member]) -> Vec<Forecast> {
        let of = |(index, balancer): (u8, &Balancer)| {
            let text = self.machines.config(index, members).render();
            let answer = balancer.api().json("POST", "/v1/plan", &text).unwrap();
            serde_json::from_value(answer["plan"]["cluster"].clone())
                .unwrap_or_else(|error| panic!("{error}: {answer}"))
        };
        self.machines.all().map(of).collect()
    }

    /// The table of the backends now.
    pub(crate) fn table(&self) -> Table {
        Table::of(&self.members)
    }

    /// Clients whose flows of the echo service (over TCP) a machine has.
    pub(crate) fn known(&self, index: u8) -> BTreeSet<SocketAddr> {
        self.machines.flows(index, "echo").unwrap().into_keys().collect()
    }

    /// Frames dropped because the bucket of relays or that of records was empty, on each machine that runs.
    pub(crate) fn limited(&self) -> BTreeMap<u8, u64> {
        let of = |balancer: &Balancer| {
            let drops = balancer.api().drops().unwrap();
            ["relay_limit", "record_limit"].iter().map(|reason| drops[*reason]).sum()
        };
        self.machines.all().map(|(index, balancer)| (index, of(balancer))).collect()
    }

    /// How many frames a machine may relay to others: a second, and at once.
    pub(crate) fn relay_bucket(&self) -> (u64, u64) {
        let cluster = self.machines.cluster(1).unwrap();
        let of = |name: &str| cluster[name].as_u64().unwrap_or_else(|| panic!("no {name}: {cluster}"));
        (of("relays_a_second"), of("relays_at_once"))
    }

    /// Tainted slots of all services on the machine that has the most.
    pub(crate) fn tainted(&self) -> u64 {
        let of = |(index, _)| self.machines.cluster(index).unwrap()["tainted_slots"].as_u64().unwrap();
        self.machines.all().map(of).max().unwrap_or(0)
    }

    /// Captures what each machine says to others.
    pub(crate) fn listen(&self) -> Vec<Capture> {
        let from = |(index, _)| {
            let filter = format!("udp port {} and src host {}", messages::PORT, balancer_address(index));
            self.lab.capture(&format!("lb{index}"), &filter).unwrap()
        };
        self.machines.all().map(from).collect()
    }

    /// Who answers for the echo service's slots (over TCP), by what the machines said on the wire.
    pub(crate) fn owners(&self, frames: &[Vec<u8>]) -> Owners {
        let members =
            messages::members(frames).into_iter().map(|(last, member)| (last - 10, member)).collect();
        let service = self.machines.get(1).unwrap().api().find("/v1/services", &[("name", "echo")]).unwrap();
        Owners::new(members, service["id"].as_u64().unwrap().try_into().unwrap())
    }

    /// Prints what each machine dropped, and why.
    pub(crate) fn tell_drops(&self) {
        for (index, balancer) in self.machines.all() {
            let mut drops = balancer.api().drops().unwrap();
            drops.retain(|_, count| *count > 0);
            println!("machine {index} dropped {drops:?}");
        }
    }

    /// Ends it, and looks whether every frame is accounted for.
    pub(crate) fn stop(self) {
        for (_, balancer) in self.machines.all() {
            check_conservation(balancer).unwrap();
        }
        self.machines.stop().unwrap();
    }
}

/// Opens held connections, and waits until all have had their first exchange.
pub(crate) fn hold(lab: &Lab, connections: usize, silent: usize, udp: bool) -> LoadRun<HoldReport> {
    let opening_ms = 2 * connections as u64;
    let load = HoldLoad { udp, opening_ms, ..HoldLoad::new(target(), sources(lab), connections, silent) };
    let run = lab.hold(load).unwrap();
    pause(opening_ms);
    until("all connections", Duration::from_secs(10), || {
        let progress = run.progress();
        if progress.done >= connections as u64 { Ok(()) } else { Err(format!("{progress:?}")) }
    })
    .unwrap();
    pause(500);
    run
}

/// Starts new connections beside the others.
pub(crate) fn short(lab: &Lab) -> LoadRun<ShortReport> {
    lab.short(ShortLoad { target: target(), sources: sources(lab), rate: NEW_RATE, limit_ms: 10_000 })
        .unwrap()
}

pub(crate) fn clients<'a>(held: impl IntoIterator<Item = &'a Held>) -> BTreeSet<SocketAddr> {
    held.into_iter().map(|held| held.source).collect()
}

/// None of the connections broke, all of them began where the table said, and all have said more than their greeting.
pub(crate) fn unharmed(report: &HoldReport, connections: usize, begun: &Table, protocol: u8) {
    let broken = report.broken();
    println!(
        "{} of {connections} broken; {} exchanges; slowest {:.1} ms; {:?}",
        broken.len(),
        report.exchanges(),
        report.slowest_us() as f64 / 1000.0,
        report.per_backend()
    );
    assert!(broken.is_empty(), "{} broken, the first: {:#?}", broken.len(), broken[0]);
    assert_eq!(report.connections.len(), connections);
    for held in &report.connections {
        assert_eq!(held.backend.as_deref(), Some(begun.backend(held.source, protocol)), "{held:?}");
        assert!(held.exchanges >= 2, "{held:?}");
    }
}

/// What `guideway plan` says a change would cost a machine.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
pub(crate) struct Forecast {
    /// Slots that would become tainted, all services.
    pub(crate) slots: u64,
    /// Flows that would become exceptions.
    pub(crate) flows: u64,
    /// Statements about them to other machines.
    pub(crate) statements: u64,
    /// Bytes of these and of their acknowledgements.
    pub(crate) bytes: u64,
}

/// Counters of state synchronisation: all that make frames to other machines.
pub(crate) const SYNC: [&str; 11] = [
    "heartbeats",
    "decides",
    "exports",
    "refreshes",
    "migrates",
    "pushes",
    "resends",
    "acknowledgements",
    "answers",
    "relays",
    "answers_cached",
];

/// Counters of all machines at one time.
pub(crate) struct Snapshot(BTreeMap<u8, BTreeMap<&'static str, u64>>);

impl Snapshot {
    /// What they are now.
    pub(crate) fn take(stage: &Stage<'_>) -> Snapshot {
        let of = |index| {
            let cluster = stage.machines.cluster(index).unwrap();
            let count = |name: &&'static str| {
                let rows = cluster["counters"].as_array().unwrap();
                let row = rows
                    .iter()
                    .find(|row| row["name"] == *name)
                    .unwrap_or_else(|| panic!("no {name}: {cluster}"));
                (*name, row["count"].as_u64().unwrap())
            };
            let rx = stage.machines.counter(index, "rx").unwrap();
            SYNC.iter().chain(&["note_bytes"]).map(count).chain([("rx", rx)]).collect()
        };
        Snapshot(stage.machines.all().map(|(index, _)| (index, of(index))).collect())
    }

    /// One of them.
    pub(crate) fn of(&self, index: u8, name: &str) -> u64 {
        self.0[&index][name]
    }

    /// How much one of them has grown since an earlier snapshot, all machines together.
    pub(crate) fn grown(&self, earlier: &Snapshot, name: &str) -> u64 {
        self.0.keys().map(|&index| self.of(index, name) - earlier.of(index, name)).sum()
    }
}
