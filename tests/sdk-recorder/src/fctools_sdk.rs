//! fctools: everything that it can say, to a VM configured by requests, by a file, and to jailed ones.

use crate::stage::{Stage, TAP, USER};
use fctools::process_spawner::DirectProcessSpawner;
use fctools::runtime::tokio::TokioRuntime;
use fctools::vm::api::VmApi;
use fctools::vm::configuration::{InitMethod, VmConfiguration, VmConfigurationData};
use fctools::vm::models::*;
use fctools::vm::shutdown::{VmShutdownAction, VmShutdownMethod};
use fctools::vm::{Vm, VmState};
use fctools::vmm::arguments::jailer::{JailerArguments, JailerCgroupVersion};
use fctools::vmm::arguments::{VmmApiSocket, VmmArguments, VmmLogLevel};
use fctools::vmm::executor::VmmExecutor;
use fctools::vmm::executor::jailed::{FlatVirtualPathResolver, JailedVmmExecutor};
use fctools::vmm::executor::unrestricted::UnrestrictedVmmExecutor;
use fctools::vmm::installation::VmmInstallation;
use fctools::vmm::ownership::VmmOwnershipModel;
use fctools::vmm::resource::system::ResourceSystem;
use fctools::vmm::resource::{CreatedResourceType, MovedResourceType, ResourceType};
use serde_json::{Value, json};
use std::time::Duration;

type Resources = ResourceSystem<DirectProcessSpawner, TokioRuntime>;

fn installation(stage: &Stage) -> VmmInstallation {
    VmmInstallation::new(stage.at("bin/firecracker"), stage.at("bin/jailer"), stage.at("bin/snapshot-editor"))
}

fn limiter() -> RateLimiter {
    let bucket = |size, one_time_burst| TokenBucket { size, one_time_burst, refill_time: 100 };
    RateLimiter { bandwidth: bucket(1_000_000, Some(5)), ops: bucket(1000, None) }
}

/// A VM with nothing but a kernel and a root.
fn small(stage: &Stage, resources: &mut Resources) -> VmConfigurationData {
    let mut moved = |name: &str| {
        resources
            .create_resource(stage.at(name), ResourceType::Moved(MovedResourceType::Copied))
            .expect("resource")
    };
    VmConfigurationData {
        boot_source: BootSource {
            kernel_image: moved("kernel"),
            boot_args: Some("console=ttyS0 reboot=k panic=1 pci=off".into()),
            initrd: None,
        },
        drives: vec![Drive {
            drive_id: "rootfs".into(),
            is_root_device: true,
            cache_type: None,
            partuuid: None,
            is_read_only: Some(false),
            block: Some(moved("disk")),
            rate_limiter: None,
            io_engine: None,
            socket: None,
        }],
        pmem_devices: Vec::new(),
        machine_configuration: MachineConfiguration {
            vcpu_count: 1,
            mem_size_mib: 128,
            smt: None,
            track_dirty_pages: Some(true),
            huge_pages: None,
        },
        cpu_template: None,
        network_interfaces: Vec::new(),
        balloon_device: None,
        vsock_device: None,
        logger_system: None,
        metrics_system: None,
        memory_hotplug_configuration: None,
        mmds_configuration: None,
        entropy_device: None,
    }
}

/// One of each device.
fn large(stage: &Stage, resources: &mut Resources) -> VmConfigurationData {
    let mut data = small(stage, resources);
    let mut resource = |name: &str, kind| resources.create_resource(stage.at(name), kind).expect("resource");
    let copied = ResourceType::Moved(MovedResourceType::Copied);
    data.drives.push(Drive {
        drive_id: "data".into(),
        is_root_device: false,
        cache_type: Some(DriveCacheType::Writeback),
        partuuid: None,
        is_read_only: Some(true),
        block: Some(resource("data", copied)),
        rate_limiter: Some(limiter()),
        io_engine: Some(DriveIoEngine::Sync),
        socket: None,
    });
    data.pmem_devices.push(PmemDevice {
        id: "pmem0".into(),
        block: resource("pmem", copied),
        root_device: Some(false),
        read_only: Some(true),
    });
    data.cpu_template = Some(CpuTemplate::X86(X86CpuTemplate {
        kvm_capabilities: Vec::new(),
        cpuid_modifiers: vec![X86CpuidModifier {
            leaf: "0x1".into(),
            subleaf: "0x0".into(),
            flags: 0,
            modifiers: vec![X86CpuidRegisterModifier {
                register: X86CpuidRegister::Ecx,
                bitmap: "0bx0xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx".into(),
            }],
        }],
        msr_modifiers: Vec::new(),
    }));
    data.network_interfaces.push(NetworkInterface {
        iface_id: "eth0".into(),
        host_dev_name: TAP.into(),
        guest_mac: Some("06:00:ac:10:00:02".into()),
        rx_rate_limiter: Some(limiter()),
        tx_rate_limiter: None,
    });
    data.balloon_device = Some(BalloonDevice {
        amount_mib: 64,
        deflate_on_oom: false,
        stats_polling_interval_s: Some(1),
        free_page_reporting: Some(true),
        free_page_hinting: Some(true),
    });
    data.vsock_device = Some(VsockDevice { guest_cid: 3, uds: resource("vsock", ResourceType::Produced) });
    let created = ResourceType::Created(CreatedResourceType::File);
    data.logger_system = Some(LoggerSystem {
        logs: Some(resource("log", created)),
        level: Some(VmmLogLevel::Debug),
        show_level: Some(true),
        show_log_origin: Some(true),
        module: None,
    });
    let fifo = ResourceType::Created(CreatedResourceType::Fifo);
    data.metrics_system = Some(MetricsSystem { metrics: resource("metrics", fifo) });
    data.memory_hotplug_configuration = Some(MemoryHotplugConfiguration {
        total_size_mib: 1024,
        block_size_mib: Some(2),
        slot_size_mib: Some(128),
    });
    data.mmds_configuration = Some(MmdsConfiguration {
        version: MmdsVersion::V2,
        network_interfaces: vec!["eth0".into()],
        ipv4_address: Some([169, 254, 169, 254].into()),
        imds_compat: Some(true),
    });
    data.entropy_device = Some(EntropyDevice { rate_limiter: Some(limiter()) });
    data
}

async fn start<E: VmmExecutor>(
    stage: &Stage,
    executor: E,
    resources: Resources,
    configuration: VmConfiguration,
) -> Vm<E, DirectProcessSpawner, TokioRuntime> {
    let mut vm =
        Vm::prepare(executor, resources, installation(stage), configuration).await.expect("prepared");
    // A reader of the FIFO, as whoever wants metrics has.
    let metrics = vm.resolve_effective_path(stage.at("metrics"));
    if metrics.exists() {
        std::thread::spawn(move || std::fs::read(metrics));
    }
    vm.start(Duration::from_secs(20)).await.expect("started");
    vm
}

async fn stop<E: VmmExecutor>(mut vm: Vm<E, DirectProcessSpawner, TokioRuntime>) {
    let action =
        |method, graceful| VmShutdownAction { method, timeout: Some(Duration::from_secs(2)), graceful };
    let actions =
        [action(VmShutdownMethod::CtrlAltDel, true), action(VmShutdownMethod::PauseThenKill, false)];
    let outcome = vm.shutdown(actions).await.expect("one of them works");
    // The guest does not listen to its power button.
    assert_eq!(outcome.index, 1);
    vm.cleanup().await.expect("cleaned up");
}

/// All that can be asked of a running VM.
async fn ask<E: VmmExecutor>(stage: &Stage, vm: &mut Vm<E, DirectProcessSpawner, TokioRuntime>) {
    let info = vm.get_info().await.expect("info");
    assert!(!info.is_paused);
    vm.get_firecracker_version().await.expect("version");
    assert_eq!(vm.get_machine_configuration().await.expect("machine").mem_size_mib, 128);
    vm.flush_metrics().await.expect("metrics");
    assert_eq!(vm.get_balloon_device().await.expect("balloon").amount_mib, 64);
    vm.update_balloon_device(UpdateBalloonDevice { amount_mib: 50 }).await.expect("balloon");
    vm.update_balloon_statistics(UpdateBalloonStatistics { stats_polling_interval_s: 2 })
        .await
        .expect("statistics");
    assert_eq!(vm.get_balloon_statistics().await.expect("statistics").target_mib, 50);
    let other = stage.at("other-disk");
    let block = vm
        .get_resource_system_mut()
        .create_resource(&other, ResourceType::Moved(MovedResourceType::Copied))
        .expect("resource");
    block.start_initialization_with_same_path().expect("resource");
    vm.get_resource_system_mut().synchronize().await.expect("resource");
    let update = UpdateDrive { drive_id: "rootfs".into(), block: Some(block), rate_limiter: Some(limiter()) };
    vm.update_drive(update).await.expect("drive");
    let update = UpdateNetworkInterface {
        iface_id: "eth0".into(),
        rx_rate_limiter: None,
        tx_rate_limiter: Some(limiter()),
    };
    vm.update_network_interface(update).await.expect("interface");
    vm.create_mmds(json!({"latest": {"meta-data": {"ami-id": "ami-1"}}})).await.expect("metadata");
    vm.update_mmds(json!({"latest": {"meta-data": {"hostname": "h"}}})).await.expect("metadata");
    let metadata: Value = vm.get_mmds().await.expect("metadata");
    assert_eq!(metadata["latest"]["meta-data"], json!({"ami-id": "ami-1", "hostname": "h"}));
    assert_eq!(vm.get_memory_hotplug_status().await.expect("memory").total_size_mib, 1024);
    vm.pause().await.expect("paused");
    assert_eq!(vm.get_state(), VmState::Paused);
    assert!(vm.get_info().await.expect("info").is_paused);
    vm.resume().await.expect("resumed");
    // What is refused it takes from `fault_message`.
    let none = UpdateDrive { drive_id: "none".into(), block: None, rate_limiter: None };
    let refused = vm.update_drive(none).await.expect_err("there is none").to_string();
    assert!(refused.contains("400"), "{refused}");
}

/// Configured by requests.
pub async fn by_api(stage: &Stage) {
    stage.tap();
    for name in ["data", "other-disk"] {
        std::fs::write(stage.at(name), [0; 1 << 20]).expect("room");
    }
    std::fs::write(stage.at("pmem"), vec![0; 2 << 20]).expect("room");
    stage.found(&[
        ("kernel", "kernel"),
        ("disk", "disk"),
        ("data", "disk"),
        ("other-disk", "disk"),
        ("pmem", "disk"),
    ]);
    stage.found(&[("log", "empty"), ("metrics", "fifo")]);
    let mut resources = Resources::new(DirectProcessSpawner, TokioRuntime, VmmOwnershipModel::Shared);
    let data = large(stage, &mut resources);
    let arguments = VmmArguments::new(VmmApiSocket::Enabled(stage.at("api.sock")))
        .api_max_payload_bytes(60_000)
        .mmds_size_limit(70_000)
        .enable_boot_timer()
        .enable_pci_support();
    let executor =
        UnrestrictedVmmExecutor::new(arguments).id("fctools-1".to_owned().try_into().expect("an id"));
    let configuration = VmConfiguration::New { init_method: InitMethod::ViaApiCalls, data };
    let mut vm = start(stage, executor, resources, configuration).await;
    ask(stage, &mut vm).await;
    stop(vm).await;
}

/// Configured by a file that it writes.
pub async fn by_file(stage: &Stage) {
    stage.found(&[("kernel", "kernel"), ("disk", "disk")]);
    let mut resources = Resources::new(DirectProcessSpawner, TokioRuntime, VmmOwnershipModel::Shared);
    let mut data = small(stage, &mut resources);
    std::fs::write(stage.at("template.json"), "{\"kvm_capabilities\": [\"!171\"]}").expect("room");
    let template = resources
        .create_resource(stage.at("template.json"), ResourceType::Moved(MovedResourceType::Copied))
        .expect("resource");
    data.cpu_template = Some(CpuTemplate::Resource(template));
    let executor =
        UnrestrictedVmmExecutor::new(VmmArguments::new(VmmApiSocket::Enabled(stage.at("api.sock"))));
    let file = stage.at("configuration.json");
    let configuration = VmConfiguration::New { init_method: InitMethod::ViaJsonConfiguration(file), data };
    let mut vm = start(stage, executor, resources, configuration).await;
    assert!(!vm.get_info().await.expect("info").is_paused);
    stage.found_text("configuration.json");
    stage.found_text("template.json");
    stop(vm).await;
}

/// In a jail, with a PID namespace or as a daemon.
pub async fn jailed(stage: &Stage, namespace: bool) {
    stage.found(&[
        ("jails/firecracker/fctools-2/root/kernel", "kernel"),
        ("jails/firecracker/fctools-2/root/disk", "disk"),
    ]);
    std::fs::create_dir(stage.at("jails")).expect("room");
    let owner = VmmOwnershipModel::Downgraded { uid: USER, gid: USER };
    let mut resources = Resources::new(DirectProcessSpawner, TokioRuntime, owner);
    let data = small(stage, &mut resources);
    let jail = JailerArguments::new("fctools-2".to_owned().try_into().expect("an id"))
        .cgroup_version(JailerCgroupVersion::V2)
        .chroot_base_dir(stage.at("jails"))
        .max_fd_limit(1024)
        .daemonize();
    let jail = if namespace { jail.exec_in_new_pid_ns() } else { jail };
    let arguments = VmmArguments::new(VmmApiSocket::Enabled("/api.sock".into()));
    let executor = JailedVmmExecutor::new(arguments, jail, FlatVirtualPathResolver);
    let configuration = VmConfiguration::New { init_method: InitMethod::ViaApiCalls, data };
    let mut vm = start(stage, executor, resources, configuration).await;
    vm.pause().await.expect("paused");
    vm.resume().await.expect("resumed");
    stop(vm).await;
}
