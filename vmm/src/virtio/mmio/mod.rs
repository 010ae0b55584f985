//! The MMIO transport (virtio 1.2, section 4.2.2): one page of registers, one interrupt line, one kick event per queue.
//!
//! Accesses of the wrong width are ignored.

mod registers;

#[cfg(test)]
mod tests;

use super::transport::{Core, Surroundings, Transport, TransportState, Wire};
use super::{DeviceError, VirtioDevice};
use crate::metrics::InterruptMetrics;
use std::io;
use std::sync::Arc;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Bytes of address space that a device takes.
pub const REGION_SIZE: u64 = 0x1000;

/// Offset of QueueNotify, for ioeventfds.
pub const QUEUE_NOTIFY: u64 = 0x50;

/// The registers in front of one device.
pub struct MmioTransport {
    core: Core,
    line: Arc<EventFd>,
}

/// The one line: why it was raised is in InterruptStatus.
struct Line(Arc<EventFd>, Arc<InterruptMetrics>);

impl Wire for Line {
    fn queue(&self, _index: u16) {
        self.config();
    }

    fn config(&self) {
        self.1.triggers.add(1);
        // It fails only if the counter is full, and then the interrupt is pending anyway.
        let _ = self.0.write(1);
    }
}

impl MmioTransport {
    /// Puts registers in front of `device`.
    ///
    /// # Errors
    /// No event can be made.
    pub fn new(surroundings: Surroundings, device: Box<dyn VirtioDevice>) -> io::Result<Self> {
        let line = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        Self::with_line(surroundings, device, line)
    }

    /// The same with an interrupt line that may be other devices' too; the driver finds out whose by each one's InterruptStatus.
    ///
    /// Whoever shares a pin of an interrupt controller must share the event as well: KVM makes an edge of it by raising and
    /// lowering the pin, and what another event raises in between is lost.
    ///
    /// # Errors
    /// No event can be made.
    pub fn with_line(
        surroundings: Surroundings,
        device: Box<dyn VirtioDevice>,
        line: Arc<EventFd>,
    ) -> io::Result<Self> {
        let wire = Line(Arc::clone(&line), Arc::clone(&surroundings.interrupts));
        let core = Core::new(surroundings, device, Arc::new(wire))?;
        Ok(Self { core, line })
    }

    /// The interrupt line, edge triggered: an irqfd.
    pub fn interrupt(&self) -> &EventFd {
        &self.line
    }
}

impl Transport for MmioTransport {
    fn core(&self) -> &Core {
        &self.core
    }

    fn core_mut(&mut self) -> &mut Core {
        &mut self.core
    }

    fn save(&mut self) -> Result<TransportState, DeviceError> {
        Ok(TransportState::Mmio { core: self.core.save()? })
    }

    fn restore(&mut self, state: &TransportState) -> Result<(), DeviceError> {
        let TransportState::Mmio { core } = state else {
            return Err(self.core.bad_state("it was saved behind another transport"));
        };
        self.core.restore(core)?;
        if core.interrupt_status != 0 {
            // The edge may have been lost with the old interrupt controller; one too many harms nobody.
            let _ = self.line.write(1);
        }
        Ok(())
    }
}
