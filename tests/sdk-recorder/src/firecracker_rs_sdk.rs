//! firecracker-rs-sdk: HTTP/1.0 on one connection.
//!
//! What it spells wrongly (`banwidth`, metadata as a string, `WriteBack`) Firecracker refuses too and is left out. An answer whose length is a
//! multiple of 64 bytes it waits for for ever, whoever sends it: a number with one digit more can be the reason for a hang here.

use crate::stage::{Stage, TAP, USER};
use firecracker_rs_sdk::firecracker::FirecrackerOption;
use firecracker_rs_sdk::instance::Instance;
use firecracker_rs_sdk::jailer::JailerOption;
use firecracker_rs_sdk::models::*;

fn machine(vcpu_count: isize) -> MachineConfiguration {
    MachineConfiguration {
        cpu_template: None,
        smt: Some(false),
        mem_size_mib: 128,
        track_dirty_pages: None,
        vcpu_count,
        huge_pages: None,
    }
}

async fn boot(instance: &mut Instance, stage: &Stage) {
    instance
        .put_guest_boot_source(&BootSource {
            boot_args: Some("console=ttyS0 reboot=k panic=1 pci=off".into()),
            initrd_path: None,
            kernel_image_path: stage.at("kernel"),
        })
        .await
        .expect("kernel");
    instance
        .put_guest_drive_by_id(&Drive {
            drive_id: "rootfs".into(),
            partuuid: None,
            is_root_device: true,
            cache_type: None,
            is_read_only: false,
            path_on_host: stage.at("disk"),
            rate_limiter: None,
            io_engine: Some(IoEngine::Sync),
            socket: None,
        })
        .await
        .expect("drive");
}

/// Without a jail.
pub async fn plain(stage: &Stage) {
    stage.tap();
    std::fs::write(stage.at("log"), "").expect("room");
    std::fs::write(stage.at("metrics"), "").expect("room");
    std::fs::write(stage.at("other-disk"), [0; 1 << 20]).expect("room");
    stage.found(&[
        ("kernel", "kernel"),
        ("disk", "disk"),
        ("other-disk", "disk"),
        ("log", "empty"),
        ("metrics", "empty"),
    ]);
    let mut instance = FirecrackerOption::new(stage.at("bin/firecracker"))
        .api_sock(stage.at("api.sock"))
        .id("rs-sdk-1")
        .build()
        .expect("built");
    instance.start_vmm().await.expect("started");
    instance.get_firecracker_version().await.expect("version");
    let logger = Logger {
        level: Some(LogLevel::Debug),
        log_path: stage.at("log"),
        show_level: Some(true),
        show_log_origin: Some(true),
        module: None,
    };
    instance.put_logger(&logger).await.expect("log");
    instance.put_metrics(&Metrics { metrics_path: stage.at("metrics") }).await.expect("metrics");
    instance.put_machine_configuration(&machine(2)).await.expect("machine");
    instance.patch_machine_configuration(&machine(1)).await.expect("machine");
    assert_eq!(instance.get_machine_configuration().await.expect("machine").vcpu_count, 1);
    boot(&mut instance, stage).await;
    let interface = NetworkInterface {
        guest_mac: Some("06:00:ac:10:00:02".into()),
        host_dev_name: TAP.into(),
        iface_id: "eth0".into(),
        rx_rate_limiter: None,
        tx_rate_limiter: None,
    };
    instance.put_guest_network_interface_by_id(&interface).await.expect("interface");
    let balloon = Balloon { amount_mib: 8, deflate_on_oom: true, stats_polling_interval_s: Some(1) };
    instance.put_balloon(&balloon).await.expect("balloon");
    let vsock = Vsock { guest_cid: 3, uds_path: stage.at("vsock"), vsock_id: Some("vsock0".into()) };
    instance.put_guest_vsock(&vsock).await.expect("vsock");
    instance.put_entropy_device(&EntropyDevice { rate_limiter: None }).await.expect("entropy");
    let mmds = MmdsConfig {
        version: Some(MmdsConfigVersion::V2),
        ipv4_address: Some([169, 254, 169, 254].into()),
        network_interfaces: vec!["eth0".into()],
    };
    instance.put_mmds_config(&mmds).await.expect("metadata");
    instance.start().await.expect("started");
    instance.describe_instance().await.expect("info");
    assert_eq!(instance.describe_balloon_config().await.expect("balloon").amount_mib, 8);
    instance.describe_balloon_stats().await.expect("statistics");
    instance.patch_balloon(&BalloonUpdate { amount_mib: 4 }).await.expect("balloon");
    let often = BalloonStatsUpdate { stats_polling_interval_s: 2 };
    instance.patch_balloon_stats_interval(&often).await.expect("statistics");
    let drive = PartialDrive {
        drive_id: "rootfs".into(),
        path_on_host: Some(stage.at("other-disk")),
        rate_limiter: None,
    };
    instance.patch_guest_drive_by_id(&drive).await.expect("drive");
    let interface =
        PartialNetworkInterface { iface_id: "eth0".into(), rx_rate_limiter: None, tx_rate_limiter: None };
    instance.patch_guest_network_interface_by_id(&interface).await.expect("interface");
    instance.get_export_vm_config().await.expect("configuration");
    instance.create_sync_action(ActionType::FlushMetrics).await.expect("metrics");
    instance.pause().await.expect("paused");
    instance.resume().await.expect("resumed");
    instance.stop().await.expect("asked to stop");
}

/// In a jail. It looks for the process id in it.
pub async fn jailed(stage: &Stage) {
    let root = "jails/firecracker/rs-sdk-2/root";
    std::fs::create_dir(stage.at("jails")).expect("room");
    std::os::unix::fs::chown(stage.at("disk"), Some(USER), Some(USER)).expect("root");
    let program = stage.at("bin/firecracker");
    let user = usize::try_from(USER).expect("small");
    let mut instance = JailerOption::new(stage.at("bin/jailer"), &program, "rs-sdk-2", user, user)
        .chroot_base_dir(Some(stage.at("jails")))
        .firecracker_option(Some(FirecrackerOption::new(&program).api_sock("/run/api.sock")))
        .build()
        .expect("built");
    instance.start_vmm().await.expect("started");
    instance.put_machine_configuration(&machine(1)).await.expect("machine");
    boot(&mut instance, stage).await;
    let (kernel, disk) = (format!("{root}/kernel"), format!("{root}/disk"));
    stage.found(&[(&kernel, "kernel"), (&disk, "disk")]);
    instance.start().await.expect("started");
    instance.pause().await.expect("paused");
    instance.resume().await.expect("resumed");
    instance.stop().await.expect("asked to stop");
}
