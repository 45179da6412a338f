//! Configurations for `guidewayd`, written out as TOML. Only what the lab needs is typed; everything else goes into
//! `extra` lines.

use crate::addresses::{ECHO_PORT, HTTP_PORT, ROUTER, ROUTER6, VIP, balancer_address, balancer_address6};
use crate::topology::Lab;
use std::fmt::Write as _;
use std::path::PathBuf;

/// A forwarding mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// IP in IP.
    Ipip,
    /// GRE.
    Gre,
    /// GUE variant 0.
    Gue,
    /// VXLAN.
    Vxlan,
    /// Geneve.
    Geneve,
    /// MAC rewrite.
    L2,
}

impl Mode {
    /// All of them, in the order of the documentation.
    pub const ALL: [Mode; 6] = [Mode::Ipip, Mode::Gre, Mode::Gue, Mode::Vxlan, Mode::Geneve, Mode::L2];

    /// The word of the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Mode::Ipip => "ipip",
            Mode::Gre => "gre",
            Mode::Gue => "gue",
            Mode::Vxlan => "vxlan",
            Mode::Geneve => "geneve",
            Mode::L2 => "l2",
        }
    }

    /// The mode of a word.
    pub fn from_word(word: &str) -> Option<Mode> {
        Mode::ALL.into_iter().find(|mode| mode.word() == word)
    }
}

/// The device of the data port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Device {
    /// AF_XDP on p0.
    AfXdp,
    /// AF_PACKET on p0 with this number of queue pairs; the lab keeps the kernel off p0 by nftables.
    AfPacket(u8),
}

/// A whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// `machine.name`, also part of EAL's file prefix.
    pub machine: String,
    /// Number of the balancer, from 1.
    pub index: u8,
    /// Directory for socket and state.
    pub dir: PathBuf,
    /// `--huge-dir` for EAL.
    pub huge_dir: Option<PathBuf>,
    /// Data port.
    pub device: Device,
    /// Workers' CPUs.
    pub cpus: Vec<u16>,
    /// Socket on which it tells a service manager what it does (`NOTIFY_SOCKET`).
    pub notify: Option<PathBuf>,
    /// Further variables of its environment, `NAME=VALUE`.
    pub env: Vec<String>,
    /// Where its log goes, as the shell has it behind `2>` (a path, `&-`); else into a file.
    pub stderr: Option<String>,
    /// Other keys of `[machine]`, one `key = value` a line.
    pub machine_keys: String,
    /// Lines for other tables, for example `[timeouts]`; put before the ports.
    pub extra: String,
    /// Services.
    pub services: Vec<Service>,
}

/// A service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Name.
    pub name: String,
    /// Address or prefix.
    pub vip: String,
    /// 0 = any.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Forwarding mode.
    pub mode: Mode,
    /// Other keys, one `key = value` a line.
    pub extra: String,
    /// Lines of `[service.health]`.
    pub health: String,
    /// Lines of `[service.agents]`, and of tables in it.
    pub agents: String,
    /// Backends.
    pub backends: Vec<Member>,
}

/// A backend of a service.
#[derive(Clone, Debug)]
pub struct Member {
    /// Name.
    pub name: String,
    /// Address.
    pub address: String,
    /// Weight.
    pub weight: u32,
    /// Link-layer address, for l2, vxlan and geneve.
    pub mac: Option<String>,
    /// `state`, if not up.
    pub state: Option<&'static str>,
}

impl Member {
    /// Backend `index` of the lab by its IPv4 address, weight 1. `mac` is given where the mode needs it.
    pub fn v4(index: u8, mode: Mode) -> Member {
        Member {
            name: format!("b{index}"),
            address: crate::topology::backend_address(index),
            weight: 1,
            mac: matches!(mode, Mode::Vxlan | Mode::Geneve | Mode::L2)
                .then(|| crate::topology::backend_mac(index)),
            state: None,
        }
    }

    /// Backend `index` of the lab by its IPv6 address.
    pub fn v6(index: u8, mode: Mode) -> Member {
        Member { address: crate::topology::backend_address6(index), ..Member::v4(index, mode) }
    }

    /// This member with another weight.
    #[must_use]
    pub fn weighing(mut self, weight: u32) -> Member {
        self.weight = weight;
        self
    }
}

/// Health check of the sample: HTTP every 500 ms, down after two failures.
pub const HEALTH_HTTP: &str = "kind = \"http\"\ninterval_ms = 500\ntimeout_ms = 250\nfall = 2\nrise = 2\n";
/// TCP connect, at the same pace.
pub const HEALTH_TCP: &str = "kind = \"tcp\"\ninterval_ms = 500\ntimeout_ms = 250\nfall = 2\nrise = 2\n";

impl Service {
    /// HTTP on the first VIP: service `web`, port 80, checked by HTTP.
    pub fn web(mode: Mode, backends: Vec<Member>) -> Service {
        Service {
            name: "web".into(),
            vip: VIP.into(),
            port: HTTP_PORT,
            protocol: "tcp",
            mode,
            extra: String::new(),
            health: HEALTH_HTTP.into(),
            agents: String::new(),
            backends,
        }
    }

    /// Our own server on the first VIP: service `echo`, checked by TCP.
    pub fn echo(mode: Mode, backends: Vec<Member>) -> Service {
        Service {
            name: "echo".into(),
            port: ECHO_PORT,
            health: HEALTH_TCP.into(),
            ..Service::web(mode, backends)
        }
    }
}

impl Config {
    /// Everything but services, for balancer `index` of a lab: AF_XDP, one adaptive worker on CPU 1, 65,536 flows.
    pub fn for_lab(lab: &Lab, index: u8) -> Config {
        Config {
            machine: crate::topology::namespace_name(&format!("lb{index}")),
            index,
            dir: lab.dir().join(format!("lb{index}")),
            huge_dir: lab.huge_dir().map(ToOwned::to_owned),
            device: Device::AfXdp,
            cpus: vec![1],
            notify: None,
            env: Vec::new(),
            stderr: None,
            machine_keys: String::new(),
            extra: String::new(),
            services: Vec::new(),
        }
    }

    /// With one more service.
    #[must_use]
    pub fn with(mut self, service: Service) -> Config {
        self.services.push(service);
        self
    }

    /// Path of the API's socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("api.sock")
    }

    /// EAL's file prefix.
    pub fn file_prefix(&self) -> String {
        format!("guideway-{}", self.machine)
    }

    /// As TOML.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let (address, address6) = (balancer_address(self.index), balancer_address6(self.index));
        let dir = self.dir.display();
        let device = match self.device {
            Device::AfXdp => "net_af_xdp0,iface=p0".to_owned(),
            Device::AfPacket(pairs) => format!("net_af_packet0,iface=p0,qpairs={pairs}"),
        };
        let huge = self.huge_dir.as_ref().map(|dir| format!(", \"--huge-dir\", \"{}\"", dir.display()));
        writeln!(
            out,
            "[machine]\n\
             name = \"{}\"\n\
             address = \"{address}\"\n\
             address6 = \"{address6}\"\n\
             cluster_key = \"a00102030405060708090a0b0c0d0e0f\"\n\
             state_dir = \"{dir}/state\"\n\
             {}\n\
             [api]\n\
             socket = \"{}\"\n\
             [dpdk]\n\
             eal_args = [\"--no-pci\"{}]\n\
             [workers]\n\
             cpus = {:?}\n\
             idle = \"adaptive\"\n\
             flows = 65536\n\
             {}\n\
             [[port]]\n\
             name = \"data0\"\n\
             device = \"{device}\"\n\
             mtu = 1500\n\
             exception = \"gw0\"\n\
             exception_addresses = [\"{address}/24\", \"{address6}/64\"]\n\
             exception_gateway = \"{ROUTER}\"\n\
             exception_gateway6 = \"{ROUTER6}\"",
            self.machine,
            self.machine_keys,
            self.socket().display(),
            huge.unwrap_or_default(),
            self.cpus,
            self.extra,
        )?;
        for service in &self.services {
            service.write(out)?;
        }
        Ok(())
    }
}

impl Service {
    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "[[service]]\n\
             name = \"{}\"\n\
             vip = \"{}\"\n\
             port = {}\n\
             protocol = \"{}\"\n\
             mode = \"{}\"\n\
             {}",
            self.name,
            self.vip,
            self.port,
            self.protocol,
            self.mode.word(),
            self.extra,
        )?;
        if !self.health.is_empty() {
            writeln!(out, "[service.health]\n{}", self.health)?;
        }
        if !self.agents.is_empty() {
            writeln!(out, "[service.agents]\n{}", self.agents)?;
        }
        for backend in &self.backends {
            writeln!(
                out,
                "[[service.backend]]\nname = \"{}\"\naddress = \"{}\"\nweight = {}",
                backend.name, backend.address, backend.weight
            )?;
            if let Some(mac) = &backend.mac {
                writeln!(out, "mac = \"{mac}\"")?;
            }
            if let Some(state) = backend.state {
                writeln!(out, "state = \"{state}\"")?;
            }
        }
        Ok(())
    }
}
