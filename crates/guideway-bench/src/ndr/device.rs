//! The device under test: somebody else's behind the ports given, or one that is started here behind a vhost-user socket.

use super::frame::Target;
use crate::eal;
use crate::failure::Failure;
use crate::testpmd::{self, Testpmd};
use clap::ValueEnum;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A program that takes longer to open its socket does not come.
const PATIENCE: Duration = Duration::from_secs(10);
/// Descriptors of a ring.
const QUEUE_SIZE: u16 = 1024;
/// Huge-page memory of the device under test.
const MEMORY: u64 = 64 << 20;

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
pub(super) struct Setup {
    devices: Vec<String>,
    cpu: usize,
    running: Option<Running>,
    directory: Option<PathBuf>,
}

#[derive(Debug)]
enum Running {
    Testpmd(#[expect(dead_code, reason = "ends when dropped")] Box<Testpmd>),
    Guidewayd(Child),
}

impl Setup {
    /// Starts the device under test, if one is named, on `cpu`; the generator takes another CPU then.
    pub(super) fn new(
        dut: Option<Dut>,
        vdevs: &[String],
        cpu: usize,
        target: &Target,
    ) -> Result<Setup, Failure> {
        let Some(dut) = dut else {
            if vdevs.len() > 2 {
                return Err(Failure::Usage("one port or two".into()));
            }
            return Ok(Setup { devices: vdevs.to_vec(), cpu, running: None, directory: None });
        };
        if cpu == 0 {
            return Err(Failure::Usage("--dut needs a CPU of its own, and there is only one".into()));
        }
        let directory = std::env::temp_dir().join(format!("guideway-bench-{}", std::process::id()));
        std::fs::create_dir_all(&directory).map_err(|e| Failure::Machine(e.to_string()))?;
        let socket = directory.join("vhost.sock");
        let device = format!("net_vhost0,iface={},queues=1", socket.display());
        // Owns the directory from here on, whatever fails.
        let mut setup = Setup {
            devices: vec![format!(
                "net_virtio_user0,path={},queues=1,queue_size={QUEUE_SIZE},mac=02:00:00:00:00:01",
                socket.display()
            )],
            cpu: 0,
            running: None,
            directory: Some(directory.clone()),
        };
        setup.running = Some(match dut {
            Dut::Macswap | Dut::Io => {
                let mut eal = eal::memory_words(MEMORY);
                eal.extend(["--vdev".to_owned(), device]);
                let of = testpmd::Setup { eal, cpu, burst: worker::BURST as u16, options: Vec::new() };
                let mut testpmd = Testpmd::start(&of, 1)?;
                testpmd.begin(if dut == Dut::Io { "io" } else { "macswap" })?;
                Running::Testpmd(Box::new(testpmd))
            }
            Dut::Guidewayd => Running::Guidewayd(guidewayd(&directory, &device, cpu, target)?),
        });
        let started = Instant::now();
        while !socket.exists() {
            if started.elapsed() > PATIENCE {
                return Err(Failure::Machine(format!("{} does not open {}", dut.name(), socket.display())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(setup)
    }

    /// The generator's devices.
    pub(super) fn devices(&self) -> &[String] {
        &self.devices
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

impl Drop for Setup {
    fn drop(&mut self) {
        if let Some(Running::Guidewayd(child)) = &mut self.running {
            if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
                // Asked first, so that it removes its files.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            let asked = Instant::now();
            while matches!(child.try_wait(), Ok(None)) && asked.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        // testpmd removes its socket itself, before the directory goes.
        self.running = None;
        if let Some(directory) = &self.directory {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

/// The daemon beside this program, or in the path, with a service for the target.
fn guidewayd(
    directory: &std::path::Path,
    device: &str,
    cpu: usize,
    target: &Target,
) -> Result<Child, Failure> {
    let mac = |m: [u8; 6]| m.map(|byte| format!("{byte:02x}")).join(":");
    let memory: Vec<String> = eal::memory_words(MEMORY).iter().map(|word| format!("{word:?}")).collect();
    let text = format!(
        "[machine]\nname = \"bench-{pid}\"\naddress = \"192.0.2.1\"\nnext_hop_mac = \"02:00:00:00:00:01\"\n\
         cluster_key = \"000102030405060708090a0b0c0d0e0f\"\nstate_dir = {state:?}\n\
         [workers]\ncpus = [{cpu}]\nflows = 65536\nidle = \"busy\"\n[dpdk]\neal_args = [{memory}]\n\
         [api]\nsocket = {api:?}\n\
         [[port]]\nname = \"data0\"\ndevice = {device:?}\nmac = \"{mac}\"\nmtu = 1500\n\
         [[service]]\nname = \"web\"\nvip = \"{vip}\"\nport = {port}\nprotocol = \"udp\"\nmode = \"ipip\"\n\
         [service.health]\nkind = \"none\"\n\
         [[service.backend]]\nname = \"b0\"\naddress = \"172.16.0.1\"\n[[service.backend]]\nname = \"b1\"\naddress = \"172.16.0.2\"\n",
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
    let child = Command::new(program)
        .arg("--config")
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .env_remove("GLIBC_TUNABLES")
        .spawn();
    child.map_err(|e| {
        Failure::Machine(format!(
            "cannot start guidewayd: {e}; it is neither beside this program nor in PATH"
        ))
    })
}
