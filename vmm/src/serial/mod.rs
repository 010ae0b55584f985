//! A 16550 serial port (COM1), for guests that have no virtio console: there only when it is asked for, since each byte costs an exit.
//!
//! The registers are vm-superio's, and vCPU threads work on them. What the guest writes goes into a bounded buffer that the event loop
//! empties; what comes in waits in the host until the port's buffer has room.

#[cfg(test)]
mod tests;

use crate::api::config::{RateLimiter, TokenBucket};
use crate::bus::BusDevice;
use crate::lock::lock;
use crate::virtio::console::{Input, Output, OutputBuffer};
use crate::virtio::limiter::{SavedLimiter, Throttle};
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use vm_superio::serial::{Error, SerialEvents, SerialState};
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Ports that it takes.
pub const PORTS: u64 = 8;

/// The interrupt line: an irqfd.
#[derive(Clone)]
struct Line(Arc<EventFd>);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Wakes the event loop.
#[derive(Clone)]
struct Kick(Arc<EventFd>);

impl Kick {
    fn kick(&self) {
        // A counter that is full is readable too.
        let _ = self.0.write(1);
    }
}

impl SerialEvents for Kick {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        self.kick();
    }
}

/// What the port writes to.
#[derive(Clone)]
struct Transmitter {
    buffer: Arc<Mutex<OutputBuffer>>,
    kick: Kick,
    limit: Arc<Throttle>,
    dropped: Arc<AtomicU64>,
}

impl Write for Transmitter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A driver waits in a loop for its bytes to go, so what is too much is not kept for later.
        if !self.limit.pass(bytes.len() as u64) {
            self.dropped.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            return Ok(bytes.len());
        }
        let mut buffer = lock(&self.buffer);
        let (idle, taken) = (!buffer.is_waiting(), buffer.admit(bytes.len()));
        buffer.push(bytes[..taken].iter().copied());
        if idle {
            self.kick.kick();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Registers = Arc<Mutex<Serial<Line, Kick, Transmitter>>>;

/// The port as vCPU threads see it.
pub struct SerialPort(Registers);

/// The port as the machine sees it.
pub struct SerialControl {
    registers: Registers,
    paused: Arc<AtomicBool>,
    line: Line,
    kick: Kick,
    transmitter: Transmitter,
}

/// A port's registers and what waits in it for the guest, for another process. Bytes on their way out belong to this one's reader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedSerial {
    divisor: [u8; 2],
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    input: Vec<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limiter: Option<SavedLimiter>,
}

impl From<SerialState> for SavedSerial {
    fn from(state: SerialState) -> Self {
        Self {
            divisor: [state.baud_divisor_low, state.baud_divisor_high],
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            input: state.in_buffer,
            limiter: None,
        }
    }
}

impl From<SavedSerial> for SerialState {
    fn from(saved: SavedSerial) -> Self {
        let [baud_divisor_low, baud_divisor_high] = saved.divisor;
        Self {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable: saved.interrupt_enable,
            interrupt_identification: saved.interrupt_identification,
            line_control: saved.line_control,
            line_status: saved.line_status,
            modem_control: saved.modem_control,
            modem_status: saved.modem_status,
            scratch: saved.scratch,
            in_buffer: saved.input,
        }
    }
}

/// The port as the event loop sees it.
pub struct SerialWorker {
    registers: Registers,
    buffer: Arc<Mutex<OutputBuffer>>,
    kick: Kick,
    paused: Arc<AtomicBool>,
    input: Option<Input>,
    // Whether the loop watches the input, and the output.
    reading: bool,
    writing: bool,
}

/// What a port is made of.
#[derive(Debug)]
pub struct SerialFiles {
    /// What the guest reads; without it nothing comes.
    pub input: Option<File>,
    /// Where it writes.
    pub output: File,
    /// Whether others write there too.
    pub shared: bool,
}

/// Makes a port whose interrupts go to `line`, and whose output may have so many bytes.
///
/// # Errors
/// The kind of a file can't be found out, or no event can be made.
pub fn new(
    files: SerialFiles,
    limit: Option<TokenBucket>,
    line: Arc<EventFd>,
) -> io::Result<(SerialPort, SerialWorker, SerialControl)> {
    let SerialFiles { input, output, shared } = files;
    let limit = limit.map(|bytes| RateLimiter { bandwidth: Some(bytes), ops: None });
    let kick = Kick(Arc::new(EventFd::new(EFD_NONBLOCK)?));
    let output = if shared { Output::shared(output) } else { Output::new(output) };
    let buffer = Arc::new(Mutex::new(OutputBuffer::new(Some(Arc::new(output?)))));
    let transmitter = Transmitter {
        buffer: Arc::clone(&buffer),
        kick: kick.clone(),
        limit: Throttle::new(limit.as_ref(), 0)?,
        dropped: Arc::default(),
    };
    let line = Line(line);
    let registers = Serial::with_events(line.clone(), kick.clone(), transmitter.clone());
    let registers = Arc::new(Mutex::new(registers));
    let input = input.map(Input::new).transpose()?;
    let (port, paused) = (SerialPort(Arc::clone(&registers)), Arc::new(AtomicBool::new(false)));
    let control = SerialControl {
        registers: Arc::clone(&registers),
        paused: Arc::clone(&paused),
        line,
        kick: kick.clone(),
        transmitter,
    };
    let worker = SerialWorker { registers, buffer, kick, paused, input, reading: false, writing: false };
    Ok((port, worker, control))
}

impl SerialControl {
    /// Lets nothing in any more. The vCPUs stand still, so the registers stay as they are when this returns; what the guest wrote before
    /// goes out all the same.
    pub fn pause(&self) {
        // The loop's half looks under this lock.
        let _registers = lock(&self.registers);
        self.paused.store(true, Ordering::SeqCst);
    }

    /// Lets in what has come meanwhile.
    pub fn resume(&self) {
        self.paused.store(false, Ordering::SeqCst);
        self.kick.kick();
    }

    /// What a port in another process needs to go on; meant for a paused one.
    pub fn save(&self) -> SavedSerial {
        let limiter = self.transmitter.limit.save();
        SavedSerial { limiter, ..lock(&self.registers).state().into() }
    }

    /// Goes on where another port was saved, and raises the interrupt if one was pending.
    ///
    /// # Errors
    /// The state is none of a port's: this one is as it was then.
    pub fn restore(&self, saved: SavedSerial) -> io::Result<()> {
        let limiter = saved.limiter.clone();
        let (line, kick, out) = (self.line.clone(), self.kick.clone(), self.transmitter.clone());
        match Serial::from_state(&saved.into(), line, kick, out) {
            Ok(serial) => *lock(&self.registers) = serial,
            Err(Error::Trigger(error)) => return Err(error),
            Err(error) => return Err(io::Error::new(ErrorKind::InvalidData, error.to_string())),
        }
        self.transmitter.limit.restore(limiter.as_ref());
        self.kick.kick();
        Ok(())
    }

    /// Bytes that were too many for the limit.
    pub fn dropped(&self) -> u64 {
        self.transmitter.dropped.load(Ordering::Relaxed)
    }
}

impl BusDevice for SerialPort {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        // Registers have a byte each; wider accesses don't exist on this bus and read as nothing.
        if let ([byte], Ok(offset)) = (data, u8::try_from(offset)) {
            *byte = lock(&self.0).read(offset);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let ([byte], Ok(offset)) = (data, u8::try_from(offset)) {
            // An interrupt that could not be raised is pending already; output never fails.
            let _: Result<(), Error<io::Error>> = lock(&self.0).write(offset, *byte);
        }
    }
}

impl SerialWorker {
    /// Gives the port what it has room for. `ready`: the loop says that a read does not wait.
    fn receive(&mut self, ready: bool, ops: &mut EventOps<'_>) {
        let Some(input) = &self.input else { return };
        let mut registers = lock(&self.registers);
        let room = if self.paused.load(Ordering::SeqCst) { 0 } else { registers.fifo_capacity() };
        let mut bytes = vec![0; room];
        let mut ended = false;
        if room > 0 && (ready || !input.watched) {
            match (&input.file).read(&mut bytes) {
                // In the port's loop mode, a self-test, what comes is lost, as on a real line.
                Ok(len) if len > 0 => drop(registers.enqueue_raw_bytes(&bytes[..len])),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                _ => ended = true,
            }
        }
        // Without room the port says when it is empty.
        let watch = input.watched && !ended && room > 0 && registers.fifo_capacity() > 0;
        watch_for(ops, &input.file, EventSet::IN, &mut self.reading, watch);
        drop(registers);
        if ended {
            self.input = None;
        }
    }

    fn transmit(&mut self, ready: bool, ops: &mut EventOps<'_>) {
        let mut buffer = lock(&self.buffer);
        let Some(output) = buffer.output.clone() else {
            buffer.write(ready);
            return;
        };
        let watch = buffer.write(ready);
        watch_for(ops, &output.file, EventSet::OUT, &mut self.writing, watch);
    }
}

fn watch_for(ops: &mut EventOps<'_>, file: &File, events: EventSet, now: &mut bool, wanted: bool) {
    // Watched already is as good as watched now, and not watched is what was asked for.
    match (*now, wanted) {
        (true, false) => drop(ops.remove(Events::empty(file))),
        (false, true) => drop(ops.add(Events::new(file, events))),
        _ => {}
    }
    *now = wanted;
}

impl MutEventSubscriber for SerialWorker {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        // An eventfd can be watched, and this one is not yet.
        let _ = ops.add(Events::new(self.kick.0.as_ref(), EventSet::IN));
        self.receive(false, ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        let is = |file: Option<&File>| file.is_some_and(|file| file.as_raw_fd() == events.fd());
        if events.fd() == self.kick.0.as_raw_fd() {
            let _ = self.kick.0.read();
            self.transmit(false, ops);
            self.receive(false, ops);
        } else if is(self.input.as_ref().map(|input| &input.file)) {
            self.receive(true, ops);
        } else {
            self.transmit(true, ops);
        }
    }
}
