//! The virtual machine monitor: one process is one microVM.
//!
//! It must never know of images, pods, containers or Kubernetes: its world is a kernel, memory, vCPUs, devices, and
//! descriptors that somebody else may have opened for it.

pub mod api;
