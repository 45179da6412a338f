//! A backend: nginx, our own server, and the ways a backend can fail.

use crate::addresses::{
    ECHO_PORT, HTTP_PORT, VIP, VIP_NEAR, VIP_OTHER, VIP6, backend_address, backend_address6, backend_mac,
};
use crate::binaries::Binaries;
use crate::command::{LabError, Process, Result, Tried, run, until};
use crate::load::Job;
use crate::load::serve::Server;
use crate::namespace::Namespace;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a backend does to clients of its VIPs, while it passes its checks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ailment {
    /// It resets connections that it has accepted.
    Resets,
    /// It answers nothing: the first VIP is not on its loopback.
    Ignores,
    /// It answers a SYN with a reset: its server listens on other addresses only.
    Refuses,
}

/// A backend of the lab.
#[derive(Debug)]
pub struct Backend {
    name: String,
    index: u8,
    namespace: Namespace,
    dir: PathBuf,
    lab_load: PathBuf,
    processes: Mutex<Vec<Process>>,
}

impl Backend {
    pub(crate) fn new(index: u8, namespace: Namespace, dir: &Path, binaries: &Binaries) -> Result<Backend> {
        let name = format!("b{index}");
        let dir = dir.join(&name);
        std::fs::create_dir_all(&dir).tried(|| format!("creating {}", dir.display()))?;
        std::fs::write(dir.join("nginx.conf"), nginx_config(&name, &dir))
            .tried(|| "writing nginx.conf".into())?;
        let lab_load = binaries.lab_load.clone();
        Ok(Backend { name, index, namespace, dir, lab_load, processes: Mutex::new(Vec::new()) })
    }

    /// Its name: b1, b2, …; also what its servers answer.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number, from 1.
    pub fn index(&self) -> u8 {
        self.index
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its IPv4 address.
    pub fn address(&self) -> String {
        backend_address(self.index)
    }

    /// Its IPv6 address.
    pub fn address6(&self) -> String {
        backend_address6(self.index)
    }

    /// MAC of its interface and of its VXLAN device; Geneve frames are for the former.
    pub fn mac(&self) -> String {
        backend_mac(self.index)
    }

    /// Starts the servers and waits until they listen.
    pub fn start(&self) -> Result<()> {
        let log = self.dir.join("servers.log");
        let config = self.dir.join("nginx.conf").to_string_lossy().into_owned();
        let prefix = self.dir.to_string_lossy().into_owned();
        let nginx = self.namespace.start(
            "nginx",
            &["nginx", "-e", "stderr", "-p", &prefix, "-c", &config, "-g", "daemon off; master_process off;"],
            &log,
        )?;
        let server = self.server(None)?;
        *self.lock() = vec![nginx, server];
        self.wait_listening()
    }

    /// Starts our own server, which misbehaves towards clients of VIPs.
    fn server(&self, ailment: Option<Ailment>) -> Result<Process> {
        let parse =
            |addresses: &[&str]| addresses.iter().filter_map(|address| address.parse().ok()).collect();
        let own = [&*self.address(), &*self.address6()];
        let vips = [VIP, VIP_OTHER, VIP_NEAR, VIP6];
        let job = Job::Serve(Server {
            name: self.name.clone(),
            port: ECHO_PORT,
            udp: if ailment.is_some() { parse(&own) } else { parse(&[&vips[..], &own].concat()) },
            tcp: if ailment == Some(Ailment::Refuses) { parse(&own) } else { Vec::new() },
            resets: if ailment == Some(Ailment::Resets) { parse(&vips) } else { Vec::new() },
        });
        let log = self.dir.join("servers.log");
        self.namespace.start("server", &[Binaries::existing(&self.lab_load)?, &job.to_json()?], &log)
    }

    /// From now on its server passes probes of its own addresses, and serves no client of a VIP.
    pub fn fall_ill(&self, ailment: Ailment) -> Result<()> {
        if ailment == Ailment::Ignores {
            // What comes for an address that is not its own it neither takes nor forwards.
            return self.namespace.ip(&format!("address del {VIP}/32 dev lo")).map(drop);
        }
        self.restart_server(Some(ailment))
    }

    /// Ends that.
    pub fn recover(&self) -> Result<()> {
        self.namespace.ip(&format!("address replace {VIP}/32 dev lo"))?;
        self.restart_server(None)
    }

    fn restart_server(&self, ailment: Option<Ailment>) -> Result<()> {
        if let Some(mut server) = self.lock().pop() {
            server.kill();
        }
        let server = self.server(ailment)?;
        self.lock().push(server);
        self.wait_listening()
    }

    fn wait_listening(&self) -> Result<()> {
        until(&format!("servers of {}", self.name), Duration::from_secs(10), || {
            let listening = self.namespace.run(&["ss", "-Hltn"]).map_err(|error| error.to_string())?;
            let open = |port: u16| listening.contains(&format!(":{port} "));
            if open(HTTP_PORT) && open(ECHO_PORT) {
                Ok(())
            } else {
                Err(self.lock().iter().map(|process| process.log_tail(5)).collect())
            }
        })
    }

    /// Kills the servers without a word; the host stays up, so connections are refused.
    pub fn kill(&self) {
        for process in self.lock().iter_mut() {
            process.kill();
        }
    }

    /// Takes the host off the network; nothing answers any more.
    pub fn unplug(&self) -> Result<()> {
        self.namespace.ip("link set eth0 down").map(drop)
    }

    /// Puts it back on.
    pub fn plug(&self) -> Result<()> {
        self.namespace.ip_batch(&format!(
            "link set eth0 up\n\
             address replace {}/64 dev eth0 nodad\n\
             route replace default via {}\n\
             route replace default via {}\n",
            self.address6(),
            crate::topology::ROUTER,
            crate::topology::ROUTER6,
        ))
    }

    /// What the decapsulation program counted: `ipip`, `gre`, `gue`, `geneve`, `passed`, `bad`.
    pub fn decapsulated(&self) -> Result<BTreeMap<&'static str, u64>> {
        let wrong = |what: &str, text: &str| LabError::Wrong(format!("{}: no {what} in {text}", self.name));
        let parse = |text: &str| {
            serde_json::from_str::<serde_json::Value>(text)
                .map_err(|error| LabError::Wrong(format!("{}: not JSON ({error}): {text}", self.name)))
        };
        let link = self.namespace.ip("-j -d link show dev eth0")?;
        let program =
            parse(&link)?.pointer("/0/xdp/prog/id").cloned().ok_or_else(|| wrong("XDP program", &link))?;
        let shown = run(&["bpftool", "-j", "prog", "show", "id", &program.to_string()])?;
        let maps = parse(&shown)?.get("map_ids").cloned().ok_or_else(|| wrong("maps", &shown))?;
        let map = maps.get(0).ok_or_else(|| wrong("map", &shown))?;
        let dump = run(&["bpftool", "-j", "map", "dump", "id", &map.to_string()])?;
        let rows = parse(&dump)?;
        let rows = rows.as_array().ok_or_else(|| wrong("rows", &dump))?;
        let mut counts = BTreeMap::new();
        for (name, row) in ["ipip", "gre", "gue", "geneve", "passed", "bad"].into_iter().zip(rows) {
            let value = row.pointer("/formatted/value").and_then(serde_json::Value::as_u64);
            counts.insert(name, value.ok_or_else(|| wrong("value", &dump))?);
        }
        Ok(counts)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Process>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn nginx_config(name: &str, dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"pid {dir}/nginx.pid;
user root;
worker_processes 1;
error_log stderr warn;
events {{ worker_connections 4096; multi_accept on; }}
http {{
  access_log off;
  keepalive_timeout 0;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  server {{
    listen 80 backlog=4096;
    listen [::]:80 backlog=4096;
    add_header X-Backend {name};
    location / {{ default_type text/plain; return 200 "{name}\n"; }}
  }}
}}
"#
    )
}
