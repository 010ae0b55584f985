//! What a request is about, from its path and its parameters: pure functions.

use super::absent::{self, Absent};
use super::metrics;
use super::reviews::{self, Review};
use crate::engine::{At, FieldValidation, ListOptions, WriteOptions};
use crate::kinds::Kind;
use crate::patch::MAX_MANAGER;
use crate::selector::{FieldSelector, LabelSelector};
use crate::status::{ApiError, Reason};

/// Longest path or query that is looked at, in bytes.
const MAX_URI: usize = 64 << 10;

/// What a path leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// `/version`
    Version,
    /// `/livez`, `/readyz`, `/healthz`
    Health,
    /// `/`: the paths that there are.
    Paths,
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/{group}`
    Group(String),
    /// `/api/v1`, `/apis/{group}/{version}`
    Resources(String, String),
    /// `/openapi/v2`
    OpenApiV2,
    /// `/openapi/v3`
    OpenApiIndex,
    /// `/openapi/v3/{api/v1|apis/group/version}`
    OpenApi(String, String),
    /// Objects of a kind.
    Objects(Objects),
    /// What there is none of, or one of a name.
    Absent(Absent, String),
    /// `/apis/metrics.k8s.io/v1beta1/{nodes|pods}`
    Metrics(metrics::Path),
    /// `…/selfsubjectaccessreviews` and the like: a question, answered at once.
    Review(&'static Review),
}

/// A collection, an object in it, or a part of that.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Objects {
    pub(super) kind: &'static Kind,
    /// Empty: all, or the kind has none.
    pub(super) namespace: String,
    /// Empty: the collection.
    pub(super) name: String,
    /// Empty: the object itself.
    pub(super) subresource: String,
}

impl Objects {
    /// Whether it is something that bytes come from, and no part of an object.
    pub(super) fn is_stream(&self) -> bool {
        self.kind.stream(&self.subresource).is_some()
    }
}

impl Route {
    pub(super) fn parse(path: &str) -> Result<Self, ApiError> {
        if path.len() > MAX_URI {
            return Err(ApiError::new(Reason::RequestEntityTooLarge, "the path is too long"));
        }
        let none = || ApiError::new(Reason::NotFound, "the server could not find the requested resource");
        let decoded: Vec<String> = path
            .split('/')
            .filter(|step| !step.is_empty())
            .map(decode)
            .collect::<Option<_>>()
            .ok_or_else(none)?;
        let steps: Vec<&str> = decoded.iter().map(String::as_str).collect();
        if let Some((absent, name)) = absent::parse(&steps) {
            return Ok(Self::Absent(absent, name.into()));
        }
        if let ["apis", group, version, plural] = steps[..]
            && let Some(review) = reviews::at(group, version, plural)
        {
            return Ok(Self::Review(review));
        }
        Ok(match &steps[..] {
            [] => Self::Paths,
            ["version"] => Self::Version,
            ["livez" | "readyz" | "healthz", ..] => Self::Health,
            ["api"] => Self::CoreVersions,
            ["apis"] => Self::Groups,
            ["apis", group] => Self::Group((*group).into()),
            ["api", version] => Self::Resources(String::new(), (*version).into()),
            ["apis", group, version] => Self::Resources((*group).into(), (*version).into()),
            ["openapi", "v2"] => Self::OpenApiV2,
            ["openapi", "v3"] => Self::OpenApiIndex,
            ["openapi", "v3", "api", version] => Self::OpenApi(String::new(), (*version).into()),
            ["openapi", "v3", "apis", group, version] => Self::OpenApi((*group).into(), (*version).into()),
            ["apis", "metrics.k8s.io", "v1beta1", rest @ ..] => {
                Self::Metrics(metrics::Path::parse(rest).ok_or_else(none)?)
            }
            ["api", version, rest @ ..] => Self::Objects(objects("", version, rest).ok_or_else(none)?),
            ["apis", group, version, rest @ ..] => {
                Self::Objects(objects(group, version, rest).ok_or_else(none)?)
            }
            _ => return Err(none()),
        })
    }
}

fn objects(group: &str, version: &str, rest: &[&str]) -> Option<Objects> {
    let (namespace, plural, rest) = match rest {
        // A namespace, or a part of one, is no object in it.
        ["namespaces", name, part @ ("status" | "finalize")] => ("", "namespaces", &[*name, *part][..]),
        ["namespaces", namespace, plural, rest @ ..] => (*namespace, *plural, rest),
        [plural, rest @ ..] => ("", *plural, rest),
        [] => return None,
    };
    let kind = Kind::by_path(group, version, plural)?;
    let (name, subresource) = match rest {
        [] => ("", ""),
        [name] => (*name, ""),
        [name, subresource] => (*name, *subresource),
        _ => return None,
    };
    // An object of a kind with namespaces is in one; one without is in none.
    let fits = if kind.namespaced { name.is_empty() || !namespace.is_empty() } else { namespace.is_empty() };
    let has = || kind.subresources.contains(&subresource) || kind.stream(subresource).is_some();
    if !fits || !subresource.is_empty() && !has() {
        return None;
    }
    Some(Objects { kind, namespace: namespace.into(), name: name.into(), subresource: subresource.into() })
}

/// Percent-decoding (RFC 3986, 2.1).
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// The parameters behind the question mark.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Result<Self, ApiError> {
        let bad = || ApiError::bad_request("the query can't be decoded");
        if text.len() > MAX_URI {
            return Err(ApiError::new(Reason::RequestEntityTooLarge, "the query is too long"));
        }
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let plain = |text: &str| decode(&text.replace('+', " ")).ok_or_else(bad);
            Ok((plain(key)?, plain(value)?))
        });
        Ok(Self(pairs.collect::<Result<_, ApiError>>()?))
    }

    pub(super) fn text(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// All values of one that may be there several times.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| &value[..])
    }

    /// Go's booleans.
    pub(super) fn flag(&self, name: &str) -> bool {
        matches!(self.text(name), "1" | "t" | "T" | "true" | "True" | "TRUE")
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        match self.text(name) {
            "" => Ok(None),
            text => {
                let bad = || {
                    ApiError::bad_request(format!(
                        "the parameter {name} must be a whole number, and is {text:?}"
                    ))
                };
                text.parse().map(Some).map_err(|_| bad())
            }
        }
    }

    /// For a list or a watch.
    pub(super) fn list_options(&self, objects: &Objects) -> Result<ListOptions, ApiError> {
        let mut selectable = vec!["metadata.name"];
        if objects.kind.namespaced {
            selectable.push("metadata.namespace");
        }
        selectable.extend(objects.kind.selectable);
        let fields = match &objects.name[..] {
            "" => FieldSelector::parse(self.text("fieldSelector"), &selectable)?,
            name => FieldSelector::parse(&format!("metadata.name={name}"), &selectable)?,
        };
        Ok(ListOptions {
            namespace: objects.namespace.clone(),
            labels: LabelSelector::parse(self.text("labelSelector"))?,
            fields,
            limit: usize::try_from(self.number("limit")?.unwrap_or(0)).unwrap_or(usize::MAX),
            after: self.text("continue").into(),
            at: if self.flag("watch") { At::Newest } else { self.list_version()? },
        })
    }

    /// `resourceVersion` and `resourceVersionMatch` of a list; what is allowed together is apimachinery's `ValidateListOptions`.
    fn list_version(&self) -> Result<At, ApiError> {
        let (version, rule) = (self.text("resourceVersion"), self.text("resourceVersionMatch"));
        let is_page = !self.text("continue").is_empty();
        let forbidden = |why: &str| {
            let message = format!("resourceVersionMatch {rule:?} is forbidden {why}");
            Err(ApiError::new(Reason::Invalid, message))
        };
        match rule {
            "" | "Exact" | "NotOlderThan" => {}
            _ => {
                let message =
                    format!("resourceVersionMatch {rule:?}: supported values: \"Exact\", \"NotOlderThan\"");
                return Err(ApiError::new(Reason::Invalid, message));
            }
        }
        match (version, rule) {
            (_, "") if is_page && !matches!(version, "" | "0") => {
                Err(ApiError::bad_request("specifying resource version is not allowed when using continue"))
            }
            ("" | "0", "") => Ok(At::Newest),
            (_, "Exact" | "NotOlderThan") if is_page => forbidden("when continue is provided"),
            ("", _) => forbidden("unless resourceVersion is provided"),
            ("0", "Exact") => forbidden("for resourceVersion \"0\""),
            (version, rule) => {
                let bad = |_| ApiError::bad_request(format!("invalid resource version {version:?}"));
                let version = version.parse().map_err(bad)?;
                Ok(if rule == "Exact" { At::Exactly(version) } else { At::NotOlderThan(version) })
            }
        }
    }

    /// For a write by a client with this `User-Agent`.
    pub(super) fn write_options(&self, agent: &str) -> Result<WriteOptions, ApiError> {
        let dry_run = match self.text("dryRun") {
            "" => false,
            "All" => true,
            other => {
                return Err(ApiError::bad_request(format!("dryRun {other:?}: supported values: \"All\"")));
            }
        };
        let validation = match self.text("fieldValidation") {
            "Ignore" => FieldValidation::Ignore,
            "" | "Warn" => FieldValidation::Warn,
            "Strict" => FieldValidation::Strict,
            other => {
                let message =
                    format!("fieldValidation {other:?}: supported values: \"Ignore\", \"Warn\", \"Strict\"");
                return Err(ApiError::bad_request(message));
            }
        };
        // What it may be is checked with the object at each later write as well, which then nobody could do.
        let named = self.text("fieldManager");
        if named.len() > MAX_MANAGER || named.contains(char::is_control) {
            return Err(ApiError::bad_request(format!(
                "fieldManager has at most {MAX_MANAGER} bytes, and no control characters"
            )));
        }
        let plain: String = agent.split('/').next().unwrap_or_default().replace(char::is_control, "");
        let manager = match named {
            "" => &plain[..plain.floor_char_boundary(MAX_MANAGER)],
            named => named,
        };
        let manager = if manager.is_empty() { "unknown" } else { manager };
        Ok(WriteOptions {
            dry_run,
            validation,
            manager: manager.into(),
            force: self.flag("force"),
            own: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(path: &str) -> Option<(String, String, String, String)> {
        match Route::parse(path) {
            Ok(Route::Objects(objects)) => {
                Some((objects.kind.kind.into(), objects.namespace, objects.name, objects.subresource))
            }
            _ => None,
        }
    }

    #[test]
    fn paths_lead_to_objects() {
        let expect = |kind: &str, namespace: &str, name: &str, part: &str| {
            Some((kind.to_owned(), namespace.to_owned(), name.to_owned(), part.to_owned()))
        };
        for (path, expected) in [
            ("/api/v1/pods", expect("Pod", "", "", "")),
            ("/api/v1/namespaces/a/pods", expect("Pod", "a", "", "")),
            ("/api/v1/namespaces/a/pods/b%2Dc", expect("Pod", "a", "b-c", "")),
            ("/api/v1/namespaces/a/pods/b/status", expect("Pod", "a", "b", "status")),
            ("/api/v1/namespaces/a/pods/b/exec", expect("Pod", "a", "b", "exec")),
            ("/api/v1/namespaces/a/configmaps/b/log", None),
            ("/api/v1/namespaces", expect("Namespace", "", "", "")),
            ("/api/v1/namespaces/a", expect("Namespace", "", "a", "")),
            ("/api/v1/namespaces/a/finalize", expect("Namespace", "", "a", "finalize")),
            ("/api/v1/nodes/n/status", expect("Node", "", "n", "status")),
            ("/apis/apps/v1/namespaces/a/deployments/d/scale", expect("Deployment", "a", "d", "scale")),
            ("/api/v1/pods/b", None),
            ("/api/v1/namespaces/a/nodes/b", None),
            ("/api/v1/namespaces/a/pods/b/frob", None),
            ("/api/v1/namespaces/a/configmaps/b/status", None),
            ("/apis/apps/v1beta1/deployments", None),
            ("/api/v1/namespaces/a/pods/b/status/c", None),
        ] {
            assert_eq!(found(path), expected, "{path}");
        }
    }

    #[test]
    fn parameters_are_decoded_and_checked() {
        let query =
            Query::parse("labelSelector=a%3Db%2Cc+in+(d)&limit=5&force=true&fieldManager=me").unwrap();
        assert_eq!((query.text("labelSelector"), query.number("limit")), ("a=b,c in (d)", Ok(Some(5))));
        assert_eq!(query.write_options("kubectl/v1").unwrap().manager, "me");
        let query = Query::parse("limit=many&dryRun=Some").unwrap();
        assert!(query.number("limit").is_err() && query.write_options("").is_err());
        assert_eq!(
            Query::parse("").unwrap().write_options("kubectl/v1.30 (linux)").unwrap().manager,
            "kubectl"
        );
    }

    #[test]
    fn the_version_of_a_list_is_any_at_least_one_or_one() {
        let at = |text: &str| Query::parse(text).unwrap().list_version().map_err(|error| error.reason);
        for (text, expected) in [
            ("", Ok(At::Newest)),
            ("resourceVersion=0", Ok(At::Newest)),
            ("resourceVersion=7", Ok(At::NotOlderThan(7))),
            ("resourceVersion=7&resourceVersionMatch=NotOlderThan", Ok(At::NotOlderThan(7))),
            ("resourceVersion=0&resourceVersionMatch=NotOlderThan", Ok(At::NotOlderThan(0))),
            ("resourceVersion=7&resourceVersionMatch=Exact", Ok(At::Exactly(7))),
            ("resourceVersion=0&resourceVersionMatch=Exact", Err(Reason::Invalid)),
            ("resourceVersionMatch=Exact", Err(Reason::Invalid)),
            ("resourceVersion=7&resourceVersionMatch=About", Err(Reason::Invalid)),
            ("resourceVersion=seven", Err(Reason::BadRequest)),
            ("continue=x&resourceVersion=7", Err(Reason::BadRequest)),
            ("continue=x&resourceVersion=0", Ok(At::Newest)),
            ("continue=x&resourceVersion=7&resourceVersionMatch=Exact", Err(Reason::Invalid)),
        ] {
            assert_eq!(at(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_path_or_query_is_too_strange(text in ".{0,60}", path in "(/(api|apis|v1|apps|namespaces|pods|a|%2e|%|)){0,9}") {
            let _ = (Route::parse(&text), Query::parse(&text), Route::parse(&path));
        }
    }
}
