//! How a VM ended, read from what its process wrote.
//!
//! The status file is written by a process that a guest may have taken over, so it is read with a bound and lines that
//! make no sense are skipped. A process that is gone and left no exit record was killed: that is never taken for a success.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::Read;
use std::path::Path;
use vmm::api::status::Record;
pub use vmm::api::status::{ExitReason, Step};

/// Upper bound of what is read of a status file, in bytes; an honest one has a few hundred.
const MAX_STATUS: u64 = 64 << 10;
/// Upper bounds of what is kept of each kind of record.
const MAX_RECORDS: usize = 64;
/// Upper bound of a text, in bytes.
const MAX_DETAIL: usize = 4 << 10;

/// How a VM ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmExit {
    /// Why.
    pub reason: EndReason,
    /// More, for people; may be empty.
    pub detail: String,
    /// Steps of the start that were reached, in the order in which they were written.
    pub milestones: Vec<Milestone>,
    /// When the process wrote its end: CLOCK_MONOTONIC, microseconds; none when it was killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_us: Option<u64>,
}

/// Why a VM ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The process is gone and said nothing: it was killed, from outside or by a filter of its own.
    Killed,
    /// The process said why.
    #[serde(untagged)]
    Exit(ExitReason),
}

impl EndReason {
    /// Whether the guest ended in order and by its own will.
    pub fn is_clean(self) -> bool {
        matches!(self, Self::Exit(ExitReason::GuestShutdown | ExitReason::GuestReboot))
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exit(ExitReason::GuestShutdown) => "the guest powered off",
            Self::Exit(ExitReason::GuestReboot) => "the guest rebooted",
            Self::Exit(ExitReason::GuestPanic) => "the guest's kernel panicked",
            Self::Exit(ExitReason::GuestCrash) => "the guest crashed (triple fault)",
            Self::Exit(ExitReason::GuestFault) => "the guest misused a device",
            Self::Exit(ExitReason::Stopped) => "stopped on request",
            Self::Exit(ExitReason::BadConfig) => "the VM's configuration is unusable",
            Self::Exit(ExitReason::InternalError) => "the VM process failed",
            Self::Killed => "killed",
        })
    }
}

impl fmt::Display for VmExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.reason)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

/// A step of a VM's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Milestone {
    /// Which.
    pub step: Step,
    /// CLOCK_MONOTONIC, microseconds.
    pub at_us: u64,
}

/// A device whose back end is gone; the VM goes on without it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostDevice {
    /// Which, such as `block data`.
    pub device: String,
    /// Why, for people.
    pub detail: String,
    /// CLOCK_MONOTONIC, microseconds.
    pub at_us: u64,
}

/// What a status file says so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Steps reached.
    pub milestones: Vec<Milestone>,
    /// Devices that were lost.
    pub lost: Vec<LostDevice>,
    /// The exit record, if there is one: reason, detail, microseconds.
    pub exit: Option<(ExitReason, String, u64)>,
}

impl Status {
    /// Reads the text of a status file. The first exit record counts: nothing true comes after it.
    pub fn parse(text: &[u8]) -> Self {
        let mut status = Self::default();
        for line in text.split(|&b| b == b'\n') {
            match serde_json::from_slice(line) {
                Ok(Record::Milestone { step, at_us }) if status.milestones.len() < MAX_RECORDS => {
                    status.milestones.push(Milestone { step, at_us });
                }
                Ok(Record::DeviceLost { device, detail, at_us }) if status.lost.len() < MAX_RECORDS => {
                    status.lost.push(LostDevice { device: plain(device), detail: plain(detail), at_us });
                }
                Ok(Record::Exit { reason, detail, at_us }) => {
                    status.exit = Some((reason, plain(detail), at_us));
                    break;
                }
                _ => {}
            }
        }
        status
    }

    /// Reads a status file; a missing one says nothing.
    pub fn read(path: &Path) -> Self {
        let mut text = Vec::new();
        match std::fs::File::open(path).and_then(|f| f.take(MAX_STATUS).read_to_end(&mut text)) {
            Ok(_) => Self::parse(&text),
            Err(_) => Self::default(),
        }
    }

    /// The end of a VM whose process is known to be gone.
    pub fn into_exit(self) -> VmExit {
        let (reason, detail, at_us) = match self.exit {
            Some((reason, detail, at)) => (EndReason::Exit(reason), detail, Some(at)),
            None => (EndReason::Killed, String::new(), None),
        };
        VmExit { reason, detail, milestones: self.milestones, at_us }
    }
}

/// No longer than it may be, and nothing that a terminal obeys.
fn plain(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_DETAIL));
    text.retain(|c| !c.is_control());
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_an_honest_file() {
        let text = br#"{"event":"milestone","step":"process_start","at_us":5}
{"event":"milestone","step":"first_run","at_us":9}
{"event":"exit","reason":"guest_panic","detail":"pvpanic","at_us":77}
"#;
        let exit = Status::parse(text).into_exit();
        assert_eq!(exit.reason, EndReason::Exit(ExitReason::GuestPanic));
        assert_eq!(exit.milestones.len(), 2);
        assert_eq!(exit.to_string(), "the guest's kernel panicked: pvpanic");
    }

    #[test]
    fn lost_devices_are_told_without_what_a_terminal_obeys() {
        let line = r#"{"event":"device_lost","device":"block data","detail":"it \u001b[2J went","at_us":7}"#;
        let lost = Status::parse(format!("{line}\n").repeat(100).as_bytes()).lost;
        assert_eq!(lost.len(), MAX_RECORDS);
        let first = LostDevice { device: "block data".into(), detail: "it [2J went".into(), at_us: 7 };
        assert_eq!(lost[0], first);
    }

    #[test]
    fn no_record_means_killed() {
        assert_eq!(Status::parse(b"").into_exit().reason, EndReason::Killed);
        let torn = br#"{"event":"exit","reason":"guest_shut"#;
        let exit = Status::parse(torn).into_exit();
        assert_eq!(exit.reason, EndReason::Killed);
        assert!(!exit.reason.is_clean());
    }

    #[test]
    fn reasons_keep_their_names_in_json() {
        let json = serde_json::to_string(&[EndReason::Killed, EndReason::Exit(ExitReason::Stopped)]).unwrap();
        assert_eq!(json, r#"["killed","stopped"]"#);
        let back: Vec<EndReason> = serde_json::from_str(&json).unwrap();
        assert_eq!(back, [EndReason::Killed, EndReason::Exit(ExitReason::Stopped)]);
    }

    proptest! {
        #[test]
        fn rubbish_is_never_a_clean_end(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(!Status::parse(&bytes).into_exit().reason.is_clean());
        }
    }
}
