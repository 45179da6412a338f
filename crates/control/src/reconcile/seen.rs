//! What the controller makes of what is seen of the kernel's side: readiness, announcements, events, and whether a failed check says
//! anything about its backend.

use super::{RepairKind, Surroundings};
use crate::controller::Controller;
use crate::effect::Effect;
use crate::gauges;
use crate::health::Check;
use crate::wanted;
use model::api::{CheckResult, EventKind};
use std::time::Duration;
use wire::PortId;

/// Longest time that failing checks are not heeded because the interface that they leave by is not as wanted: then it is not repaired soon, and
/// they are all that is known of backends.
const BLIND_MAX: Duration = Duration::from_secs(10);

/// Takes in what was seen.
pub(crate) fn surroundings_seen(controller: &mut Controller, seen: Surroundings) {
    for port in controller.ports.iter().filter(|port| port.exception.is_some()) {
        let made = seen.absent.get(&port.id);
        // Seen of a device that there is no more.
        if made.is_some_and(|made| *made != controller.kernel.renewals.made(port.id)) {
            continue;
        }
        if controller.kernel.renewals.seen(port.id, made.is_some(), controller.publication.generation + 1) {
            controller.publication.dirty = true;
            if let (Some(_), Some((_, interface))) = (made, &port.exception) {
                let message = format!("{interface} is gone: it is made anew");
                controller.log.push(EventKind::InterfaceLost, None, None, message);
            }
        }
    }
    controller.kernel.ways.seen = seen;
    observe_links(controller);
    ways_changed(controller);
}

/// Compares links with what they were, and tells of changes.
pub(crate) fn observe_links(controller: &mut Controller) {
    let mut changed = false;
    for port in &controller.ports {
        let up = !controller.kernel.ways.seen.down.contains(&port.id)
            && controller.kernel.ways.driver.get(&port.id).copied().unwrap_or(true);
        // Up is what it is taken to be at the start.
        if controller.kernel.ways.links.insert(port.id, up).unwrap_or(true) == up {
            continue;
        }
        changed = true;
        let by = port.kernel.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
        let (kind, message) = match up {
            true => (EventKind::LinkUp, format!("port {}{by} has a link again", port.name)),
            false => (EventKind::LinkDown, format!("port {}{by} has no link", port.name)),
        };
        controller.log.push(kind, None, None, message);
    }
    if changed {
        ways_changed(controller);
    }
}

/// Something was put right.
pub(crate) fn repaired(controller: &mut Controller, kind: RepairKind, text: &str) {
    *controller.kernel.ways.repairs.entry(kind).or_default() += 1;
    controller.log.push(EventKind::Repaired, None, None, text);
}

/// Something could not be put right; `text` if that is news.
pub(crate) fn repair_failed(controller: &mut Controller, kind: RepairKind, text: Option<String>) {
    *controller.kernel.ways.failures.entry(kind).or_default() += 1;
    if let Some(text) = text {
        let message = format!("{text}; tried again until it is so");
        controller.log.push(EventKind::Warning, None, None, message);
    }
}

/// Starts making devices of exception interfaces that are gone, when the workers do not use them any more.
pub(crate) fn tend_renewals(controller: &mut Controller) {
    let acknowledged = gauges::acknowledged(&controller.workers);
    for port in controller.kernel.renewals.due(acknowledged, controller.now.monotonic) {
        controller.effects.push(Effect::Renew(port));
    }
}

/// A device was made anew, or not.
pub(crate) fn renewed(controller: &mut Controller, port: PortId, result: Result<(), String>) {
    let tells = controller.kernel.renewals.ended(port, result.is_ok(), controller.now.monotonic);
    let name = controller.ports.iter().find(|of| of.id == port).and_then(|of| of.exception.clone());
    let name = name.map_or_else(String::new, |(_, name)| name);
    match result {
        Ok(()) => {
            repaired(controller, RepairKind::Interface, &format!("{name} made anew"));
            controller.publication.dirty = true;
        }
        Err(problem) => {
            let text = format!("{name} is gone and cannot be made anew: {problem}");
            repair_failed(controller, RepairKind::Interface, tells.then_some(text));
        }
    }
}

/// Whether a failed check says nothing about its backend: while it was under way, nothing could leave by its interface.
pub(crate) fn is_blind(controller: &Controller, check: &Check, result: &CheckResult) -> bool {
    if result.passed {
        return false;
    }
    let lost = check.via.as_ref().and_then(|via| controller.kernel.ways.lost.get(via));
    lost.is_some_and(|lost| {
        says_nothing(
            *lost,
            controller.kernel.ways.can_send(),
            controller.now.monotonic,
            Duration::from_micros(result.duration_us),
        )
    })
}

/// Keeps note of what can leave by which interface, and of what follows for announcements.
pub(crate) fn ways_changed(controller: &mut Controller) {
    let now = controller.now.monotonic;
    let can_send = controller.kernel.ways.can_send();
    for port in &controller.ports {
        let Some((_, interface)) = &port.exception else { continue };
        let wrong = controller.kernel.ways.seen.wrong.iter().any(|(of, _, _)| *of == Some(port.id));
        match (controller.kernel.ways.lost.get_mut(interface), wrong || !can_send) {
            (None | Some((_, Some(_))), true) => {
                controller.kernel.ways.lost.insert(interface.clone(), (now, None));
            }
            (Some((_, until @ None)), false) => *until = Some(now),
            _ => {}
        }
    }
    wanted::tell_wanted(controller);
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
pub(super) fn interface(port: PortId, name: &str) -> super::decide::KernelInterface {
    super::decide::KernelInterface {
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
