//! The balancer as a host on its own link: a VIP that ARP finds, and the machine's own address beside the traffic.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use guideway_lab::config::{Member, Mode, Service};
use guideway_lab::load::Job;
use guideway_lab::load::echo::{EchoLoad, EchoReport};
use guideway_lab::load::http::{HttpLoad, HttpReport};
use guideway_lab::load::serve::Server;
use guideway_lab::scenario::{Variant, wait_up};
use guideway_lab::topology::{HTTP_PORT, NEAR, VIP_NEAR, balancer_address};
use guideway_lab::{Lab, LoadRun};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

#[test]
fn a_client_on_the_same_link_reaches_an_announced_vip() {
    let lab = Lab::new("own subnet").unwrap();
    let members: Vec<Member> = (1..=3).map(|index| Member::v4(index, Mode::Ipip)).collect();
    let service = Service {
        vip: VIP_NEAR.into(),
        extra: "announce = \"kernel\"\n".into(),
        ..Service::web(Mode::Ipip, members)
    };
    let balancer = lab.start_balancer(1, &lab.config(1).with(service)).unwrap();
    wait_up(&balancer, "web", &["b1", "b2", "b3"]).unwrap();
    let addresses = lab.balancer(1).unwrap().ip("-4 address show dev lo").unwrap();
    assert!(addresses.contains(VIP_NEAR), "{addresses}");

    let vip: IpAddr = VIP_NEAR.parse().unwrap();
    let load = HttpLoad::new(SocketAddr::new(vip, HTTP_PORT), vec![NEAR.parse().unwrap()], 500);
    let run: LoadRun<HttpReport> = LoadRun::start(lab.near(), lab.binaries(), &Job::Http(load)).unwrap();
    let report = run.finish(Duration::from_secs(30)).unwrap();
    assert_eq!((report.ok, report.failed), (500, 0), "{:?}", report.failures.first());
    assert_eq!(report.per_backend.len(), 3, "{:?}", report.per_backend);
    let neighbour = lab.near().ip(&format!("neighbour show {VIP_NEAR}")).unwrap();
    assert!(neighbour.contains(&guideway_lab::topology::balancer_mac(1)), "{neighbour}");
    lab.near().run(&["ping", "-c", "3", "-i", "0.2", "-W", "1", VIP_NEAR]).unwrap();
    // Without a usable backend the VIP is withdrawn, panic or no panic.
    for backend in lab.backends() {
        backend.kill();
    }
    guideway_lab::command::until("withdrawal of the VIP", Duration::from_secs(6), || {
        let addresses =
            lab.balancer(1).unwrap().ip("-4 address show dev lo").map_err(|error| error.to_string())?;
        if addresses.contains(VIP_NEAR) { Err(addresses) } else { Ok(()) }
    })
    .unwrap();
    let ready = balancer.api().request("GET", "/v1/ready", "").unwrap();
    assert_eq!(ready.status, 503, "{}", ready.body);
    balancer.stop().unwrap();
}

#[test]
fn the_machine_itself_is_reachable_while_it_carries_load() {
    let lab = Lab::new("exception port").unwrap();
    let variant = Variant::v4(Mode::Ipip);
    let balancer = lab.start_balancer(1, &variant.config(&lab, 1, &[(1, 1), (2, 1)])).unwrap();
    wait_up(&balancer, "web", &["b1", "b2"]).unwrap();
    // What ssh is to a machine, our own server is here: a TCP server of the balancer's kernel.
    let job = Job::Serve(Server { name: "lb1".into(), port: 2222, ..Server::default() }).to_json().unwrap();
    let lab_load = lab.binaries().lab_load.to_string_lossy().into_owned();
    let log = lab.dir().join("own-server.log");
    let _server = balancer.namespace().start("own server", &[&lab_load, &job], &log).unwrap();
    std::thread::sleep(Duration::from_millis(300));

    let load = lab.http(HttpLoad::steady(variant.target().unwrap(), variant.sources(), 500)).unwrap();
    let own: IpAddr = balancer_address(1).parse().unwrap();
    let echo = EchoLoad {
        target: SocketAddr::new(own, 2222),
        sources: lab.sources(own)[..10].to_vec(),
        connections: 10,
        interval_ms: 100,
        duration_ms: 4000,
    };
    let near: LoadRun<EchoReport> = {
        let echo = EchoLoad { sources: vec![NEAR.parse().unwrap()], ..echo.clone() };
        LoadRun::start(lab.near(), lab.binaries(), &Job::Echo(echo)).unwrap()
    };
    let far = lab.echo(echo).unwrap();
    lab.client().run(&["ping", "-c", "20", "-i", "0.1", "-W", "1", &own.to_string()]).unwrap();
    for run in [near, far] {
        let report = run.finish(Duration::from_secs(20)).unwrap();
        assert_eq!(report.connected, 10);
        assert!(report.broken.is_empty(), "{:?}", report.broken);
        assert!(report.echoes > 200, "{} echoes", report.echoes);
        assert_eq!(report.per_backend.get("lb1"), Some(&10));
    }
    let report = load.stop().unwrap();
    assert_eq!(report.failed, 0, "{:?}", report.failures.first());
    assert!(report.ok > 1000, "{} requests", report.ok);
    balancer.stop().unwrap();
}
