//! What drives and interfaces need that can't be had once the filters are on: rings, and threads of their own.

use crate::api::config::{Drive, IoEngine, VmConfig};
use crate::api::status::ExitReason;
use crate::end::EndSignal;
use crate::files::Files;
use crate::line_writer::complain;
use crate::virtio::block::{QUEUE_SIZE, Ring};
use crate::virtio::{Subscriber, WorkerLoop};
use event_manager::EventManager;
use std::collections::VecDeque;
use std::io;

/// One ring for each queue of each drive; none for a drive that does without.
#[derive(Default)]
pub struct Rings(VecDeque<Vec<Ring>>);

impl Rings {
    /// Makes them; where the host has none to give, says so once and goes on without.
    pub fn make(config: &VmConfig, files: &Files) -> Self {
        let mut refused = None;
        let rings = config.drives.iter().zip(&files.drives).map(|(drive, files)| {
            let [file] = &files[..] else { return Vec::new() };
            if drive.io_engine == Some(IoEngine::Sync) {
                return Vec::new();
            }
            let rings = (0..drive.num_queues).map(|_| Ring::new(QUEUE_SIZE, file));
            rings.collect::<io::Result<_>>().unwrap_or_else(|error| {
                refused = Some(error);
                Vec::new()
            })
        });
        let rings = Self(rings.collect());
        if let Some(error) = refused {
            complain(&format!("drives are served without io_uring: {error} (see kernel.io_uring_disabled)"));
        }
        rings
    }

    /// Those of the next drive.
    pub fn take(&mut self) -> Vec<Ring> {
        self.0.pop_front().unwrap_or_default()
    }
}

/// How many threads of its own a drive asks for.
fn wanted(drive: &Drive) -> usize {
    usize::from(drive.io_threads.min(drive.num_queues))
}

/// Threads that run event loops.
#[derive(Default)]
pub struct IoThreads(Vec<WorkerLoop>);

impl IoThreads {
    /// How many a configuration asks for.
    pub fn count(config: &VmConfig) -> usize {
        config.drives.iter().map(wanted).sum()
    }

    /// Starts them; each calls `confine` and goes on if that says so.
    ///
    /// # Errors
    /// A thread or its events can't be made.
    pub fn spawn(
        config: &VmConfig,
        end: &EndSignal,
        confine: impl Fn() -> bool + Send + Clone + 'static,
    ) -> io::Result<Self> {
        let spawn = |index: usize| {
            let mut manager = EventManager::<Subscriber>::new().map_err(io::Error::other)?;
            let endpoint = manager.remote_endpoint();
            let (confine, end) = (confine.clone(), end.clone());
            std::thread::Builder::new().name(format!("io{index}")).spawn(move || {
                if !confine() {
                    return;
                }
                loop {
                    if let Err(error) = manager.run() {
                        return end.end(
                            ExitReason::InternalError,
                            format!("the loop of thread io{index}: {error}"),
                        );
                    }
                }
            })?;
            Ok(endpoint)
        };
        (0..Self::count(config)).map(spawn).collect::<io::Result<_>>().map(Self)
    }

    /// Those of the next drive.
    pub fn take(&mut self, drive: &Drive) -> Vec<WorkerLoop> {
        self.0.drain(..wanted(drive).min(self.0.len())).collect()
    }
}
