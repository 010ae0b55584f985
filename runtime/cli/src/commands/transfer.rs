//! A pull or push as its user sees it: a bar for each layer on a terminal, a line for each that ends elsewhere.

use crate::client::{Client, body};
use crate::error::{Error, Result};
use crate::units;
use http_body_util::BodyExt;
use hyper::Method;
use hyper::header::CONTENT_TYPE;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use vial_api::{LayerState, TransferEvent};

/// What a transfer came to.
#[derive(Debug)]
pub struct Finished {
    /// The image's name in full.
    pub name: String,
    /// Digest of its manifest in the registry.
    pub digest: String,
    /// Whether anything changed.
    pub changed: bool,
}

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From a registry.
    Pull,
    /// To a registry.
    Push,
}

/// How much is said on standard error meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Talk {
    /// Nothing.
    Quiet,
    /// Bars on a terminal, lines elsewhere.
    Usual,
}

/// Asks the daemon for a transfer and shows how it goes.
///
/// # Errors
/// When it fails.
pub async fn follow(
    client: &Client,
    path: &str,
    request: &impl Serialize,
    way: Way,
    talk: Talk,
) -> Result<Finished> {
    let json = [(CONTENT_TYPE, "application/json")];
    let answer = client.send(Method::POST, path, body(serde_json::to_vec(request)?), &json).await?;
    let mut answer = answer.into_body();
    let mut view = View::new(way, talk);
    let mut buffer: Vec<u8> = Vec::new();
    // An answer that breaks off is one that ends too early.
    while let Some(Ok(part)) = answer.frame().await {
        if let Some(data) = part.data_ref() {
            buffer.extend_from_slice(data);
        }
        while let Some(end) = buffer.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            match serde_json::from_slice(&line)? {
                TransferEvent::Begun { name, .. } => view.begin(&name),
                TransferEvent::Layer { id, state, done, total } => view.layer(&id, state, done, total),
                TransferEvent::Finished { name, digest, changed, .. } => {
                    view.end();
                    return Ok(Finished { name, digest, changed });
                }
                TransferEvent::Failed(error) => {
                    view.end();
                    return Err(Error::Api(error));
                }
            }
        }
    }
    view.end();
    Err(Error::Connection("the daemon ended meanwhile; nothing half-done stays, try again".into()))
}

struct View {
    way: Way,
    talk: Talk,
    bars: Option<MultiProgress>,
    layers: HashMap<String, (ProgressBar, LayerState)>,
}

impl View {
    fn new(way: Way, talk: Talk) -> Self {
        let terminal = talk == Talk::Usual && std::io::stderr().is_terminal();
        let bars = terminal.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        Self { way, talk, bars, layers: HashMap::new() }
    }

    fn line(&self, text: &str) {
        let text = crate::output::plain(text);
        if self.talk == Talk::Usual {
            match &self.bars {
                // Above the bars; without room to draw there is nothing to say either.
                Some(bars) => drop(bars.println(text)),
                // Nobody listens any more: then nobody misses it.
                None => drop(writeln!(std::io::stderr(), "{text}")),
            }
        }
    }

    fn begin(&self, name: &str) {
        let way = match self.way {
            Way::Pull => "Pulling",
            Way::Push => "Pushing",
        };
        self.line(&format!("{way} {name}"));
    }

    fn layer(&mut self, id: &str, state: LayerState, done: u64, total: u64) {
        let id = units::cell(id, 12);
        let known = self.layers.get(&id).map(|(_, state)| *state);
        let words = words(self.way, state);
        match &self.bars {
            Some(bars) => {
                let (bar, last) = self.layers.entry(id.clone()).or_insert_with(|| {
                    let bar = bars.add(ProgressBar::new(total));
                    bar.set_prefix(id);
                    (bar, LayerState::Unknown)
                });
                if *last != state {
                    bar.set_style(style(state));
                    *last = state;
                }
                bar.set_length(total);
                bar.set_message(words);
                bar.set_position(done);
            }
            None => {
                // A file or a pipe gets the beginning and the end of each layer, not what moves in between.
                let telling = matches!(state, LayerState::Done | LayerState::Exists | LayerState::Again);
                if telling && known != Some(state) {
                    self.line(&format!("{id}: {words}"));
                }
                self.layers.insert(id, (ProgressBar::hidden(), state));
            }
        }
    }

    fn end(&self) {
        for (bar, _) in self.layers.values() {
            bar.abandon();
        }
    }
}

fn words(way: Way, state: LayerState) -> &'static str {
    match (state, way) {
        (LayerState::Waiting, _) => "Waiting",
        (LayerState::Moving, Way::Pull) => "Downloading",
        (LayerState::Moving, Way::Push) => "Uploading",
        (LayerState::Again, _) => "Connection lost, trying again",
        (LayerState::Preparing, Way::Pull) => "Writing",
        (LayerState::Preparing, Way::Push) => "Compressing",
        (LayerState::Done, Way::Pull) => "Pull complete",
        (LayerState::Done, Way::Push) => "Pushed",
        (LayerState::Exists, _) => "Already exists",
        (LayerState::Unknown, _) => "Working",
    }
}

fn style(state: LayerState) -> ProgressStyle {
    let template = match state {
        LayerState::Moving => "{prefix}: {msg:13} [{bar:40}] {binary_bytes}/{binary_total_bytes}",
        _ => "{prefix}: {msg}",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("=> ")
}
