//! Registries: `/v1/images/pull`, `/v1/images/push`, `/v1/images/tag`, `/v1/registries/login`.

mod pull;
mod push;
mod transfer;

use crate::error::{ApiError, Result};
use crate::state::Shared;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use pull::Pull;
use push::Push;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::task::spawn_blocking;
pub use transfer::Transfers;
use vial_api::{
    ErrorKind, LoginCheck, PullImage, PushImage, RegistryAccess, RegistryCredential, TagImage, TransferEvent,
};
use vial_image::ImageName;
use vial_registry::{ConfigError, Credential, Endpoint, Patience, Platform, Registries, Registry};

impl From<vial_registry::Error> for ApiError {
    fn from(error: vial_registry::Error) -> Self {
        use vial_registry::ErrorKind as Kind;
        let kind = match error.cause.kind() {
            Kind::NotFound => ErrorKind::NoSuchImage,
            Kind::Unauthorized => ErrorKind::Unauthorized,
            Kind::Invalid => ErrorKind::InvalidArgument,
            Kind::Unavailable => ErrorKind::Unavailable,
            Kind::Bad => ErrorKind::BadImage,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<ConfigError> for ApiError {
    fn from(error: ConfigError) -> Self {
        Self::new(ErrorKind::InvalidArgument, error.to_string())
    }
}

/// `POST /v1/images/pull`
pub async fn pull(State(daemon): State<Shared>, body: Bytes) -> Result<Response> {
    let request: PullImage = crate::body::json(&body)?;
    let platform = request.platform.as_deref().map_or_else(
        || Ok(Platform::of_this_machine()),
        |text| text.parse().map_err(|why: String| ApiError::new(ErrorKind::InvalidArgument, why)),
    )?;
    // The whole request: whoever has other credentials, or trusts others, must not get what they would be refused.
    let key = String::from_utf8_lossy(&body).into_owned();
    let pull = Pull { name: name(&request.image)?, platform, access: request.access.into() };
    let doing = daemon.clone();
    Ok(daemon.transfers.follow(key, |transfer| pull.run(doing, transfer)))
}

/// Fetches an image, as often as it is asked for: what is here already is only compared.
///
/// # Errors
/// When the name is none, or the registry does not give it.
pub async fn fetch(daemon: &Shared, image: &str, credential: Option<Credential>) -> Result<()> {
    let name = name(image)?;
    // Nobody shares what another's credential gets.
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let key = match &credential {
        None => format!("fetch {image}"),
        Some(_) => format!("fetch {image} {}", NUMBER.fetch_add(1, Ordering::Relaxed)),
    };
    let access = Access { credential, insecure: false, ca: None };
    let pull = Pull { name, platform: Platform::of_this_machine(), access };
    let doing = daemon.clone();
    match daemon.transfers.end_of(key, |transfer| pull.run(doing, transfer)).await {
        TransferEvent::Failed(error) => Err(ApiError(error)),
        _ => Ok(()),
    }
}

/// `POST /v1/images/push`
pub async fn push(State(daemon): State<Shared>, body: Bytes) -> Result<Response> {
    let request: PushImage = crate::body::json(&body)?;
    let name = name(&request.image)?;
    let Some(tag) = name.tag().map(str::to_owned) else {
        let words = format!("{name} can't be pushed by its digest; give it a tag first: vial tag");
        return Err(ApiError::new(ErrorKind::InvalidArgument, words));
    };
    // Before anything else, so that a wrong name is answered as one.
    crate::images::resolve(&daemon, &name.full()).await?;
    let key = format!("push {}", String::from_utf8_lossy(&body));
    let push = Push { name, tag, access: request.access.into() };
    let doing = daemon.clone();
    Ok(daemon.transfers.follow(key, |transfer| push.run(doing, transfer)))
}

/// `POST /v1/images/tag`
pub async fn tag(State(daemon): State<Shared>, body: Bytes) -> Result<()> {
    let request: TagImage = crate::body::json(&body)?;
    crate::images::resolve(&daemon, &request.image).await?;
    spawn_blocking(move || daemon.images.tag(&request.image, &request.name)).await??;
    Ok(())
}

/// `POST /v1/registries/login`
pub async fn login(body: Bytes) -> Result<()> {
    let request: LoginCheck = crate::body::json(&body)?;
    // Whatever fits in front of a repository is a registry.
    let named = format!("{}/x", request.registry).parse::<ImageName>().map(|name| name.domain().to_owned());
    let registry = named.ok().filter(|domain| *domain == request.registry).ok_or_else(|| {
        let words =
            format!("{:?} is no registry's name, as in docker.io or localhost:5000", request.registry);
        ApiError::new(ErrorKind::InvalidArgument, words)
    })?;
    let access = Access::from(request.access);
    let registries = spawn_blocking(Registries::of_this_machine).await??;
    let endpoint = access.endpoint(&registry, vial_registry::LOG_IN, &registries)?;
    Ok(access.open(endpoint, registries).await?.check().await?)
}

fn name(text: &str) -> Result<ImageName> {
    text.parse().map_err(|error| {
        ApiError::new(ErrorKind::InvalidArgument, format!("{text:?} is not a valid image name: {error}"))
    })
}

/// The first digits of a digest, as people see it.
fn short(digest: &str) -> String {
    digest.strip_prefix("sha256:").unwrap_or(digest).chars().take(12).collect()
}

/// How to speak to a registry for one user.
#[derive(Debug, Clone)]
pub struct Access {
    credential: Option<Credential>,
    insecure: bool,
    ca: Option<String>,
}

impl From<RegistryAccess> for Access {
    fn from(access: RegistryAccess) -> Self {
        let credential = access.credential.map(|credential| match credential {
            RegistryCredential::Password { username, password } => {
                Credential::Password { username, password }
            }
            RegistryCredential::IdentityToken { token } => Credential::IdentityToken(token),
        });
        Self { credential, insecure: access.insecure, ca: access.tls_ca }
    }
}

impl Access {
    /// Where a registry is. `what`: for errors.
    fn endpoint(&self, registry: &str, what: &str, registries: &Registries) -> Result<Endpoint> {
        Endpoint::new(registry, self.insecure, registries).map_err(|cause| {
            vial_registry::Error { registry: registry.to_owned(), what: what.to_owned(), cause }.into()
        })
    }

    /// A session at a registry. Certificates are read from files, so not here.
    async fn open(&self, endpoint: Endpoint, registries: Registries) -> Result<Arc<Registry>> {
        let this = self.clone();
        let opened = spawn_blocking(move || {
            let ca = this.ca.as_deref().map(str::as_bytes);
            Registry::new(endpoint, this.credential, ca, &registries, patience())
        });
        Ok(Arc::new(opened.await??))
    }
}

/// The usual patience; tests and odd networks may want another.
fn patience() -> Patience {
    let usual = Patience::default();
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    Patience {
        idle: number("VIAL_REGISTRY_TIMEOUT_S")
            .map_or(usual.idle, |n| std::time::Duration::from_secs(n.into())),
        attempts: number("VIAL_REGISTRY_ATTEMPTS").unwrap_or(usual.attempts),
        ..usual
    }
}
