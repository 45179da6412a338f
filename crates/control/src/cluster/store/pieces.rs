//! Values that do not fit into one request to the store are kept in pieces: the value under its key then names them by their digests, and the
//! transaction that puts it holds only if all of them are there.
//!
//! Rule of this module: a value is read whole or not at all. Pieces belong to one key and never change; they are put before the value that
//! names them, and those that it does not name go with the transaction that puts it.

use crate::cluster::document::digest;
use crate::cluster::keys::{self, Key, digest_of, digest_text};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Largest value that is put as it is, bytes: a request to etcd may have 1.5 MiB.
pub(super) const WHOLE_MAX: usize = 1_400_000;
/// Bytes of a piece.
const PIECE_MAX: usize = 1_000_000;
/// How the value begins that stands for pieces. No other value of ours begins so.
const BEGIN: &[u8] = b"{\"pieces\":";
/// Between a key and the digest of a piece.
const BETWEEN: &str = "/pieces/";

/// What stands under the key of a value in pieces.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    /// Digests, in their order.
    pieces: Vec<String>,
    /// Length of the whole, bytes.
    bytes: usize,
}

/// A value as it is put.
pub(super) struct Cut {
    /// Under its key.
    pub(super) value: Vec<u8>,
    /// Its pieces, none if it is put as it is.
    pub(super) pieces: Vec<(u128, Vec<u8>)>,
}

impl Cut {
    /// Of a value.
    pub(super) fn new(value: Vec<u8>) -> Cut {
        if value.len() <= WHOLE_MAX {
            return Cut { value, pieces: Vec::new() };
        }
        let pieces: Vec<_> = value.chunks(PIECE_MAX).map(|piece| (digest(piece), piece.to_vec())).collect();
        let index = Index {
            pieces: pieces.iter().map(|(digest, _)| digest_text(*digest)).collect(),
            bytes: value.len(),
        };
        Cut { value: keys::bytes(&index), pieces }
    }
}

/// Key of a piece.
pub(super) fn key_text(of: Key, digest: u128) -> String {
    format!("{}{BETWEEN}{}", of.text(), digest_text(digest))
}

/// What a key of a piece stands for; `None`: it is none.
fn parse(text: &str) -> Option<(Key, u128)> {
    let (key, digest) = text.rsplit_once(BETWEEN)?;
    Some((Key::parse(key)?, digest_of(digest)?))
}

/// All pieces that the store has.
#[derive(Default)]
pub(super) struct Pieces {
    of: BTreeMap<Key, BTreeMap<u128, Vec<u8>>>,
}

impl Pieces {
    /// Takes in a key of the store if it is a piece's; `None`: it is gone. False: it is another key.
    pub(super) fn change(&mut self, key: &str, value: Option<&[u8]>) -> bool {
        let Some((key, name)) = parse(key) else { return false };
        match value {
            // What somebody has overwritten is as good as gone.
            Some(value) if digest(value) == name => self.add(key, name, value.to_vec()),
            _ => self.remove(key, name),
        }
        true
    }

    /// A piece is there.
    pub(super) fn add(&mut self, of: Key, name: u128, piece: Vec<u8>) {
        self.of.entry(of).or_default().insert(name, piece);
    }

    /// A piece is gone.
    pub(super) fn remove(&mut self, of: Key, name: u128) {
        if let Some(pieces) = self.of.get_mut(&of) {
            pieces.remove(&name);
            if pieces.is_empty() {
                self.of.remove(&of);
            }
        }
    }

    /// Whether a piece is there.
    pub(super) fn has(&self, of: Key, name: u128) -> bool {
        self.of.get(&of).is_some_and(|pieces| pieces.contains_key(&name))
    }

    /// Names of the pieces of a key that a value does not need.
    pub(super) fn stale(&self, of: Key, cut: &Cut) -> Vec<u128> {
        let needs = |name: &u128| cut.pieces.iter().any(|(needed, _)| needed == name);
        self.of.get(&of).into_iter().flat_map(BTreeMap::keys).filter(|name| !needs(name)).copied().collect()
    }

    /// A value from what stands under its key. One whose pieces are not all there stays as it is, and nobody can read it.
    pub(super) fn whole(&self, of: Key, value: &[u8]) -> Vec<u8> {
        self.joined(of, value).unwrap_or_else(|| value.to_vec())
    }

    fn joined(&self, of: Key, value: &[u8]) -> Option<Vec<u8>> {
        let index: Index = value.starts_with(BEGIN).then(|| serde_json::from_slice(value).ok()).flatten()?;
        let pieces = self.of.get(&of)?;
        let mut whole = Vec::new();
        for name in &index.pieces {
            whole.extend_from_slice(pieces.get(&digest_of(name)?)?);
            if whole.len() > index.bytes {
                return None;
            }
        }
        (whole.len() == index.bytes).then_some(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(length: usize) -> Vec<u8> {
        (0..length).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect()
    }

    /// Puts a value as the connection does.
    fn put(pieces: &mut Pieces, key: Key, cut: &Cut) {
        for (name, piece) in &cut.pieces {
            assert!(piece.len() <= WHOLE_MAX && pieces.change(&key_text(key, *name), Some(piece)));
        }
        for name in pieces.stale(key, cut) {
            assert!(pieces.change(&key_text(key, name), None));
        }
    }

    #[test]
    fn a_value_is_put_whole_or_in_pieces_and_read_as_it_was() {
        let mut pieces = Pieces::default();
        for length in [0, 9, WHOLE_MAX, WHOLE_MAX + 1, 2 * PIECE_MAX, 17_300_000, 3] {
            let cut = Cut::new(value(length));
            assert_eq!(cut.pieces.is_empty(), length <= WHOLE_MAX);
            assert!(cut.value.len() <= WHOLE_MAX);
            put(&mut pieces, Key::Plan, &cut);
            assert_eq!(pieces.whole(Key::Plan, &cut.value), value(length));
            let kept = pieces.of.get(&Key::Plan).map_or(0, BTreeMap::len);
            assert!(kept <= cut.pieces.len(), "what is not needed is gone");
        }
        assert!(pieces.of.is_empty());
    }

    #[test]
    fn what_lacks_a_piece_is_not_read() {
        let mut pieces = Pieces::default();
        let cut = Cut::new(value(3_000_000));
        put(&mut pieces, Key::Desired, &cut);
        assert_eq!(pieces.whole(Key::Plan, &cut.value), cut.value, "they are another key's");
        let key = key_text(Key::Desired, cut.pieces[1].0);
        for broken in [None, Some(&b"other"[..])] {
            assert!(pieces.change(&key, broken));
            assert_eq!(pieces.whole(Key::Desired, &cut.value), cut.value);
            assert!(pieces.change(&key, Some(&cut.pieces[1].1)));
            assert_eq!(pieces.whole(Key::Desired, &cut.value).len(), 3_000_000);
        }
        for index in
            [&br#"{"pieces":[],"bytes":1}"#[..], br#"{"pieces":["x"],"bytes":0}"#, br#"{"pieces":7}"#]
        {
            assert_eq!(pieces.whole(Key::Desired, index), index);
        }
    }

    /// Only what changes is put again: the end of a value, where its beginning stays.
    #[test]
    fn pieces_that_are_there_serve_the_next_value() {
        let mut longer = value(4_500_000);
        let cut = Cut::new(longer.clone());
        longer.extend_from_slice(b"more");
        let next = Cut::new(longer);
        let kept = next.pieces.iter().filter(|(name, _)| cut.pieces.iter().any(|(of, _)| of == name)).count();
        assert_eq!((kept, next.pieces.len()), (4, 5));
    }

    #[test]
    fn keys_of_pieces_are_nothing_to_those_who_know_none() {
        for key in [Key::Plan, Key::Desired, Key::Health(statesync::MachineId(3)), Key::Slots(5)] {
            let text = key_text(key, 7);
            assert_eq!((parse(&text), Key::parse(&text)), (Some((key, 7)), None));
            assert_eq!(parse(&key.text()), None);
        }
    }

    proptest! {
        /// Whatever somebody writes: nothing panics, and what is read is as long as was said.
        #[test]
        fn any_value(value: Vec<u8>, key in "/guideway/v1/(plan|wish|slots/[0-9a-f]{32})/pieces/[0-9a-f]{0,33}") {
            let mut pieces = Pieces::default();
            pieces.change(&key, Some(&value));
            prop_assert_eq!(pieces.whole(Key::Plan, &value), value);
        }
    }
}
