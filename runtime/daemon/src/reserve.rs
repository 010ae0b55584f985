//! Room that is kept for the day on which the disk is full: freeing some needs a little, and a daemon to do it.
//!
//! Noting a removal writes to the store, and taking an image's name away writes a new list of names. So a file of [`SIZE`] is kept in the
//! data folder. It is given back to the disk when a daemon starts on one that is full, or when a removal or an end finds no room to be noted,
//! and made again after the next of these or at the next start, once there is room for it. Pods that write meanwhile may take what it gave back; then somebody has to
//! make room by hand, as the error says.

use crate::error::{ApiError, Result};
use crate::paths::Paths;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use vial_api::ErrorKind;

/// Bytes that are kept: several times what the store's journal and the list of images' names need.
const SIZE: u64 = 4 << 20;
/// With less than this free, in bytes, a daemon counts its disk as full: recovery notes what happened to each container.
const LOW: u64 = 1 << 20;

/// The file that keeps the room.
#[derive(Debug, Clone)]
pub struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// In the data folder.
    pub fn of(paths: &Paths) -> Self {
        Self { path: paths.data.join("reserve") }
    }

    /// Before a daemon opens its store.
    pub fn release_if_full(&self) {
        if self.free().is_ok_and(|free| free < LOW) && self.release() {
            tracing::warn!(
                "the disk is full; the daemon gave its reserve of {} MiB back to free some with",
                SIZE >> 20
            );
        }
    }

    /// Gives the room back to the disk; says whether there was any.
    pub fn release(&self) -> bool {
        let kept = std::fs::metadata(&self.path).is_ok_and(|meta| meta.blocks() > 0);
        kept && std::fs::remove_file(&self.path).is_ok()
    }

    /// Takes the room again, if there is enough that nobody misses it. Without it life goes on.
    pub fn keep(&self) {
        let kept = std::fs::metadata(&self.path).is_ok_and(|meta| meta.blocks() * 512 >= SIZE);
        if kept || !self.free().is_ok_and(|free| free >= 2 * SIZE) {
            return;
        }
        if let Err(error) = self.make() {
            tracing::debug!(%error, "no reserve for a full disk");
            let _ = std::fs::remove_file(&self.path);
        }
    }

    fn make(&self) -> io::Result<()> {
        let file =
            std::fs::File::options().write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
        Ok(fallocate(&file, FallocateFlags::empty(), 0, SIZE)?)
    }

    /// Bytes that anybody may use.
    fn free(&self) -> io::Result<u64> {
        let disk = statvfs(self.path.parent().unwrap_or(&self.path))?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Does what frees room; once more with the reserve given back, when it finds none.
    ///
    /// # Errors
    /// What stops it.
    pub fn lend<T>(&self, mut free_some: impl FnMut() -> Result<T>) -> Result<T> {
        match free_some() {
            Err(error) if error.0.kind == ErrorKind::NoSpace && self.release() => free_some(),
            done => done,
        }
    }
}

/// What to do when not even the reserve was enough for a daemon to start.
pub fn with_way_out(paths: &Paths, error: ApiError) -> ApiError {
    // Some of what fails for lack of room fails with other words: a file that can't be made, for one.
    if error.0.kind != ErrorKind::NoSpace && Reserve::of(paths).free().is_ok_and(|free| free >= LOW) {
        return error;
    }
    ApiError::new(
        ErrorKind::NoSpace,
        format!(
            "{error}: the disk of {data} is full, and the daemon needs {} MiB there; remove something else from it (df {data} shows how \
             full it is), then go on with vial system prune, vial rm and vial rmi",
            LOW >> 20,
            data = paths.data.display()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserve() -> (tempfile::TempDir, Reserve) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { data: dir.path().into(), run: dir.path().into() };
        (dir, Reserve::of(&paths))
    }

    fn full() -> ApiError {
        io::Error::from(io::ErrorKind::StorageFull).into()
    }

    #[test]
    fn room_is_kept_given_back_and_kept_again() {
        let (_dir, reserve) = reserve();
        assert!(!reserve.release());
        for _ in 0..2 {
            reserve.keep();
            assert!(std::fs::metadata(&reserve.path).unwrap().blocks() * 512 >= SIZE);
            assert!(reserve.release());
            assert!(!reserve.path.exists());
        }
        // As a daemon leaves it that is killed while it makes it.
        std::fs::write(&reserve.path, "").unwrap();
        reserve.keep();
        assert!(reserve.release());
    }

    #[test]
    fn a_removal_without_room_gets_the_reserve_once() {
        let (_dir, reserve) = reserve();
        let mut tries = 0;
        let mut refused = || {
            tries += 1;
            Err::<(), _>(full())
        };
        assert_eq!(reserve.lend(&mut refused), Err(full()));
        reserve.keep();
        assert_eq!(reserve.lend(&mut refused), Err(full()));
        assert_eq!(tries, 3);
        reserve.keep();
        assert_eq!(reserve.lend(|| if reserve.path.exists() { Err(full()) } else { Ok(7) }), Ok(7));
    }

    #[test]
    fn the_way_out_names_the_folder() {
        let (dir, reserve) = reserve();
        let paths = Paths { data: dir.path().into(), run: reserve.path };
        let told = with_way_out(&paths, full()).to_string();
        assert!(told.contains(&*dir.path().to_string_lossy()) && told.contains("vial rmi"), "{told}");
    }
}
