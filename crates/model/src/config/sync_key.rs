//! The keys of the tags of messages between machines, made of the secrets in the configuration.
//!
//! A secret is not used as it is: where `cluster_key` is the secret, it is also the key of the slots' hash,
//! and what is learned of the one use must be of no help against the other.

use super::Cluster;

/// What a key is for (RFC 5869 section 3.2, "info").
const LABEL: &[u8] = b"guideway state-sync tag";

impl Cluster {
    /// The key of this machine's tags, and another one whose tags are taken.
    pub fn tag_keys(&self) -> ([u8; 16], Option<[u8; 16]>) {
        (derived(&self.sync_key), self.sync_key_accepted.as_ref().map(derived))
    }
}

/// The first 16 bytes of HKDF-Expand with SHA-256 (RFC 5869 section 2.3), of one block: HMAC(secret, label |
/// 0x01). The secret is random already, so there is nothing to extract (section 3.3).
fn derived(secret: &[u8; 16]) -> [u8; 16] {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    let mut context = ring::hmac::Context::with_key(&key);
    context.update(LABEL);
    context.update(&[1]);
    let tag = context.sign();
    let mut derived = [0; 16];
    for (to, from) in derived.iter_mut().zip(tag.as_ref()) {
        *to = *from;
    }
    derived
}

#[cfg(test)]
mod tests {
    use super::{LABEL, derived};

    /// All machines must derive the same, of every version: a change is a change of protocol.
    #[test]
    fn a_key_is_what_hkdf_expands() {
        struct Length;
        impl ring::hkdf::KeyType for Length {
            fn len(&self) -> usize {
                16
            }
        }
        for secret in [[0; 16], *b"0123456789abcdef"] {
            let secret_key = ring::hkdf::Prk::new_less_safe(ring::hkdf::HKDF_SHA256, &secret);
            let mut expected = [0; 16];
            secret_key.expand(&[LABEL], Length).unwrap().fill(&mut expected).unwrap();
            assert_eq!(derived(&secret), expected);
            assert_ne!(derived(&secret), secret);
        }
    }
}
