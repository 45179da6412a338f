//! A service with `state = "exceptions"`: flows keep their backend through changes of the table although most of them are
//! never tracked; and what can move one.

mod rig;

use rig::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use wire::BackendId;
use worker::View;
use worker::view::slots::SlotMemory;
use worker::view::{BackendState, OnDown};

const SLOTS: u32 = 251;

/// Whether a backend is there, and takes flows.
#[derive(Clone, Copy, PartialEq)]
enum Is {
    Up,
    Down,
    Drain,
    /// Not in the view.
    Gone,
}
use Is::{Down, Drain, Gone, Up};

/// Two services (TCP with a memory, UDP without) and a plain keeper of the memory: whatever answer a slot had when it
/// was first changed is its base.
struct World {
    rig: Rig,
    generation: u64,
    on_down: OnDown,
    cur: Vec<Option<BackendId>>,
    bases: BTreeMap<u32, Option<BackendId>>,
}

fn answers(view: &View) -> Vec<Option<BackendId>> {
    let service = &view.service[0];
    (0..SLOTS)
        .map(|slot| service.maglev.at(slot).map(|member| service.members[usize::from(member)]))
        .collect()
}

fn bare_view(generation: u64, backends: &[Is], on_down: OnDown) -> View {
    let states = backends.iter().map(|is| match is {
        Up => BackendState::Up,
        Down | Gone => BackendState::Down,
        Drain => BackendState::Draining,
    });
    let web = Spec { states: states.collect(), on_down, ..Spec::web(0) };
    let names = Spec { port: 53, protocol: UDP, states: web.states.clone(), on_down, ..Spec::web(0) };
    let mut view = view(generation, &[web, names]);
    let gone = backends.iter().chain(backends).map(|is| *is == Gone);
    for (backend, _) in view.backends.iter_mut().zip(gone).filter(|(_, gone)| *gone) {
        *backend = None;
    }
    view
}

impl World {
    fn new(cores: usize, backends: &[Is], on_down: OnDown) -> World {
        let mut view = bare_view(1, backends, on_down);
        let cur = answers(&view);
        view.service[0].memory = Some(Arc::default());
        World { rig: Rig::new(cores, view), generation: 1, on_down, cur, bases: BTreeMap::new() }
    }

    fn change(&mut self, backends: &[Is]) {
        self.generation += 1;
        self.rig.advance_ms(50);
        let mut view = bare_view(self.generation, backends, self.on_down);
        let new = answers(&view);
        for (slot, (was, is)) in (0..).zip(self.cur.iter().zip(&new)) {
            if was != is {
                self.bases.entry(slot).or_insert(*was);
            }
        }
        self.cur = new;
        let memory = SlotMemory::new(SLOTS, self.bases.iter().map(|(slot, base)| (*slot, *base)));
        view.service[0].memory = Some(Arc::new(memory));
        for publisher in &mut self.rig.publishers {
            while publisher.collect().is_some() {}
        }
        self.rig.publish(view);
    }

    /// A packet of a flow, by the worker that a NIC would choose.
    fn packet(&mut self, sport: u16, kind: Tcp) -> BackendId {
        let core = usize::from(sport) % self.rig.workers.len();
        backend_of(&self.rig.put(core, &tcp(sport, 80, kind, 0)).1)
    }

    fn datagram(&mut self, sport: u16) -> BackendId {
        let core = usize::from(sport) % self.rig.workers.len();
        backend_of(&self.rig.put(core, &udp(sport, 53, 8)).1)
    }

    /// A flow that begins and answers, and where it lives.
    fn connect(&mut self, sport: u16) -> BackendId {
        let home = self.packet(sport, Tcp::Syn);
        assert_eq!(self.packet(sport, Tcp::Ack), home);
        home
    }

    fn entries(&self) -> usize {
        self.rig.workers.iter().map(worker::Worker::flow_count).sum()
    }

    fn refused(&self) -> u64 {
        self.rig.counters.iter().map(|counters| counters.totals.flow_refused.get()).sum()
    }

    /// The slot of a flow of this source port.
    fn slot(&self, sport: u16) -> u32 {
        let view = bare_view(1, &[Up], OnDown::Keep);
        let flow = wire::Tuple {
            src: wire::Addr::from(std::net::IpAddr::from(CLIENT)),
            dst: wire::Addr::from(std::net::IpAddr::from(VIP)),
            sport,
            dport: 80,
            protocol: TCP,
        };
        view.service[0].maglev.slot(steer::hash::tuple(&KEY, &flow))
    }

    /// A source port from `from` on whose slot is tainted or not.
    fn port(&self, from: u16, tainted: bool) -> u16 {
        (from..).find(|sport| self.bases.contains_key(&self.slot(*sport)) == tainted).expect("a port")
    }
}

/// Add, remove, down, up, drain, and back: every flow stays, busy or silent, whenever it began.
#[test]
fn flows_outlive_any_number_of_changes() {
    for cores in [1, 2] {
        let first = [Up, Up, Up, Up, Gone, Gone];
        let mut world = World::new(cores, &first, OnDown::Keep);
        let (mut flows, mut datagrams) = (BTreeMap::new(), BTreeMap::new());
        let histories = [
            first,
            [Up, Up, Up, Up, Up, Gone],          // added
            [Up, Down, Up, Up, Up, Gone],        // down
            [Up, Down, Drain, Up, Up, Up],       // drained, another added
            [Up, Up, Drain, Drain, Up, Up],      // up again, one removed: it stays in the view for its flows
            [Down, Down, Down, Drain, Up, Down], // nearly all down
            [Up, Up, Up, Up, Up, Down],          // and back
            first,
        ];
        for (phase, backends) in (0_u16..).zip(histories) {
            // What leaves the view takes its flows with it; here nothing ever does while flows live on it.
            let backends = backends.map(|is| if phase > 3 && is == Gone { Drain } else { is });
            if phase > 0 {
                world.change(&backends);
            }
            for n in 0..50 {
                let sport = 1000 + phase * 100 + n;
                flows.insert(sport, world.connect(sport));
                datagrams.insert(sport, world.datagram(sport));
            }
            // Every third flow talks in each phase; the others are silent until the end.
            for (sport, home) in flows.iter().filter(|(sport, _)| *sport % 3 == 0) {
                assert_eq!(world.packet(*sport, Tcp::Ack), *home, "phase {phase}");
            }
            for (sport, home) in datagrams.iter().filter(|(sport, _)| *sport % 3 == 0) {
                assert_eq!(world.datagram(*sport), *home, "phase {phase}");
            }
        }
        assert_eq!(flows.len(), 400);
        for (sport, home) in &flows {
            assert_eq!(world.packet(*sport, Tcp::Ack), *home);
        }
        for (sport, home) in &datagrams {
            assert_eq!(world.datagram(*sport), *home);
        }
        assert_eq!(world.refused(), 0);
    }
}

/// The point of it all: without a change no flow costs an entry, and UDP is tracked as ever.
#[test]
fn untainted_slots_need_no_entries() {
    let mut world = World::new(1, &[Up, Up, Up], OnDown::Keep);
    for sport in 1000..1300 {
        let home = world.connect(sport);
        assert_eq!(world.packet(sport, Tcp::Fin), home);
    }
    assert_eq!(world.entries(), 0);
    assert_eq!(world.rig.counters[0].totals.flow_misses.get(), 0, "no look-up either");
    world.datagram(1000);
    assert_eq!(world.entries(), 1);
    // A change makes entries in the slots it changes, and in no other.
    world.change(&[Up, Up, Up, Up]);
    let (tainted, untainted) = (world.port(1000, true), world.port(1000, false));
    world.packet(untainted, Tcp::Ack);
    assert_eq!(world.entries(), 1);
    world.packet(tainted, Tcp::Ack);
    assert_eq!(world.entries(), 2);
}

/// A -> B -> C and A -> B -> A: a flow of A that was silent all the while is still A's, one of B is B's.
#[test]
fn a_second_change_of_a_slot_moves_no_flow() {
    for third in [[Down, Down, Up], [Up, Down, Down]] {
        let mut world = World::new(1, &[Up, Down, Down], OnDown::Keep);
        let of_a: Vec<_> = (1000..1200).map(|sport| (sport, world.connect(sport))).collect();
        world.change(&[Down, Up, Down]);
        let of_b: Vec<_> = (2000..2200).map(|sport| (sport, world.connect(sport))).collect();
        world.change(&third);
        for (flows, home) in [(&of_a, BackendId(0)), (&of_b, BackendId(1))] {
            for (sport, at) in flows {
                assert_eq!((*at, world.packet(*sport, Tcp::Ack)), (home, home));
            }
        }
    }
}

/// A flow whose entry is refused begins at the base, where its next packets will go for want of an entry; so a full
/// table moves nobody. Every refusal is counted.
#[test]
fn a_full_table_moves_no_flow() {
    let mut world = World::new(1, &[Up, Down], OnDown::Keep);
    let old: Vec<_> = (1..200).map(|sport| (sport, world.connect(sport))).collect();
    world.change(&[Down, Up]);
    let new: Vec<_> = (1000..9000).map(|sport| (sport, world.packet(sport, Tcp::Syn))).collect();
    let refused = world.refused();
    assert!(refused > 1000, "{refused}");
    let at_base = new.iter().filter(|(_, home)| *home == BackendId(0)).count();
    assert_eq!(u64::try_from(at_base).unwrap(), refused, "exactly the refused ones");
    for (sport, home) in old.iter().chain(&new).chain(&old).chain(&new) {
        assert_eq!(world.packet(*sport, Tcp::Ack), *home);
    }
}

/// An ICMP error about an untracked flow goes where the flow goes, and leaves no entry.
#[test]
fn icmp_errors_follow_untracked_flows() {
    let mut world = World::new(1, &[Up, Up, Down], OnDown::Keep);
    let flows: Vec<_> = (1000..1100).map(|sport| (sport, world.connect(sport))).collect();
    world.change(&[Up, Down, Up]);
    for (sport, home) in &flows {
        let error = icmp_error_about(*sport);
        assert_eq!(backend_of(&world.rig.put(0, &error).1), *home);
    }
    assert_eq!(world.entries(), 0);
}

/// "Fragmentation needed" from a router on the way to the client, about a packet from the VIP.
fn icmp_error_about(sport: u16) -> Vec<u8> {
    let mut quoted = Vec::new();
    etherparse::PacketBuilder::ipv4(VIP, CLIENT, 60)
        .tcp(80, sport, 1, 1000)
        .write(&mut quoted, &[])
        .expect("written");
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(ROUTER_MAC, PORT_MAC)
        .ipv4([10, 0, 1, 1], VIP, 64)
        .icmpv4(etherparse::Icmpv4Type::DestinationUnreachable(
            etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 },
        ))
        .write(&mut frame, &quoted[..28])
        .expect("written");
    frame
}

/// What moves a flow, one by one. The base is gone, or down where the service reselects.
#[test]
fn flows_of_a_base_that_cannot_serve_them_move() {
    for (on_down, then, moves) in
        [(OnDown::Keep, Down, false), (OnDown::Reselect, Down, true), (OnDown::Keep, Gone, true)]
    {
        let mut world = World::new(1, &[Up, Down], on_down);
        let home = world.connect(1000);
        world.change(&[then, Up]);
        let now = world.packet(1000, Tcp::Ack);
        assert_eq!((home, now != home), (BackendId(0), moves));
        assert_eq!(world.packet(1000, Tcp::Ack), now, "and then stays");
    }
}

/// … its entry expired while its slot was tainted: it was silent for longer than the idle time.
#[test]
fn a_flow_that_is_silent_for_too_long_in_a_tainted_slot_moves() {
    let mut world = World::new(1, &[Up, Down], OnDown::Keep);
    world.change(&[Down, Up]);
    assert_eq!(world.connect(1000), BackendId(1));
    world.rig.advance_ms(1_799_000);
    assert_eq!(world.packet(1000, Tcp::Ack), BackendId(1));
    world.rig.advance_ms(1_900_000);
    assert_eq!(world.packet(1000, Tcp::Ack), BackendId(0), "taken for one from before the change");
}

/// … and a restart: bases are not remembered, so flows of changed slots follow the table.
#[test]
fn a_restart_moves_the_flows_of_tainted_slots() {
    let mut world = World::new(1, &[Up, Up, Up], OnDown::Keep);
    let flows: Vec<_> = (1000..1200).map(|sport| (sport, world.connect(sport))).collect();
    let changed = [Up, Down, Up];
    world.change(&changed);
    let bases = world.bases.clone();
    let mut world = World::new(1, &changed, OnDown::Keep);
    let mut moved = 0;
    for (sport, home) in &flows {
        let is_moved = world.packet(*sport, Tcp::Ack) != *home;
        assert_eq!(is_moved, bases.contains_key(&world.slot(*sport)));
        moved += usize::from(is_moved);
    }
    assert!(moved > 20 && moved < 180, "{moved}");
}
