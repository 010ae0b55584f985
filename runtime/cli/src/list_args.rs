//! The shape of the commands that show things, and of those that clear many away.

use clap::{Args, Subcommand};

/// `vial ps`
#[derive(Debug, Clone, Args)]
pub struct PsArgs {
    /// Those that do not run too
    #[arg(short, long)]
    pub all: bool,
    /// As JSON
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
    /// Ids only
    #[arg(short, long, conflicts_with_all = ["json", "format"])]
    pub quiet: bool,
    /// Only those for which it is true: status=, name=, id=, label=KEY[=VALUE], ancestor=IMAGE, exited=STATUS
    #[arg(short, long, value_parser = crate::filter::Filter::parse, value_name = "KEY=VALUE")]
    pub filter: Vec<crate::filter::Filter>,
    /// By a template, as in '{{.Names}}' or 'table {{.ID}}\t{{.Status}}', or json: an object a line
    #[arg(long, value_name = "TEMPLATE")]
    pub format: Option<String>,
    /// Nothing is cut off
    #[arg(long)]
    pub no_trunc: bool,
    /// The newest one, running or not
    #[arg(short, long, conflicts_with = "last")]
    pub latest: bool,
    /// So many of the newest ones, running or not
    #[arg(short = 'n', long, value_name = "NUMBER")]
    pub last: Option<usize>,
}

/// `vial logs`
#[derive(Debug, Clone, Args)]
pub struct LogsArgs {
    /// Go on until the container ends
    #[arg(short, long)]
    pub follow: bool,
    /// Only so many lines at the end, or all
    #[arg(short = 'n', long, default_value = "all", value_parser = parse_tail, value_name = "LINES", hide_default_value = true)]
    pub tail: Tail,
    /// Not what is older: 10m, 2026-01-31T12:00:00Z, or seconds since the epoch
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Not what is newer
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Each line with its time in front
    #[arg(short, long)]
    pub timestamps: bool,
    /// Name or id
    #[arg(add = crate::completion::containers())]
    pub container: String,
}

/// How much of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail(pub Option<u64>);

fn parse_tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" => Ok(Tail(None)),
        number => number
            .parse()
            .map(|count| Tail(Some(count)))
            .map_err(|_| format!("{text:?} is no number of lines; write one, or all")),
    }
}

/// `vial inspect`
#[derive(Debug, Clone, Args)]
pub struct InspectArgs {
    /// By a template, as in '{{.State.Status}}', or json
    #[arg(short, long, value_name = "TEMPLATE")]
    pub format: Option<String>,
    /// Only of this kind
    #[arg(long = "type", value_name = "KIND", value_enum)]
    pub kind: Option<Kind>,
    /// Names or ids
    #[arg(required = true, value_name = "NAME", add = crate::completion::anything())]
    pub names: Vec<String>,
}

/// What `inspect` looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// A container.
    Container,
    /// An image.
    Image,
}

/// Whether to ask first.
#[derive(Debug, Clone, Copy, Args)]
pub struct PruneArgs {
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}

/// `vial image prune`, `vial system prune`
#[derive(Debug, Clone, Copy, Args)]
pub struct PruneImagesArgs {
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Every image that no container is made from, not only those without a name
    #[arg(short, long)]
    pub all: bool,
}

/// `vial container`
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum ContainerCommand {
    /// Remove every container that does not run
    Prune(PruneArgs),
}

/// `vial image`
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum ImageCommand {
    /// Remove images that have no name and that no container is made from
    Prune(PruneImagesArgs),
}

/// `vial system`
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum SystemCommand {
    /// Show what images, containers and logs take on the host's disk
    Df {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove what does not run and what nothing needs
    Prune(PruneImagesArgs),
}
/// `vial port`
#[derive(Debug, Clone, Args)]
pub struct PortArgs {
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Name or id
    #[arg(add = crate::completion::containers())]
    pub container: String,
    /// Only this port of the container
    #[arg(value_name = "PORT[/udp]")]
    pub port: Option<String>,
}
