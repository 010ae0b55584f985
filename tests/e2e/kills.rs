//! kill -9 of the command line, the daemon and the VMM, and Ctrl-C, at each stage of a load and of a container's life.
//!
//! A stage is known by a fact (a file, a record, output that arrived), never by time. Some stages pass within microseconds, so the blow
//! may fall into the next one: a row lists every outcome that is true of one of the two. Whatever comes, no row may leave anything,
//! and the next container must run.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use vial_tests::fixtures;
use vial_tests::host::{Ran, Vial, path, signal};
use vial_tests::talk::{Talk, until};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    KillCommand,
    InterruptCommand,
    KillDaemon,
    KillVmm,
}
use Blow::{InterruptCommand, KillCommand, KillDaemon, KillVmm};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The writable layer's file is there: the row in the store is being written.
    Created,
    /// The VM's process is recorded.
    Spawned,
    /// The VMM is about to run the guest.
    Booting,
    /// The agent has reported, its secret is noted.
    AgentReady,
    /// Output of the command has arrived at the user.
    Running,
    /// The last output of the command has arrived.
    Ending,
    /// The VM has ended, its folder may be gone.
    CleanUp,
}
use Stage::{AgentReady, Booting, CleanUp, Created, Ending, Running, Spawned};

/// What is left of a container without `--rm`, or that there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Exited(i32),
    Nothing,
}
use Left::{Exited, Nothing};

struct Row {
    stage: Stage,
    blow: Blow,
    rm: bool,
    /// What `vial run` may answer.
    answers: &'static [i32],
    /// What may be true of the container afterwards.
    left: &'static [Left],
}

const fn row(stage: Stage, blow: Blow, answers: &'static [i32], left: &'static [Left]) -> Row {
    Row { stage, blow, rm: false, answers, left }
}

/// 7: the command's own end. 3: its answer to an interrupt. 125: never started. 130, 137: the signal.
const ROWS: &[Row] = &[
    // A start whose user is gone is given up, unless the command ran a moment before: then it meets the end of its input.
    row(Created, KillCommand, &[137], &[Exited(125), Exited(7)]),
    row(Created, InterruptCommand, &[130, 3, 7], &[Exited(125), Exited(3), Exited(7)]),
    // The row in the store may not have been written: then there never was a container.
    row(Created, KillDaemon, &[125], &[Exited(125), Nothing]),
    row(Spawned, KillCommand, &[137], &[Exited(125), Exited(7)]),
    row(Spawned, InterruptCommand, &[130, 3, 7], &[Exited(125), Exited(3), Exited(7)]),
    row(Spawned, KillDaemon, &[125], &[Exited(125)]),
    row(Spawned, KillVmm, &[125], &[Exited(125)]),
    row(Booting, KillCommand, &[137], &[Exited(125), Exited(7)]),
    row(Booting, KillDaemon, &[125], &[Exited(125)]),
    row(Booting, KillVmm, &[125], &[Exited(125)]),
    // From here on the command may run before the blow falls.
    row(AgentReady, KillCommand, &[137], &[Exited(125), Exited(7)]),
    row(AgentReady, InterruptCommand, &[130, 3, 7], &[Exited(125), Exited(3), Exited(7)]),
    row(AgentReady, KillDaemon, &[125, 7], &[Exited(125), Exited(7)]),
    row(AgentReady, KillVmm, &[125, 137], &[Exited(125), Exited(137)]),
    row(Running, KillCommand, &[137], &[Exited(7)]),
    row(Running, InterruptCommand, &[3], &[Exited(3)]),
    row(Running, KillDaemon, &[7], &[Exited(7)]),
    row(Running, KillVmm, &[137], &[Exited(137)]),
    // The command may be over, and its end known, before the blow falls.
    row(Ending, KillCommand, &[137, 7], &[Exited(7)]),
    row(Ending, InterruptCommand, &[3, 7], &[Exited(3), Exited(7)]),
    row(Ending, KillDaemon, &[7], &[Exited(7)]),
    row(Ending, KillVmm, &[7, 137], &[Exited(7), Exited(137)]),
    row(CleanUp, KillCommand, &[137, 7], &[Exited(7)]),
    row(CleanUp, InterruptCommand, &[7], &[Exited(7)]),
    row(CleanUp, KillDaemon, &[7], &[Exited(7)]),
    row(CleanUp, KillVmm, &[7], &[Exited(7)]),
    Row { stage: CleanUp, blow: KillCommand, rm: true, answers: &[137, 7], left: &[Nothing] },
    Row { stage: CleanUp, blow: KillDaemon, rm: true, answers: &[7], left: &[Nothing] },
];

/// Says when it runs, ends by an interrupt or by the end of its input, and says so last.
const SCRIPT: &str = "trap 'exit 3' INT; echo ready; read line; echo bye; exit 7";

/// A command to its end, which must come.
#[track_caller]
fn ask<const N: usize>(vial: &Vial, args: [&str; N]) -> Ran {
    Talk::start(vial, &args).ended()
}

fn children(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn vm_folders(vial: &Vial) -> Vec<PathBuf> {
    children(&vial.run_dir().join("vms")).into_iter().filter(|path| path.is_dir()).collect()
}

fn layers(vial: &Vial) -> Vec<PathBuf> {
    let mut files = children(&vial.data().join("upper"));
    files.retain(|path| path.extension().is_some_and(|extension| extension == "ext4"));
    files
}

fn tmp_files(vial: &Vial) -> Vec<PathBuf> {
    children(&vial.data().join("images/tmp"))
}

fn says(folder: &Path, file: &str, word: &str) -> bool {
    fs::read_to_string(folder.join(file)).is_ok_and(|text| text.contains(word))
}

/// Waits for a stage; the VMM's process id, if there is one by then.
#[track_caller]
fn reach(vial: &Vial, stage: Stage, run: &mut Talk) -> Option<i32> {
    let what = format!("{stage:?}");
    let any_vm =
        |fact: &dyn Fn(&Path) -> bool| vm_folders(vial).iter().any(|folder| fact(folder)).then_some(());
    let vmm = || vial.vmm_pids().first().copied();
    match stage {
        Created => run.until(&what, || (!layers(vial).is_empty()).then_some(())),
        Spawned => return Some(run.until(&what, vmm)),
        Booting => run.until(&what, || any_vm(&|vm| says(vm, "status.jsonl", "first_run"))),
        AgentReady => run.until(&what, || any_vm(&|vm| vm.join("token").exists())),
        Running => run.says("ready\n"),
        Ending | CleanUp => {
            run.says("ready\n");
            let pid = vmm();
            run.end_input();
            run.says("bye\n");
            if stage == CleanUp {
                // A VM that is not worth an orderly end leaves no record.
                until(&what, || {
                    let ended = |vm: &Path| says(vm, "status.jsonl", "\"exit\"");
                    vm_folders(vial).iter().all(|vm| ended(vm)).then_some(())
                });
            }
            return pid;
        }
    }
    vmm()
}

fn strike(blow: Blow, command: i32, daemon: i32, vmm: Option<i32>) {
    match blow {
        KillCommand => signal(command, libc::SIGKILL),
        InterruptCommand => signal(command, libc::SIGINT),
        KillDaemon => signal(daemon, libc::SIGKILL),
        KillVmm => signal(vmm.expect("this stage has a VM"), libc::SIGKILL),
    }
}

/// What is true of a container when it has come to its end, by every command that tells.
#[track_caller]
fn what_is_left(vial: &Vial, name: &str) -> Left {
    let waited = ask(vial, ["wait", name]);
    let listed = ask(vial, ["ps", "-a"]).ok();
    let line = listed.lines().find(|line| line.ends_with(name) || line.contains(&format!(" {name} ")));
    if waited.code != 0 {
        waited.fails(1, name);
        assert_eq!(line, None, "a container that nobody can wait for is listed");
        return Nothing;
    }
    let code: i32 = waited.stdout.trim().parse().expect("wait prints a number");
    let Some(line) = line else {
        // With --rm, it was there when it was waited for.
        return Nothing;
    };
    assert!(line.contains(&format!("Exited ({code})")), "wait says {code}, ps says {line}");
    let inspected = ask(vial, ["inspect", name]).ok();
    assert!(inspected.contains(&format!("\"ExitCode\": {code}")), "wait says {code}, inspect {inspected}");
    Exited(code)
}

#[track_caller]
fn strike_a_run(vial: &Vial, number: usize, row: &Row) {
    let Row { stage, blow, rm, answers, left } = *row;
    let context = format!("{stage:?}, {blow:?}, --rm {rm}");
    let name = format!("row-{number}");
    let daemon = vial.daemon_pid().unwrap_or_else(|| {
        ask(vial, ["ps"]).ok();
        vial.daemon_pid().expect("a command has started one")
    });
    let mut args = vec!["run", "-i", "--name", &name];
    args.extend(rm.then_some("--rm"));
    args.extend(["busybox", "sh", "-c", SCRIPT]);
    let mut run = Talk::start(vial, &args);
    let vmm = reach(vial, stage, &mut run);
    strike(blow, run.pid(), daemon, vmm);
    if blow == KillDaemon && stage == Running {
        // Neither the loss of the daemon nor the start of the next one is an end of the container.
        let listed = ask(vial, ["ps"]).ok();
        assert!(listed.contains(&name), "{context}: {listed}");
        assert_eq!(vial.vmm_pids().first().copied(), vmm, "{context}");
    }
    let ran = if blow == InterruptCommand && stage == Running {
        wait_without_end_of_input(run)
    } else {
        // An interrupt that comes before the trap is set is ignored, as PID 1's are; then the end of input ends the command.
        run.ended()
    };
    assert!(answers.contains(&ran.code), "{context}: {ran:?}");
    if ran.code == 125 {
        assert!(ran.stderr.starts_with("vial: "), "{context}: no reason is given: {ran:?}");
    }
    let found = what_is_left(vial, &name);
    assert!(left.contains(&found), "{context}: {found:?}, {ran:?}");
    if let (Exited(code), true) = (found, matches!(ran.code, 3 | 7)) {
        assert_eq!(code, ran.code, "{context}: the user was told otherwise");
    }
    // A killed command line's start is cleaned away behind its back, so the end of that is waited for.
    until(&format!("{context}: the VM's folder is gone"), || vm_folders(vial).is_empty().then_some(()));
    if found != Nothing {
        ask(vial, ["rm", &name]).ok();
    }
    until(&format!("{context}: the writable layer is gone"), || layers(vial).is_empty().then_some(()));
    assert_eq!(children(&vial.data().join("logs")), Vec::<PathBuf>::new(), "{context}");
    assert_eq!(ask(vial, ["ps", "-aq"]).ok(), "", "{context}");
    if matches!(blow, KillDaemon | KillVmm) {
        ask(vial, ["run", "--rm", "busybox", "true"]).ok();
    } // Otherwise the next row shows the same.
}

/// The end of a command that is to come by its signal alone.
#[track_caller]
fn wait_without_end_of_input(mut run: Talk) -> Ran {
    let stdin = run.take_input();
    let ran = run.ended();
    drop(stdin);
    ran
}

/// Every blow at one stage.
#[track_caller]
fn strike_at(stage: Stage) {
    let vial = Vial::with_busybox();
    // Formatted once; from now on a layer's file is a quick copy.
    ask(&vial, ["run", "--rm", "busybox", "true"]).ok();
    for (number, row) in ROWS.iter().enumerate().filter(|(_, row)| row.stage == stage) {
        strike_a_run(&vial, number, row);
    }
    vial.leaves_nothing();
}

#[test]
fn kills_are_survived_and_told_when_a_container_is_being_created() {
    strike_at(Created);
}

#[test]
fn kills_are_survived_and_told_when_its_vm_has_a_process() {
    strike_at(Spawned);
}

#[test]
fn kills_are_survived_and_told_when_its_vm_boots() {
    strike_at(Booting);
}

#[test]
fn kills_are_survived_and_told_when_its_agent_is_ready() {
    strike_at(AgentReady);
}

#[test]
fn kills_are_survived_and_told_when_its_command_runs() {
    strike_at(Running);
}

#[test]
fn kills_are_survived_and_told_when_its_command_ends() {
    strike_at(Ending);
}

#[test]
fn kills_are_survived_and_told_when_its_vm_is_cleaned_up() {
    strike_at(CleanUp);
}

#[test]
fn a_removal_that_loses_its_daemon_or_its_user_is_finished_or_was_never_begun() {
    let vial = Vial::with_busybox();
    for blow in [KillCommand, KillDaemon] {
        ask(&vial, ["run", "-d", "--name", "one", "busybox", "sleep", "1000"]).ok();
        let daemon = vial.daemon_pid().expect("the daemon runs");
        let removal = Talk::start(&vial, &["rm", "-f", "one"]);
        until("the VM is ended", || {
            let alive = |pid: &i32| Path::new("/proc").join(pid.to_string()).exists();
            (!vial.vmm_pids().iter().any(alive)).then_some(())
        });
        strike(blow, removal.pid(), daemon, None);
        let ran = removal.ended();
        // Told of a broken connection, the user may ask again.
        let answers: &[i32] = if blow == KillCommand { &[137, 0] } else { &[1, 0] };
        assert!(answers.contains(&ran.code), "{blow:?}: {ran:?}");
        if blow == KillCommand {
            until("the removal is finished", || ask(&vial, ["ps", "-aq"]).ok().is_empty().then_some(()));
        } else if !ask(&vial, ["ps", "-aq"]).ok().is_empty() {
            // The VM had been killed and the removal not noted: that much is told.
            assert_eq!(what_is_left(&vial, "one"), Exited(137));
            ask(&vial, ["rm", "one"]).ok();
        }
        ask(&vial, ["run", "--rm", "busybox", "true"]).ok();
    }
    vial.leaves_nothing();
}

/// A tar with one file of this many bytes that no compression helps.
fn tar(len: usize) -> Vec<u8> {
    let mut header = vec![0; 512];
    header[..5].copy_from_slice(b"noise");
    header[100..108].copy_from_slice(b"0000644\0");
    header[108..124].copy_from_slice(b"0000000\x000000000\0");
    header[124..136].copy_from_slice(format!("{len:011o}\0").as_bytes());
    header[136..148].copy_from_slice(b"00000000000\0");
    header[148..156].fill(b' ');
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|&byte: &u8| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut state = 1_u32;
    header.extend(
        std::iter::repeat_with(move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // The high bits are the random ones.
            (state >> 24) as u8
        })
        .take(len),
    );
    header.resize(header.len().next_multiple_of(512) + 1024, 0);
    header
}

/// Whoever is killed while an archive comes in: no image, no part of one, and the same archive can be loaded then.
#[test]
fn kills_in_the_middle_of_a_load_leave_no_image() {
    let vial = Vial::new();
    let archive = fs::read(fixtures::busybox()).expect("the fixture can be read");
    let tree = tar(8 << 20);
    let spool: (&[&str], &[u8]) = (&["load", "-i", "-"], &archive);
    let write: (&[&str], &[u8]) = (&["import", "-", "noise"], &tree);
    ask(&vial, ["ps"]).ok();
    // The archive is still read, into a file without a name; or the image's layer is being written. Either way the input stops halfway,
    // so the stage can't pass.
    for (args, input) in [spool, write] {
        for blow in [KillCommand, InterruptCommand, KillDaemon] {
            let context = format!("{args:?}, {blow:?}");
            let daemon = vial.daemon_pid().expect("the daemon runs");
            let mut load = Talk::start(&vial, args);
            let stdin = load.input();
            stdin.write_all(&input[..input.len() / 2]).expect("the command takes its input");
            if args[0] == "import" {
                until("a layer is written", || {
                    let files = tmp_files(&vial);
                    files.iter().any(|file| file.metadata().is_ok_and(|m| m.len() > 1 << 20)).then_some(())
                });
            }
            strike(blow, load.pid(), daemon, None);
            let answer = match blow {
                KillCommand => 137,
                InterruptCommand => 130,
                _ => 1,
            };
            // The input has no end until then, or that could be taken for the reason.
            let ran = wait_without_end_of_input(load);
            assert_eq!(ran.code, answer, "{context}: {ran:?}");
            assert_eq!(ask(&vial, ["images", "-q"]).ok(), "", "{context}");
            until(&format!("{context}: nothing half-written is left"), || {
                tmp_files(&vial).is_empty().then_some(())
            });
            for folder in ["layers", "merged", "images"] {
                assert_eq!(
                    children(&vial.data().join("images").join(folder)),
                    Vec::<PathBuf>::new(),
                    "{context}"
                );
            }
        }
    }
    assert_eq!(vial.run_with(["import", "-", "noise"], &tree).code, 0);
    vial.run_with(["load", "-q", "-i", "-"], &archive).ok();
    ask(&vial, ["run", "--rm", "busybox", "true"]).ok();
    vial.leaves_nothing();
}

/// The same from a file, which the daemon reads itself: it goes on without its user, and is whole or not there without itself.
#[test]
fn a_load_from_a_file_survives_its_user_and_not_its_daemon() {
    let vial = Vial::new();
    let archive = fixtures::debian();
    for blow in [KillDaemon, KillCommand] {
        ask(&vial, ["ps"]).ok();
        let daemon = vial.daemon_pid().expect("the daemon runs");
        let load = Talk::start(&vial, &["load", "-q", "-i", path(&archive)]);
        until("a layer is written", || {
            let files = tmp_files(&vial);
            files.iter().any(|file| file.metadata().is_ok_and(|m| m.len() > 0)).then_some(())
        });
        strike(blow, load.pid(), daemon, None);
        let ran = load.ended();
        assert_eq!(ran.code, if blow == KillCommand { 137 } else { 1 }, "{blow:?}: {ran:?}");
        if blow == KillCommand {
            until("the load is finished", || ask(&vial, ["images"]).ok().contains("debian").then_some(()));
        } else {
            assert_eq!(ask(&vial, ["images", "-q"]).ok(), "");
        }
        until("nothing half-written is left", || tmp_files(&vial).is_empty().then_some(()));
    }
    ask(&vial, ["rmi", "debian:vial"]).ok();
    vial.leaves_nothing();
}
