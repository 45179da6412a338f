//! What a change would cost, before it is asked for: the flow tables are read without locks, a piece at a time, on the thread that
//! answers the API.

use super::membership::Membership;
use super::tables::AgreedRecipe;
use crate::controller::Controller;
use crate::plan::Forecast;
use crate::slots::slot_of;
use flow::Reader;
use model::config::{AdminState, Config};
use statesync::Owners;
use statesync::plan::{Answers, SlotSet};
use std::collections::HashMap;
use std::sync::Arc;
use wire::{Addr, BackendId, FlowKey, ServiceId, Tick};
use worker::View;

/// Buckets looked at before others get their turn.
const PIECE: usize = 4096;
/// Bytes of a statement and of its acknowledgement, of narrow and of wide flows: docs/state-sync.md.
const STATEMENT_BYTES: (u64, u64) = (1 + 8 + 9 + 4 + 1 + 8, 1 + 8 + 27 + 4 + 1 + 8);
const ACKNOWLEDGEMENT_BYTES: u64 = 1 + 8 + 1;
/// A datagram's header, and how many notes share it about.
const HEADER_BYTES: (u64, u64) = (52, 40);

/// A service whose table changes.
#[derive(Debug)]
struct Changed {
    /// Its place in the view.
    at: usize,
    vip: (Addr, u16, u8),
    slots: SlotSet,
}

/// A service that stays the same one, and the table that it would have.
#[derive(Debug)]
struct Stays {
    id: ServiceId,
    /// Its place in the view.
    at: usize,
    vip: (Addr, u16, u8),
    was: Answers,
    will: AgreedRecipe,
}

impl Stays {
    /// The slots whose backend would be another, if there are any. Makes the table.
    fn changed(self, key: &[u8; 16]) -> Option<(ServiceId, Changed)> {
        // It passed the checks, so it can be made.
        let table = self.will.make(key).ok()?;
        let pairs = (0_u32..).zip(self.was.iter().zip(table.answers.iter()));
        let slots: SlotSet = pairs.filter(|(_, (was, will))| was != will).map(|(slot, _)| slot).collect();
        (!slots.is_empty()).then_some((self.id, Changed { at: self.at, vip: self.vip, slots }))
    }
}

/// Counts to be made, detached from the controller.
pub(crate) struct FlowCensus {
    stay: Vec<Stays>,
    key: [u8; 16],
    flows: CountedFlows,
}

impl FlowCensus {
    /// Makes the tables on another thread, and looks through the flow tables.
    pub(crate) async fn make(self) -> Forecast {
        let FlowCensus { stay, key, flows } = self;
        let changed = move || stay.into_iter().filter_map(|of| of.changed(&key)).collect();
        // It can fail only when the runtime ends.
        let changed = tokio::task::spawn_blocking(changed).await.unwrap_or_default();
        flows.count(&changed).await
    }
}

/// The flows that are counted.
struct CountedFlows {
    tables: Vec<Reader>,
    view: Arc<View>,
    owners: Owners,
    own: statesync::Member,
    now: Tick,
}

impl CountedFlows {
    async fn count(&self, changed: &HashMap<ServiceId, Changed>) -> Forecast {
        let mut forecast = Forecast {
            slots: changed.values().map(|changed| changed.slots.len() as u64).sum(),
            ..Forecast::default()
        };
        for table in &self.tables {
            let mut from = 0;
            while from < table.buckets() && !changed.is_empty() {
                table.dump(from, PIECE, self.now, |key, _| self.add(&key, changed, &mut forecast));
                from += PIECE;
                tokio::task::yield_now().await;
            }
        }
        let headers = 2 * forecast.statements.div_ceil(HEADER_BYTES.1) * HEADER_BYTES.0;
        forecast.bytes += headers;
        forecast
    }

    fn add(&self, key: &FlowKey, changed: &HashMap<ServiceId, Changed>, forecast: &mut Forecast) {
        let Some(changed) = changed.get(&key.service()) else { return };
        let Some(service) = self.view.service.get(changed.at) else { return };
        let slot = slot_of(&self.view.cluster_key, service, changed.vip, key);
        if !changed.slots.contains(slot) {
            return;
        }
        forecast.flows += 1;
        let told = self.owners.told(service.id, slot);
        let others = told.iter().filter(|machine| **machine != self.own.machine).count() as u64;
        let statement = match key {
            FlowKey::Narrow(_) => STATEMENT_BYTES.0,
            FlowKey::Wide(_) => STATEMENT_BYTES.1,
        };
        forecast.statements += others;
        forecast.bytes += others * (statement + ACKNOWLEDGEMENT_BYTES);
    }
}

/// What applying this configuration would cost; `None` for a machine alone, and for one that has not joined.
pub(crate) fn forecast(controller: &Controller, new: &Config) -> Option<FlowCensus> {
    let part = controller.cluster.as_ref()?;
    let plan = part.plan()?;
    let flows = CountedFlows {
        tables: controller.workers.iter().map(|worker| worker.flows.clone()).collect(),
        view: Arc::clone(&controller.publication.view),
        owners: plan.owners(),
        own: part.participant.member()?,
        now: controller.now.tick,
    };
    Some(FlowCensus {
        stay: stay(part, new, &controller.publication.view),
        key: new.machine.cluster_key,
        flows,
    })
}

/// Services that stay the same ones.
fn stay(part: &Membership, new: &Config, view: &View) -> Vec<Stays> {
    let mut all = Vec::new();
    let Some(document) = part.document() else { return all };
    for (identity, planned) in document.services.iter().zip(&document.plan.services) {
        let service = new.services.iter().find(|service| identity.is(service));
        let at = view.service.iter().position(|of| of.id == identity.id);
        let (Some(service), Some(at)) = (service, at) else { continue };
        let members = service.backends.iter().enumerate().filter_map(|(number, backend)| {
            let known = document.backends.iter().find(|known| known.is(identity.id, backend));
            let drained = document.drains.contains(&(service.name.clone(), backend.name.clone()));
            let masked =
                known.is_some_and(|known| document.plan.masks.iter().any(|of| of.backend == known.id));
            if backend.state != AdminState::Up || backend.weight == 0 || drained || masked {
                return None;
            }
            // New ones get ids that nobody has.
            let fresh = BackendId(u32::MAX - u32::try_from(number).unwrap_or(0));
            Some((backend.name.clone(), backend.weight, known.map_or(fresh, |known| known.id)))
        });
        all.push(Stays {
            id: identity.id,
            at,
            vip: (service.vip.addr.into(), service.port, service.protocol.number()),
            was: Arc::clone(&planned.cur),
            will: AgreedRecipe::new(members, identity.size),
        });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::{Changed, CountedFlows, Stays};
    use crate::slots::slot_of;
    use flow::{Idle, Memory, State, Table};
    use statesync::plan::SlotSet;
    use statesync::{MachineId, Member, Members, Owners};
    use std::collections::HashMap;
    use std::sync::Arc;
    use steer::{Maglev, Weighted};
    use wire::{Addr, BackendId, FlowKey, ServiceId, Tick};
    use worker::View;
    use worker::view::{HashOn, OnDown, OnEmpty, ServiceView};

    fn member(machine: u8) -> Member {
        Member { machine: MachineId(machine), incarnation: 1 }
    }

    #[test]
    fn flows_of_slots_that_change_are_counted() {
        let idle = Idle { tcp_established_us: 10, tcp_closing_us: 10, syn_us: 10, udp_us: 10 };
        let mut table = Table::new(Memory::heap(4096), Memory::heap(1), 7, idle, 100).expect("a table");
        let key = |client: u64, service: u64| FlowKey::Narrow(client << 32 | 4000 << 16 | service);
        for client in 0..1000 {
            table.insert(&key(client, 1), BackendId(0), State::TcpNew, Tick(5));
            table.insert(&key(client, 2), BackendId(0), State::TcpNew, Tick(5));
        }
        let one = [Weighted { name: "a", weight: 1 }];
        let service = |id| ServiceView {
            id: ServiceId(id),
            wide: false,
            hash: HashOn::Tuple,
            maglev: Arc::new(Maglev::build(&one, 251, &[0; 16]).expect("a table")),
            members: vec![BackendId(0)],
            on_empty: OnEmpty::Reset,
            on_down: OnDown::Keep,
            memory: None,
            policy: worker::view::Policy::Maglev,
        };
        let view = Arc::new(View { service: vec![service(2), service(1)], ..View::default() });
        let vip = (Addr::V4(9), 80, 6);
        let slots: SlotSet = (0..100).collect();
        let expected = (0..1000)
            .filter(|&client| slot_of(&[0; 16], &view.service[1], vip, &key(client, 1)) < 100)
            .count() as u64;
        assert!(expected > 300, "{expected}");
        for (machines, least, most) in [(1, 0, 0), (2, expected, expected), (5, expected + 1, 2 * expected)] {
            let changed = HashMap::from([(ServiceId(1), Changed { at: 1, vip, slots: slots.clone() })]);
            let flows = CountedFlows {
                tables: vec![table.reader()],
                view: Arc::clone(&view),
                owners: Owners::settled(Members::new((0..machines).map(member))),
                own: member(0),
                now: Tick(6),
            };
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let forecast = runtime.block_on(flows.count(&changed));
            assert_eq!((forecast.slots, forecast.flows), (100, expected));
            assert!((least..=most).contains(&forecast.statements), "{forecast:?}");
            let notes = forecast.statements * (31 + 10);
            assert!((notes..=notes + notes / 10 + 104).contains(&forecast.bytes), "{forecast:?}");
        }
    }

    #[test]
    fn slots_that_go_to_another_backend_are_told_and_a_table_that_stays_is_not() {
        let recipe = |names: &[(&str, u32)]| {
            super::AgreedRecipe::new(
                names.iter().map(|(name, id)| ((*name).to_owned(), 1, BackendId(*id))),
                251,
            )
        };
        let was = recipe(&[("a", 0), ("b", 1)]).make(&[7; 16]).expect("a table").answers.clone();
        let changed = |will| {
            let stays =
                Stays { id: ServiceId(1), at: 0, vip: (Addr::V4(9), 80, 6), was: Arc::clone(&was), will };
            stays.changed(&[7; 16])
        };
        assert!(changed(recipe(&[("a", 0), ("b", 1)])).is_none());
        // The same name, and another backend.
        let (_, of) = changed(recipe(&[("a", 0), ("b", 2)])).expect("it changes");
        let of_b = was.iter().filter(|backend| **backend == Some(BackendId(1))).count() as u64;
        assert_eq!(of.slots.len() as u64, of_b);
    }
}
