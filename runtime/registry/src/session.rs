//! Requests to one registry: authenticated when it asks for that, redirected where that is safe.

use crate::auth::{self, Credential, TokenRequest};
use crate::challenge::{self, Challenge};
use crate::config::Registries;
use crate::endpoint::{Endpoint, follow, origin};
use crate::error::{Cause, Error, Result, words};
use crate::limits;
use crate::tls;
use crate::transport::{self, Body, Transport};
use hyper::body::Incoming;
use hyper::header::{
    AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT, WWW_AUTHENTICATE,
};
use hyper::{Method, Request, Response, StatusCode, Uri};
use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How we introduce ourselves.
pub const AGENT: &str = concat!("vial/", env!("CARGO_PKG_VERSION"));

/// How long to wait, and how often to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Longest time in which nothing comes or goes.
    pub idle: Duration,
    /// How often in a row a transfer is taken up again without getting further.
    pub attempts: u32,
    /// Wait before the first of them; each further one is twice as long.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { idle: Duration::from_secs(30), attempts: 5, pause: Duration::from_millis(500) }
    }
}

/// A registry, and who is asking it.
#[derive(Debug)]
pub struct Registry {
    pub(crate) endpoint: Endpoint,
    pub(crate) patience: Patience,
    transport: Transport,
    credential: Option<Credential>,
    /// What it accepted so far, by scope.
    granted: Mutex<HashMap<String, HeaderValue>>,
}

/// One request, before authentication.
pub(crate) struct Ask<'a> {
    pub method: Method,
    pub url: Uri,
    pub headers: HeaderMap,
    /// What a token must allow, one or more: `repository:a/b:pull`.
    pub scopes: &'a [String],
    /// How long the answer's head may take after the last byte of the body went.
    pub patience: Duration,
    /// Bytes of the body that went so far, where that takes time.
    pub sent: Option<Arc<AtomicU64>>,
}

impl Registry {
    /// Sets up everything but connections. `ca`: PEM to be trusted for this registry, besides what the machine trusts.
    ///
    /// # Errors
    /// When TLS can't be set up.
    pub fn new(
        endpoint: Endpoint,
        credential: Option<Credential>,
        ca: Option<&[u8]>,
        registries: &Registries,
        patience: Patience,
    ) -> Result<Self> {
        let tls = tls::config(&endpoint.name, ca, registries).map_err(|cause| Error {
            registry: endpoint.name.clone(),
            what: "set up a connection".into(),
            cause,
        })?;
        Ok(Self { endpoint, patience, transport: Transport::new(tls), credential, granted: Mutex::default() })
    }

    /// Its name, as people write it.
    pub fn name(&self) -> &str {
        &self.endpoint.name
    }

    /// Whether it lets us in with the credentials that we have.
    ///
    /// # Errors
    /// When not, or when it is no registry.
    pub async fn check(&self) -> Result<()> {
        let what = || "log in".to_owned();
        let checked = async {
            let ask = self.ask(Method::GET, "/v2/", &[])?;
            let answer = self.send(&ask, transport::empty).await?;
            let status = answer.status();
            let body =
                transport::read(answer.into_body(), "answer", limits::MAX_ERROR_BODY, self.patience.idle)
                    .await?;
            match status {
                StatusCode::OK => Ok(()),
                StatusCode::NOT_FOUND => Err(Cause::Protocol("it has no /v2/, so it is no registry".into())),
                status => Err(Cause::Status { status: status.as_u16(), said: words(&body) }),
            }
        };
        checked.await.map_err(|cause| self.error(what(), cause))
    }

    pub(crate) fn error(&self, what: impl Into<String>, cause: Cause) -> Error {
        Error { registry: self.endpoint.name.clone(), what: what.into(), cause }
    }

    pub(crate) fn ask<'a>(&self, method: Method, path: &str, scopes: &'a [String]) -> Result<Ask<'a>, Cause> {
        let url = self.endpoint.url(path)?;
        Ok(Ask { method, url, headers: HeaderMap::new(), scopes, patience: self.patience.idle, sent: None })
    }

    fn granted(&self) -> MutexGuard<'_, HashMap<String, HeaderValue>> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request; meets a challenge once, and follows redirects of what only reads.
    pub(crate) async fn send(
        &self,
        ask: &Ask<'_>,
        body: impl Fn() -> Body,
    ) -> Result<Response<Incoming>, Cause> {
        let home = self.endpoint.url("/")?;
        let mut url = ask.url.clone();
        let scope = ask.scopes.join(" ");
        let mut challenged = false;
        for _ in 0..=limits::MAX_REDIRECTS + 1 {
            // Credentials are for the registry itself: whoever it sends us to gets none.
            let ours = origin(&url) == origin(&home);
            let header = if ours { self.granted().get(&scope).cloned() } else { None };
            let request = build(ask, &url, header, body())?;
            let answer = self.transport.send(request, ask.patience, ask.sent.as_deref()).await?;
            match answer.status() {
                StatusCode::UNAUTHORIZED if ours && !challenged => {
                    challenged = true;
                    let granted = self.meet(&url, answer, ask.scopes).await?;
                    self.granted().insert(scope.clone(), granted);
                }
                StatusCode::UNAUTHORIZED if ours => return Err(self.unauthorized(answer).await),
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT
                    if ask.method == Method::GET || ask.method == Method::HEAD =>
                {
                    url = follow(&url, location(&answer)?)?;
                }
                _ => return Ok(answer),
            }
        }
        Err(Cause::Redirect(format!("there are more than {}", limits::MAX_REDIRECTS)))
    }

    /// Gets what a challenge asks for.
    async fn meet(
        &self,
        url: &Uri,
        answer: Response<Incoming>,
        scopes: &[String],
    ) -> Result<HeaderValue, Cause> {
        let headers = answer.headers().get_all(WWW_AUTHENTICATE).iter().take(8);
        let challenges: Vec<Challenge> =
            headers.filter_map(|value| value.to_str().ok()).flat_map(challenge::parse).collect();
        let bearer = challenges.iter().find_map(|challenge| match challenge {
            Challenge::Bearer { realm, service, scope } => Some((realm, service, scope)),
            Challenge::Basic => None,
        });
        if let Some((realm, service, scope)) = bearer {
            let mut wanted: Vec<&str> = scopes.iter().map(String::as_str).collect();
            // A registry may know a repository by another name than we do; then its word counts too.
            wanted.extend(scope.as_deref().filter(|scope| !scopes.iter().any(|own| own == scope)));
            let request = TokenRequest {
                from: url,
                realm,
                service: service.as_deref(),
                scopes: wanted,
                credential: self.credential.as_ref(),
            };
            return auth::token(&self.transport, request, self.patience.idle).await;
        }
        let basic = self.credential.as_ref().and_then(Credential::basic);
        match basic.filter(|_| challenges.contains(&Challenge::Basic)) {
            Some(header) => Ok(header),
            None => Err(self.unauthorized(answer).await),
        }
    }

    async fn unauthorized(&self, answer: Response<Incoming>) -> Cause {
        let body =
            transport::read(answer.into_body(), "answer", limits::MAX_ERROR_BODY, self.patience.idle).await;
        Cause::Unauthorized { said: words(&body.unwrap_or_default()), had_some: self.credential.is_some() }
    }

    /// What an answer means that is not the one that was hoped for.
    pub(crate) async fn failure(&self, answer: Response<Incoming>) -> Cause {
        let status = answer.status();
        let body =
            transport::read(answer.into_body(), "answer", limits::MAX_ERROR_BODY, self.patience.idle).await;
        let said = words(&body.unwrap_or_default());
        match status {
            StatusCode::NOT_FOUND => Cause::NotFound(said),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Cause::Unauthorized { said, had_some: self.credential.is_some() }
            }
            status => Cause::Status { status: status.as_u16(), said },
        }
    }
}

fn location(answer: &Response<Incoming>) -> Result<&str, Cause> {
    let header = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    header.ok_or_else(|| Cause::Redirect("it leads nowhere".into()))
}

fn build(
    ask: &Ask<'_>,
    url: &Uri,
    authorization: Option<HeaderValue>,
    body: Body,
) -> Result<Request<Body>, Cause> {
    let mut request =
        Request::builder().method(ask.method.clone()).uri(url.clone()).header(USER_AGENT, AGENT);
    for (name, value) in &ask.headers {
        request = request.header(name, value);
    }
    if let Some(value) = authorization {
        request = request.header(AUTHORIZATION, value);
    }
    request.body(body).map_err(|error| Cause::Protocol(format!("no request can be made: {error}")))
}

/// A header of our own making.
pub(crate) fn header(headers: &mut HeaderMap, name: HeaderName, value: &str) -> Result<(), Cause> {
    let value =
        HeaderValue::from_str(value).map_err(|_| Cause::Protocol(format!("{value:?} fits no header")))?;
    headers.append(name, value);
    Ok(())
}
