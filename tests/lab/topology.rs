//! The lab's network.

pub use crate::addresses::{
    CLIENTS, ECHO_PORT, HTTP_PORT, NEAR, ROUTER, ROUTER_MAC, ROUTER6, STORE, VIP, VIP_NEAR, VIP_OTHER, VIP6,
    VNI, backend_address, backend_address6, backend_mac, balancer_address, balancer_address6, balancer_mac,
    management_address, management_address_of_backend, namespace_name, sources,
};

use crate::backend::Backend;
use crate::binaries::Binaries;
use crate::cleanup;
use crate::command::{LabError, Result, Tried, run};
use crate::namespace::Namespace;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

const DECAP_SOURCE: &str = include_str!("bpf/decap.c");

/// How large a lab is.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Balancers, 1 to 9.
    pub balancers: u8,
    /// Backends, 1 to 9.
    pub backends: u8,
    /// Huge pages of 2 MiB to reserve; 0 if no balancer will run.
    pub huge_pages: u64,
    /// Whether balancers and backends have a second network, for management, on which a cluster's store can run and agents
    /// reach balancers.
    pub management: bool,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape { balancers: 1, backends: 3, huge_pages: 512, management: false }
    }
}

/// A running lab. One lab at a time exists on a machine: making a second one waits.
#[derive(Debug)]
pub struct Lab {
    client: Namespace,
    router: Namespace,
    near: Namespace,
    management: Option<Namespace>,
    balancers: Vec<Namespace>,
    backends: Vec<Backend>,
    binaries: Binaries,
    dir: PathBuf,
    huge_dir: Option<PathBuf>,
    // Last, so that the lock is released when everything else is gone.
    _guard: cleanup::Guard,
}

impl Lab {
    /// A lab of the default shape; `name` is printed.
    pub fn new(name: &str) -> Result<Lab> {
        Lab::with(name, &Shape::default())
    }

    /// A lab of a given shape.
    pub fn with(name: &str, shape: &Shape) -> Result<Lab> {
        Lab::with_binaries(name, shape, Binaries::locate()?)
    }

    /// A lab that runs given programs.
    pub fn with_binaries(name: &str, shape: &Shape, binaries: Binaries) -> Result<Lab> {
        possible(shape)?;
        let guard = cleanup::Guard::take()?;
        let dir = cleanup::enroll()?;
        let huge_dir = match shape.huge_pages {
            0 => None,
            pages => Some(cleanup::reserve_huge_pages(&dir, pages)?),
        };
        eprintln!("lab {name}: {} balancer(s), {} backend(s)", shape.balancers, shape.backends);

        let namespace = |role: &str| Namespace::create(&namespace_name(role));
        let client = namespace("client")?;
        let router = namespace("router")?;
        let near = namespace("near")?;
        wire_client(&client, &router)?;
        set_up_router(&router)?;
        wire(&near, "eth0", "02:00:00:00:02:00", &router, "near", "br0")?;
        near.ip_batch(&format!(
            "address add {NEAR}/24 dev eth0\n\
             address add fd00:2::200/64 dev eth0 nodad\n\
             route add default via {ROUTER}\n\
             route add default via {ROUTER6}\n"
        ))?;
        let mut balancers = Vec::new();
        for index in 1..=shape.balancers {
            let balancer = namespace(&format!("lb{index}"))?;
            set_up_balancer(&balancer, index, &router)?;
            balancers.push(balancer);
        }
        let management = if shape.management { Some(manage(&balancers)?) } else { None };
        let object = build_decap(&dir)?;
        let mut backends = Vec::new();
        for index in 1..=shape.backends {
            let backend = namespace(&format!("b{index}"))?;
            wire(&backend, "eth0", &backend_mac(index), &router, &format!("b{index}"), "br0")?;
            set_up_backend(&backend, index, &object)?;
            if let Some(management) = &management {
                join_management(&backend, 20 + index, management, &format!("b{index}"))?;
            }
            backends.push(Backend::new(index, backend, &dir, &binaries)?);
        }
        let lab = Lab {
            client,
            router,
            near,
            management,
            balancers,
            backends,
            binaries,
            dir,
            huge_dir,
            _guard: guard,
        };
        for backend in &lab.backends {
            backend.start()?;
        }
        let all: Vec<u8> = (1..=shape.balancers).collect();
        lab.route_vips(&all)?;
        Ok(lab)
    }

    /// The clients' namespace.
    pub fn client(&self) -> &Namespace {
        &self.client
    }

    /// The router.
    pub fn router(&self) -> &Namespace {
        &self.router
    }

    /// The client on the servers' link.
    pub fn near(&self) -> &Namespace {
        &self.near
    }

    /// Where the store runs; the lab's shape must have a management network.
    pub fn management(&self) -> Result<&Namespace> {
        self.management
            .as_ref()
            .ok_or_else(|| LabError::Wrong("this lab has no management network; its shape says so".into()))
    }

    /// Namespace of a balancer, counted from 1.
    pub fn balancer(&self, index: u8) -> Result<&Namespace> {
        nth(&self.balancers, index, "balancer")
    }

    /// A backend, counted from 1.
    pub fn backend(&self, index: u8) -> Result<&Backend> {
        nth(&self.backends, index, "backend")
    }

    /// All backends.
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// The programs it runs.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// Directory for files that vanish with the lab.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its hugetlbfs, if huge pages were reserved.
    pub fn huge_dir(&self) -> Option<&Path> {
        self.huge_dir.as_deref()
    }

    /// Sends the VIPs to these balancers, by equal-cost routes if there are several.
    pub fn route_vips(&self, balancers: &[u8]) -> Result<()> {
        let mut lines = String::new();
        for (vip, prefix) in [(VIP, "10.0.2.1"), (VIP_OTHER, "10.0.2.1"), (VIP6, "fd00:2::1")] {
            lines.push_str(&format!("\nroute replace {vip}"));
            for index in balancers {
                lines.push_str(&format!(" nexthop via {prefix}{index}"));
            }
        }
        self.router.ip_batch(&lines)
    }

    /// Sends a VIP straight to an address on the servers' link, past the balancers.
    pub fn route_direct(&self, vip: &str, via: &str) -> Result<()> {
        self.router.ip(&format!("route replace {vip} via {via}")).map(drop)
    }

    /// Client addresses of a VIP's family.
    pub fn sources(&self, vip: IpAddr) -> Vec<IpAddr> {
        sources(vip.is_ipv4())
    }

    /// Pulls a backend's cable to the management network: its link is there no more.
    pub fn cut_management(&self, backend: u8) -> Result<()> {
        self.management()?.ip(&format!("link set b{backend} down")).map(drop)
    }

    /// Puts it back.
    pub fn mend_management(&self, backend: u8) -> Result<()> {
        self.management()?.ip(&format!("link set b{backend} up")).map(drop)
    }

    /// Pulls all of a backend's cables.
    pub fn cut(&self, backend: u8) -> Result<()> {
        self.router.ip(&format!("link set b{backend} down"))?;
        if self.management.is_some() { self.cut_management(backend) } else { Ok(()) }
    }

    /// Puts them back.
    pub fn mend(&self, backend: u8) -> Result<()> {
        self.router.ip(&format!("link set b{backend} up"))?;
        if self.management.is_some() { self.mend_management(backend) } else { Ok(()) }
    }

    /// Forgets the path MTUs that the clients have learned.
    pub fn forget_path_mtus(&self) -> Result<()> {
        self.client.ip("route flush cache")?;
        self.client.ip("route flush cache").map(drop)
    }
}

/// Whether this process may make such a lab.
fn possible(shape: &Shape) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(LabError::Missing {
            what: "the lab makes network namespaces".into(),
            remedy: "run it as root".into(),
        });
    }
    for (range, count) in [("balancers", shape.balancers), ("backends", shape.backends)] {
        if !(1..=9).contains(&count) {
            return Err(LabError::Wrong(format!("a lab has 1 to 9 {range}, not {count}")));
        }
    }
    Ok(())
}

/// Forwarding, and the bridge that everything but the client is on.
fn set_up_router(router: &Namespace) -> Result<()> {
    router.sysctl(&[
        "net.ipv4.ip_forward=1",
        "net.ipv6.conf.all.forwarding=1",
        "net.ipv4.fib_multipath_hash_policy=1",
        "net.ipv6.fib_multipath_hash_policy=1",
    ])?;
    router.ip_batch(&format!(
        "link add br0 address {ROUTER_MAC} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
         link set br0 up\n\
         address add {ROUTER}/24 dev br0\n\
         address add {ROUTER6}/64 dev br0 nodad\n"
    ))?;
    // Some kernels hand bridged packets to the IP firewall by default.
    if Path::new("/proc/sys/net/bridge").exists() {
        router.sysctl(&["net.bridge.bridge-nf-call-iptables=0", "net.bridge.bridge-nf-call-ip6tables=0"])?;
    }
    Ok(())
}

/// Its port on the router's bridge.
fn set_up_balancer(balancer: &Namespace, index: u8, router: &Namespace) -> Result<()> {
    // The kernel keeps off the port: guidewayd owns it. What the kernel has to say goes through gw0.
    balancer.sysctl(&["net.ipv6.conf.default.disable_ipv6=1"])?;
    wire(balancer, "p0", &balancer_mac(index), router, &format!("lb{index}"), "br0")?;
    balancer.sysctl(&["net.ipv6.conf.default.disable_ipv6=0", "net.ipv4.conf.p0.arp_ignore=8"])?;
    Ok(())
}

fn nth<'a, T>(all: &'a [T], index: u8, what: &str) -> Result<&'a T> {
    index
        .checked_sub(1)
        .and_then(|index| all.get(usize::from(index)))
        .ok_or_else(|| LabError::Wrong(format!("there is no {what} {index}; there are 1 to {}", all.len())))
}

fn wire_client(client: &Namespace, router: &Namespace) -> Result<()> {
    run(&[
        "ip",
        "link",
        "add",
        "c0",
        "netns",
        router.name(),
        "mtu",
        "1500",
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "netns",
        client.name(),
        "mtu",
        "1500",
    ])?;
    router.offloads_off("c0")?;
    client.offloads_off("eth0")?;
    router.ip_batch(
        "address add 10.0.1.1/24 dev c0\n\
         address add fd00:1::1/64 dev c0 nodad\n\
         link set c0 up\n",
    )?;
    let mut lines = String::from("link set eth0 up\n");
    for last in CLIENTS {
        lines.push_str(&format!(
            "address add 10.0.1.{last}/24 dev eth0\naddress add fd00:1::{last}/64 dev eth0 nodad\n"
        ));
    }
    lines.push_str("route add default via 10.0.1.1\nroute add default via fd00:1::1\n");
    client.ip_batch(&lines)?;
    client.sysctl(&["net.ipv4.ip_local_port_range=10000 65000"])
}

/// Connects a device of a server (backend, balancer or the near client) to a bridge.
fn wire(
    server: &Namespace,
    device: &str,
    mac: &str,
    switch: &Namespace,
    port: &str,
    bridge: &str,
) -> Result<()> {
    run(&[
        "ip",
        "link",
        "add",
        port,
        "netns",
        switch.name(),
        "mtu",
        "1500",
        "type",
        "veth",
        "peer",
        "name",
        device,
        "netns",
        server.name(),
        "address",
        mac,
        "mtu",
        "1500",
    ])?;
    switch.offloads_off(port)?;
    server.offloads_off(device)?;
    switch.ip_batch(&format!("link set {port} master {bridge} up\n"))?;
    server.ip_batch(&format!("link set {device} up\n"))
}

/// The management network: m0 of each server on a bridge of a namespace of its own, in which the store runs. Here the balancers'.
fn manage(balancers: &[Namespace]) -> Result<Namespace> {
    let management = Namespace::create(&namespace_name("store"))?;
    management.ip_batch(&format!(
        "link add br1 address 02:00:00:00:01:01 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
         link set br1 up\n\
         address add {STORE}/24 dev br1\n"
    ))?;
    for (index, balancer) in (1..).zip(balancers) {
        join_management(balancer, 10 + index, &management, &format!("lb{index}"))?;
    }
    Ok(management)
}

/// Gives a server an m0 on the management network, with an address that ends in `last`.
fn join_management(server: &Namespace, last: u8, management: &Namespace, port: &str) -> Result<()> {
    wire(server, "m0", &format!("02:00:00:00:01:{last}"), management, port, "br1")?;
    server.ip(&format!("address add 10.0.3.{last}/24 dev m0")).map(drop)
}

fn build_decap(dir: &Path) -> Result<String> {
    let source = dir.join("decap.c");
    let object = dir.join("decap.o");
    std::fs::write(&source, DECAP_SOURCE).tried(|| format!("writing {}", source.display()))?;
    let object = object.to_string_lossy().into_owned();
    let multiarch = format!("-I/usr/include/{}-linux-gnu", std::env::consts::ARCH);
    run(&[
        "clang",
        "-O2",
        "-g",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-target",
        "bpf",
        &multiarch,
        "-c",
        &source.to_string_lossy(),
        "-o",
        &object,
    ])?;
    Ok(object)
}

fn set_up_backend(backend: &Namespace, index: u8, decap_object: &str) -> Result<()> {
    let (address, address6, mac) = (backend_address(index), backend_address6(index), backend_mac(index));
    // Of several backends with the same VIP on their loopback, none may answer ARP for it.
    backend.sysctl(&["net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2"])?;
    backend.ip_batch(&format!(
        "address add {address}/24 dev eth0\n\
         address add {address6}/64 dev eth0 nodad\n\
         route add default via {ROUTER}\n\
         route add default via {ROUTER6}\n\
         address add {VIP}/32 dev lo\n\
         address add {VIP_OTHER}/32 dev lo\n\
         address add {VIP_NEAR}/32 dev lo\n\
         address add {VIP6}/128 dev lo nodad\n\
         link add vx4 address {mac} mtu 1500 type vxlan id {VNI} dstport 4789 local {address} nolearning\n\
         link add vx6 address {mac} mtu 1500 type vxlan id {VNI} dstport 4789 local {address6} nolearning \
             udp6zerocsumrx udp6zerocsumtx\n\
         link set vx4 up\n\
         link set vx6 up\n"
    ))?;
    for device in ["vx4", "vx6"] {
        backend.offloads_off(device)?;
    }
    backend.ip(&format!("link set dev eth0 xdpgeneric obj {decap_object} sec xdp")).map(drop)
}
