//! `vial bench boot`: where the time of one start goes, step by step, as the program itself tells it.
//!
//! The program is started as a user would, with `--timing=json`; its times and ours are on one clock (CLOCK_MONOTONIC), so that nothing between
//! our spawning it and our seeing its end is left out. What it prints is foreign: bounded, and read strictly by a pure function.

use crate::child::{Failed, Start, Stop, Told, Until};
use crate::result::{Caution, Room, Step, Waterfall, Weight};
use serde::Deserialize;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

/// The form of the line that this reads.
const FORMAT: u32 = 1;
/// Steps of one start; there are about fifty.
const MAX_STEPS: usize = 512;
/// Bytes of a step's name.
const MAX_NAME: usize = 100;

/// How starts are measured.
#[derive(Debug, Clone)]
pub struct BootOptions {
    /// Starts that are not counted, before the others.
    pub warmups: u32,
    /// Starts that are.
    pub runs: u32,
    /// A start that takes longer is killed, with its process group.
    pub timeout: Duration,
}

/// What was measured.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Boots {
    /// One for each counted start, in their order.
    pub waterfalls: Vec<Waterfall>,
    /// The most that any step may be off, ms: those in the guest are read on the guest's clock. 0 when none was.
    pub within_ms: f64,
}

/// Why starts can't be measured.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A start went wrong.
    #[error("start {number} of {of} did not count: {why}")]
    Start {
        /// Which, from 1, warm-ups included.
        number: u32,
        /// Of how many.
        of: u32,
        /// Why.
        why: Failed,
    },
    /// A start went well, and what it printed makes no sense.
    #[error(
        "what vial run --timing=json printed can't be used: {0}; are this program and {1} of one version?"
    )]
    Told(Untold, String),
}

/// Why a line says nothing of a start.
#[derive(Debug, thiserror::Error)]
pub enum Untold {
    /// There is none.
    #[error("nothing")]
    Nothing,
    /// It is no JSON, or has not the fields that it must.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// Its number.
    #[error("it has the form {0}, and this program reads {FORMAT}")]
    Format(u32),
    /// More than a start has.
    #[error(
        "it has more than {MAX_STEPS} steps, or one with a name of more than {MAX_NAME} printable characters"
    )]
    Bounds,
    /// Times that contradict each other.
    #[error("its times are not in order, or not those of this start")]
    Order,
}

/// Makes `warmups` and `runs` starts of `IMAGE true` and gives the steps of the latter. `watch` hears how many of how many are done. A stop ends it
/// early, with what is there.
///
/// # Errors
/// When a start fails, takes too long, or tells nothing that can be used.
pub fn measure(
    vial: &Path,
    image: &str,
    options: &BootOptions,
    watch: &mut dyn FnMut(u32, u32),
    stop: Stop<'_>,
) -> Result<Boots, BootError> {
    let of = options.warmups.saturating_add(options.runs);
    let mut command = vec![vial.as_os_str().to_owned()];
    command.extend(arguments(image).map(OsString::from));
    let start = Start { command, until: Until::Exit { output: Vec::new() } };
    let mut boots = Boots::default();
    for number in 1..=of {
        watch(number - 1, of);
        let told = match start.told(options.timeout, stop) {
            Ok(told) => told,
            Err(Failed::Interrupted) => return Ok(boots),
            Err(why) => return Err(BootError::Start { number, of, why }),
        };
        let read = waterfall(&told.last_line, told.began_us, told.ended_us)
            .map_err(|why| BootError::Told(why, vial.display().to_string()))?;
        if number > options.warmups {
            boots.within_ms = boots.within_ms.max(read.1);
            boots.waterfalls.push(read.0);
        }
    }
    watch(of, of);
    Ok(boots)
}

/// What follows the program's name.
pub fn arguments(image: &str) -> [&str; 5] {
    ["run", "--rm", "--timing=json", image, "true"]
}

impl Boots {
    /// What a reader should know of the steps in the guest.
    pub fn caution(&self) -> Option<Caution> {
        (self.within_ms > 0.0).then(|| Caution {
            weight: Weight::Note,
            text: format!(
                "steps of the guest's kernel and agent are read on the guest's clock; laid beside the others they are off by {:.2} ms at most",
                self.within_ms
            ),
        })
    }
}

#[derive(Deserialize)]
struct Line {
    format: u32,
    main_us: u64,
    request_us: u64,
    #[serde(default)]
    daemon_us: Option<u64>,
    steps: Vec<Reached>,
    end_us: u64,
}

#[derive(Deserialize)]
struct Reached {
    step: String,
    at_us: u64,
    #[serde(default)]
    within_us: Option<u64>,
}

/// The steps of a start that told of them.
///
/// # Errors
/// When what it told makes no sense.
pub fn steps(told: &Told) -> Result<Vec<Step>, Untold> {
    waterfall(&told.last_line, told.began_us, told.ended_us).map(|(waterfall, _)| waterfall.steps)
}

/// A start's steps, and the most that one of them may be off in ms. `began_us` and `ended_us`: before the program was spawned and when its end was
/// seen.
fn waterfall(line: &str, began_us: u64, ended_us: u64) -> Result<(Waterfall, f64), Untold> {
    if line.is_empty() {
        return Err(Untold::Nothing);
    }
    let line: Line = serde_json::from_str(line)?;
    if line.format != FORMAT {
        return Err(Untold::Format(line.format));
    }
    let named = |step: &Reached| {
        step.step.len() <= MAX_NAME && step.step.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
    };
    if line.steps.len() > MAX_STEPS || !line.steps.iter().all(named) {
        return Err(Untold::Bounds);
    }
    let daemon_us = line.daemon_us.unwrap_or(line.request_us);
    let own = [began_us, line.main_us, line.request_us, daemon_us, line.end_us, ended_us];
    let inside = |step: &Reached| (began_us..=ended_us).contains(&step.at_us);
    if !own.is_sorted() || !line.steps.iter().all(inside) {
        return Err(Untold::Order);
    }
    // At most the length of a start, which a double holds to the nanosecond.
    let ms = |us: u64| (us - began_us) as f64 / 1000.0;
    let within = line.steps.iter().filter_map(|step| step.within_us).max().unwrap_or(0);
    let mut all: Vec<(String, Option<Room>, u64)> = vec![
        ("program started".into(), Some(Room::Cli), line.main_us),
        ("request sent".into(), Some(Room::Cli), line.request_us),
    ];
    if let Some(daemon_us) = line.daemon_us {
        all.push(("request read".into(), Some(Room::Daemon), daemon_us));
    }
    all.extend(line.steps.into_iter().map(|step| {
        let room = room(&step.step);
        (step.step, room, step.at_us)
    }));
    all.push(("command line done".into(), Some(Room::End), line.end_us));
    all.push(("process gone".into(), Some(Room::End), ended_us));
    // Stable: what was reached in the same microsecond stays as it came.
    all.sort_by_key(|(_, _, at)| *at);
    let mut last = Room::Cli;
    let steps = all.into_iter().map(|(name, room, at_us)| {
        last = room.unwrap_or(last);
        Step { name, room: last, at_ms: ms(at_us) }
    });
    let steps = steps.collect();
    Ok((Waterfall { total_ms: ms(ended_us), request_ms: ms(daemon_us), steps }, within as f64 / 1000.0))
}

/// Who worked until a step was reached; none for a name that this build does not know.
fn room(step: &str) -> Option<Room> {
    const BEGINNINGS: [(&str, Room); 4] = [
        ("launcher: ", Room::Launcher),
        ("VMM: ", Room::Vmm),
        ("kernel: ", Room::Kernel),
        ("agent: ", Room::Agent),
    ];
    Some(match step {
        "image resolved"
        | "container noted"
        | "network slot taken"
        | "writable layer ready"
        | "turn to boot"
        | "pod running"
        | "media inserted"
        | "VM files open" => Room::Daemon,
        // The VMM's first own instruction is the end of the launcher's work, the agent's that of the kernel's.
        "VM process spawned" | "VMM: ProcessStart" => Room::Launcher,
        "agent: started" => Room::Kernel,
        "agent ready" | "agent connected" | "sandbox applied" => Room::Agent,
        "agent: root mounted"
        | "agent: container created"
        | "agent: command started"
        | "container created"
        | "command started"
        | "streams open"
        | "command ended" => Room::Container,
        "VM gone" | "slot free" => Room::End,
        other => return BEGINNINGS.iter().find(|(begin, _)| other.starts_with(begin)).map(|(_, room)| *room),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::pipe::pipe;
    use std::os::fd::AsFd;
    use std::os::unix::fs::PermissionsExt;

    const LINE: &str = r#"{"format":1,"main_us":1100,"request_us":1200,"daemon_us":1300,"new":true,"steps":[
        {"step":"image resolved","at_us":1400},{"step":"VMM: ProcessStart","at_us":1500},{"step":"VMM: VmBuilt","at_us":1600},
        {"step":"kernel: init executed","at_us":1700,"within_us":30},{"step":"agent: started","at_us":1800,"within_us":40},
        {"step":"agent ready","at_us":1900},{"step":"brought to you by","at_us":1950},{"step":"command ended","at_us":2500},
        {"step":"VM gone","at_us":2600}],"end_us":2700,"code":0}"#;

    #[test]
    fn steps_are_on_one_line_with_who_worked_until_then() {
        let (waterfall, within_ms) = waterfall(LINE, 1000, 3000).unwrap();
        assert_eq!((waterfall.total_ms, waterfall.request_ms, within_ms), (2.0, 0.3, 0.04));
        let rooms: Vec<_> = waterfall.steps.iter().map(|step| step.room).collect();
        use Room::*;
        let expected =
            [Cli, Cli, Daemon, Daemon, Launcher, Vmm, Kernel, Kernel, Agent, Agent, Container, End, End, End];
        assert_eq!(rooms, expected);
        assert_eq!(waterfall.steps[3].at_ms, 0.4);
        let unknown = waterfall.steps.iter().find(|step| step.name == "brought to you by").unwrap();
        assert_eq!(unknown.room, Room::Agent, "its neighbour's before it");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let says = |line: &str| waterfall(line, 1000, 3000).unwrap_err().to_string();
        assert!(says("").contains("nothing"));
        assert!(says("vial: no such image").contains("expected"));
        assert!(says(&LINE.replace("\"format\":1", "\"format\":2")).contains("form 2"));
        assert!(says(&LINE.replace("agent ready", "agent\\u001b[2J")).contains("printable"));
        for (from, to) in [("1400", "999"), ("2600", "3001"), ("\"main_us\":1100", "\"main_us\":900")] {
            assert!(says(&LINE.replace(from, to)).contains("in order"), "{from}");
        }
        assert!(waterfall(LINE, 1000, 2650).is_err());
        let without = LINE.replace("\"daemon_us\":1300,", "");
        assert_eq!(waterfall(&without, 1000, 3000).unwrap().0.request_ms, 0.2);
    }

    /// A program that prints this on standard error.
    fn program(folder: &Path, script: &str) -> std::path::PathBuf {
        let path = folder.join("vial");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn measured(script: &str, timeout: Duration) -> Result<Boots, String> {
        let folder = tempfile::tempdir().unwrap();
        let (stop, _open) = pipe().unwrap();
        let options = BootOptions { warmups: 1, runs: 2, timeout };
        let mut heard = Vec::new();
        let path = program(folder.path(), script);
        let boots =
            measure(&path, "img", &options, &mut |done, of| heard.push((done, of)), Stop(stop.as_fd()))
                .map_err(|error| error.to_string())?;
        assert_eq!(heard, [(0, 3), (1, 3), (2, 3), (3, 3)]);
        Ok(boots)
    }

    /// What the real program tells, in a shell.
    const TELLS: &str = r#"[ "$*" = "run --rm --timing=json img true" ] || exit 9
        us() { python3 -c 'import time; print(time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)'; }
        a=$(us); b=$(us)
        echo "a warning" >&2
        echo "{\"format\":1,\"main_us\":$a,\"request_us\":$a,\"steps\":[{\"step\":\"image resolved\",\"at_us\":$b}],\"end_us\":$b,\"code\":0}" >&2"#;

    #[test]
    fn starts_are_counted_after_the_warm_ups() {
        let boots = measured(TELLS, Duration::from_secs(60)).unwrap();
        assert_eq!(boots.waterfalls.len(), 2);
        for waterfall in &boots.waterfalls {
            assert!(waterfall.total_ms > 0.0 && waterfall.steps.len() == 5, "{waterfall:?}");
        }
        assert_eq!(boots.caution(), None);
    }

    #[test]
    fn starts_that_fail_hang_or_tell_rubbish_end_it_with_a_reason() {
        let fails = |script: &str| measured(script, Duration::from_secs(60)).unwrap_err();
        let failed = fails("echo no luck >&2; exit 125");
        assert!(failed.contains("start 1 of 3") && failed.contains("no luck"), "{failed}");
        assert!(measured("sleep 60", Duration::from_millis(300)).unwrap_err().contains("no end"));
        assert!(fails("echo rubbish >&2").contains("can't be used"));
        assert!(fails("exit 0").contains("nothing"));
    }

    #[test]
    fn a_stop_gives_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = program(folder.path(), "sleep 60");
        let (stop, open) = pipe().unwrap();
        rustix::io::write(&open, b"x").unwrap();
        let options = BootOptions { warmups: 0, runs: 2, timeout: Duration::from_secs(60) };
        let boots = measure(&path, "img", &options, &mut |_, _| {}, Stop(stop.as_fd())).unwrap();
        assert_eq!(boots, Boots::default());
    }

    proptest! {
        #[test]
        fn no_line_panics(line in ".{0,200}", began: u64, ended: u64, at: u64) {
            let _ = waterfall(&line, began, ended);
            let line = LINE.replace("1950", &at.to_string()).replace("2700", &ended.to_string());
            let _ = waterfall(&line, began, ended);
        }
    }
}
