//! `vial bench`: the command line around `vial-bench`, which measures. docs/bench.md is the page for people.

pub mod args;
mod files;
mod progress;

use crate::error::{Error, Result};
use crate::output::{say, tell};
use crate::signals::Signals;
use args::{BenchArgs, BenchCommand, CommonArgs, IdleArgs, TimesArgs};
use files::Files;
use progress::Progress;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vial_bench::child::Stop;
use vial_bench::result::{Document, Scenario};
use vial_bench::run::Request;
use vial_bench::{boot, density, report, startup};
use vial_vm::Parts;

/// Signals within this time after the first are the same wish to end.
const ONE_WISH: Duration = Duration::from_secs(1);

/// Exit status of a bench that was ended by a signal: what a shell says of Ctrl-C.
const INTERRUPTED: i32 = 130;

/// Runs `vial bench …`; gives the exit status.
pub fn run(args: BenchArgs) -> i32 {
    act(args.command).unwrap_or_else(|error| {
        tell(&error.to_string());
        1
    })
}

fn act(command: BenchCommand) -> Result<i32> {
    match command {
        BenchCommand::Startup(args) => measure(args.common, Some(args.times), None, None),
        BenchCommand::Boot(args) => {
            let boot = boot_options(args.runs, args.warmups, args.timeout);
            let nobody = Some(vec![]);
            let common =
                CommonArgs { image: args.image, against: nobody, kernel: None, seed: 1, out: args.out };
            measure(common, None, Some(boot), None)
        }
        BenchCommand::Density(args) => measure(args.common, None, None, Some(args.idle)),
        BenchCommand::All(args) => {
            let boot = boot_options(args.times.runs, args.times.warmups, args.times.timeout);
            measure(args.common, Some(args.times), Some(boot), Some(args.idle))
        }
        BenchCommand::Compare { before, after } => {
            let [before, after] = [read(&before)?, read(&after)?];
            say(&vial_bench::compare::text(&vial_bench::compare::compare(&before, &after)))?;
            Ok(0)
        }
        BenchCommand::Report { file, out } => {
            let document = read(&file)?;
            let files = Files::open(&out)?;
            let written = files.write(&document);
            say(&report::text(&document))?;
            written?;
            Ok(0)
        }
    }
}

fn read(path: &Path) -> Result<Document> {
    let what = || format!("read {}", path.display());
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(Error::io(what()))?;
    file.take(vial_bench::read::MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(Error::io(what()))?;
    Document::read(&bytes).map_err(|error| Error::Message(format!("can't {}: {error}", what())))
}

fn measure(
    common: CommonArgs,
    times: Option<TimesArgs>,
    boot: Option<boot::BootOptions>,
    idle: Option<IdleArgs>,
) -> Result<i32> {
    let vial = std::env::current_exe().map_err(Error::io("find this program's own file"))?;
    // Before an hour is spent measuring.
    let files = Files::open(&common.out)?;
    let server = times.as_ref().and_then(|times| Some((times.server_image.clone()?, times.server_port)));
    let request = Request {
        vial,
        version: env!("CARGO_PKG_VERSION").into(),
        parts: parts(common.kernel),
        image: common.image,
        against: common.against,
        command: std::env::args().collect(),
        temporary: std::env::var_os("TMPDIR")
            .filter(|dir| !dir.is_empty())
            .map_or("/var/tmp".into(), Into::into),
        seed: common.seed,
        startup: times.map(|times| startup_options(times, common.seed, server.is_some())).transpose()?,
        server,
        boot,
        density: idle.map(|idle| density::Options {
            most: idle.most,
            leave: f64::from(idle.leave) / 100.0,
            rest: Duration::from_secs(idle.rest),
        }),
    };
    let result = with_stop(|stop| vial_bench::run::run(&request, &mut Progress::new(), stop))?;
    let document = match result {
        Err(vial_bench::run::Error::Interrupted) => {
            tell(&vial_bench::run::Error::Interrupted.to_string());
            return Ok(INTERRUPTED);
        }
        result => result.map_err(|error| Error::Message(error.to_string()))?,
    };
    // Files first: whoever reads standard output may have gone, and an hour's measurement is not lost for that.
    let written = files.write(&document);
    say(&report::text(&document))?;
    written?;
    Ok(if document.interrupted { INTERRUPTED } else { 0 })
}

/// What is installed here, with another kernel if one was given.
fn parts(kernel: Option<PathBuf>) -> vial_bench::contender::Parts {
    let there = |path: PathBuf| path.exists().then_some(path);
    let installed = Parts::find().ok().map(|Parts { vmm, kernel, initrd }| [vmm, kernel, initrd].map(there));
    let [vmm, ours, agent] = installed.unwrap_or_default();
    vial_bench::contender::Parts { kernel: kernel.or(ours), vmm, agent }
}

fn boot_options(runs: u32, warmups: u32, timeout: u64) -> boot::BootOptions {
    boot::BootOptions { warmups, runs, timeout: Duration::from_secs(timeout) }
}

fn startup_options(times: TimesArgs, seed: u64, server: bool) -> Result<startup::Options> {
    let scenarios = times.until.unwrap_or_else(|| {
        let http = server.then_some(Scenario::Http);
        [Scenario::Exit, Scenario::FirstByte].into_iter().chain(http).collect()
    });
    if scenarios.contains(&Scenario::Http) && !server {
        return Err(Error::Message(
            "http needs the image of a web server; say --server-image IMAGE, and --server-port if that is not 80".into(),
        ));
    }
    let most = times.concurrency.iter().max().copied().unwrap_or(1);
    if u64::from(times.runs) * u64::from(most) > vial_bench::read::MAX_ENTRIES as u64 {
        return Err(Error::Message(format!(
            "{} runs of {most} at once are more starts than a report holds, which are {}",
            times.runs,
            vial_bench::read::MAX_ENTRIES
        )));
    }
    if times.cold_cache && !rustix::process::geteuid().is_root() {
        return Err(Error::Message("only root may drop the page cache (--cold-cache); try sudo".into()));
    }
    Ok(startup::Options {
        scenarios,
        runs: times.runs,
        warmups: times.warmups,
        concurrency: times.concurrency,
        cold_cache: times.cold_cache,
        timeout: Duration::from_secs(times.timeout),
        seed,
    })
}

/// Runs something that ends early on a signal. A second one ends this process at once, with whatever is left then.
fn with_stop<T>(what: impl FnOnce(Stop<'_>) -> T) -> Result<T> {
    let (stop, signal) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|error| Error::io("make a pipe")(error.into()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(Error::io("set up this program"))?;
    let mut signals = {
        let _entered = runtime.enter();
        Signals::watch()?
    };
    runtime.spawn(async move {
        signals.next().await;
        tell("ending; what was started is removed first (again to leave at once)");
        // The write end stays open for as long as this task lives, which is as long as this process.
        let _ = rustix::io::write(&signal, b"x");
        let first = Instant::now();
        loop {
            let number = signals.next().await;
            // `timeout` and terminals signal a program and its group in one breath: that is one wish.
            if first.elapsed() > ONE_WISH {
                std::process::exit(128 + number);
            }
        }
    });
    let result = what(Stop(stop.as_fd()));
    runtime.shutdown_background();
    Ok(result)
}
