//! A configuration comes into force.

use crate::agents::facts::{AgentTokens, Facts};
use crate::backends::members;
use crate::compile::{CompileError, Making};
use crate::controller::Controller;
use crate::ids::Ids;
use crate::refusal::Refusal;
use crate::view;
use model::Loaded;
use model::config::Config;
use model::registered::Skipped;
use std::sync::Arc;

/// The ids of a configuration, for [`install`].
pub(crate) fn ids_of(controller: &Controller, merged: &Config) -> Result<Ids, Refusal> {
    let mut ids = controller.backends.ids.clone();
    let assigned = ids.assign(merged, controller.now.tick, &|id| controller.live_flows(id));
    assigned.map_err(|error| Refusal::Compile(error.into()))?;
    Ok(ids)
}

/// Makes a configuration that can be compiled the one in force; its view is made in the next turn. `merged` is it with what has
/// registered, `ids` are [its ids](ids_of), `tokens` those of its agents.
pub(crate) fn install(
    controller: &mut Controller,
    loaded: Loaded,
    (merged, skipped): (Config, Vec<Skipped>),
    ids: Ids,
    tokens: &AgentTokens,
) {
    let Loaded { config, text, .. } = loaded;
    let now_ms = controller.uptime_ms();
    controller.agents.registry.configure(Facts::of(&config, tokens), now_ms);
    controller.agents.registry.skipped(&skipped);
    controller.base = config;
    controller.open_gate(controller.base.agents.as_ref().map_or(0, |agents| agents.connections));
    controller.text = text;
    controller.applied_unix_ms = controller.now.unix_ms;
    put_in_force(controller, merged, ids);
}

/// The ids that a configuration would get: what cannot be compiled is not let in.
pub(crate) fn tried(controller: &Controller, config: &Config) -> Result<Ids, CompileError> {
    let mut ids = controller.backends.ids.clone();
    view::compile_with(controller, config, &mut ids, Making::Nothing)?;
    // Its tables are not all there are.
    ids.tables = controller.backends.ids.tables.clone();
    Ok(ids)
}

/// Makes a configuration that was tried the one in force. It is published when things settle.
pub(crate) fn put_in_force(controller: &mut Controller, config: Config, mut ids: Ids) {
    // Not the trial's slots: it did not know yet which backends depart, and so may live on.
    ids.memories = std::mem::take(&mut controller.backends.ids.memories);
    controller.backends.ids = ids;
    let before = std::mem::replace(&mut controller.config, Arc::new(config));
    let registered = controller.config.registered();
    let now_ms = controller.uptime_ms();
    controller.agents.registry.agreed(&registered, now_ms);
    members::replace_members(controller, &before, controller.publication.generation > 0);
    members::keep_states(controller);
    controller.publication.dirty = true;
    controller.saving.unsaved = true;
}
