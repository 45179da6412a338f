//! Floods of new flows from spoofed addresses, then honest flows, then a drain: nobody who has exchanged a few packets is moved by it. And
//! floods of what is not for a VIP.

use guideway_lab::api::rows;
use guideway_lab::command::until;
use guideway_lab::config::{Config, Member, Mode, Service};
use guideway_lab::load::flood::{FloodLoad, FloodOf};
use guideway_lab::load::hold::{HoldLoad, HoldReport};
use guideway_lab::load_run::LoadRun;
use guideway_lab::scenario::{check_conservation, wait_up};
use guideway_lab::topology::{ECHO_PORT, VIP, VIP_OTHER, balancer_address, balancer_address6, balancer_mac};
use guideway_lab::{Balancer, Lab};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};
use testkit::frames::{PacketBuilder, internet_checksum, pseudo_header};

/// Whether tests are to be as long as they should be: `GUIDEWAY_LAB_FULL` is set (`cargo xtask soak` does).
fn full_or(full: u64, short: u64) -> u64 {
    let is_full = std::env::var_os("GUIDEWAY_LAB_FULL").is_some_and(|value| !value.is_empty());
    if is_full { full } else { short }
}

/// TCP and UDP by Maglev on one VIP, UDP by load on the other. The first backend takes new flows, or not.
fn config(lab: &Lab, drains: bool) -> Config {
    let member =
        |index| Member { state: (drains && index == 1).then_some("drain"), ..Member::v4(index, Mode::Ipip) };
    let members: Vec<Member> = (1..=3).map(member).collect();
    let unchecked = Service { health: String::new(), ..Service::echo(Mode::Ipip, members) };
    let udp = Service { name: "udp".into(), protocol: "udp", ..unchecked.clone() };
    let by_load = Service {
        name: "udp-by-load".into(),
        vip: VIP_OTHER.into(),
        extra: "policy = \"least-load\"\n".into(),
        ..udp.clone()
    };
    lab.config(1).with(unchecked).with(udp).with(by_load)
}

fn target(vip: &str) -> SocketAddr {
    SocketAddr::new(vip.parse().unwrap(), ECHO_PORT)
}

/// Opens connections, each of which exchanges something twice a second, and waits until all have done so three times.
fn hold(lab: &Lab, vip: &str, udp: bool, count: usize) -> LoadRun<HoldReport> {
    let target = target(vip);
    let load = HoldLoad::new(target, lab.sources(target.ip()), count, 0);
    let run = lab.hold(HoldLoad { udp, interval_ms: 300, ..load }).unwrap();
    until("three exchanges of all", Duration::from_secs(20), || {
        let progress = run.progress();
        if progress.done >= 4 * count as u64 { Ok(()) } else { Err(format!("{progress:?}")) }
    })
    .unwrap();
    run
}

fn sum(balancer: &Balancer, name: &str) -> u64 {
    rows(&balancer.api().get("/v1/workers").unwrap()).iter().filter_map(|worker| worker[name].as_u64()).sum()
}

#[test]
fn honest_flows_stay_after_floods_of_new_ones() {
    let lab = Lab::new("floods").unwrap();
    let balancer = lab.start_balancer(1, &config(&lab, false)).unwrap();
    wait_up(&balancer, "udp-by-load", &["b1", "b2", "b3"]).unwrap();
    let count = usize::try_from(full_or(500, 100)).unwrap();
    for (of, vip) in [
        (FloodOf::Syns, VIP),
        (FloodOf::Pairs, VIP),
        (FloodOf::Datagrams, VIP),
        (FloodOf::Datagrams, VIP_OTHER),
    ] {
        let SocketAddr::V4(target) = target(vip) else { panic!("the VIP is not IPv4") };
        let v4 = |address| if let IpAddr::V4(v4) = address { Some(v4) } else { None };
        let duration_ms = full_or(12_000, 2_000);
        let load = FloodLoad {
            of,
            target: SocketAddrV4::new(*target.ip(), target.port()),
            sources: lab.sources(IpAddr::V4(*target.ip())).into_iter().filter_map(v4).collect(),
            rate: 30_000,
            duration_ms,
            seed: 4,
        };
        let before = sum(&balancer, "flow_inserts");
        let flood = lab.flood(load).unwrap().finish(Duration::from_millis(4 * duration_ms)).unwrap();
        let entered = sum(&balancer, "flow_inserts") - before;
        println!(
            "{of:?}: {flood:?}, {entered} flows entered, {} displaced so far, {} refused",
            sum(&balancer, "flow_displaced"),
            sum(&balancer, "flow_refused")
        );
        assert!(entered > 10_000, "the flood was none");

        let held = [(VIP, false), (VIP, true), (VIP_OTHER, true)]
            .map(|(vip, udp)| (vip, udp, hold(&lab, vip, udp, count)));
        let answer = balancer.api().apply(&config(&lab, true).render()).unwrap();
        assert_eq!(answer["acknowledged"], true, "{answer}");
        std::thread::sleep(Duration::from_millis(1000));
        for (vip, udp, run) in held {
            let report = run.stop().unwrap();
            let broken = report.broken();
            println!("{of:?}, {vip}, UDP {udp}: {} of {count} broke", broken.len());
            assert_eq!(report.connections.len(), count);
            assert!(broken.len() * 100 <= count, "{of:?}, {vip}, UDP {udp}: {broken:?}");
        }
        let answer = balancer.api().apply(&config(&lab, false).render()).unwrap();
        assert_eq!(answer["acknowledged"], true, "{answer}");
    }
    assert!(sum(&balancer, "flow_displaced") > 0, "the table was full");
    check_conservation(&balancer).unwrap();
    balancer.stop().unwrap();
}

/// Frames that are not for a VIP, from spoofed sources on the machine's own link: to its address, solicitations of it and of a VIP, broadcasts.
fn for_kernel() -> Vec<Vec<u8>> {
    let router = [2, 0x99, 0, 0, 0, 1];
    let mac: Vec<u8> = balancer_mac(1).split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let ethernet = |to: &[u8], kind: [u8; 2]| [to, &router[..], &kind].concat();
    let address6: Ipv6Addr = balancer_address6(1).parse().unwrap();
    let address: Ipv4Addr = balancer_address(1).parse().unwrap();
    let mut frames = Vec::new();
    for n in 0..64_u8 {
        let from = format!("10.0.2.{}", 100 + n);
        let udp = |to: &str, port: u16| {
            let datagram = PacketBuilder::udp(&from, to).ports(40_000, port).payload_of(18).datagram();
            [ethernet(&mac, [8, 0]), datagram].concat()
        };
        // Most of them, because that budget is the largest.
        frames.extend((0..5).map(|port| udp(&balancer_address(1), 9_000 + port)));
        frames.push(udp(VIP, 9));
        let from6 = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0x9900 + u16::from(n));
        let mut asks = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &address6.octets(), &[1, 1], &router].concat();
        let pseudo = pseudo_header(from6.into(), address6.into(), 58, asks.len());
        let checksum = internet_checksum(&[&pseudo[..], &asks].concat());
        asks[2..4].copy_from_slice(&checksum.to_be_bytes());
        let header = [&[0x60, 0, 0, 0, 0, 32, 58, 255][..], &from6.octets(), &address6.octets()].concat();
        frames.push([ethernet(&mac, [0x86, 0xdd]), header, asks].concat());
        let asks = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &router, &[10, 0, 2, 100 + n], &[0; 6], &address.octets()];
        frames.push([ethernet(&[0xff; 6], [8, 6]), asks.concat(), vec![0; 18]].concat());
    }
    frames
}

/// What the kernel is given by a worker a second at the most, of ARP, discovery and all else: docs/operations.md.
const PUNTED_MOST: u64 = 2_000 + 2_000 + 20_000 + 10 * 20;

#[test]
fn a_flood_for_the_kernel_takes_nothing_from_traffic() {
    let lab = Lab::new("punt").unwrap();
    let balancer = lab.start_balancer(1, &config(&lab, false)).unwrap();
    wait_up(&balancer, "udp-by-load", &["b1", "b2", "b3"]).unwrap();
    let count = usize::try_from(full_or(500, 100)).unwrap();
    let held = [(VIP, false), (VIP_OTHER, true)].map(|(vip, udp)| hold(&lab, vip, udp, count));
    let seconds = full_or(12, 3);
    let (before, punted_before) = (balancer.api().drops().unwrap(), sum(&balancer, "punted"));
    let frames = for_kernel();
    let rate = 48_000;
    let times = u32::try_from(seconds).unwrap() * rate / u32::try_from(frames.len()).unwrap();
    let begun = Instant::now();
    let (sent, slowest) = std::thread::scope(|scope| {
        let flood = scope.spawn(|| lab.inject("lb1", &frames, times, rate).unwrap());
        let mut slowest = Duration::ZERO;
        while !flood.is_finished() {
            let asked = Instant::now();
            balancer.api().get("/v1/workers").unwrap();
            slowest = slowest.max(asked.elapsed());
            std::thread::sleep(Duration::from_millis(50));
        }
        (flood.join().unwrap(), slowest)
    });
    let took = begun.elapsed();
    let (after, punted) = (balancer.api().drops().unwrap(), sum(&balancer, "punted") - punted_before);
    let grown = |of: &str| after.get(of).unwrap_or(&0) - before.get(of).unwrap_or(&0);
    let refused =
        ["punt_limit", "punt_limit_arp", "punt_limit_discovery", "no_service"].map(|of| (of, grown(of)));
    println!(
        "{sent} frames in {took:?}, {punted} punted, {refused:?}, slowest answer of the API {slowest:?}"
    );
    assert!(sent > seconds * 10_000, "the flood was none");
    assert!(refused.iter().all(|(_, count)| *count > 0), "{refused:?}");
    let workers = rows(&balancer.api().get("/v1/workers").unwrap()).len() as u64;
    assert!(punted <= workers * PUNTED_MOST * (took.as_secs() + 2), "{punted} in {took:?}");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    // They all come by one link, so one of them is named.
    let busiest = balancer.api().get("/v1/sources").unwrap();
    let named =
        |row: &serde_json::Value| row["source"].as_str().is_some_and(|source| source.starts_with("10.0.2.1"));
    assert!(rows(&busiest).iter().any(named), "{busiest}");
    for run in held {
        let report = run.stop().unwrap();
        assert_eq!((report.connections.len(), report.broken().len()), (count, 0), "{:#?}", report.broken());
    }
    wait_up(&balancer, "udp-by-load", &["b1", "b2", "b3"]).unwrap();
    check_conservation(&balancer).unwrap();
    balancer.stop().unwrap();
}
