//! Ids of services and backends: stable while their identity stays, not used again while a flow may still name them.
//!
//! Rule of this module: an id means one identity at a time. A service is its name, VIP, port and protocol; a backend is
//! its service, name and address. What leaves the config keeps its id in a graveyard: if it comes back, it is the same
//! backend again and its flows live on; otherwise the id is given to another one only when the time of
//! [`forget_after_us`] is over, counted from the moment it left the views, and no flow names it. Over a restart they are
//! kept in the state file; what the configuration has not any more rests from the start on, and is let go earlier when
//! no other id is left.

use model::config::{Config, Net, Protocol, Service, Timeouts};
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use wire::{BackendId, ServiceId, Tick};
use worker::view::{BACKENDS_MAX, SERVICES_MAX};

use crate::compile::SlotTables;
use crate::slots::Memories;

#[cfg(any(feature = "daemon", feature = "rehearsal"))]
pub(crate) mod saved;

/// Why an id cannot be given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoId {
    /// Too many services, removed ones included.
    #[error(
        "no service id is free: {remembered} removed services are still remembered for their flows; \
         apply again when their flows have ended"
    )]
    Service {
        /// Removed services.
        remembered: usize,
    },
    /// Too many backends, removed ones included.
    #[error(
        "no backend id is free: {remembered} removed backends are still remembered for their flows; \
         apply again when their flows have ended, or shorten drain_timeout_ms"
    )]
    Backend {
        /// Removed backends.
        remembered: usize,
    },
}

/// How long a removed backend's id rests, microseconds: 1.5 times the longest idle time.
pub fn forget_after_us(timeouts: &Timeouts) -> u64 {
    let seconds = [timeouts.tcp_established_s, timeouts.tcp_closing_s, timeouts.syn_s, timeouts.udp_s];
    u64::from(seconds.into_iter().max().unwrap_or(0)) * 1_500_000
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct ServiceIdentity {
    name: String,
    vip: Net,
    port: u16,
    protocol: Protocol,
}

impl ServiceIdentity {
    fn of(service: &Service) -> ServiceIdentity {
        ServiceIdentity {
            name: service.name.clone(),
            vip: service.vip,
            port: service.port,
            protocol: service.protocol,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Life {
    /// In the config.
    Configured,
    /// Not in the config any more, perhaps still in the views.
    Removed,
    /// [`Ids::forget`] was called: not in the views from the next compilation on.
    Forgotten,
    /// Not in the views since then.
    Left(Tick),
    /// From before the restart, which was then, and not configured since.
    #[cfg_attr(not(any(feature = "daemon", feature = "rehearsal")), allow(dead_code))]
    Restored(Tick),
}

#[derive(Clone, Debug)]
struct IdEntry {
    name: String,
    id: BackendId,
    life: Life,
}

/// The ids, and what of the last view the next one goes on from: slot tables, which unchanged services keep, and slots.
#[derive(Clone, Debug, Default)]
pub struct Ids {
    services: HashMap<ServiceIdentity, ServiceId>,
    /// Configured services by name.
    by_name: HashMap<String, ServiceId>,
    /// Names that ever stood for an address in a service: one, seldom more.
    backends: HashMap<(ServiceId, IpAddr), Vec<IdEntry>>,
    /// Where the entry of an id is.
    places: HashMap<BackendId, (ServiceId, IpAddr)>,
    services_given: u16,
    backends_given: u32,
    free_services: VecDeque<ServiceId>,
    free_backends: VecDeque<BackendId>,
    /// Another one when anything but what is configured has changed.
    version: u64,
    pub(crate) tables: SlotTables,
    /// What is remembered of slots; lives as long as the service's id is not given to another.
    pub(crate) memories: Memories,
}

impl Ids {
    /// Ids that were given elsewhere (a cluster's), and no others: those that a configuration lacks cannot be assigned.
    #[cfg(any(feature = "daemon", feature = "rehearsal"))]
    pub(crate) fn given<'a>(
        services: impl IntoIterator<Item = (ServiceId, &'a str, Net, u16, Protocol)>,
        backends: impl IntoIterator<Item = (BackendId, ServiceId, &'a str, IpAddr)>,
    ) -> Ids {
        let mut ids = Ids {
            services_given: u16::try_from(SERVICES_MAX).unwrap_or(u16::MAX),
            backends_given: u32::try_from(BACKENDS_MAX).unwrap_or(u32::MAX),
            ..Ids::default()
        };
        for (id, name, vip, port, protocol) in services {
            ids.by_name.insert(name.to_owned(), id);
            ids.services.insert(ServiceIdentity { name: name.to_owned(), vip, port, protocol }, id);
        }
        for (id, service, name, address) in backends {
            let entry = IdEntry { name: name.to_owned(), id, life: Life::Configured };
            ids.backends.entry((service, address)).or_default().push(entry);
            ids.places.insert(id, (service, address));
        }
        ids
    }

    /// Id of the configured service of this name.
    pub fn service(&self, name: &str) -> Option<ServiceId> {
        self.by_name.get(name).copied()
    }

    /// Id of a backend of the configured service `service`; of a removed backend, too, until its id is free again.
    pub fn backend(&self, service: &str, name: &str, address: IpAddr) -> Option<BackendId> {
        self.of(self.service(service)?, name, address)
    }

    /// As [`Self::backend`], by the service's id.
    pub fn of(&self, service: ServiceId, name: &str, address: IpAddr) -> Option<BackendId> {
        let entries = self.backends.get(&(service, address))?;
        entries.iter().find(|entry| entry.name == name).map(|entry| entry.id)
    }

    /// Id of a service as it is or was configured.
    pub fn identified(&self, service: &Service) -> Option<ServiceId> {
        self.services.get(&ServiceIdentity::of(service)).copied()
    }

    /// The removed backend `id` will not be in the views any more: its id starts to rest. Configured backends are not
    /// concerned.
    pub fn forget(&mut self, id: BackendId) {
        let Some(place) = self.places.get(&id) else { return };
        let mut entries = self.backends.get_mut(place).into_iter().flatten();
        if let Some(entry) = entries.find(|entry| entry.id == id && entry.life == Life::Removed) {
            entry.life = Life::Forgotten;
            self.version += 1;
        }
    }

    /// As [`Self::forget`], of any backend, and its id is nobody's: the same name and address get another one from now on. For an
    /// address that another bearer has, who must not meet the former one's flows.
    pub fn disown(&mut self, id: BackendId) {
        let Some(place) = self.places.get(&id) else { return };
        let mut entries = self.backends.get_mut(place).into_iter().flatten();
        if let Some(entry) = entries.find(|entry| entry.id == id && !matches!(entry.life, Life::Left(_))) {
            entry.name.clear();
            entry.life = Life::Forgotten;
            self.version += 1;
        }
    }

    /// Differs after ids were given, let go or taken from their bearers.
    #[cfg(any(feature = "daemon", feature = "rehearsal"))]
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Ids of services that are configured, or were and may come back.
    pub(crate) fn known_services(&self) -> HashSet<ServiceId> {
        self.services.values().copied().collect()
    }

    /// Number of removed backends whose ids are not free yet.
    pub fn remembered(&self) -> usize {
        self.backends.values().flatten().filter(|entry| entry.life != Life::Configured).count()
    }

    /// Gives every service and backend of `config` its id. `flows` tells how many live flows name a backend.
    ///
    /// # Errors
    /// [`NoId`]; then `self` is half changed and to be dropped.
    pub fn assign(
        &mut self,
        config: &Config,
        now: Tick,
        flows: &dyn Fn(BackendId) -> u64,
    ) -> Result<(), NoId> {
        for entry in self.backends.values_mut().flatten() {
            if entry.life == Life::Configured {
                entry.life = Life::Removed;
            }
        }
        self.by_name.clear();
        for service in &config.services {
            if let Some(&id) = self.services.get(&ServiceIdentity::of(service)) {
                self.by_name.insert(service.name.clone(), id);
                for backend in &service.backends {
                    let entries = self.backends.get_mut(&(id, backend.address)).into_iter().flatten();
                    for entry in entries.filter(|entry| entry.name == backend.name) {
                        entry.life = Life::Configured;
                    }
                }
            }
        }
        // Free ids are found before new ones are given, so that a full house can change.
        self.bury(now, forget_after_us(&config.timeouts), flows);
        for service in &config.services {
            let id = match self.service(&service.name) {
                Some(id) => id,
                None => {
                    let id = self.free_service(flows)?;
                    self.services.insert(ServiceIdentity::of(service), id);
                    self.by_name.insert(service.name.clone(), id);
                    id
                }
            };
            for backend in &service.backends {
                if self.of(id, &backend.name, backend.address).is_none() {
                    let place = (id, backend.address);
                    let id = self.free_backend(flows)?;
                    let entry = IdEntry { name: backend.name.clone(), id, life: Life::Configured };
                    self.backends.entry(place).or_default().push(entry);
                    self.places.insert(id, place);
                }
            }
        }
        Ok(())
    }

    fn bury(&mut self, now: Tick, forget_after_us: u64, flows: &dyn Fn(BackendId) -> u64) {
        let mut left = 0;
        self.retain(|entry| match entry.life {
            Life::Configured | Life::Removed => true,
            Life::Forgotten => {
                entry.life = Life::Left(now);
                left += 1;
                true
            }
            Life::Left(since) | Life::Restored(since) => {
                now.since_us(since) < forget_after_us || flows(entry.id) > 0
            }
        });
        self.version += left;
    }

    /// Frees what the file remembered and nothing bears any more: room for others matters more.
    fn let_go(&mut self, flows: &dyn Fn(BackendId) -> u64) {
        self.retain(|entry| !matches!(entry.life, Life::Restored(_)) || flows(entry.id) > 0);
    }

    /// Frees the ids of the other backends, and of services of which then nothing is left.
    fn retain(&mut self, mut rests: impl FnMut(&mut IdEntry) -> bool) {
        let (free, places) = (&mut self.free_backends, &mut self.places);
        let before = (free.len(), self.free_services.len());
        self.backends.retain(|_, entries| {
            entries.retain_mut(|entry| {
                let rests = rests(entry);
                if !rests {
                    places.remove(&entry.id);
                    free.push_back(entry.id);
                }
                rests
            });
            !entries.is_empty()
        });
        // Every flow of a service names one of its backends, so a service rests as long as any of them.
        let configured: HashSet<ServiceId> = self.by_name.values().copied().collect();
        let resting: HashSet<ServiceId> = self.backends.keys().map(|(id, _)| *id).collect();
        let free = &mut self.free_services;
        self.services.retain(|_, id| {
            let keep = configured.contains(id) || resting.contains(id);
            if !keep {
                free.push_back(*id);
            }
            keep
        });
        self.version += u64::from((self.free_backends.len(), self.free_services.len()) != before);
    }

    /// Fresh ids first: a used one has counters of its former bearer.
    fn free_service(&mut self, flows: &dyn Fn(BackendId) -> u64) -> Result<ServiceId, NoId> {
        self.version += 1;
        if usize::from(self.services_given) < SERVICES_MAX {
            self.services_given += 1;
            return Ok(ServiceId(self.services_given));
        }
        if self.free_services.is_empty() {
            self.let_go(flows);
        }
        let remembered = self.services.len().saturating_sub(self.by_name.len());
        self.free_services.pop_front().ok_or(NoId::Service { remembered })
    }

    fn free_backend(&mut self, flows: &dyn Fn(BackendId) -> u64) -> Result<BackendId, NoId> {
        self.version += 1;
        let id = BackendId(self.backends_given);
        if id.index() < BACKENDS_MAX {
            self.backends_given += 1;
            return Ok(id);
        }
        if self.free_backends.is_empty() {
            self.let_go(flows);
        }
        let free = self.free_backends.pop_front();
        free.ok_or_else(|| NoId::Backend { remembered: self.remembered() })
    }
}

#[cfg(test)]
mod tests;
