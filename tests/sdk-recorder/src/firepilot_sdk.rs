//! firepilot: all that its `Machine` can say.

use crate::stage::{Stage, TAP};
use firepilot::builder::drive::DriveBuilder;
use firepilot::builder::executor::FirecrackerExecutorBuilder;
use firepilot::builder::kernel::KernelBuilder;
use firepilot::builder::network_interface::NetworkInterfaceBuilder;
use firepilot::builder::{Builder, Configuration};
use firepilot::machine::Machine;

pub async fn run(stage: &Stage) {
    stage.tap();
    // It copies the drive to where the VM's folder is, and boots the kernel from where it was.
    stage.found(&[("kernel", "kernel"), ("machines/one/rootfs", "disk")]);
    let kernel = KernelBuilder::new()
        .with_kernel_image_path(stage.text("kernel"))
        .with_boot_args("reboot=k panic=1 pci=off".into())
        .try_build()
        .expect("kernel");
    let drive = DriveBuilder::new()
        .with_drive_id("rootfs".into())
        .with_path_on_host(stage.at("disk"))
        .as_read_only()
        .as_root_device()
        .try_build()
        .expect("drive");
    let executor = FirecrackerExecutorBuilder::new()
        .with_chroot(stage.text("machines"))
        .with_exec_binary(stage.at("bin/firecracker"))
        .try_build()
        .expect("executor");
    let interface = NetworkInterfaceBuilder::new()
        .with_iface_id("eth0".into())
        .with_host_dev_name(TAP.into())
        .try_build()
        .expect("interface");
    let configuration = Configuration::new("one".into())
        .with_kernel(kernel)
        .with_executor(executor)
        .with_drive(drive)
        .with_interface(interface);
    let mut machine = Machine::new();
    machine.create(configuration).await.expect("created");
    machine.start().await.expect("started");
    machine.pause().await.expect("paused");
    machine.resume().await.expect("resumed");
    machine.stop().await.expect("asked to stop");
    machine.kill().await.expect("killed");
}
