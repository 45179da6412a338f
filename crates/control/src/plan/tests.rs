//! Plans of small changes, and the count of moved slots against a count by name.

use super::*;

const HEAD: &str = "[machine]\nname = \"m\"\naddress = \"10.0.2.11\"\nnext_hop_mac = \"02:00:00:00:00:01\"\n\
    [[port]]\nname = \"p\"\ndevice = \"net_null0\"\n";

fn config(services: &str) -> Config {
    model::load("t", &format!("{HEAD}{services}")).map_err(|r| r.to_plain()).unwrap().config
}

fn service(name: &str, port: u16, keys: &str, backends: &[(&str, &str)]) -> String {
    let mut text = format!("[[service]]\nname = \"{name}\"\nvip = \"203.0.113.10\"\nport = {port}\n{keys}\n");
    for (i, (name, keys)) in (0..).zip(backends) {
        text += &format!("[[service.backend]]\nname = \"{name}\"\n{keys}\n");
        if !keys.contains("address") {
            text += &format!("address = \"10.0.2.{}\"\n", 100 + i);
        }
    }
    text
}

const THREE: [(&str, &str); 3] = [("a", ""), ("b", ""), ("c", "")];

#[test]
fn nothing_changes() {
    let one = config(&service("s", 80, "", &THREE));
    let plan = plan(&one, &one.clone());
    assert!(plan.is_empty());
    assert_eq!(
        (plan.services[0].change, plan.services[0].slots_total, plan.services[0].slots_moved),
        (ServiceFate::Same, 65_537, 0)
    );
    assert_eq!(plan.memory_bytes, plan.memory_before_bytes);
    // The order of backends is no change.
    let turned = [
        ("c", "address = \"10.0.2.102\""),
        ("a", "address = \"10.0.2.100\""),
        ("b", "address = \"10.0.2.101\""),
    ];
    assert!(super::plan(&one, &config(&service("s", 80, "", &turned))).is_empty());
}

/// Slots whose flows will be tracked for a while.
#[test]
fn slots_are_tainted_only_where_slots_are_all_that_is_known() {
    let all = config(&service("s", 80, "", &THREE));
    let stateless = config(&service("s", 80, "state = \"exceptions\"", &THREE));
    let fewer = config(&service("s", 80, "state = \"exceptions\"", &THREE[..2]));
    let tainted = |old: &Config, new: &Config| {
        let plan = plan(old, new);
        (plan.services[0].slots_moved, plan.services[0].slots_tainted)
    };
    assert_eq!(tainted(&all, &stateless), (0, 65_537));
    assert_eq!(tainted(&stateless, &all), (0, 65_537));
    let (moved, of) = tainted(&stateless, &fewer);
    assert!(moved > 20_000 && moved == of);
    assert_eq!(tainted(&all, &config(&service("s", 80, "", &THREE[..2]))).1, 0);
    assert_eq!(tainted(&config(&service("s", 80, "state = \"exceptions\"", &[])), &stateless).1, 0);
    assert_eq!(plan(&all, &stateless).services[0].keys_changed, ["state"]);
}

#[test]
fn keys_that_changed_are_in_the_order_of_the_file() {
    let of = |keys: &str| config(&service("s", 80, &format!("mode = \"vxlan\"\n{keys}"), &THREE));
    let plan = plan(&of(""), &of("hash = \"source\"\nvxlan_port = 7\nvni = 8\nmtu = 1400"));
    assert_eq!(plan.services[0].keys_changed, ["hash", "vxlan_port", "vni", "mtu"]);
}

#[test]
fn from_nothing() {
    let new = config(&service("s", 80, "", &THREE));
    let plan = plan(None, &new);
    assert_eq!(plan.services[0].change, ServiceFate::Added);
    assert_eq!(plan.services[0].backends_added, ["a", "b", "c"]);
    assert_eq!((plan.memory_before_bytes, plan.memory_bytes), (0, new.memory_bytes()));
    assert!(plan.restart_keys.is_empty());
    // A check each, if there are checks.
    let checked = config(&service("s", 80, "[service.health]\nkind = \"tcp\"\nvia = \"lo\"", &THREE));
    assert_eq!((super::plan(None, &checked).descriptors, plan.descriptors), (771, 768));
}

#[test]
fn all_kinds_of_change() {
    let old = config(
        &(service("same", 1, "", &THREE)
            + &service("gone", 2, "", &THREE)
            + &service("policy", 3, "", &THREE)
            + &service("members", 4, "", &[("a", ""), ("b", ""), ("c", ""), ("d", "")])
            + &service("size", 5, "", &THREE)),
    );
    let members = [
        ("a", "address = \"10.0.2.100\"\nweight = 2"),
        ("c", "address = \"10.0.2.102\"\nmac = \"02:00:00:00:00:05\""),
        ("d", "address = \"10.0.2.77\""),
        ("e", ""),
    ];
    let mut new = config(
        &(service("same", 1, "", &THREE)
            + &service("policy", 3, "on_empty = \"drop\"", &THREE)
            + &service("members", 4, "", &members)
            + &service("size", 5, "maglev_size = 251", &THREE)
            + &service("new", 6, "", &THREE)),
    );
    new.machine.name = "n".into();
    new.timeouts.udp_s = 5;
    let plan = plan(&old, &new);
    let by_name: HashMap<&str, &ServiceForecast> =
        plan.services.iter().map(|s| (s.name.as_str(), s)).collect();
    let order: Vec<&str> = plan.services.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(order, ["same", "policy", "members", "size", "new", "gone"]);
    assert_eq!(by_name["same"].change, ServiceFate::Same);
    assert_eq!(by_name["new"].change, ServiceFate::Added);
    assert_eq!((by_name["gone"].change, by_name["gone"].slots_moved), (ServiceFate::Removed, 65_537));
    assert_eq!(by_name["gone"].backends_removed, ["a", "b", "c"]);
    assert_eq!((by_name["policy"].change, by_name["policy"].slots_moved), (ServiceFate::Changed, 0));
    assert_eq!(by_name["policy"].keys_changed, ["on_empty"]);
    assert_eq!((by_name["size"].slots_total, by_name["size"].slots_moved), (251, 251));
    let of = by_name["members"];
    assert_eq!(of.keys_changed, ["backend"]);
    assert_eq!(of.backends_added, ["e"]);
    assert_eq!(of.backends_removed, ["b"]);
    assert_eq!(of.backends_reweighted, ["a"]);
    assert_eq!(of.backends_changed, ["c", "d"]);
    assert!(of.slots_moved > 65_537 / 2 && of.slots_moved < 65_537, "{}", of.slots_moved);
    assert_eq!(plan.restart_keys, ["machine.name"]);
    assert_eq!(plan.changed_keys, ["timeouts.udp_s"]);
    assert!(!plan.is_empty());
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json["services"][5]["change"], "removed");
    assert_eq!(serde_json::from_value::<ConfigPlan>(json).unwrap(), plan);
}

/// One backend of ten goes: its tenth moves, and a little more.
#[test]
fn moved_slots() {
    let names: Vec<String> = (0..10).map(|i| format!("b{i}")).collect();
    let text = |drop: &[usize], state: Option<usize>| {
        let mut backends = Vec::new();
        for (i, name) in names.iter().enumerate().filter(|(i, _)| !drop.contains(i)) {
            let state = if state == Some(i) { "\nstate = \"down\"" } else { "" };
            backends.push((name.as_str(), format!("address = \"10.0.2.{}\"{state}", 100 + i)));
        }
        let backends: Vec<(&str, &str)> = backends.iter().map(|(n, k)| (*n, k.as_str())).collect();
        service("s", 80, "", &backends)
    };
    let (all, without, down) =
        (config(&text(&[], None)), config(&text(&[3], None)), config(&text(&[], Some(3))));
    let moved = plan(&all, &without).services[0].slots_moved;
    // The same count, by name, slot by slot.
    let owners = |config: &Config| {
        let (view, _) = crate::compile::offline(config).unwrap();
        let mut sorted: Vec<&str> = config.services[0].backends.iter().map(|b| b.name.as_str()).collect();
        sorted.sort_unstable();
        view.service[0].maglev.slots().iter().map(|i| sorted[usize::from(*i)].to_owned()).collect::<Vec<_>>()
    };
    let (before, after) = (owners(&all), owners(&without));
    let counted = before.iter().zip(&after).filter(|(a, b)| a != b).count();
    assert_eq!(usize::try_from(moved).unwrap(), counted);
    assert!((6553..6553 * 2).contains(&moved), "{moved}");
    assert_eq!(plan(&all, &down).services[0].slots_moved, moved, "down is as good as gone for new flows");
    // Another cluster key moves nearly everything, though no service changes.
    let mut other = all.clone();
    other.machine.cluster_key = [7; 16];
    let rekeyed = plan(&all, &other);
    assert_eq!(rekeyed.services[0].change, ServiceFate::Same);
    assert!(rekeyed.services[0].slots_moved > 50_000);
    assert_eq!(rekeyed.restart_keys, ["machine.cluster_key"]);
    // All backends down, or a service that gets its first ones.
    let mut none = all.clone();
    none.services[0].backends.clear();
    assert_eq!(plan(&all, &none).services[0].slots_moved, 65_537);
    assert_eq!(plan(&none, &all).services[0].slots_moved, 65_537);
}
