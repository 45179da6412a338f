//! Exception interface and data link set down, flushed, deleted under held connections: put right within 3 s of when they can be, without a restart.

use super::{full_or, hold};
use guideway_lab::api::rows;
use guideway_lab::command::until;
use guideway_lab::config::{Config, Device, Member, Mode, Service};
use guideway_lab::namespace::Namespace;
use guideway_lab::scenario::{check_conservation, wait_up};
use guideway_lab::topology::{ROUTER, ROUTER6, VIP, balancer_address, balancer_address6};
use guideway_lab::{Balancer, Lab};
use std::time::{Duration, Instant};

/// What is promised.
const LIMIT: Duration = Duration::from_secs(3);
/// How long it is waited for what is promised sooner, so that a figure is shown.
const PATIENCE: Duration = Duration::from_secs(15);

fn config(lab: &Lab) -> Config {
    let member = |index| Member::v4(index, Mode::Ipip);
    let echo = Service::echo(Mode::Ipip, (1..=3).map(member).collect());
    let echo = Service { extra: "announce = \"kernel\"\n".into(), ..echo };
    let udp = Service { name: "udp".into(), protocol: "udp", health: String::new(), ..echo.clone() };
    lab.config(1).with(echo).with(udp)
}

fn ready(balancer: &Balancer) -> (u16, String) {
    let answer = balancer.api().request("GET", "/v1/ready", "").unwrap();
    (answer.status, answer.body)
}

/// Whether the exception interface does all of its work: the kernel answers by it, and has its way out.
fn works(lab: &Lab, balancer: &Balancer) -> Result<(), String> {
    let of = balancer.namespace();
    let routes = [of.ip("-4 route show default"), of.ip("-6 route show default")];
    for (route, gateway) in routes.into_iter().zip([ROUTER, ROUTER6]) {
        let route = route.map_err(|error| error.to_string())?;
        if !route.contains(&format!("via {gateway} dev gw0")) {
            return Err(format!("no route by {gateway}: {route}"));
        }
    }
    for address in [balancer_address(1), balancer_address6(1)] {
        lab.near().run(&["ping", "-c", "1", "-W", "1", &address]).map_err(|error| error.to_string())?;
    }
    let (status, body) = ready(balancer);
    if status == 200 { Ok(()) } else { Err(body) }
}

fn wait_works(lab: &Lab, balancer: &Balancer, what: &str) -> Duration {
    let begun = Instant::now();
    until(what, PATIENCE, || works(lab, balancer)).unwrap();
    let took = begun.elapsed();
    println!("{what}: all works again after {took:?}");
    assert!(took <= LIMIT, "{what}: {took:?}");
    took
}

/// Kinds of events so far.
fn events(balancer: &Balancer, kind: &str) -> Vec<String> {
    let answer = balancer.api().get("/v1/events").unwrap();
    let of = rows(&answer).iter().filter(|event| event["kind"] == kind);
    of.filter_map(|event| event["message"].as_str()).map(str::to_owned).collect()
}

#[test]
fn an_exception_interface_is_put_right_under_traffic() {
    let lab = Lab::new("exception interface").unwrap();
    let balancer = lab.start_balancer(1, &config(&lab)).unwrap();
    wait_up(&balancer, "echo", &["b1", "b2", "b3"]).unwrap();
    let count = usize::try_from(full_or(300, 60)).unwrap();
    let held = [hold(&lab, false, count), hold(&lab, true, count)];
    until("the interface to work", PATIENCE, || works(&lab, &balancer)).unwrap();

    let own = balancer.namespace();
    own.ip_batch("link set gw0 down\nlink set gw0 up\n").unwrap();
    wait_works(&lab, &balancer, "gw0 down and up");
    own.ip("link set gw0 down").unwrap();
    wait_works(&lab, &balancer, "gw0 down");
    own.ip("address flush dev gw0").unwrap();
    wait_works(&lab, &balancer, "addresses flushed");
    own.ip_batch("route del default dev gw0\n-6 route del default dev gw0\n").unwrap_or(());
    own.ip("-6 route flush default").unwrap();
    wait_works(&lab, &balancer, "default routes deleted");
    let repaired = events(&balancer, "repaired");
    for what in ["gw0 set up", "10.0.2.11/24 put on gw0", "default route by 10.0.2.1 put on gw0"] {
        assert!(repaired.iter().any(|message| message == what), "{what}: {repaired:?}");
    }

    // A next hop's neighbour.
    let neighbour = || own.ip("neighbour show 10.0.2.21 dev gw0").unwrap();
    until("the neighbour, after all that", PATIENCE, || {
        let now = neighbour();
        if now.contains("lladdr") { Ok(()) } else { Err(now) }
    })
    .unwrap();
    let begun = Instant::now();
    own.ip("neighbour del 10.0.2.21 dev gw0").unwrap();
    until("the neighbour again", PATIENCE, || {
        let row = balancer.api().find("/v1/backends", &[("service", "echo"), ("name", "b1")]).unwrap();
        let found = neighbour().contains("lladdr") && row["next_hop"] == "02:00:00:00:00:21";
        found.then_some(()).ok_or_else(|| format!("{} {row}", neighbour()))
    })
    .unwrap();
    println!("neighbour deleted: found again after {:?}", begun.elapsed());
    assert!(begun.elapsed() <= LIMIT);

    // Deleted twice, then renamed: the device is made anew.
    let mut unready = Vec::new();
    for number in 1..=3 {
        let begun = Instant::now();
        if number < 3 {
            own.ip("link delete gw0").unwrap();
        } else {
            own.ip_batch("link set gw0 down\nlink set gw0 name gw0-old\n").unwrap();
        }
        let is_made = || {
            let made = events(&balancer, "repaired").into_iter().filter(|of| of == "gw0 made anew").count();
            made == number
        };
        // It takes some ten milliseconds, so it is asked all the time.
        loop {
            let (status, body) = ready(&balancer);
            if status == 503 {
                unready.push((number, begun.elapsed(), body.clone()));
            } else if is_made() {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "{number}: {body}");
        }
        println!("gw0 gone ({number}): ready after {:?}", begun.elapsed());
        wait_works(&lab, &balancer, "gw0 made anew");
        assert!(begun.elapsed() <= LIMIT, "{:?}", begun.elapsed());
    }
    println!("answered 503 {} times meanwhile, last: {:?}", unready.len(), unready.last());
    assert!(unready.iter().any(|(_, _, body)| body.contains("gw0 is gone")), "{unready:?}");
    assert_eq!(events(&balancer, "interface_lost").len(), 3);
    assert!(!own.ip("-o link show").unwrap().contains("gw0-old"), "closed with the device that made it");
    let ports = balancer.api().get("/v1/ports").unwrap();
    assert_eq!(rows(&ports)[0]["wrong"], serde_json::json!([]), "{ports}");

    for (run, udp) in held.into_iter().zip([false, true]) {
        let report = run.stop().unwrap();
        let (broken, slowest) = (report.broken().len(), report.slowest_us());
        println!("UDP {udp}: {broken} of {count} broke, slowest exchange {slowest} us");
        assert_eq!((report.connections.len(), broken), (count, 0), "{:#?}", report.broken());
    }
    check_conservation(&balancer).unwrap();
    balancer.stop().unwrap();
}

/// One end of the data link is set down and up again under held connections.
fn cut_and_mend(lab: &Lab, balancer: &Balancer, namespace: &Namespace, interface: &str) {
    let count = usize::try_from(full_or(300, 60)).unwrap();
    let own = balancer.namespace();
    let is_announced = || own.ip("-o address show dev lo").unwrap().contains(VIP);
    until("the VIP to be announced", PATIENCE, || is_announced().then_some(()).ok_or_else(String::new))
        .unwrap();
    let tcp = hold(lab, false, count);
    let udp = hold(lab, true, count);
    let begun = Instant::now();
    namespace.ip(&format!("link set {interface} down")).unwrap();
    until("not ready", PATIENCE, || {
        let (status, body) = ready(balancer);
        let is_told = status == 503 && body.contains("no data port has a link") && !is_announced();
        is_told.then_some(()).ok_or(body)
    })
    .unwrap();
    let noticed = begun.elapsed();
    // An exchange may take 10 s.
    std::thread::sleep(Duration::from_millis(full_or(5_000, 2_000)));
    assert_eq!(ready(balancer).0, 503);
    let port = balancer.api().find("/v1/ports", &[("name", "data0")]).unwrap();
    assert!(port["link_up"] == false && port["wrong"] == serde_json::json!(["no link"]), "{port}");
    // Its checks could not leave, and so say nothing.
    for backend in ["b1", "b2", "b3"] {
        assert_eq!(balancer.api().backend_state("echo", backend).unwrap(), "up", "{backend}");
    }

    let done = udp.progress().done;
    let begun = Instant::now();
    namespace.ip(&format!("link set {interface} up")).unwrap();
    until("traffic, ready and announced", PATIENCE, || {
        let (status, body) = ready(balancer);
        let passes = udp.progress().done >= done + count as u64;
        (passes && status == 200 && is_announced()).then_some(()).ok_or(body)
    })
    .unwrap();
    let took = begun.elapsed();
    println!("{interface}: down noticed after {noticed:?}, up: traffic after {took:?}");
    assert!(noticed <= Duration::from_secs(1), "{noticed:?}");
    assert!(took <= LIMIT, "{took:?}");
    for (run, udp) in [(tcp, false), (udp, true)] {
        let report = run.stop().unwrap();
        assert_eq!(report.broken().len(), 0, "{interface}, UDP {udp}: {:#?}", report.broken());
    }
    assert!(events(balancer, "link_down").last().is_some_and(|of| of.contains("data0 (p0) has no link")));
}

#[test]
fn a_data_link_that_goes_and_comes_is_followed() {
    let lab = Lab::new("data link").unwrap();
    // The cable, as the machine sees it, and the interface itself.
    for (device, ends) in [(Device::AfXdp, 2), (Device::AfPacket(1), 1)] {
        let balancer = lab.start_balancer(1, &Config { device, ..config(&lab) }).unwrap();
        wait_up(&balancer, "echo", &["b1", "b2", "b3"]).unwrap();
        println!("{device:?}");
        for (namespace, interface) in
            [(balancer.namespace(), "p0"), (lab.router(), "lb1")].into_iter().take(ends)
        {
            cut_and_mend(&lab, &balancer, namespace, interface);
        }
        assert_eq!(events(&balancer, "link_down").len(), ends);
        assert_eq!(events(&balancer, "link_up").len(), ends);
        check_conservation(&balancer).unwrap();
        balancer.stop().unwrap();
    }
}
