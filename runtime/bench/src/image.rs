//! The image that all contenders start: one archive out of Vial's store for those with stores of their own, and unpacked for the others.

use crate::child::{Stop, patient_output_of};
use flate2::read::GzDecoder;
use serde::Deserialize;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// An unpacked image above this is no initial RAM disk: it must fit into a small VM's memory twice.
const MOST_INITRD: u64 = 48 << 20;

/// An image, ready for everybody.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its name in Vial's store.
    pub name: String,
    /// The digest of its configuration: `sha256:…`.
    pub id: String,
    /// What it runs.
    pub config: Config,
    /// The docker-archive.
    pub archive: PathBuf,
    /// Its root file system as a folder.
    pub rootfs: PathBuf,
}

/// The part of an image's configuration that a runtime without images needs to be told.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Config {
    /// Environment.
    pub env: Option<Vec<String>>,
    /// Command, first part.
    pub entrypoint: Option<Vec<String>>,
    /// Command, second part.
    pub cmd: Option<Vec<String>>,
    /// Working directory.
    pub working_dir: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    #[serde(default)]
    config: Config,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    layers: Vec<String>,
}

impl Image {
    /// Takes it out of Vial's store, where it is pulled to when it is not there, into `folder`.
    ///
    /// # Errors
    /// In words.
    pub fn take(vial: &Path, name: &str, folder: &Path, stop: Stop<'_>) -> Result<Self, String> {
        let run = |words: &[&str]| {
            let mut command = vec![vial.as_os_str().to_owned()];
            command.extend(words.iter().map(OsString::from));
            patient_output_of(&command, stop)
        };
        let inspect = || run(&["inspect", "--type=image", "--", name]);
        let told = match inspect() {
            Ok(told) => told,
            Err(_) => {
                run(&["pull", "-q", "--", name])?;
                inspect()?
            }
        };
        let inspected: Vec<Inspected> =
            serde_json::from_str(&told).map_err(|error| format!("vial inspect {name}: {error}"))?;
        let Some(Inspected { id, config }) = inspected.into_iter().next() else {
            return Err(format!("vial inspect {name} told nothing"));
        };
        let (archive, rootfs) = (folder.join("image.tar"), folder.join("rootfs"));
        let path = archive.to_str().ok_or("the folder for temporary files is not UTF-8")?;
        // By its id, so that no name comes with it: an engine that loads it must not take a name away from an image of the user's.
        run(&["save", "-o", path, "--", &id])?;
        unpack(&archive, &folder.join("blobs"), &rootfs)
            .map_err(|error| format!("can't unpack {name} below {}: {error}", folder.display()))?;
        Ok(Self { name: name.into(), id, config, archive, rootfs })
    }

    /// The image's own command.
    pub fn command(&self) -> Vec<String> {
        let parts = [self.config.entrypoint.clone(), self.config.cmd.clone()];
        parts.into_iter().flatten().flatten().collect()
    }

    /// Makes an initial RAM disk (cpio, `newc`) of it.
    ///
    /// # Errors
    /// In words: it is too large, has no shell, or can't be written.
    pub fn initrd(&self, path: &Path) -> Result<(), String> {
        let size = size(&self.rootfs).map_err(|error| error.to_string())?;
        if size > MOST_INITRD {
            return Err(format!(
                "the image ({} MiB unpacked) is too large to be an initial RAM disk; bare VMs take up to {} MiB",
                size >> 20,
                MOST_INITRD >> 20
            ));
        }
        for program in ["sh", "poweroff"] {
            let found = ["bin", "sbin", "usr/bin", "usr/sbin"]
                .iter()
                .any(|folder| self.rootfs.join(folder).join(program).symlink_metadata().is_ok());
            if !found {
                return Err(format!("the image has no `{program}`, which a bare VM runs"));
            }
        }
        let write = || {
            let mut out = io::BufWriter::new(File::create(path)?);
            let mut inode = 1;
            node(&mut out, &mut inode, "dev", 0o040_755, 0, &[])?;
            // Without it the first process has neither input nor output.
            node(&mut out, &mut inode, "dev/console", 0o020_600, (5 << 8) | 1, &[])?;
            tree(&mut out, &mut inode, &self.rootfs, Path::new(""))?;
            node(&mut out, &mut inode, "TRAILER!!!", 0, 0, &[])?;
            out.flush()
        };
        write().map_err(|error: io::Error| format!("can't write {}: {error}", path.display()))
    }
}

/// Lays an archive's layers over each other.
fn unpack(archive: &Path, blobs: &Path, rootfs: &Path) -> io::Result<()> {
    fs::create_dir_all(blobs)?;
    fs::create_dir_all(rootfs)?;
    tar::Archive::new(File::open(archive)?).unpack(blobs)?;
    let manifest = fs::read(blobs.join("manifest.json"))?;
    let listed: Vec<Listed> = serde_json::from_slice(&manifest)?;
    let layers =
        listed.into_iter().next().ok_or_else(|| io::Error::other("an archive without image"))?.layers;
    for layer in layers {
        if Path::new(&layer).components().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(io::Error::other(format!("a layer outside of its archive: {layer:?}")));
        }
        let open = || -> io::Result<Box<dyn Read>> {
            let mut file = File::open(blobs.join(&layer))?;
            let mut magic = [0; 2];
            let packed = file.read_exact(&mut magic).is_ok() && magic == [0x1f, 0x8b];
            let file = File::open(blobs.join(&layer))?;
            Ok(if packed { Box::new(GzDecoder::new(file)) } else { Box::new(file) })
        };
        // Whiteouts are of what lies below, wherever in the layer they stand.
        hide(open()?, rootfs)?;
        apply(open()?, rootfs)?;
    }
    fs::remove_dir_all(blobs)
}

/// What a whiteout hides: a name, or with none all that is in its folder.
fn whiteout(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()?.strip_prefix(".wh.")
}

/// Takes away what a layer hides (OCI image specification, "Whiteouts").
fn hide(layer: impl Read, rootfs: &Path) -> io::Result<()> {
    for entry in tar::Archive::new(layer).entries()? {
        let path = entry?.path()?.into_owned();
        let Some(hidden) = whiteout(&path) else { continue };
        let Some(folder) = inside(rootfs, path.parent().unwrap_or(Path::new(""))) else { continue };
        if hidden == ".wh..opq" {
            for child in fs::read_dir(&folder)? {
                remove(&child?.path())?;
            }
        } else if is_name(hidden) {
            remove(&folder.join(hidden))?;
        }
    }
    Ok(())
}

fn is_name(text: &str) -> bool {
    let mut parts = Path::new(text).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
}

/// Lays a layer over what is there (OCI image specification, "Applying Changesets").
fn apply(layer: impl Read, rootfs: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(layer);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(rustix::process::geteuid().is_root());
    archive.set_overwrite(true);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        // Runtimes make what a container needs in /dev.
        let kind = entry.header().entry_type();
        if whiteout(&path).is_some() || matches!(kind, tar::EntryType::Char | tar::EntryType::Block) {
            continue;
        }
        // What is in its place and no folder for a folder goes: the library stumbles over it.
        if let (Some(name), Some(folder)) =
            (path.file_name(), inside(rootfs, path.parent().unwrap_or(Path::new(""))))
        {
            let there = folder.join(name);
            let merges = kind.is_dir() && there.symlink_metadata().is_ok_and(|meta| meta.is_dir());
            if !merges {
                remove(&there)?;
            }
        }
        entry.unpack_in(rootfs)?;
    }
    Ok(())
}

/// The folder below `rootfs` with no link on the way.
fn inside(rootfs: &Path, path: &Path) -> Option<PathBuf> {
    let mut whole = rootfs.to_owned();
    for part in path.components() {
        match part {
            Component::Normal(name) => whole.push(name),
            Component::CurDir => continue,
            _ => return None,
        }
        if !whole.symlink_metadata().ok()?.is_dir() {
            return None;
        }
    }
    Some(whole)
}

fn remove(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    }
}

fn size(folder: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        sum += if meta.is_dir() { size(&entry.path())? } else { meta.len() };
    }
    Ok(sum)
}

fn tree(out: &mut impl Write, inode: &mut u32, root: &Path, below: &Path) -> io::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(root.join(below))?.collect::<io::Result<_>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, meta) = (below.join(entry.file_name()), entry.metadata()?);
        let Some(name) = path.to_str() else { continue };
        if name == "dev" {
            continue;
        }
        let kind = meta.file_type();
        let content = match () {
            () if kind.is_symlink() => fs::read_link(entry.path())?.into_os_string().into_encoded_bytes(),
            () if kind.is_file() => fs::read(entry.path())?,
            () if kind.is_dir() => vec![],
            () => continue,
        };
        node(out, inode, name, meta.mode(), 0, &content)?;
        if kind.is_dir() {
            tree(out, inode, root, &path)?;
        }
    }
    Ok(())
}

/// One member (`Documentation/driver-api/early-userspace/buffer-format.rst`); all are root's, and hard links files of their own.
fn node(
    out: &mut impl Write,
    inode: &mut u32,
    name: &str,
    mode: u32,
    device: u32,
    content: &[u8],
) -> io::Result<()> {
    let too_large = |_| io::Error::other(format!("{name} is too large for a cpio"));
    let length = u32::try_from(content.len()).map_err(too_large)?;
    let named = u32::try_from(name.len() + 1).map_err(too_large)?;
    let fields = [*inode, mode, 0, 0, 1, 0, length, 0, 0, device >> 8, device & 0xff, named, 0];
    *inode += 1;
    out.write_all(b"070701")?;
    for field in fields {
        write!(out, "{field:08X}")?;
    }
    let padding = |count: usize| &[0; 3][..count.wrapping_neg() % 4];
    out.write_all(name.as_bytes())?;
    out.write_all(b"\0")?;
    out.write_all(padding(110 + name.len() + 1))?;
    out.write_all(content)?;
    out.write_all(padding(content.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::process::Command;

    fn layer(files: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            header.set_uid(rustix::process::geteuid().as_raw().into());
            header.set_gid(rustix::process::getegid().as_raw().into());
            if name.ends_with('/') {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(0o755);
            }
            builder.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn layers_lie_over_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let lay = |files: &[(&str, &str)]| {
            hide(&layer(files)[..], dir.path()).unwrap();
            apply(&layer(files)[..], dir.path()).unwrap();
        };
        lay(&[("a/", ""), ("a/one", "1"), ("a/two", "2"), ("b/", ""), ("b/old", "x"), ("c", "file")]);
        lay(&[
            ("a/.wh.one", ""),
            ("b/new", "y"),
            ("b/.wh..wh..opq", ""),
            (".wh.c", ""),
            ("d", "file"),
            ("e/", ""),
            ("e/x", ""),
        ]);
        // What was a file is a folder, and the other way round.
        lay(&[("d/", ""), ("d/in", ""), ("e", "file")]);
        assert!(dir.path().join("d/in").is_file() && dir.path().join("e").is_file());
        let there = |name: &str| dir.path().join(name).exists();
        assert!(!there("a/one") && there("a/two") && !there("b/old") && there("b/new") && !there("c"));
    }

    #[test]
    fn a_whiteout_does_not_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        let (outside, root) = (dir.path().join("outside"), dir.path().join("root"));
        fs::create_dir_all(&outside).unwrap();
        fs::create_dir_all(&root).unwrap();
        fs::write(outside.join("kept"), "x").unwrap();
        symlink(&outside, root.join("link")).unwrap();
        let evil = layer(&[("link/.wh.kept", ""), ("link/.wh..wh..opq", ""), (".wh...", ""), (".wh.", "")]);
        hide(&evil[..], &root).unwrap();
        apply(&evil[..], &root).unwrap();
        assert!(outside.join("kept").exists() && root.exists());
        // Nor is anything laid through a link that leads out.
        apply(&layer(&[("link/kept", "y")])[..], &root).unwrap_err();
        assert_eq!(fs::read(outside.join("kept")).unwrap(), b"x");
    }

    #[test]
    fn cpio_reads_the_initrd() {
        let dir = tempfile::tempdir().unwrap();
        let rootfs = dir.path().join("rootfs");
        fs::create_dir_all(rootfs.join("bin")).unwrap();
        fs::write(rootfs.join("bin/busybox"), "four").unwrap();
        symlink("busybox", rootfs.join("bin/sh")).unwrap();
        symlink("busybox", rootfs.join("bin/poweroff")).unwrap();
        let image = Image {
            name: "x".into(),
            id: "y".into(),
            config: Config::default(),
            archive: PathBuf::new(),
            rootfs: rootfs.clone(),
        };
        let path = dir.path().join("initrd");
        image.initrd(&path).unwrap();
        let list = Command::new("cpio").arg("-tv").stdin(File::open(&path).unwrap()).output().unwrap();
        let list = String::from_utf8_lossy(&list.stdout).into_owned();
        for part in ["bin/sh -> busybox", "5,   1", "dev/console", "bin/busybox"] {
            assert!(list.contains(part), "{part} in {list}");
        }
        fs::remove_file(rootfs.join("bin/poweroff")).unwrap();
        assert!(image.initrd(&path).unwrap_err().contains("no `poweroff`"));
    }
}
