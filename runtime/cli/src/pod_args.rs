//! The shape of `vial pod …`.

use crate::args::NetworkArgs;
use clap::{Args, Subcommand};

/// What can be done with pods.
#[derive(Debug, Clone, Subcommand)]
pub enum PodCommand {
    /// Make a pod: a microVM for several containers, which share its network, host name and IPC
    Create(PodCreateArgs),
    /// List pods
    #[command(visible_alias = "list")]
    Ls(PodListArgs),
    /// Show all that is known of pods, as JSON
    Inspect(PodNames),
    /// Start pods and all containers in them that do not run
    Start(PodNames),
    /// Stop pods with all containers in them
    Stop(PodStopArgs),
    /// Remove pods with all containers in them
    Rm(PodRmArgs),
}

/// `vial pod create`
#[derive(Debug, Clone, Args)]
pub struct PodCreateArgs {
    /// Name [default: made up]
    #[arg(long = "name", value_name = "NAME", conflicts_with = "name")]
    pub name_option: Option<String>,
    /// Memory of all its containers together, as in 512m or 2g [default: 512m]
    #[arg(short, long, value_parser = crate::units::parse_bytes, value_name = "SIZE")]
    pub memory: Option<u64>,
    /// Processors of all its containers together, as in 0.5 or 2 [default: 1]
    #[arg(long, value_parser = crate::units::parse_cpus, value_name = "NUMBER")]
    pub cpus: Option<u32>,
    /// How many containers it may hold at a time, 1 to 16 [default: 8]
    #[arg(long, value_name = "NUMBER")]
    pub containers: Option<u8>,
    /// Host name [default: the pod's name]
    #[arg(long)]
    pub hostname: Option<String>,
    /// Do not start it yet; the first container does
    #[arg(long)]
    pub no_start: bool,
    /// Note KEY=VALUE on it
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub label: Vec<String>,
    #[command(flatten)]
    pub network: NetworkArgs,
    /// Name [default: made up]
    pub name: Option<String>,
}

/// `vial pod ls`
#[derive(Debug, Clone, Args)]
pub struct PodListArgs {
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// Names or ids of pods.
#[derive(Debug, Clone, Args)]
pub struct PodNames {
    /// Names or ids of pods
    #[arg(required = true, value_name = "POD", add = crate::completion::pods())]
    pub pods: Vec<String>,
}

/// `vial pod stop`
#[derive(Debug, Clone, Args)]
pub struct PodStopArgs {
    /// Seconds to wait before killing
    #[arg(short, long, default_value_t = 10)]
    pub time: u32,
    #[command(flatten)]
    pub names: PodNames,
}

/// `vial pod rm`
#[derive(Debug, Clone, Args)]
pub struct PodRmArgs {
    /// Kill their containers first if they run; no error for pods that do not exist
    #[arg(short, long)]
    pub force: bool,
    #[command(flatten)]
    pub names: PodNames,
}
