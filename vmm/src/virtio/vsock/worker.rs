//! The queues of a socket device, and the work between them and the connections.

use super::GuestConnect;
use super::connection::MOST_PACKETS;
use super::muxer::Muxer;
use crate::virtio::worker::{Interest, Source, Worker};
use crate::virtio::{ActivateContext, Chain, DeviceQueue, DeviceState, GuestMemory, Interrupt, RingError};
use std::sync::Arc;
use vmm_sys_util::epoll::Epoll;

const RECEIVE: u32 = 0;
const TRANSMIT: u32 = 1;
const EVENT: u32 = 2;
const SOCKETS: u32 = 3;

/// VIRTIO_VSOCK_EVENT_TRANSPORT_RESET: every connection is gone and the context ID may be another.
const TRANSPORT_RESET: [u8; 4] = [0; 4];

pub(super) struct VsockWorker {
    memory: GuestMemory,
    receive: DeviceQueue,
    transmit: DeviceQueue,
    event: DeviceQueue,
    interrupt: Arc<dyn Interrupt>,
    chain: Chain,
    // Buffers for packets of one connection that has much to say, and how long these are.
    chains: Vec<Chain>,
    lens: Vec<u32>,
    epoll: Arc<Epoll>,
    muxer: Muxer,
    announce_reset: bool,
}

impl VsockWorker {
    pub(super) fn new(
        mut context: ActivateContext,
        epoll: Arc<Epoll>,
        muxer: Muxer,
        announce_reset: bool,
    ) -> Self {
        Self {
            receive: context.take_queue(),
            transmit: context.take_queue(),
            event: context.take_queue(),
            memory: context.memory,
            interrupt: context.interrupt,
            chain: Chain::default(),
            chains: (0..MOST_PACKETS).map(|_| Chain::default()).collect(),
            lens: Vec::with_capacity(MOST_PACKETS),
            epoll,
            muxer,
            announce_reset,
        }
    }

    pub(super) fn into_connect(self) -> GuestConnect {
        self.muxer.into_connect()
    }

    /// Packets of the guest, a queueful at most, as long as it takes what it is told.
    fn transmit(&mut self) -> Result<(), RingError> {
        self.transmit.quiet(&self.memory)?;
        let mut budget = self.transmit.size();
        loop {
            while budget > 0
                && self.muxer.can_handle()
                && self.transmit.pop_any(&self.memory, &mut self.chain)?
            {
                budget -= 1;
                self.muxer.handle(&self.memory, &self.chain)?;
                self.transmit.complete(&self.memory, self.chain.head(), 0)?;
            }
            if budget == 0 {
                self.transmit.come_back();
                break;
            }
            // Kicks stay off while the guest owes receive buffers: `speak` calls back when it gave some.
            if !self.muxer.can_handle() || !self.transmit.listen(&self.memory)? {
                break;
            }
        }
        self.transmit.signal(&self.memory, self.interrupt.as_ref())
    }

    /// Packets for the guest, a queueful at most.
    fn receive(&mut self) -> Result<(), RingError> {
        let was_deaf = !self.muxer.can_handle();
        let mut budget = self.receive.size();
        while self.muxer.has_something_to_say() {
            if budget == 0 {
                self.receive.come_back();
                break;
            }
            let wanted = self.muxer.packets().min(budget.into());
            let mut taken = 0;
            while taken < wanted && self.receive.pop(&self.memory, &mut self.chains[taken])? {
                taken += 1;
            }
            if taken == 0 {
                if self.receive.listen(&self.memory)? {
                    continue;
                }
                break;
            }
            self.lens.clear();
            self.muxer.speak(&self.memory, &self.chains[..taken], &mut self.lens)?;
            for (chain, len) in self.chains.iter().zip(&self.lens) {
                budget -= 1;
                self.receive.complete(&self.memory, chain.head(), *len)?;
            }
            (self.lens.len()..taken).for_each(|_| self.receive.undo_pop());
        }
        if was_deaf && self.muxer.can_handle() {
            self.transmit.come_back();
        }
        self.receive.signal(&self.memory, self.interrupt.as_ref())
    }

    /// Tells a driver that was saved with another process's connections to forget them.
    fn announce(&mut self) -> Result<(), RingError> {
        while self.announce_reset {
            if !self.event.pop(&self.memory, &mut self.chain)? {
                if self.event.listen(&self.memory)? {
                    continue;
                }
                break;
            }
            let written = self.chain.write_at(&self.memory, 0, &TRANSPORT_RESET);
            self.event.complete(&self.memory, self.chain.head(), written as u32)?;
            self.announce_reset = false;
        }
        self.event.signal(&self.memory, self.interrupt.as_ref())
    }
}

impl Worker for VsockWorker {
    fn sources(&self) -> Vec<Source> {
        vec![
            Source::readable(self.receive.event(), RECEIVE),
            Source::readable(self.transmit.event(), TRANSMIT),
            Source::readable(self.event.event(), EVENT),
            Source::readable(self.epoll.as_ref(), SOCKETS),
        ]
    }

    fn enter(&mut self) -> Result<(), RingError> {
        self.muxer.go_on();
        Ok(())
    }

    fn process(&mut self, token: u32, _interest: &mut Interest<'_, '_>) -> Result<(), RingError> {
        match token {
            RECEIVE => {
                self.muxer.metrics().rx_queue_event_count.add(1);
                self.receive.clear_event();
            }
            TRANSMIT => {
                self.muxer.metrics().tx_queue_event_count.add(1);
                self.transmit.clear_event();
                self.transmit()?;
            }
            EVENT => {
                self.event.clear_event();
                self.announce()?;
            }
            _ => self.muxer.socket_events(),
        }
        self.receive()
    }

    fn save(&self) -> DeviceState {
        let queues = [&self.receive, &self.transmit, &self.event];
        // Connections are this process's sockets: the next one tells the guest that they are gone.
        DeviceState { queues: queues.map(DeviceQueue::snapshot).to_vec(), device: serde_json::Value::Null }
    }
}
