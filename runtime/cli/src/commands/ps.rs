//! `vial ps`.

use super::{print_json, say, say_whole};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::filter;
use crate::format::Template;
use crate::list_args::PsArgs;
use crate::units::{ago, cell, table};
use hyper::Method;
use serde_json::{Value, json};
use vial_api::{Container, State};

/// Fields of a row for templates, with their headings; both as Docker has them.
const HEADINGS: [(&str, &str); 12] = [
    ("ID", "CONTAINER ID"),
    ("Names", "NAMES"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("State", "STATE"),
    ("Ports", "PORTS"),
    ("Labels", "LABELS"),
    ("Pod", "POD"),
    ("Restarts", "RESTARTS"),
];

/// Lists containers.
///
/// # Errors
/// When the daemon can't, or the template makes no sense.
pub async fn ps(client: &Client, args: &PsArgs) -> Result<i32> {
    let last = if args.latest { Some(1) } else { args.last };
    let all = args.all || last.is_some() || args.filter.iter().any(filter::Filter::wants_all);
    let mut containers: Vec<Container> = client.json(Method::GET, &format!("/containers?all={all}")).await?;
    containers.retain(|container| filter::holds(&args.filter, container));
    // They come newest first.
    containers.truncate(last.unwrap_or(usize::MAX));
    if args.json {
        print_json(&containers)?;
        return Ok(0);
    }
    let id = |container: &Container| {
        if args.no_trunc { container.id.clone() } else { short(&container.id).to_owned() }
    };
    if args.quiet {
        for container in &containers {
            say(&id(container))?;
        }
        return Ok(0);
    }
    let now = super::now_ms();
    if let Some(format) = &args.format {
        let rows: Vec<Value> =
            containers.iter().map(|container| row(container, id(container), now, args.no_trunc)).collect();
        return formatted(format, &rows);
    }
    let width = |max: usize| if args.no_trunc { usize::MAX } else { max };
    // Most people have none, and no use for an empty column.
    let pods = containers.iter().any(|container| container.pod_name.is_some());
    let line = |container: &Container| {
        let pod = pods.then(|| container.pod_name.clone().unwrap_or_default());
        let cells = vec![
            id(container),
            cell(&container.image, width(40)),
            cell(&command(container), width(24)),
            format!("{} ago", ago(now.saturating_sub(container.created_ms))),
            status(container, now),
            cell(&ports(container), width(40)),
            container.name.clone(),
        ];
        cells.into_iter().chain(pod).collect()
    };
    let rows: Vec<Vec<String>> = containers.iter().map(line).collect();
    let headings = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAME", "POD"];
    let shown = if pods { &headings[..] } else { &headings[..headings.len() - 1] };
    say(&table(shown, &rows))?;
    Ok(0)
}

fn command(container: &Container) -> String {
    format!("\"{}\"", container.command.join(" "))
}

fn ports(container: &Container) -> String {
    container.ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn row(container: &Container, id: String, now: u64, whole: bool) -> Value {
    let labels: Vec<String> = container.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    json!({
        "ID": id,
        "Names": container.name,
        "Image": container.image,
        "Command": cell(&command(container), if whole { usize::MAX } else { 24 }),
        "CreatedAt": container.created_ms,
        "RunningFor": format!("{} ago", ago(now.saturating_sub(container.created_ms))),
        "Status": status(container, now),
        "State": container.state.as_str(),
        "Ports": ports(container),
        "Labels": labels.join(","),
        "Pod": container.pod_name.as_deref().unwrap_or_else(|| short(&container.pod)),
        "Restarts": container.restart_count,
    })
}

/// Prints rows by `json`, `TEMPLATE`, or `table TEMPLATE`, whose columns are parted by tabs.
fn formatted(format: &str, rows: &[Value]) -> Result<i32> {
    if format == "json" {
        for row in rows {
            say(&serde_json::to_string(row)?)?;
        }
        return Ok(0);
    }
    let bad = |error: crate::format::TemplateError| Error::Message(error.to_string());
    // A shell's quotes leave \t as it is; Docker reads it as a tab too.
    let format = format.replace("\\t", "\t").replace("\\n", "\n");
    let Some(columns) = format.strip_prefix("table") else {
        let template = Template::parse(&format).map_err(bad)?;
        for row in rows {
            say_whole(&template.fill(row).map_err(bad)?)?;
        }
        return Ok(0);
    };
    let template = Template::parse(columns.trim_start()).map_err(bad)?;
    let headings =
        Value::Object(HEADINGS.map(|(key, heading)| (key.to_owned(), heading.into())).into_iter().collect());
    let cells = |text: String| text.split('\t').map(|text| cell(text, usize::MAX)).collect::<Vec<_>>();
    let headings = cells(template.fill(&headings).map_err(bad)?);
    let filled: Vec<Vec<String>> =
        rows.iter().map(|row| template.fill(row).map(cells)).collect::<Result<_, _>>().map_err(bad)?;
    say(&table(&headings.iter().map(String::as_str).collect::<Vec<_>>(), &filled))?;
    Ok(0)
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

fn status(container: &Container, now: u64) -> String {
    let since = |time: Option<u64>| ago(now.saturating_sub(time.unwrap_or(now)));
    match container.state {
        State::Created => "Created".into(),
        State::Starting => "Starting".into(),
        State::Dead => "Dead".into(),
        State::Paused => format!("Up {} (Paused)", since(container.started_ms)),
        State::Restarting => {
            let code = container.exit.as_ref().map_or(0, |exit| exit.code);
            format!("Restarting ({code}) {} ago", since(container.finished_ms))
        }
        State::Running => format!("Up {}", since(container.started_ms)),
        State::Removing => "Being removed".into(),
        State::Exited => {
            let code = container.exit.as_ref().map_or(0, |exit| exit.code);
            let oom = container.exit.as_ref().is_some_and(|exit| exit.oom);
            let memory = if oom { ", out of memory" } else { "" };
            format!("Exited ({code}{memory}) {} ago", since(container.finished_ms))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_read_well() {
        let mut container = Container {
            id: "a".repeat(64),
            name: "web".into(),
            pod: "b".repeat(64),
            pod_name: None,
            last_oom: None,
            image: "busybox".into(),
            image_id: "sha256:0".into(),
            command: vec!["sh".into()],
            state: State::Running,
            exit: None,
            created_ms: 0,
            started_ms: Some(1000),
            finished_ms: None,
            memory: 0,
            milli_cpus: 0,
            terminal: false,
            stdin: false,
            auto_remove: false,
            labels: Default::default(),
            restart: Default::default(),
            restart_count: 0,
            network: None,
            ports: vec![],
            vmm_pid: None,
        };
        assert_eq!(status(&container, 6000), "Up 5 seconds");
        container.state = State::Exited;
        container.exit = Some(vial_api::Exit { code: 137, oom: true, ..Default::default() });
        container.finished_ms = Some(5000);
        assert_eq!(status(&container, 6000), "Exited (137, out of memory) 1 second ago");
    }
}
