//! Custom CPU templates: what a document changes of the processor that KVM offers. Pure functions.

use super::ArchError;
use crate::api::config::{CpuConfig, CpuidRegister, KvmCapability};
use kvm_bindings::{CpuId, kvm_cpuid_entry2};

/// KVM's supported leaves as the template changes them.
///
/// # Errors
/// It changes a leaf that is not there.
pub fn apply_cpuid(supported: &CpuId, template: &CpuConfig) -> Result<CpuId, ArchError> {
    let mut changed = supported.clone();
    for leaf in &template.cpuid_modifiers {
        let (function, index, flags) = (leaf.leaf.0, leaf.subleaf.0, leaf.flags);
        let meant = |entry: &&mut kvm_cpuid_entry2| {
            (entry.function, entry.index, entry.flags) == (function, index, flags)
        };
        let entry = changed.as_mut_slice().iter_mut().find(meant);
        let entry = entry.ok_or(ArchError::NoLeaf { function, index, flags })?;
        for change in &leaf.modifiers {
            let register = match change.register {
                CpuidRegister::Eax => &mut entry.eax,
                CpuidRegister::Ebx => &mut entry.ebx,
                CpuidRegister::Ecx => &mut entry.ecx,
                CpuidRegister::Edx => &mut entry.edx,
            };
            // A map of 32 bits changes no others.
            *register = change.bitmap.apply((*register).into()) as u32;
        }
    }
    Ok(changed)
}

/// The first capability that the template needs and KVM, asked by `has`, lacks.
pub fn missing_capability(template: &CpuConfig, has: impl Fn(u32) -> bool) -> Option<u32> {
    template.kvm_capabilities.iter().find_map(|capability| match capability {
        KvmCapability::Needed(number) if !has(*number) => Some(*number),
        _ => None,
    })
}

/// Whether the template says that KVM need not have `number`.
pub fn is_waived(template: &CpuConfig, number: u32) -> bool {
    template.kvm_capabilities.contains(&KvmCapability::NotNeeded(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template(leaf: &str) -> CpuConfig {
        serde_json::from_value(json!({
            "kvm_capabilities": ["5", "!7", "9"],
            "cpuid_modifiers": [{"leaf": leaf, "subleaf": "0", "flags": 0, "modifiers": [
                {"register": "ecx", "bitmap": "0b01x"},
                {"register": "edx", "bitmap": "0b1"},
            ]}],
        }))
        .unwrap()
    }

    #[test]
    fn registers_change_by_their_maps_and_nothing_else_does() {
        let leaves = |ecx, edx| {
            let entry = |function| kvm_cpuid_entry2 {
                function,
                eax: 4,
                ebx: 5,
                ecx: 6,
                edx: 8,
                ..Default::default()
            };
            let changed = kvm_cpuid_entry2 { ecx, edx, ..entry(1) };
            CpuId::from_entries(&[entry(0), changed]).unwrap()
        };
        assert_eq!(apply_cpuid(&leaves(0b101, 8), &template("1")).unwrap(), leaves(0b011, 9));
    }

    #[test]
    fn a_leaf_that_kvm_does_not_have_is_an_error() {
        let none = CpuId::from_entries(&[]).unwrap();
        assert!(matches!(apply_cpuid(&none, &template("0x7")), Err(ArchError::NoLeaf { function: 7, .. })));
    }

    #[test]
    fn capabilities_are_needed_or_waived() {
        assert_eq!(missing_capability(&template("1"), |_| true), None);
        assert_eq!(missing_capability(&template("1"), |number| number == 5), Some(9));
        assert!(is_waived(&template("1"), 7) && !is_waived(&template("1"), 5));
    }
}
