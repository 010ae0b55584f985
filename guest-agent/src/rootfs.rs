//! A container's root file system: an EROFS image below, ext4 or tmpfs above, overlayfs over both.

use crate::disks;
use crate::errors::internal;
use crate::sys::ioctl::stop_ext4;
use crate::sys::watch::watch_readable;
use agent_protocol::{AgentError, ErrorKind, RootFs, Upper};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{Mode, chmod, chown};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::ffi::CString;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// How long the kernel may take to finish with a file system that nobody has mounted any more.
const LONGEST_GOODBYE: Duration = Duration::from_secs(1);

/// The name of the place where the writable layer is mounted.
const RW: &str = "rw";

/// What a root is made of, found.
#[derive(Debug)]
pub struct Layers {
    image: PathBuf,
    upper: Writable,
}

#[derive(Debug)]
enum Writable {
    Disk(PathBuf),
    Tmpfs(u64),
}

impl Layers {
    /// Finds the disks, waiting for them if need be.
    ///
    /// # Errors
    /// As [`disks::find`].
    pub async fn find(root: &RootFs) -> Result<Self, AgentError> {
        let upper = async {
            match &root.upper {
                Upper::Disk { serial, bytes } => disks::find(serial, *bytes).await.map(Writable::Disk),
                Upper::Tmpfs { size } => Ok(Writable::Tmpfs(*size)),
            }
        };
        let (image, upper) = tokio::try_join!(disks::find(&root.image, root.image_bytes), upper)?;
        Ok(Self { image, upper })
    }
}

/// A mounted root. Unmounted by [`Mounted::unmount`], or when dropped.
#[derive(Debug)]
pub struct Mounted {
    base: PathBuf,
    /// What is mounted, oldest first.
    places: Vec<PathBuf>,
    /// The disks behind it.
    disks: Vec<PathBuf>,
    /// That of the writable layer, open since before it was mounted: it knows of every write that failed since.
    upper: Option<fs::File>,
}

impl Mounted {
    /// Mounts the root below `base`, a directory of the container's own.
    ///
    /// # Errors
    /// When a mount fails; nothing stays mounted then.
    pub fn mount(base: &Path, layers: Layers) -> Result<Self, AgentError> {
        let Layers { image, upper } = layers;
        let mut mounted =
            Self { base: base.to_path_buf(), places: Vec::new(), disks: vec![image.clone()], upper: None };
        let lower = mounted.at("lower", &image, "erofs", MountFlags::RDONLY, "")?;
        let rw = match upper {
            Writable::Disk(disk) => {
                mounted.disks.push(disk.clone());
                mounted.upper = fs::File::open(&disk).ok();
                mounted.at(RW, &disk, "ext4", MountFlags::NOATIME, "discard")?
            }
            Writable::Tmpfs(size) => {
                let options = format!("size={size},mode=0755");
                mounted.at(RW, Path::new("tmpfs"), "tmpfs", MountFlags::empty(), &options)?
            }
        };
        prepare(&lower, &rw).map_err(internal("the writable layer can't be prepared"))?;
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

    /// Unmounts everything; the value waits until the file systems are gone.
    pub fn unmount(&mut self) -> Goodbye {
        // Before the overlay goes, which would write out itself, and tell nobody how that went.
        if let (Some(disk), Some(place)) =
            (self.upper.take(), self.places.iter().find(|place| place.ends_with(RW)))
        {
            write_out(&disk, place);
        }
        let news = Goodbye::listen(&self.places).ok();
        let mut lazily = Vec::new();
        for place in self.places.drain(..).rev() {
            if let Err(error) = unmount(&place, UnmountFlags::empty()) {
                let _ = unmount(&place, UnmountFlags::DETACH);
                lazily.push(format!("{}: {error}", place.display()));
            }
            let _ = fs::remove_dir(&place);
        }
        Goodbye { news, lazily, disks: self.disks.clone() }
    }
}

/// The end of file systems that were just unmounted.
#[derive(Debug)]
#[must_use]
pub struct Goodbye {
    /// Where the kernel tells of their ends, and of how many.
    news: Option<(AsyncFd<OwnedFd>, usize)>,
    /// What did not let itself be unmounted at once.
    lazily: Vec<String>,
    disks: Vec<PathBuf>,
}

impl Goodbye {
    /// Unmounted is not over: a process elsewhere may hold a file, and the kernel lets go of some things a moment later.
    fn listen(places: &[PathBuf]) -> io::Result<(AsyncFd<OwnedFd>, usize)> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // The overlay, mounted last, ends before the two that hold it.
        let roots = places.iter().filter(|place| !place.ends_with("rootfs"));
        let mut watched = 0;
        for root in roots {
            // Any event will do: of the end of a file system the kernel tells every watch (inotify(7), IN_UNMOUNT).
            inotify::add_watch(&inotify, root, WatchFlags::DELETE_SELF | WatchFlags::ONLYDIR)?;
            watched += 1;
        }
        Ok((watch_readable(inotify)?, watched))
    }

    /// Waits until the disks are free.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] when something still holds one: only then may it be another container's process, to which a file was passed.
    pub async fn said(mut self) -> Result<(), AgentError> {
        if let Some((inotify, watched)) = self.news.take() {
            // What the wait was for is looked at below.
            let _ = tokio::time::timeout(LONGEST_GOODBYE, ends(inotify, watched)).await;
        }
        let busy: Vec<_> =
            self.disks.iter().filter(|disk| disks::is_in_use(disk)).map(|disk| disk.display()).collect();
        if busy.is_empty() {
            return Ok(());
        }
        let mut message =
            busy.iter().fold("its disks are still in use:".to_owned(), |text, disk| format!("{text} {disk}"));
        for place in &self.lazily {
            message += &format!("; {place}");
        }
        Err(AgentError::new(ErrorKind::WrongState, message))
    }
}

/// Waits for so many ends of file systems.
async fn ends(inotify: AsyncFd<OwnedFd>, mut watched: usize) -> io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); 1024];
    while watched > 0 {
        let mut ready = inotify.readable().await?;
        let mut reader = inotify::Reader::new(inotify.get_ref(), &mut buffer);
        loop {
            match reader.next() {
                Ok(event) if event.events().contains(ReadFlags::UNMOUNT) => {
                    watched = watched.saturating_sub(1)
                }
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        ready.clear_ready();
    }
    Ok(())
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Nobody is left who could wait.
        let _ = self.unmount();
    }
}

/// Writes out a layer that is to be unmounted. When its disk did not take all (the host's is full, say), its journal must: Linux 6.12's
/// `ext4_put_super` looks whether that was aborted before it looks for such writes, and then marks the layer as one that needs no recovery, so that
/// the next mount finds half of it. A stopped ext4 keeps its mark.
fn write_out(disk: &fs::File, place: &Path) {
    let Ok(folder) = fs::File::open(place) else { return };
    // The first says nothing of what others who asked for it were told before: a process in the container, say.
    let written = rustix::fs::syncfs(&folder).and_then(|()| rustix::fs::fsync(disk));
    if let Err(error) = written {
        eprintln!(
            "vial-agent: {} is not written out: {error}; its journal is kept for the next start",
            place.display()
        );
        if let Err(error) = stop_ext4(&folder) {
            eprintln!("vial-agent: {} can't be stopped: {error}", place.display());
        }
    }
}

/// Makes the overlay's two directories. The root directory itself shows the owner and mode of `upper`, so a new one takes the
/// image's.
fn prepare(lower: &Path, rw: &Path) -> io::Result<()> {
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
