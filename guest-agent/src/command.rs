//! Finding a command as execvp would, but able to say why not: 127 (not found) is not 126 (can't be run).

use agent_protocol::{AgentError, ErrorKind};
use std::path::{Path, PathBuf};

/// What lies at a path, as seen by the process that will run it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A file that may be executed.
    Executable,
    /// A directory, or a file without permission.
    NotExecutable,
    /// Nothing.
    Nothing,
}

/// Docker's search path for a process whose environment has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Resolves a command name: with a slash it is a path (from `cwd`, if relative), else each directory of PATH is tried.
///
/// # Errors
/// [`ErrorKind::CommandNotFound`] or [`ErrorKind::CommandNotExecutable`].
pub fn resolve(
    name: &str,
    env: &[String],
    cwd: &Path,
    probe: impl Fn(&Path) -> Found,
) -> Result<PathBuf, AgentError> {
    let not_found = |name| {
        let message = format!("command {name:?} not found in the container; check its spelling and PATH");
        AgentError::new(ErrorKind::CommandNotFound, message)
    };
    let denied = |path: &Path| {
        let message = format!("{} exists but can't be executed: permission denied", path.display());
        AgentError::new(ErrorKind::CommandNotExecutable, message)
    };
    if name.is_empty() || name.contains('\0') {
        return Err(not_found(name));
    }
    if name.contains('/') {
        let path = cwd.join(name);
        return match probe(&path) {
            Found::Executable => Ok(path),
            Found::NotExecutable => Err(denied(&path)),
            Found::Nothing => Err(not_found(name)),
        };
    }
    let search = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let mut blocked = None;
    for directory in search.split(':') {
        let path = cwd.join(directory).join(name);
        match probe(&path) {
            Found::Executable => return Ok(path),
            Found::NotExecutable => blocked = blocked.or(Some(path)),
            Found::Nothing => {}
        }
    }
    Err(blocked.map_or_else(|| not_found(name), |path| denied(&path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(name: &str, path: &str) -> Result<PathBuf, ErrorKind> {
        let probe = |path: &Path| match path.components().collect::<PathBuf>().to_str().unwrap() {
            "/bin/sh" | "/opt/tool" | "/work/run" | "/work/bin/x" => Found::Executable,
            "/bin/data" | "/bin" => Found::NotExecutable,
            _ => Found::Nothing,
        };
        resolve(name, &[format!("PATH={path}")], Path::new("/work"), probe).map_err(|error| error.kind)
    }

    #[test]
    fn names_are_searched_and_paths_are_not() {
        assert_eq!(look("sh", "/usr/bin:/bin"), Ok("/bin/sh".into()));
        assert_eq!(look("tool", "/bin"), Err(ErrorKind::CommandNotFound));
        assert_eq!(look("/opt/tool", "/bin"), Ok("/opt/tool".into()));
        assert_eq!(look("./run", "/bin"), Ok("/work/run".into()));
    }

    #[test]
    fn relative_directories_in_path_start_at_the_working_directory() {
        assert_eq!(look("run", ""), Ok("/work/run".into()));
        assert_eq!(look("x", "bin"), Ok("/work/bin/x".into()));
    }

    #[test]
    fn what_exists_but_can_not_run_is_told_apart() {
        assert_eq!(look("data", "/bin"), Err(ErrorKind::CommandNotExecutable));
        assert_eq!(look("/bin", "/bin"), Err(ErrorKind::CommandNotExecutable));
        assert_eq!(look("", "/bin"), Err(ErrorKind::CommandNotFound));
    }

    #[test]
    fn without_path_the_default_one_counts() {
        let probe =
            |path: &Path| if path == Path::new("/usr/sbin/x") { Found::Executable } else { Found::Nothing };
        assert_eq!(resolve("x", &[], Path::new("/"), probe).unwrap(), Path::new("/usr/sbin/x"));
    }
}
