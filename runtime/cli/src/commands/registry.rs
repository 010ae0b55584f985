//! `vial pull`, `push`, `tag`, and how a registry is spoken to on behalf of the user who runs this.

use super::say;
use super::transfer::{self, Finished, Talk, Way};
use crate::args::{PullArgs, PullPolicy, PushArgs, RegistryArgs, RunArgs, TagArgs};
use crate::client::Client;
use crate::error::{Error, Result};
use std::sync::mpsc;
use std::time::Duration;
use vial_api::{ErrorKind, PullImage, PushImage, RegistryAccess, RegistryCredential, TagImage};
use vial_registry::Credential;
use vial_registry::credentials::{CredentialError, DockerConfig};

impl From<CredentialError> for Error {
    fn from(error: CredentialError) -> Self {
        Self::Message(error.to_string())
    }
}

/// The options of a command, and what this user has for the registry.
///
/// # Errors
/// When a file can't be read, or a helper fails.
pub fn access(registry: &str, args: &RegistryArgs) -> Result<RegistryAccess> {
    let credential = match DockerConfig::of_user() {
        Ok(config) => patiently(config.helper(registry).map(str::to_owned), || config.credential(registry))?,
        // A service without a home has no credentials, and may need none.
        Err(CredentialError::NoHome) => None,
        Err(error) => return Err(error.into()),
    };
    with(credential, args)
}

/// How long a credential helper may take until it is said who is waited for.
const SILENCE: Duration = Duration::from_secs(3);

/// Does what may ask a credential helper. One that takes long may be asking its user something, so it is not cut off, but named.
pub fn patiently<T>(helper: Option<String>, ask: impl FnOnce() -> T) -> T {
    let Some(helper) = helper else { return ask() };
    let (done, waiting) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        if waiting.recv_timeout(SILENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            crate::output::tell(&format!(
                "waiting for docker-credential-{helper}, which the Docker configuration names to keep credentials; Ctrl-C gives up"
            ));
        }
    });
    let answer = ask();
    drop(done);
    answer
}

/// The options of a command with this credential.
///
/// # Errors
/// When a file can't be read.
pub fn with(credential: Option<Credential>, args: &RegistryArgs) -> Result<RegistryAccess> {
    let tls_ca = match &args.tls_ca {
        Some(path) => {
            let text = std::fs::read_to_string(path);
            Some(text.map_err(Error::io(format!("read {}", path.display())))?)
        }
        None => None,
    };
    let credential = credential.map(|credential| match credential {
        Credential::Password { username, password } => RegistryCredential::Password { username, password },
        Credential::IdentityToken(token) => RegistryCredential::IdentityToken { token },
    });
    Ok(RegistryAccess { credential, insecure: args.insecure, tls_ca })
}

/// Pulls an image.
///
/// # Errors
/// When that fails; nothing of it stays then.
pub async fn fetch(
    client: &Client,
    image: &str,
    platform: Option<String>,
    args: &RegistryArgs,
    talk: Talk,
) -> Result<Finished> {
    let access = access(vial_registry::registry_of(image), args)?;
    let request = PullImage { image: image.to_owned(), platform, access };
    transfer::follow(client, "/images/pull", &request, Way::Pull, talk).await
}

/// The image of a run, and when it is fetched.
#[derive(Debug)]
pub struct Fetch {
    image: String,
    policy: PullPolicy,
    registry: RegistryArgs,
}

impl Fetch {
    /// As the options say.
    pub fn new(args: &RunArgs) -> Self {
        Self { image: args.image.clone(), policy: args.pull, registry: args.registry.clone() }
    }

    /// Fetches it if that is to be done every time.
    ///
    /// # Errors
    /// When that fails.
    pub async fn before(&self, client: &Client) -> Result<()> {
        if self.policy == PullPolicy::Always { self.fetch(client).await } else { Ok(()) }
    }

    /// Whether the image was missing and may be fetched.
    pub fn may_help(&self, error: &Error) -> bool {
        self.policy == PullPolicy::Missing
            && matches!(error, Error::Api(body) if body.kind == ErrorKind::NoSuchImage)
    }

    /// Fetches what was missing.
    ///
    /// # Errors
    /// When that fails.
    pub async fn missing(&self, client: &Client, error: &Error) -> Result<()> {
        // What it may have been meant to be is worth knowing even when a fetch is tried.
        let told = error.to_string();
        match told.contains("did you mean") {
            true => crate::output::tell(&told),
            false => crate::output::tell(&format!("there is no image {} on this machine", self.image)),
        }
        self.fetch(client).await
    }

    async fn fetch(&self, client: &Client) -> Result<()> {
        fetch(client, &self.image, None, &self.registry, Talk::Usual).await.map(drop)
    }
}

/// `vial pull`
///
/// # Errors
/// When that fails; nothing of it stays then.
pub async fn pull(client: &Client, args: PullArgs) -> Result<i32> {
    let talk = if args.quiet { Talk::Quiet } else { Talk::Usual };
    let done = fetch(client, &args.image, args.platform, &args.registry, talk).await?;
    if !args.quiet {
        say(&format!("Digest: {}", done.digest))?;
        let status = if done.changed { "Downloaded newer image for" } else { "Image is up to date for" };
        say(&format!("Status: {status} {}", done.name))?;
    }
    say(&done.name)?;
    Ok(0)
}

/// `vial push`
///
/// # Errors
/// When that fails; the tag there is what it was then.
pub async fn push(client: &Client, args: PushArgs) -> Result<i32> {
    let talk = if args.quiet { Talk::Quiet } else { Talk::Usual };
    let access = access(vial_registry::registry_of(&args.image), &args.registry)?;
    let request = PushImage { image: args.image, access };
    let done = transfer::follow(client, "/images/push", &request, Way::Push, talk).await?;
    if !args.quiet {
        say(&format!("Digest: {}", done.digest))?;
        let status = if done.changed { "Pushed" } else { "Already there:" };
        say(&format!("Status: {status} {}", done.name))?;
    }
    say(&done.name)?;
    Ok(0)
}

/// `vial tag`
///
/// # Errors
/// When there is no such image, or the name is none.
pub async fn tag(client: &Client, args: TagArgs) -> Result<i32> {
    client.order("/images/tag", &TagImage { image: args.image, name: args.name }).await?;
    Ok(0)
}
