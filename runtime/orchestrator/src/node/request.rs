//! What one container of a pod is to be: command, environment, files, rights; with the objects that it draws from.

use super::Part;
use crate::object;
use crate::quantity::Quantity;
use crate::store::Stored;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Bytes of a container's command, arguments and environment at most, written as JSON: they go to the guest in one message of 1 MiB, with some
/// 30 KiB of other things. Linux would take more (`execve(2)`: 2 MiB where the stack has 8).
const MAX_START: usize = 896 << 10;
/// Bytes of one of them at most, with the zero at its end (`execve(2)`'s `MAX_ARG_STRLEN`).
const MAX_STRING: usize = 128 << 10;

/// A container as it is to be.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wanted {
    /// Instead of the image's entrypoint.
    pub command: Option<Vec<String>>,
    /// Instead of the image's command.
    pub args: Vec<String>,
    /// `KEY=VALUE`
    pub env: Vec<String>,
    /// Instead of the image's working directory.
    pub workdir: Option<String>,
    /// Number of a user instead of the image's.
    pub user: Option<i64>,
    /// Number of a group instead of the user's own.
    pub group: Option<i64>,
    /// Only somebody else than root.
    pub non_root: bool,
    /// Memory limit, bytes.
    pub memory: Option<u64>,
    /// Limit of processors, thousandths.
    pub milli_cpus: Option<u32>,
    /// The root file system can't be written.
    pub read_only: bool,
    /// No program gives it more rights than it has.
    pub no_new_privileges: bool,
    /// Capabilities beside the usual ones, without `CAP_`; `ALL` is all.
    pub cap_add: Vec<String>,
    /// Of the usual ones, those that it does not get.
    pub cap_drop: Vec<String>,
    /// Groups beside those that its user has in the image.
    pub groups: Vec<u32>,
    /// Its standard input is open.
    pub stdin: bool,
    /// It has a terminal.
    pub terminal: bool,
}

/// What a pod's fields and environment are drawn from.
pub struct Sources<'a> {
    /// The pod.
    pub pod: &'a Value,
    /// A ConfigMap or Secret (by its plural) of the pod's namespace.
    pub get: &'a (dyn Fn(&str, &str) -> Option<Arc<Stored>> + Sync),
    /// The machine's address.
    pub host_ip: &'a str,
    /// The pod's addresses.
    pub pod_ips: Vec<String>,
    /// Processors of the machine.
    pub cpus: u32,
    /// Memory that pods may have, bytes.
    pub memory: u64,
}

/// Makes it.
///
/// # Errors
/// A sentence that says what is not there (`CreateContainerConfigError`).
pub fn container(part: &Part<'_>, sources: &Sources<'_>) -> Result<Wanted, String> {
    let env = environment(part, sources)?;
    let mut room = MAX_START;
    let mut words = |field: &str| -> Result<Vec<String>, String> {
        let words = object::list(part.spec, &[field]).iter().filter_map(Value::as_str);
        words
            .map(|word| {
                let word = expand(word, &env)?.text;
                take(&mut room, word.len())?;
                Ok(word)
            })
            .collect()
    };
    let pod_context = object::at(sources.pod, &["spec", "securityContext"]).unwrap_or(&Value::Null);
    let own_context = part.spec.get("securityContext").unwrap_or(&Value::Null);
    let either = |field: &str| own_context.get(field).or_else(|| pod_context.get(field));
    let number = |field: &str| either(field).and_then(Value::as_i64);
    let non_root = either("runAsNonRoot") == Some(&Value::Bool(true));
    if non_root && number("runAsUser") == Some(0) {
        return Err("container's runAsUser breaks non-root policy".into());
    }
    let limit =
        |resource: &str| object::at(part.spec, &["resources", "limits", resource]).and_then(Quantity::of);
    let capabilities = |kind: &str| -> Vec<String> {
        let names = object::list(own_context, &["capabilities", kind]).iter().filter_map(Value::as_str);
        names.map(|name| name.to_ascii_uppercase().trim_start_matches("CAP_").to_owned()).collect()
    };
    let (command, args) = (words("command")?, words("args")?);
    let env: Vec<String> = env.list.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    check_length([&command, &args, &env])?;
    let memory = limit("memory").map(|quantity| quantity.ceil().max(0).unsigned_abs());
    let milli_cpus =
        limit("cpu").map(|quantity| u32::try_from(quantity.milli().clamp(10, 32_000)).unwrap_or(32_000));
    Ok(Wanted {
        command: (!command.is_empty()).then_some(command),
        args,
        env,
        workdir: Some(object::text(part.spec, &["workingDir"]).to_owned()).filter(|path| !path.is_empty()),
        user: number("runAsUser"),
        group: number("runAsGroup"),
        non_root,
        memory: memory.filter(|bytes| *bytes > 0),
        milli_cpus,
        read_only: own_context["readOnlyRootFilesystem"] == true,
        no_new_privileges: own_context["allowPrivilegeEscalation"] == false,
        cap_add: capabilities("add"),
        cap_drop: capabilities("drop"),
        groups: groups(pod_context),
        stdin: part.spec["stdin"] == true,
        terminal: part.spec["tty"] == true,
    })
}

/// Whether the guest can start it, which would say it later and in other words.
fn check_length(strings: [&Vec<String>; 3]) -> Result<(), String> {
    if let Some(long) = strings.into_iter().flatten().find(|string| string.len() >= MAX_STRING) {
        return Err(too_long(long));
    }
    // Texts can always be written as JSON.
    match serde_json::to_vec(&strings).map_or(usize::MAX, |json| json.len()) > MAX_START {
        true => Err(too_much()),
        false => Ok(()),
    }
}

fn too_long(text: &str) -> String {
    let begin: String = text.chars().take(40).collect();
    format!(
        "\"{begin}…\" becomes longer than an argument or variable can be, which has less than {MAX_STRING} bytes"
    )
}

fn too_much() -> String {
    format!(
        "command, arguments and environment have more than {MAX_START} bytes (as JSON, with what is replaced): large values belong into a volume"
    )
}

/// Takes bytes from what a container may have. They are counted before they are kept: variables that name each other twice would double with each.
fn take(room: &mut usize, bytes: usize) -> Result<(), String> {
    *room = room.checked_sub(bytes).ok_or_else(too_much)?;
    Ok(())
}

impl Wanted {
    /// As whom it runs, as an OCI image's configuration has it; `images` is the image's own.
    ///
    /// # Errors
    /// A sentence that says that it would be root, which it must not.
    pub fn identity(&self, images: &str) -> Result<Option<String>, String> {
        let (name, _) = images.split_once(':').unwrap_or((images, ""));
        if self.non_root && self.user.is_none() {
            match name.parse::<u32>() {
                Ok(1..) => {}
                Err(_) if !name.is_empty() => {
                    return Err(format!(
                        "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root"
                    ));
                }
                _ => return Err("container has runAsNonRoot and image will run as root".into()),
            }
        }
        let name = if name.is_empty() { "0" } else { name };
        Ok(match (self.user, self.group) {
            (Some(user), Some(group)) => Some(format!("{user}:{group}")),
            (Some(user), None) => Some(user.to_string()),
            (None, Some(group)) => Some(format!("{name}:{group}")),
            (None, None) => None,
        })
    }
}

/// The pod's groups, the one that volumes belong to among them.
fn groups(pod_context: &Value) -> Vec<u32> {
    let own = object::list(pod_context, &["supplementalGroups"]).iter();
    let all = own.chain(pod_context.get("fsGroup")).filter_map(Value::as_u64);
    all.filter_map(|group| u32::try_from(group).ok()).collect()
}

/// Variables in their order, each once.
pub(super) struct Environment {
    list: Vec<(String, String)>,
    /// Where each is in the list.
    places: HashMap<String, usize>,
    /// Bytes of names and values that may still come; those that are replaced don't come back.
    room: usize,
}

impl Environment {
    fn new() -> Self {
        Self { list: Vec::new(), places: HashMap::new(), room: MAX_START }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.places.get(name).map(|place| self.list[*place].1.as_str())
    }

    fn set(&mut self, name: String, value: String) -> Result<(), String> {
        take(&mut self.room, name.len() + value.len())?;
        match self.places.get(&name) {
            Some(place) => self.list[*place].1 = value,
            None => {
                self.places.insert(name.clone(), self.list.len());
                self.list.push((name, value));
            }
        }
        Ok(())
    }
}

/// A container's environment: `envFrom`, then `env`, each of which may name those before it.
///
/// # Errors
/// A sentence that says what is not there.
pub(super) fn environment(part: &Part<'_>, sources: &Sources<'_>) -> Result<Environment, String> {
    let mut env = Environment::new();
    for from in object::list(part.spec, &["envFrom"]) {
        let prefix = object::text(from, &["prefix"]);
        for (field, plural) in [("configMapRef", "configmaps"), ("secretRef", "secrets")] {
            let Some(reference) = from.get(field) else { continue };
            let Some(data) = data(sources, plural, reference, "name")? else { continue };
            for (key, value) in data {
                // What is no variable's name is left out (kubelet tells so in an event).
                if !key.contains('=')
                    && let Ok(value) = String::from_utf8(value)
                {
                    env.set(format!("{prefix}{key}"), value)?;
                }
            }
        }
    }
    for variable in object::list(part.spec, &["env"]) {
        let name = object::text(variable, &["name"]).to_owned();
        let value = match variable.get("valueFrom") {
            None => Some(expand(object::text(variable, &["value"]), &env)?.text),
            Some(from) => drawn(part, sources, from)?,
        };
        if let Some(value) = value {
            env.set(name, value)?;
        }
    }
    Ok(env)
}

/// What `valueFrom` says; none: it is optional and not there.
fn drawn(part: &Part<'_>, sources: &Sources<'_>, from: &Value) -> Result<Option<String>, String> {
    for (field, plural) in [("configMapKeyRef", "configmaps"), ("secretKeyRef", "secrets")] {
        let Some(reference) = from.get(field) else { continue };
        let key = object::text(reference, &["key"]);
        let found = source(sources, plural, reference, "name")?
            .and_then(|stored| entries(plural, &stored.object, |name| name == key).remove(key));
        let name = object::text(reference, &["name"]);
        return match found {
            Some(bytes) => String::from_utf8(bytes)
                .map(Some)
                .map_err(|_| format!("key {key} in {plural} {name} is no text, which a variable must be")),
            None if reference["optional"] == true => Ok(None),
            None => Err(format!(
                "couldn't find key {key} in {} {}/{name}",
                singular(plural),
                object::namespace(sources.pod)
            )),
        };
    }
    if let Some(reference) = from.get("fieldRef") {
        return field(sources, object::text(reference, &["fieldPath"])).map(Some);
    }
    if let Some(reference) = from.get("resourceFieldRef") {
        return resource(part, sources, reference).map(Some);
    }
    Err("valueFrom names no source".into())
}

fn singular(plural: &str) -> &'static str {
    if plural == "secrets" { "Secret" } else { "ConfigMap" }
}

/// The ConfigMap or Secret that `reference` names in its field `name`; none: it is optional and not there.
fn source(
    sources: &Sources<'_>,
    plural: &str,
    reference: &Value,
    name: &str,
) -> Result<Option<Arc<Stored>>, String> {
    let name = object::text(reference, &[name]);
    match (sources.get)(plural, name) {
        None if reference["optional"] != true => {
            Err(format!("{} {name:?} not found", singular(plural).to_lowercase()))
        }
        found => Ok(found),
    }
}

/// Its entries.
pub(super) fn data(
    sources: &Sources<'_>,
    plural: &str,
    reference: &Value,
    name: &str,
) -> Result<Option<BTreeMap<String, Vec<u8>>>, String> {
    let found = source(sources, plural, reference, name)?;
    Ok(found.map(|stored| entries(plural, &stored.object, |_| true)))
}

/// The entries of a ConfigMap or Secret with such keys.
fn entries(plural: &str, object: &Value, is_wanted: impl Fn(&str) -> bool) -> BTreeMap<String, Vec<u8>> {
    let bytes = |value: &Value| STANDARD.decode(value.as_str().unwrap_or_default()).ok();
    let texts = object::object(object, &["data"]).iter().filter(|(key, _)| is_wanted(key));
    let texts = texts.filter_map(|(key, value)| {
        let value = match plural {
            "secrets" => bytes(value),
            _ => value.as_str().map(|text| text.as_bytes().to_vec()),
        };
        Some((key.clone(), value?))
    });
    let others = object::object(object, &["binaryData"]).iter().filter(|(key, _)| is_wanted(key));
    texts.chain(others.filter_map(|(key, value)| Some((key.clone(), bytes(value)?)))).collect()
}

/// A field of the pod, as the downward API names it.
pub(super) fn field(sources: &Sources<'_>, path: &str) -> Result<String, String> {
    let pod = sources.pod;
    let map = |field: &str| {
        let entries = object::texts(object::object(pod, &["metadata", field]));
        entries.iter().map(|(key, value)| format!("{key}={value:?}")).collect::<Vec<_>>().join("\n")
    };
    let keyed = |field: &str| {
        let key =
            path.strip_prefix("metadata.")?.strip_prefix(field)?.strip_prefix("['")?.strip_suffix("']")?;
        Some(object::text(pod, &["metadata", field, key]).to_owned())
    };
    if let Some(value) = keyed("labels").or_else(|| keyed("annotations")) {
        return Ok(value);
    }
    Ok(match path {
        "metadata.name" => object::name(pod).into(),
        "metadata.namespace" => object::namespace(pod).into(),
        "metadata.uid" => object::uid(pod).into(),
        "metadata.labels" => map("labels"),
        "metadata.annotations" => map("annotations"),
        "spec.nodeName" => object::text(pod, &["spec", "nodeName"]).into(),
        "spec.serviceAccountName" => match object::text(pod, &["spec", "serviceAccountName"]) {
            "" => "default".into(),
            name => name.into(),
        },
        "status.hostIP" | "status.hostIPs" => sources.host_ip.into(),
        "status.podIP" => sources.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => sources.pod_ips.join(","),
        _ => return Err(format!("fieldPath {path:?} is not possible here")),
    })
}

/// A limit or request, in units of the divisor.
pub(super) fn resource(part: &Part<'_>, sources: &Sources<'_>, reference: &Value) -> Result<String, String> {
    let name = object::text(reference, &["containerName"]);
    let all = super::parts(sources.pod);
    let spec = match name {
        "" => part.spec,
        _ => all
            .iter()
            .find(|other| other.name == name)
            .map(|other| other.spec)
            .ok_or_else(|| format!("there is no container {name:?}"))?,
    };
    let path = object::text(reference, &["resource"]);
    let bad = || format!("resource {path:?} is not possible here: limits or requests of cpu or memory are");
    let (kind, resource) = path.split_once('.').ok_or_else(bad)?;
    if !matches!((kind, resource), ("limits" | "requests", "cpu" | "memory")) {
        return Err(bad());
    }
    let own = object::at(spec, &["resources", kind, resource]).and_then(Quantity::of);
    // Without a limit what the machine has is the limit.
    let value = own.map_or_else(
        || match (kind, resource) {
            ("limits", "cpu") => i64::from(sources.cpus) * 1000,
            ("limits", _) => i64::try_from(sources.memory).unwrap_or(i64::MAX / 1000).saturating_mul(1000),
            _ => 0,
        },
        Quantity::milli,
    );
    let divisor = reference
        .get("divisor")
        .and_then(Quantity::of)
        .map(Quantity::milli)
        .filter(|divisor| *divisor > 0)
        .unwrap_or(1000);
    Ok((value / divisor + i64::from(value % divisor != 0)).to_string())
}

/// A `subPathExpr`: every variable that it names has to be there.
///
/// # Errors
/// A sentence that says which is not, or that it becomes too long.
pub(super) fn expanded(text: &str, env: &Environment) -> Result<String, String> {
    let Expanded { text: out, absent } = expand(text, env)?;
    match absent {
        Some(name) => {
            Err(format!("subPathExpr {text:?} names variable {name:?}, which the container does not have"))
        }
        None => Ok(out),
    }
}

/// A text whose variables are replaced.
struct Expanded {
    text: String,
    /// The first that is not there.
    absent: Option<String>,
}

/// `$(NAME)` becomes the variable's value if there is one, `$$` a single `$` (Kubernetes' `expansion` package).
///
/// # Errors
/// A sentence: it becomes longer than any argument.
fn expand(text: &str, env: &Environment) -> Result<Expanded, String> {
    let mut out = String::new();
    let mut absent = None;
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match env.get(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.extend(["$(", name, ")"]);
                    absent.get_or_insert_with(|| name.to_owned());
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
        if out.len() >= MAX_STRING {
            break;
        }
    }
    out.push_str(rest);
    match out.len() >= MAX_STRING {
        true => Err(too_long(text)),
        false => Ok(Expanded { text: out, absent }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::parts;
    use proptest::prelude::*;
    use serde_json::json;

    fn wanted(spec: Value) -> Result<Wanted, String> {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": "1"}}, "spec": {"nodeName": "box", "containers": [spec],
            "securityContext": {"supplementalGroups": [7], "fsGroup": 8}}});
        let get = |plural: &str, name: &str| {
            let object = match (plural, name) {
                ("configmaps", "c") => {
                    json!({"data": {"k": "text", "bad=": "x"}, "binaryData": {"b": "/w=="}})
                }
                ("configmaps", "many") => {
                    let data: serde_json::Map<_, _> =
                        (0..20_000).map(|n| (format!("k{n}"), json!("x"))).collect();
                    json!({"data": data})
                }
                ("configmaps", "long") => json!({"data": {"k": "x".repeat(MAX_STRING)}}),
                ("configmaps", "large") => {
                    let data: serde_json::Map<_, _> =
                        (0..9).map(|n| (format!("k{n}"), json!("x".repeat(100 << 10)))).collect();
                    json!({"data": data})
                }
                ("secrets", "s") => json!({"data": {"pass": "c2VjcmV0"}}),
                _ => return None,
            };
            Some(Arc::new(Stored { object, version: 1 }))
        };
        let sources = Sources {
            pod: &pod,
            get: &get,
            host_ip: "192.0.2.1",
            pod_ips: vec!["10.0.0.2".into()],
            cpus: 4,
            memory: 1 << 30,
        };
        container(&parts(&pod)[0], &sources)
    }

    #[test]
    fn an_environment_is_drawn_from_everywhere() {
        let made = wanted(json!({"name": "a", "command": ["sh", "-c", "echo $(B) $$(B) $(NONE)"], "args": ["$(POD)"],
            "envFrom": [{"prefix": "C_", "configMapRef": {"name": "c"}}, {"secretRef": {"name": "none", "optional": true}}],
            "resources": {"limits": {"memory": "64Mi", "cpu": "250m"}},
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)2"},
                {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "M", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
                {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "pass"}}},
                {"name": "O", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "none", "optional": true}}}]}))
        .unwrap();
        assert_eq!(made.env, ["C_k=text", "A=1", "B=12", "POD=p", "L=1", "IP=10.0.0.2", "M=64", "S=secret"]);
        assert_eq!(made.command.unwrap()[2], "echo 12 $(B) $(NONE)");
        assert_eq!(
            (made.args, made.memory, made.milli_cpus),
            (vec!["p".to_owned()], Some(64 << 20), Some(250))
        );
    }

    #[test]
    fn an_environment_is_as_large_as_a_guest_can_take() {
        let from = |name: &str| json!({"configMapRef": {"name": name}});
        let made = wanted(
            json!({"name": "a", "envFrom": [from("many"), from("many")], "env": [{"name": "k7", "value": "y"}]}),
        );
        let env = made.unwrap().env;
        assert_eq!(env.len(), 20_000);
        assert!(env.contains(&"k7=y".to_owned()) && env.contains(&"k19999=x".to_owned()));
        for name in ["long", "large"] {
            let error = wanted(json!({"name": "a", "envFrom": [from(name)]})).unwrap_err();
            assert!(error.contains("bytes") && error.len() < 200, "{error}");
        }
        assert!(wanted(json!({"name": "a", "args": ["x".repeat(MAX_STRING)]})).is_err());
    }

    #[test]
    fn variables_that_double_each_other_end_before_they_fill_memory() {
        let double = |n: u8| json!({"name": format!("V{}", n + 1), "value": format!("$(V{n})$(V{n})")});
        let env: Vec<Value> = std::iter::once(json!({"name": "V0", "value": "x".repeat(1000)}))
            .chain((0..60).map(double))
            .collect();
        let error = wanted(json!({"name": "a", "env": env})).unwrap_err();
        assert!(error.contains("longer"), "{error}");
        // Each is short enough; all of them are too many.
        let long = json!([{"name": "L", "value": "x".repeat(100_000)}]);
        let many = |count: usize| json!({"name": "a", "env": long, "args": vec!["$(L)"; count]});
        assert_eq!(wanted(many(7)).unwrap().args.len(), 7);
        assert!(wanted(many(100_000)).unwrap_err().contains("more than"));
        let copies: Vec<Value> = std::iter::once(long[0].clone())
            .chain((0..100_000).map(|n| json!({"name": format!("N{n}"), "value": "$(L)"})))
            .collect();
        assert!(wanted(json!({"name": "a", "env": copies})).unwrap_err().contains("more than"));
        // One text that names it often.
        let error = wanted(json!({"name": "a", "env": long, "command": ["$(L)".repeat(100_000)]}));
        assert!(error.unwrap_err().contains("longer"));
    }

    #[test]
    fn what_is_not_there_is_named() {
        for (env, word) in [
            (json!({"secretKeyRef": {"name": "none", "key": "k"}}), "not found"),
            (json!({"secretKeyRef": {"name": "s", "key": "k"}}), "couldn't find key k in Secret n/s"),
            (json!({"configMapKeyRef": {"name": "c", "key": "b"}}), "no text"),
            (json!({"fieldRef": {"fieldPath": "spec.replicas"}}), "not possible"),
            (json!({"resourceFieldRef": {"resource": "limits.gpu"}}), "not possible"),
        ] {
            let error = wanted(json!({"name": "a", "env": [{"name": "X", "valueFrom": env}]})).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
        assert!(
            wanted(json!({"name": "a", "securityContext": {"runAsNonRoot": true, "runAsUser": 0}})).is_err()
        );
    }

    #[test]
    fn a_context_of_the_container_goes_before_the_pods() {
        let made = wanted(json!({"name": "a", "securityContext": {"runAsUser": 5, "runAsGroup": 6, "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["cap_net_admin"]}}})).unwrap();
        assert_eq!((made.user, made.group, made.read_only), (Some(5), Some(6), true));
        assert_eq!(made.groups, [7, 8], "the pod's");
        assert_eq!((made.cap_drop, made.cap_add), (vec!["ALL".to_owned()], vec!["NET_ADMIN".to_owned()]));
    }

    #[test]
    fn who_must_not_be_root_is_not() {
        let with = |context: Value| wanted(json!({"name": "a", "securityContext": context})).unwrap();
        let group = with(json!({"runAsNonRoot": true, "runAsGroup": 3000}));
        for root in ["", "0", "0:5", "root", "app"] {
            assert!(group.identity(root).is_err(), "{root:?}");
        }
        assert_eq!(group.identity("7:8"), Ok(Some("7:3000".into())));
        assert_eq!(with(json!({"runAsGroup": 6})).identity(""), Ok(Some("0:6".into())));
        assert_eq!(with(json!({"runAsGroup": 6})).identity("app"), Ok(Some("app:6".into())));
        assert_eq!(with(json!({"runAsNonRoot": true, "runAsUser": 5})).identity(""), Ok(Some("5".into())));
        assert_eq!(with(json!({})).identity("app"), Ok(None));
    }

    proptest! {
        #[test]
        fn any_text_is_expanded(text in any::<String>()) {
            let mut env = Environment::new();
            env.set("A".into(), "1".into()).unwrap();
            let out = expand(&text, &env).unwrap().text;
            if !text.contains('$') {
                prop_assert_eq!(out, text);
            }
        }
    }
}
