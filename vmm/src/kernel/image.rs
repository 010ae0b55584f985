//! A kernel file of either form: an ELF `vmlinux` or a bzImage.

use super::bzimage::{self, BzImage, BzImageError};
use super::elf::{self, Elf, ElfError, Segment};
use std::ops::Range;

/// Why a file is not a kernel that can be booted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// As a `vmlinux`.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// As a bzImage.
    #[error(transparent)]
    BzImage(#[from] BzImageError),
}

/// A checked kernel.
#[derive(Debug, Clone, PartialEq)]
pub enum Kernel {
    /// Uncompressed: segments where they belong.
    Elf(Elf),
    /// Compressed: it unpacks itself.
    BzImage(Box<BzImage>),
}

impl Kernel {
    /// What is loaded.
    pub fn segments(&self) -> &[Segment] {
        match self {
            Self::Elf(elf) => &elf.segments,
            Self::BzImage(image) => std::slice::from_ref(&image.segment),
        }
    }

    /// First guest-physical address behind everything that the kernel takes before it knows of an initrd.
    pub fn end(&self) -> u64 {
        let ends = self.segments().iter().map(|segment| segment.address + segment.memory_len);
        ends.max().unwrap_or(0)
    }
}

/// Parses `head`, the first [`super::HEAD`] bytes (or all) of a file of `len` bytes, for RAM in `ram`.
///
/// # Errors
/// It is no kernel, is damaged, or does not fit.
pub fn parse(head: &[u8], len: u64, ram: &Range<u64>) -> Result<Kernel, KernelError> {
    if bzimage::is_one(head) {
        Ok(Kernel::BzImage(Box::new(bzimage::parse(head, len, ram)?)))
    } else {
        Ok(Kernel::Elf(elf::parse(head, len, ram)?))
    }
}
