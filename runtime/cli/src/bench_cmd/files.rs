//! Result files: opened before the measurement, so that a wrong name does not cost it, and there as a whole or not at all.

use super::args::OutArgs;
use crate::error::{Error, Result};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;
use vial_bench::report;
use vial_bench::result::Document;

/// How a document is written.
type Form = fn(&Document) -> Result<String>;

/// Files that wait for their document.
pub struct Files(Vec<(PathBuf, Place, Form)>);

/// Where a document goes.
enum Place {
    /// Into a file beside the one that is meant, which takes its name when it is whole.
    Beside(NamedTempFile),
    /// Into what is there: a device, a pipe. Nothing may take its place.
    Into(File),
}

impl Files {
    /// Makes sure that each can be written.
    ///
    /// # Errors
    /// When one can't be.
    pub fn open(out: &OutArgs) -> Result<Self> {
        let json: Form = |document| Ok(serde_json::to_string_pretty(document)? + "\n");
        let html: Form = |document| Ok(report::html(document));
        let markdown: Form = |document| Ok(report::markdown(document));
        let wanted = [(&out.json, json), (&out.html, html), (&out.markdown, markdown)];
        let open = |(path, form): (&Option<PathBuf>, Form)| {
            let path = path.clone()?;
            Some(place(&path).map(|(path, place)| (path, place, form)))
        };
        let files: Vec<(PathBuf, Place, Form)> =
            wanted.into_iter().filter_map(open).collect::<Result<_>>()?;
        for (number, (path, place, _)) in files.iter().enumerate() {
            let twice = files[..number].iter().any(|(other, _, _)| other == path);
            if twice && matches!(place, Place::Beside(_)) {
                return Err(Error::Message(format!("{} is named for two forms", path.display())));
            }
        }
        Ok(Self(files))
    }

    /// Writes them all.
    ///
    /// # Errors
    /// When one can't be: the others are there.
    pub fn write(self, document: &Document) -> Result<()> {
        let mut result = Ok(());
        for (path, place, form) in self.0 {
            let text = form(document)?;
            let written = match place {
                Place::Into(mut file) => file.write_all(text.as_bytes()),
                Place::Beside(mut file) => {
                    file.write_all(text.as_bytes()).and_then(|()| Ok(file.persist(&path).map(drop)?))
                }
            };
            match written {
                Ok(()) => crate::output::remark(&format!("wrote {}\n", path.display())),
                Err(error) => result = Err(Error::io(format!("write {}", path.display()))(error)),
            }
        }
        result
    }
}

/// Where a document of this name goes, and the name behind links.
fn place(path: &Path) -> Result<(PathBuf, Place)> {
    let wrong = |source: std::io::Error| {
        // Without the name of the file beside it, which says nothing to anybody.
        Error::io(format!("write {}", path.display()))(source.kind().into())
    };
    if path.is_symlink() && !path.exists() {
        // What it leads to is made by opening it.
        let file = File::options().write(true).create(true).truncate(true).open(path).map_err(wrong)?;
        return Ok((path.to_owned(), Place::Into(file)));
    }
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    match std::fs::metadata(&path) {
        Ok(meta) if meta.is_dir() => return Err(wrong(std::io::ErrorKind::IsADirectory.into())),
        Ok(meta) if !meta.is_file() => {
            let file = File::options().write(true).open(&path).map_err(wrong)?;
            return Ok((path, Place::Into(file)));
        }
        _ => {}
    }
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    let mut builder = tempfile::Builder::new();
    let file = builder.prefix(".vial-bench-").permissions(readable).tempfile_in(folder);
    let file = file.map_err(wrong)?;
    Ok((path, Place::Beside(file)))
}
