//! Somebody listens between machines, and sends again what he has heard: also what the network has lost, to whoever it was for or to
//! the next one in his place, as often and as late as he likes.

use super::{World, WorldEvent};
use crate::simulation::checker::Property;
use statesync::MachineId;
use statesync::suspicion::{HEARTBEAT_US, SILENCE_US};

/// Where the source port is: by it he chooses which worker is given it.
const SOURCE_PORT: usize = 14 + 20;
/// How long a machine must have been dead, so that all have had the time to see it.
const NOTICED_US: u64 = SILENCE_US + 2 * HEARTBEAT_US;

impl World<'_> {
    pub(super) fn replay(&mut self) {
        let (low, high) = self.scenario.delay_us;
        for _ in 0..=self.listener.random.below(4) {
            let machines = &self.machines;
            let Some(mut heard) = self.listener.choose(|machine| !machines[machine].alive) else { break };
            let copies = 1 + self.listener.random.below(3);
            self.say(|| format!("what {} said to {} is said again, {copies} times", heard.from, heard.to));
            for _ in 0..copies {
                if self.listener.random.chance(500) {
                    let port = self.listener.random.next().to_be_bytes();
                    heard.frame[SOURCE_PORT..SOURCE_PORT + 2].copy_from_slice(&port[..2]);
                }
                let us = self.listener.random.between(low, high);
                self.checker.summary.replayed += 1;
                let frame = heard.frame.clone();
                self.after(us, WorldEvent::Arrive { machine: heard.to, frame, client: None });
            }
        }
        let mean = self.scenario.replay_us;
        let us = self.listener.random.between(mean / 2, mean * 3 / 2);
        self.after(us, WorldEvent::Replay);
    }

    /// A machine is about to return: who has seen it dead for long enough must suspect it, where nothing was lost that could be said
    /// for the first time later.
    pub(super) fn check_dead(&mut self, machine: usize) {
        let dead = self.machines[machine].member();
        let since = self.now.since_us(self.died[machine]);
        if !self.scenario.is_lossless() || since < NOTICED_US || !self.plan().members.contains(dead) {
            return;
        }
        let id = MachineId(u8::try_from(machine).expect("few machines"));
        for (index, of) in self.machines.iter().enumerate() {
            // Who joined meanwhile, or knows another plan, has begun to wait later.
            let has_waited = of.alive && of.is_ready() && self.died[index] < self.died[machine];
            let knows = of.control.plan().is_some_and(|plan| plan.members.contains(dead));
            if has_waited && knows && of.workers.iter().any(|worker| !worker.suspects().contains(id)) {
                let what = format!("machine {index} does not suspect {machine}, which died {since} us ago");
                return self.fail(Property::Dead, what);
            }
        }
    }
}
