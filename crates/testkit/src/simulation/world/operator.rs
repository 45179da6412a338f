//! What operators do: services change, backends are drained.

use super::{World, WorldEvent};
use crate::simulation::checker::Property;
use crate::simulation::scenario::ScenarioShape;
use crate::simulation::services::{Standing, service_name};

/// An operator looks again after this time whether what he wants was asked for.
const LOOK_US: u64 = 150_000;

impl World<'_> {
    pub(super) fn change(&mut self) {
        if !self.active() {
            return;
        }
        let service = self.random.below(self.services.services.len() as u64) as usize;
        let is_upheaval = self.scenario.shape == ScenarioShape::Upheaval;
        let what = if is_upheaval {
            // To another backend; and then back, or on to a third.
            let is_away = !self.services.that(service, |of| of.standing == Standing::Drained).is_empty();
            if is_away && self.random.chance(500) { 3 } else { 1 }
        } else {
            self.random.below(4)
        };
        let (fewest, most) = match self.scenario.backends {
            0 => (2, 7),
            backends => (backends - 20, backends + 20),
        };
        let now = self.now;
        let there = self.services.that(service, |of| of.standing != Standing::Removed).len();
        // Also for those that register.
        let has_room = there + 4 < self.scenario.slots as usize;
        let wanted = self.services.wanted(service);
        let text = match what {
            0 if wanted.len() < most && has_room => {
                format!("backend {} comes", self.services.add(service, false))
            }
            // Its flows live on.
            1 if wanted.len() > fewest => {
                let backend = self.random.pick(&wanted).expect("some");
                self.services.stands(backend, Standing::Drained, now);
                format!("backend {backend} is drained")
            }
            // With its flows.
            2 if wanted.len() > fewest => {
                let backend = self.random.pick(&wanted).expect("some");
                self.services.stands(backend, Standing::Removed, now);
                format!("backend {backend} is removed")
            }
            // One that was drained or removed returns.
            _ => {
                let back = self.services.that(service, |of| {
                    let is_away = match of.standing {
                        Standing::Wanted => false,
                        Standing::Drained => true,
                        Standing::Removed => !is_upheaval,
                    };
                    is_away && !of.registers
                });
                match self.random.pick(&back).filter(|_| wanted.len() < most && has_room) {
                    Some(backend) => {
                        self.services.stands(backend, Standing::Wanted, now);
                        format!("backend {backend} returns")
                    }
                    None => "nothing changes".into(),
                }
            }
        };
        self.say(|| text);
        self.want();
        self.sometime(self.scenario.change_us, WorldEvent::Change);
    }

    /// Operators want something else.
    pub(super) fn want(&mut self) {
        if !std::mem::replace(&mut self.operates, true) {
            self.after(1, WorldEvent::Operator);
        }
    }

    /// An operator asks any machine for what he wants, until the store shows it.
    pub(super) fn operate(&mut self) {
        let wanted = self.services.asked(self.scenario);
        if self.now >= self.store_away_until && self.store.asked().as_ref() == Some(&wanted) {
            self.operates = false;
            if let Some(reason) = self.agreed.refused.clone() {
                self.fail(Property::Served, format!("a change was refused: {reason}"));
            }
            return;
        }
        let machine = self.random.below(self.machines.len() as u64) as usize;
        let of = &mut self.machines[machine];
        if of.alive {
            let at = of.moment(self.now);
            match of.control.apply(&wanted.0, &wanted.1, at) {
                Ok(()) => self.say(|| format!("machine {machine} is asked for other services")),
                Err(reason) => self.say(|| format!("machine {machine} cannot apply: {reason}")),
            }
            self.tend(machine);
        }
        let us = LOOK_US + 2 * self.scenario.control_delay_us.1;
        self.after(us, WorldEvent::Operator);
    }

    /// The checks of a backend fail, at all machines or at some, although it serves.
    pub(super) fn mask(&mut self) {
        if !self.active() {
            return;
        }
        let service = self.random.below(self.services.services.len() as u64) as usize;
        let backends = self.services.that(service, |of| of.standing == Standing::Wanted);
        if let Some(backend) = self.random.pick(&backends).filter(|of| !self.down.contains_key(of)) {
            let all = self.random.chance(700);
            let at: Vec<bool> = (0..self.machines.len()).map(|_| all || self.random.chance(500)).collect();
            self.say(|| format!("checks of {backend} of {} fail at {at:?}", service_name(service)));
            self.down.insert(backend, at);
            let us = self.random.between(300_000, 2_000_000);
            self.after(us, WorldEvent::Unmask(backend));
        }
        self.sometime(self.scenario.mask_us, WorldEvent::Mask);
    }

    pub(super) fn unmask(&mut self, backend: u32) {
        self.say(|| format!("checks of {backend} pass again"));
        self.down.remove(&backend);
    }
}
