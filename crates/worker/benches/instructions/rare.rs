//! Turns that a busy machine takes now and then: what they may not do is watched as it is of the others, their instructions are not
//! counted.

use crate::pool_io::PoolIo;
use crate::rig::{self, PORT_MAC, Spec, Tcp, VIP};
use crate::{BACKENDS, Done};
use allocation_counter::measure;
use statesync::plan::Job;
use statesync::spsc::channel;
use statesync::{MachineId, Member, Members, Owners};
use std::net::IpAddr;
use std::sync::Arc;
use wire::{Addr, BackendId, CoreId, PortId, Tick};
use worker::cluster::SyncSize;
use worker::decide::least_load::share;
use worker::view::cluster::{Cluster, Endpoint, Link, SlotsView};
use worker::view::mailbox::{Publisher, mailbox};
use worker::view::slots::SlotMemory;
use worker::view::{LeastLoad, Overload, Policy, Select};
use worker::{BURST, Counters, Frame, Setup, View, Worker};

/// Virtual time of a turn, microseconds: so much that in some hundred turns everything is due that is due by time.
const TURN_US: u64 = 1_000;
/// UDP port between machines.
const UDP_PORT: u16 = 7480;
/// Flows of the fragments.
const FLOWS: u16 = 512;

/// Machines of one worker each, and the wire between them.
struct Machines {
    workers: Vec<Worker<PoolIo>>,
    counters: Vec<Arc<Counters>>,
    now: Tick,
    _publishers: Vec<Publisher<View>>,
}

impl Machines {
    /// Of these views; the first receives the frames.
    fn new(views: Vec<View>, frames: &[Vec<u8>]) -> Machines {
        let mut machines = Machines {
            workers: Vec::new(),
            counters: Vec::new(),
            now: Tick(1_000_000),
            _publishers: Vec::new(),
        };
        for (index, view) in views.into_iter().enumerate() {
            let idle = flow::Idle {
                tcp_established_us: view.timeouts.tcp_established_us,
                tcp_closing_us: view.timeouts.tcp_closing_us,
                syn_us: view.timeouts.syn_us,
                udp_us: view.timeouts.udp_us,
            };
            let (narrow, wide) = (flow::Memory::heap(1 << 14), flow::Memory::heap(1 << 10));
            let table = flow::Table::new(narrow, wide, 7, idle, 90).expect("a small table");
            let counters = Arc::new(Counters::new(16, 1024, 1));
            let is_member = view.cluster.is_some();
            let (mut publisher, inbox) = mailbox(2);
            publisher.publish(Arc::new(view)).expect("an empty mailbox takes a view");
            let mut worker = Worker::new(Setup {
                core: CoreId(0),
                io: PoolIo::new(if index == 0 { frames.to_vec() } else { Vec::new() }),
                peers: vec![table.reader()],
                table,
                rings: statesync::mesh(1, 64).remove(0),
                inbox,
                counters: Arc::clone(&counters),
                commands: None,
            });
            if is_member {
                let size = SyncSize { records: 4096, unacknowledged: 4096, asks: 256 };
                let windows = std::sync::Arc::new(statesync::window::Windows::of(4, 4));
                worker.attach_sync(size, 1, windows, channel(8).0);
            }
            machines.workers.push(worker);
            machines.counters.push(counters);
            machines._publishers.push(publisher);
        }
        machines
    }

    /// So many turns of each, in which the first receives a burst, or less.
    fn turns(&mut self, count: usize, frames: usize) -> u64 {
        let mut sent = 0;
        for _ in 0..count {
            self.now = Tick(self.now.0 + TURN_US);
            if let Some(first) = self.workers.first_mut() {
                first.io().arrive(frames);
            }
            for index in 0..self.workers.len() {
                self.workers[index].turn(self.now);
                sent += self.carry(index);
            }
        }
        sent
    }

    /// What a machine has sent to another arrives there; the number of the other frames.
    fn carry(&mut self, from: usize) -> u64 {
        let mut others = 0;
        while let Some(frame) = self.workers[from].io().sent.pop_front() {
            let is_message =
                frame.bytes().get(36..38) == Some(&UDP_PORT.to_be_bytes()) && frame.bytes()[23] == rig::UDP;
            let to = usize::from(frame.bytes()[33]);
            if is_message && to < self.workers.len() {
                self.workers[to].io().inbox.push_back(frame);
            } else {
                others += 1;
                self.workers[from].io().free(frame);
            }
        }
        others
    }

    /// After some turns, so that every part has had its first one.
    fn measured(&mut self, count: usize, frames: usize) -> Done {
        self.turns(64, frames);
        let mut sent = 0;
        let allocations = measure(|| sent = self.turns(count, frames));
        assert!(sent > 0, "something is sent");
        Done { sent, allocations }
    }

    fn count(&self, of: impl Fn(&Counters) -> u64) -> u64 {
        self.counters.iter().map(|counters| of(counters)).sum()
    }
}

/// Segments in two pieces, the second one first: it is held.
pub(crate) fn fragments(count: usize) -> Done {
    let pieces = (0..FLOWS).flat_map(|flow| {
        let mut pieces = rig::fragments(&rig::tcp(10_000 + flow, 80, Tcp::Ack, 1_000), 800);
        for piece in &mut pieces {
            piece[18..20].copy_from_slice(&flow.to_be_bytes());
            let bits = u16::from_be_bytes([piece[20], piece[21]]);
            rig::set_fragment_bits(piece, bits);
        }
        pieces.reverse();
        pieces
    });
    let mut machines = Machines::new(vec![rig::view(1, &[Spec::web(BACKENDS)])], &pieces.collect::<Vec<_>>());
    let done = machines.measured(count, BURST);
    assert_eq!(done.sent, (count * BURST) as u64, "every piece is sent");
    done
}

/// Packets that do not fit into their tunnel, and may not be cut.
pub(crate) fn too_big(count: usize) -> Done {
    let frames = (0..FLOWS).map(|flow| {
        let mut frame = rig::tcp(10_000 + flow, 80, Tcp::Ack, 1_460);
        rig::set_fragment_bits(&mut frame, 0x4000);
        frame
    });
    let mut machines = Machines::new(vec![rig::view(1, &[Spec::web(BACKENDS)])], &frames.collect::<Vec<_>>());
    let done = machines.measured(count, 4);
    assert!(machines.count(|counters| counters.totals.too_big_sent.get()) > 0, "the sender is told");
    done
}

/// New flows where load decides.
pub(crate) fn least_load(count: usize) -> Done {
    let policy = |select| {
        Policy::LeastLoad(Box::new(LeastLoad {
            select,
            overload: Overload::Spread,
            shares: vec![share(100, 1, 1); BACKENDS],
        }))
    };
    let specs = [(80, Select::Min), (81, Select::TwoChoices)].map(|(port, select)| Spec {
        port,
        policy: policy(select),
        ..Spec::web(BACKENDS)
    });
    let frames = [80, 81].map(|port| rig::tcp(1, port, Tcp::Syn, 0));
    let mut machines = Machines::new(vec![rig::view(1, &specs)], &frames);
    let before = machines.count(|counters| counters.totals.flow_inserts.get());
    let done = machines.measured(count, 8);
    assert!(
        machines.count(|counters| counters.totals.flow_inserts.get()) - before >= done.sent,
        "flows begin"
    );
    done
}

/// Two machines all of whose slots are tainted: every flow that begins, and every one met in the middle, is asked for and told of.
pub(crate) fn cluster(count: usize) -> Done {
    let frames = [Tcp::Syn, Tcp::Syn, Tcp::Ack].into_iter().zip(1_u16..).cycle().take(3 * usize::from(FLOWS));
    let frames = frames.zip(0_u16..).map(|((kind, _), port)| rig::tcp(20_000 + port, 80, kind, 100));
    let mut machines = Machines::new(vec![member_of_two(0), member_of_two(1)], &frames.collect::<Vec<_>>());
    let done = machines.measured(count, 4);
    for (what, count) in [
        ("relayed", machines.count(|counters| counters.sync.relays.get())),
        ("answered", machines.count(|counters| counters.sync.answers.get())),
        ("told", machines.count(|counters| counters.sync.decides.get())),
        ("acknowledged", machines.count(|counters| counters.sync.acknowledgements.get())),
    ] {
        assert!(count > 0, "nothing was {what}");
    }
    done
}

/// The view of one machine of two.
fn member_of_two(machine: u8) -> View {
    let address = |machine| Addr::V4(0x0a00_0300 | u32::from(machine));
    let mut view = rig::view(1, &[Spec::web(BACKENDS)]);
    let members = Members::new([0, 1].map(|m| Member { machine: MachineId(m), incarnation: 1 }));
    let size = view.service[0].maglev.size();
    let taints = SlotMemory::new(size, (0..size).map(|slot| (slot, Some(BackendId(0)))));
    let link = |machine| Some(Link { address: address(machine), mac: PORT_MAC });
    view.cluster = Some(Arc::new(Cluster {
        own: Member { machine: MachineId(machine), incarnation: 1 },
        ready: true,
        step: 1,
        epoch: 1,
        generation: 1,
        owners: Owners::settled(members),
        endpoint: Endpoint { address: address(machine), udp_port: UDP_PORT, port: PortId(0) },
        links: vec![link(0), link(1)],
        keys: statesync::datagram::ClusterKeys { own: *b"between machines", accepted: None },
        max_idle_us: 60_000_000,
        relays: (1_000_000, 100_000),
        services: vec![SlotsView {
            vip: (Addr::from(IpAddr::from(VIP)), 80, rig::TCP),
            taints: Arc::new(taints),
            always: false,
        }],
        job: Arc::new(Job::default()),
    }));
    view
}
