//! Large transfers with full-size segments: the client learns the tunnel's MTU and goes on.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use guideway_lab::Lab;
use guideway_lab::config::{Member, Mode, Service};
use guideway_lab::load::bulk::{BulkLoad, Direction};
use guideway_lab::scenario::{check_conservation, wait_up};
use guideway_lab::topology::{ECHO_PORT, VIP};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const BYTES: u64 = 200_000_000;

#[test]
fn large_transfers_complete_at_mtu_1500_through_ipip() {
    let lab = Lab::new("bulk").unwrap();
    let members = vec![Member::v4(1, Mode::Ipip), Member::v4(2, Mode::Ipip)];
    let balancer = lab.start_balancer(1, &lab.config(1).with(Service::echo(Mode::Ipip, members))).unwrap();
    wait_up(&balancer, "echo", &["b1", "b2"]).unwrap();
    let vip: IpAddr = VIP.parse().unwrap();
    let source = lab.sources(vip)[0];
    for direction in [Direction::Down, Direction::Up] {
        let load = BulkLoad { target: SocketAddr::new(vip, ECHO_PORT), source, direction, bytes: BYTES };
        let report = lab.bulk(load).unwrap().finish(Duration::from_secs(90)).unwrap();
        println!("{direction:?}: {report:?}");
        assert_eq!(report.bytes, BYTES);
        assert!(report.stall_max_ms <= 1000, "{direction:?}: a pause of {} ms", report.stall_max_ms);
    }
    // The upload begins with full-size segments that do not fit the tunnel.
    let drops = balancer.api().drops().unwrap();
    assert!(drops["too_big"] >= 1, "{drops:?}");
    // A handful of them teaches the client; more would mean that it does not understand the answer.
    assert!(drops["too_big"] <= 500, "{drops:?}");
    let route = lab.client().ip(&format!("route get {VIP} from {source}")).unwrap();
    assert!(route.contains("mtu 1480"), "the client has not learned the path MTU: {route}");
    check_conservation(&balancer).unwrap();
    balancer.stop().unwrap();
}
