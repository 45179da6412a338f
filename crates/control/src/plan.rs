//! What applying a configuration would change, before it does.

use model::config::{AdminState, Backend, Config, Service};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::net::IpAddr;
use steer::{Maglev, Weighted};

/// Services that a change in short names.
const NAMED_MAX: usize = 3;

/// Fate of a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceFate {
    /// New.
    Added,
    /// Gone.
    Removed,
    /// Differs.
    Changed,
    /// As before.
    Same,
}

/// A service in the plan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServiceForecast {
    /// Its name.
    pub name: String,
    /// Its fate.
    pub change: ServiceFate,
    /// Slots of its table, of the new one where there is one.
    pub slots_total: u32,
    /// Slots that go to another backend, all backends healthy: the share of new flows (and of flows that are not in a
    /// flow table) that changes. All, when the table's size changes or the service goes.
    pub slots_moved: u32,
    /// Of a service with `state = "exceptions"`: slots that become tainted, all backends healthy. Their flows stay, and are
    /// tracked until none needs it. With a change from or to `all`: every slot.
    #[serde(default)]
    pub slots_tainted: u32,
    /// Keys of the service that differ, in the order of the file; `backend` stands for the four lists below.
    pub keys_changed: Vec<String>,
    /// New backends.
    pub backends_added: Vec<String>,
    /// Backends that go; their flows live on until idle or `drain_timeout_ms`.
    pub backends_removed: Vec<String>,
    /// Backends whose weight differs.
    pub backends_reweighted: Vec<String>,
    /// Backends whose address, MAC, state, capacity or registration differs.
    pub backends_changed: Vec<String>,
}

/// What applying a configuration would change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConfigPlan {
    /// Every service of either configuration: the new one's in its order, then those that go.
    pub services: Vec<ServiceForecast>,
    /// Keys that differ and cannot be changed without a restart.
    pub restart_keys: Vec<String>,
    /// Other keys outside of services that differ.
    pub changed_keys: Vec<String>,
    /// Memory for flow and slot tables of the new configuration, bytes.
    pub memory_bytes: u64,
    /// Memory for those of the old one, bytes.
    pub memory_before_bytes: u64,
    /// Open files that the daemon may need at once with the new configuration, about.
    #[serde(default)]
    pub descriptors: u64,
    /// Services of which the API has the last word, whatever the file says: what of the file is held back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<HeldService>,
    /// What it would cost a machine of a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Forecast>,
}

/// A service of which the API says something that holds over the file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HeldService {
    /// Its name.
    pub name: String,
    /// `set` or `deleted`; `None`: it is as the file says, but for backends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<String>,
    /// Backends whose weight or state is as the API says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<String>,
}

impl From<(&str, Option<&str>, Vec<&str>)> for HeldService {
    fn from((name, whole, backends): (&str, Option<&str>, Vec<&str>)) -> HeldService {
        let backends = backends.into_iter().map(str::to_owned).collect();
        HeldService { name: name.to_owned(), whole: whole.map(str::to_owned), backends }
    }
}

/// What a change of tables would cost this machine as a member of its cluster: the others have as much to say of what they track.
/// Backends that take flows now, and new ones, are held to be up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Forecast {
    /// Slots whose backend changes, all services: these become tainted.
    pub slots: u64,
    /// Flows that this machine tracks in these slots: they become exceptions, and their owners are told.
    pub flows: u64,
    /// Of these, statements to other machines: one or two a flow. Records that an earlier taint has left are told besides; only
    /// workers know those.
    pub statements: u64,
    /// UDP payload of these and of their acknowledgements, bytes, when none is lost.
    pub bytes: u64,
}

impl ConfigPlan {
    /// Nothing would change.
    pub fn is_empty(&self) -> bool {
        self.restart_keys.is_empty()
            && self.changed_keys.is_empty()
            && self.services.iter().all(|service| service.change == ServiceFate::Same)
    }

    /// Services that would not be as they are.
    pub fn touched(&self) -> Vec<String> {
        let touched = self.services.iter().filter(|service| service.change != ServiceFate::Same);
        touched.map(|service| service.name.clone()).collect()
    }

    /// The change in a few words: `web changed (backend), api added; timeouts.syn_s`.
    pub fn in_short(&self) -> String {
        let service = |of: &ServiceForecast| match of.change {
            ServiceFate::Added => format!("{} added", of.name),
            ServiceFate::Removed => format!("{} removed", of.name),
            ServiceFate::Changed | ServiceFate::Same => {
                format!("{} changed ({})", of.name, of.keys_changed.join(", "))
            }
        };
        let touched: Vec<&ServiceForecast> =
            self.services.iter().filter(|service| service.change != ServiceFate::Same).collect();
        let named: Vec<String> = touched.iter().take(NAMED_MAX).map(|of| service(of)).collect();
        let mut parts = vec![named.join(", ")];
        if let Some(further @ 1..) = touched.len().checked_sub(NAMED_MAX) {
            parts.push(format!("{further} further services"));
        }
        parts.push(self.changed_keys.join(", "));
        parts.retain(|part| !part.is_empty());
        if parts.is_empty() { "nothing that changes what is forwarded".to_owned() } else { parts.join("; ") }
    }
}

/// Compares two configurations; without an old one everything is new.
pub fn plan<'a>(old: impl Into<Option<&'a Config>>, new: &Config) -> ConfigPlan {
    let old: Option<&Config> = old.into();
    let before: HashMap<&str, &Service> = old
        .iter()
        .flat_map(|config| &config.services)
        .map(|service| (service.name.as_str(), service))
        .collect();
    let after: HashMap<&str, &Service> =
        new.services.iter().map(|service| (service.name.as_str(), service)).collect();
    let new_key = &new.machine.cluster_key;
    let old_key = old.map_or(new_key, |config| &config.machine.cluster_key);

    let mut services = Vec::with_capacity(new.services.len());
    for service in &new.services {
        services.push(match before.get(service.name.as_str()) {
            None => added(service),
            Some(old) => compared(old, service, old_key, new_key),
        });
    }
    let gone = old.iter().flat_map(|config| &config.services);
    services.extend(gone.filter(|service| !after.contains_key(service.name.as_str())).map(removed));
    ConfigPlan {
        services,
        restart_keys: old.map(|old| old.restart_keys(new)).unwrap_or_default(),
        changed_keys: old.map(|old| old.changed_keys(new)).unwrap_or_default(),
        memory_bytes: new.memory_bytes(),
        memory_before_bytes: old.map_or(0, Config::memory_bytes),
        descriptors: new.descriptors(),
        held: Vec::new(),
        cluster: None,
    }
}

fn names<'a>(backends: impl IntoIterator<Item = &'a Backend>) -> Vec<String> {
    backends.into_iter().map(|backend| backend.name.clone()).collect()
}

fn added(service: &Service) -> ServiceForecast {
    ServiceForecast {
        name: service.name.clone(),
        change: ServiceFate::Added,
        slots_total: service.maglev_size,
        slots_moved: 0,
        slots_tainted: 0,
        keys_changed: Vec::new(),
        backends_added: names(&service.backends),
        backends_removed: Vec::new(),
        backends_reweighted: Vec::new(),
        backends_changed: Vec::new(),
    }
}

fn removed(service: &Service) -> ServiceForecast {
    ServiceForecast {
        change: ServiceFate::Removed,
        slots_moved: service.maglev_size,
        backends_added: Vec::new(),
        backends_removed: names(&service.backends),
        ..added(service)
    }
}

fn compared(old: &Service, new: &Service, old_key: &[u8; 16], new_key: &[u8; 16]) -> ServiceForecast {
    let before: HashMap<&str, &Backend> = old.backends.iter().map(|b| (b.name.as_str(), b)).collect();
    let after: HashMap<&str, &Backend> = new.backends.iter().map(|b| (b.name.as_str(), b)).collect();
    let both = || new.backends.iter().filter_map(|b| Some((*before.get(b.name.as_str())?, b)));
    let differing = |differs: fn(&Backend, &Backend) -> bool| {
        names(both().filter(|(old, new)| differs(old, new)).map(|(_, new)| new))
    };
    let keys_changed = old.changed_keys(new);
    let same_tables = old_key == new_key && keys_changed.is_empty();
    let slots_moved = if same_tables { 0 } else { slots_moved(old, new, old_key, new_key) };
    let same_service = (old.vip, old.port, old.protocol) == (new.vip, new.port, new.protocol);
    ServiceForecast {
        name: new.name.clone(),
        change: if keys_changed.is_empty() { ServiceFate::Same } else { ServiceFate::Changed },
        slots_total: new.maglev_size,
        slots_moved,
        slots_tainted: match (old.is_stateless(), new.is_stateless()) {
            _ if !same_service || members(old).is_empty() => 0,
            (false, false) => 0,
            (true, true) => slots_moved,
            _ => new.maglev_size,
        },
        keys_changed,
        backends_added: names(new.backends.iter().filter(|b| !before.contains_key(b.name.as_str()))),
        backends_removed: names(old.backends.iter().filter(|b| !after.contains_key(b.name.as_str()))),
        backends_reweighted: differing(|old, new| old.weight != new.weight),
        backends_changed: differing(|old, new| {
            old.differing(new).iter().any(|key| key.name != "weight") || old.registration != new.registration
        }),
    }
}

/// Backends that take new flows when all are healthy, in the order of their tables.
fn members(service: &Service) -> Vec<(&str, u32, IpAddr)> {
    let takes = |b: &&Backend| b.state == AdminState::Up && b.weight > 0;
    let mut members: Vec<_> =
        service.backends.iter().filter(takes).map(|b| (b.name.as_str(), b.weight, b.address)).collect();
    members.sort_unstable_by_key(|member| member.0);
    members
}

fn slots_moved(old: &Service, new: &Service, old_key: &[u8; 16], new_key: &[u8; 16]) -> u32 {
    if old.maglev_size != new.maglev_size {
        return new.maglev_size;
    }
    let (before, after) = (members(old), members(new));
    if before == after && old_key == new_key {
        return 0;
    }
    let table = |members: &[(&str, u32, IpAddr)], key: &[u8; 16]| {
        let weighted: Vec<Weighted<'_>> =
            members.iter().map(|(name, weight, _)| Weighted { name, weight: *weight }).collect();
        Maglev::build(&weighted, new.maglev_size, key)
    };
    // Both configurations passed their checks, so both tables can be built; if not, everything counts as moved.
    let (Ok(old), Ok(new_table)) = (table(&before, old_key), table(&after, new_key)) else {
        return new.maglev_size;
    };
    // Per backend, not per slot: its index in the new table, if it is the same one (name and address) there.
    let places: HashMap<(&str, IpAddr), u16> =
        (0..).zip(&after).map(|(index, (name, _, address))| ((*name, *address), index)).collect();
    let stays: Vec<Option<u16>> =
        before.iter().map(|(name, _, address)| places.get(&(*name, *address)).copied()).collect();
    let moved = (0..new.maglev_size).filter(|slot| match (old.at(*slot), new_table.at(*slot)) {
        (None, None) => false,
        (Some(was), Some(is)) => stays.get(usize::from(was)).copied().flatten() != Some(is),
        _ => true,
    });
    u32::try_from(moved.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
