//! Which number a machine that starts takes, and as which incarnation.
//!
//! A number that anybody uses is taken by nobody else, and incarnations of a number never go back: peers refuse what comes from an
//! earlier one. Neither may depend on one key of the store alone, which may have lost its data.

use crate::members::{MACHINES_MAX, MachineId, Member};

/// What the store says of numbers.
#[derive(Clone, Debug, Default)]
pub struct Known<'a> {
    /// Who has a number, and the last incarnation; a name that cannot be read is none.
    pub registered: Vec<(Member, Option<&'a str>)>,
    /// Who lives.
    pub alive: Vec<(Member, &'a str)>,
    /// Members of the plan: peers send to them.
    pub planned: Vec<Member>,
    /// The last incarnations of numbers that were members once.
    pub former: Vec<Member>,
}

/// Why there is no number for it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NumberError {
    /// None is free.
    #[error("{MACHINES_MAX} machines have a number already")]
    Full,
    /// The number registered for this name is another machine's.
    #[error("machine number {number} is registered for {name:?} and used by {by:?}", number = .number.0)]
    Used {
        /// The number.
        number: MachineId,
        /// This machine.
        name: String,
        /// The one that lives under the number.
        by: String,
    },
}

/// The number and incarnation of the machine with this name. `clock_s` is Unix time: who comes later is a later incarnation, also where
/// nobody remembers the one before.
///
/// # Errors
/// See [`NumberError`].
pub fn choose(name: &str, clock_s: u32, known: &Known<'_>) -> Result<Member, NumberError> {
    let of_registered =
        known.registered.iter().filter(|(_, of)| *of == Some(name)).map(|(member, _)| *member);
    let of_alive = known.alive.iter().filter(|(_, of)| *of == name).map(|(member, _)| *member);
    let own =
        of_registered.max_by_key(|of| of.incarnation).or_else(|| of_alive.max_by_key(|of| of.incarnation));
    let machine = match own {
        Some(own) => {
            let other = known.alive.iter().find(|(of, by)| of.machine == own.machine && *by != name);
            if let Some((_, by)) = other {
                let (name, by) = (name.to_owned(), (*by).to_owned());
                return Err(NumberError::Used { number: own.machine, name, by });
            }
            own.machine
        }
        None => {
            let is_used = |machine: &MachineId| {
                let of = |member: &Member| member.machine == *machine;
                known.registered.iter().any(|(member, _)| of(member))
                    || known.alive.iter().any(|(member, _)| of(member))
                    || known.planned.iter().any(of)
            };
            let all = (0..=u8::MAX).map(MachineId).take(MACHINES_MAX);
            all.into_iter().find(|machine| !is_used(machine)).ok_or(NumberError::Full)?
        }
    };
    let registered = known.registered.iter().map(|(member, _)| member);
    let alive = known.alive.iter().map(|(member, _)| member);
    let named = registered.chain(alive).chain(&known.planned).chain(&known.former);
    let last = named.filter(|of| of.machine == machine).map(|of| of.incarnation).max();
    let after = last.map_or(1, |last| last.saturating_add(1));
    Ok(Member { machine, incarnation: clock_s.max(after) })
}

#[cfg(test)]
mod tests {
    use super::{Known, NumberError, choose};
    use crate::members::{MachineId, Member};
    use proptest::prelude::{prop, prop_assert, prop_assert_eq, prop_assume, proptest};

    fn member(machine: u8, incarnation: u32) -> Member {
        Member { machine: MachineId(machine), incarnation }
    }

    #[test]
    fn a_name_keeps_its_number_and_starts_later_than_ever_before() {
        let mut known = Known { registered: vec![(member(1, 7), Some("lb1"))], ..Known::default() };
        assert_eq!(choose("lb1", 100, &known), Ok(member(1, 100)));
        assert_eq!(choose("lb1", 3, &known), Ok(member(1, 8)), "a clock that is behind");
        known.planned = vec![member(1, 300)];
        assert_eq!(choose("lb1", 100, &known), Ok(member(1, 301)), "peers name a later one");
    }

    #[test]
    fn a_number_that_is_used_again_begins_after_its_former_user() {
        let known = Known { former: vec![member(0, 500)], ..Known::default() };
        assert_eq!(choose("new", 100, &known), Ok(member(0, 501)));
        assert_eq!(
            choose("new", 9_000, &Known::default()),
            Ok(member(0, 9_000)),
            "nobody remembers it: the clock does"
        );
    }

    #[test]
    fn numbers_of_the_plan_and_of_the_living_are_skipped_though_nobody_has_registered_them() {
        let known = Known {
            alive: vec![(member(1, 5), "lb1")],
            planned: vec![member(0, 5), member(1, 5)],
            registered: vec![(member(2, 5), None)],
            ..Known::default()
        };
        assert_eq!(choose("new", 10, &known), Ok(member(3, 10)));
        assert_eq!(choose("lb1", 10, &known), Ok(member(1, 10)), "as peers name it");
    }

    #[test]
    fn a_number_under_which_another_lives_is_refused() {
        let known = Known {
            registered: vec![(member(0, 9), Some("lb2"))],
            alive: vec![(member(0, 5), "lb0")],
            ..Known::default()
        };
        let error = choose("lb2", 10, &known).expect_err("it is lb0's");
        assert_eq!(
            error,
            NumberError::Used { number: MachineId(0), name: "lb2".to_owned(), by: "lb0".to_owned() }
        );
        let all = Known { planned: (0..64).map(|at| member(at, 1)).collect(), ..Known::default() };
        assert_eq!(choose("new", 10, &all), Err(NumberError::Full));
    }

    proptest! {
        #[test]
        fn no_number_is_given_twice_and_no_incarnation_goes_back(
            registered in prop::collection::vec((0_u8..6, 0_u32..50, 0_u8..8), 0..8),
            alive in prop::collection::vec((0_u8..6, 0_u32..50, 0_u8..8), 0..8),
            planned in prop::collection::vec((0_u8..6, 0_u32..50), 0..8),
            former in prop::collection::vec((0_u8..6, 0_u32..50), 0..8),
            name in 0_u8..8,
            clock_s in 0_u32..50,
        ) {
            let text = |name: &u8| format!("lb{name}");
            let names: Vec<String> = (0..8).map(|name| text(&name)).collect();
            let named = |of: &[(u8, u32, u8)]| -> Vec<(Member, usize)> {
                of.iter().map(|(machine, of, name)| (member(*machine, *of), usize::from(*name))).collect()
            };
            let (registered, alive) = (named(&registered), named(&alive));
            let known = Known {
                registered: registered.iter().map(|(of, name)| (*of, Some(names[*name].as_str()))).collect(),
                alive: alive.iter().map(|(of, name)| (*of, names[*name].as_str())).collect(),
                planned: planned.iter().map(|(machine, of)| member(*machine, *of)).collect(),
                former: former.iter().map(|(machine, of)| member(*machine, *of)).collect(),
            };
            let name = text(&name);
            let chosen = choose(&name, clock_s, &known);
            prop_assume!(chosen.is_ok());
            let chosen = chosen.expect("assumed");
            prop_assert!(chosen.incarnation >= clock_s.max(1));
            let others = known.alive.iter().filter(|(of, by)| of.machine == chosen.machine && *by != name);
            prop_assert_eq!(others.count(), 0);
            let all = known.registered.iter().map(|of| of.0).chain(known.alive.iter().map(|of| of.0));
            for of in all.chain(known.planned.iter().copied()).chain(known.former.iter().copied()) {
                prop_assert!(of.machine != chosen.machine || of.incarnation < chosen.incarnation);
            }
        }
    }
}
