//! The API of declared objects, asked by curl: in the emulated host a kubectl takes longer than what it asks for.

use crate::host::{Vial, path};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A client that has what the first kubeconfig had, for as long as it lives: whatever becomes of daemons, that stays true.
pub struct Api<'a> {
    vial: &'a Vial,
    server: String,
    /// Its certificate, its key and the authority's certificate.
    folder: TempDir,
}

/// What somebody was told.
#[derive(Debug)]
pub struct Answer {
    /// HTTP's.
    pub status: u16,
    /// An object, a list or a Status.
    pub body: Value,
}

impl<'a> Api<'a> {
    /// Opens it.
    ///
    /// # Panics
    /// When it is not opened.
    #[track_caller]
    pub fn of(vial: &'a Vial) -> Self {
        let config = vial.run(["kubeconfig"]).ok();
        let field = |name: &str| {
            let mut lines = config.lines().filter_map(|line| line.trim().split_once(": "));
            lines.find(|(key, _)| *key == name).unwrap_or_else(|| panic!("{name} in {config}")).1.to_owned()
        };
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["certificate-authority-data", "client-certificate-data", "client-key-data"] {
            let file = std::fs::File::create(folder.path().join(name)).expect("a file");
            let mut decode = Command::new("base64");
            let mut child = decode.arg("-d").stdin(Stdio::piped()).stdout(file).spawn().expect("base64 runs");
            let mut input = child.stdin.take().expect("a pipe");
            input.write_all(field(name).as_bytes()).expect("it reads");
            drop(input);
            assert!(child.wait().expect("it ends").success(), "{name} is base64");
        }
        Self { vial, server: field("server"), folder }
    }

    /// Where it is, with the scheme.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Asks for something, with a merge patch or an object as the verb needs it.
    ///
    /// # Errors
    /// There is no whole answer: nobody listens, or who did was killed.
    pub fn ask(&self, verb: &str, place: &str, body: Option<&Value>) -> Result<Answer, String> {
        let kind = if verb == "PATCH" { "merge-patch+json" } else { "json" };
        let mut curl = self.curl(place);
        curl.args(["--max-time", "100", "-X", verb, "-w", "\n%{http_code}"])
            .args(["-H", &format!("Content-Type: application/{kind}")]);
        if let Some(body) = body {
            curl.args(["--data-binary", &body.to_string()]);
        }
        let ran = self.vial.output(curl);
        if ran.code != 0 {
            return Err(format!("{verb} {place}: {}", ran.stderr.trim()));
        }
        let (body, status) = ran.stdout.rsplit_once('\n').unwrap_or_default();
        let body = serde_json::from_str(body).map_err(|error| format!("{verb} {place}: {error}: {body}"))?;
        Ok(Answer { status: status.parse().unwrap_or(0), body })
    }

    fn curl(&self, place: &str) -> Command {
        let file = |name: &str| self.folder.path().join(name);
        let mut curl = Command::new("curl");
        curl.args(["-sS", &format!("{}{place}", self.server)])
            .args(["--cacert", path(&file("certificate-authority-data"))])
            .args(["--cert", path(&file("client-certificate-data"))])
            .args(["--key", path(&file("client-key-data"))]);
        curl
    }

    /// Follows a list (whose place may have a query) from what there is until something is as it should be: what becomes of an object (`ADDED`,
    /// `MODIFIED`, `DELETED`), and the object; that one.
    ///
    /// # Panics
    /// When it never is.
    #[track_caller]
    pub fn until(&self, list: &str, is_so: impl Fn(&str, &Value) -> bool) -> Value {
        let and = if list.contains('?') { '&' } else { '?' };
        let mut curl = self.curl(&format!("{list}{and}watch=1"));
        let mut child = curl.arg("-N").stdout(Stdio::piped()).spawn().expect("curl runs");
        let pid = i32::try_from(child.id()).expect("a pid");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
        let found = self.vial.within_limit(pid, || {
            let mut events = lines.filter_map(|line| serde_json::from_str::<Value>(&line).ok());
            events.find(|event| {
                eprintln!(
                    "{} {} {}",
                    event["type"], event["object"]["metadata"]["name"], event["object"]["status"]
                );
                is_so(event["type"].as_str().unwrap_or_default(), &event["object"])
            })
        });
        // It follows for ever.
        let _ = child.kill();
        let _ = child.wait();
        found.expect("it comes to be so")["object"].take()
    }

    /// What a list holds.
    ///
    /// # Errors
    /// It can't be had.
    pub fn list(&self, place: &str) -> Result<Vec<Value>, String> {
        let answer = self.ask("GET", place, None)?;
        match answer.body["items"].as_array() {
            Some(items) if answer.status == 200 => Ok(items.clone()),
            _ => Err(format!("GET {place}: {} {}", answer.status, answer.body)),
        }
    }
}

/// Whether a condition of an object is true.
#[must_use]
pub fn has(object: &Value, condition: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|one| one["type"] == condition && one["status"] == "True")
}

/// Whether a Pod is ready, and nobody has told it to go.
#[must_use]
pub fn serves(pod: &Value) -> bool {
    has(pod, "Ready") && pod["metadata"]["deletionTimestamp"].is_null()
}
