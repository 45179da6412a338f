//! Decisions on plain data, and the task on a kernel's interfaces.

use super::decide::KernelInterface;
use super::keep::{KeeperSetup, keep};
use super::*;
use crate::announce;
use crate::claims::{Claims, ExclusiveName};
use crate::event::Event;
use crate::test_network::{Far, in_own_network, sh};
use model::config::Net;
use proptest::prelude::*;
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

fn vip(text: &str) -> Vip {
    Vip::from(text.parse::<Net>().unwrap())
}

fn at(interface: &str, address: &str) -> PlacedAddress {
    PlacedAddress { interface: interface.to_owned(), address: vip(address) }
}

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];

/// One exception interface with everything, over a kernel interface, and two VIPs, of which one is in its subnet.
fn wanted() -> WantedOfKernel {
    WantedOfKernel {
        interfaces: vec![KernelInterface {
            port: PortId(0),
            name: "gw0".to_owned(),
            mac: Some(MAC),
            addresses: vec![vip("10.0.2.11/24"), vip("fd00:2::11/64")],
            gateways: ["10.0.2.1".parse().unwrap(), "fd00:2::1".parse().unwrap()].into(),
            made: 0,
        }],
        links: vec![(PortId(0), "p0".to_owned())],
        announce: announce::WantedVips {
            vips: [vip("203.0.113.10/32"), vip("fd00:2::50/128")].into(),
            subnets: vec![("gw0".to_owned(), "fd00:2::11/64".parse().unwrap())],
            accept_local: BTreeSet::new(),
        },
        configured: [vip("203.0.113.10/32"), vip("fd00:2::50/128")].into(),
    }
}

fn link(index: u32) -> KernelLink {
    KernelLink { index, up: true, running: true, mac: Some(MAC) }
}

/// The kernel after an action, but for one that it cannot do.
fn apply(seen: &mut KernelState, action: &KernelAction) {
    let is_up = |seen: &KernelState, name: &String| seen.links.get(name).is_some_and(|link| link.up);
    match action {
        KernelAction::Raise(name) => {
            let link = seen.links.get_mut(name).expect("only what is there is changed");
            (link.up, link.running) = (true, true);
        }
        KernelAction::SetMac(name, mac) => seen.links.get_mut(name).expect("there").mac = Some(*mac),
        KernelAction::PutAddress(at) | KernelAction::PutVip(at) => {
            assert!(seen.links.contains_key(&at.interface), "{action:?}");
            seen.addresses.insert(at.clone());
        }
        KernelAction::TakeVip(at) => assert!(seen.addresses.remove(at), "{action:?}"),
        KernelAction::PutRoute(name, gateway) => {
            assert!(is_up(seen, name), "a route needs its interface up: {action:?}");
            let has_network = seen
                .addresses
                .iter()
                .any(|at| at.interface == *name && at.address.address.is_ipv4() == gateway.is_ipv4());
            assert!(has_network, "a gateway is in a network of the interface: {action:?}");
            seen.routes.insert((name.clone(), *gateway));
        }
    }
}

#[test]
fn what_follows_is_in_an_order_that_the_kernel_takes() {
    let mut seen = KernelState::default();
    seen.links.insert("lo".to_owned(), link(1));
    seen.links.insert("gw0".to_owned(), KernelLink { up: false, running: false, mac: None, ..link(7) });
    let found = decide(&wanted(), &seen, &BTreeSet::new());
    let gateway = |text: &str| text.parse::<IpAddr>().unwrap();
    let expected = [
        KernelAction::SetMac("gw0".to_owned(), MAC),
        KernelAction::Raise("gw0".to_owned()),
        KernelAction::PutAddress(at("gw0", "10.0.2.11/24")),
        KernelAction::PutAddress(at("gw0", "fd00:2::11/64")),
        KernelAction::PutRoute("gw0".to_owned(), gateway("10.0.2.1")),
        KernelAction::PutRoute("gw0".to_owned(), gateway("fd00:2::1")),
        KernelAction::PutVip(at("gw0", "fd00:2::50/128")),
        KernelAction::PutVip(at("lo", "203.0.113.10/32")),
        KernelAction::PutVip(at("lo", "fd00:2::50/128")),
    ];
    assert_eq!(found.actions, expected);
    assert_eq!((found.absent.len(), found.down), (0, [PortId(0)].into()), "p0 is not there");
}

#[test]
fn nothing_is_asked_of_an_interface_that_is_gone() {
    let mut seen = KernelState::default();
    seen.links.insert("lo".to_owned(), link(1));
    seen.links.insert("p0".to_owned(), link(2));
    let found = decide(&wanted(), &seen, &BTreeSet::new());
    assert_eq!(found.absent, [PortId(0)].into());
    assert!(found.down.is_empty());
    assert!(
        found.actions.iter().all(|action| matches!(action, KernelAction::PutVip(at) if at.interface == "lo"))
    );
    assert_eq!(found.actions.len(), 2);
}

fn any_seen() -> impl Strategy<Value = (KernelState, BTreeSet<PlacedAddress>)> {
    let places = [
        at("gw0", "10.0.2.11/24"),
        at("gw0", "fd00:2::11/64"),
        at("gw0", "fd00:2::50/128"),
        at("lo", "203.0.113.10/32"),
        at("lo", "fd00:2::50/128"),
        // Another's, or ours of a service that is not ready.
        at("lo", "198.51.100.1/32"),
        at("lo", "127.0.0.1/8"),
        at("gw0", "10.0.2.77/24"),
    ];
    let link = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let sets = (proptest::sample::subsequence(places.to_vec(), 0..=8), any::<u8>(), any::<u8>(), any::<u8>());
    (link, sets).prop_map(move |((is_there, up, has_link, has_mac), (addresses, routes, ours, below))| {
        let mut seen = KernelState::default();
        seen.links.insert("lo".to_owned(), KernelLink { mac: None, ..super::tests::link(1) });
        if below & 1 == 1 {
            let running = below & 2 == 2;
            seen.links.insert("p0".to_owned(), KernelLink { running, ..super::tests::link(2) });
        }
        if is_there {
            let mac = has_mac.then_some(MAC);
            seen.links.insert("gw0".to_owned(), KernelLink { index: 3, up, running: up && has_link, mac });
        }
        seen.addresses = addresses.into_iter().filter(|at| seen.links.contains_key(&at.interface)).collect();
        for (bit, gateway) in [(1, "10.0.2.1"), (2, "fd00:2::1")] {
            if is_there && up && routes & bit > 0 {
                seen.routes.insert(("gw0".to_owned(), gateway.parse().unwrap()));
            }
        }
        let all = [(1, at("lo", "198.51.100.1/32")), (2, at("lo", "203.0.113.10/32"))];
        let ours = all.into_iter().filter(|(bit, _)| ours & bit > 0).map(|(_, at)| at).collect();
        (seen, ours)
    })
}

proptest! {
    /// From whatever is seen, one round of what follows leads to what is wanted; nothing else is touched, and then nothing follows any more.
    #[test]
    fn one_round_leads_to_what_is_wanted((before, ours) in any_seen(), is_ready in any::<bool>()) {
        let mut wanted = wanted();
        if !is_ready {
            wanted.announce.vips.clear();
        }
        let mut seen = before.clone();
        let found = decide(&wanted, &seen, &ours);
        for action in &found.actions {
            apply(&mut seen, action);
        }
        let again = decide(&wanted, &seen, &ours);
        prop_assert!(again.actions.is_empty(), "{again:?}");
        prop_assert_eq!(&again.absent, &found.absent);
        prop_assert_eq!(again.absent.is_empty(), seen.links.contains_key("gw0"));
        prop_assert_eq!(again.down.is_empty(), seen.links.get("p0").is_some_and(|link| link.running));
        // What is gone was ours and is not wanted; what has come is wanted.
        let places = wanted.places();
        for gone in before.addresses.difference(&seen.addresses) {
            prop_assert!(ours.contains(gone) && !places.contains(gone), "{gone:?}");
        }
        for new in seen.addresses.difference(&before.addresses) {
            let is_own = wanted.interfaces[0].addresses.contains(&new.address) && new.interface == "gw0";
            prop_assert!(is_own || places.contains(new), "{new:?}");
        }
        prop_assert!(places.iter().all(|at| !seen.links.contains_key(&at.interface) || seen.addresses.contains(at)));
    }
}

/// A running task.
struct Keeping {
    wish: watch::Sender<WantedOfKernel>,
    on_loopback: watch::Receiver<OnLoopback>,
    noted: mpsc::Receiver<Event>,
    task: tokio::task::JoinHandle<()>,
}

impl Keeping {
    fn start(wanted: WantedOfKernel, left_over: &[Vip], claims: Claims) -> Keeping {
        let (wish, wishes) = watch::channel(wanted);
        let (tell, on_loopback) = watch::channel(OnLoopback::default());
        let (events, noted) = mpsc::channel(256);
        let left_over = left_over.iter().copied().collect();
        let setup = KeeperSetup { wanted: wishes, left_over, on_loopback: tell, events, claims };
        Keeping { wish, on_loopback, noted, task: tokio::spawn(keep(setup)) }
    }

    async fn until(&mut self, vips: &[Vip]) {
        let vips: BTreeSet<Vip> = vips.iter().copied().collect();
        let reached = self.on_loopback.wait_for(|now| now.there == vips);
        tokio::time::timeout(Duration::from_secs(10), reached).await.expect("in time").unwrap();
    }

    /// The next note for which `wanted` gives something, within 10 s.
    async fn note<T>(&mut self, what: &str, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
        let found = async {
            loop {
                let note = self.noted.recv().await.expect("the task runs");
                if let Some(found) = wanted(&note) {
                    return found;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), found).await.unwrap_or_else(|_| panic!("never: {what}"))
    }

    async fn repaired(&mut self, text: &str) {
        let is = |note: &Event| matches!(note, Event::Repaired { text: of, .. } if of == text).then_some(());
        self.note(text, is).await;
    }

    /// Everything is as wanted.
    async fn well(&mut self) {
        let is = |note: &Event| {
            matches!(note, Event::Surroundings(seen) if *seen == Surroundings::default()).then_some(())
        };
        self.note("as wanted", is).await;
    }

    async fn stop(self) -> Vec<Event> {
        drop(self.wish);
        tokio::time::timeout(Duration::from_secs(5), self.task).await.expect("ends with its owner").unwrap();
        let mut noted = self.noted;
        let mut events = Vec::new();
        while let Some(note) = noted.recv().await {
            events.push(note);
        }
        events
    }
}

fn run<F: Future<Output = ()>>(body: F) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(body);
}

/// Waits until a shell command says what is wanted.
async fn shows(command: &str, wanted: impl Fn(&str) -> bool) -> String {
    for _ in 0..200 {
        let said = sh(command);
        if wanted(&said) {
            return said;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{command}: {}", sh(command));
}

#[test]
fn vips_come_and_go() {
    in_own_network("reconcile::tests::vips_come_and_go", "", || {
        let far = Far::new(
            "gw0",
            "ip address add 10.0.2.1/24 dev far0; ip address add fd00:2::1/64 dev far0 nodad",
        );
        sh("ip address add 10.0.2.11/24 dev gw0; ip address add fd00:2::11/64 dev gw0 nodad");
        // Left by a process that was killed; one of them is wanted again.
        sh("ip address add 198.51.100.1/32 dev lo; ip address add 10.0.2.50/32 dev lo");
        run(async {
            let (four, six) = (vip("10.0.2.50/32"), vip("fd00:2::50/128"));
            let subnets = ["10.0.2.11/24", "fd00:2::11/64"];
            let announce = announce::WantedVips {
                vips: [four, six].into(),
                subnets: subnets.map(|net| ("gw0".to_owned(), net.parse().unwrap())).into(),
                accept_local: ["gw0".to_owned()].into(),
            };
            let interfaces = vec![seen::interface(PortId(0), "gw0")];
            let wanted = WantedOfKernel { announce, interfaces, ..WantedOfKernel::default() };
            let left_over = [vip("198.51.100.1/32"), four];
            let mut keeping = Keeping::start(wanted.clone(), &left_over, Claims::default());
            keeping.until(&[four, six]).await;
            let on_loopback = sh("ip -o address show dev lo");
            assert!(
                on_loopback.contains("10.0.2.50/32") && on_loopback.contains("fd00:2::50/128"),
                "{on_loopback}"
            );
            assert!(!on_loopback.contains("198.51.100.1"), "{on_loopback}");
            shows("cat /proc/sys/net/ipv4/conf/gw0/accept_local", |said| said.trim() == "1").await;
            // The kernel answers for both on the link.
            far.sh("ping -c 1 -W 5 10.0.2.50");
            far.sh("ping -c 1 -W 5 fd00:2::50");

            let with = |vips: &[Vip]| {
                let mut wanted = wanted.clone();
                wanted.announce.vips = vips.iter().copied().collect();
                wanted
            };
            keeping.wish.send_replace(with(&[four]));
            keeping.until(&[four]).await;
            assert!(!sh("ip -o address show").contains("fd00:2::50"));
            keeping.wish.send_replace(with(&[]));
            keeping.until(&[]).await;
            assert!(!sh("ip -o address show").contains("10.0.2.50"));
            let own = sh("ip -o address show dev gw0");
            assert!(own.contains("10.0.2.11/24") && own.contains("fd00:2::11/64"), "{own}");

            let mut told = Vec::new();
            for note in keeping.stop().await {
                match note {
                    Event::Announced { vip, there } => told.push((vip.to_string(), there)),
                    Event::Surroundings(_) => {}
                    other => panic!("{other:?}"),
                }
            }
            let expected = [
                ("10.0.2.50/32", true),
                ("fd00:2::50/128", true),
                ("fd00:2::50/128", false),
                ("10.0.2.50/32", false),
            ];
            assert_eq!(told, expected.map(|(vip, there)| (vip.to_owned(), there)));
        });
    });
}

#[test]
fn what_another_has_made_stays_and_what_another_has_claimed_is_not_touched() {
    let name = "reconcile::tests::what_another_has_made_stays_and_what_another_has_claimed_is_not_touched";
    in_own_network(name, "", || {
        // Of an operator, and of another daemon, whose address our own state file remembers from some time ago.
        sh("ip address add 203.0.113.10/32 dev lo; ip address add 203.0.113.20/32 dev lo");
        let other = Claims::default();
        for claimed in ["203.0.113.20/32", "203.0.113.30/32"] {
            other.claim(&ExclusiveName::Vip(claimed.parse().unwrap())).unwrap();
        }
        run(async {
            let (own, operators, claimed) =
                (vip("203.0.113.11/32"), vip("203.0.113.10/32"), vip("203.0.113.30/32"));
            let announce = announce::WantedVips {
                vips: [own, operators, claimed].into(),
                ..announce::WantedVips::default()
            };
            let wanted = WantedOfKernel { announce, ..WantedOfKernel::default() };
            let mut keeping = Keeping::start(wanted, &[vip("203.0.113.20/32")], Claims::default());
            keeping.until(&[own, operators]).await;
            let text = keeping
                .note("a failure", |note| match note {
                    Event::RepairFailed { kind: RepairKind::Vip, text: Some(text) } => Some(text.clone()),
                    _ => None,
                })
                .await;
            assert!(text.contains("203.0.113.30/32") && text.contains("in use by"), "{text}");
            keeping.wish.send_replace(WantedOfKernel::default());
            keeping.until(&[]).await;
            let left = sh("ip -o address show dev lo");
            assert!(left.contains("203.0.113.10/32") && left.contains("203.0.113.20/32"), "{left}");
            assert!(!left.contains("203.0.113.11") && !left.contains("203.0.113.30"), "{left}");
            // Given back with the address.
            drop(other);
            Claims::default().claim(&ExclusiveName::Vip("203.0.113.11/32".parse().unwrap())).unwrap();
            keeping.stop().await;
        });
    });
}

#[test]
fn an_interface_is_put_right_whatever_an_operator_does() {
    in_own_network("reconcile::tests::an_interface_is_put_right_whatever_an_operator_does", "", || {
        let _far = Far::new("gw0", "ip address add 10.0.2.1/24 dev far0");
        sh(
            "ip link add p0 type veth peer name p1; ip link set p0 up; ip link set p1 up; ip link set gw0 address 02:00:00:00:00:11",
        );
        run(async {
            let mut wanted = wanted();
            wanted.announce = announce::WantedVips::default();
            let mut keeping = Keeping::start(wanted.clone(), &[], Claims::default());
            keeping.repaired("default route by fd00:2::1 put on gw0").await;
            let routes = || sh("ip -4 route show default; ip -6 route show default");
            let all =
                |said: &str| said.contains("via 10.0.2.1 dev gw0") && said.contains("via fd00:2::1 dev gw0");
            assert!(all(&routes()), "{}", routes());

            // Down: what was on it is flushed by the kernel.
            sh("ip link set gw0 down");
            keeping.repaired("gw0 set up").await;
            keeping.repaired("default route by fd00:2::1 put on gw0").await;
            shows("ip -4 route show default; ip -6 route show default", all).await;

            sh("ip address flush dev gw0");
            keeping.repaired("10.0.2.11/24 put on gw0").await;
            keeping.repaired("fd00:2::11/64 put on gw0").await;
            shows("ip -4 route show default; ip -6 route show default", all).await;

            sh("ip route del default; ip -6 route del default");
            keeping.repaired("default route by 10.0.2.1 put on gw0").await;
            keeping.repaired("default route by fd00:2::1 put on gw0").await;

            sh("ip link set gw0 address 02:00:00:00:00:99");
            keeping.repaired("gw0 given its MAC 02:00:00:00:00:11").await;

            // A default route of the host's own is left alone, and ours stands behind it.
            sh(
                "ip address add 192.0.2.1/24 dev p0; ip route del default; ip route add default via 192.0.2.9 dev p0",
            );
            keeping.repaired("default route by 10.0.2.1 put on gw0").await;
            let both = shows("ip -4 route show default", |said| said.contains("metric 4096")).await;
            assert!(both.contains("via 192.0.2.9 dev p0"), "{both}");

            // The link of a data port is told and not touched.
            sh("ip link set p1 down");
            let down = |note: &Event| {
                matches!(note, Event::Surroundings(seen) if seen.down == [PortId(0)].into()).then_some(())
            };
            keeping.note("no link", down).await;
            sh("ip link set p1 up");
            keeping.well().await;

            // Gone; another of its name is not ours, until its device was made anew.
            sh("ip link del gw0");
            let gone = |note: &Event| {
                matches!(note, Event::Surroundings(seen) if seen.absent == [(PortId(0), 0)].into())
                    .then_some(())
            };
            keeping.note("gone", gone).await;
            sh(
                "ip link add gw0 type veth peer name far1; ip link set far1 up; ip link set gw0 address 02:00:00:00:00:11",
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert!(!sh("ip -o address show").contains("10.0.2.11"));
            wanted.interfaces[0].made = 1;
            keeping.wish.send_replace(wanted);
            keeping.repaired("gw0 set up").await;
            keeping.repaired("default route by fd00:2::1 put on gw0").await;
            keeping.stop().await;
        });
    });
}

#[test]
fn what_cannot_be_put_right_is_told_once_and_counted() {
    in_own_network("reconcile::tests::what_cannot_be_put_right_is_told_once_and_counted", "", || {
        let _far = Far::new("gw0", "true");
        run(async {
            let mut interface = seen::interface(PortId(4), "gw0");
            // In no network of the interface.
            interface.gateways = ["10.9.9.1".parse().unwrap()].into();
            let mut keeping = Keeping::start(
                WantedOfKernel { interfaces: vec![interface], ..WantedOfKernel::default() },
                &[],
                Claims::default(),
            );
            let (mut failures, mut told) = (0, Vec::new());
            while failures < 4 {
                let text = keeping
                    .note("a failure", |note| match note {
                        Event::RepairFailed { kind: RepairKind::Route, text } => Some(text.clone()),
                        _ => None,
                    })
                    .await;
                failures += 1;
                told.extend(text);
            }
            assert_eq!(told.len(), 1);
            assert!(told[0].contains("10.9.9.1") && told[0].contains("exception_addresses"), "{told:?}");
            let events = keeping.stop().await;
            assert!(events.iter().all(|note| !matches!(note, Event::RepairFailed { text: Some(_), .. })));
        });
    });
}
