//! TCP connections, passed on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections at once; more wait in the socket's queue.
const MAX: usize = 512;
/// How long a pod may take to accept.
const CONNECT: Duration = Duration::from_secs(10);
/// After a failure of accept, for which there is nothing to wait on (no descriptors left).
const PAUSE: Duration = Duration::from_millis(100);

/// Passes on for ever.
pub async fn relay(listener: TcpListener, target: SocketAddr) {
    let slots = Arc::new(Semaphore::new(MAX));
    loop {
        // Never closed.
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let mut client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(_) => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        tokio::spawn(async move {
            let _slot = slot;
            // A pod that does not answer: the client sees its connection close, as with nobody there.
            let Ok(Ok(mut pod)) = tokio::time::timeout(CONNECT, TcpStream::connect(target)).await else {
                return;
            };
            let _ = client.set_nodelay(true);
            let _ = pod.set_nodelay(true);
            let _ = tokio::io::copy_bidirectional(&mut client, &mut pod).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn both_ways_and_both_ends() {
        let pod = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let front = TcpListener::bind("[::1]:0").await.unwrap();
        let address = front.local_addr().unwrap();
        tokio::spawn(relay(front, pod.local_addr().unwrap()));
        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut served, _) = pod.accept().await.unwrap();
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut text = String::new();
        served.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "question");
        served.write_all(b"answer").await.unwrap();
        drop(served);
        text.clear();
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "answer");
    }
}
