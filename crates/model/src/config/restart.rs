//! Which keys a running guidewayd cannot change.

use super::{Agents, Cluster, Config, Port, Service};

impl Config {
    /// Keys that differ in `new` and need a restart, in the order of the file: `machine.name`, `workers.cpus`,
    /// `port.data0.mtu`, `port.data1` for a port that came or went, `service.web.hash` where `state = "exceptions"`.
    pub fn restart_keys(&self, new: &Config) -> Vec<String> {
        let (old, mut keys) = (self, Vec::new());
        let mut compare = |key: &str, same: bool| {
            if !same {
                keys.push(key.to_owned());
            }
        };
        compare("machine.name", old.machine.name == new.machine.name);
        compare("machine.cluster_key", old.machine.cluster_key == new.machine.cluster_key);
        compare("machine.state_dir", old.machine.state_dir == new.machine.state_dir);
        compare("api.socket", old.api.socket == new.api.socket);
        compare("api.listen", old.api.listen == new.api.listen);
        compare("api.token_file", old.api.token_file == new.api.token_file);
        compare("api.tls", old.api.tls == new.api.tls);
        compare("metrics.listen", old.metrics.listen == new.metrics.listen);
        compare("dpdk.eal_args", old.dpdk.eal_args == new.dpdk.eal_args);
        compare("workers.cpus", old.workers.cpus == new.workers.cpus);
        compare("workers.management_cpus", old.workers.management_cpus == new.workers.management_cpus);
        compare("workers.idle", old.workers.idle == new.workers.idle);
        compare("workers.flows", old.workers.flows == new.workers.flows);
        compare("workers.wide_flows", old.workers.wide_flows == new.workers.wide_flows);
        agents_keys(old.agents.as_ref(), new.agents.as_ref(), &mut compare);
        cluster_keys(old.cluster.as_ref(), new.cluster.as_ref(), &mut compare);
        if old.cluster.is_some() {
            // Where messages between machines are taken, and how long all of them remember.
            compare("machine.address", old.machine.address == new.machine.address);
            compare("machine.address6", old.machine.address6 == new.machine.address6);
            compare("timeouts", old.timeouts == new.timeouts);
        }
        let same_order = old.ports.iter().map(|p| &p.name).eq(new.ports.iter().map(|p| &p.name));
        for port in &old.ports {
            match new.ports.iter().find(|p| p.name == port.name) {
                Some(other) => port_keys(port, other, &mut keys),
                None => keys.push(format!("port.{}", port.name)),
            }
        }
        for port in new.ports.iter().filter(|p| old.ports.iter().all(|o| o.name != p.name)) {
            keys.push(format!("port.{}", port.name));
        }
        if !same_order && old.ports.len() == new.ports.len() && keys.iter().all(|k| !k.starts_with("port.")) {
            keys.push("port (order)".to_owned());
        }
        for service in &old.services {
            if let Some(other) = new.services.iter().find(|s| s.name == service.name) {
                service_keys(service, other, &mut keys);
            }
        }
        keys
    }
}

/// Where agents connect; all else of them is read again.
fn agents_keys(old: Option<&Agents>, new: Option<&Agents>, compare: &mut impl FnMut(&str, bool)) {
    compare("agents.listen", old.map(|of| of.listen) == new.map(|of| of.listen));
    if let (Some(old), Some(new)) = (old, new) {
        compare("agents.tls", old.tls == new.tls);
    }
}

fn cluster_keys(old: Option<&Cluster>, new: Option<&Cluster>, compare: &mut impl FnMut(&str, bool)) {
    let (Some(old), Some(new)) = (old, new) else {
        compare("cluster.store", old.is_some() == new.is_some());
        return;
    };
    compare("cluster.endpoints", old.endpoints == new.endpoints);
    compare("cluster.tls", old.tls == new.tls);
    compare("cluster.user", old.user == new.user);
    compare("cluster.port", old.port == new.port);
    compare("cluster.sync", old.left_out.sync() == new.left_out.sync());
    compare("cluster.export", old.left_out.export() == new.left_out.export());
}

/// A flow that is not in the flow table is known by its slot alone, so slots must keep their meaning. With another VIP,
/// port or protocol it is another service, which begins without flows.
fn service_keys(old: &Service, new: &Service, keys: &mut Vec<String>) {
    let same = (old.vip, old.port, old.protocol) == (new.vip, new.port, new.protocol);
    if !same || !old.is_stateless() || !new.is_stateless() {
        return;
    }
    for (key, same) in [("maglev_size", old.maglev_size == new.maglev_size), ("hash", old.hash == new.hash)] {
        if !same {
            keys.push(format!("service.{}.{key}", old.name));
        }
    }
}

fn port_keys(old: &Port, new: &Port, keys: &mut Vec<String>) {
    let mut compare = |key: &str, same: bool| {
        if !same {
            keys.push(format!("port.{}.{key}", old.name));
        }
    };
    compare("device", old.device == new.device);
    compare("mtu", old.mtu == new.mtu);
    compare("mac", old.mac == new.mac);
    compare("exception", old.exception == new.exception);
    compare("exception_addresses", old.exception_addresses == new.exception_addresses);
    compare("exception_gateway", old.exception_gateway == new.exception_gateway);
    compare("exception_gateway6", old.exception_gateway6 == new.exception_gateway6);
}
