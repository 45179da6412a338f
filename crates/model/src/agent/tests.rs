use super::{
    AddressDigest, BackendReport, Claim, FRAME_MAX, FrameError, ToAgent, ToMachine, decode, digest, encode,
};
use std::net::{IpAddr, Ipv4Addr};

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 5));

fn claim(addresses: &AddressDigest) -> Claim<'_> {
    let (nonce, agent_nonce) = ("00", "11");
    Claim { nonce, machine: "lb1", agent: "host5", agent_nonce, incarnation: 7, addresses, service: "web" }
}

#[test]
fn a_proof_holds_for_its_claim_alone() {
    let (addresses, none) = (AddressDigest::of(&[HOST]), AddressDigest::of(&[]));
    let claim = claim(&addresses);
    let mac = claim.prove(b"secret");
    assert_eq!(mac.len(), 64);
    assert!(claim.is_proved(b"secret", &mac));
    assert!(!claim.is_proved(b"Secret", &mac));
    for other in [
        Claim { nonce: "01", ..claim },
        Claim { machine: "lb2", ..claim },
        Claim { agent: "host6", ..claim },
        Claim { agent_nonce: "12", ..claim },
        Claim { incarnation: 8, ..claim },
        Claim { addresses: &none, ..claim },
        Claim { service: "dns", ..claim },
    ] {
        assert!(!other.is_proved(b"secret", &mac), "{other:?}");
    }
    for bad in ["", "zz", &mac[..62], &format!("{mac}00"), &"é".repeat(32)] {
        assert!(!claim.is_proved(b"secret", bad));
    }
}

#[test]
fn frames_come_out_as_they_went_in_also_in_pieces() {
    let beat = ToMachine::Heartbeat { sequence: 3, digest: "0".repeat(16), loads: Vec::new() };
    let frame = encode(&beat).unwrap();
    let mut buffer = Vec::new();
    for byte in frame.iter().chain(&frame) {
        assert!(buffer.len() < frame.len());
        buffer.push(*byte);
        if buffer.len() < frame.len() {
            assert_eq!(decode::<ToMachine>(&mut buffer), Ok(None));
        } else {
            assert_eq!(decode::<ToMachine>(&mut buffer), Ok(Some(beat.clone())));
            assert!(buffer.is_empty());
        }
    }
}

#[test]
fn what_is_too_long_is_refused_by_its_length_alone() {
    let mut long = u32::try_from(FRAME_MAX + 1).unwrap().to_be_bytes().to_vec();
    assert_eq!(
        decode::<ToAgent>(&mut long),
        Err(FrameError::TooLong { length: FRAME_MAX + 1, max: FRAME_MAX })
    );
    assert_eq!(
        decode::<ToAgent>(&mut vec![0, 0, 0, 0]),
        Err(FrameError::TooLong { length: 0, max: FRAME_MAX })
    );
    let reason = "x".repeat(FRAME_MAX);
    let message = ToMachine::Report {
        sequence: 1,
        full: true,
        results: vec![BackendReport {
            service: "a".into(),
            backend: "b".into(),
            address: HOST,
            up: true,
            reason,
        }],
    };
    assert!(matches!(encode(&message), Err(FrameError::TooLong { .. })));
}

#[test]
fn what_is_no_message_is_refused() {
    for body in ["{}", "[]", "{\"type\":\"resync\",\"more\":1}", "{\"type\":\"hello\"}", "\u{0}"] {
        let mut frame = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
        frame.extend_from_slice(body.as_bytes());
        assert!(matches!(decode::<ToAgent>(&mut frame), Err(FrameError::Malformed(_))), "{body}");
    }
}

#[test]
fn a_digest_depends_on_what_is_said_and_not_on_its_order() {
    let of = |backend: &str, up| BackendReport {
        service: "web".into(),
        backend: backend.into(),
        address: HOST,
        up,
        reason: String::new(),
    };
    let (a, b) = (of("a", true), of("b", false));
    assert_eq!(digest([&a, &b]), digest([&b, &a]));
    assert_ne!(digest([&a, &b]), digest([&a]));
    assert_ne!(digest([&a, &of("b", true)]), digest([&a, &b]));
    assert_eq!(digest([&a, &BackendReport { reason: "slow".into(), ..b.clone() }]), digest([&a, &b]));
    assert_eq!(digest([]), 0xcbf2_9ce4_8422_2325);
}
