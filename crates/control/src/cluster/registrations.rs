//! Which registrations are in force everywhere: what each machine has heard of agents, put together. Pure, and the same whatever order the
//! machines are listed in.
//!
//! | what | becomes of it |
//! |---|---|
//! | any living machine has heard it, and the services in force let it in | in |
//! | another agent's has its name or its address in the service | the one that is in stays; of two that come at once, the one whose agent's name is smaller |
//! | the same agent has its name or its address, with an older incarnation | replaces that |
//! | it is in, and its weight, port or capacity is told otherwise at the same incarnation | what most machines say; if as many say either, as it was |
//! | any machine says it was deregistered, at this incarnation or a later one | out |
//! | more machines hold it to be dead, at this incarnation or a later one, than hold it to be good | out |
//! | the services in force let it in no more | out |
//! | nobody mentions it | stays: silence says more of the machines than of the backend |

use super::keys::{self, EndedValue, ReceivedValue};
use crate::agents::heard::EndReason;
use model::config::Config;
use model::registered::{Registered, RegistrationRules};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

/// What a newcomer costs in the document beside itself: a backend's identity without its name.
const IDENTITY_BYTES: usize = 160;

/// What makes a registration the same one: service, backend, address, agent.
type Identity<'a> = (&'a str, &'a str, IpAddr, &'a str);

fn identity(of: &Registered) -> Identity<'_> {
    (&of.service, &of.backend, of.address, &of.agent)
}

fn over_identity(of: &EndedValue) -> Identity<'_> {
    (&of.service, &of.backend, of.address, &of.agent)
}

/// What comes of a merger.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Merged {
    /// What is to be in force, ascending by service and backend.
    pub(crate) registered: Vec<Registered>,
    /// Newcomers that the services would let in and for which there is no room: so many, and of which service the first is.
    pub(crate) without_room: Option<(usize, String)>,
}

/// All that machines say of one registration.
#[derive(Debug, Default)]
struct Voices<'a> {
    /// As the machines that hold it to be good have heard it.
    good: Vec<&'a Registered>,
    /// Incarnations up to which it is over, by those who hold it to be dead.
    dead: Vec<u64>,
    /// The latest incarnation up to which it was deregistered.
    deregistered: Option<u64>,
}

impl Voices<'_> {
    /// Whether this incarnation is over.
    fn is_over(&self, incarnation: u64) -> bool {
        let dead = self.dead.iter().filter(|&&of| of >= incarnation).count();
        self.deregistered.is_some_and(|of| of >= incarnation) || dead > self.good.len()
    }

    /// The newest that is not over, as most say. `known`: what is in force, which stands while as many say so as anything else.
    fn newest(&self, known: Option<&Registered>) -> Option<&Registered> {
        let stands = || self.good.iter().filter(|of| !self.is_over(of.incarnation));
        let newest = stands().map(|of| of.incarnation).max()?;
        // All else is equal, so that they differ and are ordered by their figures.
        let mut said: BTreeMap<&Registered, usize> = BTreeMap::new();
        for of in stands().filter(|of| of.incarnation == newest) {
            *said.entry(of).or_default() += 1;
        }
        let most = said.values().copied().max()?;
        let mut best = said.iter().filter(|(_, count)| **count == most).map(|(of, _)| *of);
        best.clone().find(|of| Some(*of) == known).or_else(|| best.next())
    }
}

fn voices<'a>(heard: impl IntoIterator<Item = &'a ReceivedValue>) -> BTreeMap<Identity<'a>, Voices<'a>> {
    let mut all: BTreeMap<Identity<'_>, Voices<'_>> = BTreeMap::new();
    for value in heard {
        // One machine, one voice, whatever it has written.
        let good: BTreeMap<_, _> = value.registered.iter().map(|of| (identity(of), of)).collect();
        for (identity, of) in &good {
            all.entry(*identity).or_default().good.push(of);
        }
        let mut dead: BTreeMap<Identity<'_>, u64> = BTreeMap::new();
        for over in &value.over {
            let identity = over_identity(over);
            // What it has heard since counts.
            if good.get(&identity).is_some_and(|of| of.incarnation > over.incarnation) {
                continue;
            }
            match over.why {
                EndReason::Deregistered => {
                    let of = &mut all.entry(identity).or_default().deregistered;
                    *of = (*of).max(Some(over.incarnation));
                }
                EndReason::Dead => {
                    let of = dead.entry(identity).or_default();
                    *of = (*of).max(over.incarnation);
                }
            }
        }
        for (identity, incarnation) in dead {
            all.entry(identity).or_default().dead.push(incarnation);
        }
    }
    all
}

/// What is in force while it is put together: each name and each address of a service once.
#[derive(Debug, Default)]
struct RegistrationPool {
    by_name: BTreeMap<(String, String), Registered>,
    names: BTreeMap<(String, IpAddr), String>,
    counts: HashMap<String, usize>,
}

impl RegistrationPool {
    fn insert(&mut self, of: Registered) {
        self.names.insert((of.service.clone(), of.address), of.backend.clone());
        let before = self.by_name.insert((of.service.clone(), of.backend.clone()), of.clone());
        if before.is_none() {
            *self.counts.entry(of.service).or_default() += 1;
        }
    }

    fn remove(&mut self, service: &str, backend: &str) {
        let Some(gone) = self.by_name.remove(&(service.to_owned(), backend.to_owned())) else { return };
        self.names.remove(&(gone.service.clone(), gone.address));
        if let Some(count) = self.counts.get_mut(&gone.service) {
            *count -= 1;
        }
    }

    /// Those that have the name or the address of this one.
    fn rivals(&self, of: &Registered) -> Vec<&Registered> {
        let by_name = self.by_name.get(&(of.service.clone(), of.backend.clone()));
        let name = self.names.get(&(of.service.clone(), of.address));
        let by_address = name.and_then(|name| self.by_name.get(&(of.service.clone(), name.clone())));
        let by_address = by_address.filter(|other| Some(*other) != by_name);
        by_name.into_iter().chain(by_address).collect()
    }

    /// Whether there is room for this one, if so many of its service make way for it.
    fn has_room(&self, rules: &RegistrationRules, service: &str, leave: usize) -> bool {
        let count = self.counts.get(service).copied().unwrap_or(0);
        count.saturating_sub(leave) < rules.limit(service)
            && self.by_name.len().saturating_sub(leave) < rules.limit_of_all()
    }
}

/// Those of `known` that these services let in.
pub(crate) fn allowed(known: &[Registered], config: &Config) -> Vec<Registered> {
    let (_, skipped) = config.with_registered(known);
    let skipped: HashSet<Identity<'_>> = skipped.iter().map(|of| identity(&of.registered)).collect();
    known.iter().filter(|of| !skipped.contains(&identity(of))).cloned().collect()
}

/// What is to be in force after `known`. `heard`: what each living machine has heard; `config`: the services in force without registered
/// backends; `room`: bytes that newcomers may add to the document. O(n log n).
pub(crate) fn merge<'a>(
    known: &[Registered],
    heard: impl IntoIterator<Item = &'a ReceivedValue>,
    config: &Config,
    room: usize,
) -> Merged {
    let (voices, rules) = (voices(heard), RegistrationRules::of(config));
    let fits = |of: &&Registered| rules.misfit(of).is_none();
    let mut pool = RegistrationPool::default();
    let mut done: HashSet<Identity<'_>> = HashSet::new();
    for of in known.iter().filter(fits) {
        let said = voices.get(&identity(of));
        let newest = said.and_then(|said| said.newest(Some(of)));
        let newest = newest.filter(|new| new.incarnation >= of.incarnation).filter(fits);
        let is_over = said.is_some_and(|said| said.is_over(of.incarnation));
        let stays = newest.or((!is_over).then_some(of));
        if let Some(stays) = stays.filter(|of| pool.rivals(of).is_empty()) {
            done.insert(identity(of));
            if pool.has_room(&rules, &of.service, 0) {
                pool.insert(stays.clone());
            }
        }
    }
    let newcomers = voices.iter().filter(|(identity, _)| !done.contains(*identity));
    let newcomers = newcomers.filter_map(|(_, said)| said.newest(None)).filter(fits);
    let mut waiting: Vec<&Registered> = newcomers.collect();
    // Of one agent the latest first, so that it need not replace what has just come in.
    waiting.sort_unstable_by_key(|of| {
        (&of.agent, Reverse(of.incarnation), &of.service, &of.backend, of.address)
    });
    let mut added = 0;
    let mut without_room: BTreeSet<(&str, &str, IpAddr)> = BTreeSet::new();
    // What goes may make way for one that was looked at before.
    loop {
        let before = waiting.len();
        without_room.clear();
        waiting.retain(|of| {
            let rivals = pool.rivals(of);
            let replaces =
                |rival: &&Registered| rival.agent == of.agent && rival.incarnation < of.incarnation;
            if !rivals.iter().all(replaces) {
                return true;
            }
            let size = keys::bytes(of).len() + of.backend.len() + IDENTITY_BYTES;
            if added + size > room || !pool.has_room(&rules, &of.service, rivals.len()) {
                without_room.insert((&of.service, &of.backend, of.address));
                return true;
            }
            added += size;
            let gone: Vec<String> = rivals.iter().map(|rival| rival.backend.clone()).collect();
            for backend in gone {
                pool.remove(&of.service, &backend);
            }
            pool.insert((*of).clone());
            false
        });
        if waiting.len() == before {
            break;
        }
    }
    Merged {
        without_room: without_room.first().map(|(service, ..)| (without_room.len(), (*service).to_owned())),
        registered: pool.by_name.into_values().collect(),
    }
}

/// What a machine says to the others: what it has heard, and of what is over that which the others have yet to hear. Sorted.
///
/// `before` is what it said last. A registration that is over is told until it is in force no more and no machine holds it to be good:
/// otherwise one that has not heard the agent's last word would bring it back.
pub(crate) fn to_tell<'a>(
    own: ReceivedValue,
    before: &ReceivedValue,
    in_force: &[Registered],
    others: impl IntoIterator<Item = &'a ReceivedValue>,
) -> ReceivedValue {
    let ReceivedValue { mut registered, over } = own;
    registered.sort_unstable_by(|a, b| identity(a).cmp(&identity(b)));
    registered.dedup_by(|a, b| identity(a) == identity(b));
    let mut over_by: BTreeMap<Identity<'_>, &EndedValue> = BTreeMap::new();
    // What it says now counts, and of two words the one about the later incarnation.
    let places: HashSet<Identity<'_>> = in_force.iter().map(identity).collect();
    let is_in_force = |of: &EndedValue| places.contains(&over_identity(of));
    // That it is dead is taken back when it passes checks again, as long as it is in force.
    let still = before.over.iter().filter(|of| of.why == EndReason::Deregistered || !is_in_force(of));
    for of in still.chain(&over) {
        let known = over_by.entry(over_identity(of)).or_insert(of);
        if known.incarnation <= of.incarnation {
            *known = of;
        }
    }
    for of in &registered {
        over_by.remove(&identity(of));
    }
    let others: Vec<&ReceivedValue> = others.into_iter().collect();
    let good: HashMap<Identity<'_>, u64> = {
        let mut good = HashMap::new();
        for of in in_force.iter().chain(others.iter().flat_map(|value| &value.registered)) {
            let oldest: &mut u64 = good.entry(identity(of)).or_insert(of.incarnation);
            *oldest = (*oldest).min(of.incarnation);
        }
        good
    };
    let over = over_by
        .into_iter()
        .filter(|(identity, of)| good.get(identity).is_some_and(|incarnation| *incarnation <= of.incarnation))
        .map(|(_, of)| of.clone())
        .collect();
    ReceivedValue { registered, over }
}

/// What of a value fits into `limit` bytes, written; and the number of registrations that do not, the last ones. Those that are over come first.
pub(crate) fn written(value: &ReceivedValue, limit: usize) -> (Vec<u8>, usize) {
    let bytes = keys::bytes(value);
    if bytes.len() <= limit {
        return (bytes, 0);
    }
    let mut size = keys::bytes(&ReceivedValue::default()).len() + "\"over\":[],".len();
    // With the comma.
    let mut fits = |bytes: usize| {
        size += bytes + 1;
        size <= limit
    };
    let over = value.over.iter().take_while(|of| fits(keys::bytes(of).len())).cloned().collect();
    let registered: Vec<Registered> =
        value.registered.iter().take_while(|of| fits(keys::bytes(of).len())).cloned().collect();
    let rest = value.registered.len() - registered.len();
    (keys::bytes(&ReceivedValue { registered, over }), rest)
}

#[cfg(test)]
mod tests;
