//! What a VMM process is told and what it tells: types only, shared with the programs that start one.

pub mod config;
pub mod control;
pub mod status;
