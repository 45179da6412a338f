//! A machine: the real workers over frames in memory, the real follower, and the view that control would make of a plan.

use super::client::ServiceOf;
use super::random::{Random, mix};
use super::scenario::Scenario;
use crate::frames::{PORT_MAC, ROUTER_MAC};
use statesync::datagram::ClusterKeys;
use statesync::plan::slots::SlotSet;
use statesync::plan::{Answers, Follower, Plan, Report};
use statesync::spsc::{Receiver, channel};
use statesync::window::Windows;
use statesync::{MachineId, Member, Owners, mesh};
use std::net::Ipv4Addr;
use std::sync::Arc;
use steer::{Maglev, ServiceRule, Services, Weighted};
use wire::encap::{Mode, Tunnel, TunnelHeader};
use wire::{Addr, BackendId, CoreId, PortId, Tick};
use worker::cluster::SyncSize;
use worker::decide::least_load::share;
use worker::io::memory::MemIo;
use worker::view::cluster::{Cluster, Endpoint, Link, SlotsView};
use worker::view::loads::{Load, Loads};
use worker::view::mailbox::{Publisher, mailbox};
use worker::view::path_mtu::{Learnt, Room};
use worker::view::slots::SlotMemory;
use worker::view::{
    BackendState, BackendView, HashOn, LeastLoad, OnClosedPort, OnDown, OnEmpty, Overload, Policy, PortRole,
    PortView, Select, ServiceView, Timeouts, View,
};
use worker::{Counters, RxMeta, Setup, Worker};

/// UDP port of messages between machines.
pub(super) const UDP_PORT: u16 = 7480;
/// Key of slots and of tags.
pub(super) const KEY: [u8; 16] = *b"simulated secret";
const BACKENDS_MAX: usize = 4096;
/// Flows that a backend is meant to carry, where load decides.
const CAPACITY: u32 = 100;

/// Address of a machine.
pub(super) const fn machine_address(machine: usize) -> u32 {
    0x0a00_0300 | machine as u32
}

/// The machine with this address.
pub(super) const fn machine_at(address: u32) -> usize {
    (address & 0xff) as usize
}

/// Address of a backend.
pub(super) const fn backend_address(id: u32) -> u32 {
    0x0b00_0000 | id
}

/// The backend with this address.
pub(super) const fn backend_at(address: u32) -> u32 {
    address & 0x00ff_ffff
}

/// A table that was made once: its answers, and what a view needs for it.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub(super) answers: Answers,
    maglev: Arc<Maglev>,
    members: Vec<BackendId>,
}

/// The table of these backends.
pub(super) fn make_table(backends: &[u32], slots: u32) -> Made {
    let names: Vec<String> = backends.iter().map(|id| format!("b{id}")).collect();
    let weighted: Vec<Weighted<'_>> = names.iter().map(|name| Weighted { name, weight: 1 }).collect();
    let maglev = Maglev::build(&weighted, slots, &KEY).expect("a table");
    let members: Vec<BackendId> = backends.iter().map(|&id| BackendId(id)).collect();
    let answers = (0..slots).map(|slot| maglev.at(slot).map(|member| members[usize::from(member)])).collect();
    Made { answers, maglev: Arc::new(maglev), members }
}

/// What the makers of views know beside the plan.
#[derive(Debug)]
pub(super) struct Registry {
    pub(super) services: Vec<ServiceOf>,
    /// By backend: its service.
    pub(super) backends: Vec<usize>,
    pub(super) tables: Vec<Made>,
}

pub(super) struct Machine {
    pub(super) member: Member,
    pub(super) alive: bool,
    pub(super) workers: Vec<Worker<MemIo>>,
    pub(super) counters: Vec<Arc<Counters>>,
    publishers: Vec<Publisher<View>>,
    reports: Vec<Receiver<Report>>,
    loads: Arc<Loads>,
    pub(super) follower: Follower,
    /// Its clock is ahead of the world's by so much.
    offset: u64,
    rss: u64,
    /// When each worker's next turn is planned.
    pub(super) turn_at: Vec<Tick>,
    /// A view that the workers' mailboxes had no room for.
    unpublished: bool,
    /// Clients whose packets each worker has received since its last turn.
    pub(super) fresh: Vec<Vec<u32>>,
    pub(super) local_guesses: Vec<u64>,
    /// Decisions told.
    pub(super) decides: u64,
    /// What each worker has refused for want of room.
    pub(super) refused: Vec<u64>,
}

impl Machine {
    pub(super) fn new(machine: usize, incarnation: u32, scenario: &Scenario, random: &mut Random) -> Machine {
        let member = Member { machine: MachineId(u8::try_from(machine).expect("few machines")), incarnation };
        let cores = scenario.cores;
        let idle = flow::Idle {
            tcp_established_us: scenario.habits.max_idle_us,
            tcp_closing_us: scenario.closing_us(),
            syn_us: scenario.habits.max_idle_us,
            udp_us: scenario.habits.max_idle_us,
        };
        let tables: Vec<flow::Table> = (0..cores)
            .map(|_| {
                let (narrow, wide) = match scenario.buckets {
                    0 => (flow::Memory::heap(scenario.clients), flow::Memory::heap(1)),
                    buckets => (few_buckets(buckets), few_buckets(buckets)),
                };
                flow::Table::new(narrow, wide, random.next(), idle, 100).expect("a table")
            })
            .collect();
        let peers: Vec<flow::Reader> = tables.iter().map(flow::Table::reader).collect();
        let windows = Arc::new(Windows::of(scenario.machines, cores));
        let (mut workers, mut publishers, mut reports, mut counters) = (vec![], vec![], vec![], vec![]);
        for ((core, table), rings) in (0..).zip(tables).zip(mesh(cores, 256)) {
            let (publisher, inbox) = mailbox(8);
            let count = Arc::new(Counters::new(8, BACKENDS_MAX, 1));
            let mut worker = Worker::new(Setup {
                core: CoreId(core),
                io: MemIo::new(1),
                table,
                peers: peers.clone(),
                rings,
                inbox,
                counters: Arc::clone(&count),
                commands: None,
            });
            let (sender, receiver) = channel(64);
            let size = SyncSize {
                records: scenario.records,
                unacknowledged: scenario.unacknowledged,
                asks: scenario.clients.max(256) / 8,
            };
            worker.attach_sync(size, random.next(), Arc::clone(&windows), sender);
            if let Some(rule) = scenario.broken {
                worker.break_rule(rule);
            }
            workers.push(worker);
            publishers.push(publisher);
            reports.push(receiver);
            counters.push(count);
        }
        Machine {
            member,
            alive: true,
            follower: Follower::new(member, cores),
            workers,
            counters,
            publishers,
            reports,
            loads: Arc::new(Loads::new(if scenario.by_load { BACKENDS_MAX } else { 0 })),
            offset: random.below(10_000_000) + 1_000_000,
            rss: random.next(),
            turn_at: vec![Tick(u64::MAX); cores],
            unpublished: false,
            fresh: vec![Vec::new(); cores],
            local_guesses: vec![0; cores],
            decides: 0,
            refused: vec![0; cores],
        }
    }

    /// The machine's own time.
    pub(super) fn clock(&self, now: Tick) -> Tick {
        Tick(now.0 + self.offset)
    }

    /// The queue, and so the worker, that the network card chooses.
    pub(super) fn queue(&self, frame: &[u8]) -> usize {
        let word =
            |at: usize| frame.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
        let (source, destination, ports) = if frame.get(12) == Some(&0x86) {
            (word(34), word(50), word(54))
        } else {
            (word(26), word(30), word(34))
        };
        let tuple = u64::from(source) << 32 ^ u64::from(ports) ^ u64::from(destination) << 16;
        mix(tuple ^ self.rss) as usize % self.workers.len()
    }

    pub(super) fn push(&mut self, queue: usize, frame: &[u8]) {
        self.workers[queue].io().push(PortId(0), frame, RxMeta::default());
    }

    /// What the workers report; true if anything was.
    pub(super) fn collect_reports(&mut self) -> bool {
        let mut any = false;
        for (core, reports) in (0..).map(CoreId).zip(&mut self.reports) {
            while let Some(report) = reports.pop() {
                self.follower.report(core, report);
                any = true;
            }
        }
        any
    }

    /// The store shows a plan. True: the workers get a new view.
    pub(super) fn offer(&mut self, plan: &Arc<Plan>, registry: &Registry, scenario: &Scenario) -> bool {
        let is_new = self.follower.offer(plan);
        if is_new || self.unpublished {
            self.publish(registry, scenario);
        }
        is_new
    }

    fn publish(&mut self, registry: &Registry, scenario: &Scenario) {
        let Some(plan) = self.follower.plan().cloned() else { return };
        self.unpublished = false;
        let mut view = view_of(&plan, self.member, registry, scenario);
        view.loads = Arc::clone(&self.loads);
        let view = Arc::new(view);
        for publisher in &mut self.publishers {
            while publisher.collect().is_some() {}
            self.unpublished |= publisher.publish(Arc::clone(&view)).is_err();
        }
    }

    /// What control does from time to time: flows of this machine stand for those of all.
    pub(super) fn weigh(&self, registry: &Registry, scenario: &Scenario) {
        if !scenario.by_load {
            return;
        }
        for id in (0..registry.backends.len()).filter_map(|id| u32::try_from(id).ok()).map(BackendId) {
            let flows: u64 =
                self.counters.iter().filter_map(|of| of.flows_of(id)).map(|of| of.flows.get()).sum();
            let ppm = flows * scenario.machines as u64 * 1_000_000 / u64::from(CAPACITY);
            let joining = id.0.is_multiple_of(5);
            self.loads.set(id, Load { ppm: u32::try_from(ppm).unwrap_or(u32::MAX), joining });
        }
        self.loads.publish();
    }

    /// Whether it takes traffic, as far as its newest view says.
    pub(super) fn is_ready(&self) -> bool {
        self.alive && self.follower.plan().is_some_and(|plan| plan.owners().is_ready(self.member))
    }
}

/// Memory of a flow table with so many buckets.
fn few_buckets<B: flow::bucket::Bucket + Default>(buckets: usize) -> flow::Memory<B> {
    flow::Memory::Shared((0..buckets).map(|_| B::default()).collect())
}

fn memory_of(tainted: &SlotSet, base: &Answers) -> SlotMemory {
    let size = u32::try_from(base.len()).expect("few slots");
    SlotMemory::new(size, tainted.iter().map(|slot| (slot, base.get(slot as usize).copied().flatten())))
}

/// Who owns the slots.
pub(super) fn owners_of(plan: &Plan, scenario: &Scenario) -> Owners {
    if scenario.broken == Some(statesync::Rule::Ranking) {
        plan.owners().going_round()
    } else {
        plan.owners()
    }
}

fn policy_of(made: &Made, service: &ServiceOf, scenario: &Scenario) -> Policy {
    if !scenario.by_load {
        return Policy::Maglev;
    }
    let deciders = u32::try_from(scenario.machines * scenario.cores).expect("few");
    Policy::LeastLoad(Box::new(LeastLoad {
        select: if service.tcp { Select::Min } else { Select::TwoChoices },
        overload: Overload::Spread,
        shares: made.members.iter().map(|_| share(CAPACITY, 1, deciders)).collect(),
    }))
}

fn view_of(plan: &Plan, own: Member, registry: &Registry, scenario: &Scenario) -> View {
    let rules: Vec<ServiceRule> = registry
        .services
        .iter()
        .map(|s| ServiceRule {
            vip: s.vip,
            len: if s.vip.is_v6() { 128 } else { 32 },
            port: s.port,
            protocol: if s.tcp { 6 } else { 17 },
        })
        .collect();
    let mut backends: Vec<Option<BackendView>> = (0..registry.backends.len()).map(|_| None).collect();
    for id in plan.backends.iter() {
        let service = registry.services[registry.backends[id.index()]];
        let state = if plan.is_masked(*id) { BackendState::Down } else { BackendState::Up };
        let header = TunnelHeader::new(&Tunnel {
            mode: Mode::Ipip,
            parameters: Mode::Ipip.defaults(),
            source: Ipv4Addr::from_bits(machine_address(own.machine.index())).into(),
            sources: None,
            destination: Ipv4Addr::from_bits(backend_address(id.0)).into(),
            inner_v6: service.vip.is_v6(),
            inner_macs: (ROUTER_MAC, PORT_MAC),
        })
        .expect("a header");
        backends[id.index()] = Some(BackendView {
            id: *id,
            service: service.id,
            state,
            inner_mtu: 1480,
            room: Room::new(state, Some(ROUTER_MAC), 1480),
            header: header.between(ROUTER_MAC, PORT_MAC),
            port: PortId(0),
            next_hop: Some(ROUTER_MAC),
            learnt: Learnt::default(),
        });
    }
    let service = registry
        .services
        .iter()
        .zip(&plan.services)
        .map(|(of, planned)| {
            let made = registry
                .tables
                .iter()
                .find(|made| Arc::ptr_eq(&made.answers, &planned.cur))
                .expect("a table that was made");
            ServiceView {
                id: of.id,
                wide: of.vip.is_v6(),
                hash: HashOn::Tuple,
                maglev: Arc::clone(&made.maglev),
                members: made.members.clone(),
                on_empty: OnEmpty::Drop,
                on_down: OnDown::Keep,
                memory: None,
                policy: policy_of(made, of, scenario),
            }
        })
        .collect();
    let services = registry
        .services
        .iter()
        .zip(&plan.services)
        .map(|(of, planned)| SlotsView {
            vip: (of.vip, of.port, if of.tcp { 6 } else { 17 }),
            taints: Arc::new(memory_of(&planned.tainted, &planned.base)),
            always: scenario.by_load,
        })
        .collect();
    let owners = owners_of(plan, scenario);
    let links = (0..scenario.machines)
        .map(|machine| Some(Link { address: Addr::V4(machine_address(machine)), mac: PORT_MAC }))
        .collect();
    let cluster = Cluster {
        own,
        ready: owners.is_ready(own) || scenario.broken == Some(statesync::Rule::Ready),
        step: plan.step,
        epoch: plan.epoch,
        generation: plan.generation,
        owners,
        endpoint: Endpoint {
            address: Addr::V4(machine_address(own.machine.index())),
            udp_port: UDP_PORT,
            port: PortId(0),
        },
        links,
        keys: ClusterKeys { own: KEY, accepted: None },
        max_idle_us: scenario.habits.max_idle_us,
        relays: scenario.relays,
        services,
        job: Arc::new(plan.job.clone()),
    };
    View {
        generation: plan.step,
        cluster_key: KEY,
        services: Services::build(&rules).expect("services"),
        service,
        backends,
        ports: vec![PortView {
            mac: PORT_MAC,
            mtu: 1500,
            role: PortRole::Data { exception: None, punt_to_nowhere: true },
        }],
        timeouts: Timeouts {
            tcp_established_us: scenario.habits.max_idle_us,
            tcp_closing_us: scenario.closing_us(),
            syn_us: scenario.habits.max_idle_us,
            udp_us: scenario.habits.max_idle_us,
            fragment_us: 1_000_000,
        },
        cluster: Some(Arc::new(cluster)),
        on_closed_port: OnClosedPort::Drop,
        ..View::default()
    }
}
