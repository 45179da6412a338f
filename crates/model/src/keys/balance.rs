//! Of a service: who chooses the backend of a new flow, and by what.

use super::read::{ReadValue, Reader, Scope};
use super::service::{Hash, Join, Policy, Protocol, ServiceFound, Tracking, WeightBy};

/// Reports keys that do not go together, or have no effect.
pub(super) fn together(r: &mut Reader<'_, '_>, scope: &Scope, found: &ServiceFound, has_capacities: bool) {
    combinations(r, scope, found);
    // A key that is misspelt or wrong was reported; what hangs on it is not known then.
    let is_least_load = found.policy.get() == Some(&Policy::LeastLoad);
    let follows_load = found.weight_by.get() == Some(&WeightBy::Load);
    let (policy_ok, weight_ok) =
        (r.is_known("policy", &found.policy), r.is_known("weight", &found.weight_by));
    let by_policy = !policy_ok || is_least_load;
    let by_join = !r.is_known("join", &found.join) || found.join.get() == Some(&Join::SlowStart);
    let needs = [
        ("select", found.select.written(), by_policy, "policy = \"least-load\""),
        ("overload", found.overload.written(), by_policy, "policy = \"least-load\""),
        ("slow_start_ms", found.slow_start_ms.written(), by_join, "join = \"slow-start\""),
        ("churn_percent", found.churn_percent.written(), !weight_ok || follows_load, "weight = \"load\""),
    ];
    for (key, span, ok, wanted) in needs {
        if let (Some(span), false) = (span, ok) {
            let message = format!("{}: `{key}` belongs to {wanted}", scope.place);
            r.error(&span, message, format!("write {wanted}, or remove `{key}`"));
        }
    }
    let unused = policy_ok && weight_ok && !is_least_load && !follows_load;
    let capacity = found.capacity.written().or_else(|| has_capacities.then(|| scope.span.clone()));
    if let (true, Some(span)) = (unused, capacity) {
        let message =
            format!("{}: `capacity` has no effect: nothing goes by the backends' load", scope.place);
        let help = "write policy = \"least-load\" or weight = \"load\", or remove it";
        r.warning(&span, message, help);
    }
}

/// Policies and what they cannot go together with.
fn combinations(r: &mut Reader<'_, '_>, scope: &Scope, found: &ServiceFound) {
    let place = &scope.place;
    let (policy, weight_by) = (&found.policy, &found.weight_by);
    let is_stateless = found.state.or(Tracking::All) == Tracking::Exceptions
        && found.protocol.or(Protocol::Tcp) == Protocol::Tcp;
    if let ReadValue::Given(Policy::LeastLoad, span) = policy {
        if is_stateless {
            let message = format!(
                "{place}: `policy = \"least-load\"` with `state = \"exceptions\"`: \
                no table knows where its flows are"
            );
            r.error(span, message, "write state = \"all\", or policy = \"maglev\"");
        }
        if found.hash.or(Hash::Tuple) == Hash::Source {
            let message = format!(
                "{place}: `policy = \"least-load\"` with `hash = \"source\"`: \
                the load decides, not the source"
            );
            r.error(span, message, "remove hash, or write policy = \"maglev\"");
        }
        if let ReadValue::Given(WeightBy::Load, span) = weight_by {
            let message = format!(
                "{place}: `weight = \"load\"` with `policy = \"least-load\"`, which goes by the load anyway"
            );
            r.error(span, message, "remove weight, or write policy = \"maglev\"");
        }
    }
    if let ReadValue::Given(WeightBy::Load, span) = weight_by
        && is_stateless
    {
        let message = format!(
            "{place}: `weight = \"load\"` with `state = \"exceptions\"`: slots would move all the time, \
            and their flows be tracked"
        );
        r.error(span, message, "write state = \"all\", or weight = \"static\"");
    }
}
