//! From the configuration to the EAL command line.

use dpdk::eal::ArgumentError;
use model::Config;

/// Why there is no command line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EalArgumentsError {
    /// A passed-through argument is ours.
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    /// A CPU is not there.
    #[error("{key} names CPU {cpu}, and this process may use {available}; change {key}")]
    Cpu {
        /// Where it is named.
        key: &'static str,
        /// The CPU.
        cpu: u16,
        /// Those there are.
        available: String,
    },
}

/// The command line, program first; `extra` comes from behind `--`.
pub(crate) fn build(config: &Config, extra: &[String]) -> Result<Vec<String>, EalArgumentsError> {
    let workers = &config.workers;
    let available = available_cpus();
    check("workers.cpus", &workers.cpus, &available)?;
    check("workers.management_cpus", &workers.management_cpus, &available)?;
    let management_cpus = management_cpus(config, &available);
    let file_prefix = format!("guideway-{}", config.machine.name);
    let arguments = dpdk::EalArguments {
        program: "guidewayd",
        file_prefix: &file_prefix,
        management_cpus: &management_cpus,
        worker_cpus: &workers.cpus,
        devices: config.ports.iter().map(|port| port.device.as_str()).collect(),
        configured: &config.dpdk.eal_args,
        extra,
    };
    Ok(arguments.build()?)
}

/// CPUs this process may use. EAL narrows them when it starts, so this is asked before.
fn available_cpus() -> Vec<u16> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    cores.iter().filter_map(|core| u16::try_from(core.id).ok()).collect()
}

/// As configured; else every CPU that is no worker's; else all.
fn management_cpus(config: &Config, available: &[u16]) -> Vec<u16> {
    let workers = &config.workers;
    if !workers.management_cpus.is_empty() {
        return workers.management_cpus.clone();
    }
    let free: Vec<u16> = available.iter().copied().filter(|cpu| !workers.cpus.contains(cpu)).collect();
    match (free.is_empty(), available.is_empty()) {
        (false, _) => free,
        (true, false) => available.to_vec(),
        // The kernel does not tell: a worker's CPU is one that surely exists.
        (true, true) => workers.cpus.clone(),
    }
}

fn check(key: &'static str, cpus: &[u16], available: &[u16]) -> Result<(), EalArgumentsError> {
    match cpus.iter().find(|cpu| !available.is_empty() && !available.contains(cpu)) {
        Some(cpu) => {
            let available = available.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
            Err(EalArgumentsError::Cpu { key, cpu: *cpu, available })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(workers: &str) -> Config {
        let text = format!(
            r#"
            [machine]
            name = "lb1"
            address = "10.0.0.1"
            cluster_key = "000102030405060708090a0b0c0d0e0f"
            [workers]
            {workers}
            [[port]]
            name = "data0"
            device = "net_null0"
            "#
        );
        model::load("test", &text).unwrap().config
    }

    #[test]
    fn management_runs_where_no_worker_does() {
        let cpus = |workers: &str| management_cpus(&config(workers), &[0, 1, 2]);
        assert_eq!(cpus("cpus = [1]"), [0, 2]);
        assert_eq!(cpus("cpus = [0, 1, 2]"), [0, 1, 2]);
        assert_eq!(cpus("cpus = [1]\nmanagement_cpus = [2]"), [2]);
        assert_eq!(management_cpus(&config("cpus = [1]"), &[]), [1]);
    }

    #[test]
    fn a_cpu_that_is_not_there_is_named() {
        assert_eq!(check("workers.cpus", &[0, 1], &[0, 1]), Ok(()));
        let error = check("workers.cpus", &[1, 7], &[0, 1]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "workers.cpus names CPU 7, and this process may use 0, 1; change workers.cpus"
        );
    }
}
