//! Hands out address windows and interrupts to virtio-mmio devices.

use super::{ArchError, layout};
use vm_allocator::{AddressAllocator, AllocPolicy};

/// Where one virtio-mmio device lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Guest-physical base of its window.
    pub base: u64,
    /// Length of the window in bytes.
    pub size: u64,
    /// Its interrupt: an IOAPIC pin, edge-triggered, shared when there are more devices than pins.
    pub gsi: u32,
}

/// The supply.
#[derive(Debug)]
pub struct Places {
    windows: AddressAllocator,
    taken: u32,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            windows: AddressAllocator::new(layout::VIRTIO_MMIO_BASE, layout::VIRTIO_MMIO_SIZE)
                .expect("a constant range that does not wrap"),
            taken: 0,
        }
    }
}

impl Places {
    /// How many devices find a place.
    pub const MAX: u32 = 64;
    /// Interrupts for them.
    const GSIS: u32 = layout::VIRTIO_GSI_LAST - layout::VIRTIO_GSI_FIRST + 1;

    /// The next place, in ascending order: the guest probes devices in this order. Interrupts are handed out in turn, so the first
    /// [`Self::GSIS`] devices have one each if there are no more.
    pub fn allocate(&mut self) -> Result<Place, ArchError> {
        let full = || ArchError::TooManyDevices(Self::MAX);
        if self.taken == Self::MAX {
            return Err(full());
        }
        let gsi = layout::VIRTIO_GSI_FIRST + self.taken % Self::GSIS;
        let size = layout::VIRTIO_MMIO_WINDOW;
        let window = self.windows.allocate(size, size, AllocPolicy::FirstMatch).map_err(|_| full())?;
        self.taken += 1;
        Ok(Place { base: window.start(), size, gsi })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_ascend_and_run_out_with_an_error() {
        let mut places = Places::default();
        let all: Vec<_> = (0..Places::MAX).map(|_| places.allocate().unwrap()).collect();
        assert!(all.windows(2).all(|pair| pair[0].base < pair[1].base));
        assert!(all[..18].windows(2).all(|pair| pair[0].gsi < pair[1].gsi));
        // From the nineteenth on they share.
        assert!(all.iter().zip(&all[18..]).all(|(first, later)| first.gsi == later.gsi));
        assert!(matches!(places.allocate(), Err(ArchError::TooManyDevices(64))));
    }
}
