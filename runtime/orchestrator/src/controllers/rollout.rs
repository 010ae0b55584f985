//! How far a rollout may go in one step: numbers only.

/// What a Deployment's pods are at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Numbers {
    /// How many there should be.
    pub(super) replicas: i64,
    /// How many more there may be.
    pub(super) max_surge: i64,
    /// How many fewer may be available.
    pub(super) max_unavailable: i64,
    /// The new set.
    pub(super) new: Set,
    /// The old sets, the oldest first.
    pub(super) old: Vec<Set>,
}

/// A ReplicaSet's numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Set {
    /// Pods that it should have.
    pub(super) wanted: i64,
    /// Pods that are available.
    pub(super) available: i64,
}

/// How many pods each set should have next: the new one, and the old ones in their order.
pub(super) fn step(numbers: &Numbers) -> (i64, Vec<i64>) {
    let Numbers { replicas, max_surge, max_unavailable, new, old } = numbers;
    // Both zero would never move.
    let max_unavailable = if *max_surge == 0 && *max_unavailable == 0 { 1 } else { *max_unavailable };
    let total: i64 = new.wanted + old.iter().map(|set| set.wanted).sum::<i64>();
    let next_new = if new.wanted >= *replicas {
        *replicas
    } else {
        let room = (replicas + max_surge - total).max(0);
        new.wanted + room.min(replicas - new.wanted)
    };
    let mut next_old: Vec<i64> = old.iter().map(|set| set.wanted).collect();
    let least = (replicas - max_unavailable).max(0);
    // Pods of the new set that are not available yet must not be counted on.
    let pending = (new.wanted - new.available).max(0);
    let mut may_go = total - least - pending;
    // First those that are of no use.
    for (set, next) in old.iter().zip(&mut next_old) {
        let gone = (set.wanted - set.available).clamp(0, may_go.max(0));
        *next -= gone;
        may_go -= gone;
    }
    let available: i64 = new.available + old.iter().map(|set| set.available.min(set.wanted)).sum::<i64>();
    let mut may_go = available - least;
    for next in &mut next_old {
        let gone = (*next).clamp(0, may_go.max(0));
        *next -= gone;
        may_go -= gone;
    }
    (next_new, next_old)
}

/// Sizes of sets while nothing rolls: one that is alone has all; several keep what they have, unless all together are too many or too few.
pub(super) fn hold(replicas: i64, max_surge: i64, sizes: &[i64]) -> Vec<i64> {
    let total: i64 = sizes.iter().sum();
    let most = if replicas == 0 { 0 } else { replicas + max_surge };
    let aim = match sizes.iter().filter(|size| **size > 0).count() {
        0 | 1 => replicas,
        _ if total > most => most,
        _ if total < replicas => replicas,
        _ => return sizes.to_vec(),
    };
    // In proportion, and what that leaves over is the largest one's.
    let mut shared: Vec<i64> =
        sizes.iter().map(|size| if total == 0 { 0 } else { size * aim / total }).collect();
    let left = aim - shared.iter().sum::<i64>();
    let largest = (0..sizes.len()).max_by_key(|at| sizes[*at]);
    if let Some(size) = largest.and_then(|at| shared.get_mut(at)) {
        *size += left;
    }
    shared
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbers() -> impl Strategy<Value = Numbers> {
        let set = || {
            (0..12i64, 0..12i64)
                .prop_map(|(wanted, available)| Set { wanted, available: available.min(wanted) })
        };
        (0..12i64, 0..5i64, 0..5i64, set(), proptest::collection::vec(set(), 0..3)).prop_map(
            |(replicas, max_surge, max_unavailable, new, old)| Numbers {
                replicas,
                max_surge,
                max_unavailable,
                new,
                old,
            },
        )
    }

    #[test]
    fn a_pause_keeps_what_there_is() {
        assert_eq!(hold(8, 2, &[4, 6]), [4, 6]);
        assert_eq!(hold(8, 2, &[8, 6]), [6, 4], "too many");
        assert_eq!(hold(16, 2, &[4, 6]), [6, 10], "grown");
        assert_eq!(hold(3, 1, &[5]), [3]);
        assert_eq!(hold(3, 1, &[0, 5]), [0, 3]);
        assert_eq!(hold(0, 0, &[1, 2]), [0, 0]);
        assert_eq!(hold(3, 1, &[]), [0; 0]);
    }

    proptest! {
        #[test]
        fn a_pause_never_has_too_many_or_too_few(replicas in 0..50i64, surge in 0..10i64, sizes in proptest::collection::vec(0..40i64, 1..5)) {
            let held = hold(replicas, surge, &sizes);
            let total: i64 = held.iter().sum();
            let most = if replicas == 0 { 0 } else { replicas + surge };
            prop_assert!((replicas..=most).contains(&total) && held.iter().all(|size| *size >= 0), "{held:?}");
            let next = hold(replicas, surge, &held);
            prop_assert_eq!(&hold(replicas, surge, &next), &next, "it comes to rest");
        }

        #[test]
        fn a_step_never_takes_more_available_pods_than_it_may(numbers in numbers()) {
            let (new, old) = step(&numbers);
            let least = (numbers.replicas - numbers.max_unavailable.max(i64::from(numbers.max_surge == 0 && numbers.max_unavailable == 0))).max(0);
            let available = |set: &Set, next: i64| set.available.min(next);
            let before: i64 = numbers.new.available + numbers.old.iter().map(|set| set.available).sum::<i64>();
            let after: i64 = available(&numbers.new, new) + numbers.old.iter().zip(&old).map(|(set, next)| available(set, *next)).sum::<i64>();
            // A new set that is too big is cut at once; else what is available stays enough, or was not enough before and is not made less.
            if numbers.new.wanted <= numbers.replicas {
                prop_assert!(after >= least.min(before), "{after} of {before}, at least {least}");
            }
            prop_assert!(new <= numbers.replicas && old.iter().all(|next| *next >= 0));
        }

        #[test]
        fn a_step_never_makes_more_pods_than_it_may(numbers in numbers()) {
            let (new, _) = step(&numbers);
            let old: i64 = numbers.old.iter().map(|set| set.wanted).sum();
            let most = (numbers.replicas + numbers.max_surge).max(numbers.new.wanted + old);
            prop_assert!(new + old <= most);
        }

        #[test]
        fn when_all_pods_become_available_it_ends_in_the_new_set_alone(mut numbers in numbers()) {
            for _ in 0..100 {
                let (new, old) = step(&numbers);
                numbers.new = Set { wanted: new, available: new };
                numbers.old = old.iter().map(|wanted| Set { wanted: *wanted, available: *wanted }).collect();
            }
            prop_assert_eq!(numbers.new.wanted, numbers.replicas);
            prop_assert!(numbers.old.iter().all(|set| set.wanted == 0));
        }
    }
}
