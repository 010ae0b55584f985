//! A measurement as a document: raw samples, and all that is needed to judge them and to make them again.
//!
//! Times are milliseconds (with fractions) of CLOCK_MONOTONIC, sizes KiB, unless a name says otherwise. Reading is strict in the version
//! and tolerant of fields that a newer `vial` of the same version may add.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version of this form.
pub const FORMAT: u32 = 1;

/// One run of `vial bench`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// [`FORMAT`].
    pub format: u32,
    /// What was measured: `startup`, `boot` or `density`; several of `vial bench all`.
    pub benches: Vec<String>,
    /// Vial's version.
    pub vial: String,
    /// Milliseconds since the epoch when it began.
    pub began_ms: u64,
    /// Seconds that it took.
    pub took_s: f64,
    /// The command line that made it.
    pub command: Vec<String>,
    /// Where the random numbers of resampling and of the order of starts began.
    pub seed: u64,
    /// Ended early (Ctrl-C, a signal): what is here is true, but less than was asked for.
    pub interrupted: bool,
    /// The machine.
    pub machine: Machine,
    /// What was asked for.
    pub settings: Settings,
    /// Who was to be measured, in the order of being shown; those who are missing here too.
    pub contenders: Vec<Contender>,
    /// `vial bench startup`.
    #[serde(default)]
    pub startup: Vec<Startup>,
    /// `vial bench boot`.
    #[serde(default)]
    pub boot: Vec<Waterfall>,
    /// `vial bench density`.
    #[serde(default)]
    pub density: Vec<Density>,
    /// What a reader must know before believing a figure.
    #[serde(default)]
    pub cautions: Vec<Caution>,
}

/// How a measurement was set up.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Counted runs of each contender.
    pub runs: u32,
    /// Runs before them, not counted.
    pub warmups: u32,
    /// How many are started at once.
    pub concurrency: Vec<u32>,
    /// Whether the page cache was dropped before each start.
    pub cold_cache: bool,
    /// The image of `exit` and `first_byte`.
    pub image: String,
    /// The image of `http`, if that was asked for.
    #[serde(default)]
    pub server_image: Option<String>,
    /// Seconds after which a start is given up and counts as failed.
    pub timeout_s: u64,
}

/// The machine and its state before the first start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Bare metal or not.
    pub kind: MachineKind,
    /// The processor's name.
    pub cpu: String,
    /// Processors that may be used.
    pub cpus: u32,
    /// KiB.
    pub memory_kib: u64,
    /// Free for use (MemAvailable), KiB.
    pub available_kib: u64,
    /// `uname -r`.
    pub kernel: String,
    /// The distribution's name for itself.
    pub os: String,
    /// `kvm_intel` or `kvm_amd`, when loaded or built in.
    pub kvm_module: Option<String>,
    /// What Linux does against each processor fault (`/sys/devices/system/cpu/vulnerabilities`).
    pub mitigations: BTreeMap<String, String>,
    /// Frequency governors of the processors, each once.
    pub governors: Vec<String>,
    /// `always`, `madvise` or `never`: transparent huge pages.
    pub huge_pages: Option<String>,
    /// Load average over a minute.
    pub load: f64,
    /// Share of processor time that others used in the second before the first start, 0 to 1.
    pub busy: f64,
}

/// On what the measured programs ran.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineKind {
    /// The machine itself.
    #[default]
    BareMetal,
    /// A virtual machine: VMs in it are nested.
    Nested,
    /// A processor in software (QEMU's TCG): times and ratios are the emulation's.
    Emulated,
}

/// Somebody to be measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contender {
    /// How it is called on the command line: `vial`, `runc`, `qemu-microvm`, …
    pub name: String,
    /// For people: what it starts, in a few words.
    pub title: String,
    /// Containers share the host's kernel; the others bring one.
    pub kind: ContenderKind,
    /// The program that was run, and what it says of its version.
    pub program: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// Whether it could be measured.
    pub state: ContenderState,
    /// What is not equal with it: its network, its lack of a layer to write to, ….
    #[serde(default)]
    pub notes: Vec<String>,
    /// The digest of the image's configuration as it has it; where these differ images are not equal.
    #[serde(default)]
    pub image: Option<String>,
    /// The exact command lines, by scenario.
    #[serde(default)]
    pub commands: BTreeMap<String, Vec<String>>,
}

/// What isolates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContenderKind {
    /// Vial's pods.
    Vial,
    /// Namespaces of the host's kernel, or a kernel in user space.
    Container,
    /// A virtual machine without containers in it.
    Vm,
}

/// Whether a contender could be measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum ContenderState {
    /// It was.
    Measured,
    /// Its program is not on the PATH.
    Missing {
        /// What was looked for.
        looked_for: String,
    },
    /// It is there and can't be used here.
    Unusable {
        /// Why.
        reason: String,
    },
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scenario {
    /// From the start of the program to its end, when all that runs inside is `true`.
    Exit,
    /// From the start of the program to the first byte that the command inside writes.
    FirstByte,
    /// From the start of the program to the whole introduction of the agent in its VM.
    Agent,
    /// From the start of the program to the first answer of a web server inside.
    Http,
}

/// All starts of one contender in one scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Startup {
    /// Its name.
    pub contender: String,
    /// What was waited for.
    pub scenario: Scenario,
    /// How many were started at once.
    pub concurrency: u32,
    /// Each start's time in ms, in the order of being made. With a concurrency of n, n of each round follow each other.
    pub samples_ms: Vec<f64>,
    /// With a concurrency above 1: each round's time from its first start to its last end, in ms.
    #[serde(default)]
    pub rounds_ms: Vec<f64>,
    /// Starts that failed; they are in no other figure.
    #[serde(default)]
    pub failures: Vec<Failure>,
    /// What a start costs besides time; of starts of their own, since counting slows.
    #[serde(default)]
    pub counts: Vec<Counts>,
}

/// A start that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which of all starts it was, from 0; divided by the concurrency, which round. One that was not to count has a number too.
    pub run: u32,
    /// Why: its status, what it wrote, or that it took too long.
    pub reason: String,
}

/// What the whole machine did during one start. What can't be counted here is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Processes and threads that began.
    pub tasks: Option<u64>,
    /// Programs executed.
    pub execs: Option<u64>,
    /// System calls.
    pub syscalls: Option<u64>,
    /// Exits of virtual processors to the host's kernel.
    pub vm_exits: Option<u64>,
    /// Page faults of processes.
    pub page_faults: Option<u64>,
    /// KiB read from disks.
    pub read_kib: Option<u64>,
}

/// One start, from step to step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Waterfall {
    /// The whole command, ms.
    pub total_ms: f64,
    /// When the daemon had the request, ms after the start of the command line.
    pub request_ms: f64,
    /// Steps in the order of time.
    pub steps: Vec<Step>,
}

/// A step was reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// Whose step it was.
    pub room: Room,
    /// When it was reached, ms after the start of the command line.
    pub at_ms: f64,
}

/// Who works during a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Room {
    /// The command line.
    Cli,
    /// The daemon, network and disks included.
    Daemon,
    /// Launcher and jail, up to the VMM's first own instruction.
    Launcher,
    /// The VMM, before the guest runs.
    Vmm,
    /// The guest's kernel.
    Kernel,
    /// The agent.
    Agent,
    /// The container.
    Container,
    /// Ending and cleaning up.
    End,
}

/// Idle pods of one contender, more and more of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Density {
    /// Its name.
    pub contender: String,
    /// After each step.
    pub points: Vec<DensityPoint>,
    /// Share of one processor that each pod uses at rest, in percent, and how long that was looked at.
    pub cpu_percent_per_pod: Option<f64>,
    /// Seconds at rest.
    pub rest_s: f64,
    /// Why no more were started.
    pub ended: String,
}

/// So many pods, and what they take together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DensityPoint {
    /// How many run.
    pub pods: u32,
    /// Proportional share of memory of all processes that they added, guests included.
    pub pss_kib: u64,
    /// Memory that nobody else has mapped.
    pub private_kib: u64,
    /// Memory that others have mapped too, the whole of it for each.
    pub shared_kib: u64,
    /// Of the shared: file pages, which the page cache holds once.
    pub shared_file_kib: u64,
    /// How much less memory the machine has available than before the first.
    pub available_fallen_kib: i64,
    /// How much larger the page cache is than before the first.
    pub cached_grown_kib: i64,
    /// Processes that they added.
    pub processes: u32,
}

/// What a reader must know before believing a figure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caution {
    /// How much it weighs.
    pub weight: Weight,
    /// In a sentence.
    pub text: String,
}

/// How much a caution weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// Good to know.
    Note,
    /// Figures may be off.
    Warning,
    /// Figures must not be used as they stand.
    Grave,
}

impl Document {
    /// The samples of a contender in a scenario.
    pub fn startup(&self, contender: &str, scenario: Scenario, concurrency: u32) -> Option<&Startup> {
        self.startup
            .iter()
            .find(|s| s.contender == contender && s.scenario == scenario && s.concurrency == concurrency)
    }

    /// A contender by name.
    pub fn contender(&self, name: &str) -> Option<&Contender> {
        self.contenders.iter().find(|c| c.name == name)
    }
}

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Exit, Self::FirstByte, Self::Agent, Self::Http];

    /// As in the document and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::FirstByte => "first-byte",
            Self::Agent => "agent",
            Self::Http => "http",
        }
    }

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Exit => "to the exit of `true`",
            Self::FirstByte => "to the first byte of output",
            Self::Agent => "to the agent's introduction",
            Self::Http => "to the first HTTP answer",
        }
    }
}
