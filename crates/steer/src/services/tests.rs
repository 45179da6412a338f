use super::*;
use core::net::IpAddr;
use proptest::prelude::*;
use std::string::ToString as _;
use std::vec;
use std::vec::Vec;

const TCP: u8 = 6;
const UDP: u8 = 17;

fn addr(text: &str) -> Addr {
    Addr::from(text.parse::<IpAddr>().unwrap())
}

fn rule(vip: &str, len: u8, port: u16, protocol: u8) -> ServiceRule {
    ServiceRule { vip: addr(vip), len, port, protocol }
}

#[test]
fn order_of_rules() {
    let services = Services::build(&[
        rule("203.0.113.0", 24, 80, TCP),
        rule("203.0.113.10", 32, 0, TCP),
        rule("203.0.113.10", 32, 443, TCP),
        rule("203.0.112.0", 23, 0, UDP),
        rule("203.0.113.0", 24, 0, TCP),
        rule("203.0.112.0", 23, 8080, TCP),
    ])
    .unwrap();
    let find = |dst: &str, port, protocol| services.find(addr(dst), port, protocol);
    assert_eq!(find("203.0.113.10", 443, TCP), Match::Service(2), "exact address and port");
    assert_eq!(find("203.0.113.10", 80, TCP), Match::Service(1), "exact address beats prefix with port");
    assert_eq!(find("203.0.113.11", 80, TCP), Match::Service(0), "prefix with port");
    assert_eq!(find("203.0.113.11", 81, TCP), Match::Service(4), "prefix, any port");
    assert_eq!(find("203.0.113.10", 53, UDP), Match::Service(3), "another protocol falls through");
    assert_eq!(find("203.0.112.1", 8080, TCP), Match::Service(5), "shorter prefix");
    assert_eq!(find("203.0.113.1", 8080, TCP), Match::Service(4), "longer prefix first");
    assert_eq!(find("203.0.112.1", 80, TCP), Match::NoService);
    assert_eq!(find("203.0.112.1", 0, 1), Match::NoService, "ICMP to a VIP");
    assert_eq!(find("203.0.114.1", 80, TCP), Match::NotVip);
    assert_eq!(find("2001:db8::1", 80, TCP), Match::NotVip);
    assert!(services.is_vip(addr("203.0.112.255")) && !services.is_vip(addr("203.0.111.255")));
}

#[test]
fn default_has_no_vip() {
    let services = Services::default();
    assert_eq!(services.find(addr("203.0.113.10"), 80, TCP), Match::NotVip);
    assert!(!services.is_vip(addr("::")));
}

#[test]
fn ipv4_is_not_its_mapped_ipv6() {
    let services = Services::build(&[rule("203.0.113.10", 32, 80, TCP)]).unwrap();
    assert_eq!(services.find(addr("::ffff:203.0.113.10"), 80, TCP), Match::NotVip);
    assert_eq!(services.find(Addr::V6(0xcb00_710a), 80, TCP), Match::NotVip);
}

#[test]
fn refusals() {
    let err = |rules: &[ServiceRule]| Services::build(rules).unwrap_err();
    assert_eq!(err(&[rule("2001:db8::", 95, 80, TCP)]), RulesError::PrefixTooShort(0));
    assert_eq!(err(&[rule("::", 0, 80, TCP)]), RulesError::PrefixTooShort(0));
    assert_eq!(err(&[rule("10.0.0.0", 33, 80, TCP)]), RulesError::PrefixTooLong(0));
    assert_eq!(err(&[rule("2001:db8::", 129, 80, TCP)]), RulesError::PrefixTooLong(0));
    let first = rule("10.0.0.1", 32, 80, TCP);
    assert_eq!(err(&[first, rule("10.0.0.1", 32, 80, UDP), first]), RulesError::Duplicate(0, 2));
    let twice = [rule("10.0.0.1", 24, 0, TCP), rule("10.0.0.2", 24, 0, TCP)];
    assert_eq!(err(&twice), RulesError::Duplicate(0, 1), "bits beyond the prefix do not count");
    let many = vec![first; Services::RULES_MAX + 1];
    assert_eq!(err(&many), RulesError::TooMany(Services::RULES_MAX + 1));
    assert!(err(&twice).to_string().contains("rules 0 and 1"));
    assert!(Services::build(&[rule("2001:db8::", 96, 80, TCP)]).is_ok());
}

#[test]
fn as_many_rules_as_indices() {
    let rules: Vec<ServiceRule> = (0..Services::RULES_MAX as u32)
        .map(|i| ServiceRule { vip: Addr::V4(0x0a00_0000 + i), len: 32, port: 80, protocol: TCP })
        .collect();
    let services = Services::build(&rules).unwrap();
    for (rule, index) in rules.iter().zip(0..) {
        assert_eq!(services.find(rule.vip, 80, TCP), Match::Service(index));
        assert_eq!(services.find(rule.vip, 81, TCP), Match::NoService);
    }
}

/// The order, written down naively.
fn oracle(rules: &[ServiceRule], dst: Addr, port: u16, protocol: u8) -> Match {
    let covers = |rule: &ServiceRule| match (rule.vip, dst) {
        (Addr::V4(vip), Addr::V4(dst)) => (0..u32::from(rule.len)).all(|i| (vip ^ dst) >> (31 - i) & 1 == 0),
        (Addr::V6(vip), Addr::V6(dst)) => (0..u32::from(rule.len)).all(|i| (vip ^ dst) >> (127 - i) & 1 == 0),
        _ => false,
    };
    (0..)
        .zip(rules)
        .filter(|(_, rule)| {
            covers(rule) && rule.protocol == protocol && (rule.port == port || rule.port == 0)
        })
        .max_by_key(|(_, rule)| (rule.len, rule.port != 0))
        .map_or_else(
            || if rules.iter().any(covers) { Match::NoService } else { Match::NotVip },
            |(index, _)| Match::Service(index),
        )
}

/// Few values each, so that rules overlap and packets match.
fn any_address() -> impl Strategy<Value = Addr> {
    prop_oneof![
        (0_u32..16).prop_map(|low| Addr::V4(0x0a00_0000 | low << 4 | low & 3)),
        (0_u32..4).prop_map(|high| Addr::V4(high << 30 | 0x0a00_0001)),
        (0_u128..16).prop_map(|low| Addr::V6(0x2001_0db8 << 96 | low << 28 | low & 3)),
    ]
}

fn any_rule() -> impl Strategy<Value = ServiceRule> {
    (any_address(), 0_u8..=32, 0_u16..3, prop_oneof![Just(TCP), Just(UDP)]).prop_map(
        |(vip, len, port, protocol)| {
            let len = if vip.is_v6() { 96 + len } else { len };
            ServiceRule { vip, len, port, protocol }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Many whole addresses with ports, so that their table has runs, also at its end.
    #[test]
    fn exact_rules_agree_with_the_oracle(
        destinations in prop::collection::hash_set((0_u8..2, 0_u32..64, 1_u16..64), 1..300),
        strange in prop::collection::vec((0_u8..2, any::<u32>(), any::<u16>(), any::<u8>()), 16),
    ) {
        let address = |family, low| match family {
            0 => Addr::V4(0x0a00_0000 | low),
            _ => Addr::V6(0x2001_0db8 << 96 | u128::from(low)),
        };
        let rules: Vec<ServiceRule> = destinations
            .iter()
            .map(|&(family, low, port)| {
                ServiceRule { vip: address(family, low), len: if family == 0 { 32 } else { 128 }, port, protocol: TCP }
            })
            .collect();
        let services = Services::build(&rules).unwrap();
        for low in 0..66 {
            for port in [0, 1, 2, 62, 63, 64] {
                for (family, protocol) in [(0, TCP), (1, TCP), (0, UDP)] {
                    let dst = address(family, low);
                    prop_assert_eq!(services.find(dst, port, protocol), oracle(&rules, dst, port, protocol));
                }
            }
        }
        for (index, rule) in (0..).zip(&rules) {
            prop_assert_eq!(services.find(rule.vip, rule.port, TCP), Match::Service(index));
        }
        for (family, low, port, protocol) in strange {
            let dst = address(family, low);
            prop_assert_eq!(services.find(dst, port, protocol), oracle(&rules, dst, port, protocol));
        }
    }

}

proptest! {
    #[test]
    fn agrees_with_the_oracle(
        mut rules in prop::collection::vec(any_rule(), 0..24),
        packets in prop::collection::vec((any_address(), 0_u16..4, prop_oneof![Just(TCP), Just(UDP), Just(1)]), 1..64),
    ) {
        // Without duplicates, which are refused.
        while let Err(RulesError::Duplicate(_, second)) = Services::build(&rules) {
            rules.remove(second);
        }
        let services = Services::build(&rules).unwrap();
        for (dst, port, protocol) in packets {
            let expected = oracle(&rules, dst, port, protocol);
            prop_assert_eq!(services.find(dst, port, protocol), expected);
            prop_assert_eq!(services.is_vip(dst), expected != Match::NotVip);
        }
    }
}
