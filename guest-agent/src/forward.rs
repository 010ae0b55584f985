//! Connections to ports of the pod: the VM's network is the pod's, so the agent's loopback is.

use crate::control::{HELLO_LIMIT, hello};
use crate::errors::internal;
use crate::frames;
use agent_protocol::frame::MAX_HEADER;
use agent_protocol::{AgentError, ErrorKind, ForwardHeader, ForwardReply};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Serves one connection until both sides have ended it.
pub async fn serve<C>(token: &str, mut host: C) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let header: ForwardHeader = timeout(HELLO_LIMIT, frames::read(&mut host, MAX_HEADER)).await??;
    let connected = match hello::same(&header.token, token) {
        true => connect(header.port).await,
        false => Err(hello::unauthorized()),
    };
    let (connection, result) = match connected {
        Ok(connection) => (Some(connection), Ok(())),
        Err(error) => (None, Err(error)),
    };
    timeout(HELLO_LIMIT, frames::write(&mut host, &ForwardReply { result }, MAX_HEADER)).await??;
    let Some(mut connection) = connection else { return Ok(()) };
    copy_bidirectional(&mut host, &mut connection).await.map(drop)
}

/// Kubernetes' runtimes look at both loopbacks too, the older one first.
async fn connect(port: u16) -> Result<TcpStream, AgentError> {
    let connected = match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.map_err(|_| error)
        }
        other => other,
    };
    let connection = connected.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            AgentError::new(ErrorKind::NotFound, format!("nobody listens on port {port} in the pod"))
        }
        _ => internal("the port can't be connected to")(error),
    })?;
    // What is small must not wait for what comes next.
    connection.set_nodelay(true).map_err(internal("the connection can't be set up"))?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn ask(token: &str, port: u16) -> (tokio::io::DuplexStream, ForwardReply) {
        let (mut host, agent) = tokio::io::duplex(1 << 16);
        tokio::spawn(async move { serve("secret", agent).await });
        let header = ForwardHeader { token: token.into(), port };
        frames::write(&mut host, &header, MAX_HEADER).await.unwrap();
        let reply = frames::read(&mut host, MAX_HEADER).await.unwrap();
        (host, reply)
    }

    #[tokio::test]
    async fn both_ways_end_by_themselves() {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut server, _) = listener.accept().await.unwrap();
            let mut bytes = Vec::new();
            server.read_to_end(&mut bytes).await.unwrap();
            server.write_all(&bytes).await.unwrap();
        });
        let (mut host, reply) = ask("secret", port).await;
        assert_eq!(reply.result, Ok(()));
        host.write_all(b"hello").await.unwrap();
        host.shutdown().await.unwrap();
        let mut back = String::new();
        host.read_to_string(&mut back).await.unwrap();
        assert_eq!(back, "hello");
    }

    #[tokio::test]
    async fn who_has_no_secret_or_no_listener_is_told() {
        let (_, reply) = ask("wrong", 1).await;
        assert_eq!(reply.result.unwrap_err().kind, ErrorKind::Unauthorized);
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let (_, reply) = ask("secret", port).await;
        assert_eq!(reply.result.unwrap_err().kind, ErrorKind::NotFound);
    }
}
