//! The command line and its daemon against registries of the test's own, most of them hostile. Needs no VM.
#![allow(clippy::unwrap_used, reason = "a test that fails to set up has failed")]

mod bad;
mod home;
mod pull;
mod push;
mod server;
