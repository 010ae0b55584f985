//! Requests while the VM runs.

use super::Front;
use super::action::{
    Action, Answer, BalloonAction, Call, Fault, InstanceAction, Outcome, VialAction, VmState,
};
use super::before::{Service, json_of, machine};
use super::draft::document;
use crate::api::config::{self, Drive, FileSource, PartialDrive, PartialNetworkInterface, VmConfig};
use crate::api::control::{MAX_FILES, Plugged, Request};
use crate::changes;
use crate::control::{Command, ReplyTo};
use crate::files;
use crate::handles::HandleError;
use crate::machine::Machine;
use crate::observe::Observer;
use crate::validate::{self, ConfigError};
use crate::virtio::block::BlockConfigError;

/// The API of a running VM.
pub struct After {
    /// Where calls come in.
    pub front: Front,
    /// What is the same before and after the start.
    pub service: Service,
}

impl After {
    /// Answers calls up to the first that is a request to the machine, as one that came through the control socket.
    pub fn next(&mut self, machine: &mut Machine, paused: bool, observer: &mut Observer) -> Option<Command> {
        while let Some(Call { action, reply }) = self.front.next() {
            if let Some(device) = pluggable(machine, &action) {
                reply.send(plug(machine, &device));
                continue;
            }
            if let Err(fault) = action.check(true) {
                Call { action, reply }.answer(Err(fault));
                continue;
            }
            if let Some(request) = request(&action) {
                return Some(Command { request: Ok(request), files: Vec::new(), reply: ReplyTo::Api(reply) });
            }
            reply.send(self.handle(machine, paused, observer, action));
        }
        None
    }

    fn handle(&mut self, vm: &mut Machine, paused: bool, observer: &mut Observer, action: Action) -> Outcome {
        match action {
            Action::VmConfig => Ok(Answer::Json(document(&present(vm)))),
            Action::GetMachineConfig => Ok(Answer::Json(machine(&vm.config().machine_config))),
            Action::PatchDrive(update) => patch_drive(vm, &update),
            Action::GetMemory => vm
                .handles
                .memory()
                .map(|(memory, _)| json_of(&memory.status()))
                .map_err(|error| memory_fault("config", &error)),
            Action::PatchMemory(update) => vm
                .resize_memory(update.requested_size_mib)
                .map(|()| Answer::Empty)
                .map_err(|error| memory_fault("update", &error)),
            Action::Balloon(action) => balloon(vm, action).map_err(|error| {
                let kind = match action {
                    BalloonAction::Get | BalloonAction::Statistics => "config",
                    _ => "update",
                };
                Fault::bad(format!("Balloon {kind} error: {}", crate::chain(&error)))
            }),
            Action::PatchNetwork(update) => patch_network(vm, &update),
            Action::PatchPmem(update) => {
                let limiter = update.rate_limiter.as_ref();
                vm.handles
                    .limit_pmem(&update.id, limiter)
                    .map_err(|error| Fault::bad(format!("Pmem device error: {}", crate::chain(&error))))?;
                changes::limit_pmem(vm.config_mut(), &update.id, limiter);
                Ok(Answer::Empty)
            }
            Action::Act(InstanceAction::FlushMetrics) if observer.flush(vm) => Ok(Answer::Empty),
            Action::Act(InstanceAction::FlushMetrics) => Err(Fault::bad(
                "Metrics error: nobody reads them, or there is no room: they come with the next line",
            )),
            Action::Devices => Ok(json_of(&vm.seen_devices())),
            Action::Prometheus => Ok(Answer::Text(observer.figures(Some(vm)).prometheus())),
            other => self.service.handle(other, if paused { "Paused" } else { "Running" }),
        }
    }
}

/// The device that a request describes, on a machine that it can be plugged into.
fn pluggable(vm: &Machine, action: &Action) -> Option<Plugged> {
    match action {
        Action::Configure(document) if vm.has_pci() => document.plugged(),
        _ => None,
    }
}

/// Plugs it in, with the files that it names by their paths.
fn plug(vm: &mut Machine, device: &Plugged) -> Outcome {
    let kind = match device {
        Plugged::Drive(_) => "Drive config",
        Plugged::Interface(_) => "Network config",
        Plugged::Pmem(_) => "Pmem device",
    };
    let failed = |error: &dyn std::error::Error| Fault::bad(format!("{kind} error: {}", crate::chain(error)));
    let sources = validate::pluggable(device).map_err(|error| failed(&error))?;
    if sources.iter().any(|source| matches!(source, FileSource::Fd { .. })) {
        return Err(failed(&ConfigError::DescriptorInApi(format!("a file of {kind}"))));
    }
    vm.can_plug(device).map_err(|error| failed(&error))?;
    if let Plugged::Interface(interface) = device {
        let mut all = vm.config().network_interfaces.clone();
        all.push((**interface).clone());
        validate::each_its_own(&all).map_err(|error| failed(&error))?;
    }
    let files = files::plugged(device).map_err(|error| failed(&error))?;
    vm.plug(device, files).map(|()| Answer::Empty).map_err(|error| failed(&error))
}

/// The machine's configuration as it is by now, with what only devices know.
fn present(vm: &Machine) -> VmConfig {
    let mut config = vm.config().clone();
    if let (Some(balloon), Ok((control, _))) = (&mut config.balloon, vm.handles.balloon()) {
        balloon.amount_mib = control.amount_mib();
        balloon.stats_polling_interval_s = control.interval_s();
    }
    config
}

fn balloon(vm: &Machine, action: BalloonAction) -> Result<Answer, HandleError> {
    let (balloon, signals) = vm.handles.balloon()?;
    match action {
        BalloonAction::Get => {
            let now = config::Balloon {
                amount_mib: balloon.amount_mib(),
                stats_polling_interval_s: balloon.interval_s(),
                ..vm.config().balloon.clone().unwrap_or_default()
            };
            return Ok(json_of(&now));
        }
        BalloonAction::Statistics => return Ok(json_of(&balloon.statistics()?)),
        BalloonAction::Hinting => return Ok(json_of(&balloon.hinting()?)),
        BalloonAction::Resize(update) => vm.resize_balloon(update.amount_mib)?,
        BalloonAction::Interval(update) => balloon.set_interval(update.stats_polling_interval_s)?,
        BalloonAction::Start(start) => balloon.start_hinting(start, signals)?,
        BalloonAction::Stop => balloon.stop_hinting(signals)?,
    }
    Ok(Answer::Empty)
}

/// Another file, other limits, or both: the file first, since only that can fail once the limits are checked.
fn patch_drive(vm: &mut Machine, update: &PartialDrive) -> Outcome {
    let failed =
        |error: &dyn std::error::Error| Fault::bad(format!("Drive config error: {}", crate::chain(error)));
    let id = &update.drive_id;
    let drive = vm.config().drives.iter().find(|drive| drive.drive_id == *id);
    let drive = drive.ok_or_else(|| failed(&HandleError::NoDrive(id.clone())))?;
    vm.check_drive(id).map_err(|error| failed(&error))?;
    validate::rate_limiter("rate_limiter", update.rate_limiter.as_ref()).map_err(|error| failed(&error))?;
    let new = new_files(drive, update).map_err(|error| failed(&error))?;
    if drive.socket.is_some() {
        // As in Firecracker: nothing to change here, and what the back end changed is told to the guest.
        let changed = match (&new, &update.rate_limiter) {
            (None, None) => vm.handles.reread(id),
            _ => Err(HandleError::BackEndDrive(id.clone())),
        };
        return changed.map(|()| Answer::Empty).map_err(|error| failed(&error));
    }
    if new.is_none() && update.rate_limiter.is_none() {
        let message = "nothing to change; give path_on_host, rate_limiter or both";
        return Err(Fault::bad(format!("Drive config error: {message}")));
    }
    // Whatever fails fails before anything has changed.
    if let Some(limiter) = &update.rate_limiter {
        vm.handles.prepare_limit(id, limiter).map_err(|error| failed(&error))?;
    }
    if let Some(new) = &new {
        let files = files::drive(&changes::drive_with(drive, Some(new))).map_err(|error| failed(&error))?;
        // To open them may have taken long.
        vm.check_drive(id).map_err(|error| failed(&error))?;
        let changed = if drive.is_removable {
            vm.handles.swap(id, files)
        } else {
            let said = u8::try_from(files.len()).expect("there are 240 at most");
            vm.handles.update_drive(id, None, (said, files), false)
        };
        changed.map_err(|error| failed(&error))?;
        changes::drive_files(vm.config_mut(), id, Some(new));
    }
    if let Some(limiter) = &update.rate_limiter {
        let changed = vm.handles.update_drive(id, Some(limiter), (0, Vec::new()), false);
        changed.map_err(|error| failed(&error))?;
        changes::limit_drive(vm.config_mut(), id, limiter);
    }
    Ok(Answer::Empty)
}

/// The files that an update names; the guest's writes could not be spread over several.
fn new_files(drive: &Drive, update: &PartialDrive) -> Result<Option<changes::Files>, HandleError> {
    let PartialDrive { drive_id, path_on_host, concat, .. } = update;
    match (path_on_host, concat.is_empty()) {
        (None, true) => Ok(None),
        (Some(path), true) => Ok(Some(changes::Files::Path(path.clone()))),
        (Some(_), false) => Err(ConfigError::DriveFiles(drive_id.clone()).into()),
        (None, false) if concat.len() > MAX_FILES => {
            let (id, count) = (drive_id.clone(), concat.len());
            Err(BlockConfigError::Count { id, count, most: MAX_FILES }.into())
        }
        (None, false) if drive.is_read_only || !drive.concat.is_empty() => {
            Ok(Some(changes::Files::Concat(concat.clone())))
        }
        (None, false) => Err(ConfigError::ConcatWritten(drive_id.clone()).into()),
    }
}

fn memory_fault(kind: &str, error: &HandleError) -> Fault {
    Fault::bad(format!("Memory hotplug {kind} error: {}", crate::chain(error)))
}

fn patch_network(vm: &mut Machine, update: &PartialNetworkInterface) -> Outcome {
    let PartialNetworkInterface { iface_id, rx_rate_limiter, tx_rate_limiter } = update;
    let (receive, transmit) = (rx_rate_limiter.as_ref(), tx_rate_limiter.as_ref());
    vm.handles
        .limit_interface(iface_id, receive, transmit)
        .map_err(|error| Fault::bad(format!("Network config error: {}", crate::chain(&error))))?;
    changes::limit_interface(vm.config_mut(), iface_id, receive, transmit);
    Ok(Answer::Empty)
}

/// What the event loop does for the control socket too.
fn request(action: &Action) -> Option<Request> {
    match action {
        Action::PatchVm(VmState::Paused) => Some(Request::Pause {}),
        Action::PatchVm(VmState::Resumed) => Some(Request::Resume {}),
        Action::Act(InstanceAction::SendCtrlAltDel) | Action::Vial(VialAction::PowerButton) => {
            Some(Request::PowerButton {})
        }
        Action::Vial(VialAction::Stop) => Some(Request::Stop {}),
        Action::Unplug(device) => Some(Request::Unplug { device: device.clone() }),
        _ => None,
    }
}
