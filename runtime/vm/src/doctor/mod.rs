//! Can this machine run Vial? Facts are gathered in one place, judged by a pure function in another.
//!
//! The judgement of `kvm` is not about a device file: guest instructions are run, since there are hosts whose /dev/kvm
//! opens, makes VMs, and then can't run a Linux kernel.

mod facts;
mod judge;
mod kvm;

pub use facts::{CgroupFacts, Facts, FirewallFacts, NftFacts, gather};
pub use judge::judge;
pub use kvm::{Probe, probe};

use serde::{Deserialize, Serialize};

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Vial runs, with something missing.
    Warn,
    /// Vial can't run.
    Fail,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Its name, as `--check` takes it.
    pub name: String,
    /// How it went.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What that means for Vial; empty when all is well.
    pub meaning: String,
    /// What to do about it; empty when nothing needs doing.
    pub mend: String,
}

/// All checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Whether Vial can run here: no check failed.
    pub can_run: bool,
    /// The checks.
    pub checks: Vec<Check>,
}

impl From<Vec<Check>> for Report {
    fn from(checks: Vec<Check>) -> Self {
        Self { can_run: checks.iter().all(|c| c.status != Status::Fail), checks }
    }
}

/// The check of KVM alone.
pub fn check_kvm() -> Check {
    let (cpu_virtualisation, in_vm) = facts::processor();
    judge::judge_kvm(&kvm::probe(), cpu_virtualisation, in_vm)
}
