//! Declared objects: what is declared is changed at random, daemons and VMs are killed at random, and once nobody disturbs them what is there has to
//! become what is declared. The oracle needs no history: it compares what the API, the command line and the machine say with what was declared last.

use super::Disturbed;
use super::random::Random;
use crate::crash::AgentCode;
use crate::declared::{Answer, Api, has, serves};
use crate::host::{Vial, signal};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// Pods of the deployment at most.
const MOST_REPLICAS: u64 = 3;
/// Jobs at a time.
const MOST_JOBS: usize = 2;
/// Pods of a job that have to succeed.
const COMPLETIONS: u64 = 2;
/// Longer than any back-off that the blows of one round can lead to, on a slow host.
const PATIENCE: Duration = Duration::from_secs(420);
/// Between two looks, so that looking is not most of what a slow host does.
const PACE: Duration = Duration::from_millis(500);
/// Whoever was started again so often waits long before the next time.
const TIRED: u64 = 3;

#[derive(Debug, Clone, Copy)]
enum Blow {
    Nothing,
    Daemon,
    Vm,
    Agent,
}

/// The deployment.
#[derive(Debug, Clone, Copy)]
struct Web {
    replicas: u64,
    version: u64,
}

/// One thing to ask for; asked twice it does not do more.
#[derive(Debug)]
struct Request {
    verb: &'static str,
    place: String,
    body: Option<Value>,
}

/// What is wrong, and whether it can't become right.
struct Wrong {
    what: String,
    for_good: bool,
}

fn not_yet(what: impl Into<String>) -> Wrong {
    Wrong { what: what.into(), for_good: false }
}

fn never(what: impl Into<String>) -> Wrong {
    Wrong { what: what.into(), for_good: true }
}

pub struct Declared<'a> {
    vial: &'a Vial,
    code: &'a AgentCode,
    api: Api<'a>,
    random: Random,
    web: Option<Web>,
    jobs: Vec<String>,
    made: u64,
    /// Somebody of the deployment waits long before it is started again.
    is_tired: bool,
}

impl<'a> Declared<'a> {
    pub fn on(vial: &'a Vial, code: &'a AgentCode, random: Random) -> Self {
        let api = Api::of(vial);
        Self { vial, code, api, random, web: None, jobs: Vec::new(), made: 0, is_tired: false }
    }

    /// Asks for one of all that can be asked for; it is declared from now on.
    fn choose(&mut self) -> Result<Request, String> {
        self.made += 1;
        let deployment = format!("{DEPLOYMENTS}/web");
        let Some(web) = &mut self.web else {
            let web = Web { replicas: 1 + self.random.below(MOST_REPLICAS), version: self.made };
            self.web = Some(web);
            return Ok(Request { verb: "POST", place: DEPLOYMENTS.into(), body: Some(web.object()) });
        };
        let what = if self.is_tired { 3 } else { self.random.below(12) };
        self.is_tired = false;
        match what {
            0..3 => {
                web.replicas = self.random.below(MOST_REPLICAS + 1);
                let body = json!({"spec": {"replicas": web.replicas}});
                Ok(Request { verb: "PATCH", place: deployment, body: Some(body) })
            }
            3..6 => {
                web.version = self.made;
                let body = json!({"spec": {"template": web.object()["spec"]["template"]}});
                Ok(Request { verb: "PATCH", place: deployment, body: Some(body) })
            }
            6..8 if self.jobs.len() < MOST_JOBS => {
                let name = format!("job-{}", self.made);
                let body = job(&name, self.random.pick(&["Never", "OnFailure"]));
                self.jobs.push(name);
                Ok(Request { verb: "POST", place: JOBS.into(), body: Some(body) })
            }
            6..9 if !self.jobs.is_empty() => {
                let name = self.jobs.swap_remove(self.random.below(self.jobs.len() as u64) as usize);
                Ok(self.removal(format!("{JOBS}/{name}")))
            }
            9 => {
                self.web = None;
                Ok(self.removal(deployment))
            }
            _ => {
                let pods = self.api.list(PODS)?;
                let some = (!pods.is_empty()).then(|| self.random.below(pods.len() as u64) as usize);
                let name = some.and_then(|index| pods[index]["metadata"]["name"].as_str());
                // One that nobody has is as good as one that is gone.
                Ok(Request {
                    verb: "DELETE",
                    place: format!("{PODS}/{}", name.unwrap_or("none")),
                    body: None,
                })
            }
        }
    }

    fn removal(&mut self, place: String) -> Request {
        let body = json!({"propagationPolicy": self.random.pick(&["Foreground", "Background"])});
        Request { verb: "DELETE", place, body: Some(body) }
    }

    /// Asks, strikes at a random moment, and sees to it that what was asked for is declared.
    fn act(&mut self) -> Result<(), String> {
        let request = self.choose()?;
        let all = [Blow::Nothing, Blow::Nothing, Blow::Daemon, Blow::Daemon, Blow::Vm, Blow::Vm, Blow::Agent];
        let blow = self.random.pick(&all);
        let after = Duration::from_millis(self.random.below(6000));
        let place = request.place.rsplit('/').next().unwrap_or_default();
        println!(
            "  {} {place}, {blow:?} after {after:?}; then {:?} and {:?}",
            request.verb, self.web, self.jobs
        );
        let victim = self.random.below(1 << 20) as usize;
        let answer = std::thread::scope(|scope| {
            let asking = scope.spawn(|| self.ask(&request));
            std::thread::sleep(after);
            self.strike(blow, victim);
            asking.join().unwrap_or_else(|_| Err("who asks panicked".into()))
        });
        if matches!(blow, Blow::Daemon) {
            // The next daemon serves what was declared, at the same place.
            let config = self.vial.run(["kubeconfig"]);
            if !config.stdout.contains(self.api.server()) {
                return Err(format!(
                    "declared objects are not served at {} any more: {config:?}",
                    self.api.server()
                ));
            }
        }
        match answer {
            Ok(answer) => fits(&request, &answer, false),
            // Who was to answer was killed, or the host was too slow for the server's patience with a handshake; a server that is gone stays so.
            Err(_) => fits(&request, &self.ask(&request)?, true),
        }
    }

    fn ask(&self, request: &Request) -> Result<Answer, String> {
        self.api.ask(request.verb, &request.place, request.body.as_ref())
    }

    fn strike(&self, blow: Blow, victim: usize) {
        let vmms = self.vial.vmm_pids();
        let vmm = (!vmms.is_empty()).then(|| vmms[victim % vmms.len()]).filter(|pid| *pid > 1);
        match (blow, vmm) {
            (Blow::Daemon, _) => {
                self.vial.daemon_pid().into_iter().for_each(|pid| signal(pid, libc::SIGKILL))
            }
            (Blow::Vm, Some(vmm)) => signal(vmm, libc::SIGKILL),
            (Blow::Agent, Some(vmm)) => _ = self.code.overwrite(vmm),
            _ => {}
        }
    }

    /// Nobody disturbs any more: waits until all is as declared.
    fn calm(&mut self) -> Result<(), String> {
        let begin = Instant::now();
        loop {
            match self.look() {
                Ok(()) => return Ok(()),
                Err(wrong) if wrong.for_good || begin.elapsed() > PATIENCE => {
                    return Err(format!("{}\n{}", wrong.what, self.told()));
                }
                Err(_) => std::thread::sleep(PACE),
            }
        }
    }

    /// What it says of itself.
    fn told(&self) -> String {
        let lists = [DEPLOYMENTS, JOBS, PODS, "/api/v1/namespaces/default/events"];
        let mut told = format!("declared: {:?} and {:?}\n", self.web, self.jobs);
        for place in lists {
            for mut object in self.api.list(place).unwrap_or_default() {
                object["metadata"]["managedFields"] = Value::Null;
                told.push_str(&if place.ends_with("events") {
                    format!(
                        "{} {} {}\n",
                        object["lastTimestamp"], object["involvedObject"]["name"], object["message"]
                    )
                } else {
                    format!("{}\n  status {}\n", object["metadata"], object["status"])
                });
            }
        }
        let lists = [&["pod", "ls"][..], &["ps", "-a"]].map(|words| self.vial.run(words).stdout);
        told + &lists.concat()
    }

    fn look(&mut self) -> Result<(), Wrong> {
        let list = |place| self.api.list(place).map_err(not_yet);
        deployment_fits(self.web, &list(DEPLOYMENTS)?)?;
        jobs_fit(&self.jobs, &list(JOBS)?)?;
        let pods = list(PODS)?;
        let (web, others): (Vec<&Value>, Vec<&Value>) =
            pods.iter().partition(|pod| pod["metadata"]["labels"]["app"] == "web");
        let tired =
            |pod: &&&Value| pod["status"]["containerStatuses"][0]["restartCount"].as_u64() >= Some(TIRED);
        self.is_tired = web.iter().any(|pod| tired(&pod));
        self.pods_fit(&web, &others)?;
        self.machine_fits(&web, &others)
    }

    fn pods_fit(&self, web: &[&Value], others: &[&Value]) -> Result<(), Wrong> {
        let (replicas, version) = self.web.map_or((0, 0), |web| (web.replicas, web.version));
        if web.len() as u64 != replicas {
            return Err(not_yet(format!("{} pods of the deployment and not {replicas}", web.len())));
        }
        for pod in web {
            let env = &pod["spec"]["containers"][0]["env"][0]["value"];
            if !serves(pod) || env.as_str() != Some(&version.to_string()) {
                return Err(not_yet(format!(
                    "{} is not ready, or an old one ({env})",
                    pod["metadata"]["name"]
                )));
            }
        }
        for job in &self.jobs {
            let own = others.iter().filter(|pod| pod["metadata"]["labels"]["job-name"] == **job);
            let phases: Vec<&str> = own.filter_map(|pod| pod["status"]["phase"].as_str()).collect();
            let of = |phase: &str| phases.iter().filter(|one| **one == phase).count();
            // One that has succeeded may have been deleted since, and stays counted.
            if of("Succeeded") as u64 > COMPLETIONS || of("Succeeded") + of("Failed") < phases.len() {
                return Err(not_yet(format!("the pods of {job} are {phases:?}")));
            }
        }
        let known =
            |pod: &&&Value| self.jobs.iter().any(|job| pod["metadata"]["labels"]["job-name"] == **job);
        match others.iter().find(|pod| !known(pod)) {
            Some(stranger) => {
                Err(not_yet(format!("{} is there, and nobody declares it", stranger["metadata"]["name"])))
            }
            None => Ok(()),
        }
    }

    /// What the command line and the machine say of pods: each once, the deployment's running, nobody else's there.
    fn machine_fits(&self, web: &[&Value], others: &[&Value]) -> Result<(), Wrong> {
        let list = |words: &[&str]| {
            let text = self.vial.run(words).stdout;
            let list: serde_json::Result<Vec<Value>> = serde_json::from_str(&text);
            list.map_err(|error| never(format!("{words:?}: {error}: {text}")))
        };
        let (rows, containers) = (list(&["pod", "ls", "--json"])?, list(&["ps", "-a", "--json"])?);
        // A name holds a Pod's name and the beginning of its uid.
        let name = |pod: &Value| {
            let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
            format!("{}.{}", text("name"), text("uid").split('-').next().unwrap_or_default())
        };
        let (running, over): (Vec<String>, Vec<String>) =
            (web.iter().map(|pod| name(pod)).collect(), others.iter().map(|pod| name(pod)).collect());
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for row in &rows {
            let full = row["name"].as_str().unwrap_or_default();
            let own = full.strip_prefix("default.").unwrap_or(full);
            let is_wanted = running.iter().any(|name| name == own);
            if !is_wanted && !over.iter().any(|name| name == own) {
                return Err(not_yet(format!("the pod {own} is there, and nobody declares it")));
            }
            if (row["state"] == "running") != is_wanted {
                return Err(not_yet(format!("the pod {own} is {}", row["state"])));
            }
            *seen.entry(own).or_default() += 1;
        }
        if let Some((twice, _)) = seen.iter().find(|(_, count)| **count > 1) {
            return Err(never(format!("{twice} is there twice")));
        }
        for name in &running {
            let own: Vec<&Value> = containers
                .iter()
                .filter(|one| one["name"].as_str().is_some_and(|own| own.starts_with(&format!("{name}.c."))))
                .collect();
            let up: Vec<&str> = own
                .iter()
                .filter(|one| one["state"] == "running")
                .filter_map(|one| one["name"].as_str())
                .collect();
            let [up] = up[..] else {
                let wrong = if up.len() > 1 { never } else { not_yet };
                return Err(wrong(format!("of {name} there run {up:?}")));
            };
            if own.len() > 2 {
                return Err(not_yet(format!("of {name} more is kept than the last two: {}", own.len())));
            }
            let said = self.vial.run(["logs", up]).stdout;
            let version = self.web.map_or(0, |web| web.version);
            if said != format!("up {version}\n") {
                return Err(not_yet(format!("{up} says {said:?}")));
            }
            // An agent that was struck dies when it is spoken to.
            if self.vial.run(["exec", up, "echo", "here"]).stdout != "here\n" {
                return Err(not_yet(format!("{up} does not answer")));
            }
        }
        if let Some(one) = containers.iter().find(|one| {
            let own = one["name"].as_str().unwrap_or_default();
            !running.iter().chain(&over).any(|name| own.starts_with(&format!("{name}.c.")))
                || one["state"] != "exited" && !running.iter().any(|name| own.starts_with(name))
        }) {
            return Err(not_yet(format!("{} is {}", one["name"], one["state"])));
        }
        let vmms = self.vial.vmm_pids().len();
        if vmms != running.len() {
            return Err(not_yet(format!("{vmms} VMs for {} pods", running.len())));
        }
        Ok(())
    }
}

impl Disturbed for Declared<'_> {
    /// Some things at once, and then calm.
    fn step(&mut self) -> Result<(), String> {
        for _ in 0..=self.random.below(3) {
            self.act()?;
        }
        let begin = Instant::now();
        self.calm()?;
        println!("  … as declared after {:?}", begin.elapsed());
        Ok(())
    }

    /// What is declared comes back whatever is removed behind its back.
    fn end(&mut self) -> Result<(), String> {
        for place in [DEPLOYMENTS, JOBS, PODS] {
            let body = json!({"propagationPolicy": "Background"});
            self.api.ask("DELETE", place, Some(&body))?;
        }
        self.web = None;
        self.jobs.clear();
        self.calm()
    }
}

impl Web {
    fn object(self) -> Value {
        let script = "trap exit TERM; echo up $VERSION; while :; do sleep 9 & wait $!; done";
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
            "replicas": self.replicas, "selector": {"matchLabels": {"app": "web"}}, "revisionHistoryLimit": 2,
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": pod(script, self.version, "Always")}}})
    }
}

fn pod(script: &str, version: u64, policy: &str) -> Value {
    json!({"restartPolicy": policy, "terminationGracePeriodSeconds": 3, "containers": [{
        "name": "c", "image": "busybox:latest", "imagePullPolicy": "Never", "command": ["sh", "-c", script],
        "env": [{"name": "VERSION", "value": version.to_string()}], "resources": {"limits": {"memory": "64Mi"}}}]})
}

fn job(name: &str, policy: &str) -> Value {
    // Whatever strikes its pods, it is to come to its end.
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {
        "completions": COMPLETIONS, "parallelism": COMPLETIONS, "backoffLimit": 1000, "template": {"spec": pod("echo at work; sleep 1", 0, policy)}}})
}

/// Whether a request was answered as it must be; `again`: it may have been done before.
fn fits(request: &Request, answer: &Answer, again: bool) -> Result<(), String> {
    let is_pod = request.place.starts_with(PODS);
    match (request.verb, answer.status) {
        (_, 200..=202) => Ok(()),
        ("POST", 409) if again => Ok(()),
        // Its owner may have taken it away meanwhile.
        ("DELETE", 404) if again || is_pod => Ok(()),
        _ => Err(format!(
            "{} {} was answered with {}: {}",
            request.verb, request.place, answer.status, answer.body
        )),
    }
}

fn count(object: &Value, field: &str) -> u64 {
    object["status"][field].as_u64().unwrap_or(0)
}

fn deployment_fits(web: Option<Web>, found: &[Value]) -> Result<(), Wrong> {
    let (web, found) = match (web, found) {
        (None, []) => return Ok(()),
        (Some(web), [found]) => (web, found),
        // What was answered is declared.
        (Some(_), []) => return Err(never("the deployment is gone")),
        _ => return Err(not_yet(format!("{} deployments and not {web:?}", found.len()))),
    };
    let counts = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"]
        .map(|field| count(found, field));
    if found["spec"]["replicas"].as_u64() != Some(web.replicas) {
        return Err(never(format!(
            "{} replicas are declared, and {} were",
            found["spec"]["replicas"], web.replicas
        )));
    }
    if found["status"]["observedGeneration"] != found["metadata"]["generation"]
        || counts != [web.replicas; 4]
        || count(found, "unavailableReplicas") != 0
    {
        return Err(not_yet(format!("the deployment says {}", found["status"])));
    }
    Ok(())
}

fn jobs_fit(jobs: &[String], found: &[Value]) -> Result<(), Wrong> {
    for name in jobs {
        let Some(job) = found.iter().find(|job| job["metadata"]["name"] == **name) else {
            return Err(never(format!("{name} is gone")));
        };
        if has(job, "Failed") || count(job, "succeeded") > COMPLETIONS {
            return Err(never(format!("{name} is {}", job["status"])));
        }
        if !has(job, "Complete") || count(job, "succeeded") != COMPLETIONS || count(job, "active") != 0 {
            return Err(not_yet(format!("{name} is {}", job["status"])));
        }
    }
    match found.len() == jobs.len() {
        true => Ok(()),
        false => Err(not_yet(format!("{} jobs and not {jobs:?}", found.len()))),
    }
}
