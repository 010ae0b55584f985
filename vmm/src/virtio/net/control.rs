//! The control queue (section 5.1.6.5): how many pairs of queues the driver uses, and which address it has.

use super::Common;
use crate::virtio::queue::drain;
use crate::virtio::worker::{Interest, Source, Worker};
use crate::virtio::{Chain, DeviceQueue, DeviceState, GuestMemory, Interrupt, RingError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET,
    VIRTIO_NET_ERR, VIRTIO_NET_OK,
};
use vmm_sys_util::eventfd::EventFd;

/// Class, command, and the longest argument that is understood.
const COMMAND: usize = 8;

/// What a driver asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// So many pairs.
    Pairs(u16),
    /// This address.
    Mac([u8; 6]),
}

impl Command {
    /// Reads a request; nothing if it is none that this device knows.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (class, command, argument) = match bytes {
            [class, command, argument @ ..] => (u32::from(*class), u32::from(*command), argument),
            _ => return None,
        };
        match (class, command) {
            (VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET) => {
                argument.try_into().ok().map(|pairs| Self::Pairs(u16::from_le_bytes(pairs)))
            }
            (VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET) => argument.try_into().ok().map(Self::Mac),
            _ => None,
        }
    }
}

pub(super) struct ControlWorker {
    pub(super) memory: GuestMemory,
    pub(super) queue: DeviceQueue,
    pub(super) interrupt: Arc<dyn Interrupt>,
    pub(super) common: Common,
    /// What wakes the workers of the pairs, in order.
    pub(super) wakers: Vec<Arc<EventFd>>,
    /// Queues that a driver without VIRTIO_NET_F_MQ leaves alone.
    pub(super) unused: Vec<DeviceQueue>,
    pub(super) chain: Chain,
}

/// Does it; false if it can't be.
fn obey(common: &Common, wakers: &[Arc<EventFd>], bytes: &[u8]) -> bool {
    match Command::parse(bytes) {
        Some(Command::Pairs(pairs)) if (1..=wakers.len()).contains(&pairs.into()) => {
            common.pairs.store(pairs, Ordering::Relaxed);
            // Each takes up its queue of the TAP, or lets go of it.
            for waker in wakers {
                let _ = waker.write(1);
            }
            true
        }
        // Bit 0 of the first byte marks groups (IEEE 802).
        Some(Command::Mac(mac)) if mac[0] & 1 == 0 && mac != [0; 6] => {
            common.set_mac(mac);
            common.metrics.mac_address_updates.add(1);
            true
        }
        _ => false,
    }
}

impl Worker for ControlWorker {
    fn sources(&self) -> Vec<Source> {
        vec![Source::readable(self.queue.event(), 0)]
    }

    fn process(&mut self, _token: u32, _interest: &mut Interest<'_, '_>) -> Result<(), RingError> {
        let Self { memory, queue, interrupt, common, wakers, chain, .. } = self;
        drain(queue, memory, interrupt.as_ref(), chain, |chain| {
            if chain.writable_len() == 0 {
                return Err(RingError::Malformed("has no place for its acknowledgement"));
            }
            let mut bytes = [0; COMMAND];
            let len = chain.read_at(memory, 0, &mut bytes);
            let known = chain.readable_len() as usize == len;
            let done = known && obey(common, wakers, &bytes[..len]);
            let answer = if done { VIRTIO_NET_OK } else { VIRTIO_NET_ERR };
            chain.write_at(memory, 0, &[answer as u8]);
            Ok(1)
        })
    }

    fn save(&self) -> DeviceState {
        let queues = [&self.queue].into_iter().chain(&self.unused);
        DeviceState { queues: queues.map(DeviceQueue::snapshot).collect(), device: serde_json::Value::Null }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn commands_are_what_the_specification_says() {
        assert_eq!(Command::parse(&[4, 0, 2, 1]), Some(Command::Pairs(258)));
        assert_eq!(Command::parse(&[1, 1, 2, 0, 0, 0, 0, 9]), Some(Command::Mac([2, 0, 0, 0, 0, 9])));
        for nothing in
            [&[][..], &[4], &[4, 0], &[4, 0, 1], &[4, 0, 1, 0, 0], &[4, 1, 1, 0], &[1, 1, 2, 0], &[9, 9, 9]]
        {
            assert_eq!(Command::parse(nothing), None, "{nothing:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_command_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let _ = Command::parse(&bytes);
        }
    }
}
