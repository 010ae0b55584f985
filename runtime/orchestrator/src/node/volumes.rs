//! A container's volumes: what is to be in them, drawn from objects and the pod's own fields, and where the container sees them.

use super::request::{Environment, Sources, data, environment, expanded, field, resource};
use super::{Part, schedule};
use crate::object;
use crate::quantity::Quantity;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of the files of a container's volumes at most: a ConfigMap has 1 MiB.
const MAX_FILES: usize = 8 << 20;
/// What a file takes beside its path and its bytes.
const FILE: usize = 256;
/// Longest path that a `subPathExpr` may become, bytes (PATH_MAX).
const MAX_PATH: usize = 4096;
/// Permission bits when nobody says.
const MODE: i64 = 0o644;

/// A volume that a container mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name in the pod.
    pub name: String,
    /// Bytes at most.
    pub size: u64,
    /// Its files, which are only read; none: it is empty at first and the containers'.
    pub files: Option<Vec<File>>,
    /// The group that it and everything in it belongs to (`fsGroup`).
    pub group: u32,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Names joined by `/`.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// Where a container sees a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// `empty/NAME` or `files/NAME[/path]`.
    pub source: String,
    /// An absolute path.
    pub path: String,
    /// It can't be written.
    pub read_only: bool,
}

/// What a container mounts, and where.
///
/// # Errors
/// A sentence that says what is not there, or not possible.
pub fn of(part: &Part<'_>, sources: &Sources<'_>) -> Result<(Vec<Volume>, Vec<Mount>), String> {
    let (mut volumes, mut mounts, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
    let mut env: Option<Environment> = None;
    let mut room = MAX_FILES;
    for mount in object::list(part.spec, &["volumeMounts"]) {
        let name = object::text(mount, &["name"]);
        let declared = object::list(sources.pod, &["spec", "volumes"])
            .iter()
            .find(|one| object::text(one, &["name"]) == name);
        let declared = declared.ok_or_else(|| format!("there is no volume {name:?}"))?;
        if seen.insert(name) {
            volumes.push(volume(name, declared, part, sources, &mut room)?);
        }
        let is_empty = declared.get("emptyDir").is_some();
        let sub = match object::text(mount, &["subPathExpr"]) {
            "" => object::text(mount, &["subPath"]).to_owned(),
            text => {
                let env = match &mut env {
                    Some(env) => env,
                    none => none.insert(environment(part, sources)?),
                };
                expanded(text, env)?
            }
        };
        let sub = sub.trim_end_matches('/');
        if sub.len() > MAX_PATH {
            return Err(format!("subPathExpr of volume {name} becomes longer than {MAX_PATH} bytes"));
        }
        let path = object::text(mount, &["mountPath"]);
        if !path.starts_with('/') {
            return Err(format!("mountPath {path:?} is no absolute path"));
        }
        if !sub.is_empty() && (is_empty || sub.split('/').any(|step| matches!(step, "" | "." | ".."))) {
            // A container could lay a link there that leads out of the volume.
            return Err(format!(
                "subPath {sub:?} of volume {name} is not possible here: only paths in volumes of files are"
            ));
        }
        let source = match (is_empty, sub) {
            (true, _) => format!("empty/{name}"),
            (false, "") => format!("files/{name}"),
            (false, sub) => format!("files/{name}/{sub}"),
        };
        mounts.push(Mount {
            source,
            path: path.to_owned(),
            read_only: !is_empty || mount["readOnly"] == true,
        });
    }
    Ok((volumes, mounts))
}

fn volume(
    name: &str,
    declared: &Value,
    part: &Part<'_>,
    sources: &Sources<'_>,
    room: &mut usize,
) -> Result<Volume, String> {
    if declared.get("emptyDir").is_some() {
        let limit = object::at(declared, &["emptyDir", "sizeLimit"]).and_then(Quantity::of);
        let size = limit.map(|limit| limit.ceil().max(0).unsigned_abs()).filter(|size| *size > 0);
        return Ok(Volume {
            name: name.into(),
            size: size.unwrap_or(schedule::size(sources.pod).memory),
            files: None,
            group: group(sources.pod),
        });
    }
    let mut files = Files { files: BTreeMap::new(), room };
    if let Some(projected) = declared.get("projected") {
        let mode = object::number(projected, &["defaultMode"]);
        for source in object::list(projected, &["sources"]) {
            add(&mut files, source, "name", mode, part, sources)?;
        }
    } else {
        let own = ["configMap", "secret", "downwardAPI"]
            .iter()
            .find_map(|kind| declared.get(*kind))
            .unwrap_or(&Value::Null);
        add(&mut files, declared, "secretName", object::number(own, &["defaultMode"]), part, sources)?;
    }
    let mut files = files.files;
    let group = group(sources.pod);
    if group != 0 {
        // Its members read what they are given, whatever the mode says of groups, as kubelet has it.
        files.values_mut().for_each(|file: &mut File| file.mode |= 0o440);
    }
    let size: usize = files.values().map(|file: &File| file.bytes.len()).sum();
    // Each file takes whole pages, and while it is written anew twice; and it has a name.
    let room = files.len() * 16 * 1024 + 2 * size + (1 << 16);
    Ok(Volume { name: name.into(), size: room as u64, files: Some(files.into_values().collect()), group })
}

fn group(pod: &Value) -> u32 {
    let group = object::number(pod, &["spec", "securityContext", "fsGroup"]);
    group.and_then(|group| u32::try_from(group).ok()).unwrap_or(0)
}

/// The files of one volume while they are gathered.
struct Files<'a> {
    files: BTreeMap<String, File>,
    /// Bytes of paths and files that may still come, in all volumes of the container; those that are replaced don't come back. Counted before they
    /// are kept: a short pod can name one large text many times, and one ConfigMap in many volumes.
    room: &'a mut usize,
}

impl Files<'_> {
    fn put(&mut self, path: &str, own: Option<i64>, mode: Option<i64>, bytes: Vec<u8>) -> Result<(), String> {
        if path.is_empty() || path.split('/').any(|step| matches!(step, "" | "." | "..")) {
            return Err(format!("{path:?} is no path in a volume"));
        }
        let left = self.room.checked_sub(FILE + path.len() + bytes.len());
        let full = || format!("the container's volumes have more than {MAX_FILES} bytes of files");
        *self.room = left.ok_or_else(full)?;
        // Twelve bits at most, so it fits.
        let mode = (own.or(mode).unwrap_or(MODE) & 0o777) as u32;
        self.files.insert(path.to_owned(), File { path: path.to_owned(), mode, bytes });
        Ok(())
    }
}

/// Adds what one source gives. `secret`: what a Secret's name is called in it.
fn add(
    files: &mut Files<'_>,
    source: &Value,
    secret: &str,
    mode: Option<i64>,
    part: &Part<'_>,
    sources: &Sources<'_>,
) -> Result<(), String> {
    for (kind, plural, name) in [("configMap", "configmaps", "name"), ("secret", "secrets", secret)] {
        let Some(own) = source.get(kind) else { continue };
        let Some(entries) = data(sources, plural, own, name)? else { continue };
        let items = object::list(own, &["items"]);
        if items.is_empty() {
            for (key, bytes) in entries {
                files.put(&key, None, mode, bytes)?;
            }
            continue;
        }
        for item in items {
            let key = object::text(item, &["key"]);
            match entries.get(key) {
                Some(bytes) => {
                    let own = object::number(item, &["mode"]);
                    files.put(object::text(item, &["path"]), own, mode, bytes.clone())?;
                }
                None if own["optional"] == true => {}
                None => return Err(format!("references non-existent {kind} key: {key}")),
            }
        }
    }
    for item in object::list(source, &["downwardAPI", "items"]) {
        let text = match item.get("fieldRef") {
            Some(reference) => field(sources, object::text(reference, &["fieldPath"]))?,
            None => resource(part, sources, &item["resourceFieldRef"])?,
        };
        let own = object::number(item, &["mode"]);
        files.put(object::text(item, &["path"]), own, mode, text.into_bytes())?;
    }
    if source.get("serviceAccountToken").is_some() || source.get("clusterTrustBundle").is_some() {
        return Err("tokens of service accounts and trust bundles are not possible here".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::parts;
    use crate::store::Stored;
    use serde_json::json;
    use std::sync::Arc;

    fn pod(volume: Value, mount: Value) -> Value {
        json!({"metadata": {"name": "p", "namespace": "n", "labels": {"a": "1"}}, "spec": {"volumes": [volume],
            "containers": [{"name": "c", "volumeMounts": [mount], "env": [{"name": "KEY", "value": "k"}]}]}})
    }

    fn made(volume: Value, mount: Value) -> Result<(Vec<Volume>, Vec<Mount>), String> {
        made_of(&pod(volume, mount))
    }

    fn made_of(pod: &Value) -> Result<(Vec<Volume>, Vec<Mount>), String> {
        let get = |plural: &str, name: &str| {
            let object = match (plural, name) {
                ("configmaps", "c") => json!({"data": {"k": "text", "l": "more"}}),
                ("configmaps", "large") => json!({"data": {"k": "x".repeat(1 << 20)}}),
                ("secrets", "s") => json!({"data": {"pass": "c2VjcmV0"}}),
                _ => return None,
            };
            Some(Arc::new(Stored { object, version: 1 }))
        };
        let sources = Sources { pod, get: &get, host_ip: "", pod_ips: Vec::new(), cpus: 1, memory: 1 };
        of(&parts(pod)[0], &sources)
    }

    #[test]
    fn files_come_from_everywhere() {
        let mount = || json!({"name": "v", "mountPath": "/v"});
        let files = |volume| made(volume, mount()).unwrap().0[0].files.clone().unwrap();
        let all = files(json!({"name": "v", "configMap": {"name": "c", "defaultMode": 256}}));
        assert_eq!((all.len(), all[0].mode, &all[0].bytes[..]), (2, 0o400, &b"text"[..]));
        let some = files(
            json!({"name": "v", "secret": {"secretName": "s", "items": [{"key": "pass", "path": "a/b", "mode": 384}]}}),
        );
        assert_eq!((some[0].path.as_str(), some[0].mode, &some[0].bytes[..]), ("a/b", 0o600, &b"secret"[..]));
        let projected = files(
            json!({"name": "v", "projected": {"sources": [{"configMap": {"name": "c", "items": [{"key": "l", "path": "l"}]}},
            {"secret": {"name": "s"}}, {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}}),
        );
        assert_eq!(
            projected.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(),
            ["l", "labels", "pass"]
        );
        assert_eq!(projected[1].bytes, b"a=\"1\"");
        assert_eq!(files(json!({"name": "v", "configMap": {"name": "none", "optional": true}})), []);
    }

    #[test]
    fn one_text_may_be_many_files_but_not_without_end() {
        let items = |count: usize| -> Vec<Value> {
            (0..count).map(|n| json!({"key": "k", "path": format!("f{n}")})).collect()
        };
        let volume = |count| json!({"name": "v", "configMap": {"name": "large", "items": items(count)}});
        let mount = || json!({"name": "v", "mountPath": "/v"});
        assert_eq!(made(volume(7), mount()).unwrap().0[0].files.as_ref().unwrap().len(), 7);
        assert!(made(volume(100_000), mount()).unwrap_err().contains("more than"));
        let sources = vec![json!({"configMap": {"name": "large"}}); 100];
        assert!(made(json!({"name": "v", "projected": {"sources": sources}}), mount()).is_err());
    }

    #[test]
    fn many_volumes_have_no_more_files_together_than_one() {
        let mut pod = pod(json!({}), json!({}));
        let of = |count: usize, entry: fn(String) -> Value| -> Vec<Value> {
            (0..count).map(|n| entry(format!("v{n}"))).collect()
        };
        let mut made = |count: usize| {
            pod["spec"]["volumes"] =
                of(count, |name| json!({"name": name, "configMap": {"name": "large"}})).into();
            pod["spec"]["containers"][0]["volumeMounts"] =
                of(count, |name| json!({"name": name, "mountPath": format!("/{name}")})).into();
            made_of(&pod)
        };
        assert_eq!(made(7).unwrap().0.len(), 7);
        assert!(made(8).unwrap_err().contains("more than"));
    }

    #[test]
    fn a_path_in_a_volume_is_no_longer_than_a_path() {
        let mut pod = pod(
            json!({"name": "v", "configMap": {"name": "c"}}),
            json!({"name": "v", "mountPath": "/v", "subPathExpr": "$(KEY)"}),
        );
        pod["spec"]["containers"][0]["env"][0]["value"] = "x".repeat(MAX_PATH + 1).into();
        assert!(made_of(&pod).unwrap_err().contains("longer than"));
    }

    #[test]
    fn a_pods_group_reads_its_files() {
        let declared = json!({"name": "v", "configMap": {"name": "c", "defaultMode": 256}});
        let mut pod = pod(declared, json!({"name": "v", "mountPath": "/v"}));
        pod["spec"]["securityContext"] = json!({"fsGroup": 2000});
        let volume = made_of(&pod).unwrap().0.remove(0);
        assert_eq!((volume.group, volume.files.unwrap()[0].mode), (2000, 0o440));
    }

    #[test]
    fn mounts_lead_nowhere_else() {
        let empty = || json!({"name": "v", "emptyDir": {"sizeLimit": "1Mi"}});
        let (volumes, mounts) =
            made(empty(), json!({"name": "v", "mountPath": "/v", "readOnly": true})).unwrap();
        assert_eq!((volumes[0].size, &volumes[0].files), (1 << 20, &None));
        assert_eq!((mounts[0].source.as_str(), mounts[0].read_only), ("empty/v", true));
        assert!(made(empty(), json!({"name": "v", "mountPath": "/v", "subPath": "a"})).is_err());
        let config = || json!({"name": "v", "configMap": {"name": "c"}});
        let mounts = made(config(), json!({"name": "v", "mountPath": "/etc/k", "subPath": "k"})).unwrap().1;
        let by_expression = json!({"name": "v", "mountPath": "/etc/k", "subPathExpr": "$(KEY)"});
        assert_eq!(made(config(), by_expression).unwrap().1, mounts);
        assert_eq!((mounts[0].source.as_str(), mounts[0].read_only), ("files/v/k", true));
        for (volume, mount) in [
            (config(), json!({"name": "v", "mountPath": "/v", "subPath": "../k"})),
            (config(), json!({"name": "v", "mountPath": "v"})),
            (config(), json!({"name": "v", "mountPath": "/v", "subPathExpr": "$(NONE)"})),
            (json!({"name": "v", "configMap": {"name": "none"}}), json!({"name": "v", "mountPath": "/v"})),
            (
                json!({"name": "v", "secret": {"secretName": "s", "items": [{"key": "pass", "path": "../x"}]}}),
                json!({"name": "v", "mountPath": "/v"}),
            ),
            (
                json!({"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}),
                json!({"name": "v", "mountPath": "/v"}),
            ),
        ] {
            assert!(made(volume.clone(), mount).is_err(), "{volume}");
        }
    }
}
