//! What takes messages off a connection's bytes: a decoder of tokio-util's.

use super::seal::Opener;
use super::{FrameError, HEAD_BYTES};
use serde::de::DeserializeOwned;
use std::io;
use std::marker::PhantomData;
use tokio_util::bytes::{Buf as _, BytesMut};
use tokio_util::codec::Decoder;

/// Room for what is read of a connection on which little is said, bytes.
pub const ROOM_BYTES: usize = 4096;

/// Decodes messages. Room is made for a frame when its length is known and allowed, and is given back behind
/// a long one.
#[derive(Debug)]
pub struct Messages<T> {
    /// Opens frames: plain ones until it gets keys.
    pub opener: Opener,
    /// Bytes of the last frame.
    pub last_bytes: usize,
    messages: PhantomData<fn() -> T>,
}

impl<T> Messages<T> {
    /// Of frames that `opener` can open.
    pub const fn new(opener: Opener) -> Messages<T> {
        Messages { opener, last_bytes: 0, messages: PhantomData }
    }
}

impl<T: DeserializeOwned> Decoder for Messages<T> {
    type Item = T;
    type Error = ReadError;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<T>, ReadError> {
        let Some(length) = self.opener.length_of(bytes)? else { return Ok(None) };
        let whole = HEAD_BYTES + length;
        let Some(body) = bytes.get(HEAD_BYTES..whole) else {
            bytes.reserve(whole - bytes.len());
            return Ok(None);
        };
        let message = self.opener.open(body)?;
        self.last_bytes = whole;
        bytes.advance(whole);
        if bytes.is_empty() && whole > ROOM_BYTES {
            *bytes = BytesMut::with_capacity(ROOM_BYTES);
        }
        Ok(Some(message))
    }

    fn decode_eof(&mut self, bytes: &mut BytesMut) -> Result<Option<T>, ReadError> {
        match self.decode(bytes)? {
            None if !bytes.is_empty() => {
                let kind = io::ErrorKind::UnexpectedEof;
                Err(io::Error::new(kind, "closed in the middle of a message").into())
            }
            message => Ok(message),
        }
    }
}

/// Why no message came.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The connection failed, or has ended in the middle of a frame.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What was read is no frame, or no message.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

#[cfg(test)]
mod tests {
    use super::super::{BackendReport, FRAME_MAX, ToMachine, encode};
    use super::*;

    fn report(reason_bytes: usize) -> ToMachine {
        let reason = "x".repeat(reason_bytes);
        let (service, backend) = ("web".to_owned(), "b".to_owned());
        let result = BackendReport { service, backend, address: [10, 0, 0, 1].into(), up: true, reason };
        ToMachine::Report { sequence: 1, full: true, results: vec![result] }
    }

    #[test]
    fn room_is_made_for_allowed_lengths_only_and_given_back() {
        let mut messages = Messages::<ToMachine>::new(Opener::default());
        let too_long = u32::try_from(FRAME_MAX + 1).unwrap().to_be_bytes();
        let mut bytes = BytesMut::from(&too_long[..]);
        let before = bytes.capacity();
        let refused = messages.decode(&mut bytes);
        assert!(matches!(refused, Err(ReadError::Frame(FrameError::TooLong { .. }))), "{refused:?}");
        assert_eq!(bytes.capacity(), before);

        let frame = encode(&report(100_000)).unwrap();
        let mut bytes = BytesMut::from(&frame[..HEAD_BYTES]);
        assert!(matches!(messages.decode(&mut bytes), Ok(None)));
        assert!((frame.len()..2 * frame.len()).contains(&bytes.capacity()), "{}", bytes.capacity());
        bytes.extend_from_slice(&frame[HEAD_BYTES..]);
        assert_eq!(messages.decode(&mut bytes).unwrap(), Some(report(100_000)));
        assert_eq!((messages.last_bytes, bytes.capacity()), (frame.len(), ROOM_BYTES));
    }

    #[test]
    fn frames_come_whole_however_they_are_cut() {
        let frames = [encode(&report(1)).unwrap(), encode(&report(2)).unwrap()].concat();
        for cut in 0..=frames.len() {
            let mut messages = Messages::<ToMachine>::new(Opener::default());
            let (mut bytes, mut heard) = (BytesMut::new(), Vec::new());
            for piece in [&frames[..cut], &frames[cut..]] {
                bytes.extend_from_slice(piece);
                while let Some(message) = messages.decode(&mut bytes).unwrap() {
                    heard.push(message);
                }
            }
            assert_eq!(heard, [report(1), report(2)], "{cut}");
            assert!(matches!(messages.decode_eof(&mut bytes), Ok(None)));
        }
        let mut half = BytesMut::from(&frames[..5]);
        let end = Messages::<ToMachine>::new(Opener::default()).decode_eof(&mut half);
        assert!(end.unwrap_err().to_string().contains("in the middle"));
    }
}
