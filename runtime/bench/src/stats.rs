//! Statistics without assumptions about the shape of a distribution: quantiles, bootstrap intervals, a permutation test.
//!
//! All are pure functions of samples and a seed: the same document gives the same figures on every machine.

use fastrand::Rng;

/// Resamples of a bootstrap: the 2.5 % and 97.5 % points of so many are steady to a percent of the interval's width.
const RESAMPLES: usize = 4000;
/// Shuffles of a permutation test: the smallest p that it can give is 1 / (this + 1).
pub const SHUFFLES: usize = 9999;

/// A figure with the bounds between which it lies with 95 % confidence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The figure of the samples themselves.
    pub value: f64,
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

/// The quantile `q` (0 to 1) of samples, between neighbours linearly (type 7 of Hyndman and Fan, as in R and NumPy). None without samples.
pub fn quantile(samples: &[f64], q: f64) -> Option<f64> {
    quantile_of_sorted(&sorted(samples), q)
}

/// The median.
pub fn median(samples: &[f64]) -> Option<f64> {
    quantile(samples, 0.5)
}

/// A quantile with its 95 % interval, by the percentile bootstrap. None without samples; with one, the interval is that sample.
pub fn quantile_interval(samples: &[f64], q: f64, seed: u64) -> Option<Estimate> {
    let value = quantile(samples, q)?;
    let mut rng = Rng::with_seed(seed);
    let mut figures: Vec<f64> =
        (0..RESAMPLES).filter_map(|_| quantile_of_sorted(&sorted(&resample(samples, &mut rng)), q)).collect();
    Some(between(value, &mut figures))
}

/// The ratio of the medians of `a` to `b`, with its 95 % interval. None when either has no samples or `b`'s median is not above 0.
pub fn ratio_interval(a: &[f64], b: &[f64], seed: u64) -> Option<Estimate> {
    let value = median(a)? / median(b).filter(|m| *m > 0.0)?;
    let mut rng = Rng::with_seed(seed);
    let mut median = |samples: &[f64]| median_in_place(&mut resample(samples, &mut rng));
    let mut figures: Vec<f64> =
        (0..RESAMPLES).filter_map(|_| Some(median(a)? / median(b).filter(|m| *m > 0.0)?)).collect();
    Some(between(value, &mut figures))
}

/// The probability (two-sided) that ranks are parted between `a` and `b` at least as unevenly as they are when both come from one
/// distribution, by random permutations. Ranks, as of Wilcoxon, Mann and Whitney: one stray sample weighs little, and what lies
/// apart altogether is found apart, which a permutation test on medians fails to do. None when either is empty.
pub fn permutation_test(a: &[f64], b: &[f64], seed: u64) -> Option<f64> {
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let mut ranks = ranks(a, b);
    let uneven = |ranks: &[f64]| lead(&ranks[..a.len()], ranks.len()).abs();
    let seen = uneven(&ranks);
    let mut rng = Rng::with_seed(seed);
    let mut extreme = 0;
    for _ in 0..SHUFFLES {
        rng.shuffle(&mut ranks);
        // Ranks are halves of whole numbers, so that sums are exact and ties are ties.
        extreme += usize::from(uneven(&ranks) >= seen);
    }
    // The samples as they are belong to the permutations: p is never 0.
    Some((extreme + 1) as f64 / (SHUFFLES + 1) as f64)
}

/// The ranks of `a`, then those of `b`, among all; equal samples share the middle of theirs.
fn ranks(a: &[f64], b: &[f64]) -> Vec<f64> {
    let pool: Vec<f64> = a.iter().chain(b).copied().collect();
    let mut order: Vec<usize> = (0..pool.len()).collect();
    order.sort_by(|one, other| pool[*one].total_cmp(&pool[*other]));
    let mut ranks = vec![0.0; pool.len()];
    let mut begin = 0;
    for group in order.chunk_by(|one, other| pool[*one].total_cmp(&pool[*other]).is_eq()) {
        let middle = begin as f64 + (group.len() + 1) as f64 / 2.0;
        for place in group {
            ranks[*place] = middle;
        }
        begin += group.len();
    }
    ranks
}

/// By how much the sum of a side's ranks is above what it is when both sides are alike.
fn lead(ranks: &[f64], of: usize) -> f64 {
    ranks.iter().sum::<f64>() - ranks.len() as f64 * (of + 1) as f64 / 2.0
}

/// What two sets of samples allow to be said of each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// The first is smaller, beyond chance.
    Less,
    /// The first is larger, beyond chance.
    More,
    /// They differ by no more than chance may make.
    Equal,
    /// Fewer than [`FEWEST`] samples on a side: nothing can be said.
    TooFew,
}

/// With fewer samples on each side no difference can be told from chance at the level used.
pub const FEWEST: usize = 5;
/// The level below which a difference is called one.
pub const LEVEL: f64 = 0.01;

/// Compares `a` with `b`; gives p too where it could be computed.
pub fn compare(a: &[f64], b: &[f64], seed: u64) -> (Verdict, Option<f64>) {
    if a.len() < FEWEST || b.len() < FEWEST {
        return (Verdict::TooFew, None);
    }
    let Some(p) = permutation_test(a, b, seed) else { return (Verdict::TooFew, None) };
    let lead = lead(&ranks(a, b)[..a.len()], a.len() + b.len());
    let verdict = match () {
        () if p >= LEVEL => Verdict::Equal,
        () if lead < 0.0 => Verdict::Less,
        () => Verdict::More,
    };
    (verdict, Some(p))
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn quantile_of_sorted(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = q.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (sorted.get(place.floor() as usize)?, sorted.get(place.ceil() as usize)?);
    Some(below + (above - below) * place.fract())
}

/// The median, without sorting more than it takes.
fn median_in_place(samples: &mut [f64]) -> Option<f64> {
    let last = samples.len().checked_sub(1)?;
    let (_, below, larger) = samples.select_nth_unstable_by(last / 2, f64::total_cmp);
    let above =
        if last.is_multiple_of(2) { *below } else { larger.iter().copied().fold(f64::INFINITY, f64::min) };
    Some(*below + (above - *below) * 0.5)
}

fn resample(samples: &[f64], rng: &mut Rng) -> Vec<f64> {
    (0..samples.len()).map(|_| samples[rng.usize(..samples.len())]).collect()
}

fn between(value: f64, figures: &mut [f64]) -> Estimate {
    figures.sort_by(f64::total_cmp);
    let at = |q| quantile_of_sorted(figures, q).unwrap_or(value);
    Estimate { value, low: at(0.025), high: at(0.975) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;
    use proptest::prelude::*;

    /// Samples of the exponential distribution with mean 1, whose median is ln 2.
    fn exponential(count: usize, seed: u64) -> Vec<f64> {
        let mut rng = Rng::with_seed(seed);
        (0..count).map(|_| -(1.0 - rng.f64()).ln()).collect()
    }

    #[test]
    fn quantiles_are_those_of_r() {
        // quantile(c(1, 2, 4, 8), c(0, .25, .5, .9, 1)) in R 4.2
        let samples = [8.0, 1.0, 4.0, 2.0];
        let expected = [(0.0, 1.0), (0.25, 1.75), (0.5, 3.0), (0.9, 6.8), (1.0, 8.0)];
        for (q, value) in expected {
            assert!((quantile(&samples, q).unwrap() - value).abs() < 1e-12, "{q}");
        }
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[7.0], 0.99), Some(7.0));
    }

    #[test]
    fn the_median_in_place_is_the_median() {
        for count in 0..40 {
            let samples = exponential(count, 3);
            assert_eq!(median_in_place(&mut samples.clone()), median(&samples), "{count}");
        }
    }

    #[test]
    fn the_interval_of_a_known_median_holds_it_about_as_often_as_it_says() {
        let truth = 2f64.ln();
        let held = (0..200)
            .filter(|&round| {
                let estimate = quantile_interval(&exponential(40, round), 0.5, round).unwrap();
                (estimate.low..=estimate.high).contains(&truth)
            })
            .count();
        // 95 % of 200 is 190; three standard deviations are 9, and the percentile bootstrap is a little narrow.
        assert!((176..=200).contains(&held), "{held}");
    }

    #[test]
    fn equal_distributions_are_rarely_told_apart_and_different_ones_nearly_always() {
        let rounds = 150;
        let told = |shift: f64| {
            (0..rounds)
                .filter(|&round| {
                    let a = exponential(20, round);
                    let b: Vec<f64> = exponential(20, 1000 + round).iter().map(|x| x + shift).collect();
                    permutation_test(&a, &b, round).unwrap() < 0.05
                })
                .count()
        };
        // By definition 5 % of 150 are 7.5; three standard deviations are 8.
        assert!(told(0.0) <= 16, "{}", told(0.0));
        assert!(told(2.0) >= 145, "{}", told(2.0));
    }

    #[test]
    fn p_of_a_small_case_is_that_of_all_permutations() {
        // Of the 20 ways to split six in halves, two part them altogether.
        let p = permutation_test(&[1.0, 2.0, 3.0], &[11.0, 12.0, 13.0], 7).unwrap();
        assert!((p - 0.1).abs() < 0.015, "{p}");
    }

    #[test]
    fn verdicts_need_samples_and_more_than_chance() {
        let ones = |value: f64| (0..10).map(|i| value + f64::from(i) / 100.0).collect::<Vec<_>>();
        assert_eq!(compare(&ones(1.0), &ones(2.0), 1).0, Verdict::Less);
        assert_eq!(compare(&ones(2.0), &ones(1.0), 1).0, Verdict::More);
        assert_eq!(compare(&ones(2.0), &ones(2.0), 1).0, Verdict::Equal);
        // Two heaps that do not touch, of few values each.
        let heap = |value: f64| (0..10).map(|i| value + f64::from(i % 3)).collect::<Vec<_>>();
        assert_eq!(compare(&heap(100.0), &heap(150.0), 1).0, Verdict::Less);
        assert_eq!(compare(&ones(1.0)[..4], &ones(2.0), 1), (Verdict::TooFew, None));
    }

    #[test]
    fn the_ratio_of_medians_lies_in_its_interval() {
        let ratio = ratio_interval(&[2.0, 2.1, 1.9, 2.0], &[1.0, 1.0, 1.1, 0.9], 3).unwrap();
        assert!((ratio.value - 2.0).abs() < 1e-9 && ratio.low <= 2.0 && ratio.high >= 2.0, "{ratio:?}");
        assert_eq!(ratio_interval(&[1.0], &[0.0], 3), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn an_interval_lies_within_the_samples_and_is_the_same_each_time(
            samples in proptest::collection::vec(0.0f64..1e6, 1..30), q in 0.0f64..=1.0, seed: u64,
        ) {
            let one = quantile_interval(&samples, q, seed).unwrap();
            prop_assert_eq!(quantile_interval(&samples, q, seed).unwrap(), one);
            let (low, high) = samples.iter().fold((f64::MAX, f64::MIN), |(l, h), x| (l.min(*x), h.max(*x)));
            prop_assert!(low <= one.low && one.low <= one.high && one.high <= high);
        }
    }
}
