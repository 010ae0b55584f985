//! Container engines, by the command lines that people use.

use super::{About, Contender, Ground, IDLE, MARKER, NO_AGENT, Ready, find, line, version};
use crate::child::{Start, Stop, Until, output_of, quietly};
use crate::image::Image;
use crate::result::{ContenderKind, Scenario};
use std::ffi::OsString;
use std::path::PathBuf;

/// podman, docker
pub fn all() -> Vec<Box<dyn Contender>> {
    let engine = |name, title| -> Box<dyn Contender> {
        Box::new(Engine {
            name,
            title,
            program: PathBuf::new(),
            folder: PathBuf::new(),
            image: String::new(),
            server: None,
        })
    };
    vec![
        engine("podman", "container, the whole engine (no daemon)"),
        engine("docker", "container, the whole engine (daemon)"),
    ]
}

/// Podman refuses a name of more than 50 characters for this, so it can't be below a folder that somebody else has named.
fn run_folder() -> PathBuf {
    format!("/run/vial-bench-{}", std::process::id()).into()
}

struct Engine {
    name: &'static str,
    title: &'static str,
    program: PathBuf,
    folder: PathBuf,
    image: String,
    server: Option<(String, u16)>,
}

impl Engine {
    /// The command line up to its own words. Podman's storage is a folder of our own; Docker has one storage only.
    fn words(&self, words: &[&str]) -> Vec<OsString> {
        let mut whole = line::<&str>(&self.program, &[]);
        if self.name == "podman" {
            let folders = [self.folder.join("root"), run_folder().join("run"), run_folder().join("tmp")];
            for (option, folder) in ["--root", "--runroot", "--tmpdir"].into_iter().zip(folders) {
                whole.extend([option.into(), folder.into_os_string()]);
            }
        }
        whole.extend(words.iter().map(OsString::from));
        whole
    }

    /// Loads an image under a name of our own; gives name and the digest of its configuration.
    fn load(&self, image: &Image, name: &str, stop: Stop<'_>) -> Result<(String, String), String> {
        let archive = image.archive.to_str().ok_or("the folder for temporary files is not UTF-8")?;
        let told = output_of(&self.words(&["load", "-q", "-i", archive]), stop)?;
        // "Loaded image: NAME", "Loaded image ID: sha256:…", and "Loaded image(s): NAME" of older ones.
        let loaded =
            told.lines().filter_map(|line| line.split_once(": ")).map(|(_, name)| name.trim()).next_back();
        let loaded = loaded.ok_or_else(|| format!("{} load said {told:?}", self.name))?;
        let own = format!("localhost/vial-bench/{name}:{}", std::process::id());
        output_of(&self.words(&["tag", loaded, &own]), stop)?;
        let id = output_of(&self.words(&["image", "inspect", "--format", "{{.Id}}", &own]), stop)?;
        let id = id.trim();
        let id = if id.starts_with("sha256:") { id.to_owned() } else { format!("sha256:{id}") };
        Ok((own, id))
    }
}

impl Contender for Engine {
    fn about(&self) -> About {
        About { name: self.name, title: self.title, kind: ContenderKind::Container, program: Some(self.name) }
    }

    fn prepare(&mut self, ground: &Ground<'_>) -> Result<Ready, String> {
        self.program = find(self.name).ok_or_else(|| format!("{} is not on the PATH", self.name))?;
        self.folder = ground.folder.join(self.name);
        std::fs::create_dir_all(&self.folder).map_err(|error| error.to_string())?;
        // A client without its engine says so here.
        output_of(&self.words(&["info"]), ground.stop)?;
        let (image, id) = self.load(&ground.image, "image", ground.stop)?;
        self.image = image;
        if let Some((image, port)) = &ground.server {
            self.server = Some((self.load(image, "server", ground.stop)?.0, *port));
        }
        Ok(Ready {
            version: version(&self.program, &["--version"], ground.stop),
            image: Some(id),
            notes: vec!["network of its own with address and resolver, a layer to write to".into()],
        })
    }

    fn start(&self, scenario: Scenario, id: &str, port: u16, _: u32) -> Result<Start, String> {
        let mut words = self.words(&["run", "--rm", "--name", id]);
        let until = match scenario {
            Scenario::Exit => {
                words.extend([&self.image, "true"].map(OsString::from));
                Until::Exit { output: vec![] }
            }
            Scenario::FirstByte => {
                words.extend([&self.image, "echo", MARKER.trim()].map(OsString::from));
                Until::Output { marker: MARKER.into(), console: false }
            }
            Scenario::Agent => return Err(NO_AGENT.into()),
            Scenario::Http => {
                let (image, inside) = self.server.as_ref().ok_or("there is no image of a server")?;
                words.extend(["-p", &format!("127.0.0.1:{port}:{inside}"), image].map(OsString::from));
                Until::Http { port }
            }
        };
        Ok(Start { command: words, until })
    }

    fn idle(&self, id: &str) -> Result<Vec<OsString>, String> {
        Ok(self.words(&["run", "-d", "--name", id, &self.image, IDLE[0], IDLE[1]]))
    }

    fn clear(&self, id: &str) {
        quietly(&self.words(&["rm", "-f", id]));
    }

    fn finish(&mut self) {
        if self.name == "podman" {
            // Not `system reset`: that takes away every network of the user's too, which does not lie below `--root`.
            quietly(&self.words(&["rm", "--all", "--force"]));
            quietly(&self.words(&["rmi", "--all", "--force"]));
            let _ = std::fs::remove_dir_all(run_folder());
        } else {
            for image in [Some(&self.image), self.server.as_ref().map(|(name, _)| name)].into_iter().flatten()
            {
                quietly(&self.words(&["rmi", image]));
            }
        }
    }
}
