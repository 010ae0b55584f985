//! `vial login`, `vial logout`: what a user has for a registry, kept where Docker keeps it.

use super::registry::{patiently, with};
use super::say;
use crate::args::{LoginArgs, LogoutArgs};
use crate::client::Client;
use crate::error::{Error, Result};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{BufRead, IsTerminal, Read, Write};
use vial_api::LoginCheck;
use vial_registry::Credential;
use vial_registry::credentials::DockerConfig;

/// Longest password that is read, in bytes. Tokens of some registries have a few thousand.
const MAX_PASSWORD: u64 = 64 << 10;

/// Asks the registry whether it takes them, then keeps them.
///
/// # Errors
/// When it does not, or they can't be kept.
pub async fn login(client: &Client, mut args: LoginArgs) -> Result<i32> {
    args.registry = registry(&args.registry).to_owned();
    let mut config = DockerConfig::of_user()?;
    let username = match args.username {
        Some(username) => username,
        None => ask(&format!("Username for {}: ", args.registry), true)?,
    };
    let password = match args.password {
        Some(password) => password,
        None if args.password_stdin => {
            let mut text = String::new();
            let read = std::io::stdin().take(MAX_PASSWORD).read_to_string(&mut text);
            read.map_err(Error::io("read the password from standard input"))?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        None => ask("Password: ", false)?,
    };
    // A colon would end the name in Basic authentication (RFC 7617).
    if username.is_empty() || username.contains(':') || password.is_empty() {
        let words = "a user name without a colon and a password are needed; nothing was changed";
        return Err(Error::Message(words.into()));
    }
    let credential = Credential::Password { username: username.clone(), password: password.clone() };
    let access = with(Some(credential), &args.access)?;
    client.order("/registries/login", &LoginCheck { registry: args.registry.clone(), access }).await?;
    let helper = config.helper(&args.registry).map(str::to_owned);
    if patiently(helper, || config.store(&args.registry, &username, &password))?.is_none() {
        crate::output::tell(&format!(
            "the password is kept unencrypted in {}; name a credential helper in it (credsStore) for better",
            config.path().display()
        ));
    }
    say("Login Succeeded")?;
    Ok(0)
}

/// Forgets them.
///
/// # Errors
/// When that can't be done.
pub fn logout(args: &LogoutArgs) -> Result<i32> {
    let registry = registry(&args.registry);
    let mut config = DockerConfig::of_user()?;
    let there = patiently(config.helper(registry).map(str::to_owned), || config.erase(registry))?;
    say(&match there {
        true => format!("Removed the login of {registry}"),
        false => format!("Not logged in to {registry}"),
    })?;
    Ok(0)
}

/// The registry that a person means: Docker takes the address of its API too, and Docker Hub's name of old.
fn registry(text: &str) -> &str {
    let bare = text.split_once("://").map_or(text, |(_, rest)| rest);
    match bare.split_once('/').map_or(bare, |(host, _)| host) {
        "index.docker.io" => "docker.io",
        host => host,
    }
}

/// A line from the terminal, shown while it is typed or not.
fn ask(prompt: &str, shown: bool) -> Result<String> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let words = "standard input is no terminal to ask at; say: vial login -u NAME --password-stdin";
        return Err(Error::Message(words.into()));
    }
    let mut stderr = std::io::stderr();
    // A terminal that can't be written to can still be read from.
    let _ = write!(stderr, "{prompt}").and_then(|()| stderr.flush());
    let _hidden = if shown { None } else { Some(Hidden::new()?) };
    let mut line = String::new();
    stdin.lock().read_line(&mut line).map_err(Error::io("read from the terminal"))?;
    if !shown {
        let _ = writeln!(stderr);
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// A terminal that does not show what is typed, until this is dropped.
struct Hidden(Termios);

impl Hidden {
    fn new() -> Result<Self> {
        let fail = |error: rustix::io::Errno| Error::Message(format!("cannot hide the password: {error}"));
        let before = tcgetattr(std::io::stdin()).map_err(fail)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &hidden).map_err(fail)?;
        Ok(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_a_registry_names_it() {
        for (text, name) in [
            ("r.io:5000", "r.io:5000"),
            ("https://r.io/v2/", "r.io"),
            ("http://localhost:5000", "localhost:5000"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("docker.io", "docker.io"),
        ] {
            assert_eq!(registry(text), name, "{text}");
        }
    }
}
