//! `vial inspect`.

use super::print_json;
use crate::client::{Client, escape};
use crate::error::{Error, Result};
use hyper::Method;
use serde_json::Value;
use vial_api::ErrorKind;

/// Prints all that is known of each name, as a JSON list. A container is looked for first, then an image.
///
/// # Errors
/// When the daemon can't, or there is neither.
pub async fn inspect(client: &Client, names: &[String]) -> Result<i32> {
    let (mut found, mut code) = (Vec::new(), 0);
    for name in names {
        match one(client, name).await {
            Ok(value) => found.push(value),
            Err(error) => {
                eprintln!("vial: {error}");
                code = 1;
            }
        }
    }
    print_json(&found)?;
    Ok(code)
}

async fn one(client: &Client, name: &str) -> Result<Value> {
    let name_escaped = escape(name);
    match client.json(Method::GET, &format!("/containers/{name_escaped}")).await {
        Err(Error::Api(body)) if body.kind == ErrorKind::NoSuchContainer => {}
        other => return other,
    }
    match client.json(Method::GET, &format!("/images/{name_escaped}")).await {
        Err(Error::Api(body)) if body.kind == ErrorKind::NoSuchImage => Err(Error::Message(format!(
            "no container and no image is called {name}; see: vial ps -a, vial images"
        ))),
        other => other,
    }
}
