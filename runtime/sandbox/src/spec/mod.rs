//! From an image's configuration and the options of a run to the OCI runtime spec that the agent gets: a pure function.
//!
//! Source: runtime-spec 1.0.2 `config.md`, `config-linux.md`; image-spec 1.1 `config.md`, `conversion.md`.

pub mod defaults;
pub mod merge;
pub mod rights;

use crate::sizing;
use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What a run may say about its container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Command and arguments; empty: the image's.
    #[serde(default)]
    pub command: Vec<String>,
    /// Instead of the image's entrypoint.
    #[serde(default)]
    pub entrypoint: Option<Vec<String>>,
    /// Over the image's environment.
    #[serde(default)]
    pub env: Vec<String>,
    /// Instead of the image's working directory.
    #[serde(default)]
    pub workdir: Option<String>,
    /// Instead of the image's user.
    #[serde(default)]
    pub user: Option<String>,
    /// Host name.
    pub hostname: String,
    /// Bytes.
    pub memory: u64,
    /// Thousandths of a processor.
    pub milli_cpus: u32,
    /// Most processes and threads; 0 is no limit.
    #[serde(default)]
    pub pids: u32,
    /// In a pod of several: the processors of all its containers together, in thousandths. They share their IPC.
    #[serde(default)]
    pub shared: Option<u32>,
    /// Width and height of its terminal in characters, if it is to have one.
    #[serde(default)]
    pub terminal: Option<(u16, u16)>,
    /// Rights.
    #[serde(default)]
    pub rights: rights::Rights,
    /// Volumes of the pod: below the place of volumes, where in the container, only to read.
    #[serde(default)]
    pub volumes: Vec<(String, String, bool)>,
}

/// Why there is no spec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Neither the run nor the image names a command.
    #[error("no command: the image has neither ENTRYPOINT nor CMD; say what to run after the image's name")]
    NoCommand,
    /// It names one without a name.
    #[error(
        "the command is an empty text; say what to run after the image's name, or nothing for the image's own command"
    )]
    EmptyCommand,
    /// Something holds a NUL byte, which no process can be given.
    #[error("{0} holds a NUL byte")]
    Nul(&'static str),
    /// Working directory.
    #[error("the working directory {0:?} is not an absolute path; begin it with /")]
    RelativeWorkdir(String),
    /// Host name.
    #[error(
        "the host name {0:?} is not possible: 1 to 63 letters, digits, - and ., beginning with a letter or a digit"
    )]
    Hostname(String),
    /// A capability.
    #[error("there is no capability {0:?}; Linux' names are as in NET_ADMIN, and ALL is all")]
    Capability(String),
    /// A volume.
    #[error(
        "the volume {0:?} can't be mounted at {1:?}: the one is a path below the guest's volumes, the other an absolute one"
    )]
    Volume(String, String),
    /// Size.
    #[error(transparent)]
    Size(#[from] sizing::SizeError),
}

/// A container's spec.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// The OCI runtime spec.
    pub oci: Value,
    /// Its arguments, for tables.
    pub args: Vec<String>,
    /// Signal that asks it to stop.
    pub stop_signal: i32,
}

/// Makes the spec of a container.
///
/// # Errors
/// When there is no command, or an option is not possible.
pub fn container(id: &str, image: &ImageConfiguration, options: &Options) -> Result<Spec, SpecError> {
    sizing::vm_size(options.memory, options.milli_cpus)?;
    let vm = sizing::vm_size(options.memory, options.shared.unwrap_or(options.milli_cpus))?;
    check_hostname(&options.hostname)?;
    let config = image.config().as_ref();
    let of_image = |list: Option<&Option<Vec<String>>>| list.and_then(Clone::clone).unwrap_or_default();
    let args = merge::arguments(
        &of_image(config.map(|c| c.entrypoint())),
        &of_image(config.map(|c| c.cmd())),
        options.entrypoint.as_deref(),
        &options.command,
    );
    check_command(&args)?;
    let user = pick(options.user.as_deref(), config.and_then(|c| c.user().as_deref())).unwrap_or_default();
    let cwd =
        pick(options.workdir.as_deref(), config.and_then(|c| c.working_dir().as_deref())).unwrap_or("/");
    if !cwd.starts_with('/') {
        return Err(SpecError::RelativeWorkdir(cwd.to_owned()));
    }
    let hostname = format!("HOSTNAME={}", options.hostname);
    let image_env = of_image(config.map(|c| c.env()));
    // The agent looks up the home of any other user where /etc/passwd is.
    let home = merge::is_root(user).then_some("HOME=/root");
    let term = options.terminal.map(|_| defaults::TERM);
    let layers = [defaults::PATH, &hostname].into_iter().chain(home).chain(term);
    let env = merge::environment(
        layers.chain(image_env.iter().map(String::as_str)).chain(options.env.iter().map(String::as_str)),
    );
    check_nul(&args, &env, user, cwd)?;

    let mut process = process(&args, &env, cwd, user, options.terminal);
    options.rights.apply(&mut process)?;
    let mounts = mounts(&options.volumes)?;
    let own = ["pid", "uts", "mount", "cgroup"].into_iter().chain(options.shared.is_none().then_some("ipc"));
    let namespaces: Vec<Value> = own.map(|kind| json!({ "type": kind })).collect();
    let oci = json!({
        "ociVersion": "1.0.2",
        "hostname": options.hostname,
        // The agent mounts the root and puts its place here.
        "root": { "path": "rootfs", "readonly": options.rights.read_only },
        "process": process,
        "mounts": mounts,
        "linux": {
            // No network namespace: the VM's network is the pod's.
            "namespaces": namespaces,
            "cgroupsPath": format!("/{id}"),
            "maskedPaths": defaults::MASKED_PATHS,
            "readonlyPaths": defaults::READONLY_PATHS,
            "resources": resources(options, vm.vcpus),
        },
    });
    let stop_signal = config
        .and_then(|c| c.stop_signal().as_deref())
        .and_then(crate::signals::parse)
        .unwrap_or(crate::signals::SIGTERM);
    Ok(Spec { oci, args, stop_signal })
}

/// What one more process in a container says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOptions {
    /// Command and arguments.
    pub command: Vec<String>,
    /// Over the container's environment.
    pub env: Vec<String>,
    /// Instead of the container's working directory.
    pub workdir: Option<String>,
    /// Instead of the container's user.
    pub user: Option<String>,
    /// Width and height of its terminal in characters, if it is to have one.
    pub terminal: Option<(u16, u16)>,
}

/// The `process` of an exec, from the container's spec.
///
/// # Errors
/// When there is no command, or an option is not possible.
pub fn exec(container: &Value, options: &ExecOptions) -> Result<Value, SpecError> {
    let base = &container["process"];
    check_command(&options.command)?;
    let own_user = base["user"]["username"].as_str().unwrap_or_default();
    let user = options.user.as_deref().unwrap_or(own_user);
    let cwd = options.workdir.as_deref().or(base["cwd"].as_str()).unwrap_or("/");
    if !cwd.starts_with('/') {
        return Err(SpecError::RelativeWorkdir(cwd.to_owned()));
    }
    let base_env = base["env"].as_array().map(Vec::as_slice).unwrap_or_default();
    // HOME was the container's user's; another user has another one.
    let home = (user != own_user).then(|| if merge::is_root(user) { "HOME=/root" } else { "HOME" });
    let term = options.terminal.map(|_| defaults::TERM);
    let base = term.into_iter().chain(base_env.iter().filter_map(Value::as_str));
    let env = merge::environment(base.chain(home).chain(options.env.iter().map(String::as_str)));
    check_nul(&options.command, &env, user, cwd)?;
    let mut process = process(&options.command, &env, cwd, user, options.terminal);
    // The pod's, whoever runs in it.
    if let Some(groups) = container["process"]["user"].get("additionalGids") {
        process["user"]["additionalGids"] = groups.clone();
    }
    // What the container may not do, nobody does in it: probes, hooks and people at a terminal neither.
    for right in ["capabilities", "noNewPrivileges"] {
        if let Some(own) = container["process"].get(right) {
            process[right] = own.clone();
        }
    }
    Ok(process)
}

/// Whether a container has a terminal.
pub fn has_terminal(container: &Value) -> bool {
    container["process"]["terminal"].as_bool().unwrap_or(false)
}

fn process(args: &[String], env: &[String], cwd: &str, user: &str, terminal: Option<(u16, u16)>) -> Value {
    let mut account = json!({ "uid": 0, "gid": 0 });
    if !user.is_empty() {
        // Names, and the groups of numbers too, are looked up by the agent, where /etc/passwd and /etc/group are.
        account["username"] = user.into();
    }
    let mut process = json!({
        "terminal": terminal.is_some(),
        "user": account,
        "args": args,
        "env": env,
        "cwd": cwd,
        "capabilities": defaults::capabilities(),
        "rlimits": defaults::rlimits(),
        "noNewPrivileges": false,
        "oomScoreAdj": 0,
    });
    if let Some((width, height)) = terminal {
        process["consoleSize"] = json!({ "width": width, "height": height });
    }
    process
}

fn resources(options: &Options, vcpus: u8) -> Value {
    const PERIOD_US: u64 = 100_000;
    let mut resources = json!({
        "devices": defaults::devices(),
        "memory": { "limit": options.memory },
    });
    if options.pids > 0 {
        resources["pids"] = json!({ "limit": options.pids });
    }
    // All of the VM's processors are limited by their number already: a quota would only throttle at its borders.
    if options.milli_cpus < u32::from(vcpus) * 1000 {
        let quota = u64::from(options.milli_cpus) * PERIOD_US / 1000;
        resources["cpu"] = json!({ "quota": quota, "period": PERIOD_US });
    }
    resources
}

fn mounts(volumes: &[(String, String, bool)]) -> Result<Value, SpecError> {
    let Value::Array(mut mounts) = defaults::mounts() else { return Ok(defaults::mounts()) };
    for (source, path, read_only) in volumes {
        let is_below = !source.is_empty() && source.split('/').all(|step| !matches!(step, "" | "." | ".."));
        let has_nul = source.contains('\0') || path.contains('\0');
        if !is_below || !path.starts_with('/') || has_nul {
            return Err(SpecError::Volume(source.clone(), path.clone()));
        }
        let access = if *read_only { "ro" } else { "rw" };
        mounts.push(json!({ "destination": path, "type": "bind", "source": format!("{}/{source}", agent_protocol::VOLUMES),
            "options": ["rbind", "rprivate", "nosuid", "nodev", access] }));
    }
    Ok(mounts.into())
}

fn pick<'a>(own: Option<&'a str>, image: Option<&'a str>) -> Option<&'a str> {
    own.or(image).filter(|text| !text.is_empty())
}

fn check_command(args: &[String]) -> Result<(), SpecError> {
    match args.first() {
        None => Err(SpecError::NoCommand),
        Some(command) if command.is_empty() => Err(SpecError::EmptyCommand),
        Some(_) => Ok(()),
    }
}

/// Whether a host may be called so.
///
/// # Errors
/// [`SpecError::Hostname`].
pub fn check_hostname(name: &str) -> Result<(), SpecError> {
    let fits = (1..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    if fits { Ok(()) } else { Err(SpecError::Hostname(name.to_owned())) }
}

fn check_nul(args: &[String], env: &[String], user: &str, cwd: &str) -> Result<(), SpecError> {
    let nul = |text: &str| text.contains('\0');
    for (what, bad) in [
        ("the command", args.iter().any(|arg| nul(arg))),
        ("the environment", env.iter().any(|entry| nul(entry))),
        ("the user", nul(user)),
        ("the working directory", nul(cwd)),
    ] {
        if bad {
            return Err(SpecError::Nul(what));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
