//! Several balancers that serve the same addresses.

use crate::api::rows;
use crate::balancer::Balancer;
use crate::command::{LabError, Result, until};
use crate::config::{Config, Member};
use crate::topology::Lab;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Makes a machine's configuration of its number and the backends.
pub type Recipe<'a> = Box<dyn Fn(u8, &[Member]) -> Config + 'a>;

/// Balancers 1 to n of a lab, each with its configuration of one recipe.
pub struct Machines<'a> {
    lab: &'a Lab,
    recipe: Recipe<'a>,
    members: Vec<Member>,
    running: BTreeMap<u8, Balancer>,
}

impl<'a> Machines<'a> {
    /// Starts them, and waits until all are ready.
    pub fn start(lab: &'a Lab, count: u8, members: Vec<Member>, recipe: Recipe<'a>) -> Result<Machines<'a>> {
        let mut machines = Machines { lab, recipe, members, running: BTreeMap::new() };
        for index in 1..=count {
            machines.spawn(index)?;
        }
        for index in 1..=count {
            machines.wait_ready(index)?;
        }
        Ok(machines)
    }

    /// Starts one and does not wait.
    pub fn spawn(&mut self, index: u8) -> Result<()> {
        let balancer = Balancer::spawn(self.lab, index, &(self.recipe)(index, &self.members))?;
        self.running.insert(index, balancer);
        Ok(())
    }

    /// Waits until one is ready, and returns how long that took.
    pub fn wait_ready(&mut self, index: u8) -> Result<Duration> {
        let none = || LabError::Wrong(format!("machine {index} does not run"));
        self.running.get_mut(&index).ok_or_else(none)?.wait_ready(Duration::from_secs(20))
    }

    /// Kills one without a word (SIGKILL).
    pub fn kill(&mut self, index: u8) -> Result<()> {
        if let Some(mut balancer) = self.running.remove(&index) {
            balancer.signal(rustix::process::Signal::KILL);
            balancer.wait(Duration::from_secs(5))?;
        }
        Ok(())
    }

    /// Tells one to leave its cluster, and returns when it is no longer ready.
    pub fn leave(&self, index: u8) -> Result<()> {
        let api = self.get(index)?.api();
        api.json("POST", "/v1/leave", "")?;
        until("GET /v1/ready 503", Duration::from_secs(5), || match api.request("GET", "/v1/ready", "") {
            Ok(answer) if answer.status == 503 => Ok(()),
            other => Err(format!("{other:?}")),
        })
    }

    /// Waits for the end of one, which must be a good one.
    pub fn ended(&mut self, index: u8, limit: Duration) -> Result<()> {
        let none = || LabError::Wrong(format!("machine {index} does not run"));
        let mut balancer = self.running.remove(&index).ok_or_else(none)?;
        let status = balancer.wait(limit)?;
        if status.success() {
            return Ok(());
        }
        Err(LabError::Wrong(format!("machine {index} ended with {status}:\n{}", balancer.log_tail(30))))
    }

    /// One that runs.
    pub fn get(&self, index: u8) -> Result<&Balancer> {
        self.running.get(&index).ok_or_else(|| LabError::Wrong(format!("machine {index} does not run")))
    }

    /// All that run.
    pub fn all(&self) -> impl Iterator<Item = (u8, &Balancer)> {
        self.running.iter().map(|(index, balancer)| (*index, balancer))
    }

    /// Their names and process ids.
    pub fn ids(&self) -> Vec<(String, u32)> {
        self.all().map(|(index, balancer)| (format!("lb{index}"), balancer.id())).collect()
    }

    /// The configuration of one for these backends.
    pub fn config(&self, index: u8, members: &[Member]) -> Config {
        (self.recipe)(index, members)
    }

    /// Gives each machine other backends, one machine after another.
    pub fn apply_to_each(&mut self, members: Vec<Member>) -> Result<()> {
        for (index, balancer) in &self.running {
            let answer = balancer.api().apply(&(self.recipe)(*index, &members).render())?;
            if answer.get("acknowledged") != Some(&Value::Bool(true)) {
                return Err(LabError::Wrong(format!("machine {index}: {answer}")));
            }
        }
        self.members = members;
        Ok(())
    }

    /// Gives the cluster other backends, through one of its machines, and waits until all have carried it out.
    pub fn apply_to_cluster(&mut self, index: u8, members: Vec<Member>) -> Result<Value> {
        let text = (self.recipe)(index, &members).render();
        let answer = self.get(index)?.api().json("POST", "/v1/apply?wait=true&timeout_ms=12000", &text)?;
        if answer.get("acknowledged") != Some(&Value::Bool(true)) {
            return Err(LabError::Wrong(format!("machine {index}: {answer}")));
        }
        self.members = members;
        Ok(answer)
    }

    /// What a machine says of its cluster: `GET /v1/cluster`.
    pub fn cluster(&self, index: u8) -> Result<Value> {
        self.get(index)?.api().get("/v1/cluster")
    }

    /// The flows of a service that a machine has in its table: client, and backend.
    pub fn flows(&self, index: u8, service: &str) -> Result<BTreeMap<SocketAddr, String>> {
        let answer = self.get(index)?.api().get(&format!("/v1/flows?service={service}&limit=10000"))?;
        let flow = |row: &Value| {
            let client = row.get("client")?.as_str()?.parse().ok()?;
            let port = u16::try_from(row.get("client_port")?.as_u64()?).ok()?;
            Some((SocketAddr::new(client, port), row.get("backend")?.as_str()?.to_owned()))
        };
        Ok(rows(answer.get("flows").unwrap_or(&answer)).iter().filter_map(flow).collect())
    }

    /// Rows of a machine's workers.
    pub fn workers(&self, index: u8) -> Result<Vec<Value>> {
        Ok(rows(&self.get(index)?.api().get("/v1/workers")?).to_vec())
    }

    /// A counter of `/v1/workers`, summed over a machine's workers.
    pub fn counter(&self, index: u8, name: &str) -> Result<u64> {
        let answer = self.get(index)?.api().get("/v1/workers")?;
        let of = |row: &Value| {
            row.get(name)
                .and_then(Value::as_u64)
                .ok_or_else(|| LabError::Wrong(format!("no {name} in {row}")))
        };
        rows(&answer).iter().map(of).sum()
    }

    /// Ends all of them in good order.
    pub fn stop(self) -> Result<()> {
        self.running.into_values().try_for_each(Balancer::stop)
    }
}

impl std::fmt::Debug for Machines<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machines").field("running", &self.running).finish_non_exhaustive()
    }
}
