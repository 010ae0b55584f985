//! OCI runtimes by themselves: a bundle, a container, and nothing around it. What container engines call underneath.

use super::{About, Contender, Ground, IDLE, MARKER, NO_AGENT, Ready, find, line, version};
use crate::child::{Start, Until, output_of, quietly};
use crate::image::Image;
use crate::result::{ContenderKind, Scenario};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

/// runc, crun, runsc
pub fn all() -> Vec<Box<dyn Contender>> {
    let runtime = |name, title| -> Box<dyn Contender> {
        Box::new(Runtime { name, title, program: PathBuf::new(), folder: PathBuf::new(), server: None })
    };
    vec![
        runtime("runc", "container, the runtime alone"),
        runtime("crun", "container, the runtime alone"),
        runtime("runsc", "gVisor: a kernel in user space, the runtime alone"),
    ]
}

/// Docker's default set.
const CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

struct Runtime {
    name: &'static str,
    title: &'static str,
    program: PathBuf,
    folder: PathBuf,
    server: Option<u16>,
}

impl Runtime {
    /// The command line up to its own words. State is kept apart, so that all of it can be found again.
    fn words(&self, words: &[&str]) -> Vec<OsString> {
        let mut line = line(&self.program, &["--root"]);
        line.push(self.folder.join("state").into_os_string());
        line.extend(words.iter().map(OsString::from));
        line
    }

    fn run(&self, bundle: &str, more: &[&str], id: &str) -> Vec<OsString> {
        let mut line = self.words(&[]);
        if self.name == "runsc" && bundle == "http" {
            // Its own network stack would have no interface to the outside.
            line.push("--network=host".into());
        }
        line.extend(["run", "--bundle"].map(OsString::from));
        line.push(self.folder.join(bundle).into_os_string());
        line.extend(more.iter().map(OsString::from));
        line.push(id.into());
        line
    }

    /// A bundle: what `RUNTIME spec` gives, with another command and the image's root.
    fn bundle(&self, name: &str, image: &Image, args: &[String], ground: &Ground<'_>) -> Result<(), String> {
        let folder = self.folder.join(name);
        fs::create_dir_all(&folder).map_err(|error| format!("can't make {}: {error}", folder.display()))?;
        let spec =
            [line(&self.program, &["spec", "--bundle"]), vec![folder.clone().into_os_string()]].concat();
        output_of(&spec, ground.stop)?;
        let path = folder.join("config.json");
        let read = || -> std::io::Result<Value> { Ok(serde_json::from_slice(&fs::read(&path)?)?) };
        let mut spec = read().map_err(|error| format!("{}: {error}", path.display()))?;
        adapt(&mut spec, image, args, name == "http");
        fs::write(&path, spec.to_string()).map_err(|error| format!("can't write {}: {error}", path.display()))
    }
}

/// Another command and root for a spec; with `host_network` without a network of its own.
fn adapt(spec: &mut Value, image: &Image, args: &[String], host_network: bool) {
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = json!(args);
    if let Some(env) = &image.config.env {
        spec["process"]["env"] = json!(env);
    }
    if let Some(folder) = image.config.working_dir.as_deref().filter(|folder| !folder.is_empty()) {
        spec["process"]["cwd"] = json!(folder);
    }
    // As engines give them: `RUNTIME spec` leaves a server too few to become another user.
    let capabilities = CAPABILITIES.map(|name| format!("CAP_{name}"));
    for set in ["bounding", "effective", "permitted"] {
        spec["process"]["capabilities"][set] = json!(capabilities);
    }
    spec["root"] = json!({ "path": image.rootfs, "readonly": !host_network });
    if host_network && let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
    }
}

impl Contender for Runtime {
    fn about(&self) -> About {
        About { name: self.name, title: self.title, kind: ContenderKind::Container, program: Some(self.name) }
    }

    fn prepare(&mut self, ground: &Ground<'_>) -> Result<Ready, String> {
        self.program = find(self.name).ok_or_else(|| format!("{} is not on the PATH", self.name))?;
        self.folder = ground.folder.join(self.name);
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        self.bundle("exit", &ground.image, &words(&["true"]), ground)?;
        self.bundle("first-byte", &ground.image, &words(&["echo", MARKER.trim()]), ground)?;
        self.bundle("idle", &ground.image, &words(&IDLE), ground)?;
        if let Some((image, port)) = &ground.server {
            self.bundle("http", image, &image.command(), ground)?;
            self.server = Some(*port);
        }
        Ok(Ready {
            version: version(&self.program, &["--version"], ground.stop),
            image: Some(ground.image.id.clone()),
            notes: vec![
                "no network but a loopback, no layer to write to, no limits, no engine around it".into(),
            ],
        })
    }

    fn start(&self, scenario: Scenario, id: &str, _: u16, at_once: u32) -> Result<Start, String> {
        let until = match scenario {
            Scenario::Exit => Until::Exit { output: vec![] },
            Scenario::FirstByte => Until::Output { marker: MARKER.into(), console: false },
            Scenario::Agent => return Err(NO_AGENT.into()),
            Scenario::Http if at_once > 1 => {
                return Err("it can share the host's network only, where one server has the port".into());
            }
            // On the host's own network: the image's port is the host's.
            Scenario::Http => Until::Http { port: self.server.ok_or("there is no image of a server")? },
        };
        let command = self.run(scenario.name(), &[], id);
        Ok(Start { command, until })
    }

    fn idle(&self, id: &str) -> Result<Vec<OsString>, String> {
        Ok(self.run("idle", &["--detach"], id))
    }

    fn clear(&self, id: &str) {
        quietly(&self.words(&["kill", id, "KILL"]));
        quietly(&self.words(&["delete", "--force", id]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Config;
    use std::path::Path;

    #[test]
    fn a_spec_gets_the_image_and_only_a_server_the_hosts_network() {
        let image = Image {
            name: "i".into(),
            id: "sha256:0".into(),
            config: Config {
                env: Some(vec!["A=1".into()]),
                working_dir: Some("/w".into()),
                ..Config::default()
            },
            archive: PathBuf::new(),
            rootfs: Path::new("/r").into(),
        };
        let given = json!({
            "process": { "terminal": true, "cwd": "/", "args": ["sh"] },
            "linux": { "namespaces": [{ "type": "pid" }, { "type": "network" }] },
        });
        let (mut plain, mut server) = (given.clone(), given);
        adapt(&mut plain, &image, &["true".into()], false);
        let process = &plain["process"];
        assert_eq!(process["args"], json!(["true"]));
        assert_eq!([&process["terminal"], &process["cwd"]], [&json!(false), &json!("/w")]);
        assert_eq!(process["env"], json!(["A=1"]));
        assert!(process["capabilities"]["effective"].as_array().unwrap().contains(&json!("CAP_CHOWN")));
        assert_eq!(plain["root"], json!({ "path": "/r", "readonly": true }));
        assert_eq!(plain["linux"]["namespaces"].as_array().unwrap().len(), 2);
        adapt(&mut server, &image, &[], true);
        assert_eq!(server["linux"]["namespaces"], json!([{ "type": "pid" }]));
    }
}
