//! Kernel and initrd: checked, then brought into guest memory by as many threads as have time.

mod elf;
mod load;
mod note;

pub use elf::{Elf, ElfError, Segment, parse};
pub use load::{LoadError, Loaded, Loader, Source};
