//! `vial run`, `vial exec`.

use super::say;
use crate::args::{ExecArgs, RunArgs};
use crate::client::{Client, escape};
use crate::error::{Error, Result};
use crate::signals::Signals;
use crate::streams::{End, Session, Timing};
use crate::units::table;
use std::time::Instant;
use vial_api::{CreateContainer, Created, Exec};

/// Runs a command in a new container; its exit status is the answer.
///
/// # Errors
/// When it can't be run.
pub async fn run(client: &Client, args: RunArgs) -> Result<i32> {
    let begin = Instant::now();
    let timing = args.timing;
    let detach = args.detach;
    let request = request(args)?;
    if detach {
        let created: Created = client.post("/containers", &request).await?;
        say(&created.id)?;
        return Ok(0);
    }
    client.start_daemon()?;
    let signals = Signals::watch()?;
    let (connection, container) = client.upgrade("/containers/run", &request).await?;
    let session =
        Session { client: client.clone(), container, stdin: request.stdin, proxy: true, resume: true };
    let (end, steps) = session.run(connection, signals).await?;
    if timing {
        print_timing(&steps, begin);
    }
    finish(end)
}

fn finish(end: End) -> Result<i32> {
    match end {
        End::Exit(exit) => {
            if let Some(reason) = &exit.reason {
                eprintln!("vial: {reason}");
            }
            if exit.oom {
                eprintln!("vial: it ran out of memory; give it more with --memory");
            }
            Ok(exit.code)
        }
        End::Failed(body) => Err(Error::Api(body)),
        End::Interrupted(number) => Ok(128 + number),
        End::Left => Ok(1),
    }
}

fn request(args: RunArgs) -> Result<CreateContainer> {
    let mut env = Vec::new();
    for file in &args.env_file {
        let text = std::fs::read_to_string(file).map_err(Error::io(format!("read {}", file.display())))?;
        env.extend(env_lines(&text));
    }
    env.extend(args.env);
    Ok(CreateContainer {
        image: args.image,
        name: args.name,
        command: args.command,
        entrypoint: args.entrypoint.map(|word| if word.is_empty() { vec![] } else { vec![word] }),
        env: env.into_iter().filter_map(with_value).collect(),
        workdir: args.workdir,
        user: args.user,
        hostname: args.hostname,
        memory: args.memory,
        milli_cpus: args.cpus,
        disk: args.disk,
        stdin: args.interactive,
        auto_remove: args.rm,
        timing: args.timing,
    })
}

/// Lines of an environment file: comments and empty lines go.
fn env_lines(text: &str) -> impl Iterator<Item = String> {
    let lines = text.lines().map(str::trim_start);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned)
}

/// `KEY` takes its value from this process's environment, and is left out when it has none.
fn with_value(entry: String) -> Option<String> {
    if entry.contains('=') {
        return Some(entry);
    }
    let value = std::env::var(&entry).ok()?;
    Some(format!("{entry}={value}"))
}

fn print_timing(steps: &Timing, begin: Instant) {
    let milliseconds = |us: u64| format!("{:.1}", us as f64 / 1000.0);
    let mut rows = Vec::new();
    let mut last = 0;
    for step in steps.iter().flatten() {
        rows.push(vec![
            step.step.clone(),
            milliseconds(step.at_us),
            milliseconds(step.at_us.saturating_sub(last)),
        ]);
        last = step.at_us;
    }
    rows.push(vec![
        "the whole command".into(),
        milliseconds(begin.elapsed().as_micros() as u64),
        String::new(),
    ]);
    eprint!("{}", table(&["STEP", "AT (ms)", "TOOK (ms)"], &rows));
}

/// Runs one more command in a container; its exit status is the answer.
///
/// # Errors
/// When it can't be run.
pub async fn exec(client: &Client, args: ExecArgs) -> Result<i32> {
    let request = Exec {
        command: args.command,
        env: args.env.into_iter().filter_map(with_value).collect(),
        workdir: args.workdir,
        user: args.user,
        stdin: args.interactive,
    };
    let path = format!("/containers/{}/exec", escape(&args.container));
    let signals = Signals::watch()?;
    let (connection, container) = client.upgrade(&path, &request).await?;
    let session =
        Session { client: client.clone(), container, stdin: args.interactive, proxy: false, resume: false };
    let (end, _) = session.run(connection, signals).await?;
    finish(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_files_are_dockers() {
        let lines: Vec<String> = env_lines("# comment\n\nA=1\n  B=x y # not a comment\nPATH\n").collect();
        assert_eq!(lines, ["A=1", "B=x y # not a comment", "PATH"]);
        assert_eq!(with_value("VIAL_SURELY_NOT_SET".into()), None);
        assert_eq!(with_value("A=".into()), Some("A=".into()));
    }
}
