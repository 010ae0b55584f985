//! An image's configuration: parsed, and checked for whether this machine can run it.

use oci_spec::image::{ImageConfiguration, Os};
use serde_json::Value;

use crate::digest::{Digest, DigestError};
use crate::limits;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It does not parse.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// A diff_id does not parse.
    #[error("a diff_id is unusable: {0}")]
    Digest(#[from] DigestError),
    /// Another operating system.
    #[error("it is for the operating system {0:?}; Vial runs linux")]
    Os(String),
    /// Another processor.
    #[error("it is for {0:?} processors; this machine is {host}", host = host_architecture())]
    Architecture(String),
    /// More or fewer layers than the manifest.
    #[error("it has {config} diff_ids, the manifest has {manifest} layers")]
    LayerCount {
        /// In the configuration.
        config: usize,
        /// In the manifest.
        manifest: usize,
    },
    /// Too many layers.
    #[error("it has more than {} layers", limits::MAX_LAYERS)]
    Layers,
}

/// This machine's processor as Go and OCI call it.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Parses a configuration, and its diff_ids. An image without layers is allowed: it is an empty tree.
pub fn parse(bytes: &[u8]) -> Result<(ImageConfiguration, Vec<Digest>), ConfigError> {
    // Docker writes `null` where OCI leaves a field out.
    let mut value: Value = serde_json::from_slice(bytes)?;
    drop_nulls(&mut value);
    let config: ImageConfiguration = serde_json::from_value(value)?;
    if *config.os() != Os::Linux {
        return Err(ConfigError::Os(config.os().to_string()));
    }
    if config.architecture().to_string() != host_architecture() {
        return Err(ConfigError::Architecture(config.architecture().to_string()));
    }
    let diff_ids = config.rootfs().diff_ids();
    if diff_ids.len() > limits::MAX_LAYERS {
        return Err(ConfigError::Layers);
    }
    let diff_ids = diff_ids.iter().map(|id| id.parse()).collect::<Result<_, _>>()?;
    Ok((config, diff_ids))
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config(os: &str, architecture: &str) -> String {
        format!(
            r#"{{"os":"{os}","architecture":"{architecture}","config":{{"Entrypoint":null,"Cmd":["sh"],"Volumes":null,
            "Env":["A=b"],"Hostname":"","Labels":null,"ExposedPorts":{{"80/tcp":{{}}}}}},
            "rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
            Digest::of(b"x")
        )
    }

    #[test]
    fn dockers_nulls_are_absent_fields() {
        let (config, diff_ids) = parse(config("linux", host_architecture()).as_bytes()).unwrap();
        let inner = config.config().as_ref().unwrap();
        assert_eq!(inner.cmd().as_deref(), Some(&["sh".to_owned()][..]));
        assert_eq!(inner.entrypoint(), &None);
        assert_eq!(diff_ids, [Digest::of(b"x")]);
    }

    #[test]
    fn what_this_machine_can_not_run_is_refused() {
        assert!(matches!(parse(config("windows", "amd64").as_bytes()), Err(ConfigError::Os(_))));
        assert!(matches!(parse(config("linux", "s390x").as_bytes()), Err(ConfigError::Architecture(_))));
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(text in "[{}\\[\\]\":,a-z0-9]{0,80}") {
            let _ = parse(text.as_bytes());
        }
    }
}
