//! Captures by the API, of frames that real workers forward in memory.

use super::*;
use api::{CAPTURE_IDLE_S, CaptureBegun, CaptureFigures, EventKind};
use etherparse::PacketBuilder;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use std::time::Instant;
use worker::io::memory::MemIo;
use worker::{RxMeta, Setup, Worker};

/// Real workers, with queues in memory.
type Workers = Rc<RefCell<Vec<Worker<MemIo>>>>;

fn table() -> Table {
    let idle = Idle {
        tcp_established_us: 1_800_000_000,
        tcp_closing_us: 30_000_000,
        syn_us: 30_000_000,
        udp_us: 60_000_000,
    };
    Table::new(Memory::heap(1000), Memory::heap(1000), 1, idle, 50).unwrap()
}

/// A machine whose workers forward; nobody checks its backends.
async fn started(place: &Path) -> (Machine, Workers) {
    let text = config(place, 8080);
    let (head, rest) = text.split_once("[service.health]\n").unwrap();
    let (_, backends) = rest.split_once("[[service.backend]]").unwrap();
    let text = format!("{head}[service.health]\nkind = \"none\"\n[[service.backend]]{backends}");
    let loaded = model::load("config.toml", &text).unwrap_or_else(|report| panic!("{}", report.to_plain()));
    std::fs::write(place.join("config.toml"), &text).unwrap();
    let workers = Workers::default();
    let mut tables: Vec<Table> = (0..2).map(|_| table()).collect();
    let peers: Vec<flow::Reader> = tables.iter().map(Table::reader).collect();
    let mut rings = statesync::mesh(2, 64).into_iter();
    let machine = Machine::start_with(place, loaded, |parts| {
        workers.borrow_mut().push(Worker::new(Setup {
            core: CoreId(parts.core),
            io: MemIo::new(4),
            table: tables.remove(0),
            peers: peers.clone(),
            rings: rings.next().unwrap(),
            inbox: parts.inbox,
            counters: parts.counters,
            commands: Some(parts.queue),
        }));
        let (workers, core, now) = (workers.clone(), usize::from(parts.core), parts.now);
        move || {
            workers.borrow_mut()[core].turn(now());
        }
    });
    machine.until("/v1/status", |answer| answer.json()["generation_acknowledged"] != 0).await;
    (machine, workers)
}

/// A SYN from this port to a port of the VIP.
fn syn(from: u16, to: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 0x10]);
    let builder = builder.ipv4([198, 51, 100, 7], [203, 0, 113, 10], 64).tcp(from, to, 7, 1000).syn();
    let mut frame = Vec::new();
    builder.write(&mut frame, &[]).unwrap();
    frame
}

fn push(workers: &Workers, core: usize, frame: &[u8]) {
    workers.borrow_mut()[core].io().push(PortId(0), frame, RxMeta::default());
}

/// What is read of a block.
#[derive(Debug)]
struct Read {
    interface: String,
    comment: String,
    bytes: Vec<u8>,
    len: usize,
    stamp: Duration,
}

/// All of a file, which has to be whole.
fn read(file: &[u8]) -> Vec<Read> {
    let mut reader = PcapNgReader::new(file).unwrap();
    let (mut interfaces, mut found, mut statistics) = (Vec::new(), Vec::new(), 0);
    while let Some(block) = reader.next_block() {
        match block.unwrap() {
            Block::InterfaceDescription(of) => {
                let name = of.options.iter().find_map(|option| match option {
                    InterfaceDescriptionOption::IfName(name) => Some(name.clone().into_owned()),
                    _ => None,
                });
                assert!(of.options.contains(&InterfaceDescriptionOption::IfTsResol(9)));
                interfaces.push(name.unwrap());
            }
            Block::EnhancedPacket(of) => {
                let [EnhancedPacketOption::Comment(comment)] = &of.options[..] else { panic!("{of:?}") };
                found.push(Read {
                    interface: interfaces[of.interface_id as usize].clone(),
                    comment: comment.clone().into_owned(),
                    bytes: of.data.into_owned(),
                    len: of.original_len as usize,
                    stamp: of.timestamp,
                });
            }
            Block::InterfaceStatistics(_) => statistics += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(statistics, interfaces.len(), "the file has its end");
    found
}

impl Machine {
    async fn begin(&self, query: &str) -> CaptureBegun {
        let answer = self.post(&format!("/v1/capture?{query}"), "").await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        serde_json::from_str(&answer.body).unwrap()
    }

    /// A piece, and its head.
    async fn piece(&self, id: u64) -> (String, Vec<u8>) {
        let request = format!(
            "GET /v1/capture?id={id}&wait_ms=50 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        );
        let answer = exchange_bytes(&mut self.connect().await, &request, b"").await;
        let end = answer.windows(4).position(|at| at == b"\r\n\r\n").unwrap();
        (String::from_utf8(answer[..end].to_vec()).unwrap(), answer[end + 4..].to_vec())
    }

    /// Adds pieces until it is over.
    async fn read_out(&self, id: u64, file: &mut Vec<u8>) -> CaptureFigures {
        for _ in 0..200 {
            let (head, piece) = self.piece(id).await;
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            file.extend(piece);
            let count = |name: &str| -> u64 {
                let line = head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
                line.unwrap_or_else(|| panic!("no {name} in {head}")).parse().unwrap()
            };
            let figures = CaptureFigures {
                frames: count(api::CAPTURE_FRAMES),
                blocks: count(api::CAPTURE_BLOCKS),
                missed: count(api::CAPTURE_MISSED),
            };
            if head.contains(&format!("{}: over", api::CAPTURE_STATE)) {
                return figures;
            }
        }
        panic!("capture {id} is never over");
    }

    async fn told(&self, kind: EventKind) -> Vec<String> {
        let events = self.events(0).await.events;
        events.into_iter().filter(|event| event.kind == kind).map(|event| event.message).collect()
    }
}

#[test]
fn frames_are_written_as_received_and_as_sent() {
    test("capture::frames_are_written_as_received_and_as_sent", async |place| {
        let (machine, workers) = started(place).await;
        let begun = machine.begin("").await;
        assert_eq!((begun.id, begun.snap, begun.frames_kept), (1, 2048, 2 * 2048));
        assert_eq!(begun.interfaces, ["data0:rx", "data0:tx"]);
        // Its head is there at once.
        let (head, mut file) = machine.piece(1).await;
        assert!(head.contains("guideway-capture: running") && !file.is_empty(), "{head}");
        let frames = [(0, syn(4000, 80)), (1, syn(4001, 81)), (1, syn(4002, 80))];
        for (core, frame) in &frames {
            push(&workers, *core, frame);
        }
        let refused = machine.post("/v1/capture", "").await;
        assert_eq!(refused.status, 409, "{}", refused.body);
        assert!(refused.body.contains("capture 1 of all frames"), "{}", refused.body);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let ended: CaptureFigures =
            serde_json::from_str(&machine.post("/v1/capture/end?id=1", "").await.body).unwrap();
        assert_eq!(ended.missed, 0);
        push(&workers, 0, &syn(4003, 80));
        let figures = machine.read_out(1, &mut file).await;
        assert_eq!(figures, CaptureFigures { frames: 3, blocks: 6, missed: 0 });
        let read = read(&file);
        assert_eq!(read.len(), 6);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        for (_, frame) in &frames {
            let at = read.iter().position(|of| of.bytes == *frame).unwrap();
            let [received, sent] = &read[at..at + 2] else { panic!("{read:?}") };
            assert_eq!((received.interface.as_str(), sent.interface.as_str()), ("data0:rx", "data0:tx"));
            assert_eq!(received.comment, sent.comment, "they stand together");
            let is_served = frame[36..38] == [0, 80];
            if is_served {
                let backend = received.comment.strip_prefix("action=encapsulate service=web backend=");
                assert!(matches!(backend, Some("b1" | "b2")), "{}", received.comment);
                assert_eq!(sent.len, received.len + 20);
            } else {
                assert!(received.comment.contains("reason=no_service"), "{}", received.comment);
            }
            assert!(now.abs_diff(received.stamp) < Duration::from_secs(20), "{received:?}");
        }
        let gone = machine.get("/v1/capture?id=1").await;
        assert_eq!(gone.status, 404, "{}", gone.body);
        assert_eq!(machine.post("/v1/capture/end?id=1", "").await.status, 404);
        let told = machine.told(EventKind::CaptureEnded).await;
        assert_eq!(
            told,
            [
                "capture 1 of all frames, 2048 bytes of each: ended (it was asked to); 3 frames in 6 blocks, 0 frames missed"
            ]
        );
        assert_eq!(machine.told(EventKind::CaptureBegun).await.len(), 1);
        machine.stop().await;
    });
}

#[test]
fn it_ends_by_its_count_and_takes_what_is_wanted() {
    test("capture::it_ends_by_its_count_and_takes_what_is_wanted", async |place| {
        let (machine, workers) = started(place).await;
        let begun = machine.begin("reason=no_service&count=2&snap=64&client=198.51.100.7").await;
        for port in 0..10 {
            push(&workers, 0, &syn(4000 + port, 80));
            push(&workers, usize::from(port % 2), &[syn(4000 + port, 81), vec![7; 50]].concat());
        }
        let mut file = Vec::new();
        let figures = machine.read_out(begun.id, &mut file).await;
        assert_eq!((figures.frames, figures.blocks), (2, 4));
        for block in read(&file) {
            assert!(block.comment.contains("reason=no_service"), "{}", block.comment);
            assert!(block.bytes.len() <= 64 && block.bytes.len() == block.len.min(64), "{block:?}");
        }
        let told = machine.told(EventKind::CaptureEnded).await;
        assert!(told[0].contains("2 frames from and to 198.51.100.7 that end with no_service"), "{told:?}");
        assert!(told[0].contains("as many as were asked for"), "{told:?}");

        let begun = machine.begin("service=web&count=1").await;
        assert_eq!(begun.id, 2);
        push(&workers, 1, &syn(4000, 81));
        push(&workers, 1, &syn(4000, 80));
        let mut file = Vec::new();
        machine.read_out(2, &mut file).await;
        assert!(read(&file).iter().all(|block| block.comment.contains("service=web backend=")));
        machine.stop().await;
    });
}

#[test]
fn what_has_no_room_is_carried_and_counted() {
    test("capture::what_has_no_room_is_carried_and_counted", async |place| {
        let (machine, workers) = started(place).await;
        let begun = machine.begin("snap=9216").await;
        let room = begun.frames_kept / 2;
        for port in 0..600 {
            push(&workers, 0, &syn(4000 + port, 80));
        }
        for _ in 0..1000 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            if workers.borrow_mut()[0].io().sent.len() == 600 {
                break;
            }
        }
        assert_eq!(workers.borrow_mut()[0].io().sent.len(), 600);
        machine.post("/v1/capture/end?id=1", "").await;
        let mut file = Vec::new();
        let figures = machine.read_out(1, &mut file).await;
        assert!(figures.blocks <= room && figures.blocks >= room - 1, "{figures:?}, room for {room}");
        assert!(figures.missed >= 600 - room, "{figures:?}");
        assert_eq!(read(&file).len() as u64, figures.blocks);
        machine.stop().await;
    });
}

#[test]
fn what_cannot_be_captured_is_refused() {
    test("capture::what_cannot_be_captured_is_refused", async |place| {
        let machine = Machine::start(place, &config(place, 8080));
        machine.until("/v1/status", |answer| answer.json()["generation_acknowledged"] != 0).await;
        for (query, status, words) in [
            ("service=nothing", 404, "no service `nothing`"),
            ("reason=nothing", 400, "no drop reason `nothing`"),
            ("client=nothing", 400, "`nothing` is no address"),
            ("snap=63", 400, "64 to 9216"),
            ("snap=9217", 400, "64 to 9216"),
            ("count=0", 400, "1 to 10000000"),
            ("colour=blue", 400, "unknown field"),
        ] {
            let answer = machine.post(&format!("/v1/capture?{query}"), "").await;
            assert_eq!(answer.status, status, "{query}: {}", answer.body);
            assert!(answer.body.contains(words), "{query}: {}", answer.body);
        }
        assert_eq!(machine.get("/v1/capture?id=1").await.status, 404);
        assert_eq!(machine.get("/v1/capture").await.status, 400);
        assert_eq!(machine.get("/v1/capture?id=1&wait_ms=60001").await.status, 400);

        // What a silent worker was given is taken back from all before another one can begin.
        machine.silent.borrow_mut().push(1);
        let silent = machine.post("/v1/capture", "").await;
        assert_eq!(silent.status, 503);
        assert!(silent.body.contains("worker 1 did not answer"), "{}", silent.body);
        let refused = machine.post("/v1/capture", "").await;
        assert_eq!(refused.status, 409);
        assert!(refused.body.contains("not left off from capture 1"), "{}", refused.body);
        machine.silent.borrow_mut().clear();
        let begun = Instant::now();
        while machine.post("/v1/capture", "").await.status != 200 {
            assert!(begun.elapsed() < Duration::from_secs(10));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(machine.told(EventKind::CaptureEnded).await.is_empty(), "the first has not begun");
        machine.stop().await;
    });
}

#[test]
fn one_for_which_nobody_asks_ends() {
    test("capture::one_for_which_nobody_asks_ends", async |place| {
        let (machine, workers) = started(place).await;
        let begun = Instant::now();
        machine.begin("").await;
        push(&workers, 0, &syn(4000, 80));
        let limit = Duration::from_secs(CAPTURE_IDLE_S + 20);
        while machine.told(EventKind::CaptureEnded).await.is_empty() {
            assert!(begun.elapsed() < limit, "it goes on");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(begun.elapsed() >= Duration::from_secs(CAPTURE_IDLE_S));
        let told = machine.told(EventKind::CaptureEnded).await;
        assert!(told[0].contains("nobody asked for it any more"), "{told:?}");
        assert_eq!(machine.get("/v1/capture?id=1").await.status, 404);
        assert_eq!(machine.begin("").await.id, 2);
        machine.stop().await;
    });
}
