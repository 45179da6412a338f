use super::{
    Body, ClusterKeys, DatagramWriter, HEADER_LEN, Header, NOTE_LEN_MAX, Piece, SealedDatagram, Unreadable,
    read, write_piece,
};
use crate::members::{MachineId, Member};
use crate::note::{Answer, Lasting, Note, Origin, Question, Sequence, Statement, Why};
use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use wire::key::WideKey;
use wire::{BackendId, CoreId, FlowKey, Tick};

const KEY: [u8; 16] = *b"0123456789abcdef";

fn keys() -> impl Strategy<Value = FlowKey> {
    prop_oneof![
        any::<(u64, u16)>().prop_map(|(key, service)| FlowKey::Narrow(key << 16 | u64::from(service.max(1)))),
        any::<(u64, u64, u64, u16)>().prop_map(|(a, b, middle, dport)| {
            FlowKey::Wide(WideKey { src: [a, b], middle: middle | 1 << 32, dport })
        }),
    ]
}

fn notes() -> impl Strategy<Value = Note> {
    let backends = || (0..=BackendId::MAX).prop_map(BackendId);
    prop_oneof![
        proptest::strategy::Just(Note::Heartbeat),
        (any::<u64>(), keys(), backends(), any::<bool>(), any::<u64>(), 0_usize..4).prop_map(
            |(sequence, key, backend, guess, age_us, why)| {
                let statement = Statement { key, backend, guess, age_us, why: Why::ALL[why] };
                Note::Lasting(Sequence(sequence), Lasting::State(statement))
            }
        ),
        (any::<u64>(), keys(), backends()).prop_map(|(sequence, key, backend)| {
            Note::Lasting(Sequence(sequence), Lasting::Push { key, backend })
        }),
        any::<(u64, u8)>().prop_map(|(sequence, core)| Note::Acknowledge {
            sequence: Sequence(sequence),
            core: CoreId(core)
        }),
        (keys(), backends(), any::<bool>(), any::<u64>(), any::<u8>()).prop_map(
            |(key, backend, guess, asked_us, core)| {
                Note::Answer(Answer { key, backend, guess, asked_us, core: CoreId(core) })
            }
        ),
    ]
}

fn headers() -> impl Strategy<Value = Header> {
    any::<(u8, u32, u8, u8, u32, u32, u64, u64)>().prop_map(|(m, i, core, to, ti, epoch, sent, number)| {
        Header {
            from: Origin { member: Member { machine: MachineId(m), incarnation: i }, core: CoreId(core) },
            to: Member { machine: MachineId(to), incarnation: ti },
            epoch,
            sent: Tick(sent),
            number,
        }
    })
}

proptest! {
    #[test]
    fn notes_come_back_as_they_were(header in headers(), said in prop::collection::vec(notes(), 0..60), room in HEADER_LEN..1472) {
        let mut bytes = vec![0xee; room];
        let mut writer = DatagramWriter::notes(&mut bytes, &header).expect("room for a header");
        let fits = said.iter().take_while(|note| writer.note(note)).count();
        prop_assert_eq!(writer.is_empty(), fits == 0);
        let len = writer.finish(&KEY);
        prop_assert!(fits == said.len() || room - len < NOTE_LEN_MAX);
        let (found, body) = read(&bytes[..len], &KEY).expect("a datagram");
        prop_assert_eq!(found, header);
        let Body::Notes(mut notes) = body else { panic!("no notes") };
        let heard: Vec<Note> = notes.by_ref().collect();
        prop_assert!(!notes.is_malformed());
        prop_assert_eq!(heard, &said[..fits]);
    }

    #[test]
    fn pieces_come_back_as_they_were(
        header in headers(), question in any::<(u8, u8, u64, u8)>(), frame in any::<u32>(),
        bytes in prop::collection::vec(any::<u8>(), 1..1_390), offset in 0_u16..9_000,
    ) {
        let (machine, core, asked_us, hops) = question;
        let question = Question { machine: MachineId(machine), core: CoreId(core), asked_us, hops };
        let total = offset + u16::try_from(bytes.len()).expect("short");
        let piece = Piece { question, frame, offset, total, bytes: &bytes };
        let mut room = vec![0; 1_472];
        let len = write_piece(&mut room, &header, &piece, &KEY).expect("it fits");
        let (found, body) = read(&room[..len], &KEY).expect("a datagram");
        let Body::Piece(found_piece) = body else { panic!("no piece") };
        prop_assert_eq!((found, found_piece), (header, piece));
    }

    /// Whatever was changed on the way is refused, and nothing panics.
    #[test]
    fn a_changed_datagram_is_refused(
        header in headers(), said in prop::collection::vec(notes(), 1..9), at in any::<prop::sample::Index>(), flip in 1_u8..,
    ) {
        let mut bytes = vec![0; 1_472];
        let mut writer = DatagramWriter::notes(&mut bytes, &header).expect("room");
        prop_assert!(said.iter().all(|note| writer.note(note)));
        let len = writer.finish(&KEY);
        bytes.truncate(len);
        prop_assert_eq!(read(&bytes, &[0; 16]).err(), Some(Unreadable::Header));
        let at = at.index(len);
        bytes[at] ^= flip;
        prop_assert!(read(&bytes, &KEY).is_err(), "byte {}", at);
        bytes[at] ^= flip;
        for cut in [0, 1, HEADER_LEN - 1, len - 1] {
            prop_assert!(read(&bytes[..cut], &KEY).is_err());
        }
    }

    /// A body that is properly tagged, of any bytes: the decoder gives notes or stops.
    #[test]
    fn any_body_is_read_or_refused(header in headers(), body in prop::collection::vec(any::<u8>(), 0..300), kind in any::<bool>()) {
        let mut bytes = vec![0; HEADER_LEN + body.len()];
        let mut writer = DatagramWriter::begin(&mut bytes, &header, if kind { 1 } else { 2 }).expect("room");
        prop_assert!(writer.put(&body).is_some());
        let len = writer.finish(&KEY);
        match read(&bytes[..len], &KEY) {
            Ok((_, Body::Notes(mut notes))) => {
                let heard = notes.by_ref().count();
                prop_assert!(heard <= body.len());
                prop_assert!(notes.is_malformed() || !body.is_empty() || heard == 0);
            }
            Ok((_, Body::Piece(piece))) => prop_assert!(!piece.bytes.is_empty()),
            Err(why) => prop_assert_eq!(why, Unreadable::Malformed),
        }
    }
}

fn heartbeat(key: &[u8; 16]) -> (Header, Vec<u8>) {
    let header = Header { number: 7, sent: Tick(8), ..Header::default() };
    let mut bytes = vec![0; 1_472];
    let mut writer = DatagramWriter::notes(&mut bytes, &header).expect("room for a header");
    assert!(writer.note(&Note::Heartbeat));
    let len = writer.finish(key);
    bytes.truncate(len);
    (header, bytes)
}

/// Claims are read without a key; with the wrong one not even the header is proved, whatever is behind it.
#[test]
fn a_header_is_proved_before_the_whole_is_hashed() {
    let (header, mut bytes) = heartbeat(&KEY);
    let keys = |own: &[u8; 16]| ClusterKeys { own: *own, accepted: None };
    let sealed = SealedDatagram::read(&bytes).expect("a datagram");
    assert_eq!(*sealed.header(), header);
    assert!(sealed.prove(&keys(&[0; 16])).is_none());
    assert!(sealed.prove(&keys(&KEY)).is_some_and(|proved| proved.open().is_ok()));
    // Another body behind a header that was captured.
    let last = bytes.len() - 1;
    bytes[last] = 5;
    let sealed = SealedDatagram::read(&bytes).expect("a datagram");
    assert_eq!(sealed.prove(&keys(&KEY)).map(|proved| proved.open().err()), Some(Some(Unreadable::Tag)));
}

/// A cluster changes its key in three steps, each of them machine by machine, and every machine takes what every other says.
#[test]
fn keys_change_and_nobody_is_shut_out() {
    let (old, new) = ([1; 16], [2; 16]);
    let steps = [
        ClusterKeys { own: old, accepted: None },
        ClusterKeys { own: old, accepted: Some(new) },
        ClusterKeys { own: new, accepted: Some(old) },
        ClusterKeys { own: new, accepted: None },
    ];
    let hears = |receiver: &ClusterKeys, sender: &ClusterKeys| {
        let (_, bytes) = heartbeat(&sender.own);
        let sealed = SealedDatagram::read(&bytes).expect("a datagram");
        sealed.prove(receiver).is_some_and(|proved| proved.open().is_ok())
    };
    for pair in steps.windows(2) {
        for (receiver, sender) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            assert!(hears(&pair[receiver], &pair[sender]));
        }
    }
    assert!(!hears(&steps[3], &steps[0]) && !hears(&steps[0], &steps[3]));
    assert!(!format!("{:?}", steps[0]).contains('1'), "keys are shown nowhere");
}
