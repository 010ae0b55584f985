//! x86-64: hardware-reduced ACPI, in-kernel APICs, no PIT, no PIC, no legacy devices.

pub mod acpi;
pub mod boot;
pub mod cpuid;
mod dsdt;
mod dsdt_pci;
mod interrupts;
pub mod layout;
mod linux64;
mod msrs;
pub mod places;
mod pvh;
mod registers;
mod template;

pub use cpuid::{Topology, physical_bits};
pub use interrupts::{message_route, pin_routes};

use crate::api::config::CpuConfig;
use crate::memory::GuestMemory;
use kvm_bindings::{
    CpuId, KVM_CAP_PMU_CAPABILITY, KVM_MAX_CPUID_ENTRIES, KVM_PMU_CAP_DISABLE, kvm_enable_cap,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};

/// A step of the machine's set-up that KVM or the memory map refused.
#[derive(Debug, thiserror::Error)]
pub enum ArchError {
    /// KVM lacks something that the machine is built on.
    #[error("this KVM lacks {0}; Vial needs Linux 5.10 or later with hardware virtualisation")]
    MissingCapability(&'static str),
    /// A KVM call failed.
    #[error("KVM could not {step}")]
    Kvm {
        /// What was being done.
        step: &'static str,
        /// KVM's errno.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// KVM lacks what a CPU template needs.
    #[error("this KVM lacks capability {0}, which cpu-config.kvm_capabilities asks for")]
    MissingByTemplate(u32),
    /// A CPU template changes a leaf that is not there.
    #[error(
        "cpu-config changes CPUID leaf {function:#x}, subleaf {index:#x}, flags {flags:#x}, which this KVM does not have"
    )]
    NoLeaf {
        /// EAX.
        function: u32,
        /// ECX.
        index: u32,
        /// KVM_CPUID_FLAG_*.
        flags: u32,
    },
    /// KVM took fewer MSRs than it was given.
    #[error("KVM refused MSR {0:#x}")]
    Msr(u32),
    /// A boot structure did not fit into guest memory.
    #[error("could not write {what} into guest memory")]
    Write {
        /// Which structure.
        what: &'static str,
        /// Where it went wrong.
        #[source]
        source: vm_memory::GuestMemoryError,
    },
    /// The command line is longer than the kernel reads.
    #[error("the kernel command line is {0} bytes long; the kernel reads at most {max}; shorten boot_args", max = layout::CMDLINE_MAX - 1)]
    CommandLineTooLong(usize),
    /// The command line has a byte that the kernel can't read.
    #[error("the kernel command line has characters other than printable ASCII; fix boot_args")]
    CommandLineNotAscii,
    /// The ACPI tables outgrew their place.
    #[error("the ACPI tables need {0} bytes, there is room for {room}; use fewer devices", room = layout::ACPI_END - layout::ACPI_START)]
    TablesTooBig(usize),
    /// More devices than places.
    #[error("too many devices: this machine has room for {0}; remove some")]
    TooManyDevices(u32),
}

/// Names the step that a KVM call belonged to.
fn kvm_step(step: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> ArchError {
    move |source| ArchError::Kvm { step, source }
}

/// Checks what the machine is built on, so that a lack has a name and not just an errno later.
pub fn check_kvm(kvm: &Kvm, template: Option<&CpuConfig>) -> Result<(), ArchError> {
    const NEEDED: [(Cap, &str); 8] = [
        (Cap::Irqchip, "in-kernel interrupt controllers (KVM_CAP_IRQCHIP)"),
        (Cap::UserMemory, "user memory slots (KVM_CAP_USER_MEMORY)"),
        (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
        (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
        (Cap::TscDeadlineTimer, "the TSC deadline timer (KVM_CAP_TSC_DEADLINE_TIMER)"),
        (Cap::Ioeventfd, "ioeventfd (KVM_CAP_IOEVENTFD)"),
        (Cap::Irqfd, "irqfd (KVM_CAP_IRQFD)"),
        (Cap::ImmediateExit, "immediate exit (KVM_CAP_IMMEDIATE_EXIT)"),
    ];
    let waived = |cap: Cap| template.is_some_and(|template| template::is_waived(template, cap as u32));
    let missing = NEEDED.iter().find(|(cap, _)| !kvm.check_extension(*cap) && !waived(*cap));
    if let Some((_, name)) = missing {
        return Err(ArchError::MissingCapability(name));
    }
    let has = |number: u32| kvm.check_extension_raw(number.into()) > 0;
    match template.and_then(|template| template::missing_capability(template, has)) {
        Some(number) => Err(ArchError::MissingByTemplate(number)),
        None => Ok(()),
    }
}

/// Gives a fresh VM its interrupt controllers; must precede the first vCPU.
pub fn set_up_vm(vm: &VmFd) -> Result<(), ArchError> {
    vm.set_identity_map_address(layout::KVM_IDENTITY_MAP).map_err(kvm_step("place the identity map page"))?;
    vm.set_tss_address(layout::KVM_TSS as usize).map_err(kvm_step("place the task state segment"))?;
    vm.create_irq_chip().map_err(kvm_step("create the interrupt controllers"))?;
    // Pods have no use for performance counters, and counters shared with the host are a side channel.
    // KVM before 5.18 has no such switch: there the counters stay.
    if vm.check_extension_raw(KVM_CAP_PMU_CAPABILITY.into()) != 0 {
        let mut cap = kvm_enable_cap { cap: KVM_CAP_PMU_CAPABILITY, ..Default::default() };
        cap.args[0] = KVM_PMU_CAP_DISABLE.into();
        vm.enable_cap(&cap).map_err(kvm_step("switch performance counters off"))?;
    }
    Ok(())
}

/// The host's features as KVM can give them to a guest, changed by `template`.
pub fn supported_cpuid(kvm: &Kvm, template: Option<&CpuConfig>) -> Result<CpuId, ArchError> {
    let supported =
        kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(kvm_step("list supported CPU features"))?;
    template.map_or(Ok(supported.clone()), |template| template::apply_cpuid(&supported, template))
}

/// Whether this KVM makes a processor as `template` describes it: with a machine that is thrown away, since KVM tells of a register
/// that it does not know only when a vCPU is given one.
///
/// # Errors
/// It does not.
pub fn try_template(kvm: &Kvm, template: &CpuConfig) -> Result<(), ArchError> {
    check_kvm(kvm, Some(template))?;
    let supported = supported_cpuid(kvm, Some(template))?;
    let vm = kvm.create_vm().map_err(kvm_step("create a VM"))?;
    set_up_vm(&vm)?;
    let vcpu = vm.create_vcpu(0).map_err(kvm_step("create a vCPU"))?;
    set_up_vcpu(&vcpu, 0, Topology::new(1, false), &supported, Some(template))
}

/// Makes vCPU `index` ready for its INIT/SIPI (or, for index 0, for [`set_entry`]).
pub fn set_up_vcpu(
    vcpu: &VcpuFd,
    index: u8,
    topology: Topology,
    supported: &CpuId,
    template: Option<&CpuConfig>,
) -> Result<(), ArchError> {
    // CPUID first: KVM derives from it which MSRs and control bits exist.
    let cpuid = cpuid::for_vcpu(supported, index, topology, cpuid::under_emulation());
    vcpu.set_cpuid2(&cpuid).map_err(kvm_step("set the CPU features of a vCPU"))?;
    msrs::set(vcpu, template.map_or(&[], |template| &template.msr_modifiers))?;
    registers::set_local_interrupts(vcpu)
}

/// Points the boot vCPU at the kernel.
pub fn set_entry(vcpu: &VcpuFd, entry: boot::Entry, memory: &GuestMemory) -> Result<(), ArchError> {
    registers::set_entry(vcpu, entry, memory)
}
