//! Services begin and end, each in one step.
//!
//! A service that begins has no flows, so nothing needs to be agreed on before: it begins untainted, and a machine that does not have
//! it yet places nothing in it. One that ends takes its flows with it.

use super::{Leader, Taint};
use crate::members::Members;
use crate::plan::{Answers, Phase, Plan, ServicePlan, SlotSet};
use std::sync::Arc;
use wire::{BackendId, ServiceId, Tick};

impl Leader {
    /// Whether nothing is open or waits, and all live members have carried out the newest plan.
    pub fn is_at_rest(&self, live: &Members) -> bool {
        self.plan.phase == Phase::Idle
            && self.waiting() == 0
            && self.announced.is_empty()
            && self.all_have(self.plan.step, live)
    }

    /// The next plan: services end, others begin with these answers (behind the others, in this order), and these backends may have
    /// flows, which must be all that the remaining and the new services name. `None`, and nothing changes, unless the leader
    /// [is at rest](Leader::is_at_rest).
    pub fn replace_services(
        &mut self,
        end: &[ServiceId],
        begin: impl IntoIterator<Item = (ServiceId, Answers)>,
        backends: Arc<[BackendId]>,
        live: &Members,
        now: Tick,
    ) -> Option<&Plan> {
        if !self.is_at_rest(live) {
            return None;
        }
        let plan = &mut self.plan;
        let stays: Vec<bool> = plan.services.iter().map(|of| !end.contains(&of.service)).collect();
        let mut keep = stays.iter();
        plan.services.retain(|_| keep.next().copied().unwrap_or(true));
        let mut keep = stays.iter();
        self.taints.retain(|_| keep.next().copied().unwrap_or(true));
        for (service, cur) in begin {
            let fresh = Taint { since: now, changed: now, masked: false, not_before: Tick(0) };
            self.taints.push(vec![fresh; cur.len()]);
            plan.services.push(ServicePlan {
                service,
                base: Arc::clone(&cur),
                cur,
                tainted: SlotSet::default(),
            });
        }
        plan.masks.retain(|mask| backends.contains(&mask.backend));
        plan.backends = backends;
        // The job was about services at other places.
        plan.job = crate::plan::Job { id: plan.job.id, ..crate::plan::Job::default() };
        plan.step += 1;
        self.since = now;
        Some(&self.plan)
    }

    /// Services go by their slots from now on, and did not before: every flow has a record, and is anywhere. So all their slots are tainted, for
    /// the longest idle time at least, and each until no flow in it is elsewhere. Part of the step that
    /// [`replace_services`](Leader::replace_services) has just made.
    pub fn taint_services(&mut self, services: &[ServiceId], now: Tick) {
        for (of, taints) in self.plan.services.iter_mut().zip(&mut self.taints) {
            if !services.contains(&of.service) {
                continue;
            }
            for slot in 0..u32::try_from(of.cur.len()).unwrap_or(u32::MAX) {
                if !of.tainted.contains(slot) {
                    super::taint(of, slot);
                }
            }
            taints.fill(Taint { since: now, changed: now, masked: true, not_before: Tick(0) });
        }
    }
}
