//! Vial's own pods: a container in a microVM, by the command line that people use.

use super::{About, Contender, Ground, IDLE, MARKER, Ready, line, version};
use crate::boot;
use crate::child::{Start, Told, Until, quietly};
use crate::result::{ContenderKind, Scenario};
use std::ffi::OsString;
use std::path::PathBuf;

/// `vial run`
#[derive(Debug, Default)]
pub struct Pod {
    vial: PathBuf,
    image: String,
    server: Option<(String, u16)>,
}

impl Contender for Pod {
    fn about(&self) -> About {
        About {
            name: "vial",
            title: "pod in a microVM of its own, cold",
            kind: ContenderKind::Vial,
            program: None,
        }
    }

    fn prepare(&mut self, ground: &Ground<'_>) -> Result<Ready, String> {
        self.vial = ground.vial.clone();
        self.image = ground.image.name.clone();
        self.server = ground.server.as_ref().map(|(image, port)| (image.name.clone(), *port));
        Ok(Ready {
            version: version(&self.vial, &["--version"], ground.stop),
            image: Some(ground.image.id.clone()),
            notes: vec!["network of its own with address and resolver, a layer to write to, limits".into()],
        })
    }

    fn start(&self, scenario: Scenario, id: &str, port: u16, _: u32) -> Result<Start, String> {
        let mut words: Vec<String> = ["run", "--rm", "--name", id].map(String::from).to_vec();
        let until = match scenario {
            Scenario::Exit => {
                words.extend([self.image.clone(), "true".into()]);
                Until::Exit { output: vec![] }
            }
            Scenario::FirstByte => {
                words.extend([self.image.clone(), "echo".into(), MARKER.trim().into()]);
                Until::Output { marker: MARKER.into(), console: false }
            }
            Scenario::Agent => {
                words.extend(["--timing=json".into(), self.image.clone(), "true".into()]);
                Until::Told(agent_ready)
            }
            Scenario::Http => {
                let (image, inside) = self.server.clone().ok_or("there is no image of a server")?;
                words.extend(["-p".into(), format!("127.0.0.1:{port}:{inside}"), image]);
                Until::Http { port }
            }
        };
        Ok(Start { command: line(&self.vial, &words), until })
    }

    fn idle(&self, id: &str) -> Result<Vec<OsString>, String> {
        Ok(line(&self.vial, &["run", "-d", "--name", id, &self.image, IDLE[0], IDLE[1]]))
    }

    fn clear(&self, id: &str) {
        quietly(&line(&self.vial, &["rm", "-f", id]));
    }
}

/// When the daemon heard the agent's word.
fn agent_ready(told: &Told) -> Result<f64, String> {
    let steps = boot::steps(told).map_err(|why| why.to_string())?;
    let step = steps.iter().find(|step| step.name == "agent ready");
    step.map(|step| step.at_ms).ok_or_else(|| "it told of no agent that is ready".into())
}
