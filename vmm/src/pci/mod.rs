//! A PCI bus without bridges (PCI local bus 3.0): configuration space through ECAM, memory BARs that move, interrupts by MSI-X only.
//!
//! Nothing here knows of virtio or of KVM: a [`Function`] is whatever has a configuration space and a BAR, and what a function needs of
//! the machine it gets as [`Wiring`]. A machine without PCI devices has none of this, nor any table that speaks of it.

pub mod config;
pub mod hotplug;
pub mod msix;
pub mod root;
pub mod wiring;

pub use config::{ConfigSpace, Ids};
pub use hotplug::Hotplug;
pub use msix::{Message, Msix};
pub use root::{Root, SLOTS};
pub use wiring::{Line, Wiring};

use crate::bus::BusDevice;

/// A function of a device. Reads and writes as a [`BusDevice`] are those of its BAR.
pub trait Function: BusDevice {
    /// Reads the configuration space at `register`; `data` is all ones when it comes.
    fn read_config(&mut self, register: u16, data: &mut [u8]);

    /// Writes the configuration space at `register`.
    fn write_config(&mut self, register: u16, data: &[u8]);

    /// Length of the BAR in bytes, a power of two.
    fn bar_size(&self) -> u64;

    /// Where the guest wants the BAR, if it wants it anywhere.
    fn wanted(&self) -> Option<u64>;

    /// Where the BAR is from now on, if anywhere: kicks are taken there.
    fn place(&mut self, base: Option<u64>);

    /// It is off the bus for good: what it has under way comes to its end here, in the thread of who took it off, and not where it is
    /// dropped. Whoever still reaches it changes nothing any more.
    fn taken_off(&mut self) {}
}
