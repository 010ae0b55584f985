//! What differs between processor architectures: memory map, tables, registers at entry, CPU features.
//!
//! The rest of the crate names only the items that this module re-exports; a new architecture is a new folder with the
//! same items.

#[cfg(not(target_arch = "x86_64"))]
compile_error!("vial-vmm knows x86_64 only; a port is a new folder beside arch/x86_64");

mod x86_64;

pub use x86_64::*;
