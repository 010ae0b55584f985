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
        Some(path) => write(path, &answer.kubeconfig)?,
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
