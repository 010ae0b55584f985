//! The life of a `vial-vmm` process: from its arguments to its exit code.

use crate::api::config::{FileSource, Logger, Profile, Transport, VmConfig};
use crate::api::status::{ExitReason, Step};
use crate::args::{ConfigSource, Options};
use crate::control::{Command, Control};
use crate::end::{EndSignal, Ending};
use crate::event_loop::{self, Requests, Signals, Wake};
use crate::feed::Feed;
use crate::files::{self, FileError, Files};
use crate::http::after::After;
use crate::http::before::Service;
use crate::http::waiting::{self, Start, Waited};
use crate::http::{Answer, Draft, Fault, Front, ServeError};
use crate::last_words;
use crate::line_writer::complain;
use crate::listen::listener;
use crate::log;
use crate::machine::{self, BuildError, Machine, Parts};
use crate::mmds::{SharedStore, Store, StoreError};
use crate::observe::{ObserveError, Observer};
use crate::seccomp::{Filter, Thread, Uses};
use crate::status::Status;
use crate::validate::{self, ConfigError, MAX_DOCUMENT};
use crate::vcpu::Gate;
use crate::virtio::Subscriber;
use crate::{chain, sys};
use event_manager::{EventManager, SubscriberOps};
use kvm_ioctls::Kvm;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

/// Why there is no running VM.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("could not read {what} from {from}")]
    Read {
        what: &'static str,
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
    #[error("the pod profile has no API; leave --api-sock away, or the profile")]
    PodApi,
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("the metadata (--metadata) is not JSON")]
    Metadata(#[source] serde_json::Error),
    #[error("the processor's template (cpu-config) in {path:?} is not JSON")]
    Template {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("the metadata (--metadata) does not fit into --mmds-size-limit")]
    MetadataSize(#[source] StoreError),
    #[error(transparent)]
    Observe(#[from] ObserveError),
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
            Self::File(FileError::Kvm { .. } | FileError::NotKvm(_))
            | Self::Setup { .. }
            | Self::Serve(_) => ExitReason::InternalError,
            Self::Read { .. }
            | Self::Config(_)
            | Self::File(_)
            | Self::PodApi
            | Self::Observe(_)
            | Self::Metadata(_)
            | Self::Template { .. }
            | Self::MetadataSize(_) => ExitReason::BadConfig,
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
    sys::share_arena();
    sys::ignore_file_size_signal();
    last_words::install();
    sys::raise_descriptor_limit();
    let mut status = Status::default();
    let ending = match run_vm(options, started, &mut status) {
        Ok(ending) => ending,
        Err(error) => Ending { reason: error.reason(), detail: chain(&error) },
    };
    if ending.reason.is_wanted() {
        log!(Info, "The VM has ended: {:?} {}", ending.reason, ending.detail);
    } else {
        complain(&ending.reason.in_words(&ending.detail));
        log!(Error, "The VM has ended: {:?} {}", ending.reason, ending.detail);
    }
    // The record first, the end of the process second: whoever sees the end finds the record.
    status.exit(ending.reason, &ending.detail);
    ending.reason.code()
}

fn run_vm(options: &Options, started: u64, status: &mut Status) -> Result<Ending, StartError> {
    let config = options.config.as_ref().map(|source| read_config(source, options)).transpose()?;
    let inherited = files::check_inherited(config.as_ref(), &options.descriptors());
    *status = Status::new(config.as_ref().map_or(Ok(None), files::status)?);
    status.record_panics();
    let feed = Feed::default();
    if options.api.is_some() {
        status.feed(feed.clone());
    }
    status.milestone_at(Step::ProcessStart, started);
    config.as_ref().map_or(Ok(()), validate::check)?;
    inherited?;
    if config.is_some() {
        status.milestone(Step::Configured);
    }
    let mut host = Host::new(options)?;
    host.observe(options, config.as_ref())?;
    let api = options.api.as_ref().map(|socket| serve(socket, options, &mut host, feed)).transpose()?;
    match (api, config) {
        (api, Some(config)) => {
            let mut files = Files::open(&config)?;
            files.connect(&config)?;
            let running = host.start(&config, files, options, status)?;
            Ok(running.run(api.map(|(front, service)| After { front, service })))
        }
        (Some((front, service)), None) => run_on_request(front, service, host, options, status),
        (None, None) => unreachable!("the arguments were checked: without a configuration there is an API"),
    }
}

/// Waits for the request that starts the VM, and answers it when the VM runs.
fn run_on_request(
    front: Front,
    mut service: Service,
    mut host: Host,
    options: &Options,
    status: &Status,
) -> Result<Ending, StartError> {
    let draft = Draft::new(options.pci);
    let surroundings = (&host.kvm, &host.end);
    let start =
        match waiting::wait(draft, &front, &mut service, &mut host.observer, &mut host.manager, surroundings)
        {
            Waited::Start(start) => start,
            Waited::End(ending) => return Ok(ending),
            Waited::Broken(error) => return Err(setup("the event loop")(io::Error::other(error))),
        };
    let Start { call, config, files, status: records } = *start;
    status.redirect(records);
    status.milestone(Step::Configured);
    match host.start(&config, files, options, status) {
        Ok(running) => {
            call.answer(Ok(Answer::Empty));
            Ok(running.run(Some(After { front, service })))
        }
        Err(error) => {
            // The filters are on, so this process can't begin again: it ends, after the client has read why.
            status.announce(error.reason(), &chain(&error));
            call.answer(Err(Fault::bad(format!("Start microvm error: {}", chain(&error)))));
            Err(error)
        }
    }
}

/// Serves the API at `socket`.
fn serve(
    socket: &FileSource,
    options: &Options,
    host: &mut Host,
    feed: Feed,
) -> Result<(Front, Service), StartError> {
    let listener = listener("the API's socket (--api-sock, --api-fd)", socket)?;
    let filter = Filter::new(Thread::Api, Profile::Api, Uses::default()).map_err(ServeError::from)?;
    let front =
        Front::serve(listener, options.body_limit, filter, Arc::clone(&host.observer.requests), feed)?;
    host.manager.add_subscriber(Box::new(Wake::new(front.bell()).map_err(setup("events"))?));
    log!(Info, "The API is served");
    Ok((front, Service { id: options.id.clone(), mmds: Arc::clone(&host.metadata) }))
}

/// The metadata service's document as it is at the start.
fn metadata(options: &Options) -> Result<SharedStore, StartError> {
    let mut store = Store::new(options.mmds_limit);
    if let Some(path) = &options.metadata {
        let document = read("the metadata", File::open(path), &format!("{path:?}"))?;
        let document = serde_json::from_slice(&document).map_err(StartError::Metadata)?;
        store.put(document).map_err(StartError::MetadataSize)?;
    }
    Ok(Arc::new(Mutex::new(store)))
}

/// What a VM needs besides its configuration and files.
struct Host {
    metadata: SharedStore,
    kvm: Kvm,
    end: EndSignal,
    gate: Arc<Gate>,
    manager: EventManager<Subscriber>,
    commands: Sender<Command>,
    requests: Receiver<Command>,
    observer: Observer,
}

impl Host {
    fn new(options: &Options) -> Result<Self, StartError> {
        // It may come from a pipe: until it has come, a signal ends the process as it does any other.
        let metadata = metadata(options)?;
        // Before any thread is made, so that all of them have these signals blocked. As PID 1 of a namespace the process would
        // not even get them otherwise.
        let signals =
            sys::signal_descriptor(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP]).map_err(setup("signals"))?;
        let kvm = files::kvm(options.kvm_fd)?;
        let end = EndSignal::new().map_err(setup("events"))?;
        let gate = Arc::new(Gate::new().map_err(setup("events"))?);
        let mut manager =
            event_loop::manager().map_err(|error| setup("the event loop")(io::Error::other(error)))?;
        let wake = |event| Wake::new(event).map_err(setup("events"));
        manager.add_subscriber(Box::new(wake(end.event())?));
        manager.add_subscriber(Box::new(wake(gate.parked_event())?));
        let observer = Observer::default();
        let hangups = Arc::clone(&observer.hangups);
        manager.add_subscriber(Box::new(Signals::new(signals, end.clone(), hangups)));
        let (commands, requests) = channel();
        Ok(Self { metadata, kvm, end, gate, manager, commands, requests, observer })
    }

    /// Begins to log and measure, as the arguments and then the configuration say.
    fn observe(&mut self, options: &Options, config: Option<&VmConfig>) -> Result<(), StartError> {
        log::name(&options.id);
        if options.logger != Logger::default() {
            Observer::log(&options.logger)?;
        }
        log!(Info, "Running vial-vmm v{}", env!("CARGO_PKG_VERSION"));
        self.observer.note_start(options.started);
        if let Some(path) = &options.metrics {
            self.observer.measure(path, &mut self.manager)?;
        }
        Ok(config.map_or(Ok(()), |config| self.observer.configure(config, &mut self.manager))?)
    }

    /// Builds the machine and lets it run.
    fn start(
        mut self,
        config: &VmConfig,
        mut files: Files,
        options: &Options,
        status: &Status,
    ) -> Result<Running, StartError> {
        if let Some(listener) = files.control.take() {
            let control = Control::new(listener, self.commands);
            let control =
                control.map_err(|source| StartError::Setup { what: "the control socket", source })?;
            self.manager.add_subscriber(Box::new(control));
        }
        files.metadata = Some(self.metadata);
        let parts = Parts {
            kvm: self.kvm,
            files,
            id: options.id.clone(),
            workers: self.manager.remote_endpoint(),
            end: self.end.clone(),
            gate: self.gate,
            status: status.clone(),
            boot_timer: options.boot_timer,
        };
        let machine = machine::start(config, parts)?;
        let Self { manager, requests, observer, end, .. } = self;
        Ok(Running { machine, manager, requests, observer, end })
    }
}

/// A VM that runs.
struct Running {
    machine: Machine,
    manager: EventManager<Subscriber>,
    requests: Receiver<Command>,
    observer: Observer,
    end: EndSignal,
}

impl Running {
    fn run(mut self, api: Option<After>) -> Ending {
        let mut requests = Requests { commands: self.requests, api, observer: self.observer };
        event_loop::run(&mut self.machine, &mut self.manager, &mut requests, &self.end)
    }
}

fn read_config(source: &ConfigSource, options: &Options) -> Result<VmConfig, StartError> {
    let file = match source {
        ConfigSource::Fd(fd) => Ok(files::inherited("the configuration (--config-fd)", *fd)?),
        ConfigSource::Path(path) => File::open(path),
    };
    let mut document = read("the configuration", file, &source.to_string())?;
    if matches!(source, ConfigSource::Path(_)) {
        document = with_template(document)?;
    }
    let mut config = validate::parse(&document)?;
    if options.pci {
        config.vial.transport = Transport::Pci;
    }
    match (&options.api, config.vial.profile) {
        (Some(_), Profile::Pod) => Err(StartError::PodApi),
        (Some(_), _) => {
            config.vial.profile = Profile::Api;
            Ok(config)
        }
        (None, _) => Ok(config),
    }
}

/// The configuration with the processor's template in it, where it has the path of one instead, as Firecracker's has.
fn with_template(document: Vec<u8>) -> Result<Vec<u8>, StartError> {
    // What is none of these, or no document at all, the parser judges.
    let Ok(mut whole) = serde_json::from_slice::<serde_json::Value>(&document) else { return Ok(document) };
    let Some(path) = whole.get("cpu-config").and_then(serde_json::Value::as_str).map(PathBuf::from) else {
        return Ok(document);
    };
    let template = read("the processor's template (cpu-config)", File::open(&path), &format!("{path:?}"))?;
    whole["cpu-config"] =
        serde_json::from_slice(&template).map_err(|source| StartError::Template { path, source })?;
    Ok(whole.to_string().into_bytes())
}

/// A whole document.
fn read(what: &'static str, file: io::Result<File>, from: &str) -> Result<Vec<u8>, StartError> {
    let mut document = Vec::new();
    // One byte more than allowed, so that a longer document is noticed and not cut.
    file.and_then(|file| file.take(MAX_DOCUMENT + 1).read_to_end(&mut document))
        .map_err(|source| StartError::Read { what, from: from.to_owned(), source })?;
    Ok(document)
}
