use super::rights::Rights;
use super::*;
use oci_spec::image::{ConfigBuilder, ImageConfigurationBuilder};

fn image() -> ImageConfiguration {
    let config = ConfigBuilder::default()
        .entrypoint(vec!["/entry".to_owned()])
        .cmd(vec!["serve".to_owned()])
        .env(vec!["PATH=/opt/bin:/bin".to_owned(), "LANG=C".to_owned()])
        .user("app")
        .working_dir("/srv")
        .stop_signal("SIGQUIT")
        .build()
        .unwrap();
    ImageConfigurationBuilder::default()
        .architecture("amd64")
        .os("linux")
        .rootfs(oci_spec::image::RootFs::default())
        .config(config)
        .build()
        .unwrap()
}

fn bare() -> ImageConfiguration {
    ImageConfigurationBuilder::default()
        .architecture("amd64")
        .os("linux")
        .rootfs(oci_spec::image::RootFs::default())
        .build()
        .unwrap()
}

fn options() -> Options {
    Options { hostname: "box".into(), memory: 256 << 20, milli_cpus: 1000, ..Options::default() }
}

#[test]
fn an_image_alone_says_everything() {
    let spec = container("c1", &image(), &options()).unwrap();
    assert_eq!(spec.args, ["/entry", "serve"]);
    assert_eq!(spec.stop_signal, 3);
    let process = &spec.oci["process"];
    assert_eq!(process["cwd"], "/srv");
    assert_eq!(process["user"], json!({ "uid": 0, "gid": 0, "username": "app" }));
    assert_eq!(process["env"], json!(["PATH=/opt/bin:/bin", "HOSTNAME=box", "LANG=C"]));
    assert_eq!(spec.oci["linux"]["resources"]["memory"]["limit"], 256 << 20);
    assert_eq!(spec.oci["linux"]["resources"].get("cpu"), None);
}

#[test]
fn options_lie_over_the_image() {
    let own = Options {
        command: vec!["sh".into(), "-c".into(), "exit 3".into()],
        entrypoint: Some(vec![]),
        env: vec!["LANG=de".into(), "X=1".into(), "PATH".into()],
        workdir: Some("/tmp".into()),
        user: Some("0".into()),
        milli_cpus: 1500,
        ..options()
    };
    let spec = container("c1", &image(), &own).unwrap();
    assert_eq!(spec.args, ["sh", "-c", "exit 3"]);
    assert_eq!(spec.oci["process"]["env"], json!(["HOSTNAME=box", "HOME=/root", "LANG=de", "X=1"]));
    assert_eq!(spec.oci["process"]["cwd"], "/tmp");
    assert_eq!(spec.oci["process"]["user"]["username"], "0");
    assert_eq!(spec.oci["linux"]["resources"]["cpu"], json!({ "quota": 150_000, "period": 100_000 }));
}

#[test]
fn a_bare_image_needs_a_command() {
    assert_eq!(container("c1", &bare(), &options()), Err(SpecError::NoCommand));
    let own = Options { command: vec!["true".into()], ..options() };
    let spec = container("c1", &bare(), &own).unwrap();
    assert_eq!(spec.oci["process"]["env"][0], defaults::PATH);
    assert_eq!(spec.oci["process"]["env"][2], "HOME=/root");
    assert_eq!(spec.oci["process"]["cwd"], "/");
    assert_eq!(spec.stop_signal, 15);
}

/// The agent reads the spec with the same types: whatever does not fit them must fail here and not in a guest.
#[test]
fn the_runtime_specs_types_take_it() {
    let spec = container("c1", &image(), &options()).unwrap();
    let typed: oci_spec::runtime::Spec = serde_json::from_value(spec.oci.clone()).unwrap();
    let linux = typed.linux().as_ref().unwrap();
    assert_eq!(linux.masked_paths().as_ref().unwrap().len(), defaults::MASKED_PATHS.len());
    assert_eq!(linux.namespaces().as_ref().unwrap().len(), 5);
    assert_eq!(linux.resources().as_ref().unwrap().devices().as_ref().unwrap().len(), 12);
    let capabilities = typed.process().as_ref().unwrap().capabilities().as_ref().unwrap();
    assert_eq!(capabilities.bounding().as_ref().unwrap().len(), 14);
    assert_eq!(typed.mounts().as_ref().unwrap().len(), 7);

    let process = exec(&spec.oci, &ExecOptions { command: vec!["id".into()], ..Default::default() }).unwrap();
    serde_json::from_value::<oci_spec::runtime::Process>(process).unwrap();
}

#[test]
fn an_exec_inherits_from_its_container() {
    let spec = container("c1", &image(), &options()).unwrap();
    let plain = exec(&spec.oci, &ExecOptions { command: vec!["id".into()], ..Default::default() }).unwrap();
    assert_eq!(plain["user"]["username"], "app");
    assert_eq!(plain["cwd"], "/srv");
    assert_eq!(plain["env"], spec.oci["process"]["env"]);
    let root = ExecOptions {
        command: vec!["id".into()],
        env: vec!["A=b".into()],
        workdir: Some("/".into()),
        user: Some("root".into()),
        ..Default::default()
    };
    let process = exec(&spec.oci, &root).unwrap();
    assert_eq!(process["env"], json!(["PATH=/opt/bin:/bin", "HOSTNAME=box", "LANG=C", "HOME=/root", "A=b"]));
    assert_eq!(process["cwd"], "/");
    assert_eq!(exec(&spec.oci, &ExecOptions::default()), Err(SpecError::NoCommand));

    let mut more = options();
    more.rights.groups = vec![2000];
    let spec = container("c1", &image(), &more).unwrap();
    assert_eq!(spec.oci["process"]["user"]["additionalGids"], json!([2000]));
    assert_eq!(exec(&spec.oci, &root).unwrap()["user"]["additionalGids"], json!([2000]));
}

#[test]
fn an_exec_may_no_more_than_its_container() {
    let mut few = options();
    few.rights = Rights {
        cap_drop: vec!["ALL".into()],
        cap_add: vec!["CHOWN".into()],
        no_new_privileges: true,
        ..Rights::default()
    };
    let spec = container("c1", &image(), &few).unwrap();
    for user in [None, Some("root".to_owned())] {
        let process =
            exec(&spec.oci, &ExecOptions { command: vec!["id".into()], user, ..Default::default() }).unwrap();
        assert_eq!(process["capabilities"]["bounding"], json!(["CAP_CHOWN"]));
        assert_eq!(process["capabilities"], spec.oci["process"]["capabilities"]);
        assert_eq!(process["noNewPrivileges"], true);
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let with = |change: fn(&mut Options)| {
        let mut own = Options { command: vec!["true".into()], ..options() };
        change(&mut own);
        container("c1", &image(), &own).unwrap_err()
    };
    assert_eq!(with(|o| o.command.push("a\0b".into())), SpecError::Nul("the command"));
    assert_eq!(with(|o| o.env.push("A=\0".into())), SpecError::Nul("the environment"));
    assert_eq!(with(|o| o.workdir = Some("tmp".into())), SpecError::RelativeWorkdir("tmp".into()));
    assert_eq!(with(|o| o.hostname = "-x".into()), SpecError::Hostname("-x".into()));
    assert_eq!(with(|o| o.hostname = "x".repeat(64)), SpecError::Hostname("x".repeat(64)));
    assert!(matches!(with(|o| o.memory = 1), SpecError::Size(_)));
}

#[test]
fn a_terminal_brings_its_size_and_a_term_that_others_overrule() {
    let spec = container("c1", &image(), &Options { terminal: Some((80, 24)), ..options() }).unwrap();
    let process = &spec.oci["process"];
    assert_eq!(process["terminal"], true);
    assert_eq!(process["consoleSize"], json!({ "width": 80, "height": 24 }));
    assert!(process["env"].as_array().unwrap().contains(&json!("TERM=xterm")));
    assert!(has_terminal(&spec.oci));
    let own = Options { terminal: Some((80, 24)), env: vec!["TERM=linux".into()], ..options() };
    let spec = container("c1", &image(), &own).unwrap();
    assert!(spec.oci["process"]["env"].as_array().unwrap().contains(&json!("TERM=linux")));

    let plain = container("c1", &image(), &options()).unwrap();
    assert!(!has_terminal(&plain.oci) && plain.oci["process"].get("consoleSize").is_none());
    let one = ExecOptions { command: vec!["sh".into()], terminal: Some((1, 2)), ..ExecOptions::default() };
    let process = exec(&plain.oci, &one).unwrap();
    assert_eq!((&process["terminal"], &process["env"][0]), (&json!(true), &json!("TERM=xterm")));
    let process = exec(&spec.oci, &one).unwrap();
    assert!(process["env"].as_array().unwrap().contains(&json!("TERM=linux")), "the container's own counts");
}
