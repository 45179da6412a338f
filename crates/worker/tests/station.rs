//! Two machines of one worker each, whose messages are carried by hand.
#![expect(clippy::unwrap_used, reason = "a test")]

mod rig;

use rig::{Rig, Spec, Tcp};
use statesync::datagram::{Header, Writer};
use statesync::plan::{Job, Report};
use statesync::spsc::{Receiver, channel};
use statesync::{Lasting, MachineId, Member, Members, Note, Origin, Owners, Sequence, Statement, Why};
use std::sync::Arc;
use wire::{Addr, BackendId, CoreId, FlowKey, PortId, ServiceId};
use worker::cluster::{Cluster, Endpoint, Link, SlotsView};
use worker::slots::SlotMemory;
use worker::station::StationSize;
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
        key: TAG_KEY,
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
            rig.workers[0].attach_station(
                StationSize { records: 64, unacknowledged: 512, asks: 16 },
                1,
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
            let flow = worker::station::flow_of(&key(sport), cluster.services[0].vip);
            let slot = worker::steering::slot(&view, &view.service[0], &flow);
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

#[test]
fn a_changed_message_is_refused_and_changes_nothing() {
    let mut pair = Pair::new(&all());
    let sport = port_owned_by(1);
    let (sent, _) = pair.rigs[0].put(0, &rig::tcp(sport, 80, Tcp::Ack, 0));
    let message = sent.iter().find(|frame| is_message(frame)).unwrap();
    for at in [14 + 28 + 3, 14 + 28 + 9, 14 + 28 + 40, message.len() - 1] {
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
    let records = pair.rigs[0].counters[0].station.records.get();
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
    rig.workers[0].attach_station(StationSize { records: 64, unacknowledged: 512, asks: 16 }, 1, sender);
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
    assert_eq!(rig.counters[0].station.local_guesses.get(), 1);
}

#[test]
fn a_step_is_reported_once() {
    let mut pair = Pair::new(&all());
    for reports in &mut pair.reports {
        assert_eq!(reports.pop(), Some(Report::Done { step: 1, incomplete: false }));
        assert_eq!(reports.pop(), None);
    }
}

/// A frame in which the first machine tells the second one of a flow's backend.
fn said(sport: u16, backend: BackendId, sequence: u64) -> Vec<u8> {
    let member = |machine| Member { machine: MachineId(machine), incarnation: 1 };
    let from = Origin { member: member(0), core: CoreId(0) };
    let header = Header { from, to: member(1), epoch: 1, generation: 1, number: sequence };
    let statement = Statement { key: key(sport), backend, guess: false, age_us: 0, why: Why::Refresh };
    let mut payload = [0; 512];
    let mut writer = Writer::notes(&mut payload, &header).unwrap();
    assert!(writer.note(&Note::Lasting(Sequence(sequence), Lasting::State(statement))));
    let len = writer.finish(&TAG_KEY);
    let mut frame = Vec::new();
    let builder = etherparse::PacketBuilder::ethernet2(rig::PORT_MAC, rig::PORT_MAC);
    let builder = builder.ipv4([10, 0, 3, 0], [10, 0, 3, 1], 64).udp(49_152, UDP_PORT);
    builder.write(&mut frame, &payload[..len]).unwrap();
    frame
}

/// What the second machine keeps of a flow of which the first said one backend, then the other, and of whose first message a copy
/// comes last.
fn kept_after_a_late_copy(prepare: impl FnOnce(&mut Rig)) -> Option<(BackendId, bool)> {
    let mut pair = Pair::new(&all());
    prepare(&mut pair.rigs[1]);
    let sport = port_owned_by(1);
    for (backend, sequence) in [(BackendId(1), 10), (BackendId(0), 11), (BackendId(1), 10)] {
        pair.rigs[1].now.0 += 1_000;
        pair.rigs[1].put(0, &said(sport, backend, sequence));
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
