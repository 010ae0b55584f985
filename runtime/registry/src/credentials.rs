//! Docker's file of credentials, and the helpers that it names.
//!
//! `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`: `auths` holds credentials (base64, so readable by whoever can
//! read the file), `credHelpers` and `credsStore` name programs `docker-credential-<name>` that keep them better. People have
//! such a file already, and other tools share it: whatever else is in it stays as it is. Only the command line uses
//! this, as the user who runs it.

use crate::auth::Credential;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Bytes of the file and of a helper's answer that are read.
const MAX_BYTES: u64 = 1 << 20;
/// Under which name Docker Hub's credentials are kept.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// What helpers answer as the user's name when they have an identity token.
const TOKEN_USER: &str = "<token>";

/// What goes wrong with credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The file.
    #[error("cannot {what} {path:?}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file's content.
    #[error("{path:?} can't be used: {why}")]
    Content {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A helper.
    #[error("the credential helper {helper} failed to {what}: {why}")]
    Helper {
        /// Its program.
        helper: String,
        /// What it was to do.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// Nowhere to look.
    #[error("neither DOCKER_CONFIG nor HOME is set, so there is no file for credentials")]
    NoHome,
}

type Result<T> = std::result::Result<T, CredentialError>;

/// Docker's configuration file.
#[derive(Debug)]
pub struct DockerConfig {
    path: PathBuf,
    content: Map<String, Value>,
}

impl DockerConfig {
    /// The user's; a missing file is empty.
    ///
    /// # Errors
    /// When it is there and can't be used.
    pub fn of_user() -> Result<Self> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let dir = set("DOCKER_CONFIG").or_else(|| Some(set("HOME")?.join(".docker")));
        Self::read(dir.ok_or(CredentialError::NoHome)?.join("config.json"))
    }

    /// Reads a file; a missing one is empty.
    ///
    /// # Errors
    /// When it is there and can't be used.
    pub fn read(path: PathBuf) -> Result<Self> {
        let mut bytes = Vec::new();
        let read = std::fs::File::open(&path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes));
        match read {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(CredentialError::File { what: "read", path, source }),
            Ok(_) => {}
        }
        if bytes.trim_ascii().is_empty() {
            return Ok(Self { path, content: Map::new() });
        }
        match serde_json::from_slice(&bytes) {
            Ok(content) => Ok(Self { path, content }),
            Err(error) => Err(CredentialError::Content { path, why: error.to_string() }),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The helper that keeps a registry's credentials, if one does.
    pub fn helper(&self, registry: &str) -> Option<&str> {
        let own = self
            .content
            .get("credHelpers")
            .and_then(|helpers| helpers.get(registry).or_else(|| helpers.get(key(registry)))?.as_str());
        own.or_else(|| self.content.get("credsStore")?.as_str()).filter(|name| !name.is_empty())
    }

    /// What the user has for a registry.
    ///
    /// # Errors
    /// When a helper fails, or what is stored makes no sense.
    pub fn credential(&self, registry: &str) -> Result<Option<Credential>> {
        if let Some(helper) = self.helper(registry)
            && let Some(found) = ask(helper, key(registry))?
        {
            return Ok(Some(found));
        }
        let Some(auths) = self.content.get("auths").and_then(Value::as_object) else { return Ok(None) };
        let exact = auths.get_key_value(key(registry));
        let entry = exact.or_else(|| auths.iter().find(|(key, _)| host(key) == host(self::key(registry))));
        let Some((name, entry)) = entry else { return Ok(None) };
        let text = |field: &str| entry.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
        if let Some(token) = text("identitytoken") {
            return Ok(Some(Credential::IdentityToken(token.to_owned())));
        }
        let Some(auth) = text("auth") else {
            let pair = text("username").zip(text("password"));
            return Ok(pair.map(|(username, password)| password_of(username, password)));
        };
        let decoded = STANDARD.decode(auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        match decoded.as_deref().and_then(|text| text.split_once(':')) {
            // Docker pads some with NULs.
            Some((username, password)) => Ok(Some(password_of(username, password.trim_end_matches('\0')))),
            None => {
                let why = format!("the entry of {name} is no user name and password in base64");
                Err(CredentialError::Content { path: self.path.clone(), why })
            }
        }
    }

    /// Keeps a credential, with the helper if there is one, else in the file. Returns the helper.
    ///
    /// # Errors
    /// When neither can be written.
    pub fn store(&mut self, registry: &str, username: &str, password: &str) -> Result<Option<String>> {
        let name = key(registry);
        if let Some(helper) = self.helper(registry).map(str::to_owned) {
            let entry = json!({ "ServerURL": name, "Username": username, "Secret": password });
            run(&helper, "store", &entry.to_string())?;
            return Ok(Some(helper));
        }
        let auth = STANDARD.encode(format!("{username}:{password}"));
        let auths = self.content.entry("auths").or_insert_with(|| json!({}));
        match auths.as_object_mut() {
            Some(auths) => auths.insert(name.to_owned(), json!({ "auth": auth })),
            None => {
                let why = "its auths are no object".to_owned();
                return Err(CredentialError::Content { path: self.path.clone(), why });
            }
        };
        self.write()?;
        Ok(None)
    }

    /// Forgets a credential; whether there was one.
    ///
    /// # Errors
    /// When it can't be erased.
    pub fn erase(&mut self, registry: &str) -> Result<bool> {
        let mut there = false;
        if let Some(helper) = self.helper(registry).map(str::to_owned)
            && ask(&helper, key(registry))?.is_some()
        {
            run(&helper, "erase", key(registry))?;
            there = true;
        }
        if let Some(auths) = self.content.get_mut("auths").and_then(Value::as_object_mut) {
            let before = auths.len();
            auths.retain(|name, _| name != key(registry) && host(name) != host(key(registry)));
            if auths.len() != before {
                there = true;
                self.write()?;
            }
        }
        Ok(there)
    }

    /// Replaces the file as a whole, readable by its owner only.
    fn write(&self) -> Result<()> {
        // Through a symlink, as people who keep such files elsewhere have it.
        let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let failed = |source| CredentialError::File { what: "write", path: path.clone(), source };
        let dir = path.parent().unwrap_or(Path::new("/"));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let new = dir.join(format!(".config.json.{}", std::process::id()));
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&new);
        let written = file.and_then(|mut file| {
            let text = serde_json::to_string_pretty(&self.content)?;
            file.write_all(text.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            std::fs::rename(&new, &path)
        });
        written.map_err(|error| {
            let _ = std::fs::remove_file(&new);
            failed(error)
        })
    }
}

fn password_of(username: &str, password: &str) -> Credential {
    Credential::Password { username: username.to_owned(), password: password.to_owned() }
}

/// Under which name a registry's credentials are kept.
fn key(registry: &str) -> &str {
    if registry == "docker.io" { HUB_KEY } else { registry }
}

/// Names of old have a scheme and a path around the host.
fn host(key: &str) -> &str {
    let bare = key.split_once("://").map_or(key, |(_, rest)| rest);
    bare.split('/').next().unwrap_or(bare)
}

/// What a helper has for a server.
fn ask(helper: &str, server: &str) -> Result<Option<Credential>> {
    let Some(answer) = run(helper, "get", server)? else { return Ok(None) };
    let value: Value = serde_json::from_str(&answer).map_err(|error| CredentialError::Helper {
        helper: program(helper),
        what: "get",
        why: format!("its answer makes no sense: {error}"),
    })?;
    let text = |name: &str| value[name].as_str().unwrap_or_default();
    Ok(match (text("Username"), text("Secret")) {
        (_, "") => None,
        (TOKEN_USER, secret) => Some(Credential::IdentityToken(secret.to_owned())),
        (username, secret) => Some(password_of(username, secret)),
    })
}

fn program(helper: &str) -> String {
    format!("docker-credential-{helper}")
}

/// Runs a helper (docker/docker-credential-helpers: the argument says what, standard input to whom); `None`: it has nothing.
fn run(helper: &str, what: &'static str, input: &str) -> Result<Option<String>> {
    let failed = |why: String| CredentialError::Helper { helper: program(helper), what, why };
    if helper.contains('/') {
        return Err(failed("its name is no name of a program".into()));
    }
    let mut child = Command::new(program(helper))
        .arg(what)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // It may have to ask its user something.
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read its input has failed for a reason that it tells itself.
        let _ = stdin.write_all(input.as_bytes());
    }
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_BYTES).read_to_end(&mut answer).map_err(|error| failed(error.to_string()))?;
    }
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    match status.success() {
        true => Ok(Some(answer)),
        false if answer.to_ascii_lowercase().contains("not found") => Ok(None),
        false => Err(failed(crate::error::clean(&answer))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> (tempfile::TempDir, DockerConfig) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        let config = DockerConfig::read(path).unwrap();
        (dir, config)
    }

    fn pair(username: &str, password: &str) -> Option<Credential> {
        Some(password_of(username, password))
    }

    #[test]
    fn credentials_are_found_under_the_names_that_tools_give_them() {
        // "me:pw:x", "hub:pw"
        let (_dir, config) = config(
            r#"{"auths":{"r.io:5000":{"auth":"bWU6cHc6eA=="},"https://index.docker.io/v1/":{"auth":"aHViOnB3"},
                "https://old.io/v2/":{"username":"o","password":"p"},"t.io":{"identitytoken":"tok"},"bad.io":{"auth":"!"}}}"#,
        );
        assert_eq!(config.credential("r.io:5000").unwrap(), pair("me", "pw:x"));
        assert_eq!(config.credential("docker.io").unwrap(), pair("hub", "pw"));
        assert_eq!(config.credential("old.io").unwrap(), pair("o", "p"));
        assert_eq!(config.credential("t.io").unwrap(), Some(Credential::IdentityToken("tok".into())));
        assert_eq!(config.credential("r.io").unwrap(), None, "another port is another registry");
        assert!(config.credential("bad.io").unwrap_err().to_string().contains("bad.io"));
    }

    #[test]
    fn what_is_stored_is_found_and_forgotten_and_the_rest_stays() {
        use std::os::unix::fs::PermissionsExt;
        let (dir, mut config) = config(r#"{"psFormat":"x","auths":{"other.io":{"auth":"bWU6cHc="}}}"#);
        assert_eq!(config.store("docker.io", "me", "secret").unwrap(), None);
        let path = dir.path().join("config.json");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut again = DockerConfig::read(path.clone()).unwrap();
        assert_eq!(again.credential("docker.io").unwrap(), pair("me", "secret"));
        assert!(again.erase("docker.io").unwrap());
        assert!(!again.erase("docker.io").unwrap());
        let last: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(last["psFormat"], "x");
        assert!(last["auths"]["other.io"].is_object());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no half-written file stays");
    }

    #[test]
    fn a_missing_file_has_nothing_and_a_broken_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/config.json");
        let mut config = DockerConfig::read(path.clone()).unwrap();
        assert_eq!(config.credential("r.io").unwrap(), None);
        config.store("r.io", "me", "pw").unwrap();
        std::fs::write(&path, "{").unwrap();
        assert!(DockerConfig::read(path).unwrap_err().to_string().contains("config.json"));
    }

    #[test]
    fn a_helper_that_is_missing_or_no_program_is_named() {
        let (_dir, config) =
            config(r#"{"credHelpers":{"r.io":"vial-no-such-helper","e.io":"../../bin/sh"}}"#);
        for registry in ["r.io", "e.io"] {
            assert!(config.credential(registry).unwrap_err().to_string().contains("docker-credential-"));
        }
        assert_eq!(config.credential("other.io").unwrap(), None);
    }
}
