use super::*;
use crate::config::Tls;
use crate::tls;
use model::agent::{AddressDigest, Claim, FRAME_MAX, encode};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::net::SocketAddr;
use std::path::Path;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

const LIMIT: Duration = Duration::from_secs(20);

async fn next(events: &mut mpsc::Receiver<Event>) -> Event {
    tokio::time::timeout(LIMIT, events.recv()).await.expect("in time").expect("open")
}

async fn end(events: &mut mpsc::Receiver<Event>) -> String {
    match next(events).await {
        Event::Closed(Link(1), problem) => problem,
        other => panic!("{other:?}"),
    }
}

/// A connection to a fake machine that does `play` with it.
async fn against<F: Future<Output = ()> + Send + 'static>(
    play: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> (Connection, mpsc::Receiver<Event>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        play(stream).await;
    });
    let (sender, events) = mpsc::channel(16);
    (Connection::start(Link(1), peer, None, sender), events)
}

/// A message that a machine may say before it has proved anything.
fn challenge(name: &str) -> ToAgent {
    ToAgent::Challenge { versions: vec![2], machine: name.to_owned(), nonce: String::new() }
}

fn plain(message: &ToAgent) -> Vec<u8> {
    encode(message).unwrap()
}

fn alive(sequence: u64) -> ToAgent {
    ToAgent::Alive { sequence }
}

/// What the tokens of these services give, and the keys of both sides.
fn shares(services: &[&str]) -> Shares {
    let addresses = AddressDigest::of(&[]);
    let share = |service: &str| {
        let (nonce, machine, agent, agent_nonce, incarnation) = ("00", "m1", "a1", "11", 1);
        let claim = Claim { nonce, machine, agent, agent_nonce, incarnation, addresses: &addresses, service };
        claim.share(b"a token of the tests")
    };
    services.iter().map(|service| ((*service).to_owned(), share(service))).collect()
}

/// The machine's side of a session in which these are proved.
fn side_of_machine(services: &[&str]) -> (Sealer, Opener) {
    let (mut sealer, mut opener) = Default::default();
    SessionKeys::of(shares(services).values()).unwrap().begin_machine(&mut sealer, &mut opener);
    (sealer, opener)
}

fn proved(services: &[&str]) -> Vec<u8> {
    plain(&ToAgent::Proved { services: services.iter().map(|service| (*service).to_owned()).collect() })
}

fn hello() -> ToMachine {
    let (version, incarnation, addresses, proofs) = (2, 1, vec![], vec![]);
    let (agent, nonce) = ("a1".to_owned(), String::new());
    ToMachine::Hello { version, agent, nonce, incarnation, addresses, proofs }
}

/// Takes the hello off what it hears.
async fn hear_hello(stream: &mut TcpStream) {
    let mut bytes = vec![0; encode(&hello()).unwrap().len()];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(bytes, encode(&hello()).unwrap());
}

/// Says hello, and waits until the machine has proved itself.
async fn begin(connection: &Connection, events: &mut mpsc::Receiver<Event>, services: &[&str]) {
    connection.greet(&hello(), shares(services)).unwrap();
    let Event::Heard(_, message) = next(events).await else { panic!("no message") };
    assert!(matches!(*message, ToAgent::Proved { .. }));
}

#[tokio::test]
async fn frames_come_whole_however_they_are_cut() {
    let (_connection, mut events) = against(|mut stream| async move {
        let bytes = [plain(&challenge("1")), plain(&challenge("2")), plain(&challenge("3"))].concat();
        for byte in bytes {
            stream.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
    })
    .await;
    for expected in 1..=3 {
        let Event::Heard(Link(1), message) = next(&mut events).await else { panic!("no message") };
        assert_eq!(*message, challenge(&expected.to_string()));
    }
    assert_eq!(end(&mut events).await, "closed by the machine");
}

#[tokio::test]
async fn what_is_no_frame_ends_the_connection() {
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![0, 0, 0, 0], "0 bytes"),
        (vec![0xff; 4], "4294967295 bytes"),
        (u32::try_from(FRAME_MAX + 1).unwrap().to_be_bytes().to_vec(), "262145 bytes"),
        ([vec![0, 0, 0, 5], b"hello".to_vec()].concat(), "not a message"),
        ([vec![0, 0, 0, 2], b"{}".to_vec()].concat(), "not a message"),
        ([vec![0, 0, 0, 50], b"half".to_vec()].concat(), "in the middle"),
        (plain(&alive(1)), "before it has proved"),
        (proved(&["web"]), "was not in the hello"),
        (proved(&[]), "no service proved"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "bytes"),
    ];
    for (bytes, expected) in cases {
        let (_connection, mut events) = against(move |mut stream| async move {
            stream.write_all(&bytes).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        })
        .await;
        let problem = end(&mut events).await;
        assert!(problem.contains(expected), "{problem}");
    }
}

#[tokio::test]
async fn what_was_said_leaves_before_it_is_closed() {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let (connection, mut events) = against(|mut stream| async move {
        hear_hello(&mut stream).await;
        stream.write_all(&proved(&["web"])).await.unwrap();
        // Something that the agent does not read any more must not hurt.
        let (mut sealer, _) = side_of_machine(&["web"]);
        stream.write_all(&sealer.encode(&alive(1)).unwrap()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        sender.send(all).unwrap();
    })
    .await;
    let message = ToMachine::Deregister {
        service: "web".to_owned(),
        backend: "web-1".to_owned(),
        address: "10.1.0.5".parse().unwrap(),
    };
    assert!(connection.send(&message).unwrap_err().contains("proved nothing"));
    begin(&connection, &mut events, &["web"]).await;
    for _ in 0..1000 {
        connection.send(&message).unwrap();
    }
    let begun = std::time::Instant::now();
    connection.finish().done().await;
    assert!(begun.elapsed() < LIMIT);
    let mut all = receiver.await.unwrap();
    let (_, mut opener) = side_of_machine(&["web"]);
    for _ in 0..1000 {
        assert_eq!(opener.decode::<ToMachine>(&mut all).unwrap().as_ref(), Some(&message));
    }
    assert!(all.is_empty());
}

#[tokio::test]
async fn what_the_machine_has_not_sealed_in_its_place_ends_the_connection() {
    let (mut sealer, _) = side_of_machine(&["db", "web"]);
    let good: Vec<Vec<u8>> = (1..=3).map(|n| sealer.encode(&alive(n)).unwrap()).collect();
    let mut changed = good[1].clone();
    *changed.last_mut().unwrap() = b' ';
    let (mut other, _) = side_of_machine(&["web"]);
    let less = other.encode(&alive(1)).unwrap();
    let cases: Vec<(&str, Vec<Vec<u8>>, u64, &str)> = vec![
        ("all", good.clone(), 3, "closed by the machine"),
        ("repeated", vec![good[0].clone(), good[0].clone()], 1, "message 1 came where 2 is due"),
        ("left out", vec![good[0].clone(), good[2].clone()], 1, "message 3 came where 2 is due"),
        ("changed", vec![good[0].clone(), changed], 1, "tag is wrong"),
        ("plain", vec![plain(&alive(1))], 0, "tag is wrong"),
        ("with some of the tokens", vec![less], 0, "tag is wrong"),
    ];
    for (what, frames, heard, expected) in cases {
        let (connection, mut events) = against(move |mut stream| async move {
            hear_hello(&mut stream).await;
            stream.write_all(&[proved(&["db", "web"]), frames.concat()].concat()).await.unwrap();
            stream.shutdown().await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        })
        .await;
        begin(&connection, &mut events, &["db", "web"]).await;
        for n in 1..=heard {
            let Event::Heard(_, message) = next(&mut events).await else { panic!("{what}: no message") };
            assert_eq!(*message, alive(n), "{what}");
        }
        let problem = end(&mut events).await;
        assert!(problem.contains(expected), "{what}: {problem}");
    }
}

#[tokio::test]
async fn a_machine_that_does_not_read_is_given_up() {
    let (connection, mut events) = against(|mut stream| async move {
        hear_hello(&mut stream).await;
        stream.write_all(&proved(&["web"])).await.unwrap();
        tokio::time::sleep(LIMIT).await;
        drop(stream);
    })
    .await;
    begin(&connection, &mut events, &["web"]).await;
    let addresses = (0..1024_u32).map(|i| std::net::Ipv4Addr::from(i).into()).collect();
    let message = ToMachine::NotLocal { service: "web".to_owned(), revision: 1, addresses };
    let refused = (0..10_000).map(|_| connection.send(&message)).find_map(Result::err);
    assert!(refused.unwrap().contains("does not read"));
}

#[tokio::test]
async fn nobody_there() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let (sender, mut events) = mpsc::channel(16);
    let _connection = Connection::start(Link(1), free, None, sender);
    assert!(end(&mut events).await.contains("refused"));
}

/// A CA, and a certificate of it for 127.0.0.1 with its key, in files below `place`.
fn certificates(place: &Path, who: &str) -> (rcgen::Certificate, KeyPair, KeyPair, rcgen::Certificate) {
    let mut parameters = CertificateParams::new(vec![]).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let ca = parameters.self_signed(&ca_key).unwrap();
    std::fs::write(place.join(format!("{who}-ca.pem")), ca.pem()).unwrap();
    let issuer = Issuer::from_params(&parameters, &ca_key);
    let key = KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned(), "guideway".to_owned()];
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    std::fs::write(place.join(format!("{who}.pem")), certificate.pem()).unwrap();
    std::fs::write(place.join(format!("{who}.key")), key.serialize_pem()).unwrap();
    (certificate, key, ca_key, ca)
}

/// A machine that wants certificates of `client_ca` and says one message.
async fn tls_machine(
    certificate: &rcgen::Certificate,
    key: &KeyPair,
    client_ca: &rcgen::Certificate,
) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(client_ca.der().clone()).unwrap();
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .unwrap();
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let _ = stream.write_all(&plain(&challenge("9"))).await;
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn tls_with_certificates_on_both_sides() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let (certificate, key, _, _) = certificates(place.path(), "machine");
    let (_, _, _, agent_ca) = certificates(place.path(), "agent");
    let _ = certificates(place.path(), "stranger");
    let peer = tls_machine(&certificate, &key, &agent_ca).await.to_string();
    let good = Tls { ca: at("machine-ca.pem"), own: Some((at("agent.pem"), at("agent.key"))), name: None };
    let connect = |tls: Tls| {
        let (sender, events) = mpsc::channel(16);
        let client = tls::client(&tls).unwrap();
        (Connection::start(Link(1), peer.clone(), Some(client), sender), events)
    };
    for name in [None, Some("guideway".to_owned())] {
        let (connection, mut events) = connect(Tls { name, ..good.clone() });
        let Event::Heard(_, message) = next(&mut events).await else { panic!("no message") };
        assert_eq!(*message, challenge("9"));
        connection.finish().done().await;
    }
    for (what, tls) in [
        ("another name", Tls { name: Some("other.example".to_owned()), ..good.clone() }),
        ("another CA", Tls { ca: at("stranger-ca.pem"), ..good.clone() }),
        (
            "a stranger's certificate",
            Tls { own: Some((at("stranger.pem"), at("stranger.key"))), ..good.clone() },
        ),
        ("no certificate", Tls { own: None, ..good }),
    ] {
        let (_connection, mut events) = connect(tls);
        let problem = end(&mut events).await;
        assert!(!problem.contains("closed by the machine"), "{what}: {problem}");
    }
}
