//! Requests before the start: documents for the draft, and what is true of any VM.

use super::action::{Action, Answer, BalloonAction, Configure, Fault, Outcome};
use super::draft::kind;
use super::{API_VERSION, Draft, trial};
use crate::api::config::{Drive, FileSystem, MachineConfig, MemoryBacking};
use crate::build_error::BuildError;
use crate::lock::lock;
use crate::log;
use crate::mmds::{SharedStore, Store, StoreError};
use crate::observe::Observer;
use crate::virtio::Subscriber;
use crate::{back_ends, files};
use event_manager::EventManager;
use serde_json::{Value, json};
use std::sync::MutexGuard;

/// What requests find whether the VM runs or not.
pub struct Service {
    /// Name of the VM.
    pub id: String,
    /// The metadata service's document.
    pub mmds: SharedStore,
}

/// Answers `action`; InstanceStart is not for here, since it takes the draft away.
///
/// # Errors
/// A [`Fault`] for the client; nothing has changed then.
pub fn handle(
    draft: &mut Draft,
    service: &mut Service,
    observer: &mut Observer,
    manager: &mut EventManager<Subscriber>,
    action: Action,
) -> Outcome {
    action.check(false)?;
    match action {
        Action::Configure(document) => {
            let mut next = draft.clone();
            next.apply((*document).clone())?;
            probe(&document)?;
            *draft = next;
            Ok(Answer::Empty)
        }
        Action::VmConfig => Ok(Answer::Json(draft.document())),
        Action::GetMachineConfig => Ok(Answer::Json(machine(draft.machine_config()))),
        Action::Balloon(BalloonAction::Get) => draft.balloon().map(|balloon| json_of(&balloon)),
        Action::Logger(logger) => Observer::log(&logger)
            .map(|()| Answer::Empty)
            .map_err(|error| Fault::bad(format!("Logger error: {}", crate::chain(&error)))),
        Action::Metrics(metrics) => observer
            .measure(&metrics.metrics_path, manager)
            .map(|()| Answer::Empty)
            .map_err(|error| Fault::bad(format!("Metrics error: {}", crate::chain(&error)))),
        Action::Prometheus => Ok(Answer::Text(observer.figures(None).prometheus())),
        other => service.handle(other, "Not started"),
    }
}

/// A document as an answer.
pub fn json_of(document: &impl serde::Serialize) -> Answer {
    Answer::Json(
        serde_json::to_value(document).expect("documents have only strings, numbers and lists of them"),
    )
}

/// What `GET /machine-config` shows.
pub fn machine(config: &crate::api::config::MachineConfig) -> Value {
    serde_json::to_value(config).expect("it has only numbers, flags and names")
}

/// Opens what a document names and closes it again, so that the client hears of a missing file when he names it and not at the
/// start.
fn probe(document: &Configure) -> Result<(), Fault> {
    match document {
        Configure::BootSource(boot) => files::boot(boot).map(drop).map_err(BuildError::from),
        // Memory that belongs to no file is made when it is wanted.
        Configure::Machine(MachineConfig {
            memory_backing: MemoryBacking::PrivateFile(source),
            mem_size_mib,
            ..
        }) => files::memory_file(source, *mem_size_mib).map(drop).map_err(BuildError::from),
        Configure::Pmem(pmem) => {
            files::pmem(pmem).map_err(BuildError::from).and_then(|file| trial::pmem(pmem, &file))
        }
        Configure::Drive(Drive { drive_id, socket: Some(socket), .. }) => {
            back_ends::check(&format!("drive {drive_id:?}"), socket).map_err(BuildError::from)
        }
        Configure::FileSystem(FileSystem { tag, socket, .. }) => {
            back_ends::check(&format!("file system {tag:?}"), socket).map_err(BuildError::from)
        }
        Configure::Drive(drive) => {
            files::drive(drive).map_err(BuildError::from).and_then(|files| trial::drive(drive, &files))
        }
        Configure::Network(net) => {
            files::there_is_tap(net).and_then(|()| files::taps(net).map(drop)).map_err(BuildError::from)
        }
        _ => Ok(()),
    }
    .map_err(|error| Fault::bad(format!("{} error: {}", kind(document), crate::chain(&error))))
}

impl Service {
    fn mmds(&self) -> MutexGuard<'_, Store> {
        lock(&self.mmds)
    }

    /// Answers what has nothing to do with devices; `state` is Firecracker's word for what the VM does.
    ///
    /// # Errors
    /// A [`Fault`] for the client.
    pub fn handle(&mut self, action: Action, state: &str) -> Outcome {
        let empty = |()| Answer::Empty;
        match action {
            Action::DescribeInstance => Ok(Answer::Json(json!({
                "id": if self.id.is_empty() { log::ANONYMOUS } else { &self.id },
                "state": state,
                "vmm_version": env!("CARGO_PKG_VERSION"),
                "app_name": "Vial",
            }))),
            Action::Version => Ok(Answer::Json(json!({ "firecracker_version": API_VERSION }))),
            Action::GetMmds => Ok(Answer::Json(self.mmds().document())),
            Action::PutMmds(document) => self.mmds().put(document).map(empty).map_err(mmds_fault),
            Action::PatchMmds(patch) => self.mmds().patch(&patch).map(empty).map_err(mmds_fault),
            Action::Lacking(what) => {
                Err(Fault::bad(format!("The requested operation is not supported: this VMM has no {what}")))
            }
            other => Err(Fault::bad(format!("The requested operation is not supported: {other:?}"))),
        }
    }
}

fn mmds_fault(error: StoreError) -> Fault {
    match error {
        StoreError::TooBig => Fault::too_big(format!("MMDS limit exceeded error: {error}")),
        other => Fault::bad(format!("MMDS error: {other}")),
    }
}
