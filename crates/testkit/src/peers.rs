//! Another machine of a cluster, who says anything: datagrams of state synchronisation through a real worker, and pieces through their
//! store.
//!
//! What is between machines is written here by the table in `statesync::datagram`, not by its writer.

use crate::bench::good_frames;
use crate::frames::{PacketBuilder, ROUTER_MAC};
use crate::outer::{locate, outer};
use siphasher::sip::SipHasher24;
use siphasher::sip128::{Hasher128 as _, SipHasher24 as SipHasher128};
use statesync::datagram::{ClusterKeys, HEADER_LEN, Piece};
use statesync::plan::Job;
use statesync::reassembly::Reassembly;
use statesync::spsc::{Receiver, channel};
use statesync::window::Windows;
use statesync::{MachineId, Member, Members, Origin, Owners, Question, plan::Report};
use std::collections::HashSet;
use std::hash::Hasher as _;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use wire::{Addr, BackendId, CoreId, PortId, ServiceId, Tick};
use worker::cluster::SyncSize;
use worker::io::memory::MemIo;
use worker::view::cluster::{Cluster, Endpoint, Link, SlotsView};
use worker::view::mailbox::{Publisher, mailbox};
use worker::view::slots::SlotMemory;
use worker::{Counters, RxMeta, Setup, Verdict, View, Worker};

/// Most records taken from one input.
const RECORDS_MAX: usize = 64;
/// Datagrams that can come again.
const KEPT_MAX: usize = 64;
const KEY: [u8; 16] = *b"between machines";
const UDP_PORT: u16 = 7480;
/// Where machines take messages; this one is the first.
const ADDRESSES: [&str; 3] = ["10.0.2.11", "10.0.2.12", "10.0.2.13"];
const OWN: Member = Member { machine: MachineId(0), incarnation: 1 };
/// Bytes that the header says something in.
const SAID: usize = 36;
const IDS_MAX: usize = 1024;

fn member(machine: u8) -> Member {
    Member { machine: MachineId(machine), incarnation: 1 }
}

fn address(machine: usize) -> Addr {
    let address: IpAddr = ADDRESSES[machine % ADDRESSES.len()].parse().expect("an address");
    Addr::from(address)
}

/// A header as a datagram begins with it.
#[derive(Clone, Copy, Debug)]
struct Said {
    kind: u8,
    machine: u8,
    core: u8,
    to: u8,
    incarnation: u32,
    to_incarnation: u32,
    epoch: u32,
    sent: u64,
    number: u64,
}

/// A datagram with this header and these bytes behind it, and both tags as they should be.
fn seal(said: &Said, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x47, 0x57, 2, said.kind, said.machine, said.core, said.to, 0];
    for number in [said.incarnation, said.to_incarnation, said.epoch] {
        bytes.extend(number.to_be_bytes());
    }
    bytes.extend(said.sent.to_be_bytes());
    bytes.extend(said.number.to_be_bytes());
    assert_eq!(bytes.len(), SAID);
    let mut header = SipHasher24::new_with_key(&KEY);
    header.write(&bytes);
    bytes.extend(header.finish().to_be_bytes());
    let mut whole = SipHasher128::new_with_key(&KEY);
    whole.write(&bytes);
    whole.write(body);
    bytes.extend(whole.finish128().as_bytes());
    bytes.extend(body);
    bytes
}

/// The bench's view as one of a member; the second backend of each service was alone before, and every other slot is tainted.
fn view(generation: u64, phase: u8, now: Tick) -> View {
    let config = crate::check::replay_config();
    let (mut view, ids) = control::compile::offline(config).expect("the bench's configuration compiles");
    let vip_of = |id: ServiceId| {
        let of = config.services.iter().find(|of| ids.service(&of.name) == Some(id)).expect("it has a name");
        (Addr::from(of.vip.addr), of.port, of.protocol.number())
    };
    view.generation = generation;
    let (two, three) = (Members::new([0, 1].map(member)), Members::new([0, 1, 2].map(member)));
    let owners = match phase % 4 {
        0 => Owners::settled(two),
        1 => Owners::changing(two, three, statesync::EpochPhase::Preparing),
        2 => Owners::changing(two, three, statesync::EpochPhase::Committed),
        _ => Owners::settled(three).without(Members::new([member(1)])),
    };
    let services = view.service.iter().map(|service| {
        let size = service.maglev.size();
        let base = service.members.last().copied();
        let taints = SlotMemory::new(size, (0..size).step_by(2).map(|slot| (slot, base)));
        SlotsView { vip: vip_of(service.id), taints: Arc::new(taints), always: service.id == ServiceId(1) }
    });
    view.cluster = Some(Arc::new(Cluster {
        own: OWN,
        ready: phase & 4 == 0,
        step: generation,
        epoch: 1 + u32::from(phase % 4),
        generation,
        owners,
        endpoint: Endpoint { address: address(0), udp_port: UDP_PORT, port: PortId(0) },
        links: (0..3).map(|of| Some(Link { address: address(of), mac: ROUTER_MAC })).collect(),
        keys: ClusterKeys { own: KEY, accepted: None },
        max_idle_us: 60_000_000,
        relays: (1_000, 100),
        services: services.collect(),
        job: Arc::new(Job { id: now.0, migrate: phase & 8 == 8, ..Job::default() }),
    }));
    view
}

/// A worker of the first machine.
struct Peers {
    worker: Worker<MemIo>,
    counters: Arc<Counters>,
    publisher: Publisher<View>,
    reports: Receiver<Report>,
    now: Tick,
    generation: u64,
    number: u64,
    /// What was sent to the worker, to come again.
    kept: Vec<Vec<u8>>,
    received: u64,
}

impl Peers {
    fn new() -> Peers {
        let now = Tick(1_000_000);
        let first = view(1, 0, now);
        let idle = flow::Idle {
            tcp_established_us: first.timeouts.tcp_established_us,
            tcp_closing_us: first.timeouts.tcp_closing_us,
            syn_us: first.timeouts.syn_us,
            udp_us: first.timeouts.udp_us,
        };
        let table = flow::Table::new(flow::Memory::heap(128), flow::Memory::heap(128), 7, idle, 50);
        let table = table.expect("a small table");
        let (mut publisher, inbox) = mailbox(4);
        let ports = first.ports.len();
        publisher.publish(Arc::new(first)).expect("an empty mailbox takes a view");
        let counters = Arc::new(Counters::new(IDS_MAX, IDS_MAX, ports));
        let peers = vec![table.reader()];
        let rings = statesync::mesh(1, 64).pop().expect("one worker");
        let (core, io) = (CoreId(0), MemIo::new(ports));
        let (core_counters, commands) = (Arc::clone(&counters), None);
        let mut worker =
            Worker::new(Setup { core, io, table, peers, rings, inbox, counters: core_counters, commands });
        let (sender, reports) = channel(8);
        let size = SyncSize { records: 64, unacknowledged: 64, asks: 16 };
        worker.attach_sync(size, 1, Arc::new(Windows::of(4, 4)), sender);
        let mut peers = Peers {
            worker,
            counters,
            publisher,
            reports,
            now,
            generation: 1,
            number: 1,
            kept: Vec::new(),
            received: 0,
        };
        peers.settle(None);
        peers
    }

    /// A frame, and as many turns as it takes. `again`: it was received before.
    fn receive(&mut self, frame: &[u8], again: bool) {
        self.received += 1;
        self.worker.io().push(PortId(0), frame, RxMeta::default());
        self.settle(again.then_some(()));
    }

    fn settle(&mut self, again: Option<()>) {
        for round in 0.. {
            assert!(round < 1000, "the worker does not come to rest");
            let received = self.worker.turn(self.now).received;
            assert_eq!(self.counters.imbalance(), 0, "conservation");
            let io = self.worker.io();
            for (_, outcome) in io.outcomes.drain(..) {
                // What left once by a peer's word, for a backend or another machine, does not leave again by the same word.
                let leaves = matches!(outcome.verdict, Verdict::Sent | Verdict::Relayed);
                assert!(again.is_none() || !leaves, "a datagram that came again: {outcome:?}");
            }
            for (_, _, bytes) in io.sent.drain(..) {
                outer(&bytes).unwrap_or_else(|e| panic!("broken frame sent: {e}"));
            }
            while self.reports.pop().is_some() {}
            if received == 0 {
                return;
            }
        }
    }

    /// From a machine's port to ours, as its core sends it.
    fn from(&self, machine: u8, payload: &[u8]) -> Vec<u8> {
        let source = ADDRESSES[usize::from(machine) % ADDRESSES.len()];
        let mut frame =
            PacketBuilder::udp(source, ADDRESSES[0]).ports(0xc000, UDP_PORT).payload(payload).build();
        // Most cards are not asked to check it, and machines do not: it is 0 on the way.
        let l4 = locate(&frame).map_or(0, |of| of.l4);
        frame[l4 + 6..l4 + 8].fill(0);
        frame
    }

    fn said(&mut self, kind: u8) -> Said {
        self.number += 1;
        Said {
            kind,
            machine: 1,
            core: 0,
            to: OWN.machine.0,
            incarnation: 1,
            to_incarnation: OWN.incarnation,
            epoch: 1,
            sent: self.now.0,
            number: self.number,
        }
    }

    fn datagram(&mut self, said: &Said, body: &[u8]) {
        // No longer than the port's MTU lets in.
        let body = &body[..body.len().min(1_400)];
        let frame = self.from(said.machine, &seal(said, body));
        if self.kept.len() < KEPT_MAX {
            self.kept.push(frame.clone());
        }
        self.receive(&frame, false);
    }

    fn step(&mut self, control: u8, body: &[u8]) {
        let first = body.first().copied().unwrap_or(0);
        match control & 7 {
            // As it is: who has no key.
            0 => {
                let frame = self.from(1, body);
                self.receive(&frame, false);
            }
            // Notes, and pieces, of who has it.
            kind @ (1 | 2) => {
                let said = self.said(kind);
                self.datagram(&said, body);
            }
            // A header that says something else, under tags as they should be.
            3 => {
                let [kind, machine, core, to, incarnation, epoch, ahead, back, rest @ ..] = body else {
                    return;
                };
                let mut said = self.said(*kind);
                said.machine = *machine;
                said.core = *core;
                said.to = *to;
                said.incarnation = u32::from(*incarnation);
                said.epoch = u32::from(*epoch);
                let jump = 1_u64.checked_shl(u32::from(*ahead)).unwrap_or(0);
                said.number = said.number.wrapping_add(jump);
                said.sent = said.sent.wrapping_add(1_u64.checked_shl(u32::from(*back)).unwrap_or(0));
                self.datagram(&said, rest);
            }
            // What was heard before, from any port.
            4 => {
                let Some(mut frame) = self.kept.get(usize::from(first)).cloned() else { return };
                if let (Ok(at), Some(port)) = (locate(&frame), body.get(1)) {
                    frame[at.l4 + 1] = *port;
                }
                self.receive(&frame, true);
            }
            // A client's packet.
            5 => {
                static GOOD: OnceLock<Vec<(&'static str, Vec<u8>)>> = OnceLock::new();
                let good = GOOD.get_or_init(good_frames);
                let frame = good[usize::from(first) % good.len()].1.clone();
                self.receive(&frame, false);
            }
            6 => {
                self.now = Tick(self.now.0 + u64::from(first) * 10_000);
                self.settle(None);
            }
            _ => {
                self.generation += 1;
                while self.publisher.collect().is_some() {}
                let next = view(self.generation, first, self.now);
                let _ = self.publisher.publish(Arc::new(next));
                self.settle(None);
            }
        }
    }

    /// Everything is accounted for.
    fn finish(mut self) {
        self.now = Tick(self.now.0 + 120_000_000);
        self.settle(None);
        self.worker.finish();
        self.settle(None);
        assert_eq!(self.worker.io().live(), 0, "frames leaked");
        assert_eq!(self.counters.totals.held.get(), 0, "frames still held");
        assert_eq!(self.counters.totals.rx.get(), self.received, "frames received");
    }
}

/// Whatever other machines of the cluster say, known ones and strangers: each frame ends once, nothing is lost, what is sent is well
/// formed, and no datagram makes a backend receive twice. Records of (control, length, body); see [`Peers::step`].
///
/// # Panics
/// It does not hold.
pub fn check_statesync(input: &[u8]) {
    check_worker(input, |_| {});
}

/// [`check_statesync`] of a worker that is prepared.
fn check_worker(mut input: &[u8], prepare: impl FnOnce(&mut Worker<MemIo>)) {
    let mut peers = Peers::new();
    prepare(&mut peers.worker);
    for _ in 0..RECORDS_MAX {
        let [control, low, high, rest @ ..] = input else { break };
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (body, rest) = rest.split_at(length);
        input = rest;
        peers.step(*control, body);
    }
    peers.finish();
}

/// What a byte of a frame is, by who sends the frame, its number and the place.
fn byte_of(core: u8, frame: u8, at: usize) -> u8 {
    let mixed =
        (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(core) << 9 ^ u64::from(frame) << 3;
    mixed.to_be_bytes()[0] ^ mixed.to_be_bytes()[3]
}

/// Pieces in any order, of any place and length, of several frames and senders at once: what comes out is one sender's frame, whole and as
/// it was. Records of eight bytes: sender and time, frame, offset (2), length of the piece (2) and of the frame (2).
///
/// # Panics
/// It does not hold.
pub fn check_pieces(input: &[u8]) {
    let mut store = Reassembly::new();
    let mut now = Tick(1);
    let question = Question { machine: MachineId(1), core: CoreId(2), asked_us: 3, hops: 1 };
    // Units of 64 bytes that came, by sender, frame and length of the frame: whole frames have all of theirs.
    let mut came: HashSet<(u8, u8, u16, usize)> = HashSet::new();
    for record in input.chunks_exact(8).take(512) {
        let [who, frame, o0, o1, l0, l1, t0, t1] = record else { return };
        let (core, total) = (who & 7, u16::from_le_bytes([*t0, *t1]));
        now = Tick(now.0 + u64::from(who >> 3) * 1_000);
        let offset = u16::from_le_bytes([*o0, *o1]);
        let length = usize::from(u16::from_le_bytes([*l0, *l1])).min(10_000);
        let bytes: Vec<u8> = (0..length).map(|at| byte_of(core, *frame, usize::from(offset) + at)).collect();
        let from = Origin { member: member(1), core: CoreId(core) };
        let piece = Piece { question, frame: u32::from(*frame), offset, total, bytes: &bytes };
        for unit in usize::from(offset) / 64..(usize::from(offset) + length).div_ceil(64) {
            came.insert((core, *frame, total, unit));
        }
        let Some((of, whole)) = store.add(from, &piece, now) else { continue };
        assert_eq!((of, whole.len()), (question, usize::from(total)));
        let right = whole.iter().enumerate().all(|(at, byte)| *byte == byte_of(core, *frame, at));
        assert!(right, "bytes of another frame");
        let all =
            (0..usize::from(total).div_ceil(64)).all(|unit| came.contains(&(core, *frame, total, unit)));
        assert!(all, "a frame of which parts never came");
    }
}

fn record(control: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("short");
    [&[control][..], &length.to_le_bytes(), body].concat()
}

/// A narrow key of a client of the bench's first service.
fn narrow_key() -> Vec<u8> {
    let client = u32::from_be_bytes([198, 51, 100, 7]);
    let wire::FlowKey::Narrow(key) = wire::FlowKey::narrow(client, 40_000, ServiceId(1)) else {
        panic!("a narrow key")
    };
    [&[0][..], &key.to_be_bytes()].concat()
}

/// Inputs for [`check_statesync`] to begin with, named for what they are.
pub fn statesync_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let key = narrow_key();
    let sequence = 9_u64.to_be_bytes();
    let backend = BackendId(1).0.to_be_bytes();
    let heartbeat = vec![1];
    let state = [&[2][..], &sequence, &key, &backend, &[0], &5_u64.to_be_bytes()].concat();
    let push = [&[3][..], &sequence, &key, &backend].concat();
    let acknowledge = [&[4][..], &sequence, &[0]].concat();
    let answer = [&[5][..], &key, &backend, &[1], &7_u64.to_be_bytes(), &[0]].concat();
    let piece_of = |offset: u16, total: u16, bytes: &[u8]| {
        let head = [&[1, 0][..], &7_u64.to_be_bytes(), &[1, 0], &3_u32.to_be_bytes()].concat();
        [&head, &offset.to_be_bytes()[..], &total.to_be_bytes(), bytes].concat()
    };
    let frames = good_frames();
    let frame = |name: &str| frames.iter().find(|(of, _)| *of == name).map(|(_, f)| f.clone());
    let small = frame("ipip").expect("a good frame");
    let large = frame("to_cut4").expect("a good frame");
    let total = u16::try_from(large.len()).expect("short");
    let (one, two) = large.split_at(1_024);
    let notes = |notes: &[&[u8]]| record(1, &notes.concat());
    let client = record(5, &[0]);
    let again = record(4, &[0, 3]);
    vec![
        ("heartbeat", notes(&[&heartbeat])),
        ("all_notes", notes(&[&heartbeat, &state, &push, &acknowledge, &answer])),
        ("notes_cut", notes(&[&state, &push[..7]])),
        ("state_then_client", [notes(&[&state]), client.clone()].concat()),
        ("client_then_push", [client.clone(), notes(&[&push]), client.clone()].concat()),
        ("client_then_answer", [client.clone(), notes(&[&answer]), client.clone()].concat()),
        ("piece_whole", record(2, &piece_of(0, u16::try_from(small.len()).expect("short"), &small))),
        ("pieces", [record(2, &piece_of(0, total, one)), record(2, &piece_of(1_024, total, two))].concat()),
        ("piece_of_nothing", record(2, &piece_of(0, 40, &[0; 40]))),
        ("piece_replayed", [record(2, &piece_of(0, 54, &small)), again.clone(), again.clone()].concat()),
        ("notes_replayed", [notes(&[&state, &push]), client.clone(), again].concat()),
        ("stranger", record(0, &[0x47; HEADER_LEN + 9])),
        ("forged", record(0, &[&[0x47, 0x57, 2, 1, 1, 0, 0, 0][..], &[0; HEADER_LEN]].concat())),
        ("other_machine", record(3, &[1, 63, 0, 0, 1, 1, 0, 0, 1])),
        ("unknown_core", record(3, &[1, 1, 255, 0, 1, 1, 0, 0, 1])),
        ("far_ahead", [record(3, &[1, 1, 0, 0, 1, 1, 63, 63, 1]), notes(&[&heartbeat])].concat()),
        ("later_incarnation", [record(3, &[1, 1, 0, 0, 9, 1, 0, 0, 1]), notes(&[&state])].concat()),
        (
            "members_change",
            [client.clone(), record(7, &[1]), client.clone(), record(7, &[10]), notes(&[&state])].concat(),
        ),
        ("not_ready", [record(7, &[4]), client.clone(), notes(&[&state])].concat()),
        ("silence", [client.clone(), record(6, &[255]), client].concat()),
    ]
}

/// Inputs for [`check_pieces`] to begin with, named for what they are.
pub fn pieces_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let piece = |who: u8, frame: u8, offset: u16, length: u16, total: u16| {
        [&[who, frame][..], &offset.to_le_bytes(), &length.to_le_bytes(), &total.to_le_bytes()].concat()
    };
    let many: Vec<u8> = (0..20).flat_map(|frame| piece(1, frame, 0, 64, 128)).collect();
    vec![
        ("whole", piece(1, 1, 0, 100, 100)),
        ("two", [piece(1, 1, 0, 128, 200), piece(1, 1, 128, 72, 200)].concat()),
        ("backwards", [piece(1, 1, 128, 72, 200), piece(1, 1, 0, 128, 200)].concat()),
        ("twice", [piece(1, 1, 0, 128, 200), piece(1, 1, 0, 128, 200), piece(1, 1, 128, 72, 200)].concat()),
        ("two_senders", [piece(1, 1, 0, 128, 200), piece(2, 1, 128, 72, 200)].concat()),
        ("not_aligned", [piece(1, 1, 1, 128, 200), piece(1, 1, 129, 71, 200)].concat()),
        ("beyond", piece(1, 1, 9_000, 1_000, 9_216)),
        (
            "late",
            [piece(1, 1, 0, 128, 200), piece(0xf9, 9, 0, 64, 65), piece(0xf9, 1, 128, 72, 200)].concat(),
        ),
        ("full", [many, piece(0xff, 99, 0, 64, 128), piece(7, 99, 64, 64, 128)].concat()),
    ]
}

#[cfg(test)]
mod tests {
    use super::{KEY, Said, check_pieces, check_statesync, pieces_seeds, seal, statesync_seeds};
    use proptest::prelude::{any, prop, proptest};

    #[test]
    fn seeds_play() {
        for (name, seed) in statesync_seeds() {
            println!("{name}");
            check_statesync(&seed);
        }
        for (name, seed) in pieces_seeds() {
            println!("{name}");
            check_pieces(&seed);
        }
    }

    /// Who takes a datagram twice is caught.
    #[cfg(feature = "negative-controls")]
    #[test]
    fn without_the_window_a_replayed_piece_leaves_again() {
        let (_, seed) =
            statesync_seeds().into_iter().find(|(name, _)| *name == "piece_replayed").expect("a seed");
        let broken = || super::check_worker(&seed, |worker| worker.break_rule(statesync::Rule::Window));
        assert!(std::panic::catch_unwind(broken).is_err());
    }

    /// The table in `statesync::datagram` is what it does.
    #[test]
    fn what_is_sealed_here_is_read_there() {
        let said = Said {
            kind: 1,
            machine: 5,
            core: 6,
            to: 7,
            incarnation: 8,
            to_incarnation: 9,
            epoch: 10,
            sent: 11,
            number: 12,
        };
        let (header, body) = statesync::datagram::read(&seal(&said, &[1]), &KEY)
            .map(|(header, body)| (header, matches!(body, statesync::datagram::Body::Notes(_))))
            .expect("sealed");
        assert!(body);
        assert_eq!((header.from.member.machine.0, header.from.core.0, header.to.machine.0), (5, 6, 7));
        assert_eq!((header.epoch, header.sent.0, header.number), (10, 11, 12));
    }

    proptest! {
        #[test]
        fn any_pieces_come_out_whole_or_not_at_all(
            pieces in prop::collection::vec((any::<u8>(), 0_u8..3, 0_u16..20, 1_u16..20, 1_u16..9_300), 0..60),
        ) {
            let input: Vec<u8> = pieces
                .into_iter()
                .flat_map(|(who, frame, offset, length, total)| {
                    let (offset, length) = (offset * 64, length * 64);
                    let length = length.min(total.saturating_sub(offset));
                    [&[who, frame][..], &offset.to_le_bytes(), &length.to_le_bytes(), &total.to_le_bytes()].concat()
                })
                .collect();
            check_pieces(&input);
        }
    }
}
