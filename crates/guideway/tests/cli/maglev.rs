use crate::{code, guideway, stderr, stdout};
use serde_json::Value;

fn maglev(arguments: &[&str]) -> Value {
    let output = guideway(&[&["maglev", "--json"], arguments].concat());
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    serde_json::from_str(&stdout(&output)).unwrap()
}

fn slots(answer: &Value) -> Vec<u64> {
    answer["slots_per_backend"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect()
}

#[test]
fn equal_backends_differ_by_one_slot_at_most() {
    let answer = maglev(&["--size", "65537", "--backends", "400"]);
    assert_eq!((answer["size"].as_u64(), answer["backends"].as_u64()), (Some(65_537), Some(400)));
    assert_eq!(answer.as_object().unwrap().len(), 4, "exactly the fields that others read");
    let slots = slots(&answer);
    assert_eq!(slots.len(), 400);
    assert_eq!(slots.iter().sum::<u64>(), 65_537);
    assert!(slots.iter().max().unwrap() - slots.iter().min().unwrap() <= 1);
    assert_eq!(answer["moved_surviving_slots"], 0);
}

#[test]
fn weights_are_exact_to_one_slot() {
    let answer = maglev(&["--size", "65537", "--backends", "4", "--weights", "1,0,3,6"]);
    for (slots, weight) in slots(&answer).into_iter().zip([1.0, 0.0, 3.0, 6.0]) {
        assert!((slots as f64 - 65_537.0 * weight / 10.0).abs() < 1.0, "{slots} of weight {weight}");
    }
}

#[test]
fn a_removal_empties_its_backends_and_moves_little_else() {
    let answer = maglev(&["--size", "65537", "--backends", "1000", "--remove", "500"]);
    let slots = slots(&answer);
    assert_eq!(slots[500], 0);
    assert_eq!(slots.iter().sum::<u64>(), 65_537);
    let others: Vec<u64> = slots.iter().copied().filter(|&n| n > 0).collect();
    assert_eq!(others.len(), 999);
    assert!(others.iter().max().unwrap() - others.iter().min().unwrap() <= 1);
    let moved = answer["moved_surviving_slots"].as_u64().unwrap();
    assert!((1..=65_537 / 50).contains(&moved), "{moved}");
}

#[test]
fn the_default_key_is_the_samples_and_another_gives_another_table() {
    let key = "000102030405060708090a0b0c0d0e0f";
    let base = ["--size", "251", "--backends", "5", "--remove", "1,3"];
    let explicit = maglev(&[&base[..], &["--key", key]].concat());
    assert_eq!(maglev(&base), explicit);
    let keys = [
        "ff0102030405060708090A0B0C0D0E0F",
        "ffffffffffffffffffffffffffffffff",
        "00000000000000000000000000000000",
    ];
    assert!(keys.iter().any(|k| maglev(&[&base[..], &["--key", k]].concat()) != explicit));
}

#[test]
fn removing_everything_leaves_nothing() {
    let answer = maglev(&["--size", "251", "--backends", "2", "--remove", "0,1"]);
    assert_eq!((slots(&answer), answer["moved_surviving_slots"].as_u64()), (vec![0, 0], Some(0)));
}

#[test]
fn for_people_it_is_a_table() {
    let output = guideway(&["maglev", "--size", "251", "--backends", "2", "--remove", "1"]);
    assert_eq!(code(&output), 0);
    assert_eq!(
        stdout(&output),
        "BACKEND   WEIGHT  SLOTS     SHARE\nb0             1    251  100.000%\nb1       removed      0    0.000%\n\
         251 slots; 0 moved although their backend stays (0.000%)\n"
    );
}

#[test]
fn wrong_usage_ends_with_two_and_says_why() {
    for (arguments, part) in [
        (&["--size", "65536", "--backends", "2"][..], "65536 is not a prime"),
        (&["--size", "65536", "--backends", "2"], "the next one is 65537"),
        (&["--size", "99999999", "--backends", "2"], "larger than 5000011"),
        (&["--size", "1", "--backends", "2"], "1 is not a prime"),
        (&["--size", "251", "--backends", "252"], "cannot build the table"),
        (&["--size", "251", "--backends", "0"], "not between 1 and"),
        (&["--size", "251"], "--backends"),
        (&["--size", "251", "--backends", "2", "--weights", "1"], "1 weights for 2 backends"),
        (&["--size", "251", "--backends", "2", "--weights", "1,70000"], "70000"),
        (&["--size", "251", "--backends", "2", "--weights", "1,x"], "invalid"),
        (&["--size", "251", "--backends", "2", "--remove", "2"], "the last one is 1"),
        (&["--size", "251", "--backends", "2", "--key", "00"], "32 hexadecimal digits"),
        (
            &["--size", "251", "--backends", "2", "--key", "+00102030405060708090a0b0c0d0e0f"],
            "32 hexadecimal digits",
        ),
    ] {
        let output = guideway(&[&["maglev", "--json"], arguments].concat());
        assert_eq!(code(&output), 2, "{arguments:?}");
        assert!(stderr(&output).contains(part), "{arguments:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
}
