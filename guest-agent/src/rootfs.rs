//! A container's root file system: an EROFS image below, ext4 or tmpfs above, overlayfs over both.

use crate::disks;
use crate::errors::internal;
use agent_protocol::{AgentError, RootFs, Upper};
use rustix::fs::{Mode, chmod, chown};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A mounted root. Unmounted by [`Mounted::unmount`], or when dropped.
#[derive(Debug)]
pub struct Mounted {
    base: PathBuf,
    /// What is mounted, oldest first.
    places: Vec<PathBuf>,
}

impl Mounted {
    /// Finds the disks and mounts the root below `base`, a directory of the container's own.
    ///
    /// # Errors
    /// When a disk does not appear or a mount fails; nothing stays mounted then.
    pub async fn mount(base: &Path, root: &RootFs) -> Result<Self, AgentError> {
        let image = disks::find(&root.image).await?;
        let upper = match &root.upper {
            Upper::Disk { serial, .. } => Some(disks::find(serial).await?),
            Upper::Tmpfs { .. } => None,
        };
        let mut mounted = Self { base: base.to_path_buf(), places: Vec::new() };
        let lower = mounted.at("lower", &image, "erofs", MountFlags::RDONLY, "")?;
        let rw = match (&root.upper, upper) {
            (_, Some(disk)) => mounted.at("rw", &disk, "ext4", MountFlags::NOATIME, "discard")?,
            (Upper::Tmpfs { size }, None) => mounted.at(
                "rw",
                Path::new("tmpfs"),
                "tmpfs",
                MountFlags::empty(),
                &format!("size={size},mode=0755"),
            )?,
            // The match above finds a disk for every `Upper::Disk`.
            (Upper::Disk { .. }, None) => {
                return Err(crate::errors::invalid("the writable layer has no disk"));
            }
        };
        layers(&lower, &rw).map_err(internal("the writable layer can't be prepared"))?;
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            rw.join("upper").display(),
            rw.join("work").display()
        );
        mounted.at("rootfs", Path::new("overlay"), "overlay", MountFlags::empty(), &options)?;
        Ok(mounted)
    }

    /// Where the root is.
    pub fn path(&self) -> PathBuf {
        self.base.join("rootfs")
    }

    fn at(
        &mut self,
        name: &str,
        source: &Path,
        kind: &str,
        flags: MountFlags,
        options: &str,
    ) -> Result<PathBuf, AgentError> {
        let place = self.base.join(name);
        let context = format!("{kind} from {} can't be mounted on {}", source.display(), place.display());
        let go = || -> io::Result<()> {
            fs::create_dir_all(&place)?;
            let options = CString::new(options)?;
            mount(source, &place, kind, flags, options.as_c_str())?;
            Ok(())
        };
        go().map_err(internal(context))?;
        self.places.push(place.clone());
        Ok(place)
    }

    /// Unmounts everything. What is still in use by a dying process goes when that process has gone.
    pub fn unmount(&mut self) {
        for place in self.places.drain(..).rev() {
            if unmount(&place, UnmountFlags::empty()).is_err() {
                let _ = unmount(&place, UnmountFlags::DETACH);
            }
            let _ = fs::remove_dir(&place);
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// Makes the overlay's two directories. The root directory itself shows the owner and mode of `upper`, so a new one takes the
/// image's.
fn layers(lower: &Path, rw: &Path) -> io::Result<()> {
    fs::create_dir_all(rw.join("work"))?;
    let upper = rw.join("upper");
    match fs::create_dir(&upper) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    }
    let image = fs::metadata(lower)?;
    chown(
        &upper,
        Some(rustix::fs::Uid::from_raw(image.uid())),
        Some(rustix::fs::Gid::from_raw(image.gid())),
    )?;
    chmod(&upper, Mode::from_raw_mode(image.mode() & 0o7777))?;
    Ok(())
}
