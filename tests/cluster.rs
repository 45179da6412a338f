//! Several machines that serve the same addresses, behind a router that spreads flows over them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

#[path = "cluster/messages.rs"]
mod messages;
#[path = "cluster/oracle.rs"]
mod oracle;
#[path = "cluster/stage.rs"]
mod stage;

use guideway_lab::command::until;
use guideway_lab::load::flood::{FloodLoad, FloodOf};
use guideway_lab::load::hold::{Held, How};
use guideway_lab::load::short::ShortReport;
use guideway_lab::load::unix_ms;
use guideway_lab::{LabError, Usage};
use oracle::Table;
use stage::{
    CONNECTIONS, Forecast, Kind, NEW_RATE, SYNC, Snapshot, Stage, TCP, UDP, clients, drained, hold, lab,
    length, pause, short, sources, target, unharmed, up,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

/// Time between the death of a machine and the repair of the routes, milliseconds.
const REPAIR_MS: u64 = 300;
/// A flow this young may be lost with a machine, milliseconds: its record was perhaps on its way.
const YOUNG_MS: u64 = 10;
/// Time until a killed machine is suspect to all: the 350 ms of silence of `statesync::suspicion`, which is looked for every 5 ms, and
/// what passes before the kernel has ended it and its last frames are read by workers that may have slept.
const SUSPECT: Duration = Duration::from_millis(400);

/// The death of a machine.
struct Death {
    /// Unix times, milliseconds.
    killed: u64,
    repaired: u64,
}

impl Death {
    /// Kills a machine, and repairs the routes 300 ms later.
    fn of(stage: &mut Stage<'_>, index: u8) -> Death {
        let others: Vec<u8> =
            stage.machines.all().map(|(other, _)| other).filter(|&other| other != index).collect();
        let killed = unix_ms();
        stage.machines.kill(index).unwrap();
        pause((killed + REPAIR_MS).saturating_sub(unix_ms()));
        stage.lab.route_vips(&others).unwrap();
        Death { killed, repaired: unix_ms() }
    }

    /// Of the new connections only those failed that were young when the machine died, or were sent to it before the repair; and
    /// only those were late that were sent to it, by the router or, for some time yet, by a machine that did not know.
    fn judge(&self, report: &ShortReport, unknown: Duration) {
        let Death { killed, repaired } = *self;
        println!(
            "{} new connections, {} failed, {} late; routes were repaired {} ms after the death",
            report.ok,
            report.failed,
            report.slow.len(),
            repaired - killed
        );
        let unknown = killed + u64::try_from(unknown.as_millis()).unwrap();
        for (shorts, until) in [(&report.failures, repaired), (&report.slow, repaired.max(unknown))] {
            for short in shorts {
                let hit = (killed - YOUNG_MS..=until).contains(&short.started_unix_ms);
                assert!(hit, "killed at {killed}, repaired at {repaired}: {short:?}");
            }
        }
    }
}

/// What the machines did from one second after a jump of the routes to two seconds after it.
struct Jump {
    what: &'static str,
    from: Snapshot,
    to: Snapshot,
    /// What they said to each other, of all machines.
    frames: Vec<Vec<u8>>,
}

impl Jump {
    /// Takes two seconds and some more.
    fn watch(stage: &Stage<'_>, what: &'static str) -> Jump {
        pause(900);
        let captures = stage.listen();
        pause(100);
        let from = Snapshot::take(stage);
        pause(1000);
        let to = Snapshot::take(stage);
        let frames = captures.into_iter().flat_map(|capture| capture.frames().unwrap()).collect();
        Jump { what, from, to, frames }
    }

    /// The flows that moved have been asked for: of their packets, fewer than one in a hundred is relayed. A new connection
    /// in a tainted slot is a question whether routes move or not, so these are counted apart.
    fn judge(&self, held: &BTreeSet<SocketAddr>) {
        let packets = self.to.grown(&self.from, "rx");
        let relayed = messages::relayed(&self.frames);
        let of = |wanted: bool| -> u64 {
            relayed.iter().filter(|(client, _)| held.contains(client) == wanted).map(|(_, count)| count).sum()
        };
        let (old, new) = (of(true), of(false));
        println!(
            "one second after {}: {packets} packets, {old} of held and {new} of new connections relayed",
            self.what
        );
        assert!((old as f64) < 0.01 * packets as f64, "{}", self.what);
    }
}

/// What the machines said a change would cost, against what it did cost. No flow may have come or gone meanwhile.
fn judge_forecasts(
    forecasts: &[Forecast],
    old: &Table,
    stage: &Stage<'_>,
    before: &Snapshot,
    after: &Snapshot,
) {
    let new = stage.table();
    let flows: usize = (1..=3)
        .map(|index| {
            let moved = |client: &SocketAddr| old.backend(*client, TCP) != new.backend(*client, TCP);
            stage.known(index).iter().filter(|client| moved(client)).count()
        })
        .sum();
    let sum = |of: fn(&Forecast) -> u64| forecasts.iter().map(of).sum::<u64>();
    let grown = |name| after.grown(before, name);
    let bytes = grown("note_bytes") - grown("heartbeats") * messages::HEARTBEAT_BYTES;
    println!(
        "foretold: {} slots, {} flows, {} statements, {} bytes; it was: {} slots, {flows} flows, {} told, {} acknowledged, {} said \
         again, {bytes} bytes",
        forecasts[0].slots,
        sum(|of| of.flows),
        sum(|of| of.statements),
        sum(|of| of.bytes),
        2 * new.changed(old),
        grown("exports"),
        grown("acknowledgements"),
        grown("resends"),
    );
    assert!(forecasts.iter().all(|of| of.slots == 2 * new.changed(old) as u64), "{forecasts:?}");
    assert_eq!(sum(|of| of.flows), flows as u64);
    assert_eq!(flows as u64, grown("exports"), "each is told, to one owner or to two");
    // Records that an earlier taint has left, which no table shows, are told besides, to one or two each. What is acknowledged
    // late is said again, and acknowledged again.
    let (statements, acknowledged) = (sum(|of| of.statements), grown("acknowledgements"));
    let besides = 2 * grown("migrates") + grown("resends");
    assert!((statements..=statements + besides).contains(&acknowledged), "{acknowledged}, {besides} besides");
}

/// Connections of slots whose backend is another now; and of these, the ones that talk.
fn of_changed<'a>(
    connections: &'a [Held],
    old: &Table,
    new: &Table,
    protocol: u8,
) -> (Vec<&'a Held>, Vec<&'a Held>) {
    let moved = |held: &&Held| old.backend(held.source, protocol) != new.backend(held.source, protocol);
    let changed: Vec<&Held> = connections.iter().filter(moved).collect();
    let share = old.changed(new) as f64 / f64::from(oracle::slots());
    let seen = changed.len() as f64 / connections.len() as f64;
    assert!((share - seen).abs() < 0.08, "{share} of the slots changed, those of {seen} of the connections");
    let talking = changed.iter().copied().filter(|held| !held.silent).collect();
    (changed, talking)
}

/// Machines that know nothing of one another: what a change of routes breaks is exactly what the tables say. This is what
/// the tests of the cluster are measured against.
#[test]
fn machines_on_their_own_break_what_their_tables_say() {
    let lab = lab("machines on their own", false);
    let mut stage = Stage::start(&lab, Kind::ALONE, up(&[1, 2, 3]));
    let old = stage.table();
    let mut run = hold(&lab, CONNECTIONS, CONNECTIONS / 2, false);
    let ids = stage.machines.ids();
    let measured: Vec<(&str, u32)> =
        ids.iter().map(|(name, id)| (name.as_str(), *id)).chain([("load", run.id())]).collect();
    let usage = Usage::begin(&measured).unwrap();

    // Routes move, and a machine dies and returns, while all tables are alike: nothing breaks.
    lab.route_vips(&[2, 3]).unwrap();
    pause(1000);
    lab.route_vips(&[1, 2, 3]).unwrap();
    let new = short(&lab);
    pause(1000);
    let death = Death::of(&mut stage, 3);
    pause(2000);
    stage.machines.spawn(3).unwrap();
    stage.machines.wait_ready(3).unwrap();
    stage.wait_up();
    lab.route_vips(&[1, 2, 3]).unwrap();
    pause(1000);
    // Nobody else is asked, so nobody waits for an answer of the dead.
    death.judge(&new.stop().unwrap(), Duration::ZERO);
    assert_eq!(run.progress().failed, 0);

    // Tables change while no route moves: nothing breaks.
    stage.change(drained(&[1], &[2, 3, 4]));
    pause(1000);
    assert_eq!(run.progress().failed, 0);

    // Both: what the first machine does not know goes where its table says now. And what the third knew before it died.
    let (known, by_second) = (stage.known(1), stage.known(2));
    lab.route_vips(&[1]).unwrap();
    pause(2000);
    lab.route_vips(&[1, 2, 3]).unwrap();
    pause(500);
    run.wake().unwrap();
    pause(1500);
    println!("{}", usage.end().unwrap());
    let report = run.stop().unwrap();

    assert_eq!(report.connections.len(), CONNECTIONS);
    let new = stage.table();
    for held in &report.connections {
        assert_eq!(held.backend.as_deref(), Some(old.backend(held.source, TCP)), "{held:?}");
    }
    let (changed, talking) = of_changed(&report.connections, &old, &new, TCP);
    let is_lost = |held: &&Held| {
        let kept = held.silent && by_second.contains(&held.source);
        !known.contains(&held.source) && !kept
    };
    let expected = clients(changed.iter().copied().filter(is_lost));
    let broken = report.broken();
    println!(
        "{} of {} connections are in slots that changed, {} of these talk; {} are at a machine that does not know them; {} broke; \
         slowest exchange {} us",
        changed.len(),
        report.connections.len(),
        talking.len(),
        expected.len(),
        broken.len(),
        report.slowest_us()
    );
    assert!(expected.len() > 30, "the test needs something to break");
    assert_eq!(clients(broken.iter().copied()), expected);
    for held in broken {
        assert_eq!(held.broken.as_ref().unwrap().how, How::Reset, "{held:?}");
    }
    stage.stop();
}

/// The same with a cluster, and then the death and the return of a machine: nothing breaks.
#[test]
fn flows_survive_changes_of_tables_routes_and_machines() {
    let lab = lab("cluster", true);
    let store = lab.start_store().unwrap();
    let mut stage = Stage::start(&lab, Kind::CLUSTER, up(&[1, 2, 3]));
    let begun = stage.table();
    let mut run = hold(&lab, CONNECTIONS, CONNECTIONS / 2, false);
    let ids = stage.machines.ids();
    let others = [("load", run.id()), ("etcd", store.id().unwrap())];
    let measured: Vec<(&str, u32)> =
        ids.iter().map(|(name, id)| (name.as_str(), *id)).chain(others).collect();
    let usage = Usage::begin(&measured).unwrap();

    // S1. One backend is drained, another added; then one machine gets everything; then all three again.
    let forecasts = stage.forecasts(&drained(&[1], &[2, 3]));
    let (quiet, before) = (stage.table(), Snapshot::take(&stage));
    stage.change(drained(&[1], &[2, 3]));
    judge_forecasts(&forecasts, &quiet, &stage, &before, &Snapshot::take(&stage));
    stage.change(drained(&[1], &[2, 3, 4]));
    pause(1000);
    let known = stage.known(1);
    let captures = stage.listen();
    let before = Snapshot::take(&stage);
    lab.route_vips(&[1]).unwrap();
    let mut jumps = vec![Jump::watch(&stage, "the jump to one machine")];
    let after = Snapshot::take(&stage);
    let frames: Vec<Vec<Vec<u8>>> = captures.into_iter().map(|capture| capture.frames().unwrap()).collect();
    let owners = stage.owners(&frames.concat());
    lab.route_vips(&[1, 2, 3]).unwrap();
    jumps.push(Jump::watch(&stage, "the jump back"));
    println!("S1: {} broken", run.progress().failed);
    assert_eq!(run.progress().failed, 0, "S1");

    // S2. A machine dies; the routes are repaired 300 ms later.
    let new = short(&lab);
    pause(2000);
    let death = Death::of(&mut stage, 3);
    jumps.push(Jump::watch(&stage, "the repair"));
    pause(1000);
    println!("S2: {} broken", run.progress().failed);
    assert_eq!(run.progress().failed, 0, "S2");

    // S3. It returns.
    stage.machines.spawn(3).unwrap();
    let took = stage.machines.wait_ready(3).unwrap();
    stage.wait_up();
    stage.tell_drops();
    lab.route_vips(&[1, 2, 3]).unwrap();
    println!("S3: routed to all three at {}", unix_ms());
    jumps.push(Jump::watch(&stage, "the return"));
    pause(1000);
    println!("S3: {} broken; the machine was ready after {took:?}", run.progress().failed);
    assert_eq!(run.progress().failed, 0, "S3");

    run.wake().unwrap();
    pause(1500);

    // And another one leaves, in good order, with new connections beside.
    let new = new.stop().unwrap();
    let beside_leave = short(&lab);
    pause(500);
    stage.machines.leave(2).unwrap();
    lab.route_vips(&[1, 3]).unwrap();
    let left = Instant::now();
    stage.machines.ended(2, Duration::from_secs(30)).unwrap();
    println!("the leave took {:?}", left.elapsed());
    pause(1500);
    println!("{}", usage.end().unwrap());
    stage.tell_drops();
    let beside_leave = beside_leave.stop().unwrap();
    println!(
        "{} new connections, {} failed, {} late",
        beside_leave.ok,
        beside_leave.failed,
        beside_leave.slow.len()
    );
    assert_eq!(beside_leave.failed, 0, "{:?}", beside_leave.failures);
    let report = run.stop().unwrap();
    unharmed(&report, CONNECTIONS, &begun, TCP);

    assert!(new.ok >= NEW_RATE * 8, "{} new connections", new.ok);
    // A SYN that was relayed to the dead machine before it was suspect is sent again after a second.
    death.judge(&new, SUSPECT);

    // The mechanism did it: the first machine asked for what others own, and was told.
    let now = stage.table();
    let (changed, talking) = of_changed(&report.connections, &begun, &now, TCP);
    let unknown: Vec<&Held> = talking.iter().copied().filter(|held| !known.contains(&held.source)).collect();
    let foreign = |client: SocketAddr| !owners.contains(1, now.slot(client, TCP));
    let asked = unknown.iter().filter(|held| foreign(held.source)).count();
    let relayed = messages::relayed(&frames[0]);
    let cached = after.of(1, "answers_cached") - before.of(1, "answers_cached");
    println!(
        "{} connections of slots that changed, {} talk, {} of these unknown to the first machine, {asked} of these owned by \
         the others; answers cached {cached}; relayed packets {} of {} flows, at most {} of one",
        changed.len(),
        talking.len(),
        unknown.len(),
        relayed.values().sum::<u64>(),
        relayed.len(),
        relayed.values().max().unwrap_or(&0),
    );
    assert!(cached as f64 >= 0.8 * asked as f64 && cached >= 30, "{cached} answers cached");
    assert!(relayed.values().all(|&count| count <= 5), "{relayed:?}");
    let asking =
        unknown.iter().filter(|held| foreign(held.source) && relayed.contains_key(&held.source)).count();
    assert!(asking as f64 >= 0.8 * asked as f64, "{asking} of {asked} were relayed");
    // Other slots are tainted as well: the backends came up one after another when the machines started, and a machine
    // that has just started cannot say that nobody needs the taint. But none is asked for without need.
    for client in relayed.keys() {
        assert!(foreign(*client) && !known.contains(client), "{client} was relayed");
    }
    let held = clients(&report.connections);
    jumps.iter().for_each(|jump| jump.judge(&held));
    stage.stop();
}

/// What S1 costs without synchronisation: only `cur`, no taint, no base, no owner.
#[test]
fn without_synchronisation_flows_break() {
    let lab = lab("sync off", true);
    let _store = lab.start_store().unwrap();
    let kind = Kind { cluster: Some("sync = \"off\"\n"), ..Kind::CLUSTER };
    let mut stage = Stage::start(&lab, kind, up(&[1, 2, 3]));
    let begun = stage.table();
    let run = hold(&lab, CONNECTIONS, 0, false);
    stage.change(drained(&[1], &[2, 3]));
    stage.change(drained(&[1], &[2, 3, 4]));
    pause(1000);
    lab.route_vips(&[1]).unwrap();
    pause(2500);
    lab.route_vips(&[1, 2, 3]).unwrap();
    pause(1000);
    let report = run.stop().unwrap();
    let (changed, _) = of_changed(&report.connections, &begun, &stage.table(), TCP);
    let (broken, changed) = (clients(report.broken()), clients(changed));
    println!("{} of {} connections of slots that changed broke", broken.len(), changed.len());
    assert!(broken.len() * 2 >= changed.len(), "{} of {} broke", broken.len(), changed.len());
    assert!(broken.is_subset(&changed), "{:?}", broken.difference(&changed));
    stage.stop();
}

/// Datagrams of silent flows that come after a change and a jump; with and without the export of what machines know.
#[test]
fn silent_flows_need_the_export() {
    let lab = lab("export", true);
    let mut lost = BTreeMap::new();
    for (word, lines) in [("on", "export = \"on\"\n"), ("off", "export = \"off\"\n")] {
        let store = lab.start_store().unwrap();
        let mut stage = Stage::start(&lab, Kind { cluster: Some(lines), ..Kind::CLUSTER }, up(&[1, 2, 3]));
        let begun = stage.table();
        let mut run = hold(&lab, CONNECTIONS, CONNECTIONS / 2, true);
        stage.change(drained(&[1], &[2, 3, 4]));
        pause(1000);
        lab.route_vips(&[1]).unwrap();
        pause(1000);
        run.wake().unwrap();
        pause(2000);
        lab.route_vips(&[1, 2, 3]).unwrap();
        pause(1000);
        let report = run.stop().unwrap();
        let silent = report.broken().iter().filter(|held| held.silent).count();
        println!("export {word}: {} broken, {silent} of them were silent", report.broken().len());
        if word == "on" {
            unharmed(&report, CONNECTIONS, &begun, UDP);
        }
        lost.insert(word, silent);
        stage.stop();
        store.forget().unwrap();
    }
    assert!(lost["off"] > 0, "{lost:?}");
}

/// Nothing changes: the machines exchange heartbeats, whatever the number of new connections.
#[test]
fn at_rest_machines_exchange_heartbeats_only() {
    let lab = lab("steady state", true);
    let _store = lab.start_store().unwrap();
    let mut stage = Stage::start(&lab, Kind { idle_s: 3, ..Kind::CLUSTER }, up(&[1, 2, 3]));
    let new = short(&lab);
    pause(1000);
    stage.change(drained(&[1], &[2, 3, 4]));
    assert!(stage.tainted() > 0, "a change taints");
    until("the end of the last taint", Duration::from_secs(20), || match stage.tainted() {
        0 => Ok(()),
        tainted => Err(format!("{tainted} slots tainted")),
    })
    .unwrap();
    // What was under way.
    pause(500);
    // These two links carry what any two of three machines say to each other.
    let captures =
        ["lb1", "lb2"].map(|port| lab.capture(port, &format!("udp port {}", messages::PORT)).unwrap());
    let before = Snapshot::take(&stage);
    let begun = Instant::now();
    let count = new.progress().done;
    std::thread::sleep(length(30, 6));
    let seconds = begun.elapsed().as_secs_f64();
    let after = Snapshot::take(&stage);
    for capture in captures {
        let (heartbeats, others) = messages::heartbeats_and_others(&capture.frames().unwrap());
        println!("on the wire: {heartbeats} heartbeats, others: {others:?}");
        assert!(
            heartbeats as f64 > 30.0 * seconds,
            "to and from two others, ten a second each: {heartbeats}"
        );
        assert!(others.is_empty(), "{others:?}");
    }
    let connections = new.progress().done - count;
    let report = new.stop().unwrap();
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    assert!(connections as f64 >= NEW_RATE as f64 * seconds * 0.9, "{connections} in {seconds} s");
    for index in 1..=3 {
        let grown: BTreeMap<&str, u64> =
            SYNC.iter().map(|name| (*name, after.of(index, name) - before.of(index, name))).collect();
        println!("machine {index} in {seconds:.1} s with {connections} new connections in all: {grown:?}");
        for (name, count) in grown {
            if name == "heartbeats" {
                // To each of the two others, ten a second.
                let expected = 20.0 * seconds;
                assert!((count as f64 - expected).abs() < 0.2 * expected, "{count} heartbeats");
            } else {
                assert_eq!(count, 0, "{name} of machine {index}");
            }
        }
    }
    stage.stop();
}

/// A slot that changes twice while flows of both earlier backends are idle.
#[test]
fn flows_of_two_earlier_backends_stay() {
    let lab = lab("two changes", true);
    let _store = lab.start_store().unwrap();
    let mut stage = Stage::start(&lab, Kind::CLUSTER, up(&[1]));
    let first = stage.table();
    let mut oldest = hold(&lab, 300, 300, false);
    stage.change(drained(&[1], &[2]));
    let second = stage.table();
    let mut older = hold(&lab, 300, 300, false);
    stage.change(drained(&[1, 2], &[3]));
    assert_eq!(stage.tainted(), 2 * u64::from(oracle::slots()), "both services' slots changed, all of them");
    pause(500);
    lab.route_vips(&[2]).unwrap();
    pause(500);
    oldest.wake().unwrap();
    older.wake().unwrap();
    pause(2500);
    lab.route_vips(&[1, 3]).unwrap();
    pause(2000);
    unharmed(&oldest.stop().unwrap(), 300, &first, TCP);
    unharmed(&older.stop().unwrap(), 300, &second, TCP);
    stage.stop();
}

/// Two workers a machine: the kernel spreads frames over them by its own hash, so that half of the flows that have to ask
/// have their owner on the other core.
#[test]
fn flows_whose_owner_is_another_core_survive() {
    let lab = lab("two workers a machine", true);
    let _store = lab.start_store().unwrap();
    let mut stage = Stage::start(&lab, Kind { workers: 2, ..Kind::CLUSTER }, up(&[1, 2, 3]));
    let begun = stage.table();
    let mut run = hold(&lab, CONNECTIONS, CONNECTIONS / 2, false);
    let new = short(&lab);
    stage.change(drained(&[1], &[2, 3]));
    stage.change(drained(&[1], &[2, 3, 4]));
    pause(1000);
    for routes in [&[1_u8][..], &[2, 3], &[1, 2, 3]] {
        lab.route_vips(routes).unwrap();
        pause(1500);
    }
    run.wake().unwrap();
    pause(2500);
    let new = new.stop().unwrap();
    unharmed(&run.stop().unwrap(), CONNECTIONS, &begun, TCP);
    assert_eq!(new.failed, 0, "{:?}", new.failures);
    for index in 1..=3 {
        let rows = stage.machines.workers(index).unwrap();
        assert_eq!(rows.len(), 2);
        for (core, row) in rows.iter().enumerate() {
            let field = |name: &str| row[name].as_u64().unwrap();
            println!(
                "machine {index}, core {core}: {} in by rings, {} out",
                field("ring_in"),
                field("ring_out")
            );
            assert!(field("ring_in") > 0 && field("ring_out") > 0, "{row}");
        }
    }
    stage.stop();
}

/// ACKs of no flow, into slots that are all tainted: each would be a question.
#[test]
fn a_flood_of_acks_is_no_flood_of_relays() {
    let lab = lab("flood", true);
    let _store = lab.start_store().unwrap();
    // The backends share their processors with the flood; a check that comes too late is no matter of this test.
    let mut stage = Stage::start(&lab, Kind { checks: false, ..Kind::CLUSTER }, up(&[1, 2]));
    let begun = stage.table();
    let mut run = hold(&lab, CONNECTIONS, CONNECTIONS / 2, false);
    stage.change(drained(&[1, 2], &[3, 4]));
    assert_eq!(stage.tainted(), 2 * u64::from(oracle::slots()));
    let SocketAddr::V4(target) = target() else { panic!("the VIP is not IPv4") };
    let v4 = |address| if let IpAddr::V4(v4) = address { Some(v4) } else { None };
    let duration = length(10, 4);
    let load = FloodLoad {
        of: FloodOf::Acks,
        target: SocketAddrV4::new(*target.ip(), target.port()),
        sources: sources(&lab).into_iter().filter_map(v4).collect(),
        rate: 50_000,
        duration_ms: u64::try_from(duration.as_millis()).unwrap(),
        seed: 4,
    };
    let (before, drops_before) = (Snapshot::take(&stage), stage.limited());
    let ids = stage.machines.ids();
    let usage = Usage::begin(&ids.iter().map(|(name, id)| (name.as_str(), *id)).collect::<Vec<_>>()).unwrap();
    let begun_at = Instant::now();
    let flood = lab.flood(load).unwrap().finish(duration + Duration::from_secs(20)).unwrap();
    let seconds = begun_at.elapsed().as_secs_f64();
    println!("{}", usage.end().unwrap());
    let (after, drops_after) = (Snapshot::take(&stage), stage.limited());
    println!("{flood:?}");
    assert!(flood.elapsed_ms as f64 <= 1.1 * duration.as_millis() as f64, "the flood was slow: {flood:?}");
    let (rate, burst) = stage.relay_bucket();
    let allowed = rate as f64 * seconds + burst as f64;
    for index in 1..=3 {
        let relays = after.of(index, "relays") - before.of(index, "relays");
        let refused = drops_after[&index] - drops_before[&index];
        let rx = after.of(index, "rx") - before.of(index, "rx");
        println!(
            "machine {index}: {rx} frames, {relays} relayed, {allowed:.0} allowed in {seconds:.1} s, {refused} questions refused"
        );
        assert!(relays as f64 <= allowed, "machine {index}: {relays} of {allowed}");
    }
    run.wake().unwrap();
    pause(2500);
    unharmed(&run.stop().unwrap(), CONNECTIONS, &begun, TCP);
    stage.stop();
}

/// The store dies and returns with its data: traffic does not notice, changes wait.
#[test]
fn the_store_may_be_away() {
    let lab = lab("store away", true);
    let mut store = lab.start_store().unwrap();
    let mut stage = Stage::start(&lab, Kind::CLUSTER, up(&[1, 2, 3]));
    let begun = stage.table();
    let mut run = hold(&lab, CONNECTIONS, CONNECTIONS / 2, false);
    let new = short(&lab);
    pause(1000);
    let away = Instant::now();
    store.kill();
    let after = drained(&[1], &[2, 3, 4]);
    let rest = length(60, 10);
    std::thread::sleep(rest / 2);
    match stage.machines.apply_to_cluster(1, after.clone()) {
        Err(LabError::Wrong(text)) => {
            println!("a change meanwhile: {text}");
            assert!(text.contains("store"), "the reason is named: {text}");
        }
        other => panic!("a change without a store: {other:?}"),
    }
    lab.route_vips(&[1, 2]).unwrap();
    std::thread::sleep(rest.saturating_sub(away.elapsed()));
    assert_eq!(run.progress().failed, 0, "while it was away");
    store.start().unwrap();
    let returned = Instant::now();
    lab.route_vips(&[1, 2, 3]).unwrap();
    until("a change after the return", Duration::from_secs(20), || {
        stage.machines.apply_to_cluster(1, after.clone()).map(drop).map_err(|error| error.to_string())
    })
    .unwrap();
    stage.members = after;
    stage.wait_up();
    println!("the store was away {:?}; a change worked {:?} after its return", rest, returned.elapsed());
    pause(1000);
    lab.route_vips(&[3]).unwrap();
    pause(1500);
    run.wake().unwrap();
    pause(2500);
    unharmed(&run.stop().unwrap(), CONNECTIONS, &begun, TCP);
    let new = new.stop().unwrap();
    println!("{} new connections, {} failed, {} late", new.ok, new.failed, new.slow.len());
    assert_eq!((new.failed, new.slow.len()), (0, 0), "{:?} {:?}", new.failures, new.slow);
    stage.stop();
}
