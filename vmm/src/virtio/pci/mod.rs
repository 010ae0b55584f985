//! The PCI transport (virtio 1.2, section 4.1): modern only, one BAR, a message for the configuration and one for each queue.
//!
//! ```text
//! BAR 0   0x0000 common configuration   0x2000 the device's configuration   0x4000 MSI-X table
//!         0x1000 ISR status             0x3000 kicks, 4 bytes a queue       0x6000 MSI-X pending bits
//! ```

mod capabilities;
mod common;
mod messages;
mod state;
#[cfg(test)]
mod tests;

pub use state::PciState;

use super::transport::{Core, Surroundings, Transport, TransportState};
use super::{DeviceError, VirtioDevice};
use crate::bus::BusDevice;
use crate::pci::{ConfigSpace, Function, Msix, Wiring};
use capabilities::Window;
use messages::Vectors;
use std::io;
use std::sync::Arc;

/// Bytes of the BAR.
pub const BAR_SIZE: u64 = 0x8000;
/// Where kicks go: 4 bytes for each queue.
pub const NOTIFY: u64 = 0x3000;
const COMMON: u64 = 0x0000;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const TABLE: u64 = 0x4000;
const PENDING: u64 = 0x6000;
/// Bytes from one queue's kick to the next one's.
const NOTIFY_STRIDE: u64 = 4;
/// Queues whose kicks and messages fit.
const MAX_QUEUES: usize = 256;

/// A device as a PCI function.
pub struct PciTransport {
    core: Core,
    space: ConfigSpace,
    msix: Msix,
    vectors: Arc<Vectors>,
    window: Window,
    wiring: Arc<dyn Wiring>,
    // Where kicks are taken without an exit.
    placed: Option<u64>,
    // A vCPU that came too late must not start it once more.
    taken_off: bool,
}

impl PciTransport {
    /// Makes a function of `device`, whose BAR lies at `bar` until the guest moves it: a multiple of [`BAR_SIZE`].
    ///
    /// # Errors
    /// No event can be made, no interrupt message is left, or the device has more than 256 queues.
    pub fn new(
        surroundings: Surroundings,
        device: Box<dyn VirtioDevice>,
        wiring: Arc<dyn Wiring>,
        bar: u64,
    ) -> io::Result<Self> {
        let queues = device.queue_sizes().len();
        if queues > MAX_QUEUES {
            return Err(io::Error::other(format!("{} has {queues} queues, more than 256", device.name())));
        }
        let mut space = ConfigSpace::new(capabilities::ids(device.device_type()));
        space.add_bar(BAR_SIZE, bar);
        let window = Window::add(&mut space, queues);
        let msix = Msix::new(wiring.as_ref(), queues as u16 + 1, &mut space, TABLE as u32, PENDING as u32)?;
        let vectors = Arc::new(Vectors::new(msix.events(), queues, Arc::clone(&surroundings.interrupts)));
        let core = Core::new(surroundings, device, Arc::clone(&vectors) as _)?;
        Ok(Self { core, space, msix, vectors, window, wiring, placed: None, taken_off: false })
    }

    /// Takes kicks at `base`, or nowhere.
    fn move_kicks(&mut self, base: Option<u64>) {
        let old = std::mem::replace(&mut self.placed, base);
        for (index, event) in (0..).zip(self.core.queue_events()) {
            let at = |base: u64| base + NOTIFY + index * NOTIFY_STRIDE;
            if let Some(old) = old {
                self.wiring.no_kicks(at(old), event);
            }
            if let Some(base) = base {
                self.wiring.kicks(at(base), event);
            }
        }
    }
}

impl BusDevice for PciTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match offset {
            COMMON..ISR => self.read_common(offset - COMMON, data),
            ISR => self.read_isr(data),
            DEVICE..NOTIFY => self.core.read_config(offset - DEVICE, data),
            TABLE..PENDING => self.msix.read_table(offset - TABLE, data),
            PENDING.. => self.msix.read_pending(offset - PENDING, data),
            _ => {}
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if self.taken_off {
            return;
        }
        match offset {
            COMMON..ISR => self.write_common(offset - COMMON, data),
            DEVICE..NOTIFY => self.core.write_config(offset - DEVICE, data),
            // Normally the host kernel does this through an ioeventfd, and no exit gets here.
            NOTIFY..TABLE if (offset - NOTIFY).is_multiple_of(NOTIFY_STRIDE) => {
                self.core.notify(((offset - NOTIFY) / NOTIFY_STRIDE) as u32);
            }
            TABLE..PENDING => self.msix.write_table(offset - TABLE, data),
            _ => {}
        }
    }
}

impl Function for PciTransport {
    fn read_config(&mut self, register: u16, data: &mut [u8]) {
        if let Some((offset, len)) = self.window.reaches(&self.space, register, data.len()) {
            return self.read(offset, &mut data[..len]);
        }
        self.space.read(register, data);
    }

    fn write_config(&mut self, register: u16, data: &[u8]) {
        // Its messages too are off for good.
        if self.taken_off {
            return;
        }
        self.space.write(register, data);
        if let Some((offset, len)) = self.window.reaches(&self.space, register, data.len()) {
            return self.write(offset, &data[..len]);
        }
        self.msix.control_changed(&self.space);
        self.vectors.enable(self.msix.enabled());
    }

    fn bar_size(&self) -> u64 {
        BAR_SIZE
    }

    fn wanted(&self) -> Option<u64> {
        self.space.bar()
    }

    fn place(&mut self, base: Option<u64>) {
        self.move_kicks(base);
    }

    fn taken_off(&mut self) {
        self.core.reset();
        self.taken_off = true;
    }
}

impl Transport for PciTransport {
    fn core(&self) -> &Core {
        &self.core
    }

    fn core_mut(&mut self) -> &mut Core {
        &mut self.core
    }

    fn save(&mut self) -> Result<TransportState, DeviceError> {
        Ok(TransportState::Pci { core: self.core.save()?, pci: self.save_pci() })
    }

    fn restore(&mut self, state: &TransportState) -> Result<(), DeviceError> {
        let TransportState::Pci { core, pci } = state else {
            return Err(self.core.bad_state("it was saved behind another transport"));
        };
        self.restore_pci(pci).map_err(|why| self.core.bad_state(why))?;
        self.core.restore(core)
    }
}

impl Drop for PciTransport {
    fn drop(&mut self) {
        // What was unplugged takes no kicks any more, and its device leaves the event loop.
        self.move_kicks(None);
        self.core.reset();
    }
}
