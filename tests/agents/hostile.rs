//! What a machine must bear from whoever reaches its agents' address.

use crate::speaker::{Heard, Speaker, Who, up};
use crate::stage::{backends, generations, pause, requests, table_generations};
use guideway_lab::agent::{AgentConfig, listen, token};
use guideway_lab::command::until;
use guideway_lab::load::unix_ms;
use guideway_lab::machines::Machines;
use guideway_lab::topology::{STORE, backend_address};
use guideway_lab::{Agent, Lab};
use model::agent::seal::SEAL_BYTES;
use model::agent::{FRAME_MAX, HELLO_TIMEOUT_MS, Phase, RefusalCode, ToAgent};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Idle connections that somebody opens.
const IDLE: usize = 10_000;
/// Threads that open them.
const OPENERS: usize = 10;
/// Connections of one address that have not said who they are.
const STRANGERS_MAX: usize = 64;

fn address(index: u8) -> IpAddr {
    backend_address(index).parse().unwrap()
}

fn who(agent: &str, index: u8, token: &str) -> Who {
    Who {
        agent: agent.to_owned(),
        incarnation: unix_ms(),
        addresses: vec![address(index)],
        services: vec![("web".to_owned(), token.to_owned())],
    }
}

/// The code of a refusal that closes the connection, or of one that does not.
fn refusal(heard: &Heard) -> Option<RefusalCode> {
    match heard {
        Heard::Message(ToAgent::Refused { code, .. }) => Some(*code),
        _ => None,
    }
}

/// Point 6.
pub(crate) fn hostile_agents_are_refused(lab: &Lab, machines: &Machines<'_>) {
    let run = lab.http(requests(lab, 200)).unwrap();
    pause(500);
    the_same_again_changes_nothing(lab, machines);
    an_impostor_is_refused_and_counted(lab, machines);
    a_wrong_token_is_refused(lab);
    a_recorded_session_proves_nothing(lab, machines);
    what_is_no_message_ends_its_connection(lab);
    silent_connections_end(lab);
    idle_connections_are_few(lab, machines);
    let report = run.stop().unwrap();
    println!("point 6: {} requests meanwhile, {} failed", report.ok + report.failed, report.failed);
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    assert!(report.ok > 1000);
}

fn names(machines: &Machines<'_>) -> Vec<String> {
    backends(machines, 1, "web").iter().filter_map(|row| row["name"].as_str().map(str::to_owned)).collect()
}

/// A backend that registers twice is one, and the second time makes no generation.
fn the_same_again_changes_nothing(lab: &Lab, machines: &Machines<'_>) {
    let host = lab.backend(4).unwrap().namespace();
    let me = who("host4", 4, &token("web"));
    let mut speakers: Vec<Speaker> = (1..=2).map(|index| Speaker::connect(host, &listen(index))).collect();
    for speaker in &mut speakers {
        assert!(matches!(speaker.hello(&me), Heard::Message(ToAgent::Welcome { .. })));
        speaker.register("web", "b4", address(4), me.incarnation);
        speaker.report_up("web", "b4");
    }
    until("b4", Duration::from_secs(5), || {
        if names(machines).contains(&"b4".to_owned()) {
            Ok(())
        } else {
            Err(format!("{:?}", names(machines)))
        }
    })
    .unwrap();
    // What is under way comes to its end first.
    let now = || (names(machines), generations(machines), table_generations(machines));
    let mut before = now();
    until("quiet machines", Duration::from_secs(10), || {
        speakers.iter_mut().for_each(Speaker::heartbeat);
        pause(1000);
        let last = std::mem::replace(&mut before, now());
        if last == before { Ok(()) } else { Err(format!("{last:?}, {before:?}")) }
    })
    .unwrap();
    for speaker in &mut speakers {
        for _ in 0..10 {
            speaker.register("web", "b4", address(4), me.incarnation);
        }
        speaker.report(vec![up("web", "b4", address(4))]);
        speaker.heartbeat();
    }
    pause(1000);
    let after = now();
    println!(
        "point 6: registered twice: {} backends, generations {:?} before, {:?} after",
        after.0.len(),
        before.1,
        after.1
    );
    assert_eq!(after, before);
    for speaker in &mut speakers {
        let (service, backend, address) = ("web".to_owned(), "b4".to_owned(), address(4));
        speaker.say(&model::agent::ToMachine::Deregister { service, backend, address });
    }
    until("the end of b4", Duration::from_secs(5), || {
        let row = backends(machines, 1, "web").into_iter().find(|row| row["name"] == "b4");
        match row {
            Some(row) if row["state"] == "up" => Err(row.to_string()),
            _ => Ok(()),
        }
    })
    .unwrap();
}

/// Registrations that a machine has refused because somebody else has what they claim.
fn claims_refused(machines: &Machines<'_>, index: u8) -> u64 {
    let metrics = machines.get(index).unwrap().api().request("GET", "/metrics", "").unwrap().body;
    let line = metrics
        .lines()
        .find(|line| line.starts_with("guideway_registrations_refused_total{code=\"claimed\"}"));
    let line = line.unwrap_or_else(|| panic!("no count of refused claims in {metrics}"));
    line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64
}

/// Somebody who has the token, and claims a name or an address of a backend that lives.
fn an_impostor_is_refused_and_counted(lab: &Lab, machines: &Machines<'_>) {
    let host = lab.backend(4).unwrap().namespace();
    let before = claims_refused(machines, 1);
    for (name, at) in [("b1", 4), ("mine", 1)] {
        let me = who("impostor", at, &token("web"));
        let mut speaker = Speaker::connect(host, &listen(1));
        assert!(matches!(speaker.hello(&me), Heard::Message(ToAgent::Welcome { .. })));
        speaker.register("web", name, address(at), unix_ms());
        let code = speaker.hear_of(Duration::from_secs(2), |message| match message {
            ToAgent::Refused { code, backend, .. } if backend.as_deref() == Some(name) => Some(*code),
            _ => None,
        });
        assert_eq!(code, Some(RefusalCode::Claimed), "{name} at {}", address(at));
    }
    let counted = claims_refused(machines, 1) - before;
    println!("point 6: an impostor was refused by name and by address; {counted} counted");
    assert_eq!(counted, 2);
    let row = backends(machines, 1, "web").into_iter().find(|row| row["name"] == "b1").unwrap();
    assert_eq!((row["address"].as_str(), row["state"].as_str()), (Some("10.0.2.21"), Some("up")));
}

fn a_wrong_token_is_refused(lab: &Lab) {
    let host = lab.backend(4).unwrap().namespace();
    let mut speaker = Speaker::connect(host, &listen(1));
    let heard = speaker.hello(&who("stranger", 4, "some other token of some length"));
    println!("point 6: a wrong token: {heard:?}");
    assert_eq!(refusal(&heard), Some(RefusalCode::Proof));
    speaker.register("web", "stranger", address(4), 1);
    let phase = speaker.hear_of(Duration::from_secs(1), |message| match message {
        ToAgent::State { state, .. } => Some(*state),
        _ => None,
    });
    assert!(phase.is_none_or(|phase| phase == Phase::Gone), "{phase:?}");
}

/// What an agent said on its way through a relay, said again to the same machine.
fn a_recorded_session_proves_nothing(lab: &Lab, machines: &Machines<'_>) {
    let management = lab.management().unwrap().clone();
    let relay = format!("{STORE}:7490");
    let recorded = record(&management, &relay, &listen(1));
    let config = AgentConfig {
        name: "recorded".into(),
        machines: vec![relay],
        ..AgentConfig::of(lab, 4, &["web"]).unwrap().registering("web", "recorded", 4, "")
    };
    let agent = Agent::on(lab, 4, &config).unwrap();
    until("a recorded registration", Duration::from_secs(10), || {
        if names(machines).contains(&"recorded".to_owned()) {
            Ok(())
        } else {
            Err(format!("{:?}", names(machines)))
        }
    })
    .unwrap();
    agent.stop().unwrap();
    until("the end of the recorded backend", Duration::from_secs(5), || {
        let row = backends(machines, 1, "web").into_iter().find(|row| row["name"] == "recorded");
        match row {
            Some(row) if row["state"] == "up" => Err(row.to_string()),
            _ => Ok(()),
        }
    })
    .unwrap();
    let bytes = recorded.lock().unwrap().clone();
    assert!(bytes.windows(8).any(|of| of == b"register"), "{}", String::from_utf8_lossy(&bytes));
    let mut speaker = Speaker::connect(lab.backend(4).unwrap().namespace(), &listen(1));
    drop(speaker.stream.write_all(&bytes));
    let heard = speaker.hear(Duration::from_secs(2));
    println!("point 6: {} bytes of a session said again: {heard:?}", bytes.len());
    assert_eq!(refusal(&heard), Some(RefusalCode::Proof));
    assert!(speaker.is_closed_within(Duration::from_secs(1)));
    pause(500);
    let row = backends(machines, 1, "web").into_iter().find(|row| row["name"] == "recorded");
    assert!(row.is_none_or(|row| row["state"] != "up"));
}

/// Relays one connection to a machine, and returns what its client says.
fn record(namespace: &guideway_lab::Namespace, at: &str, to: &str) -> Arc<Mutex<Vec<u8>>> {
    let listener = namespace.inside(|| TcpListener::bind(at)).unwrap().unwrap();
    let machine = namespace.inside(|| TcpStream::connect(to)).unwrap().unwrap();
    let recorded: Arc<Mutex<Vec<u8>>> = Arc::default();
    let record = Arc::clone(&recorded);
    std::thread::spawn(move || {
        let Ok((agent, _)) = listener.accept() else { return };
        drop(listener);
        let (Ok(mut from_machine), Ok(mut to_agent)) = (machine.try_clone(), agent.try_clone()) else {
            return;
        };
        std::thread::spawn(move || {
            drop(std::io::copy(&mut from_machine, &mut to_agent));
            drop(to_agent.shutdown(Shutdown::Both));
        });
        let (mut agent, mut machine) = (agent, machine);
        let mut bytes = [0_u8; 4096];
        while let Ok(length @ 1..) = agent.read(&mut bytes) {
            record.lock().unwrap().extend_from_slice(&bytes[..length]);
            if machine.write_all(&bytes[..length]).is_err() {
                break;
            }
        }
        drop(machine.shutdown(Shutdown::Both));
    });
    recorded
}

/// A message that is too long, and bytes that are no message, before and after the hello.
fn what_is_no_message_ends_its_connection(lab: &Lab) {
    let host = lab.backend(4).unwrap().namespace();
    // Sealed or not.
    let too_long = u32::try_from(FRAME_MAX + SEAL_BYTES + 1).unwrap().to_be_bytes().to_vec();
    let nonsense = [&9_u32.to_be_bytes()[..], b"{\"type\":1"].concat();
    for (what, bytes) in
        [("too long", too_long), ("endless", vec![0xff; 4]), ("empty", vec![0; 4]), ("nonsense", nonsense)]
    {
        for after_hello in [false, true] {
            let mut speaker = Speaker::connect(host, &listen(1));
            if after_hello {
                let heard = speaker.hello(&who("talker", 4, &token("web")));
                assert!(matches!(heard, Heard::Message(ToAgent::Welcome { .. })), "{heard:?}");
            }
            drop(speaker.stream.write_all(&bytes));
            assert!(
                speaker.is_closed_within(Duration::from_secs(2)),
                "{what}, after the hello: {after_hello}"
            );
        }
    }
    println!("point 6: messages that are too long, empty or none ended their connections at once");
}

/// Connections that say nothing, and such that stop in the middle of a message.
fn silent_connections_end(lab: &Lab) {
    let host = lab.backend(4).unwrap().namespace();
    let mut silent = Speaker::mute(host, &listen(1));
    let mut half = Speaker::connect(host, &listen(1));
    half.stream.write_all(&[&100_u32.to_be_bytes()[..], b"{\"type\":\"hello\""].concat()).unwrap();
    let begun = Instant::now();
    assert!(half.is_closed_within(Duration::from_millis(HELLO_TIMEOUT_MS + 500)));
    assert!(silent.is_closed_within(Duration::from_millis(500)));
    println!("point 6: half-open connections ended after {:?}", begun.elapsed());
}

/// Ten thousand connections that say nothing: few are kept, and agents elsewhere are heard as ever.
fn idle_connections_are_few(lab: &Lab, machines: &Machines<'_>) {
    // The limit of descriptors of this process is as good as any for how many it can open.
    let limits = getrlimit(Resource::Nofile);
    let wanted = (IDLE + 1000) as u64;
    if limits.current.is_some_and(|current| current < wanted) {
        setrlimit(
            Resource::Nofile,
            Rlimit { current: Some(wanted), maximum: limits.maximum.map(|old| old.max(wanted)) },
        )
        .unwrap();
    }
    let pid = machines.get(1).unwrap().id();
    let (files, memory) = (files(pid), memory_kib(pid));
    let host = lab.backend(4).unwrap().namespace();
    let to: std::net::SocketAddr = listen(1).parse().unwrap();
    let begun = Instant::now();
    let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(3)).ok();
    let connect_many =
        || host.inside(|| (0..IDLE / OPENERS).filter_map(|_| connect()).collect::<Vec<TcpStream>>()).unwrap();
    let (open, greeted, most) = std::thread::scope(|scope| {
        let openers: Vec<_> = (0..OPENERS).map(|_| scope.spawn(connect_many)).collect();
        pause(500);
        // Somebody else, at the same time.
        let begun = Instant::now();
        let mut speaker = Speaker::connect(lab.management().unwrap(), &listen(1));
        let heard = speaker.hello(&who("neighbour", 4, &token("web")));
        let greeted = begun.elapsed();
        assert!(matches!(heard, Heard::Message(ToAgent::Welcome { .. })), "{heard:?}");
        let most = self::files(pid);
        let open: Vec<TcpStream> = openers.into_iter().flat_map(|opener| opener.join().unwrap()).collect();
        (open, greeted, most.max(self::files(pid)))
    });
    let took = begun.elapsed();
    let grown = memory_kib(pid).saturating_sub(memory);
    println!(
        "point 6: {} idle connections opened in {took:?}: the machine had {} descriptors more and {grown} KiB of memory more, and \
         welcomed another agent after {greeted:?}",
        open.len(),
        most.saturating_sub(files)
    );
    assert!(open.len() >= IDLE * 9 / 10, "{} of {IDLE} were made", open.len());
    // One in the act of being closed, and what the API has open.
    assert!(most <= files + STRANGERS_MAX + 16, "{most} descriptors, {files} before");
    assert!(grown < 32 * 1024, "{grown} KiB");
    drop(open);
    until("the end of the idle connections", Duration::from_millis(HELLO_TIMEOUT_MS + 2000), || {
        let now = self::files(pid);
        if now <= files + 8 { Ok(()) } else { Err(format!("{now} descriptors, {files} before")) }
    })
    .unwrap();
}

/// Open descriptors of a process.
fn files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Resident memory of a process.
fn memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
