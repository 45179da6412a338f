//! A web server on a backend whose health a test tells, and whose access log it reads.

use crate::binaries::Binaries;
use crate::command::{Process, Result, Tried, until};
use crate::load::Job;
use crate::load::site::{Health, SiteServer};
use crate::topology::Lab;
use rustix::process::Signal;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Its port.
pub const PORT: u16 = 8080;

/// A running web server on a backend, beside its others. It is killed when dropped.
#[derive(Debug)]
pub struct Site {
    process: Process,
    access: PathBuf,
    health: PathBuf,
}

/// A request, as the server wrote it down.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Access {
    /// When, Unix time, milliseconds.
    pub unix_ms: u64,
    /// By whom.
    pub client: IpAddr,
    /// Path.
    pub path: String,
    /// What was answered.
    pub status: u16,
}

impl Site {
    /// Starts it on a backend and waits until it listens. Its access log goes on where an earlier one of the backend ended.
    pub fn start(lab: &Lab, backend: u8) -> Result<Site> {
        let namespace = lab.backend(backend)?.namespace();
        let dir = lab.dir().join(format!("b{backend}"));
        let (access, health) = (dir.join("access.log"), dir.join("health"));
        let server = SiteServer {
            name: format!("b{backend}"),
            port: PORT,
            access: access.clone(),
            health: health.clone(),
        };
        let program = Binaries::existing(&lab.binaries().lab_load)?;
        let job = Job::Site(server).to_json()?;
        let mut process = namespace.start("site", &[program, &job], &dir.join("site.log"))?;
        let open = format!(":{PORT} ");
        until(&format!("the site of b{backend}"), Duration::from_secs(10), || {
            let listening = namespace.run(&["ss", "-Hltn"]).map_err(|error| error.to_string())?;
            if process.is_running() && listening.contains(&open) { Ok(()) } else { Err(process.log_tail(5)) }
        })?;
        Ok(Site { process, access, health })
    }

    /// Tells it what to answer to checks from now on.
    pub fn tell(&self, health: Health) -> Result<()> {
        // In one step: it may be reading.
        let new = self.health.with_extension("new");
        std::fs::write(&new, health.to_text()).tried(|| format!("writing {}", new.display()))?;
        std::fs::rename(&new, &self.health).tried(|| format!("renaming {}", new.display()))
    }

    /// All requests so far, oldest first.
    pub fn accesses(&self) -> Result<Vec<Access>> {
        let text =
            std::fs::read_to_string(&self.access).tried(|| format!("reading {}", self.access.display()))?;
        Ok(text.lines().filter_map(access).collect())
    }

    /// Requests for a path within `[from, to)`, Unix time, milliseconds.
    pub fn count(&self, path: &str, from: u64, to: u64) -> Result<usize> {
        let wanted = |access: &&Access| access.path == path && (from..to).contains(&access.unix_ms);
        Ok(self.accesses()?.iter().filter(wanted).count())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Kills it without a word.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}

fn access(line: &str) -> Option<Access> {
    let mut words = line.split(' ');
    Some(Access {
        unix_ms: words.next()?.parse().ok()?,
        client: words.next()?.parse().ok()?,
        path: words.next()?.to_owned(),
        status: words.next()?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_access_log() {
        let read = access("1700000000000 10.0.2.11 /health 200").unwrap();
        assert_eq!((read.unix_ms, read.path.as_str(), read.status), (1_700_000_000_000, "/health", 200));
        assert_eq!(access("1700000000000 10.0.2.11 /hea"), None);
    }
}
