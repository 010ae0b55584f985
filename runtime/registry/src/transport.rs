//! One HTTP exchange: connections (through a proxy where the environment names one), TLS, time-outs, bounded bodies.

use crate::endpoint::is_loopback;
use crate::error::Cause;
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tower_service::Service;

/// A request's body.
pub type Body = BoxBody<Bytes, std::io::Error>;
type Boxed = Box<dyn StdError + Send + Sync>;

/// No body.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

/// A body at hand.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(15);

/// Sends requests and keeps connections open between them.
#[derive(Debug, Clone)]
pub struct Transport {
    client: Client<HttpsConnector<Connector>, Body>,
}

impl Transport {
    /// With this trust.
    pub fn new(tls: ClientConfig) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT));
        let connector = Connector { http, proxies: Arc::new(Matcher::from_env()) };
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        Self { client: Client::builder(TokioExecutor::new()).build(https) }
    }

    /// Sends a request; returns when the answer's head is there, which may take `patience` after the body moved last. `sent` counts
    /// the body's bytes.
    ///
    /// # Errors
    /// When there is no connection or no answer.
    pub async fn send(
        &self,
        request: Request<Body>,
        patience: Duration,
        sent: Option<&AtomicU64>,
    ) -> Result<Response<Incoming>, Cause> {
        let mut answer = std::pin::pin!(self.client.request(request));
        let count = || sent.map_or(0, |sent| sent.load(Ordering::Relaxed));
        let mut before = count();
        loop {
            match tokio::time::timeout(patience, answer.as_mut()).await {
                Ok(answer) => return answer.map_err(|error| cause(&error)),
                Err(_) if count() == before => return Err(Cause::Stalled(patience)),
                Err(_) => before = count(),
            }
        }
    }
}

/// The next piece of a body; `None` at its end.
///
/// # Errors
/// When nothing comes for `patience`, or the connection breaks.
pub async fn piece(body: &mut Incoming, patience: Duration) -> Result<Option<Bytes>, Cause> {
    loop {
        let Ok(frame) = tokio::time::timeout(patience, body.frame()).await else {
            return Err(Cause::Stalled(patience));
        };
        match frame {
            None => return Ok(None),
            Some(Err(error)) => return Err(Cause::Broken(innermost(&error))),
            // Trailers say nothing to us.
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data()
                    && !data.is_empty()
                {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// A whole body of at most `limit` bytes.
///
/// # Errors
/// When it is longer, stalls or breaks.
pub async fn read(
    mut body: Incoming,
    what: &'static str,
    limit: u64,
    patience: Duration,
) -> Result<Vec<u8>, Cause> {
    let mut bytes = Vec::new();
    while let Some(piece) = piece(&mut body, patience).await? {
        if (bytes.len() + piece.len()) as u64 > limit {
            return Err(Cause::TooLong { what, limit });
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

fn cause(error: &ClientError) -> Cause {
    if let Some(tls) = find::<rustls::Error>(error) {
        return match tls {
            rustls::Error::InvalidMessage(_) => Cause::NotTls,
            rustls::Error::InvalidCertificate(why) => Cause::Certificate(certificate(why)),
            rustls::Error::General(why) => Cause::Certificate(why.clone()),
            other => Cause::Broken(other.to_string()),
        };
    }
    let why = innermost(error);
    if error.is_connect() { Cause::Unreachable(why) } else { Cause::Broken(why) }
}

fn certificate(why: &rustls::CertificateError) -> String {
    match why {
        rustls::CertificateError::UnknownIssuer => "nobody whom this machine trusts has signed it".into(),
        // The only way to tell: the library keeps it among "other" errors.
        rustls::CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "it is self-signed, calls itself a CA, and was not given as this registry's own".into()
        }
        other => other.to_string(),
    }
}

/// The first error of this type in a chain; `io::Error` hides what it wraps from `source`.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

/// The error at the bottom of a chain: it says most.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut at = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}

/// TCP, through the proxy that `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` name. Plain HTTP goes to its host itself: it is for this machine
/// and for listed neighbours.
#[derive(Debug, Clone)]
struct Connector {
    http: HttpConnector,
    proxies: Arc<Matcher>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = Boxed;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Boxed>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Boxed>> {
        self.http.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let local = to.authority().is_some_and(|authority| is_loopback(authority.as_str()));
        let tls = to.scheme_str() == Some("https");
        match self.proxies.intercept(&to).filter(|_| tls && !local) {
            Some(proxy) if proxy.uri().scheme_str() == Some("http") => {
                let mut tunnel = Tunnel::new(proxy.uri().clone(), self.http.clone());
                if let Some(auth) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(auth.clone());
                }
                let connecting = tunnel.call(to);
                let shown = proxy.uri().authority().map(ToString::to_string).unwrap_or_default();
                Box::pin(async move {
                    connecting
                        .await
                        .map_err(|error| format!("the proxy {shown}: {}", innermost(&error)).into())
                })
            }
            Some(proxy) => {
                let scheme = proxy.uri().scheme_str().unwrap_or_default().to_owned();
                Box::pin(async move {
                    Err(format!("a proxy of the kind {scheme} is not supported, only http").into())
                })
            }
            None => {
                let connecting = self.http.call(to);
                Box::pin(async move { connecting.await.map_err(Into::into) })
            }
        }
    }
}
