//! A thousand backends that register within a second.

use crate::speaker::{Heard, Speaker, Who, up};
use crate::stage::{backends, check, echo, echo_target, generations, members, pause, table_generations};
use guideway_lab::Lab;
use guideway_lab::agent::{listen, token};
use guideway_lab::command::until;
use guideway_lab::config::Service;
use guideway_lab::load::echo::EchoLoad;
use guideway_lab::load::unix_ms;
use guideway_lab::machines::Machines;
use guideway_lab::topology::backend_address;
use model::agent::{BackendReport, ToAgent};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Backends that register.
const BACKENDS: u16 = 1000;
/// Time in which they do, milliseconds.
const STORM_MS: u64 = 1000;
/// Changes of tables that this may cost: four a second while it lasts, and what is under way before and after.
const GENERATIONS_MAX: u64 = 12;
/// Connections that run meanwhile.
const CONNECTIONS: usize = 50;
/// CPU time that a worker may need for one turn, microseconds, where the program is not optimized; where it is, it must not count one as
/// long: two milliseconds.
const UNOPTIMIZED_TURN_US: u64 = 20_000;

/// Whether the balancers are a release build.
fn is_optimized(lab: &Lab) -> bool {
    lab.binaries().guidewayd.components().any(|of| of.as_os_str() == "release")
}

/// Service `echo` on three hosts that are in its file, and whoever registers on the fourth.
pub(crate) fn service(lab: &Lab) -> Service {
    let token = lab.token("echo").unwrap();
    Service {
        health: check("kind = \"tcp\"\n"),
        agents: format!(
            "token_file = \"{}\"\nlease_ms = 10000\n[service.agents.register]\naddresses = [\"10.40.0.0/22\"]\nlimit = {}\n",
            token.display(),
            BACKENDS
        ),
        ..echo(lab, members(3), "")
    }
}

fn name(index: u16) -> String {
    format!("s{index}")
}

fn address(index: u16) -> IpAddr {
    let [high, low] = (index + 1).to_be_bytes();
    Ipv4Addr::new(10, 40, high, low).into()
}

/// Point 7.
pub(crate) fn a_thousand_registrations_are_few_changes(lab: &Lab, machines: &Machines<'_>) {
    // All of them live on the fourth host: its addresses are there, and the way to them.
    let host = lab.backend(4).unwrap().namespace();
    let lines: String =
        (0..BACKENDS).map(|index| format!("address add {}/32 dev lo\n", address(index))).collect();
    host.ip_batch(&lines).unwrap();
    lab.router().ip(&format!("route add 10.40.0.0/22 via {}", backend_address(4))).unwrap();

    let target = echo_target();
    let load = EchoLoad {
        target,
        sources: lab.sources(target.ip()),
        connections: CONNECTIONS,
        interval_ms: 100,
        duration_ms: 0,
    };
    let run = lab.echo(load).unwrap();
    pause(1000);
    let long_turns = || -> Vec<u64> {
        machines.all().map(|(index, _)| machines.counter(index, "long_turns").unwrap()).collect()
    };
    let before = (generations(machines), table_generations(machines));
    let long_before = long_turns();
    let begun = Instant::now();
    let incarnation = unix_ms();
    let storms: Vec<Storm> = machines.all().map(|(index, _)| Storm::begin(lab, index, incarnation)).collect();
    let known = |index| backends(machines, index, "echo").iter().filter(|row| row["state"] == "up").count();
    for (index, _) in machines.all() {
        until(&format!("all backends on machine {index}"), Duration::from_secs(20), || {
            let count = known(index);
            if count == usize::from(BACKENDS) + 3 { Ok(()) } else { Err(format!("{count} are up")) }
        })
        .unwrap();
    }
    let took = begun.elapsed();
    pause(1500);
    let after = (generations(machines), table_generations(machines));
    let (long_after, longest_us): (Vec<u64>, Vec<u64>) = (
        long_turns(),
        machines.all().map(|(index, _)| machines.counter(index, "longest_turn_us").unwrap()).collect(),
    );
    // And their end: the lease of nobody lapses while they are here.
    let said: Vec<(Duration, u64)> = storms.into_iter().map(Storm::end).collect();
    let report = run.stop().unwrap();
    let grown = |before: &[u64], after: &[u64]| -> Vec<u64> {
        before.iter().zip(after).map(|(a, b)| b - a).collect()
    };
    let (views, tables) = (grown(&before.0, &after.0), grown(&before.1, &after.1));
    println!(
        "point 7: {BACKENDS} registrations said in {said:?} (and messages heard), all up after {took:?}: {tables:?} generations of \
         tables, {views:?} of views; {} of {CONNECTIONS} connections broke, {} echoes, the slowest {} us; the longest turn of each \
         machine's worker since its start took {longest_us:?} us of CPU time",
        report.broken.len(),
        report.echoes,
        report.round_trip_max_us
    );
    assert!(report.broken.is_empty(), "{:?}", report.broken);
    assert_eq!(report.connected, CONNECTIONS as u64);
    assert!(tables.iter().all(|grown| (1..=GENERATIONS_MAX).contains(grown)), "{tables:?}");
    if is_optimized(lab) {
        assert_eq!(long_after, long_before, "turns of more than 2 ms");
    } else {
        assert!(longest_us.iter().all(|us| *us <= UNOPTIMIZED_TURN_US), "{longest_us:?}");
    }
}

/// An agent that registers all backends with one machine, reports them up, and says that it lives until it is ended.
struct Storm {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(Duration, u64)>,
}

impl Storm {
    fn begin(lab: &Lab, machine: u8, incarnation: u64) -> Storm {
        let mut speaker = Speaker::connect(lab.backend(4).unwrap().namespace(), &listen(machine));
        let who = Who {
            agent: "storm".to_owned(),
            incarnation,
            addresses: (0..BACKENDS).map(address).collect(),
            services: vec![("echo".to_owned(), token("echo"))],
        };
        let heard = speaker.hello(&who);
        assert!(matches!(heard, Heard::Message(ToAgent::Welcome { .. })), "{heard:?}");
        let stop: Arc<AtomicBool> = Arc::default();
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let begun = Instant::now();
            let (mut registered, mut took, mut beat) = (0, Duration::ZERO, begun);
            let mut up_already = BTreeSet::new();
            let mut heard = 0;
            while !stopped.load(Ordering::Relaxed) {
                while registered < BACKENDS
                    && begun.elapsed()
                        >= Duration::from_millis(STORM_MS * u64::from(registered) / u64::from(BACKENDS))
                {
                    speaker.register("echo", &name(registered), address(registered), incarnation);
                    registered += 1;
                    took = begun.elapsed();
                }
                if beat.elapsed() >= Duration::from_millis(500) {
                    beat = Instant::now();
                    speaker.heartbeat();
                }
                match speaker.hear(Duration::from_millis(1)) {
                    // What is asked for passes its first check at once.
                    Heard::Message(ToAgent::Checks { service, backends, .. }) => {
                        let new =
                            backends.into_iter().filter(|target| up_already.insert(target.backend.clone()));
                        let results: Vec<BackendReport> =
                            new.map(|of| up(&service, &of.backend, of.address)).collect();
                        if !results.is_empty() {
                            speaker.report(results);
                        }
                        heard += 1;
                    }
                    Heard::Message(ToAgent::Refused { code, reason, .. }) => {
                        panic!("refused: {code:?}: {reason}")
                    }
                    Heard::Message(ToAgent::Resync {}) => panic!("the machine has lost a report"),
                    Heard::Message(_) => heard += 1,
                    Heard::Closed => panic!("the machine has closed the connection"),
                    Heard::Nothing => {}
                }
            }
            (took, heard)
        });
        Storm { stop, thread }
    }

    fn end(self) -> (Duration, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
