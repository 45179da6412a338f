//! A function fits on a screen.

use super::finding::{Finding, Rule};
use super::source::Source;
use proc_macro2::{Delimiter, LineColumn, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Block, ImplItemFn, ItemFn, ItemImpl, ItemTrait, Macro, Signature, TraitItemFn, Type};

/// From the signature's first line to the closing brace's.
const LINES_MAX: usize = 70;

/// Finds long functions.
pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut search = FunctionSearch { path: &source.path, owner: None, found: Vec::new() };
    for item in &source.items {
        search.visit_item(item);
    }
    search.found
}

struct FunctionSearch<'s> {
    path: &'s str,
    /// The type or trait whose functions are looked at.
    owner: Option<String>,
    found: Vec<Finding>,
}

impl FunctionSearch<'_> {
    fn function(&mut self, signature: &Signature, body: &Block) {
        let name = match &self.owner {
            Some(owner) => format!("{owner}::{}", signature.ident),
            None => signature.ident.to_string(),
        };
        self.measure(&name, signature.span().start(), body.brace_token.span.close().end());
    }

    fn measure(&mut self, name: &str, from: LineColumn, to: LineColumn) {
        let lines = (to.line + 1).saturating_sub(from.line);
        if lines > LINES_MAX {
            self.found.push(Finding {
                rule: Rule::Function,
                subject: format!("{} {name}", self.path),
                message: format!(
                    "{}:{}: {name} has {lines} lines, {LINES_MAX} are the most",
                    self.path, from.line
                ),
            });
        }
    }

    /// Functions that a macro is given or makes.
    fn tokens(&mut self, tokens: TokenStream) {
        /// What was read of one so far.
        enum Read {
            Nothing,
            Keyword(LineColumn),
            Name(LineColumn, String),
        }
        let mut read = Read::Nothing;
        for tree in tokens {
            read = match (tree, read) {
                (TokenTree::Ident(word), _) if word == "fn" => Read::Keyword(word.span().start()),
                (TokenTree::Ident(word), Read::Keyword(from)) => Read::Name(from, word.to_string()),
                (TokenTree::Punct(mark), _) if mark.as_char() == ';' => Read::Nothing,
                (TokenTree::Group(group), read) => {
                    self.tokens(group.stream());
                    match read {
                        Read::Name(from, name) if group.delimiter() == Delimiter::Brace => {
                            self.measure(&name, from, group.span_close().end());
                            Read::Nothing
                        }
                        read => read,
                    }
                }
                (_, read) => read,
            };
        }
    }

    fn within(&mut self, owner: Option<String>, visit: impl FnOnce(&mut Self)) {
        let before = std::mem::replace(&mut self.owner, owner);
        visit(self);
        self.owner = before;
    }
}

impl<'ast> Visit<'ast> for FunctionSearch<'_> {
    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        let owner = match &*item.self_ty {
            Type::Path(of) => of.path.segments.last().map(|last| last.ident.to_string()),
            _ => None,
        };
        self.within(owner, |search| visit::visit_item_impl(search, item));
    }

    fn visit_item_trait(&mut self, item: &'ast ItemTrait) {
        self.within(Some(item.ident.to_string()), |search| visit::visit_item_trait(search, item));
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        // Also one within a method, which is not the type's.
        self.within(None, |search| {
            search.function(&item.sig, &item.block);
            visit::visit_item_fn(search, item);
        });
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast TraitItemFn) {
        if let Some(body) = &item.default {
            self.function(&item.sig, body);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_macro(&mut self, item: &'ast Macro) {
        self.tokens(item.tokens.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A function of so many lines.
    fn function(name: &str, lines: usize) -> String {
        format!("fn {name}() {{\n{}}}\n", "    f();\n".repeat(lines - 2))
    }

    fn found(text: &str) -> Vec<Finding> {
        check(&Source::parse("wire", "a.rs", text).unwrap())
    }

    fn subjects(text: &str) -> Vec<String> {
        found(text).into_iter().map(|finding| finding.subject).collect()
    }

    #[test]
    fn a_long_function_is_found_and_one_that_fits_is_not() {
        let text = format!("{}/// About it.\n#[inline]\npub {}", function("a", 70), function("b", 71));
        let found = found(&text);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].subject, "a.rs b");
        assert_eq!(found[0].message, "a.rs:73: b has 71 lines, 70 are the most");
        let signature = format!("fn a(\n    b: u8,\n) {{\n{}}}\n", "    f();\n".repeat(67));
        assert_eq!(subjects(&signature), ["a.rs a"], "the signature's lines count");
    }

    #[test]
    fn functions_are_found_wherever_they_are() {
        let long = function("b", 71);
        assert_eq!(subjects(&format!("impl<T> C for x::A<T> {{\n{long}}}")), ["a.rs A::b"]);
        assert_eq!(subjects(&format!("trait A {{ fn a();\n{long}}}")), ["a.rs A::b"]);
        assert_eq!(subjects(&format!("mod m {{ {long} }}")), ["a.rs b"]);
        assert_eq!(subjects(&format!("impl A {{ fn a() {{\n{long}}} }}")), ["a.rs A::a", "a.rs b"]);
        let made = format!("macro_rules! m {{ () => {{ fn a(f: fn(u8)) {{}}\n{long} }} }}");
        assert_eq!(subjects(&made), ["a.rs b"]);
        assert_eq!(subjects(&format!("m! {{ trait A {{ fn a();\n{long} }} }}")), ["a.rs b"]);
        assert!(subjects(&format!("#[cfg(test)]\nmod tests {{\n{long}}}")).is_empty(), "of tests");
    }
}
