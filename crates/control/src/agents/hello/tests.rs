use super::*;
use model::agent::HELLO_MAX;

pub(crate) const TOKEN: &[u8] = b"a token of the tests";

/// The machine's clock.
pub(crate) const NOW_UNIX_MS: u64 = 1_800_000_000_000;

/// What an agent with [`TOKEN`] for these services says.
pub(crate) fn greeting(
    id: u64,
    agent: &str,
    incarnation: u64,
    addresses: &[IpAddr],
    services: &[&str],
) -> Greeting {
    let mut greeting = Greeting {
        id: SessionId(id),
        peer: SocketAddr::from(([10, 1, 0, 1], 999)),
        machine: "lb1".to_owned(),
        challenge: format!("{id:064x}"),
        unix_ms: NOW_UNIX_MS,
        version: VERSION,
        agent: agent.to_owned(),
        nonce: "5a".repeat(32),
        incarnation,
        addresses: addresses.to_vec(),
        proofs: Vec::new(),
    };
    let digest = AddressDigest::of(addresses);
    greeting.proofs = services
        .iter()
        .map(|service| Proof {
            service: (*service).to_owned(),
            mac: claim(&greeting, &digest, service).prove(TOKEN),
        })
        .collect();
    greeting
}

fn claim<'a>(of: &'a Greeting, addresses: &'a AddressDigest, service: &'a str) -> Claim<'a> {
    Claim {
        nonce: &of.challenge,
        machine: &of.machine,
        agent: &of.agent,
        agent_nonce: &of.nonce,
        incarnation: of.incarnation,
        addresses,
        service,
    }
}

fn tokens() -> Arc<Tokens> {
    Arc::new(["web", "db"].map(|name| (name.to_owned(), TOKEN.to_vec())).into_iter().collect())
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 1, 0, last])
}

#[test]
fn hellos_that_prove_nothing() {
    let good = || greeting(9, "h1", 5, &[ip(1)], &["web"]);
    let cases: Vec<(Greeting, RefusalCode)> = vec![
        (Greeting { version: VERSION + 1, ..good() }, RefusalCode::Version),
        (Greeting { agent: "h 1".to_owned(), ..good() }, RefusalCode::Malformed),
        (Greeting { nonce: "5a".repeat(31), ..good() }, RefusalCode::Malformed),
        (Greeting { nonce: "5 ".repeat(32), ..good() }, RefusalCode::Malformed),
        (Greeting { addresses: vec![], ..good() }, RefusalCode::Malformed),
        (Greeting { addresses: vec![ip(2), ip(1)], ..good() }, RefusalCode::Malformed),
        (Greeting { addresses: vec![ip(1), ip(1)], ..good() }, RefusalCode::Malformed),
        (Greeting { proofs: vec![], ..good() }, RefusalCode::Malformed),
        (Greeting { proofs: [good().proofs, good().proofs].concat(), ..good() }, RefusalCode::Malformed),
        (Greeting { incarnation: NOW_UNIX_MS + CLOCK_AHEAD_MS + 1, ..good() }, RefusalCode::Malformed),
        (Greeting { incarnation: u64::MAX, ..good() }, RefusalCode::Malformed),
        (Greeting { challenge: "0".repeat(64), ..good() }, RefusalCode::Proof),
        (Greeting { nonce: "a5".repeat(32), ..good() }, RefusalCode::Proof),
        (Greeting { machine: "lb2".to_owned(), ..good() }, RefusalCode::Proof),
        (Greeting { incarnation: 6, ..good() }, RefusalCode::Proof),
        (greeting(9, "h1", 5, &[ip(1)], &["none"]), RefusalCode::Service),
    ];
    for (greeting, code) in cases {
        let refused = greeting.clone().verify(&tokens()).err();
        assert_eq!(refused.map(|of| of.why.code), Some(code), "{greeting:?}");
    }
    let (hello, _) = good().verify(&tokens()).unwrap();
    assert_eq!(hello.proved, BTreeSet::from(["web".to_owned()]));
}

#[test]
fn keys_are_those_of_the_services_that_are_proved() {
    let greeting = greeting(9, "h1", 5, &[ip(1)], &["web", "none", "db"]);
    let digest = AddressDigest::of(&greeting.addresses);
    let shares = ["db", "web"].map(|service| claim(&greeting, &digest, service).share(TOKEN));
    let expected = SessionKeys::of(&shares).unwrap();
    let (hello, keys) = greeting.clone().verify(&tokens()).unwrap();
    assert_eq!(hello.proved.iter().collect::<Vec<_>>(), ["db", "web"]);
    assert_eq!(
        hello.refused.iter().map(|(of, why)| (of.as_str(), why.code)).collect::<Vec<_>>(),
        [("none", RefusalCode::Service)]
    );
    let frame = |keys: &SessionKeys| {
        let (mut sealer, mut opener) = Default::default();
        keys.begin_machine(&mut sealer, &mut opener);
        sealer.encode(&model::agent::ToAgent::Resync {}).unwrap()
    };
    assert_eq!(frame(&keys), frame(&expected));
}

/// What a stranger's hello can cost at most: as many proofs and addresses as there may be, of services that exist.
#[test]
fn the_longest_hello_there_is_fits_and_proves_nothing() {
    let services: Vec<String> = (0..SERVICES_MAX).map(|n| format!("{n:0>63}")).collect();
    let tokens: Arc<Tokens> =
        Arc::new(services.iter().map(|name| (name.clone(), b"another token of tests".to_vec())).collect());
    let addresses: Vec<IpAddr> =
        (0..ADDRESSES_MAX as u128).map(|n| std::net::Ipv6Addr::from(u128::MAX - 2048 + n).into()).collect();
    let names: Vec<&str> = services.iter().map(String::as_str).collect();
    let hostile = greeting(1, &"a".repeat(NAME_MAX), 5, &addresses, &names);
    let said = model::agent::ToMachine::Hello {
        version: hostile.version,
        agent: hostile.agent.clone(),
        nonce: hostile.nonce.clone(),
        incarnation: u64::MAX,
        addresses: hostile.addresses.clone(),
        proofs: hostile.proofs.clone(),
    };
    let length = model::agent::encode(&said).unwrap().len();
    assert!(length <= HELLO_MAX, "{length}");
    let begun = std::time::Instant::now();
    assert_eq!(hostile.verify(&tokens).unwrap_err().why.code, RefusalCode::Proof);
    println!(
        "a hello of {length} bytes with {SERVICES_MAX} wrong proofs is refused after {:?}",
        begun.elapsed()
    );
}
