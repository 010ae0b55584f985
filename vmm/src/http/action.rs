//! What requests ask for and what they are answered: types without a line of HTTP's syntax.

use crate::api::config::{
    Balloon, BalloonStart, BalloonStatsUpdate, BalloonUpdate, BootSource, CpuConfig, Drive, Entropy,
    Extensions, FileSystem, Logger, MachineConfig, MachineConfigUpdate, MemoryHotplug, MemoryHotplugUpdate,
    Metrics, MmdsConfig, NetworkInterface, PartialDrive, PartialNetworkInterface, PartialPmem, Pmem, Serial,
    Vsock,
};
use crate::api::control::{Plugged, Unplugged};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use vmm_sys_util::eventfd::EventFd;

/// A request that is understood.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// `GET /`.
    DescribeInstance,
    /// `GET /version`.
    Version,
    /// `GET /vm/config`.
    VmConfig,
    /// `GET /machine-config`.
    GetMachineConfig,
    /// A document that changes what will be started.
    Configure(Box<Configure>),
    /// `PUT /logger`.
    Logger(Logger),
    /// `PUT /metrics`.
    Metrics(Metrics),
    /// `PUT /actions`.
    Act(InstanceAction),
    /// `PATCH /vm`.
    PatchVm(VmState),
    /// `PATCH /drives/{drive_id}`.
    PatchDrive(PartialDrive),
    /// `PATCH /network-interfaces/{iface_id}`.
    PatchNetwork(PartialNetworkInterface),
    /// `PATCH /pmem/{id}`.
    PatchPmem(PartialPmem),
    /// `DELETE` of a drive, an interface or persistent memory.
    Unplug(Unplugged),
    /// `GET /hotplug/memory`.
    GetMemory,
    /// `PATCH /hotplug/memory`.
    PatchMemory(MemoryHotplugUpdate),
    /// Everything about `/balloon` but its `PUT`.
    Balloon(BalloonAction),
    /// `GET /mmds`.
    GetMmds,
    /// `PUT /mmds`.
    PutMmds(Value),
    /// `PATCH /mmds`.
    PatchMmds(Value),
    /// An endpoint of Firecracker that this machine has no answer for; says what it lacks.
    Lacking(&'static str),
    /// *(Vial)* `PUT /vial/actions`.
    Vial(VialAction),
    /// *(Vial)* `GET /vial/events`.
    Events,
    /// *(Vial)* `GET /vial/devices`.
    Devices,
    /// *(Vial)* `GET /vial/metrics`.
    Prometheus,
}

/// A document that changes what will be started.
#[derive(Debug, Clone, PartialEq)]
pub enum Configure {
    /// `PUT /machine-config`.
    Machine(MachineConfig),
    /// `PATCH /machine-config`.
    MachineUpdate(MachineConfigUpdate),
    /// `PUT /boot-source`.
    BootSource(BootSource),
    /// `PUT /drives/{drive_id}`.
    Drive(Drive),
    /// `PUT /network-interfaces/{iface_id}`.
    Network(NetworkInterface),
    /// `PUT /vsock`.
    Vsock(Vsock),
    /// `PUT /entropy`.
    Entropy(Entropy),
    /// `PUT /cpu-config`.
    Cpu(CpuConfig),
    /// `PUT /pmem/{id}`.
    Pmem(Pmem),
    /// `PUT /hotplug/memory`.
    Hotplug(MemoryHotplug),
    /// `PUT /balloon`.
    Balloon(Balloon),
    /// `PUT /serial`.
    Serial(Serial),
    /// `PUT /mmds/config`.
    Mmds(MmdsConfig),
    /// *(Vial)* `PUT /vial/file-systems/{tag}`.
    FileSystem(FileSystem),
    /// *(Vial)* `PUT /vial`.
    Extensions(Extensions),
}

/// What is asked of the balloon.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BalloonAction {
    /// `GET /balloon`.
    Get,
    /// `PATCH /balloon`.
    Resize(BalloonUpdate),
    /// `GET /balloon/statistics`.
    Statistics,
    /// `PATCH /balloon/statistics`.
    Interval(BalloonStatsUpdate),
    /// `PATCH /balloon/hinting/start`.
    Start(BalloonStart),
    /// `GET /balloon/hinting/status`.
    Hinting,
    /// `PATCH /balloon/hinting/stop`.
    Stop,
}

/// Field `action_type` of `PUT /actions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum InstanceAction {
    /// Boot.
    InstanceStart,
    /// Press the power button.
    SendCtrlAltDel,
    /// Write a line of metrics now.
    FlushMetrics,
}

/// Field `state` of `PATCH /vm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VmState {
    /// Stop the vCPUs.
    Paused,
    /// Let them go on.
    Resumed,
}

/// *(Vial)* Field `action_type` of `PUT /vial/actions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VialAction {
    /// Press the ACPI power button: the guest shuts down if it listens.
    PowerButton,
    /// End the VM now, in order.
    Stop,
}

/// Where a request finds the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Before InstanceStart only.
    Before,
    /// After it only.
    After,
    /// Whenever.
    Always,
}

impl Configure {
    /// The device, if it is one that can be plugged into a VM that runs.
    pub fn plugged(&self) -> Option<Plugged> {
        match self {
            Self::Drive(drive) => Some(Plugged::Drive(Box::new(drive.clone()))),
            Self::Network(interface) => Some(Plugged::Interface(Box::new(interface.clone()))),
            Self::Pmem(pmem) => Some(Plugged::Pmem(Box::new(pmem.clone()))),
            _ => None,
        }
    }
}

impl Action {
    /// Whether the answer depends on the guest or on its disks, and may never come.
    pub fn may_wait(&self) -> bool {
        matches!(self, Self::Unplug(_) | Self::PatchVm(VmState::Paused))
    }

    /// The table of what may be asked when. It is Firecracker's.
    pub fn when(&self) -> When {
        match self {
            Self::Configure(_)
            | Self::Logger(_)
            | Self::Metrics(_)
            | Self::Act(InstanceAction::InstanceStart) => When::Before,
            Self::Act(InstanceAction::SendCtrlAltDel | InstanceAction::FlushMetrics)
            | Self::PatchVm(_)
            | Self::PatchDrive(_)
            | Self::PatchNetwork(_)
            | Self::PatchPmem(_)
            | Self::Unplug(_)
            | Self::Devices
            | Self::GetMemory
            | Self::PatchMemory(_)
            | Self::Balloon(
                BalloonAction::Resize(_)
                | BalloonAction::Statistics
                | BalloonAction::Interval(_)
                | BalloonAction::Start(_)
                | BalloonAction::Hinting
                | BalloonAction::Stop,
            )
            | Self::Vial(VialAction::PowerButton) => When::After,
            Self::DescribeInstance
            | Self::Version
            | Self::VmConfig
            | Self::GetMachineConfig
            | Self::Balloon(BalloonAction::Get)
            | Self::GetMmds
            | Self::PutMmds(_)
            | Self::PatchMmds(_)
            | Self::Lacking(_)
            | Self::Prometheus
            | Self::Events
            | Self::Vial(VialAction::Stop) => When::Always,
        }
    }

    /// Refuses what comes too early or too late.
    ///
    /// # Errors
    /// In Firecracker's words, which clients compare.
    pub fn check(&self, started: bool) -> Result<(), Fault> {
        match (self.when(), started) {
            (When::Before, true) => {
                Err(Fault::bad("The requested operation is not supported after starting the microVM."))
            }
            (When::After, false) => {
                Err(Fault::bad("The requested operation is not supported before starting the microVM."))
            }
            _ => Ok(()),
        }
    }
}

/// A request that worked.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// 204.
    Empty,
    /// 200 with this document.
    Json(Value),
    /// 200 with plain text.
    Text(String),
}

/// A request that did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// HTTP's.
    pub status: u16,
    /// Why.
    pub message: String,
}

impl Fault {
    /// 400, as almost everything in Firecracker.
    pub fn bad(message: impl Into<String>) -> Self {
        Self { status: 400, message: message.into() }
    }

    /// 413.
    pub fn too_big(message: impl Into<String>) -> Self {
        Self { status: 413, message: message.into() }
    }

    /// 503.
    pub fn busy(message: impl Into<String>) -> Self {
        Self { status: 503, message: message.into() }
    }

    /// The VM has ended, and with it everything that could answer.
    pub fn ended() -> Self {
        Self { status: 500, message: "the VM has ended".into() }
    }
}

/// What a request comes to.
pub type Outcome = Result<Answer, Fault>;

/// A request on its way to the VMM thread, and where its answer goes.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub action: Action,
    /// Takes the answer.
    pub reply: Asker,
}

/// Who waits for an answer; when this is dropped without one he is told that the VM has ended.
#[derive(Debug)]
pub struct Asker {
    sender: Option<Sender<Outcome>>,
    // For one who does other things meanwhile.
    bell: Option<Arc<EventFd>>,
}

impl Asker {
    /// For one who waits at the other end of the channel; `bell` is rung when there is an answer.
    pub fn new(sender: Sender<Outcome>, bell: Option<Arc<EventFd>>) -> Self {
        Self { sender: Some(sender), bell }
    }

    /// Answers; only the first time counts.
    pub fn send(&self, outcome: Outcome) {
        if let Some(sender) = &self.sender {
            // The other side waits unless it has hung up, and then nobody can be told.
            let _ = sender.send(outcome);
        }
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(bell) = &self.bell {
            // Fails only when nobody has read 2⁶⁴ − 2 of them: then the reader is awake anyway.
            let _ = bell.write(1);
        }
    }
}

impl Call {
    /// Answers.
    pub fn answer(self, outcome: Outcome) {
        self.reply.send(outcome);
    }
}
