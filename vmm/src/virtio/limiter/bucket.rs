//! Token buckets as pure state machines: time comes in as nanoseconds of any clock that does not go back.

use crate::api::config::{RateLimiter, TokenBucket};
use serde::{Deserialize, Serialize};

const NS_PER_MS: u64 = 1_000_000;
/// Tokens, which is bytes: virtio's bound for the length of a chain (virtio 1.2, 2.7.4), and so for what a full bucket can owe after one.
const LARGEST_REQUEST: i128 = 1 << 32;

/// A bucket that fills without steps.
///
/// What is in it is kept as tokens × refill time, so that a nanosecond adds exactly `size` and nothing is ever rounded. It may fall
/// below nothing: a request larger than the bucket, or a frame whose length was not known before, is paid off afterwards.
#[derive(Debug, Clone)]
struct Bucket {
    size: i128,
    refill: i128,
    level: i128,
    burst: u64,
    at: u64,
}

impl Bucket {
    /// A full one; none if it would limit nothing.
    fn new(bucket: &TokenBucket, now: u64) -> Option<Self> {
        if bucket.size == 0 || bucket.refill_time == 0 {
            return None;
        }
        // Longer times than the document may name can't come here; cut off they still overflow nothing.
        let refill = bucket.refill_time.min(crate::validate::MAX_REFILL_MS) * NS_PER_MS;
        let (size, refill) = (i128::from(bucket.size), i128::from(refill));
        let burst = bucket.one_time_burst.unwrap_or(0);
        Some(Self { size, refill, level: size * refill, burst, at: now })
    }

    fn advance(&mut self, now: u64) {
        let elapsed = i128::from(now.saturating_sub(self.at));
        self.at = self.at.max(now);
        let gained = elapsed.saturating_mul(self.size);
        self.level = self.level.saturating_add(gained).min(self.size * self.refill);
    }

    /// Nanoseconds until so many tokens are there, or the bucket is full if it never holds so many; 0 if they are.
    fn wait(&self, tokens: u64) -> u64 {
        let needed = i128::from(tokens).min(self.size) * self.refill;
        let there = self.level.saturating_add(i128::from(self.burst) * self.refill);
        let lacking = needed.saturating_sub(there);
        if lacking <= 0 {
            return 0;
        }
        let rounded_up = lacking.saturating_add(self.size - 1) / self.size;
        u64::try_from(rounded_up).unwrap_or(u64::MAX)
    }

    fn saved(&mut self, now: u64) -> SavedBucket {
        self.advance(now);
        let lacking = (self.size * self.refill).saturating_sub(self.level);
        let lacking = lacking.saturating_add(self.size - 1) / self.size;
        SavedBucket { lacking: u64::try_from(lacking).unwrap_or(u64::MAX), burst: self.burst }
    }

    /// As empty as another one was, which may have had other sizes; no fuller than it can be.
    fn restore(&mut self, saved: &SavedBucket) {
        let lacking = i128::from(saved.lacking).saturating_mul(self.size);
        // Somebody wrote that down; a device that he can stop for centuries would be one more way to break it.
        let deepest = -(LARGEST_REQUEST * self.refill);
        self.level = (self.size * self.refill).saturating_sub(lacking).max(deepest);
        self.burst = self.burst.min(saved.burst);
    }

    fn take(&mut self, tokens: u64) {
        let once = tokens.min(self.burst);
        self.burst -= once;
        self.level = self.level.saturating_sub(i128::from(tokens - once) * self.refill);
    }
}

/// What is left in a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedBucket {
    /// Nanoseconds until it is full again; 0 if it is.
    lacking: u64,
    /// Tokens that are there once.
    burst: u64,
}

/// What is left in a limiter's buckets, for another process, which has the same buckets from its own configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedLimiter {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bandwidth: Option<SavedBucket>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ops: Option<SavedBucket>,
}

/// A bucket of bytes and one of operations.
#[derive(Debug, Clone, Default)]
pub(super) struct Limiter {
    bandwidth: Option<Bucket>,
    ops: Option<Bucket>,
}

impl Limiter {
    /// Replaces the buckets that `config` has; those that it leaves out stay as they are.
    pub(super) fn update(&mut self, config: &RateLimiter, now: u64) {
        if let Some(bucket) = &config.bandwidth {
            self.bandwidth = Bucket::new(bucket, now);
        }
        if let Some(bucket) = &config.ops {
            self.ops = Bucket::new(bucket, now);
        }
    }

    pub(super) fn limits(&self) -> bool {
        self.bandwidth.is_some() || self.ops.is_some()
    }

    /// Nanoseconds until an operation of so many bytes may pass; 0 if it may now.
    pub(super) fn wait(&mut self, bytes: u64, now: u64) -> u64 {
        let wait = |bucket: &mut Option<Bucket>, tokens| {
            bucket.as_mut().map_or(0, |bucket| {
                bucket.advance(now);
                bucket.wait(tokens)
            })
        };
        wait(&mut self.bandwidth, bytes).max(wait(&mut self.ops, 1))
    }

    /// What is left at `now`; the time until it is restored counts for nothing.
    pub(super) fn save(&mut self, now: u64) -> SavedLimiter {
        SavedLimiter {
            bandwidth: self.bandwidth.as_mut().map(|bucket| bucket.saved(now)),
            ops: self.ops.as_mut().map(|bucket| bucket.saved(now)),
        }
    }

    /// Takes out of each bucket what was taken out of the saved one, where there are both.
    pub(super) fn restore(&mut self, saved: &SavedLimiter, now: u64) {
        for (bucket, saved) in [(&mut self.bandwidth, &saved.bandwidth), (&mut self.ops, &saved.ops)] {
            if let (Some(bucket), Some(saved)) = (bucket, saved) {
                bucket.advance(now);
                bucket.restore(saved);
            }
        }
    }

    /// Counts an operation of so many bytes, which passes or has passed.
    pub(super) fn take(&mut self, bytes: u64) {
        if let Some(bandwidth) = &mut self.bandwidth {
            bandwidth.take(bytes);
        }
        if let Some(ops) = &mut self.ops {
            ops.take(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bucket(size: u64, burst: u64, refill_time: u64) -> TokenBucket {
        TokenBucket { size, one_time_burst: Some(burst), refill_time }
    }

    impl Limiter {
        fn new(config: &RateLimiter, now: u64) -> Self {
            let mut limiter = Self::default();
            limiter.update(config, now);
            limiter
        }

        fn admit(&mut self, bytes: u64, now: u64) -> Result<(), u64> {
            let wait = self.wait(bytes, now);
            if wait > 0 {
                return Err(wait);
            }
            self.take(bytes);
            Ok(())
        }
    }

    fn bandwidth(size: u64, burst: u64, refill_time: u64) -> Limiter {
        Limiter::new(&RateLimiter { bandwidth: Some(bucket(size, burst, refill_time)), ops: None }, 0)
    }

    #[test]
    fn a_full_bucket_is_spent_at_once_and_fills_evenly() {
        let mut limiter = bandwidth(1000, 0, 1000);
        assert_eq!(limiter.admit(1000, 0), Ok(()));
        // A token a millisecond.
        assert_eq!(limiter.admit(1, 0), Err(NS_PER_MS));
        assert_eq!(limiter.admit(10, NS_PER_MS), Err(9 * NS_PER_MS));
        assert_eq!(limiter.admit(10, 10 * NS_PER_MS - 1), Err(1));
        assert_eq!(limiter.admit(10, 10 * NS_PER_MS), Ok(()));
    }

    #[test]
    fn a_state_that_nobody_saved_does_not_stop_a_device_for_ever() {
        let mut limiter = bandwidth(1 << 20, 0, 1000);
        let lacking = SavedBucket { lacking: u64::MAX, burst: 0 };
        limiter.restore(&SavedLimiter { bandwidth: Some(lacking), ops: None }, 0);
        let wait = limiter.wait(1, 0);
        assert!(wait > 1000 * NS_PER_MS && wait <= 4097 * 1000 * NS_PER_MS, "{wait}");
        // What a request can have left behind is kept.
        let mut before = bandwidth(1 << 20, 0, 1000);
        before.take(64 << 20);
        limiter.restore(&before.save(0), 0);
        assert_eq!(limiter.wait(1, 0), before.wait(1, 0));
        // Found by the property below: tokens and nanoseconds whose product is beyond 128 bits.
        let mut limiter = bandwidth(10_857_417_022_825_753_969, 0, 1);
        let saved = SavedBucket { lacking: 15_670_502_763_482_160_727, burst: 0 };
        limiter.restore(&SavedLimiter { bandwidth: Some(saved), ops: None }, 0);
        assert!(limiter.admit(1, 0).is_err());
    }

    #[test]
    fn the_burst_is_there_once() {
        let mut limiter = bandwidth(10, 5, 10);
        assert_eq!(limiter.admit(10, 0), Ok(()));
        assert_eq!(limiter.admit(5, 0), Ok(()));
        assert_eq!(limiter.admit(1, 0), Err(NS_PER_MS));
        let full = 1000 * NS_PER_MS;
        assert_eq!(limiter.admit(10, full), Ok(()));
        assert_eq!(limiter.admit(5, full), Err(5 * NS_PER_MS));
    }

    #[test]
    fn a_request_larger_than_the_bucket_passes_when_it_is_full_and_is_paid_off() {
        let mut limiter = bandwidth(10, 0, 10);
        assert_eq!(limiter.admit(35, 0), Ok(()));
        assert_eq!(limiter.admit(1, 0), Err(26 * NS_PER_MS));
    }

    #[test]
    fn the_slower_bucket_counts_and_one_that_limits_nothing_is_none() {
        let config = RateLimiter { bandwidth: Some(bucket(10, 0, 10)), ops: Some(bucket(1, 0, 100)) };
        let mut limiter = Limiter::new(&config, 0);
        assert_eq!(limiter.admit(1, 0), Ok(()));
        assert_eq!(limiter.admit(1, 0), Err(100 * NS_PER_MS));
        for nothing in [bucket(0, 7, 10), bucket(10, 7, 0)] {
            limiter.update(&RateLimiter { bandwidth: None, ops: Some(nothing) }, 0);
            assert!(limiter.limits());
            assert_eq!(limiter.admit(1, 0), Ok(()));
        }
        limiter.update(&RateLimiter { bandwidth: Some(bucket(0, 0, 0)), ops: None }, 0);
        assert!(!limiter.limits());
    }

    #[test]
    fn what_a_saved_limiter_does_not_fit_stays_as_it_is() {
        let mut spent = bandwidth(10, 5, 10);
        assert_eq!(spent.admit(10, 0), Ok(()));
        let saved = spent.save(0);
        // Only operations are limited here; there the bucket is smaller than what lacked; and that one promised a burst of two only.
        let mut other = Limiter::new(&RateLimiter { bandwidth: None, ops: Some(bucket(1, 0, 100)) }, 0);
        other.restore(&saved, 0);
        assert_eq!(other.admit(1, 0), Ok(()));
        let mut smaller = bandwidth(5, 2, 5);
        smaller.restore(
            &SavedLimiter { bandwidth: Some(SavedBucket { lacking: 7 * NS_PER_MS, burst: 9 }), ops: None },
            0,
        );
        assert_eq!(smaller.admit(2, 0), Err(2 * NS_PER_MS));
    }

    proptest! {
        #[test]
        fn no_more_passes_than_the_rate_allows_and_nobody_starves(
            size in 1..10_000u64, burst in 0..10_000u64, refill_time in 1..2_000u64,
            steps in proptest::collection::vec((0..50_000_000u64, 0..20_000u64), 1..200),
        ) {
            let mut limiter = bandwidth(size, burst, refill_time);
            let (mut now, mut passed, mut largest) = (0, 0u128, 0);
            for (pause, bytes) in steps {
                now += pause;
                largest = largest.max(bytes);
                if let Err(wait) = limiter.admit(bytes, now) {
                    // Not before, and surely then.
                    prop_assert!(limiter.admit(bytes, now + wait - 1).is_err());
                    now += wait;
                    prop_assert_eq!(limiter.admit(bytes, now), Ok(()));
                }
                passed += u128::from(bytes);
                let earned = u128::from(now) * u128::from(size) / (u128::from(refill_time) * 1_000_000);
                let most = u128::from(size + burst) + earned + u128::from(largest);
                prop_assert!(passed <= most, "{} > {}", passed, most);
            }
        }

        #[test]
        fn a_saved_limiter_goes_on_where_it_was(
            size in 1..10_000u64, burst in 0..10_000u64, refill_time in 1..2_000u64,
            taken in proptest::collection::vec((0..50_000_000u64, 0..20_000u64), 0..20), next: u64,
        ) {
            let mut limiter = bandwidth(size, burst, refill_time);
            let mut now = 0;
            for (pause, bytes) in taken {
                now += pause;
                let _ = limiter.admit(bytes, now);
            }
            let saved = serde_json::to_string(&limiter.save(now)).unwrap();
            // Another clock, and a while later.
            let (mut other, later) = (bandwidth(size, burst, refill_time), now / 2);
            other.restore(&serde_json::from_str(&saved).unwrap(), later);
            // Never sooner; later by no more than the nanosecond that a state is rounded to.
            let (here, there) = (limiter.wait(next, now), other.wait(next, later));
            prop_assert!(here <= there && there <= here + 1, "{} {}", here, there);
        }

        #[test]
        fn no_saved_numbers_overflow(size: u64, burst: u64, refill_time: u64, lacking: u64, left: u64, bytes: u64, now: u64) {
            let mut limiter = bandwidth(size, burst, refill_time);
            let saved = SavedBucket { lacking, burst: left };
            limiter.restore(&SavedLimiter { bandwidth: Some(saved.clone()), ops: Some(saved) }, now);
            let _ = limiter.admit(bytes, now);
            limiter.save(now);
        }

        #[test]
        fn no_numbers_overflow(
            size: u64, burst: u64, refill_time: u64,
            steps in proptest::collection::vec((any::<u64>(), any::<u64>()), 0..20),
        ) {
            let mut limiter = bandwidth(size, burst, refill_time);
            for (bytes, now) in steps {
                if limiter.admit(bytes, now).is_ok() {
                    limiter.take(bytes);
                }
            }
        }
    }
}
