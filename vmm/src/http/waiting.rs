//! From the first request to the one that starts the VM.

use super::action::{Action, Answer, Call, Fault, InstanceAction};
use super::before::{self, Service};
use super::{Draft, Front, trial};
use crate::api::config::{Profile, VmConfig};
use crate::build_error::BuildError;
use crate::end::{EndSignal, Ending};
use crate::files::Files;
use crate::observe::Observer;
use crate::virtio::Subscriber;
use crate::{chain, files};
use event_manager::EventManager;
use kvm_ioctls::Kvm;
use std::fs::File;

/// How the time before the start ended.
pub enum Waited {
    /// A client starts this VM; everything that it names is open. The call is to be answered when it runs.
    Start(Box<Start>),
    /// The VM ends before it began.
    End(Ending),
    /// The event loop failed.
    Broken(event_manager::Error),
}

/// What a client starts.
pub struct Start {
    /// InstanceStart.
    pub call: Call,
    /// The whole document.
    pub config: VmConfig,
    /// Everything that it names.
    pub files: Files,
    /// Where status records go.
    pub status: Option<File>,
}

/// Serves requests until one starts the VM that `draft` has become.
pub fn wait(
    mut draft: Draft,
    front: &Front,
    service: &mut Service,
    observer: &mut Observer,
    manager: &mut EventManager<Subscriber>,
    (kvm, end): (&Kvm, &EndSignal),
) -> Waited {
    loop {
        if let Some(ending) = end.ending() {
            return Waited::End(ending);
        }
        if let Err(error) = manager.run() {
            return Waited::Broken(error);
        }
        while let Some(call) = front.next() {
            match call.action {
                Action::Act(InstanceAction::InstanceStart) => match open(&draft, kvm) {
                    Ok((config, files, status)) => {
                        return Waited::Start(Box::new(Start { call, config, files, status }));
                    }
                    Err(fault) => call.answer(Err(fault)),
                },
                Action::Vial(super::action::VialAction::Stop) => {
                    end.end(crate::api::status::ExitReason::Stopped, "by request");
                    call.answer(Ok(Answer::Empty));
                }
                action => {
                    let outcome = before::handle(&mut draft, service, observer, manager, action);
                    call.reply.send(outcome);
                }
            }
        }
    }
}

/// Opens what the documents name, and tries what would fail only when the process can't begin again.
fn open(draft: &Draft, kvm: &Kvm) -> Result<(VmConfig, Files, Option<File>), Fault> {
    let mut config = draft.config()?;
    config.vial.profile = Profile::Api;
    let failed = |error: BuildError| Fault::bad(format!("Start microvm error: {}", chain(&error)));
    trial::processor(&config, kvm).map_err(failed)?;
    config
        .network_interfaces
        .iter()
        .try_for_each(files::there_is_tap)
        .map_err(|error| failed(error.into()))?;
    let mut files = Files::open(&config).map_err(|error| failed(error.into()))?;
    trial::files(&config, &files).map_err(failed)?;
    let status = files::status(&config).map_err(|error| failed(error.into()))?;
    files.connect(&config).map_err(|error| failed(error.into()))?;
    Ok((config, files, status))
}
