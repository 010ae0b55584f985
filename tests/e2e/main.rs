//! End-to-end tests on a host whose KVM boots Linux.

mod bad_guests;
mod bad_input;
mod bench;
mod completion;
mod containers;
mod copy;
mod firecracker_api;
mod hostile_container;
mod image_tree;
mod images;
mod io;
mod kills;
mod life;
mod lists;
mod network;
mod platform;
mod pods;
mod recovery;
mod registry;
mod soak;
mod streams;
mod terminal;
mod usage;
mod vm_command;
