//! The controller as a member of a cluster: documents become configurations and views, wishes go to the store.

use super::desire::Progress;
use super::document::{Document, unconfigured};
use super::keys::{self, DesiredValue, HealthValue, ReceivedValue};
use super::leading::ids_of;
use super::membership::{Adopted, Unadopted};
use super::participant::News;
use super::readings::Reading;
use super::stock::Lot;
use super::store_event::StoreEvent;
use crate::agents::facts::{AgentTokens, Facts};
use crate::agents::heard::EndReason;
use crate::backends::members;
use crate::backends::{ConfiguredBackend, DepartedBackend};
use crate::balance::weights;
use crate::controller::Controller;
use crate::effect::Effect;
use crate::health::{Subject, Verdict};
use crate::now::Now;
use crate::refusal::Refusal;
use crate::wanted;
use model::Loaded;
use model::api::EventKind;
use model::config::{AdminState, Backend, Config, Registration, Service};
use statesync::plan::{Job, Report};
use std::sync::Arc;
use std::time::Duration;
use wire::{BackendId, CoreId};
use worker::view::slots::SlotMemory;

/// How soon after a loss of the store was told the next one is, or another reason for it: the connection tries again every second.
const TOLD_AGAIN: Duration = Duration::from_secs(10);
/// Backends that departed stay until the plan lets them go.
const WHILE_PLANNED: Duration = Duration::from_secs(u32::MAX as u64);

/// The store says something.
pub(crate) fn store_event(controller: &mut Controller, event: StoreEvent) {
    let Some(part) = &mut controller.cluster else { return };
    match event {
        StoreEvent::Identified { member, joins } => part.participant.identified(member, joins),
        StoreEvent::Unfit(reason) => {
            controller.log.push(EventKind::Warning, None, None, reason.clone());
            part.fatal = Some(reason);
        }
        StoreEvent::Connected(changes) => {
            part.participant.connected(changes);
            part.is_founding = false;
            controller.agents.received_changed = true;
            part.since_unix_ms = controller.now.unix_ms;
            let is_first = part.lost_told_at.is_none();
            part.lost = None;
            if part.told_lost.take().is_some() || is_first {
                controller.log.push(EventKind::StoreReached, None, None, "the cluster's store is reached");
            }
        }
        StoreEvent::Changed(changes) => part.participant.changed(changes),
        StoreEvent::Disconnected(reason) => {
            part.participant.disconnected();
            if part.lost.is_none() {
                part.since_unix_ms = controller.now.unix_ms;
            }
            let lost = format!("{}: {reason}", part.config.endpoints.join(", "));
            let is_news = part.told_lost.as_ref() != Some(&lost);
            if is_news
                && part
                    .lost_told_at
                    .is_none_or(|at| controller.now.monotonic.saturating_sub(at) >= TOLD_AGAIN)
            {
                let message = part.message_of_loss(&lost);
                controller.log.push(EventKind::StoreLost, None, None, message);
                part.told_lost = Some(lost.clone());
                part.lost_told_at = Some(controller.now.monotonic);
            }
            part.lost = Some(lost);
        }
        StoreEvent::PlanWritten(revision) => part.participant.plan_written(revision),
        StoreEvent::NotPut(key) => part.participant.not_put(key),
        StoreEvent::NotOrdered(order) => part.not_ordered(&order),
        StoreEvent::NotDesired => part.is_founding = false,
    }
}

/// What workers report.
pub(crate) fn take_reports(controller: &mut Controller, reports: Vec<(CoreId, Report)>) {
    let Some(part) = &mut controller.cluster else { return };
    for (core, report) in reports {
        part.participant.report(core, report);
    }
}

/// Housekeeping: orders to the store, documents.
pub(crate) fn tend_cluster(controller: &mut Controller) {
    weights::tell_weights(controller);
    let health = std::mem::take(&mut controller.backends.health_changed).then(|| health_value(controller));
    // Checks that pass again take back that a backend is dead.
    controller.agents.received_changed |= controller.cluster.is_some() && health.is_some();
    tell_heard(controller);
    let now = controller.now.tick;
    let goes = controller
        .program
        .leaving
        .is_some_and(|since| controller.now.monotonic.saturating_sub(since) >= controller.program.grace);
    let Some(part) = &mut controller.cluster else { return };
    // Workers send to the new one.
    controller.publication.dirty |= part.participant.take_addresses_changed();
    if goes {
        part.participant.leave();
    }
    if let Some(health) = health {
        part.participant.set_health(&health);
    }
    controller.effects.extend(part.participant.poll(now).into_iter().map(Effect::Order));
    if part.leads != part.participant.leads() {
        part.leads = part.participant.leads();
        let message = if part.leads { "leads the cluster" } else { "leads the cluster no more" };
        controller.log.push(EventKind::ClusterLeader, None, None, message);
    }
    let mut adopts = false;
    for news in part.participant.take_news() {
        match news {
            News::Adopted => adopts = true,
            News::Warning(text) => controller.log.push(EventKind::Warning, None, None, text),
            News::Fatal(text) => {
                if part.fatal.is_none() {
                    controller.log.push(EventKind::Warning, None, None, text.clone());
                }
                part.fatal = Some(text);
            }
        }
    }
    let waits = part.unadopted == Some(Unadopted::Waits) && !part.participant.is_making();
    if adopts || waits {
        adopt(controller);
        tell_heard(controller);
    }
    make_missing(controller);
    tell_machines(controller);
    found_cluster(controller);
    let Some(part) = &mut controller.cluster else { return };
    if part.misfit.as_deref() != part.participant.misfit() {
        part.misfit = part.participant.misfit().map(str::to_owned);
        let message = match &part.misfit {
            Some(misfit) => {
                format!("{misfit}; until then packets are forwarded as before, and this machine is not ready")
            }
            None => "what the store says fits this machine again".to_owned(),
        };
        controller.log.push(EventKind::Warning, None, None, message);
    }
    tell_whether_ready(controller);
}

/// Whether it takes traffic is told when that is another thing now.
fn tell_whether_ready(controller: &mut Controller) {
    let Some(part) = &mut controller.cluster else { return };
    let ready = part.is_ready();
    if part.was_ready != ready {
        part.was_ready = ready;
        let message = if ready {
            "has joined the cluster"
        } else if part.participant.is_member() {
            "is not ready: what the store says does not fit it; packets are forwarded as before"
        } else {
            "is no member of the cluster: packets of services are dropped"
        };
        controller.log.push(EventKind::ClusterJoined, None, None, message);
        wanted::tell_wanted(controller);
    }
}

/// A cluster that has no services yet gets those of its first leader's file; one whose store has lost them, those that it had.
pub(crate) fn found_cluster(controller: &mut Controller) {
    let Some(part) = &mut controller.cluster else { return };
    if !part.leads || part.is_founding {
        return;
    }
    if let Some(wish) = part.participant.wish_to_put_back() {
        let wish = DesiredValue { unix_ms: controller.now.unix_ms, ..wish };
        let desire = part.desire(keys::bytes(&wish));
        part.is_founding = desire.is_ok();
        controller.effects.extend(desire.map(Effect::Desire));
        return;
    }
    if part.participant.snapshot().wish().is_some() {
        return;
    }
    let value = match &part.own_services {
        Ok(text) => DesiredValue {
            text: text.clone(),
            drains: controller.backends.drains.clone(),
            by: controller.config.machine.name.clone(),
            unix_ms: controller.now.unix_ms,
        },
        Err(_) => return,
    };
    // Whether it was taken is seen in the store.
    let desire = part.desire(keys::bytes(&value));
    part.is_founding = desire.is_ok();
    controller.effects.extend(desire.map(Effect::Desire));
}

/// What checks of this machine say.
pub(crate) fn health_value(controller: &Controller) -> HealthValue {
    let mut value = HealthValue::default();
    for member in controller.backends.members.values() {
        match member.verdict.as_ref().and_then(Verdict::up) {
            Some(true) => value.up.insert((member.service.clone(), member.name.clone())),
            Some(false) => value.down.insert((member.service.clone(), member.name.clone())),
            None => continue,
        };
    }
    value
}

/// What agents have told this machine, unless what is in force has yet to be looked at: some of it may be over.
pub(crate) fn tell_heard(controller: &mut Controller) {
    let Some(part) = &mut controller.cluster else { return };
    let is_current = part.adopted.is_some() && part.unadopted.is_none() && part.participant.is_current();
    let may = controller.base.agents.is_some() && is_current;
    if !may || !std::mem::take(&mut controller.agents.received_changed) {
        return;
    }
    let mut heard = ReceivedValue::from(controller.agents.registry.received());
    heard.over.retain(|over| {
        let id = controller.backends.ids.backend(&over.service, &over.backend, over.address);
        let verdict = id.and_then(|id| controller.backends.members.get(&id)?.verdict.as_ref()?.up());
        over.why != EndReason::Dead || verdict != Some(true)
    });
    part.participant.set_received(heard);
}

/// Agents are told which machines there are, when that is another set.
pub(crate) fn tell_machines(controller: &mut Controller) {
    let Some(part) = &mut controller.cluster else { return };
    let snapshot = part.participant.snapshot();
    if std::mem::replace(&mut part.told_machines, snapshot.version()) == snapshot.version() {
        return;
    }
    let machines = snapshot.agent_machines();
    // Without the store it is the last one that was seen.
    if !machines.is_empty() {
        controller.agents.registry.set_machines(machines);
    }
}

/// What the machine's own file says beside services, which are the cluster's.
pub(crate) fn renew_own(
    controller: &mut Controller,
    loaded: Loaded,
    services: String,
    tokens: Result<AgentTokens, Refusal>,
) {
    let agents = loaded.config.agents.as_ref().map(|agents| agents.advertise);
    if let Some(part) = &mut controller.cluster {
        part.participant.set_own_text(loaded.text, agents);
        part.own_services = Ok(services);
        if let Some(new) = &loaded.config.cluster {
            let keys = (new.sync_key, new.sync_key_accepted);
            for of in [Some(&mut part.config), Arc::make_mut(&mut controller.config).cluster.as_mut()]
                .into_iter()
                .flatten()
            {
                controller.publication.dirty |= (of.sync_key, of.sync_key_accepted) != keys;
                (of.sync_key, of.sync_key_accepted) = keys;
            }
        }
    }
    let base = Config { services: controller.base.services.clone(), ..loaded.config };
    match tokens {
        Ok(tokens) => configure_agents(controller, base, &tokens),
        Err(refusal) => {
            let message = format!("the agents' tokens stay as they were: {refusal}");
            controller.log.push(EventKind::Warning, None, None, message);
        }
    }
    if let Some(part) = controller.cluster.as_mut().filter(|part| part.unadopted == Some(Unadopted::Unfit)) {
        // What did not fit may have been this machine's part.
        part.unadopted = Some(Unadopted::Waits);
    }
}

/// Who may register and how is checked, of these services.
pub(crate) fn configure_agents(controller: &mut Controller, base: Config, tokens: &AgentTokens) {
    let mut facts = Facts::of(&base, tokens);
    let machines = controller.cluster.as_ref().map(|part| part.participant.snapshot().agent_machines());
    if let Some(machines) = machines.filter(|machines| !machines.is_empty()) {
        facts.machines = machines;
    }
    let now_ms = controller.uptime_ms();
    controller.agents.registry.configure(facts, now_ms);
    controller.open_gate(base.agents.as_ref().map_or(0, |agents| agents.connections));
    controller.base = base;
}

/// Has made what this machine lacks to go on.
pub(crate) fn make_missing(controller: &mut Controller) {
    let Some(missing) = controller.cluster.as_mut().and_then(|part| part.participant.take_missing()) else {
        return;
    };
    controller.effects.push(Effect::MakeMissing(missing));
}

/// What was lacking is there.
pub(crate) fn lot_made(controller: &mut Controller, lot: Lot) {
    let Some(part) = &mut controller.cluster else { return };
    part.participant.made(lot);
    tend_cluster(controller);
}

/// A document comes into force here.
pub(crate) fn adopt(controller: &mut Controller) {
    let Some(part) = &mut controller.cluster else { return };
    let Some(document) = part.participant.document().cloned() else { return };
    part.unadopted = Some(Unadopted::Waits);
    let progress = Progress { settled: document.settled, refused: document.refused.clone() };
    if part.progress != progress {
        part.progress = progress.clone();
        controller.effects.push(Effect::Progress(progress));
    }
    let known = part.adopted.as_ref().map(|adopted| &adopted.document);
    let is_same = known.is_some_and(|known| {
        known.text == document.text
            && known.drains == document.drains
            && known.registered == document.registered
            && known.services == document.services
            && known.backends == document.backends
    });
    if !is_same {
        let Some(reading) = part.participant.read(&document.text) else { return };
        if let Err(problem) = reconfigure(controller, &document, &reading) {
            let message = format!(
                "the cluster's services do not fit this machine, which holds up every change until \
                 that is mended: {problem}"
            );
            if let Some(part) = &mut controller.cluster {
                part.unadopted = Some(Unadopted::Unfit);
            }
            return controller.log.push(EventKind::Warning, None, None, message);
        }
    }
    let Some(part) = &mut controller.cluster else { return };
    part.unadopted = None;
    let (plan, left_out) = (&document.plan, part.config.left_out);
    let taints = plan.services.iter().map(|of| {
        let tainted = of.tainted.iter().filter(|_| !left_out.sync());
        let bases = tainted.map(|slot| (slot, of.base.get(slot as usize).copied().flatten()));
        Arc::new(SlotMemory::new(u32::try_from(of.cur.len()).unwrap_or(u32::MAX), bases))
    });
    let job = match (left_out.sync(), left_out.export()) {
        (false, false) => plan.job.clone(),
        (false, true) => Job { export: statesync::plan::SlotSets::default(), ..plan.job.clone() },
        (true, _) => Job { id: plan.job.id, ..Job::default() },
    };
    part.adopted = Some(Adopted { taints: taints.collect(), job: Arc::new(job), document });
    weights::tell_weights_anew(controller);
    controller.publication.dirty = true;
}

/// The services of a document become the configuration, its ids the ids.
pub(crate) fn reconfigure(
    controller: &mut Controller,
    document: &Document,
    reading: &Reading,
) -> Result<(), String> {
    let Some(part) = &controller.cluster else { return Ok(()) };
    let is_first = part.adopted.is_none();
    let Loaded { config: base, text, .. } = reading.loaded.as_ref().map_err(String::clone)?;
    let tokens = reading.tokens.as_ref().map_err(String::clone)?;
    let (mut config, skipped) = base.with_registered(&document.registered);
    let ids = ids_of(document);
    let mut services = Vec::with_capacity(document.services.len());
    // In the order of the plan, and only what the plan knows.
    for identity in &document.services {
        let found = config.services.iter().position(|service| identity.is(service));
        let mut service = config.services.swap_remove(found.ok_or_else(|| {
            format!("service {:?} is in the plan and not in the configuration", identity.name)
        })?);
        service.backends.retain(|of| ids.of(identity.id, &of.name, of.address).is_some());
        services.push(service);
    }
    config.services = services;
    let departed = departed_of(document, &config, controller.now);
    configure_agents(controller, base.clone(), tokens);
    if is_first {
        forget_ids(controller);
    }
    let now_ms = controller.uptime_ms();
    controller.agents.registry.agreed(&config.registered(), now_ms);
    controller.agents.received_changed = true;
    let before = std::mem::replace(&mut controller.config, Arc::new(config));
    controller.backends.ids = ids;
    members::replace_members(controller, &before, !is_first);
    controller.backends.remembered.clear();
    let stays = |id: BackendId| document.backends.iter().any(|of| of.id == id);
    for gone in
        std::mem::replace(&mut controller.backends.departed, departed).into_iter().filter(|of| !stays(of.id))
    {
        let backend = gone.service.backends.first();
        if let Some((backend, by)) = backend.and_then(|of| Some((of, of.registration.as_ref()?))) {
            controller.agents.registry.departed(&gone.service.name, &backend.name, &by.agent);
        }
    }
    // It fits the leader, so it is this machine that is different.
    for of in skipped {
        let name = (of.registered.service.as_str(), of.registered.backend.as_str());
        let message =
            format!("{} registered and does not fit this machine: {}", of.registered.address, of.why.reason);
        controller.log.push(EventKind::Warning, Some(name.0), Some(name.1), message);
    }
    controller.backends.drains.clone_from(&document.drains);
    controller.text.clone_from(text);
    controller.applied_unix_ms = controller.now.unix_ms;
    members::keep_states(controller);
    controller.saving.unsaved = true;
    Ok(())
}

/// The ids of the time before the first document stood for other backends: their states alone are kept.
fn forget_ids(controller: &mut Controller) {
    let members = std::mem::take(&mut controller.backends.members);
    for id in members.keys() {
        controller.effects.push(Effect::StopCheck(Subject::Backend(*id)));
        controller.backends.probe_ports.release(*id);
    }
    controller.backends.remembered = members.values().filter_map(ConfiguredBackend::saved).collect();
}

/// Backends that the plan knows and the configuration does not any more.
fn departed_of(document: &Document, config: &Config, now: Now) -> Vec<DepartedBackend> {
    let services = document.services.iter().map(|of| of.id).zip(&config.services).collect();
    let departed = unconfigured(&document.backends, &services).into_iter().map(|(identity, service)| {
        let backend = Backend {
            name: identity.name.clone(),
            address: identity.address,
            weight: 0,
            mac: identity.mac,
            state: AdminState::Drain,
            capacity: service.capacity,
            registration: identity.by.clone().map(|(agent, incarnation)| Registration {
                agent,
                incarnation,
                port: None,
            }),
        };
        let service = Service { backends: vec![backend], ..service.clone() };
        DepartedBackend {
            id: identity.id,
            service,
            since_unix_ms: now.unix_ms,
            settled: now.monotonic,
            deadline: now.monotonic + WHILE_PLANNED,
            closed: None,
        }
    });
    departed.collect()
}
