//! What functions need of the machine: messages that become interrupts, and kicks that never leave the host's kernel.

use super::Message;
use crate::arch;
use crate::lock::lock;
use crate::metrics::InterruptMetrics;
use kvm_bindings::{KvmIrqRouting, kvm_irq_routing_entry};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Messages that all functions of a machine can have at a time; KVM has room for 4096 routes.
const MAX_LINES: usize = 2048;

/// The way from an event to a message. While it is not connected, what is written to the event waits in it.
pub trait Line: Send {
    /// What is written to for an interrupt.
    fn event(&self) -> &Arc<EventFd>;

    /// From now on the event sends this message, at once if it was written to before.
    ///
    /// # Errors
    /// KVM does not take it.
    fn connect(&mut self, message: Message) -> io::Result<()>;

    /// From now on it waits.
    fn disconnect(&mut self);
}

/// What a function is wired to.
pub trait Wiring: Send + Sync {
    /// One more line.
    ///
    /// # Errors
    /// There are no more, or no event can be made.
    fn line(&self) -> io::Result<Box<dyn Line>>;

    /// Any write to `address` writes to `event`, until [`Self::no_kicks`]. It need not: a function takes kicks as writes too.
    fn kicks(&self, address: u64, event: &EventFd);

    /// Takes that back.
    fn no_kicks(&self, address: u64, event: &EventFd);
}

/// KVM's: irqfds with a route each, and ioeventfds.
pub struct KvmWiring {
    vm: Arc<VmFd>,
    /// By number of the line; `None` if it is free.
    routes: Mutex<Vec<Option<Message>>>,
    metrics: Arc<InterruptMetrics>,
}

impl KvmWiring {
    /// For the devices of `vm`; changes are counted in `metrics`.
    pub fn new(vm: Arc<VmFd>, metrics: Arc<InterruptMetrics>) -> Arc<Self> {
        Arc::new(Self { vm, routes: Mutex::new(Vec::new()), metrics })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Message>>> {
        lock(&self.routes)
    }

    /// Routes `line` to `message`. KVM takes the whole table at a time, that of the interrupt controller included.
    fn route(&self, line: usize, message: Message) -> io::Result<()> {
        let mut routes = self.lock();
        if routes[line] == Some(message) {
            return Ok(());
        }
        let old = routes[line].replace(message);
        let messages = routes.iter().enumerate().filter_map(|(line, message)| {
            // A line that has never been connected has no message yet.
            message.filter(|message| *message != Message::default()).map(|message| (gsi(line), message))
        });
        let entries: Vec<kvm_irq_routing_entry> = arch::pin_routes()
            .chain(messages.map(|(gsi, message)| arch::message_route(gsi, message)))
            .collect();
        let result = KvmIrqRouting::from_entries(&entries)
            .map_err(|error| io::Error::other(format!("{error:?}")))
            .and_then(|table| self.vm.set_gsi_routing(&table).map_err(io::Error::from));
        match result {
            Ok(()) => self.metrics.config_updates.add(1),
            Err(_) => routes[line] = old,
        }
        result
    }
}

/// The interrupt's number in KVM: behind the pins of the interrupt controller.
fn gsi(line: usize) -> u32 {
    arch::layout::FIRST_MESSAGE_GSI + line as u32
}

/// [`KvmWiring`] behind what functions may keep.
pub struct Wires(pub Arc<KvmWiring>);

impl Wiring for Wires {
    fn line(&self) -> io::Result<Box<dyn Line>> {
        let event = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let mut routes = self.0.lock();
        let free = routes.iter().position(Option::is_none).unwrap_or(routes.len());
        if free == MAX_LINES {
            return Err(io::Error::other(format!("all {MAX_LINES} interrupt messages are taken")));
        }
        if free == routes.len() {
            routes.push(None);
        }
        routes[free] = Some(Message::default());
        Ok(Box::new(KvmLine { number: free, event, connected: false, wiring: Arc::clone(&self.0) }))
    }

    fn kicks(&self, address: u64, event: &EventFd) {
        // What KVM does not take comes as an exit.
        let _ = self.0.vm.register_ioevent(event, &IoEventAddress::Mmio(address), NoDatamatch);
    }

    fn no_kicks(&self, address: u64, event: &EventFd) {
        let _ = self.0.vm.unregister_ioevent(event, &IoEventAddress::Mmio(address), NoDatamatch);
    }
}

struct KvmLine {
    number: usize,
    event: Arc<EventFd>,
    connected: bool,
    wiring: Arc<KvmWiring>,
}

impl Line for KvmLine {
    fn event(&self) -> &Arc<EventFd> {
        &self.event
    }

    fn connect(&mut self, message: Message) -> io::Result<()> {
        self.wiring.route(self.number, message)?;
        if !self.connected {
            self.wiring.vm.register_irqfd(&self.event, gsi(self.number))?;
            self.connected = true;
        }
        Ok(())
    }

    fn disconnect(&mut self) {
        if std::mem::take(&mut self.connected) {
            let _ = self.wiring.vm.unregister_irqfd(&self.event, gsi(self.number));
        }
    }
}

impl Drop for KvmLine {
    fn drop(&mut self) {
        self.disconnect();
        self.wiring.lock()[self.number] = None;
    }
}
