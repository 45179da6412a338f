//! The device under test: somebody else's behind the ports given, or one that is started here behind a vhost-user socket.

use super::frame::Destination;
use crate::eal;
use crate::failure::Failure;
use crate::machine;
use crate::testpmd::{self, Testpmd};
use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// A program that takes longer to open its socket does not come.
const PATIENCE: Duration = Duration::from_secs(10);
/// Descriptors of a ring.
pub(super) const QUEUE_SIZE: u16 = 1024;
/// Room for the longest frame and a tunnel's headers.
const MTU: u16 = 1600;
/// Huge-page memory of the device under test.
pub(super) const MEMORY: u64 = 64 << 20;

/// What is started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Dut {
    /// testpmd, swapping MACs.
    Macswap,
    /// testpmd, changing nothing.
    Io,
    /// The balancer in mode ipip, answering on the port it received from.
    Guidewayd,
}

impl Dut {
    pub(super) fn name(self) -> &'static str {
        match self {
            Dut::Macswap => "testpmd macswap",
            Dut::Io => "testpmd io",
            Dut::Guidewayd => "guidewayd",
        }
    }
}

/// Ports of the generator, and what runs behind them.
#[derive(Debug)]
pub(super) struct TestBed {
    devices: Vec<String>,
    cpu: usize,
    running: Vec<RunningProgram>,
    directory: Option<PathBuf>,
}

/// A program under test. It is stopped (by signal) whenever it is not being measured: all have the same CPU.
#[derive(Debug)]
struct RunningProgram {
    name: &'static str,
    program: Program,
}

#[derive(Debug)]
enum Program {
    Testpmd(Box<Testpmd>),
    Guidewayd(Child),
}

impl RunningProgram {
    fn signal(&self, signal: Signal) {
        let id = match &self.program {
            Program::Testpmd(testpmd) => testpmd.id(),
            Program::Guidewayd(child) => child.id(),
        };
        if let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) {
            // It fails only when the process has ended, which the next trial shows.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for RunningProgram {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
        // testpmd ends itself when it is dropped.
        if let Program::Guidewayd(_) = &self.program {
            // Asked first, so that it removes its files.
            self.signal(Signal::TERM);
        }
        if let Program::Guidewayd(child) = &mut self.program {
            let asked = Instant::now();
            while matches!(child.try_wait(), Ok(None)) && asked.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl TestBed {
    /// Devices of somebody else, one or two; the generator is on `cpu`.
    pub(super) fn of_devices(devices: &[String], cpu: usize) -> Result<TestBed, Failure> {
        match devices.len() {
            1 | 2 => Ok(TestBed { devices: devices.to_vec(), cpu, running: Vec::new(), directory: None }),
            _ => Err(Failure::Usage("one port or two".into())),
        }
    }

    /// Starts programs on the CPU `cpu`; the generator is on `own`.
    pub(super) fn of_programs(
        duts: &[Dut],
        cpu: usize,
        own: usize,
        target: &Destination,
    ) -> Result<TestBed, Failure> {
        let directory = std::env::temp_dir().join(format!("guideway-bench-{}", std::process::id()));
        std::fs::create_dir_all(&directory).map_err(|e| Failure::Machine(e.to_string()))?;
        // Owns the directory from here on, whatever fails.
        let mut setup = TestBed {
            devices: Vec::new(),
            cpu: own,
            running: Vec::new(),
            directory: Some(directory.clone()),
        };
        for (number, dut) in duts.iter().enumerate() {
            let socket = directory.join(format!("vhost{number}.sock"));
            let device = format!("net_vhost0,iface={},queues=1", socket.display());
            let program = match dut {
                Dut::Macswap | Dut::Io => Program::Testpmd(Box::new(forwarder(*dut, &device, cpu)?)),
                Dut::Guidewayd => Program::Guidewayd(guidewayd(&directory, &device, cpu, target)?),
            };
            setup.running.push(RunningProgram { name: dut.name(), program });
            let started = Instant::now();
            while !socket.exists() {
                if started.elapsed() > PATIENCE {
                    return Err(Failure::Machine(format!(
                        "{} does not open {}",
                        dut.name(),
                        socket.display()
                    )));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            setup.devices.push(format!(
                "net_virtio_user{number},path={},queues=1,queue_size={QUEUE_SIZE},mac=02:00:00:00:00:01",
                socket.display()
            ));
        }
        Ok(setup)
    }

    /// The generator's devices.
    pub(super) fn devices(&self) -> &[String] {
        &self.devices
    }

    /// Whether every port gets back what it sends.
    pub(super) fn is_echo(&self) -> bool {
        !self.running.is_empty()
    }

    /// What is measured: a program a lane, or whatever is between the devices.
    pub(super) fn names(&self) -> Vec<String> {
        match self.is_echo() {
            true => self.running.iter().map(|running| running.name.to_owned()).collect(),
            false => vec![self.devices.join(" to ")],
        }
    }

    /// Stops all programs but the `number`th; `None` stops all.
    pub(super) fn run_only(&self, number: Option<usize>) {
        for (index, running) in self.running.iter().enumerate() {
            if Some(index) != number {
                running.signal(Signal::STOP);
            }
        }
        if let Some(running) = number.and_then(|number| self.running.get(number)) {
            running.signal(Signal::CONT);
        }
    }

    /// All may run, as is needed to take leave of them.
    pub(super) fn run_all(&self) {
        self.running.iter().for_each(|running| running.signal(Signal::CONT));
    }

    /// EAL's command line for the generator.
    pub(super) fn eal_words(&self) -> Vec<String> {
        let mut words = eal::words(self.cpu, 128 << 20);
        if words.contains(&"--in-memory".to_owned()) {
            // virtio_user shares the memory with the other side, file by file, and takes eight at the most.
            words.push("--single-file-segments".to_owned());
        }
        for device in &self.devices {
            words.extend(["--vdev".to_owned(), device.clone()]);
        }
        words
    }
}

impl Drop for TestBed {
    fn drop(&mut self) {
        // testpmd removes its socket itself, before the directory goes.
        self.running.clear();
        if let Some(directory) = &self.directory {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

/// testpmd, forwarding.
fn forwarder(dut: Dut, device: &str, cpu: usize) -> Result<Testpmd, Failure> {
    let mut eal = eal::memory_words(MEMORY);
    eal.extend(["--vdev".to_owned(), device.to_owned()]);
    let of = testpmd::TestpmdSetup { eal, cpu, burst: worker::BURST as u16, options: Vec::new() };
    let mut testpmd = Testpmd::start(&of, 1)?;
    testpmd.begin(if dut == Dut::Io { "io" } else { "macswap" })?;
    Ok(testpmd)
}

/// The daemon beside this program, or in the path, with a service for the target.
fn guidewayd(
    directory: &std::path::Path,
    device: &str,
    cpu: usize,
    target: &Destination,
) -> Result<Child, Failure> {
    let mac = |m: [u8; 6]| m.map(|byte| format!("{byte:02x}")).join(":");
    let memory: Vec<String> = eal::memory_words(MEMORY).iter().map(|word| format!("{word:?}")).collect();
    let text = format!(
        "[machine]\nname = \"bench-{pid}\"\naddress = \"192.0.2.1\"\nnext_hop_mac = \"02:00:00:00:00:01\"\n\
         cluster_key = \"000102030405060708090a0b0c0d0e0f\"\nstate_dir = {state:?}\n\
         [workers]\ncpus = [{cpu}]\nflows = 65536\nidle = \"busy\"\n[dpdk]\neal_args = [{memory}]\n\
         [api]\nsocket = {api:?}\n\
         [[port]]\nname = \"data0\"\ndevice = {device:?}\nmac = \"{mac}\"\nmtu = {MTU}\n\
         [[service]]\nname = \"web\"\nvip = \"{vip}\"\nport = {port}\nprotocol = \"udp\"\nmode = \"ipip\"\n\
         [service.health]\nkind = \"none\"\n\
         [[service.backend]]\nname = \"b0\"\naddress = \"172.16.0.1\"\n[[service.backend]]\nname = \
         \"b1\"\naddress = \"172.16.0.2\"\n",
        pid = std::process::id(),
        state = directory.join("state").display().to_string(),
        api = directory.join("api.sock").display().to_string(),
        memory = memory.join(", "),
        mac = mac(target.mac),
        vip = target.vip,
        port = target.port,
    );
    let file = directory.join("guideway.toml");
    std::fs::write(&file, text).map_err(|e| Failure::Machine(e.to_string()))?;
    let log = std::fs::File::create(directory.join("log")).map_err(|e| Failure::Machine(e.to_string()))?;
    let beside = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.join("guidewayd")));
    let program = beside.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from("guidewayd"));
    let mut command = machine::command(program);
    command.arg("--config").arg(file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.env_remove("GLIBC_TUNABLES");
    let child = machine::everywhere(|| command.spawn())?;
    child.map_err(|e| {
        Failure::Machine(format!(
            "cannot start guidewayd: {e}; it is neither beside this program nor in PATH"
        ))
    })
}
