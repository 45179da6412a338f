//! Ethernet ports: found, configured with one queue a worker, started, closed.

use crate::eal::Eal;
use crate::errno::Errno;
use crate::log::{self, Level};
use crate::mempool::{self, Mempool};
use crate::queue::Queue;
use crate::stats::{self, PortStats};
use core::ffi::{CStr, c_char};
use std::ffi::CString;
use std::sync::Arc;

/// Descriptors a queue when the driver has no opinion.
const RING_SIZE: u16 = 1024;
/// Drivers ask for rings up to this; beyond, a packet waits longer than it is worth.
const RING_SIZE_MAX: u16 = 4096;

/// Lines of DPDK's log that an error quotes.
const LINES_QUOTED_MAX: usize = 12;

/// Why a port cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PortError {
    /// The device string contains a NUL byte.
    #[error("device string {0:?} contains a NUL byte; remove it")]
    NulByte(String),
    /// The device string names nothing.
    #[error("no DPDK port for device {device:?}; {help}{lines}")]
    NotFound {
        /// Device string.
        device: String,
        /// What DPDK said when it tried, each on a line of its own.
        lines: String,
        /// What to do.
        help: &'static str,
    },
    /// The device could not be created while running.
    #[error("cannot create device {device:?} [{errno}]; {help}")]
    Attach {
        /// Device string.
        device: String,
        /// DPDK's reason.
        errno: Errno,
        /// What to do.
        help: &'static str,
    },
    /// Fewer queues than workers.
    #[error(
        "device {device:?} ({driver}) has {available} queue(s) and {wanted} workers need one each; {help}"
    )]
    TooFewQueues {
        /// Device string.
        device: String,
        /// Driver.
        driver: String,
        /// Queues it has.
        available: u16,
        /// Queues wanted.
        wanted: u16,
        /// What to do.
        help: &'static str,
    },
    /// MTU out of the device's range.
    #[error(
        "device {device:?} ({driver}) takes an mtu from {min} to {max}, not {wanted}; change the port's `mtu`"
    )]
    Mtu {
        /// Device string.
        device: String,
        /// Driver.
        driver: String,
        /// Smallest.
        min: u16,
        /// Largest.
        max: u16,
        /// Asked for.
        wanted: u16,
    },
    /// The MAC can neither be set nor stood in for by promiscuous mode.
    #[error(
        "device {device:?} ({driver}) cannot take another MAC [{errno}] and has no promiscuous mode; remove \
         the port's `mac`"
    )]
    Mac {
        /// Device string.
        device: String,
        /// Driver.
        driver: String,
        /// DPDK's reason.
        errno: Errno,
    },
    /// A step failed.
    #[error("device {device:?} ({driver}): cannot {step} [{errno}]{}", hint(*errno))]
    Step {
        /// Device string.
        device: String,
        /// Driver.
        driver: String,
        /// What was tried.
        step: &'static str,
        /// DPDK's reason.
        errno: Errno,
    },
}

fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::NOMEM => {
            "; more huge pages may be needed (dpdk-hugepages.py -s), or locked memory is limited (ulimit -l)"
        }
        Errno::BUSY => "; another program may hold the device",
        Errno(1 | 13) => "; it needs root or CAP_NET_ADMIN and CAP_NET_RAW",
        _ => "; `--log-level=8` as EAL argument shows the driver's words",
    }
}

/// What a driver says about its device.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeviceInfo {
    /// Driver, e.g. `net_af_xdp`.
    pub driver: String,
    /// Queues that can be used, the smaller of receive and transmit.
    pub queues_max: u16,
    /// Smallest MTU.
    pub mtu_min: u16,
    /// Largest MTU.
    pub mtu_max: u16,
    /// Receive descriptors a queue will have.
    pub rx_ring_size: u16,
    /// Transmit descriptors a queue will have.
    pub tx_ring_size: u16,
    /// Hash functions for spreading flows over queues (`RTE_ETH_RSS_*`).
    pub rss: u64,
    /// NUMA socket; `None` for virtual devices.
    pub socket: Option<u16>,
    /// Its MAC now.
    pub mac: [u8; 6],
}

/// How a port is to be started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortSetup {
    /// Queues, one a worker.
    pub queues: u16,
    /// Largest IP datagram, bytes.
    pub mtu: u16,
    /// MAC instead of the device's own.
    pub mac: Option<[u8; 6]>,
    /// Receive frames for other MACs too, if the device can.
    pub promiscuous: bool,
    /// Spread flows over the queues by hash, if the device can.
    pub rss: bool,
}

/// A device that was found and is not configured yet.
#[derive(Debug)]
pub struct Device {
    id: u16,
    device: String,
    info: DeviceInfo,
    eal: Eal,
}

/// A started port. Dropping it and all its queues stops and closes the device.
#[derive(Debug)]
pub struct Port {
    inner: Arc<PortHandle>,
    queues: Vec<Queue>,
    notes: Vec<String>,
}

/// Reads a port's state from any thread; keeps the port open.
#[derive(Clone, Debug)]
pub struct Observer(Arc<PortHandle>);

#[derive(Debug)]
pub(crate) struct PortHandle {
    pub(crate) id: u16,
    pub(crate) driver: String,
    device: String,
    mac: [u8; 6],
    mtu: u16,
    socket: Option<u16>,
    started: bool,
    promiscuous: bool,
    // Freed after the port is closed: the receive queues take buffers from it.
    _pool: Option<Mempool>,
    _eal: Eal,
}

impl Device {
    /// The port of a device string that was given to EAL with `--vdev` or `-a`.
    ///
    /// # Errors
    /// [`PortError::NotFound`].
    pub fn find(eal: &Eal, device: &str) -> Result<Device, PortError> {
        let name = device.split(',').next().unwrap_or(device);
        // DPDK names a PCI device with its domain, and without the bus prefix.
        let name = name.strip_prefix("pci:").unwrap_or(name);
        let with_domain = format!("0000:{name}");
        let id = port_by_name(name)
            .or_else(|| port_by_name(&with_domain))
            .or_else(|| only_port_of(name))
            .or_else(|| only_port_of(&with_domain));
        let id = id.ok_or_else(|| PortError::NotFound {
            device: device.to_owned(),
            lines: probe_log(),
            help: if crate::eal::is_hardware(device) {
                "is it bound to a driver DPDK can use? See dpdk-devbind.py --status"
            } else {
                "does what it names exist, is the driver's name right, and are we root?"
            },
        })?;
        Device::new(eal, id, device)
    }

    /// Creates a virtual device while EAL runs, and gives its port.
    ///
    /// # Errors
    /// [`PortError::Attach`], [`PortError::NotFound`].
    pub fn attach(eal: &Eal, device: &str) -> Result<Device, PortError> {
        let text = CString::new(device).map_err(|_| PortError::NulByte(device.to_owned()))?;
        // SAFETY: EAL is started, and the string is copied.
        let result = unsafe { dpdk_sys::rte_dev_probe(text.as_ptr()) };
        Errno::check(result).map_err(|errno| PortError::Attach {
            device: device.to_owned(),
            errno,
            help: "does an interface of this name exist already, is /dev/net/tun there, and are we root?",
        })?;
        Device::find(eal, device)
    }

    fn new(eal: &Eal, id: u16, device: &str) -> Result<Device, PortError> {
        let mut raw = dpdk_sys::rte_eth_dev_info::default();
        // SAFETY: the structure is large enough; an unknown port is answered by an error.
        let result = unsafe { dpdk_sys::rte_eth_dev_info_get(id, &raw mut raw) };
        let step =
            |step, errno| PortError::Step { device: device.to_owned(), driver: String::new(), step, errno };
        Errno::check(result).map_err(|errno| step("read its capabilities", errno))?;
        let mut mac = dpdk_sys::rte_ether_addr::default();
        // SAFETY: as above.
        let result = unsafe { dpdk_sys::rte_eth_macaddr_get(id, &raw mut mac) };
        Errno::check(result).map_err(|errno| step("read its MAC", errno))?;

        let wish = |size: u16| if size == 0 { RING_SIZE } else { size.min(RING_SIZE_MAX) };
        let mut rx = wish(raw.default_rxportconf.ring_size);
        let mut tx = wish(raw.default_txportconf.ring_size);
        // SAFETY: the port exists.
        let result = unsafe { dpdk_sys::rte_eth_dev_adjust_nb_rx_tx_desc(id, &raw mut rx, &raw mut tx) };
        Errno::check(result).map_err(|errno| step("choose its ring sizes", errno))?;
        // SAFETY: the port exists.
        let socket = unsafe { dpdk_sys::rte_eth_dev_socket_id(id) };
        let info = DeviceInfo {
            driver: text(raw.driver_name),
            queues_max: raw.max_rx_queues.min(raw.max_tx_queues),
            mtu_min: raw.min_mtu,
            mtu_max: mtu_max(&raw),
            rx_ring_size: rx,
            tx_ring_size: tx,
            rss: raw.flow_type_rss_offloads,
            socket: u16::try_from(socket).ok(),
            mac: mac.addr_bytes,
        };
        Ok(Device { id, device: device.to_owned(), info, eal: eal.clone() })
    }

    /// What its driver says.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Configures and starts it; received frames are put into buffers of `pool`.
    ///
    /// # Errors
    /// [`PortError`]; the device is closed then.
    pub fn start(self, setup: &PortSetup, pool: &Mempool) -> Result<Port, PortError> {
        let Device { id, device, info, eal } = self;
        let mut inner = PortHandle {
            id,
            driver: info.driver.clone(),
            device,
            mac: info.mac,
            mtu: setup.mtu,
            socket: info.socket,
            started: false,
            promiscuous: false,
            _pool: Some(pool.clone()),
            _eal: eal,
        };
        let notes = inner.start(&info, setup, pool)?;
        let inner = Arc::new(inner);
        let queues = (0..setup.queues).map(|index| Queue { port: Arc::clone(&inner), index }).collect();
        Ok(Port { inner, queues, notes })
    }
}

impl PortHandle {
    /// Every step in the order DPDK wants; gives notes about what the device could not do. On an error `Drop` closes.
    fn start(
        &mut self,
        info: &DeviceInfo,
        setup: &PortSetup,
        pool: &Mempool,
    ) -> Result<Vec<String>, PortError> {
        let mut notes = Vec::new();
        self.check(info, setup)?;
        self.configure(info, setup, &mut notes)?;
        self.set_mtu(setup.mtu, &mut notes)?;
        self.set_up_queues(info, setup.queues, pool)?;

        // SAFETY: all queues are set up.
        let result = unsafe { dpdk_sys::rte_eth_dev_start(self.id) };
        self.step("start it", result)?;
        self.started = true;

        if setup.promiscuous {
            // SAFETY: the port is started.
            match Errno::check(unsafe { dpdk_sys::rte_eth_promiscuous_enable(self.id) }) {
                Ok(_) => self.promiscuous = true,
                Err(errno) => notes
                    .push(format!("no promiscuous mode [{errno}]: only frames for its own MAC are received")),
            }
        }
        if let Some(mac) = setup.mac.filter(|mac| *mac != info.mac) {
            self.set_mac(mac, &mut notes)?;
        }
        Ok(notes)
    }

    /// Whether the device has as many queues, and takes the MTU.
    fn check(&self, info: &DeviceInfo, setup: &PortSetup) -> Result<(), PortError> {
        if info.queues_max < setup.queues {
            return Err(PortError::TooFewQueues {
                device: self.device.clone(),
                driver: self.driver.clone(),
                available: info.queues_max,
                wanted: setup.queues,
                help: match self.driver.as_str() {
                    "net_af_packet" => {
                        "give it more with `qpairs=N` in the device string, or use fewer workers.cpus"
                    }
                    "net_af_xdp" => {
                        "give it more with `queue_count=N` if the interface has that many (ethtool -l; a \
                         veth has one), \
                         or use fewer workers.cpus"
                    }
                    "net_pcap" => "repeat rx_pcap= and tx_pcap= once for each, or use fewer workers.cpus",
                    _ => "use fewer workers.cpus, or another device",
                },
            });
        }
        if !(info.mtu_min..=info.mtu_max).contains(&setup.mtu) {
            return Err(PortError::Mtu {
                device: self.device.clone(),
                driver: self.driver.clone(),
                min: info.mtu_min,
                max: info.mtu_max,
                wanted: setup.mtu,
            });
        }
        Ok(())
    }

    /// Queues, and receive-side scaling where the device has it.
    fn configure(
        &self,
        info: &DeviceInfo,
        setup: &PortSetup,
        notes: &mut Vec<String>,
    ) -> Result<(), PortError> {
        let mut conf = dpdk_sys::rte_eth_conf::default();
        conf.rxmode.mtu = u32::from(setup.mtu);
        let rss = info.rss & dpdk_sys::shim_rss_ip_tcp_udp;
        if setup.rss && setup.queues > 1 {
            if rss == 0 {
                notes.push(
                    "the device has no receive-side scaling by address and port; it spreads flows over its \
                     queues as it does"
                        .to_owned(),
                );
            } else {
                conf.rxmode.mq_mode = dpdk_sys::rte_eth_rx_mq_mode::RTE_ETH_MQ_RX_RSS;
                conf.rx_adv_conf.rss_conf.rss_hf = rss;
            }
        }
        // SAFETY: the port exists and is stopped; the configuration is copied.
        let result =
            unsafe { dpdk_sys::rte_eth_dev_configure(self.id, setup.queues, setup.queues, &raw const conf) };
        self.step("configure its queues", result)
    }

    fn set_mtu(&self, mtu: u16, notes: &mut Vec<String>) -> Result<(), PortError> {
        // SAFETY: configured and stopped.
        let result = unsafe { dpdk_sys::rte_eth_dev_set_mtu(self.id, mtu) };
        match Errno::check(result) {
            Ok(_) => Ok(()),
            Err(errno) if errno.is_unsupported() => {
                notes.push(format!(
                    "the device has no MTU of its own to set; frames up to mtu {mtu} are sent as they are"
                ));
                Ok(())
            }
            Err(errno) => Err(self.failed("set its MTU", errno)),
        }
    }

    fn set_up_queues(&self, info: &DeviceInfo, queues: u16, pool: &Mempool) -> Result<(), PortError> {
        let socket = info.socket.map_or(dpdk_sys::SOCKET_ID_ANY as u32, u32::from);
        for queue in 0..queues {
            // SAFETY: configured; a null configuration means the driver's default; the pool outlives the port.
            let result = unsafe {
                dpdk_sys::rte_eth_rx_queue_setup(
                    self.id,
                    queue,
                    info.rx_ring_size,
                    socket,
                    std::ptr::null(),
                    pool.as_ptr(),
                )
            };
            self.step("set up a receive queue", result)?;
            // SAFETY: as above.
            let result = unsafe {
                dpdk_sys::rte_eth_tx_queue_setup(self.id, queue, info.tx_ring_size, socket, std::ptr::null())
            };
            self.step("set up a transmit queue", result)?;
        }
        Ok(())
    }

    fn set_mac(&mut self, mac: [u8; 6], notes: &mut Vec<String>) -> Result<(), PortError> {
        let mut address = dpdk_sys::rte_ether_addr { addr_bytes: mac };
        // SAFETY: the port is started; the address is copied.
        let result = unsafe { dpdk_sys::rte_eth_dev_default_mac_addr_set(self.id, &raw mut address) };
        match Errno::check(result) {
            Ok(_) => {}
            Err(_) if self.promiscuous => notes.push(
                "the device keeps its own MAC; the configured one is used in frames, and promiscuous mode \
                 receives it"
                    .to_owned(),
            ),
            Err(errno) => {
                return Err(PortError::Mac {
                    device: self.device.clone(),
                    driver: self.driver.clone(),
                    errno,
                });
            }
        }
        self.mac = mac;
        Ok(())
    }

    fn step(&self, step: &'static str, result: i32) -> Result<(), PortError> {
        Errno::check(result).map(|_| ()).map_err(|errno| self.failed(step, errno))
    }

    fn failed(&self, step: &'static str, errno: Errno) -> PortError {
        PortError::Step { device: self.device.clone(), driver: self.driver.clone(), step, errno }
    }
}

impl Drop for PortHandle {
    fn drop(&mut self) {
        if self.promiscuous {
            // Otherwise the kernel interface below an AF_XDP or AF_PACKET port stays promiscuous.
            // SAFETY: the port is open.
            unsafe { dpdk_sys::rte_eth_promiscuous_disable(self.id) };
        }
        if self.started {
            // SAFETY: the last queue is gone, so nobody polls the port.
            unsafe { dpdk_sys::rte_eth_dev_stop(self.id) };
        }
        // SAFETY: stopped; closing frees what its queues hold.
        unsafe { dpdk_sys::rte_eth_dev_close(self.id) };
    }
}

impl Port {
    /// Its queues, one a worker; empty after the first call.
    pub fn take_queues(&mut self) -> Vec<Queue> {
        std::mem::take(&mut self.queues)
    }

    /// A handle to read its state with.
    pub fn observer(&self) -> Observer {
        Observer(Arc::clone(&self.inner))
    }

    /// What the device could not do, for the log.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// MAC in use.
    pub fn mac(&self) -> [u8; 6] {
        self.inner.mac
    }

    /// Largest IP datagram, bytes.
    pub fn mtu(&self) -> u16 {
        self.inner.mtu
    }

    /// Driver.
    pub fn driver(&self) -> &str {
        &self.inner.driver
    }

    /// NUMA socket; `None` for virtual devices.
    pub fn socket(&self) -> Option<u16> {
        self.inner.socket
    }
}

impl Observer {
    /// What the device counted.
    pub fn stats(&self) -> PortStats {
        stats::read(self.0.id)
    }

    /// Whether the link is up, as far as the driver knows.
    pub fn link_up(&self) -> bool {
        let mut link = dpdk_sys::rte_eth_link::default();
        // SAFETY: the structure is large enough and the port is open.
        let result = unsafe { dpdk_sys::rte_eth_link_get_nowait(self.0.id, &raw mut link) };
        result == 0 && u32::from(link.link_status()) == dpdk_sys::RTE_ETH_LINK_UP
    }
}

/// Removes a virtual device whose port is closed from its bus.
///
/// # Errors
/// DPDK's reason; the device's name cannot be used again then, which is all.
pub fn forget(_eal: &Eal, name: &str) -> Result<(), Errno> {
    let Ok(name) = CString::new(name) else { return Ok(()) };
    // SAFETY: EAL is started; both are C strings.
    let result = unsafe { dpdk_sys::rte_eal_hotplug_remove(c"vdev".as_ptr(), name.as_ptr()) };
    Errno::check(result).map(|_| ())
}

fn port_by_name(name: &str) -> Option<u16> {
    let name = CString::new(name).ok()?;
    let mut id = 0;
    // SAFETY: a C string, and room for the answer.
    let result = unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut id) };
    (result == 0).then_some(id)
}

/// The largest MTU a driver really takes: it may state a frame length besides, and AF_XDP's is bounded by a page.
fn mtu_max(raw: &dpdk_sys::rte_eth_dev_info) -> u16 {
    /// Header and checksum, where the driver does not tell what it counts.
    const OVERHEAD: u32 = 14 + 4;
    let mtu = u32::from(raw.max_mtu);
    let overhead =
        if raw.max_mtu != u16::MAX && raw.max_rx_pktlen > mtu { raw.max_rx_pktlen - mtu } else { OVERHEAD };
    let by_frame = if raw.max_rx_pktlen == 0 { mtu } else { raw.max_rx_pktlen.saturating_sub(overhead) };
    let mut mtu = u16::try_from(mtu.min(by_frame)).unwrap_or(u16::MAX);
    if text(raw.driver_name) == "net_af_xdp" {
        mtu = mtu.min(mempool::XDP_MTU_MAX);
    }
    mtu
}

/// EAL's warnings and errors: a device that cannot be probed does not fail its start.
fn probe_log() -> String {
    let log = log::captured();
    let grave = log.iter().filter(|(level, _)| *level <= Level::Warning);
    grave.take(LINES_QUOTED_MAX).map(|(_, line)| format!("\n  {line}")).collect()
}

/// The port of a device whose ports have names of their own, if it has exactly one.
fn only_port_of(device: &str) -> Option<u16> {
    let mut found = None;
    let mut next = 0_u16;
    loop {
        // SAFETY: no preconditions.
        let id = unsafe { dpdk_sys::rte_eth_find_next(next) };
        if u32::from(id) >= dpdk_sys::RTE_MAX_ETHPORTS {
            return found;
        }
        next = id + 1;
        let mut raw = dpdk_sys::rte_eth_dev_info::default();
        // SAFETY: the structure is large enough.
        if unsafe { dpdk_sys::rte_eth_dev_info_get(id, &raw mut raw) } != 0 || raw.device.is_null() {
            continue;
        }
        // SAFETY: the device of an attached port.
        if text(unsafe { dpdk_sys::rte_dev_name(raw.device) }) == device {
            if found.is_some() {
                return None;
            }
            found = Some(id);
        }
    }
}

fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: a NUL-terminated string that the driver keeps.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
