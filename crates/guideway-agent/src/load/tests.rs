use super::*;
use std::net::TcpListener;

const STAT: &str = "cpu  100 10 50 800 40 0 0 0 30 0\ncpu0 100 10 50 800 40 0 0 0 30 0\nintr 1\n";

#[test]
fn busy_cpu_is_what_is_not_idle() {
    let before = Cpu::parse(STAT).unwrap();
    assert_eq!(before, Cpu { busy: 160, total: 1000 });
    let after = Cpu::parse("cpu  150 10 70 820 50 0 0 0 99 0\n").unwrap();
    // 70 of 100.
    assert_eq!(after.busy_permille(before), Some(700));
    assert_eq!(before.busy_permille(before), None);
    assert_eq!(before.busy_permille(after), None, "a clock that goes back");
    assert_eq!(Cpu::parse("cpu  1 x"), None);
    assert_eq!(Cpu::parse("intr 5"), None);
}

const TCP: &str =
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0500010A:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0500010A:1F90 0B00030A:D431 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 20 4 30 10 -1
   2: 0A7100CB:1F90 0B00030A:D432 01 00000000:00000000 00:00000000 00000000     0        0 3 1 0 20 4 30 10 -1
   3: 0A7100CB:1F90 0B00030A:D433 06 00000000:00000000 00:00000000 00000000     0        0 4 1 0 20 4 30 10 -1
   4: 0A7100CB:0050 0B00030A:D434 01 00000000:00000000 00:00000000 00000000     0        0 5 1 0 20 4 30 10 -1
   5: rubbish
";
const TCP6: &str = "  sl  local_address                         remote_address                        st
   0: 0000000000000000FFFF00000A7100CB:1F90 0000000000000000FFFF00000B00030A:D435 01 0 0
   1: B80D0120000000000000000005000000:1F90 B80D0120000000000000000006000000:D435 01 0 0
   2: B80D0120000000000000000005000000:1F90 B80D0120000000000000000006000000:D436 08 0 0
";

fn sample(vip: &str, address: &str, port: u16) -> Sample {
    Sample {
        service: "web".to_owned(),
        backend: address.to_owned(),
        sockets: Some((vip.parse().unwrap(), address.parse().unwrap(), port)),
        load_file: None,
        cpu: true,
    }
}

#[test]
#[cfg(target_endian = "little")]
fn established_connections_at_the_service_address_and_the_backends() {
    let samples = [
        sample("203.0.113.10", "10.1.0.5", 8080),
        sample("203.0.113.10", "10.1.0.6", 0),
        sample("2001:db8::9", "2001:db8::5", 8080),
    ];
    let mut counts = Counts::wanted(&samples);
    counts.add(TCP.as_bytes());
    counts.add(TCP6.as_bytes());
    // One at its own address, one at the VIP, one at the VIP by a socket of both families.
    assert_eq!(counts.of(samples[0].sockets.unwrap()), 3);
    // Any port: three at the VIP.
    assert_eq!(counts.of(samples[1].sockets.unwrap()), 3);
    assert_eq!(counts.of(samples[2].sockets.unwrap()), 1);
}

#[test]
#[cfg(target_endian = "little")]
fn ipv6_is_read_in_words_of_the_machine() {
    let line = "   1: B80D0120000000000000000000000005:1F90 B80D0120000000000000000006000000:D435 01 0 0\n";
    assert_eq!(established(line), Some(("2001:db8::500:0".parse().unwrap(), 8080)));
}

#[test]
fn a_load_file_is_a_number_up_to_1000_or_nothing() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("load");
    assert_eq!(custom(&path), None);
    for (text, expected) in [
        ("0\n", Some(0)),
        (" 900 ", Some(900)),
        ("1000", Some(1000)),
        ("1001", None),
        ("-1", None),
        ("1e2", None),
        ("", None),
    ] {
        std::fs::write(&path, text).unwrap();
        assert_eq!(custom(&path), expected, "{text:?}");
    }
}

#[test]
fn connections_of_this_process_are_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let clients: Vec<_> = (0..3).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    let servers: Vec<_> = (0..3).map(|_| listener.accept().unwrap().0).collect();
    let of = Sample {
        service: "web".to_owned(),
        backend: "web-1".to_owned(),
        sockets: Some(("203.0.113.10".parse().unwrap(), address.ip(), address.port())),
        load_file: None,
        cpu: true,
    };
    let mut sampler = Sampler::default();
    let loads = sampler.sample(std::slice::from_ref(&of), Duration::from_secs(60));
    assert_eq!(loads[0].connections, Some(3));
    drop((clients, servers));
    let loads = sampler.sample(std::slice::from_ref(&of), Duration::from_secs(60));
    assert_eq!(loads[0].connections, Some(3), "not looked at again so soon");
    std::thread::sleep(Duration::from_millis(50));
    assert!(sampler.sample(std::slice::from_ref(&of), Duration::from_secs(60))[0].cpu_permille.is_some());
    let without = Sample { cpu: false, ..of };
    assert_eq!(sampler.sample(&[without], Duration::from_secs(60))[0].cpu_permille, None, "not its load");
}
