//! A 16550 serial port (COM1), for guests that have no virtio console: there only when it is asked for, since each byte costs an exit.
//!
//! The registers are vm-superio's, and vCPU threads work on them. What the guest writes goes into a bounded buffer that the event loop
//! empties; what comes in waits in the host until the port's buffer has room.

use crate::bus::BusDevice;
use crate::virtio::console::{Input, Output, OutputBuffer};
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vm_superio::serial::{Error, SerialEvents, SerialState};
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Ports that it takes.
pub const PORTS: u64 = 8;

/// The interrupt line: an irqfd.
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
struct Transmitter {
    buffer: Arc<Mutex<OutputBuffer>>,
    kick: Kick,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Write for Transmitter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
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

/// The port as the event loop sees it.
pub struct SerialWorker {
    registers: Registers,
    buffer: Arc<Mutex<OutputBuffer>>,
    kick: Kick,
    input: Option<Input>,
    // Whether the loop watches the input, and the output.
    reading: bool,
    writing: bool,
}

/// Makes a port whose interrupts go to `line`. Without an input nothing comes.
///
/// # Errors
/// The kind of a file can't be found out, or no event can be made.
pub fn new(input: Option<File>, output: File, line: Arc<EventFd>) -> io::Result<(SerialPort, SerialWorker)> {
    let kick = Kick(Arc::new(EventFd::new(EFD_NONBLOCK)?));
    let buffer = Arc::new(Mutex::new(OutputBuffer::new(Some(Arc::new(Output::new(output)?)))));
    let transmitter = Transmitter { buffer: Arc::clone(&buffer), kick: kick.clone() };
    let registers = Serial::with_events(Line(line), kick.clone(), transmitter);
    let registers = Arc::new(Mutex::new(registers));
    let input = input.map(Input::new).transpose()?;
    let port = SerialPort(Arc::clone(&registers));
    Ok((port, SerialWorker { registers, buffer, kick, input, reading: false, writing: false }))
}

impl SerialPort {
    /// Its registers and what waits in it, for a new process. Bytes on their way out belong to this one's reader.
    pub fn save(&self) -> SerialState {
        lock(&self.0).state()
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
        let room = registers.fifo_capacity();
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
        let watch = input.watched && !ended && registers.fifo_capacity() > 0;
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

#[cfg(test)]
mod tests {
    use super::*;
    use event_manager::{EventManager, SubscriberOps};
    use proptest::prelude::*;
    use std::io::Seek;

    struct World {
        port: SerialPort,
        line: Arc<EventFd>,
        manager: EventManager<Box<dyn MutEventSubscriber>>,
        output: File,
    }

    impl World {
        fn new(input: Option<File>) -> Self {
            let output = tempfile::tempfile().unwrap();
            let line = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
            let (port, worker) = new(input, output.try_clone().unwrap(), Arc::clone(&line)).unwrap();
            let mut manager = EventManager::<Box<dyn MutEventSubscriber>>::new().unwrap();
            manager.add_subscriber(Box::new(worker));
            Self { port, line, manager, output }
        }

        fn run(&mut self) {
            while self.manager.run_with_timeout(0).unwrap() > 0 {}
        }

        fn get(&mut self, offset: u64) -> u8 {
            let mut byte = [0];
            self.port.read(offset, &mut byte);
            byte[0]
        }

        fn written(&mut self) -> String {
            self.run();
            let mut text = String::new();
            self.output.rewind().unwrap();
            self.output.read_to_string(&mut text).unwrap();
            text
        }
    }

    #[test]
    fn what_the_guest_writes_comes_out_in_order() {
        let mut world = World::new(None);
        for byte in b"hello, " {
            world.port.write(0, &[*byte]);
        }
        world.run();
        world.port.write(0, b"w");
        assert_eq!(world.written(), "hello, w");
        // Always ready to take more: bits 5 and 6 of the line status.
        assert_eq!(world.get(5) & 0x60, 0x60);
    }

    #[test]
    fn what_comes_in_raises_an_interrupt_and_waits_where_there_is_no_room() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut world = World::new(Some(std::os::fd::OwnedFd::from(reader).into()));
        world.port.write(1, &[1]);
        let _ = world.line.read();
        let sent: Vec<u8> = (0..200).collect();
        writer.write_all(&sent).unwrap();
        let mut seen = Vec::new();
        world.run();
        assert!(world.line.read().is_ok());
        while world.get(5) & 1 != 0 {
            seen.push(world.get(0));
            world.run();
        }
        assert_eq!(seen, sent);
        // The other end is gone: the port stays as it is.
        drop(writer);
        world.run();
        assert_eq!(world.get(5) & 1, 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_access_is_too_strange(
            accesses in proptest::collection::vec((0u64..9, proptest::collection::vec(any::<u8>(), 1..5), any::<bool>()), 0..300),
        ) {
            let mut world = World::new(Some(File::open("/dev/zero").unwrap()));
            for (offset, mut data, write) in accesses {
                if write { world.port.write(offset, &data) } else { world.port.read(offset, &mut data) }
                world.manager.run_with_timeout(0).unwrap();
            }
            prop_assert!(world.port.save().in_buffer.len() <= 64);
        }
    }
}
