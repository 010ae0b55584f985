//! What a VMM process is told and what it tells: types, and how they are read, shared with the programs that start one.

pub mod config;
pub mod control;
pub mod document;
pub mod status;
