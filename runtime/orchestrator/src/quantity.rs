//! Resource quantities: `500m`, `64Mi`, `1e3` (apimachinery's `resource.Quantity`).

use std::fmt;
use std::str::FromStr;

/// Longest text that is looked at.
const MAX_LEN: usize = 64;

/// A quantity as thousandths, which is the finest that Kubernetes keeps; finer ones are rounded up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity {
    milli: i128,
}

/// Text that is no quantity.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no quantity: give a number with a unit such as m, k, M, G, Ki, Mi, Gi, or an exponent")]
pub struct BadQuantity(String);

impl Quantity {
    /// From whole units.
    pub fn units(units: i64) -> Self {
        Self { milli: i128::from(units) * 1000 }
    }

    /// Whole units, rounded up and bounded to what fits.
    pub fn ceil(self) -> i64 {
        let units = self.milli.div_euclid(1000) + i128::from(self.milli.rem_euclid(1000) != 0);
        i64::try_from(units).unwrap_or(if units < 0 { i64::MIN } else { i64::MAX })
    }

    /// Thousandths, bounded to what fits.
    pub fn milli(self) -> i64 {
        i64::try_from(self.milli).unwrap_or(if self.milli < 0 { i64::MIN } else { i64::MAX })
    }

    /// Less than nothing.
    pub fn is_negative(self) -> bool {
        self.milli < 0
    }

    /// Of a JSON value: text or a number.
    pub fn of(value: &serde_json::Value) -> Option<Self> {
        match value {
            serde_json::Value::String(text) => text.parse().ok(),
            serde_json::Value::Number(number) => number.to_string().parse().ok(),
            _ => None,
        }
    }
}

impl FromStr for Quantity {
    type Err = BadQuantity;

    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        let bad = || BadQuantity(text.chars().take(MAX_LEN).collect());
        if text.len() > MAX_LEN {
            return Err(bad());
        }
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let digits = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(digits);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return Err(bad());
        }
        let scale = Scale::parse(suffix).ok_or_else(bad)?;
        let magnitude = scale.milli(whole, fraction);
        Ok(Self { milli: if text.starts_with('-') { -magnitude } else { magnitude } })
    }
}

/// What a suffix multiplies by.
enum Scale {
    Ten(i32),
    Two(u32),
}

impl Scale {
    fn parse(suffix: &str) -> Option<Self> {
        Some(match suffix {
            "n" => Self::Ten(-9),
            "u" => Self::Ten(-6),
            "m" => Self::Ten(-3),
            "" => Self::Ten(0),
            "k" => Self::Ten(3),
            "M" => Self::Ten(6),
            "G" => Self::Ten(9),
            "T" => Self::Ten(12),
            "P" => Self::Ten(15),
            "E" => Self::Ten(18),
            "Ki" => Self::Two(10),
            "Mi" => Self::Two(20),
            "Gi" => Self::Two(30),
            "Ti" => Self::Two(40),
            "Pi" => Self::Two(50),
            "Ei" => Self::Two(60),
            _ => {
                let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
                Self::Ten(exponent.clamp(-99, 99))
            }
        })
    }

    /// Thousandths of `whole.fraction` times this, rounded up, no more than 2⁶³ − 1 units.
    fn milli(&self, whole: &str, fraction: &str) -> i128 {
        const MOST: i128 = i64::MAX as i128 * 1000;
        let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|digit| digit - b'0').collect();
        // The value is `digits` × 10^point (× 2^power), in thousandths.
        let mut point = 3 - fraction.len() as i32;
        let mut factor: i128 = 1;
        match self {
            Self::Ten(power) => point += power,
            Self::Two(power) => factor = 1 << power,
        }
        while point > 0 && digits.len() < 2 * MAX_LEN + 100 {
            digits.push(0);
            point -= 1;
        }
        // What the point cuts off; with a binary factor it is still worth something.
        let keep = digits.len().saturating_sub(point.unsigned_abs() as usize);
        let (kept, cut) = if point < 0 { digits.split_at(keep) } else { (&digits[..], &[][..]) };
        let mut sum: i128 = 0;
        for digit in kept {
            sum = match sum.checked_mul(10).and_then(|sum| sum.checked_add((*digit).into())) {
                Some(sum) if sum <= MOST => sum,
                _ => return MOST,
            };
        }
        let Some(mut sum) = sum.checked_mul(factor) else { return MOST };
        // The cut digits as a fraction of one thousandth, exact for as many as matter.
        let (mut part, mut divisor) = (0i128, 1i128);
        let zeroes = (point.unsigned_abs() as usize).saturating_sub(digits.len());
        for digit in std::iter::repeat_n(0, if point < 0 { zeroes.min(18) } else { 0 })
            .chain(cut.iter().copied())
            .take(18)
        {
            part = part * 10 + i128::from(digit);
            divisor *= 10;
        }
        let more = cut.iter().any(|digit| *digit != 0);
        let scaled = part.saturating_mul(factor);
        sum += scaled / divisor + i128::from(scaled % divisor != 0 || (more && part == 0));
        sum.min(MOST)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.milli % 1000 != 0 {
            return write!(f, "{}m", self.milli);
        }
        let units = self.milli / 1000;
        for (suffix, power) in [("Ei", 60), ("Pi", 50), ("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)] {
            if units != 0 && units % (1 << power) == 0 {
                return write!(f, "{}{suffix}", units >> power);
            }
        }
        write!(f, "{units}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn milli(text: &str) -> Option<i64> {
        text.parse::<Quantity>().ok().map(Quantity::milli)
    }

    #[test]
    fn quantities_are_what_kubernetes_says() {
        for (text, expected) in [
            ("1", 1000),
            ("500m", 500),
            ("0.5", 500),
            (".5", 500),
            ("1.", 1000),
            ("-2", -2000),
            ("+2k", 2_000_000),
            ("64Mi", 64 * 1024 * 1024 * 1000),
            ("1.5Gi", 1536 * 1024 * 1024 * 1000),
            ("1e3", 1_000_000),
            ("1E3", 1_000_000),
            ("12e-1", 1200),
            ("1n", 1),
            ("1u", 1),
            ("0.0001", 1),
            ("1000000n", 1),
            ("0.1Ki", 102_400),
            ("0", 0),
            ("9999999999999999999", i64::MAX),
        ] {
            assert_eq!(milli(text), Some(expected), "{text}");
        }
        assert_eq!("9999999999999999999".parse::<Quantity>().unwrap().ceil(), i64::MAX);
        assert_eq!("1500m".parse::<Quantity>().unwrap().ceil(), 2);
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in
            ["", "m", ".", "1.2.3", "much", "1 Gi", "1KB", "--1", "1e", "0x10", "1mi", &"9".repeat(65)]
        {
            assert_eq!(milli(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_quantity_or_refused(text in "[-+0-9.eEmkMGTPKiun]{0,70}") {
            if let Ok(quantity) = text.parse::<Quantity>() {
                prop_assert_eq!(quantity.to_string().parse::<Quantity>(), Ok(quantity));
            }
        }

        #[test]
        fn whole_numbers_are_themselves(units in -1_000_000_000i64..1_000_000_000) {
            prop_assert_eq!(units.to_string().parse::<Quantity>(), Ok(Quantity::units(units)));
        }
    }
}
