//! What the parameters of a request for a stream say: pure functions.

use super::backend::{LogOptions, Stdio};
use crate::http::request::Query;
use crate::status::{ApiError, Cause, CauseKind};
use chrono::{DateTime, TimeDelta, Utc};

/// Words of a command, and bytes of all of them: what Linux takes is in the same order.
const MAX_WORDS: usize = 4096;
/// Ports of one request; each is two channels of a byte.
const MAX_PORTS: usize = 64;

/// The streams that a client wants.
pub(super) fn stdio(query: &Query) -> Result<Stdio, ApiError> {
    let (tty, stderr) = (query.flag("tty"), query.flag("stderr"));
    // A terminal has one output.
    let stdio =
        Stdio { stdin: query.flag("stdin"), stdout: query.flag("stdout"), stderr: stderr && !tty, tty };
    if !stdio.stdin && !stdio.stdout && !stdio.stderr {
        return Err(ApiError::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    Ok(stdio)
}

/// What is to be run.
pub(super) fn command(query: &Query) -> Result<Vec<String>, ApiError> {
    let command: Vec<String> = query.all("command").map(str::to_owned).collect();
    if command.first().is_none_or(String::is_empty) {
        return Err(ApiError::bad_request("you must specify at least one command for the container"));
    }
    if command.len() > MAX_WORDS {
        return Err(ApiError::bad_request(format!("a command has at most {MAX_WORDS} words")));
    }
    Ok(command)
}

/// A part of a log, of a pod of this name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LogRequest {
    pub(super) options: LogOptions,
    pub(super) previous: bool,
    /// No more bytes than these.
    pub(super) limit: Option<u64>,
}

/// What is wanted of a log.
pub(super) fn log(query: &Query, pod: &str, now: DateTime<Utc>) -> Result<LogRequest, ApiError> {
    let mut causes = Vec::new();
    let mut number = |name: &'static str, least: i64| -> Result<Option<u64>, ApiError> {
        let text = query.text(name);
        if text.is_empty() {
            return Ok(None);
        }
        let bad = |_| ApiError::bad_request(format!("{name} must be a whole number, and is {text:?}"));
        let number: i64 = text.parse().map_err(bad)?;
        if number < least {
            let message = format!("{number}: must be greater than or equal to {least}");
            causes.push(Cause::new(CauseKind::Invalid, name, message));
        }
        Ok(u64::try_from(number).ok())
    };
    let (tail, limit, seconds) =
        (number("tailLines", 0)?, number("limitBytes", 1)?, number("sinceSeconds", 1)?);
    let time = match query.text("sinceTime") {
        "" => None,
        text => match DateTime::parse_from_rfc3339(text) {
            Ok(time) => Some(time.to_utc()),
            Err(_) => {
                let message = format!("sinceTime must be a time as RFC 3339 has it, and is {text:?}");
                return Err(ApiError::bad_request(message));
            }
        },
    };
    if time.is_some() && seconds.is_some() {
        let message = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        causes.push(Cause::new(CauseKind::Forbidden, "", message));
    }
    if !matches!(query.text("stream"), "" | "All") {
        let message = "only All: the two streams of a log are not told apart here";
        causes.push(Cause::new(CauseKind::NotSupported, "stream", message));
    }
    if !causes.is_empty() {
        return Err(ApiError::invalid("", "PodLogOptions", pod, causes));
    }
    // What reaches back behind all times is everything.
    let back = seconds.and_then(|seconds| TimeDelta::try_seconds(i64::try_from(seconds).ok()?));
    let since = time.or_else(|| now.checked_sub_signed(back?));
    let (follow, timestamps) = (query.flag("follow"), query.flag("timestamps"));
    let options = LogOptions { follow, since, tail, timestamps };
    Ok(LogRequest { options, previous: query.flag("previous"), limit })
}

/// The ports of a client that names them beforehand.
pub(super) fn ports(query: &Query) -> Result<Vec<u16>, ApiError> {
    let mut ports = Vec::new();
    for text in query.all("ports").flat_map(|list| list.split(',')) {
        let port = text.trim().parse().ok().filter(|port| *port > 0);
        ports.push(port.ok_or_else(|| {
            ApiError::bad_request(format!("a port is a number from 1 to 65535, and not {text:?}"))
        })?);
    }
    match ports.len() {
        0 => Err(ApiError::bad_request("at least one port must be specified: ?ports=8080")),
        1..=MAX_PORTS => Ok(ports),
        many => Err(ApiError::bad_request(format!("{many} ports at once are more than {MAX_PORTS}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn query(text: &str) -> Query {
        Query::parse(text).unwrap()
    }

    #[test]
    fn streams_and_commands_are_read() {
        let wanted = query("command=sh&command=-c&command=echo+a%26b&stdout=true&stderr=1&tty=true");
        assert_eq!(command(&wanted).unwrap(), ["sh", "-c", "echo a&b"]);
        assert_eq!(stdio(&wanted), Ok(Stdio { stdin: false, stdout: true, stderr: false, tty: true }));
        assert!(stdio(&query("command=sh")).is_err() && command(&query("stdin=true")).is_err());
    }

    #[test]
    fn a_part_of_a_log_is_chosen() {
        let now = DateTime::parse_from_rfc3339("2026-01-01T00:01:00Z").unwrap().to_utc();
        let asked = log(&query("follow=true&tailLines=0&sinceSeconds=60&limitBytes=9"), "p", now).unwrap();
        assert_eq!((asked.options.tail, asked.limit, asked.options.follow), (Some(0), Some(9), true));
        assert_eq!(asked.options.since.unwrap().to_rfc3339(), "2026-01-01T00:00:00+00:00");
        let all = log(&query("sinceSeconds=9223372036854775807"), "p", now).unwrap();
        assert_eq!(all.options.since, None);
        for bad in [
            "tailLines=-1",
            "limitBytes=0",
            "sinceSeconds=0",
            "tailLines=x",
            "sinceTime=now",
            "sinceTime=2026-01-01T00:00:00Z&sinceSeconds=1",
            "stream=Stderr",
        ] {
            assert!(log(&query(bad), "p", now).is_err(), "{bad}");
        }
    }

    #[test]
    fn ports_are_numbers() {
        assert_eq!(ports(&query("ports=80&ports=443,8080")).unwrap(), [80, 443, 8080]);
        for bad in ["", "ports=0", "ports=65536", "ports=a", &"ports=1&".repeat(65)] {
            assert!(ports(&query(bad)).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_parameters_are_too_strange(name in "(tailLines|sinceSeconds|sinceTime|limitBytes|ports|command)", value in "[-0-9TZ:+ ,]{0,24}") {
            let query = Query::parse(&format!("{name}={value}")).unwrap();
            let _ = (log(&query, "p", DateTime::UNIX_EPOCH), ports(&query), command(&query), stdio(&query));
        }
    }
}
