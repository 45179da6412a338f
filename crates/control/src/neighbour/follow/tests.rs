use super::super::{NextHop, NextHops};
use super::*;
use crate::test_network::{Far, in_own_network, sh};
use model::config::Mac;

const NAME: &str = "neighbour::follow::tests::";

/// The next report that satisfies `wanted`, within 15 s.
async fn report(events: &mut mpsc::Receiver<Event>, wanted: impl Fn(&NextHops) -> bool) -> NextHops {
    let found = async {
        loop {
            if let Some(Event::NextHops(found)) = events.recv().await
                && wanted(&found)
            {
                return found;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(15), found).await.expect("a report in time")
}

fn run<F: Future<Output = ()>>(body: F) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(body);
}

fn mac(text: &str) -> [u8; 6] {
    text.trim().parse::<Mac>().unwrap().0
}

#[test]
fn next_hops_follow_routes_and_neighbours() {
    let name = format!("{NAME}next_hops_follow_routes_and_neighbours");
    in_own_network(&name, "", || {
        let far = Far::new(
            "gw0",
            "ip address add 10.0.2.1/24 dev far0; ip address add 10.0.2.21/24 dev far0; \
             ip address add fd00:2::1/64 dev far0 nodad; ip address add fd00:2::21/64 dev far0 nodad; \
             ip link set far0 address 02:00:00:00:00:aa",
        );
        sh("ip address add 10.0.2.11/24 dev gw0; ip address add fd00:2::11/64 dev gw0 nodad; \
            ip route add default via 10.0.2.1");
        run(async {
            let ip = |text: &str| text.parse::<IpAddr>().unwrap();
            let (near, routed, silent) = (ip("10.0.2.21"), ip("192.0.2.7"), ip("10.0.2.99"));
            let six = ip("fd00:2::21");
            let port = PortId(3);
            let (wish, wanted) = watch::channel(WantedNextHops::default());
            let (tell, mut events) = mpsc::channel(16);
            let follower = tokio::spawn(follow(wanted, tell));
            wish.send_replace(WantedNextHops {
                addresses: [near, routed, silent, six].into(),
                interfaces: vec![(PortId(9), "missing0".to_owned()), (port, "gw0".to_owned())],
            });
            let hop = NextHop { port, mac: mac("02:00:00:00:00:aa") };
            let found = report(&mut events, |found| found.len() == 3).await;
            assert_eq!(found, NextHops::from([(near, hop), (routed, hop), (six, hop)]));

            // The silent one comes to life: found without being asked for again.
            far.sh("ip address add 10.0.2.99/24 dev far0");
            let found = report(&mut events, |found| found.len() == 4).await;
            assert_eq!(found[&silent], hop);

            // A new gateway with another address on the link.
            far.sh("ip address add 10.0.2.2/24 dev far0");
            sh("ip neighbour replace 10.0.2.2 lladdr 02:00:00:00:00:bb dev gw0 nud permanent; \
                ip route replace default via 10.0.2.2");
            let other = NextHop { port, mac: mac("02:00:00:00:00:bb") };
            let found = report(&mut events, |found| found.get(&routed) == Some(&other)).await;
            assert_eq!(found[&near], hop);

            // An entry deleted by hand is resolved anew, without being asked for again, and known meanwhile.
            sh("ip neighbour del 10.0.2.21 dev gw0");
            let begun = Instant::now();
            while !sh("ip neighbour show 10.0.2.21 dev gw0").contains("REACHABLE") {
                assert!(begun.elapsed() < Duration::from_secs(3), "not resolved anew");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            while let Ok(note) = events.try_recv() {
                assert!(matches!(&note, Event::NextHops(found) if found.contains_key(&near)), "{note:?}");
            }

            // What the kernel could not resolve is lost.
            far.sh("ip address del 10.0.2.21/24 dev far0");
            sh("ip neighbour replace 10.0.2.21 lladdr 02:00:00:00:00:aa dev gw0 nud failed");
            report(&mut events, |found| !found.contains_key(&near)).await;

            drop(wish);
            tokio::time::timeout(Duration::from_secs(5), follower)
                .await
                .expect("ends with its owner")
                .unwrap();
        });
    });
}

#[test]
fn nothing_is_asked_without_interfaces() {
    run(async {
        let (wish, wanted) = watch::channel(WantedNextHops::default());
        let (tell, mut events) = mpsc::channel(16);
        let follower = tokio::spawn(follow(wanted, tell));
        drop(wish);
        tokio::time::timeout(Duration::from_secs(5), follower).await.expect("ends").unwrap();
        assert!(events.recv().await.is_none());
    });
}
