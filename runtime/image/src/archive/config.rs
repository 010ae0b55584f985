//! An image's configuration: parsed, and checked for whether this machine can run it.

use oci_spec::image::{ImageConfiguration, Os};
use serde_json::Value;

use crate::digest::{Digest, DigestError};
use crate::limits;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is no JSON.
    #[error("it is not valid JSON: {0}")]
    Json(#[source] serde_json::Error),
    /// It is something else than an object.
    #[error("it {0} and not an object")]
    NoObject(&'static str),
    /// A part is not what it must be.
    #[error("its {name:?} {problem}; the OCI image specification wants {wanted}")]
    Field {
        /// Path of the part.
        name: &'static str,
        /// "is missing" or what it is.
        problem: &'static str,
        /// What it must be.
        wanted: &'static str,
    },
    /// Something rarer.
    #[error("it is not as the OCI image specification has it: {0}")]
    Shape(#[source] serde_json::Error),
    /// A NUL byte, which no process can be given.
    #[error("its {0} holds a NUL byte, which no process can be given")]
    Nul(&'static str),
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
    let mut value: Value = serde_json::from_slice(bytes).map_err(ConfigError::Json)?;
    drop_nulls(&mut value);
    check_shape(&value)?;
    let config: ImageConfiguration = serde_json::from_value(value).map_err(ConfigError::Shape)?;
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
    check_nul(&config)?;
    Ok((config, diff_ids))
}

/// What a part must be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Texts,
    Object,
}

/// The parts that we or the library read, parents first, and whether they must be there. Judged here, because what a
/// deserialiser says of them is about its own types.
const PARTS: [(&str, Kind, bool); 14] = [
    ("/architecture", Kind::Text, true),
    ("/os", Kind::Text, true),
    ("/created", Kind::Text, false),
    ("/rootfs", Kind::Object, true),
    ("/rootfs/type", Kind::Text, true),
    ("/rootfs/diff_ids", Kind::Texts, true),
    ("/config", Kind::Object, false),
    ("/config/User", Kind::Text, false),
    ("/config/WorkingDir", Kind::Text, false),
    ("/config/StopSignal", Kind::Text, false),
    ("/config/Env", Kind::Texts, false),
    ("/config/Entrypoint", Kind::Texts, false),
    ("/config/Cmd", Kind::Texts, false),
    ("/config/Labels", Kind::Object, false),
];

fn check_shape(config: &Value) -> Result<(), ConfigError> {
    let problem = |value: &Value| match value {
        Value::Null => "is null",
        Value::Bool(_) => "is a truth value",
        Value::Number(_) => "is a number",
        Value::String(_) => "is a text",
        Value::Array(_) => "is a list",
        Value::Object(_) => "is an object",
    };
    if !config.is_object() {
        return Err(ConfigError::NoObject(problem(config)));
    }
    for (path, kind, needed) in PARTS {
        let name = path.trim_start_matches('/');
        let wanted = match kind {
            Kind::Text => "a text",
            Kind::Texts => "a list of texts",
            Kind::Object => "an object",
        };
        match config.pointer(path) {
            None if needed => return Err(ConfigError::Field { name, problem: "is missing", wanted }),
            None => {}
            Some(value) => {
                let texts = |list: &Vec<Value>| list.iter().all(Value::is_string);
                let fits = match kind {
                    Kind::Text => value.is_string(),
                    Kind::Texts => value.as_array().is_some_and(texts),
                    Kind::Object => value.is_object(),
                };
                if !fits {
                    let problem = if value.is_array() && kind == Kind::Texts {
                        "has an element that is no text"
                    } else {
                        problem(value)
                    };
                    return Err(ConfigError::Field { name, problem, wanted });
                }
            }
        }
    }
    Ok(())
}

/// Refused here and not at each start: such an image can never run.
fn check_nul(config: &ImageConfiguration) -> Result<(), ConfigError> {
    let Some(config) = config.config() else { return Ok(()) };
    let nul = |texts: &Option<Vec<String>>| texts.iter().flatten().any(|text| text.contains('\0'));
    let one = |text: &Option<String>| text.as_ref().is_some_and(|text| text.contains('\0'));
    for (name, bad) in [
        ("Entrypoint", nul(config.entrypoint())),
        ("Cmd", nul(config.cmd())),
        ("Env", nul(config.env())),
        ("User", one(config.user())),
        ("WorkingDir", one(config.working_dir())),
    ] {
        if bad {
            return Err(ConfigError::Nul(name));
        }
    }
    Ok(())
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

    #[test]
    fn what_is_wrong_is_said_in_the_specifications_words() {
        let says = |text: &str| parse(text.as_bytes()).unwrap_err().to_string();
        let whole = |rootfs: &str, config: &str| {
            format!(
                r#"{{"os":"linux","architecture":"{}","rootfs":{rootfs},"config":{config}}}"#,
                host_architecture()
            )
        };
        let layers = r#"{"type":"layers","diff_ids":[]}"#;
        assert_eq!(
            says(&whole("[]", "{}")),
            r#"its "rootfs" is a list; the OCI image specification wants an object"#
        );
        assert_eq!(says("[]"), "it is a list and not an object");
        assert!(says(r#"{"os":"linux"}"#).starts_with(r#"its "architecture" is missing"#));
        assert!(says(&whole("{}", "{}")).starts_with(r#"its "rootfs/type" is missing"#));
        assert!(says(&whole(layers, r#"{"Cmd":"sh"}"#)).starts_with(r#"its "config/Cmd" is a text"#));
        assert!(says(&whole(layers, r#"{"Env":[1]}"#)).contains("an element that is no text"));
        assert!(says("{").starts_with("it is not valid JSON"));
    }

    #[test]
    fn what_no_process_can_be_given_is_refused() {
        for (field, name) in [
            (r#""Cmd":["a\u0000b"]"#, "Cmd"),
            (r#""Env":["A=\u0000"]"#, "Env"),
            (r#""User":"\u0000""#, "User"),
        ] {
            let text = format!(
                r#"{{"os":"linux","architecture":"{}","rootfs":{{"type":"layers","diff_ids":[]}},"config":{{{field}}}}}"#,
                host_architecture()
            );
            assert!(
                matches!(parse(text.as_bytes()), Err(ConfigError::Nul(found)) if found == name),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(text in "[{}\\[\\]\":,a-z0-9]{0,80}") {
            let _ = parse(text.as_bytes());
        }
    }
}
