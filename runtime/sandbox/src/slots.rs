//! Containers that come and go in a running sandbox. Each lives in a slot: a pair of drives that the VM has from its first moment on, and whose
//! media, the container's image and its writable layer, are put in for it and taken out after it.

use crate::error::PodError;
use crate::ids::ContainerId;
use crate::sandbox::{Host, LAST_MOMENT, PATIENCE, Sandbox};
use crate::start::{self, SandboxPlan, TaskPlan};
use crate::task::{Connections, Task};
use crate::timing::Timing;
use crate::upper;
use agent_protocol::{ErrorKind, Request, RootFs, Upper};
use std::time::Duration;
use vial_vm::{DiskSource, DiskSpec};

/// A place for one container; its number in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u8);

impl Slot {
    fn image(self) -> String {
        format!("image{}", self.0)
    }

    fn upper(self) -> String {
        format!("upper{}", self.0)
    }

    /// The drives of the first `count` slots.
    pub(crate) fn drives(count: u8) -> Vec<DiskSpec> {
        let drive = |id, read_only| DiskSpec {
            id,
            source: DiskSource::Removable { max_bytes: upper::MAX_SIZE },
            read_only,
            root: false,
        };
        (0..count)
            .map(Self)
            .flat_map(|slot| [drive(slot.image(), true), drive(slot.upper(), false)])
            .collect()
    }
}

/// What a sandbox of several containers has beside its plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shared {
    /// How many containers it takes at a time.
    pub slots: u8,
    /// What they may use of its memory together, bytes.
    pub memory: u64,
}

impl Sandbox {
    /// Starts a sandbox without a container. When it fails, or `cancelled` comes first, nothing is left of its VM.
    ///
    /// # Errors
    /// Whatever step did not work.
    pub async fn start(
        host: &Host,
        plan: SandboxPlan,
        shared: Shared,
        timing: &mut Timing,
        cancelled: impl Future<Output = ()>,
    ) -> Result<Self, PodError> {
        let content = start::Content::Slots(shared);
        Ok(start::launch(host, plan, content, timing, cancelled).await?.0)
    }

    /// Makes a container in a slot that is free, and runs its command. When it fails, or `cancelled` comes first, the slot is free again.
    ///
    /// # Errors
    /// Whatever step did not work.
    pub async fn start_task(
        &self,
        slot: Slot,
        plan: TaskPlan,
        within: Duration,
        timing: &mut Timing,
        cancelled: impl Future<Output = ()>,
    ) -> Result<(Task, Connections), PodError> {
        let container = plan.container.clone();
        let started = tokio::select! {
            started = self.fill(slot, plan, within, timing) => started,
            () = cancelled => Err(PodError::Cancelled),
        };
        match started {
            Ok(connections) => Ok((Task::new(self.clone(), container), connections)),
            Err(error) => {
                self.desk().forget(container.as_str());
                if let Err(left) = self.clear(&container, slot).await {
                    tracing::warn!(container = container.short(), error = %left, "a slot can't be cleared");
                }
                Err(error)
            }
        }
    }

    async fn fill(
        &self,
        slot: Slot,
        plan: TaskPlan,
        within: Duration,
        timing: &mut Timing,
    ) -> Result<Connections, PodError> {
        let vm = self.vm();
        let image = vm.insert(&slot.image(), &DiskSource::Concat(plan.image.clone())).await?;
        let upper = vm.insert(&slot.upper(), &DiskSource::File(plan.upper.clone())).await?;
        timing.reached("media inserted");
        let container = plan.container.clone();
        let root = RootFs {
            image: slot.image(),
            image_bytes: Some(image),
            upper: Upper::Disk { serial: slot.upper(), bytes: Some(upper) },
        };
        // Before the guest can tell of its end.
        let mut connections = Connections::to(self.desk().expect(container.as_str()));
        let requests = start::creation(plan, root)?.into();
        start::carry_out(self, requests, &["container created", "command started"], within, timing).await?;
        connections.open(vm, &container).await?;
        timing.reached("streams open");
        Ok(connections)
    }

    /// Removes what is left of a container from the guest, kills it if it still runs, and takes its media out: then its slot is free.
    ///
    /// # Errors
    /// When agent or VMM refuse or can't be spoken to; the slot must not be used again then. Not when the sandbox is over.
    pub async fn clear(&self, container: &ContainerId, slot: Slot) -> Result<(), PodError> {
        let cleared = async {
            let container = container.as_str().to_owned();
            match tokio::time::timeout(PATIENCE, self.agent().request(Request::Delete { container })).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    let error = PodError::from(error);
                    // It was never made.
                    if error.refusal() != Some(ErrorKind::NotFound) {
                        return Err(error);
                    }
                }
                Err(_) => {
                    return Err(PodError::Slow { what: "the removal of the container", within: PATIENCE });
                }
            }
            self.vm().eject(&slot.upper()).await?;
            self.vm().eject(&slot.image()).await?;
            Ok(())
        };
        tokio::select! {
            biased;
            // With it went everything.
            _ = self.over() => Ok(()),
            cleared = cleared => match cleared {
                // What fails because the VM has just ended fails a moment before that is known.
                Err(error) if error.refusal().is_none() => {
                    match tokio::time::timeout(LAST_MOMENT, self.over()).await {
                        Ok(_) => Ok(()),
                        Err(_) => Err(error),
                    }
                }
                cleared => cleared,
            },
        }
    }
}
