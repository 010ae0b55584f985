//! MSI-X (PCI 3.0, 6.8.2): a table of messages, a mask for each and one for all, and an array of pending bits.
//!
//! A message that is masked is a line that is not connected: what is signalled waits in its event, which is the pending bit, and
//! goes out when the line is connected again. So masking costs nothing on the way of an interrupt.

use super::{ConfigSpace, Line, Wiring};
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;
use vmm_sys_util::eventfd::EventFd;

const CAPABILITY_ID: u8 = 0x11;
/// Bytes of a table entry.
const ENTRY: u64 = 16;
/// Message control: everything is masked, MSI-X is on (6.8.2.3).
const CONTROL_MASK: u16 = 1 << 14;
const CONTROL_ENABLE: u16 = 1 << 15;
/// Vector control: this one is masked (6.8.2.9).
const VECTOR_MASKED: u32 = 1;

/// A write to memory that the interrupt controllers take for an interrupt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Where to.
    pub address: u64,
    /// What.
    pub data: u32,
}

/// One entry of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What is sent.
    pub message: Message,
    /// Whether it waits.
    pub masked: bool,
    /// Whether one waits.
    pub pending: bool,
}

/// What crosses from one process to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MsixState {
    /// The table.
    pub entries: Vec<Entry>,
    /// MSI-X is on.
    pub enabled: bool,
    /// Everything is masked.
    pub masked: bool,
}

struct Vector {
    line: Box<dyn Line>,
    message: Message,
    masked: bool,
    connected: Option<Message>,
}

/// The table of one function.
pub struct Msix {
    vectors: Vec<Vector>,
    capability: u16,
    enabled: bool,
    masked: bool,
}

impl Msix {
    /// A table of `count` messages (1 to 2048), whose capability is added to `space`: the table is at `table` of BAR 0, the pending bits
    /// are at `pending`; both are multiples of 8.
    ///
    /// # Errors
    /// No line can be had.
    pub fn new(
        wiring: &dyn Wiring,
        count: u16,
        space: &mut ConfigSpace,
        table: u32,
        pending: u32,
    ) -> io::Result<Self> {
        let vector = |_| {
            let (line, message) = (wiring.line()?, Message::default());
            // "Mask: 1b after reset" (6.8.2.9).
            Ok(Vector { line, message, masked: true, connected: None })
        };
        let vectors = (0..count).map(vector).collect::<io::Result<_>>()?;
        let mut body = [0; 10];
        body[..2].copy_from_slice(&(count - 1).to_le_bytes());
        body[2..6].copy_from_slice(&table.to_le_bytes());
        body[6..].copy_from_slice(&pending.to_le_bytes());
        let capability = space.add_capability(CAPABILITY_ID, &body, &[0, 0xc0]);
        Ok(Self { vectors, capability, enabled: false, masked: false })
    }

    /// How many messages there are.
    pub fn len(&self) -> u16 {
        self.vectors.len() as u16
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.vectors.is_empty()
    }

    /// What is written to for each message.
    pub fn events(&self) -> Vec<Arc<EventFd>> {
        self.vectors.iter().map(|vector| Arc::clone(vector.line.event())).collect()
    }

    /// Whether messages are sent, or wait, at all.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// Looks at message control again, after the configuration space was written.
    pub fn control_changed(&mut self, space: &ConfigSpace) {
        let mut control = [0; 2];
        space.read(self.capability + 2, &mut control);
        let control = u16::from_le_bytes(control);
        (self.enabled, self.masked) = (control & CONTROL_ENABLE != 0, control & CONTROL_MASK != 0);
        (0..self.vectors.len()).for_each(|index| self.refresh(index));
    }

    /// Connects a line or takes it off, as the masks say.
    fn refresh(&mut self, index: usize) {
        let vector = &mut self.vectors[index];
        let wanted = (self.enabled && !self.masked && !vector.masked).then_some(vector.message);
        if wanted == vector.connected {
            return;
        }
        match wanted {
            // What KVM does not take is not sent: it is the guest's own message.
            Some(message) => vector.connected = vector.line.connect(message).ok().map(|()| message),
            None => {
                vector.line.disconnect();
                vector.connected = None;
            }
        }
        if vector.connected.is_none() {
            vector.line.disconnect();
        }
    }

    /// Reads the table, 32 or 64 bits at a time (6.8.2); what is not there is zeroes.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Some((index, field)) = self.find(offset, data.len()) else { return };
        let Vector { message, masked, .. } = &self.vectors[index];
        let mut entry = [0; ENTRY as usize];
        entry[..8].copy_from_slice(&message.address.to_le_bytes());
        entry[8..12].copy_from_slice(&message.data.to_le_bytes());
        entry[12..].copy_from_slice(&u32::from(*masked).to_le_bytes());
        data.copy_from_slice(&entry[field..field + data.len()]);
    }

    /// Writes the table, 32 or 64 bits at a time.
    pub fn write_table(&mut self, offset: u64, data: &[u8]) {
        let Some((index, field)) = self.find(offset, data.len()) else { return };
        for (part, word) in data.chunks_exact(4).enumerate() {
            let value = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            let vector = &mut self.vectors[index];
            let address = &mut vector.message.address;
            match field / 4 + part {
                0 => *address = *address & !u64::from(u32::MAX) | u64::from(value & !3),
                1 => *address = *address & u64::from(u32::MAX) | u64::from(value) << 32,
                2 => vector.message.data = value,
                _ => vector.masked = value & VECTOR_MASKED != 0,
            }
        }
        self.refresh(index);
    }

    /// The entry that an access lies in, and where.
    fn find(&self, offset: u64, len: usize) -> Option<(usize, usize)> {
        let (index, field) = (usize::try_from(offset / ENTRY).ok()?, (offset % ENTRY) as usize);
        ((len == 4 || len == 8) && field % len == 0 && index < self.vectors.len()).then_some((index, field))
    }

    /// Reads the pending bits, 64 to a word.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let bits = self.vectors.iter().enumerate().filter(|(_, vector)| vector.is_pending());
        for (index, _) in bits {
            let byte = (index as u64 / 8).checked_sub(offset).and_then(|at| usize::try_from(at).ok());
            if let Some(byte) = byte.and_then(|at| data.get_mut(at)) {
                *byte |= 1 << (index % 8);
            }
        }
    }

    /// For a new process.
    pub fn save(&self) -> MsixState {
        let entry = |vector: &Vector| Entry {
            message: vector.message,
            masked: vector.masked,
            pending: vector.is_pending(),
        };
        MsixState {
            entries: self.vectors.iter().map(entry).collect(),
            enabled: self.enabled,
            masked: self.masked,
        }
    }

    /// Takes over a saved table; `false` if it is another function's.
    pub fn restore(&mut self, state: &MsixState, space: &mut ConfigSpace) -> bool {
        if state.entries.len() != self.vectors.len() {
            return false;
        }
        let bit = |set: bool, bit: u16| if set { bit } else { 0 };
        let control = bit(state.enabled, CONTROL_ENABLE) | bit(state.masked, CONTROL_MASK);
        space.write(self.capability + 2, &control.to_le_bytes());
        for (vector, entry) in self.vectors.iter_mut().zip(&state.entries) {
            (vector.message, vector.masked) = (entry.message, entry.masked);
            if entry.pending {
                let _ = vector.line.event().write(1);
            }
        }
        self.control_changed(space);
        true
    }
}

impl Vector {
    /// Whether a message waits: its event was written to and nobody has taken that yet.
    fn is_pending(&self) -> bool {
        let event = self.line.event();
        // Reading takes it, so it goes back; one more that comes in between is the same bit.
        self.connected.is_none() && event.read().is_ok_and(|_| event.write(1).is_ok())
    }
}
