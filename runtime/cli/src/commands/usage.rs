//! `vial stats`, `vial top`.

use super::{print_json, say};
use crate::args::{StatsArgs, TopArgs};
use crate::client::{Client, escape};
use crate::error::{Error, Result};
use crate::units::{bytes, cell, table};
use hyper::Method;
use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::Duration;
use vial_api::{Container, ErrorKind, Process, Usage};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// Back to the corner of the terminal, and everything behind it empty (ECMA-48 CUP, ED).
const REDRAW: &str = "\x1b[H\x1b[J";

/// Prints what containers use, again and again unless told otherwise.
///
/// # Errors
/// When the daemon can't, or a container that was named does not run.
pub async fn stats(client: &Client, args: &StatsArgs) -> Result<i32> {
    let mut before = look(client, args).await?;
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.tick().await;
    let redraw = std::io::stdout().is_terminal() && !args.no_stream && !args.json;
    loop {
        // Processor use is a difference: the first table comes with the second look.
        ticks.tick().await;
        let now = look(client, args).await?;
        if args.json && args.no_stream {
            print_json(&now)?;
        } else if args.json {
            say(&serde_json::to_string(&now)?)?;
        } else {
            let text = render(&before, &now);
            say(&if redraw { format!("{REDRAW}{text}") } else { text })?;
        }
        if args.no_stream {
            return Ok(0);
        }
        before = now;
    }
}

async fn look(client: &Client, args: &StatsArgs) -> Result<Vec<Usage>> {
    let all = args.names.is_empty();
    let names = match all {
        false => args.names.clone(),
        true => {
            let running: Vec<Container> = client.json(Method::GET, "/containers?all=false").await?;
            running.into_iter().map(|container| container.id).collect()
        }
    };
    let mut seen = Vec::with_capacity(names.len());
    for name in names {
        match client.json(Method::GET, &format!("/containers/{}/stats", escape(&name))).await {
            Ok(usage) => seen.push(usage),
            // It ended between the list and the look.
            Err(Error::Api(body))
                if all && matches!(body.kind, ErrorKind::Conflict | ErrorKind::NoSuchContainer) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(seen)
}

fn render(before: &[Usage], now: &[Usage]) -> String {
    let earlier: HashMap<&str, &Usage> = before.iter().map(|usage| (usage.id.as_str(), usage)).collect();
    let row = |usage: &Usage| {
        let pair = |a, b| format!("{} / {}", bytes(a), bytes(b));
        vec![
            cell(usage.id.get(..12).unwrap_or(&usage.id), 12),
            cell(&usage.name, 30),
            cpu(earlier.get(usage.id.as_str()).copied(), usage),
            pair(usage.memory_bytes, usage.memory_limit_bytes),
            percent(usage.memory_bytes, usage.memory_limit_bytes),
            pair(usage.received_bytes, usage.sent_bytes),
            pair(usage.read_bytes, usage.written_bytes),
            usage.pids.to_string(),
        ]
    };
    let headings =
        ["CONTAINER ID", "NAME", "CPU %", "MEMORY / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS"];
    table(&headings, &now.iter().map(row).collect::<Vec<_>>())
}

/// Of one processor: a container on two can have 200 %.
fn cpu(before: Option<&Usage>, now: &Usage) -> String {
    let since = |get: fn(&Usage) -> u64| before.map_or(0, |before| get(now).saturating_sub(get(before)));
    percent(since(|usage| usage.cpu_usec), since(|usage| usage.at_us))
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "--".into() } else { format!("{:.2}%", part as f64 * 100.0 / whole as f64) }
}

/// Prints what runs in a container.
///
/// # Errors
/// When it does not run.
pub async fn top(client: &Client, args: &TopArgs) -> Result<i32> {
    let path = format!("/containers/{}/top", escape(&args.container));
    let processes: Vec<Process> = client.json(Method::GET, &path).await?;
    if args.json {
        print_json(&processes)?;
        return Ok(0);
    }
    let row = |process: &Process| {
        let seconds = process.cpu_usec / 1_000_000;
        vec![
            process.pid.to_string(),
            process.ppid.to_string(),
            process.uid.to_string(),
            cell(&process.state, 1),
            format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
            bytes(process.resident_bytes),
            cell(&process.command, 100),
        ]
    };
    let rows: Vec<_> = processes.iter().map(row).collect();
    say(&table(&["PID", "PPID", "UID", "S", "TIME", "RSS", "COMMAND"], &rows))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_use_is_a_difference_over_the_guests_clock() {
        let at = |at_us, cpu_usec| Usage { at_us, cpu_usec, ..Usage::default() };
        assert_eq!(cpu(Some(&at(1_000_000, 100)), &at(2_000_000, 1_500_100)), "150.00%");
        assert_eq!(cpu(None, &at(2_000_000, 1)), "--");
        assert_eq!(cpu(Some(&at(5, 5)), &at(5, 5)), "--", "a clock that stood still");
        assert_eq!(cpu(Some(&at(9, 9)), &at(5, 5)), "--", "a container of the same name in a new VM");
    }
}
