//! Passive health: which backends answer fewer clients than the others of their service.
//!
//! Rule of this module: pure; it is told counts and the time. With direct server return the balancer sees no answer of a
//! backend, but it sees whether a client goes on after its SYN. Of a backend that is silent, none does. A flood of SYNs
//! that nobody goes on from hits all backends of a service alike, so each is compared with the median of its service
//! over the same time, and not with a fixed number. What comes of it is a suspicion, no verdict: the machine checks
//! the backend by itself, and that decides.

use std::collections::{BTreeMap, HashMap, VecDeque};
use wire::BackendId;

#[cfg(test)]
mod tests;
pub(crate) mod truth;

/// Shortest time over which backends are compared, milliseconds.
pub(crate) const WINDOW_MS: u64 = 5_000;
/// Windows over which a backend is compared at most, if it has few SYNs.
const WINDOWS_MAX: usize = 12;
/// Fewest SYNs that say anything of a backend.
pub(crate) const SYNS_MIN: u64 = 50;
/// Fewest handshakes that its SYNs must let expect, by the median: in a flood, of which few go on, half of few is chance.
const EXPECTED_MIN: u64 = 25;
/// Fewest backends with so many SYNs that have a median.
const BACKENDS_MIN: usize = 3;
/// Windows without a comparison that end a suspicion, while own checks pass.
const QUIET_MAX: usize = 3;
/// A whole, of a ratio.
const PPM: u64 = 1_000_000;

/// What has been counted of a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counts {
    /// Flows that a SYN began.
    pub(crate) syns: u64,
    /// Flows whose client went on.
    pub(crate) handshakes: u64,
}

impl Counts {
    /// What was counted since `then`; nothing if counters have gone back.
    fn since(self, then: Counts) -> Counts {
        Counts {
            syns: self.syns.saturating_sub(then.syns),
            handshakes: self.handshakes.saturating_sub(then.handshakes),
        }
    }

    fn add(&mut self, other: Counts) {
        self.syns += other.syns;
        self.handshakes += other.handshakes;
    }

    /// Handshakes of SYNs, millionths; `None`: too few SYNs. Flows met in the middle count as handshakes alone, so it
    /// is cut at the whole.
    fn ratio_ppm(self) -> Option<u64> {
        (self.syns >= SYNS_MIN).then(|| self.handshakes.min(self.syns).saturating_mul(PPM) / self.syns)
    }
}

/// A backend at the end of a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    pub(crate) id: BackendId,
    /// Since the start.
    pub(crate) counts: Counts,
    /// Its checks say up.
    pub(crate) is_up: bool,
}

/// A backend's share of SYNs that clients went on from, and its pool's, millionths.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ratio {
    pub(crate) ppm: u64,
    pub(crate) pool_ppm: u64,
}

impl Ratio {
    /// Less than half of what the pool has.
    fn is_bad(self) -> bool {
        self.ppm * 2 < self.pool_ppm
    }
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let percent = |ppm| (ppm + PPM / 200) * 100 / PPM;
        write!(f, "{} % where the pool has {} %", percent(self.ppm), percent(self.pool_ppm))
    }
}

/// A backend that its clients make suspect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Suspect {
    /// Since when, milliseconds since the start.
    pub(crate) since_ms: u64,
    /// As it was compared last.
    pub(crate) ratio: Ratio,
    /// An own check has ended since.
    pub(crate) is_probed: bool,
    /// Windows that it took to suspect it.
    span: usize,
    /// Whole windows since, or since it was compared last.
    windows: usize,
    /// The last ones, in which it could not be compared.
    quiet: usize,
}

/// A suspicion that begins or ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    /// It begins.
    Suspect(BackendId, Ratio),
    /// It ends: clients go on as elsewhere.
    Recovered(BackendId, Ratio),
    /// It ends: too few clients come to say anything, and own checks pass.
    Quiet(BackendId),
}

/// The backends of a service, compared again and again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool {
    /// When the window began.
    began_ms: Option<u64>,
    /// What had been counted by then.
    counted: HashMap<BackendId, Counts>,
    /// What was counted in the last windows, newest first.
    windows: VecDeque<HashMap<BackendId, Counts>>,
    suspects: BTreeMap<BackendId, Suspect>,
}

impl Pool {
    /// The window is over.
    pub(crate) fn is_due(&self, now_ms: u64) -> bool {
        self.began_ms.is_none_or(|began_ms| now_ms.saturating_sub(began_ms) >= WINDOW_MS)
    }

    /// Ends the window with the counts of all backends of the service, and begins the next; what is left out is forgotten. A backend
    /// takes part from the first window on at whose begin it was there.
    pub(crate) fn observe(&mut self, seen: &[Seen], now_ms: u64) -> Vec<Turn> {
        let is_first = self.began_ms.replace(now_ms).is_none();
        let counted = seen.iter().map(|of| (of.id, of.counts)).collect();
        let before = std::mem::replace(&mut self.counted, counted);
        if is_first {
            return Vec::new();
        }
        let window = self.counted.iter();
        let window =
            window.filter_map(|(id, counts)| before.get(id).map(|then| (*id, counts.since(*then)))).collect();
        self.windows.push_front(window);
        self.windows.truncate(WINDOWS_MAX);
        self.suspects.retain(|id, _| self.counted.contains_key(id));
        for suspect in self.suspects.values_mut() {
            suspect.windows += 1;
        }
        let compared = self.compare();
        let mut turns = Vec::new();
        for of in seen {
            let found = compared.get(&of.id);
            let Some(suspect) = self.suspects.get_mut(&of.id) else {
                if let Some((ratio, span)) = found.filter(|(ratio, _)| ratio.is_bad()) {
                    let (ratio, span) = (*ratio, *span);
                    let suspect =
                        Suspect { since_ms: now_ms, ratio, is_probed: false, span, windows: 0, quiet: 0 };
                    self.suspects.insert(of.id, suspect);
                    turns.push(Turn::Suspect(of.id, ratio));
                }
                continue;
            };
            match found {
                Some((ratio, span)) if ratio.is_bad() => {
                    (suspect.ratio, suspect.span) = (*ratio, *span);
                    (suspect.windows, suspect.quiet) = (0, 0);
                }
                Some((ratio, _)) => turns.push(Turn::Recovered(of.id, *ratio)),
                None => {
                    suspect.quiet += 1;
                    // One that took longer to be suspected takes as much longer to say anything.
                    let is_quiet = suspect.quiet >= QUIET_MAX + suspect.span - 1;
                    if is_quiet && suspect.is_probed && of.is_up {
                        turns.push(Turn::Quiet(of.id));
                    }
                }
            }
        }
        for turn in &turns {
            if let Turn::Recovered(id, _) | Turn::Quiet(id) = turn {
                self.suspects.remove(id);
                // What made it suspect is not to do so again.
                for window in &mut self.windows {
                    window.remove(id);
                }
            }
        }
        turns
    }

    /// Each backend by as many of the newest windows as it needs, and how many these are. All that are compared with each other are so
    /// over the same time, lest the end of a flood makes a difference.
    fn compare(&self) -> HashMap<BackendId, (Ratio, usize)> {
        let mut compared = HashMap::new();
        let mut sums: HashMap<BackendId, Counts> = HashMap::new();
        for (span, window) in (1..).zip(&self.windows) {
            if span == 1 {
                sums.clone_from(window);
            } else {
                sums.retain(|id, sum| window.get(id).map(|counts| sum.add(*counts)).is_some());
            }
            let ratios: Vec<u64> = sums.values().filter_map(|sum| sum.ratio_ppm()).collect();
            if ratios.len() < BACKENDS_MIN {
                continue;
            }
            let pool_ppm = median(ratios);
            for (id, sum) in &sums {
                // A suspect is compared by what came later.
                let is_later = self.suspects.get(id).is_none_or(|suspect| span <= suspect.windows);
                let is_telling = sum.syns.saturating_mul(pool_ppm) >= EXPECTED_MIN * PPM;
                if is_later
                    && is_telling
                    && let Some(ppm) = sum.ratio_ppm()
                {
                    compared.entry(*id).or_insert((Ratio { ppm, pool_ppm }, span));
                }
            }
            if compared.len() == self.counted.len() {
                break;
            }
        }
        compared
    }

    /// Those that their clients make suspect.
    pub(crate) fn suspects(&self) -> &BTreeMap<BackendId, Suspect> {
        &self.suspects
    }

    /// An own check has ended. Whether it is the first of a suspect.
    fn probed(&mut self, id: BackendId) -> bool {
        self.suspects.get_mut(&id).is_some_and(|suspect| !std::mem::replace(&mut suspect.is_probed, true))
    }
}

/// The middle one, or the mean of the two in the middle; 0 of none.
fn median(mut of: Vec<u64>) -> u64 {
    of.sort_unstable();
    let upper = of.get(of.len() / 2).copied().unwrap_or(0);
    let lower = of.get(of.len().saturating_sub(1) / 2).copied().unwrap_or(0);
    u64::midpoint(lower, upper)
}
