use super::*;
use crate::config::{AgentConfig, Token};
use model::config::HealthKind;

const A: &str = "10.9.0.1:7481";
const B: &str = "10.9.0.2:7481";
const TOKEN: &[u8] = b"0123456789abcdef";
/// Unix time at which tests begin, milliseconds.
const UNIX: u64 = 1_700_000_000_000;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn config(machines: &[&str]) -> AgentConfig {
    let services = [("web".to_owned(), Token::of(TOKEN)), ("db".to_owned(), Token::of(TOKEN))];
    AgentConfig {
        name: "host5".to_owned(),
        socket: "/run/x".into(),
        machines: machines.iter().map(|machine| (*machine).to_owned()).collect(),
        addresses: Some(vec![ip("10.1.0.5"), ip("10.1.0.6")]),
        tls: None,
        state_file: "/var/x".into(),
        cpu_load: true,
        services: services.into(),
        backends: Vec::new(),
        commands: [("check-db".to_owned(), vec!["/bin/true".to_owned()])].into(),
    }
}

fn backend(name: &str, address: &str) -> Backend {
    Backend {
        service: "web".to_owned(),
        name: name.to_owned(),
        address: ip(address),
        weight: 1,
        port: None,
        capacity: None,
        load_file: None,
    }
}

fn spec() -> CheckSpec {
    CheckSpec {
        kind: HealthKind::Tcp { send: None, expect: None },
        vip: ip("203.0.113.10"),
        port: 80,
        protocol: Protocol::Tcp,
        interval_ms: 500,
        timeout_ms: 200,
        fall: 3,
        rise: 2,
    }
}

fn target(name: &str, address: &str) -> Target {
    Target { backend: name.to_owned(), address: ip(address), port: 80 }
}

fn checks(revision: u64, targets: &[Target]) -> ToAgent {
    ToAgent::Checks { service: "web".to_owned(), revision, check: spec(), backends: targets.to_vec() }
}

fn result(passed: bool) -> CheckResult {
    let reason = if passed { "ok" } else { "refused" };
    CheckResult { passed, unsent: false, reason: reason.to_owned(), duration_us: 1, unix_ms: UNIX }
}

fn machine(name: &str, address: &str, leads: bool) -> MachineContact {
    MachineContact { name: name.to_owned(), address: address.parse().unwrap(), leads }
}

/// The agent and what it did.
struct Play {
    host: Host,
    now: u64,
}

impl Play {
    fn new(machines: &[&str]) -> Play {
        Play::of(config(machines))
    }

    fn of(config: AgentConfig) -> Play {
        Play { host: Host::new(config, UNIX, vec![ip("10.1.0.5")], Random::new(1)), now: 0 }
    }

    fn register(&mut self, name: &str, address: &str) -> Result<Outcome, Unfit> {
        self.host.register(backend(name, address), None, Origin::Socket, UNIX + self.now, self.now)
    }

    /// What is to be done now.
    fn acts(&mut self) -> Vec<Action> {
        self.host.tick(self.now);
        self.host.actions()
    }

    /// What is said to `link` now.
    fn said(&mut self, link: Link) -> Vec<ToMachine> {
        self.acts()
            .into_iter()
            .filter_map(|action| match action {
                Action::Send { link: to, message } if to == link => Some(*message),
                Action::Greet { link: to, hello, .. } if to == link => Some(*hello),
                _ => None,
            })
            .collect()
    }

    /// The same without heartbeats.
    fn words(&mut self, link: Link) -> Vec<ToMachine> {
        let mut words = self.said(link);
        words.retain(|word| !matches!(word, ToMachine::Heartbeat { .. }));
        words
    }

    fn hear(&mut self, link: Link, message: ToAgent) {
        self.host.heard(link, message, self.now);
    }

    /// Connections that are to be made.
    fn dials(&mut self) -> Vec<(Link, String)> {
        self.acts()
            .into_iter()
            .filter_map(|action| match action {
                Action::Dial { link, peer } => Some((link, peer)),
                _ => None,
            })
            .collect()
    }

    fn challenge(&mut self, link: Link, name: &str) {
        let (versions, nonce) = (vec![VERSION], "ab".repeat(32));
        self.hear(link, ToAgent::Challenge { versions, machine: name.to_owned(), nonce });
    }

    fn welcome(&mut self, link: Link, name: &str, machines: Vec<MachineContact>) {
        self.challenge(link, name);
        self.welcome_only(link, machines);
    }

    /// In session with one machine, without backends.
    fn in_session() -> (Play, Link) {
        let mut play = Play::new(&[A]);
        let (link, _) = play.dials()[0].clone();
        play.welcome(link, "a", vec![machine("a", A, true)]);
        let _ = play.acts();
        (play, link)
    }

    /// Checks that are begun and ended now.
    fn turns(&mut self) -> (Vec<DetectorId>, Vec<DetectorId>) {
        let (mut begun, mut ended) = (Vec::new(), Vec::new());
        for action in self.acts() {
            match action {
                Action::Start(id, _) => begun.push(id),
                Action::Stop(id) => ended.push(id),
                _ => {}
            }
        }
        (begun, ended)
    }

    fn check(&mut self, id: DetectorId, passed: bool) {
        self.host.checked(id, result(passed), self.now);
    }
}

fn report(sequence: u64, full: bool, results: &[(&str, &str, bool)]) -> ToMachine {
    let results = results.iter().map(|(name, address, up)| BackendReport {
        service: "web".to_owned(),
        backend: (*name).to_owned(),
        address: ip(address),
        up: *up,
        reason: if *up { "ok" } else { "refused" }.to_owned(),
    });
    ToMachine::Report { sequence, full, results: results.collect() }
}

fn registered(name: &str, address: &str, incarnation: u64) -> ToMachine {
    ToMachine::Register {
        service: "web".to_owned(),
        backend: name.to_owned(),
        address: ip(address),
        incarnation,
        weight: 1,
        port: None,
        capacity: None,
    }
}

#[test]
fn a_hello_proves_every_service_for_this_challenge() {
    let mut play = Play::new(&[A]);
    let (link, peer) = play.dials()[0].clone();
    assert_eq!(peer, A);
    play.challenge(link, "a");
    let words = play.said(link);
    let [ToMachine::Hello { version, agent, nonce: own, incarnation, addresses, proofs }] = words.as_slice()
    else {
        panic!("{words:?}")
    };
    assert_eq!((*version, agent.as_str(), *incarnation), (VERSION, "host5", UNIX));
    assert_eq!(addresses, &[ip("10.1.0.5"), ip("10.1.0.6")]);
    assert_eq!(proofs.len(), 2);
    for proof in proofs {
        let nonce = "ab".repeat(32);
        let service = &proof.service;
        let addresses = &AddressDigest::of(addresses);
        let (nonce, incarnation, agent_nonce) = (nonce.as_str(), *incarnation, own.as_str());
        let claim = Claim { nonce, machine: "a", agent, agent_nonce, incarnation, addresses, service };
        assert!(claim.is_proved(TOKEN, &proof.mac));
        assert!(!claim.is_proved(b"another token....", &proof.mac));
    }
}

#[test]
fn all_is_registered_with_every_machine_when_it_welcomes() {
    let mut play = Play::new(&[A]);
    play.register("web-1", "10.1.0.5").unwrap();
    play.now = 7;
    play.register("web-2", "10.1.0.6").unwrap();
    let (link, _) = play.dials()[0].clone();
    play.challenge(link, "a");
    let _ = play.acts();
    let machines = vec![machine("a", A, true), machine("b", B, false)];
    play.welcome_only(link, machines);
    let acts = play.acts();
    let said = acts.iter().filter_map(|act| match act {
        Action::Send { message, .. } => Some(message.as_ref().clone()),
        _ => None,
    });
    let said: Vec<_> = said.collect();
    assert_eq!(said[0], registered("web-1", "10.1.0.5", UNIX));
    assert_eq!(said[1], registered("web-2", "10.1.0.6", UNIX + 7));
    assert!(matches!(&said[2], ToMachine::Heartbeat { sequence: 1, .. }), "{said:?}");
    let dial = acts.iter().find_map(|act| match act {
        Action::Dial { link, peer } => Some((*link, peer.clone())),
        _ => None,
    });
    let (other, peer) = dial.unwrap();
    assert_eq!(peer, B, "the other machine is learned");
    play.welcome(other, "b", vec![machine("a", A, true), machine("b", B, false)]);
    let words = play.words(other);
    assert!(words.contains(&registered("web-1", "10.1.0.5", UNIX)), "{words:?}");
    // A further one goes to both.
    play.host.deregister("web", "web-2", play.now).unwrap();
    let gone = deregistration(&("web".to_owned(), "web-2".to_owned()), ip("10.1.0.6"));
    let sent: Vec<_> = play.acts();
    for to in [link, other] {
        assert!(sent.contains(&Action::Send { link: to, message: Box::new(gone.clone()) }));
    }
}

impl Play {
    fn welcome_only(&mut self, link: Link, machines: Vec<MachineContact>) {
        self.hear(link, ToAgent::Proved { services: vec!["db".to_owned(), "web".to_owned()] });
        self.hear(link, ToAgent::Welcome { lease_ms: 3000, heartbeat_ms: 1000, machines });
    }
}

#[test]
fn repeated_registration_says_nothing_and_other_figures_are_an_update() {
    let (mut play, link) = Play::in_session();
    assert_eq!(play.register("web-1", "10.1.0.5"), Ok(Outcome::Registered));
    assert_eq!(play.words(link), [registered("web-1", "10.1.0.5", UNIX)]);
    play.now = 500;
    assert_eq!(play.register("web-1", "10.1.0.5"), Ok(Outcome::Unchanged));
    assert_eq!(play.words(link), []);
    let heavier = Backend { weight: 5, ..backend("web-1", "10.1.0.5") };
    let outcome = play.host.register(heavier.clone(), None, Origin::Socket, UNIX + 600, play.now);
    assert_eq!(outcome, Ok(Outcome::Updated));
    let words = play.words(link);
    assert!(
        matches!(&words[..], [ToMachine::Register { weight: 5, incarnation: UNIX, .. }]),
        "the same server: {words:?}"
    );
    let outcome = play.host.register(heavier.clone(), Some(UNIX - 1), Origin::Socket, UNIX, play.now);
    assert!(outcome.unwrap_err().error.contains("older"), "fenced");
    let outcome = play.host.register(heavier, Some(UNIX + 9), Origin::Socket, UNIX, play.now);
    assert_eq!(outcome, Ok(Outcome::Replaced));
    // At another address it is another server.
    play.now = 900;
    assert_eq!(play.register("web-1", "10.1.0.6"), Ok(Outcome::Replaced));
    assert_eq!(play.words(link).last(), Some(&registered("web-1", "10.1.0.6", UNIX + 900)));
}

#[test]
fn what_cannot_be_registered_is_refused_with_a_remedy() {
    let (mut play, _) = Play::in_session();
    let stranger = Backend { service: "mail".to_owned(), ..backend("web-1", "10.1.0.5") };
    let mut refused = |backend: Backend, origin| {
        let unfit = play.host.register(backend, None, origin, UNIX, 0).unwrap_err();
        assert!(!unfit.help.is_empty());
        unfit.error
    };
    assert!(refused(stranger, Origin::Socket).contains("no service \"mail\""));
    assert!(refused(backend("web-1", "10.1.0.9"), Origin::Socket).contains("not an address of this host"));
    assert!(refused(backend("a b", "10.1.0.5"), Origin::Socket).contains("no name"));
    assert!(refused(Backend { weight: 0, ..backend("w", "10.1.0.5") }, Origin::Socket).contains("weight"));
    play.host.register(backend("web-1", "10.1.0.5"), None, Origin::File, UNIX, 0).unwrap();
    assert!(play.register("web-2", "10.1.0.5").unwrap_err().error.contains("is backend web-1"));
    assert!(play.register("web-1", "10.1.0.5").unwrap_err().error.contains("file"));
    assert!(play.host.deregister("web", "web-1", 0).unwrap_err().error.contains("file"));
    assert!(play.host.deregister("web", "web-9", 0).is_err());
}

#[test]
fn a_machine_that_was_away_learns_of_a_deregistration() {
    let (mut play, link) = Play::in_session();
    play.register("web-1", "10.1.0.5").unwrap();
    let _ = play.acts();
    play.host.closed(link, "cut", play.now);
    play.host.deregister("web", "web-1", play.now).unwrap();
    play.now = 6000;
    let (link, _) = play.dials()[0].clone();
    play.welcome(link, "a", vec![]);
    let words = play.words(link);
    assert!(
        matches!(words.last(), Some(ToMachine::Deregister { backend, .. }) if backend == "web-1"),
        "{words:?}"
    );
    // Once is enough.
    play.host.closed(link, "cut", play.now);
    play.now = 20_000;
    let (link, _) = play.dials()[0].clone();
    play.welcome(link, "a", vec![]);
    assert_eq!(play.words(link).len(), 1, "the hello");
}

#[test]
fn first_verdict_and_every_change_are_told_at_once_with_fall_and_rise() {
    let (mut play, link) = Play::in_session();
    play.hear(link, checks(1, &[target("web-1", "10.1.0.5")]));
    let (begun, ended) = play.turns();
    assert_eq!((begun.len(), ended.len()), (1, 0));
    let id = begun[0];
    play.check(id, true);
    assert_eq!(play.words(link), [report(1, false, &[("web-1", "10.1.0.5", true)])], "the first pass is up");
    play.check(id, false);
    play.check(id, false);
    assert_eq!(play.words(link), []);
    play.check(id, false);
    assert_eq!(play.words(link), [report(2, false, &[("web-1", "10.1.0.5", false)])]);
    play.check(id, true);
    assert_eq!(play.words(link), []);
    play.check(id, true);
    assert_eq!(play.words(link), [report(3, false, &[("web-1", "10.1.0.5", true)])]);
}

#[test]
fn one_detector_for_all_machines_and_the_leaders_word_counts() {
    let mut play = Play::new(&[A, B]);
    let dials = play.dials();
    let (a, b) = (dials[0].0, dials[1].0);
    let list = vec![machine("a", A, true), machine("b", B, false)];
    play.welcome(a, "a", list.clone());
    play.welcome(b, "b", list);
    let _ = play.acts();
    play.hear(a, checks(7, &[target("web-1", "10.1.0.5")]));
    let (begun, _) = play.turns();
    play.hear(b, checks(1, &[target("web-1", "10.1.0.5")]));
    assert_eq!(play.turns(), (vec![], vec![]), "the same check");
    play.check(begun[0], true);
    let acts = play.acts();
    let told = acts.iter().filter(|act| matches!(act, Action::Send { .. })).count();
    assert_eq!(told, 2, "both machines: {acts:?}");
    // The follower wants it slower: no. The leader does: yes.
    let slower = |revision| ToAgent::Checks {
        service: "web".to_owned(),
        revision,
        check: CheckSpec { interval_ms: 2000, ..spec() },
        backends: vec![target("web-1", "10.1.0.5")],
    };
    play.hear(b, slower(2));
    assert_eq!(play.turns(), (vec![], vec![]));
    play.hear(a, slower(8));
    let (begun_again, ended) = play.turns();
    assert_eq!((begun_again.len(), ended), (1, begun.clone()), "in its way");
    assert_eq!(play.host.status(0).checks[0].up, Some(true), "the verdict stays");
    play.check(begun[0], false);
    assert_eq!(play.host.status(0).checks[0].failed, 0, "of a run that is over");
    // When nobody asks any more, it ends.
    play.hear(a, checks(9, &[]));
    assert_eq!(play.turns(), (vec![], vec![]), "b asks still");
    play.hear(b, checks(3, &[]));
    assert_eq!(play.turns(), (vec![], begun_again));
}

#[test]
fn a_verdict_at_hand_is_told_when_it_is_asked_for() {
    let (mut play, link) = Play::in_session();
    play.hear(link, checks(1, &[target("web-1", "10.1.0.5")]));
    let (begun, _) = play.turns();
    play.check(begun[0], true);
    let _ = play.acts();
    play.host.closed(link, "cut", play.now);
    play.now = 6000;
    let (link, _) = play.dials()[0].clone();
    play.welcome(link, "a", vec![]);
    let _ = play.acts();
    play.hear(link, checks(1, &[target("web-1", "10.1.0.5")]));
    assert_eq!(play.words(link), [report(1, false, &[("web-1", "10.1.0.5", true)])]);
    // Once more, for a machine that knew it of an earlier life.
    play.now += AGAIN_MS;
    assert_eq!(play.words(link), [report(2, false, &[("web-1", "10.1.0.5", true)])]);
    assert_eq!(play.host.detectors.len(), 1);
}

#[test]
fn checks_of_a_lost_machine_end_after_a_while() {
    let (mut play, link) = Play::in_session();
    play.hear(link, checks(1, &[target("web-1", "10.1.0.5")]));
    let (begun, _) = play.turns();
    play.host.closed(link, "cut", play.now);
    play.now = KEEP_MS - 1;
    assert_eq!(play.turns(), (vec![], vec![]));
    play.now = KEEP_MS;
    assert!(play.host.deadline_ms().unwrap() <= KEEP_MS);
    assert_eq!(play.turns(), (vec![], begun));
}

#[test]
fn a_new_server_under_the_same_name_is_checked_from_the_beginning() {
    let (mut play, link) = Play::in_session();
    play.register("web-1", "10.1.0.5").unwrap();
    play.hear(link, checks(1, &[target("web-1", "10.1.0.5")]));
    let (begun, _) = play.turns();
    play.check(begun[0], true);
    let _ = play.acts();
    let again = play.host.register(backend("web-1", "10.1.0.5"), Some(UNIX + 1), Origin::Socket, UNIX, 0);
    assert_eq!(again, Ok(Outcome::Replaced));
    let acts = play.acts();
    let at = |wanted: &dyn Fn(&Action) -> bool| acts.iter().position(wanted).unwrap();
    at(&|act| matches!(act, Action::Send { message, .. } if matches!(**message, ToMachine::Register { .. })));
    at(&|act| *act == Action::Stop(begun[0]));
    let id = acts.iter().find_map(|act| match act {
        Action::Start(id, _) => Some(*id),
        _ => None,
    });
    assert_eq!(play.host.status(0).checks[0].up, None);
    play.check(id.unwrap(), true);
    assert_eq!(
        play.words(link),
        [report(2, false, &[("web-1", "10.1.0.5", true)])],
        "told though it was up before"
    );
}

#[test]
fn verdicts_of_one_turn_travel_together_and_never_behind_a_new_life() {
    let (mut play, link) = Play::in_session();
    play.register("web-1", "10.1.0.5").unwrap();
    play.hear(link, checks(1, &[target("web-1", "10.1.0.5"), target("web-2", "10.1.0.6")]));
    let (begun, _) = play.turns();
    play.check(begun[0], true);
    play.check(begun[1], true);
    let again = play.host.register(backend("web-1", "10.1.0.5"), Some(UNIX + 1), Origin::Socket, UNIX, 0);
    assert_eq!(again, Ok(Outcome::Replaced));
    let words = play.words(link);
    let both = report(1, false, &[("web-1", "10.1.0.5", true), ("web-2", "10.1.0.6", true)]);
    assert_eq!(words, [both, registered("web-1", "10.1.0.5", UNIX + 1)]);
}

#[test]
fn one_that_is_deregistered_and_registered_at_once_is_checked_from_the_beginning() {
    let (mut play, link) = Play::in_session();
    play.register("web-1", "10.1.0.5").unwrap();
    play.hear(link, checks(1, &[target("web-1", "10.1.0.5")]));
    let (begun, _) = play.turns();
    play.check(begun[0], true);
    let _ = play.acts();
    play.host.deregister("web", "web-1", play.now).unwrap();
    play.register("web-1", "10.1.0.5").unwrap();
    // The machine, which asks for nothing new, waits for the first good check.
    let (begun_again, ended) = play.turns();
    assert_eq!(ended, begun);
    play.check(begun_again[0], true);
    assert_eq!(play.words(link), [report(2, false, &[("web-1", "10.1.0.5", true)])]);
}

#[test]
fn what_is_not_here_is_answered_so_and_not_checked() {
    let (mut play, link) = Play::in_session();
    play.hear(link, checks(4, &[target("web-1", "10.1.0.5"), target("web-9", "10.1.0.9")]));
    let acts = play.acts();
    let expected =
        ToMachine::NotLocal { service: "web".to_owned(), revision: 4, addresses: vec![ip("10.1.0.9")] };
    assert!(acts.contains(&Action::Send { link, message: Box::new(expected) }), "{acts:?}");
    assert_eq!(acts.iter().filter(|act| matches!(act, Action::Start(..))).count(), 1);
}

#[test]
fn an_address_that_leaves_the_interfaces_is_not_local_any_more_and_a_new_one_is_greeted_with() {
    let mut config = config(&[A]);
    config.addresses = None;
    let mut play = Play::of(config);
    let (link, _) = play.dials()[0].clone();
    play.welcome(link, "a", vec![]);
    play.hear(link, checks(1, &[target("web-1", "10.1.0.5")]));
    let (begun, _) = play.turns();
    play.check(begun[0], true);
    let _ = play.acts();
    play.host.set_interfaces(vec![ip("10.1.0.7")], UNIX + 50, play.now);
    let acts = play.acts();
    let gone =
        ToMachine::NotLocal { service: "web".to_owned(), revision: 1, addresses: vec![ip("10.1.0.5")] };
    assert!(acts.contains(&Action::Send { link, message: Box::new(gone) }), "{acts:?}");
    assert!(acts.contains(&Action::Stop(begun[0])));
    assert!(acts.contains(&Action::Send { link, message: Box::new(report(2, true, &[])) }), "{acts:?}");
    // A backend at the new address: the hello must say it.
    play.register("web-7", "10.1.0.7").unwrap();
    let acts = play.acts();
    assert!(acts.contains(&Action::Finish(link)), "{acts:?}");
    let again = acts.iter().find_map(|act| match act {
        Action::Dial { link, .. } => Some(*link),
        _ => None,
    });
    let again = again.unwrap_or_else(|| {
        play.now += 200;
        play.dials()[0].0
    });
    play.challenge(again, "a");
    let words = play.said(again);
    assert!(
        matches!(&words[..], [ToMachine::Hello { addresses, incarnation, .. }]
            if *addresses == [ip("10.1.0.7")] && *incarnation > UNIX),
        "{words:?}"
    );
}

#[test]
fn digests_are_of_all_that_was_told_and_resync_tells_all() {
    let (mut play, link) = Play::in_session();
    play.hear(link, checks(1, &[target("web-1", "10.1.0.5"), target("web-2", "10.1.0.6")]));
    let (begun, _) = play.turns();
    play.check(begun[0], true);
    play.check(begun[1], true);
    let _ = play.acts();
    play.now = 1000;
    play.hear(link, ToAgent::Alive { sequence: 1 });
    let both = report(0, true, &[("web-1", "10.1.0.5", true), ("web-2", "10.1.0.6", true)]);
    let digest_of = |message: &ToMachine| match message {
        ToMachine::Report { results, .. } => format!("{:016x}", model::agent::digest(results)),
        _ => String::new(),
    };
    let beat = |play: &mut Play| {
        let mut beats = play.said(link).into_iter().filter_map(|word| match word {
            ToMachine::Heartbeat { digest, sequence, .. } => Some((sequence, digest)),
            _ => None,
        });
        beats.next_back().unwrap()
    };
    assert_eq!(beat(&mut play), (2, digest_of(&both)));
    play.hear(link, ToAgent::Resync {});
    let words = play.words(link);
    let ToMachine::Report { full: true, results, .. } = &words[0] else { panic!("{words:?}") };
    assert_eq!(results.len(), 2);
    // What is asked no more is taken back by a report of all.
    play.hear(link, checks(2, &[target("web-2", "10.1.0.6")]));
    let words = play.words(link);
    assert!(
        matches!(&words[..], [ToMachine::Report { full: true, results, .. }] if results.len() == 1),
        "{words:?}"
    );
    play.now = 2000;
    play.hear(link, ToAgent::Alive { sequence: 2 });
    let one = report(0, true, &[("web-2", "10.1.0.6", true)]);
    assert_eq!(beat(&mut play), (3, digest_of(&one)));
}

#[test]
fn a_long_report_is_told_in_parts_that_fit_in_frames() {
    let mut config = config(&[A]);
    config.addresses = Some((0..1024_u32).map(|i| ip(&format!("10.2.{}.{}", i / 256, i % 256))).collect());
    let addresses = config.addresses.clone().unwrap();
    let mut play = Play::of(config);
    let (link, _) = play.dials()[0].clone();
    play.welcome(link, "a", vec![]);
    let _ = play.acts();
    let name = |i: usize| format!("{i:>063}");
    let targets: Vec<_> = addresses
        .iter()
        .enumerate()
        .map(|(i, at)| Target { backend: name(i), address: *at, port: 80 })
        .collect();
    play.hear(link, checks(1, &targets));
    let (begun, _) = play.turns();
    assert_eq!(begun.len(), 1024);
    let long = "\"\\".repeat(400);
    for id in begun {
        for _ in 0..3 {
            let result = CheckResult { reason: long.clone(), ..result(false) };
            play.host.checked(id, result, play.now);
        }
    }
    let _ = play.acts();
    play.hear(link, ToAgent::Resync {});
    let words = play.words(link);
    assert_eq!(words.len(), 4);
    for (at, word) in words.iter().enumerate() {
        assert!(model::agent::encode(word).is_ok());
        assert!(matches!(word, ToMachine::Report { full, .. } if *full == (at == 0)));
    }
    // One more is one too many.
    let more = [targets, vec![target("x", "10.2.0.0")]].concat();
    play.hear(link, checks(2, &more));
    assert!(play.acts().contains(&Action::Cut(link)));
}

#[test]
fn silence_for_the_lease_ends_a_connection_and_another_is_made() {
    let (mut play, link) = Play::in_session();
    play.now = 2999;
    assert!(!play.acts().contains(&Action::Cut(link)));
    play.now = 3000;
    let acts = play.acts();
    assert!(acts.contains(&Action::Cut(link)), "{acts:?}");
    play.now = 3200;
    let dialed = acts.iter().any(|act| matches!(act, Action::Dial { .. })) || !play.dials().is_empty();
    assert!(dialed, "within 100 ms");
    // No welcome in time.
    let mut play = Play::new(&[A]);
    let (link, _) = play.dials()[0].clone();
    play.challenge(link, "a");
    play.now = WELCOME_MS;
    assert!(play.acts().contains(&Action::Cut(link)));
}

#[test]
fn a_machine_that_breaks_the_rules_loses_its_connection_only() {
    let wrong: Vec<(&str, ToAgent)> = vec![
        (
            "a second challenge",
            ToAgent::Challenge { versions: vec![1], machine: "a".to_owned(), nonce: "ab".repeat(32) },
        ),
        ("a second welcome", ToAgent::Welcome { lease_ms: 3000, heartbeat_ms: 1000, machines: vec![] }),
        (
            "another's service",
            ToAgent::Checks { service: "mail".to_owned(), revision: 1, check: spec(), backends: vec![] },
        ),
        (
            "too fast",
            ToAgent::Checks {
                service: "web".to_owned(),
                revision: 1,
                check: CheckSpec { interval_ms: 1, ..spec() },
                backends: vec![target("web-1", "10.1.0.5")],
            },
        ),
        (
            "never falls",
            ToAgent::Checks {
                service: "web".to_owned(),
                revision: 1,
                check: CheckSpec { fall: 0, ..spec() },
                backends: vec![],
            },
        ),
        ("no name", checks(1, &[target("web 1", "10.1.0.5")])),
        ("no port", checks(1, &[Target { port: 0, ..target("web-1", "10.1.0.5") }])),
        ("no machine", ToAgent::Machines { machines: vec![machine("a b", A, true)] }),
    ];
    for (what, message) in wrong {
        let mut play = Play::new(&[A, B]);
        let dials = play.dials();
        play.welcome(dials[0].0, "a", vec![]);
        play.welcome(dials[1].0, "b", vec![]);
        let _ = play.acts();
        play.hear(dials[0].0, message);
        let acts = play.acts();
        let cut: Vec<_> = acts.iter().filter(|act| matches!(act, Action::Cut(_))).collect();
        assert_eq!(cut, [&Action::Cut(dials[0].0)], "{what}");
        assert!(!acts.iter().any(|act| matches!(act, Action::Start(..))), "{what}");
    }
    for challenge in [
        ToAgent::Challenge { versions: vec![VERSION + 1], machine: "a".to_owned(), nonce: "ab".repeat(32) },
        ToAgent::Challenge { versions: vec![VERSION], machine: String::new(), nonce: "ab".repeat(32) },
        ToAgent::Challenge { versions: vec![VERSION], machine: "a".to_owned(), nonce: "\n".repeat(64) },
        ToAgent::Resync {},
    ] {
        let mut play = Play::new(&[A]);
        let (link, _) = play.dials()[0].clone();
        play.hear(link, challenge);
        let acts = play.acts();
        assert!(acts.contains(&Action::Cut(link)));
        assert!(!acts.iter().any(|act| matches!(act, Action::Send { .. })), "nothing is proved");
    }
}

#[test]
fn refusals_are_shown_and_tried_again_later() {
    let (mut play, link) = Play::in_session();
    play.register("web-1", "10.1.0.5").unwrap();
    let _ = play.acts();
    play.hear(
        link,
        ToAgent::Refused {
            service: Some("web".to_owned()),
            backend: Some("web-1".to_owned()),
            code: RefusalCode::Claimed,
            reason: "another agent has it".to_owned(),
            help: "stop that one".to_owned(),
        },
    );
    let status = play.host.status(0);
    assert_eq!(status.backends[0].machines[0].refused, Some(RefusalCode::Claimed));
    for at in [1000, 2000, 3000, 4000, 5000, 6000, 7000, 8000, 9000] {
        play.now = at;
        play.hear(link, ToAgent::Alive { sequence: 1 });
        assert_eq!(play.words(link), []);
    }
    play.now = RETRY_SOON_MS;
    assert_eq!(play.words(link), [registered("web-1", "10.1.0.5", UNIX)]);
    play.hear(
        link,
        ToAgent::State {
            service: "web".to_owned(),
            backend: "web-1".to_owned(),
            state: Phase::Up,
            reason: "ok".to_owned(),
        },
    );
    let word = &play.host.status(0).backends[0].machines[0];
    assert_eq!((word.refused, word.state), (None, Some(Phase::Up)));
    // A service that is refused: nothing is registered there.
    play.hear(
        link,
        ToAgent::Refused {
            service: Some("web".to_owned()),
            backend: None,
            code: RefusalCode::Proof,
            reason: "wrong token".to_owned(),
            help: "compare the files".to_owned(),
        },
    );
    play.host.deregister("web", "web-1", play.now).unwrap();
    play.register("web-1", "10.1.0.5").unwrap();
    assert_eq!(play.words(link), []);
    assert!(play.host.status(0).machines[0].problem.as_ref().unwrap().contains("wrong token"));
    // The connection as a whole: closed, with what was said as the reason.
    play.hear(
        link,
        ToAgent::Refused {
            service: None,
            backend: None,
            code: RefusalCode::Stale,
            reason: "another agent of this name".to_owned(),
            help: "name it otherwise".to_owned(),
        },
    );
    assert!(play.acts().contains(&Action::Cut(link)));
    assert!(play.host.status(0).machines[0].problem.as_ref().unwrap().contains("another agent of this name"));
}

#[test]
fn a_command_is_what_this_hosts_file_says_or_fails() {
    let (mut play, link) = Play::in_session();
    let exec = |name: &str, revision| ToAgent::Checks {
        service: "db".to_owned(),
        revision,
        check: CheckSpec { kind: HealthKind::Exec { command: name.to_owned() }, ..spec() },
        backends: vec![target("db-1", "10.1.0.6")],
    };
    play.hear(link, exec("check-db", 1));
    let acts = play.acts();
    let run = acts.iter().find_map(|act| match act {
        Action::Start(_, Job { act: Act::Run(exec), .. }) => Some(exec),
        _ => None,
    });
    let run = run.unwrap();
    assert_eq!(run.argv, ["/bin/true"]);
    assert_eq!(run.timeout_ms, 200);
    assert!(run.environment.contains(&("GUIDEWAY_ADDRESS".to_owned(), "10.1.0.6".to_owned())));
    play.hear(link, exec("rm -rf /", 2));
    let acts = play.acts();
    assert!(
        acts.iter().any(|act| matches!(act, Action::Start(_, Job { act: Act::Fail(why), .. }) if why.contains("[command.rm -rf /]"))),
        "{acts:?}"
    );
}

#[test]
fn heartbeats_carry_the_load_of_what_is_asked_and_hurry_when_it_moves() {
    let (mut play, link) = Play::in_session();
    play.hear(link, checks(1, &[target("web-1", "10.1.0.5")]));
    let _ = play.acts();
    let samples = play.host.samples();
    assert_eq!(samples.len(), 1);
    assert_eq!(samples[0].sockets, Some((ip("203.0.113.10"), ip("10.1.0.5"), 80)));
    let load = |name: &str, custom| Load {
        service: "web".to_owned(),
        backend: name.to_owned(),
        cpu_permille: Some(10),
        connections: Some(5),
        custom_permille: custom,
    };
    let loads_of = |words: Vec<ToMachine>| {
        words.into_iter().find_map(|word| match word {
            ToMachine::Heartbeat { loads, .. } => Some(loads),
            _ => None,
        })
    };
    play.host.set_loads(vec![load("web-1", None), load("web-9", None)], play.now);
    play.now = 1000;
    assert_eq!(loads_of(play.said(link)), Some(vec![load("web-1", None)]));
    play.now = 1100;
    play.host.set_loads(vec![load("web-1", Some(50))], play.now);
    assert_eq!(loads_of(play.said(link)), None, "not much");
    play.host.set_loads(vec![load("web-1", Some(900))], play.now);
    assert_eq!(loads_of(play.said(link)), None, "not so soon after the last");
    play.now = 1250;
    assert_eq!(loads_of(play.said(link)), Some(vec![load("web-1", Some(900))]));
    play.now = 2249;
    assert_eq!(loads_of(play.said(link)), None);
    // The address of a container is not on an interface of this host: its sockets are not to be seen.
    play.hear(link, checks(2, &[target("web-2", "10.1.0.6")]));
    assert_eq!(play.host.samples()[0].sockets, None);
}

#[test]
fn reload_registers_what_is_new_and_takes_out_what_is_gone() {
    let mut first = config(&[A]);
    first.backends = vec![backend("web-1", "10.1.0.5"), backend("web-2", "10.1.0.6")];
    let mut play = Play::of(first.clone());
    for of in first.backends.clone() {
        play.host.register(of, None, Origin::File, UNIX, 0).unwrap();
    }
    let (link, _) = play.dials()[0].clone();
    play.welcome(link, "a", vec![machine("a", A, true)]);
    let _ = play.acts();
    let mut second = first.clone();
    // web-1 weighs more; web-2 has gone, its address is web-3's.
    second.backends =
        vec![Backend { weight: 3, ..backend("web-1", "10.1.0.5") }, backend("web-3", "10.1.0.6")];
    play.host.reload(second.clone(), UNIX + 99, play.now);
    let words = play.words(link);
    assert!(matches!(&words[0], ToMachine::Deregister { backend, .. } if backend == "web-2"), "{words:?}");
    assert!(matches!(&words[1], ToMachine::Register { weight: 3, incarnation: UNIX, .. }), "{words:?}");
    assert_eq!(words[2], registered("web-3", "10.1.0.6", UNIX + 99));
    assert_eq!(words.len(), 3);
    // Another token: all sessions begin anew, as a newer agent.
    let mut third = second;
    third.services.insert("web".to_owned(), Token::of(b"another token...."));
    play.host.reload(third, UNIX + 100, play.now);
    let acts = play.acts();
    assert!(acts.contains(&Action::Finish(link)));
    assert_eq!(play.host.incarnation(), UNIX + 100);
}

#[test]
fn a_machine_has_no_say_in_services_whose_tokens_it_has_not() {
    let mut play = Play::new(&[A]);
    play.register("web-1", "10.1.0.5").unwrap();
    let (link, _) = play.dials()[0].clone();
    play.challenge(link, "a");
    let _ = play.acts();
    play.hear(link, ToAgent::Proved { services: vec!["db".to_owned()] });
    play.hear(link, ToAgent::Welcome { lease_ms: 3000, heartbeat_ms: 1000, machines: vec![] });
    assert_eq!(play.words(link), [], "web-1 is not registered with it");
    let (revision, check, backends) = (1, spec(), vec![]);
    play.hear(link, ToAgent::Checks { service: "web".to_owned(), revision, check, backends });
    assert!(play.acts().contains(&Action::Cut(link)));
    // Nor does it name more later.
    let (mut play, link) = Play::in_session();
    play.hear(link, ToAgent::Proved { services: vec!["web".to_owned()] });
    assert!(play.acts().contains(&Action::Cut(link)));
}

#[test]
fn what_a_machine_says_is_shown_on_one_line() {
    let forged = "gone\r\n2026-01-01 INFO all is well\u{1b}[2J\u{202e}";
    let (mut play, link) = Play::in_session();
    play.register("web-1", "10.1.0.5").unwrap();
    let (service, backend) = ("web".to_owned(), "web-1".to_owned());
    play.hear(link, ToAgent::State { service, backend, state: Phase::Down, reason: forged.to_owned() });
    let told = play.host.status(play.now).backends[0].machines[0].reason.clone();
    assert_eq!(told, model::visible(forged));
    let (service, backend) = (Some("web".to_owned()), Some("web-1".to_owned()));
    let (reason, help) = (forged.to_owned(), forged.to_owned());
    play.hear(link, ToAgent::Refused { service, backend, code: RefusalCode::Limit, reason, help });
    let told = play.host.status(play.now).backends[0].machines[0].reason.clone();
    assert_eq!(told, format!("{0}; {0}", model::visible(forged)));
    play.host.closed(link, forged, play.now);
    let status = serde_json::to_string(&play.host.status(play.now)).unwrap();
    assert!(!status.contains("\\r") && !status.contains("\u{202e}"), "{status}");
}

#[test]
fn at_the_end_the_files_backends_are_deregistered_unless_they_are_kept() {
    for keep in [false, true] {
        let (mut play, link) = Play::in_session();
        play.host.register(backend("web-1", "10.1.0.5"), None, Origin::File, UNIX, 0).unwrap();
        play.register("web-2", "10.1.0.6").unwrap();
        let _ = play.acts();
        play.host.stop(keep);
        let acts = play.host.actions();
        let gone: Vec<_> = acts
            .iter()
            .filter_map(|act| match act {
                Action::Send { message, .. } => match message.as_ref() {
                    ToMachine::Deregister { backend, .. } => Some(backend.as_str()),
                    _ => None,
                },
                _ => None,
            })
            .collect();
        assert_eq!(gone, if keep { vec![] } else { vec!["web-1"] });
        assert_eq!(acts.last(), Some(&Action::Finish(link)));
    }
}

#[test]
fn a_machine_that_accepts_no_service_is_greeted_again_later() {
    let (mut play, link) = Play::in_session();
    for service in ["web", "db"] {
        play.hear(
            link,
            ToAgent::Refused {
                service: Some(service.to_owned()),
                backend: None,
                code: RefusalCode::Service,
                reason: "no such service".to_owned(),
                help: "add it".to_owned(),
            },
        );
    }
    for at in (1000..REFUSED_MS).step_by(1000) {
        play.now = at;
        play.hear(link, ToAgent::Alive { sequence: 1 });
        assert!(!play.acts().contains(&Action::Finish(link)), "{at}");
    }
    play.now = REFUSED_MS;
    play.hear(link, ToAgent::Alive { sequence: 1 });
    assert!(play.acts().contains(&Action::Finish(link)));
}
