//! Frames of every shape, one by one: bytes to what the frame is, and what is done with it as far as the frame alone can tell.

use crate::DropReason;
use crate::action::{Action, Reply};
use crate::io::RxMeta;
use crate::view::{PortView, ServiceView, View};
use steer::Match;
use wire::parse::{BadTransport, Kind, Malformed, Parsed, ParsedFrame, Quoted, TcpFlags, destination, parse};
use wire::{Addr, BackendId, FlowKey, Tick, Tuple};

/// How far a frame is decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Belongs to a flow of a service: look up, steer, remember.
    Flow,
    /// An ICMP error: follows the flow quoted inside it, remembers nothing.
    Quoted,
    /// A fragment for a VIP: to the owner of its datagram.
    Fragment,
    /// From another machine of the cluster.
    Peer,
    /// To the end.
    Decided(Action),
}

impl Fate {
    /// Decided: it goes to this backend.
    pub(crate) const fn to(backend: BackendId) -> Fate {
        Fate::Decided(Action::Encapsulate(backend))
    }

    /// Decided: it ends here.
    pub(crate) const fn drop(reason: DropReason) -> Fate {
        Fate::Decided(Action::Drop(reason))
    }
}

/// A frame's description, filled in stage by stage.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// How far it is decided.
    pub fate: Fate,
    /// Offsets and ports; all zero for frames without IP.
    pub parsed: Parsed,
    /// Index of its service in the view.
    pub service: Option<u16>,
    /// Made here (a piece of a received datagram): nobody waits to hear how it ended.
    pub made_here: bool,
}

const NOT_PARSED: Parsed = Parsed {
    l3: 0,
    l4: 0,
    end: 0,
    sport: 0,
    dport: 0,
    protocol: 0,
    v6: false,
    tos: 0,
    dont_fragment: false,
    fragment: None,
    kind: Kind::Other,
};

impl Packet {
    fn without_ip(fate: Fate) -> Packet {
        Packet::new(fate, NOT_PARSED)
    }

    fn new(fate: Fate, parsed: Parsed) -> Packet {
        Packet { fate, parsed, service: None, made_here: false }
    }

    /// The flow that the packet belongs to, client to VIP; for an ICMP error the flow it quotes, turned round. `bytes` is
    /// the frame that was classified.
    #[inline]
    pub fn flow(&self, bytes: &[u8]) -> Tuple {
        match self.parsed.kind {
            Kind::IcmpError => quoted_flow(bytes, &self.parsed),
            _ => self.parsed.tuple(bytes),
        }
    }

    /// Whether it belongs to a flow, and that is not decided yet.
    #[inline(always)]
    pub(crate) const fn is_of_flow(&self) -> bool {
        matches!(self.fate, Fate::Flow | Fate::Quoted)
    }

    /// Its service.
    #[inline]
    pub(crate) fn service_in<'v>(&self, view: &'v View) -> Option<&'v ServiceView> {
        view.service.get(usize::from(self.service?))
    }

    /// Bytes from the IP header on.
    #[inline]
    pub(crate) const fn len(&self) -> u16 {
        self.parsed.end - self.parsed.l3
    }

    /// The flags of a TCP packet; none for others.
    pub(crate) fn tcp_flags(&self) -> Option<TcpFlags> {
        match self.parsed.kind {
            Kind::Tcp(flags) => Some(flags),
            _ => None,
        }
    }
}

/// A packet of a flow of a service, and what its decision depends on besides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowPacket<'p> {
    pub(crate) view: &'p View,
    pub(crate) now: Tick,
    pub(crate) service: &'p ServiceView,
    pub(crate) packet: &'p Packet,
    pub(crate) bytes: &'p [u8],
}

/// The key by which a service's flow is remembered.
#[inline]
pub fn key_of(service: &ServiceView, tuple: &Tuple) -> FlowKey {
    match tuple.src {
        Addr::V4(src) if !service.wide => FlowKey::narrow(src, tuple.sport, service.id),
        _ => FlowKey::wide(tuple, service.id),
    }
}

/// What a received frame is.
#[inline]
pub fn classify(view: &View, bytes: &[u8], meta: RxMeta) -> Packet {
    if meta.truncated {
        return Packet::without_ip(Fate::drop(DropReason::Truncated));
    }
    if meta.multi_segment {
        return Packet::without_ip(Fate::drop(DropReason::MultiSegment));
    }
    match parse(bytes) {
        Ok(ParsedFrame::Ip(parsed)) => {
            let packet = classify_ip(view, bytes, parsed);
            if packet.fate == Fate::Decided(Action::Punt) {
                return packet;
            }
            if is_group_frame(bytes) {
                return Packet::new(Fate::drop(DropReason::BadLinkAddress), parsed);
            }
            if is_for_another_mac(view, bytes, meta) {
                return Packet::new(Fate::Decided(Action::Punt), parsed);
            }
            packet
        }
        Ok(ParsedFrame::NotIp) => Packet::without_ip(Fate::Decided(Action::Punt)),
        // What is not for a VIP is not judged here: the kernel knows its own rules for routing headers and options.
        Err(_) if destination(bytes).is_some_and(|dst| !view.services.is_vip(dst)) => {
            Packet::without_ip(Fate::Decided(Action::Punt))
        }
        Err(why) => Packet::without_ip(Fate::drop(malformed(why))),
    }
}

#[inline(always)]
fn classify_ip(view: &View, bytes: &[u8], parsed: Parsed) -> Packet {
    if parsed.fragment.is_some() {
        return classify_fragment(view, bytes, parsed);
    }
    let found = match parsed.dst(bytes) {
        Addr::V4(dst) => view.services.find_v4(dst, parsed.dport, parsed.protocol),
        Addr::V6(dst) => view.services.find_v6(dst, parsed.dport, parsed.protocol),
    };
    match found {
        Match::NotVip if is_from_peer(view, bytes, &parsed) => Packet::new(Fate::Peer, parsed),
        Match::NotVip => Packet::new(Fate::Decided(Action::Punt), parsed),
        _ if parsed.kind == Kind::NeighbourDiscovery => Packet::new(discovery(bytes, &parsed), parsed),
        _ if bad_source(bytes, &parsed) => Packet::new(Fate::drop(DropReason::BadSource), parsed),
        found => whole_for_vip(view, bytes, parsed, found),
    }
}

/// Neighbour discovery for a VIP is the kernel's, if it comes from this link: a router would have taken one off its hop limit of
/// 255 (RFC 4861 sections 6.1 and 7.1).
#[cold]
fn discovery(bytes: &[u8], parsed: &Parsed) -> Fate {
    match bytes.get(usize::from(parsed.l3) + 7) {
        Some(255) => Fate::Decided(Action::Punt),
        _ => Fate::drop(DropReason::BadIcmp),
    }
}

#[cold]
fn classify_fragment(view: &View, bytes: &[u8], parsed: Parsed) -> Packet {
    let fate = match view.services.is_vip(parsed.dst(bytes)) {
        false => Fate::Decided(Action::Punt),
        true if bad_source(bytes, &parsed) => Fate::drop(DropReason::BadSource),
        true => Fate::Fragment,
    };
    Packet::new(fate, parsed)
}

/// Whether it looks like a message of another machine of the cluster: its tag tells later.
fn is_from_peer(view: &View, bytes: &[u8], parsed: &Parsed) -> bool {
    view.cluster.as_ref().is_some_and(|cluster| {
        parsed.kind == Kind::Udp
            && parsed.dport == cluster.endpoint.udp_port
            && parsed.dst(bytes) == cluster.endpoint.address
    })
}

/// A whole datagram (or the first fragment of one) whose destination is a VIP.
#[inline(always)]
pub(crate) fn whole_for_vip(view: &View, bytes: &[u8], parsed: Parsed, found: Match) -> Packet {
    let mut packet = Packet::new(Fate::drop(DropReason::NoService), parsed);
    match (parsed.kind, found) {
        (Kind::Tcp(_) | Kind::Udp, Match::Service(index)) => {
            packet.fate = Fate::Flow;
            packet.service = Some(index);
        }
        (Kind::EchoRequest, _) => packet.fate = Fate::Decided(Action::Reply(Reply::Echo)),
        (Kind::IcmpError, _) => steer_by_quote(view, bytes, &mut packet),
        (Kind::IcmpOther, _) => packet.fate = Fate::drop(DropReason::IcmpUnhandled),
        (Kind::Bad(why), _) => packet.fate = Fate::drop(bad_transport(why)),
        _ => {}
    }
    packet
}

/// The flow that an ICMP error quotes: quoted from the VIP to the client, so turned round.
#[cold]
fn quoted_flow(bytes: &[u8], parsed: &Parsed) -> Tuple {
    let none = Quoted { src: (Addr::V4(0), 0), dst: (Addr::V4(0), 0), protocol: 0 };
    let quoted = parsed.quoted(bytes).unwrap_or(none);
    Tuple {
        src: quoted.dst.0,
        dst: quoted.src.0,
        sport: quoted.dst.1,
        dport: quoted.src.1,
        protocol: quoted.protocol,
    }
}

/// An ICMP error belongs to the flow it quotes. The quoted source must be the VIP the error was sent to (RFC 5927 section 4: a
/// quote that is none of ours is forged).
#[cold]
fn steer_by_quote(view: &View, bytes: &[u8], packet: &mut Packet) {
    let flow = quoted_flow(bytes, &packet.parsed);
    packet.fate = if flow.dst != packet.parsed.dst(bytes) {
        Fate::drop(DropReason::BadIcmp)
    } else if !matches!(flow.protocol, 6 | 17) {
        Fate::drop(DropReason::IcmpUnhandled)
    } else if let Match::Service(index) = view.services.find(flow.dst, flow.dport, flow.protocol) {
        packet.service = Some(index);
        Fate::Quoted
    } else {
        Fate::drop(DropReason::NoService)
    };
}

/// A frame of the kernel that is a health probe through a service's own tunnel.
pub(crate) fn probe(view: &View, bytes: &[u8]) -> Option<Packet> {
    if view.probes.is_empty() {
        return None;
    }
    let Ok(ParsedFrame::Ip(parsed)) = parse(bytes) else { return None };
    let tuple = &parsed.tuple(bytes);
    let mut probes = view.probes.iter();
    let probe =
        probes.find(|p| p.vip == tuple.dst && p.source == tuple.src && p.source_port == tuple.sport)?;
    let backend = view.backend(probe.backend)?;
    Some(Packet::new(Fate::to(backend.id), parsed))
}

/// Whether a frame was sent to more than one receiver. A VIP's packets never are (RFC 1812 section 5.3.4): every balancer of
/// the link would forward a copy. Of the source address no standard asks that a router look at this bit.
fn is_group_frame(bytes: &[u8]) -> bool {
    const GROUP: u8 = 1;
    bytes.first().is_some_and(|first| first & GROUP != 0)
}

/// Whether a frame is on its way to another MAC address (a bridge floods what it does not know): the balancer there
/// forwards it, and a copy from here would be one too many. So it is left to the kernel, which is no router for it.
fn is_for_another_mac(view: &View, bytes: &[u8], meta: RxMeta) -> bool {
    let own = view.ports.get(meta.port.index()).and_then(PortView::own_mac);
    own.is_some_and(|mac| bytes.first_chunk() != Some(&mac))
}

/// Sources no packet to a VIP may have: RFC 1122 section 3.2.1.3 and RFC 4291 section 2 (unspecified, loopback,
/// multicast, broadcast), link-local ones, which no router forwards, and the VIP itself ("land").
#[inline(always)]
fn bad_source(bytes: &[u8], parsed: &Parsed) -> bool {
    let src = parsed.src(bytes);
    src == parsed.dst(bytes)
        || match src {
            Addr::V4(a) => !is_possible_source_v4(a),
            Addr::V6(a) => !is_possible_source_v6(a),
        }
}

/// Not unspecified, loopback, multicast, reserved or broadcast (RFC 1122 section 3.2.1.3), nor link-local (RFC 3927 section 2.7).
#[inline(always)]
pub(crate) const fn is_possible_source_v4(address: u32) -> bool {
    let first = address >> 24;
    // 1 to 223 in one comparison.
    first.wrapping_sub(1) < 223 && first != 127 && address >> 16 != LINK_LOCAL_V4
}

/// Not unspecified, loopback or multicast (RFC 4291 section 2), nor link-local (section 2.5.6).
#[inline(always)]
pub(crate) const fn is_possible_source_v6(address: u128) -> bool {
    let high = (address >> 64) as u64;
    // What is neither 0 nor beyond the link-local ones, in one comparison: nearly all there are.
    high.wrapping_sub(1) < (LINK_LOCAL_V6 << 54) - 1
        || address > 1 && address >> 120 != 0xff && high >> 54 != LINK_LOCAL_V6
}

/// 169.254.0.0/16.
pub(crate) const LINK_LOCAL_V4: u32 = 0xa9fe;
/// fe80::/10.
const LINK_LOCAL_V6: u64 = 0x3fa;

fn malformed(why: Malformed) -> DropReason {
    match why {
        Malformed::BadEthernet => DropReason::BadEthernet,
        Malformed::BadIpv4 => DropReason::BadIpv4,
        Malformed::BadIpv4Checksum => DropReason::BadIpv4Checksum,
        Malformed::BadIpv6 => DropReason::BadIpv6,
        Malformed::BadIpv6Extension => DropReason::BadIpv6Extension,
        Malformed::BadFragment => DropReason::BadFragment,
    }
}

fn bad_transport(why: BadTransport) -> DropReason {
    match why {
        BadTransport::BadTcp => DropReason::BadTcp,
        BadTransport::BadUdp => DropReason::BadUdp,
        BadTransport::BadIcmp => DropReason::BadIcmp,
    }
}

#[cfg(test)]
mod tests {
    use super::is_possible_source_v6;
    use core::net::Ipv6Addr;

    #[test]
    fn sources_of_v6() {
        let is_possible = |text: &str| is_possible_source_v6(text.parse::<Ipv6Addr>().unwrap().to_bits());
        let last = "ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        for bad in
            ["::", "::1", "fe80::", "fe80::1", &format!("febf:{last}"), "ff00::", &format!("ffff:{last}")]
        {
            assert!(!is_possible(bad), "{bad}");
        }
        let beside = [format!("fe7f:{last}"), format!("feff:{last}")];
        for good in
            ["::2", "::1:0:0:0", "0:0:0:1::", "2001:db8::7", "fec0::", "fc00::1", &beside[0], &beside[1]]
        {
            assert!(is_possible(good), "{good}");
        }
    }
}
