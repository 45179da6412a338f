//! What the controller makes of what is seen of the kernel's side: readiness, announcements, events, and whether a failed check says
//! anything about its backend.

use super::{Kind, Surroundings, Wanted, kernel};
use crate::announce::{self, Vip};
use crate::controller::Controller;
use crate::effect::Effect;
use crate::gauges;
use crate::health::Check;
use model::api::{CheckResult, EventKind};
use model::config::Announce;
use std::collections::BTreeMap;
use std::time::Duration;
use wire::PortId;

/// Longest time that failing checks are not heeded because the interface that they leave by is not as wanted: then it is not repaired soon, and
/// they are all that is known of backends.
const BLIND_MAX: Duration = Duration::from_secs(10);

/// Links and the kernel's side of ports, as they were last seen.
#[derive(Debug, Default)]
pub(crate) struct Ways {
    seen: Surroundings,
    /// Links of data ports, as their drivers say.
    driver: BTreeMap<PortId, bool>,
    /// Links of data ports: what the driver says, and the kernel of the interface below it.
    links: BTreeMap<PortId, bool>,
    /// Exception interfaces that are, or were, not as wanted or without any link: since when, and until when.
    lost: BTreeMap<String, (Duration, Option<Duration>)>,
    repairs: BTreeMap<Kind, u64>,
    failures: BTreeMap<Kind, u64>,
}

/// What is counted of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reconciled {
    pub(crate) kind: &'static str,
    /// Not as wanted, now.
    pub(crate) wrong: u64,
    /// Repairs since the start; `None`: the kernel does them.
    pub(crate) repairs: Option<u64>,
    /// Attempts that failed, since the start.
    pub(crate) failures: Option<u64>,
}

impl Ways {
    /// Links, as drivers say.
    pub(crate) fn set_driver(&mut self, links: Vec<(PortId, bool)>) {
        self.driver = links.into_iter().collect();
    }

    /// Something may leave the machine: a data port has a link.
    fn can_send(&self) -> bool {
        self.links.is_empty() || self.links.values().any(|up| *up)
    }
}

impl Controller {
    /// What the kernel is to have now.
    pub(crate) fn wanted_of_kernel(&self, announce: announce::Wanted) -> Wanted {
        let mut interfaces = kernel::interfaces(&self.config.ports);
        interfaces.retain_mut(|of| {
            let Some(port) = self.ports.get(of.port.index()) else { return false };
            of.port = port.id;
            of.mac = Some(port.mac);
            of.made = self.renewals.made(port.id);
            port.exception.is_some()
        });
        let links = self.ports.iter().filter_map(|port| Some((port.id, port.kernel.clone()?)));
        let announced = self.config.services.iter().filter(|of| of.announce == Announce::Kernel);
        Wanted {
            interfaces,
            links: links.collect(),
            announce,
            configured: announced.map(|service| Vip::from(service.vip)).collect(),
        }
    }

    /// Takes in what was seen.
    pub(crate) fn surroundings_seen(&mut self, seen: Surroundings) {
        for port in self.ports.iter().filter(|port| port.exception.is_some()) {
            let made = seen.absent.get(&port.id);
            // Seen of a device that there is no more.
            if made.is_some_and(|made| *made != self.renewals.made(port.id)) {
                continue;
            }
            if self.renewals.seen(port.id, made.is_some(), self.generation + 1) {
                self.dirty = true;
                if let (Some(_), Some((_, interface))) = (made, &port.exception) {
                    let message = format!("{interface} is gone: it is made anew");
                    self.log.push(EventKind::InterfaceLost, None, None, message);
                }
            }
        }
        self.ways.seen = seen;
        self.observe_links();
        self.ways_changed();
    }

    /// Compares links with what they were, and tells of changes.
    pub(crate) fn observe_links(&mut self) {
        let mut changed = false;
        for port in &self.ports {
            let up = !self.ways.seen.down.contains(&port.id)
                && self.ways.driver.get(&port.id).copied().unwrap_or(true);
            // Up is what it is taken to be at the start.
            if self.ways.links.insert(port.id, up).unwrap_or(true) == up {
                continue;
            }
            changed = true;
            let by = port.kernel.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
            let (kind, message) = match up {
                true => (EventKind::LinkUp, format!("port {}{by} has a link again", port.name)),
                false => (EventKind::LinkDown, format!("port {}{by} has no link", port.name)),
            };
            self.log.push(kind, None, None, message);
        }
        if changed {
            self.ways_changed();
        }
    }

    /// Whether anything may leave the machine.
    pub(crate) fn can_send(&self) -> bool {
        self.ways.can_send()
    }

    /// The link of a data port, as last seen.
    pub(crate) fn has_link(&self, port: PortId) -> bool {
        self.ways.links.get(&port).copied().unwrap_or(true)
    }

    /// Why nothing, or not everything, can leave the machine, or come to its kernel.
    pub(crate) fn why_no_way(&self) -> Option<String> {
        if !self.can_send() {
            return Some("no data port has a link".to_owned());
        }
        let mut wrong = self.ways.seen.wrong.iter().filter(|(port, _, _)| port.is_some());
        let (_, _, first) = wrong.next()?;
        let more = match wrong.count() {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        Some(format!("{first}{more}"))
    }

    /// What of a port's kernel side is not as wanted, in words.
    pub(crate) fn wrong_of(&self, port: PortId) -> Vec<String> {
        let of = self.ways.seen.wrong.iter().filter(|(of, _, _)| *of == Some(port));
        let of = of.map(|(_, _, text)| text.clone());
        of.chain((!self.has_link(port)).then(|| "no link".to_owned())).collect()
    }

    /// Something was put right.
    pub(crate) fn repaired(&mut self, kind: Kind, text: &str) {
        *self.ways.repairs.entry(kind).or_default() += 1;
        self.log.push(EventKind::Repaired, None, None, text);
    }

    /// Something could not be put right; `text` if that is news.
    pub(crate) fn repair_failed(&mut self, kind: Kind, text: Option<String>) {
        *self.ways.failures.entry(kind).or_default() += 1;
        if let Some(text) = text {
            let message = format!("{text}; tried again until it is so");
            self.log.push(EventKind::Warning, None, None, message);
        }
    }

    /// Starts making devices of exception interfaces that are gone, when the workers do not use them any more.
    pub(crate) fn tend_renewals(&mut self) {
        let acknowledged = gauges::acknowledged(&self.workers);
        for port in self.renewals.due(acknowledged, self.now.monotonic) {
            self.effects.push(Effect::Renew(port));
        }
    }

    /// A device was made anew, or not.
    pub(crate) fn renewed(&mut self, port: PortId, result: Result<(), String>) {
        let tells = self.renewals.ended(port, result.is_ok(), self.now.monotonic);
        let name = self.ports.iter().find(|of| of.id == port).and_then(|of| of.exception.clone());
        let name = name.map_or_else(String::new, |(_, name)| name);
        match result {
            Ok(()) => {
                self.repaired(Kind::Interface, &format!("{name} made anew"));
                self.dirty = true;
            }
            Err(problem) => {
                let text = format!("{name} is gone and cannot be made anew: {problem}");
                self.repair_failed(Kind::Interface, tells.then_some(text));
            }
        }
    }

    /// What is wrong, and was put right, by kind.
    pub(crate) fn reconciled(&self) -> Vec<Reconciled> {
        let count = |of: &BTreeMap<Kind, u64>, kind| of.get(&kind).copied().unwrap_or_default();
        let wrong = |kind| {
            let seen = self.ways.seen.wrong.iter().filter(|(_, of, _)| *of == kind).count();
            let links = self.ways.links.values().filter(|up| kind == Kind::Link && !**up).count();
            (seen + links) as u64
        };
        let kinds = Kind::ALL.iter().map(|kind| Reconciled {
            kind: kind.as_str(),
            wrong: wrong(*kind),
            repairs: Some(count(&self.ways.repairs, *kind)),
            failures: Some(count(&self.ways.failures, *kind)),
        });
        let hops = self.missing_next_hops();
        kinds.chain([Reconciled { kind: "neighbour", wrong: hops, repairs: None, failures: None }]).collect()
    }

    /// Whether a failed check says nothing about its backend: while it was under way, nothing could leave by its interface.
    pub(crate) fn is_blind(&self, check: &Check, result: &CheckResult) -> bool {
        if result.passed {
            return false;
        }
        let lost = check.via.as_ref().and_then(|via| self.ways.lost.get(via));
        lost.is_some_and(|lost| {
            says_nothing(
                *lost,
                self.can_send(),
                self.now.monotonic,
                Duration::from_micros(result.duration_us),
            )
        })
    }

    /// Keeps note of what can leave by which interface, and of what follows for announcements.
    fn ways_changed(&mut self) {
        let now = self.now.monotonic;
        let can_send = self.can_send();
        for port in &self.ports {
            let Some((_, interface)) = &port.exception else { continue };
            let wrong = self.ways.seen.wrong.iter().any(|(of, _, _)| *of == Some(port.id));
            match (self.ways.lost.get_mut(interface), wrong || !can_send) {
                (None | Some((_, Some(_))), true) => {
                    self.ways.lost.insert(interface.clone(), (now, None));
                }
                (Some((_, until @ None)), false) => *until = Some(now),
                _ => {}
            }
        }
        self.wish_neighbours();
    }
}

/// Whether a check that failed `now`, after so long, could not have left by an interface that was lost from and until then.
fn says_nothing(
    (since, until): (Duration, Option<Duration>),
    can_send: bool,
    now: Duration,
    took: Duration,
) -> bool {
    match until {
        None => !can_send || now < since + BLIND_MAX,
        Some(until) => now.checked_sub(took).is_none_or(|begun| begun <= until),
    }
}

/// An exception interface as the configuration of a port has it, for tests.
#[cfg(test)]
pub(super) fn interface(port: PortId, name: &str) -> super::Interface {
    super::Interface {
        port,
        name: name.to_owned(),
        mac: None,
        addresses: Vec::new(),
        gateways: std::collections::BTreeSet::new(),
        made: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_could_not_leave_says_nothing_and_others_do() {
        let (begun, second) = (Duration::from_secs(1_000), Duration::from_secs(1));
        let at = |seconds: u32| begun + seconds * second;
        // Lost from 10 on: for 10 s, or for as long as there is no link at all.
        assert!(says_nothing((at(10), None), true, at(11), second));
        assert!(says_nothing((at(10), None), true, at(19), second));
        assert!(!says_nothing((at(10), None), true, at(20), second));
        assert!(says_nothing((at(10), None), false, at(500), second));
        // Until 15: what was begun before that.
        let lost = (at(10), Some(at(15)));
        assert!(says_nothing(lost, true, at(16), 2 * second));
        assert!(says_nothing(lost, true, at(16), second));
        assert!(!says_nothing(lost, true, at(17), second));
    }
}
