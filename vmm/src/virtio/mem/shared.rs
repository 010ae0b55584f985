//! Which blocks are plugged in, and what the guest is asked for.

use super::MemMetrics;
use crate::api::config::{MemoryHotplug, MemoryHotplugStatus};
use crate::memory::{Blocks, Slots};
use crate::virtio::Signals;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

struct State {
    requested: u64,
    plugged: Vec<bool>,
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
    pub(super) metrics: MemMetrics,
}

impl Shared {
    pub(super) fn new(config: MemoryHotplug, start: u64, known: Arc<Blocks>, slots: Box<dyn Slots>) -> Self {
        // Checked with the document: a few hundred thousand blocks at most.
        let blocks = usize::try_from(config.total_size_mib / config.block_size_mib).unwrap_or(0);
        let state = Mutex::new(State { requested: 0, plugged: vec![false; blocks] });
        Self { config, start, blocks: known, slots, state, metrics: MemMetrics::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn range_of(&self, blocks: &Range<usize>) -> (u64, u64) {
        (self.start + blocks.start as u64 * self.block(), blocks.len() as u64 * self.block())
    }

    fn blocks_per_slot(&self) -> usize {
        usize::try_from(self.config.slot_size_mib / self.config.block_size_mib).unwrap_or(1).max(1)
    }

    /// Slots that these blocks lie in: number, and its blocks.
    fn slots_of(&self, blocks: &Range<usize>, all: usize) -> impl Iterator<Item = (u32, Range<usize>)> {
        let per = self.blocks_per_slot();
        let slots = blocks.start / per..blocks.end.div_ceil(per);
        slots.map(move |slot| (slot as u32, slot * per..((slot + 1) * per).min(all)))
    }

    pub(super) fn plug(&self, address: u64, count: u16) -> Answer {
        let mut state = self.lock();
        let Some(blocks) = self.blocks(&state, address, count) else { return Answer::Error };
        if state.plugged[blocks.clone()].iter().any(|plugged| *plugged) {
            return Answer::Error;
        }
        let (_, len) = self.range_of(&blocks);
        if self.plugged_size(&state) + len > state.requested {
            return Answer::Nack;
        }
        if self.insert(&state, &blocks).is_err() {
            return Answer::Busy;
        }
        self.blocks.set(blocks.clone(), true);
        state.plugged[blocks].fill(true);
        Answer::Ack
    }

    /// Puts those slots of `blocks` into the machine that have no block in use yet; all of them or none.
    fn insert(&self, state: &State, blocks: &Range<usize>) -> std::io::Result<()> {
        let unused = |blocks: &Range<usize>| state.plugged[blocks.clone()].iter().all(|plugged| !plugged);
        let mut inserted = Vec::new();
        for (slot, of_slot) in self.slots_of(blocks, state.plugged.len()) {
            if !unused(&of_slot) {
                continue;
            }
            if let Err(error) = self.slots.set(slot, true) {
                // What was just put in can be taken out.
                for slot in inserted {
                    drop(self.slots.set(slot, false));
                    self.slots.shut(slot);
                }
                return Err(error);
            }
            inserted.push(slot);
        }
        Ok(())
    }

    pub(super) fn unplug(&self, address: u64, count: u16, discard: impl FnMut(u64, u64)) -> Answer {
        let mut state = self.lock();
        let Some(blocks) = self.blocks(&state, address, count) else { return Answer::Error };
        if state.plugged[blocks.clone()].iter().any(|plugged| !plugged) {
            return Answer::Error;
        }
        self.remove(&mut state, blocks, discard);
        Answer::Ack
    }

    pub(super) fn unplug_all(&self, discard: impl FnMut(u64, u64)) -> Answer {
        let mut state = self.lock();
        let all = 0..state.plugged.len();
        self.remove(&mut state, all, discard);
        Answer::Ack
    }

    /// Takes blocks out, and slots that have none left in use; then their memory goes back.
    fn remove(&self, state: &mut State, blocks: Range<usize>, mut discard: impl FnMut(u64, u64)) {
        let (all, mut empty) = (state.plugged.len(), Vec::new());
        self.blocks.set(blocks.clone(), false);
        for (slot, of_slot) in self.slots_of(&blocks, all) {
            let used = state.plugged[of_slot.clone()].contains(&true);
            let part = blocks.start.max(of_slot.start)..blocks.end.min(of_slot.end);
            state.plugged[part].fill(false);
            if used && !state.plugged[of_slot].contains(&true) {
                // A slot that is there can be taken out.
                let _ = self.slots.set(slot, false);
                empty.push(slot);
            }
        }
        let (address, len) = self.range_of(&blocks);
        discard(address, len);
        empty.into_iter().for_each(|slot| self.slots.shut(slot));
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
            self.insert(&state, &blocks)
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
