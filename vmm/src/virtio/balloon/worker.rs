//! The running half of a balloon.

use super::metrics::Pieces;
use super::shared::Shared;
use super::{F_FREE_PAGE_HINT, F_PAGE_REPORTING, F_STATS_VQ};
use crate::api::config::GuestStats;
use crate::memory::{self, PAGE, Recipe};
use crate::virtio::queue::drain_in_turns;
use crate::virtio::worker::{Interest, Source, Worker};
use crate::virtio::{ActivateContext, Chain, DeviceQueue, DeviceState, GuestMemory, Interrupt, RingError};
use std::sync::Arc;
use vm_memory::{GuestAddress, GuestMemoryBackend};

const INFLATE: u32 = 0;
const DEFLATE: u32 = 1;
const STATS: u32 = 2;
const HINTS: u32 = 3;
const REPORTS: u32 = 4;
const TIMER: u32 = 5;

/// Bytes of page numbers that a request may hold: four times what Linux sends (VIRTIO_BALLOON_ARRAY_PFNS_MAX). Pages beyond these stay
/// where they are.
pub(super) const NUMBERS: usize = 4096;
/// Effort after which others get their turn, some milliseconds: see [`effort`].
const TURN: u64 = 4096;
/// What the host can look through in about the time that a call takes: what a page of page table entries covers.
const STRIDE: u64 = 2 << 20;
/// Bytes of a statistic: tag and value (5.5.6.3); and how many there are at most.
const STATISTIC: usize = 10;
const STATISTICS: usize = 32;

pub(super) struct BalloonWorker {
    memory: GuestMemory,
    interrupt: Arc<dyn Interrupt>,
    chain: Chain,
    shared: Arc<Shared>,
    recipe: Recipe,
    // With what each is for; those that the driver's features left out are behind these and never have buffers.
    queues: Vec<(u32, DeviceQueue)>,
    idle: Vec<DeviceQueue>,
}

impl BalloonWorker {
    pub(super) fn new(context: ActivateContext, shared: Arc<Shared>, recipe: Recipe) -> Self {
        let ActivateContext { memory, queues, interrupt, features, .. } = context;
        // A queue's number depends on what the driver accepted (5.5.2).
        let optional = [(F_STATS_VQ, STATS), (F_FREE_PAGE_HINT, HINTS), (F_PAGE_REPORTING, REPORTS)];
        let optional = optional.into_iter().filter(|(feature, _)| features & 1 << feature != 0);
        let kinds: Vec<_> = [INFLATE, DEFLATE].into_iter().chain(optional.map(|(_, kind)| kind)).collect();
        let mut queues = queues.into_iter();
        let used = kinds.into_iter().zip(queues.by_ref()).collect();
        let idle = queues.collect();
        Self { memory, interrupt, chain: Chain::default(), shared, recipe, queues: used, idle }
    }

    fn statistics(&mut self) -> Result<(), RingError> {
        let Self { memory, interrupt, chain, shared, queues, .. } = self;
        let Some((_, queue)) = queues.iter_mut().find(|(kind, _)| *kind == STATS) else { return Ok(()) };
        queue.clear_event();
        queue.quiet(memory)?;
        let mut budget = queue.size();
        loop {
            while budget > 0 && queue.pop(memory, chain)? {
                budget -= 1;
                let mut bytes = [0; STATISTIC * STATISTICS];
                let len = chain.read_at(memory, 0, &mut bytes);
                let (stats, unknown) = parse_stats(&bytes[..len]);
                shared.metrics.stats_updates_count.add(1);
                shared.metrics.stats_update_fails.add(unknown);
                shared.set_stats(stats);
                // The buffer stays here until the next ones are wanted; a driver that gives two at a time gets the older one back.
                let older = shared.state().stats_head.replace(chain.head());
                if let Some(older) = older {
                    queue.complete(memory, older, 0)?;
                }
            }
            queue.signal(memory, interrupt.as_ref())?;
            if budget == 0 {
                queue.come_back();
                return Ok(());
            }
            if !queue.listen(memory)? {
                return Ok(());
            }
        }
    }

    /// Asks for new statistics by giving the buffer of the last ones back.
    fn ask(&mut self) -> Result<(), RingError> {
        // Nothing to read is what a timer that was set anew meanwhile says. It does not block.
        let _ = self.shared.timer().wait();
        let head = self.shared.state().stats_head.take();
        let Self { memory, interrupt, queues, .. } = self;
        if let (Some(head), Some((_, queue))) = (head, queues.iter_mut().find(|(kind, _)| *kind == STATS)) {
            queue.complete(memory, head, 0)?;
            queue.signal(memory, interrupt.as_ref())?;
        }
        Ok(())
    }
}

impl Worker for BalloonWorker {
    fn sources(&self) -> Vec<Source> {
        let queues = self.queues.iter().map(|(kind, queue)| Source::readable(queue.event(), *kind));
        queues.chain([Source::readable(&*self.shared.timer(), TIMER)]).collect()
    }

    fn process(&mut self, token: u32, _interest: &mut Interest<'_, '_>) -> Result<(), RingError> {
        match token {
            TIMER => return self.ask(),
            STATS => return self.statistics(),
            _ => {}
        }
        let Self { memory, interrupt, chain, shared, recipe, queues, .. } = self;
        let Some((_, queue)) = queues.iter_mut().find(|(kind, _)| *kind == token) else { return Ok(()) };
        let mut acknowledged = false;
        drain_in_turns(queue, memory, interrupt.as_ref(), chain, TURN, |chain| {
            let effort = match token {
                INFLATE => {
                    shared.metrics.inflate_count.add(1);
                    inflate(memory, chain, recipe)
                }
                REPORTS => give_back(memory, chain, recipe, &shared.metrics.reports()),
                HINTS => {
                    let mut command = [0; 4];
                    if chain.read_at(memory, 0, &mut command) == command.len() {
                        acknowledged |= shared.guest_command(u32::from_le_bytes(command));
                        0
                    } else if shared.hinting() {
                        give_back(memory, chain, recipe, &shared.metrics.hints())
                    } else {
                        0
                    }
                }
                // Deflated pages are used again by being used.
                _ => {
                    shared.metrics.deflate_count.add(1);
                    0
                }
            };
            Ok((0, effort))
        })?;
        if acknowledged {
            interrupt.config();
        }
        Ok(())
    }

    fn save(&self) -> DeviceState {
        let queues = self.queues.iter().map(|(_, queue)| queue).chain(&self.idle);
        DeviceState { queues: queues.map(DeviceQueue::snapshot).collect(), device: serde_json::Value::Null }
    }
}

/// What it takes the host to give `len` bytes back: a call, and a look at each entry of the page tables for them.
fn effort(len: usize) -> u64 {
    1 + len as u64 / STRIDE
}

/// Gives back what a request's writable buffers cover; with what effort.
fn give_back(memory: &GuestMemory, chain: &Chain, recipe: &Recipe, pieces: &Pieces<'_>) -> u64 {
    let slices = chain.writable_slices(memory, 0, chain.writable_len());
    slices.iter().for_each(|slice| pieces.discard(slice, recipe));
    slices.iter().map(|slice| effort(slice.len())).sum()
}

/// Gives back the pages whose numbers a request holds; with what effort. Numbers of what is no memory say nothing.
fn inflate(memory: &GuestMemory, chain: &Chain, recipe: &Recipe) -> u64 {
    let mut numbers = [0; NUMBERS];
    let len = chain.read_at(memory, 0, &mut numbers);
    let words =
        numbers[..len].chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
    let mut spent = 0;
    for (first, count) in runs(words) {
        let start = GuestAddress(u64::from(first) * PAGE);
        let len = usize::try_from(u64::from(count) * PAGE).unwrap_or(usize::MAX);
        spent += 1;
        for slice in memory.get_slices(start, len).map_while(Result::ok) {
            // A page that the host can't take back it keeps.
            let _ = memory::discard(&slice, recipe);
            spent += effort(slice.len());
        }
    }
    spent
}

/// Pages that follow each other, up or down, as one: (first, how many).
fn runs(numbers: impl Iterator<Item = u32>) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((first, count)) if first.checked_add(*count) == Some(number) => *count += 1,
            Some((first, count)) if number.checked_add(1) == Some(*first) => {
                (*first, *count) = (number, *count + 1)
            }
            _ => runs.push((number, 1)),
        }
    }
    runs
}

/// Statistics by their tags (5.5.6.3); those that this program does not know say nothing, and how many those are.
fn parse_stats(bytes: &[u8]) -> (GuestStats, u64) {
    let (mut stats, mut unknown) = (GuestStats::default(), 0);
    for statistic in bytes.chunks_exact(STATISTIC) {
        let (tag, value) = statistic.split_at(2);
        let field = match u16::from_le_bytes([tag[0], tag[1]]) {
            0 => &mut stats.swap_in,
            1 => &mut stats.swap_out,
            2 => &mut stats.major_faults,
            3 => &mut stats.minor_faults,
            4 => &mut stats.free_memory,
            5 => &mut stats.total_memory,
            6 => &mut stats.available_memory,
            7 => &mut stats.disk_caches,
            8 => &mut stats.hugetlb_allocations,
            9 => &mut stats.hugetlb_failures,
            10 => &mut stats.oom_kill,
            11 => &mut stats.alloc_stall,
            12 => &mut stats.async_scan,
            13 => &mut stats.direct_scan,
            14 => &mut stats.async_reclaim,
            15 => &mut stats.direct_reclaim,
            _ => {
                unknown += 1;
                continue;
            }
        };
        *field = Some(u64::from_le_bytes(value.try_into().expect("a statistic has ten bytes")));
    }
    (stats, unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn neighbours_make_one_run_in_either_direction() {
        assert_eq!(runs([5, 6, 7, 4, 9, 8].into_iter()), [(4, 4), (8, 2)]);
        assert_eq!(runs([u32::MAX, 0].into_iter()), [(u32::MAX, 1), (0, 1)]);
        assert_eq!(runs(std::iter::empty()), []);
    }

    proptest! {
        #[test]
        fn runs_cover_what_was_named_and_nothing_else(numbers in proptest::collection::vec(0u32..64, 0..64)) {
            let mut named: Vec<u32> = numbers.clone();
            let mut covered: Vec<u32> =
                runs(numbers.into_iter()).into_iter().flat_map(|(first, count)| first..first + count).collect();
            named.sort_unstable();
            covered.sort_unstable();
            prop_assert_eq!(named, covered);
        }

        #[test]
        fn any_statistics_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            parse_stats(&bytes);
        }
    }
}
