//! Where a registry is and how it may be spoken to.

use crate::config::Registries;
use crate::error::Cause;
use hyper::Uri;
use std::net::IpAddr;

/// Scheme and address of a registry or a mirror of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// As people write the registry: `docker.io`, `localhost:5000`.
    pub name: String,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Host, and port where one is given.
    pub authority: String,
}

/// Docker Hub's name and where it really is.
const HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

impl Endpoint {
    /// The registry of this name. `insecure`: the user wants plain HTTP.
    ///
    /// # Errors
    /// When plain HTTP is wanted and neither the registry is on this machine nor the configuration allows it.
    pub fn new(registry: &str, insecure: bool, registries: &Registries) -> Result<Self, Cause> {
        let listed = registries.is_insecure(registry);
        if insecure && !listed && !is_loopback(registry) {
            return Err(Cause::PlainHttp);
        }
        let scheme = if insecure || listed { "http" } else { "https" };
        let authority = if registry == HUB.0 { HUB.1 } else { registry };
        Ok(Self { name: registry.to_owned(), scheme, authority: authority.to_owned() })
    }

    /// A mirror as the configuration writes it: an address with its scheme.
    pub fn mirror(url: &str) -> Option<Self> {
        let (scheme, authority) = url.split_once("://")?;
        let scheme = match scheme {
            "https" => "https",
            "http" => "http",
            _ => return None,
        };
        let authority = authority.trim_end_matches('/');
        let plain = !authority.is_empty() && !authority.contains(['/', '@', '?', '#', ' ']);
        plain.then(|| Self { name: authority.to_owned(), scheme, authority: authority.to_owned() })
    }

    /// The address of a path of it.
    pub fn url(&self, path_and_query: &str) -> Result<Uri, Cause> {
        let text = format!("{}://{}{path_and_query}", self.scheme, self.authority);
        text.parse().map_err(|error| Cause::Protocol(format!("the address {text} is none: {error}")))
    }
}

/// Whether a `host[:port]` can only be this machine. Names are not looked up: who answers for them may change.
pub fn is_loopback(authority: &str) -> bool {
    let host = host_of(authority);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The host without its port and brackets.
pub fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => authority.split(':').next().unwrap_or(authority),
    }
}

/// Scheme, host and port: credentials go only where these are the same.
pub fn origin(uri: &Uri) -> Option<(&str, &str, u16)> {
    let scheme = uri.scheme_str()?;
    let port = uri.port_u16().unwrap_or(if scheme == "http" { 80 } else { 443 });
    Some((scheme, uri.host()?, port))
}

/// Where an answer's `Location` leads from `from`, if it may be followed.
///
/// # Errors
/// When it is no address, or would leave TLS, or goes in the clear to another machine.
pub fn follow(from: &Uri, location: &str) -> Result<Uri, Cause> {
    let refused = |why: &str| Cause::Redirect(format!("{why} ({})", crate::error::clean(location)));
    let (scheme, authority) = match (from.scheme_str(), from.authority()) {
        (Some(scheme), Some(authority)) => (scheme, authority.as_str()),
        _ => return Err(refused("it starts from nowhere")),
    };
    let absolute = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        location.to_owned()
    };
    let to: Uri = absolute.parse().map_err(|_| refused("it is no address"))?;
    match to.scheme_str() {
        Some("https") if to.host().is_some() => Ok(to),
        Some("http") if scheme == "https" => Err(refused("it leads from TLS to plain HTTP")),
        Some("http") => match (to.host(), to.authority()) {
            // In the clear only where that was allowed already, or on this machine.
            (Some(host), Some(next)) if next.as_str() == authority || is_loopback(host) => Ok(to),
            _ => Err(refused("it leads to plain HTTP at another machine")),
        },
        _ => Err(refused("it is no web address")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> Registries {
        Registries::default()
    }

    #[test]
    fn plain_http_is_for_this_machine_or_what_is_listed() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.3.2.1", "[::1]:5000"] {
            assert_eq!(Endpoint::new(host, true, &none()).unwrap().scheme, "http", "{host}");
            assert_eq!(Endpoint::new(host, false, &none()).unwrap().scheme, "https", "{host}");
        }
        for host in ["r.io", "10.0.0.1:5000", "localhost.evil.io", "127.0.0.1.evil.io:5000"] {
            assert!(matches!(Endpoint::new(host, true, &none()), Err(Cause::PlainHttp)), "{host}");
        }
        let listed = Registries::parse(br#"{"insecure-registries":["10.0.0.1:5000"]}"#).unwrap();
        assert_eq!(Endpoint::new("10.0.0.1:5000", false, &listed).unwrap().scheme, "http");
        assert!(Endpoint::new("10.0.0.1:5001", true, &listed).is_err());
    }

    #[test]
    fn docker_hub_is_elsewhere() {
        let hub = Endpoint::new("docker.io", false, &none()).unwrap();
        assert_eq!(hub.url("/v2/").unwrap().to_string(), "https://registry-1.docker.io/v2/");
    }

    #[test]
    fn redirects_never_leave_tls() {
        let from: Uri = "https://r.io/v2/a/blobs/x".parse().unwrap();
        assert_eq!(follow(&from, "https://cdn.io/x?y=z").unwrap().to_string(), "https://cdn.io/x?y=z");
        assert_eq!(follow(&from, "/other").unwrap().to_string(), "https://r.io/other");
        assert_eq!(follow(&from, "//cdn.io/x").unwrap().to_string(), "https://cdn.io/x");
        for bad in ["http://r.io/x", "file:///etc/passwd", "", "https://", "other", "http://127.0.0.1/x"] {
            assert!(follow(&from, bad).is_err(), "{bad}");
        }
        let plain: Uri = "http://127.0.0.1:5000/x".parse().unwrap();
        assert!(follow(&plain, "http://localhost:6000/y").is_ok());
        assert!(follow(&plain, "https://cdn.io/y").is_ok());
        assert!(follow(&plain, "http://169.254.169.254/y").is_err());
    }

    #[test]
    fn mirrors_are_addresses_without_a_path() {
        assert_eq!(Endpoint::mirror("https://m.io/").unwrap().authority, "m.io");
        for bad in ["m.io", "ftp://m.io", "https://m.io/path", "https://u:p@m.io", "https://"] {
            assert_eq!(Endpoint::mirror(bad), None, "{bad}");
        }
    }
}
