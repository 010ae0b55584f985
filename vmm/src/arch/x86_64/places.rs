//! Hands out address windows and interrupts to virtio-mmio devices.

use super::{ArchError, layout};
use vm_allocator::{AddressAllocator, AllocPolicy, IdAllocator};

/// Where one virtio-mmio device lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Guest-physical base of its window.
    pub base: u64,
    /// Length of the window in bytes.
    pub size: u64,
    /// Its interrupt: an IOAPIC pin, edge-triggered.
    pub gsi: u32,
}

/// The supply.
#[derive(Debug)]
pub struct Places {
    windows: AddressAllocator,
    gsis: IdAllocator,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            windows: AddressAllocator::new(layout::VIRTIO_MMIO_BASE, layout::VIRTIO_MMIO_SIZE)
                .expect("a constant range that does not wrap"),
            gsis: IdAllocator::new(layout::VIRTIO_GSI_FIRST, layout::VIRTIO_GSI_LAST)
                .expect("a constant range in ascending order"),
        }
    }
}

impl Places {
    /// How many devices find a place.
    pub const MAX: u32 = layout::VIRTIO_GSI_LAST - layout::VIRTIO_GSI_FIRST + 1;

    /// The next place, in ascending order: the guest probes devices in this order.
    pub fn allocate(&mut self) -> Result<Place, ArchError> {
        let full = || ArchError::TooManyDevices(Self::MAX);
        let gsi = self.gsis.allocate_id().map_err(|_| full())?;
        let size = layout::VIRTIO_MMIO_WINDOW;
        let window = self.windows.allocate(size, size, AllocPolicy::FirstMatch).map_err(|_| full())?;
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
        assert!(all.windows(2).all(|pair| pair[0].base < pair[1].base && pair[0].gsi < pair[1].gsi));
        assert!(matches!(places.allocate(), Err(ArchError::TooManyDevices(18))));
    }
}
