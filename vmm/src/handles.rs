//! The devices of a machine by name, as they are changed from outside while they run.

use crate::api::config::RateLimiter;
use crate::devices::Handle;
use crate::metrics::{Figure, Figures};
use crate::validate::{self, ConfigError};
use crate::virtio::block::{BlockConfigError, Tray};
use crate::virtio::limiter::Throttle;
use crate::virtio::{Signals, net};
use std::fs::File;
use std::sync::Arc;

/// Why a device was not changed.
#[derive(Debug, thiserror::Error)]
pub enum HandleError {
    /// No such drive, or its files stay.
    #[error("this VM has no removable drive {0:?}")]
    NotRemovable(String),
    /// No such drive.
    #[error("this VM has no drive {0:?}")]
    NoDrive(String),
    /// No such interface.
    #[error("this VM has no interface {0:?}")]
    NoInterface(String),
    /// The request says one thing and brings another.
    #[error("the request for drive {drive:?} speaks of {said} files and brought {came} descriptors")]
    Descriptors {
        /// Which drive.
        drive: String,
        /// How many the request speaks of.
        said: u8,
        /// How many descriptors came with it.
        came: usize,
    },
    /// The request makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The drive does not take it.
    #[error(transparent)]
    Medium(#[from] BlockConfigError),
}

struct DriveHandle {
    id: String,
    limit: Arc<Throttle>,
    tray: Option<Tray>,
    interrupt: Arc<Signals>,
}

/// The handles.
#[derive(Default)]
pub struct Handles {
    drives: Vec<DriveHandle>,
    interfaces: Vec<(String, net::Limits)>,
}

impl Handles {
    /// One more, and the way to its driver.
    pub fn add(&mut self, handle: Handle, interrupt: Arc<Signals>) {
        match handle {
            Handle::None => {}
            Handle::Drive { id, limit, tray } => {
                self.drives.push(DriveHandle { id, limit, tray, interrupt });
            }
            Handle::Net { id, limits } => self.interfaces.push((id, limits)),
        }
    }

    /// What the devices have counted, under Firecracker's names.
    pub fn figures(&self, figures: &mut Figures) {
        for drive in &self.drives {
            let throttled = Figure::Count(drive.limit.throttled());
            figures.of("block", &drive.id, "rate_limiter_throttled_events", throttled);
        }
        for (id, limits) in &self.interfaces {
            let throttled = [("rx", &limits.receive), ("tx", &limits.transmit)];
            for (way, throttle) in throttled {
                let name = format!("{way}_rate_limiter_throttled");
                figures.of("net", id, name, Figure::Count(throttle.throttled()));
            }
        }
    }

    fn drive(&self, id: &str) -> Option<&DriveHandle> {
        self.drives.iter().find(|drive| drive.id == id)
    }

    fn tray(&self, id: &str) -> Result<(&Tray, &Signals), HandleError> {
        let removable = self.drive(id).and_then(|drive| Some((drive.tray.as_ref()?, &*drive.interrupt)));
        removable.ok_or_else(|| HandleError::NotRemovable(id.to_owned()))
    }

    /// Puts a medium of these files into a removable drive; `said` is how many there should be.
    ///
    /// # Errors
    /// See [`HandleError`]; nothing has changed then, and the files are closed.
    pub fn insert(&self, drive: &str, said: u8, files: Vec<File>) -> Result<(), HandleError> {
        let (tray, interrupt) = self.tray(drive)?;
        if usize::from(said) != files.len() {
            return Err(HandleError::Descriptors { drive: drive.to_owned(), said, came: files.len() });
        }
        Ok(tray.insert(files, interrupt)?)
    }

    /// Takes the medium out, if there is one. Between two batches of the device, as in the loop that runs devices too, its files
    /// are closed when this returns.
    ///
    /// # Errors
    /// [`HandleError::NotRemovable`].
    pub fn eject(&self, drive: &str) -> Result<(), HandleError> {
        let (tray, interrupt) = self.tray(drive)?;
        tray.eject(interrupt);
        Ok(())
    }

    /// Changes the buckets that `limiter` has.
    ///
    /// # Errors
    /// There is no such drive, or the limiter can't be.
    pub fn limit_drive(&self, id: &str, limiter: &RateLimiter) -> Result<(), HandleError> {
        let drive = self.drive(id).ok_or_else(|| HandleError::NoDrive(id.to_owned()))?;
        validate::rate_limiter("rate_limiter", Some(limiter))?;
        drive.limit.update(limiter);
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
        validate::rate_limiter("rx_rate_limiter", receive)?;
        validate::rate_limiter("tx_rate_limiter", transmit)?;
        for (throttle, limiter) in [(&limits.receive, receive), (&limits.transmit, transmit)] {
            if let Some(limiter) = limiter {
                throttle.update(limiter);
            }
        }
        Ok(())
    }
}
