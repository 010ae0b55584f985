//! Memory that VMs take.

use super::observe::There;
use vial_api::{PodState, State};
use vial_orchestrator::node::schedule::Size;
use vial_sandbox::sizing;

/// Bytes of a declared pod's VM; one of a size that can't be fits nowhere.
pub fn vm_bytes(size: Size) -> u64 {
    sizing::shared_vm_size(size.memory, size.milli_cpus, size.slots)
        .map_or(u64::MAX >> 8, |vm| vm.memory_mib << 20)
}

/// Bytes of the VMs that nobody declared.
pub fn others(there: &There) -> u64 {
    let (pods, containers) = &there.others;
    let pods = pods.iter().filter(|pod| matches!(pod.state, PodState::Starting | PodState::Running));
    let pods = pods
        .filter_map(|pod| sizing::shared_vm_size(pod.memory(), pod.milli_cpus(), pod.max_containers()).ok());
    let alone = containers.iter().filter(|record| {
        record.pod_name.is_none() && matches!(record.state, State::Starting | State::Running)
    });
    let alone = alone.filter_map(|record| sizing::vm_size(record.memory, record.milli_cpus).ok());
    pods.chain(alone).map(|vm| vm.memory_mib << 20).sum()
}
