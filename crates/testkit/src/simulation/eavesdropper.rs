//! Who listens between machines remembers what he has heard, to send it again.

use super::random::Random;

/// Datagrams that he remembers; beyond, he forgets any.
const REMEMBERED: usize = 4096;
/// The latest, which are the ones most like those that are awaited.
const LATEST: usize = 32;
/// A datagram from a machine to another.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) frame: Vec<u8>,
}

/// What was heard.
#[derive(Debug)]
pub(super) struct Eavesdropper {
    pub(super) random: Random,
    heard: Vec<Heard>,
    /// The last ones of each machine, any of which may be in place of others soon.
    latest: Vec<Heard>,
}

impl Eavesdropper {
    pub(super) fn new(seed: u64) -> Eavesdropper {
        Eavesdropper { random: Random::new(seed ^ 0x11_57e2), heard: Vec::new(), latest: Vec::new() }
    }

    /// A machine sends another a datagram.
    pub(super) fn hear(&mut self, from: usize, to: usize, frame: &[u8]) {
        let heard = Heard { from, to, frame: frame.to_vec() };
        let of_it = self.latest.iter().filter(|of| of.from == from).count();
        if of_it >= LATEST
            && let Some(oldest) = self.latest.iter().position(|of| of.from == from)
        {
            self.latest.remove(oldest);
        }
        self.latest.push(heard.clone());
        if self.heard.len() < REMEMBERED {
            self.heard.push(heard);
        } else {
            let at = self.random.below(REMEMBERED as u64) as usize;
            self.heard[at] = heard;
        }
    }

    /// One of all, of the latest, or of the last words of a machine that is dead.
    pub(super) fn choose(&mut self, is_dead: impl Fn(usize) -> bool) -> Option<Heard> {
        let last_words: Vec<&Heard> = self.latest.iter().filter(|of| is_dead(of.from)).collect();
        let at = self.random.next();
        let one = |of: &[&Heard]| of.get((at % of.len().max(1) as u64) as usize).map(|&heard| heard.clone());
        match self.random.below(3) {
            0 if !last_words.is_empty() => one(&last_words),
            1 => one(&self.latest.iter().collect::<Vec<_>>()),
            _ => one(&self.heard.iter().collect::<Vec<_>>()),
        }
    }
}
