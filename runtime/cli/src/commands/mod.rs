//! One module per group of commands; each command is a function from its arguments to an exit status.

mod attach;
mod cp;
pub mod daemon;
mod images;
mod inspect;
mod kubernetes;
mod life;
mod list;
mod load;
mod login;
mod pod;
mod port;
mod prune;
mod ps;
mod registry;
mod run;
mod save;
mod transfer;
mod usage;

use crate::args::Command;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::list_args::{ContainerCommand, ImageCommand, SystemCommand};
use crate::output::{print_json, say, say_whole};

/// Carries out a command that needs the daemon.
///
/// # Errors
/// Whatever stops it.
pub async fn dispatch(client: &Client, command: Command) -> Result<i32> {
    match command {
        Command::Run(args) => run::run(client, args).await,
        Command::Exec(args) => run::exec(client, args).await,
        Command::Cp(args) => cp::cp(client, &args).await,
        Command::Stats(args) => usage::stats(client, &args).await,
        Command::Top(args) => usage::top(client, &args).await,
        Command::Attach(args) => attach::attach(client, args).await,
        Command::Ps(args) => ps::ps(client, &args).await,
        Command::Logs(args) => list::logs(client, &args).await,
        Command::Create(args) => run::create(client, args.run).await,
        Command::Start(args) => run::start(client, &args).await,
        Command::Restart(args) => life::restart(client, &args).await,
        Command::Pause(args) => life::plain(client, &args.names, "pause").await,
        Command::Unpause(args) => life::plain(client, &args.names, "unpause").await,
        Command::Port(args) => port::port(client, &args).await,
        Command::Rename(args) => life::rename(client, &args).await,
        Command::Wait(args) => life::wait(client, &args.names).await,
        Command::Stop(args) => life::stop(client, &args).await,
        Command::Kill(args) => life::kill(client, &args).await,
        Command::Rm(args) => life::rm(client, &args).await,
        Command::Pull(args) => registry::pull(client, args).await,
        Command::Push(args) => registry::push(client, args).await,
        Command::Tag(args) => registry::tag(client, args).await,
        Command::Login(args) => login::login(client, args).await,
        Command::Logout(args) => login::logout(&args),
        Command::Load(args) => load::load(client, &args).await,
        Command::Save(args) => save::save(client, &args).await,
        Command::Import(args) => load::import(client, &args).await,
        Command::Images(args) => images::list(client, &args).await,
        Command::Rmi(args) => images::remove(client, &args).await,
        Command::Inspect(args) => inspect::inspect(client, &args).await,
        Command::Pod(command) => pod::dispatch(client, command).await,
        Command::Container(ContainerCommand::Prune(args)) => prune::containers(client, args).await,
        Command::Image(ImageCommand::Prune(args)) => prune::images(client, args).await,
        Command::System(SystemCommand::Df { json }) => prune::df(client, json).await,
        Command::System(SystemCommand::Prune(args)) => prune::system(client, args).await,
        Command::Kubeconfig(args) => kubernetes::kubeconfig(client, &args).await,
        Command::Kubectl(args) => kubernetes::kubectl(client, &args).await,
        Command::Daemon(args) => daemon::act(client, args.action).await,
        Command::Version => daemon::version(client).await,
        Command::Vm(_)
        | Command::Bench(_)
        | Command::Doctor(_)
        | Command::Completion(_)
        | Command::Launcher => Err(Error::Message("this needs no daemon".into())),
    }
}

/// Does something to each name; one failure does not spare the others. Exit status 1 if any failed.
async fn each<F: Future<Output = Result<()>>>(names: &[String], what: impl Fn(String) -> F) -> i32 {
    let mut code = 0;
    for name in names {
        if let Err(error) = what(name.clone()).await {
            crate::output::tell(&error.to_string());
            code = 1;
        }
    }
    code
}

/// Milliseconds since the epoch.
fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    // Good for 584 million years.
    now.as_millis() as u64
}
