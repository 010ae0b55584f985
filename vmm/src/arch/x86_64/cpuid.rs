//! CPU features and topology as the guest sees them: KVM's supported set, filtered.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use std::arch::x86_64::__cpuid;

/// Bits of leaf 1 ECX.
const L1C_MONITOR: u32 = 1 << 3;
const L1C_VMX: u32 = 1 << 5;
const L1C_FMA: u32 = 1 << 12;
const L1C_PDCM: u32 = 1 << 15;
const L1C_TSC_DEADLINE: u32 = 1 << 24;
const L1C_XSAVE_OSXSAVE_AVX: u32 = 0b111 << 26;
const L1C_F16C: u32 = 1 << 29;
const L1C_HYPERVISOR: u32 = 1 << 31;
/// Bit of leaf 1 EDX: more than one logical processor.
const L1D_HTT: u32 = 1 << 28;
/// Bits of leaf 0x8000_0001 ECX: CmpLegacy, SVM, performance counter extensions.
const X1C_CMP_LEGACY: u32 = 1 << 1;
const X1C_SVM: u32 = 1 << 2;
const X1C_PERF: u32 = 0b11 << 23;

/// Whether this processor is QEMU's TCG. Its XSAVE areas contradict each other once nested, so that Linux warns and
/// switches XSAVE off; a guest that never sees it boots clean.
pub fn under_emulation() -> bool {
    let leaf = __cpuid(0x4000_0000);
    [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes).concat() == b"TCGTCGTCGTCG"
}

/// How many vCPUs there are, and how the guest sees them: always in one package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    /// All of them.
    pub vcpus: u8,
    /// Of each core: 1, or 2 with simultaneous multithreading. Divides `vcpus`.
    pub threads: u8,
}

impl Topology {
    /// Two threads to a core with `smt`; a single vCPU has nobody to share its core with.
    pub fn new(vcpus: u8, smt: bool) -> Self {
        Self { vcpus, threads: if smt && vcpus > 1 { 2 } else { 1 } }
    }

    fn cores(self) -> u32 {
        u32::from(self.vcpus / self.threads)
    }
}

/// Bits of a guest-physical address that the guest's processors have.
pub fn physical_bits(supported: &CpuId) -> u8 {
    // Processors without this leaf have 36 (Intel SDM vol. 3, 4.1.4).
    let leaf = supported.as_slice().iter().find(|entry| entry.function == 0x8000_0008);
    leaf.map_or(36, |entry| (entry.eax & 0xff) as u8)
}

/// The feature list of vCPU `index`; `no_xsave` hides XSAVE and all that needs it.
pub fn for_vcpu(supported: &CpuId, index: u8, topology: Topology, no_xsave: bool) -> CpuId {
    let mut entries: Vec<_> =
        supported.as_slice().iter().copied().filter(|entry| !dropped(entry, no_xsave)).collect();
    let amd = is_amd(&entries);
    let max_leaf = entries.iter().find(|entry| entry.function == 0).map_or(0, |entry| entry.eax);
    for entry in &mut entries {
        filter(entry, no_xsave);
        place(entry, index, topology, amd);
    }
    // Always by our own hand: the host's answer would describe the host.
    for leaf in [0xb, 0x1f] {
        if max_leaf >= leaf {
            entries.extend(levels(leaf, index, topology));
        }
    }
    CpuId::from_entries(&entries)
        .expect("not longer than KVM's own list plus six, below KVM_MAX_CPUID_ENTRIES")
}

/// Leaves that describe the host's topology or counters, and those written anew.
fn dropped(entry: &kvm_cpuid_entry2, no_xsave: bool) -> bool {
    match entry.function {
        // Topology and V2 topology, which are rebuilt; AMD's extended topology, of which nobody needs more than they say.
        0xb | 0x1f | 0x8000_0026 => true,
        // Performance monitoring: Intel, AMD v2.
        0xa | 0x8000_0022 => true,
        // Nested virtualisation on AMD.
        0x8000_000a => true,
        0xd => no_xsave,
        _ => false,
    }
}

fn is_amd(entries: &[kvm_cpuid_entry2]) -> bool {
    entries.iter().any(|entry| {
        let vendor = [entry.ebx, entry.edx, entry.ecx].map(u32::to_le_bytes).concat();
        entry.function == 0 && (vendor == b"AuthenticAMD" || vendor == b"HygonGenuine")
    })
}

fn filter(entry: &mut kvm_cpuid_entry2, no_xsave: bool) {
    match entry.function {
        1 => {
            entry.ecx &= !(L1C_MONITOR | L1C_VMX | L1C_PDCM);
            // KVM emulates the deadline timer with its in-kernel APIC, and before 6.x left it out of its list; it is the
            // only timer tick that this machine has.
            entry.ecx |= L1C_HYPERVISOR | L1C_TSC_DEADLINE;
            if no_xsave {
                entry.ecx &= !(L1C_XSAVE_OSXSAVE_AVX | L1C_FMA | L1C_F16C);
            }
        }
        7 if no_xsave => {
            // AVX2, AVX-512 (F, DQ, IFMA, PF, ER, CD, BW, VL); PKU, OSPKE, VBMI, VBMI2, VAES, VPCLMULQDQ, VNNI, BITALG,
            // VPOPCNTDQ; the rest of AVX and AMX.
            if entry.index == 0 {
                entry.ebx &= !(1 << 5 | 1 << 16 | 1 << 17 | 1 << 21 | 0b111 << 26 | 0b11 << 30);
                entry.ecx &= !(0b11 << 3 | 1 << 1 | 1 << 6 | 0b1_1111 << 9 | 1 << 14);
                entry.edx &= !(0b11 << 2 | 1 << 8 | 0b1111 << 22);
            } else {
                (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
            }
        }
        0x8000_0001 => {
            entry.ecx &= !(X1C_SVM | X1C_PERF);
            if no_xsave {
                // XOP and FMA4.
                entry.ecx &= !(1 << 11 | 1 << 16);
            }
        }
        _ => {}
    }
}

/// Bits that an APIC id needs for `count` vCPUs.
fn id_bits(count: u8) -> u32 {
    u32::from(count).next_power_of_two().trailing_zeros()
}

/// One package, its cores, their threads; the APIC ids of a core's threads follow each other.
fn place(entry: &mut kvm_cpuid_entry2, index: u8, topology: Topology, amd: bool) {
    let (id, count, threads) = (u32::from(index), topology.vcpus, u32::from(topology.threads));
    let vcpus = u32::from(count);
    match entry.function {
        1 => {
            entry.ebx = entry.ebx & 0xffff | vcpus << 16 | id << 24;
            entry.edx = if count > 1 { entry.edx | L1D_HTT } else { entry.edx & !L1D_HTT };
        }
        // Deterministic cache parameters: 25:14 logical processors sharing it − 1, 31:26 cores − 1.
        4 | 0x8000_001d if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 7;
            let sharing = if level >= 3 { vcpus - 1 } else { threads - 1 };
            entry.eax = entry.eax & 0x3fff | sharing << 14;
            if entry.function == 4 {
                entry.eax |= (topology.cores() - 1) << 26;
            }
        }
        0x8000_0001 if amd => {
            entry.ecx = if count > 1 { entry.ecx | X1C_CMP_LEGACY } else { entry.ecx & !X1C_CMP_LEGACY };
        }
        // ECX: 7:0 threads of the package − 1, 15:12 bits of an APIC id.
        0x8000_0008 if amd => entry.ecx = entry.ecx & !0xf0ff | (vcpus - 1) | id_bits(count) << 12,
        // EAX APIC id; EBX core id (7:0) and threads per core − 1 (15:8); ECX node id and nodes − 1.
        0x8000_001e if amd => {
            (entry.eax, entry.ebx, entry.ecx) = (id, (id / threads) | ((threads - 1) << 8), 0);
        }
        _ => {}
    }
}

/// Leaf 0xb or 0x1f, (V2) extended topology enumeration (Intel SDM vol. 2, CPUID).
fn levels(function: u32, index: u8, topology: Topology) -> [kvm_cpuid_entry2; 3] {
    const SMT: u32 = 1 << 8;
    const CORE: u32 = 2 << 8;
    let level = |sub: u32, eax, ebx, kind| kvm_cpuid_entry2 {
        function,
        index: sub,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax,
        ebx,
        ecx: sub | kind,
        edx: index.into(),
        ..Default::default()
    };
    let Topology { vcpus, threads } = topology;
    [
        level(0, id_bits(threads), threads.into(), SMT),
        level(1, id_bits(vcpus), vcpus.into(), CORE),
        level(2, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, regs: [u32; 4]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx, edx] = regs;
        kvm_cpuid_entry2 { function, eax, ebx, ecx, edx, ..Default::default() }
    }

    fn cache(function: u32, index: u32, level: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { index, ..leaf(function, [level << 5 | 1, 0, 0, 0]) }
    }

    fn amd_list() -> CpuId {
        let vendor = leaf(0, [0x1f, 0x6874_7541, 0x444d_4163, 0x6974_6e65]);
        let all = u32::MAX;
        CpuId::from_entries(&[
            vendor,
            leaf(1, [0, all, all, all]),
            cache(4, 0, 1),
            cache(4, 3, 3),
            leaf(0xb, [7, 7, 7, 7]),
            leaf(0xd, [7, 7, 7, 7]),
            leaf(0x8000_0001, [0, 0, all, 0]),
            leaf(0x8000_0008, [0, 0, all, 0]),
            leaf(0x8000_000a, [1, 1, 1, 1]),
            cache(0x8000_001d, 0, 1),
            cache(0x8000_001d, 3, 3),
            leaf(0x8000_001e, [7, 7, 7, 7]),
        ])
        .unwrap()
    }

    fn find(list: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *list.as_slice().iter().find(|e| e.function == function && e.index == index).unwrap()
    }

    #[test]
    fn every_vcpu_has_its_own_apic_id_in_one_package() {
        let list = for_vcpu(&amd_list(), 3, Topology::new(6, false), false);
        assert_eq!(find(&list, 1, 0).ebx >> 16, 3 << 8 | 6);
        let core = find(&list, 0xb, 1);
        assert_eq!((core.eax, core.ebx, core.edx), (3, 6, 3));
        assert_eq!(find(&list, 0x8000_0008, 0).ecx & 0xf0ff, 3 << 12 | 5);
    }

    #[test]
    fn nested_virtualisation_is_hidden_and_the_deadline_timer_shown() {
        let list = for_vcpu(&amd_list(), 0, Topology::new(1, false), false);
        let ecx = find(&list, 1, 0).ecx;
        assert_eq!(ecx & (L1C_VMX | L1C_MONITOR | L1C_TSC_DEADLINE | L1C_HYPERVISOR), 1 << 24 | 1 << 31);
        assert_eq!(find(&list, 0x8000_0001, 0).ecx & X1C_SVM, 0);
        assert!(!list.as_slice().iter().any(|entry| entry.function == 0x8000_000a));
    }

    #[test]
    fn without_xsave_nothing_that_needs_it_is_left() {
        let list = for_vcpu(&amd_list(), 0, Topology::new(1, false), true);
        assert_eq!(find(&list, 1, 0).ecx & (L1C_XSAVE_OSXSAVE_AVX | L1C_FMA), 0);
        assert!(!list.as_slice().iter().any(|entry| entry.function == 0xd));
    }

    #[test]
    fn one_vcpu_is_not_called_multithreaded() {
        for smt in [false, true] {
            let list = for_vcpu(&amd_list(), 0, Topology::new(1, smt), false);
            assert_eq!(find(&list, 1, 0).edx & L1D_HTT, 0);
        }
    }

    #[test]
    fn threads_of_a_core_share_its_number_and_its_caches() {
        let list = for_vcpu(&amd_list(), 5, Topology::new(8, true), false);
        for leaf in [0xb, 0x1f] {
            let (thread, core) = (find(&list, leaf, 0), find(&list, leaf, 1));
            assert_eq!((thread.eax, thread.ebx, thread.edx), (1, 2, 5));
            assert_eq!((core.eax, core.ebx), (3, 8));
        }
        assert_eq!(find(&list, 0x8000_001e, 0).ebx, 2 | (1 << 8));
        // The first-level cache by threads of a core, the third-level one by all.
        for leaf in [4, 0x8000_001d] {
            assert_eq!(find(&list, leaf, 0).eax >> 14 & 0xfff, 1, "{leaf:#x}");
            assert_eq!(find(&list, leaf, 3).eax >> 14 & 0xfff, 7, "{leaf:#x}");
        }
        assert_eq!(find(&list, 4, 0).eax >> 26, 3);
        let without = for_vcpu(&amd_list(), 5, Topology::new(8, false), false);
        assert_eq!(find(&without, 0x8000_001e, 0).ebx, 5);
        assert_eq!((find(&without, 4, 0).eax >> 26, find(&without, 4, 0).eax >> 14 & 0xfff), (7, 0));
    }
}
