//! `vial save`.

use super::load::Progress;
use crate::args::SaveArgs;
use crate::client::{Client, body};
use crate::error::{Error, Result};
use crate::signals::Signals;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Response};
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use vial_api::SaveImages;

/// Writes images to one archive.
///
/// # Errors
/// When one of them can't be saved, or the archive can't be written; no file is there then.
pub async fn save(client: &Client, args: &SaveArgs) -> Result<i32> {
    if args.output.is_none() && io::stdout().is_terminal() {
        return Err(Error::Message(
            "standard output is a terminal, which an archive helps nobody on; say: vial save -o FILE IMAGE"
                .into(),
        ));
    }
    let order = serde_json::to_vec(&SaveImages { images: args.images.clone() })?;
    let json = [(CONTENT_TYPE, "application/json")];
    let answer = client.send(Method::POST, "/save", body(order), &json).await?;
    let Some(path) = &args.output else {
        let what = "write to standard output";
        receive(answer, &Progress::new(true), &mut io::stdout().lock(), what).await?;
        return Ok(0);
    };
    let what = format!("write {}", path.display());
    let mut target = Target::create(path).map_err(Error::io(&what))?;
    let progress = Progress::new(false);
    let (file, signals) = target.parts();
    let received = tokio::select! {
        received = receive(answer, &progress, file, &what) => received,
        number = next_of(signals) => {
            progress.clear();
            return Ok(128 + number);
        }
    };
    progress.clear();
    received?;
    target.keep().map_err(Error::io(&what))?;
    Ok(0)
}

/// The next signal; without any to watch, they do what they do to any program.
async fn next_of(signals: Option<&mut Signals>) -> i32 {
    match signals {
        Some(signals) => signals.next().await,
        None => std::future::pending().await,
    }
}

/// Writes an archive as it comes. An answer that ends before the length that its head says is an error.
async fn receive(
    answer: Response<Incoming>,
    progress: &Progress,
    out: &mut impl Write,
    what: &str,
) -> Result<()> {
    let mut archive = answer.into_body();
    let total = archive.size_hint().exact();
    let mut done = 0;
    while let Some(part) = archive.frame().await {
        let part = part.map_err(|error| {
            Error::Connection(format!("the archive broke off after {done} bytes and is of no use ({error})"))
        })?;
        if let Some(bytes) = part.data_ref() {
            out.write_all(bytes).map_err(Error::io(what))?;
            done += bytes.len() as u64;
            progress.show("saving", done, total);
        }
    }
    out.flush().map_err(Error::io(what))
}

/// The file that is asked for, which appears when it is whole.
enum Target {
    /// It has no name yet, so that nothing is left of it however this program ends.
    Nameless(File, PathBuf),
    /// The same where the file system has no files without names: a signal must not end this program before it is gone.
    Hidden(File, Hidden, PathBuf, Option<Signals>),
    /// A pipe, a device: there already, and not to be replaced.
    There(File),
}

/// A file that goes unless it was renamed.
struct Hidden(PathBuf);

impl Drop for Hidden {
    fn drop(&mut self) {
        // After a rename there is nothing of that name.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// As Docker's: what is in an image may be nobody else's business.
const MODE: u32 = 0o600;

impl Target {
    fn create(path: &Path) -> io::Result<Self> {
        // A link is followed, or it would be replaced by the archive.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        match std::fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(meta) if !meta.is_file() => {
                return Ok(Self::There(OpenOptions::new().write(true).open(&path)?));
            }
            _ => {}
        }
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let flags = rustix::fs::OFlags::TMPFILE.bits().cast_signed();
        let nameless = OpenOptions::new().write(true).custom_flags(flags).mode(MODE).open(folder);
        match nameless {
            Ok(file) => Ok(Self::Nameless(file, path)),
            // What kernels and file systems without them answer (open(2)).
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL)) =>
            {
                // Before there is something that would stay.
                let signals = Signals::watch().map_err(io::Error::other)?;
                let hidden = hidden(&path);
                let file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&hidden)?;
                Ok(Self::Hidden(file, Hidden(hidden), path, Some(signals)))
            }
            Err(error) => Err(error),
        }
    }

    fn parts(&mut self) -> (&mut File, Option<&mut Signals>) {
        match self {
            Self::Hidden(file, _, _, signals) => (file, signals.as_mut()),
            Self::Nameless(file, _) | Self::There(file) => (file, None),
        }
    }

    /// Gives the file its name; what had it is replaced.
    fn keep(self) -> io::Result<()> {
        match self {
            Self::There(_) => Ok(()),
            Self::Hidden(file, hidden, path, _) => {
                file.sync_all()?;
                std::fs::rename(&hidden.0, path)
            }
            Self::Nameless(file, path) => {
                file.sync_all()?;
                let own = format!("/proc/self/fd/{}", file.as_raw_fd());
                let link = |to: &Path| {
                    let (here, flags) = (rustix::fs::CWD, rustix::fs::AtFlags::SYMLINK_FOLLOW);
                    rustix::fs::linkat(here, &own, here, to, flags)
                };
                match link(&path) {
                    // A name can be taken from another file by a rename only.
                    Err(rustix::io::Errno::EXIST) => {
                        let hidden = Hidden(hidden(&path));
                        link(&hidden.0)?;
                        std::fs::rename(&hidden.0, path)
                    }
                    linked => Ok(linked?),
                }
            }
        }
    }
}

/// A name beside it that nobody else takes meanwhile.
fn hidden(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // So that name, dots and number fit into a name of 255 bytes.
    let name: String = name.chars().take(50).collect();
    path.with_file_name(format!(".{name}.{}", std::process::id()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that fails to set up has failed")]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("a"), folder.path().join("link"));
        std::os::unix::fs::symlink("a", &link).unwrap();
        for (to, bytes) in [(&path, b"new"), (&path, b"two"), (&link, b"via")] {
            let mut given_up = Target::create(to).unwrap();
            given_up.parts().0.write_all(b"half").unwrap();
            drop(given_up);
            let mut target = Target::create(to).unwrap();
            target.parts().0.write_all(bytes).unwrap();
            target.keep().unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
            assert_eq!(names(folder.path()), ["a", "link"]);
        }
        assert!(link.is_symlink());
        assert!(Target::create(folder.path()).is_err());
        assert!(matches!(Target::create(Path::new("/dev/null")), Ok(Target::There(_))));
        assert_eq!(names(folder.path()), ["a", "link"]);
    }

    #[test]
    fn a_hidden_file_goes_unless_it_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let create = || {
            let file = File::create_new(hidden(&path)).unwrap();
            Target::Hidden(file, Hidden(hidden(&path)), path.clone(), None)
        };
        drop(create());
        assert!(names(folder.path()).is_empty());
        create().keep().unwrap();
        assert_eq!(names(folder.path()), ["a"]);
    }
}
