//! What goes by load: figures for workers, slow starts, and weights that follow load.
//!
//! Rule of this module: it looks at what is known four times a second and before each view, and decides nothing itself: the loads are
//! [`crate::load`]'s, the shares [`crate::slow_start`]'s, the factors [`crate::load_weight`]'s. Workers read loads without a new view;
//! shares and factors are weights, so they come into force with a table. In a cluster that is the leader's, which is
//! told the weights by its own machine.

use crate::load_weight::LoadFollower;
use crate::slow_start::Ramps;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use wire::{BackendId, ServiceId};
use worker::view::BACKENDS_MAX;
use worker::view::loads::Loads;

pub(crate) mod weights;

/// How often workers get new figures.
pub(crate) const PERIOD: Duration = Duration::from_millis(250);
/// Without a change of what is known, weights for the leader are made anew this often, milliseconds.
const LOOK_MS: u64 = 20;

/// What is remembered from one look to the next.
#[derive(Debug)]
pub(crate) struct Balance {
    /// Shared with every view.
    pub(crate) loads: Arc<Loads>,
    /// Of services with join = "slow-start".
    ramps: HashMap<ServiceId, Ramps>,
    /// Of services with weight = "load".
    followers: HashMap<ServiceId, LoadFollower>,
    /// Backends that start slowly, and those that were done with that before they carried what the others do.
    behind: HashSet<BackendId>,
    /// The shares of backends that start slowly, as of the last view.
    shares: Vec<(BackendId, u64)>,
    /// When the leader was told weights last.
    told_ms: Option<u64>,
}

impl Balance {
    pub(crate) fn new() -> Balance {
        Balance {
            loads: Arc::new(Loads::new(BACKENDS_MAX)),
            behind: HashSet::new(),
            ramps: HashMap::new(),
            followers: HashMap::new(),
            shares: Vec::new(),
            told_ms: None,
        }
    }
}
