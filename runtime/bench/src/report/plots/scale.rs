//! Axes of times: logarithmic when the slowest takes more than four times as long as the fastest, so that neither is a dot at the rim.

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use std::ops::Range;

/// From how far apart on an axis is logarithmic.
const APART: f64 = 4.0;

/// An axis of positive figures, with its ticks.
#[derive(Debug, Clone, PartialEq)]
pub struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
    /// Where labels and lines of the grid are.
    pub ticks: Vec<f64>,
}

impl Scale {
    /// For figures from `low` to `high` with a little room around them, with about `wanted` ticks; not logarithmic if told so.
    pub fn new(low: f64, high: f64, wanted: usize, may_be_logarithmic: bool) -> Self {
        let (low, high) = (low.max(0.0), high.max(low).max(1e-3));
        if may_be_logarithmic && low > 0.0 && high / low > APART {
            let margin = (high / low).powf(0.03);
            let (low, high) = (low / margin, high * margin);
            return Self { low, high, logarithmic: true, ticks: logarithmic_ticks(low, high, wanted) };
        }
        // Differences matter, so the axis begins near the smallest; unless 0 is near anyway.
        let margin = ((high - low) * 0.05).max(high * 0.02);
        let from = if !may_be_logarithmic || low < (high - low) { 0.0 } else { low - margin };
        let high = high + margin;
        Self { low: from, high, logarithmic: false, ticks: linear_ticks(from, high, wanted) }
    }

    /// From `low` to `high` exactly; the caller vouches that the second is larger.
    pub fn exact(low: f64, high: f64, wanted: usize) -> Self {
        Self { low, high, logarithmic: false, ticks: linear_ticks(low, high, wanted) }
    }

    /// The smallest figure on it.
    pub fn low(&self) -> f64 {
        self.low
    }

    /// Whether it is logarithmic.
    pub fn is_logarithmic(&self) -> bool {
        self.logarithmic
    }

    fn share(&self, value: f64) -> f64 {
        let share = if self.logarithmic {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        share.clamp(0.0, 1.0)
    }
}

impl Ranged for Scale {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        limit.0 + (f64::from(limit.1 - limit.0) * self.share(*value)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // Lines between the labelled ones say nothing more.
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Scale {
    fn format(value: &f64) -> String {
        label(*value)
    }
}

/// A tick's label, without digits that say nothing.
pub fn label(value: f64) -> String {
    if value >= 10_000.0 {
        format!("{}k", label(value / 1000.0))
    } else {
        format!("{}", (value * 1000.0).round() / 1000.0)
    }
}

/// 1, 2 and 5 times powers of ten, or fewer where that gives too many.
fn logarithmic_ticks(low: f64, high: f64, wanted: usize) -> Vec<f64> {
    let decades = (low.log10().floor() as i32)..=(high.log10().ceil() as i32);
    for factors in [&[1.0, 2.0, 3.0, 5.0, 7.0][..], &[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]] {
        let ticks: Vec<f64> = decades
            .clone()
            .flat_map(|decade| factors.iter().map(move |factor| factor * 10f64.powi(decade)))
            .filter(|tick| (low..=high).contains(tick))
            .collect();
        if ticks.len() <= wanted {
            return ticks;
        }
    }
    // So many decades: every second, third, …
    let step = decades.clone().count().div_ceil(wanted.max(1)).max(1);
    decades
        .step_by(step)
        .map(|decade| 10f64.powi(decade))
        .filter(|tick| (low..=high).contains(tick))
        .collect()
}

/// Multiples of 1, 2 or 5 times a power of ten.
fn linear_ticks(low: f64, high: f64, wanted: usize) -> Vec<f64> {
    let rough = (high - low) / wanted.max(1) as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= rough)
        .unwrap_or(rough);
    let first = (low / step).ceil() as i64;
    let last = (high / step).floor() as i64;
    (first..=last).take(2 * wanted + 2).map(|count| count as f64 * step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn far_apart_is_logarithmic_and_near_is_not() {
        assert!(Scale::new(10.0, 300.0, 6, true).is_logarithmic());
        assert!(!Scale::new(10.0, 30.0, 6, true).is_logarithmic());
        assert!(!Scale::new(0.0, 300.0, 6, true).is_logarithmic());
        assert!(!Scale::new(10.0, 300.0, 6, false).is_logarithmic());
        assert_eq!(Scale::new(41.0, 700.0, 6, true).ticks, [50.0, 100.0, 200.0, 500.0]);
        assert_eq!(Scale::new(0.0, 40.0, 5, false).ticks, [0.0, 10.0, 20.0, 30.0, 40.0]);
        assert_eq!([0.25, 5.0, 20_000.0].map(label), ["0.25", "5", "20k"]);
    }

    proptest! {
        #[test]
        fn ticks_are_few_and_on_the_axis(low in 0.0f64..1e15, more in 0.0f64..1e15, wanted in 1usize..12, log: bool) {
            let scale = Scale::new(low, low + more, wanted, log);
            prop_assert!(scale.ticks.len() <= 2 * wanted + 2);
            prop_assert!(scale.ticks.iter().all(|t| (scale.low..=scale.high).contains(t)));
            prop_assert!(scale.low < scale.high);
            for value in [low, low + more] {
                prop_assert!((0..=1000).contains(&scale.map(&value, (0, 1000))));
            }
        }
    }
}
