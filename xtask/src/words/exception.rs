//! Where a rule does not hold, and why. An entry that excuses nothing is an error, so the tables shrink with
//! what they excuse.

use super::finding::{Finding, Rule};

/// One of them.
pub(super) struct Exception {
    rule: Rule,
    /// What the finding calls it: a type's name and its files, a file's path, or that and a function's name.
    subject: &'static str,
    reason: &'static str,
}

/// Names that several types may have.
const TYPE_NAMES: &[Exception] = &[
    Exception {
        rule: Rule::TypeName,
        subject: "Sender crates/statesync/src/spsc/model.rs crates/statesync/src/spsc/rtrb.rs",
        reason: "one end of statesync::spsc: rtrb's, or under cfg(loom) the model's; a build has one of them",
    },
    Exception {
        rule: Rule::TypeName,
        subject: "Receiver crates/statesync/src/spsc/model.rs crates/statesync/src/spsc/rtrb.rs",
        reason: "the other end of statesync::spsc: rtrb's, or under cfg(loom) the model's",
    },
];
const _: () = assert!(TYPE_NAMES.len() <= 10, "so many names with two meanings are no exceptions");

/// Functions that may be long: flat tables, which no name would make clearer in pieces.
const FUNCTIONS: &[Exception] = &[];

/// All of them.
pub(super) fn all() -> Vec<&'static Exception> {
    TYPE_NAMES.iter().chain(FUNCTIONS).collect()
}

/// What is wrong: findings that nothing excuses, and exceptions that excuse nothing.
pub(super) fn apply(findings: &[Finding], exceptions: &[&Exception]) -> Vec<String> {
    let covers = |exception: &Exception, finding: &Finding| {
        exception.rule == finding.rule && exception.subject == finding.subject
    };
    let mut problems: Vec<String> = findings
        .iter()
        .filter(|finding| !exceptions.iter().any(|exception| covers(exception, finding)))
        .map(|finding| finding.message.clone())
        .collect();
    let unneeded = exceptions
        .iter()
        .filter(|exception| !findings.iter().any(|finding| covers(exception, finding)))
        .map(|exception| {
            let Exception { rule, subject, reason } = exception;
            format!("{subject}: no exception from \"{}\" is needed any more ({reason})", rule.text())
        });
    problems.extend(unneeded);
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_excuse_what_they_name_and_nothing_else() {
        let finding = |rule, subject: &str| Finding {
            rule,
            subject: subject.to_owned(),
            message: format!("{subject} is wrong"),
        };
        let exception = |rule, subject| Exception { rule, subject, reason: "a test" };
        let findings =
            [finding(Rule::Line, "a.rs"), finding(Rule::Line, "a.rs"), finding(Rule::TypeName, "A")];
        let (line, name) = (exception(Rule::Line, "a.rs"), exception(Rule::TypeName, "A"));
        assert!(apply(&findings, &[&line, &name]).is_empty());
        assert_eq!(apply(&findings, &[&line]), ["A is wrong"]);
        assert_eq!(apply(&findings[..2], &[]).len(), 2);
        let of_another_rule = exception(Rule::Function, "A");
        let problems = apply(&findings, &[&line, &of_another_rule]);
        assert_eq!(problems.len(), 2);
        assert_eq!(problems[0], "A is wrong");
        assert!(problems[1].contains("any more (a test)"), "{}", problems[1]);
    }

    #[test]
    fn every_exception_has_a_reason_of_its_own_rule() {
        assert!(all().iter().all(|exception| exception.reason.len() > 10));
        assert!(TYPE_NAMES.iter().all(|exception| exception.rule == Rule::TypeName));
        assert!(FUNCTIONS.iter().all(|exception| exception.rule == Rule::Function));
    }
}
