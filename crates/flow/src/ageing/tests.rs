use super::*;
use proptest::prelude::*;
use wire::BackendId;

const SECOND: u64 = 1_000_000;

fn idle(us: u64) -> Idle {
    Idle { tcp_established_us: us, tcp_closing_us: us, syn_us: us, udp_us: us }
}

proptest! {
    #[test]
    fn expires_not_early_and_at_most_a_sixteenth_late(
        idle_us in Idle::MIN_US..=Idle::MAX_US, used in 0_u64..1 << 50, parts in 0_u64..=2_000,
    ) {
        let mut ageing = Ageing::new(&idle(idle_us));
        ageing.tick(Tick(used), Fill::default);
        let word = ageing.stamp(BackendId(7), State::Udp, Tick(used));
        // From 0 to twice the idle time.
        let elapsed = (u128::from(idle_us) * u128::from(parts) / 1000) as u64;
        let now = Tick(used + elapsed);
        let found = ageing.idle_us(word, now);
        if elapsed <= idle_us {
            prop_assert!(found.is_some(), "gone after {elapsed} of {idle_us}");
        }
        if elapsed > idle_us + idle_us / 16 {
            prop_assert_eq!(found, None, "still there after {} of {}", elapsed, idle_us);
        }
        if let Some(at_least) = found {
            prop_assert!(at_least <= elapsed && elapsed - at_least < idle_us / 32 + 1);
        }
        prop_assert_eq!(ageing.shared().idle_us(word, now), found);
        prop_assert_eq!(ageing.idle_us_since(word, Tick(used), now), found);
    }

    #[test]
    fn a_long_pause_does_not_rejuvenate(idle_us in Idle::MIN_US..=Idle::MAX_US, used in 0_u64..1 << 40, n in 2_u64..1 << 13) {
        let ageing = Ageing::new(&idle(idle_us));
        let word = ageing.stamp(BackendId(7), State::TcpNew, Tick(used));
        let now = Tick(used + idle_us * n);
        prop_assert_eq!(ageing.idle_us_since(word, Tick(used), now), None);
        let quantum = Timing::new(idle_us).quantum_us();
        let wrapped = Tick(used + 256 * quantum * n);
        prop_assert_eq!(ageing.idle_us_since(word, Tick(used + idle_us / 2), wrapped), None);
        // Which is why it must be told when the entry was last in order:
        prop_assert_eq!(ageing.idle_us(word, wrapped), Some(0));
    }

    #[test]
    fn a_reader_behind_the_writer_sees_a_fresh_entry(idle_us in Idle::MIN_US..=Idle::MAX_US, now in 1_u64 << 45..1 << 50) {
        let mut ageing = Ageing::new(&idle(idle_us));
        ageing.tick(Tick(now), Fill::default);
        let word = ageing.stamp(BackendId(7), State::TcpNew, Tick(now));
        let behind = Timing::new(idle_us).quantum_us() * 7;
        prop_assert_eq!(ageing.shared().idle_us(word, Tick(now - behind)), Some(0));
    }

    #[test]
    fn a_change_keeps_the_age(
        before in Idle::MIN_US..=Idle::MAX_US, after in Idle::MIN_US..=Idle::MAX_US, used in 1_u64 << 45..1 << 46,
        permille in 0_u64..=1000,
    ) {
        let mut ageing = Ageing::new(&idle(before));
        let word = ageing.stamp(BackendId(7), State::TcpClosing, Tick(used));
        ageing.change(&idle(after));
        let now = Tick(used + (u128::from(before) * u128::from(permille) / 1000) as u64);
        // Until it is converted, the former idle time holds.
        let at_least = ageing.idle_us(word, now).unwrap();
        match ageing.convert(word, at_least, now) {
            Conversion::Current => prop_assert!(false, "it is of the other set"),
            Conversion::Expired => prop_assert!(at_least >= after),
            Conversion::To(new) => {
                prop_assert!((new.backend(), new.state()) == (BackendId(7), State::TcpClosing));
                let now_at_least = ageing.idle_us(new, now).unwrap();
                prop_assert!(now_at_least <= at_least && at_least - now_at_least <= after / 32);
                prop_assert!(matches!(ageing.convert(new, now_at_least, now), Conversion::Current));
            }
        }
        prop_assert_eq!(ageing.idle_us(ageing.expired(word, now), now), None);
    }
}

/// Without a turn of the writer, whose last one was at any moment of the entry's life or after, until it is removed.
#[test]
fn a_reader_sees_no_expired_entry_however_long_the_writer_rests() {
    for idle_us in [SECOND, 30 * SECOND, 60 * SECOND, 3_600 * SECOND, Idle::MAX_US] {
        let quantum = Timing::new(idle_us).quantum_us();
        // 128 quanta, in which the sweep has not come by, after it was expired.
        for swept in (0..193).step_by(8) {
            let mut ageing = Ageing::new(&idle(idle_us));
            let word = ageing.stamp(BackendId(7), State::TcpNew, Tick(quantum));
            ageing.tick(Tick(quantum * (1 + swept)), Fill::default);
            for quanta in swept..4_000 {
                let now = Tick(quantum * (1 + quanta));
                let lives = quanta * quantum <= idle_us;
                let found = ageing.shared().idle_us(word, now);
                assert!(!lives || found.is_some(), "{quanta} after use, swept {swept} after use");
                assert!(quanta < 66 || found.is_none(), "{quanta} after use, swept {swept} after use");
            }
        }
    }
}

#[test]
fn quantum_is_between_a_64th_and_a_32nd() {
    for idle_us in [SECOND, 30 * SECOND, 60 * SECOND, 1800 * SECOND, Idle::MAX_US] {
        let timing = Timing::new(idle_us);
        assert!(timing.quantum_us() * 32 <= idle_us && timing.quantum_us() * 64 > idle_us);
        assert!(timing.limit <= 65);
        assert_eq!(Timing::unpack(timing.pack()), timing);
    }
}

#[test]
fn idle_times_are_clamped_and_by_state() {
    let idle =
        Idle { tcp_established_us: 0, tcp_closing_us: u64::MAX, syn_us: 3 * SECOND, udp_us: 4 * SECOND };
    assert_eq!(
        State::ALL.map(|state| idle.of(state)),
        [3 * SECOND, Idle::MIN_US, Idle::MAX_US, 4 * SECOND, 4 * SECOND, Idle::MIN_US, Idle::MIN_US]
    );
}
