//! The keys of a service that say who chooses the backend of a new flow, and by what.

use super::read::{Read, Reader, Scope};
use crate::config::{Hash, Join, Overload, Policy, Protocol, Select, Tracking, WeightBy};
use crate::raw::{Cell, Service};
use toml::Spanned;

/// Smallest and largest number of flows that a backend is meant to carry.
pub(super) const CAPACITY: (i64, i64) = (1, 16_777_216);
const CAPACITY_DEFAULT: u32 = 10_000;
const SLOW_START_MS: (i64, i64) = (1000, 3_600_000);
const SLOW_START_MS_DEFAULT: u32 = 30_000;
const CHURN_PERCENT_DEFAULT: u8 = 5;

/// What was read.
pub(super) struct Balance {
    pub(super) policy: Policy,
    pub(super) weight_by: WeightBy,
    pub(super) select: Select,
    pub(super) join: Join,
    pub(super) slow_start_ms: u32,
    pub(super) capacity: u32,
    pub(super) overload: Overload,
    pub(super) churn_percent: u8,
}

/// Its cells.
pub(super) struct Cells {
    policy: Cell,
    weight: Cell,
    select: Cell,
    join: Cell,
    slow_start_ms: Cell,
    capacity: Cell,
    overload: Cell,
    churn_percent: Cell,
}

impl Cells {
    /// Takes them out of a service.
    pub(super) fn of(raw: &mut Service) -> Cells {
        Cells {
            policy: raw.policy.take(),
            weight: raw.weight.take(),
            select: raw.select.take(),
            join: raw.join.take(),
            slow_start_ms: raw.slow_start_ms.take(),
            capacity: raw.capacity.take(),
            overload: raw.overload.take(),
            churn_percent: raw.churn_percent.take(),
        }
    }
}

/// What of the rest of the service matters here.
pub(super) struct Rest {
    pub(super) hash: Hash,
    pub(super) tracking: Tracking,
    pub(super) protocol: Protocol,
    /// Some backend names a capacity of its own.
    pub(super) has_capacities: bool,
}

pub(super) fn balance(r: &mut Reader<'_, '_>, scope: &Scope, cells: Cells, rest: &Rest) -> Balance {
    let spans = Spans {
        select: span(&cells.select),
        overload: span(&cells.overload),
        slow_start_ms: span(&cells.slow_start_ms),
        churn_percent: span(&cells.churn_percent),
        capacity: span(&cells.capacity),
    };
    let policies = [("maglev", Policy::Maglev), ("least-load", Policy::LeastLoad)];
    let policy = r.choice(scope, "policy", cells.policy, &policies);
    let weights = [("static", WeightBy::Static), ("load", WeightBy::Load)];
    let weight_by = r.choice(scope, "weight", cells.weight, &weights);
    let select = r.choice(scope, "select", cells.select, &[("min", Select::Min), ("p2c", Select::P2c)]);
    let join = r.choice(scope, "join", cells.join, &[("head", Join::Head), ("slow-start", Join::SlowStart)]);
    let overloads = [("spread", Overload::Spread), ("reject", Overload::Reject)];
    let overload = r.choice(scope, "overload", cells.overload, &overloads);
    let help = format!(
        "milliseconds until a backend that came up has its whole share; leave it out for {SLOW_START_MS_DEFAULT}"
    );
    let slow_start_ms = r.number(scope, "slow_start_ms", cells.slow_start_ms, SLOW_START_MS, &help);
    let help =
        format!("flows that a backend of weight 1 is meant to carry; leave it out for {CAPACITY_DEFAULT}");
    let capacity = r.number(scope, "capacity", cells.capacity, CAPACITY, &help);
    let help =
        format!("percent of the slots that may move a minute; leave it out for {CHURN_PERCENT_DEFAULT}");
    let churn_percent = r.number(scope, "churn_percent", cells.churn_percent, (1, 100), &help);

    together(r, scope, &policy, &weight_by, rest);
    // A key that is misspelt or wrong was reported; what hangs on it is not known then.
    let known = |key: &str, is_bad: bool| !is_bad && !r.misspelt.contains(key);
    let (policy_ok, weight_ok, join_ok) = (
        known("policy", matches!(policy, Read::Bad)),
        known("weight", matches!(weight_by, Read::Bad)),
        known("join", matches!(join, Read::Bad)),
    );
    let balance = Balance {
        policy: policy.or(Policy::Maglev),
        weight_by: weight_by.or(WeightBy::Static),
        select: select.or(Select::Min),
        join: join.or(Join::Head),
        slow_start_ms: slow_start_ms.or(SLOW_START_MS_DEFAULT),
        capacity: capacity.or(CAPACITY_DEFAULT),
        overload: overload.or(Overload::Spread),
        churn_percent: churn_percent.or(CHURN_PERCENT_DEFAULT),
    };
    let is_least_load = balance.policy == Policy::LeastLoad;
    let follows_load = balance.weight_by == WeightBy::Load;
    let needs = [
        ("select", spans.select, !policy_ok || is_least_load, "policy = \"least-load\""),
        ("overload", spans.overload, !policy_ok || is_least_load, "policy = \"least-load\""),
        (
            "slow_start_ms",
            spans.slow_start_ms,
            !join_ok || balance.join == Join::SlowStart,
            "join = \"slow-start\"",
        ),
        ("churn_percent", spans.churn_percent, !weight_ok || follows_load, "weight = \"load\""),
    ];
    for (key, span, ok, wanted) in needs {
        if let (Some(span), false) = (span, ok) {
            let message = format!("{}: `{key}` belongs to {wanted}", scope.place);
            r.problems.error(span, message, format!("write {wanted}, or remove `{key}`"));
        }
    }
    let unused = policy_ok && weight_ok && !is_least_load && !follows_load;
    if let (true, Some(span)) =
        (unused, spans.capacity.or_else(|| rest.has_capacities.then(|| scope.span.clone())))
    {
        let message =
            format!("{}: `capacity` has no effect: nothing goes by the backends' load", scope.place);
        let help = "write policy = \"least-load\" or weight = \"load\", or remove it";
        r.problems.warning(span, message, help);
    }
    balance
}

/// Where keys that hang on others are written.
struct Spans {
    select: Option<super::Span>,
    overload: Option<super::Span>,
    slow_start_ms: Option<super::Span>,
    churn_percent: Option<super::Span>,
    capacity: Option<super::Span>,
}

fn span(cell: &Cell) -> Option<super::Span> {
    cell.as_ref().map(Spanned::span)
}

/// Policies and what they cannot go together with.
fn together(
    r: &mut Reader<'_, '_>,
    scope: &Scope,
    policy: &Read<Policy>,
    weight_by: &Read<WeightBy>,
    rest: &Rest,
) {
    let place = &scope.place;
    if let Read::Given(Policy::LeastLoad, span) = policy {
        if rest.tracking == Tracking::Exceptions && rest.protocol == Protocol::Tcp {
            let message = format!(
                "{place}: `policy = \"least-load\"` with `state = \"exceptions\"`: no table knows where its flows are"
            );
            r.problems.error(span.clone(), message, "write state = \"all\", or policy = \"maglev\"");
        }
        if rest.hash == Hash::Source {
            let message = format!(
                "{place}: `policy = \"least-load\"` with `hash = \"source\"`: the load decides, not the source"
            );
            r.problems.error(span.clone(), message, "remove hash, or write policy = \"maglev\"");
        }
        if let Read::Given(WeightBy::Load, span) = weight_by {
            let message = format!(
                "{place}: `weight = \"load\"` with `policy = \"least-load\"`, which goes by the load anyway"
            );
            r.problems.error(span.clone(), message, "remove weight, or write policy = \"maglev\"");
        }
    }
    if let Read::Given(WeightBy::Load, span) = weight_by
        && rest.tracking == Tracking::Exceptions
        && rest.protocol == Protocol::Tcp
    {
        let message = format!(
            "{place}: `weight = \"load\"` with `state = \"exceptions\"`: slots would move all the time, and their flows be tracked"
        );
        r.problems.error(span.clone(), message, "write state = \"all\", or weight = \"static\"");
    }
}
