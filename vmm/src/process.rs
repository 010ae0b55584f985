//! The life of a `vial-vmm` process: from its arguments to its exit code.

use crate::api::config::VmConfig;
use crate::api::status::{ExitReason, Step};
use crate::args::{ConfigSource, Options};
use crate::control::Control;
use crate::end::{EndSignal, Ending};
use crate::event_loop::{self, Signals, Wake};
use crate::files::{self, FileError, Files};
use crate::machine::{self, BuildError, Parts};
use crate::status::Status;
use crate::validate::{self, ConfigError, MAX_DOCUMENT};
use crate::vcpu::Gate;
use crate::virtio::Subscriber;
use crate::{chain, sys};
use event_manager::{EventManager, SubscriberOps};
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::channel;

/// Why there is no running VM.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("could not read the configuration from {from}")]
    ReadConfig {
        from: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("could not build the VM")]
    Build(#[from] BuildError),
    #[error("could not set up {what}")]
    Setup {
        what: &'static str,
        #[source]
        source: io::Error,
    },
}

impl StartError {
    fn reason(&self) -> ExitReason {
        match self {
            Self::File(FileError::Kvm { .. } | FileError::NotKvm(_)) | Self::Setup { .. } => {
                ExitReason::InternalError
            }
            Self::ReadConfig { .. } | Self::Config(_) | Self::File(_) => ExitReason::BadConfig,
            Self::Build(error) => error.reason(),
        }
    }
}

fn setup(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::Setup { what, source }
}

/// Runs a VM to its end; the process's exit code.
pub fn run(options: &Options) -> i32 {
    let started = sys::monotonic_us();
    let mut status = Status::default();
    let ending = match run_vm(options, started, &mut status) {
        Ok(ending) => ending,
        Err(error) => {
            eprintln!("vial-vmm: error: {}", chain(&error));
            Ending { reason: error.reason(), detail: chain(&error) }
        }
    };
    // The record first, the end of the process second: whoever sees the end finds the record.
    status.exit(ending.reason, &ending.detail);
    ending.reason.code()
}

fn run_vm(options: &Options, started: u64, status: &mut Status) -> Result<Ending, StartError> {
    let config = read_config(&options.config)?;
    let inherited = files::check_inherited(&config, options.kvm_fd);
    *status = Status::new(files::status(&config)?);
    status.record_panics();
    status.milestone_at(Step::ProcessStart, started);
    validate::check(&config)?;
    inherited?;
    status.milestone(Step::Configured);

    // Before any thread is made, so that all of them have these signals blocked. As PID 1 of a namespace the process would
    // not even get them otherwise.
    let signals =
        sys::signal_descriptor(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP]).map_err(setup("signals"))?;
    let kvm = files::kvm(options.kvm_fd)?;
    let mut files = Files::open(&config)?;
    let end = EndSignal::new().map_err(setup("events"))?;
    let gate = Arc::new(Gate::new().map_err(setup("events"))?);
    let mut manager = EventManager::<Subscriber>::new()
        .map_err(|error| setup("the event loop")(io::Error::other(error)))?;
    let (commands, requests) = channel();
    let wake = |event| Wake::new(event).map_err(setup("events"));
    manager.add_subscriber(Box::new(wake(end.event())?));
    manager.add_subscriber(Box::new(wake(gate.parked_event())?));
    manager.add_subscriber(Box::new(Signals::new(signals, end.clone())));
    if let Some(listener) = files.control.take() {
        manager.add_subscriber(Box::new(Control::new(listener, commands)));
    }
    let parts = Parts {
        kvm,
        files,
        id: options.id.clone(),
        workers: manager.remote_endpoint(),
        end: end.clone(),
        gate,
        status: status.clone(),
    };
    let machine = machine::start(&config, parts)?;
    Ok(event_loop::run(&machine, &mut manager, &requests, &end))
}

fn read_config(source: &ConfigSource) -> Result<VmConfig, StartError> {
    let file = match source {
        ConfigSource::Fd(fd) => files::inherited("the configuration (--config-fd)", *fd)?,
        ConfigSource::Path(path) => {
            File::open(path).map_err(|source| StartError::ReadConfig { from: format!("{path:?}"), source })?
        }
    };
    let mut document = Vec::new();
    // One byte more than allowed, so that a longer document is noticed and not cut.
    file.take(MAX_DOCUMENT + 1)
        .read_to_end(&mut document)
        .map_err(|error| StartError::ReadConfig { from: source.to_string(), source: error })?;
    Ok(validate::parse(&document)?)
}
