//! Frames in and out.

use super::tap::{HEADER, Received, Tap};
use super::{Common, Limits};
use crate::mmds::{HEAD, Wire};
use crate::virtio::io::writev;
use crate::virtio::limiter::Meter;
use crate::virtio::queue::drain_any_while;
use crate::virtio::worker::{Interest, Source, Worker};
use crate::virtio::{ActivateContext, Chain, DeviceQueue, DeviceState, GuestMemory, Interrupt, RingError};
use event_manager::EventSet;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use vm_memory::VolatileSlice;

const RECEIVE: u32 = 0;
const TRANSMIT: u32 = 1;
const TAP: u32 = 2;
const RECEIVE_TIMER: u32 = 3;
const TRANSMIT_TIMER: u32 = 4;
const METADATA_TIMER: u32 = 5;

/// The largest frame that a TAP hands out: a segmentation-offloaded packet with its Ethernet and offload headers.
const MAX_FRAME: u32 = 65535 + 18 + HEADER as u32;
/// `num_buffers`, the only header field that is the device's to fill.
const NUM_BUFFERS: u32 = 10;
/// Bytes of a frame for the metadata service at most: a request in one piece, whoever left its segmentation to us.
const METADATA_FRAME: usize = 8192;

pub(super) struct NetWorker {
    memory: GuestMemory,
    receive: DeviceQueue,
    transmit: DeviceQueue,
    interrupt: Arc<dyn Interrupt>,
    chain: Chain,
    tap: Arc<Tap>,
    // Those of the TAP's queues that nobody serves: its driver knows of one pair only.
    unserved: Vec<Arc<Tap>>,
    features: u64,
    // Receive buffers that were taken and not used yet. A TAP does not say how long its next frame is, so room for the
    // longest has to lie ready, and walking its descriptors again for every frame would cost more than the frame.
    ready: VecDeque<Chain>,
    spare: Vec<Chain>,
    room: u64,
    watching: bool,
    receive_meter: Meter,
    transmit_meter: Meter,
    common: Common,
    // Of the pair.
    index: u16,
}

impl NetWorker {
    pub(super) fn new(
        context: ActivateContext,
        (receive, transmit): (DeviceQueue, DeviceQueue),
        (tap, unserved): (Arc<Tap>, Vec<Arc<Tap>>),
        common: Common,
        limits: &Limits,
        index: usize,
    ) -> Self {
        let meter = |throttle, token| Meter::new(Arc::clone(throttle), index, token);
        let mut worker = Self {
            receive,
            transmit,
            memory: context.memory,
            interrupt: context.interrupt,
            chain: Chain::default(),
            tap,
            unserved,
            features: context.features,
            ready: VecDeque::new(),
            spare: Vec::new(),
            room: 0,
            watching: false,
            receive_meter: meter(&limits.receive, RECEIVE_TIMER),
            transmit_meter: meter(&limits.transmit, TRANSMIT_TIMER),
            common,
            index: index as u16,
        };
        // What is gone would be ready for ever, and so would a queue that the TAP does not serve.
        worker.watching = worker.is_active();
        worker
    }

    /// Whether frames may come: the link is up, and the driver uses this pair.
    fn is_active(&self) -> bool {
        self.common.link.load(Ordering::Relaxed) && self.common.pairs.load(Ordering::Relaxed) > self.index
    }

    fn merges(&self) -> bool {
        self.features & 1 << VIRTIO_NET_F_MRG_RXBUF != 0
    }

    /// Takes buffers until the longest frame fits. False if the driver has to give more first.
    fn stock_up(&mut self) -> Result<bool, RingError> {
        let merges = self.merges();
        loop {
            let full = self.ready.len() >= usize::from(self.receive.size());
            // A ring that holds less than the longest frame at its fullest must do.
            if full || self.room >= MAX_FRAME.into() || !merges && !self.ready.is_empty() {
                return Ok(true);
            }
            let mut chain = self.spare.pop().unwrap_or_default();
            if !self.receive.pop(&self.memory, &mut chain)? {
                self.spare.push(chain);
                return Ok(false);
            }
            if chain.writable_len() < HEADER as u32 {
                return Err(RingError::Malformed("has no room for a received frame's header"));
            }
            self.room += u64::from(chain.writable_len());
            self.ready.push_back(chain);
        }
    }

    /// Moves frames from the TAP into the guest: a queueful at most; the TAP stays readable if there are more.
    fn receive_frames(&mut self, interest: &mut Interest<'_, '_>) -> Result<(), RingError> {
        if self.receive_meter.is_waiting() {
            return Ok(());
        }
        let active = self.is_active();
        // It fails for a TAP that is gone, which the next frame tells.
        let _ = self.tap.attach(active);
        let mut budget = if active { self.receive.size() } else { 0 };
        let mut starved = false;
        while budget > 0 {
            budget -= 1;
            if !self.stock_up()? {
                // Asking for a kick comes first: buffers that came before it show in the answer.
                if self.receive.listen(&self.memory)? {
                    continue;
                }
                self.common.metrics.no_rx_avail_buffer.add(1);
                starved = true;
                break;
            }
            // How long a frame is shows when it is here: any token lets it pass, and the next one waits for what it took.
            if !self.receive_meter.is_ready(1, interest) {
                starved = true;
                break;
            }
            match self.receive_frame()? {
                Received::Frame(len) => {
                    self.common.metrics.received(len - HEADER);
                    self.receive_meter.take((len - HEADER) as u64);
                }
                Received::Nothing => break,
                // Its queue was let go of meanwhile.
                Received::Gone if !self.is_active() => break,
                Received::Gone => {
                    self.common.metrics.tap_read_fails.add(1);
                    self.common.link.store(false, Ordering::Relaxed);
                    self.interrupt.config();
                    break;
                }
            }
        }
        self.receive.signal(&self.memory, self.interrupt.as_ref())?;
        // A TAP that is gone reports an error without end, whatever it is watched for.
        let watch = !starved && self.is_active();
        match (watch, self.watching) {
            (false, true) => interest.ignore(self.tap.file()),
            (true, false) => interest.watch(self.tap.file(), TAP, EventSet::IN),
            _ => {}
        }
        self.watching = watch;
        Ok(())
    }

    fn receive_frame(&mut self) -> Result<Received, RingError> {
        let chains = if self.merges() { self.ready.len() } else { 1 };
        let mut slices = Vec::with_capacity(chains);
        let mut left = MAX_FRAME;
        for chain in self.ready.iter().take(chains) {
            let wanted = left.min(chain.writable_len());
            let room = chain.writable_slices(&self.memory, 0, left);
            if room.iter().map(VolatileSlice::len).sum::<usize>() != wanted as usize {
                return Err(RingError::Malformed("has buffers in memory that was unplugged since"));
            }
            slices.extend(room);
            left -= wanted;
            if left == 0 {
                break;
            }
        }
        let metadata = self.common.metadata().and_then(|mut wire| wire.next(Instant::now()));
        let received = match metadata {
            Some(frame) => place(&frame, &slices),
            None => self.tap.receive(&slices),
        };
        let Received::Frame(len) = received else { return Ok(received) };
        let (mut rest, mut used) = (len as u64, 0u16);
        for chain in &self.ready {
            if rest == 0 {
                break;
            }
            used += 1;
            rest = rest.saturating_sub(chain.writable_len().into());
        }
        if let Some(first) = self.ready.front() {
            first.write_at(&self.memory, NUM_BUFFERS, &used.to_le_bytes());
        }
        let mut rest = len as u64;
        for _ in 0..used {
            let Some(chain) = self.ready.pop_front() else { break };
            let size = chain.writable_len();
            let part = rest.min(size.into());
            self.receive.complete(&self.memory, chain.head(), part as u32)?;
            (rest, self.room) = (rest - part, self.room - u64::from(size));
            self.spare.push(chain);
        }
        Ok(received)
    }

    fn transmit_frames(&mut self, interest: &mut Interest<'_, '_>) -> Result<(), RingError> {
        let Self { memory, transmit, interrupt, chain, tap, transmit_meter: meter, common, .. } = self;
        if meter.is_waiting() {
            transmit.clear_event();
            return Ok(());
        }
        let admit =
            |chain: &Chain| meter.admit(chain.readable_len().saturating_sub(HEADER as u32).into(), interest);
        drain_any_while(transmit, memory, interrupt.as_ref(), chain, admit, |chain| {
            if chain.readable_len() < HEADER as u32 {
                return Err(RingError::Malformed("is shorter than a frame's header"));
            }
            let len = chain.readable_len();
            if chain.elsewhere().is_some() {
                // What a program of the guest sends may lie where no device reads; without it the frame would be another one.
                common.metrics.tx_malformed_frames.add(1);
            } else if common.metadata().is_some_and(|mut wire| hand_over(&mut wire, chain, memory)) {
                common.metrics.sent(len as usize - HEADER);
            } else if len <= MAX_FRAME {
                // A frame that the TAP has no room for, or finds wrong, is lost, as on any wire.
                match writev(tap.file(), &chain.readable_slices(memory, 0, len)) {
                    Ok(_) => common.metrics.sent(len as usize - HEADER),
                    Err(_) => common.metrics.tx_fails.add(1),
                }
            } else {
                common.metrics.tx_malformed_frames.add(1);
            }
            Ok(0)
        })?;
        if self.common.metadata().is_some_and(|wire| wire.is_waiting()) {
            return self.receive_frames(interest);
        }
        Ok(())
    }
}

/// Gives a frame to the metadata service if it is for it; whether it was.
fn hand_over(wire: &mut Wire, chain: &Chain, memory: &GuestMemory) -> bool {
    let mut head = [0; HEAD];
    let read = chain.read_at(memory, HEADER as u32, &mut head);
    if !wire.takes(&head[..read]) {
        return false;
    }
    let len = chain.readable_len() as usize - HEADER;
    // What is longer than any request is lost, as on any wire.
    if len <= METADATA_FRAME {
        let mut frame = vec![0; len];
        chain.read_at(memory, HEADER as u32, &mut frame);
        wire.receive(frame, Instant::now());
    }
    true
}

/// Puts a frame of ours into the guest's buffers; it is lost if they are too short.
fn place(frame: &[u8], slices: &[VolatileSlice<'_>]) -> Received {
    let whole = [&[0; HEADER], frame].concat();
    let mut rest = whole.as_slice();
    for slice in slices {
        let (part, more) = rest.split_at(rest.len().min(slice.len()));
        slice.copy_from(part);
        rest = more;
    }
    Received::Frame(whole.len() - rest.len())
}

impl Worker for NetWorker {
    fn enter(&mut self) -> Result<(), RingError> {
        // Here and not at activation, which happens in a vCPU's thread: that one may make no such calls. None of them can fail for a TAP that took
        // all of them before, but for one that is gone, which the next frame tells.
        let _ = self.tap.set_offloads(self.features);
        // The driver before this one may have used other pairs.
        let _ = self.tap.attach(self.is_active());
        for tap in &self.unserved {
            let _ = tap.attach(false);
        }
        Ok(())
    }

    fn sources(&self) -> Vec<Source> {
        let mut sources = vec![
            Source::readable(self.receive.event(), RECEIVE),
            Source::readable(self.transmit.event(), TRANSMIT),
        ];
        if self.watching {
            sources.push(Source::readable(self.tap.file(), TAP));
        }
        if let Some(wire) = self.common.metadata().filter(|_| self.index == 0) {
            sources.push(Source::readable(wire.timer(), METADATA_TIMER));
        }
        sources.extend([&self.receive_meter, &self.transmit_meter].into_iter().filter_map(Meter::source));
        sources
    }

    fn process(&mut self, token: u32, interest: &mut Interest<'_, '_>) -> Result<(), RingError> {
        let metrics = &self.common.metrics;
        match token {
            TRANSMIT => {
                metrics.tx_queue_event_count.add(1);
                self.transmit_frames(interest)
            }
            TRANSMIT_TIMER => {
                metrics.tx_rate_limiter_event_count.add(1);
                self.transmit_meter.fired();
                self.transmit_frames(interest)
            }
            RECEIVE_TIMER => {
                metrics.rx_event_rate_limiter_count.add(1);
                self.receive_meter.fired();
                self.receive_frames(interest)
            }
            METADATA_TIMER => {
                if let Some(mut wire) = self.common.metadata() {
                    wire.tick(Instant::now());
                }
                self.receive_frames(interest)
            }
            RECEIVE => {
                metrics.rx_queue_event_count.add(1);
                self.receive.clear_event();
                self.receive_frames(interest)
            }
            _ => {
                metrics.rx_tap_event_count.add(1);
                self.receive_frames(interest)
            }
        }
    }

    fn save(&self) -> DeviceState {
        // Buffers that were only taken go back: the next process takes them again.
        let mut receive = self.receive.snapshot();
        receive.next_avail = receive.next_avail.wrapping_sub(self.ready.len() as u16);
        DeviceState { queues: vec![receive, self.transmit.snapshot()], device: serde_json::Value::Null }
    }
}
