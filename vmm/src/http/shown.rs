//! What `GET /vm/config` shows besides what was said: Firecracker writes every field, with null for what is not there, and its clients
//! look them up.

use serde_json::{Map, Value};

type Fields<'a> = &'a [&'a str];

const WHOLE: Fields<'_> =
    &["balloon", "cpu-config", "entropy", "logger", "memory-hotplug", "metrics", "mmds-config", "vsock"];
const LISTS: Fields<'_> = &["drives", "network-interfaces", "pmem"];
/// Fields of one thing, or of each of a list.
const PARTS: [(&str, Fields<'_>, Fields<'_>); 5] = [
    ("boot-source", &["boot_args", "initrd_path"], &[]),
    ("drives", &["io_engine", "partuuid", "path_on_host"], &["rate_limiter"]),
    ("network-interfaces", &["guest_mac"], &["rx_rate_limiter", "tx_rate_limiter"]),
    ("pmem", &[], &["rate_limiter"]),
    ("entropy", &[], &["rate_limiter"]),
];

/// The document with the fields that Firecracker shows.
pub fn complete(mut document: Value) -> Value {
    let Some(whole) = document.as_object_mut() else { return document };
    fill(whole, WHOLE);
    for list in LISTS {
        whole.entry(*list).or_insert_with(|| Value::Array(Vec::new()));
    }
    for (name, fields, limiters) in PARTS {
        let parts = match whole.get_mut(name) {
            Some(Value::Array(list)) => list.as_mut_slice(),
            Some(one) => std::slice::from_mut(one),
            None => &mut [],
        };
        for part in parts.iter_mut().filter_map(Value::as_object_mut) {
            fill(part, fields);
            fill(part, limiters);
            for name in limiters {
                if let Some(limiter) = part.get_mut(*name).and_then(Value::as_object_mut) {
                    fill_limiter(limiter);
                }
            }
        }
    }
    document
}

fn fill(object: &mut Map<String, Value>, fields: Fields<'_>) {
    for field in fields {
        object.entry(*field).or_insert(Value::Null);
    }
}

fn fill_limiter(limiter: &mut Map<String, Value>) {
    fill(limiter, &["bandwidth", "ops"]);
    for bucket in limiter.values_mut().filter_map(Value::as_object_mut) {
        fill(bucket, &["one_time_burst"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::config::VmConfig;
    use serde_json::json;

    #[test]
    fn what_is_not_there_is_null_and_what_is_stays() {
        let said = json!({
            "boot-source": {"kernel_image_path": "/k", "boot_args": "quiet"},
            "drives": [{"drive_id": "a", "path_on_host": "/a", "rate_limiter": {"ops": {"size": 1, "refill_time": 2}}}],
            "network-interfaces": [{"iface_id": "e", "host_dev_name": "t"}],
            "entropy": {},
        });
        let shown = complete(said.clone());
        let boot = json!({"kernel_image_path": "/k", "boot_args": "quiet", "initrd_path": null});
        assert_eq!(shown["boot-source"], boot);
        let limiter =
            json!({"bandwidth": null, "ops": {"size": 1, "refill_time": 2, "one_time_burst": null}});
        assert_eq!(shown["drives"][0]["rate_limiter"], limiter);
        for (part, field) in
            [("drives", "io_engine"), ("drives", "partuuid"), ("network-interfaces", "guest_mac")]
        {
            assert_eq!(shown[part][0].get(field), Some(&Value::Null), "{part} {field}");
        }
        assert_eq!((shown.get("balloon"), shown.get("pmem")), (Some(&Value::Null), Some(&json!([]))));
        assert_eq!(shown["entropy"], json!({"rate_limiter": null}));
        // It is a configuration still.
        let config = |document: Value| serde_json::from_value::<VmConfig>(document).unwrap();
        assert_eq!(config(shown), config(said));
    }

    #[test]
    fn a_part_of_a_document_is_completed_too() {
        assert_eq!(complete(json!({}))["drives"], json!([]));
        assert_eq!(complete(json!(null)), json!(null));
    }
}
