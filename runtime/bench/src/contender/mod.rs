//! Who is measured: how each runtime is started as its user starts it, and what it leaves to be cleared away.

mod bare_vm;
mod engine;
mod oci;
mod vial;

use crate::child::{Start, Stop};
use crate::image::Image;
use crate::result::{ContenderKind, Scenario};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What the command writes whose first byte is waited for.
pub const MARKER: &str = "vial-bench\n";

/// Files of an installation that bare VMs are made of; what is not there is none.
#[derive(Debug, Clone, Default)]
pub struct Parts {
    /// A kernel.
    pub kernel: Option<PathBuf>,
    /// Vial's VMM.
    pub vmm: Option<PathBuf>,
    /// The initial RAM disk with the agent in it.
    pub agent: Option<PathBuf>,
}

/// What all of them stand on.
#[derive(Debug)]
pub struct Ground<'a> {
    /// The installed `vial`.
    pub vial: PathBuf,
    /// What bare VMs are made of.
    pub parts: Parts,
    /// A folder for each contender's files is made below this one.
    pub folder: PathBuf,
    /// The image of `exit` and `first-byte`, and of idle pods.
    pub image: Image,
    /// The image of `http`, with the port that it listens on.
    pub server: Option<(Image, u16)>,
    /// Tells when the whole bench is to end.
    pub stop: Stop<'a>,
}

/// What is known of one once it is ready.
#[derive(Debug, Default)]
pub struct Ready {
    /// What it says of its version.
    pub version: Option<String>,
    /// The digest of the configuration of the image as it has it.
    pub image: Option<String>,
    /// What is not equal with it.
    pub notes: Vec<String>,
}

/// Who somebody is.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// The name on the command line.
    pub name: &'static str,
    /// What is started, in a few words.
    pub title: &'static str,
    /// What isolates.
    pub kind: ContenderKind,
    /// The program to be looked for on the PATH; none is Vial itself.
    pub program: Option<&'static str>,
}

/// Somebody to be measured. Names of what it starts begin with `vial-bench-`, and nothing of it remains after [`Contender::finish`].
pub trait Contender: Send + Sync {
    /// Who it is.
    fn about(&self) -> About;

    /// Makes all that starts need; not measured. One start is tried afterwards.
    ///
    /// # Errors
    /// In words: why it can't be used here.
    fn prepare(&mut self, ground: &Ground<'_>) -> Result<Ready, String>;

    /// One start. `port` is free on the host.
    ///
    /// # Errors
    /// In words: why it takes no part in this scenario.
    fn start(&self, scenario: Scenario, id: &str, port: u16, at_once: u32) -> Result<Start, String>;

    /// The command line that starts an idle one and returns.
    ///
    /// # Errors
    /// In words: why there is none.
    fn idle(&self, id: &str) -> Result<Vec<OsString>, String>;

    /// Removes what a start may have left; called after those that failed, were cut short, or are idle.
    fn clear(&self, id: &str);

    /// Removes what [`Contender::prepare`] made outside of its folder.
    fn finish(&mut self) {}
}

/// All that are known, in the order of being shown.
pub fn all() -> Vec<Box<dyn Contender>> {
    let mut all: Vec<Box<dyn Contender>> = vec![Box::new(vial::Pod::default())];
    all.extend(oci::all());
    all.extend(engine::all());
    all.extend(bare_vm::all());
    all
}

/// Where a program is on the PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|path| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file())
}

/// A command line of words.
fn line<W: Into<OsString> + Clone>(program: &Path, words: &[W]) -> Vec<OsString> {
    let mut line = vec![program.as_os_str().to_owned()];
    line.extend(words.iter().cloned().map(Into::into));
    line
}

/// The first line that a program says of its version.
fn version(program: &Path, words: &[&str], stop: Stop<'_>) -> Option<String> {
    let told = crate::child::output_of(&line(program, words), stop).ok()?;
    let first = told.lines().find(|line| !line.trim().is_empty())?;
    Some(first.trim().chars().filter(|c| !c.is_control()).take(100).collect())
}

/// Why containers without a VM take no part.
const NO_AGENT: &str = "there is no VM, and no agent in it";

/// What runs for ever (eleven days), doing nothing.
const IDLE: [&str; 2] = ["sleep", "1000000"];
