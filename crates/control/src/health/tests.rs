use super::*;
use model::config::HealthKind;
use std::net::{IpAddr, Ipv4Addr};
use tokio::net::TcpListener;

#[tokio::test]
async fn a_checker_reports_again_and_again_until_it_is_dropped() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (notes, mut noted) = mpsc::channel(64);
    let fast = Check {
        kind: HealthKind::Tcp { send: None, expect: None },
        target: listener.local_addr().unwrap(),
        vip: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)),
        via: None,
        source: None,
        interval_ms: 20,
        timeout_ms: 300,
    };
    let checker = Checker::start(Subject::Backend(BackendId(7)), First::Spread, fast, notes);
    for _ in 0..3 {
        let note = tokio::time::timeout(Duration::from_secs(5), noted.recv()).await.unwrap().unwrap();
        let Note::Checked(id, check, result) = note else { panic!("unexpected note") };
        assert_eq!(id, Subject::Backend(BackendId(7)));
        assert!(Arc::ptr_eq(&check, &checker.check));
        assert!(result.passed && result.reason == "ok", "{result:?}");
    }
    drop(checker);
    let closed = async { while noted.recv().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(5), closed).await.expect("the task ends");
}

#[test]
fn checks_that_could_not_leave_are_told_once_a_minute() {
    let mut unsent = Unsent::default();
    assert_eq!(unsent.add(5), Some(1));
    let later = (1..=700).filter_map(|at| unsent.add(5 + at * 100));
    assert_eq!(later.collect::<Vec<_>>(), [600]);
}
