//! What a service's template lets register.

use super::Template;
use std::net::IpAddr;

impl Template {
    /// Whether a backend may have this name.
    pub fn allows_name(&self, name: &str) -> bool {
        match self.names.split_once('*') {
            None => self.names == name,
            Some((head, tail)) => {
                name.len() >= head.len() + tail.len() && name.starts_with(head) && name.ends_with(tail)
            }
        }
    }

    /// Whether a backend may have this address.
    pub fn allows_address(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|net| net.contains(address))
    }

    /// Whether a backend may ask for this port to be checked.
    pub fn allows_port(&self, port: u16) -> bool {
        self.ports.iter().any(|(first, last)| (*first..=*last).contains(&port))
    }

    /// Whether a backend may have this weight.
    pub fn allows_weight(&self, weight: u32) -> bool {
        (1..=self.weight_max).contains(&weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(names: &str) -> Template {
        let addresses = vec!["10.1.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()];
        Template {
            addresses,
            names: names.to_owned(),
            ports: vec![(80, 80), (8000, 8999)],
            limit: 2,
            weight_max: 100,
        }
    }

    #[test]
    fn names() {
        for (names, name, allowed) in [
            ("*", "x", true),
            ("web-*", "web-", true),
            ("web-*", "web-1", true),
            ("web-*", "we", false),
            ("web-*", "xweb-1", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("*-db", "x-db", true),
            ("one", "one", true),
            ("one", "one1", false),
        ] {
            assert_eq!(template(names).allows_name(name), allowed, "{names} {name}");
        }
    }

    #[test]
    fn figures() {
        let template = template("*");
        assert!(template.allows_address("10.1.255.255".parse().unwrap()));
        assert!(!template.allows_address("10.2.0.0".parse().unwrap()));
        assert!(template.allows_address("fd00::1".parse().unwrap()));
        assert_eq!(
            [79, 80, 81, 7999, 8000, 8999, 9000].map(|port| template.allows_port(port)),
            [false, true, false, false, true, true, false]
        );
        assert_eq!([0, 1, 100, 101].map(|weight| template.allows_weight(weight)), [false, true, true, false]);
    }
}
