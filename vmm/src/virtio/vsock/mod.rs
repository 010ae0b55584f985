//! virtio-vsock (virtio 1.2, section 5.10) with Unix sockets on the host's side.
//!
//! A host program connects to one socket and says `CONNECT <port>\n`; when the guest has accepted it reads `OK <host port>\n`,
//! and from there on the socket is the connection. A guest's connection goes to a socket that was handed in for its port, or
//! to a path that ends in it. A guest that answers a host program in neither way within two seconds is not waited for any longer.

mod connection;
mod handshake;
mod metrics;
mod muxer;
mod packet;
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
mod worker;

use super::io::set_nonblocking;
use super::worker::WorkerSlot;
use super::{ActivateContext, DeviceError, DeviceState, VirtioDevice};
use crate::door::Ceiling;
pub use connection::BUFFER;
pub use metrics::VsockMetrics;
pub use muxer::MAX_CONNECTIONS;
use muxer::{Host, LISTENER, Muxer, TIMER};
use std::collections::HashMap;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::timerfd::TimerFd;
use worker::VsockWorker;

/// Receive, transmit, event.
const QUEUE_SIZES: [u16; 3] = [256, 256, 16];

/// What a socket device is made of.
#[derive(Debug)]
pub struct VsockConfig {
    /// The guest's context ID: 3 to 2³²−2.
    pub cid: u32,
    /// Where host programs connect.
    pub listener: UnixListener,
    /// How many there may be.
    pub ceiling: Ceiling,
    /// Where the guest's connections go.
    pub guest_connect: GuestConnect,
}

/// Where connections of the guest to ports of the host go.
#[derive(Debug)]
pub enum GuestConnect {
    /// Connected sockets by port; the first connection to a port gets its socket, others are refused.
    Ports(HashMap<u32, UnixStream>),
    /// The Unix socket at `<prefix>_<port>`.
    PathPrefix(PathBuf),
}

/// The device.
pub struct Vsock {
    cid: u64,
    epoll: Arc<Epoll>,
    listener: Arc<UnixListener>,
    ceiling: Ceiling,
    timer: Arc<Mutex<TimerFd>>,
    // With the worker while there is one.
    guest_connect: Option<GuestConnect>,
    // The driver still believes in connections of another process.
    forget_connections: bool,
    metrics: Arc<VsockMetrics>,
    worker: WorkerSlot<VsockWorker>,
}

impl Vsock {
    /// A device for these sockets, which are made non-blocking.
    ///
    /// # Errors
    /// The listener can't be watched, or there is no timer.
    pub fn new(config: VsockConfig) -> io::Result<Self> {
        let VsockConfig { cid, listener, ceiling, guest_connect } = config;
        set_nonblocking(&listener)?;
        let epoll = Epoll::new()?;
        let timer = TimerFd::new().map_err(io::Error::from)?;
        for (fd, token) in [(listener.as_raw_fd(), LISTENER), (timer.as_raw_fd(), TIMER)] {
            epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, token))?;
        }
        Ok(Self {
            cid: cid.into(),
            epoll: Arc::new(epoll),
            listener: Arc::new(listener),
            ceiling,
            timer: Arc::new(Mutex::new(timer)),
            guest_connect: Some(guest_connect),
            forget_connections: false,
            metrics: Arc::default(),
            worker: WorkerSlot::new(),
        })
    }

    /// What it has done so far.
    pub fn metrics(&self) -> Arc<VsockMetrics> {
        Arc::clone(&self.metrics)
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn name(&self) -> &str {
        "vsock"
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        super::read_space(&self.cid.to_le_bytes(), offset, data);
    }

    fn activate(&mut self, context: ActivateContext) -> Result<(), DeviceError> {
        let Some(connect) = self.guest_connect.take() else {
            return Err(DeviceError::AlreadyActive(self.name().to_owned()));
        };
        let epoll = Arc::clone(&self.epoll);
        let host = Host {
            epoll: Arc::clone(&epoll),
            listener: Arc::clone(&self.listener),
            ceiling: self.ceiling,
            timer: Arc::clone(&self.timer),
        };
        let muxer = Muxer::new(self.cid, host, connect, self.metrics());
        let forget = std::mem::take(&mut self.forget_connections);
        self.worker.start("vsock", context, |context| Ok(VsockWorker::new(context, epoll, muxer, forget)))
    }

    fn reset(&mut self) {
        if let Some(worker) = self.worker.stop() {
            self.guest_connect = Some(worker.into_connect());
        }
    }

    fn pause(&mut self) -> bool {
        self.worker.pause()
    }

    fn save(&mut self) -> Result<DeviceState, DeviceError> {
        self.worker.save("vsock")
    }

    fn restore(&mut self, _state: &serde_json::Value) -> Result<(), DeviceError> {
        self.forget_connections = true;
        Ok(())
    }

    fn resume(&mut self) -> Result<(), DeviceError> {
        self.worker.resume()
    }
}
