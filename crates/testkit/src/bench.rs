//! A workbench: the real engine on memory, two workers, a service in every mode, stepped by hand.
//!
//! Everything that comes out is judged here: each frame ends once, nothing is lost, what is sent is well formed, and
//! what a tunnel carries is the request, bit by bit.

use crate::frames::{PacketBuilder, flags};
use crate::malformed::{VIP4, VIP6};
use crate::outer::{FrameLayout, check_transport, decapsulate, locate, outer};
use flow::{Idle, Memory, Table};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use wire::{CoreId, PortId, ServiceId, Tick};
use worker::action::Reply;
use worker::io::memory::MemIo;
use worker::view::mailbox::{Publisher, mailbox};
use worker::{Action, Counters, DropReason, Outcome, RxMeta, Setup, Verdict, View, Worker};

/// Workers on the bench.
pub const WORKERS: usize = 2;
/// UDP ports of the bench's tunnels, with their modes.
const UDP_TUNNELS: [(u16, &str); 3] = [(6080, "gue"), (4789, "vxlan"), (6081, "geneve")];
/// Ids that the counters have room for; the bench's view needs a few dozen.
const IDS_MAX: usize = 1024;
/// Frames a ring holds.
const RING_DEPTH: usize = 64;
/// Longer than any wait of the engine's.
const LONG_US: u64 = 120_000_000;

/// The configuration of the bench: on each VIP a TCP service in every mode (ports 80 to 85), UDP on 53, any port on the
/// next address, a prefix, a service without backends and one that is silent about it.
pub fn config_text() -> String {
    let mut text = String::from(
        "[machine]\nname = \"bench\"\naddress = \"10.0.2.11\"\naddress6 = \"fd00:2::11\"\n\
         next_hop_mac = \"02:00:00:00:00:01\"\ncluster_key = \"000102030405060708090a0b0c0d0e0f\"\n\
         [workers]\ncpus = [1, 2]\nflows = 1024\n\
         [[port]]\nname = \"data0\"\ndevice = \"net_null0\"\nmac = \"02:00:00:00:00:11\"\nmtu = 1500\n",
    );
    let mut service = |name: &str, vip: &str, port: u16, protocol: &str, mode: &str, backends: &[&str]| {
        text.push_str(&format!(
            "[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\nport = {port}\nprotocol = \"{protocol}\"\n\
             mode = \"{mode}\"\nmaglev_size = 251\n"
        ));
        if name.starts_with("silent") {
            text.push_str("on_empty = \"drop\"\n");
        }
        for (i, address) in backends.iter().enumerate() {
            text.push_str(&format!("[[service.backend]]\nname = \"b{i}\"\naddress = \"{address}\"\n"));
            if matches!(mode, "l2" | "vxlan" | "geneve") {
                text.push_str(&format!("mac = \"02:00:00:00:00:2{i}\"\n"));
            }
        }
    };
    let v4: &[&str] = &["10.0.2.21", "10.0.2.22"];
    let v6: &[&str] = &["fd00:2::21", "fd00:2::22"];
    let both: &[&str] = &["10.0.2.21", "fd00:2::22"];
    for (family, vip, same, next, prefix) in [
        ("4", VIP4, v4, "203.0.113.11", "203.0.113.128/25"),
        ("6", VIP6, v6, "2001:db8:f::11", "2001:db8:f::1:0/112"),
    ] {
        for (port, mode) in (80..).zip(["ipip", "gre", "gue", "vxlan"]) {
            service(&format!("{mode}{family}"), vip, port, "tcp", mode, both);
        }
        service(&format!("l2-{family}"), vip, 84, "tcp", "l2", same);
        service(&format!("geneve{family}"), vip, 85, "tcp", "geneve", both);
        service(&format!("dns{family}"), vip, 53, "udp", "gue", both);
        service(&format!("any{family}"), next, 0, "udp", "ipip", both);
        service(&format!("prefix{family}"), prefix, 80, "tcp", "gre", both);
        service(&format!("empty{family}"), vip, 90, "tcp", "ipip", &[]);
        service(&format!("emptydns{family}"), vip, 91, "udp", "ipip", &[]);
        service(&format!("silent{family}"), vip, 92, "tcp", "ipip", &[]);
    }
    text
}

/// How a service's packets leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum WayOut {
    Tunnel(&'static str),
    L2,
}

struct BenchView {
    view: Arc<View>,
    ways: BTreeMap<ServiceId, WayOut>,
}

fn picture() -> &'static BenchView {
    static PICTURE: OnceLock<BenchView> = OnceLock::new();
    PICTURE.get_or_init(|| {
        let loaded = model::load("bench", &config_text()).unwrap_or_else(|r| panic!("{}", r.to_plain()));
        let (view, ids) =
            control::compile::offline(&loaded.config).expect("the bench's configuration compiles");
        let ways = loaded.config.services.iter().map(|service| {
            let id = ids.service(&service.name).expect("every service has an id");
            let way = match service.mode {
                model::config::Mode::L2 => WayOut::L2,
                mode => WayOut::Tunnel(mode.as_str()),
            };
            (id, way)
        });
        BenchView { ways: ways.collect(), view: Arc::new(view) }
    })
}

/// What the bench does besides receiving.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IoFaults {
    /// Transmit queues accept nothing in this turn.
    pub transmit_full: bool,
    /// There are no buffers for packets of our own in this turn.
    pub no_buffers: bool,
}

/// The bench.
pub struct Bench {
    workers: Vec<Worker<MemIo>>,
    counters: Vec<Arc<Counters>>,
    _publishers: Vec<Publisher<View>>,
    now: Tick,
    input: Vec<Vec<u8>>,
    ends: Vec<Option<Outcome>>,
    sent: BTreeMap<u32, Vec<Vec<u8>>>,
    faulty: bool,
}

impl Default for Bench {
    fn default() -> Bench {
        Bench::new()
    }
}

impl Bench {
    /// Empty tables, time at one second.
    ///
    /// # Panics
    /// The bench's own configuration is refused.
    pub fn new() -> Bench {
        let view = &picture().view;
        let idle = Idle {
            tcp_established_us: view.timeouts.tcp_established_us,
            tcp_closing_us: view.timeouts.tcp_closing_us,
            syn_us: view.timeouts.syn_us,
            udp_us: view.timeouts.udp_us,
        };
        let tables: Vec<Table> = (0..WORKERS)
            .map(|_| Table::new(Memory::heap(128), Memory::heap(128), 7, idle, 50).expect("a small table"))
            .collect();
        let peers: Vec<flow::Reader> = tables.iter().map(Table::reader).collect();
        let (mut workers, mut all_counters, mut publishers) = (Vec::new(), Vec::new(), Vec::new());
        for ((core, table), rings) in (0_u8..).zip(tables).zip(statesync::mesh(WORKERS, RING_DEPTH)) {
            let (mut publisher, inbox) = mailbox(2);
            publisher.publish(Arc::clone(view)).expect("an empty mailbox takes a view");
            let counters = Arc::new(Counters::new(IDS_MAX, IDS_MAX, view.ports.len()));
            workers.push(Worker::new(Setup {
                core: CoreId(core),
                io: MemIo::new(view.ports.len()),
                table,
                peers: peers.clone(),
                rings,
                inbox,
                counters: Arc::clone(&counters),
                commands: None,
            }));
            all_counters.push(counters);
            publishers.push(publisher);
        }
        Bench {
            workers,
            counters: all_counters,
            _publishers: publishers,
            now: Tick(1_000_000),
            input: Vec::new(),
            ends: Vec::new(),
            sent: BTreeMap::new(),
            faulty: false,
        }
    }

    /// One frame on one worker's data port, and as many turns of both as it takes; returns the frame's index.
    ///
    /// # Panics
    /// The engine breaks a promise.
    pub fn receive(&mut self, worker: usize, frame: &[u8], faults: IoFaults) -> u32 {
        let index = u32::try_from(self.input.len()).expect("a bench is small");
        self.input.push(frame.to_vec());
        self.ends.push(None);
        self.faulty |= faults != IoFaults::default();
        let meta = RxMeta { index, ..RxMeta::default() };
        self.workers[worker % WORKERS].io().push(PortId(0), frame, meta);
        for worker in &mut self.workers {
            let io = worker.io();
            io.tx_room = if faults.transmit_full { 0 } else { worker::BURST };
            io.buffers = if faults.no_buffers { 0 } else { usize::MAX };
        }
        self.settle();
        index
    }

    /// Lets time pass.
    ///
    /// # Panics
    /// The engine breaks a promise.
    pub fn wait(&mut self, us: u64) {
        self.now = Tick(self.now.0.saturating_add(us));
        self.settle();
    }

    /// How a frame ended; `None` while it is held.
    pub fn end(&self, index: u32) -> Option<Outcome> {
        self.ends.get(index as usize).copied().flatten()
    }

    /// Frames sent for this input frame.
    pub fn sent(&self, index: u32) -> &[Vec<u8>] {
        self.sent.get(&index).map(Vec::as_slice).unwrap_or_default()
    }

    /// Waits out every hold, stops the workers, and checks that everything is accounted for; returns all ends.
    ///
    /// # Panics
    /// A frame was lost, ended twice or not at all, or a frame sent is not what it must be.
    pub fn finish(mut self) -> Vec<Outcome> {
        for worker in &mut self.workers {
            worker.io().tx_room = worker::BURST;
        }
        self.wait(LONG_US);
        for worker in &mut self.workers {
            worker.finish();
        }
        self.settle();
        for core in 0..WORKERS {
            assert_eq!(self.workers[core].io().live(), 0, "worker {core}: frames leaked");
            assert_eq!(self.counters[core].totals.held.get(), 0, "worker {core}: frames still held");
        }
        let sum = |of: fn(&Counters) -> u64| self.counters.iter().map(|c| of(c)).sum::<u64>();
        assert_eq!(sum(|c| c.totals.rx.get()), self.input.len() as u64, "frames received");
        assert_eq!(sum(|c| c.totals.ring_in.get()), sum(|c| c.totals.ring_out.get()), "rings are empty");
        let sent: usize = self.sent.values().map(Vec::len).sum();
        assert_eq!(sum(|c| c.totals.tx.get()), sent as u64, "frames counted as sent, and sent");
        self.input
            .iter()
            .zip(&self.ends)
            .zip(0_u32..)
            .map(|((frame, end), index)| {
                let end = end.unwrap_or_else(|| panic!("frame {index} has no end"));
                self.judge(index, frame, &end).unwrap_or_else(|e| panic!("frame {index} ({end:?}): {e}"));
                end
            })
            .collect()
    }

    fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 1000, "the workers do not come to rest");
            let mut received = 0;
            for (worker, counters) in self.workers.iter_mut().zip(&self.counters) {
                received += worker.turn(self.now).received;
                assert_eq!(counters.imbalance(), 0, "conservation");
                let io = worker.io();
                for (meta, outcome) in io.outcomes.drain(..) {
                    let end = &mut self.ends[meta.index as usize];
                    assert!(end.is_none(), "frame {} ended twice: {end:?} and {outcome:?}", meta.index);
                    *end = Some(outcome);
                }
                for (_, meta, bytes) in io.sent.drain(..) {
                    self.sent.entry(meta.index).or_default().push(bytes);
                }
            }
            if received == 0 {
                return;
            }
        }
    }

    /// Whether what was sent for a frame is what its end says.
    fn judge(&self, index: u32, frame: &[u8], end: &Outcome) -> Result<(), String> {
        let sent = self.sent(index);
        judge_action(end)?;
        match end.verdict {
            Verdict::Sent => {
                if sent.is_empty() {
                    return Err("called sent, but nothing was".into());
                }
                let request = locate(frame).map_err(|e| format!("a broken frame was sent on: {e}"))?;
                let service = end.service.ok_or("sent without a service")?;
                let way = picture().ways.get(&service).ok_or("sent for a service that is not there")?;
                judge_request(frame, &request, *way, sent, self.faulty)
            }
            Verdict::Dropped(reason) => judge_answers(frame, reason, sent),
            Verdict::Punted if sent.is_empty() => Ok(()),
            Verdict::Punted => Err("punted and sent".into()),
            Verdict::Relayed => Err("relayed, but there is no other machine".into()),
        }
    }
}

/// A frame's action and its end say the same.
fn judge_action(end: &Outcome) -> Result<(), String> {
    let is_right = match (end.verdict, end.action) {
        (Verdict::Sent, Action::Encapsulate(backend)) => end.backend == Some(backend),
        (Verdict::Sent, Action::Pass(_)) => end.backend.is_none(),
        (Verdict::Punted, Action::Punt) | (Verdict::Relayed, Action::Relay(_)) => true,
        (Verdict::Dropped(reason), Action::Drop(of)) => of == reason,
        (Verdict::Dropped(reason), Action::Reply(reply)) => match reply {
            Reply::Echo => reason == DropReason::Answered,
            Reply::Refusal(of) => of == reason,
            Reply::TooBig => reason == DropReason::TooBig,
        },
        _ => false,
    };
    if is_right { Ok(()) } else { Err(format!("{:?} is no end of {:?}", end.verdict, end.action)) }
}

/// What went to the backend must be the request: whole and bit by bit the same, or its fragments.
fn judge_request(
    frame: &[u8],
    request: &FrameLayout,
    way: WayOut,
    sent: &[Vec<u8>],
    faulty: bool,
) -> Result<(), String> {
    let original = &frame[request.l3..request.end];
    let tags = &frame[12..request.l3 - 2];
    let mut datagrams = Vec::new();
    for bytes in sent {
        let o = outer(bytes)?;
        if bytes.get(12..12 + tags.len()) != Some(tags) {
            return Err("VLAN tags were lost or changed".into());
        }
        if o.end - o.l3 > 1500 {
            return Err(format!("a datagram of {} bytes at MTU 1500", o.end - o.l3));
        }
        match way {
            WayOut::L2 => datagrams.push(bytes[o.l3..o.end].to_vec()),
            WayOut::Tunnel(name) => {
                etherparse::SlicedPacket::from_ethernet(bytes).map_err(|e| format!("etherparse: {e}"))?;
                let inner = decapsulate(bytes, &UDP_TUNNELS)?;
                if inner.tunnel != name {
                    return Err(format!("sent by {}, not by {name}", inner.tunnel));
                }
                if o.tos != request.tos {
                    return Err(format!("DSCP and ECN {:#x} outside, {:#x} inside", o.tos, request.tos));
                }
                datagrams.push(inner.datagram);
            }
        }
    }
    match datagrams.as_slice() {
        [only] if only == original => Ok(()),
        [_] if !faulty => Err("the datagram was changed on the way".into()),
        pieces => judge_pieces(frame, request, pieces, faulty),
    }
}

/// The pieces of a datagram that was cut must give its payload again, unless some were lost to a fault.
fn judge_pieces(frame: &[u8], request: &FrameLayout, pieces: &[Vec<u8>], faulty: bool) -> Result<(), String> {
    let (base, more_after) = request.fragment.unwrap_or((0, false));
    let mut at = base;
    for (i, piece) in pieces.iter().enumerate() {
        let framed = [&frame[..request.l3], piece.as_slice()].concat();
        let p = outer(&framed).map_err(|e| format!("piece {i}: {e}"))?;
        let (offset, more) = p.fragment.ok_or("a piece that is no fragment")?;
        if offset != at {
            return if faulty { Ok(()) } else { Err(format!("piece {i} starts at {offset}, not {at}")) };
        }
        let len = p.end - p.l4;
        let from = request.l4 + (offset - base);
        if frame.get(from..from + len) != Some(&framed[p.l4..p.end]) {
            return Err(format!("piece {i} carries other bytes"));
        }
        at += len;
        let last = i + 1 == pieces.len();
        if !faulty && more != (!last || more_after) {
            return Err(format!("piece {i} says more fragments: {more}"));
        }
    }
    if at - base != request.end - request.l4 && !faulty {
        return Err(format!("{} bytes in pieces, {} before", at - base, request.end - request.l4));
    }
    Ok(())
}

/// A dropped frame may have been answered, once, from the VIP to its source, by a valid datagram.
fn judge_answers(frame: &[u8], reason: DropReason, sent: &[Vec<u8>]) -> Result<(), String> {
    let [answer] = sent else {
        return if sent.is_empty() {
            Ok(())
        } else {
            Err(format!("{} frames sent for one dropped", sent.len()))
        };
    };
    if !matches!(
        reason,
        DropReason::Answered | DropReason::TooBig | DropReason::NoBackend | DropReason::NoService
    ) {
        return Err(format!("dropped as {} and answered", reason.name()));
    }
    let request = locate(frame).map_err(|e| format!("a broken frame was answered: {e}"))?;
    let o = outer(answer)?;
    check_transport(answer, &o)?;
    etherparse::SlicedPacket::from_ethernet(answer).map_err(|e| format!("etherparse: {e}"))?;
    if (o.src, o.dst) != (request.dst, request.src) {
        return Err(format!("answered from {} to {}, the request was from {}", o.src, o.dst, request.src));
    }
    if answer[..6] != frame[6..12] {
        return Err("answered to another station".into());
    }
    Ok(())
}

/// A few good frames for the bench: mutated, they reach deeper than random bytes.
pub fn good_frames() -> Vec<(&'static str, Vec<u8>)> {
    let (client4, client6) = (crate::malformed::CLIENT4, crate::malformed::CLIENT6);
    let mut all = Vec::new();
    for (name, port) in [("ipip", 80), ("gre", 81), ("gue", 82), ("vxlan", 83), ("l2", 84), ("empty", 90)] {
        all.push((name, PacketBuilder::tcp(client4, VIP4, flags::SYN).ports(40_000, port).build()));
        all.push((name, PacketBuilder::tcp(client6, VIP6, flags::SYN).ports(40_000, port).build()));
    }
    let big = PacketBuilder::tcp(client4, VIP4, flags::ACK).payload_of(1460);
    all.push(("too_big4", big.build()));
    all.push(("to_cut4", big.clone().dont_fragment(false).build()));
    all.push(("too_big6", PacketBuilder::tcp(client6, VIP6, flags::ACK).payload_of(1440).build()));
    all.push(("dns4", PacketBuilder::udp(client4, VIP4).ports(5000, 53).payload_of(30).padded().build()));
    all.push(("dns6", PacketBuilder::udp(client6, VIP6).ports(5000, 53).payload_of(30).vlan(7).build()));
    all.push(("any4", PacketBuilder::udp(client4, "203.0.113.11").ports(5000, 999).qinq(5, 6).build()));
    all.push(("prefix4", PacketBuilder::tcp(client4, "203.0.113.200", flags::SYN).build()));
    all.push(("echo4", PacketBuilder::echo(client4, VIP4).options(&[7, 7, 4, 0, 0, 0, 0]).build()));
    all.push(("echo6", PacketBuilder::echo(client6, VIP6).build()));
    let quoted = PacketBuilder::tcp(VIP4, client4, flags::ACK).ports(80, 40_000).payload_of(100);
    all.push(("error4", PacketBuilder::icmp_error("192.0.2.1", VIP4, 3, 4, &quoted, 28).build()));
    let quoted = PacketBuilder::tcp(VIP6, client6, flags::ACK).ports(80, 40_000).payload_of(100);
    all.push(("error6", PacketBuilder::icmp_error("2001:db8:9::1", VIP6, 2, 0, &quoted, 100).build()));
    for (i, piece) in PacketBuilder::udp(client4, VIP4)
        .ports(5000, 53)
        .payload_of(2000)
        .fragments(9, 800)
        .into_iter()
        .enumerate()
    {
        all.push((["piece4_0", "piece4_1", "piece4_2"][i], piece));
    }
    for (i, piece) in PacketBuilder::udp(client6, VIP6)
        .ports(5000, 53)
        .payload_of(2000)
        .fragments(9, 800)
        .into_iter()
        .enumerate()
    {
        all.push((["piece6_0", "piece6_1", "piece6_2"][i], piece));
    }
    all.push(("to_kernel4", PacketBuilder::tcp(client4, "10.0.2.11", flags::SYN).ports(40_000, 22).build()));
    // Last, so that the seeds, which name frames by their places, stay what they are.
    all.push(("geneve", PacketBuilder::tcp(client4, VIP4, flags::SYN).ports(40_000, 85).build()));
    all.push(("geneve", PacketBuilder::tcp(client6, VIP6, flags::SYN).ports(40_000, 85).build()));
    all
}
