use super::*;
use crate::test_network::{Far, in_own_network, sh};

fn vip(text: &str) -> Vip {
    Vip::from(text.parse::<Net>().unwrap())
}

async fn until(announced: &mut watch::Receiver<BTreeSet<Vip>>, wanted: &[Vip]) {
    let wanted: BTreeSet<Vip> = wanted.iter().copied().collect();
    let reached = announced.wait_for(|now| *now == wanted);
    tokio::time::timeout(Duration::from_secs(10), reached).await.expect("in time").unwrap();
}

#[test]
fn vips_come_and_go() {
    in_own_network("announce::tests::vips_come_and_go", "", || {
        let far = Far::new(
            "gw0",
            "ip address add 10.0.2.1/24 dev far0; ip address add fd00:2::1/64 dev far0 nodad",
        );
        sh("ip address add 10.0.2.11/24 dev gw0; ip address add fd00:2::11/64 dev gw0 nodad");
        // Left by a process that was killed; one of them is wanted again.
        sh("ip address add 198.51.100.1/32 dev lo; ip address add 10.0.2.50/32 dev lo");
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let (wish, wishes) = watch::channel(Wanted::default());
            let (tell, mut announced) = watch::channel(BTreeSet::new());
            let (notes, mut noted) = mpsc::channel(64);
            let (four, six) = (vip("10.0.2.50"), vip("fd00:2::50"));
            let wanted = Wanted {
                vips: [four, six].into(),
                subnets: vec![
                    ("gw0".to_owned(), "10.0.2.11/24".parse().unwrap()),
                    ("gw0".to_owned(), "fd00:2::11/64".parse().unwrap()),
                ],
                accept_local: ["gw0".to_owned()].into(),
            };
            wish.send_replace(wanted.clone());
            let left_over = [vip("198.51.100.1"), four].into();
            let keeper = tokio::spawn(keep(wishes, left_over, tell, notes));
            until(&mut announced, &[four, six]).await;
            let on_loopback = sh("ip -o address show dev lo");
            assert!(
                on_loopback.contains("10.0.2.50/32") && on_loopback.contains("fd00:2::50/128"),
                "{on_loopback}"
            );
            assert!(!on_loopback.contains("198.51.100.1"), "{on_loopback}");
            assert_eq!(sh("cat /proc/sys/net/ipv4/conf/gw0/accept_local").trim(), "1");
            // The kernel answers for both on the link.
            far.sh("ping -c 1 -W 5 10.0.2.50");
            far.sh("ping -c 1 -W 5 fd00:2::50");

            wish.send_replace(Wanted { vips: [four].into(), ..wanted.clone() });
            until(&mut announced, &[four]).await;
            assert!(!sh("ip -o address show").contains("fd00:2::50"));
            wish.send_replace(Wanted { vips: BTreeSet::new(), ..wanted });
            until(&mut announced, &[]).await;
            assert!(!sh("ip -o address show").contains("10.0.2.50"));
            let own = sh("ip -o address show dev gw0");
            assert!(own.contains("10.0.2.11/24") && own.contains("fd00:2::11/64"), "{own}");

            drop(wish);
            tokio::time::timeout(Duration::from_secs(5), keeper).await.expect("ends with its owner").unwrap();
            let mut told = Vec::new();
            while let Some(note) = noted.recv().await {
                match note {
                    Note::Announced { vip, there } => told.push((vip.to_string(), there)),
                    other => panic!("{other:?}"),
                }
            }
            let expected = [
                ("10.0.2.50/32", true),
                ("fd00:2::50/128", true),
                ("fd00:2::50/128", false),
                ("10.0.2.50/32", false),
            ];
            assert_eq!(told, expected.map(|(vip, there)| (vip.to_owned(), there)));
        });
    });
}
