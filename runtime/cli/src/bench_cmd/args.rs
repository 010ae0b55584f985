//! What `vial bench` can be told.

use clap::{Args, Subcommand};
use std::path::PathBuf;
use vial_bench::result::Scenario;

/// `vial bench`
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to measure.
    #[command(subcommand)]
    pub command: BenchCommand,
}

const HELP: &str = "\
Vial and the others are started in turn, round by round, as their users start them, all with the same image. Who is not on the PATH is
listed as missing. Raw samples, the machine and the exact command lines are in the file that --json writes; --html writes a report
that opens offline. Needs root, as most of those who are measured do.

Ctrl-C ends the bench, removes what it started, and reports what was measured until then (exit status 130).";

/// What `vial bench` measures or shows.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Time and count starts, beside other runtimes
    #[command(after_help = HELP)]
    Startup(StartupArgs),
    /// Show where the time of one start goes, step by step
    #[command(after_help = HELP)]
    Boot(BootArgs),
    /// Start idle pods until a bound, and see what they take
    #[command(after_help = HELP)]
    Density(DensityArgs),
    /// All of these, in one report
    #[command(after_help = HELP)]
    All(AllArgs),
    /// Say what changed from one measurement to another, beyond noise
    Compare {
        /// What `--json` wrote, before
        before: PathBuf,
        /// What `--json` wrote, after
        after: PathBuf,
    },
    /// Show a measurement again, or write it in another form
    Report {
        /// What `--json` wrote
        file: PathBuf,
        #[command(flatten)]
        out: OutArgs,
    },
}

/// Where results go besides standard output.
#[derive(Debug, Clone, Args)]
pub struct OutArgs {
    /// Write raw samples and all that belongs to them as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a report with plots, one file that opens offline
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write the tables as Markdown
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
}

/// What every measurement needs.
#[derive(Debug, Clone, Args)]
pub struct CommonArgs {
    /// Image of the commands; pulled when it is not here. It needs `true`, `echo` and `sleep`
    #[arg(long, default_value = "busybox")]
    pub image: String,
    /// Whom to measure beside Vial, by name, separated by commas [default: all that are known]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub against: Option<Vec<String>>,
    /// Kernel of the bare VMs (vial-vm, qemu-microvm, …) [default: Vial's own]
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Where random numbers begin: the order of starts, resampling
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    #[command(flatten)]
    pub out: OutArgs,
}

/// What `startup` can be told.
#[derive(Debug, Clone, Args)]
pub struct TimesArgs {
    /// Counted runs of each
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub runs: u32,
    /// Runs before them that do not count
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub warmups: u32,
    /// How many to start at once, one series for each number
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub concurrency: Vec<u32>,
    /// Drop the page cache before each start
    #[arg(long)]
    pub cold_cache: bool,
    /// What to wait for: exit (of `true`), first-byte (of output), agent (its introduction, of VMs), http (answer of a server) [default: the first two, and http with --server-image]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = scenario)]
    pub until: Option<Vec<Scenario>>,
    /// Image of a web server, for http
    #[arg(long, value_name = "IMAGE")]
    pub server_image: Option<String>,
    /// The port that it listens on
    #[arg(long, value_name = "PORT", default_value_t = 80, requires = "server_image")]
    pub server_port: u16,
    /// Seconds after which a start is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
}

/// `vial bench boot`
#[derive(Debug, Args)]
pub struct BootArgs {
    /// Image of the command; pulled when it is not here. It needs `true`
    #[arg(long, default_value = "busybox")]
    pub image: String,
    /// Counted starts
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub runs: u32,
    /// Starts before them that do not count
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub warmups: u32,
    /// Seconds after which a start is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
    #[command(flatten)]
    pub out: OutArgs,
}

/// What `density` can be told.
#[derive(Debug, Clone, Args)]
pub struct IdleArgs {
    /// No more idle pods than this
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub most: u32,
    /// No more when less than this share of memory is available, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub leave: u32,
    /// Seconds to look at what they use at rest
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub rest: u64,
}

/// `vial bench startup`
#[derive(Debug, Args)]
pub struct StartupArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    #[command(flatten)]
    pub times: TimesArgs,
}

/// `vial bench density`
#[derive(Debug, Args)]
pub struct DensityArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    #[command(flatten)]
    pub idle: IdleArgs,
}

/// `vial bench all`
#[derive(Debug, Args)]
pub struct AllArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    #[command(flatten)]
    pub times: TimesArgs,
    #[command(flatten)]
    pub idle: IdleArgs,
}

fn scenario(word: &str) -> Result<Scenario, String> {
    let known = || Scenario::ALL.map(Scenario::name).join(", ");
    Scenario::ALL
        .into_iter()
        .find(|scenario| scenario.name() == word)
        .ok_or_else(|| format!("there are: {}", known()))
}
