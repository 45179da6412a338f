//! Outer sources of a prefix.

use super::{BACKEND, BACKEND6, arbitrary_mode, ip, through, tunnel};
use crate::encap::{
    Mode, Parameters, SourcePrefix, SourcePrefixError, Tunnel, TunnelError, TunnelHeader, entropy, shapes,
};
use crate::sample::{CLIENT, V4, VIP, arbitrary_frame, ethernet4, tcp};
use crate::{Addr, Tuple, encap::encapsulate};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};
use proptest::sample::select;
use std::collections::BTreeSet;
use std::string::ToString;
use std::vec::Vec;

fn address(of: &str) -> IpAddr {
    of.parse().unwrap()
}

fn prefix(of: &str, len: u8) -> SourcePrefix {
    SourcePrefix::new(address(of), len).unwrap()
}

/// Whether the first `len` bits are equal, bit for bit.
fn naive_contains(first: IpAddr, len: u8, other: IpAddr) -> bool {
    let bits = |address: IpAddr| -> Vec<bool> {
        let bytes = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1)).collect()
    };
    first.is_ipv4() == other.is_ipv4() && bits(first)[..usize::from(len)] == bits(other)[..usize::from(len)]
}

/// The outer source of a frame without tags.
fn source(frame: &[u8]) -> IpAddr {
    if frame[14] >> 4 == 4 {
        IpAddr::from(<[u8; 4]>::try_from(&frame[26..30]).unwrap())
    } else {
        IpAddr::from(<[u8; 16]>::try_from(&frame[22..38]).unwrap())
    }
}

const SPREADING: [Mode; 2] = [Mode::Ipip, Mode::Gre];

#[test]
fn modes_without_ports_of_their_own_take_sources_from_a_prefix() {
    for mode in Mode::ALL {
        for (outer_v6, inner_v6) in [(false, false), (false, true), (true, false), (true, true)] {
            let sources = Some(if outer_v6 { prefix("fd00:9::", 64) } else { prefix("10.9.0.0", 16) });
            let without = tunnel(mode, outer_v6, inner_v6);
            let header = TunnelHeader::new(&Tunnel { sources, ..without }).unwrap();
            let plain = TunnelHeader::new(&without).unwrap();
            assert_eq!(header.sources(), sources.filter(|_| SPREADING.contains(&mode)), "{mode:?}");
            assert_eq!(plain.sources(), None);
            assert_eq!(header.is_same_tunnel(&plain), !SPREADING.contains(&mode));
            assert_eq!((header.mode(), header.parameters()), (plain.mode(), plain.parameters()));
            assert_eq!((header.len(), header.is_v6()), (plain.len(), plain.is_v6()));
            assert_eq!(header.destination(), plain.destination());
            if SPREADING.contains(&mode) {
                assert!(header.has_entropy());
            }
        }
    }
    let of = |len| {
        let sources = Some(prefix("10.0.0.0", len));
        TunnelHeader::new(&Tunnel { sources, ..tunnel(Mode::Gre, false, false) }).unwrap()
    };
    assert!(of(16).is_same_tunnel(&of(16)) && !of(16).is_same_tunnel(&of(24)));
    assert!(of(16).shaped::<shapes::GreSpread>().is_some() && of(16).shaped::<shapes::Gre>().is_none());
    // The machine's own address is not looked at then, the prefix's family is.
    let sources = Some(prefix("10.9.0.0", 16));
    let without =
        Tunnel { sources, source: Ipv4Addr::UNSPECIFIED.into(), ..tunnel(Mode::Ipip, false, false) };
    assert!(TunnelHeader::new(&without).is_ok());
    assert_eq!(
        TunnelHeader::new(&Tunnel { sources, ..tunnel(Mode::Ipip, true, false) }).unwrap_err(),
        TunnelError::MixedFamilies { source_address: address("10.9.0.0"), destination: BACKEND6 }
    );
}

#[test]
fn prefixes_that_are_refused() {
    let error = |of, len| SourcePrefix::new(address(of), len).unwrap_err();
    for (of, longest) in [("10.9.8.0", 24), ("fd00:9::", 96)] {
        assert_eq!(SourcePrefix::len_max(address(of)), longest);
        assert!(SourcePrefix::new(address(of), longest).is_ok());
        for len in longest + 1..=u8::MAX {
            assert_eq!(error(of, len), SourcePrefixError::TooLong { address: address(of), len });
        }
    }
    for (of, len, first) in
        [("10.9.8.1", 24, "10.9.8.0"), ("10.9.8.0", 16, "10.9.0.0"), ("fd00::1", 96, "fd00::")]
    {
        let (address, first) = (address(of), address(first));
        assert_eq!(error(of, len), SourcePrefixError::HostBits { address, len, first });
    }
    for (of, len) in [
        ("0.0.0.0", 0),
        ("0.0.0.0", 8),
        ("0.0.0.0", 24),
        ("127.1.0.0", 16),
        ("64.0.0.0", 2),
        ("224.0.0.0", 4),
        ("239.1.0.0", 16),
        ("255.255.255.0", 24),
        ("128.0.0.0", 1),
        ("::", 0),
        ("::", 96),
        ("::ffff:0:0", 96),
        ("fe80::", 64),
        ("fe00::", 8),
        ("ff02::", 16),
        ("ff00::", 8),
    ] {
        assert_eq!(error(of, len), SourcePrefixError::NotUnicast { address: address(of), len });
    }
    // Those that load balancers are run with, and neighbours of what is refused.
    for (of, len) in [
        ("172.16.0.0", 16),
        ("100::", 64),
        ("1.0.0.0", 8),
        ("126.0.0.0", 8),
        ("223.255.255.0", 24),
        ("fd00::", 8),
        ("2000::", 3),
        ("fec0::", 10),
    ] {
        assert_eq!(prefix(of, len).to_string(), std::format!("{of}/{len}"));
    }
    for (of, len, message, remedy) in [
        ("10.9.8.0", 25, "10.9.8.0/25 leaves too few addresses for flows", "use a prefix of at most 24 bits"),
        ("fd00::", 97, "fd00::/97 leaves too few addresses for flows", "use a prefix of at most 96 bits"),
        ("fd00::1", 64, "fd00::1/64 has bits set behind the prefix", "write fd00::/64"),
    ] {
        assert_eq!(
            (error(of, len).to_string(), error(of, len).remedy().to_string()),
            (message.into(), remedy.into())
        );
    }
    let message = error("224.0.0.0", 4).to_string();
    assert!(message.starts_with("224.0.0.0/4 holds addresses that are not one host's"), "{message}");
}

fn flow(n: u32) -> Tuple {
    let sport = 40_000 + (n % 64) as u16;
    let src = Addr::V4(u32::from_be_bytes(CLIENT) + n / 64);
    Tuple { src, dst: Addr::V4(u32::from_be_bytes(VIP)), sport, dport: 80, protocol: 6 }
}

#[test]
fn flows_fill_all_bits_behind_the_prefix() {
    let inner = ethernet4(&V4::new(6).packet(&tcp(2, 1, 0, &[], &[])));
    for (of, len, least) in [
        // 4,096 balls in 2^8, 2^16, 2^24 bins, and in 2^32 and more: at random 256, 3,970, 4,095.5 are met, and all.
        ("10.9.8.0", 24, 256),
        ("10.9.0.0", 16, 3_900),
        ("10.0.0.0", 8, 4_080),
        ("fd00:9::", 96, 4_090),
        ("fd00:9::", 64, 4_090),
        ("fd00:9::", 32, 4_090),
        ("fd00::", 8, 4_090),
    ] {
        let sources = Some(prefix(of, len));
        let header =
            TunnelHeader::new(&Tunnel { sources, ..tunnel(Mode::Ipip, of.contains(':'), false) }).unwrap();
        let all: Vec<IpAddr> =
            (0..4096).map(|n| source(&through(&inner, &header, entropy(&flow(n))))).collect();
        assert!(all.iter().all(|source| naive_contains(address(of), len, *source)));
        let met: BTreeSet<&IpAddr> = all.iter().collect();
        assert!(met.len() >= least, "{of}/{len}: {}", met.len());
        let bits = |address: &IpAddr| match address {
            IpAddr::V4(v4) => u128::from(v4.to_bits()),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let host_bits = (if of.contains(':') { 128 } else { 32 }) - u32::from(len);
        for bit in 0..host_bits {
            let ones = all.iter().filter(|source| bits(source) >> bit & 1 == 1).count();
            assert!((1_800..2_300).contains(&ones), "{of}/{len}, bit {bit}: {ones}");
        }
    }
}

/// Prefixes of all lengths that are not refused.
fn arbitrary_prefix(v6: bool) -> impl Strategy<Value = (IpAddr, u8)> {
    (any::<u128>(), 0u8..=96).prop_filter_map("refused", move |(bits, len)| {
        let (address, len) = if v6 {
            (IpAddr::V6(Ipv6Addr::from_bits(bits)), len)
        } else {
            (IpAddr::V4(Ipv4Addr::from_bits((bits >> 96) as u32)), len / 4)
        };
        match SourcePrefix::new(address, len) {
            Err(SourcePrefixError::HostBits { first, .. }) => Some((first, len)),
            Err(_) => None,
            Ok(prefix) => Some((prefix.first(), len)),
        }
    })
}

fn either_family() -> impl Strategy<Value = (IpAddr, u8)> {
    proptest::prop_oneof![arbitrary_prefix(false), arbitrary_prefix(true)]
}

proptest! {
    /// The oracle is the header of one source: with the source that a packet of the prefix has, it makes the same bytes.
    #[test]
    fn a_packet_is_that_of_a_tunnel_from_its_source(
        frame in arbitrary_frame(),
        mode in select(&SPREADING[..]),
        (first, len) in either_family(),
        entropy in any::<u32>(),
    ) {
        let p = ip(&frame);
        let plain = tunnel(mode, first.is_ipv6(), p.is_v6());
        let prefix = SourcePrefix::new(first, len).unwrap();
        let header = TunnelHeader::new(&Tunnel { sources: Some(prefix), ..plain }).unwrap();
        let out = through(&frame, &header, entropy);
        let of = source(&out[usize::from(p.l3) - 14..]);
        prop_assert!(naive_contains(first, len, of), "{of} of {first}/{len}");
        prop_assert!(prefix.contains(of.into()));
        if let (IpAddr::V4(first), IpAddr::V4(of)) = (first, of) {
            let behind = ((1_u64 << (32 - len)) - 1) as u32;
            prop_assert_eq!(of.to_bits(), first.to_bits() | entropy & behind);
        }
        let one = TunnelHeader::new(&Tunnel { source: of, ..plain }).unwrap();
        prop_assert_eq!(&out, &through(&frame, &one, entropy));
        // All packets of a flow: another one with its entropy.
        let other = ethernet4(&V4::new(17).packet(&[0; 8]));
        if !p.is_v6() {
            prop_assert_eq!(source(&through(&other, &header, entropy)), of);
        }
    }

    #[test]
    fn an_error_that_quotes_a_packet_of_the_prefix_is_about_its_tunnel(
        frame in arbitrary_frame(),
        (mode, parameters) in arbitrary_mode(),
        (first, len) in either_family(),
        entropy in any::<u32>(),
        foreign in any::<u128>(),
    ) {
        let p = ip(&frame);
        let plain = Tunnel { parameters, ..tunnel(mode, first.is_ipv6(), p.is_v6()) };
        let sources = Some(SourcePrefix::new(first, len).unwrap());
        let header = TunnelHeader::new(&Tunnel { sources, ..plain }).unwrap();
        let out = through(&frame, &header, entropy);
        let mut quote = out[usize::from(p.l3)..].to_vec();
        let inner = &frame[usize::from(p.l3)..usize::from(p.end)];
        prop_assert_eq!(header.after_quoted(&quote), Some(inner));
        // From somewhere else.
        let at = if first.is_ipv6() { 8..24 } else { 12..16 };
        let bytes = foreign.to_be_bytes();
        quote[at.clone()].copy_from_slice(&bytes[..at.len()]);
        let from = source(&[&[0; 14], &quote[..]].concat());
        let is_ours = match header.sources() {
            Some(_) => naive_contains(first, len, from),
            None => from == plain.source,
        };
        prop_assert_eq!(header.after_quoted(&quote).is_some(), is_ours);
    }

    #[test]
    fn any_prefix_is_taken_or_refused(bits in any::<u128>(), len in any::<u8>(), v6 in any::<bool>()) {
        let address: IpAddr =
            if v6 { Ipv6Addr::from_bits(bits).into() } else { Ipv4Addr::from_bits(bits as u32).into() };
        if let Ok(prefix) = SourcePrefix::new(address, len) {
            let longest = if v6 { 96 } else { 24 };
            prop_assert!(len <= longest);
            prop_assert_eq!(prefix.first(), address);
            let destination = if v6 { BACKEND6 } else { BACKEND };
            let tunnel = Tunnel { destination, sources: Some(prefix), ..tunnel(Mode::Gre, v6, false) };
            prop_assert!(TunnelHeader::new(&tunnel).is_ok());
        }
    }
}

#[test]
fn a_frame_without_room_is_left_alone() {
    let inner = ethernet4(&V4::new(6).packet(&tcp(2, 1, 0, &[], &[])));
    let p = ip(&inner);
    for v6 in [false, true] {
        let sources = Some(if v6 { prefix("fd00:9::", 64) } else { prefix("10.9.0.0", 16) });
        let header = TunnelHeader::new(&Tunnel { sources, ..tunnel(Mode::Gre, v6, false) }).unwrap();
        for len in 0..14 + header.len() {
            let mut short = std::vec![0xcc; len];
            encapsulate(&mut short, &header, &p, 7);
            assert_eq!(short, std::vec![0xcc; len]);
        }
        assert_eq!(header.parameters(), Parameters { port: 0, vni: 0 });
    }
}
