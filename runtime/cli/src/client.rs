//! The daemon's API from the client's side: one connection per request.

use crate::error::{Error, Result};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::os::unix::net::UnixStream as StdStream;
use tokio::net::UnixStream;
use vial_api::{ErrorBody, ErrorKind, PREFIX};
use vial_daemon::Paths;
use vial_daemon::detach;

/// A request's body.
#[derive(Debug)]
pub enum Body {
    /// All of it is at hand, so it can be sent twice.
    Whole(Bytes),
    /// What comes of it is gone.
    Streamed(BoxBody<Bytes, std::io::Error>),
}

impl Body {
    /// The same once more.
    fn again(&self) -> Option<Self> {
        match self {
            Self::Whole(bytes) => Some(Self::Whole(bytes.clone())),
            Self::Streamed(_) => None,
        }
    }

    fn into_http(self) -> BoxBody<Bytes, std::io::Error> {
        match self {
            Self::Whole(bytes) => Full::new(bytes).map_err(|never| match never {}).boxed(),
            Self::Streamed(body) => body,
        }
    }
}

/// Upper bound of an answer that is read whole, in bytes.
const MAX_ANSWER: usize = 256 << 20;
/// Daemons that may end, one after the other, before they read a request.
const ATTEMPTS: u32 = 5;

/// Where the daemon is.
#[derive(Debug, Clone)]
pub struct Client {
    paths: Paths,
}

/// What an upgrade's answer says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradeAnswer {
    /// Id of the container behind it.
    pub container: String,
    /// Where in its log the bytes of standard output and error on this connection begin.
    pub position: [u64; 2],
    /// What the container has to do without.
    pub warning: Option<String>,
}

/// A whole body.
pub fn body(bytes: impl Into<Bytes>) -> Body {
    Body::Whole(bytes.into())
}

/// Escapes a path segment or a query value (RFC 3986, unreserved characters stay).
pub fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

impl Client {
    /// The daemon of the environment's folders.
    pub fn from_env() -> Self {
        Self { paths: Paths::from_env() }
    }

    /// Its folders.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Starts a daemon when none runs.
    ///
    /// # Errors
    /// When that does not work.
    pub fn start_daemon(&self) -> Result<()> {
        Ok(detach::connect_or_start(&self.paths).map(drop)?)
    }

    /// [`Error::Unheard`] tells that the request can be made again whatever it asks for.
    async fn dispatch(&self, stream: StdStream, mut request: Request<Body>) -> Result<Response<Incoming>> {
        let fail = |error: std::io::Error| Error::Connection(error.to_string());
        stream.set_nonblocking(true).map_err(fail)?;
        let stream = UnixStream::from_std(stream).map_err(fail)?;
        let (mut sender, connection) =
            http1::handshake::<_, BoxBody<Bytes, std::io::Error>>(TokioIo::new(stream)).await?;
        // Ends with the connection; an error in it reaches the request too.
        tokio::spawn(connection.with_upgrades());
        request.headers_mut().insert(HOST, hyper::header::HeaderValue::from_static("vial"));
        let whole = matches!(request.body(), Body::Whole(_));
        let answer = sender.send_request(request.map(Body::into_http)).await;
        // Of a streamed one something may have been read.
        answer.map_err(|error| if whole && unread(&error) { Error::Unheard } else { error.into() })
    }

    /// Sends a request, to a daemon that is started when none runs; an answer other than a success is an error.
    ///
    /// # Errors
    /// When there is no daemon to be had, or it says no.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Body,
        headers: &[(hyper::header::HeaderName, &str)],
    ) -> Result<Response<Incoming>> {
        let mut next = Some(body);
        let mut attempts = ATTEMPTS;
        let response = loop {
            let Some(body) = next else { return Err(lost()) };
            attempts -= 1;
            next = body.again().filter(|_| attempts > 0);
            let mut request = Request::builder().method(method.clone()).uri(format!("{PREFIX}{path}"));
            for (name, value) in headers {
                request = request.header(name, *value);
            }
            let request = request
                .body(body)
                .map_err(|error| Error::Message(format!("cannot ask the daemon: {error}")))?;
            match self.dispatch(detach::connect_or_start(&self.paths)?, request).await {
                // The next connection is refused, or in the next daemon's queue: nothing is waited for.
                Err(Error::Unheard) => {}
                answer => break answer?,
            }
        };
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let bytes = whole(response).await?;
        Err(Error::Api(serde_json::from_slice(&bytes).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(&bytes);
            ErrorBody::new(ErrorKind::Unknown, format!("the daemon answered {status}: {}", text.trim()))
        })))
    }

    /// A request without a body whose answer is JSON.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn json<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<T> {
        let once = async || {
            let response = self.send(method.clone(), path, body(""), &[]).await?;
            Ok(serde_json::from_slice(&whole(response).await?)?)
        };
        match once().await {
            // The daemon was killed meanwhile. Such a request can be made twice; its successor answers.
            Err(Error::Connection(_)) => once().await,
            answer => answer,
        }
    }

    /// A request with a JSON body whose answer is JSON.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn post<T: DeserializeOwned>(&self, path: &str, value: &impl Serialize) -> Result<T> {
        let json = [(CONTENT_TYPE, "application/json")];
        let response = self.send(Method::POST, path, body(serde_json::to_vec(value)?), &json).await?;
        Ok(serde_json::from_slice(&whole(response).await?)?)
    }

    /// A request with a JSON body whose answer is that it was done.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn order(&self, path: &str, value: &impl Serialize) -> Result<()> {
        let json = [(CONTENT_TYPE, "application/json")];
        self.send(Method::POST, path, body(serde_json::to_vec(value)?), &json).await.map(drop)
    }

    /// A request whose connection becomes one of stream frames. Returns the id of the container behind it too.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn upgrade(&self, path: &str, value: &impl Serialize) -> Result<(TokioIo<Upgraded>, String)> {
        let (connection, upgraded) = self.upgrade_at(path, value).await?;
        Ok((connection, upgraded.container))
    }

    /// The same, and where in the container's log its output begins.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn upgrade_at(
        &self,
        path: &str,
        value: &impl Serialize,
    ) -> Result<(TokioIo<Upgraded>, UpgradeAnswer)> {
        let headers =
            [(CONTENT_TYPE, "application/json"), (CONNECTION, "upgrade"), (UPGRADE, vial_api::UPGRADE)];
        let response = self.send(Method::POST, path, body(serde_json::to_vec(value)?), &headers).await?;
        let header =
            |name| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (stdout, stderr) = header(vial_api::POSITION_HEADER).split_once(',').unwrap_or_default();
        let upgraded = UpgradeAnswer {
            container: header(vial_api::CONTAINER_HEADER).to_owned(),
            position: [stdout.parse().unwrap_or(0), stderr.parse().unwrap_or(0)],
            warning: Some(header(vial_api::WARNING_HEADER).to_owned()).filter(|text| !text.is_empty()),
        };
        Ok((TokioIo::new(hyper::upgrade::on(response).await?), upgraded))
    }

    /// What a daemon that runs answers to a request without a body; none is started, and whatever goes wrong is no answer.
    pub async fn ask_running<T: DeserializeOwned>(&self, path: &str) -> Option<T> {
        let stream = detach::connect(&self.paths).ok()??;
        let request = Request::get(format!("{PREFIX}{path}")).body(body("")).ok()?;
        let response = self.dispatch(stream, request).await.ok()?;
        serde_json::from_slice(&whole(response).await.ok()?).ok()
    }

    /// The daemon's version, if one runs; none is started.
    ///
    /// # Errors
    /// When one runs and does not answer.
    pub async fn running(&self) -> Result<Option<vial_api::Version>> {
        for _ in 0..ATTEMPTS {
            let Some(stream) = detach::connect(&self.paths)? else { return Ok(None) };
            let request = Request::get(format!("{PREFIX}/version")).body(body(""));
            let request =
                request.map_err(|error| Error::Message(format!("cannot ask the daemon: {error}")))?;
            match self.dispatch(stream, request).await {
                Err(Error::Unheard) => {}
                answer => return Ok(Some(serde_json::from_slice(&whole(answer?).await?)?)),
            }
        }
        Err(lost())
    }
}

fn lost() -> Error {
    Error::Connection("it ended before it read the request".into())
}

/// Whether a request failed because the other end of its socket went before all of it was read. A daemon that is killed listens until the
/// kernel comes to that descriptor, which takes a while when it holds interfaces; who connects meanwhile is cut off. The kernel tells that
/// from a daemon that had read all (af_unix.c, unix_release_sock): reading gives ECONNRESET then, not the end; writing gives EPIPE.
fn unread(error: &hyper::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let io = causes.filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.into_iter().any(|error| matches!(error.kind(), BrokenPipe | ConnectionReset))
}

/// An answer's whole body.
async fn whole(response: Response<Incoming>) -> Result<Bytes> {
    let collected = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    Ok(collected.map_err(|error| Error::Connection(error.to_string()))?.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    /// What a client makes of a daemon that does this with its one connection.
    fn asked(serve: impl FnOnce(UnixListener) + Send) -> Result<Response<Incoming>> {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let stream = StdStream::connect(&socket).expect("it listens");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        std::thread::scope(|scope| {
            scope.spawn(|| serve(listener));
            runtime.block_on(async {
                let request = Request::post("/").body(body("{}")).expect("a request");
                Client::from_env().dispatch(stream, request).await
            })
        })
    }

    #[test]
    fn a_request_that_nobody_read_is_told_from_one_that_was() {
        assert!(matches!(asked(drop), Err(Error::Unheard)));
        let half = asked(|listener| {
            let (mut stream, _) = listener.accept().expect("a connection");
            stream.read_exact(&mut [0; 10]).expect("ten bytes");
        });
        assert!(matches!(half, Err(Error::Unheard)));
        let all = asked(|listener| {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut read = Vec::new();
            while !read.ends_with(b"{}") {
                let mut buffer = [0; 100];
                let count = stream.read(&mut buffer).expect("more of the request");
                read.extend_from_slice(&buffer[..count]);
            }
        });
        assert!(matches!(all, Err(Error::Connection(_))));
    }

    #[test]
    fn names_cannot_leave_their_segment() {
        assert_eq!(super::escape("a b/../c?d=é"), "a%20b%2F..%2Fc%3Fd%3D%C3%A9");
        assert_eq!(super::escape("web-1.2_x~"), "web-1.2_x~");
    }
}
