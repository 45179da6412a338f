//! Every interleaving, and every order of memory accesses that the memory model allows, of one writer and one
//! reader. Run: `RUSTFLAGS="--cfg loom" cargo test -p flow --release --lib loom`. What fails when an ordering is
//! taken away is listed in `LOOM.md`, and tried by `loom-mutants.sh`.

use crate::ageing::Idle;
use crate::bucket::{Line, NarrowBucket, WideBucket};
use crate::cells::{Cells, Pair, place};
use crate::hash::Hasher;
use crate::insert::Insert;
use crate::memory::Memory;
use crate::state::{State, TimingSet, Word};
use crate::table::Table;
use loom::sync::Arc;
use loom::thread;
use wire::key::WideKey;
use wire::{BackendId, FlowKey, Tick};

/// A value that belongs to the key and to nothing else.
fn word(backend: u32) -> Word {
    Word::new(BackendId(backend), State::Udp, TimingSet::default(), 0)
}

fn backend(found: Option<Word>) -> Option<u32> {
    found.map(|word| word.backend().0)
}

/// Cells of two buckets. The pair of every key is (0, 1) or (1, 0).
fn cells<B: Line>() -> Cells<B> {
    Cells::new(Memory::Shared((0..2).map(|_| B::default()).collect()), Hasher::new(0))
}

/// Runs a writer beside a reader on the same cells, after `before` has been done.
fn beside<B: Line>(before: fn(&Cells<B>), writer: fn(&Cells<B>), reader: fn(&Cells<B>)) {
    loom::model(move || {
        let cells = Arc::new(cells::<B>());
        before(&cells);
        let written = Arc::clone(&cells);
        let writing = thread::spawn(move || writer(&written));
        reader(&cells);
        assert!(writing.join().is_ok());
    });
}

const A: u64 = 0x0a00_0001_9c40_0001;
const B: u64 = 0x0a00_0002_9c40_0001;

#[test]
fn loom_insert_is_seen_whole() {
    beside::<NarrowBucket>(
        |_| {},
        |cells| cells.bucket(0).fill(2, A, word(1)),
        |cells| {
            if let Ok(found) = cells.read_in(A, Pair(0, 1)) {
                assert!(matches!(backend(found.map(|(_, word)| word)), None | Some(1)));
            }
        },
    );
}

#[test]
fn loom_replaced_entry_is_never_mixed() {
    beside::<NarrowBucket>(
        |cells| cells.bucket(0).fill(0, A, word(1)),
        |cells| cells.bucket(0).fill(0, B, word(2)),
        |cells| {
            if let Ok(found) = cells.read_in(B, Pair(0, 1)) {
                assert!(matches!(backend(found.map(|(_, word)| word)), None | Some(2)));
            }
            if let Ok(found) = cells.read_in(A, Pair(0, 1)) {
                assert!(matches!(backend(found.map(|(_, word)| word)), None | Some(1)));
            }
        },
    );
}

#[test]
fn loom_removed_slot_used_again_is_never_mixed() {
    beside::<NarrowBucket>(
        |cells| cells.bucket(0).fill(0, A, word(1)),
        |cells| {
            cells.bucket(0).empty(1);
            cells.bucket(0).fill(0, B, word(2));
        },
        |cells| {
            if let Ok(found) = cells.read_in(A, Pair(0, 1)) {
                assert!(matches!(backend(found.map(|(_, word)| word)), None | Some(1)));
            }
        },
    );
}

#[test]
fn loom_value_of_a_later_key_is_not_seen_with_the_former() {
    // The value alone changes outside the lock, after the key was replaced inside it.
    beside::<NarrowBucket>(
        |cells| cells.bucket(0).fill(0, A, word(1)),
        |cells| {
            cells.bucket(0).store_word(0, word(11));
            cells.bucket(0).fill(0, B, word(2));
            cells.bucket(0).store_word(0, word(12));
        },
        |cells| {
            if let Ok(found) = cells.read_in(A, Pair(0, 1)) {
                assert!(matches!(backend(found.map(|(_, word)| word)), None | Some(1 | 11)));
            }
        },
    );
}

#[test]
fn loom_filter_beside_the_version_keeps_the_lock() {
    // The filter and the version share a word: who sees the newer filter must see the change before it, too.
    beside::<NarrowBucket>(
        |cells| cells.bucket(0).fill(0, A, word(1)),
        |cells| {
            cells.bucket(0).fill(0, B, word(2));
            cells.bucket(0).overflowed(3);
        },
        |cells| {
            if let Ok(found) = cells.read_in(B, Pair(0, 1)) {
                assert!(matches!(backend(found.map(|(_, word)| word)), None | Some(2)));
            }
        },
    );
}

const WIDE_A: WideKey = WideKey { src: [1, 2], middle: 0x9c40_0002_0000_0001, dport: 80 };
/// As like A as can be: one word and the port differ.
const WIDE_B: WideKey = WideKey { src: [1, 3], middle: 0x9c40_0002_0000_0001, dport: 443 };

/// One reading of the bucket in which A is replaced by B; two are explored apart, or it takes hours.
fn beside_wide(reading: fn(&WideBucket)) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let bucket = Arc::new(WideBucket::default());
        bucket.fill(1, WIDE_A, word(1));
        let written = Arc::clone(&bucket);
        let writing = thread::spawn(move || written.fill(1, WIDE_B, word(2)));
        reading(&bucket);
        assert!(writing.join().is_ok());
    });
}

#[test]
fn loom_wide_key_is_read_whole() {
    beside_wide(|bucket| {
        if let Some((entry, _)) = bucket.read(|| (bucket.key(1), bucket.word(1).backend().0)) {
            assert!(entry == (Some(WIDE_A), 1) || entry == (Some(WIDE_B), 2), "{entry:?}");
        }
    });
}

#[test]
fn loom_mixture_of_wide_keys_is_never_found() {
    beside_wide(|bucket| {
        let mixed = WideKey { dport: 443, ..WIDE_A };
        assert!(!matches!(bucket.read(|| bucket.position(mixed)), Some((Some(_), _))));
    });
    beside_wide(|bucket| {
        let mixed = WideKey { dport: 80, ..WIDE_B };
        assert!(!matches!(bucket.read(|| bucket.position(mixed)), Some((Some(_), _))));
    });
}

/// The move at the end of a chain: A goes to the other bucket, B takes its slot.
fn moves(cells: &Cells<NarrowBucket>) {
    cells.duplicate(place(1, 0), place(0, 3));
    cells.bucket(1).fill(0, B, word(2));
}

#[test]
fn loom_moving_entry_is_never_missed() {
    // The reader comes to the new bucket first: the dangerous direction.
    beside::<NarrowBucket>(
        |cells| cells.bucket(1).fill(0, A, word(1)),
        moves,
        |cells| {
            if let Ok(found) = cells.read_in(A, Pair(0, 1)) {
                assert_eq!(backend(found.map(|(_, word)| word)), Some(1));
            }
        },
    );
}

#[test]
fn loom_moving_entry_is_never_missed_from_the_other_side() {
    beside::<NarrowBucket>(
        |cells| cells.bucket(1).fill(0, A, word(1)),
        moves,
        |cells| {
            if let Ok(found) = cells.read_in(A, Pair(1, 0)) {
                assert_eq!(backend(found.map(|(_, word)| word)), Some(1));
            }
        },
    );
}

#[test]
fn loom_entry_that_moves_and_moves_back_is_never_missed() {
    let mut model = loom::model::Builder::new();
    // Two moves are long; a reader that is interrupted three times meets every stage of them.
    model.preemption_bound = Some(3);
    model.check(|| {
        let cells = Arc::new(cells::<NarrowBucket>());
        cells.bucket(1).fill(0, A, word(1));
        let written = Arc::clone(&cells);
        let writing = thread::spawn(move || {
            moves(&written);
            written.duplicate(place(0, 3), place(1, 1));
            written.bucket(0).empty(1 << 3);
        });
        if let Ok(found) = cells.read_in(A, Pair(0, 1)) {
            assert_eq!(backend(found.map(|(_, word)| word)), Some(1));
        }
        assert!(writing.join().is_ok());
    });
}

#[test]
fn loom_table_with_a_reader() {
    // The real table: insert, use, remove, insert another, beside a reader of both keys.
    const IDLE: Idle = Idle {
        tcp_established_us: 60_000_000,
        tcp_closing_us: 60_000_000,
        syn_us: 60_000_000,
        udp_us: 60_000_000,
    };
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let narrow = Memory::Shared((0..2).map(|_| NarrowBucket::default()).collect());
        let wide = Memory::Shared((0..2).map(|_| WideBucket::default()).collect());
        let Ok(mut table) = Table::new(narrow, wide, 0, IDLE, 100) else { unreachable!() };
        let (a, b, now) = (FlowKey::Narrow(A), FlowKey::Narrow(B), Tick(0));
        table.insert(&a, BackendId(1), State::UdpNew, now);
        let reader = table.reader();
        let writing = thread::spawn(move || {
            let Some(hit) = table.get(&a, now) else { unreachable!() };
            table.touch(&a, &hit, State::Udp, now);
            assert!(table.remove(&a).is_some());
            assert_eq!(table.insert(&b, BackendId(2), State::Udp, now).outcome, Insert::Done);
        });
        for (key, expected) in [(a, 1), (b, 2)] {
            if let Some(hit) = reader.get(&key, now) {
                assert_eq!(hit.backend, BackendId(expected));
            }
        }
        assert!(writing.join().is_ok());
        assert_eq!(reader.get(&b, now).map(|hit| hit.backend), Some(BackendId(2)));
        assert_eq!(reader.get(&a, now), None);
    });
}
