//! `vial completion`: a shell completes what it can.

use std::process::Command;
use vial_tests::host::{Ran, Vial, path};

/// What bash offers for the last of these words, once it has read the script.
fn offered(vial: &Vial, words: &[&str]) -> Vec<String> {
    // What bash does at the Tab key: the function that the script has registered is called with the words.
    const TAB: &str = r#"
        source <("$1" completion bash) || exit 1
        vial() { "$PROGRAM" "$@"; }
        shift
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_TYPE=9
        function=$(complete -p vial); function=${function##*-F }
        "${function% *}" vial "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    let mut command = Command::new("bash");
    command.args(["--norc", "-c", TAB, "bash", path(&Vial::program())]).args(words);
    command.env("VIAL_DATA_DIR", vial.data()).env("VIAL_RUN_DIR", vial.run_dir());
    command.env("PROGRAM", Vial::program());
    let ran: Ran = vial.output(command);
    ran.ok().lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_options_and_names() {
    let vial = Vial::with_busybox();
    vial.run(["create", "--name", "red", "busybox"]).ok();
    vial.run(["create", "--name", "green", "busybox"]).ok();

    assert_eq!(offered(&vial, &["vial", "rena"]), ["rename"]);
    assert_eq!(offered(&vial, &["vial", "rm", "--for"]), ["--force"]);
    assert_eq!(offered(&vial, &["vial", "stop", "r"]), ["red"]);
    let mut all = offered(&vial, &["vial", "exec", "-it", ""]);
    all.retain(|word| !word.starts_with('-'));
    all.sort();
    assert_eq!(all, ["green", "red"]);
    assert_eq!(offered(&vial, &["vial", "cp", "gr"]), ["green:"]);
    let images = offered(&vial, &["vial", "run", "--rm", "busy"]);
    assert!(images.iter().any(|name| name.starts_with("busybox")), "{images:?}");

    let images = offered(&vial, &["vial", "save", "busy"]);
    assert!(images.iter().any(|name| name.starts_with("busybox")), "{images:?}");

    // Without a daemon there are no names, and none is started for them.
    vial.run(["daemon", "stop"]).ok();
    assert_eq!(offered(&vial, &["vial", "stop", "r"]), [String::new()]);
    assert_eq!(vial.daemon_pid(), None);

    for shell in ["zsh", "fish"] {
        let script = vial.run(["completion", shell]).ok();
        assert!(script.contains("VIAL_COMPLETE"), "{shell}: {script}");
    }
    vial.run(["completion", "tcsh"]).fails(1, "bash, zsh, fish");
    vial.leaves_nothing();
}
