//! The VMM's control socket and the vsock connections that it forwards.

use crate::{Error, sys_path};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use vmm::api::control::{MAX_LINE, Reply, Request};

/// How long a VMM may take for an answer; it is a matter of microseconds unless it is stuck.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Asks the VMM for something.
pub(crate) async fn call(socket: &Path, request: Request) -> Result<Reply, Error> {
    call_with(socket, request, &[]).await
}

/// Asks the VMM for something and hands these descriptors over.
pub(crate) async fn call_with(socket: &Path, request: Request, files: &[OwnedFd]) -> Result<Reply, Error> {
    let exchange = async {
        let mut stream = open(socket).await?;
        let mut line = serde_json::to_vec(&request)?;
        line.push(b'\n');
        // Descriptors go with the first bytes.
        let sent = match files {
            [] => 0,
            files => stream.async_io(Interest::WRITABLE, || send(&stream, &line, files)).await?,
        };
        stream.write_all(&line[sent..]).await?;
        read_line(&mut stream, MAX_LINE).await
    };
    let line = match tokio::time::timeout(ANSWER_WITHIN, exchange).await {
        Ok(line) => line.map_err(|e| Error::Control(e.to_string()))?,
        Err(_) => return Err(Error::TimedOut { what: "an answer of the VM process", within: ANSWER_WITHIN }),
    };
    match serde_json::from_slice(&line) {
        Ok(Reply::Fault { fault_message }) => Err(Error::Control(fault_message)),
        Ok(reply) => Ok(reply),
        Err(e) => Err(Error::Control(format!("its answer makes no sense: {e}"))),
    }
}

/// Connects to a port of the guest.
pub(crate) async fn connect(socket: &Path, port: u32) -> Result<UnixStream, Error> {
    let refused = |reason: String| Error::Connect { port, reason };
    let mut stream = open(socket).await.map_err(|e| refused(e.to_string()))?;
    let exchange = async {
        stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
        // "OK " and a 32-bit number.
        read_line(&mut stream, 16).await
    };
    let line = exchange.await.map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => refused("nothing listens there".into()),
        _ => refused(e.to_string()),
    })?;
    let number = line.strip_prefix(b"OK ").and_then(|n| std::str::from_utf8(n).ok());
    match number.and_then(|n| n.trim_end().parse::<u32>().ok()) {
        Some(_) => Ok(stream),
        None => Err(refused("the VM process answered nonsense".into())),
    }
}

fn send(socket: impl AsFd, bytes: &[u8], files: &[OwnedFd]) -> std::io::Result<usize> {
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let mut space = vec![MaybeUninit::uninit(); SendAncillaryMessage::ScmRights(&files).size()];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(rustix::io::Errno::MSGSIZE.into());
    }
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
}

async fn open(socket: &Path) -> std::io::Result<UnixStream> {
    let (path, _folder) = sys_path::short(socket)?;
    UnixStream::connect(&path).await
}

/// Reads up to a line's end and not a byte further: what follows belongs to whoever gets the connection.
async fn read_line(stream: &mut UnixStream, limit: usize) -> std::io::Result<Vec<u8>> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => return Ok(line),
            _ if line.len() == limit => return Err(std::io::Error::other("its answer is too long")),
            byte => line.push(byte),
        }
    }
}
