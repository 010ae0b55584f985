//! The control socket of a VM: one JSON object a line each way, over connections to an inherited listening Unix socket.
//!
//! A listener instead of a connected pair, because the daemon that made the VM may be gone when the next one wants to stop it.

use crate::api::config::{Drive, NetworkInterface, Pmem, RateLimiter};
use serde::{Deserialize, Serialize};

/// Upper bound of a request line in bytes.
pub const MAX_LINE: usize = 4096;

/// Upper bound of a reply line in bytes: 256 devices with names of 64 characters.
pub const MAX_REPLY: usize = 64 << 10;

/// Descriptors that one request brings at most: the files of a medium.
pub const MAX_FILES: usize = 240;

/// Host → VMM. Those without fields are objects too: of a variant that has none serde takes whatever comes along.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Press the ACPI power button.
    PowerButton {},
    /// End the VM now, in order.
    Stop {},
    /// Stop the vCPUs.
    Pause {},
    /// Let them go on.
    Resume {},
    /// Counters and state.
    Info {},
    /// The devices, and what the guest's drivers have made of them.
    Devices {},
    /// Puts a medium into a removable drive that has none. The files come with the request's bytes as SCM_RIGHTS: one for a
    /// drive that the guest may write to, else 1 to [`MAX_FILES`], which make one disk in their order. Each is a regular file or a
    /// block device of whole sectors of 512 bytes, and not all are empty. Descriptors that come with another request are closed.
    Insert {
        /// Which drive.
        drive_id: String,
        /// How many descriptors come along.
        files: u8,
    },
    /// Takes the medium out of a removable drive; that there is none is no error. When this is answered, its files are closed, and
    /// with them the locks on them are gone.
    Eject {
        /// Which drive.
        drive_id: String,
    },
    /// Changes a drive, as a PATCH of Firecracker's does.
    UpdateDrive {
        /// Which drive.
        drive_id: String,
        /// The new buckets: those that are left out stay as they are, one of size 0 limits nothing, others start full.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rate_limiter: Option<RateLimiter>,
        /// How many descriptors come along: the files that take the place of the drive's, as for [`Request::Insert`], but for a drive that
        /// is not removable. 0 leaves it its files.
        #[serde(default)]
        files: u8,
        /// Whether to look how long its files are by now.
        #[serde(default)]
        measure: bool,
    },
    /// Asks the guest to have another amount of hot-pluggable memory.
    HotplugMemory {
        /// In MiB, a multiple of its blocks.
        requested_size_mib: u64,
    },
    /// Tells the guest that it is a copy of another VM: its generation ID and its VMClock change.
    NewGeneration {},
    /// Asks the guest for another amount of its memory.
    Balloon {
        /// In MiB, at most what the guest has.
        amount_mib: u32,
    },
    /// Plugs a device into the PCI bus of a running VM. A descriptor in its document, `{"fd": N}`, is the Nth that comes along with the
    /// request as SCM_RIGHTS, from 0 on; each is used once, and there are no paths. Answered when the device is there; the guest is told.
    Plug {
        /// What.
        device: Plugged,
        /// How many descriptors come along.
        files: u8,
    },
    /// Asks the guest to let go of a device. Answered when it has: its files are closed then.
    Unplug {
        /// What.
        device: Unplugged,
    },
    /// The same as [`Request::UpdateDrive`] for an interface.
    UpdateInterface {
        /// Which interface.
        iface_id: String,
        /// What the guest receives.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rx_rate_limiter: Option<RateLimiter>,
        /// What the guest sends.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tx_rate_limiter: Option<RateLimiter>,
    },
}

/// What is plugged in: a document as in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Plugged {
    /// A drive. It has no ring and no thread of its own, and is no root device.
    Drive(Box<Drive>),
    /// An interface.
    Interface(Box<NetworkInterface>),
    /// A file in the guest's address space. It is no root device.
    Pmem(Box<Pmem>),
}

/// What is unplugged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unplugged {
    /// The drive of this name.
    Drive(String),
    /// The interface of this name.
    Interface(String),
    /// The persistent memory of this name.
    Pmem(String),
}

/// VMM → host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Reply {
    /// It did not work; as in Firecracker's API.
    Fault {
        /// Why.
        fault_message: String,
    },
    /// It worked.
    Ok {
        /// `running` or `paused`.
        state: String,
        /// VM exits so far, by KVM's exit reason.
        exits: std::collections::BTreeMap<String, u64>,
    },
    /// To [`Request::Devices`].
    Devices {
        /// In the guest's order.
        devices: Vec<Device>,
    },
}

/// A virtio device of a VM that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The name in the configuration, or what it is.
    pub name: String,
    /// virtio's device type (virtio 1.3, clause 5).
    #[serde(rename = "type")]
    pub device_type: u32,
    /// What the guest's driver has made of it.
    pub state: DeviceState,
    /// Whether the guest was asked to let go of it.
    pub asked_for: bool,
    /// How many queues it has.
    pub queues: usize,
    /// The features that the driver accepted, in hexadecimal digits; none while it is busy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<String>,
}

/// What a guest's driver has made of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceState {
    /// Its driver holds its registers just now.
    #[serde(rename = "busy")]
    Busy,
    /// Its rings broke: only a reset helps.
    #[serde(rename = "needs reset")]
    NeedsReset,
    /// Its driver did not like it.
    #[serde(rename = "given up by its driver")]
    GivenUp,
    /// Its driver uses it.
    #[serde(rename = "in use")]
    InUse,
    /// Nobody has touched it since its reset.
    #[serde(rename = "without a driver")]
    NoDriver,
    /// Its driver is on the way.
    #[serde(rename = "being set up")]
    SettingUp,
}

impl DeviceState {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::NeedsReset => "needs reset",
            Self::GivenUp => "given up by its driver",
            Self::InUse => "in use",
            Self::NoDriver => "without a driver",
            Self::SettingUp => "being set up",
        }
    }
}
