//! A function's own part of a saved state.

use super::PciTransport;
use super::messages::NO_VECTOR;
use crate::pci::msix::MsixState;
use serde::{Deserialize, Serialize};

/// What PCI adds to a transport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PciState {
    /// The command register.
    pub command: u16,
    /// BAR 0 and 1.
    pub bar: u64,
    /// The window through configuration space: its BAR, offset and length.
    pub window: (u8, u32, u32),
    /// The interrupt line register, software's own note.
    pub interrupt_line: u8,
    /// The table of messages.
    pub msix: MsixState,
    /// Which message is for the configuration.
    pub config_vector: u16,
    /// Which are for the queues.
    pub queue_vectors: Vec<u16>,
}

const COMMAND: u16 = 0x04;
const BAR: u16 = 0x10;
const INTERRUPT_LINE: u16 = 0x3c;

impl PciTransport {
    fn register<const N: usize>(&self, register: u16) -> [u8; N] {
        let mut data = [0; N];
        self.space.read(register, &mut data);
        data
    }

    pub(super) fn save_pci(&self) -> PciState {
        let [bar, aim] = self.window.registers();
        let queues = 0..self.core.queue_events().len() as u32;
        PciState {
            command: u16::from_le_bytes(self.register(COMMAND)),
            bar: u64::from_le_bytes(self.register(BAR)),
            window: (
                u8::from_le_bytes(self.register(bar.start)),
                u32::from_le_bytes(self.register(aim.start)),
                u32::from_le_bytes(self.register(aim.start + 4)),
            ),
            interrupt_line: u8::from_le_bytes(self.register(INTERRUPT_LINE)),
            msix: self.msix.save(),
            config_vector: self.vectors.config(),
            queue_vectors: queues.map(|queue| self.vectors.queue(queue)).collect(),
        }
    }

    /// Takes over the registers; whoever has the function on a bus looks where its BAR is wanted afterwards.
    pub(super) fn restore_pci(&mut self, state: &PciState) -> Result<(), &'static str> {
        let count = self.msix.len();
        let mapped = |vector: &u16| *vector < count || *vector == NO_VECTOR;
        if state.queue_vectors.len() != self.core.queue_events().len()
            || !state.queue_vectors.iter().chain([&state.config_vector]).all(mapped)
        {
            return Err("its queues call with messages that do not exist");
        }
        if state.msix.entries.len() != usize::from(count) {
            return Err("it has another number of interrupt messages");
        }
        let [bar, aim] = self.window.registers();
        self.space.write(COMMAND, &state.command.to_le_bytes());
        self.space.write(BAR, &state.bar.to_le_bytes());
        self.space.write(bar.start, &state.window.0.to_le_bytes());
        self.space.write(aim.start, &state.window.1.to_le_bytes());
        self.space.write(aim.start + 4, &state.window.2.to_le_bytes());
        self.space.write(INTERRUPT_LINE, &[state.interrupt_line]);
        self.msix.restore(&state.msix, &mut self.space);
        self.vectors.set_config(state.config_vector);
        for (queue, vector) in (0..).zip(&state.queue_vectors) {
            self.vectors.set_queue(queue, *vector);
        }
        self.vectors.enable(self.msix.enabled());
        Ok(())
    }
}
