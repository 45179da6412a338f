use super::*;
use crate::agent::{AddressDigest, Claim, ToAgent, ToMachine, decode};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr};

fn share(service: &str, token: &[u8]) -> Share {
    let addresses = AddressDigest::of(&[IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    let claim = Claim {
        nonce: "00",
        machine: "lb1",
        agent: "host5",
        agent_nonce: "11",
        incarnation: 7,
        addresses: &addresses,
        service,
    };
    claim.share(token)
}

/// Agent and machine of one session.
fn both() -> ((Sealer, Opener), (Sealer, Opener)) {
    let keys = SessionKeys::of([&share("web", b"secret")]).unwrap();
    let (mut agent, mut machine) = <((Sealer, Opener), (Sealer, Opener))>::default();
    keys.begin_agent(&mut agent.0, &mut agent.1);
    keys.begin_machine(&mut machine.0, &mut machine.1);
    (agent, machine)
}

fn beat(sequence: u64) -> ToMachine {
    ToMachine::Heartbeat { sequence, digest: "0".repeat(16), loads: Vec::new() }
}

#[test]
fn both_sides_understand_each_other_in_order_and_in_pieces() {
    let ((mut to_machine, mut from_machine), (mut to_agent, mut from_agent)) = both();
    let plain: Vec<u8> = (1..=3).flat_map(|n| encode(&beat(n)).unwrap()).collect();
    let sealed = to_machine.seal(plain);
    let mut bytes = Vec::new();
    let mut heard = Vec::new();
    for byte in sealed {
        bytes.push(byte);
        heard.extend(from_agent.decode::<ToMachine>(&mut bytes).unwrap());
    }
    assert_eq!(heard, [beat(1), beat(2), beat(3)]);
    assert!(bytes.is_empty());
    let mut bytes = to_agent.encode(&ToAgent::Resync {}).unwrap();
    assert_eq!(from_machine.decode(&mut bytes), Ok(Some(ToAgent::Resync {})));
    // The longest message goes through sealed, too.
    let reason = "x".repeat(FRAME_MAX - 200);
    let long = ToAgent::Refused {
        service: None,
        backend: None,
        code: crate::agent::RefusalCode::Limit,
        reason,
        help: String::new(),
    };
    let mut bytes = to_agent.encode(&long).unwrap();
    assert!(bytes.len() > FRAME_MAX - 200 + SEAL_BYTES);
    assert_eq!(from_machine.decode(&mut bytes), Ok(Some(long)));
}

#[test]
fn without_a_key_frames_are_plain_and_with_one_plain_frames_are_none() {
    let (mut sealer, mut opener) = (Sealer::default(), Opener::default());
    let mut bytes = sealer.encode(&beat(1)).unwrap();
    assert_eq!(bytes, encode(&beat(1)).unwrap());
    assert_eq!(opener.decode(&mut bytes), Ok(Some(beat(1))));
    let ((mut to_machine, _), (_, mut from_agent)) = both();
    assert_eq!(from_agent.decode::<ToMachine>(&mut encode(&beat(1)).unwrap()), Err(FrameError::Tag));
    assert_eq!(from_agent.decode::<ToMachine>(&mut vec![0, 0, 0, 3, 1, 2, 3]), Err(FrameError::Tag));
    assert!(decode::<ToMachine>(&mut to_machine.encode(&beat(1)).unwrap()).is_err());
}

#[test]
fn what_is_repeated_left_out_or_turned_around_is_refused_by_name() {
    let ((mut to_machine, mut from_machine), (_, mut from_agent)) = both();
    let frames: Vec<Vec<u8>> = (1..=3).map(|n| to_machine.encode(&beat(n)).unwrap()).collect();
    assert_eq!(from_agent.decode(&mut frames[0].clone()), Ok(Some(beat(1))));
    let repeated = from_agent.decode::<ToMachine>(&mut frames[0].clone());
    assert_eq!(repeated, Err(FrameError::Number { got: 1, due: 2 }));
    let early = from_agent.decode::<ToMachine>(&mut frames[2].clone());
    assert_eq!(early, Err(FrameError::Number { got: 3, due: 2 }));
    assert_eq!(early.unwrap_err().to_string(), "message 3 came where 2 is due");
    // What the agent said is not what the machine says.
    assert_eq!(from_machine.decode::<ToMachine>(&mut frames[0].clone()), Err(FrameError::Tag));
}

#[test]
fn keys_are_those_of_all_shares_in_their_order() {
    let (web, db) = (share("web", b"secret"), share("db", b"other secret"));
    assert!(SessionKeys::of([]).is_none());
    let frame = |shares: &[&Share]| {
        let (mut sealer, mut opener) = Default::default();
        SessionKeys::of(shares.iter().copied()).unwrap().begin_agent(&mut sealer, &mut opener);
        sealer.encode(&beat(1)).unwrap()
    };
    let all = frame(&[&web, &db]);
    assert_eq!(all, frame(&[&web, &db]));
    for others in [&[&web][..], &[&db], &[&db, &web], &[&web, &share("db", b"another secret")]] {
        assert_ne!(all, frame(others));
    }
    // A share is of its claim, like a proof, and is no proof.
    assert_ne!(web, share("db", b"secret"));
    assert_eq!(format!("{web:?}"), "Share");
}

/// Of the session in docs/agents.md: whoever writes another agent can compare.
#[test]
fn the_worked_example_of_the_documents() {
    let ((mut to_machine, _), _) = both();
    let frame = to_machine.encode(&ToMachine::Deregister {
        service: "web".to_owned(),
        backend: "b1".to_owned(),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
    });
    let text: String = frame.unwrap()[..4 + SEAL_BYTES].iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = "0000007200000000000000013cfa2c552ad7de9fd84200eeb8161177d5763fac4163abc15281dc98100d1702";
    assert_eq!(text, expected);
    let documents = include_str!("../../../../../docs/agents.md");
    assert!(documents.contains(expected), "docs/agents.md has another one");
}

proptest! {
    #[test]
    fn one_changed_byte_is_never_a_message(at: prop::sample::Index, change in 1_u8..) {
        let ((mut to_machine, _), (_, mut from_agent)) = both();
        let mut frame = to_machine.encode(&beat(1)).unwrap();
        let at = at.index(frame.len());
        frame[at] ^= change;
        // A longer length waits for what does not come.
        let heard = from_agent.decode::<ToMachine>(&mut frame);
        prop_assert!(!matches!(heard, Ok(Some(_))), "{heard:?}");
        prop_assert!(heard.is_err() || at < 4);
    }
}
