//! What the process tells of itself while it lives: the log and the metrics. Its status records are in [`crate::status`].

use crate::api::config::{Logger, VmConfig};
use crate::args::Started;
use crate::machine::Machine;
use crate::metrics::{Counter, Figure, Figures, Requests, Sink};
use crate::plugs::Name;
use crate::virtio::Subscriber;
use crate::{log, sys};
use event_manager::{EventManager, SubscriberOps};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why it can't tell.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// The log.
    #[error("could not open the log {path:?}")]
    Log {
        /// Its path.
        path: PathBuf,
        /// errno.
        #[source]
        source: io::Error,
    },
    /// The metrics.
    #[error("could not open {path:?} for metrics")]
    Metrics {
        /// Their path.
        path: PathBuf,
        /// errno.
        #[source]
        source: io::Error,
    },
    /// Metrics go somewhere already.
    #[error("the metrics go somewhere already, and for good")]
    Twice,
}

/// The VMM thread's half of it.
#[derive(Default)]
pub struct Observer {
    /// Counted by the HTTP thread.
    pub requests: Arc<Requests>,
    /// How often the process was sent SIGHUP.
    pub hangups: Arc<Counter>,
    sink: Option<Sink>,
    started: Figures,
}

impl Observer {
    /// Notes how long the start of the process took, if its parent has said when it began.
    pub fn note_start(&mut self, started: Started) {
        let Started { wall_us, cpu_us, parent_cpu_us } = started;
        let mut gauge = |name, value| self.started.add("api_server", name, Figure::Gauge(value));
        if let Some(wall) = wall_us {
            gauge("process_startup_time_us", sys::monotonic_us().saturating_sub(wall));
        }
        if let Some(cpu) = cpu_us {
            let own = sys::cpu_us().saturating_sub(cpu);
            gauge("process_startup_time_cpu_us", own.saturating_add(parent_cpu_us.unwrap_or(0)));
        }
    }

    /// Does what a configuration says of log and metrics.
    ///
    /// # Errors
    /// A file can't be opened.
    pub fn configure(
        &mut self,
        config: &VmConfig,
        manager: &mut EventManager<Subscriber>,
    ) -> Result<(), ObserveError> {
        if let Some(logger) = &config.logger {
            Self::log(logger)?;
        }
        config.metrics.as_ref().map_or(Ok(()), |metrics| self.measure(&metrics.metrics_path, manager))
    }

    /// Takes over the log's settings.
    ///
    /// # Errors
    /// The file can't be opened.
    pub fn log(logger: &Logger) -> Result<(), ObserveError> {
        log::configure(logger)
            .map_err(|source| ObserveError::Log { path: logger.log_path.clone().unwrap_or_default(), source })
    }

    /// Lets metrics go to `path` from now on.
    ///
    /// # Errors
    /// They go somewhere already, or it can't be opened.
    pub fn measure(
        &mut self,
        path: &Path,
        manager: &mut EventManager<Subscriber>,
    ) -> Result<(), ObserveError> {
        if self.sink.is_some() {
            return Err(ObserveError::Twice);
        }
        let failed = |source| ObserveError::Metrics { path: path.to_owned(), source };
        let (sink, tick) = Sink::open(path).map_err(failed)?;
        manager.add_subscriber(Box::new(tick));
        self.sink = Some(sink);
        Ok(())
    }

    /// All figures of now; without a machine those of the process.
    pub fn figures(&self, machine: Option<&Machine>) -> Figures {
        let mut figures = self.started.clone();
        self.requests.read(&mut figures);
        figures.add("logger", "missed_log_count", Figure::Count(log::lost()));
        let lost = self.sink.as_ref().map_or(0, Sink::lost);
        figures.add("logger", "missed_metrics_count", Figure::Count(lost));
        figures.counts("signals", [("sighup", self.hangups.get())]);
        if let Some(machine) = machine {
            for kind in ["io_in", "io_out", "mmio_read", "mmio_write", "intr", "other"] {
                figures.add("vcpu", format!("exit_{kind}"), Figure::Count(0));
            }
            for (kind, count) in machine.vcpus.exits() {
                figures.add("vcpu", format!("exit_{kind}"), Figure::Count(count));
            }
            machine.handles.figures(&mut figures);
        }
        figures
    }

    /// A device is gone: what another of its name counts begins anew.
    pub fn forget(&mut self, name: &Name) {
        let (group, id) = match name {
            Name::Drive(id) => ("block", id),
            Name::Interface(id) => ("net", id),
            Name::Pmem(id) => ("pmem", id),
        };
        if let Some(sink) = &mut self.sink {
            sink.forget(group, id);
        }
    }

    /// Writes a line if the clock wants one.
    pub fn tick(&mut self, machine: &Machine) {
        if self.sink.as_ref().is_some_and(Sink::is_due) {
            self.flush(machine);
        }
    }

    /// Writes a line now, if there is a place for it. `false` if that failed.
    pub fn flush(&mut self, machine: &Machine) -> bool {
        let figures = self.figures(Some(machine));
        self.sink.as_mut().is_none_or(|sink| sink.write(figures).is_ok())
    }
}
