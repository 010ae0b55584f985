//! A pod that stands still: its VM's vCPUs are stopped, so every process in it is, with nothing in the guest to ask. That it does is the VMM's
//! to know and nobody else's, so it survives whoever paused it.

use crate::error::PodError;
use crate::ids::PodId;
use vial_vm::{ControlReply, ControlRequest, Registry, Vm};

async fn vm(registry: &Registry, pod: &PodId) -> Result<Vm, PodError> {
    Ok(registry.attach(&pod.vm_name().parse()?).await?)
}

/// Stops a pod's vCPUs; returns when all stand still.
///
/// # Errors
/// When there is no such VM, or it does not answer.
pub async fn pause(registry: &Registry, pod: &PodId) -> Result<(), PodError> {
    vm(registry, pod).await?.control(ControlRequest::Pause {}).await?;
    Ok(())
}

/// Lets a pod's vCPUs go on.
///
/// # Errors
/// When there is no such VM, or it does not answer.
pub async fn resume(registry: &Registry, pod: &PodId) -> Result<(), PodError> {
    vm(registry, pod).await?.control(ControlRequest::Resume {}).await?;
    Ok(())
}

/// Whether a pod stands still.
///
/// # Errors
/// When there is no such VM, or it does not answer.
pub async fn is_paused(registry: &Registry, pod: &PodId) -> Result<bool, PodError> {
    let reply = vm(registry, pod).await?.control(ControlRequest::Info {}).await?;
    Ok(matches!(reply, ControlReply::Ok { state, .. } if state == "paused"))
}

/// Kills a pod's VM, whether it stands still or not.
///
/// # Errors
/// When it can't be killed. That it is gone already is as good.
pub async fn kill(registry: &Registry, pod: &PodId) -> Result<(), PodError> {
    match vm(registry, pod).await {
        Err(PodError::Vm(vial_vm::Error::NotFound(_))) => Ok(()),
        found => Ok(found?.kill()?),
    }
}

/// Waits for the end of a pod's VM.
///
/// # Errors
/// When there is no such VM.
pub async fn ended(registry: &Registry, pod: &PodId) -> Result<vial_vm::VmExit, PodError> {
    Ok(vm(registry, pod).await?.wait_exit().await)
}
