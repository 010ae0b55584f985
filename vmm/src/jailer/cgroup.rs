//! The group that the process lives in: cgroup v2, since v1 is on its way out of the kernel.

use super::jail::{JailError, step};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the unified hierarchy is mounted, according to /proc/mounts.
pub(super) fn mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, place, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| place.into())
    })
}

/// The controllers of `settings`, each once.
pub(super) fn controllers(settings: &[(String, String)]) -> Vec<&str> {
    let mut names: Vec<&str> =
        settings.iter().filter_map(|(file, _)| Some(file.split_once('.')?.0)).collect();
    names.sort_unstable();
    names.dedup();
    // Every group has its files; it is no controller.
    names.retain(|name| *name != "cgroup");
    names
}

/// Makes `<tree>/<parent>/<id>` with `settings` and moves this process there.
///
/// # Errors
/// No unified hierarchy, or a file of it can't be written.
pub(super) fn enter(parent: &Path, id: &str, settings: &[(String, String)]) -> Result<(), JailError> {
    let group = open_path(parent, &controllers(settings))?.join(id);
    fs::create_dir_all(&group).map_err(step("make the cgroup", &group))?;
    for (file, value) in settings {
        write(&group.join(file), value)?;
    }
    join(&group)
}

/// Moves this process into `<tree>/<parent>`, which has to be there.
///
/// # Errors
/// As [`enter`].
pub(super) fn join_parent(parent: &Path) -> Result<(), JailError> {
    join(&tree()?.join(parent))
}

fn tree() -> Result<PathBuf, JailError> {
    let mounts = Path::new("/proc/mounts");
    let text = fs::read_to_string(mounts).map_err(step("look for cgroups in", mounts))?;
    mount_point(&text).ok_or(JailError::NoCgroups)
}

/// Makes the folders down to `parent`, each with `controllers` for those below it.
fn open_path(parent: &Path, controllers: &[&str]) -> Result<PathBuf, JailError> {
    let mut folder = tree()?;
    for name in std::iter::once(None).chain(parent.iter().map(Some)) {
        if let Some(name) = name {
            folder.push(name);
            fs::create_dir_all(&folder).map_err(step("make the cgroup", &folder))?;
        }
        let file = folder.join("cgroup.controllers");
        let available = fs::read_to_string(&file).map_err(step("read", &file))?;
        if let Some(controller) = missing(&available, controllers) {
            return Err(JailError::NoController { controller: controller.to_owned(), group: folder });
        }
        for controller in controllers {
            write(&folder.join("cgroup.subtree_control"), &format!("+{controller}"))?;
        }
    }
    Ok(folder)
}

/// The first that is asked for and not among the `available`, as cgroup.controllers lists them.
fn missing<'a>(available: &str, controllers: &[&'a str]) -> Option<&'a str> {
    controllers
        .iter()
        .copied()
        .find(|wanted| !available.split_ascii_whitespace().any(|there| there == *wanted))
}

fn join(group: &Path) -> Result<(), JailError> {
    write(&group.join("cgroup.procs"), &std::process::id().to_string())
}

fn write(file: &Path, value: &str) -> Result<(), JailError> {
    fs::write(file, value).map_err(step("write", file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_found_among_mounts() {
        let mounts = "proc /proc proc rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(mount_point(mounts), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_point("proc /proc\n\n"), None);
    }

    #[test]
    fn controllers_that_are_not_there_are_found() {
        assert_eq!(missing("cpuset cpu io memory\n", &["cpu", "memory"]), None);
        assert_eq!(missing("cpuset io\n", &["cpuset", "cpu"]), Some("cpu"));
        assert_eq!(missing("\n", &["memory"]), Some("memory"));
    }

    #[test]
    fn each_controller_is_asked_for_once() {
        let setting = |file: &str| (file.to_owned(), "1".to_owned());
        let settings = ["cpuset.mems", "cpuset.cpus", "memory.max", "cgroup.freeze"].map(setting);
        assert_eq!(controllers(&settings), ["cpuset", "memory"]);
    }
}
