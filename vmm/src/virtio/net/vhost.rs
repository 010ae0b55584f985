//! vhost-net: the host's kernel moves frames between the rings and the TAP by itself (linux/vhost.h).
//!
//! The descriptor is opened before the filters and set up when the driver is ready. The `vhost` crate is no help here: it opens the device by
//! path, and only once there is guest memory, which is after the filters.

use super::Common;
use super::tap::Tap;
use crate::virtio::patience::Patience;
use crate::virtio::worker::{Interest, Source, Worker};
use crate::virtio::{ActivateContext, DeviceQueue, DeviceState, GuestMemory, Interrupt, RingError};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const GET_FEATURES: libc::c_ulong = 0x8008_af00;
const SET_FEATURES: libc::c_ulong = 0x4008_af00;
const SET_OWNER: libc::c_ulong = 0xaf01;
const SET_MEM_TABLE: libc::c_ulong = 0x4008_af03;
const SET_VRING_NUM: libc::c_ulong = 0x4008_af10;
const SET_VRING_ADDR: libc::c_ulong = 0x4028_af11;
const SET_VRING_BASE: libc::c_ulong = 0x4008_af12;
const GET_VRING_BASE: libc::c_ulong = 0xc008_af12;
const SET_VRING_KICK: libc::c_ulong = 0x4008_af20;
const SET_VRING_CALL: libc::c_ulong = 0x4008_af21;
const NET_SET_BACKEND: libc::c_ulong = 0x4008_af30;

/// What the VMM thread needs: a driver gets ready, the VM is paused.
pub const ALL: [u32; 11] = [
    GET_FEATURES as u32,
    SET_FEATURES as u32,
    SET_OWNER as u32,
    SET_MEM_TABLE as u32,
    SET_VRING_NUM as u32,
    SET_VRING_ADDR as u32,
    SET_VRING_BASE as u32,
    SET_VRING_KICK as u32,
    SET_VRING_CALL as u32,
    NET_SET_BACKEND as u32,
    GET_VRING_BASE as u32,
];
/// What a thread needs in which a driver resets the device.
pub const STOP: [u32; 2] = [NET_SET_BACKEND as u32, GET_VRING_BASE as u32];

const TAP: u32 = 2;
/// Regions of guest memory at most, as linux/vhost.h has it by default.
const MAX_REGIONS: usize = 64;

/// `struct vhost_vring_state`, and `struct vhost_vring_file`.
#[repr(C)]
struct Pair {
    index: u32,
    value: i32,
}

/// `struct vhost_vring_addr`.
#[repr(C)]
#[derive(Default)]
struct Rings {
    index: u32,
    flags: u32,
    descriptors: u64,
    used: u64,
    available: u64,
    log: u64,
}

/// `struct vhost_memory_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    guest: u64,
    len: u64,
    user: u64,
    flags: u64,
}

/// `struct vhost_memory`.
#[repr(C)]
struct Memory {
    count: u32,
    padding: u32,
    regions: [Region; MAX_REGIONS],
}

/// An open `/dev/vhost-net`.
#[derive(Debug)]
pub(super) struct Vhost(File);

impl Vhost {
    /// Checks that it is one, and makes it this process's.
    pub(super) fn new(file: File) -> io::Result<Self> {
        let vhost = Self(file);
        vhost.features()?;
        vhost.call(SET_OWNER, std::ptr::null_mut::<u8>())?;
        Ok(vhost)
    }

    /// `argument` is what the request reads or fills, or null for one that does neither.
    fn call<T>(&self, request: libc::c_ulong, argument: *mut T) -> io::Result<()> {
        // SAFETY: each request of this module is given the structure that linux/vhost.h has for it, alive during the call; what those name in
        // turn are descriptors and guest memory, which is mapped for the rest of the process's life.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), request as _, argument) } {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn features(&self) -> io::Result<u64> {
        let mut features = 0u64;
        self.call(GET_FEATURES, &raw mut features).map(|()| features)
    }

    fn pair(&self, request: libc::c_ulong, index: u32, value: i32) -> io::Result<i32> {
        let mut pair = Pair { index, value };
        self.call(request, &raw mut pair).map(|()| pair.value)
    }

    fn set_memory(&self, memory: &GuestMemory) -> io::Result<()> {
        let mut table = Memory { count: 0, padding: 0, regions: [Region::default(); MAX_REGIONS] };
        for (place, region) in table.regions.iter_mut().zip(memory.iter()) {
            let guest = region.start_addr();
            let user = host_address(memory, guest)?;
            *place = Region { guest: guest.raw_value(), len: region.len(), user, flags: 0 };
            table.count += 1;
        }
        self.call(SET_MEM_TABLE, &raw mut table)
    }

    fn set_queue(
        &self,
        memory: &GuestMemory,
        index: u32,
        queue: &DeviceQueue,
        call: &EventFd,
    ) -> io::Result<()> {
        let state = queue.snapshot();
        let address = |address| host_address(memory, GuestAddress(address));
        self.pair(SET_VRING_NUM, index, state.size.into())?;
        self.pair(SET_VRING_BASE, index, state.next_avail.into())?;
        let mut rings = Rings {
            index,
            descriptors: address(state.desc_table)?,
            used: address(state.used_ring)?,
            available: address(state.avail_ring)?,
            ..Rings::default()
        };
        self.call(SET_VRING_ADDR, &raw mut rings)?;
        self.pair(SET_VRING_KICK, index, queue.event().as_raw_fd())?;
        self.pair(SET_VRING_CALL, index, call.as_raw_fd()).map(drop)
    }

    fn set_backend(&self, index: u32, tap: RawFd) -> io::Result<()> {
        self.pair(NET_SET_BACKEND, index, tap).map(drop)
    }
}

fn host_address(memory: &GuestMemory, address: GuestAddress) -> io::Result<u64> {
    let host = memory.get_host_address(address);
    host.map(|host| host as u64).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// What is left for the VMM to do: pass interrupts on, and notice when the TAP goes.
pub(super) struct VhostWorker {
    vhost: Arc<Vhost>,
    memory: GuestMemory,
    interrupt: Arc<dyn Interrupt>,
    features: u64,
    tap: Arc<Tap>,
    common: Common,
    queues: [DeviceQueue; 2],
    calls: Arc<[EventFd; 2]>,
    running: bool,
}

/// What is written to when a queue has used buffers.
pub(super) fn calls() -> io::Result<[EventFd; 2]> {
    Ok([EventFd::new(EFD_NONBLOCK)?, EventFd::new(EFD_NONBLOCK)?])
}

impl VhostWorker {
    pub(super) fn new(
        context: ActivateContext,
        queues: [DeviceQueue; 2],
        tap: Arc<Tap>,
        common: Common,
        (vhost, calls): (Arc<Vhost>, Arc<[EventFd; 2]>),
    ) -> Self {
        let ActivateContext { memory, interrupt, features, .. } = context;
        Self { vhost, memory, interrupt, features, tap, common, queues, calls, running: false }
    }

    fn set_up(&self) -> io::Result<()> {
        self.tap.set_offloads(self.features)?;
        self.vhost.set_memory(&self.memory)?;
        let mut features = self.features & self.vhost.features()?;
        self.vhost.call(SET_FEATURES, &raw mut features)?;
        for (index, (queue, call)) in (0..).zip(self.queues.iter().zip(&*self.calls)) {
            if queue.snapshot().ready {
                self.vhost.set_queue(&self.memory, index, queue, call)?;
                self.vhost.set_backend(index, self.tap.file().as_raw_fd())?;
            }
        }
        Ok(())
    }
}

impl Worker for VhostWorker {
    fn enter(&mut self) -> Result<(), RingError> {
        self.running = true;
        self.set_up().map_err(|error| RingError::Ring { queue: 0, what: format!("vhost-net: {error}") })
    }

    fn sources(&self) -> Vec<Source> {
        let calls = (0..).zip(&*self.calls).map(|(token, call)| Source::readable(call, token));
        // It says that it is gone whatever it is watched for; frames are the kernel's business.
        let up = self.common.link.load(Ordering::Relaxed);
        calls.chain(up.then(|| Source::failing(self.tap.file(), TAP))).collect()
    }

    fn process(&mut self, token: u32, interest: &mut Interest<'_, '_>) -> Result<(), RingError> {
        match usize::try_from(token).ok().and_then(|token| self.calls.get(token)) {
            Some(call) => {
                let _ = call.read();
                self.interrupt.queue(token as u16);
            }
            None => {
                interest.ignore(self.tap.file());
                if self.common.link.swap(false, Ordering::Relaxed) {
                    self.interrupt.config();
                }
            }
        }
        Ok(())
    }

    fn settle(&mut self, answer: bool, _patience: Patience) -> Result<bool, RingError> {
        if !std::mem::take(&mut self.running) {
            return Ok(true);
        }
        for (index, (queue, call)) in (0..).zip(self.queues.iter_mut().zip(&*self.calls)) {
            // Without one the kernel is done with the rings when this returns.
            let stopped = self.vhost.set_backend(index, -1);
            let at = self.vhost.pair(GET_VRING_BASE, index, 0);
            let state = queue.snapshot();
            // For a reset this worker is thrown away, in a vCPU's thread: the used ring may lie in memory that another vCPU unplugs just now.
            if let (Ok(()), Ok(next), true) = (stopped, at, answer && state.ready) {
                let used = self.memory.read_obj(GuestAddress(state.used_ring + 2)).unwrap_or(state.next_used);
                queue.move_to(next as u16, used);
            }
            if answer && call.read().is_ok() {
                self.interrupt.queue(index as u16);
            }
        }
        Ok(true)
    }

    fn save(&self) -> DeviceState {
        let queues = self.queues.iter().map(DeviceQueue::snapshot);
        DeviceState { queues: queues.collect(), device: serde_json::Value::Null }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_as_long_as_their_requests_say() {
        assert_eq!(size_of::<Pair>(), 8);
        assert_eq!(size_of::<Rings>(), 40);
        assert_eq!(size_of::<Region>(), 32);
        assert_eq!(std::mem::offset_of!(Memory, regions), 8);
    }

    #[test]
    fn another_file_is_no_vhost_net() {
        assert!(Vhost::new(tempfile::tempfile().unwrap()).is_err());
    }
}
