//! A guest that was taken over, and talks to the host in the agent's name.

use agent_protocol::{Request, StreamHeader, StreamKind};
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream as Socket;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use vial_vm::{AgentClient, OutputStream};

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_all().build().unwrap();
}

/// Longer than anything here takes: the far end has said all that it will say.
const LONG: Duration = Duration::from_secs(60);

/// A connection on which these bytes and then an end arrive; and the far end, which must live as long.
fn connection(bytes: &[u8]) -> (UnixStream, Socket) {
    let (ours, mut theirs) = Socket::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    // More than the socket holds is cut: a connection may break anywhere.
    let _ = theirs.write(bytes);
    theirs.shutdown(Shutdown::Write).unwrap();
    (UnixStream::from_std(ours).unwrap(), theirs)
}

/// The control connection: a hello, then answers and events.
pub fn client(bytes: &[u8]) {
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let (ours, _theirs) = connection(bytes);
            let Ok((client, mut events)) = AgentClient::connect(ours, "secret", true, LONG).await else {
                return;
            };
            let shutdowns = vec![Request::Shutdown; 2];
            let answers = client.send(shutdowns).await.unwrap_or_default();
            let mut last = None;
            while let Some((number, _)) = events.next().await {
                assert!(last.is_none_or(|last| number == last + 1), "events come in order");
                last = Some(number);
                let _ = client.ack(number).await;
            }
            for answer in answers {
                let _ = answer.await;
            }
            let _ = client.closed().await;
        });
    });
}

/// An output stream: a reply, then chunks.
pub fn stream(bytes: &[u8]) {
    let header = StreamHeader {
        token: "secret".into(),
        container: "c".into(),
        exec: None,
        stream: StreamKind::Stdout,
        offset: 0,
    };
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let (ours, _theirs) = connection(bytes);
            let Ok(mut stream) = OutputStream::open(ours, &header).await else { return };
            let mut taken = 0;
            while let Ok(Some(chunk)) = stream.next().await {
                taken += chunk.len();
                assert_eq!(stream.offset(), taken as u64);
                let _ = stream.ack(stream.offset()).await;
            }
            assert!(taken <= bytes.len());
        });
    });
}
