use super::*;
use model::config::{CheckFiles, HealthKind, HttpCheck};
use proptest::prelude::*;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

const RULES: Rules = Rules { interval_ms: 100, fall: 3, rise: 2 };

fn result(passed: bool) -> CheckResult {
    CheckResult { passed, unsent: false, reason: "r".to_owned(), duration_us: 1, unix_ms: 1 }
}

#[test]
fn first_pass_is_up_at_once_and_fall_and_rise_count_in_a_row() {
    let mut verdict = Verdict::default();
    assert_eq!(verdict.up(), None);
    assert_eq!(verdict.observe(result(false), RULES, 0), None);
    assert_eq!(verdict.up(), None, "one failure of three is no verdict");
    assert_eq!(verdict.observe(result(true), RULES, 1), Some(Change::Up));
    for (at, passed) in [(2, false), (3, false), (4, true), (5, false), (6, false)] {
        assert_eq!(verdict.observe(result(passed), RULES, at), None);
    }
    assert_eq!(verdict.observe(result(false), RULES, 7), Some(Change::Down { hold_ms: 0 }));
    assert_eq!(verdict.observe(result(false), RULES, 8), None);
    assert_eq!(verdict.observe(result(true), RULES, 9), None);
    assert_eq!(verdict.observe(result(false), RULES, 10), None);
    assert_eq!(verdict.observe(result(true), RULES, 11), None);
    assert_eq!(verdict.observe(result(true), RULES, 12), Some(Change::Up));
    let status = verdict.status(13);
    assert_eq!((status.passed, status.failed, status.transitions, status.consecutive), (5, 8, 3, 2));
}

#[test]
fn unknown_goes_down_after_fall_failures() {
    let mut verdict = Verdict::default();
    let changes: Vec<_> = (0..3).map(|at| verdict.observe(result(false), RULES, at)).collect();
    assert_eq!(changes, [None, None, Some(Change::Down { hold_ms: 0 })]);
    assert_eq!(verdict.observe(result(true), RULES, 4), None, "from down it takes `rise` passes");
    assert_eq!(verdict.observe(result(true), RULES, 5), Some(Change::Up));
}

#[test]
fn remembered_up_stays_up_until_it_falls() {
    let mut verdict = Verdict::remembered(true);
    assert_eq!(verdict.observe(result(false), RULES, 0), None);
    assert_eq!(verdict.up(), Some(true));
    assert_eq!(verdict.observe(result(false), RULES, 1), None);
    assert_eq!(verdict.observe(result(false), RULES, 2), Some(Change::Down { hold_ms: 0 }));
}

#[test]
fn a_flapping_backend_stays_down_longer_each_time_but_not_for_ever() {
    let rules = Rules { interval_ms: 100, fall: 1, rise: 1 };
    let mut verdict = Verdict::remembered(true);
    let mut now = 0;
    let mut holds = Vec::new();
    for _ in 0..9 {
        let Some(Change::Down { hold_ms }) = verdict.observe(result(false), rules, now) else {
            panic!("should fall")
        };
        holds.push(hold_ms);
        if hold_ms > 0 {
            assert_eq!(verdict.observe(result(true), rules, now + hold_ms - 1), None, "held down");
            assert_eq!(verdict.status(now + hold_ms - 1).held_down_ms, 1);
        }
        now += hold_ms;
        assert_eq!(verdict.observe(result(true), rules, now), Some(Change::Up));
    }
    assert_eq!(holds, [0, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000]);
    // Quiet for the window: forgiven.
    now += FLAP_WINDOW_MS + 1;
    assert_eq!(verdict.observe(result(false), rules, now), Some(Change::Down { hold_ms: 0 }));
}

proptest! {
    /// Against an oracle that keeps the whole history.
    #[test]
    fn verdict_equals_its_history(
        results in prop::collection::vec((any::<bool>(), 0u64..50_000), 1..200),
        fall in 1u32..5,
        rise in 1u32..5,
    ) {
        let rules = Rules { interval_ms: 1000, fall, rise };
        let mut verdict = Verdict::default();
        let (mut history, mut up, mut downs, mut hold_until) = (Vec::new(), None, Vec::new(), 0);
        let mut now = 0;
        for (passed, pause) in results {
            now += pause;
            history.push(passed);
            let tail = |wanted: bool, n: u32| {
                let n = n as usize;
                history.len() >= n && history[history.len() - n..].iter().all(|p| *p == wanted)
            };
            let expected = match up {
                None if passed => Some(true),
                Some(false) if tail(true, rise) && now >= hold_until => Some(true),
                None | Some(true) if tail(false, fall) => Some(false),
                _ => None,
            };
            if expected == Some(false) {
                downs.push(now);
                let recent = downs.iter().filter(|at| now - **at <= FLAP_WINDOW_MS).count().min(16);
                let hold = if recent < 2 { 0 } else { (1000u64 << (recent - 1)).min(HOLD_MAX_MS) };
                hold_until = now + hold;
            }
            let change = verdict.observe(result(passed), rules, now);
            prop_assert_eq!(change.map(|c| c == Change::Up), expected);
            up = expected.or(up);
            prop_assert_eq!(verdict.up(), up);
        }
    }
}

fn check(kind: HealthKind, target: SocketAddr) -> Check {
    Check {
        kind,
        target,
        vip: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)),
        via: None,
        source: None,
        interval_ms: 100,
        timeout_ms: 300,
    }
}

fn words(outcome: Result<(), probe::CheckFailure>) -> String {
    outcome.map_or_else(|failure| failure.to_string(), |()| "ok".to_owned())
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Answers every connection with `answer`, after reading what came first.
async fn serve_bytes(answer: &'static [u8]) -> SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut seen = [0; 4096];
                let _ = stream.read(&mut seen).await;
                let _ = stream.write_all(answer).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    address
}

#[tokio::test]
async fn tcp() {
    let connect = HealthKind::Tcp { send: None, expect: None };
    let (listener, open) = listen().await;
    assert_eq!(words(check(connect.clone(), open).run(0).await), "ok");
    drop(listener);
    assert_eq!(words(check(connect.clone(), open).run(1).await), "refused");

    let talk = |expect: &str| HealthKind::Tcp { send: Some("hello\n".into()), expect: Some(expect.into()) };
    let server = serve_bytes(b"220 mail ready").await;
    assert_eq!(words(check(talk("220"), server).run(0).await), "ok");
    assert_eq!(words(check(talk("250"), server).run(0).await), "answer mismatch");
    let silent = serve_bytes(b"").await;
    assert_eq!(words(check(talk("220"), silent).run(0).await), "closed before the answer");

    // Accepts (the kernel does) and never answers.
    let (_mute, address) = listen().await;
    let begun = Instant::now();
    assert_eq!(words(check(talk("220"), address).run(0).await), "timeout");
    assert!(begun.elapsed() >= Duration::from_millis(300));

    // Resets.
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_zero_linger().unwrap();
        }
    });
    let got = words(check(talk("220"), address).run(0).await);
    assert_eq!(got, "reset");
}

#[tokio::test]
async fn a_probe_leaves_by_its_interface_and_says_when_it_cannot() {
    let (_listener, open) = listen().await;
    let mut by_loopback = check(HealthKind::Tcp { send: None, expect: None }, open);
    by_loopback.via = Some("lo".to_owned());
    assert_eq!(words(by_loopback.run(0).await), "ok");
    by_loopback.via = Some("nosuchif0".to_owned());
    let got = words(by_loopback.run(0).await);
    assert!(got.starts_with("cannot probe: interface nosuchif0:"), "{got}");
}

#[tokio::test]
async fn a_probe_through_the_tunnel_uses_its_ports_in_turn_again_and_again() {
    let (listener, open) = listen().await;
    let mut check = check(HealthKind::Tcp { send: None, expect: None }, open);
    check.source = Some(Ok(SourcePorts { address: IpAddr::V4(Ipv4Addr::LOCALHOST), first: 17_300 }));
    for turn in 0..12 {
        let (outcome, accepted) = tokio::join!(check.run(turn), listener.accept());
        assert_eq!(words(outcome), "ok");
        assert_eq!(u32::from(accepted.unwrap().1.port()), 17_300 + turn % 4);
    }
}

fn http(expect: Option<&str>, expect_status: Vec<(u16, u16)>) -> HttpCheck {
    HttpCheck {
        path: "/health".to_owned(),
        host: None,
        expect_status,
        expect: expect.map(Into::into),
        sni: None,
        files: None,
    }
}

#[tokio::test]
async fn http_status_and_body() {
    let good = serve_bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nall is well\n").await;
    let ask = |check_: HttpCheck, target| async move {
        words(check(HealthKind::Http(check_), target).run(0).await)
    };
    assert_eq!(ask(http(None, vec![]), good).await, "ok");
    assert_eq!(ask(http(Some("is well"), vec![]), good).await, "ok");
    assert_eq!(ask(http(Some("is ill"), vec![]), good).await, "body mismatch");
    assert_eq!(ask(http(None, vec![(204, 204)]), good).await, "status 200");
    let busy = serve_bytes(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(ask(http(None, vec![]), busy).await, "status 503");
    assert_eq!(ask(http(None, vec![(200, 200), (500, 599)]), busy).await, "ok");
    let moved = serve_bytes(b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n").await;
    assert_eq!(ask(http(None, vec![]), moved).await, "ok");
    let gone = serve_bytes(b"").await;
    assert_eq!(ask(http(None, vec![]), gone).await, "closed before the answer");
    let other = serve_bytes(b"SSH-2.0-OpenSSH_9.2\r\n").await;
    let got = ask(http(None, vec![]), other).await;
    assert!(got.starts_with("http: "), "{got}");
    // A body without end counts as far as it is looked at.
    let endless = serve_bytes(b"HTTP/1.1 200 OK\r\n\r\nabc").await;
    assert_eq!(ask(http(Some("bc"), vec![]), endless).await, "ok");
    let (_mute, address) = listen().await;
    assert_eq!(ask(http(None, vec![]), address).await, "timeout");
}

#[tokio::test]
async fn http_sends_path_and_host() {
    let (listener, address) = listen().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = vec![0; 4096];
        let length = stream.read(&mut seen).await.unwrap();
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        String::from_utf8(seen[..length].to_vec()).unwrap()
    });
    let mut asked = http(None, vec![]);
    asked.path = "/live?x=1".to_owned();
    asked.host = Some("www.example.com".to_owned());
    assert_eq!(words(check(HealthKind::Http(asked), address).run(0).await), "ok");
    let request = server.await.unwrap();
    assert!(request.starts_with("GET /live?x=1 HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("host: www.example.com\r\n"), "{request}");
    assert!(request.contains("connection: close\r\n"), "{request}");
}

#[tokio::test]
async fn https_takes_any_certificate_and_tells_tls_failures() {
    let certified = rcgen::generate_simple_self_signed(vec!["other.example".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let (listener, address) = listen().await;
    let names = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = names.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, counted) = (acceptor.clone(), counted.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                if stream.get_ref().1.server_name() == Some("www.example.com") {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
                let mut seen = [0; 1024];
                let _ = stream.read(&mut seen).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                let _ = stream.shutdown().await;
            });
        }
    });
    let mut slow = check(HealthKind::Https(http(Some("ok"), vec![])), address);
    slow.timeout_ms = 3000;
    assert_eq!(words(slow.run(0).await), "ok");
    let mut named = http(None, vec![]);
    named.sni = Some("www.example.com".to_owned());
    let mut named = check(HealthKind::Https(named), address);
    named.timeout_ms = 3000;
    assert_eq!(words(named.run(0).await), "ok");
    assert_eq!(names.load(Ordering::Relaxed), 1, "the server name is sent");
    let plain = serve_bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let got = words(check(HealthKind::Https(http(None, vec![])), plain).run(0).await);
    assert!(got.starts_with("tls: "), "{got}");
}

#[tokio::test]
async fn udp() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(async move {
        let mut seen = [0; 100];
        while let Ok((length, from)) = server.recv_from(&mut seen).await {
            if &seen[..length] == b"ping" {
                let _ = server.send_to(b"pong", from).await;
            }
        }
    });
    let ask = |send: &str, expect: Option<&str>| HealthKind::Udp {
        silence_passes: false,
        send: Some(send.into()),
        expect: expect.map(Into::into),
    };
    assert_eq!(words(check(ask("ping", None), address).run(0).await), "ok");
    assert_eq!(words(check(ask("ping", Some("ong")), address).run(0).await), "ok");
    assert_eq!(words(check(ask("ping", Some("other")), address).run(0).await), "answer mismatch");
    assert_eq!(words(check(ask("hush", None), address).run(0).await), "timeout");
    let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert_eq!(words(check(ask("ping", None), closed).run(0).await), "refused");
}

/// Answers a request with `answer` and closes its side; tells what it sees of the client then.
async fn seen_after(answer: Vec<u8>, asked: HttpCheck) -> (String, io::Result<usize>) {
    let (listener, address) = listen().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await?;
        stream.write_all(&answer).await?;
        stream.shutdown().await?;
        stream.read(&mut [0; 16]).await
    });
    let mut check = check(HealthKind::Http(asked), address);
    check.timeout_ms = 3000;
    (words(check.run(0).await), server.await.unwrap())
}

#[tokio::test]
async fn an_answer_is_read_to_its_end_and_no_server_sees_a_reset() {
    let long = |head: &str, length: usize| [head.as_bytes(), &vec![b'x'; length]].concat();
    let chunked =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    let mebibyte = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1 << 20);
    for (what, answer) in [
        ("chunked", chunked.to_vec()),
        ("delimited by its end", long("HTTP/1.1 200 OK\r\n\r\n", 100_000)),
        ("HTTP/1.0", long("HTTP/1.0 200 OK\r\n\r\n", 10)),
        ("a mebibyte", long(&mebibyte, 1 << 20)),
        ("unhealthy", long("HTTP/1.1 503 No\r\n\r\n", 100_000)),
    ] {
        let (got, seen) = seen_after(answer.clone(), http(None, vec![])).await;
        assert_eq!(got, if what == "unhealthy" { "status 503" } else { "ok" }, "{what}");
        assert_eq!(seen.unwrap(), 0, "{what}");
        let (_, seen) = seen_after(answer, http(Some("hell"), vec![])).await;
        assert_eq!(seen.unwrap(), 0, "{what}, something expected");
    }
    // Where it is too long the answer counts all the same.
    let (got, seen) = seen_after(long("HTTP/1.1 200 OK\r\n\r\n", 64 << 20), http(Some("xx"), vec![])).await;
    assert_eq!(got, "ok");
    assert!(seen.is_err());
}

#[tokio::test]
async fn a_body_that_does_not_end_in_time_takes_nothing_from_the_answer() {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        loop {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc").await;
            std::future::pending::<()>().await;
        }
    });
    assert_eq!(words(check(HealthKind::Http(http(None, vec![])), address).run(0).await), "ok");
}

#[tokio::test]
async fn http_is_read_as_leniently_as_user_agents_do() {
    let many = (0..400).map(|n| format!("X-Field-{n}: {n}\r\n")).collect::<String>();
    for (what, head) in [
        ("a folded line", "X-Folded: one\r\n  two\r\n\tthree\r\n"),
        ("a space before a colon", "X-Space : one\r\n"),
        ("no field at all", "this is no field\r\n"),
        ("400 fields", &many),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{head}Content-Length: 2\r\n\r\nok");
        let server = serve_bytes(answer.leak().as_bytes()).await;
        let got = words(check(HealthKind::Http(http(Some("ok"), vec![])), server).run(0).await);
        assert_eq!(got, "ok", "{what}");
    }
}

#[tokio::test]
async fn udp_waits_for_the_right_answer() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(async move {
        let mut seen = [0; 100];
        while let Ok((_, from)) = server.recv_from(&mut seen).await {
            let _ = server.send_to(b"late answer to another question", from).await;
            let _ = server.send_to(b"", from).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            let _ = server.send_to(b"pong", from).await;
        }
    });
    let kind =
        HealthKind::Udp { send: Some("ping".into()), expect: Some("pong".into()), silence_passes: false };
    assert_eq!(words(check(kind, address).run(0).await), "ok");
}

#[tokio::test]
async fn udp_whose_silence_passes_fails_if_its_port_is_closed() {
    let mute = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let kind = |expect: Option<&str>| HealthKind::Udp {
        send: Some("ping".into()),
        expect: expect.map(Into::into),
        silence_passes: true,
    };
    let address = mute.local_addr().unwrap();
    assert_eq!(words(check(kind(Some("pong")), address).run(0).await), "ok");
    drop(mute);
    assert_eq!(words(check(kind(None), address).run(0).await), "refused");
    let wrong = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = wrong.local_addr().unwrap();
    tokio::spawn(async move {
        let (_, from) = wrong.recv_from(&mut [0; 100]).await.unwrap();
        let _ = wrong.send_to(b"no", from).await;
        std::future::pending::<()>().await;
    });
    assert_eq!(words(check(kind(Some("pong")), address).run(0).await), "answer mismatch");
}

#[test]
fn a_check_that_could_not_leave_says_nothing() {
    let mut verdict = Verdict::remembered(true);
    let unsent =
        CheckResult { unsent: true, reason: "could not leave: no socket".to_owned(), ..result(false) };
    for at in 0..10 {
        assert_eq!(verdict.observe(unsent.clone(), RULES, at), None);
    }
    assert_eq!((verdict.up(), verdict.status(10).failed), (Some(true), 0));
    assert_eq!(verdict.reason(), "could not leave: no socket");
    // Nor does it interrupt a row.
    for at in 10..13 {
        assert_eq!(verdict.observe(unsent.clone(), RULES, at), None);
        let change = verdict.observe(result(false), RULES, at);
        assert_eq!(change.is_some(), at == 12, "{at}");
    }
}

/// In a process of its own, because its limit holds for all threads.
#[test]
fn without_descriptors_a_probe_cannot_leave() {
    const MARK: &str = "HEALTH_TEST_WITHOUT_DESCRIPTORS";
    if std::env::var_os(MARK).is_none() {
        let name = "tests::without_descriptors_a_probe_cannot_leave";
        let own = std::env::current_exe().unwrap();
        let status = std::process::Command::new(own).args([name, "--exact"]).env(MARK, "1").status().unwrap();
        assert!(status.success());
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (_listener, open) = listen().await;
        let mut held = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            held.push(file);
            if held.len() == 64 {
                let limit = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
                rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
            }
        }
        for kind in [
            HealthKind::Tcp { send: None, expect: None },
            HealthKind::Udp { send: None, expect: None, silence_passes: true },
            HealthKind::Http(http(None, vec![])),
        ] {
            let outcome = check(kind, open).run(0).await;
            assert!(matches!(outcome, Err(CheckFailure::Unsent(_))), "{outcome:?}");
            let result = super::result(Instant::now(), outcome);
            assert!(result.unsent && !result.passed, "{result:?}");
        }
    });
}

/// A program that runs until it is dropped.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks until something listens.
async fn answer_of(check: &Check) -> String {
    for _ in 0..100 {
        let got = words(check.run(0).await);
        if got != "refused" {
            return got;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    "refused".to_owned()
}

async fn free_address() -> SocketAddr {
    let (listener, address) = listen().await;
    drop(listener);
    address
}

/// What a check says of `openssl s_server` with this certificate and these arguments.
async fn ask_openssl(
    openssl: &impl Fn(&[&str]) -> std::process::Command,
    cert: &str,
    arguments: &[&str],
    asked: HttpCheck,
) -> String {
    let address = free_address().await;
    let (port, key, cert) = (address.port().to_string(), format!("{cert}.key"), format!("{cert}.pem"));
    let mut command =
        openssl(&["s_server", "-accept", &port, "-key", &key, "-cert", &cert, "-www", "-quiet"]);
    let _server = Running(command.args(arguments).spawn().unwrap());
    let mut check = check(HealthKind::Https(asked), address);
    check.timeout_ms = 3000;
    answer_of(&check).await
}

#[tokio::test]
async fn openssl_that_wants_other_than_a_check_has_is_told_by_name() {
    let place = tempfile::tempdir().unwrap();
    let openssl = |arguments: &[&str]| {
        let mut command = std::process::Command::new("openssl");
        command.current_dir(place.path()).args(arguments);
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        command.stderr(std::process::Stdio::null());
        command
    };
    for (curve, name) in [("prime256v1", "p256"), ("prime256v1", "other"), ("secp521r1", "p521")] {
        let (key, cert) = (format!("{name}.key"), format!("{name}.pem"));
        let curve = format!("ec_paramgen_curve:{curve}");
        let made = openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            &curve,
            "-nodes",
            "-keyout",
            &key,
            "-out",
            &cert,
            "-subj",
            "/CN=www.example.com",
            "-days",
            "2",
            "-addext",
            "subjectAltName=DNS:www.example.com",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ]);
        assert!({ made }.status().expect("openssl is needed").success());
    }
    // One authority of its own for clients, which is also what a server may be held against.
    let authority = place.path().join("p256.pem");
    let by = |files: CheckFiles| HttpCheck { files: Some(Box::new(files)), ..http(None, vec![]) };
    let key = place.path().join("p256.key");
    let shown = by(CheckFiles { cert: Some(authority.clone()), key: Some(key), ca: None });
    let of = |ca: &Path| CheckFiles { ca: Some(ca.to_owned()), ..CheckFiles::default() };
    let held = |name: &str| HttpCheck { sni: Some(name.to_owned()), ..by(of(&authority)) };
    let wants = &["-Verify", "1", "-CAfile", "p256.pem"][..];
    for (what, asked, cert, arguments, expected) in [
        ("a certificate is shown", shown.clone(), "p256", wants, "ok"),
        ("and in TLS 1.2", shown.clone(), "p256", &["-Verify", "1", "-CAfile", "p256.pem", "-tls1_2"], "ok"),
        (
            "another than is wanted",
            shown,
            "p256",
            &["-Verify", "1", "-verify_return_error", "-CAfile", "p521.pem"],
            "tls: unknown c",
        ),
        ("by this authority", held("www.example.com"), "p256", &[], "ok"),
        (
            "by another name",
            held("www.example.org"),
            "p256",
            &[],
            "tls: invalid peer certificate: certificate not valid for name",
        ),
        ("by another authority", held("www.example.com"), "other", &[], "tls: invalid peer certificate: "),
    ] {
        let got = ask_openssl(&openssl, cert, arguments, asked).await;
        assert!(got.starts_with(expected), "{what}: {got}");
    }
    let missing = by(of(&place.path().join("none.pem")));
    let got = ask_openssl(&openssl, "p256", &[], missing).await;
    assert!(got.starts_with("cannot probe: ") && got.contains("none.pem: No such file"), "{got}");
    let no_key = by(CheckFiles { cert: Some(authority.clone()), key: Some(authority.clone()), ca: None });
    let got = ask_openssl(&openssl, "p256", &[], no_key).await;
    assert!(got.starts_with("cannot probe: ") && got.contains("p256.pem: "), "{got}");
    for (what, cert, arguments, expected) in [
        ("any", "p256", &[][..], "ok"),
        ("TLS 1.2", "p256", &["-tls1_2"], "ok"),
        ("a certificate is wanted", "p256", &["-Verify", "1"], "tls: certificate required"),
        ("and in TLS 1.2", "p256", &["-Verify", "1", "-tls1_2"], "tls: handshake failure (a check offers"),
        ("P-521 certificate", "p521", &[], "ok"),
        ("P-521 certificate, TLS 1.2", "p521", &["-tls1_2"], "tls: handshake failure (a check offers"),
        ("P-521 alone", "p256", &["-curves", "P-521"], "tls: handshake failure (a check offers"),
    ] {
        let got = ask_openssl(&openssl, cert, arguments, http(None, vec![])).await;
        assert!(got.starts_with(expected), "{what}: {got}");
    }
}

#[tokio::test]
async fn nginx_sees_no_reset() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("large"), vec![b'x'; 1 << 20]).unwrap();
    let address = free_address().await;
    let (dir, log) = (place.path().display(), place.path().join("error.log"));
    let config = format!(
        "pid {dir}/pid; error_log {dir}/error.log info; daemon off; master_process off;\n\
         events {{}}\n\
         http {{ access_log off; client_body_temp_path {dir}/a; proxy_temp_path {dir}/b; fastcgi_temp_path {dir}/c;\n\
         uwsgi_temp_path {dir}/d; scgi_temp_path {dir}/e;\n\
         server {{ listen {address}; root {dir}; location = /small {{ return 200 small; }} }} }}"
    );
    let path = place.path().join("nginx.conf");
    std::fs::write(&path, config).unwrap();
    let mut command = std::process::Command::new("nginx");
    command.arg("-e").arg(&log).arg("-c").arg(&path).stderr(std::process::Stdio::null());
    let _server = Running(command.spawn().expect("nginx is needed"));
    for path in ["/large", "/small"] {
        let mut asked = http(None, vec![]);
        asked.path = path.to_owned();
        let mut check = check(HealthKind::Http(asked), address);
        check.timeout_ms = 3000;
        for _ in 0..20 {
            assert_eq!(answer_of(&check).await, "ok", "{path}");
        }
    }
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(!said.contains("reset by peer"), "{said}");
}

#[tokio::test]
async fn bytes_beyond_ascii_are_sent_and_found_as_they_are() {
    let (sent, awaited) = ([0x12, 0xff, 0x80, 0x00], [0xfe, 0xc3]);
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let udp = server.local_addr().unwrap();
    tokio::spawn(async move {
        let mut seen = [0; 100];
        while let Ok((length, from)) = server.recv_from(&mut seen).await {
            let answer: &[u8] = if seen[..length] == sent { &[1, 0xfe, 0xc3, 2] } else { b"other" };
            let _ = server.send_to(answer, from).await;
        }
    });
    let (listener, tcp) = listen().await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = [0; 4];
        stream.read_exact(&mut seen).await.unwrap();
        let answer: &[u8] = if seen == sent { &[1, 0xfe, 0xc3, 2] } else { b"other" };
        stream.write_all(answer).await.unwrap();
    });
    let payload = |bytes: &[u8]| Some(bytes.to_vec().into());
    let kind = HealthKind::Udp { send: payload(&sent), expect: payload(&awaited), silence_passes: false };
    assert_eq!(words(check(kind, udp).run(0).await), "ok");
    let kind = HealthKind::Tcp { send: payload(&sent), expect: payload(&awaited) };
    assert_eq!(words(check(kind, tcp).run(0).await), "ok");
}

/// What `check` takes as host, server name and path can be asked for.
#[test]
fn what_the_configuration_takes_can_be_asked_for() {
    let load = |keys: &str| {
        let text = format!(
            "[machine]\nname = \"lb1\"\naddress = \"10.0.2.11\"\nnext_hop_mac = \"02:00:00:00:00:01\"\n\
             [[port]]\nname = \"data0\"\ndevice = \"net_null0\"\n\
             [[service]]\nname = \"web\"\nvip = \"203.0.113.10\"\nport = 443\n\
             [service.health]\nkind = \"https\"\nvia = \"eth1\"\n{keys}\n\
             [[service.backend]]\nname = \"b1\"\naddress = \"10.0.2.21\"\n"
        );
        let loaded = model::load("t", &text).map_err(|report| report.to_plain())?;
        match loaded.config.services[0].health.kind.clone() {
            HealthKind::Https(http) => Ok::<HttpCheck, String>(http),
            other => panic!("{other:?}"),
        }
    };
    let vip = IpAddr::from([203, 0, 113, 10]);
    for (keys, name) in [
        ("", "203.0.113.10"),
        ("host = \"www.example.com\"", "www.example.com"),
        ("host = \"www.example.com:8443\"", "www.example.com"),
        ("host = \"a_b.example-1.com\"", "a_b.example-1.com"),
        ("host = \"10.0.2.21\"", "10.0.2.21"),
        ("host = \"10.0.2.21:8443\"", "10.0.2.21"),
        ("host = \"[2001:db8::10]\"", "2001:db8::10"),
        ("host = \"[2001:db8::10]:8443\"", "2001:db8::10"),
        ("host = \"localhost\"\nsni = \"xn--bcher-kva.example\"", "xn--bcher-kva.example"),
        ("path = \"/a-._~!$&'()*+,;=:@/?x=/%20%fF\"", "203.0.113.10"),
    ] {
        let http = load(keys).unwrap();
        let server = crate::probe::server_name(&http, vip).unwrap_or_else(|e| panic!("{keys}: {e}"));
        assert_eq!(server.to_str(), name, "{keys}");
        let host = http.host.clone().unwrap_or_default();
        let request = hyper::Request::get(&http.path).header("host", &host).body(()).expect(keys);
        assert_eq!(request.uri().path_and_query().unwrap().as_str(), http.path, "whole");
        assert!(host.is_empty() || host.parse::<hyper::http::uri::Authority>().is_ok(), "{host}");
    }
    for keys in [
        "sni = \"*.example.com\"",
        "sni = \"a..b\"",
        "sni = \"a.\"",
        "sni = \"1.2.3\"",
        "host = \"1.2.3.4.5\"",
        "host = \"www.example.com/\"",
        "host = \"www.example.com:\"",
        "host = \"www.example.com:0\"",
        "host = \"www.example.com:+1\"",
        "host = \"[2001:db8::10\"",
        "host = \"[2001:db8::10]8443\"",
        "host = \"user@www.example.com\"",
        "host = \"-a.example\"",
        "path = \"/a#b\"",
        "path = \"/a`b\"",
        "path = \"/%\"",
        "path = \"/a b\"",
        "path = \"//é\"",
    ] {
        assert!(load(keys).is_err(), "{keys}");
    }
}
