//! What makes a session out of a proved hello: keys that only who has the tokens can know, and frames that
//! prove it.
//!
//! Rule of this module: one key a direction and connection, one number a frame. So a frame is of this
//! connection, of that side and in that place, or it is none.
//!
//! A **sealed frame** is a length of four bytes, the frame's number of eight, its tag of [`TAG_BYTES`], then
//! JSON; numbers are big-endian, the length counts all behind it. The tag is HMAC-SHA-256 (RFC 2104) of
//! number and JSON.

use super::{FRAME_MAX, FrameError, HEAD_BYTES, body_of, encode, length_of};
use serde::{Deserialize, Serialize};

/// Bytes of a tag: SHA-256's.
pub const TAG_BYTES: usize = 32;
/// What a sealed frame has between its length and its JSON, bytes.
pub const SEAL_BYTES: usize = 8 + TAG_BYTES;

/// What one token adds to a session's keys ([`Claim::share()`](super::Claim::share)). It never travels.
#[derive(Clone, PartialEq, Eq)]
pub struct Share(pub(super) [u8; 32]);

impl std::fmt::Debug for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Share")
    }
}

/// The keys of one connection.
#[derive(Clone, Debug)]
pub struct SessionKeys {
    agent: ring::hmac::Key,
    machine: ring::hmac::Key,
}

struct KeyBytes;

impl ring::hkdf::KeyType for KeyBytes {
    fn len(&self) -> usize {
        32
    }
}

impl SessionKeys {
    /// HKDF (RFC 5869) with SHA-256: extracted from the shares of all services that were proved, in the order
    /// in which the machine names them, so that knowing some of the tokens is not enough; expanded once for
    /// each side. `None` without any share.
    pub fn of<'a>(shares: impl IntoIterator<Item = &'a Share>) -> Option<SessionKeys> {
        let secret: Vec<u8> = shares.into_iter().flat_map(|share| share.0).collect();
        if secret.is_empty() {
            return None;
        }
        let prk = ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, b"guideway-agent session").extract(&secret);
        let key = |side: &[u8]| {
            let mut bytes = [0; 32];
            prk.expand(&[side], KeyBytes).ok()?.fill(&mut bytes).ok()?;
            Some(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &bytes))
        };
        Some(SessionKeys { agent: key(b"agent")?, machine: key(b"machine")? })
    }

    /// The agent's side: from here on it seals, and opens what the machine seals.
    pub fn begin_agent(&self, sealer: &mut Sealer, opener: &mut Opener) {
        (sealer.key, opener.key) = (Some(self.agent.clone()), Some(self.machine.clone()));
    }

    /// The machine's side of it.
    pub fn begin_machine(&self, sealer: &mut Sealer, opener: &mut Opener) {
        (sealer.key, opener.key) = (Some(self.machine.clone()), Some(self.agent.clone()));
    }
}

/// Number and JSON, as they are authenticated.
fn authenticated(number: u64, body: &[u8]) -> Vec<u8> {
    [&number.to_be_bytes(), body].concat()
}

/// Makes frames: plain ones, and sealed ones once there is a key.
#[derive(Debug, Default)]
pub struct Sealer {
    key: Option<ring::hmac::Key>,
    sealed: u64,
}

impl Sealer {
    /// Whether there is a key.
    pub const fn is_sealing(&self) -> bool {
        self.key.is_some()
    }

    /// A message as a frame.
    ///
    /// # Errors
    /// Longer than [`FRAME_MAX`].
    pub fn encode<T: Serialize>(&mut self, message: &T) -> Result<Vec<u8>, FrameError> {
        let frame = encode(message)?;
        Ok(self.seal(frame))
    }

    /// Whole plain frames as what is to be sent of them. O(n).
    pub fn seal(&mut self, frames: Vec<u8>) -> Vec<u8> {
        let Some(key) = &self.key else { return frames };
        let mut sealed = Vec::with_capacity(frames.len() + SEAL_BYTES);
        let mut rest = frames.as_slice();
        while let Ok(Some(body)) = body_of(rest, FRAME_MAX) {
            self.sealed += 1;
            // A body is at most FRAME_MAX bytes, so its length fits.
            let length = u32::try_from(SEAL_BYTES + body.len()).unwrap_or(u32::MAX);
            let tag = ring::hmac::sign(key, &authenticated(self.sealed, body));
            sealed.extend_from_slice(&length.to_be_bytes());
            sealed.extend_from_slice(&self.sealed.to_be_bytes());
            sealed.extend_from_slice(tag.as_ref());
            sealed.extend_from_slice(body);
            rest = rest.get(4 + body.len()..).unwrap_or_default();
        }
        sealed
    }
}

/// Takes frames apart: plain ones, and only sealed ones once there is a key.
#[derive(Debug, Default)]
pub struct Opener {
    key: Option<ring::hmac::Key>,
    opened: u64,
}

impl Opener {
    /// Whether there is a key.
    pub const fn is_opening(&self) -> bool {
        self.key.is_some()
    }

    /// Longest message with what seals it, bytes.
    pub const fn frame_max(&self) -> usize {
        if self.key.is_some() { FRAME_MAX + SEAL_BYTES } else { FRAME_MAX }
    }

    /// Takes the first whole frame off `bytes`; `None`: there is none yet. What is too long is known by its
    /// length alone.
    ///
    /// # Errors
    /// Empty or too long; not sealed by the other side, or not the frame that is due; not a message.
    pub fn decode<T: for<'a> Deserialize<'a>>(
        &mut self,
        bytes: &mut Vec<u8>,
    ) -> Result<Option<T>, FrameError> {
        let Some(body) = body_of(bytes, self.frame_max())? else { return Ok(None) };
        let taken = HEAD_BYTES + body.len();
        let message = self.open(body)?;
        bytes.drain(..taken);
        Ok(Some(message))
    }

    /// The message of the next frame, of which `body` is what stands behind the length. O(n).
    ///
    /// # Errors
    /// Not sealed by the other side, or not the frame that is due; not a message.
    pub fn open<T: for<'a> Deserialize<'a>>(&mut self, body: &[u8]) -> Result<T, FrameError> {
        let body = match &self.key {
            None => body,
            Some(key) => {
                let (number, rest) = body.split_first_chunk::<8>().ok_or(FrameError::Tag)?;
                let (tag, body) = rest.split_first_chunk::<TAG_BYTES>().ok_or(FrameError::Tag)?;
                let number = u64::from_be_bytes(*number);
                ring::hmac::verify(key, &authenticated(number, body), tag).map_err(|_| FrameError::Tag)?;
                let due = self.opened + 1;
                if number != due {
                    return Err(FrameError::Number { got: number, due });
                }
                self.opened = due;
                body
            }
        };
        serde_json::from_slice(body).map_err(|error| FrameError::Malformed(error.to_string()))
    }

    /// Length of the first frame without the length itself, bytes; `None`: not even that is there yet.
    ///
    /// # Errors
    /// 0, or too long.
    pub fn length_of(&self, bytes: &[u8]) -> Result<Option<usize>, FrameError> {
        length_of(bytes, self.frame_max())
    }
}

#[cfg(test)]
mod tests;
