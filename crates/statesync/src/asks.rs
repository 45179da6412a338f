//! Questions on their way, by flow: whom to ask next when no answer comes, and what an answer may replace.
//!
//! A direct-mapped table: a flow that meets another's place forgets the other, who then only asks the primary again.

use crate::note::ANSWER_AGE_MAX_US;
use core::hash::{Hash, Hasher};
use siphasher::sip::SipHasher13;
use wire::{BackendId, FlowKey, Tick};

/// An answer that takes longer, microseconds, makes the flow's next packet ask another owner.
pub const PATIENCE_US: u64 = 20_000;

/// A question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Ask {
    key: FlowKey,
    /// When this turn of asking began.
    since: Tick,
    /// When the flow last asked.
    last: Tick,
    /// How often another owner was tried.
    turns: u32,
    /// The entry that was found unusable: an answer may replace it.
    unusable: Option<BackendId>,
    /// A SYN has asked.
    begins: bool,
}

/// What an answer is to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Answered {
    /// The entry that the question found unusable: the answer may replace it.
    pub unusable: Option<BackendId>,
    /// A SYN has asked.
    pub begins: bool,
}

/// What is known of the flow's earlier questions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Asked {
    /// How often its owners kept silent for too long: primary and backup are asked in turn.
    pub turns: u32,
    /// The flow has asked in an earlier turn, and has no answer yet.
    pub is_waiting: bool,
}

/// The questions of one core.
#[derive(Debug)]
pub struct Asks {
    places: Box<[Option<Ask>]>,
    key: (u64, u64),
}

impl Asks {
    /// Room for about `capacity` flows that ask at the same time. `seed` should be random.
    pub fn new(capacity: usize, seed: u64) -> Asks {
        Asks { places: vec![None; capacity.next_power_of_two()].into(), key: (seed, !seed) }
    }

    #[expect(clippy::cast_possible_truncation, reason = "reduced to the number of places")]
    fn place(&mut self, key: &FlowKey) -> Option<&mut Option<Ask>> {
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1);
        key.hash(&mut hasher);
        let at = hasher.finish() as usize & (self.places.len() - 1);
        self.places.get_mut(at)
    }

    /// The flow asks now, `begins`: by a SYN. `unusable` is the backend of the entry that does not decide, if there is one.
    pub fn ask(&mut self, key: &FlowKey, unusable: Option<BackendId>, begins: bool, now: Tick) -> Asked {
        let Some(place) = self.place(key) else { return Asked::default() };
        let known = place.filter(|ask| ask.key == *key && now.since_us(ask.last) < FORGET_US);
        let ask = match known {
            None => Ask { key: *key, since: now, last: now, turns: 0, unusable, begins },
            Some(ask) if now.since_us(ask.since) > PATIENCE_US => {
                Ask { since: now, last: now, turns: ask.turns.wrapping_add(1), unusable, ..ask }
            }
            Some(ask) => Ask { last: now, unusable, ..ask },
        };
        *place = Some(Ask { begins: ask.begins || begins, ..ask });
        Asked { turns: ask.turns, is_waiting: known.is_some_and(|ask| ask.last != now) }
    }

    /// An answer came: what it is to, if the flow has asked not too long ago.
    pub fn answered(&mut self, key: &FlowKey, asked: Tick, now: Tick) -> Option<Answered> {
        if asked > now || now.since_us(asked) > ANSWER_AGE_MAX_US {
            return None;
        }
        let place = self.place(key)?;
        let ask = place.filter(|ask| ask.key == *key);
        if ask.is_some() {
            *place = None;
        }
        Some(
            ask.map_or_else(Answered::default, |ask| Answered { unusable: ask.unusable, begins: ask.begins }),
        )
    }
}

/// A flow that was silent for longer begins with the primary again.
const FORGET_US: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::{Answered, Asked, Asks, PATIENCE_US};
    use crate::note::ANSWER_AGE_MAX_US;
    use wire::{BackendId, FlowKey, Tick};

    const KEY: FlowKey = FlowKey::Narrow(77);

    #[test]
    fn owners_are_asked_in_turn_when_no_answer_comes() {
        let mut asks = Asks::new(16, 1);
        let asked = |turns, is_waiting| Asked { turns, is_waiting };
        assert_eq!(asks.ask(&KEY, None, false, Tick(0)), asked(0, false));
        assert_eq!(asks.ask(&KEY, None, false, Tick(PATIENCE_US)), asked(0, true));
        assert_eq!(asks.ask(&KEY, None, false, Tick(PATIENCE_US + 1)), asked(1, true));
        assert_eq!(asks.ask(&KEY, None, false, Tick(2 * PATIENCE_US + 1)), asked(1, true));
        assert_eq!(asks.ask(&KEY, None, false, Tick(2 * PATIENCE_US + 2)), asked(2, true));
        assert_eq!(asks.ask(&KEY, None, false, Tick(5_000_000)), asked(0, false));
    }

    #[test]
    fn an_answer_may_replace_what_the_question_found_unusable() {
        let mut asks = Asks::new(16, 1);
        let old = Some(BackendId(4));
        asks.ask(&KEY, old, false, Tick(10));
        assert_eq!(asks.answered(&KEY, Tick(10), Tick(500)), Some(Answered { unusable: old, begins: false }));
        assert_eq!(asks.answered(&KEY, Tick(10), Tick(501)), Some(Answered::default()));
        // The SYN and what follows it have asked.
        asks.ask(&KEY, None, true, Tick(520));
        asks.ask(&KEY, None, false, Tick(530));
        assert_eq!(
            asks.answered(&KEY, Tick(520), Tick(540)),
            Some(Answered { unusable: None, begins: true })
        );
        asks.ask(&KEY, old, false, Tick(600));
        assert_eq!(asks.answered(&KEY, Tick(600), Tick(601 + ANSWER_AGE_MAX_US)), None);
        assert_eq!(asks.answered(&KEY, Tick(700), Tick(650)), None);
    }
}
