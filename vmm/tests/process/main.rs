//! `vial-vmm` as a process: started, talked to, ended.

// A test's helper that fails has nothing better to do than to say where.
#![allow(clippy::unwrap_used)]

mod api;
mod breaking;
mod client;
mod common;
mod compat;
mod control;
mod documents;
mod endings;
mod events;
mod http;
mod jailer;
mod kernels;
mod machine;
mod media;
mod observe;
mod pci;
mod plug;
mod recorded;
mod refusals;
mod sdk;
mod tap;
mod tiny;
mod trouble;
mod vhost_user;
