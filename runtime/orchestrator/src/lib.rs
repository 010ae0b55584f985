//! Kubernetes-compatible objects on one machine: what they are, how they change, where they are kept.
//!
//! One engine serves every kind from a table ([`kinds`]) and a description of the types ([`schema`]) that is generated from Kubernetes' own.
//! It must never know how a pod is run: it has objects as JSON values, verbs on them, a store, and a server in front ([`http`]).
//!
//! A write is followed through the files: [`decode`] makes a value of a body (JSON, or the [`protobuf`] of newer clients), [`schema`] refuses what
//! the type has not, [`engine`] defaults, validates and stores it under a new resource version ([`store`]), and everybody who watches sees it.

#![forbid(unsafe_code)]

/// Times in interfaces here are of this crate.
pub use chrono;

pub mod controllers;
pub mod decode;
pub mod engine;
pub mod http;
pub mod kinds;
pub mod node;
pub mod object;
pub mod patch;
mod placement;
pub mod protobuf;

pub mod quantity;
pub mod schedule;
pub mod schema;
pub mod selector;
pub mod status;
pub mod store;
pub mod table;
pub mod tls;
mod yaml;
