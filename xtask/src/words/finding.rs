//! Where a rule does not hold.

/// A rule that knows exceptions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rule {
    TypeName,
    Line,
    Function,
    Comment,
}

impl Rule {
    pub(super) const fn text(self) -> &'static str {
        match self {
            Rule::TypeName => "one type of a name",
            Rule::Line => "lines of code have a width",
            Rule::Function => "functions have a length",
            Rule::Comment => "comments are sentences",
        }
    }
}

/// Where a rule does not hold.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub(super) rule: Rule,
    /// What an exception calls it.
    pub(super) subject: String,
    /// What is told of it.
    pub(super) message: String,
}
