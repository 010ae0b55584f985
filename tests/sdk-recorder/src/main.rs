//! Records what published SDKs of Firecracker ask of Vial's programs: `tests/sdk-recorder/record` runs it.
//!
//! An SDK is given this program as `firecracker` and `jailer`; see `stand_in`. A recording is kept only if the SDK was content with
//! every answer.

#![forbid(unsafe_code)]

mod fctools_sdk;
mod firecracker_python;
mod firecracker_rs_sdk;
mod firepilot_sdk;
mod stage;
mod stand_in;
#[path = "../../../vmm/tests/process/tiny.rs"]
mod tiny;

use stage::Stage;
use std::path::{Path, PathBuf};

fn main() {
    let name = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    match name.file_name().and_then(|name| name.to_str()) {
        Some(name @ ("firecracker" | "jailer")) => stand_in::run(name),
        Some("proxy") => stand_in::proxy(),
        _ => record(),
    }
}

fn record() {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(real), Some(kept), Some(python)) = (arguments.next(), arguments.next(), arguments.next())
    else {
        panic!("usage: sdk-recorder FOLDER-WITH-THE-REAL-PROGRAMS FOLDER-OF-RECORDINGS PYTHON [NAME]");
    };
    let runtime = tokio::runtime::Runtime::new().expect("threads are left");
    let only = arguments.next();
    let on = |name: &str, sdk: &str, story: &dyn Fn(&Stage)| {
        if only.as_ref().is_some_and(|only| only != Path::new(name)) {
            return;
        }
        eprintln!("{name}");
        let stage = Stage::new(&real);
        story(&stage);
        stage.keep(sdk, &kept.join(format!("{name}.json")));
    };
    let fctools = "fctools 0.7.0-alpha.2";
    on("fctools", fctools, &|stage| runtime.block_on(fctools_sdk::by_api(stage)));
    on("fctools-configuration-file", fctools, &|stage| runtime.block_on(fctools_sdk::by_file(stage)));
    on("fctools-jailed", fctools, &|stage| runtime.block_on(fctools_sdk::jailed(stage, true)));
    on("fctools-jailed-daemon", fctools, &|stage| runtime.block_on(fctools_sdk::jailed(stage, false)));
    let rs = "firecracker-rs-sdk 0.1.0";
    on("firecracker-rs-sdk", rs, &|stage| runtime.block_on(firecracker_rs_sdk::plain(stage)));
    on("firecracker-rs-sdk-jailed", rs, &|stage| runtime.block_on(firecracker_rs_sdk::jailed(stage)));
    on("firepilot", "firepilot 1.2.0", &|stage| runtime.block_on(firepilot_sdk::run(stage)));
    on("firecracker-python", "firecracker-python 0.0.5", &|stage| firecracker_python::run(stage, &python));
}
