//! vCPUs: a thread each, a loop around KVM_RUN, and a way to stop them all.

mod counters;
mod gate;
#[allow(unsafe_code)]
mod kick;
mod run;

pub use counters::{Counters, ExitKind};
pub use gate::Gate;

use crate::bus::Bus;
use crate::end::EndSignal;
use kick::Kicker;
use kvm_ioctls::VcpuFd;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Sender, channel};

/// Why vCPUs could not be started.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// The kick signal can't be caught.
    #[error("could not install the handler of the signal that stops vCPUs")]
    Signal(#[source] io::Error),
    /// No thread.
    #[error("could not start the thread of vCPU {index}")]
    Thread {
        /// Which vCPU.
        index: u8,
        /// errno.
        #[source]
        source: io::Error,
    },
    /// The thread died before it got its vCPU.
    #[error("the thread of vCPU {0} ended early")]
    Lost(u8),
}

/// What all vCPU threads share.
#[derive(Clone)]
pub struct Shared {
    /// Where the guest's port accesses go.
    pub ports: Arc<Bus>,
    /// Where its memory accesses outside of RAM go.
    pub mmio: Arc<Bus>,
    /// Where it is said that the VM has to end.
    pub end: EndSignal,
    /// Where vCPUs wait while the VM is paused.
    pub gate: Arc<Gate>,
    /// Whether the guest's memory may lose pages: a file that others can make shorter is behind some of it.
    pub pages_may_go: Arc<AtomicBool>,
}

struct Start {
    vcpu: VcpuFd,
    shared: Shared,
    counters: Arc<Counters>,
}

struct Waiting {
    start: Sender<Start>,
    thread: std::thread::JoinHandle<()>,
}

/// Threads that wait for their vCPU: made before the VMM confines itself, since afterwards there are no new threads.
pub struct Threads(Vec<Waiting>);

impl Threads {
    /// Starts `count` threads; each calls `confine` and, if that says so, waits for its vCPU.
    pub fn spawn(count: u8, confine: impl Fn() -> bool + Send + Clone + 'static) -> Result<Self, VcpuError> {
        kick::install_handler().map_err(VcpuError::Signal)?;
        let spawn = |index: u8| {
            let (start, starts) = channel::<Start>();
            let confine = confine.clone();
            let thread = std::thread::Builder::new()
                .name(format!("vcpu{index}"))
                .spawn(move || {
                    if !confine() {
                        return;
                    }
                    if let Ok(Start { vcpu, shared, counters }) = starts.recv() {
                        run::run(vcpu, index, &shared, &counters);
                    }
                })
                .map_err(|source| VcpuError::Thread { index, source })?;
            Ok(Waiting { start, thread })
        };
        (0..count).map(spawn).collect::<Result<_, _>>().map(Self)
    }

    /// Lets the guest run: `vcpus` in the order of their indices, one for each thread.
    pub fn start(self, vcpus: Vec<VcpuFd>, shared: &Shared) -> Result<Vcpus, VcpuError> {
        let mut running = Vcpus { gate: Arc::clone(&shared.gate), kickers: Vec::new(), counters: Vec::new() };
        for ((index, waiting), mut vcpu) in (0..).zip(self.0).zip(vcpus) {
            let counters = Arc::new(Counters::default());
            running.counters.push(Arc::clone(&counters));
            running.kickers.push(Kicker::new(&mut vcpu, waiting.thread));
            let start = Start { vcpu, shared: shared.clone(), counters };
            waiting.start.send(start).map_err(|_| VcpuError::Lost(index))?;
        }
        Ok(running)
    }
}

/// The running vCPUs.
pub struct Vcpus {
    gate: Arc<Gate>,
    kickers: Vec<Kicker>,
    counters: Vec<Arc<Counters>>,
}

impl Vcpus {
    /// Asks all vCPUs to stop; [`Gate::parked_event`] becomes readable whenever one has.
    pub fn pause(&self) {
        self.gate.close();
        self.kickers.iter().for_each(Kicker::kick);
    }

    /// Whether all of them have.
    pub fn all_parked(&self) -> bool {
        self.gate.parked() == self.kickers.len()
    }

    /// Lets them go on.
    pub fn resume(&self) {
        self.gate.open();
    }

    /// VM exits so far that reached this process, by KVM's reason, over all vCPUs.
    pub fn exits(&self) -> std::collections::BTreeMap<String, u64> {
        let mut sums = std::collections::BTreeMap::new();
        for (kind, count) in self.counters.iter().flat_map(|counters| counters.read()) {
            if count > 0 {
                *sums.entry(kind.name().to_owned()).or_default() += count;
            }
        }
        sums
    }
}
