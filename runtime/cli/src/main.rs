//! The command line: `vial`.
//!
//! It must never know how images, VMs or pods work: it speaks to the daemon through the API (and starts one when none runs), except for
//! `vial vm` and `vial doctor`, which need no daemon, and `vial bench`, which starts this very program as others are started.
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // they panic on a closed pipe; use `output`

mod args;
mod bench_cmd;
mod client;
mod commands;
mod completion;
mod doctor_cmd;
mod error;
mod filter;
mod format;
mod input;
mod life_args;
mod list_args;
mod output;
mod pod_args;
mod signals;
mod streams;
mod terminal;
mod timing;
mod units;
mod vm_cmd;
mod when;

use args::{Cli, Command};
use clap::Parser;
use client::Client;
use error::{Error, Result};
use output::tell;

fn main() {
    timing::begin();
    // A pod's network helper: this program in another role, started by the daemon. Not for people, so not in the help.
    if std::env::args_os().nth(1).is_some_and(|word| word == vial_network::helper::COMMAND) {
        std::process::exit(vial_network::helper::main());
    }
    completion::answer_shell();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Printing to a closed pipe is nobody's loss.
            let _ = error.print();
            // Docker's `run` answers 125 to an option that it does not know; the other commands 1, as is usual.
            let words: Vec<_> = std::env::args_os().skip(1).take(2).collect();
            let run =
                words.first().is_some_and(|word| word == "run" || word == "exec") || words == ["vm", "run"];
            std::process::exit(if !error.use_stderr() {
                0
            } else if run {
                125
            } else {
                1
            });
        }
    };
    let code = match cli.command {
        Command::Daemon(args::DaemonArgs { detached, action: None }) => commands::daemon::run(detached),
        Command::Launcher => vial_daemon::launcher(),
        Command::Vm(args) => vm_cmd::run(args),
        Command::Doctor(args) => doctor_cmd::run(args),
        Command::Bench(args) => bench_cmd::run(args),
        Command::Completion(args) => completion::run(args),
        command => {
            let of_run = matches!(command, Command::Run(_) | Command::Exec(_));
            with_daemon(command).unwrap_or_else(|error| {
                tell(&error.to_string());
                if of_run { error.run_code() } else { 1 }
            })
        }
    };
    // Not a return: a thread may be reading standard input, and nothing waits for it.
    std::process::exit(code);
}

fn with_daemon(command: Command) -> Result<i32> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("set up this program"))?;
    let client = Client::from_env();
    let code = runtime.block_on(commands::dispatch(&client, command));
    runtime.shutdown_background();
    code
}
