//! Figures for workers, and the weights in force.

use super::LOOK_MS;
use crate::controller::Controller;
use crate::ids::Ids;
use crate::load::{self, BackendLoad, Reported};
use crate::load_weight::WHOLE;
use crate::passive::compare;
use crate::slow_start::{self, STEPS, Takes};
use model::config::{AdminState, Backend, Config, HealthKind, Join, Policy, Service, WeightBy};
use std::collections::{HashMap, HashSet};
use steer::{Maglev, Weighted};
use wire::{BackendId, ServiceId};
use worker::view::BackendState;

fn starts_slowly(service: &Service) -> bool {
    service.join == Join::SlowStart
}

fn follows_load(service: &Service) -> bool {
    service.policy == Policy::Maglev && service.weight_by == WeightBy::Load
}

/// What the agent of a backend says of its load; `None` while nothing is heard of it.
pub(crate) fn reported_load(
    controller: &Controller,
    service: &Service,
    backend: &Backend,
) -> Option<Reported> {
    let (load, _) = controller.agents.registry.load(&service.name, &backend.name)?;
    let reported = Reported {
        cpu_permille: load.cpu_permille,
        connections: load.connections,
        custom_permille: load.custom_permille,
    };
    (reported != Reported::default()).then_some(reported)
}

/// Machines that place flows; 1 for a machine alone.
pub(crate) fn machines(controller: &Controller) -> u32 {
    let plan = controller.cluster.as_ref().and_then(|part| part.plan());
    let count = plan.map_or(1, |plan| plan.members.iter().filter(|of| !plan.lost.contains(*of)).count());
    u32::try_from(count.max(1)).unwrap_or(u32::MAX)
}

/// Workers that place flows at the same time.
pub(crate) fn deciders(controller: &Controller) -> u32 {
    machines(controller).saturating_mul(u32::try_from(controller.workers.len()).unwrap_or(u32::MAX))
}

/// Four times a second: figures for workers, and whatever of weights is due by time.
pub(crate) fn weigh(controller: &mut Controller) {
    follow_loads(controller);
    observe_joins(controller);
    controller.publication.dirty |=
        controller.cluster.is_none() && shares(controller) != controller.balance.shares;
    compare::end_trials(controller);
    write_loads(controller);
}

/// Before a view is made: who joins, so that its share is right in it.
pub(crate) fn observe_joins(controller: &mut Controller) {
    let now_ms = controller.uptime_ms();
    let mut ramps = std::mem::take(&mut controller.balance.ramps);
    let slow: HashSet<ServiceId> = controller
        .config
        .services
        .iter()
        .filter(|service| starts_slowly(service))
        .filter_map(|service| controller.backends.ids.service(&service.name))
        .collect();
    ramps.retain(|id, _| slow.contains(id));
    for service in controller.config.services.iter().filter(|service| starts_slowly(service)) {
        let Some(id) = controller.backends.ids.service(&service.name) else { continue };
        let lasts_ms = u64::from(service.slow_start_ms);
        let seen =
            known(controller, service).map(|(id, of)| (id, takes(controller, service, of, id), lasts_ms));
        ramps.entry(id).or_default().observe(seen, now_ms);
    }
    controller.balance.ramps = ramps;
}

/// A view was made of the shares of now.
pub(crate) fn shares_are_in_force(controller: &mut Controller) {
    controller.balance.shares = shares(controller);
}

/// Backends of a service with their ids.
pub(crate) fn known<'a>(
    controller: &'a Controller,
    service: &'a Service,
) -> impl Iterator<Item = (BackendId, &'a Backend)> {
    let id = |of: &Backend| controller.backends.ids.backend(&service.name, &of.name, of.address);
    service.backends.iter().filter_map(move |of| Some((id(of)?, of)))
}

/// Whether a backend takes new flows, or, in a cluster, will do so with the next table.
pub(crate) fn takes(controller: &Controller, service: &Service, backend: &Backend, id: BackendId) -> Takes {
    let drained = || controller.backends.drains.contains(&(service.name.clone(), backend.name.clone()));
    if backend.state != AdminState::Up || backend.weight == 0 || drained() {
        return Takes::No;
    }
    if service.health.kind == HealthKind::None {
        return Takes::Yes;
    }
    match &controller.cluster {
        None => match controller.verdict(id) {
            Some(true) => Takes::Yes,
            Some(false) => Takes::No,
            None => Takes::Unknown,
        },
        Some(part) => match part.participant.snapshot().votes(&service.name, &backend.name) {
            // As the leader judges: where nobody knows anything it stays as it is.
            (0, 0) if is_placed(controller, service, id) => Takes::Yes,
            (0, 0) => Takes::Unknown,
            (up, down) if up >= down => Takes::Yes,
            _ => Takes::No,
        },
    }
}

/// Whether new flows may go to a backend, as of the view in force.
pub(crate) fn is_placed(controller: &Controller, service: &Service, id: BackendId) -> bool {
    let state =
        controller.publication.view.backends.get(id.index()).and_then(Option::as_ref).map(|of| of.state);
    let of = controller
        .backends
        .ids
        .service(&service.name)
        .and_then(|id| controller.publication.view.service.iter().find(|of| of.id == id));
    state == Some(BackendState::Up) && of.is_some_and(|of| of.members.contains(&id))
}

/// Shares of backends that start slowly and go by slots, for comparison.
pub(crate) fn shares(controller: &Controller) -> Vec<(BackendId, u64)> {
    let now_ms = controller.uptime_ms();
    let mut shares = Vec::new();
    for service in
        controller.config.services.iter().filter(|of| of.policy == Policy::Maglev && starts_slowly(of))
    {
        let ramps =
            controller.backends.ids.service(&service.name).and_then(|id| controller.balance.ramps.get(&id));
        let Some(ramps) = ramps.filter(|ramps| ramps.is_any()) else { continue };
        let parts = known(controller, service).map(|(id, _)| (id, ramps.parts(id, now_ms)));
        shares.extend(parts.filter(|(_, parts)| *parts < STEPS));
    }
    shares
}

/// The load that workers go by for a backend that takes new flows, millionths; `None` where load does not decide.
pub(crate) fn load_ppm(controller: &Controller, service: &Service, id: BackendId) -> Option<u32> {
    let placed = service.policy == Policy::LeastLoad && is_placed(controller, service, id);
    placed.then(|| controller.balance.loads.get(id).ppm)
}

/// The part of its weight that a backend has, thousandths.
pub(crate) fn share_permille(controller: &Controller, service: &Service, id: BackendId) -> u32 {
    let of = controller.backends.ids.service(&service.name).filter(|_| service.policy == Policy::Maglev);
    let ramps = of.and_then(|of| controller.balance.ramps.get(&of));
    let parts = ramps.map_or(STEPS, |ramps| ramps.parts(id, controller.uptime_ms()));
    let factor = of.and_then(|of| controller.balance.followers.get(&of)).map_or(WHOLE, |of| of.factor(id));
    u32::try_from(parts * u64::from(factor) / STEPS).unwrap_or(WHOLE)
}

/// Weights that are not the configured ones, by backend. In a cluster those for the next table, so that whoever is about to
/// come up begins with a small share.
pub(crate) fn weights_in_force(
    controller: &Controller,
    config: &Config,
    ids: &Ids,
) -> HashMap<BackendId, u32> {
    let now_ms = controller.uptime_ms();
    let mut all = HashMap::new();
    for service in config.services.iter().filter(|of| of.policy == Policy::Maglev) {
        if !starts_slowly(service) && !follows_load(service) {
            continue;
        }
        let Some(id) = ids.service(&service.name) else { continue };
        let (ramps, follower) = (controller.balance.ramps.get(&id), controller.balance.followers.get(&id));
        let lasts_ms = u64::from(service.slow_start_ms);
        let parts = |id| match ramps {
            None => STEPS,
            Some(ramps) if controller.cluster.is_some() => ramps.parts_to_be(id, lasts_ms, now_ms),
            Some(ramps) => ramps.parts(id, now_ms),
        };
        let factor = |id| u64::from(follower.map_or(WHOLE, |follower| follower.factor(id)));
        let known: Vec<(BackendId, u32, u64)> = service
            .backends
            .iter()
            .filter_map(|of| Some((ids.backend(&service.name, &of.name, of.address)?, of.weight)))
            .map(|(id, weight)| (id, weight, parts(id) * factor(id)))
            .collect();
        let weights = slow_start::weights(&known.iter().map(|of| (of.1, of.2)).collect::<Vec<_>>());
        all.extend(known.iter().map(|of| of.0).zip(weights));
    }
    all
}

/// The services are others: weights are told again at once.
pub(crate) fn tell_weights_anew(controller: &mut Controller) {
    controller.balance.told_ms = controller.balance.told_ms.map(|_| 0);
}

/// The leader's machine tells it the weights for the next table.
pub(crate) fn tell_weights(controller: &mut Controller) {
    let now_ms = controller.uptime_ms();
    let is_wanted = controller.config.services.iter().any(|of| starts_slowly(of) || follows_load(of));
    let leads = controller.cluster.as_ref().is_some_and(|part| part.participant.leads());
    let is_early = controller.balance.told_ms.is_some_and(|told| now_ms.saturating_sub(told) < LOOK_MS);
    if !leads || !is_wanted && controller.balance.told_ms.is_none() || is_early {
        return;
    }
    observe_joins(controller);
    let weights = weights_in_force(controller, &controller.config, &controller.backends.ids);
    controller.balance.told_ms = is_wanted.then_some(now_ms);
    if let Some(part) = &mut controller.cluster {
        part.participant.set_weights(weights);
    }
}

/// Figures for workers, of services with policy least-load.
pub(crate) fn write_loads(controller: &mut Controller) {
    let mut behind = HashSet::new();
    let (now_ms, machines) = (controller.uptime_ms(), u64::from(machines(controller)));
    let mut any = false;
    for service in controller.config.services.iter().filter(|of| of.policy == Policy::LeastLoad) {
        let ramps =
            controller.backends.ids.service(&service.name).and_then(|id| controller.balance.ramps.get(&id));
        let placed: Vec<(BackendId, BackendLoad)> = known(controller, service)
            .filter(|(id, _)| {
                let backend = controller.publication.view.backends.get(id.index()).and_then(Option::as_ref);
                backend.is_some_and(|backend| backend.state == BackendState::Up)
            })
            .map(|(id, of)| {
                let known = BackendLoad {
                    flows: controller.live_flows(id).saturating_mul(machines),
                    capacity: of.capacity,
                    weight: of.weight,
                    reported: reported_load(controller, service, of),
                    progress_ppm: ramps.and_then(|ramps| ramps.progress_ppm(id, now_ms)),
                };
                (id, known)
            })
            .collect();
        let mut known: Vec<BackendLoad> = placed.iter().map(|(_, known)| *known).collect();
        let left = |id| Some(compare::left_of_trial(controller, id)?.saturating_mul(machines));
        let left: Vec<Option<u64>> = placed.iter().map(|(id, _)| left(*id)).collect();
        load::make_room(&mut known, &left);
        for (at, (id, of)) in placed.iter().enumerate() {
            let is_late = of.progress_ppm.is_none() && controller.balance.behind.contains(id);
            if let Some(known) = known.get_mut(at).filter(|_| is_late) {
                // Its time is over, but it would draw every new flow until it has as many as the others.
                known.progress_ppm = Some(1_000_000);
            }
        }
        for (at, ((id, of), load)) in placed.iter().zip(load::loads(&known)).enumerate() {
            if load.joining && (of.progress_ppm.is_some() || !load::has_caught_up(&known, at)) {
                behind.insert(*id);
            }
            controller.balance.loads.set(*id, load);
        }
        any |= !placed.is_empty();
    }
    controller.balance.behind = behind;
    if any {
        controller.balance.loads.publish();
    }
}

/// Weights follow what agents say, where that is wanted.
pub(crate) fn follow_loads(controller: &mut Controller) {
    let now_ms = controller.uptime_ms();
    let mut followers = std::mem::take(&mut controller.balance.followers);
    let mut kept = HashMap::new();
    let mut adjusted = false;
    for service in controller.config.services.iter().filter(|of| follows_load(of)) {
        let Some(id) = controller.backends.ids.service(&service.name) else { continue };
        let mut follower = followers.remove(&id).unwrap_or_default();
        let said = |(id, of): (BackendId, &Backend)| {
            let reported = reported_load(controller, service, of);
            let (capacity, weight) = (of.capacity, of.weight);
            let known = BackendLoad { capacity, weight, reported, ..BackendLoad::default() };
            (id, reported.map(|_| known.own_ppm()))
        };
        let loads: Vec<_> = known(controller, service).map(said).collect();
        follower.hear(&loads, now_ms);
        let moved = |factors: &HashMap<BackendId, u32>| slots_moved(controller, service, id, factors);
        adjusted |= follower.adjust(service.maglev_size, service.churn_percent, now_ms, moved);
        kept.insert(id, follower);
    }
    controller.balance.followers = kept;
    // In a cluster the leader makes the table.
    controller.publication.dirty |= adjusted && controller.cluster.is_none();
}

/// How many slots of a service's table such factors would move.
pub(crate) fn slots_moved(
    controller: &Controller,
    service: &Service,
    id: ServiceId,
    factors: &HashMap<BackendId, u32>,
) -> Option<u32> {
    let table = controller.publication.view.service.iter().find(|of| of.id == id)?;
    let ramps = controller.balance.ramps.get(&id);
    let part = |id| {
        let parts = ramps.map_or(STEPS, |ramps| ramps.parts(id, controller.uptime_ms()));
        parts * u64::from(factors.get(&id).copied().unwrap_or(WHOLE))
    };
    let mut members: Vec<(&str, BackendId, u32)> = known(controller, service)
        .filter(|(id, _)| table.members.contains(id))
        .map(|(id, of)| (of.name.as_str(), id, of.weight))
        .collect();
    members.sort_unstable();
    let weights = slow_start::weights(&members.iter().map(|of| (of.2, part(of.1))).collect::<Vec<_>>());
    let weighted: Vec<Weighted<'_>> =
        members.iter().zip(weights).map(|(of, weight)| Weighted { name: of.0, weight }).collect();
    let key = &controller.config.machine.cluster_key;
    let next = Maglev::build(&weighted, service.maglev_size, key).ok()?;
    let before = |slot| table.maglev.at(slot).and_then(|at| table.members.get(usize::from(at)));
    let after = |slot| next.at(slot).and_then(|at| Some(&members.get(usize::from(at))?.1));
    let moved = (0..service.maglev_size).filter(|&slot| before(slot) != after(slot)).count();
    u32::try_from(moved).ok()
}
