//! A container's image: here, or fetched, as its policy says.

use super::pods::Node;
use super::steps::Unmet;
use crate::{images, registry};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use vial_orchestrator::controllers::kind;
use vial_orchestrator::node::Part;
use vial_orchestrator::object;
use vial_orchestrator::store::{Key, Stored};
use vial_registry::{Credential, registry_of};

/// Has a container's image here.
///
/// # Errors
/// It can't be had.
pub async fn ensure(node: &Node, pod: &Stored, part: &Part<'_>) -> Result<(), Unmet> {
    let (image, policy) =
        (object::text(part.spec, &["image"]), object::text(part.spec, &["imagePullPolicy"]));
    let is_here = images::resolve(&node.daemon, image).await.is_ok();
    match (policy, is_here) {
        ("IfNotPresent", true) | ("Never", true) => {
            node.tell(
                pod,
                part.name,
                (false, "Pulled", format!("Container image {image:?} already present on machine")),
            );
            return Ok(());
        }
        ("Never", false) => {
            let message = format!("Container image {image:?} is not present with pull policy of Never");
            return Err(Unmet {
                first: "ErrImageNeverPull",
                later: "ErrImageNeverPull",
                event: "ErrImageNeverPull",
                message,
            });
        }
        _ => {}
    }
    node.tell(pod, part.name, (false, "Pulling", format!("Pulling image {image:?}")));
    match registry::fetch(&node.daemon, image, credential(node, pod, image)).await {
        Ok(()) => {
            node.tell(pod, part.name, (false, "Pulled", format!("Successfully pulled image {image:?}")));
            Ok(())
        }
        Err(error) if error.0.kind == vial_api::ErrorKind::InvalidArgument => {
            let message = format!("Failed to apply default image tag {image:?}: {error}");
            Err(Unmet {
                first: "InvalidImageName",
                later: "InvalidImageName",
                event: "InspectFailed",
                message,
            })
        }
        Err(error) => Err(Unmet {
            first: "ErrImagePull",
            later: "ImagePullBackOff",
            event: "Failed",
            message: format!("Failed to pull image {image:?}: {error}"),
        }),
    }
}

/// The user that an image names; empty: none.
///
/// # Errors
/// A sentence that says why it can't be looked at.
pub async fn user(node: &Node, image: &str) -> Result<String, String> {
    let found = images::resolve(&node.daemon, image).await.map_err(|error| error.to_string())?;
    Ok(found.config.config().as_ref().and_then(|config| config.user().clone()).unwrap_or_default())
}

/// What the Pod's `imagePullSecrets` say of the image's registry.
fn credential(node: &Node, pod: &Stored, image: &str) -> Option<Credential> {
    let namespace = object::namespace(&pod.object);
    let names = object::list(&pod.object, &["spec", "imagePullSecrets"]).iter();
    names.map(|secret| object::text(secret, &["name"])).find_map(|name| {
        let secret = node.engine.store().get(&Key::new(kind("secrets"), namespace, name))?;
        of_secret(&secret.object, registry_of(image))
    })
}

/// A registry's entry in a secret: in Docker's file, or in the older one, which is no more than the entries.
fn of_secret(secret: &Value, registry: &str) -> Option<Credential> {
    let file = |key| {
        let text = object::text(secret, &["data", key]);
        serde_json::from_slice::<Value>(&STANDARD.decode(text).ok()?).ok()
    };
    let new = file(".dockerconfigjson").and_then(|file| of_entries(file.get("auths")?, registry));
    new.or_else(|| of_entries(&file(".dockercfg")?, registry))
}

fn of_entries(entries: &Value, registry: &str) -> Option<Credential> {
    // Docker Hub has had many names.
    let is_meant = |key: &str| {
        let host = key
            .trim_start_matches("https://")
            .trim_start_matches("http://")
            .split('/')
            .next()
            .unwrap_or_default();
        host == registry
            || registry == "docker.io" && matches!(host, "index.docker.io" | "registry-1.docker.io")
    };
    let entry = entries.as_object()?.iter().find(|(key, _)| is_meant(key))?.1;
    let (username, password) = match object::text(entry, &["auth"]) {
        "" => (object::text(entry, &["username"]).to_owned(), object::text(entry, &["password"]).to_owned()),
        auth => {
            let text = String::from_utf8(STANDARD.decode(auth).ok()?).ok()?;
            let (username, password) = text.split_once(':')?;
            (username.to_owned(), password.to_owned())
        }
    };
    (!username.is_empty()).then_some(Credential::Password { username, password })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn dockers_files_are_read() {
        let entries = r#"{"https://index.docker.io/v1/": {"auth": "dTpw"}, "r:5000": {"username": "a", "password": "b"}}"#;
        let new =
            json!({"data": {".dockerconfigjson": STANDARD.encode(format!("{{\"auths\": {entries}}}"))}});
        let old = json!({"data": {".dockercfg": STANDARD.encode(entries)}});
        for secret in [new, old] {
            for (registry, user) in [("docker.io", Some("u")), ("r:5000", Some("a")), ("x", None)] {
                let found = of_secret(&secret, registry);
                let name = match &found {
                    Some(Credential::Password { username, .. }) => Some(username.as_str()),
                    _ => None,
                };
                assert_eq!(name, user, "{registry}");
            }
        }
        let nonsense = json!({"data": {".dockerconfigjson": STANDARD.encode("nonsense"), ".dockercfg": "%"}});
        assert!(of_secret(&nonsense, "x").is_none());
    }
}
