//! `guideway-agent` on a host of the lab.

use crate::binaries::Binaries;
use crate::command::{LabError, Process, Result, Tried};
use crate::namespace::Namespace;
use crate::topology::{Lab, backend_address, management_address};
use rustix::process::Signal;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Port on which the lab's machines listen for agents.
pub const PORT: u16 = 7481;

/// What an agent is to be: its configuration file.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// `agent.name`.
    pub name: String,
    /// Machines to begin with.
    pub machines: Vec<String>,
    /// Addresses of the host.
    pub addresses: Vec<String>,
    /// Services that it speaks for, with the file of each one's token.
    pub services: Vec<(String, PathBuf)>,
    /// Backends that it registers.
    pub backends: Vec<Registered>,
    /// Other lines, behind everything: `[command.NAME]` and the like.
    pub extra: String,
}

/// A backend that an agent registers.
#[derive(Clone, Debug)]
pub struct Registered {
    /// Service.
    pub service: String,
    /// Name.
    pub name: String,
    /// Address.
    pub address: String,
    /// Other keys, one `key = value` a line.
    pub extra: String,
}

impl AgentConfig {
    /// The agent of backend `index`, which finds the first machine and speaks for these services. It registers nothing.
    pub fn of(lab: &Lab, index: u8, services: &[&str]) -> Result<AgentConfig> {
        let mut of = Vec::new();
        for service in services {
            of.push(((*service).to_owned(), lab.token(service)?));
        }
        Ok(AgentConfig {
            name: format!("host{index}"),
            machines: vec![listen(1)],
            addresses: vec![backend_address(index)],
            services: of,
            backends: Vec::new(),
            extra: String::new(),
        })
    }

    /// With one more backend: `name`, at the address of backend `index`.
    #[must_use]
    pub fn registering(mut self, service: &str, name: &str, index: u8, extra: &str) -> AgentConfig {
        self.backends.push(Registered {
            service: service.to_owned(),
            name: name.to_owned(),
            address: backend_address(index),
            extra: extra.to_owned(),
        });
        self
    }

    /// As TOML, with its files in `dir`.
    pub fn render(&self, dir: &Path) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(dir, &mut text);
        text
    }

    fn write(&self, dir: &Path, out: &mut String) -> std::fmt::Result {
        // All hosts of a lab share the CPUs of one machine, which are busy with other things.
        writeln!(
            out,
            "[agent]\nname = \"{}\"\ncpu_load = false\nsocket = \"{}\"\nstate_file = \"{}\"\nmachines = \
             {:?}\naddresses = {:?}",
            self.name,
            dir.join("agent.sock").display(),
            dir.join("registrations.json").display(),
            self.machines,
            self.addresses,
        )?;
        for (service, token) in &self.services {
            writeln!(out, "[[service]]\nname = \"{service}\"\ntoken_file = \"{}\"", token.display())?;
        }
        for of in &self.backends {
            writeln!(
                out,
                "[[backend]]\nservice = \"{}\"\nname = \"{}\"\naddress = \"{}\"\n{}",
                of.service, of.name, of.address, of.extra
            )?;
        }
        writeln!(out, "{}", self.extra)
    }
}

/// Where machine `index` listens for agents.
pub fn listen(index: u8) -> String {
    format!("{}:{PORT}", management_address(index))
}

/// The line of a machine's configuration that makes it listen for agents.
pub fn listening(index: u8) -> String {
    format!("[agents]\nlisten = \"{}\"\n", listen(index))
}

impl Lab {
    /// File of a service's token, which is made when it is first asked for.
    pub fn token(&self, service: &str) -> Result<PathBuf> {
        let path = self.dir().join(format!("{service}.token"));
        if !path.exists() {
            std::fs::write(&path, format!("{}\n", token(service)))
                .tried(|| format!("writing {}", path.display()))?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
                .tried(|| format!("permissions of {}", path.display()))?;
        }
        Ok(path)
    }
}

/// The token of a service in the lab.
pub fn token(service: &str) -> String {
    format!("the lab's token for {service}")
}

/// A running `guideway-agent`. It is killed when dropped; its last log lines are printed if a test is failing then.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    log: PathBuf,
}

impl Agent {
    /// Starts it in a namespace, with its files in the lab's directory, and does not wait.
    pub fn start(lab: &Lab, namespace: &Namespace, config: &AgentConfig) -> Result<Agent> {
        let dir = lab.dir().join(&config.name);
        std::fs::create_dir_all(&dir).tried(|| format!("creating {}", dir.display()))?;
        let config_path = dir.join("agent.toml");
        std::fs::write(&config_path, config.render(&dir))
            .tried(|| format!("writing {}", config_path.display()))?;
        Agent::from_file(lab, namespace, &config_path)
    }

    /// Starts an agent with a file that is there. Its log is beside that file.
    pub fn from_file(lab: &Lab, namespace: &Namespace, config_path: &Path) -> Result<Agent> {
        let program = Binaries::existing(&lab.binaries().agent)?;
        let log = config_path.with_file_name("agent.log");
        let argv = [program, "run", "--config", &config_path.to_string_lossy()];
        let process = namespace.start("guideway-agent", &argv, &log)?;
        Ok(Agent { process, log })
    }

    /// Starts the agent of backend `index`.
    pub fn on(lab: &Lab, index: u8, config: &AgentConfig) -> Result<Agent> {
        Agent::start(lab, lab.backend(index)?.namespace(), config)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Kills it without a word.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Asks it to stop (SIGTERM) and demands exit status 0 within 10 s.
    pub fn stop(mut self) -> Result<()> {
        self.signal(Signal::TERM);
        let status = self.process.wait(Duration::from_secs(10))?;
        if status.success() {
            return Ok(());
        }
        Err(LabError::Wrong(format!("guideway-agent ended with {status}:\n{}", self.process.log_tail(30))))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}\n{}\n---", self.log.display(), self.process.log_tail(40));
        }
    }
}
