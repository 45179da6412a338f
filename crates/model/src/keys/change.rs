//! Which keys differ between two configurations, and which of these a running guidewayd cannot change.

use super::key::{ConfigKey, ConfigTable, RestartRule};
use crate::config::{Agents, Cluster, Config, Service};

impl Config {
    /// Keys that differ in `new` and need a restart, in the order of the file: `machine.name`,
    /// `workers.cpus`, `port.data0.mtu`, `port.data1` for a port that came or went, `service.web.hash` where
    /// `state = "exceptions"`.
    pub fn restart_keys(&self, new: &Config) -> Vec<String> {
        let is_restart = |key: &ConfigKey| key.change == RestartRule::Restart;
        let machine = self.machine.differing(&new.machine);
        let mut names = named("machine", &machine, is_restart);
        names.extend(named("api", &self.api.differing(&new.api), is_restart));
        names.extend(named("metrics", &self.metrics.differing(&new.metrics), is_restart));
        names.extend(named("dpdk", &self.dpdk.differing(&new.dpdk), is_restart));
        names.extend(named("workers", &self.workers.differing(&new.workers), is_restart));
        match (&self.agents, &new.agents) {
            (Some(old), Some(new)) => names.extend(named("agents", &old.differing(new), is_restart)),
            (None, None) => {}
            (Some(_), None) | (None, Some(_)) => names.push("agents.listen".to_owned()),
        }
        match (&self.cluster, &new.cluster) {
            (Some(old), Some(new)) => {
                names.extend(named("cluster", &old.differing(new), is_restart));
                let sync = (old.left_out.sync() != new.left_out.sync()).then_some("cluster.sync");
                let export = (old.left_out.export() != new.left_out.export()).then_some("cluster.export");
                names.extend(sync.into_iter().chain(export).map(str::to_owned));
            }
            (None, None) => {}
            (Some(_), None) | (None, Some(_)) => names.push("cluster.store".to_owned()),
        }
        if self.cluster.is_some() {
            // Where messages between machines are taken, and how long all of them remember.
            names.extend(named("machine", &machine, |key| key.change == RestartRule::InCluster));
            names.extend((self.timeouts != new.timeouts).then(|| "timeouts".to_owned()));
        }
        self.port_keys(new, &mut names);
        for old in &self.services {
            if let Some(new) = new.services.iter().find(|new| new.name == old.name) {
                names.extend(old.restart_keys(new));
            }
        }
        names
    }

    fn port_keys(&self, new: &Config, names: &mut Vec<String>) {
        let before = names.len();
        for old in &self.ports {
            let place = format!("port.{}", old.name);
            match new.ports.iter().find(|new| new.name == old.name) {
                Some(new) => names.extend(named(&place, &old.differing(new), |_| true)),
                None => names.push(place),
            }
        }
        for port in new.ports.iter().filter(|new| self.ports.iter().all(|old| old.name != new.name)) {
            names.push(format!("port.{}", port.name));
        }
        let order = |config: &Config| config.ports.iter().map(|port| port.name.clone()).collect::<Vec<_>>();
        if names.len() == before && order(self) != order(new) {
            names.push("port (order)".to_owned());
        }
    }

    /// Keys outside of services that differ in `new` and can be changed without a restart, but for those of a
    /// cluster.
    pub fn changed_keys(&self, new: &Config) -> Vec<String> {
        let is_live = |key: &ConfigKey| key.change != RestartRule::Restart;
        let cluster = of_optional(self.cluster.as_ref(), new.cluster.as_ref(), Cluster::differing);
        let agents = of_optional(self.agents.as_ref(), new.agents.as_ref(), Agents::differing);
        let mut names = named("cluster", &cluster, is_live);
        names.extend(named("machine", &self.machine.differing(&new.machine), is_live));
        names.extend(named("agents", &agents, is_live));
        names.extend(named("timeouts", &self.timeouts.differing(&new.timeouts), is_live));
        names
    }
}

impl Service {
    /// Keys that differ in `new`, in the order of the file. The order of backends is no difference.
    pub fn changed_keys(&self, new: &Service) -> Vec<String> {
        let by_name = |service: &Service| {
            let mut backends = service.backends.clone();
            backends.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            backends
        };
        let keys = self.differing(new).into_iter();
        let differ = keys.filter(|key| key.name != "backend" || by_name(self) != by_name(new));
        differ.map(|key| key.name.to_owned()).collect()
    }

    /// A flow that is not in the flow table is known by its slot alone, so slots must keep their meaning.
    /// With another VIP, port or protocol it is another service, which begins without flows.
    fn restart_keys(&self, new: &Service) -> Vec<String> {
        let same = (self.vip, self.port, self.protocol) == (new.vip, new.port, new.protocol);
        if !same || !self.is_stateless() || !new.is_stateless() {
            return Vec::new();
        }
        let place = format!("service.{}", self.name);
        named(&place, &self.differing(new), |key| key.change == RestartRule::WhileStateless)
    }
}

/// The keys that `is_meant`, with their place.
fn named(place: &str, keys: &[&'static ConfigKey], is_meant: impl Fn(&ConfigKey) -> bool) -> Vec<String> {
    keys.iter().filter(|key| is_meant(key)).map(|key| format!("{place}.{}", key.name)).collect()
}

/// Differing keys of a table that need not be there: all, if it came or went.
fn of_optional<T: ConfigTable>(
    old: Option<&T>,
    new: Option<&T>,
    differing: fn(&T, &T) -> Vec<&'static ConfigKey>,
) -> Vec<&'static ConfigKey> {
    match (old, new) {
        (Some(old), Some(new)) => differing(old, new),
        (None, None) => Vec::new(),
        (Some(_), None) | (None, Some(_)) => T::KEYS.iter().collect(),
    }
}
