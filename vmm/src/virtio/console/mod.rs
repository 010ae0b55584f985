//! virtio-console (virtio 1.2, section 5.3): one port, which Linux calls hvc0.
//!
//! The guest's driver waits for its output in a spin loop, so output that nobody reads must not hold it up, and the event loop
//! even less. What does not fit into a bounded buffer is dropped, and the reader is told how much it was.

mod output;
#[cfg(test)]
#[path = "."]
mod over_mmio {
    use crate::virtio::testing::Guest;
    #[path = "tests.rs"]
    mod tests;
}
#[cfg(test)]
#[path = "."]
mod over_pci {
    use crate::virtio::testing::PciGuest as Guest;
    #[path = "tests.rs"]
    mod tests;
}

pub use output::OUTPUT_BUFFER;
pub(crate) use output::{Input, Output, OutputBuffer};

use super::queue::drain;
use super::worker::{Interest, Source, Worker, WorkerSlot};
use super::{
    ActivateContext, Chain, DeviceError, DeviceQueue, DeviceState, GuestMemory, Interrupt, RingError,
    VirtioDevice,
};
use event_manager::EventSet;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::sync::Arc;
use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;

const QUEUE_SIZES: [u16; 2] = [64, 64];
const RECEIVE: u32 = 0;
const TRANSMIT: u32 = 1;
const INPUT: u32 = 2;
const OUTPUT: u32 = 3;

/// The device.
pub struct Console {
    input: Option<Arc<Input>>,
    output: Option<Arc<Output>>,
    worker: WorkerSlot<ConsoleWorker>,
}

impl Console {
    /// A console that reads `input` and writes `output`; without one nothing comes, or goes anywhere.
    /// Pipes and sockets are made non-blocking.
    ///
    /// # Errors
    /// A file's kind can't be found out.
    pub fn new(input: Option<File>, output: Option<File>) -> std::io::Result<Self> {
        Ok(Self {
            input: input.map(Input::new).transpose()?.map(Arc::new),
            output: output.map(Output::new).transpose()?.map(Arc::new),
            worker: WorkerSlot::new(),
        })
    }
}

impl VirtioDevice for Console {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_CONSOLE
    }

    fn name(&self) -> &str {
        "console"
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        0
    }

    // Every field belongs to a feature that is not offered.
    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, context: ActivateContext) -> Result<(), DeviceError> {
        let (input, output) = (self.input.clone(), self.output.clone());
        self.worker.start("console", context, |mut context| {
            Ok(ConsoleWorker {
                receive: context.take_queue(),
                transmit: context.take_queue(),
                memory: context.memory,
                interrupt: context.interrupt,
                chain: Chain::default(),
                reading: input.as_ref().is_some_and(|input| input.watched),
                input,
                output: OutputBuffer::new(output),
                writing: false,
            })
        })
    }

    fn reset(&mut self) {
        if let Some(worker) = self.worker.stop() {
            // What ended stays ended: a terminal that hung up does not come back with the next driver.
            (self.input, self.output) = (worker.input, worker.output.output);
        }
    }

    fn pause(&mut self) -> bool {
        self.worker.pause()
    }

    fn save(&mut self) -> Result<DeviceState, DeviceError> {
        self.worker.save("console")
    }

    fn restore(&mut self, _state: &serde_json::Value) -> Result<(), DeviceError> {
        // Output that waits is for this process's reader; a new process has another one.
        Ok(())
    }

    fn resume(&mut self) -> Result<(), DeviceError> {
        self.worker.resume()
    }
}

struct ConsoleWorker {
    memory: GuestMemory,
    receive: DeviceQueue,
    transmit: DeviceQueue,
    interrupt: Arc<dyn Interrupt>,
    chain: Chain,
    input: Option<Arc<Input>>,
    output: OutputBuffer,
    // Whether the loop watches the input, and the output.
    reading: bool,
    writing: bool,
}

impl ConsoleWorker {
    /// Gives the guest what was typed. `ready`: the loop says that a read does not wait.
    fn receive_input(&mut self, ready: bool, interest: &mut Interest<'_, '_>) -> Result<(), RingError> {
        let Some(input) = self.input.clone() else { return Ok(()) };
        let mut starved = false;
        // Terminals and pipes block, so a kick only makes the loop watch them again.
        let reads = if ready || !input.watched { self.receive.size() } else { 0 };
        for _ in 0..reads {
            if !self.receive.pop(&self.memory, &mut self.chain)? {
                if self.receive.listen(&self.memory)? {
                    continue;
                }
                starved = true;
                break;
            }
            if self.chain.writable_len() == 0 {
                return Err(RingError::Malformed("has no room for input"));
            }
            let mut bytes = [0; 4096];
            let room = bytes.len().min(self.chain.writable_len() as usize);
            match (&input.file).read(&mut bytes[..room]) {
                Ok(len) if len > 0 => {
                    let written = self.chain.write_at(&self.memory, 0, &bytes[..len]);
                    self.receive.complete(&self.memory, self.chain.head(), written as u32)?;
                    // A second read of a terminal might wait.
                    if input.watched {
                        break;
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    self.receive.undo_pop();
                    break;
                }
                // The end, or a terminal that hung up: the guest sees no more input, which is all that a console can say.
                _ => {
                    self.receive.undo_pop();
                    self.input = None;
                    break;
                }
            }
        }
        self.receive.signal(&self.memory, self.interrupt.as_ref())?;
        let watch = self.input.is_some() && input.watched && !starved;
        match (self.reading, watch) {
            (true, false) => interest.ignore(&input.file),
            (false, true) => interest.watch(&input.file, INPUT, EventSet::IN),
            _ => {}
        }
        self.reading = watch;
        Ok(())
    }

    fn transmit_output(&mut self, interest: &mut Interest<'_, '_>) -> Result<(), RingError> {
        let Self { memory, transmit, interrupt, chain, output, .. } = self;
        drain(transmit, memory, interrupt.as_ref(), chain, |chain| {
            let taken = output.admit(chain.readable_len() as usize);
            for slice in chain.readable_slices(memory, 0, taken as u32) {
                let mut bytes = vec![0; slice.len()];
                slice.copy_to(&mut bytes[..]);
                output.push(bytes);
            }
            Ok(0)
        })?;
        self.write_output(false, interest);
        Ok(())
    }

    /// Writes what the output takes. `ready`: the loop says that it is writable.
    fn write_output(&mut self, ready: bool, interest: &mut Interest<'_, '_>) {
        let Some(output) = self.output.output.clone() else {
            self.output.write(ready);
            return;
        };
        let watch = self.output.write(ready);
        match (self.writing, watch) {
            (true, false) => interest.ignore(&output.file),
            (false, true) => interest.watch(&output.file, OUTPUT, EventSet::OUT),
            _ => {}
        }
        self.writing = watch;
    }
}

impl Worker for ConsoleWorker {
    fn sources(&self) -> Vec<Source> {
        let mut sources = vec![
            Source::readable(self.receive.event(), RECEIVE),
            Source::readable(self.transmit.event(), TRANSMIT),
        ];
        if let Some(input) = self.input.as_ref().filter(|_| self.reading) {
            sources.push(Source::readable(&input.file, INPUT));
        }
        if let Some(output) = self.output.output.as_ref().filter(|_| self.writing) {
            sources.push(Source::writable(&output.file, OUTPUT));
        }
        sources
    }

    fn process(&mut self, token: u32, interest: &mut Interest<'_, '_>) -> Result<(), RingError> {
        match token {
            TRANSMIT => self.transmit_output(interest),
            OUTPUT => {
                self.write_output(true, interest);
                Ok(())
            }
            RECEIVE => {
                self.receive.clear_event();
                self.receive_input(false, interest)
            }
            _ => self.receive_input(true, interest),
        }
    }

    fn save(&self) -> DeviceState {
        DeviceState {
            queues: vec![self.receive.snapshot(), self.transmit.snapshot()],
            device: serde_json::Value::Null,
        }
    }
}
