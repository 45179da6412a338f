//! This machine as a member of its cluster.

use super::desire::{Desire, Progress};
use super::document::{Document, Settings};
use super::keys::Key;
use super::participant::{Own, Participant, StoreOrder};
use super::text;
use crate::now::Now;
use crate::publication::SLOTS_AT_ONCE;
use crate::refusal::Refusal;
use model::Loaded;
use model::config::Config;
use statesync::plan::{Job, Plan};
use statesync::{Owners, Rules};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use steer::Maglev;
use wire::{BackendId, ServiceId};
use worker::view::slots::SlotMemory;

/// Frames relayed to other machines, and records of flows that nobody saw begin, of a machine: a second, and at once.
pub(crate) const RELAYS: (u64, u64) = (20_000, 5_000);
/// What of a document the view is made of.
#[derive(Debug)]
pub(super) struct Adopted {
    pub(super) document: Arc<Document>,
    /// By place of the service.
    pub(super) taints: Vec<Arc<SlotMemory>>,
    pub(super) job: Arc<Job>,
}

/// Why a document is not in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unadopted {
    /// Its services are still being read.
    Waits,
    /// They do not fit this machine.
    Unfit,
}

/// A cluster's part of the controller.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) participant: Participant,
    pub(crate) config: model::config::Cluster,
    pub(super) adopted: Option<Adopted>,
    /// Why the newest document is not in force here.
    pub(super) unadopted: Option<Unadopted>,
    /// The services of this machine's own file, as they would be the cluster's.
    pub(super) own_services: Result<String, String>,
    /// Since when the store is reached, or not; Unix time, milliseconds.
    pub(crate) since_unix_ms: u64,
    /// Why the store is not reached, with its endpoints.
    pub(crate) lost: Option<String>,
    /// What was told of the loss, if it was told.
    pub(super) told_lost: Option<String>,
    /// When a loss was last told.
    pub(super) lost_told_at: Option<Duration>,
    pub(super) leads: bool,
    pub(super) was_ready: bool,
    /// What of the store did not fit this machine, as it was told.
    pub(super) misfit: Option<String>,
    /// The first wish of a new cluster is on its way.
    pub(super) is_founding: bool,
    /// Version of the snapshot of which agents were told the machines.
    pub(super) told_machines: u64,
    /// What became of services that were asked for.
    pub(super) progress: Progress,
    /// This machine cannot go on.
    pub(crate) fatal: Option<String>,
    /// [`RELAYS`].
    pub(crate) relays: (u64, u64),
    /// Those of the protocol that hold here.
    pub(super) rules: Rules,
}

impl Membership {
    /// Of a machine with this configuration; `None` for a machine alone.
    pub(crate) fn new(loaded: &Loaded, version: &str, cores: usize, now: Now) -> Option<Membership> {
        let config = &loaded.config;
        let cluster = config.cluster.clone()?;
        let own = Own {
            name: config.machine.name.clone(),
            address: own_address(config)?,
            version: version.to_owned(),
            cores,
            settings: Settings::new(&config.machine.cluster_key, cluster.port, &config.timeouts),
            key: config.machine.cluster_key,
            agents: config.agents.as_ref().map(|agents| agents.advertise),
        };
        let mut participant = Participant::new(own, loaded.text.clone());
        participant.make_elsewhere(SLOTS_AT_ONCE);
        Some(Membership {
            participant,
            config: cluster,
            adopted: None,
            unadopted: None,
            own_services: text::services_of(&loaded.text),
            since_unix_ms: now.unix_ms,
            lost: Some("not reached yet".to_owned()),
            told_lost: None,
            lost_told_at: None,
            leads: false,
            was_ready: false,
            misfit: None,
            is_founding: false,
            told_machines: 0,
            progress: Progress::default(),
            fatal: None,
            relays: RELAYS,
            rules: Rules::default(),
        })
    }

    /// The rule holds here no more.
    #[cfg(feature = "negative-controls")]
    pub(crate) fn break_rule(&mut self, rule: statesync::Rule) {
        self.rules = self.rules.without(rule);
        self.participant.break_rule(rule);
    }

    /// Who owns slots by a plan.
    pub(super) fn owners(&self, plan: &Plan) -> Owners {
        #[cfg(feature = "negative-controls")]
        if !self.rules.hold(statesync::Rule::Ranking) {
            return plan.owners().going_round();
        }
        plan.owners()
    }

    pub(super) fn message_of_loss(&self, lost: &str) -> String {
        let what_of_it = if self.participant.is_member() {
            "packets are forwarded as before, changes are refused"
        } else {
            "this machine cannot join its cluster before, and drops packets of services"
        };
        format!("the cluster's store is not reached ({lost}); {what_of_it}")
    }

    /// The plan in force.
    pub(crate) fn plan(&self) -> Option<&Plan> {
        Some(&self.adopted.as_ref()?.document.plan)
    }

    /// The document in force.
    pub(crate) fn document(&self) -> Option<&Document> {
        self.adopted.as_ref().map(|adopted| &*adopted.document)
    }

    /// Whether the machine takes traffic.
    pub(crate) fn is_ready(&self) -> bool {
        self.participant.is_ready()
    }

    /// Whether the data path is not to send new flows to a backend.
    pub(crate) fn is_masked(&self, backend: BackendId) -> bool {
        self.plan().is_some_and(|plan| plan.is_masked(backend))
    }

    /// The agreed table of a service.
    pub(crate) fn table(&self, service: ServiceId) -> Option<(Arc<Maglev>, Vec<BackendId>)> {
        let planned = self.plan()?.services.iter().find(|of| of.service == service)?;
        let table = self.participant.tables().of(&planned.cur)?;
        Some((Arc::clone(&table.maglev), table.members.clone()))
    }

    /// Addresses of the other machines, which need next hops.
    pub(crate) fn peers(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.participant.peers().map(|(_, address)| address)
    }

    /// A value that is to become the desired one.
    pub(super) fn desire(&self, value: Vec<u8>) -> Result<Desire, Refusal> {
        if value.len() > super::document::VALUE_MAX {
            return Err(Refusal::Store(format!("the services have {} bytes", value.len())));
        }
        if let Some(reason) = &self.lost {
            return Err(Refusal::Store(reason.clone()));
        }
        Ok(Desire { value, after: self.participant.snapshot().revision(Key::Desired) })
    }

    /// There was no room for an order: it comes again.
    pub(super) fn not_ordered(&mut self, order: &StoreOrder) {
        match order {
            StoreOrder::Put { key, .. } => self.participant.not_put(*key),
            StoreOrder::Register { machine, .. } => self.participant.not_put(Key::Machine(*machine)),
            StoreOrder::Lead { .. } | StoreOrder::Resign(_) => self.participant.not_put(Key::Leader),
            StoreOrder::Plan { .. } => self.participant.plan_written(None),
            StoreOrder::Leave => self.participant.not_left(),
            // The next one after the next plan does it, too.
            StoreOrder::Sweep { .. } => {}
        }
    }
}

/// Where a machine takes messages: its data address.
pub(crate) fn own_address(config: &Config) -> Option<IpAddr> {
    let machine = &config.machine;
    machine.address.map(IpAddr::V4).or(machine.address6.map(IpAddr::V6))
}
