//! The daemon: wires images, VMs and pods, and recovers after a crash.
