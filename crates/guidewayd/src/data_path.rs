//! Everything between the configuration and running workers: EAL, pools, ports, tables, lcores; and the way back.

use crate::exception::{Exception, ExceptionPlan, Exceptions, Exchange};
use crate::sizing::{self, QueueNeed, RING_DEPTH};
use crate::veth;
use crate::{log, poll};
use control::{DeviceStats, ExceptionError, Plane, PortHandle, WorkerHandle};
use dpdk::port::Observer;
use dpdk::thread::{self, LaunchError, Running};
use dpdk::{
    Device, DpdkIo, Eal, Mbuf, Mempool, Port, PortError, PortSetup, Queue, TscClock, memory, mempool, pdump,
    telemetry,
};
use flow::{Memory, Table};
use model::Config;
use statesync::window::Windows;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use wire::{CoreId, PortId};
use worker::commands::command_queue;
use worker::turn::Setup;
use worker::view::mailbox::mailbox;
use worker::view::{BACKENDS_MAX, SERVICES_MAX};
use worker::{Counters, Relay, Worker};

/// Takes the latest JSON of a telemetry command.
type Publish = Box<dyn FnMut(&str, String)>;

/// Views on their way to a worker; control waits for acknowledgements long before this.
const VIEWS_DEPTH: usize = 8;
/// Commands on their way to a worker, and answers on their way home: control looks every millisecond while it waits for some.
const COMMANDS_DEPTH: usize = 256;
/// What a worker of a cluster may report before control looks.
const REPORTS_DEPTH: usize = 1024;
/// Share of a flow table that flows of which one packet was seen may take: a flood leaves the rest alone.
const UNTRUSTED_PERCENT: u8 = 50;

/// Why the daemon did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// Another process has what only one may have.
    #[error(transparent)]
    Claim(#[from] control::ClaimError),
    /// EAL.
    #[error(transparent)]
    Eal(#[from] dpdk::EalError),
    /// Packet buffers.
    #[error(transparent)]
    Pool(#[from] mempool::PoolError),
    /// A port.
    #[error("port {name:?}: {source}")]
    Port {
        /// Its name in the configuration.
        name: String,
        /// What is wrong.
        source: PortError,
    },
    /// Flow tables.
    #[error(transparent)]
    Memory(#[from] memory::NoMemory),
    /// Flow tables.
    #[error("cannot make a flow table: {0}; change workers.flows")]
    Table(#[from] flow::TableError),
    /// No random numbers.
    #[error("no random numbers from the kernel: {0}")]
    Random(std::io::Error),
    /// An exception interface.
    #[error(transparent)]
    Exception(#[from] ExceptionError),
    /// Fewer lcores than workers.
    #[error(
        "EAL has {have} worker lcores and workers.cpus names {want}; remove options about cores from the EAL \
         arguments"
    )]
    Lcores {
        /// There are.
        have: usize,
        /// Wanted.
        want: usize,
    },
    /// A worker.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The management core.
    #[error(transparent)]
    Control(control::RunError),
}

/// Running workers and what they stand on. Fields are dropped in this order.
pub(crate) struct DataPath {
    stop: Arc<AtomicBool>,
    workers: Vec<Running>,
    _capture: Option<pdump::Capture>,
    exceptions: Option<Arc<Exceptions>>,
    ports: Vec<Port>,
    pools: Vec<Mempool>,
    _eal: Eal,
}

/// Starts EAL with `words`, and logs what it is.
fn start_eal(config: &Config, words: &[String]) -> Result<Eal, StartError> {
    tracing::debug!("EAL arguments: {}", dpdk::eal::quote(words));
    let eal = Eal::start(words, sizing::estimate_bytes(config), log::dpdk_line)?;
    let isa = flow::isa().name();
    let huge_pages = eal.has_huge_pages();
    tracing::info!(dpdk = %eal.version(), huge_pages, look_ups = isa, "EAL started");
    if !huge_pages {
        tracing::warn!("no huge pages: look-ups in large flow tables take at least twice as long");
    }
    Ok(eal)
}

/// What a worker is made of.
struct WorkerParts<'p> {
    /// Among the workers, from 0.
    index: usize,
    lcore: u32,
    cpu: u16,
    idle: model::config::Idle,
    io: DpdkIo,
    port_count: usize,
    table: Table,
    /// Of all workers' tables, by index.
    readers: &'p [flow::Reader],
    rings: statesync::Ports<Relay<Mbuf>>,
    windows: Option<&'p Arc<Windows>>,
    exchange: Exchange,
}

impl DataPath {
    /// Starts EAL with `words`, then everything else. What was started is stopped again on an error.
    pub(crate) fn start(config: &Config, words: &[String]) -> Result<(DataPath, Plane), StartError> {
        let eal = start_eal(config, words)?;
        pin_management_thread(&config.workers.management_cpus);
        let clock = TscClock::start(&eal);
        let lcores = eal.worker_lcores();
        let count = config.workers.cpus.len();
        if lcores.len() < count {
            return Err(StartError::Lcores { have: lcores.len(), want: count });
        }

        let mut ports = OpenPorts::open(config, &eal)?;
        control::configure_exceptions(&config.ports)?;
        veth::warn_of_unseen_peers(&config.ports);
        warn_of_distant_sockets(&eal, &lcores, config, &ports.data);

        let mut path = DataPath {
            stop: Arc::default(),
            workers: Vec::new(),
            _capture: serve_capture(&eal),
            pools: ports.pools.values().cloned().collect(),
            exceptions: None,
            ports: Vec::new(),
            _eal: eal.clone(),
        };
        let handles = ports.handles(config);
        let queues = ports.queues_by_worker(count);
        let first = u16::try_from(ports.data.len()).unwrap_or(u16::MAX);
        let (exceptions, exchanges) =
            Exceptions::new(&eal, std::mem::take(&mut ports.exception), first, count);
        path.exceptions = Some(Arc::clone(&exceptions));
        let secrets = flow_secrets(config)?;
        let workers = path.launch_all(config, (&eal, clock, &lcores), &ports, queues, exchanges, &secrets)?;
        path.ports = ports.data;

        let memory_bytes = path.memory_bytes(config);
        let plane = Plane {
            workers,
            flow_secrets: secrets,
            ports: handles,
            now: Box::new(move || clock.now()),
            memory_bytes,
            renew: Some(Arc::new(move |port| exceptions.renew(port))),
            telemetry: register_telemetry(&eal),
        };
        Ok((path, plane))
    }

    /// Starts all workers, each on its lcore; gives what control holds of them, in order.
    fn launch_all(
        &mut self,
        config: &Config,
        (eal, clock, lcores): (&Eal, TscClock, &[u32]),
        ports: &OpenPorts,
        mut queues: Vec<Vec<Queue>>,
        mut exchanges: Vec<Exchange>,
        secrets: &[u64],
    ) -> Result<Vec<WorkerHandle>, StartError> {
        let count = config.workers.cpus.len();
        let pool_of = |lcore| {
            let nearest = ports.pools.get(&eal.socket_of(lcore));
            nearest.or_else(|| ports.pools.values().next()).cloned()
        };

        let mut tables = Vec::new();
        for (index, lcore) in lcores.iter().take(count).enumerate() {
            let secret = secrets.get(index).copied().unwrap_or_default();
            tables.push(table(config, eal, index, eal.socket_of(*lcore), secret)?);
        }
        let readers: Vec<flow::Reader> = tables.iter().map(Table::reader).collect();
        let mut rings = statesync::mesh(count, RING_DEPTH);
        let port_count = queues.first().map_or(0, Vec::len);
        let windows = config.cluster.is_some().then(|| Arc::new(Windows::new()));
        let mut workers = Vec::new();
        for (index, table) in tables.into_iter().enumerate().rev() {
            // Rings and queues are in order of cores, and so are taken from the end.
            let (Some(rings), Some(queues), Some(pool)) = (rings.pop(), queues.pop(), pool_of(lcores[index]))
            else {
                continue;
            };
            let Some(exchange) = exchanges.pop() else { continue };
            let parts = WorkerParts {
                index,
                lcore: lcores[index],
                cpu: config.workers.cpus[index],
                idle: config.workers.idle,
                io: DpdkIo::new(queues, pool),
                port_count,
                table,
                readers: &readers,
                rings,
                windows: windows.as_ref(),
                exchange,
            };
            workers.push(self.launch(eal, clock, parts)?);
        }
        workers.reverse();
        Ok(workers)
    }

    /// Starts one worker on its lcore; gives what control holds of it.
    fn launch(
        &mut self,
        eal: &Eal,
        clock: TscClock,
        parts: WorkerParts<'_>,
    ) -> Result<WorkerHandle, StartError> {
        let WorkerParts { index, lcore, cpu, idle, io, port_count, table, readers, rings, windows, .. } =
            parts;
        let (publisher, inbox) = mailbox(VIEWS_DEPTH);
        let (commander, commands) = command_queue(COMMANDS_DEPTH);
        let counters = Arc::new(Counters::new(SERVICES_MAX + 1, BACKENDS_MAX, port_count));
        let core = CoreId(u8::try_from(index).unwrap_or(u8::MAX));
        let mut worker = Worker::new(Setup {
            core,
            io,
            table,
            peers: readers.to_vec(),
            rings,
            inbox,
            counters: Arc::clone(&counters),
            commands: Some(commands),
        });
        let mut reports = None;
        if let Some(windows) = windows {
            let (sender, receiver) = statesync::spsc::channel(REPORTS_DEPTH);
            worker.attach_sync(sizing::SYNC, random()?, Arc::clone(windows), sender);
            reports = Some(receiver);
        }
        let (stop, counted, mut exchange) = (Arc::clone(&self.stop), Arc::clone(&counters), parts.exchange);
        let job = move || {
            poll::run(worker, &counted, clock, idle, &stop, |io| exchange.between_turns(io));
        };
        self.workers.push(thread::launch(eal, lcore, job)?);
        let flows = readers[index].clone();
        Ok(WorkerHandle { core, cpu, publisher, counters, flows, reports, commands: Some(commander) })
    }

    /// What takes memory, and how much, bytes.
    fn memory_bytes(&self, config: &Config) -> Vec<(String, u64)> {
        let workers = config.workers.cpus.len();
        let table_bytes = sizing::table_bytes(config) * workers as u64;
        let pool_bytes = self.pools.iter().map(Mempool::bytes).sum::<u64>();
        let mut memory_bytes =
            vec![("flow_tables".to_owned(), table_bytes), ("packet_buffers".to_owned(), pool_bytes)];
        if config.cluster.is_some() {
            memory_bytes.push(("state_sync".to_owned(), sizing::sync_bytes(workers)));
        }
        tracing::info!(
            workers,
            flow_table_bytes = table_bytes,
            packet_buffer_bytes = pool_bytes,
            "workers started"
        );
        memory_bytes
    }

    /// Workers finish their turn, ports stop, EAL's files go.
    pub(crate) fn stop(mut self) {
        self.stop_workers();
        if let Some(exceptions) = self.exceptions.take() {
            exceptions.close();
        }
        self.ports.clear();
        for pool in &self.pools {
            let lost = pool.count().saturating_sub(pool.available());
            if lost > 0 {
                tracing::debug!("{lost} packet buffers were kept by drivers");
            }
        }
    }

    fn stop_workers(&mut self) {
        self.stop.store(true, Relaxed);
        // Waits for each.
        self.workers.clear();
    }
}

impl Drop for DataPath {
    fn drop(&mut self) {
        self.stop_workers();
    }
}

/// Ports while they are being wired up: data ports first, then exception ports, as the engine numbers them.
struct OpenPorts {
    data: Vec<Port>,
    exception: Vec<Exception>,
    pools: BTreeMap<Option<u16>, Mempool>,
}

impl OpenPorts {
    fn open(config: &Config, eal: &Eal) -> Result<OpenPorts, StartError> {
        let queues = u16::try_from(config.workers.cpus.len()).unwrap_or(u16::MAX);
        let of = |name: &str| {
            let name = name.to_owned();
            move |source| StartError::Port { name, source }
        };
        let mut devices = Vec::new();
        for port in &config.ports {
            devices.push((port, Device::find(eal, &port.device).map_err(of(&port.name))?));
        }

        let pools = pools(eal, &devices, queues)?;
        let mut ports = OpenPorts { data: Vec::new(), exception: Vec::new(), pools };
        for (port, device) in devices {
            let setup = PortSetup {
                queues,
                mtu: port.mtu,
                mac: port.mac.map(|mac| mac.0),
                promiscuous: true,
                rss: true,
            };
            let Some(pool) = ports.pools.get(&device.info().socket) else { continue };
            let started = device.start(&setup, pool).map_err(of(&port.name))?;
            log_started(&port.name, &started, queues);
            ports.data.push(started);
        }
        for (index, (port, data)) in (0..).zip(config.ports.iter().zip(&ports.data)) {
            let Some(interface) = port.exception.clone() else { continue };
            let Some(pool) = ports.pools.get(&data.socket()).cloned() else { continue };
            let plan = ExceptionPlan {
                data: PortId(index),
                port: port.name.clone(),
                interface,
                mac: data.mac(),
                mtu: port.mtu,
                queues,
                pool,
            };
            ports.exception.push(Exception::open(eal, plan).map_err(of(&port.name))?);
        }
        Ok(ports)
    }

    /// What control is to know; exception ports are numbered behind the data ports.
    fn handles(&self, config: &Config) -> Vec<PortHandle> {
        let id = |index: usize| PortId(u16::try_from(index).unwrap_or(u16::MAX));
        let mut next_exception = self.data.len();
        let mut handles = Vec::new();
        for (index, (port, started)) in config.ports.iter().zip(&self.data).enumerate() {
            let exception = port.exception.as_ref().map(|interface| {
                next_exception += 1;
                (id(next_exception - 1), interface.clone())
            });
            let (of_stats, of_link) = (started.observer(), started.observer());
            handles.push(PortHandle {
                id: id(index),
                name: port.name.clone(),
                device: port.device.clone(),
                mac: started.mac(),
                mtu: started.mtu(),
                driver: started.driver().to_owned(),
                exception,
                kernel: veth::interface(&port.device).map(str::to_owned),
                stats: Box::new(move || device_stats(&of_stats)),
                link_up: Box::new(move || of_link.link_up()),
            });
        }
        handles
    }

    /// Queue `i` of every port, for worker `i`.
    fn queues_by_worker(&mut self, workers: usize) -> Vec<Vec<Queue>> {
        let mut by_worker: Vec<Vec<Queue>> = (0..workers).map(|_| Vec::new()).collect();
        let of_data = self.data.iter_mut().map(Port::take_queues);
        for port in of_data.chain(self.exception.iter_mut().map(Exception::take_queues)) {
            for (queues, queue) in by_worker.iter_mut().zip(port) {
                queues.push(queue);
            }
        }
        by_worker
    }
}

/// Packet buffers: a pool for each NUMA socket that has a device.
fn pools(
    eal: &Eal,
    devices: &[(&model::config::Port, Device)],
    queues: u16,
) -> Result<BTreeMap<Option<u16>, Mempool>, StartError> {
    let mut needs: BTreeMap<Option<u16>, Vec<QueueNeed>> = BTreeMap::new();
    for (port, device) in devices {
        let info = device.info();
        needs.entry(info.socket).or_default().push(QueueNeed {
            rings: u32::from(info.rx_ring_size) + u32::from(info.tx_ring_size),
            af_xdp: info.driver == "net_af_xdp",
            exception: port.exception.is_some(),
            mtu: port.mtu,
        });
    }
    let mut pools = BTreeMap::new();
    for (socket, needs) in needs {
        let (count, room) = sizing::pool(&needs, usize::from(queues));
        let name = socket.map_or_else(|| "guideway_any".to_owned(), |socket| format!("guideway_{socket}"));
        pools.insert(socket, Mempool::create(eal, &name, count, room, socket)?);
    }
    Ok(pools)
}

/// Logs what a port is, and what it cannot do.
fn log_started(name: &str, started: &Port, queues: u16) {
    for note in started.notes() {
        tracing::info!(port = name, "{note}");
    }
    tracing::info!(
        port = name,
        driver = started.driver(),
        mac = %model::config::Mac(started.mac()),
        mtu = started.mtu(),
        queues,
        "port started"
    );
    if started.driver() == "net_af_packet" {
        tracing::warn!(
            port = name,
            "net_af_packet loses the type of an outer VLAN tag (0x88a8 leaves as 0x8100) and drops \
             datagrams of more than about 1,900 \
             bytes that come in IPv4 fragments (bad_ipv4); net_af_xdp does not"
        );
    }
}

fn device_stats(observer: &Observer) -> DeviceStats {
    let stats = observer.stats();
    DeviceStats {
        rx: stats.rx,
        tx: stats.tx,
        rx_bytes: stats.rx_bytes,
        tx_bytes: stats.tx_bytes,
        missed: stats.missed,
        rx_errors: stats.rx_errors,
        tx_errors: stats.tx_errors,
        nombuf: stats.nombuf,
    }
}

/// What each worker's flow table is keyed with: as before a restart, and drawn for workers that are new.
fn flow_secrets(config: &Config) -> Result<Vec<u64>, StartError> {
    let known = control::flow_secrets(&config.machine.state_dir).into_iter().map(Ok);
    known.chain(std::iter::repeat_with(random)).take(config.workers.cpus.len()).collect()
}

/// A worker's flow table in huge pages near its core.
fn table(
    config: &Config,
    eal: &Eal,
    index: usize,
    socket: Option<u16>,
    secret: u64,
) -> Result<Table, StartError> {
    let (narrow, wide) = sizing::buckets(config);
    let narrow = memory::slice(eal, &format!("the flow table of worker {index}"), narrow, socket)?;
    let wide = memory::slice(eal, &format!("the wide flow table of worker {index}"), wide, socket)?;
    let us = |seconds: u32| u64::from(seconds) * 1_000_000;
    let idle = flow::Idle {
        tcp_established_us: us(config.timeouts.tcp_established_s),
        tcp_closing_us: us(config.timeouts.tcp_closing_s),
        syn_us: us(config.timeouts.syn_s),
        udp_us: us(config.timeouts.udp_s),
    };
    Ok(Table::new(Memory::Static(narrow), Memory::Static(wide), secret, idle, UNTRUSTED_PERCENT)?)
}

fn random() -> Result<u64, StartError> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| StartError::Random(error.into()))?;
    Ok(u64::from_ne_bytes(bytes))
}

/// EAL has put this thread on the management CPUs; with a single one it is also named to whoever asks later.
fn pin_management_thread(cpus: &[u16]) {
    if let [cpu] = cpus
        && !core_affinity::set_for_current(core_affinity::CoreId { id: usize::from(*cpu) })
    {
        tracing::warn!("cannot pin the management thread to CPU {cpu}");
    }
}

fn serve_capture(eal: &Eal) -> Option<pdump::Capture> {
    match pdump::serve(eal) {
        Ok(capture) => Some(capture),
        Err(errno) => {
            tracing::info!("dpdk-dumpcap cannot attach [{errno}]: EAL runs without shared configuration");
            None
        }
    }
}

fn register_telemetry(eal: &Eal) -> Option<Publish> {
    match telemetry::register(eal) {
        Ok(()) => Some(Box::new(telemetry::publish)),
        Err(errno) => {
            tracing::info!("our commands are not on DPDK's telemetry socket [{errno}]");
            None
        }
    }
}

fn warn_of_distant_sockets(eal: &Eal, lcores: &[u32], config: &Config, ports: &[Port]) {
    for (lcore, cpu) in lcores.iter().zip(&config.workers.cpus) {
        for (port, started) in config.ports.iter().zip(ports) {
            if let (Some(here), Some(there)) = (eal.socket_of(*lcore), started.socket())
                && here != there
            {
                tracing::warn!(
                    port = port.name,
                    "is on NUMA socket {there} and worker CPU {cpu} on {here}: every packet crosses; choose \
                     workers.cpus of socket {there}"
                );
            }
        }
    }
}
