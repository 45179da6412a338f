//! Ids as they stand in the state file.
//!
//! Rule of this module: all of a file's ids, or none of them with the reason: two bearers of one id would mix up flows.

use super::{IdEntry, Ids, Life, ServiceIdentity};
use model::config::Protocol;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::net::IpAddr;
use wire::{BackendId, ServiceId, Tick};
use worker::view::{BACKENDS_MAX, SERVICES_MAX};

/// Ids and their bearers, ascending; also of services and backends that were removed and whose flows may live.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct SavedIds {
    services: Vec<SavedServiceId>,
    backends: Vec<SavedBackendId>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct SavedServiceId {
    id: u16,
    name: String,
    /// As in a configuration.
    vip: String,
    port: u16,
    protocol: Protocol,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct SavedBackendId {
    id: u32,
    service: u16,
    /// Empty: nobody's, until no flow names it.
    name: String,
    address: IpAddr,
}

impl Ids {
    /// As they are saved.
    pub(crate) fn saved(&self) -> SavedIds {
        let services = self.services.iter().map(|(of, id)| SavedServiceId {
            id: id.0,
            name: of.name.clone(),
            vip: of.vip.to_string(),
            port: of.port,
            protocol: of.protocol,
        });
        let backends = self.backends.iter().flat_map(|((service, address), entries)| {
            let of = |entry: &IdEntry| (entry.id.0, entry.name.clone());
            entries.iter().map(of).map(|(id, name)| SavedBackendId {
                id,
                service: service.0,
                name,
                address: *address,
            })
        });
        let mut saved = SavedIds { services: services.collect(), backends: backends.collect() };
        saved.services.sort_unstable_by_key(|of| of.id);
        saved.backends.sort_unstable_by_key(|of| of.id);
        saved
    }

    /// As they were saved before a restart, which ended at `now`.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn restored(saved: &SavedIds, now: Tick) -> Result<Ids, String> {
        let mut ids = Ids::default();
        for of in &saved.services {
            let (id, name) = (ServiceId(of.id), of.name.clone());
            let vip = of.vip.parse().map_err(|error| format!("the VIP {:?} of {name:?}: {error}", of.vip))?;
            if !(1..=SERVICES_MAX).contains(&usize::from(of.id)) {
                return Err(format!("service {name:?} has the id {}; 1 to {SERVICES_MAX} are", of.id));
            }
            let identity = ServiceIdentity { name, vip, port: of.port, protocol: of.protocol };
            if ids.services.insert(identity, id).is_some() {
                return Err(format!("service {:?} has two ids", of.name));
            }
        }
        let known = ids.known_services();
        if known.len() != ids.services.len() {
            return Err("two services have one id".to_owned());
        }
        for of in &saved.backends {
            let (id, place) = (BackendId(of.id), (ServiceId(of.service), of.address));
            if id.index() >= BACKENDS_MAX || !known.contains(&place.0) {
                return Err(format!("backend {:?} has the id {} in service {}", of.name, of.id, of.service));
            }
            let entries = ids.backends.entry(place).or_default();
            let is_twice = entries.iter().any(|entry| !of.name.is_empty() && entry.name == of.name);
            if is_twice || ids.places.insert(id, place).is_some() {
                return Err(format!("backend {:?} has two ids, or {} two bearers", of.name, of.id));
            }
            entries.push(IdEntry { name: of.name.clone(), id, life: Life::Restored(now) });
        }
        ids.services_given = known.iter().map(|id| id.0).max().unwrap_or(0);
        ids.backends_given = ids.places.keys().map(|id| id.0 + 1).max().unwrap_or(0);
        let given: HashSet<BackendId> = ids.places.keys().copied().collect();
        ids.free_services =
            (1..=ids.services_given).map(ServiceId).filter(|id| !known.contains(id)).collect();
        ids.free_backends = (0..ids.backends_given).map(BackendId).filter(|id| !given.contains(id)).collect();
        Ok(ids)
    }
}
