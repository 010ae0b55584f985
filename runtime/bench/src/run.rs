//! One bench from what was asked for to a whole document, with nothing left behind.

use crate::child::{HELPING, Stop, output_of, quietly};
use crate::contender::{self, Contender, Ground, Parts};
use crate::image::Image;
use crate::result::{
    Caution, Contender as Told, ContenderKind, ContenderState, Document, FORMAT, Scenario, Settings, Weight,
};
use crate::startup::Watch;
use crate::{boot, caution, density, machine, startup};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What is asked for.
#[derive(Debug)]
pub struct Request {
    /// The installed `vial`.
    pub vial: PathBuf,
    /// Its version.
    pub version: String,
    /// What bare VMs are made of.
    pub parts: Parts,
    /// The image of commands.
    pub image: String,
    /// The image of a web server and its port.
    pub server: Option<(String, u16)>,
    /// Whom to measure beside Vial; none: everybody.
    pub against: Option<Vec<String>>,
    /// The command line, for the document.
    pub command: Vec<String>,
    /// Where folders for temporary files are made.
    pub temporary: PathBuf,
    /// For resampling and the order of starts.
    pub seed: u64,
    /// `vial bench startup`
    pub startup: Option<startup::Options>,
    /// `vial bench boot`
    pub boot: Option<boot::BootOptions>,
    /// `vial bench density`
    pub density: Option<density::Options>,
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody is called so.
    #[error("there is no contender {0:?}; there are: {1}")]
    Unknown(String, String),
    /// Vial itself can't be measured.
    #[error("vial can't be measured here: {0}")]
    Vial(String),
    /// The image can't be had.
    #[error("{0}")]
    Image(String),
    /// No room, no right.
    #[error("can't make a folder for temporary files in {0}: {1}; set TMPDIR to one that can be written")]
    Folder(PathBuf, std::io::Error),
    /// Ended before anything was measured.
    #[error("interrupted before anything was measured")]
    Interrupted,
}

/// A daemon that this bench started is stopped after it.
struct Daemon<'a> {
    request: &'a Request,
    was_there: bool,
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if !self.was_there {
            quietly(&self.request.vial(&["daemon", "stop"]));
        }
    }
}

impl Request {
    fn vial(&self, words: &[&str]) -> Vec<OsString> {
        let mut line = vec![self.vial.clone().into_os_string()];
        line.extend(words.iter().map(OsString::from));
        line
    }
}

/// Measures.
///
/// # Errors
/// When nothing could be measured; a bench that was cut short gives what it has.
pub fn run(request: &Request, watch: &mut dyn Watch, stop: Stop<'_>) -> Result<Document, Error> {
    let (began, began_at) = (SystemTime::now(), Instant::now());
    let wanted = wanted(request)?;
    let folder = tempfile::Builder::new()
        .prefix("vial-bench-")
        .tempdir_in(&request.temporary)
        .map_err(|error| Error::Folder(request.temporary.clone(), error))?;
    let machine = machine::describe(startup::look_around(stop));
    let was_there = output_of(&request.vial(&["daemon", "status"]), stop).is_ok();
    if stop.is_set() {
        // Then nothing is known of it, and it may be the user's.
        return Err(Error::Interrupted);
    }
    let _daemon = Daemon { request, was_there };

    let take = |name: &str, place: &str| {
        let folder = folder.path().join(place);
        let made = std::fs::create_dir_all(&folder).map_err(|error| error.to_string());
        made.and_then(|()| Image::take(&request.vial, name, &folder, stop))
            .map_err(|error| if stop.is_set() { Error::Interrupted } else { Error::Image(error) })
    };
    watch.begin("preparing", wanted.len() as u64);
    let image = take(&request.image, "image")?;
    let server = match &request.server {
        Some((name, port)) => Some((take(name, "server")?, *port)),
        None => None,
    };
    let ground = Ground {
        vial: request.vial.clone(),
        parts: request.parts.clone(),
        folder: folder.path().to_owned(),
        image,
        server,
        stop,
    };
    let (mut told, mut ready) = (Vec::new(), Vec::new());
    for contender in wanted {
        watch.step(contender.about().name);
        let (state, contender) = prepare(contender, &ground, watch);
        if stop.is_set() {
            return Err(Error::Interrupted);
        }
        if let (ContenderKind::Vial, ContenderState::Unusable { reason }) = (state.kind, &state.state) {
            return Err(Error::Vial(reason.clone()));
        }
        told.push(state);
        ready.extend(contender);
    }

    let mut document = Document {
        format: FORMAT,
        benches: vec![],
        vial: request.version.clone(),
        began_ms: began.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64),
        took_s: 0.0,
        command: request.command.clone(),
        seed: request.seed,
        interrupted: false,
        machine,
        settings: settings(request),
        contenders: told,
        startup: vec![],
        boot: vec![],
        density: vec![],
        cautions: vec![],
    };
    if let Some(options) = &request.startup {
        document.benches.push("startup".into());
        let all: Vec<&dyn Contender> = ready.iter().map(|one: &Prepared| one.0.as_ref()).collect();
        let outcome = startup::measure(&all, &ground, options, watch);
        note(&mut document, outcome);
    }
    if let Some(options) = &request.boot
        && !stop.is_set()
    {
        document.benches.push("boot".into());
        let result = waterfalls(request, options, &mut document, watch, stop);
        if let Err(error) = result {
            if document.benches == ["boot"] {
                return Err(Error::Vial(error.to_string()));
            }
            watch.remark(&error.to_string());
            document
                .cautions
                .push(Caution { weight: Weight::Warning, text: format!("No waterfall: {error}.") });
        }
    }
    if let Some(options) = &request.density {
        document.benches.push("density".into());
        for Prepared(contender) in &ready {
            let pods = matches!(contender.about().kind, ContenderKind::Vial | ContenderKind::Container);
            if !pods || stop.is_set() {
                continue;
            }
            match density::measure(contender.as_ref(), &ground, options, watch) {
                Ok(density) => document.density.push(density),
                Err(reason) => {
                    watch.remark(&format!("{}: no idle pods: {reason}", contender.about().name));
                    if let Some(told) =
                        document.contenders.iter_mut().find(|one| one.name == contender.about().name)
                    {
                        told.notes.push(format!("no idle pods: {reason}"));
                    }
                }
            }
        }
    }
    drop(ready);
    document.interrupted |= stop.is_set();
    document.took_s = began_at.elapsed().as_secs_f64();
    document.cautions.extend(caution::judge(&document));
    document.cautions.sort_by_key(|caution| std::cmp::Reverse(caution.weight));
    Ok(document)
}

/// Where the time of a start goes.
fn waterfalls(
    request: &Request,
    options: &boot::BootOptions,
    document: &mut Document,
    watch: &mut dyn Watch,
    stop: Stop<'_>,
) -> Result<(), boot::BootError> {
    let starts = options.warmups.saturating_add(options.runs);
    watch.begin("one start, step by step", starts.into());
    let mut done = |number: u32, _: u32| {
        if number > 0 {
            watch.step("");
        }
    };
    let boots = boot::measure(&request.vial, &request.image, options, &mut done, stop)?;
    document.cautions.extend(boots.caution());
    document.boot = boots.waterfalls;
    let line = [request.vial.to_string_lossy().into_owned()];
    let words = boot::arguments(&request.image).map(str::to_owned);
    if let Some(vial) = document.contenders.iter_mut().find(|one| one.kind == ContenderKind::Vial) {
        vial.commands.insert("boot".into(), line.into_iter().chain(words).collect());
    }
    Ok(())
}

/// Those who were asked for, Vial first.
fn wanted(request: &Request) -> Result<Vec<Box<dyn Contender>>, Error> {
    let all = contender::all();
    let Some(names) = &request.against else { return Ok(all) };
    if let Some(unknown) = names.iter().find(|name| all.iter().all(|one| one.about().name != name.as_str())) {
        let known: Vec<&str> = all.iter().map(|one| one.about().name).collect();
        return Err(Error::Unknown(unknown.clone(), known.join(", ")));
    }
    let asked = |one: &dyn Contender| {
        one.about().kind == ContenderKind::Vial || names.iter().any(|name| name == one.about().name)
    };
    Ok(all.into_iter().filter(|one| asked(one.as_ref())).collect())
}

/// Looks for a contender and makes it ready; without it when it is missing or can't be used.
fn prepare(
    contender: Box<dyn Contender>,
    ground: &Ground<'_>,
    watch: &mut dyn Watch,
) -> (Told, Option<Prepared>) {
    let about = contender.about();
    let mut told = Told {
        name: about.name.into(),
        title: about.title.into(),
        kind: about.kind,
        program: about.program.map(str::to_owned),
        version: None,
        state: ContenderState::Measured,
        notes: vec![],
        image: None,
        commands: Default::default(),
    };
    if let Some(program) = about.program
        && contender::find(program).is_none()
    {
        told.state = ContenderState::Missing { looked_for: program.into() };
        return (told, None);
    }
    let mut contender = Prepared(contender);
    let ready = contender.0.prepare(ground).and_then(|ready| {
        // One whole start: what can't be done at all is said once and not for each run.
        try_once(contender.0.as_ref(), ground).map(|()| ready)
    });
    match ready {
        Ok(ready) => {
            (told.version, told.image, told.notes) = (ready.version, ready.image, ready.notes);
            (told, Some(contender))
        }
        Err(reason) => {
            if !ground.stop.is_set() {
                watch.remark(&format!("{} can't be used here: {reason}", about.name));
            }
            told.state = ContenderState::Unusable { reason };
            (told, None)
        }
    }
}

/// Makes a start that counts for nothing.
fn try_once(contender: &dyn Contender, ground: &Ground<'_>) -> Result<(), String> {
    let id = format!("vial-bench-{}-try", std::process::id());
    let tried = contender.start(Scenario::Exit, &id, 0, 1)?.time(HELPING, ground.stop);
    if tried.is_err() {
        contender.clear(&id);
    }
    tried.map(drop).map_err(|error| format!("its first start {error}"))
}

/// A contender that may have made things outside of its folder: they go with it, however the bench ends.
struct Prepared(Box<dyn Contender>);

impl Drop for Prepared {
    fn drop(&mut self) {
        self.0.finish();
    }
}

fn settings(request: &Request) -> Settings {
    let (startup, boot) = (request.startup.as_ref(), request.boot.as_ref());
    Settings {
        runs: startup.map(|options| options.runs).or(boot.map(|options| options.runs)).unwrap_or(0),
        warmups: startup.map(|options| options.warmups).or(boot.map(|options| options.warmups)).unwrap_or(0),
        concurrency: startup.map_or_else(Vec::new, |options| options.concurrency.clone()),
        cold_cache: startup.is_some_and(|options| options.cold_cache),
        image: request.image.clone(),
        server_image: request.server.as_ref().map(|(name, _)| name.clone()),
        timeout_s: startup
            .map(|options| options.timeout)
            .or(boot.map(|options| options.timeout))
            .map_or(0, |timeout| timeout.as_secs()),
    }
}

/// Puts what came of the starts into the document.
fn note(document: &mut Document, outcome: startup::Outcome) {
    document.startup = outcome.startups;
    document.interrupted |= outcome.interrupted;
    for told in &mut document.contenders {
        for scenario in Scenario::ALL {
            if let Some(line) = outcome.commands.get(&(told.name.clone(), scenario)) {
                told.commands.insert(scenario.name().into(), line.clone());
            }
        }
        told.notes.extend(
            outcome.absent.iter().filter(|(name, _)| *name == told.name).map(|(_, words)| words.clone()),
        );
    }
    if !outcome.uncounted.is_empty() {
        document.cautions.push(Caution {
            weight: Weight::Note,
            text: format!("Not counted here: {}.", outcome.uncounted.join("; ")),
        });
    }
}
