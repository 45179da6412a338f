//! The connection to a real etcd, on a free port of the loopback, with its data in a directory of the test.

use super::{own, own_text, service};
use crate::cluster::desire::Desire;
use crate::cluster::keys::{self, DesiredValue, HealthValue, Key};
use crate::cluster::participant::{News, Participant, StoreOrder};
use crate::cluster::store::StoreRequest;
use crate::cluster::store::etcd::keep;
use crate::cluster::store_event::StoreEvent;
use crate::cluster::text;
use crate::event::Event;
use model::config::{Cluster, LeftOut, StoreTls, StoreUser};
use statesync::MachineId;
use statesync::plan::{Phase, Report};
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use wire::{CoreId, Tick};

/// Longest wait for anything: leases end after some six seconds, and the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running etcd; killed when dropped.
struct Etcd {
    child: Child,
    url: String,
    peer: String,
    /// Further arguments.
    more: Vec<String>,
    directory: tempfile::TempDir,
}

impl Etcd {
    fn start() -> Etcd {
        Self::start_with("http", |_| Vec::new())
    }

    /// Files that its further arguments name can be put into the directory.
    fn start_with(scheme: &str, more: impl FnOnce(&Path) -> Vec<String>) -> Etcd {
        let directory = tempfile::tempdir().expect("a directory");
        // Both are free now, and nobody else is likely to take them meanwhile.
        let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
        let [address, peer] = ports.each_ref().map(|port| port.local_addr().expect("bound"));
        drop(ports);
        let (url, peer) = (format!("{scheme}://{address}"), format!("http://{peer}"));
        let more = more(directory.path());
        let child = Self::spawn(&url, &peer, &more, directory.path());
        Etcd { child, url, peer, more, directory }
    }

    fn spawn(url: &str, peer: &str, more: &[String], directory: &Path) -> Child {
        Command::new("etcd")
            .arg("--data-dir")
            .arg(directory.join("data"))
            .args(["--listen-client-urls", url, "--advertise-client-urls", url])
            .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
            .arg(format!("--initial-cluster=default={peer}"))
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd (Debian's etcd-server; dpdk-setup/packages.sh --development installs it) starts")
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn start_again(&mut self) {
        self.child = Self::spawn(&self.url, &self.peer, &self.more, self.directory.path());
    }

    /// It dies, and comes back empty.
    fn wipe(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.directory.path().join("data")).expect("it has data");
        self.start_again();
    }

    fn config(&self) -> Cluster {
        Cluster {
            endpoints: vec![self.url.clone()],
            tls: None,
            user: None,
            port: 7480,
            sync_key: [7; 16],
            sync_key_accepted: None,
            left_out: LeftOut::default(),
        }
    }

    /// What etcdctl prints.
    fn ctl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.url]).args(arguments);
        let output = command.stdin(Stdio::null()).output().expect("etcdctl, which comes with etcd");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A machine without workers: what is in force is done at once.
struct Machine {
    participant: Participant,
    asked: mpsc::Sender<StoreRequest>,
    events: mpsc::Receiver<Event>,
    connected: bool,
    /// It has asked for the wish that a store has lost.
    has_wished: bool,
    keeper: tokio::task::JoinHandle<()>,
}

impl Machine {
    fn start(at: usize, cluster: Cluster) -> Machine {
        Machine::start_on(&tokio::runtime::Handle::current(), at, cluster)
    }

    /// Its connection runs elsewhere.
    fn start_on(runtime: &tokio::runtime::Handle, at: usize, cluster: Cluster) -> Machine {
        let (asked, requests) = mpsc::channel(64);
        let (events, received) = mpsc::channel(64);
        let keeper = runtime.spawn(keep(cluster, (own(at).name, own(at).address), requests, events));
        Machine {
            participant: Participant::new(own(at), own_text(at)),
            asked,
            events: received,
            connected: false,
            has_wished: false,
            keeper,
        }
    }

    async fn turn(&mut self, now: Tick) {
        while let Ok(note) = self.events.try_recv() {
            match note {
                Event::Store(StoreEvent::Identified { member, joins }) => {
                    self.participant.identified(member, joins);
                }
                Event::Store(StoreEvent::Connected(changes)) => {
                    self.connected = true;
                    self.has_wished = false;
                    self.participant.connected(changes);
                }
                Event::Store(StoreEvent::Changed(changes)) => self.participant.changed(changes),
                Event::Store(StoreEvent::Disconnected(_)) => {
                    self.connected = false;
                    self.participant.disconnected();
                }
                Event::Store(StoreEvent::PlanWritten(revision)) => self.participant.plan_written(revision),
                Event::Store(StoreEvent::NotPut(key)) => self.participant.not_put(key),
                other => panic!("{other:?}"),
            }
        }
        for order in self.participant.poll(now) {
            self.asked.send(StoreRequest::Order(order)).await.expect("the connection is kept");
        }
        if let Some(wish) = self.participant.wish_to_put_back().filter(|_| !self.has_wished) {
            self.has_wished = true;
            let (value, after) = (keys::bytes(&wish), self.participant.snapshot().revision(Key::Desired));
            let asked = StoreRequest::Desire { desire: Desire { value, after }, reply: oneshot::channel().0 };
            self.asked.send(asked).await.expect("the connection is kept");
        }
        for news in self.participant.take_news() {
            assert_eq!(news, News::Adopted);
        }
        if let Some(step) = self.participant.document().map(|document| document.plan.step)
            && self.participant.done() < step
        {
            for core in [0, 1] {
                self.participant.report(CoreId(core), Report::Done { step, incomplete: false });
            }
        }
    }

    fn is_settled(&self) -> bool {
        self.participant.document().is_some_and(|document| {
            let plan = &document.plan;
            document.wish > 0
                && document.settled == self.participant.snapshot().revision(Key::Desired)
                && plan.phase == Phase::Idle
                && self.participant.done() == plan.step
                && self.participant.is_ready()
        })
    }

    fn wish(&self, services: &str) -> oneshot::Receiver<Result<Option<i64>, String>> {
        let (reply, answer) = oneshot::channel();
        let value = keys::bytes(&DesiredValue {
            text: text::services_of(services).expect("TOML"),
            drains: BTreeSet::new(),
            by: "test".to_owned(),
            unix_ms: 0,
        });
        let after = self.participant.snapshot().revision(Key::Desired);
        self.asked.try_send(StoreRequest::Desire { desire: Desire { value, after }, reply }).expect("room");
        answer
    }
}

/// Lets the machines do their part until something is so.
async fn drive(machines: &mut [Machine], what: &str, mut done: impl FnMut(&[Machine]) -> bool) {
    let begun = Instant::now();
    loop {
        for machine in machines.iter_mut() {
            machine.turn(Tick(u64::try_from(begun.elapsed().as_micros()).expect("short"))).await;
        }
        if done(machines) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "never {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// As the management core does it: a machine does its part when there is news, and else every 100 ms, or 2 ms while it is busy.
async fn live(machines: &mut [Machine], begun: Instant, mut done: impl FnMut(&[Machine]) -> bool) {
    let mut next = vec![Instant::now(); machines.len()];
    let since = Instant::now();
    while !done(machines) {
        assert!(since.elapsed() < PATIENCE, "never done");
        for (machine, next) in machines.iter_mut().zip(&mut next) {
            if machine.events.is_empty() && Instant::now() < *next {
                continue;
            }
            let now = Tick(u64::try_from(begun.elapsed().as_micros()).expect("short"));
            machine.turn(now).await;
            // Workers are done at once, and the next tick finds what they say.
            let is_busy = machine.participant.is_busy();
            *next = Instant::now() + Duration::from_millis(if is_busy { 2 } else { 100 });
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn names(machine: &Machine) -> Vec<String> {
    machine.participant.document().map_or_else(Vec::new, |document| {
        document.backends.iter().map(|backend| backend.name.clone()).collect()
    })
}

#[test]
fn machines_join_agree_and_survive_the_loss_of_the_store() {
    let mut etcd = Etcd::start();
    runtime().block_on(async {
        let mut machines = vec![Machine::start(0, etcd.config())];
        drive(&mut machines, "joined", |of| of[0].participant.is_ready()).await;
        let answer = machines[0].wish(&service("web", 10, &[(1, 1), (2, 1)], false));
        drive(&mut machines, "settled", |of| of[0].is_settled()).await;
        assert!(matches!(answer.await, Ok(Ok(Some(revision))) if revision > 0));

        machines.push(Machine::start(1, etcd.config()));
        drive(&mut machines, "two", |of| of.iter().all(Machine::is_settled)).await;
        let first = machines[1].participant.member().expect("it has joined");
        assert_eq!(first.machine, MachineId(1));
        assert!(first.incarnation > 1_700_000_000, "{first:?}");
        assert_eq!(machines.iter().filter(|of| of.participant.leads()).count(), 1);
        let follower = machines.iter().position(|of| !of.participant.leads()).expect("one does not lead");
        let answer = machines[follower].wish(&service("web", 10, &[(1, 1), (2, 1), (3, 1)], false));
        drive(&mut machines, "changed", |of| of.iter().all(|of| names(of).len() == 3 && of.is_settled()))
            .await;
        let revision = answer.await.expect("an answer").expect("taken").expect("nobody else asked");
        assert_eq!(machines[0].participant.document().map(|of| of.wish), Some(revision));

        // Who asks on the ground of an older wish is told so.
        let (reply, answer) = oneshot::channel();
        let late =
            StoreRequest::Desire { desire: Desire { value: b"{}".to_vec(), after: revision - 1 }, reply };
        machines[0].asked.try_send(late).expect("room");
        drive(&mut machines, "still", |of| of.iter().all(Machine::is_settled)).await;
        assert_eq!(answer.await.expect("an answer"), Ok(None));

        etcd.kill();
        drive(&mut machines, "lost", |of| of.iter().all(|of| !of.connected)).await;
        assert!(machines.iter().all(|of| of.participant.is_ready()), "they forward as before");
        let answer = machines[0].wish(&service("web", 10, &[(1, 1)], false));
        let refused = answer.await.expect("an answer").expect_err("there is no store");
        assert!(!refused.is_empty());
        let epoch = machines[0].participant.document().map(|of| of.plan.epoch);
        etcd.start_again();
        drive(&mut machines, "back", |of| of.iter().all(|of| of.connected && of.is_settled())).await;
        assert_eq!(machines[0].participant.document().map(|of| of.plan.epoch), epoch, "nobody was given up");
        let answer = machines[0].wish(&service("web", 10, &[(1, 1), (4, 1)], false));
        drive(&mut machines, "changed again", |of| {
            of.iter().all(|of| names(of).contains(&"b4".to_owned()) && of.is_settled())
        })
        .await;
        assert!(matches!(answer.await, Ok(Ok(Some(_)))));

        // One dies, and comes back as another.
        let dead = machines.remove(1);
        dead.keeper.abort();
        drop(dead);
        drive(&mut machines, "alone", |of| {
            of[0].participant.document().is_some_and(|of| of.plan.members.len() == 1) && of[0].is_settled()
        })
        .await;
        machines.push(Machine::start(1, etcd.config()));
        drive(&mut machines, "two again", |of| of.iter().all(Machine::is_settled)).await;
        let second = machines[1].participant.member().expect("it has joined");
        assert!(second.machine == first.machine && second.incarnation > first.incarnation, "{second:?}");

        // The other one leaves; its lease goes at once.
        machines[0].participant.leave();
        drive(&mut machines, "left", |of| of[0].participant.has_left() && of[1].participant.leads()).await;
        drive(&mut machines[1..], "alone again", |of| {
            of[0]
                .participant
                .document()
                .is_some_and(|of| of.plan.members.len() == 1 && of.plan.lost.is_empty())
        })
        .await;
        assert!(machines[0].keeper.is_finished());
    });
}

/// Services whose text and plan are each longer than a request to etcd may be.
#[test]
fn services_that_do_not_fit_into_a_request_are_adopted_whole() {
    const BACKENDS: u32 = 15_000;
    // Beside 10.0.2.0/24, where the machines are.
    let mut etcd = Etcd::start();
    let name = |number: u32| format!("a-backend-whose-name-is-nearly-as-long-as-may-be-{number}");
    let services = |weight: u32| {
        let mut text = service("web", 10, &[], false).replace("maglev_size = 251", "maglev_size = 65537");
        for number in 0..BACKENDS {
            let [_, a, b, c] = (number + (64 << 16)).to_be_bytes();
            let weight = if number == 0 { weight } else { 8 };
            text += &format!(
                "[[service.backend]]\nname = \"{}\"\naddress = \"10.{a}.{b}.{c}\"\nweight = {weight}\n",
                name(number)
            );
        }
        text
    };
    let is_there = |of: &Machine, weight: u32| {
        of.is_settled()
            && of.participant.document().is_some_and(|of| {
                of.backends.len() == BACKENDS as usize && of.text.contains(&format!("weight = {weight}\n"))
            })
    };
    let keys = |etcd: &Etcd, prefix: &str| {
        let output = etcd.ctl(&["get", "--prefix", "--keys-only", &format!("{}{prefix}", keys::PREFIX)]);
        output.lines().filter(|line| line.contains("/pieces/")).count()
    };
    // Connections are kept while a machine thinks, which takes long in a build for tests.
    let keepers = runtime();
    let (stop, stopped) = oneshot::channel::<()>();
    let handle = keepers.handle().clone();
    let beside = std::thread::spawn(move || drop(keepers.block_on(stopped)));
    let keepers = handle;
    runtime().block_on(async {
        let mut machines = vec![Machine::start_on(&keepers, 0, etcd.config())];
        drive(&mut machines, "joined", |of| of[0].participant.is_ready()).await;
        let answer = machines[0].wish(&services(7));
        drive(&mut machines, "settled", |of| is_there(&of[0], 7)).await;
        assert!(matches!(answer.await, Ok(Ok(Some(_)))));
        let (wish, plan) = (keys(&etcd, "wish"), keys(&etcd, "plan"));
        assert!(wish >= 2 && plan >= 4, "{wish} and {plan} pieces");

        // Who joins reads them, and so do all when they change; what the old ones alone needed goes.
        machines.push(Machine::start_on(&keepers, 1, etcd.config()));
        drive(&mut machines, "two", |of| of.iter().all(|of| is_there(of, 7))).await;
        // What checks find of so many.
        let mut health = HealthValue::default();
        health.up.extend((0..BACKENDS).map(|number| ("web".to_owned(), name(number))));
        machines[1].participant.set_health(&health);
        drive(&mut machines, "told", |of| {
            of[0].participant.snapshot().votes("web", &name(BACKENDS - 1)) == (1, 0)
        })
        .await;
        let answer = machines[1].wish(&services(9));
        drive(&mut machines, "changed", |of| of.iter().all(|of| is_there(of, 9))).await;
        assert!(matches!(answer.await, Ok(Ok(Some(_)))));
        assert_eq!(keys(&etcd, "wish"), wish);
        assert!(keys(&etcd, "plan") <= plan + 1);

        // A store that has lost its data gets them back.
        etcd.wipe();
        drive(&mut machines, "lost", |of| of.iter().all(|of| !of.connected)).await;
        drive(&mut machines, "back", |of| of.iter().all(|of| of.connected && is_there(of, 9))).await;
        assert_eq!(keys(&etcd, "wish"), wish);
        let answer = machines[0].wish(&service("web", 10, &[(1, 1)], false));
        drive(&mut machines, "small again", |of| of.iter().all(|of| names(of).len() == 1 && of.is_settled()))
            .await;
        assert!(matches!(answer.await, Ok(Ok(Some(_)))));
        assert_eq!((keys(&etcd, "wish"), keys(&etcd, "plan")), (0, 0), "nothing is left behind");
    });
    drop(stop);
    beside.join().expect("it ends");
}

#[test]
fn a_store_that_lost_its_data_gets_it_back_before_a_machine_that_starts_takes_a_number() {
    let mut etcd = Etcd::start();
    runtime().block_on(async {
        let mut machines: Vec<Machine> = (0..3).map(|at| Machine::start(at, etcd.config())).collect();
        drive(&mut machines, "joined", |of| of.iter().all(|of| of.participant.is_ready())).await;
        let _answer = machines[0].wish(&service("web", 10, &[(1, 1), (2, 1)], false));
        drive(&mut machines, "settled", |of| of.iter().all(Machine::is_settled)).await;
        let members: Vec<_> =
            machines.iter().map(|of| of.participant.member().expect("it has joined")).collect();
        let generation = |of: &Machine| of.participant.document().map_or(0, |of| of.plan.generation);
        let before = generation(&machines[0]);
        let dead = machines.remove(2);
        dead.keeper.abort();
        drop(dead);
        etcd.wipe();
        // It finds an empty store, and may be the first one there.
        machines.push(Machine::start(2, etcd.config()));
        drive(&mut machines, "together", |of| {
            of.iter().all(|of| of.connected && of.participant.snapshot().wish().is_some() && of.is_settled())
        })
        .await;
        for (machine, before) in machines.iter().zip(&members) {
            let member = machine.participant.member().expect("it has joined");
            assert_eq!(member.machine, before.machine, "{members:?}");
            assert!(machine.participant.misfit().is_none() && names(machine) == ["b1", "b2"]);
        }
        let after: Vec<_> =
            machines.iter().map(|of| of.participant.member().expect("it has joined")).collect();
        assert_eq!(after[..2], members[..2], "nobody was given up");
        assert!(after[2].incarnation > members[2].incarnation && generation(&machines[0]) >= before);
    });
}

#[test]
fn a_machine_of_a_name_that_lives_elsewhere_does_not_start() {
    let etcd = Etcd::start();
    runtime().block_on(async {
        let mut machines = vec![Machine::start(0, etcd.config())];
        drive(&mut machines, "joined", |of| of[0].participant.is_ready()).await;
        let (_asked, requests) = mpsc::channel(64);
        let (events, mut received) = mpsc::channel(64);
        let namesake = (own(0).name, own(1).address);
        tokio::spawn(keep(etcd.config(), namesake, requests, events));
        let note = tokio::time::timeout(PATIENCE, received.recv()).await.expect("an answer");
        let Some(Event::Store(StoreEvent::Unfit(reason))) = note else { panic!("{note:?}") };
        assert!(reason.contains("10.0.2.11, lives under this machine's name"), "{reason}");
        drive(&mut machines, "unharmed", |of| of[0].participant.is_ready()).await;
    });
}

#[test]
fn a_password_is_asked_for_and_a_wrong_one_told() {
    let etcd = Etcd::start();
    let file = etcd.directory.path().join("password");
    std::fs::write(&file, "right\nsecond line\n").expect("written");
    runtime().block_on(async {
        // It answers once this machine has been there.
        let mut machines = vec![Machine::start(0, etcd.config())];
        drive(&mut machines, "up", |of| of[0].connected).await;
        machines[0].asked.send(StoreRequest::Order(StoreOrder::Leave)).await.expect("kept");
    });
    etcd.ctl(&["user", "add", "root:root"]);
    etcd.ctl(&["user", "add", "guideway:right"]);
    etcd.ctl(&["role", "add", "guideway"]);
    etcd.ctl(&["role", "grant-permission", "guideway", "--prefix=true", "readwrite", "/guideway/"]);
    etcd.ctl(&["user", "grant-role", "guideway", "guideway"]);
    etcd.ctl(&["user", "grant-role", "root", "root"]);
    etcd.ctl(&["auth", "enable"]);
    let with = |password_file: &Path| Cluster {
        user: Some(StoreUser { name: "guideway".to_owned(), password_file: password_file.to_owned() }),
        ..etcd.config()
    };
    runtime().block_on(async {
        let mut machines = vec![Machine::start(1, with(&file))];
        drive(&mut machines, "logged in", |of| of[0].participant.is_ready()).await;
        for (cluster, expected) in [
            (etcd.config(), "user name is empty"),
            (with(&etcd.directory.path().join("none")), "cannot read"),
            (with(Path::new("/dev/null")), "authentication failed"),
        ] {
            let mut machine = Machine::start(2, cluster);
            let note = tokio::time::timeout(PATIENCE, machine.events.recv()).await.expect("an answer");
            let Some(Event::Store(StoreEvent::Disconnected(reason))) = note else { panic!("{note:?}") };
            assert!(reason.contains(expected), "{reason}");
        }
    });
}

/// Writes a certificate for the loopback and its key, signed by the issuer.
fn certify(directory: &Path, name: &str, issuer: &rcgen::Issuer<'_, rcgen::KeyPair>) -> (PathBuf, PathBuf) {
    let mut parameters = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
    parameters.extended_key_usages =
        vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = parameters.signed_by(&key, issuer).expect("signed");
    let files = (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
    std::fs::write(&files.0, certificate.pem()).expect("written");
    std::fs::write(&files.1, key.serialize_pem()).expect("written");
    files
}

fn issuer(file: &Path) -> rcgen::Issuer<'static, rcgen::KeyPair> {
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).expect("no name");
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().expect("a key");
    std::fs::write(file, parameters.self_signed(&key).expect("signed").pem()).expect("written");
    rcgen::Issuer::new(parameters, key)
}

#[test]
fn both_sides_show_certificates() {
    let mut client = None;
    let etcd = Etcd::start_with("https", |directory| {
        let (ca, stranger) = (directory.join("ca.pem"), directory.join("stranger.pem"));
        let ours = issuer(&ca);
        issuer(&stranger);
        client = Some((ca.clone(), stranger, certify(directory, "client", &ours)));
        let (cert, key) = certify(directory, "server", &ours);
        let argument = |name: &str, file: &Path| format!("--{name}={}", file.display());
        vec![
            argument("cert-file", &cert),
            argument("key-file", &key),
            argument("trusted-ca-file", &ca),
            "--client-cert-auth".to_owned(),
        ]
    });
    let (ca, stranger, identity) = client.expect("made before the start");
    let with = |ca: &Path, identity: Option<(PathBuf, PathBuf)>| Cluster {
        tls: Some(StoreTls { ca: ca.to_owned(), identity }),
        ..etcd.config()
    };
    runtime().block_on(async {
        let mut machines = vec![Machine::start(0, with(&ca, Some(identity.clone())))];
        drive(&mut machines, "joined", |of| of[0].participant.is_ready()).await;
        for (what, cluster) in [
            ("a store of a stranger", with(&stranger, Some(identity))),
            ("a machine without a certificate", with(&ca, None)),
        ] {
            let mut machine = Machine::start(1, cluster);
            let note = tokio::time::timeout(PATIENCE, machine.events.recv()).await.expect("an answer");
            assert!(matches!(note, Some(Event::Store(StoreEvent::Disconnected(_)))), "{what}: {note:?}");
        }
    });
}

#[test]
fn votes_become_masks_on_all_machines_without_waiting_for_a_tick() {
    let etcd = Etcd::start();
    runtime().block_on(async {
        let mut machines = vec![Machine::start(0, etcd.config()), Machine::start(1, etcd.config())];
        let begun = Instant::now();
        live(&mut machines, begun, |of| of.iter().all(|of| of.participant.is_ready())).await;
        let _answer = machines[0].wish(&service("web", 10, &[(1, 1), (2, 1), (3, 1)], true));
        let say = |machine: &mut Machine, down: &str| {
            let mut health = HealthValue::default();
            for name in ["b1", "b2", "b3"] {
                let of = if name == down { &mut health.down } else { &mut health.up };
                of.insert(("web".to_owned(), name.to_owned()));
            }
            machine.participant.set_health(&health);
        };
        for machine in &mut machines {
            say(machine, "");
        }
        let all_serve = |of: &Machine| {
            of.participant.document().is_some_and(|of| {
                let serving: BTreeSet<_> =
                    of.plan.services.iter().flat_map(|of| of.cur.iter()).flatten().collect();
                serving.len() == 3 && of.plan.masks.is_empty()
            })
        };
        let at_rest = |of: &[Machine]| of.iter().all(|of| of.is_settled() && all_serve(of));
        live(&mut machines, begun, at_rest).await;
        let (mut slowest, mut apart) = (Duration::ZERO, Duration::ZERO);
        for round in 0..5 {
            let down = if round % 2 == 0 { "b2" } else { "b3" };
            let told = Instant::now();
            for machine in &mut machines {
                say(machine, down);
            }
            let mut masked: [Option<Instant>; 2] = [None; 2];
            live(&mut machines, begun, |of| {
                for (machine, masked) in of.iter().zip(&mut masked) {
                    let document = machine.participant.document().expect("settled");
                    let id = document.backends.iter().find(|of| of.name == down).expect("known").id;
                    if document.plan.is_masked(id) {
                        masked.get_or_insert_with(Instant::now);
                    }
                }
                masked.iter().all(Option::is_some)
            })
            .await;
            let [one, other] = masked.map(|at| at.expect("masked"));
            slowest = slowest.max(one.max(other) - told);
            apart = apart.max(one.max(other) - one.min(other));
            // The tables behind it, and back.
            for machine in &mut machines {
                say(machine, "");
            }
            live(&mut machines, begun, at_rest).await;
        }
        eprintln!("votes to masks in force: {slowest:?} at most; machines apart: {apart:?} at most");
        // A slow tick is 100 ms. Three values have to go through the store, one after the other, on a machine that may be busy.
        assert!(slowest < Duration::from_millis(1000), "{slowest:?}");
        assert!(apart < Duration::from_millis(50), "{apart:?}");
    });
}

#[test]
fn what_one_machine_hears_of_an_agent_is_in_force_on_both() {
    let etcd = Etcd::start();
    runtime().block_on(async {
        let mut machines = vec![Machine::start(0, etcd.config()), Machine::start(1, etcd.config())];
        let begun = Instant::now();
        live(&mut machines, begun, |of| of.iter().all(|of| of.participant.is_ready())).await;
        let _answer = machines[0].wish(&super::registering::open(&[]));
        live(&mut machines, begun, |of| of.iter().all(Machine::is_settled)).await;
        let a = super::registering::registered("h1", "w1", 1, 1);
        let told = Instant::now();
        let up = HealthValue { up: [("web".to_owned(), "w1".to_owned())].into(), ..HealthValue::default() };
        for machine in &mut machines {
            machine.participant.set_received(super::registering::received(&[&a], &[]));
            machine.participant.set_health(&up);
        }
        let serves = |of: &Machine| {
            let document = of.participant.document();
            document.is_some_and(|of| of.plan.services.iter().any(|of| of.cur.iter().all(Option::is_some)))
        };
        live(&mut machines, begun, |of| of.iter().all(serves)).await;
        let took = told.elapsed();
        eprintln!("heard to served: {took:?}");
        assert!(took < Duration::from_millis(1000), "{took:?}");
        let documents: Vec<_> = machines.iter().filter_map(|of| of.participant.document().cloned()).collect();
        assert_eq!(documents[0].registered, [a]);
        assert_eq!(
            (&documents[0].registered, &documents[0].backends),
            (&documents[1].registered, &documents[1].backends)
        );
        // Its machine goes, and what it has heard with it; the backend stays.
        machines[0].asked.send(StoreRequest::Order(StoreOrder::Leave)).await.expect("kept");
        let key = Key::Received(machines[0].participant.member().expect("it was a member").machine);
        drive(&mut machines[1..], "alone", |of| of[0].participant.snapshot().entry(key).is_none()).await;
        drive(&mut machines[1..], "settled", |of| of[0].is_settled() && of[0].participant.leads()).await;
        assert_eq!(machines[1].participant.document().map(|of| of.registered.len()), Some(1));
    });
}
