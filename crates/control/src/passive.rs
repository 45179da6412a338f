//! Passive health: which backends serve fewer clients than the others of their service.
//!
//! Rule of this module: pure; it is told counts and the time. With direct server return the balancer sees no answer of a
//! backend, but it sees what the client does: whether it goes on after its SYN (it does not where the backend ignores or refuses it),
//! and whether it ends its connection by itself (it sends nothing any more where the backend has reset it). A flood of SYNs
//! that nobody goes on from hits all backends of a service alike, so each is compared with the median of its service
//! over the same time, and not with a fixed number. What comes of it is a suspicion, no verdict: the machine checks
//! the backend by itself, and that decides.
//!
//! **What it takes.** A ratio below a part of the pool's ([`Sign::is_low`]), and so many flows that it is no chance: 50, or fewer if their
//! failures are less likely than [`CHANCE_MAX`] by what else the pool has shown. What clients still have time to do is not missed: only
//! flows that began at least [`Sign::lag`] steps ago are asked for, and all signs until now count for them.
//!
//! **Doubt is cheap.** Where load decides, a backend that answers nobody gets two or three flows, and it would take long until it has those that
//! convict it. So one in doubt is given them ([`Pool::trials`]), on much weaker grounds and sooner than it may be judged: as soon as its flows
//! fail at which others' succeed at once. That makes no false accusation likelier. A trial moves flows and changes no bar: of those that it
//! brings as few fail by chance as of any, a judgement asks for the same improbable number of failures, and [`Sign::lag`] for the same
//! time. What may grow is how often somebody is looked at who has flows at all: with trials, and as steps are no longer than
//! a second. Both bounds of chance are halved for it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use wire::BackendId;

pub(crate) mod compare;
pub(crate) mod pools;
#[cfg(test)]
mod tests;

/// What counts are kept of together, milliseconds.
pub(crate) const STEP_MS: u64 = 1_000;
/// Steps that are remembered.
const STEPS_MAX: usize = 66;
/// Over how many steps of flows backends are compared: the first of these that says something.
const SPANS: [usize; 12] = [1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 45, 60];
/// So many flows say something whatever the others' were.
const FLOWS_MANY: u64 = 50;
/// Fewest successes that so many flows must let expect, by the median: in a flood, of which few go on, half of few is chance.
const EXPECTED_MANY: u64 = 25;
/// So many flows tell that a suspect is well again, if three quarters of what is expected succeed.
const FLOWS_WELL: u64 = 10;
/// How unlikely failures of few flows must be before they say something. Some thousand times a day and backend they are looked at.
const CHANCE_MAX: f64 = 5e-9;
/// The same by what the pool has shown over the same time alone: a flood that begins now is not in the rest.
const CHANCE_NOW_MAX: f64 = 5e-4;
/// Fewest backends with flows that have a median.
const BACKENDS_MIN: usize = 3;
/// Steps without a sign that end a suspicion, while own checks pass. Where load decides, a backend that keeps what it never answers gets no
/// new flow until the balancer gives these up.
const QUIET_STEPS: usize = 60;
/// How unlikely failures must be that put a backend in doubt. It accuses nobody: one in doubt is given a few flows more.
const CHANCE_OF_DOUBT: f64 = 1e-2;
/// Flows that began more steps ago put nobody in doubt.
const STEPS_OF_DOUBT: usize = 10;
/// Of one in so many steps at most that went before a backend may owe its newest flows' signs, if newest flows alone put it in doubt.
const OWED_ONE_IN: usize = 4;
/// Flows of a trial: with the two or three that put a backend in doubt they are unlikely enough as soon as others have shown some hundred.
const FLOWS_TRIED: u64 = 6;
/// A whole, of a ratio.
const PPM: u64 = 1_000_000;

/// What has been counted of a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct ClientCounts {
    /// Flows that a SYN began.
    pub(crate) syns: u64,
    /// Flows whose client went on.
    pub(crate) handshakes: u64,
    /// Flows whose client ended them.
    pub(crate) closes: u64,
    /// Of these, those that ended soon.
    pub(crate) soon: u64,
}

impl ClientCounts {
    /// What was counted since `then`; nothing if counters have gone back.
    fn since(self, then: ClientCounts) -> ClientCounts {
        ClientCounts {
            syns: self.syns.saturating_sub(then.syns),
            handshakes: self.handshakes.saturating_sub(then.handshakes),
            closes: self.closes.saturating_sub(then.closes),
            soon: self.soon.saturating_sub(then.soon),
        }
    }
}

/// A backend at the end of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BackendSample {
    pub(crate) id: BackendId,
    /// Since the start.
    pub(crate) counts: ClientCounts,
    /// Its checks say up.
    pub(crate) is_up: bool,
}

/// What of its clients is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sign {
    /// That they go on after their SYN.
    Handshakes,
    /// That they end their connections.
    Closes,
}

impl Sign {
    /// Steps after which a flow should have shown the sign. A longer handshake shows a little later in all backends' figures; a close counts
    /// as soon within three steps.
    const fn lag(self) -> usize {
        match self {
            Sign::Handshakes => 1,
            Sign::Closes => 3,
        }
    }

    /// Flows of a step that should show it.
    const fn flows(self, counts: ClientCounts) -> u64 {
        match self {
            Sign::Handshakes => counts.syns,
            Sign::Closes => counts.handshakes,
        }
    }

    /// Flows that show it in a step, however late.
    const fn shown(self, counts: ClientCounts) -> u64 {
        match self {
            Sign::Handshakes => counts.handshakes,
            Sign::Closes => counts.closes,
        }
    }

    /// Whether a share is so much less than the pool's that something is wrong. Of two backends that are as good, one may be the first
    /// whose clients wait for more than three seconds in a flash crowd; so closes are compared by a lower bar.
    const fn is_low(self, ppm: u64, pool_ppm: u64) -> bool {
        match self {
            Sign::Handshakes => ppm * 2 < pool_ppm,
            Sign::Closes => ppm * 4 < pool_ppm,
        }
    }
}

/// A backend's share of flows that show a sign, and its pool's, millionths.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ratio {
    pub(crate) sign: Sign,
    pub(crate) ppm: u64,
    pub(crate) pool_ppm: u64,
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let percent = |ppm| (ppm + PPM / 200) * 100 / PPM;
        write!(f, "{} % where the pool has {} %", percent(self.ppm), percent(self.pool_ppm))
    }
}

impl Ratio {
    /// What is wrong, in words.
    pub(crate) fn fault(&self) -> String {
        match self.sign {
            Sign::Handshakes => format!("its clients' handshakes fail: {self}"),
            Sign::Closes => format!("its clients' connections are reset or hang, only few end: {self}"),
        }
    }

    /// What is right again.
    fn mended(&self) -> String {
        match self.sign {
            Sign::Handshakes => format!("its clients' handshakes succeed: {self}"),
            Sign::Closes => format!("its clients' connections end as they should: {self}"),
        }
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
    /// Whole steps since.
    steps: usize,
    /// The last ones, of which nobody's failure was seen.
    quiet: usize,
}

/// A suspicion that begins or ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SuspicionChange {
    /// It begins.
    Suspect(BackendId, Ratio),
    /// It ends: clients are served as elsewhere.
    Recovered(BackendId, Ratio),
    /// It ends: too few clients come to say anything, and own checks pass.
    Quiet(BackendId),
}

/// Where load decides: one that is to have so many flows soon, as if it carried less than all others, for a step at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RecoveryTrial {
    pub(crate) id: BackendId,
    pub(crate) flows: u64,
}

/// Trials that go on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trials {
    /// When each ends: milliseconds, and flows of the backend, both since the start.
    until: HashMap<BackendId, (u64, u64)>,
}

impl Trials {
    /// Begins one, of a backend that has had so many flows.
    pub(crate) fn begin(&mut self, trial: RecoveryTrial, had: u64, now_ms: u64) {
        self.until.insert(trial.id, (now_ms + STEP_MS, had.saturating_add(trial.flows)));
    }

    /// Ends those that have had their time or their flows, by what each has had.
    pub(crate) fn end(&mut self, had: impl Fn(BackendId) -> u64, now_ms: u64) {
        self.until.retain(|id, (until_ms, flows)| now_ms < *until_ms && had(*id) < *flows);
    }

    /// Flows that it is still to have; `None`: it is not tried.
    pub(crate) fn left(&self, id: BackendId, had: impl FnOnce() -> u64) -> Option<u64> {
        self.until.get(&id).map(|(_, flows)| flows.saturating_sub(had()))
    }
}

/// What flows of a backend say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ClientVerdict {
    Bad(Ratio),
    Well(Ratio),
}

/// A backend's counts.
#[derive(Clone, Debug)]
struct Track {
    /// Since the start, at the end of the last step.
    counted: ClientCounts,
    /// Of each step, newest first.
    steps: VecDeque<ClientCounts>,
}

/// Flows over a time, and those of them that showed a sign.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    flows: u64,
    shown: u64,
    /// Of closes: late ones, too.
    late: u64,
}

impl Sum {
    /// Takes in one step more. That of the newest flows are not asked for yet, but what others show then counts.
    fn add(&mut self, sign: Sign, at: usize, step: ClientCounts) {
        if at >= sign.lag() {
            self.flows += sign.flows(step);
        }
        match sign {
            Sign::Handshakes => self.shown += step.handshakes,
            Sign::Closes => (self.shown, self.late) = (self.shown + step.soon, self.late + step.closes),
        }
    }

    /// Of its flows, millionths. Others may have shown the sign, too, so it is cut at the whole.
    fn ppm(&self, shown: u64) -> u64 {
        shown.min(self.flows).saturating_mul(PPM) / self.flows.max(1)
    }

    fn shown_ppm(&self) -> u64 {
        self.ppm(self.shown)
    }

    fn failures(&self) -> u64 {
        self.flows.saturating_sub(self.shown)
    }
}

/// The backends of a service, compared again and again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool {
    /// When the step began.
    began_ms: Option<u64>,
    tracks: BTreeMap<BackendId, Track>,
    suspects: BTreeMap<BackendId, Suspect>,
}

impl Pool {
    /// The step is over.
    pub(crate) fn is_due(&self, now_ms: u64) -> bool {
        self.began_ms.is_none_or(|began_ms| now_ms.saturating_sub(began_ms) >= STEP_MS)
    }

    /// Ends the step with the counts of all backends of the service, and begins the next; what is left out is forgotten. A backend
    /// takes part from the first step on at whose begin it was there.
    ///
    /// `by_source`: a client's flows all go to one backend, so that one client that fails looks like a backend that does. Then few flows
    /// say nothing, nor how their clients end them.
    pub(crate) fn observe(
        &mut self,
        seen: &[BackendSample],
        by_source: bool,
        now_ms: u64,
    ) -> Vec<SuspicionChange> {
        self.began_ms = Some(now_ms);
        let mut before = std::mem::take(&mut self.tracks);
        for of in seen {
            let track = match before.remove(&of.id) {
                Some(mut track) => {
                    track.steps.push_front(of.counts.since(track.counted));
                    track.steps.truncate(STEPS_MAX);
                    Track { counted: of.counts, ..track }
                }
                None => Track { counted: of.counts, steps: VecDeque::new() },
            };
            self.tracks.insert(of.id, track);
        }
        self.suspects.retain(|id, _| self.tracks.contains_key(id));
        for suspect in self.suspects.values_mut() {
            suspect.steps += 1;
        }
        let handshakes = self.compare(Sign::Handshakes, by_source);
        let closes = if by_source { BTreeMap::new() } else { self.compare(Sign::Closes, by_source) };
        let mut turns = Vec::new();
        for of in seen {
            let found = [handshakes.get(&of.id), closes.get(&of.id)];
            let bad = found.iter().find_map(|found| match found {
                Some(ClientVerdict::Bad(ratio)) => Some(*ratio),
                _ => None,
            });
            let Some(suspect) = self.suspects.get_mut(&of.id) else {
                if let Some(ratio) = bad {
                    let suspect = Suspect { since_ms: now_ms, ratio, is_probed: false, steps: 0, quiet: 0 };
                    self.suspects.insert(of.id, suspect);
                    turns.push(SuspicionChange::Suspect(of.id, ratio));
                }
                continue;
            };
            let well = found.iter().find_map(|found| match found {
                Some(ClientVerdict::Well(ratio)) if ratio.sign == suspect.ratio.sign => Some(*ratio),
                _ => None,
            });
            let fails = self.tracks.get(&of.id).is_some_and(|track| track.fails(suspect.ratio.sign));
            suspect.quiet = if fails { 0 } else { suspect.quiet + 1 };
            match (bad, well) {
                (Some(ratio), _) => suspect.ratio = ratio,
                (None, Some(ratio)) => turns.push(SuspicionChange::Recovered(of.id, ratio)),
                (None, None) if suspect.quiet >= QUIET_STEPS && suspect.is_probed && of.is_up => {
                    turns.push(SuspicionChange::Quiet(of.id));
                }
                (None, None) => {}
            }
        }
        for turn in &turns {
            if let SuspicionChange::Recovered(id, _) | SuspicionChange::Quiet(id) = turn {
                self.suspects.remove(id);
                // What made it suspect is not to do so again.
                if let Some(track) = self.tracks.get_mut(id) {
                    track.steps.clear();
                }
            }
        }
        turns
    }

    /// Each backend by the shortest time that says something of it. All that are compared with each other are so over the same time, lest the
    /// end of a flood makes a difference.
    fn compare(&self, sign: Sign, by_source: bool) -> BTreeMap<BackendId, ClientVerdict> {
        let mut found = BTreeMap::new();
        let mut sums: Vec<(BackendId, &Track, Sum)> =
            self.tracks.iter().map(|(id, track)| (*id, track, Sum::default())).collect();
        let whole: Vec<Sum> = sums.iter().map(|(_, track, _)| track.sum(sign)).collect();
        if whole.iter().filter(|sum| sum.flows > 0).count() < BACKENDS_MIN {
            return found;
        }
        let whole = PoolMedian::of(&whole);
        let mut summed = 0;
        for span in SPANS {
            let until = sign.lag() + span;
            sums.retain_mut(|(_, track, sum)| {
                for (at, step) in track.steps.iter().enumerate().take(until).skip(summed) {
                    sum.add(sign, at, *step);
                }
                track.steps.len() >= until
            });
            summed = until;
            let of_span: Vec<Sum> = sums.iter().map(|(_, _, sum)| *sum).filter(|sum| sum.flows > 0).collect();
            if of_span.len() < BACKENDS_MIN {
                continue;
            }
            let peers = PoolMedian::of(&of_span);
            let mut left = 0;
            for (id, _, sum) in sums.iter().filter(|(_, _, sum)| sum.flows > 0) {
                // A suspect is compared by what came later.
                let is_later = self.suspects.get(id).is_none_or(|suspect| until <= suspect.steps);
                if !is_later || found.contains_key(id) {
                    continue;
                }
                match judge(sign, sum, &peers, (!by_source).then_some(&whole)) {
                    Some(judged) => drop(found.insert(*id, judged)),
                    None => left += 1,
                }
            }
            if left == 0 && of_span.len() == self.tracks.len() {
                break;
            }
        }
        found
    }

    /// When the step is over, milliseconds since the start.
    pub(crate) fn due_ms(&self) -> u64 {
        self.began_ms.map_or(0, |began_ms| began_ms.saturating_add(STEP_MS))
    }

    /// Where load decides, a backend that answers nobody keeps its connections, and seems busy: it gets two or three flows, which may have
    /// failed by chance, and no more; nor does it when it is well again. So one in doubt is given a few flows as if it carried little, until
    /// so many wait for their time that they will say it. A suspect is given one every other step, or more for as long as its clients
    /// show that it is well. These are those of the next step.
    pub(crate) fn trials(&self) -> Vec<RecoveryTrial> {
        let mut trials = Vec::new();
        for sign in [Sign::Handshakes, Sign::Closes] {
            let of = |sum: &dyn Fn(&Track) -> Sum| {
                let pool: Vec<Sum> = self.tracks.values().map(sum).collect();
                let are_enough = pool.iter().filter(|sum| sum.flows > 0).count() >= BACKENDS_MIN;
                are_enough.then(|| PoolMedian::of(&pool))
            };
            let whole = of(&|track| track.sum(sign));
            let newest = [1, 2].map(|steps| (steps, of(&|track| track.newest(sign, steps))));
            let fails_at_once = |track: &Track| {
                newest.iter().any(|(steps, peers)| {
                    peers.as_ref().is_some_and(|peers| track.fails_at_once(sign, *steps, peers))
                })
            };
            for (id, track) in &self.tracks {
                let last = track.steps.front().copied().unwrap_or_default();
                let flows = match self.suspects.get(id) {
                    Some(suspect) if suspect.ratio.sign != sign => 0,
                    Some(_) if sign.shown(last) > 0 => FLOWS_TRIED,
                    Some(suspect) if last.syns == 0 && suspect.steps % 2 == 0 => 1,
                    Some(_) => 0,
                    None => {
                        let by_whole = |is: fn(&Track, Sign, &PoolMedian) -> bool| {
                            whole.as_ref().is_some_and(|whole| is(track, sign, whole))
                        };
                        let is_in_doubt = by_whole(Track::is_in_doubt) || fails_at_once(track);
                        if is_in_doubt && !by_whole(Track::awaits_enough) { FLOWS_TRIED } else { 0 }
                    }
                };
                if flows > 0 {
                    trials.push(RecoveryTrial { id: *id, flows });
                }
            }
        }
        trials
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

impl Track {
    /// All that is remembered.
    fn sum(&self, sign: Sign) -> Sum {
        let mut sum = Sum::default();
        for (at, step) in self.steps.iter().enumerate() {
            sum.add(sign, at, *step);
        }
        sum
    }

    /// Its last flows have not shown the sign after a step, which few do by chance.
    fn is_in_doubt(&self, sign: Sign, whole: &PoolMedian) -> bool {
        let (mut flows, mut shown) = (0, 0);
        for (at, step) in self.steps.iter().enumerate().take(STEPS_OF_DOUBT) {
            flows += if at > 0 { sign.flows(*step) } else { 0 };
            shown += sign.shown(*step);
            if flows >= 2 {
                break;
            }
        }
        let failures = u64::saturating_sub(flows, shown);
        failures >= 2 && flows < FLOWS_MANY && whole.chance(flows, failures) <= CHANCE_OF_DOUBT
    }

    /// The newest steps, with flows that had hardly any time.
    fn newest(&self, sign: Sign, steps: usize) -> Sum {
        let newest = self.steps.iter().take(steps);
        newest.fold(Sum::default(), |sum, step| Sum {
            flows: sum.flows + sign.flows(*step),
            shown: sum.shown + sign.shown(*step),
            late: 0,
        })
    }

    /// Its flows of the newest steps, one or two, have not shown the sign in these, though others' have, and its own did until then. Where
    /// clients take their time, or those of this backend do, it does not say anything.
    fn fails_at_once(&self, sign: Sign, steps: usize, newest: &PoolMedian) -> bool {
        let sum = self.newest(sign, steps);
        let failures = sum.failures();
        if failures < 2 || sum.flows >= FLOWS_MANY || newest.chance(sum.flows, failures) > CHANCE_OF_DOUBT {
            return false;
        }
        let with_flows = || self.steps.iter().skip(2).filter(|step| sign.flows(**step) > 0);
        let owed = with_flows().filter(|step| sign.shown(**step) < sign.flows(**step)).count();
        let count = with_flows().count();
        count > 0 && owed * OWED_ONE_IN <= count
    }

    /// Its newest flows have not shown the sign, and are so many that they will say enough when it is asked of them, if it stays so.
    fn awaits_enough(&self, sign: Sign, whole: &PoolMedian) -> bool {
        let newest = self.steps.iter().take(sign.lag() + 1).take_while(|step| sign.shown(**step) == 0);
        let flows = newest.map(|step| sign.flows(*step)).sum();
        whole.chance(flows, flows) <= CHANCE_MAX
    }

    /// Of the newest flows that should have shown the sign by now none has.
    fn fails(&self, sign: Sign) -> bool {
        let mut sum = Sum::default();
        for (at, step) in self.steps.iter().enumerate().take(sign.lag() + 1) {
            sum.add(sign, at, *step);
        }
        sum.flows > 0 && sum.shown == 0
    }
}

/// What a backend is compared with.
#[derive(Clone, Copy, Debug)]
struct PoolMedian {
    /// The median share, millionths.
    ppm: u64,
    /// The median share of late closes, millionths.
    late_ppm: u64,
    /// Flows of the better half of the pool, and how many of them failed.
    flows: u64,
    failures: u64,
}

impl PoolMedian {
    fn of(pool: &[Sum]) -> PoolMedian {
        let with_flows = || pool.iter().filter(|sum| sum.flows > 0);
        let ppm = median(with_flows().map(Sum::shown_ppm).collect());
        let late_ppm = median(with_flows().map(|sum| sum.ppm(sum.late)).collect());
        let (mut flows, mut failures) = (0, 0);
        for sum in with_flows().filter(|sum| sum.shown_ppm() >= ppm) {
            flows += sum.flows;
            failures += sum.failures();
        }
        PoolMedian { ppm, late_ppm, flows, failures }
    }

    /// The probability that of `flows` further ones so many fail or more, if they are as these: the rule of succession, from a uniform prior
    /// (Gelman and others, Bayesian Data Analysis, 2.5: the beta-binomial distribution).
    #[expect(clippy::cast_precision_loss, reason = "counts of a minute")]
    fn chance(&self, flows: u64, failures: u64) -> f64 {
        let failed = self.failures as f64 + 1.0;
        let passed = self.flows.saturating_sub(self.failures) as f64 + 1.0;
        let count = flows as f64;
        // All fail; then one less, and so on, each from the one before.
        let mut term: f64 =
            (0..flows).map(|nth| (failed + nth as f64) / (failed + passed + nth as f64)).product();
        let mut sum = 0.0;
        for fail in (failures..=flows).rev() {
            sum += term;
            let fail = fail as f64;
            term *= fail / (count - fail + 1.0) * (passed + count - fail) / (failed + fail - 1.0);
        }
        sum
    }
}

/// What a backend's flows say beside those of its peers; `None`: too few. Without `whole`, what peers have shown over all that is remembered,
/// only many flows say that it is bad.
fn judge(sign: Sign, sum: &Sum, peers: &PoolMedian, whole: Option<&PoolMedian>) -> Option<ClientVerdict> {
    let ratio = Ratio { sign, ppm: sum.shown_ppm(), pool_ppm: peers.ppm };
    let expected = sum.flows.saturating_mul(peers.ppm);
    let are_many = sum.flows >= FLOWS_MANY && expected >= EXPECTED_MANY * PPM;
    let is_low = sign.is_low(ratio.ppm, peers.ppm)
        && (sign == Sign::Handshakes || sign.is_low(sum.ppm(sum.late), peers.late_ppm));
    if is_low {
        let is_no_chance = |whole: &PoolMedian| {
            sum.flows < FLOWS_MANY
                && whole.chance(sum.flows, sum.failures()) <= CHANCE_MAX
                && peers.chance(sum.flows, sum.failures()) <= CHANCE_NOW_MAX
        };
        (are_many || whole.is_some_and(is_no_chance)).then_some(ClientVerdict::Bad(ratio))
    } else {
        let is_well =
            sum.flows >= FLOWS_WELL && ratio.ppm * 4 >= peers.ppm * 3 && expected >= FLOWS_WELL / 2 * PPM;
        (are_many || is_well).then_some(ClientVerdict::Well(ratio))
    }
}

/// The middle one, or the mean of the two in the middle; 0 of none.
fn median(mut of: Vec<u64>) -> u64 {
    of.sort_unstable();
    let upper = of.get(of.len() / 2).copied().unwrap_or(0);
    let lower = of.get(of.len().saturating_sub(1) / 2).copied().unwrap_or(0);
    u64::midpoint(lower, upper)
}
