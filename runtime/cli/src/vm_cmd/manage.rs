//! `vial vm ls | stop | kill | rm | inspect`.

use super::{DETACHED, registry, runtime, write};
use serde_json::json;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use vial_vm::exit::{LostDevice, Status, Step};
use vial_vm::spec::OWNER_VM;
use vial_vm::{ControlReply, ControlRequest, Device, Error, Registry, Vm, VmId, VmInfo, VmState};

pub fn list(json: bool) -> Result<i32, Error> {
    let all = registry()?.list()?;
    if json {
        print_json(&all)?;
    } else {
        write(&table(&all, now_ms()))?;
    }
    Ok(0)
}

pub fn stop(names: &[String], seconds: u32) -> Result<i32, Error> {
    let grace = Duration::from_secs(seconds.into());
    each(names, async |vm| vm.stop(grace).await.map(drop))
}

pub fn kill(names: &[String]) -> Result<i32, Error> {
    each(names, async |vm| {
        vm.kill()?;
        vm.wait_exit().await;
        Ok(())
    })
}

pub fn remove(names: &[String]) -> Result<i32, Error> {
    each(names, async |vm| match vm.info()?.state {
        VmState::Ended(_) => Ok(()),
        _ => Err(Error::Running(vm.id().clone())),
    })
}

pub fn inspect(name: &str, as_json: bool) -> Result<i32, Error> {
    let registry = registry()?;
    let info = registry.info(&name.parse()?)?;
    let config = std::fs::read(info.folder.join("config.json")).ok();
    let config: Option<serde_json::Value> = config.and_then(|text| serde_json::from_slice(&text).ok());
    let Status { milestones, lost, .. } = Status::read(&info.folder.join("status.jsonl"));
    let milestones = match &info.state {
        VmState::Ended(exit) => &exit.milestones,
        _ => &milestones,
    };
    let devices = devices(&registry, &info);
    if as_json {
        print_json(&json!({
            "vm": info, "milestones": milestones, "lost": lost, "config": config, "devices": devices.as_ref().ok(),
        }))?;
        return Ok(0);
    }
    let mut text = String::new();
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(text, "{name:<10} {value}");
    };
    line("name", &info.id);
    line("state", &state(&info.state));
    line("owner", &info.owner);
    if let Some(pid) = info.pid {
        line("process", &pid);
    }
    if let Some(uid) = info.uid {
        line("user id", &uid);
    }
    line("age", &age(now_ms().saturating_sub(info.created_unix_ms)));
    line("vCPUs", &info.cpus);
    line("memory", &format_args!("{} MiB", info.memory_mib));
    line("kernel", &info.kernel.display());
    line("folder", &info.folder.display());
    if let Some(cgroup) = &info.cgroup {
        line("cgroup", &cgroup.display());
    }
    if !info.unenforced.is_empty() {
        line("no limit", &info.unenforced.join(", "));
    }
    match &devices {
        Ok(devices) => devices.iter().for_each(|device| line("device", &describe(device))),
        Err(why) => line("devices", &format_args!("unknown: {why}")),
    }
    for LostDevice { device, detail, .. } in &lost {
        line("lost", &format_args!("{device}: {detail}"));
    }
    for (name, value) in &info.labels {
        line("label", &format_args!("{name}={value}"));
    }
    write(&text)?;
    Ok(0)
}

/// The devices of a VM that runs, as its process tells them; none of another.
fn devices(registry: &Registry, info: &VmInfo) -> Result<Vec<Device>, Error> {
    if info.state != VmState::Running {
        return Ok(Vec::new());
    }
    let asked = async { registry.attach(&info.id).await?.control(ControlRequest::Devices {}).await };
    match runtime()?.block_on(asked)? {
        ControlReply::Devices { devices } => Ok(devices),
        // One of an older Vial refuses.
        other => Err(Error::Control(format!("the VM's process answered something else: {other:?}"))),
    }
}

/// A device for people.
fn describe(device: &Device) -> String {
    let leaving = if device.asked_for { ", to be unplugged" } else { "" };
    let queues = match device.queues {
        1 => "1 queue".to_owned(),
        count => format!("{count} queues"),
    };
    format!("{}: {}{leaving}, {queues}", device.name, device.state.word())
}

/// A step's name for people.
pub fn step_name(step: Step) -> &'static str {
    match step {
        Step::ProcessStart => "VM process started",
        Step::Configured => "configuration read",
        Step::VmBuilt => "VM, memory and devices made",
        Step::KernelLoaded => "kernel loaded",
        Step::FirstRun => "first guest instruction",
    }
}

/// Ends VMs of `vial vm run` in one way or another and removes what is left of detached ones; the others' own `vial vm run` does that
/// itself. Goes on after a failure.
fn each(names: &[String], end: impl AsyncFn(&Vm) -> Result<(), Error>) -> Result<i32, Error> {
    let (registry, runtime) = (registry()?, runtime()?);
    let mut code = 0;
    for name in names {
        let done = runtime.block_on(async {
            let id: VmId = name.parse()?;
            let info = registry.info(&id)?;
            if info.owner != OWNER_VM {
                return Err(Error::Refused(format!(
                    "VM {id} is a pod's, and its container is the daemon's to end; see vial ps, then use vial stop, vial kill or vial rm"
                )));
            }
            if info.state == VmState::Starting {
                return Err(Error::Refused(format!("VM {id} is being started; try again when it runs")));
            }
            let vm = registry.attach(&id).await?;
            end(&vm).await?;
            clean(&registry, &info).await
        });
        match done {
            Ok(()) => write(&format!("{name}\n"))?,
            Err(error) => {
                crate::output::tell(&error.to_string());
                code = 1;
            }
        }
    }
    Ok(code)
}

async fn clean(registry: &Registry, info: &VmInfo) -> Result<(), Error> {
    if !info.labels.contains_key(DETACHED) && !matches!(info.state, VmState::Ended(_)) {
        return Ok(());
    }
    match registry.remove(&info.id).await {
        Err(Error::NotFound(_)) => Ok(()),
        other => other,
    }
}

fn print_json(value: &impl serde::Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value).expect("plain data with text keys is always JSON");
    write(&(text + "\n"))
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

fn state(state: &VmState) -> String {
    match state {
        VmState::Starting => "starting".into(),
        VmState::Running => "running".into(),
        VmState::Ended(exit) => format!("ended ({exit})"),
    }
}

fn age(ms: u64) -> String {
    match ms / 1000 {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}

fn table(all: &[VmInfo], now: u64) -> String {
    let head = ["NAME", "OWNER", "VCPUS", "MEMORY", "AGE", "PID", "STATE"].map(str::to_owned);
    let rows = all.iter().map(|vm| {
        [
            vm.id.to_string(),
            vm.owner.clone(),
            vm.cpus.to_string(),
            format!("{} MiB", vm.memory_mib),
            age(now.saturating_sub(vm.created_unix_ms)),
            vm.pid.map_or("-".into(), |pid| pid.to_string()),
            state(&vm.state),
        ]
    });
    let rows: Vec<[String; 7]> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..7).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let info = serde_json::from_value(json!({
            "id": "web", "owner": "vm", "labels": {}, "state": "running", "pid": 7, "uid": null,
            "created_unix_ms": 1000, "cpus": 2, "memory_mib": 512, "kernel": "/k", "folder": "/f", "cgroup": null,
            "unenforced": [],
        }));
        let text = table(&[info.unwrap()], 200_000);
        assert_eq!(
            text,
            "NAME  OWNER  VCPUS  MEMORY   AGE    PID  STATE\nweb   vm     2      512 MiB  3 min  7    running\n"
        );
    }
}
