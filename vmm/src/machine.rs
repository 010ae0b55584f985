//! Builds the machine: one story from files to running vCPUs.

use crate::address_space;
use crate::api::config::{self, KernelLoad, MemoryBacking, VmConfig};
use crate::api::control::{Device, Plugged};
use crate::api::status::{Event, ExitReason, Step};
use crate::arch::{self, acpi, boot, layout};
use crate::backplane::{Attached, Backplane};
use crate::boot_timer::BootTimer;
pub use crate::build_error::BuildError;
use crate::build_error::{kvm_step, resource};
use crate::cards::Card;
use crate::control::ReplyTo;
use crate::devices::{self, Made, Prepared};
use crate::door::Ceiling;
use crate::end::EndSignal;
use crate::files::Files;
use crate::generation::Generation;
use crate::handles::{HandleError, Handles};
use crate::io_threads::{IoThreads, Rings};
use crate::kernel::{Loader, Source};
use crate::line_writer::complain;
use crate::lock::lock;
use crate::log;
use crate::memory::{self, Space};
use crate::platform;
use crate::plugs::{Name, PlugError, Plugs};
use crate::seccomp::{Filter, Thread, Uses};
use crate::serial::SerialControl;
use crate::status::Status;
use crate::validate;
use crate::vcpu::{Gate, Shared, Threads, Vcpus};
use crate::virtio::vhost_user::LossSink;
use crate::virtio::{DeviceError, FaultSink, GuestMemory, Surroundings, WorkerLoop};
use kvm_bindings::CpuId;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// A running machine.
pub struct Machine {
    /// Its vCPUs.
    pub vcpus: Vcpus,
    /// What of its devices may be changed.
    pub handles: Handles,
    /// How the guest hears that it is a copy.
    pub generation: Generation,
    // As it was started, with what came and without what went since.
    config: VmConfig,
    status: Status,
    power_button: EventFd,
    /// In the order in which the guest finds them.
    transports: Vec<Attached>,
    // Of those that were there at the start.
    cards: Vec<Card>,
    // A PCI bus, if that is where they are.
    plugs: Option<Box<Plugs>>,
    // Where files in its address space may come.
    space: Space,
    // What a vCPU makes of memory that KVM can't reach.
    pages_may_go: Arc<AtomicBool>,
    id: String,
    // Interrupts and kicks are registered with it; it closes last.
    _vm: Arc<VmFd>,
}

impl Machine {
    /// Takes every device out of the event loop, in the guest's order. The vCPUs stand still by then: none of them starts a
    /// device behind the caller's back. The names of those that can't be yet, because the host has something under way for them, which they
    /// finish in the loop: the caller asks again.
    pub fn pause_devices(&self) -> Vec<String> {
        let mut busy = Vec::new();
        for transport in &self.transports {
            let mut transport = lock(transport);
            if !transport.core_mut().pause() {
                busy.push(transport.core().device().name().to_owned());
            }
        }
        if busy.is_empty() {
            self.handles.serial().into_iter().for_each(SerialControl::pause);
        }
        busy
    }

    /// Lets paused devices go on, the last one first: what one was built on is there before it.
    ///
    /// # Errors
    /// The event loop is gone.
    pub fn resume_devices(&self) -> Result<(), DeviceError> {
        self.handles.serial().into_iter().for_each(SerialControl::resume);
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
        Ok(balloon.resize(amount_mib, self.config.machine_config.mem_size_mib, signals)?)
    }

    /// The devices, and what their drivers have made of them, in the guest's order. It waits for none that its driver is busy with.
    pub fn seen_devices(&self) -> Vec<Device> {
        let look = |transport| {
            let leaving = self.plugs.as_ref().is_some_and(|plugs| plugs.is_leaving(transport));
            Card::look(&self.cards, transport, leaving)
        };
        self.transports.iter().map(look).collect()
    }

    /// What it was started as, with the devices that came and without those that went since.
    pub fn config(&self) -> &VmConfig {
        &self.config
    }

    /// The same, for what changes while it runs.
    pub fn config_mut(&mut self) -> &mut VmConfig {
        &mut self.config
    }

    /// Whether devices can be plugged in.
    pub fn has_pci(&self) -> bool {
        self.plugs.is_some()
    }

    /// Where it is told what happens to it.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Whether there is a slot and a name for a device, before anything is opened for it.
    ///
    /// # Errors
    /// There is not.
    pub fn can_plug(&mut self, device: &Plugged) -> Result<(), PlugError> {
        self.plugs.as_mut().ok_or(PlugError::NoBus)?.check_free(&Name::from(device))
    }

    /// Whether a drive may be changed just now, if there is one of that name.
    ///
    /// # Errors
    /// The guest lets go of it.
    pub fn check_drive(&self, id: &str) -> Result<(), HandleError> {
        let Some(plugs) = &self.plugs else { return Ok(()) };
        Ok(plugs.check_staying(&Name::Drive(id.to_owned()))?)
    }

    /// Plugs in a drive of these files, an interface of this TAP or this file as persistent memory, checked before: what `document` says
    /// of threads and rings it can't have any more.
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
            Plugged::Pmem(settings) => {
                let name = Name::Pmem(settings.id.clone());
                // Before its file takes a place in the address space.
                plugs.check_free(&name)?;
                let [file] =
                    <[File; 1]>::try_from(files).expect("the document was checked: it names one file");
                self.pages_may_go.store(true, Ordering::Relaxed);
                (devices::make_pmem(settings, self.space.put(file, settings.read_only)?)?, name)
            }
        };
        let card = plugs.plug(made, name.clone(), &mut self.transports, &mut self.handles)?;
        self.cards.push(card);
        match document.clone() {
            Plugged::Drive(drive) => self.config.drives.push(*drive),
            Plugged::Interface(interface) => self.config.network_interfaces.push(*interface),
            Plugged::Pmem(pmem) => self.config.pmem.push(*pmem),
        }
        self.status.tell(|at_us| Event::Plugged { device: name.to_string(), at_us });
        Ok(())
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

    /// Forgets the devices that the guest has let go of: which, and who waits to hear of it.
    pub fn clear_unplugged(&mut self) -> (Vec<Name>, Vec<ReplyTo>) {
        let Self { plugs, transports, handles, config, status, cards, .. } = self;
        let Some(plugs) = plugs else { return (Vec::new(), Vec::new()) };
        let (gone, waiting) = plugs.clear(transports, handles);
        if !gone.is_empty() {
            cards.retain(|card| !card.is_gone());
        }
        for name in &gone {
            match name {
                Name::Drive(id) => config.drives.retain(|drive| drive.drive_id != *id),
                Name::Interface(id) => config.network_interfaces.retain(|net| net.iface_id != *id),
                Name::Pmem(id) => config.pmem.retain(|pmem| pmem.id != *id),
            }
            status.tell(|at_us| Event::Unplugged { device: name.to_string(), at_us });
        }
        (gone, waiting)
    }

    /// Those who wait for the guest to let go of something, when it never will again.
    pub fn give_up_waiting(&mut self) {
        self.plugs.iter_mut().for_each(|plugs| plugs.give_up());
    }

    /// Raises the interrupt of the generic event device.
    pub fn press_power_button(&self) -> io::Result<()> {
        self.power_button.write(1)
    }
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
    let (rings, ceiling) = (Rings::make(config, &files), Ceiling::of_process());
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

    let vm = Arc::new(address_space::make_vm(config, &kvm, &memory)?);
    let cpuid = arch::supported_cpuid(&kvm, config.cpu_config.as_ref())?;
    let space = Space::new(Arc::clone(&vm), &memory, arch::physical_bits(&cpuid));
    let pmem = address_space::map_pmem(config, &space, files.pmem.drain(..))?;
    let (memory, hotplug) = address_space::hotplug(config, &vm, memory, files.hotplug.as_ref(), &space)?;
    let mut prepared = Prepared { rings, threads: io_threads, ceiling, pmem, hotplug };
    let mut handles = Handles::default();
    let surroundings = surroundings(&memory, workers, &end, &handles);
    let mut backplane = Backplane::new(Arc::clone(&vm), surroundings, config.vial.transport)?;
    platform::insert(&mut backplane.ports, &end, &handles.i8042)?;
    if let Some(timer) = timer {
        backplane.mmio.insert(layout::BOOT_TIMER, layout::BOOT_TIMER_SIZE, Box::new(timer))?;
    }
    let power_button = EventFd::new(EFD_NONBLOCK).map_err(resource("an event"))?;
    vm.register_irqfd(&power_button, layout::GED_GSI).map_err(kvm_step("wire the power button"))?;
    let copied = EventFd::new(EFD_NONBLOCK).map_err(resource("an event"))?;
    vm.register_irqfd(&copied, layout::GENERATION_GSI).map_err(kvm_step("wire the generation ID"))?;
    let generation = Generation::new(memory.clone(), copied)?;
    if let (Some(_), Some(store)) = (&config.mmds_config, &files.metadata) {
        handles.add_metadata(Arc::clone(lock(store).metrics()));
    }
    for Made { device, handle } in devices::make(config, &id, &mut files, &mut prepared, &losses(&status))? {
        let name = handle.name();
        handles.add(handle, backplane.attach(device, name)?);
    }
    if let Some(files) = files.serial.take() {
        let limit = config.serial.as_ref().and_then(|serial| serial.rate_limiter);
        handles.add_serial(backplane.attach_serial(files, limit)?);
    }
    let vcpus = make_vcpus(config, &cpuid, &vm)?;
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
    let pages_may_go = Arc::new(AtomicBool::new(maps_files(config)));
    let shared = Shared {
        ports: Arc::new(ports),
        mmio: Arc::new(mmio),
        end,
        gate,
        pages_may_go: Arc::clone(&pages_may_go),
    };
    status.milestone(Step::FirstRun);
    let cards = transports.iter().map(Card::of).collect();
    Ok(Machine {
        vcpus: threads.start(vcpus, &shared)?,
        handles,
        generation,
        config: config.clone(),
        status,
        power_button,
        transports,
        cards,
        plugs,
        space,
        pages_may_go,
        id,
        _vm: vm,
    })
}

/// Whether files of others are behind memory that the guest has from the start. Memory files are the VMM's own, and sealed.
fn maps_files(config: &VmConfig) -> bool {
    matches!(config.machine_config.memory_backing, MemoryBacking::PrivateFile(_))
        || config.boot_source.load == Some(KernelLoad::Map)
        || !config.pmem.is_empty()
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

fn make_vcpus(config: &VmConfig, supported: &CpuId, vm: &VmFd) -> Result<Vec<VcpuFd>, BuildError> {
    let template = config.cpu_config.as_ref();
    let topology = arch::Topology::new(config.machine_config.vcpu_count, config.machine_config.smt);
    (0..topology.vcpus)
        .map(|index| {
            let vcpu = vm.create_vcpu(index.into()).map_err(kvm_step("create a vCPU"))?;
            arch::set_up_vcpu(&vcpu, index, topology, supported, template)?;
            Ok(vcpu)
        })
        .collect()
}

/// Where it is told that a device has lost its back end; the VM goes on.
fn losses(status: &Status) -> LossSink {
    let status = status.clone();
    LossSink::new(move |device, why| {
        log!(Error, "The device {device} is lost: {why}");
        complain(&format!("{device} is lost: {why}; the VM goes on without it"));
        status.device_lost(device, why);
    })
}

/// What every transport is made of.
fn surroundings(
    memory: &GuestMemory,
    workers: WorkerLoop,
    end: &EndSignal,
    handles: &Handles,
) -> Surroundings {
    let end = end.clone();
    let faults =
        FaultSink::new(move |device, what| end.end(ExitReason::GuestFault, format!("{device}: {what}")));
    Surroundings { memory: memory.clone(), workers, faults, interrupts: Arc::clone(&handles.interrupts) }
}
