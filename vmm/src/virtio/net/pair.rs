//! Who moves the frames of a pair of queues: this process, or the host's kernel.

use super::vhost::VhostWorker;
use super::worker::NetWorker;
use crate::virtio::patience::Patience;
use crate::virtio::worker::{Interest, Source, Worker};
use crate::virtio::{DeviceState, RingError};

// There are at most 16 of them in a device.
#[allow(clippy::large_enum_variant)]
pub(super) enum PairWorker {
    /// This process.
    Own(NetWorker),
    /// The kernel.
    Kernel(VhostWorker),
}

impl Worker for PairWorker {
    fn enter(&mut self) -> Result<(), RingError> {
        match self {
            Self::Own(worker) => worker.enter(),
            Self::Kernel(worker) => worker.enter(),
        }
    }

    fn sources(&self) -> Vec<Source> {
        match self {
            Self::Own(worker) => worker.sources(),
            Self::Kernel(worker) => worker.sources(),
        }
    }

    fn process(&mut self, token: u32, interest: &mut Interest<'_, '_>) -> Result<(), RingError> {
        match self {
            Self::Own(worker) => worker.process(token, interest),
            Self::Kernel(worker) => worker.process(token, interest),
        }
    }

    fn settle(&mut self, answer: bool, patience: Patience) -> Result<bool, RingError> {
        match self {
            Self::Own(worker) => worker.settle(answer, patience),
            Self::Kernel(worker) => worker.settle(answer, patience),
        }
    }

    fn save(&self) -> DeviceState {
        match self {
            Self::Own(worker) => worker.save(),
            Self::Kernel(worker) => worker.save(),
        }
    }
}
