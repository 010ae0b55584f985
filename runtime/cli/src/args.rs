//! The command line's shape.

use crate::life_args::{CreateArgs, KeepArgs, RenameArgs, StartArgs};
use crate::list_args::{
    ContainerCommand, ImageCommand, InspectArgs, LogsArgs, PortArgs, PsArgs, SystemCommand,
};
use crate::terminal::keys::DetachKeys;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Run every pod in its own microVM.
#[derive(Debug, Parser)]
#[command(name = "vial", version, disable_help_subcommand = true, propagate_version = false)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Everything that vial can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command in a new container, in a microVM of its own
    Run(RunArgs),
    /// List containers
    Ps(PsArgs),
    /// Print what a container wrote
    Logs(LogsArgs),
    /// Run one more command in a running container
    Exec(ExecArgs),
    /// Come to a running container's output, input and terminal
    Attach(AttachArgs),
    /// Make a container without starting it
    Create(CreateArgs),
    /// Start containers that do not run
    Start(StartArgs),
    /// Stop containers, then start them again
    Restart(StopArgs),
    /// Make containers stand still, with all that is in them
    Pause(Names),
    /// Let paused containers go on
    Unpause(Names),
    /// Give a container another name
    Rename(RenameArgs),
    /// Show where a container's published ports are
    Port(PortArgs),
    /// Copy files into a container or out of it
    Cp(CpArgs),
    /// Show what containers use, again every second
    Stats(StatsArgs),
    /// List what runs in a container
    Top(TopArgs),
    /// Wait until containers end and print their exit statuses
    Wait(Names),
    /// Ask containers to end, and kill them if they do not
    Stop(StopArgs),
    /// Send containers a signal
    Kill(KillArgs),
    /// Remove containers
    Rm(RmArgs),
    /// Fetch an image from a registry
    Pull(PullArgs),
    /// Send an image to a registry
    Push(PushArgs),
    /// Give an image one more name
    Tag(TagArgs),
    /// Keep a user name and password for a registry
    Login(LoginArgs),
    /// Forget the user name and password for a registry
    Logout(LogoutArgs),
    /// Load images from a docker or OCI archive, a folder, or standard input
    Load(LoadArgs),
    /// Write images to an archive, which vial, docker, podman and skopeo load
    Save(SaveArgs),
    /// Make an image of a tar of a root file system
    Import(ImportArgs),
    /// List images
    Images(ImagesArgs),
    /// Remove images
    Rmi(RmiArgs),
    /// Show all that is known of containers or images, as JSON or by a template
    Inspect(InspectArgs),
    /// Make and manage pods of several containers
    #[command(subcommand)]
    Pod(crate::pod_args::PodCommand),
    /// Act on containers in bulk
    #[command(subcommand)]
    Container(ContainerCommand),
    /// Act on images in bulk
    #[command(subcommand)]
    Image(ImageCommand),
    /// What takes room, and how to have it back
    #[command(subcommand)]
    System(SystemCommand),
    /// Run, stop or ask after the daemon that owns images and pods
    Daemon(DaemonArgs),
    /// Print what Kubernetes clients need to reach this machine's declared objects
    Kubeconfig(KubeconfigArgs),
    /// Run the kubectl on the PATH on this machine's declared objects
    #[command(disable_help_flag = true)]
    Kubectl(KubectlArgs),
    /// Check whether this machine can run Vial
    Doctor(crate::doctor_cmd::DoctorArgs),
    /// Measure VM start-up against container start-up
    Bench(crate::bench_cmd::args::BenchArgs),
    /// Boot and manage plain microVMs
    Vm(crate::vm_cmd::VmArgs),
    /// Print what makes a shell complete this program's words
    Completion(crate::completion::CompletionArgs),
    /// Print the versions of the command line and of the daemon, if one runs
    Version,
    /// Make VM processes for a daemon, which calls this itself
    #[command(hide = true)]
    Launcher,
}

/// `vial run`
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Remove the container when it has ended
    #[arg(long)]
    pub rm: bool,
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Keys that leave the container while it goes on [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS", default_value = "", hide_default_value = true)]
    pub detach_keys: DetachKeys,
    /// Print the container's id and leave it running
    #[arg(short, long)]
    pub detach: bool,
    /// Name of the container [default: made up]
    #[arg(long)]
    pub name: Option<String>,
    /// Set KEY=VALUE in its environment; KEY alone takes the value from this one
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// Read KEY=VALUE lines from a file
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// User, as name or number, with :GROUP if it is to be another
    #[arg(short, long)]
    pub user: Option<String>,
    /// Instead of the image's entrypoint; '' for none
    #[arg(long, value_name = "COMMAND")]
    pub entrypoint: Option<String>,
    /// Processors, as in 0.5 or 2 [default: 1]
    #[arg(long, value_parser = crate::units::parse_cpus, value_name = "NUMBER")]
    pub cpus: Option<u32>,
    /// Memory of the container, as in 512m or 2g [default: 256m]
    #[arg(short, long, value_parser = crate::units::parse_bytes, value_name = "SIZE")]
    pub memory: Option<u64>,
    /// Size of the writable layer, as in 20g [default: 10g]
    #[arg(long, value_parser = crate::units::parse_bytes, value_name = "SIZE")]
    pub disk: Option<u64>,
    /// Host name [default: the container's short id]
    #[arg(long)]
    pub hostname: Option<String>,
    /// What comes after the start.
    #[command(flatten)]
    pub keep: KeepArgs,
    #[command(flatten)]
    pub net: NetworkArgs,
    /// In this pod, beside its other containers (vial pod create)
    #[arg(long, value_name = "POD", add = crate::completion::pods())]
    pub pod: Option<String>,
    /// Most processes and threads; 0 for no limit [default: one for each 128 KiB of memory, 4096 at most]
    #[arg(long, value_name = "NUMBER")]
    pub pids_limit: Option<u32>,
    /// Print when each step was reached, on standard error: as a table, or with =json as one line for programs
    #[arg(
        long,
        value_enum,
        value_name = "FORM",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "table",
        hide_possible_values = true
    )]
    pub timing: Option<TimingForm>,
    /// When to fetch the image from its registry
    #[arg(long, value_enum, default_value_t = PullPolicy::Missing, value_name = "WHEN")]
    pub pull: PullPolicy,
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// The image
    #[arg(add = crate::completion::images())]
    pub image: String,
    /// The command and its arguments [default: the image's]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// What a pod's containers share of the network.
#[derive(Debug, Clone, Args)]
pub struct NetworkArgs {
    /// Publish a port, or a range, on the host: [[IP:]HOST:]CONTAINER[/udp]
    #[arg(short, long, value_name = "PORT")]
    pub publish: Vec<vial_api::Ports>,
    /// routed, or none for the loopback only; if left out, routed where this machine has what it takes
    #[arg(long, visible_alias = "net", value_name = "NETWORK", value_parser = crate::units::parse_network)]
    pub network: Option<vial_api::NetworkMode>,
    /// Name server instead of the host's
    #[arg(long, value_name = "IP")]
    pub dns: Vec<std::net::IpAddr>,
    /// Add a line to /etc/hosts; IP may be host-gateway
    #[arg(long, value_name = "NAME:IP")]
    pub add_host: Vec<String>,
}

impl NetworkArgs {
    /// The ports to publish.
    pub fn ports(&self) -> Vec<vial_api::Port> {
        self.publish.iter().flat_map(|ports| ports.0.iter().copied()).collect()
    }
}

/// `vial exec`
#[derive(Debug, Clone, Args)]
pub struct ExecArgs {
    /// Pass standard input on
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Keys that leave the command while it goes on [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS", default_value = "", hide_default_value = true)]
    pub detach_keys: DetachKeys,
    /// Set KEY=VALUE in its environment
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// User
    #[arg(short, long)]
    pub user: Option<String>,
    /// Name or id
    #[arg(add = crate::completion::containers())]
    pub container: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// `vial attach`
#[derive(Debug, Clone, Args)]
pub struct AttachArgs {
    /// Leave its standard input alone
    #[arg(long)]
    pub no_stdin: bool,
    /// Keys that leave a container with a terminal while it goes on [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS", default_value = "", hide_default_value = true)]
    pub detach_keys: DetachKeys,
    /// Name or id
    #[arg(add = crate::completion::containers())]
    pub container: String,
}

/// `vial cp`
#[derive(Debug, Clone, Args)]
pub struct CpArgs {
    /// Keep owners, groups and all permissions; otherwise copies are root's in the container and yours on the host
    #[arg(short, long)]
    pub archive: bool,
    /// If the source is a link, copy what it points to
    #[arg(short = 'L', long)]
    pub follow_link: bool,
    /// NAME:PATH in a container, a path here, or - for a tar on standard input
    #[arg(add = crate::completion::places())]
    pub source: String,
    /// NAME:PATH in a container, a path here, or - for a tar on standard output
    #[arg(add = crate::completion::places())]
    pub destination: String,
}

/// `vial stats`
#[derive(Debug, Clone, Args)]
pub struct StatsArgs {
    /// Once
    #[arg(long)]
    pub no_stream: bool,
    /// As JSON; without --no-stream one list for each line
    #[arg(long)]
    pub json: bool,
    /// Names or ids [default: all that run]
    #[arg(value_name = "NAME", add = crate::completion::containers())]
    pub names: Vec<String>,
}

/// `vial top`
#[derive(Debug, Clone, Args)]
pub struct TopArgs {
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Name or id
    #[arg(add = crate::completion::containers())]
    pub container: String,
    /// Taken for the sake of habit: options of ps, which change nothing
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub ps_options: Vec<String>,
}

/// Names or ids.
#[derive(Debug, Clone, Args)]
pub struct Names {
    /// Names or ids
    #[arg(required = true, value_name = "NAME", add = crate::completion::containers())]
    pub names: Vec<String>,
}

/// `vial stop`
#[derive(Debug, Clone, Args)]
pub struct StopArgs {
    /// Seconds to wait before killing
    #[arg(short, long, default_value_t = 10)]
    pub time: u32,
    /// Names or ids
    #[arg(required = true, value_name = "NAME", add = crate::completion::containers())]
    pub names: Vec<String>,
}

/// `vial kill`
#[derive(Debug, Clone, Args)]
pub struct KillArgs {
    /// Signal, as number or name
    #[arg(short, long, default_value = "KILL")]
    pub signal: String,
    /// Names or ids
    #[arg(required = true, value_name = "NAME", add = crate::completion::containers())]
    pub names: Vec<String>,
}

/// `vial rm`
#[derive(Debug, Clone, Args)]
pub struct RmArgs {
    /// Kill them first if they run; no error for those that do not exist
    #[arg(short, long)]
    pub force: bool,
    /// Names or ids
    #[arg(required = true, value_name = "NAME", add = crate::completion::containers())]
    pub names: Vec<String>,
}

/// How to speak to a registry.
#[derive(Debug, Clone, Default, Args)]
pub struct RegistryArgs {
    /// Over plain HTTP; only for a registry on this machine, or one that /etc/vial/registries.json lists
    #[arg(long)]
    pub insecure: bool,
    /// Trust these certificates (PEM) too
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
}

/// `vial pull`
#[derive(Debug, Clone, Args)]
pub struct PullArgs {
    /// For this os/architecture[/variant] [default: this machine's]
    #[arg(long)]
    pub platform: Option<String>,
    /// Print the image's name only
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// The image: [registry/]repository[:tag|@digest]
    #[arg(add = crate::completion::images())]
    pub image: String,
}

/// `vial push`
#[derive(Debug, Clone, Args)]
pub struct PushArgs {
    /// Print the image's name only
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// A name of an image here, and where it goes: [registry/]repository[:tag]
    #[arg(add = crate::completion::images())]
    pub image: String,
}

/// `vial tag`
#[derive(Debug, Clone, Args)]
pub struct TagArgs {
    /// Name or id of an image
    #[arg(add = crate::completion::images())]
    pub image: String,
    /// Its new name: [registry/]repository[:tag]
    pub name: String,
}

/// `vial login`
#[derive(Debug, Clone, Args)]
pub struct LoginArgs {
    /// User name [default: asked for]
    #[arg(short, long)]
    pub username: Option<String>,
    /// Password; others on this machine may see it: better use --password-stdin
    #[arg(short, long, conflicts_with = "password_stdin")]
    pub password: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "username")]
    pub password_stdin: bool,
    #[command(flatten)]
    pub access: RegistryArgs,
    /// The registry
    #[arg(default_value = "docker.io")]
    pub registry: String,
}

/// `vial logout`
#[derive(Debug, Clone, Args)]
pub struct LogoutArgs {
    /// The registry
    #[arg(default_value = "docker.io")]
    pub registry: String,
}

/// How `vial run --timing` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TimingForm {
    /// For people
    Table,
    /// One object on the last line, for programs
    Json,
}

/// When `vial run` asks the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PullPolicy {
    /// When the image is not here
    Missing,
    /// Every time
    Always,
    /// Never
    Never,
}

/// `vial load`
#[derive(Debug, Clone, Args)]
pub struct LoadArgs {
    /// No progress and no names of what was loaded
    #[arg(short, long)]
    pub quiet: bool,
    /// Archive, folder, or - for standard input
    #[arg(short, long, default_value = "-", value_name = "FILE")]
    pub input: PathBuf,
}

/// `vial save`
#[derive(Debug, Clone, Args)]
pub struct SaveArgs {
    /// Write to a file, which appears when it is whole [default: standard output]
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// Names or ids; one that is asked for by id has no name in the archive
    #[arg(required = true, value_name = "IMAGE", add = crate::completion::images())]
    pub images: Vec<String>,
}

/// `vial import`
#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    /// A Dockerfile instruction for the image's configuration, such as 'CMD ["sh"]' or 'ENV A=b'
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub change: Vec<String>,
    /// The tar (plain, gzip or zstd), or - for standard input
    pub tar: PathBuf,
    /// Name of the image
    pub name: String,
}

/// `vial kubeconfig`
#[derive(Debug, Clone, Args)]
pub struct KubeconfigArgs {
    /// Write to a file that only you can read; - or none: standard output
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub output: Option<PathBuf>,
}

/// `vial kubectl`
#[derive(Debug, Clone, Args)]
pub struct KubectlArgs {
    /// What kubectl is given
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<std::ffi::OsString>,
}

/// `vial images`
#[derive(Debug, Clone, Args)]
pub struct ImagesArgs {
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Ids only
    #[arg(short, long, conflicts_with = "json")]
    pub quiet: bool,
}

/// `vial rmi`
#[derive(Debug, Clone, Args)]
pub struct RmiArgs {
    /// Remove all names of an image at once
    #[arg(short, long)]
    pub force: bool,
    /// Names or ids
    #[arg(required = true, value_name = "IMAGE", add = crate::completion::images())]
    pub names: Vec<String>,
}

/// `vial daemon`
#[derive(Debug, Clone, Args)]
pub struct DaemonArgs {
    /// Started by a command line: leave its session, say "ready" on standard output
    #[arg(long, hide = true)]
    pub detached: bool,
    /// Without one: run it in the foreground
    #[command(subcommand)]
    pub action: Option<DaemonAction>,
}

/// What to do with the daemon that runs.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum DaemonAction {
    /// End it; pods go on, and the next daemon finds them again
    Stop,
    /// Say whether one runs, and where it keeps things
    Status,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn run(args: &[&str]) -> RunArgs {
        let cli = Cli::try_parse_from(["vial", "run"].iter().chain(args)).unwrap();
        match cli.command {
            Command::Run(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_shape_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_end_at_the_image() {
        let args = run(&[
            "--rm", "-i", "-e", "A=1", "--cpus", "1.5", "-m", "64m", "busybox", "sh", "-c", "--rm", "-e",
        ]);
        assert!(args.rm && args.interactive && !args.detach);
        assert_eq!((args.env, args.cpus, args.memory), (vec!["A=1".to_owned()], Some(1500), Some(64 << 20)));
        assert_eq!(args.image, "busybox");
        assert_eq!(args.command, ["sh", "-c", "--rm", "-e"]);
    }

    #[test]
    fn short_options_cluster() {
        let args = run(&["-it", "--detach-keys", "ctrl-x", "busybox", "sh", "-t"]);
        assert!(args.interactive && args.tty && args.command == ["sh", "-t"]);
        let args = run(&["--timing", "busybox", "echo", "--timing=json"]);
        assert_eq!((args.timing, args.image.as_str()), (Some(TimingForm::Table), "busybox"));
        assert_eq!(args.command, ["echo", "--timing=json"]);
        assert_eq!(run(&["--timing=json", "busybox"]).timing, Some(TimingForm::Json));
        let args = run(&["-id", "busybox"]);
        assert!(args.interactive && args.detach && args.command.is_empty());
    }

    #[test]
    fn mistakes_are_refused() {
        for bad in [
            &["run"][..],
            &["run", "--cpus", "x", "i"],
            &["exec", "c"],
            &["attach", "--detach-keys", "ctrl-1", "c"],
            &["rm"],
            &["nope"],
            &["ps", "-q", "--json"],
        ] {
            assert!(Cli::try_parse_from(["vial"].iter().chain(bad)).is_err(), "{bad:?}");
        }
    }
}
