//! Revisions: every configuration that is in force has a number, and the last ones are kept.
//!
//! Rule of this module: nothing here waits, reads a clock or touches a file. Texts and times come in, and what is to be in force comes
//! out; so any order of changes, restarts and time passing can be played in a test.
//!
//! What is in force is made of two things: the text of a file (`base`), and what the API said of single services (`overrides`), which holds
//! over what the file says of them until it is given back.
#![cfg_attr(not(feature = "daemon"), allow(dead_code))]

pub(crate) mod ledger;
pub(crate) mod overrides;
pub(crate) mod saved;
pub(crate) mod start;

pub(crate) use ledger::Ledger;
#[cfg(feature = "daemon")]
pub(crate) use ledger::{Content, RevisionRefusal};
