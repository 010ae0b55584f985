//! `vial inspect`.

use super::{print_json, say, say_whole};
use crate::client::{Client, escape};
use crate::error::{Error, Result};
use crate::format::Template;
use crate::list_args::{InspectArgs, Kind};
use hyper::Method;
use serde_json::Value;
use vial_api::ErrorKind;

/// Prints all that is known of each name, as a JSON list, or each by the template. A container is looked for
/// first, then an image, unless the kind is said.
///
/// # Errors
/// When the daemon can't, or there is neither.
pub async fn inspect(client: &Client, args: &InspectArgs) -> Result<i32> {
    // Before anything is asked, so that a mistake in it is told first.
    let template = match args.format.as_deref() {
        None | Some("json") => None,
        Some(text) => Some(Template::parse(text).map_err(|error| Error::Message(error.to_string()))?),
    };
    let (mut found, mut code) = (Vec::new(), 0);
    for name in &args.names {
        match one(client, name, args.kind).await.and_then(|value| filled(template.as_ref(), value)) {
            Ok(Shown::Text(text)) => say_whole(&text)?,
            Ok(Shown::Value(value)) => found.push(value),
            Err(error) => {
                crate::output::tell(&error.to_string());
                code = 1;
            }
        }
    }
    match args.format.as_deref() {
        None => print_json(&found)?,
        Some("json") => {
            for value in &found {
                say(&serde_json::to_string(value)?)?;
            }
        }
        Some(_) => {}
    }
    Ok(code)
}

enum Shown {
    Text(String),
    Value(Value),
}

fn filled(template: Option<&Template>, value: Value) -> Result<Shown> {
    match template {
        Some(template) => {
            template.fill(&value).map(Shown::Text).map_err(|error| Error::Message(error.to_string()))
        }
        None => Ok(Shown::Value(value)),
    }
}

async fn one(client: &Client, name: &str, kind: Option<Kind>) -> Result<Value> {
    let name_escaped = escape(name);
    if kind != Some(Kind::Image) {
        match client.json(Method::GET, &format!("/containers/{name_escaped}")).await {
            Err(Error::Api(body)) if body.kind == ErrorKind::NoSuchContainer && kind.is_none() => {}
            other => return other,
        }
    }
    match client.json(Method::GET, &format!("/images/{name_escaped}")).await {
        Err(Error::Api(body)) if body.kind == ErrorKind::NoSuchImage && kind.is_none() => {
            Err(Error::Message(format!(
                "no container and no image is called {name}; see: vial ps -a, vial images"
            )))
        }
        other => other,
    }
}
