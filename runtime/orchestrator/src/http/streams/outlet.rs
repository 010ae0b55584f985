//! Where bytes of one stream to a client go, whichever transport it came by.

use super::{spdy, web};
use std::io;

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
