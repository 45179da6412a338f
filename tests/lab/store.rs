//! The store of a cluster: one etcd on the lab's management network, with its data in the lab's directory.

use crate::command::{LabError, Process, Result, Tried, run_with, until};
use crate::namespace::Namespace;
use crate::topology::{Lab, STORE};
use std::path::PathBuf;
use std::time::Duration;

/// Port of etcd's clients.
pub const PORT: u16 = 2379;

/// An etcd. It is killed when dropped.
#[derive(Debug)]
pub struct Store {
    namespace: Namespace,
    data: PathBuf,
    log: PathBuf,
    process: Option<Process>,
    /// Bytes that it takes; 0: its default.
    quota: u64,
}

impl Lab {
    /// Starts the store on the management network and waits until it answers.
    pub fn start_store(&self) -> Result<Store> {
        let namespace = self.management()?.clone();
        let (data, log) = (self.dir().join("etcd"), self.dir().join("etcd.log"));
        let mut store = Store { namespace, data, log, process: None, quota: 0 };
        store.start()?;
        Ok(store)
    }
}

impl Store {
    /// Where balancers find it.
    pub fn endpoint() -> String {
        format!("http://{STORE}:{PORT}")
    }

    /// Starts it, with the data it left, and waits until it answers.
    pub fn start(&mut self) -> Result<()> {
        std::fs::create_dir_all(&self.data).tried(|| format!("creating {}", self.data.display()))?;
        let (data, endpoint) = (self.data.to_string_lossy(), Store::endpoint());
        let quota = self.quota.to_string();
        let argv = [
            "etcd",
            "--quota-backend-bytes",
            &quota,
            "--data-dir",
            &data,
            "--listen-client-urls",
            &endpoint,
            "--advertise-client-urls",
            &endpoint,
            "--listen-peer-urls",
            "http://127.0.0.1:2380",
            "--logger",
            "zap",
            "--log-level",
            "warn",
        ];
        let mut process = self.namespace.start("etcd", &argv, &self.log)?;
        let health = format!("{endpoint}/health");
        let answers = until("etcd's health", Duration::from_secs(15), || {
            if !process.is_running() {
                return Ok(false);
            }
            let curl = self.namespace.argv(&["curl", "-sS", "-m", "1", &health]);
            match run_with(&curl, "", Duration::from_secs(3)) {
                Ok(text) if text.contains("\"true\"") => Ok(true),
                Ok(text) => Err(text),
                Err(error) => Err(error.to_string()),
            }
        });
        match answers {
            Ok(true) => {}
            Ok(false) => {
                return Err(LabError::Wrong(format!("etcd ended at once:\n{}", process.log_tail(20))));
            }
            Err(error) => return Err(LabError::Wrong(format!("{error}\n{}", process.log_tail(20)))),
        }
        self.process = Some(process);
        Ok(())
    }

    /// Kills it without a word (SIGKILL). Its data stays.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again with room for so many bytes.
    pub fn limit_to(&mut self, bytes: u64) -> Result<()> {
        self.kill();
        self.quota = bytes;
        self.start()
    }

    fn etcdctl(&self, arguments: &[&str], input: &str) -> Result<String> {
        let endpoint = Store::endpoint();
        let argv = [&["etcdctl", "--endpoints", &endpoint][..], arguments].concat();
        run_with(&self.namespace.argv(&argv), input, Duration::from_secs(20))
    }

    /// Fills it with values of somebody else until it takes no more (alarm NOSPACE).
    pub fn fill(&self) -> Result<()> {
        let value = "x".repeat(1 << 20);
        for at in 0..256 {
            if self.etcdctl(&["put", &format!("/other/{at}")], &value).is_err() {
                return Ok(());
            }
        }
        Err(LabError::Wrong("etcd takes 256 MB".into()))
    }

    /// Removes these values, and gives their room back, as etcd's documents say.
    pub fn make_room(&self) -> Result<()> {
        self.etcdctl(&["del", "--prefix", "/other/"], "")?;
        let status = self.etcdctl(&["endpoint", "status", "--write-out", "fields"], "")?;
        let revision =
            status.lines().find_map(|line| line.strip_prefix("\"Revision\" : ")).unwrap_or_default();
        self.etcdctl(&["compact", revision.trim()], "")?;
        self.etcdctl(&["defrag"], "")?;
        self.etcdctl(&["alarm", "disarm"], "").map(drop)
    }

    /// Kills it, removes its data, and starts it again, empty.
    pub fn wipe(&mut self) -> Result<()> {
        self.kill();
        std::fs::remove_dir_all(&self.data).tried(|| format!("removing {}", self.data.display()))?;
        self.start()
    }

    /// Kills it and forgets its data.
    pub fn forget(mut self) -> Result<()> {
        self.kill();
        std::fs::remove_dir_all(&self.data).tried(|| format!("removing {}", self.data.display()))
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}
