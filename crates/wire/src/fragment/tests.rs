use super::{CannotFragment, FragmentPlan};
use crate::parse::{Parsed, ParsedFrame, parse};
use crate::sample::{V4, arbitrary_options, ethernet, ethernet4, ethernet6, naive_sum, udp, v6};
use etherparse::Ipv4Slice;
use proptest::prelude::{any, prop_assert, prop_assert_eq, prop_assume, proptest};
use std::vec::Vec;

fn ip(frame: &[u8]) -> Parsed {
    match parse(frame) {
        Ok(ParsedFrame::Ip(parsed)) => parsed,
        other => panic!("{other:?}"),
    }
}

fn cut(frame: &[u8], mtu: u16) -> Vec<Vec<u8>> {
    let pieces = FragmentPlan::plan(&ip(frame), frame, mtu).unwrap();
    (0..pieces.count())
        .map(|i| {
            let mut out = std::vec![0xdd; pieces.piece_len(i) + 3];
            assert_eq!(pieces.write(i, frame, &mut out), Some(pieces.piece_len(i)));
            assert_eq!(out.split_off(pieces.piece_len(i)), [0xdd; 3], "nothing is written behind the piece");
            out
        })
        .collect()
}

/// Payload put together again, its first offset, and whether more follows.
fn reassemble(pieces: &[Vec<u8>], l3: usize) -> (usize, Vec<u8>, bool) {
    let (mut start, mut whole, mut more) = (None, Vec::new(), true);
    for piece in pieces {
        let net = Ipv4Slice::from_slice(&piece[l3..]).unwrap();
        let header = net.header();
        let offset = usize::from(header.fragments_offset().value()) * 8;
        let begin = *start.get_or_insert(offset);
        assert!(more, "a piece behind the last");
        assert_eq!(offset, begin + whole.len(), "contiguous");
        whole.extend(net.payload().payload);
        more = header.more_fragments();
        assert!(!more || whole.len().is_multiple_of(8));
    }
    (start.unwrap(), whole, more)
}

#[test]
fn lengths_at_the_usual_sizes() {
    // 1480 bytes of IP through an ipip path of MTU 1480, and one more.
    let fits = ethernet4(&V4::new(17).packet(&udp(&[0; 1452])));
    assert_eq!(cut(&fits, 1480), std::slice::from_ref(&fits), "a datagram that fits stays as it is");
    let frame = ethernet(&[0x8100], 0x0800, &V4::new(17).packet(&udp(&[0; 1453])));
    let pieces = cut(&frame, 1480);
    assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [18 + 20 + 1456, 18 + 20 + 5]);
    assert!(pieces.iter().all(|p| p[..18] == frame[..18]), "Ethernet and tags");
}

#[test]
fn only_copied_options_in_later_pieces() {
    let options = std::vec![7, 7, 4, 0, 0, 0, 0, 0x82, 5, 1, 2, 3, 1, 0x94, 4, 0, 0, 0, 0, 0];
    let frame = ethernet4(&V4 { options: options.clone(), ..V4::new(17) }.packet(&[0x55; 200]));
    let pieces = cut(&frame, 100);
    assert_eq!(pieces[0][14], 0x4a);
    assert_eq!(pieces[0][34..54], options);
    for piece in &pieces[1..] {
        assert_eq!(piece[14], 0x48);
        assert_eq!(piece[34..46], [0x82, 5, 1, 2, 3, 0x94, 4, 0, 0, 0, 0, 0]);
    }
}

#[test]
fn cannot_fragment() {
    let plan = |frame: &[u8], mtu| FragmentPlan::plan(&ip(frame), frame, mtu).map(|p| p.count());
    let whole = V4::new(17).packet(&udp(&[0; 1453]));
    let frame = ethernet4(&whole);
    assert_eq!(plan(&frame, 67), Err(CannotFragment::MtuTooSmall(67)));
    assert_eq!(plan(&frame, 68), Ok(31));
    let df = ethernet4(&V4 { flags: 0x4000, ..V4::new(17) }.packet(&udp(&[0; 1453])));
    assert_eq!(plan(&df, 1480), Err(CannotFragment::DontFragment));
    assert_eq!(plan(&ethernet6(&v6(17, 0, &udp(&[0; 1453]))), 1480), Err(CannotFragment::NotIpv4));
    let p = ip(&frame);
    assert_eq!(FragmentPlan::plan(&p, &frame[..100], 1480).unwrap_err(), CannotFragment::WrongFrame);
    let pieces = FragmentPlan::plan(&p, &frame, 1480).unwrap();
    assert_eq!(pieces.piece_len(2), 0);
    let mut out = [0; 1600];
    assert_eq!(pieces.write(2, &frame, &mut out), None);
    assert_eq!(pieces.write(0, &frame, &mut out[..pieces.piece_len(0) - 1]), None);
    assert_eq!(pieces.write(0, &frame[..30], &mut out), None);
}

proptest! {
    #[test]
    fn pieces_reassemble_to_the_original(
        options in arbitrary_options(),
        data in proptest::collection::vec(any::<u8>(), 1..4000),
        mtu in 68u16..1600,
        (id, reserved, tagged) in any::<(u16, bool, bool)>(),
        (offset, more) in (0u16..1000, any::<bool>()),
        padding in 0usize..20,
    ) {
        let data = if more { &data[..data.len() & !7] } else { &data[..] };
        prop_assume!(!data.is_empty());
        let flags = offset | if more { 0x2000 } else { 0 } | if reserved { 0x8000 } else { 0 };
        let original = V4 { options, id, flags, tos: 0x2e, ..V4::new(253) };
        let mut frame = ethernet(if tagged { &[0x88a8, 0x8100] } else { &[] }, 0x0800, &original.packet(data));
        frame.resize(frame.len() + padding, 0xee);
        let l3 = if tagged { 22 } else { 14 };
        let pieces = cut(&frame, mtu);
        for (i, piece) in pieces.iter().enumerate() {
            prop_assert!(piece.len() - l3 <= usize::from(mtu), "piece {} has {} bytes", i, piece.len() - l3);
            let p = ip(piece);
            prop_assert_eq!(usize::from(p.end), piece.len());
            prop_assert_eq!(naive_sum(&piece[l3..usize::from(p.l4)]), 0xffff);
            prop_assert_eq!((p.tos, p.tuple(piece)), (0x2e, ip(&frame).tuple(&frame)));
            prop_assert_eq!(&piece[l3 + 4..l3 + 6], &id.to_be_bytes());
            prop_assert_eq!(piece[l3 + 6] & 0xc0, if reserved { 0x80 } else { 0 });
            prop_assert_eq!(piece[l3 + 8], frame[l3 + 8], "TTL");
        }
        let (start, whole, more_follows) = reassemble(&pieces, l3);
        prop_assert_eq!((start, more_follows), (usize::from(offset) * 8, more));
        prop_assert_eq!(whole, data);
        // As few as possible: every piece but the last is full.
        for piece in &pieces[..pieces.len() - 1] {
            prop_assert!(piece.len() - l3 + 8 > usize::from(mtu));
        }
    }
}
