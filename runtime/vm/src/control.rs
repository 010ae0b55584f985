//! The VMM's control socket and the vsock connections that it forwards.

use crate::{Error, sys_path};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::io::{ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use vmm::api::control::{MAX_REPLY, Reply, Request};

/// How long a VMM may take for an answer; it is a matter of microseconds unless it is stuck.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// A little less than a VMM waits for its guest to take a connection.
const GIVEN_UP_AFTER: Duration = Duration::from_millis(1500);

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
        read_line(&mut stream, MAX_REPLY).await
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

/// Connects to a port of the guest. Waits as long as the guest does not answer: whoever asks knows how long that may be.
pub(crate) async fn connect(socket: &Path, port: u32) -> Result<UnixStream, Error> {
    connect_again(socket, port, GIVEN_UP_AFTER).await
}

/// The VMM gives a guest two seconds, as Firecracker does. An end that came that late (`late`) is no refusal, but a guest that is slow: its
/// host is busy, or its memory is full.
async fn connect_again(socket: &Path, port: u32, late: Duration) -> Result<UnixStream, Error> {
    let refused = |reason: String| Error::Connect { port, reason };
    loop {
        let begun = Instant::now();
        match connect_once(socket, port).await {
            Ok(Some(stream)) => return Ok(stream),
            Ok(None) => return Err(refused("the VM process answered nonsense".into())),
            Err(error) if error.kind() != ErrorKind::UnexpectedEof => return Err(refused(error.to_string())),
            Err(_) if begun.elapsed() < late => return Err(refused("nothing listens there".into())),
            Err(_) => {}
        }
    }
}

/// Asks once; nothing if the answer makes no sense.
async fn connect_once(socket: &Path, port: u32) -> std::io::Result<Option<UnixStream>> {
    let mut stream = open(socket).await?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
    // "OK " and a 32-bit number.
    let line = read_line(&mut stream, 16).await?;
    let number = line.strip_prefix(b"OK ").and_then(|n| std::str::from_utf8(n).ok());
    Ok(number.and_then(|n| n.trim_end().parse::<u32>().ok()).map(|_| stream))
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    /// A VMM that gives up so often before its guest answers.
    async fn answers(listener: UnixListener, lost: usize) {
        for round in 0..=lost {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert_eq!(read_line(&mut stream, 32).await.unwrap(), b"CONNECT 9");
            if round == lost {
                stream.write_all(b"OK 1024\n").await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn a_guest_that_is_slow_is_asked_again_and_one_that_refuses_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v");
        let vmm = tokio::spawn(answers(UnixListener::bind(&path).unwrap(), 2));
        let refused = connect_again(&path, 9, Duration::MAX).await.unwrap_err();
        assert!(refused.to_string().contains("nothing listens"), "{refused}");
        connect_again(&path, 9, Duration::ZERO).await.unwrap();
        vmm.await.unwrap();
    }
}
