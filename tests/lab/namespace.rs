//! A network namespace and what is run in it.

use crate::command::{LabError, Process, Result, Tried, require, run, run_input, run_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

/// A network namespace of the lab.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    /// The argument of `nsenter` that enters it.
    enter: String,
}

impl Namespace {
    /// Makes the namespace, with its loopback up and with kernel defaults that suit a lab: no reverse-path filter
    /// (backends answer from the VIP), no duplicate address detection (it costs a second), no router discovery.
    pub fn create(name: &str) -> Result<Namespace> {
        run(&["ip", "netns", "add", name])?;
        let namespace = Namespace { name: name.to_owned(), enter: format!("--net=/run/netns/{name}") };
        namespace.sysctl(&[
            "net.ipv4.conf.all.rp_filter=0",
            "net.ipv4.conf.default.rp_filter=0",
            "net.ipv4.conf.all.send_redirects=0",
            "net.ipv4.conf.default.send_redirects=0",
            "net.ipv4.conf.default.accept_redirects=0",
            "net.ipv6.conf.all.accept_dad=0",
            "net.ipv6.conf.default.accept_dad=0",
            "net.ipv6.conf.default.dad_transmits=0",
            "net.ipv6.conf.default.accept_ra=0",
        ])?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs one `ip` command in it; words are separated by spaces.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        let mut argv = vec!["ip"];
        argv.extend(arguments.split_whitespace());
        self.run(&argv)
    }

    /// Runs many `ip` commands at once, one a line.
    pub fn ip_batch(&self, lines: &str) -> Result<()> {
        run_input(&self.argv(&["ip", "-batch", "-"]), lines).map(drop)
    }

    /// Sets kernel parameters, each `name=value`.
    pub fn sysctl(&self, settings: &[&str]) -> Result<()> {
        let mut argv = vec!["sysctl", "-q", "-w"];
        argv.extend(settings);
        self.run(&argv).map(drop)
    }

    /// The command line that runs `argv` in it. Not by `ip netns exec` or `ip -n`, which make a mount namespace as well and
    /// so fail in a chroot, whose root is no mount point.
    pub fn argv<'a>(&'a self, argv: &[&'a str]) -> Vec<&'a str> {
        let mut all = vec!["nsenter", self.enter.as_str(), "--"];
        all.extend(argv);
        all
    }

    /// Runs a command in it to its end and returns its standard output.
    pub fn run(&self, argv: &[&str]) -> Result<String> {
        require(argv)?;
        run(&self.argv(argv))
    }

    /// Like [`Namespace::run`], with input and a limit.
    pub fn run_with(&self, argv: &[&str], input: &str, limit: Duration) -> Result<String> {
        require(argv)?;
        run_with(&self.argv(argv), input, limit)
    }

    /// Starts a process in it.
    pub fn start(&self, name: &str, argv: &[&str], log: &Path) -> Result<Process> {
        require(argv)?;
        Process::start(name, &self.argv(argv), log)
    }

    /// Runs `action` on a thread of its own that is in the namespace. Sockets that are made there belong to it, whoever uses them
    /// afterwards.
    pub fn inside<T: Send>(&self, action: impl FnOnce() -> T + Send) -> Result<T> {
        let path = Path::new("/run/netns").join(&self.name);
        let file = File::open(&path).tried(|| format!("opening {}", path.display()))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .map_err(std::io::Error::from)
                    .tried(|| format!("entering {}", self.name))?;
                Ok(action())
            });
            thread
                .join()
                .unwrap_or_else(|_| Err(LabError::Wrong(format!("a thread in {} panicked", self.name))))
        })
    }

    /// Switches every offload off that would put frames on the wire that no wire carries: partial checksums and
    /// segments larger than the MTU.
    pub fn offloads_off(&self, device: &str) -> Result<()> {
        self.run(&[
            "ethtool", "-K", device, "rx", "off", "tx", "off", "tso", "off", "gso", "off", "gro", "off",
        ])
        .map(drop)
    }
}
