//! One microVM from outside: launch, supervise, talk to its agent.
//!
//! It must never know of images, pods, containers or Kubernetes: its world is VM processes, their folders and
//! cgroups, and the agent's protocol. Whether a disk holds an OCI image is its caller's business.
//!
//! - [`launcher`]: the single-threaded helper process that makes VM processes;
//! - [`spec`]: what a VM is made of, and the pure mapping to the VMM's configuration document;
//! - [`dir`], [`registry`]: one folder per VM, states derived from facts;
//! - [`vm`]: the handle of one VM: ready, exit, stop, kill, reattach;
//! - [`agent`]: control connection and streams of the agent, which is hostile until proved otherwise;
//! - [`doctor`]: can this machine run Vial?
//!
//! `unsafe` is in [`sys`] (system calls that have no safe wrapper), in the two modules of the launcher that place descriptors with
//! it in a forked process, and in the doctor's KVM probe.

pub mod agent;
pub mod cgroup;
pub mod control;
pub mod dir;
pub mod doctor;
pub mod error;
pub mod exit;
pub mod id;
pub mod launcher;
pub mod parts;
pub mod process;
pub mod registry;
pub mod spec;
pub mod sys;
mod sys_path;
pub mod vm;

pub use agent::{AgentCallError, AgentClient, Events, OutputStream, Pending, StdinStream, StreamError};
pub use error::Error;
pub use exit::{EndReason, Milestone, VmExit};
pub use id::VmId;
pub use launcher::{Isolation, Launcher};
pub use parts::Parts;
pub use registry::{Registry, VmInfo, VmState};
pub use spec::{ConsoleSpec, CpuMax, DiskSource, DiskSpec, FsSpec, Limits, NetSpec, TapSource, VmSpec};
pub use vm::{Vm, host_memory_mib};
pub use vmm::api::control::{Device, Reply as ControlReply, Request as ControlRequest};
pub use vmm::sys::share_arena;
