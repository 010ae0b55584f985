//! Many starts: what each costs, however many there are at a time, and what the last leaves behind.

use crate::vms::World;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;
use vial_vm::{ControlRequest, EndReason, Vm, VmId, VmSpec};
use vmm::api::status::ExitReason;

/// Starts before anything is counted: allocators and caches have what they need then.
const WARM_UP: u32 = 10;

/// What there is of a thing that starts may leave behind.
type Counts = BTreeMap<&'static str, u64>;

fn entries(folder: impl AsRef<Path>) -> u64 {
    std::fs::read_dir(folder).map_or(0, |entries| entries.count() as u64)
}

/// Anonymous memory of a process in KiB.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn counts(world: &World) -> Counts {
    let (ours, helper) = (std::process::id(), world.launcher.helper_pid().cast_unsigned());
    let cgroups = ["/sys/fs/cgroup/vial", "/sys/fs/cgroup/unified/vial"].map(entries).iter().sum();
    let children =
        std::fs::read_to_string(format!("/proc/{helper}/task/{helper}/children")).unwrap_or_default();
    [
        ("descriptors of this process", entries(format!("/proc/{ours}/fd"))),
        ("descriptors of the launcher", entries(format!("/proc/{helper}/fd"))),
        ("processes of the launcher", children.split_whitespace().count() as u64),
        ("KiB of the launcher", memory(helper)),
        ("folders of VMs", entries(world.registry.folder())),
        ("cgroups", cgroups),
    ]
    .into()
}

/// Starts and stops VMs one after the other, each by another way to end; what there is more of afterwards.
pub fn leaks(world: &World, count: u32) -> Vec<String> {
    let series = |count: u32| {
        for number in 0..count {
            world.runtime.block_on(start_and_end(world, number));
        }
    };
    series(WARM_UP);
    let before = counts(world);
    series(count);
    let after = counts(world);
    let more = after.iter().filter(|(what, number)| **number > before[*what]);
    more.map(|(what, number)| format!("{what}: {} before, {number} after {count} starts", before[*what]))
        .collect()
}

async fn start_and_end(world: &World, number: u32) {
    let spec = VmSpec { agent: number.is_multiple_of(2), ..VmSpec::new("test", world.vmm.kernel.clone()) };
    let vm = world.vm(&world.vmm, spec).await;
    // One in three is killed at whatever point of its start it is, the others end in order.
    let right = if number.is_multiple_of(3) {
        vm.kill().unwrap();
        EndReason::Killed
    } else {
        vm.control(ControlRequest::Stop {}).await.unwrap();
        EndReason::Exit(ExitReason::Stopped)
    };
    assert_eq!(vm.wait_exit().await.reason, right);
    vm.remove().await.unwrap();
}

/// Milliseconds of a start: from the launcher's order to the program's execution, and from the request to that.
struct Cost {
    jail: f64,
    whole: f64,
}

/// Prints what starts cost, so many at a time.
pub fn cost(world: &World, mounts: usize) {
    world.runtime.block_on(async {
        drop(together(world, 5).await);
        for count in [1, 10, 100] {
            // As many starts in each row.
            let mut all = Vec::new();
            while all.len() < 100 {
                all.extend(together(world, count).await);
            }
            let (jail, slow) = spread(all.iter().map(|cost| cost.jail));
            let (whole, slowest) = spread(all.iter().map(|cost| cost.whole));
            println!("| {count} | {mounts} | {jail:.2} | {slow:.2} | {whole:.2} | {slowest:.2} |");
        }
    });
}

/// Median and 95th percentile.
fn spread(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[values.len() * 95 / 100])
}

async fn together(world: &World, count: usize) -> Vec<Cost> {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..count {
        let (launcher, registry, parts) = (world.launcher.clone(), world.registry.clone(), world.vmm.clone());
        tasks.spawn(async move {
            let asked = Instant::now();
            let spec = VmSpec::new("test", parts.kernel.clone());
            let vm = Vm::launch(&launcher, &registry, &parts, VmId::random().unwrap(), spec).await.unwrap();
            (vm, asked.elapsed())
        });
    }
    let launched = tasks.join_all().await;
    let mut costs = Vec::new();
    for (vm, whole) in launched {
        let steps: BTreeMap<_, _> = vm.launch_steps().into_iter().collect();
        let (first, last) = (steps["launcher: order read"], steps["launcher: VMM executed"]);
        costs.push(Cost { jail: (last - first) as f64 / 1000.0, whole: whole.as_secs_f64() * 1000.0 });
        vm.kill().unwrap();
        vm.wait_exit().await;
        vm.remove().await.unwrap();
    }
    costs
}
