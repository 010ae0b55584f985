//! Where bytes of one stream to a client go, whichever transport it came by; and those from it.

use super::{spdy, web};
use std::io;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// A client whose input nobody takes is asked so often whether it is still there.
const ASKED: Duration = Duration::from_secs(15);

/// Passes on what a client sent. While nobody takes it the connection is not read, so the client's end is not seen: only what is written to it
/// finds that out.
///
/// # Errors
/// The client is gone. That nobody will ever take it is none: it is dropped, as a closed pipe would.
pub(super) async fn deliver<T, F: Future<Output = io::Result<()>>>(
    to: &mpsc::Sender<T>,
    item: T,
    ping: impl Fn() -> F,
) -> io::Result<()> {
    let sending = to.send(item);
    tokio::pin!(sending);
    while timeout(ASKED, &mut sending).await.is_err() {
        ping().await?;
    }
    Ok(())
}

/// One stream's way to the client.
#[derive(Clone)]
pub(super) enum Outlet {
    Web(web::Writer, u8),
    Spdy(spdy::Outlet),
}

impl Outlet {
    pub(super) async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Web(writer, channel) => writer.send(*channel, bytes).await,
            Self::Spdy(outlet) => outlet.send(bytes).await,
        }
    }

    /// Nothing more comes. A WebSocket has no word for that that all clients know: its end is that of all.
    pub(super) async fn finish(&self) {
        if let Self::Spdy(outlet) = self {
            outlet.finish().await;
        }
    }

    /// Waits until the client does not want this stream any more.
    pub(super) async fn reset(&mut self) {
        match self {
            Self::Web(..) => std::future::pending().await,
            Self::Spdy(outlet) => outlet.reset().await,
        }
    }
}
