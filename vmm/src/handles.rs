//! The devices of a machine by name, as they are changed from outside while they run.

use crate::api::config::RateLimiter;
use crate::devices::{Handle, MakeError};
use crate::memory::PmemError;
use crate::metrics::{Figure, Figures, InterruptMetrics};
use crate::mmds::MmdsMetrics;
use crate::platform::I8042Metrics;
use crate::plugs::{Name, PlugError};
use crate::serial::SerialControl;
use crate::validate::{self, ConfigError};
use crate::virtio::balloon::{BalloonControl, BalloonError};
use crate::virtio::block::{BlockConfigError, Tray};
use crate::virtio::mem::{MemControl, MemError};
use crate::virtio::pmem::PmemControl;
use crate::virtio::rng::RngCounts;
use crate::virtio::vhost_user::{BackEndControl, LinkError};
use crate::virtio::vsock::VsockMetrics;
use crate::virtio::{Signals, net};
use std::fs::File;
use std::io;
use std::sync::Arc;

/// Why a device was not changed.
#[derive(Debug, thiserror::Error)]
pub enum HandleError {
    /// No such drive.
    #[error("this VM has no drive {0:?}")]
    NoDrive(String),
    /// No such interface.
    #[error("this VM has no interface {0:?}")]
    NoInterface(String),
    /// The request says one thing and brings another.
    #[error("the request for {device:?} speaks of {said} files and brought {came} descriptors")]
    Descriptors {
        /// Which device.
        device: String,
        /// How many the request speaks of.
        said: u8,
        /// How many descriptors came with it.
        came: usize,
    },
    /// The request changes nothing.
    #[error("nothing to change on drive {0:?}: give files, rate_limiter or measure")]
    Nothing(String),
    /// No hot-pluggable memory.
    #[error("this VM has no hot-pluggable memory")]
    NoMemory,
    /// The guest can't be asked for that.
    #[error(transparent)]
    Memory(#[from] MemError),
    /// No balloon.
    #[error("this VM has no balloon")]
    NoBalloon,
    /// The balloon does not do it.
    #[error(transparent)]
    Balloon(#[from] BalloonError),
    /// The request makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The bus does not take it.
    #[error(transparent)]
    Plug(#[from] PlugError),
    /// The device can't be made.
    #[error(transparent)]
    Make(#[from] MakeError),
    /// No such persistent memory.
    #[error("this VM has no pmem {0:?}")]
    NoPmem(String),
    /// A file can't be a part of the address space.
    #[error("the file can't be used")]
    Pmem(#[from] PmemError),
    /// Its back end's drive.
    #[error(
        "drive {0:?} is its vhost-user back end's: change it there; a PATCH with nothing but drive_id has its size read again"
    )]
    BackEndDrive(String),
    /// The back end does not answer.
    #[error("drive {0:?} is lost")]
    Lost(String, #[source] LinkError),
    /// A limiter's timers.
    #[error("the rate limiter can't be made")]
    Limiter(#[from] io::Error),
    /// The drive does not take it.
    #[error(transparent)]
    Medium(#[from] BlockConfigError),
}

struct DriveHandle {
    tray: Tray,
    interrupt: Arc<Signals>,
}

/// The handles.
#[derive(Default)]
pub struct Handles {
    /// What calls drivers.
    pub interrupts: Arc<InterruptMetrics>,
    /// The i8042 that is none.
    pub i8042: Arc<I8042Metrics>,
    drives: Vec<DriveHandle>,
    back_ends: Vec<(String, BackEndControl, Arc<Signals>)>,
    interfaces: Vec<(String, net::Limits)>,
    balloon: Option<(BalloonControl, Arc<Signals>)>,
    memory: Option<(MemControl, Arc<Signals>)>,
    pmems: Vec<PmemControl>,
    serial: Option<SerialControl>,
    vsock: Option<Arc<VsockMetrics>>,
    entropy: Option<RngCounts>,
    metadata: Option<Arc<MmdsMetrics>>,
}

impl Handles {
    /// One more, and the way to its driver.
    pub fn add(&mut self, handle: Handle, interrupt: Arc<Signals>) {
        match handle {
            Handle::None => {}
            Handle::Vsock(metrics) => self.vsock = Some(metrics),
            Handle::Entropy(counts) => self.entropy = Some(counts),
            Handle::Drive(tray) => self.drives.push(DriveHandle { tray, interrupt }),
            Handle::BackEnd { id, control } => self.back_ends.push((id, control, interrupt)),
            Handle::Memory(control) => self.memory = Some((control, interrupt)),
            Handle::Balloon(control) => self.balloon = Some((control, interrupt)),
            Handle::Net { id, limits } => self.interfaces.push((id, limits)),
            Handle::Pmem(control) => self.pmems.push(control),
        }
    }

    /// The serial port, which is behind no transport.
    pub fn add_serial(&mut self, serial: SerialControl) {
        self.serial = Some(serial);
    }

    /// The metadata service, which is behind interfaces.
    pub fn add_metadata(&mut self, metrics: Arc<MmdsMetrics>) {
        self.metadata = Some(metrics);
    }

    /// The serial port, if there is one.
    pub fn serial(&self) -> Option<&SerialControl> {
        self.serial.as_ref()
    }

    /// Forgets a device that is gone.
    pub fn remove(&mut self, name: &Name) {
        match name {
            Name::Drive(id) => {
                self.drives.retain(|drive| drive.tray.id() != id);
                self.back_ends.retain(|(drive, ..)| drive != id);
            }
            Name::Interface(id) => self.interfaces.retain(|(interface, _)| interface != id),
            Name::Pmem(id) => {
                self.pmems.iter().filter(|pmem| pmem.id() == id).for_each(PmemControl::take_out);
                self.pmems.retain(|pmem| pmem.id() != id);
            }
        }
    }

    /// What the devices have counted, under Firecracker's names.
    pub fn figures(&self, figures: &mut Figures) {
        for DriveHandle { tray, .. } in &self.drives {
            figures.counts_of("block", tray.id(), tray.figures());
        }
        figures.counts("interrupts", self.interrupts.figures());
        figures.counts("i8042", self.i8042.figures());
        let single = [
            ("vsock", self.vsock.as_ref().map(|metrics| metrics.figures())),
            ("entropy", self.entropy.as_ref().map(RngCounts::figures)),
            ("balloon", self.balloon.as_ref().map(|(balloon, _)| balloon.metrics().figures())),
            ("memory_hotplug", self.memory.as_ref().map(|(memory, _)| memory.metrics().figures())),
            ("mmds", self.metadata.as_ref().map(|metrics| metrics.figures())),
        ];
        for (group, counts) in single {
            figures.counts(group, counts.into_iter().flatten());
        }
        if let Some(serial) = &self.serial {
            figures.add("uart", "rate_limiter_dropped_bytes", Figure::Count(serial.dropped()));
        }
        for pmem in &self.pmems {
            figures.counts_of("pmem", pmem.id(), pmem.figures());
        }
        for (id, limits) in &self.interfaces {
            figures.counts_of("net", id, limits.figures());
        }
    }

    fn drive(&self, id: &str) -> Result<&DriveHandle, HandleError> {
        let found = self.drives.iter().find(|drive| drive.tray.id() == id);
        found.ok_or_else(|| match self.back_end(id) {
            Some(_) => HandleError::BackEndDrive(id.to_owned()),
            None => HandleError::NoDrive(id.to_owned()),
        })
    }

    fn back_end(&self, id: &str) -> Option<&(String, BackEndControl, Arc<Signals>)> {
        self.back_ends.iter().find(|(drive, ..)| drive == id)
    }

    /// Has a back end tell again how large its disk is.
    ///
    /// # Errors
    /// It is no back end's drive, or the back end is gone.
    pub fn reread(&self, id: &str) -> Result<(), HandleError> {
        let (_, control, signals) = self.back_end(id).ok_or_else(|| HandleError::NoDrive(id.to_owned()))?;
        control.reread(signals).map_err(|error| HandleError::Lost(id.to_owned(), error))
    }

    /// Puts a medium of these files into a removable drive; `said` is how many there should be.
    ///
    /// # Errors
    /// See [`HandleError`]; nothing has changed then, and the files are closed.
    pub fn insert(&self, drive: &str, said: u8, files: Vec<File>) -> Result<(), HandleError> {
        let DriveHandle { tray, interrupt } = self.drive(drive)?;
        if usize::from(said) != files.len() {
            return Err(HandleError::Descriptors { device: drive.to_owned(), said, came: files.len() });
        }
        Ok(tray.insert(files, interrupt)?)
    }

    /// Puts a medium of these files into a removable drive, in the place of what is there.
    ///
    /// # Errors
    /// See [`HandleError`]; nothing has changed then, and the files are closed.
    pub fn swap(&self, drive: &str, files: Vec<File>) -> Result<(), HandleError> {
        let DriveHandle { tray, interrupt } = self.drive(drive)?;
        Ok(tray.swap(files, interrupt)?)
    }

    /// Takes the medium out, if there is one; its files are closed when this returns.
    ///
    /// # Errors
    /// The drive is not there or not removable.
    pub fn eject(&self, drive: &str) -> Result<(), HandleError> {
        let DriveHandle { tray, interrupt } = self.drive(drive)?;
        Ok(tray.eject(interrupt)?)
    }

    /// Hot-pluggable memory, and the way to its driver.
    ///
    /// # Errors
    /// There is none.
    pub fn memory(&self) -> Result<(&MemControl, &Signals), HandleError> {
        let (control, interrupt) = self.memory.as_ref().ok_or(HandleError::NoMemory)?;
        Ok((control, interrupt))
    }

    /// The balloon, and the way to its driver.
    ///
    /// # Errors
    /// There is none.
    pub fn balloon(&self) -> Result<(&BalloonControl, &Signals), HandleError> {
        let (control, interrupt) = self.balloon.as_ref().ok_or(HandleError::NoBalloon)?;
        Ok((control, interrupt))
    }

    /// Changes a drive: the buckets that `limiter` has; then its files, if `said` is not 0, or else, if `measure`, what it knows of their
    /// length.
    ///
    /// # Errors
    /// See [`HandleError`]. Nothing has changed then.
    pub fn update_drive(
        &self,
        id: &str,
        limiter: Option<&RateLimiter>,
        (said, files): (u8, Vec<File>),
        measure: bool,
    ) -> Result<(), HandleError> {
        if measure && limiter.is_none() && said == 0 && self.back_end(id).is_some() {
            return self.reread(id);
        }
        let DriveHandle { tray, interrupt } = self.drive(id)?;
        // Whatever fails fails before anything has changed.
        limiter.map_or(Ok(()), |limiter| self.prepare_limit(id, limiter))?;
        if usize::from(said) != files.len() {
            return Err(HandleError::Descriptors { device: id.to_owned(), said, came: files.len() });
        }
        if limiter.is_none() && files.is_empty() && !measure {
            return Err(HandleError::Nothing(id.to_owned()));
        }
        if !files.is_empty() {
            tray.replace(files, interrupt)?;
        } else if measure {
            tray.measure(interrupt)?;
        }
        if let Some(limiter) = limiter {
            tray.limit().update(limiter)?;
        }
        Ok(())
    }

    /// Makes sure that a drive can be given these buckets.
    ///
    /// # Errors
    /// It can't.
    pub fn prepare_limit(&self, id: &str, limiter: &RateLimiter) -> Result<(), HandleError> {
        validate::rate_limiter("rate_limiter", Some(limiter))?;
        Ok(self.drive(id)?.tray.limit().prepare(limiter)?)
    }

    /// Changes the buckets of persistent memory's flushes.
    ///
    /// # Errors
    /// There is none of that name, or the limiter can't be.
    pub fn limit_pmem(&self, id: &str, limiter: Option<&RateLimiter>) -> Result<(), HandleError> {
        let found = self.pmems.iter().find(|pmem| pmem.id() == id);
        let pmem = found.ok_or_else(|| HandleError::NoPmem(id.to_owned()))?;
        validate::rate_limiter("rate_limiter", limiter)?;
        if let Some(limiter) = limiter {
            pmem.limit().update(limiter)?;
        }
        Ok(())
    }

    /// Changes the buckets that either limiter has.
    ///
    /// # Errors
    /// There is no such interface, or a limiter can't be; nothing has changed then.
    pub fn limit_interface(
        &self,
        id: &str,
        receive: Option<&RateLimiter>,
        transmit: Option<&RateLimiter>,
    ) -> Result<(), HandleError> {
        let found = self.interfaces.iter().find(|(interface, _)| interface == id);
        let (_, limits) = found.ok_or_else(|| HandleError::NoInterface(id.to_owned()))?;
        if !limits.limitable && (receive.is_some() || transmit.is_some()) {
            return Err(ConfigError::Vhost(id.to_owned()).into());
        }
        validate::rate_limiter("rx_rate_limiter", receive)?;
        validate::rate_limiter("tx_rate_limiter", transmit)?;
        let both = [(&limits.receive, receive), (&limits.transmit, transmit)];
        // Whatever fails fails before anything has changed.
        for (throttle, limiter) in both {
            limiter.map_or(Ok(()), |limiter| throttle.prepare(limiter))?;
        }
        for (throttle, limiter) in both {
            limiter.map_or(Ok(()), |limiter| throttle.update(limiter))?;
        }
        Ok(())
    }
}
