//! `vial-vmm` as a process: started, talked to, ended.

mod common;
mod control;
mod endings;
mod refusals;
