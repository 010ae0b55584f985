//! From the host's OCI runtime spec to what libcontainer is given.
//!
//! The host is trusted, so this is no check of its wishes. It fills in what only the guest knows (places, ids of named users), and takes
//! out what the agent does itself or what libcontainer would do wrongly.

use crate::capabilities::{CAP_SYS_ADMIN, CapMask, mask};
use crate::cgroup::Cgroup;
use crate::devices::{self, Rule};
use crate::errors::{internal, invalid};
use crate::etc;
use crate::inside::Inside;
use crate::ipc;
use crate::streams::Size;
use crate::users::{self, Identity};
use agent_protocol::AgentError;
use oci_spec::runtime::{
    Capabilities, Capability, LinuxCapabilities, LinuxNamespaceType, Process, RootBuilder, Spec,
};
use std::collections::HashMap;
use std::path::Path;

/// The capability sets that the container's process ends up with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FinalCaps {
    /// Effective set.
    pub effective: CapMask,
    /// Permitted set.
    pub permitted: CapMask,
    /// Inheritable set.
    pub inheritable: CapMask,
    /// Bounding set; decides what the system-call filter allows.
    pub bounding: CapMask,
}

/// A container's spec, ready for libcontainer.
#[derive(Debug)]
pub struct Container {
    /// What libcontainer gets.
    pub spec: Spec,
    /// What its process ends up with.
    pub caps: FinalCaps,
    /// The devices it may use.
    pub devices: Vec<Rule>,
    /// Who its process is.
    pub identity: Identity,
    /// The size of its terminal, if it wants one.
    pub terminal: Option<Size>,
    /// Options of the shared memory, if it shares that with others ([`ipc::prepare`]).
    pub shared_memory: Option<String>,
    /// Settings of the network, which is the whole VM's: name (with dots) and value.
    pub network_settings: Vec<(String, String)>,
}

/// Prepares a container's spec.
///
/// # Errors
/// When it is no OCI spec, lacks a part that isolation needs, or names an unknown user.
pub fn container(json: &str, id: &str, rootfs: &Path) -> Result<Container, AgentError> {
    let mut spec: Spec = serde_json::from_str(json)
        .map_err(|error| invalid(format!("the runtime spec can't be read: {error}")))?;
    let mut process = spec.process().clone().ok_or_else(|| invalid("the runtime spec has no process"))?;
    let inside = Inside::open(rootfs).map_err(internal("the container's root can't be opened"))?;
    let (caps, identity) = prepare(&mut process, &inside)?;
    let terminal = terminal(&process);
    inside
        .make_directories(process.cwd())
        .map_err(|error| invalid(format!("working directory {}: {error}", process.cwd().display())))?;
    spec.set_process(Some(process));

    let readonly = spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false);
    let root = RootBuilder::default().path(rootfs).readonly(readonly).build();
    spec.set_root(Some(root.map_err(internal("the root can't be described"))?));
    // Hooks would run with all of the agent's rights, and nothing needs them.
    spec.set_hooks(None);

    let mut linux = spec.linux().clone().ok_or_else(|| invalid("the runtime spec has no linux section"))?;
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    // The VM is the pod's network namespace: a fresh one would have not even a loopback.
    namespaces.retain(|ns| ns.typ() != LinuxNamespaceType::Network || ns.path().is_some());
    if !namespaces.iter().any(|ns| ns.typ() == LinuxNamespaceType::Mount) {
        return Err(invalid(
            "the runtime spec has no mount namespace; a container without one would be the agent's own file tree",
        ));
    }
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    let shared_memory = ipc::share(&namespaces, &mut mounts);
    linux.set_namespaces(Some(namespaces));
    etc::add_mounts(&mut mounts);
    spec.set_mounts(Some(mounts));
    linux.set_cgroups_path(Some(Cgroup::spec_path(id)));
    linux.set_seccomp(None);
    // libcontainer refuses these without a network namespace; here the VM is one, so the agent sets them.
    let (network, others): (HashMap<_, _>, HashMap<_, _>) = linux
        .sysctl()
        .clone()
        .unwrap_or_default()
        .into_iter()
        .partition(|(name, _)| name.starts_with("net."));
    linux.set_sysctl(Some(others));
    let wished =
        linux.resources().as_ref().and_then(|resources| resources.devices().clone()).unwrap_or_default();
    spec.set_linux(Some(linux));
    Ok(Container {
        spec,
        caps,
        devices: devices::rules(&wished),
        identity,
        terminal,
        shared_memory,
        network_settings: network.into_iter().collect(),
    })
}

/// Prepares an exec's process.
///
/// # Errors
/// As [`container`].
pub fn exec(json: &str, inside: &Inside) -> Result<(Process, FinalCaps, Identity), AgentError> {
    let mut process: Process =
        serde_json::from_str(json).map_err(|error| invalid(format!("the process can't be read: {error}")))?;
    let (caps, identity) = prepare(&mut process, inside)?;
    Ok((process, caps, identity))
}

/// The size of the terminal that a process wants. The spec has it in wider numbers than the kernel.
pub fn terminal(process: &Process) -> Option<Size> {
    process.terminal().unwrap_or(false).then(|| {
        let narrow = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
        let size = process.console_size();
        size.map_or(Size { cols: 0, rows: 0 }, |b| Size { cols: narrow(b.width()), rows: narrow(b.height()) })
    })
}

fn prepare(process: &mut Process, inside: &Inside) -> Result<(FinalCaps, Identity), AgentError> {
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(invalid("no command: neither the image nor the caller names one"));
    }
    let identity = identify(process, inside)?;
    let mut user = process.user().clone();
    user.set_uid(identity.uid).set_gid(identity.gid).set_additional_gids(Some(identity.groups.clone()));
    user.set_username(None);
    process.set_user(user);

    let mut env = process.env().clone().unwrap_or_default();
    // libcontainer would look a missing HOME up with the C library, which loads the *container's* name-service modules.
    if !env.iter().any(|entry| entry.strip_prefix("HOME=").is_some_and(|home| !home.is_empty())) {
        env.retain(|entry| !entry.starts_with("HOME="));
        env.push(format!("HOME={}", identity.home));
    }
    process.set_env(Some(env));
    // Without a wish of its own the container would inherit the agent's protection from the OOM killer.
    process.set_oom_score_adj(Some(process.oom_score_adj().unwrap_or(0)));
    process.set_apparmor_profile(None);
    process.set_selinux_label(None);
    let caps = widen(process);
    Ok((caps, identity))
}

fn identify(process: &Process, inside: &Inside) -> Result<Identity, AgentError> {
    let unreadable = |error| invalid(format!("the container's users can't be read: {error}"));
    let passwd = inside.read("/etc/passwd").map_err(unreadable)?;
    let group = inside.read("/etc/group").map_err(unreadable)?;
    let user = process.user();
    match user.username().as_deref() {
        Some(name) if !name.is_empty() => {
            let mut identity = users::resolve(name, &passwd, &group)?;
            // The pod's own.
            identity.groups.extend(user.additional_gids().iter().flatten());
            Ok(identity)
        }
        _ => {
            // Numbers from the host are final; the file only knows the home directory.
            let home = users::resolve(&user.uid().to_string(), &passwd, &group)
                .map_or_else(|_| "/".into(), |i| i.home);
            let groups = user.additional_gids().clone().unwrap_or_default();
            Ok(Identity { uid: user.uid(), gid: user.gid(), groups, home })
        }
    }
}

/// Lends CAP_SYS_ADMIN to the process until just before its command runs, because installing the system-call filter without
/// no_new_privs needs it, and libcontainer's only late hook comes after it has dropped capabilities. Says what must be left then.
fn widen(process: &mut Process) -> FinalCaps {
    let wished = process.capabilities().clone();
    let of = |get: fn(&LinuxCapabilities) -> &Option<Capabilities>| -> Capabilities {
        wished.as_ref().and_then(|caps| get(caps).clone()).unwrap_or_default()
    };
    let bounding = of(LinuxCapabilities::bounding);
    let permitted = of(LinuxCapabilities::permitted);
    let effective = of(LinuxCapabilities::effective);
    let inheritable = of(LinuxCapabilities::inheritable);
    let ambient = of(LinuxCapabilities::ambient);
    let caps = FinalCaps {
        effective: mask(&effective),
        permitted: mask(&permitted),
        inheritable: mask(&inheritable),
        bounding: mask(&bounding),
    };
    let lent = |set: Capabilities| set.into_iter().chain([Capability::SysAdmin]).collect::<Capabilities>();
    // Every set is given: one that is left out would not be dropped at all.
    let mut widened = LinuxCapabilities::default();
    widened
        .set_bounding(Some(bounding))
        .set_permitted(Some(lent(permitted)))
        .set_effective(Some(lent(effective)))
        .set_inheritable(Some(inheritable))
        .set_ambient(Some(ambient));
    process.set_capabilities(Some(widened));
    debug_assert!(caps.permitted & !caps.bounding & !CAP_SYS_ADMIN == 0 || wished.is_some());
    caps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capabilities;
    use agent_protocol::ErrorKind;

    const SPEC: &str = r#"{
        "ociVersion": "1.1.0",
        "process": {
            "user": {"uid": 0, "gid": 0, "username": "app"},
            "args": ["sh"], "env": ["PATH=/bin"], "cwd": "/srv/new",
            "capabilities": {"bounding": ["CAP_CHOWN", "CAP_KILL"], "permitted": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"]}
        },
        "root": {"path": "rootfs", "readonly": true},
        "hooks": {"prestart": [{"path": "/bin/evil"}]},
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "network"}],
                  "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}
    }"#;

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/passwd"), "app:x:7:8::/home/app:/bin/sh\n").unwrap();
        std::fs::write(root.path().join("etc/group"), "more:x:9:app\n").unwrap();
        root
    }

    #[test]
    fn what_only_the_guest_knows_is_filled_in() {
        let root = root();
        let made = container(SPEC, "c1", root.path()).unwrap();
        let process = made.spec.process().as_ref().unwrap();
        assert_eq!((process.user().uid(), process.user().gid()), (7, 8));
        assert_eq!(process.user().additional_gids(), &Some(vec![8, 9]));
        let named = container(
            &SPEC.replace("\"gid\": 0", "\"gid\": 0, \"additionalGids\": [2000]"),
            "c1",
            root.path(),
        );
        let process = named.unwrap().spec.process().clone().unwrap();
        assert_eq!(process.user().additional_gids(), &Some(vec![8, 9, 2000]), "the pod's beside the image's");
        assert!(process.env().as_ref().unwrap().contains(&"HOME=/home/app".to_owned()));
        assert_eq!(process.oom_score_adj(), Some(0));
        assert!(root.path().join("srv/new").is_dir());
        let linux = made.spec.linux().as_ref().unwrap();
        assert_eq!(linux.cgroups_path(), &Some("/pods/c1".into()));
        let kinds: Vec<_> = linux.namespaces().as_ref().unwrap().iter().map(|ns| ns.typ()).collect();
        assert_eq!(kinds, [LinuxNamespaceType::Mount, LinuxNamespaceType::Pid]);
        assert!(made.spec.hooks().is_none() && linux.seccomp().is_none());
        assert_eq!(made.spec.root().as_ref().unwrap().readonly(), Some(true));
    }

    #[test]
    fn sys_admin_is_lent_and_taken_back() {
        let root = root();
        let made = container(SPEC, "c1", root.path()).unwrap();
        let lent = made.spec.process().as_ref().unwrap().capabilities().clone().unwrap();
        assert!(lent.effective().as_ref().unwrap().contains(&Capability::SysAdmin));
        assert!(!lent.bounding().as_ref().unwrap().contains(&Capability::SysAdmin));
        assert_eq!((made.caps.effective, made.caps.permitted, made.caps.inheritable), (1, 1, 0));
        assert_eq!(made.caps.bounding & capabilities::CAP_SYS_ADMIN, 0);
    }

    #[test]
    fn a_process_without_capabilities_gets_none() {
        let root = root();
        let json = SPEC.replace("\"capabilities\"", "\"nothing\"");
        let made = container(&json, "c1", root.path()).unwrap();
        assert_eq!(made.caps, FinalCaps { effective: 0, permitted: 0, inheritable: 0, bounding: 0 });
        let lent = made.spec.process().as_ref().unwrap().capabilities().clone().unwrap();
        assert_eq!(lent.bounding().as_ref().unwrap().len(), 0);
    }

    #[test]
    fn a_terminal_has_the_specs_size_or_none() {
        let root = root();
        let terminal =
            |with: &str| container(&SPEC.replace("\"args\"", with), "c1", root.path()).unwrap().terminal;
        assert_eq!(terminal("\"args\""), None);
        assert_eq!(terminal("\"terminal\": true, \"args\""), Some(Size { cols: 0, rows: 0 }));
        let sized =
            terminal("\"terminal\": true, \"consoleSize\": {\"width\": 80, \"height\": 99999}, \"args\"");
        assert_eq!(sized, Some(Size { cols: 80, rows: u16::MAX }));
    }

    #[test]
    fn what_can_not_be_isolated_is_refused() {
        let root = root();
        let kind = |json: &str| container(json, "c1", root.path()).unwrap_err().kind;
        assert_eq!(kind("[]"), ErrorKind::InvalidArgument);
        assert_eq!(kind(&SPEC.replace("\"mount\"", "\"uts\"")), ErrorKind::InvalidArgument);
        assert_eq!(kind(&SPEC.replace("[\"sh\"]", "[]")), ErrorKind::InvalidArgument);
        assert_eq!(kind(&SPEC.replace("\"app\"", "\"ghost\"")), ErrorKind::UserNotFound);
    }
}
