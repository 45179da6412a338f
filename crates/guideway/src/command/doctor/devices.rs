//! What a port's device string names.

/// A port's device, as far as it matters here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Device {
    /// A PCI address, in full form (`0000:3b:00.0`).
    Pci(String),
    /// A virtual device over a kernel interface.
    Interface { driver: &'static str, interface: String },
    /// Another virtual device (rings, pcap files, memif …).
    Virtual(String),
}

/// Reads `net_af_xdp0,iface=p0,…` and `0000:3b:00.0,…`.
pub(super) fn device(text: &str) -> Device {
    let mut parts = text.split(',');
    let name = parts.next().unwrap_or_default().trim();
    if let Some(address) = pci_address(name) {
        return Device::Pci(address);
    }
    let interface = parts.find_map(|p| p.trim().strip_prefix("iface=")).map(str::to_owned);
    let driver = ["net_af_xdp", "net_af_packet"].into_iter().find(|d| name.starts_with(d));
    match (driver, interface) {
        (Some(driver), Some(interface)) => Device::Interface { driver, interface },
        _ => Device::Virtual(name.to_owned()),
    }
}

/// `3b:00.0` and `0000:3b:00.0`, in lower case and with the domain.
fn pci_address(name: &str) -> Option<String> {
    let (rest, function) = name.rsplit_once('.')?;
    let fields: Vec<&str> = rest.split(':').collect();
    let (domain, bus, device) = match fields[..] {
        [domain, bus, device] => (domain, bus, device),
        [bus, device] => ("0000", bus, device),
        _ => return None,
    };
    let hex = |s: &str, digits| s.len() == digits && s.bytes().all(|b| b.is_ascii_hexdigit());
    let good = hex(domain, 4) && hex(bus, 2) && hex(device, 2) && hex(function, 1);
    good.then(|| format!("{domain}:{bus}:{device}.{function}").to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_strings() {
        let af = |driver, interface: &str| Device::Interface { driver, interface: interface.into() };
        for (text, expected) in [
            ("0000:3B:00.1", Device::Pci("0000:3b:00.1".into())),
            ("3b:00.0,rx_vec_en=1", Device::Pci("0000:3b:00.0".into())),
            ("net_af_xdp0,iface=p0", af("net_af_xdp", "p0")),
            ("net_af_packet3,qpairs=2,iface=eth1", af("net_af_packet", "eth1")),
            ("net_pcap0,rx_pcap=a.pcap", Device::Virtual("net_pcap0".into())),
            ("net_af_xdp0", Device::Virtual("net_af_xdp0".into())),
            ("", Device::Virtual(String::new())),
        ] {
            assert_eq!(device(text), expected, "{text}");
        }
    }
}
