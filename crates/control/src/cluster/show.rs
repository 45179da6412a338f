//! What the API, the CLI and metrics show of the cluster.

use super::document::phase_name;
use super::membership::Membership;
use crate::caller::Caller;
use crate::controller::Controller;
use crate::refusal::Refusal;
use crate::wanted;
use model::api::{
    ClusterMember, ClusterStatus, EventKind, ExceptionStatus, LeaveResult, OwnerStatus, SyncCount,
};
use model::config::Mac;
use statesync::{MachineId, MachineSet, Member, Members};
use std::collections::{BTreeMap, BTreeSet};
use wire::BackendId;

/// Most slots looked at for one answer: the controller does nothing else meanwhile.
const SLOTS_MAX: usize = 1 << 21;

/// Name of a machine, for people.
pub(crate) fn machine_name(controller: &Controller, machine: MachineId) -> String {
    let name = controller.cluster.as_ref().and_then(|part| part.participant.snapshot().name(machine));
    name.map_or_else(|| format!("#{}", machine.0), str::to_owned)
}

/// Names of the machines of members.
pub(crate) fn names(controller: &Controller, members: impl IntoIterator<Item = Member>) -> Vec<String> {
    members.into_iter().map(|member| machine_name(controller, member.machine)).collect()
}

pub(crate) fn part(controller: &Controller) -> Result<&Membership, Refusal> {
    controller.cluster.as_ref().ok_or(Refusal::Alone)
}

/// `GET /v1/cluster`.
pub(crate) fn cluster_status(controller: &Controller) -> Result<ClusterStatus, Refusal> {
    let part = part(controller)?;
    let (participant, document) = (&part.participant, part.document());
    let plan = document.map(|document| &document.plan);
    let masks = plan.into_iter().flat_map(|plan| &plan.masks);
    Ok(ClusterStatus {
        machine: controller.config.machine.name.clone(),
        joined: part.participant.is_member(),
        misfit: part.participant.misfit().map(str::to_owned),
        store_reached: part.lost.is_none(),
        store_since_unix_ms: part.since_unix_ms,
        store_problem: part.lost.clone(),
        leader: participant.snapshot().leader().map(|leader| machine_name(controller, leader.machine)),
        step: plan.map_or(0, |plan| plan.step),
        step_done: participant.done(),
        epoch: plan.map_or(0, |plan| plan.epoch),
        generation: plan.map_or(0, |plan| plan.generation),
        phase: phase_name(plan.map(|plan| plan.phase).unwrap_or_default()).to_owned(),
        settled: document
            .zip(participant.snapshot().wish())
            .is_some_and(|(of, (_, wish))| of.settled == wish),
        refused: document.zip(participant.snapshot().wish()).and_then(|(of, (_, wish))| {
            of.refused.as_ref().filter(|(refused, _)| *refused == wish).map(|(_, problem)| problem.clone())
        }),
        waiting_for: names(controller, participant.lagging()),
        tainted_slots: plan.map_or(0, |plan| plan.tainted_slots() as u64),
        masked: masks.map(|mask| backend_name(controller, part, mask.backend)).collect(),
        relays_a_second: part.relays.0,
        relays_at_once: part.relays.1,
        members: cluster_members(controller, part),
        counters: sync_counts(controller),
    })
}

pub(crate) fn cluster_members(controller: &Controller, part: &Membership) -> Vec<ClusterMember> {
    let snapshot = part.participant.snapshot();
    let plan = part.plan();
    let planned = plan.map(|plan| plan.members.clone()).unwrap_or_default();
    let lost = plan.map(|plan| plan.lost.clone()).unwrap_or_default();
    let suspects = suspects(controller);
    let acknowledged: BTreeMap<Member, u64> =
        snapshot.acknowledgements(&[]).map(|known| (known.member, known.step)).collect();
    let own = part.participant.member();
    let all: BTreeSet<Member> = planned.iter().chain(snapshot.members().map(|(member, _)| member)).collect();
    let leaving: Members = snapshot.leaving();
    let member = |member: Member| {
        let value = snapshot.members().find(|(of, _)| *of == member).map(|(_, value)| value);
        let address = value.map(|value| value.address);
        let hop = || {
            let fixed = controller.config.machine.next_hop_mac;
            let found = || controller.backends.next_hops.get(&address?).map(|hop| Mac(hop.mac));
            fixed.or_else(found).map(|mac| mac.to_string())
        };
        ClusterMember {
            name: machine_name(controller, member.machine),
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
pub(crate) fn suspects(controller: &Controller) -> MachineSet {
    let bits = controller.workers.iter().map(|worker| worker.counters.sync.suspects.get());
    MachineSet::from_bits(bits.fold(0, |all, of| all | of))
}

/// Counters of state synchronisation, all workers together.
pub(crate) fn sync_counts(controller: &Controller) -> Vec<SyncCount> {
    let mut counts: Vec<SyncCount> = Vec::new();
    for worker in &controller.workers {
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

pub(crate) fn backend_name(_controller: &Controller, part: &Membership, backend: BackendId) -> String {
    let named = part.document().and_then(|document| {
        let identity = document.backends.iter().find(|of| of.id == backend)?;
        let service = document.services.iter().find(|of| of.id == identity.service)?;
        Some(format!("{}/{}", service.name, identity.name))
    });
    named.unwrap_or_else(|| format!("#{}", backend.0))
}

/// `GET /v1/owners`, of one service or of all.
pub(crate) fn owners(controller: &Controller, service: Option<&str>) -> Result<Vec<OwnerStatus>, Refusal> {
    let part = part(controller)?;
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
        all.extend(by_machine.into_iter().map(|(machine, (primary, backup, primary_tainted))| OwnerStatus {
            service: identity.name.clone(),
            machine: machine_name(controller, machine),
            primary,
            backup,
            primary_tainted,
        }));
    }
    Ok(all)
}

/// `GET /v1/exceptions`.
pub(crate) fn exceptions(controller: &Controller) -> Result<Vec<ExceptionStatus>, Refusal> {
    let part = part(controller)?;
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
            base: base.map(|base| backend_name(controller, part, base)),
            of_base,
            flows: base.map_or(0, |base| controller.live_flows(base)),
        };
        if bases.is_empty() {
            all.push(line(None, 0));
        }
        all.extend(bases.into_iter().map(|(base, count)| line(base, count)));
    }
    Ok(all)
}

/// The machine hands over what it knows, leaves its cluster, and stops.
pub(crate) fn leave(controller: &mut Controller, caller: &Caller) -> Result<LeaveResult, Refusal> {
    let part = part(controller)?;
    if let Some(reason) = &part.lost {
        return Err(Refusal::Store(reason.clone()));
    }
    let own = part.participant.member();
    let others =
        part.plan().map_or(0, |plan| plan.members.iter().filter(|of| Some(*of) != own).count() as u64);
    if controller.program.leaving.is_none() {
        controller.program.leaving = Some(controller.now.monotonic);
        let message = "leaves the cluster: no longer ready";
        controller.log.push_by(Some(caller), EventKind::ClusterLeft, (None, None), message);
        // Routers turn to the others first.
        wanted::tell_wanted(controller);
    }
    Ok(LeaveResult { machine: controller.config.machine.name.clone(), others })
}
