//! `import`: the configuration of an image that is made from a root file system.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::archive::host_architecture;
use crate::digest::Digest;

/// What an imported image runs and how, in the words of a Dockerfile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportConfig {
    /// `CMD`.
    pub cmd: Option<Vec<String>>,
    /// `ENTRYPOINT`.
    pub entrypoint: Option<Vec<String>>,
    /// `ENV`, each `NAME=value`; later ones replace earlier ones of the same name.
    pub env: Vec<String>,
    /// `WORKDIR`, absolute.
    pub working_dir: Option<String>,
    /// `USER`: `name|uid[:group|gid]`.
    pub user: Option<String>,
    /// `EXPOSE`: `port/protocol`.
    pub exposed_ports: Vec<String>,
    /// `VOLUME`.
    pub volumes: Vec<String>,
    /// `LABEL`.
    pub labels: BTreeMap<String, String>,
    /// `STOPSIGNAL`.
    pub stop_signal: Option<String>,
    /// What the image's history says.
    pub message: Option<String>,
}

/// Why a change was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Another instruction.
    #[error(
        "{0:?} can't be applied to an import: use CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME or WORKDIR"
    )]
    Unknown(String),
    /// Its argument.
    #[error("{instruction} {argument:?} is not valid: {why}")]
    Argument {
        /// The instruction.
        instruction: String,
        /// What follows it.
        argument: String,
        /// Why.
        why: &'static str,
    },
}

impl ImportConfig {
    /// Reads changes as `docker import --change` has them, one instruction each.
    pub fn parse<S: AsRef<str>>(changes: &[S]) -> Result<Self, ChangeError> {
        let mut config = ImportConfig::default();
        for change in changes {
            config.apply(change.as_ref())?;
        }
        Ok(config)
    }

    fn apply(&mut self, change: &str) -> Result<(), ChangeError> {
        let change = change.trim();
        let (instruction, argument) = change.split_once(char::is_whitespace).unwrap_or((change, ""));
        let (instruction, argument) = (instruction.to_ascii_uppercase(), argument.trim());
        let wrong = |why| ChangeError::Argument {
            instruction: instruction.clone(),
            argument: argument.to_owned(),
            why,
        };
        if argument.contains('\0') {
            return Err(wrong("it has a NUL"));
        }
        let needed = || if argument.is_empty() { Err(wrong("it is empty")) } else { Ok(argument.to_owned()) };
        match instruction.as_str() {
            "CMD" | "ENTRYPOINT" => {
                let words = command(argument);
                // JSON can write what a line can't.
                if words.iter().any(|word| word.contains('\0')) {
                    return Err(wrong("it has a NUL"));
                }
                let place = if instruction == "CMD" { &mut self.cmd } else { &mut self.entrypoint };
                *place = Some(words);
            }
            "ENV" => {
                for (name, value) in
                    pairs(argument).ok_or_else(|| wrong("expected NAME=value or NAME value"))?
                {
                    self.env.retain(|old| !old.starts_with(&format!("{name}=")));
                    self.env.push(format!("{name}={value}"));
                }
            }
            "LABEL" => self.labels.extend(pairs(argument).ok_or_else(|| wrong("expected name=value"))?),
            "WORKDIR" if argument.starts_with('/') => self.working_dir = Some(argument.to_owned()),
            "WORKDIR" => return Err(wrong("it is not an absolute path")),
            "USER" => self.user = Some(needed()?),
            "STOPSIGNAL" => self.stop_signal = Some(needed()?),
            "EXPOSE" => {
                for port in needed()?.split_whitespace() {
                    self.exposed_ports
                        .push(exposed(port).ok_or_else(|| wrong("expected port or port/protocol"))?);
                }
            }
            "VOLUME" => {
                let argument = needed()?;
                let list = serde_json::from_str::<Vec<String>>(&argument);
                self.volumes.extend(list.unwrap_or_else(|_| words(&argument)));
            }
            _ => return Err(ChangeError::Unknown(change.to_owned())),
        }
        Ok(())
    }
}

/// JSON form, or shell form as Docker stores it.
fn command(argument: &str) -> Vec<String> {
    if argument.is_empty() {
        return Vec::new();
    }
    serde_json::from_str(argument)
        .unwrap_or_else(|_| vec!["/bin/sh".to_owned(), "-c".to_owned(), argument.to_owned()])
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn exposed(port: &str) -> Option<String> {
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    number.parse::<u16>().ok().filter(|&number| number > 0)?;
    matches!(protocol, "tcp" | "udp" | "sctp").then(|| format!("{number}/{protocol}"))
}

/// `a=b c="d e"`, or the old form `a b`.
fn pairs(argument: &str) -> Option<Vec<(String, String)>> {
    let first = argument.split_whitespace().next()?;
    if !first.contains('=') {
        let (name, value) = argument.split_once(char::is_whitespace)?;
        return Some(vec![(name.to_owned(), unquote(value.trim()))]);
    }
    let (mut pairs, mut word, mut quote, mut escaped) = (Vec::new(), String::new(), None, false);
    for c in argument.chars().chain([' ']) {
        match (c, quote) {
            _ if escaped => (escaped, _) = (false, word.push(c)),
            ('\\', None | Some('"')) => escaped = true,
            (_, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => quote = Some(c),
            (c, None) if c.is_whitespace() => {
                if !word.is_empty() {
                    let (name, value) = word.split_once('=').filter(|(name, _)| !name.is_empty())?;
                    pairs.push((name.to_owned(), value.to_owned()));
                    word.clear();
                }
            }
            _ => word.push(c),
        }
    }
    (quote.is_none() && !escaped && word.is_empty()).then_some(pairs)
}

fn unquote(text: &str) -> String {
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    inner.unwrap_or(text).to_owned()
}

/// The configuration of an image with this one layer, as JSON.
pub fn configuration(changes: &ImportConfig, diff_id: Digest, now: SystemTime) -> String {
    let created = rfc3339(now);
    let mut config = Map::new();
    let mut set = |name: &str, value: Value| {
        let empty = match &value {
            Value::Array(items) => items.is_empty() && name == "Env",
            Value::Object(fields) => fields.is_empty(),
            Value::Null => true,
            _ => false,
        };
        if !empty {
            config.insert(name.to_owned(), value);
        }
    };
    let keys = |names: &[String]| -> Value { names.iter().map(|name| (name.clone(), json!({}))).collect() };
    set("Cmd", json!(changes.cmd));
    set("Entrypoint", json!(changes.entrypoint));
    set("Env", json!(changes.env));
    set("WorkingDir", json!(changes.working_dir));
    set("User", json!(changes.user));
    set("ExposedPorts", keys(&changes.exposed_ports));
    set("Volumes", keys(&changes.volumes));
    set("Labels", json!(changes.labels));
    set("StopSignal", json!(changes.stop_signal));
    let comment = changes.message.as_deref().unwrap_or("imported from a root file system");
    let document = json!({
        "created": created,
        "architecture": host_architecture(),
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": [diff_id.to_string()] },
        "history": [{ "created": created, "comment": comment }],
    });
    document.to_string()
}

/// A time as images' configurations have it: RFC 3339 in UTC, whole seconds. Days to date: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
pub fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn changes_are_read_as_docker_reads_them() {
        let config = ImportConfig::parse(&[
            r#"CMD ["sh", "-c", "echo hi"]"#,
            "entrypoint exec top",
            "ENV A=b C=\"d e\"",
            "ENV A replaced value",
            "WORKDIR /srv",
            "USER 1000:1000",
            "EXPOSE 80 53/udp",
            "LABEL x=y",
            "VOLUME [\"/data\"]",
        ])
        .unwrap();
        assert_eq!(config.cmd.as_deref(), Some(&["sh", "-c", "echo hi"].map(String::from)[..]));
        assert_eq!(config.entrypoint.as_deref(), Some(&["/bin/sh", "-c", "exec top"].map(String::from)[..]));
        assert_eq!(config.env, ["C=d e", "A=replaced value"]);
        assert_eq!(config.exposed_ports, ["80/tcp", "53/udp"]);
        assert_eq!(config.volumes, ["/data"]);
    }

    #[test]
    fn other_changes_are_refused() {
        for change in ["RUN ls", "ENV", "WORKDIR srv", "EXPOSE 0", "EXPOSE x/tcp", "USER", "", "ENV a=\"b"] {
            assert!(ImportConfig::parse(&[change]).is_err(), "{change:?}");
        }
    }

    #[test]
    fn the_configuration_parses_as_an_image() {
        let config = ImportConfig::parse(&["CMD [\"sh\"]", "ENV A=b", "EXPOSE 80", "LABEL a=b"]).unwrap();
        let time = UNIX_EPOCH + Duration::from_secs(1_709_210_096);
        let json = configuration(&config, Digest::of(b""), time);
        let (parsed, diff_ids) = crate::archive::parse_config(json.as_bytes()).unwrap();
        assert_eq!(parsed.created().as_deref(), Some("2024-02-29T12:34:56Z"));
        assert_eq!(diff_ids, [Digest::of(b"")]);
        assert_eq!(parsed.config().as_ref().unwrap().env().as_deref(), Some(&["A=b".to_owned()][..]));
    }
}
