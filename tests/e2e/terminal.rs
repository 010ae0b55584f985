//! A person at a terminal, with the programs that people use there.

use std::process::Stdio;
use vial_tests::fixtures;
use vial_tests::host::{Vial, path, signal};
use vial_tests::screen::Screen;

fn debian() -> Vial {
    let vial = Vial::new();
    vial.run(["load", "-q", "-i", path(&fixtures::debian())]).ok();
    vial
}

/// bash with a prompt that nothing else prints.
const BASH: &str = "-e PS1='pod> ' debian:vial bash --norc";

#[test]
fn bash_edits_lines_follows_the_window_and_ends_with_its_status() {
    let vial = debian();
    let screen = Screen::open(&vial, 100, 30);
    screen.line(&format!("vial run --rm -it {BASH}"));
    screen.prompts("pod>");
    screen.types("echo ac-$((6*7))");
    screen.keys(&["C-a", "M-f", "Right", "Right", "b", "Enter"]);
    screen.shows("\nabc-42\n");
    screen.line("tty; stty size; echo $TERM");
    screen.shows("/dev/pts/0\n30 100\nxterm\n");
    screen.resize(61, 17);
    // The shell hears of it between two commands; the kernel knows at once.
    screen.line("until [ \"$(stty size)\" = '17 61' ]; do :; done; echo now 17 by 61");
    screen.shows("\nnow 17 by 61");
    screen.line("exit 7");
    screen.ends_with(7);
    screen.line("stty -a | grep -ow -e icanon -e -icanon -e echo");
    screen.shows("\nicanon\necho\n");
    drop(screen);
    vial.leaves_nothing();
}

#[test]
fn ctrl_c_and_job_control_are_the_shells() {
    let vial = debian();
    let screen = Screen::open(&vial, 80, 24);
    screen.line(&format!("vial run --rm -it {BASH}"));
    screen.prompts("pod>");
    screen.line("sleep 1000");
    screen.shows("sleep 1000\n");
    screen.keys(&["C-c"]);
    screen.until("^C and a prompt", |text| text.contains("^C\n") && text.trim_end().ends_with("pod>"));
    // A job that says when it is in front, and when it is so again.
    screen.line("echo $?; sh -c 'trap \"echo ag\"\"ain\" CONT; echo rea\"\"dy; while :; do sleep 0.2; done'");
    screen.shows("\n130\nready\n");
    screen.keys(&["C-z"]);
    screen.shows("Stopped");
    screen.line("fg");
    screen.shows("\nagain\n");
    screen.keys(&["C-c"]);
    screen.prompts("pod>");
    screen.keys(&["C-d"]);
    screen.ends_with(130);
    drop(screen);
    vial.leaves_nothing();
}

#[test]
fn top_redraws_and_vi_saves_a_file() {
    let vial = debian();
    let screen = Screen::open(&vial, 80, 24);
    screen.line(&format!("vial run --rm -it {BASH}"));
    screen.prompts("pod>");
    screen.line("top -d 1");
    let first = screen.shows("load average");
    let clock = |text: &str| text.split("top - ").nth(1).and_then(|rest| rest.get(..8)).map(str::to_owned);
    screen.until("a later time", |text| clock(text).is_some() && clock(text) != clock(&first));
    screen.resize(100, 20);
    screen.until("a header over the whole width", |text| {
        text.lines().count() <= 20 && text.contains("PID USER") && text.contains("bash")
    });
    screen.keys(&["q"]);
    screen.prompts("pod>");
    screen.line("vi /tmp/letter");
    screen.shows("\n~");
    screen.types("idear reader");
    screen.keys(&["Enter"]);
    screen.types("good bye");
    screen.keys(&["Escape"]);
    screen.types("ggx$a,");
    screen.keys(&["Escape"]);
    screen.until("the edited line", |text| text.starts_with("ear reader,\ngood bye\n~"));
    screen.line(":wq");
    screen.prompts("pod>");
    screen.line("clear; cat /tmp/letter; exit");
    screen.ends_with(0);
    assert!(screen.text().contains("ear reader,\ngood bye\n"), "{}", screen.text());
    drop(screen);
    vial.leaves_nothing();
}

#[test]
fn who_detaches_comes_back_to_the_same_terminal() {
    let vial = debian();
    let screen = Screen::open(&vial, 80, 24);
    screen.line(&format!("vial run --name desk -it {BASH}"));
    screen.prompts("pod>");
    screen.line("x=kept");
    screen.prompts("pod>");
    screen.types("echo $x and typed");
    screen.shows("echo $x and typed");
    screen.keys(&["C-p", "C-q"]);
    assert!(screen.ends_with(0).contains("detached"));
    assert!(vial.run(["ps"]).ok().contains("desk"));
    screen.clear();
    screen.resize(90, 20);
    screen.line("vial attach --detach-keys ctrl-x,x desk");
    // The half-typed line is drawn again for the newcomer.
    screen.prompts("echo $x and typed");
    screen.keys(&["Enter"]);
    screen.shows("\nkept and typed\n");
    screen.line("stty size");
    screen.shows("\n20 90\n");
    screen.keys(&["C-x", "x"]);
    screen.ends_with(0);

    // Two at once: both see, both may type.
    let other = Screen::open(&vial, 90, 20);
    screen.clear();
    for screen in [&screen, &other] {
        screen.line("vial attach desk");
        screen.prompts("pod>");
    }
    other.line("echo from the o''ther");
    screen.shows("\nfrom the other\n");
    screen.line("echo from the o''ne");
    other.shows("\nfrom the one\n");
    other.keys(&["C-p", "C-q"]);
    other.ends_with(0);
    screen.line("exit 3");
    screen.ends_with(3);
    vial.run(["attach", "desk"]).fails(1, "not running");
    drop((screen, other));
    vial.leaves_nothing();
}

#[test]
fn a_vanished_terminal_leaves_the_container_and_a_killed_command_line_gives_it_back() {
    let vial = Vial::with_busybox();
    let screen = Screen::open(&vial, 80, 24);
    screen.line("vial run --name desk -it -e PS1='pod> ' busybox sh");
    screen.prompts("pod>");
    screen.line("x=kept");
    screen.prompts("pod>");
    screen.vanishes();

    let screen = Screen::open(&vial, 80, 24);
    screen.line("vial attach desk");
    screen.line("echo still $x");
    screen.shows("\nstill kept\n");
    let pids = vial_tests::host::pids_of("attach desk");
    assert_eq!(pids.len(), 1, "one command line is attached");
    signal(pids[0], libc::SIGTERM);
    screen.ends_with(143);
    screen.line("stty -a | grep -ow -e icanon -e -icanon -e echo");
    screen.shows("\nicanon\necho\n");
    assert!(vial.run(["ps"]).ok().contains("desk"));
    drop(screen);
    vial.leaves_nothing();
}

#[test]
fn a_stopped_command_line_gives_the_terminal_to_the_shell_and_takes_it_back() {
    let vial = Vial::with_busybox();
    let screen = Screen::open(&vial, 80, 24);
    screen.line("$VIAL run --rm --name desk -it -e PS1='pod> ' busybox sh");
    screen.prompts("pod>");
    // From elsewhere: in the terminal itself Ctrl-Z belongs to the container.
    for pid in vial_tests::host::pids_of("--name desk") {
        signal(pid, libc::SIGTSTP);
    }
    screen.prompts("host$");
    screen.line("stty -a | grep -ow -e icanon -e -icanon");
    screen.shows("\nicanon\n");
    screen.line("fg");
    screen.line("echo ba''ck");
    screen.shows("\nback\n");
    screen.line("exit 4");
    screen.prompts("host$");
    screen.line("echo status $?");
    screen.shows("\nstatus 4\n");
    drop(screen);
    vial.leaves_nothing();
}

#[test]
fn exec_has_a_terminal_of_its_own() {
    let vial = debian();
    vial.run(["run", "-d", "--name", "one", "debian:vial", "sleep", "1000"]).ok();
    let screen = Screen::open(&vial, 70, 20);
    screen.line("vial exec -it -e PS1='pod> ' one bash --norc");
    screen.prompts("pod>");
    screen.line("stty size; echo $TERM; ps -o tty= -p $$");
    screen.shows("\n20 70\nxterm\npts/0\n");
    screen.resize(60, 15);
    screen.line("until [ \"$(stty size)\" = '15 60' ]; do :; done; echo now 15 by 60");
    screen.shows("\nnow 15 by 60");
    screen.line("exit 9");
    screen.ends_with(9);
    // Left alone, it goes on.
    screen.clear();
    // It says when it listens: keys typed before then are for this terminal, which keeps C-q for itself.
    screen.line("vial exec -it one bash -c 'echo rea\\dy; read x; echo $x > /tmp/heard; sleep 3000'");
    screen.shows("\nready\n");
    screen.types("hello");
    screen.shows("\nhello");
    screen.keys(&["Enter", "C-p", "C-q"]);
    screen.ends_with(0);
    vial.run([
        "exec",
        "one",
        "sh",
        "-c",
        "until grep -q hello /tmp/heard; do :; done; pgrep -f 'sleep 3000'",
    ])
    .ok();
    screen.clear();
    screen.line("vial exec -it one no-such-command");
    screen.ends_with(127);
    drop(screen);
    vial.leaves_nothing();
}

#[test]
fn a_terminal_belongs_to_its_user_and_is_the_console() {
    let vial = Vial::with_busybox();
    let screen = Screen::open(&vial, 80, 24);
    let script = "echo by name > /dev/stdout; echo by tty > /dev/tty; ls -l /dev/console; id -u";
    screen.line(&format!("vial run --rm -it -u 7:8 busybox sh -c '{script}'"));
    let text = screen.ends_with(0);
    assert!(text.contains("by name\nby tty\n") && text.contains("136,"), "{text}");
    drop(screen);
    vial.leaves_nothing();
}

#[test]
fn a_killed_daemon_does_not_end_a_terminals_session() {
    let vial = Vial::with_busybox();
    let screen = Screen::open(&vial, 80, 24);
    screen.line("vial run --rm -it -e PS1='pod> ' busybox sh");
    screen.prompts("pod>");
    for n in 1..3 {
        signal(vial.daemon_pid().expect("the daemon runs"), libc::SIGKILL);
        screen.line(&format!("echo round $(({n}*111))"));
        screen.shows(&format!("\nround {}\n", n * 111));
        screen.resize(80 + n, 24);
        screen.line(&format!("until stty size | grep -q '24 {}'; do :; done; echo si''zed {n}", 80 + n));
        screen.shows(&format!("\nsized {n}\n"));
    }
    screen.line("exit 6");
    screen.ends_with(6);
    drop(screen);
    vial.leaves_nothing();
}

#[test]
fn without_a_terminal_here_only_half_of_it_is_refused() {
    let vial = Vial::with_busybox();
    vial.run(["run", "--rm", "-it", "busybox", "true"]).fails(1, "not a TTY");
    // Output alone may have one: what a terminal makes of it comes through.
    assert_eq!(
        vial.run(["run", "--rm", "-t", "busybox", "sh", "-c", "echo out; echo err >&2"]).ok(),
        "out\r\nerr\r\n"
    );
    vial.run(["run", "-dit", "--name", "one", "busybox", "sh"]).ok();
    vial.run(["exec", "-it", "one", "true"]).fails(1, "not a TTY");
    vial.run(["attach", "one"]).fails(1, "not a TTY");
    // All of a fast writer's output, whose last bytes are on their way through the terminal when it ends.
    let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done";
    let out = vial.run(["exec", "-t", "one", "sh", "-c", script]).ok();
    let expected: String = (0..20_000).map(|i| format!("line {i}\r\n")).collect();
    assert!(out == expected, "{} bytes came, not {}", out.len(), expected.len());
    let mut plain = vial.spawn(["exec", "-i", "one", "cat"], Stdio::piped());
    drop(plain.stdin.take());
    assert!(plain.wait().expect("it ends").success());
    vial.leaves_nothing();
}
