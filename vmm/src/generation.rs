//! How a guest hears that it is a copy: VM Generation ID and VMClock, two places in its memory that only the host writes.
//!
//! Whoever lets a second VM go on from a first one's state gives it another number in both and raises their interrupt. Linux mixes the
//! first into its random numbers; the second is for programs, which map its page. There is no clock in it: its counters tell that time, and
//! the machine, have jumped.

use crate::arch::layout;
use crate::memory::GuestMemory;
use std::io;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};
use vmm_sys_util::eventfd::EventFd;

/// Bytes of a generation ID (Microsoft, "Virtual Machine Generation ID").
const ID_BYTES: usize = 16;

/// `struct vmclock_abi` of linux/vmclock-abi.h (the VMClock specification of the UAPI group).
const MAGIC: u32 = 0x4b4c_4356;
const VERSION: u16 = 1;
/// VMCLOCK_COUNTER_INVALID: no counter of the processor is described.
const COUNTER_INVALID: u8 = 0xff;
/// VMCLOCK_FLAG_VM_GEN_COUNTER_PRESENT, VMCLOCK_FLAG_NOTIFICATION_PRESENT.
const FLAGS: u64 = 1 << 8 | 1 << 9;
/// Offsets of the fields that are not zero.
const SIZE_AT: u64 = 4;
const VERSION_AT: u64 = 8;
const COUNTER_AT: u64 = 10;
const SEQUENCE_AT: u64 = 12;
const DISRUPTION_AT: u64 = 16;
const FLAGS_AT: u64 = 24;
const GENERATION_AT: u64 = 104;

/// Why a guest was not told.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// No random numbers.
    #[error("the host gives no random numbers for a generation ID")]
    Random(#[source] io::Error),
    /// Not written.
    #[error("the guest's memory has no room for its generation ID")]
    Memory(#[from] GuestMemoryError),
    /// No interrupt.
    #[error("the interrupt of the generation ID could not be raised")]
    Interrupt(#[source] io::Error),
}

/// The two places of a machine, and their interrupt.
pub struct Generation {
    memory: GuestMemory,
    interrupt: EventFd,
}

impl Generation {
    /// Makes both, with a random ID. `interrupt` is that of [`layout::GENERATION_GSI`].
    ///
    /// # Errors
    /// See [`GenerationError`].
    pub fn new(memory: GuestMemory, interrupt: EventFd) -> Result<Self, GenerationError> {
        let this = Self { memory, interrupt };
        let at = |offset| GuestAddress(layout::VMCLOCK + offset);
        this.memory.write_obj(MAGIC, at(0))?;
        this.memory.write_obj(layout::VMCLOCK_SIZE as u32, at(SIZE_AT))?;
        this.memory.write_obj(VERSION, at(VERSION_AT))?;
        this.memory.write_obj(COUNTER_INVALID, at(COUNTER_AT))?;
        this.memory.write_obj(FLAGS, at(FLAGS_AT))?;
        this.write_id()?;
        Ok(this)
    }

    fn write_id(&self) -> Result<(), GenerationError> {
        let mut id = [0; ID_BYTES];
        crate::sys::random(&mut id).map_err(GenerationError::Random)?;
        Ok(self.memory.write_slice(&id, GuestAddress(layout::GENERATION_ID))?)
    }

    /// Tells the guest that it is a copy from now on.
    ///
    /// # Errors
    /// See [`GenerationError`].
    pub fn change(&self) -> Result<(), GenerationError> {
        self.write_id()?;
        // What is between two equal even numbers belongs together. The stores are ordered by x86 and by the volatile accesses.
        let sequence: u32 = self.clock(SEQUENCE_AT)?;
        self.set_clock(SEQUENCE_AT, sequence.wrapping_add(1) | 1)?;
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        for counter in [DISRUPTION_AT, GENERATION_AT] {
            let value: u64 = self.clock(counter)?;
            self.set_clock(counter, value.wrapping_add(1))?;
        }
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.set_clock(SEQUENCE_AT, (sequence.wrapping_add(1) | 1).wrapping_add(1))?;
        self.interrupt.write(1).map_err(GenerationError::Interrupt)
    }

    fn clock<T: vm_memory::ByteValued>(&self, offset: u64) -> Result<T, GuestMemoryError> {
        self.memory.read_obj(GuestAddress(layout::VMCLOCK + offset))
    }

    fn set_clock<T: vm_memory::ByteValued>(&self, offset: u64, value: T) -> Result<(), GuestMemoryError> {
        self.memory.write_obj(value, GuestAddress(layout::VMCLOCK + offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    fn id(memory: &GuestMemory) -> [u8; ID_BYTES] {
        let mut id = [0; ID_BYTES];
        memory.read_slice(&mut id, GuestAddress(layout::GENERATION_ID)).unwrap();
        id
    }

    #[test]
    fn a_copy_gets_another_id_other_counters_and_an_interrupt() {
        let memory = crate::memory::scratch(1 << 20, None).unwrap();
        let interrupt = EventFd::new(EFD_NONBLOCK).unwrap();
        let generation = Generation::new(memory.clone(), interrupt.try_clone().unwrap()).unwrap();
        let first = id(&memory);
        assert!(interrupt.read().is_err());
        generation.change().unwrap();
        assert_ne!(id(&memory), first);
        assert_eq!(interrupt.read().unwrap(), 1);
        let clock = |offset| generation.clock::<u64>(offset).unwrap();
        assert_eq!((clock(DISRUPTION_AT), clock(GENERATION_AT), clock(0)), (1, 1, 0x1000_4b4c_4356));
        assert_eq!(generation.clock::<u32>(SEQUENCE_AT).unwrap(), 2);
    }

    #[test]
    fn a_guest_that_spoils_its_own_counters_harms_only_itself() {
        let memory = crate::memory::scratch(1 << 20, None).unwrap();
        let interrupt = EventFd::new(EFD_NONBLOCK).unwrap();
        let generation = Generation::new(memory.clone(), interrupt).unwrap();
        memory.write_slice(&[0xff; 112], GuestAddress(layout::VMCLOCK)).unwrap();
        generation.change().unwrap();
        assert_eq!(generation.clock::<u32>(SEQUENCE_AT).unwrap() & 1, 0);
    }
}
