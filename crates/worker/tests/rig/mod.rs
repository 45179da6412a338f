//! A worker (or several) on memory, with a small view: what the tests of the turn stand on.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    reason = "each test file uses a part"
)]

use etherparse::PacketBuilder;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use steer::{Maglev, ServiceRule, Services, Weighted};
use wire::encap::{Mode, SourcePrefix, Tunnel, TunnelHeader};
use wire::{Addr, BackendId, CoreId, PortId, ServiceId, Tick};
use worker::commands::{Commander, command_queue};
use worker::io::memory::MemIo;
use worker::view::mailbox::{Publisher, mailbox};
use worker::view::path_mtu::{Learnt, Room, Tunnels};
use worker::view::{
    BACKENDS_MAX, BackendState, BackendView, HashOn, OnDown, OnEmpty, Policy, PortRole, PortView,
    SERVICES_MAX, ServiceView, Timeouts, View,
};
use worker::{Counters, DropReason, Outcome, RxMeta, Setup, Verdict, Worker};

pub const KEY: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
pub const VIP: [u8; 4] = [203, 0, 113, 10];
pub const CLIENT: [u8; 4] = [10, 0, 1, 100];
pub const PORT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
/// Commands that may wait for each worker.
pub const COMMANDS: usize = 128;

/// What a service of the rig is made of.
pub struct Spec {
    pub vip: IpAddr,
    pub len: u8,
    pub port: u16,
    pub protocol: u8,
    pub mode: Mode,
    pub sources: Option<SourcePrefix>,
    pub states: Vec<BackendState>,
    pub on_empty: OnEmpty,
    pub on_down: OnDown,
    pub resolved: bool,
    pub policy: Policy,
}

impl Spec {
    pub fn web(backends: usize) -> Spec {
        Spec {
            vip: IpAddr::from(VIP),
            len: 32,
            port: 80,
            protocol: TCP,
            mode: Mode::Ipip,
            sources: None,
            states: vec![BackendState::Up; backends],
            on_empty: OnEmpty::Reset,
            on_down: OnDown::Keep,
            resolved: true,
            policy: Policy::Maglev,
        }
    }
}

/// Builds a view: backend ids count through the services in order, addresses are 10.0.2.21 and up.
pub fn view(generation: u64, specs: &[Spec]) -> View {
    let rules: Vec<ServiceRule> = specs
        .iter()
        .map(|s| ServiceRule { vip: Addr::from(s.vip), len: s.len, port: s.port, protocol: s.protocol })
        .collect();
    let mut view = View {
        generation,
        cluster_key: KEY,
        services: Services::build(&rules).unwrap(),
        timeouts: Timeouts::default(),
        ports: vec![PortView {
            mac: PORT_MAC,
            mtu: 1500,
            role: PortRole::Data { exception: None, punt_to_nowhere: true },
        }],
        ..View::default()
    };
    for (index, spec) in specs.iter().enumerate() {
        let service = ServiceId(u16::try_from(index + 1).unwrap());
        let mut members = Vec::new();
        let mut names = Vec::new();
        for (n, state) in spec.states.iter().enumerate() {
            let id = BackendId(u32::try_from(view.backends.len()).unwrap());
            let header = if spec.mode == Mode::L2 {
                TunnelHeader::default()
            } else {
                TunnelHeader::new(&Tunnel {
                    mode: spec.mode,
                    parameters: spec.mode.defaults(),
                    source: Ipv4Addr::new(10, 0, 2, 11).into(),
                    sources: spec.sources,
                    destination: Ipv4Addr::new(10, 0, 2, 21 + u8::try_from(n).unwrap()).into(),
                    inner_v6: spec.vip.is_ipv6(),
                    inner_macs: ([2, 0, 0, 0, 1, 0x21], PORT_MAC),
                })
                .unwrap()
            };
            if *state == BackendState::Up {
                members.push(id);
                names.push(format!("b{n}"));
            }
            let next_hop = spec.resolved.then_some([2, 0, 0, 0, 0, 0x21 + u8::try_from(n).unwrap()]);
            view.backends.push(Some(BackendView {
                id,
                service,
                state: *state,
                inner_mtu: 1500 - spec.mode.overhead(false),
                room: Room::new(*state, next_hop, 1500 - spec.mode.overhead(false)),
                header: header.between(next_hop.unwrap_or_default(), PORT_MAC),
                port: PortId(0),
                next_hop,
                learnt: Learnt::default(),
            }));
        }
        let weighted: Vec<Weighted> = names.iter().map(|name| Weighted { name, weight: 1 }).collect();
        view.service.push(ServiceView {
            id: service,
            wide: spec.vip.is_ipv6() || spec.port == 0 || (spec.len != 32 && spec.vip.is_ipv4()),
            hash: HashOn::Tuple,
            maglev: Arc::new(Maglev::build(&weighted, 251, &KEY).unwrap()),
            members,
            on_empty: spec.on_empty,
            on_down: spec.on_down,
            memory: None,
            policy: spec.policy.clone(),
        });
    }
    view.tunnels = Tunnels::of(&view.backends);
    view
}

pub struct Rig {
    pub workers: Vec<Worker<MemIo>>,
    pub publishers: Vec<Publisher<View>>,
    pub commanders: Vec<Commander>,
    pub tables: Vec<flow::Reader>,
    pub counters: Vec<Arc<Counters>>,
    pub now: Tick,
    next_index: u32,
}

impl Rig {
    pub fn new(cores: usize, first: View) -> Rig {
        Rig::with_flows(cores, 1024, first)
    }

    /// With tables for so many flows of each kind.
    pub fn with_flows(cores: usize, flows: usize, first: View) -> Rig {
        let tables: Vec<flow::Table> = (0..cores)
            .map(|core| {
                let idle = flow::Idle {
                    tcp_established_us: 1_800_000_000,
                    tcp_closing_us: 30_000_000,
                    syn_us: 30_000_000,
                    udp_us: 60_000_000,
                };
                flow::Table::new(flow::Memory::heap(flows), flow::Memory::heap(flows), core as u64, idle, 50)
                    .unwrap()
            })
            .collect();
        let peers: Vec<flow::Reader> = tables.iter().map(flow::Table::reader).collect();
        let rings = statesync::mesh(cores, 64);
        let mut rig = Rig {
            workers: Vec::new(),
            publishers: Vec::new(),
            commanders: Vec::new(),
            counters: Vec::new(),
            tables: peers.clone(),
            now: Tick::from_ms(1000),
            next_index: 0,
        };
        for (core, (table, rings)) in tables.into_iter().zip(rings).enumerate() {
            let (publisher, inbox) = mailbox(4);
            let (commander, commands) = command_queue(COMMANDS);
            let counters = Arc::new(Counters::new(SERVICES_MAX, 1024.min(BACKENDS_MAX), 4));
            rig.workers.push(Worker::new(Setup {
                core: CoreId(u8::try_from(core).unwrap()),
                io: MemIo::new(4),
                table,
                peers: peers.clone(),
                rings,
                inbox,
                counters: Arc::clone(&counters),
                commands: Some(commands),
            }));
            rig.publishers.push(publisher);
            rig.commanders.push(commander);
            rig.counters.push(counters);
        }
        rig.publish(first);
        rig
    }

    pub fn publish(&mut self, view: View) {
        let view = Arc::new(view);
        for publisher in &mut self.publishers {
            publisher.publish(Arc::clone(&view)).unwrap();
        }
    }

    /// Pushes a frame to a worker and turns all until nothing moves; gives what was sent and how frames ended.
    pub fn put(&mut self, core: usize, frame: &[u8]) -> (Vec<Vec<u8>>, Vec<(RxMeta, Outcome)>) {
        self.put_with(core, frame, RxMeta::default())
    }

    pub fn put_with(
        &mut self,
        core: usize,
        frame: &[u8],
        meta: RxMeta,
    ) -> (Vec<Vec<u8>>, Vec<(RxMeta, Outcome)>) {
        self.next_index += 1;
        self.workers[core].io().push(PortId(0), frame, RxMeta { index: self.next_index, ..meta });
        self.run()
    }

    /// Pushes frames to a worker and turns all, for those whose ends do not matter.
    pub fn put_all(&mut self, core: usize, frames: &[Vec<u8>]) {
        for frames in frames.chunks(worker::BURST) {
            for frame in frames {
                self.workers[core].io().push(PortId(0), frame, RxMeta::default());
            }
            self.run();
        }
    }

    pub fn run(&mut self) -> (Vec<Vec<u8>>, Vec<(RxMeta, Outcome)>) {
        loop {
            let received: usize = self.workers.iter_mut().map(|w| w.turn(self.now).received).sum();
            if received == 0 {
                break;
            }
        }
        let mut sent = Vec::new();
        let mut outcomes = Vec::new();
        let (mut held, mut live) = (0, 0);
        for (worker, counters) in self.workers.iter_mut().zip(&self.counters) {
            assert_eq!(counters.imbalance(), 0);
            held += usize::try_from(counters.totals.held.get()).unwrap();
            live += worker.io().live();
            sent.extend(worker.io().sent.drain(..).map(|(_, _, bytes)| bytes));
            outcomes.append(&mut worker.io().outcomes);
        }
        assert_eq!(live, held, "no frame leaks");
        (sent, outcomes)
    }

    pub fn drops(&self, reason: DropReason) -> u64 {
        self.counters.iter().map(|c| c.drops(reason).get()).sum()
    }

    pub fn advance_ms(&mut self, ms: u64) {
        self.now = Tick(self.now.0 + ms * 1000);
    }
}

pub fn backend_of(outcomes: &[(RxMeta, Outcome)]) -> BackendId {
    assert_eq!(outcomes.len(), 1, "{outcomes:?}");
    assert_eq!(outcomes[0].1.verdict, Verdict::Sent);
    outcomes[0].1.backend.unwrap()
}

pub fn dropped(outcomes: &[(RxMeta, Outcome)], reason: DropReason) {
    assert_eq!(outcomes.len(), 1, "{outcomes:?}");
    assert_eq!(outcomes[0].1.verdict, Verdict::Dropped(reason));
}

#[derive(Clone, Copy)]
pub enum Tcp {
    Syn,
    Ack,
    Fin,
    Rst,
}

pub fn tcp(sport: u16, dport: u16, kind: Tcp, payload: usize) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(ROUTER_MAC, PORT_MAC).ipv4(CLIENT, VIP, 64);
    let builder = match kind {
        Tcp::Syn => builder.tcp(sport, dport, 7, 1000).syn(),
        Tcp::Ack => builder.tcp(sport, dport, 8, 1000).ack(9),
        Tcp::Fin => builder.tcp(sport, dport, 8, 1000).ack(9).fin(),
        Tcp::Rst => builder.tcp(sport, dport, 8, 1000).rst(),
    };
    let mut frame = Vec::new();
    builder.write(&mut frame, &vec![0x42; payload]).unwrap();
    frame
}

/// Sets or clears DF and mends the IPv4 header checksum.
pub fn set_fragment_bits(frame: &mut [u8], bits: u16) {
    frame[20..22].copy_from_slice(&bits.to_be_bytes());
    frame[24..26].fill(0);
    let sum = wire::checksum::checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

pub fn udp(sport: u16, dport: u16, payload: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(ROUTER_MAC, PORT_MAC)
        .ipv4(CLIENT, VIP, 64)
        .udp(sport, dport)
        .write(&mut frame, &vec![0x42; payload])
        .unwrap();
    frame
}

/// Cuts an unfragmented IPv4 frame into fragments of `size` payload bytes (a multiple of eight).
pub fn fragments(frame: &[u8], size: usize) -> Vec<Vec<u8>> {
    let payload = &frame[34..];
    let count = payload.len().div_ceil(size);
    payload
        .chunks(size)
        .enumerate()
        .map(|(n, chunk)| {
            let mut piece = frame[..34].to_vec();
            piece.extend_from_slice(chunk);
            let total = u16::try_from(20 + chunk.len()).unwrap();
            piece[16..18].copy_from_slice(&total.to_be_bytes());
            piece[18..20].copy_from_slice(&0x1234_u16.to_be_bytes());
            let more = if n + 1 < count { 0x2000 } else { 0 };
            set_fragment_bits(&mut piece, more | u16::try_from(n * size / 8).unwrap());
            piece
        })
        .collect()
}

pub fn ipv6(address: &str) -> Ipv6Addr {
    address.parse().unwrap()
}
