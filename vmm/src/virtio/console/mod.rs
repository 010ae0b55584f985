//! virtio-console (virtio 1.2, section 5.3): one port, which Linux calls hvc0.
//!
//! The guest's driver waits for its output in a spin loop, so output that nobody reads must not hold it up, and the event loop
//! even less. What does not fit into a bounded buffer is dropped, and the reader is told how much it was.

#[cfg(test)]
mod tests;

use super::queue::drain;
use super::worker::{Interest, Source, Worker, WorkerSlot};
use super::{
    ActivateContext, Chain, DeviceError, DeviceQueue, DeviceState, GuestMemory, Interrupt, RingError,
    VirtioDevice, io,
};
use event_manager::EventSet;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;
use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent};

const QUEUE_SIZES: [u16; 2] = [64, 64];
const RECEIVE: u32 = 0;
const TRANSMIT: u32 = 1;
const INPUT: u32 = 2;
const OUTPUT: u32 = 3;

/// Bytes of output that may wait for their reader.
pub const OUTPUT_BUFFER: usize = 256 << 10;
/// Bytes that go to a terminal at once: it is shared with others, so it is not made non-blocking, and when it says that it is
/// writable it has room for about this much.
const TERMINAL_CHUNK: usize = 256;

/// The device.
pub struct Console {
    input: Option<Arc<Input>>,
    output: Option<Arc<Output>>,
    worker: WorkerSlot<ConsoleWorker>,
}

struct Input {
    file: File,
    // Regular files and /dev/null can't be watched: they are always ready.
    watched: bool,
}

struct Output {
    file: File,
    kind: OutputKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum OutputKind {
    /// Regular files: writing never waits for a reader.
    Always,
    /// Pipes and sockets, which are this process's own.
    NonBlocking,
    /// Terminals.
    Polled,
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

impl Input {
    fn new(file: File) -> std::io::Result<Self> {
        Ok(Self { watched: can_be_watched(&file)?, file })
    }
}

impl Output {
    fn new(file: File) -> std::io::Result<Self> {
        let kind = if !can_be_watched(&file)? {
            OutputKind::Always
        } else if file.metadata()?.file_type().is_char_device() {
            OutputKind::Polled
        } else {
            io::set_nonblocking(&file)?;
            OutputKind::NonBlocking
        };
        Ok(Self { file, kind })
    }
}

fn can_be_watched(file: &File) -> std::io::Result<bool> {
    match Epoll::new()?.ctl(ControlOperation::Add, file.as_raw_fd(), EpollEvent::default()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(false),
        Err(error) => Err(error),
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
                output,
                waiting: VecDeque::new(),
                dropped: 0,
                writing: false,
            })
        })
    }

    fn reset(&mut self) {
        if let Some(worker) = self.worker.stop() {
            // What ended stays ended: a terminal that hung up does not come back with the next driver.
            (self.input, self.output) = (worker.input, worker.output);
        }
    }

    fn pause(&mut self) {
        self.worker.pause();
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
    output: Option<Arc<Output>>,
    waiting: VecDeque<u8>,
    dropped: u64,
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
        let Self { memory, transmit, interrupt, chain, waiting, dropped, output, .. } = self;
        drain(transmit, memory, interrupt.as_ref(), chain, |chain| {
            let room = OUTPUT_BUFFER - waiting.len().min(OUTPUT_BUFFER);
            let taken =
                if output.is_some() && *dropped == 0 { room.min(chain.readable_len() as usize) } else { 0 };
            for slice in chain.readable_slices(memory, 0, taken as u32) {
                let mut bytes = vec![0; slice.len()];
                slice.copy_to(&mut bytes[..]);
                waiting.extend(bytes);
            }
            *dropped += u64::from(chain.readable_len()) - taken as u64;
            Ok(0)
        })?;
        self.write_output(false, interest);
        Ok(())
    }

    /// Writes what the output takes. `ready`: the loop says that it is writable.
    fn write_output(&mut self, ready: bool, interest: &mut Interest<'_, '_>) {
        let Some(output) = self.output.clone() else {
            self.waiting = VecDeque::new();
            self.dropped = 0;
            return;
        };
        let polled = output.kind == OutputKind::Polled;
        while !self.waiting.is_empty() && (!polled || ready) {
            let (first, _) = self.waiting.as_slices();
            let len = first.len().min(if polled { TERMINAL_CHUNK } else { OUTPUT_BUFFER });
            match (&output.file).write(&first[..len]) {
                Ok(written) => drop(self.waiting.drain(..written)),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // Nobody will ever read it, or the disk is full: the guest must not suffer for that.
                Err(_) if output.kind != OutputKind::Always => {
                    self.output = None;
                    self.waiting.clear();
                }
                Err(_) => self.waiting.clear(),
            }
            if self.waiting.is_empty() && self.dropped > 0 {
                let lost = std::mem::take(&mut self.dropped);
                self.waiting.extend(format!("\r\n[{lost} bytes of console output lost]\r\n").into_bytes());
            }
            if polled {
                break;
            }
        }
        let watch = !self.waiting.is_empty() && self.output.is_some();
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
        if let Some(output) = self.output.as_ref().filter(|_| self.writing) {
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
