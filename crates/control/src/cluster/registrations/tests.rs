use super::super::keys::{self, EndedValue, ReceivedValue};
use super::{EndReason, allowed, identity, merge, to_tell, written};
use model::config::Config;
use model::registered::Registered;
use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

const ROOM: usize = 1 << 20;

/// Services web and api, which let up to `limit` register; web has a backend of its own.
fn config(limit: u32) -> Config {
    let agents = format!(
        "[service.agents]\ntoken_file = \"/etc/guideway/token\"\n[service.agents.register]\naddresses = [\"10.1.0.0/16\"]\nlimit = {limit}\n\
         weight_max = 50\n[service.health]\nkind = \"tcp\"\nvia = \"eth0\"\n"
    );
    let text = format!(
        "[machine]\nname = \"lb\"\naddress = \"10.0.2.11\"\nnext_hop_mac = \"02:00:00:00:00:01\"\n\
         cluster_key = \"07070707070707070707070707070707\"\n[agents]\nlisten = \"127.0.0.1:7481\"\n\
         [[port]]\nname = \"data0\"\ndevice = \"net_null0\"\n\
         [[service]]\nname = \"web\"\nvip = \"203.0.113.10\"\nport = 80\nmaglev_size = 251\n{agents}\
         [[service.backend]]\nname = \"fixed\"\naddress = \"10.1.0.200\"\n\
         [[service]]\nname = \"api\"\nvip = \"203.0.113.11\"\nport = 80\nmaglev_size = 251\n{agents}"
    );
    model::load("test", &text).unwrap_or_else(|report| panic!("{}", report.to_plain())).config
}

fn address(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 1, 0, last))
}

/// Backend `name` of web at 10.1.0.`last`.
fn of(agent: &str, name: &str, last: u8, incarnation: u64) -> Registered {
    Registered {
        service: "web".to_owned(),
        backend: name.to_owned(),
        address: address(last),
        incarnation,
        agent: agent.to_owned(),
        weight: 1,
        port: None,
        capacity: None,
    }
}

fn over(of: &Registered, why: EndReason) -> EndedValue {
    EndedValue {
        service: of.service.clone(),
        backend: of.backend.clone(),
        address: of.address,
        agent: of.agent.clone(),
        incarnation: of.incarnation,
        why,
    }
}

fn good(of: &[&Registered]) -> ReceivedValue {
    ReceivedValue { registered: of.iter().copied().cloned().collect(), over: Vec::new() }
}

fn gone(of: &Registered, why: EndReason) -> ReceivedValue {
    ReceivedValue { registered: Vec::new(), over: vec![over(of, why)] }
}

fn merged(known: &[&Registered], heard: &[ReceivedValue]) -> Vec<Registered> {
    let known: Vec<Registered> = known.iter().copied().cloned().collect();
    merge(&known, heard, &config(256), ROOM).registered
}

#[test]
fn one_machine_that_has_heard_it_is_enough_and_silence_changes_nothing() {
    let a = of("h1", "w1", 1, 1);
    assert_eq!(merged(&[], &[good(&[&a]), ReceivedValue::default()]), std::slice::from_ref(&a));
    assert_eq!(merged(&[&a], &[]), std::slice::from_ref(&a));
    assert_eq!(merged(&[&a], &[ReceivedValue::default()]), [a]);
}

#[test]
fn whoever_was_first_stays_and_of_two_at_once_the_smaller_agent() {
    let (a, by_name, by_address) = (of("h2", "w1", 1, 1), of("h1", "w1", 2, 9), of("h1", "w9", 1, 9));
    for other in [&by_name, &by_address] {
        assert_eq!(merged(&[&a], &[good(&[&a]), good(&[other])]), std::slice::from_ref(&a));
        assert_eq!(merged(&[], &[good(&[&a]), good(&[other])]), std::slice::from_ref(other));
        assert_eq!(merged(&[], &[good(&[other, &a])]), std::slice::from_ref(other));
    }
    // The first one goes: then the other's time has come.
    let heard = [gone(&a, EndReason::Deregistered), good(&[&by_name])];
    assert_eq!(merged(&[&a], &heard), [by_name]);
    // An impostor's word is of no weight against another agent's backend.
    let impostor =
        EndedValue { agent: "h1".to_owned(), incarnation: 99, ..over(&a, EndReason::Deregistered) };
    let heard = [ReceivedValue { registered: Vec::new(), over: vec![impostor] }];
    assert_eq!(merged(&[&a], &heard), [a]);
}

#[test]
fn a_later_incarnation_replaces_and_an_earlier_one_does_not() {
    let (first, second) = (of("h1", "w1", 1, 1), of("h1", "w1", 1, 2));
    assert_eq!(merged(&[&first], &[good(&[&first]), good(&[&second])]), std::slice::from_ref(&second));
    assert_eq!(merged(&[&second], &[good(&[&first])]), std::slice::from_ref(&second));
    // It has moved, or has another name.
    for moved in [of("h1", "w1", 2, 2), of("h1", "w2", 1, 2)] {
        assert_eq!(merged(&[&first], &[good(&[&first]), good(&[&moved])]), std::slice::from_ref(&moved));
        let earlier = Registered { incarnation: 1, ..moved };
        assert_eq!(merged(&[&first], &[good(&[&earlier])]), std::slice::from_ref(&first));
    }
    // What was deregistered was the one before.
    let heard = [ReceivedValue {
        registered: vec![second.clone()],
        over: vec![over(&first, EndReason::Deregistered)],
    }];
    assert_eq!(merged(&[&first], &heard), std::slice::from_ref(&second));
    assert_eq!(merged(&[&second], &[gone(&first, EndReason::Deregistered)]), [second]);
}

#[test]
fn deregistered_by_one_dead_by_more_than_hold_it_good() {
    let a = of("h1", "w1", 1, 5);
    let good = || good(&[&a]);
    for why in [EndReason::Deregistered, EndReason::Dead] {
        let gone = || gone(&a, why);
        let stays = vec![a.clone()];
        let expected = if why == EndReason::Deregistered { Vec::new() } else { stays.clone() };
        assert_eq!(merged(&[&a], &[gone(), good()]), expected);
        assert_eq!(merged(&[&a], &[gone(), good(), good()]), expected);
        assert_eq!(merged(&[&a], &[gone(), gone(), good()]), []);
        assert_eq!(merged(&[&a], &[gone(), ReceivedValue::default()]), []);
        // Who still holds it good does not bring it back.
        assert_eq!(merged(&[], &[gone(), gone(), good()]), []);
        let next = Registered { incarnation: 6, ..a.clone() };
        assert_eq!(merged(&[&next], &[gone(), gone()]), [next]);
    }
}

#[test]
fn figures_are_those_of_most() {
    let a = of("h1", "w1", 1, 1);
    let b = Registered { weight: 7, ..a.clone() };
    assert_eq!(merged(&[&a], &[good(&[&b])]), std::slice::from_ref(&b));
    assert_eq!(merged(&[&a], &[good(&[&b]), good(&[&a])]), std::slice::from_ref(&a), "it does not swing");
    assert_eq!(merged(&[&b], &[good(&[&b]), good(&[&a])]), std::slice::from_ref(&b));
    assert_eq!(merged(&[&a], &[good(&[&b]), good(&[&a]), good(&[&b])]), std::slice::from_ref(&b));
}

#[test]
fn services_let_in_whom_they_want() {
    let strangers = [
        of("h1", "fixed", 1, 1),
        of("h1", "w1", 200, 1),
        Registered { service: "none".to_owned(), ..of("h1", "w1", 1, 1) },
        Registered { weight: 51, ..of("h1", "w1", 1, 1) },
        Registered { address: "10.2.0.1".parse().expect("an address"), ..of("h1", "w1", 1, 1) },
    ];
    for stranger in &strangers {
        assert_eq!(merged(&[], &[good(&[stranger])]), [], "{stranger:?}");
        assert_eq!(merged(&[stranger], &[good(&[stranger])]), [], "{stranger:?}");
        assert_eq!(allowed(std::slice::from_ref(stranger), &config(256)), []);
    }
    let three = [of("h3", "w1", 1, 1), of("h2", "w2", 2, 1), of("h1", "w3", 3, 1)];
    let all = good(&three.each_ref());
    let two = merge(&[], [&all], &config(2), ROOM);
    assert_eq!(two.registered, [three[1].clone(), three[2].clone()]);
    assert_eq!(two.without_room, Some((1, "web".to_owned())));
    assert_eq!(merge(&three[..2], [&all], &config(2), ROOM).registered, three[..2]);
    assert_eq!(allowed(&three, &config(2)).len(), 2);
    let none = merge(&three[..1], [&all], &config(9), 100);
    assert_eq!((none.registered.as_slice(), none.without_room), (&three[..1], Some((2, "web".to_owned()))));
}

#[test]
fn what_is_over_is_told_until_all_know() {
    let a = of("h1", "w1", 1, 5);
    let (nothing, says) = (ReceivedValue::default(), gone(&a, EndReason::Deregistered));
    let known = [a.clone()];
    assert_eq!(to_tell(says.clone(), &nothing, &known, []), says);
    // The agent's machine has forgotten it by now.
    assert_eq!(to_tell(nothing.clone(), &says, &known, []), says);
    assert_eq!(to_tell(nothing.clone(), &says, &[], [&good(&[&a])]), says, "it would come back");
    assert_eq!(to_tell(nothing.clone(), &says, &[], [&nothing]), nothing);
    let next = Registered { incarnation: 6, ..a.clone() };
    assert_eq!(to_tell(nothing.clone(), &says, &[next], []), nothing, "that is another one");
    assert_eq!(to_tell(good(&[&a]), &says, &known, []), good(&[&a]), "it has registered again");
    // Its checks pass again: that it was dead is said no more, unless it is out and others have yet to know.
    let dead = gone(&a, EndReason::Dead);
    assert_eq!(to_tell(nothing.clone(), &dead, &known, [&good(&[&a])]), nothing);
    assert_eq!(to_tell(dead.clone(), &dead, &known, []), dead);
    assert_eq!(to_tell(nothing.clone(), &dead, &[], [&good(&[&a])]), dead);
    // It is ordered, whatever the order in which it was heard.
    let b = of("h0", "w0", 2, 1);
    assert_eq!(to_tell(good(&[&a, &b]), &nothing, &[], []), good(&[&b, &a]));
}

#[test]
fn what_does_not_fit_is_left_out_and_counted() {
    let all: Vec<Registered> = (0..200).map(|at| of("h1", &format!("w{at:03}"), at, 1)).collect();
    let over = all.iter().take(3).map(|of| over(of, EndReason::Dead)).collect();
    let value = ReceivedValue { registered: all[3..].to_vec(), over };
    let (bytes, rest) = written(&value, 1 << 20);
    assert_eq!((bytes, rest), (keys::bytes(&value), 0));
    for limit in [0, 10, 40, 300, 1000, 10_000, keys::bytes(&value).len() - 1] {
        let (bytes, rest) = written(&value, limit);
        assert!(
            bytes.len() <= limit.max(keys::bytes(&ReceivedValue::default()).len()),
            "{limit}: {}",
            bytes.len()
        );
        let read: ReceivedValue = serde_json::from_slice(&bytes).expect("our own");
        assert_eq!(read.registered, value.registered[..value.registered.len() - rest]);
        assert!(rest > 0 && (read.registered.is_empty() || read.over == value.over), "{limit}");
    }
}

/// Registrations of few names, addresses and agents, so that they meet.
fn registered() -> impl Strategy<Value = Registered> {
    (0..3_u8, 0..4_u8, 1..5_u8, 0..3_u64, 1..3_u32, any::<bool>()).prop_map(
        |(agent, name, last, incarnation, weight, is_web)| Registered {
            service: if is_web { "web" } else { "api" }.to_owned(),
            weight,
            ..of(&format!("h{agent}"), &format!("w{name}"), last, incarnation)
        },
    )
}

fn received() -> impl Strategy<Value = ReceivedValue> {
    let why = prop_oneof![
        proptest::prelude::Just(EndReason::Dead),
        proptest::prelude::Just(EndReason::Deregistered)
    ];
    let over = (registered(), why).prop_map(|(of, why)| over(&of, why));
    (prop::collection::vec(registered(), 0..6), prop::collection::vec(over, 0..3))
        .prop_map(|(registered, over)| ReceivedValue { registered, over })
}

proptest! {
    #[test]
    fn merging_keeps_its_rules(
        first in prop::collection::vec(received(), 0..3),
        heard in prop::collection::vec(received(), 0..4),
        turn in 0..4_usize,
        limit in 1..5_u32,
    ) {
        let config = config(limit);
        let known = merge(&[], &first, &config, ROOM).registered;
        let merged = merge(&known, &heard, &config, ROOM);
        let now = &merged.registered;

        // The order of machines, and of what each says, does not matter.
        let mut other: Vec<ReceivedValue> = heard.iter().rev().cloned().collect();
        let turn = turn.min(other.len());
        other.rotate_left(turn);
        prop_assert_eq!(&merge(&known, &other, &config, ROOM), &merged);

        // Once is enough.
        prop_assert_eq!(&merge(now, &heard, &config, ROOM).registered, now);

        // Names and addresses are had once, and the services let them in.
        let names: BTreeSet<_> = now.iter().map(|of| (&of.service, &of.backend)).collect();
        let addresses: BTreeSet<_> = now.iter().map(|of| (&of.service, of.address)).collect();
        prop_assert_eq!((names.len(), addresses.len()), (now.len(), now.len()));
        prop_assert!(names.iter().zip(now).all(|(name, of)| *name == (&of.service, &of.backend)), "sorted");
        prop_assert_eq!(&allowed(now, &config), now);

        for of in now {
            let is_told = heard.iter().flat_map(|value| &value.registered).any(|told| told == of);
            prop_assert!(known.contains(of) || is_told, "nobody has said {:?}", of);
            let is_deregistered = heard.iter().any(|value| {
                value.over.iter().any(|over| {
                    super::over_identity(over) == identity(of) && over.why == EndReason::Deregistered && over.incarnation >= of.incarnation
                }) && !value.registered.iter().any(|told| identity(told) == identity(of))
            });
            prop_assert!(!is_deregistered, "{:?}", of);
        }
        for of in &known {
            let is_over = heard
                .iter()
                .flat_map(|value| &value.over)
                .any(|over| super::over_identity(over) == identity(of));
            let is_replaced = heard.iter().flat_map(|value| &value.registered).any(|told| {
                told.service == of.service && told.agent == of.agent && told.incarnation > of.incarnation
            });
            let stays = now.iter().any(|is| identity(is) == identity(of));
            prop_assert!(stays || is_over || is_replaced, "silence, or a stranger, took {:?}", of);
        }
    }

    #[test]
    fn telling_is_enough_to_take_out_and_ends(a in registered(), why in any::<bool>()) {
        let why = if why { EndReason::Dead } else { EndReason::Deregistered };
        let known = [a.clone()];
        // One has heard that it is over, and another has not heard it yet.
        let says = to_tell(gone(&a, why), &ReceivedValue::default(), &known, [&good(&[&a])]);
        prop_assert_eq!(&says, &gone(&a, why));
        let after = merge(&known, [&says], &config(9), ROOM).registered;
        prop_assert!(after.is_empty());
        prop_assert_eq!(to_tell(ReceivedValue::default(), &says, &after, []), ReceivedValue::default());
    }
}
