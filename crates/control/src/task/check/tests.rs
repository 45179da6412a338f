use super::*;
use model::config::HealthKind;
use std::net::{IpAddr, Ipv4Addr};
use tokio::net::TcpListener;
use wire::BackendId;

#[tokio::test]
async fn a_checker_reports_again_and_again_until_it_is_stopped() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (events, mut received) = mpsc::channel(64);
    let fast = Check {
        kind: HealthKind::Tcp { send: None, expect: None },
        target: listener.local_addr().unwrap(),
        vip: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)),
        via: None,
        source: None,
        interval_ms: 20,
        timeout_ms: 300,
    };
    let (of, check, mut checks) = (Subject::Backend(BackendId(7)), Arc::new(fast), Checks::new(events));
    checks.start(of.clone(), First::Spread, check.clone());
    for _ in 0..3 {
        let event = tokio::time::timeout(Duration::from_secs(5), received.recv()).await.unwrap().unwrap();
        let Event::Checked(id, checked, result) = event else { panic!("unexpected event") };
        assert_eq!(id, of);
        assert!(Arc::ptr_eq(&checked, &check));
        assert!(result.passed && result.reason == "ok", "{result:?}");
    }
    checks.stop(&of);
    // Whoever starts others could send, too.
    drop(checks);
    let closed = async { while received.recv().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(5), closed).await.expect("the task ends");
}
