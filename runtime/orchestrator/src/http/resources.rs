//! Requests about objects.

use super::accept::{self, Form};
use super::reply::{self, Reply};
use super::request::{Objects, Query};
use super::watch::{self, Wish, partial};
use crate::decode::{self, Decoded};
use crate::engine::{DeleteOptions, Deleted, Engine, Patch, Target, WriteOptions, Written, check_uid};
use crate::object;
use crate::selector::LabelSelector;
use crate::status::{ApiError, Reason};
use crate::store::Stored;
use crate::table::{self, Include};
use hyper::Method;
use serde_json::{Value, json};

/// A request without its path.
pub(super) struct Call<'a> {
    pub(super) method: &'a Method,
    pub(super) query: Query,
    pub(super) accept: &'a str,
    pub(super) agent: &'a str,
    pub(super) content_type: &'a str,
    pub(super) body: &'a [u8],
}

impl Call<'_> {
    fn include(&self) -> Include {
        match self.query.text("includeObject") {
            "None" => Include::None,
            "Object" => Include::Object,
            _ => Include::Metadata,
        }
    }
}

pub(super) fn serve(engine: &Engine, objects: &Objects, call: &Call<'_>) -> Result<Reply, ApiError> {
    let Objects { kind, namespace, name, subresource } = objects;
    let target = Target { kind, namespace, name, subresource };
    if subresource == "scale" {
        return scale(engine, target, call);
    }
    let is_possible =
        subresource.is_empty() || part_verbs(subresource).iter().any(|verb| *verb == verb_of(call.method));
    match (call.method, name.is_empty()) {
        _ if !is_possible => Err(not_allowed()),
        (&Method::GET, _) if call.query.flag("watch") => start_watch(engine, objects, call),
        (&Method::GET, true) => list(engine, objects, call),
        (&Method::GET, false) => shown(engine, &*engine.get(target)?, target, call, 200),
        (&Method::POST, true) => {
            if kind.namespaced && namespace.is_empty() {
                return Err(ApiError::bad_request("the namespace belongs into the path of what is created"));
            }
            let options = call.query.write_options(call.agent)?;
            written(
                engine,
                engine.create(target, decode::body(call.content_type, call.body)?, &options)?,
                target,
                call,
            )
        }
        (&Method::PUT, false) => {
            let options = call.query.write_options(call.agent)?;
            written(
                engine,
                engine.update(target, decode::body(call.content_type, call.body)?, &options)?,
                target,
                call,
            )
        }
        (&Method::PATCH, false) => {
            let mut options = call.query.write_options(call.agent)?;
            let mut warnings = Vec::new();
            let patch = patch(call, &options, &mut warnings)?;
            if matches!(patch, Patch::Apply(_)) && call.query.text("fieldManager").is_empty() {
                return Err(ApiError::bad_request("fieldManager is required for apply patch"));
            }
            options.force &= matches!(patch, Patch::Apply(_));
            let mut done = engine.patch(target, &patch, &options)?;
            done.warnings.splice(..0, warnings);
            written(engine, done, target, call)
        }
        (&Method::DELETE, false) => delete(engine, target, call),
        (&Method::DELETE, true) => delete_collection(engine, objects, call),
        _ => Err(not_allowed()),
    }
}

/// What may be done with a part of an object; it is not deleted without the whole.
pub(super) fn part_verbs(part: &str) -> &'static [&'static str] {
    if part == "finalize" { &["update"] } else { &["get", "patch", "update"] }
}

fn verb_of(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        _ => "",
    }
}

fn not_allowed() -> ApiError {
    ApiError::new(Reason::MethodNotAllowed, "the server does not allow this method on the requested resource")
}

/// The patch of a body. A field that it names twice is lost in it, which is told as for whole objects.
fn patch(call: &Call<'_>, options: &WriteOptions, warnings: &mut Vec<String>) -> Result<Patch, ApiError> {
    let content_type = call.content_type.split(';').next().unwrap_or_default().trim();
    let Decoded { value, duplicates } = match content_type {
        "application/apply-patch+yaml" => decode::yaml(call.body)?,
        _ => decode::json(call.body)?,
    };
    options.validation.judge(&[], &duplicates, warnings)?;
    match content_type {
        "application/json-patch+json" => Ok(Patch::Json(value)),
        "application/merge-patch+json" => Ok(Patch::Merge(value)),
        "application/strategic-merge-patch+json" => Ok(Patch::Strategic(value)),
        "application/apply-patch+yaml" => Ok(Patch::Apply(value)),
        other => {
            let known = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";
            Err(ApiError::new(
                Reason::UnsupportedMediaType,
                format!("a patch of type {other:?} is not understood: accepted media types are {known}"),
            ))
        }
    }
}

fn written(
    engine: &Engine,
    written: Written,
    target: Target<'_>,
    call: &Call<'_>,
) -> Result<Reply, ApiError> {
    let status = if written.created { 201 } else { 200 };
    let mut reply = shown(engine, &written.object, target, call, status)?;
    reply::warn(&mut reply, &written.warnings);
    Ok(reply)
}

fn shown(
    engine: &Engine,
    stored: &Stored,
    target: Target<'_>,
    call: &Call<'_>,
    status: u16,
) -> Result<Reply, ApiError> {
    let value = match accept::form(call.accept)? {
        Form::Objects => return Ok(reply::json(status, &stored.object)),
        Form::Metadata(version) => partial(&stored.object, version),
        Form::Table(version) => {
            let metadata = json!({"resourceVersion": stored.version.to_string()});
            table::table(target.kind, &[&stored.object], metadata, version, call.include(), engine.time())
        }
    };
    Ok(reply::json(status, &value))
}

fn list(engine: &Engine, objects: &Objects, call: &Call<'_>) -> Result<Reply, ApiError> {
    let kind = objects.kind;
    let list = engine.list(kind, &call.query.list_options(objects)?)?;
    let mut metadata = json!({"resourceVersion": list.version.to_string()});
    if !list.next.is_empty() {
        metadata["continue"] = list.next.into();
        metadata["remainingItemCount"] = list.remaining.into();
    }
    let values = list.objects.iter().map(|stored| &stored.object);
    let value = match accept::form(call.accept)? {
        Form::Objects => {
            // Written by hand: thousands of objects are not copied to be printed.
            let head = json!({"kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(), "metadata": metadata}).to_string();
            let mut text = head;
            text.pop();
            text.push_str(",\"items\":[");
            for (index, value) in values.enumerate() {
                if index > 0 {
                    text.push(',');
                }
                text.push_str(&value.to_string());
            }
            text.push_str("]}");
            return Ok(reply::bytes(200, "application/json", text));
        }
        Form::Metadata(version) => {
            let items: Vec<Value> = values.map(|value| partial(value, version)).collect();
            json!({"kind": "PartialObjectMetadataList", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata, "items": items})
        }
        Form::Table(version) => {
            table::table(kind, &values.collect::<Vec<_>>(), metadata, version, call.include(), engine.time())
        }
    };
    Ok(reply::json(200, &value))
}

fn start_watch(engine: &Engine, objects: &Objects, call: &Call<'_>) -> Result<Reply, ApiError> {
    let options = call.query.list_options(objects)?;
    // Not said is another thing than no: then it is the version that says.
    let initial_events = match call.query.text("sendInitialEvents") {
        "" => None,
        _ => Some(call.query.flag("sendInitialEvents")),
    };
    let wish = Wish {
        form: accept::form(call.accept)?,
        include: call.include(),
        version: call.query.text("resourceVersion").to_owned(),
        bookmarks: call.query.flag("allowWatchBookmarks"),
        initial_events,
        timeout: call.query.number("timeoutSeconds")?,
    };
    if initial_events == Some(true)
        && (!wish.bookmarks || call.query.text("resourceVersionMatch") != "NotOlderThan")
    {
        return Err(ApiError::new(
            Reason::Invalid,
            "sendInitialEvents needs allowWatchBookmarks=true and resourceVersionMatch=NotOlderThan",
        ));
    }
    watch::start(engine, objects.kind, options, wish)
}

fn delete_options(call: &Call<'_>) -> Result<DeleteOptions, ApiError> {
    let mut value = match call.body.is_empty() {
        true => json!({}),
        false => decode::body(call.content_type, call.body)?.value,
    };
    if !value.is_object() {
        return Err(ApiError::bad_request("the body of a deletion is a DeleteOptions object"));
    }
    // The same may stand behind the question mark.
    if let Some(seconds) = call.query.number("gracePeriodSeconds")? {
        object::default(&mut value, &["gracePeriodSeconds"], seconds);
    }
    match call.query.text("propagationPolicy") {
        "" => {}
        text => object::default(&mut value, &["propagationPolicy"], text),
    }
    match call.query.text("orphanDependents") {
        "" => {}
        text => {
            let is = text.parse::<bool>().map_err(|_| {
                ApiError::bad_request(format!("orphanDependents {text:?}: supported values: true, false"))
            })?;
            object::default(&mut value, &["orphanDependents"], is);
        }
    }
    match call.query.text("dryRun") {
        "" => {}
        text => value["dryRun"] = json!([text]),
    }
    DeleteOptions::of(&value)
}

fn delete(engine: &Engine, target: Target<'_>, call: &Call<'_>) -> Result<Reply, ApiError> {
    match engine.delete(target, &delete_options(call)?)? {
        Deleted::Going(stored) => shown(engine, &stored, target, call, 200),
        // Kinds that go in order answer with the object, as clients that wait for it expect.
        Deleted::Gone(stored) if target.kind.strategy.grace_period(&stored.object).is_some() => {
            shown(engine, &stored, target, call, 200)
        }
        Deleted::Gone(stored) => {
            let mut details =
                json!({"name": target.name, "kind": target.kind.plural, "uid": object::uid(&stored.object)});
            if !target.kind.group.is_empty() {
                details["group"] = target.kind.group.into();
            }
            Ok(reply::json(
                200,
                &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}),
            ))
        }
    }
}

fn delete_collection(engine: &Engine, objects: &Objects, call: &Call<'_>) -> Result<Reply, ApiError> {
    if objects.kind.namespaced && objects.namespace.is_empty() {
        return Err(not_allowed());
    }
    let (options, selected) = (delete_options(call)?, call.query.list_options(objects)?);
    let list = engine.list(objects.kind, &selected)?;
    engine.delete_all(objects.kind, &list.objects, &options)?;
    let items: Vec<&Value> = list.objects.iter().map(|stored| &stored.object).collect();
    let metadata = json!({"resourceVersion": engine.store().version().to_string()});
    let kind = objects.kind;
    Ok(reply::json(
        200,
        &json!({"kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(), "metadata": metadata, "items": items}),
    ))
}

/// `autoscaling/v1.Scale`: the number of replicas, apart from everything else.
fn scale(engine: &Engine, target: Target<'_>, call: &Call<'_>) -> Result<Reply, ApiError> {
    let own = Target { subresource: "", ..target };
    let current = engine.get(own)?;
    if *call.method == Method::GET {
        return Ok(reply::json(200, &scale_of(&current.object)));
    }
    let options = call.query.write_options(call.agent)?;
    let mut warnings = Vec::new();
    let said = match *call.method {
        Method::PUT => {
            let Decoded { value, duplicates } = decode::body(call.content_type, call.body)?;
            options.validation.judge(&[], &duplicates, &mut warnings)?;
            Said::Whole(value)
        }
        Method::PATCH => Said::Change(patch(call, &options, &mut warnings)?),
        _ => return Err(not_allowed()),
    };
    let written = set_scale(engine, own, &said, &options)?;
    let mut reply = reply::json(200, &scale_of(&written.object.object));
    reply::warn(&mut reply, &warnings);
    Ok(reply)
}

/// What a client says of a `Scale`.
enum Said {
    Whole(Value),
    Change(Patch),
}

impl Said {
    fn of(&self, mut scale: Value) -> Result<Value, ApiError> {
        match self {
            Self::Whole(value) => return Ok(value.clone()),
            Self::Change(Patch::Json(change)) => crate::patch::json(&mut scale, change)?,
            Self::Change(Patch::Merge(change) | Patch::Strategic(change) | Patch::Apply(change)) => {
                crate::patch::merge(&mut scale, change)?;
            }
        }
        Ok(scale)
    }
}

/// Sets a number on the version that it was worked out from. Where somebody else wrote meanwhile it is worked out again, unless the client says on
/// which version it is to be.
fn set_scale(
    engine: &Engine,
    own: Target<'_>,
    said: &Said,
    options: &WriteOptions,
) -> Result<Written, ApiError> {
    const MOST: u32 = 16;
    let mut tries = 0;
    loop {
        let current = engine.get(own)?;
        let now = current.version.to_string();
        let wanted = said.of(scale_of(&current.object))?;
        check_uid(own.kind, &current.object, object::uid(&wanted))?;
        let mut change = json!({"spec": {"replicas": wanted_replicas(&wanted, &current.object)?}});
        let version = match object::text(&wanted, &["metadata", "resourceVersion"]) {
            "" => &now,
            named => named,
        };
        change["metadata"]["resourceVersion"] = version.into();
        change["metadata"]["uid"] = object::uid(&current.object).into();
        tries += 1;
        match engine.patch(own, &Patch::Merge(change), options) {
            Err(error) if error.reason == Reason::Conflict && version == now && tries < MOST => {}
            done => return done,
        }
    }
}

/// What a `Scale` asks for. One that says nothing of it asks for none, as Kubernetes reads it.
fn wanted_replicas(scale: &Value, current: &Value) -> Result<i64, ApiError> {
    let said = |field: &str, expected: &str| {
        let found = object::text(scale, &[field]);
        match found.is_empty() || found == expected {
            true => Ok(()),
            false => Err(ApiError::bad_request(format!(
                "the {field} in the data ({found}) does not match the expected {field} ({expected})"
            ))),
        }
    };
    said("kind", "Scale")?;
    said("apiVersion", "autoscaling/v1")?;
    let name = object::name(scale);
    if !name.is_empty() && name != object::name(current) {
        return Err(ApiError::bad_request(format!(
            "the Scale is of {name:?}, and not of what it is sent to"
        )));
    }
    let shaped = decode::shaped("Scale", scale.clone())?;
    Ok(object::number(&shaped, &["spec", "replicas"]).unwrap_or(0))
}

fn scale_of(object: &Value) -> Value {
    let selector = LabelSelector::of_spec(&object["spec"]["selector"]).ok().flatten().unwrap_or_default();
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        metadata[field] = object["metadata"][field].clone();
    }
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {"replicas": object::number(object, &["spec", "replicas"]).unwrap_or(0)},
        "status": {"replicas": object::number(object, &["status", "replicas"]).unwrap_or(0), "selector": selector.to_string()},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_names_all_that_selects_its_pods() {
        let expression = json!({"key": "tier", "operator": "In", "values": ["a", "b"]});
        let set =
            json!({"spec": {"selector": {"matchLabels": {"app": "web"}, "matchExpressions": [expression]}}});
        assert_eq!(scale_of(&set)["status"]["selector"], "app=web,tier in (a,b)");
    }

    #[test]
    fn a_scale_that_is_not_understood_scales_nothing() {
        let current = json!({"metadata": {"name": "web"}});
        let of = |scale: Value| wanted_replicas(&scale, &current);
        assert_eq!(
            of(json!({"kind": "Scale", "metadata": {"name": "web"}, "spec": {"replicas": 3}})).unwrap(),
            3
        );
        assert_eq!(of(json!({"spec": {}})).unwrap(), 0, "left away it is zero, as in Kubernetes");
        for wrong in [
            json!({"spec": {"replicas": "9"}}),
            json!({"spec": {"replicas": 2.5}}),
            json!({"spec": "x"}),
            json!({"kind": "Pod", "spec": {"replicas": 1}}),
            json!({"metadata": {"name": "other"}, "spec": {"replicas": 1}}),
        ] {
            assert!(of(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
