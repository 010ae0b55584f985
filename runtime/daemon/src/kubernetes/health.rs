//! Who asks after a running container: its probes, each at its own times, until it is over.

use super::ask;
use super::pods::Node;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use vial_orchestrator::node::observed::{Attempt, Health};
use vial_orchestrator::node::parts;
use vial_orchestrator::node::probe::{Outcome, Probe, Row};
use vial_orchestrator::object;
use vial_orchestrator::store::Stored;
use vial_sandbox::ContainerId;

/// Somebody who asks; dropped, nobody does.
pub struct Watch(tokio::task::JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whom is asked.
struct Asked {
    node: Arc<Node>,
    pod: Arc<Stored>,
    container: String,
    id: String,
}

impl Watch {
    /// Begins. `before`: what was told of it last.
    pub fn start(
        node: &Arc<Node>,
        pod: &Arc<Stored>,
        container: &str,
        attempt: &Attempt,
        before: Health,
    ) -> Self {
        let asked = Asked {
            node: node.clone(),
            pod: pod.clone(),
            container: container.to_owned(),
            id: attempt.id.clone(),
        };
        Self(tokio::spawn(asked.follow(before)))
    }
}

impl Asked {
    fn note(&self, change: impl FnOnce(&mut Health)) {
        self.node.is_healthy(object::uid(&self.pod.object), &self.id, change);
    }

    fn probe(&self, field: &str) -> Option<Result<Probe, String>> {
        let all = parts(&self.pod.object);
        Probe::of(all.iter().find(|part| part.name == self.container)?, field)
    }

    async fn follow(self, before: Health) {
        let mut started = before.started;
        self.note(|health| *health = before);
        if let Some(probe) = self.probe("startupProbe").filter(|_| !started) {
            started = self.until_started(probe).await;
            if !started {
                return;
            }
        }
        let readiness = self.probe("readinessProbe");
        self.note(|health| {
            health.started = true;
            health.ready |= readiness.is_none();
        });
        tokio::join!(self.liveness(), self.readiness(readiness));
    }

    /// Whether it came up.
    async fn until_started(&self, probe: Result<Probe, String>) -> bool {
        let mut verdict = false;
        self.each("Startup", probe, |is_well, why| {
            verdict = is_well;
            if !is_well {
                self.note(|health| health.unhealthy = Some(format!("it failed its startup probe: {why}")));
            }
            false
        })
        .await;
        verdict
    }

    async fn liveness(&self) {
        let Some(probe) = self.probe("livenessProbe") else { return };
        self.each("Liveness", probe, |is_well, why| {
            if !is_well {
                self.note(|health| health.unhealthy = Some(format!("it failed its liveness probe: {why}")));
            }
            is_well
        })
        .await;
    }

    async fn readiness(&self, probe: Option<Result<Probe, String>>) {
        let Some(probe) = probe else { return };
        self.each("Readiness", probe, |is_well, _| {
            self.note(|health| health.ready = is_well);
            true
        })
        .await;
    }

    /// Asks again and again; `told` hears each verdict and says whether to go on.
    async fn each(&self, kind: &str, probe: Result<Probe, String>, mut told: impl FnMut(bool, &str) -> bool) {
        let probe = match probe {
            Ok(probe) => probe,
            Err(why) => return self.complain(kind, why),
        };
        let mut ticks =
            interval_at(Instant::now() + probe.delay, probe.period.max(Duration::from_millis(100)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut row = Row::default();
        loop {
            ticks.tick().await;
            let outcome = self.ask(&probe).await;
            let why = match &outcome {
                Outcome::Success => String::new(),
                Outcome::Failure(why) => {
                    self.complain(kind, why.clone());
                    why.clone()
                }
                Outcome::Unknown(why) => {
                    tracing::debug!(container = self.container, kind, why, "nobody could ask");
                    continue;
                }
            };
            if let Some(verdict) = row.told(&probe, &outcome)
                && !told(verdict, &why)
            {
                return;
            }
        }
    }

    fn complain(&self, kind: &str, why: String) {
        self.node.tell(
            &self.pod,
            &self.container,
            (true, "Unhealthy", format!("{kind} probe failed: {why}")),
        );
    }

    async fn ask(&self, probe: &Probe) -> Outcome {
        let Some(id) = ContainerId::parse(&self.id) else { return Outcome::Unknown("it has no id".into()) };
        let daemon = self.node.daemon.clone();
        match tokio::task::spawn_blocking(move || daemon.store.get(&id)).await {
            Ok(Ok(Some(record))) => {
                ask::handler(&self.node, &self.pod, &record, &probe.handler, probe.timeout).await
            }
            _ => Outcome::Unknown("it is not known".into()),
        }
    }
}
