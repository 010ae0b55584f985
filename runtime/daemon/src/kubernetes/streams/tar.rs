//! `kubectl cp` runs tar in the container. Where there is none the agent does what it would have done.

use agent_protocol::ErrorKind;
use vial_sandbox::{ExecStreams, PodError, PutHow, Task};

/// What a tar was to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Job {
    /// `tar cf - PATH`
    Get(String),
    /// `tar -xmf - [-C FOLDER]`
    Put { folder: String, owners: bool },
}

/// Whether a command failed because it is not there.
pub fn is_missing(error: &PodError) -> bool {
    error.refusal() == Some(ErrorKind::CommandNotFound)
}

/// What kubectl's tar means, of which every version says it in one of these ways; other tars are none of ours.
pub fn job(command: &[String]) -> Option<Job> {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let (&"tar", mut rest) = words.split_first()? else { return None };
    let mut owners = true;
    while let [option @ ("--no-same-permissions" | "--no-same-owner"), behind @ ..] = rest {
        owners &= *option != "--no-same-owner";
        rest = behind;
    }
    match rest {
        ["cf" | "-cf", "-", path] if !path.starts_with('-') => Some(Job::Get((*path).to_owned())),
        ["xmf" | "-xmf" | "xf" | "-xf", "-"] => Some(Job::Put { folder: "/".into(), owners }),
        ["xmf" | "-xmf" | "xf" | "-xf", "-", "-C", folder] => {
            Some(Job::Put { folder: (*folder).to_owned(), owners })
        }
        _ => None,
    }
}

impl Job {
    /// Has the agent do it.
    pub async fn begin(self, task: &Task) -> Result<ExecStreams, PodError> {
        match self {
            Self::Get(path) => {
                // tar names entries as it was told to, without what would make them absolute; kubectl looks for that.
                let name = path.trim_matches('/').to_owned();
                let name = if name.is_empty() { ".".to_owned() } else { name };
                task.get_archive(path, false, Some(name)).await
            }
            Self::Put { folder, owners } => {
                task.put_archive(folder, PutHow { contents: false, owners, stream: true }).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubectls_tars_are_known_and_others_are_not() {
        let job = |line: &str| job(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let put = |folder: &str, owners| Some(Job::Put { folder: folder.into(), owners });
        assert_eq!(job("tar cf - /etc/hosts"), Some(Job::Get("/etc/hosts".into())));
        assert_eq!(job("tar -xmf - -C /tmp"), put("/tmp", true));
        assert_eq!(job("tar -xmf -"), put("/", true));
        assert_eq!(job("tar --no-same-permissions --no-same-owner -xmf - -C /tmp"), put("/tmp", false));
        for other in ["tar cf - -T list", "tar czf - /a", "sh -c tar", "tar", "tar cf out /a"] {
            assert_eq!(job(other), None, "{other}");
        }
    }
}
