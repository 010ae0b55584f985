//! `vial run`, `vial create`, `vial start`, `vial exec`.

use super::registry::Fetch;
use super::say;
use crate::args::{ExecArgs, RunArgs, TimingForm};
use crate::client::{Client, escape};
use crate::error::{Error, Result};
use crate::life_args::StartArgs;
use crate::signals::Signals;
use crate::streams::{End, Session};
use crate::terminal;
use crate::timing;
use hyper::Method;
use std::time::{SystemTime, UNIX_EPOCH};
use vial_api::{Container, CreateContainer, Created, ErrorKind, Exec, TerminalSize};
use vial_vm::EndReason;
use vial_vm::exit::ExitReason;

/// Runs a command in a new container; its exit status is the answer.
///
/// # Errors
/// When it can't be run.
pub async fn run(client: &Client, args: RunArgs) -> Result<i32> {
    let form = args.timing;
    let detach = args.detach;
    if args.tty && args.interactive && !detach && !terminal::is_input() {
        return Err(Error::NotATerminal);
    }
    let terminal = args.tty.then(|| args.detach_keys.clone());
    let image = Fetch::new(&args);
    let request = request(args)?;
    let since_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64);
    if detach {
        image.before(client).await?;
        let made = match client.post::<Created>("/containers", &request).await {
            Err(error) if image.may_help(&error) => {
                image.missing(client, &error).await?;
                client.post::<Created>("/containers", &request).await
            }
            answer => answer,
        };
        let id = match made {
            Ok(created) => {
                warn(created.warning.as_deref());
                created.id
            }
            Err(Error::Connection(_)) => started(made_anyway(client, &request, since_ms).await?)?,
            Err(error) => return Err(error),
        };
        say(&id)?;
        return Ok(0);
    }
    client.start_daemon()?;
    // Before signals are watched: a fetch is given up by them as any command is.
    image.before(client).await?;
    let mut signals = Signals::watch()?;
    let session = |container| Session {
        client: client.clone(),
        container,
        stdin: request.stdin,
        proxy: true,
        resume: true,
        joins: false,
        terminal: terminal.clone(),
    };
    let mut request_us = timing::now_us();
    let mut answer = client.upgrade_at("/containers/run", &request).await;
    if let Err(error) = &answer
        && image.may_help(error)
    {
        tokio::select! {
            fetched = image.missing(client, error) => fetched?,
            number = signals.next() => return Ok(128 + number),
        }
        request_us = timing::now_us();
        answer = client.upgrade_at("/containers/run", &request).await;
    }
    let (connection, session) = match answer {
        Ok((connection, upgraded)) => {
            warn(upgraded.warning.as_deref());
            (connection, session(upgraded.container))
        }
        Err(Error::Connection(_)) => {
            let session = session(made_anyway(client, &request, since_ms).await?.id);
            (session.attach([0, 0]).await?, session)
        }
        Err(error) => return Err(error),
    };
    let container = session.container.clone();
    let (end, steps) = session.run(connection, signals).await?;
    if form == Some(TimingForm::Table) {
        timing::print_table(&steps);
    }
    let code = finish(end, &container)?;
    if form == Some(TimingForm::Json) {
        // The last line, whatever else there was to say.
        timing::print_json(request_us, &steps, code)?;
    }
    Ok(code)
}

/// Makes a container and prints its id.
///
/// # Errors
/// When it can't be made.
pub async fn create(client: &Client, args: RunArgs) -> Result<i32> {
    let image = Fetch::new(&args);
    let request = request(args)?;
    image.before(client).await?;
    let made = match client.post::<Created>("/containers?start=false", &request).await {
        Err(error) if image.may_help(&error) => {
            image.missing(client, &error).await?;
            client.post("/containers?start=false", &request).await
        }
        answer => answer,
    };
    say(&made?.id)?;
    Ok(0)
}

/// Starts containers; with `-a` or `-i` one, whose exit status is the answer.
///
/// # Errors
/// When it can't be attached to; other failures are printed.
pub async fn start(client: &Client, args: &StartArgs) -> Result<i32> {
    if !(args.attach || args.interactive) {
        return super::life::plain(client, &args.names, "start").await;
    }
    let [name] = args.names.as_slice() else {
        return Err(Error::Message(
            "only one container at a time can be attached to; leave out -a and -i".into(),
        ));
    };
    let known: Container = client.json(Method::GET, &format!("/containers/{}", escape(name))).await?;
    let stdin = args.interactive && known.stdin;
    if known.terminal && stdin && !terminal::is_input() {
        return Err(Error::NotATerminal);
    }
    let signals = Signals::watch()?;
    let path = format!("/containers/{}/start/attach?stdin={stdin}", known.id);
    let (connection, upgraded) = client.upgrade_at(&path, &()).await?;
    let session = Session {
        client: client.clone(),
        container: upgraded.container,
        stdin,
        proxy: true,
        resume: true,
        joins: false,
        terminal: known.terminal.then_some(args.detach_keys.clone()),
    };
    let (end, _) = session.run_from(connection, signals, upgraded.position).await?;
    finish(end, &known.id)
}

/// On standard error, where the command's own words go too, but before any of them.
/// Prints what a container has to do without.
pub fn warn(warning: Option<&str>) {
    if let Some(warning) = warning {
        crate::output::tell(&format!("warning: {warning}"));
    }
}

/// Where to look when a container's VM failed. The API has only words for that; they are the VM crate's own.
fn advice(reason: &str) -> &'static str {
    let failed = EndReason::Exit(ExitReason::InternalError).to_string();
    if reason.contains(&failed) { crate::vm_cmd::SEE_DOCTOR } else { "" }
}

/// The container that a daemon made which was lost before it could answer, as its successor knows it. Only a name can tell: others may
/// have asked for a container of the same image at the same time.
async fn made_anyway(client: &Client, request: &CreateContainer, since_ms: u64) -> Result<Container> {
    let Some(name) = &request.name else {
        let words = "the daemon was lost before it told the new container's name; vial ps -a lists it if it was made, \
                     and with --name it would have been found again";
        return Err(Error::Message(words.into()));
    };
    let lost = || {
        let words = format!(
            "the daemon was lost before the command of {name} ran; nothing is left of the start, try again"
        );
        Error::Message(words)
    };
    match client.json::<Container>(Method::GET, &format!("/containers/{}", escape(name))).await {
        Ok(container) if is_answer(&container, request, since_ms) => Ok(container),
        Ok(_) => Err(lost()),
        Err(Error::Api(body)) if body.kind == ErrorKind::NoSuchContainer => Err(lost()),
        Err(error) => Err(error),
    }
}

/// Whether this container is what was asked for, and not an older one that has the name, or another's whose id begins so.
fn is_answer(container: &Container, request: &CreateContainer, since_ms: u64) -> bool {
    Some(&container.name) == request.name.as_ref()
        && container.image == request.image
        && container.created_ms >= since_ms
}

/// The id of a container whose command has been started.
fn started(container: Container) -> Result<String> {
    match (container.started_ms, container.exit) {
        (None, Some(exit)) => {
            let reason = exit.reason.unwrap_or_else(|| "the command could not be started".into());
            Err(Error::Message(reason))
        }
        _ => Ok(container.id),
    }
}

/// Says how a session with a container ended; gives the exit status.
///
/// # Errors
/// When its command could not be run.
pub fn finish(end: End, container: &str) -> Result<i32> {
    let short = &container[..12.min(container.len())];
    match end {
        End::Exit(exit) => {
            if let Some(reason) = &exit.reason {
                crate::output::tell(&format!("{reason}{}", advice(reason)));
            }
            if exit.oom {
                crate::output::tell(match &exit.reason {
                    Some(reason) if reason.contains("pod's containers together") => {
                        "make its pod with more (vial pod create --memory)"
                    }
                    Some(_) => "give it more with --memory",
                    None => "it ran out of memory; give it more with --memory",
                });
            }
            Ok(exit.code)
        }
        End::Failed(mut body) => {
            body.message.push_str(advice(&body.message));
            Err(Error::Api(body))
        }
        End::Interrupted(number) => Ok(128 + number),
        End::Left(number) => {
            crate::output::tell(&format!("leaving; the container goes on. End it with: vial kill {short}"));
            Ok(128 + number)
        }
        End::Detached => {
            crate::output::tell(&format!(
                "detached; the container goes on. Come back with: vial attach {short}"
            ));
            Ok(0)
        }
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
        terminal: args.tty.then(own_size),
        auto_remove: args.rm,
        pod: args.pod,
        pids: args.pids_limit,
        network: args.net.network.unwrap_or_default(),
        ports: args.net.ports(),
        dns: args.net.dns,
        add_hosts: args.net.add_host,
        timing: args.timing.is_some(),
        labels: crate::life_args::labels(&args.keep.label),
        restart: args.keep.restart,
        log: args.keep.log().map_err(Error::Message)?,
        ..CreateContainer::default()
    })
}

/// The size of this terminal; zeroes when there is none.
fn own_size() -> TerminalSize {
    terminal::size().unwrap_or_default()
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

/// Runs one more command in a container; its exit status is the answer.
///
/// # Errors
/// When it can't be run.
pub async fn exec(client: &Client, args: ExecArgs) -> Result<i32> {
    if args.tty && args.interactive && !terminal::is_input() {
        return Err(Error::NotATerminal);
    }
    let request = Exec {
        command: args.command,
        env: args.env.into_iter().filter_map(with_value).collect(),
        workdir: args.workdir,
        user: args.user,
        stdin: args.interactive,
        terminal: args.tty.then(own_size),
    };
    let path = format!("/containers/{}/exec", escape(&args.container));
    let mut signals = Signals::watch()?;
    let (connection, container) = tokio::select! {
        answer = client.upgrade(&path, &request) => answer?,
        // The daemon sees the connection go; a command that was just being started goes on, as one does that is left later.
        number = signals.next() => return Ok(128 + number),
    };
    let session = Session {
        client: client.clone(),
        container: container.clone(),
        stdin: args.interactive,
        proxy: false,
        resume: false,
        joins: false,
        terminal: args.tty.then_some(args.detach_keys),
    };
    let (end, _) = session.run(connection, signals).await?;
    finish(end, &container)
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

    #[test]
    fn a_failed_vm_process_leads_to_the_doctor() {
        assert!(advice("its VM ended: the VM process failed: KVM cannot emulate it").contains("vial doctor"));
        assert_eq!(advice("its VM ended: killed"), "");
    }

    #[test]
    fn only_the_container_that_was_asked_for_is_taken_up() {
        let request = CreateContainer {
            image: "busybox".into(),
            name: Some("kd".into()),
            ..CreateContainer::default()
        };
        let container = |name: &str, image: &str, created_ms: u64| -> Container {
            serde_json::from_value(serde_json::json!({
                "id": "ab".repeat(32), "name": name, "pod": "p", "image": image, "image_id": "i", "command": ["sh"],
                "state": "exited", "exit": { "code": 125, "reason": "never started" }, "created_ms": created_ms,
                "memory": 1, "milli_cpus": 1000, "auto_remove": false,
            }))
            .unwrap()
        };
        assert!(is_answer(&container("kd", "busybox", 50), &request, 50));
        assert!(!is_answer(&container("kd", "busybox", 49), &request, 50), "an older one");
        assert!(!is_answer(&container("kd", "debian", 50), &request, 50));
        assert!(!is_answer(&container("other", "busybox", 50), &request, 50));
        assert!(started(container("kd", "busybox", 50)).unwrap_err().to_string().contains("never started"));
        let ran = Container { started_ms: Some(51), ..container("kd", "busybox", 50) };
        assert_eq!(started(ran).unwrap(), "ab".repeat(32));
    }
}
