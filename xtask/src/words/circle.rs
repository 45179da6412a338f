//! Files that use each other, each by way of the others: who wants to understand one must read all of them.

use std::collections::BTreeSet;

/// A largest set of things each of which leads to every other.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Component {
    /// In ascending order.
    pub(super) members: Vec<usize>,
    /// A shortest circle among them that more than two have part in, or one of two: each leads to the next,
    /// the last to the first.
    pub(super) circle: Vec<usize>,
}

/// The strongly connected components with at least two members, the largest first.
pub(super) fn components(count: usize, edges: &[(usize, usize)]) -> Vec<Component> {
    // A crate has some fifty files: what each leads to is found one by one.
    let reached: Vec<BTreeSet<usize>> = (0..count).map(|from| reached(from, edges)).collect();
    let leads = |from: usize, to: usize| reached.get(from).is_some_and(|reached| reached.contains(&to));
    let mut found = Vec::new();
    for first in 0..count {
        let members: Vec<usize> = (0..count)
            .filter(|other| *other == first || (leads(first, *other) && leads(*other, first)))
            .collect();
        if members.len() > 1 && members.first() == Some(&first) {
            let circle = circle(&members, edges);
            found.push(Component { members, circle });
        }
    }
    found.sort_by_key(|component| std::cmp::Reverse(component.members.len()));
    found
}

fn next(from: usize, edges: &[(usize, usize)]) -> impl Iterator<Item = usize> {
    edges.iter().filter(move |edge| edge.0 == from).map(|edge| edge.1)
}

fn reached(from: usize, edges: &[(usize, usize)]) -> BTreeSet<usize> {
    let mut reached = BTreeSet::new();
    let mut todo = vec![from];
    while let Some(at) = todo.pop() {
        todo.extend(next(at, edges).filter(|to| reached.insert(*to)));
    }
    reached
}

/// A circle as [`Component::circle`] describes it.
fn circle(members: &[usize], edges: &[(usize, usize)]) -> Vec<usize> {
    let edges: Vec<(usize, usize)> = edges
        .iter()
        .copied()
        .filter(|(from, to)| from != to && members.contains(from) && members.contains(to))
        .collect();
    let mut best: Vec<usize> = Vec::new();
    for &(from, to) in &edges {
        // The way back, without the step there and back again; where there is no such way, that step.
        let others: Vec<(usize, usize)> = edges.iter().copied().filter(|edge| *edge != (to, from)).collect();
        let found = way(to, from, &others).unwrap_or_else(|| vec![to, from]);
        let is_better = (found.len() > 2, std::cmp::Reverse(found.len()))
            > (best.len() > 2, std::cmp::Reverse(best.len()));
        if best.is_empty() || is_better {
            best = found;
        }
    }
    best
}

/// A shortest way with its two ends.
fn way(from: usize, to: usize, edges: &[(usize, usize)]) -> Option<Vec<usize>> {
    let mut seen = BTreeSet::from([from]);
    let mut ways = vec![vec![from]];
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            let at = way.last().copied()?;
            if at == to {
                return Some(way);
            }
            for next in next(at, edges).filter(|next| seen.insert(*next)) {
                longer.push([way.as_slice(), &[next]].concat());
            }
        }
        ways = longer;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_found_with_a_circle_each() {
        assert!(components(4, &[(0, 1), (1, 2), (0, 2), (3, 3)]).is_empty());
        // Two circles that share a member, one of two, and what leads there and away.
        let edges = [(0, 1), (1, 2), (2, 3), (3, 1), (3, 4), (4, 5), (5, 3), (5, 6), (7, 8), (8, 7), (7, 0)];
        let found = components(9, &edges);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].members, [1, 2, 3, 4, 5]);
        assert_eq!(found[0].circle.len(), 3);
        assert_eq!(found[1].members, [7, 8]);
        assert_eq!(found[1].circle.len(), 2);
    }

    #[test]
    fn a_circle_is_short_but_tells_of_more_than_two_where_it_can() {
        let circle = |edges: &[(usize, usize)]| components(5, edges).remove(0).circle;
        assert_eq!(circle(&[(0, 1), (1, 0), (1, 2), (2, 1)]).len(), 2, "there is no larger one");
        let found = circle(&[(0, 1), (1, 0), (1, 2), (2, 3), (3, 0)]);
        assert_eq!(found.len(), 4);
        let edges = [(0, 1), (1, 0), (1, 2), (2, 3), (3, 0)];
        for (at, from) in found.iter().enumerate() {
            assert!(edges.contains(&(*from, found[(at + 1) % found.len()])), "{found:?}");
        }
        assert_eq!(circle(&[(0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (2, 0)]).len(), 3, "the shortest");
    }
}
