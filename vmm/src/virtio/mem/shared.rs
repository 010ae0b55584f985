//! Which blocks are plugged in, and what the guest is asked for.

use super::MemMetrics;
use crate::api::config::{MemoryHotplug, MemoryHotplugStatus};
use crate::lock::lock;
use crate::memory::{Blocks, Slots};
use crate::virtio::Signals;
use serde::{Deserialize, Serialize};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Responses (5.15.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Answer {
    /// Done.
    Ack = 0,
    /// Not wanted now.
    Nack = 1,
    /// Not possible now.
    Busy = 2,
    /// Makes no sense.
    Error = 3,
}

/// VIRTIO_MEM_STATE_*: what a range of blocks is.
const PLUGGED: u16 = 0;
const UNPLUGGED: u16 = 1;
const MIXED: u16 = 2;

/// Slots that one request may put into the machine: KVM waits for all processors with each. Linux asks for a memory block at a time, which is
/// 2 GiB at most.
pub(super) const MOST_SLOTS: usize = 64;
/// Slots that a step of cleaning takes out of the machine at most.
const STEP_SLOTS: usize = 64;
/// Bytes that a step of cleaning gives back at most: some tens of milliseconds where all of them were in use.
pub(super) const STEP_BYTES: u64 = 256 << 20;

/// Why a guest was not asked for another size.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemError {
    /// More than there can be.
    #[error("requested_size_mib is {asked}; give at most total_size_mib, which is {total}")]
    TooMuch {
        /// What was asked.
        asked: u64,
        /// What there can be.
        total: u64,
    },
    /// No whole blocks.
    #[error("requested_size_mib is {asked}; give a multiple of block_size_mib, which is {block}")]
    Blocks {
        /// What was asked.
        asked: u64,
        /// Size of a block.
        block: u64,
    },
}

/// Where a slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Out,
    In,
    /// Out of the machine; its bytes are on their way back.
    Leaving,
}

struct State {
    requested: u64,
    plugged: Vec<bool>,
    slots: Vec<Place>,
    // Bytes from the start whose blocks are unplugged and whose memory has not gone back yet.
    cleaning: Range<u64>,
}

impl State {
    fn is_used(&self, blocks: Range<usize>) -> bool {
        self.plugged[blocks].contains(&true)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    requested: u64,
    block: u64,
    /// Blocks plugged in: first, and how many.
    plugged: Vec<(usize, usize)>,
}

pub(super) struct Shared {
    config: MemoryHotplug,
    start: u64,
    blocks: Arc<Blocks>,
    slots: Box<dyn Slots>,
    state: Mutex<State>,
    // Written to when there is something to clean.
    bell: EventFd,
    pub(super) metrics: MemMetrics,
}

impl Shared {
    pub(super) fn new(
        config: MemoryHotplug,
        start: u64,
        known: Arc<Blocks>,
        slots: Box<dyn Slots>,
    ) -> io::Result<Self> {
        // Checked with the document: a few hundred thousand blocks at most.
        let count = |size: u64| usize::try_from(config.total_size_mib / size).unwrap_or(0);
        let state = Mutex::new(State {
            requested: 0,
            plugged: vec![false; count(config.block_size_mib)],
            slots: vec![Place::Out; count(config.slot_size_mib)],
            cleaning: 0..0,
        });
        let bell = EventFd::new(EFD_NONBLOCK)?;
        Ok(Self { config, start, blocks: known, slots, state, bell, metrics: MemMetrics::default() })
    }

    /// Readable when there is something to clean.
    pub(super) fn bell(&self) -> &EventFd {
        &self.bell
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn block(&self) -> u64 {
        self.config.block_size_mib << 20
    }

    pub(super) fn all_blocks(&self) -> u64 {
        self.config.total_size_mib / self.config.block_size_mib
    }

    fn plugged_size(&self, state: &State) -> u64 {
        state.plugged.iter().filter(|plugged| **plugged).count() as u64 * self.block()
    }

    /// `struct virtio_mem_config` (5.15.4).
    pub(super) fn config_space(&self) -> [u8; 56] {
        let state = self.lock();
        let total = self.config.total_size_mib << 20;
        let fields = [self.block(), 0, self.start, total, total, self.plugged_size(&state), state.requested];
        let mut space = [0; 56];
        for (place, field) in space.chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        space
    }

    /// The blocks that a request means, if there are such.
    fn blocks(&self, state: &State, address: u64, count: u16) -> Option<Range<usize>> {
        let offset = address.checked_sub(self.start).filter(|offset| offset.is_multiple_of(self.block()))?;
        let first = usize::try_from(offset / self.block()).ok()?;
        let end = first.checked_add(count.into())?;
        (count > 0 && end <= state.plugged.len()).then_some(first..end)
    }

    fn blocks_per_slot(&self) -> usize {
        usize::try_from(self.config.slot_size_mib / self.config.block_size_mib).unwrap_or(1).max(1)
    }

    /// Slots that these blocks lie in.
    fn slots_of(&self, blocks: &Range<usize>) -> Range<usize> {
        let per = self.blocks_per_slot();
        blocks.start / per..blocks.end.div_ceil(per)
    }

    /// Those of them that are not in the machine.
    fn slots_out(&self, state: &State, blocks: &Range<usize>) -> Vec<usize> {
        self.slots_of(blocks).filter(|slot| state.slots[*slot] == Place::Out).collect()
    }

    pub(super) fn plug(&self, address: u64, count: u16) -> Answer {
        let mut state = self.lock();
        let Some(blocks) = self.blocks(&state, address, count) else { return Answer::Error };
        if state.plugged[blocks.clone()].iter().any(|plugged| *plugged) {
            return Answer::Error;
        }
        if self.plugged_size(&state) + blocks.len() as u64 * self.block() > state.requested {
            return Answer::Nack;
        }
        let slots = self.slots_out(&state, &blocks);
        if slots.len() > MOST_SLOTS || self.insert(&mut state, slots).is_err() {
            return Answer::Busy;
        }
        self.blocks.set(blocks.clone(), true);
        state.plugged[blocks].fill(true);
        Answer::Ack
    }

    /// Puts slots that are out into the machine; all of them or none.
    fn insert(&self, state: &mut State, slots: Vec<usize>) -> io::Result<()> {
        for (count, slot) in slots.iter().enumerate() {
            if let Err(error) = self.slots.set(*slot as u32, true) {
                // What was just put in can be taken out.
                for slot in &slots[..count] {
                    drop(self.slots.set(*slot as u32, false));
                    self.slots.shut(*slot as u32);
                }
                return Err(error);
            }
        }
        slots.into_iter().for_each(|slot| state.slots[slot] = Place::In);
        Ok(())
    }

    pub(super) fn unplug(&self, address: u64, count: u16) -> Answer {
        let mut state = self.lock();
        let Some(blocks) = self.blocks(&state, address, count) else { return Answer::Error };
        if state.plugged[blocks.clone()].iter().any(|plugged| !plugged) {
            return Answer::Error;
        }
        self.remove(&mut state, blocks);
        Answer::Ack
    }

    pub(super) fn unplug_all(&self) -> Answer {
        let mut state = self.lock();
        let all = 0..state.plugged.len();
        if state.is_used(all.clone()) {
            self.remove(&mut state, all);
        }
        Answer::Ack
    }

    /// Takes blocks out of the reach of devices; slots that have none left in use, and memory, follow in steps. Nothing else is being cleaned.
    fn remove(&self, state: &mut State, blocks: Range<usize>) {
        self.blocks.set(blocks.clone(), false);
        state.plugged[blocks.clone()].fill(false);
        let block = self.block();
        state.cleaning = blocks.start as u64 * block..blocks.end as u64 * block;
        self.ring();
    }

    /// Calls for a step of cleaning.
    pub(super) fn ring(&self) {
        // A counter that is full is readable too.
        let _ = self.bell.write(1);
    }

    /// Whether all that is unplugged has gone back.
    pub(super) fn is_clean(&self) -> bool {
        self.lock().cleaning.is_empty()
    }

    /// A step: takes slots that have no block left in use out of the machine, then gives memory back, then shuts the slots, one after the
    /// other. True if it was the last.
    pub(super) fn clean(&self, mut discard: impl FnMut(u64, u64)) -> bool {
        let mut state = self.lock();
        let (per, size) = (self.blocks_per_slot(), self.config.slot_size_mib << 20);
        let (mut slots, mut bytes) = (0, 0);
        while !state.cleaning.is_empty() {
            if slots == STEP_SLOTS || bytes == STEP_BYTES {
                return false;
            }
            let (at, end) = (state.cleaning.start, state.cleaning.end);
            let index = (at / size) as usize;
            let end = end.min((at / size + 1) * size);
            if state.slots[index] == Place::Out {
                state.cleaning.start = end;
                continue;
            }
            let blocks = index * per..((index + 1) * per).min(state.plugged.len());
            if state.slots[index] == Place::In && !state.is_used(blocks) {
                // A slot that is there can be taken out.
                let _ = self.slots.set(index as u32, false);
                state.slots[index] = Place::Leaving;
                slots += 1;
            }
            let len = (end - at).min(STEP_BYTES - bytes);
            discard(self.start + at, len);
            bytes += len;
            state.cleaning.start += len;
            if state.cleaning.start == end && state.slots[index] == Place::Leaving {
                self.slots.shut(index as u32);
                state.slots[index] = Place::Out;
            }
        }
        true
    }

    pub(super) fn state(&self, address: u64, count: u16) -> Option<u16> {
        let state = self.lock();
        let blocks = self.blocks(&state, address, count)?;
        let plugged = state.plugged[blocks.clone()].iter().filter(|plugged| **plugged).count();
        Some(match plugged {
            0 => UNPLUGGED,
            some if some == blocks.len() => PLUGGED,
            _ => MIXED,
        })
    }

    pub(super) fn save(&self) -> serde_json::Value {
        let state = self.lock();
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for block in state.plugged.iter().enumerate().filter_map(|(block, plugged)| plugged.then_some(block))
        {
            match runs.last_mut() {
                Some((first, count)) if *first + *count == block => *count += 1,
                _ => runs.push((block, 1)),
            }
        }
        let saved = Saved { requested: state.requested, block: self.block(), plugged: runs };
        serde_json::to_value(saved).expect("a state has only numbers")
    }

    pub(super) fn restore(&self, saved: &serde_json::Value) -> Result<(), String> {
        let saved: Saved = serde_json::from_value(saved.clone()).map_err(|error| error.to_string())?;
        let mut state = self.lock();
        if saved.block != self.block() || saved.requested > self.config.total_size_mib << 20 {
            return Err("its blocks are others".into());
        }
        for (first, count) in saved.plugged {
            let end = first.checked_add(count).filter(|end| *end <= state.plugged.len());
            let blocks = first..end.ok_or("it has more memory than there can be")?;
            let slots = self.slots_out(&state, &blocks);
            self.insert(&mut state, slots)
                .map_err(|error| format!("its memory can't be plugged in: {error}"))?;
            self.blocks.set(blocks.clone(), true);
            state.plugged[blocks].fill(true);
        }
        state.requested = saved.requested;
        Ok(())
    }
}

/// Hot-pluggable memory from outside.
pub struct MemControl(Arc<Shared>);

impl MemControl {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// Asks the guest to have `requested_mib` MiB of it; it is told through `signals`, and takes or gives what it can.
    ///
    /// # Errors
    /// See [`MemError`].
    pub fn resize(&self, requested_mib: u64, signals: &Signals) -> Result<(), MemError> {
        let MemoryHotplug { total_size_mib: total, block_size_mib: block, .. } = self.0.config;
        if requested_mib > total {
            return Err(MemError::TooMuch { asked: requested_mib, total });
        }
        if !requested_mib.is_multiple_of(block) {
            return Err(MemError::Blocks { asked: requested_mib, block });
        }
        signals.change_config(|| self.0.lock().requested = requested_mib << 20);
        Ok(())
    }

    /// What it has done so far.
    pub fn metrics(&self) -> &MemMetrics {
        &self.0.metrics
    }

    /// How far it is.
    pub fn status(&self) -> MemoryHotplugStatus {
        let MemoryHotplug { total_size_mib, slot_size_mib, block_size_mib } = self.0.config;
        let state = self.0.lock();
        MemoryHotplugStatus {
            total_size_mib,
            slot_size_mib,
            block_size_mib,
            plugged_size_mib: self.0.plugged_size(&state) >> 20,
            requested_size_mib: state.requested >> 20,
        }
    }
}
