//! What a VMM process says of its life: JSON lines, appended to the inherited status file.
//!
//! A process that ends without an [`Record::Exit`] line was killed. The line is written *before* the process ends, so that nobody who sees
//! the end can miss it.

use serde::{Deserialize, Serialize};

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Record {
    /// A step of the start was reached.
    Milestone {
        /// Which.
        step: Step,
        /// CLOCK_MONOTONIC, microseconds.
        at_us: u64,
    },
    /// A device has lost its vhost-user back end for good; the VM goes on without it.
    DeviceLost {
        /// Which, such as `block data`.
        device: String,
        /// Why, for people.
        detail: String,
        /// CLOCK_MONOTONIC, microseconds.
        at_us: u64,
    },
    /// The VM ended.
    Exit {
        /// Why.
        reason: ExitReason,
        /// More, for people; empty when the reason says it all.
        #[serde(default)]
        detail: String,
        /// CLOCK_MONOTONIC, microseconds.
        at_us: u64,
    },
}

/// What is told to readers of the event stream besides the records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The vCPUs and devices stand still.
    Paused {
        /// CLOCK_MONOTONIC, microseconds.
        at_us: u64,
    },
    /// They go on.
    Resumed {
        /// CLOCK_MONOTONIC, microseconds.
        at_us: u64,
    },
    /// A device is in its slot, and the guest was told.
    Plugged {
        /// Such as `drive "data"`.
        device: String,
        /// CLOCK_MONOTONIC, microseconds.
        at_us: u64,
    },
    /// The guest has let go of a device.
    Unplugged {
        /// Such as `drive "data"`.
        device: String,
        /// CLOCK_MONOTONIC, microseconds.
        at_us: u64,
    },
    /// The reader was too slow.
    Missed {
        /// How many lines are lost to it.
        lines: u64,
    },
}

/// Steps of a start, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// `main` was entered.
    ProcessStart,
    /// The configuration is read and checked.
    Configured,
    /// VM, memory, devices, vCPUs exist.
    VmBuilt,
    /// Kernel and initrd are in guest memory.
    KernelLoaded,
    /// Before the first KVM_RUN.
    FirstRun,
}

/// Why a VM ended. The process's exit code is in brackets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitReason {
    /// The guest powered off through ACPI S5 (0).
    GuestShutdown,
    /// The guest asked for a reset (0).
    GuestReboot,
    /// The guest's kernel panicked, by pvpanic (10).
    GuestPanic,
    /// Triple fault, KVM_EXIT_SHUTDOWN, or an instruction that KVM can't do in the guest's place (11).
    GuestCrash,
    /// The guest broke a device's contract beyond repair (12).
    GuestFault,
    /// SIGTERM or a stop request (13).
    Stopped,
    /// The configuration or a file that it names is unusable (2).
    BadConfig,
    /// The VMM or KVM failed (1).
    InternalError,
}

impl ExitReason {
    /// Whether guest or user wanted the VM to end. All others are told on the standard error too.
    pub fn is_wanted(self) -> bool {
        matches!(self, Self::GuestShutdown | Self::GuestReboot | Self::Stopped)
    }

    /// What the process says of an end with this reason and `detail` on its standard error, if nobody wanted it.
    pub fn in_words(self, detail: &str) -> String {
        let what = match self {
            Self::GuestShutdown => "the guest has powered off",
            Self::GuestReboot => "the guest has reset",
            Self::GuestPanic => "the guest's kernel has panicked",
            Self::GuestCrash => "the guest has crashed",
            Self::GuestFault => "the guest has broken a device's rules",
            Self::Stopped => "the VM was stopped",
            Self::BadConfig | Self::InternalError => "error",
        };
        if detail.is_empty() { what.to_owned() } else { format!("{what}: {detail}") }
    }

    /// The VMM process's exit code.
    pub fn code(self) -> i32 {
        match self {
            Self::GuestShutdown | Self::GuestReboot => 0,
            Self::InternalError => 1,
            Self::BadConfig => 2,
            Self::GuestPanic => 10,
            Self::GuestCrash => 11,
            Self::GuestFault => 12,
            Self::Stopped => 13,
        }
    }
}
