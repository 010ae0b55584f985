//! `registries.json`: which registries may be spoken to in the clear, and which have mirrors.

use crate::endpoint::Endpoint;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What the administrator says of registries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Registries {
    /// Registries, `host[:port]`, that are spoken to over plain HTTP.
    #[serde(default)]
    insecure_registries: Vec<String>,
    /// For each registry the addresses (`https://host[:port]`) that are asked first when pulling.
    #[serde(default)]
    mirrors: BTreeMap<String, Vec<String>>,
    /// Where this was read from; certificates are beside it.
    #[serde(skip)]
    dir: Option<PathBuf>,
}

/// Why the file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It can't be read.
    #[error("cannot read {0:?}: {1}")]
    Read(PathBuf, #[source] std::io::Error),
    /// It is not what it should be.
    #[error("{0:?} can't be used: {1}")]
    Json(PathBuf, #[source] serde_json::Error),
    /// A mirror.
    #[error("{0:?} can't be used: {1:?} is no mirror's address, as in https://mirror.example:5000")]
    Mirror(PathBuf, String),
}

/// Where the configuration is unless `VIAL_CONFIG_DIR` says otherwise.
const DEFAULT_DIR: &str = "/etc/vial";
/// Where people keep certificates already.
const DOCKER_DIR: &str = "/etc/docker";
const FILE: &str = "registries.json";

impl Registries {
    /// Reads the file of this machine; a missing one says nothing. It is read for each pull, so a change counts at once.
    ///
    /// # Errors
    /// When it is there and can't be used.
    pub fn of_this_machine() -> Result<Self, ConfigError> {
        let dir = std::env::var_os("VIAL_CONFIG_DIR").filter(|dir| !dir.is_empty());
        Self::read(&dir.map_or_else(|| DEFAULT_DIR.into(), PathBuf::from))
    }

    /// Reads the file of a folder.
    ///
    /// # Errors
    /// When it is there and can't be used.
    pub fn read(dir: &Path) -> Result<Self, ConfigError> {
        let path = dir.join(FILE);
        let mut read = match std::fs::read(&path) {
            Ok(bytes) => Self::parse(&bytes).map_err(|error| ConfigError::Json(path.clone(), error))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::default(),
            Err(error) => return Err(ConfigError::Read(path, error)),
        };
        if let Some(bad) = read.mirrors.values().flatten().find(|url| Endpoint::mirror(url).is_none()) {
            return Err(ConfigError::Mirror(path, bad.clone()));
        }
        read.dir = Some(dir.to_owned());
        Ok(read)
    }

    /// Parses its bytes.
    ///
    /// # Errors
    /// When they are not what they should be.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// Whether a registry may be spoken to over plain HTTP.
    pub fn is_insecure(&self, registry: &str) -> bool {
        self.insecure_registries.iter().any(|listed| listed == registry)
    }

    /// Mirrors of a registry, the first to be asked first.
    pub fn mirrors(&self, registry: &str) -> Vec<Endpoint> {
        let urls = self.mirrors.get(registry).map(Vec::as_slice).unwrap_or_default();
        urls.iter().filter_map(|url| Endpoint::mirror(url)).collect()
    }

    /// Folders that may hold a registry's certificates: ours, then Docker's.
    pub fn certificate_dirs(&self, registry: &str) -> Vec<PathBuf> {
        // A registry's name is checked before it gets here; a folder's name it must be in any case.
        if registry.contains('/') || registry.starts_with('.') {
            return Vec::new();
        }
        let Some(own) = &self.dir else { return Vec::new() };
        [own.as_path(), Path::new(DOCKER_DIR)].iter().map(|dir| dir.join("certs.d").join(registry)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_says_nothing_and_a_wrong_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Registries::read(dir.path()).unwrap().mirrors("docker.io"), []);
        let file = dir.path().join(FILE);
        std::fs::write(&file, r#"{"mirrors":{"docker.io":["https://m.io","http://127.0.0.1:5000"]}}"#)
            .unwrap();
        let mirrors = Registries::read(dir.path()).unwrap().mirrors("docker.io");
        assert_eq!(mirrors.iter().map(|mirror| mirror.scheme).collect::<Vec<_>>(), ["https", "http"]);
        for bad in [r#"{"mirorrs":{}}"#, "[", r#"{"mirrors":{"docker.io":["m.io"]}}"#] {
            std::fs::write(&file, bad).unwrap();
            let error = Registries::read(dir.path()).unwrap_err().to_string();
            assert!(error.contains("registries.json"), "{error}");
        }
    }

    #[test]
    fn certificates_are_only_sought_in_folders_of_that_name() {
        let dir = tempfile::tempdir().unwrap();
        let registries = Registries::read(dir.path()).unwrap();
        assert_eq!(registries.certificate_dirs("r.io:5000")[0], dir.path().join("certs.d/r.io:5000"));
        assert!(registries.certificate_dirs("../..").is_empty());
        assert!(registries.certificate_dirs("a/b").is_empty());
    }
}
