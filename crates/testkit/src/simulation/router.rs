//! The router in front: equal-cost paths by the hash of a packet's tuple.

use super::random::mix;

/// Buckets of resilient hashing.
const BUCKETS: usize = 64;

/// Which machine gets a packet.
#[derive(Clone, Debug)]
pub(super) struct Router {
    /// Machines with a route, ascending.
    routed: Vec<usize>,
    /// Resilient hashing: a machine keeps its buckets while others come and go.
    buckets: Option<Vec<usize>>,
    salt: u64,
}

impl Router {
    pub(super) fn new(resilient: bool, salt: u64) -> Router {
        Router { routed: Vec::new(), buckets: resilient.then(|| vec![usize::MAX; BUCKETS]), salt }
    }

    pub(super) fn route(&self, tuple: u64) -> Option<usize> {
        if self.routed.is_empty() {
            return None;
        }
        let hash = mix(tuple ^ self.salt) as usize;
        match &self.buckets {
            Some(buckets) => buckets.get(hash % BUCKETS).copied(),
            None => self.routed.get(hash % self.routed.len()).copied(),
        }
    }

    pub(super) fn add(&mut self, machine: usize) {
        if self.routed.contains(&machine) {
            return;
        }
        self.routed.push(machine);
        self.routed.sort_unstable();
        let count = self.routed.len();
        if let Some(buckets) = &mut self.buckets {
            if count == 1 {
                buckets.fill(machine);
                return;
            }
            // Every so-manieth bucket moves to the new one.
            for (at, bucket) in buckets.iter_mut().enumerate() {
                if (mix(at as u64 ^ self.salt) as usize).is_multiple_of(count) {
                    *bucket = machine;
                }
            }
        }
    }

    pub(super) fn remove(&mut self, machine: usize) {
        self.routed.retain(|&of| of != machine);
        let routed = &self.routed;
        if let Some(buckets) = &mut self.buckets
            && !routed.is_empty()
        {
            for (at, bucket) in buckets.iter_mut().enumerate().filter(|(_, of)| **of == machine) {
                *bucket = routed[at % routed.len()];
            }
        }
    }

    pub(super) fn contains(&self, machine: usize) -> bool {
        self.routed.contains(&machine)
    }

    pub(super) fn len(&self) -> usize {
        self.routed.len()
    }

    /// The router hashes anew: every flow may go another way.
    pub(super) fn reshuffle(&mut self, salt: u64) {
        self.salt = salt;
    }
}

#[cfg(test)]
mod tests {
    use super::Router;

    #[test]
    fn resilient_hashing_keeps_what_it_can() {
        for resilient in [false, true] {
            let mut router = Router::new(resilient, 5);
            (0..4).for_each(|machine| router.add(machine));
            let before: Vec<_> = (0..1000).map(|tuple| router.route(tuple)).collect();
            router.remove(2);
            let moved =
                (0..1000).filter(|&t| before[t as usize] != Some(2) && router.route(t) != before[t as usize]);
            assert_eq!(moved.count() == 0, resilient);
            assert!((0..1000).all(|tuple| router.route(tuple).is_some_and(|machine| machine != 2)));
            assert!(before.contains(&Some(2)));
        }
    }
}
