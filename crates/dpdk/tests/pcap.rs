//! Frames from a file to a file through `net_pcap`, with a job on an lcore; and huge-page slices, tick and telemetry.
//! One test: EAL starts once per process.
#![allow(clippy::unwrap_used)]

use dpdk::{Device, DpdkIo, Eal, Mempool, PortSetup, TscClock, thread};
use std::sync::mpsc;
use std::time::Duration;
use wire::PortId;
use worker::{Frame, Frames, PacketIo};

/// A pcap file (microseconds, Ethernet) of these frames.
fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65535, 1] {
        file.extend(word.to_le_bytes());
    }
    for frame in frames {
        let len = frame.len() as u32;
        for word in [0, 0, len, len] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    file
}

/// The frames of a little-endian pcap file.
fn frames(file: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut rest = &file[24..];
    while !rest.is_empty() {
        let len = u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
        frames.push(rest[16..16 + len].to_vec());
        rest = &rest[16 + len..];
    }
    frames
}

#[test]
fn a_job_on_an_lcore_copies_a_file() {
    let directory = std::env::temp_dir().join(format!("guideway-dpdk-pcap-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (input, output) = (directory.join("in.pcap"), directory.join("out.pcap"));
    let sent: Vec<Vec<u8>> = (0..100_usize).map(|n| vec![n as u8; 60 + n * 14]).collect();
    std::fs::write(&input, pcap(&sent)).unwrap();

    let device = format!("net_pcap0,rx_pcap={},tx_pcap={}", input.display(), output.display());
    let prefix = format!("t{}", std::process::id());
    let arguments = [
        "test",
        "--no-huge",
        "-m",
        "64",
        "--no-pci",
        "--no-shconf",
        "--no-telemetry",
        "--lcores",
        "0@0,1@0",
        "--file-prefix",
        &prefix,
        "--vdev",
        &device,
        "--vdev",
        "net_af_packet0,iface=doesnotexist0",
    ]
    .map(str::to_owned);
    let eal = Eal::start(&arguments, 64 << 20, |_, _| ()).unwrap();
    assert_eq!(eal.worker_lcores(), [1]);
    assert!(!eal.has_huge_pages());
    assert!(eal.version().starts_with("DPDK"));
    dpdk::telemetry::register(&eal).unwrap();

    let table = dpdk::memory::slice::<std::sync::atomic::AtomicU64>(&eal, "a table", 100_000, None).unwrap();
    assert_eq!(table.len(), 100_000);
    assert_eq!(table.as_ptr() as usize % 64, 0);
    assert!(table.iter().all(|word| word.load(std::sync::atomic::Ordering::Relaxed) == 0));
    let refused = dpdk::memory::slice::<u64>(&eal, "too much", 1 << 40, None).unwrap_err();
    assert!(
        refused.to_string().contains("too much") && refused.to_string().contains("vm.nr_hugepages"),
        "{refused}"
    );

    let pool = Mempool::create(&eal, "test", 4095, dpdk::mempool::data_room(1500, false), None).unwrap();
    let too_many = PortSetup { queues: 2, mtu: 1500, mac: None, promiscuous: true, rss: true };
    let found = Device::find(&eal, &device).unwrap();
    assert_eq!((found.info().driver.as_str(), found.info().queues_max), ("net_pcap", 1));
    let setup = PortSetup { queues: 1, mac: Some([2, 0, 0, 0, 0, 7]), ..too_many };
    let mut port = found.start(&setup, &pool).unwrap();
    assert_eq!(port.mac(), [2, 0, 0, 0, 0, 7], "net_pcap has no MAC to set; promiscuous mode stands in");
    assert!(!port.notes().is_empty());
    let missing = Device::find(&eal, "net_nothing0").unwrap_err();
    assert!(missing.to_string().contains("net_nothing0"), "{missing}");
    let missing = Device::find(&eal, "net_af_packet0,iface=doesnotexist0").unwrap_err();
    eprintln!("{missing}");
    assert!(missing.to_string().lines().count() > 1, "quotes DPDK: {missing}");
    let one_queue =
        format!("net_pcap7,rx_pcap={},tx_pcap={}", input.display(), directory.join("x").display());
    let attached = Device::attach(&eal, &one_queue).unwrap().start(&too_many, &pool);
    let error = attached.unwrap_err().to_string();
    assert!(error.contains("1 queue(s) and 2 workers"), "{error}");

    let clock = TscClock::start(&eal);
    let mut io = DpdkIo::new(port.take_queues(), pool.clone());
    let (tell, told) = mpsc::channel();
    let job = move || {
        let mut copied = 0;
        let mut ports = Vec::new();
        while copied < 100 {
            let mut burst = Frames::new();
            io.rx(PortId(0), &mut burst);
            copied += burst.len();
            ports.extend(burst.iter().map(|frame| frame.meta().port));
            io.tx(PortId(0), &mut burst);
            assert!(burst.is_empty());
        }
        tell.send((io, ports)).unwrap();
    };
    let running = thread::launch(&eal, 1, job).unwrap();
    let (io, ports) = told.recv_timeout(Duration::from_secs(10)).unwrap();
    running.join();
    assert_eq!(ports, [PortId(0); 100]);
    assert_eq!(thread::launch(&eal, 5, || ()).unwrap_err().lcore, 5);
    std::thread::sleep(Duration::from_millis(20));
    assert!(clock.now().0 >= 20_000 && clock.now().0 < 20_000_000, "{:?}", clock.now());

    assert_eq!(port.observer().stats().rx, 100);
    drop((io, port)); // closes the output file
    assert_eq!(pool.available(), pool.count(), "a buffer was lost");
    let got = frames(&std::fs::read(&output).unwrap());
    std::fs::remove_dir_all(&directory).unwrap();
    assert_eq!(got, sent);
}
