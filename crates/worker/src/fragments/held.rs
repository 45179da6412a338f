//! Frames that wait for their first fragment. Their number is bounded, and when all places are taken, the source that holds most
//! of them gives up its oldest (McKenney, "Stochastic fairness queueing", 1990: the longest queue pays), so that a flood costs
//! others nothing. Where all sources hold as much, as in a flood from forged ones, that is about the oldest of all: who comes last
//! has as long to meet its first fragment as the flood takes to fill the store.
//!
//! All memory is taken at start, and everything is done in constant time.

/// Frames held at once, all datagrams together.
pub const HELD_MAX: usize = 512;
/// Sources told apart, by a keyed hash.
const SOURCES: usize = 1024;
pub(super) const NONE: u16 = u16::MAX;

struct HeldPlace<F> {
    frame: Option<F>,
    /// The datagram's next frame, or the next free place.
    next: u16,
    /// Where the datagram's entry is.
    entry: u16,
    source: u16,
}

pub(super) struct Held<F> {
    places: Box<[HeldPlace<F>]>,
    free: u16,
    /// By source, its places in order of arrival.
    by_source: SourceQueues,
    /// By number of places, the sources that hold so many.
    by_count: SourceQueues,
    counts: Box<[u16]>,
    /// What a source holds at the most.
    most: u16,
}

impl<F> Held<F> {
    pub(super) fn new() -> Held<F> {
        let place = |next: usize| HeldPlace {
            frame: None,
            next: if next == HELD_MAX { NONE } else { number(next) },
            entry: NONE,
            source: 0,
        };
        let mut held = Held {
            places: (1..=HELD_MAX).map(place).collect(),
            free: 0,
            by_source: SourceQueues::new(SOURCES, HELD_MAX),
            by_count: SourceQueues::new(HELD_MAX + 1, SOURCES),
            counts: vec![0; SOURCES].into(),
            most: 0,
        };
        for source in 0..SOURCES {
            held.by_count.push(0, number(source));
        }
        held
    }

    pub(super) fn is_full(&self) -> bool {
        self.free == NONE
    }

    /// The entry of the frame that has to go when there is no place: the oldest of the source that holds most, and so the first of
    /// its datagram.
    pub(super) fn victim(&self) -> Option<usize> {
        let place = self.by_source.first(self.by_count.first(self.most)?)?;
        self.places.get(usize::from(place)).map(|place| usize::from(place.entry))
    }

    /// Holds a frame for the datagram at `entry`, behind the place `last`; gives its place, or the frame back if none is free.
    pub(super) fn put(&mut self, frame: F, entry: usize, source: u64, last: u16) -> Result<u16, F> {
        let at = self.free;
        let Some(place) = self.places.get_mut(usize::from(at)) else { return Err(frame) };
        let source = number(usize::try_from(source % SOURCES as u64).unwrap_or(0));
        self.free = place.next;
        *place = HeldPlace { frame: Some(frame), next: NONE, entry: number(entry), source };
        if let Some(last) = self.places.get_mut(usize::from(last)) {
            last.next = at;
        }
        self.by_source.push(source, at);
        self.count(source, 1);
        Ok(at)
    }

    /// Takes the frame of a place, and tells its datagram's next one.
    pub(super) fn take(&mut self, at: u16) -> Option<(F, u16)> {
        let place = self.places.get_mut(usize::from(at))?;
        let frame = place.frame.take()?;
        let next = core::mem::replace(&mut place.next, self.free);
        let source = place.source;
        self.free = at;
        self.by_source.remove(source, at);
        self.count(source, -1);
        Some((frame, next))
    }

    /// A source holds one more, or one less.
    fn count(&mut self, source: u16, by: i16) {
        let Some(count) = self.counts.get_mut(usize::from(source)) else { return };
        let before = *count;
        *count = before.saturating_add_signed(by);
        let after = *count;
        self.by_count.remove(before, source);
        self.by_count.push(after, source);
        // It was one of those with most, and has one less: if it was the only one, no other has more than it.
        if after > self.most || self.by_count.first(self.most).is_none() {
            self.most = after;
        }
    }
}

/// Queues of small numbers, each of which is in one queue at the most.
struct SourceQueues {
    /// First and last.
    ends: Box<[(u16, u16)]>,
    /// By number: the one before it in its queue, and the one behind it.
    links: Box<[(u16, u16)]>,
}

impl SourceQueues {
    fn new(queues: usize, numbers: usize) -> SourceQueues {
        SourceQueues { ends: vec![(NONE, NONE); queues].into(), links: vec![(NONE, NONE); numbers].into() }
    }

    fn first(&self, queue: u16) -> Option<u16> {
        self.ends.get(usize::from(queue)).map(|ends| ends.0).filter(|&first| first != NONE)
    }

    fn push(&mut self, queue: u16, number: u16) {
        let Some(ends) = self.ends.get_mut(usize::from(queue)) else { return };
        let last = core::mem::replace(&mut ends.1, number);
        // `NONE` is no place.
        match self.links.get_mut(usize::from(last)) {
            Some(links) => links.1 = number,
            None => ends.0 = number,
        }
        if let Some(links) = self.links.get_mut(usize::from(number)) {
            *links = (last, NONE);
        }
    }

    fn remove(&mut self, queue: u16, number: u16) {
        let Some(&(before, behind)) = self.links.get(usize::from(number)) else { return };
        let Some(ends) = self.ends.get_mut(usize::from(queue)) else { return };
        match self.links.get_mut(usize::from(before)) {
            Some(links) => links.1 = behind,
            None => ends.0 = behind,
        }
        match self.links.get_mut(usize::from(behind)) {
            Some(links) => links.0 = before,
            None => ends.1 = before,
        }
    }
}

/// All numbers here are far below [`NONE`].
fn number(of: usize) -> u16 {
    u16::try_from(of).unwrap_or(NONE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, VecDeque};

    #[derive(Clone, Debug)]
    enum Step {
        /// From a source, so many.
        Hold(u64, usize),
        /// Takes one of what is held.
        Take(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..12_u64, 1..100_usize).prop_map(|(source, count)| Step::Hold(source, count)),
            any::<prop::sample::Index>().prop_map(Step::Take),
        ]
    }

    proptest! {
        /// Against the same rule said with queues that are searched. An entry here is a frame's own number.
        #[test]
        fn the_source_that_holds_most_gives_up_its_oldest(steps in prop::collection::vec(step(), 1..60)) {
            let mut held = Held::new();
            let mut oracle = BTreeMap::<u64, VecDeque<(usize, u16)>>::new();
            let mut frames = 0;
            for step in steps {
                match step {
                    Step::Hold(source, count) => for _ in 0..count {
                        if held.is_full() {
                            let victim = held.victim().unwrap();
                            let most = oracle.values().map(VecDeque::len).max().unwrap();
                            let queue = oracle.values_mut()
                                .find(|queue| queue.front().is_some_and(|&(frame, _)| frame == victim))
                                .expect("the oldest of a source");
                            prop_assert_eq!(queue.len(), most);
                            let (frame, at) = queue.pop_front().unwrap();
                            prop_assert_eq!(held.take(at), Some((frame, NONE)));
                        }
                        let at = held.put(frames, frames, source, NONE).unwrap();
                        oracle.entry(source).or_default().push_back((frames, at));
                        frames += 1;
                    },
                    Step::Take(index) => {
                        let sum: usize = oracle.values().map(VecDeque::len).sum();
                        if sum > 0 {
                            let mut left = index.index(sum);
                            let queue = oracle.values_mut().find(|queue| {
                                let is_it = left < queue.len();
                                left -= if is_it { 0 } else { queue.len() };
                                is_it
                            }).unwrap();
                            let (frame, at) = queue.remove(left).unwrap();
                            prop_assert_eq!(held.take(at), Some((frame, NONE)));
                            prop_assert_eq!(held.take(at), None);
                        }
                    }
                }
                let sum: usize = oracle.values().map(VecDeque::len).sum();
                prop_assert_eq!(held.is_full(), sum == HELD_MAX);
                let most = oracle.values().map(VecDeque::len).max().unwrap_or(0);
                prop_assert_eq!(usize::from(held.most), most);
            }
        }
    }
}
