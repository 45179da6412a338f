//! The two exact forms of a flow's key, and the full tuple they are made from.
//!
//! A service id stands for (VIP, port, protocol), so an IPv4 flow of a service with one address and one port is
//! named exactly by source address, source port and service: one `u64`. Everything else is wide.

use crate::{Addr, ServiceId};

/// Source and destination of a flow, as seen from the client: `dst` is the VIP.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tuple {
    /// The client.
    pub src: Addr,
    /// The VIP.
    pub dst: Addr,
    /// The client's port; 0 for protocols without ports.
    pub sport: u16,
    /// The service's port; 0 for protocols without ports.
    pub dport: u16,
    /// IP protocol number (6 TCP, 17 UDP).
    pub protocol: u8,
}

/// An exact flow key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FlowKey {
    /// IPv4, one VIP address, one port: source address 32, source port 16, service 16. Never 0, because
    /// service ids start at 1.
    Narrow(u64),
    /// IPv6, any-port and prefix services.
    Wide(WideKey),
}

/// A wide key: source address, (source port, service, low 32 bits of the destination), destination port.
/// The low 32 bits of the destination name it exactly: an IPv6 prefix service is /96 or longer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct WideKey {
    /// High and low half of the source address; an IPv4 source is in the low half.
    pub src: [u64; 2],
    /// sport << 48 | service << 32 | low 32 bits of dst. Never 0, because service ids start at 1.
    pub middle: u64,
    /// The destination port.
    pub dport: u16,
}

/// The bits of [`FlowKey::Narrow`].
#[inline]
pub const fn narrow(src: u32, sport: u16, service: ServiceId) -> u64 {
    (src as u64) << 32 | (sport as u64) << 16 | service.0 as u64
}

impl FlowKey {
    /// The narrow key of an IPv4 flow.
    pub const fn narrow(src: u32, sport: u16, service: ServiceId) -> FlowKey {
        FlowKey::Narrow(narrow(src, sport, service))
    }

    /// The wide key of any flow.
    #[expect(clippy::cast_possible_truncation, reason = "the two halves are taken apart on purpose")]
    pub const fn wide(t: &Tuple, service: ServiceId) -> FlowKey {
        let src = match t.src {
            Addr::V4(a) => [0, a as u64],
            Addr::V6(a) => [(a >> 64) as u64, a as u64],
        };
        let middle = (t.sport as u64) << 48 | (service.0 as u64) << 32 | t.dst.low32() as u64;
        FlowKey::Wide(WideKey { src, middle, dport: t.dport })
    }

    /// The service the key belongs to.
    #[expect(clippy::cast_possible_truncation, reason = "the field is 16 bits wide")]
    pub const fn service(&self) -> ServiceId {
        match self {
            FlowKey::Narrow(k) => ServiceId(*k as u16),
            FlowKey::Wide(w) => ServiceId((w.middle >> 32) as u16),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{FlowKey, Tuple, WideKey};
    use crate::{Addr, ServiceId};
    use proptest::prelude::{any, prop_assert_eq, proptest};

    #[test]
    fn layout() {
        let narrow = FlowKey::narrow(0xc633_6407, 40_000, ServiceId(3));
        assert_eq!(narrow, FlowKey::Narrow(0xc633_6407_9c40_0003));
        let tuple = Tuple {
            src: Addr::V6(0x2001_0db8_0001_0000_0000_0000_0000_0007),
            dst: Addr::V6(0x2001_0db8_0002_0000_0000_0000_1234_5678),
            sport: 40_000,
            dport: 443,
            protocol: 6,
        };
        let wide = WideKey { src: [0x2001_0db8_0001_0000, 7], middle: 0x9c40_0003_1234_5678, dport: 443 };
        assert_eq!(FlowKey::wide(&tuple, ServiceId(3)), FlowKey::Wide(wide));
    }

    proptest! {
        /// Keys are equal only where source, ports, service and the destination's low bits are.
        #[test]
        fn exact(a in any::<(u32, u16, u16, u32, u16)>(), b in any::<(u32, u16, u16, u32, u16)>()) {
            let narrow = |(src, sport, service, ..): (u32, u16, u16, u32, u16)| FlowKey::narrow(src, sport, ServiceId(service));
            prop_assert_eq!(narrow(a) == narrow(b), (a.0, a.1, a.2) == (b.0, b.1, b.2));
            prop_assert_eq!(narrow(a).service(), ServiceId(a.2));
            let wide = |(src, sport, service, dst, dport): (u32, u16, u16, u32, u16)| {
                let tuple = Tuple { src: Addr::V4(src), dst: Addr::V4(dst), sport, dport, protocol: 17 };
                FlowKey::wide(&tuple, ServiceId(service))
            };
            prop_assert_eq!(wide(a) == wide(b), a == b);
            prop_assert_eq!(wide(a).service(), ServiceId(a.2));
        }
    }
}
