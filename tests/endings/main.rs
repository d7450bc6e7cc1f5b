//! How an RPC can end: one start and one finish each, with the status and the ending that are true.
//!
//! `Ending N` is a case's number in the table of endings.

#[path = "../common/mod.rs"]
mod common;
#[path = "../scripted/mod.rs"]
mod scripted;

mod in_process;
mod odd_requests;
mod over_tcp;
