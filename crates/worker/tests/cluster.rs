//! Two machines of one worker each, whose messages are carried by hand.
#![expect(clippy::unwrap_used, reason = "a test")]

mod rig;

use flow::State;
use rig::{Rig, Spec, Tcp};
use statesync::datagram::{ClusterKeys, DatagramWriter, Header, Piece, write_piece};
use statesync::plan::{Job, Report};
use statesync::spsc::{Receiver, channel};
use statesync::window::Windows;
use statesync::{
    Lasting, MachineId, Member, Members, Note, Origin, Owners, Question, Sequence, Statement, Why,
};
use std::sync::Arc;
use wire::{Addr, BackendId, CoreId, FlowKey, PortId, ServiceId, Tick};
use worker::cluster::SyncSize;
use worker::commands::{CommandOutcome, CommandRefusal, FlowCommand, ServiceFlow, TrackedFlow};
use worker::view::cluster::{Cluster, Endpoint, Link, SlotsView};
use worker::view::slots::SlotMemory;
use worker::{DropReason, View};

const UDP_PORT: u16 = 7480;
const MAX_IDLE_US: u64 = 60_000_000;
const TAG_KEY: [u8; 16] = *b"between machines";

fn address(machine: u8, v6: bool) -> Addr {
    if v6 {
        Addr::V6(0xfd00 << 112 | u128::from(machine))
    } else {
        Addr::V4(0x0a00_0300 | u32::from(machine))
    }
}

struct Options {
    v6: bool,
    ready: bool,
    relays: (u64, u64),
}

/// A web service of two backends, of which all flows were with the first before, and all slots are tainted.
fn view(machine: u8, options: &Options) -> View {
    let mut view = rig::view(1, &[Spec::web(2)]);
    let members = Members::new([0, 1].map(|m| Member { machine: MachineId(m), incarnation: 1 }));
    let size = view.service[0].maglev.size();
    let taints = SlotMemory::new(size, (0..size).map(|slot| (slot, Some(BackendId(0)))));
    let link = |machine| Some(Link { address: address(machine, options.v6), mac: rig::PORT_MAC });
    view.cluster = Some(Arc::new(Cluster {
        own: Member { machine: MachineId(machine), incarnation: 1 },
        ready: options.ready,
        step: 1,
        epoch: 1,
        generation: 1,
        owners: Owners::settled(members),
        endpoint: Endpoint { address: address(machine, options.v6), udp_port: UDP_PORT, port: PortId(0) },
        links: vec![link(0), link(1)],
        keys: ClusterKeys { own: TAG_KEY, accepted: None },
        max_idle_us: MAX_IDLE_US,
        relays: options.relays,
        services: vec![SlotsView {
            vip: (Addr::from(std::net::IpAddr::from(rig::VIP)), 80, 6),
            taints: Arc::new(taints),
            always: false,
        }],
        job: Arc::new(Job::default()),
    }));
    view
}

fn windows() -> Arc<Windows> {
    Arc::new(Windows::of(4, 4))
}

struct Pair {
    rigs: [Rig; 2],
    reports: Vec<Receiver<Report>>,
}

/// Whether a frame is a message to the other machine.
fn is_message(frame: &[u8]) -> bool {
    let (protocol, udp) = if frame[12] == 0x86 { (frame[20], 54) } else { (frame[23], 34) };
    protocol == rig::UDP && frame[udp + 2..udp + 4] == UDP_PORT.to_be_bytes()
}

impl Pair {
    fn new(options: &Options) -> Pair {
        let mut reports = Vec::new();
        let rigs = [0, 1].map(|machine| {
            let mut rig = Rig::new(1, view(machine, options));
            let (sender, receiver) = channel(8);
            rig.workers[0].attach_sync(
                SyncSize { records: 64, unacknowledged: 512, asks: 16 },
                1,
                windows(),
                sender,
            );
            reports.push(receiver);
            rig
        });
        let mut pair = Pair { rigs, reports };
        pair.settle([Vec::new(), Vec::new()]);
        pair
    }

    /// Carries messages between the two until none is left; gives what went to backends, by machine.
    fn settle(&mut self, mut sent: [Vec<Vec<u8>>; 2]) -> [Vec<Vec<u8>>; 2] {
        let mut out = [Vec::new(), Vec::new()];
        for _ in 0..20 {
            for machine in 0..2 {
                for frame in std::mem::take(&mut sent[machine]) {
                    if is_message(&frame) {
                        assert!(frame.len() <= 1514, "within the MTU: {}", frame.len());
                        let (more, _) = self.rigs[1 - machine].put(0, &frame);
                        sent[1 - machine].extend(more);
                    } else {
                        out[machine].push(frame);
                    }
                }
                let (more, _) = self.rigs[machine].run();
                sent[machine].extend(more);
                // Some notes wait for company.
                self.rigs[machine].now.0 += 100;
            }
        }
        out
    }

    fn put(&mut self, machine: usize, frame: &[u8]) -> [Vec<Vec<u8>>; 2] {
        let mut sent = [Vec::new(), Vec::new()];
        sent[machine] = self.rigs[machine].put(0, frame).0;
        self.settle(sent)
    }

    fn knows(&self, machine: usize, sport: u16) -> (Option<BackendId>, Option<(BackendId, bool)>) {
        let rig = &self.rigs[machine];
        rig.workers[0].knowledge(&key(sport), rig.now)
    }
}

fn key(sport: u16) -> FlowKey {
    FlowKey::narrow(u32::from_be_bytes(rig::CLIENT), sport, ServiceId(1))
}

/// A port whose flow is owned by this machine, and whose slot's answer is the second backend.
fn port_owned_by(machine: u8) -> u16 {
    let view = view(0, &Options { v6: false, ready: true, relays: (1, 1) });
    let cluster = view.cluster.as_ref().unwrap();
    (1024..)
        .find(|&sport| {
            let flow = worker::cluster::flow_of(&key(sport), cluster.services[0].vip);
            let slot = worker::decide::slots::slot(&view, &view.service[0], &flow);
            let owners = cluster.owners.asked(ServiceId(1), slot);
            owners.primary == Some(MachineId(machine)) && view.service[0].maglev.at(slot) == Some(1)
        })
        .unwrap()
}

fn all() -> Options {
    Options { v6: false, ready: true, relays: (1_000, 100) }
}

#[test]
fn who_does_not_own_a_flow_asks_and_remembers_the_answer() {
    for v6 in [false, true] {
        for payload in [0, 1_400] {
            let mut pair = Pair::new(&Options { v6, ..all() });
            // With two machines each is primary or backup of every slot: a miss at the backup goes on to the primary.
            let sport = port_owned_by(1);
            let frame = rig::tcp(sport, 80, Tcp::Ack, payload);
            let [none, by_owner] = pair.put(0, &frame);
            assert!(none.is_empty());
            assert_eq!(by_owner.len(), 1, "the owner sends it on: v6 {v6} payload {payload}");
            assert_eq!(by_owner[0][14 + 20..], frame[14..], "as it was, behind the tunnel's header");
            assert_eq!(by_owner[0][30..34], [10, 0, 2, 21], "a flow in the middle is from before the taint");
            let base = BackendId(0);
            assert_eq!(
                pair.knows(0, sport),
                (Some(base), Some((base, true))),
                "the backup is told, and caches"
            );
            assert_eq!(pair.knows(1, sport).1, Some((base, true)));
            let [direct, none] = pair.put(0, &frame);
            assert_eq!((direct.len(), none.len()), (1, 0), "the next packet goes direct");
            let totals = &pair.rigs[0].counters[0].totals;
            assert_eq!(totals.relayed.get(), 1);
            assert_eq!(pair.rigs[0].workers[0].unacknowledged().count(), 0);
            assert_eq!(pair.rigs[1].workers[0].unacknowledged().count(), 0);
        }
    }
}

#[test]
fn a_flow_that_begins_is_with_the_table_and_stays_although_its_syn_comes_again() {
    let mut pair = Pair::new(&all());
    for machine in [0, 1] {
        let sport = port_owned_by(machine);
        let cur = BackendId(1);
        let owner = usize::from(machine);
        let by = pair.put(1 - owner, &rig::tcp(sport, 80, Tcp::Syn, 0));
        assert_eq!(by[owner].len(), 1);
        assert_eq!(by[owner][0][30..34], [10, 0, 2, 22]);
        assert_eq!(pair.knows(0, sport).1, Some((cur, false)));
        assert_eq!(pair.knows(1, sport).1, Some((cur, false)));
        // Another packet of it, and its SYN, by the other machine: the record decides.
        for kind in [Tcp::Ack, Tcp::Syn] {
            let by = pair.put(owner, &rig::tcp(sport, 80, kind, 0));
            let sent: Vec<_> = by.iter().flatten().collect();
            assert_eq!(sent.len(), 1);
            assert_eq!(sent[0][30..34], [10, 0, 2, 22]);
        }
    }
}

/// Asks a machine's worker what control asks.
fn ask(rig: &mut Rig, command: FlowCommand) -> CommandOutcome {
    rig.commanders[0].send(command, rig.now).unwrap();
    rig.workers[0].turn(rig.now);
    rig.commanders[0].collect().unwrap().outcome
}

#[test]
fn commands_of_control_say_nothing_against_owners() {
    let mut pair = Pair::new(&all());
    let sport = port_owned_by(1);
    let vip = (Addr::from(std::net::IpAddr::from(rig::VIP)), 80, 6);
    let of = ServiceFlow { service: ServiceId(1), flow: worker::cluster::flow_of(&key(sport), vip) };
    let (base, cur) = (BackendId(0), BackendId(1));
    let entry = TrackedFlow { backend: cur, state: State::TcpEstablished, idle_us: 0 };
    let why = ask(&mut pair.rigs[0], FlowCommand::Restore(of, entry));
    assert_eq!(why, CommandOutcome::Refused(CommandRefusal::OwnerDecides));

    pair.put(0, &rig::tcp(sport, 80, Tcp::Ack, 0));
    for rig in &mut pair.rigs {
        let CommandOutcome::Described(known) = ask(rig, FlowCommand::Describe(of)) else { unreachable!() };
        assert_eq!((known.slot_backend, known.base, known.is_tainted), (Some(cur), Some(base), true));
        let record = known.record.map(|record| (record.backend, record.is_guess));
        assert_eq!(record, Some((base, true)), "the owner and its backup");
    }
    // What is forgotten here is remembered by the owner.
    let gone = ask(&mut pair.rigs[0], FlowCommand::Forget(of));
    assert!(matches!(gone, CommandOutcome::Forgotten(Some(TrackedFlow { backend, .. })) if backend == base));
    assert_eq!(pair.knows(0, sport), (None, Some((base, true))));
    pair.put(0, &rig::tcp(sport, 80, Tcp::Ack, 0));
    assert_eq!(pair.knows(0, sport), (Some(base), Some((base, true))));

    // In a slot that is not tainted, where no machine asks another, the slot says it.
    let mut view = view(0, &all());
    Arc::get_mut(view.cluster.as_mut().unwrap()).unwrap().services[0].taints = Arc::default();
    let mut rig = Rig::new(1, view);
    for (backend, expected) in
        [(base, CommandOutcome::Refused(CommandRefusal::SlotDecides)), (cur, CommandOutcome::Restored)]
    {
        assert_eq!(ask(&mut rig, FlowCommand::Restore(of, TrackedFlow { backend, ..entry })), expected);
    }
}

#[test]
fn a_changed_message_is_refused_and_changes_nothing() {
    let mut pair = Pair::new(&all());
    let sport = port_owned_by(1);
    let (sent, _) = pair.rigs[0].put(0, &rig::tcp(sport, 80, Tcp::Ack, 0));
    let message = sent.iter().find(|frame| is_message(frame)).unwrap();
    for at in [14 + 28 + 3, 14 + 28 + 9, 14 + 28 + 40, 14 + 28 + 50, message.len() - 1] {
        let mut changed = message.clone();
        changed[at] ^= 1;
        let (none, outcomes) = pair.rigs[1].put(0, &changed);
        assert!(none.iter().all(|frame| is_message(frame)), "nothing goes to a backend");
        rig::dropped(&outcomes, DropReason::PeerRefused);
    }
    assert_eq!(pair.knows(1, sport), (None, None));
    let (sent, _) = pair.rigs[1].put(0, message);
    assert!(sent.iter().any(|frame| !is_message(frame)), "as it was it is taken");
}

#[test]
fn before_it_has_joined_a_machine_drops() {
    let mut pair = Pair::new(&Options { ready: false, ..all() });
    let sport = port_owned_by(0);
    let (sent, outcomes) = pair.rigs[0].put(0, &rig::tcp(sport, 80, Tcp::Syn, 0));
    assert!(sent.iter().all(|frame| is_message(frame)));
    rig::dropped(&outcomes, DropReason::NotReady);
    assert_eq!(pair.knows(0, sport), (None, None));
}

#[test]
fn a_flood_of_strangers_asks_no_more_than_the_bucket_gives() {
    let mut pair = Pair::new(&Options { relays: (10, 20), ..all() });
    let mut relayed = 0;
    for sport in 2_000..4_000 {
        let (_, outcomes) = pair.rigs[0].put(0, &rig::tcp(sport, 80, Tcp::Ack, 0));
        relayed += outcomes.iter().filter(|(_, outcome)| outcome.verdict == worker::Verdict::Relayed).count();
    }
    assert!(relayed <= 20, "{relayed}");
    assert!(pair.rigs[0].drops(DropReason::RelayLimit) > 500);
    let records = pair.rigs[0].counters[0].sync.records.get();
    assert!(records <= 60, "nor does it fill the records: {records}");
    assert!(pair.rigs[0].drops(DropReason::RecordLimit) > 500, "what has no record is not let through");
}

/// What was seen of a removed backend is no reason against a guess that came after it: both owners must know the same.
#[test]
fn records_of_a_removed_backend_stand_against_nothing() {
    let mut pair = Pair::new(&all());
    let (removed, base) = (BackendId(1), BackendId(0));
    for owner in [0, 1] {
        let sport = port_owned_by(owner);
        pair.put(0, &rig::tcp(sport, 80, Tcp::Syn, 0));
        assert_eq!([0, 1].map(|machine| pair.knows(machine, sport).1), [Some((removed, false)); 2]);
    }
    for machine in [0, 1] {
        let mut view = view(machine, &all());
        view.generation = 2;
        view.backends[removed.index()] = None;
        pair.rigs[usize::from(machine)].publish(view);
    }
    for owner in [0, 1] {
        let sport = port_owned_by(owner);
        pair.put(0, &rig::tcp(sport, 80, Tcp::Ack, 0));
        assert_eq!([0, 1].map(|machine| pair.knows(machine, sport).1), [Some((base, true)); 2]);
    }
}

/// Both owners of a flow keep silent, but maybe only one of them is dead: each is asked before the asker decides.
#[test]
fn silent_owners_are_asked_before_somebody_guesses() {
    let sport = port_owned_by(1);
    let frame = rig::tcp(sport, 80, Tcp::Ack, 0);
    // Machine 2 owns nothing, and hears of nobody.
    let mut asker = view(2, &all());
    let cluster = Arc::get_mut(asker.cluster.as_mut().unwrap()).unwrap();
    cluster.links.push(cluster.links[0]);
    let mut rig = Rig::new(1, asker);
    let (sender, _reports) = channel(8);
    let size = SyncSize { records: 64, unacknowledged: 512, asks: 16 };
    rig.workers[0].attach_sync(size, 1, windows(), sender);
    rig.run();
    rig.now.0 += 1_000_000;
    rig.run();
    assert_eq!(rig.workers[0].suspects().len(), 2);
    for _ in 0..3 {
        let (_, outcomes) = rig.put(0, &frame);
        assert!(outcomes.iter().any(|(_, outcome)| outcome.verdict == worker::Verdict::Relayed));
        rig.now.0 += 30_000;
    }
    let (sent, _) = rig.put(0, &frame);
    assert!(sent.iter().any(|frame| !is_message(frame)), "then it decides");
    assert_eq!(rig.counters[0].sync.local_guesses.get(), 1);
}

#[test]
fn a_step_is_reported_once() {
    let mut pair = Pair::new(&all());
    for reports in &mut pair.reports {
        assert_eq!(reports.pop(), Some(Report::Done { step: 1, incomplete: false }));
        assert_eq!(reports.pop(), None);
    }
}

const PORT_OF_PEER: usize = 14 + 20;
const PAYLOAD: usize = PORT_OF_PEER + 8;

/// A datagram of machine 0 to machine 1, of some notes.
fn said(number: u64, sent: Tick, core: u8, notes: &[Note]) -> Vec<u8> {
    frame_of(&header(number, sent, core), |payload, header| {
        let mut writer = DatagramWriter::notes(payload, header).unwrap();
        assert!(notes.iter().all(|note| writer.note(note)));
        writer.finish(&TAG_KEY)
    })
}

fn header(number: u64, sent: Tick, core: u8) -> Header {
    Header {
        from: Origin { member: Member { machine: MachineId(0), incarnation: 1 }, core: CoreId(core) },
        to: Member { machine: MachineId(1), incarnation: 1 },
        epoch: 1,
        sent,
        number,
    }
}

fn frame_of(header: &Header, write: impl FnOnce(&mut [u8], &Header) -> usize) -> Vec<u8> {
    let mut payload = [0; 1_400];
    let (len, core) = (write(&mut payload, header), header.from.core.0);
    let mut frame = [rig::PORT_MAC, rig::PORT_MAC].concat();
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(u16::try_from(28 + len).unwrap().to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, rig::UDP, 0, 0, 10, 0, 3, 0, 10, 0, 3, 1]);
    let sum = wire::checksum::checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame.extend([0xc0, core]);
    frame.extend(UDP_PORT.to_be_bytes());
    frame.extend(u16::try_from(8 + len).unwrap().to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(&payload[..len]);
    frame
}

fn push(sport: u16, backend: u32) -> Note {
    let push = Lasting::Push { key: key(sport), backend: BackendId(backend) };
    Note::Lasting(Sequence(1 << 20), push)
}

/// A relayed frame leaves for its backend once, however often and from whatever port its pieces come again.
#[test]
fn a_piece_that_comes_again_is_dropped_and_no_copy_leaves() {
    for payload in [0, 1_400] {
        let mut pair = Pair::new(&all());
        let (sent, _) = pair.rigs[0].put(0, &rig::tcp(port_owned_by(1), 80, Tcp::Ack, payload));
        let messages: Vec<Vec<u8>> = sent.into_iter().filter(|frame| is_message(frame)).collect();
        let mut copies = 0;
        for message in &messages {
            let (out, _) = pair.rigs[1].put(0, message);
            copies += out.iter().filter(|frame| !is_message(frame)).count();
        }
        assert_eq!(copies, 1);
        for again in 0..1_000_u16 {
            for message in &messages {
                let mut message = message.clone();
                message[PORT_OF_PEER..PORT_OF_PEER + 2].copy_from_slice(&(0xc000 ^ again).to_be_bytes());
                let (out, outcomes) = pair.rigs[1].put(0, &message);
                assert!(out.iter().all(|frame| is_message(frame)), "no copy leaves");
                rig::dropped(&outcomes, DropReason::PeerReplayed);
            }
            pair.rigs[1].now.0 += 1_000;
        }
        assert_eq!(pair.rigs[1].drops(DropReason::PeerReplayed), 1_000 * messages.len() as u64);
    }
}

/// A correction of a flow that is over says nothing of the next one between the same ports.
#[test]
fn a_push_that_comes_again_corrects_nothing() {
    let mut pair = Pair::new(&all());
    let sport = port_owned_by(1);
    pair.put(1, &rig::tcp(sport, 80, Tcp::Ack, 0));
    assert_eq!(pair.knows(1, sport).0, Some(BackendId(0)));
    let now = pair.rigs[1].now;
    let (old, lost, new) = (
        said(100, now, 0, &[push(sport, 1)]),
        // Its sender's other core has said nothing since; the network lost it, and a listener has it.
        said(7, now, 1, &[push(sport, 1)]),
        said(101, Tick(now.0 + 500_000), 0, &[push(sport, 0)]),
    );
    pair.rigs[1].put(0, &old);
    assert_eq!(pair.knows(1, sport).0, Some(BackendId(1)));
    pair.rigs[1].now.0 += 500_000;
    pair.rigs[1].put(0, &new);
    assert_eq!(pair.knows(1, sport).0, Some(BackendId(0)));
    for again in [&old, &lost, &new] {
        let (_, outcomes) = pair.rigs[1].put(0, again);
        rig::dropped(&outcomes, DropReason::PeerReplayed);
    }
    assert_eq!(pair.knows(1, sport).0, Some(BackendId(0)));
}

/// What one worker has taken no other takes: the sender of a copy chooses the queue.
#[test]
fn workers_of_a_machine_share_what_was_taken() {
    let mut rig = Rig::new(2, view(1, &all()));
    let windows = windows();
    let mut reports = Vec::new();
    for worker in &mut rig.workers {
        let (sender, receiver) = channel(8);
        let size = SyncSize { records: 64, unacknowledged: 512, asks: 16 };
        worker.attach_sync(size, 1, Arc::clone(&windows), sender);
        reports.push(receiver);
    }
    rig.run();
    let heartbeat = said(1, rig.now, 0, &[Note::Heartbeat]);
    rig::dropped(&rig.put(1, &heartbeat).1, DropReason::PeerMessage);
    for core in [0, 1, 0] {
        rig::dropped(&rig.put(core, &heartbeat).1, DropReason::PeerReplayed);
    }
}

#[test]
fn a_dead_machine_is_suspect_whoever_repeats_its_heartbeats() {
    let mut pair = Pair::new(&all());
    let start = pair.rigs[1].now;
    let heartbeats: Vec<Vec<u8>> =
        (0..50).map(|n| said(1_000 + n, Tick(start.0 + n * 1_000), 0, &[Note::Heartbeat])).collect();
    for heartbeat in &heartbeats {
        pair.rigs[1].put(0, heartbeat);
    }
    for again in 0..40 {
        pair.rigs[1].now.0 += 20_000;
        pair.rigs[1].put(0, &heartbeats[again % heartbeats.len()]);
    }
    assert!(pair.rigs[1].workers[0].suspects().contains(MachineId(0)));
    // The real one speaks again.
    pair.rigs[1].put(0, &said(2_000, Tick(start.0 + 900_000), 0, &[Note::Heartbeat]));
    assert!(pair.rigs[1].workers[0].suspects().is_empty());
}

/// Who has captured a header that did not arrive can put anything behind it. From some number on he is believed once a header, and the
/// machine that he speaks for is heard as ever.
#[test]
fn headers_that_were_captured_cost_a_bounded_number_of_tags_and_silence_nobody() {
    let mut pair = Pair::new(&all());
    let now = pair.rigs[1].now;
    let mut refused = 0;
    for number in 300..310 {
        let mut changed = said(number, now, 0, &[Note::Heartbeat]);
        *changed.last_mut().unwrap() = 9;
        for _ in 0..100 {
            let before = pair.rigs[1].drops(DropReason::PeerRefused);
            pair.rigs[1].put(0, &changed);
            refused += pair.rigs[1].drops(DropReason::PeerRefused) - before;
        }
    }
    assert!(refused <= 100 + 10, "{refused} tags were computed for 1,000 datagrams");
    for number in 310..330 {
        let (_, outcomes) = pair.rigs[1].put(0, &said(number, now, 0, &[Note::Heartbeat]));
        rig::dropped(&outcomes, DropReason::PeerMessage);
    }
}

/// What becomes of a frame that machine 0 relays to machine 1, which owns its slot as the second, after so many machines: whether it is
/// relayed once more, and what was dropped.
fn relayed_after(hops: u8, prepare: impl FnOnce(&mut Rig)) -> (bool, u64) {
    let mut pair = Pair::new(&all());
    prepare(&mut pair.rigs[1]);
    let inner = rig::tcp(port_owned_by(0), 80, Tcp::Ack, 0);
    let (now, total) = (pair.rigs[1].now, u16::try_from(inner.len()).unwrap());
    let question = Question { machine: MachineId(0), core: CoreId(0), asked_us: now.0, hops };
    let piece = Piece { question, frame: 7, offset: 0, total, bytes: &inner };
    let message = frame_of(&header(500, now, 0), |payload, header| {
        write_piece(payload, header, &piece, &TAG_KEY).unwrap()
    });
    let (sent, _) = pair.rigs[1].put(0, &message);
    assert!(sent.iter().all(|frame| is_message(frame)), "who is not asked does not decide");
    let is_relay = |frame: &&Vec<u8>| frame[PAYLOAD + 3] == 2;
    (sent.iter().any(|frame| is_relay(&frame)), pair.rigs[1].drops(DropReason::RelayLimit))
}

#[test]
fn a_relayed_frame_passes_two_machines_at_most() {
    assert_eq!(relayed_after(1, |_| {}), (true, 0));
    assert_eq!(relayed_after(2, |_| {}), (false, 1));
}

#[cfg(feature = "negative-controls")]
#[test]
fn without_the_limit_of_hops_a_frame_goes_on() {
    let breaks = |rig: &mut Rig| rig.workers[0].break_rule(statesync::Rule::HopLimit);
    assert_eq!(relayed_after(2, breaks), (true, 0));
}

/// The keys of a view are those of the next datagram: each machine is given both keys before any uses the new one.
#[test]
fn a_new_key_is_honoured_from_the_next_view_on() {
    let mut pair = Pair::new(&all());
    let new = *b"a key after that";
    let steps = [
        ClusterKeys { own: TAG_KEY, accepted: Some(new) },
        ClusterKeys { own: new, accepted: Some(TAG_KEY) },
        ClusterKeys { own: new, accepted: None },
    ];
    for (generation, (keys, machine)) in
        (2..).zip(steps.into_iter().flat_map(|keys| [0, 1].map(|machine| (keys, machine))))
    {
        let mut view = view(machine, &all());
        view.generation = generation;
        Arc::get_mut(view.cluster.as_mut().unwrap()).unwrap().keys = keys;
        pair.rigs[usize::from(machine)].publish(view);
        for rig in &mut pair.rigs {
            rig.now.0 += 200_000;
        }
        pair.settle([Vec::new(), Vec::new()]);
    }
    assert_eq!([0, 1].map(|machine: usize| pair.rigs[machine].drops(DropReason::PeerRefused)), [0, 0]);
    let old = said(9_000, pair.rigs[1].now, 0, &[Note::Heartbeat]);
    rig::dropped(&pair.rigs[1].put(0, &old).1, DropReason::PeerRefused);
}

/// What the second machine keeps of a flow of which the first said one backend, then the other, and of whose first message a copy
/// comes last.
fn kept_after_a_late_copy(prepare: impl FnOnce(&mut Rig)) -> Option<(BackendId, bool)> {
    let mut pair = Pair::new(&all());
    prepare(&mut pair.rigs[1]);
    let sport = port_owned_by(1);
    for (number, (backend, sequence)) in
        (1..).zip([(BackendId(1), 10), (BackendId(0), 11), (BackendId(1), 10)])
    {
        pair.rigs[1].now.0 += 1_000;
        let statement = Statement { key: key(sport), backend, guess: false, age_us: 0, why: Why::Refresh };
        let note = Note::Lasting(Sequence(sequence), Lasting::State(statement));
        // In a datagram of its own each time, as what is not acknowledged is sent again.
        let datagram = said(number, pair.rigs[1].now, 0, &[note]);
        pair.rigs[1].put(0, &datagram);
    }
    pair.knows(1, sport).1
}

#[test]
fn what_a_machine_said_before_is_old_however_late_it_arrives() {
    assert_eq!(kept_after_a_late_copy(|_| {}), Some((BackendId(0), false)));
}

#[cfg(feature = "negative-controls")]
#[test]
fn without_the_numbers_of_notes_a_late_copy_moves_the_flow() {
    let breaks = |rig: &mut Rig| rig.workers[0].break_rule(statesync::Rule::Sequence);
    assert_eq!(kept_after_a_late_copy(breaks), Some((BackendId(1), false)));
}
