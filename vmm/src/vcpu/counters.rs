//! Counts VM exits that reach this process. Those that KVM handles itself (ioeventfd, HLT, most of the APIC) don't.

use std::sync::atomic::{AtomicU64, Ordering};

/// Kinds of exits, by KVM_EXIT_*; ports and memory by direction too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitKind {
    /// KVM_EXIT_IO, in.
    IoIn,
    /// KVM_EXIT_IO, out.
    IoOut,
    /// KVM_EXIT_MMIO, read.
    MmioRead,
    /// KVM_EXIT_MMIO, write.
    MmioWrite,
    /// EINTR: a kick or another signal.
    Intr,
    /// Everything else.
    Other,
}

impl ExitKind {
    const ALL: [Self; 6] =
        [Self::IoIn, Self::IoOut, Self::MmioRead, Self::MmioWrite, Self::Intr, Self::Other];

    /// Name in [`crate::api::control::Reply`].
    pub fn name(self) -> &'static str {
        match self {
            Self::IoIn => "io_in",
            Self::IoOut => "io_out",
            Self::MmioRead => "mmio_read",
            Self::MmioWrite => "mmio_write",
            Self::Intr => "intr",
            Self::Other => "other",
        }
    }
}

/// Counters of one vCPU: written by its thread only, read by anyone. Aligned so that no two vCPUs share a cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters([AtomicU64; ExitKind::ALL.len()]);

impl Counters {
    /// One more.
    pub fn add(&self, kind: ExitKind) {
        let counter = &self.0[kind as usize];
        // A plain increment is enough with a single writer, and needs no locked instruction.
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// All of them.
    pub fn read(&self) -> impl Iterator<Item = (ExitKind, u64)> + '_ {
        ExitKind::ALL.iter().zip(&self.0).map(|(kind, counter)| (*kind, counter.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_counted_under_its_own_name() {
        let counters = Counters::default();
        ExitKind::ALL.iter().for_each(|kind| counters.add(*kind));
        counters.add(ExitKind::MmioWrite);
        for (kind, count) in counters.read() {
            assert_eq!(count, if kind == ExitKind::MmioWrite { 2 } else { 1 }, "{}", kind.name());
        }
    }
}
