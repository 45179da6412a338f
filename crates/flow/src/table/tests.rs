use super::*;
use crate::ageing::Fill;
use crate::burst::BURST;
use proptest::prelude::*;
use std::collections::{HashMap, VecDeque};
use wire::key::WideKey;
use wire::{Addr, ServiceId, Tuple};

const SECOND: u64 = 1_000_000;
const IDLE: Idle = Idle {
    tcp_established_us: 120 * SECOND,
    tcp_closing_us: 20 * SECOND,
    syn_us: 10 * SECOND,
    udp_us: 30 * SECOND,
};

fn table(narrow_flows: usize, wide_flows: usize, untrusted_percent: u8) -> Table {
    let (narrow, wide) = (Memory::heap(narrow_flows), Memory::heap(wide_flows));
    Table::new(narrow, wide, 0x5eed, IDLE, untrusted_percent).unwrap()
}

/// Two buckets of each kind: ten narrow and four wide slots, so that everything collides.
fn tiny(untrusted_percent: u8) -> Table {
    let narrow = Memory::Shared((0..2).map(|_| NarrowBucket::default()).collect());
    let wide = Memory::Shared((0..2).map(|_| WideBucket::default()).collect());
    Table::new(narrow, wide, 0x5eed, IDLE, untrusted_percent).unwrap()
}

/// As many buckets as keys: hardly any collide.
fn roomy_wide() -> Table {
    let memory = Memory::Shared((0..64).map(|_| WideBucket::default()).collect());
    Table::new(Memory::heap(1), memory, 0x5eed, IDLE, 50).unwrap()
}

fn narrow(i: u32) -> FlowKey {
    FlowKey::narrow(0x0a00_0000 | i, 40_000, ServiceId(1))
}

fn narrow_of(i: u32) -> u64 {
    match narrow(i) {
        FlowKey::Narrow(key) => key,
        FlowKey::Wide(_) => 0,
    }
}

fn wide(i: u32) -> FlowKey {
    let t = Tuple {
        src: Addr::V6(0x2001_0db8 << 96 | u128::from(i)),
        dst: Addr::V6(1),
        sport: 40_000,
        dport: 443,
        protocol: 6,
    };
    FlowKey::wide(&t, ServiceId(2))
}

fn nothing(_: BackendId, _: State) {}

#[test]
fn insert_get_touch_remove() {
    let mut table = table(100, 100, 50);
    for key in [narrow(1), wide(1)] {
        let now = Tick(SECOND);
        assert_eq!(table.get(&key, now), None);
        let inserted = table.insert(&key, BackendId(BackendId::MAX), State::TcpNew, now);
        assert_eq!(inserted, Inserted::without_victim(Insert::Done));
        let hit = table.get(&key, now).unwrap();
        assert_eq!((hit.backend, hit.state, hit.idle_us), (BackendId(BackendId::MAX), State::TcpNew, 0));
        assert_eq!((table.len(), table.untrusted()), (1, 1));

        assert!(table.touch(&key, &hit, State::TcpEstablished, now));
        assert_eq!((table.len(), table.untrusted()), (1, 0), "promotion frees the quota");
        let hit = table.get(&key, now).unwrap();
        assert!(table.set_backend(&key, &hit, BackendId(3), State::TcpNew, now));
        assert_eq!(table.untrusted(), 1);

        let again = table.insert(&key, BackendId(4), State::TcpEstablished, now);
        let Insert::Replaced(old) = again.outcome else { panic!("{again:?}") };
        assert_eq!((old.backend, old.state), (BackendId(3), State::TcpNew));
        assert_eq!((table.len(), table.untrusted()), (1, 0));

        assert_eq!(table.remove(&key).unwrap().backend, BackendId(4));
        assert_eq!(table.remove(&key), None);
        assert!(!table.touch(&key, &hit, State::TcpClosing, now), "gone");
        assert!(table.touch(&key, &hit, hit.state, now), "nothing to write, so nobody looks");
        assert_eq!((table.len(), table.get(&key, now)), (0, None));
    }
}

#[test]
fn an_entry_is_made_again_as_old_as_it_was() {
    let now = Tick(1000 * SECOND + 12_345);
    for key in [narrow(1), wide(1)] {
        for state in State::ALL {
            for idle_us in [0, 1, SECOND / 3, 5 * SECOND, IDLE.of(state) - 1] {
                let (mut first, mut second) = (table(100, 100, 50), table(100, 100, 50));
                first.insert(&key, BackendId(3), state, Tick(now.0 - idle_us));
                let before = first.get(&key, now).unwrap();
                // The other table's clock has begun a moment ago.
                for now in [now, Tick(SECOND / 2)] {
                    let made = second.insert_idle(&key, before.backend, state, before.idle_us, now).unwrap();
                    assert_eq!(made.outcome, Insert::Done);
                    let after = second.get(&key, now).unwrap();
                    assert_eq!((after.backend, after.state), (BackendId(3), state));
                    assert!(after.idle_us <= before.idle_us, "{after:?} {before:?}");
                    assert!(before.idle_us - after.idle_us <= IDLE.of(state) / 32, "{after:?} {before:?}");
                    second.remove(&key);
                }
                second.insert_idle(&key, before.backend, state, before.idle_us, now);
                assert_eq!(second.get(&key, now).unwrap().idle_us, before.idle_us, "at the same moment");
            }
            let mut full = table(100, 100, 50);
            for idle_us in [2 * IDLE.of(state), 300 * IDLE.of(state), 8 * IDLE.of(state), u64::MAX] {
                assert_eq!(full.insert_idle(&key, BackendId(3), state, idle_us, now), None, "{idle_us}");
            }
            assert!(full.is_empty());
        }
    }
}

#[test]
fn a_stale_hit_finds_its_key_where_it_moved_and_never_another() {
    let mut table = tiny(100);
    let now = Tick(SECOND);
    table.insert(&narrow(1), BackendId(1), State::Udp, now);
    let hit = table.get(&narrow(1), now).unwrap();
    table.remove(&narrow(1));
    // Fill every slot, so that another key is where this one was.
    for i in 2..12 {
        table.insert(&narrow(i), BackendId(i), State::Udp, now);
    }
    assert!(!table.touch(&narrow(1), &hit, State::TcpClosing, now));
    for i in 2..12 {
        assert_eq!(table.get(&narrow(i), now).unwrap().state, State::Udp);
        assert!(table.touch(&narrow(i), &hit, State::TcpClosing, now), "a wrong position is only a slow one");
        assert_eq!(table.get(&narrow(i), now).unwrap().state, State::TcpClosing);
    }
    // Positions outside, as a hit on another table or kind may hold.
    let wide_hit = {
        table.insert(&wide(1), BackendId(1), State::Udp, now);
        table.get(&wide(1), now).unwrap()
    };
    assert!(table.touch(&narrow(2), &wide_hit, State::Udp, now));
}

#[test]
fn keys_without_a_service_are_refused() {
    let mut table = table(100, 100, 50);
    for key in [FlowKey::Narrow(0), FlowKey::Wide(WideKey { src: [1, 2], middle: 0, dport: 3 })] {
        let inserted = table.insert(&key, BackendId(1), State::Udp, Tick(0));
        assert_eq!(inserted.outcome, Insert::Refused(InsertRefusal::TableFull));
        assert_eq!(
            (table.get(&key, Tick(0)), table.remove(&key), table.reader().get(&key, Tick(0))),
            (None, None, None)
        );
    }
}

#[test]
fn refusals_of_new() {
    let narrow = || Memory::<NarrowBucket>::heap(100);
    let one = Memory::Shared((0..1).map(|_| WideBucket::default()).collect());
    let err = Table::new(narrow(), one, 0, IDLE, 50).unwrap_err();
    assert_eq!(err, TableError::TooFewBuckets(1));
    let err = Table::new(narrow(), Memory::heap(1), 0, IDLE, 101).unwrap_err();
    assert_eq!(err, TableError::NotAPercentage(101));
}

#[test]
fn sizes() {
    let table = table(1 << 20, 1 << 16, 50);
    assert_eq!(table.capacity(), (1 << 20, 1 << 16));
    // 16 bytes a narrow flow, 40 a wide one, at load 0.8.
    assert_eq!(table.bytes(), (1 << 20) * 16 + (1 << 16) * 40);
    assert_eq!(table.buckets(), (1 << 18) + (1 << 16) * 5 / 8);
    assert_eq!(table.reader().buckets(), table.buckets());
}

/// Every flow up to capacity is stored, and found again, whatever the keys and the seed.
fn fill(flows: usize, seed: u64) {
    let mut table = Table::new(Memory::heap(flows), Memory::heap(flows), seed, IDLE, 100).unwrap();
    let now = Tick(SECOND);
    let (narrow_max, wide_max) = table.capacity();
    for i in 0..narrow_max as u32 {
        // An address range and a port range, as clients behind few addresses have.
        let key = FlowKey::narrow(0xc633_6400 + (i >> 14), (i & 0x3fff) as u16 + 1024, ServiceId(1));
        let inserted = table.insert(&key, BackendId(i & BackendId::MAX), State::TcpEstablished, now);
        assert_eq!(inserted, Inserted::without_victim(Insert::Done), "narrow {i} of {narrow_max}");
    }
    for i in 0..wide_max as u32 {
        let inserted = table.insert(&wide(i), BackendId(i & BackendId::MAX), State::Udp, now);
        assert_eq!(inserted, Inserted::without_victim(Insert::Done), "wide {i} of {wide_max}");
    }
    assert_eq!(table.len(), narrow_max + wide_max);
    for i in 0..narrow_max as u32 {
        let key = FlowKey::narrow(0xc633_6400 + (i >> 14), (i & 0x3fff) as u16 + 1024, ServiceId(1));
        assert_eq!(table.get(&key, now).map(|hit| hit.backend), Some(BackendId(i & BackendId::MAX)));
    }
    for i in 0..wide_max as u32 {
        assert_eq!(table.get(&wide(i), now).map(|hit| hit.backend), Some(BackendId(i & BackendId::MAX)));
    }
}

#[test]
fn load_of_four_fifths_is_reached_without_a_refusal() {
    for seed in 0..100 {
        fill(1, seed); // the smallest table
    }
    for seed in 0..4 {
        fill(1000, seed);
    }
    fill(100_000, 1);
}

#[test]
fn narrow_tables_take_nineteen_of_twenty_slots() {
    for (flows, seed) in [(2_000, 1), (20_000, 2), (100_000, 3)] {
        let mut table = Table::new(Memory::heap(flows), Memory::heap(1), seed, IDLE, 100).unwrap();
        let slots = 5 * Memory::<NarrowBucket>::buckets_for(flows);
        let now = Tick(SECOND);
        let full = (0..).find(|&i| {
            let outcome = table.insert(&narrow(i), BackendId(1), State::TcpEstablished, now).outcome;
            outcome == Insert::Refused(InsertRefusal::TableFull)
        });
        assert_eq!(full, Some(table.len() as u32));
        assert!(table.len() * 100 >= slots * 96, "{} of {slots} slots", table.len());
        // Beyond, searches are rationed, and still nothing is lost.
        let mut done = table.len();
        for i in 0..slots as u32 / 4 {
            let inserted = table.insert(&narrow(1 << 30 | i), BackendId(2), State::TcpEstablished, now);
            done += usize::from(inserted.outcome == Insert::Done);
            assert_eq!(inserted.evicted, None);
        }
        assert_eq!(table.len(), done);
        assert!(done < slots);
        assert!((0..full.unwrap()).all(|i| table.get(&narrow(i), now).is_some()));
    }
}

#[test]
fn quota_holds_for_untrusted_and_never_for_trusted() {
    let mut table = table(256, 160, 25);
    let (flows, _) = table.capacity();
    let now = Tick(SECOND);
    for i in 0..1000 {
        let inserted = table.insert(&narrow(i), BackendId(1), State::UdpNew, now);
        let expected =
            if (i as usize) < flows / 4 { Insert::Done } else { Insert::Refused(InsertRefusal::QuotaFull) };
        assert_eq!(inserted, Inserted::without_victim(expected));
    }
    assert_eq!(table.untrusted(), flows / 4);
    // The other kind has a quota of its own.
    assert_eq!(table.insert(&wide(1), BackendId(1), State::UdpNew, now).outcome, Insert::Done);
    // Trusted flows find room to the capacity.
    for i in 0..(flows - flows / 4) as u32 {
        let inserted = table.insert(&narrow(10_000 + i), BackendId(2), State::TcpEstablished, now);
        assert_eq!(inserted.outcome, Insert::Done);
    }
    // An established flow that is replaced by a new connection keeps its slot, also above the quota.
    let replaced = table.insert(&narrow(10_000), BackendId(3), State::TcpNew, now);
    assert!(matches!(replaced.outcome, Insert::Replaced(_)));
    // Promotion makes room.
    for i in 0..2 {
        let hit = table.get(&narrow(i), now).unwrap();
        table.touch(&narrow(i), &hit, State::Udp, now);
    }
    assert_eq!(table.insert(&narrow(5000), BackendId(1), State::UdpNew, now).outcome, Insert::Done);
    // That of the new connection makes room then.
    let inserted = table.insert(&narrow(5001), BackendId(1), State::UdpNew, now);
    assert_eq!((inserted.outcome, inserted.displaced), (Insert::Done, true));
    assert_eq!(inserted.evicted, Some((BackendId(3), State::TcpNew)));
}

#[test]
fn expired_untrusted_make_room_within_the_quota() {
    let mut table = tiny(100);
    let quota = table.capacity().0;
    for i in 0..quota as u32 {
        assert_eq!(table.insert(&narrow(i), BackendId(i), State::TcpNew, Tick(0)).outcome, Insert::Done);
    }
    let later = Tick(11 * SECOND);
    // Of its own bucket first, so some displace one that is not expired.
    let mut expired = 0;
    for i in 0..50 {
        let inserted = table.insert(&narrow(100 + i), BackendId(1), State::TcpNew, later);
        assert_eq!(inserted.outcome, Insert::Done);
        assert_eq!(inserted.evicted.map(|(_, state)| state), Some(State::TcpNew));
        expired += usize::from(!inserted.displaced);
        assert_eq!(table.untrusted(), quota);
    }
    assert!((quota / 2..=quota).contains(&expired), "{expired} of {quota}");
}

/// Beyond the quota: each kind of newcomer on each kind of resident, by age.
#[test]
fn newcomers_take_the_place_of_those_that_showed_less() {
    use State::{TcpHandshake, TcpNew, UdpNew};
    let full_of = |resident: State, newcomer: State, age_us: u64| {
        let mut table = tiny(100);
        let quota = table.capacity().0 as u32;
        for i in 0..quota {
            table.insert(&narrow(i), BackendId(i), resident, Tick(SECOND));
        }
        let now = Tick(SECOND + age_us);
        let inserted = table.insert(&narrow(100), BackendId(100), newcomer, now);
        assert_eq!(table.untrusted(), quota as usize);
        assert_eq!(inserted.displaced, inserted.evicted.is_some());
        let lost = (0..quota).map(narrow).find(|key| table.get(key, now).is_none());
        assert_eq!(table.displaced_by(&narrow(100)), lost);
        inserted.outcome == Insert::Done
    };
    for newcomer in [TcpNew, UdpNew] {
        for resident in [TcpNew, TcpHandshake] {
            assert!(full_of(resident, newcomer, 0), "{newcomer:?} for {resident:?}");
        }
        assert!(full_of(UdpNew, newcomer, 4 * SECOND), "{newcomer:?}");
    }
    assert!(full_of(UdpNew, TcpNew, 0));
    assert!(!full_of(UdpNew, UdpNew, SECOND), "a flow of UDP has time for its second packet");
    // Of several, a handshake goes last, and a trusted flow never.
    let mut table = tiny(100);
    for i in 0..7 {
        table.insert(&narrow(i), BackendId(i), if i < 4 { TcpHandshake } else { TcpNew }, Tick(0));
    }
    table.insert(&narrow(7), BackendId(7), TcpNew, Tick(0));
    for i in 0..2 {
        table.insert(&narrow(8 + i), BackendId(8 + i), State::Udp, Tick(0));
    }
    let mut gone = Vec::new();
    for i in 0..100 {
        let inserted = table.insert(&narrow(100 + i), BackendId(100), TcpNew, Tick(0));
        gone.extend(inserted.evicted.map(|(_, state)| state));
    }
    assert!(gone.len() > 90 && !gone.contains(&State::Udp), "{gone:?}");
    assert!(gone.iter().filter(|&&state| state == TcpHandshake).count() <= 4);
    assert!((8..10).all(|i| table.get(&narrow(i), Tick(0)).is_some()));
}

/// A flood of flows that show nothing, and honest ones in between: these are all entered, and stay for as long as it takes the flood to fill the
/// quota several times over.
#[test]
fn a_flood_leaves_newcomers_their_entries() {
    for state in [State::TcpNew, State::TcpHandshake, State::UdpNew] {
        let mut table = table(65_536, 16, 50);
        for i in 0..360_000 {
            let now = Tick(u64::from(i) * 12 * SECOND / 360_000);
            table.advance(now, nothing);
            table.insert(&narrow(1 << 20 | i), BackendId(1), state, now);
        }
        let now = Tick(14 * SECOND + SECOND / 2);
        table.advance(now, nothing);
        let honest = (0..500).filter(|&i| {
            let new = if state == State::UdpNew { State::UdpNew } else { State::TcpNew };
            table.insert(&narrow(i), BackendId(2), new, now).outcome == Insert::Done
        });
        assert!(honest.count() >= 498, "{state:?}");
    }
}

/// What is left of idle times as a table fills: those of handshakes and of half-closed flows shrink, no others; and all of it comes back.
#[test]
fn idle_times_shrink_as_the_table_fills() {
    let mut table = table(1000, 16, 50);
    let (flows, _) = table.capacity();
    let watched = [State::TcpEstablished, State::TcpHalfClosed, State::TcpHandshake, State::Udp];
    let alive = |table: &mut Table, fill: usize, state: State| {
        table.clear();
        // Two minutes of idle time, but half a minute of UDP.
        let idle_us = if state == State::Udp { 25 * SECOND } else { 100 * SECOND };
        let begin = table.swept.max(Tick(SECOND));
        watched.iter().zip(0..).for_each(|(&state, i)| {
            table.insert(&narrow(i), BackendId(1), state, begin);
        });
        let now = Tick(begin.0 + idle_us);
        let filler = if fill > flows { State::TcpClosing } else { State::TcpNew };
        let (untrusted, trusted) =
            if filler == State::TcpNew { (fill.min(flows / 2 - 2), 0) } else { (0, fill) };
        (0..untrusted).for_each(|i| {
            table.insert(&narrow(1000 + i as u32), BackendId(2), State::TcpNew, now);
        });
        (untrusted..fill.max(trusted)).for_each(|i| {
            table.insert(&narrow(1000 + i as u32), BackendId(2), State::TcpClosing, now);
        });
        table.advance(Tick(now.0 + SECOND), nothing);
        let at = watched.iter().position(|&of| of == state).unwrap() as u32;
        table.reader().get(&narrow(at), Tick(now.0 + SECOND)).is_some()
    };
    for (percent, expected) in [
        (5, [true, true, true, true]),
        (49, [true, false, false, true]),
        (75, [true, false, false, true]),
        (115, [true, false, true, true]),
        (5, [true, true, true, true]),
    ] {
        for (&state, expected) in watched.iter().zip(expected) {
            let fill = flows * percent / 100;
            assert_eq!(alive(&mut table, fill, state), expected, "{state:?} at {percent} %");
        }
    }
}

#[test]
fn a_full_table_gives_way_only_to_trusted_and_only_untrusted_go() {
    let mut table = tiny(100);
    // Eight untrusted of different age fill the quota; two trusted fill the rest.
    for i in 0..8 {
        let inserted = table.insert(&narrow(i), BackendId(i), State::TcpNew, Tick(u64::from(i) * SECOND / 2));
        assert_eq!(inserted.outcome, Insert::Done);
    }
    let now = Tick(4 * SECOND);
    for i in 8..10 {
        table.insert(&narrow(i), BackendId(i), State::TcpEstablished, now);
    }
    assert_eq!(table.len(), 10);
    for i in 0..8 {
        let inserted = table.insert(&narrow(100 + i), BackendId(100), State::Udp, now);
        assert_eq!(
            inserted,
            Inserted { outcome: Insert::Done, evicted: Some((BackendId(i), State::TcpNew)), displaced: true },
            "the oldest first"
        );
    }
    for state in State::ALL {
        let expected = Insert::Refused(InsertRefusal::TableFull);
        let inserted = table.insert(&narrow(200), BackendId(1), state, now);
        assert_eq!(inserted, Inserted::without_victim(expected), "{state:?}");
    }
    for i in (8..10).chain(100..108) {
        assert!(table.get(&narrow(i), now).is_some(), "a trusted flow is never removed");
    }
}

#[test]
fn expired_is_invisible_at_once_and_reported_by_the_sweep() {
    let mut table = table(100, 100, 50);
    for i in 0..10 {
        table.insert(&narrow(i), BackendId(i), State::TcpNew, Tick(0));
        table.insert(&wide(i), BackendId(100 + i), State::Udp, Tick(0));
    }
    let reader = table.reader();
    let now = Tick(IDLE.syn_us + IDLE.syn_us / 16 + 1);
    for i in 0..10 {
        assert_eq!((table.get(&narrow(i), now), reader.get(&narrow(i), now)), (None, None));
        assert!(table.get(&wide(i), now).is_some());
    }
    assert_eq!(table.len(), 20);
    let mut ended = Vec::new();
    table.sweep_all(now, |backend, state| ended.push((backend.0, state)));
    ended.sort_by_key(|&(backend, _)| backend);
    assert_eq!(ended, (0..10).map(|i| (i, State::TcpNew)).collect::<Vec<_>>());
    assert_eq!((table.len(), table.untrusted()), (10, 0));
}

#[test]
fn advance_sweeps_in_time_however_time_passes() {
    // In steps of any size, from far below a bucket's due to far beyond a wrap of the epoch.
    for step_us in [1_000, 77_777, SECOND, 7 * SECOND, 40 * SECOND, 256 * 262_144, 3600 * SECOND] {
        let mut table = table(1000, 1000, 100);
        let mut now = Tick(0);
        table.advance(now, nothing);
        for i in 0..200 {
            table.insert(&narrow(i), BackendId(1), State::TcpNew, now);
            table.insert(&wide(i), BackendId(1), State::TcpClosing, now);
        }
        let mut ended = 0;
        // Gone after the longest of these idle times, the delay of ageing, and one round.
        let due = IDLE.tcp_closing_us + IDLE.tcp_closing_us / 16 + IDLE.syn_us * 2 + 2 * step_us;
        let mut visible = true;
        while now.0 <= due {
            now = Tick(now.0 + step_us);
            table.advance(now, |_, _| ended += 1);
            let seen = table.get(&narrow(7), now).is_some();
            assert!(visible || !seen, "came back to life at {now:?}, step {step_us}");
            visible = seen;
        }
        assert_eq!((ended, table.len()), (400, 0), "step {step_us}");
    }
}

#[test]
fn a_pause_of_exactly_one_wrap_hides_nothing() {
    let mut table = table(100, 100, 100);
    table.advance(Tick(0), nothing);
    table.insert(&narrow(1), BackendId(1), State::TcpNew, Tick(0));
    // 10 s / 32 = 312500: the quantum is 2^18 us.
    let wrap = Tick(256 << 18);
    let mut ended = Vec::new();
    table.advance(wrap, |backend, state| ended.push((backend, state)));
    assert_eq!(ended, [(BackendId(1), State::TcpNew)]);
    assert_eq!(table.get(&narrow(1), wrap), None);
}

#[test]
fn a_sweep_after_the_fact_spares_what_was_inserted_since() {
    let mut table = table(100, 100, 100);
    let now = Tick(3600 * SECOND);
    // A caller that inserts first and lets time pass afterwards.
    table.insert(&narrow(1), BackendId(1), State::TcpNew, now);
    table.sweep(1, now, |_, _| panic!("nothing has ended"));
    assert!(table.get(&narrow(1), now).is_some());
}

/// The pause is one after which the epoch of a SYN's 30 s seems to be of the near future.
#[test]
fn a_reader_sees_no_expired_flow_of_a_writer_without_turns() {
    let idle = Idle { syn_us: 30 * SECOND, tcp_closing_us: 30 * SECOND, ..IDLE };
    for begun in [0, SECOND, 3_600 * SECOND] {
        let mut table = Table::new(Memory::heap(64), Memory::heap(64), 0x5eed, idle, 100).unwrap();
        let reader = table.reader();
        let start = Tick(begun);
        table.advance(start, nothing);
        for (state, i) in [(State::TcpNew, 1), (State::TcpClosing, 2)] {
            table.insert(&narrow(i), BackendId(i), state, start);
            table.insert(&wide(i), BackendId(i), state, start);
        }
        let (mut shown, now) = (0, Tick(begun + 129_548_000));
        reader.dump(0, usize::MAX, now, |_, _| shown += 1);
        assert_eq!(shown, 0, "begun at {begun} us");
        for key in [narrow(1), narrow(2), wide(1), wide(2)] {
            assert_eq!(reader.get(&key, now), None, "{key:?}, begun at {begun} us");
        }
        let mut ended = 0;
        table.advance(now, |_, _| ended += 1);
        assert_eq!(ended, 4);
    }
}

#[test]
fn longer_idle_times_keep_flows_and_shorter_ones_end_them() {
    let mut table = table(100, 100, 100);
    let reader = table.reader();
    table.insert(&narrow(1), BackendId(1), State::Udp, Tick(0));
    let now = Tick(20 * SECOND);
    table.advance(now, nothing);
    table.set_idle(Idle { udp_us: 600 * SECOND, ..IDLE });
    assert!(table.get(&narrow(1), now).is_some() && reader.get(&narrow(1), now).is_some());
    table.sweep_all(now, |_, _| panic!("nothing has ended"));
    let much_later = Tick(500 * SECOND);
    table.advance(much_later, |_, _| panic!("nothing has ended"));
    assert!(table.get(&narrow(1), much_later).is_some() && reader.get(&narrow(1), much_later).is_some());
    // And back, twice in a row, so that the second change finds entries of the first.
    table.insert(&narrow(2), BackendId(2), State::Udp, much_later);
    table.set_idle(Idle { udp_us: 300 * SECOND, ..IDLE });
    table.set_idle(Idle { udp_us: 2 * SECOND, ..IDLE });
    let mut ended = Vec::new();
    table.sweep_all(much_later, |backend, _| ended.push(backend));
    assert_eq!(ended, [BackendId(1)]);
    assert!(table.get(&narrow(2), much_later).is_some());
    assert_eq!(reader.get(&narrow(2), Tick(much_later.0 + 3 * SECOND)), None);
}

#[test]
fn set_idle_to_the_same_does_nothing() {
    let mut table = table(100, 100, 100);
    table.insert(&narrow(1), BackendId(1), State::Udp, Tick(0));
    for _ in 0..5 {
        table.set_idle(IDLE);
    }
    assert_eq!(table.stale, 0);
}

/// Both kinds, a good part of them in their secondary bucket or moved, some expired, and keys that are in the table nowhere:
/// by every instruction set, in bursts of every length, one by one and in a row.
#[test]
fn every_instruction_set_looks_up_the_same() {
    let mut table = table(20_000, 4_000, 100);
    let (narrow_max, wide_max) = table.capacity();
    let (before, now) = (Tick(SECOND), Tick(15 * SECOND));
    for i in 0..narrow_max as u32 {
        let state = if i % 7 == 0 { State::TcpNew } else { State::Udp };
        assert_eq!(table.insert(&narrow(i), BackendId(i), state, before).outcome, Insert::Done);
    }
    for i in 0..wide_max as u32 {
        assert_eq!(table.insert(&wide(i), BackendId(i), State::Udp, before).outcome, Insert::Done);
    }
    let key = |i: usize| match i % 5 {
        0 => None,
        1 if i < 2 * wide_max => Some(wide(i as u32)),
        2 => Some(FlowKey::Narrow(0)),
        _ => Some(narrow(i as u32)),
    };
    let (mut keys, mut hits) = (Keys::new(), Hits::new());
    let mut found = [0; 3];
    for (isa, found) in Isa::ALL.into_iter().zip(&mut found) {
        if !table.use_isa(isa) {
            assert!(!isa.is_available());
            continue;
        }
        assert_eq!(table.isa(), isa);
        // The same bursts in a row; the answers to the two before.
        let (mut pipeline, mut before) = (LookupPipeline::new(), VecDeque::new());
        let mut i = 0;
        for len in (1..=BURST).cycle() {
            if i > narrow_max * 5 / 4 {
                break;
            }
            keys.clear();
            (i..i + len).for_each(|i| assert!(keys.push(key(i).as_ref())));
            table.lookup(&keys, now, &mut hits);
            for position in 0..BURST + 2 {
                let expected = (position < len).then(|| key(i + position)).flatten();
                let expected = expected.and_then(|key| table.get(&key, now));
                assert_eq!(hits.get(position), expected, "{} {i} + {position}", isa.name());
                assert_eq!(hits.of(position), expected.map(|hit| (hit.backend, hit.state)));
                if position < BURST {
                    assert_eq!(hits.backends()[position], expected.map_or(0, |hit| hit.backend.0));
                }
            }
            let next = pipeline.next_keys();
            (i..i + len).for_each(|i| assert!(next.push(key(i).as_ref())));
            let (_, pipeline_hits) = table.lookup_pipelined(&mut pipeline, now);
            let answers: Vec<_> = (0..BURST).map(|position| pipeline_hits.get(position)).collect();
            before.push_back((0..BURST).map(|position| hits.get(position)).collect::<Vec<_>>());
            if before.len() == 3 {
                assert_eq!(Some(answers), before.pop_front(), "{} before {i}", isa.name());
            } else {
                assert_eq!(pipeline_hits.found(), 0);
            }
            *found += hits.found().count_ones();
            i += len;
        }
    }
    assert!(found[0] as usize > narrow_max / 3);
    assert!(found.iter().all(|&other| other == found[0] || other == 0));
}

#[test]
fn a_row_begun_elsewhere_has_no_answers_of_there() {
    let mut small = tiny(100);
    let mut large = table(100_000, 1000, 100);
    small.insert(&narrow(0), BackendId(1), State::Udp, Tick(0));
    for i in 0..BURST as u32 {
        large.insert(&narrow(i), BackendId(2), State::Udp, Tick(0));
        large.insert(&wide(i), BackendId(2), State::Udp, Tick(0));
    }
    for calls_elsewhere in 1..=2 {
        let mut pipeline = LookupPipeline::new();
        let keys = pipeline.next_keys();
        for i in 0..BURST as u32 {
            keys.push(Some(&if i % 2 == 0 { narrow(i) } else { wide(i) }));
        }
        for call in 0..3 {
            let (keys, hits) =
                if call < calls_elsewhere { &large } else { &small }.lookup_pipelined(&mut pipeline, Tick(0));
            if call < 2 {
                assert_eq!((hits.found(), hits.miss(0), keys.narrow(0)), (0, None, 0), "nothing was begun");
                pipeline.next_keys();
            } else if let Some(hit) = hits.get(0) {
                assert_eq!((hits.found(), hit.backend), (1, BackendId(1)));
            } else {
                assert_eq!(hits.found(), 0);
            }
        }
    }
}

fn put(table: &mut Table, numbers: core::ops::Range<u32>) {
    for i in numbers {
        assert_eq!(table.insert(&narrow(i), BackendId(i), State::Udp, Tick(0)).outcome, Insert::Done);
    }
}

/// Whatever happens between the calls, the answers are those of the moment they are given.
#[test]
fn a_row_sees_what_was_changed_since_it_was_begun() {
    type Change = fn(&mut Table);
    let all = |table: &Table, now| (0..BURST as u32).map(|i| table.get(&narrow(i), now)).collect::<Vec<_>>();
    let changes: [Change; 5] = [
        |table| assert!(table.remove(&narrow(3)).is_some()),
        |table| put(table, 25..26),
        |table| {
            let hit = table.get(&narrow(4), Tick(0)).expect("it was inserted");
            assert!(table.set_backend(&narrow(4), &hit, BackendId(99), State::UdpNew, Tick(0)));
        },
        // So many that entries move.
        |table| put(table, 100..900),
        |table| table.clear(),
    ];
    for (change, moment) in changes.into_iter().flat_map(|change| [(change, 0), (change, 1)]) {
        let mut table = table(1000, 100, 100);
        for i in 0..20 {
            assert_eq!(table.insert(&narrow(i), BackendId(i), State::Udp, Tick(0)).outcome, Insert::Done);
        }
        let mut pipeline = LookupPipeline::new();
        let keys = pipeline.next_keys();
        (0..BURST as u32).for_each(|i| assert!(keys.push(Some(&narrow(i)))));
        for call in 0..2 {
            table.lookup_pipelined(&mut pipeline, Tick(0));
            pipeline.next_keys();
            if call == moment {
                change(&mut table);
            }
        }
        let (_, hits) = table.lookup_pipelined(&mut pipeline, Tick(0));
        assert_eq!((0..BURST).map(|position| hits.get(position)).collect::<Vec<_>>(), all(&table, Tick(0)));
    }
    // Nothing but time.
    let mut table = table(1000, 100, 100);
    put(&mut table, 0..20);
    let mut pipeline = LookupPipeline::new();
    let keys = pipeline.next_keys();
    (0..20).for_each(|i| assert!(keys.push(Some(&narrow(i)))));
    table.lookup_pipelined(&mut pipeline, Tick(0));
    pipeline.next_keys();
    table.lookup_pipelined(&mut pipeline, Tick(0));
    pipeline.next_keys();
    assert_eq!(table.lookup_pipelined(&mut pipeline, Tick(1000 * SECOND)).1.found(), 0);
}

#[test]
fn keys_are_set_and_set_again() {
    let mut keys = Keys::new();
    (0..BURST as u32).for_each(|i| assert!(keys.push(Some(&narrow(i)))));
    assert!(!keys.push(Some(&wide(1))), "one more than fit");
    let mut table = table(100, 100, 100);
    table.insert(&wide(3), BackendId(3), State::Udp, Tick(0));
    table.insert(&narrow(4), BackendId(4), State::Udp, Tick(0));
    keys.set(0, Some(&wide(3)));
    keys.set(1, Some(&wide(3)));
    keys.set(1, Some(&narrow(4)));
    keys.set(2, Some(&wide(3)));
    keys.set(2, None);
    keys.set(BURST, Some(&wide(3)));
    let mut hits = Hits::new();
    table.lookup(&keys, Tick(0), &mut hits);
    assert_eq!(hits.found(), 0b1_0011);
    assert!(hits.miss(2).is_none() && hits.miss(BURST).is_none() && hits.miss(3).is_some());
    keys.clear();
    table.lookup(&keys, Tick(0), &mut hits);
    assert_eq!((hits.found(), hits.miss(0)), (0, None));
    // What was there before is no key any more, neither below nor beyond.
    for len in 0..=BURST {
        (0..BURST).for_each(|position| keys.set(position, Some(&narrow(4))));
        keys.clear();
        let expected = match len {
            0 => 0,
            _ if len % 3 == 0 => {
                keys.set(len - 1, Some(&narrow(4)));
                1 << (len - 1)
            }
            _ if len % 3 == 1 => {
                keys.narrow_mut(len)[len / 2] = narrow_of(4);
                1 << (len / 2)
            }
            _ => {
                keys.copy_narrow(&vec![narrow_of(4); len]);
                u32::MAX >> (BURST - len)
            }
        };
        table.lookup(&keys, Tick(0), &mut hits);
        let mut pipeline = LookupPipeline::new();
        *pipeline.next_keys() = keys.clone();
        let row_found = [0; 3].map(|_| {
            let found = table.lookup_pipelined(&mut pipeline, Tick(0)).1.found();
            pipeline.next_keys();
            found
        });
        assert_eq!((hits.found(), hits.asked, row_found), (expected, expected, [0, 0, expected]), "{len}");
        assert!((0..BURST).all(|position| (keys.narrow(position) != 0) == (expected >> position & 1 == 1)));
    }
}

#[test]
fn misses_are_inserted_without_a_second_hash() {
    let mut table = table(1000, 1000, 100);
    let now = Tick(SECOND);
    let (mut keys, mut hits) = (Keys::new(), Hits::new());
    let flows: Vec<FlowKey> = (0..1600).map(|i| if i % 2 == 0 { narrow(i) } else { wide(i) }).collect();
    for burst in flows.chunks(BURST) {
        keys.clear();
        burst.iter().for_each(|key| assert!(keys.push(Some(key))));
        table.lookup(&keys, now, &mut hits);
        assert_eq!(hits.found(), 0);
        table.prefetch_inserts(&keys, &hits);
        for (position, key) in burst.iter().enumerate() {
            let miss = hits.miss(position).unwrap();
            assert_eq!(table.get_at(key, miss, now), None);
            let inserted = table.insert_at(key, miss, BackendId(7), State::Udp, now);
            assert_eq!(inserted, Inserted::without_victim(Insert::Done));
            assert_eq!(table.get_at(key, miss, now), table.get(key, now));
        }
    }
    assert!(flows.iter().all(|key| table.get(key, now).is_some_and(|hit| hit.backend == BackendId(7))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// As workers do it: bursts are looked up in a row, and the flows not found of each entered before the next answers are read.
    #[test]
    fn bursts_of_new_flows_are_entered_and_seen_at_once(
        bursts in prop::collection::vec((prop::collection::vec(0_u32..400, 0..=BURST), any::<u32>(), 0_u32..400), 1..60),
        percent in prop_oneof![Just(100_u8), Just(30)], is_trusted in any::<bool>(), is_moving in any::<bool>(),
    ) {
        let state = if is_trusted { State::TcpEstablished } else { State::TcpNew };
        for isa in Isa::ALL {
            let mut table = table(250, 20, percent);
            if !table.use_isa(isa) {
                continue;
            }
            let mut oracle = HashMap::<u32, BackendId>::new();
            let (mut pipeline, mut begun) = (LookupPipeline::new(), VecDeque::new());
            for (number, (flows, positions, removed)) in bursts.iter().enumerate() {
                // Within a quantum, or so that the clock is another.
                let now = Tick(if is_moving { number as u64 * SECOND / 8 } else { 0 });
                let next = pipeline.next_keys();
                flows.iter().for_each(|&i| assert!(next.push(Some(&narrow(i)))));
                let (keys, hits) = table.lookup_pipelined(&mut pipeline, now);
                begun.push_back(flows);
                if begun.len() == 3 {
                    let asked = begun.pop_front().expect("three");
                    for position in 0..BURST {
                        let expected = asked.get(position).and_then(|&i| table.get(&narrow(i), now));
                        prop_assert_eq!(hits.get(position), expected, "{} {}", isa.name(), position);
                        prop_assert_eq!(expected.map(|hit| hit.backend), asked.get(position).and_then(|i| oracle.get(i).copied()));
                    }
                    let backends = core::array::from_fn(|position| BackendId((number * BURST + position) as u32));
                    table.prefetch_inserts(keys, hits);
                    let (len, untrusted) = (table.len(), table.untrusted());
                    let new = NewFlows { positions: *positions, backends: &backends, state };
                    let Entered { done, replaced, .. } = table.insert_plainly(keys, hits, new, now);
                    prop_assert_eq!(replaced, 0, "none has expired");
                    let count = done.count_ones() as usize;
                    prop_assert_eq!(done & !positions, 0);
                    prop_assert_eq!(table.len(), len + count);
                    prop_assert_eq!(table.untrusted(), if is_trusted { untrusted } else { untrusted + count });
                    prop_assert!(table.untrusted() <= table.capacity().0 * usize::from(percent) / 100);
                    for position in bits(done) {
                        prop_assert_eq!(oracle.insert(asked[position], backends[position]), None, "it had an entry");
                    }
                    let left = positions & !done;
                    table.prefetch_moves(hits, left);
                    for position in bits(left) {
                        let Some(miss) = hits.miss(position) else { continue };
                        let inserted = table.insert_at(&narrow(asked[position]), miss, backends[position], state, now);
                        if let Some((gone, _)) = inserted.evicted {
                            prop_assert!(inserted.displaced);
                            oracle.retain(|_, backend| *backend != gone);
                        }
                        let before = oracle.get(&asked[position]).copied();
                        match inserted.outcome {
                            Insert::Done => prop_assert_eq!(before, None),
                            Insert::Replaced(hit) => prop_assert_eq!(before, Some(hit.backend)),
                            Insert::Refused(_) => {
                                prop_assert_eq!(before, None);
                                continue;
                            }
                        }
                        oracle.insert(asked[position], backends[position]);
                    }
                }
                if number % 4 == 0 {
                    prop_assert_eq!(table.remove(&narrow(*removed)).map(|hit| hit.backend), oracle.remove(removed));
                }
            }
            let now = Tick(if is_moving { bursts.len() as u64 * SECOND / 8 } else { 0 });
            for i in 0..400 {
                prop_assert_eq!(table.get(&narrow(i), now).map(|hit| hit.backend), oracle.get(&i).copied());
            }
        }
    }
}

/// Bursts of new flows in a table full of expired ones: every one of these is reported once, and no count of overflowed keys is lost.
#[test]
fn expired_entries_make_room_for_bursts() {
    for isa in Isa::ALL {
        let mut table = table(2000, 20, 100);
        if !table.use_isa(isa) {
            continue;
        }
        let flows = table.capacity().0 as u32 / BURST as u32 * BURST as u32;
        put(&mut table, 0..flows);
        let (mut keys, mut hits, now) = (Keys::new(), Hits::new(), Tick(40 * SECOND));
        let mut ended = vec![0; flows as usize];
        let mut plainly = 0;
        for first in (flows..2 * flows).step_by(BURST) {
            keys.clear();
            (first..first + BURST as u32).for_each(|i| assert!(keys.push(Some(&narrow(i)))));
            table.lookup(&keys, now, &mut hits);
            assert_eq!(hits.found(), 0);
            table.prefetch_inserts(&keys, &hits);
            let backends = core::array::from_fn(|position| BackendId(first + position as u32));
            let new = NewFlows { positions: u32::MAX, backends: &backends, state: State::UdpNew };
            let len = table.len();
            let entered = table.insert_plainly(&keys, &hits, new, now);
            assert_eq!(entered.replaced & !entered.done, 0);
            assert_eq!(
                table.len() + entered.replaced.count_ones() as usize,
                len + entered.done.count_ones() as usize
            );
            bits(entered.replaced).for_each(|position| {
                assert_eq!(entered.victim(position).1, State::Udp);
                ended[entered.victim(position).0.0 as usize] += 1;
            });
            plainly += entered.done.count_ones();
            table.prefetch_moves(&hits, !entered.done);
            for position in bits(!entered.done) {
                let (key, miss) = (narrow(first + position as u32), hits.miss(position).expect("asked"));
                let inserted = table.insert_at(&key, miss, backends[position], State::UdpNew, now);
                assert_eq!(inserted.outcome, Insert::Done);
                inserted.evicted.iter().for_each(|(backend, _)| ended[backend.0 as usize] += 1);
            }
        }
        assert!(plainly > flows * 3 / 4, "{plainly} of {flows}");
        assert!(
            (flows..2 * flows)
                .all(|i| table.get(&narrow(i), now).is_some_and(|hit| hit.backend == BackendId(i)))
        );
        assert_eq!(table.untrusted(), flows as usize);
        table.sweep_all(now, |backend, _| ended[backend.0 as usize] += 1);
        assert!(ended.iter().all(|&times| times == 1), "each once");
        assert_eq!(table.len(), flows as usize);
        (flows..2 * flows).for_each(|i| assert!(table.remove(&narrow(i)).is_some()));
        assert_eq!((table.narrow.overflowed(), table.len(), table.untrusted()), (0, 0, 0));
    }
}

/// Filters never forget: the number of keys outside their primary bucket, and a bit for each, checked against all keys.
#[test]
fn filters_cover_what_overflowed_and_empty_with_it() {
    let mut table = table(2000, 700, 100);
    let (narrow_max, wide_max) = table.capacity();
    let mut random = 1_u32;
    let mut live = std::collections::HashSet::new();
    let now = Tick(SECOND);
    for round in 0..60_000 {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let i = (random >> 8) % 20_000;
        let key = if i.is_multiple_of(4) { wide(i) } else { narrow(i) };
        let full = match key {
            FlowKey::Narrow(_) => table.narrow.used >= narrow_max,
            FlowKey::Wide(_) => table.wide.used >= wide_max,
        };
        if live.remove(&key) {
            assert!(table.remove(&key).is_some());
        } else if !full {
            assert_eq!(table.insert(&key, BackendId(i), State::Udp, now).outcome, Insert::Done);
            live.insert(key);
        }
        if round % 10_000 == 0 {
            assert!(live.iter().all(|key| table.get(key, now).is_some()));
        }
    }
    assert!(table.narrow.overflowed() > narrow_max / 20 && table.wide.overflowed() > wide_max / 20);
    // Sooner or later everything is gone, and then all the filters are empty: no count was lost on the way.
    for key in live {
        assert!(table.remove(&key).is_some());
    }
    assert_eq!((table.narrow.overflowed(), table.wide.overflowed()), (0, 0));
}

#[test]
fn memory_belongs_to_one_table() {
    let narrow = Memory::<NarrowBucket>::heap(100);
    let wide = Memory::heap(100);
    let first = Table::new(narrow.clone(), wide.clone(), 0, IDLE, 50);
    assert!(first.is_ok());
    assert_eq!(Table::new(narrow, Memory::heap(1), 0, IDLE, 50).unwrap_err(), TableError::InUse);
    assert_eq!(Table::new(Memory::heap(1), wide, 0, IDLE, 50).unwrap_err(), TableError::InUse);
}

#[test]
fn dump_shows_each_live_flow_once() {
    let mut table = table(100, 100, 100);
    for i in 0..60 {
        table.insert(&narrow(i), BackendId(i), State::TcpEstablished, Tick(0));
        table.insert(
            &wide(i),
            BackendId(i),
            if i < 30 { State::TcpNew } else { State::TcpEstablished },
            Tick(0),
        );
    }
    let reader = table.reader();
    let now = Tick(15 * SECOND);
    let mut shown = HashMap::new();
    let mut from = 0;
    while from < reader.buckets() {
        reader.dump(from, 7, now, |key, hit| assert!(shown.insert(key, hit).is_none()));
        from += 7;
    }
    assert_eq!(shown.len(), 90);
    for (key, hit) in &shown {
        assert_eq!(table.get(key, now).as_ref(), Some(hit));
    }
    reader.dump(reader.buckets(), usize::MAX, now, |_, _| panic!("beyond the end"));
}

#[test]
fn clear_forgets_all() {
    let mut table = table(100, 100, 100);
    table.insert(&narrow(1), BackendId(1), State::UdpNew, Tick(0));
    table.insert(&wide(1), BackendId(1), State::UdpNew, Tick(0));
    table.clear();
    assert!(table.is_empty() && table.untrusted() == 0);
    assert_eq!(table.get(&narrow(1), Tick(0)), None);
}

/// What the table should know of a flow: backend, state, and when it was last used.
type Oracle = HashMap<FlowKey, (BackendId, State, u64)>;

#[derive(Clone, Debug)]
enum Operation {
    Insert { key: u32, backend: u32, state: usize },
    Touch { key: u32, state: usize },
    SetBackend { key: u32, backend: u32, state: usize },
    Remove { key: u32 },
    Sweep { buckets: usize },
    SweepAll,
    Fill { count: u32 },
    Wait { us: u64 },
    SetIdle { scale: u64 },
}

fn operation() -> impl Strategy<Value = Operation> {
    let (key, backend, state) = (0_u32..24, 0..=BackendId::MAX, 0..State::ALL.len());
    prop_oneof![
        8 => (key.clone(), backend.clone(), state.clone())
            .prop_map(|(key, backend, state)| Operation::Insert { key, backend, state }),
        4 => (key.clone(), state.clone()).prop_map(|(key, state)| Operation::Touch { key, state }),
        2 => (key.clone(), backend, state)
            .prop_map(|(key, backend, state)| Operation::SetBackend { key, backend, state }),
        2 => key.prop_map(|key| Operation::Remove { key }),
        2 => (0_usize..4).prop_map(|buckets| Operation::Sweep { buckets }),
        1 => Just(Operation::SweepAll),
        1 => (0_u32..12).prop_map(|count| Operation::Fill { count }),
        3 => (0_u64..SECOND).prop_map(|us| Operation::Wait { us }),
        2 => (0_u64..200 * SECOND).prop_map(|us| Operation::Wait { us }),
        1 => Just(Operation::Wait { us: 256 << 18 }),
        1 => (1_u64..40).prop_map(|scale| Operation::SetIdle { scale }),
    ]
}

fn scaled(scale: u64) -> Idle {
    Idle {
        tcp_established_us: IDLE.tcp_established_us * scale / 10,
        tcp_closing_us: IDLE.tcp_closing_us * scale / 10,
        syn_us: IDLE.syn_us * scale / 10,
        udp_us: IDLE.udp_us * scale / 10,
    }
}

/// Runs operations on a table and an oracle. Each key stands for a flow of `kind`. Expiry between the idle time and
/// 1/16 after it is free; after a change of idle times either may hold, so `idle_range` covers both.
fn run(mut table: Table, operations: &[Operation], kind: fn(u32) -> FlowKey) -> Result<(), TestCaseError> {
    let reader = table.reader();
    let mut oracle = Oracle::new();
    let mut now = Tick(SECOND);
    let mut idles = vec![IDLE];
    // The fullest that the table has been.
    let tightest = std::cell::Cell::new(Fill::default());
    // Shortest and longest that idle time can be for an entry, by every set of idle times since the last full sweep.
    let surely_live = |idles: &[Idle], state, used, now: Tick| {
        let left = u64::from(tightest.get().limit(state, 64));
        let least = |idle: u64| if left < 64 { idle * left.saturating_sub(2) / 64 } else { idle };
        idles.iter().all(|idle| now.0 - used <= least(idle.of(state)))
    };
    let surely_dead = |idles: &[Idle], state, used, now: Tick| {
        // Each conversion may add a quantum of the former idle time.
        let slack: u64 = if idles.len() > 1 { idles.iter().map(|idle| idle.of(state) / 16).sum() } else { 0 };
        idles.iter().all(|idle| now.0 - used > idle.of(state) + idle.of(state) / 16 + slack)
    };
    let end = |oracle: &mut Oracle, idles: &[Idle], now: Tick, ended: &[(BackendId, State)]| {
        // What ended must have been an entry that may be expired; which one, the oracle cannot know if two are alike.
        for &(backend, state) in ended {
            let key = oracle
                .iter()
                .filter(|&(_, &(b, s, used))| b == backend && s == state && !surely_live(idles, s, used, now))
                .min_by_key(|(_, (_, _, used))| *used)
                .map(|(key, _)| *key);
            let Some(key) = key else {
                return Err(TestCaseError::fail(format!("{backend:?} {state:?} ended, but lives")));
            };
            oracle.remove(&key);
        }
        Ok(())
    };
    table.advance(now, nothing);
    for operation in operations {
        tightest.set(tightest.get().max(table.narrow.fill()).max(table.wide.fill()));
        let limits = table.capacity();
        let quota = if matches!(kind(0), FlowKey::Narrow(_)) { limits.0 } else { limits.1 } / 2;
        match *operation {
            Operation::Wait { us } => {
                now = Tick(now.0 + us);
                let mut ended = Vec::new();
                table.advance(now, |backend, state| ended.push((backend, state)));
                end(&mut oracle, &idles, now, &ended)?;
            }
            Operation::Sweep { buckets } => {
                let mut ended = Vec::new();
                table.sweep(buckets, now, |backend, state| ended.push((backend, state)));
                end(&mut oracle, &idles, now, &ended)?;
            }
            Operation::SweepAll => {
                let mut ended = Vec::new();
                table.sweep_all(now, |backend, state| ended.push((backend, state)));
                end(&mut oracle, &idles, now, &ended)?;
            }
            Operation::SetIdle { scale } => {
                table.set_idle(scaled(scale));
                idles.push(scaled(scale));
            }
            Operation::Insert { .. } | Operation::Fill { .. } => {
                let many = match *operation {
                    Operation::Insert { key, backend, state } => vec![(key, backend, State::ALL[state])],
                    Operation::Fill { count } => (0..count)
                        .map(|i| (100 + i, 100 + i, State::ALL[i as usize % State::ALL.len()]))
                        .collect(),
                    _ => vec![],
                };
                for (key, backend, state) in many {
                    let (key, backend) = (kind(key), BackendId(backend));
                    let before = table.get(&key, now);
                    let (len, untrusted) = (table.len(), table.untrusted());
                    let inserted = table.insert(&key, backend, state, now);
                    match inserted.outcome {
                        Insert::Done => {
                            prop_assert_eq!(before, None);
                            prop_assert!(!state.is_untrusted() || table.untrusted() <= quota.max(untrusted));
                            prop_assert_eq!(table.len(), len + 1 - usize::from(inserted.evicted.is_some()));
                        }
                        Insert::Replaced(hit) => {
                            prop_assert_eq!(Some(hit), before);
                            prop_assert_eq!((inserted.evicted, table.len()), (None, len));
                        }
                        Insert::Refused(refusal) => {
                            prop_assert_eq!(before, None);
                            tightest.set(tightest.get().max(table.narrow.fill()).max(table.wide.fill()));
                            prop_assert_eq!(
                                refusal == InsertRefusal::QuotaFull,
                                state.is_untrusted() && untrusted >= quota
                            );
                        }
                    }
                    if let Some((backend, evicted)) = inserted.evicted {
                        // The same key, expired; or else an expired one; or else, for a trusted one, an untrusted.
                        let same = oracle.get(&key).is_some_and(|&(b, s, _)| (b, s) == (backend, evicted));
                        if same {
                            oracle.remove(&key);
                        } else if inserted.displaced {
                            prop_assert!(evicted.is_untrusted());
                            let victim = oracle
                                .iter()
                                .filter(|&(_, &(b, s, _))| (b, s) == (backend, evicted))
                                .find(|&(k, _)| table.get(k, now).is_none())
                                .map(|(k, _)| *k);
                            prop_assert!(victim.is_some());
                            victim.map(|k| oracle.remove(&k));
                        } else {
                            end(&mut oracle, &idles, now, &[(backend, evicted)])?;
                        }
                    }
                    if !matches!(inserted.outcome, Insert::Refused(_)) {
                        oracle.insert(key, (backend, state, now.0));
                    }
                }
            }
            Operation::Touch { key, state } | Operation::SetBackend { key, state, .. } => {
                let key = kind(key);
                if let Some(hit) = table.get(&key, now) {
                    let state = State::ALL[state];
                    let backend = match *operation {
                        Operation::SetBackend { backend, .. } => BackendId(backend),
                        _ => hit.backend,
                    };
                    match *operation {
                        Operation::SetBackend { .. } => {
                            prop_assert!(table.set_backend(&key, &hit, backend, state, now));
                        }
                        _ => prop_assert!(table.touch(&key, &hit, state, now)),
                    }
                    oracle.insert(key, (backend, state, now.0));
                }
            }
            Operation::Remove { key } => {
                let removed = table.remove(&kind(key)).map(|hit| (hit.backend, hit.state));
                let expected = oracle.remove(&kind(key)).map(|(backend, state, _)| (backend, state));
                prop_assert_eq!(removed, expected);
            }
        }
        // The whole state, as the writer and as a reader see it.
        prop_assert_eq!(table.len(), oracle.len());
        let untrusted = oracle.values().filter(|(_, state, _)| state.is_untrusted()).count();
        prop_assert_eq!(table.untrusted(), untrusted);
        let keys: Vec<Option<FlowKey>> = (0..112).map(|key| Some(kind(key))).collect();
        let (mut keys_of, mut hits, mut burst) = (Keys::new(), Hits::new(), Vec::new());
        for keys in keys.chunks(BURST) {
            keys_of.clear();
            keys.iter().for_each(|key| assert!(keys_of.push(key.as_ref())));
            table.lookup(&keys_of, now, &mut hits);
            burst.extend((0..keys.len()).map(|position| hits.get(position)));
        }
        for (key, found) in keys.iter().flatten().zip(burst) {
            let hit = table.get(key, now);
            prop_assert_eq!(reader.get(key, now), hit);
            prop_assert_eq!(found, hit);
            match (hit, oracle.get(key)) {
                (None, None) => {}
                (Some(hit), Some(&(backend, state, used))) => {
                    prop_assert_eq!((hit.backend, hit.state), (backend, state));
                    prop_assert!(!surely_dead(&idles, state, used, now), "{:?} is still seen", key);
                    prop_assert!(hit.idle_us <= now.0 - used);
                }
                (None, Some(&(_, state, used))) => {
                    prop_assert!(!surely_live(&idles, state, used, now), "{:?} is not seen", key);
                }
                (Some(hit), None) => prop_assert!(false, "{hit:?} out of nothing"),
            }
        }
        let mut shown = 0;
        reader.dump(0, usize::MAX, now, |key, hit| {
            assert_eq!(table.get(&key, now), Some(hit));
            shown += 1;
        });
        prop_assert_eq!(shown, keys.iter().flatten().filter(|key| table.get(key, now).is_some()).count());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn narrow_flows_as_a_hash_map(operations in prop::collection::vec(operation(), 1..80)) {
        run(tiny(50), &operations, narrow)?;
    }

    #[test]
    fn wide_flows_as_a_hash_map(operations in prop::collection::vec(operation(), 1..80)) {
        run(tiny(50), &operations, wide)?;
    }

    #[test]
    fn roomy_tables_as_a_hash_map(operations in prop::collection::vec(operation(), 1..40)) {
        run(table(20, 20, 50), &operations, narrow)?;
        run(roomy_wide(), &operations, wide)?;
    }
}

#[test]
fn readers_on_other_threads_see_whole_entries_and_miss_none() {
    // Residents that must always be found, among churn that moves them about. Their value belongs to their key.
    // Three buckets, nearly full: few inserts find room without moving something.
    let memory = Memory::Shared((0..3).map(|_| NarrowBucket::default()).collect());
    let mut table = Table::new(memory, Memory::heap(1), 0x5eed, IDLE, 100).unwrap();
    let now = Tick(SECOND);
    for i in 0..6 {
        table.insert(&narrow(i), BackendId(i), State::TcpEstablished, now);
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = table.reader();
        let stop = &stop;
        let looker = scope.spawn(move || {
            let mut seen = 0_u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for i in 0..6 {
                    // A miss is only allowed when the writer is stopped in mid-change; then the next one must hit.
                    let hit = (0..3).find_map(|_| reader.get(&narrow(i), now));
                    assert_eq!(hit.map(|hit| hit.backend), Some(BackendId(i)));
                }
                for i in 100..140 {
                    if let Some(hit) = reader.get(&narrow(i), now) {
                        assert_eq!(hit.backend, BackendId(i));
                        seen += 1;
                    }
                }
            }
            seen
        });
        let mut moves = 0;
        let places =
            |table: &Table| (0..6).map(|i| table.get(&narrow(i), now).map(|hit| hit.bucket())).collect();
        let mut before: Vec<_> = places(&table);
        let mut random = 1_u32;
        for _ in 0..20_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let i = 100 + (random >> 16) % 40;
            if random >> 31 == 1 {
                table.remove(&narrow(i));
            } else {
                table.insert(&narrow(i), BackendId(i), State::UdpNew, now);
            }
            let after: Vec<_> = places(&table);
            moves += usize::from(after != before);
            before = after;
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(moves > 100, "only {moves} moves");
        assert!(looker.join().is_ok());
    });
}
