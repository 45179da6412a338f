//! Slot tables and configurations are made on other threads: they take long.

use crate::agents::token_file::tokens;
use crate::cluster::stock::{Lot, Missing};
use crate::compile::Recipe;
use crate::event::Event;
use model::Loaded;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Makes slot tables.
pub(crate) fn make(missing: Vec<Arc<Recipe>>, events: mpsc::Sender<Event>) {
    // They were checked, so none fails; one that did would be missing again.
    let made = move || {
        missing.into_iter().filter_map(|recipe| recipe.make().ok().map(|table| (recipe, table))).collect()
    };
    tokio::spawn(async move {
        let made = tokio::task::spawn_blocking(made).await;
        // Without them nothing is ever published again: an empty answer asks anew.
        let _ = events.send(Event::Tables(made.unwrap_or_default())).await;
    });
}

/// Makes what a member of a cluster lacks.
pub(crate) fn make_lot(missing: Missing, events: mpsc::Sender<Event>) {
    tokio::spawn(async move {
        let made = tokio::task::spawn_blocking(move || lot(missing)).await;
        // An empty answer asks anew.
        let _ = events.send(Event::ClusterLot(made.unwrap_or_default())).await;
    });
}

/// Takes as long as it takes.
fn lot(missing: Missing) -> Lot {
    let Missing { tables, key, texts } = missing;
    let tokens_of = |loaded: &Loaded| tokens(&loaded.config).map_err(|refusal| refusal.to_string());
    Lot {
        // They were checked, so none fails; one that did would be missing again.
        tables: tables.into_iter().filter_map(|recipe| recipe.make(&key).ok()).collect(),
        readings: texts.into_iter().map(|text| text.read(tokens_of)).collect(),
    }
}
