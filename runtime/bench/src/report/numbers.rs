//! Figures as people read them: three digits that count, and the same unit down a column.

use crate::stats::{Estimate, FEWEST};

/// What stands where there is no figure.
pub const NONE: &str = "–";

/// A time in ms.
pub fn ms(value: f64) -> String {
    three(value)
}

/// A time with its interval, when there are samples enough for one: of a few, the bootstrap's is far too narrow.
pub fn ms_interval(of: Estimate, samples: usize) -> String {
    if samples < FEWEST {
        return three(of.value);
    }
    format!("{} [{}–{}]", three(of.value), three(of.low), three(of.high))
}

/// A ratio.
pub fn times(value: f64) -> String {
    format!("{}×", ratio(value))
}

/// A ratio with its interval, when the smaller of both sides has samples enough for one.
pub fn times_interval(of: Estimate, samples: usize) -> String {
    if samples < FEWEST {
        return times(of.value);
    }
    format!("{}× [{}–{}]", ratio(of.value), ratio(of.low), ratio(of.high))
}

/// A probability; none is 0.
pub fn p(value: f64) -> String {
    match value {
        ..0.000_15 => "p ≤ 0.0001".to_owned(),
        ..0.01 => format!("p = {value:.4}"),
        _ => format!("p = {value:.2}"),
    }
}

/// A size in MiB, of KiB.
pub fn mib(kib: f64) -> String {
    let mib = kib / 1024.0;
    if mib.abs() < 9.995 { format!("{mib:.2}") } else { format!("{mib:.1}") }
}

/// A count, its thousands apart.
pub fn count(value: f64) -> String {
    let digits = format!("{:.0}", value.max(0.0));
    let mut spaced = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            spaced.push(' ');
        }
        spaced.push(digit);
    }
    spaced
}

/// A figure or [`NONE`].
pub fn or_none<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| NONE.to_owned(), show)
}

/// The part of a whole in percent.
pub fn percent(part: f64, whole: f64) -> String {
    if whole > 0.0 { format!("{:.0} %", 100.0 * part / whole) } else { NONE.to_owned() }
}

fn three(value: f64) -> String {
    match value.abs() {
        ..9.995 => format!("{value:.2}"),
        ..99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn ratio(value: f64) -> String {
    match value.abs() {
        ..0.0995 => format!("{value:.3}"),
        ..9.995 => format!("{value:.2}"),
        ..99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_samples_have_no_interval() {
        let of = Estimate { value: 2.0, low: 1.5, high: 2.5 };
        assert_eq!([4, 5].map(|samples| ms_interval(of, samples)), ["2.00", "2.00 [1.50–2.50]"]);
        assert_eq!([4, 5].map(|samples| times_interval(of, samples)), ["2.00×", "2.00× [1.50–2.50]"]);
    }

    #[test]
    fn three_digits_count() {
        let shown = [0.0, 1.234, 9.996, 12.34, 99.96, 123.4, 12_345.6].map(ms);
        assert_eq!(shown, ["0.00", "1.23", "10.0", "12.3", "100", "123", "12346"]);
        assert_eq!([0.0123, 0.5, 12.0, 250.0].map(times), ["0.012×", "0.50×", "12.0×", "250×"]);
        assert_eq!([0.0001, 0.0042, 0.5].map(p), ["p ≤ 0.0001", "p = 0.0042", "p = 0.50"]);
        assert_eq!([0.0, 999.0, 1000.0, 1_234_567.0].map(count), ["0", "999", "1 000", "1 234 567"]);
        assert_eq!(mib(20_480.0), "20.0");
    }
}
