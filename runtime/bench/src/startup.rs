//! `vial bench startup`: all contenders in turn, round by round, so that what the machine does besides meets all of them alike.

use crate::child::{Failed, Start, Stop, Until};
use crate::contender::{Contender, Ground};
use crate::counters::{Counters, between};
use crate::report::figures::BASE;
use crate::result::{Counts, Failure, Scenario, Startup};
use fastrand::Rng;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// After so many failures without a success a contender is left out of a series: each of them may have taken the whole timeout.
const PATIENCE: usize = 3;
/// Counted starts, for what is counted and not timed.
const COUNTED: u32 = 3;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Scenarios.
    pub scenarios: Vec<Scenario>,
    /// Counted runs of each.
    pub runs: u32,
    /// Runs before them.
    pub warmups: u32,
    /// How many at once.
    pub concurrency: Vec<u32>,
    /// Whether the page cache is dropped before each start.
    pub cold_cache: bool,
    /// When a start is given up.
    pub timeout: Duration,
    /// For the order within each round.
    pub seed: u64,
}

/// Somebody who watches.
pub trait Watch {
    /// Something begins that has so many steps.
    fn begin(&mut self, what: &str, steps: u64);
    /// One step is done; the newest figure in words.
    fn step(&mut self, newest: &str);
    /// Something that a person should know at once.
    fn remark(&mut self, words: &str);
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Samples.
    pub startups: Vec<Startup>,
    /// The exact command lines, by contender and scenario.
    pub commands: BTreeMap<(String, Scenario), Vec<String>>,
    /// Who takes no part in what, and why: contender and words.
    pub absent: Vec<(String, String)>,
    /// Why some things are not counted.
    pub uncounted: Vec<String>,
    /// Whether it ended before its end.
    pub interrupted: bool,
}

/// Starts that were made at once.
struct Turn {
    results: Vec<Result<f64, Failed>>,
    /// From the first start to the last end, ms.
    took_ms: f64,
}

/// One contender's way through a series.
struct Series {
    /// Which contender.
    contender: usize,
    startup: Startup,
    /// Starts that went well, those that do not count included.
    successes: usize,
    /// Those that failed.
    failures: usize,
    /// Why the first of those that do not count failed.
    warmup_failure: Option<String>,
}

struct Bench<'a> {
    contenders: &'a [&'a dyn Contender],
    ground: &'a Ground<'a>,
    options: &'a Options,
    watch: &'a mut dyn Watch,
    outcome: Outcome,
    number: u32,
}

/// Measures those that are ready.
pub fn measure(
    contenders: &[&dyn Contender],
    ground: &Ground<'_>,
    options: &Options,
    watch: &mut dyn Watch,
) -> Outcome {
    let mut bench = Bench { contenders, ground, options, watch, outcome: Outcome::default(), number: 0 };
    bench.outcome.interrupted = bench.all().is_none();
    bench.outcome
}

impl Bench<'_> {
    /// None when it was interrupted.
    fn all(&mut self) -> Option<()> {
        let options = self.options;
        let mut rng = Rng::with_seed(options.seed);
        for &scenario in &options.scenarios {
            for &at_once in &options.concurrency {
                self.series(scenario, at_once, &mut rng)?;
            }
        }
        self.count()
    }

    /// One scenario with so many at once.
    fn series(&mut self, scenario: Scenario, at_once: u32, rng: &mut Rng) -> Option<()> {
        let mut here: Vec<Series> = Vec::new();
        for (place, contender) in self.contenders.iter().enumerate() {
            let name = contender.about().name.to_owned();
            match contender.start(scenario, "ID", 0, at_once) {
                Ok(_) => here.push(Series {
                    contender: place,
                    startup: empty(name, scenario, at_once),
                    successes: 0,
                    failures: 0,
                    warmup_failure: None,
                }),
                Err(reason) => {
                    let words = format!("not measured {}: {reason}", scenario.title());
                    if !self.outcome.absent.contains(&(name.clone(), words.clone())) {
                        self.outcome.absent.push((name, words));
                    }
                }
            }
        }
        let rounds = self.options.warmups + self.options.runs;
        let many = if at_once > 1 { format!(", {at_once} at once") } else { String::new() };
        self.watch.begin(&format!("{}{many}", scenario.title()), u64::from(rounds) * here.len() as u64);
        let mut result = Some(());
        'rounds: for round in 0..rounds {
            let mut order: Vec<usize> = (0..here.len()).collect();
            rng.shuffle(&mut order);
            for place in order {
                let series = &mut here[place];
                if given_up(series) {
                    self.watch.step("");
                    continue;
                }
                let counted = round.checked_sub(self.options.warmups);
                let Some(words) = self.round(series, counted) else {
                    result = None;
                    break 'rounds;
                };
                self.watch.step(&words);
            }
        }
        for Series { mut startup, warmup_failure, .. } in here {
            if startup.samples_ms.is_empty() && startup.failures.is_empty() {
                startup.failures.extend(warmup_failure.map(|reason| Failure { run: 0, reason }));
            }
            if let Some(failure) = startup.failures.first() {
                let remark = format!(
                    "{}: {} starts failed; the first: {}",
                    startup.contender,
                    startup.failures.len(),
                    failure.reason
                );
                self.watch.remark(&remark);
            }
            self.outcome.startups.push(startup);
        }
        result
    }

    /// One contender's turn; the newest figure in words, or nothing when interrupted.
    fn round(&mut self, series: &mut Series, counted: Option<u32>) -> Option<String> {
        if self.options.cold_cache
            && let Err(error) = drop_caches()
        {
            self.watch.remark(&format!("the page cache can't be dropped: {error}"));
        }
        let startup = &mut series.startup;
        let Turn { results, took_ms } = self.starts(series.contender, startup.scenario, startup.concurrency);
        let mut newest = None;
        let mut whole = true;
        for (place, result) in (0..).zip(results) {
            match (result, counted) {
                (Err(Failed::Interrupted), _) => return None,
                (Ok(ms), _) => {
                    newest = Some(ms);
                    series.successes += 1;
                    startup.samples_ms.extend(counted.map(|_| ms));
                }
                (Err(error), counted) => {
                    whole = false;
                    series.failures += 1;
                    let reason = error.to_string();
                    match counted {
                        Some(round) => {
                            startup
                                .failures
                                .push(Failure { run: round * startup.concurrency + place, reason });
                        }
                        None => series.warmup_failure = series.warmup_failure.take().or(Some(reason)),
                    }
                }
            }
        }
        if counted.is_some() && whole && startup.concurrency > 1 {
            startup.rounds_ms.push(took_ms);
        }
        Some(match newest {
            Some(ms) => format!("{} {ms:.1} ms", startup.contender),
            None => format!("{} failed", startup.contender),
        })
    }

    /// So many starts at once, and what they leave cleared away.
    fn starts(&mut self, place: usize, scenario: Scenario, at_once: u32) -> Turn {
        let contender = self.contenders[place];
        let failed = |reason: String| Turn {
            results: vec![Err(Failed::System(std::io::Error::other(reason)))],
            took_ms: 0.0,
        };
        let mut starts = Vec::new();
        for _ in 0..at_once {
            self.number += 1;
            let id = format!("vial-bench-{}-{}", std::process::id(), self.number);
            let start = free_port()
                .map_err(|error| error.to_string())
                .and_then(|port| contender.start(scenario, &id, port, at_once));
            match start {
                Ok(start) => starts.push((id, start)),
                Err(reason) => return failed(reason),
            }
        }
        for (_, start) in &starts {
            if let Until::Http { port } = start.until
                && let Err(error) = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
            {
                // Somebody else's answer would be taken for this one's.
                return failed(format!("port {port} of this host can't be had: {error}"));
            }
        }
        if let Some((_, start)) = starts.first() {
            let words = || start.command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
            self.outcome.commands.entry((contender.about().name.to_owned(), scenario)).or_insert_with(words);
        }
        let (timeout, stop) = (self.options.timeout, self.ground.stop);
        let barrier = Barrier::new(starts.len());
        let one = |start: &Start| {
            barrier.wait();
            start.time(timeout, stop)
        };
        let began = Instant::now();
        let results: Vec<Result<f64, Failed>> = match &starts[..] {
            [(_, only)] => vec![one(only)],
            many => std::thread::scope(|scope| {
                let threads: Vec<_> = many.iter().map(|(_, start)| scope.spawn(|| one(start))).collect();
                let lost =
                    |_| Err(Failed::System(std::io::Error::other("the thread that measured panicked")));
                threads.into_iter().map(|thread| thread.join().unwrap_or_else(lost)).collect()
            }),
        };
        let took_ms = began.elapsed().as_secs_f64() * 1000.0;
        for ((id, _), result) in starts.iter().zip(&results) {
            if result.is_err() || scenario == Scenario::Http {
                contender.clear(id);
            }
        }
        Turn { results, took_ms }
    }

    /// Starts that are counted instead of timed.
    fn count(&mut self) -> Option<()> {
        let mut counters = Counters::open();
        self.outcome.uncounted = std::mem::take(&mut counters.missing);
        let wanted: Vec<usize> = (0..self.outcome.startups.len())
            .filter(|&place| {
                let startup = &self.outcome.startups[place];
                startup.concurrency == 1 && !startup.samples_ms.is_empty() && countable(startup)
            })
            .collect();
        self.watch.begin("counting instead of timing", wanted.len() as u64);
        for place in wanted {
            let (name, scenario) = {
                let startup = &self.outcome.startups[place];
                (startup.contender.clone(), startup.scenario)
            };
            let Some(contender) = self.contenders.iter().position(|one| one.about().name == name) else {
                continue;
            };
            for _ in 0..COUNTED {
                if self.options.cold_cache {
                    let _ = drop_caches();
                }
                let before = counters.read();
                let Turn { results, .. } = self.starts(contender, scenario, 1);
                let counts: Counts = between(&before, &counters.read());
                match results.first() {
                    Some(Ok(_)) => self.outcome.startups[place].counts.push(counts),
                    Some(Err(Failed::Interrupted)) => return None,
                    _ => {}
                }
            }
            self.watch.step(&name);
        }
        Some(())
    }
}

fn empty(contender: String, scenario: Scenario, concurrency: u32) -> Startup {
    let (samples_ms, rounds_ms, failures, counts) = (vec![], vec![], vec![], vec![]);
    Startup { contender, scenario, concurrency, samples_ms, rounds_ms, failures, counts }
}

/// Whether counts of its starts would be of what is timed.
fn countable(startup: &Startup) -> bool {
    match startup.scenario {
        Scenario::Exit | Scenario::FirstByte => true,
        // A pod goes on to its end, where the others are killed once the agent was heard.
        Scenario::Agent => startup.contender != BASE,
        // Asking for a server's answer is counted too, the more often the slower it is.
        Scenario::Http => false,
    }
}

/// Whether nothing has ever gone well, after enough tries.
fn given_up(series: &Series) -> bool {
    series.successes == 0 && series.failures >= PATIENCE
}

/// A port that nobody has just now.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Writes out what is dirty, then drops clean pages, names and inodes (`Documentation/admin-guide/sysctl/vm.rst`). Needs root.
pub fn drop_caches() -> std::io::Result<()> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3")
}

/// Waits a second and says which share of processor time was used meanwhile: by others, since this process sleeps.
pub fn look_around(stop: Stop<'_>) -> f64 {
    let read = || std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let before = read();
    stop.rest(Duration::from_secs(1));
    crate::machine::busy(&before, &read())
}
