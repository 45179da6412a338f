//! What the API, the CLI and metrics show of the cluster.

use super::adopt::Part;
use super::document::phase_name;
use crate::api::caller::Caller;
use crate::truth::{Refusal, Truth};
use model::api::{
    ClusterMember, ClusterStatus, EventKind, ExceptionStatus, LeaveResult, OwnerStatus, SyncCount,
};
use model::config::Mac;
use statesync::{MachineSet, Member, Members};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;
use wire::BackendId;

/// Most slots looked at for one answer: the owner of the truth does nothing else meanwhile.
const SLOTS_MAX: usize = 1 << 21;

impl Truth {
    fn part(&self) -> Result<&Part, Refusal> {
        self.cluster.as_ref().ok_or(Refusal::Alone)
    }

    /// `GET /v1/cluster`.
    pub(crate) fn cluster_status(&self) -> Result<ClusterStatus, Refusal> {
        let part = self.part()?;
        let (seat, document) = (&part.seat, part.document());
        let plan = document.map(|document| &document.plan);
        let masks = plan.into_iter().flat_map(|plan| &plan.masks);
        Ok(ClusterStatus {
            machine: self.config.machine.name.clone(),
            joined: part.seat.is_member(),
            misfit: part.seat.misfit().map(str::to_owned),
            store_reached: part.lost.is_none(),
            store_since_unix_ms: part.since_unix_ms,
            store_problem: part.lost.clone(),
            leader: seat.picture().leader().map(|leader| self.machine_name(leader.machine)),
            step: plan.map_or(0, |plan| plan.step),
            step_done: seat.done(),
            epoch: plan.map_or(0, |plan| plan.epoch),
            generation: plan.map_or(0, |plan| plan.generation),
            phase: phase_name(plan.map(|plan| plan.phase).unwrap_or_default()).to_owned(),
            settled: document.zip(seat.picture().wish()).is_some_and(|(of, (_, wish))| of.settled == wish),
            refused: document.zip(seat.picture().wish()).and_then(|(of, (_, wish))| {
                of.refused
                    .as_ref()
                    .filter(|(refused, _)| *refused == wish)
                    .map(|(_, problem)| problem.clone())
            }),
            waiting_for: self.names(seat.lagging()),
            tainted_slots: plan.map_or(0, |plan| plan.tainted_slots() as u64),
            masked: masks.map(|mask| self.backend_name(part, mask.backend)).collect(),
            relays_a_second: super::adopt::RELAYS.0,
            relays_at_once: super::adopt::RELAYS.1,
            members: self.cluster_members(part),
            counters: self.sync_counts(),
        })
    }

    fn cluster_members(&self, part: &Part) -> Vec<ClusterMember> {
        let picture = part.seat.picture();
        let plan = part.plan();
        let planned = plan.map(|plan| plan.members.clone()).unwrap_or_default();
        let lost = plan.map(|plan| plan.lost.clone()).unwrap_or_default();
        let suspects = self.suspects();
        let acknowledged: BTreeMap<Member, u64> =
            picture.acknowledgements(&[]).map(|known| (known.member, known.step)).collect();
        let own = part.seat.member();
        let all: BTreeSet<Member> =
            planned.iter().chain(picture.members().map(|(member, _)| member)).collect();
        let leaving: Members = picture.leaving();
        let member = |member: Member| {
            let value = picture.members().find(|(of, _)| *of == member).map(|(_, value)| value);
            let address = value.map(|value| value.address);
            let hop = || {
                let fixed = self.config.machine.next_hop_mac;
                let found = || self.next_hops.get(&address?).map(|hop| Mac(hop.mac));
                fixed.or_else(found).map(|mac| mac.to_string())
            };
            ClusterMember {
                name: self.machine_name(member.machine),
                machine: member.machine.0,
                incarnation: member.incarnation,
                address,
                state: if lost.contains(member) || value.is_none() {
                    "lost"
                } else if leaving.contains(member) {
                    "leaving"
                } else if planned.contains(member) {
                    "member"
                } else {
                    "joining"
                }
                .to_owned(),
                step_done: acknowledged.get(&member).copied(),
                suspect: Some(member) != own && suspects.contains(member.machine),
                next_hop: if Some(member) == own { None } else { hop() },
            }
        };
        all.into_iter().map(member).collect()
    }

    /// Machines that some worker does not ask.
    fn suspects(&self) -> MachineSet {
        let bits = self.workers.iter().map(|worker| worker.counters.sync.suspects.get());
        MachineSet::from_bits(bits.fold(0, |all, of| all | of))
    }

    /// Counters of state synchronisation, all workers together.
    pub(crate) fn sync_counts(&self) -> Vec<SyncCount> {
        let mut counts: Vec<SyncCount> = Vec::new();
        for worker in &self.workers {
            // The bits of a set are no number.
            let each = worker.counters.sync.each().filter(|(name, ..)| *name != "suspects");
            for (at, (name, help, count)) in each.enumerate() {
                match counts.get_mut(at) {
                    Some(known) => known.count += count,
                    None => counts.push(SyncCount { name: name.to_owned(), help: help.to_owned(), count }),
                }
            }
        }
        counts
    }

    fn backend_name(&self, part: &Part, backend: BackendId) -> String {
        let named = part.document().and_then(|document| {
            let identity = document.backends.iter().find(|of| of.id == backend)?;
            let service = document.services.iter().find(|of| of.id == identity.service)?;
            Some(format!("{}/{}", service.name, identity.name))
        });
        named.unwrap_or_else(|| format!("#{}", backend.0))
    }

    /// `GET /v1/owners`, of one service or of all.
    pub(crate) fn owners(&self, service: Option<&str>) -> Result<Vec<OwnerStatus>, Refusal> {
        let part = self.part()?;
        let Some(document) = part.document() else { return Ok(Vec::new()) };
        let owners = document.plan.owners();
        let chosen: Vec<_> = document
            .services
            .iter()
            .zip(&document.plan.services)
            .filter(|(identity, _)| service.is_none_or(|name| identity.name == name))
            .collect();
        if let (Some(name), true) = (service, chosen.is_empty()) {
            return Err(Refusal::UnknownService(name.to_owned()));
        }
        let slots: usize = chosen.iter().map(|(_, planned)| planned.cur.len()).sum();
        if slots > SLOTS_MAX {
            return Err(Refusal::TooMuch(format!(
                "{slots} slots are too many for one answer: ask for one service"
            )));
        }
        let mut all = Vec::new();
        for (identity, planned) in chosen {
            let mut by_machine: BTreeMap<_, (u64, u64, u64)> =
                owners.machines().iter().map(|machine| (machine, (0, 0, 0))).collect();
            for slot in 0..u32::try_from(planned.cur.len()).unwrap_or(u32::MAX) {
                let pair = owners.asked(identity.id, slot);
                if let Some(count) = pair.primary.and_then(|machine| by_machine.get_mut(&machine)) {
                    count.0 += 1;
                    count.2 += u64::from(planned.tainted.contains(slot));
                }
                if let Some(count) = pair.backup.and_then(|machine| by_machine.get_mut(&machine)) {
                    count.1 += 1;
                }
            }
            all.extend(by_machine.into_iter().map(|(machine, (primary, backup, primary_tainted))| {
                OwnerStatus {
                    service: identity.name.clone(),
                    machine: self.machine_name(machine),
                    primary,
                    backup,
                    primary_tainted,
                }
            }));
        }
        Ok(all)
    }

    /// `GET /v1/exceptions`.
    pub(crate) fn exceptions(&self) -> Result<Vec<ExceptionStatus>, Refusal> {
        let part = self.part()?;
        let Some(document) = part.document() else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for (identity, planned) in document.services.iter().zip(&document.plan.services) {
            let mut bases: BTreeMap<Option<BackendId>, u64> = BTreeMap::new();
            for slot in planned.tainted.iter() {
                *bases.entry(planned.base.get(slot as usize).copied().flatten()).or_default() += 1;
            }
            let tainted = planned.tainted.len() as u64;
            let line = |base: Option<BackendId>, of_base| ExceptionStatus {
                service: identity.name.clone(),
                slots: planned.cur.len() as u64,
                tainted,
                base: base.map(|base| self.backend_name(part, base)),
                of_base,
                flows: base.map_or(0, |base| self.live_flows(base)),
            };
            if bases.is_empty() {
                all.push(line(None, 0));
            }
            all.extend(bases.into_iter().map(|(base, count)| line(base, count)));
        }
        Ok(all)
    }

    /// The machine hands over what it knows, leaves its cluster, and stops.
    pub(crate) fn leave(&mut self, caller: &Caller) -> Result<LeaveResult, Refusal> {
        let part = self.part()?;
        if let Some(reason) = &part.lost {
            return Err(Refusal::Store(reason.clone()));
        }
        let own = part.seat.member();
        let others =
            part.plan().map_or(0, |plan| plan.members.iter().filter(|of| Some(*of) != own).count() as u64);
        if self.leaving.is_none() {
            self.leaving = Some(Instant::now());
            let message = "leaves the cluster: no longer ready";
            self.events.push_by(Some(caller), EventKind::ClusterLeft, (None, None), message);
            // Routers turn to the others first.
            self.wish_neighbours();
        }
        Ok(LeaveResult { machine: self.config.machine.name.clone(), others })
    }

    /// Whether the machine wanted to leave, and the others go on without it.
    pub(crate) fn has_left(&self) -> bool {
        self.leaving.is_some() && self.cluster.as_ref().is_some_and(|part| part.seat.has_left())
    }
}
