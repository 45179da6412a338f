//! Kernel interfaces under data ports that are one end of a veth pair. The sender at the other end may leave checksums to a device that is
//! not there; the driver cannot tell such a packet from a broken one.

use futures_util::TryStreamExt as _;
use model::config::Port;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo};

/// Warns of every pair whose other end is in another network namespace, where its offloads cannot be seen. Best effort: what the kernel does
/// not tell is not warned of.
pub(crate) fn warn_of_unseen_peers(ports: &[Port]) {
    let named: Vec<(&str, &str)> =
        ports.iter().filter_map(|port| Some((port.name.as_str(), interface(&port.device)?))).collect();
    if named.is_empty() {
        return;
    }
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        let Ok((connection, handle, _)) = rtnetlink::new_connection() else { return };
        tokio::spawn(connection);
        for (port, interface) in named {
            let mut links = Box::pin(handle.link().get().match_name(interface.to_owned()).execute());
            if let Ok(Some(link)) = links.try_next().await
                && is_half_of_a_pair(&link.attributes)
            {
                tracing::warn!(
                    port,
                    interface,
                    "the other end of this veth is in another network namespace: unless it finishes its \
                     checksums and segments (there: ethtool -K \
                     PEER tx off tso off gso off), its packets are forwarded broken"
                );
            }
        }
    });
}

/// The kernel interface that a device string names, of the drivers that take frames from one.
pub(crate) fn interface(device: &str) -> Option<&str> {
    let is_one = ["net_af_packet", "net_af_xdp"].iter().any(|driver| device.starts_with(driver));
    device.split(',').find_map(|part| part.trim().strip_prefix("iface=")).filter(|_| is_one)
}

/// A veth, and the kernel names the namespace of its other end, which it does where that is another one.
fn is_half_of_a_pair(attributes: &[LinkAttribute]) -> bool {
    let is_veth = attributes.iter().any(|attribute| {
        matches!(attribute, LinkAttribute::LinkInfo(infos) if infos.contains(&LinkInfo::Kind(InfoKind::Veth)))
    });
    is_veth && attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::LinkNetNsId(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_veth_whose_other_end_is_elsewhere_is_warned_of() {
        let veth = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]);
        let vlan = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vlan)]);
        let elsewhere = LinkAttribute::LinkNetNsId(3);
        assert!(is_half_of_a_pair(&[veth.clone(), elsewhere.clone()]));
        assert!(!is_half_of_a_pair(&[veth]));
        assert!(!is_half_of_a_pair(&[vlan, elsewhere]));
    }

    #[test]
    fn interfaces_of_devices() {
        assert_eq!(interface("net_af_packet0,iface=p0,qpairs=2"), Some("p0"));
        assert_eq!(interface("net_af_xdp1,queue_count=2,iface=eth1"), Some("eth1"));
        assert_eq!(interface("net_tap0,iface=gw9"), None);
        assert_eq!(interface("0000:3b:00.0"), None);
    }
}
