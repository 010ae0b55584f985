//! Handing text to `nft`, which makes one transaction of it.

use crate::NetworkError;
use std::path::Path;
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Not everybody's PATH has the folders of the system's tools.
const PLACES: [&str; 4] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/usr/local/sbin/nft"];
/// Of its complaints, bytes that are shown.
const WORDS: usize = 400;

/// Where it is.
///
/// # Errors
/// When there is none.
pub fn program() -> Result<&'static str, NetworkError> {
    PLACES.into_iter().find(|place| Path::new(place).exists()).ok_or(NetworkError::NoNft)
}

/// Carries out a script: all of it or nothing.
///
/// # Errors
/// When there is no nft, or it refuses.
pub async fn run(script: &str) -> Result<(), NetworkError> {
    let program = program()?;
    let failed = NetworkError::system("run nft");
    let mut command = Command::new(program);
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    // A daemon that ends in the middle loses a transaction, never half of one.
    let mut child = command.kill_on_drop(true).spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // Should it not read, its words say why.
        let _ = stdin.write_all(script.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(NetworkError::system("wait for nft"))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let words: String = words.lines().filter(|line| !line.trim().is_empty()).collect::<Vec<_>>().join("; ");
    Err(NetworkError::Nft(words.chars().take(WORDS).collect()))
}
