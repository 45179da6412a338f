use super::*;
use crate::test_network::{in_own_network, sh};

fn config(place: &Path, name: &str, ports: &str, more: &str) -> Config {
    let text = format!(
        "[machine]\nname = \"{name}\"\naddress = \"10.0.2.11\"\nnext_hop_mac = \"02:00:00:00:00:01\"\n\
         cluster_key = \"f00102030405060708090a0b0c0d0e0f\"\nstate_dir = \"{place}/{name}\"\n\
         [api]\nsocket = \"{place}/{name}.sock\"\n[workers]\ncpus = [0]\n{ports}\n{more}",
        place = place.display(),
    );
    model::load("test", &text).unwrap_or_else(|report| panic!("{report:?}\n{text}")).config
}

fn port(device: &str, exception: Option<&str>) -> String {
    let exception = exception.map_or_else(String::new, |name| format!("exception = \"{name}\"\n"));
    format!("[[port]]\nname = \"data0\"\ndevice = \"{device}\"\n{exception}")
}

fn service(vip: &str, announce: &str) -> String {
    format!(
        "[[service]]\nname = \"web\"\nvip = \"{vip}\"\nport = 80\nprotocol = \"tcp\"\nmode = \"ipip\"\nannounce = \"{announce}\"\n\
         [[service.backend]]\nname = \"b1\"\naddress = \"10.0.2.21\"\n"
    )
}

/// What the second one is told.
fn refusal(of: Result<Claims, ClaimError>) -> String {
    of.expect_err("refused").to_string()
}

#[test]
fn the_second_is_refused_by_name_whatever_they_share() {
    in_own_network("claims::tests::the_second_is_refused_by_name_whatever_they_share", "", || {
        let place = tempfile::tempdir().unwrap();
        let place = place.path();
        let vip = service("203.0.113.10", "kernel");
        let metrics = "[metrics]\nlisten = \"127.0.0.1:9100\"\n";
        let af_packet = port("net_af_packet0,iface=p0", Some("gw0"));
        let first = Claims::take(&config(place, "a", &af_packet, &format!("{metrics}{vip}"))).unwrap();
        let holder = format!("process {}", std::process::id());
        let other = |name: &str, ports: &str, more: &str| Claims::take(&config(place, name, ports, more));
        for (what, second) in [
            ("machine.name \"a\"", other("a", &port("net_null0", None), "")),
            ("interface gw0", other("b", &port("net_null0", Some("gw0")), "")),
            ("interface p0", other("b", &port("net_af_xdp0,iface=p0", None), "")),
            ("interface gw0", other("b", &port("net_af_xdp0,iface=gw0", None), "")),
            ("listener 127.0.0.1:9100", other("b", &port("net_null0", None), metrics)),
            ("VIP 203.0.113.10/32", other("b", &port("net_null0", Some("gw1")), &vip)),
        ] {
            let told = refusal(second);
            assert!(told.contains(what) && told.contains(&holder) && told.contains("; "), "{what}: {told}");
        }
        let mut same = config(place, "b", &port("net_null0", None), "");
        same.machine.state_dir = place.join("a");
        let told = refusal(Claims::take(&same));
        assert!(told.contains("state_dir") && told.contains(&holder), "{told}");

        // What nobody shares: virtual devices of one process, addresses that are not announced. And nothing is left by those refused.
        let null = port("net_null0", None);
        let quiet = service("203.0.113.10", "none");
        let second = Claims::take(&config(place, "b", &null, &quiet)).unwrap();
        assert!(Claims::take(&config(place, "c", &null, &quiet)).is_ok());
        drop(second);
        drop(first);
        Claims::take(&config(place, "a", &af_packet, &format!("{metrics}{vip}"))).unwrap();
    });
}

#[test]
fn an_interface_that_is_there_already_is_refused() {
    in_own_network("claims::tests::an_interface_that_is_there_already_is_refused", "", || {
        let place = tempfile::tempdir().unwrap();
        sh("ip tuntap add gw0 mode tap; ip link add tap7 type veth peer name p0");
        for (interface, ports) in
            [("gw0", port("net_null0", Some("gw0"))), ("tap7", port("net_tap0,iface=tap7", None))]
        {
            let told = refusal(Claims::take(&config(place.path(), "a", &ports, "")));
            assert!(
                told.contains("data0") && told.contains(&format!("{interface} exists already")),
                "{told}"
            );
        }
        // A data port takes its frames from one that is there.
        let ports = port("net_af_packet0,iface=p0", Some("gw1"));
        Claims::take(&config(place.path(), "a", &ports, "")).unwrap();
    });
}

#[test]
fn addresses_that_come_later_are_claimed_as_a_whole_and_given_back() {
    in_own_network(
        "claims::tests::addresses_that_come_later_are_claimed_as_a_whole_and_given_back",
        "",
        || {
            let place = tempfile::tempdir().unwrap();
            let null = port("net_null0", Some("gw0"));
            let of = |vips: &[&str]| {
                let services: String = vips
                    .iter()
                    .map(|vip| service(vip, "kernel").replace("\"web\"", &format!("\"{vip}\"")))
                    .collect();
                config(place.path(), "a", &null, &services)
            };
            let (one, other) = (Claims::default(), Claims::default());
            one.claim_vips(&of(&["203.0.113.11"])).unwrap();
            let told = other.claim_vips(&of(&["203.0.113.10", "203.0.113.11"])).unwrap_err().to_string();
            assert!(told.contains("203.0.113.11/32"), "{told}");
            one.claim_vips(&of(&["203.0.113.10", "203.0.113.11"])).unwrap();
            one.keep_vips(&["203.0.113.10/32".parse().unwrap()].into());
            other.claim_vips(&of(&["203.0.113.11"])).unwrap();
        },
    );
}

#[test]
fn devices_and_names() {
    assert_eq!(hardware("0000:3b:00.0"), Some("0000:3b:00.0".to_owned()));
    assert_eq!(hardware("pci:3B:00.0,x=1"), Some("0000:3b:00.0".to_owned()));
    assert_eq!(hardware("net_ring0"), None);
    assert_eq!(kernel_interface("net_af_packet0,qpairs=2, iface=p0"), Some("p0"));
    assert_eq!(kernel_interface("net_ring0"), None);
    assert_eq!(ExclusiveName::Interface("/run/vhost.sock".to_owned()).name(), None);
    assert_eq!(ExclusiveName::Machine("x".repeat(100)).name(), None);
}
