//! `/cpu-config`: what is changed of the processor that KVM offers.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::HashSet;

/// A custom CPU template. Numbers and bit maps are strings, as in Firecracker's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuConfig {
    /// Capabilities that KVM must have besides those that this VMM needs (`"121"`), or that it need not have (`"!121"`).
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "consistent")]
    pub kvm_capabilities: Vec<KvmCapability>,
    /// Changes of CPUID leaves, which must be among those that KVM supports. Topology and what this VMM hides come after them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpuid_modifiers: Vec<CpuidLeafModifier>,
    /// Changes of model-specific registers, against KVM's reset values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub msr_modifiers: Vec<MsrModifier>,
}

/// No capability is both needed and not.
fn consistent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<KvmCapability>, D::Error> {
    let capabilities = Vec::<KvmCapability>::deserialize(deserializer)?;
    let (mut needed, mut waived) = (Vec::new(), HashSet::new());
    for capability in &capabilities {
        match capability {
            KvmCapability::Needed(number) => needed.push(number),
            KvmCapability::NotNeeded(number) => drop(waived.insert(number)),
        }
    }
    match needed.into_iter().find(|number| waived.contains(number)) {
        Some(number) => Err(D::Error::custom(format!(
            "kvm_capabilities has \"{number}\" and \"!{number}\": leave one of them out"
        ))),
        None => Ok(capabilities),
    }
}

/// A capability's number (linux/kvm.h, KVM_CAP_*).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvmCapability {
    /// Must be there.
    Needed(u32),
    /// Need not.
    NotNeeded(u32),
}

/// Changes of one leaf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuidLeafModifier {
    /// EAX of the instruction.
    pub leaf: Number,
    /// ECX of the instruction.
    pub subleaf: Number,
    /// KVM_CPUID_FLAG_* of the entry that is meant.
    pub flags: u32,
    /// Its registers.
    pub modifiers: Vec<CpuidRegisterModifier>,
}

/// Changes of one register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuidRegisterModifier {
    /// Which.
    pub register: CpuidRegister,
    /// What becomes of it.
    pub bitmap: Bitmap<32>,
}

/// A register of a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "they are named after themselves")]
pub enum CpuidRegister {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// Changes of one model-specific register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MsrModifier {
    /// Its number.
    pub addr: Number,
    /// What becomes of it.
    pub bitmap: Bitmap<64>,
}

/// A number of 32 bits, written as `"0x10"`, `"0b10000"` or `"16"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number(pub u32);

/// Bits that are set, cleared or left alone: `"0b"` and up to WIDTH characters of `1`, `0`, `x`, the lowest bit last, `_` between them for
/// people; bits that are not written are left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bitmap<const WIDTH: usize> {
    /// Bits that change.
    pub mask: u64,
    /// What they become.
    pub value: u64,
}

impl<const WIDTH: usize> Bitmap<WIDTH> {
    /// What becomes of `old`.
    pub fn apply(&self, old: u64) -> u64 {
        old & !self.mask | self.value
    }

    fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("0b")?;
        let (mut count, mut map) = (0, Self { mask: 0, value: 0 });
        for digit in digits.chars().filter(|digit| *digit != '_') {
            let (mask, value) = match digit {
                '0' => (1, 0),
                '1' => (1, 1),
                'x' => (0, 0),
                _ => return None,
            };
            map = Self { mask: map.mask << 1 | mask, value: map.value << 1 | value };
            count += 1;
        }
        (1..=WIDTH).contains(&count).then_some(map)
    }
}

fn number(text: &str) -> Option<u32> {
    let (digits, radix) = match (text.strip_prefix("0x"), text.strip_prefix("0b")) {
        (Some(digits), _) => (digits, 16),
        (_, Some(digits)) => (digits, 2),
        _ => (text, 10),
    };
    // `from_str_radix` takes a sign, and none is a digit.
    if digits.starts_with('+') { None } else { u32::from_str_radix(digits, radix).ok() }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bad = || {
            D::Error::custom(format!("{text:?} is no number of 32 bits like \"0x10\", \"0b10000\" or \"16\""))
        };
        number(&text).map(Self).ok_or_else(bad)
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:#x}", self.0))
    }
}

impl<'de, const WIDTH: usize> Deserialize<'de> for Bitmap<WIDTH> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bad = || {
            D::Error::custom(format!(
                "{text:?} is no bit map; write \"0b\" and up to {WIDTH} of the characters 0, 1 and x"
            ))
        };
        Self::parse(&text).ok_or_else(bad)
    }
}

impl<const WIDTH: usize> Serialize for Bitmap<WIDTH> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digit = |bit: usize| match (self.mask >> bit & 1, self.value >> bit & 1) {
            (0, _) => 'x',
            (_, 0) => '0',
            _ => '1',
        };
        let digits: String = (0..WIDTH).rev().map(digit).collect();
        serializer.collect_str(&format_args!("0b{digits}"))
    }
}

impl<'de> Deserialize<'de> for KvmCapability {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let capability = match text.strip_prefix('!') {
            Some(rest) => number(rest).map(Self::NotNeeded),
            None => number(&text).map(Self::Needed),
        };
        let bad = || D::Error::custom(format!("{text:?} is no KVM capability like \"121\" or \"!121\""));
        capability.ok_or_else(bad)
    }
}

impl Serialize for KvmCapability {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Needed(number) => serializer.collect_str(number),
            Self::NotNeeded(number) => serializer.collect_str(&format_args!("!{number}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_template_of_firecrackers_is_understood_and_written_back() {
        let template: CpuConfig = serde_json::from_value(json!({
            "kvm_capabilities": ["121", "!171"],
            "cpuid_modifiers": [{"leaf": "0x7", "subleaf": "0b0", "flags": 1, "modifiers": [
                {"register": "ebx", "bitmap": "0bx_1_0"},
            ]}],
            "msr_modifiers": [{"addr": "266", "bitmap": "0b1x"}],
        }))
        .unwrap();
        assert_eq!(template.kvm_capabilities, [KvmCapability::Needed(121), KvmCapability::NotNeeded(171)]);
        let bits = template.cpuid_modifiers[0].modifiers[0].bitmap;
        assert_eq!((bits.mask, bits.value, bits.apply(0b111)), (0b11, 0b10, 0b110));
        assert_eq!(template.msr_modifiers[0].addr, Number(0x10a));
        let again = serde_json::from_value(serde_json::to_value(&template).unwrap());
        assert_eq!(template, again.unwrap());
    }

    #[test]
    fn a_capability_is_needed_or_not() {
        let both = serde_json::from_value::<CpuConfig>(json!({"kvm_capabilities": ["3", "!4", "!3"]}));
        assert!(both.unwrap_err().to_string().contains("leave one of them out"));
    }

    #[test]
    fn what_is_no_number_or_bit_map_is_named() {
        let refused = |text: &str| {
            let value = json!({"msr_modifiers": [{"addr": text, "bitmap": text}]});
            serde_json::from_value::<CpuConfig>(value).unwrap_err().to_string()
        };
        for text in ["", "0x", "+1", "-1", "0x1_0000_0000", "0xfffffffff", "1g"] {
            assert!(refused(text).contains("is no number"), "{text}");
        }
        let long = format!("0b{}", "x".repeat(33));
        for text in ["0b", "0b12", "01", "0b ", &long] {
            assert!(serde_json::from_value::<Bitmap<32>>(json!(text)).is_err(), "{text}");
        }
    }
}
