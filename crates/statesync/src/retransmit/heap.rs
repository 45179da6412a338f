//! A binary heap of fixed size: the standard library's might grow, and so allocate.

use wire::Tick;

/// A place, and when its time comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Due {
    pub(super) at: Tick,
    pub(super) place: u32,
}

/// The earliest first.
#[derive(Debug)]
pub(super) struct DueHeap {
    items: Box<[Due]>,
    len: usize,
}

impl DueHeap {
    pub(super) fn new(capacity: usize) -> DueHeap {
        DueHeap { items: vec![Due::default(); capacity].into(), len: 0 }
    }

    pub(super) fn peek(&self) -> Option<Due> {
        self.items.get(..self.len)?.first().copied()
    }

    fn at(&self, index: usize) -> Option<Due> {
        self.items.get(..self.len)?.get(index).copied()
    }

    fn set(&mut self, index: usize, due: Due) {
        if let Some(item) = self.items.get_mut(index) {
            *item = due;
        }
    }

    /// Puts one in; left out when there is no room.
    pub(super) fn push(&mut self, due: Due) {
        if self.len >= self.items.len() {
            return;
        }
        let mut index = self.len;
        self.len += 1;
        while index > 0 {
            let parent = (index - 1) / 2;
            let Some(above) = self.at(parent).filter(|above| above.at > due.at) else { break };
            self.set(index, above);
            index = parent;
        }
        self.set(index, due);
    }

    pub(super) fn pop(&mut self) -> Option<Due> {
        let first = self.peek()?;
        let last = self.at(self.len - 1)?;
        self.len -= 1;
        let mut index = 0;
        loop {
            let (left, right) = (self.at(2 * index + 1), self.at(2 * index + 2));
            let (child, below) = match (left, right) {
                (Some(left), Some(right)) if right.at < left.at => (2 * index + 2, right),
                (Some(left), _) => (2 * index + 1, left),
                (None, _) => break,
            };
            if below.at >= last.at {
                break;
            }
            self.set(index, below);
            index = child;
        }
        self.set(index, last);
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::{Due, DueHeap};
    use proptest::prelude::{prop, prop_assert_eq, proptest};
    use std::collections::BinaryHeap;
    use wire::Tick;

    proptest! {
        #[test]
        fn it_gives_the_earliest(steps in prop::collection::vec(prop::option::of(0_u64..50), 0..300)) {
            let (mut heap, mut oracle) = (DueHeap::new(40), BinaryHeap::new());
            for step in steps {
                match step {
                    Some(at) => {
                        if oracle.len() < 40 {
                            oracle.push(std::cmp::Reverse(at));
                        }
                        heap.push(Due { at: Tick(at), place: 0 });
                    }
                    None => prop_assert_eq!(heap.pop().map(|due| due.at.0), oracle.pop().map(|of| of.0)),
                }
                prop_assert_eq!(heap.peek().map(|due| due.at.0), oracle.peek().map(|of| of.0));
            }
        }
    }
}
