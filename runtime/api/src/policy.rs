//! What a container's request says about its end and its log: restart policy and log bounds.

use serde::{Deserialize, Serialize};

/// Whether the daemon starts a container again when it has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// When its exit status is not 0.
    OnFailure {
        /// At most so often in a row; 0: without end.
        #[serde(default)]
        max_retries: u32,
    },
    /// Always, and when the daemon starts even if it was stopped by hand.
    Always,
    /// Always, unless it was stopped by hand.
    UnlessStopped,
}

impl RestartPolicy {
    /// Whether it is [`Self::No`].
    pub fn is_no(&self) -> bool {
        *self == Self::No
    }

    /// Reads `no`, `on-failure`, `on-failure:3`, `always`, `unless-stopped`.
    ///
    /// # Errors
    /// A sentence that says what is possible.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(match text.split_once(':') {
            None if text == "no" => Self::No,
            None if text == "always" => Self::Always,
            None if text == "unless-stopped" => Self::UnlessStopped,
            None if text == "on-failure" => Self::OnFailure { max_retries: 0 },
            Some(("on-failure", count)) if count.bytes().all(|b| b.is_ascii_digit()) => {
                let max_retries = count.parse().map_err(|_| format!("{count:?} is no number of attempts"))?;
                Self::OnFailure { max_retries }
            }
            _ => {
                return Err(format!(
                    "{text:?} is no restart policy; there are no, on-failure, on-failure:N, always, unless-stopped"
                ));
            }
        })
    }
}

impl std::fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure { max_retries: 0 } => f.write_str("on-failure"),
            Self::OnFailure { max_retries } => write!(f, "on-failure:{max_retries}"),
            Self::Always => f.write_str("always"),
            Self::UnlessStopped => f.write_str("unless-stopped"),
        }
    }
}

/// Bounds of a container's log on the host's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogOptions {
    /// Bytes of one file, [`Self::MIN_SIZE`] to [`Self::MAX_SIZE`].
    pub max_size: u64,
    /// Files that are kept, 1 to [`Self::MAX_FILES`].
    pub max_file: u32,
}

impl Default for LogOptions {
    /// 5 files of 20 MiB: a container that writes without end costs 100 MiB. (Docker's own default has no bound.)
    fn default() -> Self {
        Self { max_size: 20 << 20, max_file: 5 }
    }
}

impl LogOptions {
    /// Least bytes of a file: a record of the log is up to 64 KiB.
    pub const MIN_SIZE: u64 = 64 << 10;
    /// Most bytes of a file.
    pub const MAX_SIZE: u64 = 1 << 40;
    /// Most files.
    pub const MAX_FILES: u32 = 1000;

    /// Whether nothing was said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it is within its bounds.
    ///
    /// # Errors
    /// A sentence that says what is possible.
    pub fn check(&self) -> Result<(), String> {
        if !(Self::MIN_SIZE..=Self::MAX_SIZE).contains(&self.max_size) {
            return Err(format!("max-size={} is not possible: from 64k to 1t", self.max_size));
        }
        if !(1..=Self::MAX_FILES).contains(&self.max_file) {
            return Err(format!("max-file={} is not possible: from 1 to {}", self.max_file, Self::MAX_FILES));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_read_as_they_are_written() {
        for text in ["no", "on-failure", "on-failure:3", "always", "unless-stopped"] {
            assert_eq!(RestartPolicy::parse(text).unwrap().to_string(), text);
        }
        for bad in [
            "",
            "never",
            "always:3",
            "on-failure:",
            "on-failure:-1",
            "on-failure:+1",
            "on-failure:9999999999",
        ] {
            assert!(RestartPolicy::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn policies_travel_by_name() {
        let policy = RestartPolicy::OnFailure { max_retries: 3 };
        let json = serde_json::to_string(&policy).unwrap();
        assert_eq!(json, r#"{"name":"on-failure","max_retries":3}"#);
        assert_eq!(serde_json::from_str::<RestartPolicy>(&json).unwrap(), policy);
    }

    #[test]
    fn logs_have_bounds() {
        assert!(LogOptions::default().check().is_ok());
        assert!(LogOptions { max_size: 1, ..LogOptions::default() }.check().is_err());
        assert!(LogOptions { max_file: 0, ..LogOptions::default() }.check().is_err());
    }
}
