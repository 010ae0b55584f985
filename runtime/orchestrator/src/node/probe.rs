//! Probes: what a container is asked, and what the answers come to (core's `Probe`, kubelet's worker).

use super::Part;
use crate::object;
use serde_json::Value;
use std::time::Duration;

/// Periods and time-outs are bounded by a day: nobody waits longer for an answer.
const MOST_S: i64 = 86_400;

/// How something is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handler {
    /// A command in the container; 0 is well.
    Exec(Vec<String>),
    /// A connection.
    Tcp {
        /// Instead of the pod's address.
        host: Option<String>,
        /// The port.
        port: u16,
    },
    /// A request; 200 to 399 is well.
    Http {
        /// Instead of the pod's address.
        host: Option<String>,
        /// The port.
        port: u16,
        /// With its query.
        path: String,
        /// TLS, whose certificate nobody looks at.
        is_tls: bool,
        /// Name and value.
        headers: Vec<(String, String)>,
    },
    /// The health protocol of gRPC; SERVING is well.
    Grpc {
        /// The port.
        port: u16,
        /// Which service; empty: all of it.
        service: String,
    },
    /// Nothing but time (hooks only).
    Sleep(Duration),
}

impl Handler {
    /// Of a probe or a hook of a container.
    ///
    /// # Errors
    /// A sentence that says what it lacks.
    pub fn of(part: &Part<'_>, value: &Value) -> Result<Self, String> {
        let port = |way: &str| {
            port(part, &value[way]["port"])
                .ok_or_else(|| format!("its port {} is none of the container's", value[way]["port"]))
        };
        let host =
            |way: &str| Some(object::text(value, &[way, "host"]).to_owned()).filter(|host| !host.is_empty());
        if value.get("exec").is_some() {
            let words = object::list(value, &["exec", "command"]).iter().filter_map(Value::as_str);
            Ok(Self::Exec(words.map(str::to_owned).collect()))
        } else if value.get("httpGet").is_some() {
            let path = object::text(value, &["httpGet", "path"]);
            let header = |header: &Value| {
                (object::text(header, &["name"]).to_owned(), object::text(header, &["value"]).to_owned())
            };
            Ok(Self::Http {
                host: host("httpGet"),
                port: port("httpGet")?,
                path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
                is_tls: object::text(value, &["httpGet", "scheme"]) == "HTTPS",
                headers: object::list(value, &["httpGet", "httpHeaders"]).iter().map(header).collect(),
            })
        } else if value.get("tcpSocket").is_some() {
            Ok(Self::Tcp { host: host("tcpSocket"), port: port("tcpSocket")? })
        } else if value.get("grpc").is_some() {
            Ok(Self::Grpc {
                port: port("grpc")?,
                service: object::text(value, &["grpc", "service"]).to_owned(),
            })
        } else if let Some(seconds) = object::number(value, &["sleep", "seconds"]) {
            Ok(Self::Sleep(seconds_of(seconds)))
        } else {
            Err("it says no way to ask".into())
        }
    }
}

fn seconds_of(seconds: i64) -> Duration {
    Duration::from_secs(seconds.clamp(0, MOST_S).unsigned_abs())
}

/// A number, or the name of one of the container's ports.
fn port(part: &Part<'_>, wanted: &Value) -> Option<u16> {
    let number = match wanted {
        Value::Number(number) => number.as_i64(),
        Value::String(name) => {
            let named =
                object::list(part.spec, &["ports"]).iter().find(|port| object::text(port, &["name"]) == name);
            named.and_then(|port| object::number(port, &["containerPort"])).or_else(|| name.parse().ok())
        }
        _ => None,
    };
    u16::try_from(number?).ok().filter(|port| *port > 0)
}

/// A probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// How it asks.
    pub handler: Handler,
    /// After the container's start.
    pub delay: Duration,
    /// Between two questions.
    pub period: Duration,
    /// For one answer.
    pub timeout: Duration,
    success: u32,
    failure: u32,
}

impl Probe {
    /// A container's probe of this field; none: it has none.
    ///
    /// # Errors
    /// As [`Handler::of`].
    pub fn of(part: &Part<'_>, field: &str) -> Option<Result<Self, String>> {
        let value = part.spec.get(field)?;
        let number = |name: &str, default: i64| {
            object::number(value, &[name]).filter(|number| *number > 0).unwrap_or(default)
        };
        let count = |name: &str, default: i64| u32::try_from(number(name, default)).unwrap_or(u32::MAX);
        Some(Handler::of(part, value).map(|handler| Self {
            handler,
            delay: seconds_of(object::number(value, &["initialDelaySeconds"]).unwrap_or(0)),
            period: seconds_of(number("periodSeconds", 10)),
            timeout: seconds_of(number("timeoutSeconds", 1)),
            success: count("successThreshold", 1),
            failure: count("failureThreshold", 3),
        }))
    }
}

/// What one question came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is well.
    Success,
    /// It is not.
    Failure(String),
    /// Nobody could ask, which says nothing of the container.
    Unknown(String),
}

/// Answers in a row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    successes: u32,
    failures: u32,
}

impl Row {
    /// Counts an answer; when there are enough of one kind, that counts.
    pub fn told(&mut self, probe: &Probe, outcome: &Outcome) -> Option<bool> {
        match outcome {
            Outcome::Unknown(_) => None,
            Outcome::Success => {
                (self.successes, self.failures) = (self.successes.saturating_add(1), 0);
                (self.successes >= probe.success).then_some(true)
            }
            Outcome::Failure(_) => {
                (self.successes, self.failures) = (0, self.failures.saturating_add(1));
                (self.failures >= probe.failure).then_some(false)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Role;
    use serde_json::json;

    fn of(spec: &Value) -> Option<Result<Probe, String>> {
        Probe::of(&Part { name: "a", spec, role: Role::Main }, "livenessProbe")
    }

    #[test]
    fn probes_are_read_and_named_ports_found() {
        let spec = json!({"ports": [{"name": "web", "containerPort": 8080}],
            "livenessProbe": {"httpGet": {"port": "web", "path": "health", "scheme": "HTTP"}, "periodSeconds": 3, "timeoutSeconds": 0}});
        let probe = of(&spec).unwrap().unwrap();
        assert!(matches!(&probe.handler, Handler::Http { port: 8080, path, .. } if path == "/health"));
        assert_eq!((probe.period, probe.timeout), (Duration::from_secs(3), Duration::from_secs(1)));
        assert!(of(&json!({"livenessProbe": {"tcpSocket": {"port": "none"}}})).unwrap().is_err());
        assert!(of(&json!({})).is_none());
    }

    #[test]
    fn it_takes_some_of_one_kind_in_a_row() {
        let spec = json!({"livenessProbe": {"exec": {"command": ["true"]}, "failureThreshold": 2, "successThreshold": 2}});
        let probe = of(&spec).unwrap().unwrap();
        let mut row = Row::default();
        let (good, bad, none) =
            (Outcome::Success, Outcome::Failure("x".into()), Outcome::Unknown("x".into()));
        let told: Vec<_> =
            [&good, &bad, &none, &bad, &bad, &good, &good].map(|outcome| row.told(&probe, outcome)).into();
        assert_eq!(told, [None, None, None, Some(false), Some(false), None, Some(true)]);
    }
}
