//! `vial completion`: the shell asks this program what could come next, so that names of containers and images are known too. No daemon is
//! started for it.

use crate::args::Cli;
use crate::client::Client;
use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::engine::{
    ArgValueCandidates, ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter,
};
use clap_complete::env::{CompleteEnv, Shells};
use std::ffi::OsStr;
use std::time::Duration;
use vial_api::{Container, ImageSummary, Pod};

/// The variable in which the shell says that it asks, and which shell it is.
const VARIABLE: &str = "VIAL_COMPLETE";
/// Nobody waits longer than this for a name.
const PATIENCE: Duration = Duration::from_secs(1);

/// `vial completion`
#[derive(Debug, Clone, Copy, Args)]
pub struct CompletionArgs {
    /// The shell
    pub shell: Shell,
}

/// A shell that can be helped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// source <(vial completion bash)
    Bash,
    /// source <(vial completion zsh)
    Zsh,
    /// vial completion fish | source
    Fish,
}

/// Answers a shell that asks, and ends the program then.
pub fn answer_shell() {
    CompleteEnv::with_factory(Cli::command).var(VARIABLE).complete();
}

/// Prints what makes a shell ask: its exit status.
pub fn run(args: CompletionArgs) -> i32 {
    let name = match args.shell {
        Shell::Bash => "bash",
        Shell::Zsh => "zsh",
        Shell::Fish => "fish",
    };
    let shells = Shells::builtins();
    let Some(shell) = shells.completer(name) else { return 1 };
    let mut script = Vec::new();
    let written = shell.write_registration(VARIABLE, "vial", "vial", "vial", &mut script);
    match written.and_then(|()| crate::output::write(&String::from_utf8_lossy(&script))) {
        Ok(()) => 0,
        Err(error) => {
            crate::output::tell(&format!("cannot write to standard output: {error}"));
            1
        }
    }
}

/// What the daemon answers, if one runs and is quick; a shell that completes is no place for errors.
fn ask<T: serde::de::DeserializeOwned + Default>(path: &str) -> T {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return T::default();
    };
    let client = Client::from_env();
    let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, client.ask_running(path)).await });
    answer.ok().flatten().unwrap_or_default()
}

fn named_containers() -> Vec<CompletionCandidate> {
    let list: Vec<Container> = ask("/containers?all=true");
    let candidate = |container: Container| {
        let help = format!("{}, {}", container.state.as_str(), container.image);
        CompletionCandidate::new(container.name).help(Some(help.into()))
    };
    list.into_iter().map(candidate).collect()
}

fn named_images() -> Vec<CompletionCandidate> {
    let list: Vec<ImageSummary> = ask("/images");
    list.into_iter().flat_map(|image| image.names).map(CompletionCandidate::new).collect()
}

/// For an argument that is a container.
pub fn containers() -> ArgValueCandidates {
    ArgValueCandidates::new(named_containers)
}

/// For an argument that is a pod.
pub fn pods() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let list: Vec<Pod> = ask("/pods");
        let candidate =
            |pod: Pod| CompletionCandidate::new(pod.name).help(Some(pod.state.as_str().to_owned().into()));
        list.into_iter().map(candidate).collect()
    })
}

/// For an argument that is an image.
pub fn images() -> ArgValueCandidates {
    ArgValueCandidates::new(named_images)
}

/// For an argument that is a path here or in a container, whose own paths nobody is asked for.
pub fn places() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let containers = named_containers().into_iter().map(|name| {
            let mut place = name.get_value().to_owned();
            place.push(":");
            CompletionCandidate::new(place)
        });
        let begun = |place: &CompletionCandidate| {
            place.get_value().as_encoded_bytes().starts_with(current.as_encoded_bytes())
        };
        containers.filter(begun).chain(PathCompleter::any().complete(current)).collect()
    })
}

/// For an argument that is a container or an image.
pub fn anything() -> ArgValueCandidates {
    ArgValueCandidates::new(|| named_containers().into_iter().chain(named_images()).collect())
}
