//! The removable drives of a machine by name, and what is put into them.

use crate::virtio::Signals;
use crate::virtio::block::{BlockConfigError, Tray};
use std::fs::File;
use std::sync::Arc;

/// Why a medium was not put in or taken out.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// No such drive.
    #[error("this VM has no removable drive {0:?}")]
    Unknown(String),
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
    /// The drive does not take it.
    #[error(transparent)]
    Medium(#[from] BlockConfigError),
}

/// The drives.
#[derive(Default)]
pub struct Media(Vec<(Tray, Arc<Signals>)>);

impl Media {
    /// One more, and the way to its driver.
    pub fn add(&mut self, tray: Tray, interrupt: Arc<Signals>) {
        self.0.push((tray, interrupt));
    }

    fn find(&self, drive: &str) -> Result<&(Tray, Arc<Signals>), MediaError> {
        let found = self.0.iter().find(|(tray, _)| tray.id() == drive);
        found.ok_or_else(|| MediaError::Unknown(drive.to_owned()))
    }

    /// Puts a medium of these files in; `said` is how many there should be.
    ///
    /// # Errors
    /// See [`MediaError`]; nothing has changed then, and the files are closed.
    pub fn insert(&self, drive: &str, said: u8, files: Vec<File>) -> Result<(), MediaError> {
        let (tray, interrupt) = self.find(drive)?;
        if usize::from(said) != files.len() {
            return Err(MediaError::Descriptors { drive: drive.to_owned(), said, came: files.len() });
        }
        Ok(tray.insert(files, interrupt)?)
    }

    /// Takes the medium out, if there is one. Between two batches of the device, as in the loop that runs devices too, its files
    /// are closed when this returns.
    ///
    /// # Errors
    /// [`MediaError::Unknown`].
    pub fn eject(&self, drive: &str) -> Result<(), MediaError> {
        let (tray, interrupt) = self.find(drive)?;
        tray.eject(interrupt);
        Ok(())
    }
}
