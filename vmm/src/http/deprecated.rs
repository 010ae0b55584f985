//! What Firecracker would rather not be asked any more. It says so in a header, and counts it.

use super::action::{Action, Configure};
use crate::api::config::MmdsVersion;
use serde_json::Value;

/// Whether a request that was understood has something of it.
pub fn is(action: &Action, body: &[u8]) -> bool {
    let Action::Configure(document) = action else { return false };
    match &**document {
        Configure::Vsock(vsock) => vsock.vsock_id.is_some(),
        Configure::Mmds(mmds) => mmds.version == MmdsVersion::V1,
        Configure::MachineUpdate(update) => update.cpu_template.is_some(),
        // Whoever says that there is none has asked too, and the document does not tell it from silence.
        Configure::Machine(_) => serde_json::from_slice::<Value>(body)
            .is_ok_and(|body| body.get("cpu_template").is_some_and(|template| !template.is_null())),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::route::route;

    #[test]
    fn fields_that_go_away_are_known() {
        for (method, path, body, expected) in [
            ("PUT", "/vsock", r#"{"guest_cid":3,"uds_path":"/v","vsock_id":"v"}"#, true),
            ("PUT", "/vsock", r#"{"guest_cid":3,"uds_path":"/v"}"#, false),
            ("PUT", "/mmds/config", r#"{"network_interfaces":["e"]}"#, true),
            ("PUT", "/mmds/config", r#"{"network_interfaces":["e"],"version":"V2"}"#, false),
            ("PUT", "/machine-config", r#"{"vcpu_count":1,"mem_size_mib":64,"cpu_template":"None"}"#, true),
            ("PUT", "/machine-config", r#"{"vcpu_count":1,"mem_size_mib":64}"#, false),
            ("PATCH", "/machine-config", r#"{"cpu_template":"T2"}"#, true),
            ("PUT", "/entropy", "{}", false),
        ] {
            let action = route(method, path, body.as_bytes()).unwrap();
            assert_eq!(is(&action, body.as_bytes()), expected, "{path} {body}");
        }
    }
}
