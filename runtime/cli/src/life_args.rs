//! The shape of what is said about a container's life: options that `run` and `create` share, and the commands on one that is there.

use crate::terminal::keys::DetachKeys;
use clap::Args;
use std::collections::BTreeMap;
use vial_api::{LogOptions, RestartPolicy};

/// Options of `run` and `create` about what comes after the start.
#[derive(Debug, Clone, Args)]
pub struct KeepArgs {
    /// Start it again when it has ended: no, on-failure[:TIMES], always, unless-stopped
    #[arg(long, value_parser = RestartPolicy::parse, default_value = "no", value_name = "POLICY", hide_default_value = true)]
    pub restart: RestartPolicy,
    /// Note KEY=VALUE on it, for ps --filter label= and inspect
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub label: Vec<String>,
    /// Bounds of its log: max-size=SIZE of a file [20m], max-file=NUMBER of files [5]
    #[arg(long, value_name = "OPTION=VALUE")]
    pub log_opt: Vec<String>,
}

/// Reads labels.
pub fn labels(words: &[String]) -> BTreeMap<String, String> {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        (key.to_owned(), value.to_owned())
    };
    words.iter().map(pair).collect()
}

impl KeepArgs {
    /// The log's bounds.
    ///
    /// # Errors
    /// A sentence that says what is possible.
    pub fn log(&self) -> Result<LogOptions, String> {
        let mut log = LogOptions::default();
        for option in &self.log_opt {
            match option.split_once('=') {
                Some(("max-size", size)) => log.max_size = crate::units::parse_bytes(size)?,
                Some(("max-file", count)) => {
                    log.max_file = count.parse().map_err(|_| format!("max-file={count} is no number"))?;
                }
                _ => {
                    return Err(format!(
                        "--log-opt {option} is not known; there are max-size=SIZE and max-file=NUMBER"
                    ));
                }
            }
        }
        log.check().map_err(|why| format!("--log-opt {why}"))?;
        Ok(log)
    }
}

/// `vial create`: as `run`, without what only a run has.
#[derive(Debug, Clone, Args)]
#[command(mut_arg("detach", |arg| arg.hide(true)), mut_arg("timing", |arg| arg.hide(true)))]
pub struct CreateArgs {
    /// The same options.
    #[command(flatten)]
    pub run: crate::args::RunArgs,
}

/// `vial start`
#[derive(Debug, Clone, Args)]
pub struct StartArgs {
    /// Stay, print its output, pass signals on, and end with its exit status
    #[arg(short, long)]
    pub attach: bool,
    /// Pass standard input on, if the container was made with -i
    #[arg(short, long)]
    pub interactive: bool,
    /// Keys that leave a container with a terminal while it goes on [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS", default_value = "", hide_default_value = true)]
    pub detach_keys: DetachKeys,
    /// Names or ids
    #[arg(required = true, value_name = "NAME", add = crate::completion::containers())]
    pub names: Vec<String>,
}

/// `vial rename`
#[derive(Debug, Clone, Args)]
pub struct RenameArgs {
    /// Name or id
    #[arg(add = crate::completion::containers())]
    pub container: String,
    /// The new name
    pub name: String,
}

#[cfg(test)]
mod tests {
    use crate::args::{Cli, Command};
    use clap::Parser;
    use vial_api::{LogOptions, RestartPolicy};

    fn keep(args: &[&str]) -> Result<super::KeepArgs, clap::Error> {
        let cli = Cli::try_parse_from(["vial", "run"].iter().chain(args).chain(&["busybox"]))?;
        match cli.command {
            Command::Run(args) => Ok(args.keep),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_kept_is_read() {
        let args =
            keep(&["--restart", "on-failure:3", "-l", "a=b=c", "--label", "d", "--log-opt", "max-size=1m"])
                .unwrap();
        assert_eq!(args.restart, RestartPolicy::OnFailure { max_retries: 3 });
        assert_eq!(
            super::labels(&args.label),
            [("a".into(), "b=c".into()), ("d".into(), String::new())].into()
        );
        assert_eq!(args.log(), Ok(LogOptions { max_size: 1 << 20, max_file: 5 }));
        assert_eq!(keep(&[]).unwrap().log(), Ok(LogOptions::default()));
    }

    #[test]
    fn mistakes_are_refused() {
        assert!(keep(&["--restart", "sometimes"]).is_err());
        for bad in ["max-size=1", "max-file=0", "max-file=x", "mode=non-blocking", "x"] {
            assert!(keep(&["--log-opt", bad]).unwrap().log().is_err(), "{bad}");
        }
    }
}
