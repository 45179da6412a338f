//! DPDK's hash table and ring behind our wrappers. One test: EAL starts once per process.
#![allow(clippy::unwrap_used)]

use dpdk::Eal;
use dpdk::hash::{BULK_MAX, HashTable};
use dpdk::ring;

#[test]
fn a_table_and_a_ring_keep_what_they_are_given() {
    let prefix = format!("h{}", std::process::id());
    let words = ["test", "--no-huge", "-m", "64", "--no-pci", "--no-shconf", "--no-telemetry", "-l", "0"];
    let mut words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    words.extend(["--file-prefix".to_owned(), prefix]);
    let eal = Eal::start(&words, 64 << 20, |level, line| eprintln!("{level:?}: {line}")).unwrap();

    let mut table = HashTable::create(&eal, "t", 1024).unwrap();
    assert!(HashTable::create(&eal, "t", 1024).is_err(), "the name is taken");
    for key in 0..600 {
        assert!(table.insert(key, key * 3));
    }
    assert_eq!(table.len(), 600);
    let keys: Vec<u64> = (590..610).collect();
    let mut values = [7; BULK_MAX];
    assert_eq!(table.lookup_bulk(&keys, &mut values), (1 << 10) - 1);
    for (key, value) in keys.iter().zip(values).take(10) {
        assert_eq!(value, key * 3);
    }
    assert_eq!(values[20], 7, "nothing is written behind the keys");
    assert!(table.remove(590) && !table.remove(590));
    assert_eq!(table.lookup_bulk(&keys, &mut values), (1 << 10) - 2);
    table.clear();
    assert!(table.is_empty());

    let (mut sender, mut receiver) = ring::channel(&eal, "r", 64).unwrap();
    assert!(ring::channel(&eal, "s", 63).is_err());
    let items: Vec<u64> = (0..64).collect();
    assert_eq!(sender.push(&items), 63);
    let mut out = [0; ring::BURST_MAX];
    assert_eq!(receiver.pop(&mut out, 32), 32);
    assert_eq!(out[..32], items[..32]);
    assert_eq!(receiver.pop(&mut out, 64), 31);
    assert_eq!(receiver.pop(&mut out, 64), 0);
}
