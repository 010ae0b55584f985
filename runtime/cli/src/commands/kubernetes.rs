//! `vial kubeconfig`, `vial kubectl`.

use super::say_whole;
use crate::args::{KubeconfigArgs, KubectlArgs};
use crate::client::Client;
use crate::error::{Error, Result};
use hyper::Method;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use vial_api::Kubeconfig;

/// Prints what a Kubernetes client needs, or writes it to a file of one's own.
///
/// # Errors
/// When the daemon serves no declared objects, or the file can't be written.
pub async fn kubeconfig(client: &Client, args: &KubeconfigArgs) -> Result<i32> {
    let answer: Kubeconfig = client.json(Method::POST, "/kubernetes").await?;
    match &args.output {
        None => say_whole(&answer.kubeconfig)?,
        Some(path) if path.as_os_str() == "-" => say_whole(&answer.kubeconfig)?,
        Some(path) => {
            if let Ok(text) = std::fs::read_to_string(path)
                && names_others(&text)
            {
                return Err(Error::Message(format!(
                    "{0} is there and has clusters of others in it, which would be lost: write to another file, and name both (export KUBECONFIG={0}:FILE)",
                    path.display()
                )));
            }
            write(path, &answer.kubeconfig)?;
        }
    }
    Ok(0)
}

/// Becomes kubectl with that.
///
/// # Errors
/// When there is no kubectl, or as above.
pub async fn kubectl(client: &Client, args: &KubectlArgs) -> Result<i32> {
    let answer: Kubeconfig = client.json(Method::POST, "/kubernetes").await?;
    // Written anew each time: the server's port may have changed.
    let path = client.paths().run.join("kubeconfig");
    write(&path, &answer.kubeconfig)?;
    let error = Command::new("kubectl").args(&args.args).env("KUBECONFIG", &path).exec();
    Err(match error.kind() {
        io::ErrorKind::NotFound => Error::Message(
            "there is no kubectl on the PATH: install one (https://kubernetes.io/docs/tasks/tools/), or give another client what vial kubeconfig prints".into(),
        ),
        _ => Error::io("run kubectl")(error),
    })
}

/// Whether a kubeconfig has anything in it that Vial has not written. Lines are enough to see that: kubectl writes a name on each.
fn names_others(text: &str) -> bool {
    let names = text.lines().filter_map(|line| line.trim_start_matches([' ', '-']).strip_prefix("name:"));
    let (ours, others): (Vec<&str>, Vec<&str>) = names.partition(|name| name.trim() == "vial");
    !others.is_empty() || (ours.is_empty() && !text.trim().is_empty())
}

/// Writes a file that only its owner reads, as a whole or not at all.
fn write(path: &Path, text: &str) -> Result<()> {
    let whole = || {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // 0600 from its beginning on.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.persist(path)?;
        Ok(())
    };
    whole().map_err(Error::io(format!("write {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_vial_wrote_is_replaced() {
        let ours = "clusters:\n- name: vial\n  cluster: {}\nusers:\n- name: vial\ncontexts:\n- context:\n    user: vial\n  name: vial\n";
        assert!(!names_others(ours) && !names_others("\n"));
        assert!(names_others(&format!("{ours}- name: work\n")));
        assert!(names_others("a letter\n"));
    }
}
