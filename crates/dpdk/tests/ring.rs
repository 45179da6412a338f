//! Frames through `net_ring`, which gives back what was sent: ownership, editing and conservation of buffers.
//! One test: EAL starts once per process.
#![allow(clippy::unwrap_used)]

use dpdk::{Device, DpdkIo, Eal, Mempool, PortSetup};
use wire::PortId;
use worker::{BURST, Frame, Frames, PacketIo, RxMeta};

const RING: PortId = PortId(0);
const NULL: PortId = PortId(1);

fn start(vdevs: &[&str]) -> Eal {
    let prefix = format!("t{}", std::process::id());
    let mut arguments: Vec<String> = [
        "test",
        "--no-huge",
        "-m",
        "64",
        "--no-pci",
        "--no-shconf",
        "--no-telemetry",
        "-l",
        "0",
        "--file-prefix",
        &prefix,
    ]
    .map(str::to_owned)
    .to_vec();
    for vdev in vdevs {
        arguments.extend(["--vdev".to_owned(), (*vdev).to_owned()]);
    }
    Eal::start(&arguments, 64 << 20, |level, line| eprintln!("{level:?}: {line}")).unwrap()
}

fn open(eal: &Eal, device: &str, pool: &Mempool) -> dpdk::Port {
    let setup = PortSetup { queues: 1, mtu: 1500, mac: None, promiscuous: true, rss: true };
    Device::find(eal, device).unwrap().start(&setup, pool).unwrap()
}

fn received(io: &mut DpdkIo, port: PortId) -> Frames<dpdk::Mbuf> {
    let mut burst = Frames::new();
    io.rx(port, &mut burst);
    burst
}

#[test]
fn frames_pass_and_no_buffer_is_lost() {
    let eal = start(&["net_ring0", "net_null0"]);
    assert!(matches!(Eal::start(&[], 0, |_, _| ()), Err(dpdk::EalError::AlreadyStarted)));
    let pool = Mempool::create(&eal, "test", 4095, dpdk::mempool::data_room(1500, false), None).unwrap();
    assert_eq!(pool.available(), 4095);
    let mut ring = open(&eal, "net_ring0", &pool);
    let mut null = open(&eal, "net_null0", &pool);
    assert_eq!((ring.driver(), ring.mtu()), ("net_ring", 1500));
    let observer = ring.observer();
    let queues = ring.take_queues().into_iter().chain(null.take_queues()).collect();
    assert!(ring.take_queues().is_empty(), "a queue exists once");
    let mut io = DpdkIo::new(queues, pool.clone());

    // A frame is what it was made to be, and comes back as it was sent.
    let mut burst = Frames::new();
    io.alloc(3, &mut burst);
    assert_eq!(burst.len(), 3);
    for (index, frame) in burst.iter_mut().enumerate() {
        assert_eq!(frame.bytes().len(), 0);
        frame.set_len(60 + index).unwrap();
        frame.bytes_mut().fill(index as u8);
        frame.set_meta(RxMeta { port: NULL, ..RxMeta::default() });
        assert_eq!(frame.meta().port, NULL);
    }
    io.tx(RING, &mut burst);
    assert!(burst.is_empty());
    let mut back = received(&mut io, RING);
    assert_eq!(back.len(), 3);
    for (index, frame) in back.iter().enumerate() {
        assert_eq!(frame.bytes(), vec![index as u8; 60 + index]);
        assert_eq!(frame.meta(), RxMeta { port: RING, ..RxMeta::default() });
    }

    // Room in front up to the headroom, behind up to the buffer; refusals change nothing.
    let frame = &mut back[2];
    assert_eq!(frame.grow_front(50).unwrap().len(), 62 + 50);
    assert_eq!(&frame.bytes()[50..], [2_u8; 62]);
    assert!(frame.grow_front(128 - 50 + 1).is_err());
    assert!(frame.grow_front(usize::MAX).is_err());
    assert_eq!(frame.bytes().len(), 112);
    frame.grow_front(128 - 50).unwrap();
    assert!(frame.set_len(2176).is_ok());
    assert!(frame.set_len(2177).is_err());
    assert!(frame.set_len(usize::MAX).is_err());
    assert_eq!(frame.bytes().len(), 2176);
    frame.set_len(0).unwrap();
    assert!(frame.bytes().is_empty());
    io.recycle(&mut back);
    assert!(back.is_empty());

    // What the queue does not accept stays in the burst, in order.
    let mut number = 0_u32;
    let rest = loop {
        let mut burst = Frames::new();
        io.alloc(BURST, &mut burst);
        for frame in &mut burst {
            frame.set_len(64).unwrap();
            frame.bytes_mut()[..4].copy_from_slice(&number.to_be_bytes());
            number += 1;
        }
        io.tx(RING, &mut burst);
        if !burst.is_empty() {
            break burst;
        }
        assert!(number < 4096, "the ring never fills");
    };
    let numbers = |burst: &Frames<dpdk::Mbuf>| -> Vec<u32> {
        burst.iter().map(|frame| u32::from_be_bytes(frame.bytes()[..4].try_into().unwrap())).collect()
    };
    let first_refused = number - rest.len() as u32;
    assert_eq!(numbers(&rest), (first_refused..number).collect::<Vec<_>>());
    drop(rest); // by the destructor, not by recycle
    let mut got = Vec::new();
    loop {
        let mut burst = received(&mut io, RING);
        if burst.is_empty() {
            break;
        }
        got.extend(numbers(&burst));
        io.recycle(&mut burst);
    }
    assert_eq!(got, (0..first_refused).collect::<Vec<_>>());
    let stats = observer.stats();
    assert_eq!((stats.rx, stats.tx), (u64::from(first_refused) + 3, u64::from(first_refused) + 3));
    assert!(observer.link_up());

    // A full burst receives nothing more, and a port that does not exist neither gives nor takes.
    let mut burst = received(&mut io, NULL);
    assert_eq!(burst.len(), BURST);
    io.rx(NULL, &mut burst);
    assert_eq!(burst.len(), BURST);
    io.tx(PortId(9), &mut burst);
    assert_eq!(burst.len(), BURST);
    io.tx(NULL, &mut burst);
    assert!(burst.is_empty());
    assert!(received(&mut io, PortId(9)).is_empty());

    // An empty pool gives fewer, then none, and recovers.
    let mut held = Vec::new();
    loop {
        let mut burst = Frames::new();
        io.alloc(BURST, &mut burst);
        let short = burst.len() < BURST;
        held.push(burst);
        if short {
            break;
        }
    }
    assert_eq!(held.iter().map(Frames::len).sum::<usize>() + pool.available() as usize, 4095);
    drop(held);

    drop((io, ring, null, observer));
    assert_eq!(pool.available(), pool.count(), "a buffer was lost");
}
