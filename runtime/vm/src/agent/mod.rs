//! Talking to the agent in a guest: one control connection, and one connection per stdio stream.
//!
//! Whatever comes from a guest is hostile until proved otherwise: every length is checked before anything is allocated for
//! it, what is kept is bounded in bytes, and a peer that breaks the protocol loses its connection with an error that says how.

mod client;
mod forward;
mod stdin;
mod stream;

pub use client::{AgentCallError, AgentClient, Events, Pending};
pub(crate) use forward::forward;
pub use stdin::StdinStream;
pub use stream::{OutputStream, StreamError};

use crate::Error;
use agent_protocol::frame::{self, MAX_HEADER, PREFIX};
use agent_protocol::{PROTOCOL, PROTOCOL_MIN, Ready, Welcome};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Upper bound of a text that an agent gives about itself (build, kernel), in bytes.
const MAX_TEXT: usize = 256;

/// Reads one frame's body; none is an end between frames.
async fn read_frame<R: AsyncRead + Unpin>(from: &mut R, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut prefix = [0; PREFIX];
    match from.read_exact(&mut prefix).await {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    }
    let length = frame::body_length(prefix, limit).map_err(invalid)?;
    let mut body = vec![0; length];
    from.read_exact(&mut body).await?;
    Ok(Some(body))
}

fn invalid(e: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e.to_string())
}

/// Reads the agent's report.
pub(crate) async fn read_ready(socket: &mut UnixStream) -> Result<Ready, Error> {
    let bad = |e: io::Error| Error::BadAgent(format!("its report can't be read: {e}"));
    let body = read_frame(socket, MAX_HEADER).await.map_err(bad)?;
    let body = body.ok_or_else(|| Error::BadAgent("its connection closed before its report".into()))?;
    let ready: Ready = frame::decode(&body).map_err(|e| bad(invalid(e)))?;
    if ready.protocol < PROTOCOL_MIN {
        return Err(Error::BadAgent(format!(
            "it speaks protocol {}, this build needs {PROTOCOL_MIN} to {PROTOCOL}; start the VM with this build's agent",
            ready.protocol
        )));
    }
    let printable = |text: &str| text.len() <= MAX_TEXT && !text.contains(|c: char| c.is_control());
    if !printable(&ready.build) || !printable(&ready.kernel) {
        return Err(Error::BadAgent("its report contains control characters or is too long".into()));
    }
    Ok(ready)
}

/// Gives the agent its secret.
pub(crate) async fn send_welcome(socket: &mut UnixStream, token: &str) -> Result<(), Error> {
    let bad = |e: io::Error| Error::BadAgent(format!("it did not take its secret: {e}"));
    let bytes =
        frame::encode(&Welcome { token: token.to_owned() }, MAX_HEADER).map_err(|e| bad(invalid(e)))?;
    socket.write_all(&bytes).await.map_err(bad)
}

#[cfg(test)]
mod tests;
