//! `guidewayd` on a balancer of the lab.

use crate::api::Api;
use crate::binaries::Binaries;
use crate::command::{LabError, Process, Result, Tried, run_input, until};
use crate::config::{Config, Device};
use crate::namespace::Namespace;
use crate::topology::Lab;
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// A running `guidewayd`. It is killed when dropped; its last log lines are printed if a test is failing then.
#[derive(Debug)]
pub struct Balancer {
    namespace: Namespace,
    process: Process,
    api: Api,
    config_path: PathBuf,
    file_prefix: String,
    log: PathBuf,
}

/// How long a start may take: EAL alone takes about a second.
const START_LIMIT: Duration = Duration::from_secs(20);

impl Lab {
    /// A configuration for balancer `index` with everything but services.
    pub fn config(&self, index: u8) -> Config {
        Config::for_lab(self, index)
    }

    /// Starts `guidewayd` on a balancer and waits until it is ready.
    pub fn start_balancer(&self, index: u8, config: &Config) -> Result<Balancer> {
        Balancer::start(self, index, config)
    }
}

impl Balancer {
    /// Starts it and waits until `GET /v1/ready` says 200.
    pub fn start(lab: &Lab, index: u8, config: &Config) -> Result<Balancer> {
        let mut balancer = Balancer::spawn(lab, index, config)?;
        balancer.wait_ready(START_LIMIT)?;
        Ok(balancer)
    }

    /// Starts it and does not wait.
    pub fn spawn(lab: &Lab, index: u8, config: &Config) -> Result<Balancer> {
        let namespace = lab.balancer(index)?.clone();
        std::fs::create_dir_all(&config.dir).tried(|| format!("creating {}", config.dir.display()))?;
        let config_path = config.dir.join("guideway.toml");
        std::fs::write(&config_path, config.render())
            .tried(|| format!("writing {}", config_path.display()))?;
        keep_kernel_off(&namespace, matches!(config.device, Device::AfPacket(_)))?;
        let log = config.dir.join("guidewayd.log");
        let program = Binaries::existing(&lab.binaries().guidewayd)?;
        let path = config_path.to_string_lossy();
        let notify = config.notify.as_ref().map(|socket| format!("NOTIFY_SOCKET={}", socket.display()));
        let mut argv = vec![program, "--config", path.as_ref()];
        // With a watchdog, which is never heeded here: a test says what it thinks of the messages.
        if let Some(notify) = &notify {
            argv.splice(0..0, ["env", notify, "WATCHDOG_USEC=10000000"]);
        }
        if !config.env.is_empty() {
            argv.splice(0..0, ["env"].into_iter().chain(config.env.iter().map(String::as_str)));
        }
        let redirected = config.stderr.as_ref().map(|to| format!("exec \"$@\" 2>{to}"));
        if let Some(redirected) = &redirected {
            argv.splice(0..0, ["sh", "-c", redirected, "sh"]);
        }
        let process = namespace.start("guidewayd", &argv, &log)?;
        Ok(Balancer {
            namespace,
            process,
            api: Api::new(&config.socket()),
            config_path,
            file_prefix: config.file_prefix(),
            log,
        })
    }

    /// Waits until it is ready and returns how long that took.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<Duration> {
        let start = Instant::now();
        let (api, process) = (&self.api, &mut self.process);
        let mut ended = None;
        let waited = until("GET /v1/ready 200", limit, || {
            if !process.is_running() {
                ended = Some(process.log_tail(30));
                return Ok(());
            }
            match api.request("GET", "/v1/ready", "") {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(format!("status {}: {}", answer.status, answer.body)),
                Err(error) => Err(error.to_string()),
            }
        });
        if let Some(log) = ended {
            return Err(LabError::Wrong(format!("guidewayd ended instead of becoming ready:\n{log}")));
        }
        waited.map_err(|error| LabError::Wrong(format!("{error}\n{}", self.process.log_tail(30))))?;
        Ok(start.elapsed())
    }

    /// Its API.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// EAL's file prefix.
    pub fn file_prefix(&self) -> &str {
        &self.file_prefix
    }

    /// The file it was started with.
    pub fn config_path(&self) -> &Path {
        &self.config_path
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.process.wait(limit)
    }

    /// Asks it to stop (SIGTERM) and demands exit status 0 within 20 s.
    pub fn stop(mut self) -> Result<()> {
        self.signal(Signal::TERM);
        let status = self.wait(Duration::from_secs(20))?;
        if status.success() {
            Ok(())
        } else {
            Err(LabError::Wrong(format!("guidewayd ended with {status}:\n{}", self.process.log_tail(30))))
        }
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        self.process.log_tail(lines)
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- {} ({})\n{}\n---",
                self.log.display(),
                self.file_prefix,
                self.process.log_tail(60)
            );
        }
    }
}

/// With AF_PACKET the kernel sees every frame as well; it would answer ARP twice and reassemble fragments.
fn keep_kernel_off(namespace: &Namespace, wanted: bool) -> Result<()> {
    let rules = if wanted {
        "table netdev guideway_lab\n\
         delete table netdev guideway_lab\n\
         table netdev guideway_lab {\n\
           chain ingress {\n\
             type filter hook ingress device \"p0\" priority 0; policy drop;\n\
           }\n\
         }\n"
    } else {
        "table netdev guideway_lab\ndelete table netdev guideway_lab\n"
    };
    run_input(&namespace.argv(&["nft", "-f", "-"]), rules).map(drop)
}
