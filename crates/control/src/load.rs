//! How busy backends are, in one number each.
//!
//! Rule of this module: pure. A load is what fills a backend most: flows over what it is meant to carry, or what its host says. The host's figures
//! can raise it and never lower it: what the balancer itself sees is not talked away.

use worker::view::loads::{FULL_PPM, LOAD_MAX_PPM, Load};

/// What a backend's agent says of it. Absent: not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Reported {
    /// Busy CPU time of its host, thousandths.
    pub(crate) cpu_permille: Option<u16>,
    /// Established connections to the service, those of all machines.
    pub(crate) connections: Option<u32>,
    /// What the backend says of itself, thousandths.
    pub(crate) custom_permille: Option<u16>,
}

/// What is known of a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct BackendLoad {
    /// Live flows, of all machines as far as this one can tell.
    pub(crate) flows: u64,
    /// Flows that it is meant to carry for each unit of weight, 1 to 16,777,216.
    pub(crate) capacity: u32,
    /// Its weight, 0 to 65,535; 0 counts as 1.
    pub(crate) weight: u32,
    /// What its agent says.
    pub(crate) reported: Option<Reported>,
    /// How far it has come in its slow start, millionths; `None`: it joins not.
    pub(crate) progress_ppm: Option<u32>,
}

impl BackendLoad {
    /// Flows that it is meant to carry.
    fn carries(&self) -> u64 {
        u64::from(self.capacity.max(1)) * u64::from(self.weight.max(1))
    }

    /// Load by what is seen and said, millionths.
    pub(crate) fn own_ppm(&self) -> u32 {
        let carries = self.carries();
        let share = |flows: u64| {
            u64::try_from(u128::from(flows) * 1_000_000 / u128::from(carries)).unwrap_or(u64::MAX)
        };
        let permille = |of: Option<u16>| of.map_or(0, |of| u64::from(of) * 1000);
        let said = self.reported.unwrap_or_default();
        let most = share(self.flows)
            .max(permille(said.cpu_permille))
            .max(permille(said.custom_permille))
            .max(said.connections.map_or(0, |connections| share(connections.into())));
        u32::try_from(most).unwrap_or(u32::MAX).min(LOAD_MAX_PPM)
    }
}

/// Those that are to have so many flows soon (`left`) seem to carry so many fewer than the least busy of the others, and no more than they do
/// carry: so they get these and no more before new figures come, however many new flows there are. O(backends).
pub(crate) fn make_room(of: &mut [BackendLoad], left: &[Option<u64>]) {
    let others = of.iter().zip(left).filter(|(_, left)| left.is_none()).map(|(known, _)| known);
    // Flows over what is carried, as fractions.
    let (flows, carries) = others.fold((u64::MAX, 1), |(flows, carries), known| {
        let is_less =
            u128::from(known.flows) * u128::from(carries) < u128::from(flows) * u128::from(known.carries());
        if is_less { (known.flows, known.carries()) } else { (flows, carries) }
    });
    for (known, left) in of.iter_mut().zip(left) {
        let Some(left) = left else { continue };
        let least = u128::from(flows) * u128::from(known.carries()) / u128::from(carries);
        let least = u64::try_from(least).unwrap_or(u64::MAX);
        known.flows = known.flows.min(least.saturating_sub(*left));
    }
}

/// The loads of all backends of a service that take new flows, in the same order.
///
/// One that joins seems to carry at first what the others do on average, and ever less until its slow start is over: so the lack of
/// flows does not draw them all. For want of flows alone it never seems full.
pub(crate) fn loads(of: &[BackendLoad]) -> Vec<Load> {
    let own: Vec<u64> = of.iter().map(|known| known.own_ppm().into()).collect();
    let sum: u64 = own.iter().sum();
    let others = own.len().saturating_sub(1) as u64;
    let loads = of.iter().zip(&own).map(|(known, &own)| {
        let floor = known.progress_ppm.map_or(0, |progress| {
            let mean = (sum - own).checked_div(others).unwrap_or(0);
            let left = 1_000_000 - u64::from(progress.min(1_000_000));
            (mean * left / 1_000_000).min(u64::from(FULL_PPM) - 1)
        });
        let ppm = u32::try_from(own.max(floor)).unwrap_or(u32::MAX);
        Load { ppm, joining: known.progress_ppm.is_some() }
    });
    loads.collect()
}

/// Whether a backend carries at least what the others of its service do on average.
pub(crate) fn has_caught_up(of: &[BackendLoad], at: usize) -> bool {
    let own = |known: &BackendLoad| u64::from(known.own_ppm());
    let others = of.iter().enumerate().filter(|(other, _)| *other != at);
    let (sum, count) = others.fold((0, 0_u64), |(sum, count), (_, known)| (sum + own(known), count + 1));
    of.get(at).is_none_or(|known| own(known) * count >= sum)
}

#[cfg(test)]
mod tests {
    use super::{BackendLoad, Reported, has_caught_up, loads, make_room};
    use proptest::prelude::{any, prop, prop_assert, proptest};
    use worker::view::loads::{LOAD_MAX_PPM, Load};

    const IDLE: BackendLoad =
        BackendLoad { flows: 0, capacity: 1000, weight: 1, reported: None, progress_ppm: None };

    #[test]
    fn who_carries_what_the_others_do_on_average_has_caught_up() {
        let carries = |flows| BackendLoad { flows, capacity: 1000, weight: 1, ..BackendLoad::default() };
        let all = [carries(10), carries(30), carries(20)];
        assert_eq!([0, 1, 2].map(|at| has_caught_up(&all, at)), [false, true, true]);
        assert!(has_caught_up(&[carries(0)], 0), "there are no others");
    }

    #[test]
    fn one_that_is_tried_gets_its_flows_and_no_more() {
        let carries = |flows, weight| BackendLoad { flows, weight, ..IDLE };
        let made = |mut of: [BackendLoad; 3], left| {
            make_room(&mut of, left);
            of.map(|known| known.flows)
        };
        let busy = [carries(190, 1), carries(185, 1), carries(200, 1)];
        assert_eq!(made(busy, &[None, None, None]), [190, 185, 200]);
        assert_eq!(made(busy, &[None, None, Some(6)]), [190, 185, 179]);
        assert_eq!(made(busy, &[None, Some(6), Some(1)]), [190, 184, 189]);
        assert_eq!(made([carries(190, 1), carries(170, 1), carries(200, 1)], &[None, Some(6), None])[1], 170);
        assert_eq!(made([carries(4, 1), carries(3, 1), carries(9, 1)], &[None, None, Some(6)])[2], 0);
        assert_eq!(made([carries(400, 4), carries(500, 4), carries(300, 2)], &[None, None, Some(6)])[2], 194);
        assert_eq!(made(busy, &[Some(6), Some(6), Some(6)]), [190, 185, 200], "nobody to compare with");
    }

    #[test]
    fn what_fills_a_backend_most_counts() {
        let own = |known: BackendLoad| known.own_ppm();
        assert_eq!(own(IDLE), 0);
        assert_eq!(own(BackendLoad { flows: 250, ..IDLE }), 250_000);
        assert_eq!(own(BackendLoad { flows: 250, weight: 5, ..IDLE }), 50_000);
        assert_eq!(own(BackendLoad { flows: 250, weight: 0, ..IDLE }), 250_000, "a weight that is no weight");
        let said = Reported { cpu_permille: Some(900), connections: Some(100), custom_permille: None };
        assert_eq!(own(BackendLoad { flows: 250, reported: Some(said), ..IDLE }), 900_000);
        let said = Reported { cpu_permille: Some(10), connections: Some(700), custom_permille: Some(20) };
        assert_eq!(own(BackendLoad { flows: 250, reported: Some(said), ..IDLE }), 700_000);
        let said = Reported { cpu_permille: Some(0), connections: Some(0), custom_permille: Some(0) };
        assert_eq!(own(BackendLoad { flows: 250, reported: Some(said), ..IDLE }), 250_000, "not talked away");
        assert_eq!(own(BackendLoad { flows: u64::MAX, capacity: 1, ..IDLE }), LOAD_MAX_PPM);
    }

    #[test]
    fn one_that_joins_seems_as_busy_as_the_others_and_ever_less() {
        let busy = BackendLoad { flows: 400, ..IDLE };
        for (progress, ppm) in [(0, 400_000), (500_000, 200_000), (999_999, 0), (1_000_000, 0)] {
            let joining = BackendLoad { progress_ppm: Some(progress), ..IDLE };
            let made = loads(&[busy, busy, joining]);
            assert_eq!(made[2], Load { ppm, joining: true }, "{progress}");
            assert_eq!(made[0], Load { ppm: 400_000, joining: false });
        }
        let alone = BackendLoad { progress_ppm: Some(0), ..IDLE };
        assert_eq!(loads(&[alone]), [Load { ppm: 0, joining: true }]);
        assert_eq!(loads(&[]), []);
        let full = BackendLoad { flows: 2000, ..IDLE };
        assert_eq!(loads(&[full, alone])[1].ppm, 999_999, "it is not full for want of flows");
        assert_eq!(loads(&[full, BackendLoad { progress_ppm: Some(0), ..full }])[1].ppm, 2_000_000);
    }

    proptest! {
        #[test]
        fn no_figures_break_it(
            of in prop::collection::vec(
                (any::<u64>(), any::<u32>(), any::<u32>(), any::<Option<u16>>(), any::<Option<u32>>(), any::<Option<u32>>()),
                0..20,
            ),
        ) {
            let known: Vec<BackendLoad> = of
                .into_iter()
                .map(|(flows, capacity, weight, cpu_permille, connections, progress_ppm)| {
                    let reported = Some(Reported { cpu_permille, connections, custom_permille: None });
                    BackendLoad { flows, capacity, weight, reported, progress_ppm }
                })
                .collect();
            for (load, known) in loads(&known).iter().zip(&known) {
                prop_assert!(load.ppm >= known.own_ppm() && load.ppm <= LOAD_MAX_PPM);
            }
        }
    }
}
