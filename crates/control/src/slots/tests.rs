//! Slots against the promise itself: flows of a small world keep their backend through any history of tables.

use super::*;
use proptest::prelude::*;
use steer::Weighted;

const SIZE: u32 = 13;
const BACKENDS: usize = 4;
const KEY: [u8; 16] = [7; 16];
/// Idle time of every flow of the small world, microseconds.
const IDLE_US: u64 = 1000;

/// The table of the backends that are up, and their ids.
fn table(up: &[bool]) -> (Arc<Maglev>, Vec<BackendId>) {
    const NAMES: [&str; BACKENDS] = ["a", "b", "c", "d"];
    let up = || (0..).zip(NAMES).zip(up).filter(|(_, up)| **up).map(|(member, _)| member);
    let weighted: Vec<Weighted<'_>> = up().map(|(_, name)| Weighted { name, weight: 1 }).collect();
    let members = up().map(|(id, _)| BackendId(id)).collect();
    (Arc::new(Maglev::build(&weighted, SIZE, &KEY).unwrap()), members)
}

fn answers(up: &[bool]) -> Vec<Option<BackendId>> {
    let (table, members) = table(up);
    (0..SIZE).map(|slot| table.at(slot).map(|member| members[usize::from(member)])).collect()
}

fn bases(slots: &Slots) -> Vec<(u32, Option<BackendId>)> {
    slots.memory().tainted().collect()
}

fn begun(up: &[bool]) -> Slots {
    let (table, members) = table(up);
    Slots::new(&table, &members)
}

fn followed(slots: &mut Slots, up: &[bool], now: u64) {
    let (table, members) = table(up);
    slots.follow(&table, &members, Tick(now));
}

#[test]
fn a_change_taints_exactly_the_slots_whose_answer_it_changes() {
    let (two, three) = ([true, true, false, false], [true, true, true, false]);
    let mut slots = begun(&two);
    assert_eq!(slots.tainted_slots(), 0, "a first table taints nothing");
    followed(&mut slots, &two, 5);
    assert_eq!(slots.tainted_slots(), 0, "an equal table is no change");
    followed(&mut slots, &three, 10);
    let (old, new) = (answers(&two), answers(&three));
    let expected: Vec<_> =
        (0..SIZE).zip(&old).filter(|&(slot, was)| *was != new[slot as usize]).map(|(s, b)| (s, *b)).collect();
    assert!(!expected.is_empty() && expected.len() < SIZE as usize);
    assert_eq!(bases(&slots), expected);
    // However often the answer changes, the base stays; further slots join.
    followed(&mut slots, &[false, false, true, true], 20);
    for (slot, base) in expected {
        assert_eq!(slots.memory().base(slot), base);
    }
    assert_eq!(slots.tainted_slots(), SIZE);
    assert!(slots.keeps(BackendId(0)) && !slots.keeps(BackendId(3)));
}

#[test]
fn the_first_answer_of_an_empty_table_taints_nothing() {
    let mut slots = begun(&[false; BACKENDS]);
    followed(&mut slots, &[true; BACKENDS], 1);
    assert_eq!(slots.tainted_slots(), 0);
    // Nor is the last one forgotten when nobody is left.
    followed(&mut slots, &[false; BACKENDS], 2);
    assert_eq!(
        bases(&slots),
        (0..SIZE).zip(answers(&[true; BACKENDS])).collect::<Vec<_>>(),
        "its flows live on"
    );
}

#[test]
fn a_table_of_another_size_begins_anew() {
    let mut slots = begun(&[true, true, false, false]);
    followed(&mut slots, &[true; BACKENDS], 1);
    assert!(slots.tainted_slots() > 0);
    let weighted = [Weighted { name: "a", weight: 1 }];
    slots.follow(&Arc::new(Maglev::build(&weighted, 17, &KEY).unwrap()), &[BackendId(0)], Tick(2));
    assert_eq!(slots.tainted_slots(), 0);
}

#[test]
fn a_taint_ends_when_flows_have_been_silent_for_long_enough() {
    let mut slots = begun(&[true, true, false, false]);
    followed(&mut slots, &[false, true, false, false], 100);
    let tainted = slots.tainted_slots();
    let scans = |began| Scans { began: Tick(began) };
    assert_eq!(slots.clone().retire(scans(100 + IDLE_US), None, IDLE_US), 0, "not yet");
    assert_eq!(slots.clone().retire(scans(101 + IDLE_US), None, IDLE_US), tainted);
    // A flow without an entry that was active lately.
    let refused = Some(Tick(300));
    assert_eq!(slots.clone().retire(scans(300 + IDLE_US), refused, IDLE_US), 0);
    assert_eq!(slots.clone().retire(scans(301 + IDLE_US), refused, IDLE_US), tainted);
    // An entry of one slot keeps that slot; one that agrees with the table, or of another slot, keeps none.
    let (slot, base) = bases(&slots)[0];
    slots.saw(slot, base.unwrap(), Tick(500));
    slots.saw(bases(&slots)[1].0, BackendId(1), Tick(500));
    assert_eq!(slots.retire(scans(101 + IDLE_US), None, IDLE_US), tainted - 1);
    assert_eq!(bases(&slots), [(slot, base)]);
    assert_eq!(slots.retire(scans(501 + IDLE_US), None, IDLE_US), 1);
    assert_eq!(slots.tainted_slots(), 0);
}

#[test]
fn a_change_that_was_taken_back_need_not_be_waited_for() {
    let both = [true, true, false, false];
    let mut slots = begun(&both);
    followed(&mut slots, &[false, true, false, false], 100);
    followed(&mut slots, &both, 110);
    let tainted = slots.tainted_slots();
    assert!(tainted > 0);
    let (slot, base) = bases(&slots)[0];
    assert_eq!(base, Some(BackendId(0)));
    slots.saw(slot, BackendId(1), Tick(120));
    assert_eq!(slots.clone().retire(Scans { began: Tick(110) }, None, IDLE_US), 0, "began too early");
    assert_eq!(slots.retire(Scans { began: Tick(111) }, Some(Tick(115)), IDLE_US), tainted - 1);
    assert_eq!(bases(&slots), [(slot, base)], "a flow of it began while the other answer was in force");
}

#[test]
fn a_base_that_is_gone_becomes_the_present_answer() {
    let mut slots = begun(&[true, false, false, false]);
    followed(&mut slots, &[false, true, false, false], 1);
    slots.forget(|_| true);
    assert!(slots.keeps(BackendId(0)));
    slots.forget(|backend| backend != BackendId(0));
    assert!(!slots.keeps(BackendId(0)));
    // And stays the base, whatever comes.
    followed(&mut slots, &[false, false, true, false], 2);
    assert!((0..SIZE).all(|slot| slots.memory().base(slot) == Some(BackendId(1))));
}

#[test]
fn a_service_without_packets_has_no_flows() {
    let mut slots = begun(&[true, false, false, false]);
    followed(&mut slots, &[true; BACKENDS], 1);
    let tainted = slots.tainted_slots();
    assert_eq!((slots.retire_unused(), slots.tainted_slots()), (tainted, 0));
}

#[test]
fn slots_are_those_of_the_worker() {
    let (maglev, members) = table(&[true; BACKENDS]);
    let vips = [
        (Addr::V4(0xcb00_710a), 80, false),
        (Addr::V4(0xcb00_710a), 0, true),
        (Addr::V6(0x2001_0db8_000f_0000_0000_0000_0000_0010), 443, true),
    ];
    for (vip, port, wide) in vips {
        for hash in [HashOn::Tuple, HashOn::Source] {
            let service = ServiceView {
                id: ServiceId(3),
                wide,
                hash,
                maglev: Arc::clone(&maglev),
                members: members.clone(),
                on_empty: worker::view::OnEmpty::Reset,
                on_down: worker::view::OnDown::Keep,
                memory: None,
                policy: worker::view::Policy::Maglev,
            };
            let met: std::collections::HashSet<u32> = (0..200)
                .map(|n| {
                    let (src, dst) = match vip {
                        Addr::V4(_) => (Addr::V4(0xc633_6400 + n), vip),
                        Addr::V6(_) => (Addr::V6(0x2001_0db8 << 96 | u128::from(n)), vip),
                    };
                    let dport = if port == 0 { 8080 } else { port };
                    let flow = Tuple { src, dst, sport: 40_000, dport, protocol: 6 };
                    let hash = match hash {
                        HashOn::Tuple => steer::hash::tuple(&KEY, &flow),
                        HashOn::Source => steer::hash::source(&KEY, src),
                    };
                    let slot = maglev.slot(hash);
                    let key = worker::describe::general::key_of(&service, &flow);
                    assert_eq!(slot_of(&KEY, &service, (vip, port, 6), &key), slot, "{flow:?}");
                    slot
                })
                .collect();
            assert!(met.len() > 6, "slots differ");
        }
    }
}

/// What happens in the small world.
#[derive(Clone, Debug)]
enum Step {
    /// Backends that are up.
    Up([bool; BACKENDS]),
    /// A backend leaves for good: out of the table and the view.
    Gone(usize),
    /// It is configured again.
    Back(usize),
    /// A flow begins in this slot; whether there is room for it.
    Begin(u32, bool),
    /// A flow sends a packet; whether there is room for an entry.
    Packet(usize, bool),
    Pass(u64),
    /// Two scans, and what ends then. The first or second misses an entry that moves.
    Scan(usize, bool),
    /// The option is set to `all`, or to `exceptions`.
    TrackAll(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<[bool; BACKENDS]>().prop_map(Step::Up),
        1 => (0..BACKENDS).prop_map(Step::Gone),
        1 => (0..BACKENDS).prop_map(Step::Back),
        8 => (0..SIZE, prop::bool::weighted(0.9)).prop_map(|(slot, room)| Step::Begin(slot, room)),
        20 => (any::<usize>(), prop::bool::weighted(0.9)).prop_map(|(flow, room)| Step::Packet(flow, room)),
        8 => (1..IDLE_US).prop_map(Step::Pass),
        5 => (any::<usize>(), any::<bool>()).prop_map(|(missed, first)| Step::Scan(missed, first)),
        1 => any::<bool>().prop_map(Step::TrackAll),
    ]
}

#[derive(Debug)]
struct Flow {
    slot: u32,
    /// Where it lives; `None` once nothing is promised any more.
    home: Option<BackendId>,
    last: u64,
    entry: Option<(BackendId, u64)>,
}

/// One worker and one service, by the rules of `worker`, in a few lines.
struct World {
    now: u64,
    up: [bool; BACKENDS],
    gone: [bool; BACKENDS],
    /// `None`: every flow is tracked.
    slots: Option<Slots>,
    refused: Option<Tick>,
    flows: Vec<Flow>,
}

impl World {
    fn in_table(&self) -> [bool; BACKENDS] {
        std::array::from_fn(|i| self.up[i] && !self.gone[i])
    }

    fn cur(&self, slot: u32) -> Option<BackendId> {
        answers(&self.in_table())[slot as usize]
    }

    fn is_present(&self, backend: BackendId) -> bool {
        !self.gone[backend.index()]
    }

    /// As a compilation does it.
    fn compile(&mut self) {
        let (table, members) = table(&self.in_table());
        let gone = self.gone;
        if let Some(slots) = &mut self.slots {
            slots.follow(&table, &members, Tick(self.now));
            slots.forget(|backend| !gone[backend.index()]);
        }
    }

    fn base(&self, slot: u32) -> Option<BackendId> {
        self.slots.as_ref()?.memory().base(slot).filter(|backend| self.is_present(*backend))
    }

    fn is_tainted(&self, slot: u32) -> bool {
        self.slots.as_ref().is_none_or(|slots| slots.memory().is_tainted(slot))
    }

    fn begin(&mut self, slot: u32, room: bool) {
        let cur = self.cur(slot);
        let (home, entry) = if !self.is_tainted(slot) {
            (cur, None)
        } else if room {
            (cur, cur.map(|backend| (backend, self.now)))
        } else {
            self.refused = Some(Tick(self.now));
            (self.base(slot).or(cur), None)
        };
        // Where every flow is tracked, one without an entry is promised nothing.
        let promised = room || self.slots.is_some();
        if home.is_some() {
            self.flows.push(Flow { slot, home: home.filter(|_| promised), last: self.now, entry });
        }
    }

    fn packet(&mut self, index: usize, room: bool) {
        let Some(index) = index.checked_rem(self.flows.len()) else { return };
        let Flow { slot, home, last, entry } = self.flows[index];
        let live = entry.filter(|&(backend, used)| self.now - used <= IDLE_US && self.is_present(backend));
        let (to, entry) = if !self.is_tainted(slot) {
            (self.cur(slot), entry)
        } else if let Some((backend, _)) = live {
            (Some(backend), Some((backend, self.now)))
        } else {
            let to = self.base(slot).or(self.cur(slot));
            if room {
                (to, to.map(|backend| (backend, self.now)))
            } else {
                self.refused = Some(Tick(self.now));
                (to, None)
            }
        };
        if home.is_some() && self.now - last <= IDLE_US {
            assert_eq!(to, home, "flow {index} of slot {slot} moved at {}", self.now);
        }
        let promised = (room || self.slots.is_some()) && home.is_some() || self.now - last > IDLE_US;
        // A flow that was silent for too long begins anew with what it got, unless that is only the table's answer.
        let home = to.filter(|_| promised && (entry.is_some() || self.slots.is_some()));
        self.flows[index] = Flow { slot, home, last: self.now, entry };
    }

    fn scan(&mut self, missed: usize, misses_first: bool) {
        let began = Tick(self.now);
        for round in 0..2 {
            self.now += 1;
            for (index, flow) in self.flows.iter().enumerate() {
                let is_missed = Some(index) == missed.checked_rem(self.flows.len());
                if is_missed && misses_first == (round == 0) {
                    continue;
                }
                if let (Some(slots), Some((backend, used))) = (&mut self.slots, flow.entry)
                    && self.now - used <= IDLE_US
                    && !self.gone[backend.index()]
                {
                    slots.saw(flow.slot, backend, Tick(self.now));
                }
            }
        }
        let Some(slots) = &mut self.slots else { return };
        slots.retire(Scans { began }, self.refused, IDLE_US);
        if slots.has_left(self.refused, IDLE_US, Tick(self.now)) {
            self.slots = None;
        }
    }

    fn track_all(&mut self, all: bool) {
        let now = Tick(self.now);
        match &mut self.slots {
            Some(slots) if all => slots.leave(now),
            Some(slots) => slots.stay(now),
            None if all => {}
            None => {
                let (table, members) = table(&self.in_table());
                self.slots = Some(Slots::of_tracked(&table, &members, now));
            }
        }
    }

    fn step(&mut self, step: &Step) {
        self.now += 1;
        match *step {
            Step::Up(up) => {
                self.up = up;
                self.compile();
            }
            Step::Gone(backend) => {
                self.gone[backend] = true;
                for flow in &mut self.flows {
                    if flow.home.is_some_and(|home| home.index() == backend) {
                        flow.home = None;
                    }
                    // An id is not given again while an entry names it; the entry is as good as none.
                    if flow.entry.is_some_and(|(of, _)| of.index() == backend) {
                        flow.entry = None;
                    }
                }
                self.compile();
            }
            Step::Back(backend) => {
                self.gone[backend] = false;
                self.compile();
            }
            Step::Begin(slot, room) => self.begin(slot, room),
            Step::Packet(flow, room) => self.packet(flow, room),
            Step::Pass(us) => self.now += us,
            Step::Scan(missed, first) => self.scan(missed, first),
            Step::TrackAll(all) => self.track_all(all),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// No flow that is not silent for longer than its idle time meets another backend while its own is there; and when
    /// all flows have ended, no slot stays tainted.
    #[test]
    fn flows_keep_their_backend(
        first in any::<[bool; BACKENDS]>(),
        steps in prop::collection::vec(step(), 1..250),
    ) {
        let (table, members) = table(&first);
        let mut world = World {
            now: 0,
            up: first,
            gone: [false; BACKENDS],
            slots: Some(Slots::new(&table, &members)),
            refused: None,
            flows: Vec::new(),
        };
        for step in &steps {
            world.step(step);
        }
        world.track_all(false);
        world.now += IDLE_US + 2;
        world.scan(0, true);
        let slots = world.slots.expect("the option is set");
        prop_assert_eq!(slots.tainted_slots(), 0);
    }
}
