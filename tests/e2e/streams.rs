//! What goes in comes out.

use std::io::{Read, Write};
use std::process::Stdio;
use vial_tests::host::Vial;

/// A sequence that never repeats within the test and needs no dependency (xorshift64*).
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        out.extend(state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    out.truncate(len);
    out
}

#[test]
fn two_hundred_megabytes_through_a_pod_arrive_intact() {
    let vial = Vial::with_busybox();
    let sent = noise(200 << 20);
    let mut child = vial.spawn(["run", "--rm", "-i", "busybox", "cat"], Stdio::piped());
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    let mut stdout = child.stdout.take().expect("stdout is a pipe");
    let mut received = Vec::with_capacity(sent.len());
    let pid = i32::try_from(child.id()).expect("process ids fit");
    let written = vial.within_limit(pid, || {
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                let written = stdin.write_all(&sent);
                drop(stdin);
                written
            });
            stdout.read_to_end(&mut received).expect("the pod's output can be read");
            writing.join().expect("writing does not panic")
        })
    });
    // A command that failed says why; a broken pipe alone says nothing.
    let ran = vial.wait(child);
    assert_eq!(ran.code, 0, "after {} bytes ({written:?}): {}", received.len(), ran.stderr);
    written.expect("the pod takes its input");
    assert_eq!(received.len(), sent.len());
    assert!(received == sent, "the bytes differ");
    vial.leaves_nothing();
}

#[test]
fn standard_output_and_error_stay_apart() {
    let vial = Vial::with_busybox();
    let ran = vial.run(["run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\n", "err\n"));
    vial.leaves_nothing();
}

#[test]
fn without_i_the_input_is_empty() {
    let vial = Vial::with_busybox();
    assert_eq!(vial.run_with(["run", "--rm", "busybox", "wc", "-c"], b"12345").ok().trim(), "0");
    vial.leaves_nothing();
}

#[test]
fn an_exec_ends_with_its_container() {
    let vial = Vial::with_busybox();
    vial.run(["run", "-d", "--name", "pod", "busybox", "sleep", "1000"]).ok();
    let exec = vial.spawn(["exec", "pod", "sh", "-c", "echo begun; exec sleep 1000"], Stdio::null());
    let mut exec = exec;
    let mut first = [0; 6];
    exec.stdout.as_mut().expect("stdout is a pipe").read_exact(&mut first).expect("the command begins");
    vial.run(["rm", "-f", "pod"]).ok();
    assert_eq!(vial.wait(exec).code, 137);
    vial.leaves_nothing();
}
