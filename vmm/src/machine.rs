//! Builds the machine: one story from files to running vCPUs.

use crate::api::config::{self, VmConfig};
use crate::api::control::Plugged;
use crate::api::status::{ExitReason, Step};
use crate::arch::{self, ArchError, acpi, boot, layout};
use crate::backplane::{Attached, Backplane};
use crate::boot_timer::BootTimer;
use crate::bus::BadRange;
use crate::control::ReplyTo;
use crate::devices::{self, Made, MakeError, Prepared};
use crate::end::EndSignal;
use crate::files::Files;
use crate::generation::{Generation, GenerationError};
use crate::handles::{HandleError, Handles};
use crate::io_threads::{IoThreads, Rings};
use crate::kernel::{LoadError, Loader, Source};
use crate::memory::{self, KvmSlots, MemoryError, PmemError, PmemMapping, Recipe, Slots};
use crate::platform;
use crate::plugs::{Name, PlugError, Plugs};
use crate::seccomp::{Filter, SeccompError, Thread, Uses};
use crate::status::Status;
use crate::validate::{self, ConfigError};
use crate::vcpu::{Gate, Shared, Threads, VcpuError, Vcpus};
use crate::virtio::{Core, DeviceError, FaultSink, GuestMemory, Surroundings, Transport, WorkerLoop};
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use std::fs::File;
use std::io;
use std::sync::mpsc::channel;
use std::sync::{Arc, MutexGuard, PoisonError};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Kernel or initrd.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A device.
    #[error(transparent)]
    Device(#[from] MakeError),
    /// The platform.
    #[error(transparent)]
    Arch(#[from] ArchError),
    /// vCPU threads.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// Filters.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    /// Two devices at one place: a fault of this program.
    #[error("the machine's own address plan contradicts itself")]
    Plan(#[from] BadRange),
    /// More devices than a PCI bus has slots.
    #[error("too many devices: a PCI bus has room for 31; remove some, or set vial.transport to mmio")]
    NoSlot,
    /// A file can't be in the guest's address space.
    #[error("the file of pmem {id:?} can't be used")]
    Pmem {
        /// Which.
        id: String,
        /// Why.
        #[source]
        source: PmemError,
    },
    /// The generation ID.
    #[error(transparent)]
    Generation(#[from] GenerationError),
    /// A KVM call.
    #[error("KVM could not {step}")]
    Kvm {
        /// What was being done.
        step: &'static str,
        /// errno.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// A thread or event could not be made.
    #[error("could not make {what}; does a limit on threads or descriptors stand in the way?")]
    Resource {
        /// What.
        what: &'static str,
        /// errno.
        #[source]
        source: io::Error,
    },
}

impl BuildError {
    /// Whose fault it is.
    pub fn reason(&self) -> ExitReason {
        match self {
            Self::Config(_)
            | Self::Load(_)
            | Self::Device(_)
            | Self::NoSlot
            | Self::Pmem { .. }
            | Self::Memory(MemoryError::FileTooShort { .. }) => ExitReason::BadConfig,
            Self::Arch(
                ArchError::CommandLineTooLong(_)
                | ArchError::CommandLineNotAscii
                | ArchError::TooManyDevices(_)
                | ArchError::TablesTooBig(_)
                | ArchError::MissingByTemplate(_)
                | ArchError::NoLeaf { .. }
                | ArchError::Msr(_),
            ) => ExitReason::BadConfig,
            _ => ExitReason::InternalError,
        }
    }
}

pub(crate) fn kvm_step(step: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> BuildError {
    move |source| BuildError::Kvm { step, source }
}

pub(crate) fn resource(what: &'static str) -> impl FnOnce(io::Error) -> BuildError {
    move |source| BuildError::Resource { what, source }
}

/// A running machine.
pub struct Machine {
    /// Its vCPUs.
    pub vcpus: Vcpus,
    /// What of its devices may be changed.
    pub handles: Handles,
    /// How the guest hears that it is a copy.
    pub generation: Generation,
    memory_mib: u64,
    power_button: EventFd,
    /// In the order in which the guest finds them.
    transports: Vec<Attached>,
    // A PCI bus, if that is where they are.
    plugs: Option<Box<Plugs>>,
    id: String,
    // Interrupts and kicks are registered with it; it closes last.
    _vm: Arc<VmFd>,
}

impl Machine {
    /// Takes every device out of the event loop, in the guest's order. The vCPUs stand still by then: none of them starts a
    /// device behind the caller's back.
    pub fn pause_devices(&self) {
        self.transports.iter().for_each(|transport| lock(transport).core_mut().pause());
    }

    /// Lets paused devices go on, the last one first: what one was built on is there before it.
    ///
    /// # Errors
    /// The event loop is gone.
    pub fn resume_devices(&self) -> Result<(), DeviceError> {
        self.transports.iter().rev().try_for_each(|transport| lock(transport).core_mut().resume())
    }

    /// Asks the guest to have so many MiB of hot-pluggable memory.
    ///
    /// # Errors
    /// There is none, not so much, or not in such pieces.
    pub fn resize_memory(&self, requested_mib: u64) -> Result<(), HandleError> {
        let (memory, signals) = self.handles.memory()?;
        Ok(memory.resize(requested_mib, signals)?)
    }

    /// Asks the guest for another amount of its memory, in MiB.
    ///
    /// # Errors
    /// There is no balloon, or the guest has not so much.
    pub fn resize_balloon(&self, amount_mib: u32) -> Result<(), HandleError> {
        let (balloon, signals) = self.handles.balloon()?;
        Ok(balloon.resize(amount_mib, self.memory_mib, signals)?)
    }

    /// Calls `visit` with each device and what its driver has made of it, in the guest's order.
    pub fn each_device(&self, mut visit: impl FnMut(&Core)) {
        self.transports.iter().for_each(|transport| visit(lock(transport).core()));
    }

    /// Plugs in a drive of these files, or an interface of this TAP, checked before: what `document` says of threads and rings it can't
    /// have any more.
    ///
    /// # Errors
    /// See [`HandleError`]; nothing has changed then, and the files are closed.
    pub fn plug(&mut self, document: &Plugged, files: Vec<File>) -> Result<(), HandleError> {
        let plugs = self.plugs.as_mut().ok_or(PlugError::NoBus)?;
        let (made, name) = match document {
            Plugged::Drive(drive) => {
                let made = devices::make_drive(drive, files, &mut Prepared::default())?;
                (made, Name::Drive(drive.drive_id.clone()))
            }
            Plugged::Interface(interface) => {
                let made = devices::make_interface(interface, &self.id, files, None, None)?;
                (made, Name::Interface(interface.iface_id.clone()))
            }
        };
        Ok(plugs.plug(made, name, &mut self.transports, &mut self.handles)?)
    }

    /// Asks the guest to let go of a device; `reply` hears of it when it has, or at once that it is not there.
    pub fn unplug(&mut self, name: Name, reply: ReplyTo) {
        let result = match &mut self.plugs {
            Some(plugs) => plugs.ask(name, reply),
            None => Err((PlugError::NoBus, reply)),
        };
        if let Err((error, reply)) = result {
            reply.refuse(error.to_string());
        }
    }

    /// Forgets the devices that the guest has let go of; who waits to hear of it.
    pub fn clear_unplugged(&mut self) -> Vec<ReplyTo> {
        let Self { plugs, transports, handles, .. } = self;
        plugs.as_mut().map(|plugs| plugs.clear(transports, handles)).unwrap_or_default()
    }

    /// Raises the interrupt of the generic event device.
    pub fn press_power_button(&self) -> io::Result<()> {
        self.power_button.write(1)
    }
}

fn lock(transport: &Attached) -> MutexGuard<'_, dyn Transport + 'static> {
    transport.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a machine is built from besides its configuration.
pub struct Parts {
    /// /dev/kvm.
    pub kvm: Kvm,
    /// Everything else that is open.
    pub files: Files,
    /// Name of the VM.
    pub id: String,
    /// Where devices' workers run.
    pub workers: WorkerLoop,
    /// Where it is said that the VM ends.
    pub end: EndSignal,
    /// Where vCPUs wait while paused.
    pub gate: Arc<Gate>,
    /// Where steps are recorded.
    pub status: Status,
    /// Whether the guest has a boot timer.
    pub boot_timer: bool,
}

/// Builds a machine and lets its vCPUs run.
///
/// The order matters: threads before filters (none can be made later), filters before the first byte from a kernel or a
/// disk, the kernel read while KVM makes the VM, its entry point last.
pub fn start(config: &VmConfig, parts: Parts) -> Result<Machine, BuildError> {
    let Parts { kvm, mut files, id, workers, end, gate, status, boot_timer } = parts;
    let timer = boot_timer.then(BootTimer::start);
    let rings = Rings::make(config, &files);
    let (loader, threads, io_threads) = confine(config, &end)?;

    let size = config.machine_config.mem_size_mib << 20;
    let memory = memory::allocate(size, &files.memory)?;
    let source = Source {
        kernel: files.kernel.try_clone().map_err(resource("a descriptor"))?,
        initrd: files.initrd.take(),
        load: config.boot_source.load.unwrap_or_default(),
        protocol: config.boot_source.entry,
        memory_size: size,
    };
    loader.start(source, memory.clone())?;

    let vm = Arc::new(make_vm(config, &kvm, &memory)?);
    let pmem = map_pmem(config, &vm, &memory, files.pmem.drain(..))?;
    let (memory, hotplug) = hotplug(config, &vm, memory, files.hotplug.as_ref(), &pmem)?;
    let mut prepared = Prepared { rings, threads: io_threads, pmem, hotplug };
    let surroundings = surroundings(&memory, workers, &end);
    let mut backplane = Backplane::new(Arc::clone(&vm), surroundings, config.vial.transport)?;
    platform::insert(&mut backplane.ports, &end)?;
    if let Some(timer) = timer {
        backplane.mmio.insert(layout::BOOT_TIMER, layout::BOOT_TIMER_SIZE, Box::new(timer))?;
    }
    let power_button = EventFd::new(EFD_NONBLOCK).map_err(resource("an event"))?;
    vm.register_irqfd(&power_button, layout::GED_GSI).map_err(kvm_step("wire the power button"))?;
    let copied = EventFd::new(EFD_NONBLOCK).map_err(resource("an event"))?;
    vm.register_irqfd(&copied, layout::GENERATION_GSI).map_err(kvm_step("wire the generation ID"))?;
    let generation = Generation::new(memory.clone(), copied)?;
    let mut handles = Handles::default();
    for Made { device, handle } in devices::make(config, &id, &mut files, &mut prepared)? {
        let name = handle.name();
        handles.add(handle, backplane.attach(device, name)?);
    }
    if let Some(files) = files.serial.take() {
        backplane.attach_serial(files)?;
    }
    let vcpus = make_vcpus(config, &kvm, &vm)?;
    status.milestone(Step::VmBuilt);

    let line = validate::command_line(config)?;
    let mut description = boot::Description {
        memory_size: size,
        command_line: &line,
        initrd: None,
        header: None,
        vcpus: config.machine_config.vcpu_count,
        devices: backplane.places(),
        extras: acpi::Extras { serial: config.serial.is_some(), pci: backplane.has_pci() },
    };
    boot::write_tables(&memory, &description)?;
    let loaded = loader.finish(&memory)?;
    status.milestone(Step::KernelLoaded);

    (description.initrd, description.header) = (loaded.initrd, loaded.header);
    boot::write_protocol(&memory, &description, loaded.entry.protocol)?;
    arch::set_entry(&vcpus[0], loaded.entry, &memory)?;
    let (ports, mmio, transports, plugs) = backplane.take_apart();
    let shared = Shared { ports: Arc::new(ports), mmio: Arc::new(mmio), end, gate };
    status.milestone(Step::FirstRun);
    Ok(Machine {
        vcpus: threads.start(vcpus, &shared)?,
        handles,
        generation,
        memory_mib: config.machine_config.mem_size_mib,
        power_button,
        transports,
        plugs,
        id,
        _vm: vm,
    })
}

/// Starts all threads, puts each under its filter and the caller under its own; comes back when all filters are on.
fn confine(config: &VmConfig, end: &EndSignal) -> Result<(Loader, Threads, IoThreads), BuildError> {
    let profile = config.vial.profile;
    let uses = Uses {
        pci: config.vial.transport == config::Transport::Pci,
        vhost: config.network_interfaces.iter().any(|net| net.vhost_net.is_some()),
    };
    let loader_filter = Filter::new(Thread::Loader, profile, uses)?;
    let vcpu_filter = Filter::new(Thread::Vcpu, profile, uses)?;
    let vmm_filter = Filter::new(Thread::Vmm, profile, uses)?;
    let (report, reports) = channel();
    let confined = |filter: Filter| {
        let report = report.clone();
        move || {
            let result = filter.apply();
            let confined = result.is_ok();
            // Nobody listens any more only if another thread has failed.
            let _ = report.send(result);
            confined
        }
    };
    let loader = Loader::spawn(confined(loader_filter)).map_err(resource("the loader thread"))?;
    let threads = Threads::spawn(config.machine_config.vcpu_count, confined(vcpu_filter))?;
    let io_threads = match IoThreads::count(config) {
        // A filter that is not compiled costs no start-up.
        0 => IoThreads::default(),
        _ => IoThreads::spawn(config, end, confined(Filter::new(Thread::Io, profile, uses)?))
            .map_err(resource("a thread for a drive"))?,
    };
    vmm_filter.apply()?;
    // A thread that is still free to do anything could be made to do it for one that is not.
    let others = usize::from(config.machine_config.vcpu_count) + IoThreads::count(config);
    for _ in 0..=others {
        reports.recv().expect("this function holds a sender, so the channel is open")?;
    }
    Ok((loader, threads, io_threads))
}

fn make_vm(config: &VmConfig, kvm: &Kvm, memory: &GuestMemory) -> Result<VmFd, BuildError> {
    arch::check_kvm(kvm, config.cpu_config.as_ref())?;
    let flags = dirty_log(config);
    let vm = kvm.create_vm().map_err(kvm_step("create a VM"))?;
    arch::set_up_vm(&vm)?;
    for (slot, region) in (0..).zip(memory.iter()) {
        let host = memory.get_host_address(region.start_addr());
        let slot = kvm_userspace_memory_region {
            slot,
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: host.expect("a region's own start lies in it") as u64,
            flags,
        };
        set_memory(&vm, slot).map_err(kvm_step("give the VM its memory"))?;
    }
    Ok(vm)
}

#[allow(unsafe_code)]
fn set_memory(vm: &VmFd, slot: kvm_userspace_memory_region) -> Result<(), kvm_ioctls::Error> {
    // SAFETY: the region is guest memory, which is mapped for the rest of the process's life, and slots don't overlap.
    unsafe { vm.set_user_memory_region(slot) }
}

/// The first slot behind those of RAM.
fn first_slot(memory: &GuestMemory) -> u32 {
    u32::try_from(memory.iter().count()).expect("RAM has one or two regions")
}

/// Puts files into the guest's address space, behind its RAM.
fn map_pmem(
    config: &VmConfig,
    vm: &VmFd,
    memory: &GuestMemory,
    files: impl Iterator<Item = File>,
) -> Result<Vec<PmemMapping>, BuildError> {
    // Linux adds memory in pieces of 128 MiB.
    const ALIGNMENT: u64 = 128 << 20;
    let mut start = memory::behind(memory, ALIGNMENT);
    let mut mappings = Vec::new();
    for ((slot, settings), file) in (first_slot(memory)..).zip(&config.pmem).zip(files) {
        let mapping = PmemMapping::new(start, file, settings.read_only)
            .map_err(|source| BuildError::Pmem { id: settings.id.clone(), source })?;
        let region = kvm_userspace_memory_region {
            slot,
            guest_phys_addr: start,
            memory_size: mapping.len,
            userspace_addr: mapping.host(),
            flags: if mapping.read_only { KVM_MEM_READONLY } else { 0 },
        };
        set_memory(vm, region).map_err(kvm_step("give the VM its persistent memory"))?;
        start = (start + mapping.len).next_multiple_of(ALIGNMENT);
        mappings.push(mapping);
    }
    Ok(mappings)
}

/// Where hot-pluggable memory begins, and its slots.
type Pluggable = (u64, Box<dyn Slots>);

/// `memory` with what may be plugged in later, of which no slot is in the machine yet.
fn hotplug(
    config: &VmConfig,
    vm: &Arc<VmFd>,
    memory: GuestMemory,
    recipe: Option<&Recipe>,
    pmem: &[PmemMapping],
) -> Result<(GuestMemory, Option<Pluggable>), BuildError> {
    // The largest piece in which Linux adds memory.
    const ALIGNMENT: u64 = 2 << 30;
    let (Some(settings), Some(recipe)) = (config.memory_hotplug, recipe) else { return Ok((memory, None)) };
    let behind = pmem.iter().map(|mapping| mapping.start + mapping.len).max().unwrap_or(0);
    let start = memory::behind(&memory, ALIGNMENT).max(behind.next_multiple_of(ALIGNMENT));
    let slots = (first_slot(&memory) + config.pmem.len() as u32, dirty_log(config));
    let memory = memory::extend(&memory, recipe, start, settings.total_size_mib << 20)?;
    let slots = KvmSlots::new(Arc::clone(vm), &memory, start, settings.slot_size_mib << 20, slots);
    let slots = slots.expect("the region was just added at this address");
    Ok((memory, Some((start, Box::new(slots)))))
}

fn dirty_log(config: &VmConfig) -> u32 {
    if config.machine_config.track_dirty_pages { KVM_MEM_LOG_DIRTY_PAGES } else { 0 }
}

fn make_vcpus(config: &VmConfig, kvm: &Kvm, vm: &VmFd) -> Result<Vec<VcpuFd>, BuildError> {
    let template = config.cpu_config.as_ref();
    let supported = arch::supported_cpuid(kvm, template)?;
    let topology = arch::Topology::new(config.machine_config.vcpu_count, config.machine_config.smt);
    (0..topology.vcpus)
        .map(|index| {
            let vcpu = vm.create_vcpu(index.into()).map_err(kvm_step("create a vCPU"))?;
            arch::set_up_vcpu(&vcpu, index, topology, &supported, template)?;
            Ok(vcpu)
        })
        .collect()
}

/// What every transport is made of.
fn surroundings(memory: &GuestMemory, workers: WorkerLoop, end: &EndSignal) -> Surroundings {
    let end = end.clone();
    let faults =
        FaultSink::new(move |device, what| end.end(ExitReason::GuestFault, format!("{device}: {what}")));
    Surroundings { memory: memory.clone(), workers, faults }
}
