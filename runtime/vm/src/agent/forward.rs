//! A connection to a port of the pod, through the agent.

use super::stream::StreamError;
use super::{invalid, read_frame};
use agent_protocol::frame::{self, MAX_HEADER};
use agent_protocol::{ForwardHeader, ForwardReply};
use std::io;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

/// Has a fresh connection to the agent's forward port connected with a port of the pod; its bytes are that port's from then on.
///
/// # Errors
/// The agent's refusal (nobody listens), a lost connection, or a broken protocol.
pub(crate) async fn forward(
    mut stream: UnixStream,
    header: &ForwardHeader,
) -> Result<UnixStream, StreamError> {
    let bytes = frame::encode(header, MAX_HEADER).map_err(|e| StreamError::Broken(e.to_string()))?;
    stream.write_all(&bytes).await.map_err(StreamError::from_io)?;
    let body = read_frame(&mut stream, MAX_HEADER).await.map_err(StreamError::from_io)?;
    let body = body.ok_or_else(|| StreamError::from_io(io::ErrorKind::UnexpectedEof.into()))?;
    let reply: ForwardReply = frame::decode(&body).map_err(|e| StreamError::from_io(invalid(e)))?;
    reply.result?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_protocol::{AgentError, ErrorKind};
    use tokio::io::AsyncReadExt;

    /// What comes of an agent that answers with these bytes and is gone.
    async fn answered_with(bytes: &[u8]) -> Result<String, StreamError> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(bytes).await.unwrap();
        theirs.shutdown().await.unwrap();
        let header = ForwardHeader { token: "t".into(), port: 80 };
        let mut stream = forward(ours, &header).await?;
        let sent = read_frame(&mut theirs, MAX_HEADER).await.unwrap().unwrap();
        assert_eq!(frame::decode::<ForwardHeader>(&sent).unwrap(), header);
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        Ok(text)
    }

    #[tokio::test]
    async fn what_comes_right_behind_the_answer_is_the_ports() {
        let mut bytes = frame::encode(&ForwardReply { result: Ok(()) }, MAX_HEADER).unwrap();
        bytes.extend(b"hello");
        assert_eq!(answered_with(&bytes).await.unwrap(), "hello");
    }

    #[tokio::test]
    async fn refusals_and_rubbish_are_told_apart() {
        let refusal = ForwardReply { result: Err(AgentError::new(ErrorKind::NotFound, "nobody")) };
        let refusal = frame::encode(&refusal, MAX_HEADER).unwrap();
        assert!(matches!(answered_with(&refusal).await, Err(StreamError::Refused(_))));
        assert!(matches!(answered_with(b"").await, Err(StreamError::Lost(_))));
        for rubbish in [&u32::MAX.to_le_bytes()[..], b"\x05\0\0\0hello"] {
            assert!(matches!(answered_with(rubbish).await, Err(StreamError::Broken(_))));
        }
    }
}
