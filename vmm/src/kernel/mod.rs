//! Kernel and initrd: checked, then brought into guest memory by as many threads as have time.

mod bzimage;
mod elf;
mod image;
mod load;
mod note;

pub use bzimage::{BzImage, BzImageError};
pub use elf::{Elf, ElfError, HEAD, Segment};
pub use image::{Kernel, KernelError, parse};
pub use load::{LoadError, Loaded, Loader, Source};
