//! SPDY/3.1 as Kubernetes' clients speak it: the client opens streams, the server accepts and answers on them.
//!
//! **Flow control**: none. The library of those clients (moby/spdystream) neither keeps to windows nor opens them, so a server that waited for a
//! WINDOW_UPDATE would wait for ever. What bounds a connection is that it is not read while one of its streams is behind, which TCP
//! tells the other side; it does so in Kubernetes too.

mod connection;
mod dictionary;
mod frame;
mod headers;

pub(super) use connection::{Outlet, Stream, serve};
pub use frame::{Decoder, Event, FrameError, MAX_DATA};
pub use headers::Headers;
