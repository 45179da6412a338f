//! Exception ports: TAP interfaces by which the kernel sees what is not for a VIP. They vanish with the process, so they are made at every start; and
//! when somebody deletes one, its device is made anew and exchanged for the dead one in every worker.

use dpdk::{Device, DpdkIo, Eal, Mempool, Port, PortError, PortSetup, Queue};
use statesync::spsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use wire::PortId;

/// Queues on their way to a worker, or home: one of each exception port, and never more than these.
const EXCHANGES_MAX: usize = worker::view::PORTS_MAX;
/// Longest time that workers may take to exchange their queues: they do between two turns.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// What an exception port is made of.
#[derive(Clone, Debug)]
pub(crate) struct ExceptionPlan {
    /// Its data port on the packet path.
    pub(crate) data: PortId,
    /// Name of the data port in the configuration.
    pub(crate) port: String,
    /// Name of the kernel interface.
    pub(crate) interface: String,
    /// The data port's: the kernel must answer ARP and ND with the MAC that the data port receives.
    pub(crate) mac: [u8; 6],
    /// The data port's.
    pub(crate) mtu: u16,
    /// One a worker.
    pub(crate) queues: u16,
    /// Buffers of received frames.
    pub(crate) pool: Mempool,
}

/// A started exception port.
#[derive(Debug)]
pub(crate) struct Exception {
    plan: ExceptionPlan,
    /// Counts attempts to make it. Each has a device's name of its own: the dead one is closed after the next one was made.
    attempts: u32,
    /// Name of its device.
    device: String,
    port: Port,
}

impl Exception {
    /// Makes and starts it.
    pub(crate) fn open(eal: &Eal, plan: ExceptionPlan) -> Result<Exception, PortError> {
        let device = format!("net_tap_{}", plan.interface);
        let port = plan.start(eal, &device)?;
        tracing::info!(port = plan.port, interface = plan.interface, "exception port started");
        Ok(Exception { plan, attempts: 0, device, port })
    }

    /// Its queues, one a worker; empty after the first call.
    pub(crate) fn take_queues(&mut self) -> Vec<Queue> {
        self.port.take_queues()
    }
}

impl ExceptionPlan {
    fn start(&self, eal: &Eal, device: &str) -> Result<Port, PortError> {
        let (interface, mac) = (&self.interface, model::config::Mac(self.mac));
        let device = Device::attach(eal, &format!("{device},iface={interface},mac={mac}"))?;
        let mtu = mtu(self.mtu, device.info().mtu_max);
        if mtu < self.mtu {
            tracing::info!(
                port = self.port,
                interface,
                "net_tap takes no jumbo frames: the exception interface has mtu {mtu}, and longer frames for \
                 this \
                 host itself are dropped as punt_full"
            );
        }
        let setup = PortSetup { queues: self.queues, mtu, mac: None, promiscuous: false, rss: false };
        device.start(&setup, &self.pool)
    }
}

/// MTU of an exception interface: the data port's, or the usual one where the driver refuses that (net_tap of 22.11 ends at
/// 1504). TCP adapts to it by itself.
fn mtu(of_port: u16, max: u16) -> u16 {
    if of_port <= max { of_port } else { max.min(1500) }
}

/// A worker's end of exchanges.
#[derive(Debug)]
pub(crate) struct Exchange {
    new: Receiver<(PortId, Queue)>,
    home: Sender<Queue>,
}

impl Exchange {
    /// Exchanges a queue if there is a new one; between two turns. Two loads if there is none.
    #[inline]
    pub(crate) fn between_turns(&mut self, io: &mut DpdkIo) {
        if let Some((port, queue)) = self.new.pop()
            && let Some(old) = io.exchange(port, queue)
            && let Err(old) = self.home.push(old)
        {
            // Only if more came than there are ports. The device stays open: a worker closes none.
            std::mem::forget(old);
        }
    }
}

/// The other end.
#[derive(Debug)]
struct Exchanger {
    new: Sender<(PortId, Queue)>,
    home: Receiver<Queue>,
}

/// All exception ports, kept open, and the way of new queues to the workers.
#[derive(Debug)]
pub(crate) struct Exceptions {
    eal: Eal,
    held: Mutex<HeldPorts>,
}

#[derive(Debug, Default)]
struct HeldPorts {
    /// In the order in which they are numbered, behind the data ports.
    ports: Vec<Exception>,
    workers: Vec<Exchanger>,
    first: u16,
}

impl Exceptions {
    /// Keeps ports, which are numbered from `first` on, and gives each of so many workers its end.
    pub(crate) fn new(
        eal: &Eal,
        ports: Vec<Exception>,
        first: u16,
        workers: usize,
    ) -> (Arc<Exceptions>, Vec<Exchange>) {
        let mut exchangers = Vec::new();
        let mut exchanges = Vec::new();
        for _ in 0..workers {
            let (new, to_worker) = channel(EXCHANGES_MAX);
            let (to_home, home) = channel(EXCHANGES_MAX);
            exchangers.push(Exchanger { new, home });
            exchanges.push(Exchange { new: to_worker, home: to_home });
        }
        let held = Mutex::new(HeldPorts { ports, workers: exchangers, first });
        (Arc::new(Exceptions { eal: eal.clone(), held }), exchanges)
    }

    /// Makes the device of a data port's exception port anew, whose interface is gone, and closes the dead one when no worker has a queue of
    /// it any more. Blocks; the workers must not use the port meanwhile.
    ///
    /// # Errors
    /// In words; the dead device is in place then.
    pub(crate) fn renew(&self, data: PortId) -> Result<(), String> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let HeldPorts { ports, workers, first } = &mut *held;
        let at = ports.iter().position(|of| of.plan.data == data);
        let Some((at, exception)) = at.and_then(|at| Some((at, ports.get_mut(at)?))) else {
            return Err("it has no exception port, or stops".to_owned());
        };
        let plan = &exception.plan;
        // net_tap would attach to one that is there, whoever made it.
        if control::interface_exists(&plan.interface).map_err(|error| error.to_string())? {
            return Err(format!(
                "an interface {0} of another's is there; remove it (ip link delete {0})",
                plan.interface
            ));
        }
        exception.attempts = exception.attempts.saturating_add(1);
        let device = format!("net_tap_{}_{}", plan.interface, exception.attempts);
        let mut port = plan.start(&self.eal, &device).map_err(|error| {
            self.forget(&device);
            error.to_string()
        })?;
        let id = PortId(first.saturating_add(u16::try_from(at).unwrap_or(u16::MAX)));
        let mut queues = port.take_queues().into_iter();
        for worker in workers.iter_mut() {
            if let Some(queue) = queues.next()
                && worker.new.push((id, queue)).is_err()
            {
                return Err("a worker takes no turns".to_owned());
            }
        }
        let dead = std::mem::replace(&mut exception.port, port);
        let dead_device = std::mem::replace(&mut exception.device, device);
        let is_home = come_home(workers);
        drop(dead);
        if is_home {
            // It was closed with its last queue.
            self.forget(&dead_device);
        } else {
            tracing::warn!(
                interface = exception.plan.interface,
                "a worker has not given the dead queue back"
            );
        }
        Ok(())
    }

    /// Removes a device that is closed.
    fn forget(&self, device: &str) {
        if let Err(errno) = dpdk::port::forget(&self.eal, device) {
            tracing::debug!("device {device} stays on its bus [{errno}]");
        }
    }

    /// Closes all of them. The workers have stopped.
    pub(crate) fn close(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        *held = HeldPorts::default();
    }
}

/// Waits until each worker has sent a queue home, and drops it here.
fn come_home(workers: &mut [Exchanger]) -> bool {
    let begun = Instant::now();
    workers.iter_mut().all(|worker| {
        loop {
            if worker.home.pop().is_some() {
                return true;
            }
            if begun.elapsed() > PATIENCE {
                return false;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    })
}
